//! Groups of devices, and the feeds that they have.
//!
//! Owns: the trust bundle that puts devices into groups and gives groups a feed.
//! Never: decides since when a feed has devices which come from another, which `proposal.rs` does for every bundle.
//! Read next: `proposal.rs`, by which it comes into force; `route.rs` for what belongs where, `wire/bundle.rs` for what devices
//! go by.

use ed25519_dalek::SigningKey;

use super::book::Book;
use super::proposal::{self, Hands};
use super::publish::Cadence;
use super::rotate::Cause;
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

/// The trust bundle that makes a change, None where it is so already.
///
/// # Errors
/// [`FleetError::Invalid`], or [`FleetError::Refused`] when devices would not take that bundle.
pub fn draft(book: &Book, change: &Change, at: Timestamp) -> Result<Option<TrustBundle>, FleetError> {
    let mut wanted = book.trust().clone();
    match change {
        Change::Join(group, devices) => join(&mut wanted, group, devices)?,
        Change::Leave(group, devices) => leave(&mut wanted, group, devices)?,
        Change::AddFeed(feed, groups) => add_feed(book, &mut wanted, feed, groups)?,
        Change::RemoveFeed(feed) => remove_feed(&mut wanted, feed)?,
    }
    if wanted == *book.trust() {
        return Ok(None);
    }
    let TrustBundle { groups, feeds, .. } = wanted;
    let next = proposal::draft(book, at, |next| {
        (next.groups, next.feeds) = (groups, feeds);
        Ok(())
    });
    next.map(Some)
}

/// Changes groups or feeds by the next trust bundle, with all keys at hand. What is so already is no error, and makes none.
///
/// # Errors
/// Those of [`draft`] and [`proposal::submit_bundle`].
pub fn change(
    book: &mut Book,
    change: &Change,
    signing: Signing<'_>,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<Changed, FleetError> {
    let before = book.routes().clone();
    if let Some(next) = draft(book, change, at)? {
        let proposed = proposal::propose(book, &next, Cause::Planned, &[signing.root])?;
        let hands = Hands { feed: Some(signing.feed), policy: None };
        proposal::submit_bundle(book, &proposed, hands, signing.cadence, operator, at, fx)?;
    }
    Ok(Changed { bundle: book.trust().version, moved: moved(book, &before) })
}

/// Known devices that have another feed than by the routes before: from which, to which.
pub fn moved(book: &Book, before: &Routes) -> Vec<(DeviceId, FeedId, FeedId)> {
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
        return Err(FleetError::Argument(message));
    }
    Ok(())
}

fn unknown_group(group: &GroupId) -> FleetError {
    let message = format!("no group {group}: `hardtack fleet group add {group} DEVICE…` makes it");
    FleetError::Invalid(message)
}

#[cfg(test)]
mod tests;
