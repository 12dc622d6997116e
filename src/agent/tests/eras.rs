//! Eras follow one another by name, and what is most important in them goes first.

use std::collections::BTreeMap;

use super::super::audit::{Acknowledged, Closing, Trail};
use super::super::audit_key::{AuditSigner, Owner};
use super::super::effects::{Batch, Entry, ERAS_MARKED_MAX};
use super::*;
use crate::agent::room::Class;
use crate::ids::{EraId, Hash};
use crate::wire::audit::segment::Loaded;
use crate::wire::audit::{Credential, Decision, EraEnd, Event, Known, ModeChange, Record};
use crate::wire::enrol::DeviceKeys;
use crate::wire::envelope::Signed;
use crate::wire::link::EraAck;
use rand_core::SeedableRng;

/// The first record of each era on disk, by the era's number.
fn firsts(rig: &Rig) -> BTreeMap<u64, Event> {
    let first = |(era, (records, _)): (&EraId, &(Vec<crate::agent::effects::StoredRecord>, _))| {
        Some((era.number, Record::from_bytes(&records.first()?.bytes).unwrap().event))
    };
    rig.disk.eras.iter().filter_map(first).collect()
}

/// Where each era on disk ends, by its closed segments.
fn ends(rig: &Rig) -> Vec<EraEnd> {
    let end = |(era, (_, segments)): (&EraId, &(_, Vec<crate::agent::effects::StoredSegment>))| {
        let last = segments.last()?;
        Some(EraEnd { era: *era, next_index: last.first_index + u64::from(last.count), head: last.head })
    };
    rig.disk.eras.iter().filter_map(end).collect()
}

/// A rig whose eras end at 64 records.
fn short_eras() -> (Rig, String) {
    let mut rig = Rig::with(|spec| spec.uses_max = 10_000);
    rig.profile.queue.era_records_max = 64;
    rig.restart(Reboot::Process);
    let token = rig.begin(vec![right("modbus/*", "read")], None).token;
    (rig, token)
}

#[test]
fn an_era_that_begins_because_the_last_has_grown_long_names_where_that_one_ended() {
    let (mut rig, token) = short_eras();
    for _ in 0..400 {
        rig.authorize(&token, "read", "modbus/a");
    }
    let (firsts, ends) = (firsts(&rig), ends(&rig));
    assert!(firsts.len() > 6, "{} eras", firsts.len());
    let rolled: Vec<&Event> = firsts.values().skip(2).collect();
    let named: Vec<Event> = ends[1..=rolled.len()].iter().map(|end| Event::Ended(*end)).collect();
    assert_eq!(rolled, named.iter().collect::<Vec<_>>());
}

#[test]
fn a_tight_loop_of_equal_denials_neither_holds_an_era_open_nor_fills_it() {
    let (mut rig, token) = short_eras();
    for n in 0..60 {
        rig.authorize(&token, "read", &format!("modbus/{n}"));
    }
    let before = rig.disk.records().len();
    // No time goes by, and each has a commit of its own.
    for _ in 0..2000 {
        let reply = rig.authorize(&token, "write", "modbus/a");
        assert_eq!(reply.reason, Reason::NoRight);
    }
    assert_eq!(rig.disk.eras.len(), 3, "the one that had grown long is over, and the next one is not long");
    let written = rig.disk.records().len() - before;
    assert!(written < 20, "{written} records for denials that are the same");
}

#[test]
fn a_start_after_starts_that_power_cut_short_names_the_last_era_that_held_something() {
    let mut rig = Rig::new();
    let first = *rig.disk.eras.keys().next().unwrap();
    // Begun, and cut off before their first records.
    for number in [2, 3] {
        rig.disk.eras.insert(EraId { number, salt: number }, Default::default());
    }
    rig.restart(Reboot::Process);
    let (era, (records, _)) = rig.disk.eras.last_key_value().unwrap();
    assert_eq!(era.number, 4);
    let events = records.iter().map(|record| Record::from_bytes(&record.bytes).unwrap().event);
    let named: Vec<(u64, u64)> = events
        .filter_map(|event| match event {
            Event::Start(start) => start.previous,
            Event::Ended(end) => Some(end),
            _ => None,
        })
        .map(|end| (end.era.number, end.next_index))
        .collect();
    let held = rig.disk.eras[&first].0.len() as u64;
    assert_eq!(named, [(3, 0), (2, 0), (1, held)]);
}

fn era(number: u64) -> EraId {
    EraId { number, salt: 7 }
}

struct Writer {
    trail: Trail,
    batch: Batch,
}

impl Writer {
    fn new() -> Self {
        let mut rng = rand_chacha::ChaCha20Rng::from_seed([3; 32]);
        let keys = DeviceKeys::generate(&mut rng);
        let (fleet, device) = ("acme".parse().unwrap(), "gw".parse().unwrap());
        let owner = Owner { fleet: &fleet, device: &device, identity: &keys.identity };
        let signer = AuditSigner::generate(0, owner, Timestamp(1), &mut rng);
        Self { trail: Trail::begin(fleet.clone(), device.clone(), signer, era(1)), batch: Batch::default() }
    }

    /// A segment of one record.
    fn close(&mut self, event: &Event) {
        let (closing, times) = (Closing { floor: Timestamp(1), feeds: &[] }, (Timestamp(1), Timestamp(1)));
        self.trail.record(event.clone(), Vec::new(), times, Millis(0), &closing, &mut self.batch);
        self.trail.close(&closing, &mut self.batch);
    }

    fn roll(&mut self, number: u64) {
        self.trail.roll(era(number), &mut self.batch);
    }

    /// What goes out one by one while each is acknowledged.
    fn drain(&mut self) -> Vec<(u64, u64)> {
        let mut sent = Vec::new();
        while let [(of, segment)] = self.trail.take(1, Millis(0))[..] {
            sent.push((of.number, segment));
            let head = self.batch.entries.iter().find_map(|entry| match entry {
                Entry::Segment(stored) if (stored.era, stored.segment) == (of, segment) => Some(stored.head),
                Entry::Segment(_) | Entry::Record(_) => None,
            });
            let ack = EraAck { era: of, next_segment: segment + 1, next_index: segment + 1, head: head.unwrap() };
            let released = self.trail.acknowledge(&ack, &mut Batch::default());
            assert_eq!(released, Ok(Acknowledged::Released(segment)));
        }
        sent
    }
}

fn decision(allow: bool) -> Event {
    Event::Decision(Box::new(Decision {
        allow,
        reason: "r".into(),
        operation: "read".into(),
        resource: "a".into(),
        destination: None,
        risk: None,
        arguments: None,
        credential: Credential::Nothing,
        workload: Vec::new(),
        enforcer: Vec::new(),
        known: Known::default(),
    }))
}

fn urgent() -> Event {
    Event::Mode(ModeChange { from: "online".into(), to: "offline".into(), reason: "r".into() })
}

#[test]
fn the_era_goes_first_in_which_what_is_most_important_comes_soonest() {
    let mut writer = Writer::new();
    let events = |writer: &mut Writer, pattern: &str| {
        pattern.chars().for_each(|sign| writer.close(&if sign == '!' { urgent() } else { decision(true) }));
    };
    events(&mut writer, "....");
    writer.roll(2);
    events(&mut writer, "..!.");
    writer.roll(3);
    events(&mut writer, ".!..");
    writer.roll(4);
    // Every fourth is of the open era, and what is urgent there goes at once.
    events(&mut writer, "!....");
    let sent = writer.drain();
    let expected = [
        (4, 0),
        (3, 0),
        (3, 1),
        (4, 1),
        (2, 0),
        (2, 1),
        (2, 2),
        (4, 2),
        (1, 0),
        (1, 1),
        (1, 2),
        (4, 3),
        (1, 3),
        (2, 3),
        (3, 2),
        (4, 4),
        (3, 3),
    ];
    assert_eq!(sent, expected);
}

#[test]
fn what_is_most_important_begins_an_era_of_its_own_behind_a_backlog() {
    let mut rig = Rig::with(|spec| spec.uses_max = 100_000);
    let token = rig.begin(vec![right("modbus/*", "read")], None).token;
    assert_eq!(rig.agent.trail.eras(), 1);
    while !rig.agent.trail.keeps_waiting() {
        rig.authorize(&token, "read", "modbus/a");
    }
    assert_eq!(rig.agent.trail.eras(), 1, "allows wait their turn");
    while rig.agent.mode() == Mode::Offline {
        rig.pass(60);
    }
    let critical = |row: &crate::agent::effects::StoredRecord| {
        let event = Record::from_bytes(&row.bytes).unwrap().event;
        (Class::of(&event) == Class::Critical).then_some(event)
    };
    let (_, (records, _)) = rig.disk.eras.last_key_value().unwrap();
    let events: Vec<Event> = records.iter().filter_map(critical).collect();
    assert!(matches!(events[..], [Event::Ended(_), _, ..]) && records.len() < 64, "{events:?}");
    assert!(events.iter().any(|event| matches!(event, Event::Mode(_))), "{events:?}");
    assert_eq!(rig.agent.trail.eras(), 2, "no more than one for each backlog");
}

#[test]
fn beyond_what_an_anchor_marks_eras_without_an_allow_are_left_out_first() {
    let mut writer = Writer::new();
    let marked = |writer: &Writer| writer.trail.marks().iter().map(|mark| mark.era.number).collect::<Vec<_>>();
    let eras = ERAS_MARKED_MAX as u64 + 3;
    for number in 1..=eras {
        // The second and the last two before the open one hold denials alone.
        let poor = [2, eras - 2, eras - 1].contains(&number);
        writer.close(&decision(!poor));
        writer.roll(number + 1);
    }
    assert_eq!(marked(&writer).len(), ERAS_MARKED_MAX);
    let left_out: Vec<u64> = (1..=eras).filter(|number| !marked(&writer).contains(number)).collect();
    assert_eq!(left_out, [2, eras - 2, eras - 1]);
    writer.close(&decision(true));
    writer.roll(eras + 2);
    let left_out: Vec<u64> = (1..=eras + 1).filter(|number| !marked(&writer).contains(number)).collect();
    assert_eq!(left_out, [1, 2, eras - 2, eras - 1], "then the oldest");
}

impl Writer {
    /// So many segments.
    fn close_many(&mut self, count: u64) {
        (0..count).for_each(|_| self.close(&decision(true)));
    }

    /// What the collector says of era 1, which stands on this chain.
    fn at(&self, segment: u64) -> EraAck {
        let head = self.loaded(segment).header().claim().unwrap().previous;
        EraAck { era: era(1), next_segment: segment, next_index: segment, head }
    }

    fn loaded(&self, segment: u64) -> Loaded {
        let header = self.batch.entries.iter().find_map(|entry| match entry {
            Entry::Segment(stored) if (stored.era, stored.segment) == (era(1), segment) => Some(&stored.header),
            Entry::Segment(_) | Entry::Record(_) => None,
        });
        Loaded::Shed(Signed::from_bytes(header.unwrap()).unwrap())
    }

    /// What is to be sent next, so many at most.
    fn next(&mut self, window: usize) -> Vec<u64> {
        self.trail.ground();
        self.trail.take(window, Millis(0)).into_iter().map(|(_, segment)| segment).collect()
    }
}

/// The same place on the branch of another.
fn elsewhere(ack: EraAck) -> EraAck {
    EraAck { head: Hash([9; 32]), ..ack }
}

#[test]
fn what_a_clone_delivered_releases_nothing() {
    let mut writer = Writer::new();
    writer.close_many(13);
    let end = writer.trail.end();
    writer.roll(2);
    let mut batch = Batch::default();
    let last = EraAck { era: era(1), next_segment: 13, next_index: 13, head: end.head };
    let refused = writer.trail.acknowledge(&elsewhere(last), &mut batch);
    assert_eq!(refused, Err(elsewhere(last)), "as far as this one goes, but another");
    // Further back nobody knows before the next segment has been loaded, and none but that is.
    let foreign = elsewhere(writer.at(11));
    assert_eq!(writer.trail.acknowledge(&foreign, &mut batch), Ok(Acknowledged::Released(10)));
    assert_eq!(writer.next(4), [11]);
    assert_eq!(writer.trail.goes_on(&writer.loaded(11)), Err(foreign));
    assert_eq!(writer.next(4), [0, 1, 2, 3], "all of it is to be sent");
    for segment in 0..4 {
        assert_eq!(writer.trail.goes_on(&writer.loaded(segment)), Ok(()));
        let told = writer.at(segment + 1);
        assert_eq!(writer.trail.acknowledge(&elsewhere(told), &mut batch), Ok(Acknowledged::Elsewhere));
        assert_eq!(writer.trail.acknowledge(&told, &mut batch), Ok(Acknowledged::Released(segment)));
    }
    assert_eq!(writer.next(4), [4, 5, 6, 7], "its own are told from them at once");
    assert!(batch.drop_eras.is_empty());
    assert_eq!(writer.trail.acknowledge(&last, &mut batch), Ok(Acknowledged::Released(12)));
    assert_eq!(batch.drop_eras, [era(1)]);
}

#[test]
fn a_clones_place_rewinds_nobody_and_a_collector_that_lost_something_gets_it_again() {
    let mut writer = Writer::new();
    writer.close_many(40);
    writer.roll(2);
    let mut batch = Batch::default();
    let stand = writer.at(30);
    writer.trail.acknowledge(&stand, &mut batch).unwrap();
    assert_eq!(writer.next(4), [30], "after a start");
    assert_eq!(writer.trail.goes_on(&writer.loaded(30)), Ok(()));
    for (back, next) in [(elsewhere(writer.at(11)), [30, 31, 32, 33]), (writer.at(11), [11, 12, 13, 14])] {
        assert_eq!(writer.trail.acknowledge(&back, &mut batch), Ok(Acknowledged::Behind));
        writer.trail.rewind(&back);
        assert_eq!(writer.next(4), [11]);
        assert_eq!(writer.trail.goes_on(&writer.loaded(11)).is_ok(), next[0] == 11);
        assert_eq!(writer.next(4), next);
    }
}

#[test]
fn an_era_that_somebody_else_began_under_a_number_of_this_device_contradicts_it() {
    let mut writer = Writer::new();
    writer.close_many(2);
    writer.roll(2);
    let told =
        |number, salt| EraAck { era: EraId { number, salt }, next_segment: 1, next_index: 1, head: Hash([1; 32]) };
    for (number, salt) in [(1, 8), (2, 8), (3, 7)] {
        let ack = told(number, salt);
        assert_eq!(writer.trail.acknowledge(&ack, &mut Batch::default()), Err(ack), "{number} {salt}");
    }
    assert_eq!(writer.next(4), [0, 1], "it goes on being sent");
}
