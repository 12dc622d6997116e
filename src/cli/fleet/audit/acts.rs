//! `hardtack fleet audit acts`: what operators did.
//!
//! Owns: the check of the acts' chain before anything is shown, what is shown of an act and of an emergency statement.
//! Never: believes the ledger.
//! Read next: `../../../fleet/acts.rs`.

use std::fmt::Write as _;

use serde_json::{json, Map, Value};

use super::super::super::audit::line::tagged;
use super::super::super::output::show;
use super::super::super::{Exit, Failure};
use super::super::{target_words, Fleet, Session};
use crate::fleet::acts::{self, Act, Deed};
use crate::wire::revocation::emergency::{Declared, Emergency};
use crate::wire::token::Bearer;

pub(super) fn operators(session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let signed = fleet.ledger.acts()?;
    let checked = acts::verify(fleet.ledger.book().trusts(), &signed).map_err(|(number, refused)| {
        let what = format!("act {number} does not check out: {refused}");
        Failure::new(Exit::Invalid, what, "somebody changed the ledger: compare it with a copy")
    })?;
    let rows: Vec<Value> = checked.iter().map(|act| Value::Object(act_fields(act))).collect();
    let emergencies = emergencies(&fleet)?;
    let value = json!({"ok": true, "acts": rows, "emergency": emergencies});
    show(session.format, &value, |_| {
        let mut text = String::new();
        for (act, row) in checked.iter().zip(&rows) {
            let what = row["act"].as_str().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = write!(text, "{:>5} {} {:12} {what}", act.number, act.at, act.operator);
            let names = ["device", "grant", "task", "target", "owner", "version", "role", "key", "threshold", "bundle"];
            for name in names.into_iter().chain(["reason", "expires", "until", "time"]) {
                match &row[name] {
                    Value::String(value) => drop(write!(text, " {name}={value}")),
                    Value::Number(value) => drop(write!(text, " {name}={value}")),
                    Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {}
                }
            }
            text.push('\n');
        }
        for statement in &emergencies {
            let word = |name: &str| statement[name].as_str().unwrap_or_default();
            let (counter, since, operator) = (&statement["counter"], word("since"), word("operator"));
            let _ = write!(text, "      {since} {operator:12} emergency key={} counter={counter}", word("key"));
            for rule in statement["rules"].as_array().into_iter().flatten() {
                let word = |name: &str| rule[name].as_str().unwrap_or_default();
                let _ = write!(text, " {} reason={}", word("covers"), word("reason"));
            }
            text.push('\n');
        }
        let _ = write!(text, "{} acts, each signed and following the one before", rows.len());
        text
    })?;
    Ok(Exit::Done)
}

/// What operators did with keys of their own: each statement is signed by that key, and by nothing else. They are no link of
/// the chain, which such an operator may not be able to reach.
fn emergencies(fleet: &Fleet) -> Result<Vec<Value>, Failure> {
    let trusts = fleet.ledger.book().trusts();
    let mut rows = Vec::new();
    for kept in fleet.ledger.emergencies()? {
        let opened = trusts.iter().rev().find_map(|trust| Emergency::open_by(&kept.statement, trust).ok());
        let (said, _) = opened.ok_or_else(|| {
            let what = "an emergency statement in the ledger is signed by no emergency key of this fleet";
            Failure::new(Exit::Invalid, what, "somebody changed the ledger: compare it with a copy")
        })?;
        let rule = |rule: &Declared| {
            let Declared { selector, until, reason } = rule;
            json!({"covers": selector.to_string(), "until": until.to_string(), "reason": reason})
        };
        let rules: Vec<Value> = said.rules.declared().map(rule).collect();
        rows.push(json!({
            "key": said.key,
            "operator": kept.operator,
            "counter": said.counter,
            "digest": kept.statement.digest(),
            "issued": said.issued_at.to_string(),
            // When it was made here, or was heard first.
            "since": kept.at.to_string(),
            "rules": rules,
        }));
    }
    Ok(rows)
}

fn act_fields(act: &Act) -> Map<String, Value> {
    // As above.
    let (kind, mut fields) = tagged(serde_json::to_value(&act.deed).unwrap_or_default());
    fields.insert("number".into(), act.number.into());
    fields.insert("at".into(), act.at.to_string().into());
    fields.insert("operator".into(), act.operator.clone().into());
    fields.insert("act".into(), kind.into());
    match &act.deed {
        Deed::Granted { expires, .. } => {
            fields.insert("expires".into(), expires.to_string().into());
        }
        Deed::Issued { expires, bearer, .. } => {
            fields.insert("expires".into(), expires.to_string().into());
            fields.remove("bearer");
            match bearer {
                Bearer::Device(device) => fields.insert("device".into(), device.to_string().into()),
                Bearer::Group(group) => fields.insert("group".into(), group.to_string().into()),
            };
        }
        Deed::Revoked { target, until, .. } => {
            let (kind, value) = target_words(target);
            fields.insert("target".into(), format!("{kind} {value}").trim().into());
            fields.insert("until".into(), until.to_string().into());
        }
        Deed::TimeReset { time, .. } => {
            fields.insert("time".into(), time.to_string().into());
        }
        Deed::Founded { .. }
        | Deed::Approved { .. }
        | Deed::Retired { .. }
        | Deed::Withdrawn { .. }
        | Deed::Policy { .. }
        | Deed::Restored { .. }
        | Deed::Emergency { .. }
        | Deed::Rotated { .. }
        | Deed::Roots { .. }
        | Deed::Trusted { .. }
        | Deed::Resumed { .. }
        | Deed::Joined { .. }
        | Deed::Left { .. }
        | Deed::FeedAdded { .. }
        | Deed::FeedRemoved { .. }
        | Deed::IdentityTrusted { .. }
        | Deed::IdentityRemoved { .. } => {}
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Timestamp;

    #[test]
    fn a_reset_of_a_clock_is_told_with_its_time() {
        let deed = Deed::TimeReset {
            device: "gw-07".parse().unwrap(),
            nonce: crate::ids::Nonce([7; 16]),
            time: Timestamp::from_secs(1_772_323_200),
        };
        let act = Act { number: 4, previous: crate::ids::Hash::ZERO, at: Timestamp(0), operator: "ann".into(), deed };
        let fields = act_fields(&act);
        assert_eq!((&fields["act"], &fields["device"]), (&"time_reset".into(), &"gw-07".into()));
        assert_eq!(fields["time"], "2026-03-01T00:00:00Z");
    }
}
