//! A run that is to be shown: the report with what was recorded, and where it came from.
//!
//! Owns: [`Shown`], [`Small`], [`Source`].
//! Never: decides how it looks.
//! Read next: `html.rs`.

use std::cell::RefCell;
use std::io::Write;
use std::rc::Rc;

use super::marks::{marks, Mark};
use super::record::{Recorder, Recording};
use super::Report;
use crate::plan::Plan;
use crate::scenario::Scenario;
use crate::shrink::Shrunk;
use crate::trace::Watcher;

/// Where a run came from, for whoever would repeat it.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// What its author says about it.
    pub about: String,
    /// The scenario's text.
    pub text: String,
    /// The command that repeats it.
    pub command: String,
}

/// The smallest plan that was found to break what a run broke.
#[derive(Debug, Clone)]
pub struct Small {
    /// What was found.
    pub found: Shrunk,
    /// What happens in it, a line each.
    pub story: Vec<String>,
    /// The command that runs it, and where it must be for that.
    pub command: String,
}

/// A run that is to be shown.
pub struct Shown {
    /// What tells it from the run beside it: its profile.
    pub label: String,
    /// The scenario.
    pub scenario: Scenario,
    /// What was found.
    pub report: Report,
    pub(crate) recording: Recording,
    pub(crate) marks: Vec<Mark>,
}

impl Shown {
    /// Runs a plan and records it. `lines` takes the trace as JSON lines; `progress` is told how many hundredths of the
    /// run have passed, each number once, rising.
    pub fn run(
        (scenario, label): (&Scenario, &str),
        plan: &Plan,
        seed: u64,
        lines: Option<Box<dyn Write>>,
        mut progress: impl FnMut(u64) + 'static,
    ) -> Self {
        let recorder = Rc::new(RefCell::new(Recorder::new(scenario)));
        let told = Rc::clone(&recorder);
        let mut percent = 0;
        let watcher: Watcher = Box::new(move |at, event| {
            let mut recorder = told.borrow_mut();
            recorder.take(at, event);
            if recorder.percent() > percent {
                percent = recorder.percent();
                progress(percent);
            }
        });
        let report = crate::run_watched(scenario, plan, seed, lines, Some(watcher));
        Self {
            label: label.to_owned(),
            scenario: scenario.clone(),
            report,
            // The run is over, and its watcher gone with it.
            recording: recorder.replace(Recorder::new(scenario)).finish(),
            marks: marks(scenario, plan),
        }
    }
}
