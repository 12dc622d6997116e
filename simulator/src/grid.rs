//! All small combinations of faults on a grid of times: what chance would take long to meet.
//!
//! Owns: the faults, one at least of nearly each kind of the catalogue; the times; the numbering of all combinations of
//! one, two or three. Neighbours in it are other faults at one time: a stretch as long as there are faults has each of them.
//! Never: leaves a combination out; tries other lengths, numbers or gateways than one of each: `swarm.rs` does.
//! Read next: `fuzz.rs`, which runs them.

/// A fault on a gateway or on what all share, as a scenario file says it in one line, without its time. A test compares with the
/// catalogue, and names what is not here: what needs bytes on links, and what lasts for longer than a world.
const KINDS: [&str; 134] = [
    r#"do = "anchor.copied_back", for = "20s", age = "3m", who = "0""#,
    r#"do = "anchor.deleted", for = "20s", who = "0""#,
    r#"do = "anchor.gone", for = "20s", who = "0""#,
    r#"do = "anchor.rotten", for = "20s", who = "0""#,
    r#"do = "anchor.torn", for = "20s", who = "0""#,
    r#"do = "broker.ack", what = "foreign", who = "0""#,
    r#"do = "broker.ack", what = "late", who = "0""#,
    r#"do = "broker.ack", what = "twice", who = "0""#,
    r#"do = "broker.ack", what = "wrong_key", who = "0""#,
    r#"do = "broker.delay", for = "5m", late = "90s", what = "acks""#,
    r#"do = "broker.delay", for = "5m", late = "90s", what = "answers""#,
    r#"do = "broker.delay", for = "5m", late = "90s", what = "heads""#,
    r#"do = "broker.delay", for = "5m", late = "90s", what = "lists""#,
    r#"do = "broker.emergency", what = "mixed""#,
    r#"do = "broker.emergency", what = "old""#,
    r#"do = "broker.feed", what = "dropped_key", who = "0""#,
    r#"do = "broker.feed", what = "endless", who = "0""#,
    r#"do = "broker.feed", what = "far_ahead", who = "0""#,
    r#"do = "broker.feed", what = "fast_forward", who = "0""#,
    r#"do = "broker.feed", what = "foreign", who = "0""#,
    r#"do = "broker.feed", what = "misplaced", who = "0""#,
    r#"do = "broker.feed", what = "new_roots_alone", who = "0""#,
    r#"do = "broker.feed", what = "old_roots_alone", who = "0""#,
    r#"do = "broker.feed", what = "twin", who = "0""#,
    r#"do = "broker.forget", what = "feed""#,
    r#"do = "broker.forget", what = "ladder""#,
    r#"do = "broker.forget", what = "snapshot""#,
    r#"do = "broker.forget", what = "to_first_snapshot""#,
    r#"do = "broker.hostile", for = "4m", drop = 30, duplicate = 30, delay = 20, forge = 20"#,
    r#"do = "broker.lose", for = "90s""#,
    r#"do = "broker.replay", who = "0""#,
    r#"do = "broker.restart", for = "90s""#,
    r#"do = "broker.restore", age = "6m""#,
    r#"do = "broker.withhold", for = "5m", what = "acks""#,
    r#"do = "broker.withhold", for = "5m", what = "answers""#,
    r#"do = "broker.withhold", for = "5m", what = "heads""#,
    r#"do = "broker.withhold", for = "5m", what = "lists""#,
    r#"do = "clock.drift", who = "0""#,
    r#"do = "clock.freeze", for = "5m", who = "0""#,
    r#"do = "clock.step", by = "-3h", who = "0""#,
    r#"do = "clock.step", by = "+3h", who = "0""#,
    r#"do = "clock.strobe", for = "30s", by = "+10m", who = "0""#,
    r#"do = "disk.full", for = "2m", who = "0""#,
    r#"do = "disk.lies", for = "3m", what = "anchor", who = "0""#,
    r#"do = "disk.lies", for = "3m", what = "era", who = "0""#,
    r#"do = "disk.lies", for = "3m", what = "files", who = "0""#,
    r#"do = "disk.readonly", for = "2m", who = "0""#,
    r#"do = "disk.sync", for = "20s", what = "anchor", who = "0""#,
    r#"do = "disk.sync", for = "20s", what = "era", who = "0""#,
    r#"do = "disk.sync", for = "20s", what = "files", who = "0""#,
    r#"do = "emergency", what = "all", life = "8m", who = "0""#,
    r#"do = "emergency", what = "device", life = "8m", who = "0""#,
    r#"do = "emergency", what = "grant", life = "8m", who = "0""#,
    r#"do = "emergency", what = "owner", life = "8m", who = "0""#,
    r#"do = "emergency", what = "task", life = "8m", who = "0""#,
    r#"do = "emergency.thief", what = "ahead", who = "0""#,
    r#"do = "emergency.thief", what = "ahead_all", who = "0""#,
    r#"do = "emergency.thief", what = "device", who = "0""#,
    r#"do = "emergency.thief", what = "far_ahead", who = "0""#,
    r#"do = "emergency.thief", what = "left_out", who = "0""#,
    r#"do = "emergency.thief", what = "long", who = "0""#,
    r#"do = "emergency.thief", what = "old", who = "0""#,
    r#"do = "emergency.thief", what = "owner", who = "0""#,
    r#"do = "emergency.thief", what = "twin", who = "0""#,
    r#"do = "era.rotten", for = "20s", who = "0""#,
    r#"do = "file.rotten", what = "audit_key", for = "20s", who = "0""#,
    r#"do = "file.rotten", what = "bundle", for = "20s", who = "0""#,
    r#"do = "file.rotten", what = "emergency", for = "20s", who = "0""#,
    r#"do = "file.rotten", what = "feed", for = "20s", who = "0""#,
    r#"do = "file.rotten", what = "policy", for = "20s", who = "0""#,
    r#"do = "file.rotten", what = "wallet", for = "20s", who = "0""#,
    r#"do = "flood", for = "20s", what = "allowed", who = "0""#,
    r#"do = "flood", for = "20s", what = "same", who = "0""#,
    r#"do = "flood", for = "20s", what = "varied", who = "0""#,
    r#"do = "group.move", to = "any", who = "0""#,
    r#"do = "image.clone", age = "3m", who = "0""#,
    r#"do = "image.rollback", for = "20s", age = "3m", who = "0""#,
    r#"do = "key.rotate", what = "feed""#,
    r#"do = "key.rotate", what = "identity""#,
    r#"do = "key.rotate", what = "root""#,
    r#"do = "key.rotate", what = "service""#,
    r#"do = "link.down", for = "6m", who = "0""#,
    r#"do = "link.down", for = "6m", dir = "down", who = "0""#,
    r#"do = "link.down", for = "6m", dir = "up", who = "0""#,
    r#"do = "link.half_open", who = "0""#,
    r#"do = "link.slow", for = "6m", by = "+4s", who = "0""#,
    r#"do = "link.slow", for = "6m", by = "+4s", dir = "down", who = "0""#,
    r#"do = "link.slow", for = "6m", by = "+4s", dir = "up", who = "0""#,
    r#"do = "narrowed.misused", what = "beyond", who = "0""#,
    r#"do = "narrowed.misused", what = "crowd", who = "0""#,
    r#"do = "narrowed.misused", what = "ended", who = "0""#,
    r#"do = "narrowed.misused", what = "expired", who = "0""#,
    r#"do = "narrowed.misused", what = "late", who = "0""#,
    r#"do = "narrowed.misused", what = "stolen", who = "0""#,
    r#"do = "narrowed.misused", what = "stranger", who = "0""#,
    r#"do = "narrowed.misused", what = "wider", who = "0""#,
    r#"do = "planner.hijacked", what = "acts", who = "0""#,
    r#"do = "planner.hijacked", what = "ended", who = "0""#,
    r#"do = "planner.hijacked", what = "itself", who = "0""#,
    r#"do = "planner.hijacked", what = "repeated", who = "0""#,
    r#"do = "planner.hijacked", what = "stolen", who = "0""#,
    r#"do = "planner.hijacked", what = "unnamed", who = "0""#,
    r#"do = "planner.hijacked", what = "wider", who = "0""#,
    r#"do = "power.cut", for = "20s", boundary = "any", who = "0""#,
    r#"do = "power.cut", for = "7m", wall = "1970", who = "0""#,
    r#"do = "process.downgrade", for = "3m", who = "0""#,
    r#"do = "process.restart", for = "2s", who = "0""#,
    r#"do = "process.stop", for = "3m", who = "0""#,
    r#"do = "process.upgrade", for = "2s", who = "0""#,
    r#"do = "reboot", for = "30s", wall = "-40m", who = "0""#,
    r#"do = "revoke", what = "all", who = "0""#,
    r#"do = "revoke", what = "block", who = "0""#,
    r#"do = "revoke", what = "carried", who = "0""#,
    r#"do = "revoke", what = "device", who = "0""#,
    r#"do = "revoke", what = "grant", who = "0""#,
    r#"do = "revoke", what = "group", who = "0""#,
    r#"do = "revoke", what = "owner", who = "0""#,
    r#"do = "revoke", what = "task", who = "0""#,
    r#"do = "revoke", what = "token", who = "0""#,
    r#"do = "revoke.storm", count = 300, life = "1h""#,
    r#"do = "service.ahead", for = "5m", by = "+3h", who = "0""#,
    r#"do = "service.stop", for = "5m""#,
    r#"do = "step.misused", what = "again", who = "0""#,
    r#"do = "step.misused", what = "beyond", who = "0""#,
    r#"do = "step.misused", what = "late", who = "0""#,
    r#"do = "step.misused", what = "planner", who = "0""#,
    r#"do = "step.misused", what = "stranger", who = "0""#,
    r#"do = "suspend", for = "6m", who = "0""#,
    r#"do = "tail.forged", for = "20s", who = "0""#,
    r#"do = "time.reset", what = "foreign", late = "40s", who = "0""#,
    r#"do = "time.reset", what = "forged", late = "40s", who = "0""#,
    r#"do = "time.reset", what = "needed", late = "40s", who = "0""#,
    r#"do = "time.reset", what = "replayed", late = "40s", who = "0""#,
    r#"do = "time.reset", what = "stale", late = "40s", who = "0""#,
];
/// When, in minutes.
const TIMES: [u64; 4] = [8, 11, 14, 17];
/// Faults of one kind and time.
const ONES: u64 = (KINDS.len() * TIMES.len()) as u64;
/// The largest combination.
pub const SIZE_MAX: u32 = 3;

/// How many combinations of `size` faults there are.
pub fn count(size: u32) -> u64 {
    match size {
        1 => ONES,
        2 => ONES * (ONES - 1) / 2,
        _ => ONES * (ONES - 1) * (ONES - 2) / 6,
    }
}

/// How many times there are.
pub const LAST_TIME: u32 = TIMES.len() as u32;

/// The numbers of the single faults at one of the times, the first of which is 1.
pub fn at_time(time: u32) -> std::ops::Range<u64> {
    let kinds = KINDS.len() as u64;
    let first = u64::from(time.saturating_sub(1)) * kinds;
    first..first + kinds
}

/// The text of the scenario of a combination, by its number below [`count`].
pub fn draw(size: u32, number: u64) -> String {
    let mut text = format!(
        r#"schema = 1
name = "grid-{size}-{number}"
about = "A combination of faults on a grid of times."
seed = {seed}
duration = "50m"
heal = "29m"
require = []

[fleet]
devices = 2
without_rtc = 1
head_every = "3m"
roots = 3
threshold = 2

[fleet.upgrade.queue]
era_records_max = 1000
alike_max = 2

[groups.north]
members = "0"
feed = true

[workload]
begin_every = "2m"
task_ttl = "8m"
task_uses = 20
authorize_every = "30s"
finish_every = "7m"
status_every = "10m"

[workload.identity]
ttl = "15m"

[workload.narrowing]
every = "50s"
ttl = "3m"
use_every = "70s"
leave_every = "4m"

[workload.planner]
begin_every = "3m"
task_ttl = "8m"
step_every = "45s"
step_ttl = "5m"
execute_every = "50s"
finish_every = "5m"
"#,
        seed = number + 1
    );
    for one in combination(size, number) {
        let (kind, time) = (KINDS[(one % KINDS.len() as u64) as usize], TIMES[(one / KINDS.len() as u64) as usize]);
        let lines = kind.replace(", ", "\n");
        text += &format!("\n[[fault]]\n{lines}\nat = \"{time}m\"\n");
    }
    text
}

/// The combination of a number: of `size` numbers below [`ONES`], none twice, in the combinatorial number system.
fn combination(size: u32, mut number: u64) -> Vec<u64> {
    let choose = |from: u64, size: u32| match (size, from) {
        (1, from) => from,
        (2, from) => from * from.saturating_sub(1) / 2,
        (_, from) => from * from.saturating_sub(1) * from.saturating_sub(2) / 6,
    };
    let mut chosen = Vec::new();
    for size in (1..=size).rev() {
        let largest = (0..ONES).rev().find(|from| choose(*from, size) <= number).unwrap_or(0);
        number -= choose(largest, size);
        chosen.push(largest);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::case::Case;
    use crate::scenario::Scenario;

    #[test]
    fn every_combination_has_one_number() {
        for size in 1..=2 {
            let all: BTreeSet<Vec<u64>> = (0..count(size)).map(|number| combination(size, number)).collect();
            assert_eq!(all.len() as u64, count(size));
            assert!(all.iter().all(|one| one.windows(2).all(|pair| pair[0] > pair[1]) && one[0] < ONES));
        }
        assert_eq!(combination(3, count(3) - 1), [ONES - 1, ONES - 2, ONES - 3]);
    }

    /// What is not here, and why.
    const NOT_HERE: [(&str, &str); 7] = [
        ("broker.feed leap", "who waits for its set comes back with another key of the feed: that takes two faults"),
        (
            "broker.feed substitute",
            "who took it comes back with a snapshot, tens of heads later: these worlds end before",
        ),
        ("wire.acknowledge", "the model has no bytes on its links"),
        ("wire.garbage", "the model has no bytes on its links"),
        ("wire.grant", "the model has no bytes on its links"),
        ("wire.large", "the model has no bytes on its links"),
        ("wire.reuse", "the model has no bytes on its links"),
    ];

    #[test]
    fn of_each_kind_of_fault_there_is_one() {
        let tables = KINDS.iter().map(|kind| kind.replace(", ", "\n").parse::<toml::Table>().unwrap());
        let here = tables.flat_map(|table| crate::fault::kinds_of(&table));
        let not_here = NOT_HERE.iter().map(|(kind, _)| (*kind).to_owned());
        let all: BTreeSet<String> = here.chain(not_here).collect();
        assert_eq!(all, crate::fault::kinds().collect());
        for time in 1..=LAST_TIME {
            let texts: Vec<String> = at_time(time).map(|number| draw(1, number)).collect();
            let kinds: BTreeSet<String> = texts.iter().map(|text| named(text)).collect();
            assert_eq!(kinds.len(), KINDS.len(), "of each time each is once");
            let at = format!("at = \"{}m\"", TIMES[time as usize - 1]);
            assert!(texts.iter().all(|text| text.contains(&at)), "{at}");
        }
        assert_eq!(at_time(LAST_TIME).end, count(1));
    }

    /// A world's fault, without its time.
    fn named(text: &str) -> String {
        let fault = text.split("[[fault]]").nth(1).unwrap();
        fault.lines().filter(|line| !line.starts_with("at = ")).collect()
    }

    /// Pairs that broke something once, each with what tells the kinds from others, and when.
    const FOUND: [[(&str, u64); 2]; 8] = [
        [(r#"emergency.thief", what = "ahead_all"#, 8), ("reboot", 11)],
        [(r#"emergency.thief", what = "ahead_all"#, 14), (r#"broker.feed", what = "far_ahead"#, 11)],
        [(r#"emergency.thief", what = "owner"#, 8), (r#"revoke", what = "owner"#, 8)],
        [("anchor.gone", 8), ("anchor.copied_back", 8)],
        [("anchor.gone", 17), ("image.rollback", 11)],
        [("anchor.copied_back", 17), ("image.rollback", 14)],
        [("image.clone", 11), ("power.cut", 8)],
        [("suspend", 17), (r#"file.rotten", what = "policy"#, 17)],
    ];

    #[test]
    fn what_broke_something_once_does_not_again() {
        let number = |(kind, at): (&str, u64)| {
            let kind = KINDS.iter().position(|of| of.contains(&format!("\"{kind}"))).expect("it is here");
            kind + KINDS.len() * TIMES.iter().position(|time| *time == at).expect("it is one of the times")
        };
        for found in FOUND {
            let pair = found.map(number);
            let (low, high) = (pair[0].min(pair[1]) as u64, pair[0].max(pair[1]) as u64);
            let text = draw(2, high * (high - 1) / 2 + low);
            let report = Case::parse(&text, None).unwrap().run();
            assert_eq!(report.broken_first(), None, "{text}");
        }
    }

    #[test]
    fn every_fault_of_the_grid_is_one() {
        for number in 0..count(1) {
            Scenario::parse(&draw(1, number)).unwrap();
        }
        Scenario::parse(&draw(3, count(3) - 1)).unwrap();
    }
}
