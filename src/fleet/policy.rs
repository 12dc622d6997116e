//! Policies as operators set them.
//!
//! Owns: the check of a draft and its version.
//! Never: lets a policy out that a device would refuse.
//! Read next: `wire/policy.rs`.

use ed25519_dalek::SigningKey;

use super::acts::{self, Deed};
use super::book::{Book, Write};
use super::{keys, Effects, FleetError, Operator};
use crate::agent::policy::lint::lint;
use crate::agent::policy::Policy;
use crate::profile::Profile;
use crate::time::Timestamp;
use crate::wire::envelope::{Document, Signed};
use crate::wire::policy::PolicyDocument;
use crate::wire::token::canonical;
use crate::wire::Refused;

/// Signs `draft` as the next version. Its own version and date do not count. The same content again changes nothing.
/// Returns the version in force.
///
/// # Errors
/// What a device would refuse.
pub fn set(
    book: &mut Book,
    draft: PolicyDocument,
    key: &SigningKey,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<u64, FleetError> {
    let named = book.trust().policy_keys().any(|known| *known == key.verifying_key());
    keys::check("policy", book.trust(), named)?;
    let current = book.policy().1;
    // Blank lines at either end say nothing, and editors add and take them.
    let plain = |document: &PolicyDocument| PolicyDocument {
        version: 0,
        issued_at: at,
        datalog: document.datalog.trim().to_owned(),
        ..document.clone()
    };
    if plain(&draft) == plain(current) {
        return Ok(current.version);
    }
    let version = current.version + 1;
    let document = PolicyDocument { version, issued_at: at, ..draft };
    check(&Policy::parse(document.clone()).map_err(FleetError::refused("the policy"))?)?;
    let signed = Signed::sign(&document, book.fleet(), &[key]);
    let (bytes, limit) = (signed.to_bytes().len(), PolicyDocument::BYTES_MAX);
    if bytes > limit {
        return Err(FleetError::refused("the policy")(Refused::TooLarge { bytes, limit }));
    }
    let digest = signed.digest();
    book.write(Write::Policy(version, signed), fx);
    acts::record(book, operator, Deed::Policy { version, digest }, at, fx)?;
    Ok(version)
}

/// What can hardly be meant by a policy, in words.
///
/// # Errors
/// A table with a line that can never apply, and what costs a device too much to evaluate.
pub fn check(policy: &Policy) -> Result<Vec<String>, FleetError> {
    let refused = |why: String| FleetError::Argument(format!("the policy is refused: {why}"));
    check_tables(&policy.document).and_then(|()| lint(policy, &Profile::default().verify)).map_err(refused)
}

fn check_tables(document: &PolicyDocument) -> Result<(), String> {
    let mut classes: Vec<_> = document.risks.iter().map(|level| &level.class).collect();
    classes.sort();
    if let Some(twice) = classes.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(format!("the table of risks names class {} twice", twice[0]));
    }
    if let Some(rule) = document.risk_rules.iter().find(|rule| document.rank(&rule.risk).is_none()) {
        return Err(format!(
            "the rule for {} {} names risk {}, which is not in the table of risks",
            rule.operation, rule.resource, rule.risk
        ));
    }
    let of_risks = document.risk_rules.iter().map(|rule| (&rule.operation, &rule.resource));
    let of_time = document.time_rules.iter().map(|rule| (&rule.operation, &rule.resource));
    for (operation, resource) in of_risks.chain(of_time).filter(|(_, resource)| *resource != "*") {
        // What is asked about is canonical: nothing else is ever matched.
        canonical(resource.strip_suffix("/*").unwrap_or(resource)).map_err(|refused| {
            format!("the rule for {operation:?} on {resource:?} is about no resource, no prefix that ends in /* and not *: {refused}")
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::service::tests::{at, founded};
    use super::*;
    use crate::wire::policy::{RiskRule, TimeClass, TimeRule};

    #[test]
    fn a_policy_is_versioned_checked_and_only_changed_by_content() {
        let (keys, mut book) = founded();
        let fx = &mut Effects::default();
        let ann = keys.operator("ann");
        let mut draft = PolicyDocument::built_in(at(5));
        let mut set = |book: &mut Book, draft: &PolicyDocument| set(book, draft.clone(), &keys.policy, ann, at(5), fx);
        assert_eq!(set(&mut book, &draft), Ok(1), "the same content");
        draft.datalog.push_str("deny if operation(\"erase\");\n");
        assert_eq!(set(&mut book, &draft), Ok(2));
        assert_eq!(set(&mut book, &draft), Ok(2));
        let refused = |edit: &dyn Fn(&mut PolicyDocument)| {
            let mut bad = draft.clone();
            edit(&mut bad);
            let (keys, mut book) = founded();
            super::set(&mut book, bad, &keys.policy, keys.operator("ann"), at(5), &mut Effects::default()).is_err()
        };
        assert!(refused(&|bad| bad.datalog = "allow if trusting".into()));
        assert!(refused(&|bad| bad.risks.clear()));
        assert!(refused(&|bad| bad.risks.push(bad.risks[0].clone())));
        assert!(refused(&|bad| bad.datalog = "allow if true;".repeat(5000)));
        assert!(refused(&|bad| bad.datalog.push_str("deny if argument($a, $x), argument($b, $x), $a != $b;")));
        assert!(refused(&|bad| bad.datalog.push_str("deny if operation($o), $o.matches(\"[\");")));
    }

    #[test]
    fn lines_of_its_tables_that_can_never_apply_are_refused() {
        let told = |edit: &dyn Fn(&mut PolicyDocument)| {
            let mut document = PolicyDocument::built_in(at(5));
            edit(&mut document);
            check(&Policy::parse(document).unwrap()).err().map(|error| error.to_string()).unwrap_or_default()
        };
        let rule = |resource: &str, risk: &str| RiskRule {
            operation: "read".into(),
            resource: resource.into(),
            risk: risk.parse().unwrap(),
        };
        let unknown = told(&|policy| policy.risk_rules.push(rule("a", "absurd")));
        assert!(unknown.contains("names risk absurd, which is not in the table"), "{unknown}");
        let twice = told(&|policy| policy.risks.push(policy.risks[0].clone()));
        assert!(twice.contains("names class low twice"), "{twice}");
        for resource in ["a/../b", "a/", "/a", "a//*", "a*", "/*", "", "a/*/b", "a/./*", "a%2fb"] {
            let risk = told(&|policy| policy.risk_rules.push(rule(resource, "low")));
            let time = told(&|policy| {
                let RiskRule { operation, resource, .. } = rule(resource, "low");
                policy.time_rules.push(TimeRule { operation, resource, class: TimeClass::Strict });
            });
            for told in [risk, time] {
                assert!(
                    told.contains(&format!("the rule for \"read\" on {resource:?} is about no resource")),
                    "{told}"
                );
            }
        }
        for resource in ["a/b", "a/*", "*", "opc/ns=2:s=x", "t-1"] {
            assert_eq!(told(&|policy| policy.risk_rules.push(rule(resource, "low"))), "", "{resource}");
        }
    }
}
