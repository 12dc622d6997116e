//! `hardtack fleet serve` and `hardtack fleet publish`.
//!
//! Owns: which broker, which keys, the order of a start and of an end.
//! Never: decides anything that the service decides.
//! Read next: `../../shell/serve.rs`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tokio::runtime::Runtime;

use super::super::output::show;
use super::super::{Exit, Failure};
use super::{now, operator, Fleet, Session};
use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::fleet::publish::{awaited, resume};
use crate::fleet::restore::{self, Found};
use crate::fleet::service::ServiceKeys;
use crate::ids::FeedId;
use crate::shell::fleet_dir::FleetDir;
use crate::shell::fleet_keys::Role;
use crate::shell::mqtt::{BrokerUrl, Security};
use crate::shell::place::Place;
use crate::shell::serve::{link_config, publish_once, Serving, SignedBy, Uplink};
use crate::shell::{entropy, kept, log, service};
use crate::time::Timestamp;

/// Arguments of `hardtack fleet serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Broker's address, may be repeated [default: those of fleet.toml]
    #[arg(long, value_name = "URL")]
    broker: Vec<BrokerUrl>,
}

/// Arguments of `hardtack fleet publish`.
#[derive(Args, Debug)]
pub struct PublishArgs {
    /// Broker's address, may be repeated [default: those of fleet.toml]
    #[arg(long, value_name = "URL")]
    broker: Vec<BrokerUrl>,
    /// The ledger was lost and restored from an old copy: go on after this head, once what it had revoked is revoked again.
    /// Nothing is published before each feed has been vouched for so, nor where no broker is named
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Which feed goes on after that head [default: the first one]
    #[arg(long, value_name = "FEED", requires = "after")]
    feed: Option<FeedId>,
    /// Trust bundles that the ledger lost, where no broker keeps them: a file of `fleet revocations export`, or the folder
    /// `bundles` of an emergency kit
    #[arg(long, value_name = "PATH")]
    bundles: Option<PathBuf>,
    /// The ledger was lost and no broker can tell: no device has a trust bundle after this one, which is the ledger's newest
    #[arg(long, value_name = "VERSION")]
    last_bundle: Option<u64>,
}

pub(super) fn uplink(dir: &FleetDir, named: &[BrokerUrl]) -> Result<Uplink, Failure> {
    let mut urls = named.to_vec();
    if urls.is_empty() {
        // They were checked when the file was read.
        urls = dir.toml().brokers.iter().filter_map(|url| url.parse().ok()).collect();
    }
    if urls.is_empty() {
        let advice = "pass --broker URL, or write `brokers = [\"mqtts://HOST:8883\"]` into fleet.toml";
        return Err(Failure::new(Exit::Usage, "no broker is named", advice));
    }
    let folder = dir.broker();
    let urls: Vec<BrokerUrl> = urls.iter().map(|url| folder.service_url(url)).collect();
    let tls = match urls.iter().any(|url| url.security == Security::Tls) {
        true => Some(folder.service_identity(&mut entropy::rng())?),
        false => None,
    };
    Ok(Uplink { urls, tls })
}

fn service_keys(fleet: &mut Fleet) -> Result<ServiceKeys, Failure> {
    Ok(ServiceKeys {
        issuer: fleet.keys.issuer()?,
        feed: fleet.keys.signing(Role::Feed)?,
        service: fleet.keys.signing(Role::Service)?,
        collectors: fleet.keys.collectors()?,
    })
}

pub(super) fn runtime() -> Result<Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.map_err(|error| Failure::new(Exit::Failure, error, "raise the limit of open files"))
}

pub(super) fn serve(args: &ServeArgs, session: &Session) -> Result<Exit, Failure> {
    log::start(LogConfig { level: LogLevel::Info, format: LogFormat::Json });
    let mut fleet = session.open()?;
    let (uplink, keys) = (uplink(&fleet.dir, &args.broker)?, service_keys(&mut fleet)?);
    let settings = fleet.dir.toml().settings();
    let runtime = runtime()?;
    for version in take_in(&mut fleet, &keys, &uplink, &runtime)? {
        tracing::warn!(event = "bundle.taken", version, "the ledger had lost it");
    }
    // Whoever reads its log is in no folder.
    let place = Place::named(fleet.dir.path());
    let mut serving = Serving::start(fleet.ledger, keys, settings, uplink, place, runtime.handle())?;
    service::ready();
    let asked = runtime.block_on(async {
        tokio::select! {
            asked = service::asked_to_end() => asked,
            () = serving.ended() => Ok(()),
        }
    });
    service::stopping();
    serving.stop()?;
    asked.map_err(|error| Failure::new(Exit::Failure, error, "start it again"))?;
    Ok(Exit::Done)
}

/// Takes in the trust bundles that the broker keeps and this ledger has lost, where anything says that there may be such:
/// nobody knows whether there are, a device has one, or the keys here are none of the newest. Gives their versions.
fn take_in(fleet: &mut Fleet, keys: &ServiceKeys, uplink: &Uplink, runtime: &Runtime) -> Result<Vec<u64>, Failure> {
    let book = fleet.ledger.book();
    let Err(why) = restore::may_follow(book).and_then(|()| keys.check(book.trust())) else { return Ok(Vec::new()) };
    let at = now()?;
    let config = link_config(book.fleet(), uplink.clone());
    let asked = runtime.block_on(kept::at_broker(&config, book, at));
    let found = asked.map_err(|reason| {
        let what = format!("no broker tells which trust bundles this ledger has lost ({reason})");
        Failure::new(Exit::TryAgain, what, why)
    })?;
    let taken = take(fleet, &found, at)?;
    restore::bundles_known(fleet.ledger.book()).map_err(|error| {
        let own = fleet.ledger.book().trust().version;
        let what =
            format!("the broker keeps no trust bundle {own} of this fleet, so that it cannot tell which came after");
        Failure::new(Exit::Failure, what, error.to_string())
    })?;
    Ok(taken)
}

/// Takes in what was found. Gives the versions of the trust bundles that were new.
fn take(fleet: &mut Fleet, found: &Found, at: Timestamp) -> Result<Vec<u64>, Failure> {
    let own = fleet.ledger.book().trust().version;
    if found.bundles.iter().all(|signed| signed.claim().is_ok_and(|bundle| bundle.version <= own)) {
        fleet.act(|book, _, fx| {
            let taken = restore::take(book, found, at, fx)?;
            restore::settle(book, &taken, &found.heads, at, fx);
            Ok(())
        })?;
        return Ok(Vec::new());
    }
    // A bundle that is new is recorded.
    let (name, key) = (fleet.operator.clone(), fleet.operator_key()?);
    Ok(fleet.act(|book, _, fx| restore::learn(book, found, operator(&name, &key), at, fx))?.bundles)
}

/// A feed may go on, and nothing can be published yet.
fn vouched((feed, after): (&FeedId, u64), left: &[(FeedId, u64)], session: &Session) -> Result<Exit, Failure> {
    let next: Vec<String> = left.iter().map(|left| go_on(session, left)).collect();
    let value = json!({
        "feed": feed,
        "after": after,
        "published": false,
        // Feeds for which somebody has still to vouch, and the commands for that.
        "left": left.iter().map(|(feed, least)| json!({"feed": feed, "after": least})).collect::<Vec<_>>(),
        "do": next,
    });
    show(session.format, &value, |_| match next.is_empty() {
        true => format!(
            "feed {feed} goes on after head {after}; no broker is named, so nothing is published yet\n\
             next: hardtack fleet serve{} --broker URL",
            in_folder(session)
        ),
        false => format!(
            "feed {feed} goes on after head {after}; nothing is signed before the others may go on as well:\n{}",
            next.join("\n")
        ),
    })?;
    Ok(Exit::Done)
}

/// The command with which an operator says that a feed may go on after a head.
pub(super) fn go_on(session: &Session, (feed, least): &(FeedId, u64)) -> String {
    format!("hardtack fleet publish{} --feed {feed} --after {least}", in_folder(session))
}

/// The argument that names the fleet's folder in a command that is printed, if it has to.
pub(super) fn in_folder(session: &Session) -> String {
    place(session).argument().to_owned()
}

fn place(session: &Session) -> Place {
    session.named.as_deref().map_or_else(Place::default, Place::named)
}

/// What the fleet says, with the folder in the commands, if it has to name it.
pub(super) fn placed(said: &str, session: &Session) -> String {
    place(session).put_into(said)
}

pub(super) fn publish(args: &PublishArgs, session: &Session) -> Result<Exit, Failure> {
    let mut fleet = session.open()?;
    let mut taken = Vec::new();
    if let Some(path) = &args.bundles {
        let found =
            kept::in_files(path, fleet.ledger.book()).map_err(|error| Failure::new(Exit::Invalid, error, ""))?;
        taken.extend(take(&mut fleet, &found, now()?)?);
    }
    if let Some(last) = args.last_bundle {
        let (at, name, key) = (now()?, fleet.operator.clone(), fleet.operator_key()?);
        fleet.act(|book, _, fx| restore::vouch(book, last, operator(&name, &key), at, fx))?;
    }
    let reachable = !args.broker.is_empty() || !fleet.dir.toml().brokers.is_empty();
    let only_kept = args.after.is_none() && (args.bundles.is_some() || args.last_bundle.is_some());
    if only_kept && !reachable {
        let newest = fleet.ledger.book().trust().version;
        let value = json!({"published": false, "taken": taken, "bundle": newest});
        show(session.format, &value, |_| {
            format!(
                "{}the newest trust bundle is {newest}; no broker is named, so nothing is published yet",
                took(&taken)
            )
        })?;
        return Ok(Exit::Done);
    }
    let runtime = runtime()?;
    let mut link = None;
    if reachable {
        let (uplink, keys) = (uplink(&fleet.dir, &args.broker)?, service_keys(&mut fleet)?);
        taken.extend(take_in(&mut fleet, &keys, &uplink, &runtime)?);
        link = Some((uplink, keys));
    }
    if let Some(after) = args.after {
        let (at, name, key) = (now()?, fleet.operator.clone(), fleet.operator_key()?);
        let feed = args.feed.clone().unwrap_or_else(|| fleet.ledger.book().feed());
        fleet.act(|book, _, fx| resume(book, &feed, after, operator(&name, &key), at, fx))?;
        let left = awaited(fleet.ledger.book());
        if !left.is_empty() || !reachable {
            return vouched((&feed, after), &left, session);
        }
    }
    let (uplink, keys) = match link {
        Some(link) => link,
        None => (uplink(&fleet.dir, &args.broker)?, service_keys(&mut fleet)?),
    };
    let settings = fleet.dir.toml().settings();
    let published = runtime.block_on(publish_once(&mut fleet.ledger, keys, settings, uplink))?;
    let book = fleet.ledger.book();
    let (_, seq) = book.first().order();
    let feeds: serde_json::Map<String, serde_json::Value> =
        book.feeds().map(|(id, feed)| (id.to_string(), feed.order().1.into())).collect();
    let (messages, signed) = match published.signed {
        SignedBy::Us => (published.messages, "here"),
        SignedBy::Another => (published.messages, "by `fleet serve`"),
    };
    // Trust bundles that the ledger had lost.
    // What kept the broker from being told which devices may read what.
    let complaints = published.complaints;
    let value = json!({
        "messages": messages,
        "feed_seq": seq,
        "feeds": feeds,
        "signed": signed,
        "taken": taken,
        "complaints": complaints,
    });
    show(session.format, &value, |_| {
        let complaints: String = complaints.iter().map(|what| format!("\nthe broker complains: {what}")).collect();
        format!("{}{messages} messages, the newest head is {seq}, signed {signed}{complaints}", took(&taken))
    })?;
    Ok(Exit::Done)
}

/// A line about trust bundles that the ledger had lost.
pub(super) fn took(taken: &[u64]) -> String {
    match (taken.first(), taken.last()) {
        (Some(first), Some(last)) => format!("took in trust bundles {first} to {last}, which the ledger had lost\n"),
        (None, _) | (_, None) => String::new(),
    }
}
