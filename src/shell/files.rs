//! Files that nobody else may read, and files that are durable once written.
//!
//! Owns: modes and owners, replacing a file as a whole, directory syncs.
//! Never: knows what is in a file.
//! Read next: `keys.rs` and `store/folder.rs`, which use it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{renameat_with, RenameFlags, CWD};
use zeroize::Zeroizing;

/// The most bytes of a private file.
const PRIVATE_BYTES_MAX: u64 = 64 * 1024;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others could read or change it.
    #[error("{} is open to other users (mode {found:04o}): run `chmod {wanted:o} {}`", path.display(), path.display())]
    TooOpen {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        found: u32,
        /// The bits that it may have.
        wanted: u32,
    },
    /// It belongs to another user.
    #[error(
        "{} belongs to uid {owner}, this program runs as uid {uid}: run it as that user, or, where nobody else uses it, `chown {uid} {}`",
        path.display(),
        path.display()
    )]
    NotOurs {
        /// Which.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// This process's effective uid.
        uid: u32,
    },
    /// It is there already, and would be lost.
    #[error("{} exists already: it is not overwritten; move it away if a new one is wanted", path.display())]
    Exists {
        /// Which.
        path: PathBuf,
    },
    /// It does not hold what it should.
    #[error("{} is damaged or was not made by this program: {why}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl FileError {
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    /// Whether it is only that there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads a file that holds a secret.
///
/// # Errors
/// When it cannot be read, is wider than 0600, is not ours, or is larger than a private file of ours can be.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let failed = |error| FileError::io("read", path, error);
    let file = open_file(path).map_err(failed)?;
    check(path, &file.metadata().map_err(failed)?, 0o600)?;
    // Room for all of it at once: a vector that grows leaves copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(PRIVATE_BYTES_MAX as usize + 1));
    file.take(PRIVATE_BYTES_MAX + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() as u64 > PRIVATE_BYTES_MAX {
        return Err(FileError::Malformed {
            path: path.to_owned(),
            why: format!("more than {PRIVATE_BYTES_MAX} bytes"),
        });
    }
    Ok(content)
}

/// Reads a file that somebody brought, up to a limit.
///
/// # Errors
/// When it cannot be read or is larger.
pub fn read_bounded(path: &Path, limit: usize) -> Result<Vec<u8>, FileError> {
    let unreadable = |error| FileError::io("read", path, error);
    let mut content = Vec::new();
    let file = fs::File::open(path).map_err(unreadable)?;
    file.take(limit as u64 + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() > limit {
        return Err(FileError::Malformed { path: path.to_owned(), why: format!("more than {limit} bytes") });
    }
    Ok(content)
}

/// Opens a file for reading. What is none is refused at once: a pipe that somebody put in its place would be waited for.
///
/// # Errors
/// When it cannot be opened or is no file.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    let at_once = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(at_once).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no file")),
    }
}

/// Writes a new file that holds a secret: mode 0600, durable on return.
///
/// # Errors
/// [`FileError::Exists`] when something is there already, else when it cannot be written; nothing is left there then.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let temporary = temporary(path);
    let written = write_synced(&temporary, content).map_err(|error| FileError::io("write", path, error));
    let named = written.and_then(|()| name(&temporary, path));
    if named.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    named
}

/// Gives a file that is complete its name, unless something has it. Durable on return.
///
/// # Errors
/// [`FileError::Exists`], or that it cannot be renamed.
pub(super) fn name(temporary: &Path, path: &Path) -> Result<(), FileError> {
    match renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE).map_err(io::Error::from) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(FileError::Exists { path: path.to_owned() }),
        Err(error) => Err(FileError::io("write", path, error)),
    }
}

/// Replaces a file as a whole, mode 0600: temporary, sync, rename, directory sync. Whenever power goes, it has its old or
/// its new content.
///
/// # Errors
/// When it cannot be written.
pub fn replace(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let temporary = temporary(path);
    let written = write_synced(&temporary, content).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|error| FileError::io("write", path, error))?;
    sync_parent(path)
}

/// Makes a folder that only its owner may enter, and those above it. One that exists is left as it is. The names of those
/// that were made are durable on return, but for its own.
///
/// # Errors
/// When it cannot be made.
pub fn create_dir(path: &Path) -> Result<(), FileError> {
    let missing: Vec<&Path> = path.ancestors().skip(1).take_while(|above| !above.exists()).collect();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| FileError::io("make the folder", path, error))?;
    missing.into_iter().filter(|above| !above.as_os_str().is_empty()).try_for_each(sync_parent)
}

/// Closes a folder to everybody but its owner: what a person or a package made before there was anything in it.
///
/// # Errors
/// When its mode cannot be changed.
pub fn make_private(path: &Path) -> Result<(), FileError> {
    let narrowed = fs::set_permissions(path, Permissions::from_mode(0o700));
    narrowed.map_err(|error| FileError::io("close to others", path, error))
}

/// Checks that nobody else may enter a folder of ours.
///
/// # Errors
/// [`FileError::TooOpen`], [`FileError::NotOurs`], or that it cannot be looked at.
pub fn check_private_dir(path: &Path) -> Result<(), FileError> {
    let meta = fs::metadata(path).map_err(|error| FileError::io("look at", path, error))?;
    check(path, &meta, 0o700)
}

/// Makes the names in a folder durable.
///
/// # Errors
/// When it cannot be synced.
pub fn sync_dir(path: &Path) -> Result<(), FileError> {
    let synced = File::open(path).and_then(|dir| dir.sync_all());
    synced.map_err(|error| FileError::io("sync", path, error))
}

/// Makes a path's own name durable.
///
/// # Errors
/// When the folder that it is in cannot be synced.
pub fn sync_parent(path: &Path) -> Result<(), FileError> {
    path.parent().map_or(Ok(()), |parent| sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent }))
}

/// Whether a name is one that [`replace`] or [`write_private`] gave to a file before it was complete.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

/// The name that a file has before it is complete.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.tmp"))
}

fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // One that a power cut left may have any mode.
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(content)?;
    file.sync_all()
}

fn check(path: &Path, meta: &fs::Metadata, wanted: u32) -> Result<(), FileError> {
    let (found, uid) = (meta.mode() & 0o7777, rustix::process::geteuid().as_raw());
    if meta.uid() != uid {
        return Err(FileError::NotOurs { path: path.to_owned(), owner: meta.uid(), uid });
    }
    if found & 0o077 != 0 {
        return Err(FileError::TooOpen { path: path.to_owned(), found, wanted });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_made_once_and_read_only_while_it_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert!(read_private(&path).unwrap_err().is_missing());
        write_private(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(matches!(write_private(&path, b"two"), Err(FileError::Exists { .. })));
        assert_eq!(read_private(&path).unwrap().as_slice(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary is left");

        for mode in [0o640, 0o604, 0o610, 0o602, 0o677] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = read_private(&path).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 600 {}", path.display())), "{mode:o}: {error}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert!(read_private(&path).is_ok(), "narrower than 0600 is private too");
    }

    #[test]
    fn replacing_keeps_the_mode_narrow_and_survives_a_leftover() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle");
        let leftover = dir.path().join(".bundle.tmp");
        fs::write(&leftover, "half of something that was far longer").unwrap();
        fs::set_permissions(&leftover, Permissions::from_mode(0o666)).unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(!leftover.exists());
    }

    #[test]
    fn a_huge_private_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("huge");
        replace(&path, &vec![0; PRIVATE_BYTES_MAX as usize + 1]).unwrap();
        assert!(matches!(read_private(&path), Err(FileError::Malformed { .. })));
    }
}
