//! SHA-256 of programs that run.
//!
//! Owns: hashing the file that a process runs, once for each state of it.
//! Never: hashes a file by a path that may name another one by now.
//! Read next: `../peer.rs`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

use rustix::process::Pid;
use sha2::{Digest, Sha256};

use crate::ids::Hash;

/// The longest program that is hashed: half a gigabyte takes a small board some ten seconds, in which its caller waits.
const PROGRAM_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// The most hashes that are kept; with one more, all are forgotten.
const KEPT_MAX: usize = 256;

/// A file and its state: one that is written to, or put in its place, differs in one of these.
type Key = (u64, u64, u64, (i64, i64), (i64, i64));

/// Hashes by file.
#[derive(Debug, Default)]
pub(super) struct Digests {
    kept: Mutex<BTreeMap<Key, Hash>>,
    /// Held by who hashes: one at a time, and whoever waited finds what the other has found.
    hashing: Mutex<()>,
}

impl Digests {
    /// The hash of the program that a process runs, if it may be read and does not change meanwhile.
    pub(super) fn of(&self, pid: Pid) -> Option<Hash> {
        let file = File::open(format!("/proc/{pid}/exe")).ok()?;
        self.of_file(file)
    }

    fn of_file(&self, file: File) -> Option<Hash> {
        let key = key(&file)?;
        if let Some(hash) = self.lock().get(&key) {
            return Some(*hash);
        }
        let _turn = self.hashing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hash) = self.lock().get(&key) {
            return Some(*hash);
        }
        let hash = hash(&file)?;
        if self::key(&file)? != key {
            return None;
        }
        let mut kept = self.lock();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(key, hash);
        Some(hash)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Key, Hash>> {
        // The map is whole between any two statements.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(file: &File) -> Option<Key> {
    let meta = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let (changed, created) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
    (meta.size() <= PROGRAM_BYTES_MAX).then_some((meta.dev(), meta.ino(), meta.size(), changed, created))
}

fn hash(file: &File) -> Option<Hash> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    let mut left = file.take(PROGRAM_BYTES_MAX + 1);
    loop {
        match left.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => hasher.update(&buffer[..bytes]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
    Some(Hash(hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_changes_has_another_hash_and_one_that_does_not_is_hashed_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let digests = Digests::default();
        let of = |path: &std::path::Path| digests.of_file(File::open(path).unwrap());
        std::fs::write(&path, "one").unwrap();
        let one = of(&path).unwrap();
        assert_eq!(one.0[..], Sha256::digest("one")[..]);
        assert_eq!((of(&path), digests.lock().len()), (Some(one), 1));
        // As long as before, and with the times that it had: the time of its last change cannot be set back.
        let times = std::fs::metadata(&path).unwrap();
        std::fs::write(&path, "two").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(times.modified().unwrap()).unwrap();
        assert_eq!(of(&path).unwrap().0[..], Sha256::digest("two")[..]);
        for number in 0..KEPT_MAX {
            let other = folder.path().join(number.to_string());
            std::fs::write(&other, "other").unwrap();
            assert!(of(&other).is_some());
        }
        assert!(digests.lock().len() <= KEPT_MAX);
        assert_eq!(digests.of_file(File::open(folder.path()).unwrap()), None, "a folder is no program");
    }
}
