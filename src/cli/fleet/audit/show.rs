//! `hardtack fleet audit show`: one record whole.
//!
//! Owns: the words that a person gets for it, and for a record that is not here: what is known of its era.
//! Never: shows a record that does not check out. Whatever vouches for it is checked in the same run.
//! Read next: `../../audit/line.rs`, which has the fields.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;
use serde_json::{json, Map, Value};

use super::{beside, walk, RecordName, Salt, Which};
use crate::cli::audit::line::{fields, salt_text};
use crate::cli::client::age;
use crate::cli::fleet::{Fleet, Session};
use crate::cli::output::{lines, show, visible};
use crate::cli::{Exit, Failure};
use crate::fleet::report::holes::{Arrived, Counted};
use crate::fleet::report::{Checked, DeviceReport};
use crate::ids::{hex, DeviceId, EraId, KeyId};
use crate::wire::audit::signer::Mark;
use crate::wire::audit::{record_id, Credential, Decision, Event, GapCause, Named, Record};

/// Arguments of `hardtack fleet audit show`.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// The record: device/era/index, as `decision_id` has it
    #[arg(value_name = "DECISION_ID", required_unless_present = "aside")]
    pub(super) id: Option<RecordName>,
    /// The era's salt, where several have its number
    #[arg(long, value_name = "HEX")]
    salt: Option<Salt>,
    /// The records that were set aside: other branches of eras that forked; of this name only where one is given
    #[arg(long)]
    aside: bool,
    /// How many of these
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "aside")]
    limit: usize,
}

impl ShowArgs {
    /// Whether a record that was set aside is asked for.
    pub(super) fn wants(&self, device: &DeviceId, era: EraId, index: u64) -> bool {
        let named = self.id.as_ref().is_none_or(|id| (&id.device, id.era, id.index) == (device, era.number, index));
        named && self.salt.is_none_or(|salt| salt.0 == era.salt)
    }
}

/// A record that was found, with all that is shown of it.
struct Found {
    era: EraId,
    record: Record,
    value: Value,
    /// For a person.
    text: String,
}

/// How far an era goes: the first index after what is here, and what a damaged disk lost of it.
#[derive(Default)]
struct Reach {
    end: u64,
    lost: Vec<(u64, u64)>,
    /// The record is in a segment that does not check out.
    unsound: bool,
}

pub(super) fn one(args: &ShowArgs, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let Some(id) = args.id.as_ref().filter(|_| !args.aside) else {
        return beside::show_aside(args, args.id.as_ref().map(|id| &id.device), args.limit, &fleet, session);
    };
    let wanted = |era: EraId| era.number == id.era && args.salt.is_none_or(|salt| salt.0 == era.salt);
    let mut found: Vec<Found> = Vec::new();
    let mut reached: BTreeMap<EraId, Reach> = BTreeMap::new();
    let report = walk(&fleet, &Which { device: Some(id.device.clone()) }, |segment, checked| {
        if !wanted(segment.era) {
            return Ok(());
        }
        let reach = reached.entry(segment.era).or_default();
        let Some(checked) = checked else {
            let ends_here = (segment.first_index..=segment.first_index.saturating_add(segment.leaves.len() as u64))
                .contains(&id.index);
            reach.unsound |= ends_here;
            return Ok(());
        };
        reach.end = checked.header.first_index.saturating_add(checked.header.count.into());
        reach.lost.extend(checked.header.salvage.iter().flat_map(|salvage| &salvage.lost));
        let own = checked.records.iter().find(|(record, _)| record.index == id.index);
        found.extend(own.map(|(record, named)| {
            let received = segment.at.to_string();
            describe(id, checked, record, named.as_deref(), &received)
        }));
        Ok(())
    })?;
    let device = report.devices.get(&id.device).cloned().unwrap_or_default();
    let Found { era, record, mut value, mut text } = match found.len() {
        1 => found.remove(0),
        0 => return Err(unknown(id, &reached, &device)),
        count => {
            let salts: Vec<String> = found.iter().map(|found| salt_text(found.era)).collect();
            let what = format!("{count} eras have a record {id}: a clone, or a replaced device");
            return Err(Failure::new(Exit::Failure, what, format!("name one with --salt: {}", salts.join(", "))));
        }
    };
    let forks = forks(&fleet, id, era);
    value["trail"] =
        json!({"ok": device.problems.is_empty() && device.forks == 0, "problems": device.problems.words()});
    value["forks"] = forks.clone().into();
    // Writing to a string cannot fail.
    for fork in &forks {
        let _ = writeln!(text, "FORKED          {}", fork["what"].as_str().unwrap_or_default());
    }
    for aside in device.holes.aside.iter().filter(|aside| aside.era == era) {
        let (first, last) = (aside.indexes.0, aside.indexes.1.saturating_sub(1));
        let _ = writeln!(
            text,
            "set aside       another branch of this era: records {first} to {last}, `hardtack fleet audit show --aside {id}`"
        );
    }
    if !device.problems.is_empty() {
        let _ = writeln!(
            text,
            "elsewhere       {} things in this device's trail do NOT check out: `hardtack fleet audit verify`",
            device.problems.count()
        );
    }
    let _ = writeln!(text, "prove it        hardtack fleet audit prove {}", record_id(&id.device, era, record.index));
    show(session.format, &value, |_| text)?;
    Ok(Exit::Done)
}

/// Proofs that the trail forked in this era.
fn forks(fleet: &Fleet, id: &RecordName, era: EraId) -> Vec<Value> {
    let here = fleet.ledger.book().forks().filter(|fork| fork.device == id.device && fork.era.number == era.number);
    let value = |fork: &crate::fleet::book::Fork| json!({"era": fork.era.number, "salt": salt_text(fork.era), "segment": fork.segment, "what": fork.what});
    here.map(value).collect()
}

fn describe(id: &RecordName, checked: &Checked, record: &Record, named: Option<&Named>, received: &str) -> Found {
    let Checked { header, signer, mark, .. } = checked;
    let era = header.era;
    let row = fields(&id.device, era, header.segment, record, named);
    let last = header.first_index.saturating_add(header.count.into()).saturating_sub(1);
    let mut text = String::new();
    // Writing to a string cannot fail.
    match &record.event {
        Event::Decision(decision) => decided(&mut text, &row, decision, named),
        Event::Alive(_)
        | Event::Ended(_)
        | Event::Gap(_)
        | Event::Grant(_)
        | Event::Mode(_)
        | Event::Refused(_)
        | Event::Repeated(_)
        | Event::Start(_)
        | Event::Task(_)
        | Event::Trust(_) => text.push_str(&lines(&row)),
    }
    let clocks = format!("not before {} (floor), {} by its own powered-on clock", record.floor, record.powered);
    let _ = writeln!(text, "{:16}{clocks}", "when");
    let place = format!("{} of era {} (salt {}), records", header.segment, era, salt_text(era));
    let _ = writeln!(text, "{:16}{place} {} to {last}, closed at {}", "segment", header.first_index, header.closed_at);
    let identity = KeyId::of(signer.identity.as_bytes());
    let key = format!("audit key of epoch {}, vouched for by identity key {identity}", signer.epoch);
    let _ = writeln!(text, "{:16}{key}: {}", "signed with", mark_words(*mark));
    let _ = writeln!(text, "{:16}{received}, by the collector's word", "collected");
    let _ = writeln!(
        text,
        "{:16}now: the signature, the record's place under it, and the chain from the era's beginning to it",
        "checked"
    );
    let value = json!({
        "id": record_id(&id.device, era, record.index),
        "record": row,
        "received": received,
        "segment": {
            "era": era.number,
            "salt": salt_text(era),
            "number": header.segment,
            "first": header.first_index,
            "last": last,
            "closed_at": header.closed_at.to_string(),
            "signer": {
                "identity": hex(signer.identity.as_bytes()),
                "epoch": signer.epoch,
                "key": hex(signer.key.as_bytes()),
            },
            "mark": mark_name(*mark),
        },
        // What did not check out was not found.
        "checked": {"signature": true, "tree": true, "chain": true},
    });
    Found { era, record: record.clone(), value, text }
}

/// A decision in words: who is accountable, who asked what, the answer, and what was known.
fn decided(text: &mut String, row: &Map<String, Value>, decision: &Decision, named: Option<&Named>) {
    let answer = if decision.allow { "allowed" } else { "denied" };
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:16}{}\n", visible(&value)));
    let id = row.get("id").and_then(Value::as_str).unwrap_or_default();
    line("decision", format!("{id}: {answer}, {}", decision.reason));
    match named {
        Some(named) => {
            let task = named.task.as_ref().map(|task| format!(", task {task}")).unwrap_or_default();
            line("accountable", format!("{}, by grant {}{task}", named.owner, named.grant));
            if let Some(initiator) = &named.initiator {
                line("initiated by", initiator.to_string());
            }
            for (number, block) in named.chain.iter().enumerate() {
                line(if number == 0 { "chain" } else { "" }, format!("block {number} {block}"));
            }
            if let Some(step) = &named.step {
                line("step", format!("{}, planned by {}", step.id, step.planner.join(" ")));
                let device = row.get("device").and_then(Value::as_str).unwrap_or_default();
                line("", format!("exchanged for in record {device}/{}/{}", step.era.number, step.index));
            }
        }
        None => {
            let why = match decision.credential {
                Credential::Nothing => "nobody: no token whose signatures fit was shown",
                Credential::Same(_) | Credential::Named(_) => {
                    "not known: only a record that was lost names the credential"
                }
            };
            line("accountable", why.into());
        }
    }
    if let Some(index) = row.get("named_by").and_then(Value::as_u64) {
        line("", format!("named in full by record {index} of the era"));
    }
    let list = |selectors: &[String]| match selectors {
        [] => "none attested".to_owned(),
        selectors => selectors.join(" "),
    };
    line("workload", list(&decision.workload));
    if !decision.enforcer.is_empty() {
        line("enforcer", list(&decision.enforcer));
    }
    let to = decision.destination.as_ref().map(|destination| format!(" to {destination}")).unwrap_or_default();
    let risk = decision.risk.as_ref().map_or("highest", |risk| risk.as_str());
    line("asked", format!("{} {}{to}, risk {risk}", decision.operation, decision.resource));
    if let Some(digest) = &decision.arguments {
        line("arguments", format!("sha256 {digest}"));
    }
    let known = &decision.known;
    let width = known.width_ms.map_or("no proven upper bound".into(), |width| format!("known to {} ms", width.0));
    line("known", format!("mode {}, revocations {}, {} old", known.mode, known.freshness, age(known.staleness_s)));
    line("time", format!("class {}, {width}", known.time_class));
    let feed = known.feed_seq.map_or("no feed looked at".into(), |seq| format!("feed position {seq}"));
    line("in force", format!("trust bundle {}, policy {}, {feed}", known.bundle_version, known.policy_version));
}

/// How a segment's key follows the one before, in a script's words.
pub(super) fn mark_name(mark: Mark) -> &'static str {
    match mark {
        Mark::Announced => "announced",
        Mark::Recovered => "recovered",
        Mark::Salvaged => "salvaged",
        Mark::Unannounced => "unannounced",
    }
}

/// The same for a person.
pub(super) fn mark_words(mark: Mark) -> &'static str {
    match mark {
        Mark::Announced => "the key that was to sign here",
        Mark::Recovered => "a later start closed the segment, with the key of then",
        Mark::Salvaged => "what a damaged disk left, signed later: the device's word alone goes on over the rest",
        Mark::Unannounced => "the era began with a key that nothing before announced",
    }
}

/// Why records are gone, in words.
pub(super) fn cause_words(cause: GapCause) -> &'static str {
    match cause {
        GapCause::Damaged => "the store that held them was damaged",
        GapCause::AnchorLost => "both slots of the device's anchor were unusable",
        GapCause::Quota => "the device gave them up for want of room",
    }
}

/// Why there is nothing to show: what is known of the record's era.
fn unknown(id: &RecordName, reached: &BTreeMap<EraId, Reach>, device: &DeviceReport) -> Failure {
    let advice = "`hardtack fleet audit gaps` lists what is missing, `hardtack status` on the device what waits there";
    let plain = |what: String| Failure::new(Exit::Failure, what, advice);
    let of = |era: EraId| era.number == id.era;
    let covers = |first: u64, end: Option<u64>| id.index >= first && end.is_none_or(|end| id.index < end);
    if reached.values().any(|reach| reach.unsound) {
        let what = format!("what is stored where {id} was to be does not check out");
        return Failure::new(Exit::Invalid, what, "`hardtack fleet audit verify` says what is wrong");
    }
    let told = |counted: &&Counted| of(counted.gap.era) && covers(counted.gap.first, counted.gap.end);
    if let Some(Counted { id: by, gap, .. }) = device.holes.counted.iter().find(told) {
        let end = gap.end.map_or("the era's end".into(), |end| format!("record {}", end.saturating_sub(1)));
        let what = format!("{id} is lost: {by} counts record {} to {end} as gone, since {}", gap.first, {
            cause_words(gap.cause)
        });
        return plain(what);
    }
    let beside =
        device.holes.aside.iter().find(|aside| of(aside.era) && covers(aside.indexes.0, Some(aside.indexes.1)));
    if let Some(aside) = beside {
        let (first, last) = (aside.indexes.0, aside.indexes.1.saturating_sub(1));
        let what =
            format!("{id} is in no trail: records {first} to {last} of its era are of another branch, set aside: --aside shows it");
        return plain(what);
    }
    let lost = reached.values().flat_map(|reach| &reach.lost).find(|(first, end)| covers(*first, Some(*end)));
    if let Some((first, end)) = lost {
        return plain(format!("{id} is lost: a damaged disk left nothing of records {first} to {}", end - 1));
    }
    let missing =
        device.holes.missing.iter().find(|missing| of(missing.era) && covers(missing.first, Some(missing.end)));
    if let Some(missing) = missing {
        let last = missing.end - 1;
        return plain(match missing.arrived {
            Arrived::Nothing => {
                format!("era {} never came: the era after it says that it ended with record {last}, and no gap record counts it", id.era)
            }
            Arrived::APart => {
                format!("{id} is missing: records {} to {last} are known to exist, never came, and no gap record counts them", missing.first)
            }
        });
    }
    match reached.values().map(|reach| reach.end).max() {
        Some(end) if end > 0 => {
            plain(format!("the collector has no record {id}: it has era {} up to record {}", id.era, end - 1))
        }
        Some(_) | None => {
            plain(format!("the collector has no record {id}: it never heard of era {} of {}", id.era, id.device))
        }
    }
}
