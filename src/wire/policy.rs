//! The policy document: Datalog, and the tables beside it.
//!
//! Owns: [`PolicyDocument`] with its tables of risk, time class and staleness, the built-in policy.
//! Never: evaluates anything. `agent/decide.rs` does.
//! Read next: `token.rs`, whose facts the Datalog is about.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::envelope::Document;
use super::Refused;
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

/// Up to which of the three clocks a token is honoured, from the most lenient to the strictest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeClass {
    /// At the floor E alone: refused once its end is proven past. For telemetry.
    Floor,
    /// Up to the powered-on clock P, and to the system clock where that is later.
    #[default]
    Bounded,
    /// Up to the ceiling L: without a round trip in this boot nothing is allowed.
    Strict,
}

impl TimeClass {
    /// The name in JSON, records, facts and tokens.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Bounded => "bounded",
            Self::Strict => "strict",
        }
    }
}

impl FromStr for TimeClass {
    type Err = Refused;
    fn from_str(text: &str) -> Result<Self, Refused> {
        match text {
            "floor" => Ok(Self::Floor),
            "bounded" => Ok(Self::Bounded),
            "strict" => Ok(Self::Strict),
            _ => Err(Refused::Malformed("a time class is `floor`, `bounded` or `strict`")),
        }
    }
}

/// How long an answer may rely on a revocation list that is no longer fresh, per class of risk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RiskLevel {
    /// The class. The table goes from the lowest to the highest.
    pub class: RiskClass,
    /// The oldest that the newest complete revocation head may be, in milliseconds. None: best effort, an old list
    /// denies nothing, and the answer says how old it is.
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

/// Which time class an operation on a resource has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeRule {
    /// The operation, or `*` for every one.
    pub operation: String,
    /// The resource, a prefix that ends in `/*`, or `*` for every one.
    pub resource: String,
    /// The class.
    pub class: TimeClass,
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
    /// The first rule that matches names the time class; `bounded` where none does. A token may ask for a stricter one.
    #[serde(default)]
    pub time_rules: Vec<TimeRule>,
    /// After this long without an acknowledged round trip the device locks. None: never.
    pub dead_man_ms: Option<Millis>,
    /// Audit is sealed to the collector's key, so that no broker reads it.
    #[serde(default)]
    pub seal_audit: bool,
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
            time_rules: Vec::new(),
            dead_man_ms: None,
            seal_audit: false,
            issued_at,
        }
    }

    /// Where a class stands, counted from the lowest.
    pub fn rank(&self, class: &RiskClass) -> Option<usize> {
        self.risks.iter().position(|level| level.class == *class)
    }

    /// Whether a bound that a token states for one class binds another: that class, and every higher one.
    pub fn binds(&self, stated: &RiskClass, class: &RiskClass) -> bool {
        let rank = |class| self.rank(class).unwrap_or(usize::MAX);
        stated == class || rank(stated) < rank(class)
    }

    /// The class of a request: the higher of what it names and what the first matching rule says, the highest where
    /// neither says anything or a named class is not in the table.
    pub fn risk_of(&self, operation: &str, resource: &str, named: Option<&RiskClass>) -> Option<&RiskLevel> {
        let matches = |rule: &&RiskRule| covers(&rule.operation, &rule.resource, operation, resource);
        let ruled = self.risk_rules.iter().find(matches).map(|rule| &rule.risk);
        let highest = self.risks.len().checked_sub(1)?;
        let rank = [named, ruled].into_iter().flatten().map(|class| self.rank(class).unwrap_or(highest)).max();
        self.risks.get(rank.unwrap_or(highest))
    }

    /// The time class of a request.
    pub fn time_class_of(&self, operation: &str, resource: &str) -> TimeClass {
        let matches = |rule: &&TimeRule| covers(&rule.operation, &rule.resource, operation, resource);
        self.time_rules.iter().find(matches).map_or(TimeClass::Bounded, |rule| rule.class)
    }

    /// The classes that requests which name none can have, on what lies below a prefix.
    pub fn risks_below(&self, operation: &str, prefix: &str) -> Vec<&RiskLevel> {
        let Some(highest) = self.risks.len().checked_sub(1) else { return Vec::new() };
        let table = self.risk_rules.iter().map(|rule| (&*rule.operation, &*rule.resource, &rule.risk));
        let ruled = below(table, (operation, prefix));
        let ranks: BTreeSet<usize> =
            ruled.into_iter().map(|class| class.and_then(|class| self.rank(class)).unwrap_or(highest)).collect();
        ranks.into_iter().filter_map(|rank| self.risks.get(rank)).collect()
    }

    /// The time classes that requests can have, on what lies below a prefix.
    pub fn time_classes_below(&self, operation: &str, prefix: &str) -> BTreeSet<TimeClass> {
        let table = self.time_rules.iter().map(|rule| (&*rule.operation, &*rule.resource, rule.class));
        below(table, (operation, prefix)).into_iter().map(Option::unwrap_or_default).collect()
    }
}

/// What the lines of a table say that can be the first to match a request below a prefix; none where no line may.
fn below<'t, T>(
    table: impl Iterator<Item = (&'t str, &'t str, T)>,
    (operation, prefix): (&str, &str),
) -> Vec<Option<T>> {
    let mut found = Vec::new();
    for (_, pattern, said) in table.filter(|(operations, ..)| *operations == "*" || *operations == operation) {
        let (reach, is_prefix) = match pattern.strip_suffix('*') {
            Some(reach) if reach.is_empty() || reach.ends_with('/') => (reach, true),
            Some(_) | None => (pattern, false),
        };
        let all = is_prefix && prefix.starts_with(reach);
        if all || reach.starts_with(prefix) {
            found.push(Some(said));
        }
        if all {
            return found;
        }
    }
    found.push(None);
    found
}

/// Whether a line of a table is about a request.
fn covers(operations: &str, resources: &str, operation: &str, resource: &str) -> bool {
    (operations == "*" || operations == operation) && pattern_covers(resources, resource)
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

    #[test]
    fn the_first_rule_that_matches_names_the_time_class() {
        let rule = |operation: &str, resource: &str, class: TimeClass| TimeRule {
            operation: operation.into(),
            resource: resource.into(),
            class,
        };
        let mut policy = PolicyDocument::built_in(Timestamp(0));
        policy.time_rules = vec![rule("write", "valve/*", TimeClass::Strict), rule("*", "meter/1", TimeClass::Floor)];
        assert_eq!(policy.time_class_of("write", "valve/3"), TimeClass::Strict);
        assert_eq!(policy.time_class_of("read", "valve/3"), TimeClass::Bounded);
        assert_eq!(policy.time_class_of("read", "meter/1"), TimeClass::Floor);
        assert!(TimeClass::Floor < TimeClass::Bounded && TimeClass::Bounded < TimeClass::Strict);
        for class in [TimeClass::Floor, TimeClass::Bounded, TimeClass::Strict] {
            assert_eq!(class.name().parse(), Ok(class));
        }
    }

    #[test]
    fn below_a_prefix_every_line_counts_that_reaches_into_it() {
        let risk = |operation: &str, resource: &str, risk: &str| RiskRule {
            operation: operation.into(),
            resource: resource.into(),
            risk: risk.parse().unwrap(),
        };
        let time = |resource: &str, class| TimeRule { operation: "read".into(), resource: resource.into(), class };
        let mut policy = PolicyDocument::built_in(Timestamp(0));
        policy.risk_rules =
            vec![risk("read", "meter/a/*", "medium"), risk("read", "meter/*", "low"), risk("*", "x", "medium")];
        policy.time_rules = vec![time("meter/a/1", TimeClass::Strict), time("meter/a/*", TimeClass::Floor)];
        for (operation, prefix, risks, times) in [
            ("read", "meter/", &["low", "medium"][..], &[TimeClass::Floor, TimeClass::Bounded, TimeClass::Strict][..]),
            ("read", "meter/a/", &["medium"], &[TimeClass::Floor, TimeClass::Strict]),
            ("read", "meter/b/", &["low"], &[TimeClass::Bounded]),
            ("write", "meter/", &["high"], &[TimeClass::Bounded]),
            ("read", "", &["low", "medium", "high"], &[TimeClass::Floor, TimeClass::Bounded, TimeClass::Strict]),
        ] {
            let found: Vec<&str> =
                policy.risks_below(operation, prefix).iter().map(|level| level.class.as_str()).collect();
            assert_eq!(found, risks, "{operation} {prefix}");
            let found: Vec<TimeClass> = policy.time_classes_below(operation, prefix).into_iter().collect();
            assert_eq!(found, times, "{operation} {prefix}");
        }
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
