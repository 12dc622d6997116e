//! `hardtack audit tail`: the newest records of this device.
//!
//! Owns: how far back it looks for them, how a record looks in a line.
//! Never: shows a record that is not durable.
//! Read next: `device.rs`.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use data_encoding::BASE64;
use serde_json::{Map, Value};

use super::super::output::{print, quoted, Format};
use super::super::{Exit, Failure, Globals};
use super::device::{print_line, Trail};
use super::line::{fields, KINDS};
use crate::agent::request::trail::{PieceName, PieceReply, PieceState, TrailAsk, PIECES_MAX};
use crate::ids::{DeviceId, EraId};
use crate::wire::audit::segment::SegmentHeader;
use crate::wire::audit::Record;
use crate::wire::envelope::Signed;

/// The most records that are shown at once.
const RECORDS_MAX: u64 = 100_000;
/// How often the agent is asked for what is new.
const EVERY: Duration = Duration::from_millis(500);

/// Arguments of `hardtack audit tail`.
#[derive(Args, Debug)]
pub struct TailArgs {
    /// How many
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(..=RECORDS_MAX))]
    count: u64,
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// Of this kind only
    #[arg(long, value_name = "KIND", value_parser = KINDS)]
    kind: Option<String>,
}

/// Where a record stands in the trail: what was shown up to here is not shown again.
type Mark = (EraId, u64);

pub(super) fn run(args: &TailArgs, globals: &Globals) -> Result<Exit, Failure> {
    let trail = Trail::open(globals)?;
    let device = trail.whose().device.clone();
    if args.follow && !trail.runs() {
        return Err(Failure::new(
            Exit::Unreachable,
            "nothing is written while no agent runs",
            "start it, or leave --follow out",
        ));
    }
    let mut mark: Mark = (EraId { number: 0, salt: 0 }, 0);
    let mut after = None;
    for row in newest(&trail, args, &device, &mut mark, &mut after)? {
        shown(globals.output, row)?;
    }
    if args.follow {
        follow(&trail, args, globals.output, &mut mark, after)?;
    }
    Ok(Exit::Done)
}

/// Shows what is written from now on, until the agent is gone or somebody has seen enough.
fn follow(
    trail: &Trail<'_>,
    args: &TailArgs,
    format: Format,
    mark: &mut Mark,
    mut after: Option<PieceName>,
) -> Result<(), Failure> {
    let device = trail.whose().device.clone();
    loop {
        std::thread::sleep(EVERY);
        let from = after.unwrap_or(PieceName { era: EraId { number: 0, salt: 0 }, segment: 0 });
        let page = trail.page(&TrailAsk { after: Some(from), pieces: PIECES_MAX })?;
        for piece in &page.pieces {
            for row in rows(piece, &device) {
                if row.mark > *mark {
                    *mark = row.mark;
                    if is_of(&row.fields, args) {
                        shown(format, row.fields)?;
                    }
                }
            }
            if piece.state != PieceState::Unsigned {
                after = Some(piece.name());
            }
        }
    }
}

struct Row {
    mark: Mark,
    fields: Map<String, Value>,
}

/// The newest records: pages are looked at from the end until there are enough.
fn newest(
    trail: &Trail<'_>,
    args: &TailArgs,
    device: &DeviceId,
    mark: &mut Mark,
    after: &mut Option<PieceName>,
) -> Result<Vec<Map<String, Value>>, Failure> {
    let eras = trail.eras();
    let mut names: Vec<PieceName> = eras
        .iter()
        .flat_map(|era| {
            let pieces = era.segments.saturating_add(u64::from(era.next > era.signed));
            // One of 64 at the least of what was asked for; a kind may be rare.
            let first = if args.kind.is_some() { 0 } else { pieces.saturating_sub(args.count.saturating_add(2)) };
            let id = era.id();
            (first..pieces).step_by(PIECES_MAX).map(move |segment| PieceName { era: id, segment })
        })
        .collect();
    let mut found: VecDeque<Map<String, Value>> = VecDeque::new();
    // From the newest block of pieces back.
    while let Some(block) = names.pop() {
        if found.len() as u64 >= args.count {
            break;
        }
        let before = match block.segment.checked_sub(1) {
            Some(segment) => PieceName { segment, ..block },
            // Whatever comes before the era's first piece.
            None => PieceName {
                era: EraId { number: block.era.number, salt: block.era.salt.saturating_sub(1) },
                segment: u64::MAX,
            },
        };
        let page = trail.page(&TrailAsk { after: Some(before), pieces: PIECES_MAX })?;
        let mut here = VecDeque::new();
        for piece in page.pieces.iter().filter(|piece| piece.name().era == block.era) {
            if piece.state != PieceState::Unsigned && after.is_none_or(|after| after < piece.name()) {
                *after = Some(piece.name());
            }
            for row in rows(piece, device) {
                *mark = row.mark.max(*mark);
                if is_of(&row.fields, args) {
                    here.push_back(row.fields);
                }
            }
        }
        here.extend(found);
        found = here;
    }
    let spare = found.len().saturating_sub(args.count as usize);
    Ok(found.into_iter().skip(spare).collect())
}

fn is_of(fields: &Map<String, Value>, args: &TailArgs) -> bool {
    args.kind.as_ref().is_none_or(|kind| fields["kind"] == kind.as_str())
}

/// The records of a piece, with what became of each.
fn rows(piece: &PieceReply, device: &DeviceId) -> Vec<Row> {
    let decoded: Vec<Vec<u8>> = piece.bytes.iter().filter_map(|text| BASE64.decode(text.as_bytes()).ok()).collect();
    let header = piece.header.as_ref().and_then(|text| BASE64.decode(text.as_bytes()).ok());
    let header = header.and_then(|bytes| Signed::<SegmentHeader>::from_bytes(&bytes).ok()?.claim().ok());
    let records: Vec<Record> = match &header {
        Some(header) => header.read(&decoded).unwrap_or_default(),
        None => decoded.iter().filter_map(|bytes| Record::from_bytes(bytes).ok()).collect(),
    };
    let name = piece.name();
    let state = match piece.state {
        PieceState::Acknowledged => "acknowledged",
        PieceState::Damaged => "damaged",
        PieceState::Pending => "pending",
        PieceState::Unsigned => "unsigned",
    };
    let row = |record: &Record| {
        let mut fields = fields(device, name.era, name.segment, record, record.names());
        fields.insert("state".into(), state.into());
        Row { mark: (name.era, record.index.saturating_add(1)), fields }
    };
    records.iter().map(row).collect()
}

fn shown(format: Format, row: Map<String, Value>) -> Result<(), Failure> {
    match format {
        Format::Json => print_line(row),
        Format::Human => print(&words(&row)),
    }
}

/// Which step, planned by whom, and in which record that was exchanged.
fn step_words(step: &Value) -> Option<String> {
    let planner: Vec<&str> = step["planner"].as_array()?.iter().filter_map(Value::as_str).collect();
    let (era, index) = (step["era"]["number"].as_u64()?, step["index"].as_u64()?);
    let planner: Vec<String> = planner.into_iter().map(quoted).collect();
    Some(format!("step={} planner={} exchange={era}/{index}", quoted(step["id"].as_str()?), planner.join(",")))
}

/// A record in a line: when, which, what, and where it stands on its way to the collector.
fn words(row: &Map<String, Value>) -> String {
    let word = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut text = format!("{} {:20} {:12} {:8}", word("powered"), word("id"), word("state"), word("kind"));
    if let Some(allow) = row.get("allow").and_then(Value::as_bool) {
        text.push_str(if allow { " allow" } else { " deny" });
    }
    for name in ["reason", "operation", "resource", "change", "step", "from", "to", "source", "task", "owner"] {
        if !word(name).is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(text, " {name}={}", quoted(word(name)));
        }
    }
    // Of a decision, or of a task's record.
    if let Some(step) = row.get("step").filter(|step| step.is_object()).or_else(|| row.get("of_step")) {
        text.push_str(&step_words(step).map(|words| format!(" {words}")).unwrap_or_default());
    }
    // Who presented what stands in full once per credential and era.
    if let (Some(era), Some(index)) = (row.get("era"), row.get("named_by").and_then(Value::as_u64)) {
        text.push_str(&format!(" named_by={era}/{index}"));
    }
    let initiator = row.get("initiator").map(|who| (&who["subject"], &who["issuer"]));
    if let Some((Value::String(subject), Value::String(issuer))) = initiator {
        text.push_str(&format!(" initiator={} issuer={}", quoted(subject), quoted(issuer)));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The pairs of a line, as a program reads them.
    fn pairs(line: &str) -> Vec<(String, Vec<String>)> {
        let mut rest = line;
        let mut found = Vec::new();
        while let Some((name, value)) = rest.split_once('=') {
            let name = name.rsplit(' ').next().unwrap();
            let mut values = Vec::new();
            rest = value;
            loop {
                let (value, after) = match rest.starts_with('"') {
                    true => {
                        let mut strings = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                        let value = strings.next().unwrap().unwrap();
                        (value, &rest[strings.byte_offset()..])
                    }
                    false => {
                        let end = rest.find([' ', ',']).unwrap_or(rest.len());
                        (rest[..end].to_owned(), &rest[end..])
                    }
                };
                values.push(value);
                match after.strip_prefix(',') {
                    Some(more) => rest = more,
                    None => {
                        rest = after;
                        break;
                    }
                }
            }
            found.push((name.to_owned(), values));
        }
        found
    }

    #[test]
    fn a_line_can_be_read_back_whatever_somebody_wrote() {
        let hostile = [
            "modbus/pump1",
            "",
            "a b",
            "door reason=allowed",
            "say \"yes\"",
            "C:\\x",
            "a,b",
            "x\n2026-01-01T00:00:00Z gw-07/1/9 allow",
            "\u{1b}[2J\u{9b}31m\u{7f}",
            "gpj\u{202e}exe",
            "größe 測",
        ];
        for text in hostile {
            let row = json!({
                "powered": "2026-01-01T00:00:00Z", "id": "gw-07/1/2", "state": "pending", "kind": "decision", "allow": false,
                "reason": "no_right", "operation": text, "resource": text, "owner": text,
                "step": {"id": "s-1", "planner": [text, "unix:uid:1001"], "era": {"number": 1}, "index": 7},
                "initiator": {"subject": text, "issuer": text},
            });
            let line = words(row.as_object().unwrap());
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
            let mut expected: Vec<(String, Vec<String>)> = Vec::new();
            let mut add = |name: &str, values: &[&str]| {
                expected.push((name.to_owned(), values.iter().map(|value| (*value).to_owned()).collect()));
            };
            add("reason", &["no_right"]);
            for name in ["operation", "resource", "owner"].into_iter().filter(|_| !text.is_empty()) {
                add(name, &[text]);
            }
            add("step", &["s-1"]);
            add("planner", &[text, "unix:uid:1001"]);
            add("exchange", &["1/7"]);
            add("initiator", &[text]);
            add("issuer", &[text]);
            assert_eq!(pairs(&line), expected, "{line}");
        }
        let again = json!({"powered": "2026-01-01T00:00:00Z", "id": "gw-07/1/9", "era": 1, "index": 9, "named_by": 5});
        assert_eq!(pairs(&words(again.as_object().unwrap())), [("named_by".to_owned(), vec!["1/5".to_owned()])]);
    }
}
