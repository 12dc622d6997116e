//! `hardtack fleet revocations export`: what is revoked, in a file.
//!
//! Owns: the arguments, that what waits is signed first, where the file goes.
//! Never: decides what a file holds.
//! Read next: `../../fleet/carry.rs`.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;

use super::super::output::show;
use super::super::{Exit, Failure};
use super::{file_failure, now, Session};
use crate::fleet::{carry, publish};
use crate::shell::files;
use crate::shell::fleet_keys::Role;

/// `hardtack fleet revocations …`.
#[derive(Subcommand, Debug)]
pub enum RevocationsCommand {
    /// Write what is revoked into a file, for somebody to carry to devices that no broker reaches
    Export {
        /// Where the file goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

pub(super) fn run(command: &RevocationsCommand, session: &Session) -> Result<Exit, Failure> {
    let RevocationsCommand::Export { out } = command;
    let mut fleet = session.open()?;
    let (at, cadence) = (now()?, fleet.dir.toml().settings().cadence);
    if !publish::is_current(fleet.ledger.book(), at) {
        // What was revoked a moment ago, and no service has signed yet.
        let feed = fleet.keys.signing(Role::Feed)?;
        fleet.act(|book, _, fx| {
            publish::may_start(book)?;
            publish::advance(book, &feed, cadence, at, fx);
            Ok(())
        })?;
    }
    let bytes = carry::export(fleet.ledger.book())?;
    files::replace(out, &bytes).map_err(file_failure)?;
    let book = fleet.ledger.book();
    let value = json!({
        "file": out.display().to_string(),
        "bytes": bytes.len(),
        "bundle_version": book.trust().version,
        "policy_version": book.policy().1.version,
        "feed_seq": book.head().map_or(0, |head| head.head.seq),
        "entries": book.set().count(),
    });
    show(session.format, &value, |value| {
        format!(
            "head {} with {} entries, {} bytes\non the device: hardtack revocations import {}",
            value["feed_seq"],
            value["entries"],
            value["bytes"],
            out.display()
        )
    })?;
    Ok(Exit::Done)
}
