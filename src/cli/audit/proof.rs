//! One record with its proof: what `hardtack fleet audit prove` writes.
//!
//! Owns: its form, the ring of audit keys that its identity keys vouch for, and its check against nothing but these.
//! Never: believes what stands beside the signed bytes: it is made again from them and compared.
//! Read next: `../../wire/audit/proof.rs`; `fork.rs`, the other file whose audit keys are in a ring.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::file::{counted, decoded, words, Evidence, NoEvidence, TrustedKey, Verdict};
use super::line::fields;
use crate::fleet::report::lineage::Vouching;
use crate::fleet::report::problems::Problems;
use crate::fleet::report::Signers;
use crate::ids::{hex, DeviceId, FleetId, Hash, KeyId};
use crate::wire::audit::proof::Inclusion;
use crate::wire::audit::segment::SegmentHeader;
use crate::wire::audit::signer::{AuditKey, Signer};
use crate::wire::audit::{record_id, Event, Named, Record, TrustChange};
use crate::wire::bundle::PublicKey;
use crate::wire::envelope::Signed;
use crate::wire::Refused;

/// The form of a proof.
pub(in crate::cli) const PROOF: &str = "hardtack/audit-proof/v1";

/// One record with its proof, and that of the record which names its credential, if that is another.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    kind: String,
    format: String,
    fleet: FleetId,
    device: DeviceId,
    keys: Vec<String>,
    id: String,
    /// In which an identity key vouches for an audit key.
    certificates: Vec<String>,
    /// Records that announce further audit keys, each signed with one that is known by then.
    announced: Vec<Proved>,
    records: Vec<Proved>,
}

/// What a proof is made of.
#[derive(Default)]
pub struct Parts {
    /// What vouches for the keys that signed them.
    pub vouching: Vouching,
    /// The record.
    pub record: Option<Inclusion>,
    /// The one that names its credential, if that is another.
    pub naming: Option<Inclusion>,
}

/// A record in a proof.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Proved {
    /// As in a line of an export, without what only the collector says.
    record: Map<String, Value>,
    /// The signed header.
    header: String,
    /// The place of its leaf in the tree, from 0.
    place: u64,
    /// How many leaves the tree has.
    count: u64,
    /// The leaves from the first to its own.
    leaves: Vec<String>,
    /// The path of its own, from the leaf up.
    path: Vec<Hash>,
}

impl Proof {
    /// The proof of a record.
    ///
    /// # Errors
    /// Those of [`Inclusion::open`]: what does not check out is no proof.
    pub fn of(signers: &Signers, parts: &Parts) -> Result<Self, Refused> {
        let inclusion = parts.record.as_ref().ok_or(Refused::Malformed("a proof of no record"))?;
        let device = inclusion.header.claim()?.device;
        let identities = signers.keys.get(&device).map_or(&[][..], Vec::as_slice);
        let mut ring = Ring::of(&signers.fleet, &device, identities);
        let (certificates, announced) = told(&mut ring, &parts.vouching)?;
        let (header, record) = ring.open(inclusion)?;
        let other = parts.naming.as_ref().map(|inclusion| ring.open(inclusion)).transpose()?;
        let named = record.names().or(other.as_ref().and_then(|(_, other)| other.names()));
        let id = record_id(&header.device, header.era, record.index);
        let mut records = vec![proved(inclusion, &header, &record, named)?];
        if let (Some(inclusion), Some((header, record))) = (&parts.naming, &other) {
            records.push(proved(inclusion, header, record, record.names())?);
        }
        Ok(Self {
            kind: "proof".into(),
            format: PROOF.into(),
            fleet: signers.fleet.clone(),
            device,
            keys: identities.iter().map(|key| hex(key.as_bytes())).collect(),
            id,
            certificates,
            announced,
            records,
        })
    }
}

/// The audit keys of a device that are vouched for.
pub(super) struct Ring<'f> {
    fleet: &'f FleetId,
    device: &'f DeviceId,
    identities: &'f [PublicKey],
    signers: Vec<Signer>,
}

impl<'f> Ring<'f> {
    pub(super) fn of(fleet: &'f FleetId, device: &'f DeviceId, identities: &'f [PublicKey]) -> Self {
        Self { fleet, device, identities, signers: Vec::new() }
    }

    /// One for which an identity key vouches.
    fn vouched(&mut self, certificate: &Signed<AuditKey>) -> Result<(), Refused> {
        self.signers.push(Signer::of(certificate, self.fleet, self.device, self.identities)?);
        Ok(())
    }

    /// One that a record announces which is signed with one of these.
    fn announced(&mut self, inclusion: &Inclusion) -> Result<(SegmentHeader, Record), Refused> {
        let keys = self.signers.iter().map(|signer| signer.key.verifying());
        let (header, record) = inclusion.open(self.fleet, keys)?;
        let signer = self.signer(&inclusion.header)?;
        let Event::Trust(TrustChange::AuditKey { epoch, key }) = record.event else {
            return Err(Refused::Malformed("a record that announces no key"));
        };
        self.signers.push(Signer { epoch, key, ..signer });
        Ok((header, record))
    }

    fn open(&self, inclusion: &Inclusion) -> Result<(SegmentHeader, Record), Refused> {
        inclusion.open(self.fleet, self.signers.iter().map(|signer| signer.key.verifying()))
    }

    /// A header alone, and who signed it.
    pub(super) fn header(&self, signed: &Signed<SegmentHeader>) -> Result<(SegmentHeader, Signer), Refused> {
        let header = signed.open(self.fleet, self.signers.iter().map(|signer| signer.key.verifying()), 1)?;
        Ok((header, self.signer(signed)?))
    }

    /// Whose signature comes first, of those that are known.
    fn signer(&self, signed: &Signed<SegmentHeader>) -> Result<Signer, Refused> {
        let known = |id: KeyId| self.signers.iter().find(|signer| KeyId::of(signer.key.as_bytes()) == id);
        let signer = signed.signed_by().find_map(known).copied();
        signer.ok_or(Refused::UnknownKey { valid: 0, needed: 1 })
    }
}

/// What vouches for audit keys, as files tell it; each part of it is checked, and its keys are in the ring from there on.
pub(super) fn told(ring: &mut Ring<'_>, vouching: &Vouching) -> Result<(Vec<String>, Vec<Proved>), Refused> {
    for certificate in &vouching.certificates {
        ring.vouched(certificate)?;
    }
    let announced = vouching.announced.iter().map(|inclusion| {
        let (header, record) = ring.announced(inclusion)?;
        proved(inclusion, &header, &record, None)
    });
    let announced = announced.collect::<Result<_, _>>()?;
    Ok((vouching.certificates.iter().map(|one| BASE64.encode(&one.to_bytes())).collect(), announced))
}

/// Takes what a file says of audit keys into the ring.
pub(super) fn take(ring: &mut Ring<'_>, certificates: &[String], announced: &[Proved]) -> Result<(), String> {
    for text in certificates {
        let certificate = Signed::from_bytes(&decoded(text)?).map_err(words)?;
        ring.vouched(&certificate).map_err(|refused| format!("nobody vouches for an audit key: {refused}"))?;
    }
    for proved in announced {
        let (header, record) = ring.announced(&inclusion_of(proved)?).map_err(unsound)?;
        stands(ring.device, proved, &header)?;
        if fields(&header.device, header.era, header.segment, &record, None) != proved.record {
            return Err(format!("what it says of record {} is not what was signed", record.index));
        }
    }
    Ok(())
}

fn proved(
    inclusion: &Inclusion,
    header: &SegmentHeader,
    record: &Record,
    named: Option<&Named>,
) -> Result<Proved, Refused> {
    Ok(Proved {
        record: fields(&header.device, header.era, header.segment, record, named),
        header: BASE64.encode(&inclusion.header.to_bytes()),
        place: inclusion.leaves.len() as u64 - 1,
        count: header.kept()?.iter().map(|(first, end)| end - first).sum(),
        leaves: inclusion.leaves.iter().map(|leaf| BASE64.encode(leaf)).collect(),
        path: inclusion.path.clone(),
    })
}

/// Checks one.
///
/// # Errors
/// [`NoEvidence`] for one of another form. What is wrong in it stands in the verdict.
pub(super) fn check_proof(proof: &Proof, trusted: &[TrustedKey]) -> Result<Verdict, NoEvidence> {
    if proof.format != PROOF {
        return Err(NoEvidence::Other(format!("a proof of the form {:?}", proof.format)));
    }
    let keys = counted(&proof.device, &proof.keys, trusted)?;
    let record = proof.records.first().map(|first| first.record.clone()).unwrap_or_default();
    let evidence = Evidence::Proof(record);
    let mut verdict = Verdict { fleet: proof.fleet.clone(), evidence, from: None, problems: Problems::default() };
    if let Err(why) = proof_holds(proof, &keys) {
        verdict.problem(why);
    }
    Ok(verdict)
}

fn proof_holds(proof: &Proof, identities: &[PublicKey]) -> Result<(), String> {
    let mut ring = Ring::of(&proof.fleet, &proof.device, identities);
    take(&mut ring, &proof.certificates, &proof.announced)?;
    let mut opened: Vec<(SegmentHeader, Record)> = Vec::new();
    for proved in &proof.records {
        let (header, record) = ring.open(&inclusion_of(proved)?).map_err(unsound)?;
        stands(&proof.device, proved, &header)?;
        opened.push((header, record));
    }
    let [(header, record), others @ ..] = &opened[..] else { return Err("it holds no record".into()) };
    let id = record_id(&proof.device, header.era, record.index);
    if id != proof.id {
        return Err(format!("it is said to prove {} and proves {id}", proof.id));
    }
    let named = match (record.named_by(), others) {
        (None, []) => record.names(),
        (Some(index), [(other_header, other)]) => {
            if other.index != index
                || other_header.era != header.era
                || !other.decision().is_some_and(|decision| decision.allow)
            {
                return Err(format!("its credential is named by record {index}, and another one comes with it"));
            }
            Some(other.names().ok_or_else(|| format!("record {index} names no credential"))?)
        }
        (Some(index), _) => return Err(format!("record {index}, which names its credential, does not come with it")),
        (None, _) => return Err("it brings records that nothing refers to".into()),
    };
    let named = [named].into_iter().chain(others.iter().map(|(_, other)| other.names()));
    for (((header, record), named), proved) in opened.iter().zip(named).zip(&proof.records) {
        if fields(&header.device, header.era, header.segment, record, named) != proved.record {
            return Err(format!("what it says of record {} is not what was signed", record.index));
        }
    }
    Ok(())
}

fn unsound(refused: Refused) -> String {
    format!("a record does not check out: {refused}")
}

fn inclusion_of(proved: &Proved) -> Result<Inclusion, String> {
    Ok(Inclusion {
        header: Signed::from_bytes(&decoded(&proved.header)?).map_err(words)?,
        leaves: proved.leaves.iter().map(decoded).collect::<Result<_, _>>()?,
        path: proved.path.clone(),
    })
}

/// Whether a record that was opened is of the device and at the place that the proof says.
fn stands(device: &DeviceId, proved: &Proved, header: &SegmentHeader) -> Result<(), String> {
    let count: u64 = header.kept().map_err(words)?.iter().map(|(first, end)| end - first).sum();
    if header.device != *device {
        return Err(format!("signed by {}, and said to be of {device}", header.device));
    }
    if (proved.place.saturating_add(1), proved.count) != (proved.leaves.len() as u64, count) {
        return Err("its place is another than its leaves have".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::file::check;
    use super::super::file::tests::{refusal, segment, signers, ERA};
    use super::*;
    use crate::fleet::book::Segment;
    use crate::fleet::report::lineage::Lineage;

    type Edit = fn(&mut Proof);

    #[test]
    fn a_proof_brings_what_vouches_for_the_key_that_signed_it() {
        let next = SigningKey::from_bytes(&[7; 32]);
        let announcement = TrustChange::AuditKey { epoch: 2, key: next.verifying_key().into() };
        let first = segment(ERA, None, &[refusal(), Event::Trust(announcement), refusal()]);
        let second = segment(ERA, Some(&first), &[refusal()]);
        let header = |segment: &Segment| Signed::<SegmentHeader>::from_bytes(&segment.header).unwrap();
        let unnamed = SegmentHeader { signer: None, ..header(&second).claim().unwrap() };
        let signed = Signed::sign(&unnamed, &signers().fleet, &[&next]);
        let parts = || Parts {
            vouching: Vouching {
                certificates: vec![header(&first).claim().unwrap().signer.unwrap()],
                announced: vec![Inclusion::of(header(&first), &first.leaves, 1).unwrap().unwrap()],
            },
            record: Inclusion::of(signed.clone(), &second.leaves, 3).unwrap(),
            naming: None,
        };
        let holds = |proof: &Proof| {
            let text = format!("{}\n", serde_json::to_string(proof).unwrap());
            check(text.as_bytes(), &[]).unwrap().is_sound()
        };
        let proof = || Proof::of(&signers(), &parts()).unwrap();
        assert!(holds(&proof()));
        let edits: [(&str, Edit); 5] = [
            ("no certificate", |proof| proof.certificates.clear()),
            ("no announcement", |proof| proof.announced.clear()),
            ("no record", |proof| proof.records.clear()),
            ("what is announced is said to be another", |proof| {
                proof.announced[0].record.insert("epoch".into(), 3.into());
            }),
            ("a record that announces nothing", |proof| proof.announced.append(&mut proof.records)),
        ];
        for (what, edit) in edits {
            let mut damaged = proof();
            edit(&mut damaged);
            assert!(!holds(&damaged), "{what}");
        }
        let with = |announced| Parts { vouching: Vouching { announced, ..parts().vouching }, ..parts() };
        let without = with(Vec::new());
        assert!(matches!(Proof::of(&signers(), &without), Err(Refused::UnknownKey { .. })));
        let other = with(vec![Inclusion::of(header(&first), &first.leaves, 0).unwrap().unwrap()]);
        assert!(matches!(Proof::of(&signers(), &other), Err(Refused::Malformed(_))));
        let mut lineage = Lineage::default();
        lineage.note(&first).unwrap();
        lineage.note(&Segment { header: signed.to_bytes(), ..second.clone() }).unwrap();
        assert_eq!(lineage.of(signed.signed_by()), parts().vouching, "what leads to the key that signed");
        let certified = Vouching { announced: Vec::new(), ..parts().vouching };
        assert_eq!(lineage.of(header(&first).signed_by()), certified);
        assert_eq!(lineage.of([KeyId([9; 8])]), Vouching::default());
    }
}
