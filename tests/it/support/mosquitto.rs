//! A real mosquitto of the test's own.
//!
//! Owns: the process, its folder and its port. It is killed, by its own id, when the test drops it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hardtack::ids::{DeviceId, FleetId};
use hardtack::shell::broker::{BrokerFolder, Setup};
use hardtack::shell::x509::Validity;
use hardtack::shell::{clock, entropy};

/// A running broker.
pub(crate) struct Mosquitto {
    process: Child,
    conf: PathBuf,
    pub(crate) port: u16,
    _dir: Option<tempfile::TempDir>,
}

impl Mosquitto {
    /// A broker without TLS that lets everybody do everything.
    pub(crate) fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("mosquitto.conf");
        let port = free_port();
        let text = format!("user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nlog_dest stderr\n");
        std::fs::write(&conf, text).unwrap();
        Self::start(conf, port, Some(dir))
    }

    /// A broker set up as `hardtack broker config` does it.
    pub(crate) fn secured(fleet_dir: &Path, fleet: &FleetId, devices: &[DeviceId]) -> Self {
        let now = clock::wall().unwrap();
        Self::secured_with(fleet_dir, fleet, devices, Validity::days(now, 825))
    }

    /// The same, with a server certificate of a validity of one's own.
    pub(crate) fn secured_with(fleet_dir: &Path, fleet: &FleetId, devices: &[DeviceId], validity: Validity) -> Self {
        let folder = BrokerFolder::of(fleet_dir, fleet);
        folder.make_authority().unwrap();
        let port = free_port();
        let setup = Setup { hosts: Vec::new(), port, validity, plugin: None, devices: devices.to_vec() };
        let configured = folder.configure(&setup, &mut entropy::rng()).unwrap();
        Self::start(configured.conf, port, None)
    }

    fn start(conf: PathBuf, port: u16, dir: Option<tempfile::TempDir>) -> Self {
        let process = run(&conf);
        let mut broker = Self { process, conf, port, _dir: dir };
        broker.wait_ready();
        broker
    }

    /// Starts it again, as it was before [`Mosquitto::kill`].
    pub(crate) fn restart(&mut self) {
        self.process = run(&self.conf);
        self.wait_ready();
    }

    /// Ends it without a warning.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    fn wait_ready(&mut self) {
        for _ in 0..200 {
            if TcpStream::connect(self.addr()).is_ok() {
                return;
            }
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("mosquitto ended at once, {status}: {}", self.conf.display());
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("mosquitto does not listen on {}", self.port);
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn run(conf: &Path) -> Child {
    // Debian keeps it where not every user's path leads.
    let found = ["mosquitto", "/usr/sbin/mosquitto"].iter().find_map(|program| {
        let mut command = Command::new(program);
        // Its log is for a person who debugs: HARDTACK_TEST_BROKER_LOG=1 shows it.
        let log = match std::env::var_os("HARDTACK_TEST_BROKER_LOG") {
            Some(_) => Stdio::inherit(),
            None => Stdio::null(),
        };
        command.arg("-c").arg(conf).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().ok()
    });
    found.expect("mosquitto is not installed: tests/run installs it, or `apt-get install mosquitto`")
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
