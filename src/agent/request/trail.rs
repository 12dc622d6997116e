//! What an operator of this gateway asks about the audit trail that the device still holds, and what he is answered.
//!
//! Owns: the query and the body of `GET /v1/audit` with their JSON names, which pieces a page has.
//! Never: reads a record: the store does, once the agent has said how far each era goes.
//! Read next: `../audit.rs` for the trail, `../../shell/store/pages.rs` for the reading.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use crate::ids::EraId;
use crate::wire::audit::segment::Loaded;
use crate::wire::audit::Record;

/// The most pieces of a page: a piece has up to 64 records.
pub const PIECES_MAX: usize = 8;

/// Which piece of the trail: a segment of an era, or, past its last segment, what no signature covers yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PieceName {
    /// The era.
    pub era: EraId,
    /// The segment's number.
    pub segment: u64,
}

/// Query of `GET /v1/audit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrailAsk {
    /// The pieces that follow this one; none for the newest there are.
    pub after: Option<PieceName>,
    /// How many pieces, at most [`PIECES_MAX`].
    pub pieces: usize,
}

impl TrailAsk {
    /// A query's text: `after=ERA.SALT.SEGMENT` and `pieces=N`, each at most once; none for the newest piece.
    pub fn parse(query: Option<&str>) -> Option<Self> {
        let (mut after, mut pieces) = (None, None);
        for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            match part.split_once('=')? {
                ("after", name) if after.is_none() => after = Some(PieceName::parse(name)?),
                ("pieces", count) if pieces.is_none() => {
                    pieces = Some(count.parse().ok().filter(|count| (1..=PIECES_MAX).contains(count))?);
                }
                (_, _) => return None,
            }
        }
        Some(Self { after, pieces: pieces.unwrap_or(1) })
    }
}

impl PieceName {
    /// The name as a query has it.
    pub fn text(&self) -> String {
        format!("{}.{:016x}.{}", self.era.number, self.era.salt, self.segment)
    }

    /// The piece of a name.
    pub fn parse(text: &str) -> Option<Self> {
        let [number, salt, segment] = text.split('.').collect::<Vec<_>>()[..] else { return None };
        let salt = u64::from_str_radix(salt, 16).ok().filter(|_| salt.len() == 16)?;
        Some(Self { era: EraId { number: number.parse().ok()?, salt }, segment: segment.parse().ok()? })
    }
}

/// Body of the answer to `GET /v1/audit`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TrailReply {
    /// This device.
    pub device: String,
    /// Its fleet.
    pub fleet: String,
    /// Its public identity key, in hexadecimal.
    pub identity: String,
    /// The eras that it holds something of, oldest first.
    pub eras: Vec<EraReply>,
    /// The pieces asked for, oldest first.
    pub pieces: Vec<PieceReply>,
}

/// How far an era goes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EraReply {
    /// Its number.
    pub era: u64,
    /// Its 64 random bits, as 16 hexadecimal digits.
    pub salt: String,
    /// Segments that are closed and signed.
    pub segments: u64,
    /// The first record that no signature covers.
    pub signed: u64,
    /// The number that the next record would have.
    pub next: u64,
    /// The collector has acknowledged every record below this, as far as is known here.
    pub acknowledged: u64,
    /// Whether something of it was found damaged.
    pub damaged: bool,
}

impl EraReply {
    /// The era.
    pub fn id(&self) -> EraId {
        EraId { number: self.era, salt: u64::from_str_radix(&self.salt, 16).unwrap_or_default() }
    }

    /// How many pieces it has.
    fn pieces(&self) -> u64 {
        self.segments.saturating_add(u64::from(self.next > self.signed))
    }
}

/// Where a piece stands on its way to the collector.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PieceState {
    /// Signed, and the collector has acknowledged it.
    Acknowledged,
    /// It cannot be read as it was signed: what is left of it is told when it is sent.
    Damaged,
    /// Signed, and waiting for the collector's acknowledgement.
    Pending,
    /// Not signed yet: it proves nothing.
    Unsigned,
}

/// A segment, or what comes after the last one.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PieceReply {
    /// The era's number.
    pub era: u64,
    /// Its salt.
    pub salt: String,
    /// The segment's number, or the number that it will have.
    pub segment: u64,
    /// Where it stands.
    pub state: PieceState,
    /// The signed header, in base64; none where there is no signature.
    pub header: Option<String>,
    /// The exact bytes of each record, in base64: leaves where they are signed, as stored where they are not.
    pub bytes: Vec<String>,
    /// The same, for reading.
    #[serde(skip_deserializing)]
    pub records: Vec<Record>,
}

impl PieceReply {
    /// Which it is.
    pub fn name(&self) -> PieceName {
        let salt = u64::from_str_radix(&self.salt, 16).unwrap_or_default();
        PieceName { era: EraId { number: self.era, salt }, segment: self.segment }
    }

    fn empty(name: PieceName, state: PieceState) -> Self {
        Self {
            era: name.era.number,
            salt: format!("{:016x}", name.era.salt),
            segment: name.segment,
            state,
            header: None,
            bytes: Vec::new(),
            records: Vec::new(),
        }
    }

    /// A segment as the store loaded it; none where it cannot.
    pub fn segment(name: PieceName, era: &EraReply, loaded: Option<Loaded>) -> Self {
        let header = loaded.as_ref().and_then(|loaded| loaded.header().claim().ok());
        let (Some(upload), Some(header)) = (loaded.map(Loaded::upload), header) else {
            return Self::empty(name, PieceState::Damaged);
        };
        // Of what was given up there are none.
        let records = header.read(&upload.leaves).unwrap_or_default();
        let end = header.next_index().unwrap_or(u64::MAX);
        let state = if end <= era.acknowledged { PieceState::Acknowledged } else { PieceState::Pending };
        Self {
            header: Some(BASE64.encode(&upload.header.to_bytes())),
            bytes: upload.leaves.iter().map(|leaf| BASE64.encode(leaf)).collect(),
            records,
            ..Self::empty(name, state)
        }
    }

    /// Records that no signature covers, as the store has them.
    pub fn unsigned(name: PieceName, rows: &[Vec<u8>]) -> Self {
        Self {
            bytes: rows.iter().map(|row| BASE64.encode(row)).collect(),
            records: rows.iter().filter_map(|row| Record::from_bytes(row).ok()).collect(),
            ..Self::empty(name, PieceState::Unsigned)
        }
    }
}

/// The pieces that a page has, oldest first.
pub fn page(eras: &[EraReply], ask: &TrailAsk) -> Vec<PieceName> {
    let pieces = ask.pieces.min(PIECES_MAX);
    let mut page: Vec<PieceName> = match ask.after {
        None => {
            let newest = eras.iter().rev().flat_map(|era| {
                let name = |segment| PieceName { era: era.id(), segment };
                (0..era.pieces()).rev().map(name)
            });
            newest.take(pieces).collect()
        }
        Some(after) => {
            let later = eras.iter().filter(|era| era.id() >= after.era).flat_map(|era| {
                let first = if era.id() == after.era { after.segment.saturating_add(1) } else { 0 };
                let name = |segment| PieceName { era: era.id(), segment };
                (first..era.pieces()).map(name)
            });
            later.take(pieces).collect()
        }
    };
    page.sort_unstable();
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn era(number: u64, segments: u64, next: u64) -> EraReply {
        let salt = "00000000000000ab".into();
        EraReply { era: number, salt, segments, signed: segments * 64, next, acknowledged: 0, damaged: false }
    }

    #[test]
    fn pages_go_through_every_piece_once_in_either_direction() {
        let eras = [era(1, 3, 192), era(2, 0, 0), era(4, 1, 70), era(5, 2, 128)];
        let all = ["1.00000000000000ab.0", "1.00000000000000ab.1", "1.00000000000000ab.2", "4.00000000000000ab.0"];
        let all = all.into_iter().chain(["4.00000000000000ab.1", "5.00000000000000ab.0", "5.00000000000000ab.1"]);
        let all: Vec<String> = all.map(str::to_owned).collect();
        for pieces in 1..=PIECES_MAX {
            let mut after = Some(PieceName { era: EraId { number: 0, salt: 0 }, segment: 0 });
            let mut seen = Vec::new();
            loop {
                let page = page(&eras, &TrailAsk { after, pieces });
                let Some(last) = page.last() else { break };
                after = Some(*last);
                assert!(page.len() <= pieces);
                seen.extend(page.iter().map(PieceName::text));
            }
            assert_eq!(seen, all, "{pieces} at a time");
            let newest = page(&eras, &TrailAsk { after: None, pieces });
            let newest: Vec<String> = newest.iter().map(PieceName::text).collect();
            assert_eq!(newest, all[all.len().saturating_sub(pieces)..], "the newest {pieces}");
        }
        let huge = [EraReply { segments: u64::MAX, ..era(1, 0, u64::MAX) }];
        assert_eq!(page(&huge, &TrailAsk { after: None, pieces: 99 }).len(), PIECES_MAX);
    }

    #[test]
    fn a_query_is_what_it_says_or_nothing() {
        let name = PieceName { era: EraId { number: 12, salt: u64::MAX }, segment: 7 };
        assert_eq!(PieceName::parse(&name.text()), Some(name));
        assert_eq!(TrailAsk::parse(None), Some(TrailAsk { after: None, pieces: 1 }));
        let both = format!("pieces=8&after={}", name.text());
        assert_eq!(TrailAsk::parse(Some(&both)), Some(TrailAsk { after: Some(name), pieces: 8 }));
        for bad in ["pieces=0", "pieces=9", "pieces=-1", "pieces=1&pieces=1", "after=1", "after=1.ab.2", "x=1", "after"]
        {
            assert_eq!(TrailAsk::parse(Some(bad)), None, "{bad}");
        }
    }
}
