//! What ought to be: the plain account that the simulator keeps beside the agents.
//!
//! Owns: every credential that was handed out, with who holds it, since when, in true and in powered-on time, and what
//! became of it; what the operator revoked.
//! Never: asks an agent what it believes. Where this and an agent differ, one of the two is wrong.
//! Read next: `check/authority.rs`, which compares.

use hardtack::agent::request::Origin;
use hardtack::ids::{BlockId, DeviceId, GrantId, TaskId};
use hardtack::wire::revocation::Target;

use crate::plan::TokenChoice;

/// Slack for whole seconds in tokens and the error of an issuer's clock, in milliseconds.
pub(crate) const SLACK: u64 = 4000;

/// A credential in a program's hands.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    /// The gateway whose agent handed it out.
    pub(crate) device: u32,
    pub(crate) uid: u32,
    pub(crate) text: String,
    pub(crate) task: TaskId,
    pub(crate) grant: GrantId,
    pub(crate) chain: Vec<BlockId>,
    pub(crate) origin: Origin,
    /// When the request for it was made, in true time.
    pub(crate) asked: u64,
    /// Powered-on time of the gateway when it was handed out.
    pub(crate) begun_powered: u64,
    /// How long it may live.
    pub(crate) life: u64,
    /// How often it may be used.
    pub(crate) uses: u64,
    /// How often it was allowed.
    pub(crate) allows: u64,
    /// When its program asked to finish its task.
    pub(crate) finish_asked: Option<u64>,
    /// When its program heard that it is finished.
    pub(crate) finished: Option<u64>,
    /// When the operator revoked it.
    pub(crate) revoked: Option<u64>,
}

/// The account.
#[derive(Debug, Default)]
pub(crate) struct Model {
    credentials: Vec<Credential>,
}

/// What the account says about using a credential on its own gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing speaks against it, with a margin.
    Good,
    /// Near one of its ends, or something is on its way.
    Unclear,
    /// Past its life by every account.
    Expired,
    /// Its task has ended.
    Finished,
    /// Used up.
    Spent,
}

impl Credential {
    /// How it stands at `at`, when its gateway has been powered for `powered`.
    pub(crate) fn standing(&self, at: u64, powered: u64) -> Standing {
        let honoured = powered - self.begun_powered;
        // In true time too: signed time moves the gateway's clock on after a while without power.
        let elapsed = at.saturating_sub(self.asked);
        if honoured > self.limit() {
            return Standing::Expired;
        }
        if self.finished.is_some() {
            return Standing::Finished;
        }
        if self.allows >= self.uses {
            return Standing::Spent;
        }
        // A quarter of its life is kept as a margin: boots and commits cost the holder.
        let near_end = elapsed.max(honoured) > self.life - self.life / 4;
        if near_end || self.finish_asked.is_some() || self.revoked.is_some() {
            return Standing::Unclear;
        }
        Standing::Good
    }

    /// The most powered-on time in which it may be honoured: its life, the oscillator's bound being on the strict side.
    pub(crate) fn limit(&self) -> u64 {
        self.life + SLACK + self.life / 1000
    }

    /// What a rule must name to cover it.
    pub(crate) fn targets(&self, device: &DeviceId) -> Vec<Target> {
        let mut targets = vec![
            Target::Task(self.task.clone()),
            Target::Grant(self.grant),
            Target::Device(device.clone()),
            Target::All,
        ];
        targets.extend(self.chain.iter().map(|block| Target::Block(*block)));
        targets
    }
}

impl Model {
    /// A credential was handed out.
    pub(crate) fn hand_out(&mut self, credential: Credential) {
        self.credentials.push(credential);
    }

    pub(crate) fn get(&self, number: usize) -> &Credential {
        &self.credentials[number]
    }

    pub(crate) fn get_mut(&mut self, number: usize) -> &mut Credential {
        &mut self.credentials[number]
    }

    /// All credentials with their numbers.
    pub(crate) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Credential> {
        self.credentials.iter_mut()
    }

    /// One of the credentials that are what `choice` wants on a gateway, newest first within the last few, picked by
    /// chance.
    pub(crate) fn pick(&self, choice: TokenChoice, device: u32, at: u64, powered: u64, pick: u64) -> Option<usize> {
        /// Looking further back finds only what is long forgotten.
        const RECENT: usize = 8;
        let fits = |credential: &Credential| {
            let own = credential.device == device;
            match choice {
                TokenChoice::Valid => own && credential.standing(at, powered) == Standing::Good,
                TokenChoice::Spend => own && credential.revoked.is_none() && credential.finish_asked.is_none(),
                TokenChoice::Expired => own && credential.standing(at, powered) == Standing::Expired,
                TokenChoice::Revoked => own && credential.revoked.is_some(),
                TokenChoice::Stolen => !own && credential.finish_asked.is_none(),
                TokenChoice::Forged | TokenChoice::Widened => false,
            }
        };
        let numbered = self.credentials.iter().enumerate().rev().filter(|(_, credential)| fits(credential));
        let found: Vec<usize> = match choice {
            // The same one over and over, until it is used up.
            TokenChoice::Spend => numbered.take(1).map(|(number, _)| number).collect(),
            TokenChoice::Valid
            | TokenChoice::Expired
            | TokenChoice::Revoked
            | TokenChoice::Stolen
            | TokenChoice::Forged
            | TokenChoice::Widened => numbered.take(RECENT).map(|(number, _)| number).collect(),
        };
        let index = pick.checked_rem(found.len() as u64)? as usize;
        found.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(life: u64, uses: u64) -> Credential {
        Credential {
            device: 0,
            uid: 1001,
            text: String::new(),
            task: "t-1".parse().unwrap(),
            grant: GrantId([0; 16]),
            chain: Vec::new(),
            origin: Origin::Fallback,
            asked: 1000,
            begun_powered: 500,
            life,
            uses,
            allows: 0,
            finish_asked: None,
            finished: None,
            revoked: None,
        }
    }

    #[test]
    fn standing_follows_powered_on_time_and_doubts_are_not_held_against_an_agent() {
        let minute = 60_000;
        let fresh = credential(10 * minute, 2);
        assert_eq!(fresh.standing(2000, 1500), Standing::Good);
        assert_eq!(fresh.standing(2000 + 8 * minute, 1500), Standing::Unclear, "off for a while: nobody can say");
        assert_eq!(fresh.standing(11 * minute, 500 + 11 * minute), Standing::Expired);
        assert_eq!(Credential { allows: 2, ..fresh.clone() }.standing(2000, 1500), Standing::Spent);
        assert_eq!(Credential { finish_asked: Some(1), ..fresh.clone() }.standing(2000, 1500), Standing::Unclear);
        assert_eq!(Credential { finished: Some(1), ..fresh }.standing(2000, 1500), Standing::Finished);
    }
}
