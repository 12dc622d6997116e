//! `hardtack fleet key list`: every key that the fleet has, or has had.
//!
//! Owns: since which trust bundle each is named, whether it is in use, kept or gone, and whether its file is here.
//! Never: opens a key's file; so which key is in it is not told.
//! Read next: `../../../shell/fleet_keys.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::{json, Value};

use super::super::super::output::show;
use super::super::super::{Exit, Failure};
use super::super::{Fleet, Session};
use super::proposal::key_role;
use crate::ids::{hex, KeyId};
use crate::shell::fleet_keys::{is_encrypted, Role};
use crate::wire::bundle::{EmergencyKey, TrustBundle};

/// A key in the history of the trust bundles.
struct Named {
    since: u64,
    until: Option<u64>,
}

pub(super) fn list(session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let trusts = fleet.ledger.book().trusts();
    let trust = fleet.ledger.book().trust();
    let mut keys: Vec<Value> = Role::ALL.into_iter().flat_map(|role| of_role(&fleet, trusts, role)).collect();
    keys.extend(emergency(&fleet, trusts));
    let fingerprint = trusts.first().unwrap_or(trust).fingerprint().to_string();
    let value = json!({
        "fleet": trust.fleet, "fingerprint": fingerprint, "bundle_version": trust.version,
        "threshold": trust.threshold, "roots": trust.roots.len(),
        "not_after": trust.not_after.to_string(), "keys": keys,
    });
    show(session.format, &value, |_| {
        let mut text = format!("fleet {}\nfingerprint {fingerprint}\ntrust bundle {}\n", trust.fleet, trust.version);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} of {} root keys must sign", trust.threshold, trust.roots.len());
        for key in &keys {
            let word = |name: &str| key[name].as_str().unwrap_or_default();
            let role = match (key["number"].as_u64(), key["name"].as_str()) {
                (Some(number), _) => format!("root {number}"),
                (None, Some(name)) => format!("emergency of {name}"),
                (None, None) => word("role").to_owned(),
            };
            let until = key["until"].as_u64().map(|until| format!(", until {until}")).unwrap_or_default();
            let (state, file) = (word("state"), word("file"));
            let (id, public, since) = (word("key_id"), word("public"), &key["since"]);
            let _ = writeln!(text, "{role:9} {id} {public} {state:6} since bundle {since}{until} (file {file})");
        }
        text
    })?;
    Ok(Exit::Done)
}

/// The keys of a role, those of now first.
fn of_role(fleet: &Fleet, trusts: &[TrustBundle], role: Role) -> Vec<Value> {
    let public = |trust: &TrustBundle| match key_role(role) {
        Some(role) => role.keys(trust),
        None => trust.roots.iter().map(|key| *key.as_bytes()).collect(),
    };
    let now: Vec<[u8; 32]> = trusts.last().map(public).unwrap_or_default();
    let mut named: BTreeMap<[u8; 32], Named> = BTreeMap::new();
    for trust in trusts {
        let keys = public(trust);
        for key in &keys {
            named.entry(*key).or_insert(Named { since: trust.version, until: None }).until = None;
        }
        for (_, gone) in named.iter_mut().filter(|(key, gone)| !keys.contains(key) && gone.until.is_none()) {
            gone.until = Some(trust.version);
        }
    }
    let mut gone: Vec<(&[u8; 32], u64)> = named.iter().filter_map(|(key, known)| Some((key, known.until?))).collect();
    gone.sort_by_key(|(_, until)| std::cmp::Reverse(*until));
    let all = now.iter().chain(gone.into_iter().map(|(key, _)| key));
    let values = all.enumerate().map(|(place, key)| {
        let id = KeyId::of(key);
        let is_now = place < now.len();
        let in_use = is_now && (role == Role::Root || place == 0);
        let path = match role {
            _ if !in_use => fleet.keys.aside(role, &id),
            Role::Root => fleet.keys.root_file(place + 1, now.len()),
            Role::Collector
            | Role::Emergency
            | Role::Feed
            | Role::Issuer
            | Role::Operator
            | Role::Policy
            | Role::Service => fleet.keys.file(role),
        };
        let numbers = trusts.iter().flat_map(|trust| &trust.issuers);
        let number = numbers.filter(|issuer| issuer.key.as_bytes() == key).map(|issuer| issuer.root_key_id).next();
        let known = named.get(key);
        json!({
            "role": role,
            "key_id": id,
            "public": hex(key),
            "number": (role == Role::Root && is_now).then_some(place + 1),
            "root_key_id": number.filter(|_| role == Role::Issuer),
            "since": known.map(|known| known.since),
            "until": known.and_then(|known| known.until),
            "state": if in_use { "in_use" } else if is_now { "kept" } else { "gone" },
            "file": file(&path),
        })
    });
    values.collect()
}

/// The keys of single operators.
fn emergency(fleet: &Fleet, trusts: &[TrustBundle]) -> Vec<Value> {
    let mut all: Vec<(&EmergencyKey, Named)> = Vec::new();
    for trust in trusts {
        for key in &trust.emergency {
            if !all.iter().any(|(known, _)| *known == key) {
                all.push((key, Named { since: trust.version, until: None }));
            }
        }
        for (_, gone) in all.iter_mut().filter(|(key, gone)| !trust.emergency.contains(key) && gone.until.is_none()) {
            gone.until = Some(trust.version);
        }
    }
    let value = |(key, named): &(&EmergencyKey, Named)| {
        let state = if named.until.is_none() { "in_use" } else { "gone" };
        let path = match named.until {
            None => fleet.keys.emergency_file(&key.operator),
            Some(_) => fleet.keys.retired_emergency(key.id()),
        };
        json!({
            "role": Role::Emergency,
            "name": key.operator,
            "key_id": key.id(),
            "public": hex(key.key.as_bytes()),
            "since": named.since,
            "until": named.until,
            "state": state,
            "file": file(&path),
        })
    };
    all.iter().map(value).collect()
}

/// A key that is kept elsewhere has no file here.
fn file(path: &Path) -> &'static str {
    match is_encrypted(path) {
        Ok(true) => "encrypted",
        Ok(false) => "plain",
        Err(_) if path.exists() => "unreadable",
        Err(_) => "not here",
    }
}
