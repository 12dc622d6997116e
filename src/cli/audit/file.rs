//! Files that carry a trail, or one record of it, to somebody who has nothing else: what `hardtack fleet audit export` and
//! `prove` write. `fork.rs` has the third kind.
//!
//! Owns: their form, and the check of one against nothing but public keys.
//! Never: believes what stands beside the signed bytes: it is made again from them and compared.
//! Read next: `../../fleet/report.rs`, which checks the chains; `../../wire/audit/proof.rs`.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::str::FromStr;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::fork::{ForkProof, Proven};
use super::line::{self, fields, line, nothing_left, Hole, Source};
use crate::agent::salvage::Boundary;
use crate::fleet::book::Segment;
use crate::fleet::report::branch::Parted;
use crate::fleet::report::lineage::Vouching;
use crate::fleet::report::problems::Problems;
use crate::fleet::report::{Checked, Report, Signers, Verifier};
use crate::ids::{hex, unhex, DeviceId, EraId, FleetId, Hash, KeyId};
use crate::time::Timestamp;
use crate::wire::audit::proof::Inclusion;
use crate::wire::audit::segment::{SegmentHeader, SEGMENT_RECORDS_MAX};
use crate::wire::audit::signer::{AuditKey, Signer};
use crate::wire::audit::{record_id, Event, Named, Record, TrustChange};
use crate::wire::bundle::PublicKey;
use crate::wire::envelope::Signed;
use crate::wire::Refused;

/// The form of an export.
pub(in crate::cli) const EXPORT: &str = "hardtack/audit-export/v1";
/// The form of a proof.
pub(in crate::cli) const PROOF: &str = "hardtack/audit-proof/v1";

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

/// One record with its proof, and that of the record which names its credential, if that is another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    kind: String,
    format: String,
    fleet: FleetId,
    device: DeviceId,
    keys: Vec<String>,
    id: String,
    /// In which an identity key vouches for an audit key.
    certificates: Vec<String>,
    /// Records that announce further audit keys, each signed with one that is known by then.
    announced: Vec<Proved>,
    records: Vec<Proved>,
}

/// What a proof is made of.
#[derive(Default)]
pub struct Parts {
    /// What vouches for the keys that signed them.
    pub vouching: Vouching,
    /// The record.
    pub record: Option<Inclusion>,
    /// The one that names its credential, if that is another.
    pub naming: Option<Inclusion>,
}

/// A record in a proof.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Proved {
    /// As in a line of an export, without what only the collector says.
    record: Map<String, Value>,
    /// The signed header.
    header: String,
    /// The place of its leaf in the tree, from 0.
    place: u64,
    /// How many leaves the tree has.
    count: u64,
    /// The leaves from the first to its own.
    leaves: Vec<String>,
    /// The path of its own, from the leaf up.
    path: Vec<Hash>,
}

impl Proof {
    /// The proof of a record.
    ///
    /// # Errors
    /// Those of [`Inclusion::open`]: what does not check out is no proof.
    pub fn of(signers: &Signers, parts: &Parts) -> Result<Self, Refused> {
        let inclusion = parts.record.as_ref().ok_or(Refused::Malformed("a proof of no record"))?;
        let device = inclusion.header.claim()?.device;
        let identities = signers.keys.get(&device).map_or(&[][..], Vec::as_slice);
        let mut ring = Ring::of(&signers.fleet, &device, identities);
        let (certificates, announced) = told(&mut ring, &parts.vouching)?;
        let (header, record) = ring.open(inclusion)?;
        let other = parts.naming.as_ref().map(|inclusion| ring.open(inclusion)).transpose()?;
        let named = record.names().or(other.as_ref().and_then(|(_, other)| other.names()));
        let id = record_id(&header.device, header.era, record.index);
        let mut records = vec![proved(inclusion, &header, &record, named)?];
        if let (Some(inclusion), Some((header, record))) = (&parts.naming, &other) {
            records.push(proved(inclusion, header, record, record.names())?);
        }
        Ok(Self {
            kind: "proof".into(),
            format: PROOF.into(),
            fleet: signers.fleet.clone(),
            device,
            keys: identities.iter().map(|key| hex(key.as_bytes())).collect(),
            id,
            certificates,
            announced,
            records,
        })
    }
}

/// The audit keys of a device that are vouched for.
pub(super) struct Ring<'f> {
    fleet: &'f FleetId,
    device: &'f DeviceId,
    identities: &'f [PublicKey],
    signers: Vec<Signer>,
}

impl<'f> Ring<'f> {
    pub(super) fn of(fleet: &'f FleetId, device: &'f DeviceId, identities: &'f [PublicKey]) -> Self {
        Self { fleet, device, identities, signers: Vec::new() }
    }

    /// One for which an identity key vouches.
    fn vouched(&mut self, certificate: &Signed<AuditKey>) -> Result<(), Refused> {
        self.signers.push(Signer::of(certificate, self.fleet, self.device, self.identities)?);
        Ok(())
    }

    /// One that a record announces which is signed with one of these.
    fn announced(&mut self, inclusion: &Inclusion) -> Result<(SegmentHeader, Record), Refused> {
        let keys = self.signers.iter().map(|signer| signer.key.verifying());
        let (header, record) = inclusion.open(self.fleet, keys)?;
        let signer = self.signer(&inclusion.header)?;
        let Event::Trust(TrustChange::AuditKey { epoch, key }) = record.event else {
            return Err(Refused::Malformed("a record that announces no key"));
        };
        self.signers.push(Signer { epoch, key, ..signer });
        Ok((header, record))
    }

    fn open(&self, inclusion: &Inclusion) -> Result<(SegmentHeader, Record), Refused> {
        inclusion.open(self.fleet, self.signers.iter().map(|signer| signer.key.verifying()))
    }

    /// A header alone, and who signed it.
    pub(super) fn header(&self, signed: &Signed<SegmentHeader>) -> Result<(SegmentHeader, Signer), Refused> {
        let header = signed.open(self.fleet, self.signers.iter().map(|signer| signer.key.verifying()), 1)?;
        Ok((header, self.signer(signed)?))
    }

    /// Whose signature comes first, of those that are known.
    fn signer(&self, signed: &Signed<SegmentHeader>) -> Result<Signer, Refused> {
        let known = |id: KeyId| self.signers.iter().find(|signer| KeyId::of(signer.key.as_bytes()) == id);
        let signer = signed.signed_by().find_map(known).copied();
        signer.ok_or(Refused::UnknownKey { valid: 0, needed: 1 })
    }
}

/// What vouches for audit keys, as files tell it; each part of it is checked, and its keys are in the ring from there on.
pub(super) fn told(ring: &mut Ring<'_>, vouching: &Vouching) -> Result<(Vec<String>, Vec<Proved>), Refused> {
    for certificate in &vouching.certificates {
        ring.vouched(certificate)?;
    }
    let announced = vouching.announced.iter().map(|inclusion| {
        let (header, record) = ring.announced(inclusion)?;
        proved(inclusion, &header, &record, None)
    });
    let announced = announced.collect::<Result<_, _>>()?;
    Ok((vouching.certificates.iter().map(|one| BASE64.encode(&one.to_bytes())).collect(), announced))
}

/// Takes what a file says of audit keys into the ring.
pub(super) fn take(ring: &mut Ring<'_>, certificates: &[String], announced: &[Proved]) -> Result<(), String> {
    for text in certificates {
        let certificate = Signed::from_bytes(&decoded(text)?).map_err(words)?;
        ring.vouched(&certificate).map_err(|refused| format!("nobody vouches for an audit key: {refused}"))?;
    }
    for proved in announced {
        let (header, record) = ring.announced(&inclusion_of(proved)?).map_err(unsound)?;
        stands(ring.device, proved, &header)?;
        if fields(&header.device, header.era, header.segment, &record, None) != proved.record {
            return Err(format!("what it says of record {} is not what was signed", record.index));
        }
    }
    Ok(())
}

fn proved(
    inclusion: &Inclusion,
    header: &SegmentHeader,
    record: &Record,
    named: Option<&Named>,
) -> Result<Proved, Refused> {
    Ok(Proved {
        record: fields(&header.device, header.era, header.segment, record, named),
        header: BASE64.encode(&inclusion.header.to_bytes()),
        place: inclusion.leaves.len() as u64 - 1,
        count: header.kept()?.iter().map(|(first, end)| end - first).sum(),
        leaves: inclusion.leaves.iter().map(|leaf| BASE64.encode(leaf)).collect(),
        path: inclusion.path.clone(),
    })
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
fn next_line(file: &mut impl BufRead) -> Result<Option<String>, std::io::Error> {
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

fn check_export(mut file: impl BufRead, signers: Signers, verdict: &mut Verdict) -> Report {
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

fn check_proof(proof: &Proof, trusted: &[TrustedKey]) -> Result<Verdict, NoEvidence> {
    if proof.format != PROOF {
        return Err(NoEvidence::Other(format!("a proof of the form {:?}", proof.format)));
    }
    let keys = counted(&proof.device, &proof.keys, trusted)?;
    let record = proof.records.first().map(|first| first.record.clone()).unwrap_or_default();
    let evidence = Evidence::Proof(record);
    let mut verdict = Verdict { fleet: proof.fleet.clone(), evidence, from: None, problems: Problems::default() };
    if let Err(why) = proof_holds(proof, &keys) {
        verdict.problem(why);
    }
    Ok(verdict)
}

fn proof_holds(proof: &Proof, identities: &[PublicKey]) -> Result<(), String> {
    let mut ring = Ring::of(&proof.fleet, &proof.device, identities);
    take(&mut ring, &proof.certificates, &proof.announced)?;
    let mut opened: Vec<(SegmentHeader, Record)> = Vec::new();
    for proved in &proof.records {
        let (header, record) = ring.open(&inclusion_of(proved)?).map_err(unsound)?;
        stands(&proof.device, proved, &header)?;
        opened.push((header, record));
    }
    let [(header, record), others @ ..] = &opened[..] else { return Err("it holds no record".into()) };
    let id = record_id(&proof.device, header.era, record.index);
    if id != proof.id {
        return Err(format!("it is said to prove {} and proves {id}", proof.id));
    }
    let named = match (record.named_by(), others) {
        (None, []) => record.names(),
        (Some(index), [(other_header, other)]) => {
            if other.index != index
                || other_header.era != header.era
                || !other.decision().is_some_and(|decision| decision.allow)
            {
                return Err(format!("its credential is named by record {index}, and another one comes with it"));
            }
            Some(other.names().ok_or_else(|| format!("record {index} names no credential"))?)
        }
        (Some(index), _) => return Err(format!("record {index}, which names its credential, does not come with it")),
        (None, _) => return Err("it brings records that nothing refers to".into()),
    };
    let named = [named].into_iter().chain(others.iter().map(|(_, other)| other.names()));
    for (((header, record), named), proved) in opened.iter().zip(named).zip(&proof.records) {
        if fields(&header.device, header.era, header.segment, record, named) != proved.record {
            return Err(format!("what it says of record {} is not what was signed", record.index));
        }
    }
    Ok(())
}

pub(super) fn words(refused: Refused) -> String {
    refused.to_string()
}

fn unsound(refused: Refused) -> String {
    format!("a record does not check out: {refused}")
}

pub(super) fn decoded(text: &String) -> Result<Vec<u8>, String> {
    BASE64.decode(text.as_bytes()).map_err(|error| format!("no base64: {error}"))
}

fn inclusion_of(proved: &Proved) -> Result<Inclusion, String> {
    Ok(Inclusion {
        header: Signed::from_bytes(&decoded(&proved.header)?).map_err(words)?,
        leaves: proved.leaves.iter().map(decoded).collect::<Result<_, _>>()?,
        path: proved.path.clone(),
    })
}

/// Whether a record that was opened is of the device and at the place that the proof says.
fn stands(device: &DeviceId, proved: &Proved, header: &SegmentHeader) -> Result<(), String> {
    let count: u64 = header.kept().map_err(words)?.iter().map(|(first, end)| end - first).sum();
    if header.device != *device {
        return Err(format!("signed by {}, and said to be of {device}", header.device));
    }
    if (proved.place.saturating_add(1), proved.count) != (proved.leaves.len() as u64, count) {
        return Err("its place is another than its leaves have".into());
    }
    Ok(())
}

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

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::fleet::report::lineage::Lineage;
    use crate::wire::audit::genesis;
    use crate::wire::audit::segment::{grow, root, Salvage};
    use crate::wire::audit::{Evidence as Refusal, Gap, GapCause};

    const ERA: EraId = EraId { number: 1, salt: 77 };

    type Edit = fn(&mut Proof);

    fn signers() -> Signers {
        let key = identity().verifying_key();
        Signers { fleet: "acme".parse().unwrap(), keys: [("gw-07".parse().unwrap(), vec![key.into()])].into() }
    }

    fn identity() -> SigningKey {
        SigningKey::from_bytes(&[9; 32])
    }

    fn audit() -> SigningKey {
        SigningKey::from_bytes(&[8; 32])
    }

    fn refusal() -> Event {
        Event::Refused(Refusal { source: "t".into(), reason: "r".into(), digest: Hash::ZERO, count: 1 })
    }

    /// A segment that follows `before`, with these events.
    fn segment(era: EraId, before: Option<&Segment>, events: &[Event]) -> Segment {
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
    fn a_proof_brings_what_vouches_for_the_key_that_signed_it() {
        let next = SigningKey::from_bytes(&[7; 32]);
        let announcement = TrustChange::AuditKey { epoch: 2, key: next.verifying_key().into() };
        let first = segment(ERA, None, &[refusal(), Event::Trust(announcement), refusal()]);
        let second = segment(ERA, Some(&first), &[refusal()]);
        let header = |segment: &Segment| Signed::<SegmentHeader>::from_bytes(&segment.header).unwrap();
        let unnamed = SegmentHeader { signer: None, ..header(&second).claim().unwrap() };
        let signed = Signed::sign(&unnamed, &signers().fleet, &[&next]);
        let parts = || Parts {
            vouching: Vouching {
                certificates: vec![header(&first).claim().unwrap().signer.unwrap()],
                announced: vec![Inclusion::of(header(&first), &first.leaves, 1).unwrap().unwrap()],
            },
            record: Inclusion::of(signed.clone(), &second.leaves, 3).unwrap(),
            naming: None,
        };
        let holds = |proof: &Proof| {
            let text = format!("{}\n", serde_json::to_string(proof).unwrap());
            check(text.as_bytes(), &[]).unwrap().is_sound()
        };
        let proof = || Proof::of(&signers(), &parts()).unwrap();
        assert!(holds(&proof()));
        let edits: [(&str, Edit); 5] = [
            ("no certificate", |proof| proof.certificates.clear()),
            ("no announcement", |proof| proof.announced.clear()),
            ("no record", |proof| proof.records.clear()),
            ("what is announced is said to be another", |proof| {
                proof.announced[0].record.insert("epoch".into(), 3.into());
            }),
            ("a record that announces nothing", |proof| proof.announced.append(&mut proof.records)),
        ];
        for (what, edit) in edits {
            let mut damaged = proof();
            edit(&mut damaged);
            assert!(!holds(&damaged), "{what}");
        }
        let with = |announced| Parts { vouching: Vouching { announced, ..parts().vouching }, ..parts() };
        let without = with(Vec::new());
        assert!(matches!(Proof::of(&signers(), &without), Err(Refused::UnknownKey { .. })));
        let other = with(vec![Inclusion::of(header(&first), &first.leaves, 0).unwrap().unwrap()]);
        assert!(matches!(Proof::of(&signers(), &other), Err(Refused::Malformed(_))));
        let mut lineage = Lineage::default();
        lineage.note(&first).unwrap();
        lineage.note(&Segment { header: signed.to_bytes(), ..second.clone() }).unwrap();
        assert_eq!(lineage.of(signed.signed_by()), parts().vouching, "what leads to the key that signed");
        let certified = Vouching { announced: Vec::new(), ..parts().vouching };
        assert_eq!(lineage.of(header(&first).signed_by()), certified);
        assert_eq!(lineage.of([KeyId([9; 8])]), Vouching::default());
    }

    #[test]
    fn what_is_no_evidence_says_so_and_a_line_has_an_end() {
        let whole = export(&[]);
        assert!(report(&whole).devices.values().all(|device| device.records == 0));
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
