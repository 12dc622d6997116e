//! What happens in a plan, in a few lines of plain words.
//!
//! Owns: what goes into one line: what begins and ends, what happens again, what befalls several gateways.
//! Never: leaves something out without saying how much.
//! Read next: `words.rs`, which has a sentence for each act; `shrink.rs`, which says how it ends.

use std::collections::BTreeMap;

use crate::fault::Hostility;
use crate::plan::{Act, Entry, Occurrence};
use crate::scenario::Span;
use crate::script::{ends, is_of_program};
use crate::words;

/// The most lines that acts are told in.
pub(crate) const LINES: usize = 9;
/// Stands where the gateways are named.
const NAMED: &str = "\u{0}";
/// What something that lasts is told with, where nobody knows yet until when.
const FROM_NOW: &str = ", from now on";

/// Something that is told in one line.
#[derive(Debug, Clone)]
struct Told {
    /// When it happened first and last,
    first: u64,
    last: u64,
    /// how often,
    times: usize,
    /// and until when it lasted, if it did.
    until: Option<u64>,
    devices: Vec<u32>,
    words: String,
    of_program: bool,
}

/// The acts in order of time, in so many lines at the most. Times are counted from `start`.
pub(crate) fn of(entries: &[Entry], start: u64, lines: usize) -> Vec<String> {
    let mut all: Vec<Told> = Vec::new();
    // Where each that may end is told of, the last where it began several times.
    let mut begun: BTreeMap<(Occurrence, Option<u32>), usize> = BTreeMap::new();
    for entry in entries {
        let told = entry.of.and_then(|of| begun.get(&(of, entry.act.device())).copied());
        match told {
            Some(place) if is_end(&entry.act) => all[place].until = Some(entry.at),
            Some(_) | None => {
                begun.extend(entry.of.map(|of| ((of, entry.act.device()), all.len())));
                all.push(Told::of(entry));
            }
        }
    }
    // Only as much is put into one line as must be.
    fold(&mut all, |told, next| told.words == next.words && told.devices == next.devices, Near::Yes);
    let folds: [fn(&Told, &Told) -> bool; 2] = [
        |told, next| told.words == next.words && told.devices == next.devices,
        |told, next| told.words == next.words && !told.devices.is_empty(),
    ];
    for same in folds {
        if all.len() > lines {
            fold(&mut all, same, Near::No);
        }
    }
    let rest = (all.len() > lines).then(|| shorten(&mut all, lines.saturating_sub(1)));
    rest.into_iter().chain(all.iter().map(|told| told.line(start))).collect()
}

/// Whether an act is the end of something that began.
fn is_end(act: &Act) -> bool {
    ends(act) || matches!(act, Act::BrokerHostile { how } if *how == Hostility::default())
}

/// Whether only what is told one after the other is put into one line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Near {
    No,
    Yes,
}

/// Puts into one line what is the same.
fn fold(all: &mut Vec<Told>, same: impl Fn(&Told, &Told) -> bool, near: Near) {
    let mut folded: Vec<Told> = Vec::new();
    for next in all.drain(..) {
        let like = match near {
            Near::No => folded.iter_mut().find(|told| same(told, &next)),
            Near::Yes => folded.last_mut().filter(|told| same(told, &next)),
        };
        match like {
            Some(told) => {
                told.last = told.last.max(next.last);
                told.until = told.until.max(next.until);
                told.times += next.times;
                told.devices.extend(next.devices);
                told.devices.sort_unstable();
                told.devices.dedup();
            }
            None => folded.push(next),
        }
    }
    *all = folded;
}

/// Leaves out what is told in more than so many lines: what programs ask first, and of that what happened first. Returns what
/// that was, in a line.
fn shorten(all: &mut Vec<Told>, lines: usize) -> String {
    let mut places: Vec<usize> = (0..all.len()).collect();
    places.sort_by_key(|place| (all[*place].of_program, std::cmp::Reverse(all[*place].last)));
    let mut gone: Vec<usize> = places.split_off(lines.min(places.len()));
    gone.sort_unstable();
    let (mut asked, mut others) = (0, 0);
    for place in gone.into_iter().rev() {
        let told = all.remove(place);
        *(if told.of_program { &mut asked } else { &mut others }) += told.times;
    }
    format!("{:>12}  {} more acts that are not told here, {asked} of them of programs", "besides", asked + others)
}

impl Told {
    fn of(entry: &Entry) -> Self {
        let device = entry.act.device();
        let words = words::of(&entry.act);
        Self {
            first: entry.at,
            last: entry.at,
            times: 1,
            until: None,
            words: device.map_or_else(|| words.clone(), |number| words.replace(&format!("gw-{number}"), NAMED)),
            devices: device.into_iter().collect(),
            of_program: is_of_program(&entry.act),
        }
    }

    fn line(&self, start: u64) -> String {
        // To the second, after the first minute: nobody reads on for the rest.
        let when = |at: u64| {
            let at = at.saturating_sub(start);
            Span(if at < 60_000 { at } else { at / 1000 * 1000 }).to_string()
        };
        let names: Vec<String> = self.devices.iter().map(|number| format!("gw-{number}")).collect();
        let words = self.words.replace(NAMED, &names.join(", "));
        let end = match (self.until, self.times) {
            (None, 1) => String::new(),
            (Some(until), 1) => format!(", until {}", when(until)),
            (until, times) => format!(", {times} times until {}", when(until.unwrap_or(self.last))),
        };
        let words = words.strip_suffix(FROM_NOW).filter(|_| !end.is_empty()).unwrap_or(&words);
        format!("{:>12}  {words}{end}", when(self.first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;

    fn told(faults: &str, acts: &str, lines: usize) -> Vec<String> {
        let text = format!(
            "schema = 1\nname = \"x\"\nabout = \"x\"\nseed = 1\nduration = \"3h\"\nheal = \"2h\"\nrequire = []\n\
            [fleet]\ndevices = 3\n[workload]\nquiet = true\n{faults}\n{acts}"
        );
        let case = Case::parse(&text, None).unwrap();
        let story = of(&case.plan().entries, case.scenario().start, lines);
        story.iter().map(|line| line.trim().to_owned()).collect()
    }

    fn asks(times: &[&str], device: u32) -> String {
        let act = |at: &&str| format!("[[act]]\nact = \"begin\"\nat = \"{at}\"\ndevice = {device}\npick = 0\n");
        times.iter().map(act).collect()
    }

    #[test]
    fn what_begins_and_ends_is_one_line_and_so_is_what_happens_again() {
        let faults = "[[fault]]\ndo = \"link.slow\"\nby = \"+2s\"\nat = \"20m\"\nfor = \"9m\"\nwho = \"1\"\n\
            [[fault]]\ndo = \"broker.restart\"\nat = \"50m\"\nfor = \"3m\"\n";
        let story = told(faults, &asks(&["10s", "15m", "25m"], 0), LINES);
        let due = [
            "10s  gw-0: a program begins a task, 2 times until 15m",
            "20m  gw-1: the link is slower by 2s, until 29m",
            "25m  gw-0: a program begins a task",
            "50m  the broker goes away, until 53m",
        ];
        assert_eq!(story, due);
    }

    #[test]
    fn the_more_happens_the_more_goes_into_one_line_and_what_is_not_told_is_counted() {
        let faults = "[[fault]]\ndo = \"link.down\"\nat = \"20m\"\nfor = \"9m\"\nevery = \"20m\"\nuntil = \"60m\"\nwho = \"0,2\"\n\
            [[fault]]\ndo = \"broker.restart\"\nat = \"30m\"\nfor = \"3m\"\n";
        let acts = asks(&["10m", "35m", "70m"], 0);
        check(
            &told(faults, &acts, 5),
            &[
                "10m  gw-0: a program begins a task, 3 times until 1h10m",
                "20m  gw-0: the link is cut, 3 times until 1h9m",
                "20m  gw-2: the link is cut, 3 times until 1h9m",
                "30m  the broker goes away, until 33m",
            ],
        );
        check(
            &told(faults, &acts, 3),
            &[
                "10m  gw-0: a program begins a task, 3 times until 1h10m",
                "20m  gw-0, gw-2: the link is cut, 6 times until 1h9m",
                "30m  the broker goes away, until 33m",
            ],
        );
        check(
            &told(faults, &acts, 2),
            &[
                "besides  4 more acts that are not told here, 3 of them of programs",
                "20m  gw-0, gw-2: the link is cut, 6 times until 1h9m",
            ],
        );
    }

    #[track_caller]
    fn check(story: &[String], due: &[&str]) {
        assert_eq!(story, due);
    }
}
