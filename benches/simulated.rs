//! How much fleet the simulator gets through in a second of one core: worlds without faults, so that nothing but the fleet
//! itself is weighed, with real tokens, real signatures and all checkers; the same world written plainly on what others
//! simulate with beside it.
//!
//! Figures are per second of processor time, user and system, which a busy machine leaves alone better than wall time.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::line;

/// Each gateway decides four times an hour, over a metered link. Somebody always holds a task, and one request in four is
/// one that must be refused. A world ends with its faults' time, and there are none.
fn world(devices: u32, hours: u32, seed: u32) -> String {
    let heal = hours * 60 - 20;
    format!(
        r#"
schema = 1
name = "bench"
about = "Gateways with nothing in their way."
seed = {seed}
duration = "{hours}h"
heal = "{heal}m"
require = []

[fleet]
devices = {devices}
overlay = "link-lte-metered"

[grant]
uses_max = 1000000
task_ttl_max = "12h"

[workload]
begin_every = "4h"
finish_every = "24h"
task_ttl = "12h"
task_uses = 1000
authorize_every = "15m"
"#
    )
}

/// What a program was given, and what it took.
struct Ran {
    lines: Vec<Value>,
    cpu_s: f64,
    wall_s: f64,
    peak_mb: f64,
}

impl Ran {
    /// The sum over all lines.
    fn sum(&self, name: &str) -> f64 {
        self.lines.iter().filter_map(|line| line[name].as_f64()).sum()
    }

    fn device_hours_per_s(&self) -> f64 {
        self.sum("device_hours") / self.cpu_s
    }

    fn say(&self, what: &str) {
        let per_hour = self.sum("decisions") / self.sum("device_hours");
        let (rate, cpu, wall, peak) = (self.device_hours_per_s(), self.cpu_s, self.wall_s, self.peak_mb);
        println!(
            "  {what}: {rate:.0} dh/s; {cpu:.1} s CPU, {wall:.1} s wall, {peak:.0} MB, {per_hour:.1} decisions/dh"
        );
    }
}

/// Device-hours per second of one core, and how that and the memory grow with the fleet.
pub(super) fn model() {
    told(try_model());
}

fn try_model() -> Result<(), String> {
    let day = worlds("model", 1000, 24, 1)?;
    line("sim_model", day.device_hours_per_s(), "dh/s", 1500.0, ">= 1,500: 1,000 devices for 24 h, per CPU second");
    day.say("1,000 devices for 24 h");
    // Of small fleets as many worlds as it takes to measure them.
    for (devices, seeds) in [(20, 50), (100, 10), (1000, 1), (10_000, 1)] {
        worlds("model", devices, 2, seeds)?.say(&format!("{devices} devices for 2 h"));
    }
    Ok(())
}

/// The same with bytes on the links and stores on disks.
pub(super) fn wire() {
    told(try_wire());
}

fn try_wire() -> Result<(), String> {
    let ran = worlds("wire", 1000, WIRE_HOURS, 1)?;
    let target = format!(">= 500: 1,000 devices for {WIRE_HOURS} h at the wire level, per CPU second");
    line("sim_wire", ran.device_hours_per_s(), "dh/s", 500.0, &target);
    ran.say(&format!("1,000 devices for {WIRE_HOURS} h"));
    Ok(())
}

/// At the wire level a shorter day, or the line alone would take many minutes.
const WIRE_HOURS: u32 = 4;

/// Worlds per second for who looks for bugs: many small ones in one process.
pub(super) fn seeds() {
    told(try_seeds());
}

fn try_seeds() -> Result<(), String> {
    let ran = worlds("model", 20, 6, 40)?;
    let per_s = ran.lines.len() as f64 / ran.cpu_s;
    line(
        "sim_seeds",
        per_s,
        "1/s",
        1500.0 / 120.0,
        "worlds of 20 devices for 6 h; sim_model's target is the reference",
    );
    ran.say("40 worlds");
    Ok(())
}

/// How long it takes until a failure among some two hundred power cuts is down to what it needs: budgets are written down
/// after the action, by a planted bug.
pub(super) fn shrink() {
    told(try_shrink());
}

fn try_shrink() -> Result<(), String> {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("simulator/scenarios/boot-loop.toml");
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let broken = ["--mutant", "CounterAfterAction", "--property", "I5.budget"];
    let mut shrink = Command::new(simulator()?);
    let ran = run(shrink
        .args(["shrink", "-o", "json", "--out"])
        .arg(folder.path().join("minimal.toml"))
        .args(broken)
        .arg(case))?;
    let (from, to) = (&ran.lines[0]["from"], &ran.lines[0]["to"]);
    line(
        "sim_shrink",
        ran.cpu_s,
        "s",
        ran.sum("runs"),
        "CPU seconds, and runs of the scenario boot-loop, until it is minimal",
    );
    println!("  {:.1} s wall, {:.0} MB; from {from}\n  to {to}", ran.wall_s, ran.peak_mb);
    Ok(())
}

/// The same world on tokio with paused time, and on turmoil, without checkers, faults, disks or a trace.
pub(super) fn peers() {
    told(try_peers());
}

fn try_peers() -> Result<(), String> {
    let peers = peers_built()?;
    let peer = |on: &str, devices: u32, hours: u32| {
        run(Command::new(&peers).args([on, &devices.to_string(), &hours.to_string()]))
    };
    let (own, tokio) = (worlds("model", 100, 24, 1)?, peer("tokio", 100, 24)?);
    let about = "100 devices for 24 h; tokio, paused, has no checkers, faults, disks";
    line("sim_tokio", own.device_hours_per_s(), "dh/s", tokio.device_hours_per_s(), about);
    own.say("here");
    tokio.say("tokio");
    for (devices, hours) in [(10, 24), (100, 2), (1000, 1)] {
        let (own, turmoil) = (worlds("model", devices, hours, 1)?, peer("turmoil", devices, hours)?);
        let about = format!("{devices} devices for {hours} h; turmoil, steps of 100 ms, has no checkers, disks");
        line("sim_turmoil", own.device_hours_per_s(), "dh/s", turmoil.device_hours_per_s(), &about);
        own.say("here");
        turmoil.say("turmoil");
    }
    Ok(())
}

fn told(tried: Result<(), String>) {
    if let Err(why) = tried {
        println!("  the simulator: {why}");
    }
}

/// The simulator as it is run, built once.
fn simulator() -> Result<&'static Path, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let arguments =
        ["--profile", "sim", "-p", "hardtack-simulator", "--features", "wire,mutants", "--bin", "hardtack-sim"];
    let built = BUILT.get_or_init(|| build(".", &arguments));
    built.as_deref().map_err(Clone::clone)
}

fn peers_built() -> Result<PathBuf, String> {
    build("benches/peers", &["--release", "--bin", "hardtack-peers"])
}

/// Builds a program, and says where cargo put it.
fn build(package: &str, arguments: &[&str]) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--locked", "--message-format", "json"])
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(package))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| error.to_string())?;
    let executable =
        |line: &[u8]| serde_json::from_slice::<Value>(line).ok()?["executable"].as_str().map(PathBuf::from);
    let built = output.stdout.split(|byte| *byte == b'\n').filter_map(executable).next_back();
    built.filter(|_| output.status.success()).ok_or_else(|| format!("it did not build: {}, see above", output.status))
}

/// Runs the bench's world under so many seeds in one process. All of them must hold.
fn worlds(level: &str, devices: u32, hours: u32, seeds: u32) -> Result<Ran, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let files: Vec<PathBuf> = (1..=seeds).map(|seed| folder.path().join(format!("bench-{seed}.toml"))).collect();
    for (file, seed) in files.iter().zip(1..) {
        std::fs::write(file, world(devices, hours, seed)).map_err(|error| error.to_string())?;
    }
    let ran = run(Command::new(simulator()?).args(["run", "-o", "json", "--level", level]).args(files))?;
    let failed = |line: &&Value| line["properties"].as_array().into_iter().flatten().any(|one| one["status"] == "fail");
    match ran.lines.iter().find(failed) {
        Some(line) => Err(format!("a world without faults failed: {line}")),
        None => Ok(ran),
    }
}

/// Runs a program that tells of itself in lines of JSON.
#[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
fn run(command: &mut Command) -> Result<Ran, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let said = folder.path().join("said");
    let into = std::fs::File::create(&said).map_err(|error| error.to_string())?;
    let (began, before) = (Instant::now(), children_cpu_s()?);
    let mut child =
        command.stdin(Stdio::null()).stdout(into).stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
    let mut peak_mb = 0.0_f64;
    let status = loop {
        peak_mb = peak_mb.max(peak_of(child.id()).unwrap_or(0.0));
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    let (wall_s, cpu_s) = (began.elapsed().as_secs_f64(), children_cpu_s()? - before);
    let said = std::fs::File::open(said).map_err(|error| error.to_string())?;
    let lines: Result<Vec<Value>, String> = std::io::BufReader::new(said)
        .lines()
        .map(|line| line.map_err(|error| error.to_string()))
        .map(|line| serde_json::from_str(&line?).map_err(|error| format!("{status}: {error}")))
        .collect();
    match lines? {
        lines if lines.is_empty() => Err(format!("{command:?} ended with {status} and said nothing")),
        lines => Ok(Ran { lines, cpu_s, wall_s, peak_mb }),
    }
}

/// Processor time of all programs that were run so far and waited for, in user and system mode.
fn children_cpu_s() -> Result<f64, String> {
    // The kernel counts in hundredths of a second for whoever reads this.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(|error| error.to_string())?;
    let (_, after_name) = stat.rsplit_once(')').ok_or("/proc/self/stat holds no name")?;
    let waited_for = after_name.split_whitespace().skip(13).take(2).map(|field| field.parse::<f64>().unwrap_or(0.0));
    Ok(waited_for.sum::<f64>() / TICKS)
}

/// The most memory that a process had, while it lives.
fn peak_of(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<f64>().ok().map(|kib| kib * 1024.0 / 1e6)
}
