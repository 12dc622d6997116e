//! `hardtack revocations`: what is revoked, as the running agent has it.
//!
//! Owns: the arguments, reading and writing the file, what a person is told.
//! Never: judges a file, or a token. `../agent/carry.rs` does.
//! Read next: `../agent/carry.rs`; `fleet/carry.rs` for the other end.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use serde_json::json;

use super::client::{age, get, post_to, Door};
use super::output::{show, tell};
use super::token::token_argument;
use super::{Exit, Failure, Globals};
use crate::agent::request::revocations::{
    CheckRevoked, CheckedReply, EmergencyRule, EmergencyStatus, ExportedReply, FeedStatus, ImportedReply, Outcome,
    RevocationsReply,
};
use crate::ids::{BlockId, DeviceId, FeedId, GrantId, GroupId, TaskId};
use crate::shell::files;
use crate::wire::revocation::carry::{Carried, CARRIED_BYTES_MAX};
use crate::wire::revocation::Target;
use crate::wire::token::{from_text, to_text};

/// `hardtack revocations …`.
#[derive(Subcommand, Debug)]
pub enum RevocationsCommand {
    /// Say whether a token, or anything else that can be revoked, is revoked here: exits 5 if it is
    Check(CheckArgs),
    /// Write what this device holds into a file, for another device
    Export {
        /// Where the file goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Of this feed only
        #[arg(long)]
        feed: Option<FeedId>,
    },
    /// Hand a file with revocations to the running agent, whoever carried it
    Import {
        /// What `hardtack fleet revocations export`, or another device, wrote
        file: PathBuf,
    },
    /// Show what is held of each feed
    Show,
}

/// What is looked for: one of these.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct CheckArgs {
    /// A token: a file, `-` for stdin, or the token's text
    #[arg(value_name = "TOKEN|-")]
    token: Option<String>,
    /// An audience
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    audience: Option<String>,
    /// A block's id
    #[arg(long, value_name = "ID")]
    block: Option<BlockId>,
    /// A device
    #[arg(long, value_name = "ID")]
    device: Option<DeviceId>,
    /// A grant
    #[arg(long, value_name = "ID")]
    grant: Option<GrantId>,
    /// A group
    #[arg(long, value_name = "ID")]
    group: Option<GroupId>,
    /// An owner
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    owner: Option<String>,
    /// A root key's number
    #[arg(long, value_name = "ID")]
    root_key: Option<u32>,
    /// A task
    #[arg(long, value_name = "ID")]
    task: Option<TaskId>,
}

impl CheckArgs {
    fn target(self) -> Option<Target> {
        let Self { token: _, audience, block, device, grant, group, owner, root_key, task } = self;
        audience
            .map(Target::Audience)
            .or(block.map(Target::Block))
            .or(device.map(Target::Device))
            .or(grant.map(Target::Grant))
            .or(group.map(Target::Group))
            .or(owner.map(Target::Owner))
            .or(root_key.map(Target::RootKey))
            .or(task.map(Target::Task))
    }
}

/// Runs it.
///
/// # Errors
/// No agent, or why the file or the token is refused.
pub fn run(command: RevocationsCommand, globals: &Globals) -> Result<Exit, Failure> {
    match command {
        RevocationsCommand::Check(args) => check(args, globals),
        RevocationsCommand::Export { out, feed } => export(&out, feed.as_ref(), globals),
        RevocationsCommand::Import { file } => import(&file, globals),
        RevocationsCommand::Show => {
            let held: RevocationsReply = get(globals, Door::Admin, "/v1/revocations")?;
            show(globals.output, &held, held_words)?;
            Ok(Exit::Done)
        }
    }
}

fn check(args: CheckArgs, globals: &Globals) -> Result<Exit, Failure> {
    let token = args.token.as_deref().map(token_argument).transpose()?;
    let asked = CheckRevoked { token, target: args.target() };
    let checked: CheckedReply = post_to(globals, Door::Admin, "/v1/revocations/check", &asked)?;
    show(globals.output, &checked, |checked| match (&checked.by, &checked.feed) {
        (Some(by), Some(feed)) => format!("revoked by feed {feed}: {by}"),
        (Some(by), None) => format!("revoked: {by}"),
        (None, _) => "not revoked, as far as this device knows".into(),
    })?;
    Ok(if checked.revoked { Exit::Revoked } else { Exit::Done })
}

fn export(out: &Path, feed: Option<&FeedId>, globals: &Globals) -> Result<Exit, Failure> {
    let path = feed.map_or("/v1/revocations/export".into(), |feed| format!("/v1/revocations/export?feed={feed}"));
    let exported: ExportedReply = get(globals, Door::Admin, &path)?;
    let bytes = from_text(&exported.file, CARRIED_BYTES_MAX)
        .map_err(|refused| Failure::new(Exit::Failure, format!("the agent's file: {refused}"), "restart the agent"))?;
    files::replace(out, &bytes)
        .map_err(|error| Failure::new(Exit::Failure, error, "name another file, or free some space"))?;
    let value = json!({
        "file": out.display().to_string(),
        "bytes": bytes.len(),
        "bundle_version": exported.bundle_version,
        "policy_version": exported.policy_version,
        "feeds": exported.feeds,
        "emergencies": exported.emergencies,
    });
    show(globals.output, &value, |_| {
        let mut feeds: Vec<String> =
            exported.feeds.iter().map(|feed| format!("head {} of {}", feed.seq, feed.feed)).collect();
        if exported.emergencies > 0 {
            feeds.push(format!("{} statements of emergency keys", exported.emergencies));
        }
        let (feeds, out) = (feeds.join(", "), out.display());
        format!("{feeds}, {} bytes\non another device: hardtack revocations import {out}", bytes.len())
    })?;
    Ok(Exit::Done)
}

fn import(path: &Path, globals: &Globals) -> Result<Exit, Failure> {
    let bytes = read(path)?;
    // What is no such file at all, or was damaged on its way, need not go on record as an attack.
    Carried::from_bytes(&bytes).map_err(|refused| {
        let what = format!("{} holds no revocations that can be read: {refused}", path.display());
        Failure::new(Exit::Invalid, what, "copy it again from where it was written")
    })?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let body = json!({"file": to_text(&bytes), "name": name});
    let imported: ImportedReply = post_to(globals, Door::Admin, "/v1/revocations/import", &body)?;
    show(globals.output, &imported, imported_words)?;
    if imported.ok {
        return Ok(Exit::Done);
    }
    tell(
        "what was refused is on record; nothing that was known is lost\n  \
         do: as is said there, or else have the fleet write a new file",
    );
    Ok(Exit::Invalid)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = CARRIED_BYTES_MAX as u64 + 1;
    let read = std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(|error| {
        let what = format!("cannot read {}: {error}", path.display());
        Failure::new(Exit::Usage, what, "name the file that `hardtack fleet revocations export` wrote")
    })?;
    Ok(bytes)
}

fn imported_words(imported: &ImportedReply) -> String {
    let mut text = String::new();
    for part in &imported.parts {
        let outcome = match part.outcome {
            Outcome::Applied => "applied",
            Outcome::Known => "known",
            Outcome::Refused => "refused",
        };
        let reason = part.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{outcome:8} {}{reason}", part.part);
    }
    text
}

fn held_words(held: &RevocationsReply) -> String {
    let mut text = String::new();
    for feed in &held.feeds {
        feed_words(feed, &mut text);
    }
    for lost in &held.lost {
        let _ = writeln!(text, "feed {lost}: lost; nothing is allowed until it has come again");
    }
    for key in &held.emergency {
        emergency_words(key, &mut text);
    }
    for lost in &held.emergency_lost {
        let _ = writeln!(text, "emergency key {lost}: lost; nothing is allowed until its statement has come again");
    }
    if text.is_empty() {
        text.push_str("no feed is held");
    }
    text
}

fn emergency_words(key: &EmergencyStatus, text: &mut String) {
    let named = if key.named { "" } else { ", named no more" };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "emergency key {} of {}{named}: statement {}, signed {}",
        key.key, key.operator, key.counter, key.issued
    );
    for rule in &key.rules {
        let EmergencyRule { covers, until, reason, left_s, .. } = rule;
        let _ = writeln!(text, "  {covers} until {until}, {} left at most: {reason}", age(*left_s));
    }
}

fn feed_words(feed: &FeedStatus, text: &mut String) {
    let retired = if feed.retired { ", retired" } else { "" };
    // Writing to a string cannot fail.
    let _ = match &feed.complete {
        Some(head) => writeln!(text, "feed {}{retired}: head {}, signed {}", feed.feed, head.seq, head.issued),
        None => writeln!(text, "feed {}{retired}: no complete set yet", feed.feed),
    };
    if let Some(seconds) = feed.age_s {
        let _ =
            writeln!(text, "  {} old{}", age(seconds), if feed.overdue { ", the next head is overdue" } else { "" });
    }
    if let (Some(seq), Some(way)) = (feed.newest_seq, &feed.gathering) {
        let _ = writeln!(text, "  head {seq} is known; what its set needs is waited for: {way}");
    }
    for rule in &feed.rules {
        let _ = writeln!(text, "  {} until {}", rule.covers, rule.until);
    }
    let buckets = [("serials", &feed.serials), ("fingerprints", &feed.fingerprints)];
    for (name, bucket) in buckets.iter().flat_map(|(name, buckets)| buckets.iter().map(move |bucket| (name, bucket))) {
        let _ = writeln!(text, "  {} {name}, {}", bucket.revoked, bucket.slot);
    }
    let _ =
        writeln!(text, "  {} whole ids, {} bytes, {} entries beyond the head", feed.exact, feed.set_bytes, feed.beyond);
}
