//! Who publishes: one process at a time, killed whenever it may be, and no number of the feed is ever signed twice.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{channel, Receiver};
use std::time::Duration;

use hardtack::agent::effects::LinkCommand;
use hardtack::agent::LinkEvent;
use hardtack::fleet::Write;
use hardtack::ids::Hash;
use hardtack::shell::cast::{Fleet, Stage};
use hardtack::shell::clock;
use hardtack::shell::mqtt::Link;
use hardtack::wire::decode;
use hardtack::wire::envelope::Signed;
use hardtack::wire::revocation::announcement::{Announcement, Head};
use serde_json::Value;

use crate::mqtt::config;
use crate::support::mosquitto::Mosquitto;
use crate::support::{cannot_run, strace};

/// Every head that was seen anywhere, by era and number.
type Heads = BTreeMap<(u32, u64), Hash>;

/// A fleet, a broker, and somebody who watches the feed there.
struct Site {
    folder: tempfile::TempDir,
    fleet: Fleet,
    url: String,
    watched: Receiver<LinkEvent>,
    heads: Heads,
    /// The newest that the broker has passed on.
    passed_on: u64,
    _link: Link,
    _broker: Mosquitto,
}

impl Site {
    /// Must be called within a runtime, which the link lives on.
    fn new() -> Self {
        let broker = Mosquitto::open();
        let url = format!("mqtt://{}", broker.addr());
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(Path::new(env!("CARGO_BIN_EXE_hardtack")).into());
        let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
        let (sender, watched) = channel();
        let now = clock::wall().unwrap();
        let link = Link::spawn(
            config("gw-01", std::slice::from_ref(&url), None),
            move || now,
            move |event| {
                sender.send(event).unwrap_or_default();
            },
        );
        let link = link.unwrap();
        link.send(LinkCommand::Connect { filters: vec!["hardtack/1/acme/feed/main/head".into()], will: None });
        Self { folder, fleet, url, watched, heads: Heads::new(), passed_on: 0, _link: link, _broker: broker }
    }

    fn dir(&self) -> &str {
        self.fleet.dir.to_str().unwrap()
    }

    fn revoke(&self, task: &str) {
        self.fleet.run(&["revoke", "task", task]).unwrap();
    }

    /// A second one that says why it does not run.
    fn serve_in_vain(&self) -> (Option<i32>, String) {
        let serve = ["-o", "json", "fleet", "serve", "--broker", &self.url, "--dir", self.dir()];
        let output = Command::new(env!("CARGO_BIN_EXE_hardtack")).args(serve).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Takes in what the ledger holds and what has arrived at the broker: each number has one digest wherever it is seen.
    /// Gives the newest of each.
    #[track_caller]
    fn check(&mut self) -> (u64, u64) {
        let ledger = rusqlite::Connection::open(self.fleet.dir.join("fleet.db")).unwrap();
        let mut rows = ledger.prepare("SELECT value FROM book WHERE name LIKE 'head/%'").unwrap();
        let stored: Vec<Vec<u8>> = rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let mut newest = 0;
        for row in stored {
            let Ok(Write::Head(head)) = decode(&row, 1 << 20) else { panic!("a row that is no head") };
            newest = newest.max(self.note(&head));
        }
        while let Ok(event) = self.watched.recv_timeout(Duration::from_millis(300)) {
            let LinkEvent::Message { payload, .. } = event else { continue };
            self.passed_on = self.note(&Announcement::from_bytes(&payload).unwrap().head).max(self.passed_on);
        }
        (newest, self.passed_on)
    }

    #[track_caller]
    fn note(&mut self, signed: &Signed<Head>) -> u64 {
        let head = signed.claim().unwrap();
        let known = self.heads.entry((head.era, head.seq)).or_insert_with(|| signed.digest());
        assert_eq!(*known, signed.digest(), "head {} was signed twice", head.seq);
        head.seq
    }

    /// The next start goes on: a head above all that were signed before, and devices can follow it.
    #[track_caller]
    fn goes_on(&mut self) {
        let before = self.heads.keys().last().unwrap().1;
        let _serve = self.fleet.serve(&self.url).unwrap();
        self.revoke("t-last");
        for _ in 0..20 {
            let (ledger, broker) = self.check();
            let waits = rules(&self.fleet).iter().any(|rule| rule["state"] != "signed");
            if ledger > before && ledger == broker && !waits {
                let numbers: Vec<u64> = self.heads.keys().map(|(_, seq)| *seq).collect();
                assert_eq!(numbers, (1..=ledger).collect::<Vec<_>>(), "no number is left out");
                return;
            }
        }
        panic!("the next start does not go on after {before}: {:?}", self.heads.keys().last());
    }
}

fn rules(fleet: &Fleet) -> Vec<Value> {
    fleet.run(&["revocations"]).unwrap()["rules"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_publisher_at_a_time_and_a_dead_one_is_in_nobodys_way() {
    let mut site = Site::new();
    let first = site.fleet.serve(&site.url).unwrap();
    let (code, text) = site.serve_in_vain();
    assert_eq!(code, Some(75), "{text}");
    assert!(text.contains(&format!("process {} publishes", first.id())), "{text}");
    first.kill();
    let second = site.fleet.serve(&site.url).unwrap();
    let published = site.fleet.run(&["publish", "--broker", &site.url]).unwrap();
    assert_eq!(published["signed"], "by `fleet serve`", "{published}");
    drop(second);
    site.revoke("t-1");
    assert_eq!(site.fleet.run(&["publish", "--broker", &site.url]).unwrap()["signed"], "here");
    site.check();
    site.goes_on();
}

/// Somebody removes the lock's file: two processes have a lock now, and the turn in the ledger decides.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_lost_its_turn_stops() {
    let mut site = Site::new();
    let serve = ["-o", "json", "fleet", "serve", "--broker", &site.url, "--dir", site.dir()].map(str::to_owned);
    let mut first = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    let mut first = Killed(first.args(serve).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let lock = site.fleet.dir.join("publisher.lock");
    for _ in 0..200 {
        if !std::fs::read(&lock).unwrap_or_default().is_empty() && site.check().1 > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    std::fs::remove_file(&lock).unwrap();
    let second = site.fleet.serve(&site.url).unwrap();
    let ended = end_of(&mut first.0);
    assert_eq!(ended, Some(1));
    let mut told = String::new();
    std::io::Read::read_to_string(&mut first.0.stderr.take().unwrap(), &mut told).unwrap();
    assert!(told.contains(&format!("process {} publishes from this ledger since", second.id())), "{told}");
    drop(second);
    site.check();
    site.goes_on();
}

/// A process that a failed test does not leave behind.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The exit code of a process that ends by itself within ten seconds; else it is killed.
fn end_of(child: &mut Child) -> Option<i32> {
    for _ in 0..400 {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    child.kill().unwrap();
    child.wait().unwrap().code()
}

/// More than this are not revoked under load: a fast machine would meet the limit of a feed's rules.
const RULES_WANTED: u32 = 500;

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_under_load_no_number_is_signed_twice() {
    let mut site = Site::new();
    let (stop, count) = (AtomicBool::new(false), AtomicU32::new(0));
    let fleet = site.fleet.clone();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && count.load(Ordering::Relaxed) < RULES_WANTED {
                    let task = format!("t-{}", count.fetch_add(1, Ordering::Relaxed));
                    fleet.run(&["revoke", "task", &task]).unwrap();
                }
            });
        }
        for round in 0..12 {
            let serve = site.fleet.serve(&site.url).unwrap();
            // At another moment each time: what is between two steps is met sooner or later.
            std::thread::sleep(Duration::from_millis(37 * round % 400));
            serve.kill();
            site.check();
        }
        stop.store(true, Ordering::Relaxed);
    });
    site.goes_on();
    let revoked = count.load(Ordering::Relaxed) as usize + 1;
    assert_eq!(rules(&site.fleet).len(), revoked, "none was lost");
    assert!(site.heads.len() > 3, "hardly anything was signed: {} heads", site.heads.len());
}

/// A copy that is made while `fleet serve` and others write is whole, and none takes the place of a ledger in use.
#[tokio::test(flavor = "multi_thread")]
async fn copies_are_made_under_load_and_put_back_only_at_rest() {
    let mut site = Site::new();
    let serve = site.fleet.serve(&site.url).unwrap();
    let folder = site.folder.path().to_owned();
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (stop, fleet) = (AtomicBool::new(false), site.fleet.clone());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..RULES_WANTED {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                fleet.run(&["revoke", "task", &format!("t-{n}")]).unwrap();
            }
        });
        for n in 0..5 {
            let made = site.fleet.run(&["backup", "--out", &path(&format!("copy-{n}"))]).unwrap();
            assert_eq!(made["checked"], true, "{made}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let refused = site.fleet.run(&["restore", &path("copy-2")]).unwrap_err().to_string();
    assert!(refused.contains(&format!("in use by process {}", serve.id())), "{refused}");
    site.check();
    let newest = site.heads.keys().last().unwrap().1;
    drop(serve);
    let restored = site.fleet.run(&["restore", &path("copy-0")]).unwrap();
    assert!(restored["after"].as_u64().unwrap() >= newest, "{restored}");
    let (code, text) = site.serve_in_vain();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(restored["do"].as_str().unwrap()), "{text}");
    let after = restored["after"].to_string();
    site.fleet.run(&["publish", "--broker", &site.url, "--after", &after]).unwrap();
    let (ledger, broker) = site.check();
    assert_eq!(broker, ledger, "and every number has one digest");
    // One is left out where the head of that number is lost with its digest.
    let next = ledger - restored["after"].as_u64().unwrap();
    assert!(next == 1 || next == 2, "head {ledger} after {restored}");
}

/// Killed at each write, sync and send of a start that has something to sign, one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_each_step_no_number_is_signed_twice() {
    if let Some(why) = strace::why_not() {
        return cannot_run(&why);
    }
    let mut site = Site::new();
    let (mut killed, mut unpublished) = (0, 0);
    for call in ["pwrite64", "fsync", "sendto"] {
        for when in 1..=6 {
            site.revoke(&format!("t-{call}-{when}"));
            let mut command = Command::new("strace");
            command.args(["-f", "-qq", "-I", "2", "-o"]).arg(site.folder.path().join("trace"));
            command.args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:signal=KILL:when={when}")]);
            command.arg(env!("CARGO_BIN_EXE_hardtack")).args(["fleet", "serve", "--broker", &site.url]);
            command.args(["--dir", site.dir()]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut serve = command.spawn().unwrap();
            let mut ended = false;
            for _ in 0..120 {
                ended = serve.try_wait().unwrap().is_some();
                if ended {
                    break;
                }
                std::thread::sleep(Duration::from_millis(25));
            }
            killed += usize::from(ended);
            if !ended {
                // It got by without so many calls.
                rustix::process::kill_process(rustix::process::Pid::from_child(&serve), rustix::process::Signal::TERM)
                    .unwrap();
                serve.wait().unwrap();
            }
            let (ledger, broker) = site.check();
            unpublished += usize::from(ledger > broker);
        }
    }
    assert!(killed >= 3 && unpublished >= 1, "{killed} were killed, {unpublished} before their head was out");
    site.goes_on();
}
