//! Tells the simulator which commit it is made from: a run is a function of that and of the plan.

use std::path::Path;
use std::process::Command;

fn main() {
    // A source tree without its history, or within that of somebody else, is of no commit that this could know.
    let commit =
        git(&["ls-files", "--error-unmatch", "Cargo.toml"]).and_then(|_| git(&["rev-parse", "--short=12", "HEAD"]));
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ".", "../src", "../Cargo.lock"]);
    let changed = changed.is_some_and(|files| !files.is_empty());
    let said = match commit {
        Some(commit) if changed => format!("{commit} with changes"),
        Some(commit) => commit,
        None => "of an unknown commit".into(),
    };
    println!("cargo:rustc-env=HARDTACK_SIM_COMMIT={said}");
    for source in ["build.rs", "src", "../src", "../Cargo.lock"] {
        println!("cargo:rerun-if-changed={source}");
    }
    // Of a file that there is not cargo would say each time that it has changed.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo:rerun-if-changed={log}");
    }
}

/// What git says, where there is one and it has something to say.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
}
