//! Two segments that one device's keys signed and that cannot both stand in its trail.
//!
//! Owns: [`contradiction`]: which two headers prove that, and how.
//! Never: says who of the two is the device. That takes somebody who looks at both.
//! Read next: `../../cli/audit/fork.rs`, the file that carries the two.

use super::segment::SegmentHeader;
use super::signer::Signer;
use crate::ids::Hash;

/// A header whose signature was checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Branch {
    /// The header.
    pub header: SegmentHeader,
    /// The digest of its signed bytes.
    pub digest: Hash,
    /// Who signed it.
    pub signer: Signer,
}

/// How two headers contradict each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contradiction {
    /// They are two segments of one number.
    Segment,
    /// The second is to follow the first, and follows another.
    Chain,
    /// They begin two eras of one number.
    Era,
    /// The second begins a later era with an older audit key, or with another key of the same epoch.
    Key,
}

impl Contradiction {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Chain => "chain",
            Self::Era => "era",
            Self::Key => "key",
        }
    }

    /// What it says, for a person.
    pub fn words(self) -> &'static str {
        match self {
            Self::Segment => "two different segments were signed under one number of one era",
            Self::Chain => "a segment was signed that follows another than the one before it in this era",
            Self::Era => "two eras were begun under one number with the same identity key",
            Self::Key => "a later era was begun with an older audit key than an earlier one was signed with",
        }
    }
}

/// Why two branches of a device cannot both be its trail, if they cannot. What a damaged disk left is signed once more, and
/// a later start signs what was left unsigned with the key of then: neither contradicts what was signed before.
pub fn contradiction(first: &Branch, second: &Branch) -> Option<Contradiction> {
    let (a, b) = (&first.header, &second.header);
    if a.device != b.device {
        return None;
    }
    let whole = a.salvage.is_none() && b.salvage.is_none();
    let same_identity = first.signer.identity == second.signer.identity;
    if a.era == b.era && whole {
        if a.segment == b.segment {
            return (first.digest != second.digest).then_some(Contradiction::Segment);
        }
        let follows = b.previous == a.head() && a.next_index() == Ok(b.first_index);
        return (b.segment == a.next_segment() && !follows).then_some(Contradiction::Chain);
    }
    if a.era.number == b.era.number {
        let both_begin = a.segment == 0 && b.segment == 0 && a.era.salt != b.era.salt;
        return (both_begin && same_identity).then_some(Contradiction::Era);
    }
    let in_time = whole && !a.recovered && !b.recovered;
    let begins_later = a.era.number < b.era.number && b.segment == 0;
    let (old, new) = (first.signer, second.signer);
    let back = new.epoch < old.epoch || (new.epoch == old.epoch && new.key != old.key);
    (in_time && begins_later && same_identity && back).then_some(Contradiction::Key)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::segment::{link, Salvage};
    use super::*;
    use crate::ids::EraId;
    use crate::time::Timestamp;

    fn branch(edit: impl FnOnce(&mut Branch)) -> Branch {
        let header = SegmentHeader {
            device: "gw-07".parse().unwrap(),
            era: EraId { number: 3, salt: 9 },
            segment: 4,
            first_index: 20,
            count: 5,
            previous: Hash([1; 32]),
            root: Hash([2; 32]),
            closed_at: Timestamp(5),
            recovered: false,
            signer: None,
            feeds: Vec::new(),
            salvage: None,
        };
        let key = |seed| SigningKey::from_bytes(&[seed; 32]).verifying_key().into();
        let signer = Signer { identity: key(1), epoch: 4, key: key(40) };
        let mut branch = Branch { header, digest: Hash([3; 32]), signer };
        edit(&mut branch);
        branch
    }

    /// What the second branch says beside the usual one.
    #[track_caller]
    fn check(expected: Option<Contradiction>, edit: impl FnOnce(&mut Branch)) {
        assert_eq!(contradiction(&branch(|_| {}), &branch(edit)), expected);
    }

    fn next(branch: &mut Branch) {
        (branch.header.segment, branch.header.first_index) = (5, 25);
        branch.header.previous = link(Hash([1; 32]), Hash([2; 32]));
    }

    fn salvage() -> Option<Salvage> {
        Some(Salvage { next_segment: 5, lost: vec![(20, 21)], head: Hash::ZERO, resumes: None })
    }

    #[test]
    fn two_segments_of_one_number_contradict_each_other() {
        check(None, |_| {});
        check(Some(Contradiction::Segment), |b| b.digest = Hash::ZERO);
        check(None, |b| (b.digest, b.header.salvage) = (Hash::ZERO, salvage()));
        check(None, |b| (b.digest, b.header.device) = (Hash::ZERO, "gw-08".parse().unwrap()));
        check(None, |b| (b.digest, b.header.era.salt) = (Hash::ZERO, 1));
    }

    #[test]
    fn a_segment_that_follows_another_contradicts_the_one_before() {
        check(None, next);
        check(Some(Contradiction::Chain), |b| {
            next(b);
            b.header.previous = Hash::ZERO;
        });
        check(Some(Contradiction::Chain), |b| {
            next(b);
            b.header.first_index = 26;
        });
        check(None, |b| (b.header.segment, b.header.previous) = (6, Hash::ZERO));
        check(None, |b| {
            next(b);
            (b.header.previous, b.header.salvage) = (Hash::ZERO, salvage());
        });
    }

    #[test]
    fn two_eras_of_one_number_or_an_older_key_contradict_each_other_under_one_identity() {
        let first = |edit: fn(&mut Branch)| {
            branch(|b| {
                b.header.segment = 0;
                edit(b);
            })
        };
        let twins = |edit| contradiction(&first(|_| {}), &first(edit));
        let stranger = || SigningKey::from_bytes(&[2; 32]).verifying_key().into();
        assert_eq!(twins(|b| b.header.era.salt = 1), Some(Contradiction::Era));
        assert_eq!(
            contradiction(&first(|_| {}), &branch(|b| (b.header.era.salt, b.signer.identity) = (1, stranger()))),
            None
        );
        let later = |edit: &dyn Fn(&mut Branch)| {
            let second = branch(|b| {
                (b.header.segment, b.header.era) = (0, EraId { number: 5, salt: 1 });
                edit(b);
            });
            contradiction(&branch(|_| {}), &second)
        };
        assert_eq!(later(&|_| {}), None);
        assert_eq!(later(&|b| b.signer.epoch = 5), None);
        assert_eq!(later(&|b| b.signer.epoch = 3), Some(Contradiction::Key));
        assert_eq!(later(&|b| b.signer.key = stranger()), Some(Contradiction::Key), "another key of one epoch");
        assert_eq!(later(&|b| (b.signer.epoch, b.signer.identity) = (3, stranger())), None, "it was replaced");
        assert_eq!(later(&|b| (b.signer.epoch, b.header.recovered) = (3, true)), None);
        assert_eq!(later(&|b| (b.signer.epoch, b.header.segment) = (3, 1)), None);
    }
}
