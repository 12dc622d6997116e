//! What durability costs: decisions that wait for their records, bytes that reach the disk per record, and a start over a
//! million records. The real agent, the real store, a folder on the disk that `TMPDIR` is on.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use hardtack::agent::effects::{Entry, StoredRecord, StoredSegment};
use hardtack::agent::enrol::accept;
use hardtack::agent::request::{Authorize, Evidence, Reply, Request, RequestId, Socket, Verdict};
use hardtack::agent::{Agent, Anchor, Batch, Boot, Effects, Input};
use hardtack::config::BrokerConfig;
use hardtack::ids::{EraId, FeedId, Hash, Nonce};
use hardtack::profile::Profile;
use hardtack::shell::clock;
use hardtack::shell::inbox::{Call, Inbox};
use hardtack::shell::keys::DeviceKeyFile;
use hardtack::shell::run::{self, Machine};
use hardtack::shell::store::Store;
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::bundle::Fingerprint;
use hardtack::wire::encode;
use hardtack::wire::enrol::{DeviceKeys, EnrolAnswer, EnrolBundle};
use hardtack::wire::envelope::Signed;
use hardtack::wire::policy::PolicyDocument;
use hardtack::wire::revocation::announcement::Successor;
use hardtack::wire::revocation::set::RevocationSet;
use hardtack::wire::token::{child_block, mint_task, to_text, Held, Purpose};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use tokio::sync::oneshot;

use super::{key, line, task_spec, world, START};

/// The option by which this bench runs itself as a process that opens a store, whose memory is measured.
pub(super) const AS_OPENER: &str = "as-opener";

const RECORDS: u64 = 1_000_000;
/// What a bare file has room for before it is written again from its front.
const BARE_BYTES: u64 = 32 << 20;

pub(super) fn keys() -> DeviceKeys {
    DeviceKeys::generate(&mut ChaCha20Rng::from_seed([21; 32]))
}

/// A state folder as an enrolment leaves it.
fn enrolled() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let (world, keys, set) = (world(), keys(), RevocationSet::default());
    let (fleet, feed): (_, FeedId) = (world.trust.fleet.clone(), "main".parse().expect("valid"));
    let successor = Successor {
        feed: &feed,
        era: 0,
        seq: 1,
        previous: Hash::ZERO,
        issued_at: START,
        next_update_ms: Millis::from_secs(900),
        hard_stale_ms: Millis::from_secs(90 * 86_400),
        dropped_before: Timestamp(0),
        set: &set,
        additions: &set,
        skips: &[],
        bundle_version: 1,
        policy_version: 1,
    };
    let head = successor.sign(&fleet, &key(4)).1.remove(0).head;
    let nonce = Nonce([3; 16]);
    let bundle = EnrolBundle {
        device: world.device.clone(),
        identity: keys.identity.verifying_key().into(),
        nonce,
        issued_at: START,
        bundles: vec![Signed::sign(&world.trust, &fleet, &[&key(1)])],
        policy: Signed::sign(&PolicyDocument::built_in(START), &fleet, &[&key(3)]),
        feeds: vec![(head, set.to_bytes())],
        grants: Vec::new(),
        certificate: Vec::new(),
    };
    let mut rng = ChaCha20Rng::from_seed([22; 32]);
    let answer = EnrolAnswer::seal(&bundle, &fleet, &key(5), &keys.sealing.public(), &mut rng).expect("our own");
    settle(folder.path(), &answer, keys, nonce, &world.trust.fingerprint());
    folder
}

/// What `enrol import` leaves of an answer.
pub(super) fn settle(folder: &Path, answer: &EnrolAnswer, keys: DeviceKeys, nonce: Nonce, trust: &Fingerprint) {
    let device = world().device;
    let accepted = accept(answer, &keys, &device, trust, nonce, &profile(), None).expect("our own");
    let (mut store, _) = Store::open(folder, &profile().queue).expect("an empty folder");
    store.commit(accepted.batch).expect("an enrolment");
    DeviceKeyFile { device, nonce, used: None, keys }.create(folder).expect("the keys");
}

/// Room for all that is measured.
pub(super) fn profile() -> Profile {
    let mut profile = Profile::default();
    profile.queue.quota_mib = 16 * 1024;
    profile
}

/// An agent, and its store where it has one.
pub(super) struct Device {
    agent: Agent,
    pub(super) store: Store,
    commits: u32,
    pub(super) folder: tempfile::TempDir,
}

impl Device {
    fn start() -> Self {
        Self::of(enrolled())
    }

    pub(super) fn of(folder: tempfile::TempDir) -> Self {
        let (mut store, found) = Store::open(folder.path(), &profile().queue).expect("the folder");
        let boot = Boot {
            fleet: world().trust.fleet,
            device: world().device,
            keys: keys(),
            profile: profile(),
            seed: [23; 32],
            boot: clock::boot_id().expect("/proc"),
            anchor: found.anchor,
            files: found.files,
            eras: found.eras,
            used_bytes: found.used_bytes,
        };
        let (agent, effects) = Agent::start(boot, clock::now()).expect("enrolled");
        effects.commit(|batch| store.commit(batch)).expect("a first commit");
        Self { agent, store, commits: 0, folder }
    }

    /// Has the agent decide for so many callers.
    fn decide(&mut self, tokens: &[String]) -> Effects {
        let mut effects = Effects::default();
        for (number, token) in tokens.iter().enumerate() {
            let request = Input::Request { id: RequestId(number as u64), evidence: caller(), request: ask(token) };
            self.agent.handle(request, clock::now(), &mut effects);
        }
        effects
    }

    /// The same, durably, as the loop does it.
    pub(super) fn decide_durably(&mut self, tokens: &[String]) {
        let effects = self.decide(tokens);
        let store = &mut self.store;
        heard(effects.commit(|batch| store.commit(batch)).expect("a commit").replies, tokens.len());
        self.commits += 1;
        if self.commits % 256 == 0 {
            let taken = self.store.taken();
            let mut effects = Effects::default();
            self.agent.handle(Input::Disk(taken), clock::now(), &mut effects);
            effects.commit(|batch| self.store.commit(batch)).expect("a commit");
        }
    }
}

fn heard(replies: Vec<hardtack::agent::effects::Answer>, count: usize) {
    let now = clock::now().boottime;
    assert_eq!(replies.len(), count);
    for answer in replies {
        let (_, reply) = answer.at(now);
        assert!(matches!(&reply, Reply::Decision(reply) if reply.decision == Verdict::Allow), "{reply:?}");
    }
}

pub(super) fn caller() -> Evidence {
    Evidence::of(Socket::Agent, 1001, 1001)
}

fn ask(token: &str) -> Request {
    Request::Authorize(Authorize {
        token: token.into(),
        operation: "write".into(),
        resource: "modbus/pump1/speed".into(),
        destination: None,
        risk: Some("low".parse().expect("valid")),
        task: None,
        step: None,
        arguments: None,
    })
}

/// Tokens of one task whose uses are counted, each with a last block of its own where they are to differ.
pub(super) fn tokens(count: usize, each_its_own: bool) -> Vec<String> {
    let mut rng = ChaCha20Rng::from_seed([24; 32]);
    // The system clock of whoever runs this is a hint that is heard: it must not lie past the end.
    let expires = START + Millis::from_secs(20 * 365 * 86_400);
    let spec = hardtack::wire::token::TaskSpec { uses_max: Some(1 << 40), expires, ..task_spec(&world()) };
    let token = mint_task(&spec, &key(2), 7, &mut rng).expect("our own token");
    let mut child = || {
        let block = child_block(&["unix:uid:1001"], Purpose::Work, Some(&world().device)).expect("a valid block");
        let held = Held::from_bytes(&token).and_then(|held| held.append(block, &mut rng)).expect("our own token");
        to_text(&held.to_bytes().expect("our own token"))
    };
    let first = child();
    (0..count).map(|_| if each_its_own { child() } else { first.clone() }).collect()
}

/// The bytes of what a batch writes into the store.
fn bytes_of(batch: &Batch) -> Vec<u8> {
    batch.entries.iter().flat_map(encode).collect()
}

/// A file that is there to its end already, so that a data sync is all that a write takes.
struct Bare {
    file: File,
    at: u64,
    _folder: tempfile::TempDir,
}

impl Bare {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let file = File::create(folder.path().join("bare")).expect("a file");
        let zeros = vec![0; 1 << 20];
        (0..BARE_BYTES >> 20).for_each(|mib| file.write_all_at(&zeros, mib << 20).expect("room"));
        file.sync_all().expect("a sync");
        Self { file, at: 0, _folder: folder }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.at + bytes.len() as u64 > BARE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.file.sync_data()
    }
}

/// The other engine that a device could have: the same rows, a transaction per group.
struct Sqlite {
    connection: rusqlite::Connection,
    _folder: tempfile::TempDir,
}

impl Sqlite {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let connection = rusqlite::Connection::open(folder.path().join("db")).expect("a database");
        let setup = "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
                     CREATE TABLE rows (era INTEGER, number INTEGER, kind INTEGER, bytes BLOB, PRIMARY KEY (era, kind, number));";
        connection.execute_batch(setup).expect("a table");
        Self { connection, _folder: folder }
    }

    fn write(&mut self, batch: &Batch) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO rows VALUES (?1, ?2, ?3, ?4)")?;
            for entry in &batch.entries {
                let (era, number, kind) = match entry {
                    Entry::Record(record) => (record.era.number, record.index, 0),
                    Entry::Segment(segment) => (segment.era.number, segment.segment, 1),
                };
                insert.execute(rusqlite::params![era as i64, number as i64, kind, encode(entry)])?;
            }
        }
        transaction.commit()
    }
}

/// Decisions whose answers wait for the disk.
#[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
pub(super) fn decisions() {
    let mut loop_reference = 0.0;
    for (callers, rounds) in [(64, 300), (8, 300), (1, 300)] {
        let tokens = tokens(callers, false);
        let (mut real, mut bare_agent, mut sqlite_agent) = (Device::start(), Device::start(), Device::start());
        let (mut bare, mut sqlite) = (Bare::new(), Sqlite::new());
        let mut times: [Vec<f64>; 3] = Default::default();
        for round in 0..rounds {
            for turn in 0..3 {
                let side = (turn + round) % 3;
                let began = Instant::now();
                match side {
                    0 => real.decide_durably(&tokens),
                    1 => {
                        let effects = bare_agent.decide(&tokens);
                        let done = effects.commit(|batch| bare.write(&bytes_of(&batch)));
                        heard(done.expect("written").replies, callers);
                    }
                    _ => {
                        let effects = sqlite_agent.decide(&tokens);
                        let done = effects.commit(|batch| sqlite.write(&batch));
                        heard(done.expect("written").replies, callers);
                    }
                }
                times[side].push(began.elapsed().as_secs_f64());
            }
        }
        let [ours, ideal, other] = times.map(|times| callers as f64 / median(times));
        match callers {
            64 => {
                line("durable_decisions", ours, "1/s", ideal, ">= 0.7 of the ideal, 64 callers");
                loop_reference = ideal;
            }
            _ => println!("  {callers} callers: {ours:.0}/s, {:.3} of the ideal", ours / ideal),
        }
        println!("  {callers} callers: {:.3} of SQLite (WAL, synchronous=FULL) with the same groups", ours / other);
    }
    let rate = through_the_loop(64, 20_000);
    println!(
        "  64 callers in a closed loop through the daemon's inbox: {rate:.0}/s, {:.3} of the ideal",
        rate / loop_reference
    );
}

/// Decisions per second of the daemon's loop on its own thread, with callers that ask again as soon as they are answered.
#[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
fn through_the_loop(callers: usize, decisions: usize) -> f64 {
    let folder = enrolled();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let inbox = Arc::new(Inbox::default());
    let machine = Machine { state_dir: folder.path().into(), profile: profile(), broker: BrokerConfig::default() };
    let running = run::start(machine, inbox.clone(), runtime.handle().clone()).expect("it starts");
    let token = tokens(1, false).remove(0);
    let began = Instant::now();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..callers {
            let (inbox, token) = (inbox.clone(), token.clone());
            tasks.spawn(async move {
                for _ in 0..decisions / callers {
                    let (answer, answered) = oneshot::channel();
                    inbox.call(Call { evidence: caller(), request: ask(&token), answer }).expect("room");
                    let reply = answered.await.expect("an answer");
                    assert!(matches!(reply, Reply::Decision(reply) if reply.decision == Verdict::Allow));
                }
            });
        }
        while tasks.join_next().await.is_some() {}
    });
    let seconds = began.elapsed().as_secs_f64();
    inbox.stop();
    running.join().expect("it ends");
    decisions as f64 / seconds
}

/// Bytes on flash per record: written, and taken.
pub(super) fn flash() {
    let cases =
        [(1, 2048, false), (16, 128, false), (64, 64, false), (256, 16, false), (1, 1024, true), (64, 32, true)];
    for (group, groups, steps) in cases {
        let tokens = tokens(group * groups, steps);
        let mut device = Device::start();
        let folder = device.folder.path().to_owned();
        let (mut logical, before) = (0, (written_bytes(), blocks(&folder)));
        for tokens in tokens.chunks(group) {
            let effects = device.decide(tokens);
            let store = &mut device.store;
            let done = effects.commit(|batch| {
                logical += bytes_of(&batch).len();
                store.commit(batch)
            });
            heard(done.expect("a commit").replies, group);
        }
        let records = (group * groups) as f64;
        let (written, taken) = (written_bytes() - before.0, blocks(&folder).saturating_sub(before.1));
        let (written, taken, logical) = (written as f64 / records, taken as f64 / records, logical as f64 / records);
        let what = if steps { ", each with a step credential" } else { "" };
        if (group, steps) == (64, false) {
            line("flash_bytes_per_record", written, "B", logical, "the rows' own bytes, groups of 64");
        }
        println!(
            "  groups of {group:>3}{what}: {written:>7.0} B written, {taken:>7.0} B taken, rows {logical:.0} B each"
        );
    }
}

/// Bytes that this process has caused to be written to the disk.
fn written_bytes() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or_default()
}

fn blocks(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let entries = if meta.is_dir() { fs::read_dir(path).ok() } else { None };
    meta.blocks() * 512 + entries.into_iter().flatten().flatten().map(|entry| blocks(&entry.path())).sum::<u64>()
}

/// A start over a million records that nobody has taken.
pub(super) fn reopen() {
    let folder = enrolled();
    million(folder.path());
    let Ok(this) = std::env::current_exe() else { return };
    let mut rows: Vec<(f64, f64, f64)> = Vec::new();
    for _ in 0..5 {
        let output = Command::new(&this).args([AS_OPENER.as_ref(), folder.path().as_os_str()]).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let mut words = text.split_whitespace().map(|word| word.parse::<f64>());
        if let (Some(Ok(open)), Some(Ok(read)), Some(Ok(peak))) = (words.next(), words.next(), words.next()) {
            rows.push((open, read, peak));
        }
    }
    if rows.is_empty() {
        return println!("reopen_1m: the process that opens the store failed");
    }
    let of = |pick: fn(&(f64, f64, f64)) -> f64| median(rows.iter().map(pick).collect());
    line("reopen_1m", of(|row| row.0), "s", of(|row| row.1), "a bare sequential read of the same files");
    println!(
        "  peak memory {:.1} MB, {:.0} MB on disk",
        of(|row| row.2),
        blocks(&folder.path().join("eras")) as f64 / 1e6
    );
}

/// Writes a million records of a decision's size through the real writer, in eras as long as the profile lets them get.
fn million(folder: &Path) {
    let (mut store, found) = Store::open(folder, &profile().queue).expect("the folder");
    let mut anchor = found.anchor.expect("an enrolment's");
    let bytes = vec![0x5a; 260];
    let (per_era, header) = (profile().queue.era_records_max, vec![0xa5; 200]);
    let mut left = RECORDS;
    for number in 1.. {
        let count = per_era.min(left);
        let era = EraId { number, salt: number };
        let mut batch = Batch { begin_era: Some(era), ..Batch::default() };
        for first in (0..count).step_by(256) {
            let end = count.min(first + 256);
            for index in first..end {
                let budgets = Vec::new();
                batch.entries.push(Entry::Record(StoredRecord { era, index, bytes: bytes.clone(), budgets }));
                if index % 64 == 63 {
                    let (segment, head) = (index / 64, Hash::ZERO);
                    let header = header.clone();
                    let stored = StoredSegment { era, segment, first_index: segment * 64, count: 64, head, header };
                    batch.entries.push(Entry::Segment(stored));
                }
            }
            store.commit(std::mem::take(&mut batch)).expect("a commit");
        }
        left -= count;
        anchor = Anchor { generation: anchor.generation + 1, era: Some(era), next_index: count, ..anchor };
        store.commit(Batch { anchor: Some(Box::new(anchor.clone())), ..Batch::default() }).expect("an anchor");
        if left == 0 {
            return;
        }
    }
}

/// Opens a store, reads its files barely, and prints the seconds of both and the peak of memory in MB.
#[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
pub(super) fn as_opener(folder: &Path) {
    let began = Instant::now();
    let (store, found) = Store::open(folder, &profile().queue).expect("the folder");
    let open = began.elapsed().as_secs_f64();
    assert!(found.eras.iter().all(|era| era.damage.is_none()), "it is whole");
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    drop(store);
    let began = Instant::now();
    let mut buffer = vec![0; 1 << 18];
    for file in files(&folder.join("eras")) {
        let mut file = File::open(file).expect("a file");
        while file.read(&mut buffer).expect("bytes") > 0 {
            black_box(&buffer);
        }
    }
    let read = began.elapsed().as_secs_f64();
    println!("{open} {read} {}", peak.unwrap_or(0.0_f64) * 1.024 / 1000.0);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    entries.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
