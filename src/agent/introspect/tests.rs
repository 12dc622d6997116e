//! What enforcement points are told of tokens.

use super::super::request::{Attenuate, BeginTask, Introspect, Reply, Request, Socket, TaskReply};
use super::super::rig::{right, Rig};
use super::super::tests::spec;
use super::*;
use crate::time::Millis;
use crate::wire::audit::{Event, Record};
use crate::wire::policy::{RiskRule, TimeRule};
use crate::wire::token::{mint_task, to_text, Held as HeldToken};

fn begun(rig: &mut Rig, uses: Option<u64>, planner: bool) -> TaskReply {
    let begin = BeginTask {
        task: "pump".parse().unwrap(),
        rights: vec![right("modbus/pump1/speed", "write"), right("modbus/*", "read")],
        ttl_s: 600,
        uses,
        planner,
        reason: None,
        holder: None,
        lease: None,
        identity: None,
        key: None,
    };
    match rig.ask(1001, Socket::Agent, Request::Begin(begin)) {
        Reply::Task(task) => task,
        other => panic!("{other:?}"),
    }
}

fn told(rig: &mut Rig, token: &str) -> Option<IntrospectedReply> {
    told_for(rig, token, None)
}

/// The same to who says where the effect goes.
fn told_for(rig: &mut Rig, token: &str, destination: Option<&str>) -> Option<IntrospectedReply> {
    let ask = Introspect { token: token.into(), destination: destination.map(str::to_owned) };
    match rig.ask(33, Socket::Pep, Request::Introspect(ask)) {
        Reply::Introspected(told) => told.map(|told| *told),
        other => panic!("{other:?}"),
    }
}

fn last(rig: &Rig) -> Record {
    rig.disk.records().pop().unwrap()
}

#[track_caller]
fn check_recorded(rig: &Rig, reason: Reason) {
    let record = last(rig);
    let Event::Decision(decision) = record.event else { panic!("{record:?}") };
    assert_eq!((decision.operation.as_str(), decision.resource.as_str()), (INTROSPECT, RESOURCE));
    assert_eq!((decision.reason.as_str(), decision.allow), (reason.name(), reason == Reason::Allowed));
    assert_eq!(decision.enforcer[0], "unix:uid:33");
}

#[test]
fn an_active_token_is_told_with_what_it_may_and_that_is_a_recorded_use() {
    let mut rig = Rig::new();
    let task = begun(&mut rig, Some(2), false);
    let first = told(&mut rig, &task.token).unwrap();
    assert_eq!(first.scope, [right("modbus/pump1/speed", "write"), right("modbus/*", "read")]);
    assert_eq!((first.sub.as_str(), first.client_id.as_deref()), ("ops@acme", Some("unix:uid:1001")));
    assert_eq!((first.task_id, first.step_id, first.aud), (Some(task.task_id.clone()), None, None));
    check_recorded(&rig, Reason::Allowed);
    assert!(first.decision_id.ends_with(&format!("/{}", last(&rig).index)));
    assert!(told(&mut rig, &task.token).is_some());
    assert_eq!(told(&mut rig, &task.token), None, "two uses, two answers");
    check_recorded(&rig, Reason::UsesSpent);
    assert_eq!(rig.authorize(&task.token, "read", "modbus/a").reason, Reason::UsesSpent);
}

#[test]
fn of_a_token_that_is_good_for_nothing_only_the_record_says_why() {
    let mut rig = Rig::new();
    let planner = begun(&mut rig, None, true);
    assert_eq!(told(&mut rig, &planner.token), None);
    check_recorded(&rig, Reason::NoRight);
    assert_eq!(told(&mut rig, "AAAA"), None);
    check_recorded(&rig, Reason::Malformed);
    let task = begun(&mut rig, None, false);
    rig.pass(700);
    assert_eq!(told(&mut rig, &task.token), None);
    check_recorded(&rig, Reason::Expired);
    let task = begun(&mut rig, None, false);
    rig.ask(1001, Socket::Agent, Request::Finish(task.task_id));
    assert_eq!(told(&mut rig, &task.token), None);
    check_recorded(&rig, Reason::Revoked);
    // A grant never leaves the wallet; were it stolen, it would be good for nothing.
    let grant = rig.agent.wallet.grants().next().unwrap().1.token.clone();
    assert_eq!(told(&mut rig, &crate::wire::token::to_text(&grant)), None);
    check_recorded(&rig, Reason::NoRight);
}

#[test]
fn no_more_is_told_than_every_check_would_let_pass() {
    let mut rig = Rig::new();
    let task = begun(&mut rig, None, false);
    let mut narrowed = |checks: &[&str], scope: Vec<Right>| {
        let checks = checks.iter().map(|check| (*check).to_owned()).collect();
        let ask = Attenuate { token: task.token.clone(), ttl_s: Some(60), checks, scope };
        match rig.ask(1001, Socket::Agent, Request::Attenuate(ask)) {
            Reply::Attenuated(narrowed) => told(&mut rig, &narrowed.token).map(|told| told.scope),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(narrowed(&[r#"check if operation("write")"#], vec![]), Some(vec![right("modbus/pump1/speed", "write")]));
    assert_eq!(
        narrowed(&[r#"check if resource("modbus/pump1/speed")"#], vec![]).unwrap().len(),
        1,
        "no prefix any more"
    );
    assert_eq!(narrowed(&[r#"check if destination("plc-3")"#], vec![]), None, "nobody says where it goes");
    assert_eq!(narrowed(&[], vec![right("modbus/*", "read")]), Some(vec![right("modbus/*", "read")]));
    let there = exchanged(&mut rig, &task.token, &[r#"check if destination("plc-3")"#], vec![]);
    assert_eq!(told_for(&mut rig, &there, Some("plc-3")).unwrap().scope.len(), 2);
    let Event::Decision(decision) = last(&rig).event else { panic!() };
    assert_eq!(decision.destination.as_deref(), Some("plc-3"));
    assert_eq!(told_for(&mut rig, &there, Some("plc-4")), None);
}

/// The credential of a task with these rights.
fn task(rig: &mut Rig, rights: Vec<Right>) -> String {
    rig.begin(rights, None).token
}

fn exchanged(rig: &mut Rig, token: &str, checks: &[&str], scope: Vec<Right>) -> String {
    let checks = checks.iter().map(|check| (*check).to_owned()).collect();
    let ask = Attenuate { token: token.into(), ttl_s: Some(60), checks, scope };
    match rig.ask(1001, Socket::Agent, Request::Attenuate(ask)) {
        Reply::Attenuated(narrowed) => narrowed.token,
        other => panic!("{other:?}"),
    }
}

fn scope(rig: &mut Rig, token: &str) -> Option<Vec<Right>> {
    told(rig, token).map(|told| told.scope)
}

#[test]
fn what_is_not_ascii_is_told_and_exchanged_as_the_rest() {
    let (plain, odd) = (right("modbus/a", "read"), right("modbus/größe", "read"));
    let mut rig = Rig::new();
    let token = task(&mut rig, vec![odd.clone(), plain.clone()]);
    assert_eq!(scope(&mut rig, &token), Some(vec![odd.clone(), plain.clone()]));
    let narrower = exchanged(&mut rig, &token, &[], vec![odd.clone()]);
    assert_eq!(scope(&mut rig, &narrower), Some(vec![odd.clone()]));
    assert_eq!(used(&mut rig, &narrower, &odd, None, "{}"), Reason::Allowed);
    assert_ne!(used(&mut rig, &narrower, &plain, None, "{}"), Reason::Allowed);
}

#[test]
fn a_prefix_is_told_only_where_nothing_else_asks_about_what_is_below_it() {
    let mut rig = Rig::new();
    let all = right("modbus/*", "read");
    let token = task(&mut rig, vec![all.clone()]);
    assert_eq!(scope(&mut rig, &token), Some(vec![all.clone()]));
    // What is narrowed to the one resource that is tried for all is not told as all.
    for name in ["token", "a", "b"] {
        let resource = format!("modbus/{name}");
        let one = exchanged(&mut rig, &token, &[&format!("check if resource({resource:?})")], vec![]);
        assert_eq!(rig.authorize(&one, "read", &resource).reason, Reason::Allowed);
        assert_eq!(scope(&mut rig, &one), None, "{resource}");
        let one = exchanged(&mut rig, &token, &[], vec![right(&resource, "read")]);
        assert_eq!(scope(&mut rig, &one), Some(vec![right(&resource, "read")]));
        // What it was narrowed to stays, whatever it is narrowed by further.
        let again = exchanged(&mut rig, &one, &[r#"check if operation("read")"#], vec![]);
        assert_eq!(scope(&mut rig, &again), Some(vec![right(&resource, "read")]));
    }
    let below = exchanged(&mut rig, &token, &[], vec![right("modbus/a/*", "read")]);
    let below =
        exchanged(&mut rig, &below, &[r#"check if enforcer("unix:uid:33")"#], vec![right("modbus/a/b/*", "read")]);
    assert_eq!(scope(&mut rig, &below), Some(vec![right("modbus/a/b/*", "read")]));
    let part = exchanged(&mut rig, &below, &[r#"check if resource($r), !$r.ends_with("x")"#], vec![]);
    assert_eq!(scope(&mut rig, &part), None, "one check more, and the scope is not all of it");
}

#[test]
fn a_policy_that_asks_about_the_resource_leaves_no_prefix() {
    let (all, one) = (right("modbus/*", "read"), right("modbus/a", "read"));
    for (policy, whole) in [
        ("", true),
        (r#"deny if mode("locked");"#, true),
        (r#"deny if resource($r), $r.starts_with("modbus/admin/");"#, false),
        (r#"check if resource($r), !$r.starts_with("modbus/admin/");"#, false),
        (r#"off($r) <- resource($r), $r.starts_with("modbus/admin/"); deny if off($r);"#, false),
        (r#"allow if resource("modbus/token"); "#, false),
        (r#"class_right_prefix("pump", "modbus/t", "read"); "#, false),
    ] {
        let mut rig = Rig::new();
        let token = task(&mut rig, vec![all.clone(), one.clone()]);
        rig.policy(|document| document.datalog = format!("{policy}\n{}", crate::wire::policy::BUILT_IN));
        let expected = if whole { vec![all.clone(), one.clone()] } else { vec![one.clone()] };
        assert_eq!(scope(&mut rig, &token), Some(expected), "{policy}");
    }
}

/// What a right is used with: values of every type under each name that a clause asks about, and nothing.
const ARGUMENTS_TRIED: [&str; 8] = [
    "{}",
    r#"{"rpm":1}"#,
    r#"{"rpm":1501}"#,
    r#"{"rpm":"x"}"#,
    r#"{"rpm":null,"force":true}"#,
    r#"{"rpm":true,"force":"yes"}"#,
    r#"{"rpm":[1,"x"],"mode":7}"#,
    r#"{"rpm":21.5,"other":{"a":null}}"#,
];

fn used(rig: &mut Rig, token: &str, right: &Right, destination: Option<&str>, arguments: &str) -> Reason {
    let ask = Authorize {
        token: token.into(),
        operation: right.action.clone(),
        resource: right.resource.replace('*', "a"),
        destination: destination.map(str::to_owned),
        risk: None,
        task: None,
        step: None,
        arguments: Some(serde_json::from_str(arguments).unwrap()),
    };
    match rig.ask(33, Socket::Pep, Request::Authorize(ask)) {
        Reply::Decision(decision) => decision.reason,
        other => panic!("no decision: {other:?}"),
    }
}

/// Those that are allowed whatever a request brings.
fn always_allowed(rig: &mut Rig, token: &str, rights: &[Right]) -> Vec<Right> {
    let destinations = [None, Some("plc-3"), Some("plc-4"), Some("x")];
    let brought = || ARGUMENTS_TRIED.iter().flat_map(|arguments| destinations.map(|to| (to, *arguments)));
    let mut allowed = |right: &Right, (to, arguments)| used(rig, token, right, to, arguments) == Reason::Allowed;
    rights.iter().filter(|right| brought().all(|brought| allowed(right, brought))).cloned().collect()
}

#[test]
fn a_right_is_told_where_a_request_is_allowed_whatever_it_brings() {
    let (write, read) = (right("modbus/pump1/speed", "write"), right("modbus/*", "read"));
    let rights = [write.clone(), read.clone()];
    let (all, reads, none) = (&[write.clone(), read.clone()][..], &[read.clone()][..], &[][..]);
    let built_in = crate::wire::policy::BUILT_IN;
    for (policy, expected) in [
        (r#"deny if operation("write"), argument("rpm", $rpm), $rpm > 1500;"#, reads),
        (r#"deny if operation($o), argument("rpm", $rpm), $o == "write", $rpm > 1500;"#, reads),
        (r#"deny if argument("force", true);"#, none),
        (r#"deny if operation("open"), argument("force", true);"#, all),
        (r#"reject if operation("write"), argument_null("rpm");"#, reads),
        (r#"check all argument($name, $value), ["rpm"].contains($name);"#, none),
        (r#"check if operation($o), $o != "write" or argument("rpm", $rpm), $rpm <= 1500;"#, reads),
        (r#"allow if operation("open"), argument("rpm", $rpm), $rpm <= 1500;"#, all),
        (r#"allow if operation("write"), argument("mode", 7);"#, all),
        (r#"deny if destination("plc-4");"#, none),
        (r#"deny if operation("write"), destination($d), !$d.starts_with("plc-");"#, reads),
        // What a clause cannot be evaluated for denies, be it one that would have allowed.
        (r#"deny if operation($o), argument("rpm", $rpm), $rpm > 99999, $o == "open";"#, none),
        (r#"reject if operation($o), argument("rpm", $rpm), $rpm > 99999, $o == "open";"#, none),
        (r#"allow if operation("write"), argument("rpm", $rpm), $rpm <= 1500;"#, reads),
        (
            r#"allow if argument("rpm", $rpm), $rpm <= 1500 or operation("read"), argument_size("rpm", $n), $n > 0;"#,
            none,
        ),
        (r#"fast($rpm) <- argument("rpm", $rpm), $rpm > 1500; deny if operation("write"), fast($rpm);"#, none),
        (
            r#"a($x) <- argument($n, $x); b($x) <- a($x); deny if operation("read"), b(1) or operation("write"), b(1);"#,
            none,
        ),
        // What holds without it is tried first.
        (r#"check if argument("rpm", $rpm), $rpm <= 1500 or operation("read");"#, reads),
        (r#"allow if argument("rpm", $rpm), $rpm <= 1500 or operation("read");"#, reads),
        (r#"check if argument("rpm", $rpm), $rpm <= 1500 or destination($d), $d != "" or operation("read");"#, reads),
    ] {
        let mut rig = Rig::new();
        let token = task(&mut rig, rights.to_vec());
        rig.policy(|document| document.datalog = format!("{policy}\n{built_in}"));
        let told = scope(&mut rig, &token).unwrap_or_default();
        assert_eq!(told, expected, "{policy}");
        assert_eq!(always_allowed(&mut rig, &token, &rights), told, "{policy}");
        if policy.starts_with("deny") && policy.contains("destination") {
            let there = told_for(&mut rig, &token, Some("plc-3")).map(|told| told.scope);
            assert_eq!(there.as_deref(), Some(all), "{policy}");
        }
    }
    // Of a condition about both nobody knows what is left.
    let mut rig = Rig::new();
    let token = task(&mut rig, rights.to_vec());
    rig.policy(|document| {
        let deny = r#"deny if operation($o), argument("rpm", $rpm), $o == "write" && $rpm > 1500;"#;
        document.datalog = format!("{deny}\n{built_in}");
    });
    assert_eq!(scope(&mut rig, &token), None);
    assert_eq!(always_allowed(&mut rig, &token, &rights), reads);
    // Where it goes is told, and what it is done with is not.
    let mut rig = Rig::new();
    let token = task(&mut rig, rights.to_vec());
    rig.policy(|document| {
        let check = r#"check if argument("rpm", $rpm), $rpm <= 1500 or destination($d), $d.starts_with("plc-");"#;
        document.datalog = format!("{check}\n{built_in}");
    });
    assert_eq!(scope(&mut rig, &token), None);
    assert_eq!(told_for(&mut rig, &token, Some("plc-3")).unwrap().scope, all);
    for arguments in ARGUMENTS_TRIED {
        assert_eq!(used(&mut rig, &token, &write, Some("plc-3"), arguments), Reason::Allowed, "{arguments}");
    }
    // What stands behind the allow decides nothing.
    let mut rig = Rig::new();
    let token = task(&mut rig, rights.to_vec());
    rig.policy(|document| document.datalog = format!("{built_in}\ndeny if argument(\"force\", true);"));
    assert_eq!(scope(&mut rig, &token).as_deref(), Some(all));
    assert_eq!(always_allowed(&mut rig, &token, &rights), all);
}

#[test]
fn a_right_is_told_where_a_check_of_the_holder_passes_whatever_a_request_brings() {
    let (write, read) = (right("modbus/pump1/speed", "write"), right("modbus/*", "read"));
    let rights = [write.clone(), read.clone()];
    let (all, reads, none) = (&[write.clone(), read.clone()][..], &[read.clone()][..], &[][..]);
    for (check, told, allowed) in [
        (r#"reject if argument("force", true)"#, none, none),
        (r#"check all argument($name, $value), $name == "rpm""#, none, none),
        (r#"reject if destination("plc-4")"#, none, none),
        (r#"reject if operation("open")"#, all, all),
        (r#"check if argument("force", true) or operation("read")"#, reads, reads),
        (r#"check if operation("read") or argument("rpm", $rpm), $rpm < 1500"#, reads, reads),
        // These are tried in the order in which they were signed.
        (r#"check if argument("rpm", $rpm), $rpm < 1500 or operation("read")"#, none, none),
        (r#"check if operation("write"), argument("rpm", $rpm), $rpm < 1500 or operation("read")"#, none, reads),
    ] {
        let mut rig = Rig::new();
        let token = task(&mut rig, rights.to_vec());
        let narrower = exchanged(&mut rig, &token, &[check], vec![]);
        assert_eq!(scope(&mut rig, &narrower).unwrap_or_default(), told, "{check}");
        assert_eq!(always_allowed(&mut rig, &narrower, &rights), allowed, "{check}");
    }
    // A rule is tried with every request, and what it makes is in the way of others.
    for (code, good) in [
        (r#"fast($rpm) <- argument("rpm", $rpm), $rpm > 1500; check if operation("open");"#, false),
        (r#"there($d) <- destination($d); check if operation("open");"#, false),
        (r#"opens($o) <- operation($o); check if opens("open");"#, true),
    ] {
        let mut rig = Rig::new();
        let held = HeldToken::from_bytes(&mint_task(&spec("gw-07"), &rig.issuer, 7, &mut rig.rng).unwrap()).unwrap();
        let block = biscuit_auth::builder::BlockBuilder::new().code(code).unwrap();
        let narrower = to_text(&held.append(block, &mut rig.rng).unwrap().to_bytes().unwrap());
        assert_eq!(scope(&mut rig, &narrower).is_some(), good, "{code}");
    }
}

#[test]
fn each_right_is_held_against_its_own_risk_and_time_class() {
    let (all, one, other) = (right("modbus/*", "read"), right("modbus/a", "read"), right("modbus/b", "read"));
    // Without a round trip in this boot, what is strict is not told.
    for (line, expected) in [("modbus/b", vec![one.clone()]), ("modbus/x/*", vec![one.clone(), other.clone()])] {
        let mut rig = Rig::new();
        let token = task(&mut rig, vec![all.clone(), one.clone(), other.clone()]);
        let rule = TimeRule { operation: "read".into(), resource: line.into(), class: TimeClass::Strict };
        rig.policy(|document| document.time_rules = vec![rule]);
        rig.switch_off(1);
        let resource = line.replace('*', "y");
        assert_eq!(rig.authorize(&token, "read", &resource).reason, Reason::TimeUntrusted);
        assert_eq!(scope(&mut rig, &token), Some(expected), "{line}");
    }
    // What is stale for its class of risk is not told, though it is not for the one of the question.
    let mut rig = Rig::new();
    let token = task(&mut rig, vec![all, one.clone(), other]);
    let rule = |operation: &str, resource: &str, risk: &str| RiskRule {
        operation: operation.into(),
        resource: resource.into(),
        risk: risk.parse().unwrap(),
    };
    rig.policy(|document| {
        document.risk_rules =
            vec![rule(INTROSPECT, "*", "low"), rule("read", "modbus/a", "low"), rule("*", "*", "medium")];
        document.risks[1].staleness_max_ms = Some(Millis(1));
    });
    rig.pass(60);
    assert_eq!(scope(&mut rig, &token), Some(vec![one]));
    let none = exchanged(&mut rig, &token, &[], vec![right("modbus/b", "read")]);
    assert_eq!(scope(&mut rig, &none), None);
    check_recorded(&rig, Reason::Stale);
}

#[test]
fn what_cannot_be_found_out_is_the_whole_answer() {
    let mut rig = Rig::new();
    let rights = (0..RIGHTS_MAX).map(|number| right(&format!("modbus/{number}/*"), "read")).collect();
    let token = task(&mut rig, rights);
    assert_eq!(scope(&mut rig, &token).map(|scope| scope.len()), Some(RIGHTS_MAX));
    // In each of them lies what is of another class, and it can be before or after the token was issued: that is more runs than
    // there may be.
    rig.policy(|document| {
        let rule = |number: usize, below: &str, risk: &str| RiskRule {
            operation: "*".into(),
            resource: format!("modbus/{number}/{below}"),
            risk: risk.parse().unwrap(),
        };
        document.risk_rules = (0..RIGHTS_MAX)
            .flat_map(|number| [rule(number, "a", "low"), rule(number, "b", "medium"), rule(number, "*", "high")])
            .collect();
        let line = |number: usize| TimeRule {
            operation: "*".into(),
            resource: format!("modbus/{number}/a"),
            class: TimeClass::Floor,
        };
        document.time_rules = (0..RIGHTS_MAX).map(line).collect();
    });
    assert_eq!(scope(&mut rig, &token).map(|scope| scope.len()), Some(RIGHTS_MAX));
    rig.switch_off(1);
    assert_eq!(scope(&mut rig, &token), None);
    check_recorded(&rig, Reason::TooComplex);
    // So it is with few rights and many instants that it can be: each date of the token makes some.
    let mut rig = Rig::new();
    let rights = (0..RIGHTS_MAX).map(|number| right(&format!("modbus/{number}"), "read")).collect();
    let token = task(&mut rig, rights);
    rig.switch_off(1);
    let (floor, powered) = (rig.agent.clock.floor(), rig.agent.clock.powered());
    assert!(powered.since(floor) > Millis::from_secs(30));
    let until = |secs: u64| floor + Millis::from_secs(secs);
    let open = [10, 20].map(|secs| format!(r#"check if operation($o), $o != "x" or time($t), $t < {}"#, until(secs)));
    assert_eq!(scope(&mut rig, &token).map(|scope| scope.len()), Some(RIGHTS_MAX));
    let narrower = exchanged(&mut rig, &token, &open.each_ref().map(String::as_str), vec![]);
    let decision = rig.authorize(&narrower, "read", "modbus/7");
    assert_eq!(decision.reason, Reason::Allowed, "{}", decision.explain);
    assert_eq!(scope(&mut rig, &narrower), None);
    check_recorded(&rig, Reason::TooComplex);
    // A policy that needs more than a run may have, or would with all that a request can bring.
    for (count, alone) in [(33, Reason::TooComplex), (30, Reason::Allowed)] {
        let mut rig = Rig::new();
        let read = right("modbus/a", "read");
        let token = task(&mut rig, vec![read.clone()]);
        rig.policy(|document| {
            let facts: String = (0..count).map(|n| format!("n({n});")).collect();
            let clauses = "m($x, $y) <- n($x), n($y); deny if operation(\"open\"), argument(\"a\", 1);";
            document.datalog = format!("{facts} {clauses} {}", crate::wire::policy::BUILT_IN);
        });
        let many: Vec<String> = (0..ARGUMENTS_MAX).map(|number| format!("\"{number}\":1")).collect();
        assert_eq!(used(&mut rig, &token, &read, None, "{}"), alone);
        assert_eq!(used(&mut rig, &token, &read, None, &format!("{{{}}}", many.join(","))), Reason::TooComplex);
        assert_eq!(scope(&mut rig, &token), None);
        check_recorded(&rig, Reason::TooComplex);
    }
}
