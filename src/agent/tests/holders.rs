//! What tasks hang on: processes and connections that end, agents that start again, callers who ask twice.

use super::super::ending::WAITS_MAX;
use super::super::holder::{ProcessId, Tie};
use super::super::request::{
    BeginTask, Ended, Evidence, Lease, NotHolder, Peer, Problem, ProblemCode, Process, Reason, Reply, Request,
    RequestId, Socket, TaskReply, Verdict,
};
use super::super::rig::{right, Reboot, Rig};
use super::super::Input;
use crate::ids::{BootId, GrantId};
use crate::time::Millis;
use crate::wire::audit::{Event, TaskEvent, TaskStep};

const ID: RequestId = RequestId(7);

fn process(rig: &Rig, pid: u32) -> Process {
    Process::of(ProcessId { boot: BootId([rig.boot; 16]), pid, started: u64::from(pid) * 100 })
}

fn caller(process: Peer) -> Evidence {
    Evidence { process, connection: Some(3), ..Evidence::of(Socket::Agent, 1001, 1001) }
}

fn known(rig: &Rig, pid: u32) -> Evidence {
    caller(Peer::Known(process(rig, pid).into()))
}

fn wanted() -> BeginTask {
    BeginTask {
        task: "pump".parse().unwrap(),
        rights: vec![right("modbus/*", "read")],
        ttl_s: 600,
        uses: None,
        planner: false,
        reason: None,
        holder: None,
        lease: None,
        identity: None,
        key: None,
    }
}

fn ask(rig: &mut Rig, evidence: Evidence, request: Request) -> Reply {
    rig.input(Input::Request { id: ID, evidence, request });
    rig.replies.pop().expect("answered at once").1
}

#[track_caller]
fn begin(rig: &mut Rig, evidence: Evidence, begin: BeginTask) -> TaskReply {
    match ask(rig, evidence, Request::Begin(begin)) {
        Reply::Task(task) => task,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(rig: &mut Rig, evidence: Evidence, begin: BeginTask) -> Problem {
    match ask(rig, evidence, Request::Begin(begin)) {
        Reply::Problem(problem) => problem,
        other => panic!("{other:?}"),
    }
}

fn last_of(rig: &Rig, task: &TaskReply) -> TaskEvent {
    let events = rig.disk.records().into_iter().rev().find_map(|record| match record.event {
        Event::Task(event) if event.task.as_ref() == Some(&task.task_id) => Some(*event),
        _ => None,
    });
    events.expect("recorded")
}

#[track_caller]
fn check_ended(rig: &mut Rig, task: &TaskReply, why: &str) {
    let last = last_of(rig, task);
    assert_eq!((last.step, last.reason.as_str()), (TaskStep::Finished, why));
    let decision = rig.authorize(&task.token, "read", "modbus/a");
    assert_eq!((decision.decision, decision.reason), (Verdict::Deny, Reason::Revoked), "{}", decision.explain);
    assert_eq!(decision.explain, format!("task {} has ended: {why}; begin another", task.task_id));
    assert!(!rig.watched.iter().any(|tie| matches!(tie, Tie::Process(process) if process.pid == 41)));
}

#[test]
fn a_task_ends_with_the_process_that_began_it_and_no_other_does() {
    let mut rig = Rig::new();
    let evidence = known(&rig, 41);
    let (mine, also_mine) = (begin(&mut rig, evidence.clone(), wanted()), begin(&mut rig, evidence.clone(), wanted()));
    let evidence_of_another = known(&rig, 42);
    let others = begin(&mut rig, evidence_of_another, wanted());
    let (tie, other) = (Tie::Process(process(&rig, 41).id), Tie::Process(process(&rig, 42).id));
    assert_eq!(rig.watched.iter().copied().collect::<Vec<_>>(), [tie, other]);
    // One of two tasks of a process: it is watched for the other one still.
    assert!(matches!(ask(&mut rig, evidence, Request::Finish(also_mine.task_id.clone())), Reply::Finished(_)));
    assert!(rig.watched.contains(&tie));
    let younger = Tie::Process(ProcessId { started: 1, ..process(&rig, 41).id });
    rig.input(Input::Gone(younger));
    assert_eq!(rig.authorize(&mine.token, "read", "modbus/a").decision, Verdict::Allow);
    rig.input(Input::Gone(tie));
    check_ended(&mut rig, &mine, "its process ended");
    assert_eq!(rig.authorize(&others.token, "read", "modbus/a").decision, Verdict::Allow);
    match rig.ask(1001, Socket::Agent, Request::Wait(mine.task_id.clone())) {
        Reply::Ended(ended) => assert_eq!(ended.ended, Some(Ended::Gone)),
        other => panic!("{other:?}"),
    }
    // Once more, and of what nobody knows: nothing happens.
    let records = rig.disk.records().len();
    rig.input(Input::Gone(tie));
    rig.input(Input::Gone(Tie::Connection(99)));
    assert_eq!(rig.disk.records().len(), records);
}

#[test]
fn a_task_ends_with_its_last_use_and_whoever_waits_is_told() {
    let mut rig = Rig::new();
    let evidence = known(&rig, 41);
    let task = begin(&mut rig, evidence.clone(), BeginTask { uses: Some(2), ..wanted() });
    rig.input(Input::Request {
        id: RequestId(9),
        evidence: evidence.clone(),
        request: Request::Wait(task.task_id.clone()),
    });
    assert_eq!(rig.authorize(&task.token, "read", "modbus/a").reason, Reason::Allowed);
    assert!(rig.replies.is_empty(), "one is left");
    assert_eq!(rig.authorize(&task.token, "read", "modbus/a").reason, Reason::Allowed);
    match rig.replies.pop() {
        Some((RequestId(9), Reply::Ended(ended))) => assert_eq!(ended.ended, Some(Ended::UsesSpent)),
        other => panic!("{other:?}"),
    }
    let last = last_of(&rig, &task);
    assert_eq!((last.step, last.reason.as_str()), (TaskStep::Ended, "its uses are spent"));
    assert!(!rig.watched.iter().any(|tie| matches!(tie, Tie::Process(process) if process.pid == 41)));
    assert_eq!(ask(&mut rig, evidence.clone(), Request::Tasks), Reply::Tasks(Vec::new()), "its place is free");
    let check = |rig: &mut Rig| {
        assert_eq!(rig.authorize(&task.token, "read", "modbus/a").reason, Reason::UsesSpent);
        let Reply::Problem(problem) = rig.ask(1001, Socket::Agent, Request::Renew(task.task_id.clone())) else {
            panic!()
        };
        assert_eq!(problem.code, ProblemCode::Denied(Reason::UsesSpent));
        match rig.ask(1001, Socket::Agent, Request::Wait(task.task_id.clone())) {
            Reply::Ended(ended) => assert_eq!(ended.ended, Some(Ended::UsesSpent)),
            other => panic!("{other:?}"),
        }
    };
    check(&mut rig);
    rig.restart(Reboot::Process);
    check(&mut rig);
}

#[test]
fn a_task_ends_when_its_credential_does_whoever_gave_it() {
    for issued in [false, true] {
        let mut rig = Rig::new();
        let task = match issued {
            true => {
                rig.sync();
                rig.begin_issued(wanted(), |_| {})
            }
            false => rig.begin(vec![right("modbus/*", "read")], None),
        };
        let (stand, shift) = (rig.agent.clock.stand(), rig.agent.wallet.shift());
        let ends = rig.agent.wallet.task(&task.task_id).unwrap().end(&stand, shift);
        rig.pass(700);
        let ended = rig.disk.records().into_iter().find(|record| {
            matches!(&record.event, Event::Task(event) if event.step == TaskStep::Ended && event.task.as_ref() == Some(&task.task_id))
        });
        let late = ended.expect("recorded").powered.since(ends);
        assert!(late < Millis(100), "{late:?} late, issued: {issued}");
    }
}

#[test]
fn a_renewed_task_hangs_on_what_it_hung_on() {
    let mut rig = Rig::new();
    let evidence = known(&rig, 41);
    let task = begin(&mut rig, evidence, wanted());
    let from_another = known(&rig, 50);
    let Reply::Task(renewed) = ask(&mut rig, from_another, Request::Renew(task.task_id.clone())) else { panic!() };
    rig.input(Input::Gone(Tie::Process(process(&rig, 50).id)));
    assert_eq!(rig.authorize(&renewed.token, "read", "modbus/a").decision, Verdict::Allow);
    rig.input(Input::Gone(Tie::Process(process(&rig, 41).id)));
    check_ended(&mut rig, &renewed, "its process ended");
    assert_eq!(rig.authorize(&task.token, "read", "modbus/a").reason, Reason::Revoked);
}

#[test]
fn a_task_is_managed_by_whom_its_credential_is_bound_to() {
    let pod = "3f4c7d2a9b8e6f1d0c5a4b3e2f1a0d9c8b7a6f5e4d3c2b1a0f9e8d7c6b5a4f3e";
    for (selector, own, other) in [
        (
            "systemd:id:meter.service".to_owned(),
            "0::/system.slice/meter.service".to_owned(),
            "0::/system.slice/other.service".to_owned(),
        ),
        (
            format!("docker:id:{pod}"),
            format!("0::/system.slice/docker-{pod}.scope"),
            format!("0::/system.slice/docker-{}.scope", pod.replace('3', "4")),
        ),
    ] {
        let mut rig = Rig::with(|spec| spec.may_begin = vec![(selector.clone(), "pump".parse().unwrap())]);
        let within = |rig: &Rig, pid: u32, place: &str, path: &str| {
            let process = Process { cgroup: Some(place.into()), path: Some(path.into()), ..process(rig, pid) };
            caller(Peer::Known(process.into()))
        };
        let meter = within(&rig, 41, &own, "/usr/bin/meter");
        let (sibling, tool) = (within(&rig, 50, &other, "/usr/bin/meter"), within(&rig, 51, &own, "/usr/bin/tool"));
        let task = begin(&mut rig, meter, wanted());
        let id = || task.task_id.clone();
        // The same user elsewhere is as another user is.
        for request in [Request::Renew(id()), Request::Finish(id()), Request::Wait(id())] {
            let Reply::Problem(problem) = ask(&mut rig, sibling.clone(), request) else { panic!() };
            assert_eq!(problem.code, ProblemCode::NotFound, "{}", problem.detail);
        }
        assert_eq!(ask(&mut rig, sibling, Request::Tasks), Reply::Tasks(Vec::new()));
        let Reply::Tasks(listed) = ask(&mut rig, tool.clone(), Request::Tasks) else { panic!() };
        assert_eq!(listed[0].bound_to, ["unix:uid:1001".to_owned(), selector.clone()]);
        let Reply::Task(renewed) = ask(&mut rig, tool.clone(), Request::Renew(id())) else { panic!() };
        let seen = last_of(&rig, &renewed).workload;
        assert!(seen.contains(&selector), "{seen:?}");
        assert!(!seen.iter().any(|selector| selector.starts_with("unix:path:")), "of both alone: {seen:?}");
        let Reply::Problem(gone) = ask(&mut rig, caller(Peer::Gone), Request::Finish(id())) else { panic!() };
        assert!(gone.detail.contains("connect again"), "{}", gone.detail);
        assert!(matches!(ask(&mut rig, tool, Request::Finish(id())), Reply::Finished(_)));
    }
}

#[test]
fn a_task_on_a_lease_ends_with_its_connection() {
    let mut rig = Rig::new();
    let evidence = known(&rig, 41);
    let leased = BeginTask { lease: Some(Lease::Connection), ..wanted() };
    let task = begin(&mut rig, evidence.clone(), leased.clone());
    let kept = begin(&mut rig, evidence, BeginTask { lease: Some(Lease::Process), ..wanted() });
    rig.input(Input::Gone(Tie::Connection(3)));
    let last = last_of(&rig, &task);
    assert_eq!(last.reason, "its connection ended");
    assert_eq!(rig.authorize(&task.token, "read", "modbus/a").reason, Reason::Revoked);
    assert_eq!(rig.authorize(&kept.token, "read", "modbus/a").decision, Verdict::Allow);
    let again = known(&rig, 41);
    let task = begin(&mut rig, again.clone(), leased.clone());
    rig.restart(Reboot::Process);
    assert_eq!(last_of(&rig, &task).reason, "the agent ended, and with it the connection that held the task");
    let problem = refused(&mut rig, Evidence { connection: None, ..again }, leased);
    assert_eq!(problem.code, ProblemCode::Denied(Reason::WrongWorkload));
}

#[test]
fn after_a_start_a_task_hangs_on_its_process_again_or_ends_with_the_boot() {
    let mut rig = Rig::new();
    let evidence = known(&rig, 41);
    let task = begin(&mut rig, evidence, wanted());
    let unheld = begin(&mut rig, caller(Peer::Unknown), wanted());
    let tie = Tie::Process(process(&rig, 41).id);
    rig.watched.clear();
    rig.restart(Reboot::Process);
    assert!(rig.watched.contains(&tie), "watched again");
    assert_eq!(rig.authorize(&task.token, "read", "modbus/a").decision, Verdict::Allow);
    rig.restart(Reboot::Kernel);
    assert!(rig.watched.is_empty() || !rig.watched.contains(&Tie::Process(process(&rig, 41).id)));
    check_ended(&mut rig, &task, "its process ended with an earlier boot");
    assert_eq!(rig.authorize(&unheld.token, "read", "modbus/a").decision, Verdict::Allow);
}

#[test]
fn a_named_holder_holds_the_task_and_lends_nobody_its_selectors() {
    let mut rig = Rig::with(|spec| {
        let pump = "pump".parse::<crate::ids::TaskClass>().unwrap();
        spec.may_begin = vec![
            ("unix:path:/usr/bin/meter".into(), "valve".parse().unwrap()),
            ("systemd:id:meter.service".into(), pump),
        ];
    });
    let unit = Some("0::/system.slice/meter.service".to_owned());
    let parent = Process { path: Some("/usr/bin/meter".into()), cgroup: unit.clone(), ..process(&rig, 41) };
    let child = Process { path: Some("/usr/bin/tool".into()), cgroup: unit, ..process(&rig, 50) };
    let named = |holder| Evidence { holder: Some(holder), ..caller(Peer::Known(child.clone().into())) };
    let wants = |class: &str| BeginTask { task: class.parse().unwrap(), holder: Some(41), ..wanted() };
    let task = begin(&mut rig, named(Ok(parent.clone().into())), wants("pump"));
    let seen = last_of(&rig, &task).workload;
    assert!(seen.iter().any(|selector| selector == "systemd:id:meter.service"), "{seen:?}");
    assert!(!seen.iter().any(|selector| selector.starts_with("unix:path:")), "neither path is of both: {seen:?}");
    let problem = refused(&mut rig, named(Ok(parent.clone().into())), wants("valve"));
    assert_eq!(problem.code, ProblemCode::Denied(Reason::NoRight));
    for (why, says) in [
        (NotHolder::Gone, "has ended"),
        (NotHolder::NotAncestor, "ancestor"),
        (NotHolder::OtherUser, "another user"),
        (NotHolder::Unknown, "does not see"),
    ] {
        let problem = refused(&mut rig, named(Err(why)), wants("pump"));
        assert_eq!(problem.code, ProblemCode::Denied(Reason::WrongWorkload));
        assert!(problem.detail.contains(says), "{}", problem.detail);
    }
    rig.input(Input::Gone(Tie::Process(child.id)));
    assert_eq!(last_of(&rig, &task).step, TaskStep::BegunFallback, "who asked is not who holds");
    rig.input(Input::Gone(Tie::Process(parent.id)));
    assert_eq!(last_of(&rig, &task).reason, "its process ended");
}

#[test]
fn who_has_ended_begins_nothing_and_is_nobody() {
    let mut rig = Rig::new();
    let problem = refused(&mut rig, caller(Peer::Gone), wanted());
    assert_eq!(problem.code, ProblemCode::Denied(Reason::WrongWorkload));
    assert!(problem.detail.contains("connect again"), "{}", problem.detail);
    let evidence = known(&rig, 41);
    let task = begin(&mut rig, evidence, wanted());
    assert!(matches!(ask(&mut rig, caller(Peer::Gone), Request::Renew(task.task_id.clone())), Reply::Problem(_)));
    let question = super::super::request::Authorize {
        token: task.token,
        operation: "read".into(),
        resource: "modbus/a".into(),
        destination: None,
        risk: Some("low".parse().unwrap()),
        task: None,
        step: None,
        arguments: None,
    };
    let Reply::Decision(decision) = ask(&mut rig, caller(Peer::Gone), Request::Authorize(question)) else { panic!() };
    assert_eq!(decision.reason, Reason::WrongWorkload);
    assert!(decision.explain.contains("has ended"), "{}", decision.explain);
}

#[test]
fn a_holder_that_ends_while_the_issuer_is_asked_gets_no_task() {
    let mut rig = Rig::new();
    rig.sync();
    let evidence = known(&rig, 41);
    let first = begin_online(&mut rig, evidence.clone());
    assert!(first.is_none(), "the issuer is asked");
    rig.input(Input::Gone(Tie::Process(process(&rig, 41).id)));
    let Some((_, Reply::Problem(problem))) = rig.replies.pop() else { panic!() };
    assert_eq!(problem.code, ProblemCode::Denied(Reason::WrongWorkload));
    rig.pass(10);
    assert!(rig.replies.is_empty(), "and no task from the grant after that");
}

fn begin_online(rig: &mut Rig, evidence: Evidence) -> Option<Reply> {
    rig.input(Input::Request { id: ID, evidence, request: Request::Begin(wanted()) });
    rig.replies.pop().map(|(_, reply)| reply)
}

#[test]
fn the_same_key_gives_the_same_answer_for_as_long_as_the_task_lives() {
    let mut rig = Rig::new();
    let keyed = |key: &str| BeginTask { key: Some(key.into()), ..wanted() };
    let evidence = known(&rig, 41);
    let first = begin(&mut rig, evidence.clone(), keyed("a"));
    rig.pass(100);
    let again = begin(&mut rig, evidence.clone(), keyed("a"));
    assert_eq!((&again.task_id, &again.token), (&first.task_id, &first.token));
    assert!(again.expires_in_s <= first.expires_in_s - 100, "{} s are left", again.expires_in_s);
    assert_ne!(begin(&mut rig, evidence.clone(), keyed("b")).task_id, first.task_id);
    let Reply::Task(renewed) = ask(&mut rig, evidence.clone(), Request::Renew(first.task_id.clone())) else { panic!() };
    let again = begin(&mut rig, evidence.clone(), keyed("a"));
    assert_eq!((&again.task_id, &again.token), (&first.task_id, &renewed.token), "the one that is good");
    let problem = refused(&mut rig, evidence.clone(), BeginTask { ttl_s: 60, ..keyed("a") });
    assert_eq!((problem.code, problem.code.status()), (ProblemCode::KeyReused, 409));
    // Another program of the same user, and another user.
    let other = Process { path: Some("/usr/bin/other".into()), ..process(&rig, 42) };
    let problem = refused(&mut rig, caller(Peer::Known(other.into())), keyed("a"));
    assert_eq!(problem.code, ProblemCode::KeyReused);
    for key in ["", "a b", "\u{e9}", &"k".repeat(129)] {
        assert_eq!(refused(&mut rig, evidence.clone(), keyed(key)).code, ProblemCode::InvalidRequest, "{key:?}");
    }
    rig.input(Input::Gone(Tie::Process(process(&rig, 41).id)));
    let after = known(&rig, 43);
    assert_ne!(begin(&mut rig, after, keyed("a")).task_id, first.task_id, "the task has ended, and the key with it");
}

#[test]
fn a_refusal_says_who_was_seen_and_what_is_missing() {
    let mut rig = Rig::with(|spec| {
        let may = |selector: &str| (selector.to_owned(), "pump".parse().unwrap());
        spec.may_begin = vec![may("unix:path:/usr/bin/meter"), may("unix:uid:7")];
    });
    let evidence = known(&rig, 41);
    let problem = refused(&mut rig, evidence.clone(), wanted());
    assert_eq!(problem.seen, ["unix:uid:1001", "unix:gid:1001"]);
    let hint = problem.hint.unwrap();
    assert!(hint.contains("unix:path:/usr/bin/meter, unix:uid:7") && hint.contains("CAP_SYS_PTRACE"), "{hint}");
    let other = BeginTask { task: "crane".parse().unwrap(), ..wanted() };
    let hint = refused(&mut rig, evidence.clone(), other).hint.unwrap();
    assert!(hint.contains("none here is for \"crane\""), "{hint}");
    let meter = Process { path: Some("/usr/bin/meter".into()), ..process(&rig, 41) };
    let more = BeginTask { rights: vec![right("crane/1", "lift")], ..wanted() };
    let hint = refused(&mut rig, caller(Peer::Known(meter.into())), more).hint.unwrap();
    assert!(hint.contains("every right"), "{hint}");
    let id: GrantId = rig.grant;
    assert!(hint.contains(&id.to_string()), "{hint}");
}

#[test]
fn at_an_enforcement_point_the_record_says_possession() {
    let mut rig = Rig::new();
    let evidence = known(&rig, 41);
    let task = begin(&mut rig, evidence.clone(), wanted());
    let question = |token: &str| {
        Request::Authorize(super::super::request::Authorize {
            token: token.into(),
            operation: "read".into(),
            resource: "modbus/a".into(),
            destination: None,
            risk: Some("low".parse().unwrap()),
            task: None,
            step: None,
            arguments: None,
        })
    };
    let last = |rig: &Rig| match rig.disk.records().pop().map(|record| record.event) {
        Some(Event::Decision(decision)) => (decision.workload.clone(), decision.enforcer.clone()),
        other => panic!("{other:?}"),
    };
    let proxy = Evidence { process: Peer::Known(process(&rig, 9).into()), ..Evidence::of(Socket::Pep, 33, 33) };
    ask(&mut rig, proxy.clone(), question(&task.token));
    let (holder, enforcer) = last(&rig);
    assert_eq!(holder, ["unix:uid:1001", "unix:gid:1001"]);
    assert_eq!(enforcer, ["unix:uid:33", "unix:gid:33"], "who asked is named, so this is possession");
    ask(&mut rig, evidence, question(&task.token));
    assert_eq!(last(&rig), (holder, Vec::new()), "the workload itself asked, so this is attested");
    rig.input(Input::Gone(Tie::Process(process(&rig, 41).id)));
    let Reply::Decision(decision) = ask(&mut rig, proxy, question(&task.token)) else { panic!() };
    assert_eq!(decision.reason, Reason::Revoked, "its holder is not live");
}

#[test]
fn nobody_takes_all_the_places_of_those_who_wait_for_an_end() {
    let mut rig = Rig::with(|spec| spec.may_begin.push(("unix:uid:1002".into(), "pump".parse().unwrap())));
    let of = |uid: u32| Evidence::of(Socket::Agent, uid, uid);
    let tasks = [1001, 1002].map(|uid| begin(&mut rig, of(uid), wanted()).task_id);
    let wait = |rig: &mut Rig, id: u64, uid: u32| {
        rig.replies.clear();
        let request = Request::Wait(tasks[(uid - 1001) as usize].clone());
        rig.input(Input::Request { id: RequestId(id), evidence: of(uid), request });
        std::mem::take(&mut rig.replies)
    };
    for id in 100..100 + WAITS_MAX as u64 {
        assert!(wait(&mut rig, id, 1001).is_empty(), "there is a place");
    }
    let refused = wait(&mut rig, 900, 1001);
    let throttled = |reply: &Reply| matches!(reply, Reply::Problem(problem) if problem.code == ProblemCode::Throttled);
    assert!(refused.len() == 1 && throttled(&refused[0].1), "{refused:?}");
    // Another user's place is that of who has waited longest of those who have so many; up to as many as these have left.
    for id in 0..WAITS_MAX as u64 / 2 {
        let told = wait(&mut rig, 200 + id, 1002);
        let [(request, Reply::Ended(ended))] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((*request, &ended.task_id, ended.ended), (RequestId(100 + id), &tasks[0], None));
    }
    let refused = wait(&mut rig, 901, 1002);
    assert!(refused.len() == 1 && throttled(&refused[0].1), "{refused:?}");
    rig.replies.clear();
    rig.ask(1002, Socket::Agent, Request::Finish(tasks[1].clone()));
    let heard = rig.replies.iter().filter(|(_, reply)| matches!(reply, Reply::Ended(ended) if ended.ended.is_some()));
    assert_eq!(heard.count(), WAITS_MAX / 2, "who waits hears of it");
}
