//! What programs were answered at one level, held against another.
//!
//! Owns: `Seen`, what a run has shown of requests and their answers; which differences a plan excuses, and which it does not.
//! Never: judges an answer by itself; checkers do.
//!
//! Levels differ in time: a handshake takes more round trips where bytes go over the links, waits are drawn anew, and so a
//! gateway may be in touch a little sooner here than there. And what a cut leaves of a commit is drawn here, and is what a
//! real disk holds there. So some answers may differ, and each such excuse has bounds: of which gateway it is, from when
//! until when, and which answers it covers (`Hangs`). What hangs on nothing but the token and the request, a signature, a
//! right, a check, a structure, is never excused, whichever credential it is.
//!
//! | excuse | of | from, until | what it covers |
//! |---|---|---|---|
//! | edge | one gateway or all | a moment before a fault's edge, so long after it | word, touch, time, room |
//! | slow | one gateway | while its link is slow | `stale`, where one had heard more; other touch, where questions are delayed until they may come too late |
//! | brim | one gateway | a moment in which both levels had no room for something | room |
//! | act | all | an operator's act, so long after it | word; and touch, where gateways connect anew for it |
//! | hostile | all, or the one to which a head was told that is not the fleet's | a hostile broker, until the gateway was in touch after it, at most one head's due time | word, touch, time |
//! | cut | one gateway | power or process that went, or could not write, until it was in touch since | word, touch, time, room |
//! | over | one credential | its end | by which reason it is denied: a gateway forgets what has ended |
//! | count | one answer | by each level's own account: as often as something was used there, and as may have been charged for what nobody heard | use |
//! | parted | one credential | a bad disk that kept something else of its gateway's audit; another one that was handed out; until its end | use; everything that hangs on something if it is another one |
//!
//! For what hangs on touch a gateway was in touch again when it was online: a link that came and went is held back for a while.
//!
//! What was asked, or answered, at one level alone is counted by itself. Where that is more than a few, or all that is excused
//! more than a tenth of what is the same, the levels do not agree.
//! A cut within the next commit comes when there is one: where a gateway seldom writes, because it has no room, the two may be
//! half a minute apart, and what programs ask meanwhile is asked of one gateway that runs and of one that does not.
//!
//! That word of something is known here and not there is no excuse where both had heard the same by then: with an edge, an act
//! or a hostile broker a difference about what the fleet said counts, unless what the gateway held then differs.
//! Read next: `workload.rs`, which asks.

use std::collections::{BTreeMap, BTreeSet};

use hardtack::agent::request::{Origin, ProblemCode, Reason, Reply};
use hardtack::wire::identity::FaultKind;
use serde::Serialize;

use crate::case::Case;
use crate::check::authority::Narrowing;
use crate::check::clock;
use crate::clocks::date;
use crate::device::Device;
use crate::fault::{Direction, Hostility};
use crate::model::{Credential, Which};
use crate::plan::{Act, Entry, Plan, Turn};
use crate::recovery::newest;
use crate::report::Report;
use crate::trace::Trace;
use crate::workload::Asked;
use crate::world::World;
use crate::Level;

/// How long after a fault's edge or an operator's act an answer may be the one of before, beside what it takes until both
/// ends of a connection have noticed, and the gateway has tried again: in milliseconds.
const SETTLE: u64 = 60_000;
/// Within this an answer is given, in milliseconds.
const ANSWERED: u64 = 5_000;
/// So many keep-alives, at most, until either end has noticed.
const KEEP_ALIVES: u64 = 2;

/// For each answer that an excuse covers more than this many must be the same at both levels,
const SAME_PER_EXCUSED: u64 = 10;
/// and for each that was given at one level alone, which nothing can be compared with.
const SAME_PER_ALONE: u64 = 50;
/// A question and its answer are on their way no longer than so many times what a slow link adds to both: what they are queued
/// behind is as slow.
const QUEUED: u64 = 2;

/// Why a credential is denied that its gateway has forgotten: it is one that nobody made here.
const FORGOTTEN: &str = Reason::Malformed.name();
/// Why one is denied that has ended, forgotten or not.
const OF_WHAT_ENDED: [&str; 3] = [FORGOTTEN, Reason::Expired.name(), Reason::Revoked.name()];

/// What one run has shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// What programs were answered.
    answered: Vec<Answered>,
    /// When gateways were in touch with their fleet.
    contacts: BTreeSet<(u32, u64)>,
    /// When their mode became online.
    onlines: BTreeSet<(u32, u64)>,
    /// What gateways held of what the fleet says, from when on: places in feeds, counters of emergency keys, bundles.
    held: BTreeMap<(u32, u64), BTreeMap<String, (u64, u64)>>,
    /// When agents ended because they could not write.
    gave_up: BTreeSet<(u32, u64)>,
    /// Gateways whose agent ended in a commit, and has not started since.
    interrupted: BTreeSet<u32>,
    /// By gateway and number of the start, what it found.
    found: BTreeMap<(u32, u64), Found>,
}

/// What a start found of the audit: what budgets were charged hangs on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Found {
    at: u64,
    /// Era number and index of the last record, and up to where the anchor has seen them.
    places: [Option<(u64, u64)>; 2],
    /// Whether the agent before it ended in a commit.
    interrupted: bool,
}

/// A request of a program, and what it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answered {
    /// When it was asked, where, and what.
    key: Key,
    /// The reason of a decision, where a credential came from, or a problem's code.
    said: &'static str,
    /// What that hangs on.
    hangs: Hangs,
    /// The credential that was handed out.
    gives: Option<Which>,
    /// The credential that was shown had ended.
    over: bool,
    /// How the credential that was shown stood when this was answered.
    spent: Spent,
}

/// Whether what a credential counts was spent, by the account of what its level has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Spent {
    /// Its boots without contact.
    boots: Reached,
    /// Its uses, or those of what it comes from.
    uses: Reached,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Reached {
    #[default]
    No,
    /// Nobody heard what was charged.
    Perhaps,
    Yes,
}

impl Reached {
    /// Whether a bound is reached by what is known, or by what may be beside that.
    fn of(known: u64, unheard: u64, bound: u64) -> Self {
        match known.saturating_add(unheard) >= bound {
            true if known >= bound => Self::Yes,
            true => Self::Perhaps,
            false => Self::No,
        }
    }
}

/// What an answer hangs on, beside the token and the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hangs {
    /// On nothing.
    Nothing,
    /// On how much room there is, and whether the disk does what it should.
    Room,
    /// On what is known of the time.
    Time,
    /// On whether the gateway is in touch, and for how long it was not.
    Touch,
    /// On how often something was used.
    Use,
    /// On what the gateway has heard of what the fleet says, or a program of its task.
    Word,
}

/// Why an answer may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Excuse {
    Edge,
    /// By so much a question and its answer are delayed, in milliseconds.
    Slow(u64),
    Brim,
    Act(Moves),
    Hostile,
    Cut,
    Over,
    Count,
}

/// By what a credential has parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Parted {
    /// A bad disk kept another count here than there.
    ByUse,
    /// It is another one.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Request {
    Begin {
        uid: u32,
    },
    Decide {
        /// Which of the credentials handed out on the gateways, if it is one of theirs.
        credential: Option<Which>,
        operation: String,
        resource: String,
        risk: String,
    },
    Exchange {
        /// The planner's credential.
        credential: Option<Which>,
        uid: u32,
        executor: u32,
        resource: String,
        key: String,
    },
    Narrow {
        /// What was shown.
        credential: Option<Which>,
        uid: u32,
        /// What it was to be narrowed to.
        to: String,
    },
}

/// A request that was answered otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// When it was asked, as witnesses tell it.
    pub at: String,
    /// The gateway.
    pub device: u32,
    /// What was asked.
    pub request: String,
    /// What the model answered.
    pub model: &'static str,
    /// What the other level answered.
    pub wire: &'static str,
}

/// How two levels stand to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Agreement {
    /// The scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// How long after a fault's edge or an operator's act a difference is excused, in milliseconds.
    pub settle_ms: u64,
    /// Requests that were answered alike.
    pub same: u64,
    /// Answered otherwise soon after an edge, while the link was slow enough to make that difference, where there was no room
    /// at either level, or by another reason of those for which nothing is allowed that has ended.
    pub edge: u64,
    /// Answered otherwise soon after an operator's act.
    pub act: u64,
    /// Answered otherwise while a broker did to messages what it liked, or before the gateway was in touch after that.
    pub hostile: u64,
    /// Answered otherwise after power or process went away, before the gateway was in touch again.
    pub cut: u64,
    /// Answered otherwise because their credential, or how often it was used, had parted before.
    pub parted: u64,
    /// Requests that only one of the levels could answer: nothing ran at the other, or nothing fitted.
    pub alone: u64,
    /// All others.
    pub differences: Vec<Difference>,
}

impl Agreement {
    /// Whether every difference is excused, and there was enough beside them to compare.
    pub fn holds(&self) -> bool {
        self.differences.is_empty() && self.is_enough()
    }

    /// Whether what is the same outweighs what is excused and what could not be compared.
    pub fn is_enough(&self) -> bool {
        let excused = self.edge + self.act + self.hostile + self.cut + self.parted;
        self.same > (SAME_PER_EXCUSED * excused).max(SAME_PER_ALONE * self.alone)
    }
}

/// Runs a case at the level of the model and at another one, which follows its choices: the report of the other, and how they
/// agree. Both leave out what either cannot do.
pub fn agree(case: &Case, level: Level) -> (Report, Agreement) {
    agree_but_for(case, level, || ())
}

/// The same. `between` the two runs something may be done to the second one.
pub fn agree_but_for(case: &Case, level: Level, between: impl FnOnce()) -> (Report, Agreement) {
    let mut plan = case.plan().clone();
    let mut left_out = BTreeSet::new();
    plan.entries.retain(|entry| match level.cannot(&entry.act).or_else(|| Level::Model.cannot(&entry.act)) {
        Some((fault, why)) => {
            left_out.insert(format!("{fault} ({why})"));
            false
        }
        None => true,
    });
    let (scenario, seed) = (case.scenario(), case.seed());
    let model = World::new(scenario, &plan, seed, Trace::new(None), None).drawn_anew(case.anew()).run();
    between();
    let follow = |world| level.of(world).following(model.choices.clone());
    let (mut report, _, seen) = crate::sum(follow, scenario, &plan, seed, case.anew(), Trace::new(None));
    report.not_applied.extend(left_out);
    (report, compare(case, &plan, &model.seen, &seen))
}

fn compare(case: &Case, plan: &Plan, model: &Seen, wire: &Seen) -> Agreement {
    let link = &case.scenario().profile.link;
    let settle = SETTLE + KEEP_ALIVES * link.keepalive_s * 1000 + link.backoff_ms_max;
    let mut agreement = Agreement {
        scenario: case.scenario().name.clone(),
        seed: case.seed(),
        settle_ms: settle,
        same: 0,
        edge: 0,
        act: 0,
        hostile: 0,
        cut: 0,
        parted: 0,
        alone: 0,
        differences: Vec::new(),
    };
    let edges = Edges::of(plan, case, settle, [model, wire]);
    let patience = case.scenario().profile.wallet.issuer_ms;
    let mut finds = differing_finds(model, wire).into_iter().peekable();
    // Credentials that programs of each gateway have had so far.
    let mut had: BTreeMap<u32, BTreeSet<Which>> = BTreeMap::new();
    let mut parted: BTreeMap<Which, Parted> = BTreeMap::new();
    let asked: BTreeSet<(u64, u32)> = plan.entries.iter().filter_map(of_program).collect();
    let (mut left, right) = (by_request(model, &asked), by_request(wire, &asked));
    let mut pairs: BTreeMap<_, _> =
        right.into_iter().map(|(key, said)| (key, (left.remove(key), Some(said)))).collect();
    pairs.extend(left.into_iter().map(|(key, said)| (key, (Some(said), None))));
    for ((at, device, what), said) in pairs {
        let touched = what.credential();
        while let Some((since, cut)) = finds.next_if(|(since, _)| since <= at) {
            for credential in had.get(&cut).into_iter().flatten().filter(|_| edges.is_bad(cut, since)) {
                parted.entry(*credential).or_insert(Parted::ByUse);
            }
        }
        let given = [said.0, said.1].into_iter().flatten().filter_map(|answered| answered.gives);
        had.entry(*device).or_default().extend(given.chain(touched));
        let (Some(model_said), Some(wire_said)) = said else {
            agreement.alone += 1;
            let given = [said.0, said.1].into_iter().flatten().filter_map(|answered| answered.gives);
            parted.extend(given.map(|credential| (credential, Parted::Other)));
            continue;
        };
        if model_said.said == wire_said.said {
            agreement.same += 1;
            continue;
        }
        let covered = |by: &[Hangs]| by.contains(&model_said.hangs) || by.contains(&wire_said.hangs);
        let heard_other_word = model.held_about(*device, *at) != wire.held_about(*device, *at);
        let by_touch = covered(&[Hangs::Touch]);
        let back = |since: u64| [model, wire].iter().all(|seen| seen.is_back(by_touch, *device, since, *at));
        let at_the_brim = [model, wire].iter().all(|seen| seen.has_no_room(*device, *at));
        let brim = at_the_brim.then_some(Excuse::Brim);
        let over = (model_said.over && wire_said.over).then_some(Excuse::Over);
        let counted = model_said.counted_more_than(wire_said) || wire_said.counted_more_than(model_said);
        let count = counted.then_some(Excuse::Count);
        let excused =
            edges.excuses(*device, *at, back).chain(brim).chain(over).chain(count).find(|excuse| match excuse {
                Excuse::Slow(_) if [model_said.said, wire_said.said].contains(&Reason::Stale.name()) => {
                    heard_other_word
                }
                Excuse::Slow(added) => covered(&[Hangs::Touch]) && QUEUED * added >= patience,
                Excuse::Brim => covered(&[Hangs::Room]),
                Excuse::Edge => {
                    covered(&[Hangs::Room, Hangs::Time, Hangs::Touch]) || (heard_other_word && covered(&[Hangs::Word]))
                }
                Excuse::Act(Moves::Nobody) => heard_other_word && covered(&[Hangs::Word]),
                Excuse::Act(Moves::Gateways) => {
                    covered(&[Hangs::Touch]) || (heard_other_word && covered(&[Hangs::Word]))
                }
                Excuse::Hostile => {
                    covered(&[Hangs::Time, Hangs::Touch]) || (heard_other_word && covered(&[Hangs::Word]))
                }
                Excuse::Cut => covered(&[Hangs::Room, Hangs::Time, Hangs::Touch, Hangs::Word]),
                Excuse::Over => {
                    let said = [model_said.said, wire_said.said];
                    said.contains(&FORGOTTEN) && said.iter().all(|said| OF_WHAT_ENDED.contains(said))
                }
                Excuse::Count => true,
            });
        let by = touched.and_then(|credential| parted.get(&credential));
        let parted_so = by.filter(|by| match by {
            Parted::ByUse => covered(&[Hangs::Use]),
            // It was not asked with the same. Whoever has either got it for the same program, with the same rights.
            Parted::Other => [model_said.hangs, wire_said.hangs] != [Hangs::Nothing; 2],
        });
        match excused.or(parted_so.map(|_| Excuse::Count)) {
            Some(Excuse::Edge | Excuse::Slow(_) | Excuse::Brim | Excuse::Over) => agreement.edge += 1,
            Some(Excuse::Act(_)) => agreement.act += 1,
            Some(Excuse::Hostile) => agreement.hostile += 1,
            Some(Excuse::Cut) => agreement.cut += 1,
            Some(Excuse::Count) => agreement.parted += 1,
            None => {
                let (model, wire) = (model_said.said, wire_said.said);
                let (at, request) = (clock(*at), what.to_string());
                agreement.differences.push(Difference { at, device: *device, request, model, wire });
                continue;
            }
        }
        let given = model_said.gives.into_iter().chain(wire_said.gives);
        parted.extend(given.map(|credential| (credential, Parted::Other)));
    }
    agreement
}

impl Answered {
    /// The place of what was said in the order of reasons.
    fn place(&self) -> Option<usize> {
        Reason::ALL.iter().position(|reason| reason.name() == self.said)
    }

    /// Whether this was denied for what is counted, and may have been by the account of its own level, where the other level
    /// went on to what is looked at later, and by its account could.
    fn counted_more_than(&self, other: &Self) -> bool {
        let stood: fn(Spent) -> Reached = match self.said {
            said if said == Reason::BootsSpent.name() => |spent| spent.boots,
            said if said == Reason::UsesSpent.name() => |spent| spent.uses,
            _ => return false,
        };
        let went_on = other.place().is_none_or(|place| Some(place) > self.place());
        went_on && stood(self.spent) != Reached::No && stood(other.spent) != Reached::Yes
    }
}

/// When starts after a commit that was cut short found something else at one level than at the other, and on which gateways.
fn differing_finds(model: &Seen, wire: &Seen) -> BTreeSet<(u64, u32)> {
    let all: BTreeSet<&(u32, u64)> = model.found.keys().chain(wire.found.keys()).collect();
    let differs = |start: &&(u32, u64)| {
        let found = [model, wire].map(|seen| seen.found.get(start));
        let interrupted = found.iter().flatten().any(|found| found.interrupted);
        interrupted && found[0].map(|found| found.places) != found[1].map(|found| found.places)
    };
    let when = |start: &(u32, u64)| [model, wire].iter().filter_map(|seen| Some(seen.found.get(start)?.at)).min();
    all.into_iter().filter(differs).filter_map(|start| Some((when(start)?, start.0))).collect()
}

type Key = (u64, u32, Request);

/// Requests of the plan, by time, gateway and what was asked; the oracle asks for itself as well, at times that hang on
/// answers. Of several that are alike in all of that, the last answer counts.
fn by_request<'a>(seen: &'a Seen, asked: &BTreeSet<(u64, u32)>) -> BTreeMap<&'a Key, &'a Answered> {
    let planned = |answered: &&Answered| asked.contains(&(answered.key.0, answered.key.1));
    seen.answered.iter().filter(planned).map(|answered| (&answered.key, answered)).collect()
}

fn of_program(entry: &Entry) -> Option<(u64, u32)> {
    (concerns(&entry.act) == Concerns::Program).then_some((entry.at, entry.act.device()?))
}

/// How slow a link is, and was since some time, in milliseconds.
struct Slowness {
    count: u32,
    since: u64,
    now: u64,
    most: u64,
}

/// When faults began or ended, of one gateway or of all, and when operators did something.
struct Edges {
    settle: u64,
    at: BTreeSet<(Option<u32>, u64)>,
    acts: BTreeSet<(Moves, u64)>,
    cuts: BTreeSet<(u32, u64)>,
    /// Since when the disk of a gateway is not what it ought to be.
    bad: BTreeMap<u32, u64>,
    /// From when until when links were slow, and by how much a question and its answer at most.
    slow: Vec<(u32, u64, u64, u64)>,
    /// When the broker began and ceased to be hostile, to whom, and when all that it kept back has been said again at the latest.
    hostile: Vec<(Option<u32>, u64, u64, u64)>,
}

impl Edges {
    fn of(plan: &Plan, case: &Case, settle: u64, seen: [&Seen; 2]) -> Self {
        let (at, acts) = (BTreeSet::new(), BTreeSet::new());
        let cuts = seen.into_iter().flat_map(|seen| &seen.gave_up).copied().collect();
        let bad = BTreeMap::new();
        let mut edges = Self { settle, at, acts, cuts, bad, slow: Vec::new(), hostile: Vec::new() };
        let mut slow: BTreeMap<u32, Slowness> = BTreeMap::new();
        // Everybody starts.
        edges.at.insert((None, case.scenario().start));
        let told_again = case.scenario().fleet.head_every.0 + settle;
        let mut hostile_since = None;
        for entry in &plan.entries {
            match concerns(&entry.act) {
                Concerns::Program => {}
                Concerns::Gateway(device) => drop(edges.at.insert((Some(device), entry.at))),
                Concerns::All => drop(edges.at.insert((None, entry.at))),
                Concerns::Word(moves) => drop(edges.acts.insert((moves, entry.at))),
            }
            if let Act::DiskDamage { device, .. }
            | Act::PowerCut { device, .. }
            | Act::ProcessDowngrade { device, .. }
            | Act::ProcessRestart { device, .. }
            | Act::ProcessUpgrade { device, .. }
            | Act::Reboot { device, .. } = entry.act
            {
                edges.cuts.insert((device, entry.at));
            }
            if let Act::DiskClone { device, .. }
            | Act::DiskCopy { device, .. }
            | Act::DiskDamage { device, .. }
            | Act::DiskSync { device, .. } = entry.act
            {
                edges.bad.entry(device).or_insert(entry.at);
            }
            if let Act::LinkSlow { device, direction, by, turn } = entry.act {
                let fresh = Slowness { count: 0, since: entry.at, now: 0, most: 0 };
                let mut link = slow.remove(&device).unwrap_or(fresh);
                let added = if direction == Direction::Both { 2 * by } else { by };
                match turn {
                    Turn::Begins => {
                        (link.count, link.now) = (link.count + 1, link.now + added);
                        link.most = link.most.max(link.now);
                    }
                    Turn::Ends => {
                        (link.count, link.now) = (link.count.saturating_sub(1), link.now.saturating_sub(added))
                    }
                }
                match link.count {
                    0 => edges.slow.push((device, link.since, entry.at + settle, link.most)),
                    _ => drop(slow.insert(device, link)),
                }
            }
            if let Act::BrokerFeed { device, .. } = entry.act {
                edges.hostile.push((Some(device), entry.at, entry.at, entry.at + told_again));
            }
            if let Act::BrokerHostile { how } = entry.act {
                let since = hostile_since.take();
                match how == Hostility::default() {
                    true => {
                        edges.hostile.extend(since.map(|since| (None, since, entry.at, entry.at + told_again)));
                    }
                    false => hostile_since = since.or(Some(entry.at)),
                }
            }
        }
        edges.hostile.extend(hostile_since.map(|since| (None, since, u64::MAX, u64::MAX)));
        edges.slow.extend(slow.into_iter().map(|(device, link)| (device, link.since, u64::MAX, link.most)));
        edges
    }

    /// What excuses a gateway's answer at a time. `back`: whether it has been in touch since some time.
    fn excuses(&self, device: u32, at: u64, back: impl Fn(u64) -> bool) -> impl Iterator<Item = Excuse> {
        // What begins before the answer is there may keep it back.
        let (soon, answered) = (at.saturating_sub(self.settle), at + ANSWERED);
        let near = |of| self.at.range((of, soon)..=(of, answered)).next().is_some();
        let slow = self.slow.iter().filter(|(of, began, ended, _)| *of == device && (*began..*ended).contains(&at));
        let slow = slow.map(|(.., added)| *added).max().map(Excuse::Slow);
        let acted = |moves| self.acts.range((moves, soon)..=(moves, at)).next().map(|_| Excuse::Act(moves));
        let hostile = |(to, began, ended, last): &(Option<u32>, u64, u64, u64)| {
            to.is_none_or(|to| to == device) && (*began..*last).contains(&at) && !back(*ended)
        };
        let cut = self.last_cut(device, at).is_some_and(|cut| !back(cut));
        let edge = (near(None) || near(Some(device))).then_some(Excuse::Edge);
        let hostile = self.hostile.iter().any(hostile).then_some(Excuse::Hostile);
        let acts = [Moves::Gateways, Moves::Nobody].map(acted).into_iter().flatten();
        edge.into_iter().chain(slow).chain(acts).chain(hostile).chain(cut.then_some(Excuse::Cut))
    }

    /// Whether the disk of a gateway may have lost by then what it had said that it had.
    fn is_bad(&self, device: u32, at: u64) -> bool {
        self.bad.get(&device).is_some_and(|since| *since <= at)
    }

    /// When power or process went away last, if they did.
    fn last_cut(&self, device: u32, at: u64) -> Option<u64> {
        self.cuts.range((device, 0)..=(device, at)).next_back().map(|(_, at)| *at)
    }
}

impl Seen {
    /// An agent ended in a commit, or its disk lost what it had said that it had.
    pub(crate) fn interrupted(&mut self, device: u32) {
        self.interrupted.insert(device);
    }

    /// Whether a gateway was in touch after some time and until another; for what hangs on that it must have come online.
    fn is_back(&self, by_touch: bool, device: u32, after: u64, until: u64) -> bool {
        let when = if by_touch { &self.onlines } else { &self.contacts };
        after < until && when.range((device, after + 1)..=(device, until)).next().is_some()
    }

    /// Whether a gateway had no room for something that it was asked about at that moment.
    fn has_no_room(&self, device: u32, at: u64) -> bool {
        let near = |(when, of, _): &Key| *of == device && when.abs_diff(at) <= ANSWERED;
        self.answered.iter().any(|answered| answered.hangs == Hangs::Room && near(&answered.key))
    }

    /// What a gateway held of what the fleet says when it was asked, and until it answered.
    fn held_about(&self, device: u32, at: u64) -> [Option<&BTreeMap<String, (u64, u64)>>; 2] {
        [at, at + ANSWERED].map(|at| self.held.range((device, 0)..=(device, at)).next_back().map(|(_, held)| held))
    }
}

/// Whom an act concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Concerns {
    /// It is a program's.
    Program,
    /// A fault of one gateway,
    Gateway(u32),
    /// or of what all of them need.
    All,
    /// It is word of an operator's, true or stolen.
    Word(Moves),
}

/// Whether gateways connect anew when they have heard of an operator's act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moves {
    Nobody,
    Gateways,
}

pub(crate) fn concerns(act: &Act) -> Concerns {
    match act {
        Act::Authorize { .. }
        | Act::Begin { .. }
        | Act::Distinct { .. }
        | Act::Finish { .. }
        | Act::Flood { .. }
        | Act::Misuse { .. }
        | Act::Narrow { .. }
        | Act::Overstep { .. }
        | Act::Plan { .. }
        | Act::Status { .. } => Concerns::Program,
        Act::BrokerAck { device, .. }
        | Act::BrokerFeed { device, .. }
        | Act::BrokerReplay { device, .. }
        | Act::ClockDrift { device, .. }
        | Act::ClockFreeze { device, .. }
        | Act::ClockStep { device, .. }
        | Act::DiskClone { device, .. }
        | Act::DiskCopy { device, .. }
        | Act::DiskDamage { device, .. }
        | Act::DiskRefuses { device, .. }
        | Act::DiskSync { device, .. }
        | Act::LinkDown { device, .. }
        | Act::LinkHalfOpen { device }
        | Act::LinkSlow { device, .. }
        | Act::LinkUp { device, .. }
        | Act::PowerCut { device, .. }
        | Act::ProcessDowngrade { device, .. }
        | Act::BrokerDelayFor { device, .. }
        | Act::ProcessRestart { device, .. }
        | Act::ProcessStop { device, .. }
        | Act::ProcessUpgrade { device, .. }
        | Act::Reboot { device, .. }
        | Act::ServiceAhead { device, .. }
        | Act::Suspend { device, .. }
        | Act::TimeReset { device, .. }
        | Act::Wire { device, .. } => Concerns::Gateway(*device),
        Act::BrokerBackup { .. }
        | Act::BrokerDelay { .. }
        | Act::BrokerEmergency { .. }
        | Act::BrokerForget { .. }
        | Act::BrokerHostile { .. }
        | Act::BrokerRestore { .. }
        | Act::BrokerStart
        | Act::BrokerStop { .. }
        | Act::ServiceStart
        | Act::ServiceStop => Concerns::All,
        Act::Emergency { .. } | Act::EmergencyThief { .. } | Act::Revoke { .. } | Act::RevokeStorm { .. } => {
            Concerns::Word(Moves::Nobody)
        }
        Act::GroupMove { .. } | Act::KeyRotate { .. } => Concerns::Word(Moves::Gateways),
    }
}

/// What a reason hangs on.
fn hangs(reason: Reason) -> Hangs {
    match reason {
        Reason::Allowed
        | Reason::BadSignature
        | Reason::CheckFailed
        | Reason::EngineTimeout
        | Reason::Malformed
        | Reason::NoRight
        | Reason::TooComplex
        | Reason::TooLarge
        | Reason::WrongAlgorithm
        | Reason::WrongFleet
        | Reason::WrongWorkload => Hangs::Nothing,
        Reason::AuditFull | Reason::Throttled => Hangs::Room,
        Reason::Expired | Reason::NotYetValid | Reason::TimeUntrusted => Hangs::Time,
        Reason::OfflineSpent | Reason::Stale => Hangs::Touch,
        Reason::BootsSpent | Reason::UsesSpent => Hangs::Use,
        Reason::DeniedByPolicy
        | Reason::FeedUnknown
        | Reason::Locked
        | Reason::Revoked
        | Reason::UnknownRoot
        | Reason::WrongDevice => Hangs::Word,
    }
}

fn hangs_of(code: ProblemCode) -> Hangs {
    match code {
        ProblemCode::AuditUnavailable | ProblemCode::Throttled => Hangs::Room,
        ProblemCode::Denied(reason) => hangs(reason),
        ProblemCode::IssuerRefused => Hangs::Touch,
        ProblemCode::Identity(FaultKind::Expired | FaultKind::NotYetValid) => Hangs::Time,
        ProblemCode::Identity(FaultKind::UnknownIssuer | FaultKind::UnknownKey) => Hangs::Word,
        ProblemCode::Identity(
            FaultKind::BadSignature
            | FaultKind::Malformed
            | FaultKind::TooLarge
            | FaultKind::WrongAlgorithm
            | FaultKind::WrongAudience,
        )
        | ProblemCode::InvalidRequest
        | ProblemCode::KeyReused
        | ProblemCode::NotFound
        | ProblemCode::Refused => Hangs::Nothing,
    }
}

impl Request {
    fn credential(&self) -> Option<Which> {
        match self {
            Self::Begin { .. } => None,
            Self::Decide { credential, .. } | Self::Exchange { credential, .. } | Self::Narrow { credential, .. } => {
                *credential
            }
        }
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Begin { uid } => write!(f, "user {uid} begins a task"),
            Self::Decide { credential: Some(Which::Begun(act)), operation, resource, .. } => {
                write!(f, "{operation} {resource} with the credential that act {act} of the plan got")
            }
            Self::Decide { credential: Some(Which::Nth(device, number)), operation, resource, .. } => {
                write!(f, "{operation} {resource} with credential {number} of gateway {device}")
            }
            Self::Decide { credential: None, operation, resource, .. } => {
                write!(f, "{operation} {resource} with a token that no gateway handed out")
            }
            Self::Exchange { uid, executor, resource, .. } => {
                write!(f, "user {uid} takes a step on {resource} for user {executor}")
            }
            Self::Narrow { uid, to, .. } => write!(f, "user {uid} has a credential narrowed to {to}"),
        }
    }
}

/// Whether a decision is asked for with a token whose holder narrowed it to a time.
fn bounds_time(asked: &Asked) -> bool {
    matches!(asked, Asked::Decision(presented) if matches!(presented.narrowing, Some(Narrowing::Until(_))))
}

impl World<'_> {
    /// A program was answered, for whoever compares levels.
    pub(crate) fn note_answer(&mut self, device: u32, at: u64, (asked, act): (&Asked, Option<usize>), reply: &Reply) {
        let what = match asked {
            Asked::Begin { uid, .. } => Request::Begin { uid: *uid },
            Asked::Decision(presented) => Request::Decide {
                credential: presented.credential.and_then(|number| self.model.which(number)),
                operation: presented.operation.clone(),
                resource: presented.resource.clone(),
                risk: presented.risk.clone(),
            },
            Asked::Exchange(exchange) => Request::Exchange {
                credential: self.model.which(exchange.planner),
                uid: exchange.presented.uid,
                executor: exchange.executor,
                resource: exchange.right.resource.clone(),
                key: exchange.key.clone(),
            },
            Asked::Narrow(narrow) => {
                Request::Narrow { credential: self.model.which(narrow.of), uid: narrow.uid, to: narrow.to_string() }
            }
            Asked::Ahead { .. }
            | Asked::Challenge { .. }
            | Asked::Finish { .. }
            | Asked::LastStatus
            | Asked::Reset { .. }
            | Asked::Status => return,
        };
        let (said, hangs) = match reply {
            Reply::Decision(decision) if decision.reason == Reason::CheckFailed && bounds_time(asked) => {
                (decision.reason.name(), Hangs::Time)
            }
            Reply::Decision(decision) => (decision.reason.name(), hangs(decision.reason)),
            Reply::Problem(problem) => (problem.code.name(), hangs_of(problem.code)),
            Reply::Task(task) if task.origin == Origin::Issued => ("issued", Hangs::Touch),
            Reply::Task(_) => ("narrowed", Hangs::Touch),
            Reply::Step(_) => ("stepped", Hangs::Nothing),
            Reply::Attenuated(_) => ("attenuated", Hangs::Nothing),
            Reply::Audit(_)
            | Reply::Challenge(_)
            | Reply::Checked(_)
            | Reply::Ended(_)
            | Reply::Exported(_)
            | Reply::Finished(_)
            | Reply::Imported(_)
            | Reply::Introspected(_)
            | Reply::Previewed(_)
            | Reply::Ready(_)
            | Reply::Revocations(_)
            | Reply::Status(_)
            | Reply::Tasks(_)
            | Reply::Time(_)
            | Reply::Whoami(_) => ("something else", Hangs::Nothing),
        };
        let shown = if let Asked::Decision(presented) = asked { presented.credential } else { None };
        let over = shown.is_some_and(|number| self.model.get(number).ends < date(at));
        let made_of = if let Asked::Narrow(narrow) = asked { Some(narrow.of) } else { shown };
        let counted = if let Asked::Exchange(exchange) = asked { Some(exchange.planner) } else { made_of };
        let spent = self.spent(device, counted);
        let handed_out = matches!(reply, Reply::Attenuated(_) | Reply::Step(_) | Reply::Task(_));
        let nth = Which::Nth(device, self.model.handed_out(device));
        let gives = handed_out.then(|| act.map_or(nth, Which::Begun));
        self.seen.answered.push(Answered { key: (at, device, what), said, hangs, gives, over, spent });
    }

    /// How what a credential counts stands on its gateway: what is charged to it is charged to all that it comes from. Without
    /// one, how its grants may stand.
    fn spent(&self, device: u32, number: Option<usize>) -> Spent {
        let (used, bounds) = (self.checks.authority.used(device), self.checks.authority.bounds());
        let of_grant = |(used, unheard): &(u64, u64)| Reached::of(*used, *unheard, bounds.uses_max);
        let of = |number: usize| {
            let Credential { allows, unheard, uses, .. } = *self.model.get(number);
            Reached::of(allows, unheard, uses)
        };
        let uses = match number {
            Some(number) => {
                let grant = self.model.get(number).grant_block().and_then(|block| used.get(&block));
                let own = self.model.task_of(number).into_iter().chain([number]).map(of);
                own.chain(grant.map(of_grant)).max()
            }
            // Another one may have some left.
            None => used.values().map(of_grant).max().map(|most| most.min(Reached::Perhaps)),
        };
        let boots = u64::from(self.moment(device).know.boots);
        let boots = Reached::of(boots, 0, u64::from(bounds.boots_max) + 1);
        Spent { boots, uses: uses.unwrap_or_default() }
    }

    /// A gateway holds something newer of what the fleet says.
    pub(crate) fn note_held(&mut self, device: u32, what: String, place: (u64, u64)) {
        let held = self.seen.held.range((device, 0)..=(device, self.now)).next_back();
        let mut held = held.map(|(_, held)| held.clone()).unwrap_or_default();
        if held.insert(what, place) != Some(place) {
            self.seen.held.insert((device, self.now), held);
        }
    }

    /// An agent ended because it could not write.
    pub(crate) fn note_gave_up(&mut self, device: u32) {
        self.seen.gave_up.insert((device, self.now));
    }

    /// What the next start of an agent finds on its disk.
    pub(crate) fn note_find(&mut self, device: u32) {
        let Device { disk, starts, .. } = &self.devices[device as usize];
        let medium = disk.durable();
        let anchored = newest(medium).and_then(|anchor| Some((anchor.era?.number, anchor.next_index)));
        let places = [medium.records().max(), anchored];
        let interrupted = self.seen.interrupted.remove(&device);
        self.seen.found.insert((device, *starts), Found { at: self.now, places, interrupted });
    }

    /// A gateway was in touch with its fleet.
    pub(crate) fn note_contact(&mut self, device: u32) {
        self.seen.contacts.insert((device, self.now));
    }

    /// A gateway's mode became online.
    pub(crate) fn note_online(&mut self, device: u32) {
        self.seen.onlines.insert((device, self.now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;

    const PLAN: &str = r#"
        schema = 1
        name = "two-levels"
        about = "A link that fails, then a supply that does."
        seed = 1
        duration = "6h"
        heal = "4h"
        require = []
        [fleet]
        devices = 1
        [workload]
        authorize_every = "30s"
        [[fault]]
        do = "link.down"
        at = "1h"
        for = "1m"
        [[fault]]
        do = "power.cut"
        at = "2h"
        for = "5s"
        boundary = "now"
        [[fault]]
        do = "revoke"
        what = "task"
        at = "3h15m"
    "#;

    /// Of a request that was made in the minutes after this time, what the model and the other level said.
    fn compared(after: u64, said: [Reason; 2], also: impl Fn(&mut Seen, u64)) -> Agreement {
        compared_in(PLAN, after, said, also)
    }

    /// The same, in another plan.
    fn compared_in(plan: &str, after: u64, said: [Reason; 2], also: impl Fn(&mut Seen, u64)) -> Agreement {
        let case = Case::parse(plan, None).unwrap();
        let after = case.scenario().start + after;
        let entries = case.plan().entries.iter().filter_map(of_program);
        let (at, device) = entries.filter(|(at, _)| *at >= after).min().unwrap();
        let (operation, resource, risk) = ("read".into(), "modbus/1".into(), "low".into());
        let what = Request::Decide { credential: Some(Which::Nth(0, 3)), operation, resource, risk };
        let seen = said.map(|said| {
            let key = (at, device, what.clone());
            let answered = Answered {
                key,
                said: said.name(),
                hangs: hangs(said),
                gives: None,
                over: false,
                spent: Spent::default(),
            };
            let mut seen = Seen { answered: vec![answered], ..Seen::default() };
            also(&mut seen, at);
            seen
        });
        compare(&case, case.plan(), &seen[0], &seen[1])
    }

    #[test]
    fn a_difference_without_a_reason_is_one() {
        let nothing = |_: &mut Seen, _| {};
        let same = compared(30 * MINUTE, [Reason::Allowed, Reason::Allowed], nothing);
        assert!(same.holds() && same.same == 1);
        let differs = compared(30 * MINUTE, [Reason::Allowed, Reason::Stale], nothing);
        assert!(!differs.holds());
        assert_eq!((differs.differences[0].model, differs.differences[0].wire), ("allowed", "stale"));
    }

    #[test]
    fn each_excuse_holds_for_its_reason_and_no_longer() {
        let (edge, since, cut) = (60 * MINUTE, 75 * MINUTE, 150 * MINUTE);
        let nothing = |_: &mut Seen, _| {};
        let differ = |after, reason, also: &dyn Fn(&mut Seen, u64)| {
            let Agreement { edge, act, hostile, cut, parted, differences, .. } =
                compared(after, [Reason::Allowed, reason], also);
            [edge, act + hostile, cut, parted, differences.len() as u64]
        };
        let (by_edge, by_act) = ([1, 0, 0, 0, 0], [0, 1, 0, 0, 0]);
        let (by_cut, by_use, not) = ([0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]);
        assert_eq!(differ(edge, Reason::Stale, &nothing), by_edge, "the link is cut");
        assert_eq!(differ(since, Reason::Stale, &nothing), not, "it has long been there again");
        assert_eq!(differ(edge, Reason::UsesSpent, &nothing), not, "nothing is used by a link");
        assert_eq!(differ(edge, Reason::Revoked, &nothing), not, "both have heard the same");
        let turn = std::cell::Cell::new(0);
        let one_heard = |seen: &mut Seen, at: u64| {
            turn.set(turn.get() + 1);
            let held = BTreeMap::from([("main".to_owned(), (1, turn.get()))]);
            seen.held.insert((0, at - MINUTE), held);
        };
        assert_eq!(differ(edge, Reason::Revoked, &one_heard), by_edge, "one has heard more");
        assert_eq!(differ(cut, Reason::Expired, &nothing), by_cut, "not in touch since the cut");
        let in_touch = |seen: &mut Seen, at: u64| seen.contacts.extend([(0, at - 10 * MINUTE)]);
        assert_eq!(differ(cut, Reason::Expired, &in_touch), not, "in touch since then");
        for spent in [Reason::BootsSpent, Reason::UsesSpent] {
            assert_eq!(differ(cut, spent, &nothing), not, "{spent:?}: nothing was charged at one level alone");
        }
        let act = 195 * MINUTE;
        let touched = |reason, also: &dyn Fn(&mut Seen, u64)| {
            differ(act, reason, &|seen: &mut Seen, at: u64| {
                seen.contacts.extend([(0, at - MINUTE)]);
                seen.onlines.extend([(0, at - MINUTE)]);
                also(seen, at);
            })
        };
        assert_eq!(touched(Reason::Revoked, &one_heard), by_act, "one has heard what was revoked");
        assert_eq!(touched(Reason::Revoked, &nothing), not, "both have heard the same");
        for other in [Reason::Stale, Reason::Expired, Reason::AuditFull] {
            assert_eq!(touched(other, &one_heard), not, "{other:?} is not what an operator says");
        }
        let unheard = |seen: &mut Seen, _: u64| seen.answered[0].spent.uses = Reached::Perhaps;
        assert_eq!(differ(30 * MINUTE, Reason::UsesSpent, &unheard), by_use, "nobody knows what was charged");
        assert_eq!(differ(30 * MINUTE, Reason::Revoked, &unheard), not, "use has nothing to do with that");
        for never in [Reason::BadSignature, Reason::NoRight, Reason::CheckFailed, Reason::TooComplex] {
            for after in [edge, cut] {
                assert_eq!(differ(after, never, &unheard), not, "{never:?} hangs on nothing");
            }
        }
    }

    #[test]
    fn a_count_excuses_as_many_uses_as_it_may_have_and_no_more() {
        use Reached::{No, Perhaps as Unheard, Yes};
        let differ = |said: [Reason; 2], stood: [Reached; 2]| {
            let turn = std::cell::Cell::new(0);
            let Agreement { parted, differences, .. } = compared(30 * MINUTE, said, |seen, _| {
                let stood = stood[turn.replace(1)];
                seen.answered[0].spent = Spent { boots: stood, uses: stood };
            });
            (parted, differences.len())
        };
        for spent in [Reason::BootsSpent, Reason::UsesSpent] {
            let said = [spent, Reason::Allowed];
            for (stood, excused) in [
                ([No, No], 0),
                ([Unheard, Yes], 0),
                ([Yes, Yes], 0),
                ([Yes, No], 1),
                ([Unheard, No], 1),
                ([Yes, Unheard], 1),
                ([Unheard, Unheard], 1),
            ] {
                assert_eq!(differ(said, stood), (excused, 1 - excused as usize), "{spent:?} {stood:?}");
                let turned = [stood[1], stood[0]];
                assert_eq!(differ([said[1], said[0]], turned), (excused, 1 - excused as usize), "{spent:?} {turned:?}");
            }
        }
        assert_eq!(differ([Reason::NoRight, Reason::Allowed], [Yes, No]), (0, 1), "a right is no count");
        assert_eq!(differ([Reason::UsesSpent, Reason::NoRight], [Yes, No]), (1, 0), "a right is looked at later");
        assert_eq!(differ([Reason::UsesSpent, Reason::Stale], [Yes, No]), (0, 1), "how old a list is before that");
        let of = Reached::of;
        assert_eq!([of(7, 0, 8), of(7, 1, 8), of(8, 0, 8), of(0, u64::MAX, 8)], [No, Unheard, Yes, Unheard]);
    }

    #[test]
    fn what_has_ended_is_denied_by_whichever_reason_is_known_still() {
        let over = |seen: &mut Seen, _| seen.answered[0].over = true;
        let not_over = |_: &mut Seen, _| {};
        let differ = |said, also: &dyn Fn(&mut Seen, u64)| {
            let Agreement { edge, differences, .. } = compared(30 * MINUTE, said, also);
            (edge, differences.len())
        };
        assert_eq!(differ([Reason::Revoked, Reason::Malformed], &over), (1, 0));
        assert_eq!(differ([Reason::Expired, Reason::Malformed], &over), (1, 0));
        assert_eq!(differ([Reason::Expired, Reason::Malformed], &not_over), (0, 1), "it has not ended");
        assert_eq!(differ([Reason::Revoked, Reason::Expired], &over), (0, 1), "either is remembered");
        assert_eq!(differ([Reason::Allowed, Reason::Expired], &over), (0, 1), "nothing is allowed that has ended");
        assert_eq!(differ([Reason::Expired, Reason::NoRight], &over), (0, 1), "a right is looked at later");
    }

    #[test]
    fn whoever_was_told_a_forged_head_may_be_away_until_it_is_online_again() {
        let fault = "[[fault]]\ndo = \"broker.feed\"\nwhat = \"substitute\"\nat = \"2h30m\"\nwho = \"all\"";
        let plan = format!("{}\n{fault}", PLAN.replace("devices = 1", "devices = 1\nhead_every = \"10m\""));
        let differ = |after: u64, reason, also: &dyn Fn(&mut Seen, u64)| {
            let Agreement { hostile, differences, .. } =
                compared_in(&plan, after * MINUTE, [Reason::Allowed, reason], |seen, at| {
                    // Back since the supply failed, and in touch a moment ago.
                    seen.onlines.extend([(0, at - (after - 130) * MINUTE)]);
                    seen.contacts.extend([(0, at - 1)]);
                    also(seen, at);
                });
            (hostile, differences.len())
        };
        let nothing = |_: &mut Seen, _| {};
        let online = |seen: &mut Seen, at: u64| seen.onlines.extend([(0, at - 1)]);
        assert_eq!(differ(155, Reason::Stale, &nothing), (1, 0), "its link came and went");
        assert_eq!(differ(155, Reason::Stale, &online), (0, 1), "it was online again");
        assert_eq!(differ(155, Reason::Expired, &nothing), (0, 1), "in touch it heard the time");
        assert_eq!(differ(190, Reason::Stale, &nothing), (0, 1), "that was long ago");
    }

    #[test]
    fn what_a_start_from_a_bad_disk_found_otherwise_parts_what_was_in_programs_hands_by_then() {
        let lies = "[[fault]]\ndo = \"disk.lies\"\nwhat = \"era\"\nat = \"10m\"\nfor = \"1m\"";
        let bad = Case::parse(&format!("{PLAN}\n{lies}"), None).unwrap();
        let case = Case::parse(PLAN, None).unwrap();
        let entries = case.plan().entries.iter().filter_map(of_program);
        let times: Vec<u64> =
            entries.map(|(at, _)| at).filter(|at| *at >= case.scenario().start + 30 * MINUTE).collect();
        let (first, second) = (times[0], times[1]);
        let (old, new) = (Which::Nth(0, 3), Which::Nth(0, 4));
        let asked = |at, credential, reason: Reason| {
            let (operation, resource, risk) = ("read".into(), "modbus/1".into(), "low".into());
            let key = (at, 0, Request::Decide { credential: Some(credential), operation, resource, risk });
            Answered {
                key,
                said: reason.name(),
                hangs: hangs(reason),
                gives: None,
                over: false,
                spent: Spent::default(),
            }
        };
        let check_on = |case: &Case, at, ends, interrupted, credential, reason| {
            let seen = [(ends, Reason::Allowed), (5, reason)].map(|(end, reason)| {
                let found = Found { at, places: [Some((3, end)), Some((3, 4))], interrupted };
                Seen {
                    answered: vec![asked(first, old, Reason::Allowed), asked(second, credential, reason)],
                    found: BTreeMap::from([((0, 2), found)]),
                    ..Seen::default()
                }
            });
            let Agreement { parted, differences, .. } = compare(case, case.plan(), &seen[0], &seen[1]);
            (parted, differences.len())
        };
        let check =
            |at, ends, interrupted, credential, reason| check_on(&bad, at, ends, interrupted, credential, reason);
        let spent = Reason::UsesSpent;
        assert_eq!(check(first + 1, 6, true, old, spent), (1, 0), "one found a record more");
        assert_eq!(check_on(&case, first + 1, 6, true, old, spent), (0, 1), "what is heard from a good disk stays");
        assert_eq!(check(first + 1, 5, true, old, spent), (0, 1), "both found the same");
        assert_eq!(check(first + 1, 6, false, old, spent), (0, 1), "no commit was cut short");
        assert_eq!(check(first + 1, 6, true, new, spent), (0, 1), "it was handed out later");
        assert_eq!(check(second + 1, 6, true, old, spent), (0, 1), "that was after the answer");
        assert_eq!(check(first + 1, 6, true, old, Reason::Revoked), (0, 1), "it is no matter of use");
    }

    /// A credential that only one level handed out, and what both then say to a request with it.
    #[test]
    fn no_right_hangs_on_which_credential_it_is() {
        let case = Case::parse(PLAN, None).unwrap();
        let entries = case.plan().entries.iter().filter_map(of_program);
        let times: Vec<u64> =
            entries.map(|(at, _)| at).filter(|at| *at >= case.scenario().start + 30 * MINUTE).collect();
        let credential = Which::Nth(0, 3);
        let check = |said: [Reason; 2]| {
            let [mut model, wire] = said.map(|said| {
                let (operation, resource, risk) = ("read".into(), "modbus/1".into(), "low".into());
                let what = Request::Decide { credential: Some(credential), operation, resource, risk };
                let key = (times[1], 0, what);
                let answered = Answered {
                    key,
                    said: said.name(),
                    hangs: hangs(said),
                    gives: None,
                    over: false,
                    spent: Spent::default(),
                };
                Seen { answered: vec![answered], ..Seen::default() }
            });
            let key = (times[0], 0, Request::Begin { uid: 1 });
            let gives = Some(credential);
            model.answered.push(Answered {
                key,
                said: "issued",
                hangs: Hangs::Touch,
                gives,
                over: false,
                spent: Spent::default(),
            });
            let Agreement { parted, differences, .. } = compare(&case, case.plan(), &model, &wire);
            (parted, differences.len())
        };
        for other in [Reason::Expired, Reason::UsesSpent, Reason::Revoked, Reason::Stale] {
            assert_eq!(check([Reason::Allowed, other]), (1, 0), "{other:?} hangs on which it is");
        }
        for never in [Reason::NoRight, Reason::WrongWorkload, Reason::BadSignature, Reason::CheckFailed] {
            assert_eq!(check([Reason::Allowed, never]), (0, 1), "{never:?} does not");
            assert_eq!(check([never, Reason::Allowed]), (0, 1), "{never:?} does not");
        }
    }

    #[test]
    fn a_slow_link_makes_late_what_it_can_make_late() {
        let check = |by: &str, reason, also: &dyn Fn(&mut Seen, u64)| {
            let link =
                format!("do = \"link.slow\"\n        by = \"+{by}\"\n        at = \"30m\"\n        for = \"20m\"");
            let plan = PLAN.replacen("do = \"link.down\"\n        at = \"1h\"\n        for = \"1m\"", &link, 1);
            assert_ne!(plan, PLAN);
            compared_in(&plan, 45 * MINUTE, [Reason::Allowed, reason], also).edge
        };
        let nothing = |_: &mut Seen, _| {};
        assert_eq!(check("9s", Reason::OfflineSpent, &nothing), 1, "no answer comes in its time");
        assert_eq!(check("20ms", Reason::OfflineSpent, &nothing), 0, "every answer does");
        assert_eq!(check("9s", Reason::Stale, &nothing), 0, "both have heard the same");
        let turn = std::cell::Cell::new(0);
        let one_heard = |seen: &mut Seen, at: u64| {
            turn.set(turn.get() + 1);
            seen.held.insert((0, at - MINUTE), BTreeMap::from([("main".to_owned(), (1, turn.get()))]));
        };
        assert_eq!(check("20ms", Reason::Stale, &one_heard), 1, "one has heard more");
    }

    #[test]
    fn excuses_must_not_outweigh_what_is_the_same() {
        let nothing = compared(30 * MINUTE, [Reason::Allowed, Reason::Allowed], |_, _| ());
        let of = |same, more: fn(&mut Agreement)| {
            let mut agreement = Agreement { same, ..nothing.clone() };
            more(&mut agreement);
            agreement.holds()
        };
        let excuses: [fn(&mut Agreement); 5] =
            [|of| of.edge += 9, |of| of.act += 9, |of| of.hostile += 9, |of| of.cut += 9, |of| of.parted += 9];
        for (number, excused) in excuses.into_iter().enumerate() {
            assert!(of(91, excused), "excuse {number} is a tenth");
            assert!(!of(90, excused), "excuse {number} is more");
        }
        let all = |of: &mut Agreement| (of.edge, of.act, of.hostile, of.cut, of.parted) = (2, 2, 2, 2, 2);
        assert!(of(101, all) && !of(100, all), "together they are too much");
        assert!(of(101, |of| of.alone = 2) && !of(100, |of| of.alone = 2), "what is alone says nothing");
    }

    #[test]
    fn what_only_one_level_answers_is_counted() {
        let calls = std::cell::Cell::new(0);
        let alone = compared(30 * MINUTE, [Reason::Allowed, Reason::Allowed], |seen, _| {
            calls.set(calls.get() + 1);
            if calls.get() == 2 {
                seen.answered.clear();
            }
        });
        assert_eq!((alone.same, alone.alone), (0, 1));
        assert!(!alone.holds(), "nothing was compared");
    }
}
