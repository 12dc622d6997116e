//! `hardtack-sim`: argv in, exit code out.

mod cli;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hardtack_simulator::PROGRAM;

/// Partitions, reboots, robs and deceives a fleet of hardtack agents until it breaks.
///
/// A CASE is a scenario file (TOML), a plan (JSON lines, as `expand` writes it), or a name: of a scenario that `list` shows,
/// or of a world that `fuzz` or `grid` draws (`swarm-10`, `grid-2-1234`).
#[derive(Parser)]
#[command(name = "hardtack-sim", version = PROGRAM.trim_start_matches("hardtack-sim "))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show when it was decided: how often a broken property breaks if the world goes on otherwise from each moment on.
    Bisect(cli::bisect::Args),
    /// Judge what a real fleet left behind: exports of its audit (`hardtack fleet audit export`), or traces of runs; exit 0 only
    /// if all pass.
    Check(cli::check::Args),
    /// Show the first event in which two runs, or two traces, differ; exit 0 only if there is none.
    Diff(cli::diff::Args),
    /// Print what a scenario and a seed come to: a plan, one act per line, which `replay` runs.
    #[command(alias = "plan")]
    Expand(cli::run::ExpandArgs),
    /// Show the faults that a scenario can name, and the keys of each.
    Faults(cli::faults::Args),
    /// Run worlds drawn by chance, each with some kinds of faults and without the others; exit 0 only if none breaks
    /// anything. What breaks something is made small.
    Fuzz(cli::fuzz::Args),
    /// Run all combinations of a few faults on a grid of times; exit 0 only if none breaks anything.
    Grid(cli::fuzz::GridArgs),
    /// Make a scenario of a log of real outages (CSV): what the fleet's links went through.
    Import(cli::import::Args),
    /// Show the scenarios that ship, and what each is about.
    List(cli::list::Args),
    /// Play a short plan on real agents, a real mosquitto and real links, beside the model; exit 0 only if all that was
    /// judged held, and programs were answered what the model says.
    ///
    /// Founds a fleet in a temporary folder, with a broker as `hardtack broker config` sets one up, the fleet's service, and
    /// for each gateway an agent behind a proxy of its own, all on the loopback interface. Links are stalled each way,
    /// stranded and mended, agents are killed, stopped and restarted, broker and service too, wall clocks jump, the operator
    /// revokes. What a plan holds and this level cannot do is named as `not applied here`, and left out of the model's run
    /// as well. Needs mosquitto with its dynamic-security plugin.
    #[cfg(feature = "live")]
    Live(cli::live::Args),
    /// Plant bugs, each in the world that is to catch it, under some seeds; exit 0 only if each is caught under one of them.
    #[cfg(feature = "mutants")]
    Mutants(cli::mutants::Args),
    /// Run a plan again; exit 0 only if it passes, and comes to the same as was recorded.
    Replay(cli::run::ReplayArgs),
    /// Run scenarios; exit 0 only if all pass.
    Run(cli::run::RunArgs),
    /// Run a case and make something to look at; exit 0 only if it passes.
    Report(cli::report::Args),
    /// Find the smallest plan that breaks the same property as a case does, and tell its story.
    Shrink(cli::shrink::Args),
    /// Run short worlds with all clock and power faults on until so many decisions were made; exit 0 only if all pass.
    Soak(cli::soak::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Bisect(args) => cli::bisect::bisect(&args),
        Command::Check(args) => cli::check::check(&args),
        Command::Diff(args) => cli::diff::diff(&args),
        Command::Expand(args) => cli::run::expand(&args),
        Command::Faults(args) => cli::faults::faults(&args),
        Command::Fuzz(args) => cli::fuzz::fuzz(&args),
        Command::Grid(args) => cli::fuzz::grid(&args),
        Command::Import(args) => cli::import::import(&args),
        Command::List(args) => cli::list::list(&args),
        #[cfg(feature = "live")]
        Command::Live(args) => cli::live::live(&args),
        #[cfg(feature = "mutants")]
        Command::Mutants(args) => cli::mutants::mutants(&args),
        Command::Replay(args) => cli::run::replay(&args),
        Command::Report(args) => cli::report::report(&args),
        Command::Run(args) => cli::run::run(&args),
        Command::Shrink(args) => cli::shrink::shrink(&args),
        Command::Soak(args) => Ok(cli::soak::soak(&args)),
    };
    done.unwrap_or_else(|problem| {
        eprintln!("hardtack-sim: {problem}");
        ExitCode::from(2)
    })
}
