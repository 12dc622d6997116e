//! `hardtack-sim diff`.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hardtack_simulator::diff::{diff as compare, Difference, Side};

use super::{case, print, Output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A trace, as `run --trace` writes it, or a case.
    first: PathBuf,
    /// Another; without it, a case is run once more, with `--other-seed` or to see whether it comes to the same.
    second: Option<PathBuf>,
    /// The seed of the first, where it is a scenario.
    #[arg(long)]
    seed: Option<u64>,
    /// The seed of the second, where it is a scenario; without it, that of the first.
    #[arg(long)]
    other_seed: Option<u64>,
    /// How to tell what came out.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(crate) fn diff(args: &Args) -> Result<ExitCode, String> {
    let second = args.second.as_ref().unwrap_or(&args.first);
    if args.second.is_none() && is_trace(&args.first) {
        return Err("a trace is the same as itself: give another trace, or a case, to compare it with".into());
    }
    let sides = (side(&args.first, args.seed)?, side(second, args.other_seed.or(args.seed))?);
    let difference = compare(sides.0, sides.1).map_err(|error| format!("cannot read a trace: {error}"))?;
    print(&match args.output {
        Output::Json => serde_json::json!(difference).to_string(),
        Output::Text => text(&difference),
    });
    Ok(if difference.none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether a file begins like a trace.
fn is_trace(place: &Path) -> bool {
    const TRACE: &[u8] = b"{\"at\":";
    let mut begins = [0; TRACE.len()];
    File::open(place).and_then(|mut file| file.read_exact(&mut begins)).is_ok() && begins == *TRACE
}

/// A trace where the file begins like one, else a case.
fn side(place: &Path, seed: Option<u64>) -> Result<Side, String> {
    if is_trace(place) {
        let file = File::open(place).map_err(|error| format!("cannot read {}: {error}", place.display()))?;
        return Ok(Side::Trace(Box::new(BufReader::new(file))));
    }
    Ok(Side::Run(Box::new(case(place, seed)?)))
}

fn text(difference: &Difference) -> String {
    if difference.none() {
        return format!("the same: {} events", difference.common);
    }
    let mut text = format!("{} events are the same, then the two part:\n", difference.common);
    let lines = |mark: &str, lines: &[String]| lines.iter().map(|line| format!("{mark} {line}\n")).collect::<String>();
    text.push_str(&lines(" ", &difference.before));
    for (mark, after) in ["-", "+"].into_iter().zip(&difference.after) {
        text.push_str(&lines(mark, after));
        if after.is_empty() {
            text.push_str(&format!("{mark} (ends here)\n"));
        }
    }
    text.truncate(text.trim_end().len());
    text
}
