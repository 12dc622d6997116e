//! `hardtack fleet emergency`: revoke with a key of one's own, when the fleet's service or its feed key is out of reach.
//!
//! Owns: the arguments; the order: what the broker has to tell first, then the statement on the disk, then its way out; what is
//! said of it.
//! Never: needs the feed's key, or `fleet serve`; decides what a statement says.
//! Read next: `emergency_hand.rs`, for where the key is; `../../fleet/emergency.rs`; `../../shell/emergency.rs`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{json, Value};

use super::super::output::show;
use super::super::{Exit, Failure};
use super::emergency_hand::{rule_of, signed_by, Brought, Hand};
use super::target::RuleCommand;
use super::{file_failure, millis, now, target_words, Session};
use crate::fleet::emergency::{carried, Order};
use crate::fleet::revoke::{coverage, reach};
use crate::shell::files;
use crate::shell::mqtt::BrokerUrl;
use crate::time::{Millis, Timestamp};
use crate::wire::envelope::Signed;
use crate::wire::revocation::emergency::{Emergency, LIFE_MAX};
use crate::wire::revocation::rules::Selector;
use crate::wire::revocation::Target;

/// `hardtack fleet emergency …`. The folder (`--dir`, or the current one) is the fleet's, or an operator's kit.
#[derive(Subcommand, Debug)]
pub enum EmergencyCommand {
    /// A target
    #[command(flatten)]
    Revoke(RuleCommand<How>),
    /// Write the newest statement into a file once more, for `hardtack revocations import` on the devices
    Export(ExportArgs),
    /// Bring the newest statement to a broker once more; nothing is signed
    Publish(PublishArgs),
    /// Show what the emergency keys of this folder have revoked and is in force
    Show,
}

/// What every statement takes.
#[derive(Args, Debug)]
pub struct How {
    /// Whose emergency key signs [default: whose kit it is, or the only one]
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// How long it holds, at most 72h, which count from 5 minutes before now
    #[arg(long, value_name = "DURATION", value_parser = life, default_value = "24h")]
    expires: Duration,
    /// The broker to bring it to, may be repeated [default: those of the folder]
    #[arg(long, value_name = "URL", conflicts_with = "out")]
    broker: Vec<BrokerUrl>,
    /// Write it into a file instead, for `hardtack revocations import` on the devices
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Sign though this machine's clock does not fit what is known to be signed: you have looked at another clock
    #[arg(long)]
    clock_is_right: bool,
    /// Only say what it would revoke; no counter is used
    #[arg(long)]
    dry_run: bool,
}

/// Arguments of `hardtack fleet emergency export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Whose [default: whose kit it is, or the only one]
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// The file
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Arguments of `hardtack fleet emergency publish`.
#[derive(Args, Debug)]
pub struct PublishArgs {
    /// Whose [default: whose kit it is, or the only one]
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// The broker, may be repeated [default: those of the folder]
    #[arg(long, value_name = "URL")]
    broker: Vec<BrokerUrl>,
}

/// A life that an emergency key can give.
fn life(text: &str) -> Result<Duration, String> {
    let life = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match millis(life) {
        Millis(0) => Err("it would have ended at once: an emergency key revokes for a while, at most 72h".into()),
        life if life > LIFE_MAX => {
            Err("an emergency key revokes for 72h at most: `hardtack fleet revoke` revokes for longer".into())
        }
        _ => Ok(life),
    }
}

pub(super) fn run(command: EmergencyCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        EmergencyCommand::Revoke(rule) => {
            let (target, how) = rule.parts();
            revoke(target, &how, session)
        }
        EmergencyCommand::Export(args) => export(&args, session),
        EmergencyCommand::Publish(args) => publish(&args, session),
        EmergencyCommand::Show => list(session),
    }
}

fn revoke(target: Target, how: &How, session: &Session) -> Result<Exit, Failure> {
    let (mut hand, at) = (Hand::open(session, how.name.as_deref())?, now()?);
    let key = hand.key()?;
    let (life, reason) = (millis(how.expires), how.reason.clone());
    let order = Order { target, life, reason, clock_is_right: how.clock_is_right };
    let mut brought = None;
    let signed = match (&how.out, how.dry_run) {
        (_, true) => hand.preview(&key, &order, at)?,
        // Committed before it leaves: no counter is ever signed for two contents, whatever ends this process.
        (Some(_), false) => hand.sign(&key, &order, at)?,
        (None, false) => {
            let link = hand.link(&how.broker)?;
            let learnt = hand.learn(&link, at)?;
            let signed = hand.sign(&key, &order, at)?;
            brought = Some(hand.bring(&link, learnt, at).map_err(|error| {
                let advice = "it is signed: run `hardtack fleet emergency publish` to bring it, or carry it with \
                              `hardtack fleet emergency export --out FILE`";
                Failure::new(Exit::Failure, error.what, advice)
            })?);
            signed
        }
    };
    let mut told = told(&hand, &order, &signed, how.dry_run, at)?;
    if let (Some(out), false) = (&how.out, how.dry_run) {
        write(&hand, &signed, out).map_err(|error| {
            let advice = "it is signed, and every later statement repeats it: write it elsewhere with \
                          `hardtack fleet emergency export --out FILE`";
            Failure::new(Exit::Failure, error.what, advice)
        })?;
        told["file"] = out.display().to_string().into();
    }
    brought.iter().for_each(|brought| tell_brought(&mut told, brought));
    show(session.format, &told, words)?;
    Ok(Exit::Done)
}

fn write(hand: &Hand, signed: &Signed<Emergency>, out: &std::path::Path) -> Result<(), Failure> {
    let bytes = carried(hand.trust(), hand.bundles(), signed)?;
    files::replace(out, &bytes).map_err(file_failure)
}

fn tell_brought(told: &mut Value, brought: &Brought) {
    told["broker"] = brought.broker.to_string().into();
    told["brought"] = brought.counter.into();
    told["learnt"] = json!({
        // Trust bundles that the broker had and the kit had not.
        "bundles": brought.learnt.bundles,
        // Statements of the same key that were not signed here: the key, or the kit, is in two places.
        "elsewhere": brought.learnt.elsewhere.iter().map(signed_by).collect::<Vec<_>>(),
        // What the broker had and nobody should believe.
        "refused": brought.learnt.refused,
    });
}

fn export(args: &ExportArgs, session: &Session) -> Result<Exit, Failure> {
    let hand = Hand::open(session, args.name.as_deref())?;
    let signed = hand.newest()?;
    write(&hand, &signed, &args.out)?;
    let counter = claim(&signed)?.counter;
    let value = json!({"folder": hand.folder(), "kit": hand.is_kit(), "counter": counter, "file": args.out});
    show(session.format, &value, |_| {
        let (file, place) = (args.out.display(), hand.place());
        format!("statement {counter} of {place} is in {file}\non each device: hardtack revocations import {file}")
    })?;
    Ok(Exit::Done)
}

fn publish(args: &PublishArgs, session: &Session) -> Result<Exit, Failure> {
    let (mut hand, at) = (Hand::open(session, args.name.as_deref())?, now()?);
    hand.newest()?;
    let link = hand.link(&args.broker)?;
    let learnt = hand.learn(&link, at)?;
    let brought = hand.bring(&link, learnt, at)?;
    let mut value = json!({"folder": hand.folder(), "kit": hand.is_kit()});
    tell_brought(&mut value, &brought);
    show(session.format, &value, |value| {
        format!("{}{} has statement {} of {}", warnings(value), brought.broker, brought.counter, hand.place())
    })?;
    Ok(Exit::Done)
}

fn list(session: &Session) -> Result<Exit, Failure> {
    let (value, at) = (Hand::list(session, now()?)?, now()?);
    show(session.format, &value, |value| {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "fleet {}, trust bundle {}, {at}", word(&value["fleet"]), value["bundle_version"]);
        for key in value["keys"].as_array().into_iter().flatten() {
            let gone = if key["named"] == true { "" } else { ", which the trust bundle names no more" };
            let (id, operator) = (word(&key["key"]), word(&key["operator"]));
            let _ = match key["counter"].as_u64() {
                Some(0) => writeln!(text, "emergency key {id} of {operator}{gone}: no statement yet"),
                _ => {
                    writeln!(text, "emergency key {id} of {operator}{gone}: statement {} is the newest", key["counter"])
                }
            };
            for rule in key["rules"].as_array().into_iter().flatten() {
                let _ = writeln!(text, "  {}", rule_words(rule));
            }
        }
        match value["kit"] == true {
            true => {
                let _ = writeln!(text, "as far as the kit {} knows", word(&value["folder"]));
                text.push_str(
                    "which devices have applied it, the fleet's service hears: `hardtack fleet revocations` there",
                );
            }
            false => {
                let _ = write!(text, "as far as the fleet's folder {} knows", word(&value["folder"]));
            }
        }
        text
    })?;
    Ok(Exit::Done)
}

fn claim(signed: &Signed<Emergency>) -> Result<Emergency, Failure> {
    signed.claim().map_err(|refused| Failure::new(Exit::Failure, refused, "report this"))
}

fn told(
    hand: &Hand,
    order: &Order,
    signed: &Signed<Emergency>,
    dry_run: bool,
    at: Timestamp,
) -> Result<Value, Failure> {
    let (said, (kind, value)) = (claim(signed)?, target_words(&order.target));
    let asked = Selector::of(&order.target);
    // The rule that was asked for, or one that was in force already and covers it for as long.
    let covering = said.rules.iter().filter(|(rule, _)| asked.is_some_and(|asked| rule.implies(&asked)));
    let rule = covering.max_by_key(|(rule, until)| (asked == Some(*rule), *until));
    let (rule, until) = (rule.map(|(rule, _)| rule).filter(|rule| asked != Some(*rule)), rule.map(|(_, until)| until));
    let stands_for = hand.in_force(at)?.into_iter().filter(|old| {
        let named = said.rules.iter().any(|(rule, _)| rule == *old);
        !named && said.rules.iter().any(|(rule, _)| rule.implies(old))
    });
    let stands_for: Vec<String> = stands_for.map(|old| old.to_string()).collect();
    let rules: Vec<Value> =
        said.rules.declared().map(|rule| rule_of(rule.selector, rule.until, &rule.reason)).collect();
    let covers = match hand.book() {
        Some(book) => {
            let covered = coverage(book, &order.target, at);
            json!({"what": covered.note, "grants": covered.grants, "devices": covered.devices})
        }
        // Only the ledger knows.
        None => json!({"what": reach(&order.target), "grants": null, "devices": null}),
    };
    Ok(json!({
        "target": {"kind": kind, "value": value},
        "dry_run": dry_run,
        "folder": hand.folder(),
        "kit": hand.is_kit(),
        "operator": hand.operator(),
        "key": said.key,
        "counter": said.counter,
        "digest": signed.digest(),
        "issued": said.issued_at.to_string(),
        "until": until.map(|until| until.to_string()),
        // The rule in force that makes one of its own superfluous: it covers as much, for as long.
        "covered_by": rule.map(|rule| rule.to_string()),
        // What was in force and is not said any more, because one of the rules covers it for as long.
        "stands_for": stands_for,
        // By how much it ends before what was asked for: 72 h count from when the statement says that it was signed.
        "shorter_s": until.map_or(0, |until| (at + order.life).since(until).secs_ceil()),
        "reason": order.reason,
        "covers": covers,
        // All that this key has revoked and is in force.
        "rules": rules,
    }))
}

fn rule_words(rule: &Value) -> String {
    let word = |name: &str| rule[name].as_str().unwrap_or_default();
    format!("{} until {}: {}", word("covers"), word("until"), word("reason"))
}

fn warnings(told: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = String::new();
    for bundle in told["learnt"]["bundles"].as_array().into_iter().flatten() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "the kit has trust bundle {bundle} now, as the broker keeps it");
    }
    for heard in told["learnt"]["elsewhere"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "WARNING: {}", word(&heard["words"]));
    }
    for refused in told["learnt"]["refused"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "WARNING: the broker keeps what nobody should believe: {}", word(refused));
    }
    text
}

fn words(told: &Value) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, value) = (word(&told["target"]["kind"]), word(&told["target"]["value"]));
    let (key, operator, counter) = (word(&told["key"]), word(&told["operator"]), &told["counter"]);
    let mut text = warnings(told);
    let would = if told["dry_run"] == true { "would revoke" } else { "revoked" };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{would} {kind} {value} by emergency key {key} of {operator}, statement {counter}");
    let _ = match (told["kit"] == true, word(&told["folder"])) {
        (true, folder) => writeln!(text, "with the kit {folder}"),
        (false, folder) => writeln!(text, "with the fleet's folder {folder}"),
    };
    let _ = writeln!(text, "covers {}", word(&told["covers"]["what"]));
    if told["kit"] == true {
        let _ =
            writeln!(text, "which grants and devices that is, and who has applied it, only the fleet's ledger knows");
    }
    for rule in told["rules"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  {}", rule_words(rule));
    }
    if let Some(rule) = told["covered_by"].as_str() {
        let _ = writeln!(text, "`{rule}` covered it already, for as long, and needs no rule beside it");
    }
    let replaced = told["stands_for"].as_array().map_or(0, Vec::len);
    if replaced > 0 {
        let _ = writeln!(text, "stands for {replaced} more rules of this key, which end no later");
    }
    if told["shorter_s"] != 0 {
        let _ = writeln!(
            text,
            "it ends {} s before the time that was asked for: 72 h count from 5 minutes ago, as the statement is dated, in \
             case this clock is ahead of the devices'",
            told["shorter_s"]
        );
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_more_than_nothing_and_72_hours_at_most() {
        for (text, fine) in [
            ("1s", true),
            ("24h", true),
            ("72h", true),
            ("3d", true),
            ("72h 1s", false),
            ("73h", false),
            ("0s", false),
            ("1us", false),
            ("584000y", false),
            ("soon", false),
        ] {
            assert_eq!(life(text).is_ok(), fine, "{text}");
        }
    }
}
