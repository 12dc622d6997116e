//! Starts on what is left: every decision is collected once or counted in a gap, and nothing locks for ever.

use std::collections::{BTreeMap, BTreeSet};

use super::super::effects::{Effects, LinkCommand, Standing, StateFile};
use super::super::policy;
use super::super::request::{Evidence, Mode, Reason, Request, RequestId, Socket, Verdict};
use super::super::rig::{right, Reboot, Rig, Rule, START_S};
use super::super::{Anchor, Input, LinkEvent};
use crate::agent::evidence::Source;
use crate::ids::{EraId, Hash};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::{Event, Gap, GapCause, Record};
use crate::wire::envelope::Signed;
use crate::wire::link::{EraAck, Hello, Topic};
use crate::wire::policy::PolicyDocument;
use crate::wire::revocation::ladder::Step;
use crate::wire::revocation::Target;

pub(super) type Ids = BTreeSet<(u64, u64)>;

pub(super) fn rig() -> Rig {
    Rig::with(|spec| spec.uses_max = 1_000_000)
}

/// So many decisions that callers hear.
pub(super) fn decide(rig: &mut Rig, count: usize, heard: &mut Ids) {
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    for _ in 0..count {
        let decision = rig.authorize(&task.token, "read", "modbus/a");
        assert!(heard.insert((decision.audit.era, decision.audit.index)), "an id is used twice");
    }
}

/// Online until nothing is left to deliver.
pub(super) fn deliver(rig: &mut Rig, secs: u64) {
    let at = Timestamp::from_secs(START_S + secs);
    rig.connect(at);
    for _ in 0..20 {
        rig.pass(2);
        rig.serve(at);
    }
}

fn disconnect(rig: &mut Rig) {
    rig.input(Input::Link(LinkEvent::Disconnected { reason: "cut".into() }));
}

fn gaps(rig: &Rig) -> Vec<Gap> {
    let gap = |event: &Event| match event {
        Event::Gap(gap) => Some(gap.clone()),
        _ => None,
    };
    rig.collected.iter().filter_map(|(_, record)| gap(&record.event)).collect()
}

/// Each decision is collected once or counted in a collected gap. Returns those of which only the gap is left.
#[track_caller]
pub(super) fn check_accounted(rig: &Rig, heard: &Ids) -> Ids {
    let mut collected = BTreeMap::<(u64, u64), u32>::new();
    for (era, record) in &rig.collected {
        *collected.entry((era.number, record.index)).or_default() += 1;
    }
    assert!(collected.values().all(|times| *times == 1), "something is collected twice");
    let lost: Ids = heard.iter().filter(|id| !collected.contains_key(id)).copied().collect();
    let gaps = gaps(rig);
    for (era, index) in &lost {
        let covers =
            |gap: &Gap| gap.era.number == *era && gap.first <= *index && gap.end.is_none_or(|end| *index < end);
        assert!(gaps.iter().any(covers), "{era}/{index} is gone: {gaps:?}");
    }
    assert_eq!(rig.disk.eras.len(), 1, "every era before the open one is released");
    lost
}

#[test]
fn a_hole_in_a_closed_segment_is_counted_exactly_and_the_rest_arrives_once() {
    let (mut rig, mut heard) = (rig(), Ids::new());
    decide(&mut rig, 200, &mut heard);
    rig.restart(Reboot::Process);
    rig.disk.lose_records(1, |index| index == 5 || (70..73).contains(&index));
    rig.restart(Reboot::Process);
    deliver(&mut rig, 200);
    let lost = check_accounted(&rig, &heard);
    assert_eq!(lost, Ids::from([(1, 5), (1, 70), (1, 71), (1, 72)]));
    let mut exact: Vec<_> = gaps(&rig).into_iter().map(|gap| (gap.first, gap.end)).collect();
    exact.sort_unstable();
    assert_eq!(exact, [(5, Some(6)), (70, Some(73))]);
}

#[test]
fn a_hole_in_the_unsigned_end_costs_no_more_than_itself() {
    let (mut rig, mut heard) = (rig(), Ids::new());
    decide(&mut rig, 100, &mut heard);
    rig.disk.lose_records(1, |index| index == 80);
    rig.restart(Reboot::Process);
    deliver(&mut rig, 200);
    assert_eq!(check_accounted(&rig, &heard), Ids::from([(1, 80)]));
}

#[test]
fn records_that_no_signature_covers_yet_are_those_that_the_anchor_has_seen() {
    for (what, changed) in [("as they were", false), ("one of them another", true)] {
        let (mut rig, mut heard) = (rig(), Ids::new());
        decide(&mut rig, 20, &mut heard);
        rig.agent.anchor_due = true;
        decide(&mut rig, 1, &mut heard);
        let anchor = rig.disk.anchor.clone().unwrap();
        let (records, segments) = rig.disk.eras.values_mut().next_back().unwrap();
        assert!(anchor.next_index > 15 && segments.is_empty(), "{what}: the anchor has seen what nobody signed");
        if changed {
            let mut record = Record::from_bytes(&records[15].bytes).unwrap();
            record.floor = record.floor + Millis(1);
            records[15].bytes = record.to_bytes();
        }
        rig.restart(Reboot::Process);
        deliver(&mut rig, 200);
        assert_eq!(check_accounted(&rig, &heard), Ids::new(), "{what}: each is there, and none is hidden");
        assert_eq!(gaps(&rig).iter().any(|gap| gap.era.number == 1), changed, "{what}: {:?}", gaps(&rig));
    }
}

#[test]
fn segments_whose_rows_are_gone_are_cut_again() {
    for lost in [vec![0], vec![1, 2], vec![3], vec![0, 1, 2, 3]] {
        let (mut rig, mut heard) = (rig(), Ids::new());
        decide(&mut rig, 280, &mut heard);
        rig.restart(Reboot::Process);
        rig.disk.lose_segments(1, |segment| lost.contains(&segment));
        rig.restart(Reboot::Process);
        deliver(&mut rig, 200);
        assert_eq!(check_accounted(&rig, &heard), Ids::new(), "{lost:?}: all records are there");
    }
}

#[test]
fn what_rots_while_the_agent_runs_is_counted_when_it_is_to_be_sent() {
    let (mut rig, mut heard) = (rig(), Ids::new());
    decide(&mut rig, 200, &mut heard);
    rig.disk.lose_records(1, |index| (20..30).contains(&index));
    rig.disk.lose_records(1, |index| (64..128).contains(&index));
    rig.disk.lose_segments(1, |segment| segment == 1);
    deliver(&mut rig, 200);
    disconnect(&mut rig);
    rig.restart(Reboot::Process);
    deliver(&mut rig, 300);
    let lost = check_accounted(&rig, &heard);
    assert_eq!(lost.len(), 74);
}

#[test]
fn whatever_rots_of_what_is_partly_delivered_everything_is_accounted_for() {
    for seed in 0..40_u64 {
        let (mut rig, mut heard) = (rig(), Ids::new());
        let rots = |number: u64, of: u64| {
            let digest = Hash::of("rot", &[&seed.to_le_bytes(), &number.to_le_bytes()]);
            u64::from(digest.0[0]) < 256 / of
        };
        decide(&mut rig, 100, &mut heard);
        deliver(&mut rig, 200);
        disconnect(&mut rig);
        decide(&mut rig, 150 + seed as usize, &mut heard);
        if seed % 3 == 0 {
            rig.restart(Reboot::Process);
        }
        rig.disk.lose_records(1, |index| rots(index, 2 + seed % 50));
        rig.disk.lose_segments(1, |segment| rots(1000 + segment, 2 + seed % 3));
        rig.restart(Reboot::Process);
        decide(&mut rig, 70, &mut heard);
        if seed % 2 == 0 {
            rig.restart(Reboot::Process);
        }
        deliver(&mut rig, 400);
        disconnect(&mut rig);
        rig.restart(Reboot::Kernel);
        deliver(&mut rig, 500);
        assert_ne!(rig.agent.mode(), Mode::Locked, "seed {seed}");
        check_accounted(&rig, &heard);
    }
}

#[test]
fn earlier_eras_that_are_gone_are_counted_to_their_last_record() {
    let (mut rig, mut heard) = (rig(), Ids::new());
    for _ in 0..4 {
        decide(&mut rig, 30, &mut heard);
        rig.restart(Reboot::Process);
    }
    rig.disk.eras.retain(|era, _| era.number >= 4);
    rig.restart(Reboot::Process);
    deliver(&mut rig, 200);
    let lost = check_accounted(&rig, &heard);
    assert_eq!(lost.iter().map(|(era, _)| *era).collect::<BTreeSet<_>>(), BTreeSet::from([1, 2, 3]));
    assert!(gaps(&rig).iter().all(|gap| gap.end.is_some_and(|end| (32..40).contains(&end))), "{:?}", gaps(&rig));
    rig.restart(Reboot::Process);
    deliver(&mut rig, 300);
    assert_eq!(gaps(&rig).len(), 3, "told once");
}

#[test]
fn an_era_that_was_released_is_never_counted_as_lost() {
    let (mut rig, mut heard) = (rig(), Ids::new());
    for round in 0..4 {
        decide(&mut rig, 30, &mut heard);
        rig.restart(Reboot::Process);
        deliver(&mut rig, 200 + round * 100);
        disconnect(&mut rig);
    }
    assert_eq!(check_accounted(&rig, &heard), Ids::new());
    assert_eq!(gaps(&rig), []);
}

/// Its records were committed, the anchor that knows of an era was not: that was told to nobody, and is no loss.
#[test]
fn a_first_start_that_power_cut_short_lost_nothing() {
    let mut rig = rig();
    let anchor = rig.disk.anchor.take().unwrap();
    rig.disk.anchor = Some(Anchor { generation: 1, era: None, next_index: 0, earlier: Vec::new(), ..anchor });
    rig.restart(Reboot::Kernel);
    assert_ne!(rig.agent.mode(), Mode::Locked);
    deliver(&mut rig, 200);
    assert_eq!((gaps(&rig), check_accounted(&rig, &Ids::new())), (Vec::new(), Ids::new()));
}

#[test]
fn a_lost_anchor_stays_lost_over_restarts_and_is_cured_by_a_round_trip() {
    let mut rig = rig();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    rig.disk.anchor = None;
    for _ in 0..3 {
        rig.restart(Reboot::Process);
        assert_eq!(rig.agent.mode(), Mode::Locked);
    }
    let lost = |event: &Event| matches!(event, Event::Gap(Gap { cause: GapCause::AnchorLost, .. }));
    assert_eq!(rig.disk.records().iter().filter(|record| lost(&record.event)).count(), 1, "told once");
    deliver(&mut rig, 300);
    assert_eq!(rig.agent.mode(), Mode::Online);
    rig.restart(Reboot::Process);
    assert_ne!(rig.agent.mode(), Mode::Locked);
    assert_eq!(rig.authorize(&task.token, "read", "modbus/a").reason, Reason::Revoked, "tasks of before have ended");
    assert_eq!(rig.agent.status().grants[0].uses_left, Some(0), "and nothing is refunded to what they came from");
}

/// What such a start left unsigned may have been sent, signed as it was: signed once more, it would look like a fork.
#[test]
fn an_end_that_was_unsigned_with_a_lost_anchor_is_closed_by_no_later_start() {
    let mut rig = rig();
    let first = *rig.disk.eras.keys().next().unwrap();
    rig.authorize("none", "read", "modbus/a");
    let segments = rig.disk.eras[&first].1.len();
    rig.disk.anchor = None;
    rig.restart(Reboot::Process);
    let mark = |rig: &Rig| rig.disk.anchor.as_ref().unwrap().earlier[0];
    assert_eq!(mark(&rig).era, first);
    assert!(mark(&rig).signed_index < mark(&rig).next_index, "{:?}", mark(&rig));
    let before = mark(&rig);
    // A round trip, after which all is known again but what the collector has of this.
    rig.disk.anchor.as_mut().unwrap().standing = Standing::Known;
    for _ in 0..2 {
        rig.restart(Reboot::Process);
        assert_eq!((rig.disk.eras[&first].1.len(), mark(&rig)), (segments, before));
    }
    deliver(&mut rig, 300);
    assert!(!rig.disk.eras.contains_key(&first), "it is delivered all the same");
}

/// That it was given back need not be durable when power is cut. Its end was signed as it was sent, and only there.
#[test]
fn an_era_that_comes_back_with_an_end_that_was_salvaged_is_no_fork() {
    let (mut rig, mut heard) = (rig(), Ids::new());
    decide(&mut rig, 20, &mut heard);
    rig.agent.anchor_due = true;
    decide(&mut rig, 1, &mut heard);
    let first = *rig.disk.eras.keys().next().unwrap();
    let records = &mut rig.disk.eras.get_mut(&first).unwrap().0;
    let mut record = Record::from_bytes(&records[15].bytes).unwrap();
    record.floor = record.floor + Millis(1);
    records[15].bytes = record.to_bytes();
    rig.restart(Reboot::Process);
    let rows = rig.disk.eras[&first].clone();
    deliver(&mut rig, 300);
    assert!(!rig.disk.eras.contains_key(&first), "it is released");
    disconnect(&mut rig);
    rig.disk.eras.insert(first, rows);
    rig.restart(Reboot::Process);
    deliver(&mut rig, 300);
    assert_eq!(rig.agent.mode(), Mode::Online);
    assert!(!rig.disk.eras.contains_key(&first), "it is released once more");
    assert_eq!(check_accounted(&rig, &heard), Ids::new());
}

/// The nonce of the hello that is out.
fn hello(rig: &mut Rig) -> crate::ids::Nonce {
    rig.input(Input::Link(LinkEvent::Disconnected { reason: "cut".into() }));
    rig.sent.clear();
    while !rig.sent.iter().any(|command| matches!(command, LinkCommand::Connect { .. })) {
        rig.pass(1);
    }
    rig.input(Input::Link(LinkEvent::Connected));
    rig.pass(3);
    let hello = rig.sent.iter().find_map(|command| match command {
        LinkCommand::Publish(publish) if matches!(publish.topic, Topic::UpHello(_)) => Some(publish.payload.clone()),
        LinkCommand::Publish(_) | LinkCommand::Close | LinkCommand::Connect { .. } | LinkCommand::Read { .. } => None,
    });
    Signed::<Hello>::from_bytes(&hello.unwrap()).unwrap().claim().unwrap().nonce
}

#[test]
fn a_position_that_cannot_be_taken_within_a_commit_is_taken_with_the_next() {
    let mut rig = rig();
    rig.disk.anchor = None;
    rig.restart(Reboot::Process);
    let nonce = hello(&mut rig);
    let later = EraAck { era: EraId { number: 9, salt: 1 }, next_segment: 3, next_index: 70, head: Hash::ZERO };
    let ack = rig.ack(Some(nonce), Timestamp::from_secs(START_S + 300), vec![later]);
    let evidence = Evidence::of(Socket::Agent, 1001, 1001);
    let mut effects = Effects::default();
    let request = Request::Finish("t-none".parse().unwrap());
    rig.agent.handle(Input::Request { id: RequestId(1), evidence, request }, rig.now, &mut effects);
    let nothing = crate::wire::Refused::UnknownNonce;
    rig.agent.refuse(Source::File, "a test", &[], &nothing, rig.now, &mut effects);
    assert!(!effects.batch.entries.is_empty(), "the commit belongs to the old era");
    let topic = Topic::DownAck(rig.device.clone()).text(&rig.fleet);
    let message = Input::Link(LinkEvent::Message { topic, payload: ack });
    rig.agent.handle(message, rig.now, &mut effects);
    assert_eq!(rig.agent.mode(), Mode::Locked, "not before it is taken");
    let disk = &mut rig.disk;
    let write = |batch| {
        disk.apply(batch);
        Ok::<_, ()>(())
    };
    effects.commit(write).unwrap();
    rig.pass(2);
    assert_ne!(rig.agent.mode(), Mode::Locked);
    assert_eq!(rig.disk.anchor.as_ref().unwrap().era.unwrap().number, 10);
}

#[test]
fn a_policy_that_cannot_be_used_lowers_no_mark_and_locks_until_the_right_one_comes() {
    let start = Timestamp::from_secs(START_S);
    let mut rig = rig();
    rig.connect(Timestamp::from_secs(START_S + 130));
    let (topic, third) = rig.policy_message(3, start);
    rig.message(topic, third.clone());
    let marked = rig.disk.anchor.as_ref().unwrap().policy;
    assert_eq!(marked.0, 3);
    for content in [None, Some(vec![7; 30]), Some(policy::to_file(&rig.policy_message(2, start).1))] {
        match content {
            Some(content) => drop(rig.disk.files.insert(StateFile::Policy, content)),
            None => drop(rig.disk.files.remove(&StateFile::Policy)),
        }
        for _ in 0..2 {
            rig.restart(Reboot::Process);
            assert_eq!(rig.agent.mode(), Mode::Locked);
            assert_eq!(rig.disk.anchor.as_ref().unwrap().policy, marked, "the mark stands");
        }
        rig.connect(Timestamp::from_secs(START_S + 300));
        let (topic, older) = rig.policy_message(2, start);
        rig.message(topic, older);
        let (topic, other) = rig.policy_message(3, Timestamp::from_secs(START_S + 1));
        rig.message(topic.clone(), other);
        assert_eq!(rig.agent.mode(), Mode::Locked, "neither an older one nor another of that number");
        rig.message(topic, third.clone());
        assert_ne!(rig.agent.mode(), Mode::Locked);
        rig.restart(Reboot::Process);
        assert_ne!(rig.agent.mode(), Mode::Locked);
    }
}

#[test]
fn a_bundle_below_the_mark_locks_until_the_one_in_force_comes_again() {
    let mut rig = rig();
    rig.connect(Timestamp::from_secs(START_S + 130));
    let first = rig.disk.files[&StateFile::Bundle].clone();
    let (topic, second) = rig.bundle(|_| {});
    let (_, other) = rig.bundle(|trust| trust.not_after = trust.issued_at);
    rig.message(topic.clone(), second.clone());
    let marked = rig.disk.anchor.as_ref().unwrap().bundle;
    assert_eq!(marked.0, 2);
    rig.disk.files.insert(StateFile::Bundle, first);
    for _ in 0..2 {
        rig.restart(Reboot::Process);
        assert_eq!(rig.agent.mode(), Mode::Locked);
        assert_eq!(rig.disk.anchor.as_ref().unwrap().bundle, marked);
    }
    rig.connect(Timestamp::from_secs(START_S + 300));
    rig.message(topic.clone(), other);
    assert_eq!(rig.agent.mode(), Mode::Locked, "another of that number");
    rig.message(topic, second);
    assert_ne!(rig.agent.mode(), Mode::Locked);
}

#[test]
fn rotated_keys_lock_nobody_at_the_next_start() {
    let mut rig = rig();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    rig.connect(Timestamp::from_secs(START_S + 130));
    let other = ed25519_dalek::SigningKey::from_bytes(&[77; 32]).verifying_key();
    let (topic, bundle) = rig.bundle(|trust| {
        trust.policy = vec![other.into()];
        trust.feeds[0].keys = vec![other.into()];
    });
    rig.message(topic, bundle);
    assert_eq!(rig.disk.anchor.as_ref().unwrap().bundle.0, 2);
    rig.restart(Reboot::Kernel);
    assert_ne!(rig.agent.mode(), Mode::Locked);
    assert_eq!(rig.authorize(&task.token, "read", "modbus/a").decision, Verdict::Allow);
    let policy = policy::from_file(&rig.disk.files[&StateFile::Policy]).unwrap();
    let policy = Signed::<PolicyDocument>::from_bytes(&policy).unwrap();
    assert_eq!(rig.disk.anchor.as_ref().unwrap().policy.1, policy.digest());
}

#[test]
fn enrolling_again_after_a_lost_anchor_refunds_nothing() {
    let mut rig = rig();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    assert_eq!(rig.authorize(&task.token, "read", "modbus/a").decision, Verdict::Allow);
    rig.disk.anchor = None;
    rig.enrol_again(&Anchor::lost());
    for _ in 0..2 {
        rig.restart(Reboot::Process);
        assert_ne!(rig.agent.mode(), Mode::Locked, "whoever approved it knows that it is this device");
        assert_ne!(rig.authorize(&task.token, "read", "modbus/a").decision, Verdict::Allow);
    }
    let lost = |event: &Event| matches!(event, Event::Gap(Gap { cause: GapCause::AnchorLost, .. }));
    assert_eq!(rig.disk.records().iter().filter(|record| lost(&record.event)).count(), 1);
    deliver(&mut rig, 300);
    assert_eq!(rig.authorize(&task.token, "read", "modbus/a").reason, Reason::Revoked, "tasks of before have ended");
    assert_eq!(rig.agent.status().grants[0].uses_left, Some(0), "and nothing is refunded to what they came from");
    assert_eq!(rig.disk.anchor.as_ref().unwrap().standing, Standing::Known);
}

#[test]
fn enrolling_again_cures_a_contradiction_and_nothing_else_does() {
    let mut rig = rig();
    let before = rig.disk.clone();
    deliver(&mut rig, 130);
    rig.disk = before;
    rig.restart(Reboot::Process);
    rig.connect(Timestamp::from_secs(START_S + 300));
    assert_eq!(rig.agent.mode(), Mode::Locked);
    rig.restart(Reboot::Kernel);
    rig.connect(Timestamp::from_secs(START_S + 400));
    assert_eq!(rig.agent.mode(), Mode::Locked, "no round trip cures it");
    let known = rig.disk.anchor.clone().unwrap();
    rig.enrol_again(&known);
    rig.restart(Reboot::Process);
    assert_ne!(rig.agent.mode(), Mode::Locked);
    deliver(&mut rig, 500);
    assert_eq!(rig.agent.mode(), Mode::Online);
    rig.restart(Reboot::Process);
    deliver(&mut rig, 600);
    assert_eq!(rig.agent.mode(), Mode::Online);
}

fn owners(names: std::ops::Range<u32>, at: Timestamp) -> Vec<Rule> {
    let rule = |n| Rule { target: Target::Owner(format!("owner-{n}")), until: at + Millis::from_secs(6000) };
    names.map(rule).collect()
}

/// A head arrives, no step of the ladder that leads to it, and then the whole set.
fn fetch_whole(rig: &mut Rig, messages: Vec<(String, Vec<u8>)>) {
    let mut messages = messages.into_iter();
    let (topic, payload) = messages.next().expect("the head");
    rig.message(topic, payload);
    rig.pass(11);
    rig.input(Input::Deadline);
    for (topic, payload) in messages {
        rig.message(topic, payload);
    }
}

/// Additions beyond a gap count and stand in a file beside the whole one: if that is gone, or cannot be read, nobody knows what
/// is revoked. Once the set is here again it is whole for the next start too, whatever stood beside it.
#[test]
fn a_feeds_file_that_is_gone_or_rotten_locks_though_the_one_before_it_is_there() {
    for rots in [false, true] {
        let mut rig = rig();
        rig.connect(Timestamp(0));
        let now = rig.truth;
        for (topic, payload) in rig.publish(owners(0..200, now), now) {
            rig.message(topic, payload);
        }
        let _withheld = rig.publish(owners(0..201, now), now);
        let newest = rig.publish(owners(0..202, now), now);
        rig.message(newest[0].0.clone(), newest[0].1.clone());
        let beside = StateFile::FeedSince("main".parse().unwrap());
        let last = Target::Owner("owner-201".into());
        rig.restart(Reboot::Process);
        assert!(rig.agent.revocations.names(&last, now));
        let mut bytes = rig.disk.files.remove(&beside).unwrap();
        if rots {
            bytes[40] ^= 1;
            rig.disk.files.insert(beside, bytes);
        }
        for _ in 0..2 {
            rig.restart(Reboot::Process);
            assert_eq!(rig.agent.mode(), Mode::Locked);
        }
        rig.connect_only();
        fetch_whole(&mut rig, newest);
        for _ in 0..2 {
            assert_ne!(rig.agent.mode(), Mode::Locked, "rots: {rots}");
            rig.restart(Reboot::Process);
        }
        assert!(rig.agent.revocations.names(&last, now));
    }
}

/// An older head is no way back to a set that is lost, whatever place it comes from.
#[test]
fn a_lost_set_does_not_begin_anew_below_where_it_was() {
    let mut rig = rig();
    rig.connect(Timestamp(0));
    let now = rig.truth;
    let old = rig.publish(owners(0..1, now), now);
    let place = Step { level: 0, end: rig.seq }.place();
    let new = rig.publish(owners(0..2, now), now);
    for (topic, payload) in old.iter().chain(&new) {
        rig.message(topic.clone(), payload.clone());
    }
    let feed: crate::ids::FeedId = "main".parse().unwrap();
    rig.disk.files.remove(&StateFile::Feed(feed.clone()));
    rig.disk.files.remove(&StateFile::FeedSince(feed.clone()));
    rig.restart(Reboot::Process);
    rig.connect_only();
    let ladder = Topic::FeedDelta(feed, place).text(&"acme".parse().unwrap());
    rig.message(ladder, old[0].1.clone());
    for (topic, payload) in old {
        rig.message(topic, payload);
    }
    assert_eq!(rig.agent.mode(), Mode::Locked);
    fetch_whole(&mut rig, new);
    assert_ne!(rig.agent.mode(), Mode::Locked);
    rig.restart(Reboot::Process);
    assert!(rig.agent.revocations.names(&Target::Owner("owner-1".into()), now));
}

#[test]
fn where_the_policy_asks_no_broker_reads_what_was_decided() {
    for sealed in [false, true] {
        let (mut rig, mut heard) = (rig(), Ids::new());
        rig.policy(|policy| policy.seal_audit = sealed);
        decide(&mut rig, 70, &mut heard);
        deliver(&mut rig, 200);
        let readable = |payload: &Vec<u8>| payload.windows(8).any(|window| window == b"modbus/a");
        assert_eq!(rig.uploads.iter().any(readable), !sealed);
        assert_eq!(check_accounted(&rig, &heard), Ids::new());
    }
}

#[test]
fn a_collector_that_has_lost_what_it_acknowledged_gets_it_again() {
    let (mut rig, mut heard) = (rig(), Ids::new());
    decide(&mut rig, 70, &mut heard);
    deliver(&mut rig, 200);
    let (acked, signers, count) = (rig.acked.clone(), rig.signers.clone(), rig.collected.len());
    decide(&mut rig, 70, &mut heard);
    rig.pass(2);
    rig.serve(Timestamp::from_secs(START_S + 210));
    assert!(rig.collected.len() > count, "more was acknowledged");
    // Its ledger is restored from a copy.
    (rig.acked, rig.signers) = (acked.clone(), signers);
    rig.collected.truncate(count);
    let old: Vec<EraAck> = acked.into_values().collect();
    let replayed = rig.ack(None, Timestamp(0), old);
    rig.message(Topic::DownAck(rig.device.clone()).text(&rig.fleet), replayed);
    rig.pass(70);
    rig.serve(Timestamp::from_secs(START_S + 280));
    deliver(&mut rig, 300);
    assert_eq!(check_accounted(&rig, &heard), Ids::new(), "without a new connection, and without a start");
}
