//! A run as lanes and curves: what is left of its events when they are drawn.
//!
//! Owns: [`Recorder`], which takes events one by one and keeps what a picture shows, whatever the run's length;
//! [`Recording`], the picture's numbers.
//! Never: decides how they look.
//! Read next: `html.rs`, `perfetto.rs`, `lanes.rs`.

use std::collections::BTreeMap;

use crate::event::Event;
use crate::scenario::Scenario;

/// Stretches that a fleet's curves are counted in.
pub(crate) const CURVE_BINS: u64 = 480;
/// Counts of decisions that all lanes together hold,
const LANE_COUNTS: u64 = 48_000;
/// and how many one lane has at the least and at the most.
const LANE_BINS: (u64, u64) = (60, 720);
/// With more decisions than this each has no place of its own any more.
const SINGLE_MAX: usize = 12_000;

/// What a gateway does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// The worst first: of many in one stretch that one is shown.
    Locked,
    Stale,
    Off,
    /// The kernel runs and no agent does.
    Down,
    Asleep,
    Offline,
    Online,
}

impl State {
    /// Their names, in order.
    pub(crate) const NAMES: [&'static str; 7] = ["locked", "stale", "off", "down", "asleep", "offline", "online"];
}

/// What a link lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Link {
    Down,
    UpBlocked,
    DownBlocked,
    Open,
}

impl Link {
    pub(crate) const NAMES: [&'static str; 4] = ["down", "no way out", "no way in", "open"];
}

/// What changed when, in milliseconds of the run's time.
pub(crate) type Changes<T> = Vec<(u64, T)>;

/// A decision: when, its reason's number, and whether it was an allow of something revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Single {
    pub(crate) at: u64,
    pub(crate) reason: u16,
    pub(crate) allow: bool,
    pub(crate) revoked: bool,
}

/// A gateway over time.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    pub(crate) state: Changes<State>,
    pub(crate) link: Changes<Link>,
    /// Decisions per stretch.
    pub(crate) allowed: Vec<u32>,
    pub(crate) denied: Vec<u32>,
    /// When it allowed what was revoked: the first ones.
    pub(crate) unaware: Vec<u64>,
    pub(crate) singles: Vec<Single>,
}

/// A number of things over time, as its mean in each stretch.
#[derive(Debug, Clone)]
struct Gauge {
    value: u64,
    since: u64,
    areas: Vec<u64>,
}

/// The curves of a fleet: means of each stretch in thousandths, or counts.
#[derive(Debug, Clone)]
pub(crate) struct Curves {
    /// Gateways in each state.
    pub(crate) states: Vec<Vec<u64>>,
    /// Gateways that hold the newest revocation of their feed.
    pub(crate) current: Vec<u64>,
    /// Records that are durable on gateways only.
    pub(crate) backlog: Vec<u64>,
    pub(crate) allowed: Vec<u64>,
    pub(crate) denied: Vec<u64>,
}

/// A run as it is drawn.
#[derive(Debug, Clone)]
pub(crate) struct Recording {
    pub(crate) start: u64,
    pub(crate) duration: u64,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) curves: Curves,
    /// When the operator revoked, and at which position of which feed that is told.
    pub(crate) revocations: Vec<(u64, String)>,
    /// Reasons of decisions with their counts.
    pub(crate) reasons: Vec<(&'static str, bool, u64)>,
    /// Whether every decision is in its lane by itself.
    pub(crate) singles: bool,
}

/// Takes the events of a run.
pub(crate) struct Recorder {
    start: u64,
    duration: u64,
    lanes: Vec<Lane>,
    /// Agent and kernel of each gateway.
    now: Vec<Now>,
    counts: [u64; State::NAMES.len()],
    states: Vec<Gauge>,
    current: Gauge,
    backlog: Gauge,
    allowed: Vec<u64>,
    denied: Vec<u64>,
    newest: BTreeMap<String, (u32, u64)>,
    revocations: Vec<(u64, String)>,
    reasons: Vec<(&'static str, bool, u64)>,
    count: usize,
    last: u64,
}

#[derive(Debug, Clone)]
struct Now {
    on: bool,
    mode: Option<State>,
    asleep: bool,
    backlog: u64,
    holds: Option<(String, (u32, u64))>,
    current: bool,
}

impl Now {
    fn state(&self) -> State {
        match (self.on, self.asleep, self.mode) {
            (false, _, _) => State::Off,
            (true, true, _) => State::Asleep,
            (true, false, None) => State::Down,
            (true, false, Some(mode)) => mode,
        }
    }
}

impl Gauge {
    fn new(start: u64, value: u64) -> Self {
        Self { value, since: start, areas: vec![0; CURVE_BINS as usize] }
    }

    /// From `at` on it is `value`.
    fn set(&mut self, (start, duration): (u64, u64), at: u64, value: u64) {
        let (mut from, to) = (self.since - start, at.min(start + duration) - start);
        while from < to {
            let bin = from * CURVE_BINS / duration;
            let end = ((bin + 1) * duration).div_ceil(CURVE_BINS).clamp(from + 1, to);
            self.areas[bin as usize] += self.value * (end - from);
            from = end;
        }
        (self.value, self.since) = (value, at.max(self.since));
    }

    /// The mean of each stretch, in thousandths.
    fn means(mut self, span: (u64, u64)) -> Vec<u64> {
        self.set(span, span.0 + span.1, 0);
        let edge = |bin: u64| (bin * span.1).div_ceil(CURVE_BINS);
        let means = (0..).zip(&self.areas).map(|(bin, area)| area * 1000 / (edge(bin + 1) - edge(bin)).max(1));
        means.collect()
    }
}

impl Recorder {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let devices = u64::from(scenario.fleet.devices);
        let bins = (LANE_COUNTS / devices.max(1)).clamp(LANE_BINS.0, LANE_BINS.1) as usize;
        let start = scenario.start;
        let lane = Lane {
            state: vec![(start, State::Off)],
            link: vec![(start, Link::Open)],
            allowed: vec![0; bins],
            denied: vec![0; bins],
            unaware: Vec::new(),
            singles: Vec::new(),
        };
        let now = Now { on: false, mode: None, asleep: false, backlog: 0, holds: None, current: true };
        let mut counts = [0; State::NAMES.len()];
        counts[State::Off as usize] = devices;
        Self {
            start,
            duration: scenario.duration,
            lanes: vec![lane; devices as usize],
            now: vec![now; devices as usize],
            counts,
            states: counts.iter().map(|count| Gauge::new(start, *count)).collect(),
            current: Gauge::new(start, devices),
            backlog: Gauge::new(start, 0),
            allowed: vec![0; CURVE_BINS as usize],
            denied: vec![0; CURVE_BINS as usize],
            newest: BTreeMap::new(),
            revocations: Vec::new(),
            reasons: Vec::new(),
            count: 0,
            last: start,
        }
    }

    /// How much of the run has passed, in hundredths.
    pub(crate) fn percent(&self) -> u64 {
        ((self.last - self.start) * 100 / self.duration.max(1)).min(100)
    }

    /// One more event.
    pub(crate) fn take(&mut self, at: u64, event: &Event) {
        self.last = at;
        match event {
            Event::AgentStarted { device, .. } => self.change(at, *device, |now| now.mode = Some(State::Offline)),
            Event::Applied { device, feed, era, seq } => {
                self.now[*device as usize].holds = Some((feed.clone(), (*era, *seq)));
                self.judge(at, *device);
            }
            Event::Asleep { device, asleep } => self.change(at, *device, |now| now.asleep = *asleep),
            Event::Committed { device, backlog, .. } | Event::Stored { device, backlog, .. } => {
                let before = std::mem::replace(&mut self.now[*device as usize].backlog, *backlog);
                let sum = self.backlog.value + backlog - before;
                self.backlog.set((self.start, self.duration), at, sum);
            }
            Event::Decided { device, allow, reason, revoked, .. } => {
                self.decided(at, *device, (*allow, reason, *revoked));
            }
            Event::Link { device, up, down } => {
                let link = match (up, down) {
                    (true, true) => Link::Open,
                    (true, false) => Link::DownBlocked,
                    (false, true) => Link::UpBlocked,
                    (false, false) => Link::Down,
                };
                put(&mut self.lanes[*device as usize].link, at, link);
            }
            Event::Mode { device, mode } => {
                let mode = match *mode {
                    "online" => State::Online,
                    "stale" => State::Stale,
                    "locked" => State::Locked,
                    _ => State::Offline,
                };
                self.change(at, *device, |now| now.mode = now.mode.and(Some(mode)));
            }
            Event::PowerOn { device } => self.change(at, *device, |now| now.on = true),
            Event::Revoked { feed, era, seq } => {
                self.revocations.push((at, feed.clone()));
                self.newest.insert(feed.clone(), (*era, *seq));
                (0..self.now.len() as u32).for_each(|device| self.judge(at, device));
            }
            Event::Stopped { device, off, .. } => self.change(at, *device, |now| {
                now.mode = None;
                now.on &= !*off;
                now.asleep &= !*off;
            }),
            Event::Logged { .. } | Event::Message { .. } | Event::PlanStep { .. } | Event::Replied { .. } => {}
        }
    }

    fn change(&mut self, at: u64, device: u32, how: impl FnOnce(&mut Now)) {
        let now = &mut self.now[device as usize];
        let before = now.state();
        how(now);
        let after = now.state();
        if before == after {
            return;
        }
        put(&mut self.lanes[device as usize].state, at, after);
        for (state, step) in [(before, u64::MAX), (after, 1)] {
            let count = &mut self.counts[state as usize];
            *count = count.wrapping_add(step);
            self.states[state as usize].set((self.start, self.duration), at, *count);
        }
    }

    /// Whether a gateway holds the newest revocation of the feed that it applied last.
    fn judge(&mut self, at: u64, device: u32) {
        let now = &mut self.now[device as usize];
        let Some((feed, order)) = &now.holds else { return };
        let current = self.newest.get(feed).is_none_or(|newest| order >= newest);
        if current != now.current {
            now.current = current;
            let count = if current { self.current.value + 1 } else { self.current.value - 1 };
            self.current.set((self.start, self.duration), at, count);
        }
    }

    fn decided(&mut self, at: u64, device: u32, (allow, reason, revoked): (bool, &'static str, bool)) {
        let passed = (at - self.start).min(self.duration - 1);
        let lane = &mut self.lanes[device as usize];
        let bin = (passed * lane.allowed.len() as u64 / self.duration) as usize;
        let (counts, curve) =
            if allow { (&mut lane.allowed, &mut self.allowed) } else { (&mut lane.denied, &mut self.denied) };
        counts[bin] += 1;
        curve[(passed * CURVE_BINS / self.duration) as usize] += 1;
        let known = self.reasons.iter().position(|(name, of, _)| *name == reason && *of == allow);
        let number = known.unwrap_or_else(|| {
            self.reasons.push((reason, allow, 0));
            self.reasons.len() - 1
        });
        self.reasons[number].2 += 1;
        if allow && revoked && lane.unaware.len() < 200 {
            lane.unaware.push(at);
        }
        self.count += 1;
        if self.count <= SINGLE_MAX {
            lane.singles.push(Single { at, reason: number as u16, allow, revoked });
        }
    }

    /// The picture of the run.
    pub(crate) fn finish(self) -> Recording {
        let span = (self.start, self.duration);
        Recording {
            start: self.start,
            duration: self.duration,
            lanes: self.lanes,
            curves: Curves {
                states: self.states.into_iter().map(|gauge| gauge.means(span)).collect(),
                current: self.current.means(span),
                backlog: self.backlog.means(span),
                allowed: self.allowed,
                denied: self.denied,
            },
            revocations: self.revocations,
            reasons: self.reasons,
            singles: self.count <= SINGLE_MAX,
        }
    }
}

fn put<T: PartialEq>(changes: &mut Changes<T>, at: u64, value: T) {
    match changes.last_mut() {
        Some((_, last)) if *last == value => {}
        Some((since, last)) if *since == at => *last = value,
        Some(_) | None => changes.push((at, value)),
    }
}

/// The same in fewer changes: of all that lasts in one stretch of `grain` the least is kept.
pub(crate) fn thin<T: Copy + Ord>(changes: &[(u64, T)], grain: u64) -> Changes<T> {
    if grain == 0 {
        return changes.to_vec();
    }
    let mut thinned: Changes<T> = Vec::new();
    let mut rest = changes.iter().peekable();
    let Some((first, mut value)) = rest.next().copied() else { return thinned };
    put(&mut thinned, first, value);
    while let Some((at, _)) = rest.peek().copied() {
        let begins = first + (at - first) / grain * grain;
        let mut least = value;
        while let Some((_, next)) = rest.next_if(|(of, _)| *of < begins + grain) {
            value = *next;
            least = value.min(least);
        }
        put(&mut thinned, begins, least);
        put(&mut thinned, begins + grain, value);
    }
    thinned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thinned_lane_keeps_the_worst_of_each_stretch_and_what_it_ends_with() {
        let flaps = [(0, State::Online), (13, State::Locked), (14, State::Online), (25, State::Offline)];
        let due = vec![(0, State::Online), (10, State::Locked), (20, State::Offline)];
        assert_eq!(thin(&flaps, 10), due);
        let late = [(7, State::Online), (13, State::Locked), (18, State::Online)];
        assert_eq!(
            thin(&late, 10),
            vec![(7, State::Locked), (27, State::Online)],
            "stretches are counted from the first"
        );
        assert_eq!(thin(&flaps, 0), flaps.to_vec());
        let many: Changes<State> =
            (0..1000).map(|at| (at, if at % 2 == 0 { State::Online } else { State::Stale })).collect();
        let thinned = thin(&many, 100);
        assert!(thinned.len() < 25, "{thinned:?}");
        assert!(thinned.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 != pair[1].1), "{thinned:?}");
    }

    #[test]
    fn a_gauge_has_the_mean_of_each_stretch() {
        let span = (1000, CURVE_BINS * 100);
        let mut gauge = Gauge::new(1000, 4);
        gauge.set(span, 1000 + 150, 2);
        gauge.set(span, 1000 + 150, 3);
        let means = gauge.means(span);
        assert_eq!(means[..3], [4000, 3500, 3000]);
        assert_eq!(means[CURVE_BINS as usize - 1], 3000);
    }
}
