//! What a power cut may leave on a disk, by what was done to it: a file system in memory.
//!
//! Owns: the persistence model, the folder in every state that the model allows, which of them are tried.
//! Never: touches a disk, or knows what the files mean.
//!
//! The model is weaker than any file system in use: what was not synced may be there or not, sector by sector, in any
//! order; a length may have grown over sectors that never came (zeros), or not over sectors that did; a name may be
//! missing, or come back, until its folder was synced, and a sync of a file says nothing about its name. What holds: a
//! sector of 512 bytes is written whole, with what memory held of it at some moment; changes of one name, and of one
//! length, keep their order; a rename is one step; what a sync that succeeded had before it is there. A sync that failed
//! leaves what it should have written in doubt for ever: the kernel takes those pages for clean. States that a stricter
//! file system (ext4 with ordered data) can leave are among these.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::hash::{Hash, Hasher};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::trace::{Deed, Seen};

/// What a disk writes whole or not at all.
pub(crate) const SECTOR: u64 = 512;
/// What the kernel writes at once as a rule.
const PAGE_SECTORS: u64 = 8;
/// Windows with no more independent changes than this are tried in every combination.
const EXHAUSTIVE: usize = 7;

/// So many of the last changes are lost and kept one by one.
const TORN: usize = 9;

type Ino = usize;

/// A folder, as it is found after a cut.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Tree(pub(crate) BTreeMap<PathBuf, Entry>);

/// What has a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Entry {
    Dir,
    File(Arc<Vec<u8>>),
}

impl Tree {
    /// A number that other trees do not have.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

#[derive(Debug, Clone)]
enum Node {
    Dir(BTreeMap<OsString, Ino>),
    File(Arc<Vec<u8>>),
}

/// One change that is not durable yet.
#[derive(Debug, Clone)]
struct Pending {
    ended: usize,
    /// A sync failed over it: no later one helps.
    doubtful: bool,
    change: Change,
}

#[derive(Debug, Clone)]
enum Change {
    /// Within one sector.
    Bytes {
        ino: Ino,
        offset: u64,
        bytes: Vec<u8>,
    },
    Len {
        ino: Ino,
        len: u64,
    },
    /// Names of folders, one step.
    Names(Vec<(Ino, OsString, Option<Ino>)>),
}

/// What changes keep their order by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Sector(Ino, u64),
    Len(Ino),
    Name(Ino, OsString),
}

impl Change {
    fn keys(&self) -> Vec<Key> {
        match self {
            Self::Bytes { ino, offset, .. } => vec![Key::Sector(*ino, offset / SECTOR)],
            Self::Len { ino, .. } => vec![Key::Len(*ino)],
            Self::Names(names) => names.iter().map(|(dir, name, _)| Key::Name(*dir, name.clone())).collect(),
        }
    }
}

/// Which of the pending changes are there after a cut.
pub(crate) type Choice = Vec<bool>;

/// The disk, with what is durable and what is not.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    /// What is durable.
    nodes: Vec<Node>,
    /// What the running system sees: names and lengths.
    names: BTreeMap<Ino, BTreeMap<OsString, Ino>>,
    lens: BTreeMap<Ino, u64>,
    pending: Vec<Pending>,
}

const ROOT: Ino = 0;

impl Disk {
    /// A disk on which this is durable.
    pub(crate) fn holding(tree: &Tree) -> Self {
        let mut disk = Self {
            nodes: vec![Node::Dir(BTreeMap::new())],
            names: BTreeMap::from([(ROOT, BTreeMap::new())]),
            lens: BTreeMap::new(),
            pending: Vec::new(),
        };
        for (path, entry) in &tree.0 {
            let made = match entry {
                Entry::Dir => disk.make(path, Node::Dir(BTreeMap::new()), 0),
                Entry::File(content) => disk.make(path, Node::File(content.clone()), 0),
            };
            debug_assert!(made.is_ok(), "a tree names folders before what is in them");
        }
        let all = vec![true; disk.pending.len()];
        disk.settle(&all);
        disk
    }

    /// Something happens. A path that is not there is an error of whoever made the trace.
    pub(crate) fn see(&mut self, seen: &Seen) -> Result<(), String> {
        match &seen.deed {
            Deed::Create(path) if self.find(path).is_some() => Ok(()),
            Deed::Create(path) => self.make(path, Node::File(Arc::default()), seen.ended),
            Deed::MakeDir(path) => self.make(path, Node::Dir(BTreeMap::new()), seen.ended),
            Deed::Rename(from, to) => self.rename(from, to, seen.ended),
            Deed::Remove(path) => {
                let (dir, name) = self.place(path)?;
                self.push(seen.ended, Change::Names(vec![(dir, name, None)]));
                Ok(())
            }
            Deed::Resize(path, len) => {
                if self.find(path).is_none() {
                    self.make(path, Node::File(Arc::default()), seen.ended)?;
                }
                let ino = self.known(path)?;
                if self.lens.get(&ino) != Some(len) {
                    self.push(seen.ended, Change::Len { ino, len: *len });
                }
                Ok(())
            }
            Deed::Sync(path) => {
                let choice = self.covered(path, seen.began)?;
                self.settle(&choice);
                Ok(())
            }
            Deed::SyncFailed(path) => {
                let ino = self.known(path)?;
                for pending in self.pending.iter_mut().filter(|pending| pending.touches(ino)) {
                    pending.doubtful |= pending.ended < seen.began;
                }
                Ok(())
            }
            Deed::Told(_) => Ok(()),
            Deed::Write(path, offset, bytes) => {
                let ino = self.known(path)?;
                let mut at = *offset;
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let room = (SECTOR - at % SECTOR) as usize;
                    let (now, later) = rest.split_at(room.min(rest.len()));
                    self.push(seen.ended, Change::Bytes { ino, offset: at, bytes: now.to_vec() });
                    (at, rest) = (at + now.len() as u64, later);
                }
                if at > self.lens.get(&ino).copied().unwrap_or(0) {
                    self.push(seen.ended, Change::Len { ino, len: at });
                }
                Ok(())
            }
        }
    }

    fn make(&mut self, path: &Path, node: Node, ended: usize) -> Result<(), String> {
        let (dir, name) = self.place(path)?;
        let ino = self.nodes.len();
        match &node {
            Node::Dir(_) => drop(self.names.insert(ino, BTreeMap::new())),
            Node::File(content) => drop(self.lens.insert(ino, content.len() as u64)),
        }
        self.nodes.push(node);
        self.push(ended, Change::Names(vec![(dir, name, Some(ino))]));
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path, ended: usize) -> Result<(), String> {
        let ino = self.known(from)?;
        let ((dir, name), (new_dir, new_name)) = (self.place(from)?, self.place(to)?);
        self.push(ended, Change::Names(vec![(dir, name, None), (new_dir, new_name, Some(ino))]));
        Ok(())
    }

    /// It happens for the running system, and is not durable.
    fn push(&mut self, ended: usize, change: Change) {
        match &change {
            Change::Bytes { .. } => {}
            Change::Len { ino, len } => drop(self.lens.insert(*ino, *len)),
            Change::Names(names) => {
                for (dir, name, ino) in names {
                    let dir = self.names.entry(*dir).or_default();
                    match ino {
                        Some(ino) => drop(dir.insert(name.clone(), *ino)),
                        None => drop(dir.remove(name)),
                    }
                }
            }
        }
        self.pending.push(Pending { ended, doubtful: false, change });
    }

    fn find(&self, path: &Path) -> Option<Ino> {
        path.components().try_fold(ROOT, |dir, part| match part {
            Component::Normal(name) => self.names.get(&dir)?.get(name).copied(),
            Component::CurDir | Component::ParentDir | Component::Prefix(_) | Component::RootDir => None,
        })
    }

    fn known(&self, path: &Path) -> Result<Ino, String> {
        self.find(path).ok_or_else(|| format!("{} is not there", path.display()))
    }

    /// The folder that a path is in, and its last name.
    fn place(&self, path: &Path) -> Result<(Ino, OsString), String> {
        let parent = self.known(path.parent().unwrap_or(Path::new("")))?;
        Ok((parent, path.file_name().ok_or("no name")?.to_owned()))
    }

    /// How many changes are not durable.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// What a sync makes durable.
    fn covered(&self, path: &Path, began: usize) -> Result<Choice, String> {
        let ino = self.known(path)?;
        let covers = |pending: &Pending| pending.touches(ino) && pending.ended < began && !pending.doubtful;
        Ok(self.closed(self.pending.iter().map(covers).collect()))
    }

    /// With what must be there too: of one sector, one length and one name an older change is not missing under a newer.
    fn closed(&self, mut choice: Choice) -> Choice {
        let mut needed = BTreeSet::new();
        for (kept, pending) in choice.iter_mut().zip(&self.pending).rev() {
            let keys = pending.change.keys();
            *kept |= keys.iter().any(|key| needed.contains(key));
            if *kept {
                needed.extend(keys);
            }
        }
        choice
    }

    /// These changes are durable now, and no other.
    fn settle(&mut self, choice: &Choice) {
        let (mut files, mut pending) = (Files::default(), Vec::new());
        for (kept, change) in choice.iter().zip(std::mem::take(&mut self.pending)) {
            match kept {
                true => files.apply(&mut self.nodes, &change.change),
                false => pending.push(change),
            }
        }
        files.finish(&mut self.nodes);
        self.pending = pending;
    }

    /// The folder after a cut that left these changes. Give it a choice of [`Disk::choices`].
    pub(crate) fn tree(&self, choice: &Choice) -> Tree {
        let mut disk =
            Self { nodes: self.nodes.clone(), pending: self.pending.clone(), ..Self::holding(&Tree::default()) };
        disk.settle(choice);
        let mut tree = Tree::default();
        disk.walk(ROOT, Path::new(""), &mut tree);
        tree
    }

    fn walk(&self, dir: Ino, path: &Path, tree: &mut Tree) {
        let Node::Dir(names) = &self.nodes[dir] else { return };
        for (name, ino) in names {
            let path = path.join(name);
            match &self.nodes[*ino] {
                Node::Dir(_) => {
                    tree.0.insert(path.clone(), Entry::Dir);
                    self.walk(*ino, &path, tree);
                }
                Node::File(content) => drop(tree.0.insert(path, Entry::File(content.clone()))),
            }
        }
    }

    /// What a cut may leave here: every combination where there are few, else those that have broken others before, and
    /// random ones. No two are equal.
    pub(crate) fn choices(&self, random: &mut Random, samples: usize) -> Vec<Choice> {
        let count = self.pending.len();
        let mut choices = BTreeSet::new();
        if count <= EXHAUSTIVE {
            for bits in 0..1_usize << count {
                choices.insert(self.closed((0..count).map(|at| bits >> at & 1 == 1).collect()));
            }
            return choices.into_iter().collect();
        }
        let by = |keep: &dyn Fn(usize, &Change) -> bool| -> Choice {
            self.closed(self.pending.iter().enumerate().map(|(at, pending)| keep(at, &pending.change)).collect())
        };
        let is_name = |change: &Change| matches!(change, Change::Names(_));
        let is_bytes = |change: &Change| matches!(change, Change::Bytes { .. });
        choices.insert(by(&|_, _| true));
        choices.insert(by(&|_, _| false));
        choices.insert(by(&|_, change| is_name(change)));
        choices.insert(by(&|_, change| !is_name(change)));
        choices.insert(by(&|_, change| !is_bytes(change)));
        choices.insert(by(&|_, change| is_bytes(change)));
        // One name alone, and all but one.
        for one in (0..count).filter(|at| is_name(&self.pending[*at].change)) {
            choices.insert(by(&|at, _| at == one));
            choices.insert(by(&|at, _| at != one));
        }
        // The call in flight is torn: of its sectors one alone, and all but one.
        for one in count.saturating_sub(TORN)..count {
            choices.insert(by(&|at, _| at + TORN < count || at == one));
            choices.insert(by(&|at, _| at != one));
        }
        for number in 0..samples {
            let (cut, other) = (random.below(count), random.below(count));
            let dice = random.next();
            let likely = [1, 4, 7][number % 3];
            let chance = |what: u64| mix(dice ^ mix(what)) % 8 < likely;
            choices.insert(match number % 7 {
                // Torn: in order up to somewhere; the last part first; a hole; one change alone.
                0 => by(&|at, _| at < cut),
                1 => by(&|at, _| at >= cut),
                2 => by(&|at, _| at < cut.min(other) || at >= cut.max(other)),
                3 => by(&|at, _| at != cut),
                // Reordered: page by page, sector by sector, file by file.
                4 => by(&|at, change| match change {
                    Change::Bytes { ino, offset, .. } => chance(offset / SECTOR / PAGE_SECTORS * 1000 + *ino as u64),
                    Change::Len { .. } | Change::Names(_) => chance(at as u64 + 7_000_000),
                }),
                5 => by(&|at, _| chance(at as u64)),
                _ => by(&|at, change| match change {
                    Change::Bytes { ino, .. } | Change::Len { ino, .. } => chance(*ino as u64),
                    Change::Names(_) => chance(at as u64 + 9_000_000),
                }),
            });
        }
        choices.into_iter().collect()
    }

    /// In words, which changes a choice leaves out.
    pub(crate) fn words(&self, choice: &Choice) -> String {
        let lost = choice.iter().zip(&self.pending).filter(|(kept, _)| !**kept).map(|(_, pending)| pending);
        let word = |pending: &Pending| match &pending.change {
            Change::Bytes { ino, offset, bytes } => format!("{ino}:{offset}+{}", bytes.len()),
            Change::Len { ino, len } => format!("{ino}:len {len}"),
            Change::Names(names) => names
                .iter()
                .map(|(dir, name, ino)| match ino {
                    Some(ino) => format!("{dir}/{} is {ino}", name.to_string_lossy()),
                    None => format!("{dir}/{} goes", name.to_string_lossy()),
                })
                .collect::<Vec<_>>()
                .join(" and "),
        };
        let words: Vec<String> = lost.map(word).collect();
        let shown = words.iter().take(30).cloned().collect::<Vec<_>>().join(", ");
        format!("{} of {} changes lost: {shown}", words.len(), choice.len())
    }
}

impl Pending {
    fn touches(&self, ino: Ino) -> bool {
        match &self.change {
            Change::Bytes { ino: of, .. } | Change::Len { ino: of, .. } => *of == ino,
            Change::Names(names) => names.iter().any(|(dir, ..)| *dir == ino),
        }
    }
}

/// Files that are being changed: what was written beyond a length counts once the length does.
#[derive(Default)]
struct Files(BTreeMap<Ino, (Vec<u8>, u64)>);

impl Files {
    fn apply(&mut self, nodes: &mut [Node], change: &Change) {
        match change {
            Change::Bytes { ino, offset, bytes } => {
                let (content, _) = self.open(nodes, *ino);
                let end = *offset as usize + bytes.len();
                content.resize(content.len().max(end), 0);
                content[*offset as usize..end].copy_from_slice(bytes);
            }
            Change::Len { ino, len } => {
                let (content, now) = self.open(nodes, *ino);
                if *len < *now {
                    content.truncate(*len as usize);
                }
                *now = *len;
            }
            Change::Names(names) => {
                for (dir, name, ino) in names {
                    let Node::Dir(entries) = &mut nodes[*dir] else { continue };
                    match ino {
                        Some(ino) => drop(entries.insert(name.clone(), *ino)),
                        None => drop(entries.remove(name)),
                    }
                }
            }
        }
    }

    fn open(&mut self, nodes: &[Node], ino: Ino) -> &mut (Vec<u8>, u64) {
        self.0.entry(ino).or_insert_with(|| match &nodes[ino] {
            Node::File(content) => (content.as_ref().clone(), content.len() as u64),
            Node::Dir(_) => (Vec::new(), 0),
        })
    }

    fn finish(self, nodes: &mut [Node]) {
        for (ino, (mut content, len)) in self.0 {
            content.resize(len as usize, 0);
            nodes[ino] = Node::File(Arc::new(content));
        }
    }
}

/// Random numbers that repeat.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below one that is not 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &[u8]) -> Entry {
        Entry::File(Arc::new(content.to_vec()))
    }

    fn tree(entries: &[(&str, Entry)]) -> Tree {
        Tree(entries.iter().map(|(path, entry)| (PathBuf::from(path), entry.clone())).collect())
    }

    /// Every state that a cut may leave after these deeds, each call ending before the next begins.
    fn states(before: &Tree, deeds: Vec<Deed>) -> BTreeSet<BTreeMap<PathBuf, Vec<u8>>> {
        let mut disk = Disk::holding(before);
        assert_eq!((disk.pending(), disk.tree(&Vec::new())), (0, before.clone()));
        for (at, deed) in deeds.into_iter().enumerate() {
            disk.see(&Seen { began: at, ended: at, deed }).unwrap();
        }
        let plain = |entry: Entry| match entry {
            Entry::Dir => b"/".to_vec(),
            Entry::File(content) => content.to_vec(),
        };
        let found = disk.choices(&mut Random(1), 0).into_iter().map(|choice| disk.tree(&choice).0);
        found.map(|tree| tree.into_iter().map(|(path, entry)| (path, plain(entry))).collect()).collect()
    }

    #[track_caller]
    fn check(before: &Tree, deeds: Vec<Deed>, expected: &[&[(&str, &[u8])]]) {
        let expected = expected.iter().map(|state| {
            state.iter().map(|(path, content)| (PathBuf::from(path), content.to_vec())).collect::<BTreeMap<_, _>>()
        });
        assert_eq!(states(before, deeds), expected.collect());
    }

    #[test]
    fn what_was_not_synced_may_be_there_or_not() {
        let write = |offset, bytes: &[u8]| Deed::Write("a".into(), offset, bytes.to_vec());
        let before = tree(&[("a", file(b"0123"))]);
        let sync = || Deed::Sync("a".into());
        check(&before, vec![], &[&[("a", b"0123")]]);
        check(&before, vec![write(1, b"xy")], &[&[("a", b"0123")], &[("a", b"0xy3")]]);
        check(&before, vec![write(1, b"xy"), sync()], &[&[("a", b"0xy3")]]);
        // Within a sector the order holds.
        let both = vec![write(0, b"x"), write(1, b"y")];
        check(&before, both, &[&[("a", b"0123")], &[("a", b"x123")], &[("a", b"xy23")]]);
        // A length that comes without its bytes shows zeros, bytes that come without their length are not there.
        check(&before, vec![write(4, b"xy")], &[&[("a", b"0123")], &[("a", b"0123\0\0")], &[("a", b"0123xy")]]);
        check(&before, vec![Deed::Resize("a".into(), 2)], &[&[("a", b"0123")], &[("a", b"01")]]);
        // What is cut off does not come back.
        let regrown = vec![Deed::Resize("a".into(), 2), sync(), Deed::Resize("a".into(), 4), sync()];
        check(&before, regrown, &[&[("a", b"01\0\0")]]);
    }

    #[test]
    fn sectors_are_torn_apart_and_reordered_but_never_split() {
        let old = vec![b'o'; 1536];
        let before = tree(&[("a", file(&old))]);
        let found = states(&before, vec![Deed::Write("a".into(), 0, vec![b'n'; 1536])]);
        assert_eq!(found.len(), 8);
        for state in found {
            assert!(state[Path::new("a")].chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        }
    }

    #[test]
    fn a_sync_counts_for_what_had_ended_before_it_began() {
        let write = Deed::Write("a".into(), 0, b"x".to_vec());
        let sync = |began| Seen { began, ended: 5, deed: Deed::Sync("a".into()) };
        for (began, pending) in [(2, 1), (3, 1), (4, 0)] {
            let mut disk = Disk::holding(&tree(&[("a", file(b"0"))]));
            disk.see(&Seen { began: 1, ended: 3, deed: write.clone() }).unwrap();
            disk.see(&sync(began)).unwrap();
            assert_eq!(disk.pending(), pending, "began at {began}");
        }
        let mut disk = Disk::holding(&tree(&[("a", file(b"0"))]));
        disk.see(&Seen { began: 1, ended: 1, deed: write }).unwrap();
        disk.see(&Seen { began: 2, ended: 2, deed: Deed::SyncFailed("a".into()) }).unwrap();
        disk.see(&sync(4)).unwrap();
        assert_eq!(disk.pending(), 1, "no later sync helps");
    }

    #[test]
    fn names_need_their_folders_sync() {
        let none = Tree::default();
        let made = vec![Deed::MakeDir("d".into()), Deed::Create("d/a".into()), Deed::Sync("d/a".into())];
        check(&none, made.clone(), &[&[], &[("d", b"/")], &[("d", b"/"), ("d/a", b"")]]);
        let inner = || made.clone().into_iter().chain([Deed::Sync("d".into())]).collect();
        check(&none, inner(), &[&[], &[("d", b"/"), ("d/a", b"")]]);
        let both = made.clone().into_iter().chain([Deed::Sync("d".into()), Deed::Sync("".into())]).collect();
        check(&none, both, &[&[("d", b"/"), ("d/a", b"")]]);
        // A rename is one step, and what it replaces is there until then.
        let before = tree(&[("a", file(b"old")), ("b", file(b"new"))]);
        let moved = vec![Deed::Rename("b".into(), "a".into())];
        check(&before, moved.clone(), &[&[("a", b"old"), ("b", b"new")], &[("a", b"new")]]);
        check(&before, vec![Deed::Remove("b".into())], &[&[("a", b"old")], &[("a", b"old"), ("b", b"new")]]);
        // Between two folders too, whichever is synced.
        let before = tree(&[("d", Entry::Dir), ("d/a", file(b"x")), ("e", Entry::Dir)]);
        let moved = vec![Deed::Rename("d/a".into(), "e/a".into())];
        let there: &[(&str, &[u8])] = &[("d", b"/"), ("e", b"/"), ("e/a", b"x")];
        let here: &[(&str, &[u8])] = &[("d", b"/"), ("d/a", b"x"), ("e", b"/")];
        check(&before, moved.clone(), &[there, here]);
        for synced in ["d", "e"] {
            check(&before, [moved.clone(), vec![Deed::Sync(synced.into())]].concat(), &[there]);
        }
    }

    #[test]
    fn samples_are_allowed_differ_and_repeat() {
        let mut disk = Disk::holding(&tree(&[("a", file(&[0; 40_000]))]));
        let bytes: Vec<u8> = (0..40_000_u32).map(|n| n as u8 | 1).collect();
        disk.see(&Seen { began: 1, ended: 1, deed: Deed::Write("a".into(), 100, bytes) }).unwrap();
        let choices = disk.choices(&mut Random(7), 200);
        assert!(choices.len() > 150, "{}", choices.len());
        assert_eq!(choices, disk.choices(&mut Random(7), 200));
        assert!(choices.iter().all(|choice| *choice == disk.closed(choice.clone())));
    }
}
