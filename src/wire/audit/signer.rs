//! Which key may sign which segment.
//!
//! Owns: the certificate of an audit key, and the rule by which keys follow one another ([`open`], [`Opened::after`]). A
//! device has one audit key at a time. Before it takes the next, it logs that under the one it has, and then forgets that
//! one: whoever takes the device's keys cannot sign anew what was signed before, but marked as recovered.
//! Never: says when a key is replaced. `agent/audit_key.rs` does.
//! Read next: `segment.rs`.

use serde::{Deserialize, Serialize};

use super::segment::SegmentHeader;
use super::{Event, Record, TrustChange};
use crate::ids::{DeviceId, FleetId};
use crate::wire::bundle::PublicKey;
use crate::wire::envelope::{Document, Signed};
use crate::wire::Refused;

/// A device's identity key vouches for an audit key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditKey {
    /// The device.
    pub device: DeviceId,
    /// Rises with each key of the device, from 1.
    pub epoch: u64,
    /// The key.
    pub key: PublicKey,
}

impl Document for AuditKey {
    const KIND: &'static str = "audit-key";
    const BYTES_MAX: usize = 512;
}

/// Who signs an era from a segment on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Signer {
    /// The identity key that vouches for the audit key.
    pub identity: PublicKey,
    /// The audit key's epoch.
    pub epoch: u64,
    /// The audit key.
    pub key: PublicKey,
}

impl Signer {
    /// The key that one of `identities` vouches for.
    ///
    /// # Errors
    /// [`Refused::UnknownKey`] or [`Refused::BadSignature`] when none does, [`Refused::WrongDevice`].
    pub fn of(
        certificate: &Signed<AuditKey>,
        fleet: &FleetId,
        device: &DeviceId,
        identities: &[PublicKey],
    ) -> Result<Self, Refused> {
        let mut refused = Refused::UnknownKey { valid: 0, needed: 1 };
        for identity in identities {
            match certificate.open(fleet, [identity.verifying()], 1) {
                Ok(vouched) if vouched.device != *device => return Err(Refused::WrongDevice),
                Ok(vouched) => return Ok(Self { identity: *identity, epoch: vouched.epoch, key: vouched.key }),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }
}

/// How a segment's key follows the one before. Whoever reads the audit is told of all but the first: what they stand over
/// may have been written later, by somebody who had taken the device's keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// It is the key that was to sign here.
    Announced,
    /// A later start closed the segment, with the key of then.
    Recovered,
    /// A damaged disk left no more, and the device's word alone goes on over what is lost.
    Salvaged,
    /// An era begins with another key than the one before it ended with.
    Unannounced,
}

/// A header whose signature fits.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The header.
    pub header: SegmentHeader,
    /// Who signed it.
    pub signer: Signer,
    /// How that key follows the one before.
    pub mark: Mark,
    /// Who was to sign.
    before: Option<Signer>,
    /// Who signs what follows, where what was lost may have said so.
    resumes: Option<Signer>,
}

/// Opens a header. `before` is who signs the era at this place; of an era's first segment, who would have signed the era
/// before any further.
///
/// # Errors
/// [`Refused::UnknownKey`] when another key signed than had to, [`Refused::BadSignature`], [`Refused::Malformed`].
pub fn open(
    signed: &Signed<SegmentHeader>,
    fleet: &FleetId,
    identities: &[PublicKey],
    before: Option<Signer>,
) -> Result<Opened, Refused> {
    let claim = signed.claim()?;
    claim.countable()?;
    let vouched = |certificate: &Signed<AuditKey>| Signer::of(certificate, fleet, &claim.device, identities);
    let signer = match (&claim.signer, before) {
        (Some(certificate), _) => vouched(certificate)?,
        (None, Some(before)) if claim.segment > 0 => before,
        (None, _) => return Err(Refused::Malformed("an era's first segment without its key's certificate")),
    };
    let header = signed.open(fleet, [signer.key.verifying()], 1)?;
    let expected = before.is_none_or(|before| signer == before);
    // A gateway that was put in the place of another begins with keys of its own, which an operator approved.
    let elsewhere = before.is_some_and(|before| signer.identity != before.identity);
    let mark = match (&header.salvage, header.recovered, header.segment) {
        (Some(_), ..) => Mark::Salvaged,
        (None, true, _) => Mark::Recovered,
        (None, false, _) if expected => Mark::Announced,
        (None, false, 0) if elsewhere => Mark::Announced,
        (None, false, 0) => Mark::Unannounced,
        (None, false, _) => return Err(Refused::UnknownKey { valid: 0, needed: 1 }),
    };
    let resumes = header.salvage.as_ref().and_then(|salvage| salvage.resumes.as_ref());
    let resumes = resumes.map(vouched).transpose()?;
    Ok(Opened { header, signer, mark, before, resumes })
}

impl Opened {
    /// Who signs the segment after this one, which has these records. Whoever closed it later goes on with nothing.
    ///
    /// # Errors
    /// [`Refused::Malformed`] for a key that is announced and no newer.
    pub fn after(&self, records: &[Record]) -> Result<Signer, Refused> {
        let closed_later = match self.mark {
            Mark::Announced | Mark::Unannounced => false,
            Mark::Recovered | Mark::Salvaged => true,
        };
        let mut next = self.before.filter(|_| closed_later).unwrap_or(self.signer);
        for record in records {
            match record.event {
                Event::Trust(TrustChange::AuditKey { epoch, key }) if epoch > next.epoch => {
                    next = Signer { epoch, key, ..next };
                }
                Event::Trust(TrustChange::AuditKey { .. }) if !closed_later => {
                    return Err(Refused::Malformed("an audit key is announced that is no newer"));
                }
                Event::Decision(_)
                | Event::Gap(_)
                | Event::Grant(_)
                | Event::Mode(_)
                | Event::Refused(_)
                | Event::Start(_)
                | Event::Task(_)
                | Event::Trust(_)
                | Event::Repeated(_)
                | Event::Alive(_)
                | Event::Ended(_) => {}
            }
        }
        Ok(self.resumes.unwrap_or(next))
    }

    /// Whether an era begins with a key that is older than one which the device had, or has the number of one and is
    /// another: then two have the device's keys, or its storage was restored.
    pub fn is_fork(&self) -> bool {
        let older = |before: Signer| self.signer.identity == before.identity && self.signer.epoch <= before.epoch;
        self.mark == Mark::Unannounced && self.before.is_some_and(older)
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::segment::{grow, Salvage};
    use super::super::{Evidence, Record};
    use super::*;
    use crate::ids::{EraId, Hash};
    use crate::time::Timestamp;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn public(seed: u8) -> PublicKey {
        key(seed).verifying_key().into()
    }

    fn acme() -> FleetId {
        "acme".parse().unwrap()
    }

    fn certificate(identity: u8, epoch: u64, audit: u8) -> Signed<AuditKey> {
        let vouched = AuditKey { device: "gw-07".parse().unwrap(), epoch, key: public(audit) };
        Signed::sign(&vouched, &acme(), &[&key(identity)])
    }

    fn signer(identity: u8, epoch: u64, audit: u8) -> Signer {
        Signer { identity: public(identity), epoch, key: public(audit) }
    }

    fn header(segment: u64) -> SegmentHeader {
        SegmentHeader {
            device: "gw-07".parse().unwrap(),
            era: EraId { number: 3, salt: 9 },
            segment,
            first_index: 0,
            count: 1,
            previous: Hash::ZERO,
            root: Hash::ZERO,
            closed_at: Timestamp(5),
            recovered: false,
            signer: None,
            feeds: Vec::new(),
            salvage: None,
        }
    }

    /// Who signs after what, in a fleet whose device had identity 1 and has 2 now.
    #[test]
    fn keys_follow_one_another_only_as_they_were_announced() {
        let old = Some(signer(1, 4, 40));
        let with = |edit: &dyn Fn(&mut SegmentHeader), segment, before, audit| {
            let mut header = header(segment);
            edit(&mut header);
            let signed = Signed::sign(&header, &acme(), &[&key(audit)]);
            open(&signed, &acme(), &[public(2), public(1)], before).map(|opened| opened.mark)
        };
        use Mark::{Announced, Recovered, Unannounced};
        let plain = |_: &mut SegmentHeader| {};
        let certified = |identity, epoch, audit| {
            move |header: &mut SegmentHeader| header.signer = Some(certificate(identity, epoch, audit))
        };
        let recovered = |identity, epoch, audit| {
            move |header: &mut SegmentHeader| {
                header.recovered = true;
                header.signer = Some(certificate(identity, epoch, audit));
            }
        };
        assert_eq!(with(&plain, 1, old, 40), Ok(Announced));
        assert_eq!(with(&certified(1, 4, 40), 1, old, 40), Ok(Announced), "it may say who it is");
        assert!(with(&plain, 1, old, 50).is_err(), "a key that nobody announced");
        assert!(with(&certified(1, 5, 50), 1, old, 50).is_err(), "vouched for, and not announced");
        assert!(with(&certified(9, 4, 40), 1, old, 40).is_err(), "a stranger vouches");
        assert_eq!(with(&recovered(1, 5, 50), 1, old, 50), Ok(Recovered));
        assert_eq!(with(&recovered(2, 5, 50), 1, old, 50), Ok(Recovered), "after the device was enrolled again");
        assert!(with(&plain, 0, None, 40).is_err(), "nobody vouches");
        assert!(with(&plain, 0, old, 40).is_err(), "nobody vouches");
        assert_eq!(with(&certified(1, 1, 40), 0, None, 40), Ok(Announced));
        assert_eq!(with(&certified(1, 4, 40), 0, old, 40), Ok(Announced));
        assert_eq!(with(&certified(1, 5, 50), 0, old, 50), Ok(Unannounced), "whoever reads it is told");
        assert_eq!(with(&certified(2, 1, 60), 0, old, 60), Ok(Announced), "another gateway in its place");
        assert!(with(&certified(1, 4, 40), 1, old, 41).is_err(), "signed by another than vouched for");
        let forks = |epoch, audit| {
            let mut header = header(0);
            header.signer = Some(certificate(1, epoch, audit));
            let signed = Signed::sign(&header, &acme(), &[&key(audit)]);
            open(&signed, &acme(), &[public(1)], old).unwrap().is_fork()
        };
        assert_eq!([forks(3, 30), forks(4, 41), forks(4, 40), forks(5, 50)], [true, true, false, false]);
    }

    #[test]
    fn what_is_announced_signs_from_the_next_segment_on() {
        let announce = |epoch, audit| {
            let event = Event::Trust(TrustChange::AuditKey { epoch, key: public(audit) });
            Record { index: 0, floor: Timestamp(1), powered: Timestamp(1), event }
        };
        let opened = |mark, closer| Opened {
            header: header(1),
            signer: closer,
            mark,
            before: Some(signer(1, 4, 40)),
            resumes: None,
        };
        let plain = opened(Mark::Announced, signer(1, 4, 40));
        assert_eq!(plain.after(&[]), Ok(signer(1, 4, 40)));
        assert_eq!(plain.after(&[announce(5, 50)]), Ok(signer(1, 5, 50)));
        assert!(plain.after(&[announce(4, 50)]).is_err());
        let late = opened(Mark::Recovered, signer(1, 6, 60));
        assert_eq!(late.after(&[]), Ok(signer(1, 4, 40)), "whoever closed it goes on with nothing");
        assert_eq!(late.after(&[announce(5, 50)]), Ok(signer(1, 5, 50)));
        let resumes = Opened { resumes: Some(signer(1, 6, 60)), ..plain };
        assert_eq!(resumes.after(&[]), Ok(signer(1, 6, 60)));
    }

    #[test]
    fn what_a_damaged_disk_has_left_says_who_signs_on() {
        let evidence = Evidence { source: "t".into(), reason: "r".into(), digest: Hash::ZERO, count: 1 };
        let record = Record { index: 0, floor: Timestamp(1), powered: Timestamp(1), event: Event::Refused(evidence) };
        let resumes = |certificate| {
            let salvage = Salvage { next_segment: 2, lost: vec![(1, 2)], head: Hash::ZERO, resumes: Some(certificate) };
            let (signer, salvage) = (Some(certificate_of_now()), Some(salvage));
            let root = grow(std::slice::from_ref(&record)).1;
            let header = SegmentHeader { count: 2, root, recovered: true, signer, salvage, ..header(1) };
            let signed = Signed::sign(&header, &acme(), &[&key(70)]);
            open(&signed, &acme(), &[public(1)], Some(signer_before())).and_then(|opened| opened.after(&[]))
        };
        fn certificate_of_now() -> Signed<AuditKey> {
            certificate(1, 7, 70)
        }
        fn signer_before() -> Signer {
            signer(1, 4, 40)
        }
        assert_eq!(resumes(certificate(1, 5, 50)), Ok(signer(1, 5, 50)));
        assert!(resumes(certificate(9, 5, 50)).is_err());
    }
}
