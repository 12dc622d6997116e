//! `hardtack fleet identity`.
//!
//! Owns: the arguments, reading a key set, what is shown of issuers.
//! Never: fetches anything: a key set is a file that somebody looked at.
//! Read next: `../../fleet/identity.rs`; `key/proposal.rs`, by which a trust bundle comes into force.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{json, Value};

use super::super::output::{show, tell, visible};
use super::super::{Exit, Failure};
use super::key::proposal::{put, Outcome, RootArgs};
use super::serve::placed;
use super::{now, unread, Session};
use crate::fleet::identity::{draft, Change};
use crate::fleet::rotate::Cause;
use crate::shell::files;
use crate::wire::identity::{read_key_set, IdentityIssuer, KEY_SET_BYTES_MAX};

/// `hardtack fleet identity …`.
#[derive(Subcommand, Debug)]
pub enum IdentityCommand {
    /// Have devices believe an issuer of identity documents, by its keys; what was said of it before is replaced
    Add(AddArgs),
    /// Show the issuers with their audiences and keys
    List,
    /// Have devices believe an issuer no more
    Remove {
        /// The issuer
        #[arg(long, value_name = "URL|TRUST DOMAIN")]
        issuer: String,
        #[command(flatten)]
        at_hand: RootArgs,
    },
}

/// Arguments of `hardtack fleet identity add`.
#[derive(Args, Debug)]
pub struct AddArgs {
    /// The issuer of an OpenID provider exactly as its tokens say it, https://…; or a SPIFFE trust domain, spiffe://NAME
    #[arg(long, value_name = "URL|TRUST DOMAIN")]
    issuer: String,
    /// For whom its documents must be. May be repeated
    #[arg(long = "audience", value_name = "TEXT", required = true)]
    audiences: Vec<String>,
    /// Its public keys, as its `jwks_uri` or SPIFFE bundle has them. To rotate one, bring both, the old and the new
    #[arg(long, value_name = "FILE")]
    jwks: PathBuf,
    #[command(flatten)]
    at_hand: RootArgs,
}

pub(super) fn run(command: IdentityCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        IdentityCommand::Add(args) => {
            let bytes = files::read_bounded(&args.jwks, KEY_SET_BYTES_MAX)
                .map_err(|error| unread(error, "name the file with the issuer's key set with --jwks"))?;
            let set = read_key_set(&bytes).map_err(|why| {
                let what = format!("{}: {why}", args.jwks.display());
                Failure::new(Exit::Invalid, what, "fetch it again from where the issuer publishes it")
            })?;
            for left_out in &set.left_out {
                tell(&format!("left out: {}", visible(left_out)));
            }
            let issuer = IdentityIssuer { name: args.issuer, audiences: args.audiences, keys: set.keys };
            carry_out(&Change::Put(issuer), &args.at_hand, session)
        }
        IdentityCommand::List => list(session),
        IdentityCommand::Remove { issuer, at_hand } => carry_out(&Change::Remove(issuer), &at_hand, session),
    }
}

fn carry_out(wanted: &Change, at_hand: &RootArgs, session: &Session) -> Result<Exit, Failure> {
    let (mut fleet, at) = (session.open()?, now()?);
    let before = fleet.ledger.book().trust().version;
    if let Some(next) = draft(fleet.ledger.book(), wanted, at)? {
        if let Outcome::Asked(asked) = put(&mut fleet, &next, Cause::Planned, at_hand, at)? {
            return asked.tell(session);
        }
    }
    let trust = fleet.ledger.book().trust();
    let bundle = trust.version;
    let issuers: Vec<Value> = trust.identities.iter().map(described).collect();
    let value = json!({"in_force": true, "bundle_version": bundle, "changed": bundle != before, "issuers": issuers});
    show(session.format, &value, |_| {
        let text = match bundle == before {
            true => format!("so it is already, by trust bundle {before}"),
            false => format!("trust bundle {bundle} says so"),
        };
        let how = "`fleet serve` brings it to the devices; without one: `hardtack fleet publish --broker URL`";
        placed(&format!("{text}\n{how}"), session)
    })?;
    Ok(Exit::Done)
}

fn described(issuer: &IdentityIssuer) -> Value {
    let keys = issuer.keys.iter();
    let keys = keys.map(|key| json!({"kid": key.kid, "algorithm": key.key.algorithm(), "digest": key.digest()}));
    json!({
        "issuer": issuer.name,
        "type": issuer.document_type(),
        "audiences": issuer.audiences,
        "keys": keys.collect::<Vec<_>>(),
    })
}

fn list(session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let trust = fleet.ledger.book().trust();
    let issuers: Vec<Value> = trust.identities.iter().map(described).collect();
    let value = json!({"bundle_version": trust.version, "issuers": issuers});
    show(session.format, &value, |_| {
        let lines = trust.identities.iter().flat_map(|issuer| {
            let name = format!("{}  for {}", issuer.name, issuer.audiences.join(", "));
            let keys = issuer.keys.iter().map(|key| format!("  key {}", key.words()));
            std::iter::once(name).chain(keys)
        });
        match trust.identities.is_empty() {
            true => "no issuers: hardtack fleet identity add --issuer URL --audience TEXT --jwks FILE".into(),
            false => visible(&lines.collect::<Vec<_>>().join("\n")),
        }
    })?;
    Ok(Exit::Done)
}
