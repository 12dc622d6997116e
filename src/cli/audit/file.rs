//! Files that carry a trail, or one record of it, to somebody who has nothing else: what `hardtack fleet audit export` and
//! `prove` write.
//!
//! Owns: which of them a file is, whose keys count, the [`Verdict`]; the first line of an export.
//! Never: takes two forms for one thing: what is read is written again and compared.
//! Read next: `trails.rs`, `proof.rs`, `fork.rs`: the check of each kind.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::str::FromStr;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fork::{ForkProof, Proven};
use super::proof::{check_proof, Proof};
use super::trails::check_export;
use crate::fleet::report::problems::Problems;
use crate::fleet::report::{Report, Signers};
use crate::ids::{hex, unhex, DeviceId, FleetId};
use crate::wire::bundle::PublicKey;
use crate::wire::Refused;

/// The form of an export.
pub(in crate::cli) const EXPORT: &str = "hardtack/audit-export/v1";

/// The most bytes of a line. A proof is one line: two segments at most, their bytes told in text.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// The first line of an export.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    kind: String,
    format: String,
    fleet: FleetId,
    devices: Vec<Keys>,
    /// None for what a collector holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Origin>,
}

/// Who wrote an export, if it was not a collector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A device: what it still holds. What was acknowledged and given back is not in it.
    Device,
}

/// The identity keys of a device, in hexadecimal, the one in use first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    id: DeviceId,
    keys: Vec<String>,
}

impl Head {
    /// The first line for these devices.
    pub fn of(signers: &Signers, only: Option<&DeviceId>) -> Self {
        let wanted = signers.keys.iter().filter(|(id, _)| only.is_none_or(|only| only == *id));
        let keys = |keys: &[PublicKey]| keys.iter().map(|key| hex(key.as_bytes())).collect();
        let devices = wanted.map(|(id, of)| Keys { id: id.clone(), keys: keys(of) });
        Self {
            kind: "export".into(),
            format: EXPORT.into(),
            fleet: signers.fleet.clone(),
            devices: devices.collect(),
            from: None,
        }
    }

    /// The first line of what a device itself holds.
    pub fn of_device(fleet: FleetId, device: DeviceId, identity: &[PublicKey]) -> Self {
        let signers = Signers { fleet, keys: [(device, identity.to_vec())].into() };
        Self { from: Some(Origin::Device), ..Self::of(&signers, None) }
    }
}

/// An identity key that whoever checks a file trusts, of any device of the file or of this one only.
#[derive(Clone, Debug)]
pub struct TrustedKey {
    device: Option<DeviceId>,
    key: PublicKey,
}

impl FromStr for TrustedKey {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (device, key) = match text.split_once('=') {
            Some((device, key)) => (Some(device.parse().map_err(|error| format!("{error}"))?), key),
            None => (None, text),
        };
        Ok(Self { device, key: public(key)? })
    }
}

fn public(text: &str) -> Result<PublicKey, String> {
    let bytes: Option<[u8; 32]> = unhex(text).and_then(|bytes| bytes.try_into().ok());
    let key = bytes.and_then(|bytes| PublicKey::try_from(bytes).ok());
    key.ok_or_else(|| {
        format!("{:?} is no public key: 64 hexadecimal digits", text.chars().take(80).collect::<String>())
    })
}

/// What a file proves.
#[derive(Debug)]
pub struct Verdict {
    /// The fleet that it is of.
    pub fleet: FleetId,
    /// What it is.
    pub evidence: Evidence,
    /// Who wrote it, if it was not a collector.
    pub from: Option<Origin>,
    /// What does not check out and belongs to no device.
    pub problems: Problems,
}

/// What a file is.
#[derive(Debug)]
pub enum Evidence {
    /// Whole trails.
    Export(Report),
    /// One record, as a line of an export has it.
    Proof(Map<String, Value>),
    /// Two headers that cannot both stand in one trail; none where the file does not check out.
    Fork(Option<Box<Proven>>),
}

impl Verdict {
    /// Whether all of it is what was signed.
    pub fn is_sound(&self) -> bool {
        let whole = match &self.evidence {
            Evidence::Export(report) => report.is_sound(),
            Evidence::Proof(_) | Evidence::Fork(_) => true,
        };
        whole && self.problems.is_empty()
    }

    /// Whether all of it is what was signed, though it may be of two trails of one device.
    pub fn is_signed(&self) -> bool {
        let whole = match &self.evidence {
            Evidence::Export(report) => report.is_signed(),
            Evidence::Proof(_) | Evidence::Fork(_) => true,
        };
        whole && self.problems.is_empty()
    }

    pub(super) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }
}

/// Why a file cannot be checked at all.
#[derive(Debug, thiserror::Error)]
pub enum NoEvidence {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// It is something else.
    #[error("it begins with no head of an export and holds no proof: {0}")]
    Other(String),
}

/// Checks an export or a proof. With `trusted` keys only those count, without any the file's own.
///
/// # Errors
/// [`NoEvidence`] for what is neither. What is wrong in an export or a proof stands in the verdict.
pub fn check(mut file: impl BufRead, trusted: &[TrustedKey]) -> Result<Verdict, NoEvidence> {
    let first = next_line(&mut file)?.ok_or_else(|| NoEvidence::Other("it is empty".into()))?;
    let kind: Value = serde_json::from_str(&first).map_err(|error| NoEvidence::Other(error.to_string()))?;
    if kind["kind"] == "proof" {
        let proof: Proof = serde_json::from_str(&first).map_err(|error| NoEvidence::Other(error.to_string()))?;
        let mut verdict = check_proof(&proof, trusted)?;
        one_form(&proof, &first, &mut verdict);
        if next_line(&mut file)?.is_some() {
            verdict.problem("there is something after the proof".into());
        }
        return Ok(verdict);
    }
    if kind["kind"] == "fork" {
        let fork: ForkProof = serde_json::from_str(&first).map_err(|error| NoEvidence::Other(error.to_string()))?;
        let mut verdict = fork.check(trusted)?;
        one_form(&fork, &first, &mut verdict);
        if next_line(&mut file)?.is_some() {
            verdict.problem("there is something after the proof".into());
        }
        return Ok(verdict);
    }
    let head: Head = serde_json::from_str(&first).map_err(|error| NoEvidence::Other(error.to_string()))?;
    if head.kind != "export" || head.format != EXPORT {
        return Err(NoEvidence::Other(format!("a {:?} of the form {:?}", head.kind, head.format)));
    }
    let evidence = Evidence::Export(Report::default());
    let from = head.from;
    let mut verdict = Verdict { fleet: head.fleet.clone(), evidence, from, problems: Problems::default() };
    one_form(&head, &first, &mut verdict);
    let mut signers = Signers { fleet: head.fleet, keys: BTreeMap::new() };
    for Keys { id, keys } in head.devices {
        let keys = counted(&id, &keys, trusted)?;
        if signers.keys.insert(id.clone(), keys).is_some() {
            return Err(NoEvidence::Other(format!("its head names {id} twice")));
        }
    }
    verdict.evidence = Evidence::Export(check_export(file, signers, &mut verdict));
    Ok(verdict)
}

/// What is read has one form: else another reader of the same file might read something else, where a name stands twice.
fn one_form<T: Serialize>(read: &T, text: &str, verdict: &mut Verdict) {
    if serde_json::to_string(read).ok().as_deref() != Some(text) {
        verdict.problem("line 1 is written otherwise than hardtack writes it".into());
    }
}

/// The keys of a device that count.
pub(super) fn counted(
    device: &DeviceId,
    told: &[String],
    trusted: &[TrustedKey],
) -> Result<Vec<PublicKey>, NoEvidence> {
    let one_form = |text: &String| {
        let key = public(text)?;
        (hex(key.as_bytes()) == *text).then_some(key).ok_or_else(|| format!("the key {text} in capitals"))
    };
    let told: Result<Vec<PublicKey>, String> = told.iter().map(one_form).collect();
    let told = told.map_err(NoEvidence::Other)?;
    if trusted.is_empty() {
        return Ok(told);
    }
    let of = |key: &&TrustedKey| key.device.as_ref().is_none_or(|own| own == device);
    Ok(trusted.iter().filter(of).map(|trusted| trusted.key).collect())
}

/// The next line without its end. What is too long or no text is an error of reading.
pub(super) fn next_line(file: &mut impl BufRead) -> Result<Option<String>, std::io::Error> {
    let mut line = Vec::new();
    file.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(std::io::Error::other("a line without an end, or of more than 1 MiB"));
    }
    String::from_utf8(line).map(Some).map_err(|_| std::io::Error::other("a line that is no UTF-8"))
}

pub(super) fn words(refused: Refused) -> String {
    refused.to_string()
}

pub(super) fn decoded(text: &String) -> Result<Vec<u8>, String> {
    BASE64.decode(text.as_bytes()).map_err(|error| format!("no base64: {error}"))
}

#[cfg(test)]
pub(super) mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::trails::lines_of;
    use super::*;
    use crate::fleet::book::Segment;
    use crate::fleet::report::Verifier;
    use crate::ids::{EraId, Hash};
    use crate::time::Timestamp;
    use crate::wire::audit::segment::{grow, root, Salvage, SegmentHeader};
    use crate::wire::audit::signer::AuditKey;
    use crate::wire::audit::{genesis, Event, Evidence as Refusal, Gap, GapCause, Record};
    use crate::wire::envelope::Signed;

    pub(in crate::cli::audit) const ERA: EraId = EraId { number: 1, salt: 77 };

    pub(in crate::cli::audit) fn signers() -> Signers {
        let key = identity().verifying_key();
        Signers { fleet: "acme".parse().unwrap(), keys: [("gw-07".parse().unwrap(), vec![key.into()])].into() }
    }

    fn identity() -> SigningKey {
        SigningKey::from_bytes(&[9; 32])
    }

    fn audit() -> SigningKey {
        SigningKey::from_bytes(&[8; 32])
    }

    pub(in crate::cli::audit) fn refusal() -> Event {
        Event::Refused(Refusal { source: "t".into(), reason: "r".into(), digest: Hash::ZERO, count: 1 })
    }

    /// A segment that follows `before`, with these events.
    pub(in crate::cli::audit) fn segment(era: EraId, before: Option<&Segment>, events: &[Event]) -> Segment {
        let before = before.map(|before| Signed::<SegmentHeader>::from_bytes(&before.header).unwrap().claim().unwrap());
        let device: DeviceId = "gw-07".parse().unwrap();
        let first_index = before.as_ref().map_or(0, |before| before.next_index().unwrap());
        let time = Timestamp(0);
        let record = |(index, event): (u64, &Event)| Record { index, floor: time, powered: time, event: event.clone() };
        let (leaves, root) = grow(&(first_index..).zip(events).map(record).collect::<Vec<_>>());
        let previous = before.as_ref().map(SegmentHeader::head);
        let vouched = AuditKey { device: device.clone(), epoch: 1, key: audit().verifying_key().into() };
        let header = SegmentHeader {
            era,
            signer: Some(Signed::sign(&vouched, &signers().fleet, &[&identity()])),
            segment: before.as_ref().map_or(0, SegmentHeader::next_segment),
            first_index,
            count: events.len() as u32,
            previous: previous.unwrap_or_else(|| genesis(&signers().fleet, &device, era)),
            root,
            closed_at: time,
            recovered: false,
            feeds: Vec::new(),
            salvage: None,
            device,
        };
        signed(header, leaves)
    }

    fn signed(header: SegmentHeader, leaves: Vec<Vec<u8>>) -> Segment {
        let signed = Signed::sign(&header, &signers().fleet, &[&audit()]);
        Segment {
            device: header.device,
            era: header.era,
            segment: header.segment,
            first_index: header.first_index,
            digest: signed.digest(),
            header: signed.to_bytes(),
            leaves,
            at: Timestamp(0),
            read: None,
        }
    }

    /// The same segment, of which nothing is left.
    fn gone(whole: &Segment) -> Segment {
        let mut header = Signed::<SegmentHeader>::from_bytes(&whole.header).unwrap().claim().unwrap();
        let lost = vec![(header.first_index, header.next_index().unwrap())];
        header.salvage = Some(Salvage { next_segment: header.segment + 1, lost, head: header.head(), resumes: None });
        header.root = root(&[]);
        signed(header, Vec::new())
    }

    fn export(segments: &[&Segment]) -> String {
        let mut verifier = Verifier::by(signers());
        let mut text = format!("{}\n", serde_json::to_string(&Head::of(&signers(), None)).unwrap());
        for segment in segments {
            let checked = verifier.segment(Segment::clone(segment)).unwrap();
            for line in lines_of(segment, "then", &checked) {
                text.push_str(&format!("{}\n", Value::Object(line)));
            }
        }
        text
    }

    fn report(text: &str) -> Report {
        let verdict = check(text.as_bytes(), &[]).unwrap();
        assert!(verdict.is_sound(), "{verdict:?}");
        match verdict.evidence {
            Evidence::Export(report) => report,
            Evidence::Proof(_) | Evidence::Fork(_) => panic!("it is an export"),
        }
    }

    #[test]
    fn a_segment_of_which_nothing_is_left_has_a_line_and_a_gap() {
        let first = segment(ERA, None, &[refusal(), refusal()]);
        let second = segment(ERA, Some(&first), &[refusal(), refusal(), refusal()]);
        let third = segment(ERA, Some(&second), &[refusal()]);
        let gone = gone(&second);
        let whole = report(&export(&[&first, &second, &third]));
        assert_eq!((whole.has_gaps(), whole.devices.values().map(|device| device.records).sum::<u64>()), (false, 6));
        let text = export(&[&first, &gone, &third]);
        assert!(report(&text).has_gaps(), "nobody counts what is lost");
        assert!(text.contains(r#""kind":"lost""#));
        let counted = Gap { era: ERA, first: 2, end: Some(5), cause: GapCause::Damaged, repeated: 0 };
        let counted = segment(EraId { number: 2, salt: 1 }, None, &[Event::Gap(counted)]);
        let report = report(&export(&[&first, &gone, &third, &counted]));
        let device = report.devices.values().next().unwrap();
        assert_eq!((device.gaps, device.lost, device.missing), (1, 3, 0));
        for other in [text.replace(r#""count":3"#, r#""count":4"#), text.replace(r#""kind":"lost""#, r#""kind":"gap""#)]
        {
            assert!(!check(other.as_bytes(), &[]).unwrap().is_sound(), "{other}");
        }
    }

    #[test]
    fn what_is_no_evidence_says_so_and_a_line_has_an_end() {
        let whole = export(&[]);
        assert!(report(&whole).is_empty());
        assert!(!report(&export(&[&segment(ERA, None, &[refusal()])])).is_empty());
        let other = |text: &str| matches!(check(text.as_bytes(), &[]), Err(NoEvidence::Other(_)));
        assert!(other("") && other("{}\n") && other("[]\n") && other(&whole.replace("export/v1", "export/v2")));
        assert!(matches!(check(&b"\xff\n"[..], &[]), Err(NoEvidence::Io(_))));
        assert!(matches!(check(whole.trim_end().as_bytes(), &[]), Err(NoEvidence::Io(_))));
        let long = format!("{whole}{}\n", " ".repeat(LINE_BYTES_MAX as usize));
        for text in [format!("{whole}x\n"), format!("{whole}\n"), format!("{whole}{{}}"), long] {
            assert!(!check(text.as_bytes(), &[]).unwrap().is_sound(), "{text}");
        }
        let twice = whole.replacen(r#"{"id":"#, r#"{"id":"gw-08","id":"#, 1);
        assert!(check(twice.as_bytes(), &[]).is_err(), "a name that stands twice");
    }
}
