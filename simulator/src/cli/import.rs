//! `hardtack-sim import`.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use hardtack_simulator::case::Case;
use hardtack_simulator::import::{import as read, Wanted, BYTES_MAX};

use super::{print, with_own_class, write};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// CSV whose first line names its columns: time,device,state (up or down), or start,end,device. Times are RFC 3339 or
    /// seconds; without device, all gateways are meant.
    #[arg(value_name = "LOG.csv")]
    log: PathBuf,
    /// How many gateways, those that the log names counted in [default: those].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    devices: Option<u32>,
    /// What the gateways can bear: the name of a shipped class of device, or a profile file, which ends in .toml.
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
    /// The scenario's seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the scenario here.
    #[arg(short = 'o', long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn import(args: &Args) -> Result<ExitCode, String> {
    let path = &args.log;
    let wrong = |why: String| format!("{}: {why}", path.display());
    let file = File::open(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let mut text = String::new();
    let read_bytes = file.take(BYTES_MAX + 1).read_to_string(&mut text);
    read_bytes.map_err(|error| wrong(format!("cannot be read: {error}; a log is a text in UTF-8")))?;
    if text.len() as u64 > BYTES_MAX {
        return Err(wrong(format!("more than {} MiB: cut the log into parts", BYTES_MAX >> 20)));
    }
    let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("log").to_owned();
    let is_file = |profile: &String| profile.ends_with(".toml");
    let shipped = args.profile.clone().filter(|profile| !is_file(profile));
    let wanted = Wanted { name, devices: args.devices, profile: shipped, seed: args.seed };
    let mut imported = read(&text, &wanted).map_err(|error| wrong(error.to_string()))?;
    if let Some(own) = args.profile.as_ref().filter(|profile| is_file(profile)) {
        imported.text = with_profile(&imported.text, own)?;
    }
    for note in &imported.notes {
        eprintln!("hardtack-sim: {note}");
    }
    match &args.out {
        Some(path) => write(path, &imported.text)?,
        None => print(imported.text.trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}

/// The scenario with a profile file, which it names wherever it is moved to.
fn with_profile(text: &str, file: &str) -> Result<String, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("profile {file}: {error}");
    let file = std::fs::canonicalize(file).map_err(|error| wrong(&error))?;
    let line = format!("profile = {}", toml::Value::from(file.to_string_lossy().into_owned()));
    let text = text.replacen("[fleet]\n", &format!("[fleet]\n{line}\n"), 1);
    let whole = with_own_class(text.clone(), None)?;
    Case::parse(&whole, None).map_err(|error| wrong(&error))?;
    Ok(text)
}
