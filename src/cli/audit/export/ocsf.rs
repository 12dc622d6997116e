//! The audit as events of the Open Cybersecurity Schema Framework, version 1.5.0.
//!
//! Owns: which class an event becomes, and its attributes (github.com/ocsf/ocsf-schema at tag 1.5.0, `events/` and
//! `objects/`).
//! Never: invents an attribute. What the schema has no place for is in `unmapped`, and the whole line of the plain export, with
//! the bytes that were signed, in `raw_data`.
//! Read next: `../export.rs`.

use serde_json::{json, Map, Value};

use super::{ms, object, Forked, Item};
use crate::wire::audit::{
    Decision, Event, Evidence, GrantStep, GrantUse, ModeChange, Named, Repeated, Start, TaskEvent, TaskStep,
    TrustChange,
};

/// The version of the schema.
const VERSION: &str = "1.5.0";

/// The classes that are used, as `class_uid` numbers them.
#[derive(Clone, Copy)]
enum Class {
    /// `events/system/event_log_activity.json`: what befell the log itself. It is the one class that has the log as its subject.
    EventLog = 1008,
    /// `events/findings/detection_finding.json`: something that somebody has to look at.
    Detection = 2004,
    /// `events/iam/entity_management.json`: something with a name came, changed or went: a task, a grant, a policy.
    Entity = 3004,
    /// `events/application/application_lifecycle.json`: the agent itself started, or went into another mode.
    Lifecycle = 6002,
    /// `events/application/api_activity.json`: somebody asked for an operation on a resource.
    Api = 6003,
}

/// What was done: a number that the class gives a meaning, or words of our own (99).
enum Activity {
    Known(u64),
    Other(&'static str),
}

/// `severity_id`.
#[derive(Clone, Copy)]
enum Severity {
    Informational = 1,
    Low = 2,
    High = 4,
    Critical = 5,
}

impl Severity {
    fn caption(self) -> &'static str {
        match self {
            Self::Informational => "Informational",
            Self::Low => "Low",
            Self::High => "High",
            Self::Critical => "Critical",
        }
    }
}

/// The event of a record.
pub(super) fn event(item: &Item<'_>) -> Map<String, Value> {
    let (class, activity, severity, own) = match item.event {
        Some(Event::Alive(_)) => alive(),
        Some(Event::Decision(decision)) => decided(item, decision),
        Some(Event::Ended(_)) => ended(),
        Some(Event::Gap(_)) | None => lost(),
        Some(Event::Grant(grant)) => granted(grant),
        Some(Event::Mode(mode)) => changed_mode(mode),
        Some(Event::Refused(evidence)) => refused(item, evidence),
        Some(Event::Repeated(repeated)) => counted(repeated),
        Some(Event::Start(start)) => started(start),
        Some(Event::Task(task)) => tasked(task),
        Some(Event::Trust(change)) => trusted(change),
    };
    let mut event = common(item, class, activity, severity);
    event.extend(object(own));
    event
}

/// Class, activity, severity, and the attributes of that class.
type Mapped = (Class, Activity, Severity, Value);

fn common(item: &Item<'_>, class: Class, activity: Activity, severity: Severity) -> Map<String, Value> {
    let mut event = classified(class, &activity, severity);
    let profiles = match class {
        Class::Api => &["host", "security_control"][..],
        Class::EventLog | Class::Detection | Class::Entity | Class::Lifecycle => &["host"],
    };
    let mut rest = item.line.clone();
    // These are in `raw_data`.
    for name in ["leaf", "header"] {
        rest.remove(name);
    }
    event.extend(object(json!({
        "time": ms(item.time),
        "message": item.sentence(),
        "metadata": {
            "version": VERSION,
            "product": product(Some(env!("CARGO_PKG_VERSION"))),
            "profiles": profiles,
            "uid": item.id,
            "event_code": item.kind(),
            "log_name": "hardtack audit",
            "logged_time": ms(item.received),
            "original_time": item.time.to_string(),
            "tenant_uid": item.fleet,
        },
        "device": device(item.device.as_str()),
        "unmapped": rest,
        "raw_data": Value::Object(item.line.clone()).to_string(),
    })));
    event
}

fn classified(class: Class, activity: &Activity, severity: Severity) -> Map<String, Value> {
    let (class, severity_id) = (class as u64, severity as u64);
    let (activity_id, name) = match activity {
        Activity::Known(id) => (*id, None),
        Activity::Other(name) => (99, Some(*name)),
    };
    let mut event = object(json!({
        "class_uid": class,
        "category_uid": class / 1000,
        "activity_id": activity_id,
        "type_uid": class * 100 + activity_id,
        "severity_id": severity_id,
        "severity": severity.caption(),
    }));
    event.extend(name.map(|name| ("activity_name".to_owned(), name.into())));
    event
}

fn product(version: Option<&str>) -> Value {
    let mut product = json!({"name": "hardtack", "vendor_name": "hardtack"});
    if let Some(version) = version {
        product["version"] = version.into();
    }
    product
}

/// A gateway is nearest to what the schema calls IOT.
fn device(id: &str) -> Value {
    json!({"type_id": 7, "type": "IOT", "uid": id, "name": id})
}

fn succeeded(yes: bool) -> Map<String, Value> {
    object(match yes {
        true => json!({"status_id": 1, "status": "Success"}),
        false => json!({"status_id": 2, "status": "Failure"}),
    })
}

/// Who is accountable, and which program asked. The schema wants one of them at least.
fn actor(named: Option<&Named>, workload: &[String]) -> Value {
    let mut actor = Map::new();
    if let Some(named) = named {
        let credential = named.chain.last().map(ToString::to_string);
        actor.insert("user".into(), json!({"name": named.owner, "uid": named.owner, "credential_uid": credential}));
        if credential.is_none() {
            actor["user"].as_object_mut().map(|user| user.remove("credential_uid"));
        }
        if let Some(task) = &named.task {
            actor.insert("session".into(), json!({"uid": task, "issuer": named.grant}));
        }
    }
    let app = if workload.is_empty() { "not attested".to_owned() } else { workload.join(" ") };
    actor.insert("app_name".into(), app.into());
    Value::Object(actor)
}

fn decided(item: &Item<'_>, decision: &Decision) -> Mapped {
    let activity = match decision.operation.as_str() {
        "create" => Activity::Known(1),
        "read" => Activity::Known(2),
        "write" | "update" | "append" => Activity::Known(3),
        "delete" => Activity::Known(4),
        _ => Activity::Other("Operation"),
    };
    let (severity, action, action_id, disposition, disposition_id) = match decision.allow {
        true => (Severity::Informational, "Allowed", 1, "Allowed", 1),
        false => (Severity::Low, "Denied", 2, "Blocked", 2),
    };
    let asker = if decision.workload.is_empty() { &decision.enforcer } else { &decision.workload };
    let mut own = object(json!({
        "actor": actor(item.named, asker),
        "api": {
            "operation": decision.operation,
            "service": {"name": "hardtack"},
            "request": {"uid": item.id},
        },
        "resources": [{"name": decision.resource, "uid": decision.resource}],
        // On the device itself: that is where the socket is.
        "src_endpoint": {"uid": item.device, "name": item.device},
        "status_code": decision.reason,
        "action": action,
        "action_id": action_id,
        "disposition": disposition,
        "disposition_id": disposition_id,
        "policy": {"name": "hardtack policy", "version": decision.known.policy_version.to_string()},
    }));
    own.extend(succeeded(decision.allow));
    if let Some(destination) = &decision.destination {
        own.insert("dst_endpoint".into(), json!({"name": destination}));
    }
    if let Some(risk) = &decision.risk {
        let id = match risk.as_str() {
            "low" => 1,
            "medium" => 2,
            "high" => 3,
            "critical" => 4,
            _ => 99,
        };
        own.insert("risk_level".into(), risk.as_str().into());
        own.insert("risk_level_id".into(), id.into());
    }
    (Class::Api, activity, severity, Value::Object(own))
}

/// Nothing else happened.
fn alive() -> Mapped {
    (Class::EventLog, Activity::Other("Sign of life"), Severity::Informational, json!({"log_name": "hardtack audit"}))
}

/// An era has grown long, or held nothing.
fn ended() -> Mapped {
    (Class::EventLog, Activity::Other("Era ended"), Severity::Informational, json!({"log_name": "hardtack audit"}))
}

/// Denials without records of their own. The schema counts in 32 bits.
fn counted(repeated: &Repeated) -> Mapped {
    let own = json!({"log_name": "hardtack audit", "count": repeated.count.min(i32::MAX as u64)});
    (Class::EventLog, Activity::Other("Denials counted"), Severity::Low, own)
}

/// Records are gone: counted in a gap record, or all of a segment.
fn lost() -> Mapped {
    (Class::EventLog, Activity::Other("Records lost"), Severity::High, json!({"log_name": "hardtack audit"}))
}

fn entity(kind: &str, uid: &str, version: Option<String>) -> Value {
    let mut entity = json!({"type": kind, "name": kind, "uid": uid});
    if let Some(version) = version {
        entity["version"] = version.into();
    }
    entity
}

fn granted(grant: &GrantUse) -> Mapped {
    let activity = match grant.step {
        GrantStep::Activated => Activity::Known(10),
        GrantStep::Reconciled => Activity::Known(11),
        GrantStep::Wiped => Activity::Known(4),
    };
    let own = json!({"entity": entity("fallback grant", &grant.grant.to_string(), None)});
    (Class::Entity, activity, Severity::Informational, own)
}

fn changed_mode(mode: &ModeChange) -> Mapped {
    let own = json!({"app": product(None), "status_detail": mode.reason});
    (Class::Lifecycle, Activity::Other("Mode change"), Severity::Informational, own)
}

fn refused(item: &Item<'_>, evidence: &Evidence) -> Mapped {
    let own = json!({
        "finding_info": {
            "uid": item.id,
            "title": "something that arrived was refused",
            "desc": format!("{}: {}", evidence.source, evidence.reason),
            "types": ["Refused message"],
        },
        "evidences": [{
            "data": {"source": evidence.source, "sha256": evidence.digest, "count": evidence.count},
        }],
        "resources": [{"uid": item.device, "name": item.device, "type": "device"}],
    });
    (Class::Detection, Activity::Known(1), Severity::Low, own)
}

fn started(start: &Start) -> Mapped {
    let own = json!({"app": product(Some(&start.version))});
    (Class::Lifecycle, Activity::Known(3), Severity::Informational, own)
}

fn tasked(task: &TaskEvent) -> Mapped {
    let (activity, severity) = match task.step {
        TaskStep::BegunFallback | TaskStep::BegunIssued | TaskStep::Stepped | TaskStep::Attenuated => {
            (Activity::Known(1), Severity::Informational)
        }
        TaskStep::Renewed => (Activity::Known(3), Severity::Informational),
        TaskStep::Ended | TaskStep::Finished => (Activity::Known(4), Severity::Informational),
        TaskStep::Refused => (Activity::Known(1), Severity::Low),
    };
    // One that was refused may have no name of its own.
    let uid = task.task.as_ref().map_or_else(|| task.class.to_string(), ToString::to_string);
    let mut actor = json!({
        "app_name": if task.workload.is_empty() { "not attested".into() } else { task.workload.join(" ") },
    });
    if let Some(owner) = &task.owner {
        actor["user"] = json!({"name": owner, "uid": owner});
    }
    let mut own = object(json!({"entity": entity("task", &uid, None), "actor": actor}));
    own.extend(succeeded(task.step != TaskStep::Refused));
    if !task.reason.is_empty() {
        own.insert("comment".into(), task.reason.as_str().into());
    }
    (Class::Entity, activity, severity, Value::Object(own))
}

fn trusted(change: &TrustChange) -> Mapped {
    let (activity, entity) = match change {
        TrustChange::Bundle { version, digest } => {
            (3, entity("trust bundle", &digest.to_string(), Some(version.to_string())))
        }
        TrustChange::Feed { position } | TrustChange::Revoked { newest: position } => {
            (3, entity("revocation feed", position.feed.as_str(), Some(format!("{}/{}", position.era, position.seq))))
        }
        TrustChange::Grant { grant, expires } => {
            (if expires.is_some() { 1 } else { 4 }, entity("fallback grant", &grant.to_string(), None))
        }
        TrustChange::Policy { version, digest } => {
            (3, entity("policy", &digest.to_string(), Some(version.to_string())))
        }
        TrustChange::Reset { .. } | TrustChange::Told { .. } | TrustChange::Time { .. } => {
            (3, entity("trusted clock", "trusted clock", None))
        }
        TrustChange::AuditKey { epoch, key } => {
            (1, entity("audit key", &crate::ids::hex(key.as_bytes()), Some(epoch.to_string())))
        }
        TrustChange::Emergency { key, counter, .. } => {
            (1, entity("emergency revocation", &key.to_string(), Some(counter.to_string())))
        }
    };
    (Class::Entity, Activity::Known(activity), Severity::Informational, json!({ "entity": entity }))
}

/// A fork: somebody has to look at the device.
pub(super) fn fork(forked: &Forked<'_>) -> Map<String, Value> {
    let id = forked.id();
    let of = forked.fork.device.as_str();
    let mut event = classified(Class::Detection, &Activity::Known(1), Severity::Critical);
    event.extend(object(json!({
        "time": ms(forked.fork.at),
        "message": forked.sentence(),
        "metadata": {
            "version": VERSION,
            "product": product(Some(env!("CARGO_PKG_VERSION"))),
            "profiles": ["host"],
            "uid": id,
            "event_code": "fork",
            "log_name": "hardtack audit",
            "logged_time": ms(forked.fork.at),
            "tenant_uid": forked.fleet,
        },
        "device": device(of),
        "finding_info": {
            "uid": id,
            "title": "a device's keys signed two trails: a clone, or a disk that was put back",
            "desc": forked.sentence(),
            "types": ["Forked audit trail"],
            "first_seen_time": ms(forked.fork.at),
        },
        "evidences": [{"data": forked.proof()}],
        "resources": [{"uid": of, "name": of, "type": "device"}],
        "confidence_id": 3,
    })));
    event
}
