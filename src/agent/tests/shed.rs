//! A device whose audit has little room: classes, reserves, and denials that give way.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::agent::audit::{Closing, Condition, GivenUp, Trail};
use crate::agent::audit_key::{AuditSigner, Owner};
use crate::agent::effects::Shed;
use crate::agent::room::{Class, Content, SegmentPlace, Taken, Weighed, SHED_RUNS_MAX};
use crate::agent::{Batch, EraImage};
use crate::fleet::book::Segment;
use crate::fleet::report::problems::Problems;
use crate::fleet::report::{DeviceReport, Signers, Verifier};
use crate::ids::EraId;
use crate::wire::audit::segment::Delivery;
use crate::wire::audit::{Credential, Gap, GapCause, Record};
use crate::wire::enrol::DeviceKeys;
use crate::wire::seal::SealingKey;

fn small() -> Rig {
    let mut rig = Rig::with(|spec| spec.uses_max = 100_000);
    rig.profile.queue.quota_mib = 1;
    rig.restart(Reboot::Process);
    rig
}

fn used_bytes(rig: &Rig) -> u64 {
    let rows = |(records, segments): &(Vec<_>, Vec<_>)| -> usize {
        let of_record = |record: &crate::agent::effects::StoredRecord| record.bytes.len() + 64;
        let of_segment = |segment: &crate::agent::effects::StoredSegment| segment.header.len() + 64;
        records.iter().map(of_record).sum::<usize>() + segments.iter().map(of_segment).sum::<usize>()
    };
    rig.disk.eras.values().map(rows).sum::<usize>() as u64
}

fn look_at_disk(rig: &mut Rig) {
    let used_bytes = used_bytes(rig);
    rig.input(Input::Disk(Taken::of(used_bytes)));
}

/// What was answered: allowed, denied, or no decision, and its place.
type Answers = BTreeMap<(u64, u64), Verdict>;

fn ask(rig: &mut Rig, token: &str, resource: &str, answers: &mut Answers) -> Option<Reason> {
    let ask = Authorize {
        token: token.into(),
        operation: "read".into(),
        resource: resource.into(),
        destination: None,
        risk: Some("low".parse().unwrap()),
        task: None,
        step: None,
        arguments: None,
    };
    match rig.ask(1001, Socket::Agent, Request::Authorize(ask)) {
        Reply::Decision(reply) => {
            let before = answers.insert((reply.audit.era, reply.audit.index), reply.decision);
            assert_eq!(before, None, "each has a name of its own");
            Some(reply.reason)
        }
        Reply::Problem(problem) => {
            assert_eq!(problem.code, ProblemCode::AuditUnavailable, "{}", problem.detail);
            None
        }
        other => panic!("{other:?}"),
    }
}

/// Denials, each another, and an allow after each twenty.
fn flood(rig: &mut Rig, token: &str, count: usize, answers: &mut Answers) {
    for number in 0..count {
        let reason = ask(rig, "nonsense", &format!("modbus/m{number}"), answers);
        assert_eq!(reason, Some(Reason::Malformed), "the oldest give way, denial {number} is recorded");
        if number % 20 == 19 {
            look_at_disk(rig);
            assert_eq!(ask(rig, token, "modbus/a", answers), Some(Reason::Allowed), "after {number}");
            let room = rig.agent.room();
            assert!(used_bytes(rig) < 1024 * 1024, "{room:?}");
        }
    }
}

fn given_up(rig: &Rig) -> Vec<(EraId, u64, u64)> {
    rig.disk.shed.iter().map(|shed| (shed.era, shed.records.0, shed.records.1)).collect()
}

/// Everything that the collector got, checked as the operator does.
fn report(rig: &Rig) -> (DeviceReport, Vec<(EraId, Record)>) {
    let identity = DeviceKeys::from_bytes(&rig.keys).identity.verifying_key().into();
    let keys = [(rig.device.clone(), vec![identity])].into();
    let mut segments = BTreeMap::new();
    for payload in &rig.uploads {
        let upload = Delivery::from_bytes(payload).unwrap().open(&[SealingKey::from_bytes([9; 32])]).unwrap();
        let claim = upload.header.claim().unwrap();
        let segment = Segment {
            device: claim.device,
            era: claim.era,
            segment: claim.segment,
            first_index: claim.first_index,
            digest: upload.header.digest(),
            header: upload.header.to_bytes(),
            leaves: upload.leaves,
            at: Timestamp(0),
            read: None,
        };
        segments.entry((segment.era, segment.segment)).or_insert(segment);
    }
    let mut verifier = Verifier::by(Signers { fleet: rig.fleet.clone(), keys });
    let mut records = Vec::new();
    for ((era, _), segment) in segments {
        let checked = verifier.segment(segment).expect("it follows the one before");
        records.extend(checked.records.into_iter().map(|(record, _)| (era, record)));
    }
    (verifier.finish().devices.remove(&rig.device).unwrap(), records)
}

#[test]
fn denials_give_way_to_newer_ones_and_allows_never_do() {
    let mut rig = small();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    let mut answers = Answers::new();
    flood(&mut rig, &task.token, 3000, &mut answers);
    let first = given_up(&rig);
    assert!(!first.is_empty(), "room was made");
    rig.restart(Reboot::Process);
    look_at_disk(&mut rig);
    flood(&mut rig, &task.token, 1500, &mut answers);
    let gone = given_up(&rig);
    assert!(gone.len() > first.len(), "after a start too");

    let stored: Vec<(EraId, Record)> = (rig.disk.eras.iter())
        .flat_map(|(era, (records, _))| records.iter().map(|row| (*era, Record::from_bytes(&row.bytes).unwrap())))
        .collect();
    let gaps: BTreeSet<(EraId, u64, u64)> = (stored.iter())
        .filter_map(|(_, record)| match &record.event {
            Event::Gap(Gap { era, first, end: Some(end), cause: GapCause::Quota, .. }) => Some((*era, *first, *end)),
            _ => None,
        })
        .collect();
    assert_eq!(gaps, gone.iter().copied().collect(), "each range is counted by a gap record, and nothing else is");
    let there: BTreeSet<(u64, u64)> = stored.iter().map(|(era, record)| (era.number, record.index)).collect();
    let in_gap = |(number, index): (u64, u64)| {
        gone.iter().any(|(era, first, end)| era.number == number && (*first..*end).contains(&index))
    };
    for (place, verdict) in &answers {
        assert!(there.contains(place) != in_gap(*place), "{place:?} is on disk or in a gap");
        assert!(*verdict == Verdict::Deny || there.contains(place), "{place:?}: an allow is never given up");
    }
    for (era, record) in &stored {
        if let Event::Decision(decision) = &record.event {
            if let Credential::Same(index) = decision.credential {
                assert!(there.contains(&(era.number, index)), "what names its credential is there");
            }
        }
    }

    rig.connect(Timestamp::from_secs(START_S + 600));
    // What is on its way is sent again after some time where an answer came too late for it.
    for _ in 0..300 {
        rig.pass(5);
        rig.serve(Timestamp(0));
        if rig.agent.status().pending == 0 {
            break;
        }
    }
    assert_eq!(rig.agent.status().pending, 0);
    let (report, collected) = report(&rig);
    assert_eq!(report.problems, Problems::default());
    let lost: u64 = gone.iter().map(|(_, first, end)| end - first).sum();
    assert_eq!((report.missing, report.lost, report.gaps), (0, lost, gone.len() as u64));
    assert!(report.shed > 0);
    let arrived: BTreeSet<(u64, u64)> = collected.iter().map(|(era, record)| (era.number, record.index)).collect();
    for place in answers.keys() {
        assert!(arrived.contains(place) != in_gap(*place), "decided is collected or in a gap");
    }
    look_at_disk(&mut rig);
    assert!(used_bytes(&rig) < 1024 * 1024 / 4, "space is back");
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    assert_eq!(ask(&mut rig, &task.token, "modbus/a", &mut answers), Some(Reason::Allowed));
}

/// The era and index that a denial is answered with.
fn denied(rig: &mut Rig, resource: &str) -> (u64, u64) {
    let mut answers = Answers::new();
    assert_eq!(ask(rig, "nonsense", resource, &mut answers), Some(Reason::Malformed));
    answers.into_keys().next().unwrap()
}

#[test]
fn what_is_counted_is_of_the_era_that_holds_the_denial_which_it_is_as() {
    let mut rig = small();
    let (mut named, mut answered) = (BTreeSet::new(), 0);
    for round in 0..200 {
        for number in 0..20 {
            named.insert(denied(&mut rig, &format!("modbus/r{round}-{number}")));
        }
        // Many that are the same: most of them are counted.
        for _ in 0..12 {
            named.insert(denied(&mut rig, "modbus/same"));
        }
        answered += 32;
        look_at_disk(&mut rig);
    }
    let gone = given_up(&rig);
    assert!(gone.len() > 1, "room was made");
    rig.connect(Timestamp::from_secs(START_S + 600));
    for _ in 0..300 {
        rig.pass(5);
        rig.serve(Timestamp(0));
        if rig.agent.status().pending == 0 {
            break;
        }
    }
    let (report, collected) = report(&rig);
    assert_eq!((report.problems, report.missing), (Problems::default(), 0));
    assert!(report.repeated > 0, "some were counted");
    assert!(report.repeated_lost > 0, "some counts were given up");
    assert_eq!(
        named.len() as u64 + report.repeated + report.repeated_lost,
        answered,
        "and told with what they counted"
    );
    let denials: BTreeSet<(u64, u64)> = (collected.iter())
        .filter(|(_, record)| matches!(&record.event, Event::Decision(decision) if !decision.allow))
        .map(|(era, record)| (era.number, record.index))
        .collect();
    let in_gap = |(number, index): (u64, u64)| {
        gone.iter().any(|(era, first, end)| era.number == number && (*first..*end).contains(&index))
    };
    for place in named {
        assert!(denials.contains(&place) || in_gap(place), "{place:?} was answered and is no denial");
    }
}

/// A profile may let an era grow beyond what fits: as long as the collector takes all of it, nothing is refused for want of room.
#[test]
fn what_the_collector_holds_takes_no_room_for_long() {
    for (token, expected) in [(None, Reason::Malformed), (Some(()), Reason::Allowed)] {
        let mut rig = small();
        let task = rig.begin(vec![right("modbus/*", "read")], None);
        rig.connect(Timestamp(0));
        let (first, mut answers) = (rig.agent.trail.era(), Answers::new());
        // A store gives nothing back before its folder goes.
        let mut written: BTreeMap<EraId, u64> = BTreeMap::new();
        for number in 0..3000 {
            let token = token.map_or("nonsense", |()| &task.token);
            let reason = ask(&mut rig, token, &format!("modbus/m{number}"), &mut answers);
            assert_eq!(reason, Some(expected), "{number}: {:?}", rig.agent.room());
            if number % 20 == 19 {
                rig.pass(1);
                rig.serve(Timestamp(0));
                *written.entry(rig.agent.trail.era()).or_default() += 20 * 512;
                written.retain(|era, _| rig.disk.eras.contains_key(era));
                rig.input(Input::Disk(Taken::of(written.values().sum())));
            }
        }
        let eras = rig.agent.trail.era().number - first.number;
        assert!((1..=10).contains(&eras), "{eras}: not for each commit");
        assert!(given_up(&rig).is_empty(), "nothing is lost");
    }
}

#[test]
fn each_class_that_is_full_says_so_and_the_others_go_on() {
    let mut rig = small();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    let mut answers = Answers::new();
    // So many allows that no other fits; denials do.
    while rig.agent.room().fits(Class::Allow) {
        ask(&mut rig, &task.token, "modbus/a", &mut answers);
        look_at_disk(&mut rig);
    }
    assert_eq!(ask(&mut rig, &task.token, "modbus/a", &mut answers), Some(Reason::AuditFull));
    assert!(!rig.agent.ready().ready);
    assert_eq!(rig.agent.status().audit.fits, [Class::Critical, Class::Denial, Class::Notice]);
    let begin = BeginTask {
        task: "pump".parse().unwrap(),
        rights: vec![right("modbus/*", "read")],
        ttl_s: 60,
        uses: None,
        planner: false,
        reason: None,
        holder: None,
        lease: None,
        identity: None,
        key: None,
    };
    let refused = rig.ask(1001, Socket::Agent, Request::Begin(begin));
    assert!(matches!(refused, Reply::Problem(problem) if problem.code == ProblemCode::Denied(Reason::AuditFull)));
}

#[test]
fn where_neither_allows_nor_denials_fit_and_nothing_can_go_nothing_is_decided() {
    let mut rig = small();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    let mut answers = Answers::new();
    // No more than two denials in a row: a gap record in their place would be as large.
    for number in 0.. {
        ask(&mut rig, &task.token, "modbus/a", &mut answers);
        ask(&mut rig, "nonsense", &format!("modbus/m{number}"), &mut answers);
        ask(&mut rig, "nonsense", &format!("modbus/n{number}"), &mut answers);
        look_at_disk(&mut rig);
        let room = rig.agent.room();
        if !room.fits(Class::Allow) && !room.fits(Class::Denial) {
            break;
        }
    }
    assert_eq!(given_up(&rig), []);
    assert_eq!(rig.agent.status().audit.fits, [Class::Critical, Class::Notice]);
    let before = rig.disk.records().len();
    assert_eq!(ask(&mut rig, "nonsense", "modbus/one-more", &mut answers), None, "no decision without a record");
    assert_eq!(ask(&mut rig, &task.token, "modbus/a", &mut answers), None);
    let begin = BeginTask {
        task: "pump".parse().unwrap(),
        rights: vec![right("modbus/*", "read")],
        ttl_s: 60,
        uses: None,
        planner: false,
        reason: None,
        holder: None,
        lease: None,
        identity: None,
        key: None,
    };
    let refused = rig.ask(1001, Socket::Agent, Request::Begin(begin));
    assert!(matches!(refused, Reply::Problem(problem) if problem.code == ProblemCode::AuditUnavailable));
    assert_eq!(rig.disk.records().len(), before);
    assert_eq!(rig.agent.mode(), Mode::Offline, "what is critical has its reserve");
    let finished = rig.ask(1001, Socket::Agent, Request::Finish(task.task_id.clone()));
    assert!(matches!(finished, Reply::Finished(_)), "to end a task makes the device safer: {finished:?}");
}

#[test]
fn nothing_locks_but_a_lack_of_room_for_what_is_critical() {
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    let quota = rig.profile.queue.quota_mib * 1024 * 1024;
    rig.input(Input::Disk(Taken::of(quota)));
    assert_eq!(rig.agent.mode(), Mode::Locked);
    assert!(rig.agent.status().reasons.iter().any(|reason| reason.contains("no room for the most important records")));
    let mut answers = Answers::new();
    assert_eq!(ask(&mut rig, &task.token, "modbus/a", &mut answers), None);
    // What gave way before and is on the disk still is for denials to make room for.
    rig.input(Input::Disk(Taken { used_bytes: quota, dead_bytes: quota / 100 * 99 }));
    assert_eq!(rig.agent.mode(), Mode::Offline);
    rig.input(Input::Disk(Taken::of(0)));
    assert_eq!(rig.agent.mode(), Mode::Offline);
    assert_eq!(ask(&mut rig, &task.token, "modbus/a", &mut answers), Some(Reason::Allowed));
}

#[test]
fn what_is_given_up_holds_nothing_that_others_need() {
    let mut rig = small();
    let task = rig.begin(vec![right("modbus/*", "read")], None);
    let mut answers = Answers::new();
    let mut kept = BTreeMap::new();
    for round in 0..220 {
        for number in 0..20 {
            ask(&mut rig, "nonsense", &format!("modbus/r{round}n{number}"), &mut answers);
        }
        // A denial of a token that fits names its credential by an allow, or in full.
        ask(&mut rig, &task.token, &format!("elsewhere/r{round}"), &mut answers);
        rig.input(Input::Deadline);
        look_at_disk(&mut rig);
        for (era, (records, _)) in &rig.disk.eras {
            kept.extend(records.iter().map(|row| ((*era, row.index), row.bytes.clone())));
        }
    }
    let lost =
        |era: EraId, index: u64| rig.disk.shed.iter().any(|shed: &Shed| shed.era == era && shed.holds_record(index));
    let gone: Vec<_> = kept.iter().filter(|((era, index), _)| lost(*era, *index)).collect();
    assert!(gone.len() > 1000, "{}", gone.len());
    for (place, bytes) in gone {
        let record = Record::from_bytes(bytes).unwrap();
        assert!(Class::of(&record.event).is_spare() && record.announces().is_none(), "{place:?} {record:?}");
    }
}

/// A commit has a bound, and so have the gap records in it.
#[test]
fn very_many_runs_give_way_a_portion_at_a_time() {
    let mut rig = Rig::new();
    let identity = DeviceKeys::from_bytes(&rig.keys).identity;
    let owner = Owner { fleet: &rig.fleet, device: &rig.device, identity: &identity };
    let signer = AuditSigner::generate(1, owner, Timestamp(0), &mut rig.rng);
    let (old, open) = (EraId { number: 1, salt: 1 }, EraId { number: 2, salt: 2 });
    let mut trail = Trail::begin(rig.fleet.clone(), rig.device.clone(), signer, open);
    // A segment of four denials, then one of an allow, and so on.
    let runs = 2 * SHED_RUNS_MAX as u64 + 200;
    let class = |index| if index % 5 < 4 { Class::Denial } else { Class::Allow };
    let place = |segment, first_index, count| SegmentPlace { segment, first_index, count, header_bytes: 200 };
    let segments = (0..runs).flat_map(|run| [place(2 * run, 5 * run, 4), place(2 * run + 1, 5 * run + 4, 1)]);
    let weighed = |index| Weighed { class: class(index), bytes: 100, repeated: u64::from(index % 5 == 0) };
    let content = Content::of((0..5 * runs).map(|index| (index, weighed(index))), segments);
    let image = EraImage {
        id: old,
        segments: 2 * runs,
        closed_index: 5 * runs,
        closed_head: Hash::ZERO,
        records: Vec::new(),
        damage: None,
        content,
    };
    let closing = Closing { floor: Timestamp(0), feeds: &[] };
    trail.adopt(&image, Condition::Whole, &closing, &mut Batch::default());
    let mut gone = Vec::new();
    for expected in [SHED_RUNS_MAX, SHED_RUNS_MAX, 200, 0] {
        let shed = trail.shed(true);
        assert_eq!(shed.len(), expected);
        gone.extend(shed);
    }
    let shed = |run| Shed { era: old, segments: (2 * run, 2 * run + 1), records: (5 * run, 5 * run + 4) };
    let all = (0..runs).map(|run| GivenUp { shed: shed(run), repeated: 1 });
    assert_eq!(gone, all.collect::<Vec<_>>(), "each of them once, the oldest first");
}
