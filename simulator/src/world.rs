//! The world: events in order of time, and who takes part.
//!
//! Owns: the queue, keyed by time and order of arrival, so that nothing depends on chance; the run from start to end.
//! Never: decides what a gateway, a broker or an operator does.
//! Read next: `acts.rs` for the plan, `host.rs` for gateways, `carry.rs` for messages.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use hardtack::agent::request::Mode;
use hardtack::ids::{DeviceId, FleetId, Nonce};
use hardtack::time::Timestamp;
#[cfg(test)]
use hardtack::wire::bundle::PublicKey;
use hardtack::wire::policy::TimeClass;
use hardtack::wire::verified;

use crate::agree::Seen;
use crate::broker::{Broker, Delivery};
use crate::case::Anew;
use crate::check::audit::AuditCheck;
#[cfg(test)]
use crate::check::audit::Collected;
use crate::check::authority::{AuthorityCheck, Bounds, Quiet, Share};
use crate::check::clock::{ClockCheck, Synced};
use crate::check::emergency::EmergencyCheck;
use crate::check::evidence::EvidenceCheck;
use crate::check::feed::{FeedCheck, Owed};
use crate::check::live::Due;
use crate::check::monotone::MonotoneCheck;
use crate::check::{live, Id, Tally};
use crate::clocks::date;
use crate::device::{Device, Probe, Restored};
use crate::event::Event;
use crate::exhaust::{Boundaries, NthCut, Window};
use crate::fault::{AckTrick, FeedTrick, WallAfter, WireTrick};
use crate::fleet_answers::{Answers, Ledger};
use crate::followed::Versions;
use crate::level::Links;
use crate::model::{Choices, Model};
use crate::network::{ConnId, End, Network, Packet};
use crate::operator::Operator;
use crate::plan::{Plan, LAST_QUIET};
use crate::reset::{Carried, Errand};
use crate::scenario::Scenario;
use crate::script::Script;
use crate::trace::{Coverage, Trace};
use crate::workload::Waiting;

/// More events than this at one moment, and something goes round in circles.
const STORM: u64 = 200_000;
/// How long after the last fault what is good must be allowed.
pub(crate) const CALM: u64 = 15 * 60_000;
/// When gateways are asked for their last status, before the end.
const LAST_STATUS: u64 = 2000;

/// Something that is due.
pub(crate) enum Happening {
    /// An act of the plan, by its place.
    Act(usize),
    /// A packet is at the other end of its connection.
    Arrive { conn: ConnId, to: End, packet: Packet },
    /// A commit is durable.
    Committed { device: u32, start: u64 },
    /// A gateway's agent wanted to be called.
    Deadline { device: u32, start: u64 },
    /// The broker has sat on a message for long enough.
    Deliver(Delivery),
    /// What was stuck on a connection goes through again.
    Flush { conn: ConnId, to: End },
    /// An end of a connection has heard nothing for too long, if nothing changed since.
    KeepAlive { conn: ConnId, end: End, mark: u64 },
    /// The broker has heard nothing of a gateway for too long, if its process has been stopped since then.
    Unheard { conn: ConnId, since: u64 },
    /// A gateway looks whether it has heard a packet since then.
    Listen { conn: ConnId, heard: u64 },
    /// The operator's newest list is what gateways must hold in the end.
    NoteNewest,
    /// A token that was carried to a gateway and revoked is tried again.
    Carried { device: u32, credential: usize },
    /// A credential is tried past its end.
    Probe { device: u32, probe: Probe },
    /// The kernel starts.
    PowerOn { device: u32, wall: WallAfter },
    /// The service tries to connect.
    ServiceConnect,
    /// A message is at the service.
    ServiceHears { topic: String, payload: Vec<u8> },
    /// The service looks at the clock.
    ServiceTick,
    /// The agent's process starts; not if power went away since.
    StartProcess { device: u32, powered_on: u64 },
    /// Every gateway is asked for its status.
    LastStatus,
    /// A message for a gateway, over whatever connection it has by then.
    LateFor { device: u32, topic: String, payload: Vec<u8> },
    /// Whoever signs resets has a gateway's nonce.
    SignReset { device: u32, errand: Errand },
    /// A reset is at its gateway. It was signed at `time`.
    CarryReset { device: u32, errand: Errand, file: Vec<u8>, time: Timestamp },
}

struct Scheduled {
    at: u64,
    what: Happening,
}

/// What is to come, in order of time, and of what came first. The heap holds places alone: what happens is large, and a heap
/// moves what it holds again and again.
#[derive(Default)]
struct Queue {
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    places: Vec<Option<Happening>>,
    free: Vec<usize>,
}

impl Queue {
    fn push(&mut self, at: u64, order: u64, what: Happening) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.places[place] = Some(what);
        self.heap.push(Reverse((at, order, place)));
    }

    /// When the next is due, and its place in the order.
    fn first(&self) -> Option<(u64, u64)> {
        self.heap.peek().map(|Reverse((at, order, _))| (*at, *order))
    }

    fn pop(&mut self) -> Option<Scheduled> {
        let Reverse((at, _, place)) = self.heap.pop()?;
        self.free.push(place);
        self.places[place].take().map(|what| Scheduled { at, what })
    }
}

/// Something that several faults at once can take away: it is there again when the last of them is over.
#[derive(Debug, Default)]
pub(crate) struct Away(u32);

impl Away {
    /// It is taken away: whether it was there.
    pub(crate) fn begins(&mut self) -> bool {
        self.0 += 1;
        self.0 == 1
    }

    /// Whether a fault keeps it away now.
    pub(crate) fn is_away(&self) -> bool {
        self.0 > 0
    }

    /// One of the faults is over: whether it was the last. Whoever gives back what nobody took gives nothing.
    pub(crate) fn ends(&mut self) -> bool {
        let was_last = self.0 == 1;
        self.0 = self.0.saturating_sub(1);
        was_last
    }
}

/// All that checkers keep.
pub(crate) struct Checks {
    pub(crate) tally: Tally,
    pub(crate) audit: AuditCheck,
    pub(crate) authority: AuthorityCheck,
    pub(crate) clock: ClockCheck,
    pub(crate) emergency: EmergencyCheck,
    pub(crate) evidence: EvidenceCheck,
    pub(crate) feed: FeedCheck,
    pub(crate) monotone: MonotoneCheck,
}

/// The world.
pub(crate) struct World<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) plan: &'a Plan,
    pub(crate) seed: u64,
    pub(crate) now: u64,
    pub(crate) fleet: FleetId,
    pub(crate) devices: Vec<Device>,
    pub(crate) network: Network,
    /// The ends of connections, where bytes go over them.
    pub(crate) links: Option<Box<dyn Links>>,
    pub(crate) broker: Broker,
    pub(crate) operator: Operator,
    pub(crate) model: Model,
    pub(crate) checks: Checks,
    pub(crate) trace: Trace,
    /// Requests that wait for a reply.
    pub(crate) asked: BTreeMap<u64, Waiting>,
    pub(crate) next_request: u64,
    /// What the broker will do to the next acknowledgement of a gateway's `hello`.
    pub(crate) tricks: BTreeMap<u32, AckTrick>,
    /// Acknowledgements that a gateway must refuse when they arrive.
    pub(crate) planted: BTreeMap<Vec<u8>, AckTrick>,
    /// Acknowledgements that come twice, until the first has come.
    pub(crate) doubled: BTreeSet<Vec<u8>>,
    /// What gateways must refuse on topics of the feed when it arrives there.
    pub(crate) planted_on_feed: BTreeMap<(u32, String, Vec<u8>), FeedTrick>,
    /// Since when a gateway waits for the issuer's answer, by its nonce.
    pub(crate) tokens_asked: BTreeMap<(u32, Nonce), u64>,
    /// What a broker makes of bytes on connections, and nobody said.
    pub(crate) noise: BTreeSet<(u32, String, Vec<u8>)>,
    /// Connections over which a broker broke the protocol, and since when they are to end.
    pub(crate) must_end: BTreeMap<ConnId, (u64, WireTrick)>,
    /// Gateways that are to be given another head than the fleet's next one.
    pub(crate) substitutes: BTreeSet<u32>,
    /// Gateways that were behind when the service went away, and the newest head that the broker had for them.
    pub(crate) behind: Vec<(u32, Owed)>,
    /// When each gateway's link was last mended, if nothing was wrong with it since.
    pub(crate) link_up: BTreeMap<u32, u64>,
    /// When the broker last lost, or may have thrown away, something that it had been given to keep.
    pub(crate) broker_lost: Option<u64>,
    /// Links that were cut in this moment, and whether each way had been open.
    pub(crate) cuts: Vec<(u32, (bool, bool))>,
    pub(crate) herd: live::Herd,
    pub(crate) ledger: Ledger,
    /// Of the trust bundles on gateways' disks.
    pub(crate) versions: Versions,
    /// Gateways that a service answers whose clock is ahead, and by how much.
    pub(crate) ahead: BTreeMap<u32, u64>,
    /// What was carried to each gateway to reset its clock.
    pub(crate) carried: BTreeMap<u32, Carried>,
    pub(crate) broker_away: Away,
    pub(crate) service_away: Away,
    /// Faults that last now, and when the last one began or ended.
    pub(crate) faults_at_work: u32,
    pub(crate) last_fault: u64,
    /// How often each fault had an effect.
    pub(crate) effects: BTreeMap<&'static str, u64>,
    /// What levels are compared by.
    pub(crate) seen: Seen,
    /// Faults that this level cannot do, and why not.
    pub(crate) not_applied: BTreeSet<(&'static str, &'static str)>,
    /// The window in which each boundary is tried, if the plan has one.
    pub(crate) window: Option<Window>,
    /// Where to cut the power, in a run that tries one boundary of many.
    pub(crate) cut: Option<NthCut>,
    /// Boundaries that could be cut at.
    pub(crate) boundaries: Boundaries,
    /// The act of a program that is carried out now.
    pub(crate) acting: Option<usize>,
    /// What the acts came to.
    pub(crate) script: Script,
    /// Where a run ends before its time, for whoever does not judge it.
    stop: u64,
    /// From when on latencies and the broker's whims are drawn with another seed.
    anew: Option<Anew>,
    /// Per gateway the newest head that it must hold in the end.
    newest_owed: Vec<Owed>,
    queue: Queue,
    /// The acts of the plan that are to come, the next one last: a plan of a large fleet would make the queue deep.
    acts: Vec<PlannedAct>,
    order: u64,
}

/// An act of the plan, and its place in the order of all that happens.
struct PlannedAct {
    at: u64,
    order: u64,
    number: usize,
}

/// What a run came to.
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// When it ended.
    #[cfg(feature = "mutants")]
    pub(crate) ended: u64,
    pub(crate) events: u64,
    pub(crate) hash: [u8; 32],
    pub(crate) coverage: Coverage,
    pub(crate) boundaries: Boundaries,
    /// How often each fault had an effect.
    pub(crate) effects: BTreeMap<&'static str, u64>,
    pub(crate) seen: Seen,
    /// Which credentials were picked for what.
    pub(crate) choices: Choices,
    pub(crate) not_applied: BTreeSet<(&'static str, &'static str)>,
    pub(crate) shares: BTreeMap<(TimeClass, Synced), Share>,
    /// Decisions that callers saw.
    pub(crate) decisions: u64,
    pub(crate) answers: Answers,
    pub(crate) script: Script,
    #[cfg(test)]
    pub(crate) collector: Collector,
}

/// What a collector has.
#[cfg(test)]
pub(crate) struct Collector {
    pub(crate) fleet: FleetId,
    /// The gateways with their identity keys.
    pub(crate) devices: Vec<(DeviceId, PublicKey)>,
    pub(crate) trails: Vec<Collected>,
    /// What was revoked, as a file.
    pub(crate) revocations: Vec<u8>,
}

impl<'a> World<'a> {
    pub(crate) fn new(scenario: &'a Scenario, plan: &'a Plan, seed: u64, trace: Trace, cut: Option<NthCut>) -> Self {
        let count = scenario.fleet.devices;
        let devices: Vec<Device> = (0..count).map(|number| Device::new(scenario, seed, number)).collect();
        let operator = Operator::found(scenario, plan, seed);
        let levels = operator.policy().risks.iter();
        let bounds = Bounds {
            staleness: levels
                .filter_map(|level| level.staleness_max_ms.map(|bound| (level.class.as_str().to_owned(), bound.0)))
                .collect(),
            offline_max: scenario.grant.offline_max.0,
            boots_max: scenario.grant.boots_max,
            uses_max: scenario.grant.uses_max,
            lease: scenario.profile.time.lease().0,
        };
        Self {
            fleet: operator.fleet().clone(),
            network: Network::new(seed, count, scenario.fleet.latency_ms),
            links: None,
            broker: Broker::new(seed),
            model: Model::default(),
            checks: Checks {
                tally: Tally::default(),
                audit: AuditCheck::default(),
                authority: AuthorityCheck::new(count, bounds),
                clock: ClockCheck::new(count, scenario.profile.time.clone(), scenario.start),
                emergency: EmergencyCheck::new(count, &scenario.profile.time),
                evidence: EvidenceCheck::new(scenario.fleet.commit_ms.1),
                feed: FeedCheck::new(count),
                monotone: MonotoneCheck::new(count),
            },
            asked: BTreeMap::new(),
            next_request: 0,
            tricks: BTreeMap::new(),
            planted: BTreeMap::new(),
            doubled: BTreeSet::new(),
            planted_on_feed: BTreeMap::new(),
            tokens_asked: BTreeMap::new(),
            noise: BTreeSet::new(),
            must_end: BTreeMap::new(),
            substitutes: BTreeSet::new(),
            behind: Vec::new(),
            link_up: BTreeMap::new(),
            broker_lost: None,
            cuts: Vec::new(),
            herd: live::Herd::default(),
            ledger: Ledger::new(count, scenario.start),
            versions: Versions::default(),
            ahead: BTreeMap::new(),
            carried: BTreeMap::new(),
            broker_away: Away::default(),
            service_away: Away::default(),
            faults_at_work: 0,
            last_fault: scenario.start,
            effects: BTreeMap::new(),
            seen: Seen::default(),
            not_applied: BTreeSet::new(),
            window: Window::of(plan),
            boundaries: Boundaries::default(),
            acting: None,
            script: Script::default(),
            stop: u64::MAX,
            anew: None,
            newest_owed: Vec::new(),
            queue: Queue::default(),
            acts: Vec::new(),
            order: 0,
            now: scenario.start,
            scenario,
            plan,
            seed,
            devices,
            operator,
            trace,
            cut,
        }
    }

    /// The same world, in which from a time on latencies and the broker's whims are drawn with another seed.
    pub(crate) fn drawn_anew(self, anew: Option<Anew>) -> Self {
        Self { anew, ..self }
    }

    /// Runs until so long after the last act, and gives what the acts came to, and which credentials they were about.
    pub(crate) fn script(mut self, after: u64) -> Script {
        self.stop = self.plan.entries.iter().map(|entry| entry.at).max().unwrap_or(0).saturating_add(after);
        let Outcome { script, choices, .. } = self.run();
        Script { choices, ..script }
    }

    /// The same world, in which programs and the operator pick what another run of the plan picked.
    pub(crate) fn following(mut self, choices: Choices) -> Self {
        self.model.follow(choices);
        self
    }

    /// Runs from start to end.
    pub(crate) fn run(self) -> Outcome {
        self.run_until(|_| false)
    }

    /// Runs to the end, or until what was judged so far is enough.
    pub(crate) fn run_until(mut self, enough: impl Fn(&Tally) -> bool) -> Outcome {
        verified::remember();
        self.enrol_all();
        self.schedule_acts();
        self.schedule(self.scenario.start + 1, Happening::ServiceConnect);
        self.schedule(self.scenario.start + 1000, Happening::ServiceTick);
        let end = self.scenario.start + self.scenario.duration;
        self.schedule(end - LAST_QUIET, Happening::NoteNewest);
        self.schedule(end - LAST_STATUS, Happening::LastStatus);
        let (mut moment, mut events) = (0, 0u64);
        while let Some(next) = self.next() {
            if next.at > end.min(self.stop) {
                break;
            }
            if let Some(Anew { seed, .. }) = self.anew.take_if(|anew| next.at >= anew.from) {
                self.network.draw_anew(seed);
                self.broker.draw_anew(seed);
            }
            if next.at > moment {
                self.cuts_last();
            }
            events = if next.at == moment { events + 1 } else { 0 };
            moment = next.at;
            self.now = next.at;
            if events > STORM {
                live::stuck(&mut self.checks.tally, self.now, events);
                break;
            }
            self.happen(next.what);
            if enough(&self.checks.tally) {
                break;
            }
        }
        self.finish()
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Act(number) => self.act(number),
            Happening::Arrive { conn, to, packet } => self.arrive(conn, to, packet),
            Happening::Carried { device, credential } => self.try_carried(device, credential),
            Happening::Committed { device, start } => self.committed(device, start),
            Happening::Deadline { device, start } => self.deadline(device, start),
            Happening::Deliver(delivery) => self.deliver_now(delivery),
            Happening::Flush { conn, to } => self.flush(conn, to),
            Happening::KeepAlive { conn, end, mark } => self.keep_alive_ran_out(conn, end, mark),
            Happening::Unheard { conn, since } => self.nothing_heard(conn, since),
            Happening::Listen { conn, heard } => self.listen(conn, Some(heard)),
            Happening::NoteNewest => {
                self.newest_owed = self.devices.iter().map(|device| self.operator.newest(&device.name)).collect();
            }
            Happening::PowerOn { device, wall } => self.power_on(device, wall),
            Happening::Probe { device, probe } => self.probe(device, probe),
            Happening::ServiceConnect => self.service_connects(),
            Happening::ServiceHears { topic, payload } => self.service_hears(&topic, &payload),
            Happening::ServiceTick => self.service_ticks(),
            Happening::StartProcess { device, powered_on } => self.start_process(device, powered_on),
            Happening::LastStatus => self.ask_for_last_status(),
            Happening::LateFor { device, topic, payload } => self.late_for(device, topic, payload),
            Happening::SignReset { device, errand } => self.sign_reset(device, errand),
            Happening::CarryReset { device, errand, file, time } => self.import_reset(device, errand, file, time),
        }
    }

    /// What happens next.
    fn next(&mut self) -> Option<Scheduled> {
        let due = self.acts.last().map(|act| (act.at, act.order));
        match due {
            Some(due) if self.queue.first().is_none_or(|first| due < first) => {
                let PlannedAct { at, number, .. } = self.acts.pop()?;
                Some(Scheduled { at, what: Happening::Act(number) })
            }
            Some(_) | None => self.queue.pop(),
        }
    }

    fn schedule_acts(&mut self) {
        let before = self.order;
        let entries = (0..).zip(&self.plan.entries);
        self.acts = entries
            .map(|(number, entry)| PlannedAct { at: entry.at, order: before + 1 + number as u64, number })
            .collect();
        self.acts.sort_unstable_by_key(|act| Reverse((act.at, act.order)));
        self.order += self.acts.len() as u64;
    }

    /// Something will happen.
    pub(crate) fn schedule(&mut self, at: u64, what: Happening) {
        self.order += 1;
        self.queue.push(at, self.order, what);
    }

    pub(crate) fn tell(&mut self, event: &Event) {
        self.trace.push(self.now, event);
    }

    /// A fault had an effect.
    pub(crate) fn took_effect(&mut self, fault: &'static str) {
        *self.effects.entry(fault).or_default() += 1;
        self.trace.fault(fault);
    }

    /// A fault is at work now.
    pub(crate) fn disturbed(&mut self) {
        self.last_fault = self.now;
    }

    /// Whether nothing has been wrong for a while.
    pub(crate) fn quiet(&self) -> Quiet {
        if self.faults_at_work == 0 && self.now >= self.last_fault + CALM {
            Quiet::Yes
        } else {
            Quiet::No
        }
    }

    /// What a gateway must have come to by now.
    fn due(&self, number: u32) -> Due {
        let moment = self.moment(number);
        if self.checks.emergency.locks(&moment, &self.devices[number as usize].name) {
            Due::Locked
        } else if self.checks.authority.may_be_stale(number, moment.know.most) {
            Due::OnlineOrStale
        } else {
            Due::Online
        }
    }

    fn finish(mut self) -> Outcome {
        let at = self.now;
        self.judge_waiting();
        self.judge_tricks();
        if self.operator.is_running() {
            live::published(&mut self.checks.tally, at, self.operator.unpublished(date(at)));
        }
        let said = self.emergency_owed();
        let numbers = || 0..self.devices.len() as u32;
        let gone: Vec<bool> = numbers().map(|number| self.emergency_is_gone(number)).collect();
        let due: Vec<Due> = numbers().map(|number| self.due(number)).collect();
        let Checks { tally, audit, authority, emergency, evidence, feed, .. } = &mut self.checks;
        let devices = (0..).zip(&self.devices).zip(&self.newest_owed);
        for (((number, device), newest), (gone, due)) in devices.zip(gone.into_iter().zip(due)) {
            let status = device.last_status.as_ref();
            match device.restored {
                Restored::Copied | Restored::No if device.ordered_locked => {
                    live::obeyed(tally, at, &device.name, newest, status)
                }
                Restored::Partly
                    if status.is_some_and(|status| status.mode == Mode::Locked)
                        && authority.may_be_locked(number, at) =>
                {
                    live::delivered(tally, at, &device.name, status);
                }
                Restored::Copied | Restored::No | Restored::Partly
                    if gone && status.is_some_and(|status| status.mode == Mode::Locked) =>
                {
                    live::delivered(tally, at, &device.name, status);
                }
                Restored::Copied | Restored::No | Restored::Partly => {
                    live::last_word(tally, at, &device.name, newest, status, due);
                    live::converged(tally, at, &device.name, feed.lacks(number, newest));
                    if let Some((key, counter)) = said {
                        live::told_of_emergency(tally, at, &device.name, emergency.lacks(number, key, counter));
                    }
                }
                Restored::Yes => live::detected(tally, at, &device.name, status),
            }
        }
        let keys: Vec<_> =
            self.devices.iter().map(|device| (device.name.clone(), device.keys().public().identity)).collect();
        audit.finish(tally, at, &self.fleet, &keys, (self.operator.collected(), self.operator.beside()));
        let restored = |name: &DeviceId| self.devices.iter().any(|of| of.name == *name && of.restored != Restored::No);
        for (_, fork) in self.operator.forks().into_iter().filter(|(name, _)| !restored(name)) {
            tally.broken(Id::NothingLost, at, format!("an honest gateway's chain forked: {fork}"));
        }
        #[cfg(test)]
        let collector = Collector {
            fleet: self.fleet.clone(),
            devices: keys,
            trails: self.operator.collected().to_vec(),
            revocations: self.operator.carried(),
        };
        let decisions = audit.seen() as u64;
        if decisions == 0 {
            tally.tried(Id::Live, at, Some("no program got a single decision".into()));
        }
        authority.finish(tally, at);
        self.herd.finish(tally, at, self.scenario.fleet.devices);
        evidence.finish(tally, at, |device| self.devices[device as usize].name.clone());
        let shares = authority.shares().clone();
        let (events, hash, coverage) = self.trace.finish();
        self.effects.extend(self.broker.done());
        let Self { effects, seen, not_applied, boundaries, script, model, .. } = self;
        let choices = model.choices;
        let answers = Answers { burned: authority.burned(), ..self.ledger.finish(at, &shares) };
        Outcome {
            tally: self.checks.tally,
            #[cfg(feature = "mutants")]
            ended: at,
            events,
            hash,
            coverage,
            boundaries,
            effects,
            seen,
            choices,
            not_applied,
            shares,
            decisions,
            answers,
            script,
            #[cfg(test)]
            collector,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_faults_take_away_is_there_when_both_are_over() {
        let mut away = Away::default();
        assert!(!away.ends(), "it was there");
        assert!(away.begins());
        assert!(!away.begins());
        assert!(!away.ends());
        assert!(away.is_away());
        assert!(away.ends());
        assert!(!away.is_away());
    }
}
