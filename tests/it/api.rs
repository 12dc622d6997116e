//! The local API over real sockets, with a loop that answers by rote: limits, codes, modes, hostile clients.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use hardtack::agent::request::trail::TrailReply;
use hardtack::agent::request::{
    AttenuatedReply, AuditRef, ChallengeReply, DecisionReply, FinishedReply, Freshness, Mode, Origin, Problem,
    ProblemCode, ReadyCheck, ReadyReply, Reason, Reply, Request, Socket, StepReply, TaskReply, TimeClass, Verdict,
    WhoamiReply,
};
use hardtack::config::SocketsConfig;
use hardtack::ids::{BlockId, GrantId};
use hardtack::profile::{ApiLimits, Profile};
use hardtack::shell::http::{BindError, Sockets};
use hardtack::shell::inbox::Inbox;
use serde_json::Value;
use tokio::sync::watch;

/// A client that waits longer than this has found a bug.
const PATIENCE: Duration = Duration::from_secs(20);

/// The API on three sockets of its own folder, and a loop that answers by rote.
pub(crate) struct Rig {
    folder: tempfile::TempDir,
    inbox: Arc<Inbox>,
    pub(crate) broken: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    server: Option<std::thread::JoinHandle<()>>,
    loop_thread: Option<std::thread::JoinHandle<()>>,
}

impl Rig {
    pub(crate) fn start(edit: impl FnOnce(&mut ApiLimits)) -> Self {
        let mut limits = Profile::default().api;
        edit(&mut limits);
        let folder = tempfile::tempdir().unwrap();
        let (inbox, broken) = (Arc::new(Inbox::default()), Arc::new(AtomicBool::new(false)));
        let (stop, stopped) = watch::channel(false);
        let (bound, is_bound) = std::sync::mpsc::channel();
        let (run_dir, served) = (folder.path().join("run"), inbox.clone());
        let server = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let sockets = Sockets::bind(&run_dir).unwrap();
                bound.send(()).unwrap();
                sockets.serve(served, limits, stopped).await;
            });
        });
        is_bound.recv_timeout(PATIENCE).unwrap();
        let (served, fails) = (inbox.clone(), broken.clone());
        let loop_thread = std::thread::spawn(move || loop {
            let haul = served.take(PATIENCE);
            for call in haul.calls {
                if !fails.load(Ordering::SeqCst) {
                    let _ = call.answer.send(rote(&call.evidence.socket, call.request));
                }
            }
            if haul.stop {
                return;
            }
        });
        Self { folder, inbox, broken, stop, server: Some(server), loop_thread: Some(loop_thread) }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("run").join(name)
    }

    fn connect(&self, name: &str) -> UnixStream {
        let stream = UnixStream::connect(self.path(name)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn ask(&self, socket: &str, method: &str, path: &str, body: &str) -> Answer {
        self.ask_with(socket, &format!("{method} {path}"), &[], body)
    }

    fn ask_with(&self, socket: &str, what: &str, headers: &[&str], body: &str) -> Answer {
        let mut stream = self.connect(socket);
        let length = body.len();
        let lines: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let request = format!("{what} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{lines}\r\n{body}");
        if let Err(error) = stream.write_all(request.as_bytes()) {
            // A server may answer before it has read all.
            assert_eq!(error.kind(), ErrorKind::BrokenPipe);
        }
        Answer::read(&mut stream)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        self.inbox.stop();
        for thread in [self.server.take(), self.loop_thread.take()].into_iter().flatten() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server or the loop panicked");
        }
    }
}

fn rote(socket: &Socket, request: Request) -> Reply {
    match request {
        Request::Audit(_) => Reply::Audit(Box::new(TrailReply {
            device: "gw-07".into(),
            fleet: "acme".into(),
            identity: String::new(),
            eras: Vec::new(),
            pieces: Vec::new(),
        })),
        Request::Authorize(ask) if ask.token == "problem" => {
            Reply::Problem(Problem::new(ProblemCode::Denied(Reason::Locked), "locked"))
        }
        Request::Authorize(ask) => Reply::Decision(DecisionReply {
            decision: if ask.operation == "allowed" { Verdict::Allow } else { Verdict::Deny },
            reason: Reason::ALL.into_iter().find(|r| r.name() == ask.operation).unwrap_or(Reason::Expired),
            explain: "it has expired".into(),
            decided_by: None,
            decision_id: "gw-07/1/2".into(),
            mode: Mode::Offline,
            freshness: Freshness::Unknown,
            staleness_s: 3,
            time_class: TimeClass::Bounded,
            expires_in_s: None,
            audit: AuditRef { era: 1, segment: 0, index: 2 },
        }),
        Request::Begin(_) | Request::Renew(_) => Reply::Task(TaskReply {
            task_id: "t-1".parse().unwrap(),
            token: "abc".into(),
            expires_in_s: 60,
            uses: None,
            origin: Origin::Fallback,
            grant_id: GrantId([7; 16]),
            mode: Mode::Offline,
        }),
        Request::Challenge => {
            Reply::Challenge(ChallengeReply { device: "gw-07".into(), nonce: "00".into(), expires_in_s: 60 })
        }
        Request::Attenuate(_) => Reply::Attenuated(AttenuatedReply {
            token: "abc".into(),
            revocation_id: BlockId([7; 32]),
            expires_in_s: 60,
            sealed: true,
            task_id: Some("t-1".parse().unwrap()),
            step_id: None,
        }),
        Request::Step(task_id, ask) => Reply::Step(StepReply {
            task_id,
            step_id: "s-1".parse().unwrap(),
            token: "abc".into(),
            executor: ask.executor,
            expires_in_s: 60,
            uses: 1,
            origin: Origin::Fallback,
            grant_id: GrantId([7; 16]),
            mode: Mode::Offline,
            decision_id: "gw-07/1/2".into(),
        }),
        Request::CheckRevoked(_)
        | Request::ExportRevocations(_)
        | Request::ImportRevocations(_)
        | Request::Preview(_)
        | Request::Revocations
        | Request::Wait(_) => Reply::Problem(Problem::new(ProblemCode::NotFound, "by rote")),
        Request::Introspect(_) => Reply::Introspected(None),
        Request::ImportTime(_) => Reply::Problem(Problem::new(ProblemCode::Refused, "by rote")),
        Request::Finish(task_id) => Reply::Finished(FinishedReply { task_id, finished: true }),
        Request::Ready => {
            let check = ReadyCheck { name: "store".into(), ok: true, detail: "open".into() };
            Reply::Ready(ReadyReply { ready: true, checks: vec![check] })
        }
        Request::Status => Reply::Problem(Problem::new(ProblemCode::NotFound, "by rote")),
        Request::Tasks => Reply::Tasks(Vec::new()),
        Request::Whoami => Reply::Whoami(WhoamiReply {
            device: "gw-07".into(),
            fleet: "acme".into(),
            selectors: vec![format!("{socket:?}")],
            may_begin: Vec::new(),
        }),
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    /// One answer with a length, as HTTP/1.1 frames it.
    fn read(stream: &mut UnixStream) -> Self {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).unwrap_or_else(|e| panic!("{e} after {:?}", String::from_utf8_lossy(&head)));
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        let status = head[9..12].parse().unwrap();
        Self { status, head, body: String::from_utf8(body).unwrap() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.head.contains("content-type: application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["code"], code);
        assert_eq!(problem["status"], status);
        for field in ["type", "title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {problem}");
        }
    }
}

const AUTHORIZE: &str = r#"{"token":"t","operation":"read","resource":"meter/1"}"#;
const BEGIN: &str = r#"{"task":"pump","rights":[{"resource":"meter/1","action":"read"}],"ttl_s":60}"#;

const STEP: &str =
    r#"{"token":"t","executor":"unix:uid:2002","rights":[{"resource":"meter/1","action":"read"}],"ttl_s":60}"#;

const PREVIEW: &str = r#"{"token":"t","questions":[{"operation":"read","resource":"meter/1"}]}"#;

const EVALUATION: &str = r#"{"subject":{"type":"user","id":"a"},"action":{"name":"read","properties":{"n":1}},
    "resource":{"type":"meter","id":"1"},"context":{"destination":"abc","risk":"abc","token":"abc"}}"#;

/// A body of each path that takes JSON, with every object that can stand in it, and where it is served.
const BODIES: [(&str, &str, &str); 10] = [
    ("pep.sock", "/access/v1/evaluation", EVALUATION),
    ("agent.sock", "/v1/attenuate", r#"{"token":"abc","ttl_s":60,"checks":["check if true"]}"#),
    ("agent.sock", "/v1/authorize", r#"{"token":"t","operation":"read","resource":"meter/1","arguments":{"n":1}}"#),
    ("agent.sock", "/v1/preview", PREVIEW),
    ("admin.sock", "/v1/revocations/check", r#"{"target":{"device":"gw-07"}}"#),
    ("admin.sock", "/v1/revocations/import", r#"{"file":"AAAA","name":"a"}"#),
    (
        "agent.sock",
        "/v1/tasks",
        r#"{"task":"pump","rights":[{"resource":"meter/1","action":"read"}],"ttl_s":60,"identity":{"type":"oidc","token":"a.b.c"}}"#,
    ),
    ("agent.sock", "/v1/tasks/{id}/steps", STEP),
    ("admin.sock", "/v1/time", r#"{"file":"AAAA"}"#),
    ("admin.sock", "/v1/time/challenge", "{}"),
];

/// The bodies in which one object stands as the array of its values, in the one order and the other.
fn with_an_array_for_an_object(body: &Value) -> Vec<Value> {
    fn pointers(value: &Value, at: String, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                members.iter().for_each(|(name, value)| pointers(value, format!("{at}/{name}"), found));
                found.push(at);
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(index, value)| pointers(value, format!("{at}/{index}"), found));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    pointers(body, String::new(), &mut found);
    let replaced = |pointer: &String, turned: bool| {
        let mut body = body.clone();
        let place = body.pointer_mut(pointer).unwrap();
        let mut values: Vec<Value> = place.as_object().unwrap().values().cloned().collect();
        if turned {
            values.reverse();
        }
        *place = values.into();
        body
    };
    found.iter().flat_map(|pointer| [replaced(pointer, false), replaced(pointer, true)]).collect()
}

/// Reads until the other side closes.
fn rest_of(mut stream: UnixStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the server kept the connection"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn sockets_have_the_documented_modes_and_are_gone_after_a_stop() {
    let rig = Rig::start(|_| ());
    for (name, mode) in [("agent.sock", 0o666), ("pep.sock", 0o660), ("admin.sock", 0o660)] {
        let found = std::fs::metadata(rig.path(name)).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o7777, mode, "{name}");
    }
    assert_eq!(std::fs::metadata(rig.path("")).unwrap().permissions().mode() & 0o7022, 0);
    let _ = rig.stop.send(true);
    let mut rig = rig;
    rig.server.take().unwrap().join().unwrap();
    assert!(!rig.path("agent.sock").exists());
}

#[tokio::test]
async fn a_stale_socket_is_replaced_a_live_one_and_a_file_are_not() {
    let folder = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(folder.path().join("agent.sock")).unwrap());
    let first = Sockets::bind(folder.path()).unwrap();
    assert!(matches!(Sockets::bind(folder.path()), Err(BindError::InUse { .. })));
    assert!(UnixStream::connect(folder.path().join("agent.sock")).is_ok());
    drop(first);
    Sockets::bind(folder.path()).unwrap();

    let other = tempfile::tempdir().unwrap();
    std::fs::write(other.path().join("pep.sock"), "mine").unwrap();
    assert!(matches!(Sockets::bind(other.path()), Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read_to_string(other.path().join("pep.sock")).unwrap(), "mine");
    assert!(matches!(Sockets::bind(Path::new("/proc/none")), Err(BindError::Io { .. })));
    let deep = folder.path().join("d".repeat(120));
    assert!(matches!(Sockets::bind(&deep), Err(BindError::Io { what: "bind", .. })));
}

#[tokio::test]
async fn a_link_in_the_run_folder_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = folder.path().join("elsewhere");
    std::fs::write(&elsewhere, "mine").unwrap();
    for target in [elsewhere.as_path(), Path::new("/nowhere")] {
        let run_dir = folder.path().join("run");
        std::fs::create_dir_all(&run_dir).unwrap();
        std::os::unix::fs::symlink(target, run_dir.join("admin.sock")).unwrap();
        assert!(matches!(Sockets::bind(&run_dir), Err(BindError::NotASocket { .. })));
        assert_eq!(std::fs::read_link(run_dir.join("admin.sock")).unwrap(), target);
        std::fs::remove_dir_all(&run_dir).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "mine");
}

#[tokio::test]
async fn sockets_are_given_to_their_groups_before_anybody_connects() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    // Another group than the own can only be given by root; the own one by everybody.
    let own = std::fs::metadata(folder.path()).unwrap().gid();
    let other = if rustix::process::geteuid().is_root() { 54_321 } else { own };
    let config = SocketsConfig { pep_group: Some(other.to_string()), admin_group: Some(own.to_string()) };
    let sockets = Sockets::bind_for(folder.path(), &config).unwrap();
    for (name, group, mode) in [("pep.sock", other, 0o660), ("admin.sock", own, 0o660), ("agent.sock", own, 0o666)] {
        let found = std::fs::metadata(folder.path().join(name)).unwrap();
        assert_eq!((found.gid(), found.permissions().mode() & 0o7777), (group, mode), "{name}");
    }
    drop(sockets);
    let nobodys = SocketsConfig { pep_group: Some("no-such-group".into()), admin_group: None };
    assert!(
        matches!(Sockets::bind_for(folder.path(), &nobodys), Err(BindError::NoGroup(name)) if name == "no-such-group")
    );
}

#[test]
fn every_documented_path_answers_on_its_sockets_and_on_no_other() {
    let rig = Rig::start(|_| ());
    let expect = |method: &str, path: &str, body: &str, admin: u16, agent: u16, pep: u16| {
        for (socket, status) in [("admin.sock", admin), ("agent.sock", agent), ("pep.sock", pep)] {
            let answer = rig.ask(socket, method, path, body);
            assert_eq!(answer.status, status, "{method} {path} on {socket}: {answer:?}");
            if status >= 400 {
                let code = answer.json()["code"].as_str().unwrap().to_owned();
                answer.is_problem(status, &code);
            }
        }
    };
    expect("GET", "/healthz", "", 200, 200, 200);
    expect("GET", "/readyz", "", 200, 200, 200);
    expect("GET", "/openapi.json", "", 200, 200, 200);
    expect("GET", "/metrics", "", 404, 404, 404);
    expect("GET", "/v1/whoami", "", 200, 200, 200);
    expect("POST", "/v1/authorize", AUTHORIZE, 200, 200, 200);
    expect("POST", "/v1/tasks", BEGIN, 201, 201, 404);
    expect("GET", "/v1/tasks", "", 200, 200, 404);
    expect("POST", "/v1/tasks/t-1/renew", "", 200, 200, 404);
    expect("POST", "/v1/tasks/t-1/finish", "{}", 200, 200, 404);
    expect("POST", "/v1/tasks/t-1/finish", "{\"x\":1}", 400, 400, 404);
    expect("POST", "/v1/tasks/-bad/finish", "", 400, 400, 404);
    expect("POST", "/v1/tasks/t-1/steps", STEP, 201, 201, 404);
    expect("POST", "/v1/tasks/t-1/steps", "{}", 400, 400, 404);
    expect("POST", "/v1/tasks/-bad/steps", STEP, 400, 400, 404);
    expect("POST", "/v1/attenuate", r#"{"token":"abc","ttl_s":60}"#, 201, 201, 404);
    expect("POST", "/v1/attenuate", "{}", 400, 400, 404);
    expect("GET", "/v1/audit", "", 200, 404, 404);
    expect("GET", "/v1/audit?pieces=8&after=1.00000000000000ab.3", "", 200, 404, 404);
    expect("GET", "/v1/audit?pieces=9", "", 400, 404, 404);
    expect("GET", "/v1/authorize", "", 405, 405, 405);
    expect("GET", "/../etc/passwd", "", 404, 404, 404);
}

#[test]
fn bodies_have_the_documented_fields() {
    let rig = Rig::start(|_| ());
    let decision = rig.ask("pep.sock", "POST", "/v1/authorize", AUTHORIZE);
    assert_eq!(
        decision.json(),
        serde_json::json!({
            "decision": "deny", "reason": "expired", "explain": "it has expired", "decided_by": null, "decision_id": "gw-07/1/2",
            "mode": "offline", "freshness": "unknown", "staleness_s": 3, "time_class": "bounded",
            "expires_in_s": null, "audit": {"era": 1, "segment": 0, "index": 2}
        })
    );
    let task = rig.ask("agent.sock", "POST", "/v1/tasks", BEGIN);
    assert!(task.head.contains("location: /v1/tasks/t-1"));
    assert!(task.head.contains("cache-control: no-store"));
    assert_eq!(
        task.json(),
        serde_json::json!({
            "task_id": "t-1", "token": "abc", "expires_in_s": 60, "uses": null, "origin": "fallback",
            "grant_id": "07070707070707070707070707070707", "mode": "offline"
        })
    );
    let step = rig.ask("agent.sock", "POST", "/v1/tasks/t-1/steps", STEP);
    assert!(step.head.contains("cache-control: no-store"));
    assert_eq!(
        step.json(),
        serde_json::json!({
            "task_id": "t-1", "step_id": "s-1", "token": "abc", "executor": "unix:uid:2002", "expires_in_s": 60, "uses": 1,
            "origin": "fallback", "grant_id": "07070707070707070707070707070707", "mode": "offline",
            "decision_id": "gw-07/1/2"
        })
    );
    assert_eq!(
        rig.ask("agent.sock", "POST", "/v1/attenuate", r#"{"token":"abc","checks":[]}"#).json(),
        serde_json::json!({
            "token": "abc", "revocation_id": "07".repeat(32), "expires_in_s": 60, "sealed": true, "task_id": "t-1",
            "step_id": null
        })
    );
    assert_eq!(rig.ask("agent.sock", "GET", "/v1/tasks", "").json(), serde_json::json!({"tasks": []}));
    assert_eq!(rig.ask("pep.sock", "GET", "/v1/whoami", "").json()["selectors"][0], "Pep");
    let locked = r#"{"token":"problem","operation":"read","resource":"meter/1"}"#;
    rig.ask("pep.sock", "POST", "/v1/authorize", locked).is_problem(403, "locked");
}

#[test]
fn wrong_json_is_400_and_the_agent_goes_on() {
    let rig = Rig::start(|_| ());
    let deep = format!("{{\"token\":{}1{}}}", "[".repeat(5000), "]".repeat(5000));
    for body in ["", "null", "{", "[]", "\u{0}", &deep, r#"{"token":"t"}"#, &AUTHORIZE.replace('}', ",\"x\":1}")] {
        rig.ask("agent.sock", "POST", "/v1/authorize", body).is_problem(400, "invalid_request");
    }
    assert_eq!(rig.ask("agent.sock", "POST", "/v1/authorize", AUTHORIZE).status, 200);
}

#[test]
fn an_array_stands_for_no_object_in_any_body() {
    let rig = Rig::start(|_| ());
    let description = rig.ask("admin.sock", "GET", "/openapi.json", "").json();
    let takes_json = |item: &Value| !item["post"]["requestBody"]["content"]["application/json"].is_null();
    let described = description["paths"].as_object().unwrap().iter().filter(|(_, item)| takes_json(item));
    for (path, _) in described {
        assert!(BODIES.iter().any(|(_, known, _)| known == path), "{path} has no body here");
    }
    for (socket, path, body) in BODIES {
        let (path, body): (_, Value) = (path.replace("{id}", "t-1"), serde_json::from_str(body).unwrap());
        let whole = rig.ask(socket, "POST", &path, &body.to_string());
        assert_ne!(whole.status, 400, "{path} {body}: {whole:?}");
        for wrong in with_an_array_for_an_object(&body) {
            let refused = rig.ask(socket, "POST", &path, &wrong.to_string());
            assert_eq!(refused.status, 400, "{path} {wrong}: {refused:?}");
            refused.is_problem(400, "invalid_request");
        }
    }
}

#[test]
fn a_path_that_is_no_text_is_told_as_any_wrong_id_is() {
    let rig = Rig::start(|_| ());
    for (method, what, body) in
        [("POST", "finish", ""), ("POST", "renew", ""), ("POST", "steps", STEP), ("GET", "wait", "")]
    {
        for id in ["%ff", "%c3%28", "%ed%a0%80", "-bad"] {
            let answer = rig.ask("agent.sock", method, &format!("/v1/tasks/{id}/{what}"), body);
            answer.is_problem(400, "invalid_request");
        }
    }
}

#[test]
fn an_evaluation_is_answered_under_the_name_of_its_request() {
    let rig = Rig::start(|_| ());
    let id = |what: &str, headers: &[&str], body: &str| {
        let answer = rig.ask_with("pep.sock", what, headers, body);
        let found = answer.head.lines().find_map(|line| line.strip_prefix("x-request-id: ").map(str::to_owned));
        (answer.status, found)
    };
    let evaluate = "POST /access/v1/evaluation";
    let named = Some("bfe9eb29-ab87".to_owned());
    assert_eq!(id(evaluate, &["X-Request-ID: bfe9eb29-ab87"], EVALUATION), (200, named.clone()));
    assert_eq!(id(evaluate, &["x-request-id: bfe9eb29-ab87"], "{}"), (400, named));
    assert_eq!(id(evaluate, &[], EVALUATION), (200, None));
    let long = format!("X-Request-ID: {}", "a".repeat(257));
    for headers in [&[long.as_str()][..], &["X-Request-ID: a b"], &["X-Request-ID: \u{e9}"], &["X-Request-ID:"]] {
        assert_eq!(id(evaluate, headers, EVALUATION), (200, None), "{headers:?}");
    }
    assert_eq!(id(evaluate, &["X-Request-ID: a", "X-Request-ID: b"], EVALUATION), (200, None));
    assert_eq!(id("POST /v1/authorize", &["X-Request-ID: a"], AUTHORIZE), (200, None), "it is AuthZEN's");
    let without = EVALUATION.replace(r#"{"destination":"abc","risk":"abc","token":"abc"}"#, "null");
    assert!(without.contains(r#""context":null"#));
    assert_eq!(id(evaluate, &[], &without).0, 200, "none is none");
}

#[test]
fn a_token_in_a_header_beside_that_of_the_body_is_refused() {
    let rig = Rig::start(|_| ());
    const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
    for other in ["Authorization: Bearer t", "Authorization: biscuit u", "Hardtack-Token: t"] {
        rig.ask_with("agent.sock", "POST /v1/authorize", &[other], AUTHORIZE).is_problem(400, "invalid_request");
        let told = rig.ask_with("pep.sock", "POST /introspect", &[FORM, other], "token=t");
        assert_eq!((told.status, &told.json()["error"]), (400, &"invalid_request".into()), "{other}");
        let evaluation = rig.ask_with("pep.sock", "POST /access/v1/evaluation", &[other], EVALUATION);
        evaluation.is_problem(400, "invalid_request");
    }
    // What is no token of ours says nothing.
    let basic = "Authorization: Basic eDp5";
    assert_eq!(rig.ask_with("agent.sock", "POST /v1/authorize", &[basic], AUTHORIZE).status, 200);
    assert_eq!(rig.ask_with("pep.sock", "POST /introspect", &[FORM, basic], "token=t").status, 200);
}

#[test]
fn what_holds_a_token_is_kept_by_no_cache() {
    let rig = Rig::start(|_| ());
    const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
    let exchange = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=abc&ttl_s=60\
                    &subject_token_type=urn:ietf:params:oauth:token-type:access_token";
    for (body, status) in [(exchange, 200), ("grant_type=password", 400)] {
        let answer = rig.ask_with("agent.sock", "POST /token", &[FORM], body);
        assert_eq!(answer.status, status, "{answer:?}");
        assert!(answer.head.contains("cache-control: no-store\r\n") && answer.head.contains("pragma: no-cache\r\n"));
    }
}

#[test]
fn a_body_that_is_too_large_is_413_however_it_is_framed() {
    let rig = Rig::start(|limits| limits.body_bytes_max = 1000);
    rig.ask("agent.sock", "POST", "/v1/attenuate", &"x".repeat(1001)).is_problem(413, "body_too_large");
    rig.ask("agent.sock", "POST", "/v1/attenuate", &"x".repeat(300_000)).is_problem(413, "body_too_large");
    rig.ask("agent.sock", "POST", "/v1/attenuate", &"x".repeat(1000)).is_problem(400, "invalid_request");

    // Arguments have room of their own.
    rig.ask("agent.sock", "POST", "/v1/authorize", &"x".repeat(1000 + 16 * 1024)).is_problem(400, "invalid_request");
    rig.ask("agent.sock", "POST", "/v1/authorize", &"x".repeat(1001 + 16 * 1024)).is_problem(413, "body_too_large");

    // Without a length, a chunk at a time.
    let mut stream = rig.connect("agent.sock");
    write!(stream, "POST /v1/attenuate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    for _ in 0..20 {
        write!(stream, "40\r\n{}\r\n", "x".repeat(0x40)).unwrap();
    }
    write!(stream, "0\r\n\r\n").unwrap();
    Answer::read(&mut stream).is_problem(413, "body_too_large");

    // Announced, never sent.
    let mut stream = rig.connect("agent.sock");
    write!(stream, "POST /v1/tasks HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n").unwrap();
    Answer::read(&mut stream).is_problem(413, "body_too_large");
    assert_eq!(rest_of(stream), "");
}

#[test]
fn headers_that_are_too_large_are_431() {
    let rig = Rig::start(|limits| limits.header_bytes_max = 2000);
    let with_header = |bytes: usize| {
        let mut stream = rig.connect("agent.sock");
        // The server may have answered and closed before all of it is written.
        let _ = write!(stream, "GET /healthz HTTP/1.1\r\nhost: x\r\nx-pad: {}\r\n\r\n", "x".repeat(bytes));
        rest_of_one_answer(stream)
    };
    assert_eq!(status_of(&with_header(100)), 200);
    let named = with_header(2100);
    assert!(named.contains("headers_too_large"), "{named}");
    assert_eq!(status_of(&with_header(11_000)), 431);
    assert_eq!(status_of(&with_header(900_000)), 431);

    let many: String = (0..300).map(|n| format!("h{n}: 1\r\n")).collect();
    let mut stream = rig.connect("agent.sock");
    write!(stream, "GET /healthz HTTP/1.1\r\n{many}\r\n").unwrap();
    assert_eq!(status_of(&rest_of_one_answer(stream)), 431);
}

fn rest_of_one_answer(mut stream: UnixStream) -> String {
    let mut bytes = vec![0; 4096];
    let length = stream.read(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

#[track_caller]
fn status_of(answer: &str) -> u16 {
    answer.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no status in {answer:?}"))
}

#[test]
fn broken_framing_is_refused_and_the_agent_goes_on() {
    let rig = Rig::start(|_| ());
    let broken: &[&[u8]] = &[
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/authorize HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST /v1/authorize HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /v1/authorize HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
    ];
    for bytes in broken {
        let mut stream = rig.connect("agent.sock");
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let answer = rest_of(stream);
        assert!(answer.is_empty() || status_of(&answer) >= 400, "{answer:?}");
    }
    assert_eq!(rig.ask("agent.sock", "GET", "/healthz", "").status, 200);
}

/// Requests to one host that somebody in front of the agent could take for others, each with one behind it, and whether the agent
/// takes them: then both are answered, else the one is refused and nothing behind it is read.
pub(crate) fn doubtful_requests(host: &str) -> Vec<(String, bool)> {
    let (length, chunked) = (format!("Content-Length: {}\r\n", AUTHORIZE.len()), "Transfer-Encoding: chunked\r\n");
    let chunks = format!("{:x}\r\n{AUTHORIZE}\r\n0\r\n\r\n", AUTHORIZE.len());
    let head = |target: &str, version: &str, lines: &str| {
        format!("POST {target} HTTP/{version}\r\nHost: {host}\r\n{lines}\r\n")
    };
    let with = |lines: &str, body: &str| head("/v1/authorize", "1.1", lines) + body;
    let own = format!("http://{host}/v1/authorize");
    let taken = [
        with(&length, AUTHORIZE),
        with(chunked, &chunks),
        with("transfer-encoding:\tCHUNKED \r\n", &chunks),
        with(chunked, &chunks.replacen("\r\n", ";a=\"b\"\r\n", 1)),
        with(chunked, &chunks.replace("0\r\n", "0\r\nContent-Length: 1\r\n")),
        // What says the same twice says one thing (RFC 9112, 6.3), a line may end without its CR (2.2), and lines without anything
        // in front of a request do not count (2.2).
        with(&format!("{length}{length}"), AUTHORIZE),
        with(&length, "").replace("\r\n", "\n") + AUTHORIZE,
        format!("\r\n{}", with(&length, AUTHORIZE)),
        head(&own, "1.1", &length) + AUTHORIZE,
        // Another header, whatever somebody else makes of it: the length counts.
        with(&format!("Transfer_Encoding: chunked\r\n{length}"), AUTHORIZE),
    ];
    let lengths = ["+{}", "-{}", "{}, {}", "0x{}", "{}a", "", "{}000000000000000000000", "{} {}"].map(|form| {
        with(&format!("Content-Length: {}\r\n", form.replace("{}", &AUTHORIZE.len().to_string())), AUTHORIZE)
    });
    let codings = [
        "identity",
        "chunked, identity",
        "chunked, chunked",
        "gzip, chunked",
        "xchunked",
        "\"chunked\"",
        "",
        ",chunked",
    ]
    .map(|coding| with(&format!("Transfer-Encoding: {coding}\r\n"), &chunks));
    let sizes =
        [("\r\n", "\n"), ("\r\n", " x\r\n"), ("", "+"), ("", "0x"), ("\r\n0", "\r0"), ("", "f0000000000000000")]
            .map(|(part, other)| with(chunked, &chunks.replacen(part, other, 1)));
    let refused = [
        with(&format!("{length}{chunked}"), &chunks),
        with(&format!("{chunked}{length}"), &chunks),
        with(&format!("{chunked}Content-Length: +1\r\n"), &chunks),
        with(&format!("{chunked}X: y\r\ncontent-length:0\r\n"), &chunks),
        with(&format!("{length}Content-Length: 1\r\n"), AUTHORIZE),
        with(&format!("{chunked}{chunked}"), &chunks),
        head("/v1/authorize", "1.0", chunked) + &chunks,
        // A line that goes on in the next one, a CR alone, a space in front of the colon, a byte that is none of text, no colon.
        with(&format!("X: a\r\n b\r\n{length}"), AUTHORIZE),
        with(&format!("Transfer-Encoding:\r\n chunked\r\n{length}"), AUTHORIZE),
        with(&format!(" {length}"), AUTHORIZE),
        with(&format!("X: a\rb\r\n{length}"), AUTHORIZE),
        with(&format!("X: a\r{length}"), AUTHORIZE),
        with(&length.replace(':', " :"), AUTHORIZE),
        with(&chunked.replace(':', "\t:"), &chunks),
        with(&format!("X: a\0b\r\n{length}"), AUTHORIZE),
        with(&format!("X\r\n{length}"), AUTHORIZE),
        head("http://else.where/v1/authorize", "1.1", &length) + AUTHORIZE,
        head(&own, "1.1", &format!("Host: {host}\r\n{length}")) + AUTHORIZE,
        head("/v1/authorize HTTP/1.1 x", "1.1", &length) + AUTHORIZE,
    ];
    let refused = refused.into_iter().chain(lengths).chain(codings).chain(sizes);
    let behind = format!("GET /v1/behind HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let all = taken.into_iter().map(|request| (request, true)).chain(refused.map(|request| (request, false)));
    all.map(|(request, taken)| (request + &behind, taken)).collect()
}

/// What came back to one of these: the connection is closed behind it.
#[track_caller]
pub(crate) fn check_doubtful(request: &str, taken: bool, answers: &str) {
    let statuses: Vec<&str> = answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, if taken { vec!["200", "404"] } else { vec!["400"] }, "{request:?}: {answers:?}");
    assert!(taken || answers.ends_with("\r\n\r\n") || answers.contains("\"invalid_request\""), "{answers:?}");
}

#[test]
fn a_request_that_could_be_two_is_refused_and_nothing_behind_it_is_read() {
    let rig = Rig::start(|limits| (limits.per_second, limits.burst) = (10_000, 10_000));
    for socket in ["admin.sock", "agent.sock", "pep.sock"] {
        for (request, taken) in doubtful_requests("x") {
            let mut stream = rig.connect(socket);
            stream.write_all(request.as_bytes()).unwrap();
            check_doubtful(&request, taken, &rest_of(stream));
        }
    }
    // Proxies understand three statuses.
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for lines in [both, "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"] {
        let mut stream = rig.connect("pep.sock");
        let next = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        write!(stream, "GET /authz/forward-auth/meter HTTP/1.1\r\nHost: x\r\n{lines}{next}").unwrap();
        let answer = rest_of(stream);
        let is_one = answer.starts_with("HTTP/1.1 403 ") && answer.matches("HTTP/1.1 ").count() == 1;
        let told = answer.contains("hardtack-reason: invalid_request") && answer.contains("`Transfer-Encoding");
        assert!(is_one && told, "{answer:?}");
    }
}

#[test]
fn clients_that_hang_are_let_go() {
    let rig = Rig::start(|limits| limits.read_ms = 200);
    let silent = rig.connect("agent.sock");
    let mut half_a_head = rig.connect("agent.sock");
    half_a_head.write_all(b"POST /v1/auth").unwrap();
    let mut half_a_body = rig.connect("agent.sock");
    write!(half_a_body, "POST /v1/authorize HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{{").unwrap();
    let mut between_requests = rig.connect("agent.sock");
    write!(between_requests, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert_eq!(Answer::read(&mut between_requests).status, 200);

    Answer::read(&mut half_a_body).is_problem(408, "request_timeout");
    for stream in [silent, half_a_head, half_a_body, between_requests] {
        let last = rest_of(stream);
        assert!(last.is_empty() || status_of(&last) == 408, "{last:?}");
    }
}

#[test]
fn a_client_that_asks_without_end_and_never_reads_is_let_go() {
    let rig = Rig::start(|limits| limits.read_ms = 200);
    let mut stream = rig.connect("agent.sock");
    let request = "GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n".repeat(100);
    let cut = (0..10_000).find_map(|_| stream.write_all(request.as_bytes()).err());
    let kind = cut.expect("the flood went on for ever").kind();
    assert!(matches!(kind, std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset), "{kind}");
    assert_eq!(rig.ask("agent.sock", "GET", "/healthz", "").status, 200);
}

#[test]
fn a_pipelined_flood_is_answered_in_order_and_meets_the_rate_limit() {
    let rig = Rig::start(|limits| (limits.per_second, limits.burst) = (1, 5));
    let mut stream = rig.connect("agent.sock");
    let request =
        format!("POST /v1/authorize HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{AUTHORIZE}", AUTHORIZE.len());
    stream.write_all(request.repeat(50).as_bytes()).unwrap();
    let answers: Vec<Answer> = (0..50).map(|_| Answer::read(&mut stream)).collect();
    let allowed = answers.iter().take_while(|answer| answer.status == 200).count();
    assert!((5..40).contains(&allowed), "{allowed}");
    let refused = &answers[allowed];
    refused.is_problem(429, "throttled");
    assert!(refused.head.contains("retry-after: 1"));
    // A flood on one socket of one uid counts on all of them.
    rig.ask("pep.sock", "GET", "/v1/whoami", "").is_problem(429, "throttled");
}

#[test]
fn one_connection_too_many_is_429_and_operators_still_get_in() {
    // All connections are those that one user may have.
    let rig = Rig::start(|limits| (limits.connections_max, limits.concurrent_per_uid) = (4, 4));
    let held: Vec<UnixStream> = (0..4).map(|_| rig.connect("agent.sock")).collect();
    // Accepted in order: when the fifth is answered, the four are in.
    let mut fifth = rig.connect("agent.sock");
    Answer::read(&mut fifth).is_problem(429, "throttled");
    assert_eq!(rig.ask("admin.sock", "GET", "/healthz", "").status, 200, "while they are held");
    drop(held);
    // Their places are free once the server has seen that they are gone.
    let freed = (0..2000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        rig.ask_or_turned_away("agent.sock") == 200
    });
    assert!(freed);
}

impl Rig {
    fn ask_or_turned_away(&self, socket: &str) -> u16 {
        let mut stream = self.connect(socket);
        let _ = write!(stream, "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n");
        status_of(&rest_of_one_answer(stream))
    }
}

#[test]
fn an_answer_that_was_not_recorded_is_503_without_a_decision() {
    let rig = Rig::start(|_| ());
    rig.broken.store(true, Ordering::SeqCst);
    for socket in ["agent.sock", "pep.sock"] {
        let answer = rig.ask(socket, "POST", "/v1/authorize", AUTHORIZE);
        answer.is_problem(503, "audit_unavailable");
        assert!(answer.json().get("decision").is_none());
    }
    let ready = rig.ask("agent.sock", "GET", "/readyz", "");
    assert_eq!((ready.status, &ready.json()["ready"]), (503, &Value::Bool(false)));
    assert_eq!(rig.ask("agent.sock", "GET", "/healthz", "").status, 200);
    rig.broken.store(false, Ordering::SeqCst);
    assert_eq!(rig.ask("agent.sock", "POST", "/v1/authorize", AUTHORIZE).status, 200);
}

#[test]
fn a_full_queue_to_the_loop_is_429() {
    let rig = Rig::start(|_| ());
    rig.inbox.stop();
    rig.ask("agent.sock", "POST", "/v1/authorize", AUTHORIZE).is_problem(429, "throttled");
}
