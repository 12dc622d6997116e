//! The policy in force, parsed once.
//!
//! Owns: [`Policy`]: the document and the authorizer that each request clones; what its clauses are called; the refusal of a
//! policy that trusts blocks of third parties.
//! Never: decides a request; parses at request time.
//! Read next: `decide.rs`; `policy/expressions.rs` for what is refused of them; `policy/lint.rs`, which an operator's policy is held
//! against; `policy/untold.rs`.

mod expressions;
pub mod lint;
mod untold;

use std::collections::BTreeSet;

use biscuit_auth::builder::{self, AuthorizerBuilder, BiscuitBuilder, Check, CheckKind, PolicyKind, Rule};
use biscuit_auth::datalog::SymbolTable;
use biscuit_auth::error::Token as TokenError;
use biscuit_auth::parser::{parse_source, SourceResult};
use ed25519_dalek::SigningKey;

use super::intact;
use super::preview::ARGUMENTS;
use super::request::{ClauseKind, DecidedBy};
use super::token::Clause;
use crate::ids::Hash;
use crate::profile::VerifyLimits;
use crate::wire::biscuit::{self, Defect};
use crate::wire::policy::{PolicyDocument, BUILT_IN};
use crate::wire::token::key_pair;
use crate::wire::{Refused, MESSAGE_BYTES_MAX};
pub(in crate::agent) use untold::once_told;
use untold::rests_on;

/// The domain of the digest that the policy's file begins with: a signature is not looked at again once its key is replaced.
const FILE: &str = "hardtack/policy-file/v1";

/// The file of a signed policy.
pub(super) fn to_file(signed: &[u8]) -> Vec<u8> {
    intact::to_file(FILE, &signed)
}

/// The signed policy's bytes in its file.
///
/// # Errors
/// [`Refused::DigestMismatch`] where it is not what was written, [`Refused::Malformed`], [`Refused::TooLarge`].
pub(super) fn from_file(bytes: &[u8]) -> Result<Vec<u8>, Refused> {
    intact::from_file(FILE, bytes, 2 * MESSAGE_BYTES_MAX)
}

/// The domain of the digest of what is evaluated.
const OUTCOMES: &str = "hardtack/policy-outcomes/v1";
/// The most characters of a clause that an explanation shows.
const SHOWN_CHARS_MAX: usize = 160;
/// The most characters of a clause's name.
const NAME_CHARS_MAX: usize = 64;

/// A policy that can be evaluated.
pub struct Policy {
    /// The document.
    pub document: PolicyDocument,
    /// What stands for it where outcomes are remembered.
    pub digest: Hash,
    /// Facts of no request, policies and rules of this one.
    pub authorizer: AuthorizerBuilder,
    /// Names of the facts that it asks about.
    pub asks: BTreeSet<String>,
    /// Its dates, in seconds, sorted. If it asks about the time, the outcome may change there.
    pub dates: Vec<u64>,
    /// Its policies, in the order in which they are asked: the first that applies decides.
    pub policies: Vec<Told>,
    /// Its checks.
    pub checks: Vec<Told>,
    /// Whether it asks about the resource nowhere but where the built-in one does: to allow what a right covers.
    pub resources_by_rights: bool,
    /// Its facts and rules alone.
    rules: AuthorizerBuilder,
    /// Names of the facts that its rules ask about.
    rules_ask: BTreeSet<String>,
    /// Its clauses, in the order in which they are evaluated.
    clauses: Vec<(Clause, Source)>,
}

/// A clause that was parsed.
#[derive(Debug, Clone)]
enum Source {
    Check(Check),
    Policy(builder::Policy),
}

/// Where an expression cannot be evaluated.
pub(super) enum Failing {
    /// In this clause.
    Clause(Clause),
    /// In a rule.
    Rule,
    /// Nobody could find out within bounds.
    Unknown,
}

/// A policy or a check as a person is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Told {
    /// Whether it denies what it is about.
    pub denies: bool,
    /// What the comment right before it calls it.
    pub name: Option<String>,
    /// Its text, shortened; what a terminal would not show as it is stands there as its number.
    pub text: String,
}

impl Policy {
    /// Parses a document.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when its Datalog is none, uses `trusting`, states what only the agent may add, uses the time
    /// other than in comparisons, or its table of risks is empty. [`Refused::Clause`] when one holds a regular expression or a
    /// function that is none.
    pub fn parse(document: PolicyDocument) -> Result<Self, Refused> {
        if document.risks.is_empty() {
            return Err(Refused::Malformed("a policy without a class of risk"));
        }
        let malformed = |_| Refused::Malformed("the policy's Datalog cannot be parsed");
        let source =
            parse_source(&document.datalog).map_err(|_| Refused::Malformed("the policy's Datalog cannot be parsed"))?;
        let in_policies = source.policies.iter().flat_map(|(_, policy)| &policy.queries);
        let in_checks = source.checks.iter().flat_map(|(_, check)| &check.queries);
        let mut queries = in_policies.chain(in_checks).chain(source.rules.iter().map(|(_, rule)| rule));
        if !source.scopes.is_empty() || queries.any(|query| !query.scopes.is_empty()) {
            return Err(Refused::Malformed("a policy may not use `trusting`"));
        }
        if let Some(why) = expressions::unmeant(&expressions::parts(&source, &document.datalog)) {
            return Err(Refused::Clause(why));
        }
        let asks = asked(&source).into_iter().map(|(name, _)| name).collect();
        let dates = biscuit::decode(&as_block(&source)?, &unbounded()).map_err(unfit)?.dates;
        let told = |text: &str, denies| Told { denies, name: name_of(&document.datalog, text), text: shown(text) };
        let denies = |policy| matches!(builder::Policy::from(policy).kind, PolicyKind::Deny);
        let policies = source.policies.iter().map(|(text, policy)| told(text, denies(policy.clone()))).collect();
        let checks = source.checks.iter().map(|(text, _)| told(text, true)).collect();
        let mut rules = AuthorizerBuilder::new();
        for (_, fact) in &source.facts {
            rules = rules.fact(fact.clone()).map_err(malformed)?;
        }
        for (_, rule) in &source.rules {
            rules = rules.rule(rule.clone()).map_err(malformed)?;
        }
        let in_order = source.checks.iter().map(|(_, check)| {
            let Check { queries, kind } = check.clone().into();
            Source::Check(Check { queries: surest_first(queries), kind })
        });
        let in_order = in_order.enumerate().map(|(place, check)| (Clause::Check(place), check));
        let then = source.policies.iter().map(|(_, policy)| {
            let builder::Policy { queries, kind } = policy.clone().into();
            Source::Policy(builder::Policy { queries: surest_first(queries), kind })
        });
        let then = then.enumerate().map(|(place, policy)| (Clause::Policy(place), policy));
        let clauses: Vec<(Clause, Source)> = in_order.chain(then).collect();
        let authorizer = with(&rules, &clauses).map_err(malformed)?;
        let rules_ask = source.rules.iter().flat_map(|(_, rule)| &rule.body).map(|asked| asked.name.clone()).collect();
        let resources_by_rights = is_by_rights(&source);
        let digest = Hash::of(OUTCOMES, &[document.datalog.as_bytes()]);
        Ok(Self {
            authorizer,
            asks,
            dates,
            policies,
            checks,
            resources_by_rights,
            rules,
            rules_ask,
            clauses,
            digest,
            document,
        })
    }

    /// Where an expression cannot be evaluated, if one of the whole cannot. `fails` says whether one of a part of it cannot, or
    /// nothing if that did not come out; it is asked at most once and a logarithm of the clauses.
    pub(super) fn failing(&self, fails: impl Fn(AuthorizerBuilder) -> Option<bool>) -> Failing {
        let search = || {
            if fails(self.rules.clone())? {
                return Some(Failing::Rule);
            }
            // They are evaluated in their order until one fails or a policy applies: if some do, more do too.
            let (mut fine, mut failed) = (0, self.clauses.len());
            while failed.saturating_sub(fine) > 1 {
                let middle = fine + (failed - fine) / 2;
                match fails(self.first(middle)?)? {
                    true => failed = middle,
                    false => fine = middle,
                }
            }
            self.clauses.get(fine).map(|(clause, _)| Failing::Clause(clause.clone()))
        };
        search().unwrap_or(Failing::Unknown)
    }

    /// Its rules with the first of its clauses.
    fn first(&self, count: usize) -> Option<AuthorizerBuilder> {
        with(&self.rules, self.clauses.iter().take(count)).ok()
    }

    /// A clause with its number and its name, as somebody is told of it.
    pub fn tell(&self, clause: &Clause) -> DecidedBy {
        let (clause, place, all) = match clause {
            Clause::Check(place) => (ClauseKind::Check, *place, &self.checks),
            Clause::Policy(place) => (ClauseKind::Policy, *place, &self.policies),
            Clause::Token { block, check, text } => {
                let (clause, text) = (ClauseKind::TokenCheck, text.clone());
                return DecidedBy { clause, block: Some(*block), number: *check, name: None, text };
            }
        };
        let Told { name, text, .. } = all.get(place).cloned().unwrap_or_default();
        DecidedBy { clause, block: None, number: place.saturating_add(1), name, text }
    }
}

/// Where Datalog cannot be parsed, in words: which line, and how that begins. None where it can be.
pub fn unparsed(datalog: &str) -> Option<String> {
    let errors = parse_source(datalog).err()?;
    let rest = errors.first()?.input;
    let before = datalog.get(..rest.as_ptr().addr().checked_sub(datalog.as_ptr().addr())?)?;
    let line = before.matches('\n').count();
    let there: String = datalog.lines().nth(line)?.trim().chars().take(80).collect();
    Some(format!("line {} of its Datalog cannot be parsed: {there}", line + 1))
}

/// Rules with clauses.
fn with<'c>(
    rules: &AuthorizerBuilder,
    clauses: impl IntoIterator<Item = &'c (Clause, Source)>,
) -> Result<AuthorizerBuilder, TokenError> {
    clauses.into_iter().try_fold(rules.clone(), |builder, (_, clause)| match clause {
        Source::Check(check) => builder.check(check.clone()),
        Source::Policy(policy) => builder.policy(policy.clone()),
    })
}

/// The alternatives of a clause as they are tried, one after the other until one holds: what rests on nothing that a request
/// brings is not stopped by a value for which another cannot be evaluated.
fn surest_first(mut queries: Vec<Rule>) -> Vec<Rule> {
    queries.sort_by_key(|query| (rests_on(query, &ARGUMENTS), rests_on(query, &["destination"])));
    queries
}

/// Whether nothing but what the built-in policy has asks about the resource, and nothing makes rights.
fn is_by_rights(source: &SourceResult<'_>) -> bool {
    let Ok(built_in) = parse_source(BUILT_IN) else { return false };
    let rights = ["right", "right_prefix", "class_right", "class_right_prefix"];
    let made =
        source.facts.iter().map(|(_, fact)| &fact.predicate).chain(source.rules.iter().map(|(_, rule)| &rule.head));
    if made.into_iter().any(|made| rights.contains(&made.name.as_str())) {
        return false;
    }
    let mut queries = source.checks.iter().flat_map(|(_, check)| &check.queries);
    let asks = |name: &String| name == "resource";
    let of_checks = queries.any(|query| query.body.iter().any(|asked| asks(&asked.name)));
    let of_rules = source.rules.iter().any(|(_, rule)| rule.body.iter().any(|asked| asks(&asked.name)));
    let of_policies = source.policies.iter().any(|(_, policy)| {
        let known = built_in.policies.iter().any(|(_, known)| known == policy);
        !known && policy.queries.iter().flat_map(|query| &query.body).any(|asked| asks(&asked.name))
    });
    !of_checks && !of_rules && !of_policies
}

/// The facts that it asks about: their names, and with how many terms.
fn asked(source: &SourceResult<'_>) -> BTreeSet<(String, usize)> {
    let in_policies = source.policies.iter().flat_map(|(_, policy)| &policy.queries);
    let in_checks = source.checks.iter().flat_map(|(_, check)| &check.queries);
    let queries = in_policies.chain(in_checks).chain(source.rules.iter().map(|(_, rule)| rule));
    let predicates = queries.flat_map(|query| &query.body);
    predicates.map(|predicate| (predicate.name.clone(), predicate.terms.len())).collect()
}

/// The last line of the comment that stands right before a clause.
fn name_of(datalog: &str, clause: &str) -> Option<String> {
    let place = (clause.as_ptr() as usize).checked_sub(datalog.as_ptr() as usize)?;
    let line = datalog.get(..place)?.trim_end().lines().next_back()?;
    let (before, name) = line.split_once("//")?;
    let name: String = name.trim().chars().take(NAME_CHARS_MAX).collect();
    // Behind a clause, a comment is about that one.
    (before.trim().is_empty() && !name.is_empty()).then(|| visible(&name))
}

/// Datalog of anybody's as an explanation shows it: on one line, shortened, nothing in it that a terminal obeys.
pub(super) fn shown(datalog: &str) -> String {
    let words: Vec<&str> = datalog.split_whitespace().collect();
    let line = words.join(" ");
    let mut text: String = line.chars().take(SHOWN_CHARS_MAX).collect();
    if text.len() < line.len() {
        text.push('…');
    }
    visible(&text)
}

fn visible(text: &str) -> String {
    let mut visible = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' | '\'' => visible.push(c),
            _ => visible.extend(c.escape_debug()),
        }
    }
    visible
}

/// Why a policy cannot be read as a token's block.
fn unfit(defect: Defect) -> Refused {
    match defect {
        Defect::Malformed(what) | Defect::TooComplex(what) => Refused::Malformed(what),
        Defect::TooLarge(_) | Defect::WrongAlgorithm => Refused::Malformed("the policy is too large"),
    }
}

/// A policy as a token's block, to be read as one: its facts, rules and checks, and its policies as checks.
fn as_block(source: &SourceResult<'_>) -> Result<Vec<u8>, Refused> {
    let unreadable = |_| Refused::Malformed("the policy's Datalog cannot be read");
    let mut block = BiscuitBuilder::new();
    for (_, fact) in &source.facts {
        block = block.fact(fact.clone()).map_err(unreadable)?;
    }
    for (_, rule) in &source.rules {
        block = block.rule(rule.clone()).map_err(unreadable)?;
    }
    for (_, check) in &source.checks {
        block = block.check(check.clone()).map_err(unreadable)?;
    }
    for (_, policy) in &source.policies {
        let check = Check { queries: policy.queries.iter().cloned().map(Into::into).collect(), kind: CheckKind::One };
        block = block.check(check).map_err(unreadable)?;
    }
    // Nobody will ever believe this token, so its key is no secret.
    let key = key_pair(&SigningKey::from_bytes(&[1; 32]));
    let token = block.build_with_key_pair(&key, SymbolTable::new(), &key).and_then(|token| token.to_vec());
    token.map_err(unreadable)
}

/// A policy is the fleet's own: only its form matters, not its size.
fn unbounded() -> VerifyLimits {
    VerifyLimits {
        token_bytes_max: usize::MAX,
        blocks_max: 1,
        facts_max: usize::MAX,
        rules_max: usize::MAX,
        checks_max: usize::MAX,
        expression_ops_max: usize::MAX,
        join_cost_max: u64::MAX,
        run_facts_max: 0,
        run_iterations_max: 0,
        run_ms_max: 0,
        cache_entries: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn policies_that_trust_others_or_do_not_parse_are_refused() {
        check_policy(crate::wire::policy::BUILT_IN, true);
        check_policy("allow if true; deny if resource($r), $r.starts_with(\"x\");", true);
        check_policy("allow if", false);
        check_policy("allow if right($r) trusting previous;", false);
        check_policy("trusting previous; allow if true;", false);
        check_policy("allow if time($t), $t < 2026-03-01T00:00:00Z;", true);
        check_policy("late(true) <- time($t), $t > 2026-03-01T00:00:00Z; deny if late(true); allow if true;", true);
        check_policy("seen($t) <- time($t); allow if seen($t), $t < 2026-03-01T00:00:00Z;", false);
        check_policy("mode(\"online\"); allow if true;", false);
        check_policy("reject if risk(\"high\"); reject if risk(\"low\"); allow if true;", true);
        check_policy("reject if risk(\"high\") or risk(\"low\"); allow if true;", false);
        check_policy("ok($r) <- resource($r) trusting previous; allow if ok(\"a\");", false);
    }

    #[track_caller]
    fn check_unmeant(datalog: &str, clause: &str, why: &str) {
        let document = PolicyDocument { datalog: datalog.into(), ..PolicyDocument::built_in(Timestamp(0)) };
        let refused = Policy::parse(document).err().map(|refused| refused.to_string()).unwrap_or_default();
        assert!(
            refused.starts_with(&format!("malformed: {clause}: ")) && refused.contains(why),
            "{datalog}: {refused}"
        );
    }

    /// The library evaluates each of these to `false`, or not at all: a `deny` of it never denies, a check of its opposite passes.
    #[test]
    fn what_can_never_come_out_as_it_was_meant_is_refused_wherever_it_stands() {
        let open = "deny if operation($o), $o.matches(\"^(write|calibrate$\");";
        check_unmeant(
            &format!("allow if true;\n// no writing\n{open}"),
            "policy 2 \"no writing\"",
            "is none (unclosed group)",
        );
        check_unmeant(open, "policy 1", "^(write|calibrate$");
        let whole = "check if true; check if resource($r), !$r.matches(\"[\"); allow if true;";
        check_unmeant(whole, "check 2", "unclosed character class");
        let large = "deny if operation($o), $o.matches(\"(a{1000}){1000}\");";
        check_unmeant(large, "policy 1", "exceeds size limit");
        let ruled = "bad(true) <- resource($r), $r.matches(\"*\"); deny if bad(true); allow if true;";
        check_unmeant(ruled, "rule 1", "repetition");
        for nested in [
            "reject if operation($o), $o == \"read\" || $o.matches(\"[\");",
            "check all operation($o), $o != \"read\" && ($o.matches(\"[\"));",
            "check if true or operation($o), [\"a\", \"b\"].any($x -> [\"a\"].all($y -> $y.matches(\"[\")));",
            "check if operation($o), $o.matches(\"[\").try_or(false);",
        ] {
            check_unmeant(&format!("{nested} allow if true;"), "check 1", "unclosed character class");
        }
        for chosen in ["$p", "(\"a\")", "\"a\" + $o", "5"] {
            let by_whom = format!("deny if operation($o), argument(\"p\", $p), $o.matches({chosen}); allow if true;");
            check_unmeant(&by_whom, "policy 1", "the pattern of `matches` is a text that stands there");
        }
        check_unmeant("deny if operation($o), $o.extern::foo();", "policy 1", "no device has a function `extern::foo`");
        check_unmeant(
            "check if operation($o), $o.extern::foo(1);",
            "check 1",
            "no device has a function `extern::foo`",
        );
        check_policy(
            "deny if operation($o), $o.matches(\"^(write|calibrate)$\") || $o.matches(\"^x\"); allow if true;",
            true,
        );
    }

    #[test]
    fn its_dates_are_known() {
        let datalog = "deny if time($t), $t >= 1970-01-01T00:00:10Z, $t < 1970-01-01T00:00:20Z; allow if true;".into();
        let policy = Policy::parse(PolicyDocument { datalog, ..PolicyDocument::built_in(Timestamp(0)) }).unwrap();
        assert!(policy.asks.contains("time"));
        assert_eq!(policy.dates, [10, 20]);
    }

    #[test]
    fn where_it_cannot_be_parsed_is_told() {
        assert_eq!(unparsed(BUILT_IN), None);
        for (datalog, line, there) in [
            ("allow if true;\ndeny if operation(;\nallow if true;", "line 2", "deny if operation(;"),
            ("allow", "line 1", "allow"),
            ("allow if true;\n\n\u{202e}deny if true;", "line 3", "\u{202e}deny if true;"),
            ("check if x(\u{1F980}", "line 1", "check if x(\u{1F980}"),
        ] {
            let told = unparsed(datalog).unwrap();
            assert!(told.starts_with(line) && told.ends_with(there), "{told}");
        }
    }

    #[track_caller]
    fn check_policy(datalog: &str, fine: bool) {
        let document = PolicyDocument { datalog: datalog.into(), ..PolicyDocument::built_in(Timestamp(0)) };
        assert_eq!(Policy::parse(document).is_ok(), fine, "{datalog}");
    }
}
