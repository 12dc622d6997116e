//! Enforcement points against a real agent: a real nginx and a real Caddy as `docs/enforcement-points.md` sets them up, and
//! what Traefik and Envoy send, byte by byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hardtack::wire::token::{from_text, to_text};
use serde_json::Value;

use crate::daemon::Device;
use crate::support::cannot_run;

const PATIENCE: Duration = Duration::from_secs(20);
const DOCUMENT: &str = include_str!("../../docs/enforcement-points.md");

/// The block of a language in the document.
fn snippet(language: &str) -> String {
    let begin = format!("```{language}\n");
    let block = DOCUMENT.split_once(&begin).and_then(|(_, rest)| rest.split_once("```"));
    block.unwrap_or_else(|| panic!("no {language} in the document")).0.to_owned()
}

/// The snippet with other places in it: each must be there.
fn moved(language: &str, places: &[(&str, String)]) -> String {
    places.iter().fold(snippet(language), |text, (from, to)| {
        assert!(text.contains(from), "{from} is not in {text}");
        text.replace(from, to)
    })
}

/// What came back over a socket.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    /// The value of a header that is there once.
    fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.head.lines().filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        });
        let value = found.next();
        assert_eq!(found.next(), None, "{name} twice in {}", self.head);
        value
    }
}

/// Sends these bytes, which ask that the connection is closed, and reads all that comes back.
fn exchange(socket: &Path, bytes: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    all
}

/// The same, of a server that answers.
fn send(socket: &Path, bytes: &str) -> Answer {
    parsed(&exchange(socket, bytes))
}

#[track_caller]
fn parsed(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{head}"));
    Answer { status, head: head.into(), body: body.into() }
}

/// The same of bytes that ask for no end of the connection: whoever says no more is answered and let go.
fn last_words(socket: &Path, bytes: &str) -> Answer {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    parsed(&all)
}

fn ask(socket: &Path, method: &str, path: &str, headers: &[&str]) -> Answer {
    let lines: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: hmi.local\r\nConnection: close\r\n{lines}\r\n");
    send(socket, &request)
}

/// A server that says on stderr when it serves. It ends with the test.
struct Server(Child);

impl Server {
    fn start(mut command: Command, ready: &str) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let said: Vec<String> = lines.by_ref().take_while(|line| !line.contains(ready)).collect();
        assert!(child.try_wait().unwrap().is_none(), "{said:?}");
        // What it says from now on must go somewhere.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        cannot_run(&format!("{program} is not installed"));
    }
    found.is_ok()
}

/// A task that may read one thing behind the proxy, and all of another host.
fn begin(device: &Device) -> String {
    let rights = ["--right", "read:http/hmi.local/1", "--right", "read:http/public.local/*"];
    let task = device.ok(&[&["task", "begin", "pump"], &rights[..]].concat());
    task["token"].as_str().unwrap().to_owned()
}

/// What every proxy must do, in front of an application that says `reading`, and which credentials it was sent.
fn check(proxy: &Path, token: &str) {
    let bearer = format!("Authorization: Bearer {token}");
    let get = |path: &str, headers: &[&str]| ask(proxy, "GET", path, headers);

    let allowed = get("/1?unit=bar", &[&bearer]);
    assert_eq!((allowed.status, allowed.body.trim()), (200, "reading"), "{}", allowed.head);
    let by_its_own_header = get("/1", &[&format!("Hardtack-Token: {token}")]);
    assert_eq!((by_its_own_header.status, by_its_own_header.body.trim()), (200, "reading"));

    let nobody = get("/1", &[]);
    assert_eq!((nobody.status, nobody.header("www-authenticate")), (401, Some("Bearer realm=\"hardtack\"")));
    let broken = get("/1", &["Authorization: Bearer AAAA"]);
    assert_eq!(broken.status, 401);
    assert!(broken.header("www-authenticate").unwrap().contains("error=\"invalid_token\""), "{}", broken.head);

    for (method, path) in
        [("POST", "/1"), ("DELETE", "/1"), ("GET", "/%2e%2e/secret"), ("GET", "/a%252fb"), ("GET", "/a%00")]
    {
        let refused = ask(proxy, method, path, &[&bearer, "Content-Length: 0"]);
        // A proxy may refuse some paths by itself.
        assert!([400, 403].contains(&refused.status), "{method} {path}: {}", refused.head);
    }
    // The token is good for /1 alone, and for reading.
    assert_eq!(get("/2", &[&bearer]).status, 403);
    for header in ["X-Original-URL: http://hmi.local/1", "X-Original-URI: /1", "X-Forwarded-Uri: /1"] {
        let refused = get("/2", &[&bearer, header]);
        assert_eq!(refused.status, 403, "{header}: {}", refused.head);
    }
    for header in ["X-Original-Method: GET", "X-Forwarded-Method: GET", "X-HTTP-Method-Override: GET"] {
        let refused = ask(proxy, "POST", "/1", &[&bearer, header, "Content-Length: 0"]);
        assert_eq!(refused.status, 403, "{header}: {}", refused.head);
    }
    for path in ["/2?base=http/hmi.local/1", "/secret?base=http/public.local", "/2?x=/1", "/1/..;/2"] {
        assert_eq!(get(path, &[&bearer]).status, 403, "{path}");
    }
    let both = get("/1", &[&bearer, &format!("Hardtack-Token: {token}")]);
    assert_eq!(both.status, 401, "{}", both.head);
    no_other_host_passes(proxy, &bearer);
    // One decision to read would open a connection in both directions.
    for upgrade in ["websocket", "h2c", "0"] {
        let refused = get("/1", &[&bearer, "Connection: Upgrade", &format!("Upgrade: {upgrade}")]);
        assert_eq!(refused.status, 403, "{upgrade}: {}", refused.head);
    }
}

/// The task may read all of `public.local`, and this is the proxy of `hmi.local`.
fn no_other_host_passes(proxy: &Path, bearer: &str) {
    for (target, host) in [
        ("/1", "public.local"),
        ("/secret", "public.local"),
        ("/secret", "hmi.local.public.local"),
        ("/secret", "public.local:80"),
        ("/secret", ""),
        ("http://public.local/secret", "hmi.local"),
        ("http://hmi.local/secret", "public.local"),
    ] {
        for version in ["1.0", "1.1"] {
            let said = exchange(
                proxy,
                &format!("GET {target} HTTP/{version}\r\nHost: {host}\r\nConnection: close\r\n{bearer}\r\n\r\n"),
            );
            assert!(!said.contains("reading"), "{target} of {host:?} by HTTP/{version}: {said}");
        }
    }
    // A port of the client's makes no other host of it.
    for host in ["hmi.local:81", "HMI.local"] {
        let head = |target| format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{bearer}\r\n\r\n");
        assert_eq!(send(proxy, &head("/1")).status, 200, "{host}");
        assert_eq!(send(proxy, &head("/2")).status, 403, "{host}");
    }
}

/// Each block says itself whose host it is, lets nothing be upgraded, and takes out what the upstream need not see. The first
/// two are also seen to.
#[test]
fn every_block_names_its_host_and_takes_the_credential_out() {
    for (language, needed, never) in [
        (
            "nginx",
            &[
                "default_server;\n    return 444;",
                "://hmi.local$request_uri;",
                "if ($http_upgrade",
                "Authorization \"\"",
                "Hardtack-Token \"\"",
            ][..],
            &["$host", "$http_host"][..],
        ),
        (
            "caddy",
            &["header_up X-Forwarded-Host hmi.local\n", "respond @upgrade 403", "-Authorization", "-Hardtack-Token"],
            &["{http.request.host}"],
        ),
        (
            "yaml\nhttp:",
            &[
                "/authz/forward-auth/http/hmi.local\"",
                "&& !HeaderRegexp(`Upgrade`, `.`)",
                "Authorization: \"\"",
                "Hardtack-Token: \"\"",
            ],
            &["trustForwardHeader: true"],
        ),
        (
            "yaml\n# in the http_connection_manager",
            &["domains: [\"hmi.local\"]", "request_headers_to_remove: [authorization, hardtack-token]"],
            &["upgrade_configs", "\"*\"", "failure_mode_allow: true"],
        ),
    ] {
        let block = snippet(language);
        for text in needed {
            assert!(block.contains(text), "{text} is not in {block}");
        }
        for text in never {
            assert!(!block.contains(text), "{text} is in {block}");
        }
    }
}

#[test]
fn nginx_asks_before_it_lets_through() {
    if !is_there("nginx") {
        return;
    }
    let device = Device::enrolled();
    let daemon = device.start();
    let token = begin(&device);
    let (proxy, app) = (device.path("nginx.sock"), device.path("app.sock"));
    let servers = moved(
        "nginx",
        &[
            ("/run/hardtack/pep.sock", device.path("run/pep.sock").display().to_string()),
            ("listen 80", format!("listen unix:{}", proxy.display())),
            ("http://127.0.0.1:8080", format!("http://unix:{}:", app.display())),
        ],
    );
    let (folder, app) = (device.path("").display().to_string(), app.display());
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {folder}{kind};\n"))
        .collect();
    let user = if rustix::process::getuid().is_root() { "user root;\n" } else { "" };
    let text = format!(
        "{user}daemon off;\npid {folder}nginx.pid;\nerror_log stderr notice;\nevents {{}}\nhttp {{\naccess_log off;\n\
         {temporary}server {{ listen unix:{app}; return 200 \"reading $http_authorization $http_hardtack_token\\n\"; }}\n{servers}}}\n"
    );
    let file = device.path("nginx.conf");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-c").arg(&file).args(["-e", "stderr"]);
    let server = Server::start(command, "start worker process ");
    check(&proxy, &token);
    daemon.stop();
    let bearer = format!("Authorization: Bearer {token}");
    assert_eq!(ask(&proxy, "GET", "/1", &[&bearer]).status, 500, "who cannot ask lets nobody through");
    drop(server);
}

#[test]
fn caddy_asks_before_it_lets_through() {
    if !is_there("caddy") {
        return;
    }
    let device = Device::enrolled();
    let daemon = device.start();
    let token = begin(&device);
    let (proxy, app) = (device.path("caddy.sock"), device.path("app.sock"));
    let site = moved(
        "caddy",
        &[
            ("unix//run/hardtack/pep.sock", format!("unix/{}", device.path("run/pep.sock").display())),
            ("hmi.local {", format!("http://hmi.local {{\n    bind unix/{}", proxy.display())),
            ("127.0.0.1:8080", format!("unix/{}", app.display())),
        ],
    );
    let app = app.display();
    let text = format!(
        "{{\n    admin off\n    auto_https off\n}}\n{site}\nhttp:// {{\n    bind unix/{app}\n    \
         respond \"reading {{header.Authorization}} {{header.Hardtack-Token}}\"\n}}\n"
    );
    let file = device.path("Caddyfile");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
    command.env("HOME", device.path("")).env("XDG_DATA_HOME", device.path("")).env("XDG_CONFIG_HOME", device.path(""));
    let server = Server::start(command, "serving initial configuration");
    check(&proxy, &token);
    daemon.stop();
    let bearer = format!("Authorization: Bearer {token}");
    assert_eq!(ask(&proxy, "GET", "/1", &[&bearer]).status, 502, "who cannot ask lets nobody through");
    drop(server);
}

#[test]
fn what_traefik_and_envoy_send_is_understood() {
    let device = Device::enrolled();
    let daemon = device.start();
    let (token, pep) = (begin(&device), device.path("run/pep.sock"));
    // Traefik 3.7 with `trustForwardHeader: false` (pkg/middlewares/auth/forward.go): the headers of the request that is asked
    // about without those of the connection and without any X-Forwarded-*, then its own, in the order of Go's net/http.
    let traefik = |method: &str, host: &str, uri: &str| {
        format!(
            "GET /authz/forward-auth/http/hmi.local HTTP/1.1\r\nHost: 127.0.0.1:8190\r\nUser-Agent: curl/7.88.1\r\n\
             Accept: */*\r\nAuthorization: Bearer {token}\r\nX-Forwarded-For: 10.0.0.9\r\nX-Forwarded-Host: {host}\r\n\
             X-Forwarded-Method: {method}\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Uri: {uri}\r\nAccept-Encoding: gzip\r\n\r\n"
        )
    };
    let allowed = last_words(&pep, &traefik("GET", "hmi.local", "/1?unit=bar"));
    assert_eq!((allowed.status, allowed.header("hardtack-reason")), (200, Some("allowed")), "{}", allowed.head);
    assert!(allowed.header("hardtack-decision-id").unwrap().starts_with("gw-07/"));
    assert!(allowed.header("hardtack-expires-in").unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!((allowed.header("content-type"), allowed.body.as_str()), (None, ""), "it is no problem");
    // Its rule takes the host with any port, and what is asked about is the host that its configuration names.
    assert_eq!(last_words(&pep, &traefik("GET", "hmi.local:81", "/1")).status, 200);
    let refused = last_words(&pep, &traefik("PUT", "hmi.local", "/1"));
    assert_eq!((refused.status, refused.header("hardtack-reason")), (403, Some("no_right")));
    let challenge = refused.header("www-authenticate").unwrap();
    assert!(
        challenge.contains("error=\"insufficient_scope\"") && challenge.contains("scope=\"write:http/hmi.local/1\"")
    );
    let body: Value = serde_json::from_str(&refused.body).unwrap();
    assert_eq!((&body["code"], &body["status"]), (&"no_right".into(), &403.into()));

    // Envoy (ext_authz_http_impl.cc at 9c276e34a2ea, with `path_prefix`): method, path, host and authorization are the request's own, no
    // other header but what `allowed_headers` names; then the router's. Its connections stay open.
    let envoy = |method: &str, path: &str, presented: &str| {
        format!(
            "{method} /authz/ext-authz{path} HTTP/1.1\r\nhost: hmi.local\r\ncontent-length: 0\r\n{presented}\
             x-envoy-internal: true\r\nx-forwarded-for: 10.0.0.9\r\nx-envoy-expected-rq-timeout-ms: 1000\r\n\r\n"
        )
    };
    let bearer = format!("authorization: Bearer {token}\r\n");
    for (method, path) in [("GET", "/trends"), ("POST", "/1?x=1"), ("GET", ""), ("GET", "/"), ("DELETE", "/1")] {
        let refused = last_words(&pep, &envoy(method, path, &bearer));
        assert_eq!((refused.status, refused.header("hardtack-reason")), (403, Some("no_right")), "{method} {path}");
    }
    assert!(snippet("yaml\n# in the http_connection_manager").contains("patterns: [{ exact: hardtack-token }]"));
    let own = format!("hardtack-token: {token}\r\n");
    let both = format!("{bearer}{own}");
    for (method, presented, status) in
        [("GET", &bearer, 200), ("HEAD", &bearer, 200), ("GET", &own, 200), ("POST", &own, 403), ("GET", &both, 401)]
    {
        let answered = last_words(&pep, &envoy(method, "/1?x=1", presented));
        assert_eq!(answered.status, status, "{method} {presented}: {}", answered.head);
    }
    for path in ["//", "/%ff", "/..", "/%2F", "/a%00"] {
        let refused = last_words(&pep, &envoy("GET", path, &bearer));
        assert_eq!((refused.status, refused.header("hardtack-reason")), (403, Some("malformed")), "{path}");
    }
    let large = last_words(&pep, &envoy("GET", "/a", &format!("hardtack-token: {}\r\n", "a".repeat(17_000))));
    assert_eq!((large.status, large.header("hardtack-reason")), (403, Some("headers_too_large")));

    // AuthZEN: the token decides, whoever the subject claims to be.
    let evaluation = |token: &str, id: &str| {
        let body = format!(
            r#"{{"subject":{{"type":"user","id":"root"}},"action":{{"name":"read"}},"resource":{{"type":"meter","id":"{id}"}},"context":{{"token":"{token}"}}}}"#
        );
        let length = body.len();
        let head = "POST /access/v1/evaluation HTTP/1.1\r\nHost: hardtack\r\nConnection: close\r\n";
        let answer =
            send(&pep, &format!("{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"));
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str::<Value>(&answer.body).unwrap()
    };
    let token = device.begin();
    let allowed = evaluation(&token, "1");
    assert_eq!((&allowed["decision"], &allowed["context"]["reason"]), (&true.into(), &"allowed".into()));
    let refused = evaluation(&token, "../1");
    assert_eq!((&refused["decision"], &refused["context"]["reason"]), (&false.into(), &"malformed".into()));
    assert_eq!(evaluation("", "1")["decision"], false);

    // A proxy that is set up to ask where there is nothing lets nobody through, and is told why.
    for path in ["/authz", "/authz/", "/authz/forward-auht", "/authz/auth-request/", "/authz/ext-authzz/1"] {
        let refused = ask(&pep, "GET", path, &[]);
        assert_eq!((refused.status, refused.header("hardtack-reason")), (403, Some("not_found")), "{path}");
        assert_eq!(refused.header("content-type"), Some("application/problem+json"), "{path}");
    }
    assert_eq!(ask(&pep, "GET", "/authzz/forward-auth", &[]).status, 404);

    // Where workloads ask there is none of this.
    for socket in ["run/agent.sock", "run/admin.sock"] {
        assert_eq!(ask(&device.path(socket), "GET", "/authz/auth-request", &[]).status, 404);
    }
    daemon.stop();
}

#[test]
fn tokens_that_are_none_are_refused_and_the_agent_goes_on() {
    let device = Device::enrolled();
    let daemon = device.start();
    let (token, pep) = (device.begin(), device.path("run/pep.sock"));
    let decided = |token: &str| -> Value {
        let body = serde_json::json!({"token": token, "operation": "read", "resource": "meter/1"}).to_string();
        let head = "POST /v1/authorize HTTP/1.1\r\nHost: hardtack\r\nConnection: close\r\n";
        let answer = send(&pep, &format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
        assert_eq!(answer.status, 200, "{token:.60}: {}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    };
    let bytes = from_text(&token, 4096).unwrap();
    let changed = (0..bytes.len()).step_by(bytes.len() / 48).map(|at| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x55;
        to_text(&bytes)
    });
    let cut = (0..token.len()).step_by(token.len() / 16).map(|end| token[..end].to_owned());
    let longer = [format!("{token}AAAA"), token.repeat(3), "A".repeat(10_000), "%%%".into(), "\u{0}".into()];
    // A length that is far more than there is, and messages in messages.
    let lies =
        [[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f].repeat(20), [0x12, 0x7f].repeat(2000)].map(|bytes| to_text(&bytes));
    for hostile in changed.chain(cut).chain(longer).chain(lies) {
        let denied = decided(&hostile);
        assert_eq!(denied["decision"], "deny", "{hostile:.60}: {denied}");
        assert!(!["allowed", "engine_timeout"].contains(&denied["reason"].as_str().unwrap()), "{denied}");
    }
    assert_eq!(decided(&token)["decision"], "allow", "by the same process");
    daemon.stop();
}
