//! What is judged when a plan was played: the same promises as in the model, as far as they can be seen from outside.
//!
//! Owns: the checks over what programs heard, what agents logged and what the collector exports.
//! Never: counts what was never tried as held.
//! Read next: `../check/mod.rs`.

use std::collections::BTreeMap;

use hardtack::agent::request::Reason;
use hardtack::cli::Failure;
use hardtack::shell::cast::failed;
use hardtack::shell::clock;
use serde_json::Value;

use super::compare::{Row, Verdict};
use super::play::{Decided, Revoked, Seen};
use super::site::Site;
use crate::check::{Id, Tally};
use crate::fault::RevokeWhat;

/// What is judged here: the rest of the promises cannot be seen from outside.
pub(crate) const JUDGED: [Id; 6] =
    [Id::AuditedFirst, Id::NothingLost, Id::RevocationHolds, Id::Monotone, Id::ColdStart, Id::Live];
/// How long gateways may take until all is delivered and applied, in milliseconds: the longest back-off that a profile has, and
/// a connection.
const CONVERGED_WITHIN: u64 = 90_000;
/// How often they are asked meanwhile.
const ASK_EVERY: std::time::Duration = std::time::Duration::from_millis(100);

/// Waits until every gateway has applied the newest head and delivered its audit.
pub(crate) fn converge(site: &mut Site, seen: &Seen, tally: &mut Tally, at: u64) -> Result<(), Failure> {
    let newest = site.newest_head()?;
    let deadline = clock::now().boottime.0 + CONVERGED_WITHIN;
    for (number, device) in (0..).zip(&site.devices) {
        let locked = seen.revoked.iter().any(|revoked| match revoked.what {
            RevokeWhat::All => true,
            RevokeWhat::Device => revoked.device == number,
            RevokeWhat::Block
            | RevokeWhat::Carried
            | RevokeWhat::Grant
            | RevokeWhat::Group
            | RevokeWhat::Owner
            | RevokeWhat::Task
            | RevokeWhat::Token => false,
        });
        let wanted = if locked { "locked" } else { "online" };
        let done = |status: &Value| {
            status["mode"] == wanted && status["pending"] == 0 && status["feed_seq"].as_u64() >= Some(newest)
        };
        let (mut status, mut ok) = (Value::Null, false);
        while !ok && clock::now().boottime.0 < deadline {
            // An agent that does not answer now may answer soon; one that never does is told of below.
            status = device.gateway.get("/v1/status").unwrap_or_default();
            ok = done(&status);
            if !ok {
                std::thread::sleep(ASK_EVERY);
            }
        }
        let name = &device.gateway.id;
        let how = || {
            let shown = ["mode", "pending", "feed_seq", "reasons"].map(|field| format!("{field} {}", status[field]));
            format!("{name} is not {wanted} with everything delivered and head {newest} applied: {}", shown.join(", "))
        };
        tally.tried(Id::Live, at, (!ok).then(how));
    }
    Ok(())
}

/// Judges all that was seen.
pub(crate) fn judge(site: &Site, seen: &Seen, rows: &[Row], tally: &mut Tally, at: u64) -> Result<(), Failure> {
    audit(site, seen, tally, at)?;
    for decided in &seen.decided {
        revocation(seen, decided, tally);
    }
    for (device, positions) in &seen.applied {
        for pair in positions.windows(2) {
            let back =
                (pair[1] < pair[0]).then(|| format!("gw-{device} went back from head {} to {}", pair[0], pair[1]));
            tally.tried(Id::Monotone, at, back);
        }
    }
    cold_starts(seen, rows, tally);
    if seen.decided.is_empty() {
        tally.tried(Id::Live, at, Some("no program got a single decision".into()));
    }
    Ok(())
}

/// Nothing that a gateway knew to be revoked was allowed there.
fn revocation(seen: &Seen, decided: &Decided, tally: &mut Tally) {
    let Some((act, begun)) = decided.begun.and_then(|act| Some((act, seen.begun.get(&act)?))) else { return };
    let known = |revoked: &&Revoked| revoked.head.is_some_and(|head| decided.applied >= head);
    for revoked in seen.revoked.iter().filter(known).filter(|revoked| revoked.covers(seen, begun, act)) {
        let allowed = (decided.body["decision"] == "allow").then(|| {
            let (device, id, head) = (decided.device, &decided.body["decision_id"], revoked.head.unwrap_or(0));
            format!("gw-{device} allowed {id} of act {}, which head {head} revokes and it had applied", decided.act)
        });
        tally.tried(Id::RevocationHolds, decided.sent, allowed);
    }
}

/// An agent that was started without a link decides: by the first decision that a program asks for while it has none.
fn cold_starts(seen: &Seen, rows: &[Row], tally: &mut Tally) {
    let decides =
        |said: &Option<String>| said.as_deref().is_some_and(|said| Reason::ALL.iter().any(|of| of.name() == said));
    let rows: BTreeMap<usize, &Row> = rows.iter().map(|row| (row.act, row)).collect();
    for start in &seen.alone {
        // Of another task's token the model knows nothing.
        let fits = |row: &Row| row.device == start.device && decides(&row.model) && row.verdict != Verdict::Follows;
        let asked = seen.heard.iter().filter(|heard| heard.sent >= start.at);
        let mut asked = asked.filter_map(|heard| Some((heard, *rows.get(&heard.act).filter(|row| fits(row))?)));
        let Some((heard, row)) = asked.next() else { continue };
        if start.until.is_none_or(|until| heard.done <= until) {
            let decided = decides(&row.live) && row.verdict != Verdict::Different;
            let how = || {
                let (device, live) = (row.device, row.live.as_deref().unwrap_or("nothing"));
                format!("gw-{device} was started without a link and said {live} to its first request, {}", row.asked)
            };
            tally.tried(Id::ColdStart, heard.sent, (!decided).then(how));
        }
    }
}

/// Every decision that a program heard is in the collector's verified trail once, as it was heard.
fn audit(site: &Site, seen: &Seen, tally: &mut Tally, at: u64) -> Result<(), Failure> {
    let verified = site.fleet.run(&["audit", "verify"])?;
    tally.tried(
        Id::NothingLost,
        at,
        (verified["ok"] != true).then(|| format!("the trail does not verify: {verified}")),
    );
    let chains = verified["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
    for chain in chains {
        let torn = chain["gaps"] != 0 || chain["forks"] != 0;
        let how = || format!("the trail of {} has gaps or forks: {chain}", chain["id"]);
        tally.tried(Id::NothingLost, at, torn.then(how));
    }
    let export = site.fleet.run(&["audit", "export"])?;
    let lines = export.as_str().map_or_else(|| export.to_string(), str::to_owned);
    let mut recorded: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut repeated: BTreeMap<String, u64> = BTreeMap::new();
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let line: Value = serde_json::from_str(line).map_err(|error| failed("the export is no JSON lines", error))?;
        match line["kind"].as_str() {
            Some("repeated") => {
                let of = format!("{}/{}/{}", line["device"].as_str().unwrap_or_default(), line["era"], line["of"]);
                *repeated.entry(of).or_default() += line["count"].as_u64().unwrap_or(0);
            }
            Some(_) | None => {
                if let Some(id) = line["decision_id"].as_str().map(str::to_owned) {
                    recorded.entry(id).or_default().push(line);
                }
            }
        }
    }
    let mut heard: BTreeMap<&str, Vec<&Decided>> = BTreeMap::new();
    for decided in &seen.decided {
        if let Some(id) = decided.body["decision_id"].as_str() {
            heard.entry(id).or_default().push(decided);
        }
    }
    for (id, decided) in heard {
        let first = decided[0];
        let of = recorded.get(id).map(Vec::as_slice).unwrap_or_default();
        let once = (of.len() != 1).then(|| format!("{id} was heard and is {} times in the trail", of.len()));
        tally.tried(Id::AuditedFirst, first.sent, once);
        let said = |line: &&Value| line["reason"] == first.body["reason"];
        let other = of.iter().find(|line| !said(line));
        let how =
            other.map(|line| format!("{id} was heard as {} and recorded as {}", first.body["reason"], line["reason"]));
        tally.tried(Id::NothingLost, first.sent, how);
        // Equal denials are counted; an end without a warning may cost the last count.
        let counted = of.len() as u64 + repeated.get(id).copied().unwrap_or(0);
        let killed = site.devices[first.device as usize].killed;
        let few = counted < decided.len() as u64 && !killed;
        let how = || format!("{id} was heard {} times and is counted {counted} times", decided.len());
        tally.tried(Id::NothingLost, first.sent, few.then(how));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::compare::Heard;
    use crate::live::play::StartedAlone;
    use crate::report::Status;

    /// When something was asked, and what the model and the agent said to it.
    type Asked<'a> = (u64, Option<&'a str>, Option<&'a str>, Verdict);

    /// Of one start without a link, from the first second to the ninth, and what the model and the agent said to what was asked
    /// at some times.
    #[track_caller]
    fn check(asked: &[Asked], expected: Status) {
        let word = |said: &Option<&str>| said.map(str::to_owned);
        let row = |(act, (at, model, live, verdict)): (usize, &Asked)| {
            let (model, live) = (word(model), word(live));
            let (asked, or) = ("read modbus/1".into(), [].into());
            Row { act, at: *at, device: 1, asked, model, live, or, verdict: *verdict }
        };
        let heard =
            |row: &Row| Heard { act: row.act, said: row.live.clone(), due: row.at, sent: row.at, done: row.at + 50 };
        let rows: Vec<Row> = asked.iter().enumerate().map(row).collect();
        let alone = vec![StartedAlone { device: 1, at: 1000, until: Some(9000) }];
        let seen = Seen { heard: rows.iter().map(heard).collect(), alone, ..Seen::default() };
        let mut tally = Tally::default();
        cold_starts(&seen, &rows, &mut tally);
        let found = tally.properties().into_iter().find(|property| property.id == Id::ColdStart.name()).unwrap();
        assert_eq!(found.status, expected, "{asked:?}: {:?}", found.witness);
    }

    #[test]
    fn a_start_without_a_link_is_judged_by_what_it_says_first() {
        let (allowed, denied) = (Some("allowed"), Some("stale"));
        check(&[(2000, allowed, allowed, Verdict::Same)], Status::Pass);
        check(&[(2000, denied, denied, Verdict::Same)], Status::Pass);
        check(&[(2000, allowed, denied, Verdict::Different)], Status::Fail);
        check(&[(2000, allowed, None, Verdict::EitherOr)], Status::Fail);
        check(&[(2000, allowed, Some("audit_unavailable"), Verdict::EitherOr)], Status::Fail);
        check(&[(2000, allowed, allowed, Verdict::Same), (3000, allowed, None, Verdict::Different)], Status::Pass);
    }

    #[test]
    fn a_start_of_which_no_decision_was_asked_while_it_had_no_link_says_nothing() {
        let (allowed, nothing) = (Some("allowed"), None);
        check(&[], Status::Vacuous);
        check(&[(500, allowed, nothing, Verdict::Different)], Status::Vacuous);
        check(&[(9500, allowed, nothing, Verdict::Different)], Status::Vacuous);
        check(&[(2000, Some("fallback"), nothing, Verdict::Different)], Status::Vacuous);
        check(&[(2000, allowed, nothing, Verdict::Follows)], Status::Vacuous);
    }
}
