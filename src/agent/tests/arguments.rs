//! Arguments of an operation: checks and policies are about them, records are not.

use super::*;
use crate::agent::request::DecisionReply;
use crate::wire::policy::BUILT_IN;

fn ask(rig: &mut Rig, token: &str, json: &str) -> DecisionReply {
    let ask = Authorize {
        token: token.into(),
        operation: "open".into(),
        resource: "door/1".into(),
        destination: None,
        risk: Some("low".parse().unwrap()),
        task: None,
        step: None,
        arguments: Some(serde_json::from_str(json).unwrap()),
    };
    match rig.ask(1001, Socket::Agent, Request::Authorize(ask)) {
        Reply::Decision(decision) => decision,
        other => panic!("no decision: {other:?}"),
    }
}

fn narrowed(rig: &mut Rig, code: &str) -> String {
    let token = mint_task(&spec("gw-07"), &rig.issuer, 7, &mut rig.rng).unwrap();
    let block = biscuit_auth::builder::BlockBuilder::new().code(code).unwrap();
    to_text(&Held::from_bytes(&token).unwrap().append(block, &mut rig.rng).unwrap().to_bytes().unwrap())
}

#[test]
fn a_holder_narrows_his_token_to_arguments() {
    let mut rig = Rig::new();
    let cases: [(&str, &[(&str, Reason)]); 6] = [
        (
            "check if argument(\"path\", $p), $p.starts_with(\"/srv/\")",
            &[
                (r#"{"path":"/srv/a"}"#, Reason::Allowed),
                (r#"{"path":"/etc/passwd"}"#, Reason::CheckFailed),
                (r#"{}"#, Reason::CheckFailed),
                (r#"{"path":["/srv/a"]}"#, Reason::CheckFailed),
                (r#"{"a":{"path":"/srv/a"}}"#, Reason::CheckFailed),
                // Not a text: comparing is an error, and an error denies.
                (r#"{"path":5}"#, Reason::CheckFailed),
                (r#"{"path":"/srv/a","path":"/etc/passwd"}"#, Reason::Malformed),
            ],
        ),
        (
            "check if argument(\"n\", $n), $n <= 3",
            &[
                (r#"{"n":3}"#, Reason::Allowed),
                (r#"{"n":3.0}"#, Reason::Allowed),
                (r#"{"n":4}"#, Reason::CheckFailed),
                (r#"{"n":2.5}"#, Reason::CheckFailed),
                (r#"{"n":"3"}"#, Reason::CheckFailed),
                (r#"{"n":-1e300}"#, Reason::Malformed),
            ],
        ),
        (
            "check all argument($name, $v), [\"path\", \"mode\"].contains($name)",
            &[
                (r#"{"path":"/srv/a","mode":1}"#, Reason::Allowed),
                (r#"{"path":"/srv/a","mode":1,"force":true}"#, Reason::CheckFailed),
            ],
        ),
        (
            "check if argument_size(\"to\", $n), $n <= 2; check if argument(\"to/0\", $a), $a.ends_with(\"@acme.example\")",
            &[
                (r#"{"to":["a@acme.example"]}"#, Reason::Allowed),
                (r#"{"to":["a@acme.example","b","c"]}"#, Reason::CheckFailed),
                (r#"{"to":["b"]}"#, Reason::CheckFailed),
            ],
        ),
        (
            "reject if argument(\"force\", true); reject if argument_null(\"until\")",
            &[
                (r#"{}"#, Reason::Allowed),
                (r#"{"force":false}"#, Reason::Allowed),
                (r#"{"force":true}"#, Reason::CheckFailed),
                (r#"{"until":null}"#, Reason::CheckFailed),
            ],
        ),
        ("argument(\"path\", \"/srv/a\")", &[(r#"{"path":"/srv/a"}"#, Reason::Malformed)]),
    ];
    for (code, asked) in cases {
        let token = narrowed(&mut rig, code);
        for (json, reason) in asked {
            let decision = ask(&mut rig, &token, json);
            assert_eq!(decision.reason, *reason, "{code} with {json}: {}", decision.explain);
        }
    }
    let token = narrowed(&mut rig, "check if argument(\"k0\", 1)");
    let many = |count| format!("{{{}}}", (0..count).map(|n| format!("\"k{n}\":1")).collect::<Vec<_>>().join(","));
    assert_eq!(ask(&mut rig, &token, &many(64)).reason, Reason::Allowed);
    assert_eq!(ask(&mut rig, &token, &many(65)).reason, Reason::TooLarge);
}

#[test]
fn a_policy_denies_by_arguments() {
    let mut rig = Rig::new();
    rig.policy(|policy| {
        policy.datalog = format!("deny if argument(\"force\", true); deny if argument(\"n\", $n), $n > 10; {BUILT_IN}");
    });
    let token = mint_task(&spec("gw-07"), &rig.issuer, 7, &mut rig.rng).unwrap();
    let token = to_text(&token);
    for (json, reason) in [
        ("{}", Reason::Allowed),
        (r#"{"n":10}"#, Reason::Allowed),
        (r#"{"force":true}"#, Reason::DeniedByPolicy),
        (r#"{"n":11}"#, Reason::DeniedByPolicy),
    ] {
        let decision = ask(&mut rig, &token, json);
        assert_eq!(decision.reason, reason, "{json}: {}", decision.explain);
    }
    // What cannot be compared does not pass.
    for json in [r#"{"n":11.5}"#, r#"{"n":"11"}"#] {
        assert_eq!(ask(&mut rig, &token, json).decision, Verdict::Deny, "{json}");
    }
}

#[test]
fn a_record_has_the_digest_of_arguments_and_never_their_text() {
    let mut rig = Rig::new();
    let token = narrowed(&mut rig, "check if argument(\"pin\", \"s3cret\")");
    let json = r#"{"pin":"s3cret","hidden-name":"hidden-value"}"#;
    assert_eq!(ask(&mut rig, &token, json).reason, Reason::Allowed);
    let wrong = ask(&mut rig, &token, r#"{"pin":"hidden-value"}"#);
    assert_eq!(wrong.reason, Reason::CheckFailed);
    assert_eq!(ask(&mut rig, &token, r#"{"pin":"hidden-value","pin":1}"#).reason, Reason::Malformed);
    assert_eq!(ask(&mut rig, &token, "{}").reason, Reason::CheckFailed);
    let records = rig.disk.records();
    let digests: Vec<_> = records
        .iter()
        .filter_map(|record| match &record.event {
            Event::Decision(decision) => Some(decision.arguments),
            _ => None,
        })
        .collect();
    let digest = |json: &str| {
        let arguments: crate::wire::arguments::Arguments = serde_json::from_str(json).unwrap();
        arguments.state().unwrap().map(|stated| stated.digest)
    };
    assert_eq!(digests, [digest(json), digest(r#"{"pin":"hidden-value"}"#), None, None]);
    rig.connect(Timestamp::from_secs(START_S + 130));
    let written = rig.disk.eras.values().flat_map(|(records, _)| records).map(|record| &record.bytes);
    for bytes in written.chain(&rig.uploads) {
        for secret in ["s3cret", "hidden"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
        }
    }
}
