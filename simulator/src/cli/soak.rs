//! `hardtack-sim soak`.

use std::process::ExitCode;

use hardtack_simulator::soak::Soak;

use super::run::shares;
use super::{print, timed, Output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many decisions.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    decisions: u64,
    /// The first world's seed; each further world takes the next.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How to tell what came out.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(crate) fn soak(args: &Args) -> ExitCode {
    let (soak, seconds) = timed(|| hardtack_simulator::soak::soak(args.decisions, args.seed, || ()));
    print(&match args.output {
        Output::Json => {
            let mut all = serde_json::json!(soak);
            all["verdict"] = if soak.passed() { "pass" } else { "fail" }.into();
            all["seed"] = args.seed.into();
            all["seconds"] = seconds.into();
            all.to_string()
        }
        Output::Text => table(&soak, seconds),
    });
    if soak.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn table(soak: &Soak, seconds: f64) -> String {
    let mut text = format!(
        "{} decisions in {} worlds, {:.1} s, {:.0} decisions/s\nunsound allows: {}\n",
        soak.decisions,
        soak.worlds,
        seconds,
        soak.decisions as f64 / seconds.max(1e-9),
        soak.unsound,
    );
    text.push_str(&shares(&soak.shares));
    let faults: Vec<String> = soak.faults.iter().map(|(fault, count)| format!("{fault} {count}")).collect();
    text.push_str(&format!("  faults: {}\n", faults.join(", ")));
    for (world, seed, property, witness) in &soak.failures {
        text.push_str(&format!("  {world} seed {seed}: {property} {witness}\n"));
    }
    text.truncate(text.trim_end().len());
    text
}
