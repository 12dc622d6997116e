//! The log: one line per event on stderr.
//!
//! Owns: the line's form, JSON with `ts level event device` and the event's fields, or text for a person; the names
//! and fields of the events that scripts wait for.
//! Never: holds a token or a key. Callers give identifiers only.
//! Read next: `run.rs`, which says when.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::OnceLock;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::clock;
use crate::agent::effects::LogEvent;
use crate::agent::request::Mode;
use crate::config::{LogConfig, LogFormat, LogLevel};
use crate::ids::DeviceId;
use crate::time::Timestamp;

static DEVICE: OnceLock<DeviceId> = OnceLock::new();

/// Starts the log. A second start changes nothing.
pub fn start(config: LogConfig) {
    let level = match config.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let _ = tracing_subscriber::registry().with(Lines { format: config.format }.with_filter(level)).try_init();
}

/// Says which device writes from now on. A process serves one device; the first counts.
pub fn name_device(device: &DeviceId) {
    let _ = DEVICE.set(device.clone());
}

/// Writes down what the agent reports.
pub fn tell(event: &LogEvent) {
    match event {
        LogEvent::AuditRewound { era, segment } => tracing::warn!(event = "audit.rewound", era, segment),
        LogEvent::AuditReleased { era, segment } => tracing::info!(event = "audit.released", era, segment),
        LogEvent::AuditShed { era, records } => tracing::warn!(event = "audit.shed", era, records),
        LogEvent::AuditSent { era, segment } => tracing::info!(event = "audit.sent", era, segment),
        LogEvent::BundleApplied { version } => tracing::info!(event = "bundle.applied", version),
        LogEvent::EmergencyApplied { key, operator, counter, rules } => {
            tracing::warn!(event = "emergency.applied", %key, operator, counter, rules);
        }
        LogEvent::FeedApplied { feed, seq } => tracing::info!(event = "feed.applied", %feed, seq),
        LogEvent::GrantsApplied { count } => tracing::info!(event = "grants.applied", count),
        LogEvent::LinkDown { reason } => tracing::info!(event = "link.down", reason),
        LogEvent::LinkUp => tracing::info!(event = "link.up"),
        LogEvent::MessageRefused { topic, reason } => tracing::warn!(event = "message.refused", topic, reason),
        LogEvent::ModeChanged { from, to, reason } => {
            let (from, to_name) = (from.name(), to.name());
            match to {
                Mode::Online | Mode::Offline => tracing::info!(event = "mode.changed", from, to = to_name, reason),
                Mode::Stale | Mode::Locked => tracing::warn!(event = "mode.changed", from, to = to_name, reason),
            }
        }
        LogEvent::PolicyApplied { version } => tracing::info!(event = "policy.applied", version),
        LogEvent::TaskEnded { task, how } => tracing::info!(event = "task.ended", %task, how),
        LogEvent::TimeImported { floor } => tracing::info!(event = "time.imported", %floor),
        LogEvent::StoreRecovered { era, detail } => tracing::warn!(event = "store.recovered", era, detail),
    }
}

/// Writes down what the store found at a start.
#[cfg(feature = "agent")]
pub fn tell_found(event: &super::store::Event) {
    use super::store::Event;
    match event {
        Event::AnchorLost => tracing::error!(event = "store.anchor_lost"),
        Event::FileUnreadable { path, error } => tracing::error!(event = "store.unreadable", path, error),
        Event::Quarantined { era, detail } => tracing::error!(event = "store.quarantined", era, detail),
        // The audit goes on: less room comes back than was hoped for.
        Event::NotRewritten { era, error } => tracing::warn!(event = "store.not_rewritten", era, error),
        // Ordinary after a power cut: the other slot counts.
        Event::SlotUnusable { slot, error } => tracing::warn!(event = "store.slot_unusable", slot, error),
    }
}

struct Lines {
    format: LogFormat,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // The libraries' own chatter has no place in a log with a documented form.
        if !event.metadata().target().starts_with("hardtack") {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        // The fleet's service writes about many devices, an agent is one.
        let device = fields.device.take();
        let device = device.as_deref().unwrap_or_else(|| DEVICE.get().map_or("", DeviceId::as_str));
        let line = line(self.format, clock::now().wall, *event.metadata().level(), device, &fields);
        // Nobody reads a closed stderr; the agent works on.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

#[derive(Default)]
struct Fields {
    event: String,
    device: Option<String>,
    rest: Vec<(&'static str, Value)>,
}

impl Fields {
    fn push(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("event", Value::String(name)) => self.event = name,
            ("device", Value::String(device)) => self.device = Some(device),
            (name, value) => self.rest.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.push(field, format!("{value:?}").into());
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }
}

fn line(format: LogFormat, wall: Option<Timestamp>, level: Level, device: &str, fields: &Fields) -> String {
    let (ts, level) = (to_the_millisecond(wall.unwrap_or_default()), level.as_str().to_ascii_lowercase());
    // A line of a library of ours that names no event is a message.
    let event = if fields.event.is_empty() { "message" } else { &fields.event };
    let mut line = String::new();
    match format {
        LogFormat::Json => {
            let head = [("ts", ts.as_str()), ("level", &level), ("event", event), ("device", device)];
            let head = head.map(|(name, text)| (name, Value::from(text)));
            let pairs = head.iter().chain(&fields.rest).map(|(name, value)| format!("{:?}:{value}", name));
            line.push('{');
            line.push_str(&pairs.collect::<Vec<_>>().join(","));
            line.push('}');
        }
        LogFormat::Text => {
            line.push_str(&format!("{ts} {level:5} {event}"));
            for (name, value) in &fields.rest {
                // Writing to a string cannot fail.
                let _ = write!(line, " {name}={value}");
            }
        }
    }
    line.push('\n');
    line
}

fn to_the_millisecond(time: Timestamp) -> String {
    let seconds = time.to_string();
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), time.0 % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        let rest = vec![("feed", Value::from("fle\"et\n")), ("seq", Value::from(7))];
        Fields { event: "feed.applied".into(), device: None, rest }
    }

    #[test]
    fn a_line_is_one_json_object_whatever_its_fields_hold() {
        let text = line(LogFormat::Json, Some(Timestamp(1_772_323_200_042)), Level::INFO, "gw-07", &fields());
        assert!(text.starts_with(
            r#"{"ts":"2026-03-01T00:00:00.042Z","level":"info","event":"feed.applied","device":"gw-07","#
        ));
        assert_eq!(text.lines().count(), 1);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["feed"], &value["seq"]), (&Value::from("fle\"et\n"), &Value::from(7)));
    }

    #[test]
    fn a_text_line_stays_one_line_too() {
        let text = line(LogFormat::Text, None, Level::WARN, "gw-07", &fields());
        assert_eq!(text, "1970-01-01T00:00:00.000Z warn  feed.applied feed=\"fle\\\"et\\n\" seq=7\n");
    }
}
