//! `hardtack fleet key`: the fleet's keys, as far as anybody may see them, and their replacement.
//!
//! Owns: what is shown; the order of a replacement: the new key's file, then the trust bundle that names it, then its place.
//! Never: prints a private key; deletes one.
//! Read next: `../../fleet/rotate.rs`; `../../shell/fleet_keys.rs`.

use std::fmt::Write as _;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::super::output;
use super::super::{Exit, Failure};
use super::emergency_key::{AddKey, RemoveKey};
use super::{now, operator, Session};
use crate::fleet::rotate::{is_in_use, next_root_key_id, rotate, Cause, KeyRole, Rotation};
use crate::ids::{hex, KeyId};
use crate::shell::entropy;
use crate::shell::fleet_keys::Role;
use crate::shell::fleet_lock::Taken;
use crate::shell::serve::publisher_of;
use crate::wire::bundle::PublicKey;

/// `hardtack fleet key …`.
#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Give an operator a key of his own
    #[command(subcommand)]
    Add(AddKey),
    /// Take an operator's own key away
    #[command(subcommand)]
    Remove(RemoveKey),
    /// Replace a key by a new one, with a trust bundle that the root key signs
    Rotate(RotateArgs),
    /// Show fingerprint and public keys
    Show,
}

/// Arguments of `hardtack fleet key rotate`.
#[derive(Args, Debug)]
pub struct RotateArgs {
    /// Which key
    role: Rotatable,
    /// Somebody else may have it: what it signs is believed no more once devices hear of it. Without this it stays good until
    /// the next replacement
    #[arg(long)]
    compromised: bool,
}

/// The keys that can be replaced.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rotatable {
    /// Signs revocation heads
    Feed,
    /// Mints tokens
    Issuer,
    /// Signs policies
    Policy,
    /// Signs acknowledgements and answers
    Service,
}

impl Rotatable {
    const fn roles(self) -> (Role, KeyRole) {
        match self {
            Self::Feed => (Role::Feed, KeyRole::Feed),
            Self::Issuer => (Role::Issuer, KeyRole::Issuer),
            Self::Policy => (Role::Policy, KeyRole::Policy),
            Self::Service => (Role::Service, KeyRole::Service),
        }
    }
}

/// Whatever a replacement was interrupted by, the same command ends it.
pub(super) fn rotate_key(args: &RotateArgs, session: &Session) -> Result<Exit, Failure> {
    let ((role, key_role), at) = (args.role.roles(), now()?);
    let mut fleet = session.open()?;
    let root = fleet.keys.signing(Role::Root)?;
    let (name, operator_key) = (fleet.operator.clone(), fleet.operator_key()?);
    let root_key_id = (key_role == KeyRole::Issuer).then(|| next_root_key_id(fleet.ledger.book()));
    let key = fleet.keys.next(role, root_key_id, &mut entropy::rng())?;
    let public = PublicKey::from(key.verifying_key());
    let cause = if args.compromised { Cause::Compromised } else { Cause::Planned };
    let began_before = is_in_use(fleet.ledger.book().trust(), key_role, &public);
    let (mut dropped, mut withdrawn) = (Vec::new(), Vec::new());
    if !began_before {
        let rotation = Rotation { role: key_role, key: &key, cause, root: &root };
        let cadence = fleet.dir.toml().settings().cadence;
        let rotated =
            fleet.act(|book, _, fx| rotate(book, rotation, cadence, operator(&name, &operator_key), at, fx))?;
        (dropped, withdrawn) = (rotated.dropped, rotated.withdrawn);
    }
    let aside = fleet.keys.adopt(role)?;
    let trust = fleet.ledger.book().trust();
    let serving = match publisher_of(&fleet.ledger).map_err(super::file_failure)? {
        Taken::Free => None,
        Taken::By(process) => Some(process),
    };
    let value = json!({
        "role": role,
        "key_id": KeyId::of(public.as_bytes()),
        "bundle_version": trust.version,
        "feed_era": fleet.ledger.book().era_of_feed(),
        "compromised": args.compromised,
        // Whether the trust bundle was made by an earlier call, which was interrupted.
        "began_before": began_before,
        // Keys of the role that devices believe no more, and grants that ended with them.
        "dropped": dropped,
        "withdrawn": withdrawn,
        "old_file": aside.map(|path| path.display().to_string()),
        // The process that publishes, and has the old key until it is started again.
        "restart": serving,
    });
    output::show(session.format, &value, |value| words(value, &withdrawn.len()))?;
    Ok(Exit::Done)
}

fn words(value: &serde_json::Value, withdrawn: &usize) -> String {
    let word = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let (role, bundle) = (word("role"), &value["bundle_version"]);
    let mut text = format!("{role} key {} is in use by trust bundle {bundle}\n", word("key_id"));
    // Writing to a string cannot fail.
    let _ = match value["compromised"] == true {
        true => writeln!(text, "the one before is believed no more wherever that bundle arrives"),
        false => writeln!(text, "the one before stays good until the next replacement"),
    };
    if value["began_before"] == true {
        let _ = writeln!(text, "the replacement had begun before and is ended now: nothing else was replaced");
    }
    if let Some(file) = value["old_file"].as_str() {
        let _ = writeln!(text, "its file is kept as {file}");
    }
    if *withdrawn > 0 {
        let _ = writeln!(text, "{withdrawn} grants ended with it: give them anew (`hardtack fleet grant create`)");
    }
    match value["restart"].as_str() {
        Some(process) if role != "policy" => {
            let _ = writeln!(text, "process {process} publishes with the key that it began with: start it again now");
        }
        Some(_) => {}
        None => {
            text.push_str("no `fleet serve` runs: start one, or bring it out: hardtack fleet publish --broker URL\n")
        }
    }
    text.push_str("make a copy of the ledger now: hardtack fleet backup");
    text
}

pub(super) fn show(session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let trust = fleet.ledger.book().trust();
    let mut keys = Vec::new();
    let mut add = |role: Role, key: &PublicKey, root_key_id: Option<u32>| {
        // A key that is kept elsewhere has no file here.
        let file = match fleet.keys.is_encrypted(role) {
            Ok(true) => "encrypted",
            Ok(false) => "plain",
            Err(_) => "not here",
        };
        let id = KeyId::of(key.as_bytes());
        keys.push(json!({
            "role": role, "key_id": id, "public": hex(key.as_bytes()), "root_key_id": root_key_id, "file": file,
        }));
    };
    trust.roots.iter().for_each(|key| add(Role::Root, key, None));
    trust.issuers.iter().for_each(|issuer| add(Role::Issuer, &issuer.key, Some(issuer.root_key_id)));
    trust.policy.iter().for_each(|key| add(Role::Policy, key, None));
    trust.feeds.iter().flat_map(|feed| &feed.keys).for_each(|key| add(Role::Feed, key, None));
    trust.service.iter().for_each(|key| add(Role::Service, key, None));
    trust.operators.iter().for_each(|key| add(Role::Operator, key, None));
    for key in &trust.emergency {
        let file = match fleet.keys.is_emergency_encrypted(&key.operator) {
            Ok(true) => "encrypted",
            Ok(false) => "plain",
            Err(_) => "not here",
        };
        keys.push(json!({
            "role": Role::Emergency, "key_id": key.id(), "public": hex(key.key.as_bytes()), "file": file,
            "name": key.operator,
        }));
    }
    let fingerprint = trust.fingerprint().to_string();
    let value = json!({
        "fleet": trust.fleet, "fingerprint": fingerprint, "bundle_version": trust.version,
        "not_after": trust.not_after.to_string(), "keys": keys,
    });
    output::show(session.format, &value, |_| {
        let mut text = format!("fleet {}\nfingerprint {fingerprint}\ntrust bundle {}\n", trust.fleet, trust.version);
        for key in &keys {
            let word = |name: &str| key[name].as_str().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:9} {} {} ({})", word("role"), word("key_id"), word("public"), word("file"));
        }
        text
    })?;
    Ok(Exit::Done)
}
