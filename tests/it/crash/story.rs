//! What a device does while it is recorded, told to whoever watches as it happens.
//!
//! Owns: the chapters, each of which runs in a process of its own that may be killed; the [`Marker`]s.
//! Never: tells anything before the commit that it belongs to has returned.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use hardtack::agent::request::{Reason, StatusReply, Verdict};
use hardtack::agent::room::Taken;
use hardtack::agent::Input;
use hardtack::time::{Millis, Timestamp};
use serde::{Deserialize, Serialize};

use super::gateway::{enrol, first_power, profile, Gateway, Trouble};
use super::headquarters::{FleetEvent, Headquarters, START};

/// Something that somebody outside of the device knows from here on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Marker {
    /// A caller heard a decision: its era, its index, whether it was an allow.
    Decision(u64, u64, bool),
    /// The operator was told that the device is enrolled.
    Enrolled,
    /// A workload was told that its task is finished.
    Finished(String),
    /// Something happened at headquarters.
    Fleet(FleetEvent, Timestamp),
    /// A workload was told that its task is revoked.
    Revoked(String),
    /// Somebody asked how the device is.
    Status(Stand),
    /// A workload got a credential for a task, which will end or not.
    Task(String, String, Lasts),
}

/// Whether the story ends a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lasts {
    Yes,
    No,
}

/// What never goes back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stand {
    pub(crate) feed_seq: u64,
    pub(crate) bundle_version: u64,
    pub(crate) policy_version: u64,
    /// Per grant.
    pub(crate) uses_left: BTreeMap<String, u64>,
}

impl Stand {
    pub(crate) fn of(status: &StatusReply) -> Self {
        let uses = status.grants.iter().map(|grant| (grant.id.to_string(), grant.uses_left.unwrap_or(u64::MAX)));
        Self {
            feed_seq: status.feed_seq,
            bundle_version: status.bundle_version,
            policy_version: status.policy_version,
            uses_left: uses.collect(),
        }
    }
}

/// All that was told by some moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub(crate) enrolled: bool,
    /// By era and index.
    pub(crate) decisions: BTreeMap<(u64, u64), bool>,
    /// Credentials of tasks that end in the story.
    pub(crate) tasks: BTreeMap<String, String>,
    /// Those that nobody ends.
    pub(crate) lasting: BTreeMap<String, String>,
    pub(crate) finished: BTreeSet<String>,
    pub(crate) revoked: BTreeSet<String>,
    pub(crate) stand: Option<Stand>,
    /// The decisions of the last commit.
    pub(crate) last_commit: BTreeSet<(u64, u64)>,
    /// Whether the next decision is of another.
    pub(crate) synced: bool,
    /// How many things happened at headquarters.
    pub(crate) fleet: usize,
}

impl Told {
    pub(crate) fn hear(&mut self, marker: &Marker) -> Result<(), String> {
        match marker {
            Marker::Decision(era, index, allow) => {
                if self.decisions.insert((*era, *index), *allow).is_some() {
                    return Err(format!("the decision {era}/{index} was told twice"));
                }
                if std::mem::take(&mut self.synced) {
                    self.last_commit.clear();
                }
                self.last_commit.insert((*era, *index));
            }
            Marker::Enrolled => self.enrolled = true,
            Marker::Finished(task) => drop(self.finished.insert(task.clone())),
            Marker::Fleet(..) => self.fleet += 1,
            Marker::Revoked(task) => drop(self.revoked.insert(task.clone())),
            Marker::Status(stand) => self.stand = Some(stand.clone()),
            Marker::Task(task, token, lasts) => {
                let tasks = match lasts {
                    Lasts::Yes => &mut self.lasting,
                    Lasts::No => &mut self.tasks,
                };
                tasks.insert(task.clone(), token.clone());
            }
        }
        Ok(())
    }
}

/// Who hears markers.
pub(crate) type Tell<'a> = &'a mut dyn FnMut(Marker);

/// How many chapters there are. The first enrols, the last ends in order; those between are killed somewhere.
pub(crate) const CHAPTERS: u64 = 6;

/// Runs a chapter on a state folder.
pub(crate) fn run(chapter: u64, dir: &Path, fleet: &mut Headquarters, tell: Tell<'_>) -> Result<(), Trouble> {
    let at = START + Millis::from_secs(10 + chapter * 1000);
    if chapter == 0 {
        // The device knows no later time than the fleet's first.
        enrol(dir, fleet, START, |event| match event {
            Some(event) => tell(Marker::Fleet(event, START)),
            None => tell(Marker::Enrolled),
        })?;
    }
    let mut gateway = Gateway::start(dir, first_power(), at, chapter)?;
    status(&mut gateway, tell)?;
    let task = gateway.begin()?;
    tell(Marker::Task(task.task_id.to_string(), task.token.clone(), Lasts::Yes));
    for _ in 0..6 {
        decide(&mut gateway, &task.token, 1, tell)?;
    }
    match chapter {
        0 => {
            // More than a segment at once, and a task that is over.
            decide(&mut gateway, &task.token, 70, tell)?;
            finish(&mut gateway, tell)?;
            online(&mut gateway, fleet, tell)?;
            revoke(&mut gateway, fleet, tell)?;
            news(&mut gateway, fleet, FleetEvent::Named("ada".into()), tell)?;
            news(&mut gateway, fleet, FleetEvent::Policy, tell)?;
            status(&mut gateway, tell)?;
            gateway.disconnect()?;
        }
        1..=3 => {
            for count in [3, 1, 20, 1, 1] {
                decide(&mut gateway, &task.token, count, tell)?;
            }
            finish(&mut gateway, tell)?;
        }
        4 => {
            // So many that the era keeps a folder of its own when the next one begins.
            for _ in 0..12 {
                decide(&mut gateway, &task.token, 50, tell)?;
            }
        }
        _ => {
            give_up(&mut gateway, &task.token, tell)?;
            online(&mut gateway, fleet, tell)?;
            revoke(&mut gateway, fleet, tell)?;
            finish(&mut gateway, tell)?;
        }
    }
    decide(&mut gateway, &task.token, 2, tell)?;
    status(&mut gateway, tell)?;
    Ok(())
}

fn decide(gateway: &mut Gateway, token: &str, count: usize, tell: Tell<'_>) -> Result<(), Trouble> {
    for reply in gateway.decide(token, count)? {
        tell(Marker::Decision(reply.audit.era, reply.audit.index, reply.decision == Verdict::Allow));
    }
    Ok(())
}

/// So many denials that older ones give way once the disk is as good as full.
fn give_up(gateway: &mut Gateway, token: &str, tell: Tell<'_>) -> Result<(), Trouble> {
    for _ in 0..12 {
        decide(gateway, "no token", 50, tell)?;
    }
    let quota = profile().queue.quota_mib * 1024 * 1024;
    gateway.input(Input::Disk(Taken::of(quota / 100 * 85)))?;
    for _ in 0..3 {
        decide(gateway, "no token", 2, tell)?;
        decide(gateway, token, 1, tell)?;
    }
    assert!(gateway.shed > 500, "{} records gave way", gateway.shed);
    gateway.input(Input::Disk(Taken::of(0)))?;
    Ok(())
}

fn finish(gateway: &mut Gateway, tell: Tell<'_>) -> Result<(), Trouble> {
    let task = gateway.begin()?;
    tell(Marker::Task(task.task_id.to_string(), task.token, Lasts::No));
    gateway.finish(&task.task_id)?;
    tell(Marker::Finished(task.task_id.to_string()));
    Ok(())
}

/// The fleet revokes a task, and its workload hears of it.
fn revoke(gateway: &mut Gateway, fleet: &mut Headquarters, tell: Tell<'_>) -> Result<(), Trouble> {
    let task = gateway.begin()?;
    tell(Marker::Task(task.task_id.to_string(), task.token.clone(), Lasts::No));
    news(gateway, fleet, FleetEvent::Revoked(task.task_id.to_string()), tell)?;
    for reply in gateway.decide(&task.token, 1)? {
        assert_eq!(reply.reason, Reason::Revoked);
        tell(Marker::Decision(reply.audit.era, reply.audit.index, false));
        tell(Marker::Revoked(task.task_id.to_string()));
    }
    Ok(())
}

fn status(gateway: &mut Gateway, tell: Tell<'_>) -> Result<(), Trouble> {
    let status = gateway.status()?;
    tell(Marker::Status(Stand::of(&status)));
    Ok(())
}

fn online(gateway: &mut Gateway, fleet: &mut Headquarters, tell: Tell<'_>) -> Result<(), Trouble> {
    gateway.deliver(fleet, &mut |event, at| tell(Marker::Fleet(event.clone(), at)))
}

fn news(gateway: &mut Gateway, fleet: &mut Headquarters, event: FleetEvent, tell: Tell<'_>) -> Result<(), Trouble> {
    gateway.happens(fleet, &event, &mut |event, at| tell(Marker::Fleet(event.clone(), at)))?;
    gateway.pass(Millis(3000))?;
    Ok(())
}
