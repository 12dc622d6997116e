//! What this device itself still holds of its audit: through the running agent, or from the state folder.
//!
//! Owns: [`Trail`], the two ways to it; [`walk`], which goes through it piece by piece and tells where one is missing; the
//! export.
//! Never: writes to the state folder; says of what no signature covers that it is proved.
//! Read next: `../../shell/store/survey.rs`, `../../agent/request/trail.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use data_encoding::BASE64;
use serde_json::{json, Map, Value};

use super::super::client::{get, Door};
use super::super::output::{print, show};
use super::super::{Exit, Failure, Globals};
use super::file::{check, Head, TrustedKey, Verdict};
use super::line::{hole, line, nothing_left, unsigned, Hole, Source};
use crate::agent::audit_key::{AuditSigner, Owner};
use crate::agent::effects::KeyUse;
use crate::agent::request::trail::{EraReply, PieceName, PieceReply, TrailAsk, TrailReply, PIECES_MAX};
use crate::ids::{unhex, DeviceId, EraId, FleetId};
use crate::shell::keys::DeviceKeyFile;
use crate::shell::store::{holder, StoreError, Survey};
use crate::wire::audit::segment::{Loaded, SegmentHeader, Upload};
use crate::wire::audit::{Named, Record};
use crate::wire::bundle::{PublicKey, TrustBundle};
use crate::wire::envelope::Signed;
use crate::wire::Refused;

/// Arguments of `hardtack audit export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Where it goes, in place of what is there [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Who the device is, as its own files or its agent say.
#[derive(Clone, Debug)]
pub(super) struct Whose {
    pub(super) fleet: FleetId,
    pub(super) device: DeviceId,
    pub(super) identity: Vec<PublicKey>,
}

/// The way to the trail.
pub(super) enum Trail<'g> {
    /// Nobody runs on the folder.
    Folder { survey: Box<Survey>, whose: Whose, signer: Option<Box<AuditSigner>> },
    /// The agent answers.
    Running { globals: &'g Globals, whose: Whose, eras: Vec<EraReply> },
}

/// Something of the trail.
pub(super) enum Piece {
    /// Segments are missing before the next one.
    Hole(Hole),
    /// A segment whose header contradicts itself or its records: it is passed over, and why.
    Odd(EraId, u64, Refused),
    /// A whole segment, and its records.
    Segment(Box<SegmentHeader>, Upload, Vec<Record>),
    /// A record that no signature covers here.
    Unsigned(EraId, Record, Vec<u8>),
}

impl<'g> Trail<'g> {
    /// The running agent's trail; without one, what the state folder holds.
    ///
    /// # Errors
    /// [`Exit::NotEnrolled`] where there is no device, [`Exit::TryAgain`] where an agent runs that does not answer.
    pub(super) fn open(globals: &'g Globals) -> Result<Self, Failure> {
        match page(globals, &TrailAsk { after: None, pieces: 1 }) {
            Ok(reply) => Ok(Self::Running { globals, whose: whose(&reply)?, eras: reply.eras }),
            Err(failure) if failure.exit == Exit::Unreachable => {
                let state_dir = globals.load()?.state_dir;
                refuse_running(&state_dir, &failure)?;
                Self::of_folder(&state_dir)
            }
            Err(failure) => Err(failure),
        }
    }

    /// What a folder holds.
    pub(super) fn of_folder(state_dir: &Path) -> Result<Self, Failure> {
        let identity = DeviceKeyFile::read(state_dir).map_err(|error| {
            let exit = if error.is_missing() { Exit::NotEnrolled } else { Exit::Failure };
            Failure::new(exit, error, "`hardtack audit salvage` reads what is left of a folder without its keys")
        })?;
        let survey = Survey::look(state_dir).map_err(|error| store_failure(&error))?;
        let Some(fleet) = fleet_of(&survey) else {
            let what = format!("{} holds no trust bundle that can be read", state_dir.display());
            return Err(Failure::new(Exit::NotEnrolled, what, "`hardtack audit salvage --fleet NAME` does without"));
        };
        let whose = Whose {
            fleet,
            device: identity.device.clone(),
            identity: vec![identity.keys.identity.verifying_key().into()],
        };
        let signer = signer_of(&survey, &whose, &identity);
        Ok(Self::Folder { survey: Box::new(survey), whose, signer })
    }

    pub(super) fn whose(&self) -> &Whose {
        match self {
            Self::Folder { whose, .. } | Self::Running { whose, .. } => whose,
        }
    }

    /// How far each era goes.
    pub(super) fn eras(&self) -> Vec<EraReply> {
        match self {
            Self::Folder { survey, .. } => survey.stand(),
            Self::Running { eras, .. } => eras.clone(),
        }
    }

    /// Whether an agent runs on it.
    pub(super) fn runs(&self) -> bool {
        match self {
            Self::Folder { .. } => false,
            Self::Running { .. } => true,
        }
    }

    /// A page of it.
    pub(super) fn page(&self, ask: &TrailAsk) -> Result<TrailReply, Failure> {
        match self {
            Self::Folder { survey, whose, .. } => {
                let mut reply = TrailReply {
                    device: whose.device.to_string(),
                    fleet: whose.fleet.to_string(),
                    identity: String::new(),
                    eras: survey.stand(),
                    pieces: Vec::new(),
                };
                survey.read_trail(ask, &mut reply);
                Ok(reply)
            }
            Self::Running { globals, .. } => page(globals, ask),
        }
    }
}

fn page(globals: &Globals, ask: &TrailAsk) -> Result<TrailReply, Failure> {
    let after = ask.after.map(|after| format!("&after={}", after.text())).unwrap_or_default();
    get(globals, Door::Admin, &format!("/v1/audit?pieces={}{after}", ask.pieces))
}

/// An agent that holds the folder and does not answer: what is read beside it could be torn.
pub(super) fn refuse_running(state_dir: &Path, why: &Failure) -> Result<(), Failure> {
    match holder(state_dir) {
        Ok(None) => Ok(()),
        Ok(Some(holder)) => {
            let what = format!(
                "an agent (process {holder}) runs on {} and does not answer: {}",
                state_dir.display(),
                why.what
            );
            Err(Failure::new(Exit::TryAgain, what, "name its socket or its --run-dir, or stop it"))
        }
        Err(error) => Err(Failure::new(Exit::Failure, error, "run it as the agent's user")),
    }
}

pub(super) fn store_failure(error: &StoreError) -> Failure {
    Failure::new(Exit::Failure, error, "name the device's folder with --state-dir, and run it as the agent's user")
}

/// The fleet that the trust bundle in a folder names.
pub(super) fn fleet_of(survey: &Survey) -> Option<FleetId> {
    let signed = Signed::<TrustBundle>::from_bytes(survey.bundle.as_deref()?).ok()?;
    Some(signed.claim().ok()?.fleet)
}

pub(super) fn signer_of(survey: &Survey, whose: &Whose, keys: &DeviceKeyFile) -> Option<Box<AuditSigner>> {
    let owner = Owner { fleet: &whose.fleet, device: &whose.device, identity: &keys.keys.identity };
    AuditSigner::from_file(survey.audit_key.as_deref()?, owner, KeyUse::default(), 0).map(Box::new)
}

fn whose(reply: &TrailReply) -> Result<Whose, Failure> {
    let odd = |what: String| Failure::new(Exit::Failure, what, "look at the agent's log");
    let key: Option<[u8; 32]> = unhex(&reply.identity).and_then(|bytes| bytes.try_into().ok());
    let key = key.and_then(|bytes| PublicKey::try_from(bytes).ok());
    Ok(Whose {
        fleet: reply.fleet.parse().map_err(|error| odd(format!("the agent's fleet: {error}")))?,
        device: reply.device.parse().map_err(|error| odd(format!("the agent's device: {error}")))?,
        identity: vec![key.ok_or_else(|| odd("the agent's identity key is none".into()))?],
    })
}

/// The records of a segment, none of one that gave them up.
fn records_of(header: &SegmentHeader, upload: &Upload) -> Result<Vec<Record>, Refused> {
    match header.is_shed(&upload.leaves) {
        true => Ok(Vec::new()),
        false => header.read(&upload.leaves),
    }
}

/// Goes through a trail from its beginning.
///
/// # Errors
/// Those of the agent, and of `visit`.
pub(super) fn walk(trail: &Trail<'_>, visit: &mut dyn FnMut(Piece) -> Result<(), Failure>) -> Result<(), Failure> {
    match trail {
        Trail::Folder { survey, whose, signer } => walk_survey(survey, &whose.device, signer.as_deref(), visit),
        Trail::Running { globals, whose, .. } => walk_running(globals, &whose.device, visit),
    }
}

/// How far a walk has come in an era.
struct Place {
    era: EraId,
    segment: u64,
    index: u64,
}

impl Place {
    fn of(before: &Option<Self>, era: EraId) -> (u64, u64) {
        let here = before.as_ref().filter(|place| place.era == era);
        here.map_or((0, 0), |place| (place.segment, place.index))
    }

    fn after(header: &SegmentHeader) -> Self {
        let index = header.first_index.saturating_add(header.count.into());
        Self { era: header.era, segment: header.next_segment(), index }
    }
}

fn hole_before(header: &SegmentHeader, (segment, index): (u64, u64), device: &DeviceId) -> Option<Hole> {
    let follows = (header.segment, header.first_index) == (segment, index);
    (!follows).then(|| Hole {
        device: device.clone(),
        era: header.era,
        segment: header.segment,
        index: header.first_index,
        head: header.previous,
        signer: None,
    })
}

fn walk_running(
    globals: &Globals,
    device: &DeviceId,
    visit: &mut dyn FnMut(Piece) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut after = PieceName { era: EraId { number: 0, salt: 0 }, segment: 0 };
    let mut place = None;
    loop {
        let reply = page(globals, &TrailAsk { after: Some(after), pieces: PIECES_MAX })?;
        let Some(last) = reply.pieces.last() else { return Ok(()) };
        after = last.name();
        for piece in &reply.pieces {
            match parts(piece)? {
                (Some((header, upload)), _) => {
                    let records = match records_of(&header, &upload) {
                        Ok(records) => records,
                        Err(refused) => {
                            visit(Piece::Odd(header.era, header.segment, refused))?;
                            continue;
                        }
                    };
                    let hole = hole_before(&header, Place::of(&place, header.era), device);
                    hole.map(Piece::Hole).map(&mut *visit).transpose()?;
                    place = Some(Place::after(&header));
                    visit(Piece::Segment(Box::new(header), upload, records))?;
                }
                (None, rows) => {
                    for row in rows {
                        let record = Record::from_bytes(&row).map_err(|refused| odd(&refused))?;
                        visit(Piece::Unsigned(piece.name().era, record, row))?;
                    }
                }
            }
        }
    }
}

fn odd(what: &dyn std::fmt::Display) -> Failure {
    Failure::new(Exit::Failure, format!("the agent's answer is none: {what}"), "is it of the same version?")
}

type Parts = (Option<(SegmentHeader, Upload)>, Vec<Vec<u8>>);

/// A piece's signed header with its leaves, or its rows.
fn parts(piece: &PieceReply) -> Result<Parts, Failure> {
    let decoded = |text: &String| BASE64.decode(text.as_bytes()).map_err(|error| odd(&error));
    let bytes: Vec<Vec<u8>> = piece.bytes.iter().map(decoded).collect::<Result<_, _>>()?;
    let Some(header) = &piece.header else { return Ok((None, bytes)) };
    let signed = Signed::<SegmentHeader>::from_bytes(&decoded(header)?).map_err(|refused| odd(&refused))?;
    let header = signed.claim().map_err(|refused| odd(&refused))?;
    Ok((Some((header, Upload { header: signed, leaves: bytes })), Vec::new()))
}

/// Goes through a folder: whole segments, and around them what can be read without one.
pub(super) fn walk_survey(
    survey: &Survey,
    device: &DeviceId,
    signer: Option<&AuditSigner>,
    visit: &mut dyn FnMut(Piece) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for note in survey.eras() {
        let mut place = None;
        for number in survey.segments_of(note.era) {
            let Some(upload) = survey.segment(note.era, number).map(Loaded::upload) else { continue };
            let Ok(header) = upload.header.claim() else { continue };
            let before = Place::of(&place, note.era);
            // What leads back is no part of this chain.
            let forward = header.segment >= before.0 && header.first_index >= before.1;
            if !forward || (header.era, header.segment) != (note.era, number) {
                continue;
            }
            let records = match records_of(&header, &upload) {
                Ok(records) => records,
                // Its records are told one by one, as they are.
                Err(refused) => {
                    visit(Piece::Odd(note.era, number, refused))?;
                    continue;
                }
            };
            if let Some(mut hole) = hole_before(&header, before, device) {
                loose(survey, note.era, (before.1, header.first_index), visit)?;
                let key = upload.header.signed_by().next();
                hole.signer = key.and_then(|key| signer?.certificate_of(key)).cloned();
                visit(Piece::Hole(hole))?;
            }
            place = Some(Place::after(&header));
            visit(Piece::Segment(Box::new(header), upload, records))?;
        }
        loose(survey, note.era, (Place::of(&place, note.era).1, u64::MAX), visit)?;
    }
    Ok(())
}

fn loose(
    survey: &Survey,
    era: EraId,
    (from, end): (u64, u64),
    visit: &mut dyn FnMut(Piece) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for index in survey.records_of(era, from, end) {
        let Some(bytes) = survey.record_bytes(era, index) else { continue };
        // What is no record, or another, is as good as lost.
        if let Ok(record) = Record::from_bytes(&bytes) {
            visit(Piece::Unsigned(era, record, bytes))?;
        }
    }
    Ok(())
}

/// What was written.
#[derive(Clone, Default, Debug)]
pub(super) struct Written {
    pub(super) signed: u64,
    pub(super) unsigned: u64,
    pub(super) holes: u64,
    /// Segments that were passed over, with why: the first [`ODD_MAX`] of them.
    pub(super) odd: Vec<String>,
}

/// The most segments that are named as passed over.
const ODD_MAX: usize = 64;

impl Written {
    /// What was written and passed over, in lines.
    pub(super) fn words(&self, file: &str) -> String {
        let Self { signed, unsigned, holes, odd } = self;
        let mut text: String = odd.iter().map(|odd| format!("passed over: {odd}\n")).collect();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "wrote {file}: {signed} signed records, {unsigned} that no signature covers, {holes} holes\nwherever it is read: hardtack audit verify {file} --key HEX"
        );
        text
    }

    /// The same as members of an object.
    pub(super) fn add_to(&self, value: &mut Value, file: &str) {
        value["file"] = file.into();
        value["signed"] = self.signed.into();
        value["unsigned"] = self.unsigned.into();
        value["holes"] = self.holes.into();
        value["odd"] = self.odd.clone().into();
    }
}

/// Writes an export of a trail: its head, then its lines.
///
/// # Errors
/// Those of the walk, and of the writer.
pub(super) fn write_lines(
    whose: &Whose,
    out: &mut dyn Write,
    walk: impl FnOnce(&mut dyn FnMut(Piece) -> Result<(), Failure>) -> Result<(), Failure>,
) -> Result<Written, Failure> {
    let head = Head::of_device(whose.fleet.clone(), whose.device.clone(), &whose.identity);
    let head = serde_json::to_string(&head).map_err(|error| Failure::new(Exit::Failure, error, ""))?;
    writeln!(out, "{head}").map_err(|error| unwritable(&error))?;
    let mut written = Written::default();
    // Credentials by the record that names them in full, of the era that is gone through.
    let mut named: (Option<EraId>, BTreeMap<u64, Named>) = (None, BTreeMap::new());
    walk(&mut |piece| {
        let lines: Vec<Map<String, Value>> = match piece {
            Piece::Hole(at) => {
                written.holes += 1;
                vec![hole(&at)]
            }
            Piece::Unsigned(era, record, bytes) => {
                written.unsigned += 1;
                vec![unsigned(&whose.device, era, &record, &bytes)]
            }
            Piece::Odd(era, segment, refused) => {
                if written.odd.len() < ODD_MAX {
                    written.odd.push(format!("era {}, segment {segment}: {refused}", era.number));
                }
                Vec::new()
            }
            Piece::Segment(header, upload, records) => {
                if named.0 != Some(header.era) {
                    named = (Some(header.era), BTreeMap::new());
                }
                let signed = upload.header.to_bytes();
                let source = Source { received: None, signed: &signed, header: &header };
                if header.is_shed(&upload.leaves) {
                    let line = serde_json::to_string(&nothing_left(source)).map_err(|error| unwritable(&error))?;
                    return writeln!(out, "{line}").map_err(|error| unwritable(&error));
                }
                written.signed += records.len() as u64;
                let lines = records.iter().zip(&upload.leaves).map(|(record, leaf)| {
                    let allow = record.decision().is_some_and(|decision| decision.allow);
                    if let Some(full) = record.names().filter(|_| allow) {
                        named.1.insert(record.index, full.clone());
                    }
                    let of = record.named_by().and_then(|index| named.1.get(&index)).or(record.names());
                    line(source, record, of, leaf)
                });
                lines.collect()
            }
        };
        for line in lines {
            writeln!(out, "{}", Value::Object(line)).map_err(|error| unwritable(&error))?;
        }
        Ok(())
    })?;
    out.flush().map_err(|error| unwritable(&error))?;
    Ok(written)
}

pub(super) fn unwritable(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Failure,
        format!("the export cannot be written: {error}"),
        "free some space, or name another file",
    )
}

/// Writes into a file that is complete once it has its name, or to stdout.
pub(super) fn write_out(
    out: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<Written, Failure>,
) -> Result<Written, Failure> {
    let Some(path) = out else {
        let stdout = std::io::stdout();
        return write(&mut BufWriter::new(stdout.lock()));
    };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|error| unwritable(&error))?;
    let written = write(&mut BufWriter::new(&mut file))?;
    file.as_file().sync_all().map_err(|error| unwritable(&error))?;
    file.persist(path).map_err(|error| unwritable(&error))?;
    Ok(written)
}

/// `hardtack audit export`.
pub(super) fn export(args: &ExportArgs, globals: &Globals) -> Result<Exit, Failure> {
    let trail = Trail::open(globals)?;
    let out = args.out.as_deref();
    let written = write_out(out, |out| write_lines(trail.whose(), out, |visit| walk(&trail, visit)))?;
    if let Some(path) = out {
        let file = path.display().to_string();
        let mut value = json!({});
        written.add_to(&mut value, &file);
        show(globals.output, &value, |_| written.words(&file))?;
    }
    Ok(if written.holes > 0 || !written.odd.is_empty() { Exit::Audit } else { Exit::Done })
}

/// Checks what this device holds, as an export of it would be checked.
///
/// # Errors
/// As [`Trail::open`].
pub(super) fn verify(trail: &Trail<'_>, keys: &[TrustedKey]) -> Result<Verdict, Failure> {
    let mut file: File = tempfile::tempfile().map_err(|error| unwritable(&error))?;
    write_lines(trail.whose(), &mut BufWriter::new(&mut file), |visit| walk(trail, visit))?;
    file.rewind().map_err(|error| unwritable(&error))?;
    check(BufReader::new(file), keys).map_err(|error| Failure::new(Exit::Invalid, error, "`hardtack audit salvage`"))
}

/// Where each era stands on its way to the collector, a line each.
pub(super) fn standing(eras: &[EraReply]) -> String {
    let line = |era: &EraReply| {
        let unsigned = era.next.saturating_sub(era.signed);
        let damaged = if era.damaged { ", DAMAGED: `hardtack audit salvage` says how" } else { "" };
        format!(
            "era {}: {} records, {} in {} signed segments, {unsigned} not signed yet, {} acknowledged{damaged}\n",
            era.era, era.next, era.signed, era.segments, era.acknowledged
        )
    };
    eras.iter().map(line).collect()
}

/// Prints one object per line.
pub(super) fn print_line(value: Map<String, Value>) -> Result<(), Failure> {
    print(&Value::Object(value).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::effects::{Entry, StoredRecord, StoredSegment};
    use crate::agent::Batch;
    use crate::ids::Hash;
    use crate::profile::Profile;
    use crate::shell::store::Store;
    use crate::time::Timestamp;
    use crate::wire::audit::segment::grow;
    use crate::wire::audit::{Event, Evidence};

    /// Three segments of two records each. The header of the second is signed, and speaks of three.
    fn store(dir: &Path, fleet: &FleetId, device: &DeviceId) {
        let era = EraId { number: 1, salt: 7 };
        let mut entries = Vec::new();
        for segment in 0..3 {
            let record = |index| {
                let event =
                    Event::Refused(Evidence { source: "s".into(), reason: "r".into(), digest: Hash::ZERO, count: 1 });
                Record { index, floor: Timestamp(0), powered: Timestamp(0), event }
            };
            let records = [record(2 * segment), record(2 * segment + 1)];
            let header = SegmentHeader {
                device: device.clone(),
                era,
                segment,
                first_index: 2 * segment,
                count: if segment == 1 { 3 } else { 2 },
                previous: Hash::ZERO,
                root: grow(&records).1,
                closed_at: Timestamp(0),
                recovered: false,
                signer: None,
                feeds: Vec::new(),
                salvage: None,
            };
            let row = |record: &Record| {
                Entry::Record(StoredRecord { era, index: record.index, bytes: record.to_bytes(), budgets: Vec::new() })
            };
            entries.extend(records.iter().map(row));
            entries.push(Entry::Segment(StoredSegment {
                era,
                segment,
                first_index: 2 * segment,
                count: 2,
                head: header.head(),
                header: Signed::sign(&header, fleet, &[&ed25519_dalek::SigningKey::from_bytes(&[3; 32])]).to_bytes(),
            }));
        }
        let (mut store, _) = Store::open(dir, &Profile::default().queue).unwrap();
        store.commit(Batch { begin_era: Some(era), entries, ..Batch::default() }).unwrap();
    }

    #[test]
    fn an_odd_segment_is_named_and_all_that_is_around_it_is_saved() {
        let temp = tempfile::tempdir().unwrap();
        let whose = Whose { fleet: "acme".parse().unwrap(), device: "gw-07".parse().unwrap(), identity: Vec::new() };
        store(temp.path(), &whose.fleet, &whose.device);
        let survey = Survey::look(temp.path()).unwrap();
        let mut out = Vec::new();
        let written = write_lines(&whose, &mut out, |visit| walk_survey(&survey, &whose.device, None, visit)).unwrap();
        assert_eq!((written.signed, written.unsigned, written.holes), (4, 2, 1));
        assert_eq!(written.odd.len(), 1);
        assert!(written.odd[0].starts_with("era 1, segment 1: "), "{:?}", written.odd);
        assert!(written.words("f").starts_with("passed over: era 1, segment 1: "));
        let lines: Vec<Value> =
            out.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let kinds: Vec<&str> = lines[1..].iter().map(|line| line["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["refused", "refused", "unsigned", "unsigned", "hole", "refused", "refused"]);
    }
}
