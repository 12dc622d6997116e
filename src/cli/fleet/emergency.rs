//! `hardtack fleet emergency`: revoke with a key of one's own, when the fleet's service or its feed key is out of reach.
//!
//! Owns: the arguments; the order: the statement is in the ledger before it leaves; what is said of it.
//! Never: needs the feed's key, or `fleet serve`; decides what a statement says.
//! Read next: `../../fleet/emergency.rs`; `../../shell/emergency.rs` for the way to the broker.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{json, Value};

use super::super::output::show;
use super::super::token::point_in_time;
use super::super::{Exit, Failure};
use super::serve::{runtime, uplink};
use super::{file_failure, millis, now, target_words, Fleet, Session};
use crate::fleet::book::Book;
use crate::fleet::emergency::{before, carried, declare, messages, statement, Order};
use crate::fleet::revoke::coverage;
use crate::ids::{DeviceId, GrantId, GroupId, KeyId, TaskId};
use crate::shell::broker::service_client_id;
use crate::shell::mqtt::{BrokerUrl, LinkConfig};
use crate::shell::x509::SERVICE_NAME;
use crate::shell::{emergency, entropy, files};
use crate::time::Timestamp;
use crate::wire::envelope::Signed;
use crate::wire::revocation::emergency::Emergency;
use crate::wire::revocation::Target;

/// `hardtack fleet emergency …`.
#[derive(Subcommand, Debug)]
pub enum EmergencyCommand {
    /// Every token of the fleet
    All(How),
    /// Every token for an audience
    Audience {
        /// The audience
        audience: String,
        #[command(flatten)]
        how: How,
    },
    /// Every token for a device; the device locks until the rule ends, and keeps its grants
    Device {
        /// The device
        device: DeviceId,
        #[command(flatten)]
        how: How,
    },
    /// A fallback grant, and all that was narrowed from it or issued under it
    Grant {
        /// The grant
        grant: GrantId,
        #[command(flatten)]
        how: How,
    },
    /// Every token for a group
    Group {
        /// The group
        group: GroupId,
        #[command(flatten)]
        how: How,
    },
    /// Every token issued before a time
    IssuedBefore {
        /// RFC 3339, for example 2026-03-01T00:00:00Z
        #[arg(value_parser = point_in_time)]
        time: Timestamp,
        #[command(flatten)]
        how: How,
    },
    /// Every token of an owner
    Owner {
        /// The owner, as the grant names him
        owner: String,
        #[command(flatten)]
        how: How,
    },
    /// Every token that a root key signed
    RootKey {
        /// Its number
        id: u32,
        #[command(flatten)]
        how: How,
    },
    /// Every credential of a task
    Task {
        /// The task
        task: TaskId,
        #[command(flatten)]
        how: How,
    },
}

/// What every statement takes.
#[derive(Args, Debug)]
pub struct How {
    /// Whose emergency key signs
    #[arg(long = "as", value_name = "NAME")]
    name: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// How long it holds, at most 72h
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "24h")]
    expires: Duration,
    /// The broker to bring it to, may be repeated
    #[arg(long, value_name = "URL", conflicts_with = "out", required_unless_present_any = ["out", "dry_run"])]
    broker: Vec<BrokerUrl>,
    /// Write it into a file instead, for `hardtack revocations import` on the devices
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only say what it would revoke; no counter is used
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(command: EmergencyCommand, session: &Session) -> Result<Exit, Failure> {
    let (target, how) = match command {
        EmergencyCommand::All(how) => (Target::All, how),
        EmergencyCommand::Audience { audience, how } => (Target::Audience(audience), how),
        EmergencyCommand::Device { device, how } => (Target::Device(device), how),
        EmergencyCommand::Grant { grant, how } => (Target::Grant(grant), how),
        EmergencyCommand::Group { group, how } => (Target::Group(group), how),
        EmergencyCommand::IssuedBefore { time, how } => (Target::IssuedBefore(time), how),
        EmergencyCommand::Owner { owner, how } => (Target::Owner(owner), how),
        EmergencyCommand::RootKey { id, how } => (Target::RootKey(id), how),
        EmergencyCommand::Task { task, how } => (Target::Task(task), how),
    };
    let (mut fleet, at) = (session.open()?, now()?);
    crate::fleet::emergency::check_name(&how.name)?;
    let key = fleet.keys.emergency(&how.name)?;
    let id = KeyId::of(key.verifying_key().as_bytes());
    let order = Order { target, life: millis(how.expires), reason: how.reason.clone() };
    let signed = match how.dry_run {
        true => {
            let book = fleet.ledger.book();
            statement(book.trust(), &key, &before(book, id, at), &order, at)?
        }
        // Committed before it leaves: no counter is ever signed for two contents, whatever ends this process.
        false => fleet.act(|book, _, fx| declare(book, &key, &order, at, fx))?,
    };
    let mut told = told(fleet.ledger.book(), &order.target, &signed, &how, at)?;
    match (&how.out, how.dry_run) {
        (_, true) => {}
        (Some(out), false) => {
            let bytes = carried(fleet.ledger.book().trust(), fleet.ledger.book().bundles(), &signed)?;
            files::replace(out, &bytes).map_err(file_failure)?;
            told["file"] = out.display().to_string().into();
        }
        (None, false) => {
            let broker = bring(&fleet, &how.broker, id, &signed, at)?;
            told["broker"] = broker.to_string().into();
        }
    }
    show(session.format, &told, words)?;
    Ok(Exit::Done)
}

fn bring(
    fleet: &Fleet,
    named: &[BrokerUrl],
    id: KeyId,
    signed: &Signed<Emergency>,
    at: Timestamp,
) -> Result<BrokerUrl, Failure> {
    let uplink = uplink(fleet, named)?;
    let book = fleet.ledger.book();
    let config = LinkConfig {
        fleet: book.fleet().clone(),
        client_id: service_client_id(book.fleet(), &mut entropy::rng()),
        user: SERVICE_NAME.into(),
        urls: uplink.urls,
        tls: uplink.tls,
        keepalive: Duration::from_secs(30),
        connect: Duration::from_secs(10),
        packet_bytes_max: LinkConfig::PACKET_BYTES_MAX,
    };
    let brought = runtime()?.block_on(emergency::publish(&config, at, &messages(book.trust(), id, signed)));
    brought.map_err(|error| {
        let advice =
            "it is signed and in the ledger: run the command again to sign the next one, which repeats it, or \
                      carry it with --out FILE; `fleet serve` brings it when it runs";
        Failure::new(Exit::Failure, error, advice)
    })
}

fn told(book: &Book, target: &Target, signed: &Signed<Emergency>, how: &How, at: Timestamp) -> Result<Value, Failure> {
    let said = signed.claim().map_err(|refused| Failure::new(Exit::Failure, refused, "report this"))?;
    let (covered, (kind, value)) = (coverage(book, target, at), target_words(target));
    let rules: Vec<Value> = said
        .rules
        .iter()
        .map(|(selector, until)| json!({"covers": format!("{selector:?}"), "until": until.to_string()}))
        .collect();
    Ok(json!({
        "target": {"kind": kind, "value": value},
        "dry_run": how.dry_run,
        "operator": how.name,
        "key": said.key,
        "counter": said.counter,
        "digest": signed.digest(),
        "issued": said.issued_at.to_string(),
        "until": said.rules.iter().filter(|(rule, _)| rule.target().as_ref() == Some(target)).map(|(_, until)| until.to_string()).next(),
        "reason": said.reason,
        "covers": {"what": covered.note, "grants": covered.grants, "devices": covered.devices},
        // All that this key has revoked and is in force.
        "rules": rules,
    }))
}

fn words(told: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, value) = (word(&told["target"]["kind"]), word(&told["target"]["value"]));
    let (key, operator, counter) = (word(&told["key"]), word(&told["operator"]), &told["counter"]);
    let mut text = String::new();
    let would = if told["dry_run"] == true { "would revoke" } else { "revoked" };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{would} {kind} {value} by emergency key {key} of {operator}, statement {counter}");
    let _ = writeln!(text, "covers {}", word(&told["covers"]["what"]));
    for rule in told["rules"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  {} until {}", word(&rule["covers"]), word(&rule["until"]));
    }
    if let Some(broker) = told["broker"].as_str() {
        let _ = writeln!(text, "{broker} has it: devices in reach obey at once, others when they connect");
    }
    if let Some(file) = told["file"].as_str() {
        let _ = writeln!(text, "on each device: hardtack revocations import {file}");
    }
    text.push_str("nothing takes it back before its end; `hardtack fleet revoke` revokes for longer");
    text
}
