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
use crate::fleet::publish::resume;
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
    /// The ledger was lost and restored from an old copy: go on after this head, once what it had revoked is revoked again
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

pub(super) fn publish(args: &PublishArgs, session: &Session) -> Result<Exit, Failure> {
    let mut fleet = session.open()?;
    if let Some(after) = args.after {
        let (at, name, key) = (now()?, fleet.operator.clone(), fleet.operator_key()?);
        let feed = args.feed.clone().unwrap_or_else(|| fleet.ledger.book().feed());
        fleet.act(|book, _, fx| resume(book, &feed, after, operator(&name, &key), at, fx))?;
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
