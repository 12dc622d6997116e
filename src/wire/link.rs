//! What goes over MQTT, and where.
//!
//! Owns: the topics, [`Hello`] and the [`Ack`] that answers it, requests and their sealed answers, the retained state.
//! Never: sends anything. `agent/link.rs` says when, `shell/mqtt.rs` does it.
//! Read next: `agent/link.rs`.

use std::fmt;

use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::envelope::Document;
use super::revocation::set::PartKey;
use super::revocation::Position;
use super::seal::{Sealed, SealingKey, SealingPublic};
use super::{decode, encode, percent, Refused, MESSAGE_BYTES_MAX};
use crate::ids::{BootId, DeviceId, EraId, FeedId, FleetId, GrantId, Hash, KeyId, Nonce, TaskClass, TaskId};
use crate::time::{Millis, Timestamp};

/// A place under `hardtack/1/<fleet>/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Topic {
    /// `bundle/<version>`, retained.
    Bundle(u64),
    /// `policy/<version>`, retained.
    Policy(u64),
    /// `feed/<feed>/head`, retained: the newest head, with what it adds.
    FeedHead(FeedId),
    /// `feed/<feed>/rules`, retained: all rules of the newest head.
    FeedRules(FeedId),
    /// `feed/<feed>/emergency/<key>`, retained: the newest statement of an emergency key.
    FeedEmergency(FeedId, KeyId),
    /// `feed/<feed>/delta/<place>`, retained: one of the newest heads, with what it adds.
    FeedDelta(FeedId, u64),
    /// `feed/<feed>/skip/<level>/<place>`, retained: a step of the ladder.
    FeedSkip(FeedId, u8, u64),
    /// `feed/<feed>/snap/manifest/0`, retained: the parts of the newest set.
    FeedManifest(FeedId),
    /// `feed/<feed>/snap/<part>/<chunk>`, retained: a piece of a part.
    FeedPiece(FeedId, PartKey, u32),
    /// `dev/<id>/up/hello`.
    UpHello(DeviceId),
    /// `dev/<id>/up/audit`.
    UpAudit(DeviceId),
    /// `dev/<id>/up/request`.
    UpRequest(DeviceId),
    /// `dev/<id>/down/ack`.
    DownAck(DeviceId),
    /// `dev/<id>/down/answer`.
    DownAnswer(DeviceId),
    /// `dev/<id>/state`, retained, last will.
    State(DeviceId),
    /// `enrol/<id>/up`: a device that has only the bootstrap login asks to join.
    EnrolUp(DeviceId),
    /// `enrol/<id>/down`, retained until it is fetched.
    EnrolDown(DeviceId),
}

impl Topic {
    /// The topic's text for a fleet.
    pub fn text(&self, fleet: &FleetId) -> String {
        format!("hardtack/1/{fleet}/{self}")
    }

    /// The topic of a text, if it is one of this fleet's.
    pub fn parse(text: &str, fleet: &FleetId) -> Option<Self> {
        let rest = text.strip_prefix("hardtack/1/")?.strip_prefix(fleet.as_str())?.strip_prefix('/')?;
        let parts: Vec<&str> = rest.split('/').collect();
        let device = |text: &str| text.parse::<DeviceId>().ok();
        let topic = match parts.as_slice() {
            ["bundle", version] => version.parse().ok().map(Self::Bundle),
            ["policy", version] => version.parse().ok().map(Self::Policy),
            ["feed", feed, "head"] => feed.parse().ok().map(Self::FeedHead),
            ["feed", feed, "rules"] => feed.parse().ok().map(Self::FeedRules),
            ["feed", feed, "emergency", key] => Some(Self::FeedEmergency(feed.parse().ok()?, key.parse().ok()?)),
            ["feed", feed, "delta", place] => Some(Self::FeedDelta(feed.parse().ok()?, place.parse().ok()?)),
            ["feed", feed, "skip", level, place] => {
                Some(Self::FeedSkip(feed.parse().ok()?, level.parse().ok()?, place.parse().ok()?))
            }
            ["feed", feed, "snap", "manifest", "0"] => feed.parse().ok().map(Self::FeedManifest),
            ["feed", feed, "snap", part, chunk] => {
                Some(Self::FeedPiece(feed.parse().ok()?, part.parse().ok()?, chunk.parse().ok()?))
            }
            ["dev", id, "up", "hello"] => device(id).map(Self::UpHello),
            ["dev", id, "up", "audit"] => device(id).map(Self::UpAudit),
            ["dev", id, "up", "request"] => device(id).map(Self::UpRequest),
            ["dev", id, "down", "ack"] => device(id).map(Self::DownAck),
            ["dev", id, "down", "answer"] => device(id).map(Self::DownAnswer),
            ["dev", id, "state"] => device(id).map(Self::State),
            ["enrol", id, "up"] => device(id).map(Self::EnrolUp),
            ["enrol", id, "down"] => device(id).map(Self::EnrolDown),
            _ => None,
        };
        // One place has one text: `bundle/07` is not `bundle/7`.
        topic.filter(|topic| topic.to_string() == rest)
    }

    /// Whether the broker keeps the last message.
    pub fn retained(&self) -> bool {
        match self {
            Self::Bundle(_)
            | Self::Policy(_)
            | Self::FeedHead(_)
            | Self::FeedRules(_)
            | Self::FeedEmergency(..)
            | Self::FeedDelta(..)
            | Self::FeedSkip(..)
            | Self::FeedManifest(_)
            | Self::FeedPiece(..)
            | Self::State(_)
            | Self::EnrolDown(_) => true,
            Self::UpHello(_)
            | Self::UpAudit(_)
            | Self::UpRequest(_)
            | Self::DownAck(_)
            | Self::DownAnswer(_)
            | Self::EnrolUp(_) => false,
        }
    }
}

/// How long the broker keeps pieces of a bucket after all in it has expired: as long as a manifest may name them though
/// nobody publishes a newer one.
const ENDED_KEPT: Millis = Millis::from_secs(90 * 86_400);

impl Topic {
    /// Up to when the broker is to keep what stands here. None: until it is replaced.
    ///
    /// Buckets end, and the topics of their pieces with them: else a broker would hold those of every hour that ever was.
    pub fn kept_until(&self) -> Option<Timestamp> {
        match self {
            Self::FeedPiece(_, PartKey::Serials(slot), _) => Some(slot.ends() + ENDED_KEPT),
            Self::FeedPiece(_, PartKey::Fingerprints(key), _) => Some(key.slot.ends() + ENDED_KEPT),
            Self::FeedPiece(_, PartKey::Rules | PartKey::Exact, _)
            | Self::Bundle(_)
            | Self::Policy(_)
            | Self::FeedHead(_)
            | Self::FeedRules(_)
            | Self::FeedEmergency(..)
            | Self::FeedDelta(..)
            | Self::FeedSkip(..)
            | Self::FeedManifest(_)
            | Self::State(_)
            | Self::EnrolDown(_)
            | Self::UpHello(_)
            | Self::UpAudit(_)
            | Self::UpRequest(_)
            | Self::DownAck(_)
            | Self::DownAnswer(_)
            | Self::EnrolUp(_) => None,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(version) => write!(f, "bundle/{version}"),
            Self::Policy(version) => write!(f, "policy/{version}"),
            Self::FeedHead(feed) => write!(f, "feed/{feed}/head"),
            Self::FeedRules(feed) => write!(f, "feed/{feed}/rules"),
            Self::FeedEmergency(feed, key) => write!(f, "feed/{feed}/emergency/{key}"),
            Self::FeedDelta(feed, place) => write!(f, "feed/{feed}/delta/{place}"),
            Self::FeedSkip(feed, level, place) => write!(f, "feed/{feed}/skip/{level}/{place}"),
            Self::FeedManifest(feed) => write!(f, "feed/{feed}/snap/manifest/0"),
            Self::FeedPiece(feed, part, chunk) => write!(f, "feed/{feed}/snap/{part}/{chunk}"),
            Self::UpHello(id) => write!(f, "dev/{id}/up/hello"),
            Self::UpAudit(id) => write!(f, "dev/{id}/up/audit"),
            Self::UpRequest(id) => write!(f, "dev/{id}/up/request"),
            Self::DownAck(id) => write!(f, "dev/{id}/down/ack"),
            Self::DownAnswer(id) => write!(f, "dev/{id}/down/answer"),
            Self::State(id) => write!(f, "dev/{id}/state"),
            Self::EnrolUp(id) => write!(f, "enrol/{id}/up"),
            Self::EnrolDown(id) => write!(f, "enrol/{id}/down"),
        }
    }
}

/// What a device subscribes to, in this order, as filters: trust first. Of its feed it is two, one for emergency keys and one
/// for head and rules; what else it needs it reads once and leaves.
pub fn device_filters(fleet: &FleetId, device: &DeviceId, feed: &FeedId) -> Vec<String> {
    let mut rests = vec!["bundle/+".to_owned(), "policy/+".to_owned()];
    // With the head a device may be up to date, and says so: what emergency keys say is to be here by then.
    rests.push(format!("feed/{feed}/emergency/+"));
    rests.push(format!("feed/{feed}/+"));
    rests.push(Topic::DownAck(device.clone()).to_string());
    rests.push(Topic::DownAnswer(device.clone()).to_string());
    rests.into_iter().map(|rest| format!("hardtack/1/{fleet}/{rest}")).collect()
}

/// The feed that a filter is of, if it is of one alone.
pub fn feed_of_filter(fleet: &FleetId, filter: &str) -> Option<FeedId> {
    let rest = filter.strip_prefix("hardtack/1/")?.strip_prefix(fleet.as_str())?.strip_prefix("/feed/")?;
    rest.split_once('/')?.0.parse().ok()
}

/// What the fleet's service subscribes to, as filters.
pub fn service_filters(fleet: &FleetId) -> Vec<String> {
    ["dev/+/up/hello", "dev/+/up/audit", "dev/+/up/request", "dev/+/state", "enrol/+/up", "feed/+/emergency/+"]
        .iter()
        .map(|rest| format!("hardtack/1/{fleet}/{rest}"))
        .collect()
}

/// The most unacknowledged eras that a `hello` names.
pub const PENDING_ERAS_MAX: usize = 16;

/// The device says what it holds and asks for the time. Signed by its identity key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The device.
    pub device: DeviceId,
    /// The acknowledgement answers it, once, within 120 s, in this boot.
    pub nonce: Nonce,
    /// The kernel's boot.
    pub boot: BootId,
    /// The era that is being written.
    pub era: EraId,
    /// Eras before it that are not acknowledged to their end, oldest first, at most [`PENDING_ERAS_MAX`].
    pub pending: Vec<EraId>,
    /// The next record's index in that era.
    pub next_index: u64,
    /// Trust bundle in force.
    pub bundle_version: u64,
    /// Policy in force.
    pub policy_version: u64,
    /// Complete revocation positions.
    pub feeds: Vec<Position>,
    /// Digest over the grants in the wallet: [`grants_digest`].
    pub grants: Hash,
    /// The floor E.
    pub floor: Timestamp,
    /// The powered-on clock P.
    pub powered: Timestamp,
    /// The mode.
    pub mode: String,
    /// The program's version.
    pub version: String,
}

impl Document for Hello {
    const KIND: &'static str = "hello";
    const BYTES_MAX: usize = 4096;
}

/// The one signed acknowledgement: delivery, time, rollback detection, newest head. Signed by a service key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ack {
    /// The device.
    pub device: DeviceId,
    /// The nonce of the `hello` that this answers, if it answers one.
    pub nonce: Option<Nonce>,
    /// True time when it was signed.
    pub time: Timestamp,
    /// How far that may be off.
    pub radius_ms: Millis,
    /// Per era what is stored durably at the collector.
    pub eras: Vec<EraAck>,
    /// Newest revocation positions.
    pub feeds: Vec<Position>,
    /// Newest trust bundle.
    pub bundle_version: u64,
    /// Newest policy.
    pub policy_version: u64,
    /// Digest over the grants that the device should hold.
    pub grants: Hash,
    /// Segments that may be in flight at once. 0: pause.
    pub window: u16,
}

impl Document for Ack {
    const KIND: &'static str = "ack";
    const BYTES_MAX: usize = 8 * 1024;
}

/// What the collector holds of one era.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EraAck {
    /// The era.
    pub era: EraId,
    /// Every segment below this is stored.
    pub next_segment: u64,
    /// Every record below this is stored.
    pub next_index: u64,
    /// The chain's head there.
    pub head: Hash,
}

/// The digest over a set of grants, as `hello` and acknowledgement compare it.
pub fn grants_digest(grants: impl IntoIterator<Item = GrantId>) -> Hash {
    let mut ids: Vec<GrantId> = grants.into_iter().collect();
    ids.sort_unstable();
    let parts: Vec<&[u8]> = ids.iter().map(|id| id.0.as_slice()).collect();
    Hash::of("hardtack/grants/v1", &parts)
}

/// A device asks for something. Signed by its identity key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The device.
    pub device: DeviceId,
    /// The answer carries it.
    pub nonce: Nonce,
    /// The answer is sealed to it; made for this request alone.
    pub reply_to: SealingPublic,
    /// What it asks.
    pub ask: Ask,
}

impl Document for Request {
    const KIND: &'static str = "request";
    const BYTES_MAX: usize = 16 * 1024;
}

/// What a device asks for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// All grants that it should hold.
    Grants,
    /// Successors for these grants, which have lived or spent half. The answer is as to [`Ask::Grants`].
    Renew(Vec<Spent>),
    /// A task token, just in time.
    Task(TaskAsk),
}

/// A grant and what its device has charged to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Spent {
    /// The grant.
    pub grant: GrantId,
    /// Uses so far.
    pub used: u64,
}

/// The task that a token is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TaskAsk {
    /// The task's id, made by the device.
    pub task: TaskId,
    /// Its class.
    pub class: TaskClass,
    /// Selectors of the workload, attested by the device.
    pub selectors: Vec<String>,
    /// The rights asked for.
    pub rights: Vec<Right>,
    /// How long.
    pub ttl_ms: Millis,
    /// How often, if bounded.
    pub uses: Option<u64>,
}

/// An action on a resource, or on everything below a prefix.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Right {
    /// The resource; a prefix where it ends in `/*`.
    pub resource: String,
    /// The action.
    pub action: String,
}

impl Right {
    /// ACTION:RESOURCE as a scope token of OAuth (RFC 6749, section 3.3), percent-encoded where such a token cannot hold what they
    /// do. The first colon parts them, so those of the action are encoded too.
    pub fn scope_token(&self) -> String {
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        let action = percent::encoded(&self.action, |byte| plain(byte) && byte != b':');
        format!("{action}:{}", percent::encoded(&self.resource, plain))
    }

    /// The right of a scope token, where it is written as [`Self::scope_token`] writes it and in no other way.
    pub fn of_scope_token(token: &str) -> Option<Self> {
        let (action, resource) = token.split_once(':')?;
        let right = Self { resource: percent::decoded(resource)?, action: percent::decoded(action)? };
        let fits = !right.action.is_empty() && !right.resource.is_empty() && right.scope_token() == token;
        fits.then_some(right)
    }
}

/// The answer to a request. Signed by a service key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The device.
    pub device: DeviceId,
    /// The request's nonce.
    pub nonce: Nonce,
    /// [`Reply`], sealed to the request's `reply_to`.
    pub sealed: Sealed,
}

impl Document for Answer {
    const KIND: &'static str = "answer";
}

/// What an answer holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The grants, Biscuits with their next secret key. What is not among them is withdrawn.
    Grants(Vec<Vec<u8>>),
    /// No, finally.
    Refused(String),
    /// A task token, a Biscuit with its next secret key.
    Task(Vec<u8>),
}

const PURPOSE: &str = "hardtack/answer/v1";

impl Answer {
    /// Seals `reply` for the request.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when the request's key is unusable.
    pub fn seal(request: &Request, reply: &Reply, rng: &mut (impl RngCore + CryptoRng)) -> Result<Self, Refused> {
        let plaintext = Zeroizing::new(encode(reply));
        let sealed = Sealed::seal(&plaintext, &request.reply_to, PURPOSE, &request.nonce.0, rng)?;
        Ok(Self { device: request.device.clone(), nonce: request.nonce, sealed })
    }

    /// Opens the reply with the key that was made for the request.
    ///
    /// # Errors
    /// [`Refused::CannotOpen`] or [`Refused::Malformed`].
    pub fn open(&self, key: &SealingKey) -> Result<Reply, Refused> {
        let plaintext = self.sealed.open(key, PURPOSE, &self.nonce.0)?;
        decode(&plaintext, MESSAGE_BYTES_MAX)
    }
}

/// The retained word about a device, for operators. Signed by its identity key. The last will, and a device that
/// ends in order, say [`State::GONE`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// The device.
    pub device: DeviceId,
    /// `online`, `offline`, `stale` or `locked`, as the device saw it, or [`State::GONE`].
    pub mode: String,
    /// The floor E when it was signed.
    pub floor: Timestamp,
    /// Complete revocation positions.
    pub feeds: Vec<Position>,
    /// Records that the collector has not acknowledged.
    pub pending: u64,
}

impl State {
    /// The mode of a device that is not connected: the connection broke, or it was stopped.
    pub const GONE: &'static str = "gone";
}

impl Document for State {
    const KIND: &'static str = "state";
    const BYTES_MAX: usize = 4096;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_right_is_one_scope_token_and_each_scope_token_one_right() {
        let right = |action: &str, resource: &str| Right { resource: resource.into(), action: action.into() };
        let mut written = std::collections::BTreeSet::new();
        for (right, token) in [
            (right("read", "modbus/*"), "read:modbus/*"),
            (right("call", "opc/ns=2:s=x"), "call:opc/ns=2:s=x"),
            (right("read", "modbus/größe"), "read:modbus/gr%C3%B6%C3%9Fe"),
            (right("read", "a b\"c"), "read:a%20b%22c"),
            (right("a:b", "c"), "a%3Ab:c"),
            (right("a", "b:c"), "a:b:c"),
            // No resource has one, but who knows what an action is called.
            (right("100%", "a"), "100%25:a"),
            (right("100%25", "a"), "100%2525:a"),
        ] {
            assert_eq!(right.scope_token(), token);
            assert_eq!(Right::of_scope_token(token), Some(right));
            assert!(token.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e)), "{token}");
            assert!(written.insert(token));
        }
        // One right has no second name, so nothing passes that looks like another.
        for other in [
            "read",
            ":a",
            "read:",
            "re%61d:a",
            "read:a%2Fb",
            "read:%2a",
            "read:gr%c3%b6",
            "read:größe",
            "read:a%",
            "read:%FF",
        ] {
            assert_eq!(Right::of_scope_token(other), None, "{other}");
        }
    }

    #[test]
    fn topics_go_both_ways_and_strangers_are_none() {
        let fleet: FleetId = "acme".parse().unwrap();
        let device: DeviceId = "gw-07".parse().unwrap();
        let feed: FeedId = "main".parse().unwrap();
        for topic in [
            Topic::Bundle(3),
            Topic::Policy(9),
            Topic::FeedHead(feed.clone()),
            Topic::FeedRules(feed.clone()),
            Topic::FeedEmergency(feed.clone(), KeyId([0xab; 8])),
            Topic::FeedDelta(feed.clone(), 63),
            Topic::FeedSkip(feed.clone(), 3, 7),
            Topic::FeedManifest(feed.clone()),
            Topic::FeedPiece(feed.clone(), PartKey::Rules, 0),
            Topic::FeedPiece(feed, "fingerprints-9-64-000102030405060708090a0b0c0d0e0f".parse().unwrap(), 2),
            Topic::UpHello(device.clone()),
            Topic::UpAudit(device.clone()),
            Topic::UpRequest(device.clone()),
            Topic::DownAck(device.clone()),
            Topic::DownAnswer(device.clone()),
            Topic::State(device.clone()),
            Topic::EnrolUp(device.clone()),
            Topic::EnrolDown(device),
        ] {
            assert_eq!(Topic::parse(&topic.text(&fleet), &fleet), Some(topic));
        }
        let main = "main".parse().unwrap();
        let of_feed = device_filters(&fleet, &"gw-07".parse().unwrap(), &main)
            .iter()
            .map(|filter| feed_of_filter(&fleet, filter))
            .collect::<Vec<_>>();
        assert_eq!(of_feed, [None, None, Some(main.clone()), Some(main), None, None]);
        for other in
            service_filters(&fleet).iter().map(String::as_str).chain(["hardtack/1/other/feed/main/+", "feed/main"])
        {
            assert_eq!(feed_of_filter(&fleet, other), None, "{other}");
        }
        for stranger in ["", "hardtack/1/other/bundle/1", "hardtack/1/acme/bundle/x", "hardtack/1/acme/dev/+/state"] {
            assert_eq!(Topic::parse(stranger, &fleet), None, "{stranger}");
        }
    }
}
