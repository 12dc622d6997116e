//! What strace saw of writes and data syncs.
//!
//! A call that other threads' calls cut in two stands in a trace twice: a write counts from where it begins, a sync from
//! where it has ended.

use std::process::Command;

/// Why nothing can be traced here, if so.
pub(crate) fn why_not() -> Option<String> {
    match Command::new("strace").args(["-o", "/dev/null", "true"]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("strace may not trace here: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(format!("strace cannot be run ({error}): tests/run installs it")),
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Moment {
    Begins,
    Ends,
}

/// The calls of a trace that was made with `-f`, in order.
pub(crate) fn calls(trace: &str) -> Vec<(Moment, String)> {
    let mut begun: Vec<(&str, &str)> = Vec::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(' ') else { continue };
        let call = call.trim();
        if let Some(begin) = call.strip_suffix("<unfinished ...>") {
            calls.push((Moment::Begins, begin.to_owned()));
            begun.push((pid, begin));
        } else if let Some((_, rest)) = call.strip_prefix("<... ").and_then(|call| call.split_once(" resumed>")) {
            let at = begun.iter().position(|(other, _)| *other == pid);
            let begin = at.map_or("", |at| begun.swap_remove(at).1);
            calls.push((Moment::Ends, format!("{begin}{rest}")));
        } else {
            calls.extend([Moment::Begins, Moment::Ends].map(|moment| (moment, call.to_owned())));
        }
    }
    calls
}

/// What was seen of one commit.
#[derive(Default, Debug)]
pub(crate) struct Due {
    pub(crate) db_written: bool,
    pub(crate) db_synced: bool,
    pub(crate) anchor_written: bool,
    pub(crate) anchor_synced: bool,
}

impl Due {
    pub(crate) fn see(&mut self, moment: Moment, call: &str) {
        let (name, rest) = call.split_once('(').unwrap_or((call, ""));
        let wrote = moment == Moment::Begins && name.contains("write");
        let synced = moment == Moment::Ends && ["fdatasync", "fsync"].contains(&name) && call.ends_with("= 0");
        if rest.contains("/db>") {
            // A write after a sync needs another sync.
            self.db_written |= wrote;
            self.db_synced = (self.db_synced || synced) && !wrote;
        } else if rest.contains("/anchor.") {
            // Before any record it is that of a commit from before, and counts for nothing here.
            let wrote = wrote && self.db_written;
            assert!(!wrote || self.db_synced, "the anchor must not run ahead of the records that it has seen");
            self.anchor_written |= wrote;
            self.anchor_synced = (self.anchor_synced || synced && self.anchor_written) && !wrote;
        }
    }

    /// All that was written is durable, a record among it.
    pub(crate) fn is_done(&self) -> bool {
        self.db_written && self.db_synced && self.anchor_written == self.anchor_synced
    }
}
