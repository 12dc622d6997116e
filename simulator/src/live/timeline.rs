//! A plan in real time: what of it can be done to real things, and when.
//!
//! Owns: which acts this level carries out, and the names of those that it does not; real times.
//! Never: leaves an act out without its name.
//! Read next: `play.rs`, which carries them out.

use std::collections::BTreeMap;

use toml::{Table, Value};

use crate::case::Case;
use crate::fault::{Boundary, RevokeWhat};
use crate::host::BOOT_MS;
use crate::plan::{Act, Entry, TokenChoice};
use crate::script::{change, is_of_program, Change};

/// How long before its first act a plan begins here, in milliseconds.
const LEAD: u64 = 500;
/// How many round trips it takes at the most until a gateway that connects is in touch.
const ROUND_TRIPS: u64 = 6;

/// A plan in real time.
pub(crate) struct Timeline {
    /// The case with what is carried out alone: what the model is asked about as well.
    pub(crate) case: Case,
    /// Names of what is not carried out here, and how often it would happen.
    pub(crate) not_applied: BTreeMap<String, u64>,
    /// Requests of programs by gateway: when, in milliseconds since the start, and which act.
    pub(crate) requests: BTreeMap<u32, Vec<(u64, usize)>>,
    /// Everything else, in order.
    pub(crate) world: Vec<(u64, usize)>,
    /// How many times faster than its plan it runs.
    speed: u64,
    /// How long what changed takes to show, in real milliseconds, where nobody has to notice or to try again.
    settle: u64,
}

impl Timeline {
    pub(crate) fn of(case: &Case, speed: u64, settle: u64) -> Self {
        let (mut entries, mut not_applied) = (Vec::new(), BTreeMap::new());
        for entry in &case.plan().entries {
            match unapplied(&entry.act) {
                Some(name) => *not_applied.entry(name).or_default() += 1,
                None => entries.push(entry.clone()),
            }
        }
        let first = entries.first().map_or(0, |entry| entry.at);
        let real = |entry: &Entry| LEAD + (entry.at - first) / speed;
        let (mut requests, mut world) = (BTreeMap::<u32, Vec<_>>::new(), Vec::new());
        for (act, entry) in entries.iter().enumerate() {
            match entry.act.device().filter(|_| is_of_program(&entry.act)) {
                Some(device) => requests.entry(device).or_default().push((real(entry), act)),
                None => world.push((real(entry), act)),
            }
        }
        // What must go to and fro to show does so over a slow link: the connection, TLS, MQTT, and what is said over them.
        let slow = |entry: &Entry| if let Act::LinkSlow { by, .. } = entry.act { by } else { 0 };
        let settle = settle + ROUND_TRIPS * 2 * entries.iter().map(slow).max().unwrap_or(0);
        let case = match case.scenario().workload.identity {
            Some(_) => {
                not_applied.insert("identity documents".into(), 1);
                without_documents(case, entries)
            }
            None => case.with_entries(entries),
        };
        Self { case, not_applied, requests, world, speed, settle }
    }

    /// A length of time of the plan in real milliseconds.
    pub(crate) fn lasts(&self, ms: u64) -> u64 {
        ms / self.speed
    }

    /// How long it may take until all that follows from an act shows, in real milliseconds.
    pub(crate) fn settle(&self, act: &Act) -> u64 {
        match change(act) {
            // A side that hears nothing gives up after twice the keep-alive at the latest.
            Change::Breaks => 2 * self.case.scenario().profile.link.keepalive_s * 1000 + self.mended(),
            Change::Mends => self.mended(),
            Change::Other => self.settle,
        }
    }

    /// The same, of something that is there again and that gateways find when they try next.
    pub(crate) fn mended(&self) -> u64 {
        self.settle + self.case.scenario().profile.link.backoff_ms_max
    }

    /// How long a kernel takes from its start to the agent's.
    pub(crate) fn boot(&self) -> u64 {
        self.lasts(BOOT_MS)
    }

    /// When the last act happens, in milliseconds since the start.
    pub(crate) fn last(&self) -> u64 {
        let requests = self.requests.values().flatten();
        requests.chain(&self.world).map(|(at, _)| *at).max().unwrap_or(0)
    }
}

/// The same where nobody brings a document, or narrows anything: there is no provider here, and nobody asks for that.
fn without_documents(case: &Case, entries: Vec<Entry>) -> Case {
    let change = |table: &mut Table| {
        // The plan says what happens.
        table.remove("fault");
        if let Some(Value::Table(workload)) = table.get_mut("workload") {
            workload.remove("identity");
            workload.remove("narrowing");
        }
    };
    case.changed(change, entries).expect("what nobody asks for can be left out")
}

/// A kind of thing as plans write it.
fn word(what: &impl serde::Serialize) -> String {
    let value = serde_json::to_value(what).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// The name of an act that cannot be done here, if so.
fn unapplied(act: &Act) -> Option<String> {
    match act {
        Act::Begin { .. }
        | Act::BrokerStart
        | Act::BrokerStop { .. }
        | Act::ClockStep { .. }
        | Act::Distinct { .. }
        | Act::Finish { .. }
        | Act::Flood { .. }
        | Act::LinkDown { .. }
        | Act::LinkHalfOpen { .. }
        | Act::LinkSlow { .. }
        | Act::LinkUp { .. }
        | Act::ProcessDowngrade { .. }
        | Act::ProcessRestart { .. }
        | Act::ProcessStop { .. }
        | Act::Reboot { .. }
        | Act::ServiceStart
        | Act::ServiceStop
        | Act::Status { .. }
        | Act::Suspend { .. } => None,
        Act::Authorize { token, .. } => match token {
            TokenChoice::Attenuated
            | TokenChoice::Expired
            | TokenChoice::Finished
            | TokenChoice::Foreign
            | TokenChoice::Forged
            | TokenChoice::Revoked
            | TokenChoice::Spend
            | TokenChoice::Stolen
            | TokenChoice::Valid
            | TokenChoice::Widened => None,
            // All programs here are of one user.
            TokenChoice::Stranger => Some("token.stranger".into()),
        },
        // A real agent refuses a profile that nobody could run, and others differ in nothing that a short plan comes to.
        Act::ProcessUpgrade { .. } => Some("process.upgrade".into()),
        Act::PowerCut { boundary, .. } => match boundary {
            Boundary::Any | Boundary::Now => None,
            Boundary::Each { .. } => Some("power.cut at each boundary".into()),
        },
        Act::Revoke { what, .. } => match what {
            RevokeWhat::All
            | RevokeWhat::Block
            | RevokeWhat::Device
            | RevokeWhat::Grant
            | RevokeWhat::Task
            | RevokeWhat::Token => None,
            RevokeWhat::Carried | RevokeWhat::Group | RevokeWhat::Owner => Some(format!("revoke.{}", word(what))),
        },
        Act::BrokerAck { .. } => Some("broker.ack".into()),
        Act::Wire { trick, .. } => Some(trick.name().into()),
        Act::BrokerBackup { .. } | Act::BrokerRestore { .. } => Some("broker.restore".into()),
        Act::BrokerDelay { late: Some(_), .. } | Act::BrokerDelayFor { late: Some(_), .. } => {
            Some("broker.delay".into())
        }
        Act::BrokerDelay { late: None, .. } | Act::BrokerDelayFor { late: None, .. } => Some("broker.withhold".into()),
        Act::BrokerEmergency { .. } => Some("broker.emergency".into()),
        Act::BrokerFeed { .. } => Some("broker.feed".into()),
        Act::BrokerForget { what } => Some(what.name().into()),
        Act::BrokerHostile { .. } => Some("broker.hostile".into()),
        Act::BrokerReplay { .. } => Some("broker.replay".into()),
        Act::ClockDrift { .. } => Some("clock.drift".into()),
        Act::ClockFreeze { .. } => Some("clock.freeze".into()),
        Act::DiskClone { .. } | Act::DiskCopy { .. } => Some("disk.copy".into()),
        Act::DiskDamage { damage, .. } => Some(damage.name().into()),
        Act::DiskRefuses { how, .. } => Some(how.name().into()),
        Act::DiskSync { part, how, .. } => Some(how.name(*part).into()),
        Act::Emergency { what, .. } => Some(what.name().into()),
        Act::EmergencyThief { theft, .. } => Some(theft.name().into()),
        Act::GroupMove { .. } => Some("group.move".into()),
        Act::KeyRotate { what } => Some(what.name().into()),
        // All programs here are of one user: nobody could be an executor.
        Act::Misuse { how, .. } => Some(how.name().into()),
        Act::Overstep { how, .. } => Some(how.name().into()),
        Act::Narrow { .. } => Some("narrowing".into()),
        Act::Plan { .. } => Some("planner".into()),
        Act::RevokeStorm { .. } => Some("revoke.storm".into()),
        Act::ServiceAhead { .. } => Some("service.ahead".into()),
        Act::TimeReset { what, .. } => Some(what.name().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline(faults: &str, speed: u64) -> Timeline {
        let brief = include_str!("../../scenarios/live-brief.toml");
        Timeline::of(&Case::parse(&format!("{brief}\n{faults}"), None).unwrap(), speed, 1000)
    }

    #[test]
    fn what_is_not_carried_out_has_a_name_and_is_left_out_for_the_model_as_well() {
        let whole = timeline("", 1);
        assert!(whole.not_applied.is_empty());
        let faults = "[[fault]]\ndo = \"clock.drift\"\nat = \"12s\"\n[[fault]]\ndo = \"revoke\"\nwhat = \"owner\"\nat = \"13s\"\n";
        let some = timeline(faults, 1);
        let names: Vec<(&str, u64)> = some.not_applied.iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(names, [("clock.drift", 2), ("revoke.owner", 1)]);
        assert_eq!(some.case.plan(), whole.case.plan());
        assert_eq!((some.requests, some.world), (whole.requests, whole.world));
    }

    /// Nor do planners plan for other users' programs, or anybody bring documents.
    #[test]
    fn of_a_world_with_planners_and_documents_the_rest_is_carried_out() {
        let case = Case::parse(include_str!("../../scenarios/hijacked-planner.toml"), None).unwrap();
        let timeline = Timeline::of(&case, 1, 1000);
        for name in ["planner", "step.misused again", "planner.hijacked itself", "identity documents"] {
            assert!(timeline.not_applied.contains_key(name), "{name}: {:?}", timeline.not_applied);
        }
        assert!(timeline.case.scenario().workload.identity.is_none());
        assert!(!timeline.requests.is_empty());
    }

    #[test]
    fn speed_shortens_what_lies_between_acts() {
        let (slow, quick) = (timeline("", 1), timeline("", 10));
        assert_eq!((slow.last(), quick.last()), (LEAD + 8500, LEAD + 850));
        assert_eq!((slow.lasts(500), quick.lasts(500)), (500, 50));
        // A back-off is as long as it is.
        assert_eq!((slow.mended(), quick.mended()), (2000, 2000));
    }
}
