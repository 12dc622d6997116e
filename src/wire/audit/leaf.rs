//! The records of a segment as the leaves of its tree: short, because what repeats is said once.
//!
//! Owns: [`Leaves`], which writes records one after the other, and [`read`], which gives the records back. Texts, block
//! ids and the parts of a decision are defined where a segment first needs them and named by number from there on; what is
//! as in the decision before is left out. `docs/audit-format.md` has the bytes.
//! Never: needs anything but the segment itself.
//! Read next: `segment.rs`, whose header signs the root over them.

use std::collections::BTreeMap;

use super::{Credential, Decision, Event, Initiator, Known, Named, NamedStep, Record, RECORD_BYTES_MAX};
use crate::ids::{BlockId, EraId, GrantId, Hash, RiskClass};
use crate::time::{Millis, Timestamp};
use crate::wire::{encode, Refused};

/// The most bytes of one leaf.
pub const LEAF_BYTES_MAX: usize = RECORD_BYTES_MAX + 256;

/// Bytes of a leaf that defines nothing: seldom more.
const LEAF_BYTES_USUAL: usize = 32;

/// The first byte of a leaf.
mod tag {
    pub(super) const EVENT: u8 = 0;
    pub(super) const DENY: u8 = 1;
    pub(super) const ALLOW: u8 = 2;
}

/// What a decision's leaf holds, bit by bit.
mod has {
    pub(super) const DEFINITIONS: u8 = 1;
    pub(super) const AHEAD: u8 = 1 << 1;
    pub(super) const REASON: u8 = 1 << 2;
    pub(super) const QUESTION: u8 = 1 << 3;
    pub(super) const CALLER: u8 = 1 << 4;
    pub(super) const CREDENTIAL: u8 = 1 << 5;
    pub(super) const VIEW: u8 = 1 << 6;
    pub(super) const AGE: u8 = 1 << 7;
    /// What the first decision of a segment cannot do without.
    pub(super) const FIRST: u8 = REASON | QUESTION | CALLER | CREDENTIAL | VIEW;
}

/// What a definition defines.
mod kind {
    pub(super) const TEXT: u8 = 0;
    pub(super) const BLOCK: u8 = 1;
    pub(super) const QUESTION: u8 = 2;
    pub(super) const CALLER: u8 = 3;
    pub(super) const CREDENTIAL: u8 = 4;
    pub(super) const VIEW: u8 = 5;
    /// A question with the digest of its arguments.
    pub(super) const CALL: u8 = 6;
}

/// How a credential's definition goes on.
mod names {
    pub(super) const NOTHING: u8 = 0;
    pub(super) const SAME: u8 = 1;
    pub(super) const ALL: u8 = 2;
    /// The same, and who initiated the task.
    pub(super) const INITIATED: u8 = 3;
}

/// Operation, resource, destination, risk: numbers of texts; the digest of the arguments.
type Question = (u64, u64, Option<u64>, Option<u64>, Option<Hash>);
/// Workload and enforcer: numbers of texts.
type Caller = (Vec<u64>, Vec<u64>);
/// Mode, freshness, time class: numbers of texts; versions of bundle and policy, position of the feed.
type View = (u64, u64, u64, u64, u64, Option<u64>);

/// A credential, its texts and blocks by number.
enum Token {
    Nothing,
    Same(u64),
    All {
        owner: u64,
        grant: GrantId,
        task: Option<u64>,
        chain: Vec<u64>,
        step: Option<Step>,
        initiator: Option<(u64, u64)>,
    },
}

/// A step, its texts by number.
struct Step {
    id: u64,
    planner: Vec<u64>,
    era: EraId,
    index: u64,
}

/// What the next leaf is told against.
#[derive(Clone, Copy, Default)]
struct Before {
    floor: u64,
    /// P - E.
    ahead: u64,
    staleness_s: u64,
    width: u64,
    reason: u64,
    question: u64,
    caller: u64,
    credential: u64,
    view: u64,
}

/// Writes the leaves of one segment.
#[derive(Default)]
pub struct Leaves {
    texts: Table<String>,
    blocks: Table<BlockId>,
    reasons: Seen<(String, u64)>,
    questions: Seen<Asked>,
    callers: Seen<(Vec<String>, Vec<String>)>,
    credentials: Seen<Credential>,
    views: Seen<Known>,
    before: Before,
    decided: bool,
}

/// What a question was made of.
struct Asked {
    operation: String,
    resource: String,
    destination: Option<String>,
    risk: Option<RiskClass>,
    arguments: Option<Hash>,
}

/// What parts of decisions were defined, each at its number. A segment has so few that to look through them, and compare, is
/// quicker than to take one apart and look for each of its texts.
struct Seen<T>(Vec<T>);

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Seen<T> {
    fn find(&self, same: impl FnMut(&T) -> bool) -> Option<u64> {
        self.0.iter().position(same).map(|place| place as u64)
    }

    /// The number of what is defined now.
    fn add(&mut self, value: T) -> u64 {
        self.0.push(value);
        self.0.len() as u64 - 1
    }
}

/// What has a number already.
struct Table<T>(BTreeMap<T, u64>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord> Table<T> {
    /// The number of `value`, which is defined now if it was not before.
    fn number(&mut self, value: T, define: impl FnOnce(&T)) -> u64 {
        let next = self.0.len() as u64;
        match self.0.entry(value) {
            std::collections::btree_map::Entry::Occupied(known) => *known.get(),
            std::collections::btree_map::Entry::Vacant(new) => {
                define(new.key());
                *new.insert(next)
            }
        }
    }
}

/// Definitions on their way into a leaf.
#[derive(Default)]
struct Definitions {
    count: u64,
    bytes: Writer,
}

impl Definitions {
    fn begin(&mut self, kind: u8) -> &mut Writer {
        self.count += 1;
        self.bytes.0.push(kind);
        &mut self.bytes
    }
}

impl Leaves {
    /// The next record's leaf.
    pub fn push(&mut self, record: &Record) -> Vec<u8> {
        match &record.event {
            Event::Decision(decision) => self.decision(record, decision),
            Event::Gap(_)
            | Event::Grant(_)
            | Event::Mode(_)
            | Event::Refused(_)
            | Event::Start(_)
            | Event::Task(_)
            | Event::Trust(_)
            | Event::Repeated(_)
            | Event::Alive(_)
            | Event::Ended(_) => {
                let mut leaf = Writer(vec![tag::EVENT]);
                leaf.difference(&mut self.before.floor, record.floor.0);
                leaf.difference(&mut self.before.ahead, record.powered.0.wrapping_sub(record.floor.0));
                leaf.0.extend(encode(&record.event));
                leaf.0
            }
        }
    }

    fn decision(&mut self, record: &Record, decision: &Decision) -> Vec<u8> {
        let mut new = Definitions::default();
        let ahead = record.powered.0.wrapping_sub(record.floor.0);
        let reason = self.reason(&decision.reason, &mut new);
        let question = self.question(decision, &mut new);
        let caller = self.caller(decision, &mut new);
        let credential = self.credential(&decision.credential, &mut new);
        let view = self.view(&decision.known, &mut new);

        let first = !std::mem::replace(&mut self.decided, true);
        let before = &mut self.before;
        let known = &decision.known;
        let width = known.width_ms.map_or(0, |width| width.0.wrapping_add(1));
        let bit = |bit: u8, changed: bool| if changed { bit } else { 0 };
        let mask = bit(has::DEFINITIONS, new.count > 0)
            | bit(has::AHEAD, ahead != before.ahead)
            | bit(has::REASON, first || reason != before.reason)
            | bit(has::QUESTION, first || question != before.question)
            | bit(has::CALLER, first || caller != before.caller)
            | bit(has::CREDENTIAL, first || credential != before.credential)
            | bit(has::VIEW, first || view != before.view)
            | bit(has::AGE, (known.staleness_s, width) != (before.staleness_s, before.width));
        let mut leaf = Writer(Vec::with_capacity(LEAF_BYTES_USUAL + new.bytes.0.len()));
        leaf.0.extend([if decision.allow { tag::ALLOW } else { tag::DENY }, mask]);
        leaf.difference(&mut before.floor, record.floor.0);
        if mask & has::DEFINITIONS != 0 {
            leaf.number(new.count);
            leaf.0.extend(new.bytes.0);
        }
        if mask & has::AHEAD != 0 {
            leaf.difference(&mut before.ahead, ahead);
        }
        let numbers = [
            (has::REASON, reason, &mut before.reason),
            (has::QUESTION, question, &mut before.question),
            (has::CALLER, caller, &mut before.caller),
            (has::CREDENTIAL, credential, &mut before.credential),
            (has::VIEW, view, &mut before.view),
        ];
        for (bit, number, before) in numbers {
            if mask & bit != 0 {
                leaf.number(number);
                *before = number;
            }
        }
        if mask & has::AGE != 0 {
            leaf.difference(&mut before.staleness_s, known.staleness_s);
            leaf.difference(&mut before.width, width);
        }
        leaf.0
    }

    fn text(&mut self, text: &str, new: &mut Definitions) -> u64 {
        if let Some(number) = self.texts.0.get(text) {
            return *number;
        }
        self.texts.number(text.to_owned(), |text| new.begin(kind::TEXT).text(text))
    }

    fn texts(&mut self, texts: &[String], new: &mut Definitions) -> Vec<u64> {
        texts.iter().map(|text| self.text(text, new)).collect()
    }

    fn reason(&mut self, reason: &str, new: &mut Definitions) -> u64 {
        if let Some((_, number)) = self.reasons.0.iter().find(|(known, _)| known == reason) {
            return *number;
        }
        let number = self.text(reason, new);
        self.reasons.add((reason.to_owned(), number));
        number
    }

    fn question(&mut self, decision: &Decision, new: &mut Definitions) -> u64 {
        let Decision { operation, resource, destination, risk, arguments, .. } = decision;
        let same = |known: &Asked| {
            // What differs most often first.
            known.resource == *resource
                && known.operation == *operation
                && known.destination == *destination
                && known.risk == *risk
                && known.arguments == *arguments
        };
        if let Some(number) = self.questions.find(same) {
            return number;
        }
        let texts = (self.text(operation, new), self.text(resource, new));
        let destination_number = destination.as_ref().map(|destination| self.text(destination, new));
        let risk_number = risk.as_ref().map(|risk| self.text(risk.as_str(), new));
        let definition = new.begin(if arguments.is_some() { kind::CALL } else { kind::QUESTION });
        definition.number(texts.0);
        definition.number(texts.1);
        definition.optional(destination_number);
        definition.optional(risk_number);
        definition.0.extend(arguments.iter().flat_map(Hash::as_bytes));
        let (operation, resource) = (operation.clone(), resource.clone());
        let (destination, risk) = (destination.clone(), risk.clone());
        self.questions.add(Asked { operation, resource, destination, risk, arguments: *arguments })
    }

    fn caller(&mut self, decision: &Decision, new: &mut Definitions) -> u64 {
        let Decision { workload, enforcer, .. } = decision;
        if let Some(number) = self.callers.find(|known| known.0 == *workload && known.1 == *enforcer) {
            return number;
        }
        let (workload_numbers, enforcer_numbers) = (self.texts(workload, new), self.texts(enforcer, new));
        let definition = new.begin(kind::CALLER);
        definition.numbers(&workload_numbers);
        definition.numbers(&enforcer_numbers);
        self.callers.add((workload.clone(), enforcer.clone()))
    }

    fn credential(&mut self, credential: &Credential, new: &mut Definitions) -> u64 {
        if let Some(number) = self.credentials.find(|known| is_same(known, credential)) {
            return number;
        }
        match credential {
            Credential::Nothing => new.begin(kind::CREDENTIAL).0.push(names::NOTHING),
            Credential::Same(index) => {
                let definition = new.begin(kind::CREDENTIAL);
                definition.0.push(names::SAME);
                definition.number(*index);
            }
            Credential::Named(named) => {
                let owner = self.text(&named.owner, new);
                let task = named.task.as_ref().map(|task| self.text(task.as_str(), new));
                let chain: Vec<u64> = named.chain.iter().map(|block| self.block(block, new)).collect();
                let step = named.step.as_ref().map(|step| {
                    let (id, planner) = (self.text(step.id.as_str(), new), self.texts(&step.planner, new));
                    Step { id, planner, era: step.era, index: step.index }
                });
                let initiator = named.initiator.as_ref();
                let initiator = initiator.map(|one| (self.text(&one.issuer, new), self.text(&one.subject, new)));
                let definition = new.begin(kind::CREDENTIAL);
                definition.0.push(if initiator.is_some() { names::INITIATED } else { names::ALL });
                definition.number(owner);
                definition.0.extend(named.grant.0);
                definition.optional(task);
                definition.numbers(&chain);
                definition.optional(step.as_ref().map(|step| step.id));
                if let Some(step) = step {
                    definition.numbers(&step.planner);
                    for number in [step.era.number, step.era.salt, step.index] {
                        definition.number(number);
                    }
                }
                for number in initiator.into_iter().flat_map(|(issuer, subject)| [issuer, subject]) {
                    definition.number(number);
                }
            }
        }
        self.credentials.add(credential.clone())
    }

    fn block(&mut self, block: &BlockId, new: &mut Definitions) -> u64 {
        self.blocks.number(*block, |block| new.begin(kind::BLOCK).0.extend(block.0))
    }

    fn view(&mut self, known: &Known, new: &mut Definitions) -> u64 {
        let same = |other: &Known| {
            other.feed_seq == known.feed_seq
                && other.policy_version == known.policy_version
                && other.bundle_version == known.bundle_version
                && other.mode == known.mode
                && other.freshness == known.freshness
                && other.time_class == known.time_class
        };
        if let Some(number) = self.views.find(same) {
            return number;
        }
        let texts = [&known.mode, &known.freshness, &known.time_class].map(|text| self.text(text, new));
        let definition = new.begin(kind::VIEW);
        for number in texts.into_iter().chain([known.bundle_version, known.policy_version]) {
            definition.number(number);
        }
        definition.optional(known.feed_seq);
        self.views.add(known.clone())
    }
}

/// Whether two decisions name one credential. Tokens of one task differ in their last block.
fn is_same(a: &Credential, b: &Credential) -> bool {
    match (a, b) {
        (Credential::Named(a), Credential::Named(b)) => a.chain.last() == b.chain.last() && a == b,
        (Credential::Nothing | Credential::Same(_) | Credential::Named(_), _) => a == b,
    }
}

/// The records of a segment from its leaves, which have these numbers.
///
/// # Errors
/// [`Refused::Malformed`] or [`Refused::TooLarge`] when a leaf is none.
pub fn read(leaves: &[Vec<u8>], indexes: impl IntoIterator<Item = u64>) -> Result<Vec<Record>, Refused> {
    let mut reading = Reading::default();
    leaves.iter().zip(indexes).map(|(leaf, index)| reading.leaf(leaf, index)).collect()
}

/// What was defined so far.
#[derive(Default)]
struct Reading {
    texts: Vec<String>,
    blocks: Vec<BlockId>,
    questions: Vec<Question>,
    callers: Vec<Caller>,
    credentials: Vec<Token>,
    views: Vec<View>,
    before: Before,
    decided: bool,
}

impl Reading {
    fn leaf(&mut self, leaf: &[u8], index: u64) -> Result<Record, Refused> {
        if leaf.len() > LEAF_BYTES_MAX {
            return Err(Refused::TooLarge { bytes: leaf.len(), limit: LEAF_BYTES_MAX });
        }
        let mut leaf = Reader(leaf);
        let event = match leaf.byte()? {
            tag::EVENT => {
                leaf.add(&mut self.before.floor)?;
                leaf.add(&mut self.before.ahead)?;
                let (event, rest) = postcard::take_from_bytes(leaf.0).map_err(|_| NO_LEAF)?;
                leaf.0 = rest;
                if matches!(event, Event::Decision(_)) {
                    return Err(Refused::Malformed("a decision in the form of an event"));
                }
                event
            }
            tag::DENY => self.decision(&mut leaf, false)?,
            tag::ALLOW => self.decision(&mut leaf, true)?,
            _ => return Err(NO_LEAF),
        };
        if !leaf.0.is_empty() {
            return Err(Refused::Malformed("bytes after a leaf's end"));
        }
        let floor = self.before.floor;
        let powered = floor.wrapping_add(self.before.ahead);
        Ok(Record { index, floor: Timestamp(floor), powered: Timestamp(powered), event })
    }

    fn decision(&mut self, leaf: &mut Reader<'_>, allow: bool) -> Result<Event, Refused> {
        let mask = leaf.byte()?;
        if !std::mem::replace(&mut self.decided, true) && mask & has::FIRST != has::FIRST {
            return Err(Refused::Malformed("the first decision of a segment leaves something out"));
        }
        leaf.add(&mut self.before.floor)?;
        if mask & has::DEFINITIONS != 0 {
            for _ in 0..leaf.number()? {
                self.define(leaf)?;
            }
        }
        if mask & has::AHEAD != 0 {
            leaf.add(&mut self.before.ahead)?;
        }
        let before = &mut self.before;
        let numbers = [
            (has::REASON, &mut before.reason),
            (has::QUESTION, &mut before.question),
            (has::CALLER, &mut before.caller),
            (has::CREDENTIAL, &mut before.credential),
            (has::VIEW, &mut before.view),
        ];
        for (bit, number) in numbers {
            if mask & bit != 0 {
                *number = leaf.number()?;
            }
        }
        if mask & has::AGE != 0 {
            leaf.add(&mut before.staleness_s)?;
            leaf.add(&mut before.width)?;
        }
        let before = self.before;
        let (operation, resource, destination, risk, arguments) = *at(&self.questions, before.question)?;
        let (workload, enforcer) = at(&self.callers, before.caller)?;
        let (mode, freshness, time_class, bundle_version, policy_version, feed_seq) = *at(&self.views, before.view)?;
        let risk = risk.map(|risk| self.text(risk)).transpose()?;
        Ok(Event::Decision(Box::new(Decision {
            allow,
            reason: self.text(before.reason)?,
            operation: self.text(operation)?,
            resource: self.text(resource)?,
            destination: destination.map(|destination| self.text(destination)).transpose()?,
            risk: risk.map(|risk| risk.parse().map_err(|_| NO_LEAF)).transpose()?,
            arguments,
            workload: self.all(workload)?,
            enforcer: self.all(enforcer)?,
            credential: self.credential(at(&self.credentials, before.credential)?)?,
            known: Known {
                mode: self.text(mode)?,
                freshness: self.text(freshness)?,
                staleness_s: before.staleness_s,
                time_class: self.text(time_class)?,
                width_ms: before.width.checked_sub(1).map(Millis),
                bundle_version,
                policy_version,
                feed_seq,
            },
        })))
    }

    fn define(&mut self, leaf: &mut Reader<'_>) -> Result<(), Refused> {
        match leaf.byte()? {
            kind::TEXT => self.texts.push(leaf.text()?),
            kind::BLOCK => self.blocks.push(BlockId(leaf.array()?)),
            kind @ (kind::QUESTION | kind::CALL) => {
                let texts = (leaf.number()?, leaf.number()?);
                let (destination, risk) = (leaf.optional()?, leaf.optional()?);
                let arguments = if kind == kind::CALL { Some(Hash(leaf.array()?)) } else { None };
                self.questions.push((texts.0, texts.1, destination, risk, arguments));
            }
            kind::CALLER => {
                let caller = (leaf.numbers()?, leaf.numbers()?);
                if self.bytes(&caller.0)? + self.bytes(&caller.1)? > RECORD_BYTES_MAX {
                    return Err(Refused::Malformed("more selectors than a record holds"));
                }
                self.callers.push(caller);
            }
            kind::CREDENTIAL => {
                let token = match leaf.byte()? {
                    names::NOTHING => Token::Nothing,
                    names::SAME => Token::Same(leaf.number()?),
                    how @ (names::ALL | names::INITIATED) => Token::All {
                        owner: leaf.number()?,
                        grant: GrantId(leaf.array()?),
                        task: leaf.optional()?,
                        chain: leaf.numbers()?,
                        step: leaf.optional()?.map(|id| leaf.step(id)).transpose()?,
                        initiator: (how == names::INITIATED)
                            .then(|| Ok((leaf.number()?, leaf.number()?)))
                            .transpose()?,
                    },
                    _ => return Err(NO_LEAF),
                };
                match &token {
                    Token::All { chain, .. } if chain.len() * 32 > RECORD_BYTES_MAX => {
                        return Err(Refused::Malformed("more blocks than a record holds"));
                    }
                    Token::All { step: Some(step), .. } if self.bytes(&step.planner)? > RECORD_BYTES_MAX => {
                        return Err(Refused::Malformed("more selectors than a record holds"));
                    }
                    Token::All { .. } | Token::Nothing | Token::Same(_) => self.credentials.push(token),
                }
            }
            kind::VIEW => {
                let texts = (leaf.number()?, leaf.number()?, leaf.number()?);
                let (bundle, policy, feed) = (leaf.number()?, leaf.number()?, leaf.optional()?);
                self.views.push((texts.0, texts.1, texts.2, bundle, policy, feed));
            }
            _ => return Err(NO_LEAF),
        }
        Ok(())
    }

    fn credential(&self, token: &Token) -> Result<Credential, Refused> {
        Ok(match token {
            Token::Nothing => Credential::Nothing,
            Token::Same(index) => Credential::Same(*index),
            Token::All { owner, grant, task, chain, step, initiator } => {
                let task = task.map(|task| at(&self.texts, task)).transpose()?;
                let chain = chain.iter().map(|block| at(&self.blocks, *block).copied());
                Credential::Named(Box::new(Named {
                    owner: self.text(*owner)?,
                    grant: *grant,
                    task: task.map(|task| task.parse().map_err(|_| NO_LEAF)).transpose()?,
                    chain: chain.collect::<Result<_, _>>()?,
                    step: step.as_ref().map(|step| self.step(step)).transpose()?,
                    initiator: initiator.map(|texts| self.initiator(texts)).transpose()?,
                }))
            }
        })
    }

    fn step(&self, step: &Step) -> Result<NamedStep, Refused> {
        let id = self.text(step.id)?.parse().map_err(|_| NO_LEAF)?;
        Ok(NamedStep { id, planner: self.all(&step.planner)?, era: step.era, index: step.index })
    }

    fn initiator(&self, (issuer, subject): (u64, u64)) -> Result<Initiator, Refused> {
        Ok(Initiator { issuer: self.text(issuer)?, subject: self.text(subject)? })
    }

    fn text(&self, number: u64) -> Result<String, Refused> {
        at(&self.texts, number).cloned()
    }

    /// Of the texts of these numbers. A few bytes must not become many: what a record says is bounded.
    fn bytes(&self, numbers: &[u64]) -> Result<usize, Refused> {
        numbers.iter().map(|number| Ok(at(&self.texts, *number)?.len())).sum()
    }

    fn all(&self, numbers: &[u64]) -> Result<Vec<String>, Refused> {
        numbers.iter().map(|number| self.text(*number)).collect()
    }
}

const NO_LEAF: Refused = Refused::Malformed("no leaf of an audit segment");

/// What was defined under this number.
fn at<T>(table: &[T], number: u64) -> Result<&T, Refused> {
    let place = usize::try_from(number).ok();
    place.and_then(|place| table.get(place)).ok_or(Refused::Malformed("a leaf names what was not defined before it"))
}

/// Bytes being written. Numbers are LEB128, the shortest form.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    /// None is 0, `Some(n)` is n + 1. No table has 2^64 entries, and no feed that many heads.
    fn optional(&mut self, number: Option<u64>) {
        self.number(number.map_or(0, |number| number.wrapping_add(1)));
    }

    fn numbers(&mut self, numbers: &[u64]) {
        self.number(numbers.len() as u64);
        numbers.iter().for_each(|number| self.number(*number));
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend(text.as_bytes());
    }

    /// How far it is from the value before, modulo 2^64, small both ways (zigzag).
    fn difference(&mut self, before: &mut u64, now: u64) {
        let difference = now.wrapping_sub(*before) as i64;
        self.number(((difference << 1) ^ (difference >> 63)) as u64);
        *before = now;
    }
}

/// Bytes being read.
struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, Refused> {
        let (byte, rest) = self.0.split_first().ok_or(NO_LEAF)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let (array, rest) = self.0.split_first_chunk().ok_or(NO_LEAF)?;
        self.0 = rest;
        Ok(*array)
    }

    fn number(&mut self) -> Result<u64, Refused> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                return Err(Refused::Malformed("a number past 64 bits, or not in its shortest form"));
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(NO_LEAF)
    }

    fn optional(&mut self) -> Result<Option<u64>, Refused> {
        Ok(self.number()?.checked_sub(1))
    }

    fn numbers(&mut self) -> Result<Vec<u64>, Refused> {
        let count = self.number()?;
        if count > self.0.len() as u64 {
            return Err(NO_LEAF);
        }
        (0..count).map(|_| self.number()).collect()
    }

    /// What follows on the number of a step's name.
    fn step(&mut self, id: u64) -> Result<Step, Refused> {
        let planner = self.numbers()?;
        Ok(Step { id, planner, era: EraId { number: self.number()?, salt: self.number()? }, index: self.number()? })
    }

    fn text(&mut self) -> Result<String, Refused> {
        let length = usize::try_from(self.number()?).map_err(|_| NO_LEAF)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(NO_LEAF)?;
        self.0 = rest;
        std::str::from_utf8(text).map(str::to_owned).map_err(|_| NO_LEAF)
    }

    fn add(&mut self, before: &mut u64) -> Result<(), Refused> {
        let zigzag = self.number()?;
        let difference = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
        *before = before.wrapping_add(difference);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
