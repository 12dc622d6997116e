//! `hardtack fleet key add emergency` and `hardtack fleet key remove emergency`.
//!
//! Owns: the arguments; the order: the key's file, then the trust bundle that names it.
//! Never: prints a private key; deletes one.
//! Read next: `../../fleet/emergency.rs`; `../../shell/fleet_keys/emergency.rs`.

use clap::{Args, Subcommand};
use serde_json::{json, Value};

use super::super::output::show;
use super::super::{Exit, Failure};
use super::key::proposal::{put, Outcome, RootArgs};
use super::{now, Fleet, Session};
use crate::fleet::emergency::{check_name, draft_added, draft_removed};
use crate::fleet::rotate::Cause;
use crate::ids::{hex, KeyId};
use crate::shell::entropy;
use crate::shell::fleet_keys::Role;
use crate::shell::fleet_lock::Taken;
use crate::shell::serve::publisher_of;
use crate::wire::bundle::PublicKey;

/// `hardtack fleet key add …`.
#[derive(Subcommand, Debug)]
pub enum AddKey {
    /// A key with which one operator may revoke for 72 h at most, whatever becomes of the service and the feed key
    Emergency(Named),
}

/// `hardtack fleet key remove …`.
#[derive(Subcommand, Debug)]
pub enum RemoveKey {
    /// An operator's emergency key: nothing new of it is taken, and what it revoked holds until its end
    Emergency(Removed),
}

/// Whose key.
#[derive(Args, Debug)]
pub struct Named {
    /// Who has it: letters, digits and `. _ @ -`
    #[arg(long, value_name = "NAME")]
    name: String,
    #[command(flatten)]
    at_hand: RootArgs,
}

/// Whose key goes, and why.
#[derive(Args, Debug)]
pub struct Removed {
    /// Who has it
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Somebody else may have it
    #[arg(long)]
    compromised: bool,
    #[command(flatten)]
    at_hand: RootArgs,
}

/// Whatever an earlier call was interrupted by, the same command ends it.
pub(super) fn add(command: &AddKey, session: &Session) -> Result<Exit, Failure> {
    let AddKey::Emergency(Named { name, at_hand }) = command;
    let at = now()?;
    check_name(name)?;
    let mut fleet = session.open()?;
    fleet.operator_key()?;
    let named = fleet.ledger.book().trust().emergency.iter().find(|known| known.operator == *name).cloned();
    let key = match &named {
        // It is there from before, here or with him alone: no other is made.
        Some(_) => fleet.keys.emergency(name)?,
        None => fleet.keys.make_emergency(name, &mut entropy::rng())?,
    };
    let public = PublicKey::from(key.verifying_key());
    let id = KeyId::of(public.as_bytes());
    let began_before = named.is_some_and(|known| known.id() == id);
    if !began_before {
        let next = draft_added(fleet.ledger.book(), name, &public, at)?;
        if let Outcome::Asked(asked) = put(&mut fleet, &next, Cause::Planned, at_hand, at)? {
            return asked.tell(session);
        }
    }
    let value = json!({
        "role": Role::Emergency,
        "name": name,
        "key_id": id,
        "public": hex(public.as_bytes()),
        "bundle_version": fleet.ledger.book().trust().version,
        "file": fleet.keys.emergency_file(name).display().to_string(),
        // Whether the trust bundle was made by an earlier call.
        "began_before": began_before,
        "serving": serving(&fleet)?,
    });
    show(session.format, &value, |value| {
        format!(
            "emergency key {id} of {name} is named by trust bundle {}\nits file is {}\n{}",
            value["bundle_version"],
            value["file"].as_str().unwrap_or_default(),
            brought(value)
        )
    })?;
    Ok(Exit::Done)
}

pub(super) fn remove(command: &RemoveKey, session: &Session) -> Result<Exit, Failure> {
    let RemoveKey::Emergency(Removed { name, compromised, at_hand }) = command;
    let at = now()?;
    check_name(name)?;
    let mut fleet = session.open()?;
    let cause = if *compromised { Cause::Compromised } else { Cause::Planned };
    let (next, id) = draft_removed(fleet.ledger.book(), name, at)?;
    let kept = match put(&mut fleet, &next, cause, at_hand, at)? {
        Outcome::Asked(asked) => return asked.tell(session),
        Outcome::InForce(in_force) => in_force.kept,
    };
    let bundle = next.version;
    let value = json!({
        "role": Role::Emergency,
        "name": name,
        "key_id": id,
        "bundle_version": bundle,
        "compromised": compromised,
        "old_file": kept.first().map(|path| path.display().to_string()),
        "serving": serving(&fleet)?,
    });
    show(session.format, &value, |value| {
        format!(
            "emergency key {id} of {name} is named no more from trust bundle {bundle} on: devices that hear of it take \
             nothing new of it, and what it revoked holds until its end, 72 h at most\n{}",
            brought(value)
        )
    })?;
    Ok(Exit::Done)
}

fn serving(fleet: &Fleet) -> Result<Option<String>, Failure> {
    Ok(match publisher_of(&fleet.ledger).map_err(super::file_failure)? {
        Taken::Free => None,
        Taken::By(process) => Some(process),
    })
}

fn brought(value: &Value) -> String {
    let next = match value["serving"].as_str() {
        Some(process) => format!("process {process} publishes that bundle at once"),
        None => "no `fleet serve` runs: start one, or bring it out: hardtack fleet publish --broker URL".into(),
    };
    format!("{next}\nmake a copy of the ledger now: hardtack fleet backup")
}
