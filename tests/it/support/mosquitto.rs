//! A real mosquitto of the test's own.
//!
//! Owns: the process, its folder and its port. It is killed, by its own id, when the test drops it.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hardtack::fleet::readers::Reader;
use hardtack::ids::{DeviceId, FleetId, KeyId};
use hardtack::shell::broker::{BrokerFolder, Ports, Setup};
use hardtack::shell::x509::Validity;
use hardtack::shell::{clock, entropy};
use rustix::process::{kill_process, Pid, Signal};

/// A running broker.
pub(crate) struct Mosquitto {
    process: Child,
    conf: PathBuf,
    pub(crate) port: u16,
    /// The service's, of a secured one.
    service_port: u16,
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
        Self::start(conf, Ports { devices: port, service: port }, Some(dir))
    }

    /// A broker without TLS that lets everybody do everything, and keeps what it has beyond an end in order.
    pub(crate) fn keeping() -> Self {
        let mut broker = Self::open();
        broker.kill();
        let data = broker.conf.with_file_name("data");
        std::fs::create_dir(&data).unwrap();
        let text = std::fs::read_to_string(&broker.conf).unwrap();
        let kept = format!("{text}persistence true\npersistence_location {}/\n", data.display());
        std::fs::write(&broker.conf, kept).unwrap();
        broker.restart();
        broker
    }

    /// A broker without TLS where each user has the topics of this access list, by the name that it claims.
    pub(crate) fn by_user(access: &str) -> Self {
        let mut broker = Self::open();
        broker.kill();
        let list = broker.conf.with_file_name("access");
        std::fs::write(&list, access).unwrap();
        let text = std::fs::read_to_string(&broker.conf).unwrap();
        std::fs::write(&broker.conf, format!("{text}acl_file {}\n", list.display())).unwrap();
        broker.restart();
        broker
    }

    /// A broker set up as `hardtack broker config` does it.
    pub(crate) fn secured(fleet_dir: &Path, fleet: &FleetId, devices: &[DeviceId]) -> Self {
        let now = clock::wall().unwrap();
        Self::secured_with(fleet_dir, fleet, devices, Validity::days(now, 825))
    }

    /// The same, with a server certificate of a validity of one's own.
    pub(crate) fn secured_with(fleet_dir: &Path, fleet: &FleetId, devices: &[DeviceId], validity: Validity) -> Self {
        BrokerFolder::of(fleet_dir, fleet).make_authority().unwrap();
        let ports = Ports { devices: free_port(), service: free_port() };
        let conf = configure(fleet_dir, fleet, ports, (devices, &[]), validity);
        Self::start(conf, ports, None)
    }

    /// Sets it up again with a server certificate of another validity, and starts it again.
    pub(crate) fn certify(&mut self, fleet_dir: &Path, fleet: &FleetId, validity: Validity) {
        self.stop();
        let ports = Ports { devices: self.port, service: self.service_port };
        configure(fleet_dir, fleet, ports, (&[], &[]), validity);
        self.restart();
    }

    /// The same, with a role for each of these emergency keys.
    pub(crate) fn secured_with_keys(fleet_dir: &Path, fleet: &FleetId, devices: &[DeviceId], keys: &[KeyId]) -> Self {
        let ports = Ports { devices: free_port(), service: free_port() };
        let validity = Validity::days(clock::wall().unwrap(), 825);
        let conf = configure(fleet_dir, fleet, ports, (devices, keys), validity);
        Self::start(conf, ports, None)
    }

    fn start(conf: PathBuf, ports: Ports, dir: Option<tempfile::TempDir>) -> Self {
        let process = run(&conf);
        let mut broker = Self { process, conf, port: ports.devices, service_port: ports.service, _dir: dir };
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

    /// Ends it in order: it writes down what it keeps.
    pub(crate) fn stop(&mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        self.process.wait().unwrap();
    }

    /// Makes one that has ended forget sessions and retained messages; who may do what it remembers.
    pub(crate) fn forget(&self) {
        std::fs::remove_file(self.store()).unwrap();
    }

    /// Sessions and retained messages of one that has ended.
    pub(crate) fn kept(&self) -> Vec<u8> {
        std::fs::read(self.store()).unwrap()
    }

    /// Puts [`Mosquitto::kept`] of another time back.
    pub(crate) fn keep(&self, kept: &[u8]) {
        std::fs::write(self.store(), kept).unwrap();
    }

    fn store(&self) -> PathBuf {
        self.conf.with_file_name("data").join("mosquitto.db")
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    fn wait_ready(&mut self) {
        for _ in 0..200 {
            let open = |port: u16| TcpStream::connect(("127.0.0.1", port)).is_ok();
            if open(self.port) && open(self.service_port) {
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

fn configure(
    fleet_dir: &Path,
    fleet: &FleetId,
    ports: Ports,
    (devices, keys): (&[DeviceId], &[KeyId]),
    validity: Validity,
) -> PathBuf {
    let reader = |device: &DeviceId| {
        let feeds = ["main".parse().unwrap()].into();
        Reader { device: device.clone(), feeds, former: [].into() }
    };
    let devices = devices.iter().map(reader).collect();
    let setup = Setup { hosts: Vec::new(), ports, validity, plugin: None, devices, emergency: keys.to_vec() };
    BrokerFolder::of(fleet_dir, fleet).configure(&setup, &mut entropy::rng()).unwrap().conf
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
