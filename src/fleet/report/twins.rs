//! Eras of one device that were signed with its keys and that it cannot have begun both.
//!
//! Owns: what is remembered of each era for that (`Begun`); which era contradicts which earlier one (`Twin`).
//! Never: asks in which order they came; looks at branches beside a trail: `branch.rs` does.
//! Read next: `../../wire/audit/fork.rs`, which says what contradicts what.

use std::collections::BTreeMap;

use crate::ids::{DeviceId, EraId, Hash};
use crate::wire::audit::fork::{contradiction, Branch, Contradiction};
use crate::wire::audit::segment::SegmentHeader;
use crate::wire::audit::signer::Signer;

/// An era that contradicts an earlier one of its device. Which of them is the device's own nobody can tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Twin {
    /// The era.
    pub era: EraId,
    /// The epoch of the audit key that began it.
    pub epoch: u64,
    /// The earlier one, or one that has its number.
    pub other: EraId,
    /// The epoch of the audit key that signed what it contradicts there.
    pub other_epoch: u64,
    /// How.
    pub proves: Contradiction,
}

impl Twin {
    fn of(other: &Branch, first: &Branch) -> Option<Self> {
        contradiction(other, first).map(|proves| Self {
            era: first.header.era,
            epoch: first.signer.epoch,
            other: other.header.era,
            other_epoch: other.signer.epoch,
            proves,
        })
    }
}

/// Per device and era: its first header, and one header of each audit key that signed in it in time.
#[derive(Default)]
pub(super) struct Begun(BTreeMap<DeviceId, BTreeMap<EraId, Vec<Branch>>>);

impl Begun {
    /// Takes in a header of a trail whose signature was checked.
    pub(super) fn note(&mut self, header: &SegmentHeader, digest: Hash, signer: Signer) {
        let eras = self.0.entry(header.device.clone()).or_default();
        let known = eras.entry(header.era).or_default();
        let told = known.iter().any(|known| known.signer == signer && is_in_time(&known.header));
        if header.segment == 0 || (is_in_time(header) && !told) {
            known.push(Branch { header: header.clone(), digest, signer });
        }
    }

    /// Each era that contradicts an earlier one, once, per device by number and salt.
    pub(super) fn twins(self) -> impl Iterator<Item = (DeviceId, Twin)> {
        self.0
            .into_iter()
            .flat_map(|(device, eras)| of_device(eras).into_iter().map(move |twin| (device.clone(), twin)))
    }
}

fn of_device(eras: BTreeMap<EraId, Vec<Branch>>) -> Vec<Twin> {
    let (mut twins, mut newest) = (Vec::new(), Newest::default());
    // Of the number at hand: all that is remembered, and who began it first under each identity key.
    let (mut here, mut begun): (Vec<Branch>, Vec<Branch>) = (Vec::new(), Vec::new());
    for (era, branches) in eras {
        if here.first().is_some_and(|branch| branch.header.era.number != era.number) {
            here.drain(..).for_each(|branch| newest.take(branch));
            begun.clear();
        }
        if let Some(first) = branches.iter().find(|branch| branch.header.segment == 0) {
            twins.extend(begun.iter().chain(newest.of(first)).find_map(|other| Twin::of(other, first)));
            if begun.iter().all(|other| other.signer.identity != first.signer.identity) {
                begun.push(first.clone());
            }
        }
        here.extend(branches);
    }
    twins
}

/// Per identity key, a header signed in time by its audit key of the highest epoch so far. Of two keys of that epoch there are
/// two: whoever begins an era later has another key than one of them.
#[derive(Default)]
struct Newest(BTreeMap<[u8; 32], Vec<Branch>>);

impl Newest {
    fn take(&mut self, branch: Branch) {
        if !is_in_time(&branch.header) {
            return;
        }
        let known = self.0.entry(*branch.signer.identity.as_bytes()).or_default();
        let (epoch, key) = (branch.signer.epoch, branch.signer.key);
        known.retain(|known| known.signer.epoch >= epoch);
        let passed = known.iter().any(|known| known.signer.epoch > epoch || known.signer.key == key);
        if !passed && known.len() < 2 {
            known.push(branch);
        }
    }

    fn of(&self, first: &Branch) -> &[Branch] {
        self.0.get(first.signer.identity.as_bytes()).map_or(&[][..], Vec::as_slice)
    }
}

/// Not what a later start closed, or a damaged disk left: that was signed with the key of then.
fn is_in_time(header: &SegmentHeader) -> bool {
    !header.recovered && header.salvage.is_none()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::time::Timestamp;

    /// A header of an era (its number and salt), with its segment, and who signed it: identity, epoch, key.
    type Told = ((u64, u64), u64, (u8, u64, u8));

    fn header((era, segment, _): Told) -> SegmentHeader {
        SegmentHeader {
            device: "gw-07".parse().unwrap(),
            era: EraId { number: era.0, salt: era.1 },
            segment,
            first_index: segment,
            count: 1,
            previous: Hash::ZERO,
            root: Hash::ZERO,
            closed_at: Timestamp(5),
            recovered: false,
            signer: None,
            feeds: Vec::new(),
            salvage: None,
        }
    }

    fn signer((_, _, (identity, epoch, key)): Told) -> Signer {
        let public = |seed| SigningKey::from_bytes(&[seed; 32]).verifying_key().into();
        Signer { identity: public(identity), epoch, key: public(key) }
    }

    /// An era, the earlier one, and how.
    type Found = ((u64, u64), (u64, u64), Contradiction);

    /// What contradicts what, for headers that come in this order; those at `late` were closed by a later start.
    fn found(told: &[Told], late: &[usize]) -> Vec<Found> {
        let mut begun = Begun::default();
        for (at, told) in told.iter().enumerate() {
            let header = SegmentHeader { recovered: late.contains(&at), ..header(*told) };
            begun.note(&header, Hash([at as u8; 32]), signer(*told));
        }
        let place = |era: EraId| (era.number, era.salt);
        begun.twins().map(|(_, twin)| (place(twin.era), place(twin.other), twin.proves)).collect()
    }

    #[test]
    fn an_era_contradicts_an_earlier_one_once_whatever_the_order() {
        use Contradiction::{Era, Key};
        const A: (u8, u64, u8) = (1, 1, 11);
        const NEWER: (u8, u64, u8) = (1, 2, 12);
        const OTHER: (u8, u64, u8) = (1, 2, 13);
        const REPLACED: (u8, u64, u8) = (2, 1, 21);
        let one = |number| (number, 7);
        let cases: [(&str, &[Told], &[usize], _); 13] = [
            ("nothing", &[(one(1), 0, A), (one(2), 0, A), (one(3), 0, NEWER)], &[], vec![]),
            ("twins", &[(one(1), 0, A), ((1, 8), 0, A)], &[], vec![((1, 8), one(1), Era)]),
            ("twins, the other way round", &[((1, 8), 0, A), (one(1), 0, A)], &[], vec![((1, 8), one(1), Era)]),
            (
                "three of them",
                &[((1, 8), 0, A), (one(1), 0, A), ((1, 9), 0, A)],
                &[],
                vec![((1, 8), one(1), Era), ((1, 9), one(1), Era)],
            ),
            ("twins of which one goes on", &[(one(1), 0, A), ((1, 8), 1, A)], &[], vec![]),
            (
                "a gateway that was replaced",
                &[(one(1), 0, NEWER), ((1, 8), 0, REPLACED), (one(2), 0, REPLACED)],
                &[],
                vec![],
            ),
            ("an older key", &[(one(4), 0, NEWER), (one(5), 0, A)], &[], vec![(one(5), one(4), Key)]),
            ("an older key, before it", &[(one(5), 0, A), (one(4), 0, NEWER)], &[], vec![(one(5), one(4), Key)]),
            (
                "older than one in the middle",
                &[(one(4), 0, A), (one(4), 1, NEWER), (one(6), 0, A)],
                &[],
                vec![(one(6), one(4), Key)],
            ),
            ("another of its epoch", &[(one(4), 0, NEWER), (one(5), 0, OTHER)], &[], vec![(one(5), one(4), Key)]),
            (
                "either of two of its epoch",
                &[(one(4), 0, NEWER), (one(5), 0, OTHER), (one(6), 0, NEWER)],
                &[],
                vec![(one(5), one(4), Key), (one(6), one(5), Key)],
            ),
            (
                "what a later start closed is signed by whoever comes then",
                &[(one(4), 0, NEWER), (one(5), 0, A)],
                &[0],
                vec![],
            ),
            ("and so is what it begins", &[(one(4), 0, NEWER), (one(5), 0, A)], &[1], vec![]),
        ];
        for (why, told, late, expected) in cases {
            assert_eq!(found(told, late), expected, "{why}");
        }
    }

    #[test]
    fn of_an_era_little_is_remembered() {
        let mut begun = Begun::default();
        for segment in 0..1000 {
            let told = ((1, 7), segment, (1, 1 + segment / 500, 11));
            begun.note(&header(told), Hash::ZERO, signer(told));
        }
        assert_eq!(begun.0.values().flat_map(BTreeMap::values).map(Vec::len).sum::<usize>(), 2);
    }
}
