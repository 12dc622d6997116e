//! The story: what is done, what is expected, what is seen.
//!
//! Owns: the steps in their order, and the counts, each from outside the agent.
//! Never: passes a step over: what cannot be done is a failed step.
//! Read next: `../../shell/cast.rs`.

use std::path::Path;

use biscuit_auth::builder::BlockBuilder;
use rand_core::SeedableRng;
use serde_json::{json, Value};

use super::super::output::Format;
use super::super::Failure;

use super::{Step, Summary};
use crate::agent::wallet::StoredTask;
use crate::shell::cast::{failed, path, Fleet, Gateway, Player, Stage};
use crate::shell::entropy;
use crate::shell::proxy::{Direction, Passed, Proxy};
use crate::shell::supply::{self, copy_folder, SYNCED_DIR};
use crate::wire::token::{from_text, to_text, Held};

/// What this fleet asks of time: proof for valves, nothing but the floor for the log.
const POLICY: &str = r#"
[[time_rules]]
operation = "*"
resource = "modbus/valve/*"
class = "strict"

[[time_rules]]
operation = "*"
resource = "modbus/log/*"
class = "floor"
"#;

/// A year, by which the wall clock is turned back and forth.
const YEAR_S: i64 = 365 * 86_400;

/// How long a gateway lies in a drawer. No signed time of its fleet moves a device on by more than 30 days at once.
const AWAY_DAYS: u64 = 29;

/// The task that somebody carries to a gateway.
const BROUGHT: &str = "t-brought";

struct Story {
    format: Format,
    steps: Vec<Step>,
}

impl Story {
    /// One step: what is expected, and what is seen.
    fn expect(&mut self, name: &str, expected: &str, saw: impl std::fmt::Display, ok: bool) {
        let step = Step { name: name.into(), expected: expected.into(), saw: saw.to_string(), ok };
        step.tell(self.steps.len() + 1, self.format);
        self.steps.push(step);
    }

    /// A decision with this reason.
    fn decision(&mut self, name: &str, reason: &str, decision: &Value) {
        let saw = format!(
            "{}: {}",
            decision["reason"].as_str().unwrap_or("nothing"),
            decision["explain"].as_str().unwrap_or("-")
        );
        self.expect(name, reason, saw, decision["reason"] == reason);
    }
}

/// Plays all of it in `folder`.
pub(super) fn tell(folder: &Path, format: Format) -> Result<Summary, Failure> {
    let mut story = Story { format, steps: Vec::new() };
    let exe = std::env::current_exe().map_err(|error| failed("this program cannot find itself", error))?;
    let stage = Stage::new(exe);
    let fleet = Fleet::init(&stage, folder.join("fleet"), "demo")?;
    let (_broker, broker_addr) = stage.broker()?;
    let policy = folder.join("policy.toml");
    std::fs::write(&policy, POLICY).map_err(|error| failed("the policy cannot be written", error))?;
    fleet.run(&["policy", "set", path(&policy)])?;
    let broker_url = format!("mqtt://{broker_addr}");
    let serve = fleet.serve(&broker_url)?;

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| failed("no runtime for the proxy", error))?;
    let start_proxy = || runtime.block_on(Proxy::start(broker_addr)).map_err(|error| failed("no proxy", error));
    let (proxy, other_proxy) = (start_proxy()?, start_proxy()?);

    // Enrolment.
    let mut gateway = Gateway::new(&stage, "gw-07", folder);
    let mut other = Gateway::new(&stage, "gw-08", folder);
    for (gateway, proxy) in [(&mut gateway, &proxy), (&mut other, &other_proxy)] {
        fleet.enrol(gateway, folder)?;
        gateway.start(&format!("mqtt://{}", proxy.addr()), 0)?;
    }
    let mut ready = true;
    for gateway in [&gateway, &other] {
        let status = gateway.wait_status("a grant while online", |status| {
            status["mode"] == "online" && status["grants"].as_array().is_some_and(|grants| !grants.is_empty())
        });
        ready &= status.is_ok();
    }
    story.expect(
        "Two gateways enrol and come online",
        "both online, each with its fallback grant",
        if ready { "both online, each with its fallback grant" } else { "one is not" },
        ready,
    );

    // Online.
    let rights =
        json!([{"resource": "modbus/pump1/speed", "action": "write"}, {"resource": "modbus/*", "action": "read"}]);
    let task = json!({"task": "pump", "rights": rights, "ttl_s": 600, "reason": "the demo"});
    let online = gateway.post("/v1/tasks", &task)?;
    story.expect(
        "A credential just in time, from the issuer",
        "origin issued",
        origin(&online),
        online["origin"] == "issued",
    );
    let issued = text(&online, "token");
    let decision = gateway.authorize(&issued, "write", "modbus/pump1/speed")?;
    story.decision("It allows what it is for", "allowed", &decision);
    let foreign = text(&other.post("/v1/tasks", &task)?, "token");

    // Offline.
    proxy.cut();
    let mode = gateway.wait_mode("offline").map(|line| line["to"].to_string()).unwrap_or_else(|error| error.what);
    story.expect("The link is cut", "mode offline", &mode, mode == "\"offline\"");
    let offline = gateway.post("/v1/tasks", &task)?;
    story.expect(
        "A credential narrowed from the fallback grant",
        "origin fallback",
        origin(&offline),
        offline["origin"] == "fallback",
    );
    let (narrowed, task_id) = (text(&offline, "token"), text(&offline, "task_id"));
    let decision = gateway.authorize(&narrowed, "read", "modbus/pump1/pressure")?;
    story.decision("It allows offline", "allowed", &decision);

    // Abuse.
    let widened = widen(&gateway, &task_id)?;
    let decision = gateway.authorize(&widened, "write", "modbus/valve1")?;
    story.decision("A token that its thief widened", "no_right", &decision);
    let decision = gateway.authorize(&forge(&narrowed)?, "read", "modbus/pump1/pressure")?;
    story.decision("A forged token", "bad_signature", &decision);
    let decision = gateway.authorize(&foreign, "read", "modbus/pump1/pressure")?;
    story.decision("A token of the other gateway", "wrong_device", &decision);
    let brief = gateway.post("/v1/tasks", &json!({"task": "pump", "rights": rights, "ttl_s": 1}))?;
    let brief = text(&brief, "token");
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let decision = gateway.authorize(&brief, "read", "modbus/pump1/pressure")?;
    story.decision("An expired token", "expired", &decision);

    // Killed, and started cold with the clock turned back.
    if let Some(agent) = gateway.agent.take() {
        agent.kill();
    }
    let synced = folder.join("synced");
    gateway.settings.push((SYNCED_DIR, path(&synced).into()));
    gateway.start(&format!("mqtt://{}", proxy.addr()), -YEAR_S)?;
    gateway.settings.clear();
    let decision = gateway.authorize(&narrowed, "read", "modbus/pump1/pressure")?;
    story.decision("Killed with SIGKILL, started without a network: it decides again", "allowed", &decision);
    let decision = gateway.authorize(&brief, "read", "modbus/pump1/pressure")?;
    story.decision("The clock was turned back by a year: expired stays expired", "expired", &decision);

    burst(&mut story, &mut gateway, &narrowed, &synced)?;
    let brought = bring(&fleet, &gateway)?;
    clock_story(&mut story, &mut gateway, &format!("mqtt://{}", proxy.addr()), (&narrowed, &brought))?;

    // Revoked in the dark.
    fleet.run(&["revoke", "task", BROUGHT, "--reason", "the demo"])?;
    let decision = gateway.authorize(&brought, "read", "modbus/pump1/pressure")?;
    story.decision("Revoked at headquarters, which this gateway cannot know yet", "allowed", &decision);
    let before = proxy.log().len();
    proxy.heal();
    let back = gateway.wait_mode("online").is_ok();
    story.expect("The link is healed", "mode online", if back { "mode online" } else { "never online again" }, back);
    let decision = gateway.authorize(&brought, "read", "modbus/pump1/pressure")?;
    story.decision("The revoked credential", "revoked", &decision);
    let revoked_then_allowed = usize::from(decision["decision"] == "allow");
    let fresh = text(&gateway.post("/v1/tasks", &task)?, "token");
    let decision = gateway.authorize(&fresh, "read", "modbus/valve/1")?;
    story.decision("Proof of the time is back: the valve may be read", "allowed", &decision);
    let drained = gateway.wait_status("an empty queue", |status| status["pending"] == 0).is_ok();
    let drained = drained && other.wait_status("an empty queue", |status| status["pending"] == 0).is_ok();
    story.expect(
        "The audit goes to the collector",
        "nothing pending",
        if drained { "nothing pending" } else { "records are still pending" },
        drained,
    );
    let order = reconnect_order(&proxy.log()[before..]);
    let expected = ["head", "hello", "ack", "audit"];
    story.expect(
        "Revocations come first: the proxy's packets",
        &expected.join(", "),
        order.join(", "),
        order == expected,
    );
    let events = gateway.agent.as_mut().map(Player::events).unwrap_or_default();
    // On a slow machine it went offline and stale one after the other: the last change is the one to online.
    let online = events.iter().rposition(|seen| seen == "mode.changed").unwrap_or(0);
    let applied = events[..online].iter().any(|seen| seen == "feed.applied");
    story.expect(
        "The list is applied before the mode is online",
        "feed.applied, then mode.changed",
        if applied { "feed.applied, then mode.changed" } else { "another order" },
        applied,
    );

    // The trail.
    let verified = fleet.run(&["audit", "verify"])?;
    story.expect("The collector's trail is verified", "ok", &verified["ok"], verified["ok"] == true);
    let export = fleet.exported()?;
    let seen: Vec<&Value> =
        gateway.decisions.iter().chain(&other.decisions).map(|decision| &decision["decision_id"]).collect();
    let count = |id: &Value| id.as_str().and_then(|id| export.get(id)).copied().unwrap_or(0);
    let recorded = seen.iter().filter(|id| count(id) > 0).count();
    let duplicates = seen.iter().filter(|id| count(id) > 1).count();
    let lost = seen.len() - recorded;
    story.expect(
        "Every decision that a caller saw is in it, once",
        "0 lost, 0 duplicates",
        format!("{lost} lost, {duplicates} duplicates"),
        lost + duplicates == 0,
    );

    let decisions = seen.len();
    clone_story(&mut story, &stage, &fleet, &mut gateway, (folder, &format!("mqtt://{}", proxy.addr())))?;
    serve.kill();
    month_away(&mut story, &fleet, &mut other, (&broker_url, &format!("mqtt://{}", other_proxy.addr())))?;

    Ok(Summary {
        ok: story.steps.iter().all(|step| step.ok),
        decisions,
        recorded,
        lost,
        duplicates,
        revoked_then_allowed,
        reconnect_order: order,
        steps: story.steps,
        seconds: 0.0,
    })
}

/// The power fails while one question comes after the other, in the middle of a commit: what was written and not synced is
/// gone. An answer that left before its record was synced would be missing from the trail. The reboot that follows is the next
/// chapter's.
fn burst(story: &mut Story, gateway: &mut Gateway, token: &str, synced: &Path) -> Result<(), Failure> {
    const BEFORE_IT_FAILS: usize = 40;
    let cut = |error| failed("the power cannot be cut", error);
    let mut heard = 0;
    // Each question is another one, so that none is counted with one before it.
    while heard < 2 * BEFORE_IT_FAILS && gateway.authorize(token, "read", &format!("elsewhere/{heard}")).is_ok() {
        heard += 1;
        if heard == BEFORE_IT_FAILS {
            supply::cut(synced).map_err(cut)?;
        }
    }
    if let Some(agent) = gateway.agent.take() {
        agent.kill();
    }
    let (lost, files) = supply::lose_unsynced(&gateway.state, synced).map_err(cut)?;
    story.expect(
        "The power fails in the middle of a burst of questions: what was not synced is gone",
        "40 answers, then none, and files that fall back; the trail at the end has each answer",
        format!("{heard} answers, then none; {lost} of {files} files fell back to what was synced"),
        heard == BEFORE_IT_FAILS && lost > 0,
    );
    Ok(())
}

/// Somebody copies a gateway's disk. The gateway goes on; then the copy shows up under its name.
fn clone_story(
    story: &mut Story,
    stage: &Stage,
    fleet: &Fleet,
    gateway: &mut Gateway,
    (folder, broker): (&Path, &str),
) -> Result<(), Failure> {
    if let Some(agent) = gateway.agent.take() {
        agent.kill();
    }
    let mut clone = Gateway::new(stage, &gateway.id, &folder.join("clone"));
    copy_folder(&gateway.state, &clone.state).map_err(|error| failed("the disk cannot be copied", error))?;
    gateway.start(broker, 0)?;
    let went_on = gateway.wait_status("an empty queue", |status| status["mode"] == "online" && status["pending"] == 0);
    if let Some(agent) = gateway.agent.take() {
        agent.kill();
    }
    clone.start(broker, 0)?;
    let locked = went_on.is_ok() && clone.wait_status("a lock", |status| status["mode"] == "locked").is_ok();
    story.expect(
        "A copy of its disk shows up under its name: the collector holds more than the copy ever wrote",
        "mode locked",
        if locked { "mode locked" } else { "it goes on" },
        locked,
    );
    let delivered = clone.wait_status("an empty queue", |status| status["pending"] == 0).is_ok();
    let shown = fleet.run(&["device", "show", &gateway.id])?;
    let forks = shown["forks"].as_u64().unwrap_or(0);
    story.expect(
        "The collector keeps both trails, and what proves that there are two",
        "1 proved, or more",
        format!("{forks} proved"),
        delivered && forks > 0,
    );
    if let Some(agent) = clone.agent.take() {
        agent.kill();
    }
    Ok(())
}

/// A credential that the fleet issued for this gateway and somebody carried there. No process here holds it.
fn bring(fleet: &Fleet, gateway: &Gateway) -> Result<String, Failure> {
    let selector = format!("unix:uid:{}", rustix::process::getuid().as_raw());
    let whom = ["issue", "--device", &gateway.id, "--class", "pump", "--task", BROUGHT, "--selector", &selector];
    let what = ["--right", "read:modbus/*", "--ttl", "10m"];
    Ok(text(&fleet.run(&[&whom[..], &what].concat())?, "token"))
}

/// Reboots without a network, under clocks that are wrong both ways.
fn clock_story(
    story: &mut Story,
    gateway: &mut Gateway,
    broker: &str,
    (held, token): (&str, &str),
) -> Result<(), Failure> {
    let reboot = |gateway: &mut Gateway, clock_s: i64, boot: u8| {
        if let Some(agent) = gateway.agent.take() {
            agent.kill();
        }
        gateway.start_rebooted(broker, clock_s, boot)
    };
    reboot(gateway, YEAR_S, 1)?;
    let decision = gateway.authorize(held, "read", "modbus/pump1/pressure")?;
    story.decision("Rebooted: a task ends with the process that held it", "revoked", &decision);
    let decision = gateway.authorize(token, "read", "modbus/pump1/pressure")?;
    story.decision("Rebooted, and the clock shows next year: that may only tighten", "expired", &decision);
    let decision = gateway.authorize(token, "read", "modbus/log/1")?;
    story.decision("The log asks only that nothing is proven past", "allowed", &decision);
    reboot(gateway, -YEAR_S, 2)?;
    let decision = gateway.authorize(token, "read", "modbus/pump1/pressure")?;
    story.decision("Rebooted, and the clock shows last year: the powered-on clock decides", "allowed", &decision);
    let decision = gateway.authorize(token, "read", "modbus/valve/1")?;
    story.decision("A valve asks for proof, and this boot has none", "time_untrusted", &decision);
    let status = gateway.get("/v1/status")?;
    let saw = format!("{} boots counted, {} hours of autonomy left", status["boots"], status["autonomy"][0]["hours"]);
    story.expect("Each reboot is counted, and cost the holder its lease", "2 boots", saw, status["boots"] == 2);
    Ok(())
}

/// A gateway is in a drawer for a month of heads; the broker alone brings it up to date.
fn month_away(
    story: &mut Story,
    fleet: &Fleet,
    gateway: &mut Gateway,
    (broker, link): (&str, &str),
) -> Result<(), Failure> {
    let uid = rustix::process::getuid().as_raw();
    let mut grants = Vec::new();
    let serve = fleet.serve(broker)?;
    for class in ["watch", "valve"] {
        let (begins, right) = (format!("unix:uid:{uid}={class}"), format!("{class}:read:door/*"));
        let bounds = ["--expires", "90d", "--offline-max", "60d", "--boots-max", "20", "--uses-max", "100"];
        let grant = ["grant", "create", "--device", &gateway.id, "--may-begin", &begins, "--right", &right];
        let made = fleet.run(&[&grant[..], &bounds[..], &["--task-ttl-max", "15m"]].concat())?;
        grants.push(text(&made, "id"));
    }
    let long =
        gateway.wait_status("its long grants", |status| status["grants"].as_array().is_some_and(|all| all.len() == 3));
    let known = long.as_ref().map_or(0, |status| status["feed_seq"].as_u64().unwrap_or(0));
    if let Some(agent) = gateway.agent.take() {
        agent.kill();
    }
    serve.kill();
    story.expect(
        "Two grants for a quarter of a year; then the other gateway is put into a drawer",
        "both held",
        if long.is_ok() { "both held" } else { "not both held" },
        long.is_ok(),
    );

    for day in 1..=AWAY_DAYS {
        let later = day * 86_400;
        if day == 12 {
            fleet.run_at(later, &["revoke", "grant", &grants[0], "--reason", "while it was away"])?;
        }
        fleet.run_at(later, &["revoke", "task", &format!("t-day-{day}"), "--reason", "one a day"])?;
        fleet.run_at(later, &["publish", "--broker", broker])?;
    }
    let listed = fleet.run_at(AWAY_DAYS * 86_400, &["revocations"])?;
    let newest = listed["head"]["seq"].as_u64().unwrap_or(known);
    story.expect(
        "A month passes, with a head and a revocation each day",
        "29 heads or more",
        format!("{} heads", newest - known),
        newest >= known + AWAY_DAYS,
    );

    gateway.start_rebooted(link, (AWAY_DAYS * 86_400) as i64, 3)?;
    let caught_up = gateway.wait_status("the newest head", |status| status["feed_seq"] == newest);
    let saw = match &caught_up {
        Ok(status) => format!("head {}, {}", status["feed_seq"], status["freshness"]),
        Err(error) => error.what.clone(),
    };
    story.expect(
        "It comes back; the fleet's service is switched off, and the broker alone brings it up to date",
        &format!("head {newest}"),
        saw,
        caught_up.is_ok(),
    );
    // A grant that is revoked is gone from the wallet.
    for (class, expected) in [("watch", "no_right"), ("valve", "allowed")] {
        let rights = json!([{"resource": "door/*", "action": "read"}]);
        let task = gateway.post("/v1/tasks", &json!({"task": class, "rights": rights, "ttl_s": 60}))?;
        let saw = match task["token"].as_str() {
            Some(token) => text(&gateway.authorize(token, "read", "door/1")?, "reason"),
            None => text(&task, "code"),
        };
        let name = match expected {
            "allowed" => "Its other grant is as good as before",
            _ => "The grant that was revoked meanwhile begins nothing any more",
        };
        story.expect(name, expected, &saw, saw == expected);
    }
    Ok(())
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn origin(task: &Value) -> String {
    format!("origin {}", task["origin"].as_str().or(task["detail"].as_str()).unwrap_or("none"))
}

/// Takes the wallet's own credential from the disk and gives it a right that it does not have.
fn widen(gateway: &Gateway, task_id: &str) -> Result<String, Failure> {
    let tasks = gateway.wallet_files()?.into_iter().filter_map(|bytes| StoredTask::from_file(&bytes).ok());
    let stolen = tasks
        .into_iter()
        .find(|task| task.id.as_str() == task_id)
        .ok_or_else(|| failed("the wallet holds no such task", task_id))?;
    let mut rng = rand_chacha::ChaCha20Rng::from_seed(entropy::seed());
    let block =
        BlockBuilder::new().code(r#"right("modbus/valve1", "write"); class_right("pump", "modbus/valve1", "write");"#);
    let block = block.map_err(|error| failed("the widening block", error))?;
    let widened =
        Held::from_bytes(&stolen.token).and_then(|held| held.append(block, &mut rng)).and_then(|held| held.to_bytes());
    widened.map(|bytes| to_text(&bytes)).map_err(|refused| failed("the stolen credential cannot be widened", refused))
}

/// Changes the last byte of the token, which is one of a signature.
fn forge(token: &str) -> Result<String, Failure> {
    let mut bytes = from_text(token, 1 << 16).map_err(|refused| failed("the token is none", refused))?;
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    Ok(to_text(&bytes))
}

/// What passed first of each kind that matters, in the order of the packets.
fn reconnect_order(packets: &[Passed]) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for packet in packets {
        let kind = packet.topics.iter().find_map(|topic| match packet.direction {
            Direction::Down if topic.ends_with("/head") => Some("head"),
            Direction::Down if topic.ends_with("/down/ack") => Some("ack"),
            Direction::Up if topic.ends_with("/up/hello") => Some("hello"),
            Direction::Up if topic.ends_with("/up/audit") => Some("audit"),
            Direction::Down | Direction::Up => None,
        });
        // A SUBSCRIBE names topics too; only what was published counts.
        let published = packet.kind == crate::shell::proxy::PacketKind::Publish;
        if let Some(kind) = kind.filter(|kind| published && !order.iter().any(|seen| seen == kind)) {
            order.push(kind.to_owned());
        }
    }
    order
}
