//! What the commands share: reading a case, printing, telling how a long run goes on.
//!
//! Owns: files, standard output and standard error of this program.
//! Never: decides what a run comes to.
//! Read next: `run.rs`.

pub(crate) mod bisect;
pub(crate) mod check;
pub(crate) mod diff;
pub(crate) mod faults;
pub(crate) mod fuzz;
pub(crate) mod import;
pub(crate) mod list;
#[cfg(feature = "live")]
pub(crate) mod live;
#[cfg(feature = "mutants")]
pub(crate) mod mutants;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod shrink;
pub(crate) mod soak;

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;
use hardtack_simulator::case::Case;
use hardtack_simulator::report::Breach;
use hardtack_simulator::{grid, menu, swarm, PROGRAM};

/// How to tell what came out.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For a person.
    Text,
    /// One JSON object per case and line.
    Json,
}

/// The case at a path or of a name.
pub(crate) fn case(place: &Path, seed: Option<u64>) -> Result<Case, String> {
    let text = match std::fs::read_to_string(place) {
        Ok(text) => text,
        Err(error) => match place.to_str().and_then(named) {
            Some(text) => text,
            None => {
                let name = place.display();
                return Err(format!(
                    "cannot read {name}: {error}. Give a scenario file, a plan, or a name: `hardtack-sim list` shows them"
                ));
            }
        },
    };
    let text = with_own_class(text, place.parent()).map_err(|problem| format!("{}: {problem}", place.display()))?;
    let case = Case::parse(&text, seed).map_err(|error| format!("{}: {error}", place.display()))?;
    if let Some(other) = case.written_elsewhere() {
        let name = place.display();
        eprintln!(
            "{name} was written by {other}, and this is {PROGRAM}: if it comes to something else, that may be why"
        );
    }
    Ok(case)
}

/// A scenario's text, with the profile file in it that it names. A name that ships, and what is no scenario, stays as it is.
fn with_own_class(text: String, beside: Option<&Path>) -> Result<String, String> {
    let Ok(mut table) = text.parse::<toml::Table>() else { return Ok(text) };
    let own = |table: &toml::Table| {
        let profile = table.get("fleet")?.as_table()?.get("profile")?.as_str()?;
        profile.ends_with(".toml").then(|| profile.to_owned())
    };
    let Some(profile) = own(&table) else { return Ok(text) };
    put_class(&mut table, &beside.unwrap_or(Path::new("")).join(profile))?;
    Ok(table.to_string())
}

/// Puts the class of device of a profile file into a scenario.
pub(crate) fn put_class(table: &mut toml::Table, file: &Path) -> Result<(), String> {
    let wrong = |problem: String| format!("profile {}: {problem}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let class: toml::Table = text.parse().map_err(|error| wrong(format!("is no TOML: {error}")))?;
    let name = class.get("name").and_then(toml::Value::as_str).unwrap_or_default().to_owned();
    let fleet = table.entry("fleet").or_insert_with(|| toml::Table::new().into());
    let fleet = fleet.as_table_mut().ok_or("`fleet` is no table")?;
    fleet.insert("profile".into(), name.into());
    fleet.insert("class".into(), class.into());
    Ok(())
}

/// The text of a case that has a name: one that ships, or a world that `fuzz` or `grid` draws.
fn named(name: &str) -> Option<String> {
    let drawn = || {
        if let Some(seed) = name.strip_prefix("swarm-") {
            return Some(swarm::draw(seed.parse().ok()?));
        }
        let (size, number) = name.strip_prefix("grid-")?.split_once('-')?;
        let size = size.parse().ok().filter(|size| (1..=grid::SIZE_MAX).contains(size))?;
        let number = number.parse().ok().filter(|number| *number < grid::count(size))?;
        Some(grid::draw(size, number))
    };
    menu::find(name).map(str::to_owned).or_else(drawn)
}

/// What is meant: how the property that is named is broken, else the one that a case breaks first.
pub(crate) fn breach_of(case: &Case, named: Option<&str>) -> Result<Breach, String> {
    let known = hardtack_simulator::report::PROPERTIES;
    if let Some(id) = named.filter(|id| !known.contains(id)) {
        return Err(format!("property {id:?} is not known: use one of {}", known.join(" ")));
    }
    let report = case.run();
    let breach = match named {
        Some(id) => report.breach(id),
        None => report.broken_first().and_then(Breach::of),
    };
    breach.ok_or_else(|| {
        let (name, seed) = (&report.scenario, report.seed);
        format!("{name} does not break {} with seed {seed}: try another", named.unwrap_or("anything"))
    })
}

/// Says how a long run goes on, where somebody watches: one line that is written over.
pub(crate) fn progress(line: &str) {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        // Nobody is helped by an error about a line that is gone the next moment.
        let _gone = write!(out, "\r\x1b[2K{line}").and_then(|()| out.flush());
    }
}

/// Takes the line away again.
pub(crate) fn progress_over() {
    progress("");
}

/// Writes a file that somebody asked for.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// How long it is since now.
#[expect(clippy::disallowed_methods, reason = "how long a run took is for the operator; no run depends on it")]
pub(crate) fn clock() -> impl Fn() -> Duration {
    let began = std::time::Instant::now();
    move || began.elapsed()
}

pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let since = clock();
    let done = work();
    (done, since().as_secs_f64())
}

/// The only way to stdout. Ends the program where that takes nothing, which is not so for a reader that left.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => {}
        // `head` has what it wanted.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            // Without stdout and stderr there is nobody to tell but by the number.
            let _ = writeln!(std::io::stderr(), "cannot write to stdout: {error}; free some space");
            std::process::exit(2);
        }
    }
}

/// Plants a bug, to see whether it is caught.
#[cfg(feature = "mutants")]
pub(crate) fn plant(name: Option<&str>) -> Result<(), String> {
    use hardtack::mutant::{plant, Mutant};
    let Some(name) = name else { return Ok(()) };
    let mutant = Mutant::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name);
    let known = || Mutant::ALL.map(|mutant| format!("{mutant:?}")).join(" ");
    plant(Some(mutant.ok_or_else(|| format!("no mutant {name:?}: use one of {}", known()))?));
    Ok(())
}
