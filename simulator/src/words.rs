//! Acts in plain words, for whoever reads why something broke.
//!
//! Owns: one sentence per act.
//! Never: says what came of it.
//! Read next: `shrink.rs`, which tells a story with them.

use crate::fault::{Boundary, Direction, Firmware, Misuse, Overstep, Refusal, Retained, Sync, WallAfter};
use crate::plan::{Act, Narrows, Planning, Turn};
use crate::scenario::Span;

/// An act in plain words.
pub(crate) fn of(act: &Act) -> String {
    let span = |ms: &u64| Span(*ms);
    match act {
        Act::Authorize { device, token, risk, .. } => {
            format!("gw-{device}: a program asks for a decision of risk {risk}, its token: {}", name(token))
        }
        Act::Begin { device, .. } => format!("gw-{device}: a program begins a task"),
        Act::BrokerAck { device, trick } => {
            format!("the broker tampers with the next acknowledgement of gw-{device}'s hello: {}", name(trick))
        }
        Act::BrokerBackup { .. } => "the broker is backed up".into(),
        Act::BrokerDelay { what, late: Some(late), turn } => {
            format!("the broker gives out {} late by {}, {}", name(what), span(late), from_now(*turn))
        }
        Act::BrokerDelay { what, late: None, turn } => {
            format!("the broker keeps {} back, {}", name(what), from_now(*turn))
        }
        Act::BrokerDelayFor { device, what, late: Some(late), turn } => {
            format!("the broker gives gw-{device} {} late by {}, {}", name(what), span(late), from_now(*turn))
        }
        Act::BrokerDelayFor { device, what, late: None, turn } => {
            format!("the broker keeps {} back from gw-{device}, {}", name(what), from_now(*turn))
        }
        Act::BrokerEmergency { trick, .. } => {
            format!("the broker keeps another statement at an emergency key's place: {}", name(trick))
        }
        Act::BrokerFeed { device, trick } => {
            format!("the broker gives gw-{device} what the fleet never put on its feed: {}", name(trick))
        }
        Act::BrokerForget { what } => format!("the broker loses retained messages: {}", name(what)),
        Act::BrokerHostile { how } => format!(
            "the broker drops {} %, doubles {} %, delays {} % and forges {} % of all messages from now on",
            how.drop, how.duplicate, how.delay, how.forge
        ),
        Act::BrokerReplay { device, .. } => format!("the broker sends an old message to gw-{device} again"),
        Act::BrokerRestore { .. } => "the broker is restored from a backup".into(),
        Act::BrokerStart => "the broker is there again".into(),
        Act::BrokerStop { retained: Retained::Kept } => "the broker goes away".into(),
        Act::BrokerStop { retained: Retained::Lost } => "the broker goes away, and loses all that it had".into(),
        Act::ClockDrift { device, .. } => format!("gw-{device}: the oscillator changes its rate"),
        Act::ClockFreeze { device, turn } => {
            format!("gw-{device}: the wall clock stands still, {}", from_now(*turn))
        }
        Act::ClockStep { device, by } => format!("gw-{device}: the wall clock jumps by {}", signed(*by)),
        Act::DiskClone { device, .. } => format!("gw-{device}: a copy of its storage runs elsewhere under its name"),
        Act::DiskCopy { device, .. } => format!("gw-{device}: its storage is copied"),
        Act::DiskDamage { device, lasts, damage, .. } => {
            format!("gw-{device}: the supply fails for {}, and the disk suffers: {}", span(lasts), damage.name())
        }
        Act::DiskRefuses { device, how: Refusal::NoRoom, turn } => {
            format!("gw-{device}: its file system is full, {}", from_now(*turn))
        }
        Act::DiskRefuses { device, how: Refusal::ReadOnly, turn } => {
            format!("gw-{device}: its file system is read-only, {}", from_now(*turn))
        }
        Act::DiskSync { device, part, how, turn } => {
            let what = match how {
                Sync::Fails => "fail",
                Sync::Lies => "lie",
            };
            format!("gw-{device}: syncs of {} {what}, {}", name(part), from_now(*turn))
        }
        Act::Distinct { device, .. } => format!("gw-{device}: a program asks for something new that it must not have"),
        Act::Emergency { device, what, life, .. } => {
            format!("an operator's emergency key revokes for {}: {}, of gw-{device}", span(life), name(what))
        }
        Act::EmergencyThief { device, theft } => {
            format!("a thief of an emergency key signs: {} (gw-{device})", name(theft))
        }
        Act::Finish { device, .. } => format!("gw-{device}: a program finishes a task"),
        Act::Flood { device, what, .. } => format!("gw-{device}: a program asks once more for what is {}", name(what)),
        Act::GroupMove { device, to, .. } => format!("gw-{device} is moved to another group: {}", name(to)),
        Act::KeyRotate { what } => format!("a key is replaced: {}", name(what)),
        Act::LinkDown { device, direction } => format!("gw-{device}: the link is cut{}", way(*direction)),
        Act::LinkHalfOpen { device } => format!("gw-{device}: the open connection swallows everything from now on"),
        Act::LinkSlow { device, direction, by, turn } => {
            format!("gw-{device}: the link is slower by {}{}, {}", span(by), way(*direction), from_now(*turn))
        }
        Act::LinkUp { device, direction } => format!("gw-{device}: the link works again{}", way(*direction)),
        Act::Misuse { device, how, .. } => format!("gw-{device}: {}", misuse(*how)),
        Act::Narrow { device, does: Narrows::Asks, .. } => {
            format!("gw-{device}: a program has its credential narrowed")
        }
        Act::Narrow { device, does: Narrows::Leaves, .. } => {
            format!("gw-{device}: a connection ends that a task hangs on")
        }
        Act::Narrow { device, does: Narrows::Uses, .. } => format!("gw-{device}: a program uses a narrowed credential"),
        Act::Overstep { device, how, .. } => format!("gw-{device}: {}", overstep(*how)),
        Act::Plan { device, does, .. } => {
            let does = match does {
                Planning::Begins => "a planner begins a task",
                Planning::Executes => "an executor uses a step",
                Planning::Finishes => "a planner finishes a task",
                Planning::Steps => "a planner takes a step for an executor",
            };
            format!("gw-{device}: {does}")
        }
        Act::PowerCut { device, lasts, boundary, wall, .. } => {
            let when = match boundary {
                Boundary::Any => ", within its next commit",
                Boundary::Each { .. } => ", at each step of its commits in turn",
                Boundary::Now => "",
            };
            format!("gw-{device}: the supply fails for {}{when}{}", span(lasts), after(*wall))
        }
        Act::ProcessDowngrade { device, turn: Turn::Begins } => {
            format!("gw-{device}: a newer version leaves its own format in the state folder, and this one is started")
        }
        Act::ProcessDowngrade { device, turn: Turn::Ends } => {
            format!("gw-{device}: the newer version runs again")
        }
        Act::ProcessRestart { device, lasts, .. } => {
            format!("gw-{device}: the agent is killed, and started after {}", span(lasts))
        }
        Act::ProcessStop { device, turn: Turn::Begins } => format!("gw-{device}: the agent's process is stopped"),
        Act::ProcessStop { device, turn: Turn::Ends } => format!("gw-{device}: the agent's process goes on"),
        Act::ProcessUpgrade { device, lasts, to, cut, .. } => {
            let which = match to {
                Firmware::Before => "the firmware of before",
                Firmware::Next => "the next firmware",
            };
            let how = if *cut { "; the supply fails within its first commit" } else { "" };
            format!("gw-{device}: the agent ends, and {which} starts after {}{how}", span(lasts))
        }
        Act::Reboot { device, lasts, wall } => format!("gw-{device}: a reboot of {}{}", span(lasts), after(*wall)),
        Act::Revoke { device, what, .. } => format!("the operator revokes: {} of gw-{device}", name(what)),
        Act::RevokeStorm { count, life, .. } => {
            format!("the operator revokes {count} tokens that live for {}", span(life))
        }
        Act::ServiceAhead { device, by, turn: Turn::Begins } => {
            format!("the service that answers gw-{device} is {} ahead of time", span(by))
        }
        Act::ServiceAhead { device, turn: Turn::Ends, .. } => {
            format!("the service that answers gw-{device} has the time again")
        }
        Act::ServiceStart => "the fleet's service is there again".into(),
        Act::ServiceStop => "the fleet's service goes away".into(),
        Act::Status { device } => format!("gw-{device}: somebody asks for its status"),
        Act::Suspend { device, turn: Turn::Begins } => format!("gw-{device} is suspended"),
        Act::Suspend { device, turn: Turn::Ends } => format!("gw-{device} wakes up"),
        Act::TimeReset { device, what, late } => {
            format!("a reset of the clock is carried to gw-{device} in {}: {}", span(late), name(what))
        }
        Act::Wire { device, trick, .. } => format!("the broker does {} to the bytes for gw-{device}", trick.name()),
    }
}

fn misuse(how: Misuse) -> &'static str {
    match how {
        Misuse::Acts => "a planner does itself what its task is for",
        Misuse::Again => "an executor uses a step a second time",
        Misuse::Beyond => "an executor uses a step for more than that is for",
        Misuse::Ended => "a planner takes a step of a task that has ended",
        Misuse::Itself => "a planner takes a step for itself",
        Misuse::Late => "an executor uses a step whose task has ended",
        Misuse::Planner => "a planner uses the step that it took",
        Misuse::Repeated => "a planner takes the same step a second time",
        Misuse::Stolen => "a program takes a step with a planner's credential",
        Misuse::Stranger => "an executor uses a step of another one",
        Misuse::Unnamed => "a planner takes a step for a workload that its grant does not name",
        Misuse::Wider => "a planner takes a step for what its task may not",
    }
}

fn overstep(how: Overstep) -> &'static str {
    match how {
        Overstep::Beyond => "a program uses a narrowed credential for what only its task may",
        Overstep::Crowd => "a program has a credential narrowed over and over again",
        Overstep::Ended => "a program has a credential narrowed that is over",
        Overstep::Expired => "a program uses a narrowed credential past its end",
        Overstep::Late => "a program uses a narrowed credential whose task has ended",
        Overstep::Stolen => "a program has another one's credential narrowed",
        Overstep::Stranger => "a program uses a narrowed credential of another one",
        Overstep::Wider => "a program has a credential narrowed to what that may not do",
    }
}

/// The name of a choice, as a plan has it.
fn name(choice: &impl serde::Serialize) -> String {
    match serde_json::to_value(choice) {
        Ok(serde_json::Value::String(name)) => name.replace('_', " "),
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}

fn from_now(turn: Turn) -> &'static str {
    match turn {
        Turn::Begins => "from now on",
        Turn::Ends => "no longer",
    }
}

fn way(direction: Direction) -> &'static str {
    match direction {
        Direction::Both => "",
        Direction::Down => ", towards the gateway",
        Direction::Up => ", towards the broker",
    }
}

fn after(wall: WallAfter) -> String {
    match wall {
        WallAfter::Epoch => "; its wall clock shows 1970 after it".into(),
        WallAfter::Kept => String::new(),
        WallAfter::Stepped(by) => format!("; its wall clock is off by {} after it", signed(by)),
    }
}

fn signed(ms: i64) -> String {
    format!("{}{}", if ms < 0 { "-" } else { "+" }, Span(ms.unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Part, Statement};

    #[test]
    fn acts_read_as_sentences() {
        check(Act::ClockStep { device: 1, by: -3_600_000 }, "gw-1: the wall clock jumps by -1h");
        check(Act::ClockFreeze { device: 0, turn: Turn::Begins }, "gw-0: the wall clock stands still, from now on");
        check(Act::ClockFreeze { device: 0, turn: Turn::Ends }, "gw-0: the wall clock stands still, no longer");
        let slow = |direction, turn| Act::LinkSlow { device: 0, direction, by: 4500, turn };
        check(
            slow(Direction::Up, Turn::Begins),
            "gw-0: the link is slower by 4s500ms, towards the broker, from now on",
        );
        check(slow(Direction::Both, Turn::Ends), "gw-0: the link is slower by 4s500ms, no longer");
        let keeps = |turn| Act::BrokerDelay { what: Statement::Heads, late: None, turn };
        check(keeps(Turn::Begins), "the broker keeps heads back, from now on");
        check(keeps(Turn::Ends), "the broker keeps heads back, no longer");
        let fails = |turn| Act::DiskSync { device: 2, part: Part::Era, how: Sync::Fails, turn };
        check(fails(Turn::Begins), "gw-2: syncs of era fail, from now on");
        check(fails(Turn::Ends), "gw-2: syncs of era fail, no longer");
        let refuses = |how, turn| Act::DiskRefuses { device: 1, how, turn };
        check(refuses(Refusal::NoRoom, Turn::Begins), "gw-1: its file system is full, from now on");
        check(refuses(Refusal::ReadOnly, Turn::Ends), "gw-1: its file system is read-only, no longer");
        let cut = Act::PowerCut { device: 0, lasts: 20_000, boundary: Boundary::Any, wall: WallAfter::Epoch, pick: 7 };
        check(cut, "gw-0: the supply fails for 20s, within its next commit; its wall clock shows 1970 after it");
    }

    #[track_caller]
    fn check(act: Act, words: &str) {
        assert_eq!(of(&act), words);
    }
}
