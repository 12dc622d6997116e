//! The file that proves that somebody signed two trails with one device's keys: what `hardtack fleet audit gaps --proof` writes.
//!
//! Owns: its form, and its check against nothing but public keys.
//! Never: believes what the file says of the two: that follows from what was signed.
//! Read next: `../../wire/audit/fork.rs`, which says what contradicts what.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{json, Value};

use super::file::{counted, decoded, words, Evidence, NoEvidence, TrustedKey, Verdict};
use super::line::salt_text;
use super::proof::{take, told, Proved, Ring};
use crate::fleet::report::lineage::Vouching;
use crate::fleet::report::problems::Problems;
use crate::fleet::report::Signers;
use crate::ids::{hex, DeviceId, FleetId};
use crate::wire::audit::fork::{contradiction, Branch, Contradiction};
use crate::wire::audit::segment::SegmentHeader;
use crate::wire::envelope::Signed;
use crate::wire::Refused;

/// The form of the file.
pub(in crate::cli) const FORK: &str = "hardtack/audit-fork/v1";

/// Two signed headers that contradict each other.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForkProof {
    kind: String,
    format: String,
    fleet: FleetId,
    device: DeviceId,
    keys: Vec<String>,
    /// How they contradict each other.
    contradiction: String,
    /// In which an identity key vouches for an audit key.
    certificates: Vec<String>,
    /// Records that announce further audit keys, each signed with one that is known by then.
    announced: Vec<Proved>,
    /// The two.
    headers: [String; 2],
}

/// What a file proved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proven {
    /// How the two contradict each other.
    pub contradiction: Contradiction,
    /// The two.
    pub branches: [Branch; 2],
}

impl Proven {
    /// What the two say, for scripts.
    pub fn branches(&self) -> Vec<Value> {
        let value = |Branch { header, digest, signer }: &Branch| {
            json!({
                "device": header.device,
                "era": header.era.number,
                "salt": salt_text(header.era),
                "segment": header.segment,
                "first": header.first_index,
                "count": header.count,
                "previous": header.previous,
                "root": header.root,
                "digest": digest,
                "closed_at": header.closed_at.to_string(),
                "signer": {
                    "identity": hex(signer.identity.as_bytes()),
                    "epoch": signer.epoch,
                    "key": hex(signer.key.as_bytes()),
                },
            })
        };
        self.branches.iter().map(value).collect()
    }
}

impl ForkProof {
    /// The proof that two headers contradict each other; none if they do not.
    ///
    /// # Errors
    /// When a header is not signed with a key that is vouched for: what does not check out is no proof.
    pub fn of(
        signers: &Signers,
        vouching: &Vouching,
        headers: [&Signed<SegmentHeader>; 2],
    ) -> Result<Option<(Self, Proven)>, Refused> {
        let device = headers[0].claim()?.device;
        let identities = signers.keys.get(&device).map_or(&[][..], Vec::as_slice);
        let mut ring = Ring::of(&signers.fleet, &device, identities);
        let (certificates, announced) = told(&mut ring, vouching)?;
        let Some(proven) = proven(&ring, headers)? else { return Ok(None) };
        let proof = Self {
            kind: "fork".into(),
            format: FORK.into(),
            fleet: signers.fleet.clone(),
            keys: identities.iter().map(|key| hex(key.as_bytes())).collect(),
            contradiction: proven.contradiction.name().into(),
            certificates,
            announced,
            headers: headers.map(|header| BASE64.encode(&header.to_bytes())),
            device,
        };
        Ok(Some((proof, proven)))
    }

    /// Checks it. With `trusted` keys only those count, without any its own.
    ///
    /// # Errors
    /// [`NoEvidence`] for another form. What is wrong in it stands in the verdict.
    pub(super) fn check(&self, trusted: &[TrustedKey]) -> Result<Verdict, NoEvidence> {
        if self.format != FORK {
            return Err(NoEvidence::Other(format!("a proof of a fork of the form {:?}", self.format)));
        }
        let identities = counted(&self.device, &self.keys, trusted)?;
        let mut ring = Ring::of(&self.fleet, &self.device, &identities);
        let proven = take(&mut ring, &self.certificates, &self.announced).and_then(|()| self.holds(&ring));
        let mut verdict = Verdict {
            fleet: self.fleet.clone(),
            evidence: Evidence::Fork(None),
            from: None,
            problems: Problems::default(),
        };
        match proven {
            Ok(proven) => verdict.evidence = Evidence::Fork(Some(Box::new(proven))),
            Err(problem) => verdict.problem(problem),
        }
        Ok(verdict)
    }

    fn holds(&self, ring: &Ring<'_>) -> Result<Proven, String> {
        let [first, second] = &self.headers;
        let signed = |text| Signed::<SegmentHeader>::from_bytes(&decoded(text)?).map_err(words);
        let (first, second) = (signed(first)?, signed(second)?);
        let proven =
            proven(ring, [&first, &second]).map_err(|refused| format!("a header does not check out: {refused}"))?;
        let proven = proven.ok_or("its two headers can both stand in one trail")?;
        if proven.branches.iter().any(|branch| branch.header.device != self.device) {
            return Err(format!("signed by another device than {}", self.device));
        }
        if proven.contradiction.name() != self.contradiction {
            return Err(format!(
                "it is said to prove {:?} and proves {:?}",
                self.contradiction,
                proven.contradiction.name()
            ));
        }
        Ok(proven)
    }
}

fn proven(ring: &Ring<'_>, headers: [&Signed<SegmentHeader>; 2]) -> Result<Option<Proven>, Refused> {
    let branch = |signed: &Signed<SegmentHeader>| {
        let (header, signer) = ring.header(signed)?;
        Ok::<_, Refused>(Branch { header, digest: signed.digest(), signer })
    };
    let branches = [branch(headers[0])?, branch(headers[1])?];
    let how = contradiction(&branches[0], &branches[1]);
    Ok(how.map(|contradiction| Proven { contradiction, branches }))
}
