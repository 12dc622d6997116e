//! What must hold of a device that starts on whatever a cut has left, compared with what people had been told.
//!
//! Owns: the checks after a power cut, in which nothing that was told is missing, and nothing is counted as lost.
//! Never: looks at the store's files: it starts the real device on them, twice, and lets it deliver to the real collector.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use hardtack::agent::request::{Mode, Verdict};
use hardtack::shell::keys::DeviceKeyFile;
use hardtack::shell::store::Event;
use hardtack::time::{Millis, Timestamp};

use super::disk::{Entry, Tree};
use super::gateway::{enrol, Gateway, Power};
use super::headquarters::{device_keys, Headquarters, START};
use super::story::{Stand, Told};

/// When power is back: later than anything in the story.
const BACK: Timestamp = Timestamp(START.0 + 8_000_000);

/// Puts a tree on a real disk, in place of what is there.
pub(crate) fn lay_out(tree: &Tree, at: &Path) {
    let _ = fs::remove_dir_all(at);
    fs::create_dir(at).unwrap();
    tree.0.iter().for_each(|(path, entry)| put(entry, &at.join(path)));
}

/// Puts a file or a folder where none is.
pub(crate) fn put(entry: &Entry, path: &Path) {
    let mode = match entry {
        Entry::Dir => {
            fs::create_dir(path).unwrap();
            0o700
        }
        Entry::File(content) => {
            fs::write(path, content.as_slice()).unwrap();
            0o600
        }
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

macro_rules! ensure {
    ($holds:expr, $($said:tt)+) => {
        if !$holds {
            return Err(format!($($said)+));
        }
    };
}
pub(crate) use ensure;

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Power is cut with `state` on the disk, when people had been told `told`, and the fleet stood as `fleet` does.
///
/// # Errors
/// What does not hold.
pub(crate) fn after_a_cut(state: &Path, told: &Told, fleet: &Headquarters) -> Result<(), String> {
    let mut fleet = fleet.fork();
    let power = Power { boot: 2, on_at: BACK };
    let at = |secs: u64| BACK + Millis::from_secs(5 + secs);
    if !told.enrolled {
        // Whoever saw no end of it does it again, and loses nothing by that.
        enrol_again(state, told, &mut fleet)?;
    }
    let mut taken = told.decisions.clone();
    let mut first = Gateway::start(state, power, at(10), 101).map_err(|error| format!("first start: {error}"))?;
    check_start(&first, "first start")?;
    let stand = check_stand(&mut first, told)?;
    check_tokens(&mut first, told, &mut taken)?;
    drop(first);
    let mut second = Gateway::start(state, power, at(100), 102).map_err(|error| format!("second start: {error}"))?;
    check_start(&second, "second start")?;
    let again = Stand::of(&second.status().map_err(words)?);
    check_monotone(&stand, &again, "second start")?;
    check_tokens(&mut second, told, &mut taken)?;
    second.deliver(&mut fleet, &mut |_, _| {}).map_err(|error| format!("delivering: {error}"))?;
    drop(second);
    check_held(&fleet, &taken)?;
    // It goes on as if nothing had been.
    let third = Gateway::start(state, power, at(2000), 103).map_err(|error| format!("third start: {error}"))?;
    check_start(&third, "third start")
}

fn enrol_again(state: &Path, told: &Told, fleet: &mut Headquarters) -> Result<(), String> {
    if told.fleet > 0 {
        let file = DeviceKeyFile::read(state).map_err(|error| format!("keys that were shown are gone: {error}"))?;
        ensure!(file.keys.to_bytes() == device_keys().to_bytes(), "other keys than were shown");
        if file.used.is_some() {
            // All of it is there, only nobody was told.
            return Ok(());
        }
    }
    enrol(state, fleet, START, |_| {}).map_err(|error| format!("enrolling again: {error}"))
}

/// An ordinary power cut is nothing to tell but a torn slot of the anchor.
fn check_start(gateway: &Gateway, when: &str) -> Result<(), String> {
    let odd: Vec<&Event> = gateway.events.iter().filter(|event| !matches!(event, Event::SlotUnusable { .. })).collect();
    ensure!(odd.is_empty(), "{when}: {odd:?}");
    let damaged: Vec<_> = gateway.eras.iter().filter_map(|era| Some((era.id.number, era.damage.as_ref()?))).collect();
    ensure!(damaged.is_empty(), "{when}: {damaged:?}");
    ensure!(gateway.mode() != Mode::Locked, "{when}: locked");
    Ok(())
}

fn check_stand(gateway: &mut Gateway, told: &Told) -> Result<Stand, String> {
    let status = gateway.status().map_err(words)?;
    let stand = Stand::of(&status);
    if let Some(before) = &told.stand {
        check_monotone(before, &stand, "first start")?;
    }
    Ok(stand)
}

fn check_monotone(before: &Stand, after: &Stand, when: &str) -> Result<(), String> {
    ensure!(
        after.feed_seq >= before.feed_seq
            && after.bundle_version >= before.bundle_version
            && after.policy_version >= before.policy_version,
        "{when}: {after:?} after {before:?}"
    );
    for (grant, uses) in &before.uses_left {
        let left = after.uses_left.get(grant);
        ensure!(left.is_some_and(|left| left <= uses), "{when}: grant {grant} has {left:?} uses, it had {uses}");
    }
    Ok(())
}

/// Credentials that were handed out are good, those of finished and revoked tasks are not, and no number is used twice.
fn check_tokens(gateway: &mut Gateway, told: &Told, taken: &mut BTreeMap<(u64, u64), bool>) -> Result<(), String> {
    let last = told.tasks.iter().filter(|(task, _)| told.finished.contains(*task) || told.revoked.contains(*task));
    let ended = last.map(|(task, token)| (task, token, Verdict::Deny));
    let begun = told.lasting.iter().map(|(task, token)| (task, token, Verdict::Allow));
    for (task, token, expected) in ended.chain(begun) {
        let replies = gateway.decide(token, 1).map_err(words)?;
        let [reply] = &replies[..] else { return Err(format!("no decision for {task}")) };
        ensure!(reply.decision == expected, "{task}: {:?}, {}", reply.reason, reply.explain);
        let number = (reply.audit.era, reply.audit.index);
        ensure!(taken.insert(number, expected == Verdict::Allow).is_none(), "{number:?} is used twice");
    }
    Ok(())
}

/// Every decision that anybody heard is at the collector as it was heard, or it was a denial that was given up for want of
/// room and counted. Nothing else is counted as lost.
fn check_held(fleet: &Headquarters, heard: &BTreeMap<(u64, u64), bool>) -> Result<(), String> {
    let held = fleet.held();
    let report = &held.report;
    ensure!(report.problems.is_empty() && report.forks == 0, "the chain: {report:?}");
    let most: u64 = held.given_up.iter().map(|(_, first, end)| end - first).sum();
    ensure!(report.missing == 0 && report.lost <= most && held.gaps.is_empty(), "{:?}, {report:?}", held.gaps);
    let given_up = |(era, index): &(u64, u64)| {
        held.given_up.iter().any(|(of, first, end)| of == era && (*first..*end).contains(index))
    };
    for (number, allow) in heard {
        let found = held.records.get(number);
        let counted = found.is_none() && !allow && given_up(number);
        ensure!(counted || found == Some(&Some(*allow)), "{number:?} was told, {found:?} is held");
    }
    Ok(())
}
