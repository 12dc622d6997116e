//! Which revocation goes into which feed, and which device has which.
//!
//! Owns: the rule of [`Routes`].
//! Never: looks at what was published: the same trust bundle and the same revocation give the same feeds.
//! Read next: `publish.rs`, which files by it; `../wire/bundle.rs`, whose `feed_of` devices go by.
//!
//! A revocation belongs to the feed of every device to which a token could be shown that it covers, and to no other:
//!
//! - all, owner, audience, root key, issued before: every feed, for anybody's token may be covered;
//! - group: the feeds of its members. Nobody else is shown a token for a group;
//! - device: its own feed. A token for one device is shown there alone, and there the device itself locks;
//! - grant, task, block (and so serial and fingerprint): the feed of the device whose they are, where the ledger knows that,
//!   for grants and what is issued under them are for one device each. Every feed where it does not.
//!
//! Nothing of this is stored. When a trust bundle moves a device, what concerns it belongs to its new feed from then on, and
//! waits for that feed's next head like any other revocation. That head is signed in the transaction of the bundle or after
//! it, and names it; devices count no older head of a feed that they came to with the bundle (`Feed::since`). So a device
//! never counts as fresh by a head that does not hold what had been revoked for it in another feed. Its old feed goes on
//! holding that too, and the device keeps what it had of it, until all has ended.

use std::collections::{BTreeMap, BTreeSet};

use super::book::Rule;
use crate::ids::{DeviceId, FeedId, GroupId};
use crate::mutant::{self, Mutant};
use crate::wire::bundle::TrustBundle;
use crate::wire::revocation::Target;

/// The feeds of a trust bundle and who is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    /// All feeds. The first is that of every device which has no other.
    feeds: Vec<FeedId>,
    /// The feed of each device that is in another than the first.
    placed: BTreeMap<DeviceId, FeedId>,
    /// The feeds that the members of each group have.
    groups: BTreeMap<GroupId, BTreeSet<FeedId>>,
}

impl Routes {
    /// Those of a trust bundle.
    pub fn of(trust: &TrustBundle) -> Self {
        let feeds: Vec<FeedId> = trust.feeds.iter().map(|feed| feed.id.clone()).collect();
        let placed = trust.placed().into_iter().map(|(device, feed)| (device.clone(), feed.clone()));
        let placed: BTreeMap<DeviceId, FeedId> = placed.collect();
        let of = |device: &DeviceId| placed.get(device).or(feeds.first()).cloned();
        let groups = trust.groups.iter();
        let groups = groups.map(|(group, members)| (group.clone(), members.iter().filter_map(of).collect())).collect();
        Self { feeds, placed, groups }
    }

    /// The feed of a device.
    ///
    /// # Panics
    /// Never for the routes of a bundle that was opened: one without a feed is refused.
    pub fn feed_of(&self, device: &DeviceId) -> &FeedId {
        let own = self.placed.get(device).or(self.feeds.first());
        own.expect("a bundle without a feed is refused when it is opened")
    }

    /// The feeds to which a revocation belongs.
    pub fn feeds(&self, rule: &Rule) -> Vec<&FeedId> {
        match (&rule.target, &rule.device) {
            (Target::Device(device), _) | (Target::Block(_) | Target::Grant(_) | Target::Task(_), Some(device)) => {
                vec![self.feed_of(device)]
            }
            (Target::Group(group), _) => self.groups.get(group).into_iter().flatten().collect(),
            (
                Target::All
                | Target::Audience(_)
                | Target::Block(_)
                | Target::Grant(_)
                | Target::IssuedBefore(_)
                | Target::Owner(_)
                | Target::RootKey(_)
                | Target::Task(_),
                _,
            ) => {
                let all = if mutant::active(Mutant::FirstFeedAlone) { 1 } else { self.feeds.len() };
                self.feeds.iter().take(all).collect()
            }
        }
    }
}
