//! What one uid may ask of the API at once and per second.
//!
//! Owns: [`Gate`]: a token bucket, a count of running requests and a count of connections per uid, all bounded.
//! Never: reads a clock; looks at what is asked.
//! Read next: `http.rs`, which asks before it listens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::profile::ApiLimits;
use crate::time::Millis;

/// The most uids with an account. One more is refused until another has been quiet for a while.
const ACCOUNTS_MAX: usize = 1024;

/// A request's cost in the bucket's unit, so that a rate below one per millisecond loses nothing to rounding.
const REQUEST_COST: u64 = 1000;

/// Why somebody has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// More requests at once than one uid may have.
    #[error("this uid has too many requests or connections open: wait for an answer before you ask again")]
    Concurrency,
    /// More requests per second than one uid may make.
    #[error("this uid asks too often: wait for the time that Retry-After names")]
    Rate,
    /// More uids than the agent keeps accounts for.
    #[error("too many different users ask at once: try again")]
    Users,
}

/// The accounts of all uids.
#[derive(Debug)]
pub struct Gate {
    limits: ApiLimits,
    accounts: Mutex<BTreeMap<u32, Account>>,
}

#[derive(Debug)]
struct Account {
    /// What is left in the bucket, in thousandths of a request.
    credit: u64,
    filled_at: Millis,
    running: usize,
    connections: usize,
}

impl Gate {
    /// A gate with these limits and no accounts.
    pub fn new(limits: ApiLimits) -> Self {
        Self { limits, accounts: Mutex::default() }
    }

    /// Lets one request in until the permit is dropped.
    ///
    /// # Errors
    /// Why not.
    pub fn request(self: &Arc<Self>, uid: u32, now: Millis) -> Result<Permit, Refusal> {
        let mut accounts = self.lock();
        let account = self.account(&mut accounts, uid, now)?;
        if account.running >= self.limits.concurrent_per_uid {
            return Err(Refusal::Concurrency);
        }
        account.credit = account.credit.checked_sub(REQUEST_COST).ok_or(Refusal::Rate)?;
        account.running += 1;
        Ok(Permit { gate: self.clone(), uid, kind: Kind::Request })
    }

    /// Lets one connection in until the permit is dropped. One uid has at most half of all, so that it cannot lock the
    /// others out, and always as many as it may have requests.
    ///
    /// # Errors
    /// Why not.
    pub fn connection(self: &Arc<Self>, uid: u32, now: Millis) -> Result<Permit, Refusal> {
        let mut accounts = self.lock();
        let account = self.account(&mut accounts, uid, now)?;
        if account.connections >= (self.limits.connections_max / 2).max(self.limits.concurrent_per_uid) {
            return Err(Refusal::Concurrency);
        }
        account.connections += 1;
        Ok(Permit { gate: self.clone(), uid, kind: Kind::Connection })
    }

    fn account<'a>(
        &self,
        accounts: &'a mut BTreeMap<u32, Account>,
        uid: u32,
        now: Millis,
    ) -> Result<&'a mut Account, Refusal> {
        let full = REQUEST_COST * u64::from(self.limits.burst);
        let refilled = |account: &Account| {
            let since = now.0.saturating_sub(account.filled_at.0);
            // A request costs 1000 and a second has 1000 milliseconds: the rate per second is the credit per millisecond.
            full.min(account.credit.saturating_add(since.saturating_mul(u64::from(self.limits.per_second))))
        };
        if !accounts.contains_key(&uid) && accounts.len() >= ACCOUNTS_MAX {
            // An account at rest is the same as none.
            accounts.retain(|_, account| account.running + account.connections > 0 || refilled(account) < full);
            if accounts.len() >= ACCOUNTS_MAX {
                return Err(Refusal::Users);
            }
        }
        let fresh = Account { credit: full, filled_at: now, running: 0, connections: 0 };
        let account = accounts.entry(uid).or_insert(fresh);
        account.credit = refilled(account);
        account.filled_at = now;
        Ok(account)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Account>> {
        // No code of ours panics while it holds the lock.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Connection,
    Request,
}

/// One request or connection that was let in.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    uid: u32,
    kind: Kind,
}

impl Drop for Permit {
    fn drop(&mut self) {
        // An account with a permit out is never removed.
        if let Some(account) = self.gate.lock().get_mut(&self.uid) {
            match self.kind {
                Kind::Connection => account.connections = account.connections.saturating_sub(1),
                Kind::Request => account.running = account.running.saturating_sub(1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    fn gate(edit: impl FnOnce(&mut ApiLimits)) -> Arc<Gate> {
        let mut limits = Profile::default().api;
        edit(&mut limits);
        Arc::new(Gate::new(limits))
    }

    #[test]
    fn requests_at_once_are_counted_per_uid_and_given_back() {
        let gate = gate(|limits| limits.concurrent_per_uid = 2);
        let (one, _two) = (gate.request(7, Millis(0)).unwrap(), gate.request(7, Millis(0)).unwrap());
        assert_eq!(gate.request(7, Millis(0)).unwrap_err(), Refusal::Concurrency);
        gate.request(8, Millis(0)).unwrap();
        drop(one);
        gate.request(7, Millis(0)).unwrap();
    }

    #[test]
    fn the_bucket_gives_its_burst_then_its_rate() {
        let gate = gate(|limits| (limits.per_second, limits.burst) = (2, 3));
        let count = |at| (0..10).filter(|_| gate.request(7, Millis(at)).is_ok()).count();
        assert_eq!(count(0), 3);
        assert_eq!(count(499), 0);
        assert_eq!(count(500), 1);
        assert_eq!(count(2000), 3);
        assert_eq!(count(1_000_000), 3);
        // A clock that goes back gives nothing.
        assert_eq!(count(0), 0);
    }

    #[test]
    fn one_uid_cannot_take_all_connections() {
        let gate = gate(|limits| (limits.connections_max, limits.concurrent_per_uid) = (8, 2));
        let held: Vec<_> = (0..8).map_while(|_| gate.connection(7, Millis(0)).ok()).collect();
        assert_eq!(held.len(), 4);
        assert!(gate.connection(8, Millis(0)).is_ok());
    }

    #[test]
    fn accounts_are_bounded_and_those_at_rest_make_room() {
        let gate = gate(|limits| (limits.per_second, limits.burst) = (1, 1));
        for uid in 0..ACCOUNTS_MAX as u32 {
            gate.request(uid, Millis(0)).unwrap();
        }
        assert_eq!(gate.request(1_000_000, Millis(10)).unwrap_err(), Refusal::Users);
        gate.request(1_000_000, Millis(2000)).unwrap();
        assert_eq!(gate.lock().len(), 1);
    }
}
