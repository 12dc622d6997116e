//! Audit arrives.
//!
//! Owns: the check of an uploaded segment against its device's chain, idempotence, evidence of forks, and the other branches
//! of an era that forked, which are set aside: whichever is the device's own, nothing of it is lost.
//! Never: acknowledges what the caller has not stored; stores what is not signed by the key that began the era.
//! Read next: `report.rs`, which checks it all again from what is stored.

use super::book::{Book, Branch, Branches, EraChain, Fork, Salvaged, Segment, Write};
use super::hello::{era_ack, known, note_positions};
use super::service::{Archive, Digests};
use super::{Effects, FleetLog};
use crate::ids::{DeviceId, EraId, KeyId};
use crate::mutant::{active, Mutant};
use crate::time::Timestamp;
use crate::wire::audit::segment::{Delivery, SegmentHeader, Upload, SEGMENT_RECORDS_MAX};
use crate::wire::audit::signer::{self, Signer};
use crate::wire::audit::{genesis, Event, Record};
use crate::wire::bundle::PublicKey;
use crate::wire::envelope::Signed;
use crate::wire::link::EraAck;
use crate::wire::seal::SealingKey;
use crate::wire::Refused;

/// What became of an upload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Collected {
    /// It is of another branch than the one that arrived first. The evidence is kept, and the segment set aside: this is
    /// where its branch stands.
    Forked(EraAck),
    /// It is held now, or was before.
    Held(EraAck),
    /// Segments before it are missing: the device has to send from where the collector stands.
    TooEarly(EraAck),
}

impl Collected {
    /// Where the collector stands in the era.
    pub fn ack(&self) -> EraAck {
        match self {
            Self::Forked(ack) | Self::Held(ack) | Self::TooEarly(ack) => *ack,
        }
    }
}

/// Takes in a segment, which may be sealed to one of `keys`. The acknowledgement may leave once the effects are committed.
///
/// # Errors
/// Why it was refused: nothing is stored and nothing acknowledged.
pub fn receive(
    book: &mut Book,
    topic: &DeviceId,
    payload: &[u8],
    keys: &[SealingKey],
    archive: &Archive<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Collected, Refused> {
    let delivery = Delivery::from_bytes(payload)?;
    let claim = delivery.header().claim()?;
    if claim.device != *topic {
        return Err(Refused::WrongDevice);
    }
    claim.countable()?;
    let identities = identities(book, topic)?;
    let held = era_ack(book, topic, claim.era);
    if let Some(ack) = go_on_aside(book, &delivery, &claim, &identities, keys, archive, at, fx)? {
        return Ok(Collected::Forked(ack));
    }
    if claim.segment > held.next_segment {
        // Nobody but the device is told where the collector stands in an era: another's number would look like a twin.
        authentic(book, delivery.header(), &claim, &identities)?;
        return Ok(Collected::TooEarly(told(book, topic, claim.era)));
    }
    if claim.segment < held.next_segment {
        let again = archive(topic, claim.era, claim.segment).trail == Some(delivery.header().digest());
        if again && active(Mutant::DuplicateStored) {
            let upload = delivery.clone().open(keys)?;
            book.write(Write::Segment(Box::new(segment_of(&claim, upload, None, at))), fx);
        }
        return repeated(book, delivery, &identities, held, keys, archive, at, fx);
    }
    let opened = signer::open(delivery.header(), book.fleet(), &identities, before(book, &claim))?;
    let header = &opened.header;
    let shed = delivery.is_shed(book.fleet(), &identities)?;
    let upload = delivery.open(keys)?;
    let records = records_of(header, &upload, shed)?;
    // Before anything is written: what is refused leaves no evidence of a fork behind either.
    let next = opened.after(&records)?;
    let follows = header.first_index == held.next_index && header.previous == held.head;
    if !follows && header.salvage.is_some() {
        return Ok(Collected::TooEarly(held));
    }
    if !follows {
        let signed = upload.header.clone();
        let ack = set_aside(book, Opened { header, signer: next, upload, records }, None, at, fx)?;
        forked(book, header, &signed, "it does not follow the stored chain", at, fx);
        return Ok(Collected::Forked(ack));
    }
    // A gateway that was replaced begins at era 1 again, with keys of its own: that is no twin.
    let own = |chain: &EraChain| chain.signers.iter().any(|known| known.identity == opened.signer.identity);
    let same = |chain: &&EraChain| own(chain) && chain.ack.era.number == header.era.number;
    let twin = book.eras(topic).filter(same).find(|chain| chain.ack.era != header.era);
    let begins_a_twin = twin.is_some() && header.segment == 0;
    if begins_a_twin || opened.is_fork() {
        may_fork(book, header)?;
    }
    if begins_a_twin {
        forked(
            book,
            header,
            &upload.header,
            "another era of this number is stored: a clone or a restored disk",
            at,
            fx,
        );
    }
    let ack = after(header)?;
    let gaps = records.iter().filter(|record| matches!(record.event, Event::Gap(_))).count() as u64;
    note_positions(book, topic, &header.feeds, true, at, fx);
    if opened.is_fork() {
        let what = "an era begins with an older audit key than the device had: a clone or a restored disk";
        forked(book, header, &upload.header, what, at, fx);
    }
    let mut signers = book.era(topic, header.era).map(|chain| chain.signers.clone()).unwrap_or_default();
    for signer in [opened.signer, next] {
        if signers.last() != Some(&signer) {
            signers.push(signer);
        }
    }
    signers.drain(..signers.len().saturating_sub(EraChain::SIGNERS_MAX));
    let next_segment = ack.next_segment;
    book.write(Write::Era(EraChain { device: topic.clone(), signers, ack }), fx);
    if header.salvage.is_some() {
        let (device, segments) = (topic.clone(), (header.segment, next_segment));
        book.write(Write::Salvaged(Salvaged { device, era: header.era, segments }), fx);
    }
    let count = records.len() as u64;
    if !active(Mutant::CollectorAcksFirst) {
        book.write(Write::Segment(Box::new(segment_of(header, upload, Some(records), at))), fx);
    }
    fx.log(FleetLog::AuditStored {
        device: topic.clone(),
        era: header.era.number,
        segment: header.segment,
        records: count,
        gaps,
    });
    Ok(Collected::Held(ack))
}

/// The records of an upload. Of what was given up there are none.
fn records_of(header: &SegmentHeader, upload: &Upload, shed: bool) -> Result<Vec<Record>, Refused> {
    if upload.leaves.len() > SEGMENT_RECORDS_MAX as usize {
        return Err(Refused::Malformed("more records than a segment may have"));
    }
    if shed {
        return Ok(Vec::new());
    }
    upload.check(header)
}

/// A segment of another branch that is sound in itself.
struct Opened<'h> {
    header: &'h SegmentHeader,
    /// Who signs the segment after it.
    signer: Signer,
    upload: Upload,
    records: Vec<Record>,
}

impl<'h> Opened<'h> {
    /// Takes a delivery apart. `signed_by` is who was to sign it.
    fn of(
        book: &Book,
        delivery: Delivery,
        header: &'h SegmentHeader,
        signed_by: Option<Signer>,
        identities: &[PublicKey],
        keys: &[SealingKey],
    ) -> Result<Self, Refused> {
        let opened = signer::open(delivery.header(), book.fleet(), identities, signed_by)?;
        let shed = delivery.is_shed(book.fleet(), identities)?;
        let upload = delivery.open(keys)?;
        let records = records_of(header, &upload, shed)?;
        let signer = opened.after(&records)?;
        Ok(Self { header, signer, upload, records })
    }
}

/// What the answer to a hello says of an era: the furthest place of all its branches. Who is on another branch finds it foreign, and locks; it releases nothing by it, goes on sending, and is told of its
/// own place with what it sends.
pub(super) fn furthest(book: &Book, device: &DeviceId, era: EraId) -> EraAck {
    let held = era_ack(book, device, era);
    let branches = book.branches(device, era).into_iter().flat_map(|forked| &forked.branches);
    branches.map(|branch| branch.ack).chain([held]).max_by_key(|ack| ack.next_segment).unwrap_or(held)
}

/// Where a device of which nobody knows on which branch of an era it is goes on from after a segment that came too early: as far as all of them
/// are held, so that nothing counts as delivered that is not. What it sends once more is recognized.
fn told(book: &Book, device: &DeviceId, era: EraId) -> EraAck {
    let held = era_ack(book, device, era);
    let Some(forked) = book.branches(device, era) else { return held };
    let astray = forked.is_astray(u64::MAX).then(|| beginning(book, device, era));
    let branches = forked.branches.iter().map(|branch| branch.ack);
    branches.chain(astray).chain([held]).min_by_key(|ack| ack.next_segment).unwrap_or(held)
}

fn beginning(book: &Book, device: &DeviceId, era: EraId) -> EraAck {
    EraAck { era, next_segment: 0, next_index: 0, head: genesis(book.fleet(), device, era) }
}

/// What a segment itself says of where its chain stands after it.
fn after(header: &SegmentHeader) -> Result<EraAck, Refused> {
    let (next_segment, next_index) = (header.next_segment(), header.next_index()?);
    Ok(EraAck { era: header.era, next_segment, next_index, head: header.head() })
}

/// In an era that forked: the segment that goes on another branch, or is held as part of one, or of what all have in common.
/// Returns how far its branch is held up to it, if it is any of these.
#[expect(clippy::too_many_arguments, reason = "all that an upload is judged by")]
fn go_on_aside(
    book: &mut Book,
    delivery: &Delivery,
    claim: &SegmentHeader,
    identities: &[PublicKey],
    keys: &[SealingKey],
    archive: &Archive<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Option<EraAck>, Refused> {
    let Some(forked) = book.branches(&claim.device, claim.era) else { return Ok(None) };
    let (digest, number) = (delivery.header().digest(), claim.segment);
    let kept = kept(claim, archive, fx);
    let (is_aside, is_first) = (kept.aside.contains(&digest), kept.trail == Some(digest));
    if is_aside || is_first {
        // On whichever branch its device goes on, it has delivered it up to here, unless one that is held at this place lacks
        // its beginning.
        let (mut known, own) = (forked.clone(), after(claim)?);
        if known.joins(own.head) {
            book.write(Write::Branches(known.clone()), fx);
        }
        let lacks = is_aside && known.is_astray(number);
        return Ok(Some(if lacks { beginning(book, &claim.device, claim.era) } else { own }));
    }
    let follows = |branch: &&Branch| {
        let EraAck { next_segment, next_index, head, .. } = branch.ack;
        (next_segment, next_index, head) == (number, claim.first_index, claim.previous)
    };
    let Some((place, branch)) = forked.branches.iter().enumerate().find(|(_, branch)| follows(branch)) else {
        return Ok(None);
    };
    let opened = Opened::of(book, delivery.clone(), claim, Some(branch.signer), identities, keys)?;
    set_aside(book, opened, Some(place), at, fx).map(Some)
}

/// Keeps a segment beside the branch that arrived first: as the next one of another branch, or as the first of one. Returns
/// where that stands; at the era's beginning, if what was to be before it is missing.
fn set_aside(
    book: &mut Book,
    opened: Opened<'_>,
    place: Option<usize>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<EraAck, Refused> {
    let Opened { header, signer, upload, records } = opened;
    if place.is_none() {
        may_fork(book, header)?;
    }
    let (device, era, from) = (header.device.clone(), header.era, header.segment);
    let ack = after(header)?;
    let known = book.branches(&device, era).cloned();
    let mut forked = known.unwrap_or(Branches { device: device.clone(), era, branches: Vec::new() });
    forked.joins(ack.head);
    let full = forked.branches.len() >= Branches::MAX;
    match place.and_then(|place| forked.branches.get_mut(place)) {
        Some(branch) => {
            branch.records = branch.records.saturating_add(records.len() as u64);
            (branch.signer, branch.ack) = (signer, ack);
        }
        None if full => {
            return Err(Refused::Malformed(
                "one more branch of an era that has forked too often: enrol the device again",
            ));
        }
        None => {
            let first_index = header.first_index;
            // What was to be before it has never come where it goes on after the end of what is held.
            let held = era_ack(book, &device, era);
            let missing = (from == held.next_segment && from > 0).then_some(header.previous);
            let records = records.len() as u64;
            forked.branches.push(Branch { from, first_index, missing, records, signer, ack, at });
        }
    }
    let answer = if forked.is_astray(from) { beginning(book, &device, era) } else { ack };
    fx.log(FleetLog::AuditSetAside { device, era: era.number, segment: from, records: records.len() as u64 });
    book.write(Write::Branches(forked), fx);
    book.write(Write::Aside(Box::new(segment_of(header, upload, Some(records), at))), fx);
    Ok(answer)
}

/// What is stored under a segment's position, or is to be.
fn kept(claim: &SegmentHeader, archive: &Archive<'_>, fx: &Effects) -> Digests {
    let (device, era, number) = (&claim.device, claim.era, claim.segment);
    archive(device, era, number).and(fx.segments(device, era, number))
}

fn segment_of(header: &SegmentHeader, upload: Upload, read: Option<Vec<Record>>, at: Timestamp) -> Segment {
    Segment {
        device: header.device.clone(),
        era: header.era,
        segment: header.segment,
        first_index: header.first_index,
        digest: upload.header.digest(),
        header: upload.header.to_bytes(),
        leaves: upload.leaves,
        at,
        read,
    }
}

/// A segment of a position that is held: the same again, or the proof of another branch.
#[expect(clippy::too_many_arguments, reason = "all that an upload is judged by")]
fn repeated(
    book: &mut Book,
    delivery: Delivery,
    identities: &[PublicKey],
    held: EraAck,
    keys: &[SealingKey],
    archive: &Archive<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Collected, Refused> {
    let (signed, claim) = (delivery.header(), delivery.header().claim()?);
    let stored = kept(&claim, archive, fx).trail;
    // As far as it goes itself: what is held after it may be of another branch than its device is on.
    if stored == Some(signed.digest()) {
        return after(&claim).map(Collected::Held);
    }
    let header = authentic(book, signed, &claim, identities)?;
    match stored {
        // What a damaged disk has left is no other branch of what arrived before, nor the other way round. It may be cut
        // otherwise than what is held: its device is told where to go on.
        Some(_) | None if header.salvage.is_some() => Ok(Collected::Held(held)),
        Some(_) | None if book.is_salvaged(&header.device, header.era, header.segment) => {
            after(&header).map(Collected::Held)
        }
        Some(_) => {
            let signed_by = signer_of(book, signed, &claim);
            let signed = signed.clone();
            let opened = Opened::of(book, delivery, &header, signed_by, identities, keys)?;
            let ack = set_aside(book, opened, None, at, fx)?;
            forked(book, &header, &signed, "another segment of this number is stored", at, fx);
            Ok(Collected::Forked(ack))
        }
        None => Err(Refused::Malformed("the collector lost the segment that this one repeats: restore its ledger")),
    }
}

/// A header that one of the device's keys signed, whichever was to sign there.
fn authentic(
    book: &Book,
    signed: &Signed<SegmentHeader>,
    claim: &SegmentHeader,
    identities: &[PublicKey],
) -> Result<SegmentHeader, Refused> {
    let vouched = |certificate| Signer::of(certificate, book.fleet(), &claim.device, identities);
    let own = claim.signer.as_ref().map(vouched).transpose()?;
    let era = book.era(&claim.device, claim.era).map(|chain| chain.signers.clone()).unwrap_or_default();
    let keys: Vec<PublicKey> = era.into_iter().chain(own).chain(before(book, claim)).map(|signer| signer.key).collect();
    signed.open(book.fleet(), keys.iter().map(PublicKey::verifying), 1)
}

/// Whichever of those who signed the era signed this one too: of another branch, nobody knows who was to.
fn signer_of(book: &Book, signed: &Signed<SegmentHeader>, claim: &SegmentHeader) -> Option<Signer> {
    let era = book.era(&claim.device, claim.era).map(|chain| chain.signers.clone()).unwrap_or_default();
    let by = |signer: &Signer| signed.signed_by().any(|key| key == KeyId::of(signer.key.as_bytes()));
    era.into_iter().rev().chain(before(book, claim)).find(by)
}

/// The identity keys of a device, that of now first.
fn identities(book: &Book, device: &DeviceId) -> Result<Vec<PublicKey>, Refused> {
    let device = known(book, device)?;
    Ok(std::iter::once(&device.keys).chain(&device.past).map(|keys| keys.identity).collect())
}

/// Who signs the era at the place where the collector stands; of a new era, who signed the one before.
fn before(book: &Book, claim: &SegmentHeader) -> Option<Signer> {
    let earlier = || book.eras(&claim.device).rev().find(|chain| chain.ack.era.number < claim.era.number);
    book.era(&claim.device, claim.era).or_else(earlier).and_then(EraChain::signer)
}

/// The most places at which a device's trail is told to fork.
const FORKS_MAX: usize = 64;

/// Whether one more place is kept at which a device's trail forks. Whoever has its keys finds new ones without end, and must
/// not fill the ledger.
fn may_fork(book: &Book, header: &SegmentHeader) -> Result<(), Refused> {
    let own = book.forks().filter(|fork| fork.device == header.device).count();
    if is_told(book, header) || own < FORKS_MAX {
        return Ok(());
    }
    Err(Refused::Malformed("a trail that forked at too many places: enrol the device again"))
}

/// Whether a fork is known at a segment's place.
fn is_told(book: &Book, header: &SegmentHeader) -> bool {
    let place = (&header.device, header.era, header.segment);
    book.forks().any(|fork| (&fork.device, fork.era, fork.segment) == place)
}

fn forked(
    book: &mut Book,
    header: &SegmentHeader,
    signed: &Signed<SegmentHeader>,
    what: &str,
    at: Timestamp,
    fx: &mut Effects,
) {
    let fork = Fork {
        device: header.device.clone(),
        era: header.era,
        segment: header.segment,
        header: signed.to_bytes(),
        what: what.into(),
        at,
    };
    // One proof per position is enough.
    if !is_told(book, header) && !active(Mutant::ForkUntold) {
        fx.log(FleetLog::ChainForked {
            device: header.device.clone(),
            era: header.era.number,
            segment: header.segment,
            what: what.into(),
        });
        book.write(Write::Fork(fork), fx);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use crate::wire::audit::segment::{GivenUp, Salvage, NUMBER_MAX};
    use crate::wire::enrol::DeviceKeys;

    use super::super::book::Device;
    use super::super::service::tests::{at, device_keys, one_device, salvaged, segment, sign};
    use super::*;
    use crate::ids::Hash;

    struct Collector {
        book: Book,
        stored: BTreeMap<(DeviceId, EraId, u64), Hash>,
        aside: BTreeSet<(EraId, u64, Hash)>,
    }

    impl Collector {
        fn new() -> Self {
            Self { book: one_device().1, stored: BTreeMap::new(), aside: BTreeSet::new() }
        }

        fn take(&mut self, upload: &Upload) -> Result<Collected, Refused> {
            self.receive(&Delivery::Open(upload.clone()))
        }

        fn receive(&mut self, delivery: &Delivery) -> Result<Collected, Refused> {
            let mut fx = Effects::default();
            let (stored, aside) = (self.stored.clone(), self.aside.clone());
            let archive = |device: &DeviceId, era, segment| {
                let range = (era, segment, Hash([0; 32]))..=(era, segment, Hash([255; 32]));
                let aside = aside.range(range).map(|(.., digest)| *digest).collect();
                Digests { trail: stored.get(&(device.clone(), era, segment)).copied(), aside }
            };
            let gw = "gw-07".parse().unwrap();
            let collected = receive(&mut self.book, &gw, &delivery.to_bytes(), &[], &archive, at(9), &mut fx);
            fx.commit(|writes| {
                for write in writes {
                    match write {
                        Write::Segment(segment) => {
                            self.stored.insert((segment.device.clone(), segment.era, segment.segment), segment.digest);
                        }
                        Write::Aside(segment) => {
                            self.aside.insert((segment.era, segment.segment, segment.digest));
                        }
                        _ => {}
                    }
                }
                Ok::<(), ()>(())
            })
            .unwrap();
            collected
        }
    }

    const ERA: EraId = EraId { number: 1, salt: 77 };

    fn mine() -> DeviceKeys {
        device_keys(1)
    }

    #[test]
    fn segments_in_order_are_held_once() {
        let mut collector = Collector::new();
        let first = segment(&mine(), ERA, None, 2, "a");
        let second = segment(&mine(), ERA, Some(&first), 3, "b");
        let held = collector.take(&first).unwrap();
        assert!(matches!(held, Collected::Held(ack) if (ack.next_segment, ack.next_index) == (1, 2)));
        let held = collector.take(&second).unwrap();
        assert!(matches!(held, Collected::Held(ack) if (ack.next_segment, ack.next_index) == (2, 5)));
        let again = collector.take(&first).unwrap();
        assert!(
            matches!(again, Collected::Held(ack) if (ack.next_segment, ack.next_index) == (1, 2)),
            "a duplicate is acknowledged again, and nothing else by it: {again:?}"
        );
        assert_eq!(collector.take(&second), Ok(held));
        assert_eq!(collector.stored.len(), 2);
        assert_eq!(collector.book.forks().count(), 0);
    }

    #[test]
    fn a_segment_out_of_order_is_told_where_to_go_on() {
        let mut collector = Collector::new();
        let first = segment(&mine(), ERA, None, 2, "a");
        let second = segment(&mine(), ERA, Some(&first), 3, "b");
        let early = collector.take(&second).unwrap();
        assert!(matches!(early, Collected::TooEarly(ack) if ack.next_segment == 0));
        assert!(collector.stored.is_empty());
        let strange = EraId { salt: 78, ..ERA };
        let forged = segment(&device_keys(99), strange, Some(&first), 3, "b");
        assert!(collector.take(&forged).is_err(), "nobody is told of an era that the device never had");
    }

    #[test]
    fn two_headers_for_one_position_are_kept_as_proof() {
        let mut collector = Collector::new();
        let first = segment(&mine(), ERA, None, 2, "a");
        let other = segment(&mine(), ERA, None, 2, "z");
        let after = segment(&mine(), ERA, Some(&other), 1, "b");
        collector.take(&first).unwrap();
        assert!(matches!(collector.take(&other), Ok(Collected::Forked(ack)) if ack.next_segment == 1));
        assert!(matches!(collector.take(&other), Ok(Collected::Forked(_))));
        assert!(matches!(collector.take(&after), Ok(Collected::Forked(_))), "it follows the other branch");
        assert_eq!(collector.book.forks().count(), 1, "one proof is enough: it goes on another branch, set aside");
        let twin = segment(&mine(), EraId { salt: 78, ..ERA }, None, 1, "c");
        assert!(matches!(collector.take(&twin), Ok(Collected::Held(_))), "it is kept, and told as a fork");
        assert_eq!(collector.book.forks().count(), 2);
    }

    /// Where a collector says that a branch stands.
    fn aside(collected: Result<Collected, Refused>) -> (u64, u64) {
        match collected {
            Ok(Collected::Forked(ack)) => (ack.next_segment, ack.next_index),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_follows_on_another_branch_is_set_aside_and_the_device_is_told_how_far() {
        let mut collector = Collector::new();
        let gw: DeviceId = "gw-07".parse().unwrap();
        let first = segment(&mine(), ERA, None, 2, "a");
        let clones = segment(&mine(), ERA, Some(&first), 1, "clone");
        let clones_next = segment(&mine(), ERA, Some(&clones), 1, "clone");
        let own = segment(&mine(), ERA, Some(&first), 3, "own");
        let own_next = segment(&mine(), ERA, Some(&own), 3, "own");
        let own_last = segment(&mine(), ERA, Some(&own_next), 3, "own");
        for upload in [&first, &clones, &clones_next] {
            assert!(matches!(collector.take(upload), Ok(Collected::Held(_))));
        }
        assert_eq!(aside(collector.take(&own)), (2, 5));
        assert_eq!(aside(collector.take(&own)), (2, 5), "again");
        assert_eq!(aside(collector.take(&own_next)), (3, 8));
        assert_eq!(told(&collector.book, &gw, ERA).next_segment, 3);
        assert_eq!(aside(collector.take(&own_last)), (4, 11));
        assert_eq!(aside(collector.take(&first)), (1, 2), "what both have, no further than it goes");
        assert_eq!(told(&collector.book, &gw, ERA).next_segment, 3, "nobody is told more than is held of his branch");
        let later = segment(&mine(), ERA, Some(&clones_next), 1, "clone");
        assert!(
            matches!(collector.take(&later), Ok(Collected::Held(ack)) if ack.next_segment == 4),
            "that goes on too"
        );
        assert_eq!((collector.stored.len(), collector.aside.len(), collector.book.forks().count()), (4, 3, 1));
        let [branch] = &collector.book.branches(&gw, ERA).unwrap().branches[..] else { panic!() };
        assert_eq!((branch.from, branch.first_index, branch.records), (1, 2, 9));
    }

    #[test]
    fn a_branch_whose_beginning_counted_as_delivered_is_asked_for_once_more() {
        let mut collector = Collector::new();
        let gw: DeviceId = "gw-07".parse().unwrap();
        let first = segment(&mine(), ERA, None, 2, "a");
        let clones = segment(&mine(), ERA, Some(&first), 1, "clone");
        let own = segment(&mine(), ERA, Some(&first), 3, "own");
        let own_next = segment(&mine(), ERA, Some(&own), 3, "own");
        let own_last = segment(&mine(), ERA, Some(&own_next), 3, "own");
        collector.take(&first).unwrap();
        collector.take(&clones).unwrap();
        // The device was told that two segments are held, and took the second for its own.
        for _ in 0..3 {
            assert_eq!(
                aside(collector.take(&own_next)),
                (0, 0),
                "what is before it is missing, however often it comes"
            );
            assert_eq!(told(&collector.book, &gw, ERA).next_segment, 0, "from the beginning");
        }
        for (upload, next) in [(&first, (1, 2)), (&own, (2, 5)), (&own_next, (3, 8)), (&own_last, (4, 11))] {
            assert_eq!(aside(collector.take(upload)), next);
        }
        assert_eq!(told(&collector.book, &gw, ERA).next_segment, 2, "as far as all branches are held");
        assert_eq!((collector.stored.len(), collector.aside.len()), (2, 3));
    }

    #[test]
    fn of_branches_that_cover_one_number_each_is_told_of_its_own() {
        let mut collector = Collector::new();
        let first = segment(&mine(), ERA, None, 2, "a");
        let branch = |collector: &mut Collector, name: &str, records| {
            let mut last = first.clone();
            [0, 1].map(|_| {
                last = segment(&mine(), ERA, Some(&last), records, name);
                collector.take(&last).unwrap();
                last.clone()
            })
        };
        collector.take(&first).unwrap();
        branch(&mut collector, "clone", 1);
        let long = branch(&mut collector, "own", 3);
        let short = branch(&mut collector, "copy", 2);
        collector.take(&segment(&mine(), ERA, Some(&long[1]), 3, "own")).unwrap();
        for (uploads, after) in [(&long, [(2, 5), (3, 8)]), (&short, [(2, 4), (3, 6)])] {
            let told = uploads.iter().map(|upload| aside(collector.take(upload)));
            assert_eq!(told.collect::<Vec<_>>(), after);
            let Ok(Collected::Forked(ack)) = collector.take(&uploads[1]) else { panic!() };
            assert_eq!(ack.head, uploads[1].header.claim().unwrap().head());
        }
    }

    #[test]
    fn branches_are_bounded_and_forged_ones_are_none() {
        let mut collector = Collector::new();
        collector.take(&segment(&mine(), ERA, None, 2, "a")).unwrap();
        let forged = segment(&device_keys(99), ERA, None, 2, "z");
        assert!(collector.take(&forged).is_err());
        let mut damaged = segment(&mine(), ERA, None, 2, "z");
        damaged.leaves[1][3] ^= 1;
        assert_eq!(collector.take(&damaged), Err(Refused::DigestMismatch));
        assert!(collector.aside.is_empty() && collector.book.branched().next().is_none());
        for number in 0..Branches::MAX {
            aside(collector.take(&segment(&mine(), ERA, None, 1, &format!("b{number}"))));
        }
        let refused = collector.take(&segment(&mine(), ERA, None, 1, "one more"));
        assert!(matches!(refused, Err(Refused::Malformed(_))), "{refused:?}");
        assert_eq!(collector.aside.len(), Branches::MAX);
    }

    #[test]
    fn places_at_which_a_trail_forks_are_bounded() {
        let mut collector = Collector::new();
        let twin = |number, salt| segment(&mine(), EraId { number, salt }, None, 1, "t");
        collector.take(&twin(1, 1000)).unwrap();
        for salt in 1..=FORKS_MAX as u64 {
            assert!(matches!(collector.take(&twin(1, salt)), Ok(Collected::Held(_))));
        }
        assert_eq!(collector.book.forks().count(), FORKS_MAX);
        assert!(matches!(collector.take(&twin(1, 99)), Err(Refused::Malformed(_))), "one more era of that number");
        let next = segment(&mine(), EraId { number: 1, salt: 7 }, Some(&twin(1, 7)), 1, "u");
        assert!(matches!(collector.take(&next), Ok(Collected::Held(_))), "those that are known go on");
        assert!(matches!(collector.take(&twin(2, 1)), Ok(Collected::Held(_))), "the next one is no fork");
        let branch = segment(&mine(), EraId { number: 2, salt: 1 }, None, 1, "other");
        assert!(matches!(collector.take(&branch), Err(Refused::Malformed(_))), "nor another branch");
        assert_eq!((collector.book.forks().count(), collector.aside.len()), (FORKS_MAX, 0));
    }

    #[test]
    fn numbers_that_no_device_comes_to_are_refused() {
        let mut collector = Collector::new();
        let first = segment(&mine(), ERA, None, 2, "a");
        collector.take(&first).unwrap();
        let far = |next_segment| {
            let left = salvaged(&mine(), &segment(&mine(), ERA, Some(&first), 3, "b"), 1..2);
            let mut header = left.header.claim().unwrap();
            header.salvage = header.salvage.map(|salvage| Salvage { next_segment, ..salvage });
            Upload { header: sign(header, &mine()), leaves: left.leaves }
        };
        for next_segment in [u64::MAX, NUMBER_MAX + 1] {
            assert!(matches!(collector.take(&far(next_segment)), Err(Refused::Malformed(_))), "{next_segment}");
        }
        assert!(matches!(collector.take(&far(NUMBER_MAX)), Ok(Collected::Held(_))), "the last that there is");
    }

    #[test]
    fn what_a_damaged_disk_has_left_takes_a_segments_place_and_forks_nothing() {
        let mut collector = Collector::new();
        let first = segment(&mine(), ERA, None, 4, "a");
        let second = segment(&mine(), ERA, Some(&first), 3, "b");
        let third = segment(&mine(), ERA, Some(&second), 3, "c");
        let left = salvaged(&mine(), &second, 1..2);
        assert!(matches!(collector.take(&left), Ok(Collected::TooEarly(ack)) if ack.next_segment == 0));
        collector.take(&first).unwrap();
        assert!(
            matches!(collector.take(&left), Ok(Collected::Held(ack)) if (ack.next_segment, ack.next_index) == (2, 7))
        );
        assert!(
            matches!(collector.take(&third), Ok(Collected::Held(ack)) if ack.next_index == 10),
            "the chain goes on"
        );
        assert!(matches!(collector.take(&second), Ok(Collected::Held(_))), "delayed: it was whole once");
        let more = salvaged(&mine(), &second, 0..2);
        assert!(matches!(collector.take(&more), Ok(Collected::Held(_))), "it rots on");
        assert_eq!((collector.stored.len(), collector.book.forks().count()), (3, 0));
        let mut forged = left.clone();
        forged.leaves.pop();
        assert!(matches!(collector.take(&forged), Ok(Collected::Held(_))), "nobody looks into what is held");
        let next = segment(&mine(), ERA, Some(&third), 2, "d");
        let mut forged = salvaged(&mine(), &next, 1..2);
        forged.leaves.pop();
        assert_eq!(collector.take(&forged), Err(Refused::DigestMismatch));
    }

    #[test]
    fn what_was_given_up_is_held_without_leaves_by_the_devices_word_alone() {
        let mut collector = Collector::new();
        let first = segment(&mine(), ERA, None, 2, "a");
        let second = segment(&mine(), ERA, Some(&first), 3, "b");
        let third = segment(&mine(), ERA, Some(&second), 3, "c");
        let given_up = |of: &Upload, by: &DeviceKeys| {
            let said = GivenUp { device: "gw-07".parse().unwrap(), header: of.header.digest() };
            let word = Signed::sign(&said, &"acme".parse().unwrap(), &[&by.identity]);
            Delivery::Shed { header: of.header.clone(), word }
        };
        collector.take(&first).unwrap();
        let forged = collector.receive(&given_up(&second, &device_keys(99)));
        assert!(matches!(forged, Err(Refused::UnknownKey { .. })), "whoever carries it cannot take its records out");
        let stripped = Upload { leaves: Vec::new(), ..second.clone() };
        assert_eq!(collector.take(&stripped), Err(Refused::DigestMismatch));
        let early = collector.receive(&given_up(&third, &mine()));
        assert!(matches!(early, Ok(Collected::TooEarly(ack)) if ack.next_segment == 1));
        let held = collector.receive(&given_up(&second, &mine())).unwrap();
        assert!(matches!(held, Collected::Held(ack) if (ack.next_segment, ack.next_index) == (2, 5)));
        assert_eq!(collector.take(&second), Ok(held), "a whole one that was late is no fork");
        assert!(matches!(collector.take(&third), Ok(Collected::Held(ack)) if ack.next_index == 8), "the chain goes on");
        let late = collector.receive(&given_up(&third, &mine()));
        assert!(matches!(late, Ok(Collected::Held(_))), "nor is one without records after the whole one");
        let other = segment(&mine(), ERA, Some(&first), 2, "z");
        assert!(matches!(collector.receive(&given_up(&other, &mine())), Ok(Collected::Forked(_))));
        assert_eq!((collector.stored.len(), collector.book.forks().count()), (3, 1));
    }

    #[test]
    fn a_replaced_gateway_that_begins_at_era_1_again_is_no_twin() {
        let mut collector = Collector::new();
        collector.take(&segment(&mine(), ERA, None, 2, "a")).unwrap();
        let gw: DeviceId = "gw-07".parse().unwrap();
        let device = collector.book.device(&gw).unwrap().clone();
        let replaced = Device { keys: device_keys(2).public(), past: vec![device.keys.clone()], ..device };
        collector.book.apply(Write::Device(Box::new(replaced)));
        let other = EraId { salt: 78, ..ERA };
        let begun = segment(&device_keys(2), other, None, 1, "c");
        assert!(matches!(collector.take(&begun), Ok(Collected::Held(_))));
        assert_eq!(collector.book.forks().count(), 0);
        let twin = segment(&device_keys(2), EraId { salt: 79, ..ERA }, None, 1, "d");
        assert!(matches!(collector.take(&twin), Ok(Collected::Held(_))));
        assert_eq!(collector.book.forks().count(), 1, "under the same key it is one");
    }

    #[test]
    fn forged_and_foreign_segments_are_refused() {
        let mut collector = Collector::new();
        let good = segment(&mine(), ERA, None, 2, "a");
        let forged = segment(&device_keys(99), ERA, None, 2, "a");
        assert!(matches!(collector.take(&forged), Err(Refused::UnknownKey { .. })));
        let mut damaged = good.clone();
        damaged.leaves[1][3] ^= 1;
        assert_eq!(collector.take(&damaged), Err(Refused::DigestMismatch));
        let mut short = good.clone();
        short.leaves.pop();
        assert_eq!(collector.take(&short), Err(Refused::DigestMismatch));
        let mut fx = Effects::default();
        let archive = |_: &DeviceId, _, _| Digests::default();
        let bytes = Delivery::Open(good).to_bytes();
        let elsewhere = receive(&mut collector.book, &"gw-08".parse().unwrap(), &bytes, &[], &archive, at(9), &mut fx);
        assert_eq!(elsewhere, Err(Refused::WrongDevice));
        for end in 0..bytes.len() {
            let cut =
                receive(&mut collector.book, &"gw-07".parse().unwrap(), &bytes[..end], &[], &archive, at(9), &mut fx);
            assert!(cut.is_err(), "cut at {end}");
        }
        assert!(!fx.has_writes());
    }
}
