//! Ratios against limits and peers, both sides measured in one run: `cargo bench --bench ratios`, and with names of lines
//! after `--` only the groups that they are in.
//!
//! Each line: `name value unit reference ratio target`. These machines are noisy, so each figure is the least of many
//! rounds, and a target that is missed is printed all the same: a bench is no test.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

mod audit;
mod collector;
mod disk;
mod drain;
mod feed;
mod local_api;
mod mosquitto;
mod simulated;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use biscuit_auth::{Algorithm, Biscuit};
use ed25519_dalek::SigningKey;
use hardtack::agent::clock::TrustedClock;
use hardtack::agent::decide::{Judge, Purpose, Question};
use hardtack::agent::effects::Anchor;
use hardtack::agent::feed::StoredFeed;
use hardtack::agent::policy::Policy;
use hardtack::agent::request::Mode;
use hardtack::agent::revocation::Revocations;
use hardtack::agent::room::{Room, Shares, Taken};
use hardtack::agent::token::Cache;
use hardtack::agent::wallet::Wallet;
use hardtack::ids::{BlockId, BootId, DeviceId, FeedId, FleetId, GrantId, Hash};
use hardtack::profile::Profile;
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::bundle::{BrokerPins, Feed, Issuer, TrustBundle};
use hardtack::wire::link::Right;
use hardtack::wire::policy::PolicyDocument;
use hardtack::wire::revocation::announcement::Successor;
use hardtack::wire::revocation::fingerprints::{FingerprintBucket, FingerprintKey, Salt, Width};
use hardtack::wire::revocation::manifest::Manifest;
use hardtack::wire::revocation::serials::SerialBucket;
use hardtack::wire::revocation::set::RevocationSet;
use hardtack::wire::revocation::slot::Slot;
use hardtack::wire::seal::SealingKey;
use hardtack::wire::token::{child_block, mint_task, to_text, Bearer, Held, Purpose as ChildPurpose, TaskSpec};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

const START: Timestamp = Timestamp::from_secs(1_790_000_000);

/// What is measured together, by the names of its lines.
struct Group {
    lines: &'static [&'static str],
    measure: fn(),
}

const GROUPS: [Group; 20] = [
    Group { lines: &["token_first", "token_repeat", "interval_eval"], measure: token },
    Group {
        lines: &["revocation_lookup", "serial_set", "serial_vs_status_list", "fingerprint_set"],
        measure: revocation,
    },
    Group {
        lines: &["snapshot_apply_ms", "delta_apply_ms", "snapshot_peak_mb", "delta_peak_mb"],
        measure: feed::applied,
    },
    Group { lines: &["feed_kb_per_day", "catch_up_kb", "grouped_kb_per_day"], measure: feed::day },
    Group { lines: &["revoke_p50_ms", "revoke_p99_ms"], measure: feed::latency },
    Group { lines: &["audit_wire_bytes", "audit_wire_step_bytes"], measure: audit::wire },
    Group { lines: &["audit_cpu"], measure: audit::cpu },
    Group { lines: &["durable_decisions"], measure: disk::decisions },
    Group { lines: &["flash_bytes_per_record"], measure: disk::flash },
    Group { lines: &["reopen_1m"], measure: disk::reopen },
    Group { lines: &["collector"], measure: collector::stored },
    Group { lines: &["drain"], measure: drain::drained },
    Group { lines: &["sim_model"], measure: simulated::model },
    Group { lines: &["sim_wire"], measure: simulated::wire },
    Group { lines: &["sim_seeds"], measure: simulated::seeds },
    Group { lines: &["sim_shrink"], measure: simulated::shrink },
    Group { lines: &["sim_tokio", "sim_turmoil"], measure: simulated::peers },
    Group {
        lines: &[
            "uds_authorize",
            "uds_authorize_p50",
            "uds_authorize_p99",
            "uds_authorize_mem",
            "uds_authorize_mem_p50",
            "uds_authorize_mem_p99",
            "attested_connection",
            "tcp_authorize",
        ],
        measure: local_api::asked,
    },
    Group { lines: &["tasks_end_ms"], measure: local_api::ended },
    Group { lines: &["device_binary_mb", "cold_start_ms", "agent_rss_mb"], measure: device },
];

fn main() {
    // Cargo adds options of its own.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if let [option, file] = &wanted[..] {
        if option == feed::AS_DEVICE {
            return feed::as_device(Path::new(file));
        }
        if option == local_api::AS_ECHO {
            return local_api::as_echo(Path::new(file));
        }
        if option == disk::AS_OPENER {
            return disk::as_opener(Path::new(file));
        }
    }
    println!("{:<21} {:>10} {:<5} {:>12} {:>8}  target", "name", "value", "unit", "reference", "ratio");
    for group in GROUPS {
        if wanted.is_empty() || wanted.iter().any(|name| group.lines.contains(&name.as_str())) {
            (group.measure)();
        }
    }
}

/// A line of the table.
fn line(name: &str, value: f64, unit: &str, reference: f64, target: &str) {
    println!("{name:<21} {value:>10.2} {unit:<5} {reference:>12.2} {:>8.3}  {target}", value / reference);
}

/// The least time of one call, in microseconds, over rounds that are interleaved so that noise hits both sides alike.
fn least(calls: &mut [&mut dyn FnMut()]) -> Vec<f64> {
    least_of(400, calls)
}

#[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
fn least_of(rounds: usize, calls: &mut [&mut dyn FnMut()]) -> Vec<f64> {
    let mut least = vec![f64::MAX; calls.len()];
    for _ in 0..rounds {
        for (call, least) in calls.iter_mut().zip(&mut least) {
            let began = Instant::now();
            call();
            *least = least.min(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    least
}

struct World {
    device: DeviceId,
    profile: Profile,
    trust: TrustBundle,
    policy: Policy,
    revocations: Revocations,
    wallet: Wallet,
    clock: TrustedClock,
}

impl World {
    fn judge(&self) -> Judge<'_> {
        Judge {
            device: &self.device,
            profile: &self.profile,
            trust: &self.trust,
            policy: &self.policy,
            revocations: &self.revocations,
            wallet: &self.wallet,
            clock: &self.clock,
            mode: Mode::Offline,
            room: Room::new(&self.profile.queue, Taken::default(), &Shares::default()),
            behind: None,
        }
    }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn world() -> World {
    let fleet: FleetId = "acme".parse().expect("valid");
    let feed: FeedId = "main".parse().expect("valid");
    let trust = TrustBundle {
        fleet: fleet.clone(),
        version: 1,
        threshold: 1,
        roots: vec![key(1).verifying_key().into()],
        issuers: vec![Issuer { root_key_id: 7, key: key(2).verifying_key().into() }],
        policy: vec![key(3).verifying_key().into()],
        feeds: vec![Feed {
            id: feed.clone(),
            era: 0,
            keys: vec![key(4).verifying_key().into()],
            groups: Vec::new(),
            since: 0,
        }],
        service: vec![key(5).verifying_key().into()],
        operators: Vec::new(),
        emergency: vec![],
        identities: vec![],
        collector: SealingKey::from_bytes([6; 32]).public(),
        groups: Default::default(),
        policy_version_min: 1,
        broker: BrokerPins::default(),
        issued_at: START,
        not_after: START + Millis::from_secs(400_000_000),
    };
    let set = RevocationSet::default();
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
    let stored = StoredFeed::enrolled(1, head, set.to_bytes(), None).expect("our own set");
    let mut revocations = Revocations::default();
    revocations.load(&feed, (&stored.to_bytes(), None), &trust, (None, 0)).expect("our own list");
    let profile = Profile::default();
    let clock = clock(&profile, 0);
    revocations.note_taken(&clock);
    World {
        device: "gw-07".parse().expect("valid"),
        policy: Policy::parse(PolicyDocument::built_in(START)).expect("the built-in policy"),
        profile,
        trust,
        revocations,
        wallet: Wallet::default(),
        clock,
    }
}

/// A token of three blocks with four rights.
fn three_blocks(world: &World) -> Vec<u8> {
    let mut rng = ChaCha20Rng::from_seed([7; 32]);
    let token = mint_task(&task_spec(world), &key(2), 7, &mut rng).expect("our own token");
    let held = Held::from_bytes(&token).expect("our own token");
    let block = || child_block(&["unix:uid:1001"], ChildPurpose::Work, Some(&world.device)).expect("a valid block");
    let held = held.append(block(), &mut rng).and_then(|held| held.append(block(), &mut rng)).expect("our own token");
    held.to_bytes().expect("our own token")
}

/// A task with four rights.
fn task_spec(world: &World) -> TaskSpec {
    let right = |resource: &str, action: &str| Right { resource: resource.into(), action: action.into() };
    TaskSpec {
        fleet: world.trust.fleet.clone(),
        grant: GrantId([1; 16]),
        bearer: Bearer::Device(world.device.clone()),
        owner: "ops@acme".into(),
        audience: None,
        feed: Some("main".parse().expect("valid")),
        task: "t-1".parse().expect("valid"),
        issued: START,
        expires: START + Millis::from_secs(900),
        serial: None,
        rights: vec![
            right("modbus/pump1/speed", "write"),
            right("modbus/pump1/mode", "write"),
            right("modbus/*", "read"),
            right("files/log/*", "append"),
        ],
        uses_max: None,
        staleness_max: Vec::new(),
        min_time_class: None,
    }
}

fn token() {
    let world = world();
    let bytes = three_blocks(&world);
    let text = to_text(&bytes);
    let workload = ["unix:uid:1001".to_owned(), "unix:gid:1001".to_owned()];
    let question = Question {
        token: &text,
        operation: "write",
        resource: "modbus/pump1/speed",
        destination: None,
        risk: world.policy.document.risk_of("write", "modbus/pump1/speed", None),
        task: None,
        step: None,
        arguments: Ok(None),
        workload: Some(&workload),
        enforcer: None,
        purpose: Purpose::Use,
    };
    let judge = world.judge();
    let root =
        biscuit_auth::PublicKey::from_bytes(key(2).verifying_key().as_bytes(), Algorithm::Ed25519).expect("a key");
    let mut warm = Cache::new(16);
    assert!(judge.judge(&question, &mut warm).verdict.is_ok(), "the token is allowed");
    let mut first = || {
        let mut cache = Cache::new(16);
        black_box(judge.judge(&question, &mut cache).verdict.is_ok());
    };
    let mut repeat = || {
        black_box(judge.judge(&question, &mut warm).verdict.is_ok());
    };
    let mut bare = || {
        black_box(Biscuit::from(&bytes, root).is_ok());
    };
    let times = least(&mut [&mut first, &mut repeat, &mut bare]);
    line("token_first", times[0], "us", times[2], "<= 1.30 of Biscuit::from");
    line("token_repeat", times[1], "us", times[0], "<= 0.22 of token_first");
    // Ten boots after it was last told, P is ten minutes ahead of E; the token's end lies past both.
    let apart = World { clock: clock(&world.profile, 600), ..self::world() };
    let mut interval_cache = Cache::new(16);
    assert!(apart.judge().judge(&question, &mut interval_cache).verdict.is_ok(), "the token is allowed");
    let judge_apart = apart.judge();
    let mut interval = || {
        black_box(judge_apart.judge(&question, &mut interval_cache).verdict.is_ok());
    };
    let times = least(&mut [&mut interval, &mut repeat]);
    line("interval_eval", times[0], "us", times[1], "<= 2.0 of a single run, usual case");
}

/// E a minute after everything was issued, and P so many seconds ahead of it.
fn clock(profile: &Profile, ahead_s: u64) -> TrustedClock {
    let floor = START + Millis::from_secs(60);
    let powered = floor + Millis::from_secs(ahead_s);
    let anchor = Anchor { floor, powered, powered_lease: powered, ..Anchor::default() };
    TrustedClock::start(profile.time.clone(), &anchor, BootId([1; 16]), Millis(0))
}

/// Exact sets against what information theory and a status list need for them, and the look-up in one.
fn revocation() {
    let (set, _) = fingerprints(1_000_000, Width::Bits64);
    line("revocation_lookup", lookup_us(&set), "us", 1.0, "<= 1 us among 1 M entries, hash and all, no allocation");
    let issued = 10_000_000;
    let bucket = serials(issued, 0.01);
    line("serial_set", bits_each(&bucket), "bits", entropy(&bucket), "<= 1.02 of the entropy limit");
    let shares = [0.0001, 0.001, 0.01, 0.02, 0.05, 0.1];
    let sizes = shares.map(|share| {
        let bucket = serials(issued, share);
        (bucket.to_bytes().len() as f64, status_list(&bucket) as f64)
    });
    let worst = sizes.into_iter().max_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1))).expect("some shares");
    line("serial_vs_status_list", worst.0, "B", worst.1, "< 0.90 of DEFLATE, worst of 0.01 to 10 %");
    let (_, bits) = fingerprints(1_000_000, Width::Bits64);
    line("fingerprint_set", bits, "bits", fingerprint_limit(1_000_000, Width::Bits64), "<= limit + 0.5 bits");
    for (share, (ours, theirs)) in shares.into_iter().zip(sizes) {
        let bucket = serials(issued, share);
        let over = bits_each(&bucket) / entropy(&bucket);
        println!(
            "  {:>5} % of 10 M serials: {ours:>7.0} B, {theirs:>7.0} B as a status list, {over:.4} of the limit",
            share * 100.0
        );
    }
    for count in [1_000, 100_000, 1_000_000, 10_000_000] {
        for width in [Width::Bits64, Width::Bits96] {
            let (set, bits) = fingerprints(count, width);
            let limit = fingerprint_limit(count, width);
            let (wire, memory) = (set.to_bytes().len(), set.memory_bytes());
            let (us, width) = (lookup_us(&set), width.bits());
            println!(
                "  {count:>8} fingerprints of {width} bits: wire {wire:>8} B ({bits:.2} bits, limit {limit:.2}), memory {memory:>8} B, look-up {us:.2} us"
            );
        }
        let bucket = serials(count * 10, 0.1);
        let mut set = RevocationSet::default();
        set.add_serials(slot(), bucket);
        let (wire, memory, us) = (set.to_bytes().len(), set.memory_bytes(), serial_lookup_us(&set, count * 10));
        println!(
            "  {count:>8} serials of ten times as many: wire {wire:>8} B, memory {memory:>8} B, look-up {us:.2} us"
        );
    }
    deltas();
}

/// What a few more revocations cost, and the time to take them in.
fn deltas() {
    let old = serials(1 << 24, 0.01);
    for count in [1, 100, 1000] {
        let others = (0..1 << 24).filter(|serial| !old.contains(*serial));
        let new = SerialBucket::new(1 << 24, others.step_by((1 << 24) / count * 9 / 10).take(count)).expect("issued");
        let mut delta = RevocationSet::default();
        delta.add_serials(slot(), new);
        println!("  {count:>8} more serials of 2^24: delta {:>6} B", delta.to_bytes().len());
    }
    let (whole, _) = fingerprints(1_000_000, Width::Bits64);
    for count in [1, 100] {
        let mut rng = ChaCha20Rng::from_seed([99; 32]);
        let bucket = FingerprintBucket::new(Width::Bits64, (0..count).map(|_| u128::from(rng.next_u64())));
        let mut delta = RevocationSet::default();
        delta.add_fingerprints(bucket_key(Width::Bits64), bucket.expect("few")).expect("few");
        let mut sum = whole.clone();
        let us = least_of(3, &mut [&mut || sum.apply(&delta).expect("few")])[0];
        println!("  {count:>8} more fingerprints: delta {:>6} B, {us:.0} us to merge into 1 M", delta.to_bytes().len());
    }
    let mut root = || {
        black_box(Manifest::of(&whole).root());
    };
    let us = least_of(3, &mut [&mut root])[0];
    println!("           root over 1 M fingerprints: {us:.0} us");
}

fn slot() -> Slot {
    Slot::of(START, START + Millis::from_secs(900))
}

fn bucket_key(width: Width) -> FingerprintKey {
    FingerprintKey { slot: slot(), width, salt: Salt([7; 16]) }
}

/// A set of random fingerprints, which is what a salted hash gives, and the bits of each on the wire.
fn fingerprints(count: u32, width: Width) -> (RevocationSet, f64) {
    let mut rng = ChaCha20Rng::from_seed([8; 32]);
    let mut random = || u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
    let numbers = (0..count).map(|_| random() >> (128 - u32::from(width.bits())));
    let bucket = FingerprintBucket::new(width, numbers).expect("few enough");
    let bits = bucket.to_bytes().len() as f64 * 8.0 / f64::from(bucket.count());
    let mut set = RevocationSet::default();
    set.add_fingerprints(bucket_key(width), bucket).expect("few enough");
    (set, bits)
}

/// The logarithm of how many such sets there are, per entry: Stirling's formula.
fn fingerprint_limit(count: u32, width: Width) -> f64 {
    f64::from(width.bits()) - f64::from(count).log2() + std::f64::consts::E.log2()
}

/// Look-ups of one round: few enough that a round is seldom interrupted, and each round has others.
const LOOKUPS: usize = 1000;

/// Microseconds of a negative look-up of a block.
fn lookup_us(set: &RevocationSet) -> f64 {
    let blocks: Vec<BlockId> = (0..50_000_u32).map(|n| BlockId::of_signature(&n.to_le_bytes())).collect();
    let mut rounds = blocks.chunks(LOOKUPS).cycle();
    let mut look = || {
        for block in rounds.next().into_iter().flatten() {
            assert!(!black_box(set.covers_block(slot(), block)), "nobody revoked it");
        }
    };
    least(&mut [&mut look])[0] / LOOKUPS as f64
}

/// Microseconds of a look-up of a serial.
fn serial_lookup_us(set: &RevocationSet, issued: u32) -> f64 {
    let probes: Vec<u32> = (0..50_000_u64).map(|n| (n * 2_654_435_761 % u64::from(issued)) as u32).collect();
    let mut rounds = probes.chunks(LOOKUPS).cycle();
    let mut look = || {
        for probe in rounds.next().into_iter().flatten() {
            black_box(set.covers_serial(slot(), *probe));
        }
    };
    least(&mut [&mut look])[0] / LOOKUPS as f64
}

/// Serials of which this share is revoked.
fn serials(issued: u32, share: f64) -> SerialBucket {
    let mut rng = ChaCha20Rng::from_seed([9; 32]);
    let below = (share * 2_f64.powi(32)) as u32;
    SerialBucket::new(issued, (0..issued).filter(|_| rng.next_u32() < below)).expect("issued")
}

fn bits_each(bucket: &SerialBucket) -> f64 {
    bucket.to_bytes().len() as f64 * 8.0 / f64::from(bucket.revoked())
}

/// The least bits per revocation that say which serials of so many are revoked.
fn entropy(bucket: &SerialBucket) -> f64 {
    let share = f64::from(bucket.revoked()) / f64::from(bucket.issued());
    let bits = -share * share.log2() - (1.0 - share) * (1.0 - share).log2();
    bits / share
}

/// Bytes of a status list: one bit per token, compressed as hard as DEFLATE does.
fn status_list(bucket: &SerialBucket) -> usize {
    let mut bits = vec![0_u8; bucket.issued().div_ceil(8) as usize];
    bucket.iter().for_each(|serial| bits[serial as usize / 8] |= 1 << (serial % 8));
    miniz_oxide::deflate::compress_to_vec_zlib(&bits, 10).len()
}

/// What the device build weighs and how fast it decides after a start without a network.
fn device() {
    let Some(binary) = device_build() else {
        println!("device_binary_mb, cold_start_ms, agent_rss_mb: the device build failed, see above");
        return;
    };
    let bytes = std::fs::metadata(&binary).map_or(0, |meta| meta.len());
    line("device_binary_mb", bytes as f64 / 1e6, "MB", 5.0, "<= 5 MB (stripped)");
    match hardtack_bench::run(&binary) {
        Ok((cold_ms, rss_mb)) => {
            line("cold_start_ms", cold_ms, "ms", 100.0, "<= 100 ms");
            line("agent_rss_mb", rss_mb, "MB", 16.0, "<= 16 MB after 100,000 decisions");
        }
        Err(why) => println!("cold_start_ms, agent_rss_mb: {why}"),
    }
}

/// Builds what runs on devices, and with it the operator's binary that enrols one.
fn device_build() -> Option<PathBuf> {
    let folder = std::env::temp_dir().join("hardtack-bench-device");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--release", "--no-default-features", "--features", "agent", "--bin", "hardtack"])
        .arg("--target-dir")
        .arg(&folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::null())
        .status()
        .ok()?;
    status.success().then(|| folder.join("release/hardtack"))
}

/// A real device from the built binaries: enrolled, started with no broker to reach, asked over its socket.
mod hardtack_bench {
    use super::{Command, Duration, Instant, PathBuf, Stdio};
    use hardtack::shell::client::Client;
    use std::path::Path;
    use std::process::Child;

    const DECISIONS: usize = 100_000;

    pub(super) fn run(device: &Path) -> Result<(f64, f64), String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let at = |name: &str| folder.path().join(name);
        enrol(device, &at)?;
        let (child, _) = start(device, &at, "AAAA")?;
        let token = begin(&at);
        stop(child);
        let token = token?;
        let mut cold_ms = f64::MAX;
        for _ in 0..5 {
            let (child, ms) = start(device, &at, &token)?;
            cold_ms = cold_ms.min(ms);
            stop(child);
        }
        let (child, _) = start(device, &at, &token)?;
        let rss = decide(&child, &at, &token).map(|rss| (cold_ms, rss));
        stop(child);
        rss
    }

    fn command(binary: &Path, args: &[&str]) -> Result<serde_json::Value, String> {
        let output =
            Command::new(binary).args(args).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("{args:?}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    fn text(path: &Path) -> String {
        path.display().to_string()
    }

    pub(super) fn enrol(device: &Path, at: &dyn Fn(&str) -> PathBuf) -> Result<(), String> {
        let operator = Path::new(env!("CARGO_BIN_EXE_hardtack"));
        let (fleet, state) = (text(&at("fleet")), text(&at("state")));
        let (request, bundle) = (text(&at("request")), text(&at("bundle")));
        let init = ["-o", "json", "fleet", "init", &fleet, "--name", "bench", "--no-passphrase"];
        let made = command(operator, &init)?;
        let asked = command(
            device,
            &["-o", "json", "--state-dir", &state, "enrol", "request", "--id", "gw-1", "--out", &request],
        )?;
        let code = asked["code"].as_str().unwrap_or_default();
        let selector = format!("unix:uid:{}=pump", rustix::process::getuid().as_raw());
        let grant = [
            "fleet",
            "grant",
            "create",
            "--device",
            "gw-1",
            "--may-begin",
            &selector,
            "--right",
            "pump:read:modbus/*",
            "--offline-max",
            "3d",
            "--uses-max",
            "10000000",
            "--boots-max",
            "20",
            "--task-ttl-max",
            "1h",
            "--dir",
            &fleet,
        ];
        let approve = ["fleet", "device", "approve", &request, "--code", code, "--out", &bundle, "--dir", &fleet];
        command(operator, &approve)?;
        command(operator, &grant)?;
        // Once more: the bundle now holds the grant.
        command(operator, &approve)?;
        let fingerprint = made["fingerprint"].as_str().unwrap_or_default();
        command(device, &["--state-dir", &state, "enrol", "import", &bundle, "--fleet", fingerprint]).map(drop)
    }

    /// A credential of a live task.
    pub(super) fn begin(at: &dyn Fn(&str) -> PathBuf) -> Result<String, String> {
        let socket = at("run").join("agent.sock");
        let begin = br#"{"task":"pump","rights":[{"resource":"modbus/*","action":"read"}],"ttl_s":3600}"#;
        let task = Client::new(&socket).post("/v1/tasks", begin.to_vec()).map_err(|error| error.to_string())?;
        let task: serde_json::Value = serde_json::from_slice(&task.body).map_err(|error| error.to_string())?;
        Ok(task["token"].as_str().ok_or_else(|| format!("no task: {task}"))?.to_owned())
    }

    pub(super) fn ask(token: &str) -> Vec<u8> {
        let ask = serde_json::json!({"token": token, "operation": "read", "resource": "modbus/a", "risk": "low"});
        ask.to_string().into_bytes()
    }

    /// Starts the device's agent and returns how long it took to its first decision, on this token.
    #[expect(clippy::disallowed_methods, reason = "a bench measures wall time")]
    fn start(device: &Path, at: &dyn Fn(&str) -> PathBuf, token: &str) -> Result<(Child, f64), String> {
        let began = Instant::now();
        let child = Command::new(device)
            .args(["--state-dir", &text(&at("state")), "--run-dir", &text(&at("run")), "agent", "run"])
            .args(["--broker", "mqtt://127.0.0.1:1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let client = Client::new(&at("run").join("agent.sock"));
        loop {
            if client.post("/v1/authorize", ask(token)).is_ok_and(|answer| answer.status == 200) {
                return Ok((child, began.elapsed().as_secs_f64() * 1000.0));
            }
            if began.elapsed() > Duration::from_secs(20) {
                stop(child);
                return Err("the device's agent never decided".into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Has the agent decide, from 32 threads so that the disk is shared, and reads its resident memory.
    fn decide(child: &Child, at: &dyn Fn(&str) -> PathBuf, token: &str) -> Result<f64, String> {
        let socket = at("run").join("agent.sock");
        let ask = ask(token);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..32)
                .map(|_| {
                    scope.spawn(|| {
                        let client = Client::new(&socket);
                        let mut done = 0;
                        while done < DECISIONS / 32 {
                            match client.post("/v1/authorize", ask.clone()) {
                                Ok(answer) if answer.status == 200 => done += 1,
                                Ok(answer) if answer.status == 429 => std::thread::sleep(Duration::from_millis(5)),
                                Ok(answer) => return Err(String::from_utf8_lossy(&answer.body).into_owned()),
                                Err(error) => return Err(error.to_string()),
                            }
                        }
                        Ok(())
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?)
        })?;
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", child.id())).map_err(|error| error.to_string())?;
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok());
        kib.map(|kib| kib * 1.024 / 1000.0).ok_or_else(|| "no VmRSS".into())
    }

    fn stop(mut child: Child) {
        let _ = child.kill();
        let _ = child.wait();
    }
}
