//! The built daemon on a disk that refuses from some call on, and the same daemon on one that refuses once.
//!
//! Owns: what a program that asks sees of it, and what is on the disk afterwards.

use std::collections::BTreeSet;
use std::process::Command;

use hardtack::profile::Profile;
use hardtack::shell::store::Store;
use rustix::process::Signal;

use super::oracle::ensure;
use crate::daemon::{http_status, Device};

/// How often it is asked whether it goes on. Each question is a process.
const QUESTIONS_MAX: usize = 600;

/// Whether the disk goes on refusing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refuses {
    FromThenOn,
    Once,
}

/// A daemon whose disk gives `error` to the `call`th of `calls`.
///
/// # Errors
/// What does not hold.
pub(crate) fn check(calls: &str, error: &str, call: u32, refuses: Refuses) -> Result<(), String> {
    let device = Device::enrolled();
    let when = if refuses == Refuses::FromThenOn { format!("{call}+") } else { call.to_string() };
    let mut tracer = Command::new("strace");
    // Detached, so that the agent is this process's child and hears its signals.
    tracer.args(["-D", "-f", "-qq", "-e", &format!("trace={calls}"), "-o", "/dev/null"]);
    tracer.args(["-e", &format!("inject={calls}:error={error}:when={when}"), env!("CARGO_BIN_EXE_hardtack")]);
    let mut daemon = Device::start_by(device.command_of(tracer, &["agent", "run"]));
    let token = device.begin();
    let mut told = BTreeSet::new();
    let mut refused = None;
    for _ in 0..200 {
        let (code, decision) = device.authorize(&token, "read");
        match (code, decision["decision_id"].as_str()) {
            (Some(0), Some(id)) => ensure!(told.insert(id.to_owned()), "{id} is told twice"),
            other => {
                refused = Some(other.0);
                break;
            }
        }
    }
    ensure!(refused == Some(Some(9)), "refused with {refused:?} after {} decisions", told.len());
    daemon.wait_for("store.failed");
    let socket = device.path("run/agent.sock");
    match refuses {
        Refuses::FromThenOn => {
            let (ready, healthy) = (http_status(&socket, "/readyz"), http_status(&socket, "/healthz"));
            ensure!((ready, healthy) == (503, 200), "ready {ready}, healthy {healthy}");
            ensure!(device.authorize(&token, "read").0 == Some(9), "it decides without a disk");
        }
        Refuses::Once => {
            daemon.wait_for("store.reopened");
            // strace counts each thread's calls, so that another thread's may find the disk full again, and the store is
            // opened once more, after a wait that is longer than a few questions take.
            let mut answers = (0..QUESTIONS_MAX).map(|_| device.authorize(&token, "read"));
            let answer = answers.find(|(code, _)| *code != Some(9));
            let Some((Some(0), decision)) = answer else { return Err(format!("it does not go on: {answer:?}")) };
            told.extend(decision["decision_id"].as_str().map(str::to_owned));
        }
    }
    daemon.signal(Signal::KILL);
    drop(daemon);
    // Once the disk takes writes again, a start goes on.
    let daemon = device.start();
    let (code, decision) = device.authorize(&token, "read");
    ensure!(code == Some(0), "after a start: {decision}");
    told.extend(decision["decision_id"].as_str().map(str::to_owned));
    daemon.stop();
    let (_store, recovered) =
        Store::open(&device.path("state"), &Profile::default().queue).map_err(|error| error.to_string())?;
    for id in &told {
        let mut parts = id.rsplit('/').map(|part| part.parse::<u64>().unwrap_or(u64::MAX));
        let (index, era) = (parts.next(), parts.next());
        let image = recovered.eras.iter().find(|image| Some(image.id.number) == era);
        let held = image.is_some_and(|image| {
            let open = image.records.iter().any(|record| Some(record.index) == index);
            image.damage.is_none() && (index.is_some_and(|index| index < image.closed_index) || open)
        });
        ensure!(held, "{id} was told and is not on the disk");
    }
    Ok(())
}
