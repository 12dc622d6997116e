//! The audit trail as both sides sign and read it.
//!
//! Owns: [`Record`] and its kinds, the hash chain over records, the signed [`SegmentHeader`], and the [`Upload`] that
//! carries a segment to the collector.
//! Never: numbers, stores or sends anything. `agent/audit.rs` does on the device, `fleet/collect.rs` checks.
//! Read next: `agent/audit.rs`.

use serde::{Deserialize, Serialize};

use super::envelope::{Document, Signed};
use super::revocation::Position;
use super::{decode, encode, Refused, MESSAGE_BYTES_MAX};
use crate::ids::{BlockId, BootId, DeviceId, EraId, FleetId, GrantId, Hash, KeyId, RiskClass, TaskClass, TaskId};
use crate::time::{Millis, Timestamp};

/// The most bytes of one encoded record.
pub const RECORD_BYTES_MAX: usize = 4096;
/// The most bytes of records in one segment, so that its upload fits a message.
pub const SEGMENT_BYTES_MAX: usize = 28 * 1024;
/// The most records in one segment.
pub const SEGMENT_RECORDS_MAX: u32 = 64;

/// One entry of a device's audit trail.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Its number in the era, from 0 without a hole.
    pub index: u64,
    /// The floor E: true time was at least this.
    pub floor: Timestamp,
    /// The powered-on clock P: what time it would be had the device never been switched off.
    pub powered: Timestamp,
    /// What happened.
    pub event: Event,
}

/// What a record tells.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// An answer to `authorize`.
    Decision(Box<Decision>),
    /// Records that are gone, counted.
    Gap(Gap),
    /// A fallback grant was put to use in an outage, or taken out of it.
    Grant(GrantUse),
    /// The agent went from one mode to another.
    Mode(ModeChange),
    /// Something that arrived was refused: evidence.
    Refused(Evidence),
    /// An era began. Always index 0.
    Start(Box<Start>),
    /// A task began, was renewed, was refused or ended.
    Task(Box<TaskEvent>),
    /// A new trust bundle, policy, revocation list or grant is in force.
    Trust(TrustChange),
}

/// One answer to `authorize`, with all that it rests on.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Decision {
    /// Whether it was an allow.
    pub allow: bool,
    /// The reason from the closed list.
    pub reason: String,
    /// The operation asked for.
    pub operation: String,
    /// The resource asked for.
    pub resource: String,
    /// Where the effect goes, if the request said so.
    pub destination: Option<String>,
    /// The class of risk that it was judged by.
    pub risk: Option<RiskClass>,
    /// The accountable owner that block 0 names, none if no verified token was there.
    pub owner: Option<String>,
    /// The grant that block 0 names.
    pub grant: Option<GrantId>,
    /// The wallet's task, or the label of the token.
    pub task: Option<TaskId>,
    /// Selectors of the workload: attested by the kernel, or the holder to whom this agent handed the credential.
    pub workload: Vec<String>,
    /// Selectors of the enforcement point that asked, if it was one.
    pub enforcer: Vec<String>,
    /// The delegation chain, block by block.
    pub chain: Vec<BlockId>,
    /// What was known.
    pub known: Known,
}

/// What the device knew when it decided.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Known {
    /// The mode.
    pub mode: String,
    /// `fresh`, `stale` or `unknown`.
    pub freshness: String,
    /// P minus the time of the newest complete revocation head, in seconds.
    pub staleness_s: u64,
    /// The time class.
    pub time_class: String,
    /// How far the ceiling L lies above the floor E, none if L is infinite.
    pub width_ms: Option<Millis>,
    /// Trust bundle in force.
    pub bundle_version: u64,
    /// Policy in force.
    pub policy_version: u64,
    /// Position of the revocation feed that the token names, none if it was not looked at.
    pub feed_seq: Option<u64>,
}

/// Records that are gone.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Gap {
    /// The era that they were in.
    pub era: EraId,
    /// The first that is missing.
    pub first: u64,
    /// The first after them, if that is known: positions leased but perhaps never used count as missing.
    pub end: Option<u64>,
    /// Why.
    pub cause: GapCause,
}

/// Why records are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapCause {
    /// The store that held them was damaged.
    Damaged,
    /// Both slots of the anchor were unusable: what went before is not known here.
    AnchorLost,
}

/// A step in a grant's life on the device.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GrantUse {
    /// The grant.
    pub grant: GrantId,
    /// What happened.
    pub step: GrantStep,
    /// Uses charged to it: before the outage, in it, or ever, as the step says.
    pub used: u64,
    /// Powered-on time since the last acknowledged round trip.
    pub offline: Millis,
}

/// What happened to a grant.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GrantStep {
    /// Narrowed for the first time in this outage. `used` is what was charged before.
    Activated,
    /// The outage is over. `used` is what was charged in it.
    Reconciled,
    /// Wiped by a signed order. `used` is all that was ever charged.
    Wiped,
}

/// From one mode to another.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ModeChange {
    /// The mode that was.
    pub from: String,
    /// The mode that is.
    pub to: String,
    /// Why.
    pub reason: String,
}

/// Something that was refused.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Evidence {
    /// Where it came from: a topic or a file, shortened.
    pub source: String,
    /// Why it was refused.
    pub reason: String,
    /// SHA-256 of its bytes.
    pub digest: Hash,
    /// How many like it came since the last such record, this one counted in.
    pub count: u64,
}

/// An era began.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Start {
    /// The kernel's boot.
    pub boot: BootId,
    /// Kernel boots since the last acknowledged round trip.
    pub boots: u32,
    /// The era before, its next index and its chain's head: none on the first start, or when the anchor was lost.
    pub previous: Option<EraEnd>,
    /// The program's version.
    pub version: String,
}

/// Where an era ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EraEnd {
    /// The era.
    pub era: EraId,
    /// The number that its next record would have had.
    pub next_index: u64,
    /// Its chain's head.
    pub head: Hash,
}

/// A step in a task's life.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TaskEvent {
    /// The task, none if it was refused before it had a name.
    pub task: Option<TaskId>,
    /// Its class.
    pub class: TaskClass,
    /// What happened.
    pub step: TaskStep,
    /// The accountable owner.
    pub owner: Option<String>,
    /// The grant behind it.
    pub grant: Option<GrantId>,
    /// Selectors of the workload.
    pub workload: Vec<String>,
    /// Why: the refusal, or what the workload said.
    pub reason: String,
    /// The delegation chain of the credential that was handed out.
    pub chain: Vec<BlockId>,
}

/// What happened to a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStep {
    /// It began with a credential narrowed from the fallback grant.
    BegunFallback,
    /// It began with a credential that the issuer minted.
    BegunIssued,
    /// Its time is over.
    Ended,
    /// The workload finished it.
    Finished,
    /// It was refused.
    Refused,
    /// Its credential was replaced by a younger one.
    Renewed,
}

/// Something that the device trusts changed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrustChange {
    /// A trust bundle.
    Bundle {
        /// Its version.
        version: u64,
        /// Its digest.
        digest: Hash,
    },
    /// A complete set of revocations.
    Feed {
        /// Its position.
        position: Position,
    },
    /// Revocations that hold from here on, of a head whose set may not be complete yet.
    Revoked {
        /// The newest head that is known.
        newest: Position,
    },
    /// A grant was taken into the wallet, or withdrawn.
    Grant {
        /// The grant.
        grant: GrantId,
        /// When it expires; none if it was withdrawn.
        expires: Option<Timestamp>,
    },
    /// A policy.
    Policy {
        /// Its version.
        version: u64,
        /// Its digest.
        digest: Hash,
    },
    /// The root keys set the clock. E may have gone back.
    Reset {
        /// E before and after.
        floor: (Timestamp, Timestamp),
        /// P before and after.
        powered: (Timestamp, Timestamp),
    },
    /// Somebody brought signed time.
    Told {
        /// E before.
        before: Timestamp,
        /// E after.
        after: Timestamp,
    },
    /// The powered-on clock was corrected down to the proven ceiling.
    Time {
        /// P before.
        before: Timestamp,
        /// P after.
        after: Timestamp,
    },
    /// What an operator revoked with a key of his own holds from here on.
    Emergency {
        /// The key.
        key: KeyId,
        /// The counter of the statement.
        counter: u64,
        /// Its digest.
        digest: Hash,
    },
}

impl Record {
    /// The record's bytes, which the chain is over.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// A record from its bytes.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] or [`Refused::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        decode(bytes, RECORD_BYTES_MAX)
    }
}

/// Where an era's chain begins.
pub fn genesis(fleet: &FleetId, device: &DeviceId, era: EraId) -> Hash {
    let (number, salt) = (era.number.to_le_bytes(), era.salt.to_le_bytes());
    Hash::of("hardtack/era/v1", &[fleet.as_str().as_bytes(), device.as_str().as_bytes(), &number, &salt])
}

/// The chain's head after one more record.
pub fn extend(head: Hash, record: &[u8]) -> Hash {
    Hash::of("hardtack/chain/v1", &[&head.0, record])
}

/// The text that names a record everywhere: device/era/index.
pub fn record_id(device: &DeviceId, era: EraId, index: u64) -> String {
    format!("{device}/{era}/{index}")
}

/// A run of records, signed by the device's audit key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SegmentHeader {
    /// The device.
    pub device: DeviceId,
    /// The era.
    pub era: EraId,
    /// The segment's number in the era, from 0 without a hole.
    pub segment: u64,
    /// The first record's index.
    pub first_index: u64,
    /// How many records, at least one.
    pub count: u32,
    /// The chain's head before the first record; the era's genesis for segment 0.
    pub previous: Hash,
    /// The chain's head after the last record.
    pub head: Hash,
    /// The floor E when it was closed.
    pub closed_at: Timestamp,
    /// Closed by a later start, over records that the era's own start left unsigned.
    pub recovered: bool,
    /// The revocation positions that the device held when it was closed.
    pub feeds: Vec<Position>,
    /// None for a whole segment. Else what a damaged store has left of it: `count` counts lost records too, and the
    /// chain goes on over them by the device's word alone.
    pub salvage: Option<Salvage>,
}

/// What is left of one segment, or of several in a row.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Salvage {
    /// The next segment's number: those in between are part of this one.
    pub next_segment: u64,
    /// Lost records, in order: each range's first, and the first after it. Gap records of the device count them.
    pub lost: Vec<(u64, u64)>,
    /// [`salvage_digest`] of the records that are left, for which the chain cannot vouch.
    pub digest: Hash,
}

/// The digest over what is left of a segment.
pub fn salvage_digest(records: &[Vec<u8>]) -> Hash {
    let parts: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    Hash::of("hardtack/salvage/v1", &parts)
}

impl SegmentHeader {
    /// The number of the segment after it.
    pub fn next_segment(&self) -> u64 {
        self.salvage.as_ref().map_or(self.segment.saturating_add(1), |salvage| salvage.next_segment)
    }

    /// The index after its last record.
    ///
    /// # Errors
    /// [`Refused::Malformed`] where no number is left for it.
    pub fn next_index(&self) -> Result<u64, Refused> {
        self.first_index.checked_add(u64::from(self.count)).ok_or(Refused::Malformed("an index past 64 bits"))
    }
}

impl Document for SegmentHeader {
    const KIND: &'static str = "segment";
    const BYTES_MAX: usize = 3 * 1024;
}

/// A segment on its way to the collector.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Upload {
    /// The signed header.
    pub header: Signed<SegmentHeader>,
    /// The records' exact bytes.
    pub records: Vec<Vec<u8>>,
}

impl Upload {
    /// The message.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses an upload without trusting it.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] or [`Refused::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        decode(bytes, MESSAGE_BYTES_MAX)
    }

    /// The records, if they are the ones that `header` was signed over.
    ///
    /// # Errors
    /// [`Refused::DigestMismatch`] when the chain does not lead from the header's first head to its last, or what is
    /// left is not what was signed; [`Refused::Malformed`] when a record is none or wears the wrong number.
    pub fn check(&self, header: &SegmentHeader) -> Result<Vec<Record>, Refused> {
        let end = header.next_index()?;
        match &header.salvage {
            Some(salvage) => {
                if salvage_digest(&self.records) != salvage.digest {
                    return Err(Refused::DigestMismatch);
                }
                let kept = kept(header, salvage, end)?;
                if kept.iter().map(|(first, end)| end - first).sum::<u64>() != self.records.len() as u64 {
                    return Err(Refused::Malformed("more or fewer records than are said to be left"));
                }
                self.numbered(kept.into_iter().flat_map(|(first, end)| first..end))
            }
            None => {
                let head = self.records.iter().fold(header.previous, |head, record| extend(head, record));
                if self.records.len() != header.count as usize || self.records.is_empty() || head != header.head {
                    return Err(Refused::DigestMismatch);
                }
                self.numbered(header.first_index..end)
            }
        }
    }

    fn numbered(&self, indexes: impl Iterator<Item = u64>) -> Result<Vec<Record>, Refused> {
        let numbered = self.records.iter().zip(indexes);
        numbered
            .map(|(bytes, index)| match Record::from_bytes(bytes) {
                Ok(record) if record.index == index => Ok(record),
                Ok(_) => Err(Refused::Malformed("a record that wears another's number")),
                Err(refused) => Err(refused),
            })
            .collect()
    }
}

/// The ranges of a salvaged segment that are left.
fn kept(header: &SegmentHeader, salvage: &Salvage, end: u64) -> Result<Vec<(u64, u64)>, Refused> {
    if salvage.next_segment <= header.segment || header.count == 0 {
        return Err(Refused::Malformed("a salvaged segment that leads nowhere"));
    }
    let (mut kept, mut next) = (Vec::new(), header.first_index);
    for (first, after) in &salvage.lost {
        if *first < next || after <= first || *after > end {
            return Err(Refused::Malformed("lost records out of order"));
        }
        kept.push((next, *first));
        next = *after;
    }
    kept.push((next, end));
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn record(index: u64) -> Record {
        let evidence = Evidence { source: "t".into(), reason: "r".into(), digest: Hash::ZERO, count: 1 };
        Record { index, floor: Timestamp(1), powered: Timestamp(2), event: Event::Refused(evidence) }
    }

    #[test]
    fn a_changed_dropped_swapped_or_renumbered_record_shows() {
        let (fleet, device) = ("acme".parse().unwrap(), "gw-07".parse::<DeviceId>().unwrap());
        let era = EraId { number: 3, salt: 9 };
        let previous = genesis(&fleet, &device, era);
        let make = |records: Vec<Vec<u8>>| {
            let head = records.iter().fold(previous, |head, record| extend(head, record));
            let header = SegmentHeader {
                device: device.clone(),
                era,
                segment: 0,
                first_index: 0,
                count: records.len() as u32,
                previous,
                head,
                closed_at: Timestamp(5),
                recovered: false,
                feeds: Vec::new(),
                salvage: None,
            };
            let signed = Signed::sign(&header, &fleet, &[&SigningKey::from_bytes(&[1; 32])]);
            (Upload { header: signed, records }, header)
        };
        let (upload, header) = make((0..3).map(|i| record(i).to_bytes()).collect());
        let parsed = Upload::from_bytes(&upload.to_bytes()).unwrap();
        assert_eq!(parsed.check(&header).unwrap().len(), 3);

        let damage = |edit: &dyn Fn(&mut Vec<Vec<u8>>)| {
            let mut damaged = upload.clone();
            edit(&mut damaged.records);
            damaged.check(&header)
        };
        assert!(damage(&|r| r[1] = record(7).to_bytes()).is_err());
        assert!(damage(&|r| drop(r.pop())).is_err());
        assert!(damage(&|r| r.swap(0, 1)).is_err());
        assert!(damage(&|r| r.clear()).is_err());
        let (renumbered, header) = make(vec![record(1).to_bytes()]);
        assert!(matches!(renumbered.check(&header), Err(Refused::Malformed(_))));
    }

    #[test]
    fn what_is_left_of_a_damaged_segment_is_bound_to_its_header() {
        let records: Vec<Vec<u8>> = [5, 8, 9].map(|index| record(index).to_bytes()).to_vec();
        let header = SegmentHeader {
            device: "gw-07".parse().unwrap(),
            era: EraId { number: 3, salt: 9 },
            segment: 1,
            first_index: 5,
            count: 6,
            previous: Hash::ZERO,
            head: Hash::ZERO,
            closed_at: Timestamp(5),
            recovered: true,
            feeds: Vec::new(),
            salvage: Some(Salvage { next_segment: 3, lost: vec![(6, 8), (10, 11)], digest: salvage_digest(&records) }),
        };
        let signed = Signed::sign(&header, &"acme".parse().unwrap(), &[&SigningKey::from_bytes(&[1; 32])]);
        let upload = Upload { header: signed, records };
        assert_eq!(upload.check(&header).unwrap().len(), 3);
        assert_eq!((header.next_segment(), header.next_index()), (3, Ok(11)));
        let with = |edit: &dyn Fn(&mut Salvage)| {
            let mut header = header.clone();
            header.salvage.as_mut().into_iter().for_each(edit);
            upload.check(&header)
        };
        assert!(with(&|_| {}).is_ok());
        assert!(with(&|s| s.lost = vec![(6, 8)]).is_err(), "a record that nobody counts");
        assert!(with(&|s| s.lost = vec![(5, 7), (10, 11)]).is_err(), "another's number");
        assert!(with(&|s| s.lost = vec![(10, 11), (6, 8)]).is_err());
        assert!(with(&|s| s.lost = vec![(6, 8), (10, 12)]).is_err());
        assert!(with(&|s| s.next_segment = 1).is_err());
        assert_eq!(with(&|s| s.digest = Hash::ZERO), Err(Refused::DigestMismatch));
    }
}
