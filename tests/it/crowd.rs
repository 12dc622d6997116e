//! More clients than an agent can serve: who is turned away, who is not, and that nothing of it stays.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use serde_json::Value;

use crate::daemon::{Daemon, Device};
use crate::support::cannot_run;

/// Whoever waits longer than this has found a bug.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients at once.
const CROWD: u64 = 10_000;
/// This test has some descriptors of its own, and other tests run beside it.
const DESCRIPTORS_MIN: u64 = CROWD + 2000;
/// What a process may grow by, in KiB, once it has met such a crowd before: less than half a KiB for each client.
const GROWTH_KIB_MAX: u64 = 4096;

/// As many descriptors as the system lets this process have.
fn take_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    limit.maximum.unwrap_or(u64::MAX)
}

fn descriptors(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

/// Waits until the agent has no more descriptors open than this: nothing tells when the last one is closed.
#[track_caller]
fn settles_at(daemon: &Daemon, most: usize) {
    for _ in 0..3000 {
        if descriptors(daemon) <= most {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} descriptors stay open, {most} were", descriptors(daemon));
}

fn resident_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Asks on an open connection, and reads the one answer: its status and its body.
fn ask(stream: &mut UnixStream, method: &str, path: &str, body: &str) -> (u16, Value) {
    write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_slice(&body).unwrap())
}

#[test]
fn ten_thousand_clients_lock_nobody_out_and_leave_nothing_behind() {
    if take_descriptors() < DESCRIPTORS_MIN {
        return cannot_run("ten thousand clients need a hard limit of 12,000 descriptors (ulimit -Hn)");
    }
    let device = Device::enrolled();
    let daemon = device.start();
    // One more than when it began: that by which it watches the holder of the task, which it may open after its answer.
    let before = descriptors(&daemon) + 1;
    let token = device.begin();
    let (agent, admin) = (device.path("run/agent.sock"), device.path("run/admin.sock"));
    let meet = || {
        let held: Vec<UnixStream> = (0..CROWD).map(|_| connect(&agent)).collect();
        let (status, problem) = ask_or_turned_away(&agent);
        assert_eq!((status, &problem["code"]), (429, &Value::from("throttled")), "one user has half of all places");
        assert_eq!(ask(&mut connect(&admin), "GET", "/v1/status", "").0, 200, "operators have places of their own");
        drop(held);
        settles_at(&daemon, before);
        assert_eq!(device.authorize(&token, "read").0, Some(0));
        resident_kib(&daemon)
    };
    // What is made once for many is made now.
    let first = meet();
    let second = meet();
    assert!(second <= first + GROWTH_KIB_MAX, "{first} KiB after {CROWD} clients, {second} KiB after as many again");
    daemon.stop();
}

/// Who is turned away is told so before it asks.
fn ask_or_turned_away(socket: &Path) -> (u16, Value) {
    let mut stream = connect(socket);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
}

#[test]
fn an_agent_without_descriptors_loses_nothing_and_goes_on() {
    let device = Device::enrolled();
    let few = ["-c", "ulimit -n 64; exec \"$0\" agent run", env!("CARGO_BIN_EXE_hardtack")];
    let mut daemon = Device::start_by(device.command_of(Command::new("/bin/sh"), &few));
    // Its task's holder is watched by one, which may be opened after the answer.
    let before = descriptors(&daemon) + 1;
    let token = device.begin();
    let agent = device.path("run/agent.sock");
    let mut first = connect(&agent);
    let body = format!(r#"{{"token":"{token}","operation":"read","resource":"meter/1","risk":"low"}}"#);
    let mut answered = Vec::new();
    let mut decide = |stream: &mut UnixStream| {
        let (status, answer) = ask(stream, "POST", "/v1/authorize", &body);
        // Nothing is decided that cannot be recorded.
        assert!(status == 503 || (status, &answer["reason"]) == (200, &Value::from("allowed")), "{status}: {answer}");
        answered.extend(answer["decision_id"].as_str().map(str::to_owned));
        status
    };
    assert_eq!(decide(&mut first), 200);
    let held: Vec<UnixStream> = (0..100).map(|_| connect(&agent)).collect();
    daemon.wait_for("api.accept");
    let failed = (0..100).filter(|_| decide(&mut first) != 200).count();
    assert_ne!(failed, 0, "an anchor has to be opened for some of these");
    // All that is on disk is read again then, for which there are no descriptors either: none of it is damaged for that.
    daemon.wait_until(|line| !line["retry_ms"].is_null() || line["event"] == "store.reopened");
    drop(held);
    settles_at(&daemon, before + 1);
    // What could not be written is written again once there is a descriptor for it.
    while decide(&mut first) != 200 {
        daemon.wait_for("store.reopened");
    }
    drop(first);
    assert_eq!(
        device.ok(&["task", "list"])["tasks"].as_array().map(Vec::len),
        Some(1),
        "its task has not ended for it"
    );
    daemon.stop();
    let trail = String::from_utf8(device.run(&["audit", "tail", "-n", "400"]).stdout).unwrap();
    for decision in &answered {
        assert!(trail.contains(&format!("\"{decision}\"")), "{decision} was answered, and is not on disk");
    }
}
