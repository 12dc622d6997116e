//! What becomes of a test that cannot run here. Each crate with such tests has this file as a module.

use std::process::Command;

/// Set by `tests/run`, which has put everything in place: whatever cannot run there is a failure.
const COMPLETE: &str = "HARDTACK_TESTS_COMPLETE";

/// A test cannot run on this machine. Elsewhere than in `tests/run` that is only said.
#[track_caller]
pub(crate) fn cannot_run(why: &str) {
    assert!(std::env::var_os(COMPLETE).is_none(), "{why}");
    println!("SKIPPED: {why}");
}

/// A test of this program that needs a tool passes where that is missing, except where the run is to be complete.
#[track_caller]
pub(crate) fn check_needs_a_tool(test: &str) {
    let run = |complete: &[&str]| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env("PATH", "/nonexistent").env_remove(COMPLETE);
        let output = command.envs(complete.iter().map(|name| (name, "1"))).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).contains("SKIPPED: ");
        (output.status.success(), said)
    };
    assert_eq!(run(&[]), (true, true), "{test} is only skipped");
    assert_eq!(run(&[COMPLETE]), (false, false), "{test} fails");
}
