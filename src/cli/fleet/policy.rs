//! `hardtack fleet policy`: the policy as a file.
//!
//! Owns: the TOML that an operator writes, and that `show` prints in the same form.
//! Never: decides what a policy may say. `../../fleet/policy.rs` does.
//! Read next: `policy/cases.rs` for `test`; `../../wire/policy.rs`.

mod cases;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;

use super::super::output;
use super::super::{Exit, Failure};
use super::{millis, now, operator, Session};
use crate::agent::policy::{unparsed, Policy};
use crate::cli::output::Format;
use crate::fleet::policy::{check, set};
use crate::fleet::FleetError;
use crate::ids::RiskClass;
use crate::profile::TEXT_BYTES_MAX;
use crate::shell::fleet_keys::Role;
use crate::shell::sources::read_text;
use crate::time::{Millis, Timestamp};
use crate::wire::policy::{PolicyDocument, RiskLevel, RiskRule, TimeRule};

/// `hardtack fleet policy …`.
#[derive(Subcommand, Debug)]
pub enum PolicyCommand {
    /// Sign a file as the next policy
    Set {
        /// TOML in the form that `show` prints. What is left out stays built in
        file: PathBuf,
    },
    /// Show the policy in force
    Show,
    /// Try a policy on a table of cases: exits 0 if each comes out as expected, 1 if not
    Test {
        /// Cases in TOML, or one in JSON on each line of a file that ends in .jsonl
        cases: PathBuf,
        /// The policy in the form that `show` prints. The one in force where none is named
        #[arg(long, value_name = "FILE")]
        policy: Option<PathBuf>,
    },
}

/// A policy as an operator writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    datalog: Option<String>,
    dead_man: Option<String>,
    #[serde(default)]
    seal_audit: bool,
    risks: Option<Vec<DraftRisk>>,
    #[serde(default)]
    risk_rules: Vec<RiskRule>,
    #[serde(default)]
    time_rules: Vec<TimeRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DraftRisk {
    class: RiskClass,
    staleness_max: Option<String>,
}

pub(super) fn run(command: PolicyCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        PolicyCommand::Set { file } => put(&file, session),
        PolicyCommand::Show => show(session),
        PolicyCommand::Test { cases, policy } => test(&cases, policy.as_deref(), session),
    }
}

/// The policy of a file, which a device would take.
fn read(file: &Path, at: Timestamp) -> Result<Policy, Failure> {
    let usage = |why: String| {
        let advice = "start from what `hardtack fleet policy show` prints";
        Failure::new(Exit::Usage, format!("{}: {why}", file.display()), advice)
    };
    let text = read_text(file).map_err(|error| {
        let what = format!("cannot read the policy {}: {error}", file.display());
        Failure::new(Exit::Usage, what, "name a file in the form that `hardtack fleet policy show` prints")
    })?;
    let draft: Draft = toml::from_str(&text).map_err(|error| usage(error.to_string()))?;
    let document = document(draft, at).map_err(usage)?;
    if let Some(where_not) = unparsed(&document.datalog) {
        return Err(usage(output::visible(&where_not)));
    }
    Policy::parse(document).map_err(|refused| usage(output::visible(&refused.to_string())))
}

fn put(file: &Path, session: &Session) -> Result<Exit, Failure> {
    let at = now()?;
    let policy = read(file, at)?;
    let warnings = check(&policy)?;
    let document = policy.document;
    let mut fleet = session.open()?;
    let (name, key) = (fleet.operator.clone(), fleet.operator_key()?);
    let policy_key = fleet.keys.signing(Role::Policy)?;
    let version = fleet.act(|book, _, fx| set(book, document, &policy_key, operator(&name, &key), at, fx))?;
    if session.format == Format::Human {
        warnings.iter().for_each(|warning| output::tell(&format!("warning: {warning}")));
    }
    let told = json!({ "version": version, "warnings": warnings });
    output::show(session.format, &told, |_| format!("policy {version} is in force"))?;
    Ok(Exit::Done)
}

fn test(cases: &Path, policy: Option<&Path>, session: &Session) -> Result<Exit, Failure> {
    let (policy, fleet) = match policy {
        // Which fleet does not matter: every token that is tried is of it.
        Some(file) => (read(file, now()?)?, "fleet".parse().expect("a valid name")),
        None => {
            let fleet = session.open()?;
            let book = fleet.ledger.book();
            let policy = Policy::parse(book.policy().1.clone());
            (policy.map_err(|refused| FleetError::Refused { what: "the policy", refused })?, book.fleet().clone())
        }
    };
    let told = check(&policy)?;
    if session.format == Format::Human {
        told.iter().for_each(|warning| output::tell(&format!("warning: {warning}")));
    }
    let text = read_text(cases).map_err(|error| {
        let what = format!("cannot read the cases {}: {error}", cases.display());
        Failure::new(Exit::Usage, what, "docs/policy.md has the form of a table, with an example")
    })?;
    if text.len() > TEXT_BYTES_MAX {
        let what = format!("{}: more than {TEXT_BYTES_MAX} bytes", cases.display());
        return Err(Failure::new(Exit::Usage, what, "make several tables of it"));
    }
    cases::run((cases, &text), (&policy, &told), fleet, session.format)
}

fn document(draft: Draft, at: Timestamp) -> Result<PolicyDocument, String> {
    let built_in = PolicyDocument::built_in(at);
    let length = |text: String| match humantime::parse_duration(&text) {
        Ok(duration) => Ok(millis(duration)),
        Err(error) => Err(format!("{text:?}: {error}")),
    };
    let level = |risk: DraftRisk| {
        Ok(RiskLevel { class: risk.class, staleness_max_ms: risk.staleness_max.map(length).transpose()? })
    };
    Ok(PolicyDocument {
        datalog: draft.datalog.unwrap_or(built_in.datalog),
        risks: match draft.risks {
            Some(risks) => risks.into_iter().map(level).collect::<Result<_, String>>()?,
            None => built_in.risks,
        },
        risk_rules: draft.risk_rules,
        time_rules: draft.time_rules,
        dead_man_ms: draft.dead_man.map(length).transpose()?,
        seal_audit: draft.seal_audit,
        version: 0,
        issued_at: at,
    })
}

fn show(session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let document = fleet.ledger.book().policy().1;
    output::show(session.format, document, text)?;
    Ok(Exit::Done)
}

fn text(document: &PolicyDocument) -> String {
    let words = |length: Millis| humantime::format_duration(std::time::Duration::from_millis(length.0)).to_string();
    let mut text = format!("# policy {}, {}\n", document.version, document.issued_at);
    let datalog = document.datalog.trim();
    // A literal string of TOML ends at three quotes, and holds nothing that cannot be seen.
    let literal = !datalog.contains("'''") && !datalog.chars().any(|c| c.is_control() && c != '\n' && c != '\t');
    // Writing to a string cannot fail.
    let _ = match literal {
        true => writeln!(text, "datalog = '''\n{datalog}\n'''"),
        false => writeln!(text, "datalog = {}", quoted(datalog)),
    };
    if let Some(length) = document.dead_man_ms {
        let _ = writeln!(text, "dead_man = \"{}\"", words(length));
    }
    if document.seal_audit {
        text.push_str("seal_audit = true\n");
    }
    for level in &document.risks {
        let _ = writeln!(text, "\n[[risks]]\nclass = \"{}\"", level.class);
        if let Some(length) = level.staleness_max_ms {
            let _ = writeln!(text, "staleness_max = \"{}\"", words(length));
        }
    }
    for rule in &document.risk_rules {
        let (operation, resource) = (quoted(&rule.operation), quoted(&rule.resource));
        let _ = writeln!(
            text,
            "\n[[risk_rules]]\noperation = {operation}\nresource = {resource}\nrisk = \"{}\"",
            rule.risk
        );
    }
    for rule in &document.time_rules {
        let (operation, resource, class) = (quoted(&rule.operation), quoted(&rule.resource), rule.class.name());
        let _ = writeln!(text, "\n[[time_rules]]\noperation = {operation}\nresource = {resource}\nclass = \"{class}\"");
    }
    text
}

/// A basic string of TOML. What a terminal would not show as it is stands there as its number.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\'' => quoted.push(c),
            _ if c.escape_debug().len() == 1 => quoted.push(c),
            // Writing to a string cannot fail.
            _ => drop(write!(quoted, "\\U{:08X}", u32::from(c))),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::policy::TimeClass;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_names_and_datalog_that_show_prints_can_be_set(
            names in proptest::array::uniform4(any::<String>()),
            datalog in "(''' |[\"\\\\\\t\\n\\r\u{7f}\u{202e}a-z]){0,20}",
        ) {
            let [operation, resource, other, another] = names;
            let mut policy = PolicyDocument::built_in(Timestamp(0));
            policy.risk_rules = vec![RiskRule { operation, resource, risk: "high".parse().unwrap() }];
            policy.time_rules = vec![TimeRule { operation: other, resource: another, class: TimeClass::Strict }];
            policy.datalog = datalog.trim().to_owned();
            let draft: Draft = toml::from_str(&text(&policy)).map_err(|error| TestCaseError::fail(error.to_string()))?;
            let set = document(draft, Timestamp(0)).map_err(TestCaseError::fail)?;
            prop_assert_eq!(set.datalog.trim(), &policy.datalog);
            prop_assert_eq!(&set, &PolicyDocument { version: 0, datalog: set.datalog.clone(), ..policy });
        }

        #[test]
        fn any_file_is_a_policy_or_refused_with_a_reason(text in "((datalog|dead_man|seal_audit|risks|class) = |\"|\\[\\[risks\\]\\]\\n|[0-9a-z\\n]){0,12}") {
            if let Ok(draft) = toml::from_str::<Draft>(&text) {
                prop_assert!(document(draft, Timestamp(0)).map_or_else(|why| !why.is_empty(), |_| true));
            }
        }
    }

    #[test]
    fn what_show_prints_can_be_set() {
        let mut policy = PolicyDocument::built_in(Timestamp(0));
        policy.dead_man_ms = Some(Millis::from_secs(30 * 86_400));
        policy.risk_rules =
            vec![RiskRule { operation: "*".into(), resource: "valve/*".into(), risk: "high".parse().unwrap() }];
        policy.time_rules =
            vec![TimeRule { operation: "write".into(), resource: "valve/*".into(), class: TimeClass::Strict }];
        policy.datalog = policy.datalog.trim().to_owned() + "\n";
        let draft: Draft = toml::from_str(&text(&policy)).unwrap();
        assert_eq!(document(draft, Timestamp(0)), Ok(PolicyDocument { version: 0, ..policy }));
        assert!(toml::from_str::<Draft>("colour = 1").is_err());
    }
}
