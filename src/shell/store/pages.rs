//! The trail as an operator of this gateway reads it, page by page.
//!
//! Owns: reading the pieces of a page, from a store that is open or from a folder that is only looked at.
//! Never: reads more than a page has; shows what is not durable.
//! Read next: `../../agent/request/trail.rs` for what a page has.

use crate::agent::request::trail::{page, PieceName, PieceReply, TrailAsk, TrailReply};
use crate::ids::EraId;
use crate::wire::audit::segment::{Loaded, SEGMENT_RECORDS_MAX};

use super::row::{EntryKey, Row};
use super::{Store, StoreError};
use crate::agent::effects::Entry;

/// What a page is read from.
pub(super) trait Pages {
    type Error;
    /// A closed segment; none if some of it is damaged.
    fn segment(&mut self, era: EraId, segment: u64) -> Result<Option<Loaded>, Self::Error>;
    fn record(&mut self, era: EraId, index: u64) -> Result<Option<Vec<u8>>, Self::Error>;
}

/// Puts the pieces that are asked for into a reply that knows the eras.
pub(super) fn fill<P: Pages>(pages: &mut P, ask: &TrailAsk, reply: &mut TrailReply) -> Result<(), P::Error> {
    for name in page(&reply.eras, ask) {
        let Some(era) = reply.eras.iter().find(|era| era.id() == name.era) else { continue };
        let piece = if name.segment < era.segments {
            PieceReply::segment(name, era, pages.segment(name.era, name.segment)?)
        } else {
            let range = (era.signed..era.next).take(SEGMENT_RECORDS_MAX as usize);
            unsigned(pages, name, range)?
        };
        reply.pieces.push(piece);
    }
    Ok(())
}

fn unsigned<P: Pages>(
    pages: &mut P,
    name: PieceName,
    range: impl Iterator<Item = u64>,
) -> Result<PieceReply, P::Error> {
    let mut rows = Vec::new();
    for index in range {
        rows.extend(pages.record(name.era, index)?);
    }
    Ok(PieceReply::unsigned(name, &rows))
}

impl Pages for Store {
    type Error = StoreError;

    fn segment(&mut self, era: EraId, segment: u64) -> Result<Option<Loaded>, StoreError> {
        self.load(era, segment)
    }

    fn record(&mut self, era: EraId, index: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let row = self.get(EntryKey::Record(era, index))?.and_then(Row::entry);
        Ok(row.and_then(|entry| match entry {
            Entry::Record(record) => Some(record.bytes),
            Entry::Segment(_) => None,
        }))
    }
}

impl Store {
    /// Puts the pieces that are asked for into a reply that knows the eras.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn read_trail(&mut self, ask: &TrailAsk, reply: &mut TrailReply) -> Result<(), StoreError> {
        fill(self, ask, reply)
    }
}
