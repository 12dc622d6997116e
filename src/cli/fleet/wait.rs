//! `hardtack fleet revoke … --wait`: until the devices have it.
//!
//! Owns: how long is waited and for whom, what is told meanwhile and at the end.
//! Never: believes anybody but the devices; `../../fleet/convergence.rs` says who has what.
//! Read next: `../../fleet/convergence.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use serde_json::{json, Value};

use super::super::output::tell;
use super::super::{Exit, Failure};
use super::{now, Fleet};
use crate::fleet::book::Rule;
use crate::fleet::convergence::{heads_with, standings, Standing};
use crate::fleet::{publish, Book};
use crate::ids::FeedId;
use crate::shell::clock;
use crate::shell::fleet_lock::Taken;
use crate::shell::place::Place;
use crate::shell::serve::publisher_of;
use crate::time::Timestamp;
use crate::wire::link::State;

/// How often the ledger is asked whether somebody else wrote: one read of its header.
const POLL: Duration = Duration::from_millis(100);

/// How a wait ended.
pub(super) struct Waited {
    /// For scripts: `heads` (for each feed to which the rule belongs, `feed`, `head` and `era` of the head that holds it, or
    /// null), `head` and `era` of the first of them, `publisher` (whether one ran), `stalled` (what that does not do and what to
    /// do about it, or null), `complete` (never where there is no such feed), `have` (ids), `missing` (of
    /// those in reach, and `unreachable`: each as [`told`] says). Devices of other feeds
    /// need not have it and are not told.
    pub(super) value: Value,
    /// For people.
    pub(super) text: String,
    pub(super) exit: Exit,
}

/// Waits until every device in reach has applied a head that holds the rule.
pub(super) fn wait(fleet: &mut Fleet, rule: &Rule, timeout: Duration) -> Result<Waited, Failure> {
    let deadline = clock::now().boottime.0.saturating_add(super::millis(timeout).0);
    let mut bar = Bar::new();
    let (mut heads, mut told, mut stands) = (Heads::new(), false, None);
    loop {
        fleet.ledger.refresh()?;
        let (book, at) = (fleet.ledger.book(), now()?);
        for (feed, head) in heads_with(book, rule) {
            // The first that held it counts: a device that has that one need not have the next.
            let known = heads.entry(feed).or_default();
            *known = known.or(head);
        }
        if !is_signed(&heads) && !told {
            told = tell_who_signs(fleet)?;
        }
        let stalled = stalled(fleet)?;
        if let Some(why) = stalled.as_ref().filter(|_| stalled != stands) {
            bar.clear();
            tell(why);
        }
        stands = stalled;
        let standings = of_feeds(fleet.ledger.book(), rule, at);
        let has = |standing: &&Standing| has(&heads, standing);
        let have = standings.iter().filter(has).count();
        let settled = standings.iter().filter(|standing| standing.is_reachable()).all(|standing| has(&standing));
        if (is_signed(&heads) && settled) || clock::now().boottime.0 >= deadline {
            bar.clear();
            let publisher = publisher_of(&fleet.ledger).map_err(super::file_failure)?;
            return Ok(ended(&heads, &standings, at, (publisher, stands)));
        }
        bar.show(have, standings.len());
        std::thread::sleep(POLL);
    }
}

/// Says at once if no head can be expected. Whether it had to.
fn tell_who_signs(fleet: &Fleet) -> Result<bool, Failure> {
    let place = Place::named(fleet.dir.path());
    if let Err(error) = publish::may_start(fleet.ledger.book()) {
        tell(&place.put_into(&format!("no head is signed: {error}")));
        return Ok(true);
    }
    let free = publisher_of(&fleet.ledger).map_err(super::file_failure)? == Taken::Free;
    if free {
        tell(&format!(
            "no `fleet serve` runs on this ledger: the rule is in it, but nobody signs a head and no device hears of it. \
             Start one, here: hardtack fleet serve{} --broker URL",
            place.argument()
        ));
    }
    Ok(free)
}

/// What the process that publishes does not do, because a key with which it began was replaced. Nobody else sees that: it is
/// there, and the broker has heads.
pub(super) fn stalled(fleet: &Fleet) -> Result<Option<String>, Failure> {
    let Taken::By(process) = publisher_of(&fleet.ledger).map_err(super::file_failure)? else { return Ok(None) };
    let (book, bundle) = (fleet.ledger.book(), fleet.ledger.book().trust().version);
    let undone: Vec<String> = publish::replaced(book).iter().filter_map(|key| key.stalled(bundle)).collect();
    Ok((!undone.is_empty()).then(|| format!("process {process} publishes from this ledger, but {}", undone.join("; "))))
}

fn ended(
    heads: &Heads,
    standings: &[Standing],
    at: Timestamp,
    (publisher, stalled): (Taken, Option<String>),
) -> Waited {
    let has = |standing: &&Standing| has(heads, standing);
    let have: Vec<&Standing> = standings.iter().filter(has).collect();
    let (missing, unreachable): (Vec<&Standing>, Vec<&Standing>) =
        standings.iter().filter(|standing| !has(standing)).partition(|standing| standing.is_reachable());
    // What goes into no feed nobody hears of, and nobody has.
    let complete = !heads.is_empty() && is_signed(heads) && have.len() == standings.len();
    let of = |standings: &[&Standing]| standings.iter().map(|standing| told(standing, at)).collect::<Vec<_>>();
    let head = heads.values().next().copied().flatten();
    let value = json!({
        "heads": heads.iter().map(|(feed, head)| json!({
            "feed": feed,
            "head": head.map(|(_, seq)| seq),
            "era": head.map(|(era, _)| era),
        })).collect::<Vec<_>>(),
        "head": head.map(|(_, seq)| seq),
        "era": head.map(|(era, _)| era),
        "publisher": publisher != Taken::Free,
        "stalled": stalled,
        "complete": complete,
        "have": have.iter().map(|standing| &standing.device).collect::<Vec<_>>(),
        "missing": of(&missing),
        "unreachable": of(&unreachable),
    });
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (feed, head) in heads {
        let _ = match head {
            Some((_, head)) => writeln!(text, "head {head} of feed {feed} holds it"),
            None => writeln!(text, "no head of feed {feed} holds it yet"),
        };
    }
    if let Some(stalled) = &stalled {
        let _ = writeln!(text, "{stalled}");
    }
    if !heads.is_empty() {
        let _ = writeln!(text, "{} of {} devices have it", have.len(), standings.len());
    }
    for standing in &have {
        let _ = writeln!(text, "  has it      {}", standing.device);
    }
    for standing in &missing {
        let _ = writeln!(text, "  not yet     {} last heard {}", standing.device, ago(standing, at));
    }
    for standing in &unreachable {
        let _ =
            writeln!(text, "  unreachable {} {}last heard {}", standing.device, left(standing, at), ago(standing, at));
    }
    Waited { value, text, exit: if complete { Exit::Done } else { Exit::Partial } }
}

/// For each feed to which a revocation belongs, the first head that held it.
type Heads = BTreeMap<FeedId, Option<(u32, u64)>>;

fn is_signed(heads: &Heads) -> bool {
    heads.values().all(Option::is_some)
}

fn has(heads: &Heads, standing: &Standing) -> bool {
    heads.get(&standing.feed).copied().flatten().is_some_and(|head| standing.has(head))
}

/// Where the devices stand whose feeds a revocation belongs to.
pub(super) fn of_feeds(book: &Book, rule: &Rule, at: Timestamp) -> Vec<Standing> {
    let feeds = book.routes().feeds(rule);
    standings(book, at).into_iter().filter(|standing| feeds.contains(&&standing.feed)).collect()
}

/// A device's standing, for scripts: `device`, `feed`, `applied` and `era` (of a head), `behind` (heads), `mode` (that it named
/// last, `gone` if it left) and `mode_age_s`, `seen` (its last sign of life), `silent_s` (how long ago that was), `reachable`,
/// `unreachable_since`.
pub(super) fn told(standing: &Standing, at: Timestamp) -> Value {
    json!({
        "device": standing.device,
        "feed": standing.feed,
        "applied": standing.applied.map(|(_, seq)| seq),
        "era": standing.applied.map(|(era, _)| era),
        "behind": standing.behind,
        "mode": standing.mode,
        "mode_age_s": standing.mode_at.map(|word| at.since(word).secs()),
        "seen": standing.heard.map(|heard| heard.to_string()),
        "silent_s": standing.heard.map(|heard| at.since(heard).secs()),
        "reachable": standing.is_reachable(),
        "unreachable_since": standing.unreachable.map(|since| since.to_string()),
    })
}

/// Since when a device is gone, where it, or its last will, has said so.
fn left(standing: &Standing, at: Timestamp) -> String {
    let gone = standing.mode_at.filter(|_| standing.mode.as_deref() == Some(State::GONE));
    gone.map_or(String::new(), |gone| format!("gone for {}, ", super::super::client::age(at.since(gone).secs())))
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
