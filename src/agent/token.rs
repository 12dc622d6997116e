//! From bytes to a token that may be reasoned about.
//!
//! Owns: admission (structure, vocabulary, signatures), the facts of ours that a token states, the cache of verified
//! tokens.
//! Never: judges time, revocation, budgets or rights. `decide.rs` does. Keeps nothing of a foreign token but its place
//! in a bounded cache.
//! Read next: `decide.rs`.

use std::sync::Arc;

use biscuit_auth::error::{Format, Token as TokenError};
use biscuit_auth::Biscuit;
use sha2::{Digest, Sha256};

use super::outcomes::Outcomes;
use super::recent::Recent;
use super::request::Reason;
use crate::ids::{BlockId, GrantId, RiskClass};
use crate::profile::VerifyLimits;
use crate::time::{Millis, Timestamp};
use crate::wire::biscuit::{self, unusable, Defect, Fact, Term, Token, PATTERN_NOT_TEXT};
use crate::wire::bundle::TrustBundle;
use crate::wire::link::Right;
use crate::wire::policy::TimeClass;
use crate::wire::revocation::slot::Slot;
use crate::wire::token::ClassRight;

/// A denial with what to tell the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The reason.
    pub reason: Reason,
    /// What happened and what to do.
    pub explain: String,
    /// Which part of the fleet's policy decided, or which check of the token, if one did.
    pub by: Option<Clause>,
}

/// What decides: a part of the fleet's policy, or a check of a token, by its place among its like, from 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clause {
    /// `check if …` of the policy.
    Check(usize),
    /// `allow if …` or `deny if …`.
    Policy(usize),
    /// A check of the token.
    Token {
        /// The block that has it: 0 is the issuer's.
        block: usize,
        /// Its place there.
        check: usize,
        /// What an explanation shows of it.
        text: String,
    },
}

impl Denial {
    /// A denial.
    pub fn new(reason: Reason, explain: impl Into<String>) -> Self {
        Self { reason, explain: explain.into(), by: None }
    }

    /// The same, and what decided.
    pub(super) fn by(self, clause: Option<Clause>) -> Self {
        Self { by: clause, ..self }
    }
}

/// Whether a token is a fallback grant or a task's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `kind("grant")`.
    Grant,
    /// `kind("task")`.
    Task,
}

/// How many questions about each token are remembered, on average.
const OUTCOMES_PER_TOKEN: usize = 4;

/// A token whose signatures were checked, with what it states.
pub struct Verified {
    /// The library's token, for evaluation.
    pub biscuit: Biscuit,
    /// Its content.
    pub token: Token,
    /// What block 0 states.
    pub claims: Claims,
    /// SHA-256 of its bytes.
    pub digest: [u8; 32],
}

/// What block 0 states in our vocabulary, and the few labels that count elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    /// Which root key signed it.
    pub root_key_id: u32,
    /// `fleet`.
    pub fleet: String,
    /// `grant`.
    pub grant: GrantId,
    /// `kind`.
    pub kind: Kind,
    /// `owner`.
    pub owner: String,
    /// `for_device`.
    pub device: Option<String>,
    /// `for_group`.
    pub group: Option<String>,
    /// `feed`.
    pub feed: Option<String>,
    /// `audience`.
    pub audience: Option<String>,
    /// `serial`: the slot and the number in it under which the issuer can revoke it.
    pub serial: Option<(Slot, u32)>,
    /// `issued`.
    pub issued: Timestamp,
    /// `expires`.
    pub expires: Timestamp,
    /// `for_task` in any block.
    pub tasks: Vec<String>,
    /// `uses_max`, with the index of the block that holds it.
    pub uses: Vec<(usize, u64)>,
    /// `staleness_max`.
    pub staleness_max: Vec<(RiskClass, Millis)>,
    /// `offline_max`.
    pub offline_max: Option<Millis>,
    /// `boots_max`.
    pub boots_max: Option<u32>,
    /// `task_ttl_max`.
    pub task_ttl_max: Option<Millis>,
    /// `min_time_class`: it is judged under no more lenient class.
    pub min_time_class: Option<TimeClass>,
    /// `may_begin`: selector and class.
    pub may_begin: Vec<(String, String)>,
    /// `may_step`: selector and class.
    pub may_step: Vec<(String, String)>,
    /// `class_right` and `class_right_prefix`.
    pub class_rights: Vec<ClassRight>,
}

impl Verified {
    /// The ids of the blocks, block 0 first.
    pub fn chain(&self) -> impl DoubleEndedIterator<Item = &BlockId> {
        self.token.blocks.iter().map(|block| &block.id)
    }
}

/// Admits a token: structure, vocabulary, signatures, the issuer's regular expressions, in this order. `made_here` says whether
/// this agent made a block.
///
/// # Errors
/// The first reason that applies.
pub fn admit(
    bytes: &[u8],
    limits: &VerifyLimits,
    trust: &TrustBundle,
    made_here: impl Fn(&BlockId) -> bool,
) -> Result<Verified, Denial> {
    let token = biscuit::decode(bytes, limits).map_err(denial_of)?;
    let claims = Claims::read(&token, made_here)?;
    let issuer = trust.issuers.iter().find(|issuer| issuer.root_key_id == claims.root_key_id).ok_or_else(|| {
        Denial::new(
            Reason::UnknownRoot,
            format!("no root key {} in trust bundle {}; ask the fleet for a token", claims.root_key_id, trust.version),
        )
    })?;
    let key = biscuit_auth::PublicKey::from_bytes(issuer.key.as_bytes(), biscuit_auth::Algorithm::Ed25519)
        .expect("a key of a trust bundle is a valid Ed25519 key");
    let biscuit = Biscuit::from(bytes, key).map_err(|error| {
        let unsigned = matches!(
            error,
            TokenError::Format(Format::Signature(_) | Format::SealedSignature | Format::InvalidSignatureSize(_))
        );
        if unsigned {
            Denial::new(Reason::BadSignature, "a signature of the token does not fit: it was changed or forged")
        } else {
            Denial::new(Reason::Malformed, format!("no valid Biscuit: {error}"))
        }
    })?;
    if let Some(why) = token.patterns.iter().find_map(|pattern| match pattern {
        Some(pattern) => unusable(pattern).map(|why| format!("a regular expression of block 0 is none ({why})")),
        None => Some(format!("in block 0 {PATTERN_NOT_TEXT}")),
    }) {
        return Err(Denial::new(Reason::Malformed, format!("the token is refused: {why}")));
    }
    Ok(Verified { biscuit, token, claims, digest: Sha256::digest(bytes).into() })
}

fn denial_of(defect: Defect) -> Denial {
    let reason = match &defect {
        Defect::Malformed(_) => Reason::Malformed,
        Defect::TooLarge(_) => Reason::TooLarge,
        Defect::TooComplex(_) => Reason::TooComplex,
        Defect::WrongAlgorithm => Reason::WrongAlgorithm,
    };
    Denial::new(reason, format!("the token is refused: {defect}"))
}

impl Claims {
    /// What a token states, if it states what it must, once each.
    ///
    /// # Errors
    /// [`Reason::Malformed`], or [`Reason::UnknownRoot`] when it does not say which root signed it.
    pub fn read(token: &Token, made_here: impl Fn(&BlockId) -> bool) -> Result<Self, Denial> {
        let malformed = |what: String| Denial::new(Reason::Malformed, format!("the token is refused: {what}"));
        let facts = &token.blocks[0].facts;
        let once = |name: &str| once(facts, name).map_err(malformed);
        let text = |name: &str| -> Result<Option<String>, Denial> {
            let Some(term) = once(name)? else { return Ok(None) };
            let text = term.text().ok_or_else(|| malformed(format!("block 0 states `{name}` of another type")))?;
            Ok(Some(text.to_owned()))
        };
        let number = |name: &str| -> Result<Option<u64>, Denial> {
            match once(name)? {
                Some(Term::Integer(number)) if *number >= 0 => Ok(Some(*number as u64)),
                Some(_) => Err(malformed(format!("block 0 states `{name}` as something else than a count"))),
                None => Ok(None),
            }
        };
        let date = |name: &str| match once(name)? {
            Some(Term::Date(secs)) if *secs < Timestamp::MAX.secs_floor() => Ok(Timestamp::from_secs(*secs)),
            Some(_) => Err(malformed(format!("block 0 states `{name}` as something else than a date"))),
            None => Err(malformed(format!("block 0 does not state `{name}`"))),
        };
        let required = |name: &str| text(name)?.ok_or_else(|| malformed(format!("block 0 does not state `{name}`")));

        let kind = match required("kind")?.as_str() {
            "grant" => Kind::Grant,
            "task" => Kind::Task,
            other => return Err(malformed(format!("kind is neither `grant` nor `task` but {other:?}"))),
        };
        let (device, group) = (text("for_device")?, text("for_group")?);
        if device.is_none() && group.is_none() {
            return Err(malformed("block 0 states neither `for_device` nor `for_group`".into()));
        }
        let uses = uses(token, made_here)?;
        if device.is_none() && (kind == Kind::Grant || uses.iter().any(|(block, _)| *block == 0)) {
            return Err(malformed("a grant, and a block 0 with `uses_max`, must state `for_device`".into()));
        }
        let grant =
            required("grant")?.parse().map_err(|_| malformed("`grant` is not 128 bits in hexadecimal".into()))?;
        let root_key_id = token.root_key_id.ok_or_else(|| {
            Denial::new(
                Reason::UnknownRoot,
                "the token does not say which root key signed it; mint it with root_key_id",
            )
        })?;
        let (issued, expires) = (date("issued")?, date("expires")?);
        Ok(Self {
            serial: serial(facts, Slot::of(issued, expires)).map_err(malformed)?,
            root_key_id,
            fleet: required("fleet")?,
            grant,
            kind,
            owner: required("owner")?,
            device,
            group,
            feed: text("feed")?,
            audience: text("audience")?,
            issued,
            expires,
            tasks: token
                .blocks
                .iter()
                .flat_map(|block| named(&block.facts, "for_task"))
                .filter_map(|terms| terms.first().and_then(Term::text).map(str::to_owned))
                .collect(),
            uses,
            staleness_max: pairs(facts, "staleness_max").map_err(malformed)?,
            offline_max: number("offline_max")?.map(Millis::from_secs),
            boots_max: number("boots_max")?.map(|boots| u32::try_from(boots).unwrap_or(u32::MAX)),
            task_ttl_max: number("task_ttl_max")?.map(Millis::from_secs),
            min_time_class: match text("min_time_class")? {
                Some(class) => {
                    Some(class.parse().map_err(|refused| malformed(format!("`min_time_class`: {refused}")))?)
                }
                None => None,
            },
            may_begin: selectors(facts, "may_begin"),
            may_step: selectors(facts, "may_step"),
            class_rights: class_rights(facts).map_err(malformed)?,
        })
    }
}

fn named<'a: 'n, 'n>(facts: &'a [Fact], name: &'n str) -> impl Iterator<Item = &'a [Term]> + use<'a, 'n> {
    facts.iter().filter(move |fact| fact.name == name).map(|fact| fact.terms.as_slice())
}

/// Selectors with a class of task each.
fn selectors(facts: &[Fact], name: &str) -> Vec<(String, String)> {
    let pair = |terms: &[Term]| match terms {
        [Term::Text(selector), Term::Text(class)] => Some((selector.clone(), class.clone())),
        _ => None,
    };
    named(facts, name).filter_map(pair).collect()
}

/// The single term of a fact that may be stated once.
fn once<'a>(facts: &'a [Fact], name: &str) -> Result<Option<&'a Term>, String> {
    let mut found = named(facts, name);
    match (found.next(), found.next()) {
        (None, _) => Ok(None),
        (Some([term]), None) => Ok(Some(term)),
        (Some(_), None) => Err(format!("block 0 states `{name}` with more or fewer than one term")),
        (Some(_), Some(_)) => Err(format!("block 0 states `{name}` more than once")),
    }
}

/// `serial(slot, number)`. In another slot than the token expires in, its revocation would be dropped too early.
fn serial(facts: &[Fact], slot: Slot) -> Result<Option<(Slot, u32)>, String> {
    let mut stated = named(facts, "serial");
    match (stated.next(), stated.next()) {
        (None, _) => Ok(None),
        (Some([Term::Integer(named), Term::Integer(number)]), None) if *named == i64::from(slot.number()) => {
            u32::try_from(*number).map(|number| Some((slot, number))).map_err(|_| "`serial` is out of range".into())
        }
        (Some(_), _) => Err("block 0 does not state `serial` once, with its own slot and a number".into()),
    }
}

/// `uses_max` of the issuer and of this agent. Anybody else's would need state per foreign token.
fn uses(token: &Token, made_here: impl Fn(&BlockId) -> bool) -> Result<Vec<(usize, u64)>, Denial> {
    let malformed = |what: &str| Denial::new(Reason::Malformed, format!("the token is refused: {what}"));
    let mut uses = Vec::new();
    for (index, block) in token.blocks.iter().enumerate() {
        match once(&block.facts, "uses_max") {
            Ok(None) => {}
            Ok(Some(Term::Integer(max))) if *max >= 0 && (index == 0 || made_here(&block.id)) => {
                uses.push((index, *max as u64));
            }
            Ok(Some(Term::Integer(max))) if *max >= 0 => {
                return Err(malformed("`uses_max` in a block that neither the issuer nor this agent made"));
            }
            Ok(Some(_)) | Err(_) => return Err(malformed("`uses_max` is not a single count")),
        }
        if block.rule_heads.iter().any(|head| head == "uses_max") {
            return Err(malformed("`uses_max` made by a rule"));
        }
    }
    Ok(uses)
}

fn pairs(facts: &[Fact], name: &str) -> Result<Vec<(RiskClass, Millis)>, String> {
    named(facts, name)
        .map(|terms| match terms {
            [Term::Text(risk), Term::Integer(secs)] if *secs >= 0 => {
                let risk = risk.parse().map_err(|error| format!("{error}"))?;
                Ok((risk, Millis::from_secs(*secs as u64)))
            }
            _ => Err(format!("`{name}` is not a class and a count of seconds")),
        })
        .collect()
}

/// What a grant lets classes of tasks do. A prefix that does not end at a slash would reach into a sibling's name.
fn class_rights(facts: &[Fact]) -> Result<Vec<ClassRight>, String> {
    let mut rights = Vec::new();
    for fact in facts {
        let (class, resource, action) = match (fact.name.as_str(), fact.terms.as_slice()) {
            ("class_right", [Term::Text(class), Term::Text(resource), Term::Text(action)]) => {
                (class, resource.clone(), action)
            }
            ("class_right_prefix", [Term::Text(class), Term::Text(prefix), Term::Text(action)]) => {
                (class, below(prefix)?, action)
            }
            ("right_prefix", [Term::Text(prefix), Term::Text(_)]) => {
                below(prefix)?;
                continue;
            }
            ("class_right" | "class_right_prefix" | "right_prefix", _) => {
                return Err(format!("`{}` with terms that it does not have", fact.name));
            }
            _ => continue,
        };
        let class = class.parse().map_err(|error| format!("{error}"))?;
        rights.push(ClassRight { class, right: Right { resource, action: action.clone() } });
    }
    Ok(rights)
}

fn below(prefix: &str) -> Result<String, String> {
    if prefix.len() > 1 && prefix.ends_with('/') {
        Ok(format!("{prefix}*"))
    } else {
        Err(format!("a prefix ends at `/`, not {prefix:?}"))
    }
}

/// Verified tokens by the SHA-256 of their bytes, and what was decided of them.
pub struct Cache {
    tokens: Recent<Arc<Verified>>,
    /// Runs that allowed.
    pub(super) outcomes: Outcomes,
    /// Tokens found.
    pub hits: u64,
    /// Tokens verified.
    pub misses: u64,
}

impl Cache {
    /// A cache of at most `entries` tokens.
    pub fn new(entries: usize) -> Self {
        let outcomes = Outcomes::new(entries.saturating_mul(OUTCOMES_PER_TOKEN));
        Self { tokens: Recent::new(entries), outcomes, hits: 0, misses: 0 }
    }

    /// The token of these bytes, verified now or before. A token that is not admitted is not kept.
    ///
    /// # Errors
    /// Those of `verify`.
    pub fn get(
        &mut self,
        bytes: &[u8],
        verify: impl FnOnce() -> Result<Verified, Denial>,
    ) -> Result<Arc<Verified>, Denial> {
        let misses = &mut self.misses;
        let before = *misses;
        let found = self.tokens.get(Sha256::digest(bytes).into(), || {
            *misses += 1;
            verify().map(Arc::new)
        });
        if self.misses == before {
            self.hits += 1;
        }
        found
    }

    /// Forgets every token: the keys that they were verified under, or what this agent made, changed.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.outcomes.clear();
    }
}
