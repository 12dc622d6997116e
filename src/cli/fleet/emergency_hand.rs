//! Where an emergency key is: in the fleet's folder, or in the kit of the operator who has it.
//!
//! Owns: [`Hand`], which of the two it is, and what each of them can do.
//! Never: signs before the folder has it; prints.
//! Read next: `../../shell/emergency/kit.rs`; `../../fleet/emergency.rs`.

use std::path::Path;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use serde_json::{json, Value};

use super::super::{Exit, Failure};
use super::serve::{runtime, uplink};
use super::{Fleet, Session};
use crate::fleet::book::Book;
use crate::fleet::emergency::{before, declare, messages, statement, Heard, Order};
use crate::fleet::FleetError;
use crate::ids::KeyId;
use crate::shell::broker::service_client_id;
use crate::shell::emergency::kit::{Kit, KitError, Learnt};
use crate::shell::emergency::publish;
use crate::shell::entropy;
use crate::shell::fleet_lock::Lock;
use crate::shell::mqtt::{BrokerUrl, LinkConfig};
use crate::shell::x509::{emergency_name, SERVICE_NAME};
use crate::time::Timestamp;
use crate::wire::bundle::TrustBundle;
use crate::wire::envelope::Signed;
use crate::wire::revocation::emergency::{Declared, Emergency};
use crate::wire::revocation::rules::Selector;

/// Who holds the key, opened.
pub(super) enum Hand {
    /// The fleet's folder.
    Fleet {
        /// The folder.
        fleet: Box<Fleet>,
        /// Whose key.
        operator: String,
        /// The key.
        id: KeyId,
    },
    /// An operator's kit.
    Kit(Box<Kit>),
}

/// A way to the brokers; one command of a kit has it at a time.
pub(super) struct Link {
    config: LinkConfig,
    _alone: Option<Lock>,
}

/// What was learnt before anything was signed, and from which broker.
#[derive(Default)]
pub(super) struct Before {
    broker: Option<BrokerUrl>,
    learnt: Learnt,
}

/// What a broker has.
pub(super) struct Brought {
    pub(super) broker: BrokerUrl,
    /// The number of the statement.
    pub(super) counter: u64,
    pub(super) learnt: Learnt,
}

impl Hand {
    /// Opens the session's folder, whichever it is, for the key of `name`.
    pub(super) fn open(session: &Session, name: Option<&str>) -> Result<Self, Failure> {
        let path = folder(session)?;
        if Kit::is_at(path) {
            let kit = Kit::open(path)?;
            if let Some(name) = name.filter(|name| *name != kit.label().operator) {
                let what = format!("{} is the kit of {}, and not of {name}", path.display(), kit.label().operator);
                return Err(Failure::new(Exit::Usage, what, "leave --as out, or name another folder with --dir"));
            }
            return Ok(Self::Kit(Box::new(kit)));
        }
        let fleet = session.open()?;
        let named = &fleet.ledger.book().trust().emergency;
        let names: Vec<&str> = named.iter().map(|key| key.operator.as_str()).collect();
        let found = match (name, named.as_slice()) {
            (Some(name), _) => named.iter().find(|key| key.operator == name),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        let Some(found) = found else {
            let (exit, what) = match name {
                Some(name) => (Exit::Failure, format!("nobody called {name:?} has an emergency key")),
                None => (Exit::Usage, "nobody says whose emergency key signs".to_owned()),
            };
            let advice = match names.is_empty() {
                true => "nobody has one: `hardtack fleet key add emergency --name NAME` makes one".to_owned(),
                false => format!("these have one: {}; name one with --as", names.join(", ")),
            };
            return Err(Failure::new(exit, what, advice));
        };
        let (operator, id) = (found.operator.clone(), found.id());
        Ok(Self::Fleet { fleet: Box::new(fleet), operator, id })
    }

    /// What every key of the session's folder has revoked.
    pub(super) fn list(session: &Session, at: Timestamp) -> Result<Value, Failure> {
        let path = folder(session)?;
        if Kit::is_at(path) {
            let kit = Kit::open(path)?;
            let (label, progress) = (kit.label(), kit.progress()?);
            let rule = |rule: &Declared| rule_of(rule.selector, rule.until, &rule.reason);
            return Ok(json!({
                "folder": shown(path),
                "kit": true,
                "fleet": label.fleet,
                "fingerprint": label.fingerprint,
                "bundle_version": kit.trust().version,
                "brokers": kit.brokers().iter().map(BrokerUrl::to_string).collect::<Vec<_>>(),
                // The name of its certificate and of its role at the broker.
                "certificate": emergency_name(label.key),
                "keys": [{
                    "key": label.key,
                    "operator": label.operator,
                    "named": kit.trust().emergency_key(label.key).is_some(),
                    "counter": progress.counter(),
                    "rules": progress.in_force(at).map(rule).collect::<Vec<_>>(),
                }],
            }));
        }
        let fleet = session.open()?;
        let book = fleet.ledger.book();
        let silent = book.trust().emergency.iter().filter(|key| book.emergency(key.id()).is_none());
        let silent = silent
            .map(|key| json!({"key": key.id(), "operator": key.operator, "named": true, "counter": 0, "rules": []}));
        let rule = |(selector, until, _, reason): (_, _, _, &str)| rule_of(selector, until, reason);
        let spoken = book.emergencies().map(|known| {
            json!({
                "key": known.said.key,
                "operator": known.operator,
                "named": book.trust().emergency_key(known.said.key).is_some(),
                "counter": known.said.counter,
                "rules": known.in_force(at).map(rule).collect::<Vec<_>>(),
            })
        });
        Ok(json!({
            "folder": shown(path),
            "kit": false,
            "fleet": book.fleet(),
            "bundle_version": book.trust().version,
            "brokers": fleet.dir.toml().brokers,
            "keys": spoken.chain(silent).collect::<Vec<_>>(),
        }))
    }

    /// The ledger's book, if there is one.
    pub(super) fn book(&self) -> Option<&Book> {
        match self {
            Self::Fleet { fleet, .. } => Some(fleet.ledger.book()),
            Self::Kit(_) => None,
        }
    }

    /// Whether it is a kit.
    pub(super) fn is_kit(&self) -> bool {
        self.book().is_none()
    }

    /// Whose key it is.
    pub(super) fn operator(&self) -> &str {
        match self {
            Self::Fleet { operator, .. } => operator,
            Self::Kit(kit) => &kit.label().operator,
        }
    }

    /// The folder that is used.
    pub(super) fn folder(&self) -> String {
        let path = match self {
            Self::Fleet { fleet, .. } => fleet.dir.path(),
            Self::Kit(kit) => kit.path(),
        };
        shown(path)
    }

    /// The same, for people.
    pub(super) fn place(&self) -> String {
        let what = if self.is_kit() { "the kit" } else { "the fleet's folder" };
        format!("{}, with {what} {}", self.operator(), self.folder())
    }

    /// The newest trust bundle that is known there.
    pub(super) fn trust(&self) -> &TrustBundle {
        match self {
            Self::Fleet { fleet, .. } => fleet.ledger.book().trust(),
            Self::Kit(kit) => kit.trust(),
        }
    }

    /// Every trust bundle that is known there.
    pub(super) fn bundles(&self) -> &[Signed<TrustBundle>] {
        match self {
            Self::Fleet { fleet, .. } => fleet.ledger.book().bundles(),
            Self::Kit(kit) => kit.bundles(),
        }
    }

    /// The private key.
    pub(super) fn key(&mut self) -> Result<SigningKey, Failure> {
        match self {
            Self::Fleet { fleet, operator, .. } => fleet.keys.emergency(operator).map_err(|error| {
                if !error.is_missing() {
                    return error.into();
                }
                let what = format!("the emergency key of {operator} is not in this folder");
                let advice = format!("it is in the kit that was made for {operator}: name that with --dir");
                Failure::new(Exit::Failure, what, advice)
            }),
            Self::Kit(kit) => Ok(kit.key()?),
        }
    }

    /// The next statement, of which nothing is kept.
    pub(super) fn preview(&self, key: &SigningKey, order: &Order, at: Timestamp) -> Result<Signed<Emergency>, Failure> {
        match self {
            Self::Fleet { fleet, id, .. } => {
                let book = fleet.ledger.book();
                Ok(statement(book.trust(), key, &before(book, *id), order, at)?)
            }
            Self::Kit(kit) => Ok(kit.progress()?.sign(kit.trust(), key, order, at)?),
        }
    }

    /// Signs the next statement. It is on the disk when this returns.
    pub(super) fn sign(
        &mut self,
        key: &SigningKey,
        order: &Order,
        at: Timestamp,
    ) -> Result<Signed<Emergency>, Failure> {
        match self {
            Self::Fleet { fleet, .. } => fleet.act(|book, _, fx| declare(book, key, order, at, fx)),
            Self::Kit(kit) => Ok(kit.sign(key, order, at)?),
        }
    }

    /// What this key is known to have revoked, as far as it has not ended.
    pub(super) fn in_force(&self, at: Timestamp) -> Result<Vec<Selector>, Failure> {
        Ok(match self {
            Self::Fleet { fleet, id, .. } => {
                let known = fleet.ledger.book().emergency(*id).into_iter();
                known.flat_map(|known| known.in_force(at)).map(|(selector, ..)| selector).collect()
            }
            Self::Kit(kit) => kit.progress()?.in_force(at).map(|rule| rule.selector).collect(),
        })
    }

    /// The newest statement.
    pub(super) fn newest(&self) -> Result<Signed<Emergency>, Failure> {
        let newest = match self {
            Self::Fleet { fleet, id, .. } => {
                fleet.ledger.book().emergency(*id).map(|known| known.newest.statement.clone())
            }
            Self::Kit(kit) => kit.progress()?.newest().cloned(),
        };
        newest.ok_or_else(|| {
            let what = format!("{} has signed no statement yet", self.operator());
            Failure::new(Exit::Failure, what, "name what is to be revoked: `hardtack fleet emergency --help`")
        })
    }

    /// A way to the brokers that were named, or to those of the folder.
    pub(super) fn link(&self, named: &[BrokerUrl]) -> Result<Link, Failure> {
        match self {
            Self::Fleet { fleet, .. } => {
                let uplink = uplink(&fleet.dir, named)?;
                let fleet = fleet.ledger.book().fleet();
                let config = LinkConfig {
                    fleet: fleet.clone(),
                    client_id: service_client_id(fleet, &mut entropy::rng()),
                    user: SERVICE_NAME.into(),
                    urls: uplink.urls,
                    tls: uplink.tls,
                    keepalive: Duration::from_secs(30),
                    connect: Duration::from_secs(10),
                    packet_bytes_max: LinkConfig::PACKET_BYTES_MAX,
                };
                Ok(Link { config, _alone: None })
            }
            Self::Kit(kit) => {
                let urls = if named.is_empty() { kit.brokers() } else { named.to_vec() };
                if urls.is_empty() {
                    let what = "no broker is named, and the kit knows none";
                    return Err(Failure::new(Exit::Usage, what, "pass --broker URL, or write a file with --out FILE"));
                }
                Ok(Link { _alone: Some(kit.line()?), config: kit.link(urls)? })
            }
        }
    }

    /// What has to be known before a kit signs. The ledger knows by itself.
    pub(super) fn learn(&mut self, link: &Link, at: Timestamp) -> Result<Before, Failure> {
        match self {
            Self::Fleet { .. } => Ok(Before::default()),
            Self::Kit(kit) => {
                let (broker, learnt) = runtime()?.block_on(kit.learn(&link.config, at))?;
                Ok(Before { broker: Some(broker), learnt })
            }
        }
    }

    /// Brings the newest statement to the first broker that takes it, that first which has answered already.
    pub(super) fn bring(&mut self, link: &Link, before: Before, at: Timestamp) -> Result<Brought, Failure> {
        let mut config = link.config.clone();
        config.urls.sort_by_key(|url| Some(url) != before.broker.as_ref());
        let Before { learnt, .. } = before;
        let runtime = runtime()?;
        let (broker, counter) = match self {
            Self::Fleet { fleet, id, .. } => loop {
                let newest = reread(fleet, *id)?;
                let messages = messages(fleet.ledger.book().trust(), *id, &newest);
                let brought = runtime.block_on(publish(&config, at, &messages));
                let broker = brought.map_err(|error| Failure::new(Exit::Failure, error, ""))?;
                // Another command may have signed a newer one and been faster: the broker keeps what comes last.
                if reread(fleet, *id)?.digest() == newest.digest() {
                    break (broker, newest.claim().map_or(0, |said| said.counter));
                }
            },
            Self::Kit(kit) => runtime.block_on(kit.bring(&config, at))?,
        };
        Ok(Brought { broker, counter, learnt })
    }
}

fn reread(fleet: &mut Fleet, id: KeyId) -> Result<Signed<Emergency>, Failure> {
    fleet.act(|book, _, _| {
        let newest = book.emergency(id).map(|known| known.newest.statement.clone());
        newest.ok_or_else(|| FleetError::Invalid("the ledger holds no statement of this key".into()))
    })
}

fn folder(session: &Session) -> Result<&Path, Failure> {
    let path = session.named.as_deref().unwrap_or(Path::new("."));
    if !Kit::is_at(path) && !path.join("fleet.toml").exists() {
        let what = format!("{} is neither an emergency kit nor a fleet's folder", path.display());
        return Err(Failure::new(Exit::Failure, what, "go into the kit's folder, or name it: --dir KIT"));
    }
    Ok(path)
}

/// A folder as whoever reads of it later finds it, and not only who stands in it.
fn shown(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

pub(super) fn rule_of(selector: Selector, until: Timestamp, reason: &str) -> Value {
    json!({"covers": selector.to_string(), "until": until.to_string(), "reason": reason})
}

/// What of this key was signed elsewhere.
pub(super) fn signed_by(heard: &Heard) -> Value {
    const DO: &str =
        "if you have no second kit, somebody else has this key: have the fleet remove it (`hardtack fleet key \
                      remove emergency --compromised`)";
    match heard {
        Heard::Known => Value::Null,
        Heard::Elsewhere { counter } => json!({
            "counter": counter,
            "twice": false,
            "words": format!("statement {counter} of this key, which the broker keeps, was not signed with this kit, and what is in \
                              force of it is repeated from now on: {DO}"),
        }),
        Heard::Twice { counter, held, offered } => json!({
            "counter": counter,
            "twice": true,
            "held": held,
            "offered": offered,
            "words": format!("there are two statements {counter} of this key, {held} of this kit and {offered} at the broker, and \
                              devices take only the one that they see first; the next one repeats both: {DO}"),
        }),
    }
}

impl From<KitError> for Failure {
    fn from(error: KitError) -> Self {
        match error {
            KitError::Fleet(error) => error.into(),
            KitError::Key(error) => error.into(),
            KitError::InUse { .. } => Self::new(Exit::TryAgain, error, ""),
            KitError::NoBroker(_) => {
                let advice =
                    "nothing was signed: name another broker with --broker, or write it into a file for somebody to \
                              carry: --out FILE. One that answers `not authorized` knows this key no more: it may have been removed";
                Self::new(Exit::Failure, error, advice)
            }
            KitError::Broker(_)
            | KitError::Damaged { .. }
            | KitError::File(_)
            | KitError::Foreign { .. }
            | KitError::Incomplete(_)
            | KitError::Newer { .. }
            | KitError::NotTaken(_)
            | KitError::Other { .. } => Self::new(Exit::Failure, error, ""),
        }
    }
}
