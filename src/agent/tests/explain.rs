//! What an explanation names: the check, or the part of the policy, that decided.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::agent::request::{Attenuate, DecisionReply};
use crate::wire::policy::BUILT_IN;

/// Whether a reason is one that a check of the token or a part of the policy gives.
fn names_one(reason: Reason) -> bool {
    match reason {
        Reason::Expired
        | Reason::NotYetValid
        | Reason::WrongWorkload
        | Reason::CheckFailed
        | Reason::NoRight
        | Reason::DeniedByPolicy => true,
        // Decided before any Datalog, or by what no rule is about. A credential of this agent is for this device by its block 0.
        Reason::Malformed
        | Reason::TooLarge
        | Reason::TooComplex
        | Reason::WrongAlgorithm
        | Reason::BadSignature
        | Reason::UnknownRoot
        | Reason::WrongFleet
        | Reason::WrongDevice
        | Reason::FeedUnknown
        | Reason::Revoked
        | Reason::TimeUntrusted
        | Reason::Stale
        | Reason::OfflineSpent
        | Reason::BootsSpent
        | Reason::UsesSpent
        | Reason::AuditFull
        | Reason::Locked
        | Reason::EngineTimeout
        | Reason::Throttled
        | Reason::Allowed => false,
    }
}

fn ask(rig: &mut Rig, uid: u32, token: &str, operation: &str, resource: &str, json: &str) -> DecisionReply {
    let ask = Authorize {
        token: token.into(),
        operation: operation.into(),
        resource: resource.into(),
        destination: None,
        risk: Some("low".parse().unwrap()),
        task: None,
        step: None,
        arguments: Some(serde_json::from_str(json).unwrap()),
    };
    match rig.ask(uid, Socket::Agent, Request::Authorize(ask)) {
        Reply::Decision(decision) => decision,
        other => panic!("no decision: {other:?}"),
    }
}

#[test]
fn an_explanation_names_what_decided() {
    // A check of the holder, a policy in front of the built-in one, arguments; what is told.
    let cases: [(&str, &str, &str, Reason, &str); 13] = [
        ("", "", "{}", Reason::Allowed, "allowed"),
        (
            "check if time($t), $t <= 2020-01-01T00:00:00Z",
            "",
            "{}",
            Reason::Expired,
            "(check 0 of block 1: until 2020-01-01T00:00:00Z)",
        ),
        (
            "check if operation(\"open\"); check if time($t), $t > 2030-01-01T00:00:00Z, $t < 2031-01-01T00:00:00Z",
            "",
            "{}",
            Reason::NotYetValid,
            "(check 1 of block 1: from 2030-01-01T00:00:01Z and until 2030-12-31T23:59:59Z)",
        ),
        (
            "check if argument(\"n\", $n), $n < 3",
            "",
            r#"{"n":3}"#,
            Reason::CheckFailed,
            "(check 0 of block 1: check if argument(\"n\", $n), $n < 3)",
        ),
        (
            "check if argument(\"n\", $n), $n < 3",
            "",
            r#"{"n":"3"}"#,
            Reason::CheckFailed,
            "an expression of the token failed",
        ),
        (
            "",
            "deny if risk(\"absurd\");\n// no force\n//  at   night \ndeny if argument(\"force\", true);",
            r#"{"force":true}"#,
            Reason::DeniedByPolicy,
            "denied by policy 2 \"at   night\": deny if argument(\"force\", true)",
        ),
        (
            "",
            "deny if argument(\"force\", true); // no name of the next\n",
            r#"{"force":true}"#,
            Reason::DeniedByPolicy,
            "denied by policy 1: deny if argument(\"force\", true)",
        ),
        (
            "",
            "// slow only\ncheck if argument(\"n\", $n), $n < 3;",
            r#"{"n":3}"#,
            Reason::DeniedByPolicy,
            "denied, for it does not pass check 1 \"slow only\": check if argument(\"n\", $n), $n < 3",
        ),
        (
            "",
            // What would fail by itself but is not come to, and what is behind it, is not named.
            "check if true;\ndeny if risk(\"absurd\");\n// fast\ndeny if argument(\"n\", $n), $n > 3;\ndeny if argument(\"n\", $n), $n > 5;",
            r#"{"n":"4"}"#,
            Reason::DeniedByPolicy,
            "policy 2 \"fast\": deny if argument(\"n\", $n), $n > 3",
        ),
        (
            "",
            "fast(true) <- argument(\"n\", $n), $n > 3;\ndeny if fast(true);",
            r#"{"n":"4"}"#,
            Reason::DeniedByPolicy,
            "cannot be applied to this request (Invalid type): a rule of it",
        ),
        (
            "",
            "check if argument(\"n\", $n), $n < 9 or true;\ndeny if risk(\"absurd\");\n// the\ncheck if argument(\"m\", $m), $m < 9;",
            r#"{"n":1,"m":"4"}"#,
            Reason::DeniedByPolicy,
            "check 2 \"the\": check if argument(\"m\", $m), $m < 9",
        ),
        // What the token denies is told first, though the policy cannot be applied.
        (
            "check if operation(\"close\")",
            "deny if argument(\"n\", $n), $n > 3;",
            r#"{"n":"4"}"#,
            Reason::CheckFailed,
            "(check 0 of block 1: check if operation(\"close\"))",
        ),
        // Of several reasons the first on the list is told.
        (
            "check if operation(\"close\")",
            "deny if true;",
            "{}",
            Reason::CheckFailed,
            "(check 0 of block 1: check if operation(\"close\"))",
        ),
    ];
    let mut named = BTreeSet::new();
    for (check, policy, json, reason, told) in cases {
        let mut rig = Rig::new();
        rig.policy(|document| document.datalog = format!("{policy}\n{BUILT_IN}"));
        let mut held = Held::from_bytes(&mint_task(&spec("gw-07"), &rig.issuer, 7, &mut rig.rng).unwrap()).unwrap();
        if !check.is_empty() {
            let block = biscuit_auth::builder::BlockBuilder::new().code(check).unwrap();
            held = held.append(block, &mut rig.rng).unwrap();
        }
        let decision = ask(&mut rig, 1001, &to_text(&held.to_bytes().unwrap()), "open", "door/1", json);
        assert_eq!(decision.reason, reason, "{check} {policy}: {}", decision.explain);
        assert!(decision.explain.contains(told), "{check} {policy}: {}", decision.explain);
        // Which expression of a token fails, and which rule, the library does not say.
        let untold = ["an expression of the token", "a rule of it"].iter().any(|untold| told.contains(untold));
        let by = decision.decided_by.map(|by| by.to_string());
        assert_eq!(by.is_none(), untold, "{check} {policy}: {by:?}");
        let shown = |by: &str| reason == Reason::Allowed || decision.explain.contains(by);
        assert!(by.as_deref().is_none_or(shown), "{by:?} in {}", decision.explain);
        named.insert(reason);
    }
    // Credentials of this agent are named by what they limit, with the check.
    let mut rig = Rig::new();
    let task = rig.begin(vec![right("modbus/pump1/speed", "write")], None);
    let mut check = |uid, resource: &str, reason, told: &str| {
        let decision = ask(&mut rig, uid, &task.token, "write", resource, "{}");
        assert_eq!(decision.reason, reason, "{}", decision.explain);
        assert!(decision.explain.contains(told), "{}", decision.explain);
        named.insert(reason);
    };
    check(1001, "modbus/pump2/speed", Reason::NoRight, "(check 2 of block 1: check if ");
    check(
        1002,
        "modbus/pump1/speed",
        Reason::WrongWorkload,
        "(check 0 of block 2: check if workload(\"unix:uid:1001\"))",
    );
    let expected: BTreeSet<Reason> = Reason::ALL.into_iter().filter(|reason| names_one(*reason)).collect();
    named.remove(&Reason::Allowed);
    assert_eq!(named, expected);
}

#[test]
fn an_answer_has_a_field_for_the_clause_that_decided() {
    let mut rig = Rig::new();
    let code = "// too fast\ncheck if argument(\"n\", $n), $n < 9;\ndeny if argument(\"n\", 7); // none\n";
    rig.policy(|document| document.datalog = format!("{code}{BUILT_IN}"));
    let task = rig.begin(vec![right("modbus/pump1/speed", "write")], None);
    let narrow = |rig: &mut Rig, check: &str| {
        let ask = Attenuate { token: task.token.clone(), ttl_s: None, checks: vec![check.into()], scope: Vec::new() };
        match rig.ask(1001, Socket::Agent, Request::Attenuate(ask)) {
            Reply::Attenuated(reply) => reply.token,
            other => panic!("not narrowed: {other:?}"),
        }
    };
    let slow = narrow(&mut rig, "check if argument(\"n\", $n), $n < 5");
    let mut check = |token: &str, json: &str, expected: serde_json::Value| {
        let decision = ask(&mut rig, 1001, token, "write", "modbus/pump1/speed", json);
        assert_eq!(serde_json::to_value(&decision.decided_by).unwrap(), expected, "{}", decision.explain);
    };
    let policy = |clause: &str, number: u64, name: Option<&str>, text: &str| json!({"clause": clause, "block": null, "number": number, "name": name, "text": text});
    let covered = "allow if task_class($c), resource($r), operation($o), class_right($c, $r, $o)";
    check(&slow, r#"{"n":4}"#, policy("policy", 4, None, covered));
    check(&task.token, r#"{"n":7}"#, policy("policy", 1, None, "deny if argument(\"n\", 7)"));
    check(&task.token, r#"{"n":9}"#, policy("check", 1, Some("too fast"), "check if argument(\"n\", $n), $n < 9"));
    let of_token = json!({"clause": "token_check", "block": 3, "number": 0, "name": null, "text": "check if argument(\"n\", $n), $n < 5"});
    check(&slow, r#"{"n":5}"#, of_token);
    check("AAAA", "{}", json!(null));
    assert!(matches!(rig.ask(1001, Socket::Agent, Request::Finish(task.task_id)), Reply::Finished(_)));
    let ended = ask(&mut rig, 1001, &task.token, "write", "modbus/pump1/speed", r#"{"n":4}"#);
    assert_eq!((ended.reason, ended.decided_by), (Reason::Revoked, None), "no clause revokes");
}

#[test]
fn what_an_explanation_shows_of_a_stranger_is_short_and_plain() {
    let mut rig = Rig::new();
    let token = mint_task(&spec("gw-07"), &rig.issuer, 7, &mut rig.rng).unwrap();
    let long = format!("check if {}", ["operation(\"close\")"; 12].join(" or "));
    for code in ["check if operation(\"\u{1b}[2J\u{202e}\n\u{7f}x\")", &long] {
        let block = biscuit_auth::builder::BlockBuilder::new().code(code).unwrap();
        let narrowed = Held::from_bytes(&token).unwrap().append(block, &mut rig.rng).unwrap().to_bytes().unwrap();
        let decision = ask(&mut rig, 1001, &to_text(&narrowed), "open", "door/1", "{}");
        assert_eq!(decision.reason, Reason::CheckFailed, "{}", decision.explain);
        assert!(decision.explain.contains("check 0 of block 1"), "{}", decision.explain);
        assert!(decision.explain.len() < 400, "{}", decision.explain);
        assert!(!decision.explain.contains(['\u{1b}', '\u{202e}', '\n', '\u{7f}']), "{:?}", decision.explain);
    }
}
