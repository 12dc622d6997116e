//! `hardtack fleet key rotate root` and `hardtack fleet key roots`: the root keys themselves.
//!
//! Owns: the arguments, which new root keys are made.
//! Never: asks that a root key which is lost, or kept elsewhere, be here.
//! Read next: `../../../fleet/roots.rs`; `proposal.rs`.

use clap::{value_parser, Args};
use serde_json::json;

use super::super::super::output::show;
use super::super::super::{Exit, Failure};
use super::super::serve::in_folder;
use super::super::{now, Fleet, Session};
use super::proposal::{adopt, put, InForce, Outcome, RootArgs};
use super::{copy, waits};
use crate::fleet::roots::{check_shape, replace, reshape};
use crate::fleet::rotate::Cause;
use crate::ids::KeyId;
use crate::shell::entropy;
use crate::wire::bundle::{PublicKey, ROOTS_MAX};

/// Arguments of `hardtack fleet key roots`.
#[derive(Args, Debug)]
pub struct RootsArgs {
    /// How many root keys there are from now on
    #[arg(long, value_name = "N", value_parser = super::root_count)]
    roots: usize,
    /// How many of them must sign
    #[arg(long, value_name = "K", value_parser = value_parser!(u8).range(1..=ROOTS_MAX as i64))]
    threshold: u8,
    #[command(flatten)]
    at_hand: RootArgs,
}

pub(super) fn rotate_root(number: usize, cause: Cause, args: &RootArgs, session: &Session) -> Result<Exit, Failure> {
    let at = now()?;
    let mut fleet = session.open()?;
    let trust = fleet.ledger.book().trust().clone();
    let of = trust.roots.len();
    if !(1..=of).contains(&number) {
        let what = format!("there is no root key {number}");
        return Err(Failure::new(Exit::Usage, what, format!("name one from 1 to {of}")));
    }
    fleet.operator_key()?;
    args.check()?;
    let new = new_root(&mut fleet, number, of)?;
    if trust.roots.get(number - 1) == Some(&new) {
        return ended(&mut fleet, session);
    }
    let next = replace(fleet.ledger.book(), number, new, at)?;
    let outcome = put(&mut fleet, &next, cause, args, at);
    let outcome = outcome.map_err(|failure| waits(failure, &fleet.keys.waiting_for_root(number, of)))?;
    tell(outcome, &fleet, session)
}

pub(super) fn roots(args: &RootsArgs, session: &Session) -> Result<Exit, Failure> {
    let (at, of) = (now()?, args.roots);
    check_shape(of, args.threshold)?;
    let mut fleet = session.open()?;
    fleet.operator_key()?;
    let (known, threshold) = (fleet.ledger.book().trust().roots.len(), fleet.ledger.book().trust().threshold);
    if (known, threshold) == (of, args.threshold) {
        return ended(&mut fleet, session);
    }
    args.at_hand.check()?;
    let new = (known + 1..=of).map(|number| new_root(&mut fleet, number, of)).collect::<Result<Vec<_>, _>>()?;
    let next = reshape(fleet.ledger.book(), (of, args.threshold), &new, at)?;
    let outcome = put(&mut fleet, &next, Cause::Planned, &args.at_hand, at)?;
    tell(outcome, &fleet, session)
}

fn new_root(fleet: &mut Fleet, number: usize, of: usize) -> Result<PublicKey, Failure> {
    let fingerprint = fleet.ledger.book().trusts().first().map(|first| first.fingerprint());
    let fingerprint = fingerprint.unwrap_or_else(|| fleet.ledger.book().trust().fingerprint());
    let key = fleet.keys.next_root((number, of), fingerprint, &mut entropy::rng())?;
    Ok(key.verifying_key().into())
}

/// The trust bundle is in force: what an earlier call left undone is done.
fn ended(fleet: &mut Fleet, session: &Session) -> Result<Exit, Failure> {
    let kept = adopt(fleet)?;
    let trust = fleet.ledger.book().trust();
    let value = json!({
        "in_force": true,
        "began_before": true,
        "bundle_version": trust.version,
        "threshold": trust.threshold,
        "roots": trust.roots.iter().map(|key| KeyId::of(key.as_bytes())).collect::<Vec<_>>(),
        "old_files": kept,
    });
    let (version, threshold, of) = (trust.version, trust.threshold, trust.roots.len());
    show(session.format, &value, |_| {
        format!(
            "trust bundle {version} says so already: {threshold} of {of} root keys must sign; nothing else was changed"
        )
    })?;
    Ok(Exit::Done)
}

fn tell(outcome: Outcome, fleet: &Fleet, session: &Session) -> Result<Exit, Failure> {
    let InForce { rotated, kept } = match outcome {
        Outcome::Asked(asked) => return asked.tell(session),
        Outcome::InForce(in_force) => in_force,
    };
    let trust = fleet.ledger.book().trust();
    let (threshold, of) = (trust.threshold, trust.roots.len());
    let files: Vec<_> = (1..=of).map(|number| fleet.keys.root_file(number, of)).filter(|path| path.exists()).collect();
    let value = json!({
        "in_force": true,
        "began_before": false,
        "bundle_version": rotated.bundle,
        "threshold": threshold,
        "roots": trust.roots.iter().map(|key| KeyId::of(key.as_bytes())).collect::<Vec<_>>(),
        "dropped": rotated.dropped,
        "old_files": kept,
        "files": files,
    });
    show(session.format, &value, |_| {
        let mut lines =
            vec![format!("{threshold} of {of} root keys must sign from trust bundle {} on", rotated.bundle)];
        lines.extend(kept.iter().map(|file| format!("a root key that is one no more is kept as {}", file.display())));
        let here: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        if of > 1 && !here.is_empty() {
            lines.push(format!("root keys on this machine: {}; move them to where each is to be kept", here.join(" ")));
        }
        lines.push(copy(&in_folder(session)));
        lines.join("\n")
    })?;
    Ok(Exit::Done)
}
