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
use crate::ids::FeedId;
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
        /// Of which feed [default: the first one; `fleet feed list` tells which device has which]
        #[arg(long, value_name = "FEED")]
        feed: Option<FeedId>,
    },
}

pub(super) fn run(command: &RevocationsCommand, session: &Session) -> Result<Exit, Failure> {
    let RevocationsCommand::Export { out, feed } = command;
    let mut fleet = session.open()?;
    let (at, cadence) = (now()?, fleet.dir.toml().settings().cadence);
    if !publish::is_current(fleet.ledger.book(), at) {
        // What was revoked a moment ago, and no service has signed yet.
        let key = fleet.keys.signing(Role::Feed)?;
        fleet.act(|book, _, fx| {
            publish::may_start(book)?;
            publish::advance(book, &key, cadence, at, fx);
            Ok(())
        })?;
    }
    let feed = feed.clone().unwrap_or_else(|| fleet.ledger.book().feed());
    let bytes = carry::export(fleet.ledger.book(), &feed)?;
    files::replace(out, &bytes).map_err(file_failure)?;
    let book = fleet.ledger.book();
    let value = json!({
        "file": out.display().to_string(),
        "bytes": bytes.len(),
        "bundle_version": book.trust().version,
        "policy_version": book.policy().1.version,
        "feed": feed,
        "feed_seq": book.of(&feed).order().1,
        "entries": book.of(&feed).set().count(),
    });
    show(session.format, &value, |value| {
        format!(
            "head {} of feed {feed} with {} entries, {} bytes\non its devices: hardtack revocations import {}",
            value["feed_seq"],
            value["entries"],
            value["bytes"],
            out.display()
        )
    })?;
    Ok(Exit::Done)
}
