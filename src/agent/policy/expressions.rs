//! What the expressions of a policy may hold: nothing that could never come out as it was meant.
//!
//! Owns: [`unmeant`]: regular expressions that none can be made of, and functions that there are not; [`Part`], a clause or rule to
//! be looked at by itself.
//! Never: evaluates anything; lets a request or a token choose a pattern.
//! Read next: `lint.rs`, which only warns; `../../wire/biscuit.rs` for regular expressions of tokens.

use biscuit_auth::builder::{self, Binary, Check, CheckKind, Op, PolicyKind, Rule, Term, Unary};
use biscuit_auth::parser::SourceResult;

use super::{name_of, shown};
use crate::wire::biscuit::{unusable, PATTERN_NOT_TEXT};

/// A clause or a rule.
pub(super) struct Part {
    /// Its number and its name, as a person is told of it.
    pub(super) named: String,
    /// Its text, shortened.
    pub(super) text: String,
    /// Whether it lets pass what it holds for. None of a rule: what it makes may be asked about by either.
    pub(super) lets_pass: Option<bool>,
    /// Its alternatives.
    pub(super) queries: Vec<Rule>,
}

/// All that is evaluated of a policy: its policies, checks and rules.
pub(super) fn parts(source: &SourceResult<'_>, datalog: &str) -> Vec<Part> {
    let part = |kind: &str, place: usize, text: &str, lets_pass, queries| {
        let name = name_of(datalog, text).map(|name| format!(" \"{name}\"")).unwrap_or_default();
        Part { named: format!("{kind} {}{name}", place + 1), text: shown(text), lets_pass, queries }
    };
    let policies = source.policies.iter().enumerate().map(|(place, (text, policy))| {
        let builder::Policy { queries, kind } = policy.clone().into();
        part("policy", place, text, Some(matches!(kind, PolicyKind::Allow)), queries)
    });
    let checks = source.checks.iter().enumerate().map(|(place, (text, check))| {
        let Check { queries, kind } = check.clone().into();
        part("check", place, text, Some(!matches!(kind, CheckKind::Reject)), queries)
    });
    let rules = source
        .rules
        .iter()
        .enumerate()
        .map(|(place, (text, rule))| part("rule", place, text, None, vec![rule.clone().into()]));
    policies.chain(checks).chain(rules).collect()
}

/// The first part that holds what can never come out as it was meant, in words. The library takes a regular expression that none
/// can be made of for one that matches nothing, so that a `deny if` of it would never deny.
pub(super) fn unmeant(parts: &[Part]) -> Option<String> {
    parts.iter().find_map(|Part { named, text, queries, .. }| {
        let mut expressions = queries.iter().flat_map(|query| &query.expressions);
        let why = expressions.find_map(|expression| amiss(&expression.ops))?;
        Some(format!("{named}: {why}: {text}"))
    })
}

fn amiss(ops: &[Op]) -> Option<String> {
    ops.iter().enumerate().find_map(|(place, op)| match op {
        Op::Closure(_, ops) => amiss(ops),
        Op::Binary(Binary::Regex) => match place.checked_sub(1).and_then(|right| ops.get(right)) {
            Some(Op::Value(Term::Str(pattern))) => {
                unusable(pattern).map(|why| format!("the regular expression \"{}\" is none ({why})", shown(pattern)))
            }
            Some(Op::Value(_) | Op::Unary(_) | Op::Binary(_) | Op::Closure(..)) | None => {
                Some(PATTERN_NOT_TEXT.to_owned())
            }
        },
        Op::Unary(Unary::Ffi(name)) | Op::Binary(Binary::Ffi(name)) => {
            Some(format!("no device has a function `extern::{}`", shown(name)))
        }
        Op::Value(_) | Op::Unary(_) | Op::Binary(_) => None,
    })
}
