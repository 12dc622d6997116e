//! `hardtack fleet revoke … --wait`: until the devices have it.
//!
//! Owns: how long is waited and for whom, what is told meanwhile and at the end.
//! Never: believes anybody but the devices; `../../fleet/convergence.rs` says who has what.
//! Read next: `../../fleet/convergence.rs`.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use serde_json::{json, Value};

use super::super::output::tell;
use super::super::{Exit, Failure};
use super::{now, Fleet};
use crate::fleet::book::Rule;
use crate::fleet::convergence::{head_with, standings, Standing};
use crate::fleet::publish;
use crate::shell::clock;
use crate::shell::fleet_lock::Taken;
use crate::shell::serve::publisher_of;
use crate::time::Timestamp;

/// How often the ledger is asked whether somebody else wrote: one read of its header.
const POLL: Duration = Duration::from_millis(100);

/// How a wait ended.
pub(super) struct Waited {
    /// For scripts: `head` and `era` (of the head that holds the rule, or null), `publisher` (whether one ran), `complete`, `have`
    /// (ids), `missing` (of those in reach, and `unreachable`: each with `device`, `applied`, `seen`, `silent_s`).
    pub(super) value: Value,
    /// For people.
    pub(super) text: String,
    pub(super) exit: Exit,
}

/// Waits until every device in reach has applied a head that holds the rule.
pub(super) fn wait(fleet: &mut Fleet, rule: &Rule, timeout: Duration) -> Result<Waited, Failure> {
    let deadline = clock::now().boottime.0.saturating_add(super::millis(timeout).0);
    let mut bar = Bar::new();
    let (mut head, mut told) = (None, false);
    loop {
        fleet.ledger.refresh()?;
        let (book, at) = (fleet.ledger.book(), now()?);
        head = head.or_else(|| head_with(book, rule));
        if head.is_none() && !told {
            told = tell_who_signs(fleet)?;
        }
        let standings = standings(fleet.ledger.book(), at);
        let has = |standing: &&Standing| head.is_some_and(|head| standing.has(head));
        let have = standings.iter().filter(has).count();
        let settled = standings.iter().filter(|standing| standing.is_reachable()).all(|standing| has(&standing));
        if (head.is_some() && settled) || clock::now().boottime.0 >= deadline {
            bar.clear();
            return Ok(ended(head, &standings, at, publisher_of(&fleet.ledger).map_err(super::file_failure)?));
        }
        bar.show(have, standings.len());
        std::thread::sleep(POLL);
    }
}

/// Says at once if no head can be expected. Whether it had to.
fn tell_who_signs(fleet: &Fleet) -> Result<bool, Failure> {
    if let Err(error) = publish::may_start(fleet.ledger.book()) {
        tell(&format!("no head is signed: {error}"));
        return Ok(true);
    }
    let free = publisher_of(&fleet.ledger).map_err(super::file_failure)? == Taken::Free;
    if free {
        tell(
            "no `fleet serve` runs on this ledger: the rule is in it, but nobody signs a head and no device hears of it. \
             Start one, here: hardtack fleet serve --broker URL",
        );
    }
    Ok(free)
}

fn ended(head: Option<(u32, u64)>, standings: &[Standing], at: Timestamp, publisher: Taken) -> Waited {
    let has = |standing: &&Standing| head.is_some_and(|head| standing.has(head));
    let have: Vec<&Standing> = standings.iter().filter(has).collect();
    let (missing, unreachable): (Vec<&Standing>, Vec<&Standing>) =
        standings.iter().filter(|standing| !has(standing)).partition(|standing| standing.is_reachable());
    let complete = head.is_some() && have.len() == standings.len();
    let of = |standings: &[&Standing]| standings.iter().map(|standing| told(standing, at)).collect::<Vec<_>>();
    let value = json!({
        "head": head.map(|(_, seq)| seq),
        "era": head.map(|(era, _)| era),
        "publisher": publisher != Taken::Free,
        "complete": complete,
        "have": have.iter().map(|standing| &standing.device).collect::<Vec<_>>(),
        "missing": of(&missing),
        "unreachable": of(&unreachable),
    });
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match head {
        Some((_, head)) => {
            writeln!(text, "head {head} holds it: {} of {} devices have it", have.len(), standings.len())
        }
        None => writeln!(text, "no head holds it yet: none of {} devices has it", standings.len()),
    };
    for standing in &have {
        let _ = writeln!(text, "  has it      {}", standing.device);
    }
    for standing in &missing {
        let _ = writeln!(text, "  not yet     {} last heard {}", standing.device, ago(standing, at));
    }
    for standing in &unreachable {
        let _ = writeln!(text, "  unreachable {} last heard {}", standing.device, ago(standing, at));
    }
    Waited { value, text, exit: if complete { Exit::Done } else { Exit::Partial } }
}

/// A device's standing, for scripts: `device`, `applied` and `era` (of a head), `behind` (heads), `seen` (its last sign of life),
/// `silent_s` (how long ago that was), `reachable`, `unreachable_since`.
pub(super) fn told(standing: &Standing, at: Timestamp) -> Value {
    json!({
        "device": standing.device,
        "applied": standing.applied.map(|(_, seq)| seq),
        "era": standing.applied.map(|(era, _)| era),
        "behind": standing.behind,
        "seen": standing.heard.map(|heard| heard.to_string()),
        "silent_s": standing.heard.map(|heard| at.since(heard).secs()),
        "reachable": standing.is_reachable(),
        "unreachable_since": standing.unreachable.map(|since| since.to_string()),
    })
}

/// How long ago a device was heard of, for people.
pub(super) fn ago(standing: &Standing, at: Timestamp) -> String {
    let heard = standing.heard.map(|heard| Duration::from_secs(at.since(heard).secs()));
    heard.map_or_else(|| "never".into(), |silent| format!("{} ago", humantime::format_duration(silent)))
}

/// One line on a terminal that is written over.
struct Bar {
    terminal: bool,
    shown: String,
}

impl Bar {
    const WIDTH: usize = 24;

    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), shown: String::new() }
    }

    fn show(&mut self, have: usize, all: usize) {
        if !self.terminal {
            return;
        }
        let filled = (have * Self::WIDTH).checked_div(all).unwrap_or(0);
        let line = format!("[{:<width$}] {have} of {all} devices have it", "#".repeat(filled), width = Self::WIDTH);
        if line != self.shown {
            // A terminal that is gone is no reason to stop.
            let _ = write!(std::io::stderr().lock(), "\r{line}");
            self.shown = line;
        }
    }

    fn clear(&mut self) {
        if !self.shown.is_empty() {
            let _ = write!(std::io::stderr().lock(), "\r{:width$}\r", "", width = self.shown.len());
        }
    }
}
