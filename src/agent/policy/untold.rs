//! A policy where not all is told yet: what could turn against an allow, once it is, does. And a token's check that fails for want
//! of what is told later.
//!
//! Owns: which clauses rest on facts that come later, and what stands for them until then.
//! Never: finds what a fact that comes later would allow a policy; takes for certain that an expression over it can be evaluated.
//! Read next: `../introspect.rs`, which tells what a token is good for before it is known what for.
//!
//! A fact more can make a `deny if` or a `reject if` apply, be one too many for a `check all`, give a rule more to make than a run
//! may hold, and be of a type that an expression cannot be evaluated for, which denies wherever the clause is come to. It takes
//! nothing from an alternative that holds without it: that is tried before those that rest on it.

use std::collections::BTreeSet;

use biscuit_auth::builder::{
    self, AuthorizerBuilder, Check, CheckKind, Expression, Op, PolicyKind, Predicate, Rule, Term,
};

use super::{Policy, Source};
use crate::wire::token::AMBIENT;

impl Policy {
    /// The policy for a question that does not say what these facts will be: where it allows, it does whatever they are. None
    /// where that could not be made.
    pub(in crate::agent) fn whatever_is_told(&self, later: &[&str]) -> Option<AuthorizerBuilder> {
        if later.iter().any(|name| self.rules_ask.contains(*name)) {
            return AuthorizerBuilder::new().check(never()).ok();
        }
        self.clauses.iter().try_fold(self.rules.clone(), |builder, (_, clause)| match clause {
            Source::Check(check) => builder.check(check_until_told(check, later)).ok(),
            Source::Policy(policy) => policies_until_told(policy, later)
                .into_iter()
                .try_fold(builder, |builder, policy| builder.policy(policy).ok()),
        })
    }
}

fn check_until_told(check: &Check, later: &[&str]) -> Check {
    match check.kind {
        CheckKind::Reject => {
            let queries = check.queries.iter().map(|query| until_reached(query, later)).collect();
            Check { queries, kind: CheckKind::Reject }
        }
        // What its conditions would be held against nobody knows.
        CheckKind::All if check.queries.iter().any(|query| rests_on(query, later)) => never(),
        CheckKind::All | CheckKind::One => check.clone(),
    }
}

/// What allows for certain, and what denies wherever it could, or could fail to be evaluated.
fn policies_until_told(policy: &builder::Policy, later: &[&str]) -> Vec<builder::Policy> {
    let (allows, denies): (Vec<Rule>, Vec<Rule>) = match policy.kind {
        PolicyKind::Allow => {
            let (open, sure): (Vec<Rule>, _) = policy.queries.iter().cloned().partition(|query| rests_on(query, later));
            (sure, open.into_iter().filter(|query| !query.expressions.is_empty()).collect())
        }
        PolicyKind::Deny => (Vec::new(), policy.queries.clone()),
    };
    let denies = denies.iter().map(|query| until_reached(query, later)).collect();
    let both = [(PolicyKind::Allow, allows), (PolicyKind::Deny, denies)];
    let asked = both.into_iter().filter(|(_, queries)| !queries.is_empty());
    asked.map(|(kind, queries)| builder::Policy { queries, kind }).collect()
}

/// Whether a query asks about one of these facts.
pub(super) fn rests_on(query: &Rule, later: &[&str]) -> bool {
    query.body.iter().any(|asked| later.contains(&asked.name.as_str()))
}

/// A query without what it asks of facts that come later, up to the first expression over them: it holds wherever the whole
/// could, or could fail to be evaluated.
fn until_reached(query: &Rule, later: &[&str]) -> Rule {
    let (mut left, known) = without(query, |name| later.contains(&name));
    let told = left.expressions.iter().take_while(|expression| is_over(expression, &known)).count();
    left.expressions.truncate(told);
    or_always(left)
}

/// What allows where a check of a token that fails could pass once a request tells these facts: an alternative that rests on them
/// holds without them. None where none does. What the token states or its rules make is not looked at, and counts as told.
pub(in crate::agent) fn once_told(check: &Check, later: &[&str]) -> Option<builder::Policy> {
    let open = check.queries.iter().filter(|query| check.kind != CheckKind::Reject && rests_on(query, later));
    let queries = open.map(|query| {
        let (mut left, known) = without(query, |name| later.contains(&name) || !AMBIENT.contains(&name));
        left.expressions.retain(|expression| is_over(expression, &known));
        or_always(left)
    });
    let queries: Vec<Rule> = queries.collect();
    (!queries.is_empty()).then_some(builder::Policy { queries, kind: PolicyKind::Allow })
}

/// A query without what it asks of facts of these names, and the variables that are left.
fn without(query: &Rule, is_later: impl Fn(&str) -> bool) -> (Rule, BTreeSet<String>) {
    let mut left = query.clone();
    left.body.retain(|asked| !is_later(&asked.name));
    let known = left.body.iter().flat_map(variables).collect();
    (left, known)
}

fn is_over(expression: &Expression, known: &BTreeSet<String>) -> bool {
    names(&expression.ops).is_subset(known)
}

/// A query that asks about nothing holds.
fn or_always(mut query: Rule) -> Rule {
    if query.body.is_empty() && query.expressions.is_empty() {
        query.expressions = always().expressions;
    }
    query
}

/// A check that nothing passes.
fn never() -> Check {
    Check { queries: vec![always()], kind: CheckKind::Reject }
}

/// `true`, as a query.
fn always() -> Rule {
    let holds = Expression { ops: vec![Op::Value(Term::Bool(true))] };
    Rule::new(Predicate::new("query".into(), Vec::<Term>::new()), Vec::new(), vec![holds], Vec::new())
}

fn variables(asked: &Predicate) -> impl Iterator<Item = String> + '_ {
    asked.terms.iter().filter_map(|term| match term {
        Term::Variable(name) => Some(name.clone()),
        Term::Array(_)
        | Term::Bool(_)
        | Term::Bytes(_)
        | Term::Date(_)
        | Term::Integer(_)
        | Term::Map(_)
        | Term::Null
        | Term::Parameter(_)
        | Term::Set(_)
        | Term::Str(_) => None,
    })
}

/// The variables of an expression that it does not bring itself.
fn names(ops: &[Op]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for op in ops {
        match op {
            Op::Value(Term::Variable(name)) => {
                found.insert(name.clone());
            }
            Op::Closure(own, ops) => found.extend(names(ops).into_iter().filter(|name| !own.contains(name))),
            Op::Value(_) | Op::Unary(_) | Op::Binary(_) => {}
        }
    }
    found
}
