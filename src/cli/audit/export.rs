//! The audit in the forms that other systems read.
//!
//! Owns: [`Form`], and what of a record each of them takes.
//! Never: takes a record that was not checked; leaves out the bytes that were signed, so that whoever gets it in any form can
//! check it again.
//! Read next: `export/cloudevents.rs`, `export/ocsf.rs`, `export/otel.rs`.

mod cloudevents;
mod ocsf;
mod otel;

use clap::ValueEnum;
use serde_json::{Map, Value};

use super::fork::{ForkProof, Proven};
use super::line::salt_text;
use super::trails::lines_of;
use crate::fleet::book::{Fork, Segment};
use crate::fleet::report::Checked;
use crate::ids::{DeviceId, EraId, FleetId};
use crate::time::Timestamp;
use crate::wire::audit::{Event, Named};

/// The form of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Form {
    /// JSON lines of hardtack's own, which `hardtack audit verify` checks
    #[default]
    Jsonl,
    /// CloudEvents 1.0, an event a line
    Cloudevents,
    /// Events of the Open Cybersecurity Schema Framework 1.5.0, one a line
    Ocsf,
    /// OpenTelemetry logs as OTLP/JSON, the records of a segment a line
    Otel,
}

/// Whether an era has its number alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Numbering {
    /// It has, or was the first with it to arrive: its records are named as always.
    Own,
    /// Another came before it: the names of its records get its salt.
    Shared,
}

/// One thing to tell: a record, or a segment of which nothing is left.
struct Item<'s> {
    fleet: &'s FleetId,
    device: &'s DeviceId,
    /// One in all exports of a fleet, and the same in each of them.
    id: String,
    /// None where nothing is left.
    event: Option<&'s Event>,
    named: Option<&'s Named>,
    /// When it was, at the earliest.
    time: Timestamp,
    /// When the collector had it.
    received: Timestamp,
    /// The line of a plain export.
    line: Map<String, Value>,
}

/// A fork, and its proof.
struct Forked<'s> {
    fleet: &'s FleetId,
    fork: &'s Fork,
    proof: &'s ForkProof,
    proven: &'s Proven,
}

/// The lines of one segment.
pub fn lines(
    form: Form,
    fleet: &FleetId,
    segment: &Segment,
    checked: &Checked,
    numbering: Numbering,
) -> Vec<Map<String, Value>> {
    let received = segment.at.to_string();
    let plain = lines_of(segment, &received, checked);
    if form == Form::Jsonl {
        return plain.collect();
    }
    let records = checked.records.iter().map(Some).chain([None]);
    let items: Vec<Item<'_>> = plain
        .zip(records)
        .map(|(line, record)| Item {
            fleet,
            device: &segment.device,
            id: id_of(&segment.device, segment.era, numbering, || match record {
                Some((record, _)) => record.index.to_string(),
                None => format!("lost-{}", segment.segment),
            }),
            event: record.map(|(record, _)| &record.event),
            named: record.and_then(|(_, named)| named.as_deref()),
            time: record.map_or(checked.header.closed_at, |(record, _)| record.floor),
            received: segment.at,
            line,
        })
        .collect();
    match form {
        Form::Jsonl => Vec::new(),
        Form::Cloudevents => items.into_iter().map(cloudevents::event).collect(),
        Form::Ocsf => items.iter().map(ocsf::event).collect(),
        Form::Otel => vec![otel::batch(fleet, &segment.device, items.iter().map(otel::record).collect())],
    }
}

/// The line of a fork that is proved. The plain form has none: there it is a file of its own.
pub fn fork_line(
    form: Form,
    fleet: &FleetId,
    fork: &Fork,
    (proof, proven): &(ForkProof, Proven),
) -> Option<Map<String, Value>> {
    let forked = Forked { fleet, fork, proof, proven };
    match form {
        Form::Jsonl => None,
        Form::Cloudevents => Some(cloudevents::fork(&forked)),
        Form::Ocsf => Some(ocsf::fork(&forked)),
        Form::Otel => Some(otel::batch(fleet, &fork.device, vec![otel::fork(&forked)])),
    }
}

fn id_of(device: &DeviceId, era: EraId, numbering: Numbering, what: impl FnOnce() -> String) -> String {
    match numbering {
        Numbering::Own => format!("{device}/{era}/{}", what()),
        Numbering::Shared => format!("{device}/{era}.{}/{}", salt_text(era), what()),
    }
}

impl Item<'_> {
    /// `decision`, `gap` and so on, as the line has it.
    fn kind(&self) -> &str {
        self.text("kind").unwrap_or_default()
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.line.get(name).and_then(Value::as_str)
    }

    /// What happened, for a person.
    fn sentence(&self) -> String {
        let text = |name: &str| self.text(name).unwrap_or_default();
        if let Some(Event::Decision(decision)) = self.event {
            let answer = if decision.allow { "allowed".to_owned() } else { format!("denied ({})", decision.reason) };
            return format!("{answer}: {} {}", decision.operation, decision.resource);
        }
        let mut sentence = self.kind().to_owned();
        for name in ["change", "step", "from", "to", "task", "grant", "cause", "source", "reason", "version"] {
            if !text(name).is_empty() {
                sentence.push_str(&format!(" {name}={}", text(name)));
            }
        }
        sentence
    }
}

impl Forked<'_> {
    /// One per position that forked, the salt of the branch that came later in it.
    fn id(&self) -> String {
        let Fork { device, era, segment, .. } = self.fork;
        id_of(device, *era, Numbering::Shared, || format!("fork-{segment}"))
    }

    fn sentence(&self) -> String {
        let Fork { device, era, segment, .. } = self.fork;
        format!("the trail of {device} forked at era {era} segment {segment}: {}", self.proven.contradiction.words())
    }

    /// The file that proves it.
    fn proof(&self) -> Value {
        // Of texts and lists: there is nothing that could not be written.
        serde_json::to_value(self.proof).unwrap_or_default()
    }
}

/// Milliseconds as far as dates go elsewhere: a device may sign what it likes.
fn ms(time: Timestamp) -> u64 {
    time.0.min(Timestamp::MAX.0 - 1)
}

/// The fields of an object that was written out.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}
