//! `hardtack-sim shrink`.

use std::path::PathBuf;
use std::process::ExitCode;

use hardtack_simulator::shrink::{shrink as smallest, Shrunk};

use super::{breach_of, case, print, progress, progress_over, timed, write, Output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A scenario file, a plan, or a name from `list`, which breaks something.
    #[arg(value_name = "CASE")]
    case: PathBuf,
    /// Take this seed in place of the scenario's own.
    #[arg(long)]
    seed: Option<u64>,
    /// The property that it must go on breaking; without this, the one that it breaks first.
    #[arg(long, value_name = "ID")]
    property: Option<String>,
    /// Stop after so many runs.
    #[arg(long, value_name = "N", default_value_t = 5000)]
    runs: u64,
    /// Write the smallest as a scenario file here.
    #[arg(long, value_name = "FILE", default_value = "minimal.toml")]
    out: PathBuf,
    /// How to tell what came out.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Plant a bug, to have something that breaks.
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
}

pub(crate) fn shrink(args: &Args) -> Result<ExitCode, String> {
    let case = case(&args.case, args.seed)?;
    #[cfg(feature = "mutants")]
    super::plant(args.mutant.as_deref())?;
    let breach = breach_of(&case, args.property.as_deref())?;
    let property = breach.property();
    let mut said = |runs: u64, left: usize| {
        progress(&format!("{property}: {runs} runs, {left} acts left"));
        true
    };
    let (found, seconds) = timed(|| smallest(&case, &breach, args.runs, &mut said));
    progress_over();
    let found = found.ok_or_else(|| format!("this case does not break {property} each time that it is run"))?;
    write(&args.out, &found.to_toml())?;
    print(&match args.output {
        Output::Text => text(&found, args, seconds),
        Output::Json => serde_json::json!({
            "property": property,
            "from": found.from,
            "to": found.to,
            "runs": found.runs,
            "minimal": found.minimal,
            "story": found.story(),
            "out": args.out,
            "seconds": seconds,
        })
        .to_string(),
    });
    Ok(ExitCode::SUCCESS)
}

fn text(found: &Shrunk, args: &Args, seconds: f64) -> String {
    let mut text = format!(
        "{} breaks still. From {} to {}, in {} runs and {seconds:.1} s.\n",
        found.breach.property(),
        found.from,
        found.to,
        found.runs
    );
    if !found.minimal {
        text.push_str("All runs were used up: more (--runs) may make it smaller.\n");
    }
    for line in found.story() {
        text.push_str(&line);
        text.push('\n');
    }
    #[cfg(feature = "mutants")]
    let planted = args.mutant.as_ref().map(|mutant| format!(" --mutant {mutant}")).unwrap_or_default();
    #[cfg(not(feature = "mutants"))]
    let planted = "";
    text.push_str(&format!("Run it again: hardtack-sim run {}{planted}", args.out.display()));
    text
}
