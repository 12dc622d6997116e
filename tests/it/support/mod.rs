//! Servers that tests start, and what becomes of a test that cannot run.

pub(crate) mod mosquitto;
pub(crate) mod strace;

/// Set by `tests/run`, which has put everything in place: whatever cannot run there is a failure.
pub(crate) const COMPLETE: &str = "HARDTACK_TESTS_COMPLETE";

/// A test cannot run on this machine. Elsewhere than in `tests/run` that is only said.
#[track_caller]
pub(crate) fn cannot_run(why: &str) {
    assert!(std::env::var_os(COMPLETE).is_none(), "{why}");
    println!("SKIPPED: {why}");
}
