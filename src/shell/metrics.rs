//! The agent's numbers for Prometheus.
//!
//! Owns: names, units and help texts of the metrics.
//! Never: counts anything. Every number is one that the agent reports.
//! Read next: `agent/request.rs`, [`StatusReply`].

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::agent::request::{ClassRoom, GrantStatus, Mode, Reason, StatusReply};

/// What [`render`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// The status as OpenMetrics text.
pub fn render(status: &StatusReply) -> String {
    let mut registry = Registry::with_prefix("hardtack");
    let build = [("version", status.version.clone()), ("profile", status.profile.clone())];
    gauge(&mut registry, "build_info", "The program and the profile that it runs under", [(build.to_vec(), 1.0)]);
    let modes = [Mode::Online, Mode::Offline, Mode::Stale, Mode::Locked];
    let modes = modes.map(|mode| (vec![("mode", mode.name().to_owned())], f64::from(u8::from(mode == status.mode))));
    gauge(&mut registry, "mode", "1 for the mode that the device is in", modes);

    let mut plain = |name: &str, help: &str, value: f64| gauge(&mut registry, name, help, [(Labels::new(), value)]);
    plain("feed_seq", "Position in the device's revocation feed", status.feed_seq as f64);
    plain("bundle_version", "Trust bundle in force", status.bundle_version as f64);
    plain("policy_version", "Policy in force", status.policy_version as f64);
    plain("staleness_seconds", "Age of the newest complete revocation head", status.staleness_s as f64);
    plain("offline_seconds", "Powered-on time since the last acknowledged round trip", status.offline_for_s as f64);
    plain("boots_since_sync", "Kernel boots since the last acknowledged round trip", f64::from(status.boots));
    plain("audit_pending_records", "Records that the collector has not acknowledged", status.pending as f64);
    plain("audit_era", "The era being written", status.era as f64);
    plain("tasks", "Live tasks", status.tasks as f64);
    plain("grants", "Fallback grants in the wallet", status.grants.len() as f64);

    plain("audit_used_bytes", "Bytes that the audit takes on disk", status.audit.used_bytes as f64);
    plain("audit_quota_bytes", "The most that it may take", status.audit.quota_bytes as f64);
    let mut classes = |name: &str, help: &str, bytes: fn(&ClassRoom) -> u64| {
        let of = |room: &ClassRoom| (vec![("class", room.class.name().to_owned())], bytes(room) as f64);
        gauge(&mut registry, name, help, status.audit.classes.iter().map(of));
    };
    classes("audit_class_used_bytes", "Share of a class of records in what is used", |room| room.used_bytes);
    classes("audit_class_reserve_bytes", "What is kept for it", |room| room.reserve_bytes);
    classes("audit_class_max_bytes", "The most that it may use as things are", |room| room.max_bytes);
    let mut plain = |name: &str, help: &str, value: f64| gauge(&mut registry, name, help, [(Labels::new(), value)]);
    plain("time_floor_timestamp_seconds", "The floor E: it is this time or later", status.clock.floor_s as f64);
    plain("time_powered_ahead_seconds", "By how much P is ahead of E", status.clock.powered_ahead_s as f64);

    let mut known = |name: &str, help: &str, value: Option<u64>| {
        gauge(&mut registry, name, help, value.map(|value| (Labels::new(), value as f64)));
    };
    known("time_width_seconds", "From E to L; absent while nothing bounds the time", status.clock.width_s);
    known("dead_man_left_seconds", "Until the policy locks a device that hears nothing", status.dead_man_left_s);

    let mut grants = |name: &str, help: &str, left: fn(&GrantStatus) -> Option<u64>| {
        let of = |grant: &GrantStatus| Some((vec![("grant", grant.id.to_string())], left(grant)? as f64));
        gauge(&mut registry, name, help, status.grants.iter().filter_map(of));
    };
    grants("grant_uses_left", "Uses left of a fallback grant", |grant| grant.uses_left);
    grants("grant_offline_left_seconds", "Time offline left of it", |grant| grant.offline_left_s);
    grants("grant_boots_left", "Boots left of it", |grant| grant.boots_left.map(u64::from));
    grants("grant_expires_in_seconds", "Until it expires", |grant| Some(grant.expires_in_s));

    let autonomy = status.autonomy.iter().filter_map(|line| {
        let seconds = line.hours? * 3600.0;
        Some((vec![("risk", line.risk.to_string())], seconds))
    });
    gauge(&mut registry, "autonomy_seconds", "How long the device could go on alone, per class of risk", autonomy);

    let counters = &status.counters;
    let decisions = counters.decisions.iter().map(|(reason, count)| {
        let decision = if *reason == Reason::Allowed { "allow" } else { "deny" };
        (vec![("decision", decision.to_owned()), ("reason", reason.name().to_owned())], *count)
    });
    count(&mut registry, "decisions", "Decisions since the process started", decisions);
    let mut plain = |name: &str, help: &str, value: u64| count(&mut registry, name, help, [(Labels::new(), value)]);
    plain("repeated_denials", "Denials that were counted in place of a record each", counters.repeated);
    plain("refused_messages", "Messages and files refused since the process started", counters.refused);
    plain("audit_records", "Records written since the process started", counters.records);
    plain("audit_segments_released", "Segments that the collector acknowledged", counters.segments_released);
    plain("token_cache_hits", "Tokens found in the cache of verified ones", counters.cache_hits);
    plain("token_cache_misses", "Tokens verified", counters.cache_misses);

    let mut text = String::new();
    // Writing to a string fails only when a value's own writer does, and these are numbers.
    let _ = encode(&mut text, &registry);
    text
}

fn gauge(registry: &mut Registry, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
    let family = Gauges::default();
    for (labels, value) in values {
        family.get_or_create(&labels).set(value);
    }
    registry.register(name, help, family);
}

fn count(registry: &mut Registry, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
    let family = Family::<Labels, Counter>::default();
    for (labels, value) in values {
        family.get_or_create(&labels).inc_by(value);
    }
    registry.register(name, help, family);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::agent::request::{AuditRoom, Autonomy, ClockStatus, Counters, Freshness, SignedTime};
    use crate::agent::room::Class;
    use crate::ids::GrantId;

    /// A status in which nothing is absent.
    pub(crate) fn status() -> StatusReply {
        let signed = || Some(SignedTime { role: "service".into(), time: "2026-03-01T00:00:00Z".into() });
        StatusReply {
            device: "gw-07".into(),
            fleet: "acme".into(),
            version: "0".into(),
            profile: "p".into(),
            mode: Mode::Offline,
            reasons: vec!["cut".into()],
            feed_seq: 1,
            emergency: Vec::new(),
            bundle_version: 1,
            policy_version: 1,
            floor: "2026-03-01T00:00:00Z".into(),
            powered: "2026-03-01T00:01:00Z".into(),
            ceiling: None,
            clock: ClockStatus {
                floor_s: 1_772_323_200,
                powered_ahead_s: 60,
                floor_ahead_s: None,
                width_s: Some(3),
                drift_ppm: 100,
                source: signed(),
                waiting: signed(),
                jump_left_s: 86_400,
                hint: None,
                hint_standing: "none".into(),
            },
            freshness: Freshness::Unknown,
            staleness_s: 60,
            offline_for_s: 60,
            boots: 1,
            dead_man_left_s: Some(5),
            pending: 2,
            era: 3,
            audit: AuditRoom {
                used_bytes: 10,
                quota_bytes: 100,
                fits: vec![Class::Critical, Class::Allow],
                classes: vec![ClassRoom { class: Class::Denial, used_bytes: 40, reserve_bytes: 15, max_bytes: 41 }],
            },
            link: "down".into(),
            grants: vec![GrantStatus {
                id: GrantId([7; 16]),
                owner: "ops".into(),
                expires: "2026-03-02T00:00:00Z".into(),
                expires_in_s: 86_400,
                uses_left: Some(9),
                offline_left_s: Some(3600),
                boots_left: Some(4),
            }],
            tasks: 1,
            autonomy: vec![Autonomy {
                risk: "low".parse().unwrap(),
                hours: Some(1.0),
                stops: "the grant's time offline spent".into(),
                uses_left: Some(9),
                boots_left: Some(4),
            }],
            counters: Counters::default(),
        }
    }

    #[test]
    fn what_is_left_is_told_and_what_is_not_known_is_absent() {
        let text = render(&status());
        for line in [
            "hardtack_time_floor_timestamp_seconds{} 1772323200.0",
            "hardtack_audit_class_used_bytes{class=\"denial\"} 40.0",
            "hardtack_audit_class_reserve_bytes{class=\"denial\"} 15.0",
            "hardtack_audit_class_max_bytes{class=\"denial\"} 41.0",
            "hardtack_time_width_seconds{} 3.0",
            "hardtack_dead_man_left_seconds{} 5.0",
            "hardtack_autonomy_seconds{risk=\"low\"} 3600.0",
            "hardtack_grant_uses_left{grant=\"07070707070707070707070707070707\"} 9.0",
            "hardtack_grant_offline_left_seconds{grant=\"07070707070707070707070707070707\"} 3600.0",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} in {text}");
        }
        let mut status = status();
        status.clock.width_s = None;
        assert!(!render(&status).lines().any(|line| line.starts_with("hardtack_time_width_seconds{")));
    }
}
