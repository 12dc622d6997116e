//! `hardtack-sim bisect`.

use std::path::PathBuf;
use std::process::ExitCode;

use hardtack_simulator::bisect::{bisect as look, Bisected, Moment};
use hardtack_simulator::scenario::Span;

use super::{breach_of, case, print, progress, progress_over, Output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A scenario file, a plan, or a name from `list`, which breaks something.
    #[arg(value_name = "CASE")]
    case: PathBuf,
    /// Take this seed in place of the scenario's own.
    #[arg(long)]
    seed: Option<u64>,
    /// The property; without this, the one that it breaks first.
    #[arg(long, value_name = "ID")]
    property: Option<String>,
    /// How many moments to look from.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    moments: u32,
    /// How many futures to look at from each.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1000))]
    futures: u32,
    /// How to tell what came out.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Plant a bug, to have something that breaks.
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
}

pub(crate) fn bisect(args: &Args) -> Result<ExitCode, String> {
    let case = case(&args.case, args.seed)?;
    #[cfg(feature = "mutants")]
    super::plant(args.mutant.as_deref())?;
    let breach = breach_of(&case, args.property.as_deref())?;
    let mut said = |Moment { at, broken, futures }: Moment| progress(&format!("{}: {broken} of {futures}", Span(at)));
    let found = look(&case, &breach, args.moments, args.futures, &mut said);
    progress_over();
    print(&match args.output {
        Output::Text => text(breach.property(), &found),
        Output::Json => {
            let mut all = serde_json::json!(found);
            all["property"] = breach.property().into();
            all.to_string()
        }
    });
    Ok(ExitCode::SUCCESS)
}

/// How wide a bar is that stands for all futures.
const WIDTH: usize = 40;
/// How many acts are shown of those that may be the cause.
const ACTS: usize = 12;

fn text(property: &str, found: &Bisected) -> String {
    let mut text = format!("How often {property} breaks if the world goes on otherwise from then on:\n");
    for Moment { at, broken, futures } in &found.moments {
        let bar = "#".repeat(*broken as usize * WIDTH / (*futures).max(1) as usize);
        text.push_str(&format!("{:>12}  {bar:WIDTH$}  {broken} of {futures}\n", Span(*at).to_string()));
    }
    let (from, to) = found.jump;
    let there =
        if found.acts.is_empty() { "No fault is there: what happened before leads to it" } else { "Faults there:" };
    text.push_str(&format!("It is decided between {} and {}. {there}\n", Span(from), Span(to)));
    for act in found.acts.iter().take(ACTS) {
        text.push_str(&format!("  {act}\n"));
    }
    if found.acts.len() > ACTS {
        text.push_str(&format!("  and {} more\n", found.acts.len() - ACTS));
    }
    text.truncate(text.trim_end().len());
    text
}
