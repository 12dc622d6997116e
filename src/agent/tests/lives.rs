//! How long what is made here lives, where the system clock leads what is proven: right, as after a long time without power, or
//! wrong.

use super::super::request::{
    Attenuate, AttenuatedReply, BeginTask, DecisionReply, Problem, ProblemCode, Reason, Reply, Request, Socket,
    StepReply, TakeStep, TaskReply, TaskSummary, TimeClass,
};
use super::super::rig::{right, Reboot, Rig, START_S};
use crate::time::{Millis, Timestamp};
use crate::wire::token::{mint_task, to_text, TaskSpec};

const HOUR: u64 = 3600;
const EXECUTOR: &str = "unix:uid:2002";

fn wanted(planner: bool, key: Option<&str>) -> BeginTask {
    BeginTask {
        task: "pump".parse().unwrap(),
        rights: vec![right("modbus/*", "read")],
        ttl_s: 600,
        uses: None,
        planner,
        reason: None,
        holder: None,
        lease: None,
        identity: None,
        key: key.map(Into::into),
    }
}

fn task_of(reply: Reply) -> TaskReply {
    match reply {
        Reply::Task(task) => task,
        other => panic!("no task: {other:?}"),
    }
}

fn begin(rig: &mut Rig, planner: bool) -> TaskReply {
    task_of(rig.ask(1001, Socket::Agent, Request::Begin(wanted(planner, None))))
}

fn narrow(rig: &mut Rig, token: &str, ttl_s: Option<u64>) -> Result<AttenuatedReply, Problem> {
    let ask = Attenuate { token: token.into(), ttl_s, checks: Vec::new(), scope: Vec::new() };
    match rig.ask(1001, Socket::Agent, Request::Attenuate(ask)) {
        Reply::Attenuated(narrowed) => Ok(narrowed),
        Reply::Problem(problem) => Err(problem),
        other => panic!("not narrowed: {other:?}"),
    }
}

fn step(rig: &mut Rig, planner: &TaskReply) -> StepReply {
    let ask = TakeStep {
        token: planner.token.clone(),
        executor: EXECUTOR.into(),
        rights: vec![right("modbus/*", "read")],
        ttl_s: 60,
        uses: None,
        risk: Some("low".parse().unwrap()),
        idempotency_key: None,
        reason: None,
    };
    match rig.ask(1001, Socket::Agent, Request::Step(planner.task_id.clone(), ask)) {
        Reply::Step(step) => step,
        other => panic!("no step: {other:?}"),
    }
}

fn listed(rig: &mut Rig) -> Vec<TaskSummary> {
    match rig.ask(1001, Socket::Agent, Request::Tasks) {
        Reply::Tasks(tasks) => tasks,
        other => panic!("no list: {other:?}"),
    }
}

fn read(rig: &mut Rig, uid: u32, token: &str) -> DecisionReply {
    rig.authorize_as(uid, token, "read", "modbus/a")
}

#[track_caller]
fn check(rig: &mut Rig, token: &str, reason: Reason) {
    let decision = read(rig, 1001, token);
    assert_eq!(decision.reason, reason, "{}", decision.explain);
}

/// Whoever was given a credential is told what a decision about it says.
#[track_caller]
fn check_told(rig: &mut Rig, uid: u32, token: &str, told: u64, life: u64) {
    let decision = read(rig, uid, token);
    assert_eq!(decision.reason, Reason::Allowed, "{}", decision.explain);
    let said = decision.expires_in_s.unwrap();
    assert!(told.abs_diff(said) <= 1, "{told} s were told, and a decision says {said} s");
    assert!((life.saturating_sub(4)..=life).contains(&told), "{told} s of {life} s");
}

/// Switched off for longer than a task lives, and then there is no uplink. The system clock went on.
#[test]
fn what_is_made_after_a_long_time_without_power_has_its_whole_life() {
    let mut rig = Rig::new();
    rig.switch_off(HOUR);
    rig.now.wall = Some(rig.truth);
    let first = task_of(rig.ask(1001, Socket::Agent, Request::Begin(wanted(false, Some("key")))));
    check_told(&mut rig, 1001, &first.token, first.expires_in_s, 600);
    rig.pass(100);
    rig.now.wall = Some(rig.truth);
    let again = task_of(rig.ask(1001, Socket::Agent, Request::Begin(wanted(false, Some("key")))));
    assert_eq!(again.task_id, first.task_id);
    check_told(&mut rig, 1001, &first.token, again.expires_in_s, 500);
    let list = listed(&mut rig);
    check_told(&mut rig, 1001, &first.token, list[0].expires_in_s, 500);
    let renewed = task_of(rig.ask(1001, Socket::Agent, Request::Renew(first.task_id)));
    check_told(&mut rig, 1001, &renewed.token, renewed.expires_in_s, 600);
    let narrowed = narrow(&mut rig, &renewed.token, Some(60)).unwrap();
    check_told(&mut rig, 1001, &narrowed.token, narrowed.expires_in_s, 60);
    let planner = begin(&mut rig, true);
    let step = step(&mut rig, &planner);
    let list = listed(&mut rig);
    let steps: Vec<u64> = list.iter().flat_map(|task| &task.steps).map(|step| step.expires_in_s).collect();
    assert!(steps.len() == 1 && steps[0].abs_diff(step.expires_in_s) <= 1, "{steps:?}");
    check_told(&mut rig, 2002, &step.token, step.expires_in_s, 60);
}

/// Its life is powered-on time, whatever the clock showed when it began, and shows since.
#[test]
fn a_wrong_system_clock_makes_nothing_live_longer() {
    for ahead in [0, HOUR, 6 * 24 * HOUR] {
        for shown in [None, Some(Timestamp(0)), Some(Timestamp::from_secs(START_S))] {
            let mut rig = Rig::new();
            rig.now.wall = Some(rig.truth + Millis::from_secs(ahead));
            let (task, planner) = (begin(&mut rig, false), begin(&mut rig, true));
            let narrowed = narrow(&mut rig, &task.token, Some(60)).unwrap();
            let (used, left) = (step(&mut rig, &planner), step(&mut rig, &planner));
            rig.now.wall = shown;
            rig.pass(55);
            check(&mut rig, &narrowed.token, Reason::Allowed);
            assert_eq!(read(&mut rig, 2002, &used.token).reason, Reason::Allowed);
            rig.pass(8);
            check(&mut rig, &narrowed.token, Reason::Expired);
            assert_eq!(read(&mut rig, 2002, &left.token).reason, Reason::Expired);
            // Another start in this boot does not begin it anew,
            rig.restart(Reboot::Process);
            rig.pass(530);
            check(&mut rig, &task.token, Reason::Allowed);
            rig.pass(10);
            assert!(!matches!(read(&mut rig, 1001, &task.token).reason, Reason::Allowed), "ahead by {ahead} s");
            assert!(listed(&mut rig).is_empty(), "it has ended");
        }
    }
}

/// Its entry in the wallet goes when E is past what it had by P. Its date lies ahead still, and its task lives.
#[test]
fn what_was_narrowed_stays_ended_once_it_is_forgotten() {
    for issued in [false, true] {
        let mut rig = Rig::new();
        let task = match issued {
            true => {
                rig.sync();
                rig.begin_issued(wanted(false, None), |_| {})
            }
            false => begin(&mut rig, false),
        };
        let planner = begin(&mut rig, true);
        rig.now.wall = Some(rig.truth + Millis::from_secs(300));
        let narrowed = narrow(&mut rig, &task.token, Some(30)).unwrap();
        let taken = step(&mut rig, &planner);
        rig.now.wall = None;
        rig.pass(63);
        check(&mut rig, &narrowed.token, Reason::Expired);
        // With each of these what is proven to be over is forgotten.
        for _ in 0..20 {
            rig.pass(3);
            narrow(&mut rig, &task.token, Some(1)).unwrap();
            let reason = read(&mut rig, 1001, &narrowed.token).reason;
            assert!(matches!(reason, Reason::Expired | Reason::NoRight), "{reason:?}");
            assert_eq!(read(&mut rig, 2002, &taken.token).reason, Reason::Expired);
        }
        check(&mut rig, &task.token, Reason::Allowed);
        let siblings = rig.agent.wallet.task(&task.task_id).unwrap().siblings.len();
        assert!(siblings < 10, "{siblings} of 21 are remembered");
    }
}

/// However often that is renewed, and forgets what it was.
#[test]
fn a_step_has_no_longer_life_than_the_task_that_it_was_taken_of() {
    let mut rig = Rig::new();
    rig.now.wall = Some(rig.truth + Millis::from_secs(HOUR));
    let short = BeginTask { ttl_s: 20, ..wanted(true, None) };
    let planner = task_of(rig.ask(1001, Socket::Agent, Request::Begin(short)));
    let taken = step(&mut rig, &planner);
    assert!(taken.expires_in_s <= 20, "{} s", taken.expires_in_s);
    rig.now.wall = None;
    let mut renewed = planner;
    for _ in 0..8 {
        rig.pass(8);
        renewed = task_of(rig.ask(1001, Socket::Agent, Request::Renew(renewed.task_id)));
    }
    assert_eq!(read(&mut rig, 2002, &taken.token).reason, Reason::Expired);
}

/// A machine that was copied while it ran goes on where its clock was.
#[test]
fn a_boot_that_counts_anew_under_its_name_makes_nothing_live_longer() {
    let mut rig = Rig::new();
    rig.pass(1000);
    rig.now.wall = Some(rig.truth + Millis::from_secs(2 * HOUR));
    let task = begin(&mut rig, false);
    rig.now.wall = None;
    rig.now.boottime = Millis::from_secs(5);
    rig.restart(Reboot::Process);
    rig.pass(595);
    assert_eq!(read(&mut rig, 1001, &task.token).reason, Reason::Expired, "it was charged as by a reboot");
}

/// As a strict grant has it, nothing is honoured before there was a round trip in this boot.
#[test]
fn a_strict_grant_is_told_as_it_is_judged() {
    let mut rig = Rig::with(|spec| spec.min_time_class = Some(TimeClass::Strict));
    rig.connect(Timestamp(0));
    let task = begin(&mut rig, false);
    check_told(&mut rig, 1001, &task.token, task.expires_in_s, 600);
    rig.restart(Reboot::Kernel);
    let decision = read(&mut rig, 1001, &task.token);
    assert_eq!((decision.reason, decision.expires_in_s), (Reason::TimeUntrusted, Some(0)));
    assert_eq!(listed(&mut rig)[0].expires_in_s, 0);
}

/// In another boot P counts, which charges for the switch.
#[test]
fn a_reboot_costs_what_was_dated_by_a_wrong_clock() {
    let mut rig = Rig::new();
    rig.now.wall = Some(rig.truth + Millis::from_secs(HOUR));
    let task = begin(&mut rig, false);
    rig.now.wall = None;
    let mut boots = 0;
    while read(&mut rig, 1001, &task.token).reason == Reason::Allowed {
        rig.restart(Reboot::Kernel);
        boots += 1;
        assert!(boots < 20, "each boot costs a lease of 60 s, and it has 600 s");
    }
    assert!(boots > 5, "{boots} boots cost more than their leases");
}

/// P leaps to what time it is. What was dated by a right clock goes on beside that, what was dated by P is over by its date.
#[test]
fn what_is_made_in_the_dark_lives_on_when_the_device_is_told_the_time() {
    let mut lagging = Rig::new();
    lagging.switch_off(HOUR);
    let task = begin(&mut lagging, false);
    check(&mut lagging, &task.token, Reason::Allowed);
    lagging.connect(Timestamp(0));
    assert_ne!(read(&mut lagging, 1001, &task.token).reason, Reason::Allowed);

    let mut rig = Rig::new();
    rig.switch_off(HOUR);
    rig.now.wall = Some(rig.truth);
    let task = begin(&mut rig, false);
    let limited =
        task_of(rig.ask(1001, Socket::Agent, Request::Begin(BeginTask { uses: Some(2), ..wanted(false, None) })));
    check(&mut rig, &limited.token, Reason::Allowed);
    rig.connect(Timestamp(0));
    assert!(rig.agent.clock.floor() + Millis::from_secs(60) > rig.truth, "it was told");
    rig.now.wall = Some(rig.truth);
    check(&mut rig, &task.token, Reason::Allowed);
    check(&mut rig, &limited.token, Reason::Allowed);
    check(&mut rig, &limited.token, Reason::UsesSpent);
    assert_eq!(listed(&mut rig).len(), 1, "the other one has no use left");
    rig.restart(Reboot::Process);
    check(&mut rig, &limited.token, Reason::UsesSpent);
    check(&mut rig, &task.token, Reason::Allowed);
    rig.pass(602);
    rig.now.wall = Some(rig.truth);
    assert_ne!(read(&mut rig, 1001, &task.token).reason, Reason::Allowed);
    assert_ne!(read(&mut rig, 1001, &limited.token).reason, Reason::Allowed);
    assert!(listed(&mut rig).is_empty());
}

/// The clock is set only after a task was begun: what there is has ended if that is right, and the task goes on.
#[test]
fn a_task_is_renewed_when_the_clock_was_set_after_it_began() {
    let mut rig = Rig::new();
    rig.switch_off(HOUR);
    let task = begin(&mut rig, false);
    check(&mut rig, &task.token, Reason::Allowed);
    rig.now.wall = Some(rig.truth);
    check(&mut rig, &task.token, Reason::Expired);
    assert_eq!(listed(&mut rig)[0].expires_in_s, 0, "as decisions have it");
    let renewed = task_of(rig.ask(1001, Socket::Agent, Request::Renew(task.task_id)));
    check_told(&mut rig, 1001, &renewed.token, renewed.expires_in_s, 600);
}

/// Nobody counts the life of what no agent made. It is not dated by a clock that may be wrong, and who asks for that is told.
#[test]
fn a_token_of_the_issuers_is_narrowed_by_what_is_proven() {
    let mut rig = Rig::new();
    let rights = vec![right("modbus/*", "read")];
    let spec = TaskSpec { expires: Timestamp::from_secs(START_S + 2 * HOUR), rights, ..super::spec("gw-07") };
    let token = to_text(&mint_task(&spec, &rig.issuer, 7, &mut rig.rng).unwrap());
    let narrowed = narrow(&mut rig, &token, Some(60)).unwrap();
    check_told(&mut rig, 1001, &narrowed.token, narrowed.expires_in_s, 60);
    rig.now.wall = Some(rig.truth + Millis::from_secs(HOUR));
    let problem = narrow(&mut rig, &token, Some(60)).unwrap_err();
    assert_eq!(problem.code, ProblemCode::Denied(Reason::Expired));
    assert!(problem.detail.contains("if the system clock is right"), "{}", problem.detail);
    let narrowed = narrow(&mut rig, &token, Some(2 * HOUR)).unwrap();
    check_told(&mut rig, 1001, &narrowed.token, narrowed.expires_in_s, HOUR);
}
