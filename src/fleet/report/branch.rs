//! The other branches of an era that forked, checked as its trail is.
//!
//! Owns: where a branch parts from the trail, or from another branch ([`Parting`]); the check of its segments from there on
//! ([`Parted`]); what of it proves that somebody signed two trails.
//! Never: says which of them is the device's own; believes whoever kept it about where it parts: that follows from the signed
//! heads alone.
//! Read next: `../collect.rs`, which set it aside.

use std::collections::BTreeMap;

use super::holes::{list, Aside};
use super::{Chain, Checked, Holder, Made, Place, Said, Signers, Verifier};
use crate::fleet::book::{Branches, Segment};
use crate::ids::{DeviceId, EraId, Hash, KeyId};
use crate::time::Timestamp;
use crate::wire::audit::fork::Contradiction;
use crate::wire::audit::segment::SegmentHeader;
use crate::wire::audit::signer::Signer;
use crate::wire::envelope::Signed;

/// After what a branch goes its own way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parting {
    /// After this segment of the trail; none at the era's beginning.
    Trail(Option<u64>),
    /// After this segment of another branch.
    Branch(Hash, u64),
    /// What comes before it is not here.
    Unknown,
}

/// A place in an era at which a segment may go on.
#[derive(Clone, Copy)]
pub(super) struct Point {
    before: Option<Before>,
    segment: u64,
    index: u64,
    head: Hash,
    signer: Option<Signer>,
}

/// The segment before it.
#[derive(Clone, Copy)]
struct Before {
    number: u64,
    digest: Hash,
    by: Signer,
    /// Not what a damaged disk had left of one.
    whole: bool,
}

impl Point {
    /// Where an era begins.
    pub(super) fn beginning(place: &Place) -> Self {
        let Place { segment, index, head, signer } = *place;
        Self { before: None, segment, index, head, signer }
    }

    /// After a segment, which `by` has signed, and `next` goes on.
    pub(super) fn after(header: &SegmentHeader, digest: Hash, by: Signer, next: Signer) -> Self {
        let before = Before { number: header.segment, digest, by, whole: header.salvage.is_none() };
        Self {
            before: Some(before),
            segment: header.next_segment(),
            index: header.first_index.saturating_add(header.count.into()),
            head: header.head(),
            signer: Some(next),
        }
    }

    /// Who signs there.
    pub(super) fn signer(&self) -> Option<Signer> {
        self.signer
    }

    fn leads_to(&self, first: &SegmentHeader) -> bool {
        (self.segment, self.index, self.head) == (first.segment, first.first_index, first.previous)
    }

    /// How the segment before it contradicts another one that is whole.
    fn contradicts(&self, other: &SegmentHeader, digest: Hash) -> Option<Contradiction> {
        let before = self.before.filter(|before| before.whole)?;
        if before.number == other.segment {
            return (before.digest != digest).then_some(Contradiction::Segment);
        }
        (self.segment == other.segment && !self.leads_to(other)).then_some(Contradiction::Chain)
    }
}

/// A branch whose segments were checked.
pub(super) struct Limb {
    id: Hash,
    chain: Chain,
}

/// A branch, as far as its segments have come.
pub struct Parted {
    /// The digest of its first segment's header, by which it is named.
    pub id: Hash,
    /// The device.
    pub device: DeviceId,
    /// The era.
    pub era: EraId,
    /// After what it goes its own way.
    pub parting: Parting,
    /// Its first segment.
    pub first: u64,
    /// Its first record.
    pub first_index: u64,
    /// How many of its segments came, whether they are sound or not.
    pub segments: u64,
    /// What its first segment contradicts, if that is signed as it has to be.
    claims: Option<Contradiction>,
    /// That it is.
    is_signed: bool,
    at: Timestamp,
    verifier: Verifier,
}

impl Parted {
    /// Checks the next of its segments and returns it if it is sound.
    pub fn segment(&mut self, segment: Segment) -> Option<Checked> {
        let (at, is_first) = (segment.at, self.segments == 0);
        self.segments += 1;
        if (&segment.device, segment.era) != (&self.device, self.era) {
            let what =
                format!("segment {} of {} and era {} is none of it", segment.segment, segment.device, segment.era);
            self.verifier.problem(self.device.clone(), what);
            return None;
        }
        let checked = self.verifier.segment(segment);
        if is_first {
            self.at = at;
            self.is_signed = checked.is_some();
        }
        checked
    }

    /// How its first segment and what stands in its place elsewhere contradict each other: both were signed with the device's
    /// keys, and no device signs both.
    pub fn proves(&self) -> Option<Contradiction> {
        self.claims.filter(|_| self.is_signed)
    }
}

impl Verifier {
    /// Begins another branch of the era whose trail has come last, with this as its first segment. The trail is over then.
    ///
    /// # Errors
    /// In words, why there is no such branch.
    pub fn part(&mut self, first: &Signed<SegmentHeader>) -> Result<Parted, String> {
        let (claim, id) = (first.claim().map_err(|refused| refused.to_string())?, first.digest());
        let (device, era) = (claim.device.clone(), claim.era);
        let trail = self.chain.as_ref().filter(|trail| (&trail.device, trail.era) == (&device, era));
        let trail = trail.ok_or_else(|| format!("a branch of era {era}, whose trail is not before it"))?;
        if self.holder == Holder::Device {
            return Err("a branch, which only a collector tells apart".into());
        }
        if self.beside.len() >= Branches::MAX {
            return Err(format!("era {era}: more branches than a collector keeps"));
        }
        if self.beside.iter().any(|limb| limb.id == id) {
            return Err(format!("era {era}: a branch that has come before"));
        }
        let all = || [(None, trail)].into_iter().chain(self.beside.iter().map(|limb| (Some(limb.id), &limb.chain)));
        let points = || all().flat_map(|(of, chain)| chain.points.iter().map(move |point| (of, chain, point)));
        let found = points().find(|(.., point)| point.leads_to(&claim));
        let parting = match found.map(|(of, _, point)| (of, point.before.map(|before| before.number))) {
            None => Parting::Unknown,
            Some((None, after)) => Parting::Trail(after),
            // A branch has no place of its own before its first segment.
            Some((Some(other), after)) => Parting::Branch(other, after.unwrap_or_default()),
        };
        // What says most: two segments of one number.
        let contradicted = || points().filter_map(|(.., point)| point.contradicts(&claim, id));
        let claims = contradicted().find(|how| *how == Contradiction::Segment).or_else(|| contradicted().next());
        let claims = claims.filter(|_| claim.salvage.is_none());
        let chain = match found {
            Some((_, chain, point)) => chain.cut(point),
            None => {
                // Whoever of those that signed the era signed this too: nobody knows who was to.
                let known = |(.., point): (_, _, &Point)| [point.before.map(|before| before.by), point.signer];
                let by = |signer: &Signer| first.signed_by().any(|key| key == KeyId::of(signer.key.as_bytes()));
                Chain {
                    device: device.clone(),
                    era,
                    next_segment: claim.segment,
                    next_index: claim.first_index,
                    head: claim.previous,
                    signer: points().flat_map(known).flatten().find(by),
                    lost: vec![(0, claim.first_index)],
                    shed: Vec::new(),
                    made: Made::Salvaged,
                    said: Said::default(),
                    points: Vec::new(),
                }
            }
        };
        let identities = self.signers.keys.get(&device).cloned().unwrap_or_default();
        let keys = BTreeMap::from([(device.clone(), identities)]);
        let mut verifier = Self::by(Signers { fleet: self.signers.fleet.clone(), keys });
        verifier.chain = Some(chain);
        self.parted = true;
        Ok(Parted {
            id,
            device,
            era,
            parting,
            first: claim.segment,
            first_index: claim.first_index,
            segments: 0,
            claims,
            is_signed: false,
            at: Timestamp::default(),
            verifier,
        })
    }

    /// A branch of which nothing more comes.
    pub fn join(&mut self, mut parted: Parted) {
        let found = parted.verifier.report.devices.remove(&parted.device).unwrap_or_default();
        let (device, era, proves) = (parted.device.clone(), parted.era, parted.proves());
        let report = self.report.devices.entry(device).or_default();
        report.problems.join(&format!("branch {}", short(parted.id)), found.problems);
        let Some(chain) = parted.verifier.chain.take() else { return };
        report.aside = report.aside.saturating_add(found.records);
        // A ledger tells its forks itself.
        if proves.is_some() && !self.forks_told {
            report.forks = report.forks.saturating_add(1);
        }
        let aside = Aside {
            era,
            id: parted.id,
            parting: parted.parting,
            segments: (parted.first, chain.next_segment),
            indexes: (parted.first_index, chain.next_index),
            records: found.records,
            decisions: found.decisions,
            proves,
            at: parted.at,
        };
        list(&mut report.holes.aside, &mut report.holes.left_out, aside);
        self.beside.push(Limb { id: parted.id, chain });
    }

    /// Whether the era whose branches came last has one that stands with this head.
    pub fn reaches(&self, head: Hash) -> bool {
        let chains = self.chain.iter().chain(self.beside.iter().map(|limb| &limb.chain));
        chains.flat_map(|chain| &chain.points).any(|point| point.head == head)
    }

    /// What is wrong with what was set aside of an era.
    pub fn wrong_aside(&mut self, device: &DeviceId, era: EraId, what: &str) {
        self.problem(device.clone(), format!("set aside of era {era}: {what}"));
    }
}

/// A branch's name as far as a person reads it.
pub fn short(id: Hash) -> String {
    let mut text = id.to_string();
    text.truncate(16);
    text
}

impl Chain {
    /// The same as it stood at a place, whatever came after.
    fn cut(&self, at: &Point) -> Self {
        let below = |ranges: &[(u64, u64)]| {
            let cut = ranges.iter().map(|(first, end)| (*first, (*end).min(at.index)));
            cut.filter(|(first, end)| first < end).collect::<Vec<_>>()
        };
        let named = self.said.named.range(..at.index).map(|(index, named)| (*index, named.clone()));
        let denials = self.said.denials.iter().copied().take_while(|index| *index < at.index);
        Self {
            device: self.device.clone(),
            era: self.era,
            next_segment: at.segment,
            next_index: at.index,
            head: at.head,
            signer: at.signer,
            lost: below(&self.lost),
            shed: below(&self.shed),
            made: self.made,
            said: Said { named: named.collect(), denials: denials.collect(), over: false },
            points: Vec::new(),
        }
    }
}

/// Sorts stored segments of an era, which come by their numbers, into branches: the places of each one's segments, in order.
pub fn branches(headers: &[SegmentHeader]) -> Vec<Vec<usize>> {
    let mut sorted: Vec<Vec<usize>> = Vec::new();
    // Per branch, what comes next on it.
    let mut tips: Vec<(u64, Option<u64>, Hash)> = Vec::new();
    for (place, header) in headers.iter().enumerate() {
        let after = (header.next_segment(), header.next_index().ok(), header.head());
        let before = (header.segment, Some(header.first_index), header.previous);
        match tips.iter_mut().zip(&mut sorted).find(|(tip, _)| **tip == before) {
            Some((tip, places)) => {
                *tip = after;
                places.push(place);
            }
            None => {
                tips.push(after);
                sorted.push(vec![place]);
            }
        }
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::super::super::service::tests::{at, device_keys, one_device, segment};
    use super::super::problems::Problems;
    use super::*;
    use crate::wire::audit::segment::Upload;

    const ERA: EraId = EraId { number: 1, salt: 77 };

    fn next(before: Option<&Upload>, mark: &str) -> Upload {
        segment(&device_keys(1), ERA, before, 2, mark)
    }

    fn stored(upload: &Upload) -> Segment {
        let header = upload.header.claim().unwrap();
        Segment {
            device: header.device,
            era: header.era,
            segment: header.segment,
            first_index: header.first_index,
            digest: upload.header.digest(),
            header: upload.header.to_bytes(),
            leaves: upload.leaves.clone(),
            at: at(1),
            read: None,
        }
    }

    /// A verifier that has seen a trail of these.
    fn after(trail: &[&Upload]) -> Verifier {
        let mut verifier = Verifier::by(Signers::of(&one_device().1));
        for upload in trail {
            assert!(verifier.segment(stored(upload)).is_some());
        }
        verifier
    }

    #[test]
    fn a_branch_is_judged_from_where_it_parts_and_contradicts_what_stands_there() {
        let first = next(None, "a");
        let second = next(Some(&first), "b");
        let other = next(Some(&first), "x");
        let begun = next(None, "y");
        let after_begun = next(Some(&begun), "y");
        let ahead = next(Some(&next(Some(&next(Some(&second), "z")), "z")), "z");
        let cases = [
            (&[&first, &second][..], &other, Parting::Trail(Some(0)), Some(Contradiction::Segment)),
            (&[&first, &second], &begun, Parting::Trail(None), Some(Contradiction::Segment)),
            (&[&first], &after_begun, Parting::Unknown, Some(Contradiction::Chain)),
            (&[&first, &second], &ahead, Parting::Unknown, None),
            (&[&first], &second, Parting::Trail(Some(0)), None),
        ];
        for (trail, branch, parting, proves) in cases {
            let mut verifier = after(trail);
            let mut parted = verifier.part(&branch.header).unwrap();
            assert_eq!((parted.parting, parted.proves()), (parting, None), "nothing is proved before it is checked");
            assert!(parted.segment(stored(branch)).is_some());
            assert_eq!(parted.proves(), proves, "{parting:?}");
            verifier.join(parted);
            let report = verifier.finish().devices.remove(&"gw-07".parse().unwrap()).unwrap();
            assert_eq!((report.forks, report.aside), (u64::from(proves.is_some()), 2));
            assert_eq!(report.problems, Problems::default());
        }
    }

    #[test]
    fn branches_are_bounded_and_come_once_and_after_their_trail() {
        let first = next(None, "a");
        let mut verifier = after(&[&first]);
        let branch = |number: usize| next(None, &format!("b{number}"));
        assert!(after(&[]).part(&branch(0).header).is_err(), "no trail");
        for number in 0..Branches::MAX {
            let branch = branch(number);
            let mut parted = verifier.part(&branch.header).unwrap();
            assert!(parted.segment(stored(&branch)).is_some());
            let mut forged = stored(&next(Some(&branch), "f"));
            forged.leaves[0][3] ^= 1;
            assert!(parted.segment(forged).is_none());
            verifier.join(parted);
            if number == 0 {
                assert!(verifier.part(&branch.header).is_err(), "twice");
            }
        }
        assert!(verifier.part(&branch(99).header).is_err(), "one too many");
        assert!(verifier.segment(stored(&next(Some(&first), "a"))).is_none(), "the trail is over");
        let report = verifier.finish().devices.remove(&"gw-07".parse().unwrap()).unwrap();
        assert_eq!((report.records, report.aside, report.problems.count()), (2, 16, Branches::MAX as u64 + 1));
    }

    #[test]
    fn stored_segments_are_sorted_into_branches() {
        let first = next(None, "a");
        let [left, right] = ["l", "r"].map(|mark| next(Some(&first), mark));
        let [left_next, right_next] = [(&left, "l"), (&right, "r")].map(|(before, mark)| next(Some(before), mark));
        let twig = next(Some(&left), "t");
        let headers = [&left, &right, &left_next, &right_next, &twig].map(|upload| upload.header.claim().unwrap());
        assert_eq!(branches(&headers), [vec![0, 2], vec![1, 3], vec![4]]);
        assert!(branches(&[]).is_empty());
    }
}
