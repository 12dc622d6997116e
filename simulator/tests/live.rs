//! The live level on real processes: what it sees of an honest run, and that it sees what is not as it should be.
#![allow(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]
#![allow(clippy::print_stdout, reason = "a test that cannot run here says why")]

#[path = "../../tests/it/support/complete.rs"]
#[expect(dead_code, reason = "a broker is looked for elsewhere than in PATH too")]
mod complete;

use std::path::PathBuf;

use hardtack_simulator::case::Case;
use hardtack_simulator::live::{broker, play, Findings, Options, Verdict};
use hardtack_simulator::report::Status;

use self::complete::cannot_run;

/// The program that is played with: the one that this test's build folder holds, for cargo gives a test only the programs of
/// its own package.
fn binary() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap().join("hardtack")
}

/// Whether what is needed is here. Elsewhere than in `tests/run` that it is not is only said.
fn can_run() -> bool {
    let missing = if !broker::is_installed() {
        "mosquitto is not installed: tests/run installs it".to_owned()
    } else if !binary().is_file() {
        format!("there is no {}: `cargo build --features demo --bin hardtack` makes it", binary().display())
    } else {
        return true;
    };
    cannot_run(&missing);
    false
}

fn played(text: &str) -> Findings {
    let options = Options { binary: binary(), speed: 1, settle: 2000, longest: 60_000, keep: false };
    play(&Case::parse(text, None).unwrap(), &options, &|line| println!("{line}"), None).unwrap()
}

const BRIEF: &str = include_str!("../scenarios/live-brief.toml");

#[test]
fn real_agents_answer_as_the_model_says_in_the_dark_and_after_it() {
    if !can_run() {
        return;
    }
    // A fault that nothing here can carry out is named, and nobody is asked about it.
    let drift = "[[fault]]\ndo = \"clock.drift\"\nat = \"12s\"\nwho = \"1\"\n";
    let slow =
        "[[fault]]\ndo = \"link.slow\"\nby = \"+300ms\"\ndir = \"down\"\nat = \"12500ms\"\nfor = \"5s\"\nwho = \"1\"\n";
    let text = format!("{BRIEF}\n{drift}{slow}");
    let findings = played(&text);
    assert_eq!(findings.verdict(), Status::Pass, "{findings:#?}");
    assert_eq!(findings.not_applied, [("clock.drift".to_owned(), 1)].into());
    let carried_out = [("link.down", 1), ("link.slow", 1), ("process.restart", 1), ("revoke", 1)];
    assert_eq!(findings.faults, carried_out.into());
    let said: Vec<Option<&str>> = findings.requests.iter().map(|row| row.live.as_deref()).collect();
    let expected =
        ["issued", "issued", "allowed", "wrong_device", "no_right", "allowed", "revoked", "issued", "allowed"];
    assert_eq!(said, expected.map(Some), "{:#?}", findings.requests);
    assert_eq!(findings.count(Verdict::Different), 0);
    let judged = |id: &str| findings.properties.iter().any(|p| p.id == id && p.status == Status::Pass);
    assert!(["I1", "I2", "I4", "I10", "live"].into_iter().all(judged), "{:#?}", findings.properties);
}

#[test]
fn a_plan_that_would_take_too_long_is_refused_before_anything_is_started() {
    let case = Case::parse(include_str!("../scenarios/flappy-link.toml"), None).unwrap();
    let nowhere = PathBuf::from("/nonexistent/hardtack");
    let options = Options { binary: nowhere, speed: 100, settle: 2000, longest: 60_000, keep: false };
    let refused = play(&case, &options, &|_| (), None).unwrap_err();
    assert!(refused.what.contains("this plan lasts"), "{}", refused.what);
}
