//! Denials that are the same, above a rate; signs of life; the end in order.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::wire::audit::{Alive, Record, Repeated};

/// A rig whose program has a task that allows to read.
fn rig() -> (Rig, String) {
    let mut rig = Rig::new();
    let token = rig.begin(vec![right("modbus/*", "read")], None).token;
    (rig, token)
}

fn deny(rig: &mut Rig, token: &str, resource: &str) -> String {
    let reply = rig.authorize(token, "write", resource);
    assert_eq!((reply.decision, reply.reason), (Verdict::Deny, Reason::NoRight), "{}", reply.explain);
    assert_eq!(reply.decision_id, format!("gw-07/{}/{}", reply.audit.era, reply.audit.index));
    reply.decision_id
}

/// Every count on disk: of which record, how many.
fn counts(rig: &Rig) -> Vec<(u64, u64)> {
    let count = |record: Record| match record.event {
        Event::Repeated(Repeated { of, count, since, until }) => {
            assert!(since <= until && until <= record.floor);
            Some((of, count))
        }
        _ => None,
    };
    rig.disk.records().into_iter().filter_map(count).collect()
}

fn index(id: &str) -> u64 {
    id.rsplit_once('/').unwrap().1.parse().unwrap()
}

#[test]
fn denials_that_are_the_same_are_counted_above_the_rate_and_allows_never() {
    let (mut rig, token) = rig();
    let ids: Vec<String> = (0..10).map(|_| deny(&mut rig, &token, "modbus/a")).collect();
    assert_eq!(rig.profile.queue.alike_max, 3);
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
    assert!(ids[3..].iter().all(|id| *id == ids[2]), "{ids:?}");
    assert_ne!(deny(&mut rig, &token, "modbus/b"), ids[2], "another question");
    let other = rig.authorize_as(1002, &token, "write", "modbus/a");
    assert_ne!(other.decision_id, ids[2], "another program");
    let allowed: BTreeSet<String> = (0..10).map(|_| rig.authorize(&token, "read", "modbus/a").decision_id).collect();
    assert_eq!(allowed.len(), 10, "each allow has a record of its own");
    assert_eq!(counts(&rig), [], "the window is not over");
    rig.pass(11);
    assert_eq!(counts(&rig), [(index(&ids[2]), 7)]);
    rig.pass(60);
    assert_eq!(counts(&rig).len(), 1, "what nobody asked again is not told again");
    assert!(index(&deny(&mut rig, &token, "modbus/a")) > index(&ids[2]), "another window");
}

#[test]
fn what_varies_is_recorded_and_what_it_pushes_out_is_counted_first() {
    let (mut rig, token) = rig();
    let first: Vec<String> = (0..5).map(|_| deny(&mut rig, &token, "modbus/a")).collect();
    rig.now.boottime.0 += 1;
    let varied: BTreeSet<String> = (0..100).map(|n| deny(&mut rig, &token, &format!("modbus/v/{n}"))).collect();
    assert_eq!(varied.len(), 100);
    assert_eq!(counts(&rig), [(index(&first[2]), 2)]);
}

#[test]
fn counts_are_written_into_the_era_of_what_they_count() {
    let mut rig = Rig::with(|spec| spec.uses_max = 10_000);
    rig.profile.queue.era_records_max = 64;
    rig.restart(Reboot::Process);
    let token = rig.begin(vec![right("modbus/*", "read")], None).token;
    let mut heard = BTreeMap::<String, u64>::new();
    for n in 0..400 {
        *heard.entry(deny(&mut rig, &token, "modbus/a")).or_default() += 1;
        if n % 2 == 0 {
            rig.authorize(&token, "read", "modbus/b");
        }
        if n % 50 == 0 {
            rig.pass(2);
        }
    }
    rig.input(Input::Leaving);
    let mut counted = BTreeMap::<String, u64>::new();
    for (era, (records, _)) in &rig.disk.eras {
        for record in records.iter().map(|record| Record::from_bytes(&record.bytes).unwrap()) {
            let of = match record.event {
                Event::Decision(decision) if !decision.allow => (record.index, 1),
                Event::Repeated(repeated) => {
                    assert!(repeated.of < record.index);
                    (repeated.of, repeated.count)
                }
                _ => continue,
            };
            *counted.entry(format!("gw-07/{}/{}", era.number, of.0)).or_default() += of.1;
        }
    }
    assert_eq!(counted, heard);
    assert!(rig.disk.eras.len() > 3, "{} eras", rig.disk.eras.len());
}

#[test]
fn an_end_in_order_counts_closes_and_says_so() {
    let (mut rig, token) = rig();
    let ids: Vec<String> = (0..8).map(|_| deny(&mut rig, &token, "modbus/a")).collect();
    rig.input(Input::Leaving);
    assert_eq!(counts(&rig), [(index(&ids[2]), 5)]);
    let records = rig.disk.records();
    let last = records.last().unwrap();
    assert_eq!(last.event, Event::Alive(Alive { next: None }));
    let (_, segments) = rig.disk.eras.values().last().unwrap();
    let closed = segments.last().unwrap();
    assert_eq!(closed.first_index + u64::from(closed.count), last.index + 1, "nothing is left unsigned");
}

#[test]
fn silence_is_broken_every_so_often_and_no_more_often() {
    let mut rig = Rig::new();
    rig.pass(40 * 3600);
    let heartbeat = Millis::from_secs(6 * 3600);
    let records = rig.disk.records();
    // P is ahead by what the oscillator may lose.
    let drift = 60_000;
    let mut said = 0;
    for pair in records.windows(2) {
        let silent = pair[1].powered.since(pair[0].powered);
        assert!(silent.0 <= heartbeat.0 + drift, "{silent:?} without a record: {pair:?}");
        if let Event::Alive(alive) = pair[1].event {
            assert_eq!(alive, Alive { next: Some(heartbeat) });
            assert!(silent.0 + drift >= heartbeat.0, "{silent:?}, and something was said: {pair:?}");
            said += 1;
        }
    }
    assert!(said >= 3, "{said} in {} records", records.len());
    let (_, segments) = rig.disk.eras.values().last().unwrap();
    let closed = segments.last().unwrap();
    assert_eq!(closed.first_index + u64::from(closed.count), records.len() as u64, "it is closed, and can go");
}
