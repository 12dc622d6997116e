//! Tasks that somebody initiated, by the word of an issuer.

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::Signer;
use serde_json::{json, Value};

use super::super::attest::forms;
use super::super::request::{
    IdentityDocument, Problem, ProblemCode, Reason, Reply, Request, Socket, TakeStep, TaskReply, TaskSummary, Verdict,
};
use super::super::rig::{key, right, Reboot, Rig, START_S};
use super::super::{Input, LinkEvent};
use super::*;
use crate::time::Millis;
use crate::wire::audit::{Event, TaskEvent, TaskStep};
use crate::wire::identity::{IdentityIssuer, IdentityKey, VerifyingKey};

const ISSUER: &str = "https://id.example";
const DOMAIN: &str = "spiffe://acme.example";

fn issuer(name: &str, seeds: &[u8]) -> IdentityIssuer {
    let one = |seed: &u8| {
        let public = VerifyingKey::EdDsa(key(*seed).verifying_key().into());
        IdentityKey { kid: format!("k{seed}"), key: public }
    };
    IdentityIssuer { name: name.into(), audiences: vec!["gw".into()], keys: seeds.iter().map(one).collect() }
}

fn trusting(rig: &mut Rig, issuers: Vec<IdentityIssuer>) {
    let (topic, payload) = rig.bundle(|trust| trust.identities = issuers);
    rig.connect_only();
    rig.message(topic, payload);
    rig.input(Input::Link(LinkEvent::Disconnected { reason: "cut".into() }));
}

/// A device whose trust bundle names a provider and a trust domain; its grant lets the plain user begin, and whom they name.
fn rig() -> Rig {
    let mut rig = Rig::with(|spec| {
        let class = || "valve".parse().unwrap();
        spec.may_begin.push((format!("oidc:sub:{ISSUER}#ann"), class()));
        spec.may_begin.push((format!("spiffe:id:{DOMAIN}/planner"), class()));
        spec.may_begin.iter().for_each(|(selector, _)| assert_eq!(forms::form(selector), Ok(())));
        spec.rights.push(crate::wire::token::ClassRight { class: class(), right: right("valve/1", "turn") });
    });
    trusting(&mut rig, vec![issuer(ISSUER, &[31, 32]), issuer(DOMAIN, &[33])]);
    rig
}

fn document(form: DocumentType, kid: u8, claims: &Value) -> IdentityDocument {
    let header = json!({"alg": "EdDSA", "kid": format!("k{kid}")});
    let parts = [&header, claims].map(|part| BASE64URL_NOPAD.encode(part.to_string().as_bytes())).join(".");
    let signature = key(kid).sign(parts.as_bytes()).to_bytes();
    IdentityDocument { form, token: format!("{parts}.{}", BASE64URL_NOPAD.encode(&signature)) }
}

/// P, in seconds.
fn now(rig: &Rig) -> i64 {
    rig.agent.clock.powered().secs_floor() as i64
}

/// An ID token that counts from `from` to `to`, in seconds from now.
fn ann(rig: &Rig, from: i64, to: i64) -> IdentityDocument {
    let claims = json!({"iss": ISSUER, "sub": "ann", "aud": "gw", "iat": now(rig) + from, "exp": now(rig) + to});
    document(DocumentType::Oidc, 31, &claims)
}

fn wanted(class: &str, identity: Option<IdentityDocument>) -> BeginTask {
    let rights = if class == "valve" { vec![right("valve/1", "turn")] } else { vec![right("modbus/*", "read")] };
    BeginTask {
        task: class.parse().unwrap(),
        rights,
        ttl_s: 600,
        uses: None,
        planner: false,
        reason: None,
        holder: None,
        lease: None,
        identity,
        key: None,
    }
}

#[track_caller]
fn begun(rig: &mut Rig, begin: BeginTask) -> TaskReply {
    match rig.ask(1001, Socket::Agent, Request::Begin(begin)) {
        Reply::Task(task) => task,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn begun_by_ann(rig: &mut Rig, class: &str, from: i64, to: i64) -> TaskReply {
    let document = ann(rig, from, to);
    begun(rig, wanted(class, Some(document)))
}

#[track_caller]
fn refused_to_ann(rig: &mut Rig, from: i64, to: i64) -> Problem {
    let document = ann(rig, from, to);
    refused(rig, Request::Begin(wanted("pump", Some(document))))
}

#[track_caller]
fn refused(rig: &mut Rig, request: Request) -> Problem {
    match rig.ask(1001, Socket::Agent, request) {
        Reply::Problem(problem) => problem,
        other => panic!("{other:?}"),
    }
}

fn events(rig: &Rig) -> Vec<TaskEvent> {
    let records = rig.disk.records().into_iter();
    records.filter_map(|record| if let Event::Task(event) = record.event { Some(*event) } else { None }).collect()
}

fn named(issuer: &str, subject: &str) -> Option<Initiator> {
    Some(Initiator { issuer: issuer.into(), subject: subject.into() })
}

fn listed(rig: &mut Rig) -> Vec<TaskSummary> {
    match rig.ask(1001, Socket::Agent, Request::Tasks) {
        Reply::Tasks(tasks) => tasks,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_initiated_a_task_is_on_record_with_all_that_is_done_with_it() {
    let mut rig = rig();
    let plain = begun(&mut rig, wanted("pump", None));
    let task = begun_by_ann(&mut rig, "pump", -10, 3600);
    assert!((599..=600).contains(&task.expires_in_s), "no longer than was asked for: {}", task.expires_in_s);
    let begin = events(&rig).pop().unwrap();
    assert_eq!((begin.step, begin.initiator.clone()), (TaskStep::BegunFallback, named(ISSUER, "ann")));
    assert_eq!(begin.workload, ["unix:uid:1001", "unix:gid:1001"], "what the kernel attests, and nothing else");
    let listed = listed(&mut rig);
    let of = |id| listed.iter().find(|task| task.task_id == id).unwrap().initiator.clone();
    assert_eq!((of(plain.task_id.clone()), of(task.task_id.clone())), (None, named(ISSUER, "ann")));
    for (token, initiator) in [(&plain.token, None), (&task.token, named(ISSUER, "ann"))] {
        assert_eq!(rig.authorize(token, "read", "modbus/a").decision, Verdict::Allow);
        let record = rig.disk.records().pop().unwrap();
        assert_eq!(record.names().unwrap().initiator, initiator);
    }
    rig.restart(Reboot::Process);
    rig.authorize(&task.token, "write", "modbus/a");
    let Reply::Finished(_) = rig.ask(1001, Socket::Agent, Request::Finish(task.task_id)) else {
        panic!("not finished")
    };
    let finished = events(&rig).pop().unwrap();
    assert_eq!((finished.step, finished.initiator), (TaskStep::Finished, named(ISSUER, "ann")));
}

#[test]
fn a_grant_may_ask_for_a_document_and_only_the_one_it_names_will_do() {
    let mut rig = rig();
    let refusal = refused(&mut rig, Request::Begin(wanted("valve", None)));
    assert_eq!(refusal.code, ProblemCode::Denied(Reason::NoRight));
    assert!(refusal.hint.unwrap().contains("oidc:sub:https://id.example#ann"));
    // Bound to the user alone: nobody brings a document with each request.
    let task = begun_by_ann(&mut rig, "valve", -10, 3600);
    assert_eq!(rig.authorize(&task.token, "turn", "valve/1").reason, Reason::Allowed);
    let ends = now(&rig) + 900;
    let svid = |sub: &str| {
        let claims = json!({"sub": sub, "aud": ["gw"], "exp": ends});
        document(DocumentType::JwtSvid, 33, &claims)
    };
    let task = begun(&mut rig, wanted("valve", Some(svid("spiffe://acme.example/planner"))));
    assert_eq!(events(&rig).pop().unwrap().initiator, named(DOMAIN, "spiffe://acme.example/planner"));
    assert_eq!(rig.authorize(&task.token, "turn", "valve/1").reason, Reason::Allowed);
    // One subject of two issuers is two.
    let other = json!({"iss": ISSUER, "sub": "bob", "aud": "gw", "iat": ends - 900, "exp": ends});
    for document in [svid("spiffe://acme.example/other"), document(DocumentType::Oidc, 32, &other)] {
        let refusal = refused(&mut rig, Request::Begin(wanted("valve", Some(document))));
        assert_eq!(refusal.code, ProblemCode::Denied(Reason::NoRight));
        assert!(refusal.seen.iter().any(|seen| seen.contains("other") || seen.contains("#bob")), "{:?}", refusal.seen);
        let event = events(&rig).pop().unwrap();
        assert!(event.step == TaskStep::Refused && event.initiator.is_some(), "who was refused is proved: {event:?}");
    }
}

#[test]
fn no_credential_outlives_the_document() {
    let mut rig = rig();
    let task = begun_by_ann(&mut rig, "pump", -10, 100);
    assert!(task.expires_in_s < 100 && task.expires_in_s > 80, "{}", task.expires_in_s);
    let held = begun(&mut rig, wanted("pump", None));
    rig.pass(105);
    assert_eq!(rig.authorize(&task.token, "read", "modbus/a").reason, Reason::Expired);
    assert_eq!(rig.authorize(&held.token, "read", "modbus/a").reason, Reason::Allowed);
    // Nor does one that is renewed.
    let mut rig = self::rig();
    let document = ann(&rig, -10, 100);
    let task = begun(&mut rig, BeginTask { ttl_s: 60, ..wanted("pump", Some(document)) });
    rig.pass(50);
    let Reply::Task(renewed) = rig.ask(1001, Socket::Agent, Request::Renew(task.task_id.clone())) else {
        panic!("not renewed")
    };
    assert!(renewed.expires_in_s < 50, "{}", renewed.expires_in_s);
    assert_eq!(events(&rig).pop().unwrap().initiator, named(ISSUER, "ann"));
    rig.pass(55);
    assert_eq!(rig.authorize(&renewed.token, "read", "modbus/a").reason, Reason::Expired);
}

#[test]
fn nor_does_one_that_the_issuer_mints() {
    let mut rig = rig();
    rig.named.0 = 2;
    rig.sync();
    let document = ann(&rig, -10, 100);
    let task = rig.begin_issued(wanted("pump", Some(document)), |spec| {
        assert!(spec.expires.since(spec.issued) < Millis::from_secs(100), "it is not asked for more");
        // The issuer has a clock of its own, or does not care.
        spec.expires = spec.issued + Millis::from_secs(600);
    });
    assert!(task.expires_in_s < 100, "{}", task.expires_in_s);
    let begin = events(&rig).pop().unwrap();
    assert_eq!((begin.step, begin.initiator), (TaskStep::BegunIssued, named(ISSUER, "ann")));
    assert_eq!(rig.authorize(&task.token, "read", "modbus/a").reason, Reason::Allowed);
    rig.pass(105);
    assert_eq!(rig.authorize(&task.token, "read", "modbus/a").reason, Reason::Expired);
}

#[test]
fn a_document_is_judged_by_the_trusted_clock() {
    let mut rig = rig();
    let mut check = |from, to, expected: Option<FaultKind>| match expected {
        None => drop(begun_by_ann(&mut rig, "pump", from, to)),
        Some(kind) => {
            let refusal = refused_to_ann(&mut rig, from, to);
            assert_eq!(refusal.code, ProblemCode::Identity(kind), "{from} {to}: {}", refusal.detail);
            assert_eq!(refusal.code.status(), 403);
            let event = events(&rig).pop().unwrap();
            assert_eq!((event.step, event.reason.as_str()), (TaskStep::Refused, kind.name()));
            assert_eq!(event.initiator, None);
        }
    };
    check(-3600, -1, Some(FaultKind::Expired));
    check(-3600, 0, Some(FaultKind::Expired));
    check(-3600, 600, None);
    check(60, 600, Some(FaultKind::NotYetValid));
    check(100 * 365 * 86_400, 101 * 365 * 86_400, Some(FaultKind::NotYetValid));
    // After a boot nobody knows how long the device was off: the lease counts, and what may have ended has.
    let before = now(&rig);
    let soon = ann(&rig, -10, 20);
    rig.restart(Reboot::Kernel);
    assert!(now(&rig) > before + 20, "{}", now(&rig) - before);
    let refusal = refused(&mut rig, Request::Begin(wanted("pump", Some(soon.clone()))));
    assert_eq!(refusal.code, ProblemCode::Identity(FaultKind::Expired));
    // The system clock may make it stricter, and never more lenient.
    rig.now.wall = Some(Timestamp::from_secs(START_S + 7200));
    assert_eq!(refused_to_ann(&mut rig, -10, 3600).code, ProblemCode::Identity(FaultKind::Expired));
    rig.now.wall = Some(Timestamp::from_secs(START_S - 86_400));
    let refusal = refused(&mut rig, Request::Begin(wanted("pump", Some(soon))));
    assert_eq!(refusal.code, ProblemCode::Identity(FaultKind::Expired));
}

#[test]
fn keys_rotate_and_what_is_believed_no_more_renews_nothing() {
    let mut rig = rig();
    let of = |kid: u8| {
        let claims = json!({"iss": ISSUER, "sub": "ann", "aud": "gw", "iat": START_S, "exp": START_S + 36_000});
        wanted("pump", Some(document(DocumentType::Oidc, kid, &claims)))
    };
    let (old, new) = (begun(&mut rig, of(31)), begun(&mut rig, of(32)));
    let planner = begun(&mut rig, BeginTask { planner: true, ..of(31) });
    trusting(&mut rig, vec![issuer(ISSUER, &[32, 34])]);
    begun(&mut rig, of(34));
    let refusal = refused(&mut rig, Request::Begin(of(31)));
    assert_eq!(refusal.code, ProblemCode::Identity(FaultKind::UnknownKey));
    let refusal = refused(&mut rig, Request::Renew(old.task_id.clone()));
    assert_eq!(refusal.code, ProblemCode::Identity(FaultKind::UnknownKey));
    assert_eq!(rig.authorize(&old.token, "read", "modbus/a").reason, Reason::Allowed, "up to its end");
    let step = TakeStep {
        token: planner.token,
        executor: "unix:uid:2002".into(),
        rights: vec![right("modbus/*", "read")],
        ttl_s: 60,
        uses: None,
        risk: Some("low".parse().unwrap()),
        idempotency_key: None,
        reason: None,
    };
    let refusal = refused(&mut rig, Request::Step(planner.task_id, step));
    assert_eq!(refusal.code, ProblemCode::Denied(Reason::Revoked), "{}", refusal.detail);
    let Reply::Task(_) = rig.ask(1001, Socket::Agent, Request::Renew(new.task_id.clone())) else {
        panic!("not renewed")
    };
    trusting(&mut rig, Vec::new());
    for request in [Request::Renew(new.task_id), Request::Begin(of(32))] {
        assert_eq!(refused(&mut rig, request).code, ProblemCode::Identity(FaultKind::UnknownIssuer));
    }
}
