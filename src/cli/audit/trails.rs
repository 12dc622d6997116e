//! An export, read line by line.
//!
//! Owns: its lines, how they belong together, and the check of each against what was signed.
//! Never: holds more than the lines of one segment; believes a line of what comes after it.
//! Read next: `line.rs`, which makes the lines; `../../fleet/report.rs`, which checks the chains.

use std::io::BufRead;

use data_encoding::BASE64;
use serde_json::{Map, Value};

use super::file::{next_line, words, Origin, Verdict};
use super::line::{self, line, nothing_left, Hole, Source};
use crate::agent::salvage::Boundary;
use crate::fleet::book::Segment;
use crate::fleet::report::branch::Parted;
use crate::fleet::report::{Checked, Report, Signers, Verifier};
use crate::ids::{unhex, DeviceId, EraId, Hash};
use crate::time::Timestamp;
use crate::wire::audit::segment::SEGMENT_RECORDS_MAX;
use crate::wire::audit::Record;
use crate::wire::envelope::Signed;

/// A line of an export for each record of a segment, in order.
pub fn lines_of<'s>(
    segment: &'s Segment,
    received: &'s str,
    checked: &'s Checked,
) -> impl Iterator<Item = Map<String, Value>> + 's {
    let source = Source { received: Some(received), signed: &segment.header, header: &checked.header };
    let with_leaf = checked.records.iter().zip(&segment.leaves);
    let lines = with_leaf.map(move |((record, named), leaf)| line(source, record, named.as_deref(), leaf));
    lines.chain(checked.records.is_empty().then(|| nothing_left(source)))
}

/// A line of an export, before anything of it is believed.
enum Line {
    /// With which another branch of an era begins.
    Branch(BranchLine),
    /// Of a device's: where its disk has lost something.
    Hole(Hole),
    /// Of a segment.
    Signed(Told),
    /// Of a device's: a record that no signature covers.
    Unsigned(DeviceId),
}

/// A line of a segment.
struct Told {
    number: usize,
    text: String,
    place: Claim,
    received: Option<String>,
    leaf: Option<Vec<u8>>,
    /// The branch that it says it is of; none for the trail.
    branch: Option<Hash>,
}

/// A line with which a branch begins.
struct BranchLine {
    text: String,
    id: Hash,
    segments: u64,
}

/// Which segment a line says it is of.
#[derive(PartialEq)]
struct Claim {
    device: DeviceId,
    era: EraId,
    segment: u64,
    header: Vec<u8>,
}

impl Line {
    fn parse(number: usize, text: String) -> Result<Self, String> {
        let value: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let word = |name: &str| value[name].as_str().ok_or_else(|| format!("no text {name:?}"));
        let count = |name: &str| value[name].as_u64().ok_or_else(|| format!("no number {name:?}"));
        let bytes = |name: &str| {
            BASE64.decode(word(name)?.as_bytes()).map_err(|error| format!("{name:?} is no base64: {error}"))
        };
        let salt = word("salt")?;
        let salt = u64::from_str_radix(salt, 16).map_err(|error| format!("{salt:?} is no salt: {error}"))?;
        let device: DeviceId = word("device")?.parse().map_err(|error| format!("{error}"))?;
        let era = EraId { number: count("era")?, salt };
        let hash = |name: &str| {
            let bytes = unhex(word(name)?).and_then(|bytes| bytes.try_into().ok());
            bytes.map(Hash).ok_or_else(|| format!("{name:?} is no hash"))
        };
        match word("kind")? {
            "branch" => {
                let (id, segments) = (hash("branch")?, count("segments")?);
                return Ok(Self::Branch(BranchLine { text, id, segments }));
            }
            "hole" => {
                let head = hash("head")?;
                let signer = if value["signer"].is_null() { None } else { Some(bytes("signer")?) };
                let signer = signer.map(|bytes| Signed::from_bytes(&bytes)).transpose().map_err(words)?;
                let hole = Hole { device, era, segment: count("segment")?, index: count("index")?, head, signer };
                same(line::hole(&hole), &text)?;
                return Ok(Self::Hole(hole));
            }
            "unsigned" => {
                let bytes = bytes("record")?;
                let record = Record::from_bytes(&bytes).map_err(words)?;
                same(line::unsigned(&device, era, &record, &bytes), &text)?;
                return Ok(Self::Unsigned(device));
            }
            _ => {}
        }
        let place = Claim { device, era, segment: count("segment")?, header: bytes("header")? };
        let received = if value["received"].is_null() { None } else { Some(word("received")?.to_owned()) };
        let leaf = if matches!(word("kind")?, "lost" | "shed") { None } else { Some(bytes("leaf")?) };
        let branch = if value["branch"].is_null() { None } else { Some(hash("branch")?) };
        Ok(Self::Signed(Told { number, text, place, received, leaf, branch }))
    }
}

/// Whether a line is as hardtack writes it.
fn same(made: Map<String, Value>, text: &str) -> Result<(), String> {
    let made = Value::Object(made).to_string();
    (made == text).then_some(()).ok_or_else(|| "it is written otherwise than hardtack writes it".into())
}

/// An export that is read line by line.
struct Reading<'v> {
    verifier: Verifier,
    verdict: &'v mut Verdict,
    /// Lines of one segment.
    together: Vec<Told>,
    /// The branch that they are of, if it is not the trail.
    branch: Option<Open>,
}

/// A branch whose line has come.
struct Open {
    number: usize,
    line: BranchLine,
    /// None before its first segment, or if there is none such.
    parted: Option<Parted>,
    refused: bool,
}

/// Reads all lines after the head. What is wrong with them stands in the verdict, and in the report.
pub(super) fn check_export(mut file: impl BufRead, signers: Signers, verdict: &mut Verdict) -> Report {
    let verifier = match verdict.from {
        Some(Origin::Device) => Verifier::of_device(signers),
        None => Verifier::by(signers),
    };
    let mut reading = Reading { verifier, verdict, together: Vec::new(), branch: None };
    for number in 2.. {
        let text = match next_line(&mut file) {
            Ok(Some(text)) => text,
            Ok(None) => break,
            Err(error) => {
                reading.verdict.problem(format!("line {number} and all after it cannot be read: {error}"));
                break;
            }
        };
        match Line::parse(number, text) {
            Ok(line) => reading.take(number, line),
            Err(why) => reading.verdict.problem(format!("line {number} is no record: {why}")),
        }
    }
    reading.close();
    reading.verifier.finish()
}

impl Reading<'_> {
    fn take(&mut self, number: usize, line: Line) {
        match line {
            Line::Hole(_) | Line::Unsigned(_) if self.verdict.from.is_none() => {
                self.verdict.problem(format!("line {number} is one that only a device writes"));
            }
            Line::Hole(Hole { device, era, segment, index, head, signer }) => {
                self.close();
                self.verifier.hole(&device, era, Boundary { segment, index, head }, signer.as_ref());
            }
            Line::Unsigned(device) => {
                self.close();
                self.verifier.unsigned(device);
            }
            Line::Branch(line) => {
                self.close();
                self.branch = Some(Open { number, line, parted: None, refused: false });
            }
            Line::Signed(told) => {
                let open = self.branch.as_ref().map(|open| open.line.id);
                match (told.branch, open) {
                    (Some(own), open) if open != Some(own) => {
                        return self
                            .verdict
                            .problem(format!("line {number} is of a branch that did not begin before it"));
                    }
                    (None, Some(_)) => self.close(),
                    (Some(_) | None, _) => {}
                }
                let full = self.together.len() > SEGMENT_RECORDS_MAX as usize;
                if full || self.together.first().is_some_and(|first| first.place != told.place) {
                    self.segment();
                }
                self.together.push(told);
            }
        }
    }

    /// Of the segment at hand, and of the branch if there is one, nothing more comes.
    fn close(&mut self) {
        self.segment();
        let Some(Open { number, line, parted, refused }) = self.branch.take() else { return };
        match parted {
            Some(parted) => {
                if parted.segments != line.segments {
                    let (here, all) = (parted.segments, line.segments);
                    self.verdict
                        .problem(format!("line {number} begins a branch of {all} segments, of which {here} are here"));
                }
                self.verifier.join(parted);
            }
            None if refused => {}
            None => self.verdict.problem(format!("line {number} begins a branch of which nothing is here")),
        }
    }

    /// Checks the lines of one segment.
    fn segment(&mut self) {
        let lines = std::mem::take(&mut self.together);
        let Some(first) = lines.first() else { return };
        let Claim { device, era, segment, header: signed } = &first.place;
        let leaves: Vec<Vec<u8>> = lines.iter().filter_map(|line| line.leaf.clone()).collect();
        let stored = Segment {
            device: device.clone(),
            era: *era,
            segment: *segment,
            first_index: 0,
            digest: Hash::ZERO,
            header: signed.clone(),
            leaves,
            at: Timestamp(0),
            read: None,
        };
        // What is wrong with it stands in the verifier's report.
        let (branch, checked) = match &mut self.branch {
            None => (None, self.verifier.segment(stored)),
            Some(open) => {
                open.begin(signed, &mut self.verifier, self.verdict);
                let checked = open.parted.as_mut().and_then(|parted| parted.segment(stored));
                (Some(open.line.id), checked)
            }
        };
        let Some(Checked { header, records, .. }) = checked else { return };
        let mut expected = records.iter();
        for told in &lines {
            let source = Source { received: told.received.as_deref(), signed, header: &header };
            let made = match (&told.leaf, records.is_empty()) {
                (None, true) => Some(nothing_left(source)),
                (None, false) => None,
                (Some(leaf), _) => expected.next().map(|(record, named)| line(source, record, named.as_deref(), leaf)),
            };
            let made = made.map(|made| branch.into_iter().fold(made, line::of_branch));
            let made = made.map(|made| Value::Object(made).to_string());
            if made.as_deref() != Some(told.text.as_str()) {
                self.verdict.problem(format!("line {} says otherwise than what was signed", told.number));
            }
        }
        if records.is_empty() && lines.len() > 1 {
            self.verdict.problem(format!("line {} says again that there is no record of a segment", lines[1].number));
        }
    }
}

impl Open {
    /// With its first segment it is known where the branch parts, and whether its line says so.
    fn begin(&mut self, header: &[u8], verifier: &mut Verifier, verdict: &mut Verdict) {
        if self.parted.is_some() || self.refused {
            return;
        }
        let begun = Signed::from_bytes(header).map_err(words).and_then(|first| verifier.part(&first));
        match begun {
            Ok(parted) => {
                let made = Value::Object(line::branch(&parted, self.line.segments)).to_string();
                if made != self.line.text {
                    verdict.problem(format!("line {} says otherwise than what was signed", self.number));
                }
                self.parted = Some(parted);
            }
            Err(why) => {
                verdict.problem(format!("line {} begins no branch: {why}", self.number));
                self.refused = true;
            }
        }
    }
}
