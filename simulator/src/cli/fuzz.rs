//! `hardtack-sim fuzz` and `grid`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hardtack_simulator::case::Case;
use hardtack_simulator::fuzz::{fuzz as search, Failure, Found, Until};
use hardtack_simulator::grid;
use hardtack_simulator::scenario::Span;
use hardtack_simulator::shrink::{shrink, Shrunk};
use hardtack_simulator::swarm;

use super::{clock, print, progress, progress_over, timed, write, Output};

/// Seeds go up to twice that, as numbers do in TOML: nobody comes to the end of those that are left.
const SEED_MAX: u64 = 1 << 62;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The first world's seed; each further world takes the next.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=SEED_MAX))]
    seed: u64,
    /// Stop after so many worlds.
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true, value_parser = clap::value_parser!(u64).range(1..))]
    worlds: u64,
    /// Stop when so many worlds in a row have brought nothing new; without a number, 200.
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "200", value_parser = clap::value_parser!(u64).range(1..))]
    until_plateau: Option<u64>,
    /// Begin no further world after so long, like 10m.
    #[arg(long = "for", value_name = "SPAN")]
    limit: Option<Span>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
pub(crate) struct GridArgs {
    /// How many faults at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(grid::SIZE_MAX)))]
    size: u32,
    /// The number of the first combination.
    #[arg(long, value_name = "N", default_value_t = 0)]
    first: u64,
    /// Only single faults at this one of the times, each kind once: 1 is the first.
    #[arg(long, value_name = "N", conflicts_with = "first", value_parser = clap::value_parser!(u32).range(1..=i64::from(grid::LAST_TIME)))]
    time: Option<u32>,
    /// Begin no further world after so long, like 10m.
    #[arg(long = "for", value_name = "SPAN")]
    limit: Option<Span>,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args)]
struct Common {
    /// Make what is found as small as so many runs can, and write it here; the first three that are found.
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    out: PathBuf,
    /// How many runs to make it small.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    runs: u64,
    /// How long to make each small at the most.
    #[arg(long, value_name = "SPAN", default_value = "2m")]
    shrink_for: Span,
    /// How to tell what came out.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Text)]
    output: Output,
}

/// How long it takes until the pace is known.
const FORETELL: Duration = Duration::from_secs(5);
/// How many of the worlds that break something are made small.
const SMALL: usize = 3;

pub(crate) fn fuzz(args: &Args) -> Result<ExitCode, String> {
    let until = Until { worlds: args.worlds, plateau: args.until_plateau };
    if args.worlds == u64::MAX && args.until_plateau.is_none() && args.limit.is_none() {
        return Err("say when to stop: --worlds, --until-plateau or --for".into());
    }
    run(&swarm::draw, ("--seed", args.seed), until, args.limit, &args.common)
}

pub(crate) fn grid(args: &GridArgs) -> Result<ExitCode, String> {
    let numbers = match args.time {
        None => args.first..grid::count(args.size),
        Some(time) if args.size == 1 => grid::at_time(time),
        Some(_) => return Err("--time goes with --size 1: larger combinations are of several times".into()),
    };
    if numbers.is_empty() {
        return Err(format!("there are {} such combinations: --first is below that", numbers.end));
    }
    let draw = |number| grid::draw(args.size, number);
    let until = Until { worlds: numbers.end - numbers.start, plateau: None };
    run(&draw, ("--first", numbers.start), until, args.limit, &args.common)
}

fn run(
    draw: &(dyn Fn(u64) -> String + Sync),
    (option, first): (&str, u64),
    until: Until,
    limit: Option<Span>,
    args: &Common,
) -> Result<ExitCode, String> {
    // Now, and not after hours: what was found would be lost.
    std::fs::create_dir_all(&args.out).map_err(|error| format!("cannot make {}: {error}", args.out.display()))?;
    let since = clock();
    let told = AtomicBool::new(false);
    let go_on = |found: &Found| {
        let (worlds, pairs, failures) = (found.worlds, found.coverage.len(), found.failures.len());
        if since() >= FORETELL && worlds > 0 && !told.swap(true, Ordering::Relaxed) {
            progress_over();
            eprintln!("{}", foretold(found, since(), until, limit));
        }
        progress(&format!("{worlds} worlds, {pairs} pairs seen, {failures} failures"));
        limit.is_none_or(|limit| since() < Duration::from_millis(limit.0))
    };
    let (found, seconds) = timed(|| search(draw, first, until, || (), &go_on));
    progress_over();
    let rest = (!found.is_enough(until)).then(|| {
        let next = first.wrapping_add(found.worlds);
        format!("The time was up before the end: `{option} {next}` goes on from here.")
    });
    let small = found.failures.iter().take(SMALL).map(|failure| small(draw, failure, args));
    let small: Vec<(PathBuf, Vec<String>)> = small.collect::<Result<_, _>>()?;
    print(&match args.output {
        Output::Text => text(&found, &small, rest.as_deref(), seconds),
        Output::Json => {
            let mut all = serde_json::json!(found);
            all["coverage"] = found.coverage.len().into();
            all["verdict"] = if found.failures.is_empty() { "pass" } else { "fail" }.into();
            all["seconds"] = seconds.into();
            all["next"] = rest.is_some().then(|| first.wrapping_add(found.worlds)).into();
            all.to_string()
        }
    });
    Ok(if found.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Makes a world that broke something small: where it is written, and its story.
fn small(
    draw: &(dyn Fn(u64) -> String + Sync),
    failure: &Failure,
    args: &Common,
) -> Result<(PathBuf, Vec<String>), String> {
    let case = Case::parse(&draw(failure.world), None).map_err(|error| error.to_string())?;
    let since = clock();
    let mut said = |runs: u64, left: usize| {
        progress(&format!("world {}: {runs} runs, {left} acts left", failure.world));
        since() < Duration::from_millis(args.shrink_for.0)
    };
    let breach = case.run().breach(failure.property);
    let small = breach.and_then(|breach| shrink(&case, &breach, args.runs, &mut said));
    progress_over();
    let path = args.out.join(format!("{}.toml", case.scenario().name));
    write(&path, &small.as_ref().map_or_else(|| case.to_toml(), Shrunk::to_toml))?;
    Ok((path, small.map_or_else(Vec::new, |small| small.story())))
}

/// How long it may take, told once so much of it has passed that the pace is known.
fn foretold(found: &Found, passed: Duration, until: Until, limit: Option<Span>) -> String {
    let each = passed.as_secs_f64() / found.worlds as f64;
    let in_minutes = |worlds: u64| (worlds as f64 * each / 60.0).ceil();
    let pace = if each < 1.0 {
        format!("{:.1} worlds in a second.", 1.0 / each)
    } else {
        format!("{each:.0} s for each world.")
    };
    let bound = match limit {
        Some(limit) => format!(" It ends after {limit} in any case."),
        None => " `--for 10m` would end it after ten minutes.".to_owned(),
    };
    match (until.plateau, until.worlds) {
        (Some(plateau), _) => {
            let least = plateau.saturating_sub(found.stale);
            format!(
                "{pace} A plateau is {plateau} worlds without anything new: {} min at least.{bound}",
                in_minutes(least)
            )
        }
        (None, u64::MAX) => format!("{pace}{bound}"),
        (None, worlds) => {
            let left = worlds.saturating_sub(found.worlds);
            format!("{pace} {left} of {worlds} worlds are left: about {} min.{bound}", in_minutes(left))
        }
    }
}

fn text(found: &Found, small: &[(PathBuf, Vec<String>)], rest: Option<&str>, seconds: f64) -> String {
    let hours = found.device_ms as f64 / 3_600_000.0;
    let mut text = format!(
        "{} worlds, {hours:.0} device-hours, {} decisions in {seconds:.1} s\n{} pairs of a fault and what followed upon it; nothing new in the last {} worlds\n",
        found.worlds,
        found.decisions,
        found.coverage.len(),
        found.stale,
    );
    let faults: Vec<String> = found.faults.iter().map(|(fault, count)| format!("{fault} {count}")).collect();
    text += &format!("faults: {}\n", faults.join(", "));
    let untried: Vec<&str> = found.untried().into_iter().collect();
    if !untried.is_empty() {
        text += &format!("properties that no world tried: {}\n", untried.join(" "));
    }
    if let Some(rest) = rest {
        text += &format!("{rest}\n");
    }
    for failure in &found.failures {
        text += &format!("world {}: {} {}\n", failure.world, failure.property, failure.witness);
    }
    for (path, story) in small {
        text += &format!("{} holds the smallest that was found:\n", path.display());
        text.extend(story.iter().flat_map(|line| [line.as_str(), "\n"]));
    }
    text.truncate(text.trim_end().len());
    text
}
