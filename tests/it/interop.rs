//! Tokens of another implementation, biscuit-python, in our hands, and ours in its hands.
//!
//! `tests/run` puts it into an environment of its own and says where in `HARDTACK_PYTHON`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use hardtack::agent::request::{Origin, Reason};
use hardtack::agent::wallet::{Made, StoredTask};
use hardtack::ids::{hex, BlockId, GrantId};
use hardtack::wire::policy::BUILT_IN;
use hardtack::wire::token::{from_text, to_text, Held, Purpose, StepBlock, TaskBlock};
use serde_json::{json, Value};

use crate::samples::{right, rng, World, ENDS};
use crate::support::cannot_run;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/peer.py");

/// The other implementation in a process of its own.
struct Peer {
    python: String,
}

impl Peer {
    /// None where nobody said where it is and `python3` does not have it: `tests/run` always says.
    fn find() -> Option<Self> {
        if let Ok(python) = std::env::var("HARDTACK_PYTHON") {
            return Some(Self { python });
        }
        let has_it = Command::new("python3").args(["-c", "import biscuit_auth"]).output().ok()?.status.success();
        if !has_it {
            cannot_run("biscuit-python is not here: tests/run installs it");
        }
        has_it.then(|| Self { python: "python3".into() })
    }

    fn ask(&self, job: &Value) -> Value {
        let mut child = Command::new(&self.python)
            .arg(SCRIPT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.python));
        child.stdin.take().unwrap().write_all(job.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{SCRIPT} failed on {job}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn mint(&self, world: &World, code: &str) -> Vec<u8> {
        self.mint_with(&hex(world.fleet_key.as_bytes()), "ed25519", Some(1), code)
    }

    fn mint_with(&self, private_key: &str, algorithm: &str, root_key_id: Option<u32>, code: &str) -> Vec<u8> {
        token_of(&self.ask(&json!({
            "task": "mint", "private_key": private_key, "algorithm": algorithm, "root_key_id": root_key_id, "code": code,
        })))
    }

    fn attenuate(&self, world: &World, token: &[u8], code: &str) -> Vec<u8> {
        let root = hex(world.fleet_key.verifying_key().as_bytes());
        token_of(&self.ask(&json!({ "task": "attenuate", "token": to_text(token), "public_key": root, "code": code })))
    }

    /// Whether it allows, judging by these facts and our built-in policy.
    fn allows(&self, root: &[u8], token: &[u8], facts: &str) -> Result<u64, String> {
        let code = format!("{facts}{BUILT_IN}");
        let answer =
            self.ask(&json!({ "task": "authorize", "token": to_text(token), "public_key": hex(root), "code": code }));
        answer["policy"].as_u64().ok_or_else(|| answer["denied"].as_str().unwrap().to_owned())
    }
}

fn token_of(answer: &Value) -> Vec<u8> {
    from_text(answer["token"].as_str().unwrap(), 64 * 1024).unwrap()
}

/// Block 0 of a task token as the reference documents it.
const TASK: &str = r#"
fleet("acme"); grant("42424242424242424242424242424242"); kind("task"); owner("ops@acme"); for_device("gw-07");
for_task("t-2"); issued(2026-03-01T10:00:00Z); expires(2026-03-01T10:15:00Z);
right("modbus/pump1/speed", "write"); right_prefix("modbus/", "read");
check if time($t), $t <= 2026-03-01T10:15:00Z;
"#;

/// Block 0 of a grant.
const GRANT: &str = r#"
fleet("acme"); grant("0123456789abcdef0123456789abcdef"); kind("grant"); owner("ops@acme"); for_device("gw-07");
issued(2026-03-01T00:00:00Z); expires(2026-03-08T00:00:00Z);
may_begin("unix:uid:1001", "pump"); class_right("pump", "modbus/pump1/speed", "write");
class_right_prefix("pump", "modbus/", "read"); class_right("valve", "modbus/valve1", "write");
offline_max(259200); uses_max(1000); boots_max(20); task_ttl_max(900); staleness_max("high", 3600);
check if time($t), $t <= 2026-03-08T00:00:00Z;
"#;

#[test]
fn a_token_minted_elsewhere_is_decided_here() {
    let Some(peer) = Peer::find() else { return };
    let world = World::new();
    let token = peer.mint(&world, TASK);
    check(&world, &token, "write", "modbus/pump1/speed", Reason::Allowed);
    check(&world, &token, "read", "modbus/meter/4", Reason::Allowed);
    check(&world, &token, "write", "modbus/valve1", Reason::NoRight);
    check(&world, &token, "read", "modbus/../valve1", Reason::Malformed);
    assert_eq!(world.judge_at(ENDS, &token, "read", "modbus/meter/4").0, Reason::Allowed);
    let late = ENDS + hardtack::time::Millis(1);
    assert_eq!(world.judge_at(late, &token, "read", "modbus/meter/4").0, Reason::Expired);

    let other = |fact: &str, changed: &str| peer.mint(&world, &TASK.replace(fact, changed));
    check(&world, &other("\"gw-07\"", "\"gw-08\""), "read", "modbus/1", Reason::WrongDevice);
    check(&world, &other("\"acme\"", "\"evil\""), "read", "modbus/1", Reason::WrongFleet);
    check(&world, &other("owner(\"ops@acme\");", ""), "read", "modbus/1", Reason::Malformed);
    check(&world, &other("kind(\"task\");", "kind(\"task\"); kind(\"grant\");"), "read", "modbus/1", Reason::Malformed);
    check(&world, &other("for_task(\"t-2\");", "task(\"t-2\");"), "read", "modbus/1", Reason::Malformed);
    check(
        &world,
        &other("issued(2026-03-01T10:00", "issued(2026-03-01T10:10"),
        "read",
        "modbus/1",
        Reason::NotYetValid,
    );
    check(&world, &other("check if time", "feed(\"east\"); check if time"), "read", "modbus/1", Reason::FeedUnknown);
    check(&world, &other("for_device(\"gw-07\")", "for_group(\"pumps\")"), "read", "modbus/1", Reason::Allowed);

    let key = hex(world.fleet_key.as_bytes());
    check(&world, &peer.mint_with(&key, "ed25519", None, TASK), "read", "modbus/1", Reason::UnknownRoot);
    check(&world, &peer.mint_with(&key, "ed25519", Some(9), TASK), "read", "modbus/1", Reason::UnknownRoot);
    let forged = peer.mint_with(&"11".repeat(32), "ed25519", Some(1), TASK);
    check(&world, &forged, "read", "modbus/1", Reason::BadSignature);
}

#[test]
fn a_token_narrowed_elsewhere_is_decided_here() {
    let Some(peer) = Peer::find() else { return };
    let world = World::new();
    let token = world.task();
    let narrowed = |code: &str| peer.attenuate(&world, &token, code);
    let only_pump = narrowed("check if resource(\"modbus/pump1/speed\");");
    check(&world, &only_pump, "write", "modbus/pump1/speed", Reason::Allowed);
    check(&world, &only_pump, "read", "modbus/meter/4", Reason::CheckFailed);
    let twice = peer.attenuate(&world, &only_pump, "check if operation(\"read\");");
    check(&world, &twice, "write", "modbus/pump1/speed", Reason::CheckFailed);
    check(&world, &twice, "read", "modbus/pump1/speed", Reason::Allowed);

    let early = narrowed("check if time($t), $t <= 2026-03-01T10:04:00Z;");
    check(&world, &early, "read", "modbus/1", Reason::Expired);
    let later = narrowed("check if time($t), $t >= 2026-03-01T10:06:00Z;");
    check(&world, &later, "read", "modbus/1", Reason::NotYetValid);

    // What widens has no effect, what pretends to be the agent is refused.
    check(&world, &narrowed("right(\"modbus/valve1\", \"write\");"), "write", "modbus/valve1", Reason::NoRight);
    check(&world, &narrowed("operation(\"read\"); resource(\"modbus/1\");"), "read", "modbus/1", Reason::Malformed);
    check(&world, &narrowed("device($d) <- for_device($d);"), "read", "modbus/1", Reason::Malformed);
    check(&world, &narrowed("uses_max(1000000);"), "read", "modbus/1", Reason::Malformed);
}

#[test]
fn a_token_made_here_is_judged_elsewhere() {
    let Some(peer) = Peer::find() else { return };
    let world = World::new();
    let root = world.fleet_key.verifying_key();
    let token = world.task();
    let allows = |token: &[u8], facts: &str| peer.allows(root.as_bytes(), token, facts);
    let at = |time: &str, operation: &str, resource: &str| {
        format!("time({time}); operation(\"{operation}\"); resource(\"{resource}\"); device(\"gw-07\");")
    };
    assert_eq!(allows(&token, &at("2026-03-01T10:05:00Z", "write", "modbus/pump1/speed")), Ok(0));
    assert_eq!(allows(&token, &at("2026-03-01T10:05:00Z", "read", "modbus/meter/4")), Ok(1));
    allows(&token, &at("2026-03-01T10:05:00Z", "write", "modbus/valve1")).unwrap_err();
    allows(&token, &at("2026-03-01T10:15:01Z", "read", "modbus/meter/4")).unwrap_err();
    let stranger = ed25519_dalek::SigningKey::from_bytes(&[8; 32]).verifying_key();
    let refused = peer.allows(stranger.as_bytes(), &token, &at("2026-03-01T10:05:00Z", "read", "modbus/meter/4"));
    assert!(refused.is_err());
}

#[test]
fn a_grant_minted_elsewhere_is_narrowed_here_and_judged_on_both_sides() {
    let Some(peer) = Peer::find() else { return };
    let mut world = World::new();
    let root = world.fleet_key.verifying_key();
    let grant = peer.mint(&world, GRANT);
    check(&world, &grant, "write", "modbus/pump1/speed", Reason::NoRight);

    let held = world.wallet_grant(&grant);
    let rights = [right("modbus/pump1/speed", "write"), right("modbus/*", "read")];
    let (task, class) = ("t-1".parse().unwrap(), "pump".parse().unwrap());
    assert!(held.covers(&class, &rights));
    let block = TaskBlock {
        task: &task,
        selector: "unix:uid:1001",
        class: &class,
        device: &world.device,
        expires: ENDS,
        rights: &rights,
        uses_max: Some(10),
    };
    let narrowed = held.narrow(&block, (&["unix:uid:1001"], Purpose::Work), &mut rng(6)).unwrap();
    world.wallet.put_task(StoredTask {
        id: task.clone(),
        class: class.clone(),
        origin: Origin::Fallback,
        grant: GrantId([0x42; 16]),
        owner: "ops@acme".into(),
        token: narrowed.credential.clone(),
        made: narrowed.made.iter().map(|block| Made { block: *block, ends: ENDS, life: None }).collect(),
        budget: narrowed.made.first().copied(),
        selectors: vec!["unix:uid:1001".into()],
        uid: 1001,
        rights: rights.to_vec(),
        ttl_s: 900,
        uses_max: Some(10),
        finished: false,
        ties: Vec::new(),
        purpose: Purpose::Work,
        holder: vec!["unix:uid:1001".into()],
        executors: vec!["unix:uid:2002".into()],
        steps: Vec::new(),
        siblings: Vec::new(),
        proved: None,
    });
    let child = &narrowed.child;
    check(&world, child, "write", "modbus/pump1/speed", Reason::Allowed);
    check(&world, child, "read", "modbus/meter/4", Reason::Allowed);
    check(&world, child, "write", "modbus/valve1", Reason::NoRight);

    let facts = |time: &str, workload: &str, class: &str, operation: &str, resource: &str| {
        format!(
            "time(2026-03-01T{time}Z); workload(\"{workload}\"); {class} task(\"t-1\"); device(\"gw-07\"); \
             operation(\"{operation}\"); resource(\"{resource}\");"
        )
    };
    let (me, pump) = ("unix:uid:1001", "task_class(\"pump\");");
    let allowed = |facts: &str| peer.allows(root.as_bytes(), child, facts);
    assert_eq!(allowed(&facts("10:05:00", me, pump, "write", "modbus/pump1/speed")), Ok(2));
    assert_eq!(allowed(&facts("10:05:00", me, pump, "read", "modbus/meter/4")), Ok(3));
    for denied in [
        facts("10:05:00", me, pump, "write", "modbus/valve1"),
        facts("10:15:01", me, pump, "write", "modbus/pump1/speed"),
        facts("10:05:00", "unix:uid:1002", pump, "write", "modbus/pump1/speed"),
        facts("10:05:00", me, "", "write", "modbus/pump1/speed"),
        facts("10:05:00", me, "task_class(\"valve\");", "write", "modbus/pump1/speed"),
        facts("10:05:00", me, pump, "hardtack:exchange", "t-1"),
    ] {
        assert!(allowed(&denied).is_err(), "{denied}");
    }
    // A planner's child, and a step of the wallet's credential: the same to any Biscuit verifier.
    let planner = held.narrow(&block, (&["unix:uid:1001"], Purpose::Plan), &mut rng(7)).unwrap().child;
    assert!(peer.allows(root.as_bytes(), &planner, &facts("10:05:00", me, pump, "hardtack:exchange", "t-1")).is_ok());
    assert!(peer.allows(root.as_bytes(), &planner, &facts("10:05:00", me, pump, "read", "modbus/meter/4")).is_err());
    let step = StepBlock {
        task: &task,
        step: &"s-1".parse().unwrap(),
        executor: "unix:uid:2002",
        device: &world.device,
        expires: ENDS,
        rights: &[right("modbus/pump1/speed", "write")],
    };
    let credential = Held::from_bytes(&narrowed.credential).unwrap();
    let step = credential.append(step.build().unwrap(), &mut rng(8)).unwrap().seal().unwrap().to_bytes().unwrap();
    let (it, ambient) = ("unix:uid:2002", "task_class(\"pump\"); step(\"s-1\");");
    let allowed_step = |facts: &str| peer.allows(root.as_bytes(), &step, facts);
    assert!(allowed_step(&facts("10:05:00", it, ambient, "write", "modbus/pump1/speed")).is_ok());
    for denied in [
        facts("10:05:00", me, ambient, "write", "modbus/pump1/speed"),
        facts("10:05:00", it, pump, "write", "modbus/pump1/speed"),
        facts("10:05:00", it, ambient, "read", "modbus/meter/4"),
        facts("10:05:00", it, ambient, "hardtack:exchange", "t-1"),
        facts("10:15:01", it, ambient, "write", "modbus/pump1/speed"),
    ] {
        assert!(allowed_step(&denied).is_err(), "{denied}");
    }
    // The child is sealed: nobody narrows it any further.
    let chain: Vec<BlockId> = world.admit(child).unwrap_or_else(|d| panic!("{d:?}")).chain().copied().collect();
    assert_eq!(chain, narrowed.chain);
}

#[test]
fn a_token_of_another_algorithm_is_refused() {
    let Some(peer) = Peer::find() else { return };
    let world = World::new();
    let token = peer.mint_with(&"11".repeat(32), "secp256r1", Some(1), TASK);
    check(&world, &token, "read", "modbus/1", Reason::WrongAlgorithm);
}

#[track_caller]
fn check(world: &World, token: &[u8], operation: &str, resource: &str, expected: Reason) {
    let (reason, explain) = world.judge(token, operation, resource);
    assert_eq!(reason, expected, "{operation} {resource}: {explain}");
}
