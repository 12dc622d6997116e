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
    check(&document)?;
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

fn check(document: &PolicyDocument) -> Result<(), FleetError> {
    let unknown = document.risk_rules.iter().find(|rule| document.rank(&rule.risk).is_none());
    if let Some(rule) = unknown {
        let message = format!(
            "the rule for {} {} names risk {}, which is not in the table of risks",
            rule.operation, rule.resource, rule.risk
        );
        return Err(FleetError::Invalid(message));
    }
    let mut classes: Vec<_> = document.risks.iter().map(|level| &level.class).collect();
    classes.sort();
    if classes.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(FleetError::Invalid("the table of risks names a class twice".into()));
    }
    warnings(&Policy::parse(document.clone()).map_err(FleetError::refused("the policy"))?).map(drop)
}

/// What can hardly be meant by a policy, in words.
///
/// # Errors
/// What costs a device too much to evaluate.
pub fn warnings(policy: &Policy) -> Result<Vec<String>, FleetError> {
    lint(policy, &Profile::default().verify).map_err(|why| FleetError::Invalid(format!("the policy is refused: {why}")))
}

#[cfg(test)]
mod tests {
    use super::super::service::tests::{at, founded};
    use super::*;

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
    }
}
