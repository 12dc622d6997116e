//! `hardtack-sim report`: a run as something to look at.
//!
//! Owns: what is run and beside what, where it is written, the exit code.
//! Never: decides how it looks.
//! Read next: `hardtack_simulator::report`.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use hardtack_simulator::case::Case;
use hardtack_simulator::report::shown::{Shown, Small, Source};
use hardtack_simulator::report::{html, junit, lanes, perfetto, Breach, Report, Status};
use hardtack_simulator::scenario::{Scenario, Span};
use hardtack_simulator::shrink::shrink;

use super::case;

/// Characters in a row of lanes where the terminal does not say.
const COLUMNS: usize = 120;
/// A terminal is told how far the run is every so many hundredths.
const PROGRESS_STEP: u64 = 5;

/// What `report` takes.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A scenario file, a plan, or a name from `list`.
    #[arg(value_name = "CASE")]
    file: PathBuf,
    /// Take this seed in place of the scenario's own.
    #[arg(long)]
    seed: Option<u64>,
    /// Write it here; `-` prints it. HTML goes to a file of the scenario's name unless you say otherwise, all else is printed.
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
    /// In which form.
    #[arg(long, value_enum, default_value_t = Format::Html)]
    format: Format,
    /// Run the same plan beside it on devices of this class: one that ships, or a profile file, which ends in .toml.
    #[arg(long, value_name = "PROFILE", conflicts_with = "compare_file")]
    compare: Option<String>,
    /// Run the same plan beside it with the fleet, the grants and the policy of another scenario file.
    #[arg(long, value_name = "FILE")]
    compare_file: Option<PathBuf>,
    /// Where something broke, look for so long for the smallest plan that breaks the same; it is on the page, and written
    /// beside it. `0s` leaves that out.
    #[arg(long, value_name = "SPAN", default_value = "1m")]
    shrink_for: Span,
    /// Plant a bug, to have something that breaks.
    #[cfg(feature = "mutants")]
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One file to look at, which needs nothing else.
    Html,
    /// Chrome trace events, for ui.perfetto.dev.
    Perfetto,
    /// One test case per property.
    Junit,
    /// The trace as JSON lines; the last line is the report.
    Jsonl,
    /// Lanes of characters.
    Lanes,
}

/// Runs it, and says how it went.
pub(crate) fn report(args: &Args) -> Result<ExitCode, String> {
    let case = case(&args.file, args.seed)?;
    let (text, scenario, plan, seed) = (case.scenario_text(), case.scenario().clone(), case.plan(), case.seed());
    let other = other(args, &scenario, &text)?;
    let path = place(args, &scenario);
    // First: a typing error must not cost the time of a run.
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        return Err(format!("cannot write {}: there is no folder {}; make it first", path.display(), folder.display()));
    }
    #[cfg(feature = "mutants")]
    super::plant(args.mutant.as_deref())?;
    if other.is_some() && args.format != Format::Html {
        return Err("two runs side by side are a picture: leave --format out, or the comparison".into());
    }
    // Beside another file its name tells it apart, beside another class of device that.
    let label = if args.compare_file.is_some() { stem(&args.file) } else { scenario.profile.name.clone() };
    let trace = Lines::default();
    let lines = (args.format == Format::Jsonl).then(|| Box::new(trace.clone()) as Box<dyn Write>);
    let (first, seconds) = super::timed(|| Shown::run((&scenario, &label), plan, seed, lines, progress(&label)));
    let verdict = first.report.verdict();
    let mut said = vec![(label.clone(), verdict)];
    let made = match args.format {
        Format::Html => {
            let small = small(args, &case, &first.report, &path)?;
            let mut shown = vec![first];
            if let Some((scenario, label)) = &other {
                let second = Shown::run((scenario, label), plan, seed, None, progress(label));
                said.push((label.clone(), second.report.verdict()));
                shown.push(second);
            }
            html::page(&Source { about: about(&text), text, command: command(args, seed) }, &shown, small.as_ref())
        }
        Format::Perfetto => perfetto::trace(&first),
        Format::Junit => junit::suite(&first.report, seconds),
        Format::Jsonl => {
            format!("{}{}\n", trace.text()?, serde_json::json!({ "report": first.report.to_json(seconds) }))
        }
        Format::Lanes => lanes::text(&first, columns()),
    };
    deliver(&path, &scenario, &made, &said)?;
    Ok(if verdict == Status::Pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What its author says about a scenario.
fn about(text: &str) -> String {
    let table: Option<toml::Table> = text.parse().ok();
    table.and_then(|table| Some(table.get("about")?.as_str()?.trim().to_owned())).unwrap_or_default()
}

/// The scenario that the same plan is run under a second time, and what tells it from the first.
fn other(args: &Args, scenario: &Scenario, text: &str) -> Result<Option<(Scenario, String)>, String> {
    if let Some(profile) = &args.compare {
        let changed = with_profile(text, profile)?;
        let other = Scenario::parse(&changed).map_err(|error| format!("--compare {profile}: {error}"))?;
        let label = other.profile.name.clone();
        return Ok(Some((other, label)));
    }
    let Some(path) = &args.compare_file else { return Ok(None) };
    let from = case(path, None)?;
    let from = from.scenario();
    if from.fleet.devices != scenario.fleet.devices {
        return Err(format!(
            "{} has {} gateways and {} has {}: one plan needs one fleet; give both the same `fleet.devices`",
            args.file.display(),
            scenario.fleet.devices,
            path.display(),
            from.fleet.devices
        ));
    }
    let other = Scenario {
        fleet: from.fleet.clone(),
        profile: from.profile.clone(),
        grant: from.grant.clone(),
        policy: from.policy.clone(),
        ..scenario.clone()
    };
    Ok(Some((other, stem(path))))
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

/// A scenario's text with another class of device in it.
fn with_profile(text: &str, profile: &str) -> Result<String, String> {
    let mut table: toml::Table = text.parse().map_err(|error| format!("not a scenario: {error}"))?;
    if profile.ends_with(".toml") {
        super::put_class(&mut table, Path::new(profile)).map_err(|problem| format!("--compare: {problem}"))?;
        return Ok(table.to_string());
    }
    let fleet = table.entry("fleet").or_insert_with(|| toml::Table::new().into());
    let fleet = fleet.as_table_mut().ok_or("`fleet` is no table")?;
    fleet.insert("profile".into(), profile.into());
    fleet.remove("class");
    Ok(table.to_string())
}

/// The command that makes the same report again.
fn command(args: &Args, seed: u64) -> String {
    let mut command = format!("hardtack-sim report {} --seed {seed}", quoted(&args.file.to_string_lossy()));
    if let Some(profile) = &args.compare {
        command.push_str(&format!(" --compare {}", quoted(profile)));
    }
    if let Some(path) = &args.compare_file {
        command.push_str(&format!(" --compare-file {}", quoted(&path.to_string_lossy())));
    }
    command.push_str(&planted(args));
    command
}

/// What a command says of a planted bug.
#[cfg(feature = "mutants")]
fn planted(args: &Args) -> String {
    args.mutant.as_ref().map_or_else(String::new, |name| format!(" --mutant {name}"))
}

#[cfg(not(feature = "mutants"))]
fn planted(_args: &Args) -> String {
    String::new()
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn columns() -> usize {
    std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(COLUMNS)
}

/// Tells a terminal how far a run is.
fn progress(label: &str) -> impl FnMut(u64) + 'static {
    let (label, shows, mut last) = (label.to_owned(), std::io::stderr().is_terminal(), 0);
    move |percent| {
        if shows && (percent >= last + PROGRESS_STEP || percent == 100) {
            last = percent;
            eprint!("\r{label}: {percent:>3} %{}", if percent == 100 { "\n" } else { "" });
        }
    }
}

/// Where the report goes; `-` is stdout.
fn place(args: &Args, scenario: &Scenario) -> PathBuf {
    match (&args.out, args.format) {
        (Some(path), _) => path.clone(),
        (None, Format::Html) => PathBuf::from(format!("{}.html", file_name(&scenario.name))),
        (None, Format::Perfetto | Format::Junit | Format::Jsonl | Format::Lanes) => PathBuf::from("-"),
    }
}

/// What a run breaks first, made small, and written beside the page.
fn small(args: &Args, case: &Case, report: &Report, page: &Path) -> Result<Option<Small>, String> {
    let Some(breach) = report.broken_first().and_then(Breach::of).filter(|_| args.shrink_for.0 > 0) else {
        return Ok(None);
    };
    let (property, since) = (breach.property(), super::clock());
    let mut go_on = |runs: u64, left: usize| {
        super::progress(&format!("{property} is broken. Made small: {runs} runs, {left} acts left"));
        since() < Duration::from_millis(args.shrink_for.0)
    };
    let found = shrink(case, &breach, u64::MAX, &mut go_on);
    super::progress_over();
    let Some(found) = found else { return Ok(None) };
    let path =
        if page.as_os_str() == "-" { PathBuf::from("minimal.toml") } else { page.with_extension("minimal.toml") };
    if page.as_os_str() != "-" {
        super::write(&path, &found.to_toml())?;
    }
    let command = format!("hardtack-sim report {}{}", quoted(&path.to_string_lossy()), planted(args));
    Ok(Some(Small { story: found.story(), found, command }))
}

fn deliver(path: &Path, scenario: &Scenario, made: &str, said: &[(String, Status)]) -> Result<(), String> {
    if path.as_os_str() == "-" {
        let mut out = std::io::stdout().lock();
        return out
            .write_all(made.as_bytes())
            .and_then(|()| out.flush())
            .map_err(|error| format!("cannot print: {error}"));
    }
    let failed = |error: std::io::Error| format!("cannot write {}: {error}", path.display());
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    file.write_all(made.as_bytes()).and_then(|()| file.flush()).map_err(failed)?;
    let size = made.len().div_ceil(1024);
    let verdicts: Vec<String> = match said {
        [(_, one)] => vec![one.name().to_owned()],
        many => many.iter().map(|(label, verdict)| format!("{} with {label}", verdict.name())).collect(),
    };
    super::print(&format!("{}: {}; {size} KiB in {}", scenario.name, verdicts.join(", "), path.display()));
    Ok(())
}

/// A scenario's name as a file may have it.
fn file_name(name: &str) -> String {
    let safe: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    match safe.trim_start_matches(['.', '-']) {
        "" => "report".to_owned(),
        name => name.to_owned(),
    }
}

/// Lines that are kept until the run is over.
#[derive(Clone, Default)]
struct Lines(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

impl Lines {
    fn text(&self) -> Result<String, String> {
        String::from_utf8(self.0.take()).map_err(|error| error.to_string())
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_a_shell_and_names_for_files() {
        assert_eq!(quoted("a/b-c.toml"), "a/b-c.toml");
        assert_eq!(quoted("it's; rm -rf"), "'it'\\''s; rm -rf'");
        assert_eq!(quoted(""), "''");
        assert_eq!(file_name("../x</script>"), "x--script-");
        assert_eq!(file_name("///"), "report");
    }

    #[test]
    fn another_profile_in_the_same_text() {
        let text =
            "schema = 1\nname = \"x\"\nabout = \" why \"\nseed = 1\nduration = \"2h\"\nheal = \"1h\"\nrequire = []\n";
        assert_eq!(about(text), "why");
        let other = Scenario::parse(&with_profile(text, "energy-armv7-1g").unwrap()).unwrap();
        assert_eq!(other.profile.name, "energy-armv7-1g");
        assert!(Scenario::parse(&with_profile(text, "abacus").unwrap()).is_err());
    }
}
