//! `hardtack fleet audit export`: everything that checks out, a line each.
//!
//! Owns: the order of the lines, the exit code.
//! Never: writes a record that does not check out.
//! Read next: `../../audit/file.rs`, which has the form.

use serde_json::Value;

use super::prove::json;
use super::{walk, Which};
use crate::cli::audit::file::{lines_of, Head};
use crate::cli::fleet::Session;
use crate::cli::output::print;
use crate::cli::{Exit, Failure};
use crate::fleet::report::Signers;

pub(super) fn export(which: &Which, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let head = Head::of(&Signers::of(fleet.ledger.book()), which.device.as_ref());
    print(&json(&head)?)?;
    let report = walk(&fleet, which, |segment, checked| {
        let Some(checked) = checked else { return Ok(()) };
        let received = segment.at.to_string();
        let mut lines = lines_of(segment, &received, checked);
        lines.try_for_each(|line| print(&Value::Object(line).to_string()))
    })?;
    if report.is_sound() {
        return Ok(Exit::Done);
    }
    let advice = "`hardtack fleet audit verify` says what is wrong";
    Err(Failure::new(Exit::Invalid, "what does not check out was left out of the export", advice))
}
