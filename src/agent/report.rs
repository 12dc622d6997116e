//! What the agent says about itself.
//!
//! Owns: status, readiness, autonomy, who a caller is.
//! Never: changes anything.
//! Read next: `request.rs` for the fields.

use super::attest::selectors;
use super::clock::Role;
use super::holder;
use super::request::trail::TrailReply;
use super::request::{
    AuditRoom, Autonomy, ClassRoom, ClockStatus, Evidence, GrantStatus, Mode, ReadyCheck, ReadyReply, SignedTime,
    StatusReply, StepSummary, TaskSummary, TimeClass, WhoamiReply,
};
use super::revocation::Age;
use super::room::Class;
use super::wallet::{Grant, StoredStep, StoredTask};
use super::Agent;
use crate::ids::{hex, RiskClass, TaskClass};
use crate::time::{Millis, Timestamp};
use crate::wire::audit::record_id;
use crate::wire::policy::RiskLevel;
use crate::wire::token::Purpose;

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

    /// What is known of the trail's eras, for a page of it.
    pub(super) fn trail_reply(&self) -> TrailReply {
        TrailReply {
            device: self.device.to_string(),
            fleet: self.fleet.to_string(),
            identity: hex(self.keys.identity.verifying_key().as_bytes()),
            eras: self.trail.stand(),
            pieces: Vec::new(),
        }
    }

    pub(super) fn list_tasks(&self, evidence: &Evidence) -> Vec<TaskSummary> {
        let live = self.wallet.live(self.clock.stand()).filter(|task| holder::is_his(evidence, task));
        live.map(|task| TaskSummary {
            task_id: task.id.clone(),
            task: task.class.clone(),
            origin: task.origin,
            grant_id: task.grant,
            selectors: task.selectors.clone(),
            bound_to: task.holder.clone(),
            planner: task.purpose == Purpose::Plan,
            steps: self.list_steps(task),
            expires_in_s: task.made.first().map_or(Millis(0), |made| self.life_left_of(made, &task.grant)).secs(),
            uses_left: self.wallet.uses_left(task),
            holder: holder::process_of(&task.ties).map(|process| process.pid),
            initiator: task.initiator(),
        })
        .collect()
    }

    /// How long a step is honoured yet: no longer than its task.
    pub(super) fn step_left(&self, task: &StoredTask, step: &StoredStep) -> Millis {
        let made = task.made.first().into_iter().chain([&step.made]);
        made.map(|made| self.life_left_of(made, &task.grant)).min().unwrap_or_default()
    }

    /// The steps of a task that can be used still: as many as are remembered at the most.
    fn list_steps(&self, task: &StoredTask) -> Vec<StepSummary> {
        let summary = |step: &StoredStep| StepSummary {
            step_id: step.named.id.clone(),
            executor: step.executor.clone(),
            expires_in_s: self.step_left(task, step).secs(),
            decision_id: record_id(&self.device, step.named.era, step.named.index),
        };
        self.usable_steps(task).map(summary).collect()
    }

    /// Offline is not unhealthy: ready means that decisions can be made and recorded.
    pub(super) fn ready(&self) -> ReadyReply {
        let check = |name: &str, ok: bool, detail: String| ReadyCheck { name: name.into(), ok, detail };
        let full = self.classes_without_room();
        let room = match full.is_empty() {
            true => "room for every record".to_owned(),
            false => format!("no room for records of class {}", full.join(", ")),
        };
        let checks = vec![
            check("enrolled", true, format!("{} in fleet {}", self.device, self.fleet)),
            check("audit", full.iter().all(|class| *class == Class::Notice.name()), room),
            check("unlocked", self.mode != Mode::Locked, self.mode_reasons.join("; ")),
            check(
                "revocations",
                !self.revocations.positions().is_empty(),
                format!("{} complete lists held", self.revocations.positions().len()),
            ),
            // Said, not judged: a device that is offline, or has no grant for that, is healthy.
            check("autonomy", true, autonomy_words(&self.autonomy(self.judge().freshness().1))),
        ];
        ReadyReply { ready: checks.iter().all(|check| check.ok), checks }
    }

    pub(crate) fn status(&self) -> StatusReply {
        let (freshness, age) = self.judge().freshness();
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
            feed_seq: self.revocations.seq().unwrap_or(0),
            emergency: self.revocations.emergencies.rules(),
            bundle_version: self.trust.version,
            policy_version: self.policy.document.version,
            floor: self.clock.floor().to_string(),
            powered: self.clock.powered().to_string(),
            ceiling: self.clock.ceiling().map(|ceiling| ceiling.to_string()),
            clock: self.clock_status(),
            freshness,
            staleness_s: age.age.secs(),
            offline_for_s: self.clock.offline_for().secs(),
            boots: self.clock.boots(),
            dead_man_left_s: self.dead_man_left().map(Millis::secs),
            pending: self.trail.pending(),
            era: self.trail.era().number,
            audit: self.audit_room(),
            link: self.uplink.describe(),
            grants: self.wallet.grants().map(|(_, grant)| self.grant_status(grant)).collect(),
            tasks: self.wallet.live(self.clock.stand()).count() as u64,
            autonomy: self.autonomy(age),
            counters,
        }
    }

    fn grant_status(&self, grant: &Grant) -> GrantStatus {
        let claims = &grant.claims;
        GrantStatus {
            id: claims.grant,
            owner: claims.owner.clone(),
            expires: claims.expires.to_string(),
            expires_in_s: self.life_left(&claims.expires, claims.min_time_class).secs(),
            uses_left: self.uses_left(grant),
            offline_left_s: claims.offline_max.map(|max| max.0.saturating_sub(self.clock.offline_for().0) / 1000),
            boots_left: claims.boots_max.map(|max| max.saturating_sub(self.clock.boots())),
        }
    }

    fn clock_status(&self) -> ClockStatus {
        let clock = &self.clock;
        let signed = |(role, time): (Role, Timestamp)| SignedTime { role: role.name().into(), time: time.to_string() };
        ClockStatus {
            floor_s: clock.floor().secs_floor(),
            powered_ahead_s: clock.powered().since(clock.floor()).secs(),
            floor_ahead_s: clock.ahead().map(Millis::secs_ceil),
            width_s: clock.ceiling().map(|ceiling| ceiling.since(clock.floor()).secs_ceil()),
            drift_ppm: clock.drift_ppm(),
            source: clock.last().map(signed),
            waiting: clock.waiting().map(signed),
            jump_left_s: clock.jump_left().secs(),
            hint: clock.hinted().map(|hint| hint.to_string()),
            hint_standing: clock.hint_standing().name().into(),
        }
    }

    fn audit_room(&self) -> AuditRoom {
        let room = self.room();
        let quota_bytes = self.profile.queue.quota_mib.saturating_mul(1024 * 1024);
        let classes = Class::ALL.map(|class| ClassRoom {
            class,
            used_bytes: room.used(class),
            reserve_bytes: room.reserve(class),
            max_bytes: room.may(class),
        });
        let fits = Class::ALL.into_iter().filter(|class| room.fits(*class)).collect();
        AuditRoom { used_bytes: self.taken.used_bytes, quota_bytes, fits, classes: classes.to_vec() }
    }

    fn classes_without_room(&self) -> Vec<&'static str> {
        let room = self.room();
        Class::ALL.into_iter().filter(|class| !room.fits(*class)).map(Class::name).collect()
    }

    fn uses_left(&self, grant: &Grant) -> Option<u64> {
        let (_, max) = grant.claims.uses.first()?;
        Some(max.saturating_sub(self.wallet.spent(grant)))
    }

    /// How long what ends then is honoured: up to the clock of its class.
    pub(super) fn life_left(&self, expires: &Timestamp, class: Option<TimeClass>) -> Millis {
        let latest = self.clock.upper(class.unwrap_or_default().max(TimeClass::Bounded));
        latest.map_or(Millis(0), |latest| expires.since(latest))
    }

    /// Per class of risk how long the device goes on if it hears nothing from now on, and what stops it first. It is the
    /// least of what bounds the whole device and of what bounds the grant that lasts longest.
    fn autonomy(&self, age: Age) -> Vec<Autonomy> {
        let levels = self.policy.document.risks.iter();
        levels.map(|level| self.alone(level, age)).collect()
    }

    fn alone(&self, level: &RiskLevel, age: Age) -> Autonomy {
        let mut bounds = self.device_bounds();
        let staleness = age.age;
        if self.policy.document.risks.last() == Some(level) {
            bounds.push(Bound::new(age.hard_left, "the fleet silent for longer than it promised"));
        }
        let left = |bound: Millis| Millis(bound.0.saturating_sub(staleness.0));
        bounds
            .extend(level.staleness_max_ms.map(|bound| Bound::new(left(bound), "revocations too old for the policy")));
        let first = |grant: &Grant| self.grant_bounds(grant, &level.class, staleness).into_iter().min();
        let lasting = self.wallet.grants().filter_map(|(_, grant)| Some((first(grant)?, grant)));
        let best = lasting.max_by_key(|(bound, _)| bound.left);
        bounds.push(best.as_ref().map_or(Bound::new(Millis(0), "no grant"), |(bound, _)| bound.clone()));
        let stop = bounds.into_iter().min();
        Autonomy {
            risk: level.class.clone(),
            // Rounded down: a bound is never reached later than said.
            hours: stop.as_ref().map(|bound| (bound.left.0 / 36_000) as f64 / 100.0),
            stops: stop.map(|bound| bound.stops).unwrap_or_default(),
            uses_left: best.as_ref().and_then(|(_, grant)| self.uses_left(grant)),
            boots_left: best
                .as_ref()
                .and_then(|(_, grant)| Some(grant.claims.boots_max?.saturating_sub(self.clock.boots()))),
        }
    }

    /// What stops every class of risk, whatever the grants say.
    fn device_bounds(&self) -> Vec<Bound> {
        let mut bounds = Vec::new();
        if self.mode == Mode::Locked {
            bounds.push(Bound::new(Millis(0), &format!("locked: {}", self.mode_reasons.join("; "))));
        }
        bounds.extend(self.behind().map(|behind| Bound::new(Millis(0), &behind)));
        if !self.room().fits(Class::Allow) {
            bounds.push(Bound::new(Millis(0), "no room to record an allow"));
        }
        bounds.extend(self.dead_man_left().map(|left| Bound::new(left, "the policy's dead-man window")));
        bounds
    }

    fn dead_man_left(&self) -> Option<Millis> {
        let window = self.policy.document.dead_man_ms?;
        Some(Millis(window.0.saturating_sub(self.clock.offline_for().0)))
    }

    /// What stops tasks of one grant. Uses and boots have no hours: they count once they are gone.
    fn grant_bounds(&self, grant: &Grant, risk: &RiskClass, staleness: Millis) -> Vec<Bound> {
        let claims = &grant.claims;
        let life = match claims.min_time_class {
            Some(TimeClass::Strict) if self.clock.ceiling().is_none() => {
                Bound::new(Millis(0), "no round trip in this boot, which the grant's time class needs")
            }
            class => Bound::new(self.life_left(&claims.expires, class), "the last grant expired"),
        };
        let mut bounds = vec![life];
        let left = |bound: Millis, spent: Millis| Millis(bound.0.saturating_sub(spent.0));
        let policy = &self.policy.document;
        let stale = claims.staleness_max.iter().filter(|(named, _)| policy.binds(named, risk));
        bounds.extend(stale.map(|(_, bound)| Bound::new(left(*bound, staleness), "revocations too old for the grant")));
        let offline = self.clock.offline_for();
        bounds.extend(claims.offline_max.map(|max| Bound::new(left(max, offline), "the grant's time offline spent")));
        if self.uses_left(grant) == Some(0) {
            bounds.push(Bound::new(Millis(0), "the grant's uses spent"));
        }
        if claims.boots_max.is_some_and(|max| self.clock.boots() > max) {
            bounds.push(Bound::new(Millis(0), "the grant's boots spent"));
        }
        bounds
    }
}

/// Something that stops the device, and in how long.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Bound {
    left: Millis,
    stops: String,
}

impl Bound {
    fn new(left: Millis, stops: &str) -> Self {
        Self { left, stops: stops.to_owned() }
    }
}

/// Autonomy in one line.
fn autonomy_words(autonomy: &[Autonomy]) -> String {
    let hours = |line: &Autonomy| line.hours.map_or("without end".to_owned(), |hours| format!("{hours:.1} h"));
    let words = autonomy.iter().map(|line| format!("{} risk {} ({})", line.risk, hours(line), line.stops));
    words.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::super::request::{BeginTask, ProblemCode, Reason, Reply, Request, Socket};
    use super::super::rig::{right, Rig};
    use super::*;

    fn boxed() -> Rig {
        Rig::with(|grant| {
            grant.offline_max = Millis::from_secs(7200);
            grant.staleness_max = vec![("high".parse().unwrap(), Millis::from_secs(1800))];
        })
    }

    #[track_caller]
    fn check_alone(rig: &Rig, risk: &str, hours: f64, stops: &str) {
        let status = rig.agent.status();
        let line = status.autonomy.iter().find(|line| line.risk.as_str() == risk).unwrap();
        assert_eq!(line.stops, stops, "{line:?}");
        // Never more than is left, and little less.
        assert!(line.hours.is_some_and(|left| left <= hours && left >= (hours - 0.1).max(0.0)), "{line:?}");
    }

    #[test]
    fn autonomy_is_the_least_of_what_policy_and_grant_bound() {
        let mut rig = boxed();
        for passed in [0.0, 0.25] {
            check_alone(&rig, "low", 2.0 - passed, "the grant's time offline spent");
            check_alone(&rig, "high", 0.5 - passed, "revocations too old for the grant");
            rig.pass(900);
        }
        rig.pass(7200);
        check_alone(&rig, "low", 0.0, "the grant's time offline spent");
        let begin = BeginTask {
            task: "pump".parse().unwrap(),
            rights: vec![right("modbus/*", "read")],
            ttl_s: 60,
            uses: None,
            planner: false,
            reason: None,
            holder: None,
            lease: None,
            identity: None,
            key: None,
        };
        let Reply::Problem(problem) = rig.ask(1001, Socket::Agent, Request::Begin(begin)) else { panic!("it begins") };
        assert_eq!(problem.code, ProblemCode::Denied(Reason::OfflineSpent), "as it said");
        let ready = rig.agent.ready();
        let check = ready.checks.iter().find(|check| check.name == "autonomy").unwrap();
        assert!(check.ok && check.detail.contains("low risk 0.0 h"), "offline is not unhealthy: {check:?}");
    }

    #[test]
    fn a_device_without_a_grant_or_with_a_spent_one_has_no_hours() {
        let mut rig = Rig::with(|grant| grant.uses_max = 1);
        let task = rig.begin(vec![right("modbus/*", "read")], None);
        assert_eq!(rig.agent.status().autonomy[0].uses_left, Some(1));
        assert_eq!(rig.authorize(&task.token, "read", "modbus/a").reason, Reason::Allowed);
        check_spent(&rig, "the grant's uses spent");
        let grants: Vec<_> = rig.agent.wallet.grants().map(|(id, _)| *id).collect();
        grants.iter().for_each(|id| rig.agent.wallet.remove_grant(id));
        check_spent(&rig, "no grant");
    }

    #[track_caller]
    fn check_spent(rig: &Rig, stops: &str) {
        for line in rig.agent.status().autonomy {
            assert_eq!((line.hours, line.stops.as_str()), (Some(0.0), stops));
        }
    }
}
