//! The stored audit, read as it stood at one moment.
//!
//! Owns: [`Snapshot`]: the trails in order, and what was set aside beside them.
//! Never: judges it. What it proves, `fleet/report.rs` finds.
//! Read next: `../../fleet/report.rs`.

use rusqlite::{params, Transaction};

use super::{millis, segment_of, Ledger, LedgerError, ROW_BYTES_MAX};
use crate::fleet::book::Segment;
use crate::ids::{DeviceId, EraId, Hash};
use crate::wire::decode;

/// The stored audit at one moment: what others write meanwhile is not in it.
pub struct Snapshot<'l>(Transaction<'l>);

/// A segment that was set aside, without its records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Beside {
    /// Its number in the era.
    pub segment: u64,
    /// The digest of its header, by which it is found.
    pub digest: Hash,
    /// The signed header, as it arrived.
    pub header: Vec<u8>,
}

impl Ledger {
    /// What is stored now.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn snapshot(&self) -> Result<Snapshot<'_>, LedgerError> {
        Ok(Snapshot(self.connection.unchecked_transaction()?))
    }
}

impl Snapshot<'_> {
    /// Hands the stored segments to `visit`, per device, per era, by number; of all devices where none is named.
    ///
    /// # Errors
    /// [`LedgerError`], and those of `visit`.
    pub fn segments<E: From<LedgerError>>(
        &self,
        device: Option<&DeviceId>,
        mut visit: impl FnMut(Segment) -> Result<(), E>,
    ) -> Result<(), E> {
        let sql = |error: rusqlite::Error| LedgerError::from(error);
        let mut statement = self
            .0
            .prepare(
                "SELECT device, era, salt, segment, first_index, count, digest, header, received_ms FROM segments
                 WHERE ?1 IS NULL OR device = ?1 ORDER BY device, era, salt, segment",
            )
            .map_err(sql)?;
        let mut records = self
            .0
            .prepare(
                "SELECT bytes FROM records WHERE device = ?1 AND era = ?2 AND salt = ?3 AND idx >= ?4 AND idx < ?4 + ?5
                 ORDER BY idx",
            )
            .map_err(sql)?;
        let mut rows = statement.query([device.map(DeviceId::as_str)]).map_err(sql)?;
        while let Some(row) = rows.next().map_err(sql)? {
            visit(segment_of(row, &mut records)?)?;
        }
        Ok(())
    }

    /// The eras of which something was set aside, in the order of [`Snapshot::segments`].
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn branched(&self, device: Option<&DeviceId>) -> Result<Vec<(DeviceId, EraId)>, LedgerError> {
        let mut statement = self.0.prepare(
            "SELECT DISTINCT device, era, salt FROM aside WHERE ?1 IS NULL OR device = ?1 ORDER BY device, era, salt",
        )?;
        let mut rows = statement.query([device.map(DeviceId::as_str)])?;
        let mut eras = Vec::new();
        while let Some(row) = rows.next()? {
            let (device, number, salt): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let damaged = |_| LedgerError::Damaged(format!("aside/{device}"));
            eras.push((device.parse().map_err(damaged)?, EraId { number: number as u64, salt: salt as u64 }));
        }
        Ok(eras)
    }

    /// What was set aside of an era, by number.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn aside(&self, device: &DeviceId, era: EraId) -> Result<Vec<Beside>, LedgerError> {
        let mut statement = self.0.prepare_cached(
            "SELECT segment, digest, header FROM aside WHERE device = ?1 AND era = ?2 AND salt = ?3
             ORDER BY segment, digest",
        )?;
        let place = params![device.as_str(), era.number as i64, era.salt as i64];
        let rows = statement.query_map(place, |row| {
            let digest = Hash(row.get(1)?);
            Ok(Beside { segment: row.get::<_, i64>(0)? as u64, digest, header: row.get(2)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One of these whole.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn aside_whole(&self, device: &DeviceId, era: EraId, beside: &Beside) -> Result<Segment, LedgerError> {
        let mut statement = self.0.prepare_cached(
            "SELECT leaves, received_ms FROM aside
             WHERE device = ?1 AND era = ?2 AND salt = ?3 AND segment = ?4 AND digest = ?5",
        )?;
        let Beside { segment, digest, header } = beside;
        let place = params![device.as_str(), era.number as i64, era.salt as i64, *segment as i64, digest.0];
        let (leaves, at): (Vec<u8>, i64) = statement.query_row(place, |row| Ok((row.get(0)?, row.get(1)?)))?;
        let damaged = |_| LedgerError::Damaged(format!("aside/{device}/{era}/{segment}"));
        Ok(Segment {
            device: device.clone(),
            era,
            segment: *segment,
            // Found by its digest: its numbers are those that its header says.
            first_index: 0,
            digest: *digest,
            header: header.clone(),
            leaves: decode(&leaves, ROW_BYTES_MAX).map_err(damaged)?,
            at: millis(at),
            read: None,
        })
    }
}
