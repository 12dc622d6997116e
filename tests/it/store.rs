//! The store on a real disk: torn, full, read-only, locked, killed, watched by strace.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ed25519_dalek::SigningKey;
use hardtack::agent::effects::{Entry, FileWrite, StateFile, StoredRecord, StoredSegment};
use hardtack::agent::{Anchor, Batch, EraImage};
use hardtack::ids::{EraId, Hash};
use hardtack::profile::{Profile, QueueLimits};
use hardtack::shell::files::FileError;
use hardtack::shell::store::{Event, Recovered, Store, StoreError};
use hardtack::time::Timestamp;
use hardtack::wire::audit::segment::{grow, Loaded, SegmentHeader};
use hardtack::wire::audit::{self, extend, genesis, Evidence, Record};
use hardtack::wire::envelope::Signed;
use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};

use crate::support::strace::{self, Due, Moment};
use crate::support::{cannot_run, check_needs_a_tool};

const SEGMENT_RECORDS: usize = 8;

/// As much of an agent as makes batches: it starts an era, numbers, chains and closes segments.
struct Writing {
    store: Store,
    era: EraId,
    next_index: u64,
    segments: u64,
    previous: Hash,
    head: Hash,
    unsigned: Vec<Record>,
    generation: u64,
}

impl Writing {
    fn start(dir: &Path) -> (Self, Recovered) {
        let (store, recovered) = open(dir).unwrap();
        let anchor = recovered.anchor.clone().unwrap_or_default();
        let number =
            1 + anchor.era.map_or(0, |era| era.number).max(recovered.eras.last().map_or(0, |era| era.id.number));
        let era = EraId { number, salt: number * 7 };
        let head = genesis(&"acme".parse().unwrap(), &"gw-07".parse().unwrap(), era);
        let generation = anchor.generation;
        (
            Self { store, era, next_index: 0, segments: 0, previous: head, head, unsigned: Vec::new(), generation },
            recovered,
        )
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        let batch = Batch { begin_era: Some(self.era), ..self.records(1) };
        let anchor = self.anchor();
        self.store.commit(Batch { anchor, ..batch })
    }

    fn write(&mut self, count: usize) -> Result<(), StoreError> {
        let batch = self.records(count);
        self.store.commit(batch)
    }

    fn records(&mut self, count: usize) -> Batch {
        let mut entries = Vec::new();
        for _ in 0..count {
            let evidence = Evidence { source: "x".repeat(200), reason: "r".into(), digest: Hash::ZERO, count: 1 };
            let time = Timestamp(self.next_index);
            let record =
                Record { index: self.next_index, floor: time, powered: time, event: audit::Event::Refused(evidence) };
            let bytes = record.to_bytes();
            self.head = extend(self.head, &bytes);
            let (era, index) = (self.era, self.next_index);
            entries.push(Entry::Record(StoredRecord { era, index, bytes, budgets: Vec::new() }));
            self.next_index += 1;
            self.unsigned.push(record);
            if self.unsigned.len() == SEGMENT_RECORDS {
                entries.push(self.close());
            }
        }
        Batch { entries, ..Batch::default() }
    }

    fn close(&mut self) -> Entry {
        let header = SegmentHeader {
            device: "gw-07".parse().unwrap(),
            era: self.era,
            segment: self.segments,
            first_index: self.next_index - SEGMENT_RECORDS as u64,
            count: SEGMENT_RECORDS as u32,
            previous: self.previous,
            root: grow(&self.unsigned).1,
            closed_at: Timestamp(1),
            recovered: false,
            signer: None,
            feeds: Vec::new(),
            salvage: None,
        };
        let signed = Signed::sign(&header, &"acme".parse().unwrap(), &[&SigningKey::from_bytes(&[1; 32])]);
        (self.segments, self.head) = (self.segments + 1, header.head());
        self.previous = self.head;
        self.unsigned.clear();
        let (first_index, count, head) = (header.first_index, header.count, header.head());
        let (era, segment, header) = (self.era, header.segment, signed.to_bytes());
        Entry::Segment(StoredSegment { era, segment, first_index, count, head, header })
    }

    fn anchor(&mut self) -> Option<Box<Anchor>> {
        self.generation += 1;
        let (generation, era, next_index, head) = (self.generation, Some(self.era), self.next_index, self.head);
        Some(Box::new(Anchor { generation, era, next_index, head, ..Anchor::default() }))
    }
}

fn limits() -> QueueLimits {
    Profile::default().queue
}

fn open(dir: &Path) -> Result<(Store, Recovered), StoreError> {
    Store::open(dir, &limits())
}

/// How many records of each era can be had, in the order of their numbers without a hole.
fn served(store: &mut Store, eras: &[EraImage]) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    for image in eras {
        let mut next = 0;
        for segment in 0..image.segments {
            let upload = store.load(image.id, segment).unwrap().and_then(Loaded::whole).expect("a segment is missing");
            let header = upload.header.claim().unwrap();
            assert_eq!((header.segment, header.first_index), (segment, next));
            assert_eq!(upload.check(&header).unwrap().len(), SEGMENT_RECORDS);
            next += u64::from(header.count);
        }
        assert_eq!(next, image.closed_index);
        let tail = image.records.iter().filter(|record| record.index >= next);
        for (record, index) in tail.clone().zip(next..) {
            assert_eq!(record.index, index);
        }
        counts.insert(image.id.number, next + tail.count() as u64);
    }
    counts
}

/// A state folder with 3 eras in which 21, 22 and 23 records were told.
fn three_starts(dir: &Path) -> BTreeMap<u64, u64> {
    for start in 0..3 {
        let (mut writing, _) = Writing::start(dir);
        writing.begin().unwrap();
        for _ in 0..5 {
            writing.write(4).unwrap();
        }
        writing.write(start).unwrap_or_default();
    }
    BTreeMap::from([(1, 21), (2, 22), (3, 23)])
}

#[test]
fn what_was_committed_is_there_again() {
    let temp = tempfile::tempdir().unwrap();
    let told = three_starts(temp.path());
    let (mut store, recovered) = open(temp.path()).unwrap();
    assert_eq!(recovered.events, []);
    assert_eq!(served(&mut store, &recovered.eras), told);
    assert_eq!(recovered.anchor.unwrap().era.unwrap().number, 3);
    assert!(recovered.used_bytes > 0 && recovered.used_bytes == store.used_bytes());
    let salt_of_another = EraId { number: 2, salt: 99 };
    assert_eq!(store.load(salt_of_another, 0).unwrap(), None);
    assert_eq!(store.load(recovered.eras[0].id, 99).unwrap(), None);
}

#[test]
fn an_image_begins_where_the_anchor_or_the_segments_end() {
    let temp = tempfile::tempdir().unwrap();
    let (mut writing, _) = Writing::start(temp.path());
    writing.begin().unwrap();
    writing.write(19).unwrap();
    drop(writing.store);
    // The anchor has seen 1 record, the segments hold 16, and 20 are there.
    let (_, recovered) = open(temp.path()).unwrap();
    let image = &recovered.eras[0];
    assert_eq!((image.segments, image.closed_index, image.records.len()), (2, 16, 19));
    assert_eq!(image.records[0].index, 1);
}

#[test]
fn dropped_eras_are_gone_and_their_space_is_given_back() {
    let temp = tempfile::tempdir().unwrap();
    let (mut first, _) = Writing::start(temp.path());
    first.begin().unwrap();
    for _ in 0..40 {
        first.write(64).unwrap();
    }
    let era = first.era;
    drop(first.store);
    let (mut second, _) = Writing::start(temp.path());
    second.begin().unwrap();
    let before = second.store.used_bytes();
    second.store.commit(Batch { drop_eras: vec![era], ..Batch::default() }).unwrap();
    assert!(second.store.used_bytes() < before / 2);
    assert_eq!(second.store.load(era, 0).unwrap(), None);
    drop(second.store);
    let (_, recovered) = open(temp.path()).unwrap();
    assert_eq!(recovered.eras.iter().map(|image| image.id.number).collect::<Vec<_>>(), [2]);
    assert_eq!(recovered.events, []);
}

#[test]
fn an_era_may_begin_in_the_middle_of_a_start() {
    let temp = tempfile::tempdir().unwrap();
    let (mut writing, _) = Writing::start(temp.path());
    writing.begin().unwrap();
    writing.write(600).unwrap();
    let old = writing.era;
    let next = EraId { number: 2, salt: 2 };
    let anchor = writing.anchor();
    writing.store.commit(Batch { begin_era: Some(next), anchor, ..Batch::default() }).unwrap();
    assert!(writing.store.load(old, 0).unwrap().is_some());
    let again = writing.store.commit(Batch { begin_era: Some(old), ..Batch::default() });
    assert!(matches!(again, Err(StoreError::EraExists { .. })));
}

#[test]
fn sixty_starts_in_a_row_keep_few_folders_and_every_record() {
    let temp = tempfile::tempdir().unwrap();
    let mut told = BTreeMap::new();
    for start in 0..60_usize {
        let (mut writing, recovered) = Writing::start(temp.path());
        assert_eq!(recovered.events, []);
        writing.begin().unwrap();
        writing.write(start * 13 % 41).unwrap();
        told.insert(writing.era.number, writing.next_index);
        let folders = fs::read_dir(temp.path().join("eras")).unwrap().count();
        assert!(folders <= 6, "{folders} folders after start {start}");
    }
    let (mut store, recovered) = open(temp.path()).unwrap();
    assert_eq!(served(&mut store, &recovered.eras), told);
}

#[test]
fn one_torn_slot_of_the_anchor_is_ordinary_and_two_are_told() {
    let temp = tempfile::tempdir().unwrap();
    three_starts(temp.path());
    let slots = [temp.path().join("anchor.0"), temp.path().join("anchor.1")];
    let newest = |dir: &Path| open(dir).unwrap().1.anchor.map(|anchor| anchor.generation);
    assert_eq!(newest(temp.path()), Some(3));
    let whole = slots.clone().map(|slot| fs::read(slot).unwrap());
    for cut in [0, 10, 60, 4095] {
        fs::write(&slots[0], &whole[0][..cut]).unwrap();
        let (store, recovered) = open(temp.path()).unwrap();
        let older = recovered.anchor.clone().unwrap();
        if cut < 4095 {
            assert_eq!(older.generation, 2, "cut at {cut}");
            assert!(matches!(recovered.events[..], [Event::SlotUnusable { slot: 0, .. }]), "{:?}", recovered.events);
        }
        drop(store);
    }
    fs::write(&slots[0], &whole[0][..60]).unwrap();
    fs::write(&slots[1], vec![0xff; 4096]).unwrap();
    let (mut store, recovered) = open(temp.path()).unwrap();
    assert_eq!(recovered.anchor, None);
    assert!(recovered.events.contains(&Event::AnchorLost));
    assert_eq!(served(&mut store, &recovered.eras).len(), 3, "the eras are served all the same");
    drop(store);
    slots.iter().for_each(|slot| fs::remove_file(slot).unwrap());
    assert!(open(temp.path()).unwrap().1.events.contains(&Event::AnchorLost));

    fs::write(&slots[0], &whole[0]).unwrap();
    let (mut store, _) = open(temp.path()).unwrap();
    let old = Anchor { generation: 3, ..Anchor::default() };
    let refused = store.commit(Batch { anchor: Some(Box::new(old)), ..Batch::default() });
    assert!(matches!(refused, Err(StoreError::OldAnchor { offered: 3, newest: 3 })));
}

#[test]
fn the_slots_take_turns() {
    let temp = tempfile::tempdir().unwrap();
    let (mut writing, _) = Writing::start(temp.path());
    writing.begin().unwrap();
    for generation in 2..8 {
        let anchor = writing.anchor();
        writing.store.commit(Batch { anchor, ..Batch::default() }).unwrap();
        let read = |slot| fs::read(temp.path().join(slot)).unwrap()[8];
        let mut both = [read("anchor.0"), read("anchor.1")];
        both.sort_unstable();
        assert_eq!(both, [generation - 1, generation]);
    }
}

#[test]
fn files_are_replaced_removed_and_others_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let grant = StateFile::Grant("ab".repeat(16).parse().unwrap());
    let write = |file: &StateFile, content: &str| FileWrite { file: file.clone(), content: content.into() };
    let (mut store, recovered) = open(temp.path()).unwrap();
    assert_eq!((recovered.files.len(), recovered.anchor, recovered.eras.len()), (0, None, 0));
    let feed = StateFile::Feed("main".parse().unwrap());
    let files =
        vec![write(&StateFile::Bundle, "b1"), write(&grant, "g"), write(&feed, "f"), write(&StateFile::Bundle, "b2")];
    store.commit(Batch { files, ..Batch::default() }).unwrap();
    store.commit(Batch { remove: vec![grant, StateFile::Policy], ..Batch::default() }).unwrap();
    drop(store);
    fs::write(temp.path().join("wallet/.task-t-1.tmp"), "half").unwrap();
    fs::write(temp.path().join("wallet/notes.txt"), "a person's").unwrap();
    fs::write(temp.path().join("eras/README"), "a person's").unwrap();
    fs::create_dir(temp.path().join("eras/7")).unwrap();
    let (_, recovered) = open(temp.path()).unwrap();
    assert_eq!(recovered.files, [(StateFile::Bundle, b"b2".to_vec()), (feed, b"f".to_vec())]);
    assert!(!temp.path().join("wallet/.task-t-1.tmp").exists());
    assert!(temp.path().join("wallet/notes.txt").exists() && temp.path().join("eras/README").exists());
    assert!(temp.path().join("eras/7").exists());
    for path in ["bundle", "feed/main"] {
        assert_eq!(fs::metadata(temp.path().join(path)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    for path in ["", "eras", "feed", "wallet", "quarantine"] {
        assert_eq!(fs::metadata(temp.path().join(path)).unwrap().permissions().mode() & 0o777, 0o700, "{path:?}");
    }
}

#[test]
fn a_folder_that_is_not_fit_is_refused_with_what_to_do() {
    let temp = tempfile::tempdir().unwrap();
    let refusal = |dir: &Path| open(dir).map(drop).unwrap_err().to_string();
    let wide = temp.path().join("wide");
    three_starts(&wide);
    fs::set_permissions(&wide, fs::Permissions::from_mode(0o750)).unwrap();
    assert!(refusal(&wide).contains(&format!("chmod 700 {}", wide.display())), "{}", refusal(&wide));
    fs::set_permissions(&wide, fs::Permissions::from_mode(0o700)).unwrap();

    let format = wide.join("format");
    for (said, part) in [
        (Some("2\n"), "has format 2, this version reads formats up to 1"),
        (Some("18446744073709551616"), "no format's number"),
        (Some(""), "no format's number"),
        (Some("0"), "no format's number"),
        (None, "it is gone, and there is anchor.0"),
    ] {
        match said {
            Some(said) => fs::write(&format, said).unwrap(),
            None => fs::remove_file(&format).unwrap(),
        }
        assert!(refusal(&wide).contains(part), "{said:?}: {}", refusal(&wide));
        assert_eq!(fs::read_to_string(&format).ok().as_deref(), said, "it is left as it is");
    }
    // What the refusal says to do.
    fs::write(&format, "1\n").unwrap();
    assert!(open(&wide).is_ok());

    let file = temp.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(open(&file), Err(StoreError::File(FileError::Io { .. }))));
}

/// A cut while a folder is removed, and folders that somebody else made.
#[test]
fn rests_of_folders_and_strangers_are_no_eras() {
    let temp = tempfile::tempdir().unwrap();
    let told = three_starts(temp.path());
    let eras = temp.path().join("eras");
    let rest = eras.join(".00000000000000000001.tmp");
    fs::create_dir_all(rest.join("blobs")).unwrap();
    fs::write(rest.join("conf"), "half").unwrap();
    for (number, is_file) in [(u64::MAX, true), (u64::MAX - 1, false), (i64::MAX as u64, true), (5000, true)] {
        let stranger = eras.join(format!("{number:020}"));
        if is_file {
            fs::write(stranger, "a person's").unwrap();
        } else {
            fs::create_dir(&stranger).unwrap();
            fs::write(stranger.join("db"), "a person's").unwrap();
        }
    }
    let (mut store, recovered) = open(temp.path()).unwrap();
    assert_eq!(recovered.events, []);
    assert_eq!(served(&mut store, &recovered.eras), told);
    assert!(!rest.exists());
    drop(store);
    let (mut writing, _) = Writing::start(temp.path());
    assert_eq!(writing.era.number, 4, "no number is used up");
    writing.begin().unwrap();
    assert!(eras.join(format!("{:020}", u64::MAX - 1)).exists(), "strangers are left alone");
}

#[test]
fn a_folder_in_the_place_of_a_file_is_set_aside() {
    let temp = tempfile::tempdir().unwrap();
    drop(open(temp.path()).unwrap());
    for content in ["one", "two"] {
        fs::create_dir(temp.path().join("policy")).unwrap();
        fs::write(temp.path().join("policy/notes"), content).unwrap();
        let (mut store, recovered) = open(temp.path()).unwrap();
        assert!(matches!(&recovered.events[..], [Event::FileUnreadable { path, .. }] if path == "policy"));
        let files = vec![FileWrite { file: StateFile::Policy, content: content.into() }];
        store.commit(Batch { files, ..Batch::default() }).unwrap();
        drop(store);
        assert_eq!(open(temp.path()).unwrap().1.files, [(StateFile::Policy, content.into())]);
        fs::remove_file(temp.path().join("policy")).unwrap();
    }
    for (copy, content) in [("policy.0", "one"), ("policy.1", "two")] {
        let kept = temp.path().join("quarantine").join(copy).join("notes");
        assert_eq!(fs::read_to_string(kept).unwrap(), content);
    }
}

/// A pipe that nobody writes to would be waited for, and so would one that nobody reads.
#[test]
fn what_is_no_file_is_not_waited_for() {
    use rustix::fs::{mknodat, FileType, Mode, CWD};
    let temp = tempfile::tempdir().unwrap();
    three_starts(temp.path());
    for path in ["policy", "anchor.0", "anchor.1", "eras/00000000000000000003/db"] {
        let path = temp.path().join(path);
        let _ = fs::remove_file(&path);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    let (mut writing, recovered) = Writing::start(temp.path());
    assert!(recovered.events.contains(&Event::AnchorLost), "{:?}", recovered.events);
    assert!(recovered.eras.iter().any(|era| era.damage.is_some()));
    writing.begin().unwrap();
    let anchor = writing.anchor();
    writing.store.commit(Batch { anchor, ..Batch::default() }).unwrap();
    drop(writing);
    assert_eq!(open(temp.path()).unwrap().1.anchor.unwrap().era.unwrap().number, 4);
}

#[test]
fn a_missing_damaged_or_hostile_era_folder_is_told() {
    let number = |n: u64| format!("{n:020}");
    let temp = tempfile::tempdir().unwrap();
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("db is a folder", |era| {
            fs::remove_file(era.join("db")).unwrap();
            fs::create_dir(era.join("db")).unwrap();
        }),
        ("db is gone", |era| fs::remove_file(era.join("db")).unwrap()),
        ("db is empty", |era| fs::write(era.join("db"), "").unwrap()),
        ("the folder is gone", |era| fs::remove_dir_all(era).unwrap()),
        ("the folder is a file", |era| {
            fs::remove_dir_all(era).unwrap();
            fs::write(era, "").unwrap();
        }),
        ("db is noise", |era| fs::write(era.join("db"), [0xff, 0xfe, b'h', b't', 9, 0, 0, 0].repeat(9999)).unwrap()),
    ];
    for (what, damage) in damages {
        let dir = temp.path().join(what);
        three_starts(&dir);
        damage(&dir.join("eras").join(number(3)));
        let (mut writing, recovered) = Writing::start(&dir);
        let last = recovered.eras.last().unwrap();
        assert_eq!((last.id.number, last.records.len()), (3, 0), "{what}");
        assert!(last.damage.is_some(), "{what}");
        writing.begin().unwrap();
        let told = BTreeMap::from([(4, 1)]);
        drop(writing);
        let (mut store, recovered) = open(&dir).unwrap();
        assert_eq!(recovered.events, [], "{what}: told once");
        assert_eq!(served(&mut store, &recovered.eras), told, "{what}: eras 1 and 2 were folded into 3");
    }
}

#[test]
fn stray_files_of_the_engine_stop_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let told = three_starts(temp.path());
    let era = temp.path().join("eras/00000000000000000003");
    fs::write(era.join("snap.0000000000001000.generating"), "x").unwrap();
    fs::write(era.join("snap.0000000000001000"), "x").unwrap();
    fs::write(era.join("conf"), "").unwrap();
    let (mut store, recovered) = open(temp.path()).unwrap();
    assert_eq!(recovered.events, []);
    assert_eq!(served(&mut store, &recovered.eras), told);
}

#[test]
fn the_quarantine_is_bounded() {
    let temp = tempfile::tempdir().unwrap();
    for _ in 0..12 {
        let (mut writing, _) = Writing::start(temp.path());
        writing.begin().unwrap();
        writing.write(30).unwrap();
        let db = temp.path().join("eras").join(format!("{:020}", writing.era.number)).join("db");
        let anchor = writing.anchor();
        writing.store.commit(Batch { anchor, ..Batch::default() }).unwrap();
        drop(writing);
        fs::OpenOptions::new().write(true).open(db).unwrap().set_len(100).unwrap();
    }
    let mut names: Vec<_> =
        fs::read_dir(temp.path().join("quarantine")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names.len(), 8);
    assert_eq!(names[0], "00000000000000000004", "the oldest went");
}

// What needs a process of its own: this test binary once more, as the program of one test.

const ROLE: &str = "HARDTACK_TEST_STORE_ROLE";

/// Runs `role` on `dir` in another process, through `wrapper`.
fn child(wrapper: &[&str], role: &str, dir: &Path) -> Command {
    let this = std::env::current_exe().unwrap();
    let words = wrapper.iter().map(|word| (*word).to_owned());
    let words: Vec<String> = words.chain([this.to_str().unwrap().to_owned()]).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["--exact", "store::in_another_process", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, format!("{role} {}", dir.display())).stdout(Stdio::piped());
    command
}

fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "SAID {line}").unwrap();
    out.flush().unwrap();
}

fn next_said(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Option<String> {
    lines.map(Result::unwrap).find_map(|line| line.split_once("SAID ").map(|(_, said)| said.to_owned()))
}

#[test]
fn in_another_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (role, dir) = role.split_once(' ').unwrap();
    if role == "short-of-descriptors" {
        return open_with_few_descriptors(Path::new(dir));
    }
    let (mut writing, _) = Writing::start(Path::new(dir));
    match role {
        "hold" => {
            say("open");
            let _ = std::io::stdin().read_line(&mut String::new());
        }
        "watched" => {
            writing.begin().unwrap();
            for number in 0..8 {
                let mut batch = writing.records(3);
                batch.anchor = if number % 4 == 3 { writing.anchor() } else { None };
                say(format_args!("begin {}", if batch.anchor.is_some() { "anchor" } else { "records" }));
                writing.store.commit(batch).unwrap();
                say("committed");
            }
        }
        "write-until-killed" => {
            writing.begin().unwrap();
            loop {
                writing.write(3).unwrap();
                say(format_args!("{} {}", writing.era.number, writing.next_index));
            }
        }
        "write-until-it-fails" => {
            let mut written = writing.begin();
            while written.is_ok() {
                say(format_args!("{} {}", writing.era.number, writing.next_index));
                written = writing.write(20);
            }
            say(format_args!("failed: {}", written.unwrap_err()));
            assert!(matches!(writing.write(1), Err(StoreError::Failed)));
        }
        other => panic!("no such role: {other}"),
    }
}

fn spawn(mut command: Command) -> (Child, std::io::Lines<BufReader<std::process::ChildStdout>>) {
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

#[test]
fn a_second_agent_is_told_which_process_runs() {
    let temp = tempfile::tempdir().unwrap();
    let mut command = child(&[], "hold", temp.path());
    command.stdin(Stdio::piped());
    let (mut first, mut lines) = spawn(command);
    assert_eq!(next_said(&mut lines).as_deref(), Some("open"));
    let error = open(temp.path()).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }));
    assert!(error.to_string().contains(&format!("process {}", first.id())), "{error}");
    drop(first.stdin.take());
    first.wait().unwrap();
    assert!(open(temp.path()).is_ok(), "the lock ends with its process");
}

#[test]
fn what_was_told_survives_sigkill() {
    let temp = tempfile::tempdir().unwrap();
    let mut told = BTreeMap::new();
    for round in 0..5_u64 {
        let (mut writer, mut lines) = spawn(child(&[], "write-until-killed", temp.path()));
        for _ in 0..10 + 30 * round {
            let said = next_said(&mut lines).unwrap();
            let (era, records) = said.split_once(' ').unwrap();
            told.insert(era.parse::<u64>().unwrap(), records.parse::<u64>().unwrap());
        }
        writer.kill().unwrap();
        writer.wait().unwrap();
    }
    let (mut store, recovered) = open(temp.path()).unwrap();
    assert_eq!(recovered.events, []);
    let found = served(&mut store, &recovered.eras);
    for (era, records) in told {
        assert!(found[&era] >= records, "era {era}: {} of {records}", found[&era]);
    }
}

#[test]
fn a_limit_of_the_file_size_is_an_error_and_loses_nothing() {
    let temp = tempfile::tempdir().unwrap();
    // ulimit counts in KiB or in 512 bytes: 400 to 800 KB. With the signal ignored, a write says EFBIG.
    let shell = ["sh", "-c", "trap '' XFSZ; ulimit -f 800; exec \"$@\"", "sh"];
    let (mut writer, mut lines) = spawn(child(&shell, "write-until-it-fails", temp.path()));
    let mut told = BTreeMap::new();
    let failed = loop {
        let said = next_said(&mut lines).unwrap();
        match said.split_once(' ').unwrap() {
            ("failed:", why) => break why.to_owned(),
            (era, records) => drop(told.insert(era.parse::<u64>().unwrap(), records.parse::<u64>().unwrap())),
        }
    };
    assert!(writer.wait().unwrap().success());
    assert!(failed.contains("the store in "), "{failed}");
    let (mut store, recovered) = open(temp.path()).unwrap();
    let found = served(&mut store, &recovered.eras);
    assert!(found[&1] >= told[&1], "{found:?} {told:?}");
}

/// With none left, then one, then two, until there are enough.
fn open_with_few_descriptors(dir: &Path) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: limit.maximum }).unwrap();
    for left in 0.. {
        let mut taken: Vec<fs::File> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
        taken.truncate(taken.len() - left);
        let opened = open(dir).map(|(mut store, recovered)| (served(&mut store, &recovered.eras), recovered));
        drop(taken);
        match opened {
            Err(error) => say(format_args!("{left}: {error}")),
            Ok((served, recovered)) => {
                assert!(recovered.events.is_empty(), "{left}: {:?}", recovered.events);
                say(format_args!("{left}: {served:?}"));
                return;
            }
        }
    }
}

/// What cannot be opened for want of a descriptor is not damaged: nothing is known of it, and it is there later.
#[test]
fn too_few_descriptors_are_an_error_and_damage_nothing() {
    let temp = tempfile::tempdir().unwrap();
    // Too large to be copied to the next: each has a folder of its own.
    for _ in 0..3 {
        let (mut writing, _) = Writing::start(temp.path());
        writing.begin().unwrap();
        writing.write(600).unwrap();
    }
    let output = child(&[], "short-of-descriptors", temp.path()).output().unwrap();
    let mut lines = std::str::from_utf8(&output.stdout).unwrap().lines().map(|line| Ok(line.to_owned()));
    let said: Vec<String> = std::iter::from_fn(|| next_said(&mut lines)).collect();
    assert!(output.status.success(), "{said:#?} {}", String::from_utf8_lossy(&output.stderr));
    let (last, before) = said.split_last().unwrap();
    assert!(last.ends_with("{1: 601, 2: 601, 3: 601}"), "{last}");
    assert!(before.len() > 2, "the lock and each era need one: {said:#?}");
    assert!(before.iter().all(|line| line.contains("Too many open files")), "{said:#?}");
}

/// A file system of its own, as far as this machine allows it.
struct Mounted(PathBuf);

impl Mounted {
    fn new(path: PathBuf, options: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).output();
        match output {
            Ok(output) if output.status.success() => Some(Self(path)),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr);
                cannot_run(&format!("no tmpfs can be mounted here, which root may: {}", why.trim()));
                None
            }
            Err(error) => {
                cannot_run(&format!("no tmpfs can be mounted here: {error}"));
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_an_error_and_a_freed_one_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let Some(disk) = Mounted::new(temp.path().join("disk"), "size=6m,mode=0700") else { return };
    let dir = disk.0.join("state");
    let ballast = disk.0.join("ballast");
    let (mut writing, _) = Writing::start(&dir);
    writing.begin().unwrap();
    fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let mut told = 1;
    let error = loop {
        match writing.write(20) {
            Ok(()) => told = writing.next_index,
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("free space"), "{error}");
    assert!(matches!(writing.write(1), Err(StoreError::Failed)));
    drop(writing);

    // Nothing can be written, everything can be read.
    let (mut writing, recovered) = Writing::start(&dir);
    assert!(served(&mut writing.store, &recovered.eras)[&1] >= told);
    writing.begin().unwrap_err();
    drop(writing);

    fs::remove_file(&ballast).unwrap();
    let (mut writing, recovered) = Writing::start(&dir);
    assert_eq!(recovered.events, []);
    assert!(served(&mut writing.store, &recovered.eras)[&1] >= told);
    writing.begin().unwrap();
    writing.write(20).unwrap();
}

#[test]
fn a_read_only_disk_is_refused_with_its_reason() {
    let temp = tempfile::tempdir().unwrap();
    let Some(disk) = Mounted::new(temp.path().join("disk"), "size=6m,mode=0700") else { return };
    let dir = disk.0.join("state");
    let told = three_starts(&dir);
    let remount = |how: &str| Command::new("mount").args(["-o", how]).arg(&disk.0).status().unwrap().success();
    assert!(remount("remount,ro"));
    let error = open(&dir).map(drop).unwrap_err().to_string();
    assert!(error.contains("Read-only file system") && error.contains("lock"), "{error}");
    assert!(remount("remount,rw"));
    let (mut store, recovered) = open(&dir).unwrap();
    assert_eq!(served(&mut store, &recovered.eras), told);
}

#[test]
fn the_disk_is_synced_before_a_commit_returns() {
    let temp = tempfile::tempdir().unwrap();
    let trace = temp.path().join("trace");
    if let Some(why) = strace::why_not() {
        return cannot_run(&why);
    }
    let wanted = "trace=write,pwrite64,pwritev,fdatasync,fsync,sync_file_range";
    let wrapper = ["strace", "-f", "-y", "-s", "64", "-e", wanted, "-o", trace.to_str().unwrap()];
    let output = child(&wrapper, "watched", &temp.path().join("state")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut commits, mut due) = (0, None::<(bool, Due)>);
    for (moment, call) in strace::calls(&fs::read_to_string(&trace).unwrap()) {
        if moment == Moment::Ends && call.contains("SAID begin ") {
            due = Some((call.contains("begin anchor"), Due::default()));
        } else if moment == Moment::Begins && call.contains("SAID committed") {
            let (anchor, seen) = due.take().unwrap();
            assert!(seen.is_done(), "a reply would go out before its record is durable: {seen:?}");
            assert_eq!(seen.anchor_synced, anchor, "the anchor is written when it is due, and only then");
            commits += 1;
        } else if let Some((_, due)) = &mut due {
            due.see(moment, &call);
        }
    }
    assert_eq!(commits, 8);
}

/// Tests that need what this machine lacks pass with a word about it, except where the run is to be complete.
#[test]
fn a_complete_run_fails_where_a_tool_is_missing() {
    check_needs_a_tool("store::the_disk_is_synced_before_a_commit_returns");
    check_needs_a_tool("store::a_full_disk_is_an_error_and_a_freed_one_goes_on");
}

#[test]
fn random_damage_never_panics() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("state");
    three_starts(&dir);
    let db = dir.join("eras/00000000000000000003/db");
    let whole = fs::read(&db).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    for round in 0..60 {
        fs::write(&db, &whole).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&db).unwrap();
        for _ in 0..=random(8) {
            let (at, len, with) = (random(whole.len()), 1 + random(9000), random(256) as u8);
            file.write_all_at(&vec![with; len], at as u64).unwrap();
        }
        let (mut store, recovered) = open(&dir).unwrap();
        for image in &recovered.eras {
            for segment in 0..image.segments.min(100) {
                store.load(image.id, segment).unwrap();
            }
        }
        assert!(recovered.eras.len() >= 3 || !recovered.events.is_empty(), "round {round}");
    }
}
