//! No schedule of clock changes, reboots, outages and messages lengthens a grant: random ones, judged by an oracle.

use proptest::prelude::*;

use super::request::{DecisionReply, Reason, Reply, Request, Socket, TaskReply, TimeClass};
use super::rig::{right, Reboot, Rig};
use super::{Input, LinkEvent};
use crate::time::{Millis, Timestamp};
use crate::wire::policy::TimeRule;
use crate::wire::token::{from_text, Held};

/// Something that happens to a device.
#[derive(Debug, Clone)]
enum Step {
    /// A program asks with each credential that it has.
    Ask,
    /// A program begins a task.
    Begin,
    /// The link is lost.
    Cut,
    /// A signed head arrives, so many seconds old.
    Head(u64),
    /// The process dies.
    Kill,
    /// The power is away so long.
    Off(u64),
    /// Time passes.
    Pass(u64),
    /// A program renews its newest task.
    Renew,
    /// A round trip.
    Sync,
    /// The system clock is set, so far from the truth; none: to 1970.
    Wall(Option<i64>),
}

fn step() -> impl Strategy<Value = Step> {
    let wall = prop_oneof![Just(None), (-40_000_000i64..40_000_000).prop_map(Some), Just(Some(-619_315_200))];
    prop_oneof![
        4 => Just(Step::Ask),
        2 => Just(Step::Begin),
        1 => Just(Step::Cut),
        1 => (0u64..3000).prop_map(Step::Head),
        1 => Just(Step::Kill),
        2 => (0u64..200_000).prop_map(Step::Off),
        3 => (1u64..400).prop_map(Step::Pass),
        1 => Just(Step::Renew),
        1 => Just(Step::Sync),
        1 => wall.prop_map(Step::Wall),
    ]
}

/// A credential as the oracle sees it.
struct Credential {
    token: String,
    task: TaskReply,
    /// Powered-on time when it was handed out.
    begun: Millis,
    /// When its own check ends it, as it was written: by P.
    dated: Timestamp,
}

struct World {
    rig: Rig,
    credentials: Vec<Credential>,
    allowed: u64,
    /// Powered-on time of the last round trip, boots since, and whether it was in this boot.
    contact: (Millis, u32, Synced),
    wall: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Synced {
    InAnotherBoot,
    InThisBoot,
}

const USES_MAX: u64 = 60;
const OFFLINE_MAX: u64 = 2500;
const BOOTS_MAX: u32 = 4;
const TTL: u64 = 600;
/// Whole seconds of Biscuit, and the oscillator's bound on the strict side.
const SLACK: Millis = Millis(2000 + TTL);

impl World {
    fn new(gain_ppm: i64) -> Self {
        let mut rig = Rig::with(|spec| {
            spec.uses_max = USES_MAX;
            spec.offline_max = Millis::from_secs(OFFLINE_MAX);
            spec.boots_max = BOOTS_MAX;
        });
        rig.gain_ppm = gain_ppm;
        rig.policy(|policy| {
            let rule = |resource: &str, class| TimeRule { operation: "*".into(), resource: resource.into(), class };
            policy.time_rules = vec![rule("modbus/valve/*", TimeClass::Strict), rule("modbus/log/*", TimeClass::Floor)];
        });
        let contact = (Millis(0), 0, Synced::InAnotherBoot);
        Self { rig, credentials: Vec::new(), allowed: 0, contact, wall: None }
    }

    fn step(&mut self, step: &Step) {
        self.set_wall();
        match step {
            Step::Ask => self.ask_with_all(),
            Step::Begin => self.begin(),
            Step::Cut => drop(self.rig.input(Input::Link(LinkEvent::Disconnected { reason: "cut".into() }))),
            Step::Head(age) => self.hear(*age),
            Step::Kill => self.rig.restart(Reboot::Process),
            Step::Off(secs) => {
                self.rig.switch_off(*secs);
                self.contact.1 += 1;
                self.contact.2 = Synced::InAnotherBoot;
            }
            Step::Pass(secs) => self.rig.pass(*secs),
            Step::Renew => self.renew(),
            Step::Sync => {
                self.rig.sync();
                self.contact = (self.rig.powered, 0, Synced::InThisBoot);
            }
            Step::Wall(offset) => self.wall = *offset,
        }
        self.check_clocks();
    }

    fn set_wall(&mut self) {
        let shown = self.wall.and_then(|offset| self.rig.truth.0.checked_add_signed(offset * 1000));
        self.rig.now.wall = Some(Timestamp(shown.unwrap_or(self.rig.now.boottime.0)));
    }

    fn begin(&mut self) {
        let begin = super::request::BeginTask {
            task: "pump".parse().unwrap(),
            rights: vec![right("modbus/*", "read")],
            ttl_s: TTL,
            uses: Some(20),
            planner: false,
            reason: None,
            holder: None,
            lease: None,
            identity: None,
            key: None,
        };
        let reply = self.rig.ask(1001, Socket::Agent, Request::Begin(begin));
        self.take(reply);
    }

    fn renew(&mut self) {
        let Some(newest) = self.credentials.last() else { return };
        let request = Request::Renew(newest.task.task_id.clone());
        let reply = self.rig.ask(1001, Socket::Agent, request);
        self.take(reply);
    }

    fn take(&mut self, reply: Reply) {
        let Reply::Task(task) = reply else { return };
        let chain = Held::from_bytes(&from_text(&task.token, 10_000).unwrap()).unwrap().chain();
        let stored = self.rig.agent.wallet.task(&task.task_id).expect("it was just begun");
        let made = stored.made.iter().find(|made| chain.contains(&made.block)).expect("its block is ours");
        let (dated, begun) = (made.ends, self.rig.powered);
        self.credentials.push(Credential { token: task.token.clone(), task, begun, dated });
    }

    fn hear(&mut self, age: u64) {
        let at = self.rig.truth - Millis::from_secs(age);
        for (topic, payload) in self.rig.publish(vec![], at) {
            self.rig.message(topic, payload);
        }
    }

    fn ask_with_all(&mut self) {
        for number in 0..self.credentials.len() {
            for resource in ["modbus/pump", "modbus/valve/1", "modbus/log/1"] {
                let token = self.credentials[number].token.clone();
                let reply = self.rig.authorize(&token, "read", resource);
                self.judge(number, &reply);
            }
        }
    }

    fn judge(&mut self, number: usize, reply: &DecisionReply) {
        let credential = &self.credentials[number];
        let honoured = Millis(self.rig.powered.0 - credential.begun.0);
        let alone = Millis(self.rig.powered.0 - self.contact.0 .0);
        if reply.reason != Reason::Allowed {
            self.check_refusal(number, reply, honoured);
            return;
        }
        self.allowed += 1;
        let bound = Millis(TTL * 1000 + SLACK.0);
        match reply.time_class {
            TimeClass::Bounded => assert!(honoured <= bound, "{honoured:?} of powered-on time: {reply:?}"),
            TimeClass::Floor => {}
            TimeClass::Strict => {
                assert!(
                    self.rig.truth <= credential.dated + Millis(1000),
                    "{} past {}",
                    self.rig.truth,
                    credential.dated
                );
                assert!(self.contact.2 == Synced::InThisBoot, "no round trip in this boot: {reply:?}");
            }
        }
        assert!(self.allowed <= USES_MAX, "{} uses", self.allowed);
        assert!(alone.0 <= OFFLINE_MAX * 1000 + SLACK.0 + OFFLINE_MAX, "{alone:?} without contact");
        assert!(self.contact.1 <= BOOTS_MAX, "{} boots without contact", self.contact.1);
    }

    /// What nothing speaks against is allowed on a device that synced in this boot, and denied for no other reason than a
    /// spent budget.
    fn check_refusal(&mut self, number: usize, reply: &DecisionReply, honoured: Millis) {
        let fresh = honoured < Millis::from_secs(TTL - 200);
        let renewed = self.credentials[number + 1..]
            .iter()
            .any(|other| other.task.task_id == self.credentials[number].task.task_id);
        if self.contact.2 == Synced::InThisBoot && fresh && !renewed && reply.time_class == TimeClass::Bounded {
            let told = [Reason::OfflineSpent, Reason::UsesSpent, Reason::Stale];
            let by_p = self.credentials[number].dated < self.rig.agent.clock.powered();
            assert!(told.contains(&reply.reason) || by_p, "denied without a reason: {reply:?}");
        }
    }

    /// E <= true time <= L, whatever happens.
    fn check_clocks(&mut self) {
        let clock = &self.rig.agent.clock;
        assert!(clock.floor() <= self.rig.truth, "E {} is past {}", clock.floor(), self.rig.truth);
        let ceiling = clock.ceiling().unwrap_or(Timestamp::MAX);
        assert!(ceiling >= self.rig.truth, "L {ceiling} is before {}", self.rig.truth);
        assert!(clock.powered() >= clock.floor());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_schedule_lengthens_a_grant(steps in proptest::collection::vec(step(), 1..60), gain in -450i64..450) {
        let mut world = World::new(gain);
        world.begin();
        for step in &steps {
            world.step(step);
        }
        world.ask_with_all();
    }
}
