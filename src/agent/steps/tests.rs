//! Planners and executors through the agent, with real Biscuits: each row of the design's table, and what a planner that was
//! taken over would try.

use biscuit_auth::builder::BlockBuilder;

use crate::agent::effects::StateFile;
use crate::agent::holder::ProcessId;
use crate::agent::request::{
    Attenuate, Authorize, BeginTask, ClauseKind, DecisionReply, Introspect, Origin, Problem, ProblemCode, Process,
    Reason, Reply, Request, Socket, StepReply, TakeStep, TaskReply,
};
use crate::agent::rig::{right, Reboot, Rig, Rule, START_S};
use crate::agent::steps::STEPS_MAX;
use crate::agent::wallet::{Made, Sibling, StoredTask};
use crate::ids::{BootId, TaskId};
use crate::time::Timestamp;
use crate::wire::audit::{Credential, Decision, Event, Named, NamedStep, TaskEvent, TaskStep};
use crate::wire::link::Right;
use crate::wire::policy::BUILT_IN;
use crate::wire::revocation::Target;
use crate::wire::token::{child_block, to_text, Held, Purpose};

const ORIGINS: [Origin; 2] = [Origin::Fallback, Origin::Issued];
const SPEED: &str = "modbus/pump1/speed";
const EXECUTOR: &str = "unix:uid:2002";

/// The rights of every task here.
fn rights() -> Vec<Right> {
    vec![right(SPEED, "write"), right("modbus/*", "read")]
}

fn wanted(planner: bool, uses: Option<u64>) -> BeginTask {
    BeginTask {
        task: "pump".parse().unwrap(),
        rights: rights(),
        ttl_s: 600,
        uses,
        planner,
        reason: None,
        holder: None,
        lease: None,
        identity: None,
        key: None,
    }
}

fn begin_as(rig: &mut Rig, uid: u32, begin: BeginTask) -> TaskReply {
    match rig.ask(uid, Socket::Agent, Request::Begin(begin)) {
        Reply::Task(task) => task,
        other => panic!("no task: {other:?}"),
    }
}

fn begin(rig: &mut Rig, origin: Origin, planner: bool, uses: Option<u64>) -> TaskReply {
    let task = match origin {
        Origin::Issued => {
            rig.sync();
            rig.begin_issued(wanted(planner, uses), |_| {})
        }
        Origin::Fallback => begin_as(rig, 1001, wanted(planner, uses)),
    };
    assert_eq!(task.origin, origin);
    task
}

/// A device with a planner's task, of each origin.
fn each_planner(mut check: impl FnMut(&mut Rig, &TaskReply)) {
    for origin in ORIGINS {
        let mut rig = Rig::new();
        let task = begin(&mut rig, origin, true, None);
        check(&mut rig, &task);
    }
}

/// To write the speed once.
fn ask(token: &str) -> TakeStep {
    TakeStep {
        token: token.into(),
        executor: EXECUTOR.into(),
        rights: vec![right(SPEED, "write")],
        ttl_s: 60,
        uses: None,
        risk: Some("low".parse().unwrap()),
        idempotency_key: None,
        reason: Some("speed up".into()),
    }
}

fn take_as(rig: &mut Rig, uid: u32, task: &TaskId, ask: TakeStep) -> Result<StepReply, Problem> {
    match rig.ask(uid, Socket::Agent, Request::Step(task.clone(), ask)) {
        Reply::Step(step) => Ok(step),
        Reply::Problem(problem) => Err(problem),
        other => panic!("no step: {other:?}"),
    }
}

fn take(rig: &mut Rig, task: &TaskReply) -> StepReply {
    take_as(rig, 1001, &task.task_id, ask(&task.token)).unwrap()
}

fn last_decision(rig: &Rig) -> (u64, Decision) {
    let records = rig.disk.records();
    let last = records.iter().rev().find_map(|record| Some((record.index, record.decision()?.clone())));
    last.expect("a decision is on disk before its answer")
}

/// What the last decision names its credential by.
fn named(rig: &Rig) -> Named {
    match last_decision(rig).1.credential {
        Credential::Named(named) => *named,
        other => panic!("not in full: {other:?}"),
    }
}

fn steps(rig: &Rig) -> Vec<TaskEvent> {
    let events = rig.disk.records().into_iter().filter_map(|record| match record.event {
        Event::Task(event) if event.step == TaskStep::Stepped => Some(*event),
        _ => None,
    });
    events.collect()
}

#[track_caller]
fn check(decision: &DecisionReply, reason: Reason) {
    assert_eq!(decision.reason, reason, "{}", decision.explain);
}

/// How it is explained.
#[track_caller]
fn check_use(rig: &mut Rig, uid: u32, token: &str, (operation, resource): (&str, &str), reason: Reason) -> String {
    let decision = rig.authorize_as(uid, token, operation, resource);
    check(&decision, reason);
    let (index, recorded) = last_decision(rig);
    assert_eq!((index, recorded.reason.as_str()), (decision.audit.index, reason.name()));
    decision.explain
}

/// The exchange is refused for this reason, which is recorded, and no step comes of it.
#[track_caller]
fn check_refused(rig: &mut Rig, uid: u32, task: &TaskId, ask: TakeStep, reason: Reason) {
    let (executor, before) = (ask.executor.clone(), steps(rig).len());
    let problem = take_as(rig, uid, task, ask).unwrap_err();
    let code = if reason == Reason::Throttled { ProblemCode::Throttled } else { ProblemCode::Denied(reason) };
    assert_eq!(problem.code, code, "{}", problem.detail);
    assert_eq!(problem.seen.first(), Some(&format!("unix:uid:{uid}")), "who was seen");
    let (index, recorded) = last_decision(rig);
    assert!(problem.detail.ends_with(&format!("/{index})")), "{}", problem.detail);
    assert_eq!((recorded.allow, recorded.reason.as_str()), (false, reason.name()));
    assert_eq!((recorded.operation.as_str(), recorded.resource.as_str()), ("hardtack:exchange", task.as_str()));
    assert_eq!(recorded.destination, Some(executor));
    assert_eq!(recorded.workload[0], format!("unix:uid:{uid}"));
    assert_eq!(steps(rig).len(), before);
}

/// The wallet's own credential of a task, which is never handed out.
fn credential(rig: &Rig, task: &TaskReply) -> Held {
    let stored = StoredTask::from_file(&rig.disk.files[&StateFile::Task(task.task_id.clone())]).unwrap();
    Held::from_bytes(&stored.token).unwrap()
}

#[test]
fn a_child_does_what_its_rights_cover_and_nothing_else() {
    for origin in ORIGINS {
        let mut rig = Rig::new();
        let task = begin(&mut rig, origin, false, None);
        let rows = [
            (1001, "write", SPEED, Reason::Allowed),
            (1001, "read", "modbus/valve9/state", Reason::Allowed),
            (1001, "write", "modbus/valve1", Reason::NoRight),
            (2002, "write", SPEED, Reason::WrongWorkload),
            (1001, "hardtack:exchange", task.task_id.as_str(), Reason::NoRight),
        ];
        for (uid, operation, resource, reason) in rows {
            check_use(&mut rig, uid, &task.token, (operation, resource), reason);
        }
        check_refused(&mut rig, 1001, &task.task_id, ask(&task.token), Reason::NoRight);
    }
}

#[test]
fn what_a_further_block_states_widens_nothing() {
    for origin in ORIGINS {
        let mut rig = Rig::new();
        let task = begin(&mut rig, origin, false, None);
        let code = r#"right("modbus/valve1", "write"); class_right("pump", "modbus/valve1", "write");
            right_prefix("modbus/", "write"); may_step("unix:uid:1001", "pump");"#;
        let wide = BlockBuilder::new().code(code).unwrap();
        // What stays in the wallet is good for nothing, whoever took it,
        let own = credential(&rig, &task);
        let stolen = to_text(&own.append(wide.clone(), &mut rig.rng).unwrap().to_bytes().unwrap());
        check_use(&mut rig, 1001, &stolen, ("write", SPEED), Reason::NoRight);
        // and what is handed out is sealed. Were it not:
        let device = (origin == Origin::Issued).then(|| "gw-07".parse().unwrap());
        let child = child_block(&["unix:uid:1001"], Purpose::Work, device.as_ref()).unwrap();
        let child = own.append(child, &mut rig.rng).unwrap();
        let mut stored = rig.agent.wallet.task(&task.task_id).unwrap().clone();
        let made = Made { block: *child.chain().last().unwrap(), ..stored.made[0] };
        stored.siblings.push(Sibling { made, step: None, checks: Vec::new(), scope: Vec::new() });
        rig.agent.wallet.put_task(stored);
        let token = to_text(&child.append(wide, &mut rig.rng).unwrap().to_bytes().unwrap());
        check_use(&mut rig, 1001, &token, ("write", SPEED), Reason::Allowed);
        check_use(&mut rig, 1001, &token, ("write", "modbus/valve1"), Reason::NoRight);
    }
}

#[test]
fn a_credential_ends_with_its_time() {
    for origin in ORIGINS {
        let mut rig = Rig::new();
        let task = begin(&mut rig, origin, true, None);
        let step = take(&mut rig, &task);
        rig.pass(58);
        check_use(&mut rig, 2002, &step.token, ("read", SPEED), Reason::NoRight);
        rig.pass(5);
        check_use(&mut rig, 2002, &step.token, ("write", SPEED), Reason::Expired);
        rig.pass(600);
        check_refused(&mut rig, 1001, &task.task_id, ask(&task.token), Reason::Expired);
    }
}

#[test]
fn a_grant_and_a_child_without_its_task_have_no_right() {
    let mut rig = Rig::new();
    let task = begin(&mut rig, Origin::Fallback, false, None);
    let grant = to_text(&rig.successor(rig.grant, Timestamp::from_secs(START_S + 86_400)));
    check_use(&mut rig, 1001, &grant, ("write", SPEED), Reason::NoRight);
    rig.disk.files.remove(&StateFile::Task(task.task_id.clone()));
    rig.restart(Reboot::Process);
    check_use(&mut rig, 1001, &task.token, ("write", SPEED), Reason::NoRight);
}

#[test]
fn a_planner_plans_and_an_executor_does_it_once() {
    each_planner(|rig, task| {
        let told = check_use(rig, 1001, &task.token, ("write", SPEED), Reason::NoRight);
        let advice =
            "only plans: exchange it for a step of another workload with `hardtack task step` or POST /v1/tasks/{id}/steps";
        assert!(told.contains(advice), "{told}");
        check_use(rig, 1001, &task.token, ("hardtack:exchange", task.task_id.as_str()), Reason::NoRight);
        let step = take(rig, task);
        assert_eq!((step.uses, step.executor.as_str(), step.origin), (1, EXECUTOR, task.origin));
        assert_eq!((step.task_id.clone(), step.grant_id), (task.task_id.clone(), task.grant_id));
        assert!((58..=60).contains(&step.expires_in_s), "{}", step.expires_in_s);
        let (exchanged, exchange) = last_decision(rig);
        assert!(exchange.allow && step.decision_id.ends_with(&format!("/{exchanged}")), "{}", step.decision_id);
        // Nothing that is not the step.
        check_use(rig, 1001, &step.token, ("write", SPEED), Reason::WrongWorkload);
        check_use(rig, 3003, &step.token, ("write", SPEED), Reason::WrongWorkload);
        let told = check_use(rig, 2002, &step.token, ("read", SPEED), Reason::NoRight);
        assert!(told.contains("the task has no right to this operation on this resource"), "{told}");
        check_use(rig, 2002, &step.token, ("write", "modbus/valve1"), Reason::NoRight);
        check_use(rig, 2002, &step.token, ("hardtack:exchange", task.task_id.as_str()), Reason::NoRight);
        check_refused(rig, 2002, &task.task_id, ask(&step.token), Reason::NoRight);
        // Denials have charged nothing.
        check_use(rig, 2002, &step.token, ("write", SPEED), Reason::Allowed);
        check_chain(rig, task, &step, exchanged);
        check_use(rig, 2002, &step.token, ("write", SPEED), Reason::UsesSpent);
    });
}

/// The record of a step's use names, block by block, who is accountable for what.
#[track_caller]
fn check_chain(rig: &Rig, task: &TaskReply, step: &StepReply, exchanged: u64) {
    let (_, used) = last_decision(rig);
    let named = named(rig);
    assert_eq!((named.owner.as_str(), named.grant), ("ops@acme", task.grant_id));
    assert_eq!(named.task, Some(task.task_id.clone()));
    assert_eq!(used.workload[0], EXECUTOR);
    let by = NamedStep {
        id: step.step_id.clone(),
        planner: vec!["unix:uid:1001".into()],
        era: rig.disk.eras.keys().next_back().copied().unwrap(),
        index: exchanged,
    };
    assert_eq!(named.step, Some(by.clone()));
    let told = steps(rig).pop().unwrap();
    assert_eq!((told.of_step, told.workload, told.chain), (Some(by), vec![EXECUTOR.to_owned()], named.chain.clone()));
    assert_eq!(told.reason, "write modbus/pump1/speed: speed up");
    // The grant's or the issuer's, the task's where it was made here, the step's.
    assert_eq!(named.chain.len(), if task.origin == Origin::Fallback { 3 } else { 2 });
    assert!(credential(rig, task).chain().iter().zip(&named.chain).all(|(a, b)| a == b));
    let exchange = rig.disk.records().into_iter().rev().find(|record| record.index == exchanged).unwrap();
    let exchange = exchange.decision().cloned().unwrap();
    assert_eq!((exchange.workload[0].as_str(), exchange.destination.as_deref()), ("unix:uid:1001", Some(EXECUTOR)));
}

#[test]
fn a_planner_that_was_taken_over_gets_no_further_than_its_task() {
    each_planner(|rig, task| {
        let other = begin(rig, Origin::Fallback, true, None);
        let base = || ask(&task.token);
        let more = |rights: Vec<Right>| TakeStep { rights, ..base() };
        let for_whom = |executor: &str| TakeStep { executor: executor.into(), ..base() };
        let rows = [
            ("another resource", more(vec![right("modbus/valve1", "write")]), Reason::NoRight),
            ("a wider prefix", more(vec![right("modbus/*", "write")]), Reason::NoRight),
            ("one right too many", more(vec![right(SPEED, "write"), right("door/1", "open")]), Reason::NoRight),
            ("an executor that the grant does not name", for_whom("unix:uid:3003"), Reason::NoRight),
            ("everybody of a group", for_whom("unix:gid:2002"), Reason::WrongWorkload),
            ("itself", for_whom("unix:uid:1001"), Reason::WrongWorkload),
            ("itself by another selector", for_whom("unix:gid:1001"), Reason::WrongWorkload),
        ];
        for (what, ask, reason) in rows {
            println!("{what}");
            check_refused(rig, 1001, &task.task_id, ask, reason);
        }
        check_refused(rig, 1001, &other.task_id, base(), Reason::CheckFailed);
        check_refused(rig, 1002, &task.task_id, base(), Reason::WrongWorkload);
        let keyed = || TakeStep { idempotency_key: Some("once".into()), ..base() };
        let first = take_as(rig, 1001, &task.task_id, keyed()).unwrap();
        check_refused(rig, 1001, &task.task_id, keyed(), Reason::UsesSpent);
        check_use(rig, 1001, &task.token, ("write", SPEED), Reason::NoRight);
        check_use(rig, 2002, &first.token, ("write", SPEED), Reason::Allowed);
        rig.ask(1001, Socket::Agent, Request::Finish(task.task_id.clone()));
        check_refused(rig, 1001, &task.task_id, base(), Reason::Revoked);
    });
}

#[test]
fn a_refused_exchange_names_the_clause_that_decided() {
    each_planner(|rig, task| {
        let none = format!("// nobody plans\ndeny if operation(\"hardtack:exchange\");\n{BUILT_IN}");
        rig.policy(|policy| policy.datalog = none);
        let problem = take_as(rig, 1001, &task.task_id, ask(&task.token)).unwrap_err();
        assert_eq!(problem.code, ProblemCode::Denied(Reason::DeniedByPolicy));
        let by = problem.decided_by.unwrap();
        assert_eq!((by.clause, by.number, by.name.as_deref()), (ClauseKind::Policy, 1, Some("nobody plans")));
        let another = take_as(rig, 1002, &task.task_id, ask(&task.token)).unwrap_err();
        assert_eq!(another.decided_by.map(|by| by.clause), Some(ClauseKind::TokenCheck), "{}", another.detail);
    });
}

#[test]
fn a_request_of_another_form_is_no_exchange() {
    each_planner(|rig, task| {
        let base = || ask(&task.token);
        let rows = [
            TakeStep { uses: Some(2), ..base() },
            TakeStep { uses: Some(0), ..base() },
            TakeStep { ttl_s: 0, ..base() },
            TakeStep { rights: Vec::new(), ..base() },
            TakeStep { rights: vec![right("a/../b", "read")], ..base() },
            TakeStep { rights: vec![right("a", "hardtack:exchange")], ..base() },
            TakeStep { executor: String::new(), ..base() },
            TakeStep { executor: "unix:uid:2002\n".into(), ..base() },
            TakeStep { idempotency_key: Some(String::new()), ..base() },
            TakeStep { idempotency_key: Some("k".repeat(129)), ..base() },
            TakeStep { reason: Some("r".repeat(1025)), ..base() },
        ];
        for ask in rows {
            let told = format!("{ask:?}");
            assert_eq!(take_as(rig, 1001, &task.task_id, ask).unwrap_err().code, ProblemCode::InvalidRequest, "{told}");
        }
        assert!(take_as(rig, 1001, &task.task_id, TakeStep { uses: Some(1), ..base() }).is_ok());
    });
}

#[test]
fn the_list_of_tasks_shows_who_plans_and_which_steps_can_be_used_still() {
    each_planner(|rig, task| {
        let worker = begin(rig, Origin::Fallback, false, None);
        let listed = |rig: &mut Rig, id: &TaskId| match rig.ask(0, Socket::Admin, Request::Tasks) {
            Reply::Tasks(tasks) => tasks.into_iter().find(|task| task.task_id == *id).unwrap(),
            other => panic!("{other:?}"),
        };
        let none = listed(rig, &worker.task_id);
        assert_eq!((none.planner, none.origin, none.steps), (false, Origin::Fallback, Vec::new()));
        let (used, kept) = (take(rig, task), take(rig, task));
        check_use(rig, 2002, &used.token, ("write", SPEED), Reason::Allowed);
        for _ in 0..2 {
            let shown = listed(rig, &task.task_id);
            assert_eq!((shown.planner, shown.origin), (true, task.origin));
            assert_eq!(shown.bound_to[0], "unix:uid:1001");
            let [step] = &shown.steps[..] else { panic!("{:?}", shown.steps) };
            assert_eq!((&step.step_id, step.executor.as_str()), (&kept.step_id, EXECUTOR));
            assert_eq!(step.decision_id, kept.decision_id);
            assert!((58..=60).contains(&step.expires_in_s), "{step:?}");
            rig.restart(Reboot::Process);
        }
        rig.pass(61);
        assert_eq!(listed(rig, &task.task_id).steps, Vec::new(), "what has ended is no step to anybody");
    });
}

#[test]
fn a_step_ends_with_its_task_at_once() {
    each_planner(|rig, task| {
        let step = take(rig, task);
        rig.ask(1001, Socket::Agent, Request::Finish(task.task_id.clone()));
        check_use(rig, 2002, &step.token, ("write", SPEED), Reason::Revoked);
        rig.restart(Reboot::Process);
        check_use(rig, 2002, &step.token, ("write", SPEED), Reason::Revoked);
    });
    each_planner(|rig, task| {
        let step = take(rig, task);
        rig.sync();
        let until = Timestamp::from_secs(START_S + 86_400);
        let rules = vec![Rule { target: Target::Task(task.task_id.clone()), until }];
        for (topic, payload) in rig.publish(rules, Timestamp::from_secs(START_S + 1)) {
            rig.message(topic, payload);
        }
        check_use(rig, 2002, &step.token, ("write", SPEED), Reason::Revoked);
        check_refused(rig, 1001, &task.task_id, ask(&task.token), Reason::Revoked);
    });
}

#[test]
fn a_step_and_its_use_survive_a_restart() {
    for reboot in [Reboot::Process, Reboot::Kernel] {
        each_planner(|rig, task| {
            // A boot that may have lasted a while costs a step what it may have.
            let long = TakeStep { ttl_s: 600, ..ask(&task.token) };
            let (used, unused) = (long.clone(), long);
            let (used, unused) = [used, unused].map(|ask| take_as(rig, 1001, &task.task_id, ask).unwrap()).into();
            check_use(rig, 2002, &used.token, ("write", SPEED), Reason::Allowed);
            rig.restart(reboot);
            check_use(rig, 2002, &used.token, ("write", SPEED), Reason::UsesSpent);
            check_use(rig, 2002, &unused.token, ("write", SPEED), Reason::Allowed);
            assert_eq!(named(rig).step.unwrap().id, unused.step_id);
            let keyed = TakeStep { idempotency_key: Some("once".into()), ..ask(&task.token) };
            take_as(rig, 1001, &task.task_id, keyed.clone()).unwrap();
            rig.restart(reboot);
            check_refused(rig, 1001, &task.task_id, keyed, Reason::UsesSpent);
        });
    }
}

#[test]
fn an_exchange_is_no_use_and_a_step_is_one_of_its_task() {
    for origin in ORIGINS {
        let mut rig = Rig::new();
        let task = begin(&mut rig, origin, true, Some(2));
        let two = [(); 2].map(|()| take(&mut rig, &task));
        // Of a planner that asks twice, no more steps than uses are under way.
        check_refused(&mut rig, 1001, &task.task_id, ask(&task.token), Reason::UsesSpent);
        for step in two {
            check_use(&mut rig, 2002, &step.token, ("write", SPEED), Reason::Allowed);
        }
        check_refused(&mut rig, 1001, &task.task_id, ask(&task.token), Reason::UsesSpent);
    }
}

#[test]
fn a_step_that_ended_unused_leaves_its_use_to_another() {
    each_planner(|rig, _| {
        let task = begin(rig, Origin::Fallback, true, Some(1));
        let step = take(rig, &task);
        check_refused(rig, 1001, &task.task_id, ask(&task.token), Reason::UsesSpent);
        rig.pass(70);
        check_use(rig, 2002, &step.token, ("write", SPEED), Reason::Expired);
        let step = take(rig, &task);
        check_use(rig, 2002, &step.token, ("write", SPEED), Reason::Allowed);
    });
}

#[test]
fn steps_of_a_task_with_bounded_uses_survive_its_renewal_and_no_use_is_won() {
    for origin in ORIGINS {
        let mut rig = Rig::new();
        let task = begin(&mut rig, origin, true, Some(3));
        let first = take(&mut rig, &task);
        let renew = |rig: &mut Rig| rig.ask(1001, Socket::Agent, Request::Renew(task.task_id.clone()));
        let Reply::Task(renewed) = renew(&mut rig) else { panic!("not renewed") };
        assert_eq!(renewed.uses, Some(2), "one is the step's");
        // Nor does the credential from before give more.
        check_refused(&mut rig, 1001, &task.task_id, ask(&task.token), Reason::UsesSpent);
        let more = [(); 2].map(|()| take(&mut rig, &renewed));
        check_refused(&mut rig, 1001, &task.task_id, ask(&renewed.token), Reason::UsesSpent);
        let Reply::Problem(full) = renew(&mut rig) else { panic!("renewed with no use left") };
        assert_eq!(full.code, ProblemCode::Denied(Reason::UsesSpent));
        for step in [first].iter().chain(&more) {
            check_use(&mut rig, 2002, &step.token, ("write", SPEED), Reason::Allowed);
            check_use(&mut rig, 2002, &step.token, ("write", SPEED), Reason::UsesSpent);
        }
        check_refused(&mut rig, 1001, &task.task_id, ask(&renewed.token), Reason::UsesSpent);
        let Reply::Tasks(listed) = rig.ask(1001, Socket::Agent, Request::Tasks) else { panic!("no list") };
        assert_eq!(listed, [], "the last of them ended it");
    }
}

#[test]
fn a_step_ends_with_the_credential_that_it_was_taken_of() {
    each_planner(|rig, task| {
        let narrow = Attenuate { token: task.token.clone(), ttl_s: Some(6), checks: Vec::new(), scope: Vec::new() };
        let Reply::Attenuated(narrowed) = rig.ask(1001, Socket::Agent, Request::Attenuate(narrow)) else {
            panic!("not narrowed")
        };
        let long = TakeStep { ttl_s: 500, ..ask(&narrowed.token) };
        let step = take_as(rig, 1001, &task.task_id, long).unwrap();
        assert!(step.expires_in_s <= 6, "{}", step.expires_in_s);
        rig.pass(8);
        check_use(rig, 2002, &step.token, ("write", SPEED), Reason::Expired);
    });
}

#[test]
fn a_step_is_for_nobody_whom_a_group_or_a_document_names() {
    let shared = ["unix:gid:3000", "unix:supplementary_gid:3000", "unix:group:ops", "oidc:sub:https://id.example#ann"];
    let mut rig = Rig::with(|spec| {
        let class = || "pump".parse().unwrap();
        spec.may_step.extend(shared.iter().map(|selector| ((*selector).to_owned(), class())));
        spec.may_begin.extend(shared.iter().map(|selector| ((*selector).to_owned(), class())));
    });
    let task = begin(&mut rig, Origin::Fallback, true, None);
    for selector in shared {
        let step = TakeStep { executor: selector.into(), ..ask(&task.token) };
        check_refused(&mut rig, 1001, &task.task_id, step, Reason::WrongWorkload);
    }
}

#[test]
fn task_and_step_of_a_request_are_compared_with_the_wallet_only() {
    each_planner(|rig, task| {
        let (step, other) = (take(rig, task), take(rig, task));
        let (task_id, step_id) = (Some(task.task_id.as_str()), Some(step.step_id.as_str()));
        let rows = [
            (step.token.as_str(), Some("t-other"), None, Reason::CheckFailed),
            (&step.token, task_id, Some(other.step_id.as_str()), Reason::CheckFailed),
            (&step.token, None, Some("s-other"), Reason::CheckFailed),
            (&step.token, task_id, step_id, Reason::Allowed),
            (&other.token, None, step_id, Reason::CheckFailed),
            (&other.token, None, None, Reason::Allowed),
        ];
        for (token, task, step, reason) in rows {
            let question = Authorize {
                token: token.into(),
                operation: "write".into(),
                resource: SPEED.into(),
                destination: None,
                risk: Some("low".parse().unwrap()),
                task: task.map(str::to_owned),
                step: step.map(str::to_owned),
                arguments: None,
            };
            let Reply::Decision(decision) = rig.ask(2002, Socket::Agent, Request::Authorize(question)) else {
                panic!("no decision")
            };
            check(&decision, reason);
        }
    });
}

#[test]
fn at_an_enforcement_point_the_holder_of_a_step_is_its_executor() {
    each_planner(|rig, task| {
        let step = take(rig, task);
        let question = Authorize {
            token: step.token.clone(),
            operation: "write".into(),
            resource: SPEED.into(),
            destination: None,
            risk: Some("low".parse().unwrap()),
            task: None,
            step: None,
            arguments: None,
        };
        let Reply::Decision(decision) = rig.ask(33, Socket::Pep, Request::Authorize(question)) else {
            panic!("no decision")
        };
        check(&decision, Reason::Allowed);
        let (_, recorded) = last_decision(rig);
        assert_eq!(recorded.workload, [EXECUTOR]);
        assert_eq!(recorded.enforcer[0], "unix:uid:33");
    });
}

#[test]
fn a_planner_is_no_enforcement_point_for_its_own_steps() {
    each_planner(|rig, task| {
        let step = take(rig, task);
        let question = Authorize {
            token: step.token.clone(),
            operation: "write".into(),
            resource: SPEED.into(),
            destination: None,
            risk: Some("low".parse().unwrap()),
            task: None,
            step: None,
            arguments: None,
        };
        let mut asked = |uid: u32, socket: Socket| match rig.ask(uid, socket, Request::Authorize(question.clone())) {
            Reply::Decision(decision) => decision.reason,
            other => panic!("no decision: {other:?}"),
        };
        assert_eq!(asked(1001, Socket::Pep), Reason::WrongWorkload);
        assert_eq!(asked(1001, Socket::Admin), Reason::WrongWorkload);
        let ask = Introspect { token: step.token.clone(), destination: None };
        assert_eq!(rig.ask(1001, Socket::Pep, Request::Introspect(ask)), Reply::Introspected(None));
        assert_eq!(last_decision(rig).1.reason, "wrong_workload");
        // Denials have charged nothing, and what somebody else enforces is the executor's.
        let Reply::Decision(decision) = rig.ask(33, Socket::Pep, Request::Authorize(question)) else { panic!() };
        check(&decision, Reason::Allowed);
    });
}

#[test]
fn a_task_remembers_so_many_steps_and_forgets_what_has_ended() {
    let mut rig = Rig::new();
    rig.sync();
    let task = begin(&mut rig, Origin::Fallback, true, None);
    let first = take(&mut rig, &task);
    for _ in 1..STEPS_MAX {
        take(&mut rig, &task);
    }
    check_refused(&mut rig, 1001, &task.task_id, ask(&task.token), Reason::Throttled);
    rig.pass(120);
    take(&mut rig, &task);
    assert_ne!(rig.authorize_as(2002, &first.token, "write", SPEED).reason, Reason::Allowed);
    // All tasks together.
    let mut rig = Rig::new();
    rig.profile.wallet.tasks_max = 3;
    rig.restart(Reboot::Process);
    let (one, two) = (begin(&mut rig, Origin::Fallback, true, None), begin(&mut rig, Origin::Fallback, true, None));
    take(&mut rig, &one);
    take(&mut rig, &one);
    take(&mut rig, &two);
    check_refused(&mut rig, 1001, &two.task_id, ask(&two.token), Reason::Throttled);
    rig.ask(1001, Socket::Agent, Request::Finish(one.task_id));
    take(&mut rig, &two);
}

#[test]
fn a_task_whose_file_is_full_is_renewed_when_there_is_room_and_never_lost() {
    let mut rig = Rig::new();
    let task = begin(&mut rig, Origin::Fallback, true, None);
    // Steps for as much as there is room for, down to the smallest.
    let long = |length: usize| right(&format!("modbus/{}", "a".repeat(length)), "read");
    let full = |rights: Vec<Right>| TakeStep { rights, reason: None, ..ask(&task.token) };
    for rights in [vec![long(240); 8], vec![long(100)], vec![long(1)]] {
        while let Ok(step) = take_as(&mut rig, 1001, &task.task_id, full(rights.clone())) {
            assert_eq!(step.uses, 1);
        }
    }
    let mut renewed = 0;
    let refusal = loop {
        match rig.ask(1001, Socket::Agent, Request::Renew(task.task_id.clone())) {
            Reply::Task(_) => renewed += 1,
            Reply::Problem(problem) => break problem,
            other => panic!("neither: {other:?}"),
        }
    };
    assert_eq!(refusal.code, ProblemCode::Throttled);
    assert!(refusal.detail.contains("remembers as much as it can"), "after {renewed} renewals: {}", refusal.detail);
    let file = &rig.disk.files[&StateFile::Task(task.task_id.clone())];
    assert!(StoredTask::from_file(file).is_ok(), "{} bytes", file.len());
    rig.restart(Reboot::Process);
    check_refused(&mut rig, 1001, &task.task_id, ask(&task.token), Reason::Throttled);
}

#[test]
fn one_planner_leaves_others_their_steps() {
    let mut rig = Rig::with(|spec| spec.may_begin.push(("unix:uid:1002".into(), "pump".parse().unwrap())));
    rig.profile.wallet.tasks_per_uid_max = 4;
    rig.restart(Reboot::Process);
    rig.sync();
    let mine = begin_as(&mut rig, 1001, wanted(true, None));
    for _ in 0..4 {
        take(&mut rig, &mine);
    }
    check_refused(&mut rig, 1001, &mine.task_id, ask(&mine.token), Reason::Throttled);
    // Neither a second task nor the end of the first helps.
    let more = begin_as(&mut rig, 1001, wanted(true, None));
    check_refused(&mut rig, 1001, &more.task_id, ask(&more.token), Reason::Throttled);
    rig.ask(1001, Socket::Agent, Request::Finish(mine.task_id));
    check_refused(&mut rig, 1001, &more.task_id, ask(&more.token), Reason::Throttled);
    let others = begin_as(&mut rig, 1002, wanted(true, None));
    assert!(take_as(&mut rig, 1002, &others.task_id, ask(&others.token)).is_ok());
    // It is time that does.
    rig.pass(120);
    take(&mut rig, &more);
}

#[test]
fn a_renewed_planner_goes_on_and_its_steps_keep_their_end() {
    for origin in ORIGINS {
        let mut rig = Rig::new();
        let task = begin(&mut rig, origin, true, None);
        let step = take(&mut rig, &task);
        let Reply::Task(renewed) = rig.ask(1001, Socket::Agent, Request::Renew(task.task_id.clone())) else {
            panic!("not renewed")
        };
        check_use(&mut rig, 2002, &step.token, ("write", SPEED), Reason::Allowed);
        check_use(&mut rig, 1001, &renewed.token, ("write", SPEED), Reason::NoRight);
        let step = take(&mut rig, &renewed);
        check_use(&mut rig, 2002, &step.token, ("write", SPEED), Reason::Allowed);
    }
}

#[test]
fn an_issued_task_of_a_grant_that_is_not_here_gives_no_steps() {
    let mut rig = Rig::new();
    rig.sync();
    let task = rig.begin_issued(wanted(true, None), |spec| spec.grant = crate::ids::GrantId([0xbb; 16]));
    check_refused(&mut rig, 1001, &task.task_id, ask(&task.token), Reason::NoRight);
}

/// No more than its selector says: a path is whatever somebody makes of a program that he may run.
#[test]
fn an_executor_named_by_its_path_is_whoever_runs_that_program() {
    let tool = "unix:path:/usr/bin/tool";
    let mut rig = Rig::with(|spec| spec.may_step.push((tool.into(), "pump".parse().unwrap())));
    let runs = |rig: &Rig, path: &str| {
        let id = ProcessId { boot: BootId([rig.boot; 16]), pid: 7, started: 99 };
        Some(Process { path: Some(path.into()), ..Process::of(id) })
    };
    rig.process = runs(&rig, "/usr/bin/planner");
    let task = begin(&mut rig, Origin::Fallback, true, None);
    let step = take_as(&mut rig, 1001, &task.task_id, TakeStep { executor: tool.into(), ..ask(&task.token) }).unwrap();
    check_use(&mut rig, 1001, &step.token, ("write", SPEED), Reason::WrongWorkload);
    rig.process = runs(&rig, "/usr/bin/tool");
    check_use(&mut rig, 1001, &step.token, ("write", SPEED), Reason::Allowed);
    check_use(&mut rig, 1001, &step.token, ("write", SPEED), Reason::UsesSpent);
}
