//! `hardtack audit salvage`: what can still be read of a device's audit store, however damaged.
//!
//! Owns: what is told of folders, eras and losses; the file with the rest.
//! Never: changes the store: a start of the agent quarantines what is damaged, saves what can be read, and counts the loss
//! in signed gap records, so there is nothing to repair by hand.
//! Read next: `device.rs`, `../../shell/store/survey.rs`.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{json, Value};

use super::super::output::show;
use super::super::{Exit, Failure, Globals};
use super::device::{fleet_of, refuse_running, signer_of, store_failure, walk_survey, write_lines, write_out, Whose};
use crate::ids::{DeviceId, FleetId};
use crate::shell::keys::DeviceKeyFile;
use crate::shell::store::{EraNote, FolderNote, Survey};

/// Arguments of `hardtack audit salvage`.
#[derive(Args, Debug)]
pub struct SalvageArgs {
    /// Where the readable rest goes, in the form of an export, in place of what is there
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only tell what can be read; write nothing, whatever --out says
    #[arg(long)]
    dry_run: bool,
    /// The fleet, where the folder has no trust bundle any more
    #[arg(long, value_name = "NAME")]
    fleet: Option<FleetId>,
    /// The device, where the folder has no keys any more
    #[arg(long, value_name = "ID")]
    device: Option<DeviceId>,
}

pub(super) fn run(args: &SalvageArgs, globals: &Globals) -> Result<Exit, Failure> {
    let state_dir = globals.load()?.state_dir;
    let running = Failure::new(Exit::TryAgain, "only a stopped agent's store holds still", "");
    refuse_running(&state_dir, &running)?;
    let mut survey = Survey::look(&state_dir).map_err(|error| store_failure(&error))?;
    let keys = match DeviceKeyFile::read(&state_dir) {
        Ok(keys) => Some(keys),
        Err(error) => {
            survey.notes.push(error.to_string());
            None
        }
    };
    let eras = survey.eras();
    let mut lost =
        eras.iter().any(|era| !era.lost.is_empty()) || survey.folders.iter().any(|folder| folder.unreadable.is_some());
    let mut value = json!({
        "notes": survey.notes,
        "folders": survey.folders.iter().map(folder_json).collect::<Vec<_>>(),
        "eras": eras.iter().map(era_json).collect::<Vec<_>>(),
        "released": survey.released.iter().map(|era| era.number).collect::<Vec<_>>(),
        "lost": lost,
    });
    let mut text = words(&survey, &eras);
    if let Some(out) = args.out.as_ref().filter(|_| !args.dry_run) {
        let whose = whose(args, &survey, keys.as_ref())?;
        let signer = keys.as_ref().and_then(|keys| signer_of(&survey, &whose, keys));
        let written = write_out(Some(out), |file| {
            write_lines(&whose, file, |visit| walk_survey(&survey, &whose.device, signer.as_deref(), visit))
        })?;
        let file = out.display().to_string();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", written.words(&file));
        written.add_to(&mut value, &file);
        lost |= !written.odd.is_empty();
        value["lost"] = lost.into();
    }
    show(globals.output, &value, |_| text)?;
    Ok(if lost { Exit::Audit } else { Exit::Done })
}

/// What the folder says, else what whoever asks says. Where both say something it is the same.
fn agreed<T: PartialEq + std::fmt::Display>(own: Option<T>, said: Option<T>, flag: &str) -> Result<Option<T>, Failure> {
    match (own, said) {
        (Some(own), Some(said)) if own != said => Err(Failure::new(
            Exit::Usage,
            format!("the folder is of {own}, not of {said}"),
            format!("leave out {flag}"),
        )),
        (own, said) => Ok(own.or(said)),
    }
}

/// Whose trail it is: what the folder says, else what whoever asks says.
fn whose(args: &SalvageArgs, survey: &Survey, keys: Option<&DeviceKeyFile>) -> Result<Whose, Failure> {
    let missing = |what: &str, flag: &str| {
        let what = format!("the folder does not say which {what} it was of");
        Failure::new(Exit::Usage, what, format!("name it with {flag}"))
    };
    let fleet =
        agreed(fleet_of(survey), args.fleet.clone(), "--fleet")?.ok_or_else(|| missing("fleet", "--fleet NAME"))?;
    let device = agreed(keys.map(|keys| keys.device.clone()), args.device.clone(), "--device")?;
    let device = device.ok_or_else(|| missing("device", "--device ID"))?;
    let identity = keys.map(|keys| keys.keys.identity.verifying_key().into());
    Ok(Whose { fleet, device, identity: identity.into_iter().collect() })
}

fn folder_json(folder: &FolderNote) -> Value {
    json!({
        "path": folder.path,
        "bytes": folder.bytes,
        "rows": folder.rows,
        "broken": folder.broken,
        "unreadable": folder.unreadable,
    })
}

fn era_json(era: &EraNote) -> Value {
    json!({
        "era": era.era.number,
        "salt": format!("{:016x}", era.era.salt),
        "records": era.records,
        "segments": era.segments,
        "next": era.next,
        "lost": era.lost,
    })
}

fn words(survey: &Survey, eras: &[EraNote]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for note in &survey.notes {
        let _ = writeln!(text, "note: {note}");
    }
    for folder in &survey.folders {
        let _ = write!(text, "{}: {} rows in {} bytes", folder.path, folder.rows, folder.bytes);
        if folder.broken > 0 {
            let _ = write!(text, ", {} frames that are not whole", folder.broken);
        }
        if let Some(why) = &folder.unreadable {
            let _ = write!(text, ", UNREADABLE in part: {why}");
        }
        text.push('\n');
    }
    for era in eras {
        let _ = write!(text, "era {}: {} records in {} segments can be read", era.era, era.records, era.segments);
        let ranges: Vec<String> = era.lost.iter().map(|(first, end)| format!("{first} to {}", end - 1)).collect();
        if !ranges.is_empty() {
            let _ = write!(text, ", LOST {}", ranges.join(", "));
        }
        text.push('\n');
    }
    if !survey.released.is_empty() {
        let _ = writeln!(text, "{} eras are acknowledged: the collector has them", survey.released.len());
    }
    if eras.is_empty() {
        text.push_str("no record can be read\n");
    }
    text.push_str(
        "nothing was changed; a start of the agent quarantines what is damaged, saves the rest, and counts the loss in signed \
         gap records\n",
    );
    text
}
