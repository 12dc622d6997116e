//! The policy document: Datalog, and the tables beside it.
//!
//! Owns: [`PolicyDocument`] with its tables of risk and staleness, the built-in policy.
//! Never: evaluates anything. `agent/decide.rs` does.
//! Read next: `token.rs`, whose facts the Datalog is about.

use serde::{Deserialize, Serialize};

use super::envelope::Document;
use crate::ids::RiskClass;
use crate::time::{Millis, Timestamp};

/// The Datalog that a policy holds where nobody wrote another: it allows what a right covers and denies nothing else.
pub const BUILT_IN: &str = r#"
allow if resource($r), operation($o), right($r, $o);
allow if resource($r), operation($o), right_prefix($p, $o), $r.starts_with($p);
allow if task_class($c), resource($r), operation($o), class_right($c, $r, $o);
allow if task_class($c), resource($r), operation($o), class_right_prefix($c, $p, $o), $r.starts_with($p);
allow if operation("hardtack:exchange"), task($id), resource($id);
"#;

/// How long an answer may rely on a revocation list that is no longer fresh, per class of risk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RiskLevel {
    /// The class. The table goes from the lowest to the highest.
    pub class: RiskClass,
    /// The oldest that the newest complete revocation head may be, in milliseconds. None: no bound.
    pub staleness_max_ms: Option<Millis>,
}

/// Which class of risk an operation on a resource has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RiskRule {
    /// The operation, or `*` for every one.
    pub operation: String,
    /// The resource, a prefix that ends in `/*`, or `*` for every one.
    pub resource: String,
    /// The class.
    pub risk: RiskClass,
}

/// A signed, versioned policy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// Rises by one at each change.
    pub version: u64,
    /// Policies and rules in Biscuit's Datalog. `trusting` is refused.
    pub datalog: String,
    /// Classes of risk, lowest first, at least one.
    pub risks: Vec<RiskLevel>,
    /// The first rule that matches names the class of a request that names none, and its least where it does.
    pub risk_rules: Vec<RiskRule>,
    /// After this long without an acknowledged round trip the device locks. None: never.
    pub dead_man_ms: Option<Millis>,
    /// When it was made.
    pub issued_at: Timestamp,
}

impl Document for PolicyDocument {
    const KIND: &'static str = "policy";
}

impl PolicyDocument {
    /// The policy of a new fleet: the built-in Datalog; `low` for 7 days, `medium` for a day, `high` for 4 hours, which
    /// is also what a request that names no risk gets.
    pub fn built_in(issued_at: Timestamp) -> Self {
        let level = |class: &str, hours: u64| RiskLevel {
            class: class.parse().expect("the names below are valid"),
            staleness_max_ms: Some(Millis::from_secs(hours * 3600)),
        };
        Self {
            version: 1,
            datalog: BUILT_IN.to_owned(),
            risks: vec![level("low", 7 * 24), level("medium", 24), level("high", 4)],
            risk_rules: Vec::new(),
            dead_man_ms: None,
            issued_at,
        }
    }

    /// Where a class stands, counted from the lowest.
    pub fn rank(&self, class: &RiskClass) -> Option<usize> {
        self.risks.iter().position(|level| level.class == *class)
    }

    /// The class of a request: the higher of what it names and what the first matching rule says, the highest where
    /// neither says anything or a named class is not in the table.
    pub fn risk_of(&self, operation: &str, resource: &str, named: Option<&RiskClass>) -> Option<&RiskLevel> {
        let ruled = self.risk_rules.iter().find(|rule| rule.covers(operation, resource)).map(|rule| &rule.risk);
        let highest = self.risks.len().checked_sub(1)?;
        let rank = [named, ruled].into_iter().flatten().map(|class| self.rank(class).unwrap_or(highest)).max();
        self.risks.get(rank.unwrap_or(highest))
    }
}

impl RiskRule {
    fn covers(&self, operation: &str, resource: &str) -> bool {
        (self.operation == "*" || self.operation == operation) && pattern_covers(&self.resource, resource)
    }
}

/// Whether `pattern` covers `resource`: equal, `*`, or a prefix that ends in `/*`.
pub fn pattern_covers(pattern: &str, resource: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(prefix) if prefix.ends_with('/') => resource.starts_with(prefix),
        Some(_) | None => pattern == resource,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn risk_is_the_higher_of_request_and_policy() {
        check_risk("read", "meter/1", None, "low");
        check_risk("read", "meter/1", Some("medium"), "medium");
        check_risk("write", "meter/1", Some("low"), "low");
        check_risk("write", "valve/1", Some("low"), "high");
        check_risk("write", "other", None, "high");
        check_risk("read", "meter/1", Some("unheard-of"), "high");
    }

    #[track_caller]
    fn check_risk(operation: &str, resource: &str, named: Option<&str>, expected: &str) {
        let rule = |operation: &str, resource: &str, risk: &str| RiskRule {
            operation: operation.into(),
            resource: resource.into(),
            risk: risk.parse().unwrap(),
        };
        let mut policy = PolicyDocument::built_in(Timestamp(0));
        policy.risk_rules = vec![rule("read", "meter/*", "low"), rule("*", "valve/1", "high")];
        let named = named.map(|name| name.parse().unwrap());
        let level = policy.risk_of(operation, resource, named.as_ref()).unwrap();
        assert_eq!(level.class.as_str(), expected);
    }
}
