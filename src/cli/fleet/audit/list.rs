//! `hardtack fleet audit list`: the newest records, a line each.
//!
//! Owns: which records are wanted.
//! Never: shows one that does not check out.
//! Read next: `../../audit/line.rs`, which has the fields.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use serde_json::{json, Map, Value};

use super::{walk, Which};
use crate::cli::audit::line::{fields, KINDS};
use crate::cli::fleet::{millis, now, Session};
use crate::cli::output::{quoted, show};
use crate::cli::{Exit, Failure};
use crate::time::{Millis, Timestamp};

/// Arguments of `hardtack fleet audit list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    which: Which,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Of this kind only
    #[arg(long, value_name = "KIND", value_parser = KINDS)]
    kind: Option<String>,
    /// With this reason only, as decisions, tasks, modes and refusals have one: for instance `revoked`
    #[arg(long)]
    reason: Option<String>,
    /// Decisions with this answer only
    #[arg(long, value_enum)]
    decision: Option<Answer>,
    /// Whose floor lies no longer back than this, or at this date or later: `2h`, `2026-03-01`, `2026-03-01T10:00:00Z`
    #[arg(long, value_name = "DURATION|DATE", value_parser = since)]
    since: Option<Since>,
}

/// What a decision answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Answer {
    Allow,
    Deny,
}

/// From when on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Since {
    Ago(Millis),
    Date(Timestamp),
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(Since::Ago(millis(ago)));
    }
    let whole = if text.len() == "2026-03-01".len() { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let date = humantime::parse_rfc3339_weak(&whole).ok();
    let date = date.and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
    let date = date.and_then(|date| u64::try_from(date.as_millis()).ok());
    date.map(|date| Since::Date(Timestamp(date)))
        .ok_or_else(|| "neither a length of time (2h, 3d) nor a date (2026-03-01, 2026-03-01T10:00:00Z)".into())
}

impl Since {
    fn date(self) -> Result<Timestamp, Failure> {
        match self {
            Self::Ago(ago) => Ok(now()? - ago),
            Self::Date(date) => Ok(date),
        }
    }
}

impl ListArgs {
    /// Whether a row is wanted, but for its time.
    fn wants(&self, row: &Map<String, Value>) -> bool {
        let is = |name: &str, wanted: &Option<String>| {
            wanted.as_ref().is_none_or(|wanted| row.get(name).is_some_and(|value| value == wanted.as_str()))
        };
        let answered = |answer| row.get("allow").is_some_and(|allow| *allow == (answer == Answer::Allow));
        is("kind", &self.kind) && is("reason", &self.reason) && self.decision.is_none_or(answered)
    }
}

/// What arrived last, of all that is met device by device.
struct Newest<R> {
    limit: usize,
    met: u64,
    /// By when they arrived, then as they were met.
    rows: BTreeMap<(Timestamp, u64), R>,
}

impl<R> Newest<R> {
    fn add(&mut self, received: Timestamp, row: R) {
        self.met += 1;
        self.rows.insert((received, self.met), row);
        if self.rows.len() > self.limit {
            self.rows.pop_first();
        }
    }
}

pub(super) fn list(args: &ListArgs, session: &Session) -> Result<Exit, Failure> {
    let since = args.since.map(Since::date).transpose()?.unwrap_or_default();
    let fleet = session.open()?;
    let mut newest = Newest { limit: args.limit, met: 0, rows: BTreeMap::new() };
    let report = walk(&fleet, &args.which, |segment, checked| {
        for (record, named) in checked.into_iter().flat_map(|checked| &checked.records) {
            if record.floor < since {
                continue;
            }
            let mut row = fields(&segment.device, segment.era, segment.segment, record, named.as_deref());
            row.insert("received".into(), segment.at.to_string().into());
            if !args.wants(&row) {
                continue;
            }
            newest.add(segment.at, row);
        }
        Ok(())
    })?;
    let records: Vec<Value> = newest.rows.into_values().map(Value::Object).collect();
    show(session.format, &json!({ "ok": report.is_signed(), "records": records }), |_| {
        let mut text = String::new();
        for row in &records {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", row.as_object().map(row_words).unwrap_or_default());
        }
        text
    })?;
    match report.is_signed() {
        true => Ok(Exit::Done),
        false => Err(unsound()),
    }
}

/// Something is left out of what is shown.
pub(in crate::cli::fleet) fn unsound() -> Failure {
    let advice = "`hardtack fleet audit verify` says what is wrong";
    Failure::new(Exit::Invalid, "what does not check out is not shown", advice)
}

/// A record in one line, for a person.
pub(super) fn row_words(row: &Map<String, Value>) -> String {
    let word = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut text = format!("{} {:24} {:8}", word("floor"), word("id"), word("kind"));
    for name in ["reason", "operation", "resource", "change", "step", "to", "task", "owner"] {
        if !word(name).is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(text, " {name}={}", quoted(word(name)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrived_last_is_kept_whichever_device_it_is_of() {
        let mut newest = Newest { limit: 3, met: 0, rows: BTreeMap::new() };
        let all = [(1, "a/0"), (5, "a/1"), (5, "a/2"), (2, "b/0"), (3, "b/1"), (6, "b/2")];
        all.into_iter().for_each(|(at, row)| newest.add(Timestamp(at), row));
        assert_eq!(newest.rows.into_values().collect::<Vec<_>>(), ["a/1", "a/2", "b/2"]);
        let mut none = Newest { limit: 0, met: 0, rows: BTreeMap::new() };
        none.add(Timestamp(1), "a/0");
        assert_eq!(none.rows.len(), 0);
    }

    #[test]
    fn since_is_a_length_of_time_or_a_date() {
        let date = |secs| Ok(Since::Date(Timestamp::from_secs(secs)));
        assert_eq!(since("2h"), Ok(Since::Ago(Millis::from_secs(7200))));
        assert_eq!(since("2026-03-01"), date(1_772_323_200));
        assert_eq!(since("2026-03-01T00:00:01Z"), date(1_772_323_201));
        for text in ["", "yesterday", "2026", "2026-13-01", "1960-01-01"] {
            assert!(since(text).is_err(), "{text}");
        }
    }
}
