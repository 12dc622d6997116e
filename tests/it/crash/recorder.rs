//! The story, run in processes that strace watches.
//!
//! Owns: the child processes, what was recorded of them.
//! Never: says what the record means for a disk: `disk.rs` does.

use std::fs;
use std::io::{BufRead, Write};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use hardtack::time::Timestamp;

use super::disk::Tree;
use super::headquarters::{FleetEvent, Headquarters};
use super::oracle::lay_out;
use super::story::{run, Marker};
use super::trace::{read, Deed, Seen, OPTIONS};

/// Set for the process that is recorded: `CHAPTER DIR SOCKET HISTORY`.
const ROLE: &str = "HARDTACK_TEST_CRASH_ROLE";

/// Exit code of a recorded process whose store refused.
pub(crate) const TROUBLE: i32 = 3;

/// The folder that stands for the disk, and what is recorded of it.
pub(crate) struct Recording {
    folder: tempfile::TempDir,
    /// What had happened at headquarters before.
    earlier: Vec<(FleetEvent, Timestamp)>,
    /// Everything that happened on the disk, over all chapters.
    pub(crate) seen: Vec<Seen>,
    lines: usize,
    /// How much of that there was at the end of each chapter.
    pub(crate) ends: Vec<usize>,
}

/// Temporary folders of these tests: in memory where that is possible, as a sync there costs nothing and keeps nothing
/// from anybody.
pub(crate) fn folder() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    let made = if shm.is_dir() { tempfile::tempdir_in(shm).ok() } else { None };
    made.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

/// What strace does to the process beside watching it.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    None,
    /// As strace takes it after `inject=`.
    Inject(String),
}

/// How a recorded process ended.
pub(crate) struct Ended {
    pub(crate) success: bool,
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
}

impl Recording {
    pub(crate) fn new() -> Self {
        let folder = folder();
        fs::create_dir(folder.path().join("disk")).unwrap();
        Self { folder, earlier: Vec::new(), seen: Vec::new(), lines: 0, ends: Vec::new() }
    }

    /// A recording that begins on a disk with this on it, after these events at headquarters.
    pub(crate) fn on(tree: &Tree, earlier: Vec<(FleetEvent, Timestamp)>) -> Self {
        let recording = Self { earlier, ..Self::new() };
        lay_out(tree, &recording.disk());
        recording
    }

    /// What stands for the disk.
    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.disk().join("state")
    }

    /// Everything that happened at headquarters, as far as it was told.
    pub(crate) fn history(&self) -> Vec<(FleetEvent, Timestamp)> {
        let event = |marker| match marker {
            Marker::Fleet(event, at) => Some((event, at)),
            _ => None,
        };
        self.earlier.iter().cloned().chain(self.markers().filter_map(event)).collect()
    }

    /// Everything that was told.
    pub(crate) fn markers(&self) -> impl Iterator<Item = Marker> + '_ {
        self.seen.iter().filter_map(|seen| match &seen.deed {
            Deed::Told(bytes) => Some(marker(bytes)),
            _ => None,
        })
    }

    /// How many data syncs the last chapter made.
    pub(crate) fn data_syncs(&self) -> usize {
        let begin = self.ends.iter().rev().nth(1).copied().unwrap_or(0);
        let is_data = |seen: &&Seen| match &seen.deed {
            Deed::Sync(path) => {
                path.file_name().is_some_and(|name| name == "db" || name.to_string_lossy().starts_with("anchor"))
            }
            _ => false,
        };
        self.seen[begin..].iter().filter(is_data).count()
    }

    /// Runs a chapter under strace, and adds to the record what it did.
    pub(crate) fn chapter(&mut self, chapter: u64, fault: &Fault) -> Ended {
        let path = |name: &str| self.folder.path().join(name);
        let (trace, socket, history) = (path("trace"), path("socket"), path("history"));
        let mut text = Vec::new();
        for event in self.history() {
            serde_json::to_writer(&mut text, &event).unwrap();
            text.push(b'\n');
        }
        fs::write(&history, text).unwrap();
        let _ = fs::remove_file(&socket);
        let ears = UnixDatagram::bind(&socket).unwrap();
        ears.set_read_timeout(Some(std::time::Duration::from_millis(20))).unwrap();
        let mut command = Command::new("strace");
        command.args(OPTIONS);
        if let Fault::Inject(what) = fault {
            command.arg("-e").arg(format!("inject={what}"));
        }
        command.arg("-o").arg(&trace).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "crash::in_another_process", "--nocapture", "--test-threads=1"]);
        let words = [self.state(), socket.clone(), history].map(|path| path.display().to_string());
        command.env(ROLE, format!("{chapter} {}", words.join(" ")));
        // What is said is also in the trace: here it only must not fill the socket.
        let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let ended = std::sync::atomic::AtomicBool::new(false);
        let output = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut said = vec![0; 1 << 18];
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    while ears.recv(&mut said).is_ok() {}
                }
            });
            let output = child.wait_with_output().unwrap();
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
            output
        });
        let text = fs::read_to_string(&trace).unwrap();
        let found = read(&text, &self.disk()).unwrap();
        let (first, count) = (self.lines, text.lines().count());
        self.lines += count;
        // What a process did not live to see ended with it.
        let place = |line: usize| first + line.min(count);
        self.seen.extend(found.into_iter().map(|seen| Seen {
            began: place(seen.began),
            ended: place(seen.ended),
            ..seen
        }));
        self.ends.push(self.seen.len());
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        Ended { success: output.status.success(), code: output.status.code(), said }
    }
}

pub(crate) fn marker(bytes: &[u8]) -> Marker {
    serde_json::from_slice(bytes).unwrap()
}

/// What the recorded process does, if this is one.
pub(crate) fn in_another_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let words: Vec<&str> = role.split(' ').collect();
    let [chapter, state, socket, history] = words[..] else { panic!("no role: {role}") };
    let mut fleet = Headquarters::found();
    for line in fs::read(history).unwrap().lines() {
        let (event, at): (FleetEvent, Timestamp) = serde_json::from_str(&line.unwrap()).unwrap();
        fleet.happen(&event, at);
    }
    let mouth = UnixDatagram::unbound().unwrap();
    let mut tell = |marker: Marker| {
        // A call of its own, which no fault of files hits.
        mouth.send_to(&serde_json::to_vec(&marker).unwrap(), socket).unwrap();
    };
    match run(chapter.parse().unwrap(), Path::new(state), &mut fleet, &mut tell) {
        Ok(()) => {}
        Err(trouble) => {
            let mut out = std::io::stderr().lock();
            let _ = writeln!(out, "TROUBLE {trouble}");
            std::process::exit(TROUBLE);
        }
    }
}
