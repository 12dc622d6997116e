//! The faults of a plan as a person looks for them: what, to whom, from when to when.
//!
//! Owns: [`Mark`], and how acts that begin and end something become one of them.
//! Never: looks at a run. What a fault came to is in the trace.
//! Read next: `record.rs`.

use std::collections::BTreeMap;

use crate::fault::{Kind, RevokeWhat, Sync};
use crate::plan::{Act, Plan, Turn};
use crate::scenario::Scenario;

/// Whom something befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whom {
    Broker,
    Gateway(u32),
    Operator,
    Service,
}

/// A fault, or something that an operator did, in a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) whom: Whom,
    /// When it begins, in milliseconds of the run's time.
    pub(crate) at: u64,
    /// How long it lasts; nothing for what happens in a moment.
    pub(crate) lasts: u64,
    /// Its name in scenario files.
    pub(crate) name: &'static str,
}

/// How an act is part of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Begins,
    Ends,
    /// It is all of it, and so long.
    Whole(u64),
}

impl From<Turn> for Shape {
    fn from(turn: Turn) -> Self {
        match turn {
            Turn::Begins => Self::Begins,
            Turn::Ends => Self::Ends,
        }
    }
}

/// All marks of a plan, earliest first.
pub(crate) fn marks(scenario: &Scenario, plan: &Plan) -> Vec<Mark> {
    let mut open: BTreeMap<(Whom, &'static str), Vec<u64>> = BTreeMap::new();
    let mut marks = Vec::new();
    for entry in &plan.entries {
        let Some((whom, name, shape)) = part_of(&entry.act) else { continue };
        match shape {
            Shape::Begins => open.entry((whom, name)).or_default().push(entry.at),
            Shape::Ends => {
                if let Some(at) = open.get_mut(&(whom, name)).and_then(Vec::pop) {
                    marks.push(Mark { whom, at, lasts: entry.at - at, name });
                }
            }
            Shape::Whole(lasts) => marks.push(Mark { whom, at: entry.at, lasts, name }),
        }
    }
    // What a plan that was cut short never ends.
    let end = scenario.start + scenario.duration;
    for ((whom, name), since) in open {
        marks.extend(since.into_iter().map(|at| Mark { whom, at, lasts: end.saturating_sub(at), name }));
    }
    marks.sort_unstable();
    marks.sort_by_key(|mark| mark.at);
    marks
}

/// What an act is part of. None for what programs do on an ordinary day.
fn part_of(act: &Act) -> Option<(Whom, &'static str, Shape)> {
    const ONCE: Shape = Shape::Whole(0);
    let at = |device: &u32| Whom::Gateway(*device);
    let part = match act {
        Act::Authorize { .. }
        | Act::Begin { .. }
        | Act::BrokerBackup { .. }
        | Act::DiskCopy { .. }
        | Act::Distinct { .. }
        | Act::Finish { .. }
        | Act::Narrow { .. }
        | Act::Plan { .. }
        | Act::Status { .. } => return None,
        Act::BrokerAck { device, trick } => (at(device), trick.name(), ONCE),
        Act::BrokerDelay { what, late, turn } => {
            let name = Kind::BrokerDelay { lasts: 0, what: *what, late: *late }.name();
            (Whom::Broker, name, (*turn).into())
        }
        Act::BrokerDelayFor { device, what, late, turn } => {
            let name = Kind::BrokerDelay { lasts: 0, what: *what, late: *late }.name();
            (at(device), name, (*turn).into())
        }
        Act::BrokerEmergency { trick, .. } => (Whom::Broker, trick.name(), ONCE),
        Act::BrokerFeed { device, trick } => (at(device), trick.name(), ONCE),
        Act::BrokerForget { what } => (Whom::Broker, what.name(), ONCE),
        Act::BrokerHostile { how } => {
            let begins = *how != crate::fault::Hostility::default();
            (Whom::Broker, "broker.hostile", if begins { Shape::Begins } else { Shape::Ends })
        }
        Act::BrokerReplay { device, .. } => (at(device), "broker.replay", ONCE),
        Act::BrokerRestore { .. } => (Whom::Broker, "broker.restore", ONCE),
        Act::BrokerStop { .. } => (Whom::Broker, "broker.away", Shape::Begins),
        Act::BrokerStart => (Whom::Broker, "broker.away", Shape::Ends),
        Act::ClockDrift { device, .. } => (at(device), "clock.drift", ONCE),
        Act::ClockFreeze { device, turn } => (at(device), "clock.freeze", (*turn).into()),
        Act::ClockStep { device, .. } => (at(device), "clock.step", ONCE),
        Act::DiskClone { device, .. } => (at(device), "image.clone", ONCE),
        Act::DiskDamage { device, lasts, damage, .. } => (at(device), damage.name(), Shape::Whole(*lasts)),
        Act::DiskRefuses { device, how, turn } => (at(device), how.name(), (*turn).into()),
        Act::DiskSync { device, part, how, turn } => {
            let how: &Sync = how;
            (at(device), how.name(*part), (*turn).into())
        }
        Act::Emergency { what, .. } => (Whom::Operator, what.name(), ONCE),
        Act::EmergencyThief { theft, .. } => (Whom::Operator, theft.name(), ONCE),
        // Many times a second: one mark each would hide all others.
        Act::Flood { number: 0, device, what, .. } => (at(device), what.name(), ONCE),
        Act::Flood { .. } => return None,
        Act::GroupMove { device, .. } => (at(device), "group.move", ONCE),
        Act::KeyRotate { what } => (Whom::Operator, what.name(), ONCE),
        Act::LinkDown { device, .. } => (at(device), "link.down", Shape::Begins),
        Act::LinkHalfOpen { device } => (at(device), "link.half_open", ONCE),
        Act::LinkSlow { device, turn, .. } => (at(device), "link.slow", (*turn).into()),
        Act::LinkUp { device, .. } => (at(device), "link.down", Shape::Ends),
        Act::Misuse { device, how, .. } => (at(device), how.name(), ONCE),
        Act::Overstep { device, how, .. } => (at(device), how.name(), ONCE),
        Act::PowerCut { device, lasts, .. } => (at(device), "power.cut", Shape::Whole(*lasts)),
        Act::ProcessDowngrade { device, turn } => (at(device), "process.downgrade", (*turn).into()),
        Act::ProcessStop { device, turn } => (at(device), "process.stop", (*turn).into()),
        Act::ProcessUpgrade { device, lasts, .. } => (at(device), "process.upgrade", Shape::Whole(*lasts)),
        Act::ProcessRestart { device, lasts, .. } => (at(device), "process.restart", Shape::Whole(*lasts)),
        Act::Reboot { device, lasts, .. } => (at(device), "reboot", Shape::Whole(*lasts)),
        Act::Revoke { what, .. } => (Whom::Operator, revocation(*what), ONCE),
        Act::RevokeStorm { .. } => (Whom::Operator, "revoke.storm", ONCE),
        Act::ServiceAhead { device, turn, .. } => (at(device), "service.ahead", (*turn).into()),
        Act::ServiceStart => (Whom::Service, "service.stop", Shape::Ends),
        Act::ServiceStop => (Whom::Service, "service.stop", Shape::Begins),
        Act::Suspend { device, turn } => (at(device), "suspend", (*turn).into()),
        Act::TimeReset { device, what, late } => (at(device), what.name(), Shape::Whole(*late)),
        Act::Wire { device, trick, .. } => (at(device), trick.name(), ONCE),
    };
    Some(part)
}

const fn revocation(what: RevokeWhat) -> &'static str {
    match what {
        RevokeWhat::All => "revoke all",
        RevokeWhat::Block => "revoke block",
        RevokeWhat::Carried => "revoke carried",
        RevokeWhat::Device => "revoke device",
        RevokeWhat::Grant => "revoke grant",
        RevokeWhat::Group => "revoke group",
        RevokeWhat::Owner => "revoke owner",
        RevokeWhat::Task => "revoke task",
        RevokeWhat::Token => "revoke token",
    }
}

/// Stretches of time in which at least one of some marks lasted, with the most that did at once, in order.
pub(crate) fn shade<'a>(marks: impl Iterator<Item = &'a Mark>) -> Vec<(u64, u64, u32)> {
    let mut edges: Vec<(u64, i32)> = Vec::new();
    for mark in marks.filter(|mark| mark.lasts > 0) {
        edges.extend([(mark.at, 1), (mark.at + mark.lasts, -1)]);
    }
    // At one moment beginnings first: what follows at once is one stretch.
    edges.sort_unstable_by_key(|(at, step)| (*at, -step));
    let (mut stretches, mut count, mut began, mut most) = (Vec::new(), 0i32, 0, 0);
    for (at, step) in edges {
        if count == 0 {
            (began, most) = (at, 0);
        }
        count += step;
        most = count.max(most);
        if count == 0 {
            stretches.push((began, at, most.unsigned_abs()));
        }
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(at: u64, lasts: u64) -> Mark {
        Mark { whom: Whom::Broker, at, lasts, name: "link.down" }
    }

    #[test]
    fn what_overlaps_or_touches_is_one_stretch_with_the_most_at_once() {
        check_shade(&[], &[]);
        check_shade(&[mark(5, 0)], &[]);
        check_shade(&[mark(5, 10), mark(10, 10), mark(20, 5)], &[(5, 25, 2)]);
        check_shade(&[mark(5, 10), mark(16, 4)], &[(5, 15, 1), (16, 20, 1)]);
    }

    #[track_caller]
    fn check_shade(marks: &[Mark], due: &[(u64, u64, u32)]) {
        assert_eq!(shade(marks.iter()), due);
    }

    #[test]
    fn what_begins_and_ends_is_one_mark() {
        let text =
            "schema = 1\nname = \"x\"\nabout = \"x\"\nseed = 1\nduration = \"3h\"\nheal = \"2h\"\nrequire = []\n\
            [[fault]]\ndo = \"link.down\"\nat = \"1h\"\nfor = \"10m\"\nwho = \"1\"\n\
            [[fault]]\ndo = \"broker.restart\"\nat = \"90m\"\nfor = \"1m\"\n\
            [[fault]]\ndo = \"reboot\"\nat = \"30m\"\nfor = \"40s\"\nwho = \"0\"\n";
        let scenario = Scenario::parse(text).unwrap();
        let found = marks(&scenario, &Plan::new(&scenario, 1));
        let due = [
            Mark { whom: Whom::Gateway(0), at: 1_800_000, lasts: 40_000, name: "reboot" },
            Mark { whom: Whom::Gateway(1), at: 3_600_000, lasts: 600_000, name: "link.down" },
            Mark { whom: Whom::Broker, at: 5_400_000, lasts: 60_000, name: "broker.away" },
        ];
        assert_eq!(found, due);
    }
}
