//! Who initiated a task: the identity document that its workload brings.
//!
//! Owns: whether a document counts now, by the trusted clock; the selectors that it proves for one begin; how long what was
//! begun with it may live.
//! Never: takes a document for an attestation: whoever has one can bring it. Lets a credential outlive it.
//! Read next: `wire/identity.rs`, which checks all but the time; `tasks.rs`.

use serde::{Deserialize, Serialize};

use super::request::{BeginTask, IdentityDocument, TimeClass};
use super::wallet::StoredTask;
use super::when::ISSUED_SLACK;
use super::Agent;
use crate::ids::Hash;
use crate::mutant::{active, Mutant};
use crate::time::Timestamp;
use crate::wire::audit::Initiator;
use crate::wire::identity::{verify, DocumentType, Fault, FaultKind};
use crate::wire::token::NAME_BYTES_MAX;

/// What a document proved when a task began.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Proved {
    /// Who.
    pub initiator: Initiator,
    /// In which form.
    pub form: DocumentType,
    /// The key that signed it.
    pub key: Hash,
    /// The last second in which it counts, and every credential of the task.
    pub ends: Timestamp,
}

impl Proved {
    /// The selectors by which a grant lets such a one begin. A subject is one only together with its issuer: what one issuer
    /// calls somebody, another may call somebody else.
    pub fn selectors(&self) -> Vec<String> {
        let Initiator { issuer, subject } = &self.initiator;
        let mut selectors = match self.form {
            DocumentType::Oidc => vec![format!("oidc:iss:{issuer}"), format!("oidc:sub:{issuer}#{subject}")],
            DocumentType::JwtSvid => vec![format!("spiffe:id:{subject}")],
        };
        // What no grant could name.
        selectors.retain(|selector| selector.len() <= NAME_BYTES_MAX);
        selectors
    }
}

impl Agent {
    /// Who initiates a task that is begun, or renewed, if it is said.
    ///
    /// # Errors
    /// Why the document does not count.
    pub(super) fn initiator_of(&self, begin: &BeginTask, renews: Option<&StoredTask>) -> Result<Option<Proved>, Fault> {
        match (&begin.identity, renews.and_then(|task| task.proved.as_ref())) {
            (Some(document), _) => self.prove(document).map(Some),
            (None, Some(before)) => self.prove_again(before).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn prove(&self, document: &IdentityDocument) -> Result<Proved, Fault> {
        let claimed = verify(document.form, &document.token, &self.trust.identities)?;
        let powered = self.clock.powered();
        // As with a token's `issued`: what lies past P by more than clocks differ is told to wait for signed time.
        let not_before = Timestamp::from_secs(claimed.not_before_s);
        if not_before > powered + ISSUED_SLACK {
            let detail = format!(
                "the identity document counts from {not_before} on, and this device cannot tell that it is later than \
                 {powered}; it needs signed time"
            );
            return Err(Fault::new(FaultKind::NotYetValid, detail));
        }
        let proved = Proved {
            initiator: Initiator { issuer: claimed.issuer, subject: claimed.subject },
            form: document.form,
            key: claimed.key,
            // It does not count at `exp`, a credential still does at its end.
            ends: Timestamp::from_secs(claimed.expires_s.saturating_sub(1)),
        };
        self.check_end(&proved)?;
        Ok(proved)
    }

    /// A task that is renewed rests on what it was begun with, as long as the issuer's key does.
    pub(super) fn prove_again(&self, before: &Proved) -> Result<Proved, Fault> {
        let Initiator { issuer, .. } = &before.initiator;
        let known = self.trust.identities.iter().find(|known| known.name == *issuer);
        let known = known.ok_or_else(|| {
            let detail = format!("the trust bundle names {issuer} no more, who said who initiated this task");
            Fault::new(FaultKind::UnknownIssuer, detail)
        })?;
        if !known.keys.iter().any(|key| key.digest() == before.key) {
            let detail = format!(
                "the key of {issuer} is believed no more that signed who initiated this task; begin another with a new \
                 identity document"
            );
            return Err(Fault::new(FaultKind::UnknownKey, detail));
        }
        self.check_end(before)?;
        Ok(before.clone())
    }

    /// Expired if it may have: as a token of class bounded.
    fn check_end(&self, proved: &Proved) -> Result<(), Fault> {
        match self.clock.upper(TimeClass::Bounded) {
            Some(upper) if proved.ends >= upper || active(Mutant::IdentityEndUnchecked) => Ok(()),
            upper => {
                let upper = upper.unwrap_or(Timestamp::MAX);
                let detail = format!(
                    "the identity document counts up to {}, and it can be {upper} by now; bring a new one",
                    proved.ends
                );
                Err(Fault::new(FaultKind::Expired, detail))
            }
        }
    }
}

#[cfg(test)]
mod tests;
