//! What vouches for each audit key of a device, as its trail says it.
//!
//! Owns: [`Lineage`], from which a proof takes the certificates and announcements that lead to the keys that it rests on.
//! Never: checks anything. Whoever makes a proof of it opens every part, and so does whoever is handed that.
//! Read next: `../../wire/audit/signer.rs`, which says how keys follow one another.

use std::collections::BTreeMap;

use crate::fleet::book::Segment;
use crate::ids::KeyId;
use crate::wire::audit::proof::Inclusion;
use crate::wire::audit::segment::SegmentHeader;
use crate::wire::audit::signer::AuditKey;
use crate::wire::envelope::Signed;
use crate::wire::Refused;

/// Where audit keys come from, by their ids.
#[derive(Default)]
pub struct Lineage(BTreeMap<KeyId, Origin>);

enum Origin {
    /// An identity key vouches.
    Certified(Signed<AuditKey>),
    /// A record announces it that is signed with one of these.
    Announced { by: Vec<KeyId>, inclusion: Inclusion },
}

/// What leads from identity keys to audit keys.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Vouching {
    /// Certificates of audit keys.
    pub certificates: Vec<Signed<AuditKey>>,
    /// Records that announce further ones, each signed with a key that is known by then.
    pub announced: Vec<Inclusion>,
}

impl Lineage {
    /// Takes in a segment: the keys that it vouches for or announces.
    ///
    /// # Errors
    /// [`Refused`] when it is none.
    pub fn note(&mut self, segment: &Segment) -> Result<(), Refused> {
        let signed = Signed::<SegmentHeader>::from_bytes(&segment.header)?;
        let header = signed.claim()?;
        self.note_certificates(&header)?;
        // What was given up announced nothing.
        if header.is_shed(&segment.leaves) {
            return Ok(());
        }
        for record in header.read(&segment.leaves)? {
            let Some(key) = record.announces() else { continue };
            if let Some(inclusion) = Inclusion::of(signed.clone(), &segment.leaves, record.index)? {
                let announced = Origin::Announced { by: signed.signed_by().collect(), inclusion };
                self.0.entry(KeyId::of(key.as_bytes())).or_insert(announced);
            }
        }
        Ok(())
    }

    /// Takes in what a header alone vouches for.
    ///
    /// # Errors
    /// [`Refused`] for a certificate that is none.
    pub fn note_certificates(&mut self, header: &SegmentHeader) -> Result<(), Refused> {
        let resumes = header.salvage.as_ref().and_then(|salvage| salvage.resumes.as_ref());
        for certificate in header.signer.iter().chain(resumes) {
            let id = KeyId::of(certificate.claim()?.key.as_bytes());
            // The shorter way: nothing else has to be proved.
            self.0.insert(id, Origin::Certified(certificate.clone()));
        }
        Ok(())
    }

    /// What leads to those of these keys that are known.
    pub fn of(&self, keys: impl IntoIterator<Item = KeyId>) -> Vouching {
        let mut vouching = Vouching::default();
        for key in keys {
            let (mut announced, mut next) = (Vec::new(), Some(key));
            while let Some(id) = next.take() {
                match self.0.get(&id) {
                    Some(Origin::Certified(certificate)) if !vouching.certificates.contains(certificate) => {
                        vouching.certificates.push(certificate.clone());
                    }
                    // A device may sign a circle, which leads nowhere.
                    Some(Origin::Announced { by, inclusion }) if announced.len() < self.0.len() => {
                        announced.push(inclusion.clone());
                        next = by.iter().find(|signer| self.0.contains_key(signer)).copied();
                    }
                    Some(Origin::Certified(_) | Origin::Announced { .. }) | None => {}
                }
            }
            for inclusion in announced.into_iter().rev() {
                if !vouching.announced.contains(&inclusion) {
                    vouching.announced.push(inclusion);
                }
            }
        }
        vouching
    }
}
