//! Who is accountable is said once in a while.
//!
//! Owns: which allow of the open era names which credential in full, so that later decisions can refer to it.
//! Never: keeps more than [`NAMES_MAX`]: what is forgotten is named in full again; refers to a denial, which may be dropped,
//! or further back than [`SEGMENTS_MAX`].
//! Read next: `audit.rs`, which asks before a record and tells after.

use std::collections::BTreeMap;

use crate::ids::Hash;
use crate::wire::audit::{Credential, Decision, Named};
use crate::wire::encode;

/// The most credentials that are remembered: in two halves, the older of which goes when the newer is full.
const NAMES_MAX: usize = 1024;
/// Segments after which a credential is named again: a disk that loses the record which names it takes with it who is
/// accountable for so many segments' decisions at the most. In full segments that is one record of 4096.
const SEGMENTS_MAX: u64 = 64;

/// Records that name credentials, by the SHA-256 of what they name.
#[derive(Default)]
pub(super) struct Names {
    newer: BTreeMap<Hash, Place>,
    older: BTreeMap<Hash, Place>,
}

/// Where a credential is named.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) index: u64,
    pub(super) segment: u64,
}

impl Names {
    /// The credential as the next record says it, which goes into this segment.
    pub(super) fn tell(&mut self, named: Named, segment: u64) -> Credential {
        let key = key(&named);
        if crate::mutant::active(crate::mutant::Mutant::NamedByAnother) {
            let newest = self.newer.values().chain(self.older.values()).max();
            return newest.map_or_else(|| Credential::Named(Box::new(named)), |place| Credential::Same(place.index));
        }
        match self.newer.get(&key).copied().or_else(|| self.older.remove(&key)) {
            Some(place) if segment < place.segment.saturating_add(SEGMENTS_MAX) => {
                self.note(key, place);
                Credential::Same(place.index)
            }
            Some(_) | None => Credential::Named(Box::new(named)),
        }
    }

    /// What a record says can be referred to from here on, if it is an allow.
    pub(super) fn written(&mut self, decision: &Decision, place: Place) {
        match &decision.credential {
            Credential::Named(named) if decision.allow => self.note(key(named), place),
            Credential::Named(_) | Credential::Nothing | Credential::Same(_) => {}
        }
    }

    fn note(&mut self, key: Hash, place: Place) {
        if self.newer.len() >= NAMES_MAX / 2 && !self.newer.contains_key(&key) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, place);
    }
}

fn key(named: &Named) -> Hash {
    Hash::of("named", &[&encode(named)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(task: usize) -> Named {
        let task = Some(format!("t-{task}").parse().unwrap());
        Named {
            owner: "ops@acme".into(),
            grant: Default::default(),
            task,
            chain: Vec::new(),
            step: None,
            initiator: None,
        }
    }

    fn full(task: usize) -> Credential {
        Credential::Named(Box::new(named(task)))
    }

    fn at(index: u64, segment: u64) -> Place {
        Place { index, segment }
    }

    fn decision(allow: bool, credential: Credential) -> Decision {
        Decision {
            allow,
            reason: String::new(),
            operation: String::new(),
            resource: String::new(),
            destination: None,
            risk: None,
            arguments: None,
            credential,
            workload: Vec::new(),
            enforcer: Vec::new(),
            known: Default::default(),
        }
    }

    #[test]
    fn a_credential_is_named_again_only_when_no_allow_did() {
        let mut names = Names::default();
        assert_eq!(names.tell(named(1), 0), full(1));
        names.written(&decision(false, full(1)), at(4, 0));
        assert_eq!(names.tell(named(1), 0), full(1), "a denial may be dropped");
        names.written(&decision(true, full(1)), at(5, 0));
        names.written(&decision(true, Credential::Same(5)), at(6, 0));
        assert_eq!((names.tell(named(1), 0), names.tell(named(2), 0)), (Credential::Same(5), full(2)));
    }

    #[test]
    fn one_lost_record_takes_the_names_of_so_many_segments_at_the_most() {
        let mut names = Names::default();
        names.written(&decision(true, full(1)), at(5, 3));
        assert_eq!(names.tell(named(1), 3 + SEGMENTS_MAX - 1), Credential::Same(5));
        assert_eq!(
            names.tell(named(1), 3 + SEGMENTS_MAX),
            full(1),
            "used all the time, it is named again all the same"
        );
        names.written(&decision(true, full(1)), at(4200, 3 + SEGMENTS_MAX));
        assert_eq!(names.tell(named(1), 4 + SEGMENTS_MAX), Credential::Same(4200));
    }

    #[test]
    fn what_is_used_is_kept_and_the_rest_forgotten() {
        let mut names = Names::default();
        for task in 0..3 * NAMES_MAX {
            names.written(&decision(true, full(task)), at(task as u64, 0));
            assert_eq!(names.tell(named(0), 0), Credential::Same(0));
            assert!(names.newer.len() + names.older.len() <= NAMES_MAX);
        }
        assert_eq!(names.tell(named(1), 0), full(1));
    }
}
