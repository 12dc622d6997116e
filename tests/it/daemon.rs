//! The built daemon on a real state folder: enrolment by hand, decisions alone, crashes, a disk that refuses.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use ed25519_dalek::SigningKey;
use hardtack::ids::{DeviceId, FleetId, GrantId, Hash};
use hardtack::shell::clock;
use hardtack::shell::mqtt::probe::{Probe, Verdict};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::bundle::{BrokerPins, Feed, Issuer, TrustBundle};
use hardtack::wire::enrol::{EnrolAnswer, EnrolBundle, EnrolRequest};
use hardtack::wire::envelope::Signed;
use hardtack::wire::link::Right;
use hardtack::wire::policy::PolicyDocument;
use hardtack::wire::revocation::announcement::Successor;
use hardtack::wire::revocation::set::RevocationSet;
use hardtack::wire::seal::SealingKey;
use hardtack::wire::token::{mint_grant, ClassRight, GrantSpec};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;

use crate::support::cannot_run;
use crate::support::mosquitto::Mosquitto;
use crate::support::strace::{self, Due, Moment};

/// Whoever waits longer than this has found a bug.
const PATIENCE: Duration = Duration::from_secs(60);

/// The user for whose programs planners may take steps.
pub(crate) const EXECUTOR_UID: u32 = 65_534;

/// A device's folders, and the fleet that answers it.
pub(crate) struct Device {
    folder: tempfile::TempDir,
}

impl Device {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn enrolled() -> Self {
        Self::enrolled_at(BrokerPins::default())
    }

    /// Enrolled in a fleet whose trust bundle says something else besides.
    pub(crate) fn enrolled_by(edit: impl FnOnce(&mut TrustBundle)) -> Self {
        Self::enrolled_in(BrokerPins::default(), &own_uid(), edit)
    }

    /// Enrolled with a grant by which whoever has this selector may begin tasks.
    pub(crate) fn enrolled_for(may_begin: &str) -> Self {
        Self::enrolled_in(BrokerPins::default(), may_begin, |_| {})
    }

    /// Enrolled in a fleet whose trust bundle names these brokers.
    fn enrolled_at(brokers: BrokerPins) -> Self {
        Self::enrolled_in(brokers, &own_uid(), |_| {})
    }

    fn enrolled_in(brokers: BrokerPins, may_begin: &str, edit: impl FnOnce(&mut TrustBundle)) -> Self {
        let device = Self::new();
        let request = device.path("request");
        device.ok(&["enrol", "request", "--id", "gw-07", "--out", request.to_str().unwrap()]);
        let (answer, fingerprint) = approve(&std::fs::read(request).unwrap(), brokers, may_begin, edit);
        let file = device.path("answer");
        std::fs::write(&file, answer).unwrap();
        device.ok(&["enrol", "import", file.to_str().unwrap(), "--fleet", &fingerprint]);
        device
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_of(Command::new(env!("CARGO_BIN_EXE_hardtack")), args)
    }

    /// The same, of a program that runs the binary.
    pub(crate) fn command_of(&self, mut command: Command, args: &[&str]) -> Command {
        command.args(args).env_clear().env("HOME", self.folder.path()).stdin(Stdio::null());
        command.env("HARDTACK_STATE_DIR", self.path("state")).env("HARDTACK_RUN_DIR", self.path("run"));
        command.env("HARDTACK_OUTPUT", "json");
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    pub(crate) fn exits(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        stderr
    }

    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> Value {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn start(&self) -> Daemon {
        Self::start_by(self.command(&["agent", "run"]))
    }

    pub(crate) fn start_by(mut command: Command) -> Daemon {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut daemon = Daemon { child, lines, log: Vec::new() };
        daemon.wait_for("agent.ready");
        daemon
    }

    pub(crate) fn begin(&self) -> String {
        let task = self.ok(&["task", "begin", "pump", "--right", "read:meter/*"]);
        assert_eq!(task["origin"], "fallback");
        task["token"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn decides(&self, token: &str, reason: &str) {
        let (_, decision) = self.authorize(token, "read");
        assert_eq!(decision["reason"], reason, "{decision}");
    }

    pub(crate) fn authorize(&self, token: &str, operation: &str) -> (Option<i32>, Value) {
        let args = ["authorize", "--token", token, "--operation", operation, "--resource", "meter/1"];
        let output = self.run(&args);
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
    }
}

/// A running agent. Its log is read as it comes.
pub(crate) struct Daemon {
    child: Child,
    lines: mpsc::Receiver<String>,
    log: Vec<String>,
}

impl Daemon {
    #[track_caller]
    pub(crate) fn wait_for(&mut self, event: &str) -> Value {
        self.wait_until(|line| line["event"] == event)
    }

    /// The next line of the log that is what is waited for.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, awaited: impl Fn(&Value) -> bool) -> Value {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else { panic!("it is not in {:#?}", self.log) };
            self.log.push(line.clone());
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no record: {}", self.rest(line)));
            if awaited(&line) {
                return line;
            }
        }
    }

    /// A line that is no record, and what follows it: a panic is told in more than one line.
    fn rest(&self, line: String) -> String {
        let follows = std::iter::from_fn(|| self.lines.recv_timeout(Duration::from_secs(1)).ok());
        std::iter::once(line).chain(follows).collect::<Vec<_>>().join("\n")
    }

    /// The first of these events, though another was waited for since.
    #[track_caller]
    pub(crate) fn first(&mut self, event: &str) -> Value {
        let mut lines = self.log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let found = lines.find(|line| line["event"] == event);
        found.unwrap_or_else(|| self.wait_for(event))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        self.wait_for("agent.stopped");
        assert_eq!(self.child.wait().unwrap().code(), Some(0), "{:#?}", self.log);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Gone already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The key of every role of the fleet.
fn fleet_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn trust(version: u64, broker: BrokerPins, now: Timestamp) -> TrustBundle {
    let public = fleet_key().verifying_key().into();
    TrustBundle {
        fleet: "acme".parse().unwrap(),
        version,
        threshold: 1,
        roots: vec![public],
        issuers: vec![Issuer { root_key_id: 1, key: public }],
        policy: vec![public],
        feeds: vec![Feed { id: "main".parse().unwrap(), era: 1, keys: vec![public], groups: Vec::new(), since: 0 }],
        service: vec![public],
        operators: vec![public],
        emergency: vec![],
        identities: vec![],
        collector: SealingKey::from_bytes([9; 32]).public(),
        groups: Default::default(),
        policy_version_min: 1,
        broker,
        issued_at: now,
        not_after: now + Millis::from_secs(86_400),
    }
}

/// The selector of programs of this user.
fn own_uid() -> String {
    format!("unix:uid:{}", rustix::process::getuid().as_raw())
}

/// The fleet's answer to a request, with a grant for who has a selector, and the fleet's fingerprint.
fn approve(
    request: &[u8],
    brokers: BrokerPins,
    may_begin: &str,
    edit: impl FnOnce(&mut TrustBundle),
) -> (Vec<u8>, String) {
    let mut rng = ChaCha20Rng::from_seed([3; 32]);
    let key = fleet_key();
    let (fleet, device): (FleetId, DeviceId) = ("acme".parse().unwrap(), "gw-07".parse().unwrap());
    let request = EnrolRequest::open(&Signed::from_bytes(request).unwrap()).unwrap();
    let now = clock::wall().unwrap();
    let mut trust = trust(1, brokers, now);
    edit(&mut trust);
    let set = RevocationSet::default();
    let successor = Successor {
        feed: &"main".parse().unwrap(),
        era: 1,
        seq: 1,
        previous: Hash::ZERO,
        issued_at: now,
        next_update_ms: Millis::from_secs(3600),
        hard_stale_ms: Millis::from_secs(30 * 86_400),
        dropped_before: Timestamp(0),
        set: &set,
        additions: &set,
        skips: &[],
        bundle_version: 1,
        policy_version: 1,
    };
    let head = successor.sign(&fleet, &key).1.remove(0).head;
    let right = |resource: &str, action: &str| ClassRight {
        class: "pump".parse().unwrap(),
        right: Right { resource: resource.into(), action: action.into() },
    };
    let tools = ["call", "get", "read"].map(|action| right("mcp/*", action));
    let grant = GrantSpec {
        fleet: fleet.clone(),
        grant: GrantId([0x42; 16]),
        device: device.clone(),
        owner: "ops@acme".into(),
        feed: Some("main".parse().unwrap()),
        issued: now,
        expires: now + Millis::from_secs(86_400),
        may_begin: vec![(may_begin.to_owned(), "pump".parse().unwrap())],
        may_step: vec![(format!("unix:uid:{EXECUTOR_UID}"), "pump".parse().unwrap())],
        rights: [
            ("meter/*", "read"),
            ("http/hmi.local/*", "read"),
            ("http/public.local/*", "read"),
            ("secret/crm/*", "read"),
            ("secret/crm/*", "write"),
        ]
        .into_iter()
        .map(|(resource, action)| right(resource, action))
        .chain(tools)
        .collect(),
        offline_max: Millis::from_secs(86_400),
        uses_max: 10_000,
        boots_max: 20,
        task_ttl_max: Millis::from_secs(3600),
        staleness_max: Vec::new(),
        min_time_class: None,
    };
    let bundle = EnrolBundle {
        device,
        identity: request.keys.identity,
        nonce: request.nonce,
        issued_at: now,
        bundles: vec![Signed::sign(&trust, &fleet, &[&key])],
        policy: Signed::sign(&PolicyDocument::built_in(now), &fleet, &[&key]),
        feeds: vec![(head, set.to_bytes())],
        grants: vec![mint_grant(&grant, &key, 1, &mut rng).unwrap()],
        certificate: vec![0x30, 0],
    };
    let answer = EnrolAnswer::seal(&bundle, &fleet, &key, &request.keys.sealing, &mut rng).unwrap();
    (answer.to_bytes(), trust.fingerprint().to_string())
}

#[test]
fn an_enrolled_device_decides_alone_and_ends_as_asked() {
    let device = Device::enrolled();
    assert_eq!(device.ok(&["enrol", "status"])["fleet"], "acme");
    assert_eq!(device.ok(&["agent", "check"])["ok"], true);
    let mut daemon = device.start();
    let token = device.begin();
    let (code, decision) = device.authorize(&token, "read");
    assert_eq!((code, &decision["decision"], &decision["reason"]), (Some(0), &"allow".into(), &"allowed".into()));
    let (code, decision) = device.authorize(&token, "write");
    assert_eq!((code, &decision["decision"]), (Some(3), &Value::from("deny")));
    assert_eq!(device.authorize("AAAA", "read").0, Some(12));
    let status = device.ok(&["status"]);
    for field in ["mode", "reasons", "feed_seq", "bundle_version", "floor", "pending", "era", "grants", "autonomy"] {
        assert!(status.get(field).is_some(), "{field} in {status}");
    }
    assert_eq!((&status["mode"], &status["device"]), (&"offline".into(), &"gw-07".into()));
    assert_eq!(device.ok(&["whoami"])["may_begin"][0], "pump");

    let ready: Value = serde_json::from_str(daemon.log.last().unwrap()).unwrap();
    for field in ["ts", "level", "event", "device"] {
        assert!(ready[field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {ready}");
    }
    // What waits gets its answer, and the sockets go.
    daemon.signal(Signal::TERM);
    daemon.wait_for("agent.stopped");
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
    assert!(!device.path("run/agent.sock").exists());
}

#[test]
fn a_killed_agent_starts_again_alone_and_knows_what_it_knew() {
    let device = Device::enrolled();
    let mut daemon = device.start();
    let token = device.begin();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let (code, decision) = device.authorize(&token, "read");
        assert_eq!(code, Some(0), "{decision}");
        ids.push(decision["decision_id"].as_str().unwrap().to_owned());
        daemon.signal(Signal::KILL);
        daemon.child.wait().unwrap();
        // The dead process's sockets are in the way, and nobody's.
        assert!(device.path("run/agent.sock").exists());
        daemon = device.start();
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 3, "an id was used twice");
    assert!(device.ok(&["status"])["pending"].as_u64() >= Some(3));
    daemon.stop();
}

#[test]
fn a_store_that_refuses_gives_503_and_heals_without_a_restart() {
    let device = Device::enrolled();
    let mut daemon = device.start();
    let token = device.begin();
    let (wallet, away) = (device.path("state/wallet"), device.path("state/wallet.away"));
    std::fs::rename(&wallet, &away).unwrap();
    std::fs::write(&wallet, "in the way").unwrap();
    let refused = device.run(&["task", "begin", "pump", "--right", "read:meter/1"]);
    assert_eq!(refused.status.code(), Some(9), "{refused:?}");
    daemon.wait_for("store.failed");
    assert_eq!(device.authorize(&token, "read"), (Some(9), Value::Null));
    assert_eq!(http_status(&device.path("run/agent.sock"), "/readyz"), 503);
    assert_eq!(http_status(&device.path("run/agent.sock"), "/healthz"), 200);

    std::fs::remove_file(&wallet).unwrap();
    std::fs::rename(&away, &wallet).unwrap();
    daemon.wait_for("store.reopened");
    assert_eq!(device.authorize(&token, "read").0, Some(0));
    assert_eq!(http_status(&device.path("run/agent.sock"), "/readyz"), 200);
    for (socket, status) in [("run/admin.sock", 200), ("run/agent.sock", 200), ("run/pep.sock", 404)] {
        assert_eq!(http_status(&device.path(socket), "/metrics"), status, "{socket}");
    }
    daemon.stop();
}

pub(crate) fn http_status(socket: &Path, path: &str) -> u16 {
    hardtack::shell::client::Client::new(socket).get(path).unwrap().status
}

#[test]
fn what_cannot_start_says_why_and_what_to_do() {
    let device = Device::new();
    assert!(device.exits(&["agent", "run"], 6).contains("enrol request"));
    assert_eq!(device.run(&["enrol", "status"]).status.code(), Some(6));
    device.exits(&["enrol", "import", "/nowhere", "--fleet", "AAAA"], 2);

    let device = Device::enrolled();
    let daemon = device.start();
    assert!(device.exits(&["agent", "run"], 75).contains("another agent"));
    device.exits(&["enrol", "request", "--id", "gw-07", "--out", "/dev/null"], 75);
    assert_eq!(device.ok(&["status"])["device"], "gw-07", "the running agent keeps its sockets");
    daemon.stop();

    let key = device.path("state/device.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert!(device.exits(&["agent", "run"], 1).contains("chmod 600"));
}

/// What is done to a device, in words and deed.
type Damage<'a> = (&'a str, &'a dyn Fn(&Device));

/// What `agent run` refuses, `agent check` refuses in the same words, and neither locks nor writes.
#[test]
fn a_check_finds_what_a_start_would() {
    let broken: [Damage; 5] = [
        ("a newer format", &|device| std::fs::write(device.path("state/format"), "2\n").unwrap()),
        ("a folder open to others", &|device| chmod(&device.path("state"), 0o755)),
        ("a badly signed bundle", &|device| {
            edit(&device.path("state/bundle"), |bytes| *bytes.last_mut().unwrap() ^= 1)
        }),
        ("a cut bundle", &|device| edit(&device.path("state/bundle"), |bytes| bytes.truncate(40))),
        ("keys open to others", &|device| chmod(&device.path("state/device.key"), 0o640)),
    ];
    for (what, break_it) in broken {
        let device = Device::enrolled();
        assert_eq!(device.ok(&["agent", "check"])["fleet"], "acme");
        assert!(!device.path("run").exists(), "a check makes nothing");
        break_it(&device);
        let refused = device.exits(&["agent", "run"], 1);
        // The log may have told something before.
        let refused: Value = serde_json::from_str(refused.lines().last().unwrap()).unwrap();
        let checked = device.checked(1);
        let problems = checked["problems"].to_string();
        let told = refused["error"].as_str().unwrap();
        assert!(problems.contains(&told.replace('"', "\\\"")), "{what}: {told} is not in {problems}");
        if what != "keys open to others" {
            assert_eq!(checked["device"], "gw-07", "{what}");
        }
        if what != "a cut bundle" {
            assert_eq!(checked["fleet"], "acme", "{what}");
        }
    }
}

#[test]
fn a_check_tells_what_a_start_would_go_on_with() {
    let device = Device::enrolled();
    assert_eq!(device.checked(0)["notes"], serde_json::json!([]));
    for slot in ["state/anchor.0", "state/anchor.1"] {
        if device.path(slot).exists() {
            edit(&device.path(slot), |bytes| bytes[40] ^= 1);
        }
    }
    let checked = device.checked(0);
    let notes = checked["notes"].to_string();
    assert!(notes.contains("of the anchor is not usable") && notes.contains("would start locked"), "{notes}");
}

#[test]
fn a_check_reads_the_files_of_the_broker_as_the_link_does() {
    let device = Device::enrolled();
    let (key, cert) = (device.path("client.key"), device.path("client.pem"));
    let config = device.path("agent.toml");
    std::fs::write(&config, "[broker]\ncert = \"client.pem\"\nkey = \"client.key\"\n").unwrap();
    let pair = rcgen::generate_simple_self_signed(vec!["gw-07".into()]).unwrap();
    std::fs::write(&cert, pair.cert.pem()).unwrap();
    std::fs::write(&key, pair.key_pair.serialize_pem()).unwrap();
    chmod(&key, 0o644);
    let check = |needle: &str| {
        let output = device.run(&["--config", config.to_str().unwrap(), "agent", "check"]);
        let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{checked}");
        assert!(checked["problems"].to_string().contains(needle), "{needle}: {checked}");
    };
    check("chmod 600");
    chmod(&key, 0o600);
    // Whatever rcgen makes by default, it is no Ed25519 key.
    check("is no Ed25519 key");
    std::fs::write(&cert, "no certificate").unwrap();
    check("holds no certificate");
    std::fs::write(&config, "[sockets]\npep_group = \"no-such-group\"\n").unwrap();
    check("no-such-group");
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

fn edit(path: &Path, edit: impl Fn(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    edit(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_stopped_device_is_diagnosed_from_its_folder() {
    let device = Device::new();
    let doctor = |device: &Device, code: i32| -> Value {
        let output = device.run(&["doctor"]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    };
    assert_eq!(doctor(&device, 6)["agent"], "stopped");
    let device = Device::enrolled();
    let daemon = device.start();
    let token = device.begin();
    device.authorize(&token, "read");
    let running = doctor(&device, 0);
    assert_eq!((&running["agent"], &running["ok"]), (&"running".into(), &true.into()));
    daemon.stop();
    let stopped = doctor(&device, 7);
    assert_eq!((&stopped["agent"], &stopped["ok"]), (&"stopped".into(), &false.into()));
    for field in ["device", "fleet", "feed_seq", "policy_version", "mode"] {
        assert_eq!(stopped["status"][field], running["status"][field], "{field}");
    }
    // What was used since the anchor stands in the era, which is not read here.
    let uses = |status: &Value| status["grants"][0]["uses_left"].as_u64().unwrap();
    assert!(uses(&stopped["status"]) >= uses(&running["status"]));
    let topics = |diagnosis: &Value| {
        let findings = diagnosis["findings"].as_array().unwrap();
        findings.iter().map(|finding| finding["topic"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for topic in ["agent", "enrolment", "mode", "clock", "revocations", "grants", "autonomy", "audit"] {
        assert!(topics(&running).iter().any(|told| told == topic), "{topic}: {running}");
        assert!(topics(&stopped).iter().any(|told| told == topic), "{topic}: {stopped}");
    }
    assert!(topics(&running).contains(&"link".to_owned()));
    let again = device.start();
    assert_eq!(uses(&device.ok(&["status"])), 9_999, "a look changes nothing");
    again.stop();
}

/// A throw-away device that runs: its process, what it says before it is ready, and what it says after that.
fn throw_away(device: &Device, args: &[&str], path: &str) -> (Child, Vec<String>, impl Iterator<Item = String>) {
    let temporary = device.path("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let mut command = device.command(&[&["agent", "run", "--dev"], args].concat());
    command.env("TMPDIR", &temporary).env("PATH", path).env_remove("HARDTACK_RUN_DIR").stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let banner: Vec<String> = lines.by_ref().take_while(|line| !line.contains("agent.ready")).collect();
    assert!(banner[0].starts_with("!!!!") && banner[1].contains("throw-away"), "{banner:?}");
    (child, banner, lines)
}

#[test]
fn a_throw_away_device_serves_its_user_and_leaves_nothing() {
    for signal in [Signal::TERM, Signal::INT] {
        let device = Device::new();
        let (mut child, banner, lines) = throw_away(&device, &[], "/nowhere");
        assert!(!banner.iter().any(|line| line.starts_with("plan:")), "nobody can be an executor: {banner:?}");
        let socket = banner.iter().find_map(|line| line.strip_prefix("socket")).unwrap().trim().to_owned();
        let ask = |args: &[&str]| {
            let output = device.command(args).env_remove("HARDTACK_RUN_DIR").env("HARDTACK_SOCKET", &socket).output();
            let output = output.unwrap();
            assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
            serde_json::from_slice::<Value>(&output.stdout).unwrap()
        };
        assert_eq!(ask(&["whoami"])["may_begin"], serde_json::json!(["dev", "pump"]));
        let task = ask(&["task", "begin", "dev", "--right", "write:dev/*"]);
        let token = task["token"].as_str().unwrap();
        // Without --risk it is the highest class, whose revocations would soon be too old elsewhere.
        let decision = ask(&["authorize", "--token", token, "--operation", "write", "--resource", "dev/thing"]);
        assert_eq!(decision["reason"], "allowed");
        assert_eq!(ask(&["doctor"])["agent"], "running");
        kill_process(Pid::from_child(&child), signal).unwrap();
        let rest: Vec<String> = lines.collect();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{rest:?}");
        assert_eq!(std::fs::read_dir(device.path("tmp")).unwrap().count(), 0, "{signal:?}");
        assert!(!device.path("state").exists(), "the real state folder is not touched");
    }
    let device = Device::new();
    device.exits(&["agent", "run", "--dev", "--state-dir", "/nowhere"], 2);
    device.exits(&["agent", "run", "--dev", "--broker", "mqtt://h"], 2);
    device.exits(&["agent", "run", "--may-step", "unix:uid:1"], 2);
}

#[test]
fn a_planner_is_tried_on_a_throw_away_device_with_the_lines_that_it_prints() {
    let path = "/usr/local/bin:/usr/bin:/bin";
    if !path.split(':').any(|folder| Path::new(folder).join("curl").is_file()) {
        return cannot_run("the executor of these lines is curl, which is not here");
    }
    let device = Device::new();
    let (mut child, banner, lines) = throw_away(&device, &["--may-step", "unix:uid:4242"], path);
    let plan =
        banner.iter().skip_while(|line| !line.starts_with("plan:")).skip(1).take_while(|line| line.starts_with("  "));
    let plan: Vec<&str> = plan.map(|line| line.trim()).collect();
    let [export, begin, step, curl] = plan[..] else { panic!("{plan:?}") };
    // The id is told on standard error, where a person reads it.
    let told = device.path("told");
    let id = format!("$(sed -n 's/^task \\([^,]*\\),.*/\\1/p' {})", told.display());
    let other = step.replacen("S=$(", "$(", 1).replace("unix:path:", "unix:path:/other");
    let script = [export, begin, &step.replace("TASK", &id), curl, curl, &other.replace("TASK", &id)].join("\n");
    let bin = device.path("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_hardtack"), bin.join("hardtack")).unwrap();
    let mut command = device.command_of(Command::new("/bin/sh"), &["-c", &script]);
    command
        .env("PATH", format!("{}:{path}", bin.display()))
        .env_remove("HARDTACK_RUN_DIR")
        .env_remove("HARDTACK_OUTPUT");
    let output = command.stderr(std::fs::File::create(&told).unwrap()).output().unwrap();
    let told = std::fs::read_to_string(&told).unwrap();
    let answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let reasons: Vec<Value> = answers.map(|answer| answer.unwrap()["reason"].clone()).collect();
    assert_eq!(reasons, ["allowed", "uses_spent"], "{told}");
    assert!(told.contains("--may-step unix:path:/other"), "the grant names nobody else: {told}");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest:?}");
}

#[test]
fn an_answer_of_another_fleet_or_for_another_device_is_refused() {
    let (device, other) = (Device::new(), Device::enrolled());
    let request = device.path("request");
    let first = device.ok(&["enrol", "request", "--id", "gw-07", "--out", request.to_str().unwrap()]);
    let again = device.ok(&["enrol", "request", "--id", "gw-07", "--out", request.to_str().unwrap()]);
    assert_eq!(first, again, "asked again, it is the same request");
    device.exits(&["enrol", "request", "--id", "gw-08", "--out", "/dev/null"], 2);

    let (answer, fingerprint) = approve(&std::fs::read(&request).unwrap(), BrokerPins::default(), &own_uid(), |_| {});
    let import = |bytes: &[u8], fingerprint: &str, code: i32| {
        let file = device.path("answer");
        std::fs::write(&file, bytes).unwrap();
        device.exits(&["enrol", "import", file.to_str().unwrap(), "--fleet", fingerprint], code)
    };
    import(&std::fs::read(other.path("answer")).unwrap(), &fingerprint, 12);
    let wrong = fingerprint.replace(|c: char| c.is_ascii_uppercase(), "A");
    import(&answer, &wrong, 12);
    import(&answer[..answer.len() - 1], &fingerprint, 12);
    import(b"", &fingerprint, 12);
    assert_eq!(device.ok_or_code(&["enrol", "status"]), 6, "nothing of it was taken");
    import(&answer, &fingerprint, 0);
    import(&answer, &fingerprint, 0);
}

/// A fleet that moves to another broker says so in a trust bundle: whoever hears it on the old one goes to the new one.
#[test]
fn the_brokers_of_a_new_trust_bundle_count_at_once() {
    let (mut old, new) = (Mosquitto::open(), Mosquitto::open());
    let pins =
        |broker: &Mosquitto| BrokerPins { urls: vec![format!("mqtt://{}", broker.addr())], authorities: Vec::new() };
    let device = Device::enrolled_at(pins(&old));
    let mut daemon = device.start();
    daemon.wait_for("link.up");
    let next = trust(2, pins(&new), clock::wall().unwrap());
    let next = Signed::sign(&next, &next.fleet, &[&fleet_key()]).to_bytes();
    publish(&old, "hardtack/1/acme/bundle/2", &next);
    daemon.wait_for("bundle.applied");
    assert!(daemon.wait_for("link.down")["reason"].as_str().unwrap().contains("other brokers"));
    // Nobody is there any more to go back to.
    old.kill();
    daemon.wait_for("link.up");
    assert_eq!(device.ok(&["status"])["bundle_version"], 2);
    daemon.stop();
}

/// Whatever it was that could not be read, nobody has to start the agent again for it.
#[test]
fn a_link_that_could_not_be_made_is_made_when_what_was_wrong_is_put_right() {
    let broker = Mosquitto::open();
    let pins = BrokerPins { urls: vec![format!("mqtt://{}", broker.addr())], authorities: Vec::new() };
    let device = Device::enrolled_at(pins);
    let certificate = device.path("state/certificate");
    let kept = device.path("certificate");
    std::fs::rename(&certificate, &kept).unwrap();
    std::fs::create_dir(&certificate).unwrap();
    let mut daemon = device.start();
    let why = daemon.first("link.unusable");
    assert!(why["reason"].as_str().unwrap().contains("certificate"), "{why}");
    std::fs::remove_dir(&certificate).unwrap();
    std::fs::rename(&kept, &certificate).unwrap();
    daemon.wait_for("link.up");
    daemon.stop();
}

/// Says something to everybody on a broker.
fn publish(broker: &Mosquitto, topic: &str, payload: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = crate::mqtt::config("fleet-acme-00000001", &[format!("mqtt://{}", broker.addr())], None);
    let published = runtime.block_on(async {
        let mut probe = Probe::connect(&config, clock::wall().unwrap(), None).await.unwrap();
        probe.publish(topic, payload).await
    });
    assert_eq!(published, Verdict::Accepted);
}

/// I1 as the kernel sees it: between the bytes of a question and the bytes of its answer lies the data sync of the record,
/// and that of the anchor, which is due here each time.
#[test]
fn no_reply_leaves_before_its_record_is_synced() {
    if let Some(why) = strace::why_not() {
        return cannot_run(&why);
    }
    let device = Device::enrolled();
    let (trace, profile) = (device.path("trace"), device.path("profile.toml"));
    let shipped = include_str!("../../firmware-profiles/generic-x86_64.toml");
    std::fs::write(&profile, shipped.replace("anchor_every_commits = 64", "anchor_every_commits = 1")).unwrap();
    let wanted = "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,pwritev,fdatasync,fsync";
    let mut tracer = Command::new("strace");
    // Detached, so that the agent is this process's child and hears its signals.
    tracer.args(["-D", "-f", "-y", "-s", "2048", "-e", wanted, "-o", trace.to_str().unwrap()]);
    tracer.arg(env!("CARGO_BIN_EXE_hardtack"));
    let mut command = device.command_of(tracer, &["agent", "run"]);
    command.env("HARDTACK_PROFILE", &profile);
    let daemon = Device::start_by(command);
    let token = device.begin();
    for _ in 0..12 {
        assert_eq!(device.authorize(&token, "read").0, Some(0));
    }
    daemon.stop();

    let (mut replies, mut anchors, mut due) = (0, 0, None::<Due>);
    for (moment, call) in strace::calls(&finished(&trace)) {
        let name = call.split('(').next().unwrap_or_default();
        let asks = name.starts_with("re") && call.contains("/v1/authorize");
        let answers = (name.contains("write") || name.contains("send")) && call.contains("decision_id");
        if moment == Moment::Ends && asks {
            due = Some(Due::default());
        } else if moment == Moment::Begins && answers {
            let seen = due.take().expect("an answer to nobody");
            assert!(seen.is_done(), "an answer left before its record was durable: {seen:?}");
            replies += 1;
            anchors += u32::from(seen.anchor_synced);
        } else if let Some(due) = &mut due {
            due.see(moment, &call);
        }
    }
    assert_eq!((replies, anchors), (12, 12), "this profile has an anchor due with each record");
}

/// A trace, once strace has written its end.
fn finished(trace: &Path) -> String {
    for _ in 0..400 {
        let text = std::fs::read_to_string(trace).unwrap_or_default();
        // Short process ids are padded. The first one is the agent's, whose other threads end before it.
        let mut ended =
            text.lines().filter(|line| line.contains("+++ exited")).map(|line| line.split_whitespace().next());
        if ended.any(|pid| pid == text.split_whitespace().next()) {
            return text;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("strace did not end with the agent");
}

impl Device {
    fn checked(&self, code: i32) -> Value {
        let output = self.run(&["agent", "check"]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn ok_or_code(&self, args: &[&str]) -> i32 {
        self.run(args).status.code().unwrap()
    }
}
