//! The bench world of the simulator (`benches/simulated.rs` beside this), written plainly on what others simulate with, for
//! the numbers beside its own: `hardtack-peers tokio|turmoil DEVICES HOURS`.
//!
//! Owns: the command line, and one line of output: device-hours, decisions, and how many of them allowed.
//! Never: checks anything, breaks anything, or hashes anything. Neither do the worlds: that is the simulator's.
//! Read next: `party.rs` for who takes part, `plain.rs` and `storm.rs` for the two worlds.

#![expect(clippy::print_stdout, reason = "it prints what came out")]

mod hub;
mod party;
mod plain;
mod programs;
mod storm;

use std::process::ExitCode;
use std::time::Duration;

use crate::programs::Counts;

/// Who takes part, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) devices: u32,
    pub(crate) duration: Duration,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [on, devices, hours] = arguments.as_slice() else {
        eprintln!("usage: hardtack-peers tokio|turmoil DEVICES HOURS");
        return ExitCode::from(2);
    };
    let (Ok(devices), Ok(hours)) = (devices.parse::<u32>(), hours.parse::<u32>()) else {
        eprintln!("hardtack-peers: {devices:?} and {hours:?} must be whole numbers");
        return ExitCode::from(2);
    };
    // As the simulator does.
    hardtack::wire::verified::remember();
    let size = Size { devices, duration: Duration::from_secs(u64::from(hours) * 3600) };
    let run = match on.as_str() {
        "tokio" => plain::run(size),
        "turmoil" => storm::run(size),
        other => Err(format!("no world on {other:?}: tokio or turmoil")),
    };
    match run {
        Ok(Counts { decisions, allowed }) => {
            let device_hours = u64::from(devices) * u64::from(hours);
            println!(r#"{{"device_hours":{device_hours},"decisions":{decisions},"allowed":{allowed}}}"#);
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("hardtack-peers: {problem}");
            ExitCode::FAILURE
        }
    }
}
