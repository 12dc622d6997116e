//! A policy where not all is told yet: what could turn against an allow, once it is, does.
//!
//! Owns: which clauses rest on facts that come later, and what stands for them until then.
//! Never: finds what a fact that comes later would allow.
//! Read next: `../introspect.rs`, which tells what a token is good for before it is known what for.
//!
//! Datalog without negation: a fact more makes no `check if` fail and takes no `allow if` away. It can make a `deny if` or a
//! `reject if` apply, and be one too many for a `check all`. So these stand without what they ask of such facts.

use std::collections::BTreeSet;

use biscuit_auth::builder::{
    self, AuthorizerBuilder, Check, CheckKind, Expression, Op, PolicyKind, Predicate, Rule, Term,
};

use super::{Policy, Source};

impl Policy {
    /// The policy for a question that does not say what these facts will be: where it allows, it does whatever they are. None
    /// where that could not be made.
    pub(in crate::agent) fn whatever_is_told(&self, later: &[&str]) -> Option<AuthorizerBuilder> {
        let later = self.resting_on(later);
        self.clauses.iter().try_fold(self.rules.clone(), |builder, (_, clause)| match clause {
            Source::Check(check) => builder.check(check_until_told(check, &later)).ok(),
            Source::Policy(policy) => builder.policy(policy_until_told(policy, &later)).ok(),
        })
    }

    /// These facts, and those that its rules make of them.
    fn resting_on(&self, later: &[&str]) -> BTreeSet<String> {
        let mut known: BTreeSet<String> = later.iter().map(|name| (*name).to_owned()).collect();
        loop {
            let before = known.len();
            let made = self.made.iter().filter(|(_, body)| body.iter().any(|name| known.contains(name)));
            let made: Vec<String> = made.map(|(head, _)| head.clone()).collect();
            known.extend(made);
            if known.len() == before {
                return known;
            }
        }
    }
}

fn check_until_told(check: &Check, later: &BTreeSet<String>) -> Check {
    let rests = check.queries.iter().flat_map(|query| &query.body).any(|asked| later.contains(&asked.name));
    match check.kind {
        CheckKind::Reject => {
            let queries = check.queries.iter().map(|query| until_told(query, later)).collect();
            Check { queries, kind: CheckKind::Reject }
        }
        // What its conditions would be held against nobody knows.
        CheckKind::All if rests => Check { queries: vec![always()], kind: CheckKind::Reject },
        CheckKind::All | CheckKind::One => check.clone(),
    }
}

fn policy_until_told(policy: &builder::Policy, later: &BTreeSet<String>) -> builder::Policy {
    match policy.kind {
        PolicyKind::Allow => policy.clone(),
        PolicyKind::Deny => {
            let queries = policy.queries.iter().map(|query| until_told(query, later)).collect();
            builder::Policy { queries, kind: PolicyKind::Deny }
        }
    }
}

/// A query without what it asks of facts that come later: it holds wherever the whole could.
fn until_told(query: &Rule, later: &BTreeSet<String>) -> Rule {
    let mut left = query.clone();
    left.body.retain(|asked| !later.contains(&asked.name));
    let known: BTreeSet<String> = left.body.iter().flat_map(variables).collect();
    left.expressions.retain(|expression| names(&expression.ops).is_subset(&known));
    if left.body.is_empty() && left.expressions.is_empty() {
        left.expressions = always().expressions;
    }
    left
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
