//! A folder as it stands on a disk, and what a power cut leaves of what was not synced.
//!
//! Owns: [`Image`], taken of a folder and laid out as one; the mixture of two of them.
//! Never: takes away or changes what both hold: what was synced before stays.
//! Read next: `disks.rs`, which takes one at each step of a commit. The same weaknesses of a disk, told by system calls, are
//! in `tests/it/crash/disk.rs`.
//!
//! Between two steps each file meets a fate of its own. One that was replaced or renamed is the old or the new one, under
//! the old or the new name, never both and never neither. A slot of the anchor, which is written to where it is, may be
//! torn: sector by sector old or new, and cut off where it grew. A file in `eras/` may have grown over sectors that never
//! came. It is not torn within: sled draws by chance in which order it writes the rows of a commit, so that the same seed
//! would come to other rows each time. `tests/it/crash` tears these.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rand_chacha::ChaCha8Rng;

use crate::disk::Fate;
use crate::drive::Reaches;
use crate::fault::Part;
use crate::random::below;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    inode: u64,
    content: Vec<u8>,
}

/// A folder: paths below it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Image {
    folders: BTreeSet<PathBuf>,
    files: BTreeMap<PathBuf, File>,
}

impl Image {
    /// Reads a folder.
    ///
    /// # Errors
    /// When something in it cannot be read.
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        let mut image = Self::default();
        image.add(folder, Path::new(""))?;
        Ok(image)
    }

    fn add(&mut self, root: &Path, below: &Path) -> io::Result<()> {
        for entry in fs::read_dir(root.join(below))? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.folders.insert(path.clone());
                self.add(root, &path)?;
            } else {
                let content = fs::read(root.join(&path))?;
                self.files.insert(path, File { inode: entry.metadata()?.ino(), content });
            }
        }
        Ok(())
    }

    /// Makes a folder this one, whatever it was.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn lay_out(&self, folder: &Path) -> io::Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        let make = |path: &Path| DirBuilder::new().mode(0o700).recursive(true).create(path);
        make(folder)?;
        for path in &self.folders {
            make(&folder.join(path))?;
        }
        for (path, file) in &self.files {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600).open(folder.join(path))?.write_all(&file.content)?;
        }
        Ok(())
    }

    /// The paths of all files.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// The content of a file.
    pub(super) fn file(&self, path: &Path) -> Option<&[u8]> {
        self.files.get(path).map(|file| file.content.as_slice())
    }

    /// Gives a file another content, or takes it away.
    pub(super) fn set(&mut self, path: &Path, content: Option<Vec<u8>>) {
        match content {
            Some(content) => drop(self.files.insert(path.to_owned(), File { inode: 0, content })),
            None => drop(self.files.remove(path)),
        }
    }

    /// This, and in place of a part of it the same part of another.
    pub(super) fn with(&self, part: Part, of: &Self) -> Self {
        let is_in = |path: &Path| part_of(path) == part;
        let folders = self.folders.iter().filter(|path| !is_in(path));
        let files = self.files.iter().filter(|(path, _)| !is_in(path));
        let own = files.chain(of.files.iter().filter(|(path, _)| is_in(path)));
        Self {
            folders: folders.chain(of.folders.iter().filter(|path| is_in(path))).cloned().collect(),
            files: own.map(|(path, file)| (path.clone(), file.clone())).collect(),
        }
    }

    /// Each file as it is here or, where it had reached the medium, in another: or there or not there as here or in the other.
    pub(super) fn or_by_file(&self, other: &Self, reaches: Reaches<'_>) -> Self {
        let paths: BTreeSet<&PathBuf> = self.files.keys().chain(other.files.keys()).collect();
        let pick = |path: &PathBuf| {
            let (own, others) = (self.file(path), other.file(path));
            let of = if own == others || reaches(&path.to_string_lossy(), 1) == 0 { self } else { other };
            Some((path.clone(), of.files.get(path)?.clone()))
        };
        let files = paths.into_iter().filter_map(pick).collect();
        Self { folders: self.folders.union(&other.folders).cloned().collect(), files }
    }

    /// Whether all files are there with the same content.
    pub(super) fn reads_like(&self, other: &Self) -> bool {
        let alike = |((path, file), (other_path, other)): ((&PathBuf, &File), (&PathBuf, &File))| {
            path == other_path && file.content == other.content
        };
        self.files.len() == other.files.len() && self.files.iter().zip(&other.files).all(alike)
    }

    /// What a cut leaves after this and on the way to `next`.
    pub(super) fn cut_on_the_way_to(&self, next: &Self, fate: &mut dyn FnMut() -> Fate, torn: &mut ChaCha8Rng) -> Self {
        let mut left = Self { folders: self.folders.intersection(&next.folders).cloned().collect(), ..Self::default() };
        // A folder that gets another name does so with all that is in it.
        let mut moved: BTreeMap<(PathBuf, PathBuf), Fate> = BTreeMap::new();
        let by_inode: BTreeMap<u64, &PathBuf> = next.files.iter().map(|(path, file)| (file.inode, path)).collect();
        let mut arrived = BTreeSet::new();
        for (path, old) in &self.files {
            match (next.files.get(path), by_inode.get(&old.inode)) {
                (Some(new), _) if new == old => drop(left.files.insert(path.clone(), old.clone())),
                (Some(new), _) => {
                    let file = match fate() {
                        Fate::Lost => old.clone(),
                        Fate::Torn if old.inode == new.inode && is_slot(path) => new.torn(Some(old), torn),
                        Fate::Torn if old.inode == new.inode && path.starts_with("eras") => new.grown_over_nothing(old),
                        Fate::Kept | Fate::Torn => new.clone(),
                    };
                    left.files.insert(path.clone(), file);
                }
                (None, Some(to)) => {
                    let key = (parent(path), parent(to));
                    let fate = *moved.entry(key).or_insert_with(&mut *fate);
                    arrived.insert((*to).clone());
                    let at = if fate == Fate::Lost { path } else { to };
                    left.files.insert(at.clone(), old.clone());
                }
                (None, None) => {
                    if fate() == Fate::Lost {
                        left.files.insert(path.clone(), old.clone());
                    }
                }
            }
        }
        let is_new = |path: &&PathBuf| !self.files.contains_key(*path) && !arrived.contains(*path);
        for path in next.files.keys().filter(is_new) {
            let new = &next.files[path];
            match fate() {
                Fate::Lost => {}
                Fate::Torn if is_slot(path) => drop(left.files.insert(path.clone(), new.torn(None, torn))),
                Fate::Kept | Fate::Torn => drop(left.files.insert(path.clone(), new.clone())),
            }
        }
        let holds = |folder: &&PathBuf| left.files.keys().any(|path| path.starts_with(folder));
        let needed: Vec<PathBuf> = self.folders.union(&next.folders).filter(holds).cloned().collect();
        left.folders.extend(needed);
        left
    }
}

impl File {
    /// Its length is there, and none of what was written.
    fn grown_over_nothing(&self, old: &Self) -> Self {
        let mut content = old.content.clone();
        content.resize(content.len().max(self.content.len()), 0);
        Self { inode: self.inode, content }
    }

    /// What is left of it when power fails while it is written over an older one.
    fn torn(&self, old: Option<&Self>, rng: &mut ChaCha8Rng) -> Self {
        let old = old.map_or(&[][..], |old| &old.content);
        let mut content = self.content.clone();
        for (number, sector) in content.chunks_mut(SECTOR).enumerate() {
            let before = old.get(number * SECTOR..).unwrap_or_default();
            let before = &before[..before.len().min(sector.len())];
            if below(rng, 2) == 0 {
                sector[..before.len()].copy_from_slice(before);
                sector[before.len()..].fill(0);
            }
        }
        let grown = content.len().saturating_sub(old.len()) / SECTOR;
        if grown > 0 && below(rng, 2) == 0 {
            content.truncate(content.len() - below(rng, grown as u64 + 1) as usize * SECTOR);
        }
        Self { inode: self.inode, content }
    }
}

/// The part of the state folder that a path is in.
fn part_of(path: &Path) -> Part {
    if is_slot(path) {
        Part::Anchor
    } else if path.starts_with("eras") || path.starts_with("quarantine") {
        Part::Era
    } else {
        Part::Files
    }
}

/// Whether a file is a slot of the anchor.
fn is_slot(path: &Path) -> bool {
    path.to_string_lossy().starts_with("anchor.")
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    fn image(files: &[(&str, u64, &[u8])]) -> Image {
        let mut image = Image::default();
        for (path, inode, content) in files {
            image
                .folders
                .extend(Path::new(path).ancestors().skip(1).filter(|of| *of != Path::new("")).map(Path::to_owned));
            image.files.insert((*path).into(), File { inode: *inode, content: content.to_vec() });
        }
        image
    }

    fn cut(before: &Image, after: &Image, fate: Fate) -> Image {
        before.cut_on_the_way_to(after, &mut || fate, &mut stream(1, "cut", "torn"))
    }

    #[test]
    fn what_both_hold_stays_and_the_rest_is_old_or_new() {
        let (anchor, db) = (Path::new("anchor.0"), Path::new("eras/1/db"));
        let before = image(&[
            ("policy", 1, b"old"),
            ("bundle", 2, b"same"),
            ("eras/1/db", 3, &[1; 1024]),
            ("anchor.0", 5, &[1; 8192]),
        ]);
        let after = image(&[
            ("policy", 4, b"new"),
            ("bundle", 2, b"same"),
            ("eras/1/db", 3, &[2; 2048]),
            ("anchor.0", 5, &[2; 8192]),
        ]);
        assert_eq!(cut(&before, &after, Fate::Lost), before);
        assert_eq!(cut(&before, &after, Fate::Kept), after);
        let torn = cut(&before, &after, Fate::Torn);
        assert_eq!(torn.file(Path::new("policy")), Some(&b"new"[..]), "a replaced file is never torn");
        assert_eq!(torn.file(db), Some(&[vec![1; 1024], vec![0; 1024]].concat()[..]), "an era grows over nothing");
        let slot = torn.file(anchor).unwrap();
        assert!(slot.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        assert!(slot.contains(&1) && slot.contains(&2), "some sectors are old, some are new");
    }

    #[test]
    fn a_renamed_folder_is_in_one_place_with_all_that_is_in_it() {
        let before = image(&[("eras/1/db", 3, b"a"), ("eras/1/conf", 4, b"b")]);
        let after = image(&[("eras/.1.tmp/db", 3, b"a"), ("eras/.1.tmp/conf", 4, b"b")]);
        assert_eq!(cut(&before, &after, Fate::Lost).files, before.files);
        assert_eq!(cut(&before, &after, Fate::Kept).files, after.files);
        let mut turns = [Fate::Lost, Fate::Kept].into_iter();
        let left = before.cut_on_the_way_to(&after, &mut || turns.next().unwrap(), &mut stream(1, "cut", "torn"));
        assert_eq!(left.files, before.files, "one fate for both");
    }

    #[test]
    fn a_folder_that_is_laid_out_is_read_as_it_was() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("state");
        let whole = image(&[("anchor.0", 1, b"x"), ("eras/1/db", 2, &[7; 700])]);
        whole.lay_out(&folder).unwrap();
        whole.lay_out(&folder).unwrap();
        let read = Image::of(&folder).unwrap();
        assert_eq!(read.folders, whole.folders);
        assert_eq!(read.file(Path::new("eras/1/db")), whole.file(Path::new("eras/1/db")));
    }
}
