//! Damage that no power cut does: bits that flip, files that are cut, gone, swapped for something else, strangers.
//!
//! Owns: which damage is done, and what must hold after it: the device starts or says what is wrong with which file, and
//! every decision that anybody heard is at the collector or in a gap record that names its range.
//! Never: expects that nothing is lost. That nothing is lost silently, and that nothing stops for ever, is what counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::fs;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hardtack::agent::request::Verdict;
use hardtack::shell::store::Event;
use hardtack::time::{Millis, Timestamp};

use super::disk::{Entry, Random, Tree};
use super::enumerate::Player;
use super::gateway::{Gateway, Power, Trouble};
use super::headquarters::{Headquarters, START};
use super::oracle::{ensure, lay_out, put};
use super::recorder::folder;
use super::story::{Stand, Told};

/// Something that happens to a disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Damage {
    /// One bit of a byte.
    Flip(PathBuf, usize, u8),
    /// Bytes from there on are others.
    Scratch(PathBuf, usize, usize),
    /// Bytes from there on are zero.
    Zero(PathBuf, usize, usize),
    Cut(PathBuf, usize),
    Noise(PathBuf),
    Gone(PathBuf),
    /// A folder stands where a file was.
    Folder(PathBuf),
    /// A file stands where a folder was.
    File(PathBuf),
    /// What nobody of us put there.
    Foreign(PathBuf, Foreign),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Foreign {
    Empty,
    Text,
    EmptyFolder,
    /// With a `db` that is none.
    NoEra,
}

/// How a device took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Nothing is gone.
    Whole,
    /// What is gone is counted in a gap record.
    Counted,
    /// It refuses to start, says why, and goes on once the file is back.
    Refused,
}

fn content<'a>(tree: &'a Tree, path: &Path) -> Option<&'a Arc<Vec<u8>>> {
    match tree.0.get(path) {
        Some(Entry::File(content)) => Some(content),
        Some(Entry::Dir) | None => None,
    }
}

impl Damage {
    pub(crate) fn done_to(&self, tree: &Tree) -> Tree {
        let mut damaged = tree.clone();
        let mut edit = |path: &PathBuf, edit: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = content(tree, path).map(|content| content.to_vec()).unwrap_or_default();
            edit(&mut bytes);
            damaged.0.insert(path.clone(), Entry::File(Arc::new(bytes)));
        };
        match self {
            Self::Flip(path, at, bit) => edit(path, &|bytes| bytes[*at] ^= 1 << bit),
            Self::Scratch(path, at, len) => {
                edit(path, &|bytes| bytes.iter_mut().skip(*at).take(*len).for_each(|byte| *byte ^= 0x5a));
            }
            Self::Zero(path, at, len) => {
                edit(path, &|bytes| bytes.iter_mut().skip(*at).take(*len).for_each(|byte| *byte = 0));
            }
            Self::Cut(path, len) => edit(path, &|bytes| bytes.truncate(*len)),
            Self::Noise(path) => {
                edit(path, &|bytes| bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 167) as u8));
            }
            Self::Gone(path) => damaged.0.retain(|other, _| !other.starts_with(path)),
            Self::Folder(path) => drop(damaged.0.insert(path.clone(), Entry::Dir)),
            Self::File(path) => {
                damaged.0.retain(|other, _| !other.starts_with(path));
                damaged.0.insert(path.clone(), Entry::File(Arc::new(b"no folder".to_vec())));
            }
            Self::Foreign(path, foreign) => {
                let text = || Entry::File(Arc::new(b"a person's".to_vec()));
                match foreign {
                    Foreign::Empty => drop(damaged.0.insert(path.clone(), Entry::File(Arc::default()))),
                    Foreign::Text => drop(damaged.0.insert(path.clone(), text())),
                    Foreign::EmptyFolder => drop(damaged.0.insert(path.clone(), Entry::Dir)),
                    Foreign::NoEra => {
                        damaged.0.insert(path.clone(), Entry::Dir);
                        damaged.0.insert(path.join("db"), text());
                    }
                }
            }
        }
        damaged
    }

    /// Whether what is gone of a file's end is just what a power cut would have kept from being written. The commit that
    /// was there last may have been told, and nothing tells that apart.
    fn looks_torn(&self) -> bool {
        matches!(self, Self::Cut(..) | Self::Zero(..))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Flip(path, ..)
            | Self::Scratch(path, ..)
            | Self::Zero(path, ..)
            | Self::Cut(path, _)
            | Self::Noise(path)
            | Self::Gone(path)
            | Self::Folder(path)
            | Self::File(path)
            | Self::Foreign(path, _) => path,
        }
    }
}

/// Damage of every kind to every file and folder of a state folder, but for bits.
pub(crate) fn coarse(tree: &Tree) -> Vec<Damage> {
    let mut all = BTreeSet::new();
    let below = |path: &&PathBuf| path.starts_with("state") && **path != Path::new("state");
    for path in tree.0.keys().filter(below) {
        let Some(bytes) = content(tree, path) else {
            all.extend([Damage::Gone(path.clone()), Damage::File(path.clone())]);
            let foreign = [("README", Foreign::Text), (".x.tmp", Foreign::Empty), (".y.tmp", Foreign::NoEra)];
            let foreign = foreign.into_iter().chain([("ä", Foreign::EmptyFolder)]);
            all.extend(foreign.map(|(name, what)| Damage::Foreign(path.join(name), what)));
            continue;
        };
        let len = bytes.len();
        for cut in [0, 1, len / 3, len / 2, len.saturating_sub(100), len.saturating_sub(1)] {
            all.insert(Damage::Cut(path.clone(), cut));
        }
        for at in [len / 100, len / 2, len * 9 / 10] {
            all.insert(Damage::Scratch(path.clone(), at, 64));
        }
        all.insert(Damage::Zero(path.clone(), len.saturating_sub(8192), 8192));
        all.extend([Damage::Noise(path.clone()), Damage::Gone(path.clone()), Damage::Folder(path.clone())]);
    }
    for (name, what) in [
        ("00000000000000000004", Foreign::EmptyFolder),
        ("00000000000000000007", Foreign::NoEra),
        ("00000000000000000099", Foreign::NoEra),
        ("09223372036854775807", Foreign::EmptyFolder),
        ("09223372036854775807", Foreign::NoEra),
        ("18446744073709551615", Foreign::NoEra),
        ("18446744073709551615", Foreign::Text),
        ("18446744073709551616", Foreign::NoEra),
        ("7", Foreign::NoEra),
    ] {
        all.insert(Damage::Foreign(Path::new("state/eras").join(name), what));
    }
    // Who holds the lock is for people, and not read.
    all.into_iter().filter(|damage| damage.path() != Path::new("state/lock")).collect()
}

/// So many bits, of each file its share: small files are few bytes of many, and matter as much.
pub(crate) fn flips(tree: &Tree, count: usize, random: &mut Random) -> Vec<Damage> {
    let files: Vec<(&PathBuf, usize)> = tree
        .0
        .keys()
        .filter_map(|path| Some((path, content(tree, path)?.len())))
        .filter(|(path, len)| *len > 0 && !path.ends_with("lock"))
        .collect();
    let mut all = BTreeSet::new();
    for at in 0..count {
        let (path, len) = files[at % files.len()];
        all.insert(Damage::Flip(path.clone(), random.below(len), random.below(8) as u8));
    }
    all.into_iter().collect()
}

/// What was tried and what came of it.
#[derive(Debug, Default)]
pub(crate) struct Survived {
    pub(crate) outcomes: BTreeMap<Outcome, usize>,
    pub(crate) broken: Vec<String>,
}

impl Survived {
    #[track_caller]
    pub(crate) fn assert_whole(&self, what: &str) {
        println!("{what}: {self}");
        assert!(self.broken.is_empty(), "{what}: {self}\n{}", self.broken.join("\n"));
    }
}

impl Display for Survived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = |outcome| self.outcomes.get(&outcome).copied().unwrap_or(0);
        let (whole, counted, refused) = (count(Outcome::Whole), count(Outcome::Counted), count(Outcome::Refused));
        write!(
            f,
            "{} damaged disks: {whole} lost nothing, {counted} counted what they lost, {refused} said what to put back, \
             {} did neither",
            whole + counted + refused + self.broken.len(),
            self.broken.len()
        )
    }
}

/// Tries all of them on the disk of `player`.
pub(crate) fn try_damage(player: &Player, damages: &[Damage]) -> Survived {
    let (tree, next) = (player.tree(), AtomicUsize::new(0));
    let survived = Mutex::new(Survived::default());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from).min(8) {
            scope.spawn(|| {
                let place = folder();
                while let Some(damage) = damages.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let disk = place.path().join("disk");
                    lay_out(&damage.done_to(&tree), &disk);
                    let check = || after_damage(&disk, damage, &tree, &player.told, &player.fleet);
                    let verdict = catch_unwind(AssertUnwindSafe(check));
                    let mut survived = survived.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    match verdict {
                        Ok(Ok(outcome)) => *survived.outcomes.entry(outcome).or_default() += 1,
                        Ok(Err(why)) => survived.broken.push(format!("{damage:?}: {why}")),
                        Err(_) => survived.broken.push(format!("{damage:?}: a panic")),
                    }
                }
            });
        }
    });
    survived.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// When somebody looks at the device again.
const BACK: Timestamp = Timestamp(START.0 + 8_000_000);

fn after_damage(
    disk: &Path,
    damage: &Damage,
    whole: &Tree,
    told: &Told,
    fleet: &Headquarters,
) -> Result<Outcome, String> {
    let state = disk.join("state");
    let power = Power { boot: 2, on_at: BACK };
    let start = |secs: u64, seed| Gateway::start(&state, power, BACK + Millis::from_secs(5 + secs), seed);
    let mut refused = false;
    let mut first = match start(0, 201) {
        Ok(gateway) => gateway,
        Err(trouble) => {
            check_refusal(&trouble, damage)?;
            let again = start(5, 202).err().map(|again| again.to_string());
            ensure!(again == Some(trouble.to_string()), "{trouble}, and the next time {again:?}");
            put_back(disk, damage, whole);
            refused = true;
            start(10, 203).map_err(|error| format!("though its file is back: {error}"))?
        }
    };
    let mut taken = told.decisions.clone();
    check_ended(&mut first, told, &mut taken)?;
    drop(first);
    let mut second = start(100, 204).map_err(|error| format!("second start: {error}"))?;
    let again = second.events.iter().find(|event| matches!(event, Event::Quarantined { .. }));
    ensure!(again.is_none(), "told twice: {again:?}");
    check_ended(&mut second, told, &mut taken)?;
    let mut fleet = fleet.fork();
    second.deliver(&mut fleet, &mut |_, _| {}).map_err(|error| format!("delivering: {error}"))?;
    check_ended(&mut second, told, &mut taken)?;
    let left = Stand::of(&second.status().map_err(|error| error.to_string())?).uses_left;
    for (grant, uses) in told.stand.iter().flat_map(|stand| &stand.uses_left) {
        ensure!(left.get(grant).is_none_or(|left| left <= uses), "uses are refunded: {left:?}");
    }
    second.deliver_rest(&mut fleet, &mut |_, _| {}).map_err(|error| format!("delivering the rest: {error}"))?;
    drop(second);
    let doubt = if damage.looks_torn() { told.last_commit.clone() } else { BTreeSet::new() };
    let lost = check_accounted(&fleet, &taken, &doubt)?;
    Ok(match (refused, lost) {
        (true, 0) => Outcome::Refused,
        (true, lost) => return Err(format!("{lost} are gone of a disk that was put right")),
        (false, 0) => Outcome::Whole,
        (false, _) => Outcome::Counted,
    })
}

/// Only what a device cannot be itself without stops it, and then it is named, or what to do is.
fn check_refusal(trouble: &Trouble, damage: &Damage) -> Result<(), String> {
    let text = trouble.to_string();
    let helps =
        text.contains("enrol") || damage.path().file_name().is_some_and(|name| text.contains(&*name.to_string_lossy()));
    ensure!(helps, "a start fails without a remedy: {text}");
    Ok(())
}

/// The file or folder is as it was.
fn put_back(disk: &Path, damage: &Damage, whole: &Tree) {
    let path = disk.join(damage.path());
    let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
    let parts = whole.0.iter().filter(|(part, _)| part.starts_with(damage.path()));
    parts.for_each(|(part, entry)| put(entry, &disk.join(part)));
}

/// Whatever rots, nothing that ended is good again, and no number is used twice.
fn check_ended(gateway: &mut Gateway, told: &Told, taken: &mut BTreeMap<(u64, u64), bool>) -> Result<(), String> {
    let ended = |task: &String| told.finished.contains(task) || told.revoked.contains(task);
    let tokens = told.tasks.iter().filter(|(task, _)| ended(task)).chain(told.lasting.iter().take(1));
    for (task, token) in tokens {
        for reply in gateway.decide(token, 1).map_err(|error| error.to_string())? {
            let allow = reply.decision == Verdict::Allow;
            ensure!(!(allow && ended(task)), "{task} has ended and is good again");
            let number = (reply.audit.era, reply.audit.index);
            ensure!(taken.insert(number, allow).is_none(), "{number:?} is used twice");
        }
    }
    Ok(())
}

/// Every decision that anybody heard is held once, or counted in a gap, but for those in doubt. Returns how many are gone.
fn check_accounted(
    fleet: &Headquarters,
    heard: &BTreeMap<(u64, u64), bool>,
    doubt: &BTreeSet<(u64, u64)>,
) -> Result<usize, String> {
    let held = fleet.held();
    let report = &held.report;
    ensure!(report.problems.is_empty() && report.forks == 0 && report.missing == 0, "the chain: {report:?}");
    let mut lost = 0;
    for ((era, index), allow) in heard {
        match held.records.get(&(*era, *index)) {
            Some(found) => ensure!(*found == Some(*allow), "{era}/{index} was told, {found:?} is held"),
            None if doubt.contains(&(*era, *index)) => {}
            None => {
                lost += 1;
                let counts = |gap: &&(u64, u64, Option<u64>)| {
                    gap.0 == *era && gap.1 <= *index && gap.2.is_none_or(|end| *index < end)
                };
                // Where the anchor is gone nobody knows what was: era 0 stands for all of it.
                let all = |gap: &&(u64, u64, Option<u64>)| gap.0 == 0;
                let counted = held.gaps.iter().any(|gap| counts(&gap) || all(&gap));
                ensure!(counted, "{era}/{index} is gone, and only {:?} counted", held.gaps);
            }
        }
    }
    Ok(lost)
}
