//! What the agent says about itself.
//!
//! Owns: status, readiness, autonomy, who a caller is.
//! Never: changes anything.
//! Read next: `request.rs` for the fields.

use super::attest::selectors;
use super::decide::Room;
use super::request::{
    Autonomy, Evidence, GrantStatus, Mode, ReadyCheck, ReadyReply, Socket, StatusReply, TaskSummary, WhoamiReply,
};
use super::wallet::Grant;
use super::Agent;
use crate::ids::TaskClass;
use crate::time::Millis;

impl Agent {
    pub(super) fn whoami(&self, evidence: &Evidence) -> WhoamiReply {
        let selectors = selectors(evidence);
        let grants = self.wallet.grants().map(|(_, grant)| grant);
        let mut may_begin: Vec<TaskClass> = grants
            .flat_map(|grant| &grant.claims.may_begin)
            .filter(|(selector, _)| selectors.contains(selector))
            .filter_map(|(_, class)| class.parse().ok())
            .collect();
        may_begin.sort();
        may_begin.dedup();
        WhoamiReply { device: self.device.to_string(), fleet: self.fleet.to_string(), selectors, may_begin }
    }

    pub(super) fn list_tasks(&self, evidence: &Evidence) -> Vec<TaskSummary> {
        let powered = self.clock.powered();
        let mine = |uid: u32| evidence.socket == Socket::Admin || uid == evidence.uid;
        let live = self.wallet.live(powered).filter(|task| mine(task.uid));
        live.map(|task| TaskSummary {
            task_id: task.id.clone(),
            task: task.class.clone(),
            origin: task.origin,
            grant_id: task.grant,
            selectors: task.selectors.clone(),
            expires_in_s: task.end(self.wallet.shift()).since(powered).secs(),
            uses_left: self.wallet.uses_left(task),
        })
        .collect()
    }

    /// Offline is not unhealthy: ready means that decisions can be made and recorded.
    pub(super) fn ready(&self) -> ReadyReply {
        let check = |name: &str, ok: bool, detail: String| ReadyCheck { name: name.into(), ok, detail };
        let room = match self.room() {
            Room::Allows => "room for every record",
            Room::Denials => "room for denials only",
            Room::None => "no room",
        };
        let checks = vec![
            check("enrolled", true, format!("{} in fleet {}", self.device, self.fleet)),
            check("audit", self.room() == Room::Allows, room.into()),
            check("unlocked", self.mode != Mode::Locked, self.mode_reasons.join("; ")),
            check(
                "revocations",
                !self.revocations.positions().is_empty(),
                format!("{} complete lists held", self.revocations.positions().len()),
            ),
        ];
        ReadyReply { ready: checks.iter().all(|check| check.ok), checks }
    }

    pub(super) fn status(&self) -> StatusReply {
        let (freshness, staleness) = self.judge().freshness(None);
        let mut counters = self.counters.clone();
        counters.cache_hits = self.cache.hits;
        counters.cache_misses = self.cache.misses;
        StatusReply {
            device: self.device.to_string(),
            fleet: self.fleet.to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            profile: self.profile.name.clone(),
            mode: self.mode,
            reasons: self.mode_reasons.clone(),
            feed_seq: self.revocations.seq(None).unwrap_or(0),
            bundle_version: self.trust.version,
            policy_version: self.policy.document.version,
            floor: self.clock.floor().to_string(),
            powered: self.clock.powered().to_string(),
            ceiling: self.clock.ceiling().map(|ceiling| ceiling.to_string()),
            freshness,
            staleness_s: staleness.secs(),
            offline_for_s: self.clock.offline_for().secs(),
            boots: self.clock.boots(),
            pending: self.trail.pending(),
            era: self.trail.era().number,
            link: self.uplink.describe(),
            grants: self.wallet.grants().map(|(_, grant)| self.grant_status(grant)).collect(),
            tasks: self.wallet.live(self.clock.powered()).count() as u64,
            autonomy: self.autonomy(staleness),
            counters,
        }
    }

    fn grant_status(&self, grant: &Grant) -> GrantStatus {
        let claims = &grant.claims;
        let budget = claims.uses.first().zip(grant.chain.first());
        GrantStatus {
            id: claims.grant,
            owner: claims.owner.clone(),
            expires: claims.expires.to_string(),
            uses_left: budget.map(|((_, max), block)| max.saturating_sub(self.wallet.used(block))),
            offline_left_s: claims.offline_max.map(|max| max.0.saturating_sub(self.clock.offline_for().0) / 1000),
            boots_left: claims.boots_max.map(|max| max.saturating_sub(self.clock.boots())),
        }
    }

    /// Per class of risk the first of: the list too old, the last grant's time offline spent, the last grant expired.
    fn autonomy(&self, staleness: Millis) -> Vec<Autonomy> {
        let powered = self.clock.powered();
        let grants = || self.wallet.grants().map(|(_, grant)| &grant.claims);
        let expiry = grants().map(|claims| claims.expires.since(powered).0).max();
        let offline = grants()
            .filter_map(|claims| claims.offline_max)
            .map(|max| max.0.saturating_sub(self.clock.offline_for().0));
        let offline = offline.max();
        let levels = self.policy.document.risks.iter();
        levels
            .map(|level| {
                let stale = level.staleness_max_ms.map(|bound| bound.0.saturating_sub(staleness.0));
                let stops = [
                    (stale, "revocations too old"),
                    (offline, "the grants' time offline spent"),
                    (expiry.or(Some(0)), "the last grant expired"),
                ];
                let first = stops.iter().filter_map(|(left, what)| left.map(|left| (left, *what))).min();
                let (left, what) = first.unwrap_or((0, "no grant"));
                Autonomy { risk: level.class.clone(), hours: Some((left / 36_000) as f64 / 100.0), stops: what.into() }
            })
            .collect()
    }
}
