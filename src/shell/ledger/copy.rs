//! Copies of the ledger: one is made while others write, one takes the ledger's place.
//!
//! Owns: what a copy is checked for, that nobody writes into a file that is about to be replaced, that at each moment there
//! is either the old ledger or the new one.
//! Never: overwrites a copy or forgets the old ledger.
//! Read next: `../../fleet/restore.rs`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use sha2::{Digest, Sha256};

use super::{check_format, connect, read_all, store, LedgerError};
use crate::fleet::{Book, Write};
use crate::ids::Hash;
use crate::shell::files::{self, FileError};
use crate::shell::fleet_lock::{self, Lock};

/// A copy, made or found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    /// SHA-256 of the file.
    pub digest: Hash,
    /// Its bytes.
    pub bytes: u64,
}

impl super::Ledger {
    /// Writes what is committed to a file of its own, while others go on writing, and reads it back. Durable on return.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing is left then.
    pub fn back_up(&self, out: &Path) -> Result<(Copied, Book), LedgerError> {
        if out.exists() {
            return Err(FileError::Exists { path: out.to_owned() }.into());
        }
        let temporary = Temporary::beside(out)?;
        // SQLite fills a file that is empty and keeps its mode.
        drop(create(&temporary.0)?);
        let text = temporary.0.to_str().ok_or_else(|| unusable(out, "its path is no UTF-8"))?;
        self.connection.execute("VACUUM INTO ?1", [text])?;
        let made = File::open(&temporary.0).and_then(|file| file.sync_all());
        made.map_err(|error| FileError::io("write", out, error))?;
        let book = check(&temporary.0, out)?;
        let copied = measure(&temporary.0)?;
        temporary.rename_to(out)?;
        Ok((copied, book))
    }
}

/// A copy that is about to take the place of a ledger which nobody else has open.
pub struct Restoring {
    ledger: PathBuf,
    temporary: Temporary,
    copied: Copied,
    copy: Book,
    before: Option<Book>,
    _opened: Lock,
    _publisher: Lock,
}

impl Restoring {
    /// Checks a copy, and that its place is free to take.
    ///
    /// # Errors
    /// [`LedgerError`]; nothing was changed then.
    pub fn begin(ledger: &Path, file: &Path, digest: Option<Hash>) -> Result<Self, LedgerError> {
        let held_by = |holder: String| LedgerError::InUse { path: ledger.to_owned(), holder };
        let publisher = fleet_lock::hold(&fleet_lock::publisher(ledger))?.map_err(held_by)?;
        let opened = fleet_lock::hold(&fleet_lock::opened(ledger))?.map_err(|_| held_by(String::new()))?;
        if file.with_extension("db-wal").exists() || sidecar(file, "-wal").exists() {
            return Err(unusable(
                file,
                "it is a ledger in use, part of it lies beside it: `hardtack fleet backup` makes copies",
            ));
        }
        let temporary = Temporary::beside(ledger)?;
        let failed = |error: io::Error| FileError::io("read", file, error);
        let mut from = File::open(file).map_err(failed)?;
        let mut to = create(&temporary.0)?;
        io::copy(&mut from, &mut to).and_then(|_| to.sync_all()).map_err(failed)?;
        let copied = measure(&temporary.0)?;
        if let Some(expected) = digest.filter(|expected| *expected != copied.digest) {
            let why = format!("its SHA-256 is {}, not {expected}", copied.digest);
            return Err(unusable(file, &why));
        }
        let copy = check(&temporary.0, file)?;
        let before = settle(ledger)?;
        Ok(Self { ledger: ledger.to_owned(), temporary, copied, copy, before, _opened: opened, _publisher: publisher })
    }

    /// The copy as it was found.
    pub fn copied(&self) -> &Copied {
        &self.copied
    }

    /// What stands in it.
    pub fn copy(&self) -> &Book {
        &self.copy
    }

    /// What stands in the ledger whose place it takes, if there is one that can be read.
    pub fn before(&self) -> Option<&Book> {
        self.before.as_ref()
    }

    /// Writes into the copy what it has to know, and puts it in its place. Gives where the old ledger lies now.
    ///
    /// # Errors
    /// [`LedgerError`]; the old ledger is in its place then.
    pub fn finish(self, writes: &[Write], kept: &Path) -> Result<Option<PathBuf>, LedgerError> {
        let mut connection = Connection::open(&self.temporary.0)?;
        let transaction = connection.transaction()?;
        let (_, revision) = read_all(&transaction)?;
        store(&transaction, revision + 1, writes)?;
        transaction.commit()?;
        drop(connection);
        let there = self.ledger.exists();
        if there {
            let keep =
                |from: &Path, to: &Path| fs::hard_link(from, to).map_err(|error| FileError::io("keep", from, error));
            keep(&self.ledger, kept)?;
            // Only a ledger that could not be read still has them.
            for end in ["-wal", "-shm"] {
                let beside = sidecar(&self.ledger, end);
                if beside.exists() {
                    fs::rename(&beside, sidecar(kept, end)).map_err(|error| FileError::io("keep", &beside, error))?;
                }
            }
        }
        fs::rename(&self.temporary.0, &self.ledger).map_err(|error| FileError::io("write", &self.ledger, error))?;
        files::sync_parent(&self.ledger)?;
        Ok(there.then(|| kept.to_owned()))
    }
}

/// Brings all that was written to a ledger into its one file. None where there is none, or none that can be read.
fn settle(ledger: &Path) -> Result<Option<Book>, LedgerError> {
    if !ledger.exists() {
        return Ok(None);
    }
    let settled = connect(ledger).and_then(|connection| {
        let (book, _) = read_all(&connection)?;
        // Refused while anybody else, who does not know our locks, has it open.
        let mode: String = connection.query_row("PRAGMA journal_mode = DELETE", [], |row| row.get(0))?;
        Ok((book, mode))
    });
    match settled {
        Ok((book, mode)) if mode == "delete" => Ok(Some(book)),
        Ok(_) => Err(LedgerError::InUse { path: ledger.to_owned(), holder: String::new() }),
        Err(LedgerError::Sql(error)) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
            Err(LedgerError::InUse { path: ledger.to_owned(), holder: String::new() })
        }
        Err(error) => {
            tracing::debug!(event = "ledger.unreadable", %error);
            Ok(None)
        }
    }
}

/// Whether a file is a whole ledger, from its pages to its signatures. `name` is what people call it.
fn check(path: &Path, name: &Path) -> Result<Book, LedgerError> {
    let found = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).and_then(|connection| {
        let verdict: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        Ok((connection, verdict, version))
    });
    let (connection, verdict, version) = found.map_err(|error| unusable(name, &error.to_string()))?;
    if verdict != "ok" {
        return Err(unusable(name, &verdict));
    }
    // One that was never made says so itself.
    if version != 0 {
        check_format(version, name)?;
    }
    read_all(&connection).map(|(book, _)| book).map_err(|error| unusable(name, &error.to_string()))
}

fn measure(path: &Path) -> Result<Copied, LedgerError> {
    let failed = |error| FileError::io("read", path, error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0; 64 * 1024], 0);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            read => {
                hash.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
    Ok(Copied { digest: Hash(hash.finalize().into()), bytes })
}

fn unusable(path: &Path, why: &str) -> LedgerError {
    LedgerError::Copy { path: path.to_owned(), why: why.to_owned() }
}

fn create(path: &Path) -> Result<File, FileError> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| FileError::io("make", path, error))
}

fn sidecar(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// A file that is gone unless it was given its name.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(path: &Path) -> Result<Self, FileError> {
        let temporary = Self(files::temporary(path));
        // One that a power cut left.
        temporary.remove();
        match temporary.0.exists() {
            true => Err(FileError::Exists { path: temporary.0.clone() }),
            false => Ok(temporary),
        }
    }

    fn rename_to(&self, path: &Path) -> Result<(), FileError> {
        files::name(&self.0, path)
    }

    fn remove(&self) {
        for end in ["", "-journal", "-wal", "-shm"] {
            // Whatever is left is found again by the next one.
            let _ = fs::remove_file(sidecar(&self.0, end));
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.remove();
    }
}
