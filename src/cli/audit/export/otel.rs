//! The audit as OpenTelemetry logs, in OTLP's JSON encoding.
//!
//! Owns: the fields of a `LogRecord` (OpenTelemetry logs data model; `opentelemetry/proto/logs/v1/logs.proto`), severities,
//! attributes `hardtack.*`.
//! Never: puts a time where none is known: what lies past what 64 bits of nanoseconds hold is 0, which says unknown.
//! Read next: `../export.rs`.

use serde_json::{json, Map, Value};

use super::{object, Forked, Item};
use crate::ids::{DeviceId, FleetId};
use crate::time::Timestamp;
use crate::wire::audit::{Event, TaskStep};

/// How bad it is, as `SeverityNumber` counts: the least of each range.
#[derive(Clone, Copy)]
enum Severity {
    Info = 9,
    Warn = 13,
    Error = 17,
    Fatal = 21,
}

impl Severity {
    fn text(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }

    fn of(event: Option<&Event>) -> Self {
        match event {
            Some(Event::Decision(decision)) if decision.allow => Self::Info,
            Some(Event::Task(task)) if task.step == TaskStep::Refused => Self::Warn,
            Some(Event::Decision(_) | Event::Refused(_) | Event::Repeated(_)) => Self::Warn,
            Some(Event::Gap(_)) | None => Self::Error,
            Some(
                Event::Alive(_)
                | Event::Ended(_)
                | Event::Grant(_)
                | Event::Mode(_)
                | Event::Start(_)
                | Event::Task(_)
                | Event::Trust(_),
            ) => Self::Info,
        }
    }
}

/// One line: the records of one device.
pub(super) fn batch(fleet: &FleetId, device: &DeviceId, records: Vec<Value>) -> Map<String, Value> {
    let resource = [
        ("service.name", "hardtack"),
        ("service.namespace", fleet.as_str()),
        ("service.instance.id", device.as_str()),
        ("host.name", device.as_str()),
    ];
    let attributes = resource.map(|(key, value)| json!({"key": key, "value": {"stringValue": value}}));
    object(json!({"resourceLogs": [{
        "resource": {"attributes": attributes},
        "scopeLogs": [{
            "scope": {"name": "hardtack.audit", "version": env!("CARGO_PKG_VERSION")},
            "logRecords": records,
        }],
    }]}))
}

/// The log record of a record.
pub(super) fn record(item: &Item<'_>) -> Value {
    let attribute = |(name, value): (&String, &Value)| {
        let value = match name.as_str() {
            // Bytes that are in base64 already, as OTLP's JSON has bytes.
            "leaf" | "header" => json!({"bytesValue": value}),
            _ => any(value)?,
        };
        Some(json!({"key": format!("hardtack.{name}"), "value": value}))
    };
    let mut attributes: Vec<Value> = item.line.iter().filter_map(attribute).collect();
    attributes.push(json!({"key": "log.record.uid", "value": {"stringValue": item.id}}));
    let severity = Severity::of(item.event);
    log_record(item.kind(), severity, item.time, item.received, item.sentence(), attributes)
}

/// The log record of a fork.
pub(super) fn fork(forked: &Forked<'_>) -> Value {
    let proof = forked.proof().to_string();
    let attributes = vec![
        json!({"key": "log.record.uid", "value": {"stringValue": forked.id()}}),
        json!({"key": "hardtack.contradiction", "value": {"stringValue": forked.proven.contradiction.name()}}),
        json!({"key": "hardtack.proof", "value": {"stringValue": proof}}),
    ];
    log_record("fork", Severity::Fatal, forked.fork.at, forked.fork.at, forked.sentence(), attributes)
}

fn log_record(
    kind: &str,
    severity: Severity,
    time: Timestamp,
    observed: Timestamp,
    body: String,
    attributes: Vec<Value>,
) -> Value {
    json!({
        "timeUnixNano": nanos(time),
        "observedTimeUnixNano": nanos(observed),
        "severityNumber": severity as u8,
        "severityText": severity.text(),
        "eventName": format!("hardtack.{kind}"),
        "body": {"stringValue": body},
        "attributes": attributes,
    })
}

/// 64 bits are text in OTLP's JSON.
fn nanos(time: Timestamp) -> String {
    time.0.checked_mul(1_000_000).unwrap_or(0).to_string()
}

/// An `AnyValue`. None for null: an attribute that says nothing is left out.
fn any(value: &Value) -> Option<Value> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => json!({"boolValue": value}),
        Value::Number(number) => match number.as_i64() {
            Some(number) => json!({"intValue": number.to_string()}),
            // Past what OTLP counts.
            None => json!({"stringValue": number.to_string()}),
        },
        Value::String(text) => json!({"stringValue": text}),
        Value::Array(items) => json!({"arrayValue": {"values": items.iter().filter_map(any).collect::<Vec<_>>()}}),
        Value::Object(fields) => {
            let pair = |(key, value): (&String, &Value)| Some(json!({"key": key, "value": any(value)?}));
            json!({"kvlistValue": {"values": fields.iter().filter_map(pair).collect::<Vec<_>>()}})
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_otlp_cannot_count_is_told_otherwise() {
        assert_eq!(nanos(Timestamp(1_772_359_200_250)), "1772359200250000000");
        assert_eq!(nanos(Timestamp::MAX), "0");
        assert_eq!(any(&json!(-1)), Some(json!({"intValue": "-1"})));
        assert_eq!(any(&json!(u64::MAX)), Some(json!({"stringValue": "18446744073709551615"})));
        assert_eq!(any(&json!([1, null])), Some(json!({"arrayValue": {"values": [{"intValue": "1"}]}})));
        let nested = json!({"kvlistValue": {"values": [{"key": "a", "value": {"boolValue": true}}]}});
        assert_eq!(any(&json!({"a": true, "b": null})), Some(nested));
    }
}
