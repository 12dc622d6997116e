//! Real processes of the hardtack binary, for the demo and the system tests: broker, fleet service, agents.
//!
//! Owns: starting them, waiting for what they log, asking them, killing them; enrolling a gateway as people do.
//! Never: leaves one behind: each is killed when its handle is dropped.
//! Read next: `../cli/demo/story.rs`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;

use super::client::Client;
use super::clock;
use crate::cli::{Exit, Failure};

/// By how many seconds a process's wall clock is shifted.
const CLOCK_OFFSET: &str = "HARDTACK_TEST_CLOCK_OFFSET_S";

/// The longest that anything is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Which binary plays.
#[derive(Clone, Debug)]
pub struct Stage {
    binary: PathBuf,
}

impl Stage {
    /// Plays with this binary.
    pub fn new(binary: PathBuf) -> Self {
        Self { binary }
    }

    /// A command of the binary. What the person who runs it has set for real devices and fleets stays out of it.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        let own = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("HARDTACK_"));
        for (name, _) in own {
            command.env_remove(name);
        }
        command
    }

    /// Starts a process that logs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start<S: AsRef<OsStr>>(&self, args: &[S], env: &[(&str, String)]) -> Result<Player, Failure> {
        let mut command = self.command();
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
        Ok(Player { child, log, seen: Vec::new(), told: 0 })
    }

    /// Runs a command to its end and reads the JSON that it prints; the text itself where that is no single value.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(&self, args: &[&str]) -> Result<Value, Failure> {
        self.run_with(args, &[])
    }

    fn run_with(&self, args: &[&str], env: &[(&str, String)]) -> Result<Value, Failure> {
        let env = env.iter().map(|(name, value)| (name, value));
        let output = self.command().args(args).envs(env).stdin(Stdio::null()).output();
        let output = output.map_err(|error| failed("a command cannot be started", error))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(failed(format!("`hardtack {}` failed", args.join(" ")), stderr));
        }
        let stdout = String::from_utf8_lossy(&output.stdout);
        Ok(serde_json::from_str(stdout.trim()).unwrap_or(Value::String(stdout.into_owned())))
    }

    /// Starts the embedded broker on a free port and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn broker(&self) -> Result<(Player, SocketAddr), Failure> {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let addr = free.map_err(|error| failed("no free port on the loopback interface", error))?;
        let player = self.start(&["broker", "run", "--port", &addr.port().to_string()], &[])?;
        let deadline = clock::now().boottime.0 + PATIENCE.as_millis() as u64;
        while TcpStream::connect(addr).is_err() {
            if clock::now().boottime.0 > deadline {
                return Err(failed("the embedded broker does not listen", addr));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok((player, addr))
    }
}

/// A fleet's folder and what its operator does.
#[derive(Clone, Debug)]
pub struct Fleet {
    stage: Stage,
    /// The folder.
    pub dir: PathBuf,
    /// What devices compare.
    pub fingerprint: String,
}

impl Fleet {
    /// Makes a fleet.
    ///
    /// # Errors
    /// What the command says.
    pub fn init(stage: &Stage, dir: PathBuf, name: &str) -> Result<Self, Failure> {
        let made = stage.run(&["-o", "json", "fleet", "init", path(&dir), "--name", name, "--no-passphrase"])?;
        let fingerprint =
            made["fingerprint"].as_str().ok_or_else(|| failed("fleet init gave no fingerprint", &made))?;
        Ok(Self { stage: stage.clone(), dir, fingerprint: fingerprint.to_owned() })
    }

    /// A fleet that there is already.
    pub fn open(stage: &Stage, dir: PathBuf, fingerprint: String) -> Self {
        Self { stage: stage.clone(), dir, fingerprint }
    }

    /// Runs `hardtack fleet …` in its folder.
    ///
    /// # Errors
    /// What the command says.
    pub fn run(&self, args: &[&str]) -> Result<Value, Failure> {
        self.run_at(0, args)
    }

    /// The same, so many seconds later by the wall clock.
    ///
    /// # Errors
    /// What the command says.
    pub fn run_at(&self, later_s: u64, args: &[&str]) -> Result<Value, Failure> {
        let mut all = vec!["-o", "json", "fleet"];
        all.extend(args);
        all.extend(["--dir", path(&self.dir)]);
        self.stage.run_with(&all, &[(CLOCK_OFFSET, later_s.to_string())])
    }

    /// Starts issuer, publisher and collector, and waits until they are subscribed.
    ///
    /// # Errors
    /// When they do not come up.
    pub fn serve(&self, broker: &str) -> Result<Player, Failure> {
        let mut serve = self.stage.start(&["fleet", "serve", "--broker", broker, "--dir", path(&self.dir)], &[])?;
        serve.wait("fleet.ready", |_| true)?;
        Ok(serve)
    }

    /// Enrols a gateway as people do, with a fallback grant for the workload of this process's user.
    ///
    /// # Errors
    /// What the commands say.
    pub fn enrol(&self, gateway: &Gateway, folder: &Path) -> Result<(), Failure> {
        self.admit(gateway, folder)?;
        let selector = format!("unix:uid:{}=pump", user());
        let grant = [
            "grant",
            "create",
            "--device",
            &gateway.id,
            "--may-begin",
            &selector,
            "--right",
            "pump:write:modbus/pump1/speed",
            "--right",
            "pump:read:modbus/*",
            "--offline-max",
            "3d",
            "--uses-max",
            "100000",
            "--boots-max",
            "20",
            "--task-ttl-max",
            "15m",
        ];
        self.run(&grant).map(drop)
    }

    /// Enrols a gateway as people do. It may do nothing yet.
    ///
    /// # Errors
    /// What the commands say.
    pub fn admit(&self, gateway: &Gateway, folder: &Path) -> Result<(), Failure> {
        let at = |ending: &str| folder.join(format!("{}.{ending}", gateway.id));
        let (request, bundle) = (at("req"), at("bundle"));
        let asked = gateway.command(&["enrol", "request", "--id", &gateway.id, "--out", path(&request)])?;
        let code = asked["code"].as_str().ok_or_else(|| failed("enrol request gave no code", &asked))?;
        self.run(&["device", "approve", path(&request), "--code", code, "--out", path(&bundle)])?;
        gateway.command(&["enrol", "import", path(&bundle), "--fleet", &self.fingerprint]).map(drop)
    }

    /// How often each record stands in the collector's export, by its id.
    ///
    /// # Errors
    /// When the export fails or is no JSON lines.
    pub fn exported(&self) -> Result<BTreeMap<String, usize>, Failure> {
        let export = self.run(&["audit", "export"])?;
        let lines = export.as_str().map_or_else(|| export.to_string(), str::to_owned);
        let mut counts = BTreeMap::new();
        for line in lines.lines().filter(|line| !line.trim().is_empty()) {
            let record: Value =
                serde_json::from_str(line).map_err(|error| failed("the export is no JSON lines", error))?;
            if let Some(id) = record["decision_id"].as_str() {
                *counts.entry(id.to_owned()).or_insert(0) += 1;
            }
        }
        Ok(counts)
    }
}

/// A child process that logs JSON lines to stderr.
pub struct Player {
    child: Child,
    log: Receiver<Value>,
    seen: Vec<Value>,
    /// How much of that was asked for as news.
    told: usize,
}

impl Player {
    /// Waits until a line with this event is logged for which `fits` holds.
    pub fn wait(&mut self, event: &str, fits: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
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
    pub fn events(&mut self) -> Vec<String> {
        self.seen.extend(self.log.try_iter());
        self.seen.iter().filter_map(|line| line["event"].as_str().map(str::to_owned)).collect()
    }

    /// What it has logged since this was asked last.
    pub fn news(&mut self) -> Vec<Value> {
        self.seen.extend(self.log.try_iter());
        let told = std::mem::replace(&mut self.told, self.seen.len());
        self.seen[told..].to_vec()
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGSTOP: it does nothing until [`Player::thaw`].
    ///
    /// # Errors
    /// When it is gone.
    pub fn freeze(&self) -> Result<(), Failure> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it is gone.
    pub fn thaw(&self) -> Result<(), Failure> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM, and waits until it has ended.
    ///
    /// # Errors
    /// When it is gone already.
    pub fn finish(mut self) -> Result<(), Failure> {
        finish(&mut self.child)
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        tell(&self.child, signal)
    }

    /// SIGKILL, and gone.
    pub fn kill(mut self) {
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
pub struct Gateway {
    stage: Stage,
    /// Its name.
    pub id: String,
    /// Its state folder.
    pub state: PathBuf,
    run: PathBuf,
    /// What its agent is told by its environment.
    pub settings: Vec<(&'static str, String)>,
    /// Its agent, while it is up.
    pub agent: Option<Player>,
    /// Decisions that its callers saw.
    pub decisions: Vec<Value>,
}

impl Gateway {
    /// A gateway with folders of its own in `folder`.
    pub fn new(stage: &Stage, id: &str, folder: &Path) -> Self {
        let (state, run) = (folder.join(id), folder.join(format!("run-{id}")));
        let settings = Vec::new();
        Self { stage: stage.clone(), id: id.into(), state, run, settings, agent: None, decisions: Vec::new() }
    }

    /// Runs a command of the device's side to its end.
    pub fn command(&self, args: &[&str]) -> Result<Value, Failure> {
        let mut all = vec!["--state-dir", path(&self.state), "--run-dir", path(&self.run), "-o", "json"];
        all.extend(args);
        self.stage.run(&all)
    }

    /// Starts the agent and waits until it decides. `clock_s` shifts its wall clock.
    pub fn start(&mut self, broker: &str, clock_s: i64) -> Result<(), Failure> {
        self.start_with(broker, &[(CLOCK_OFFSET, clock_s.to_string())])
    }

    /// Starts the agent as after a reboot of the kernel: another boot, whose clock begins anew.
    pub fn start_rebooted(&mut self, broker: &str, clock_s: i64, boot: u8) -> Result<(), Failure> {
        let boot_id = format!("{boot:08x}-0000-4000-8000-000000000000");
        let since_boot = -i64::try_from(clock::now().boottime.secs()).unwrap_or(0);
        let env = [
            (CLOCK_OFFSET, clock_s.to_string()),
            ("HARDTACK_TEST_BOOTTIME_OFFSET_S", since_boot.to_string()),
            ("HARDTACK_TEST_BOOT_ID", boot_id),
        ];
        self.start_with(broker, &env)
    }

    /// Starts the agent in an environment of one's own and waits until it decides.
    pub fn start_with(&mut self, broker: &str, env: &[(&str, String)]) -> Result<(), Failure> {
        let args = ["--state-dir", path(&self.state), "--run-dir", path(&self.run), "agent", "run", "--broker", broker];
        let all: Vec<_> = self.settings.iter().chain(env).cloned().collect();
        let mut agent = self.stage.start(&args, &all)?;
        agent.wait("agent.ready", |_| true)?;
        self.agent = Some(agent);
        Ok(())
    }

    /// The wallet's own credentials, as a thief with the disk would read them.
    pub fn wallet_files(&self) -> Result<Vec<Vec<u8>>, Failure> {
        let entries = std::fs::read_dir(self.state.join("wallet")).map_err(|error| failed("no wallet", error))?;
        let tasks =
            entries.filter_map(Result::ok).filter(|entry| entry.file_name().to_string_lossy().starts_with("task-"));
        tasks.map(|entry| std::fs::read(entry.path()).map_err(|error| failed("unreadable wallet", error))).collect()
    }

    /// A client of its workload socket.
    pub fn client(&self) -> Client {
        Client::new(&self.run.join("agent.sock"))
    }

    /// `GET` on the workload socket.
    pub fn get(&self, route: &str) -> Result<Value, Failure> {
        let answer = self.client().get(route).map_err(|error| failed("the agent does not answer", error))?;
        Ok(serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    /// `POST` on the workload socket.
    pub fn post(&self, route: &str, body: &Value) -> Result<Value, Failure> {
        let body = body.to_string().into_bytes();
        let answer = self.client().post(route, body).map_err(|error| failed("the agent does not answer", error))?;
        Ok(serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    /// Asks for a decision and remembers it.
    pub fn authorize(&mut self, token: &str, operation: &str, resource: &str) -> Result<Value, Failure> {
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
    pub fn wait_mode(&mut self, mode: &str) -> Result<Value, Failure> {
        let agent = self.agent.as_mut().ok_or_else(|| failed("no agent runs", ""))?;
        agent.wait("mode.changed", |line| line["to"] == mode)
    }

    /// Asks for the status until `fits` holds.
    pub fn wait_status(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
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

/// SIGTERM, and waits until the process has ended.
///
/// # Errors
/// When it is gone already.
pub fn finish(child: &mut Child) -> Result<(), Failure> {
    tell(child, Signal::TERM)?;
    child.wait().map(drop).map_err(|error| failed("a child process cannot be waited for", error))
}

fn tell(child: &Child, signal: Signal) -> Result<(), Failure> {
    kill_process(Pid::from_child(child), signal)
        .map_err(|error| failed(format!("process {} cannot be told", child.id()), error))
}

/// The user of this process, whose programs ask.
pub fn user() -> u32 {
    rustix::process::getuid().as_raw()
}

/// A path below a temporary folder, which is UTF-8 where that is.
pub fn path(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

/// A failure of the play itself.
pub fn failed(what: impl std::fmt::Display, detail: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failure, format!("{what}: {detail}"), "run it again with --keep and look at the folder")
}
