//! What enforcement points are told of tokens.

use super::super::request::{Attenuate, BeginTask, Reply, Request, Socket, TaskReply};
use super::super::rig::{right, Rig};
use super::*;
use crate::wire::audit::{Event, Record};

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
    match rig.ask(33, Socket::Pep, Request::Introspect(token.into())) {
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
}
