//! Records that are given up for want of room, and power that goes meanwhile.

use super::*;
use crate::agent::room::Class;

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
            // It goes on: the same may be given up again.
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
    assert!(store.load(first.era, 50).unwrap().is_some_and(|loaded| loaded.whole().is_some()));
    assert_eq!(store.load(first.era, 1).unwrap(), None);
}
