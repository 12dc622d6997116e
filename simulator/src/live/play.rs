//! The plan, played on real things.
//!
//! Owns: the order of what is done, and what was seen of it: what programs heard, when what happened, what agents logged.
//! Never: judges.
//! Read next: `compare.rs` and `judge.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use hardtack::agent::mode::{HOLD_MAX, HOLD_MIN};
use hardtack::cli::Failure;
use hardtack::ids::BlockId;
use hardtack::shell::cast::{failed, Player};
use hardtack::shell::clock;
use serde_json::Value;

use super::compare::{Edge, Heard};
use super::programs::Programs;
use super::site::{Shared, Site};
use super::timeline::Timeline;
use crate::event::Event;
use crate::fault::{Direction, Kind, RevokeWhat, WallAfter};
use crate::plan::{Act, Turn};
use crate::script::{Did, Line, Script};

/// How often the agents' logs are looked at, in milliseconds.
const LOOK: u64 = 20;
/// How long is waited for a task that is to be revoked, in milliseconds: past the longest that an issuer is waited for.
const BEGUN_WITHIN: u64 = 4000;
/// How long is waited for a head that holds a revocation, in milliseconds.
const SIGNED_WITHIN: u64 = 10_000;

/// A task that a program began, by the act of the plan.
#[derive(Debug, Clone)]
pub(crate) struct Begun {
    pub(crate) device: u32,
    pub(crate) task: String,
    pub(crate) grant: String,
    pub(crate) token: String,
    pub(crate) chain: Vec<BlockId>,
}

/// A decision that a program heard.
#[derive(Debug, Clone)]
pub(crate) struct Decided {
    pub(crate) act: usize,
    pub(crate) device: u32,
    /// The act that began the task whose token was shown, if an agent handed that out.
    pub(crate) begun: Option<usize>,
    pub(crate) sent: u64,
    /// The highest head that the gateway was known to have applied when it was asked.
    pub(crate) applied: u64,
    pub(crate) body: Value,
}

/// Something that the operator revoked.
#[derive(Debug, Clone)]
pub(crate) struct Revoked {
    pub(crate) device: u32,
    pub(crate) what: RevokeWhat,
    pub(crate) begun: Option<usize>,
    /// A head that certainly holds it, once one was signed.
    pub(crate) head: Option<u64>,
}

impl Revoked {
    /// Whether it is about a credential, which this act began.
    pub(crate) fn covers(&self, seen: &Seen, begun: &Begun, act: usize) -> bool {
        let of = self.begun.and_then(|act| seen.begun.get(&act));
        match self.what {
            RevokeWhat::All => true,
            RevokeWhat::Device => self.device == begun.device,
            RevokeWhat::Grant => of.is_some_and(|of| of.grant == begun.grant),
            RevokeWhat::Task => of.is_some_and(|of| of.task == begun.task),
            RevokeWhat::Block | RevokeWhat::Token => self.begun == Some(act),
            RevokeWhat::Carried | RevokeWhat::Group | RevokeWhat::Owner => false,
        }
    }
}

/// An agent that was started anew, and had no link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StartedAlone {
    pub(crate) device: u32,
    /// Since when it decided.
    pub(crate) at: u64,
    /// Until when it ran and had no link: for good, if this is not known.
    pub(crate) until: Option<u64>,
}

/// What was seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) heard: Vec<Heard>,
    pub(crate) decided: Vec<Decided>,
    pub(crate) begun: BTreeMap<usize, Begun>,
    pub(crate) revoked: Vec<Revoked>,
    pub(crate) edges: Vec<Edge>,
    pub(crate) events: Vec<(u64, Event)>,
    /// Positions of the feed that each gateway logged, in order.
    pub(crate) applied: BTreeMap<u32, Vec<u64>>,
    /// How often each gateway's agent was started anew and decided.
    pub(crate) starts: BTreeMap<u32, u64>,
    /// Those of them that had no link.
    pub(crate) alone: Vec<StartedAlone>,
    /// How often each fault was carried out.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// Acts whose tasks should have been revoked, and were never begun here.
    pub(crate) unrevoked: BTreeSet<usize>,
    /// By how much the latest act that is none of a program was late, in milliseconds.
    pub(crate) late: u64,
}

/// What several threads add to.
pub(crate) struct Stage {
    began: u64,
    seen: Mutex<Seen>,
    over: Mutex<bool>,
    told: Condvar,
}

/// What is due beside the acts.
enum Due {
    Act(usize),
    /// The kernel starts.
    PowerOn(u32, WallAfter),
    /// The agent starts, if it is the same boot still.
    Start(u32, u8),
}

impl Stage {
    fn new() -> Self {
        Self { began: clock::now().boottime.0, seen: Mutex::default(), over: Mutex::new(false), told: Condvar::new() }
    }

    /// Milliseconds since the start.
    pub(crate) fn now(&self) -> u64 {
        clock::now().boottime.0.saturating_sub(self.began)
    }

    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: Event) {
        let now = self.now();
        self.seen().events.push((now, event));
    }

    /// Waits until a moment: false if all is over before.
    pub(crate) fn wait_until(&self, at: u64) -> bool {
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        while !*over {
            let left = at.saturating_sub(self.now());
            if left == 0 {
                return true;
            }
            over = self.told.wait_timeout(over, Duration::from_millis(left)).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    fn end(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.told.notify_all();
    }
}

/// Plays it to its last act, and until every request is answered.
pub(crate) fn play(site: &mut Site, timeline: &Timeline, script: &Script) -> Result<Seen, Failure> {
    let stage = Stage::new();
    let played = std::thread::scope(|scope| {
        for (device, requests) in &timeline.requests {
            let of = &site.devices[*device as usize];
            let mut programs = Programs {
                stage: &stage,
                script,
                device: *device,
                client: of.gateway.client(),
                shared: Arc::clone(&of.shared),
                thief: of.thief.clone(),
            };
            scope.spawn(move || programs.ask_all(requests));
        }
        let mut play = Play { site, timeline, script, stage: &stage, losses: BTreeMap::new() };
        let played = play.world(scope);
        if played.is_err() {
            stage.end();
        }
        played
    });
    played?;
    let mut seen = stage.seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    look_at_logs(site, &mut seen, timeline.last());
    seen.heard.sort_by_key(|heard| (heard.due, heard.act));
    Ok(seen)
}

/// Takes what agents have logged.
fn look_at_logs(site: &mut Site, seen: &mut Seen, now: u64) {
    for (number, device) in (0..).zip(&mut site.devices) {
        let news = device.gateway.agent.as_mut().map(Player::news).unwrap_or_default();
        for line in news {
            take_line(number, &line, &device.shared, seen, now);
        }
    }
}

fn take_line(number: u32, line: &Value, shared: &Shared, seen: &mut Seen, at: u64) {
    let event = line["event"].as_str().unwrap_or_default();
    let name = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
    let seen_event = match event {
        "feed.applied" => {
            let seq = line["seq"].as_u64().unwrap_or(0);
            shared.applied.fetch_max(seq, Ordering::AcqRel);
            seen.applied.entry(number).or_default().push(seq);
            // The log has no era; nothing that is carried out here begins another.
            Event::Applied { device: number, feed: name("feed"), era: 1, seq }
        }
        "mode.changed" => {
            let modes = ["online", "offline", "stale", "locked"];
            let Some(mode) = modes.into_iter().find(|mode| line["to"] == *mode) else { return };
            Event::Mode { device: number, mode }
        }
        "" => return,
        other => Event::Logged { device: number, line: other.to_owned() },
    };
    seen.events.push((at, seen_event));
}

struct Play<'a> {
    site: &'a mut Site,
    timeline: &'a Timeline,
    script: &'a Script,
    stage: &'a Stage,
    /// How often each gateway can have lost its link since its agent started.
    losses: BTreeMap<u32, u32>,
}

impl<'a> Play<'a> {
    /// Everything that no program does.
    fn world<'scope>(&mut self, scope: &'scope Scope<'scope, '_>) -> Result<(), Failure>
    where
        'a: 'scope,
    {
        let acts = self.timeline.world.iter().zip(0u64..).map(|((at, act), order)| ((*at, order), Due::Act(*act)));
        let mut due: BTreeMap<(u64, u64), Due> = acts.collect();
        let mut order = due.len() as u64;
        let end = self.timeline.last();
        while let Some(((at, _), what)) = due.pop_first() {
            self.wait_until(at);
            for (later, what) in self.carry_out(at, what, scope)? {
                order += 1;
                due.insert((later, order), what);
            }
        }
        self.wait_until(end);
        Ok(())
    }

    /// Waits, and looks at the logs meanwhile.
    fn wait_until(&mut self, at: u64) {
        loop {
            let now = self.stage.now();
            look_at_logs(self.site, &mut self.stage.seen(), now);
            if now >= at || !self.stage.wait_until(at.min(now + LOOK)) {
                return;
            }
        }
    }

    fn carry_out<'scope>(
        &mut self,
        at: u64,
        what: Due,
        scope: &'scope Scope<'scope, '_>,
    ) -> Result<Vec<(u64, Due)>, Failure>
    where
        'a: 'scope,
    {
        let begun = self.stage.now();
        let (device, settle, later) = match what {
            Due::Act(number) => {
                self.stage.tell(Event::PlanStep { number: number as u64 });
                let act = self.timeline.case.plan().entries[number].act.clone();
                let settle = self.timeline.settle(&act);
                self.note_loss(&act);
                (act.device(), settle, self.act(at, number, &act, scope)?)
            }
            Due::PowerOn(device, wall) => {
                let later = at + self.timeline.boot();
                let of = &mut self.site.devices[device as usize];
                of.power_on(wall)?;
                let boots = of.boots;
                self.stage.tell(Event::PowerOn { device });
                (Some(device), self.timeline.mended(), vec![(later, Due::Start(device, boots))])
            }
            Due::Start(device, boots) => {
                let of = &mut self.site.devices[device as usize];
                if of.gateway.agent.is_none() && of.is_on && of.boots == boots && !of.is_newer() {
                    of.start()?;
                    self.losses.remove(&device);
                    let start = {
                        let mut seen = self.stage.seen();
                        let at = self.stage.now();
                        seen.alone.extend(self.site.is_alone(device).then_some(StartedAlone {
                            device,
                            at,
                            until: None,
                        }));
                        let starts = seen.starts.entry(device).or_default();
                        *starts += 1;
                        // The first was before the plan.
                        *starts + 1
                    };
                    self.stage.tell(Event::AgentStarted { device, start });
                }
                (Some(device), self.timeline.mended(), Vec::new())
            }
        };
        let (done, hold) = (self.stage.now(), self.hold(device));
        let mut seen = self.stage.seen();
        for start in seen.alone.iter_mut().filter(|start| start.until.is_none()) {
            start.until = (!self.site.is_alone(start.device)).then_some(begun);
        }
        seen.late = seen.late.max(begun.saturating_sub(at));
        seen.edges.push(Edge { device, due: at, begun, done, settle, hold });
        Ok(later)
    }

    fn note_loss(&mut self, act: &Act) {
        let lost = if let Act::LinkDown { device, .. } | Act::LinkHalfOpen { device } = act {
            *device..device + 1
        } else if let Act::BrokerStop { .. } = act {
            0..self.site.devices.len() as u32
        } else {
            return;
        };
        lost.for_each(|device| *self.losses.entry(device).or_default() += 1);
    }

    /// How long a gateway may hold back from being online, by how often it can have lost its link: as `agent/mode.rs` has it.
    fn hold(&self, device: Option<u32>) -> u64 {
        let of = self.losses.iter().filter(|(of, _)| device.is_none_or(|device| device == **of));
        let losses = of.map(|(_, losses)| *losses).max().unwrap_or(0);
        let doubled = losses.checked_sub(2).map(|doublings| HOLD_MIN.0.saturating_mul(1 << doublings.min(16)));
        doubled.unwrap_or(0).min(HOLD_MAX.0)
    }

    fn did(&self, fault: &'static str) {
        *self.stage.seen().faults.entry(fault).or_default() += 1;
    }

    fn act<'scope>(
        &mut self,
        at: u64,
        number: usize,
        act: &Act,
        scope: &'scope Scope<'scope, '_>,
    ) -> Result<Vec<(u64, Due)>, Failure>
    where
        'a: 'scope,
    {
        let lasts = |ms: &u64| self.timeline.lasts(*ms);
        let none = Vec::new();
        match act {
            Act::BrokerStart => self.site.start_broker()?,
            Act::BrokerStop { retained } => {
                self.did(Kind::BrokerRestart { lasts: 0, retained: *retained }.name());
                self.site.stop_broker(*retained)?;
            }
            Act::ClockStep { device, by } => {
                self.did("clock.step");
                self.site.devices[*device as usize].step_wall(*by)?;
            }
            Act::LinkDown { device, direction } => {
                self.did("link.down");
                self.block(*device, *direction, |count| count + 1);
            }
            Act::LinkHalfOpen { device } => {
                self.did("link.half_open");
                self.site.devices[*device as usize].strand();
            }
            Act::LinkSlow { device, direction, by, turn } => {
                if *turn == Turn::Begins {
                    self.did("link.slow");
                }
                self.site.devices[*device as usize].slow(*direction, *by, *turn);
            }
            Act::LinkUp { device, direction } => self.block(*device, *direction, |count| count.saturating_sub(1)),
            Act::PowerCut { device, lasts: away, wall, .. } => {
                let later = at + lasts(away);
                let of = &mut self.site.devices[*device as usize];
                if of.is_on {
                    of.kill();
                    of.is_on = false;
                    self.stopped("power.cut", *device, true);
                    return Ok(vec![(later, Due::PowerOn(*device, *wall))]);
                }
            }
            Act::ProcessRestart { device, lasts: away, .. } => {
                let later = at + lasts(away);
                let of = &mut self.site.devices[*device as usize];
                if of.is_on && !of.is_asleep() {
                    of.kill();
                    let boots = of.boots;
                    self.stopped("process.restart", *device, false);
                    return Ok(vec![(later, Due::Start(*device, boots))]);
                }
            }
            Act::Reboot { device, lasts: away, wall } => {
                let later = at + lasts(away);
                let of = &mut self.site.devices[*device as usize];
                if of.is_on {
                    of.shut_down()?;
                    of.is_on = false;
                    self.stopped("reboot", *device, true);
                    return Ok(vec![(later, Due::PowerOn(*device, *wall))]);
                }
            }
            Act::Revoke { device, .. } => self.revoke(number, *device, scope)?,
            Act::ServiceStart => self.site.start_service()?,
            Act::ServiceStop => {
                self.did("service.stop");
                self.site.stop_service();
            }
            Act::ProcessDowngrade { device, turn: Turn::Begins } => {
                let of = &mut self.site.devices[*device as usize];
                if of.hand_over()? {
                    self.stopped("process.downgrade", *device, false);
                }
            }
            Act::ProcessDowngrade { device, turn: Turn::Ends } => {
                let of = &mut self.site.devices[*device as usize];
                if of.take_back()? && of.is_on {
                    return Ok(vec![(at, Due::Start(*device, of.boots))]);
                }
            }
            Act::ProcessStop { device, turn } | Act::Suspend { device, turn } => {
                let of = &mut self.site.devices[*device as usize];
                match turn {
                    Turn::Begins => of.fall_asleep()?,
                    Turn::Ends => of.wake_up()?,
                }
                let asleep = of.is_asleep();
                if *turn == Turn::Begins {
                    self.did(if let Act::Suspend { .. } = act { "suspend" } else { "process.stop" });
                }
                self.stage.tell(Event::Asleep { device: *device, asleep });
            }
            // What programs do, they do themselves; the rest is not in a timeline.
            Act::Authorize { .. }
            | Act::Begin { .. }
            | Act::BrokerAck { .. }
            | Act::BrokerBackup { .. }
            | Act::BrokerDelay { .. }
            | Act::BrokerDelayFor { .. }
            | Act::BrokerEmergency { .. }
            | Act::BrokerFeed { .. }
            | Act::BrokerForget { .. }
            | Act::BrokerHostile { .. }
            | Act::BrokerReplay { .. }
            | Act::BrokerRestore { .. }
            | Act::ClockDrift { .. }
            | Act::ClockFreeze { .. }
            | Act::DiskClone { .. }
            | Act::DiskCopy { .. }
            | Act::DiskDamage { .. }
            | Act::DiskRefuses { .. }
            | Act::DiskSync { .. }
            | Act::Distinct { .. }
            | Act::Emergency { .. }
            | Act::EmergencyThief { .. }
            | Act::Finish { .. }
            | Act::Flood { .. }
            | Act::GroupMove { .. }
            | Act::KeyRotate { .. }
            | Act::Misuse { .. }
            | Act::Narrow { .. }
            | Act::Overstep { .. }
            | Act::Plan { .. }
            | Act::ProcessUpgrade { .. }
            | Act::RevokeStorm { .. }
            | Act::ServiceAhead { .. }
            | Act::Status { .. }
            | Act::TimeReset { .. }
            | Act::Wire { .. } => {}
        }
        Ok(none)
    }

    fn stopped(&self, fault: &'static str, device: u32, off: bool) {
        self.did(fault);
        self.stage.tell(Event::Stopped { device, off, steps: 0 });
    }

    fn block(&mut self, device: u32, direction: Direction, count: impl Fn(u32) -> u32) {
        let of = &mut self.site.devices[device as usize];
        of.block(direction, count);
        let (up, down) = of.passes();
        self.stage.tell(Event::Link { device, up, down });
    }

    /// The task that an act began. Waits for the answer, if one is still to come.
    fn wait_begun(&mut self, act: usize) -> Option<Begun> {
        let patience = self.stage.now() + BEGUN_WITHIN;
        loop {
            {
                let seen = self.stage.seen();
                let begun = seen.begun.get(&act).cloned();
                if begun.is_some() || seen.heard.iter().any(|heard| heard.act == act) {
                    return begun;
                }
            }
            let now = self.stage.now();
            if now >= patience {
                return None;
            }
            self.wait_until(now + LOOK);
        }
    }

    /// The operator revokes what the model says is meant. Beside what goes on, the head that holds it is waited for.
    fn revoke<'scope>(&mut self, number: usize, device: u32, scope: &'scope Scope<'scope, '_>) -> Result<(), Failure>
    where
        'a: 'scope,
    {
        let script = self.script;
        let Some(Line { did: Did::Revoke { what, begun }, .. }) = script.lines.get(&number) else { return Ok(()) };
        let task = begun.and_then(|act| self.wait_begun(act));
        let name = &self.site.devices[device as usize].gateway.id;
        let target = match (what, task) {
            (RevokeWhat::All, _) => vec!["all".into()],
            (RevokeWhat::Device, _) => vec!["device".into(), name.clone()],
            (RevokeWhat::Block, Some(task)) => {
                let block = task.chain.last().map(ToString::to_string);
                vec!["block".into(), block.ok_or_else(|| failed("a token has no block in act", number))?]
            }
            (RevokeWhat::Grant, Some(task)) => vec!["grant".into(), task.grant],
            (RevokeWhat::Task, Some(task)) => vec!["task".into(), task.task],
            (RevokeWhat::Token, Some(task)) => vec!["token".into(), task.token],
            (RevokeWhat::Block | RevokeWhat::Grant | RevokeWhat::Task | RevokeWhat::Token, None) => {
                self.stage.seen().unrevoked.extend(*begun);
                return Ok(());
            }
            (RevokeWhat::Carried | RevokeWhat::Group | RevokeWhat::Owner, _) => return Ok(()),
        };
        let mut args = vec!["revoke"];
        args.extend(target.iter().map(String::as_str));
        args.extend(["--reason", "the plan says so"]);
        self.site.fleet.run(&args)?;
        self.did("revoke");
        let at = self.stage.now();
        let place = {
            let mut seen = self.stage.seen();
            seen.revoked.push(Revoked { device, what: *what, begun: *begun, head: None });
            seen.revoked.len() - 1
        };
        let (stage, fleet, script) = (self.stage, self.site.fleet.clone(), target);
        scope.spawn(move || {
            while stage.now() < at + SIGNED_WITHIN {
                let known = fleet.run(&["revocations"]).unwrap_or_default();
                let rules = known["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
                let named = |rule: &&Value| script.get(1).is_none_or(|value| rule["value"] == **value);
                if rules.iter().filter(named).any(|rule| rule["state"] == "signed") {
                    let head = known["head"]["seq"].as_u64();
                    stage.seen().revoked[place].head = head;
                    stage.tell(Event::Revoked { feed: "main".into(), era: 1, seq: head.unwrap_or(0) });
                    return;
                }
                if !stage.wait_until(stage.now() + LOOK) {
                    return;
                }
            }
        });
        Ok(())
    }
}
