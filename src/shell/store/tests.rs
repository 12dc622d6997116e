//! What needs to look inside a commit. The rest is in `tests/it/store.rs`.

use std::cell::RefCell;
use std::rc::Rc;

use ed25519_dalek::SigningKey;

use super::*;
use crate::agent::effects::{StoredRecord, StoredSegment};
use crate::agent::salvage::Boundary;
use crate::ids::Hash;
use crate::profile::Profile;
use crate::time::Timestamp;
use crate::wire::audit::segment::{grow, SegmentHeader};
use crate::wire::audit::{extend, genesis, Event, Evidence, Record};

mod loss;
mod shed;

const SEGMENT_RECORDS: u32 = 4;
/// The first record of the last commit of [`one_era`].
const LAST_COMMIT: u64 = 290;

/// As much of an agent as makes batches: numbers, chains and closes segments.
struct Writing {
    era: EraId,
    next_index: u64,
    segments: u64,
    open: Vec<Record>,
    previous: Hash,
    head: Hash,
    generation: u64,
}

impl Writing {
    fn start(number: u64, generation: u64) -> Self {
        let era = EraId { number, salt: number * 31 };
        let head = genesis(&"acme".parse().unwrap(), &"gw-07".parse().unwrap(), era);
        Self { era, next_index: 0, segments: 0, open: Vec::new(), previous: head, head, generation }
    }

    fn records(&mut self, count: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        for _ in 0..count {
            let source = letter(self.next_index).repeat(150 + self.next_index as usize % 90);
            let event = Event::Refused(Evidence { source, reason: "r".into(), digest: Hash::ZERO, count: 1 });
            let time = Timestamp(self.next_index);
            let record = Record { index: self.next_index, floor: time, powered: time, event };
            let bytes = record.to_bytes();
            self.head = extend(self.head, &bytes);
            self.open.push(record);
            let record = StoredRecord { era: self.era, index: self.next_index, bytes, budgets: Vec::new() };
            entries.push(Entry::Record(record));
            self.next_index += 1;
            if self.open.len() == SEGMENT_RECORDS as usize {
                entries.push(self.close());
            }
        }
        entries
    }

    /// Closes what is open, full or not.
    fn close(&mut self) -> Entry {
        let count = self.open.len() as u32;
        let header = SegmentHeader {
            device: "gw-07".parse().unwrap(),
            era: self.era,
            segment: self.segments,
            first_index: self.next_index - u64::from(count),
            count,
            previous: self.previous,
            root: grow(&self.open).1,
            closed_at: Timestamp(1),
            recovered: false,
            signer: None,
            feeds: Vec::new(),
            salvage: None,
        };
        let signed = Signed::sign(&header, &"acme".parse().unwrap(), &[&SigningKey::from_bytes(&[1; 32])]);
        self.open.clear();
        self.head = header.head();
        self.previous = self.head;
        self.segments += 1;
        Entry::Segment(StoredSegment {
            era: self.era,
            segment: header.segment,
            first_index: header.first_index,
            count: header.count,
            head: self.head,
            header: signed.to_bytes(),
        })
    }

    fn anchor(&mut self) -> Option<Box<Anchor>> {
        self.generation += 1;
        let anchor = Anchor { generation: self.generation, era: Some(self.era), ..Anchor::default() };
        Some(Box::new(Anchor { next_index: self.next_index, head: self.head, ..anchor }))
    }
}

/// What a record is full of.
fn letter(index: u64) -> String {
    char::from(b' ' + (index % 90) as u8).into()
}

fn limits() -> QueueLimits {
    Profile::default().queue
}

fn file(content: &str) -> Vec<FileWrite> {
    vec![FileWrite { file: StateFile::Bundle, content: content.into() }]
}

/// Every record of an era that can be had, as a start finds it.
fn served(store: &mut Store, image: &EraImage) -> BTreeSet<u64> {
    let mut indexes: BTreeSet<u64> = image.records.iter().map(|record| record.index).collect();
    for segment in 0..image.segments {
        if let Some(upload) = store.load(image.id, segment).unwrap().and_then(Loaded::whole) {
            let header = upload.header.claim().unwrap();
            indexes.extend(upload.check(&header).unwrap().iter().map(|record| record.index));
        }
    }
    indexes
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The folder as it was at some step, and what callers had been told by then.
struct Cut {
    dir: PathBuf,
    step: &'static str,
    told: BTreeMap<u64, u64>,
    generation: u64,
    bundle: Option<&'static str>,
    dropped: bool,
}

#[test]
fn a_cut_at_any_step_loses_nothing_that_was_told() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    let cuts = Rc::new(RefCell::new(Vec::<Cut>::new()));
    let told = Rc::new(RefCell::new((BTreeMap::new(), 0, None, false)));
    let hook = {
        let (cuts, told, dir, temp) = (cuts.clone(), told.clone(), dir.clone(), temp.path().to_owned());
        move |step| {
            let (told, generation, bundle, dropped) = told.borrow().clone();
            let copy = temp.join(format!("cut-{}", cuts.borrow().len()));
            copy_dir(&dir, &copy);
            cuts.borrow_mut().push(Cut { dir: copy, step, told, generation, bundle, dropped });
        }
    };
    let open = || {
        let (mut store, recovered) = Store::open(&dir, &limits()).unwrap();
        assert_eq!(recovered.events, []);
        store.at_step = Some(Box::new(hook.clone()));
        store
    };
    // Enrolment: files and an anchor without an era.
    let enrolled = Anchor { generation: 1, ..Anchor::default() };
    open().commit(Batch { files: file("enrolled"), anchor: Some(Box::new(enrolled)), ..Batch::default() }).unwrap();
    let mut generation = 1;
    told.borrow_mut().1 = generation;
    for start in 1..=4_u64 {
        let mut store = open();
        let mut writing = Writing::start(start, generation);
        let content = ["", "start 1", "start 2", "start 3", "start 4"][start as usize];
        // A large first era stays a folder of its own, so that it is dropped while rows of it are marked dead.
        for commit in 0..if start == 1 { 140 } else { 3 } {
            let mut batch = Batch { entries: writing.records(if start == 1 { 4 } else { 3 }), ..Batch::default() };
            if commit == 0 {
                batch.begin_era = Some(writing.era);
                batch.files = file(content);
                batch.anchor = writing.anchor();
            }
            if commit == 2 && start == 4 {
                batch.drop_eras = vec![Writing::start(1, 0).era, Writing::start(3, 0).era];
                batch.remove = vec![StateFile::Policy];
                batch.anchor = writing.anchor();
            }
            if start == 1 && commit == 3 {
                store.at_step = None;
            }
            store.commit(batch).unwrap();
            let mut told = told.borrow_mut();
            told.0.insert(start, writing.next_index);
            (told.1, told.2, told.3) = (writing.generation, Some(content), start == 4 && commit == 2);
        }
        generation = writing.generation;
    }
    let cuts = cuts.take();
    let steps: BTreeSet<_> = cuts.iter().map(|cut| cut.step).collect();
    let all = ["anchor", "begun", "file", "flushed", "folded", "marked", "removed", "renamed", "retired", "synced"];
    assert_eq!(steps, BTreeSet::from(all));
    for cut in cuts {
        let (mut store, recovered) = Store::open(&cut.dir, &limits()).unwrap();
        let context = format!("{} at {}", cut.dir.display(), cut.step);
        assert_eq!(recovered.events, [], "{context}");
        assert!(recovered.anchor.map_or(0, |anchor| anchor.generation) >= cut.generation, "{context}");
        let bundle = recovered.files.first().map(|(_, content)| content.clone());
        assert!(bundle >= cut.bundle.map(Vec::from), "{context}");
        let mut found = BTreeMap::new();
        for image in &recovered.eras {
            assert_eq!(image.damage, None, "{context}");
            let served = served(&mut store, image);
            assert_eq!(served.len() as u64, served.last().map_or(0, |last| last + 1), "{context}: no hole");
            found.insert(image.id.number, served.len() as u64);
        }
        let last_start = cut.told.contains_key(&4);
        let may_be_dropped = cut.dropped || (last_start && ["marked", "removed", "renamed"].contains(&cut.step));
        for (era, records) in &cut.told {
            let found = found.get(era).copied();
            let gone = found.is_none() && may_be_dropped && [1, 3].contains(era);
            assert!(gone || found >= Some(*records), "{context}: era {era} has {found:?} of {records}");
        }
    }
}

/// Power goes after the rows of an older folder were copied to a new era's, and then that older folder rots.
#[test]
fn rows_in_the_folder_of_an_era_that_never_came_to_be_are_kept() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, cut) = (temp.path().join("state"), temp.path().join("cut"));
    let (mut store, _) = Store::open(&dir, &limits()).unwrap();
    let mut first = Writing::start(1, 0);
    let batch =
        Batch { begin_era: Some(first.era), entries: first.records(9), anchor: first.anchor(), ..Batch::default() };
    store.commit(batch).unwrap();
    drop(store);
    let (mut store, _) = Store::open(&dir, &limits()).unwrap();
    store.at_step = Some(Box::new({
        let (dir, cut) = (dir.clone(), cut.clone());
        move |step| {
            if step == "folded" {
                copy_dir(&dir, &cut);
            }
        }
    }));
    let mut second = Writing::start(2, first.generation);
    let batch =
        Batch { begin_era: Some(second.era), entries: second.records(1), anchor: second.anchor(), ..Batch::default() };
    store.commit(batch).unwrap();

    fs::remove_dir_all(cut.join("eras/00000000000000000001")).unwrap();
    let (mut store, recovered) = Store::open(&cut, &limits()).unwrap();
    let numbers: Vec<_> = recovered.eras.iter().map(|image| (image.id.number, image.damage.clone())).collect();
    assert_eq!(numbers, [(1, None), (2, None)], "the second is there with nothing in it, so that its number is taken");
    assert_eq!(served(&mut store, &recovered.eras[0]).len(), 9);
    let third = EraId { number: 3, salt: 3 };
    store.commit(Batch { begin_era: Some(third), drop_eras: vec![second.era], ..Batch::default() }).unwrap();
    drop(store);
    let (mut store, recovered) = Store::open(&cut, &limits()).unwrap();
    assert_eq!(served(&mut store, &recovered.eras[0]).len(), 9);
}

/// The disk keeps any of the sectors that were written since the last sync, and loses the others.
#[test]
fn a_power_cut_that_keeps_some_unsynced_sectors_is_no_damage() {
    const SECTOR: usize = 512;
    let temp = tempfile::tempdir().unwrap();
    let (dir, cut) = (temp.path().join("state"), temp.path().join("cut"));
    let db = "eras/00000000000000000001/db";
    let (mut store, _) = Store::open(&dir, &limits()).unwrap();
    let mut writing = Writing::start(1, 0);
    store.commit(Batch { begin_era: Some(writing.era), anchor: writing.anchor(), ..Batch::default() }).unwrap();
    let flushed = Rc::new(RefCell::new(Vec::new()));
    store.at_step = Some(Box::new({
        let (flushed, db) = (flushed.clone(), dir.join(db));
        move |step| {
            if step == "flushed" {
                *flushed.borrow_mut() = fs::read(&db).unwrap();
            }
        }
    }));
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..80 {
        let (told, synced) = (writing.next_index, fs::read(dir.join(db)).unwrap());
        let entries = writing.records(1 + round * 7 % 40);
        store.commit(Batch { entries, ..Batch::default() }).unwrap();
        let written = flushed.borrow();
        assert_ne!(*written, synced, "a commit writes");
        let mut torn = synced;
        torn.resize(written.len(), 0);
        for (kept, new) in torn.chunks_mut(SECTOR).zip(written.chunks(SECTOR)) {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            if random % 2 == 0 {
                kept.copy_from_slice(new);
            }
        }
        let _ = fs::remove_dir_all(&cut);
        copy_dir(&dir, &cut);
        fs::write(cut.join(db), &torn).unwrap();
        let (mut store, recovered) = Store::open(&cut, &limits()).unwrap();
        assert_eq!(recovered.events, [], "round {round}");
        let served: BTreeSet<u64> = recovered.eras.iter().flat_map(|image| served(&mut store, image)).collect();
        assert_eq!(served.len() as u64, served.last().map_or(0, |last| last + 1), "round {round}: no hole");
        assert!(served.len() as u64 >= told, "round {round}: {} of {told}", served.len());
    }
}

/// One era of 300 records, all of them seen by the anchor.
fn one_era(dir: &Path) -> Writing {
    let (mut store, _) = Store::open(dir, &limits()).unwrap();
    let mut writing = Writing::start(7, 0);
    store.commit(Batch { begin_era: Some(writing.era), ..Batch::default() }).unwrap();
    for _ in 0..30 {
        let entries = writing.records(10);
        store.commit(Batch { entries, anchor: writing.anchor(), ..Batch::default() }).unwrap();
    }
    writing
}

fn db(dir: &Path) -> PathBuf {
    dir.join("eras/00000000000000000007/db")
}

#[test]
fn damage_anywhere_is_seen_and_costs_only_what_it_hit() {
    let temp = tempfile::tempdir().unwrap();
    let whole = temp.path().join("whole");
    one_era(&whole);
    let bytes = fs::read(db(&whole)).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let every = |step: usize| (0..end).step_by(step);
    let flips = every(19997).map(|at| (at..at + 1, 0xa5));
    let scratches = every(29989).map(|at| (at..at + 64, 0x5a));
    let pages = every(4096 * 11).map(|at| (at..at + 4096, 0));
    for (range, with) in flips.chain(scratches).chain(pages) {
        let mut damaged = bytes.clone();
        let range = range.start..range.end.min(damaged.len());
        let len = range.len();
        damaged[range.clone()].iter_mut().for_each(|byte| *byte = if with == 0 { 0 } else { *byte ^ with });
        let lost = check_damage(&whole, temp.path(), &damaged, &format!("{range:?} {with:#x}"));
        // Of the last commit, what comes after a hole goes too: a power cut before its sync leaves it so.
        let hit = lost.iter().filter(|index| **index < LAST_COMMIT);
        // A row is some 200 bytes; what is hit on either side, and a segment's row with it.
        assert!(hit.count() <= (len / 150 + 2) * SEGMENT_RECORDS as usize, "{range:?}: {lost:?}");
    }
    for at in [0, 1, 100, end / 4, end / 2, end - 300] {
        let lost = check_damage(&whole, temp.path(), &bytes[..at], &format!("cut at {at}"));
        assert!(!lost.is_empty() || at == end - 300, "cut at {at}");
        let torn: Vec<u8> = bytes.iter().enumerate().map(|(i, byte)| if i < at { *byte } else { 0 }).collect();
        check_damage(&whole, temp.path(), &torn, &format!("zero from {at}"));
        let noise: Vec<u8> = bytes.iter().enumerate().map(|(i, b)| if i < at { *b } else { (i * 167) as u8 }).collect();
        check_damage(&whole, temp.path(), &noise, &format!("noise from {at}"));
    }
}

/// Opens a copy with another `db`, begins an era and opens again. Returns what of the old era is not served.
#[track_caller]
fn check_damage(whole: &Path, temp: &Path, content: &[u8], context: &str) -> BTreeSet<u64> {
    let dir = temp.join("damaged");
    let _ = fs::remove_dir_all(&dir);
    copy_dir(whole, &dir);
    fs::write(db(&dir), content).unwrap();

    let (mut store, recovered) = Store::open(&dir, &limits()).unwrap();
    let anchor = recovered.anchor.unwrap();
    let image = recovered.eras.first().expect(context);
    assert_eq!(recovered.eras.len(), 1, "{context}");
    assert_eq!(Some(image.id), anchor.era, "{context}");
    let before = served(&mut store, image);
    let lost: BTreeSet<u64> = (0..anchor.next_index).filter(|index| !before.contains(index)).collect();
    assert!(lost.is_empty() || image.damage.is_some(), "{context}: {lost:?} lost and nothing said");
    assert_eq!(recovered.events.is_empty(), image.damage.is_none(), "{context}");

    let mut next = Writing::start(8, anchor.generation);
    let entries = next.records(3);
    let batch = Batch { begin_era: Some(next.era), entries, anchor: next.anchor(), ..Batch::default() };
    store.commit(batch).unwrap();
    assert_eq!(served(&mut store, image), before, "{context}: all of it is still there after it was moved");
    let quarantined = dir.join("quarantine/00000000000000000007").exists();
    assert_eq!(quarantined, image.damage.is_some(), "{context}");

    drop(store);
    let (mut store, again) = Store::open(&dir, &limits()).unwrap();
    assert_eq!(again.events, [], "{context}: told once");
    let after: BTreeSet<u64> =
        again.eras.iter().filter(|image| image.id.number == 7).flat_map(|image| served(&mut store, image)).collect();
    let at_end = |index: &&u64| after.contains(index) || **index >= image.closed_index;
    assert!(before.iter().all(|index| at_end(&index)), "{context}");
    assert_eq!(again.eras.last().unwrap().records.len(), 3, "{context}");
    lost
}

/// Where segments of an era of which something was lost begin and end.
fn boundary(segment: u64, head: Hash) -> Boundary {
    Boundary { segment, index: segment * u64::from(SEGMENT_RECORDS), head }
}

#[test]
fn what_is_left_around_a_damaged_row_is_gathered_before_and_after_it_is_moved() {
    let temp = tempfile::tempdir().unwrap();
    one_era(temp.path());
    let path = db(temp.path());
    let mut bytes = fs::read(&path).unwrap();
    // The bytes of record 22, in every copy of it.
    let frames: Vec<usize> =
        (0..bytes.len() - 100).filter(|at| bytes[*at..at + 100] == *letter(22).repeat(100).as_bytes()).collect();
    frames.iter().for_each(|at| bytes[at + 50] = 0);
    fs::write(&path, &bytes).unwrap();

    let (mut store, recovered) = Store::open(temp.path(), &limits()).unwrap();
    let image = &recovered.eras[0];
    assert!(image.damage.is_some());
    assert_eq!(store.load(image.id, 5).unwrap(), None);
    let head = |store: &mut Store, segment| store.load(image.id, segment).unwrap().unwrap().header().claim().unwrap();
    let (before, after) = (head(&mut store, 4).head(), head(&mut store, 6).previous);
    let end = Boundary { segment: image.segments, index: image.closed_index, head: image.closed_head };
    let hole = Hole { era: image.id, from: boundary(5, before), end };
    let check = |store: &mut Store| {
        let remains = store.gather(&hole).unwrap();
        assert_eq!(remains.records.iter().map(|record| record.index).collect::<Vec<_>>(), [20, 21, 23]);
        assert_eq!(remains.next, boundary(6, after));
    };
    check(&mut store);
    let mut next = Writing::start(8, recovered.anchor.unwrap().generation);
    let batch =
        Batch { begin_era: Some(next.era), entries: next.records(3), anchor: next.anchor(), ..Batch::default() };
    store.commit(batch).unwrap();
    check(&mut store);
    drop(store);
    for _ in 0..3 {
        let (mut store, recovered) = Store::open(temp.path(), &limits()).unwrap();
        assert_eq!(recovered.events, [], "told once, and no loop");
        assert!(recovered.eras[0].damage.is_some(), "the agent knows it for as long as it is there");
        check(&mut store);
    }
}

/// A folder whose format is gone is new only where there is nothing that a store writes.
#[test]
fn state_without_a_format_is_neither_read_nor_begun_anew() {
    let temp = tempfile::tempdir().unwrap();
    let none = [".bundle.tmp", ".format.tmp", "certificate", "device.key", "lock", "notes.txt", "wallet/notes.txt"];
    let state = ["anchor.0", "audit.key", "bundle", "eras/00000000000000000001/db", "feed/main", "policy"];
    let state = state.into_iter().chain(["quarantine/00000000000000000001/db", "wallet/task-t-1"]);
    let all = none.map(|path| (path, true)).into_iter().chain(state.map(|path| (path, false)));
    for ((path, is_new), number) in all.zip(0..) {
        let dir = temp.path().join(number.to_string());
        let file = dir.join(path);
        crate::shell::files::create_dir(file.parent().unwrap()).unwrap();
        fs::write(&file, "something").unwrap();
        let before = names(&dir);
        let looked = peek(&dir).map(drop);
        assert_eq!(names(&dir), before, "{path}: looking changes nothing");
        let opened = Store::open(&dir, &limits()).map(drop);
        assert_eq!((opened.is_ok(), looked.is_ok()), (is_new, is_new), "{path}: {opened:?}");
        if let Err(error) = opened {
            assert!(matches!(error, StoreError::UnknownFormat { .. }), "{path}: {error}");
            assert!(error.to_string().contains(&format!("echo 1 > {}", dir.join("format").display())), "{error}");
            assert_eq!(names(&dir), before, "{path}: nothing is made beside it");
        }
    }
}

/// A change of format that power cut short before it was named changed nothing, and one of which only the name is there
/// is refused whatever else there is.
#[test]
fn a_change_of_format_counts_from_its_name_on() {
    let temp = tempfile::tempdir().unwrap();
    one_era(temp.path());
    for half in ["", "2", "2\n"] {
        fs::write(temp.path().join(".format.tmp"), half).unwrap();
        let (_, recovered) = Store::open(temp.path(), &limits()).unwrap();
        assert_eq!((recovered.events, recovered.eras.len()), (Vec::new(), 1), "{half:?}");
    }
    fs::rename(temp.path().join(".format.tmp"), temp.path().join("format")).unwrap();
    for error in [Store::open(temp.path(), &limits()).map(drop).unwrap_err(), peek(temp.path()).map(drop).unwrap_err()]
    {
        assert!(matches!(error, StoreError::NewerFormat { found: 2, .. }), "{error}");
    }
}

/// All paths in a folder.
fn names(dir: &Path) -> Vec<PathBuf> {
    let mut names = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            names.push(entry.path());
            open.extend(entry.path().is_dir().then(|| entry.path()));
        }
    }
    names.sort();
    names
}

#[test]
fn a_healthy_file_of_many_rewrites_shows_no_damage() {
    let temp = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(temp.path(), &limits()).unwrap();
    let mut writing = Writing::start(1, 0);
    store.commit(Batch { begin_era: Some(writing.era), anchor: writing.anchor(), ..Batch::default() }).unwrap();
    for round in 0..400 {
        let entries = writing.records(1 + round % 17);
        store.commit(Batch { entries, ..Batch::default() }).unwrap();
    }
    let expected: Vec<_> =
        (0..writing.segments).map(|segment| store.load(writing.era, segment).unwrap().unwrap()).collect();
    drop(store);
    let (mut store, recovered) = Store::open(temp.path(), &limits()).unwrap();
    assert_eq!(recovered.events, []);
    assert_eq!(recovered.eras[0].damage, None);
    assert_eq!(served(&mut store, &recovered.eras[0]).len() as u64, writing.next_index);
    for (segment, upload) in (0..).zip(expected) {
        assert_eq!(store.load(writing.era, segment).unwrap(), Some(upload), "through sled and without it the same");
    }
    assert!(!temp.path().join("eras/00000000000000000001/blobs").read_dir().unwrap().any(|_| true));
}

#[test]
fn the_largest_rows_stay_out_of_files_that_nobody_syncs() {
    let temp = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(temp.path(), &limits()).unwrap();
    let era = EraId { number: 1, salt: 1 };
    store.commit(Batch { begin_era: Some(era), ..Batch::default() }).unwrap();
    let record =
        |index, bytes| Entry::Record(StoredRecord { era, index, bytes: vec![index as u8; bytes], budgets: Vec::new() });
    let largest = row::FRAME_BYTES_MAX - 40;
    for index in 0..200 {
        store.commit(Batch { entries: vec![record(index, largest)], ..Batch::default() }).unwrap();
    }
    assert!(!temp.path().join("eras/00000000000000000001/blobs").read_dir().unwrap().any(|_| true));
    let refused = store.commit(Batch { entries: vec![record(200, largest + 64)], ..Batch::default() });
    assert!(matches!(refused, Err(StoreError::RowTooLarge { .. })));
    let after = store.commit(Batch { entries: vec![record(200, 1)], ..Batch::default() });
    assert!(matches!(after, Err(StoreError::Failed)), "a batch that failed ends this store");
}

#[test]
fn more_rows_than_memory_may_point_at_are_still_found() {
    let temp = tempfile::tempdir().unwrap();
    let written = one_era(temp.path());
    let (mut store, recovered) = Store::open(temp.path(), &limits()).unwrap();
    store.older.values_mut().for_each(Older::forget_places);
    assert_eq!(served(&mut store, &recovered.eras[0]).len() as u64, written.next_index);
}

#[test]
fn an_audit_key_that_others_may_read_signs_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.key");
    let (mut store, _) = Store::open(dir.path(), &limits()).unwrap();
    let files = vec![FileWrite { file: StateFile::AuditKey, content: b"key".to_vec() }];
    store.commit(Batch { files, ..Batch::default() }).unwrap();
    drop(store);
    let open = || Store::open(dir.path(), &limits()).map(|(_, found)| found.files.len());
    assert_eq!(open().unwrap(), 1);
    for mode in [0o640, 0o604, 0o620, 0o666] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        for error in [open().unwrap_err(), peek(dir.path()).map(drop).unwrap_err()] {
            let advice = format!("chmod 600 {}", path.display());
            assert!(error.to_string().contains(&advice), "{mode:o}: {error}");
        }
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(open().unwrap(), 1, "and nothing was lost by it");
}
