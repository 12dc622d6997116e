//! The trace of a run: every event in order, folded into one hash.
//!
//! Owns: the form in which events are hashed (integers of fixed width, little endian, and bytes with their length) and
//! the optional JSON lines, with an end by which a file shows that nothing is missing.
//! Never: holds a float, a path, an address, or a secret. Payloads go in as digests.
//! Read next: `event.rs`.

use std::collections::BTreeSet;
use std::io::{self, Write};

use sha2::{Digest, Sha256};

use crate::event::Event;

/// Takes numbers and bytes in a form that is the same on every machine.
#[derive(Default)]
pub struct Fold(Sha256);

impl Fold {
    /// A number.
    pub fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(number.to_le_bytes());
        self
    }

    /// Bytes, their length in front.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64);
        self.0.update(bytes);
        self
    }

    /// The digest.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// How many lines there were, and the SHA-256 over them with their ends.
#[derive(Default)]
pub(crate) struct Count {
    events: u64,
    sha256: Sha256,
}

impl Count {
    /// One more.
    pub(crate) fn take(&mut self, line: &str) {
        self.events += 1;
        self.sha256.update(line);
        self.sha256.update(b"\n");
    }

    /// The line that stands after them.
    pub(crate) fn end(self) -> String {
        let sha256 = hardtack::ids::hex(&self.sha256.finalize());
        serde_json::json!({ "end": { "events": self.events, "sha256": sha256 } }).to_string()
    }
}

/// A trace as JSON lines: an event each, and an end.
pub(crate) struct Lines {
    out: Box<dyn Write>,
    count: Count,
}

impl Lines {
    pub(crate) fn new(out: Box<dyn Write>) -> Self {
        Self { out, count: Count::default() }
    }

    /// One more event.
    pub(crate) fn push(&mut self, at: u64, event: &Event) -> io::Result<()> {
        let line = serde_json::json!({ "at": at, "event": event }).to_string();
        self.count.take(&line);
        writeln!(self.out, "{line}")
    }

    /// There are no more.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        writeln!(self.out, "{}", self.count.end())?;
        self.out.flush()
    }
}

/// What followed upon which fault: the fault's name, then the reason of an answer, or the first word of a log event.
pub type Coverage = BTreeSet<(&'static str, String)>;

/// Is told of each event and when it happened.
pub type Watcher = Box<dyn FnMut(u64, &Event)>;

/// What has happened so far.
pub struct Trace {
    fold: Fold,
    events: u64,
    lines: Option<Lines>,
    coverage: Option<Coverage>,
    /// The last fault that had an effect.
    fault: &'static str,
    watcher: Option<Watcher>,
}

impl Trace {
    /// A trace that goes nowhere but into its hash, and into `lines` where they are wanted.
    pub fn new(lines: Option<Box<dyn Write>>) -> Self {
        let lines = lines.map(Lines::new);
        Self { fold: Fold::default(), events: 0, lines, coverage: None, fault: "", watcher: None }
    }

    /// A trace that also notes what follows upon which fault.
    pub(crate) fn with_coverage() -> Self {
        Self { coverage: Some(Coverage::new()), ..Self::new(None) }
    }

    /// The same, and `watcher` is told of everything. The hash does not depend on that.
    #[must_use]
    pub fn watched_by(self, watcher: Option<Watcher>) -> Self {
        Self { watcher, ..self }
    }

    /// A fault had an effect.
    pub(crate) fn fault(&mut self, name: &'static str) {
        self.fault = name;
    }

    /// One more event.
    ///
    /// # Panics
    /// When the lines cannot be written: a trace with holes would mislead.
    pub(crate) fn push(&mut self, at: u64, event: &Event) {
        self.events += 1;
        self.fold.number(at);
        event.fold(&mut self.fold);
        if let (Some(coverage), Some(word)) = (&mut self.coverage, event.word()) {
            coverage.insert((self.fault, word));
        }
        if let Some(lines) = &mut self.lines {
            lines.push(at, event).expect("the trace file takes lines");
        }
        if let Some(watcher) = &mut self.watcher {
            watcher(at, event);
        }
    }

    /// How many events, the hash over them, and what followed upon which fault, where that was noted.
    ///
    /// # Panics
    /// As [`Trace::push`].
    pub(crate) fn finish(self) -> (u64, [u8; 32], Coverage) {
        if let Some(lines) = self.lines {
            lines.finish().expect("the trace file takes lines");
        }
        (self.events, self.fold.finish(), self.coverage.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_time_and_content_count() {
        let hash = |events: &[(u64, Event)]| {
            let mut trace = Trace::new(None);
            events.iter().for_each(|(at, event)| trace.push(*at, event));
            trace.finish().1
        };
        let (a, b) = (Event::PlanStep { number: 1 }, Event::PlanStep { number: 2 });
        assert_eq!(hash(&[(1, a.clone()), (2, b.clone())]), hash(&[(1, a.clone()), (2, b.clone())]));
        assert_ne!(hash(&[(1, a.clone()), (2, b.clone())]), hash(&[(1, b.clone()), (2, a.clone())]));
        assert_ne!(hash(&[(1, a.clone())]), hash(&[(2, a)]));
    }
}
