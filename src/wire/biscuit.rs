//! A Biscuit read as data, without evaluating or trusting it.
//!
//! Owns: [`decode`], which bounds a token's structure before anything else looks at it, [`Token`] with its symbols
//! resolved, which checks are nothing but bounds on time, and which regular expressions are none.
//! Never: verifies a signature or runs Datalog. `agent/token.rs` does. Never prints through the library, whose printer
//! panics on hostile tokens.
//! Read next: `token.rs`, the vocabulary; `agent/token.rs`, admission.
//!
//! The library's run limits do not bound the work of a single rule, so a holder could burn seconds with a token of one
//! kilobyte. The bounds here are on what evaluation would have to do. Format: Biscuit specification, version 3.

use std::collections::{BTreeMap, BTreeSet};

use biscuit_auth::builder::{self, Convert};
use biscuit_auth::datalog::SymbolTable;
use biscuit_auth::format::convert::proto_check_to_token_check;
use biscuit_auth::format::schema;
use prost::Message;

use super::arguments::ARGUMENTS_MAX;
use super::token::AMBIENT;
use crate::ids::BlockId;
use crate::profile::VerifyLimits;

/// Symbols that every Biscuit knows, in the order of the specification.
const SYMBOLS: [&str; 28] = [
    "read",
    "write",
    "resource",
    "operation",
    "right",
    "time",
    "role",
    "owner",
    "tenant",
    "namespace",
    "user",
    "team",
    "service",
    "admin",
    "email",
    "group",
    "member",
    "ip_address",
    "client",
    "client_ip",
    "domain",
    "path",
    "version",
    "cluster",
    "node",
    "hostname",
    "nonce",
    "query",
];
/// The first symbol number that a token defines itself.
const SYMBOLS_OFFSET: u64 = 1024;
/// The library lets a `reject if A or B` pass where one of them does not hold: whoever wrote it meant the opposite.
pub const REJECT_OR: &str =
    "a `reject if` with `or` would reject only where all of it holds: make several of it, one for each alternative";
/// Whose pattern is a variable would be matched as whoever brings its value likes.
pub const PATTERN_NOT_TEXT: &str = "the pattern of `matches` is a text that stands there, nothing else";
/// The most selectors that the agent adds for one workload or enforcer.
pub const SELECTORS_MAX: usize = 16;

/// Why a token is not even looked at further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// No Biscuit of version 3.
    #[error("{0}")]
    Malformed(&'static str),
    /// Too many bytes or blocks.
    #[error("{0}")]
    TooLarge(String),
    /// A structure that could cost too much to evaluate.
    #[error("{0}")]
    TooComplex(&'static str),
    /// A key that is not Ed25519.
    #[error("a key of the token is not Ed25519")]
    WrongAlgorithm,
}

/// A token's content, unverified.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Which root key claims to have signed it.
    pub root_key_id: Option<u32>,
    /// The blocks, block 0 first.
    pub blocks: Vec<Block>,
    /// Whether nobody can append to it.
    pub sealed: bool,
    /// Every date that stands anywhere in it, in seconds, sorted: where the outcome of a check on time can change.
    pub dates: Vec<u64>,
    /// Names of the facts that its rules and checks ask about.
    pub asks: BTreeSet<String>,
    /// Those of them that a `reject if`, a `check all` or a rule asks about, or an alternative with an expression that is tried
    /// before another: one fact more, and what passes may not, be it that the expression cannot be evaluated for it.
    pub turned_by: BTreeSet<String>,
    /// The patterns of regular expressions in block 0, which alone may have some; none for one that is no text there. Nobody has
    /// tried yet whether they are any: that costs more than bytes which nobody vouches for are worth.
    pub patterns: Vec<Option<String>>,
}

/// Why a regular expression is none: evaluation would take it for one that matches nothing. With the library's own limits.
pub fn unusable(pattern: &str) -> Option<String> {
    let why = regex::Regex::new(pattern).err()?.to_string();
    let last = why.lines().last().unwrap_or_default();
    Some(last.strip_prefix("error: ").unwrap_or(last).trim_end_matches('.').to_owned())
}

/// One block.
#[derive(Debug, Clone, PartialEq)]
pub struct Block {
    /// What revoking the block names.
    pub id: BlockId,
    /// Its facts.
    pub facts: Vec<Fact>,
    /// Names of the heads of its rules.
    pub rule_heads: Vec<String>,
    /// Its checks.
    pub checks: Vec<Check>,
    /// Whether somebody else than the holder signed it too.
    pub third_party: bool,
}

/// A fact.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// Its name.
    pub name: String,
    /// Its terms.
    pub terms: Vec<Term>,
}

/// A term, as far as our vocabulary needs it.
#[derive(Debug, Clone, PartialEq)]
pub enum Term {
    /// A point in time, in seconds since 1970.
    Date(u64),
    /// An integer.
    Integer(i64),
    /// Anything else.
    Other,
    /// A text.
    Text(String),
    /// A variable, by its symbol.
    Variable(u32),
}

impl Term {
    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Date(_) | Self::Integer(_) | Self::Other | Self::Variable(_) => None,
        }
    }
}

/// A check.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// Something that only evaluation can tell. Holds the names of what it asks about.
    Other(Vec<String>),
    /// Bounds on time alone: it passes where one of the alternatives holds.
    Time(Vec<Vec<TimeBound>>),
}

/// A comparison of the time with a date, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeBound {
    /// The time is at this date.
    At(u64),
    /// The time is at this date or later.
    From(u64),
    /// The time is at this date or earlier.
    Until(u64),
}

impl TimeBound {
    /// Whether it holds at a time.
    pub fn holds(self, at: u64) -> bool {
        match self {
            Self::At(date) => at == date,
            Self::From(date) => at >= date,
            Self::Until(date) => at <= date,
        }
    }
}

/// Decodes a token within limits.
///
/// # Errors
/// The first [`Defect`] found: size before form, form before structure.
pub fn decode(bytes: &[u8], limits: &VerifyLimits) -> Result<Token, Defect> {
    decode_beside(bytes, 0, limits)
}

/// The same of what is evaluated beside others, who may state `foreign` facts: a policy beside a token.
///
/// # Errors
/// As [`decode`].
pub fn decode_beside(bytes: &[u8], foreign: usize, limits: &VerifyLimits) -> Result<Token, Defect> {
    if bytes.len() > limits.token_bytes_max {
        return Err(Defect::TooLarge(format!("{} bytes, the limit is {}", bytes.len(), limits.token_bytes_max)));
    }
    let container = schema::Biscuit::decode(bytes).map_err(|_| Defect::Malformed("no Biscuit container"))?;
    let blocks = 1 + container.blocks.len();
    if blocks > limits.blocks_max {
        return Err(Defect::TooLarge(format!("{blocks} blocks, the limit is {}", limits.blocks_max)));
    }
    let signed: Vec<&schema::SignedBlock> = std::iter::once(&container.authority).chain(&container.blocks).collect();
    if signed.iter().any(|block| !is_ed25519(block)) {
        return Err(Defect::WrongAlgorithm);
    }
    let raw: Vec<schema::Block> = signed
        .iter()
        .map(|block| schema::Block::decode(&block.block[..]).map_err(|_| Defect::Malformed("no Biscuit block")))
        .collect::<Result<_, _>>()?;
    let mut reader = Reader { foreign, ..Reader::default() };
    let mut parsed = Vec::with_capacity(raw.len());
    for (index, (envelope, block)) in signed.iter().zip(&raw).enumerate() {
        parsed.push(reader.block(index, envelope, block)?);
    }
    reader.weigh(limits)?;
    reader.dates.sort_unstable();
    reader.dates.dedup();
    let asks = reader.queries.into_iter().flat_map(|query| query.body).map(|asked| asked.name).collect();
    let sealed = match container.proof.content {
        Some(schema::proof::Content::FinalSignature(_)) => true,
        Some(schema::proof::Content::NextSecret(_)) => false,
        None => return Err(Defect::Malformed("no proof at the token's end")),
    };
    let (dates, turned_by, patterns) = (reader.dates, reader.turned_by, reader.patterns);
    Ok(Token { root_key_id: container.root_key_id, blocks: parsed, sealed, dates, asks, turned_by, patterns })
}

/// A check of a token that was decoded, by its block and its place there, to be looked at by itself: it is left out whose blocks
/// it trusts.
pub fn check_at(bytes: &[u8], block: usize, place: usize) -> Option<builder::Check> {
    let container = schema::Biscuit::decode(bytes).ok()?;
    let mut common = Vec::new();
    for (index, signed) in std::iter::once(&container.authority).chain(&container.blocks).enumerate() {
        let raw = schema::Block::decode(&signed.block[..]).ok()?;
        let third_party = signed.external_signature.is_some();
        if !third_party {
            common.extend_from_slice(&raw.symbols);
        }
        if index == block {
            let symbols = SymbolTable::from(if third_party { raw.symbols } else { common }).ok()?;
            let mut check = raw.checks.get(place)?.clone();
            check.queries.iter_mut().for_each(|query| query.scope.clear());
            let check = proto_check_to_token_check(&check, raw.version.unwrap_or_default()).ok()?;
            return builder::Check::convert_from(&check, &symbols).ok();
        }
    }
    None
}

fn is_ed25519(block: &schema::SignedBlock) -> bool {
    let ed25519 = schema::public_key::Algorithm::Ed25519 as i32;
    let external = block.external_signature.as_ref().map(|signature| &signature.public_key);
    std::iter::once(&block.next_key).chain(external).all(|key| key.algorithm == ed25519) && !is_ecdsa(&block.signature)
}

/// The key that signed block 0 stands in no token, but what kind it is shows: ECDSA signs with a DER sequence.
fn is_ecdsa(signature: &[u8]) -> bool {
    matches!(signature, [0x30, len, rest @ ..] if signature.len() != 64 && usize::from(*len) == rest.len())
}

/// What a body would cost: how many facts it may match, and how much each expression does per match.
struct Query {
    body: Vec<Asked>,
    weight: u64,
}

/// A fact that a body asks about.
struct Asked {
    name: String,
    /// Its first term is given: which argument it is about.
    given: bool,
}

/// Reads block after block, since later blocks use the symbols of earlier ones.
#[derive(Default)]
struct Reader {
    /// How many facts there may be beside those that are read, of any name but ambient ones.
    foreign: usize,
    symbols: Vec<String>,
    facts: BTreeMap<String, u64>,
    fact_count: usize,
    derived: Vec<String>,
    rule_count: usize,
    check_count: usize,
    queries: Vec<Query>,
    turned_by: BTreeSet<String>,
    patterns: Vec<Option<String>>,
    dates: Vec<u64>,
    ops_max: u64,
    collection_max: u64,
}

impl Reader {
    fn block(&mut self, index: usize, envelope: &schema::SignedBlock, raw: &schema::Block) -> Result<Block, Defect> {
        let third_party = envelope.external_signature.is_some();
        // A third party does not see the symbols of the token that its block goes to, and lends it none.
        // Taken out while it is read, since everything else here is written to.
        let mut common = std::mem::take(&mut self.symbols);
        if !third_party {
            common.extend_from_slice(&raw.symbols);
        }
        let names = Symbols(if third_party { &raw.symbols } else { &common });
        let mut facts = Vec::with_capacity(raw.facts.len());
        for fact in &raw.facts {
            let predicate = names.predicate(&fact.predicate, &mut self.dates, &mut self.collection_max)?;
            if AMBIENT.contains(&predicate.name.as_str()) {
                return Err(Defect::Malformed("a block states a fact that only the agent may add"));
            }
            *self.facts.entry(predicate.name.clone()).or_default() += 1;
            facts.push(predicate);
        }
        self.fact_count += raw.facts.len();
        let mut rule_heads = Vec::with_capacity(raw.rules.len());
        for rule in &raw.rules {
            let head = names.predicate(&rule.head, &mut self.dates, &mut self.collection_max)?;
            if AMBIENT.contains(&head.name.as_str()) {
                return Err(Defect::Malformed("a rule makes a fact that only the agent may add"));
            }
            let (body, _) = self.query(index, rule, &names, Some(&head))?;
            self.turned_by.extend(body);
            self.derived.push(head.name.clone());
            rule_heads.push(head.name);
        }
        self.rule_count += raw.rules.len();
        let mut checks = Vec::with_capacity(raw.checks.len());
        for check in &raw.checks {
            checks.push(self.check(index, check, &names)?);
        }
        self.check_count += raw.checks.len();
        self.symbols = common;
        Ok(Block { id: BlockId::of_signature(&envelope.signature), facts, rule_heads, checks, third_party })
    }

    fn check(&mut self, index: usize, check: &schema::Check, names: &Symbols<'_>) -> Result<Check, Defect> {
        let rejects = check.kind == Some(schema::check::Kind::Reject as i32);
        if rejects && check.queries.len() > 1 {
            return Err(Defect::Malformed(REJECT_OR));
        }
        let mut asks = Vec::new();
        let mut alternatives = Vec::new();
        for (place, query) in check.queries.iter().enumerate() {
            let (body, bounds) = self.query(index, query, names, None)?;
            if !query.expressions.is_empty() && place + 1 < check.queries.len() {
                self.turned_by.extend(body.iter().cloned());
            }
            alternatives.push(bounds);
            asks.extend(body);
        }
        let exists = matches!(check.kind, None | Some(0));
        let bounds: Option<Vec<_>> = alternatives.into_iter().collect();
        asks.sort_unstable();
        asks.dedup();
        if !exists {
            self.turned_by.extend(asks.iter().cloned());
        }
        Ok(match bounds {
            Some(bounds) if exists && !bounds.is_empty() => Check::Time(bounds),
            Some(_) | None => Check::Other(asks),
        })
    }

    /// Weighs a query and says what it asks about and, if that is nothing but the time, within which bounds.
    fn query(
        &mut self,
        index: usize,
        rule: &schema::Rule,
        names: &Symbols<'_>,
        head: Option<&Fact>,
    ) -> Result<(Vec<String>, Option<Vec<TimeBound>>), Defect> {
        let mut body = Vec::with_capacity(rule.body.len());
        for predicate in &rule.body {
            body.push(names.predicate(predicate, &mut self.dates, &mut self.collection_max)?);
        }
        let clock = clock_variable(&body, head)?;
        let mut weight = 1u64;
        let mut bounds = Some(Vec::new());
        for expression in &rule.expressions {
            let mut ops = 0;
            weigh(&expression.ops, index, 0, &mut ops, &mut self.collection_max, &mut self.dates)?;
            names.patterns(&expression.ops, &mut self.patterns)?;
            self.ops_max = self.ops_max.max(ops);
            weight = weight.saturating_add(ops);
            let found = time_bounds(&expression.ops, clock)?;
            bounds = bounds.zip(found).map(|(mut all, more)| {
                all.extend(more);
                all
            });
        }
        let only_time = body.len() == 1 && clock.is_some() && rule.scope.is_empty();
        let names = body.iter().map(|predicate| predicate.name.clone()).collect();
        let given = |fact: &Fact| !matches!(fact.terms.first(), None | Some(Term::Variable(_)));
        let body = body.into_iter().map(|fact| Asked { given: given(&fact), name: fact.name }).collect();
        self.queries.push(Query { body, weight });
        Ok((names, bounds.filter(|bounds| only_time && !bounds.is_empty())))
    }

    /// Holds what was read against the limits.
    fn weigh(&self, limits: &VerifyLimits) -> Result<(), Defect> {
        if self.fact_count > limits.facts_max {
            return Err(Defect::TooComplex("too many facts"));
        }
        if self.rule_count > limits.rules_max {
            return Err(Defect::TooComplex("too many rules"));
        }
        if self.check_count > limits.checks_max {
            return Err(Defect::TooComplex("too many checks"));
        }
        if self.ops_max > limits.expression_ops_max as u64 {
            return Err(Defect::TooComplex("an expression that is too long"));
        }
        if self.collection_max > limits.expression_ops_max as u64 {
            return Err(Defect::TooComplex("a set, list or map that is too long"));
        }
        // Who never asks about arguments may yet be judged by a policy that does: the facts are there.
        let ambient = AMBIENT.len() + 2 * SELECTORS_MAX + ARGUMENTS_MAX;
        let all = (self.fact_count + self.rule_count + self.foreign + ambient) as u64;
        for query in &self.queries {
            let matches =
                query.body.iter().fold(1u64, |product, asked| product.saturating_mul(self.matches(asked, limits)));
            if all.saturating_mul(matches).saturating_mul(query.weight) > limits.join_cost_max {
                return Err(Defect::TooComplex("a rule or check that joins too many facts"));
            }
        }
        Ok(())
    }

    /// How many facts of a name there can be.
    fn matches(&self, Asked { name, given }: &Asked, limits: &VerifyLimits) -> u64 {
        let ambient = match name.as_str() {
            "workload" | "enforcer" => SELECTORS_MAX as u64,
            // Each has a name of its own.
            "argument" | "argument_null" | "argument_size" if !given => ARGUMENTS_MAX as u64,
            name if AMBIENT.contains(&name) => 1,
            _ => self.foreign as u64,
        };
        let derived = if self.derived.contains(name) { limits.run_facts_max } else { 0 };
        (self.facts.get(name).copied().unwrap_or(0) + ambient + derived).max(1)
    }
}

struct Symbols<'a>(&'a [String]);

impl Symbols<'_> {
    fn text(&self, symbol: u64) -> Result<String, Defect> {
        let text = match symbol.checked_sub(SYMBOLS_OFFSET) {
            Some(own) => usize::try_from(own).ok().and_then(|own| self.0.get(own)).cloned(),
            None => SYMBOLS.get(symbol as usize).map(|text| (*text).to_owned()),
        };
        text.ok_or(Defect::Malformed("a symbol that is in no table"))
    }

    /// Notes the pattern of every regular expression in an expression.
    fn patterns(&self, ops: &[schema::Op], found: &mut Vec<Option<String>>) -> Result<(), Defect> {
        use schema::op::Content;
        let mut right = None;
        for op in ops {
            match &op.content {
                Some(Content::Binary(binary)) if binary.kind == schema::op_binary::Kind::Regex as i32 => {
                    found.push(right.take().map(|symbol| self.text(symbol)).transpose()?);
                }
                Some(Content::Closure(closure)) => self.patterns(&closure.ops, found)?,
                Some(Content::Binary(_) | Content::Unary(_) | Content::Value(_)) | None => {}
            }
            right = match &op.content {
                Some(Content::Value(schema::Term { content: Some(schema::term::Content::String(symbol)) })) => {
                    Some(*symbol)
                }
                Some(_) | None => None,
            };
        }
        Ok(())
    }

    fn predicate(
        &self,
        raw: &schema::Predicate,
        dates: &mut Vec<u64>,
        collection_max: &mut u64,
    ) -> Result<Fact, Defect> {
        let mut terms = Vec::with_capacity(raw.terms.len());
        for term in &raw.terms {
            *collection_max = (*collection_max).max(collect_dates(term, dates, 0)?);
            terms.push(match &term.content {
                Some(schema::term::Content::Variable(symbol)) => Term::Variable(*symbol),
                Some(schema::term::Content::Integer(number)) => Term::Integer(*number),
                Some(schema::term::Content::String(symbol)) => Term::Text(self.text(*symbol)?),
                Some(schema::term::Content::Date(secs)) => Term::Date(*secs),
                Some(
                    schema::term::Content::Bytes(_)
                    | schema::term::Content::Bool(_)
                    | schema::term::Content::Set(_)
                    | schema::term::Content::Null(_)
                    | schema::term::Content::Array(_)
                    | schema::term::Content::Map(_),
                ) => Term::Other,
                None => return Err(Defect::Malformed("a term without content")),
            });
        }
        Ok(Fact { name: self.text(raw.name)?, terms })
    }
}

/// Notes every date in a term, and says how many elements its largest collection has.
fn collect_dates(term: &schema::Term, dates: &mut Vec<u64>, depth: usize) -> Result<u64, Defect> {
    use schema::term::Content;
    if depth > 8 {
        return Err(Defect::TooComplex("a term that is nested too deep"));
    }
    let mut elements = |terms: &mut dyn Iterator<Item = &schema::Term>| {
        let mut total = 0u64;
        for term in terms {
            total += 1 + collect_dates(term, dates, depth + 1)?;
        }
        Ok(total)
    };
    match &term.content {
        Some(Content::Date(secs)) => {
            dates.push(*secs);
            Ok(0)
        }
        Some(Content::Set(set)) => elements(&mut set.set.iter()),
        Some(Content::Array(array)) => elements(&mut array.array.iter()),
        Some(Content::Map(map)) => elements(&mut map.entries.iter().map(|entry| &entry.value)),
        Some(
            Content::Variable(_)
            | Content::Integer(_)
            | Content::String(_)
            | Content::Bytes(_)
            | Content::Bool(_)
            | Content::Null(_),
        )
        | None => Ok(0),
    }
}

/// Counts what an expression does: a closure counts once per element of the largest collection.
fn weigh(
    ops: &[schema::Op],
    block: usize,
    depth: u32,
    total: &mut u64,
    collection_max: &mut u64,
    dates: &mut Vec<u64>,
) -> Result<(), Defect> {
    use schema::op::Content;
    if depth > 3 {
        return Err(Defect::TooComplex("closures that are nested too deep"));
    }
    *total = total.saturating_add((ops.len() as u64).saturating_mul(16u64.saturating_pow(depth.saturating_sub(1))));
    for op in ops {
        match &op.content {
            Some(Content::Value(term)) => *collection_max = (*collection_max).max(collect_dates(term, dates, 0)?),
            Some(Content::Closure(closure)) => {
                weigh(&closure.ops, block, depth + 1, total, collection_max, dates)?;
            }
            Some(Content::Binary(binary)) => {
                // An issuer's regular expression is the fleet's own; a holder's can cost anything.
                if binary.kind == schema::op_binary::Kind::Regex as i32 && block > 0 {
                    return Err(Defect::TooComplex("a regular expression in an attenuated block"));
                }
            }
            Some(Content::Unary(_)) => {}
            None => return Err(Defect::Malformed("an operation without content")),
        }
    }
    Ok(())
}

/// The variable that stands for the time in a body, if `time` is asked about. It may be compared, not passed on: only
/// then is the outcome the same at every instant between two dates of the token.
fn clock_variable(body: &[Fact], head: Option<&Fact>) -> Result<Option<u32>, Defect> {
    let mut clock = None;
    for fact in body.iter().filter(|fact| fact.name == "time") {
        match fact.terms.as_slice() {
            [Term::Variable(variable)] if clock.is_none() => clock = Some(*variable),
            [Term::Date(_)] => {}
            _ => return Err(Defect::Malformed("time is used other than in a comparison")),
        }
    }
    let Some(variable) = clock else { return Ok(None) };
    let elsewhere = body.iter().filter(|fact| fact.name != "time").chain(head);
    if elsewhere.flat_map(|fact| &fact.terms).any(|term| *term == Term::Variable(variable)) {
        return Err(Defect::Malformed("time is used other than in a comparison"));
    }
    Ok(clock)
}

/// What an expression says about the time: bounds if it says nothing else, none if it is about other things (too).
/// Wherever the time's variable appears it must be one side of a comparison whose other side is a date or a variable.
fn time_bounds(ops: &[schema::Op], clock: Option<u32>) -> Result<Option<Vec<TimeBound>>, Defect> {
    use schema::op::Content;
    use schema::op_binary::Kind;
    /// What is on the evaluation stack.
    enum Item {
        Bounds(Vec<TimeBound>),
        Clock,
        Closure(Option<Vec<TimeBound>>),
        Date(u64),
        Opaque,
        Variable,
    }
    const MISUSED: Defect = Defect::Malformed("time is used other than in a comparison");
    let mut stack: Vec<Item> = Vec::new();
    for op in ops {
        let item = match &op.content {
            Some(Content::Value(term)) => match &term.content {
                Some(schema::term::Content::Variable(variable)) if Some(*variable) == clock => Item::Clock,
                Some(schema::term::Content::Variable(_)) => Item::Variable,
                Some(schema::term::Content::Date(secs)) => Item::Date(*secs),
                Some(_) | None => Item::Opaque,
            },
            Some(Content::Closure(closure)) if closure.params.is_empty() => {
                Item::Closure(time_bounds(&closure.ops, clock)?)
            }
            Some(Content::Closure(closure)) => {
                time_bounds(&closure.ops, clock)?;
                Item::Opaque
            }
            Some(Content::Unary(unary)) => match (stack.pop(), unary.kind) {
                (Some(Item::Bounds(bounds)), kind) if kind == schema::op_unary::Kind::Parens as i32 => {
                    Item::Bounds(bounds)
                }
                (Some(Item::Clock), _) => return Err(MISUSED),
                (Some(_), _) => Item::Opaque,
                (None, _) => return Err(Defect::Malformed("an expression without operands")),
            },
            Some(Content::Binary(binary)) => {
                let (Some(right), Some(left)) = (stack.pop(), stack.pop()) else {
                    return Err(Defect::Malformed("an expression without operands"));
                };
                let kind = Kind::from_i32(binary.kind).ok_or(Defect::Malformed("an unknown operation"))?;
                match (left, right) {
                    (Item::Clock, Item::Date(date)) => bound(kind, date)?.map_or(Item::Opaque, Item::Bounds),
                    (Item::Date(date), Item::Clock) => bound(mirrored(kind), date)?.map_or(Item::Opaque, Item::Bounds),
                    (Item::Clock, Item::Variable) | (Item::Variable, Item::Clock) if compares(kind) => Item::Opaque,
                    (Item::Clock, _) | (_, Item::Clock) => return Err(MISUSED),
                    (Item::Bounds(mut left), Item::Bounds(right) | Item::Closure(Some(right)))
                        if matches!(kind, Kind::And | Kind::LazyAnd) =>
                    {
                        left.extend(right);
                        Item::Bounds(left)
                    }
                    (
                        Item::Bounds(_) | Item::Closure(_) | Item::Date(_) | Item::Opaque | Item::Variable,
                        Item::Bounds(_) | Item::Closure(_) | Item::Date(_) | Item::Opaque | Item::Variable,
                    ) => Item::Opaque,
                }
            }
            None => return Err(Defect::Malformed("an operation without content")),
        };
        stack.push(item);
    }
    match (stack.pop(), stack.is_empty()) {
        (Some(Item::Bounds(bounds)), true) => Ok(Some(bounds)),
        (Some(Item::Clock), _) => Err(MISUSED),
        (Some(Item::Closure(_) | Item::Date(_) | Item::Opaque | Item::Variable), true) => Ok(None),
        (Some(_) | None, _) => Err(Defect::Malformed("an expression that leaves no single value")),
    }
}

fn compares(kind: schema::op_binary::Kind) -> bool {
    use schema::op_binary::Kind;
    matches!(
        kind,
        Kind::LessThan
            | Kind::LessOrEqual
            | Kind::GreaterThan
            | Kind::GreaterOrEqual
            | Kind::Equal
            | Kind::NotEqual
            | Kind::HeterogeneousEqual
            | Kind::HeterogeneousNotEqual
    )
}

/// `date op time` as `time op date`.
fn mirrored(kind: schema::op_binary::Kind) -> schema::op_binary::Kind {
    use schema::op_binary::Kind;
    if kind == Kind::LessThan {
        Kind::GreaterThan
    } else if kind == Kind::LessOrEqual {
        Kind::GreaterOrEqual
    } else if kind == Kind::GreaterThan {
        Kind::LessThan
    } else if kind == Kind::GreaterOrEqual {
        Kind::LessOrEqual
    } else {
        kind
    }
}

/// The bounds of `time op date`; none for inequality, which is no interval.
fn bound(kind: schema::op_binary::Kind, date: u64) -> Result<Option<Vec<TimeBound>>, Defect> {
    use schema::op_binary::Kind;
    if !compares(kind) {
        return Err(Defect::Malformed("time is used other than in a comparison"));
    }
    let bound = if kind == Kind::LessThan {
        // Nothing lies before the first second.
        date.checked_sub(1).map(TimeBound::Until)
    } else if kind == Kind::LessOrEqual {
        Some(TimeBound::Until(date))
    } else if kind == Kind::GreaterThan {
        date.checked_add(1).map(TimeBound::From)
    } else if kind == Kind::GreaterOrEqual {
        Some(TimeBound::From(date))
    } else if kind == Kind::Equal || kind == Kind::HeterogeneousEqual {
        Some(TimeBound::At(date))
    } else {
        None
    };
    Ok(bound.map(|bound| vec![bound]))
}
