//! What an operator should know of a policy before devices do.
//!
//! Owns: [`lint`]: a policy that costs more than a token may, which is refused; and what can hardly be meant, which is told.
//! Never: is asked by a device: what the fleet signed is in force.
//! Read next: `../policy.rs`, `../../wire/biscuit.rs` for what evaluation costs.

use std::collections::BTreeSet;

use biscuit_auth::builder::{Binary, Op, Rule, Term, Unary};
use biscuit_auth::parser::parse_source;

use super::expressions::{parts, Part};
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
    for Part { named, text, lets_pass, queries } in parts(&source, datalog) {
        if queries.iter().any(|query| is_lenient(query, lets_pass)) {
            warnings.push(format!(
                "{named} lets pass an argument of another type than what it is compared with: by `==`, `!=` and `contains` \"5\" is \
                 not equal to 5; `===` and `!==` cannot be evaluated for it, which denies: {text}"
            ));
        }
    }
    Ok(warnings)
}

/// Whether a part stops at what an argument is equal to, or lets pass what it is not equal to: one of another type passes.
fn is_lenient(query: &Rule, lets_pass: Option<bool>) -> bool {
    let arguments = query.body.iter().filter(|asked| asked.name == "argument");
    let values: BTreeSet<&str> = arguments.filter_map(|asked| variable(asked.terms.get(1)?)).collect();
    query.expressions.iter().any(|expression| compares_leniently(&expression.ops, &values, lets_pass))
}

fn compares_leniently(ops: &[Op], values: &BTreeSet<&str>, lets_pass: Option<bool>) -> bool {
    ops.iter().enumerate().any(|(place, op)| {
        if let Op::Closure(_, ops) = op {
            return compares_leniently(ops, values, lets_pass);
        }
        let (before, after) = ops.split_at(place);
        let [.., Op::Value(left), Op::Value(right)] = before else { return false };
        let is_value = |term| variable(term).is_some_and(|name| values.contains(name));
        let beside_literal =
            [(left, right), (right, left)].iter().any(|(one, other)| is_value(one) && variable(other).is_none());
        let is_many = matches!(left, Term::Array(_) | Term::Map(_) | Term::Set(_));
        let asks_equal = match op {
            Op::Binary(Binary::HeterogeneousEqual) if beside_literal => true,
            Op::Binary(Binary::HeterogeneousNotEqual) if beside_literal => false,
            Op::Binary(Binary::Contains) if beside_literal && is_many => true,
            Op::Binary(_) | Op::Closure(..) | Op::Unary(_) | Op::Value(_) => return false,
        };
        let unary = after.iter().skip(1).map_while(|op| if let Op::Unary(unary) = op { Some(unary) } else { None });
        let negated = unary.filter(|unary| **unary == Unary::Negate).count() % 2 == 1;
        lets_pass != Some(asks_equal != negated)
    })
}

fn variable(term: &Term) -> Option<&str> {
    if let Term::Variable(name) = term {
        Some(name)
    } else {
        None
    }
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
        let other_type = "lets pass an argument of another type";
        for lenient in [
            "deny if argument(\"n\", $n), $n == 5;",
            "deny if operation(\"w\"), argument(\"n\", $n), $n > 7 || 5 == $n;",
            "deny if argument(\"n\", $n), [5, 6].contains($n);",
            "deny if argument(\"n\", $n), !($n != 5);",
            "reject if argument(\"n\", $n), {5, 6}.contains($n);",
            "check if argument(\"n\", $n), $n != 5;",
            "check if operation(\"r\") or argument(\"n\", $n), ![5, 6].contains($n);",
            "check all argument(\"n\", $n), !($n == 5);",
            "allow if argument(\"n\", $n), $n != 5;",
            "five(true) <- argument(\"n\", $n), $n == 5; deny if five(true);",
        ] {
            check(&format!("{lenient} {BUILT_IN}"), Ok(&[other_type]));
        }
        for strict in [
            "deny if argument(\"n\", $n), $n === 5;",
            "deny if argument(\"n\", $n), $n != 5;",
            "deny if argument(\"n\", $n), ![5, 6].contains($n);",
            "check if argument(\"n\", $n), $n !== 5;",
            "check if argument(\"n\", $n), $n == 5;",
            "check if argument(\"n\", $n), [5, 6].contains($n);",
            "deny if operation($o), $o == \"write\";",
            "deny if argument($name, $n), [\"a\", \"b\"].contains($name);",
            "deny if argument(\"n\", $n), $n.contains(\"..\");",
        ] {
            check(&format!("{strict} {BUILT_IN}"), Ok(&[]));
        }
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
