//! Narrowing through the agent, with real Biscuits.

use biscuit_auth::builder::BlockBuilder;
use biscuit_auth::{Algorithm, KeyPair, UnverifiedBiscuit};

use crate::agent::request::{
    Attenuate, AttenuatedReply, Authorize, BeginTask, ClauseKind, Problem, ProblemCode, Reason, Reply, Request, Socket,
    StepReply, TakeStep, TaskReply,
};
use crate::agent::rig::{right, Reboot, Rig, START_S};
use crate::ids::GrantId;
use crate::time::Timestamp;
use crate::wire::audit::{Event, TaskEvent, TaskStep};
use crate::wire::token::{from_text, mint_task, to_text, Bearer, Held, TaskSpec};

const SPEED: &str = "modbus/pump1/speed";
const READ: &str = r#"check if operation("read")"#;

fn begin(rig: &mut Rig, planner: bool) -> TaskReply {
    let rights = vec![right(SPEED, "write"), right("modbus/*", "read")];
    let begin = BeginTask {
        task: "pump".parse().unwrap(),
        rights,
        ttl_s: 600,
        uses: None,
        planner,
        reason: None,
        holder: None,
        lease: None,
        identity: None,
        key: None,
    };
    match rig.ask(1001, Socket::Agent, Request::Begin(begin)) {
        Reply::Task(task) => task,
        other => panic!("no task: {other:?}"),
    }
}

fn step(rig: &mut Rig, task: &TaskReply) -> StepReply {
    let ask = TakeStep {
        token: task.token.clone(),
        executor: "unix:uid:2002".into(),
        rights: vec![right("modbus/*", "read")],
        ttl_s: 300,
        uses: None,
        risk: Some("low".parse().unwrap()),
        idempotency_key: None,
        reason: None,
    };
    match rig.ask(1001, Socket::Agent, Request::Step(task.task_id.clone(), ask)) {
        Reply::Step(step) => step,
        other => panic!("no step: {other:?}"),
    }
}

fn narrow(
    rig: &mut Rig,
    uid: u32,
    token: &str,
    ttl_s: Option<u64>,
    checks: &[&str],
) -> Result<AttenuatedReply, Problem> {
    let checks = checks.iter().map(|check| (*check).to_owned()).collect();
    match rig.ask(
        uid,
        Socket::Agent,
        Request::Attenuate(Attenuate { token: token.into(), ttl_s, checks, scope: Vec::new() }),
    ) {
        Reply::Attenuated(narrowed) => Ok(narrowed),
        Reply::Problem(problem) => Err(problem),
        other => panic!("not narrowed: {other:?}"),
    }
}

#[track_caller]
fn check_use(rig: &mut Rig, uid: u32, token: &str, (operation, resource): (&str, &str), reason: Reason) {
    let decision = rig.authorize_as(uid, token, operation, resource);
    assert_eq!(decision.reason, reason, "{}", decision.explain);
}

#[track_caller]
fn check_refused(
    rig: &mut Rig,
    uid: u32,
    token: &str,
    (ttl_s, checks): (Option<u64>, &[&str]),
    expected: ProblemCode,
) -> String {
    let problem = narrow(rig, uid, token, ttl_s, checks).unwrap_err();
    assert_eq!(problem.code, expected, "{}", problem.detail);
    problem.detail
}

fn last_task(rig: &Rig) -> TaskEvent {
    let records = rig.disk.records();
    let task = records.into_iter().rev().find_map(|record| match record.event {
        Event::Task(task) => Some(*task),
        _ => None,
    });
    task.unwrap()
}

#[test]
fn a_sibling_has_the_checks_of_the_child_and_the_new_ones() {
    let mut rig = Rig::new();
    let task = begin(&mut rig, false);
    let once = narrow(&mut rig, 1001, &task.token, None, &[READ]).unwrap();
    assert_eq!((once.sealed, once.task_id.clone(), once.step_id.clone()), (true, Some(task.task_id.clone()), None));
    let told = last_task(&rig);
    assert_eq!(
        (told.step, told.reason.as_str(), told.chain.last()),
        (TaskStep::Attenuated, READ, Some(&once.revocation_id))
    );
    check_use(&mut rig, 1001, &once.token, ("read", SPEED), Reason::Allowed);
    check_use(&mut rig, 1001, &once.token, ("write", SPEED), Reason::CheckFailed);
    check_use(&mut rig, 1002, &once.token, ("read", SPEED), Reason::WrongWorkload);
    check_use(&mut rig, 1001, &once.token, ("hardtack:exchange", task.task_id.as_str()), Reason::CheckFailed);
    // The child is as it was.
    check_use(&mut rig, 1001, &task.token, ("write", SPEED), Reason::Allowed);
    let twice = narrow(&mut rig, 1001, &once.token, Some(60), &[r#"check if resource("modbus/a")"#]).unwrap();
    assert!((59..=60).contains(&twice.expires_in_s));
    check_use(&mut rig, 1001, &twice.token, ("read", "modbus/a"), Reason::Allowed);
    check_use(&mut rig, 1001, &twice.token, ("read", SPEED), Reason::CheckFailed);
    check_use(&mut rig, 1001, &twice.token, ("write", "modbus/a"), Reason::CheckFailed);
    rig.restart(Reboot::Process);
    check_use(&mut rig, 1001, &twice.token, ("read", "modbus/a"), Reason::Allowed);
    rig.pass(63);
    check_use(&mut rig, 1001, &twice.token, ("read", "modbus/a"), Reason::Expired);
    let detail = check_refused(&mut rig, 1001, &twice.token, (Some(60), &[]), ProblemCode::Denied(Reason::Expired));
    assert!(!detail.is_empty());
    // Longer than what it is made of it does not live.
    let long = narrow(&mut rig, 1001, &once.token, Some(86_400), &[]).unwrap();
    assert!(long.expires_in_s <= 600);
    rig.ask(1001, Socket::Agent, Request::Finish(task.task_id));
    check_use(&mut rig, 1001, &long.token, ("read", "modbus/a"), Reason::Revoked);
}

#[test]
fn a_step_that_is_narrowed_has_one_use_still() {
    let mut rig = Rig::new();
    let task = begin(&mut rig, true);
    let one = step(&mut rig, &task);
    check_refused(&mut rig, 1001, &one.token, (Some(9), &[]), ProblemCode::Denied(Reason::WrongWorkload));
    let told = last_task(&rig);
    assert_eq!((told.step, told.of_step.map(|step| step.id)), (TaskStep::Refused, Some(one.step_id.clone())));
    let narrowed = narrow(&mut rig, 2002, &one.token, None, &[r#"check if resource("modbus/a")"#]).unwrap();
    assert_eq!(narrowed.step_id, Some(one.step_id.clone()));
    check_use(&mut rig, 2002, &one.token, ("read", "modbus/a"), Reason::UsesSpent);
    check_use(&mut rig, 2002, &narrowed.token, ("read", SPEED), Reason::CheckFailed);
    let again = narrow(&mut rig, 2002, &narrowed.token, Some(60), &[]).unwrap();
    rig.restart(Reboot::Process);
    check_use(&mut rig, 2002, &one.token, ("read", "modbus/a"), Reason::UsesSpent);
    check_use(&mut rig, 2002, &narrowed.token, ("read", "modbus/a"), Reason::UsesSpent);
    check_use(&mut rig, 2002, &again.token, ("read", SPEED), Reason::CheckFailed);
    check_use(&mut rig, 2002, &again.token, ("read", "modbus/a"), Reason::Allowed);
    check_use(&mut rig, 2002, &again.token, ("read", "modbus/a"), Reason::UsesSpent);
    check_refused(&mut rig, 2002, &again.token, (Some(9), &[]), ProblemCode::Denied(Reason::UsesSpent));
    // The planner's own credential narrows as any other, and stays good for an exchange alone.
    let planner = narrow(&mut rig, 1001, &task.token, Some(60), &[]).unwrap();
    check_use(&mut rig, 1001, &planner.token, ("read", "modbus/a"), Reason::NoRight);
    assert_eq!(step(&mut rig, &TaskReply { token: planner.token, ..task }).uses, 1);
}

#[test]
fn what_may_not_be_added_is_refused() {
    // What would overflow the stack of the parser.
    let deep = format!("check if {}", "(".repeat(500));
    let mut rig = Rig::new();
    let task = begin(&mut rig, false);
    let nine = [READ; 9];
    let long = format!("check if resource({:?})", "a".repeat(512));
    let invalid: [(Option<u64>, &[&str]); 12] = [
        (None, &[]),
        (Some(0), &[]),
        (None, &nine),
        (None, &[&long]),
        (None, &["right(\"a\", \"read\")"]),
        (None, &["operation(\"read\")"]),
        (None, &["x($r) <- resource($r)"]),
        (None, &["check if operation(\"read\"); right(\"a\", \"b\")"]),
        (None, &["check if resource({name})"]),
        (None, &["check if right($r, \"read\") trusting previous"]),
        (None, &[&deep]),
        (None, &["reject if resource(\"modbus/a\") or resource(\"modbus/b\")"]),
    ];
    for ask in invalid {
        check_refused(&mut rig, 1001, &task.token, ask, ProblemCode::InvalidRequest);
    }
    for (check, told) in [
        ("check if resource(", r#""check if resource(" is no check in Datalog, such as: check if operation("read")"#),
        (
            "check if resource({name})",
            r#""check if resource({name})" has a parameter in braces: write its value there"#,
        ),
    ] {
        let refused = narrow(&mut rig, 1001, &task.token, None, &[check]).unwrap_err();
        assert!(refused.detail.contains(told), "{}", refused.detail);
    }
    let costly = r#"check if resource($r), $r.matches("(a+)+$")"#;
    let time = "check if time($t), right($t, $t)";
    for (check, reason) in [(costly, Reason::TooComplex), (time, Reason::Malformed)] {
        check_refused(&mut rig, 1001, &task.token, (None, &[check]), ProblemCode::Denied(reason));
    }
    check_refused(&mut rig, 1002, &task.token, (Some(9), &[]), ProblemCode::Denied(Reason::WrongWorkload));
    let narrowed = narrow(&mut rig, 1001, &task.token, None, &[READ; 8]).unwrap();
    check_refused(&mut rig, 1001, &narrowed.token, (None, &[READ]), ProblemCode::Denied(Reason::TooComplex));
    check_refused(&mut rig, 1001, "!", (None, &[READ]), ProblemCode::Denied(Reason::Malformed));
    let mut made = 1;
    while narrow(&mut rig, 1001, &task.token, Some(60), &[]).is_ok() {
        made += 1;
    }
    assert_eq!(made, super::SIBLINGS_MAX);
    check_refused(&mut rig, 1001, &task.token, (Some(60), &[]), ProblemCode::Throttled);
    rig.ask(1001, Socket::Agent, Request::Finish(task.task_id));
    check_refused(&mut rig, 1001, &task.token, (Some(60), &[]), ProblemCode::Denied(Reason::Revoked));
}

/// Exchanges a token for one with this scope.
fn exchange(rig: &mut Rig, uid: u32, token: &str, scope: &[(&str, &str)]) -> Result<AttenuatedReply, Problem> {
    let scope = scope.iter().map(|(action, resource)| right(resource, action)).collect();
    let ask = Attenuate { token: token.into(), ttl_s: Some(60), checks: Vec::new(), scope };
    match rig.ask(uid, Socket::Agent, Request::Attenuate(ask)) {
        Reply::Attenuated(narrowed) => Ok(narrowed),
        Reply::Problem(problem) => Err(problem),
        other => panic!("not narrowed: {other:?}"),
    }
}

#[test]
fn an_exchange_gives_no_scope_that_an_earlier_one_took() {
    let no_right = |problem: Problem| assert_eq!(problem.code, ProblemCode::Denied(Reason::NoRight));
    let mut rig = Rig::new();
    let task = begin(&mut rig, false);
    no_right(exchange(&mut rig, 1001, &task.token, &[("write", "modbus/a")]).unwrap_err());
    let some = exchange(&mut rig, 1001, &task.token, &[("read", "modbus/pump1/*")]).unwrap();
    no_right(exchange(&mut rig, 1001, &some.token, &[("read", "modbus/*")]).unwrap_err());
    no_right(exchange(&mut rig, 1001, &some.token, &[("write", SPEED)]).unwrap_err());
    // A check beside it changes nothing of that.
    let some = narrow(&mut rig, 1001, &some.token, None, &[READ]).unwrap();
    no_right(exchange(&mut rig, 1001, &some.token, &[("read", "modbus/pump2")]).unwrap_err());
    let one = exchange(&mut rig, 1001, &some.token, &[("read", SPEED)]).unwrap();
    check_use(&mut rig, 1001, &one.token, ("read", SPEED), Reason::Allowed);
    check_use(&mut rig, 1001, &one.token, ("read", "modbus/pump1/flow"), Reason::CheckFailed);
    rig.restart(Reboot::Process);
    no_right(exchange(&mut rig, 1001, &one.token, &[("read", "modbus/pump1/flow")]).unwrap_err());
    let planner = begin(&mut rig, true);
    let taken = step(&mut rig, &planner);
    let narrowed = exchange(&mut rig, 2002, &taken.token, &[("read", "modbus/a")]).unwrap();
    no_right(exchange(&mut rig, 2002, &narrowed.token, &[("read", "modbus/b")]).unwrap_err());
    check_use(&mut rig, 2002, &narrowed.token, ("read", "modbus/a"), Reason::Allowed);
}

#[test]
fn an_exchange_gives_no_scope_that_a_check_of_the_credential_leaves_nothing_of() {
    let mut rig = Rig::new();
    let task = begin(&mut rig, false);
    let refused = |asked: Result<AttenuatedReply, Problem>, reason: Reason| {
        let problem = asked.unwrap_err();
        assert_eq!(problem.code, ProblemCode::Denied(reason), "{}", problem.detail);
    };
    let reads = narrow(&mut rig, 1001, &task.token, None, &[READ]).unwrap().token;
    refused(exchange(&mut rig, 1001, &reads, &[("write", SPEED)]), Reason::CheckFailed);
    let problem = exchange(&mut rig, 1001, &reads, &[("read", "modbus/*"), ("write", SPEED)]).unwrap_err();
    let by = problem.decided_by.unwrap();
    assert_eq!((by.clause, by.number, by.text.as_str()), (ClauseKind::TokenCheck, 0, READ), "{by:?}");
    assert_eq!(last_task(&rig).step, TaskStep::Refused);
    let one = exchange(&mut rig, 1001, &reads, &[("read", "modbus/*")]).unwrap();
    check_use(&mut rig, 1001, &one.token, ("read", "modbus/a"), Reason::Allowed);
    // Below a prefix it is not found out which part is left.
    let part = r#"check if resource($r), $r.starts_with("modbus/pump1/")"#;
    let part = narrow(&mut rig, 1001, &task.token, None, &[part]).unwrap().token;
    refused(exchange(&mut rig, 1001, &part, &[("read", "modbus/pump1/*")]), Reason::NoRight);
    refused(exchange(&mut rig, 1001, &part, &[("read", "modbus/pump2")]), Reason::CheckFailed);
    let one = exchange(&mut rig, 1001, &part, &[("write", SPEED)]).unwrap();
    check_use(&mut rig, 1001, &one.token, ("write", SPEED), Reason::Allowed);
    // Where it goes, and with what, each request says itself.
    let there = [r#"check if destination("plc-3")"#, r#"check if argument("rpm", $rpm), $rpm < 1500"#];
    let there = narrow(&mut rig, 1001, &task.token, None, &there).unwrap().token;
    assert!(exchange(&mut rig, 1001, &there, &[("read", "modbus/*"), ("write", SPEED)]).is_ok());
    // A planner's credential is good for none of its task's rights, and a step for its own.
    let planner = begin(&mut rig, true);
    refused(exchange(&mut rig, 1001, &planner.token, &[("read", "modbus/a")]), Reason::NoRight);
    let taken = step(&mut rig, &planner).token;
    let taken = narrow(&mut rig, 2002, &taken, None, &[r#"reject if resource("modbus/a")"#]).unwrap().token;
    refused(exchange(&mut rig, 2002, &taken, &[("read", "modbus/a")]), Reason::CheckFailed);
    assert!(exchange(&mut rig, 2002, &taken, &[("read", "modbus/b")]).is_ok());
}

#[test]
fn an_exchange_leaves_a_check_to_the_request_that_could_pass_it() {
    for (check, reads, writes) in [
        (r#"check if operation("write"), argument("rpm", $rpm), $rpm < 1500 or operation("read")"#, true, true),
        (r#"check if operation($o), destination($d), $o == "write", $d.starts_with("plc-")"#, false, true),
        (r#"check if operation($o), argument("rpm", $rpm), $o == "write" || $rpm < 1500"#, true, true),
        (r#"check all operation($o), argument($name, $value), $o == "write", $name == "rpm""#, false, true),
        (r#"check if workload("unix:uid:2002"), operation("write") or operation("read"), risk("low")"#, true, true),
        (r#"check if enforcer("unix:uid:33"), resource($r), $r.ends_with("/speed")"#, false, true),
        (r#"check if operation("open"), argument("force", true) or operation("read")"#, true, false),
        (
            r#"check if operation("open"), argument("force", true) or resource("modbus/b"), destination("x")"#,
            false,
            false,
        ),
        (r#"check if operation("write"), step("s-1") or operation("read"), task_class("valve")"#, false, false),
        (r#"check if operation("write"), mode("locked"), argument("force", true)"#, false, false),
        (r#"reject if operation("write"), resource($r), $r.ends_with("/speed")"#, true, false),
    ] {
        let mut rig = Rig::new();
        let task = begin(&mut rig, false);
        let mixed = narrow(&mut rig, 1001, &task.token, None, &[check]).unwrap().token;
        for ((action, resource), usable) in [(("read", "modbus/a"), reads), (("write", SPEED), writes)] {
            match (exchange(&mut rig, 1001, &mixed, &[(action, resource)]), usable) {
                (Ok(_), true) => {}
                (Err(problem), false) => {
                    assert_eq!(problem.code, ProblemCode::Denied(Reason::CheckFailed), "{}", problem.detail);
                }
                (found, _) => panic!("{check}, {action}: {found:?}"),
            }
        }
    }
    let mut rig = Rig::new();
    let task = begin(&mut rig, false);
    let slow = r#"check if operation("write"), argument("rpm", $rpm), $rpm < 1500 or operation("read")"#;
    let slow = narrow(&mut rig, 1001, &task.token, None, &[slow]).unwrap().token;
    let slow = exchange(&mut rig, 1001, &slow, &[("write", SPEED)]).unwrap().token;
    for (arguments, reason) in [(r#"{"rpm":1499}"#, Reason::Allowed), (r#"{"rpm":1500}"#, Reason::CheckFailed)] {
        let ask = Authorize {
            token: slow.clone(),
            operation: "write".into(),
            resource: SPEED.into(),
            destination: None,
            risk: None,
            task: None,
            step: None,
            arguments: Some(serde_json::from_str(arguments).unwrap()),
        };
        let Reply::Decision(decision) = rig.ask(1001, Socket::Agent, Request::Authorize(ask)) else { panic!() };
        assert_eq!(decision.reason, reason, "{}", decision.explain);
    }
}

/// The token of an issuer, to open doors with.
fn of_an_issuer(rig: &mut Rig) -> Vec<u8> {
    let spec = TaskSpec {
        fleet: "acme".parse().unwrap(),
        grant: GrantId([1; 16]),
        bearer: Bearer::Device("gw-07".parse().unwrap()),
        owner: "ops@acme".into(),
        audience: None,
        feed: Some("main".parse().unwrap()),
        task: "t-x".parse().unwrap(),
        issued: Timestamp::from_secs(START_S),
        expires: Timestamp::from_secs(START_S + 600),
        serial: None,
        rights: vec![right("door/*", "open")],
        uses_max: None,
        staleness_max: Vec::new(),
        min_time_class: None,
    };
    mint_task(&spec, &rig.issuer, 7, &mut rig.rng).unwrap()
}

#[test]
fn a_token_that_would_cost_much_is_refused_before_it_is_evaluated() {
    let mut rig = Rig::new();
    let bytes = of_an_issuer(&mut rig);
    let held = Held::from_bytes(&bytes).unwrap();
    let facts = |count: usize| (0..count).map(|number| format!("f({number});")).collect::<String>();
    for code in [
        r#"check if resource($r), $r.matches("(a+)+$")"#.to_owned(),
        facts(2000),
        "check if operation(\"open\");".repeat(300),
        "g($x) <- f($x);".repeat(300),
        format!("{} check if {};", facts(20), (0..12).map(|n| format!("f($x{n})")).collect::<Vec<_>>().join(", ")),
        format!("check if {};", ["1 < 2"; 400].join(" && ")),
    ] {
        let block = BlockBuilder::new().code(&code).unwrap();
        let costly = to_text(&held.append(block, &mut rig.rng).unwrap().to_bytes().unwrap());
        let asked = rig.authorize(&costly, "open", "door/1");
        assert!([Reason::TooComplex, Reason::TooLarge].contains(&asked.reason), "{code:.60}: {}", asked.explain);
    }
    assert_eq!(rig.authorize(&to_text(&bytes), "open", "door/1").reason, Reason::Allowed);
}

#[test]
fn a_foreign_token_gets_a_block_as_its_holder_could_add_one() {
    let mut rig = Rig::new();
    let bytes = of_an_issuer(&mut rig);
    let (records, token) = (rig.disk.records().len(), to_text(&bytes));
    let narrowed = narrow(&mut rig, 1001, &token, Some(60), &[r#"check if resource("door/1")"#]).unwrap();
    assert_eq!((narrowed.sealed, narrowed.task_id.clone()), (false, None));
    assert_eq!(rig.disk.records().len(), records, "its holder could have done it himself");
    check_use(&mut rig, 3003, &narrowed.token, ("open", "door/1"), Reason::Allowed);
    check_use(&mut rig, 3003, &narrowed.token, ("open", "door/2"), Reason::CheckFailed);
    check_use(&mut rig, 3003, &token, ("open", "door/2"), Reason::Allowed);
    for (action, resource) in [("open", "window/1"), ("close", "door/1"), ("open", "door")] {
        let refused = exchange(&mut rig, 1001, &token, &[(action, resource)]).unwrap_err();
        assert_eq!(refused.code, ProblemCode::Denied(Reason::NoRight), "{action} {resource}");
    }
    let exchanged = exchange(&mut rig, 1001, &token, &[("open", "door/1")]).unwrap();
    check_use(&mut rig, 3003, &exchanged.token, ("open", "door/1"), Reason::Allowed);
    check_use(&mut rig, 3003, &exchanged.token, ("open", "door/2"), Reason::CheckFailed);
    let held = Held::from_bytes(&bytes).unwrap();
    let block = |code: &str| BlockBuilder::new().code(code).unwrap();
    let made = r#"one($r) <- resource($r), $r == "door/1"; check if one($r);"#;
    let made = to_text(&held.append(block(made), &mut rig.rng).unwrap().to_bytes().unwrap());
    assert!(exchange(&mut rig, 1001, &made, &[("open", "door/1")]).is_ok());
    for (resource, reason) in [("door/2", Reason::CheckFailed), ("door/*", Reason::NoRight)] {
        let refused = exchange(&mut rig, 1001, &made, &[("open", resource)]).unwrap_err();
        assert_eq!(refused.code, ProblemCode::Denied(reason), "{resource}: {}", refused.detail);
    }
    // Whoever signed it, and whatever it names of its own.
    let slow = r#"limit(3); check if operation("open"), argument("n", $n), limit($l), $n < $l or operation("close")"#;
    let third = KeyPair::new_with_rng(Algorithm::Ed25519, &mut rig.rng);
    let signed = UnverifiedBiscuit::from(&bytes).unwrap();
    let added = signed.third_party_request().unwrap().create_block(&third.private(), block(slow)).unwrap();
    let signed = signed.append_third_party(&added.serialize().unwrap()).unwrap().to_vec().unwrap();
    let own = held.append(block(slow), &mut rig.rng).unwrap().to_bytes().unwrap();
    for token in [own, signed].map(|bytes| to_text(&bytes)) {
        exchange(&mut rig, 1001, &token, &[("open", "door/1")]).unwrap();
        let never = narrow(&mut rig, 1001, &token, None, &[r#"check if operation("shut"), risk("low")"#]).unwrap();
        let refused = exchange(&mut rig, 1001, &never.token, &[("open", "door/1")]).unwrap_err();
        assert_eq!(refused.code, ProblemCode::Denied(Reason::CheckFailed), "{}", refused.detail);
    }
    let sealed = to_text(&held.seal().unwrap().to_bytes().unwrap());
    let detail = check_refused(&mut rig, 1001, &sealed, (Some(60), &[]), ProblemCode::Refused);
    assert!(detail.contains("sealed, and not by this agent"), "{detail}");
    for code in [
        "uses_max(3);",
        "operation(\"read\");",
        "task(\"t-1\");",
        "workload($w) <- owner($w);",
        "reject if true or false;",
    ] {
        let stated = to_text(&held.append(block(code), &mut rig.rng).unwrap().to_bytes().unwrap());
        check_refused(&mut rig, 1001, &stated, (Some(60), &[]), ProblemCode::Denied(Reason::Malformed));
    }
    let mut deep = token;
    let too_many = loop {
        match narrow(&mut rig, 1001, &deep, Some(60), &[]) {
            Ok(narrowed) => deep = narrowed.token,
            Err(problem) => break problem,
        }
    };
    assert_eq!(too_many.code, ProblemCode::Denied(Reason::TooLarge), "{}", too_many.detail);
    assert!(from_text(&deep, 4096).is_ok());
    rig.pass(61);
    check_use(&mut rig, 3003, &narrowed.token, ("open", "door/1"), Reason::Expired);
}
