//! Where two runs part: the first event that is not the same.
//!
//! Owns: running two cases side by side, or reading two traces, and comparing them event by event.
//! Never: keeps more of a trace than the few events that it shows.
//! Read next: `trace.rs`.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc::{sync_channel, SyncSender};

use crate::case::Case;

/// How many events that both share are shown before the first that differs.
const BEFORE: usize = 3;
/// How many events of each are shown from there.
const AFTER: usize = 4;
/// How far one run may be ahead of the other.
const AHEAD: usize = 1024;

/// One of the two that are compared.
pub enum Side {
    /// A case, to be run.
    Run(Box<Case>),
    /// A trace, as `run --trace` writes it.
    Trace(Box<dyn Read + Send>),
}

/// How two traces compare.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// How many events both have in common from the start.
    pub common: u64,
    /// The last of these.
    pub before: Vec<String>,
    /// What comes then, in the first and in the second; both empty where the two are the same.
    pub after: [Vec<String>; 2],
}

impl Difference {
    /// Whether there is none.
    pub fn none(&self) -> bool {
        self.after.iter().all(Vec::is_empty)
    }
}

/// Compares two.
///
/// # Errors
/// When a trace cannot be read.
pub fn diff(first: Side, second: Side) -> io::Result<Difference> {
    let (one, first_lines) = sync_channel(AHEAD);
    let (two, second_lines) = sync_channel(AHEAD);
    std::thread::scope(|scope| {
        scope.spawn(move || tell(first, one));
        scope.spawn(move || tell(second, two));
        let mut difference = Difference { common: 0, before: Vec::new(), after: [Vec::new(), Vec::new()] };
        let mut before = VecDeque::new();
        loop {
            match (first_lines.recv().ok().transpose()?, second_lines.recv().ok().transpose()?) {
                (Some(one), Some(two)) if one == two => {
                    difference.common += 1;
                    before.push_back(one);
                    if before.len() > BEFORE {
                        before.pop_front();
                    }
                }
                (one, two) => {
                    difference.before = before.into();
                    for (side, (next, rest)) in
                        difference.after.iter_mut().zip([(one, &first_lines), (two, &second_lines)])
                    {
                        side.extend(next);
                        let rest = rest.iter().take(AFTER.saturating_sub(1)).collect::<io::Result<Vec<_>>>()?;
                        side.extend(rest);
                    }
                    drop((first_lines, second_lines));
                    return Ok(difference);
                }
            }
        }
    })
}

/// Whether a line is an event, and neither the end of a trace nor the report after it.
fn is_event(line: &str) -> bool {
    !line.starts_with("{\"end\":") && !line.starts_with("{\"report\":")
}

/// Sends every event of a side, until nobody wants more.
fn tell(side: Side, lines: SyncSender<io::Result<String>>) {
    match side {
        Side::Run(case) => {
            let pipe = Pipe { lines, part: Vec::new() };
            crate::run_case(&case, Some(Box::new(pipe)));
        }
        Side::Trace(trace) => {
            for line in BufReader::new(trace).lines().filter(|line| !line.as_ref().is_ok_and(|line| !is_event(line))) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        }
    }
}

/// Takes what a run writes, and passes on whole lines. When nobody wants more the run goes on to its end for nothing:
/// that is rare, and short.
struct Pipe {
    lines: SyncSender<io::Result<String>>,
    part: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.part.extend_from_slice(bytes);
        while let Some(end) = self.part.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.part.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]).into_owned();
            if is_event(&line) {
                // Whoever compares has seen enough.
                let _enough = self.lines.send(Ok(line));
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(text: &'static str) -> Side {
        Side::Trace(Box::new(text.as_bytes()))
    }

    #[test]
    fn equal_traces_have_no_difference() {
        let difference = diff(trace("a\nb\n"), trace("a\nb\n")).unwrap();
        assert!(difference.none());
        assert_eq!(difference.common, 2);
    }

    #[test]
    fn the_first_event_that_differs_is_shown_with_what_is_around_it() {
        let difference = diff(trace("a\nb\nc\nd\ne\nf\n"), trace("a\nb\nc\nd\nx\n")).unwrap();
        assert_eq!(difference.common, 4);
        assert_eq!(difference.before, ["b", "c", "d"]);
        assert_eq!(difference.after, [vec!["e".to_owned(), "f".into()], vec!["x".into()]]);
    }

    #[test]
    fn a_trace_that_ends_early_differs() {
        let difference = diff(trace("a\n"), trace("a\nb\n")).unwrap();
        assert_eq!((difference.common, difference.none()), (1, false));
    }

    #[test]
    fn a_case_is_the_same_as_itself_and_parts_from_another_seed() {
        let case = |seed| {
            let text = include_str!("../scenarios/cut-reset.toml").replace("boundary = \"each\"", "boundary = \"now\"");
            let text = text.lines().filter(|line| !line.starts_with("window")).collect::<Vec<_>>().join("\n");
            Side::Run(Box::new(Case::parse(&text, Some(seed)).unwrap()))
        };
        assert!(diff(case(1), case(1)).unwrap().none());
        assert!(!diff(case(1), case(2)).unwrap().none());
    }
}
