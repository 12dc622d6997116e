//! The state folder: its modes, its format, its lock, the files that are replaced as a whole.
//!
//! Owns: the folder's layout outside `eras/` and the anchor.
//! Never: knows what is in a file; touches one that it does not know.
//! Read next: `mod.rs`.
//!
//! `format` is the first file of a folder, durable before any other of the store's, and it is replaced as a whole. So state
//! without it, or with one that holds no number, was made by no start and by no power cut: nobody knows what wrote that
//! state, and it is neither read nor begun anew. Whoever brings a folder to a newer format says so in `format` before
//! anything else changes: a version that does not know it then refuses all of it, and a `.format.tmp` that a power cut left
//! says nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{flock, FlockOperation};
use rustix::io::Errno;

use super::{allowed, Event, Needs, StoreError};
use crate::agent::effects::StateFile;
use crate::agent::feed::STORED_BYTES_MAX;
use crate::mutant::{active, Mutant};
use crate::shell::files::{
    check_private_dir, create_dir, is_temporary, make_private, open_file, read_private, replace, sync_dir, sync_parent,
    FileError,
};

/// The format of the state folder that this program reads and writes.
pub const FORMAT: u32 = 1;

/// The most bytes of the file that says the format.
const FORMAT_BYTES_MAX: u64 = 4096;

/// The most bytes of a state file that are read: a feed's is the largest.
pub(super) const FILE_BYTES_MAX: u64 = 64 + STORED_BYTES_MAX as u64;

/// The folder, made if it is missing, and locked for this process as long as this lives.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        create_dir(path)?;
        if list(path)?.is_empty() {
            make_private(path)?;
        }
        check_private_dir(path)?;
        // Before the lock: what a newer version means by its lock is not known here.
        let format = match check_format(path) {
            Err(StoreError::NewerFormat { .. }) if active(Mutant::NewerFormatBegun) => {
                empty(path)?;
                Format::Unwritten
            }
            format => format?,
        };
        if format == Format::Unwritten {
            replace(&path.join("format"), format!("{FORMAT}\n").as_bytes())?;
        }
        let lock = lock(path, &path.join("lock"))?;
        for sub in ["emergency", "eras", "feed", "quarantine", "wallet"].map(|sub| path.join(sub)) {
            create_dir(&sub)?;
            // A process that was killed may have left a file's new name in memory only: what is found here is to stay.
            sync_dir(&sub)?;
        }
        sync_dir(path)?;
        sync_own_name(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of something inside.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Every state file's content, in the order of their paths. One that cannot be read is told and left out.
    pub(super) fn read_files(&self, events: &mut Vec<Event>) -> Result<Vec<(StateFile, Vec<u8>)>, StoreError> {
        let mut paths = vec!["audit.key".to_owned(), "bundle".to_owned(), "policy".to_owned()];
        for sub in ["emergency", "feed", "wallet"] {
            for name in list(&self.join(sub))? {
                let path = format!("{sub}/{name}");
                if is_temporary(&name) {
                    // Left by a power cut. If it cannot go now, it goes at another start.
                    let _ = fs::remove_file(self.join(&path));
                } else {
                    paths.push(path);
                }
            }
        }
        read_known(&self.path, &paths, events)
    }

    /// Replaces a state file. Durable on return. A folder that somebody put in its place goes to the quarantine.
    pub(super) fn replace(&self, file: &StateFile, content: &[u8]) -> Result<(), StoreError> {
        let path = self.join(&file.path());
        #[cfg(feature = "crash-points")]
        super::faults::replace_refused(&self.path, &path, content)?;
        match replace(&path, content) {
            Err(FileError::Io { source, .. }) if source.kind() == io::ErrorKind::IsADirectory => {
                set_aside(&self.path, &path)?;
                Ok(replace(&path, content)?)
            }
            other => Ok(other?),
        }
    }

    /// Removes a state file. One that is not there is none to remove.
    pub(super) fn remove(&self, file: &StateFile) -> Result<(), StoreError> {
        let path = self.join(&file.path());
        match allowed(&self.path, Needs::Leave).and_then(|()| fs::remove_file(&path)) {
            Ok(()) => Ok(sync_parent(&path)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(FileError::io("remove", &path, error).into()),
        }
    }
}

/// A planted bug takes everything out of a folder.
fn empty(folder: &Path) -> Result<(), StoreError> {
    for path in list(folder)?.into_iter().map(|name| folder.join(name)) {
        let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.map_err(|error| FileError::io("remove", &path, error))?;
    }
    Ok(())
}

/// The content of those of these paths that are state files. One that cannot be read is told and left out.
///
/// # Errors
/// When others can read or change the audit key: what it signed proves nothing then. When the system is short of something:
/// nobody knows then what is in them.
pub(super) fn read_known(
    folder: &Path,
    paths: &[String],
    events: &mut Vec<Event>,
) -> Result<Vec<(StateFile, Vec<u8>)>, StoreError> {
    let mut files = Vec::new();
    for (path, file) in paths.iter().filter_map(|path| Some((path, StateFile::parse(path)?))) {
        let at = folder.join(path);
        let content = match file {
            StateFile::AuditKey => read_private(&at).map(|content| content.to_vec()),
            StateFile::Bundle
            | StateFile::Emergency(_)
            | StateFile::Feed(_)
            | StateFile::FeedSince(_)
            | StateFile::Grant(_)
            | StateFile::Policy
            | StateFile::Task(_) => {
                read_bounded(&at, FILE_BYTES_MAX).map_err(|error| FileError::io("read", &at, error))
            }
        };
        match content {
            Ok(content) => files.push((file, content)),
            Err(error) if error.is_missing() => {}
            Err(error @ (FileError::TooOpen { .. } | FileError::NotOurs { .. })) => return Err(error.into()),
            Err(FileError::Io { source, .. }) if is_shortage(&source) => {
                return Err(FileError::io("read", &at, source).into());
            }
            Err(FileError::Io { source, .. }) => {
                events.push(Event::FileUnreadable { path: path.clone(), error: source.to_string() });
            }
            Err(error @ (FileError::Exists { .. } | FileError::Malformed { .. })) => {
                events.push(Event::FileUnreadable { path: path.clone(), error: error.to_string() });
            }
        }
    }
    Ok(files)
}

/// Moves something out of the way that is no file of ours, and keeps it in the quarantine.
pub(super) fn set_aside(folder: &Path, path: &Path) -> Result<(), FileError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let quarantine = folder.join("quarantine");
    let mut names = (0_u32..).map(|copy| quarantine.join(format!("{name}.{copy}")));
    let target = names.find(|target| !target.exists()).unwrap_or_else(|| quarantine.join(&name));
    fs::rename(path, &target).map_err(|error| FileError::io("move to quarantine", path, error))?;
    sync_dir(&quarantine)
}

/// Makes the folder's own name durable. Where it is closed to us or has nothing to sync (a file system that is mounted in
/// one that cannot be written), somebody else made it, and its name stays.
fn sync_own_name(path: &Path) -> Result<(), FileError> {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    match sync_parent(path) {
        Err(FileError::Io { source, .. })
            if [InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported].contains(&source.kind()) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn lock(folder: &Path, path: &Path) -> Result<File, StoreError> {
    let failed = |error| FileError::io("lock", path, error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let opened = allowed(folder, Needs::Leave).and_then(|()| options.open(path));
    let mut file = opened.map_err(failed)?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(failed(error.into()).into());
        }
        let mut holder = String::new();
        let _ = (&file).take(32).read_to_string(&mut holder);
        return Err(StoreError::Locked { path: path.to_owned(), holder: holder.trim().to_owned() });
    }
    // The number is for people; that it cannot be written on a full disk is no reason to stop.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

/// The format of a folder that a start may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// The one that this program reads.
    Ours,
    /// None is written down, and there is no state that could be in one.
    Unwritten,
}

/// The format of a folder. Changes nothing.
///
/// # Errors
/// When this program does not know it, or nobody could: it is not written down, and there is state.
pub(super) fn check_format(folder: &Path) -> Result<Format, StoreError> {
    let path = folder.join("format");
    let found = match read_bounded(&path, FORMAT_BYTES_MAX) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match held(folder)? {
                Some(state) => {
                    Err(StoreError::UnknownFormat { path, why: format!("it is gone, and there is {state}") })
                }
                None => Ok(Format::Unwritten),
            };
        }
        Err(error) => return Err(FileError::io("read", &path, error).into()),
    };
    match found.trim().parse::<u32>() {
        Ok(FORMAT) => Ok(Format::Ours),
        Ok(found) if found > FORMAT && !active(Mutant::NewerFormatRead) => {
            Err(StoreError::NewerFormat { path: folder.to_owned(), found })
        }
        Ok(found) if found > FORMAT => Ok(Format::Ours),
        Ok(_) | Err(_) => {
            let said: String = found.chars().take(40).collect();
            Err(StoreError::UnknownFormat { path, why: format!("it says {said:?}, which is no format's number") })
        }
    }
}

/// Something in a folder that only a store writes, if there is anything.
fn held(folder: &Path) -> Result<Option<String>, StoreError> {
    let is_state =
        |path: &String| StateFile::parse(path).is_some() || ["anchor.0", "anchor.1"].contains(&path.as_str());
    if let Some(path) = list(folder)?.into_iter().find(is_state) {
        return Ok(Some(path));
    }
    for sub in ["emergency", "eras", "feed", "quarantine", "wallet"] {
        let names = match list(&folder.join(sub)) {
            Err(StoreError::File(error)) if error.is_missing() => continue,
            other => other?,
        };
        let of_eras = ["eras", "quarantine"].contains(&sub);
        let mut paths = names.into_iter().map(|name| format!("{sub}/{name}"));
        if let Some(path) = paths.find(|path| of_eras || is_state(path)) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Whether the system was only short of something, descriptors or memory: it says nothing of the file, and the same may
/// work later. What is taken for damage for that would be lost.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let short = [Errno::AGAIN, Errno::INTR, Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    error.raw_os_error().is_some_and(|code| short.iter().any(|errno| errno.raw_os_error() == code))
}

/// The names in a folder, sorted. Those that are no text are none of ours.
pub(super) fn list(path: &Path) -> Result<Vec<String>, StoreError> {
    let failed = |error| FileError::io("list", path, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Bytes on disk at and below a path. What goes away meanwhile counts nothing.
pub(super) fn bytes_below(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let entries = if meta.is_dir() { fs::read_dir(path).ok() } else { None };
    let below = entries.into_iter().flatten().flatten().map(|entry| bytes_below(&entry.path()));
    meta.blocks() * 512 + below.sum::<u64>()
}

pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open_file(path)?.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::other(format!("more than {limit} bytes")));
    }
    Ok(content)
}
