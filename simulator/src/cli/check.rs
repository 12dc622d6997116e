//! `hardtack-sim check`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use hardtack_simulator::export::{judge, Revocations, Verdict};
use hardtack_simulator::report::Status;

use super::{print, Output};

/// The most bytes of a file with revocations.
const REVOCATIONS_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What `hardtack fleet audit export` or `hardtack audit export` wrote, or `run --trace`; `-` for stdin.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What was revoked, as `hardtack fleet revocations export` wrote it: what a device allowed after it held that is found.
    #[arg(long, value_name = "FILE")]
    revocations: Vec<PathBuf>,
    /// How to tell what came out.
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Output::Text)]
    output: Output,
}

pub(crate) fn check(args: &Args) -> Result<ExitCode, String> {
    let mut revocations = Revocations::default();
    for path in &args.revocations {
        let wrong = |why: String| format!("{}: {why}", path.display());
        let size = path.metadata().map_err(|error| wrong(format!("cannot be read: {error}")))?.len();
        if size > REVOCATIONS_BYTES_MAX {
            return Err(wrong("more bytes than any file with revocations has".into()));
        }
        let bytes = std::fs::read(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
        revocations.take(&bytes).map_err(|why| {
            wrong(format!("no file with revocations: {why}; write it with `hardtack fleet revocations export`"))
        })?;
    }
    let mut all_pass = true;
    for path in &args.files {
        let verdict = judge(open(path)?, &revocations).map_err(|error| format!("{}: {error}", path.display()))?;
        all_pass &= verdict.verdict == Status::Pass;
        print(&match args.output {
            Output::Json => json(path, &verdict).to_string(),
            Output::Text => text(path, &verdict),
        });
    }
    Ok(if all_pass { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn open(path: &Path) -> Result<Box<dyn BufRead>, String> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

fn json(path: &Path, verdict: &Verdict) -> serde_json::Value {
    let mut value = serde_json::json!(verdict);
    value["file"] = path.display().to_string().into();
    value
}

fn text(path: &Path, verdict: &Verdict) -> String {
    let Verdict { evidence, verdict: stands, devices, records, events, properties } = verdict;
    let mut text = format!(
        "{} {}: {evidence} of {devices} gateways, {records} records, {events} events\n",
        path.display(),
        stands.name()
    );
    for property in properties {
        text.push_str(&format!("  {:<12} {:<8} {:>9}\n", property.id, property.status.name(), property.checked));
        if let Some(said) = property.witness.as_deref().or(property.why) {
            text.push_str(&format!("             {said}\n"));
        }
    }
    text.push_str(match *evidence {
        "export" => {
            "  by what is signed, under the keys that the file names; what is written beside it in plain, and other keys:\n  \
             `hardtack audit verify --key`. That segments are missing at the end of the file nothing in it can tell"
        }
        _ => "  a trace does not tell which faults suspend which clause: after a storage that was put back, what went back is its doing",
    });
    text
}
