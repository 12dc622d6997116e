//! `hardtack fleet key`: the fleet's keys, as far as anybody may see them.
//!
//! Owns: what is shown.
//! Never: prints a private key.
//! Read next: `../../shell/fleet_keys.rs`.

use std::fmt::Write as _;

use clap::Subcommand;
use serde_json::json;

use super::super::output;
use super::super::{Exit, Failure, Later};
use super::Session;
use crate::ids::{hex, KeyId};
use crate::shell::fleet_keys::Role;
use crate::wire::bundle::PublicKey;

/// `hardtack fleet key …`.
#[derive(Subcommand, Debug)]
pub enum KeyCommand {
    /// Replace a key (not in this version)
    Rotate(Later),
    /// Show fingerprint and public keys
    Show,
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
