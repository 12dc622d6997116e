//! Whole runs: determinism, and that the checkers can fail.

use super::*;

const SMALL: &str = r#"
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

/// Each planted bug turns a scenario that ships to `fail`, by the property named, and that scenario passes without it.
#[cfg(feature = "mutants")]
mod mutants {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hardtack::mutant::{plant, Mutant};

    use super::*;

    const TABLE: [(Mutant, &str, &str); Mutant::ALL.len()] = [
        (Mutant::AckByAnyKey, "time-reset", "I5.evidence"),
        (Mutant::AllowCounted, "denial-flood", "I2"),
        (Mutant::AllowShed, "small-queue", "I2"),
        (Mutant::AncestorNotCharged, "small-box", "box.uses"),
        (Mutant::AuditKeyUnannounced, "week-offline-reboots", "live"),
        (Mutant::AuditNotSealed, "hostile-broker", "I8.sealed"),
        (Mutant::BudgetNotCharged, "flappy-link", "I5.budget"),
        (Mutant::CeilingKeptAfterBoot, "clock-storm", "clock"),
        (Mutant::ChildResetsBudget, "small-box", "I5.budget"),
        (Mutant::CloneUnnoticed, "cloned", "detected"),
        (Mutant::CollectorAcksFirst, "flappy-link", "I2"),
        (Mutant::CountLostAtRoll, "denial-flood", "I2"),
        (Mutant::CounterAfterAction, "boot-loop", "I5.budget"),
        (Mutant::CountsShedUntold, "small-queue", "I2"),
        (Mutant::DroppedForgotten, "not-from-the-dead", "I4.dropped"),
        (Mutant::DroppedKeyAccepted, "key-rotation-in-the-dark", "I5.position"),
        (Mutant::DuplicateStored, "hostile-broker", "I2"),
        (Mutant::EmergencyCounterLowered, "emergency", "I5"),
        (Mutant::EmergencyCoveredBriefly, "emergency", "I4.emergency"),
        (Mutant::EmergencyLifeUnchecked, "emergency", "emergency.ends"),
        (Mutant::EmergencyLiftsLeftOut, "emergency", "I4.emergency"),
        (Mutant::EmergencyNotWritten, "emergency", "I5"),
        (Mutant::EmergencyOutlives, "emergency", "emergency.ends"),
        (Mutant::EmergencyWipes, "emergency", "I7"),
        (Mutant::EndUnnamed, "denial-flood", "I2"),
        (Mutant::EquivocationUnnoticed, "feed-under-attack", "I5.evidence"),
        (Mutant::EraNotBumped, "boot-loop", "I2"),
        (Mutant::FeedPositionLowered, "hostile-broker", "I5"),
        (Mutant::FirstFeedAlone, "groups", "I4.bounded"),
        (Mutant::FloorNotPersisted, "boot-loop", "I5"),
        (Mutant::ForkUntold, "cloned", "detected"),
        (Mutant::GapCountedComplete, "withheld", "I5.position"),
        (Mutant::GapIgnored, "feed-under-attack", "I4"),
        (Mutant::GapTooShort, "small-queue", "I2"),
        (Mutant::HintBelieved, "clock-storm", "I3"),
        (Mutant::LateAllowGiven, "sleeper", "I3"),
        (Mutant::LeaseEndsEmergency, "emergency", "I4.emergency"),
        (Mutant::LeaseNotCharged, "boot-loop", "clock"),
        (Mutant::LossUntold, "lying-disk", "I2"),
        (Mutant::MovedForgets, "groups", "I4"),
        (Mutant::MovedNotFiled, "groups", "I4.bounded"),
        (Mutant::NamedByAnother, "flappy-link", "I11"),
        (Mutant::NeverPublishedAgain, "thrown-away", "live"),
        (Mutant::PendingDropped, "revocation-storm", "live"),
        (Mutant::PlaceNotChecked, "feed-under-attack", "I5.evidence"),
        (Mutant::PositionReused, "revoked-in-the-dark", "I5.position"),
        (Mutant::ReleaseOnPuback, "hostile-broker", "I2"),
        (Mutant::RenewalDropsFirst, "small-box", "I7"),
        (Mutant::RepeatedNotCounted, "denial-flood", "I2"),
        (Mutant::ReplyBeforeCommit, "revoked-in-the-dark", "I1"),
        (Mutant::ReserveNotKept, "small-queue", "live"),
        (Mutant::ResetRevives, "time-reset", "I4.ended"),
        (Mutant::ResetUnbound, "time-reset", "I5"),
        (Mutant::RevocationForgotten, "revoked-in-the-dark", "I5.position"),
        (Mutant::RootNotCompared, "feed-under-attack", "I5.position"),
        (Mutant::ShedUntold, "small-queue", "I2"),
        (Mutant::SinceIgnored, "groups", "I4.stale"),
        (Mutant::SnapshotOfDroppedKey, "key-rotation-in-the-dark", "caught_up"),
        (Mutant::SnapshotRollsBack, "feed-under-attack", "I5"),
        (Mutant::StalenessByWaitingHead, "withheld", "I4.stale"),
        (Mutant::SuccessorByNewAlone, "key-rotation-in-the-dark", "live"),
        (Mutant::SuccessorByOldAlone, "key-rotation-in-the-dark", "live"),
        (Mutant::SyncErrorIgnored, "failing-disk", "I1"),
        (Mutant::TailNotChecked, "tampered-tail", "I2"),
        (Mutant::TimeJudgedAtFloor, "clock-storm", "I3.strict"),
        (Mutant::TwoTimeFacts, "boot-loop", "I6.child"),
        (Mutant::WallClockUsed, "week-offline-reboots", "I3"),
    ];

    fn text(name: &str) -> String {
        let path = format!("{}/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap()
    }

    fn scenario(name: &str) -> Scenario {
        Scenario::parse(&text(name)).unwrap()
    }

    /// What a scenario fails by under a planted bug.
    fn failed(scenario: &Scenario, mutant: Option<Mutant>) -> Vec<&'static str> {
        plant(mutant);
        let report = run(scenario, scenario.seed, None);
        plant(None);
        let failed = report.properties.iter().filter(|property| property.status == report::Status::Fail);
        failed.map(|property| property.id).collect()
    }

    /// Does all the work on two threads. What is planted is planted in a thread.
    fn side_by_side<W: Sync, R: Send>(work: &[W], each: impl Fn(&W) -> R + Sync) -> Vec<R> {
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

    #[test]
    fn each_planted_bug_is_caught_where_the_table_says() {
        let named: BTreeSet<String> = TABLE.iter().map(|(mutant, ..)| format!("{mutant:?}")).collect();
        assert_eq!(named.len(), Mutant::ALL.len(), "each once");
        let caught = side_by_side(&TABLE, |(mutant, name, property)| {
            let case = Case::parse(&text(name), None).unwrap();
            plant(Some(*mutant));
            let caught = comes_to(&case, |tally| tally.has_broken(property));
            plant(None);
            caught
        });
        let missed = TABLE.iter().zip(caught).filter(|(_, caught)| !caught).map(|(row, _)| row);
        let missed: BTreeMap<String, Vec<&str>> = missed
            .map(|(mutant, name, property)| {
                let failed = failed(&scenario(name), Some(*mutant));
                (format!("{mutant:?} in {name} under {property}"), failed)
            })
            .collect();
        assert!(missed.is_empty(), "not caught, and what failed in its place: {missed:#?}");
    }

    #[test]
    fn without_a_bug_the_same_scenarios_pass() {
        let names: Vec<&str> = TABLE.iter().map(|(_, name, _)| *name).collect::<BTreeSet<_>>().into_iter().collect();
        let failed = side_by_side(&names, |name| failed(&scenario(name), None));
        let failed: Vec<_> = names.iter().zip(failed).filter(|(_, failed)| !failed.is_empty()).collect();
        assert!(failed.is_empty(), "{failed:#?}");
    }

    /// Long stories become short, and stay true.
    #[test]
    fn each_story_that_is_made_small_breaks_the_same() {
        let case = Case::parse(&text("flappy-link"), None).unwrap();
        plant(Some(Mutant::BudgetNotCharged));
        let breach = case.run().breach("I5.budget").expect("the bug is there");
        let small = shrink::shrink(&case, &breach, 1000, &mut |_, _| true);
        let written = small.as_ref().map(|small| Case::parse(&small.case.to_toml(), None).unwrap());
        let broken = written.as_ref().is_some_and(|case| case.breaks(&breach));
        let found = bisect::bisect(&case, &breach, 1, 2, &mut |_| ());
        plant(None);
        let small = small.expect("the bug is there");
        assert!(broken, "as it is written it breaks the same");
        assert!(small.minimal, "{} runs", small.runs);
        assert_eq!((small.to.faults, small.to.devices), (0, 1), "no fault has a part in it");
        assert!(small.from.requests > 1000 && small.to.requests <= 12, "{:?} to {:?}", small.from, small.to);
        assert!(!small.case.breaks(&breach), "without the bug nothing is broken");
        let last = found.moments.last().unwrap();
        assert_eq!(last.broken, last.futures, "in the end it has happened in every future");
    }
}
