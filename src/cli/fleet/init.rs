//! `hardtack fleet init`: a fleet in a folder.
//!
//! Owns: the order in which the folder is filled: keys before what they sign, the ledger last.
//! Never: replaces anything that is there.
//! Read next: `../../fleet/enrol.rs`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::super::output::show;
use super::super::{Exit, Failure};
use super::{now, Session};
use crate::fleet::enrol::{found, Founding};
use crate::fleet::{Effects, FleetKeys};
use crate::ids::{FeedId, FleetId};
use crate::shell::entropy;
use crate::shell::fleet_dir::{FleetDir, FleetToml};
use crate::shell::fleet_keys::{ask, Asking, KeyFolder};
use crate::shell::ledger::Ledger;
use crate::shell::mqtt::BrokerUrl;
use crate::wire::bundle::BrokerPins;

/// Arguments of `hardtack fleet init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    /// The folder to make
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The fleet's name, part of every signature
    #[arg(long)]
    name: FleetId,
    /// Address of a broker that devices are told of, may be repeated
    #[arg(long, value_name = "URL")]
    broker: Vec<BrokerUrl>,
    /// Name of the revocation feed
    #[arg(long, value_name = "NAME", default_value = "main")]
    feed: FeedId,
    /// Store the private keys without encryption, for tests
    #[arg(long)]
    no_passphrase: bool,
}

pub(super) fn run(args: &InitArgs, session: &Session) -> Result<Exit, Failure> {
    let at = now()?;
    let passphrase = if args.no_passphrase { None } else { Some(ask(Asking::Choose)?) };
    let keys = FleetKeys::generate(&mut entropy::rng());
    let dir = FleetDir::create(&args.folder, FleetToml::new(args.name.clone(), &args.broker))?;
    KeyFolder::of(dir.path()).create(&keys, passphrase.as_ref())?;
    let authority = dir.broker().make_authority()?;
    let founding = Founding {
        fleet: args.name.clone(),
        feed: args.feed.clone(),
        broker: BrokerPins {
            urls: args.broker.iter().map(BrokerUrl::to_string).collect(),
            authorities: vec![authority.der().to_vec()],
        },
        keys: &keys,
        operator: &session.operator(),
        at,
        cadence: dir.toml().settings().cadence,
    };
    let mut fx = Effects::default();
    let book = found(&founding, &mut fx)?;
    fx.commit(|writes| Ledger::create(&dir.ledger(), &writes))?;
    let fingerprint = book.trust().fingerprint().to_string();
    let folder = dir.path().display().to_string();
    let value = json!({
        "fleet": args.name,
        "dir": folder,
        "fingerprint": fingerprint,
        "encrypted": passphrase.is_some(),
    });
    show(session.format, &value, |_| {
        format!(
            "fleet {} in {folder}\nfingerprint {fingerprint}\n\
             next: hardtack broker config --dir {folder}, then hardtack fleet serve --dir {folder} --broker URL\n\
             devices: hardtack enrol request on the device, hardtack fleet device approve here",
            args.name
        )
    })?;
    Ok(Exit::Done)
}
