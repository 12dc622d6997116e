//! `hardtack-sim run`, `expand` and `replay`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hardtack_simulator::agree::{agree_but_for, Agreement, Difference};
use hardtack_simulator::case::Case;
use hardtack_simulator::event::Event;
use hardtack_simulator::report::{Report, Share, Status};
use hardtack_simulator::scenario::Span;
use hardtack_simulator::trace::Watcher;
use hardtack_simulator::Level;

use super::{case, clock, print, progress, progress_over, timed, write, Output};

#[derive(clap::Args)]
pub(crate) struct RunArgs {
    /// Scenario files, plans, or names from `list`.
    #[arg(required = true, value_name = "CASE")]
    cases: Vec<PathBuf>,
    /// Take this seed in place of the scenarios' own.
    #[arg(long)]
    seed: Option<u64>,
    /// How much of the world is real.
    #[arg(long, value_enum, default_value_t = LevelName::Model)]
    level: LevelName,
    /// How to tell what came out.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Write the trace here as JSON lines; with one case only.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Compare the hash of each trace with the one in this file, a line `NAME HASH` each; another is a failure.
    #[arg(long, value_name = "FILE")]
    golden: Option<PathBuf>,
    /// Write what came out into the file in place of comparing.
    #[arg(long, requires = "golden")]
    bless: bool,
    /// Plant a bug, to see whether it is caught; with `--level both` in the second run only.
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
}

impl RunArgs {
    #[cfg(feature = "mutants")]
    fn plant(&self) -> Result<(), String> {
        super::plant(self.mutant.as_deref())
    }

    #[cfg(not(feature = "mutants"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "there is nothing to plant")]
    fn plant(&self) -> Result<(), String> {
        Ok(())
    }

    /// Runs a case at both levels; what is planted is planted in the second run.
    fn both(&self, level: Level, case: &Case) -> (Report, Agreement) {
        #[cfg(feature = "mutants")]
        hardtack::mutant::plant(None);
        // That there is such a mutant was seen before.
        agree_but_for(case, level, || drop(self.plant()))
    }
}

/// How much of the world is real.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LevelName {
    /// The core and its tokens.
    Model,
    /// The bytes on the links too, and the store on the disks.
    Wire,
    /// First the one, then the other: whether programs were answered the same.
    Both,
}

impl LevelName {
    fn level(self) -> Result<Level, String> {
        let level = match self {
            Self::Model => Level::Model,
            Self::Wire | Self::Both => Level::Wire,
        };
        level.available().map(|()| level)
    }
}

#[derive(clap::Args)]
pub(crate) struct ExpandArgs {
    /// A scenario file, or a name from `list`.
    #[arg(value_name = "CASE")]
    case: PathBuf,
    /// Take this seed in place of the scenario's own.
    #[arg(long)]
    seed: Option<u64>,
    /// Write it here.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(clap::Args)]
pub(crate) struct ReplayArgs {
    /// A plan, as `expand` or `shrink` wrote it.
    #[arg(value_name = "PLAN")]
    plan: PathBuf,
    /// The hash of the trace that it came to before, or its first 16 digits, as `run` prints them; another is a failure.
    #[arg(long, value_name = "HEX", value_parser = hash_of_before)]
    hash: Option<String>,
    /// How to tell what came out.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(crate) fn run(args: &RunArgs) -> Result<ExitCode, String> {
    let level = args.level.level()?;
    // All first: a typing error in the last must not cost the time of the others.
    let cases: Vec<Case> = args.cases.iter().map(|place| case(place, args.seed)).collect::<Result<_, _>>()?;
    if args.level == LevelName::Both && (args.trace.is_some() || args.golden.is_some()) {
        return Err("--trace and --golden take one level".into());
    }
    if args.trace.is_some() && cases.len() > 1 {
        return Err("--trace takes one case".into());
    }
    args.plant()?;
    let mut golden = Golden::read(args)?;
    let mut all_pass = true;
    for case in &cases {
        let lines = match &args.trace {
            Some(path) => {
                let file = File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
                Some(Box::new(BufWriter::new(file)) as Box<dyn Write>)
            }
            None => None,
        };
        if args.level == LevelName::Both {
            all_pass &= tell_both(args, level, case);
            continue;
        }
        let report = tell(level, case, lines, args.output);
        all_pass &= report.verdict() == Status::Pass;
        if let Some(golden) = &mut golden {
            all_pass &= golden.compare(&report);
        }
    }
    if let Some(golden) = golden.filter(|_| args.bless) {
        golden.write()?;
    }
    Ok(if all_pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The hashes that traces had before.
struct Golden<'a> {
    path: &'a Path,
    bless: bool,
    hashes: BTreeMap<String, String>,
}

impl<'a> Golden<'a> {
    fn read(args: &'a RunArgs) -> Result<Option<Self>, String> {
        let Some(path) = args.golden.as_deref() else { return Ok(None) };
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && args.bless => String::new(),
            read => read.map_err(|error| format!("cannot read {}: {error}", path.display()))?,
        };
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let hashes = lines.map(|(name, hash)| (name.to_owned(), hash.trim().to_owned())).collect();
        Ok(Some(Self { path, bless: args.bless, hashes }))
    }

    /// Whether a run came to what it did before. Tells where it did not.
    fn compare(&mut self, report: &Report) -> bool {
        let hash = hardtack::ids::hex(&report.trace_hash);
        if self.bless {
            self.hashes.insert(report.scenario.clone(), hash);
            return true;
        }
        let (name, file) = (&report.scenario, self.path.display());
        match self.hashes.get(name) {
            Some(before) if *before == hash => return true,
            Some(before) => eprintln!(
                "{name}: the trace's hash is {hash}, in {file} it is {before}: with the same seed something else happened. If \
                 what devices or the fleet do was meant to change, run it again with --bless. If not, write the trace of both \
                 programs (`hardtack-sim run --trace FILE {name}`); `hardtack-sim diff` shows the first event in which they part"
            ),
            None => eprintln!("{name}: there is no hash of it in {file}. If it is new, run it again with --bless"),
        }
        false
    }

    fn write(&self) -> Result<(), String> {
        let lines: String = self.hashes.iter().map(|(name, hash)| format!("{name} {hash}\n")).collect();
        write(self.path, &lines)
    }
}

pub(crate) fn expand(args: &ExpandArgs) -> Result<ExitCode, String> {
    let lines = case(&args.case, args.seed)?.to_lines();
    match &args.out {
        Some(path) => write(path, &lines)?,
        None => print(lines.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

/// How many digits of a hash are printed in a table, and tell one run from another.
const HASH_DIGITS: usize = 16;

fn hash_of_before(text: &str) -> Result<String, String> {
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let fits = digits && (HASH_DIGITS..=64).contains(&text.len());
    fits.then(|| text.to_ascii_lowercase())
        .ok_or_else(|| "a hash has 64 hexadecimal digits; the first 16 will do".into())
}

pub(crate) fn replay(args: &ReplayArgs) -> Result<ExitCode, String> {
    let report = tell(Level::Model, &case(&args.plan, None)?, None, args.output);
    let hash = hardtack::ids::hex(&report.trace_hash);
    if let Some(before) = args.hash.as_deref().filter(|before| !hash.starts_with(before)) {
        return Err(format!("the trace's hash is {hash}, and it was {before}: this is another program, or another plan. `hardtack-sim diff` shows where two runs part"));
    }
    Ok(if report.verdict() == Status::Pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a case and prints what came out.
fn tell(level: Level, case: &Case, lines: Option<Box<dyn Write>>, output: Output) -> Report {
    let (report, seconds) = timed(|| hardtack_simulator::run_case_at(level, case, lines, watcher(case)));
    progress_over();
    print(&match output {
        Output::Json => report.to_json(seconds).to_string(),
        Output::Text => table(&report, seconds),
    });
    report
}

/// Tells whoever watches how far a run is: in simulated time, and how long it has taken so far.
fn watcher(case: &Case) -> Option<Watcher> {
    let (name, start, duration) = (case.scenario().name.clone(), case.scenario().start, case.scenario().duration);
    let (since, mut shown) = (clock(), 0);
    let watcher = move |at: u64, _: &Event| {
        let percent = at.saturating_sub(start).saturating_mul(100) / duration.max(1);
        if percent > shown {
            shown = percent;
            let (so_far, whole) = (Span(at.saturating_sub(start) / 60_000 * 60_000), Span(duration));
            progress(&format!("{name}: {percent} %, {so_far} of {whole}, after {} s", since().as_secs()));
        }
    };
    std::io::stderr().is_terminal().then(|| Box::new(watcher) as Watcher)
}

/// Runs a case at both levels and prints how they agree. Whether they do, and the run at the other level holds.
fn tell_both(args: &RunArgs, level: Level, case: &Case) -> bool {
    let ((report, agreement), seconds) = timed(|| args.both(level, case));
    print(&match args.output {
        Output::Json => serde_json::json!({ "report": report.to_json(seconds), "agreement": agreement }).to_string(),
        Output::Text => format!("{}\n{}", table(&report, seconds), agreed(&agreement)),
    });
    agreement.holds() && report.verdict() == Status::Pass
}

fn agreed(agreement: &Agreement) -> String {
    let Agreement { settle_ms, same, edge, act, hostile, cut, parted, alone, differences, .. } = agreement;
    let mut text = format!(
        "  both levels: {same} answers are the same; differing within {} s of a fault {edge}, as soon after an operator's act by word of it {act}, \
         while a broker was hostile or before a round trip after that {hostile}, after power or process went away and before the next round trip {cut}, by a credential whose use had parted so {parted}, \
         answered at one level only {alone}; without such a reason {}",
        settle_ms / 1000,
        differences.len(),
    );
    if !agreement.is_enough() {
        text.push_str(
            "\n    what differs with a reason, or was answered at one level only, is too much beside what is the same",
        );
    }
    for Difference { at, device, request, model, wire } in differences {
        text.push_str(&format!("\n    {at} gateway {device}: {request}: the model says {model}, the wire {wire}"));
    }
    text
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
        &hardtack::ids::hex(&report.trace_hash)[..HASH_DIGITS],
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
    if !report.not_applied.is_empty() {
        let lines = report.not_applied.iter().map(|fault| format!("  not applied at this level: {fault}\n"));
        text.extend(lines);
    }
    text.truncate(text.trim_end().len());
    text
}

pub(crate) fn shares(shares: &[Share]) -> String {
    let line = |Share { class, synced, good, allowed, denied }: &Share| {
        let percent = 100.0 * *allowed as f64 / (*good).max(1) as f64;
        let denied = denied.iter().map(|first| format!("             {first}\n")).collect::<String>();
        format!("  good requests, {class}, {synced}: {allowed} of {good} allowed, {percent:.3} %\n{denied}")
    };
    shares.iter().map(line).collect()
}
