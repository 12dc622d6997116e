//! How a record looks as JSON.
//!
//! Owns: the fields of an export's lines, which `docs/audit-format.md` lists.
//! Never: says what the record does not: but for `received`, which is the collector's word, every field follows from what
//! was signed.
//! Read next: `file.rs`, which writes and checks files of such lines.

use data_encoding::BASE64;
use serde_json::{json, Map, Value};

use crate::fleet::report::branch::{Parted, Parting};
use crate::ids::{hex, DeviceId, EraId, Hash};
use crate::wire::audit::segment::SegmentHeader;
use crate::wire::audit::signer::AuditKey;
use crate::wire::audit::{record_id, Credential, Event, Named, Record, TrustChange};
use crate::wire::envelope::Signed;

/// Where the line of a record comes from.
#[derive(Clone, Copy)]
pub(in crate::cli) struct Source<'s> {
    /// When the collector took it in; none where a device wrote the file.
    pub received: Option<&'s str>,
    /// The signed header's bytes.
    pub signed: &'s [u8],
    /// The header.
    pub header: &'s SegmentHeader,
}

/// The kinds of records, as their lines name them: those of [`Event`](crate::wire::audit::Event).
pub(in crate::cli) const KINDS: [&str; 11] =
    ["alive", "decision", "ended", "gap", "grant", "mode", "refused", "repeated", "start", "task", "trust"];

/// The line of a record: what happened, its place, and the bytes that were signed.
pub(in crate::cli) fn line(
    source: Source<'_>,
    record: &Record,
    named: Option<&Named>,
    leaf: &[u8],
) -> Map<String, Value> {
    let header = source.header;
    let mut line = fields(&header.device, header.era, header.segment, record, named);
    line.insert("received".into(), source.received.into());
    line.insert("leaf".into(), BASE64.encode(leaf).into());
    line.insert("header".into(), BASE64.encode(source.signed).into());
    line
}

/// The line of a segment of which there is no record: a damaged disk has left none, or the device gave them up.
pub(in crate::cli) fn nothing_left(source: Source<'_>) -> Map<String, Value> {
    let header = source.header;
    let line = json!({
        "kind": if header.salvage.is_some() { "lost" } else { "shed" },
        "device": header.device,
        "era": header.era.number,
        "salt": salt_text(header.era),
        "segment": header.segment,
        "first": header.first_index,
        "count": header.count,
        "received": source.received,
        "header": BASE64.encode(source.signed),
    });
    object(line)
}

/// The line with which another branch of an era begins, that has so many segments by the collector's word.
pub(in crate::cli) fn branch(parted: &Parted, segments: u64) -> Map<String, Value> {
    let (from, after) = parting(parted.parting);
    object(json!({
        "kind": "branch",
        "device": parted.device,
        "era": parted.era.number,
        "salt": salt_text(parted.era),
        "branch": parted.id,
        "from": from,
        "after": after,
        "segment": parted.first,
        "first": parted.first_index,
        "segments": segments,
    }))
}

/// What a branch parts from, none if that is not here, and after which segment of it, none at the era's beginning.
pub(in crate::cli) fn parting(parting: Parting) -> (Option<String>, Option<u64>) {
    match parting {
        Parting::Trail(after) => (Some("trail".into()), after),
        Parting::Branch(other, after) => (Some(other.to_string()), Some(after)),
        Parting::Unknown => (None, None),
    }
}

/// The line of a record of another branch than the trail.
pub(in crate::cli) fn of_branch(mut line: Map<String, Value>, branch: Hash) -> Map<String, Value> {
    line.insert("branch".into(), branch.to_string().into());
    line
}

/// The line of a record that no signature covers: it proves nothing.
pub(in crate::cli) fn unsigned(device: &DeviceId, era: EraId, record: &Record, bytes: &[u8]) -> Map<String, Value> {
    let mut says = fields(device, era, 0, record, record.names());
    // It is in none yet.
    says.remove("segment");
    let line = json!({
        "kind": "unsigned",
        "device": device,
        "era": era.number,
        "salt": salt_text(era),
        "index": record.index,
        "record": BASE64.encode(bytes),
        "says": says,
    });
    object(line)
}

/// A place where a device's disk has lost segments.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Hole {
    /// The device.
    pub device: DeviceId,
    /// The era.
    pub era: EraId,
    /// The next segment that is there.
    pub segment: u64,
    /// Its first record.
    pub index: u64,
    /// The chain's head before it, as it says itself.
    pub head: Hash,
    /// The certificate of the key that signed it, where the device has one.
    pub signer: Option<Signed<AuditKey>>,
}

/// The line of a hole: nobody signed it.
pub(in crate::cli) fn hole(hole: &Hole) -> Map<String, Value> {
    object(json!({
        "kind": "hole",
        "device": hole.device,
        "era": hole.era.number,
        "salt": salt_text(hole.era),
        "segment": hole.segment,
        "index": hole.index,
        "head": hole.head,
        "signer": hole.signer.as_ref().map(|signer| BASE64.encode(&signer.to_bytes())),
    }))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(line) => line,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    }
}

/// What a record says, and where it stands.
pub(in crate::cli) fn fields(
    device: &DeviceId,
    era: EraId,
    segment: u64,
    record: &Record,
    named: Option<&Named>,
) -> Map<String, Value> {
    let id = record_id(device, era, record.index);
    let (kind, fields) = event_fields(&record.event);
    let mut line = Map::new();
    let mut put = |name: &str, value: Value| drop(line.insert(name.to_owned(), value));
    put("id", id.clone().into());
    if kind == "decision" {
        put("decision_id", id.into());
    }
    put("kind", kind.clone().into());
    put("device", device.as_str().into());
    put("era", era.number.into());
    put("salt", salt_text(era).into());
    put("segment", segment.into());
    put("index", record.index.into());
    put("floor", record.floor.to_string().into());
    put("powered", record.powered.to_string().into());
    // Of texts and lists.
    if let Ok(mut named) = serde_json::to_value(named) {
        salts_as_text(&mut named);
        line.extend(object(named));
    }
    for (name, value) in fields {
        // What a gap tells of another era must not hide where the gap itself stands.
        let name = if line.contains_key(&name) { format!("{kind}_{name}") } else { name };
        line.insert(name, value);
    }
    line
}

/// A salt has 64 random bits, and what reads JSON elsewhere keeps 53 of a number.
pub(in crate::cli) fn salt_text(era: EraId) -> String {
    format!("{:016x}", era.salt)
}

/// The event's kind and its fields; what a decision rests on stands beside the rest of it.
fn event_fields(event: &Event) -> (String, Map<String, Value>) {
    // Of numbers, texts and lists: there is nothing that could not be written.
    let mut value = serde_json::to_value(event).unwrap_or_default();
    salts_as_text(&mut value);
    let (kind, mut fields) = tagged(value);
    if let Some(Value::Object(known)) = fields.remove("known") {
        fields.extend(known);
    }
    // What it names stands beside it, wherever it is named.
    if let Event::Decision(decision) = event {
        fields.remove("credential");
        if let Credential::Same(index) = decision.credential {
            fields.insert("named_by".into(), index.into());
        }
    }
    if kind == "trust" {
        let (change, inner) = tagged(Value::Object(fields));
        fields = inner;
        fields.insert("change".into(), change.into());
        if let Event::Trust(TrustChange::AuditKey { key, .. }) = event {
            fields.insert("key".into(), hex(key.as_bytes()).into());
        }
    }
    (kind, fields)
}

/// As beside the record, a salt is text.
fn salts_as_text(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                match inner.as_u64().filter(|_| name == "salt") {
                    Some(salt) => *inner = format!("{salt:016x}").into(),
                    None => salts_as_text(inner),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(salts_as_text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Splits `{"kind": {fields}}`, as enums are written, into its kind and its fields.
pub(in crate::cli) fn tagged(value: Value) -> (String, Map<String, Value>) {
    match value {
        Value::Object(object) => match object.into_iter().next() {
            Some((kind, Value::Object(fields))) => (kind, fields),
            Some((kind, single)) => (kind, [("value".to_owned(), single)].into_iter().collect()),
            None => Default::default(),
        },
        Value::String(kind) => (kind, Map::new()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => Default::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::audit::{Gap, GapCause};

    #[test]
    fn the_salt_of_an_era_inside_a_record_is_text() {
        let era = EraId { number: 3, salt: u64::MAX - 1 };
        let (kind, fields) =
            event_fields(&Event::Gap(Gap { era, first: 0, end: None, cause: GapCause::Damaged, repeated: 0 }));
        assert_eq!(kind, "gap");
        assert_eq!(fields["era"], json!({"number": 3, "salt": "fffffffffffffffe"}));
    }
}
