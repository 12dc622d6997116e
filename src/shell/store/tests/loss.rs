//! Whose loss it is when something of a folder is damaged that holds rows of several eras.

use super::*;
use crate::agent::effects::EraMark;

/// A first era that ended with two records that no segment covers, and a second one whose start closed them. `records` are
/// so many that they are copied, or not.
fn closed_by_a_later_start(dir: &Path, records: usize) -> Writing {
    let (mut store, _) = Store::open(dir, &limits()).unwrap();
    let mut first = Writing::start(1, 0);
    let mut batch = Batch { begin_era: Some(first.era), entries: first.records(records), ..Batch::default() };
    batch.anchor = first.anchor();
    store.commit(batch).unwrap();
    drop(store);
    let (mut store, recovered) = Store::open(dir, &limits()).unwrap();
    assert_eq!((recovered.events, recovered.eras[0].records.len()), (vec![], 2), "two that no segment covers");
    let mut second = Writing::start(2, first.generation);
    let mut entries = vec![first.close()];
    entries.extend(second.records(9));
    let mut anchor = second.anchor().unwrap();
    anchor.earlier =
        vec![EraMark { era: first.era, held_index: 0, signed_index: first.next_index, next_index: first.next_index }];
    let batch = Batch { begin_era: Some(second.era), entries, anchor: Some(anchor), ..Batch::default() };
    store.commit(batch).unwrap();
    first
}

/// Changes a byte in every copy of a row.
fn damage(dir: &Path, era: u64, row: &[u8]) {
    let db = dir.join(format!("eras/{era:020}/db"));
    let mut bytes = fs::read(&db).unwrap();
    let places: Vec<usize> = (0..bytes.len() - row.len()).filter(|at| bytes[*at..].starts_with(row)).collect();
    assert!(!places.is_empty(), "it is in the folder of era {era}");
    places.iter().for_each(|at| bytes[at + row.len() / 2] ^= 0x40);
    fs::write(&db, bytes).unwrap();
}

/// Which eras a start finds damaged; and that it finds it once.
#[track_caller]
fn found(dir: &Path) -> Vec<u64> {
    let (mut store, recovered) = Store::open(dir, &limits()).unwrap();
    let damaged = recovered.eras.iter().filter(|image| image.damage.is_some());
    let damaged: Vec<u64> = damaged.map(|image| image.id.number).collect();
    assert_eq!(recovered.events.is_empty(), damaged.is_empty(), "{:?}", recovered.events);
    let mut third = Writing::start(3, 10);
    let entries = third.records(1);
    store.commit(Batch { begin_era: Some(third.era), entries, anchor: third.anchor(), ..Batch::default() }).unwrap();
    drop(store);
    let (_, again) = Store::open(dir, &limits()).unwrap();
    assert_eq!(again.events, [], "told once");
    damaged
}

/// Else the era would be closed once more, and otherwise: two signed headers for one place, of which a broker that has
/// held the first one back makes a fork.
#[test]
fn a_lost_segment_is_of_the_era_that_it_closed_wherever_it_was_written() {
    for records in [10, 802] {
        let temp = tempfile::tempdir().unwrap();
        let first = closed_by_a_later_start(temp.path(), records);
        // The same segment once more: what is in the folder.
        let mut other = Writing::start(1, 0);
        other.records(records);
        let Entry::Segment(closed) = other.close() else { panic!("no segment") };
        assert_eq!((closed.first_index, first.segments), (records as u64 - 2, closed.segment + 1));
        damage(temp.path(), 2, &closed.header);
        assert_eq!(found(temp.path()), [1], "of {records} records");
    }
}

#[test]
fn a_lost_copy_is_of_the_era_that_it_was_copied_from() {
    let temp = tempfile::tempdir().unwrap();
    closed_by_a_later_start(temp.path(), 10);
    // The second era has no record of this number.
    damage(temp.path(), 2, letter(9).repeat(150).as_bytes());
    assert_eq!(found(temp.path()), [1]);
    // And its own is its own.
    let temp = tempfile::tempdir().unwrap();
    closed_by_a_later_start(temp.path(), 802);
    damage(temp.path(), 2, letter(5).repeat(150).as_bytes());
    assert_eq!(found(temp.path()), [2]);
}

#[test]
fn with_a_folder_goes_what_an_older_era_was_closed_with() {
    let temp = tempfile::tempdir().unwrap();
    closed_by_a_later_start(temp.path(), 802);
    fs::remove_dir_all(temp.path().join("eras/00000000000000000002")).unwrap();
    let (_, recovered) = Store::open(temp.path(), &limits()).unwrap();
    let damage = |at: usize| recovered.eras[at].damage.clone().unwrap_or_default();
    assert_eq!(damage(0), "its segments end before record 800, the anchor has seen 802 signed");
    assert!(damage(1).starts_with("its folder is gone"), "{}", damage(1));
}

/// An era that a start took for damaged, because it knew nothing of before, ends as it did: that is no damage.
#[test]
fn an_end_that_was_left_to_be_signed_as_it_is_sent_is_no_damage() {
    for (left, damaged) in [(true, vec![]), (false, vec![1])] {
        let temp = tempfile::tempdir().unwrap();
        let (mut store, _) = Store::open(temp.path(), &limits()).unwrap();
        let mut first = Writing::start(1, 0);
        let entries = first.records(802);
        store
            .commit(Batch { begin_era: Some(first.era), entries, anchor: first.anchor(), ..Batch::default() })
            .unwrap();
        let mut second = Writing::start(2, first.generation);
        let entries = second.records(9);
        let mut anchor = second.anchor().unwrap();
        let signed_index = if left { 800 } else { 802 };
        anchor.earlier = vec![EraMark { era: first.era, held_index: 0, signed_index, next_index: 802 }];
        let batch = Batch { begin_era: Some(second.era), entries, anchor: Some(anchor), ..Batch::default() };
        store.commit(batch).unwrap();
        drop(store);
        assert_eq!(found(temp.path()), damaged);
    }
}

/// Whatever a damaged entry was of, it was not of an era of which nothing is waited for any more.
#[test]
fn nothing_is_a_loss_of_a_dropped_era() {
    let temp = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(temp.path(), &limits()).unwrap();
    let mut eras = [1, 2, 3].map(|number| Writing::start(number, 10 * number));
    for (writing, records) in eras.iter_mut().zip([12, 802, 1]) {
        let entries = writing.records(records);
        let batch = Batch { begin_era: Some(writing.era), entries, anchor: writing.anchor(), ..Batch::default() };
        store.commit(batch).unwrap();
    }
    store.commit(Batch { drop_eras: vec![eras[1].era], ..Batch::default() }).unwrap();
    drop(store);
    let db = temp.path().join("eras/00000000000000000002/db");
    let mut bytes = fs::read(&db).unwrap();
    // A row of the first era, and some of the second: their keys, and what follows them.
    let row = letter(9).repeat(150);
    let places: Vec<usize> = (0..bytes.len() - 150).filter(|at| bytes[*at..].starts_with(row.as_bytes())).collect();
    places.iter().for_each(|at| bytes[at - 40..*at].fill(0xff));
    fs::write(&db, bytes).unwrap();
    let (_, recovered) = Store::open(temp.path(), &limits()).unwrap();
    let damaged: Vec<(u64, bool)> = recovered.eras.iter().map(|i| (i.id.number, i.damage.is_some())).collect();
    assert_eq!(damaged, [(1, true), (3, false)]);
}

/// Whose it was cannot be read: it may have been of any era that is there.
#[test]
fn what_cannot_be_named_is_a_loss_of_every_era_that_the_folder_holds() {
    let temp = tempfile::tempdir().unwrap();
    closed_by_a_later_start(temp.path(), 10);
    let db = temp.path().join("eras/00000000000000000002/db");
    let mut bytes = fs::read(&db).unwrap();
    let row = letter(9).repeat(150);
    let places: Vec<usize> = (0..bytes.len() - 150).filter(|at| bytes[*at..].starts_with(row.as_bytes())).collect();
    // The row's key, and what follows it.
    places.iter().for_each(|at| bytes[at - 40..*at].fill(0xff));
    fs::write(&db, bytes).unwrap();
    let (_, recovered) = Store::open(temp.path(), &limits()).unwrap();
    assert!(recovered.eras.iter().any(|image| image.id.number == 1 && image.damage.is_some()), "{recovered:?}");
    assert!(recovered.eras.iter().all(|image| image.id.number <= 2), "no era is made up");
}
