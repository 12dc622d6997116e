//! `hardtack demo`: the whole story on an embedded broker, with no root, no network and no configuration.
//!
//! Owns: the temporary folder, the order of the story, the summary and its exit code.
//! Never: counts with numbers that an agent says of itself: decisions come from HTTP replies, what was recorded from the
//! collector's export, the order on reconnect from the packets that the proxy saw.
//! Read next: `story.rs`, then `../../shell/cast.rs`.

mod story;

use clap::Args;
use serde::Serialize;

use super::output::{self, Format};
use super::{Exit, Failure, Globals};
use crate::shell::clock;

/// Arguments of `hardtack demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Keep the temporary folder, to look around in it afterwards
    #[arg(long)]
    keep: bool,
}

/// What a story came to.
#[derive(Serialize, Debug)]
struct Summary {
    ok: bool,
    /// Decisions that callers saw.
    decisions: usize,
    /// Of those, how many the collector's verified trail holds.
    recorded: usize,
    /// Of those, how many it does not hold.
    lost: usize,
    /// Of those, how many it holds more than once.
    duplicates: usize,
    /// Allows of the revoked credential after the device had applied the revocation.
    revoked_then_allowed: usize,
    /// Packets on reconnect, in the order in which the proxy saw them.
    reconnect_order: Vec<String>,
    steps: Vec<Step>,
    seconds: f64,
}

/// One step of the story.
#[derive(Serialize, Debug, Clone)]
struct Step {
    name: String,
    expected: String,
    saw: String,
    ok: bool,
}

/// Tells the story.
///
/// # Errors
/// When a part of the cast cannot even be started.
pub fn run(args: &DemoArgs, globals: &Globals) -> Result<Exit, Failure> {
    let began = clock::now().boottime;
    let folder = tempfile::Builder::new().prefix("hardtack-demo-").tempdir();
    let mut folder = folder.map_err(|error| {
        Failure::new(
            Exit::Failure,
            format!("no temporary folder: {error}"),
            "set TMPDIR to a folder that can be written",
        )
    })?;
    let mut summary = story::tell(folder.path(), globals.output)?;
    summary.seconds = clock::now().boottime.0.saturating_sub(began.0) as f64 / 1000.0;
    let kept = if args.keep {
        folder.disable_cleanup(true);
        format!("\nThe folder is kept: {}", folder.path().display())
    } else {
        String::new()
    };
    output::show(globals.output, &summary, |summary| summary.human(&kept))?;
    Ok(if summary.ok { Exit::Done } else { Exit::Failure })
}

impl Summary {
    fn human(&self, kept: &str) -> String {
        let failed = self.steps.iter().filter(|step| !step.ok).count();
        // It was built a moment ago and is on nobody's PATH.
        let program = std::env::current_exe().map_or("hardtack".into(), |path| path.display().to_string());
        let verdict = if self.ok { "All as expected." } else { "NOT as expected." };
        format!(
            "\n{verdict} {} steps, {failed} failed, {:.1} s\n\
             decisions seen by callers  {}\n\
             recorded at the collector  {}\n\
             lost {}   duplicates {}   revoked, then allowed {}\n{kept}\n\
             To try next, an agent of your own with a throw-away fleet, no broker:\n  \
             {program} --run-dir ./hardtack-run agent run --dev\n\
             and beside it, in another terminal:\n  \
             curl --unix-socket ./hardtack-run/agent.sock http://hardtack/v1/whoami\n  \
             curl --unix-socket ./hardtack-run/agent.sock http://hardtack/v1/status\n  \
             {program} --run-dir ./hardtack-run doctor\n\
             With a broker of your own, as the README goes on:\n  \
             {program} fleet init ./fleet --name acme --no-passphrase\n",
            self.steps.len(),
            self.seconds,
            self.decisions,
            self.recorded,
            self.lost,
            self.duplicates,
            self.revoked_then_allowed,
        )
    }
}

impl Step {
    fn tell(&self, number: usize, format: Format) {
        if format == Format::Human {
            let mark = if self.ok { "ok  " } else { "FAIL" };
            output::tell(&format!(
                "{mark} {number:>2}. {}\n         expected: {}\n         saw:      {}",
                self.name, self.expected, self.saw
            ));
        }
    }
}
