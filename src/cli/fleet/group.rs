//! `hardtack fleet group` and `hardtack fleet feed`.
//!
//! Owns: the arguments, what is shown of groups and feeds, what is said of a change.
//! Never: decides which device has which feed: the trust bundle does, `../../fleet/groups.rs` makes it.
//! Read next: `../../fleet/groups.rs`; `key/proposal.rs`, by which a trust bundle comes into force.

use std::fmt::Write as _;

use clap::Subcommand;
use serde_json::{json, Value};

use super::super::output::show;
use super::super::{Exit, Failure};
use super::key::proposal::{put, Outcome, RootArgs};
use super::serve::placed;
use super::{now, Fleet, Session};
use crate::fleet::groups::{draft, moved, Change};
use crate::fleet::rotate::Cause;
use crate::ids::{DeviceId, FeedId, GroupId};

/// `hardtack fleet group …`.
#[derive(Subcommand, Debug)]
pub enum GroupCommand {
    /// Put devices into a group, with a trust bundle that the root key signs; the group is made if it is not there
    Add {
        /// The group
        group: GroupId,
        /// The devices, enrolled already or not
        #[arg(required = true)]
        devices: Vec<DeviceId>,
        #[command(flatten)]
        at_hand: RootArgs,
    },
    /// Show the groups and who is in them
    List,
    /// Take devices out of a group
    Remove {
        /// The group
        group: GroupId,
        /// The devices
        #[arg(required = true)]
        devices: Vec<DeviceId>,
        #[command(flatten)]
        at_hand: RootArgs,
    },
}

/// `hardtack fleet feed …`.
#[derive(Subcommand, Debug)]
pub enum FeedCommand {
    /// Give groups a revocation feed of their own, so that their devices hear only what concerns them
    Add {
        /// The feed's name
        feed: FeedId,
        /// A group that has it; may be said again
        #[arg(long = "group", value_name = "GROUP", required = true)]
        groups: Vec<GroupId>,
        #[command(flatten)]
        at_hand: RootArgs,
    },
    /// Show the feeds, their groups and how many devices have each
    List,
    /// Take a feed away: its devices have another from then on
    Remove {
        /// The feed
        feed: FeedId,
        #[command(flatten)]
        at_hand: RootArgs,
    },
}

pub(super) fn group(command: GroupCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        GroupCommand::Add { group, devices, at_hand } => carry_out(&Change::Join(group, devices), &at_hand, session),
        GroupCommand::List => list_groups(session),
        GroupCommand::Remove { group, devices, at_hand } => {
            carry_out(&Change::Leave(group, devices), &at_hand, session)
        }
    }
}

pub(super) fn feed(command: FeedCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        FeedCommand::Add { feed, groups, at_hand } => carry_out(&Change::AddFeed(feed, groups), &at_hand, session),
        FeedCommand::List => list_feeds(session),
        FeedCommand::Remove { feed, at_hand } => carry_out(&Change::RemoveFeed(feed), &at_hand, session),
    }
}

fn carry_out(wanted: &Change, at_hand: &RootArgs, session: &Session) -> Result<Exit, Failure> {
    let (mut fleet, at) = (session.open()?, now()?);
    let (before, routes) = (fleet.ledger.book().trust().version, fleet.ledger.book().routes().clone());
    if let Some(next) = draft(fleet.ledger.book(), wanted, at)? {
        if let Outcome::Asked(asked) = put(&mut fleet, &next, Cause::Planned, at_hand, at)? {
            return asked.tell(session);
        }
    }
    let (bundle, moved) = (fleet.ledger.book().trust().version, moved(fleet.ledger.book(), &routes));
    let unknown = unknown(&fleet, wanted);
    let value = json!({
        "in_force": true,
        "bundle_version": bundle,
        "changed": bundle != before,
        // Enrolled devices that have another feed now.
        "moved": moved.iter().map(|(device, was, is)| {
            json!({"device": device, "from": was, "to": is})
        }).collect::<Vec<_>>(),
        // Devices that were named and are not enrolled.
        "unknown": unknown,
    });
    show(session.format, &value, |_| {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = match bundle == before {
            true => writeln!(text, "so it is already, by trust bundle {before}"),
            false => writeln!(text, "trust bundle {bundle} says so"),
        };
        for (device, was, is) in &moved {
            let _ = writeln!(text, "{device} has feed {is} now, {was} before");
        }
        for device in &unknown {
            let _ = writeln!(text, "{device} is not enrolled yet");
        }
        text.push_str("`fleet serve` brings it to the devices; without one: `hardtack fleet publish --broker URL`");
        placed(&text, session)
    })?;
    Ok(Exit::Done)
}

fn unknown(fleet: &Fleet, wanted: &Change) -> Vec<DeviceId> {
    match wanted {
        Change::Join(_, devices) => {
            devices.iter().filter(|device| fleet.ledger.book().device(device).is_none()).cloned().collect()
        }
        Change::Leave(..) | Change::AddFeed(..) | Change::RemoveFeed(_) => Vec::new(),
    }
}

fn list_groups(session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let trust = fleet.ledger.book().trust();
    let of = |group: &GroupId| trust.feeds.iter().find(|feed| feed.groups.contains(group)).map(|feed| &feed.id);
    let groups: Vec<Value> = trust
        .groups
        .iter()
        .map(|(group, devices)| json!({"group": group, "devices": devices, "feed": of(group)}))
        .collect();
    let value = json!({"bundle_version": trust.version, "groups": groups});
    show(session.format, &value, |_| {
        let line = |(group, devices): (&GroupId, &Vec<DeviceId>)| {
            let feed = of(group).map_or(String::new(), |feed| format!(" (feed {feed})"));
            let devices: Vec<String> = devices.iter().map(ToString::to_string).collect();
            format!("{group:24}{feed} {}", devices.join(" "))
        };
        let lines: Vec<String> = trust.groups.iter().map(line).collect();
        match lines.is_empty() {
            true => "no groups: hardtack fleet group add GROUP DEVICE…".into(),
            false => lines.join("\n"),
        }
    })?;
    Ok(Exit::Done)
}

fn list_feeds(session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let book = fleet.ledger.book();
    let devices = |feed: &FeedId| book.devices().filter(|device| book.routes().feed_of(&device.id) == feed).count();
    let feeds: Vec<Value> = book
        .trust()
        .feeds
        .iter()
        .map(|feed| {
            let (era, seq) = book.of(&feed.id).order();
            let entries = book.of(&feed.id).set().count();
            let devices = devices(&feed.id);
            json!({"feed": feed.id, "groups": feed.groups, "devices": devices, "era": era, "seq": seq, "entries": entries})
        })
        .collect();
    let value = json!({"bundle_version": book.trust().version, "feeds": feeds});
    show(session.format, &value, |_| {
        let lines = feeds.iter().map(|feed| {
            let groups: Vec<&str> = feed["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let groups = if groups.is_empty() { "every other device".to_owned() } else { groups.join(" ") };
            let name = feed["feed"].as_str().unwrap_or_default();
            format!(
                "{name:24} head {}, {} entries, {} devices: {groups}",
                feed["seq"], feed["entries"], feed["devices"]
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::Done)
}
