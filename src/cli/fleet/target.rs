//! What can be revoked by rule, for every command that revokes.
//!
//! Owns: the targets' names and arguments.
//! Never: decides what a rule covers. `../../fleet/revoke.rs` does.
//! Read next: `revoke.rs`, `emergency.rs`.

use clap::{Args, Subcommand};

use super::super::token::point_in_time;
use super::worded;
use crate::ids::{DeviceId, GrantId, GroupId, TaskId};
use crate::time::Timestamp;
use crate::wire::revocation::Target;

/// A target, and how it is revoked.
#[derive(Subcommand, Debug)]
pub enum RuleCommand<How: Args> {
    /// Every token of the fleet; every device locks
    All(How),
    /// Every token for an audience
    Audience {
        /// The audience
        #[arg(value_parser = worded)]
        audience: String,
        #[command(flatten)]
        how: How,
    },
    /// Every token for a device; the device locks
    Device {
        /// The device
        device: DeviceId,
        #[command(flatten)]
        how: How,
    },
    /// A fallback grant, and all that was narrowed from it or issued under it
    Grant {
        /// The grant
        grant: GrantId,
        #[command(flatten)]
        how: How,
    },
    /// Every token that was minted for a group by its name; what is minted for one of its devices goes on
    Group {
        /// The group
        group: GroupId,
        #[command(flatten)]
        how: How,
    },
    /// Every token issued before a time
    IssuedBefore {
        /// RFC 3339, for example 2026-03-01T00:00:00Z
        #[arg(value_parser = point_in_time)]
        time: Timestamp,
        #[command(flatten)]
        how: How,
    },
    /// Every token of an owner
    Owner {
        /// The owner, as the grant names him
        #[arg(value_parser = worded)]
        owner: String,
        #[command(flatten)]
        how: How,
    },
    /// Every token that a root key signed
    RootKey {
        /// Its number
        id: u32,
        #[command(flatten)]
        how: How,
    },
    /// Every credential of a task
    Task {
        /// The task
        task: TaskId,
        #[command(flatten)]
        how: How,
    },
}

impl<How: Args> RuleCommand<How> {
    /// What is revoked, and how.
    pub(super) fn parts(self) -> (Target, How) {
        match self {
            Self::All(how) => (Target::All, how),
            Self::Audience { audience, how } => (Target::Audience(audience), how),
            Self::Device { device, how } => (Target::Device(device), how),
            Self::Grant { grant, how } => (Target::Grant(grant), how),
            Self::Group { group, how } => (Target::Group(group), how),
            Self::IssuedBefore { time, how } => (Target::IssuedBefore(time), how),
            Self::Owner { owner, how } => (Target::Owner(owner), how),
            Self::RootKey { id, how } => (Target::RootKey(id), how),
            Self::Task { task, how } => (Target::Task(task), how),
        }
    }
}
