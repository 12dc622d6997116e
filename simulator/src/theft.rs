//! Hostile tokens that only somebody with a key of his own, or with an open token in hand, can make.
//!
//! Owns: what they look like. They are of no wallet, and no grant that exists covers them.
//! Never: presents one.
//! Read next: `operator.rs`, which keeps them for a while.

use biscuit_auth::builder::BlockBuilder;
use ed25519_dalek::SigningKey;
use hardtack::ids::{DeviceId, FeedId, FleetId, GrantId};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::link::Right;
use hardtack::wire::token::{mint_task, to_text, Bearer, Held, TaskSpec};
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use crate::check::authority::{Narrowing, ONE_RESOURCE};
use crate::operator::HONEST;

/// What only somebody with a key of his own, or with an open token in hand, can make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Theft {
    /// A task token signed by somebody who is not the issuer, with the issuer's number on it.
    Forged,
    /// An honest token to read, which its holder narrowed to one resource,
    OneResource,
    /// or to writing,
    OnlyWrite,
    /// or to the next two minutes, in a check that only evaluation can tell.
    Until,
    /// An honest token to read, into which its holder wrote the right to write.
    Widened,
}

/// What [`Theft::Until`] narrows to.
const UNTIL: Millis = Millis::from_secs(120);

impl Theft {
    /// How a token of that kind is narrowed that was made then.
    pub(crate) fn narrowing(self, made: Timestamp) -> Option<Narrowing> {
        match self {
            Self::Forged | Self::Widened => None,
            Self::OneResource => Some(Narrowing::OneResource),
            Self::OnlyWrite => Some(Narrowing::OnlyWrite),
            Self::Until => Some(Narrowing::Until(made + UNTIL)),
        }
    }
}

/// For which gateway a token is made, and whose is used for it.
#[derive(Clone)]
pub(crate) struct Victim {
    pub(crate) fleet: FleetId,
    pub(crate) device: DeviceId,
    pub(crate) owner: String,
    pub(crate) feed: FeedId,
    /// The issuer's number and key.
    pub(crate) root_key_id: u32,
    pub(crate) key: SigningKey,
}

impl Victim {
    /// Makes one.
    pub(crate) fn steal(&self, theft: Theft, at: Timestamp, thief: &mut ChaCha8Rng) -> String {
        let key = match theft {
            Theft::Forged => SigningKey::generate(thief),
            Theft::OneResource | Theft::OnlyWrite | Theft::Until | Theft::Widened => self.key.clone(),
        };
        let token = self.mint(at, &key, thief);
        let plain = BlockBuilder::new;
        let block = match theft {
            Theft::Forged => return to_text(&token),
            Theft::OneResource => plain().check(format!("check if resource(\"{ONE_RESOURCE}\")").as_str()),
            Theft::OnlyWrite => plain().check(r#"check if operation("write")"#),
            Theft::Until => {
                let end = at + UNTIL;
                plain().check(format!("check if time($t), $t <= {end} or operation(\"none\")").as_str())
            }
            Theft::Widened => plain()
                .fact(r#"right("modbus/pump1/speed", "write")"#)
                .and_then(|block| block.fact(r#"right_prefix("modbus/", "write")"#)),
        };
        let held = Held::from_bytes(&token).and_then(|held| held.append(block.expect(HONEST), thief));
        to_text(&held.and_then(|held| held.to_bytes()).expect(HONEST))
    }

    fn mint(&self, at: Timestamp, key: &SigningKey, thief: &mut ChaCha8Rng) -> Vec<u8> {
        let mut random = [0; 16];
        thief.fill_bytes(&mut random);
        let spec = TaskSpec {
            fleet: self.fleet.clone(),
            grant: GrantId(random),
            bearer: Bearer::Device(self.device.clone()),
            owner: self.owner.clone(),
            audience: None,
            feed: Some(self.feed.clone()),
            task: format!("t-{}", hardtack::ids::hex(&random[..8])).parse().expect(HONEST),
            issued: at - Millis(1000),
            expires: at + Millis::from_secs(3600),
            serial: None,
            rights: vec![Right { resource: "modbus/*".into(), action: "read".into() }],
            uses_max: None,
            staleness_max: Vec::new(),
            min_time_class: None,
        };
        mint_task(&spec, key, self.root_key_id, thief).expect(HONEST)
    }
}
