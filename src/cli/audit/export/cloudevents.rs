//! The audit as CloudEvents 1.0 in the JSON format.
//!
//! Owns: the context attributes (CloudEvents 1.0.2, section "Context Attributes"; the format is its JSON Event Format).
//! Never: changes the data: that is the line of the plain export, so that lines and head of one can be put together again.
//! Read next: `../export.rs`.

use serde_json::{json, Map, Value};

use super::{object, Forked, Item};
use crate::ids::{DeviceId, FleetId};
use crate::time::Timestamp;

/// The event of a record.
pub(super) fn event(item: Item<'_>) -> Map<String, Value> {
    let of = Context {
        id: item.id.clone(),
        kind: item.kind().to_owned(),
        subject: item.text("id").map(str::to_owned),
        time: item.time,
    };
    wrap(item.fleet, item.device, of, Value::Object(item.line))
}

/// The event of a fork. Its data is the file that proves it.
pub(super) fn fork(forked: &Forked<'_>) -> Map<String, Value> {
    let of = Context { id: forked.id(), kind: "fork".into(), subject: None, time: forked.fork.at };
    wrap(forked.fleet, &forked.fork.device, of, forked.proof())
}

struct Context {
    id: String,
    kind: String,
    subject: Option<String>,
    time: Timestamp,
}

fn wrap(fleet: &FleetId, device: &DeviceId, of: Context, data: Value) -> Map<String, Value> {
    let mut event = object(json!({
        "specversion": "1.0",
        "id": of.id,
        "source": format!("urn:hardtack:{fleet}:{device}"),
        "type": format!("io.hardtack.{}.v1", of.kind),
        "time": of.time.to_string(),
        "datacontenttype": "application/json",
        "data": data,
    }));
    // It must not be empty where it is there.
    event.extend(of.subject.map(|subject| ("subject".to_owned(), subject.into())));
    event
}
