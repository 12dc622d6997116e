//! Who plays in the demo: broker, fleet service and agents, each a child process of this very binary.
//!
//! Owns: starting them, waiting for what they log, killing them.
//! Never: leaves one behind: each is killed when its handle is dropped.
//! Read next: `story.rs`.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use serde_json::Value;

use super::super::{Exit, Failure};
use crate::shell::client::Client;
use crate::shell::clock;

/// The longest that anything in the story is waited for.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A child process that logs JSON lines to stderr.
pub(super) struct Player {
    child: Child,
    log: Receiver<Value>,
    seen: Vec<Value>,
}

impl Player {
    /// Starts this binary with arguments and environment.
    pub(super) fn start<S: AsRef<OsStr>>(args: &[S], env: &[(&str, String)]) -> Result<Self, Failure> {
        let mut command = binary()?;
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().map_err(|error| failed("a child process cannot be started", error))?;
        let stderr = child.stderr.take().ok_or_else(|| failed("a child process has no stderr", ""))?;
        let (sender, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(value).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, log, seen: Vec::new() })
    }

    /// Waits until a line with this event is logged for which `fits` holds.
    pub(super) fn wait(&mut self, event: &str, fits: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
        let deadline = clock::now().boottime.0 + PATIENCE.as_millis() as u64;
        loop {
            let left = deadline.saturating_sub(clock::now().boottime.0);
            match self.log.recv_timeout(Duration::from_millis(left)) {
                Ok(line) => {
                    let found = line["event"] == event && fits(&line);
                    self.seen.push(line.clone());
                    if found {
                        return Ok(line);
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let tail: Vec<String> = self.seen.iter().rev().take(8).rev().map(Value::to_string).collect();
                    return Err(failed(format!("no `{event}` was logged; the last lines were"), tail.join("\n")));
                }
            }
        }
    }

    /// The events logged so far, in order.
    pub(super) fn events(&mut self) -> Vec<String> {
        self.seen.extend(self.log.try_iter());
        self.seen.iter().filter_map(|line| line["event"].as_str().map(str::to_owned)).collect()
    }

    /// SIGKILL, and gone.
    pub(super) fn kill(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One gateway: its folders and, while it is up, its agent.
pub(super) struct Gateway {
    pub(super) id: &'static str,
    state: PathBuf,
    run: PathBuf,
    pub(super) agent: Option<Player>,
    pub(super) decisions: Vec<Value>,
}

impl Gateway {
    pub(super) fn new(id: &'static str, folder: &Path) -> Self {
        let (state, run) = (folder.join(id), folder.join(format!("run-{id}")));
        Self { id, state, run, agent: None, decisions: Vec::new() }
    }

    /// Runs a command of the device's side to its end.
    pub(super) fn command(&self, args: &[&str]) -> Result<Value, Failure> {
        let mut all = vec!["--state-dir", path(&self.state), "--run-dir", path(&self.run), "-o", "json"];
        all.extend(args);
        run(&all)
    }

    /// Starts the agent and waits until it decides. `clock_s` shifts its wall clock.
    pub(super) fn start(&mut self, broker: SocketAddr, clock_s: i64) -> Result<(), Failure> {
        let url = format!("mqtt://{broker}");
        let args = ["--state-dir", path(&self.state), "--run-dir", path(&self.run), "agent", "run", "--broker", &url];
        let mut agent = Player::start(&args, &[("HARDTACK_TEST_CLOCK_OFFSET_S", clock_s.to_string())])?;
        agent.wait("agent.ready", |_| true)?;
        self.agent = Some(agent);
        Ok(())
    }

    /// The wallet's own credentials, as a thief with the disk would read them.
    pub(super) fn wallet_files(&self) -> Result<Vec<Vec<u8>>, Failure> {
        let entries = std::fs::read_dir(self.state.join("wallet")).map_err(|error| failed("no wallet", error))?;
        let tasks =
            entries.filter_map(Result::ok).filter(|entry| entry.file_name().to_string_lossy().starts_with("task-"));
        tasks.map(|entry| std::fs::read(entry.path()).map_err(|error| failed("unreadable wallet", error))).collect()
    }

    fn client(&self) -> Client {
        Client::new(&self.run.join("agent.sock"))
    }

    pub(super) fn get(&self, route: &str) -> Result<Value, Failure> {
        let answer = self.client().get(route).map_err(|error| failed("the agent does not answer", error))?;
        Ok(serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    pub(super) fn post(&self, route: &str, body: &Value) -> Result<Value, Failure> {
        let body = body.to_string().into_bytes();
        let answer = self.client().post(route, body).map_err(|error| failed("the agent does not answer", error))?;
        Ok(serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    /// Asks for a decision and remembers it.
    pub(super) fn authorize(&mut self, token: &str, operation: &str, resource: &str) -> Result<Value, Failure> {
        let body = serde_json::json!({
            "token": token, "operation": operation, "resource": resource, "risk": "low",
        });
        let decision = self.post("/v1/authorize", &body)?;
        if decision["decision_id"].is_string() {
            self.decisions.push(decision.clone());
        }
        Ok(decision)
    }

    /// Waits until the agent says that it is in a mode.
    pub(super) fn wait_mode(&mut self, mode: &str) -> Result<Value, Failure> {
        let agent = self.agent.as_mut().ok_or_else(|| failed("no agent runs", ""))?;
        agent.wait("mode.changed", |line| line["to"] == mode)
    }

    /// Asks for the status until `fits` holds.
    pub(super) fn wait_status(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
        let deadline = clock::now().boottime.0 + PATIENCE.as_millis() as u64;
        loop {
            let status = self.get("/v1/status")?;
            if fits(&status) {
                return Ok(status);
            }
            if clock::now().boottime.0 > deadline {
                return Err(failed(format!("{} never had {what}; its status is", self.id), status));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Runs this binary to its end and reads the JSON that it prints.
pub(super) fn run(args: &[&str]) -> Result<Value, Failure> {
    let output = binary()?.args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| failed("a command cannot be started", error))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!("`hardtack {}` failed", args.join(" ")), stderr));
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    Ok(serde_json::from_str(stdout.trim()).unwrap_or(Value::String(stdout.into_owned())))
}

/// Starts the embedded broker on a free port and waits until it listens.
pub(super) fn broker() -> Result<(Player, SocketAddr), Failure> {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    let addr = free.map_err(|error| failed("no free port on the loopback interface", error))?;
    let player = Player::start(&["broker", "run", "--port", &addr.port().to_string()], &[])?;
    let deadline = clock::now().boottime.0 + PATIENCE.as_millis() as u64;
    while TcpStream::connect(addr).is_err() {
        if clock::now().boottime.0 > deadline {
            return Err(failed("the embedded broker does not listen", addr));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((player, addr))
}

fn binary() -> Result<Command, Failure> {
    let exe = std::env::current_exe().map_err(|error| failed("this program cannot find itself", error))?;
    let mut command = Command::new(exe);
    // What the person who runs the demo has set for real devices and fleets stays out of it.
    let own = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HARDTACK_"));
    for (name, _) in own {
        command.env_remove(name);
    }
    Ok(command)
}

/// A path of the demo's own making, which is UTF-8 where the temporary folder is.
pub(super) fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

pub(super) fn failed(what: impl std::fmt::Display, detail: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failure, format!("{what}: {detail}"), "run it again with --keep and look at the folder")
}
