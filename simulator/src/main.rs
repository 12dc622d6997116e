//! `hardtack-sim`: argv in, exit code out.

mod cli_report;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use hardtack_simulator::plan::Plan;
use hardtack_simulator::report::{Report, Share, Status};
use hardtack_simulator::scenario::Scenario;
use hardtack_simulator::soak::Soak;

/// Partitions, reboots, robs and deceives a fleet of hardtack agents until it breaks.
#[derive(Parser)]
#[command(name = "hardtack-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run scenarios; exit 0 only if all pass.
    Run(Run),
    /// Print what a scenario and a seed come to, one act per line.
    Plan(One),
    /// Run a scenario and make something to look at; exit 0 only if it passes.
    Report(cli_report::ReportArgs),
    /// Run short worlds with all clock and power faults on until so many decisions were made; exit 0 only if all pass.
    Soak(SoakArgs),
}

#[derive(Args)]
struct Run {
    /// Scenario files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Take this seed in place of the files' own.
    #[arg(long)]
    seed: Option<u64>,
    /// How to tell what came out.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Write the trace here as JSON lines; with one file only.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Plant a bug, to see whether it is caught.
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
}

#[derive(Args)]
struct SoakArgs {
    /// How many decisions.
    #[arg(long)]
    decisions: u64,
    /// The first world's seed; each further world takes the next.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How to tell what came out.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Args)]
struct One {
    /// A scenario file.
    file: PathBuf,
    /// Take this seed in place of the file's own.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A small table.
    Text,
    /// One JSON object per file and line.
    Json,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Run(run) => run_all(&run),
        Command::Plan(one) => print_plan(&one),
        Command::Report(args) => cli_report::report(&args),
        Command::Soak(args) => Ok(soak(&args)),
    };
    done.unwrap_or_else(|problem| {
        eprintln!("hardtack-sim: {problem}");
        ExitCode::from(2)
    })
}

fn read(path: &Path) -> Result<Scenario, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Scenario::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn run_all(run: &Run) -> Result<ExitCode, String> {
    // All files first: a typing error in the last must not cost the time of the others.
    let scenarios: Vec<Scenario> = run.files.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    if run.trace.is_some() && scenarios.len() > 1 {
        return Err("--trace takes one scenario file".into());
    }
    #[cfg(feature = "mutants")]
    plant(run.mutant.as_deref())?;
    let mut all_pass = true;
    for scenario in &scenarios {
        let lines = match &run.trace {
            Some(path) => {
                let file = File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
                Some(Box::new(BufWriter::new(file)) as Box<dyn Write>)
            }
            None => None,
        };
        let (report, seconds) = timed(|| hardtack_simulator::run(scenario, run.seed.unwrap_or(scenario.seed), lines));
        all_pass &= report.verdict() == Status::Pass;
        print(&match run.output {
            Output::Json => report.to_json(seconds).to_string(),
            Output::Text => table(&report, seconds),
        });
    }
    Ok(if all_pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn soak(args: &SoakArgs) -> ExitCode {
    let (soak, seconds) = timed(|| hardtack_simulator::soak::soak(args.decisions, args.seed, || ()));
    print(&match args.output {
        Output::Json => {
            let mut all = serde_json::json!(soak);
            all["verdict"] = if soak.passed() { "pass" } else { "fail" }.into();
            all["seed"] = args.seed.into();
            all["seconds"] = seconds.into();
            all.to_string()
        }
        Output::Text => soak_table(&soak, seconds),
    });
    if soak.passed() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn soak_table(soak: &Soak, seconds: f64) -> String {
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

fn shares(shares: &[Share]) -> String {
    let line = |Share { class, synced, good, allowed, denied }: &Share| {
        let percent = 100.0 * *allowed as f64 / (*good).max(1) as f64;
        let denied = denied.iter().map(|first| format!("             {first}\n")).collect::<String>();
        format!("  good requests, {class}, {synced}: {allowed} of {good} allowed, {percent:.3} %\n{denied}")
    };
    shares.iter().map(line).collect()
}

fn print_plan(one: &One) -> Result<ExitCode, String> {
    let scenario = read(&one.file)?;
    for entry in Plan::new(&scenario, one.seed.unwrap_or(scenario.seed)).entries {
        print(&serde_json::to_string(&entry).map_err(|error| error.to_string())?);
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(feature = "mutants")]
fn plant(name: Option<&str>) -> Result<(), String> {
    use hardtack::mutant::{plant, Mutant};
    let Some(name) = name else { return Ok(()) };
    let mutant = Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name);
    let known = || Mutant::ALL.map(|mutant| format!("{mutant:?}")).join(" ");
    plant(Some(mutant.ok_or_else(|| format!("no mutant {name:?}: use one of {}", known()))?));
    Ok(())
}

fn table(report: &Report, seconds: f64) -> String {
    let mut text = format!(
        "{:<24} {:<8} seed {}  {:.1} device-hours in {:.2} s  {} runs  {}\n",
        report.scenario,
        report.verdict().name(),
        report.seed,
        report.device_hours(),
        seconds,
        report.runs,
        &hardtack::ids::hex(&report.trace_hash)[..16],
    );
    for property in &report.properties {
        let required = if report.require.iter().any(|id| id == property.id) { "required" } else { "" };
        let line = format!("  {:<12} {:<8} {:>9}  {required}", property.id, property.status.name(), property.checked);
        text.push_str(line.trim_end());
        text.push('\n');
        if let Some(witness) = &property.witness {
            text.push_str(&format!("             {witness}\n"));
        }
    }
    text.push_str(&shares(&report.shares));
    if !report.idle.is_empty() {
        text.push_str(&format!("  faults without effect: {}\n", report.idle.join(" ")));
    }
    text.truncate(text.trim_end().len());
    text
}

#[expect(clippy::disallowed_methods, reason = "how long a run took is for the operator; nothing depends on it")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let began = std::time::Instant::now();
    let done = work();
    (done, began.elapsed().as_secs_f64())
}

#[expect(clippy::print_stdout, reason = "the one place where this program prints")]
fn print(text: &str) {
    println!("{text}");
}
