//! How much fleet the simulator gets through in a second of one core: worlds without faults, so that nothing but the fleet
//! itself is weighed, with real tokens, real signatures and all checkers.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::line;

/// Each gateway decides four times an hour, over a metered link.
fn world(devices: u32, hours: u32) -> String {
    format!(
        r#"
schema = 1
name = "bench"
about = "Gateways with nothing in their way."
seed = 1
duration = "{hours}h"
heal = "{hours}h"
require = []

[fleet]
devices = {devices}
overlay = "link-lte-metered"

[grant]
uses_max = 1000000

[workload]
begin_every = "8h"
task_ttl = "12h"
task_uses = 1000
authorize_every = "15m"
"#
    )
}

/// What came out of a run.
struct Ran {
    device_hours_per_s: f64,
    decisions: f64,
    peak_mb: f64,
}

/// Device-hours per second, and how that grows with the fleet.
pub(super) fn model() {
    let Some(binary) = simulator() else {
        println!("sim_model: the simulator did not build, see above");
        return;
    };
    let Some(day) = run(&binary, &world(1000, 24), &[]) else { return };
    line("sim_model", day.device_hours_per_s, "dh/s", 1500.0, ">= 1,500: 1,000 devices for 24 h");
    println!("  {:.0} decisions, {:.1} MB at its peak", day.decisions, day.peak_mb);
    for devices in [20, 100, 1000, 10_000] {
        let Some(ran) = run(&binary, &world(devices, 2), &[]) else { return };
        println!("  {devices:>6} devices for 2 h: {:>6.0} dh/s, {:.1} MB", ran.device_hours_per_s, ran.peak_mb);
    }
}

/// Builds the simulator as it is run.
fn simulator() -> Option<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let folder = std::env::temp_dir().join("hardtack-bench-simulator");
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--locked", "--profile", "sim", "-p", "hardtack-simulator", "--bin", "hardtack-sim"])
        .arg("--target-dir")
        .arg(&folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::null())
        .status()
        .ok()?;
    status.success().then(|| folder.join("sim/hardtack-sim"))
}

/// Runs a world, and says why where that fails.
fn run(binary: &Path, text: &str, options: &[&str]) -> Option<Ran> {
    match try_run(binary, text, options) {
        Ok(ran) => Some(ran),
        Err(why) => {
            println!("  the simulator: {why}");
            None
        }
    }
}

fn try_run(binary: &Path, text: &str, options: &[&str]) -> Result<Ran, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let file = folder.path().join("bench.toml");
    std::fs::write(&file, text).map_err(|error| error.to_string())?;
    let mut child = Command::new(binary)
        .args(["run", "-o", "json"])
        .args(options)
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut peak_mb = 0.0_f64;
    let status = loop {
        peak_mb = peak_mb.max(peak_of(child.id()).unwrap_or(0.0));
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let mut output = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut output).map_err(|error| error.to_string())?;
    }
    let told: serde_json::Value = serde_json::from_str(&output).map_err(|_| format!("{status}: {output}"))?;
    let number = |name: &str| told[name].as_f64().ok_or_else(|| format!("{status}: no {name} in {output}"));
    Ok(Ran { device_hours_per_s: number("device_hours_per_s")?, decisions: number("decisions")?, peak_mb })
}

/// The most memory that a process had, while it lives.
fn peak_of(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<f64>().ok().map(|kib| kib * 1024.0 / 1e6)
}
