//! All small combinations of faults on a grid of times: what chance would take long to meet.
//!
//! Owns: the kinds of faults, the times, and the numbering of all combinations of one, two or three.
//! Never: leaves a combination out.
//! Read next: `fuzz.rs`, which runs them.

/// A fault on a gateway or on what all share, as a scenario file says it, without its time.
const KINDS: [&str; 24] = [
    "do = \"broker.forget\"\nwhat = \"feed\"",
    "do = \"broker.hostile\"\nfor = \"4m\"\ndrop = 30\nduplicate = 30\ndelay = 20\nforge = 20",
    "do = \"broker.lose\"\nfor = \"90s\"",
    "do = \"broker.replay\"\nwho = \"0\"",
    "do = \"broker.restart\"\nfor = \"90s\"",
    "do = \"broker.restore\"\nage = \"6m\"",
    "do = \"broker.withhold\"\nfor = \"5m\"\nwhat = \"acks\"",
    "do = \"broker.withhold\"\nfor = \"5m\"\nwhat = \"lists\"",
    "do = \"clock.freeze\"\nfor = \"5m\"\nwho = \"0\"",
    "do = \"clock.step\"\nby = \"-3h\"\nwho = \"0\"",
    "do = \"clock.step\"\nby = \"+3h\"\nwho = \"0\"",
    "do = \"disk.sync\"\nfor = \"20s\"\nwhat = \"anchor\"\nwho = \"0\"",
    "do = \"disk.sync\"\nfor = \"20s\"\nwhat = \"era\"\nwho = \"0\"",
    "do = \"key.rotate\"\nwhat = \"feed\"",
    "do = \"key.rotate\"\nwhat = \"service\"",
    "do = \"link.down\"\nfor = \"6m\"\nwho = \"0\"",
    "do = \"link.down\"\nfor = \"6m\"\ndir = \"down\"\nwho = \"0\"",
    "do = \"link.half_open\"\nwho = \"0\"",
    "do = \"power.cut\"\nfor = \"20s\"\nboundary = \"any\"\nwho = \"0\"",
    "do = \"power.cut\"\nfor = \"7m\"\nwall = \"1970\"\nwho = \"0\"",
    "do = \"process.restart\"\nfor = \"2s\"\nwho = \"0\"",
    "do = \"revoke\"\nwhat = \"grant\"\nwho = \"0\"",
    "do = \"revoke\"\nwhat = \"task\"\nwho = \"0\"",
    "do = \"suspend\"\nfor = \"6m\"\nwho = \"0\"",
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

[workload]
begin_every = "2m"
task_ttl = "8m"
task_uses = 20
authorize_every = "30s"
finish_every = "7m"
status_every = "10m"
"#,
        seed = number + 1
    );
    for one in combination(size, number) {
        let (kind, time) = (KINDS[(one / TIMES.len() as u64) as usize], TIMES[(one % TIMES.len() as u64) as usize]);
        text += &format!("\n[[fault]]\n{kind}\nat = \"{time}m\"\n");
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

    #[test]
    fn every_fault_of_the_grid_is_one() {
        for number in 0..count(1) {
            Scenario::parse(&draw(1, number)).unwrap();
        }
        Scenario::parse(&draw(3, count(3) - 1)).unwrap();
    }
}
