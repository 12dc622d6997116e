//! Whole runs: determinism, and that the checkers can fail.

use super::*;

const SMALL: &str = r#"
    schema = 1
    name = "small"
    about = "a bit of everything"
    seed = 3
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
    let first = run(&scenario, 3, None);
    assert_eq!(first.verdict(), report::Status::Pass, "{:#?}", first.properties);
    assert_eq!(first, run(&scenario, 3, None));
    assert_ne!(first.trace_hash, run(&scenario, 4, None).trace_hash);
}

/// Each planted bug turns a scenario that ships to `fail`, and that scenario passes without it.
#[cfg(feature = "mutants")]
mod mutants {
    use hardtack::mutant::{plant, Mutant};

    use super::*;

    #[track_caller]
    fn check_caught(mutant: Mutant, scenario: &str, property: &str) {
        let path = format!("{}/scenarios/{scenario}.toml", env!("CARGO_MANIFEST_DIR"));
        let scenario = Scenario::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        plant(Some(mutant));
        let caught = run(&scenario, scenario.seed, None);
        plant(None);
        let failed: Vec<_> =
            caught.properties.iter().filter(|property| property.status == report::Status::Fail).collect();
        assert!(failed.iter().any(|failed| failed.id == property), "{mutant:?} broke {failed:#?}");
        let clean = run(&scenario, scenario.seed, None);
        assert_eq!(clean.verdict(), report::Status::Pass, "without {mutant:?}: {:#?}", clean.properties);
    }

    #[test]
    fn a_budget_that_is_not_charged() {
        check_caught(Mutant::BudgetNotCharged, "flappy-link", "I5");
    }

    #[test]
    fn an_older_head_that_is_taken() {
        check_caught(Mutant::FeedPositionLowered, "hostile-broker", "I5");
    }

    #[test]
    fn a_record_that_is_released_once_the_broker_has_it() {
        check_caught(Mutant::ReleaseOnPuback, "flappy-link", "I2");
    }

    #[test]
    fn a_reply_that_leaves_before_the_commit() {
        check_caught(Mutant::ReplyBeforeCommit, "revoked-in-the-dark", "I1");
    }

    #[test]
    fn a_list_that_a_start_forgets() {
        check_caught(Mutant::RevocationForgotten, "revoked-in-the-dark", "I4");
    }

    #[test]
    fn a_wall_clock_that_is_believed() {
        check_caught(Mutant::WallClockUsed, "week-offline-reboots", "I3");
    }
}
