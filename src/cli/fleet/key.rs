//! `hardtack fleet key`: the fleet's keys, as far as anybody may see them, and their replacement.
//!
//! Owns: the order of a replacement: the new key's file, then the trust bundle that names it, then its place.
//! Never: prints a private key; deletes one.
//! Read next: `key/proposal.rs`, by which every trust bundle comes into force; `../../fleet/rotate.rs`;
//! `../../shell/fleet_keys.rs`.

mod list;
pub(super) mod proposal;
mod roots;
mod sign;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::json;

use self::proposal::{InForce, Outcome, RootArgs};
use super::super::output;
use super::super::{Exit, Failure};
use super::emergency_key::{self, AddKey, RemoveKey};
use super::serve::in_folder;
use super::{now, Fleet, Session};
use crate::fleet::restore;
use crate::fleet::rotate::{draft, is_in_use, next_root_key_id, Cause, KeyRole, NewKey};
use crate::ids::KeyId;
use crate::shell::entropy;
use crate::shell::fleet_keys::{change_passphrase, Role};
use crate::shell::fleet_lock::Taken;
use crate::shell::serve::publisher_of;
use crate::wire::bundle::ROOTS_MAX;

/// `hardtack fleet key …`.
#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Give an operator a key of his own
    #[command(subcommand)]
    Add(AddKey),
    /// Show every key: its id, since when it is named, whether it is in use, and whether its file is here
    #[command(alias = "show")]
    List,
    /// Give a key file another passphrase
    Passphrase(PassphraseArgs),
    /// Take an operator's own key away
    #[command(subcommand)]
    Remove(RemoveKey),
    /// Change how many root keys there are, and how many of them must sign
    Roots(roots::RootsArgs),
    /// Replace a key by a new one, with a trust bundle that the root keys sign
    Rotate(RotateArgs),
    /// Sign a proposal with a root key, on any machine
    Sign(sign::SignArgs),
    /// Bring into force what enough root keys have signed
    Submit(proposal::SubmitArgs),
}

pub(super) fn run(command: KeyCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        KeyCommand::Add(key) => emergency_key::add(&key, session),
        KeyCommand::List => list::list(session),
        KeyCommand::Passphrase(args) => passphrase(&args, session),
        KeyCommand::Remove(key) => emergency_key::remove(&key, session),
        KeyCommand::Roots(args) => roots::roots(&args, session),
        KeyCommand::Rotate(args) => rotate_key(&args, session),
        KeyCommand::Sign(args) => sign::sign(&args, session),
        KeyCommand::Submit(args) => proposal::submit(&args, session),
    }
}

/// Arguments of `hardtack fleet key passphrase`.
#[derive(Args, Debug)]
pub struct PassphraseArgs {
    /// What the key is for
    role: Role,
    /// Its file
    file: PathBuf,
}

fn passphrase(args: &PassphraseArgs, session: &Session) -> Result<Exit, Failure> {
    change_passphrase(&args.file, args.role)?;
    let value = json!({"file": args.file, "role": args.role});
    output::show(session.format, &value, |_| format!("{} has the new passphrase", args.file.display()))?;
    Ok(Exit::Done)
}

/// Arguments of `hardtack fleet key rotate`.
#[derive(Args, Debug)]
pub struct RotateArgs {
    /// Which key
    role: Role,
    /// Which of the root keys, where there are several
    #[arg(value_name = "N", value_parser = root_count)]
    number: Option<usize>,
    /// Somebody else may have it: what it signs is believed no more once devices hear of it. Without this it stays good until
    /// the next replacement, but for a root key and the collector's, which go at once
    #[arg(long)]
    compromised: bool,
    #[command(flatten)]
    at_hand: RootArgs,
}

/// How many root keys a fleet has.
pub(super) fn root_count(argument: &str) -> Result<usize, String> {
    let number = argument.parse().ok().filter(|number| (1..=ROOTS_MAX).contains(number));
    number.ok_or_else(|| format!("a fleet has 1 to {ROOTS_MAX} root keys"))
}

/// The file's role of a trust bundle's.
const fn role_of(role: KeyRole) -> Role {
    match role {
        KeyRole::Feed => Role::Feed,
        KeyRole::Issuer => Role::Issuer,
        KeyRole::Policy => Role::Policy,
        KeyRole::Service => Role::Service,
        KeyRole::Operator => Role::Operator,
        KeyRole::Collector => Role::Collector,
    }
}

/// Whatever a replacement was interrupted by, the same command ends it.
fn rotate_key(args: &RotateArgs, session: &Session) -> Result<Exit, Failure> {
    let cause = if args.compromised { Cause::Compromised } else { Cause::Planned };
    let role = args.role;
    if role == Role::Emergency {
        let what = "an emergency key is one operator's, and is not replaced in its place";
        let advice = "take it away with `hardtack fleet key remove emergency --name NAME`, then give him another";
        return Err(Failure::new(Exit::Usage, what, advice));
    }
    let Some(key_role) = proposal::key_role(role) else {
        return roots::rotate_root(args.number.unwrap_or(1), cause, &args.at_hand, session);
    };
    if args.number.is_some() {
        let what = format!("the {} key has no number", role.name());
        return Err(Failure::new(Exit::Usage, what, "numbers are for root keys"));
    }
    let at = now()?;
    let mut fleet = session.open()?;
    fleet.operator_key()?;
    args.at_hand.check()?;
    let root_key_id = (key_role == KeyRole::Issuer).then(|| next_root_key_id(fleet.ledger.book()));
    let private = fleet.keys.next(role, root_key_id, &mut entropy::rng())?;
    let public = NewKey::of(key_role, &private).public();
    let began_before = is_in_use(fleet.ledger.book().trust(), key_role, &public);
    let (mut dropped, mut withdrawn) = (Vec::new(), Vec::new());
    let kept = if began_before {
        proposal::adopt(&mut fleet)?
    } else {
        check_known(&mut fleet, role, key_role).map_err(|failure| waits(failure, &fleet.keys.waiting_for(role)))?;
        let next = draft(fleet.ledger.book(), key_role, &public, cause, at)?;
        let put = proposal::put(&mut fleet, &next, cause, &args.at_hand, at);
        match put.map_err(|failure| waits(failure, &fleet.keys.waiting_for(role)))? {
            Outcome::Asked(asked) => return asked.tell(session),
            Outcome::InForce(InForce { rotated, kept }) => {
                (dropped, withdrawn) = (rotated.dropped, rotated.withdrawn);
                kept
            }
        }
    };
    let trust = fleet.ledger.book().trust();
    let value = json!({
        "in_force": true,
        "role": role,
        "key_id": KeyId::of(&public),
        "bundle_version": trust.version,
        "feed_era": fleet.ledger.book().first().era(),
        "compromised": args.compromised,
        // Whether the trust bundle was made by an earlier call, which was interrupted.
        "began_before": began_before,
        // Keys of the role that devices believe no more, and grants that ended with them.
        "dropped": dropped,
        "withdrawn": withdrawn,
        "old_file": kept.first().map(|path| path.display().to_string()),
        // The process that publishes, and has the old key until it is started again.
        "restart": serving(&fleet)?,
    });
    let folder = in_folder(session);
    output::show(session.format, &value, |value| words(value, key_role, withdrawn.len(), &folder))?;
    Ok(Exit::Done)
}

/// A key that the ledger does not know is newer than the ledger, or was replaced long ago: of the first, another trust bundle
/// of the same number would come that devices have already.
fn check_known(fleet: &mut Fleet, role: Role, key_role: KeyRole) -> Result<(), Failure> {
    restore::may_follow(fleet.ledger.book())?;
    let Some(private) = fleet.keys.here(role)? else { return Ok(()) };
    let trust = fleet.ledger.book().trust();
    if key_role.keys(trust).contains(&NewKey::of(key_role, &private).public()) {
        return Ok(());
    }
    let (file, version) = (fleet.keys.file(role), trust.version);
    let what = format!(
        "{} holds none of the {} keys of trust bundle {version}: nothing is replaced",
        file.display(),
        role.name()
    );
    let advice =
        "if the ledger is an old copy, `hardtack fleet publish --broker URL` takes in the trust bundles that it \
                  lacks; if it is that key which is old, move its file away and try again";
    Err(Failure::new(Exit::Failure, what, advice))
}

/// Why a new key did not come into force, and what became of it.
fn waits(failure: Failure, file: &Path) -> Failure {
    let stays = format!("the new key waits in {}, and the same command goes on with it", file.display());
    let advice = if failure.advice.is_empty() { stays } else { format!("{}; {stays}", failure.advice) };
    Failure { advice, ..failure }
}

/// The process that publishes from this ledger.
fn serving(fleet: &Fleet) -> Result<Option<String>, Failure> {
    match publisher_of(&fleet.ledger).map_err(super::file_failure)? {
        Taken::Free => Ok(None),
        Taken::By(process) => Ok(Some(process)),
    }
}

fn words(value: &serde_json::Value, role: KeyRole, withdrawn: usize, folder: &str) -> String {
    let word = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let (name, bundle) = (role.name(), &value["bundle_version"]);
    let mut lines = vec![format!("{name} key {} is in use by trust bundle {bundle}", word("key_id"))];
    lines.push(match (role, value["compromised"] == true) {
        (KeyRole::Collector, _) => "what was sealed to the one before is opened with its file, which stays here".into(),
        (_, true) => "the one before is believed no more wherever that bundle arrives".into(),
        (_, false) => "the one before stays good until the next replacement".into(),
    });
    if value["began_before"] == true {
        lines.push("the replacement had begun before and is ended now: nothing else was replaced".into());
    }
    if let Some(file) = value["old_file"].as_str() {
        lines.push(format!("its file is kept as {file}"));
    }
    match role {
        // Nobody who serves has these.
        KeyRole::Policy | KeyRole::Operator | KeyRole::Collector => lines.extend(after(None, withdrawn, folder)),
        KeyRole::Feed | KeyRole::Issuer | KeyRole::Service => {
            lines.extend(after(value["restart"].as_str(), withdrawn, folder));
        }
    }
    lines.join("\n")
}

/// Says how the ledger is copied, after what must not be lost. `folder` as in [`after`].
pub(super) fn copy(folder: &str) -> String {
    format!("make a copy of the ledger now: hardtack fleet backup{folder} --out FILE")
}

/// What is to be done once a trust bundle is in force. `folder` is the argument that names the fleet's folder, if it has to be
/// named.
fn after(restart: Option<&str>, withdrawn: usize, folder: &str) -> Vec<String> {
    let mut lines = Vec::new();
    if withdrawn > 0 {
        lines.push(format!("{withdrawn} grants ended with it: give them anew (`hardtack fleet grant create{folder}`)"));
    }
    lines.push(match restart {
        Some(process) => format!("process {process} publishes with the keys that it began with: start it again now"),
        None => {
            format!("if no `fleet serve` runs, start one, or bring it out: hardtack fleet publish{folder} --broker URL")
        }
    });
    lines.push(copy(folder));
    lines
}
