//! Whole runs: determinism, and that the checkers can fail.

#[cfg(feature = "mutants")]
mod bites;
#[cfg(feature = "mutants")]
mod mutants;

use super::*;

/// A world for tests of what is done with worlds.
pub(crate) const SMALL: &str = r#"
    schema = 1
    name = "small"
    about = "a bit of everything"
    seed = 4
    duration = "70m"
    heal = "45m"
    require = ["I1", "I2", "I5", "live"]
    [fleet]
    devices = 2
    without_rtc = 1
    head_every = "5m"
    [workload]
    begin_every = "3m"
    authorize_every = "30s"
    task_ttl = "10m"
    task_uses = 5
    [[fault]]
    do = "power.cut"
    at = "8m"
    every = "7m"
    until = "40m"
    for = "20s"
    boundary = "any"
    who = "all"
    [[fault]]
    do = "link.down"
    at = "12m"
    for = "10m"
    [[fault]]
    do = "broker.lose"
    at = "30m"
    for = "1m"
    [[fault]]
    do = "revoke"
    what = "task"
    at = "11m"
    every = "6m"
    until = "40m"
"#;

#[test]
fn equal_seeds_equal_traces_and_other_seeds_others() {
    let scenario = Scenario::parse(SMALL).unwrap();
    let first = run(&scenario, 4, None);
    assert_eq!(first.verdict(), report::Status::Pass, "{:#?}", first.properties);
    assert_eq!(first, run(&scenario, 4, None));
    assert_ne!(first.trace_hash, run(&scenario, 5, None).trace_hash);
}

/// `tests/run` runs this in a build that is not optimised, and all scenarios in one that is.
#[test]
fn golden_hashes_are_met_however_the_code_is_built() {
    for name in ["live-brief", "live-dark", "live-rough"] {
        let case = Case::parse(menu::find(name).unwrap(), None).unwrap();
        let golden = include_str!("../golden.txt").lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        assert_eq!(golden, Some(hardtack::ids::hex(&case.run().trace_hash).as_str()), "{name}");
    }
}

#[test]
fn each_boundary_is_cut_in_a_run_of_its_own() {
    let text = SMALL.replace("boundary = \"any\"", "boundary = \"each\"\nwindow = \"1m\"");
    let text = text.replace("every = \"7m\"\n    until = \"40m\"\n    for = \"20s\"", "for = \"20s\"");
    let text = text.replace("who = \"all\"", "who = \"0\"");
    let scenario = Scenario::parse(&text).unwrap();
    let report = run(&scenario, 3, None);
    assert_eq!(report.verdict(), report::Status::Pass, "{:#?}", report.properties);
    assert!(report.runs > 10, "{} runs", report.runs);
}

/// A gateway that is told to end while it stands still, or cannot write, leaves what it had only counted; a file system that
/// takes no writes is no reason to look into a folder of a newer format; both slots that go one after the other, while the power
/// is off, are gone as if they had gone at once.
#[test]
fn faults_that_meet_on_one_gateway_are_each_told_for_what_they_are() {
    const FLOOD: &str = r#"do = "flood", what = "same", at = "12m", for = "1m""#;
    let meetings: [(&str, &[&str]); 7] = [
        ("stopped", &[FLOOD, r#"do = "process.stop", at = "12m33s", for = "5m""#, REBOOT]),
        ("full", &[FLOOD, r#"do = "disk.full", at = "12m40s", for = "5m""#, &REBOOT.replace("13m", "12m40s")]),
        ("at once", &[r#"do = "disk.readonly", at = "8m", for = "2m""#, &DOWNGRADE.replace("6m", "3m")]),
        ("one slot after the other", &[ROTTEN, &ROTTEN.replace("12m", "12m20s")]),
        ("a slot and the bundle", &[ROTTEN, r#"do = "file.rotten", what = "bundle", at = "12m20s", for = "30s""#]),
        ("the bundle twice", &[BUNDLE, &BUNDLE.replace("12m", "12m10s")]),
        ("later", &[DOWNGRADE, r#"do = "disk.readonly", at = "9m", for = "2m""#, RESTART]),
    ];
    for (name, faults) in meetings {
        let mut text = MEETING.to_owned();
        for fault in faults {
            text += &format!("[[fault]]\nwho = \"0\"\n{}\n", fault.replace(", ", "\n"));
        }
        let case = Case::parse(&text, None).unwrap();
        for level in [Level::Model, Level::Wire].into_iter().filter(|level| level.available().is_ok()) {
            let report = run_case_at(level, &case, None, None);
            let broken: Vec<_> =
                report.properties.iter().filter(|property| property.status == report::Status::Fail).collect();
            assert!(broken.is_empty(), "{name}, {level:?}: {broken:#?}");
        }
    }
}

/// A list that a start forgot shows in what it is tried with at once, though the start was due while nothing ran, and no
/// program asks for anything.
#[cfg(feature = "mutants")]
#[test]
fn a_start_that_is_due_in_a_sleep_is_judged_when_the_gateway_wakes() {
    let mut text = MEETING.to_owned() + "until = \"11m\"\n";
    for fault in [CARRIED, &RESTART.replace("10m", "12m"), SLEEP] {
        text += &format!("[[fault]]\nwho = \"0\"\n{}\n", fault.replace(", ", "\n"));
    }
    let case = Case::parse(&text, None).unwrap();
    hardtack::mutant::plant(Some(hardtack::mutant::Mutant::RevocationForgotten));
    let allowed = crate::mutants::broken(&case, Level::Model, "I4");
    hardtack::mutant::plant(None);
    assert_eq!(allowed.map(|at| at / 1000), Some(17 * 60 + 1), "as soon as it wakes");
    assert_eq!(broken_by(&case, None), [""; 0]);
}

/// A gateway is told of another feed, hangs up, and only then takes what had come beside that: an answer to its nonce is none
/// any more.
#[test]
fn an_answer_that_waits_when_a_gateway_hangs_up_is_no_round_trip() {
    for seed in [1, 2, 482] {
        let report = Case::parse(HUNG_UP, Some(seed)).unwrap().run();
        let clock = report.properties.iter().find(|property| property.id == "clock").unwrap();
        assert_eq!(clock.status, report::Status::Pass, "{seed}: {:?}", clock.witness);
    }
}

const HUNG_UP: &str = r#"
    schema = 1
    name = "hung-up"
    about = "a gateway lost powered-on time in a sleep, and is moved to another feed before it is in touch"
    seed = 1
    duration = "1h58m"
    heal = "1h38m"
    require = []
    [fleet]
    devices = 1
    head_every = "35m38s"
    profile = "energy-armv7-1g"
    roots = 1
    threshold = 1
    without_rtc = 0
    [groups.north]
    feed = true
    members = "0"
    [workload]
    quiet = true
    [[act]]
    at = "9m37s"
    act = "broker_backup"
    backup = 5000
    [[act]]
    at = "57m6s"
    act = "suspend"
    device = 0
    turn = "begins"
    [[act]]
    at = "59m12s"
    act = "reboot"
    device = 0
    lasts = 1
    wall = { stepped = -16000 }
    [[act]]
    at = "1h5s"
    act = "group_move"
    device = 0
    pick = 1
    to = "any"
    [[act]]
    at = "1h3m32s"
    act = "broker_restore"
    backup = 5000
    [[act]]
    at = "1h37m6s"
    act = "suspend"
    device = 0
    turn = "ends"
"#;

#[cfg(feature = "mutants")]
const CARRIED: &str = r#"do = "revoke", what = "carried", at = "9m""#;
#[cfg(feature = "mutants")]
const SLEEP: &str = r#"do = "suspend", at = "12m1s", for = "5m""#;
const DOWNGRADE: &str = r#"do = "process.downgrade", at = "8m", for = "6m""#;
const BUNDLE: &str = r#"do = "file.rotten", what = "bundle", at = "12m", for = "30s""#;
const ROTTEN: &str = r#"do = "anchor.rotten", at = "12m", for = "1m""#;
const REBOOT: &str = r#"do = "reboot", at = "13m", for = "10s""#;
const RESTART: &str = r#"do = "process.restart", at = "10m", for = "3s""#;
const MEETING: &str = r#"
    schema = 1
    name = "meeting"
    about = "faults of one gateway at one time"
    seed = 5
    duration = "50m"
    heal = "29m"
    require = []
    [fleet]
    devices = 2
    head_every = "3m"
    [workload]
    begin_every = "2m"
    task_ttl = "8m"
    task_uses = 20
    authorize_every = "30s"
    finish_every = "7m"
    status_every = "10m"
    hostile_percent = 35
"#;

/// Does all the work on two threads. What is planted is planted in a thread.
#[cfg(feature = "mutants")]
fn side_by_side<W: Sync, R: Send>(work: &[W], each: impl Fn(&W) -> R + Sync) -> Vec<R> {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let next = AtomicUsize::new(0);
    let take = || {
        let mut done = Vec::new();
        while let Some((number, item)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, work.get(n)?)))
        {
            done.push((number, each(item)));
        }
        done
    };
    let mut done: Vec<(usize, R)> = std::thread::scope(|scope| {
        let threads = [scope.spawn(take), scope.spawn(take)];
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// What a case breaks under a planted bug, or under none.
#[cfg(feature = "mutants")]
fn broken_by(case: &Case, mutant: Option<hardtack::mutant::Mutant>) -> Vec<String> {
    broken_by_at(Level::Model, case, mutant)
}

/// The same at a level.
#[cfg(feature = "mutants")]
fn broken_by_at(level: Level, case: &Case, mutant: Option<hardtack::mutant::Mutant>) -> Vec<String> {
    hardtack::mutant::plant(mutant);
    let report = run_case_at(level, case, None, None);
    hardtack::mutant::plant(None);
    witnesses(&report)
}

/// What a run broke, and how.
#[cfg(feature = "mutants")]
fn witnesses(report: &Report) -> Vec<String> {
    let broken = report.properties.iter().filter(|property| property.status == report::Status::Fail);
    broken.map(|property| format!("{}: {}", property.id, property.witness.as_deref().unwrap_or_default())).collect()
}
