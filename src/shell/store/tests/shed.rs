//! Records that are given up for want of room, and power that goes meanwhile.

use super::*;
use crate::agent::effects::Shed;
use crate::agent::room::Class;
use crate::shell::store::Event as Found;

/// An era of so many records in its own folder, and a store that has begun another one.
fn two_eras(dir: &Path, records: usize) -> (Store, Writing, Writing) {
    let (mut store, _) = Store::open(dir, &limits()).unwrap();
    let mut first = Writing::start(1, 0);
    store.commit(Batch { begin_era: Some(first.era), anchor: first.anchor(), ..Batch::default() }).unwrap();
    for _ in 0..records / 10 {
        let entries = first.records(10);
        store.commit(Batch { entries, anchor: first.anchor(), ..Batch::default() }).unwrap();
    }
    let second = Writing::start(2, first.generation);
    (store, first, second)
}

fn begin(store: &mut Store, next: &mut Writing, shed: Vec<Shed>) {
    let entries = next.records(1);
    let batch = Batch { begin_era: Some(next.era), entries, anchor: next.anchor(), shed, ..Batch::default() };
    store.commit(batch).unwrap();
}

fn range(writing: &Writing, segments: (u64, u64)) -> Shed {
    let records = (segments.0 * u64::from(SEGMENT_RECORDS), segments.1 * u64::from(SEGMENT_RECORDS));
    Shed { era: writing.era, segments, records }
}

/// Every segment of the era is there, with its records or, where they were given up, without. Returns which are without.
fn check_segments(store: &mut Store, of: &Writing, shed: &[Shed], context: &str) -> BTreeSet<u64> {
    let mut without = BTreeSet::new();
    for segment in 0..of.segments {
        match store.load(of.era, segment).unwrap() {
            Some(Loaded::Whole(upload)) => {
                let header = upload.header.claim().unwrap();
                assert_eq!(upload.check(&header).unwrap().len(), SEGMENT_RECORDS as usize, "{context}");
            }
            Some(Loaded::Shed(header)) => {
                assert_eq!(header.claim().unwrap().segment, segment, "{context}");
                assert!(shed.iter().any(|range| range.holds_segment(segment)), "{context}: segment {segment}");
                without.insert(segment);
            }
            None => panic!("{context}: segment {segment} is lost"),
        }
    }
    without
}

fn shed_of(shed: &[Shed]) -> BTreeSet<u64> {
    shed.iter().flat_map(|range| range.segments.0..range.segments.1).collect()
}

#[test]
fn what_is_given_up_goes_and_its_headers_stay() {
    let temp = tempfile::tempdir().unwrap();
    let (mut store, first, mut second) = two_eras(temp.path(), 800);
    begin(&mut store, &mut second, Vec::new());
    let shed = [range(&first, (3, 90)), range(&first, (120, 199))];
    let before = store.used_bytes();
    store.commit(Batch { shed: shed.to_vec(), ..Batch::default() }).unwrap();
    assert!(store.used_bytes() < before / 2, "{} of {before}", store.used_bytes());
    assert_eq!(check_segments(&mut store, &first, &shed, "at once"), shed_of(&shed));
    drop(store);

    let (mut store, recovered) = Store::open(temp.path(), &limits()).unwrap();
    assert_eq!(recovered.events, []);
    assert!(recovered.eras.iter().all(|image| image.damage.is_none()), "{:?}", recovered.eras);
    assert_eq!(check_segments(&mut store, &first, &shed, "after a start"), shed_of(&shed));
    let content = &recovered.eras[0].content;
    let headers = content.shares().of(Class::Denial);
    assert!(headers > 0 && content.shares().of(Class::Notice) > 0, "headers of what was given up count as denials");

    // More of it goes, and then what is left is little enough to be copied into the next era.
    let more = range(&first, (90, 120));
    let mut third = Writing::start(3, second.generation);
    begin(&mut store, &mut third, vec![more]);
    let shed = [shed[0], shed[1], more];
    assert_eq!(check_segments(&mut store, &first, &shed, "with another era"), shed_of(&shed));
    drop(store);
    let (mut store, recovered) = Store::open(temp.path(), &limits()).unwrap();
    assert_eq!(recovered.events, []);
    assert_eq!(check_segments(&mut store, &first, &shed, "after another start"), shed_of(&shed));
    let mut fourth = Writing::start(4, third.generation);
    begin(&mut store, &mut fourth, Vec::new());
    let folders = fs::read_dir(temp.path().join("eras")).unwrap().count();
    assert!(folders <= 2, "{folders} folders");
    store.commit(Batch { drop_eras: vec![first.era], ..Batch::default() }).unwrap();
    drop(store);
    let (_, recovered) = Store::open(temp.path(), &limits()).unwrap();
    assert!(recovered.eras.iter().all(|image| image.id != first.era && image.damage.is_none()));
}

#[test]
fn a_power_cut_between_any_two_steps_loses_nothing_that_stays() {
    // Small enough to be copied into the next era, and too large for that.
    for (records, together) in [(200, true), (800, true), (800, false)] {
        let temp = tempfile::tempdir().unwrap();
        let (dir, cuts) = (temp.path().join("state"), temp.path().join("cuts"));
        let (mut store, first, mut second) = two_eras(&dir, records);
        if !together {
            begin(&mut store, &mut second, Vec::new());
        }
        let shed = vec![range(&first, (2, first.segments - 3))];
        let taken = Rc::new(RefCell::new(0));
        store.at_step = Some(Box::new({
            let (dir, cuts, taken) = (dir.clone(), cuts.clone(), taken.clone());
            move |step| {
                let number = *taken.borrow();
                copy_dir(&dir, &cuts.join(format!("{number} {step}")));
                *taken.borrow_mut() += 1;
            }
        }));
        let entries = if together { Vec::new() } else { second.records(1) };
        match together {
            true => begin(&mut store, &mut second, shed.clone()),
            false => store.commit(Batch { entries, shed: shed.clone(), ..Batch::default() }).unwrap(),
        }
        drop(store);
        assert!(*taken.borrow() >= 3);
        for cut in list(&cuts).unwrap() {
            let context = format!("{records} records, cut after {cut}");
            let (mut store, recovered) = Store::open(&cuts.join(&cut), &limits()).unwrap();
            assert_eq!(recovered.events, [], "{context}");
            assert!(recovered.eras.iter().all(|image| image.damage.is_none()), "{context}: {:?}", recovered.eras);
            let without = check_segments(&mut store, &first, &shed, &context);
            assert!(without.is_empty() || without == shed_of(&shed), "{context}: {without:?}");
            // Nothing was given up but what a record counts, by a start that gives up nothing too.
            let told = recovered.eras.iter().filter(|image| image.id == second.era);
            let told = told.flat_map(|image| &image.records).any(|record| record.index + 1 == second.next_index);
            assert!(told || without.is_empty(), "{context}: {without:?} are gone and nothing counts them");
            drop(store);
            let beside = cuts.join(format!("{cut}, started"));
            copy_dir(&cuts.join(&cut), &beside);
            let (mut store, _) = Store::open(&beside, &limits()).unwrap();
            for number in 7..9 {
                begin(&mut store, &mut Writing::start(number, 80 + number), Vec::new());
                let without = check_segments(&mut store, &first, &shed, &context);
                assert!(
                    told || without.is_empty(),
                    "{context}: {without:?} go with era {number}, and nothing counts them"
                );
            }
            drop(store);
            // It goes on: the same may be given up again.
            let (mut store, _) = Store::open(&cuts.join(&cut), &limits()).unwrap();
            let mut third = Writing::start(9, 100);
            begin(&mut store, &mut third, shed.clone());
            assert_eq!(check_segments(&mut store, &first, &shed, &context), shed_of(&shed), "{context}");
        }
    }
}

/// Power went while a folder's file was written anew.
#[test]
fn half_of_a_new_file_is_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let (store, first, _) = two_eras(temp.path(), 800);
    drop(store);
    let leftover = temp.path().join("eras/00000000000000000001/.db.tmp");
    fs::write(&leftover, [0xff; 5000]).unwrap();
    let (mut store, recovered) = Store::open(temp.path(), &limits()).unwrap();
    assert_eq!((recovered.events, leftover.exists()), (vec![], false));
    assert_eq!(check_segments(&mut store, &first, &[], "half"), BTreeSet::new());
}

/// What is to stay has rotted since the start: all of the folder is kept as it is, and what is left is found when it is sent.
#[test]
fn where_something_that_stays_cannot_be_read_nothing_is_written_anew() {
    let temp = tempfile::tempdir().unwrap();
    let (mut store, first, mut second) = two_eras(temp.path(), 800);
    begin(&mut store, &mut second, Vec::new());
    let db = temp.path().join("eras/00000000000000000001/db");
    let mut bytes = fs::read(&db).unwrap();
    let needle = letter(5).repeat(150);
    let places: Vec<usize> =
        bytes.windows(needle.len()).enumerate().filter(|(_, w)| *w == needle.as_bytes()).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| bytes[*at] ^= 1);
    fs::write(&db, &bytes).unwrap();
    let shed = vec![range(&first, (3, 90))];
    store.commit(Batch { shed, ..Batch::default() }).unwrap();
    assert_eq!(fs::read(&db).unwrap().len(), bytes.len());
    let dead = store.taken().dead_bytes;
    assert!(dead > 0, "it takes its room still");
    store.commit(Batch { shed: vec![range(&first, (100, 150))], ..Batch::default() }).unwrap();
    assert!(store.taken().dead_bytes > dead && store.retry.is_none(), "and is not tried again");
    assert!(store.load(first.era, 50).unwrap().is_some_and(|loaded| loaded.whole().is_some()));
    assert_eq!(store.load(first.era, 1).unwrap(), None);
}

/// There is no room for a folder's new file: what the commit is for goes on, and the folder stays as it was.
#[test]
fn a_folder_that_cannot_be_written_anew_stays_and_fails_no_commit() {
    let temp = tempfile::tempdir().unwrap();
    let (mut store, first, mut second) = two_eras(temp.path(), 800);
    begin(&mut store, &mut second, Vec::new());
    let (db, new) = ("eras/00000000000000000001/db", "eras/00000000000000000001/.db.tmp");
    let (db, new) = (temp.path().join(db), temp.path().join(new));
    let before = fs::read(&db).unwrap();
    // Whatever is written there is refused.
    fs::create_dir(&new).unwrap();
    let shed = [range(&first, (3, 90)), range(&first, (120, 140)), range(&first, (150, 199))];
    for shed in &shed[..2] {
        store.commit(Batch { entries: second.records(3), shed: vec![*shed], ..Batch::default() }).unwrap();
        let events = store.take_events();
        assert!(matches!(&events[..], [Found::NotRewritten { era: 1, .. }]), "{events:?}");
        assert_eq!(fs::read(&db).unwrap(), before);
        assert_eq!(check_segments(&mut store, &first, &[], "refused"), BTreeSet::new());
    }
    // There is room again, and more gives way: so does what should have.
    fs::remove_dir(&new).unwrap();
    store.commit(Batch { shed: vec![shed[2]], ..Batch::default() }).unwrap();
    assert_eq!((store.take_events(), new.exists()), (vec![], false));
    assert_eq!(check_segments(&mut store, &first, &shed, "with room"), shed_of(&shed));
    drop(store);
    let (mut store, recovered) = Store::open(temp.path(), &limits()).unwrap();
    assert_eq!(recovered.events, []);
    assert_eq!(check_segments(&mut store, &first, &shed, "after a start"), shed_of(&shed));
}

/// Nothing more gives way, and the device does not start again: the folder is tried again all the same, after so many commits,
/// and what is dead in it is told until then.
#[test]
fn a_folder_that_could_not_be_written_anew_is_tried_again_some_commits_later() {
    let temp = tempfile::tempdir().unwrap();
    let (mut store, first, mut second) = two_eras(temp.path(), 800);
    begin(&mut store, &mut second, Vec::new());
    let new = temp.path().join("eras/00000000000000000001/.db.tmp");
    fs::create_dir(&new).unwrap();
    let shed = range(&first, (0, 100));
    store.commit(Batch { shed: vec![shed], ..Batch::default() }).unwrap();
    let folder = store.older[&1].used_bytes;
    let Taken { used_bytes, dead_bytes } = store.taken();
    assert_eq!(used_bytes, store.used_bytes());
    assert!((folder / 3..folder * 2 / 3).contains(&dead_bytes), "some half of it: {dead_bytes} of {folder}");
    assert!(matches!(&store.take_events()[..], [Found::NotRewritten { era: 1, .. }]));
    let mut tries = Vec::new();
    for commit in 1..=200 {
        store.commit(Batch { entries: second.records(1), ..Batch::default() }).unwrap();
        tries.extend(store.take_events().iter().map(|_| commit));
    }
    assert_eq!(tries, [16, 48, 112], "each time it waits for twice as long");
    assert_eq!(store.taken().dead_bytes, dead_bytes);
    fs::remove_dir(&new).unwrap();
    for _ in 0..RETRY_COMMITS_MAX {
        store.commit(Batch { entries: second.records(1), ..Batch::default() }).unwrap();
    }
    assert_eq!((store.take_events(), store.taken().dead_bytes, store.retry), (vec![], 0, None));
    assert!(store.older[&1].used_bytes < folder * 2 / 3, "{} of {folder}", store.older[&1].used_bytes);
    assert_eq!(check_segments(&mut store, &first, &[shed], "tried again"), shed_of(&[shed]));
}

/// Steps grow with the runs, not with their square: that would take this test from seconds to an hour.
#[test]
fn very_many_short_runs_give_way() {
    const RUNS: u64 = 20_000;
    let temp = tempfile::tempdir().unwrap();
    drop(Store::open(temp.path(), &limits()).unwrap());
    // Segments of one record each, in a plain file of frames. What they say is the same: nobody reads it here.
    let mut first = Writing::start(1, 0);
    let (Some(Entry::Record(record)), Entry::Segment(segment)) = (first.records(1).pop(), first.close()) else {
        panic!("no record and its segment")
    };
    let copied = |entry| row::Row::Entry(entry, row::Commit::COPIED);
    let rows = (0..2 * RUNS).flat_map(|index| {
        let segment = StoredSegment { segment: index, first_index: index, ..segment.clone() };
        [Entry::Record(StoredRecord { index, ..record.clone() }), Entry::Segment(segment)].map(copied)
    });
    let frames = [row::Row::Begun(first.era)].into_iter().chain(rows).flat_map(|row| row.to_frame());
    let dir = temp.path().join("eras/00000000000000000001");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("db"), frames.collect::<Vec<u8>>()).unwrap();

    let (mut store, recovered) = Store::open(temp.path(), &limits()).unwrap();
    assert_eq!(recovered.eras[0].segments, 2 * RUNS);
    let mut second = Writing::start(2, 0);
    begin(&mut store, &mut second, Vec::new());
    let every_other = (0..RUNS).map(|run| (2 * run, 2 * run + 1));
    let shed = every_other.map(|at| Shed { era: first.era, segments: at, records: at }).collect();
    store.commit(Batch { shed, ..Batch::default() }).unwrap();
    let check = |store: &mut Store, context: &str| {
        assert_eq!(store.older[&1].counts[&first.era] as u64, 3 * RUNS, "{context}");
        for segment in 0..2 * RUNS {
            let given = store.given.holds_segment(first.era, segment);
            assert_eq!(given, segment % 2 == 0, "{context}: {segment}");
        }
        let loaded = store.load(first.era, RUNS).unwrap();
        assert!(matches!(loaded, Some(Loaded::Shed(_))), "{context}: {loaded:?}");
    };
    check(&mut store, "at once");
    drop(store);
    let (mut store, recovered) = Store::open(temp.path(), &limits()).unwrap();
    assert_eq!((recovered.events, recovered.eras[0].damage.clone()), (vec![], None));
    check(&mut store, "after a start");
    let survey = Survey::look(temp.path()).unwrap();
    assert_eq!(survey.eras()[0].lost, []);
}
