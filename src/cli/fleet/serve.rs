//! `hardtack fleet serve` and `hardtack fleet publish`.
//!
//! Owns: which broker, which keys, the order of a start and of an end.
//! Never: decides anything that the service decides.
//! Read next: `../../shell/serve.rs`.

use clap::Args;
use serde_json::json;

use super::super::output::show;
use super::super::{Exit, Failure};
use super::{now, operator, Fleet, Session};
use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::fleet::publish::{awaited, resume};
use crate::fleet::service::ServiceKeys;
use crate::ids::FeedId;
use crate::shell::fleet_keys::Role;
use crate::shell::mqtt::{BrokerUrl, Security};
use crate::shell::serve::{publish_once, Serving, SignedBy, Uplink};
use crate::shell::{entropy, log, service};

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
}

pub(super) fn uplink(fleet: &Fleet, named: &[BrokerUrl]) -> Result<Uplink, Failure> {
    let mut urls = named.to_vec();
    if urls.is_empty() {
        // They were checked when the file was read.
        urls = fleet.dir.toml().brokers.iter().filter_map(|url| url.parse().ok()).collect();
    }
    if urls.is_empty() {
        let advice = "pass --broker URL, or write `brokers = [\"mqtts://HOST:8883\"]` into fleet.toml";
        return Err(Failure::new(Exit::Usage, "no broker is named", advice));
    }
    let folder = fleet.dir.broker();
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

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.map_err(|error| Failure::new(Exit::Failure, error, "raise the limit of open files"))
}

pub(super) fn serve(args: &ServeArgs, session: &Session) -> Result<Exit, Failure> {
    log::start(LogConfig { level: LogLevel::Info, format: LogFormat::Json });
    let mut fleet = session.open()?;
    let (uplink, keys) = (uplink(&fleet, &args.broker)?, service_keys(&mut fleet)?);
    let settings = fleet.dir.toml().settings();
    let runtime = runtime()?;
    let mut serving = Serving::start(fleet.ledger, keys, settings, uplink, runtime.handle())?;
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
fn in_folder(session: &Session) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    session.named.as_ref().map_or(String::new(), |folder| {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.clone()).display().to_string();
        match folder.chars().all(plain) {
            true => format!(" --dir {folder}"),
            false => format!(" --dir '{}'", folder.replace('\'', r"'\''")),
        }
    })
}

pub(super) fn publish(args: &PublishArgs, session: &Session) -> Result<Exit, Failure> {
    let mut fleet = session.open()?;
    if let Some(after) = args.after {
        let (at, name, key) = (now()?, fleet.operator.clone(), fleet.operator_key()?);
        let feed = args.feed.clone().unwrap_or_else(|| fleet.ledger.book().feed());
        fleet.act(|book, _, fx| resume(book, &feed, after, operator(&name, &key), at, fx))?;
        let left = awaited(fleet.ledger.book());
        if !left.is_empty() || (args.broker.is_empty() && fleet.dir.toml().brokers.is_empty()) {
            return vouched((&feed, after), &left, session);
        }
    }
    let (uplink, keys) = (uplink(&fleet, &args.broker)?, service_keys(&mut fleet)?);
    let settings = fleet.dir.toml().settings();
    let published = runtime()?.block_on(publish_once(&mut fleet.ledger, keys, settings, uplink))?;
    let book = fleet.ledger.book();
    let (_, seq) = book.first().order();
    let feeds: serde_json::Map<String, serde_json::Value> =
        book.feeds().map(|(id, feed)| (id.to_string(), feed.order().1.into())).collect();
    let (messages, signed) = match published.signed {
        SignedBy::Us => (published.messages, "here"),
        SignedBy::Another => (published.messages, "by `fleet serve`"),
    };
    let value = json!({"messages": messages, "feed_seq": seq, "feeds": feeds, "signed": signed});
    show(session.format, &value, |_| format!("{messages} messages, the newest head is {seq}, signed {signed}"))?;
    Ok(Exit::Done)
}
