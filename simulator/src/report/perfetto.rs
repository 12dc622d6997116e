//! A run as Chrome trace events, which Perfetto and `chrome://tracing` open.
//!
//! Owns: one process per gateway with its state, its link and what befell it; one for the fleet with its counters.
//! Never: nests what overlaps: faults are asynchronous events with ids of their own.
//! Read next: `record.rs`.

use serde_json::{json, Value};

use super::marks::{Mark, Whom};
use super::record::{Changes, Lane, Link, State, CURVE_BINS};
use super::shown::Shown;

/// The fleet's process; gateways follow.
const FLEET: u64 = 1;
const STATE: u64 = 1;
const LINK: u64 = 2;
const DECISIONS: u64 = 3;

/// The file.
pub fn trace(of: &Shown) -> String {
    let recording = &of.recording;
    let (start, end) = (recording.start, recording.start + recording.duration);
    let mut events = vec![named("process_name", FLEET, 0, "fleet")];
    for (lane, number) in recording.lanes.iter().zip(0..) {
        gateway(&mut events, lane, number, end);
    }
    for (mark, id) in of.marks.iter().zip(1u64..) {
        befalls(&mut events, mark, id);
    }
    for (at, feed) in &recording.revocations {
        events.push(json!({ "ph": "i", "s": "g", "name": "revoked", "cat": "operator", "pid": FLEET, "tid": 0,
            "ts": at * 1000, "args": { "feed": feed } }));
    }
    for bin in 0..CURVE_BINS {
        let at = (start + (bin * recording.duration).div_ceil(CURVE_BINS)) * 1000;
        let curves = &recording.curves;
        let of = |curve: &Vec<u64>| curve.get(bin as usize).copied().unwrap_or(0);
        let mean = |curve: &Vec<u64>| of(curve) as f64 / 1000.0;
        let states: serde_json::Map<String, Value> = State::NAMES
            .iter()
            .zip(&curves.states)
            .map(|(name, curve)| ((*name).to_owned(), mean(curve).into()))
            .collect();
        let counters = [
            ("gateways", Value::Object(states)),
            ("audit backlog", json!({ "records": mean(&curves.backlog) })),
            ("at the newest revocation", json!({ "gateways": mean(&curves.current) })),
            ("decisions", json!({ "allowed": of(&curves.allowed), "denied": of(&curves.denied) })),
        ];
        for (name, args) in counters {
            events.push(json!({ "ph": "C", "name": name, "pid": FLEET, "tid": 0, "ts": at, "args": args }));
        }
    }
    json!({
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "scenario": of.scenario.name,
            "profile": of.label,
            "seed": of.report.seed,
            "verdict": of.report.verdict().name(),
            "trace_hash": hardtack::ids::hex(&of.report.trace_hash),
        },
    })
    .to_string()
}

fn pid(number: u32) -> u64 {
    FLEET + 1 + u64::from(number)
}

fn named(what: &str, pid: u64, tid: u64, name: &str) -> Value {
    json!({ "ph": "M", "name": what, "pid": pid, "tid": tid, "args": { "name": name } })
}

fn gateway(events: &mut Vec<Value>, lane: &Lane, number: u32, end: u64) {
    let pid = pid(number);
    events.push(named("process_name", pid, 0, &format!("gw-{number}")));
    for (thread, name) in [(STATE, "state"), (LINK, "link"), (DECISIONS, "decisions")] {
        events.push(named("thread_name", pid, thread, name));
    }
    stretches(events, &lane.state, end, |state| Some(State::NAMES[state as usize]), (pid, STATE, "state"));
    let blocked = |link: Link| (link != Link::Open).then(|| Link::NAMES[link as usize]);
    stretches(events, &lane.link, end, blocked, (pid, LINK, "link"));
    for single in &lane.singles {
        let name = match (single.allow, single.revoked) {
            (true, true) => "allow, revoked",
            (true, false) => "allow",
            (false, _) => "deny",
        };
        events.push(json!({ "ph": "i", "s": "t", "name": name, "cat": "decision", "pid": pid, "tid": DECISIONS,
            "ts": single.at * 1000 }));
    }
}

fn stretches<T: Copy>(
    events: &mut Vec<Value>,
    changes: &Changes<T>,
    end: u64,
    name: impl Fn(T) -> Option<&'static str>,
    (pid, tid, cat): (u64, u64, &str),
) {
    let ends = changes.iter().skip(1).map(|(at, _)| *at).chain([end]);
    for ((at, what), until) in changes.iter().zip(ends) {
        if let Some(name) = name(*what) {
            events.push(json!({ "ph": "X", "name": name, "cat": cat, "pid": pid, "tid": tid, "ts": at * 1000,
                "dur": until.saturating_sub(*at) * 1000 }));
        }
    }
}

fn befalls(events: &mut Vec<Value>, mark: &Mark, id: u64) {
    let (pid, cat) = match mark.whom {
        Whom::Broker => (FLEET, "broker"),
        Whom::Gateway(number) => (pid(number), "fault"),
        Whom::Operator => (FLEET, "operator"),
        Whom::Service => (FLEET, "service"),
    };
    for (phase, at) in [("b", mark.at), ("e", mark.at + mark.lasts)] {
        events.push(
            json!({ "ph": phase, "id": id, "name": mark.name, "cat": cat, "pid": pid, "tid": 0, "ts": at * 1000 }),
        );
    }
}
