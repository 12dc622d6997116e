//! The proxy for the Model Context Protocol, between a client and a server made with the official SDK, before a real agent;
//! and before clients that are out for trouble.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use hardtack::shell::client::Client;
use rustix::process::{kill_process, Pid, Signal};
use serde_json::{json, Value};

use crate::daemon::Device;
use crate::support::{self, cannot_run};

const PATIENCE: Duration = Duration::from_secs(60);
const PEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/mcp_peer.py");
const HARDTACK: &str = env!("CARGO_BIN_EXE_hardtack");

/// What the tests' task may do.
const RIGHTS: [&str; 4] = [
    "call:mcp/files/read_file",
    "call:mcp/files/write_file",
    "read:mcp/files/resources/note/box/1",
    "get:mcp/files/prompts/greet",
];

/// A Python that has the SDK. None where nobody said where it is: `tests/run` always says.
fn python() -> Option<String> {
    let python = support::python();
    let has_it = Command::new(&python).args(["-c", "import mcp"]).stderr(Stdio::null()).status();
    if !has_it.is_ok_and(|status| status.success()) {
        cannot_run("the Python package `mcp` is not here: tests/run installs it");
        return None;
    }
    Some(python)
}

/// What the SDK's client saw.
fn ask(python: &str, job: &Value) -> Value {
    let mut client = Command::new(python);
    let mut child = client.args([PEER, "ask"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(job.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the client failed on {job}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn begin(device: &Device, rights: &[&str], more: &[&str]) -> String {
    let rights = rights.iter().flat_map(|right| ["--right", right]);
    let args: Vec<&str> = ["task", "begin", "pump"].into_iter().chain(rights).chain(more.iter().copied()).collect();
    device.ok(&args)["token"].as_str().unwrap().to_owned()
}

/// The same credential with a check more.
fn narrow(device: &Device, token: &str, check: &str) -> String {
    let body = json!({"token": token, "checks": [check]}).to_string().into_bytes();
    let answer = Client::new(&device.path("run/agent.sock")).post("/v1/attenuate", body).unwrap();
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    said["token"].as_str().unwrap_or_else(|| panic!("{said}")).to_owned()
}

/// The decisions that the device has on disk: reason, operation, resource.
fn decisions(device: &Device) -> Vec<String> {
    let output = device.run(&["audit", "tail", "-n", "100", "--kind", "decision"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")));
    let told = lines.map(|line| {
        let of = |name: &str| find(&line, name).unwrap_or_else(|| panic!("no {name} in {line}"));
        format!("{} {} {}", of("reason"), of("operation"), of("resource"))
    });
    told.collect()
}

/// A field wherever it lies.
fn find(value: &Value, name: &str) -> Option<String> {
    match value {
        Value::Object(fields) => match fields.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            _ => fields.values().find_map(|value| find(value, name)),
        },
        _ => None,
    }
}

fn text_of(call: &Value) -> &str {
    call["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{call}"))
}

/// What every transport must do with the story of [`job`].
fn check(seen: &Value, device: &Device, log: &PathBuf) {
    assert_eq!(seen["version"], "2025-11-25", "{seen}");
    assert_eq!(seen["tools"], json!(["read_file", "write_file"]));
    assert_eq!(seen["resources"], json!(["note://box/1"]));
    assert_eq!(seen["prompts"], json!(["greet"]));
    let calls = seen["calls"].as_array().unwrap();
    assert_eq!(text_of(&calls[0]), "content of /srv/a");
    assert_eq!(calls[1]["result"]["isError"], true, "{}", calls[1]);
    assert!(text_of(&calls[1]).starts_with("denied (no_right): "), "{}", calls[1]);
    assert!(calls[1]["result"]["_meta"]["hardtack/decision"].as_str().unwrap().starts_with("gw-07/"));
    assert_eq!(seen["reads"][0]["result"]["contents"][0]["text"], "first");
    assert_eq!(seen["reads"][1]["error"], -32003, "{seen}");
    assert!(seen["gets"][0]["result"]["messages"][0]["content"]["text"].as_str().unwrap().contains("hello you"));
    assert_eq!(seen["gets"][1]["error"], -32003);
    let reached = std::fs::read_to_string(log).unwrap();
    assert_eq!(reached.lines().collect::<Vec<_>>(), ["read_file /srv/a", "note 1"], "what was refused reached nobody");
    let recorded = [
        "allowed call mcp/files/read_file",
        "no_right call mcp/files/delete_file",
        "allowed read mcp/files/resources/note/box/1",
        "no_right read mcp/files/resources/note/box/2",
        "allowed get mcp/files/prompts/greet",
        "no_right get mcp/files/prompts/insult",
    ];
    let mut found = decisions(device);
    // What an enforcement point previews is on record, as what permits nothing.
    found.retain(|decision| decision != "no_right hardtack:preview token");
    assert_eq!(found, recorded, "one record for each call, and no other for a list");
}

fn job(place: Value) -> Value {
    let mut job = json!({
        "calls": [["read_file", {"path": "/srv/a"}], ["delete_file", {"path": "/srv/a"}]],
        "reads": ["note://box/1", "note://box/2"],
        "gets": ["greet", "insult"],
    });
    job.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
    job
}

fn environment(device: &Device) -> Value {
    let text = |name: &str| device.path(name).display().to_string();
    json!({"HARDTACK_STATE_DIR": text("state"), "HARDTACK_RUN_DIR": text("run"), "XDG_RUNTIME_DIR": text("")})
}

#[test]
fn over_stdio_lists_hide_and_each_call_is_decided_and_recorded() {
    let Some(python) = python() else { return };
    let device = Device::enrolled();
    let daemon = device.start();
    let log = device.path("log");
    let rights = RIGHTS.iter().flat_map(|right| ["--right", right]);
    let run: Vec<&str> = [HARDTACK, "run", "pump"].into_iter().chain(rights).collect();
    let proxy =
        ["--", HARDTACK, "mcp", "proxy", "--name", "files", "--", &python, PEER, "serve", log.to_str().unwrap()];
    let command: Vec<&str> = run.into_iter().chain(proxy).collect();
    let seen = ask(&python, &job(json!({"command": command, "env": environment(&device)})));
    check(&seen, &device, &log);
    daemon.stop();
}

#[test]
fn arguments_decide_and_the_server_sees_no_credential() {
    let Some(python) = python() else { return };
    let device = Device::enrolled();
    let daemon = device.start();
    let log = device.path("log");
    let token = begin(&device, &[&RIGHTS[..], &["call:mcp/files/environment"]].concat(), &[]);
    let check = r#"check if resource("mcp/files/environment") or argument("path", $p), $p.starts_with("/srv/")"#;
    let narrowed = narrow(&device, &token, check);
    let once = begin(&device, &["call:mcp/files/delete_file"], &["--uses", "1"]);
    let mut env = environment(&device);
    env["HARDTACK_TOKEN"] = narrowed.clone().into();
    let command = [HARDTACK, "mcp", "proxy", "--name", "files", "--", &python, PEER, "serve", log.to_str().unwrap()];
    let own = json!({"hardtack/token": once});
    let seen = ask(
        &python,
        &json!({"command": command, "env": env, "calls": [
            ["read_file", {"path": "/srv/a"}],
            ["read_file", {"path": "/etc/passwd"}],
            ["write_file", {"path": "/srv/b", "text": "x".repeat(300)}],
            ["write_file", {"text": "x"}],
            ["delete_file", {"path": "/srv/a"}, own],
            ["delete_file", {"path": "/srv/a"}, own],
            ["environment", {}],
        ]}),
    );
    assert_eq!(seen["tools"], json!(["environment", "read_file", "write_file"]), "what hangs on arguments is shown");
    let calls = seen["calls"].as_array().unwrap();
    assert_eq!(text_of(&calls[0]), "content of /srv/a");
    assert!(text_of(&calls[1]).starts_with("denied (check_failed): "), "{}", calls[1]);
    assert_eq!(text_of(&calls[2]), "wrote 300");
    assert!(text_of(&calls[3]).starts_with("denied (check_failed): "), "{}", calls[3]);
    assert_eq!(text_of(&calls[4]), "deleted", "a call with a credential of its own");
    assert!(text_of(&calls[5]).starts_with("denied (uses_spent): "), "{}", calls[5]);
    assert_eq!(text_of(&calls[6]), "[]", "the server's environment");
    let reached = std::fs::read_to_string(&log).unwrap();
    assert_eq!(reached.lines().collect::<Vec<_>>(), ["read_file /srv/a", "write_file /srv/b", "delete_file /srv/a"]);
    daemon.stop();
}

/// A process whose first line says where it serves.
struct Serving {
    child: Child,
    line: String,
}

impl Serving {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "{:?}", child.wait());
        Self { child, line }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A proxy before an upstream, and its port.
fn proxy(device: &Device, upstream: &str) -> (Serving, u16) {
    proxy_with(device, upstream, &[])
}

fn proxy_with(device: &Device, upstream: &str, more: &[&str]) -> (Serving, u16) {
    let args =
        ["mcp", "proxy", "--name", "files", "--listen", "127.0.0.1:0", "--message-bytes-max", "65536", "--upstream"];
    let serving = Serving::start(device.command(&[&args[..], &[upstream], more].concat()));
    let said: Value = serde_json::from_str(&serving.line).unwrap();
    let place = said["listens"].as_str().unwrap();
    let port = place.strip_prefix("http://127.0.0.1:").and_then(|rest| rest.strip_suffix("/mcp"));
    let port = port.unwrap_or_else(|| panic!("{place}")).parse().unwrap();
    (serving, port)
}

/// The SDK's server, which prints its port.
fn serve(python: &str, args: &[&str]) -> Serving {
    let mut server = Command::new(python);
    server.arg(PEER).args(args);
    Serving::start(server)
}

fn over_http(python: &str, answers: &str) {
    let device = Device::enrolled();
    let daemon = device.start();
    let log = device.path("log");
    let server = serve(python, &[answers, log.to_str().unwrap()]);
    let (_proxy, port) = proxy(&device, &format!("http://127.0.0.1:{}/mcp", server.line.trim()));
    let token = begin(&device, &RIGHTS, &[]);
    let url = format!("http://127.0.0.1:{port}/mcp");
    let seen = ask(python, &job(json!({"url": url, "token": token})));
    check(&seen, &device, &log);
    daemon.stop();
}

#[test]
fn over_http_streams_of_events_pass_without_what_may_not_be_used() {
    if let Some(python) = python() {
        over_http(&python, "serve-http");
    }
}

#[test]
fn over_http_answers_in_json_pass_as_well() {
    if let Some(python) = python() {
        over_http(&python, "serve-http-json");
    }
}

#[test]
fn a_server_behind_tls_proves_who_it_is_before_anything_reaches_it() {
    let Some(python) = python() else { return };
    let device = Device::enrolled();
    let daemon = device.start();
    let pem = |name: &str| {
        let pair = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let (own, with_key) = (device.path(name), device.path(&format!("{name}.key")));
        std::fs::write(&own, pair.cert.pem()).unwrap();
        std::fs::write(&with_key, pair.cert.pem() + &pair.key_pair.serialize_pem()).unwrap();
        (own.display().to_string(), with_key.display().to_string())
    };
    let ((own, with_key), (other, _)) = (pem("own"), pem("other"));
    let log = device.path("log");
    let server = serve(&python, &["serve-https", log.to_str().unwrap(), &with_key]);
    let url = |scheme: &str, host: &str| format!("{scheme}://{host}:{}/mcp", server.line.trim());
    let token = begin(&device, &RIGHTS, &[]);
    // Another authority, the system's, another name, and no TLS at all.
    for (url, more) in [
        (url("https", "localhost"), vec!["--ca", &other]),
        (url("https", "localhost"), vec![]),
        (url("https", "127.0.0.1"), vec!["--ca", &own]),
        (url("http", "localhost"), vec![]),
    ] {
        let (_proxy, port) = proxy_with(&device, &url, &more);
        let bearer = format!("authorization: Bearer {token}");
        let (status, text) = post(port, &["host: localhost", JSON, &bearer], PING);
        assert!(status == 502 && text.contains("does not answer"), "{url} {more:?}: {text}");
    }
    let (_proxy, port) = proxy_with(&device, &url("https", "localhost"), &["--ca", &own]);
    let seen = ask(&python, &job(json!({"url": format!("http://127.0.0.1:{port}/mcp"), "token": token})));
    check(&seen, &device, &log);
    daemon.stop();
}

/// What a server asks of its client, the tool of the tests' server that does so, and what it answers if it was let.
const ASKS: [(&str, &str, &str); 3] = [
    ("elicitation", "ask_person", "a person"),
    ("sampling", "ask_model", "a model"),
    ("roots", "ask_folders", "file:///srv"),
];

fn check_asked(seen: &Value, let_through: &[&str]) {
    assert_eq!(seen["asked"], json!(let_through), "{seen}");
    for ((what, _, answer), call) in ASKS.iter().zip(seen["calls"].as_array().unwrap()) {
        if let_through.contains(what) {
            assert!(text_of(call).starts_with(answer), "{call}");
        } else {
            assert!(call["result"]["isError"] == true || call["error"].is_i64(), "{what}: {call}");
        }
    }
}

#[test]
fn what_a_server_asks_of_its_client_passes_where_it_is_let_and_nowhere_else() {
    let Some(python) = python() else { return };
    let device = Device::enrolled();
    let daemon = device.start();
    let (log, environment) = (device.path("log"), environment(&device));
    let rights = ASKS.map(|(_, tool, _)| format!("call:mcp/files/{tool}"));
    let token = begin(&device, &rights.each_ref().map(String::as_str), &[]);
    let asking = |place: Value| {
        let mut job = json!({"calls": ASKS.map(|(_, tool, _)| json!([tool, {}]))});
        job.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
        ask(&python, &job)
    };
    let flags =
        |let_through: &[&'static str]| let_through.iter().flat_map(|what| ["--from-server", what]).collect::<Vec<_>>();
    for let_through in [&[][..], &["elicitation"], &["elicitation", "sampling", "roots"]] {
        let serve = ["--", &python, PEER, "serve", log.to_str().unwrap()];
        let command = [&[HARDTACK, "mcp", "proxy", "--name", "files"], &flags(let_through)[..], &serve].concat();
        let mut env = environment.clone();
        env["HARDTACK_TOKEN"] = token.clone().into();
        check_asked(&asking(json!({"command": command, "env": env})), let_through);
    }
    let server = serve(&python, &["serve-http", log.to_str().unwrap()]);
    let upstream = format!("http://127.0.0.1:{}/mcp", server.line.trim());
    let let_through = ["elicitation", "sampling"];
    let (_proxy, port) = proxy_with(&device, &upstream, &flags(&let_through));
    let url = format!("http://127.0.0.1:{port}/mcp");
    check_asked(&asking(json!({"url": url, "token": token})), &let_through);
    daemon.stop();
}

/// Sends these bytes, and reads status and body of what comes back.
fn send(port: u16, bytes: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be answered before all is sent.
    let _ = stream.write_all(bytes);
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    let text = String::from_utf8_lossy(&all).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{text:?}"));
    (status, text)
}

fn post(port: u16, headers: &[&str], body: &str) -> (u16, String) {
    let lines: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    let head = format!("POST /mcp HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n{lines}\r\n");
    send(port, format!("{head}{body}").as_bytes())
}

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
const JSON: &str = "content-type: application/json";

#[test]
fn over_http_whoever_is_out_for_trouble_is_told_so_and_reaches_nobody() {
    let device = Device::enrolled();
    let daemon = device.start();
    // A server that takes whatever reaches it for a failure.
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_proxy, port) = proxy(&device, &format!("http://{}/mcp", listening.local_addr().unwrap()));
    let bearer = format!("authorization: Bearer {}", device.begin());
    let (host, bearer) = ("host: localhost", bearer.as_str());
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"delete_file"}}"#;
    let cased = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Arguments":{"path":"/b"}}}"#;
    let twins = r#"{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call","params":{}}"#;
    let doubled = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#;
    let deep =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{}1{}}}"#, "{\"a\":".repeat(900), "}".repeat(900));
    let large = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":"{}"}}}}"#, "x".repeat(70_000));
    for (headers, body, status, says) in [
        (vec![host, JSON], PING, 401, "no token"),
        (vec![host, JSON, "authorization: Bearer AAAA"], PING, 401, "malformed"),
        (vec![host, JSON, bearer, bearer], PING, 401, "once"),
        (vec![host, JSON, "authorization: Basic eDp5"], PING, 401, "Bearer TOKEN"),
        (vec![JSON, bearer, "host: evil.example"], PING, 403, "--allow-host"),
        (vec![JSON, bearer, "host: localhost", "host: evil.example"], PING, 403, "--allow-host"),
        (vec![JSON, bearer], PING, 403, "--allow-host"),
        (vec![host, JSON, bearer, "origin: http://evil.example"], PING, 403, "--allow-origin"),
        (vec![host, JSON, bearer, "origin: null"], PING, 403, "--allow-origin"),
        (vec![host, bearer, "content-type: text/plain"], PING, 415, "application/json"),
        (vec![host, JSON, bearer, "mcp-protocol-version: 1999-01-01"], PING, 400, "2025-11-25"),
        (vec![host, JSON, bearer, "mcp-session-id: a", "mcp-session-id: b"], PING, 400, "more than once"),
        (vec![host, JSON, bearer], "garbage", 400, "-32700"),
        (vec![host, JSON, bearer], "[]", 400, "batches"),
        (vec![host, JSON, bearer], doubled, 400, "twice"),
        (vec![host, JSON, bearer], cased, 200, "-32602"),
        (vec![host, JSON, bearer], twins, 400, "one name"),
        (vec![host, JSON, bearer], &deep, 400, "deep"),
        (vec![host, JSON, bearer], &large, 413, "65536"),
        (vec![host, JSON, bearer], call, 200, "denied (no_right)"),
        (vec![host, JSON, bearer], &call.replace("delete_file", "a/../b"), 200, "denied (malformed)"),
        (vec![host, JSON, bearer], &call.replace("tools/call", "tools/purge"), 200, "-32601"),
        (vec![host, JSON, bearer], &call.replace("\"id\":1,", ""), 202, ""),
    ] {
        let (found, text) = post(port, &headers, body);
        assert!(found == status && text.contains(says), "{headers:?} {body:.80}: {text}");
    }
    let at = |method: &str, path: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\n{host}\r\n{bearer}\r\nconnection: close\r\n\r\n");
        send(port, head.as_bytes()).0
    };
    assert_eq!((at("PUT", "/mcp"), at("GET", "/other"), at("GET", "/mcp/../x")), (405, 404, 404));
    assert_eq!(send(port, b"garbage\r\n\r\n").0, 400);
    // Of what is large, or may be, nothing is read before it is known whose it is.
    for length in ["content-length: 65537", "transfer-encoding: chunked"] {
        let head = "POST /mcp HTTP/1.1\r\nconnection: close\r\nauthorization: Bearer AAAA";
        let (status, text) = send(port, format!("{head}\r\n{host}\r\n{JSON}\r\n{length}\r\n\r\n").as_bytes());
        assert!(status == 401 && text.contains("malformed"), "{text}");
    }
    listening.set_nonblocking(true).unwrap();
    let nobody = listening.accept().map_err(|error| error.kind());
    assert_eq!(nobody.err(), Some(std::io::ErrorKind::WouldBlock), "nothing reached the server");
    // Who cannot ask lets nobody through.
    daemon.stop();
    let (status, text) = post(port, &[host, JSON, bearer], call);
    assert!(status == 200 && text.contains("denied (no_decision)"), "{text}");
    assert_eq!(post(port, &[host, JSON, bearer], PING).0, 503);
}

/// Reads the head of a request.
fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// A stream of events by this credential, at both ends.
fn stream(port: u16, listening: &TcpListener, token: &str) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        client,
        "GET /mcp HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
    )
    .unwrap();
    let (mut upstream, _) = listening.accept().unwrap();
    let head = head(&mut upstream);
    assert!(!head.contains(token) && !head.to_lowercase().contains("authorization"), "{head}");
    write!(upstream, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n").unwrap();
    (client, upstream)
}

#[test]
fn a_stream_ends_with_its_task() {
    let device = Device::enrolled();
    let daemon = device.start();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_proxy, port) = proxy(&device, &format!("http://{}/mcp", listening.local_addr().unwrap()));
    let task = device.ok(&["task", "begin", "pump", "--right", RIGHTS[0]]);
    let (mut client, mut upstream) = stream(port, &listening, task["token"].as_str().unwrap());
    let events = [
        json!({"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {}}),
        json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "hello"}}),
    ];
    events.iter().for_each(|event| write!(upstream, "data: {event}\n\n").unwrap());
    // What the server asks of its client is answered in its place.
    let (mut refusal, _) = listening.accept().unwrap();
    refusal.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("-32601") {
        let mut some = [0; 1024];
        let count = refusal.read(&mut some).unwrap();
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&some[..count]);
    }
    device.ok(&["task", "finish", task["task_id"].as_str().unwrap()]);
    let mut seen = String::new();
    client.read_to_string(&mut seen).unwrap();
    assert!(seen.contains("hello") && !seen.contains("sampling") && seen.ends_with("0\r\n\r\n"), "{seen}");
    daemon.stop();
}

/// Whoever ended the task does not want what was under way in it.
#[test]
fn an_answer_that_takes_longer_than_its_task_is_none() {
    let device = Device::enrolled();
    let daemon = device.start();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_proxy, port) = proxy(&device, &format!("http://{}/mcp", listening.local_addr().unwrap()));
    let task = device.ok(&["task", "begin", "pump", "--right", RIGHTS[0]]);
    let bearer = format!("authorization: Bearer {}", task["token"].as_str().unwrap());
    let asking = std::thread::spawn(move || post(port, &["host: localhost", JSON, &bearer], PING));
    let (mut upstream, _) = listening.accept().unwrap();
    head(&mut upstream);
    write!(upstream, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 40\r\n\r\n{{").unwrap();
    device.ok(&["task", "finish", task["task_id"].as_str().unwrap()]);
    let (status, text) = asking.join().unwrap();
    assert!(status == 401 && text.contains("the credential ended"), "{text}");
    daemon.stop();
}

#[test]
fn a_stream_that_nobody_reads_ends_with_its_task_too() {
    let device = Device::enrolled();
    let daemon = device.start();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_proxy, port) = proxy(&device, &format!("http://{}/mcp", listening.local_addr().unwrap()));
    let task = device.ok(&["task", "begin", "pump", "--right", RIGHTS[0]]);
    let (_client, mut upstream) = stream(port, &listening, task["token"].as_str().unwrap());
    let event = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x".repeat(30_000)}});
    // Until nothing goes any further, from here to the client.
    upstream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while upstream.write_all(format!("data: {event}\n\n").as_bytes()).is_ok() {}
    device.ok(&["task", "finish", task["task_id"].as_str().unwrap()]);
    upstream.set_read_timeout(Some(PATIENCE)).unwrap();
    let ended = upstream.read(&mut [0; 16]).map_err(|error| error.kind());
    assert!(matches!(ended, Ok(0) | Err(std::io::ErrorKind::ConnectionReset)), "{ended:?}");
    daemon.stop();
}

#[test]
fn a_stream_ends_where_nobody_can_say_any_more_that_its_credential_is_good() {
    let device = Device::enrolled();
    let daemon = device.start();
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_proxy, port) = proxy(&device, &format!("http://{}/mcp", listening.local_addr().unwrap()));
    let (mut client, _upstream) = stream(port, &listening, &device.begin());
    daemon.stop();
    let mut seen = String::new();
    client.read_to_string(&mut seen).unwrap();
    assert!(seen.ends_with("0\r\n\r\n"), "{seen}");
}

#[test]
fn a_unix_socket_is_for_everybody_taken_over_after_a_crash_and_gone_after_an_end() {
    let device = Device::enrolled();
    let path = device.path("mcp.sock");
    let place = format!("unix:{}", path.display());
    let start = || {
        let args = ["mcp", "proxy", "--name", "files", "--upstream", "http://127.0.0.1:9/mcp", "--listen", &place];
        Serving::start(device.command(&args))
    };
    let mode = || std::fs::symlink_metadata(&path).map(|found| found.permissions().mode() & 0o777);
    let mut first = start();
    assert_eq!(mode().unwrap(), 0o666);
    let taken = device
        .exits(&["mcp", "proxy", "--name", "files", "--upstream", "http://127.0.0.1:9/mcp", "--listen", &place], 1);
    assert!(taken.contains("another process already serves"), "{taken}");
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    assert_eq!(mode().unwrap(), 0o666, "it left its socket behind");
    let mut second = start();
    kill_process(Pid::from_child(&second.child), Signal::TERM).unwrap();
    assert!(second.child.wait().unwrap().success());
    assert_eq!(mode().map_err(|error| error.kind()), Err(std::io::ErrorKind::NotFound));
}

#[test]
fn on_a_unix_socket_one_user_has_half_of_the_connections() {
    let device = Device::enrolled();
    let path = device.path("mcp.sock");
    let place = format!("unix:{}", path.display());
    let args = ["mcp", "proxy", "--name", "files", "--upstream", "http://127.0.0.1:9/mcp", "--listen", &place];
    let _proxy = Serving::start(device.command(&args));
    // Without a credential a connection is answered, and goes on.
    let answered = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // One too many is closed, be it before it was heard.
        let _ = stream.write_all(b"GET /mcp HTTP/1.1\r\nhost: localhost\r\n\r\n");
        let mut some = [0; 4096];
        let is_told = stream.read(&mut some).is_ok_and(|count| some[..count].starts_with(b"HTTP/1.1 401 "));
        is_told.then_some(stream)
    };
    let held: Vec<UnixStream> = std::iter::from_fn(answered).take(128).collect();
    assert_eq!(held.len(), 64, "of 128");
}

/// A proxy over stdio before `cat`, which says again what it hears.
struct Echo {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Echo {
    fn start(device: &Device, token: &str) -> Self {
        let args = ["mcp", "proxy", "--name", "files", "--message-bytes-max", "65536", "--", "cat"];
        let mut command = device.command(&args);
        let mut child = command
            .env("PATH", "/usr/bin:/bin")
            .env("HARDTACK_TOKEN", token)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, output }
    }

    fn say(&mut self, line: &[u8]) -> Value {
        self.input.write_all(line).unwrap();
        self.input.write_all(b"\n").unwrap();
        let mut answer = String::new();
        self.output.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
    }
}

#[test]
fn over_stdio_whoever_is_out_for_trouble_is_told_so_and_served_still() {
    let device = Device::enrolled();
    let daemon = device.start();
    let mut echo = Echo::start(&device, &device.begin());
    for (line, code) in [
        (&b"garbage"[..], -32700),
        (b"\xff\xfe", -32700),
        (b"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":null,\"method\":\"ping\"}", -32600),
        (&[b'['; 5000], -32700),
        (&[b'x'; 100_000], -32600),
    ] {
        assert_eq!(echo.say(line)["error"]["code"], code, "{:.80}", String::from_utf8_lossy(line));
    }
    let denied = echo.say(br#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"x"}}"#);
    assert_eq!((&denied["id"], &denied["result"]["isError"]), (&json!("a"), &json!(true)));
    // What passes comes back from `cat`: a ping, which a server may send as well.
    assert_eq!(
        echo.say(b"\n{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"ping\",\"x\":1}"),
        serde_json::from_str::<Value>(PING)
            .unwrap()
            .as_object()
            .map(|ping| {
                let mut ping = ping.clone();
                ping.insert("id".into(), 9.into());
                Value::Object(ping)
            })
            .unwrap()
    );
    // A message that does not end is none.
    echo.input.write_all(br#"{"jsonrpc":"2.0","id":10,"method":"ping"}"#).unwrap();
    drop(echo.input);
    let mut rest = String::new();
    echo.output.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), echo.child.wait().unwrap().code()), ("", Some(0)));
    daemon.stop();
}

#[test]
fn over_stdio_a_server_ends_with_what_it_started_when_the_proxy_is_asked_to_end() {
    let device = Device::enrolled();
    let log = device.path("log");
    // The other process holds the server's output, and neither listens to the end of its input.
    let script = r#"trap 'echo ended >> "$0"; exit 0' TERM; sleep 1000 & echo "$!" > "$0"; echo; wait"#;
    let args = ["mcp", "proxy", "--name", "files", "--", "/bin/sh", "-c", script, log.to_str().unwrap()];
    let mut command = device.command(&args);
    command.env("PATH", "/usr/bin:/bin").env("HARDTACK_TOKEN", "En0K").stdin(Stdio::piped());
    let mut proxy = command.stdout(Stdio::piped()).spawn().unwrap();
    let written = || std::fs::read_to_string(&log).unwrap_or_default();
    until(|| written().ends_with('\n'));
    let other = written().trim().to_owned();
    kill_process(Pid::from_child(&proxy), Signal::TERM).unwrap();
    assert_eq!(proxy.wait().unwrap().code(), Some(0));
    assert_eq!(written(), format!("{other}\nended\n"));
    // It was told at the same time; when it has heard nobody says.
    until(|| !is_sleeping(&other));
}

/// Waits for what nothing tells.
#[track_caller]
fn until(is_so: impl Fn() -> bool) {
    for _ in 0..6000 {
        if is_so() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not come to that");
}

/// Whether a process of that number is a `sleep` that has not ended.
fn is_sleeping(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains("(sleep)") && !stat.contains("(sleep) Z")
}

#[test]
fn a_proxy_without_a_credential_does_not_start() {
    let device = Device::enrolled();
    assert!(device.exits(&["mcp", "proxy", "--name", "files", "--", "cat"], 2).contains("HARDTACK_TOKEN_FILE"));
    assert!(device.exits(&["mcp", "proxy", "--name", "a/b", "--", "cat"], 2).contains("--name"));
    assert!(device.exits(&["mcp", "proxy", "--name", "a"], 2).contains("SERVER"));
    let outside = ["mcp", "proxy", "--name", "a", "--listen", "0.0.0.0:0", "--upstream", "http://x/"];
    assert!(device.exits(&outside, 2).contains("127.0.0.1"));
    let plain = ["mcp", "proxy", "--name", "a", "--listen", "127.0.0.1:0", "--upstream", "http://x/", "--ca", "x"];
    assert!(device.exits(&plain, 2).contains("no certificate"));
}
