//! `hardtack fleet revoke` and `hardtack fleet revocations`.
//!
//! Owns: the arguments, what a dry run says, what is said of rules and of the devices' progress.
//! Never: decides what a rule covers. `../../fleet/revoke.rs` does.
//! Read next: `../../fleet/revoke.rs`.

use std::fmt::Write as _;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{json, Value};

use super::super::output::show;
use super::super::token::{parsed, token_bytes};
use super::super::{Exit, Failure};
use super::serve::placed;
use super::target::RuleCommand;
use super::{lasting, millis, now, operator, target_words, wait, worded, Fleet, Session};
use crate::fleet::book::{Book, FeedBook, Issued, Rule};
use crate::fleet::convergence::{is_up_to_date, standings, Standing};
use crate::fleet::emergency::Known;
use crate::fleet::publish::{self, is_published};
use crate::fleet::revoke::{
    costs, coverage, is_known, life_of, plan, remains, revoke, target_of, tasks_of, Part, Revocation,
};
use crate::ids::{BlockId, DeviceId};
use crate::time::Timestamp;
use crate::wire::biscuit::Token;
use crate::wire::revocation::rules::Selector;
use crate::wire::revocation::Target;
use crate::wire::token::Bearer;

/// `hardtack fleet revoke …`.
#[derive(Subcommand, Debug)]
pub enum RevokeCommand {
    /// A target
    #[command(flatten)]
    Rule(RuleCommand<How>),
    /// A block, and every token that holds it
    Block {
        /// The block's id: SHA-256 of its signature, as `token inspect` and audit records show it
        block: BlockId,
        #[command(flatten)]
        how: How,
    },
    /// A token that is at hand: its last block, so what was narrowed from it, not what it was narrowed from
    Token {
        /// The token: a file, @FILE, `-` for stdin, or the token's text
        token: String,
        /// Its first block instead: all that the issuer's token was narrowed to
        #[arg(long)]
        first: bool,
        #[command(flatten)]
        how: How,
    },
}

/// The most task tokens that are named of those that a revocation covers.
const ISSUED_SHOWN: u32 = 100;

/// What every revocation takes.
#[derive(Args, Debug)]
pub struct How {
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "revoked", value_parser = worded)]
    reason: String,
    /// How long the rule stays [default: until all that it can cover has expired]
    #[arg(long, value_name = "DURATION", value_parser = lasting)]
    expires: Option<Duration>,
    /// Only say what it would cover, what it costs and who would hear of it
    #[arg(long)]
    dry_run: bool,
    /// Wait until every device in reach has said that it applied it; exits 11 if some have not
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "60s", requires = "wait")]
    timeout: Duration,
}

pub(super) fn run(command: RevokeCommand, session: &Session) -> Result<Exit, Failure> {
    let (target, how, token) = match command {
        RevokeCommand::Rule(rule) => {
            let (target, how) = rule.parts();
            (target, how, None)
        }
        RevokeCommand::Block { block, how } => (Target::Block(block), how, None),
        RevokeCommand::Token { token, first, how } => {
            let token = parsed(&token_bytes(&token)?)?;
            let part = if first { Part::First } else { Part::Last };
            (target_of(&token, part)?, how, Some(token))
        }
    };
    carry_out(target, &how, token.as_ref(), session)
}

fn carry_out(target: Target, how: &How, token: Option<&Token>, session: &Session) -> Result<Exit, Failure> {
    let mut fleet = session.open()?;
    let at = now()?;
    let covered = coverage(fleet.ledger.book(), &target, at);
    let mut issued = Vec::new();
    if let Target::Task(task) = &target {
        issued = fleet.ledger.issued(task.as_str())?;
    }
    let (live, count) = fleet.ledger.issued_under(&target, at, ISSUED_SHOWN)?;
    let mut life = None;
    if let Target::Block(block) = &target {
        life = match token.and_then(|token| life_of(token, block)) {
            Some(life) => Some(life),
            None => fleet.ledger.issued_with(block)?.map(|issued| issued.life()),
        };
    }
    let device = whose(&fleet, &target, &issued)?;
    let (kind, value) = target_words(&target);
    let mut told = json!({
        "target": {"kind": kind, "value": value},
        "dry_run": how.dry_run,
        // Whether the fleet knows such a device, group, grant or root key.
        "known": is_known(fleet.ledger.book(), &target),
        // Of the task tokens that were issued and live still the first so many, and how many there are.
        "covers": {
            "what": covered.note,
            "grants": covered.grants,
            "devices": covered.devices,
            "issued_tokens": live.iter().map(|issued| issued.block).collect::<Vec<_>>(),
            "issued_count": count,
        },
    });
    if let Some(token) = token {
        told["token"] = json!({
            "blocks": token.blocks.iter().map(|block| block.id).collect::<Vec<_>>(),
            "tasks": tasks_of(token),
        });
    }
    let mut waited = None;
    let until = how.expires.map(|expires| at + millis(expires));
    if how.dry_run {
        let left = remains(fleet.ledger.book(), &target, token);
        let revocation = Revocation { target: target.clone(), until, reason: how.reason.clone(), life, device };
        let book = fleet.ledger.book();
        told["until"] = plan(book, revocation.clone(), at)?.until.to_string().into();
        let costs = costs(book, revocation, at);
        let dearest = costs.iter().map(|(_, cost)| *cost).max_by_key(|cost| cost.sent);
        told["remains"] = json!({
            "what": left.note,
            "blocks": left.blocks,
            "instead": left.instead.iter().map(|target| command(target, &[])).collect::<Vec<_>>(),
        });
        // Of the feed in which it costs most; a fleet with groups has others beside it, or instead.
        told["cost"] = json!({
            "set_bytes_before": dearest.map(|cost| cost.before),
            "set_bytes_after": dearest.map(|cost| cost.after),
            "sent_to_each_device": dearest.map_or(0, |cost| cost.sent),
        });
        told["feeds"] =
            costs.iter().map(|(feed, cost)| json!({"feed": feed, "sent_to_each_device": cost.sent})).collect();
        let standings = standings(book, at);
        let concerned = |standing: &&Standing| costs.iter().any(|(feed, _)| *feed == standing.feed);
        let standings: Vec<&Standing> = standings.iter().filter(concerned).collect();
        told["devices"] = standings.iter().map(|standing| wait::told(standing, at)).collect();
    } else {
        let (name, key) = (fleet.operator.clone(), fleet.operator_key()?);
        let revocation = Revocation { target, until, reason: how.reason.clone(), life, device };
        let rule = fleet.act(|book, _, fx| revoke(book, revocation, operator(&name, &key), at, fx))?;
        told["until"] = rule.until.to_string().into();
        told["state"] = state(fleet.ledger.book(), &rule, at).into();
        // Why no head can be signed, if so.
        told["halted"] =
            publish::may_start(fleet.ledger.book()).err().map(|error| placed(&error.to_string(), session)).into();
        if how.wait {
            let ended = wait::wait(&mut fleet, &rule, how.timeout)?;
            told["wait"] = ended.value.clone();
            waited = Some(ended);
        }
    }
    show(session.format, &told, |told| match &waited {
        Some(waited) => placed(&(words(told, Said::Waited) + &waited.text), session),
        None if how.dry_run => words(told, Said::DryRun),
        None => placed(&words(told, Said::Revoked), session),
    })?;
    Ok(waited.map_or(Exit::Done, |waited| waited.exit))
}

/// How far a revocation is: `lapsed`, `waiting` for a head, `signed`, or `nowhere`: it goes into no feed, and no device hears of it.
fn state(book: &Book, rule: &Rule, at: Timestamp) -> &'static str {
    if rule.until < at {
        "lapsed"
    } else if book.routes().feeds(rule).is_empty() {
        "nowhere"
    } else if is_published(book, rule) {
        "signed"
    } else {
        "waiting"
    }
}

/// The one device for which a task or a block was minted, as far as the ledger knows. What a device made itself, offline, is
/// in no ledger.
fn whose(fleet: &Fleet, target: &Target, of_task: &[Issued]) -> Result<Option<DeviceId>, Failure> {
    let known: Vec<Issued> = match target {
        Target::Task(_) => of_task.to_vec(),
        Target::Block(block) => fleet.ledger.issued_with(block)?.into_iter().collect(),
        Target::All
        | Target::Audience(_)
        | Target::Device(_)
        | Target::Grant(_)
        | Target::Group(_)
        | Target::IssuedBefore(_)
        | Target::Owner(_)
        | Target::RootKey(_) => Vec::new(),
    };
    // One for a group is shown to each of its devices.
    Ok(match known.first().map(|issued| &issued.bearer) {
        Some(Bearer::Device(first)) if known.iter().all(|issued| issued.bearer == known[0].bearer) => {
            Some(first.clone())
        }
        Some(Bearer::Device(_) | Bearer::Group(_)) | None => None,
    })
}

/// What was done, for the words about it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    DryRun,
    Revoked,
    Waited,
}

/// The command that revokes a target.
fn command(target: &Target, more: &[&str]) -> String {
    let (kind, value) = target_words(target);
    let words = ["hardtack fleet revoke", kind, &value].into_iter().chain(more.iter().copied());
    words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

fn words(told: &Value, said: Said) -> String {
    let (kind, value) = (&told["target"]["kind"], &told["target"]["value"]);
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match said == Said::DryRun {
        true => writeln!(text, "would revoke {} {}", word(kind), word(value)),
        false => writeln!(text, "revoked {} {} until {}", word(kind), word(value), word(&told["until"])),
    };
    let _ = writeln!(text, "covers {}", word(&told["covers"]["what"]));
    if told["known"] == false {
        let _ = writeln!(text, "this fleet knows no such {}: look at how it is spelt", word(&told["target"]["kind"]));
    }
    for name in ["grants", "devices", "issued_tokens"] {
        let known: Vec<String> = told["covers"][name].as_array().into_iter().flatten().map(&word).collect();
        if !known.is_empty() {
            let _ = writeln!(text, "{}: {}", name.replace('_', " "), known.join(" "));
        }
    }
    let shown = told["covers"]["issued_tokens"].as_array().map_or(0, Vec::len) as u64;
    if let Some(more) =
        told["covers"]["issued_count"].as_u64().and_then(|count| count.checked_sub(shown)).filter(|more| *more > 0)
    {
        let _ = writeln!(text, "and {more} issued tokens more");
    }
    if said == Said::DryRun {
        let _ = writeln!(text, "still good: {}", word(&told["remains"]["what"]));
        for instead in told["remains"]["instead"].as_array().into_iter().flatten() {
            let _ = writeln!(text, "  to end that too: {}", word(instead));
        }
        let cost = &told["cost"];
        let (before, after, sent) = (&cost["set_bytes_before"], &cost["set_bytes_after"], &cost["sent_to_each_device"]);
        let _ = match before.is_null() {
            true => {
                writeln!(text, "no device would hear of it: it goes into no feed as long as no device is in the group")
            }
            false => writeln!(text, "the set goes from {before} to {after} bytes; {sent} are sent to each device"),
        };
        for device in told["devices"].as_array().into_iter().flatten() {
            let reach = if device["reachable"] == true { "in reach" } else { "unreachable" };
            let silent = match &device["silent_s"] {
                Value::Null => "never heard of".to_owned(),
                secs @ (Value::Number(_) | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => {
                    format!("last heard {secs} s ago")
                }
            };
            let _ = writeln!(text, "  {:24} {reach}, {silent}", word(&device["device"]));
        }
    }
    if told["state"] == "nowhere" {
        text.push_str("no device hears of it: it goes into no feed as long as no device is in the group\n");
    } else if let (Said::Revoked, Some(halted)) = (said, told["halted"].as_str()) {
        let _ = write!(text, "no device hears of it yet, for no head is signed: {halted}");
    } else if said == Said::Revoked {
        text.push_str(
            "`fleet serve` signs and publishes it at once; without one: `hardtack fleet publish --broker URL`",
        );
    }
    text
}

/// `hardtack fleet revocations`.
pub(super) fn list(session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let (book, at) = (fleet.ledger.book(), now()?);
    let rules: Vec<Value> = book
        .rules()
        .map(|rule| {
            let (kind, value) = target_words(&rule.target);
            json!({
                "kind": kind,
                "value": value,
                "since": rule.at.to_string(),
                "until": rule.until.to_string(),
                "reason": rule.reason,
                // The feeds in which devices hear of it.
                "feeds": book.routes().feeds(rule),
                "state": state(book, rule, at),
            })
        })
        .collect();
    let head = |feed: &FeedBook| {
        let head = feed.head()?;
        Some(json!({
            "feed": head.head.feed,
            "era": head.head.era,
            "seq": head.head.seq,
            "issued": head.head.issued_at.to_string(),
            "digest": head.position.digest,
            "root": head.head.root,
            "entries": feed.set().count(),
            "bytes": feed.set().to_bytes().len(),
        }))
    };
    let standings = standings(book, at);
    let up_to_date = standings.iter().filter(|standing| is_up_to_date(book, standing)).count();
    let unreachable = standings.iter().filter(|standing| !standing.is_reachable()).count();
    let emergency: Vec<Value> = book.emergencies().map(|known| emergency_of(book, known, at)).collect();
    let halted = publish::may_start(book).err().map(|error| placed(&error.to_string(), session));
    let stalled = wait::stalled(&fleet)?;
    let value = json!({
        // Of the first feed.
        "head": head(book.first()),
        // Of every feed.
        "heads": book.feeds().filter_map(|(_, feed)| head(feed)).collect::<Vec<_>>(),
        "rules": rules,
        // What operators revoked with keys of their own, as far as it was made here or heard on a broker.
        "emergency": emergency,
        // Per approved device: `device`, `applied` (the highest head that it said it has), `behind` (heads between that and
        // the newest), `seen` (its last sign of life), `silent_s`, `reachable`, `unreachable_since`.
        "devices": standings.iter().map(|standing| wait::told(standing, at)).collect::<Vec<_>>(),
        // How many approved devices there are, how many have the newest head, and how many cannot be reached.
        "convergence": {"devices": standings.len(), "at_newest": up_to_date, "unreachable": unreachable},
        // Why no head can be signed, if so.
        "halted": halted,
        // What the process that publishes does not do, and what to do about it, if a key with which it began was replaced.
        "stalled": stalled,
    });
    show(session.format, &value, |_| {
        let mut text = String::new();
        for rule in &rules {
            let word = |name: &str| rule[name].as_str().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:7} {:13} {:44} until {} {}",
                word("state"),
                word("kind"),
                word("value"),
                word("until"),
                word("reason")
            );
        }
        for key in &emergency {
            let word = |name: &str| key[name].as_str().unwrap_or_default();
            for rule in key["rules"].as_array().into_iter().flatten() {
                let (covers, until) = (rule["covers"].as_str(), rule["until"].as_str());
                let (covers, until) = (covers.unwrap_or_default(), until.unwrap_or_default());
                let _ = writeln!(
                    text,
                    "emergency {covers} until {until}, key {} of {}, statement {}: {}",
                    word("key"),
                    word("operator"),
                    rule["counter"],
                    rule["reason"].as_str().unwrap_or_default()
                );
            }
        }
        for head in book.feeds().filter_map(|(_, feed)| feed.head()) {
            let _ = writeln!(text, "head {} of {}, {}", head.head.seq, head.head.feed, head.head.issued_at);
        }
        for standing in &standings {
            let applied = standing.applied.map_or("none".into(), |(_, seq)| seq.to_string());
            let reach = standing.unreachable.map_or(String::new(), |since| format!(", unreachable since {since}"));
            let (device, behind, heard) = (&standing.device, standing.behind, wait::ago(standing, at));
            let _ = writeln!(
                text,
                "{device:24} head {applied} of {}, {behind} behind, heard {heard}{reach}",
                standing.feed
            );
        }
        let _ = writeln!(
            text,
            "{up_to_date} of {} devices have the newest head of their feed, {unreachable} cannot be reached",
            standings.len()
        );
        if let Some(halted) = &halted {
            let _ = writeln!(text, "no head is signed: {halted}");
        }
        if let Some(stalled) = &stalled {
            let _ = writeln!(text, "{stalled}");
        }
        text
    })?;
    Ok(Exit::Done)
}

fn emergency_of(book: &Book, known: &Known, at: Timestamp) -> Value {
    let rule = |(selector, until, counter, reason): (Selector, Timestamp, u64, &str)| json!({"covers": selector.to_string(), "until": until.to_string(), "counter": counter, "reason": reason});
    json!({
        "key": known.said.key,
        "operator": known.operator,
        // Whether the newest trust bundle names the key still.
        "named": book.trust().emergency_key(known.said.key).is_some(),
        "counter": known.said.counter,
        "digest": known.newest.statement.digest(),
        "issued": known.said.issued_at.to_string(),
        "since": known.newest.at.to_string(),
        // All that is in force, also what the newest statement leaves out.
        "rules": known.in_force(at).map(rule).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::super::Cli;
    use super::*;
    use crate::cli::output::Format;
    use crate::fleet::FleetError;

    #[test]
    fn the_commands_that_a_revocation_prints_can_be_run() {
        let session = Session { named: Some("/srv/our-fleet".into()), operator: None, format: Format::default() };
        let restored = FleetError::Restored { feed: "main".parse().unwrap(), at: Timestamp(1), least: 3 };
        let told = json!({
            "target": {"kind": "task", "value": "t-1"},
            "covers": {"what": "it"},
            "until": "then",
            "state": "waiting",
            "halted": placed(&restored.to_string(), &session),
        });
        let going = json!({"target": told["target"], "covers": told["covers"], "until": "then", "state": "waiting"});
        for (told, what) in [
            (told, "hardtack fleet publish --dir /srv/our-fleet --feed main --after 3"),
            (going, "hardtack fleet publish --dir /srv/our-fleet --broker URL"),
        ] {
            let text = placed(&words(&told, Said::Revoked), &session);
            let printed: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|text| text.contains(' ')).collect();
            assert!(printed.contains(&what), "{text}");
            for command in printed.iter().filter(|command| command.starts_with("hardtack")) {
                let words = command.split(' ').map(|word| if word == "URL" { "mqtts://broker:8883" } else { word });
                assert!(Cli::try_parse_from(words).is_ok(), "{command}");
            }
        }
    }
}
