//! The policy in force, parsed once.
//!
//! Owns: [`Policy`]: the document and the authorizer that each request clones; the refusal of a policy that trusts
//! blocks of third parties.
//! Never: decides a request; parses at request time.
//! Read next: `decide.rs`.

use biscuit_auth::builder::AuthorizerBuilder;
use biscuit_auth::parser::parse_source;

use crate::wire::policy::PolicyDocument;
use crate::wire::Refused;

/// A policy that can be evaluated.
pub struct Policy {
    /// The document.
    pub document: PolicyDocument,
    /// Facts of no request, policies and rules of this one.
    pub authorizer: AuthorizerBuilder,
    /// Whether it asks about the time. Then the outcome may change at dates that stand in no token.
    pub asks_time: bool,
}

impl Policy {
    /// Parses a document.
    ///
    /// # Errors
    /// [`Refused::Malformed`] when its Datalog is none, uses `trusting`, or its table of risks is empty.
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
        let asks_time = queries().any(|query| query.body.iter().any(|predicate| predicate.name == "time"));
        let authorizer = AuthorizerBuilder::new().code(&document.datalog).map_err(malformed)?;
        Ok(Self { document, authorizer, asks_time })
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
        check_policy("ok($r) <- resource($r) trusting previous; allow if ok(\"a\");", false);
    }

    #[track_caller]
    fn check_policy(datalog: &str, fine: bool) {
        let document = PolicyDocument { datalog: datalog.into(), ..PolicyDocument::built_in(Timestamp(0)) };
        assert_eq!(Policy::parse(document).is_ok(), fine, "{datalog}");
    }
}
