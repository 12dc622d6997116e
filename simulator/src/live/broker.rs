//! A real mosquitto, set up as `hardtack broker config` does it.
//!
//! Owns: the process and its files. It is killed, by its own id, when this is dropped.
//! Never: says who may do what; the set-up does.
//! Read next: `site.rs`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hardtack::cli::Failure;
use hardtack::shell::cast::{failed, finish, path, Stage, PATIENCE};
use hardtack::shell::clock;

/// Debian keeps it where not every user's path leads.
const PROGRAMS: [&str; 2] = ["mosquitto", "/usr/sbin/mosquitto"];

/// Whether there is a mosquitto on this machine.
pub fn is_installed() -> bool {
    let found = |program: &&str| Command::new(program).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status();
    PROGRAMS.iter().any(|program| found(program).is_ok())
}

/// A broker, and while it is up its process.
pub(crate) struct Mosquitto {
    conf: PathBuf,
    ports: [u16; 2],
    process: Option<Child>,
}

impl Mosquitto {
    /// Sets up a fleet's broker on two free ports of the loopback interface, and starts it.
    pub(crate) fn start(stage: &Stage, fleet_dir: &Path) -> Result<Self, Failure> {
        let ports = [free_port()?, free_port()?];
        let [devices, service] = ports.map(|port| port.to_string());
        let config = ["-o", "json", "broker", "config", "--dir", path(fleet_dir), "--port", &devices];
        let made = stage.run(&[&config[..], &["--service-port", &service]].concat())?;
        let conf = made["conf"].as_str().ok_or_else(|| failed("broker config named no file", &made))?.into();
        let mut broker = Self { conf, ports, process: None };
        broker.restart()?;
        Ok(broker)
    }

    /// Where devices reach it.
    pub(crate) fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.ports[0]).into()
    }

    /// Whether it is up.
    pub(crate) fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Starts it again on what its folder holds, and waits until it listens.
    pub(crate) fn restart(&mut self) -> Result<(), Failure> {
        let run = |program: &&str| {
            let mut command = Command::new(program);
            command.arg("-c").arg(&self.conf).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().ok()
        };
        let started = PROGRAMS.iter().find_map(run);
        self.process = Some(started.ok_or_else(|| failed("no mosquitto can be started", "install it first"))?);
        let deadline = clock::now().boottime.0 + PATIENCE.as_millis() as u64;
        while !self.ports.iter().all(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).is_ok()) {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            if let Some(status) = ended {
                return Err(failed("mosquitto ended at once", status));
            }
            if clock::now().boottime.0 > deadline {
                return Err(failed("mosquitto does not listen", self.addr()));
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Ok(())
    }

    /// Ends it in order: it writes down what it keeps.
    pub(crate) fn stop(&mut self) -> Result<(), Failure> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        finish(&mut process)
    }

    /// Takes from one that has ended its sessions and retained messages; who may do what it remembers.
    pub(crate) fn forget(&self) -> Result<(), Failure> {
        let store = self.conf.with_file_name("data").join("mosquitto.db");
        std::fs::remove_file(&store).map_err(|error| failed("mosquitto had written down nothing", error))
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended by itself; either way it is gone afterwards.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn free_port() -> Result<u16, Failure> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound.map(|addr| addr.port()).map_err(|error| failed("no free port on the loopback interface", error))
}
