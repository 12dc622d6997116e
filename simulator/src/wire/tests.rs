//! Both ends of a connection, and a store through all that may befall it; then whole runs.

use std::cell::Cell;
use std::collections::BTreeSet;

use hardtack::agent::effects::{Entry, FileWrite, StateFile, StoredRecord};
use hardtack::agent::salvage::Wanted;
use hardtack::agent::{Anchor, Batch};
use hardtack::ids::EraId;
use hardtack::profile::Profile;

use super::client::{Client, IN_FLIGHT_MAX};
use super::disks::Store;
use super::server::Server;
use super::*;
use crate::agree::agree;
#[cfg(feature = "mutants")]
use crate::agree::agree_but_for;
use crate::case::Case;
use crate::disk::{Fate, Rot};
use crate::fault::{Damage, Part, Refusal, WireTrick};
use crate::level::{Broke, Does, RealDisk};
use crate::menu;
use crate::network::{Packet as Message, Retain};
use crate::report::Status;
use crate::scenario::Span;
use crate::{run_case_at, Level};

/// What an end hands in when the other end's bytes arrive, and what it writes to that.
fn carried(does: &Does, mut receive: impl FnMut(&[u8]) -> Does) -> Does {
    let mut sum = Does::default();
    for bytes in &does.writes {
        let next = receive(bytes);
        sum.writes.extend(next.writes);
        sum.hears.extend(next.hears);
        sum.ends = sum.ends.or(next.ends);
    }
    sum
}

fn message(number: u8) -> Message {
    Message::Publish { topic: "f/d/up/hello".into(), payload: vec![number; 40], retain: Retain::No }
}

/// A connection that was accepted, with one subscription.
fn connected() -> (Client, Server) {
    let (mut client, mut server) = (Client::new("gw-0".into(), 30), Server::default());
    let will = Some(("f/d/state".into(), b"gone".to_vec()));
    let connect = client.send(Message::Connect { filters: vec!["f/d/down/+".into()], will: will.clone() });
    let asked = carried(&connect, |bytes| server.receive(bytes));
    assert_eq!(asked.hears, [Message::Connect { filters: Vec::new(), will }], "subscriptions come after CONNACK");
    let subscribe = carried(&server.send(Message::Accepted), |bytes| client.receive(bytes));
    assert!(subscribe.hears.is_empty(), "up once the subscriptions are granted: {:?}", subscribe.hears);
    let granted = carried(&subscribe, |bytes| server.receive(bytes));
    assert_eq!(granted.hears, [Message::Read { places: vec!["f/d/down/+".into()], left: Vec::new() }]);
    let up = carried(&granted, |bytes| client.receive(bytes));
    assert_eq!((up.hears, up.ends), (vec![Message::Accepted], None));
    (client, server)
}

#[test]
fn bytes_come_to_the_same_however_they_are_cut() {
    let (mut client, mut server) = connected();
    let writes = client.send(message(1)).writes.concat();
    let heard: Vec<Message> = writes.iter().flat_map(|byte| server.receive(&[*byte]).hears).collect();
    assert_eq!(heard, [message(1)]);
}

#[test]
fn neither_end_has_more_in_flight_than_the_other_takes() {
    let (mut client, mut server) = connected();
    let written: Vec<Does> = (0..40).map(|number| client.send(message(number))).collect();
    assert_eq!(written.iter().filter(|does| !does.writes.is_empty()).count(), usize::from(IN_FLIGHT_MAX));
    let heard: Vec<Message> =
        written.iter().flat_map(|does| carried(does, |bytes| server.receive(bytes)).hears).collect();
    assert_eq!(heard.len(), usize::from(IN_FLIGHT_MAX));
    let acknowledged = server.send(Message::Acknowledged { segment: None });
    let next = carried(&acknowledged, |bytes| client.receive(bytes));
    assert_eq!(carried(&next, |bytes| server.receive(bytes)).hears, [message(32)], "in the place of the first");
    let given: Vec<Does> = (0..40).map(|number| server.send(message(number))).collect();
    assert_eq!(given.iter().filter(|does| !does.writes.is_empty()).count(), usize::from(IN_FLIGHT_MAX));
}

#[test]
fn what_a_broker_must_not_do_ends_the_connection_or_is_borne() {
    let ends = |trick| {
        let (mut client, mut server) = connected();
        carried(&server.send(message(1)), |bytes| client.receive(bytes));
        let does = server.trick(trick, 3).unwrap();
        let heard = carried(&does, |bytes| client.receive(bytes));
        (heard.ends.is_some(), heard.hears.len())
    };
    assert_eq!(ends(WireTrick::Acknowledge), (true, 0));
    assert_eq!(ends(WireTrick::Grant), (true, 0));
    assert_eq!(ends(WireTrick::Large), (true, 0));
    assert_eq!(ends(WireTrick::Reuse), (false, 2), "QoS 1 may come twice anyway");
}

#[test]
fn garbage_never_panics() {
    for pick in 0..20_000 {
        let (mut client, mut server) = connected();
        let does = server.trick(WireTrick::Garbage, pick).unwrap();
        carried(&does, |bytes| client.receive(bytes));
        server.receive(&does.writes.concat());
    }
}

#[test]
fn disconnect_makes_the_broker_forget_the_will() {
    let (mut client, mut server) = connected();
    let does = client.send(Message::Leaving);
    assert_eq!(carried(&does, |bytes| server.receive(bytes)).hears, [Message::Leaving]);
}

const ERA: EraId = EraId { number: 1, salt: 7 };

fn batch(generation: u64, records: std::ops::Range<u64>) -> Batch {
    let row =
        |index| Entry::Record(StoredRecord { era: ERA, index, bytes: vec![index as u8; 300], budgets: Vec::new() });
    Batch {
        files: vec![FileWrite { file: StateFile::Policy, content: vec![generation as u8; 2000] }],
        begin_era: (generation == 1).then_some(ERA),
        entries: records.clone().map(row).collect(),
        anchor: Some(Box::new(Anchor { generation, era: Some(ERA), next_index: records.end, ..Anchor::default() })),
        ..Batch::default()
    }
}

/// Through every fate of every cut of a commit what was durable before stays, and nothing is there that nobody wrote.
#[test]
fn what_was_committed_before_a_cut_stays() {
    let place = Rc::new(place().unwrap());
    let mut kept = [0; 2];
    for done in 0..=10 {
        for pick in 0..6 {
            let device = done * 6 + pick;
            let mut store = Store::new(place.clone(), u64::from(device), device, Profile::default().queue);
            store.open().unwrap();
            store.commit(batch(1, 0..4)).unwrap();
            let turn = Cell::new(pick);
            let mut fate = || {
                turn.set(turn.get() + 1);
                [Fate::Lost, Fate::Torn, Fate::Kept][turn.get() as usize % 3]
            };
            match pick {
                5 => store.killed(batch(2, 4..8), (done.into(), 10)).unwrap(),
                _ => store.power_cut(batch(2, 4..8), (done.into(), 10), &mut fate).unwrap(),
            }
            let found = store.open().unwrap();
            let generation = found.anchor.map(|anchor| anchor.generation);
            let records = found.eras.first().map_or(0, |era| era.records.len());
            let policy = found.files.iter().find(|(file, _)| *file == StateFile::Policy).map(|(_, content)| content);
            assert!(records >= 4, "done {done}, pick {pick}: {records} records are left");
            assert!(matches!(generation, Some(1 | 2)), "done {done}, pick {pick}: {generation:?}");
            assert!(generation == Some(1) || records == 8, "the anchor is ahead of what it has seen");
            assert!(policy.is_some_and(|content| content.len() == 2000 && content.iter().all(|b| *b == content[0])));
            assert!(found.eras.first().is_some_and(|era| era.damage.is_none()));
            kept[usize::from(records == 8)] += 1;
        }
    }
    assert!(kept[0] > 5 && kept[1] > 5, "{kept:?}: cuts come too early or too late");
}

/// A store of two commits: the second is still to come.
fn store(place: &Rc<TempDir>, device: u32) -> Store {
    let mut store = Store::new(place.clone(), u64::from(device), device, Profile::default().queue);
    store.open().unwrap();
    store.commit(batch(1, 0..4)).unwrap();
    store
}

/// How many records, the generation of the anchor, and the file's one byte, where nothing of it is damaged.
fn held(store: &mut Store) -> (usize, Option<u64>, u8) {
    let found = store.open().unwrap();
    let era = found.eras.first();
    // An anchor that has seen more than there is says so.
    let seen = found.anchor.as_ref().map_or(0, |anchor| anchor.next_index);
    let missing = era.is_some_and(|era| (era.records.len() as u64) < seen);
    assert_eq!(era.is_some_and(|era| era.damage.is_some()), missing, "{era:?}");
    let policy = found.files.iter().find(|(file, _)| *file == StateFile::Policy).map(|(_, content)| content[0]);
    let records = era.map_or(0, |era| era.records.len());
    let row = |entry: &Entry| match entry {
        Entry::Record(record) => (record.era, record.index),
        Entry::Segment(segment) => panic!("nothing closed segment {}", segment.segment),
    };
    // Of a row there may be several copies.
    let there: BTreeSet<(EraId, u64)> = found.entries.iter().map(row).collect();
    assert_eq!(there.len(), records, "what is found is what is there");
    (records, found.anchor.map(|anchor| anchor.generation), policy.unwrap_or(0))
}

#[test]
fn a_sync_that_fails_takes_back_what_it_was_of_and_nothing_else() {
    let place = Rc::new(place().unwrap());
    let parts = [(Part::Files, (4, Some(1), 1), (4, Some(1), 2)), (Part::Era, (4, Some(1), 2), (8, Some(1), 2))];
    let parts = parts.into_iter().chain([(Part::Anchor, (8, Some(1), 2), (8, Some(2), 2))]);
    for (number, (part, lost, kept)) in (0..).zip(parts) {
        for (also, fate, expected) in [(0, Fate::Lost, lost), (1, Fate::Kept, kept)] {
            let mut store = store(&place, 2 * number + also);
            store.sync_fails(batch(2, 4..8), part, &mut || fate).unwrap();
            assert_eq!(held(&mut store), expected, "{part:?} {fate:?}");
        }
    }
}

#[test]
fn a_full_disk_takes_as_much_as_there_is_room_for_and_the_next_start_goes_on() {
    let place = Rc::new(place().unwrap());
    for (device, (whole, torn)) in (0..).zip([(0, 0), (0, 99), (2, 50), (3, 99)]) {
        let mut store = store(&place, device);
        let entries = Batch { files: Vec::new(), ..batch(2, 4..8) };
        assert!(store.refused(entries, Refusal::NoRoom, (whole, torn)).unwrap());
        assert_eq!(held(&mut store), (4 + whole as usize, Some(1), 1), "{whole} and {torn} hundredths");
        let next = EraId { number: 2, salt: 7 };
        let begin = Batch { begin_era: Some(next), ..Batch::default() };
        assert!(store.refused(begin.clone(), Refusal::NoRoom, (0, 0)).unwrap());
        held(&mut store);
        store.commit(begin).unwrap();
        store.commit(Batch { entries: Vec::new(), ..batch(2, 0..4) }).unwrap();
        assert_eq!(held(&mut store), (4 + whole as usize, Some(2), 2));
        // A file is the old one, whatever there is of the new one.
        assert!(store.refused(batch(3, 0..0), Refusal::NoRoom, (0, 0)).unwrap());
        assert_eq!(held(&mut store), (4 + whole as usize, Some(2), 2));
    }
}

#[test]
fn on_a_full_disk_what_is_there_can_be_written_over() {
    let place = Rc::new(place().unwrap());
    let mut store = store(&place, 0);
    let over = |generation| Batch { anchor: batch(generation, 4..4).anchor, ..Batch::default() };
    // The second slot is a new file.
    assert!(store.refused(over(2), Refusal::NoRoom, (0, 0)).unwrap());
    store.open().unwrap();
    store.commit(over(2)).unwrap();
    assert!(!store.refused(over(3), Refusal::NoRoom, (0, 0)).unwrap(), "it is taken for made");
    assert_eq!(held(&mut store), (4, Some(3), 1));
}

#[test]
fn nothing_changes_on_a_read_only_disk_and_no_store_opens_there() {
    let place = Rc::new(place().unwrap());
    let mut store = store(&place, 0);
    let one = |batch: fn(Batch) -> Batch| batch(self::batch(2, 4..8));
    let parts = [
        one(|all| all),
        one(|all| Batch { entries: all.entries, ..Batch::default() }),
        one(|all| Batch { anchor: all.anchor, ..Batch::default() }),
        one(|_| Batch { remove: vec![StateFile::Policy], ..Batch::default() }),
        one(|_| Batch { drop_eras: vec![ERA], ..Batch::default() }),
        one(|_| Batch { begin_era: Some(EraId { number: 2, salt: 7 }), ..Batch::default() }),
    ];
    for (number, batch) in (9..).zip(parts) {
        // An era is begun first: without one there is nowhere to write to.
        store.open().unwrap();
        store.commit(Batch { begin_era: Some(EraId { number, salt: 9 }), ..Batch::default() }).unwrap();
        let refused = store.refused(batch.clone(), Refusal::ReadOnly, (0, 0));
        assert!(refused.unwrap_or_else(|Broke(why)| panic!("{why}: {batch:?}")), "{batch:?}");
        store.stays_shut().unwrap();
        assert_eq!(held(&mut store), (4, Some(1), 1), "{batch:?}");
    }
}

#[test]
fn a_row_that_rots_damages_its_era_and_no_other() {
    let place = Rc::new(place().unwrap());
    for device in 0..8 {
        let mut store = store(&place, device);
        let next = EraId { number: 2, salt: 7 };
        let record = |index| StoredRecord { era: next, index, bytes: vec![9; 300], budgets: Vec::new() };
        store.commit(Batch { begin_era: Some(next), ..Batch::default() }).unwrap();
        store.commit(Batch { entries: vec![Entry::Record(record(0))], ..Batch::default() }).unwrap();
        store.close();
        let row = Some(Rot::Row(ERA, Wanted::Record(u64::from(device % 4))));
        assert!(store.damage(Damage::RowRotten, 0, row.clone()).unwrap());
        assert!(!store.damage(Damage::RowRotten, 0, row).unwrap(), "it is gone already");
        let found = store.open().unwrap();
        let of = |era| found.eras.iter().find(|image| image.id == era).unwrap();
        assert_eq!((of(ERA).records.len(), of(ERA).damage.is_some()), (3, true), "{:?}", of(ERA));
        assert_eq!((of(next).records.len(), of(next).damage.is_some()), (1, false), "{:?}", of(next));
    }
}

#[test]
fn a_drive_that_lies_has_a_beginning_of_what_it_was_given_and_one_that_does_not_has_all() {
    let place = Rc::new(place().unwrap());
    let whole = (12, Some(3), 3);
    // How much of three moments reached the medium.
    let parts = [
        (Part::Files, 0, (12, Some(3), 1)),
        (Part::Files, 1, whole),
        (Part::Anchor, 0, (12, Some(1), 3)),
        (Part::Anchor, 1, (12, Some(2), 3)),
        (Part::Anchor, 3, whole),
        (Part::Era, 0, (4, Some(3), 3)),
        (Part::Era, 1, (8, Some(3), 3)),
        (Part::Era, 2, whole),
        (Part::Era, 3, whole),
    ];
    for (device, (part, reached, expected)) in (0..).zip(parts) {
        let mut store = store(&place, device);
        store.lie(part).unwrap();
        store.commit(batch(2, 4..8)).unwrap();
        store.commit(batch(3, 8..12)).unwrap();
        let of = if part == Part::Files { 1 } else { 3 };
        let parts = store.forget_what_lies(&|_, moments| if moments == of { reached } else { 99 }).unwrap();
        assert_eq!(parts.is_empty(), expected == whole, "{part:?} {reached}");
        assert_eq!(held(&mut store), expected, "{part:?} {reached}");
        store.come_clean(part);
        assert!(store.forget_what_lies(&|_, _| 0).unwrap().is_empty());
        assert_eq!(held(&mut store), expected);
    }
}

fn case(text: &str) -> Case {
    Case::parse(text, None).unwrap()
}

#[track_caller]
fn check_agreement(name: &str) {
    check_case_agreement(name, &case(menu::find(name).unwrap()));
}

/// A scenario that ships, cut short.
fn short(name: &str, duration: &str, heal: &str) -> Case {
    let mut table: toml::Table = menu::find(name).unwrap().parse().unwrap();
    table.insert("duration".into(), duration.into());
    table.insert("heal".into(), heal.into());
    table.insert("require".into(), toml::Value::Array(Vec::new()));
    // No fault lasts for more than an hour, and all are over by then.
    let faults = table["fault"].as_array_mut().unwrap();
    faults.retain_mut(|fault| {
        let fault = fault.as_table_mut().unwrap();
        let span = |name: &str| fault.get(name).map(|value| value.as_str().unwrap().parse::<Span>().unwrap().0);
        let lasts = span("for").map(|lasts| lasts.min(3_600_000));
        let last = heal.parse::<Span>().unwrap().0 - lasts.unwrap_or(0) - span("jitter").unwrap_or(0);
        let (at, until) = (span("at").unwrap(), span("until").map(|until| until.min(last)));
        for (name, value) in [("for", lasts), ("until", until)] {
            let value = value.map(|value| toml::Value::from(Span(value).to_string()));
            value.into_iter().for_each(|value| drop(fault.insert(name.into(), value)));
        }
        at <= last
    });
    case(&table.to_string())
}

#[track_caller]
fn check_case_agreement(name: &str, case: &Case) {
    let (report, agreement) = agree(case, Level::Wire);
    assert_eq!(report.verdict(), Status::Pass, "{name}: {:#?}", report.properties);
    assert!(agreement.holds(), "{name}: {agreement:#?}");
}

#[test]
fn both_levels_answer_the_same_on_a_flappy_link() {
    check_agreement("flappy-link");
}

#[test]
fn both_levels_answer_the_same_on_bad_disks() {
    check_agreement("disk-full");
}

#[test]
fn both_levels_answer_the_same_in_the_dark() {
    check_agreement("revoked-in-the-dark");
}

#[test]
fn both_levels_answer_the_same_under_a_hostile_broker() {
    check_case_agreement("hostile-broker", &short("hostile-broker", "4h", "3h"));
}

#[test]
fn both_levels_answer_the_same_on_a_disk_that_fails() {
    check_case_agreement("failing-disk", &short("failing-disk", "3h", "2h"));
}

#[test]
fn both_levels_answer_the_same_on_a_disk_that_lies() {
    check_case_agreement("lying-disk", &short("lying-disk", "3h", "2h"));
}

#[test]
fn both_levels_answer_the_same_on_a_slow_link() {
    check_agreement("slow-link");
}

#[test]
fn both_levels_answer_the_same_while_the_supply_fails_again_and_again() {
    check_case_agreement("boot-loop", &short("boot-loop", "100m", "80m"));
}

#[test]
fn both_levels_bear_other_versions_over_their_state() {
    check_agreement("upgrade-and-back");
}

/// The real store refuses what a newer version left; where it does not, that shows.
#[test]
fn a_folder_that_a_newer_version_left_is_refused_as_it_is_and_taken_up_again() {
    let place = Rc::new(place().unwrap());
    let mut store = store(&place, 0);
    store.hand_over().unwrap();
    assert!(store.refuses().unwrap());
    assert!(store.open().is_err());
    store.take_back().unwrap();
    assert_eq!(held(&mut store), (4, Some(1), 1));
    assert!(store.refuses().is_err() && store.take_back().is_err(), "there is no newer version any more");
    store.upgrade(Profile::default().queue).unwrap();
    assert_eq!(held(&mut store), (4, Some(1), 1), "a format that was never named says nothing");
}

/// What is wrong at one level only is no excuse's business, whatever else goes on.
#[cfg(feature = "mutants")]
#[test]
fn a_bug_that_is_planted_at_one_level_is_a_difference() {
    use hardtack::mutant::Mutant;
    let whole = |name| case(menu::find(name).unwrap());
    check_difference("revoked-in-the-dark", &whole("revoked-in-the-dark"), Mutant::RevocationForgotten, "revoked");
    check_difference("flappy-link", &whole("flappy-link"), Mutant::BudgetNotCharged, "uses_spent");
    // Answers that nobody heard excuse as many uses as they can have charged.
    check_difference("boot-loop", &short("boot-loop", "100m", "80m"), Mutant::CounterAfterAction, "uses_spent");
    // A hostile broker excuses what gateways have not heard, not what they make of what they have.
    check_difference("hostile-broker", &short("hostile-broker", "4h", "3h"), Mutant::TaskUnrevoked, "revoked");
    // A disk that lies or fails excuses what budgets were charged, not what is revoked.
    check_difference("lying-disk", &short("lying-disk", "3h", "2h"), Mutant::TaskUnrevoked, "revoked");
    // What a token is good for, and who presents it, hangs on no word, no clock and no contact: nothing excuses it.
    check_difference("flappy-link", &short("flappy-link", "2h", "90m"), Mutant::RightUnchecked, "no_right");
    check_difference("hostile-broker", &short("hostile-broker", "2h", "90m"), Mutant::StrangerServed, "wrong_workload");
}

/// With the bug planted at the wire level something is answered otherwise there that the model denies for this reason.
#[cfg(feature = "mutants")]
#[track_caller]
fn check_difference(name: &str, case: &Case, mutant: hardtack::mutant::Mutant, denied: &str) {
    let plant = hardtack::mutant::plant;
    let (_, agreement) = agree_but_for(case, Level::Wire, || plant(Some(mutant)));
    plant(None);
    assert!(agreement.differences.iter().any(|of| of.model == denied), "{mutant:?} in {name}: {agreement:#?}");
}

#[test]
fn a_broker_that_breaks_the_protocol_costs_connections_and_nothing_else() {
    let case = case(include_str!("../../wire/hostile-wire.toml"));
    let first = run_case_at(Level::Wire, &case, None, None);
    assert_eq!(first.verdict(), Status::Pass, "{:?} {:#?}", first.idle, first.properties);
    assert_eq!(first, run_case_at(Level::Wire, &case, None, None), "the same seed, and another run");
    let model = run_case_at(Level::Model, &case, None, None);
    assert_eq!(model.not_applied.len(), 5);
    assert_eq!(model.verdict(), Status::Vacuous, "what was not done was not survived");
}
