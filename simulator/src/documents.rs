//! Identity documents: what a provider says of whoever begins a task.
//!
//! Owns: the provider with its keys, the documents that it gives out, and those that somebody else does.
//! Never: says whether one counts; `check/identity.rs` does.
//! Read next: `workload.rs`, where they are brought.

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signer, SigningKey};
use hardtack::agent::request::IdentityDocument;
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::Initiator;
use hardtack::wire::identity::{DocumentType, IdentityIssuer, IdentityKey, VerifyingKey};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use crate::random::{below, between, bytes};

/// Whom the fleet believes.
const ISSUER: &str = "https://id.sim";
/// For whom its documents are.
const AUDIENCE: &str = "hardtack";
/// How long one that lives for a moment does, in milliseconds.
const SHORT: (u64, u64) = (40_000, 180_000);
/// How long ago one has ended that has, and how far ahead one is that does not count yet.
const OFF: (u64, u64) = (5000, 3 * 3_600_000);

/// A provider: its newest key is the last.
#[derive(Debug, Clone)]
pub(crate) struct Provider {
    keys: Vec<SigningKey>,
    stranger: SigningKey,
}

/// A document that a program brings.
#[derive(Debug, Clone)]
pub(crate) struct Brought {
    pub(crate) document: IdentityDocument,
    /// Who it says that somebody is.
    pub(crate) initiator: Initiator,
    /// The key that signed it, as bundles name it.
    pub(crate) kid: String,
    /// From when on it counts,
    pub(crate) issued: Timestamp,
    /// and until when.
    pub(crate) ends: Timestamp,
    /// Why it never counts, if so.
    pub(crate) wrong: Option<&'static str>,
}

impl Provider {
    pub(crate) fn new(seed: u64) -> Self {
        let key = |purpose| SigningKey::from_bytes(&bytes(seed, "provider", purpose));
        Self { keys: vec![key("key")], stranger: key("stranger") }
    }

    /// From now on it signs with another key, and the one before is none of its.
    pub(crate) fn rotate(&mut self, fresh: SigningKey) {
        self.keys.push(fresh);
    }

    /// What trust bundles say of it.
    pub(crate) fn public(&self) -> IdentityIssuer {
        let key = |key: &SigningKey| VerifyingKey::EdDsa(key.verifying_key().into());
        let last = self.keys.last().map(|last| IdentityKey { kid: kid(self.keys.len()), key: key(last) });
        IdentityIssuer { name: ISSUER.into(), audiences: vec![AUDIENCE.into()], keys: last.into_iter().collect() }
    }

    /// A document that lives so long, or one that does not count, by chance.
    pub(crate) fn draw(&self, rng: &mut ChaCha8Rng, at: Timestamp, ttl: Millis) -> Brought {
        let (short, off) = (Millis(between(rng, SHORT.0, SHORT.1)), Millis(between(rng, OFF.0, OFF.1)));
        let kind = below(rng, 12);
        let (issued, ends) = match kind {
            0 | 1 => (at - off - ttl, at - off),
            2 => (at + off, at + off + ttl),
            3 | 4 => (at, at + short),
            _ => (at, at + ttl),
        };
        let (audience, wrong) = match kind {
            5 => ("somebody-else", Some("it is for somebody else")),
            6 => (AUDIENCE, Some("nobody whom the fleet believes signed it")),
            _ => (AUDIENCE, None),
        };
        let number = match kind {
            // The key before, if there was one.
            7 | 8 => self.keys.len().saturating_sub(1).max(1),
            _ => self.keys.len(),
        };
        let key = if kind == 6 { &self.stranger } else { &self.keys[number - 1] };
        let (issued, ends) = (Timestamp::from_secs(issued.secs_floor()), Timestamp::from_secs(ends.secs_floor()));
        let subject = format!("user-{}", below(rng, 100));
        let header = json!({"alg": "EdDSA", "kid": kid(number), "typ": "JWT"});
        let claims = json!({
            "iss": ISSUER, "sub": subject, "aud": audience, "iat": issued.secs_floor(), "exp": ends.secs_floor(),
        });
        let parts = [header, claims].map(|part| BASE64URL_NOPAD.encode(part.to_string().as_bytes())).join(".");
        let token = format!("{parts}.{}", BASE64URL_NOPAD.encode(&key.sign(parts.as_bytes()).to_bytes()));
        let document = IdentityDocument { form: DocumentType::Oidc, token };
        Brought {
            document,
            initiator: Initiator { issuer: ISSUER.into(), subject },
            kid: kid(number),
            issued,
            ends,
            wrong,
        }
    }
}

/// How the provider calls its keys.
fn kid(number: usize) -> String {
    format!("k{number}")
}
