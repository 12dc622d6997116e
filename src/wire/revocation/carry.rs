//! Revocations in one file, for somebody to carry: on a stick, through a laptop, from one device to another.
//!
//! Owns: [`Carried`], what such a file holds, its bytes and their limits.
//! Never: believes anything in it. What is in it is signed by itself; who carried it does not matter.
//! Read next: `agent/carry.rs`, which takes it; `docs/revocation-format.md` for the bytes.

use super::announcement::Head;
use super::bytes::{put_number, Reader};
use super::emergency::Emergency;
use crate::ids::{FleetId, Hash};
use crate::wire::bundle::{TrustBundle, EMERGENCY_KEYS_MAX};
use crate::wire::envelope::{Document, Signed};
use crate::wire::policy::PolicyDocument;
use crate::wire::Refused;

/// The most bytes of a file: the largest set that a device holds, and every trust bundle.
pub const CARRIED_BYTES_MAX: usize = 12 * 1024 * 1024;
/// The most trust bundles in a file.
pub const BUNDLES_MAX: usize = 256;
/// The most statements of emergency keys in a file: one for each that a trust bundle names.
pub const EMERGENCIES_MAX: usize = EMERGENCY_KEYS_MAX;
/// The most feeds in a file.
pub const FEEDS_MAX: usize = 16;

/// What every file begins with; the last byte is the version.
const MAGIC: &[u8; 8] = b"HTREVOK\x01";
const DIGEST_BYTES: usize = 32;

const FLEET: u8 = 1;
const BUNDLE: u8 = 2;
const POLICY: u8 = 3;
const HEAD: u8 = 4;
const SET: u8 = 5;
const EMERGENCY: u8 = 6;

/// What a file holds, none of it believed yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Carried {
    /// The fleet that it says it is of: what is signed for another does not open.
    pub fleet: FleetId,
    /// Trust bundles, the oldest first, so that a device that missed a change of keys can check the rest.
    pub bundles: Vec<Signed<TrustBundle>>,
    /// The policy in force.
    pub policy: Option<Signed<PolicyDocument>>,
    /// Heads, each with the bytes of its whole set.
    pub feeds: Vec<(Signed<Head>, Vec<u8>)>,
    /// The newest statements of emergency keys.
    pub emergencies: Vec<Signed<Emergency>>,
}

impl Carried {
    /// The file's bytes.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] or [`Refused::Malformed`] when no reader would take them.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Refused> {
        let many = self.feeds.len() > FEEDS_MAX || self.emergencies.len() > EMERGENCIES_MAX;
        if self.bundles.len() > BUNDLES_MAX || many {
            return Err(Refused::Malformed("more trust bundles, feeds or emergency statements than such a file holds"));
        }
        let mut bytes = MAGIC.to_vec();
        let mut put = |kind, part: &[u8]| {
            bytes.push(kind);
            put_number(&mut bytes, part.len() as u64);
            bytes.extend(part);
        };
        put(FLEET, self.fleet.as_str().as_bytes());
        self.bundles.iter().for_each(|bundle| put(BUNDLE, &bundle.to_bytes()));
        self.policy.iter().for_each(|policy| put(POLICY, &policy.to_bytes()));
        for (head, set) in &self.feeds {
            put(HEAD, &head.to_bytes());
            put(SET, set);
        }
        self.emergencies.iter().for_each(|statement| put(EMERGENCY, &statement.to_bytes()));
        let digest = digest(&bytes);
        bytes.extend(digest.0);
        match bytes.len() {
            bytes if bytes > CARRIED_BYTES_MAX => Err(Refused::TooLarge { bytes, limit: CARRIED_BYTES_MAX }),
            _ => Ok(bytes),
        }
    }

    /// Parses a file without trusting it.
    ///
    /// # Errors
    /// [`Refused::TooLarge`], [`Refused::DigestMismatch`] for one that was damaged, or [`Refused::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() > CARRIED_BYTES_MAX {
            return Err(Refused::TooLarge { bytes: bytes.len(), limit: CARRIED_BYTES_MAX });
        }
        let rest = match bytes.strip_prefix(MAGIC.as_slice()) {
            Some(rest) => rest,
            None if bytes.starts_with(&MAGIC[..7]) => return Err(Refused::Malformed("a file of another version")),
            None => return Err(Refused::Malformed("no file with revocations")),
        };
        let parts = rest.len().checked_sub(DIGEST_BYTES).ok_or(Refused::Malformed("ends too early"))?;
        let (parts, told) = rest.split_at(parts);
        if digest(&bytes[..bytes.len() - DIGEST_BYTES]).0 != told {
            return Err(Refused::DigestMismatch);
        }
        Self::read(&mut Reader::new(parts))
    }

    /// Parts come in one order, so that what a file holds has one form.
    fn read(reader: &mut Reader<'_>) -> Result<Self, Refused> {
        let (kind, name) = part(reader)?;
        let name = std::str::from_utf8(name).ok().filter(|_| kind == FLEET);
        let fleet = name.and_then(|name| name.parse().ok()).ok_or(Refused::Malformed("a file that names no fleet"))?;
        let mut carried = Self { fleet, bundles: Vec::new(), policy: None, feeds: Vec::new(), emergencies: Vec::new() };
        while !reader.is_empty() {
            let (kind, bytes) = part(reader)?;
            let last = !carried.emergencies.is_empty();
            let early = carried.policy.is_none() && carried.feeds.is_empty() && !last;
            match kind {
                BUNDLE if early && carried.bundles.len() < BUNDLES_MAX => carried.bundles.push(envelope(bytes)?),
                POLICY if early => carried.policy = Some(envelope(bytes)?),
                HEAD if carried.feeds.len() < FEEDS_MAX && !last => {
                    let head = envelope(bytes)?;
                    match part(reader)? {
                        (SET, set) => carried.feeds.push((head, set.to_vec())),
                        _ => return Err(Refused::Malformed("a head without its set")),
                    }
                }
                EMERGENCY if carried.emergencies.len() < EMERGENCIES_MAX => {
                    carried.emergencies.push(envelope(bytes)?);
                }
                _ => return Err(Refused::Malformed("a part of another kind, or out of its order")),
            }
        }
        Ok(carried)
    }
}

/// Tells a file that was damaged on its way from one that was made to deceive. It proves nothing else.
fn digest(bytes: &[u8]) -> Hash {
    Hash::of("hardtack/carried/v1", &[bytes])
}

fn part<'a>(reader: &mut Reader<'a>) -> Result<(u8, &'a [u8]), Refused> {
    let kind = reader.byte()?;
    let length = reader.number(CARRIED_BYTES_MAX as u64)?;
    Ok((kind, reader.take(usize::try_from(length).unwrap_or(usize::MAX))?))
}

/// An envelope in its only form: one that is written in another way is none.
fn envelope<T: Document>(bytes: &[u8]) -> Result<Signed<T>, Refused> {
    let signed = Signed::from_bytes(bytes)?;
    match signed.to_bytes() == bytes {
        true => Ok(signed),
        false => Err(Refused::Malformed("an envelope that is not in its shortest form")),
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::ids::KeyId;
    use crate::time::{Millis, Timestamp};
    use crate::wire::revocation::announcement::Successor;
    use crate::wire::revocation::emergency::Rules;
    use crate::wire::revocation::rules::Selector;
    use crate::wire::revocation::set::RevocationSet;

    fn carried() -> Carried {
        let (key, fleet): (_, FleetId) = (SigningKey::from_bytes(&[1; 32]), "acme".parse().unwrap());
        let set = RevocationSet::default();
        let successor = Successor {
            feed: &"main".parse().unwrap(),
            era: 1,
            seq: 1,
            previous: Hash::ZERO,
            issued_at: Timestamp(5),
            next_update_ms: Millis(1),
            hard_stale_ms: Millis(2),
            dropped_before: Timestamp(0),
            set: &set,
            additions: &set,
            skips: &[],
            bundle_version: 1,
            policy_version: 1,
        };
        let head = Signed::sign(&successor.sign(&fleet, &key).0, &fleet, &[&key]);
        let policy = Signed::sign(&PolicyDocument::built_in(Timestamp(5)), &fleet, &[&key]);
        let feeds = vec![(head, set.to_bytes())];
        let statement = Emergency {
            key: KeyId::of(key.verifying_key().as_bytes()),
            counter: 1,
            issued_at: Timestamp(5),
            bundle_version: 1,
            rules: Rules::new("stolen", [(Selector::All, Timestamp(9))]).unwrap(),
        };
        let emergencies = vec![Signed::sign(&statement, &fleet, &[&key])];
        Carried { fleet, bundles: Vec::new(), policy: Some(policy), feeds, emergencies }
    }

    #[test]
    fn a_file_goes_both_ways_and_a_cut_or_changed_one_is_refused() {
        let file = carried();
        let bytes = file.to_bytes().unwrap();
        assert_eq!(Carried::from_bytes(&bytes), Ok(file));
        for cut in 0..bytes.len() {
            assert!(Carried::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Carried::from_bytes(&damaged).is_err(), "bit {bit}");
        }
        let large = vec![0; CARRIED_BYTES_MAX + 1];
        assert!(matches!(Carried::from_bytes(&large), Err(Refused::TooLarge { .. })));
    }

    #[test]
    fn parts_have_one_order_and_a_limit() {
        let sealed = |parts: &[(u8, &[u8])]| {
            let mut bytes = MAGIC.to_vec();
            for (kind, part) in parts {
                bytes.push(*kind);
                put_number(&mut bytes, part.len() as u64);
                bytes.extend(*part);
            }
            let digest = digest(&bytes);
            bytes.extend(digest.0);
            Carried::from_bytes(&bytes).map(|carried| carried.feeds.len())
        };
        let file = carried();
        let (head, policy) = (file.feeds[0].0.to_bytes(), file.policy.unwrap().to_bytes());
        let (fleet, policy) = ((FLEET, &b"acme"[..]), (POLICY, policy.as_slice()));
        let (head, set) = ((HEAD, head.as_slice()), (SET, &[1_u8][..]));
        let emergency = file.emergencies[0].to_bytes();
        let emergency = (EMERGENCY, emergency.as_slice());
        assert_eq!(sealed(&[fleet]), Ok(0));
        assert_eq!(sealed(&[fleet, policy, head, set, head, set, emergency, emergency]), Ok(2));
        for wrong in [
            &[policy][..],
            &[fleet, head],
            &[fleet, set],
            &[fleet, policy, policy],
            &[fleet, head, set, policy],
            &[fleet, emergency, head, set],
            &[fleet, emergency, policy],
            &[fleet, fleet],
            &[fleet, (9, &[])],
        ] {
            assert!(matches!(sealed(wrong), Err(Refused::Malformed(_))), "{wrong:?}");
        }
        let many: Vec<_> = std::iter::once(fleet).chain([head, set].repeat(FEEDS_MAX + 1)).collect();
        assert!(sealed(&many).is_err());
        let many: Vec<_> = std::iter::once(fleet).chain([emergency].repeat(EMERGENCIES_MAX + 1)).collect();
        assert!(sealed(&many).is_err());
        assert!(Carried { feeds: vec![(carried().feeds[0].0.clone(), vec![1]); FEEDS_MAX + 1], ..carried() }
            .to_bytes()
            .is_err());
    }
}
