//! `hardtack fleet backup` and `hardtack fleet restore`.
//!
//! Owns: the arguments, what is said of a copy: what it holds, what it does not, how the feed goes on.
//! Never: decides what was lost or what may be signed. `../../fleet/restore.rs` and `publish.rs` do.
//! Read next: `../../shell/ledger/copy.rs`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{json, Value};

use super::super::output::show;
use super::super::{Exit, Failure};
use super::serve::{go_on, in_folder, runtime, took, uplink};
use super::{now, operator, target_words, Session};
use crate::fleet::book::Rule;
use crate::fleet::restore::{Found, Lost, Taken};
use crate::fleet::{publish, restore, Book, Effects};
use crate::ids::Hash;
use crate::shell::fleet_dir::FleetDir;
use crate::shell::fleet_keys::{KeyFolder, Role};
use crate::shell::kept;
use crate::shell::ledger::{Copied, Restoring};
use crate::shell::mqtt::BrokerUrl;
use crate::shell::place::quoted;
use crate::shell::serve::link_config;
use crate::time::Timestamp;

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
    /// Where trust bundles are asked for that the copy lacks, if the ledger before cannot be read; may be repeated [default:
    /// the brokers of fleet.toml]
    #[arg(long, value_name = "URL")]
    broker: Vec<BrokerUrl>,
    /// The same from a file of `fleet revocations export`, or from the folder `bundles` of an emergency kit
    #[arg(long, value_name = "PATH")]
    bundles: Option<PathBuf>,
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
    let complete = before.as_ref().is_some_and(|before| before.lacks_bundles_since().is_none());
    let (mut taken, mut heads, mut silent) = (Taken::default(), Vec::new(), None);
    let mut learn = |found: Found, copy: &mut Book, fx: &mut Effects| -> Result<(), Failure> {
        let more = restore::take(copy, &found, at, fx)?;
        taken.bundles.extend(more.bundles);
        taken.vouched |= more.vouched;
        heads.extend(found.heads);
        Ok(())
    };
    if let Some(path) = &args.bundles {
        let found = kept::in_files(path, &copy).map_err(|error| Failure::new(Exit::Invalid, error, ""))?;
        learn(found, &mut copy, &mut fx)?;
    }
    if !complete {
        match ask(&dir, &args.broker, &copy, at)? {
            Ok(found) => learn(found, &mut copy, &mut fx)?,
            Err(reason) => silent = Some(reason),
        }
    }
    restore::mark(&mut copy, before.as_ref(), digest, operator(&name, &key), at, &mut fx)?;
    restore::settle(&mut copy, &taken, &heads, at, &mut fx);
    let (leasts, newest) = (publish::awaited(&copy), copy.trust().version);
    let bundles_known = copy.lacks_bundles_since().is_none();
    let missed = copy.missed().cloned().unwrap_or_default();
    let (known, nothing) = (missed.complete, missed.lost == Lost::default());
    let lost = Some(missed.lost).filter(|_| before.is_some() || !nothing);
    let kept = free_name(&dir.path().join(format!("fleet.db.before-{}", at.to_string().replace(':', ""))));
    let mut moved = None;
    fx.commit(|writes| restoring.finish(&writes, &kept).map(|kept| moved = kept))?;
    let commands: Vec<String> = leasts.iter().map(|least| go_on(session, least)).collect();
    let again: Vec<(&Rule, String)> =
        lost.iter().flat_map(|lost| &lost.rules).map(|rule| (rule, revoke_again(session, rule, at))).collect();
    let rules: Vec<Value> = again.iter().map(|(rule, command)| rule_of(rule, command)).collect();
    let value = json!({
        "sha256": digest,
        "feed_seq": seq,
        // Whether what was lost is all told, and `after` sure to be enough: the ledger before could be read, and is no copy that
        // nobody has vouched for, or one which knew all that it lacked.
        "known": known,
        "kept": moved,
        "after": leasts.first().map(|(_, least)| least),
        // Per feed.
        "feeds": leasts.iter().map(|(feed, least)| json!({"feed": feed, "after": least})).collect::<Vec<_>>(),
        "lost": lost.as_ref().map(|lost| json!({
            "rules": rules,
            "devices": lost.devices,
            "grants": lost.grants,
        })),
        // Whether it is known that no trust bundle was signed after `newest`; if not, none can be made.
        "bundles": {"newest": newest, "taken": taken.bundles, "known": bundles_known, "silent": silent},
        // To be run in this order, once what was lost is done again.
        "do": commands.join(" && "),
    });
    show(session.format, &value, |_| {
        // Writing to a string cannot fail.
        let mut text = format!("restored {}, the newest head in it is {seq}\n", args.file.display());
        if let Some(kept) = &moved {
            let _ = writeln!(text, "the ledger before lies in {}: audit since the copy is only there", kept.display());
        }
        if let Some(lost) = &lost {
            for (_, command) in &again {
                let _ = writeln!(text, "revoke again: {command}");
            }
            for device in &lost.devices {
                let _ = writeln!(text, "look after device {device}: approved, replaced or retired since");
            }
            if !lost.grants.is_empty() {
                let _ = writeln!(text, "{} grants are newer than the copy", lost.grants.len());
            }
        }
        match (&before, known) {
            (_, true) => {}
            (Some(_), false) => text.push_str(
                "the ledger before was put back itself, where the one before it could not be read, and nobody had vouched for it: \
                 what was lost then is to be done again as well\n",
            ),
            (None, false) => text.push_str(
                "the ledger before could not be read: what was revoked, approved or retired since the copy was made is to \
                 be done again\n",
            ),
        }
        text.push_str(&took(&taken.bundles));
        if !bundles_known {
            let _ = writeln!(
                text,
                "nobody has told which trust bundles came after {newest} ({}): the commands below ask the broker first, with \
                 --broker URL where fleet.toml names none; `hardtack fleet publish --help` says what to do without one",
                silent.as_deref().unwrap_or("the broker keeps none of this fleet's"),
            );
        }
        let _ = write!(
            text,
            "nothing is signed until you say that this is done, for each feed{}:\n{}\n{}",
            match known {
                true => "",
                false =>
                    ", with a higher number where a device's `hardtack status` or the log of `fleet serve` names one",
            },
            commands.join("\n"),
            match dir.toml().brokers.is_empty() {
                true => format!("and then: hardtack fleet serve{} --broker URL", in_folder(session)),
                false => "the last of these publishes; then start `hardtack fleet serve` again".into(),
            }
        );
        text
    })?;
    Ok(Exit::Done)
}

fn rule_of(rule: &Rule, again: &str) -> Value {
    let (kind, value) = target_words(&rule.target);
    let until = rule.until.to_string();
    json!({"kind": kind, "value": value, "reason": rule.reason, "until": until, "do": again})
}

/// The command that makes a revocation again, for as long as it was to stay.
fn revoke_again(session: &Session, rule: &Rule, at: Timestamp) -> String {
    let (kind, value) = target_words(&rule.target);
    let left = rule.until.since(at).0.div_ceil(1000).max(1);
    let mut command = format!("hardtack fleet revoke {kind}{} --reason={}", in_folder(session), quoted(&rule.reason));
    // Writing to a string cannot fail.
    let _ = write!(command, " --expires {left}s");
    if !value.is_empty() {
        let _ = write!(command, " -- {}", quoted(&value));
    }
    command
}

/// What a broker keeps of the fleet. `Err` inside: why nobody tells.
fn ask(dir: &FleetDir, named: &[BrokerUrl], copy: &Book, at: Timestamp) -> Result<Result<Found, String>, Failure> {
    if named.is_empty() && dir.toml().brokers.is_empty() {
        return Ok(Err("no broker is named".into()));
    }
    let config = link_config(copy.fleet(), uplink(dir, named)?);
    Ok(runtime()?.block_on(kept::at_broker(&config, copy, at)))
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
