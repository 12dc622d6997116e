//! `live`: a plan on real processes.
//!
//! Owns: what is read, printed and written for it.
//! Never: plays or judges.
//! Read next: `../live/mod.rs`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use hardtack_simulator::live::{self, Findings, Options, Verdict};
use hardtack_simulator::report::Status;
use hardtack_simulator::scenario::Span;

use super::{case, print, Output};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// A scenario file, a plan, or a name from `list`. It must be a short one: seconds are real here.
    #[arg(value_name = "CASE")]
    case: PathBuf,
    /// Take this seed in place of the scenario's own.
    #[arg(long)]
    seed: Option<u64>,
    /// Play the plan so many times faster. What is counted in real time stays as long as it is: lives of tokens and
    /// grants, bounds of staleness, keep-alives, back-offs. Where a plan waits for one of them, answers will differ.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    speed: u64,
    /// For so long after something changed, a request may be answered as before or as after. After what is mended the longest
    /// back-off of the gateways' profile comes on top, after what broke two keep-alives more: it has to be noticed.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = span)]
    settle: Span,
    /// Refuse a plan that would last longer.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = span)]
    longest: Span,
    /// The program to play with, built with `--features demo`. Where none is named, the one beside this program.
    #[arg(long, value_name = "FILE", env = "HARDTACK_BINARY")]
    binary: Option<PathBuf>,
    /// How to tell what came out.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Write what happened here as JSON lines, in the form of the model's traces.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Leave the folder of the fleet and its gateways behind.
    #[arg(long)]
    keep: bool,
}

fn span(text: &str) -> Result<Span, String> {
    Span::try_from(text.to_owned())
}

pub(crate) fn live(args: &Args) -> Result<ExitCode, String> {
    let case = case(&args.case, args.seed)?;
    let options = Options {
        binary: binary(args)?,
        speed: args.speed,
        settle: args.settle.0,
        longest: args.longest.0,
        keep: args.keep,
    };
    let lines = match &args.trace {
        Some(path) => {
            let file = File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            Some(Box::new(BufWriter::new(file)) as Box<dyn Write>)
        }
        None => None,
    };
    let since = super::clock();
    let played = live::play(&case, &options, &|line| eprintln!("{line}"), lines);
    let findings = played.map_err(|failure| format!("{}. {}", failure.what, failure.advice))?;
    print(&match args.output {
        Output::Json => json(&findings, since().as_secs_f64()),
        Output::Text => table(&findings, since().as_secs_f64()),
    });
    Ok(if findings.verdict() == Status::Pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The program that is named, or the one that was built beside this.
fn binary(args: &Args) -> Result<PathBuf, String> {
    if let Some(binary) = &args.binary {
        return Ok(binary.clone());
    }
    let own = std::env::current_exe().map_err(|error| format!("this program cannot find itself: {error}"))?;
    let beside = own.with_file_name("hardtack");
    if beside.is_file() {
        return Ok(beside);
    }
    Err(format!(
        "there is no {}: build it with `cargo build --features demo --bin hardtack`, or name another with --binary",
        beside.display()
    ))
}

fn json(findings: &Findings, seconds: f64) -> String {
    let count = |verdict| findings.count(verdict);
    let mut value = serde_json::to_value(findings).unwrap_or_default();
    value["level"] = "live".into();
    value["verdict"] = findings.verdict().name().into();
    value["compared"] = serde_json::json!({
        "same": count(Verdict::Same),
        "either_or": count(Verdict::EitherOr),
        "different": count(Verdict::Different),
        "follows": count(Verdict::Follows),
    });
    value["seconds"] = seconds.into();
    value.to_string()
}

fn table(findings: &Findings, seconds: f64) -> String {
    let Findings { scenario, seed, speed, late_ms, .. } = findings;
    let verdict = findings.verdict().name();
    let mut text = format!(
        "{scenario:<24} {verdict:<8} seed {seed}  live, speed {speed}, {seconds:.1} s, acts up to {late_ms} ms late\n"
    );
    for property in &findings.properties {
        text.push_str(&format!("  {:<12} {:<8} {:>9}\n", property.id, property.status.name(), property.checked));
        if let Some(witness) = &property.witness {
            text.push_str(&format!("             {witness}\n"));
        }
    }
    let untried: Vec<&str> = findings.untried().collect();
    let not_judged: Vec<&str> = findings.not_judged.iter().map(String::as_str).collect();
    for (what, ids) in [("required, and not tried", untried), ("required, and not judged here", not_judged)] {
        if !ids.is_empty() {
            text.push_str(&format!("  {what}: {}\n", ids.join(", ")));
        }
    }
    let faults = findings.faults.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>();
    text.push_str(&format!("  faults carried out: {}\n", faults.join(", ")));
    text.push_str(&format!(
        "  requests: {} answered as the model says, {} as it says where a change shows sooner or later (settling {} ms),\n            {} otherwise, {} otherwise for that reason; {} could not be made in the model\n",
        findings.count(Verdict::Same),
        findings.count(Verdict::EitherOr),
        findings.settle_ms,
        findings.count(Verdict::Different),
        findings.count(Verdict::Follows),
        findings.not_asked,
    ));
    for row in &findings.requests {
        let said = |said: &Option<String>| said.clone().unwrap_or_else(|| "no answer".into());
        let mark = match row.verdict {
            Verdict::Same => continue,
            Verdict::EitherOr => "either-or",
            Verdict::Different => "DIFFERENT",
            Verdict::Follows => "follows  ",
        };
        text.push_str(&format!(
            "  {mark}  act {} at {:.1} s, gw-{}, {}: the model said {}, live said {}\n",
            row.act,
            row.at as f64 / 1000.0,
            row.device,
            row.asked,
            said(&row.model),
            said(&row.live)
        ));
    }
    let not_applied = findings.not_applied.iter().map(|(name, count)| format!("{name} ({count})")).collect::<Vec<_>>();
    if !not_applied.is_empty() {
        text.push_str(&format!("  not applied here: {}\n", not_applied.join(", ")));
    }
    text.truncate(text.trim_end().len());
    text
}
