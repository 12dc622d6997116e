//! `hardtack fleet key add emergency` and `hardtack fleet key remove emergency`.
//!
//! Owns: the arguments; the order: the key's file and all of a kit that can fail, then the trust bundle that names it, then the
//! end of the copy in the fleet's folder, then the kit's numbers and its label.
//! Never: prints a private key; deletes one.
//! Read next: `../../fleet/emergency.rs`; `../../shell/emergency/kit.rs`; `../../shell/fleet_keys/emergency.rs`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ed25519_dalek::SigningKey;
use serde_json::{json, Value};

use super::super::output::{show, tell};
use super::super::{Exit, Failure};
use super::key::copy;
use super::key::proposal::{put, Outcome, RootArgs};
use super::serve::in_folder;
use super::{now, Fleet, Session};
use crate::fleet::emergency::{before, check_name, draft_added, draft_removed, Progress};
use crate::fleet::rotate::Cause;
use crate::ids::{hex, KeyId};
use crate::shell::emergency::kit::{Contents, Kit, Prepared};
use crate::shell::entropy;
use crate::shell::fleet_keys::Role;
use crate::shell::fleet_lock::Taken;
use crate::shell::place::Place;
use crate::shell::serve::publisher_of;
use crate::wire::bundle::PublicKey;

/// `hardtack fleet key add …`.
#[derive(Subcommand, Debug)]
pub enum AddKey {
    /// A key with which one operator may revoke for 72 h at most, whatever becomes of the service and the feed key
    Emergency(Named),
}

/// `hardtack fleet key remove …`.
#[derive(Subcommand, Debug)]
pub enum RemoveKey {
    /// An operator's emergency key: nothing new of it is taken, and what it revoked holds until its end
    Emergency(Removed),
}

/// Whose key.
#[derive(Args, Debug)]
pub struct Named {
    /// Who has it: letters, digits and `. _ @ -`
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Put the key into a folder of its own, with all that its operator needs in an emergency and nothing else: to be handed
    /// to him. The fleet's folder keeps no copy of the key
    #[arg(long, value_name = "DIR")]
    kit: Option<PathBuf>,
    #[command(flatten)]
    at_hand: RootArgs,
}

/// Whose key goes, and why.
#[derive(Args, Debug)]
pub struct Removed {
    /// Who has it
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Somebody else may have it
    #[arg(long)]
    compromised: bool,
    #[command(flatten)]
    at_hand: RootArgs,
}

/// Whatever an earlier call was interrupted by, the same command ends it.
pub(super) fn add(command: &AddKey, session: &Session) -> Result<Exit, Failure> {
    let AddKey::Emergency(Named { name, kit, at_hand }) = command;
    let at = now()?;
    check_name(name)?;
    let mut fleet = session.open()?;
    fleet.operator_key()?;
    let named = fleet.ledger.book().trust().emergency.iter().find(|known| known.operator == *name).cloned();
    let key = match (kit, &named) {
        (Some(dir), _) => key_of_kit(&mut fleet, name, dir, named.is_some())?,
        // It is there from before, here or with him alone: no other is made.
        (None, Some(_)) => {
            let here = fleet.keys.emergency(name);
            here.map_err(|error| if error.is_missing() { elsewhere(&fleet, name) } else { error.into() })?
        }
        (None, None) => fleet.keys.make_emergency(name, &mut entropy::rng())?,
    };
    let public = PublicKey::from(key.verifying_key());
    let id = KeyId::of(public.as_bytes());
    let began_before = named.is_some_and(|known| known.id() == id);
    let prepared = kit.as_ref().map(|dir| prepare(&fleet, id, dir)).transpose()?;
    if !began_before {
        let next = draft_added(fleet.ledger.book(), name, &public, at)?;
        if let Outcome::Asked(asked) = put(&mut fleet, &next, Cause::Planned, at_hand, at)? {
            let exit = asked.tell(session)?;
            if let Some(dir) = kit {
                tell(&format!("then this same command again: it completes the kit {}", dir.display()));
            }
            return Ok(exit);
        }
    }
    let file = match prepared {
        Some(prepared) => {
            // Before the kit is complete, so that there is never a moment at which both can sign.
            fleet.keys.give_away_emergency(name, &key)?;
            let kit = complete(&mut fleet, name, id, prepared)?;
            kit.path().join("emergency.key")
        }
        None => fleet.keys.emergency_file(name),
    };
    let value = json!({
        "role": Role::Emergency,
        "name": name,
        "key_id": id,
        "public": hex(public.as_bytes()),
        "bundle_version": fleet.ledger.book().trust().version,
        "file": file.display().to_string(),
        // The folder that is to be handed to him.
        "kit": kit.as_ref().map(|dir| dir.display().to_string()),
        // Whether the trust bundle was made by an earlier call.
        "began_before": began_before,
        "serving": serving(&fleet)?,
    });
    let (folder, brokers) =
        (in_folder(session), fleet.ledger.book().trust().broker.urls.len() + fleet.dir.toml().brokers.len());
    show(session.format, &value, |value| {
        let unknown = match value["kit"].is_string() && brokers == 0 {
            true => {
                "neither fleet.toml nor the trust bundle names a broker: whoever uses the kit has to say --broker URL\n"
            }
            false => "",
        };
        format!(
            "emergency key {id} of {name} is named by trust bundle {}\nits file is {}\n{}{unknown}{}",
            value["bundle_version"],
            value["file"].as_str().unwrap_or_default(),
            value["kit"].as_str().map_or(String::new(), |dir| handed(name, dir, &folder)),
            brought(value, &folder)
        )
    })?;
    Ok(Exit::Done)
}

/// The key in the file of a kit that is begun.
fn key_of_kit(fleet: &mut Fleet, name: &str, dir: &Path, named: bool) -> Result<SigningKey, Failure> {
    let file = Kit::begin(dir, fleet.ledger.book().trust(), name)?;
    // A second key under his name would be none of the trust bundle's, and a second kit would sign numbers twice.
    if named && !file.exists() && !fleet.keys.emergency_file(name).exists() {
        return Err(elsewhere(fleet, name));
    }
    Ok(fleet.keys.hand_emergency(name, &file, &mut entropy::rng())?)
}

fn elsewhere(fleet: &Fleet, name: &str) -> Failure {
    let what = format!("the emergency key of {name} is in the kit that was made for {name}, and not in this folder");
    let advice = format!(
        "if that is lost, take the key away and give another: hardtack fleet key remove emergency{} --name {name} --compromised",
        Place::named(fleet.dir.path()).argument()
    );
    Failure::new(Exit::Failure, what, advice)
}

fn prepare(fleet: &Fleet, id: KeyId, dir: &Path) -> Result<Prepared, Failure> {
    let identity = || Ok(fleet.dir.broker().emergency_identity(id, &mut entropy::rng())?);
    Ok(Kit::prepare(dir, fleet.ledger.book().bundles(), identity)?)
}

fn complete(fleet: &mut Fleet, name: &str, id: KeyId, prepared: Prepared) -> Result<Kit, Failure> {
    // As the ledger is now: another command may have signed with the copy that is gone.
    let (before, newest) = fleet
        .act(|book, _, _| Ok((before(book, id), book.emergency(id).map(|known| known.newest.statement.clone()))))?;
    let book = fleet.ledger.book();
    let fingerprint = book.trusts().first().map(|first| first.fingerprint());
    let contents = Contents {
        fingerprint: fingerprint.unwrap_or_else(|| book.trust().fingerprint()),
        operator: name,
        key: id,
        brokers: &fleet.dir.toml().brokers,
        bundles: book.bundles(),
        progress: Progress::new(id, before, newest),
    };
    Ok(prepared.complete(&contents)?)
}

fn handed(name: &str, dir: &str, folder: &str) -> String {
    format!(
        "{dir} is all that {name} needs, and the only place of the key: move it to {name}'s machine, mode 0700, and keep no copy\n\
         {name} revokes there with: hardtack fleet emergency device ID --reason TEXT --dir {dir}\n\
         a passphrase of its own, if it has the fleet's: hardtack fleet key passphrase emergency {dir}/emergency.key\n\
         the broker lets {name} in once `fleet serve` has told it, or after `hardtack broker config{folder}`\n"
    )
}

pub(super) fn remove(command: &RemoveKey, session: &Session) -> Result<Exit, Failure> {
    let RemoveKey::Emergency(Removed { name, compromised, at_hand }) = command;
    let at = now()?;
    check_name(name)?;
    let mut fleet = session.open()?;
    let cause = if *compromised { Cause::Compromised } else { Cause::Planned };
    let (next, id) = draft_removed(fleet.ledger.book(), name, at)?;
    let kept = match put(&mut fleet, &next, cause, at_hand, at)? {
        Outcome::Asked(asked) => return asked.tell(session),
        Outcome::InForce(in_force) => in_force.kept,
    };
    let bundle = next.version;
    let value = json!({
        "role": Role::Emergency,
        "name": name,
        "key_id": id,
        "bundle_version": bundle,
        "compromised": compromised,
        "old_file": kept.first().map(|path| path.display().to_string()),
        "serving": serving(&fleet)?,
    });
    show(session.format, &value, |value| {
        format!(
            "emergency key {id} of {name} is named no more from trust bundle {bundle} on: devices that hear of it take \
             nothing new of it, and what it revoked holds until its end, 72 h at most\n{}",
            brought(value, &in_folder(session))
        )
    })?;
    Ok(Exit::Done)
}

fn serving(fleet: &Fleet) -> Result<Option<String>, Failure> {
    Ok(match publisher_of(&fleet.ledger).map_err(super::file_failure)? {
        Taken::Free => None,
        Taken::By(process) => Some(process),
    })
}

fn brought(value: &Value, folder: &str) -> String {
    let next = match value["serving"].as_str() {
        Some(process) => format!("process {process} publishes that bundle at once"),
        None => {
            format!("no `fleet serve` runs: start one, or bring it out: hardtack fleet publish{folder} --broker URL")
        }
    };
    format!("{next}\n{}", copy(folder))
}
