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

use crate::agent::request::{Mode, Reason, StatusReply};

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
