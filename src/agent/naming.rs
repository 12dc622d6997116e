//! Who is accountable is said once in an era.
//!
//! Owns: which allow of the open era names which credential in full, so that later decisions can refer to it.
//! Never: keeps more than [`NAMES_MAX`]: what is forgotten is named in full again; refers to a denial, which may be dropped.
//! Read next: `audit.rs`, which asks before a record and tells after.

use std::collections::BTreeMap;

use crate::ids::Hash;
use crate::wire::audit::{Credential, Decision, Named};
use crate::wire::encode;

/// The most credentials that are remembered: in two halves, the older of which goes when the newer is full.
const NAMES_MAX: usize = 1024;

/// Records that name credentials, by the SHA-256 of what they name.
#[derive(Default)]
pub(super) struct Names {
    newer: BTreeMap<Hash, u64>,
    older: BTreeMap<Hash, u64>,
}

impl Names {
    /// The credential as the next record says it.
    pub(super) fn tell(&mut self, named: Named) -> Credential {
        let key = key(&named);
        if crate::mutant::active(crate::mutant::Mutant::NamedByAnother) {
            let newest = self.newer.values().chain(self.older.values()).max();
            return newest.map_or_else(|| Credential::Named(Box::new(named)), |index| Credential::Same(*index));
        }
        match self.newer.get(&key).copied().or_else(|| self.older.remove(&key)) {
            Some(index) => {
                self.note(key, index);
                Credential::Same(index)
            }
            None => Credential::Named(Box::new(named)),
        }
    }

    /// What a record says can be referred to from here on, if it is an allow.
    pub(super) fn written(&mut self, decision: &Decision, index: u64) {
        match &decision.credential {
            Credential::Named(named) if decision.allow => self.note(key(named), index),
            Credential::Named(_) | Credential::Nothing | Credential::Same(_) => {}
        }
    }

    fn note(&mut self, key: Hash, index: u64) {
        if self.newer.len() >= NAMES_MAX / 2 && !self.newer.contains_key(&key) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, index);
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
        Named { owner: "ops@acme".into(), grant: Default::default(), task, chain: Vec::new() }
    }

    fn decision(allow: bool, credential: Credential) -> Decision {
        Decision {
            allow,
            reason: String::new(),
            operation: String::new(),
            resource: String::new(),
            destination: None,
            risk: None,
            credential,
            workload: Vec::new(),
            enforcer: Vec::new(),
            known: Default::default(),
        }
    }

    #[test]
    fn a_credential_is_named_again_only_when_no_allow_did() {
        let mut names = Names::default();
        let full = |task| Credential::Named(Box::new(named(task)));
        assert_eq!(names.tell(named(1)), full(1));
        names.written(&decision(false, full(1)), 4);
        assert_eq!(names.tell(named(1)), full(1), "a denial may be dropped");
        names.written(&decision(true, full(1)), 5);
        names.written(&decision(true, Credential::Same(5)), 6);
        assert_eq!((names.tell(named(1)), names.tell(named(2))), (Credential::Same(5), full(2)));
    }

    #[test]
    fn what_is_used_is_kept_and_the_rest_forgotten() {
        let mut names = Names::default();
        for task in 0..3 * NAMES_MAX {
            names.written(&decision(true, Credential::Named(Box::new(named(task)))), task as u64);
            assert_eq!(names.tell(named(0)), Credential::Same(0));
            assert!(names.newer.len() + names.older.len() <= NAMES_MAX);
        }
        assert_eq!(names.tell(named(1)), Credential::Named(Box::new(named(1))));
    }
}
