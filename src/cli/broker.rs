//! `hardtack broker`: set up a broker, and ask a live one whether it holds to its set-up.
//!
//! Owns: the subcommands and what they print.
//! Never: says who may do what. `shell/broker/dynsec.rs` does.
//! Read next: `../shell/broker/mod.rs`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::profile::Report;
use super::{Exit, Failure};
use crate::fleet::readers::{readers, Reader};
use crate::ids::{DeviceId, FleetId, KeyId};
use crate::shell::broker::check::{self, CheckError, Expected, Finding};
use crate::shell::broker::{BrokerError, BrokerFolder, Ports, Setup};
use crate::shell::ledger::Ledger;
use crate::shell::mqtt::BrokerUrl;
use crate::shell::x509::{CertificateError, Validity, SERVER_DAYS};
use crate::shell::{clock, entropy};
use crate::time::Timestamp;
use crate::wire::bundle::EmergencyKey;

/// The fleet's broker.
#[derive(clap::Subcommand, Debug)]
pub enum BrokerCommand {
    /// Ask a running broker, as each role, whether it allows and denies what it should
    Check {
        /// The fleet's folder
        #[arg(long, value_name = "DIR", env = "HARDTACK_FLEET_DIR")]
        dir: PathBuf,
        /// The broker: mqtts://HOST:PORT
        #[arg(long, value_name = "URL")]
        url: BrokerUrl,
    },
    /// Make a server certificate and a set-up for mosquitto
    Config {
        /// The fleet's folder
        #[arg(long, value_name = "DIR", env = "HARDTACK_FLEET_DIR")]
        dir: PathBuf,
        /// Names and addresses that devices reach the broker by, besides the local ones
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        host: Vec<String>,
        /// The port it listens on for devices
        #[arg(long, default_value_t = 8883, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
        /// The port it listens on for the fleet's service, which finds it by itself [default: the one beside --port]
        #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
        service_port: Option<u16>,
        /// Days that the server certificate is valid
        #[arg(long, default_value_t = SERVER_DAYS, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// mosquitto's dynamic-security plugin, where it is not in its usual place
        #[arg(long, value_name = "FILE")]
        plugin: Option<PathBuf>,
    },
    /// Run the embedded broker, without TLS and without roles
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    Run {
        /// The port it listens on, on the loopback interface
        #[arg(long)]
        port: u16,
    },
}

/// Carries out a subcommand.
///
/// # Errors
/// A folder that is no fleet's, a broker that cannot be asked. A broker that answers wrongly is an answer, with
/// [`Exit::Failure`].
pub fn report(command: &BrokerCommand) -> Result<Report, Failure> {
    match command {
        BrokerCommand::Check { dir, url } => ask(dir, url),
        BrokerCommand::Config { dir, host, port, service_port, days, plugin } => {
            let validity = Validity::days(now()?, *days);
            let (devices, emergency) = known(dir)?;
            let ports = ports(*port, *service_port)?;
            let setup = Setup { hosts: host.clone(), ports, validity, plugin: plugin.clone(), devices, emergency };
            configure(dir, &setup)
        }
        #[cfg(feature = "demo")]
        BrokerCommand::Run { port } => match crate::shell::embedded::run(*port) {
            Ok(()) => Ok(Report { exit: Exit::Done, json: json!({}), text: String::new() }),
            Err(error) => Err(Failure::new(Exit::Failure, error, "choose another --port")),
        },
    }
}

fn ports(devices: u16, service: Option<u16>) -> Result<Ports, Failure> {
    let beside = devices.checked_add(1).unwrap_or(devices - 1);
    match service.unwrap_or(beside) {
        same if same == devices => {
            let what = format!("devices and the fleet's service cannot both have port {devices}");
            Err(Failure::new(Exit::Usage, what, "give --service-port another one"))
        }
        service => Ok(Ports { devices, service }),
    }
}

fn configure(dir: &Path, setup: &Setup) -> Result<Report, Failure> {
    let folder = BrokerFolder::of(dir, &fleet_name(dir)?);
    let configured = folder.configure(setup, &mut entropy::rng()).map_err(|error| folder_failure(&error))?;
    let conf = configured.conf.display().to_string();
    let mut text = format!("wrote {conf}\n");
    let _ = writeln!(text, "certificate for {}, until {}", configured.hosts.join(", "), configured.until);
    let ports = setup.ports;
    let _ = writeln!(text, "port {} is for devices, {} for `hardtack fleet serve`", ports.devices, ports.service);
    let _ = writeln!(text, "{} devices admitted; `hardtack fleet serve` admits those to come", configured.devices);
    let emergency = setup.emergency.len();
    if emergency > 0 {
        let _ = writeln!(text, "{emergency} emergency keys admitted, each by the certificate of its kit");
    }
    let _ = writeln!(text, "next: mosquitto -c {conf}");
    let _ = writeln!(text, "then: hardtack broker check --dir {} --url {}", dir.display(), configured.url);
    let json = json!({
        "conf": conf,
        "url": configured.url,
        "service_port": ports.service,
        "hosts": configured.hosts,
        "not_after": configured.until.to_string(),
        "devices": configured.devices,
        "emergency_keys": emergency,
    });
    Ok(Report { exit: Exit::Done, json, text })
}

fn ask(dir: &Path, url: &BrokerUrl) -> Result<Report, Failure> {
    let folder = BrokerFolder::of(dir, &fleet_name(dir)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot start: {error}"), "free some memory"))?;
    let findings = runtime.block_on(check::run(&folder, url, now()?, &mut entropy::rng()));
    let findings = findings.map_err(|error| match &error {
        CheckError::Folder(error) => folder_failure(error),
        CheckError::Administration { .. } => Failure::new(
            Exit::Failure,
            &error,
            "start the broker with the set-up of `hardtack broker config`, and start it again after each new one",
        ),
    })?;
    Ok(told(&findings))
}

fn told(findings: &[Finding]) -> Report {
    let wrong = findings.iter().filter(|finding| !finding.ok).count();
    let mut text = String::new();
    for finding in findings {
        let verdict = if finding.ok { "ok   " } else { "WRONG" };
        let expected = match finding.expected {
            Expected::Allowed => "allow",
            Expected::Denied => "deny",
        };
        let _ = writeln!(text, "{verdict} {expected:5} {:14} {:72} {}", finding.role, finding.act, finding.found);
    }
    let _ = match wrong {
        0 => writeln!(text, "all {} hold", findings.len()),
        _ => {
            writeln!(text, "{wrong} of {} do not hold: set the broker up with `hardtack broker config`", findings.len())
        }
    };
    let exit = if wrong == 0 { Exit::Done } else { Exit::Failure };
    Report { exit, json: json!({ "ok": wrong == 0, "findings": findings }), text }
}

fn now() -> Result<Timestamp, Failure> {
    clock::wall().ok_or_else(|| Failure::new(Exit::Failure, "the clock says a time before 1970", "set it"))
}

fn folder_failure(error: &BrokerError) -> Failure {
    // The messages of this kind end with what to do.
    let exit = match error {
        BrokerError::Certificate(CertificateError::Host(_)) => Exit::Usage,
        BrokerError::Certificate(_)
        | BrokerError::File(_)
        | BrokerError::Key(_)
        | BrokerError::NoAuthority(_)
        | BrokerError::NoPlugin
        | BrokerError::Path(_)
        | BrokerError::Unreadable { .. } => Exit::Failure,
    };
    Failure::new(exit, error, "")
}

/// The fleet's name, from the folder's `fleet.toml`.
fn fleet_name(dir: &Path) -> Result<FleetId, Failure> {
    #[derive(serde::Deserialize)]
    struct Named {
        name: FleetId,
    }
    let path = dir.join("fleet.toml");
    let no_fleet = |why: String| {
        let what = format!("{} is no fleet's folder: {why}", dir.display());
        Failure::new(Exit::Failure, what, "make one with `hardtack fleet init`, or name it with --dir")
    };
    let text = std::fs::read_to_string(&path).map_err(|error| no_fleet(format!("fleet.toml: {error}")))?;
    toml::from_str::<Named>(&text).map(|named| named.name).map_err(|error| no_fleet(error.message().to_owned()))
}

/// Devices that the folder knows and the feeds that they read, and emergency keys that the newest trust bundle names. A folder
/// whose fleet has no ledger yet, or none any more, knows of neither keys nor feeds.
fn known(dir: &Path) -> Result<(Vec<Reader>, Vec<KeyId>), Failure> {
    let (ledger, devices) = (dir.join("fleet.db"), devices(dir));
    if !ledger.exists() {
        let blind = |device| Reader { device, feeds: BTreeSet::new(), former: BTreeSet::new() };
        return Ok((devices.into_iter().map(blind).collect(), Vec::new()));
    }
    let ledger = Ledger::open(&ledger)?;
    let book = ledger.book();
    Ok((readers(book, devices), book.trust().emergency.iter().map(EmergencyKey::id).collect()))
}

/// Devices that the folder knows, by the names of their entries.
fn devices(dir: &Path) -> Vec<DeviceId> {
    let entries = std::fs::read_dir(dir.join("devices")).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let path = entry.path();
        let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
        name?.to_str()?.parse::<DeviceId>().ok()
    });
    named.filter(|device| !crate::shell::x509::is_reserved(device)).collect()
}
