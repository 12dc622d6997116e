//! The token vocabulary: which facts and checks our Biscuits hold, and the only place that writes them.
//!
//! Owns: names of facts, [`GrantSpec`] and [`TaskSpec`] with their minting, the blocks that an agent appends, rights and
//! what they cover, the token's text form.
//! Never: admits, verifies or evaluates a token; picks randomness or reads the time.
//! Read next: `biscuit.rs`, which reads any token; `agent/token.rs`, which admits one.

use std::fmt;

use biscuit_auth::builder::{
    Binary, BlockBuilder, Check, CheckKind, Expression, Fact, Op, Predicate, Rule, Term, Unary,
};
use biscuit_auth::{Algorithm, Biscuit, BiscuitBuilder, KeyPair, PrivateKey, UnverifiedBiscuit};
use ed25519_dalek::SigningKey;
use rand_core::{CryptoRng, RngCore};

use super::biscuit::REJECT_OR;
use super::link::Right;
use super::policy::TimeClass;
use super::revocation::slot::Slot;
use super::Refused;
use crate::ids::{BlockId, DeviceId, FeedId, FleetId, GrantId, GroupId, RiskClass, StepId, TaskClass, TaskId};
use crate::mutant::{active, Mutant};
use crate::time::{Millis, Timestamp};

/// Facts that only the agent adds, per decision. A block that states one, or makes one by a rule, is refused.
pub const AMBIENT: [&str; 21] = [
    "time",
    "time_class",
    "mode",
    "offline_for",
    "staleness",
    "freshness",
    "device",
    "profile",
    "workload",
    "enforcer",
    "task",
    "task_class",
    "step",
    "operation",
    "resource",
    "destination",
    "risk",
    "boots",
    "argument",
    "argument_null",
    "argument_size",
];

/// With how many terms each of them is stated, where that is not one.
pub const AMBIENT_PAIRS: [&str; 2] = ["argument", "argument_size"];

/// Facts that block 0 of an issuer's token may state, with how many terms. Policies see these, and no label of another block.
pub const STATED: [(&str, usize); 24] = [
    ("audience", 1),
    ("boots_max", 1),
    ("class_right", 3),
    ("class_right_prefix", 3),
    ("expires", 1),
    ("feed", 1),
    ("fleet", 1),
    ("for_device", 1),
    ("for_group", 1),
    ("for_task", 1),
    ("grant", 1),
    ("issued", 1),
    ("kind", 1),
    ("may_begin", 2),
    ("may_step", 2),
    ("min_time_class", 1),
    ("offline_max", 1),
    ("owner", 1),
    ("right", 2),
    ("right_prefix", 2),
    ("serial", 2),
    ("staleness_max", 2),
    ("task_ttl_max", 1),
    ("uses_max", 1),
];

/// Operations that begin with this are the agent's own.
pub const RESERVED: &str = "hardtack:";
/// The operation by which a planner would take a step.
pub const EXCHANGE: &str = "hardtack:exchange";
/// The operation of an enforcement point that asks what a token is good for.
pub const INTROSPECT: &str = "hardtack:introspect";
/// The operation of whoever asks how others would be decided, in the record of that.
pub const PREVIEW: &str = "hardtack:preview";
/// The most bytes of a resource, an operation or a destination.
pub const NAME_BYTES_MAX: usize = 256;
/// The most rights that one task has.
pub const RIGHTS_MAX: usize = 32;

/// A right of a class of tasks, in a grant.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct ClassRight {
    /// The class.
    pub class: TaskClass,
    /// The right.
    pub right: Right,
}

/// What a fallback grant says.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct GrantSpec {
    /// The fleet.
    pub fleet: FleetId,
    /// 128 random bits.
    pub grant: GrantId,
    /// The device that it is for.
    pub device: DeviceId,
    /// Who answers for it.
    pub owner: String,
    /// The revocation feed that covers it.
    pub feed: Option<FeedId>,
    /// When it was minted.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// Who may begin which class of task: selector and class.
    pub may_begin: Vec<(String, TaskClass)>,
    /// For whom planners of a class of task may take steps: selector and class.
    pub may_step: Vec<(String, TaskClass)>,
    /// What those tasks may do.
    pub rights: Vec<ClassRight>,
    /// Longest powered-on time since the last acknowledged round trip.
    pub offline_max: Millis,
    /// Uses.
    pub uses_max: u64,
    /// Kernel boots since the last acknowledged round trip.
    pub boots_max: u32,
    /// Longest life of a task.
    pub task_ttl_max: Millis,
    /// Oldest revocation list per class of risk.
    pub staleness_max: Vec<(RiskClass, Millis)>,
    /// The least strict time class that it may be judged under, if it asks for one.
    pub min_time_class: Option<TimeClass>,
}

/// For whom a task token is.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bearer {
    /// One device.
    Device(DeviceId),
    /// Every device of a group.
    Group(GroupId),
}

impl Bearer {
    fn fact(&self) -> Fact {
        match self {
            Self::Device(device) => fact("for_device", [text(device.as_str())]),
            Self::Group(group) => fact("for_group", [text(group.as_str())]),
        }
    }
}

impl fmt::Display for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(device) => write!(f, "device {device}"),
            Self::Group(group) => write!(f, "group {group}"),
        }
    }
}

/// What an issuer's task token says.
#[derive(Clone, PartialEq, Debug, serde::Serialize, serde::Deserialize)]
pub struct TaskSpec {
    /// The fleet.
    pub fleet: FleetId,
    /// The grant that the issuer found to cover it. One for a group is covered by as many as the group has devices, and this is
    /// an id of its own.
    pub grant: GrantId,
    /// For whom it is.
    pub bearer: Bearer,
    /// Who answers for it.
    pub owner: String,
    /// For which audience it is, if for one.
    pub audience: Option<String>,
    /// The revocation feed that covers it.
    pub feed: Option<FeedId>,
    /// The task.
    pub task: TaskId,
    /// When it was minted.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// Its number among the tokens that the issuer gave out in its slot, [`TaskSpec::slot`].
    pub serial: Option<u32>,
    /// What it may do.
    pub rights: Vec<Right>,
    /// Uses, if bounded. They are counted on one device, so that one for a group has none.
    pub uses_max: Option<u64>,
    /// Oldest revocation list per class of risk.
    pub staleness_max: Vec<(RiskClass, Millis)>,
    /// The least strict time class that it may be judged under, if it asks for one.
    pub min_time_class: Option<TimeClass>,
}

impl TaskSpec {
    /// The slot in which a token expires that says these times: it says whole seconds.
    pub fn slot(issued: Timestamp, expires: Timestamp) -> Slot {
        let said = |at: Timestamp| Timestamp::from_secs(at.secs_floor());
        Slot::of(said(issued), said(expires))
    }
}

/// The Biscuit key pair of an Ed25519 key.
pub fn key_pair(key: &SigningKey) -> KeyPair {
    let private = PrivateKey::from_bytes(key.as_bytes(), Algorithm::Ed25519).expect("32 bytes are an Ed25519 key");
    KeyPair::from(&private)
}

/// Mints a fallback grant.
///
/// # Errors
/// [`Refused::Malformed`] when a right's resource or a text is not of the required form.
pub fn mint_grant(
    spec: &GrantSpec,
    root: &SigningKey,
    root_key_id: u32,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<Vec<u8>, Refused> {
    let mut facts = common(&spec.fleet, spec.grant, "grant", &spec.owner, spec.feed.as_ref())?;
    facts.push(Bearer::Device(spec.device.clone()).fact());
    facts.push(fact("issued", [date(spec.issued.secs_floor())]));
    facts.push(fact("expires", [date(spec.expires.secs_floor())]));
    for (selector, class) in &spec.may_begin {
        facts.push(fact("may_begin", [text(bounded(selector)?), text(class.as_str())]));
    }
    for (selector, class) in &spec.may_step {
        facts.push(fact("may_step", [text(bounded(selector)?), text(class.as_str())]));
    }
    for ClassRight { class, right } in &spec.rights {
        let action = text(bounded(&right.action)?);
        facts.push(match Reach::of(right)? {
            Reach::Exactly(resource) => fact("class_right", [text(class.as_str()), text(resource), action]),
            Reach::Below(prefix) => fact("class_right_prefix", [text(class.as_str()), text(prefix), action]),
        });
    }
    facts.push(fact("offline_max", [integer(spec.offline_max.secs())?]));
    facts.push(fact("uses_max", [integer(spec.uses_max)?]));
    facts.push(fact("boots_max", [integer(u64::from(spec.boots_max))?]));
    facts.push(fact("task_ttl_max", [integer(spec.task_ttl_max.secs())?]));
    facts.extend(staleness_max(&spec.staleness_max)?);
    facts.extend(spec.min_time_class.map(min_time_class));
    mint(facts, spec.expires, root, root_key_id, rng)
}

/// Mints a task token.
///
/// # Errors
/// As [`mint_grant`], and when one for a group is to be used so many times.
pub fn mint_task(
    spec: &TaskSpec,
    root: &SigningKey,
    root_key_id: u32,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<Vec<u8>, Refused> {
    let mut facts = common(&spec.fleet, spec.grant, "task", &spec.owner, spec.feed.as_ref())?;
    facts.push(spec.bearer.fact());
    if let Some(audience) = &spec.audience {
        facts.push(fact("audience", [text(bounded(audience)?)]));
    }
    facts.push(fact("for_task", [text(spec.task.as_str())]));
    facts.push(fact("issued", [date(spec.issued.secs_floor())]));
    facts.push(fact("expires", [date(spec.expires.secs_floor())]));
    for right in &spec.rights {
        let action = text(bounded(&right.action)?);
        facts.push(match Reach::of(right)? {
            Reach::Exactly(resource) => fact("right", [text(resource), action]),
            Reach::Below(prefix) => fact("right_prefix", [text(prefix), action]),
        });
    }
    match (spec.uses_max, &spec.bearer) {
        (Some(uses), Bearer::Device(_)) => facts.push(fact("uses_max", [integer(uses)?])),
        (Some(_), Bearer::Group(_)) => return Err(Refused::Malformed("uses that no one device can count")),
        (None, _) => {}
    }
    facts.extend(staleness_max(&spec.staleness_max)?);
    if let Some(serial) = spec.serial {
        let slot = TaskSpec::slot(spec.issued, spec.expires);
        facts.push(fact("serial", [integer(slot.number().into())?, integer(serial.into())?]));
    }
    facts.extend(spec.min_time_class.map(min_time_class));
    mint(facts, spec.expires, root, root_key_id, rng)
}

fn staleness_max(bounds: &[(RiskClass, Millis)]) -> Result<Vec<Fact>, Refused> {
    let said =
        |(risk, bound): &(RiskClass, Millis)| Ok(fact("staleness_max", [text(risk.as_str()), integer(bound.secs())?]));
    bounds.iter().map(said).collect()
}

fn min_time_class(class: TimeClass) -> Fact {
    fact("min_time_class", [text(class.name())])
}

fn common(
    fleet: &FleetId,
    grant: GrantId,
    kind: &str,
    owner: &str,
    feed: Option<&FeedId>,
) -> Result<Vec<Fact>, Refused> {
    let mut facts = vec![
        fact("fleet", [text(fleet.as_str())]),
        fact("grant", [text(&grant.to_string())]),
        fact("kind", [text(kind)]),
        fact("owner", [text(bounded(owner)?)]),
    ];
    facts.extend(feed.map(|feed| fact("feed", [text(feed.as_str())])));
    Ok(facts)
}

fn mint(
    facts: Vec<Fact>,
    expires: Timestamp,
    root: &SigningKey,
    root_key_id: u32,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<Vec<u8>, Refused> {
    let unbuildable = |_| Refused::Malformed("a token that cannot be built");
    let mut builder = BiscuitBuilder::new().root_key_id(root_key_id);
    for fact in facts {
        builder = builder.fact(fact).map_err(unbuildable)?;
    }
    let builder = builder.check(until(expires)).map_err(unbuildable)?;
    let next = KeyPair::new_with_rng(Algorithm::Ed25519, rng);
    let symbols = biscuit_auth::datalog::SymbolTable::new();
    let token = builder.build_with_key_pair(&key_pair(root), symbols, &next).map_err(unbuildable)?;
    token.to_vec().map_err(unbuildable)
}

/// What the agent narrows a fallback grant to: a task credential, which stays in the wallet.
pub struct TaskBlock<'a> {
    /// The task, a label.
    pub task: &'a TaskId,
    /// The workload's first selector, a label.
    pub selector: &'a str,
    /// Its class, a label.
    pub class: &'a TaskClass,
    /// This device.
    pub device: &'a DeviceId,
    /// When it ends.
    pub expires: Timestamp,
    /// What it may do.
    pub rights: &'a [Right],
    /// Uses, if bounded.
    pub uses_max: Option<u64>,
}

impl TaskBlock<'_> {
    /// The block: labels, and checks on time, device and the rights, one by one.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when a right is not of the required form.
    pub fn build(&self) -> Result<BlockBuilder, Refused> {
        let mut alternatives = alternatives(self.rights)?;
        alternatives.push(query([predicate("operation", [text(EXCHANGE)])], []));
        let mut labels = vec![
            fact("for_task", [text(self.task.as_str())]),
            fact("selector", [text(self.selector)]),
            fact("class", [text(self.class.as_str())]),
        ];
        if let Some(uses) = self.uses_max {
            labels.push(fact("uses_max", [integer(uses)?]));
        }
        let checks =
            [until(self.expires), on_device(self.device), Check { queries: alternatives, kind: CheckKind::One }];
        block(labels, checks)
    }
}

/// What the holder of a task's child does with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Purpose {
    /// Plans: exchanges it for steps of others, and nothing else.
    Plan,
    /// Works: anything but the agent's own operations.
    Work,
}

/// The block that makes a workload's child: only for who has each of these selectors, and for its purpose alone. `device` is
/// checked too where no block of this agent above it does.
///
/// # Errors
/// [`Refused::Malformed`] when the selector cannot stand in a token.
pub fn child_block(holder: &[&str], purpose: Purpose, device: Option<&DeviceId>) -> Result<BlockBuilder, Refused> {
    let mut checks = Vec::with_capacity(holder.len() + 2);
    let unbound = purpose == Purpose::Plan && active(Mutant::PlannerUnbound);
    for selector in holder.iter().filter(|_| !unbound) {
        checks.push(one(query([predicate("workload", [text(bounded(selector)?)])], [])));
    }
    let allows = match purpose {
        Purpose::Plan => query([predicate("operation", [text(EXCHANGE)])], []),
        Purpose::Work => {
            let not_reserved =
                [value(variable("o")), value(text(RESERVED)), Op::Binary(Binary::Prefix), Op::Unary(Unary::Negate)];
            query([predicate("operation", [variable("o")])], [ops(not_reserved)])
        }
    };
    if purpose == Purpose::Work || !active(Mutant::PlannerActs) {
        checks.push(one(allows));
    }
    checks.extend(device.map(on_device));
    block(Vec::new(), checks)
}

/// What makes a step of a task's credential: one use, for one workload.
pub struct StepBlock<'a> {
    /// The task, a label.
    pub task: &'a TaskId,
    /// The step.
    pub step: &'a StepId,
    /// The selector of the workload that may use it.
    pub executor: &'a str,
    /// This device.
    pub device: &'a DeviceId,
    /// When it ends.
    pub expires: Timestamp,
    /// What it may do.
    pub rights: &'a [Right],
}

impl StepBlock<'_> {
    /// The block: labels, and checks on time, device, workload, step and the rights, one by one.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when the selector or a right is not of the required form.
    pub fn build(&self) -> Result<BlockBuilder, Refused> {
        let labels = vec![
            fact("for_task", [text(self.task.as_str())]),
            fact("for_step", [text(self.step.as_str())]),
            fact("uses_max", [Term::Integer(1)]),
        ];
        let mut checks = vec![
            until(self.expires),
            on_device(self.device),
            one(query([predicate("workload", [text(bounded(self.executor)?)])], [])),
            one(query([predicate("step", [text(self.step.as_str())])], [])),
            Check { queries: alternatives(self.rights)?, kind: CheckKind::One },
        ];
        if active(Mutant::StepAsWideAsTask) {
            checks.truncate(4);
        }
        if active(Mutant::StepForAnyWorkload) {
            checks.remove(2);
        }
        block(labels, checks)
    }
}

/// What covers each of these rights, one by one.
fn alternatives(rights: &[Right]) -> Result<Vec<Rule>, Refused> {
    let alternative = |right: &Right| {
        let action = text(bounded(&right.action)?);
        Ok(match Reach::of(right)? {
            Reach::Exactly(resource) => {
                query([predicate("resource", [text(resource)]), predicate("operation", [action])], [])
            }
            Reach::Below(prefix) => query(
                [predicate("resource", [variable("r")]), predicate("operation", [action])],
                [ops([value(variable("r")), value(text(prefix)), Op::Binary(Binary::Prefix)])],
            ),
        })
    };
    rights.iter().map(alternative).collect()
}

/// The most brackets and negations in a further check: the library's parser calls itself for each, without a bound.
const NESTED_MAX: usize = 32;

/// The block of whoever narrows a token further: checks in Datalog, and when it ends. It states nothing.
///
/// # Errors
/// What is wrong with a check, in a sentence: it is none, names parameters, chooses whom it trusts, or rejects less than it says.
pub fn further_block(checks: &[String], expires: Option<Timestamp>) -> Result<BlockBuilder, String> {
    let mut builder = BlockBuilder::new();
    for text in checks {
        let bad = |what: &str| format!("{:?} {what}", text.chars().take(80).collect::<String>());
        let source = text.trim().trim_end_matches(';');
        if source.chars().filter(|c| matches!(c, '(' | '[' | '{' | '!')).count() > NESTED_MAX {
            return Err(bad("has more than 32 brackets and negations: make several checks of it"));
        }
        let no_check = "is no check in Datalog, such as: check if operation(\"read\")";
        let check = Check::try_from(source).map_err(|_| bad(no_check))?;
        if check.queries.iter().any(|query| !query.scopes.is_empty()) {
            return Err(bad(
                "says whom it trusts: leave `trusting` out, a check sees what the issuer and the agent state",
            ));
        }
        if check.kind == CheckKind::Reject && check.queries.len() > 1 {
            return Err(bad(&format!("is {REJECT_OR}")));
        }
        // Nothing else can be wrong with one that could be parsed.
        builder = builder.check(check).map_err(|_| bad("has a parameter in braces: write its value there"))?;
    }
    match expires {
        Some(expires) => builder.check(until(expires)).map_err(|error| error.to_string()),
        None => Ok(builder),
    }
}

fn one(query: Rule) -> Check {
    Check { queries: vec![query], kind: CheckKind::One }
}

fn block(labels: Vec<Fact>, checks: impl IntoIterator<Item = Check>) -> Result<BlockBuilder, Refused> {
    let unbuildable = |_| Refused::Malformed("a block that cannot be built");
    let mut builder = BlockBuilder::new();
    for label in labels {
        builder = builder.fact(label).map_err(unbuildable)?;
    }
    for check in checks {
        builder = builder.check(check).map_err(unbuildable)?;
    }
    Ok(builder)
}

/// A Biscuit that this side holds with its next secret key, and what stands in it.
#[derive(Clone)]
pub struct Held(UnverifiedBiscuit);

impl Held {
    /// A token from its bytes.
    ///
    /// # Errors
    /// [`Refused::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        UnverifiedBiscuit::from(bytes).map(Self).map_err(|_| Refused::Malformed("no Biscuit"))
    }

    /// The token with one more block.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when it is sealed.
    pub fn append(&self, block: BlockBuilder, rng: &mut (impl RngCore + CryptoRng)) -> Result<Self, Refused> {
        let next = KeyPair::new_with_rng(Algorithm::Ed25519, rng);
        self.0
            .append_with_keypair(&next, block)
            .map(Self)
            .map_err(|_| Refused::Malformed("a token that cannot be narrowed"))
    }

    /// The token without its next secret key: nobody can append to it.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when it is sealed already.
    pub fn seal(&self) -> Result<Self, Refused> {
        self.0.seal().map(Self).map_err(|_| Refused::Malformed("a token that is sealed already"))
    }

    /// The bytes.
    ///
    /// # Errors
    /// [`Refused::Malformed`]; a token that was parsed or built here has bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Refused> {
        self.0.to_vec().map_err(|_| Refused::Malformed("a token without bytes"))
    }

    /// The ids of its blocks, block 0 first.
    pub fn chain(&self) -> Vec<BlockId> {
        self.0.revocation_identifiers().iter().map(|id| BlockId::of_signature(id)).collect()
    }
}

/// Checks a token's signatures against one root key, whatever `root_key_id` it names. For operators' tools.
///
/// # Errors
/// What the library says.
pub fn verify_with(bytes: &[u8], root: &super::bundle::PublicKey) -> Result<Biscuit, biscuit_auth::error::Token> {
    let key = biscuit_auth::PublicKey::from_bytes(root.as_bytes(), Algorithm::Ed25519)?;
    Biscuit::from(bytes, key)
}

/// A token's text: base64url without padding.
pub fn to_text(bytes: &[u8]) -> String {
    data_encoding::BASE64URL_NOPAD.encode(bytes)
}

/// The bytes of a token's text. White space around it is forgiven, padding is not: a token has one text.
///
/// # Errors
/// [`Refused::TooLarge`] past `bytes_max` decoded bytes, [`Refused::Malformed`] when it is no base64url.
pub fn from_text(text: &str, bytes_max: usize) -> Result<Vec<u8>, Refused> {
    let text = text.trim();
    let bytes = text.len() / 4 * 3;
    if bytes > bytes_max {
        return Err(Refused::TooLarge { bytes, limit: bytes_max });
    }
    let decoded = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes());
    let decoded = decoded.map_err(|_| Refused::Malformed("not base64url without padding"))?;
    if decoded.is_empty() {
        return Err(Refused::Malformed("empty"));
    }
    Ok(decoded)
}

/// How far a right reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach<'a> {
    /// Everything below a prefix that ends in `/`.
    Below(&'a str),
    /// One resource.
    Exactly(&'a str),
}

impl<'a> Reach<'a> {
    /// The reach of a right: a resource that ends in `/*` is a prefix.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when the resource is not canonical.
    pub fn of(right: &'a Right) -> Result<Self, Refused> {
        let resource = right.resource.as_str();
        match resource.strip_suffix("/*") {
            Some(stem) => {
                canonical(stem)?;
                Ok(Self::Below(&resource[..=stem.len()]))
            }
            None => canonical(resource).map(Self::Exactly),
        }
    }

    /// Whether everything within `other` is within this.
    pub fn covers(self, other: Reach<'_>) -> bool {
        match (self, other) {
            (Self::Exactly(mine), Reach::Exactly(theirs)) => mine == theirs,
            (Self::Below(prefix), Reach::Exactly(resource) | Reach::Below(resource)) => resource.starts_with(prefix),
            (Self::Exactly(_), Reach::Below(_)) => false,
        }
    }
}

/// Whether one of `held` covers `asked`.
pub fn covered<'a>(asked: &Right, held: impl IntoIterator<Item = &'a Right>) -> bool {
    let Ok(reach) = Reach::of(asked) else { return false };
    held.into_iter().any(|right| right.action == asked.action && Reach::of(right).is_ok_and(|own| own.covers(reach)))
}

/// A resource, if it is canonical: segments between slashes, none empty, `.` or `..`, no percent sign, asterisk,
/// backslash or control character, at most [`NAME_BYTES_MAX`] bytes.
///
/// # Errors
/// [`Refused::Malformed`] with what is wrong.
pub fn canonical(resource: &str) -> Result<&str, Refused> {
    if resource.len() > NAME_BYTES_MAX {
        return Err(Refused::Malformed("a resource has at most 256 bytes"));
    }
    if resource.chars().any(|c| c.is_control() || matches!(c, '%' | '*' | '\\')) {
        return Err(Refused::Malformed("a resource holds no percent sign, asterisk, backslash or control character"));
    }
    if resource.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(Refused::Malformed("a resource has no empty, `.` or `..` segment"));
    }
    Ok(resource)
}

/// A text that may stand in a token.
fn bounded(text: &str) -> Result<&str, Refused> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(Refused::Malformed("a name has 1 to 256 bytes and no control character"));
    }
    Ok(text)
}

fn fact(name: &str, terms: impl IntoIterator<Item = Term>) -> Fact {
    Fact::new(name.to_owned(), terms.into_iter().collect::<Vec<_>>())
}

fn predicate(name: &str, terms: impl IntoIterator<Item = Term>) -> Predicate {
    Predicate::new(name.to_owned(), terms.into_iter().collect::<Vec<_>>())
}

fn query(body: impl IntoIterator<Item = Predicate>, expressions: impl IntoIterator<Item = Expression>) -> Rule {
    Rule::new(predicate("query", []), body.into_iter().collect(), expressions.into_iter().collect(), Vec::new())
}

fn ops(ops: impl IntoIterator<Item = Op>) -> Expression {
    Expression { ops: ops.into_iter().collect() }
}

fn value(term: Term) -> Op {
    Op::Value(term)
}

fn text(text: &str) -> Term {
    Term::Str(text.to_owned())
}

fn variable(name: &str) -> Term {
    Term::Variable(name.to_owned())
}

fn date(secs: u64) -> Term {
    Term::Date(secs)
}

fn integer(number: u64) -> Result<Term, Refused> {
    i64::try_from(number).map(Term::Integer).map_err(|_| Refused::Malformed("a number past 63 bits"))
}

/// `check if time($t), $t <= …`, so that any Biscuit verifier refuses the token late.
fn until(expires: Timestamp) -> Check {
    let late = ops([value(variable("t")), value(date(expires.secs_floor())), Op::Binary(Binary::LessOrEqual)]);
    one(query([predicate("time", [variable("t")])], [late]))
}

fn on_device(device: &DeviceId) -> Check {
    one(query([predicate("device", [text(device.as_str())])], []))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(resource: &str) -> Right {
        Right { resource: resource.into(), action: "read".into() }
    }

    #[test]
    fn rights_cover_what_lies_within_them() {
        check_covered("modbus/pump1", "modbus/pump1", true);
        check_covered("modbus/*", "modbus/pump1", true);
        check_covered("modbus/*", "modbus/pump1/speed", true);
        check_covered("modbus/*", "modbus/a/*", true);
        check_covered("modbus/*", "modbus/*", true);
        check_covered("modbus/a/*", "modbus/*", false);
        check_covered("modbus/*", "modbus", false);
        check_covered("modbus/*", "modbusx/1", false);
        check_covered("modbus/a", "modbus/a/*", false);
        check_covered("modbus/*", "modbus/../valve", false);
        check_covered("modbus/*", "modbus//valve", false);
        check_covered("modbus/*", "modbus/%2e%2e/valve", false);
    }

    #[track_caller]
    fn check_covered(held: &str, asked: &str, expected: bool) {
        assert_eq!(covered(&right(asked), [&right(held)]), expected, "{held} covers {asked}");
    }

    #[test]
    fn text_goes_both_ways_within_its_bound() {
        let bytes = vec![0xfb, 0xff, 0x00, 0x10];
        assert_eq!(from_text(&to_text(&bytes), 4), Ok(bytes.clone()));
        assert_eq!(from_text(&format!(" {} \n", to_text(&bytes)), 4), Ok(bytes.clone()));
        let padded = from_text(&format!("{}==", to_text(&bytes)), 10);
        assert!(matches!(padded, Err(Refused::Malformed(_))), "padding");
        assert!(matches!(from_text("", 4), Err(Refused::Malformed(_))));
        assert!(matches!(from_text("a+/b", 4), Err(Refused::Malformed(_))));
        assert!(matches!(from_text(&"A".repeat(100), 4), Err(Refused::TooLarge { .. })));
    }
}
