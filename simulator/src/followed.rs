//! Which trust bundle a gateway goes by, from what its disk held when it was idle and what arrived since.
//!
//! Owns: how bundles that come in any order are taken in, one by one: whether a gateway believes who signed an answer follows
//! from that. The newest bundle of the fleet says nothing about a gateway that a broker keeps it from.
//! Never: asks the gateway.
//! Read next: `carry.rs`, which tells it what arrived.

use std::collections::BTreeMap;

use hardtack::wire::bundle::TrustBundle;
use hardtack::wire::envelope::Signed;

/// Bundles that a gateway lets wait for the one before them.
const AHEAD_MAX: usize = 8;

/// The versions of trust bundles, by their files: a fleet holds few different ones, and each is read at every message that
/// arrives anywhere.
#[derive(Debug, Default)]
pub(crate) struct Versions(BTreeMap<Vec<u8>, Option<u64>>);

impl Versions {
    /// The version of the trust bundle in a file. None where the file is none.
    pub(crate) fn of(&mut self, file: &[u8]) -> Option<u64> {
        if let Some(known) = self.0.get(file) {
            return *known;
        }
        let version = read(file).map(|trust| trust.version);
        self.0.insert(file.to_vec(), version);
        version
    }
}

/// The trust bundle in a file, unchecked.
pub(crate) fn read(file: &[u8]) -> Option<TrustBundle> {
    Signed::<TrustBundle>::from_bytes(file).ok()?.claim().ok()
}

/// What a running agent knows of trust bundles.
#[derive(Debug)]
pub(crate) struct Followed {
    version: u64,
    /// By the version that their topics name, what waits, and whether the fleet signed it as that.
    ahead: BTreeMap<u64, bool>,
}

impl Followed {
    /// An agent that begins with a version.
    pub(crate) fn new(version: u64) -> Self {
        Self { version, ahead: BTreeMap::new() }
    }

    /// The version that the agent goes by.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// The agent has nothing to do and its disk holds this version.
    pub(crate) fn idle(&mut self, version: u64) {
        self.version = version;
    }

    /// A message arrived on the topic of a version. `genuine`: the fleet signed it as that.
    pub(crate) fn hear(&mut self, version: u64, genuine: bool) {
        if version == self.version + 1 && genuine {
            self.version += 1;
            while self.ahead.remove(&(self.version + 1)).unwrap_or(false) {
                self.version += 1;
            }
        } else if version > self.version + 1 {
            self.ahead.insert(version, genuine);
            if self.ahead.len() > AHEAD_MAX {
                self.ahead.pop_last();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(heard: &[(u64, bool)], expected: u64) {
        let mut followed = Followed::new(3);
        heard.iter().for_each(|(version, genuine)| followed.hear(*version, *genuine));
        assert_eq!(followed.version(), expected, "{heard:?}");
    }

    #[test]
    fn bundles_are_followed_one_by_one_in_whatever_order_they_come() {
        check(&[], 3);
        check(&[(2, true), (3, true)], 3);
        check(&[(4, true), (5, true)], 5);
        check(&[(6, true), (5, true), (4, true)], 6);
        check(&[(5, true), (6, true)], 3);
        check(&[(4, false)], 3);
        check(&[(5, false), (6, true), (4, true)], 4);
        check(&[(5, false), (6, true), (4, true), (5, true)], 6);
    }

    #[test]
    fn of_what_waits_the_next_ones_are_kept() {
        let far: Vec<(u64, bool)> = (5..20).rev().chain([4]).map(|version| (version, true)).collect();
        check(&far, 12);
    }
}
