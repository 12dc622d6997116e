//! What was set aside: the other branches of eras that forked, read from the ledger and checked beside the trails.
//!
//! Owns: the order in which they come: after the trail of their era, each from where it parts.
//! Never: believes the ledger about where a branch parts, or that a row is what stands in its key.
//! Read next: `../../../fleet/report/branch.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{json, Map, Value};

use super::list::{row_words, unsound};
use super::show::ShowArgs;
use super::{walk_all, Met, Which};
use crate::cli::audit::line::{fields, of_branch};
use crate::cli::audit::{branch_value, branch_words};
use crate::cli::fleet::{Fleet, Session};
use crate::cli::output::show;
use crate::cli::{Exit, Failure};
use crate::fleet::book::{Book, Segment};
use crate::fleet::report::branch::branches;
use crate::fleet::report::holes::Aside;
use crate::fleet::report::Verifier;
use crate::ids::{DeviceId, EraId};
use crate::shell::ledger::{Beside, LedgerError, Snapshot};
use crate::wire::audit::segment::SegmentHeader;
use crate::wire::envelope::Signed;

/// A walk through what was set aside, beside one through the trails.
pub(super) struct Walk<'w> {
    snapshot: &'w Snapshot<'w>,
    book: &'w Book,
    /// Eras of which something was set aside, and whether their trail has been met.
    eras: BTreeMap<(DeviceId, EraId), bool>,
    last: Option<(DeviceId, EraId)>,
}

/// A row that can be read.
struct Row {
    beside: Beside,
    signed: Signed<SegmentHeader>,
}

impl<'w> Walk<'w> {
    pub(super) fn of(snapshot: &'w Snapshot<'w>, book: &'w Book, only: Option<&DeviceId>) -> Result<Self, Failure> {
        // What the book knows of, and the rows have lost, is to be missed.
        let known = book.branched().map(|forked| (forked.device.clone(), forked.era));
        let known = known.filter(|(device, _)| only.is_none_or(|only| only == device));
        let eras = snapshot.branched(only)?.into_iter().chain(known).map(|place| (place, false)).collect();
        Ok(Self { snapshot, book, eras, last: None })
    }

    /// Before a segment of a trail: what was set aside of the era before it, if that is over.
    pub(super) fn after(
        &mut self,
        segment: &Segment,
        verifier: &mut Verifier,
        visit: &mut impl FnMut(Met<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let place = (segment.device.clone(), segment.era);
        if self.last.as_ref() == Some(&place) {
            return Ok(());
        }
        let last = self.last.replace(place);
        last.map_or(Ok(()), |(device, era)| self.era(&device, era, verifier, visit))
    }

    /// After the last segment of all trails.
    pub(super) fn finish(
        mut self,
        verifier: &mut Verifier,
        visit: &mut impl FnMut(Met<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if let Some((device, era)) = self.last.take() {
            self.era(&device, era, verifier, visit)?;
        }
        for ((device, era), _) in self.eras.iter().filter(|(_, met)| !**met) {
            verifier.wrong_aside(device, *era, "nothing of its trail is here");
        }
        Ok(())
    }

    fn era(
        &mut self,
        device: &DeviceId,
        era: EraId,
        verifier: &mut Verifier,
        visit: &mut impl FnMut(Met<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Some(met) = self.eras.get_mut(&(device.clone(), era)) else { return Ok(()) };
        *met = true;
        let mut records = 0_u64;
        let mut rows = Vec::new();
        let mut headers = Vec::new();
        for beside in self.snapshot.aside(device, era)? {
            match read(device, era, &beside) {
                Ok((signed, header)) => {
                    rows.push(Row { beside, signed });
                    headers.push(header);
                }
                Err(why) => verifier.wrong_aside(device, era, &format!("segment {}: {why}", beside.segment)),
            }
        }
        for places in branches(&headers) {
            let rows: Vec<&Row> = places.iter().filter_map(|place| rows.get(*place)).collect();
            let Some(first) = rows.first() else { continue };
            let mut parted = match verifier.part(&first.signed) {
                Ok(parted) => parted,
                Err(why) => {
                    verifier.wrong_aside(device, era, &why);
                    continue;
                }
            };
            visit(Met::Branch(&parted, rows.len() as u64))?;
            let mut unreadable = Vec::new();
            for row in rows {
                let segment = match self.snapshot.aside_whole(device, era, &row.beside) {
                    Err(LedgerError::Damaged(_)) => {
                        unreadable.push(row.beside.segment);
                        continue;
                    }
                    other => other?,
                };
                let checked = parted.segment(segment.clone());
                records += checked.as_ref().map_or(0, |checked| checked.records.len() as u64);
                visit(Met::Beside(&parted, &segment, checked.as_ref()))?;
            }
            verifier.join(parted);
            for segment in unreadable {
                verifier.wrong_aside(
                    device,
                    era,
                    &format!("segment {segment}: what is stored as its records is not that"),
                );
            }
        }
        let told = || self.book.branches(device, era).into_iter().flat_map(|forked| &forked.branches);
        let known = told().fold(0_u64, |sum, branch| sum.saturating_add(branch.records));
        if records < known {
            let what = format!("{known} records were set aside, and {records} of them are here");
            verifier.wrong_aside(device, era, &what);
        }
        for branch in told() {
            if verifier.reaches(branch.ack.head) {
                continue;
            }
            let (from, next) = (branch.from, branch.ack.next_segment);
            let what = format!("the branch from segment {from} to the one before {next} is not whole here");
            verifier.wrong_aside(device, era, &what);
        }
        Ok(())
    }
}

/// The header of a row, if it is the one that its key says.
fn read(device: &DeviceId, era: EraId, beside: &Beside) -> Result<(Signed<SegmentHeader>, SegmentHeader), String> {
    let words = |refused: crate::wire::Refused| refused.to_string();
    let signed = Signed::<SegmentHeader>::from_bytes(&beside.header).map_err(words)?;
    let header = signed.claim().map_err(words)?;
    let own = (&header.device, header.era, header.segment, signed.digest());
    if own != (device, era, beside.segment, beside.digest) {
        return Err("stored under another name than its own".into());
    }
    Ok((signed, header))
}

/// Lists records that were set aside, newest branches last.
pub(super) fn show_aside(
    args: &ShowArgs,
    device: Option<&DeviceId>,
    limit: usize,
    fleet: &Fleet,
    session: &Session,
) -> Result<Exit, Failure> {
    let mut rows: Vec<Map<String, Value>> = Vec::new();
    let mut left_out = 0_u64;
    let report = walk_all(fleet, &Which { device: device.cloned() }, |met| {
        let (parted, segment, checked) = match met {
            Met::Beside(parted, segment, Some(checked)) => (parted, segment, checked),
            Met::Beside(.., None) | Met::Branch(..) | Met::Trail(..) => return Ok(()),
        };
        for (record, named) in &checked.records {
            if !args.wants(&segment.device, segment.era, record.index) {
                continue;
            }
            if rows.len() >= limit {
                left_out += 1;
                continue;
            }
            let row = fields(&segment.device, segment.era, segment.segment, record, named.as_deref());
            let mut row = of_branch(row, parted.id);
            row.insert("received".into(), segment.at.to_string().into());
            rows.push(row);
        }
        Ok(())
    })?;
    let branches: Vec<(&DeviceId, &Aside)> =
        report.devices.iter().flat_map(|(id, told)| told.holes.aside.iter().map(move |aside| (id, aside))).collect();
    let values = branches.iter().map(|(id, aside)| {
        let mut value = branch_value(aside);
        value["device"] = id.as_str().into();
        value
    });
    let value = json!({
        "ok": report.is_signed(),
        "branches": values.collect::<Vec<_>>(),
        "records": rows,
        "left_out": left_out,
    });
    show(session.format, &value, |_| {
        let mut text = String::new();
        for (id, aside) in &branches {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{id} {}", branch_words(aside));
            let own = aside.id.to_string();
            let of = |row: &&Map<String, Value>| row.get("branch").and_then(Value::as_str) == Some(own.as_str());
            for row in rows.iter().filter(of) {
                let _ = writeln!(text, "  {}", row_words(row));
            }
        }
        let _ = match (branches.len(), left_out) {
            (0, _) => writeln!(text, "nothing was set aside"),
            (_, 0) => Ok(()),
            (_, more) => writeln!(text, "and {more} more: --limit N, or name one"),
        };
        text
    })?;
    let unmet = args.id.as_ref().filter(|_| rows.is_empty() && limit > 0);
    match (report.is_signed(), unmet) {
        (true, None) => Ok(Exit::Done),
        (true, Some(id)) => Err(Failure::new(
            Exit::Failure,
            format!("no record {id} was set aside"),
            "`hardtack fleet audit gaps` lists what was, `hardtack fleet audit show` has the trail's own",
        )),
        (false, _) => Err(unsound()),
    }
}
