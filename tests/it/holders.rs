//! Tasks that end with what holds them: the real daemon, real processes, real connections. Nothing sleeps: the log says when
//! a task has ended.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::daemon::{Daemon, Device};
use crate::support::cannot_run;

/// Whoever waits longer than this has found a bug.
const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const BEGIN: &str = r#"{"task":"pump","rights":[{"resource":"meter/*","action":"read"}],"ttl_s":600"#;

/// A process that holds a task until its standard input ends.
struct Holder {
    process: Child,
    task: Value,
}

impl Holder {
    fn start(device: &Device) -> Self {
        Self::start_by(device, &["/usr/bin/env"])
    }

    /// The same, started by a program that runs others.
    fn start_by(device: &Device, by: &[&str]) -> Self {
        let script = r#""$0" task begin pump --right 'read:meter/*' --holder $$ && exec cat >/dev/null"#;
        let mut command = shell_by(device, by, script);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let task = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { process, task }
    }

    fn id(&self) -> String {
        self.task["task_id"].as_str().unwrap().to_owned()
    }

    fn token(&self) -> String {
        self.task["token"].as_str().unwrap().to_owned()
    }

    fn end(mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

/// A script that has the program as `$0`, started by a program that runs others.
pub(crate) fn shell_by(device: &Device, by: &[&str], script: &str) -> Command {
    let arguments = [&by[1..], &["/bin/sh", "-c", script, env!("CARGO_BIN_EXE_hardtack")]].concat();
    let mut command = device.command_of(Command::new(by[0]), &arguments);
    command.env("PATH", "/usr/bin:/bin");
    command
}

#[track_caller]
fn ended(daemon: &mut Daemon) -> String {
    let ended = daemon.wait_for("task.ended");
    assert_eq!(ended["how"], "gone", "{ended}");
    ended["task"].as_str().unwrap().to_owned()
}

#[test]
fn fifty_tasks_end_with_their_processes_and_the_one_that_lives_goes_on() {
    let device = Device::enrolled();
    let mut daemon = device.start();
    let holders: Vec<Holder> = (0..50).map(|_| Holder::start(&device)).collect();
    let stays = Holder::start(&device);
    let begun: BTreeSet<String> = holders.iter().map(Holder::id).collect();
    assert_eq!(begun.len(), 50);
    let token = holders[7].token();
    device.decides(&token, "allowed");
    holders.into_iter().for_each(Holder::end);
    let gone: BTreeSet<String> = (0..50).map(|_| ended(&mut daemon)).collect();
    assert_eq!(gone, begun);
    device.decides(&token, "revoked");
    device.decides(&stays.token(), "allowed");
    stays.end();
    ended(&mut daemon);
    daemon.stop();
}

#[test]
fn a_task_is_held_again_after_the_agent_was_killed_and_ends_if_its_process_did_meanwhile() {
    let device = Device::enrolled();
    let daemon = device.start();
    let (stays, goes) = (Holder::start(&device), Holder::start(&device));
    drop(daemon);
    let (id, token) = (goes.id(), goes.token());
    goes.end();
    let mut daemon = device.start();
    // It may be told before the agent says that it is ready.
    let first = daemon.first("task.ended");
    assert_eq!((first["how"].as_str(), first["task"].as_str()), (Some("gone"), Some(id.as_str())));
    device.decides(&token, "revoked");
    device.decides(&stays.token(), "allowed");
    let (id, token) = (stays.id(), stays.token());
    stays.end();
    assert_eq!(ended(&mut daemon), id);
    device.decides(&token, "revoked");
    daemon.stop();
}

#[test]
fn no_task_outlives_the_boot_that_its_process_lived_in() {
    let device = Device::enrolled();
    let daemon = device.start();
    let holder = Holder::start(&device);
    drop(daemon);
    let mut command = device.command_of(Command::new(env!("CARGO_BIN_EXE_hardtack")), &["agent", "run"]);
    command.env("HARDTACK_TEST_BOOT_ID", "00000000-0000-4000-8000-000000000007");
    let mut daemon = Device::start_by(command);
    // It ends as the agent starts, which is before it says that it is ready.
    let ended = daemon.first("task.ended");
    assert_eq!((ended["how"].as_str(), ended["task"].as_str()), (Some("gone"), Some(holder.id().as_str())));
    device.decides(&holder.token(), "revoked");
    holder.end();
    daemon.signal(Signal::TERM);
    daemon.wait_for("agent.stopped");
}

#[test]
fn a_script_holds_what_it_begins_however_it_begins_it() {
    let device = Device::enrolled();
    let mut daemon = device.start();
    // In a pipeline in a substitution, two shells below the script.
    let script = r#"
        T=$("$0" task begin pump --right 'read:meter/*' | cat) || exit 1
        echo "$T"
        read line
        "$0" authorize --token "$(echo "$T" | sed 's/.*"token":"\([^"]*\)".*/\1/')" --operation read --resource meter/1
    "#;
    let mut command = device.command_of(Command::new("/bin/sh"), &["-c", script, env!("CARGO_BIN_EXE_hardtack")]);
    command.env("PATH", "/usr/bin:/bin").process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut said = BufReader::new(process.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let task: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    let listed = device.run(&["task", "list"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed["tasks"][0]["holder"], process.id(), "{listed}");
    process.stdin.take().unwrap().write_all(b"\n").unwrap();
    line.clear();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("\"allow\""), "{line}");
    assert!(process.wait().unwrap().success());
    assert_eq!(ended(&mut daemon), task["task_id"].as_str().unwrap());
    daemon.stop();
}

#[test]
fn who_holds_a_task_is_told_when_it_begins_and_why_it_ended_when_it_is_refused() {
    let device = Device::enrolled();
    let mut daemon = device.start();
    // It leads a group of its own, and ends with the command that it runs.
    let begin = ["-o", "human", "task", "begin", "pump", "--right", "read:meter/*"];
    let mut command = Command::new("timeout");
    command.args(["60", env!("CARGO_BIN_EXE_hardtack")]);
    let mut command = device.command_of(command, &begin);
    let process = command.env("PATH", "/usr/bin:/bin").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = process.id();
    let output = process.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.ends_with(&format!(", or with process {pid} (timeout)\n")), "{told}");
    let id = ended(&mut daemon);
    let (code, decision) = device.authorize(String::from_utf8(output.stdout).unwrap().trim(), "read");
    assert_eq!((code, decision["reason"].as_str()), (Some(5), Some("revoked")), "{decision}");
    assert_eq!(decision["explain"], format!("task {id} has ended: its process ended; begin another"));
    daemon.stop();
}

#[test]
fn a_program_in_a_pid_namespace_names_its_holder_by_the_number_that_it_sees() {
    let by = ["unshare", "--pid", "--fork", "--kill-child"];
    let made = Command::new(by[0]).args(&by[1..]).arg("true").stderr(Stdio::null()).status();
    if !made.is_ok_and(|status| status.success()) {
        return cannot_run("no pid namespace can be made: that needs root, and unshare");
    }
    let device = Device::enrolled();
    let mut daemon = device.start();
    let holder = Holder::start_by(&device, &by);
    let listed = device.ok(&["task", "list"]);
    let pid = listed["tasks"][0]["holder"].as_u64().unwrap();
    // To itself it is process 1. Here it is who was started by whom this test started.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let parent = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap();
    assert_eq!(parent, holder.process.id().to_string(), "{listed}");
    for outside in [std::process::id(), holder.process.id()] {
        let script = format!(r#""$0" task begin pump --right 'read:meter/*' --holder {outside}; echo $?"#);
        let output = shell_by(&device, &by, &script).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.stdout, b"3\n", "{told}");
        assert!(told.contains("neither the process that asks nor an ancestor"), "{told}");
    }
    let id = holder.id();
    holder.end();
    assert_eq!(ended(&mut daemon), id);
    daemon.stop();
}

/// Asks in two pieces, and is something else when the second is sent.
const BETWEEN: &str = r#"
import os, select, socket, sys
how, path, body = sys.argv[1:]
asked = socket.socket(socket.AF_UNIX)
asked.connect(path)
head = "POST /v1/authorize HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n"
asked.sendall((head % len(body)).encode())
# The head was read, and the rest is waited for.
assert b"100 Continue" in asked.recv(1024)
if how == "ends":
    before = select.poll()
    before.register(os.pidfd_open(os.getpid()), select.POLLIN)
    if os.fork():
        os._exit(0)
    before.poll()
elif how == "changes its user":
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
elif how == "becomes another program":
    asked.set_inheritable(True)
    script = 'printf %s "$1" >&"$0"; head -c 15 <&"$0"'
    os.execv("/bin/sh", ["sh", "-c", script, str(asked.fileno()), body])
asked.sendall(body.encode())
sys.stdout.write(asked.recv(15).decode())
"#;

#[test]
fn a_caller_is_judged_by_what_it_is_when_its_request_is_whole() {
    let device = Device::enrolled();
    let daemon = device.start();
    let holder = Holder::start(&device);
    let body = format!(r#"{{"token":"{}","operation":"read","resource":"meter/1"}}"#, holder.token());
    let socket = device.path("run/agent.sock");
    let asked = |how: &str| {
        let arguments = ["-c", BETWEEN, how, socket.to_str().unwrap(), &body];
        let output = device.command_of(Command::new("/usr/bin/python3"), &arguments).output().unwrap();
        assert_eq!(output.stdout, b"HTTP/1.1 200 OK", "{how}: {output:?}");
        let tail = device.ok(&["audit", "tail", "-n", "1", "--kind", "decision"]);
        (tail["reason"].clone(), tail["workload"].clone())
    };
    let path = |program: &str| format!("unix:path:{}", std::fs::canonicalize(program).unwrap().display());
    let (python, shell) = (path("/usr/bin/python3"), path("/bin/sh"));
    let has = |workload: &Value, path: &str| workload.as_array().unwrap().contains(&path.into());
    let (reason, workload) = asked("stays what it is");
    assert!(reason == "allowed" && has(&workload, &python), "{reason} {workload}");
    let (reason, workload) = asked("becomes another program");
    assert!(reason == "allowed" && has(&workload, &shell) && !has(&workload, &python), "{reason} {workload}");
    assert_eq!(asked("ends"), ("wrong_workload".into(), Value::Array(Vec::new())));
    match rustix::process::getuid().is_root() {
        true => assert_eq!(asked("changes its user"), ("wrong_workload".into(), Value::Array(Vec::new()))),
        false => cannot_run("only root can change its user"),
    }
    holder.end();
    daemon.stop();
}

/// A connection of this process's own.
pub(crate) struct Connection(UnixStream);

impl Connection {
    pub(crate) fn open(device: &Device) -> Self {
        let stream = UnixStream::connect(device.path("run").join("agent.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub(crate) fn begin(&mut self, headers: &str, body: &str) -> (u16, Value) {
        let length = body.len();
        let request = format!("POST /v1/tasks HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n{body}");
        self.0.write_all(request.as_bytes()).unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).unwrap();
        (head[9..12].parse().unwrap(), serde_json::from_slice(&body).unwrap())
    }
}

#[test]
fn a_leased_task_ends_with_its_connection_and_another_one_does_not() {
    let device = Device::enrolled();
    let mut daemon = device.start();
    let mut connection = Connection::open(&device);
    let (_, kept) = connection.begin("", &format!("{BEGIN}}}"));
    let (status, leased) = connection.begin("", &format!("{BEGIN},\"lease\":\"connection\"}}"));
    assert_eq!(status, 201, "{leased}");
    device.decides(leased["token"].as_str().unwrap(), "allowed");
    drop(connection);
    assert_eq!(ended(&mut daemon), leased["task_id"].as_str().unwrap());
    device.decides(leased["token"].as_str().unwrap(), "revoked");
    device.decides(kept["token"].as_str().unwrap(), "allowed");
    daemon.stop();
}

#[test]
fn asking_again_with_the_same_key_begins_no_other_task() {
    let device = Device::enrolled();
    let daemon = device.start();
    let mut connection = Connection::open(&device);
    let (body, key) = (format!("{BEGIN}}}"), "idempotency-key: 8e03978e-40d5-43e8-bc93-6894a57f9324\r\n");
    let (_, first) = connection.begin(key, &body);
    let (status, again) = Connection::open(&device).begin(key, &body);
    assert_eq!((status, &again["task_id"], &again["token"]), (201, &first["task_id"], &first["token"]));
    let (status, problem) = connection.begin(key, &format!("{BEGIN},\"uses\":3}}"));
    assert_eq!((status, &problem["code"]), (409, &"idempotency_key_reused".into()));
    let (status, problem) = connection.begin(&format!("{key}{key}"), &body);
    assert_eq!((status, &problem["code"]), (400, &"invalid_request".into()));
    let (status, problem) = connection.begin("", &body.replace("pump", "crane"));
    assert_eq!((status, &problem["code"]), (403, &"no_right".into()));
    let seen = problem["selectors_seen"].as_array().unwrap();
    assert!(seen.contains(&format!("unix:uid:{}", rustix::process::getuid().as_raw()).into()), "{problem}");
    assert!(problem["hint"].as_str().unwrap().contains("crane"), "{problem}");
    let (status, problem) = connection.begin("", &format!("{BEGIN},\"holder\":4294967295}}"));
    assert_eq!((status, &problem["code"]), (403, &"wrong_workload".into()));
    daemon.stop();
}
