//! `hardtack fleet backup` and `hardtack fleet restore`.
//!
//! Owns: the arguments, what is said of a copy: what it holds, what it does not, how the feed goes on.
//! Never: decides what was lost or what may be signed. `../../fleet/restore.rs` and `publish.rs` do.
//! Read next: `../../shell/ledger/copy.rs`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::super::output::show;
use super::super::{Exit, Failure};
use super::serve::go_on;
use super::{now, operator, target_words, Session};
use crate::fleet::{restore, Book, Effects};
use crate::ids::Hash;
use crate::shell::fleet_dir::FleetDir;
use crate::shell::fleet_keys::{KeyFolder, Role};
use crate::shell::ledger::{Copied, Restoring};

/// What a copy of the ledger leaves out: it changes rarely, and the keys are better kept elsewhere than the copies.
const NOT_IN_IT: [&str; 4] = ["keys/", "fleet.toml", "broker/", "devices/"];

/// Arguments of `hardtack fleet backup`.
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// Where the copy goes; nothing is overwritten
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Arguments of `hardtack fleet restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The copy
    file: PathBuf,
    /// Its SHA-256, as `fleet backup` told it: 64 hexadecimal digits
    #[arg(long, value_name = "HEX")]
    digest: Option<Hash>,
}

pub(super) fn backup(args: &BackupArgs, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let (Copied { digest, bytes }, book) = fleet.ledger.back_up(&args.out)?;
    let seq = seq(&book);
    let value = json!({
        "file": args.out,
        "sha256": digest,
        "bytes": bytes,
        "feed_seq": seq,
        "devices": book.devices().count(),
        "rules": book.rules().count(),
        "checked": true,
        "not_in_it": NOT_IN_IT,
    });
    show(session.format, &value, |_| {
        format!(
            "{digest}  {}\n{bytes} bytes, checked; the newest head in it is {seq}\n\
             not in it: {}. Copy these by themselves when they change, the keys to another place than this; \
             root keys that are kept elsewhere need copies of their own",
            args.out.display(),
            NOT_IN_IT.join(" ")
        )
    })?;
    Ok(Exit::Done)
}

pub(super) fn restore(args: &RestoreArgs, session: &Session) -> Result<Exit, Failure> {
    let dir = FleetDir::open(session.named.as_deref().unwrap_or(Path::new(".")))?;
    let at = now()?;
    let restoring = Restoring::begin(&dir.ledger(), &args.file, args.digest)?;
    let mut copy = restoring.copy().clone();
    if *copy.fleet() != dir.toml().name {
        let what = format!("fleet.toml names fleet {}, the copy is {}'s", dir.toml().name, copy.fleet());
        return Err(Failure::new(Exit::Failure, what, "restore a copy of this fleet"));
    }
    let (name, key) = (session.operator(), KeyFolder::of(dir.path()).signing(Role::Operator)?);
    let (seq, digest, before) = (seq(&copy), restoring.copied().digest, restoring.before().cloned());
    let mut fx = Effects::default();
    let leasts = restore::mark(&mut copy, before.as_ref(), digest, operator(&name, &key), at, &mut fx)?;
    let lost = before.as_ref().map(|before| restore::lost(before, &copy, at));
    let kept = free_name(&dir.path().join(format!("fleet.db.before-{}", at.to_string().replace(':', ""))));
    let mut moved = None;
    fx.commit(|writes| restoring.finish(&writes, &kept).map(|kept| moved = kept))?;
    let commands: Vec<String> = leasts.iter().map(|least| go_on(session, least)).collect();
    let rules = lost.as_ref().map(|lost| lost.rules.iter().map(target_words).collect::<Vec<_>>());
    let value = json!({
        "sha256": digest,
        "feed_seq": seq,
        // Whether the ledger before could be read: what was lost is told then, and `after` is sure to be enough.
        "known": before.is_some(),
        "kept": moved,
        "after": leasts.first().map(|(_, least)| least),
        // Per feed.
        "feeds": leasts.iter().map(|(feed, least)| json!({"feed": feed, "after": least})).collect::<Vec<_>>(),
        "lost": lost.as_ref().map(|lost| json!({
            "rules": rules.iter().flatten().map(|(kind, value)| json!({"kind": kind, "value": value})).collect::<Vec<_>>(),
            "devices": lost.devices,
            "grants": lost.grants,
        })),
        // To be run in this order, once what was lost is done again.
        "do": commands.join(" && "),
    });
    show(session.format, &value, |_| {
        // Writing to a string cannot fail.
        let mut text = format!("restored {}, the newest head in it is {seq}\n", args.file.display());
        if let Some(kept) = &moved {
            let _ = writeln!(text, "the ledger before lies in {}: audit since the copy is only there", kept.display());
        }
        match &lost {
            Some(lost) => {
                for (kind, value) in rules.iter().flatten() {
                    let _ = writeln!(text, "revoke again: hardtack fleet revoke {}", format!("{kind} {value}").trim());
                }
                for device in &lost.devices {
                    let _ = writeln!(text, "look after device {device}: approved, replaced or retired since");
                }
                if !lost.grants.is_empty() {
                    let _ = writeln!(text, "{} grants are newer than the copy", lost.grants.len());
                }
            }
            None => text.push_str(
                "the ledger before could not be read: what was revoked, approved or retired since the copy was made is to \
                 be done again\n",
            ),
        }
        let _ = write!(
            text,
            "nothing is signed until you say that this is done, for each feed{}:\n{}\n{}",
            match before.is_some() {
                true => "",
                false =>
                    ", with a higher number where a device's `hardtack status` or the log of `fleet serve` names one",
            },
            commands.join("\n"),
            match dir.toml().brokers.is_empty() {
                true => "and then: hardtack fleet serve --broker URL",
                false => "the last of these publishes; then start `hardtack fleet serve` again",
            }
        );
        text
    })?;
    Ok(Exit::Done)
}

/// The name itself, or with a number behind it where something has it already.
fn free_name(path: &Path) -> PathBuf {
    let numbered = |number: u32| PathBuf::from(format!("{}-{number}", path.display()));
    let names = std::iter::once(path.to_owned()).chain((2..).map(numbered));
    names.into_iter().find(|name| !name.exists()).unwrap_or_else(|| path.to_owned())
}

fn seq(book: &Book) -> u64 {
    book.first().order().1
}
