//! `hardtack fleet key sign`: on a machine that has nothing but a root key and a proposal.
//!
//! Owns: that whoever signs has seen what, and that his key signs for its own fleet only.
//! Never: opens a fleet's folder; signs without a yes.
//! Read next: `../../../wire/proposal.rs`.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::super::output::{show, tell};
use super::super::super::{Exit, Failure};
use super::super::{file_failure, Session};
use super::proposal::{quorums, read, tell_words};
use crate::fleet::proposal::words;
use crate::ids::KeyId;
use crate::shell::files;
use crate::shell::root_keys::read_root;
use crate::wire::bundle::{Fingerprint, PublicKey};

/// Arguments of `hardtack fleet key sign`.
#[derive(Args, Debug)]
pub struct SignArgs {
    /// The proposal
    #[arg(value_name = "PROPOSAL")]
    file: PathBuf,
    /// The root key's file
    #[arg(long, value_name = "KEYFILE")]
    root: PathBuf,
    /// Where the signed proposal goes [default: into its own file]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The fleet's fingerprint, where the key's file does not hold it
    #[arg(long, value_name = "FINGERPRINT")]
    fleet: Option<Fingerprint>,
    /// Sign without asking, for scripts
    #[arg(long)]
    yes: bool,
}

pub(super) fn sign(args: &SignArgs, session: &Session) -> Result<Exit, Failure> {
    let mut proposal = read(&args.file)?;
    let refuse = |what: String, advice: &str| Failure::new(Exit::Invalid, what, advice);
    let opened = proposal.open().map_err(|refused| {
        refuse(format!("the proposal does not hold together: {refused}"), "sign nothing; have it made again")
    })?;
    let root = read_root(&args.root)?;
    let fleet = match (root.fleet, args.fleet) {
        (Some(own), Some(named)) if own != named => {
            let what = format!("the key in {} is for the fleet {own}, not {named}", args.root.display());
            return Err(refuse(what, "compare the fingerprints"));
        }
        (Some(fleet), _) | (None, Some(fleet)) => fleet,
        (None, None) => {
            let what = format!("{} does not say for which fleet its key is", args.root.display());
            return Err(Failure::new(Exit::Usage, what, "name the fleet's fingerprint: --fleet FINGERPRINT"));
        }
    };
    if opened.fingerprint != fleet {
        let what =
            format!("the proposal is made for another fleet: {}, and the key is for {fleet}", opened.fingerprint);
        return Err(refuse(what, "sign nothing"));
    }
    let key = PublicKey::from(root.key.verifying_key());
    let id = KeyId::of(key.as_bytes());
    let Some((bundle, number)) = opened.root_number(&key) else {
        let what = format!("the key {id} is no root key of trust bundle {} any more", opened.before.version);
        return Err(Failure::new(Exit::Denied, what, "have somebody sign whose key is named"));
    };
    if !args.yes {
        tell_words(&opened);
        tell(&format!("this key: root key {number} of trust bundle {bundle} ({id})"));
        confirm()?;
    }
    proposal.countersign(&opened.before.fleet, &root.key);
    let signed = proposal.open().map_err(|refused| refuse(format!("it cannot be signed: {refused}"), ""))?;
    let out = args.out.as_ref().unwrap_or(&args.file);
    files::replace(out, &proposal.to_bytes()).map_err(file_failure)?;
    let value = json!({
        "file": out,
        "key_id": id,
        "root": number,
        "words": words(&signed),
        "quorums": quorums(&signed),
        "complete": signed.is_complete(),
    });
    show(session.format, &value, |_| {
        let mut lines = vec![format!("signed with root key {number} ({id}): {}", out.display())];
        lines.extend(signed.quorums().iter().map(ToString::to_string));
        lines.push(match signed.is_complete() {
            true => "that is enough; where the fleet's folder is: hardtack fleet key submit FILE".to_owned(),
            false => "give it, or a copy of it, to the next one".to_owned(),
        });
        lines.join("\n")
    })?;
    Ok(Exit::Done)
}

/// Asks for a yes on the terminal.
fn confirm() -> Result<(), Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        let what = "nobody is here to say whether this is to be signed";
        return Err(Failure::new(Exit::Usage, what, "run this on a terminal, or pass --yes"));
    }
    tell("sign this? yes or no:");
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    read.map_err(|error| Failure::new(Exit::Failure, format!("the terminal gives no answer: {error}"), ""))?;
    match line.trim() {
        "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Denied, "nothing was signed", "")),
    }
}
