//! The proxy that holds legacy secrets: a real agent, real upstreams, and programs that try everything to see a value.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use hardtack::shell::cast::{path, user, Fleet, Gateway, Stage};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::{json, Value};

use crate::daemon::{Device, EXECUTOR_UID};
use crate::support::cannot_run;

/// Whoever waits longer than this has found a bug.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the proxy waits in these tests.
const PROXY_PATIENCE: Duration = Duration::from_secs(2);

const SECRET: &str = "sk/live+8f3a=\"Q~secret&value";
const BASE: &str = "/v1/orders";

/// A request as the upstream got it.
#[derive(Clone, Debug)]
struct Got {
    line: String,
    headers: BTreeMap<String, Vec<String>>,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        let values = self.headers.get(name)?;
        assert_eq!(values.len(), 1, "{name}: {values:?}");
        Some(&values[0])
    }
}

/// A system that wants a long-lived key. It answers by the last segment of the path.
struct Upstream {
    port: u16,
    got: Arc<Mutex<Vec<Got>>>,
}

impl Upstream {
    fn start(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let all = got.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (tls, all) = (tls.clone(), all.clone());
                std::thread::spawn(move || {
                    // One that breaks off is the test's affair.
                    let _ = match tls {
                        None => serve(stream, &all),
                        Some(config) => {
                            let connection = rustls::ServerConnection::new(config).unwrap();
                            serve(rustls::StreamOwned::new(connection, stream), &all)
                        }
                    };
                });
            }
        });
        Self { port, got }
    }

    /// What came since the last call.
    fn got(&self) -> Vec<Got> {
        std::mem::take(&mut self.got.lock().unwrap())
    }
}

fn serve(stream: impl Read + Write, all: &Mutex<Vec<Got>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let got = read_request(&mut stream)?;
    let target = got.line.split(' ').nth(1).unwrap_or_default().to_owned();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    all.lock().unwrap().push(got.clone());
    let stream = stream.get_mut();
    let said: String = got.headers.iter().map(|(name, values)| format!("{name}: {}\n", values.join(", "))).collect();
    let mut plain = |head: &str, body: &[u8]| {
        write!(stream, "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
        stream.write_all(body)?;
        stream.flush()
    };
    match path.rsplit('/').next().unwrap_or_default() {
        "echo" => {
            // All that was said, in several spellings, in pieces of three bytes.
            let escaped = serde_json::to_string(&said).unwrap();
            let percent: String = SECRET.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let body = format!(
                "{said}\n{target}\n{escaped}\n{percent}\n{}\n{}\nend\n",
                BASE64.encode(format!("user:{SECRET}").as_bytes()),
                HEXLOWER.encode(SECRET.as_bytes()),
            );
            write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Echo: {SECRET}\r\n\r\n")?;
            for piece in body.as_bytes().chunks(3) {
                write!(stream, "{:x}\r\n", piece.len())?;
                stream.write_all(piece)?;
                stream.write_all(b"\r\n")?;
                stream.flush()?;
            }
            write!(stream, "0\r\nX-Trailer: {SECRET}\r\n\r\n")?;
            stream.flush()
        }
        "redirect" => {
            let percent: String = SECRET.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let head = format!("302 Found\r\nLocation: http://127.0.0.1:1/?key={percent}\r\nSet-Cookie: session=s1");
            plain(&head, b"over there\n")
        }
        "gzip" => plain("200 OK\r\nContent-Encoding: gzip", SECRET.as_bytes()),
        "part" => plain("206 Partial Content\r\nContent-Range: bytes 0-3/28", &SECRET.as_bytes()[..4]),
        "denied" => plain("401 Unauthorized\r\nWWW-Authenticate: Key", b"no\n"),
        "length" => plain("200 OK", format!("{}\n", got.body.len()).as_bytes()),
        "big" => plain("200 OK", &vec![b'b'; 3 << 20]),
        "silent" => {
            // Until the other side gives up.
            let _ = stream.read(&mut [0])?;
            Ok(())
        }
        "stalls" => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegin")?;
            stream.flush()?;
            let _ = stream.read(&mut [0])?;
            Ok(())
        }
        "garbage" => {
            stream.write_all(b"\x00\x01 no HTTP at all\r\n\r\n")?;
            stream.flush()
        }
        _ => plain("200 OK\r\nX-Kind: meter", b"reading\n"),
    }
}

fn read_request(stream: &mut impl BufRead) -> std::io::Result<Got> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header)?;
        let header = header.trim_end();
        let Some((name, value)) = header.split_once(':') else { break };
        headers.entry(name.to_ascii_lowercase()).or_default().push(value.trim().to_owned());
    }
    let mut body = Vec::new();
    if headers.contains_key("transfer-encoding") {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size)?;
            let size = usize::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
            let mut piece = vec![0; size + 2];
            stream.read_exact(&mut piece)?;
            body.extend_from_slice(&piece[..size]);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = headers.get("content-length") {
        body = vec![0; length[0].parse().map_err(std::io::Error::other)?];
        stream.read_exact(&mut body)?;
    }
    Ok(Got { line: line.trim_end().to_owned(), headers, body })
}

/// What came back.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    /// Whether all of the body came that was announced.
    is_whole: bool,
}

impl Answer {
    fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Answer {
    // The proxy may answer before it has read all.
    let _ = stream.write_all(request);
    let mut all = Vec::new();
    // A connection that is reset has said what it had to say.
    let _ = stream.read_to_end(&mut all);
    let at = all.windows(4).position(|window| window == b"\r\n\r\n");
    let at =
        at.unwrap_or_else(|| panic!("no answer to {:?}", String::from_utf8_lossy(&request[..request.len().min(300)])));
    let head = String::from_utf8(all[..at].to_vec()).unwrap();
    let rest = &all[at + 4..];
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let lower = head.to_ascii_lowercase();
    if !lower.contains("transfer-encoding: chunked") {
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let is_whole = length.is_none_or(|length: usize| length == rest.len());
        return Answer { status, head, body: rest.to_vec(), is_whole };
    }
    let (mut body, mut rest, mut is_whole) = (Vec::new(), rest, false);
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            is_whole = true;
            break;
        }
        let Some(piece) = rest.get(end + 2..end + 2 + size) else { break };
        body.extend_from_slice(piece);
        rest = rest.get(end + 2 + size + 2..).unwrap_or_default();
    }
    Answer { status, head, body, is_whole }
}

/// A running proxy. Its log is read as it comes.
struct Proxy {
    child: Child,
    socket: PathBuf,
    port: u16,
    said: Mutex<(mpsc::Receiver<String>, Vec<String>)>,
}

impl Proxy {
    fn start(device: &Device, more: &[&str]) -> Self {
        let command = proxy_command(device, more);
        Self::start_by(command, device.path("secrets.sock"))
    }

    fn start_by(mut command: Command, socket: PathBuf) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut proxy = Self { child, socket, port: 0, said: Mutex::new((lines, Vec::new())) };
        let listen = proxy.wait_for("secrets.ready")["listen"].as_str().unwrap().to_owned();
        let port = listen.split(' ').find_map(|place| place.strip_prefix("127.0.0.1:"));
        proxy.port = port.unwrap().parse().unwrap();
        proxy
    }

    #[track_caller]
    fn wait_for(&self, event: &str) -> Value {
        let (lines, log) = &mut *self.said.lock().unwrap();
        loop {
            let Ok(line) = lines.recv_timeout(PATIENCE) else { panic!("no {event} in {log:#?}") };
            log.push(line.clone());
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if line["event"] == event {
                return line;
            }
        }
    }

    fn send(&self, request: &[u8]) -> Answer {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(stream, request)
    }

    fn ask(&self, method: &str, target: &str, headers: &[&str]) -> Answer {
        self.send(request(method, target, headers).as_bytes())
    }

    /// Ends it, and gives all that it logged.
    fn stop(mut self) -> String {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.wait_for("secrets.stopped");
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let said = self.said.lock().unwrap().1.join("\n");
        said
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Gone already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn request(method: &str, target: &str, headers: &[&str]) -> String {
    let lines: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!("{method} {target} HTTP/1.1\r\nHost: secrets.local\r\nConnection: close\r\n{lines}\r\n")
}

fn proxy_command(device: &Device, more: &[&str]) -> Command {
    let (dir, socket) = (device.path("vault"), device.path("secrets.sock"));
    let patience = format!("{}s", PROXY_PATIENCE.as_secs());
    let args = ["secrets", "--dir", path(&dir), "serve", "--listen", path(&socket), "--listen", "127.0.0.1:0"];
    device.command(&[&args[..], &["--patience", &patience], more].concat())
}

/// `hardtack secrets …` with this on stdin: the exit code, stdout and stderr.
fn secrets(device: &Device, args: &[&str], stdin: &str) -> (Option<i32>, String, String) {
    let dir = device.path("vault");
    secrets_by(device.command(&[&["secrets", "--dir", path(&dir)], args].concat()), stdin)
}

fn secrets_by(mut command: Command, stdin: &str) -> (Option<i32>, String, String) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn add(device: &Device, name: &str, upstream: &str, place: &[&str], more: &[&str]) {
    let rules = ["GET", "HEAD", "PUT", "DELETE"].map(|method| format!("{method}:{BASE}/*"));
    let mut args = vec!["add", name, "--upstream", upstream];
    rules.iter().for_each(|rule| args.extend(["--allow", rule]));
    args.extend(place);
    args.extend(more);
    let added = secrets(device, &args, &format!("{SECRET}\n"));
    assert_eq!(added.0, Some(0), "{}", added.2);
}

const BEARER: [&str; 2] = ["--header", "X-Api-Key: Key {}"];

/// A device with an agent, an upstream, and a proxy that holds its key as `crm`.
struct Rig {
    device: Device,
    agent: crate::daemon::Daemon,
    upstream: Upstream,
    proxy: Proxy,
    token: String,
}

impl Rig {
    fn start(more: &[&str]) -> Self {
        let device = Device::enrolled();
        let agent = device.start();
        let upstream = Upstream::start(None);
        add(&device, "crm", &format!("http://127.0.0.1:{}", upstream.port), &BEARER, &[]);
        let proxy = Proxy::start(&device, more);
        let token = begin(&device, &[]);
        Self { device, agent, upstream, proxy, token }
    }

    /// Asks with the token.
    fn ask(&self, method: &str, path: &str, headers: &[&str]) -> Answer {
        let bearer = format!("Authorization: Bearer {}", self.token);
        self.proxy.ask(method, &format!("/crm{path}"), &[&[bearer.as_str()], headers].concat())
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", &format!("{BASE}{path}"), &[])
    }
}

fn begin(device: &Device, more: &[&str]) -> String {
    let args = ["task", "begin", "pump", "--right", "read:secret/crm/*", "--right", "write:secret/crm/*"];
    let task = device.ok(&[&args[..], more].concat());
    task["token"].as_str().unwrap().to_owned()
}

/// Every way in which the value could stand in a text.
#[track_caller]
fn check_absent(text: &[u8], what: &str) {
    let percent: String = SECRET.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let json = serde_json::to_string(SECRET).unwrap();
    let base64 = BASE64.encode(SECRET.as_bytes());
    let spellings = [SECRET, &percent, json.trim_matches('"'), &base64[..32], &HEXLOWER.encode(SECRET.as_bytes())];
    for spelling in spellings {
        let found = text.windows(spelling.len()).any(|window| window.eq_ignore_ascii_case(spelling.as_bytes()));
        assert!(!found, "{what}: {spelling} in {}", String::from_utf8_lossy(text));
    }
}

#[test]
fn a_secret_goes_into_requests_that_a_credential_allows_and_nowhere_else() {
    let rig = Rig::start(&[]);
    let allowed = rig.ask("GET", "/v1/orders/7?unit=bar", &["X-Tenant: a", "Accept-Encoding: gzip", "X-Api-Key: mine"]);
    assert_eq!((allowed.status, allowed.text().as_str()), (200, "reading\n"), "{}", allowed.head);
    assert_eq!(allowed.header("x-kind"), Some("meter"));
    let id = allowed.header("hardtack-decision-id").unwrap().to_owned();
    assert!(id.starts_with("gw-07/"));
    let got = rig.upstream.got();
    assert_eq!((got.len(), got[0].line.as_str()), (1, "GET /v1/orders/7?unit=bar HTTP/1.1"));
    assert_eq!(got[0].header("x-api-key"), Some(format!("Key {SECRET}").as_str()), "the client's own is replaced");
    let host = format!("127.0.0.1:{}", rig.upstream.port);
    assert_eq!(got[0].header("host"), Some(host.as_str()));
    assert_eq!((got[0].header("x-tenant"), got[0].header("accept-encoding")), (Some("a"), Some("identity")));
    assert_eq!((got[0].header("authorization"), got[0].header("hardtack-token")), (None, None));

    let put = rig.send_body("PUT", "/v1/orders/7", b"setpoint=7");
    assert_eq!(put.status, 200);
    assert_eq!(rig.upstream.got()[0].body, b"setpoint=7");
    assert_eq!(rig.ask("HEAD", "/v1/orders/7", &[]).header("content-length"), Some("8"));
    rig.upstream.got();

    // Each refusal has its status and its code, and the upstream hears nothing.
    let other = begin(&rig.device, &[]);
    let narrowed = |check: &str| {
        let narrowed = rig.device.ok(&["token", "attenuate", &other, "--agent", "--ttl", "5m", "--check", check]);
        narrowed["token"].as_str().unwrap().to_owned()
    };
    let elsewhere = narrowed(r#"check if destination("other.example")"#);
    let here = narrowed(&format!("check if destination(\"{host}\")"));
    let planner = begin(&rig.device, &["--planner"]);
    let finished = rig.device.ok(&["task", "begin", "pump", "--right", "read:secret/crm/*"]);
    rig.device.ok(&["task", "finish", finished["task_id"].as_str().unwrap()]);
    let finished = finished["token"].as_str().unwrap();
    let meter = rig.device.begin();
    let token = rig.token.as_str();
    let table: &[(&str, &str, Option<&str>, u16, &str)] = &[
        ("GET", "/crm/v1/orders/7", None, 401, "no_token"),
        ("GET", "/unknown/v1/orders/7", None, 401, "no_token"),
        // What there is, and what its rules are, learns whoever has a right to it.
        ("GET", "/unknown/v1/orders/7", Some("AAAA"), 401, "malformed"),
        ("POST", "/crm/v1/users/7", Some("AAAA"), 401, "malformed"),
        ("GET", "/unknown/v1/orders/7", Some(token), 403, "no_right"),
        ("POST", "/crm/v1/orders/7", Some(token), 403, "no_rule"),
        ("GET", "/crm/v1/users/7", Some(token), 403, "no_rule"),
        ("GET", "/crm/v1/orders", Some(token), 403, "no_rule"),
        ("GET", "/crm/v1/orders/../users/7", Some(token), 403, "malformed"),
        ("GET", "/crm/v1/orders/%2e%2e/users", Some(token), 403, "malformed"),
        ("GET", "/crm/v1/orders/a%2f..%2f..%2fusers", Some(token), 403, "malformed"),
        ("GET", "/crm/v1/orders//7", Some(token), 403, "malformed"),
        ("GET", "/crm/v1/orders/..;/users", Some(token), 403, "malformed"),
        ("GET", "/crm//v1/orders/7", Some(token), 403, "malformed"),
        ("DELETE", "/crm/v1/orders/7", Some(token), 403, "no_right"),
        ("GET", "/crm/v1/orders/7", Some("AAAA"), 401, "malformed"),
        ("GET", "/crm/v1/orders/7", Some(finished), 401, "revoked"),
        ("GET", "/crm/v1/orders/7", Some(&planner), 403, "no_right"),
        ("GET", "/crm/v1/orders/7", Some(&meter), 403, "no_right"),
        ("GET", "/crm/v1/orders/7", Some(&elsewhere), 403, "check_failed"),
        ("CONNECT", "crm:80", Some(token), 400, "invalid_request"),
        ("TRACE", "/crm/v1/orders/7", Some(token), 400, "invalid_request"),
        ("GET", "/", Some(token), 400, "invalid_request"),
        ("GET", "/crm/v1/orders/%zz", Some(token), 400, "invalid_request"),
    ];
    for (method, target, token, status, code) in table {
        let bearer = token.map(|token| format!("Authorization: Bearer {token}"));
        let refused = rig.proxy.ask(method, target, &bearer.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((refused.status, refused.code().as_str()), (*status, *code), "{method} {target}");
        if token == &Some("AAAA") {
            assert!(refused.header("hardtack-decision-id").is_some(), "{method} {target}: it has its record");
        }
    }
    assert_eq!(rig.upstream.got().len(), 0, "nothing of these went on");
    let allowed = rig.proxy.ask("GET", "/crm/v1/orders/7", &[&format!("Hardtack-Token: {here}")]);
    assert_eq!(allowed.status, 200, "{}", String::from_utf8_lossy(&allowed.body));
    let refused = rig.proxy.ask("DELETE", "/crm/v1/orders/7", &[&format!("Authorization: Bearer {token}")]);
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(challenge.contains("scope=\"delete:secret/crm/v1/orders/7\""), "{challenge}");

    // The record of the use names who, what, where to, and who asked.
    let lines = rig.device.command(&["audit", "tail", "-n", "1000"]).output().unwrap().stdout;
    let text = String::from_utf8(lines.clone()).unwrap();
    let record =
        text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(|line| line["id"] == id.as_str());
    let record = record.unwrap();
    assert_eq!((&record["operation"], &record["resource"]), (&"read".into(), &"secret/crm/v1/orders/7".into()));
    assert_eq!((&record["destination"], &record["owner"]), (&host.as_str().into(), &"ops@acme".into()));
    let uid = json!(format!("unix:uid:{}", user()));
    assert_eq!((&record["workload"][0], &record["enforcer"][0]), (&uid, &uid));

    // In no file, list or log is the value; the log has the decision.
    let Rig { device, agent, proxy, .. } = rig;
    let log = proxy.stop();
    assert!(log.contains(&id) && log.contains("secret.refused"), "{log}");
    agent.stop();
    let (_, listed, _) = secrets(&device, &["list"], "");
    let row = &serde_json::from_str::<Value>(&listed).unwrap()["secrets"][0];
    assert_eq!((&row["name"], &row["uses"], &row["kept"]), (&"crm".into(), &4.into(), &"sealed".into()));
    assert!(row["last_used"].is_string() && row["refused"].as_u64() >= Some(10), "{row}");
    for (text, what) in [(lines, "the records"), (log.into_bytes(), "the log"), (listed.into_bytes(), "the list")] {
        check_absent(&text, what);
    }
    let mut folders = vec![device.path("")];
    while let Some(folder) = folders.pop() {
        for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
            match file.is_dir() {
                true => folders.push(file),
                false if file.is_file() => check_absent(&std::fs::read(&file).unwrap(), path(&file)),
                false => {}
            }
        }
    }
}

impl Rig {
    fn send_body(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let headers = [format!("Authorization: Bearer {}", self.token), format!("Content-Length: {}", body.len())];
        let head = request(method, &format!("/crm{path}"), &[&headers[0], &headers[1]]);
        self.proxy.send(&[head.as_bytes(), body].concat())
    }
}

#[test]
fn what_an_upstream_echoes_does_not_come_back() {
    let rig = Rig::start(&[]);
    let echoed = rig.get("/echo");
    assert!(echoed.status == 200 && echoed.is_whole && echoed.text().ends_with("\nend\n"), "{}", echoed.text());
    check_absent(&echoed.body, "the body");
    check_absent(echoed.head.as_bytes(), "the head");
    assert_eq!(echoed.header("x-trailer"), None);
    assert!(echoed.text().contains("x-api-key: Key ****"), "{}", echoed.text());
    let told = rig.proxy.wait_for("secret.echoed");
    assert_eq!((&told["place"], &told["found"]), (&"headers".into(), &1.into()));
    assert!(rig.proxy.wait_for("secret.echoed")["found"].as_u64() >= Some(5));

    let moved = rig.get("/redirect");
    assert_eq!((moved.status, moved.text().as_str()), (302, "over there\n"));
    let location = moved.header("location").unwrap();
    assert!(location.starts_with("http://127.0.0.1:1/?key=***"), "{location}");
    assert_eq!(moved.header("set-cookie"), None, "a session is a credential");
    assert_eq!(rig.get("/denied").status, 401, "the upstream's own refusals come back");
    for unreadable in ["/gzip", "/part"] {
        let refused = rig.get(unreadable);
        assert_eq!((refused.status, refused.code().as_str()), (502, "upstream_unreadable"), "{unreadable}");
    }
    rig.upstream.got();
    rig.ask("GET", "/v1/orders/7", &["Range: bytes=0-3", "If-Range: x", "TE: trailers", "Cookie: a=b"]);
    let got = &rig.upstream.got()[0];
    for name in ["range", "if-range", "te"] {
        assert_eq!(got.header(name), None, "{name}");
    }

    // The other places for a value.
    let again = |place: &[&str]| {
        assert_eq!(secrets(&rig.device, &["remove", "crm"], "").0, Some(0));
        add(&rig.device, "crm", &format!("http://127.0.0.1:{}", rig.upstream.port), place, &[]);
        let echoed = rig.get("/echo?a=1");
        check_absent(&echoed.body, place[0]);
        assert!(echoed.text().ends_with("\nend\n"), "{place:?}: {}", echoed.text());
        rig.upstream.got().remove(0)
    };
    let got = again(&["--basic", "svc"]);
    let pair = BASE64.encode(format!("svc:{SECRET}").as_bytes());
    assert_eq!(got.header("authorization"), Some(format!("Basic {pair}").as_str()));
    let got = again(&["--query", "key"]);
    assert_eq!(got.line, "GET /v1/orders/echo?a=1&key=sk%2Flive%2B8f3a%3D%22Q~secret%26value HTTP/1.1");
    let twice = rig.get("/7?%6Bey=mine");
    assert_eq!((twice.status, rig.upstream.got().len()), (400, 0), "{}", twice.text());
    rig.proxy.stop();
    rig.agent.stop();
}

#[test]
fn a_request_that_could_be_two_is_refused() {
    let rig = Rig::start(&[]);
    let bearer = format!("Authorization: Bearer {}", rig.token);
    let raw = |lines: &str, body: &str| {
        format!("PUT /crm/v1/orders/7 HTTP/1.1\r\nHost: secrets.local\r\n{bearer}\r\n{lines}Connection: close\r\n\r\n{body}")
    };
    let inner = "GET /v1/orders/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let chunked = format!("0\r\n\r\n{inner}");
    for (lines, body) in [
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n".to_owned(), chunked.as_str()),
        ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n".to_owned(), &chunked),
        ("Content-Length: 0\r\nContent-Length: 44\r\n".to_owned(), inner),
        ("Transfer-Encoding: chunked, identity\r\n".to_owned(), &chunked),
        ("Transfer-Encoding: xchunked\r\n".to_owned(), &chunked),
        ("Transfer_Encoding: chunked\r\n".to_owned(), &chunked),
        ("X-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n".to_owned(), ""),
        ("X-Original-URL: /v1/users\r\nContent-Length: 0\r\n".to_owned(), ""),
        ("Upgrade: h2c\r\nContent-Length: 0\r\n".to_owned(), ""),
        ("Origin: http://secrets.local\r\nContent-Length: 0\r\n".to_owned(), ""),
        (format!("{bearer}\r\nContent-Length: 0\r\n"), ""),
    ] {
        let refused = rig.proxy.send(raw(&lines, body).as_bytes());
        let came: Vec<String> = rig.upstream.got().into_iter().map(|got| got.line).collect();
        assert!([400, 401].contains(&refused.status), "{lines}: {}", refused.head);
        assert!(came.is_empty(), "{lines}: {came:?}");
    }
    // A second request behind the first is one of its own, and has no token.
    let two = format!("{}{inner}", raw("Content-Length: 0\r\n", "").replace("Connection: close\r\n", ""));
    let mut stream = UnixStream::connect(&rig.proxy.socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(two.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    let statuses: Vec<&str> =
        all.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")).map(|line| &line[..3]).collect();
    assert_eq!(statuses, ["200", "400"], "{all}");
    assert_eq!(rig.upstream.got().len(), 1);

    // Over TCP there is the same, and names that lead here by mistake are refused.
    let tcp = |host: &str, target: &str| {
        let stream = TcpStream::connect(("127.0.0.1", rig.proxy.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let text = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{bearer}\r\n\r\n");
        exchange(stream, text.as_bytes()).status
    };
    let own = format!("127.0.0.1:{}", rig.proxy.port);
    assert_eq!(tcp(&own, "/crm/v1/orders/7"), 200);
    assert_eq!(tcp("secrets.local", "http://secrets.local/crm/v1/orders/7"), 200, "as a client's proxy");
    assert_eq!(tcp("rebound.example", "/crm/v1/orders/7"), 400);
    assert_eq!(tcp("secrets.local", "http://crm.example/crm/v1/orders/7"), 400);
    rig.proxy.stop();
    rig.agent.stop();
}

#[test]
fn large_and_slow_ones_are_bounded_and_many_go_at_once() {
    let rig = Rig::start(&["--request-max", "2000000", "--answer-max", "4000000"]);
    let big = rig.get("/big");
    assert_eq!((big.status, big.body.len(), big.is_whole), (200, 3 << 20, true));
    assert_eq!(big.header("content-length"), Some("3145728"));
    let sent = rig.send_body("PUT", "/v1/orders/length", &vec![b'x'; 1_900_000]);
    assert_eq!((sent.status, sent.text().as_str()), (200, "1900000\n"));
    assert_eq!(rig.send_body("PUT", "/v1/orders/length", &vec![b'x'; 2_000_001]).code(), "body_too_large");
    // One that does not say how long it is.
    let head = request(
        "PUT",
        "/crm/v1/orders/length",
        &[&format!("Authorization: Bearer {}", rig.token), "Transfer-Encoding: chunked"],
    );
    let piece = [&b"f4240\r\n"[..], &vec![b'x'; 1_000_000], b"\r\n"].concat();
    let small = rig.proxy.send(&[head.as_bytes(), &piece, b"0\r\n\r\n"].concat());
    assert_eq!((small.status, small.text().as_str()), (200, "1000000\n"));
    let large = rig.proxy.send(&[head.as_bytes(), &piece, &piece, &piece, b"0\r\n\r\n"].concat());
    assert_eq!(large.code(), "body_too_large");

    let (proxy, bearer) = (&rig.proxy, &format!("Authorization: Bearer {}", rig.token));
    let get = |path: &str| proxy.ask("GET", &format!("/crm{BASE}{path}"), &[bearer]);
    std::thread::scope(|scope| {
        let late = scope.spawn(|| get("/silent"));
        let stalled = scope.spawn(|| get("/stalls"));
        // A body that does not come.
        let hungry = scope.spawn(|| proxy.ask("PUT", "/crm/v1/orders/length", &[bearer, "Content-Length: 10"]));
        let many: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| (0..5).map(|_| get("/7")).filter(|answer| answer.status == 200).count()))
            .collect();
        assert_eq!(many.into_iter().map(|one| one.join().unwrap()).sum::<usize>(), 40, "while others wait");
        let late = late.join().unwrap();
        assert_eq!((late.status, late.code().as_str()), (504, "upstream_timeout"));
        let stalled = stalled.join().unwrap();
        assert!(stalled.status == 200 && !stalled.is_whole, "cut off, and nobody takes it for the whole");
        let hungry = hungry.join().unwrap();
        assert_eq!((hungry.status, hungry.code().as_str()), (408, "request_timeout"));
    });
    let garbage = rig.get("/garbage");
    assert_eq!((garbage.status, garbage.code().as_str()), (502, "upstream_broken"));
    rig.proxy.stop();
    rig.agent.stop();
}

#[test]
fn an_upstream_proves_who_it_is_before_it_gets_a_secret() {
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(pair.key_pair.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .unwrap();
    let upstream = Upstream::start(Some(Arc::new(config)));
    let device = Device::enrolled();
    let agent = device.start();
    let (own, other) = (device.path("ca.pem"), device.path("other.pem"));
    std::fs::write(&own, pair.cert.pem()).unwrap();
    let another = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(&other, another.cert.pem()).unwrap();
    let url = |host: &str| format!("https://{host}:{}", upstream.port);
    let proxy = Proxy::start_by(
        {
            add(&device, "crm", &url("localhost"), &["--header", "Authorization: Bearer {}"], &["--ca", path(&own)]);
            proxy_command(&device, &[])
        },
        device.path("secrets.sock"),
    );
    let bearer = format!("Authorization: Bearer {}", begin(&device, &[]));
    let ask = || proxy.ask("GET", "/crm/v1/orders/7", &[&bearer]);
    assert_eq!((ask().status, ask().text().as_str()), (200, "reading\n"));
    assert_eq!(upstream.got()[0].header("authorization"), Some(format!("Bearer {SECRET}").as_str()));

    // Another authority, the system's, another name, and no TLS at all.
    for (url, more) in [
        (url("localhost"), vec!["--ca", path(&other)]),
        (url("localhost"), vec![]),
        (url("127.0.0.1"), vec!["--ca", path(&own)]),
        (url("localhost").replace("https", "http"), vec![]),
        ("http://127.0.0.1:1".into(), vec![]),
    ] {
        assert_eq!(secrets(&device, &["remove", "crm"], "").0, Some(0));
        add(&device, "crm", &url, &BEARER, &more);
        let refused = ask();
        let code = refused.code();
        assert_eq!(refused.status, 502, "{url} {more:?}: {}", refused.head);
        assert!(["upstream_unreachable", "upstream_broken"].contains(&code.as_str()), "{code}");
        check_absent(&refused.body, "a refusal");
    }
    assert_eq!(upstream.got().len(), 0);
    proxy.stop();
    agent.stop();
}

#[test]
fn a_secret_is_rotated_while_it_is_used_and_goes_with_its_entry() {
    let rig = Rig::start(&[]);
    let said = || rig.upstream.got().last().and_then(|got| got.header("x-api-key").map(str::to_owned));
    assert_eq!(rig.get("/7").status, 200);
    assert_eq!(said(), Some(format!("Key {SECRET}")));
    let rotated = secrets(&rig.device, &["rotate", "crm"], "another-value\n");
    assert_eq!(rotated.0, Some(0), "{}", rotated.2);
    assert_eq!(rig.get("/7").status, 200);
    assert_eq!(said().as_deref(), Some("Key another-value"));

    // A service that is started again knows what it knew.
    let Rig { device, agent, upstream, proxy, token } = rig;
    proxy.stop();
    let uses = || {
        let (_, listed, _) = secrets(&device, &["list"], "");
        serde_json::from_str::<Value>(&listed).unwrap()["secrets"][0]["uses"].clone()
    };
    assert_eq!(uses(), 2);
    let credentials = device.path("credentials");
    std::fs::create_dir(&credentials).unwrap();
    let mut command = proxy_command(&device, &[]);
    command.env("CREDENTIALS_DIRECTORY", &credentials);
    let proxy = Proxy::start_by(command, device.path("secrets.sock"));
    let rig = Rig { device, agent, upstream, proxy, token };
    assert_eq!(rig.get("/7").status, 200);

    // An entry whose upstream somebody changed by hand does not open.
    let entry = rig.device.path("vault/entries/crm");
    let text = std::fs::read_to_string(&entry).unwrap();
    let evil = Upstream::start(None);
    std::fs::write(&entry, text.replace(&rig.upstream.port.to_string(), &evil.port.to_string())).unwrap();
    let refused = rig.get("/7");
    assert_eq!((refused.status, refused.code().as_str(), evil.got().len()), (500, "secret_unusable", 0));
    assert!(rig.proxy.wait_for("secret.unusable")["error"].as_str().unwrap().contains("changed by hand"));
    for content in ["", "\0\0\0", "format = 9\n", &text.replace("format = 1", "format = 2")] {
        std::fs::write(&entry, content).unwrap();
        assert_eq!(rig.get("/7").code(), "secret_unusable");
        let (code, listed, _) = secrets(&rig.device, &["list"], "");
        assert!(code == Some(1) && listed.contains("\"problem\":\""), "{listed}");
    }
    assert_eq!(secrets(&rig.device, &["remove", "crm"], "").0, Some(0));
    assert_eq!(rig.get("/7").code(), "no_such_secret");

    // A value that the service manager keeps.
    add(&rig.device, "crm", &format!("http://127.0.0.1:{}", rig.upstream.port), &BEARER, &["--credential"]);
    assert_eq!(rig.get("/7").code(), "secret_unusable");
    std::fs::write(credentials.join("crm"), "from-the-manager\n").unwrap();
    assert_eq!(rig.get("/7").status, 200);
    let last = rig.upstream.got().last().and_then(|got| got.header("x-api-key").map(str::to_owned));
    assert_eq!(last.as_deref(), Some("Key from-the-manager"));

    // Nobody decides: nothing goes out.
    let Rig { agent, proxy, upstream, token, .. } = rig;
    agent.stop();
    let refused = proxy.ask("GET", "/crm/v1/orders/7", &[&format!("Authorization: Bearer {token}")]);
    assert_eq!((refused.status, refused.code().as_str()), (503, "agent_unavailable"));
    assert_eq!(upstream.got().len(), 0);
    proxy.stop();
}

#[test]
fn what_cannot_be_added_is_refused_with_a_reason() {
    let device = Device::enrolled();
    let dir = device.path("vault");
    let full = ["add", "crm", "--upstream", "https://crm.example", "--allow", "GET:/*", "--header", "A: {}"];
    let without = |left: &str| full.iter().filter(|arg| **arg != left).copied().collect::<Vec<_>>();
    let table: &[(Vec<&str>, &str, &str)] = &[
        (full.to_vec(), "short\n", "fewer than 8"),
        (full.to_vec(), "two\nlines-of-it", "not printable ASCII"),
        (full.to_vec(), "", "fewer than 8"),
        ([&full[..], &["--basic", "svc"]].concat(), "long-enough", "cannot be used with"),
        (without("--allow").into_iter().filter(|arg| *arg != "GET:/*").collect(), "long-enough", "--allow"),
        ([&full[..3], &["http://crm.example"], &full[4..]].concat(), "long-enough", "--plain-http"),
        ([&full[..1], &["../crm"], &full[2..]].concat(), "long-enough", "no name of a secret"),
        ([&full[..], &["--ca", "/dev/null"]].concat(), "long-enough", "holds no certificates"),
        (vec!["add", "crm", "long-enough-value"], "", "unexpected argument"),
        (vec!["rotate", "crm"], "long-enough", "holds no secrets"),
        (vec!["list"], "", "holds no secrets"),
    ];
    for (args, stdin, why) in table {
        let (code, _, told) = secrets(&device, args, stdin);
        assert!(code != Some(0) && told.contains(why), "{args:?}: {told}");
    }
    assert_eq!(secrets(&device, &full, "long-enough\n").0, Some(0));
    let again = secrets(&device, &full, "long-enough\n");
    assert!(again.0 == Some(2) && again.2.contains("secrets rotate crm"), "{}", again.2);
    assert_eq!(secrets(&device, &["rotate", "other"], "long-enough").0, Some(2));
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let open = secrets(&device, &["serve"], "");
    assert!(open.0 == Some(1) && open.2.contains("chmod 700"), "{}", open.2);
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    let wide = secrets(&device, &["serve", "--listen", "0.0.0.0:80"], "");
    assert!(wide.0 == Some(2) && wide.2.contains("this machine's own"), "{}", wide.2);
}

/// A program of another user: what it says, and whether it could.
fn by(uid: u32, gid: u32, program: &str, args: &[&str]) -> std::io::Result<(bool, String)> {
    let output =
        Command::new(program).args(args).uid(uid).gid(gid).current_dir("/").env_clear().env("LC_ALL", "C").output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[test]
fn neither_a_workload_nor_the_proxys_own_user_can_look_into_it() {
    if !rustix::process::getuid().is_root() {
        return cannot_run("only root can start a program as another user");
    }
    const PROXY_UID: u32 = 65_533;
    let device = Device::enrolled();
    // The other users have to get to the sockets.
    std::fs::set_permissions(device.path("."), std::fs::Permissions::from_mode(0o711)).unwrap();
    let home = device.path("proxy");
    std::fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(PROXY_UID), Some(PROXY_UID)).unwrap();
    let agent = device.start();
    let upstream = Upstream::start(None);
    let (vault, socket) = (home.join("vault"), home.join("secrets.sock"));
    let url = format!("http://127.0.0.1:{}", upstream.port);
    let add = ["secrets", "--dir", path(&vault), "add", "crm", "--upstream", &url, "--allow", "GET:/v1/orders/*"];
    let as_proxy = |mut command: Command| {
        // The group of `pep.sock`.
        command.uid(PROXY_UID).gid(rustix::process::getgid().as_raw()).current_dir("/");
        command
    };
    let mut probe = as_proxy(device.command(&["version"]));
    if let Err(error) = probe.output() {
        agent.stop();
        return cannot_run(&format!("user {PROXY_UID} cannot start the program: {error}"));
    }
    let added = secrets_by(as_proxy(device.command(&[&add[..], &BEARER].concat())), &format!("{SECRET}\n"));
    assert_eq!(added.0, Some(0), "{}", added.2);
    let args = ["secrets", "--dir", path(&vault), "serve", "--listen", path(&socket), "--listen", "127.0.0.1:0"];
    let proxy = Proxy::start_by(as_proxy(device.command(&args)), socket.clone());
    let token = begin(&device, &[]);
    let allowed = proxy.ask("GET", "/crm/v1/orders/7", &[&format!("Authorization: Bearer {token}")]);
    assert_eq!(allowed.status, 200);
    assert_eq!(upstream.got()[0].header("x-api-key"), Some(format!("Key {SECRET}").as_str()));

    let pid = proxy.child.id();
    let status = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = status.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    let entry = vault.join("entries/crm");
    for file in [path(&entry), path(&vault.join("sealing.key")), path(&vault)] {
        let (could, said) = by(EXECUTOR_UID, EXECUTOR_UID, "/bin/cat", &[file]).unwrap();
        assert!(!could && said.contains("Permission denied"), "{file}: {said}");
    }
    // To its own user the process is closed, too; only the files are his.
    for (uid, gid) in [(EXECUTOR_UID, EXECUTOR_UID), (PROXY_UID, rustix::process::getgid().as_raw())] {
        for file in ["mem", "environ", "maps"] {
            let (could, said) = by(uid, gid, "/bin/cat", &[&format!("/proc/{pid}/{file}")]).unwrap();
            assert!(!could && said.contains("Permission denied"), "{uid} {file}: {said}");
        }
    }
    // Nor does the program itself open another user's folder.
    let (_, said) =
        by(EXECUTOR_UID, EXECUTOR_UID, env!("CARGO_BIN_EXE_hardtack"), &["secrets", "--dir", path(&vault), "list"])
            .unwrap();
    assert!(said.contains("belongs to uid 65533"), "{said}");
    let lines = device.command(&["audit", "tail", "-n", "1000"]).output().unwrap().stdout;
    let text = String::from_utf8(lines).unwrap();
    assert!(text.contains(&format!("\"enforcer\":[\"unix:uid:{PROXY_UID}\"")), "{text}");
    proxy.stop();
    agent.stop();
}

#[test]
fn the_fleet_tells_who_still_needs_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let stage = Stage::new(env!("CARGO_BIN_EXE_hardtack").into());
    let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
    let (_broker, addr) = stage.broker().unwrap();
    let url = format!("mqtt://{addr}");
    let _serve = fleet.serve(&url).unwrap();
    let mut gateway = Gateway::new(&stage, "gw-07", folder.path());
    fleet.admit(&gateway, folder.path()).unwrap();
    let selector = format!("unix:uid:{}=orders", user());
    let grant =
        ["grant", "create", "--device", "gw-07", "--may-begin", &selector, "--right", "orders:read:secret/crm/*"];
    let bounds = ["--offline-max", "3d", "--uses-max", "1000", "--boots-max", "20", "--task-ttl-max", "15m"];
    fleet.run(&[&grant[..], &bounds].concat()).unwrap();
    gateway.start(&url, 0).unwrap();
    gateway
        .wait_status("a grant while online", |status| status["mode"] == "online" && status["grants"][0].is_object())
        .unwrap();
    let rights = json!([{"resource": "secret/crm/*", "action": "read"}]);
    let task = gateway.post("/v1/tasks", &json!({"task": "orders", "rights": rights, "ttl_s": 600})).unwrap();
    let token = task["token"].as_str().unwrap().to_owned();
    for (operation, resource, decision) in [
        ("read", "secret/crm/v1/orders", "allow"),
        ("read", "secret/crm/v1/orders/7", "allow"),
        ("write", "secret/crm/v1/orders", "deny"),
        ("read", "secret/old/v1", "deny"),
    ] {
        assert_eq!(gateway.authorize(&token, operation, resource).unwrap()["decision"], decision, "{resource}");
    }
    gateway.wait_status("all delivered", |status| status["pending"] == 0).unwrap();

    let report = fleet.run(&["secrets", "report"]).unwrap();
    assert_eq!(report["ok"], true);
    let secrets = report["secrets"].as_array().unwrap();
    let of = |name: &str| secrets.iter().find(|row| row["secret"] == name).unwrap();
    assert_eq!((&of("crm")["standing"], &of("crm")["allowed"]), (&"in_use".into(), &2.into()));
    assert_eq!((&of("old")["standing"], &of("old")["last"]), (&"may_be_removed".into(), &Value::Null));
    let uses = report["uses"].as_array().unwrap();
    let used = uses.iter().find(|row| row["secret"] == "crm" && row["allowed"] == 2).unwrap();
    assert_eq!((&used["class"], &used["device"], &used["denied"]), (&"orders".into(), &"gw-07".into(), &1.into()));
    assert!(used["owner"].is_string() && used["grant"].is_string() && used["first"].is_string(), "{used}");
    assert_eq!(used["workload"][0], format!("unix:uid:{}", user()));
    // In a month without any use it may go.
    let later = fleet.run_at(31 * 86_400, &["secrets", "report"]).unwrap();
    assert_eq!(later["secrets"][0]["standing"], "may_be_removed");
    let longer = fleet.run_at(31 * 86_400, &["secrets", "report", "--unused", "60d"]).unwrap();
    assert_eq!(longer["secrets"][0]["standing"], "in_use");
    gateway.agent.take().unwrap().finish().unwrap();
}

#[test]
fn the_shipped_unit_starts_the_proxy_as_a_user_of_its_own() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("firmware-profiles/hardtack-secrets.service");
    let text = std::fs::read_to_string(&unit).unwrap();
    for line in [
        "User=hardtack-secrets",
        "LimitCORE=0",
        "NoNewPrivileges=yes",
        "StateDirectoryMode=0700",
        "CapabilityBoundingSet=",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    // The command line is one that the program takes.
    let exec = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/hardtack ")).unwrap();
    let device = Device::enrolled();
    let args: Vec<String> =
        exec.split(' ').map(|arg| arg.replace("/var/lib/hardtack-secrets", path(&device.path("none")))).collect();
    let refused = device.exits(&args.iter().map(String::as_str).collect::<Vec<_>>(), 1);
    assert!(refused.contains("holds no secrets"), "{refused}");
}
