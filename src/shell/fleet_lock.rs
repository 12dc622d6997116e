//! Locks of a fleet's folder: who has the ledger open, who publishes from it.
//!
//! Owns: `fleet.lock`, which every process that has the ledger open shares, so that nobody exchanges the file beneath it;
//! `publisher.lock`, which one process holds. The kernel takes them back when a process ends, however it ends.
//! Never: guards what is written: SQLite's transactions do, and the turn that stands in the ledger.
//! Read next: `ledger.rs`, `serve.rs`.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;

use super::files::FileError;

/// How often a lock is tried before it counts as held, and how long lies between: who only asks whether it is held holds
/// it for a moment.
const TRIES: (u32, Duration) = (20, Duration::from_millis(25));

/// A lock, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Who holds a lock that cannot be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It is ours now.
    Free,
    /// The process with this number, as it wrote it down. Empty where several share it.
    By(String),
}

/// What everybody who has a ledger open shares.
pub fn opened(ledger: &Path) -> PathBuf {
    ledger.with_extension("lock")
}

/// What the one process that publishes from a ledger holds.
pub fn publisher(ledger: &Path) -> PathBuf {
    ledger.with_file_name("publisher.lock")
}

/// Takes a lock that others may share.
///
/// # Errors
/// [`FileError`]. `Err` inside: who holds it alone.
pub fn share(path: &Path) -> Result<Result<Lock, String>, FileError> {
    take(path, FlockOperation::NonBlockingLockShared)
}

/// Takes a lock that nobody else has, and writes down who did.
///
/// # Errors
/// [`FileError`]. `Err` inside: who holds it.
pub fn hold(path: &Path) -> Result<Result<Lock, String>, FileError> {
    take(path, FlockOperation::NonBlockingLockExclusive)
}

/// Who holds a lock at this moment.
///
/// # Errors
/// [`FileError`].
pub fn holder(path: &Path) -> Result<Taken, FileError> {
    let file = open(path)?;
    match try_lock(path, &file, FlockOperation::NonBlockingLockShared)? {
        true => Ok(Taken::Free),
        false => Ok(Taken::By(written(&file))),
    }
}

fn take(path: &Path, how: FlockOperation) -> Result<Result<Lock, String>, FileError> {
    let mut file = open(path)?;
    for _ in 0..TRIES.0 {
        if try_lock(path, &file, how)? {
            if matches!(how, FlockOperation::NonBlockingLockExclusive) {
                // The number is for people; that it cannot be written on a full disk is no reason to stop.
                let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            }
            return Ok(Ok(Lock { _file: file }));
        }
        std::thread::sleep(TRIES.1);
    }
    Ok(Err(written(&file)))
}

fn open(path: &Path) -> Result<File, FileError> {
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    opened.map_err(|error| FileError::io("lock", path, error))
}

fn try_lock(path: &Path, file: &File, how: FlockOperation) -> Result<bool, FileError> {
    match flock(file, how) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(FileError::io("lock", path, error.into())),
    }
}

fn written(mut file: &File) -> String {
    let mut holder = String::new();
    // Whoever cannot be named is still there.
    let _ = Read::by_ref(&mut file).take(32).read_to_string(&mut holder);
    holder.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holds_many_share_and_whoever_holds_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fleet.lock");
        let (one, two) = (share(&path).unwrap().unwrap(), share(&path).unwrap().unwrap());
        assert!(hold(&path).unwrap().is_err());
        drop((one, two));
        let held = hold(&path).unwrap().unwrap();
        let me = std::process::id().to_string();
        assert_eq!(holder(&path).unwrap(), Taken::By(me.clone()));
        assert_eq!((hold(&path).unwrap().unwrap_err(), share(&path).unwrap().unwrap_err()), (me.clone(), me));
        drop(held);
        assert_eq!(holder(&path).unwrap(), Taken::Free);
        let _again = hold(&path).unwrap().unwrap();
    }
}
