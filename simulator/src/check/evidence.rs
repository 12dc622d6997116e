//! I5: what is refused is recorded as evidence.
//!
//! Owns: what was handed to each gateway that it must refuse, until a durable record of that refusal names it.
//! Never: asks for the record of something whose gateway was stopped before it could write it.
//! Read next: `monotone.rs`.

use std::collections::BTreeSet;

use hardtack::ids::{DeviceId, Hash};
use hardtack::wire::audit::{Event, Record};

use super::{Id, Tally};

/// What is to be recorded, by gateway.
#[derive(Debug, Default)]
pub(crate) struct EvidenceCheck {
    owed: BTreeSet<(u32, Hash)>,
}

impl EvidenceCheck {
    /// A gateway is handed something that it must refuse.
    pub(crate) fn expect(&mut self, device: u32, bytes: &[u8]) {
        self.owed.insert((device, Hash::of("hardtack/evidence/v1", &[bytes])));
    }

    /// A record is durable.
    pub(crate) fn durable(&mut self, tally: &mut Tally, at: u64, device: u32, record: &Record) {
        if let Event::Refused(evidence) = &record.event {
            if self.owed.remove(&(device, evidence.digest)) {
                tally.tried(Id::Evidence, at, None);
            }
        }
    }

    /// The agent is gone: what it had not written yet it never will.
    pub(crate) fn stopped(&mut self, device: u32) {
        self.owed.retain(|(of, _)| *of != device);
    }

    /// In the end: nothing is owed.
    pub(crate) fn finish(&self, tally: &mut Tally, at: u64, name: impl Fn(u32) -> DeviceId) {
        for (device, digest) in &self.owed {
            let how = format!("{} refused {digest:?}, and recorded nothing of it", name(*device));
            tally.broken(Id::Evidence, at, how);
        }
    }
}
