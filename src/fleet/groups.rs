//! Groups of devices, and the feeds that they have.
//!
//! Owns: the trust bundle that puts devices into groups and gives groups a feed, the record of it, the heads that make it
//! good.
//! Never: moves a device without its new feed holding what had been revoked for it: the same transaction signs that.
//! Read next: `route.rs` for what belongs where, `wire/bundle.rs` for what devices go by.

use ed25519_dalek::SigningKey;

use super::acts::{self, Deed};
use super::book::Book;
use super::enrol::BUNDLE_LIFE;
use super::publish::{self, Cadence};
use super::rotate::publish_bundle;
use super::route::Routes;
use super::{Effects, FleetError, Operator};
use crate::ids::{DeviceId, FeedId, GroupId};
use crate::time::Timestamp;
use crate::wire::bundle::{Feed, TrustBundle, FEEDS_MAX, GROUPS_MAX};

/// The most devices that one command names: an act tells all of them.
pub const DEVICES_AT_ONCE_MAX: usize = 100;

/// What an operator changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Puts devices into a group, and makes that if it is not there.
    Join(GroupId, Vec<DeviceId>),
    /// Takes devices out of a group. A group without devices that no feed names is gone.
    Leave(GroupId, Vec<DeviceId>),
    /// Gives groups a feed of their own.
    AddFeed(FeedId, Vec<GroupId>),
    /// Takes a feed away: the devices in its groups have another from then on.
    RemoveFeed(FeedId),
}

/// Who signs the trust bundle, and the heads that it makes due.
#[derive(Clone, Copy)]
pub struct Signing<'a> {
    /// Signs the trust bundle.
    pub root: &'a SigningKey,
    /// Signs heads.
    pub feed: &'a SigningKey,
    /// When heads are due.
    pub cadence: Cadence,
}

/// What a change did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed {
    /// The newest trust bundle. Another than before, if anything was to be changed.
    pub bundle: u64,
    /// Known devices that have another feed than before: from which, to which.
    pub moved: Vec<(DeviceId, FeedId, FeedId)>,
}

/// Changes groups or feeds by the next trust bundle. What is so already is no error, and makes none.
///
/// # Errors
/// [`FleetError::Invalid`], or [`FleetError::Refused`] when devices would not take that bundle.
pub fn change(
    book: &mut Book,
    change: &Change,
    signing: Signing<'_>,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Changed, FleetError> {
    let mut next = book.trust().clone();
    match change {
        Change::Join(group, devices) => join(&mut next, group, devices)?,
        Change::Leave(group, devices) => leave(&mut next, group, devices)?,
        Change::AddFeed(feed, groups) => add_feed(book, &mut next, feed, groups)?,
        Change::RemoveFeed(feed) => remove_feed(&mut next, feed)?,
    }
    if next == *book.trust() {
        return Ok(Changed { bundle: next.version, moved: Vec::new() });
    }
    next.version += 1;
    next.issued_at = next.issued_at.max(at);
    next.not_after = next.issued_at + BUNDLE_LIFE;
    let joined: Vec<FeedId> = next.joined_since(book.trust()).into_iter().cloned().collect();
    for feed in &mut next.feeds {
        if joined.contains(&feed.id) {
            feed.since = next.version;
        }
    }
    let before = book.routes().clone();
    let digest = publish_bundle(book, &next, signing.root, fx)?;
    let deed = match change.clone() {
        Change::Join(group, devices) => Deed::Joined { group, devices, bundle: next.version, digest },
        Change::Leave(group, devices) => Deed::Left { group, devices, bundle: next.version, digest },
        Change::AddFeed(feed, groups) => Deed::FeedAdded { feed, groups, bundle: next.version, digest },
        Change::RemoveFeed(feed) => Deed::FeedRemoved { feed, bundle: next.version, digest },
    };
    acts::record(book, operator, deed, at, fx)?;
    // Every feed says with its next head that there is a newer bundle, and one that devices come to holds with it what had
    // been revoked for them. Where this cannot sign, whoever publishes next does, and until then they are not fresh.
    publish::advance(book, signing.feed, signing.cadence, at, fx);
    Ok(Changed { bundle: next.version, moved: moved(book, &before) })
}

fn moved(book: &Book, before: &Routes) -> Vec<(DeviceId, FeedId, FeedId)> {
    let ids = book.devices().map(|device| &device.id);
    let both = ids.map(|id| (id, before.feed_of(id), book.routes().feed_of(id)));
    both.filter(|(_, was, is)| was != is).map(|(id, was, is)| (id.clone(), was.clone(), is.clone())).collect()
}

fn join(next: &mut TrustBundle, group: &GroupId, devices: &[DeviceId]) -> Result<(), FleetError> {
    check_count(devices.len())?;
    if !next.groups.contains_key(group) && next.groups.len() >= GROUPS_MAX {
        let message = format!("there are {GROUPS_MAX} groups, and no more can be: empty one that is not needed");
        return Err(FleetError::Invalid(message));
    }
    let members = next.groups.entry(group.clone()).or_default();
    for device in devices {
        if !members.contains(device) {
            members.push(device.clone());
        }
    }
    Ok(())
}

fn leave(next: &mut TrustBundle, group: &GroupId, devices: &[DeviceId]) -> Result<(), FleetError> {
    check_count(devices.len())?;
    let Some(members) = next.groups.get_mut(group) else { return Err(unknown_group(group)) };
    if let Some(stranger) = devices.iter().find(|device| !members.contains(device)) {
        let message = format!("device {stranger} is not in group {group}: `hardtack fleet group list` shows who is");
        return Err(FleetError::Invalid(message));
    }
    members.retain(|member| !devices.contains(member));
    if members.is_empty() && !next.feeds.iter().any(|feed| feed.groups.contains(group)) {
        next.groups.remove(group);
    }
    Ok(())
}

fn add_feed(book: &Book, next: &mut TrustBundle, id: &FeedId, groups: &[GroupId]) -> Result<(), FleetError> {
    if let Some(known) = next.feed(id) {
        if known.groups == groups {
            return Ok(());
        }
        let message = format!("there is a feed {id} already: choose another name, or remove it first");
        return Err(FleetError::Invalid(message));
    }
    if groups.is_empty() {
        let message = "a feed is that of some groups: name them with --group. Devices in none have the first feed";
        return Err(FleetError::Invalid(message.into()));
    }
    if let Some(unknown) = groups.iter().find(|group| !next.groups.contains_key(group)) {
        return Err(unknown_group(unknown));
    }
    let has = |feed: &&Feed| feed.groups.iter().any(|group| groups.contains(group));
    if let Some(other) = next.feeds.iter().find(has) {
        let message = format!("a group has one feed, and one of these has {} already: remove that first", other.id);
        return Err(FleetError::Invalid(message));
    }
    if next.feeds.len() >= FEEDS_MAX {
        let message = format!("there are {FEEDS_MAX} feeds, and no more can be: give one feed to several groups");
        return Err(FleetError::Invalid(message));
    }
    let Some(first) = next.feeds.first() else { return Err(FleetError::Invalid("the fleet has no feed".into())) };
    // What a feed of this name has signed before is of an era that is over: no position is signed twice.
    let eras = book.trusts().iter().filter_map(|trust| trust.feed(id)).map(|feed| feed.era);
    let era = eras.max().unwrap_or(0) + 1;
    let feed = Feed { id: id.clone(), era, keys: first.keys.clone(), groups: groups.to_vec(), since: 0 };
    next.feeds.push(feed);
    Ok(())
}

fn remove_feed(next: &mut TrustBundle, id: &FeedId) -> Result<(), FleetError> {
    match next.feeds.iter().position(|feed| feed.id == *id) {
        Some(0) => {
            let message = format!("feed {id} is that of every device which has no other, and cannot be removed");
            Err(FleetError::Invalid(message))
        }
        Some(place) => {
            next.feeds.remove(place);
            Ok(())
        }
        None => Err(FleetError::Invalid(format!("no feed {id}: `hardtack fleet feed list` shows those there are"))),
    }
}

fn check_count(devices: usize) -> Result<(), FleetError> {
    if devices == 0 || devices > DEVICES_AT_ONCE_MAX {
        let message = format!("name 1 to {DEVICES_AT_ONCE_MAX} devices at once");
        return Err(FleetError::Invalid(message));
    }
    Ok(())
}

fn unknown_group(group: &GroupId) -> FleetError {
    let message = format!("no group {group}: `hardtack fleet group add {group} DEVICE…` makes it");
    FleetError::Invalid(message)
}

#[cfg(test)]
mod tests;
