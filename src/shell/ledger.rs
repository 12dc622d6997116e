//! The fleet's ledger on disk. This file alone knows SQLite.
//!
//! Owns: `fleet.db`: its schema and version, the book read from it, transactions that re-read what another process
//! wrote before they decide, the audit as segments and as a row per record.
//! Never: decides. What a row means, `fleet/book.rs` says.
//! Read next: `../fleet/book.rs`.

mod copy;
mod trail;

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{params, Connection, ErrorCode, OptionalExtension, TransactionBehavior};

pub use copy::{Copied, Restoring};
pub use trail::{Beside, Snapshot};

use super::files::{self, FileError};
use super::fleet_lock::{self, Lock};
use crate::fleet::acts::Act;
use crate::fleet::book::{BrokenBook, Issued, Segment};
use crate::fleet::emergency::Kept;
use crate::fleet::keys::ISSUED_EARLIER;
use crate::fleet::{Archive, Book, Digests, Effects, Outgoing, Write};
use crate::ids::{BlockId, DeviceId, EraId, GrantId, Hash};
use crate::time::Timestamp;
use crate::wire::audit::segment::SegmentHeader;
use crate::wire::audit::{Credential, Event};
use crate::wire::envelope::Signed;
use crate::wire::revocation::Target;
use crate::wire::token::Bearer;
use crate::wire::{decode, encode};

/// The form of the tables.
const SCHEMA_VERSION: i64 = 3;
/// The most bytes of one row of the book. A revocation list is the largest.
const ROW_BYTES_MAX: usize = 1 << 20;
/// How long another process may hold the ledger.
const BUSY: Duration = Duration::from_secs(10);

const SCHEMA: &str = "
CREATE TABLE book (
    name TEXT PRIMARY KEY, revision INTEGER NOT NULL, value BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX book_by_revision ON book (revision);
CREATE TABLE segments (
    device TEXT NOT NULL, era INTEGER NOT NULL, salt INTEGER NOT NULL, segment INTEGER NOT NULL,
    first_index INTEGER NOT NULL, count INTEGER NOT NULL, digest BLOB NOT NULL, header BLOB NOT NULL,
    received_ms INTEGER NOT NULL,
    PRIMARY KEY (device, era, salt, segment)
) WITHOUT ROWID;
CREATE TABLE aside (
    device TEXT NOT NULL, era INTEGER NOT NULL, salt INTEGER NOT NULL, segment INTEGER NOT NULL,
    digest BLOB NOT NULL, header BLOB NOT NULL, leaves BLOB NOT NULL, received_ms INTEGER NOT NULL,
    PRIMARY KEY (device, era, salt, segment, digest)
) WITHOUT ROWID;
CREATE TABLE records (
    device TEXT NOT NULL, era INTEGER NOT NULL, salt INTEGER NOT NULL, idx INTEGER NOT NULL,
    floor_ms INTEGER NOT NULL, kind TEXT NOT NULL, allow INTEGER, reason TEXT, operation TEXT, resource TEXT,
    owner TEXT, task TEXT, bytes BLOB NOT NULL,
    PRIMARY KEY (device, era, salt, idx)
) WITHOUT ROWID;
CREATE TABLE issued (
    block BLOB PRIMARY KEY, task TEXT NOT NULL, device TEXT, for_group TEXT, grant_id BLOB NOT NULL,
    owner TEXT NOT NULL, audience TEXT, root_key_id INTEGER NOT NULL, issued_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, serial INTEGER,
    CHECK ((device IS NULL) <> (for_group IS NULL))
) WITHOUT ROWID;
CREATE INDEX issued_by_task ON issued (task);
";

/// Why the ledger cannot be used. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// There is none.
    #[error("{} is not there: make a fleet with `hardtack fleet init`, or name its folder with --dir", .0.display())]
    Missing(PathBuf),
    /// There is one already.
    #[error("{} exists already: choose another folder", .0.display())]
    Exists(PathBuf),
    /// Made by a later version of this program.
    #[error("{} has format {found}, this program knows up to {known}: use the newer hardtack that made it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest known here.
        known: i64,
    },
    /// Made by an earlier version of this program.
    #[error(
        "{} has format {found}, this program knows only {known}, and reads no older one: nothing was changed and nothing is \
         damaged; use the older hardtack that made it, or make a new fleet with `hardtack fleet init`",
        path.display()
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The only one known here.
        known: i64,
    },
    /// The rows make no book.
    #[error(transparent)]
    Broken(#[from] BrokenBook),
    /// The file ends within a page.
    #[error("{} was cut short: restore it from a copy (`hardtack fleet restore`)", .0.display())]
    CutShort(PathBuf),
    /// A row cannot be read.
    #[error("the ledger's row {0:?} is damaged: restore fleet.db from a copy (`hardtack fleet restore`)")]
    Damaged(String),
    /// Another copy is put in its place at this moment.
    #[error("process {holder} puts a copy in the place of {}: try again when it has ended", path.display())]
    Exchanged {
        /// The file.
        path: PathBuf,
        /// Who does it.
        holder: String,
    },
    /// Others have it open: what they write would be lost.
    #[error("{} is in use by {}: stop `hardtack fleet serve`, let other commands end, then try again", path.display(), who(holder))]
    InUse {
        /// The file.
        path: PathBuf,
        /// The number of a process; empty where it is not known.
        holder: String,
    },
    /// A copy cannot be used.
    #[error("{} cannot be used ({why}): nothing was changed; take another copy", path.display())]
    Copy {
        /// The copy.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Its file cannot be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// SQLite says no.
    #[error(
        "the ledger cannot be used: {0}. If the disk is full, free some space; if another hardtack holds it, try again; \
         if neither is so, restore fleet.db from a copy (`hardtack fleet restore`)"
    )]
    Sql(rusqlite::Error),
    /// Whatever SQLite finds, it is not what this program wrote.
    #[error("the ledger is damaged ({0}): restore fleet.db from a copy (`hardtack fleet restore`)")]
    Unreadable(rusqlite::Error),
}

/// Whether a ledger of this format can be read.
fn check_format(found: i64, path: &Path) -> Result<(), LedgerError> {
    let (path, known) = (path.to_owned(), SCHEMA_VERSION);
    match found.cmp(&known) {
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(LedgerError::Newer { path, found, known }),
        // `create` writes version and tables in one transaction: without them it never ended.
        Ordering::Less if found == 0 => Err(BrokenBook::Missing("tables").into()),
        Ordering::Less => Err(LedgerError::Older { path, found, known }),
    }
}

fn who(holder: &str) -> String {
    match holder {
        "" => "another process".into(),
        holder => format!("process {holder}"),
    }
}

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error;
        // The statements fit the tables that this program makes, and the types what it puts into them.
        let unfit = matches!(
            error,
            Error::FromSqlConversionFailure(..)
                | Error::IntegralValueOutOfRange(..)
                | Error::InvalidColumnType(..)
                | Error::SqlInputError { .. }
                | Error::Utf8Error(..)
        );
        let damaged = [ErrorCode::DatabaseCorrupt, ErrorCode::NotADatabase, ErrorCode::Unknown];
        if unfit || error.sqlite_error_code().is_some_and(|code| damaged.contains(&code)) {
            Self::Unreadable(error)
        } else {
            Self::Sql(error)
        }
    }
}

/// The ledger, and the book that stands in it.
pub struct Ledger {
    // Fields are dropped in this order: the file is not exchanged while it is open.
    connection: Connection,
    _shared: Lock,
    path: PathBuf,
    book: Book,
    revision: i64,
    data_version: i64,
    /// A commit failed: the book is ahead of the disk until it is read again.
    ahead: bool,
}

impl Ledger {
    /// Makes a ledger that holds `writes`.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn create(path: &Path, writes: &[Write]) -> Result<(), LedgerError> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        made.map_err(|error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists {
                LedgerError::Exists(path.to_owned())
            } else {
                LedgerError::File(FileError::Io { doing: "make", path: path.to_owned(), source: error })
            }
        })?;
        let mut connection = connect(path)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(SCHEMA)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        store(&transaction, 1, writes)?;
        transaction.commit()?;
        drop(connection);
        Ok(files::sync_parent(path)?)
    }

    /// Opens a ledger and reads the book.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        if !path.exists() {
            return Err(LedgerError::Missing(path.to_owned()));
        }
        let shared = fleet_lock::share(&fleet_lock::opened(path))?;
        let shared = shared.map_err(|holder| LedgerError::Exchanged { path: path.to_owned(), holder })?;
        let settled_bytes = settled_bytes(path);
        let connection = connect(path)?;
        let page_bytes: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        if settled_bytes % page_bytes != 0 {
            return Err(LedgerError::CutShort(path.to_owned()));
        }
        let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        check_format(found, path)?;
        let data_version = data_version(&connection)?;
        let (book, revision) = read_all(&connection)?;
        Ok(Self { connection, _shared: shared, path: path.to_owned(), book, revision, data_version, ahead: false })
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The book as it was last read or written.
    pub fn book(&self) -> &Book {
        &self.book
    }

    /// Takes in what other processes wrote. Says whether there was anything.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn refresh(&mut self) -> Result<bool, LedgerError> {
        let version = data_version(&self.connection)?;
        if version == self.data_version && !self.ahead {
            return Ok(false);
        }
        let changed = catch_up(&self.connection, &mut self.book, &mut self.revision, &mut self.ahead)?;
        self.data_version = version;
        Ok(changed)
    }

    /// Lets `decide` change the book, with everything that other processes wrote in it, while none of them can write; then
    /// writes what changed, durably, and gives out what may be sent. When `decide` or the disk says no, nothing happened.
    ///
    /// # Errors
    /// Those of `decide`, and [`LedgerError`].
    pub fn transact<T, E: From<LedgerError>>(
        &mut self,
        decide: impl FnOnce(&mut Book, &Archive<'_>, &mut Effects) -> Result<T, E>,
    ) -> Result<(T, Outgoing), E> {
        let Self { connection, book, revision, ahead, .. } = self;
        let begun = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(LedgerError::from)?;
        catch_up(&transaction, book, revision, ahead)?;
        let mut fx = Effects::default();
        let archive = |device: &DeviceId, era: EraId, segment: u64| digests_of(&transaction, device, era, segment);
        // Whatever happens from here on, the book may be ahead of the disk until the commit has returned.
        *ahead = true;
        let decided = decide(book, &archive, &mut fx);
        let value = match decided {
            Ok(value) => value,
            Err(error) => {
                *ahead = fx.has_writes();
                return Err(error);
            }
        };
        let next = *revision + 1;
        let mut written = next - 1;
        let outgoing = fx.commit(|writes| -> Result<(), LedgerError> {
            store(&transaction, next, &writes)?;
            transaction.commit()?;
            written = next;
            Ok(())
        })?;
        *revision = written;
        *ahead = false;
        Ok((value, outgoing))
    }

    /// The acts of operators, oldest first.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn acts(&self) -> Result<Vec<Signed<Act>>, LedgerError> {
        let mut statement =
            self.connection.prepare("SELECT name, value, revision FROM book WHERE name LIKE 'act/%' ORDER BY name")?;
        let mut rows = statement.query([])?;
        let mut acts = Vec::new();
        while let Some(row) = rows.next()? {
            let Write::Act(_, signed) = row_of(row)?.0 else { return Err(LedgerError::Damaged(row.get(0)?)) };
            acts.push(signed);
        }
        Ok(acts)
    }

    /// The newest statements of emergency keys, by the time when they were made or heard.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn emergencies(&self) -> Result<Vec<Kept>, LedgerError> {
        let mut statement =
            self.connection.prepare("SELECT name, value, revision FROM book WHERE name LIKE 'emergency/%'")?;
        let mut rows = statement.query([])?;
        let mut kept = Vec::new();
        while let Some(row) = rows.next()? {
            let Write::Emergency(statement) = row_of(row)?.0 else { return Err(LedgerError::Damaged(row.get(0)?)) };
            kept.push(*statement);
        }
        kept.sort_by_key(|kept| kept.at);
        Ok(kept)
    }

    /// Task tokens that were minted for a task.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn issued(&self, task: &str) -> Result<Vec<Issued>, LedgerError> {
        self.issued_where("task = ?1", &task, u32::MAX)
    }

    /// The task token that was minted with this block.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn issued_with(&self, block: &BlockId) -> Result<Option<Issued>, LedgerError> {
        self.issued_where("block = ?1", &block.0, 1).map(|mut issued| issued.pop())
    }

    /// Task tokens that live still and that a revocation of `target` covers, at most so many of them, and how many there are.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn issued_under(&self, target: &Target, now: Timestamp, most: u32) -> Result<(Vec<Issued>, u64), LedgerError> {
        let text = |text: &str| Value::Text(text.to_owned());
        let (condition, value) = match target {
            Target::All => ("?1 IS NULL", Value::Null),
            Target::Audience(audience) => ("audience = ?1", text(audience)),
            Target::Block(block) => ("block = ?1", Value::Blob(block.0.to_vec())),
            Target::Device(device) => ("device = ?1", text(device.as_str())),
            Target::Grant(grant) => ("grant_id = ?1", Value::Blob(grant.0.to_vec())),
            Target::Group(group) => ("for_group = ?1", text(group.as_str())),
            // They say that they were issued a little earlier than they were.
            Target::IssuedBefore(time) => ("issued_ms < ?1", Value::Integer(ms(*time + ISSUED_EARLIER))),
            Target::Owner(owner) => ("owner = ?1", text(owner)),
            Target::RootKey(id) => ("root_key_id = ?1", Value::Integer(i64::from(*id))),
            Target::Task(task) => ("task = ?1", text(task.as_str())),
        };
        let lives = format!("({condition}) AND expires_ms > {}", ms(now));
        let count =
            self.connection.query_row(&format!("SELECT COUNT(*) FROM issued WHERE {lives}"), [&value], |row| {
                row.get::<_, i64>(0)
            })?;
        Ok((self.issued_where(&lives, &value, most)?, count.unsigned_abs()))
    }

    fn issued_where(
        &self,
        condition: &str,
        value: &dyn rusqlite::ToSql,
        most: u32,
    ) -> Result<Vec<Issued>, LedgerError> {
        let mut statement = self.connection.prepare(&format!(
            "SELECT block, task, device, for_group, grant_id, issued_ms, expires_ms, serial, owner, audience, root_key_id \
             FROM issued WHERE {condition} ORDER BY issued_ms LIMIT {most}",
        ))?;
        let rows = statement.query_map([value], |row| {
            Ok((
                row.get::<_, [u8; 32]>(0)?,
                row.get::<_, String>(1)?,
                (row.get::<_, Option<String>>(2)?, row.get::<_, Option<String>>(3)?),
                row.get::<_, [u8; 16]>(4)?,
                row.get::<_, i64>(5)?,
                row.get::<_, i64>(6)?,
                row.get::<_, Option<u32>>(7)?,
                (row.get::<_, String>(8)?, row.get::<_, Option<String>>(9)?, row.get::<_, u32>(10)?),
            ))
        })?;
        let mut issued = Vec::new();
        for row in rows {
            let (block, task, bearer, grant, at, expires, serial, (owner, audience, root_key_id)) = row?;
            let damaged = || LedgerError::Damaged(format!("issued/{task}"));
            issued.push(Issued {
                block: BlockId(block),
                bearer: match bearer {
                    (Some(device), None) => Bearer::Device(device.parse().map_err(|_| damaged())?),
                    (None, Some(group)) => Bearer::Group(group.parse().map_err(|_| damaged())?),
                    (Some(_), Some(_)) | (None, None) => return Err(damaged()),
                },
                grant: GrantId(grant),
                owner,
                audience,
                root_key_id,
                at: millis(at),
                expires: millis(expires),
                task: task.parse().map_err(|_| damaged())?,
                serial,
            });
        }
        Ok(issued)
    }

    /// Of the eras of a device with this number, the one that arrived first.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn first_era(&self, device: &DeviceId, number: u64) -> Result<Option<EraId>, LedgerError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT salt FROM segments WHERE device = ?1 AND era = ?2 AND first_index = 0 ORDER BY received_ms, salt LIMIT 1",
        )?;
        let first = statement.query_row(params![device.as_str(), number as i64], |row| row.get::<_, i64>(0));
        Ok(first.optional()?.map(|salt| EraId { number, salt: salt as u64 }))
    }

    /// Hands the stored segments to `visit`, per device, per era, by number; of all devices where none is named. What
    /// others write meanwhile is not among them.
    ///
    /// # Errors
    /// [`LedgerError`], and those of `visit`.
    pub fn segments<E: From<LedgerError>>(
        &self,
        device: Option<&DeviceId>,
        visit: impl FnMut(Segment) -> Result<(), E>,
    ) -> Result<(), E> {
        self.snapshot()?.segments(device, visit)
    }
}

fn segment_of(row: &rusqlite::Row<'_>, records: &mut rusqlite::Statement<'_>) -> Result<Segment, LedgerError> {
    let device: String = row.get(0)?;
    let (era, salt, segment): (i64, i64, i64) = (row.get(1)?, row.get(2)?, row.get(3)?);
    let (first, count): (i64, i64) = (row.get(4)?, row.get(5)?);
    let bytes = records.query_map(params![device, era, salt, first, count], |row| row.get::<_, Vec<u8>>(0))?;
    let damaged = |_| LedgerError::Damaged(format!("segments/{device}/{era}/{segment}"));
    Ok(Segment {
        device: device.parse().map_err(damaged)?,
        era: EraId { number: era as u64, salt: salt as u64 },
        segment: segment as u64,
        first_index: first as u64,
        digest: Hash(row.get(6)?),
        header: row.get(7)?,
        leaves: bytes.collect::<Result<_, _>>()?,
        at: millis(row.get(8)?),
        read: None,
    })
}

/// The length of a ledger that nobody has open. SQLite would read what is missing of its last page as zeros, and rows would
/// be gone without a word; while there is a log beside it, it may mend the page from there.
fn settled_bytes(path: &Path) -> u64 {
    let log = path.with_extension("db-wal");
    if log.exists() {
        return 0;
    }
    path.metadata().map_or(0, |file| file.len())
}

fn connect(path: &Path) -> Result<Connection, LedgerError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A commit that returned survives a power cut: acknowledgements rest on it.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", "ON")?;
    Ok(connection)
}

/// Changes when another connection has committed.
fn data_version(connection: &Connection) -> Result<i64, LedgerError> {
    Ok(connection.pragma_query_value(None, "data_version", |row| row.get(0))?)
}

/// A row of the book, and its revision. Nothing could be written after the last revision that there is.
fn row_of(row: &rusqlite::Row<'_>) -> Result<(Write, i64), LedgerError> {
    let (name, value, revision): (String, Vec<u8>, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let write = decode(&value, ROW_BYTES_MAX).ok().filter(|write: &Write| write.has_successor() && revision < i64::MAX);
    Ok((write.ok_or(LedgerError::Damaged(name))?, revision))
}

fn read_all(connection: &Connection) -> Result<(Book, i64), LedgerError> {
    // One statement is one snapshot.
    let mut statement = connection.prepare("SELECT name, value, revision FROM book ORDER BY revision, name")?;
    let mut rows = statement.query([])?;
    let (mut writes, mut revision) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let (write, at) = row_of(row)?;
        writes.push(write);
        revision = at;
    }
    Ok((Book::load(writes)?, revision))
}

fn catch_up(
    connection: &Connection,
    book: &mut Book,
    revision: &mut i64,
    ahead: &mut bool,
) -> Result<bool, LedgerError> {
    if *ahead {
        (*book, *revision) = read_all(connection)?;
        *ahead = false;
        return Ok(true);
    }
    let mut statement = connection
        .prepare_cached("SELECT name, value, revision FROM book WHERE revision > ?1 ORDER BY revision, name")?;
    let mut rows = statement.query([*revision])?;
    let mut newest = *revision;
    while let Some(row) = rows.next()? {
        let (write, at) = row_of(row)?;
        book.apply(write);
        newest = at;
    }
    let changed = newest != *revision;
    *revision = newest;
    Ok(changed)
}

fn digests_of(connection: &Connection, device: &DeviceId, era: EraId, segment: u64) -> Digests {
    let trail = digest_of(connection, device, era, segment);
    let aside = aside_of(connection, device, era, segment).unwrap_or_default();
    Digests { trail, aside }
}

fn aside_of(connection: &Connection, device: &DeviceId, era: EraId, segment: u64) -> rusqlite::Result<Vec<Hash>> {
    let place = params![device.as_str(), era.number as i64, era.salt as i64, segment as i64];
    let mut statement = connection
        .prepare_cached("SELECT digest FROM aside WHERE device = ?1 AND era = ?2 AND salt = ?3 AND segment = ?4")?;
    // A failure here leaves the duplicate unacknowledged, and the commit tells why.
    let rows = statement.query_map(place, |row| row.get::<_, [u8; 32]>(0).map(Hash))?;
    rows.collect()
}

fn digest_of(connection: &Connection, device: &DeviceId, era: EraId, segment: u64) -> Option<Hash> {
    let place = params![device.as_str(), era.number as i64, era.salt as i64, segment as i64];
    let mut statement = connection
        .prepare_cached("SELECT digest FROM segments WHERE device = ?1 AND era = ?2 AND salt = ?3 AND segment = ?4")
        .ok()?;
    // A failure here leaves the duplicate unacknowledged, and the commit tells why.
    statement.query_row(place, |row| row.get::<_, [u8; 32]>(0)).optional().ok()?.map(Hash)
}

fn store(connection: &Connection, revision: i64, writes: &[Write]) -> Result<(), LedgerError> {
    let mut attributed = Attributed::default();
    // Of rows of one name the last stays: those before it need not be written.
    let mut named = BTreeSet::new();
    let names: Vec<Option<String>> = writes.iter().map(Write::row).collect();
    let last: Vec<bool> =
        names.iter().rev().map(|name| name.as_ref().is_none_or(|name| named.insert(name.as_str()))).collect();
    for ((write, name), last) in writes.iter().zip(&names).zip(last.into_iter().rev()) {
        match write {
            Write::Aside(segment) => store_aside(connection, segment)?,
            Write::Issued(issued) => store_issued(connection, issued)?,
            Write::Segment(segment) => store_segment(connection, segment, &mut attributed)?,
            Write::Act(..)
            | Write::Branches(_)
            | Write::Bundle(..)
            | Write::Device(_)
            | Write::Emergency(_)
            | Write::Era(_)
            | Write::Fork(_)
            | Write::Grant(_)
            | Write::Head(_)
            | Write::Pending(_)
            | Write::Policy(..)
            | Write::Presence(_)
            | Write::Publisher(_)
            | Write::Missed(_)
            | Write::Restored(_)
            | Write::Resumed(..)
            | Write::Rule(_)
            | Write::Salvaged(_)
            | Write::Seen(_)
            | Write::Serials(_)
            | Write::Set(..)
            | Write::Snapshot(..)
            | Write::Step(_) => {
                if !last {
                    continue;
                }
                let mut statement = connection
                    .prepare_cached("INSERT OR REPLACE INTO book (name, revision, value) VALUES (?1, ?2, ?3)")?;
                statement.execute(params![name, revision, encode(write)])?;
            }
        }
    }
    Ok(())
}

fn store_issued(connection: &Connection, issued: &Issued) -> Result<(), LedgerError> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO issued (block, task, device, for_group, grant_id, issued_ms, expires_ms, serial, owner, audience, root_key_id)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?;
    let Issued { task, bearer, grant, owner, audience, root_key_id, block, at, expires, serial } = issued;
    let (device, group) = match bearer {
        Bearer::Device(device) => (Some(device.as_str()), None),
        Bearer::Group(group) => (None, Some(group.as_str())),
    };
    let (at, expires) = (ms(*at), ms(*expires));
    let task = task.as_str();
    statement.execute(params![
        block.0,
        task,
        device,
        group,
        grant.0,
        at,
        expires,
        serial,
        owner,
        audience,
        root_key_id
    ])?;
    Ok(())
}

fn store_aside(connection: &Connection, segment: &Segment) -> Result<(), LedgerError> {
    let mut statement = connection.prepare_cached(
        "INSERT OR IGNORE INTO aside (device, era, salt, segment, digest, header, leaves, received_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    let (device, era, salt) = (segment.device.as_str(), segment.era.number as i64, segment.era.salt as i64);
    let (number, digest, leaves) = (segment.segment as i64, segment.digest.0, encode(&segment.leaves));
    statement.execute(params![device, era, salt, number, digest, segment.header, leaves, ms(segment.at)])?;
    Ok(())
}

/// Owner and task.
type Names = (Option<String>, Option<String>);

/// Whom records of one commit name, by device and era: most decisions of an era refer to a few of its records, and to ask for
/// these anew with each would cost as much as to store it.
#[derive(Default)]
struct Attributed {
    eras: BTreeMap<(DeviceId, EraId), BTreeMap<u64, Names>>,
    segments: usize,
}

impl Attributed {
    /// Segments after which all is forgotten, each of which names no more than it has records.
    const SEGMENTS_MAX: usize = 1024;

    /// What is remembered of a segment's era.
    fn of(&mut self, segment: &Segment) -> &mut BTreeMap<u64, Names> {
        if self.segments == Self::SEGMENTS_MAX {
            *self = Self::default();
        }
        self.segments += 1;
        self.eras.entry((segment.device.clone(), segment.era)).or_default()
    }
}

fn store_segment(connection: &Connection, segment: &Segment, attributed: &mut Attributed) -> Result<(), LedgerError> {
    let attributed = attributed.of(segment);
    let (device, era, salt) = (segment.device.as_str(), segment.era.number as i64, segment.era.salt as i64);
    let mut statement = connection.prepare_cached(
        "INSERT INTO segments (device, era, salt, segment, first_index, count, digest, header, received_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    // Of what was salvaged, lost records count: it is a range of numbers that its records are found by.
    let header = Signed::<SegmentHeader>::from_bytes(&segment.header).and_then(|signed| signed.claim());
    let header = header.map_err(|_| LedgerError::Damaged("a segment on its way in".into()))?;
    let (number, first, count) = (segment.segment as i64, segment.first_index as i64, i64::from(header.count));
    let digest = segment.digest.0;
    statement.execute(params![device, era, salt, number, first, count, digest, segment.header, ms(segment.at)])?;
    let mut statement = connection.prepare_cached(
        "INSERT INTO records (device, era, salt, idx, floor_ms, kind, allow, reason, operation, resource, owner, task,
         bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    // They were read when they were verified. Of what the device gave up there are none.
    let read = || if header.is_shed(&segment.leaves) { Ok(Vec::new()) } else { header.read(&segment.leaves) };
    let records = match &segment.read {
        Some(records) => Cow::Borrowed(&records[..]),
        None => Cow::Owned(read().map_err(|_| LedgerError::Damaged("a record on its way in".into()))?),
    };
    let mut named_by = connection
        .prepare_cached("SELECT owner, task FROM records WHERE device = ?1 AND era = ?2 AND salt = ?3 AND idx = ?4")?;
    for (record, leaf) in records.iter().zip(&segment.leaves) {
        let mut row = Columns::of(&record.event);
        if let Some(index) = row.same {
            if !attributed.contains_key(&index) {
                let place = params![device, era, salt, index as i64];
                let named = named_by.query_row(place, |named| Ok((named.get(0)?, named.get(1)?))).optional()?;
                // What is not there may come.
                attributed.extend(named.map(|named| (index, named)));
            }
            if let Some((owner, task)) = attributed.get(&index) {
                (row.owner, row.task) = (owner.as_deref(), task.as_deref());
            }
        }
        statement.execute(params![
            device,
            era,
            salt,
            record.index as i64,
            ms(record.floor),
            row.kind,
            row.allow,
            row.reason,
            row.operation,
            row.resource,
            row.owner,
            row.task,
            leaf
        ])?;
    }
    Ok(())
}

/// What of a record can be asked for in SQL.
#[derive(Default)]
struct Columns<'r> {
    kind: &'static str,
    allow: Option<bool>,
    reason: Option<&'r str>,
    operation: Option<&'r str>,
    resource: Option<&'r str>,
    owner: Option<&'r str>,
    task: Option<&'r str>,
    /// The record of the era that names owner and task.
    same: Option<u64>,
}

impl<'r> Columns<'r> {
    fn of(event: &'r Event) -> Self {
        let plain = |kind| Self { kind, ..Self::default() };
        match event {
            Event::Decision(decision) => {
                let (named, same) = match &decision.credential {
                    Credential::Nothing => (None, None),
                    Credential::Same(index) => (None, Some(*index)),
                    Credential::Named(named) => (Some(named), None),
                };
                Self {
                    kind: "decision",
                    allow: Some(decision.allow),
                    reason: Some(&decision.reason),
                    operation: Some(&decision.operation),
                    resource: Some(&decision.resource),
                    owner: named.map(|named| named.owner.as_str()),
                    task: named.and_then(|named| named.task.as_ref()).map(|task| task.as_str()),
                    same,
                }
            }
            Event::Gap(_) => plain("gap"),
            Event::Grant(_) => plain("grant"),
            Event::Mode(mode) => Self { reason: Some(&mode.reason), ..plain("mode") },
            Event::Refused(refused) => Self { reason: Some(&refused.reason), ..plain("refused") },
            Event::Start(_) => plain("start"),
            Event::Task(task) => Self {
                reason: Some(&task.reason),
                owner: task.owner.as_deref(),
                task: task.task.as_ref().map(|task| task.as_str()),
                ..plain("task")
            },
            Event::Trust(_) => plain("trust"),
            // Owner and task are those of the denial that it counts.
            Event::Repeated(repeated) => Self { allow: Some(false), same: Some(repeated.of), ..plain("repeated") },
            Event::Alive(_) => plain("alive"),
            Event::Ended(_) => plain("ended"),
        }
    }
}

/// SQLite has no unsigned 64 bits; dates end in the year 9999.
fn ms(time: Timestamp) -> i64 {
    i64::try_from(time.0.min(Timestamp::MAX.0)).unwrap_or(i64::MAX)
}

fn millis(ms: i64) -> Timestamp {
    Timestamp(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
mod tests;
