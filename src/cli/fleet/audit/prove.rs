//! `hardtack fleet audit prove`: one record, cut out with what proves it.
//!
//! Owns: finding the record and what its proof takes.
//! Never: hands out a proof that it has not checked.
//! Read next: `../../audit/file.rs`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{RecordName, Salt};
use crate::cli::audit::proof::{Parts, Proof};
use crate::cli::fleet::{file_failure, Fleet, Session};
use crate::cli::output::{print, show};
use crate::cli::{Exit, Failure};
use crate::fleet::book::Segment;
use crate::fleet::report::lineage::Lineage;
use crate::fleet::report::Signers;
use crate::fleet::FleetError;
use crate::ids::{EraId, KeyId};
use crate::shell::files;
use crate::wire::audit::proof::Inclusion;
use crate::wire::envelope::Signed;
use crate::wire::Refused;

/// Arguments of `hardtack fleet audit prove`.
#[derive(Args, Debug)]
pub struct ProveArgs {
    /// The record: device/era/index, as `decision_id` has it
    #[arg(value_name = "DECISION_ID")]
    id: RecordName,
    /// Where the proof goes [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The era's salt, where several have its number
    #[arg(long, value_name = "HEX")]
    salt: Option<Salt>,
}

pub(super) fn prove(args: &ProveArgs, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let signers = Signers::of(fleet.ledger.book());
    if !signers.keys.contains_key(&args.id.device) {
        return Err(FleetError::UnknownDevice(args.id.device.clone()).into());
    }
    let (era, inclusion) = find(&fleet, &args.id, args.salt)?;
    // It is opened when the proof is made, and again by whoever is handed it.
    let named_by = inclusion.record().map_err(unsound)?.named_by();
    let naming = named_by.map(|index| {
        let id = RecordName { index, ..args.id.clone() };
        find(&fleet, &id, Some(Salt(era.salt))).map(|(_, inclusion)| inclusion)
    });
    let naming = naming.transpose()?;
    let mut lineage = Lineage::default();
    fleet.ledger.segments(Some(&args.id.device), |segment: Segment| -> Result<(), Failure> {
        if segment.era != era {
            return Ok(());
        }
        lineage.note(&segment).map_err(unsound)
    })?;
    let vouching = lineage.of([Some(&inclusion), naming.as_ref()].into_iter().flatten().flat_map(signed_by));
    let parts = Parts { vouching, record: Some(inclusion), naming };
    let proof = Proof::of(&signers, &parts).map_err(unsound)?;
    let text = json(&proof)?;
    let Some(out) = &args.out else {
        print(&text)?;
        return Ok(Exit::Done);
    };
    files::replace(out, format!("{text}\n").as_bytes()).map_err(file_failure)?;
    let (file, bytes) = (out.display().to_string(), text.len() + 1);
    show(session.format, &json!({"id": args.id.to_string(), "file": file, "bytes": bytes}), |_| {
        format!("wrote {file}, {bytes} bytes\nwherever it is read: hardtack audit verify {file} --key HEX")
    })?;
    Ok(Exit::Done)
}

pub(super) fn json<T: serde::Serialize>(value: &T) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::new(Exit::Failure, format!("this is no JSON: {error}"), ""))
}

pub(super) fn unsound(refused: Refused) -> Failure {
    let what = format!("what is stored of this record does not check out: {refused}");
    Failure::new(Exit::Invalid, what, "`hardtack fleet audit verify` says what else is wrong")
}

fn signed_by(inclusion: &Inclusion) -> impl Iterator<Item = KeyId> + '_ {
    inclusion.header.signed_by()
}

/// The record of a name, as the ledger has it.
fn find(fleet: &Fleet, id: &RecordName, salt: Option<Salt>) -> Result<(EraId, Inclusion), Failure> {
    let mut found: Vec<(EraId, Inclusion)> = Vec::new();
    fleet.ledger.segments(Some(&id.device), |segment: Segment| -> Result<(), Failure> {
        if segment.era.number != id.era || salt.is_some_and(|salt| salt.0 != segment.era.salt) {
            return Ok(());
        }
        // Of what was given up there is no record.
        if segment.leaves.is_empty() {
            return Ok(());
        }
        let header = Signed::from_bytes(&segment.header).map_err(unsound)?;
        let inclusion = Inclusion::of(header, &segment.leaves, id.index).map_err(unsound)?;
        found.extend(inclusion.map(|inclusion| (segment.era, inclusion)));
        Ok(())
    })?;
    match &found[..] {
        [found] => Ok(found.clone()),
        [] => Err(Failure::new(
            Exit::Failure,
            format!("the collector has no record {id}"),
            "`hardtack fleet audit verify` says what was lost or is not delivered yet",
        )),
        several => {
            let salts: Vec<String> = several.iter().map(|(era, _)| format!("{:016x}", era.salt)).collect();
            let what = format!("{} eras have a record {id}: a clone, or a replaced device", several.len());
            Err(Failure::new(Exit::Failure, what, format!("name one with --salt: {}", salts.join(", "))))
        }
    }
}
