//! Enforcement points that come in by TCP on loopback: who the kernel says they are, and what is turned away.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::api::{check_doubtful, doubtful_requests};
use crate::daemon::{Daemon, Device};
use crate::support::cannot_run;

const PATIENCE: Duration = Duration::from_secs(20);

/// An agent with a listener on loopback for these users, and where it listens.
fn start(device: &Device, users: &[u32]) -> (Daemon, SocketAddr) {
    let config = device.path("agent.toml");
    std::fs::write(&config, format!("[pep]\nlisten = [\"127.0.0.1:0\"]\nusers = {users:?}\n")).unwrap();
    let mut daemon = Device::start_by(device.command(&["--config", config.to_str().unwrap(), "agent", "run"]));
    let address = daemon.first("pep.listening")["address"].as_str().unwrap().parse().unwrap();
    (daemon, address)
}

/// Status and body of what came back.
fn send(to: SocketAddr, request: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {request:?}: {text:?}"));
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

/// What Traefik asks by `forwardAuth`, with these lines in its head.
fn forward_auth(lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "GET /authz/forward-auth/meter HTTP/1.1\r\nConnection: close\r\nX-Forwarded-Method: GET\r\n\
         X-Forwarded-Host: hmi.local\r\nX-Forwarded-Uri: /1\r\n{lines}\r\n"
    )
}

fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[test]
fn a_proxy_on_loopback_is_who_the_kernel_says() {
    let device = Device::enrolled();
    let (daemon, address) = start(&device, &[own_user()]);
    let (host, token) = (format!("Host: {address}"), format!("Authorization: Bearer {}", device.begin()));
    assert_eq!(send(address, &forward_auth(&[&host, &token])).0, 200);
    assert_eq!(send(address, &forward_auth(&[&host])).0, 401);
    // A page's cross-origin request to what the proxy guards is the proxy's to judge, not the agent's.
    assert_eq!(send(address, &forward_auth(&[&host, &token, "Origin: https://else.where"])).0, 200);
    for wrong in ["Host: hmi.local".into(), format!("Host: attacker.example:{}", address.port())] {
        let (status, problem) = send(address, &forward_auth(&[&wrong, &token]));
        assert_eq!((status, &problem["code"]), (403, &Value::from("wrong_host")), "{wrong}");
    }
    let (_, whoami) = send(address, &format!("GET /v1/whoami HTTP/1.1\r\nConnection: close\r\n{host}\r\n\r\n"));
    let selectors = whoami["selectors"].as_array().unwrap();
    assert_eq!(selectors[0], format!("unix:uid:{}", own_user()));
    let more = |selector: &Value| {
        selector.as_str().is_some_and(|s| !s.starts_with("unix:uid:") && !s.starts_with("unix:user:"))
    };
    assert!(!selectors.iter().any(more), "nothing but the user is known: {whoami}");
    let page = format!("GET /v1/whoami HTTP/1.1\r\nConnection: close\r\n{host}\r\nOrigin: https://else.where\r\n\r\n");
    let (status, problem) = send(address, &page);
    assert_eq!((status, &problem["code"]), (403, &Value::from("cross_origin")));
    // It is the enforcement points' API, and no other.
    for (method, path) in [("POST", "/v1/tasks"), ("GET", "/v1/audit"), ("GET", "/v1/status"), ("POST", "/v1/time")] {
        let request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: 0\r\n{host}\r\n\r\n");
        assert_eq!(send(address, &request).0, 404, "{method} {path}");
    }
    let trail = String::from_utf8(device.run(&["audit", "tail", "-n", "3"]).stdout).unwrap();
    assert!(trail.contains(&format!("unix:uid:{}", own_user())), "the record names the enforcer: {trail}");
    daemon.stop();
}

#[test]
fn a_request_that_could_be_two_is_refused_on_loopback_too() {
    let device = Device::enrolled();
    let (daemon, address) = start(&device, &[own_user()]);
    for (request, taken) in doubtful_requests(&address.to_string()) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).unwrap();
        check_doubtful(&request, taken, &answers);
    }
    daemon.stop();
}

#[test]
fn other_users_of_the_device_are_turned_away() {
    let device = Device::enrolled();
    let (daemon, address) = start(&device, &[own_user() + 1]);
    let (status, problem) = send(address, &forward_auth(&[&format!("Host: {address}")]));
    assert_eq!((status, &problem["code"]), (403, &Value::from("not_an_enforcer")));
    assert!(problem["detail"].as_str().unwrap().starts_with(&format!("this is user {}", own_user())), "{problem}");
    daemon.stop();
    if own_user() != 0 {
        return cannot_run("to connect as another user needs root");
    }
    let (daemon, address) = start(&device, &[65_534]);
    let url = format!("http://{address}/v1/whoami");
    let as_nobody = |url: &str| {
        let command = ["--reuid=65534", "--regid=65534", "--clear-groups", "curl", "-s", "-m", "20", url];
        let output = Command::new("setpriv").args(command).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    };
    assert_eq!(as_nobody(&url)["selectors"][0], "unix:uid:65534");
    let (status, _) = send(address, &forward_auth(&[&format!("Host: {address}")]));
    assert_eq!(status, 403, "root is not among those whom the configuration names");
    daemon.stop();
}

/// Whose a connection is takes a while to find out. A proxy that opens many at once has each of them served.
#[test]
fn a_proxy_that_opens_many_connections_at_once_is_served_on_each() {
    let device = Device::enrolled();
    let (daemon, address) = start(&device, &[own_user()]);
    let open = |_| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let opened: Vec<TcpStream> = (0..200).map(open).collect();
    for (count, mut stream) in opened.into_iter().enumerate() {
        write!(stream, "GET /v1/whoami HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{count}: {answer}");
    }
    daemon.stop();
}

/// Opens connections without end and keeps the last of them, more than the agent has places.
const FLOOD: &str = r"
import collections, socket, sys, time
held = collections.deque(maxlen=700)
for count in range(10**9):
    try:
        held.append(socket.create_connection((sys.argv[1], int(sys.argv[2])), 5))
    except OSError:
        pass
    if count == 1500:
        print('full', flush=True)
    time.sleep(0.0003)
";

#[test]
fn a_flood_on_loopback_takes_nobody_elses_place() {
    if own_user() != 0 {
        return cannot_run("to connect as another user needs root");
    }
    let device = Device::enrolled();
    let (daemon, address) = start(&device, &[65_533]);
    let mut flood = Command::new("setpriv");
    flood.args(["--reuid=65534", "--regid=65534", "--clear-groups", "python3", "-c", FLOOD]);
    let flood = flood.args([address.ip().to_string(), address.port().to_string()]).stdout(Stdio::piped());
    flood.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let mut flood = flood.spawn().unwrap();
    let mut said = String::new();
    BufReader::new(flood.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "full\n");
    for socket in ["agent.sock", "pep.sock"] {
        for count in 0..40 {
            let mut stream = UnixStream::connect(device.path("run").join(socket)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200 "), "{socket}, {count}: {answer}");
        }
    }
    assert!(flood.try_wait().unwrap().is_none(), "it went on all the while");
    flood.kill().unwrap();
    flood.wait().unwrap();
    daemon.stop();
}

#[test]
fn what_would_let_anybody_in_is_no_configuration() {
    let device = Device::enrolled();
    let config = device.path("agent.toml");
    for (text, complaint) in [
        ("listen = [\"0.0.0.0:8190\"]\nusers = [33]", "it must be an address of loopback"),
        ("listen = [\"127.0.0.1:8190\"]", "name those of enforcement points in `users`"),
        ("listen = [\"localhost\"]\nusers = [33]", "invalid socket address"),
        ("listen = [\"127.0.0.1:8190\"]\nusers = [\"traefik\"]", "invalid type"),
        ("listens = []", "unknown key `listens`"),
    ] {
        std::fs::write(&config, format!("[pep]\n{text}\n")).unwrap();
        let told = device.exits(&["--config", config.to_str().unwrap(), "agent", "check"], 2);
        assert!(told.contains(complaint), "{text}: {told}");
    }
}
