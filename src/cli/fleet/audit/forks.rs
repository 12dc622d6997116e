//! Which forks of the ledger can be proved to somebody who has nothing but a device's public keys.
//!
//! Owns: finding what each contradicts, and what vouches for the keys of both.
//! Never: believes the ledger: a proof that does not check out is none.
//! Read next: `../../audit/fork.rs`.

use std::collections::{BTreeMap, BTreeSet};

use crate::cli::audit::fork::{ForkProof, Proven};
use crate::cli::Failure;
use crate::fleet::book::{Fork, Segment};
use crate::fleet::report::lineage::Lineage;
use crate::fleet::report::Signers;
use crate::ids::{DeviceId, KeyId};
use crate::shell::ledger::Ledger;
use crate::wire::audit::segment::SegmentHeader;
use crate::wire::envelope::Signed;

/// A fork, and its proof as far as two headers alone prove it.
pub(super) struct Found {
    pub fork: Fork,
    pub proof: Option<(ForkProof, Proven)>,
}

/// The forks that were seen on arrival, of one device or of all.
pub(super) fn found(ledger: &Ledger, only: Option<&DeviceId>) -> Result<Vec<Found>, Failure> {
    let book = ledger.book();
    let wanted = |fork: &&Fork| only.is_none_or(|only| *only == fork.device);
    let devices: BTreeSet<&DeviceId> = book.forks().filter(wanted).map(|fork| &fork.device).collect();
    let signers = Signers::of(book);
    let mut found = Vec::new();
    for device in devices {
        let forks: Vec<&Fork> = book.forks().filter(|fork| fork.device == *device).collect();
        let Trail { lineage, candidates } = Trail::read(ledger, device, &forks)?;
        for (fork, candidates) in forks.into_iter().zip(candidates) {
            let proof = prove(&signers, &lineage, fork, &candidates);
            found.push(Found { fork: fork.clone(), proof });
        }
    }
    Ok(found)
}

fn prove(
    signers: &Signers,
    lineage: &Lineage,
    fork: &Fork,
    candidates: &[Signed<SegmentHeader>],
) -> Option<(ForkProof, Proven)> {
    let other = Signed::<SegmentHeader>::from_bytes(&fork.header).ok()?;
    candidates.iter().find_map(|stored| {
        let vouching = lineage.of(stored.signed_by().chain(other.signed_by()));
        // A pair that does not check out, or does not contradict itself, proves nothing; another one may.
        ForkProof::of(signers, &vouching, [stored, &other]).ok().flatten()
    })
}

/// What is stored of a device, as far as it may prove its forks.
struct Trail {
    lineage: Lineage,
    /// Per fork, what may contradict it.
    candidates: Vec<Vec<Signed<SegmentHeader>>>,
}

impl Trail {
    fn read(ledger: &Ledger, device: &DeviceId, forks: &[&Fork]) -> Result<Self, Failure> {
        let mut lineage = Lineage::default();
        let mut candidates = vec![Vec::new(); forks.len()];
        // The last whole segment that each key signed, of every era so far: what a later era with an older key contradicts.
        let mut newest: Vec<BTreeMap<KeyId, Signed<SegmentHeader>>> = vec![BTreeMap::new(); forks.len()];
        ledger.segments(Some(device), |segment: Segment| -> Result<(), Failure> {
            // What is damaged in the ledger, `verify` tells; it vouches for nothing here.
            let Ok(signed) = Signed::<SegmentHeader>::from_bytes(&segment.header) else { return Ok(()) };
            let Ok(header) = signed.claim() else { return Ok(()) };
            let _ = lineage.note(&segment);
            for ((fork, candidates), newest) in forks.iter().zip(&mut candidates).zip(&mut newest) {
                let beside =
                    header.era == fork.era && (header.segment == fork.segment || header.next_segment() == fork.segment);
                let both_begin = header.segment == 0 && fork.segment == 0;
                let twin = both_begin && header.era.number == fork.era.number && header.era != fork.era;
                if beside || twin {
                    candidates.push(signed.clone());
                } else if fork.segment == 0 && header.era.number < fork.era.number && !header.recovered {
                    newest.extend(signed.signed_by().map(|signer| (signer, signed.clone())));
                }
            }
            Ok(())
        })?;
        for ((fork, candidates), newest) in forks.iter().zip(&mut candidates).zip(newest) {
            candidates.extend(newest.into_values());
            let header = Signed::<SegmentHeader>::from_bytes(&fork.header).and_then(|signed| signed.claim());
            let _ = header.and_then(|header| lineage.note_certificates(&header));
        }
        Ok(Self { lineage, candidates })
    }
}
