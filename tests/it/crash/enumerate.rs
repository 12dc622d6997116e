//! Crash states of a recording, tried one by one.
//!
//! Owns: which states are tried, by how many hands, what is said of it.
//! Never: judges a state: `oracle.rs` does.
//!
//! A window is the time up to a sync, when most is in doubt: what was told by then is held against every state that a cut
//! in it may leave. States of earlier cuts are among them, held against less.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{mpsc, Arc, Mutex};

use super::disk::{Choice, Disk, Random, Tree};
use super::headquarters::Headquarters;
use super::oracle::{after_a_cut, lay_out};
use super::recorder::{folder, marker, Recording};
use super::story::{Marker, Told};
use super::trace::{Deed, Seen};

/// What was tried, and what did not hold.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    pub(crate) windows: usize,
    pub(crate) enumerated: usize,
    pub(crate) checked: usize,
    pub(crate) distinct: usize,
    /// In words, each with its state.
    pub(crate) broken: Vec<String>,
}

impl Display for Tried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} windows, {} states enumerated, {} of them checked, {} distinct, {} passed",
            self.windows,
            self.enumerated,
            self.checked,
            self.distinct,
            self.checked - self.broken.len()
        )
    }
}

impl Tried {
    /// Says what was tried, and fails with a witness of each kind if something did not hold.
    #[track_caller]
    pub(crate) fn assert_whole(&self, what: &str) {
        println!("{what}: {self}");
        let mut kinds = BTreeMap::<String, Vec<&String>>::new();
        for broken in &self.broken {
            let kind = broken.chars().take_while(|c| *c != '\n' && !c.is_numeric()).take(60).collect();
            kinds.entry(kind).or_default().push(broken);
        }
        let words: Vec<String> =
            kinds.values().map(|broken| format!("{} times, as in: {}", broken.len(), broken[0])).collect();
        assert!(words.is_empty(), "{what}: {self}\n{}", words.join("\n"));
    }
}

/// How much is tried: `HARDTACK_CRASH_STATES` states, else as many as fit into a usual run.
pub(crate) fn budget(usual: usize) -> usize {
    std::env::var("HARDTACK_CRASH_STATES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// A state to be tried.
struct Case {
    tree: Tree,
    words: String,
    told: Arc<Told>,
    fleet: Arc<Headquarters>,
}

/// Tries states of the windows that `wanted` picks by the number of the sync at their end, about `budget` in all, and stops
/// early once something does not hold if `patience` is [`Patience::First`].
pub(crate) fn try_cuts(
    seen: &[Seen],
    wanted: impl Fn(usize, &Path) -> bool,
    budget: usize,
    seed: u64,
    patience: Patience,
) -> Tried {
    let is_window = |(at, seen): (usize, &Seen)| match &seen.deed {
        Deed::Sync(path) => wanted(at, path),
        _ => false,
    };
    let syncs = seen.iter().enumerate().filter(|window| is_window(*window)).count();
    assert!(syncs > 0, "no window to try");
    let mut random = Random(seed);
    let tried = Mutex::new(Tried::default());
    let stop = || patience == Patience::First && !tried.lock().unwrap().broken.is_empty();
    std::thread::scope(|scope| {
        let (give, take) = mpsc::sync_channel::<Case>(2);
        let take = Arc::new(Mutex::new(take));
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from).min(8) {
            let (take, tried) = (take.clone(), &tried);
            scope.spawn(move || {
                let place = folder();
                loop {
                    let case = take.lock().unwrap().recv();
                    let Ok(case) = case else { return };
                    let disk = place.path().join("disk");
                    lay_out(&case.tree, &disk);
                    let state = disk.join("state");
                    let verdict = catch_unwind(AssertUnwindSafe(|| after_a_cut(&state, &case.told, &case.fleet)));
                    let mut tried = tried.lock().unwrap();
                    tried.checked += 1;
                    match verdict {
                        Ok(Ok(())) => {}
                        Ok(Err(why)) => tried.broken.push(format!("{why}\n    {}", case.words)),
                        Err(_) => tried.broken.push(format!("a panic\n    {}", case.words)),
                    }
                }
            });
        }
        let mut player = Player::new();
        let mut digests = BTreeSet::new();
        for (at, seen) in seen.iter().enumerate() {
            if is_window((at, seen)) {
                for (choice, enumerated) in player.pick(&mut random, budget, syncs) {
                    let case = player.case(&choice, at);
                    let mut tried = tried.lock().unwrap();
                    tried.enumerated += enumerated;
                    tried.distinct += usize::from(digests.insert(case.tree.digest()));
                    drop(tried);
                    give.send(case).unwrap();
                }
                tried.lock().unwrap().windows += 1;
                if stop() {
                    break;
                }
            }
            player.see(seen);
        }
        let told = &player.told;
        assert!(stop() || (told.enrolled && told.decisions.len() > 300), "hardly anything was told");
        drop(give);
    });
    tried.into_inner().unwrap()
}

/// A bug in how a store syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Weakness {
    /// The era's data is left to the kernel.
    NoDataSync,
    /// Names are left to the kernel.
    NoNameSync,
    /// The anchor is written in place.
    OneSlot,
    /// What a start finds counts as durable.
    NoSyncAtStart,
}

/// What a store with this bug would have done.
pub(crate) fn weakened(recording: &Recording, weakness: Weakness) -> Vec<Seen> {
    let seen = &recording.seen;
    let made = |seen: &Seen| match &seen.deed {
        Deed::MakeDir(path) => Some(path.clone()),
        _ => None,
    };
    let dirs: BTreeSet<PathBuf> = seen.iter().filter_map(made).chain([PathBuf::new()]).collect();
    let mut written = BTreeSet::new();
    let mut weak = Vec::new();
    for (at, seen) in seen.iter().enumerate() {
        if recording.ends.contains(&at) {
            written.clear();
        }
        let mut seen = seen.clone();
        match (&mut seen.deed, weakness) {
            (Deed::Sync(path), Weakness::NoDataSync) if path.ends_with("db") => continue,
            (Deed::Sync(path), Weakness::NoNameSync) if dirs.contains(path) => continue,
            // What another process has written, which is no more.
            (Deed::Sync(path), Weakness::NoSyncAtStart) if !written.contains(path) => continue,
            (Deed::Write(path, ..) | Deed::Create(path) | Deed::Resize(path, _), Weakness::NoSyncAtStart) => {
                written.extend(path.ancestors().map(PathBuf::from));
            }
            (Deed::MakeDir(path) | Deed::Remove(path), Weakness::NoSyncAtStart) => {
                written.extend(path.ancestors().map(PathBuf::from));
            }
            (Deed::Rename(from, to), Weakness::NoSyncAtStart) => {
                written.extend(from.ancestors().chain(to.ancestors()).map(PathBuf::from));
            }
            (
                Deed::Write(path, ..) | Deed::Create(path) | Deed::Resize(path, _) | Deed::Sync(path),
                Weakness::OneSlot,
            ) if path.ends_with("anchor.1") => path.set_file_name("anchor.0"),
            _ => {}
        }
        weak.push(seen);
    }
    weak
}

/// Whether one witness is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    All,
    First,
}

/// The recording as it is played again.
pub(crate) struct Player {
    disk: Disk,
    pub(crate) told: Arc<Told>,
    pub(crate) fleet: Arc<Headquarters>,
    behind: Headquarters,
    /// The last deeds, in words.
    last: VecDeque<String>,
}

/// Deeds that are told of a state that does not hold.
const LAST_MAX: usize = 14;

impl Player {
    /// After all of these.
    pub(crate) fn after(seen: &[Seen]) -> Self {
        let mut player = Self::new();
        seen.iter().for_each(|seen| player.see(seen));
        player
    }

    /// The disk as the running system sees it.
    pub(crate) fn tree(&self) -> Tree {
        self.disk.tree(&vec![true; self.disk.pending()])
    }

    fn new() -> Self {
        let (fleet, behind) = (Arc::new(Headquarters::found()), Headquarters::found());
        Self { disk: Disk::holding(&Tree::default()), told: Arc::default(), fleet, behind, last: VecDeque::new() }
    }

    fn see(&mut self, seen: &Seen) {
        self.disk.see(seen).unwrap();
        self.last.push_back(seen.deed.words());
        if self.last.len() > LAST_MAX {
            self.last.pop_front();
        }
        if let Deed::Sync(path) = &seen.deed {
            if path.ends_with("db") && !self.told.synced {
                self.told = Arc::new(Told { synced: true, ..Told::clone(&self.told) });
            }
        }
        if let Deed::Told(bytes) = &seen.deed {
            let marker = marker(bytes);
            let mut told = Told::clone(&self.told);
            told.hear(&marker).unwrap();
            self.told = Arc::new(told);
            if let Marker::Fleet(event, at) = marker {
                self.behind.happen(&event, at);
                self.fleet = Arc::new(self.behind.fork());
            }
        }
    }

    /// This window's share of what is tried. The first carries how many there were to choose from.
    fn pick(&self, random: &mut Random, budget: usize, windows: usize) -> Vec<(Choice, usize)> {
        let share = budget / windows + usize::from(random.below(windows) < budget % windows);
        let mut choices = self.disk.choices(random, share + 8);
        let mut enumerated = choices.len();
        let mut picked = Vec::new();
        while picked.len() < share && !choices.is_empty() {
            let choice = choices.swap_remove(random.below(choices.len()));
            picked.push((choice, std::mem::take(&mut enumerated)));
        }
        picked
    }

    fn case(&self, choice: &Choice, at: usize) -> Case {
        let last: Vec<&str> = self.last.iter().map(String::as_str).collect();
        let words = format!("before event {at}: {}\n    after {}", self.disk.words(choice), last.join(", "));
        Case { tree: self.disk.tree(choice), words, told: self.told.clone(), fleet: self.fleet.clone() }
    }
}
