//! `hardtack profile`: list, show and lint firmware profiles.
//!
//! Owns: the subcommands and what they print.
//! Never: judges a number. `profile.rs` does.
//! Read next: `../profile.rs`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Exit, Failure};
use crate::profile::{kind_of, shipped, unsourced, Kind, Overlay, Profile, TextError, SHIPPED};
use crate::shell::sources::read_text;

/// Firmware profiles.
#[derive(clap::Subcommand, Debug)]
pub enum ProfileCommand {
    /// Say what is wrong with profiles, all of it at once.
    Lint {
        /// Files, or names of built-in profiles.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Lay this overlay over each class: a file, or a built-in name.
        #[arg(long, value_name = "FILE")]
        overlay: Option<PathBuf>,
    },
    /// List the built-in profiles.
    List,
    /// Print a built-in profile, a start for one's own.
    Show {
        /// Its name.
        name: String,
    },
}

/// What is to be printed, and how the command ends.
#[derive(Debug)]
pub struct Report {
    /// The exit code.
    pub exit: Exit,
    /// For a program.
    pub json: serde_json::Value,
    /// For a person.
    pub text: String,
}

/// What a line of `profile list` says.
#[derive(Serialize)]
struct Listed {
    name: &'static str,
    kind: &'static str,
    about: &'static str,
}

/// What the lint found in one file.
#[derive(Serialize)]
struct Linted {
    file: String,
    kind: &'static str,
    ok: bool,
    problems: Vec<String>,
    #[serde(flatten)]
    budget: Option<Budget>,
}

/// What a class writes and takes.
#[derive(Serialize)]
struct Budget {
    flash_bytes_per_day: u64,
    time_writes_per_day: u64,
    time_bytes_per_day: u64,
    rss_mib: u64,
}

impl Budget {
    fn of(profile: &Profile) -> Self {
        Self {
            flash_bytes_per_day: profile.flash_bytes_per_day(),
            time_writes_per_day: profile.time.leases_per_day(),
            time_bytes_per_day: profile.time_bytes_per_day(),
            rss_mib: profile.rss_mib(),
        }
    }

    fn text(&self) -> String {
        let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
        format!(
            "  flash {:.1} MiB a day at the design load, {:.1} of it for {} writes of the time; memory {} MiB at most",
            mib(self.flash_bytes_per_day),
            mib(self.time_bytes_per_day),
            self.time_writes_per_day,
            self.rss_mib
        )
    }
}

/// Carries out a subcommand.
///
/// # Errors
/// A file that cannot be read, a name that there is not. A profile with problems is an answer, with [`Exit::Failure`].
pub fn report(command: &ProfileCommand) -> Result<Report, Failure> {
    match command {
        ProfileCommand::Lint { files, overlay } => lint(files, overlay.as_deref()),
        ProfileCommand::List => Ok(list()),
        ProfileCommand::Show { name } => show(name),
    }
}

fn list() -> Report {
    let rows: Vec<Listed> = SHIPPED
        .iter()
        .map(|shipped| Listed { name: shipped.name, kind: kind_name(shipped.kind), about: about(shipped.text) })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let _ = writeln!(text, "{:<18} {:<8} {}", row.name, row.kind, row.about);
    }
    Report { exit: Exit::Done, json: serde_json::json!({ "profiles": rows }), text }
}

fn show(name: &str) -> Result<Report, Failure> {
    let found = SHIPPED.iter().find(|shipped| shipped.name == name).ok_or_else(|| unknown(name))?;
    let json = serde_json::json!({ "name": found.name, "kind": kind_name(found.kind), "toml": found.text });
    Ok(Report { exit: Exit::Done, json, text: found.text.to_owned() })
}

fn lint(files: &[PathBuf], overlay: Option<&Path>) -> Result<Report, Failure> {
    let overlay = overlay.map(|path| source(path, Kind::Overlay)).transpose()?;
    let mut rows = Vec::new();
    for path in files {
        let (file, text) =
            source(path, Kind::Class).or_else(|failure| source(path, Kind::Overlay).map_err(|_| failure))?;
        let kind = kind_of(&file, &text);
        let problems = match &kind {
            Ok(Kind::Class) => class_problems(&file, &text, overlay.as_ref()),
            Ok(Kind::Overlay) => overlay_problems(&file, &text),
            Err(error) => vec![error.to_string()],
        };
        let budget = Profile::parse(&file, &text).ok().as_ref().map(Budget::of);
        let kind = kind.map_or("unknown", kind_name);
        rows.push(Linted { file, kind, ok: problems.is_empty(), problems, budget });
    }
    let ok = rows.iter().all(|row| row.ok);
    let mut text = String::new();
    for row in &rows {
        let _ = writeln!(text, "{}: {}", row.file, if row.ok { "ok" } else { "cannot be used" });
        for line in
            row.problems.iter().map(|problem| format!("  {problem}")).chain(row.budget.as_ref().map(Budget::text))
        {
            let _ = writeln!(text, "{line}");
        }
    }
    let exit = if ok { Exit::Done } else { Exit::Failure };
    Ok(Report { exit, json: serde_json::json!({ "ok": ok, "files": rows }), text })
}

fn class_problems(file: &str, text: &str, overlay: Option<&(String, String)>) -> Vec<String> {
    let mut problems = without_source(file, text);
    let profile = match Profile::parse(file, text) {
        Ok(profile) => profile,
        Err(error) => return vec![error.to_string()],
    };
    problems.extend(profile.problems().iter().map(|problem| format!("{file}: {problem}")));
    if let Some((overlay_file, overlay)) = overlay {
        match Overlay::parse(overlay_file, overlay) {
            Ok(overlay) => problems.extend(merged_problems(profile, &overlay)),
            Err(error) => problems.push(error.to_string()),
        }
    }
    problems
}

/// An overlay has to work over every class that ships.
fn overlay_problems(file: &str, text: &str) -> Vec<String> {
    let mut problems = without_source(file, text);
    let overlay = match Overlay::parse(file, text) {
        Ok(overlay) => overlay,
        Err(error) => return vec![error.to_string()],
    };
    for class in SHIPPED.iter().filter(|shipped| shipped.kind == Kind::Class) {
        match Profile::parse(class.name, class.text) {
            Ok(profile) => problems.extend(merged_problems(profile, &overlay)),
            Err(error) => problems.push(error.to_string()),
        }
    }
    problems
}

/// What is wrong with a class only since the overlay lies over it.
fn merged_problems(class: Profile, overlay: &Overlay) -> Vec<String> {
    let before = class.problems();
    let merged = class.with(overlay);
    let new = merged.problems().into_iter().filter(|problem| !before.contains(problem));
    new.map(|problem| format!("{}: {problem}", merged.name)).collect()
}

fn without_source(file: &str, text: &str) -> Vec<String> {
    let complain = |line| {
        let what = "a number without its source; say in a comment where it comes from".to_owned();
        TextError { file: file.to_owned(), line, what }.to_string()
    };
    unsourced(text).into_iter().map(complain).collect()
}

/// The name and text of a file, or of the built-in profile of that name.
fn source(path: &Path, kind: Kind) -> Result<(String, String), Failure> {
    let name = path.display().to_string();
    if !name.contains('/') && !name.ends_with(".toml") {
        return shipped(&name, kind).map(|found| (name.clone(), found.text.to_owned())).ok_or_else(|| unknown(&name));
    }
    let refuse = |error| Failure::new(Exit::Failure, format!("cannot read {name}: {error}"), "check the path");
    read_text(path).map_err(refuse).map(|text| (name.clone(), text))
}

fn unknown(name: &str) -> Failure {
    let known: Vec<&str> = SHIPPED.iter().map(|shipped| shipped.name).collect();
    let advice = format!("use {}; a file's path holds a `/` or ends in .toml", known.join(", "));
    Failure::new(Exit::Failure, format!("there is no profile {name:?}"), advice)
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Class => "class",
        Kind::Overlay => "overlay",
    }
}

/// The first line of a profile says what it is for.
fn about(text: &'static str) -> &'static str {
    text.lines().next().unwrap_or("").trim_start_matches(['#', ' '])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lint_text(text: &str, overlay: Option<&str>) -> Report {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("board.toml");
        std::fs::write(&path, text).unwrap();
        let overlay = overlay.map(PathBuf::from);
        report(&ProfileCommand::Lint { files: vec![path], overlay }).unwrap()
    }

    #[test]
    fn every_shipped_profile_passes_the_lint_by_name() {
        let files = SHIPPED.iter().map(|shipped| shipped.name.into()).collect();
        let report = report(&ProfileCommand::Lint { files, overlay: Some("link-lte-metered".into()) }).unwrap();
        assert_eq!(report.exit, Exit::Done, "{}", report.text);
        assert_eq!(report.json["files"][2]["kind"], "overlay");
    }

    #[test]
    fn all_that_is_wrong_is_listed_at_once() {
        let generic = SHIPPED[0].text;
        let bad = generic.replace("lease_s = 60 ", "lease_s = 1 ").replace("window = 8  ", "window = 0\n#");
        let report = lint_text(&bad, None);
        assert_eq!(report.exit, Exit::Failure);
        for part in ["`time.lease_s`", "`link.window`", "without its source"] {
            assert!(report.text.contains(part), "{part} is not in {}", report.text);
        }
        assert_eq!(report.json["ok"], false);
        assert_eq!(report.json["files"][0]["problems"].as_array().unwrap().len(), 3);
        assert_eq!(lint_text("[", None).exit, Exit::Failure);
        assert_eq!(lint_text("overlay = 'x'\n[link]\nwindow = 0 # why\n", None).exit, Exit::Failure);
        assert_eq!(lint_text(generic, Some("link-lte-metered")).exit, Exit::Done);
    }

    #[test]
    fn a_name_that_there_is_not_lists_those_that_there_are() {
        let failure = report(&ProfileCommand::Show { name: "toaster".into() }).unwrap_err();
        assert!(failure.advice.contains("energy-armv7-1g"));
        let files = vec!["/nowhere/x.toml".into()];
        assert!(report(&ProfileCommand::Lint { files, overlay: None }).is_err());
        assert_eq!(report(&ProfileCommand::List).unwrap().text.lines().count(), SHIPPED.len());
    }
}
