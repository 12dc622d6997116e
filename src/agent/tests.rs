//! The agent from outside: requests and messages in, replies and a disk out.

mod recovery;

use super::request::{Mode, Origin, Reason, Reply, Request, Socket, Verdict};
use super::rig::{right, Reboot, Rig, START_S};
use crate::ids::{DeviceId, GrantId};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::Event;
use crate::wire::link::Topic;
use crate::wire::revocation::{Rule, Target};
use crate::wire::token::{child_block, from_text, mint_task, to_text, Held, TaskSpec};

fn rule(target: Target) -> Rule {
    Rule { target, until: Timestamp::from_secs(START_S + 30 * 86_400) }
}

#[track_caller]
fn check(rig: &mut Rig, token: &str, operation: &str, resource: &str, reason: Reason) {
    let decision = rig.authorize(token, operation, resource);
    assert_eq!(decision.reason, reason, "{}", decision.explain);
    let allowed = decision.decision == Verdict::Allow;
    assert_eq!(allowed, reason == Reason::Allowed);
    let records = rig.disk.records();
    let last = records.iter().rev().find_map(|record| match &record.event {
        Event::Decision(decision) => Some((record.index, decision)),
        _ => None,
    });
    let (index, recorded) = last.expect("a decision is on disk before its answer");
    assert_eq!((index, recorded.reason.as_str()), (decision.audit.index, reason.name()));
}

#[test]
fn a_cold_start_narrows_the_grant_and_decides() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/pump1/speed", "write"), right("modbus/*", "read")], Some(5));
    assert_eq!((task.origin, task.mode), (Origin::Fallback, Mode::Offline));
    let token = task.token.as_str();
    check(&mut rig, token, "write", "modbus/pump1/speed", Reason::Allowed);
    check(&mut rig, token, "read", "modbus/valve9/state", Reason::Allowed);
    check(&mut rig, token, "write", "modbus/valve1", Reason::NoRight);
    check(&mut rig, token, "read", "modbus/../etc", Reason::Malformed);
    check(&mut rig, token, "hardtack:exchange", "t-1", Reason::NoRight);
    assert_eq!(rig.authorize_as(1002, token, "read", "modbus/a").reason, Reason::WrongWorkload);
}

#[test]
fn tokens_that_are_none_of_ours_are_named() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    let bytes = from_text(&task.token, 10_000).unwrap();
    check(&mut rig, "", "read", "modbus/a", Reason::Malformed);
    check(&mut rig, "!!", "read", "modbus/a", Reason::Malformed);
    check(&mut rig, &"A".repeat(100_000), "read", "modbus/a", Reason::TooLarge);
    let mut flipped = bytes.clone();
    let last = flipped.len() - 3;
    flipped[last] ^= 1;
    check(&mut rig, &to_text(&flipped), "read", "modbus/a", Reason::BadSignature);
    for cut in 0..bytes.len() {
        let decision = rig.authorize(&to_text(&bytes[..cut]), "read", "modbus/a");
        assert_eq!(decision.decision, Verdict::Deny, "cut at {cut}");
    }
}

fn spec(device: &str) -> TaskSpec {
    TaskSpec {
        fleet: "acme".parse().unwrap(),
        grant: GrantId([1; 16]),
        device: device.parse::<DeviceId>().unwrap(),
        owner: "ops@acme".into(),
        feed: Some("main".parse().unwrap()),
        task: "t-x".parse().unwrap(),
        issued: Timestamp::from_secs(START_S),
        expires: Timestamp::from_secs(START_S + 600),
        rights: vec![right("door/1", "open")],
        uses_max: None,
        min_time_class: None,
    }
}

#[test]
fn issued_tokens_are_judged_by_what_they_state() {
    let mut rig = Rig::new();
    let (issuer, root) = (rig.issuer.clone(), rig.root.clone());
    let edits: Vec<(TaskSpec, Reason)> = vec![
        (spec("gw-07"), Reason::Allowed),
        (spec("gw-08"), Reason::WrongDevice),
        (TaskSpec { fleet: "other".parse().unwrap(), ..spec("gw-07") }, Reason::WrongFleet),
        (TaskSpec { feed: Some("nope".parse().unwrap()), ..spec("gw-07") }, Reason::FeedUnknown),
        (TaskSpec { expires: Timestamp::from_secs(START_S - 60), ..spec("gw-07") }, Reason::Expired),
        (TaskSpec { issued: Timestamp::from_secs(START_S + 60), ..spec("gw-07") }, Reason::NotYetValid),
        (TaskSpec { rights: vec![right("door/2", "open")], ..spec("gw-07") }, Reason::NoRight),
        (TaskSpec { uses_max: Some(0), ..spec("gw-07") }, Reason::UsesSpent),
    ];
    for (spec, reason) in edits {
        let token = to_text(&mint_task(&spec, &issuer, 7, &mut rig.rng).unwrap());
        check(&mut rig, &token, "open", "door/1", reason);
    }
    let forged = to_text(&mint_task(&spec("gw-07"), &root, 7, &mut rig.rng).unwrap());
    check(&mut rig, &forged, "open", "door/1", Reason::BadSignature);
    let stranger = to_text(&mint_task(&spec("gw-07"), &issuer, 8, &mut rig.rng).unwrap());
    check(&mut rig, &stranger, "open", "door/1", Reason::UnknownRoot);
    let token = mint_task(&spec("gw-07"), &issuer, 7, &mut rig.rng).unwrap();
    let narrowed = Held::from_bytes(&token).unwrap();
    let block = child_block("unix:uid:1002", None).unwrap();
    let narrowed = narrowed.append(block, &mut rig.rng).unwrap().to_bytes().unwrap();
    check(&mut rig, &to_text(&narrowed), "open", "door/1", Reason::CheckFailed);
}

#[test]
fn uses_are_charged_to_every_ancestor_and_survive_restarts() {
    let mut rig = Rig::with(|spec| spec.uses_max = 4);
    let first = rig.begin(vec![right("modbus/*", "read")], Some(2));
    check(&mut rig, &first.token, "read", "modbus/a", Reason::Allowed);
    check(&mut rig, &first.token, "write", "modbus/a", Reason::NoRight);
    rig.restart(Reboot::Process);
    check(&mut rig, &first.token, "read", "modbus/a", Reason::Allowed);
    check(&mut rig, &first.token, "read", "modbus/a", Reason::UsesSpent);
    let second = rig.begin(vec![right("modbus/*", "read")], None);
    check(&mut rig, &second.token, "read", "modbus/a", Reason::Allowed);
    rig.restart(Reboot::Kernel);
    check(&mut rig, &second.token, "read", "modbus/a", Reason::Allowed);
    check(&mut rig, &second.token, "read", "modbus/a", Reason::UsesSpent);
}

#[test]
fn time_is_spent_by_running_and_by_rebooting_never_won() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    rig.pass(500);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    // Each boot costs the lease that was not used.
    for _ in 0..3 {
        rig.restart(Reboot::Kernel);
    }
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Expired);
    rig.now.wall = Some(Timestamp::from_secs(0));
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Expired);
}

#[test]
fn the_box_of_the_grant_holds() {
    let mut rig = Rig::with(|spec| spec.boots_max = 1);
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    rig.restart(Reboot::Kernel);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    rig.restart(Reboot::Kernel);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::BootsSpent);

    let mut rig = Rig::with(|spec| spec.offline_max = Millis::from_secs(300));
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    rig.pass(400);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::OfflineSpent);
}

#[test]
fn finished_tasks_are_refused_across_restarts() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    for _ in 0..2 {
        let reply = rig.ask(1001, Socket::Agent, Request::Finish(task.task_id.clone()));
        assert!(matches!(reply, Reply::Finished(_)), "{reply:?}");
    }
    let stranger = rig.ask(1002, Socket::Agent, Request::Finish(task.task_id.clone()));
    assert!(matches!(stranger, Reply::Problem(_)), "{stranger:?}");
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
    rig.restart(Reboot::Kernel);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
}

#[test]
fn a_round_trip_gives_online_and_releases_what_the_collector_has() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    for _ in 0..200 {
        check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
        if rig.disk.records().len() > 90 {
            break;
        }
    }
    rig.restart(Reboot::Process);
    let old = rig.disk.eras.len();
    assert_eq!(old, 2);
    rig.connect(Timestamp::from_secs(START_S + 200));
    assert_eq!(rig.agent.mode(), Mode::Online);
    rig.pass(5);
    rig.serve(Timestamp::from_secs(START_S + 205));
    assert_eq!(rig.disk.eras.len(), 1, "the acknowledged era is given back");
    let acked: u64 = rig.acked.values().map(|ack| ack.next_index).sum();
    assert!(acked > 90, "{acked}");
}

#[test]
fn revocations_hold_across_restarts_and_never_go_back() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    rig.connect(Timestamp::from_secs(START_S + 130));
    let old = rig.publish(vec![], Timestamp::from_secs(START_S + 130));
    let revoked = rig.publish(vec![rule(Target::Grant(rig.grant))], Timestamp::from_secs(START_S + 131));
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    for (topic, payload) in revoked.clone() {
        rig.message(topic, payload);
    }
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
    for (topic, payload) in old {
        rig.message(topic, payload);
    }
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
    let refused = rig.disk.records().into_iter().any(|record| matches!(record.event, Event::Refused(_)));
    assert!(refused, "the older head is evidence");
    rig.restart(Reboot::Kernel);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
}

#[test]
fn a_revoked_device_locks() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    rig.connect(Timestamp::from_secs(START_S + 130));
    let device = rig.device.clone();
    for (topic, payload) in rig.publish(vec![rule(Target::Device(device))], Timestamp::from_secs(START_S + 130)) {
        rig.message(topic, payload);
    }
    assert_eq!(rig.agent.mode(), Mode::Locked);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
}

#[test]
fn staleness_denies_by_class_of_risk() {
    let mut rig = Rig::with(|spec| spec.staleness_max = vec![("low".parse().unwrap(), Millis::from_secs(600))]);
    rig.pass(700);
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Stale);
}

#[test]
fn an_acknowledgement_ahead_of_the_disk_locks() {
    let mut rig = Rig::new();
    let before = rig.disk.clone();
    rig.connect(Timestamp::from_secs(START_S + 130));
    rig.pass(5);
    rig.serve(Timestamp::from_secs(START_S + 135));
    rig.disk = before;
    rig.restart(Reboot::Process);
    rig.connect(Timestamp::from_secs(START_S + 300));
    assert_eq!(rig.agent.mode(), Mode::Locked);
}

#[test]
fn a_lost_anchor_locks_until_the_fleet_answers() {
    let mut rig = Rig::new();
    rig.disk.anchor = None;
    rig.restart(Reboot::Process);
    assert_eq!(rig.agent.mode(), Mode::Locked);
    rig.connect(Timestamp::from_secs(START_S + 300));
    assert_ne!(rig.agent.mode(), Mode::Locked);
}

#[test]
fn random_messages_on_any_topic_change_nothing() {
    let mut rig = Rig::new();
    rig.connect(Timestamp::from_secs(START_S + 130));
    let (fleet, device) = (rig.fleet.clone(), rig.device.clone());
    let feed: crate::ids::FeedId = "main".parse().unwrap();
    let topics = [
        Topic::Bundle(2),
        Topic::Policy(2),
        Topic::FeedHead(feed.clone()),
        Topic::FeedSnapshot(feed, 0),
        Topic::DownAck(device.clone()),
        Topic::DownAnswer(device),
    ];
    for round in 0..200usize {
        let bytes: Vec<u8> = (0..round * 7).map(|_| rig.random() as u8).collect();
        for topic in &topics {
            rig.message(topic.text(&fleet), bytes.clone());
        }
        rig.message("other/topic".into(), bytes);
    }
    assert_eq!(rig.agent.mode(), Mode::Online);
    let evidence = rig.disk.records().iter().filter(|record| matches!(record.event, Event::Refused(_))).count();
    assert!((1..100).contains(&evidence), "recorded, and bounded: {evidence}");
    let ack = rig.ack(Some(crate::ids::Nonce([9; 16])), Timestamp::from_secs(START_S + 900_000), vec![]);
    rig.message(Topic::DownAck(rig.device.clone()).text(&fleet), ack);
    let Reply::Status(status) = rig.ask(0, Socket::Admin, Request::Status) else { panic!("no status") };
    assert!(status.floor < Timestamp::from_secs(START_S + 1000).to_string(), "a replayed nonce moves no clock");
}
