//! Runs of Datalog that allowed, so that the same one is not run twice.
//!
//! Owns: [`Outcomes`]; what makes two runs the same.
//! Never: remembers a denial; stands for anything but the run itself: time, counters, revocations, room and mode are looked
//! at each time.
//! Read next: `evaluate.rs`, which asks; `when.rs` for why one instant stands for others.
//!
//! A run is a function of the token, the policy, the facts that the agent adds, and the time. Neither a token nor a policy is
//! admitted that uses the time for anything but comparisons with its own dates, so of the time only its place among these
//! counts. All of it is in the SHA-256 under which the outcome is kept: what differs in any of it is another run.

use std::hash::{Hash as _, Hasher};

use biscuit_auth::builder::Fact;
use sha2::{Digest, Sha256};

use super::policy::Policy;
use super::recent::Recent;
use super::token::Verified;
use crate::mutant::{self, Mutant};

/// Which policy allowed, of runs that did.
#[derive(Debug, Default)]
pub struct Outcomes(Recent<usize>);

/// All that a run's outcome hangs on, but for the time.
pub(super) struct Run<'a> {
    token: &'a [u64],
    policy: &'a [u64],
    so_far: Sha256,
}

/// What `std` says of a value, in its bytes.
struct Bytes<'a>(&'a mut Sha256);

impl Hasher for Bytes<'_> {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        unreachable!("nobody asks for 64 bits of it")
    }
}

impl<'a> Run<'a> {
    /// The run of a policy over a token with these facts.
    pub(super) fn of(verified: &'a Verified, policy: &'a Policy, facts: &[Fact]) -> Self {
        let mut so_far = Sha256::new();
        so_far.update(verified.digest);
        so_far.update(policy.digest.0);
        let facts = if mutant::active(Mutant::OutcomeForAnything) { &[] } else { facts };
        for fact in facts {
            fact.predicate.hash(&mut Bytes(&mut so_far));
        }
        Self { token: &verified.token.dates, policy: &policy.dates, so_far }
    }

    /// What it is at an instant, in seconds.
    fn at(&self, point: u64) -> [u8; 32] {
        let mut whole = self.so_far.clone();
        for dates in [self.token, self.policy] {
            let (before, up_to) =
                (dates.partition_point(|date| *date < point), dates.partition_point(|date| *date <= point));
            whole.update(before.to_le_bytes());
            whole.update(up_to.to_le_bytes());
        }
        whole.finalize().into()
    }
}

impl Outcomes {
    /// Of so many runs.
    pub fn new(entries: usize) -> Self {
        Self(Recent::new(entries))
    }

    /// Which policy allows at an instant, by a run now or before.
    ///
    /// # Errors
    /// Those of the run.
    pub(super) fn get<E>(
        &mut self,
        run: &Run<'_>,
        point: u64,
        do_run: impl FnOnce() -> Result<usize, E>,
    ) -> Result<usize, E> {
        self.0.get(run.at(point), do_run)
    }

    /// Forgets them all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::Reason;
    use super::super::rig::{right, Rig};
    use crate::time::Millis;
    use crate::wire::policy::BUILT_IN;

    /// Each is asked twice: what was remembered, or found now, is the same.
    fn twice(rig: &mut Rig, uid: u32, token: &str, (operation, resource, risk): (&str, &str, &str)) -> Reason {
        let [first, second] = [(); 2].map(|()| rig.authorize_at(uid, token, (operation, resource), risk).reason);
        assert_eq!(first, second, "{operation} {resource}");
        first
    }

    #[test]
    fn what_was_allowed_is_decided_anew_where_anything_differs() {
        let mut rig = Rig::new();
        let night = rig.agent.clock.powered() + Millis::from_secs(120);
        let nights = format!("deny if operation(\"read\"), time($now), $now >= {night};");
        rig.policy(|policy| {
            policy.datalog = format!("{nights} deny if risk(\"high\"), resource(\"modbus/a\");\n{BUILT_IN}");
        });
        let task = rig.begin(vec![right("modbus/*", "read"), right("modbus/pump1/speed", "write")], None).token;
        let read = ("read", "modbus/a", "low");
        assert_eq!(twice(&mut rig, 1001, &task, read), Reason::Allowed);
        for (uid, question, expected) in [
            (1001, ("write", "modbus/a", "low"), Reason::NoRight),
            (1001, ("read", "modbux/a", "low"), Reason::NoRight),
            (1001, ("read", "modbus/a", "high"), Reason::DeniedByPolicy),
            (1002, read, Reason::WrongWorkload),
            (1001, ("write", "modbus/pump1/speed", "low"), Reason::Allowed),
            (1001, read, Reason::Allowed),
        ] {
            assert_eq!(twice(&mut rig, uid, &task, question), expected, "{uid} {question:?}");
        }
        // At each instant before the date it is one run, and after it another.
        rig.pass(60);
        assert_eq!(twice(&mut rig, 1001, &task, read), Reason::Allowed);
        rig.pass(90);
        assert_eq!(twice(&mut rig, 1001, &task, read), Reason::DeniedByPolicy);
        assert_eq!(twice(&mut rig, 1001, &task, ("write", "modbus/pump1/speed", "low")), Reason::Allowed);
        // Another token with the same rights is another token.
        let other = rig.begin(vec![right("modbus/pump1/speed", "write")], Some(2)).token;
        assert_eq!(twice(&mut rig, 1001, &other, ("write", "modbus/pump1/speed", "low")), Reason::Allowed);
        let third = rig.authorize_at(1001, &other, ("write", "modbus/pump1/speed"), "low").reason;
        assert_eq!(third, Reason::UsesSpent, "what is remembered is no use");
    }
}
