//! Fallback grants over their life: taken in, activated by an outage, reconciled after it, renewed long before they lapse;
//! and credentials that end: by time, or by an order to wipe them.
//!
//! Owns: which grant is activated, when a successor is asked for, what a lockdown leaves of the wallet.
//! Never: drops a working grant before its successor is durable; renews by a timer: what is due is judged anew on every
//! tick; wipes for any other reason than a signed order for this device, this grant or the whole fleet, or because somebody
//! says that it is later than it is.
//! Read next: `wallet.rs`, which holds them; `tasks.rs`, which narrows them.

use std::collections::BTreeSet;

use super::effects::{Effects, FileWrite, LogEvent, StateFile};
use super::ending::Ending;
use super::start::grant_of;
use super::sync::GrantsAsked;
use super::wallet::{Activation, Grant, StoredTask};
use super::{Agent, Now, Source};
use crate::ids::{GrantId, Hash};
use crate::mutant::{active, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::{Event, GrantStep, GrantUse, TrustChange};
use crate::wire::link::{grants_digest, Ask, Spent};
use crate::wire::revocation::Target;
use crate::wire::seal::SealingKey;
use crate::wire::Refused;

/// An answer about grants is waited for this long before it is asked for again; each further time twice as long.
const ANSWER_WAIT: Millis = Millis::from_secs(30);
/// At the most this often doubled: an hour, near enough.
const DOUBLINGS_MAX: u32 = 7;
/// A successor that was asked for and did not come is asked for again after an eighth of what is left, within these.
const RENEW_WAIT_MIN: Millis = Millis::from_secs(60);
const RENEW_WAIT_MAX: Millis = Millis::from_secs(3600);
/// The fleet dates grants back by less than this.
const SUCCESSOR_EARLIER: Millis = Millis::from_secs(10);

impl Agent {
    /// The digest over the grants in the wallet that have not ended, as `hello` names it.
    pub(super) fn grants_held(&self) -> Hash {
        if !self.wallet.grants().any(|(_, grant)| self.has_ended(grant)) {
            return self.wallet.grants_digest();
        }
        grants_digest(self.wallet.grants().filter(|(_, grant)| !self.has_ended(grant)).map(|(id, _)| *id))
    }

    /// Whether a grant has ended by now at the latest, or by the service's clock: if that is ahead, it may not have.
    fn has_ended(&self, grant: &Grant) -> bool {
        let service = self.named.grants.map_or(Timestamp(0), |(_, at)| at);
        grant.claims.expires <= service.max(self.clock.powered())
    }

    /// Asks for the grants that the device should hold where its own are others, and for successors of those that have
    /// lived or spent half. Judged by state on every tick: a clock that jumps past the time to renew skips nothing.
    pub(super) fn sync_grants(&mut self, now: Now, effects: &mut Effects) {
        let differ = self.named.grants.is_some_and(|(named, _)| named != self.grants_held());
        if !differ {
            self.grants_tries = 0;
            self.grants_asked_at = self.grants_asked_at.filter(|_| self.grants_asked.is_some());
        }
        let wait = ANSWER_WAIT.0 << self.grants_tries.saturating_sub(1).min(DOUBLINGS_MAX);
        let asked = self.grants_asked_at.is_some_and(|at| now.boottime.0 < at.0 + wait);
        if asked || !self.uplink.is_connected() {
            return;
        }
        let ask = if differ {
            self.grants_tries = self.grants_tries.saturating_add(1);
            Ask::Grants
        } else {
            let due = self.renewals_due(now);
            if due.is_empty() {
                return;
            }
            self.renew_again = Millis(now.boottime.0 + self.renew_wait().0);
            for old in due.iter().filter(|_| active(Mutant::RenewalDropsFirst)) {
                self.wallet.remove_grant(&old.grant);
                effects.batch.remove.push(StateFile::Grant(old.grant));
            }
            Ask::Renew(due)
        };
        let key = SealingKey::generate(&mut self.rng);
        let nonce = self.send_request(ask, &key, effects);
        self.grants_asked = Some(GrantsAsked { nonce, key });
        self.grants_asked_at = Some(now.boottime);
    }

    fn renew_wait(&self) -> Millis {
        let left = self.wallet.grants().map(|(_, grant)| grant.claims.expires.since(self.clock.powered())).min();
        left.map_or(RENEW_WAIT_MAX, |left| Millis(left.0 / 8).clamp(RENEW_WAIT_MIN, RENEW_WAIT_MAX))
    }

    fn renewals_due(&self, now: Now) -> Vec<Spent> {
        if !self.uplink.is_online() || now.boottime < self.renew_again {
            return Vec::new();
        }
        let powered = self.clock.powered();
        // A successor is dated back a little, and one that lies within the time of lost counters would be born spent.
        if self.clock.floor() <= self.wallet.lost_until() + SUCCESSOR_EARLIER {
            return Vec::new();
        }
        let spent = |grant: &Grant| self.wallet.spent(grant);
        let due = |grant: &Grant| {
            let claims = &grant.claims;
            let old = powered.since(claims.issued).0 >= claims.expires.since(claims.issued).0 / 2;
            let used = claims.uses.first().is_some_and(|(_, max)| spent(grant) >= max.div_ceil(2));
            old || used
        };
        let due = self.wallet.grants().filter(|(_, grant)| due(grant) && !self.has_ended(grant));
        due.map(|(id, grant)| Spent { grant: *id, used: spent(grant) }).collect()
    }

    /// New grants are durable before old ones go: both are in one batch, files are written before files are removed.
    pub(super) fn take_grants(
        &mut self,
        tokens: Vec<Vec<u8>>,
        payload: &[u8],
        now: Now,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        if tokens.len() > self.profile.wallet.grants_max {
            return Err(Refused::Malformed("more grants than the profile has room for"));
        }
        let mut kept: Vec<GrantId> = Vec::new();
        let mut whole = true;
        for token in tokens {
            let grant = match grant_of(token, self.device.as_str(), &self.profile.verify, &self.trust) {
                Ok(grant) => grant,
                Err(refused) => {
                    self.refuse(Source::Grant, "a grant in an answer", payload, &refused, now, effects);
                    whole = false;
                    continue;
                }
            };
            let (id, expires) = (grant.claims.grant, grant.claims.expires);
            kept.push(id);
            if self.wallet.grants().any(|(held, own)| *held == id && own.token == grant.token) {
                continue;
            }
            self.put_grant_file(&grant, effects);
            self.wallet.put_grant(id, grant);
            let change = TrustChange::Grant { grant: id, expires: Some(expires) };
            self.write(Event::Trust(change), Vec::new(), now, effects);
        }
        let left_out = self.wallet.grants().filter(|(id, _)| !kept.contains(id));
        let gone = left_out.filter(|(_, grant)| self.is_withdrawn(grant, &kept)).map(|(id, _)| *id);
        // An answer with a grant that cannot be used withdraws nothing: the old one may be all there is.
        let gone: Vec<GrantId> = gone.filter(|_| whole).collect();
        // Nothing can be made of what cannot be read, whenever it ends; with another one in hand it is not waited for any more.
        let in_its_place = whole && !kept.is_empty();
        let lost = if in_its_place { self.wallet.take_lost_grants(&kept) } else { BTreeSet::new() };
        for id in gone.into_iter().chain(lost) {
            self.wallet.remove_grant(&id);
            effects.batch.remove.push(StateFile::Grant(id));
            self.write(Event::Trust(TrustChange::Grant { grant: id, expires: None }), Vec::new(), now, effects);
        }
        let count = self.wallet.grants().count() as u64;
        effects.outgoing.logs.push(LogEvent::GrantsApplied { count });
        Ok(())
    }

    /// Whether a grant that an answer leaves out is to go. The service leaves out what has ended by its clock too, and that may
    /// be wrong and set right again: what may have ended goes with another one in hand, once that is proven or there is no room
    /// for both; and the last one goes only if the acknowledgement before said that there is none.
    fn is_withdrawn(&self, grant: &Grant, kept: &[GrantId]) -> bool {
        let others = !kept.is_empty();
        if crate::mutant::active(crate::mutant::Mutant::LeftOutIsGone) {
            return true;
        }
        if self.has_ended(grant) {
            let proven = grant.claims.expires <= self.clock.floor();
            return others && (proven || self.wallet.grants().count() > self.profile.wallet.grants_max);
        }
        others || self.named.grants.is_some_and(|(named, _)| named == grants_digest([]))
    }

    fn put_grant_file(&self, grant: &Grant, effects: &mut Effects) {
        let file = StateFile::Grant(grant.claims.grant);
        effects.batch.remove.retain(|removed| *removed != file);
        effects.batch.files.push(FileWrite { file, content: grant.stored() });
    }

    /// A grant is narrowed without the fleet: once per outage that is its activation, and a record of its own. The outage
    /// ends with an acknowledged round trip, whatever reboots lie between.
    pub(super) fn activate(&mut self, id: &GrantId, now: Now, effects: &mut Effects) {
        let Some(grant) = self.wallet.grant(id).filter(|grant| grant.activation.is_none()) else { return };
        let used = grant.chain.first().map_or(0, |block| self.wallet.used(block));
        let grant = Grant { activation: Some(Activation { used }), ..grant.clone() };
        self.put_grant_file(&grant, effects);
        self.wallet.put_grant(*id, grant);
        self.tell_use(*id, GrantStep::Activated, used, now, effects);
    }

    /// An acknowledged round trip ends the outage: what each activated grant spent in it is told.
    pub(super) fn reconcile(&mut self, now: Now, effects: &mut Effects) {
        let activated: Vec<Grant> =
            self.wallet.grants().map(|(_, grant)| grant).filter(|grant| grant.activation.is_some()).cloned().collect();
        for grant in activated {
            let before = grant.activation.map_or(0, |activation| activation.used);
            let used = grant.chain.first().map_or(0, |block| self.wallet.used(block)).saturating_sub(before);
            let grant = Grant { activation: None, ..grant };
            self.put_grant_file(&grant, effects);
            let id = grant.claims.grant;
            self.wallet.put_grant(id, grant);
            self.tell_use(id, GrantStep::Reconciled, used, now, effects);
        }
    }

    fn tell_use(&mut self, grant: GrantId, step: GrantStep, used: u64, now: Now, effects: &mut Effects) {
        let offline = self.clock.offline_for();
        self.write(Event::Grant(GrantUse { grant, step, used, offline }), Vec::new(), now, effects);
    }

    /// Looks again at every credential held: whatever the clock did, what has ended is ended now, told, and no longer in
    /// the wallet. What an issuer dated is judged by E: P may have been ahead.
    pub(super) fn end_what_has_ended(&mut self, now: Now, effects: &mut Effects) {
        for loss in self.wallet.take_told() {
            let file = StateFile::Task(loss.id.clone());
            if active(Mutant::LossForgotten) {
                effects.batch.take_away(file);
            } else {
                effects.batch.put(FileWrite { file, content: loss.to_file() });
            }
        }
        let (stand, shift) = (self.clock.stand(), self.wallet.shift());
        let over = |task: &&StoredTask| task.end(&stand, shift) < stand.powered;
        if self.wallet.may_have_ended(&stand) {
            let held = |task: &&StoredTask| task.holds_credential();
            let ended: Vec<StoredTask> = self.wallet.tasks().filter(held).filter(over).cloned().collect();
            for task in ended {
                self.end_task(task, Ending::Expired, now, effects);
            }
        }
        let gone = self.wallet.forget(&stand);
        for task in gone {
            // A power cut must not take E back below what was forgotten under it.
            self.anchor_due = true;
            effects.batch.remove.push(StateFile::Task(task));
        }
    }

    /// Every task ends: what is known of them is not enough to go on with.
    pub(super) fn end_all_tasks(&mut self, reason: &'static str, now: Now, effects: &mut Effects) {
        let live: Vec<StoredTask> = self.wallet.tasks().filter(|task| !task.finished).cloned().collect();
        for task in live {
            self.end_task(task, Ending::Lost(reason), now, effects);
        }
    }

    /// A signed order for the fleet, this device or a grant: its tasks end, and what would let somebody narrow it again is
    /// wiped, from memory and disk. The identity stays: it must still hand over the audit.
    pub(super) fn obey_lockdown(&mut self, now: Now, effects: &mut Effects) {
        let floor = self.clock.over();
        let everything = self.revocations.device_revoked(&self.device, floor) || self.fleet_revoked();
        let doomed = |id: &GrantId| everything || self.revocations.is_ordered(&Target::Grant(*id), floor);
        let grants: Vec<GrantId> = self.wallet.grants().map(|(id, _)| *id).filter(|id| doomed(id)).collect();
        let tasks: Vec<StoredTask> =
            self.wallet.tasks().filter(|task| !task.finished && doomed(&task.grant)).cloned().collect();
        for task in tasks {
            self.end_task(task, Ending::Revoked, now, effects);
        }
        for id in grants {
            let used =
                self.wallet.grant(&id).and_then(|grant| grant.chain.first()).map(|block| self.wallet.used(block));
            self.wallet.remove_grant(&id);
            effects.batch.files.retain(|write| write.file != StateFile::Grant(id));
            effects.batch.remove.push(StateFile::Grant(id));
            self.tell_use(id, GrantStep::Wiped, used.unwrap_or(0), now, effects);
        }
    }

    /// Whether a rule of a feed locks down the whole fleet.
    pub(super) fn fleet_revoked(&self) -> bool {
        self.revocations.is_ordered(&Target::All, self.clock.over())
    }
}
