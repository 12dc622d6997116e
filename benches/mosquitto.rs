//! A real broker, where one is installed.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A mosquitto of the bench's own.
pub(super) struct Mosquitto {
    process: Child,
    pub(super) url: String,
    _folder: tempfile::TempDir,
}

impl Mosquitto {
    /// None if it is not installed.
    pub(super) fn start() -> Option<Self> {
        let folder = tempfile::tempdir().ok()?;
        let conf: PathBuf = folder.path().join("mosquitto.conf");
        let port = TcpListener::bind(("127.0.0.1", 0)).ok()?.local_addr().ok()?.port();
        let text = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nset_tcp_nodelay true\n"
        );
        std::fs::write(&conf, text).ok()?;
        // Debian keeps it where not every user's path leads.
        let process = ["mosquitto", "/usr/sbin/mosquitto"].iter().find_map(|program| {
            let mut command = Command::new(program);
            command.arg("-c").arg(&conf).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
        })?;
        let broker = Self { process, url: format!("mqtt://127.0.0.1:{port}"), _folder: folder };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(broker);
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        None
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
