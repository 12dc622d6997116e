//! `hardtack fleet init`: a fleet in a folder.
//!
//! Owns: the order in which the folder is filled: keys before what they sign, the ledger last.
//! Never: replaces anything that is there.
//! Read next: `../../fleet/enrol.rs`.

use std::path::{Path, PathBuf};

use clap::{value_parser, Args};
use serde_json::json;

use super::super::output::show;
use super::super::{Exit, Failure};
use super::key::root_count;
use super::{now, Session};
use crate::fleet::enrol::{found, Founding};
use crate::fleet::roots::check_shape;
use crate::fleet::{Effects, FleetKeys};
use crate::ids::{FeedId, FleetId};
use crate::shell::entropy;
use crate::shell::fleet_dir::{FleetDir, FleetToml};
use crate::shell::fleet_keys::{ask, Asking, KeyFolder};
use crate::shell::ledger::Ledger;
use crate::shell::mqtt::BrokerUrl;
use crate::wire::bundle::{BrokerPins, ROOTS_MAX};

/// Arguments of `hardtack fleet init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    /// The folder to make; --dir names it as well
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// The fleet's name, part of every signature
    #[arg(long)]
    name: FleetId,
    /// Address of a broker that devices are told of, may be repeated
    #[arg(long, value_name = "URL")]
    broker: Vec<BrokerUrl>,
    /// Name of the revocation feed
    #[arg(long, value_name = "NAME", default_value = "main")]
    feed: FeedId,
    /// How many root keys there are: files that can be moved to other machines and media
    #[arg(long, value_name = "N", default_value = "1", value_parser = root_count)]
    roots: usize,
    /// How many of them must sign a trust bundle [default: more than half]
    #[arg(long, value_name = "K", value_parser = value_parser!(u8).range(1..=ROOTS_MAX as i64))]
    threshold: Option<u8>,
    /// Store the private keys without encryption, for tests
    #[arg(long)]
    no_passphrase: bool,
}

pub(super) fn run(args: &InitArgs, session: &Session) -> Result<Exit, Failure> {
    let (at, folder) = (now()?, folder(args.folder.as_deref(), session.named.as_deref())?);
    let threshold = args.threshold.unwrap_or(u8::try_from(args.roots / 2 + 1).unwrap_or(u8::MAX));
    check_shape(args.roots, threshold)?;
    let passphrase = if args.no_passphrase { None } else { Some(ask(Asking::Choose)?) };
    let keys = FleetKeys::generate_with((args.roots, threshold), &mut entropy::rng())?;
    let dir = FleetDir::create(folder, FleetToml::new(args.name.clone(), &args.broker))?;
    KeyFolder::of(dir.path()).create(&keys, &args.name, passphrase.as_ref())?;
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
        "roots": args.roots,
        "threshold": threshold,
    });
    let elsewhere = match args.roots {
        1 => String::new(),
        roots => format!(
            "{} of the {roots} root keys keys/root.1.key to keys/root.{roots}.key must sign: move each to where it is to be kept\n",
            threshold
        ),
    };
    show(session.format, &value, |_| {
        format!(
            "fleet {} in {folder}\nfingerprint {fingerprint}\n{elsewhere}\
             next: hardtack broker config --dir {folder}, then hardtack fleet serve --dir {folder} --broker URL\n\
             devices: hardtack enrol request on the device, hardtack fleet device approve here",
            args.name
        )
    })?;
    Ok(Exit::Done)
}

/// A folder that need not be there, however it is written.
fn place(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.canonicalize().unwrap_or(absolute)
}

/// A new fleet goes where somebody said, and not into whatever folder the shell happens to be in.
fn folder<'a>(argument: Option<&'a Path>, named: Option<&'a Path>) -> Result<&'a Path, Failure> {
    match (argument, named) {
        (Some(argument), Some(named)) if place(argument) != place(named) => {
            let what = format!(
                "two folders are named: {} and, by --dir or its variable, {}",
                argument.display(),
                named.display()
            );
            let advice =
                "name one: leave DIR out, or set HARDTACK_FLEET_DIR to the new folder, which the commands that come \
                          after this go by as well";
            Err(Failure::new(Exit::Usage, what, advice))
        }
        (Some(folder), _) | (None, Some(folder)) => Ok(folder),
        (None, None) => {
            let advice = "name it: `hardtack fleet init DIR`, or --dir DIR, or HARDTACK_FLEET_DIR";
            Err(Failure::new(Exit::Usage, "no folder is named for the new fleet", advice))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_folder_is_named_once() {
        let (a, b) = (Path::new("a"), Path::new("b"));
        assert_eq!(folder(Some(a), None).unwrap(), a);
        assert_eq!(folder(None, Some(b)).unwrap(), b);
        assert_eq!(folder(Some(a), Some(a)).unwrap(), a);
        let spelt = std::env::current_dir().unwrap().join("./a/");
        assert_eq!(folder(Some(a), Some(&spelt)).unwrap(), a, "another way to write the same");
        assert_eq!(folder(Some(a), Some(b)).unwrap_err().exit, Exit::Usage);
        assert_eq!(folder(None, None).unwrap_err().exit, Exit::Usage);
    }
}
