//! The agent from outside: requests and messages in, replies and a disk out.

mod arguments;
mod audit_keys;
mod backlog;
mod denials;
mod eras;
mod explain;
mod holders;
mod lives;
mod recovery;
mod roots;
mod rot;
mod rotation;
mod shed;

use biscuit_auth::builder::BiscuitBuilder;
use biscuit_auth::datalog::SymbolTable;

use super::effects::{LinkCommand, Publish, StateFile, StoredSegment};
use super::holder::ProcessId;
use super::request::{
    Authorize, BeginTask, Mode, Origin, ProblemCode, Process, Reason, Reply, Request, Socket, TimeClass, Verdict,
};
use super::rig::{announce_with, key, right, set_of, wanted, Reboot, Rig, Rule, START_S};
use super::{Input, LinkEvent};
use crate::ids::{BootId, GrantId, Hash};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::segment::{SegmentHeader, SEGMENT_RECORDS_MAX};
use crate::wire::audit::{Event, GrantStep, TaskStep};
use crate::wire::bundle::Feed;
use crate::wire::envelope::Signed;
use crate::wire::link::{Ask, State, Topic};
use crate::wire::policy::{PolicyDocument, TimeRule, BUILT_IN};
use crate::wire::revocation::set::RevocationSet;
use crate::wire::revocation::Target;
use crate::wire::token::{
    child_block, from_text, key_pair, mint_task, to_text, Bearer, Held, Purpose, TaskSpec, AMBIENT,
};

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
fn a_device_that_ends_in_order_says_last_that_it_is_gone() {
    let mut rig = Rig::new();
    rig.sent.clear();
    rig.input(Input::Leaving);
    assert_eq!(rig.sent, [], "nobody would hear it");
    rig.connect(Timestamp(0));
    assert_eq!(rig.agent.mode(), Mode::Online);
    rig.sent.clear();
    rig.input(Input::Leaving);
    let last = rig.sent.last();
    let Some(LinkCommand::Publish(Publish { topic: Topic::State(_), payload })) = last else { panic!("{last:?}") };
    assert_eq!(Signed::<State>::from_bytes(payload).unwrap().claim().unwrap().mode, State::GONE);
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

pub(super) fn spec(device: &str) -> TaskSpec {
    TaskSpec {
        fleet: "acme".parse().unwrap(),
        grant: GrantId([1; 16]),
        bearer: Bearer::Device(device.parse().unwrap()),
        owner: "ops@acme".into(),
        audience: None,
        feed: Some("main".parse().unwrap()),
        task: "t-x".parse().unwrap(),
        issued: Timestamp::from_secs(START_S),
        expires: Timestamp::from_secs(START_S + 600),
        serial: None,
        rights: vec![right("door/1", "open")],
        uses_max: None,
        staleness_max: Vec::new(),
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
    let block = child_block(&["unix:uid:1002"], Purpose::Work, None).unwrap();
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
fn a_stranger_cannot_finish_renew_await_or_list_a_live_task() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    let id = || task.task_id.clone();
    for request in [Request::Finish(id()), Request::Renew(id()), Request::Wait(id())] {
        match rig.ask(1002, Socket::Agent, request.clone()) {
            Reply::Problem(problem) => {
                assert_eq!(problem.code, ProblemCode::NotFound, "{request:?}: {}", problem.detail)
            }
            other => panic!("{request:?}: {other:?}"),
        }
    }
    assert_eq!(rig.ask(1002, Socket::Agent, Request::Tasks), Reply::Tasks(Vec::new()));
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    let Reply::Tasks(own) = rig.ask(1001, Socket::Agent, Request::Tasks) else { panic!() };
    assert_eq!(own.len(), 1, "whose it is sees it");
}

#[test]
fn what_a_start_closes_is_marked_recovered_and_nothing_else() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    while rig.disk.records().len() < SEGMENT_RECORDS_MAX as usize + 20 {
        check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    }
    let era = *rig.disk.eras.keys().last().unwrap();
    let marks = |rig: &Rig| -> Vec<bool> {
        let (_, segments) = &rig.disk.eras[&era];
        let header = |row: &StoredSegment| Signed::<SegmentHeader>::from_bytes(&row.header).unwrap().claim().unwrap();
        segments.iter().map(|row| header(row).recovered).collect()
    };
    assert_eq!(marks(&rig), [false], "it closed that itself");
    rig.restart(Reboot::Process);
    assert_eq!(marks(&rig), [false, true]);
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
    // The first time it closes the gap, from then on it is nothing but old.
    for (topic, payload) in old.clone().into_iter().chain(old) {
        rig.message(topic, payload);
    }
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
    let refused = rig.disk.records().into_iter().any(|record| matches!(record.event, Event::Refused(_)));
    assert!(refused, "the older head is evidence");
    rig.restart(Reboot::Kernel);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
}

#[test]
fn a_gap_that_nobody_fills_leads_to_the_snapshot_on_the_same_connection() {
    let mut rig = Rig::new();
    rig.profile.link.settle_ms = 500;
    rig.restart(Reboot::Process);
    rig.publish(vec![], rig.truth);
    let newest = rig.publish(vec![], rig.truth);
    rig.connect_only();
    let (topic, payload) = newest[0].clone();
    rig.message(topic, payload);
    rig.serve(Timestamp(0));
    rig.pass(11);
    let snapshot = Topic::FeedManifest("main".parse().unwrap());
    let asks =
        |command: &LinkCommand| matches!(command, LinkCommand::Read { places, .. } if places.contains(&snapshot));
    assert!(rig.sent.iter().any(asks), "{:?}", rig.sent);
    assert!(!rig.sent.iter().any(|command| matches!(command, LinkCommand::Close)), "{:?}", rig.sent);
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
fn a_head_says_itself_when_it_is_too_old_for_the_highest_risk() {
    let mut rig = Rig::new();
    rig.policy(|policy| policy.risks.iter_mut().for_each(|level| level.staleness_max_ms = None));
    rig.connect(Timestamp::from_secs(START_S + 130));
    rig.hard_stale = Millis::from_secs(3600);
    let newest = rig.publish(vec![], rig.truth);
    for (topic, payload) in newest {
        rig.message(topic, payload);
    }
    let asked = |rig: &mut Rig| {
        let token = rig.begin(vec![right("modbus/*", "read")], None).token;
        ["high", "medium"].map(|risk| rig.authorize_at(1001, &token, ("read", "modbus/a"), risk).reason)
    };
    rig.pass(3000);
    assert_eq!(asked(&mut rig), [Reason::Allowed, Reason::Allowed]);
    rig.pass(1000);
    assert_eq!(asked(&mut rig), [Reason::Stale, Reason::Allowed]);
    assert_eq!(rig.agent.mode(), Mode::Stale);
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
        Topic::FeedRules(feed.clone()),
        Topic::FeedDelta(feed.clone(), 2),
        Topic::FeedManifest(feed),
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

#[test]
fn what_is_known_to_be_newer_makes_everything_stale() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    rig.named = (2, 1);
    rig.connect(Timestamp::from_secs(START_S + 130));
    assert_eq!(rig.agent.mode(), Mode::Stale, "a trust bundle is named and withheld");
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Stale);

    let mut rig = Rig::new();
    rig.named = (1, 2);
    rig.connect(Timestamp::from_secs(START_S + 130));
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Stale);
}

#[test]
fn a_head_from_the_future_applies_and_makes_nothing_fresher() {
    let mut rig = Rig::with(|spec| spec.staleness_max = vec![("low".parse().unwrap(), Millis::from_secs(600))]);
    rig.connect(Timestamp::from_secs(START_S + 130));
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    let year = Timestamp::from_secs(START_S + 365 * 86_400);
    for (topic, payload) in rig.publish(vec![rule(Target::Owner("nobody".into()))], year) {
        rig.message(topic, payload);
    }
    let Reply::Status(status) = rig.ask(0, Socket::Admin, Request::Status) else { panic!("no status") };
    assert_eq!(status.feed_seq, 2, "its content applies");
    rig.pass(400);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    rig.pass(400);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Stale);
}

#[test]
fn a_rule_that_the_next_list_leaves_out_holds_until_its_end() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    rig.connect(Timestamp::from_secs(START_S + 130));
    let until = Timestamp::from_secs(START_S + 400);
    let first = Rule { target: Target::Owner("ops@acme".into()), until };
    for rules in [vec![first], vec![]] {
        for (topic, payload) in rig.publish(rules, Timestamp::from_secs(START_S + 130)) {
            rig.message(topic, payload);
        }
        check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
    }
    rig.restart(Reboot::Process);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
    rig.pass(300);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
}

/// The trust bundle that gives the rig's device feed `north`, or takes it away again.
fn moved(rig: &mut Rig, north: bool) -> (String, Vec<u8>) {
    let device = rig.device.clone();
    rig.bundle(|trust| {
        let since = trust.version;
        let keys = vec![key(4).verifying_key().into()];
        if trust.feeds.len() == 1 {
            let groups = vec!["north".parse().unwrap()];
            trust.feeds.push(Feed { id: "f-north".parse().unwrap(), era: 0, keys, groups, since });
        }
        trust.groups.insert("north".parse().unwrap(), if north { vec![device] } else { Vec::new() });
        trust.feeds[usize::from(north)].since = since;
    })
}

/// A head of feed `f-north` that names this trust bundle.
fn of_north(rig: &Rig, (seq, previous): (u64, Hash), set: &RevocationSet, bundle_version: u64) -> (String, Vec<u8>) {
    let head = announce_with("f-north", seq, previous, rig.truth, (set, set), |head| {
        head.bundle_version = bundle_version;
    });
    (Topic::FeedHead("f-north".parse().unwrap()).text(&rig.fleet), head.to_bytes())
}

#[test]
fn a_device_that_is_given_another_feed_keeps_what_the_old_one_revoked_and_is_fresh_by_the_new_one() {
    let mut rig = Rig::new();
    let owner = |name: &str| Target::Owner(name.into());
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    rig.connect(Timestamp(0));
    let now = rig.truth;
    let rules = vec![Rule { target: owner("other@acme"), until: now + Millis::from_secs(6000) }];
    for (topic, payload) in rig.publish(rules, now) {
        rig.message(topic, payload);
    }
    let old = rig.publish(vec![], now);
    let (topic, payload) = moved(&mut rig, true);
    rig.sent.clear();
    rig.message(topic, payload);
    assert!(rig.sent.contains(&LinkCommand::Close), "the new feed is another subscription");
    let age = |rig: &Rig| rig.agent.revocations.age(rig.agent.clock.powered());
    assert_eq!(age(&rig), None, "nothing of the new feed is here");
    assert_ne!(rig.agent.mode(), Mode::Online);

    let filters = loop {
        rig.pass(1);
        rig.input(Input::Deadline);
        let mut filters = rig.sent.iter().filter_map(|command| match command {
            LinkCommand::Connect { filters, .. } => Some(filters.join(" ")),
            _ => None,
        });
        if let Some(filters) = filters.next() {
            break filters;
        }
    };
    assert!(filters.contains("/feed/f-north/") && !filters.contains("/feed/main/"), "{filters}");
    rig.input(Input::Link(LinkEvent::Connected));
    let held = rig.agent.revocations.positions();
    for (topic, payload) in old {
        rig.message(topic, payload);
    }
    assert_eq!(rig.agent.revocations.positions(), held, "nothing more of the old feed is taken");
    let refused = rig.disk.records().into_iter().rev().find_map(|record| match record.event {
        Event::Refused(evidence) => Some(evidence.reason),
        _ => None,
    });
    assert!(refused.is_some_and(|reason| reason.starts_with("of feed main")));

    // A head of the new feed from before the move counts for what it revokes, and makes nothing fresh.
    let first = set_of(&[Rule { target: owner("third@acme"), until: now + Millis::from_secs(6000) }]);
    let (topic, payload) = of_north(&rig, (1, Hash::ZERO), &first, 1);
    rig.message(topic, payload);
    assert!(age(&rig).unwrap().overdue);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Stale);
    let before = rig.agent.revocations.told()[0].digest;
    let (topic, payload) = of_north(&rig, (2, before), &first, 2);
    rig.message(topic, payload);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    for reboot in [Reboot::Process, Reboot::Kernel] {
        assert!(!age(&rig).unwrap().overdue);
        let revocations = &rig.agent.revocations;
        let names = |name| revocations.names(&owner(name), rig.agent.clock.over());
        assert!(names("other@acme") && names("third@acme"));
        assert!(revocations.holds("main"), "tokens that name the old feed are good still");
        assert_eq!(revocations.told()[0].feed.as_str(), "f-north", "its own feed is told first");
        rig.restart(reboot);
    }
    assert_ne!(rig.agent.mode(), Mode::Locked);

    // Back again: what the anchor knows of the feed counts on, and a head from before is no news.
    let (topic, payload) = moved(&mut rig, false);
    rig.connect_only();
    rig.message(topic, payload);
    assert!(age(&rig).unwrap().overdue, "the head that it has of it is from before");
    assert!(rig.agent.revocations.position_of(&"main".parse().unwrap()).is_some());
    // E goes a little slower than time.
    rig.pass(6100);
    assert!(!rig.agent.revocations.names(&owner("other@acme"), rig.agent.clock.over()), "its signed end has passed");
}

#[test]
fn a_feed_of_before_whose_file_is_lost_locks_only_until_the_own_one_has_arrived() {
    let mut rig = Rig::new();
    rig.connect(Timestamp(0));
    let (topic, payload) = moved(&mut rig, true);
    rig.message(topic, payload);
    rig.disk.files.remove(&StateFile::Feed("main".parse().unwrap()));
    rig.restart(Reboot::Process);
    assert_eq!(rig.agent.mode(), Mode::Locked, "what it revoked is not known");
    rig.connect_only();
    let (topic, payload) = of_north(&rig, (1, Hash::ZERO), &RevocationSet::default(), 2);
    rig.message(topic, payload);
    assert_ne!(rig.agent.mode(), Mode::Locked, "its own feed holds that as well");
}

#[test]
fn a_restart_of_the_process_counts_no_time_twice() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    for _ in 0..40 {
        rig.pass(25);
        rig.authorize(&task.token, "read", "modbus/a");
        rig.restart(Reboot::Process);
    }
    let Reply::Status(status) = rig.ask(0, Socket::Admin, Request::Status) else { panic!("no status") };
    assert!(status.floor <= Timestamp::from_secs(START_S + 1001).to_string(), "{}", status.floor);
}

#[test]
fn three_classes_judge_by_three_clocks() {
    let mut rig = Rig::new();
    rig.policy(|policy| {
        let rule = |resource: &str, class| TimeRule { operation: "*".into(), resource: resource.into(), class };
        policy.time_rules = vec![rule("modbus/valve/*", TimeClass::Strict), rule("modbus/log/*", TimeClass::Floor)];
    });
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    let token = task.token.as_str();
    check(&mut rig, token, "read", "modbus/valve/1", Reason::TimeUntrusted);
    check(&mut rig, token, "read", "modbus/log/1", Reason::Allowed);
    check(&mut rig, token, "read", "modbus/a", Reason::Allowed);
    // The lease of many boots carries P past the end, and E stays where it is proven to be.
    for _ in 0..12 {
        rig.restart(Reboot::Kernel);
    }
    check(&mut rig, token, "read", "modbus/a", Reason::Expired);
    check(&mut rig, token, "read", "modbus/log/1", Reason::Allowed);
    check(&mut rig, token, "read", "modbus/valve/1", Reason::TimeUntrusted);
    rig.connect(Timestamp::from_secs(START_S + 130));
    let fresh = rig.begin(vec![right("modbus/*", "read")], None);
    check(&mut rig, &fresh.token, "read", "modbus/valve/1", Reason::Allowed);
    rig.restart(Reboot::Kernel);
    check(&mut rig, &fresh.token, "read", "modbus/valve/1", Reason::TimeUntrusted);
}

/// Only what is asked about is stated, so each name must be found wherever it is asked about: in a policy, in a rule of it,
/// in a check of a token. `step` is stated by nobody yet.
#[test]
fn every_ambient_fact_is_stated_where_it_is_asked_about() {
    for name in AMBIENT.into_iter().filter(|name| *name != "step") {
        let terms = if ["argument", "argument_size"].contains(&name) { "$x, $y" } else { "$x" };
        check_stated(name, &format!("allow if {name}({terms});"), true);
        // The time may be compared, not passed on.
        if name != "time" {
            check_stated(name, &format!("asked($x) <- {name}({terms}); allow if asked($x);"), true);
        }
    }
    check_stated("nothing", "allow if nothing($x);", false);
    check_stated("nothing", "asked($x) <- nothing($x); allow if asked($x);", false);
}

#[track_caller]
fn check_stated(name: &str, datalog: &str, stated: bool) {
    let mut rig = Rig::new();
    rig.policy(|policy| policy.datalog = datalog.into());
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    let ask = Authorize {
        token: task.token,
        operation: "read".into(),
        resource: "modbus/a".into(),
        destination: Some("plc-3".into()),
        risk: Some("low".parse().unwrap()),
        task: None,
        step: None,
        arguments: Some(serde_json::from_str(r#"{"path":"/srv/a","none":null,"list":[]}"#).unwrap()),
    };
    let socket = if name == "enforcer" { Socket::Pep } else { Socket::Agent };
    let Reply::Decision(reply) = rig.ask(1001, socket, Request::Authorize(ask)) else { panic!("no decision") };
    assert_eq!(reply.decision == Verdict::Allow, stated, "{name} with {datalog}: {}", reply.explain);
}

#[test]
fn what_only_a_token_asks_about_is_stated_too() {
    let mut rig = Rig::new();
    let token = mint_task(&spec("gw-07"), &rig.issuer, 7, &mut rig.rng).unwrap();
    for (asks, reason) in [
        ("check if profile($p), boots($b), $b < 9", Reason::Allowed),
        ("check if destination($d)", Reason::CheckFailed),
    ] {
        let block = biscuit_auth::builder::BlockBuilder::new().code(asks).unwrap();
        let narrowed = Held::from_bytes(&token).unwrap().append(block, &mut rig.rng).unwrap().to_bytes().unwrap();
        check(&mut rig, &to_text(&narrowed), "open", "door/1", reason);
    }
}

#[test]
fn a_token_may_ask_for_a_stricter_class_and_not_for_a_more_lenient_one() {
    let mut rig = Rig::with(|spec| spec.min_time_class = Some(TimeClass::Strict));
    let begin = wanted(vec![right("modbus/*", "read")], None);
    let refused = rig.ask(1001, Socket::Agent, Request::Begin(begin));
    assert!(matches!(&refused, Reply::Problem(problem) if problem.code == ProblemCode::Denied(Reason::TimeUntrusted)));
    rig.connect(Timestamp::from_secs(START_S + 130));
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);

    let mut rig = Rig::with(|spec| spec.min_time_class = Some(TimeClass::Floor));
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    assert_eq!(rig.authorize(&task.token, "read", "modbus/a").time_class, TimeClass::Bounded);
}

#[test]
fn the_system_clock_only_tightens() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    for (wall_s, reason) in [
        (0, Reason::Allowed),
        (START_S + 60, Reason::Allowed),
        (START_S + 3600, Reason::Expired),
        (4_000_000_000, Reason::Expired),
        (START_S, Reason::Allowed),
    ] {
        rig.now.wall = Some(Timestamp::from_secs(wall_s));
        check(&mut rig, &task.token, "read", "modbus/a", reason);
    }
    rig.pass(700);
    rig.now.wall = Some(Timestamp::from_secs(START_S));
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Expired);
    // In touch, what is proven bounds a clock that runs wild.
    rig.connect(Timestamp::from_secs(START_S + 900));
    rig.now.wall = Some(Timestamp::from_secs(4_000_000_000));
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
}

#[test]
fn a_correction_of_p_shortens_every_credential_dated_by_it() {
    let mut rig = Rig::new();
    let first = rig.begin(vec![right("modbus/*", "read")], None);
    for _ in 0..3 {
        rig.restart(Reboot::Kernel);
    }
    let renewed = match rig.ask(1001, Socket::Agent, Request::Renew(first.task_id.clone())) {
        Reply::Task(task) => task,
        other => panic!("no task: {other:?}"),
    };
    // Some three minutes of leases are given back.
    rig.connect(Timestamp::from_secs(START_S + 60));
    check(&mut rig, &renewed.token, "read", "modbus/a", Reason::Allowed);
    rig.pass(600 - 180);
    check(&mut rig, &first.token, "read", "modbus/a", Reason::Expired);
}

#[test]
fn uses_stay_spent_however_often_a_task_is_renewed() {
    let mut rig = Rig::new();
    let mut task = rig.begin(vec![right("modbus/*", "read")], Some(3));
    for _ in 0..2 {
        check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
        let old = task.token.clone();
        task = match rig.ask(1001, Socket::Agent, Request::Renew(task.task_id.clone())) {
            Reply::Task(task) => task,
            other => panic!("no task: {other:?}"),
        };
        check(&mut rig, &old, "read", "modbus/a", Reason::UsesSpent);
    }
    assert_eq!(task.uses, Some(1));
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::UsesSpent);
    let spent = rig.ask(1001, Socket::Agent, Request::Renew(task.task_id));
    assert!(matches!(&spent, Reply::Problem(problem) if problem.code == ProblemCode::Denied(Reason::UsesSpent)));
}

#[test]
fn who_renews_without_end_is_throttled_and_fills_nothing() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], Some(90));
    let mut throttled = 0;
    for _ in 0..200 {
        match rig.ask(1001, Socket::Agent, Request::Renew(task.task_id.clone())) {
            Reply::Task(_) => {}
            Reply::Problem(problem) if problem.code == ProblemCode::Throttled => throttled += 1,
            other => panic!("neither: {other:?}"),
        }
    }
    assert!(throttled > 150, "{throttled}");
    let budgets = rig.disk.anchor.as_ref().map_or(0, |anchor| anchor.budgets.len());
    assert!(budgets < 40, "{budgets}");
    rig.ask(1001, Socket::Agent, Request::Finish(task.task_id.clone()));
    rig.restart(Reboot::Process);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
}

#[test]
fn who_begins_and_finishes_without_end_leaves_others_their_tasks() {
    let mut rig = Rig::with(|spec| spec.may_begin.push(("unix:uid:1002".into(), "pump".parse().unwrap())));
    (rig.profile.wallet.tasks_max, rig.profile.wallet.tasks_per_uid_max) = (8, 2);
    rig.restart(Reboot::Process);
    let mut begin = |uid: u32| {
        let begin = BeginTask {
            task: "pump".parse().unwrap(),
            rights: vec![right("modbus/*", "read")],
            ttl_s: 600,
            uses: None,
            planner: false,
            reason: None,
            holder: None,
            lease: None,
            identity: None,
            key: None,
        };
        match rig.ask(uid, Socket::Agent, Request::Begin(begin)) {
            Reply::Task(task) => {
                assert!(matches!(rig.ask(uid, Socket::Agent, Request::Finish(task.task_id)), Reply::Finished(_)));
                true
            }
            Reply::Problem(problem) if problem.code == ProblemCode::Throttled => false,
            other => panic!("neither: {other:?}"),
        }
    };
    let begun = (0..100).filter(|_| begin(1001)).count();
    assert_eq!(begun, 8, "four for each that may live at once");
    assert!(begin(1002));
}

/// Process 7 of this boot, that runs a program.
fn program(rig: &Rig, path: &str) -> Process {
    let id = ProcessId { boot: BootId([rig.boot; 16]), pid: 7, started: 99 };
    Process { path: Some(path.into()), ..Process::of(id) }
}

#[test]
fn a_credential_is_bound_to_what_let_it_begin() {
    let mut rig = Rig::with(|spec| spec.may_begin = vec![("unix:path:/usr/bin/meter".into(), "pump".parse().unwrap())]);
    rig.process = Some(program(&rig, "/usr/bin/meter"));
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    rig.process = Some(program(&rig, "/usr/bin/other"));
    check(&mut rig, &task.token, "read", "modbus/a", Reason::WrongWorkload);
    rig.process = Some(program(&rig, "/usr/bin/meter"));
    assert_eq!(rig.authorize_as(1002, &task.token, "read", "modbus/a").reason, Reason::WrongWorkload);
}

#[test]
fn a_policy_is_judged_around_its_own_dates() {
    let mut rig = Rig::new();
    let from = Timestamp::from_secs(START_S + 100);
    let to = Timestamp::from_secs(START_S + 130);
    rig.policy(|policy| {
        policy.datalog = format!("deny if time($t), $t >= {from}, $t < {to};\n{}", policy.datalog);
    });
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    // E stays before the window, the leases carry P past it: it may be within.
    for _ in 0..3 {
        rig.restart(Reboot::Kernel);
    }
    check(&mut rig, &task.token, "read", "modbus/a", Reason::DeniedByPolicy);
}

/// Evaluated, it would deny nothing: the library takes a pattern that is none for one that never matches.
#[test]
fn a_policy_with_a_regular_expression_that_is_none_never_comes_into_force() {
    let open = format!("deny if operation($o), $o.matches(\"^(read|write$\");\n{BUILT_IN}");
    let mut rig = Rig::new();
    rig.connect(Timestamp::from_secs(START_S + 130));
    let document = PolicyDocument {
        version: 2,
        datalog: open.clone(),
        ..PolicyDocument::built_in(Timestamp::from_secs(START_S + 130))
    };
    let signed = Signed::sign(&document, &rig.fleet, &[&key(3)]);
    rig.message(Topic::Policy(2).text(&rig.fleet), signed.to_bytes());
    assert_eq!(rig.agent.policy.document.version, 1);
    let (topic, second) = rig.policy_message(2, Timestamp::from_secs(START_S + 130));
    rig.message(topic, second);
    assert_eq!(rig.agent.policy.document.version, 2, "what can be evaluated does");
    let mut rig = Rig::new();
    rig.policy(|policy| policy.datalog = open);
    assert_eq!(rig.agent.mode(), Mode::Locked);
}

#[test]
fn a_token_whose_issuer_wrote_a_regular_expression_that_is_none_is_refused() {
    let mut rig = Rig::new();
    for (check, reason) in [
        ("check if operation($o), $o.matches(\"^(open|close)$\")", Reason::Allowed),
        ("check if operation($o), $o.matches(\"^(read|write)$\")", Reason::CheckFailed),
        ("check if operation($o), !$o.matches(\"^(open|close$\")", Reason::Malformed),
        ("reject if operation($o), $o == \"x\" || $o.matches(\"[\")", Reason::Malformed),
        ("other($o) <- operation($o), !$o.matches(\"[\"); check if other($o)", Reason::Malformed),
        ("check if operation($o), resource($r), !$o.matches($r)", Reason::Malformed),
    ] {
        let (issued, expires) = (Timestamp::from_secs(START_S), Timestamp::from_secs(START_S + 600));
        let code = format!(
            "fleet(\"acme\"); grant(\"{}\"); kind(\"task\"); owner(\"ops@acme\"); feed(\"main\"); for_device(\"gw-07\"); \
             for_task(\"t-x\"); issued({issued}); expires({expires}); right(\"door/1\", \"open\"); {check};",
            GrantId([1; 16])
        );
        let block = BiscuitBuilder::new().code(&code).unwrap().root_key_id(7);
        let token = block.build_with_rng(&key_pair(&rig.issuer), SymbolTable::new(), &mut rig.rng).unwrap();
        let decision = rig.authorize(&to_text(&token.to_vec().unwrap()), "open", "door/1");
        assert_eq!(decision.reason, reason, "{check}: {}", decision.explain);
    }
}

#[test]
fn a_grant_is_activated_once_per_outage_and_reconciled_after_it() {
    let mut rig = Rig::new();
    let steps = |rig: &Rig| -> Vec<(GrantStep, u64)> {
        let records = rig.disk.records().into_iter();
        records
            .filter_map(|record| match record.event {
                Event::Grant(used) => Some((used.step, used.used)),
                _ => None,
            })
            .collect()
    };
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    rig.restart(Reboot::Kernel);
    rig.begin(vec![right("modbus/*", "read")], None);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    assert_eq!(steps(&rig), [(GrantStep::Activated, 0)]);
    rig.connect(Timestamp::from_secs(START_S + 130));
    assert_eq!(steps(&rig).last(), Some(&(GrantStep::Reconciled, 2)));
}

#[test]
fn a_lockdown_wipes_grants_and_ends_their_tasks() {
    for target in [Target::Device("gw-07".parse().unwrap()), Target::All, Target::Grant(GrantId([0xaa; 16]))] {
        let mut rig = Rig::new();
        let task = rig.begin(vec![right("modbus/*", "read")], None);
        rig.connect(Timestamp::from_secs(START_S + 130));
        for (topic, payload) in rig.publish(vec![rule(target.clone())], Timestamp::from_secs(START_S + 130)) {
            rig.message(topic, payload);
        }
        let secret =
            |disk: &super::rig::Disk| disk.files.keys().any(|file| matches!(file, super::effects::StateFile::Grant(_)));
        assert!(!secret(&rig.disk), "{target:?}");
        assert_eq!(rig.agent.mode() == Mode::Locked, !matches!(target, Target::Grant(_)), "{target:?}");
        for reboot in [Reboot::Process, Reboot::Kernel] {
            check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
            rig.restart(reboot);
        }
    }
}

#[test]
fn signed_time_that_somebody_carries_raises_the_floor() {
    let mut rig = Rig::new();
    let later = Timestamp::from_secs(START_S + 90 * 86_400);
    let alone = rig.time_file(later, None);
    let Reply::Time(time) = rig.ask(0, Socket::Admin, Request::ImportTime(alone)) else { panic!("no time") };
    assert!(time.waiting.is_some(), "one role alone moves time by a month at the most");
    let both = rig.time_file(later, Some(later));
    let Reply::Time(time) = rig.ask(0, Socket::Admin, Request::ImportTime(both)) else { panic!("no time") };
    assert_eq!((time.floor, time.waiting), ((later - Millis::from_secs(2)).to_string(), None));
    let old = rig.time_file(Timestamp::from_secs(START_S), None);
    let Reply::Time(time) = rig.ask(0, Socket::Admin, Request::ImportTime(old)) else { panic!("no time") };
    assert_eq!(time.floor, time.floor_before, "an old file moves nothing");
    let junk = rig.ask(0, Socket::Admin, Request::ImportTime(vec![7; 300]));
    assert!(matches!(&junk, Reply::Problem(problem) if problem.code == ProblemCode::Refused));
}

#[test]
fn only_the_root_keys_turn_time_back_and_only_once_per_nonce() {
    let mut rig = Rig::new();
    let wrong = Timestamp::from_secs(START_S + 20 * 86_400);
    let file = rig.time_file(wrong, Some(wrong));
    rig.ask(0, Socket::Admin, Request::ImportTime(file));
    let right_time = Timestamp::from_secs(START_S + 100);
    let root = rig.root.clone();
    let service = rig.service.clone();
    let refused = |rig: &mut Rig, file: Vec<u8>| {
        let reply = rig.ask(0, Socket::Admin, Request::ImportTime(file));
        assert!(matches!(&reply, Reply::Problem(problem) if problem.code == ProblemCode::Refused), "{reply:?}");
    };
    let guessed = rig.reset_file(crate::ids::Nonce([1; 16]), right_time, &root);
    refused(&mut rig, guessed);
    let Reply::Challenge(challenge) = rig.ask(0, Socket::Admin, Request::Challenge) else { panic!("no nonce") };
    let nonce = challenge.nonce.parse().unwrap();
    let forged = rig.reset_file(nonce, right_time, &service);
    refused(&mut rig, forged);
    let reset = rig.reset_file(nonce, right_time, &root);
    let Reply::Time(time) = rig.ask(0, Socket::Admin, Request::ImportTime(reset.clone())) else { panic!("no time") };
    assert!(time.floor < time.floor_before, "{time:?}");
    refused(&mut rig, reset);
    // It holds across a start, whatever older records say.
    rig.restart(Reboot::Process);
    let Reply::Status(status) = rig.ask(0, Socket::Admin, Request::Status) else { panic!("no status") };
    assert!(status.floor < Timestamp::from_secs(START_S + 200).to_string(), "{}", status.floor);
    let audited = rig
        .disk
        .records()
        .iter()
        .any(|record| matches!(record.event, Event::Trust(crate::wire::audit::TrustChange::Reset { .. })));
    assert!(audited);
}

#[test]
fn noise_on_many_topics_leaves_few_records() {
    let mut rig = Rig::new();
    rig.connect(Timestamp::from_secs(START_S + 130));
    let before = rig.disk.records().len();
    for number in 0..2000u32 {
        let topic = format!("hardtack/1/acme/a{number}");
        rig.message(topic, vec![number as u8; number as usize % 50]);
        let head = Topic::FeedHead("main".parse().unwrap()).text(&rig.fleet);
        rig.message(head, vec![1; 40_000 + number as usize]);
    }
    let written = rig.disk.records().len() - before;
    assert!(written <= 16, "{written}");
}

#[test]
fn silence_locks_and_a_round_trip_unlocks() {
    let mut rig = Rig::new();
    rig.policy(|policy| policy.dead_man_ms = Some(Millis::from_secs(1000)));
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    rig.pass(1100);
    assert_eq!(rig.agent.mode(), Mode::Locked);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Expired);
    rig.restart(Reboot::Kernel);
    assert_eq!(rig.agent.mode(), Mode::Locked);
    rig.sync();
    assert_eq!(rig.agent.mode(), Mode::Online);
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
}

#[test]
fn a_revoked_device_is_free_again_when_the_rule_ends() {
    let mut rig = Rig::new();
    rig.sync();
    let until = Timestamp(rig.truth.0 + 300_000);
    let device = rig.device.clone();
    for (topic, payload) in rig.publish(vec![Rule { target: Target::Device(device), until }], rig.truth) {
        rig.message(topic, payload);
    }
    assert_eq!(rig.agent.mode(), Mode::Locked);
    rig.pass(290);
    assert_eq!(rig.agent.mode(), Mode::Locked);
    rig.pass(30);
    assert_ne!(rig.agent.mode(), Mode::Locked);
}

/// What the issuer gives counts from its clock, and this device cannot tell that it is not past the end.
#[test]
fn what_the_issuer_gives_too_short_comes_from_the_grant() {
    for with_grant in [true, false] {
        let mut rig = Rig::with(|spec| {
            if !with_grant {
                spec.may_begin = vec![("unix:uid:9".into(), "pump".parse().unwrap())];
            }
        });
        rig.sync();
        let begin = BeginTask { ttl_s: 2, ..wanted(vec![right("modbus/*", "read")], None) };
        let reply = rig.answer_begin(begin, |spec| {
            spec.issued = spec.issued - Millis(10_000);
            spec.expires = spec.issued + Millis(2000);
        });
        match reply {
            Reply::Task(task) if with_grant => {
                assert_eq!(task.origin, Origin::Fallback);
                check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
            }
            Reply::Problem(problem) if !with_grant => {
                assert_eq!(problem.code, ProblemCode::Denied(Reason::TimeUntrusted), "{}", problem.detail);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn credentials_are_looked_at_again_when_the_clock_moves() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    let later = Timestamp::from_secs(START_S + 86_400);
    let file = rig.time_file(later, Some(later));
    rig.ask(0, Socket::Admin, Request::ImportTime(file));
    let ended = rig.disk.records().iter().any(|record| match &record.event {
        Event::Task(event) => event.step == TaskStep::Ended && event.task.as_ref() == Some(&task.task_id),
        _ => false,
    });
    assert!(ended, "told at once, whoever asks");
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Expired);
}

#[test]
fn a_grant_is_renewed_by_half_of_its_life_and_the_old_one_stays_until_then() {
    let mut rig = Rig::with(|spec| spec.expires = Timestamp::from_secs(START_S + 2000));
    rig.sync();
    assert!(rig.requests().is_empty(), "nothing is due yet");
    rig.truth = Timestamp::from_secs(START_S + 1200);
    rig.sync();
    let asked = rig.requests();
    let (nonce, reply_to) = match asked.as_slice() {
        [(nonce, reply_to, Ask::Renew(spent))] if spent[0].grant == rig.grant => (*nonce, *reply_to),
        other => panic!("{other:?}"),
    };
    let old = rig.grant;
    assert_eq!(grants_on_disk(&rig), [old], "asked for, and not dropped");
    let successor = rig.successor(GrantId([0xbb; 16]), Timestamp::from_secs(START_S + 4000));
    rig.answer_grants(nonce, reply_to, vec![b"junk".to_vec()]);
    assert_eq!(grants_on_disk(&rig), [old], "an answer that cannot be used withdraws nothing");
    for _ in 0..40 {
        rig.pass(10);
        rig.serve(Timestamp(0));
    }
    let asked = rig.requests();
    let (nonce, reply_to, _) = asked.last().cloned().expect("asked again");
    rig.answer_grants(nonce, reply_to, vec![successor]);
    assert_eq!(grants_on_disk(&rig), [GrantId([0xbb; 16])]);
    rig.restart(Reboot::Kernel);
    rig.begin(vec![right("modbus/*", "read")], None);
}

/// The grants that are on the disk.
fn grants_on_disk(rig: &Rig) -> Vec<GrantId> {
    let grant = |file: &super::effects::StateFile| match file {
        super::effects::StateFile::Grant(id) => Some(*id),
        _ => None,
    };
    rig.disk.files.keys().filter_map(grant).collect()
}

#[test]
fn what_has_ended_by_the_service_s_clock_alone_is_kept() {
    let mut rig = Rig::with(|spec| spec.expires = Timestamp::from_secs(START_S + 86_400));
    let grant = rig.grant;
    rig.connect(Timestamp::from_secs(START_S + 130));
    // Forty days ahead, it lists no grant that has ended by then, and answers whoever asks.
    rig.listed.clear();
    // Its acknowledgement of audit moves no clock so far, and lists as much.
    let ack = rig.ack(None, Timestamp::from_secs(START_S + 40 * 86_400), vec![]);
    rig.message(Topic::DownAck(rig.device.clone()).text(&rig.fleet), ack);
    rig.pass(60);
    for (nonce, reply_to, _) in rig.requests() {
        rig.answer_grants(nonce, reply_to, Vec::new());
    }
    assert_eq!(grants_on_disk(&rig), [grant]);
    rig.connect(Timestamp::from_secs(START_S + 40 * 86_400));
    for (nonce, reply_to, _) in rig.requests() {
        rig.answer_grants(nonce, reply_to, Vec::new());
    }
    assert_eq!(grants_on_disk(&rig), [grant]);
    rig.listed.push(grant);
    rig.connect(Timestamp::from_secs(START_S + 300));
    rig.begin(vec![right("modbus/*", "read")], None);
}

#[test]
fn a_grant_that_was_withdrawn_goes_and_not_by_an_answer_that_no_acknowledgement_bears_out() {
    let mut rig = Rig::new();
    rig.connect(Timestamp::from_secs(START_S + 130));
    let named = rig.listed.split_off(0);
    rig.connect(Timestamp::from_secs(START_S + 200));
    let asked = rig.requests();
    let [(nonce, reply_to, Ask::Grants)] = asked.as_slice() else { panic!("{asked:?}") };
    // While the answer is under way the service says that there is one.
    rig.listed = named.clone();
    rig.connect(Timestamp::from_secs(START_S + 260));
    rig.answer_grants(*nonce, *reply_to, Vec::new());
    assert_eq!(grants_on_disk(&rig), named);
    rig.listed.clear();
    rig.connect(Timestamp::from_secs(START_S + 400));
    let asked = rig.requests();
    let [(nonce, reply_to, Ask::Grants)] = asked.as_slice() else { panic!("{asked:?}") };
    rig.answer_grants(*nonce, *reply_to, Vec::new());
    assert_eq!(grants_on_disk(&rig), []);
}

#[test]
fn absurd_grants_give_nothing_and_break_nothing() {
    type Edit = Box<dyn Fn(&mut crate::wire::token::GrantSpec)>;
    let absurd: Vec<Edit> = vec![
        Box::new(|spec| spec.expires = Timestamp(0)),
        Box::new(|spec| spec.issued = Timestamp::from_secs(START_S + 10_000_000)),
        Box::new(|spec| (spec.issued, spec.expires) = (spec.expires, spec.issued)),
        Box::new(|spec| spec.task_ttl_max = Millis(0)),
        Box::new(|spec| spec.uses_max = 0),
        Box::new(|spec| spec.may_begin.clear()),
    ];
    for (number, edit) in absurd.into_iter().enumerate() {
        let mut rig = Rig::with(|spec| edit(spec));
        let begin = BeginTask {
            task: "pump".parse().unwrap(),
            rights: vec![right("modbus/*", "read")],
            ttl_s: 600,
            uses: None,
            planner: false,
            reason: None,
            holder: None,
            lease: None,
            identity: None,
            key: None,
        };
        match rig.ask(1001, Socket::Agent, Request::Begin(begin)) {
            Reply::Problem(_) => {}
            Reply::Task(task) => {
                rig.pass(2);
                assert_ne!(rig.authorize(&task.token, "read", "modbus/a").reason, Reason::Allowed, "{number}");
            }
            other => panic!("{other:?}"),
        }
    }
    // The largest numbers that a token can hold.
    let mut rig = Rig::with(|spec| {
        spec.expires = Timestamp(Timestamp::MAX.0 - 1000);
        spec.offline_max = Millis(i64::MAX as u64);
        spec.uses_max = i64::MAX as u64;
        spec.boots_max = u32::MAX;
        spec.task_ttl_max = Millis(i64::MAX as u64);
    });
    let task = rig.begin(vec![right("modbus/*", "read")], Some(i64::MAX as u64));
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    rig.pass(700);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Expired);
}

#[test]
fn an_acknowledgement_counts_once_in_time_and_in_its_boot() {
    let mut rig = Rig::new();
    rig.truth = Timestamp::from_secs(START_S + 500);
    rig.connect_only();
    let (nonce, topic) = (rig.hello_nonce(), Topic::DownAck(rig.device.clone()).text(&rig.fleet));
    let floor = |rig: &mut Rig| match rig.ask(0, Socket::Admin, Request::Status) {
        Reply::Status(status) => (status.floor, status.ceiling),
        other => panic!("{other:?}"),
    };
    let wrong = rig.ack_signed_by(&rig.root.clone(), Some(nonce), rig.truth);
    rig.message(topic.clone(), wrong);
    assert_eq!(floor(&mut rig).1, None, "the wrong key");
    rig.pass(130);
    let late = rig.ack(Some(nonce), rig.truth, vec![]);
    rig.message(topic.clone(), late.clone());
    assert_eq!(floor(&mut rig).1, None, "120 s are over");
    rig.restart(Reboot::Kernel);
    rig.connect_only();
    rig.message(topic.clone(), late);
    assert_eq!(floor(&mut rig).1, None, "another boot's nonce");
    let nonce = rig.hello_nonce();
    let good = rig.ack(Some(nonce), rig.truth, vec![]);
    rig.message(topic.clone(), good.clone());
    assert!(floor(&mut rig).1.is_some());
    rig.pass(100);
    let again = |rig: &Rig| {
        let nonces = |event: &Event| matches!(event, Event::Refused(refused) if refused.reason.contains("nonce"));
        rig.disk.records().iter().filter(|record| nonces(&record.event)).count()
    };
    let before = again(&rig);
    rig.message(topic, good);
    assert_eq!(again(&rig), before + 1, "answered twice, counted once");
}

#[test]
fn what_keeps_the_time_is_small() {
    assert!(std::mem::size_of::<super::clock::TrustedClock>() < 1024);
    let full = super::Anchor { floor: Timestamp::MAX, powered: Timestamp::MAX, ..super::Anchor::default() };
    assert!(crate::wire::encode(&full).len() < 1024);
}

#[test]
fn a_reset_of_the_clock_refunds_nothing_and_vouches_for_no_list() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], Some(50));
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Allowed);
    let wrong = Timestamp::from_secs(START_S + 6 * 86_400);
    for (topic, payload) in rig.publish(vec![], wrong) {
        rig.message(topic, payload);
    }
    let file = rig.time_file(wrong, Some(wrong));
    rig.ask(0, Socket::Admin, Request::ImportTime(file));
    let Reply::Challenge(challenge) = rig.ask(0, Socket::Admin, Request::Challenge) else { panic!("no nonce") };
    let truth = Timestamp::from_secs(START_S + 100);
    let reset = rig.reset_file(challenge.nonce.parse().unwrap(), truth, &rig.root.clone());
    rig.ask(0, Socket::Admin, Request::ImportTime(reset));
    for reboot in [Reboot::Process, Reboot::Kernel] {
        let decision = rig.authorize(&task.token, "read", "modbus/a");
        assert_eq!(decision.decision, Verdict::Deny, "{decision:?}");
        let Reply::Status(status) = rig.ask(0, Socket::Admin, Request::Status) else { panic!("no status") };
        assert_eq!(status.grants[0].uses_left, Some(0), "nobody knows what was used");
        assert!(status.offline_for_s < 400_000_000, "{}", status.offline_for_s);
        rig.restart(reboot);
    }
}

#[test]
fn what_a_reset_was_on_its_way_for_is_lost_until_the_next_round_trip_only() {
    let mut rig = Rig::new();
    let wrong = Timestamp::from_secs(START_S + 20 * 86_400);
    let file = rig.time_file(wrong, Some(wrong));
    rig.ask(0, Socket::Admin, Request::ImportTime(file));
    let Reply::Challenge(challenge) = rig.ask(0, Socket::Admin, Request::Challenge) else { panic!("no nonce") };
    rig.pass(3600);
    let (root, truth) = (rig.root.clone(), rig.truth);
    let reset = rig.reset_file(challenge.nonce.parse().unwrap(), truth, &root);
    let reply = rig.ask(0, Socket::Admin, Request::ImportTime(reset));
    assert!(matches!(reply, Reply::Time(_)), "{reply:?}");
    let lost = |rig: &Rig| rig.agent.wallet.lost_until();
    assert!(lost(&rig) > truth + Millis::from_secs(3600), "it may have been signed an hour ago: {}", lost(&rig));
    rig.pass(300);
    rig.sync();
    assert!(lost(&rig) >= truth && lost(&rig) < truth + Millis::from_secs(10), "{} {truth}", lost(&rig));
}

#[test]
fn a_task_that_was_finished_while_its_renewal_was_out_stays_finished() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    rig.sync();
    let evidence = super::request::Evidence::of(Socket::Agent, 1001, 1001);
    let request = Request::Renew(task.task_id.clone());
    rig.input(crate::agent::Input::Request { id: super::request::RequestId(7), evidence, request });
    rig.ask(0, Socket::Admin, Request::Finish(task.task_id.clone()));
    rig.pass(5);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
    rig.restart(Reboot::Process);
    check(&mut rig, &task.token, "read", "modbus/a", Reason::Revoked);
}
