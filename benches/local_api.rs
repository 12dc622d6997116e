//! The local API under load: warm questions over its socket, on a disk and on a file system in memory, beside a bare HTTP echo
//! on the same stack; over loopback beside a static answer of nginx, by wrk; what it costs to find out who connects; how long
//! tasks outlive their processes.
//!
//! The agent, the echo and nginx are processes of their own, on one core, one after the other under the same load, in turns. Of the
//! turns the one in the middle counts.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};
use serde_json::Value;

use super::hardtack_bench::{ask, begin, enrol};
use super::line;

/// The argument by which this program becomes the echo, before the socket's path.
pub(super) const AS_ECHO: &str = "as-echo";

/// A folder on the disk that is built on: what is elsewhere may be in memory.
const ON_DISK: &str = env!("CARGO_TARGET_TMPDIR");
const CONNECTIONS: usize = 64;
/// Of one side, before it is the other's turn.
const TURN: Duration = Duration::from_secs(2);
const TURNS: usize = 5;
const TASKS: usize = 200;
const PATIENCE: Duration = Duration::from_secs(60);
/// What an answer says that allows.
const ALLOWED: &str = r#""decision":"allow""#;

type Fault = Box<dyn std::error::Error + Send + Sync>;

/// Answers every request with its own body, and does nothing else.
pub(super) fn as_echo(socket: &Path) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::UnixListener::bind(socket).expect("a socket");
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let service = service_fn(|request: Request<hyper::body::Incoming>| async {
                Ok::<_, Infallible>(Response::new(request.into_body()))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
}

/// A process that ends with its owner.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server that has the first core for itself: what loads it takes the others, where there are any.
fn on_one_core(command: &mut Command) -> std::io::Result<Child> {
    let all = sched_getaffinity(None)?;
    sched_setaffinity(None, &cores(&all, true))?;
    let child = command.spawn();
    sched_setaffinity(None, &all)?;
    child
}

/// The first core of those, or the others.
fn cores(all: &CpuSet, first: bool) -> CpuSet {
    let (mut some, mut seen) = (CpuSet::new(), 0);
    for core in (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)) {
        if (seen == 0) == first {
            some.set(core);
        }
        seen += 1;
    }
    if some.count() == 0 {
        *all
    } else {
        some
    }
}

/// What one turn under load came to.
#[derive(Clone, Copy)]
struct Load {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Load {
    /// The turn in the middle, by requests per second.
    fn middle(mut turns: Vec<Self>) -> Self {
        turns.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
        turns[turns.len() / 2]
    }
}

fn connect(socket: &Path) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends a request and reads its answer, which must be a 200 that says so: only that is what is measured, and a denial is a 200.
fn exchange(stream: &mut UnixStream, request: &[u8], says: &str, buffer: &mut Vec<u8>) -> Result<(), Fault> {
    stream.write_all(request)?;
    buffer.clear();
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk)?;
        buffer.extend_from_slice(&chunk[..read]);
        let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else {
            if read == 0 {
                return Err("closed before an answer".into());
            }
            continue;
        };
        let head = std::str::from_utf8(&buffer[..end])?;
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if buffer.len() >= end + 4 + length.unwrap_or(0_usize) {
            let ok = head.starts_with("HTTP/1.1 200") && std::str::from_utf8(&buffer[end..])?.contains(says);
            return if ok { Ok(()) } else { Err(String::from_utf8_lossy(buffer).into_owned().into()) };
        }
    }
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The same request over 64 connections at once, again and again.
#[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
fn load(socket: &Path, request: &[u8], says: &str) -> Result<Load, Fault> {
    let ends = Instant::now() + TURN;
    let each = || -> Result<Vec<f64>, Fault> {
        sched_setaffinity(None, &cores(&sched_getaffinity(None)?, false))?;
        let (mut stream, mut buffer, mut took) = (connect(socket)?, Vec::new(), Vec::new());
        loop {
            let began = Instant::now();
            if began > ends {
                return Ok(took);
            }
            exchange(&mut stream, request, says, &mut buffer)?;
            took.push(began.elapsed().as_secs_f64() * 1e6);
        }
    };
    let mut took = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(each)).collect();
        let all = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())));
        all.collect::<Result<Vec<_>, Fault>>()
    })?
    .concat();
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or(f64::MAX);
    Ok(Load { per_second: took.len() as f64 / TURN.as_secs_f64(), p50_us: at(0.5), p99_us: at(0.99) })
}

/// An agent without a network, whose profile does not limit how often one user asks.
struct Agent {
    folder: tempfile::TempDir,
    child: Option<Server>,
    loopback: String,
}

impl Agent {
    fn enrolled(place: &Path) -> Result<Self, Fault> {
        let folder = tempfile::tempdir_in(place)?;
        enrol(Path::new(env!("CARGO_BIN_EXE_hardtack")), &|name| folder.path().join(name))?;
        let shipped = include_str!("../firmware-profiles/generic-x86_64.toml");
        let mut unlimited = shipped.to_owned();
        for (limit, more) in [
            ("per_second = 5000 ", "per_second = 1000000 "),
            ("burst = 5000 ", "burst = 1000000 "),
            ("tasks_per_uid_max = 128 ", "tasks_per_uid_max = 256 "),
        ] {
            if !unlimited.contains(limit) {
                return Err(format!("the profile has no `{limit}`").into());
            }
            unlimited = unlimited.replace(limit, more);
        }
        std::fs::write(folder.path().join("profile.toml"), unlimited)?;
        let user = rustix::process::getuid().as_raw();
        let config = format!("profile = \"./profile.toml\"\n[pep]\nlisten = [\"127.0.0.1:0\"]\nusers = [{user}]\n");
        std::fs::write(folder.path().join("agent.toml"), config)?;
        let mut agent = Self { folder, child: None, loopback: String::new() };
        agent.start()?;
        Ok(agent)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
        command.arg("--config").arg(self.at("agent.toml")).arg("--state-dir").arg(self.at("state"));
        command.arg("--run-dir").arg(self.at("run")).stdin(Stdio::null());
        command
    }

    fn start(&mut self) -> Result<(), Fault> {
        let mut child = on_one_core(self.command().args(["agent", "run"]).stderr(Stdio::piped()))?;
        let log = BufReader::new(child.stderr.take().ok_or("no log")?);
        let mut lines = log.lines().map_while(Result::ok).filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        self.child = Some(Server(child));
        let listening = lines.find(|line| line["event"] == "pep.listening").ok_or("it does not listen")?;
        self.loopback = listening["address"].as_str().ok_or("no address")?.to_owned();
        lines.find(|line| line["event"] == "agent.ready").ok_or("it is not ready")?;
        std::thread::spawn(move || lines.for_each(drop));
        Ok(())
    }
}

fn echo(folder: &Path) -> Result<(Server, PathBuf), Fault> {
    let socket = folder.join("echo.sock");
    let echo = std::env::current_exe()?;
    let child = on_one_core(Command::new(echo).arg(AS_ECHO).arg(&socket).stdin(Stdio::null()))?;
    let server = Server(child);
    until_it_listens("the echo", || UnixStream::connect(&socket).is_ok())?;
    Ok((server, socket))
}

fn until_it_listens(who: &str, listens: impl Fn() -> bool) -> Result<(), Fault> {
    for _ in 0..500 {
        if listens() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(format!("{who} does not listen").into())
}

/// `uds_authorize` and what belongs to it.
pub(super) fn asked() {
    for (name, place) in [("uds_authorize", ON_DISK), ("uds_authorize_mem", "/dev/shm")] {
        if let Err(why) = over_the_socket(name, Path::new(place)) {
            println!("{name}: not measured in {place}: {why}");
        }
    }
    if let Err(why) = over_loopback() {
        println!("tcp_authorize: not measured: {why}");
    }
}

fn over_the_socket(name: &str, place: &Path) -> Result<(), Fault> {
    let agent = Agent::enrolled(place)?;
    let token = begin(&|name| agent.at(name))?;
    let (_echo, echo) = echo(agent.folder.path())?;
    let (question, socket) = (post("/v1/authorize", &ask(&token)), agent.at("run/agent.sock"));
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        bare.push(load(&echo, &question, "")?);
        ours.push(load(&socket, &question, ALLOWED)?);
    }
    let (ours, bare) = (Load::middle(ours), Load::middle(bare));
    let target = if name == "uds_authorize" { ">= 0.4 (durable / bare echo)" } else { "in memory, none" };
    line(name, ours.per_second, "req/s", bare.per_second, target);
    line(&format!("{name}_p50"), ours.p50_us, "us", bare.p50_us, "none");
    line(&format!("{name}_p99"), ours.p99_us, "us", bare.p99_us, "none");
    if name == "uds_authorize" {
        attested(&socket, &echo)?;
    }
    Ok(())
}

/// A connection with one question, where the agent finds out who asks, beside one to the echo, which does not.
#[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
fn attested(agent: &Path, echo: &Path) -> Result<(), Fault> {
    let request = b"GET /v1/whoami HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n";
    let (mut took, mut buffer) = ([Vec::new(), Vec::new()], Vec::new());
    for _ in 0..401 {
        for (socket, took) in [agent, echo].into_iter().zip(&mut took) {
            let began = Instant::now();
            exchange(&mut connect(socket)?, request, "", &mut buffer)?;
            took.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    let [ours, bare] = took.map(|mut took| {
        took.sort_by(f64::total_cmp);
        took[took.len() / 2]
    });
    line("attested_connection", ours, "us", bare, "none (the one in the middle, with its question)");
    Ok(())
}

/// wrk against the agent on loopback and against a static answer of nginx.
fn over_loopback() -> Result<(), Fault> {
    let agent = Agent::enrolled(Path::new(ON_DISK))?;
    let token = begin(&|name| agent.at(name))?;
    let body = String::from_utf8(ask(&token))?;
    let script =
        format!("wrk.method = \"POST\"\nwrk.body = [[{body}]]\nwrk.headers[\"Content-Type\"] = \"application/json\"\n");
    std::fs::write(agent.at("ask.lua"), script)?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let folder = agent.folder.path().display();
    let config = format!(
        "daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr crit; events {{ worker_connections 256; }} \
         http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; \
         uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; keepalive_requests 100000000; \
         server {{ listen 127.0.0.1:{port}; location / {{ return 200 '{{}}'; }} }} }}"
    );
    std::fs::write(agent.at("nginx.conf"), config)?;
    let mut nginx = Command::new("nginx");
    let nginx = on_one_core(nginx.arg("-c").arg(agent.at("nginx.conf")).arg("-p").arg(agent.folder.path()));
    let _nginx = Server(nginx.map_err(|error| format!("nginx: {error}"))?);
    until_it_listens("nginx", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())?;
    let (mut ours, mut others) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        others.push(wrk(&format!("http://127.0.0.1:{port}/"), &agent.at("ask.lua"))?);
        ours.push(wrk(&format!("http://{}/v1/authorize", agent.loopback), &agent.at("ask.lua"))?);
        // What denies once denies from then on, and wrk counts any 200.
        let question = post("/v1/authorize", body.as_bytes());
        exchange(&mut connect(&agent.at("run/agent.sock"))?, &question, ALLOWED, &mut Vec::new())?;
    }
    let [ours, others] = [ours, others].map(|mut turns| {
        turns.sort_by(f64::total_cmp);
        turns[turns.len() / 2]
    });
    line("tcp_authorize", ours, "req/s", others, "none (durable / nginx static)");
    Ok(())
}

/// Requests per second, all of which were answered as they should be.
fn wrk(url: &str, script: &Path) -> Result<f64, Fault> {
    let mut command = Command::new("wrk");
    command.args(["-t", "1", "-c", "64", "-d"]).arg(format!("{}s", TURN.as_secs())).arg("-s").arg(script).arg(url);
    let output = command.output().map_err(|error| format!("wrk: {error}"))?;
    let told = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
    if told.contains("Non-2xx") || told.contains("Socket errors") {
        return Err(told.into());
    }
    let rate = told.lines().find_map(|line| line.strip_prefix("Requests/sec:")).ok_or_else(|| told.clone())?;
    Ok(rate.trim().parse()?)
}

/// How long the last of 200 tasks outlives its process, when all processes end at once.
pub(super) fn ended() {
    if let Err(why) = ended_with_their_processes() {
        println!("tasks_end_ms: not measured: {why}");
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
fn ended_with_their_processes() -> Result<(), Fault> {
    let agent = Agent::enrolled(Path::new(ON_DISK))?;
    let script =
        r#""$0" -o json --run-dir "$1" task begin pump --right 'read:modbus/*' --holder $$ && exec cat >/dev/null"#;
    let mut holders = Vec::new();
    for _ in 0..TASKS {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_hardtack")]).arg(agent.at("run"));
        let mut holder = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (stdin, mut line) = (holder.stdin.take(), String::new());
        BufReader::new(holder.stdout.take().ok_or("no output")?).read_line(&mut line)?;
        let task: Value = serde_json::from_str(&line).map_err(|error| format!("{error}: {line:?}"))?;
        let token = task["token"].as_str().ok_or_else(|| line.clone())?;
        holders.push((holder, stdin, post("/v1/authorize", &ask(token))));
    }
    let mut stream = connect(&agent.at("run/agent.sock"))?;
    let (mut buffer, began) = (Vec::new(), Instant::now());
    holders.iter_mut().for_each(|(_, stdin, _)| drop(stdin.take()));
    for (_, _, question) in &holders {
        loop {
            exchange(&mut stream, question, "", &mut buffer)?;
            if String::from_utf8_lossy(&buffer).contains("\"reason\":\"revoked\"") {
                break;
            }
            if began.elapsed() > PATIENCE {
                return Err("a task does not end".into());
            }
        }
    }
    let took = began.elapsed().as_secs_f64() * 1000.0;
    for (mut holder, _, _) in holders {
        holder.wait()?;
    }
    line("tasks_end_ms", took, "ms", 1000.0, "<= 1 s for the last of 200");
    Ok(())
}
