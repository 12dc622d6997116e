//! What an operator should know of a policy before devices do.
//!
//! Owns: [`lint`]: a policy that costs more than a token may, which is refused; and what can hardly be meant, which is told.
//! Never: is asked by a device: what the fleet signed is in force.
//! Read next: `../policy.rs`, `../../wire/biscuit.rs` for what evaluation costs.

use biscuit_auth::parser::parse_source;

use super::{as_block, asked, unbounded, Policy};
use crate::profile::VerifyLimits;
use crate::wire::biscuit::{self, Defect};
use crate::wire::token::{AMBIENT, AMBIENT_PAIRS, STATED};

/// The most facts that a policy states itself.
const FACTS_MAX: usize = 256;
/// The most rules.
const RULES_MAX: usize = 64;
/// The most policies and checks together.
const CLAUSES_MAX: usize = 256;

/// What can hardly be meant, in words.
///
/// # Errors
/// What costs too much to evaluate beside a token of these limits, in words.
pub fn lint(policy: &Policy, limits: &VerifyLimits) -> Result<Vec<String>, String> {
    let datalog = &policy.document.datalog;
    // It was parsed before.
    let source = parse_source(datalog).map_err(|_| "its Datalog cannot be parsed".to_owned())?;
    let bounds = VerifyLimits {
        facts_max: FACTS_MAX,
        rules_max: RULES_MAX,
        checks_max: CLAUSES_MAX,
        expression_ops_max: limits.expression_ops_max,
        join_cost_max: limits.join_cost_max,
        run_facts_max: limits.run_facts_max,
        ..unbounded()
    };
    let block = as_block(&source).map_err(|refused| refused.to_string())?;
    biscuit::decode_beside(&block, limits.facts_max, &bounds).map_err(|defect| match defect {
        Defect::TooComplex(what) => format!("it costs too much to evaluate: {what}"),
        Defect::Malformed(_) | Defect::TooLarge(_) | Defect::WrongAlgorithm => defect.to_string(),
    })?;

    let facts = source.facts.iter().map(|(_, fact)| &fact.predicate);
    let own: Vec<_> = facts.chain(source.rules.iter().map(|(_, rule)| &rule.head)).collect();
    let mut warnings = Vec::new();
    for (name, terms) in asked(&source) {
        let stated = STATED.iter().find(|(known, _)| *known == name).map(|(_, terms)| *terms);
        let ambient = AMBIENT.contains(&name.as_str()).then(|| 1 + usize::from(AMBIENT_PAIRS.contains(&name.as_str())));
        let made = own.iter().any(|own| own.name == name && own.terms.len() == terms);
        match stated.or(ambient) {
            _ if made => {}
            Some(right) if right == terms => {}
            Some(right) => {
                warnings.push(format!("{name} is asked about with {terms} terms, and has {right}: that is never so"));
            }
            None => warnings.push(format!(
                "{name} is asked about, and no fact of that name is known: neither the agent states it, nor this policy, nor a token of this fleet's issuer"
            )),
        }
    }
    let allows = policy.policies.iter().position(|told| !told.denies);
    let late = policy.policies.iter().enumerate().filter(|(place, told)| told.denies && allows < Some(*place));
    if let (Some(allows), true) = (allows, late.clone().next().is_some()) {
        let places: Vec<String> = late.map(|(place, _)| (place + 1).to_string()).collect();
        warnings.push(format!(
            "policy {} allows before policy {} can deny: the first that applies decides, so put what denies first",
            allows + 1,
            places.join(", ")
        ));
    }
    if allows.is_none() {
        warnings.push("no policy allows anything".into());
    }
    Ok(warnings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;
    use crate::time::Timestamp;
    use crate::wire::policy::{PolicyDocument, BUILT_IN};

    #[track_caller]
    fn check(datalog: &str, expected: Result<&[&str], &str>) {
        let document = PolicyDocument { datalog: datalog.into(), ..PolicyDocument::built_in(Timestamp(0)) };
        let found = lint(&Policy::parse(document).unwrap(), &Profile::default().verify);
        match (&found, expected) {
            (Ok(warnings), Ok(words)) => {
                let told =
                    warnings.len() == words.len() && warnings.iter().zip(words).all(|(w, word)| w.contains(word));
                assert!(told, "{datalog}: {warnings:?}");
            }
            (Err(error), Err(word)) => assert!(error.contains(word), "{datalog}: {error}"),
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => panic!("{datalog}: {found:?}"),
        }
    }

    #[test]
    fn what_can_hardly_be_meant_is_told() {
        check(BUILT_IN, Ok(&[]));
        check(&format!("deny if argument(\"force\", true), risk(\"high\"); {BUILT_IN}"), Ok(&[]));
        check("deny if argument(\"force\"); allow if true;", Ok(&["argument is asked about with 1 terms, and has 2"]));
        check("allow if opertion(\"read\");", Ok(&["opertion is asked about, and no fact"]));
        check("night(true) <- mode(\"stale\"); deny if night(true); allow if true;", Ok(&[]));
        check("holiday(\"x\"); deny if holiday(\"x\"); allow if true;", Ok(&[]));
        check(
            "allow if true; deny if risk(\"high\"); deny if mode(\"stale\");",
            Ok(&["policy 1 allows before policy 2, 3"]),
        );
        check("deny if risk(\"high\");", Ok(&["no policy allows"]));
        // A right that the policy makes itself is one of this fleet's too.
        check("right(\"a\", \"read\"); allow if right(\"a\", \"read\");", Ok(&[]));
    }

    #[test]
    fn what_costs_too_much_is_refused() {
        let many = |clause: &str, count| format!("{}{BUILT_IN}", clause.repeat(count));
        check(&many("deny if risk(\"absurd\"); ", 200), Ok(&[]));
        check(&many("deny if risk(\"absurd\"); ", 260), Err("too many checks"));
        check(&many("late(true) <- mode(\"stale\"); ", 65), Err("too many rules"));
        let joined = "deny if argument($a, $x), argument($b, $y), $x == $y, $a != $b; allow if true;";
        check(joined, Err("joins too many facts"));
        check("deny if argument(\"a\", $x), argument(\"b\", $y), $x == $y; allow if true;", Ok(&[]));
        let long = format!("deny if staleness($s), {}; allow if true;", vec!["$s > 1"; 40].join(" || "));
        check(&long, Err("too long"));
    }
}
