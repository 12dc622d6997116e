//! The policy in force, parsed once.
//!
//! Owns: [`Policy`]: the document and the authorizer that each request clones; the refusal of a policy that trusts
//! blocks of third parties.
//! Never: decides a request; parses at request time.
//! Read next: `decide.rs`.

use std::collections::BTreeSet;

use biscuit_auth::builder::{AuthorizerBuilder, BiscuitBuilder, Check, CheckKind};
use biscuit_auth::datalog::SymbolTable;
use biscuit_auth::parser::{parse_source, SourceResult};
use ed25519_dalek::SigningKey;

use super::intact;
use crate::profile::VerifyLimits;
use crate::wire::biscuit::{self, Defect};
use crate::wire::policy::PolicyDocument;
use crate::wire::token::key_pair;
use crate::wire::{Refused, MESSAGE_BYTES_MAX};

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

/// A policy that can be evaluated.
pub struct Policy {
    /// The document.
    pub document: PolicyDocument,
    /// Facts of no request, policies and rules of this one.
    pub authorizer: AuthorizerBuilder,
    /// Names of the facts that it asks about.
    pub asks: BTreeSet<String>,
    /// Its dates, in seconds, sorted. If it asks about the time, the outcome may change there.
    pub dates: Vec<u64>,
}

impl Policy {
    /// Parses a document.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when its Datalog is none, uses `trusting`, states what only the agent may add, uses the time
    /// other than in comparisons, or its table of risks is empty.
    pub fn parse(document: PolicyDocument) -> Result<Self, Refused> {
        if document.risks.is_empty() {
            return Err(Refused::Malformed("a policy without a class of risk"));
        }
        let malformed = |_| Refused::Malformed("the policy's Datalog cannot be parsed");
        let source =
            parse_source(&document.datalog).map_err(|_| Refused::Malformed("the policy's Datalog cannot be parsed"))?;
        let in_policies = source.policies.iter().flat_map(|(_, policy)| &policy.queries);
        let in_checks = source.checks.iter().flat_map(|(_, check)| &check.queries);
        let queries = || in_policies.clone().chain(in_checks.clone()).chain(source.rules.iter().map(|(_, rule)| rule));
        if !source.scopes.is_empty() || queries().any(|query| !query.scopes.is_empty()) {
            return Err(Refused::Malformed("a policy may not use `trusting`"));
        }
        let asks = queries().flat_map(|query| &query.body).map(|predicate| predicate.name.clone()).collect();
        let authorizer = AuthorizerBuilder::new().code(&document.datalog).map_err(malformed)?;
        let dates = dates(&source)?;
        Ok(Self { document, authorizer, asks, dates })
    }
}

/// The dates of a policy, read as those of a token are: as a block that holds its facts, rules and checks, and its
/// policies as checks.
fn dates(source: &SourceResult<'_>) -> Result<Vec<u64>, Refused> {
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
    let bytes = token.map_err(unreadable)?;
    let read = biscuit::decode(&bytes, &unbounded()).map_err(|defect| match defect {
        Defect::Malformed(what) | Defect::TooComplex(what) => Refused::Malformed(what),
        Defect::TooLarge(_) | Defect::WrongAlgorithm => Refused::Malformed("the policy is too large"),
    })?;
    Ok(read.dates)
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
        check_policy("ok($r) <- resource($r) trusting previous; allow if ok(\"a\");", false);
    }

    #[test]
    fn its_dates_are_known() {
        let datalog = "deny if time($t), $t >= 1970-01-01T00:00:10Z, $t < 1970-01-01T00:00:20Z; allow if true;".into();
        let policy = Policy::parse(PolicyDocument { datalog, ..PolicyDocument::built_in(Timestamp(0)) }).unwrap();
        assert!(policy.asks.contains("time"));
        assert_eq!(policy.dates, [10, 20]);
    }

    #[track_caller]
    fn check_policy(datalog: &str, fine: bool) {
        let document = PolicyDocument { datalog: datalog.into(), ..PolicyDocument::built_in(Timestamp(0)) };
        assert_eq!(Policy::parse(document).is_ok(), fine, "{datalog}");
    }
}
