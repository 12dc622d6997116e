//! Evidence from outside: what a fleet's collector, or a device, exported of its audit, and traces of runs.
//!
//! Owns: reading both line by line, and what of them is an event of a run's trace; the bounds of what is read.
//! Never: believes what stands beside the signed bytes; goes on after a line that is none.
//! Read next: `check/outside.rs`, which judges it.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};

use data_encoding::BASE64;
use hardtack::agent::request::Reason;
use hardtack::agent::salvage::Boundary;
use hardtack::fleet::book::Segment;
use hardtack::fleet::report::branch::Parted;
use hardtack::fleet::report::{Checked, Report, Signers, Verifier};
use hardtack::ids::{unhex, BootId, DeviceId, EraId, FleetId, Hash};
use hardtack::time::Timestamp;
use hardtack::wire::audit::segment::{SegmentHeader, SEGMENT_RECORDS_MAX};
use hardtack::wire::audit::{Event as Told, Record, TrustChange};
use hardtack::wire::bundle::PublicKey;
use hardtack::wire::envelope::Signed;
use serde_json::Value;

pub use crate::check::outside::{judge, Judged, Revocations, Verdict};
use crate::event::Event;
use crate::trace::Count;

/// The most bytes of a line.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// The most gateways that a file may tell of.
const DEVICES_MAX: usize = 100_000;
/// The form of an export.
const EXPORT: &str = "hardtack/audit-export/v1";
/// The modes that an agent is in.
const MODES: [&str; 4] = ["online", "offline", "stale", "locked"];

/// Why a file is no evidence.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {problem}")]
pub struct NoEvidence {
    /// From 1.
    pub line: usize,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

/// What is in a file.
pub(crate) enum Evidence {
    /// An export, and what the check of its signatures and chains found.
    Export(Report),
    /// A trace.
    Trace,
}

/// A segment whose signature and chain check out.
pub(crate) struct Sound<'s> {
    /// The gateway's number: its place in the head.
    pub(crate) number: u32,
    pub(crate) checked: &'s Checked,
    /// It is of another branch than the trail.
    pub(crate) beside: bool,
}

/// Is told what a file holds, in order.
pub(crate) trait Judge {
    /// A segment of an export.
    fn segment(&mut self, sound: &Sound<'_>);
    /// An event, of a trace or as far as an export can tell.
    fn event(&mut self, at: u64, event: &Event);
}

/// Reads a file to its end.
pub(crate) fn read(mut file: impl BufRead, judge: &mut dyn Judge) -> Result<Evidence, NoEvidence> {
    let wrong = |problem: String| NoEvidence { line: 1, problem };
    let first = next_line(&mut file, 1)?.ok_or_else(|| {
        wrong("the file is empty: name what `hardtack fleet audit export` or `hardtack-sim run --trace` wrote".into())
    })?;
    let head: Value = parse(&first, 1)?;
    if head["at"].is_u64() {
        trace(first, &mut file, judge)?;
        return Ok(Evidence::Trace);
    }
    if head["kind"] != "export" || head["format"] != EXPORT {
        let what =
            "neither the head of an audit export nor an event of a trace: name what `hardtack fleet audit export` \
                    or `hardtack-sim run --trace` wrote";
        return Err(wrong(what.into()));
    }
    let mut reader = Reader::begin(&head).map_err(wrong)?;
    let mut number = 1;
    while let Some(text) = next_line(&mut file, number + 1)? {
        number += 1;
        let line = parse(&text, number)?;
        reader.take(number, &line, judge).map_err(|problem| NoEvidence { line: number, problem })?;
    }
    reader.close(judge);
    Ok(Evidence::Export(reader.verifier.finish()))
}

fn parse(text: &str, line: usize) -> Result<Value, NoEvidence> {
    let value: Result<Value, _> = serde_json::from_str(text);
    let object = value.map_err(|error| error.to_string()).and_then(|value| match value.is_object() {
        true => Ok(value),
        false => Err("no object".into()),
    });
    object.map_err(|why| NoEvidence { line, problem: format!("no JSON object: {why}") })
}

fn next_line(file: &mut impl BufRead, line: usize) -> Result<Option<String>, NoEvidence> {
    let wrong = |problem: String| NoEvidence { line, problem };
    let mut bytes = Vec::new();
    let read = file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes);
    read.map_err(|error| wrong(format!("cannot be read: {error}")))?;
    if bytes.is_empty() {
        return Ok(None);
    }
    if bytes.pop() != Some(b'\n') {
        return Err(wrong("has no end, or more than 1 MiB: the file was cut off".into()));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| wrong("is no UTF-8".into()))
}

/// An export that is read.
struct Reader {
    verifier: Verifier,
    numbers: BTreeMap<DeviceId, u32>,
    of_device: bool,
    together: Vec<Line>,
    branch: Option<Branch>,
    boots: BTreeMap<u32, BootId>,
}

/// A line of a segment.
struct Line {
    place: (DeviceId, EraId, u64, Vec<u8>),
    leaf: Option<Vec<u8>>,
}

/// A branch beside a trail.
struct Branch {
    id: Hash,
    parted: Option<Parted>,
}

impl Reader {
    fn begin(head: &Value) -> Result<Self, String> {
        let text = |value: &Value, name: &str| value[name].as_str().map(str::to_owned).ok_or(format!("no {name:?}"));
        let fleet: FleetId = text(head, "fleet")?.parse().map_err(|error| format!("\"fleet\": {error}"))?;
        let devices = head["devices"].as_array().ok_or("no list of devices")?;
        if devices.len() > DEVICES_MAX {
            return Err(format!("more than {DEVICES_MAX} devices"));
        }
        let (mut keys, mut numbers) = (BTreeMap::new(), BTreeMap::new());
        for (device, number) in devices.iter().zip(0..) {
            let id: DeviceId = text(device, "id")?.parse().map_err(|error| format!("\"id\": {error}"))?;
            let listed = device["keys"].as_array().ok_or_else(|| format!("no keys of {id}"))?;
            let own: Option<Vec<PublicKey>> = listed.iter().map(|key| public(key.as_str()?)).collect();
            let own = own.ok_or_else(|| format!("a key of {id} is no public key: 64 hexadecimal digits"))?;
            if keys.insert(id.clone(), own).is_some() {
                return Err(format!("{id} stands twice in the head"));
            }
            numbers.insert(id, number);
        }
        let of_device = head["from"] == "device";
        let signers = Signers { fleet, keys };
        let verifier = if of_device { Verifier::of_device(signers) } else { Verifier::by(signers) };
        Ok(Self { verifier, numbers, of_device, together: Vec::new(), branch: None, boots: BTreeMap::new() })
    }

    fn take(&mut self, number: usize, line: &Value, judge: &mut dyn Judge) -> Result<(), String> {
        let word = |name: &str| line[name].as_str().ok_or_else(|| format!("no text {name:?}"));
        let count = |name: &str| line[name].as_u64().ok_or_else(|| format!("no number {name:?}"));
        let bytes = |name: &str| {
            BASE64.decode(word(name)?.as_bytes()).map_err(|error| format!("{name:?} is no base64: {error}"))
        };
        let hash = |name: &str| {
            let bytes = unhex(word(name)?).and_then(|bytes| bytes.try_into().ok());
            bytes.map(Hash).ok_or_else(|| format!("{name:?} is no hash"))
        };
        let device: DeviceId = word("device")?.parse().map_err(|error| format!("\"device\": {error}"))?;
        if !self.numbers.contains_key(&device) {
            return Err(format!("{device} is not in the file's head"));
        }
        let salt = u64::from_str_radix(word("salt")?, 16).map_err(|error| format!("\"salt\": {error}"))?;
        let era = EraId { number: count("era")?, salt };
        match word("kind")? {
            "hole" | "unsigned" if !self.of_device => return Err("a line that only a device writes".into()),
            "hole" => {
                let signer = if line["signer"].is_null() { None } else { Some(bytes("signer")?) };
                let signer = signer.map(|bytes| Signed::from_bytes(&bytes)).transpose();
                let signer = signer.map_err(|refused| format!("\"signer\": {refused}"))?;
                let to = Boundary { segment: count("segment")?, index: count("index")?, head: hash("head")? };
                self.close(judge);
                self.verifier.hole(&device, era, to, signer.as_ref());
                return Ok(());
            }
            "unsigned" => {
                self.close(judge);
                self.verifier.unsigned(device);
                return Ok(());
            }
            "branch" => {
                let id = hash("branch")?;
                self.close(judge);
                self.branch = Some(Branch { id, parted: None });
                return Ok(());
            }
            _ => {}
        }
        let branch = if line["branch"].is_null() { None } else { Some(hash("branch")?) };
        let open = self.branch.as_ref().map(|branch| branch.id);
        if branch.is_some() && branch != open {
            return Err("of a branch that no line before it begins".into());
        }
        if branch != open {
            self.close(judge);
        }
        let place = (device, era, count("segment")?, bytes("header")?);
        let leaf = if matches!(word("kind")?, "lost" | "shed") { None } else { Some(bytes("leaf")?) };
        if self.together.first().is_some_and(|first| first.place != place) {
            self.segment(judge);
        }
        if self.together.len() > SEGMENT_RECORDS_MAX as usize {
            return Err(format!("line {number} is of a segment with more records than one may have"));
        }
        self.together.push(Line { place, leaf });
        Ok(())
    }

    /// Of the segment at hand, and of the branch if there is one, nothing more comes.
    fn close(&mut self, judge: &mut dyn Judge) {
        self.segment(judge);
        if let Some(parted) = self.branch.take().and_then(|branch| branch.parted) {
            self.verifier.join(parted);
        }
    }

    fn segment(&mut self, judge: &mut dyn Judge) {
        let lines = std::mem::take(&mut self.together);
        let Some(first) = lines.first() else { return };
        let (device, era, segment, header) = first.place.clone();
        let number = self.numbers.get(&device).copied().unwrap_or_default();
        let leaves = lines.into_iter().filter_map(|line| line.leaf).collect();
        let stored = Segment {
            device: device.clone(),
            era,
            segment,
            first_index: 0,
            digest: Hash::ZERO,
            header,
            leaves,
            at: Timestamp(0),
            read: None,
        };
        let beside = self.branch.is_some();
        let checked = match &mut self.branch {
            None => self.verifier.segment(stored),
            Some(branch) => {
                if branch.parted.is_none() {
                    let first = Signed::<SegmentHeader>::from_bytes(&stored.header).map_err(|why| why.to_string());
                    match first.and_then(|first| self.verifier.part(&first)) {
                        Ok(parted) => branch.parted = Some(parted),
                        Err(why) => self.verifier.wrong_aside(&device, era, &why),
                    }
                }
                branch.parted.as_mut().and_then(|parted| parted.segment(stored))
            }
        };
        // What does not check out stands in the verifier's report.
        let Some(checked) = checked else { return };
        judge.segment(&Sound { number, checked: &checked, beside });
        if beside {
            return;
        }
        for (record, _) in &checked.records {
            let at = record.floor.0;
            for event in self.events(number, checked.header.era, record) {
                judge.event(at, &event);
            }
        }
        let stored = Event::Stored { device: number, era: era.number, segment, backlog: 0 };
        judge.event(checked.header.closed_at.0, &stored);
    }

    /// What a record tells, as a trace would have it. Whether the operator had revoked what was shown it cannot tell, nor how
    /// often the agent has started: that is its era.
    fn events(&mut self, device: u32, era: EraId, record: &Record) -> Vec<Event> {
        match &record.event {
            Told::Decision(decision) => {
                let reason = Reason::ALL.into_iter().map(Reason::name).find(|name| *name == decision.reason);
                let event = reason.map(|reason| Event::Decided {
                    device,
                    allow: decision.allow,
                    reason,
                    revoked: false,
                    era: era.number,
                    index: record.index,
                });
                event.into_iter().collect()
            }
            Told::Start(start) => {
                let booted = self.boots.insert(device, start.boot) != Some(start.boot);
                let power = booted.then_some(Event::PowerOn { device });
                power.into_iter().chain([Event::AgentStarted { device, start: era.number }]).collect()
            }
            Told::Mode(mode) => {
                let to = MODES.into_iter().find(|name| *name == mode.to);
                to.map(|mode| Event::Mode { device, mode }).into_iter().collect()
            }
            Told::Trust(TrustChange::Feed { position }) => {
                let feed = position.feed.to_string();
                vec![Event::Applied { device, feed, era: position.era, seq: position.seq }]
            }
            Told::Alive(_)
            | Told::Ended(_)
            | Told::Gap(_)
            | Told::Grant(_)
            | Told::Refused(_)
            | Told::Repeated(_)
            | Told::Task(_)
            | Told::Trust(_) => Vec::new(),
        }
    }
}

fn public(text: &str) -> Option<PublicKey> {
    let bytes: [u8; 32] = unhex(text)?.try_into().ok()?;
    PublicKey::try_from(bytes).ok()
}

/// A trace up to its end, after which a report may follow: those of its events that something can be judged by, and the rest as far as their names.
fn trace(first: String, file: &mut impl BufRead, judge: &mut dyn Judge) -> Result<(), NoEvidence> {
    let (mut next, mut number, mut last, mut count) = (Some(first), 1, 0, Count::default());
    loop {
        let wrong = |problem: String| NoEvidence { line: number, problem };
        let text = next.ok_or_else(|| wrong("stands where the trace should go on or end: it was cut off".into()))?;
        let line = parse(&text, number)?;
        if line["end"].is_object() {
            let end = count.end();
            return match text == end {
                true => Ok(()),
                false => Err(wrong(format!(
                    "the lines before this one are not those that were written: they end with {end}"
                ))),
            };
        }
        count.take(&text);
        let at = line["at"].as_u64().ok_or_else(|| wrong("no time \"at\"".into()))?;
        if at < last {
            return Err(wrong(format!("its time {at} is before that of the line before it, {last}")));
        }
        last = at;
        if let Some(event) = event_of(&line["event"]).map_err(wrong)? {
            judge.event(at, &event);
        }
        number += 1;
        next = next_line(file, number)?;
    }
}

fn event_of(value: &Value) -> Result<Option<Event>, String> {
    let word = |name: &str| value[name].as_str().ok_or_else(|| format!("the event has no text {name:?}"));
    let number = |name: &str| value[name].as_u64().ok_or_else(|| format!("the event has no number {name:?}"));
    let small =
        |name: &str| u32::try_from(number(name)?).map_err(|_| format!("the event's {name:?} has more than 32 bits"));
    let flag = |name: &str| value[name].as_bool().ok_or_else(|| format!("the event has no flag {name:?}"));
    let of = |names: &[&'static str], told: &str, what: &str| {
        names.iter().copied().find(|name| *name == told).ok_or_else(|| format!("{what} {told:?} is not known"))
    };
    let event = match word("kind")? {
        "decided" => Event::Decided {
            device: small("device")?,
            allow: flag("allow")?,
            reason: of(&Reason::ALL.map(Reason::name), word("reason")?, "the reason")?,
            revoked: flag("revoked")?,
            era: number("era")?,
            index: number("index")?,
        },
        "applied" => Event::Applied {
            device: small("device")?,
            feed: word("feed")?.to_owned(),
            era: small("era")?,
            seq: number("seq")?,
        },
        "agent_started" => Event::AgentStarted { device: small("device")?, start: number("start")? },
        "mode" => Event::Mode { device: small("device")?, mode: of(&MODES, word("mode")?, "the mode")? },
        "stored" => Event::Stored {
            device: small("device")?,
            era: number("era")?,
            segment: number("segment")?,
            backlog: number("backlog")?,
        },
        "revoked" => Event::Revoked { feed: word("feed")?.to_owned(), era: small("era")?, seq: number("seq")? },
        "asleep" | "committed" | "link" | "logged" | "message" | "plan_step" | "power_on" | "stopped" | "replied" => {
            return Ok(None);
        }
        other => return Err(format!("an event of the kind {other:?} is not known")),
    };
    Ok(Some(event))
}

#[cfg(test)]
mod tests;
