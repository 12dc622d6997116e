//! A scenario: what a fleet goes through, as its author wrote it.
//!
//! Owns: the TOML form with its units and limits; unknown keys are refused, and so are keys that a fault does not use.
//! Never: draws a random number. `plan.rs` turns a scenario and a seed into what happens when.
//! Read next: `plan.rs`.

use std::collections::BTreeMap;

use hardtack::fleet::groups::DEVICES_AT_ONCE_MAX;
use hardtack::fleet::roots::check_shape;
use hardtack::ids::GroupId;
use hardtack::profile::{shipped, Kind, Overlay, Profile, Shipped, SHIPPED};
use hardtack::time::Timestamp;
use hardtack::wire::policy::{PolicyDocument, RiskLevel, TimeRule};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use toml::{Table, Value};

use crate::agree::{concerns, Concerns};
use crate::arguments::Limit;
use crate::fault::{numbers, Fault, FaultText, Kind as FaultKind, MoveTo, RotateWhat, EMERGENCY_LIFE_MAX, STORM_MAX};
use crate::plan::{Act, Entry, Turn, LAST_QUIET};

/// The only form of scenario files there is so far.
const SCHEMA: u32 = 1;
/// The least time from when faults stop to the end.
pub(crate) const HEALING: u64 = 20 * 60_000;

/// The latest end: a hundred years.
const END_MAX: u64 = 36_500 * 86_400_000;
/// The most acts of a plan: they take some gigabytes.
const ACTS_MAX: u64 = 20_000_000;
/// The fewest records of an era: one that is full of what each era begins with would never be written to.
const ERA_RECORDS_MIN: u64 = 8;
/// The most gateways of a fleet.
const DEVICES_MAX: u32 = 10_000;

/// Why a scenario cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The text is no TOML, or has a key or value that no scenario has.
    #[error("not a scenario: {0}")]
    Text(#[from] toml::de::Error),
    /// A fault is not described fully, or with a key that it does not use.
    #[error("fault {number} ({name}): {problem}")]
    Fault {
        /// Its place in the file, from 1.
        number: usize,
        /// What it claims to be.
        name: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    /// Values that contradict each other or the limits.
    #[error("{0}")]
    Value(String),
}

/// A length of time in milliseconds, written `"1d12h"`, `"90s"` or `"250ms"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub u64);

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        parse_span(&text).map(Span).ok_or_else(|| {
            format!("{text:?} is no length of time: write whole numbers with d, h, m, s or ms, like \"1h30m\"")
        })
    }
}

impl std::str::FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = self.0;
        for (unit, ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
            if rest >= ms || (self.0 == 0 && unit == "s") {
                write!(f, "{}{unit}", rest / ms)?;
            }
            rest %= ms;
        }
        Ok(())
    }
}

fn parse_span(text: &str) -> Option<u64> {
    let (mut rest, mut total) = (text, 0u64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let ms = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(ms)?)?;
        rest = next;
    }
    (!text.is_empty()).then_some(total)
}

/// A scenario, checked.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// The seed that a run uses where nobody names another.
    pub seed: u64,
    /// How long after 2026-03-01 it begins, in milliseconds.
    pub start: u64,
    /// How long the world is watched, in milliseconds.
    pub duration: u64,
    /// When faults stop for good: from here on liveness is owed.
    pub heal: u64,
    /// Properties that must have been tried.
    pub require: Vec<String>,
    /// The fleet.
    pub fleet: FleetPlan,
    /// What its gateways can bear, overlay merged in.
    pub profile: Profile,
    /// The same with what the next firmware ships, if there is one.
    pub next: Option<Profile>,
    /// Groups of its gateways, as it begins with them.
    pub groups: BTreeMap<GroupId, GroupPlan>,
    /// The fallback grants.
    pub grant: GrantPlan,
    /// What the fleet's policy says beside the built-in one.
    pub policy: PolicyPlan,
    /// What programs on the gateways do.
    pub workload: WorkloadPlan,
    /// What goes wrong.
    pub faults: Vec<Fault>,
    /// Single acts, for whoever wants them exactly: a plan that was made small is written as these.
    pub acts: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioText {
    schema: u32,
    name: String,
    /// For the reader of the file.
    #[serde(rename = "about")]
    _about: String,
    seed: u64,
    #[serde(default)]
    start: Span,
    duration: Span,
    heal: Span,
    require: Vec<String>,
    #[serde(default)]
    fleet: FleetPlan,
    #[serde(default)]
    groups: BTreeMap<GroupId, GroupText>,
    #[serde(default)]
    grant: GrantPlan,
    #[serde(default)]
    policy: PolicyPlan,
    #[serde(default)]
    workload: WorkloadPlan,
    #[serde(default)]
    fault: Vec<FaultText>,
    #[serde(default)]
    act: Vec<ActText>,
}

/// An act as the file has it: like a line of a plan, its time written as lengths of time are.
#[derive(Deserialize)]
#[serde(try_from = "Map<String, Json>")]
struct ActText(Entry);

impl TryFrom<Map<String, Json>> for ActText {
    type Error = String;

    fn try_from(mut fields: Map<String, Json>) -> Result<Self, String> {
        let at =
            fields.get("at").and_then(Json::as_str).ok_or("needs `at`, the time since the start, like \"1h30m\"")?;
        let Span(at) = Span::try_from(at.to_owned())?;
        fields.insert("at".into(), at.into());
        Entry::try_from(fields).map(Self)
    }
}

/// The fleet that a scenario runs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FleetPlan {
    /// How many gateways.
    pub devices: u32,
    /// How many of them, the last ones, have no battery-backed clock: their wall clock begins at 1970 in each boot.
    pub without_rtc: u32,
    /// Oscillators are off by up to this, in parts per million either way.
    pub drift_ppm: u32,
    /// What they can bear: the name of a shipped class of device. A program that reads the scenario may also take the path of
    /// a profile file, whose text it then puts into `class`.
    pub profile: String,
    /// A class of device that is not shipped, as its file has it, in place of what `profile` names.
    pub class: Table,
    /// The name of a shipped overlay for their link.
    pub overlay: Option<String>,
    /// Numbers of their link in place of what class and overlay say, as `[link]` of an overlay file has them.
    pub link: Table,
    /// Records after which they begin another era, in place of the profile's.
    pub era_records: Option<u64>,
    /// How much their audit may take on disk, in MiB, in place of what the class of device says.
    pub quota_mib: Option<u64>,
    /// Numbers of the profile that the next firmware ships, in place of what this one says: `[fleet.upgrade.queue]` and the
    /// like.
    pub upgrade: Table,
    /// The shortest and the longest time that a message takes one way, in milliseconds.
    pub latency_ms: (u64, u64),
    /// The shortest and the longest time that a commit takes, in milliseconds.
    pub commit_ms: (u64, u64),
    /// A new revocation head is signed at least this often.
    pub head_every: Span,
    /// How many root keys the fleet has,
    pub roots: u8,
    /// and how many of them must sign.
    pub threshold: u8,
}

fn find(name: &str, kind: Kind) -> Result<&'static Shipped, String> {
    shipped(name, kind).ok_or_else(|| {
        let names = SHIPPED.iter().filter(|shipped| shipped.kind == kind).map(|shipped| shipped.name);
        let names = names.collect::<Vec<_>>().join(", ");
        let (what, own) = match kind {
            Kind::Class => ("profile", ", or the path of a profile file of your own, which ends in .toml"),
            Kind::Overlay => ("overlay", ""),
        };
        format!("no {what} that ships is called {name:?}: use {names}{own}")
    })
}

impl FleetPlan {
    fn profile(&self) -> Result<Profile, String> {
        let class = self.class_table()?.to_string();
        let profile = Profile::parse(&self.profile, &class).map_err(|error| error.to_string())?;
        let mut profile = profile.checked().map_err(|error| error.to_string())?;
        profile.queue.era_records_max = self.era_records.unwrap_or(profile.queue.era_records_max);
        // However little that is: a modelled disk holds a record in a tenth of what a real one takes for it.
        profile.queue.quota_mib = self.quota_mib.unwrap_or(profile.queue.quota_mib);
        let Some((name, text)) = self.overlay_text()? else { return Ok(profile) };
        let overlay = Overlay::parse(&name, &text).map_err(|error| error.to_string())?;
        profile.with(&overlay).checked().map_err(|error| error.to_string())
    }

    /// What the next firmware ships, if there is one. However small its numbers are: a firmware that nobody could run is to
    /// be borne as well.
    fn next(&self, profile: &Profile) -> Result<Option<Profile>, String> {
        if self.upgrade.is_empty() {
            return Ok(None);
        }
        let wrong = |error: &dyn std::fmt::Display| format!("`fleet.upgrade`: {error}");
        let mut table = Table::try_from(profile).map_err(|error| wrong(&error))?;
        for (section, numbers) in &self.upgrade {
            match (table.get_mut(section), numbers) {
                (Some(Value::Table(section)), Value::Table(numbers)) => section.extend(numbers.clone()),
                (Some(_) | None, _) => return Err(wrong(&format!("{section:?} is no table of a profile's"))),
            }
        }
        let next: Profile = table.try_into().map_err(|error| wrong(&error))?;
        if next.time != profile.time || next.link != profile.link {
            return Err(wrong(&"`time` and `link` stay as they are: all gateways are judged by the same"));
        }
        Ok(Some(next))
    }

    /// The class of the gateways as a file has it.
    pub(crate) fn class_table(&self) -> Result<Table, String> {
        if !self.class.is_empty() {
            return Ok(self.class.clone());
        }
        find(&self.profile, Kind::Class)?.text.parse().map_err(|error: toml::de::Error| error.to_string())
    }

    /// The overlay of the gateways' link with its name, as a file has it: the shipped one, in which the scenario's own numbers
    /// take the place of others. None where there is neither.
    pub(crate) fn overlay_text(&self) -> Result<Option<(String, String)>, String> {
        let (name, mut table) = match &self.overlay {
            Some(overlay) => {
                let shipped = find(overlay, Kind::Overlay)?;
                (overlay.clone(), shipped.text.parse::<Table>().map_err(|error| error.to_string())?)
            }
            None if self.link.is_empty() => return Ok(None),
            None => ("of-the-scenario".into(), Table::new()),
        };
        table.insert("overlay".into(), name.clone().into());
        let link = table.entry("link").or_insert_with(|| Table::new().into());
        if let Value::Table(link) = link {
            link.extend(self.link.clone());
        }
        Ok(Some((name, table.to_string())))
    }
}

impl Default for FleetPlan {
    fn default() -> Self {
        Self {
            devices: 2,
            without_rtc: 0,
            drift_ppm: 100,
            profile: Profile::default().name,
            class: Table::new(),
            overlay: None,
            link: Table::new(),
            era_records: None,
            quota_mib: None,
            upgrade: Table::new(),
            latency_ms: (20, 120),
            commit_ms: (2, 12),
            head_every: Span(3_600_000),
            roots: 1,
            threshold: 1,
        }
    }
}

/// A group of gateways, as a scenario begins with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupPlan {
    /// The gateways in it.
    pub members: Vec<u32>,
    /// Whether it has a revocation feed of its own, of its name. Gateways without one have the feed `main`.
    pub feed: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupText {
    /// Numbers like `0,4-9`.
    members: String,
    #[serde(default)]
    feed: bool,
}

impl GroupText {
    fn check(self, name: &GroupId, devices: u32) -> Result<GroupPlan, String> {
        if matches!(name.as_str(), "any" | "main" | "none") {
            return Err(format!("no group can be called {name}: that word has another meaning"));
        }
        let members = numbers(&self.members, devices, &BTreeMap::new());
        let members = members.map_err(|problem| format!("`members` of {name}: {problem}"))?;
        if members.len() > DEVICES_AT_ONCE_MAX {
            return Err(format!("`members` of {name} can be {DEVICES_AT_ONCE_MAX} at most"));
        }
        Ok(GroupPlan { members, feed: self.feed })
    }
}

/// The fallback grant of each gateway.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrantPlan {
    /// How long it lives.
    pub life: Span,
    /// How long it serves without a round trip, in powered-on time.
    pub offline_max: Span,
    /// How many uses it has in all.
    pub uses_max: u64,
    /// How many boots it serves without a round trip.
    pub boots_max: u32,
    /// How long a task credential that is narrowed from it lives at the most.
    pub task_ttl_max: Span,
}

impl Default for GrantPlan {
    fn default() -> Self {
        Self {
            life: Span(30 * 86_400_000),
            offline_max: Span(14 * 86_400_000),
            uses_max: 100_000,
            boots_max: 1000,
            task_ttl_max: Span(3_600_000),
        }
    }
}

/// What the fleet's policy says beside the built-in one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyPlan {
    /// Which requests are judged up to which clock; the first that matches counts, `bounded` where none does.
    pub time_rules: Vec<TimeRule>,
    /// Classes of risk, lowest first, in place of the built-in ones.
    pub risks: Vec<RiskLevel>,
    /// Audit travels sealed to the collector.
    pub seal_audit: bool,
    /// Limits on what operations are done with. Programs say something of each that there is.
    pub limits: Vec<Limit>,
}

/// What programs on each gateway do.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkloadPlan {
    /// They do only what single acts say.
    pub quiet: bool,
    /// From when on they do anything,
    pub from: Span,
    /// and until when. Where it is not said, until shortly before the end.
    pub until: Option<Span>,
    /// How often a task begins.
    pub begin_every: Span,
    /// How long it asks to live.
    pub task_ttl: Span,
    /// How many uses it asks for.
    pub task_uses: u64,
    /// How often a program asks for a decision.
    pub authorize_every: Span,
    /// How many requests follow each other at once then.
    pub burst: u32,
    /// How often a program asks for things that nobody asked for before, as many at once, with a token that must be refused.
    pub distinct_every: Option<Span>,
    /// How many of a hundred requests carry a token that must be refused.
    pub hostile_percent: u32,
    /// How many of a hundred requests use a credential over again until its budget is gone.
    pub spend_percent: u32,
    /// How often a task is finished before its time.
    pub finish_every: Span,
    /// Classes of risk that requests name, in turn by chance.
    pub risks: Vec<String>,
    /// How often an operator asks a gateway for its status.
    pub status_every: Span,
    /// What planners do, and the programs that do what they planned. Where it is not said, there are none.
    pub planner: Option<PlannerPlan>,
    /// How programs narrow their credentials. Where it is not said, they do not.
    pub narrowing: Option<NarrowingPlan>,
    /// What programs bring of who initiates their tasks. Where it is not said, they bring nothing.
    pub identity: Option<IdentityPlan>,
}

/// What programs bring of who initiates their tasks: documents of a provider whom the fleet believes, some of which do not count.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityPlan {
    /// In so many of a hundred cases.
    pub percent: u32,
    /// How long most of them live.
    pub ttl: Span,
}

impl Default for IdentityPlan {
    fn default() -> Self {
        Self { percent: 60, ttl: Span(3_600_000) }
    }
}

/// How programs on each gateway narrow what they hold: their tasks' credentials, steps, and what they narrowed before.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NarrowingPlan {
    /// How often one is narrowed.
    pub every: Span,
    /// The longest that it asks to live, where it asks for less than it was made of has.
    pub ttl: Span,
    /// How often a narrowed one is used.
    pub use_every: Span,
    /// How often a connection ends that a task hangs on.
    pub leave_every: Span,
}

impl Default for NarrowingPlan {
    fn default() -> Self {
        Self {
            every: Span(3 * 60_000),
            ttl: Span(10 * 60_000),
            use_every: Span(2 * 60_000),
            leave_every: Span(20 * 60_000),
        }
    }
}

impl NarrowingPlan {
    /// What happens every so often.
    pub(crate) const fn spans(&self) -> [Span; 3] {
        [self.every, self.use_every, self.leave_every]
    }
}

/// What a planner on each gateway does, and the programs that do what it planned: its task is exchanged for steps, each one use
/// for one of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlannerPlan {
    /// How often it begins a task.
    pub begin_every: Span,
    /// How long that asks to live.
    pub task_ttl: Span,
    /// How many uses it asks for, which all its steps share.
    pub task_uses: u64,
    /// How often it takes a step of a task.
    pub step_every: Span,
    /// How long a step asks to live.
    pub step_ttl: Span,
    /// How often an executor uses a step.
    pub execute_every: Span,
    /// How often a task is finished before its time.
    pub finish_every: Span,
}

impl Default for PlannerPlan {
    fn default() -> Self {
        Self {
            begin_every: Span(15 * 60_000),
            task_ttl: Span(30 * 60_000),
            task_uses: 40,
            step_every: Span(2 * 60_000),
            step_ttl: Span(10 * 60_000),
            execute_every: Span(2 * 60_000),
            finish_every: Span(20 * 60_000),
        }
    }
}

impl PlannerPlan {
    /// What happens every so often.
    pub(crate) const fn spans(&self) -> [Span; 4] {
        [self.begin_every, self.step_every, self.execute_every, self.finish_every]
    }
}

impl Default for WorkloadPlan {
    fn default() -> Self {
        Self {
            quiet: false,
            from: Span(0),
            until: None,
            begin_every: Span(20 * 60_000),
            task_ttl: Span(30 * 60_000),
            task_uses: 40,
            authorize_every: Span(3 * 60_000),
            burst: 1,
            distinct_every: None,
            hostile_percent: 25,
            spend_percent: 10,
            finish_every: Span(3_600_000),
            risks: vec!["low".into(), "high".into()],
            status_every: Span(1_800_000),
            planner: None,
            narrowing: None,
            identity: None,
        }
    }
}

impl Scenario {
    /// A scenario from the text of its file.
    ///
    /// # Errors
    /// [`ScenarioError`], with what to change.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let text: ScenarioText = toml::from_str(text)?;
        if text.schema != SCHEMA {
            let problem = format!("schema {} is not known here: write schema = {SCHEMA}", text.schema);
            return Err(ScenarioError::Value(problem));
        }
        let devices = text.fleet.devices;
        if !(1..=DEVICES_MAX).contains(&devices) || text.fleet.without_rtc > devices {
            let problem = format!("`fleet.devices` must be 1 to {DEVICES_MAX}, and `fleet.without_rtc` at most that");
            return Err(ScenarioError::Value(problem));
        }
        let groups = text.groups.into_iter().map(|(name, group)| {
            let plan = group.check(&name, devices);
            plan.map(|plan| (name, plan)).map_err(ScenarioError::Value)
        });
        let groups: BTreeMap<GroupId, GroupPlan> = groups.collect::<Result<_, _>>()?;
        let numbered = text.fault.into_iter().zip(1..);
        let faults = numbered.map(|(fault, number)| {
            let name = fault.name().to_owned();
            fault.check(devices, &groups).map_err(|problem| ScenarioError::Fault { number, name, problem })
        });
        let faults: Vec<Fault> = faults.collect::<Result<_, _>>()?;
        let profile = text.fleet.profile().map_err(ScenarioError::Value)?;
        let scenario = Self {
            groups,
            name: text.name,
            seed: text.seed,
            start: text.start.0,
            duration: text.duration.0,
            heal: text.heal.0,
            require: text.require,
            faults,
            acts: text.act.into_iter().map(|ActText(entry)| entry).collect(),
            next: text.fleet.next(&profile).map_err(ScenarioError::Value)?,
            profile,
            fleet: text.fleet,
            grant: text.grant,
            policy: text.policy,
            workload: text.workload,
        };
        scenario.check().map_err(ScenarioError::Value)?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), String> {
        let known = crate::report::PROPERTIES;
        if let Some(stranger) = self.require.iter().find(|id| !known.contains(&id.as_str())) {
            return Err(format!("property {stranger:?} in `require` is not known: use one of {}", known.join(" ")));
        }
        if self.start.saturating_add(self.duration) > END_MAX {
            return Err("`start` and `duration` together can be 36500d at the most".into());
        }
        if self.heal.saturating_add(HEALING) > self.duration {
            return Err("the end must come 20m or more after `heal`, or liveness could not be judged".into());
        }
        if self.fleet.drift_ppm > self.profile.time.drift_ppm {
            return Err("`fleet.drift_ppm` must stay within the profile's bound, which the proofs assume".into());
        }
        self.check_fleet()?;
        self.check_grant()?;
        let spans = [
            self.workload.begin_every,
            self.workload.authorize_every,
            self.workload.finish_every,
            self.workload.status_every,
            self.fleet.head_every,
        ];
        let planned = self.workload.planner.iter().flat_map(PlannerPlan::spans);
        let narrowed = self.workload.narrowing.iter().flat_map(NarrowingPlan::spans);
        if planned.chain(narrowed).chain(spans).chain(self.workload.distinct_every).any(|span| span.0 < 1000) {
            return Err("what happens `every` so often must leave at least 1s between".into());
        }
        let last = self.duration.saturating_sub(LAST_QUIET);
        if self.workload.from.0 >= self.workload.until.map_or(last, |until| until.0) {
            return Err("`workload.from` must come before `workload.until`, and 5m or more before the end".into());
        }
        let classes = self.risk_classes();
        if let Some(stranger) = self.workload.risks.iter().find(|risk| !classes.contains(risk)) {
            return Err(format!(
                "there is no class of risk {stranger:?} for `workload.risks`: use one of {}",
                classes.join(" ")
            ));
        }
        if self.workload.risks.is_empty()
            || self.workload.hostile_percent.saturating_add(self.workload.spend_percent) > 100
        {
            return Err("`workload.risks` needs one class, and the percentages must leave room in 100".into());
        }
        self.policy.limits.iter().try_for_each(Limit::check)?;
        for (fault, number) in self.faults.iter().zip(1..) {
            if let FaultKind::LinkSlow { by, .. } = fault.kind {
                self.check_slow(by).map_err(|problem| format!("fault {number} (link.slow): {problem}"))?;
            }
            if let FaultKind::GroupMove(MoveTo::Group(group)) = &fault.kind {
                if !self.groups.contains_key(group) {
                    return Err(format!("{group} is no group here: name it under `[groups]`"));
                }
            }
        }
        let misuses = |fault: &Fault| matches!(fault.kind, FaultKind::Misuse(_));
        if self.workload.planner.is_none() && self.faults.iter().any(misuses) {
            return Err("there is no planner whose tasks and steps could be misused: say under `[workload.planner]` what it does".into());
        }
        let oversteps = |fault: &Fault| matches!(fault.kind, FaultKind::Overstep(_));
        if self.workload.narrowing.is_none() && self.faults.iter().any(oversteps) {
            return Err("nobody narrows a credential, so that none could be misused: say under `[workload.narrowing]` how often".into());
        }
        let rotates = |fault: &Fault| fault.kind == FaultKind::KeyRotate(RotateWhat::Identity);
        if self.workload.identity.is_none() && self.faults.iter().any(rotates) {
            return Err("there is no provider of identity documents whose key could be replaced: say under \
                        `[workload.identity]` how many are brought"
                .into());
        }
        let upgrades = |fault: &Fault| matches!(fault.kind, FaultKind::ProcessUpgrade { .. });
        if self.next.is_none() && self.faults.iter().any(upgrades) {
            return Err("there is no next firmware: say under `[fleet.upgrade]` which limits it ships".into());
        }
        let acts = crate::plan::count(self);
        if acts > ACTS_MAX {
            return Err(format!(
                "some {} million acts are more than the {} million that a plan can have: take fewer gateways, a shorter \
                 `duration`, or let what happens `every` so often happen less often",
                acts / 1_000_000,
                ACTS_MAX / 1_000_000
            ));
        }
        self.check_acts(&self.acts, 0)?;
        if let Some((late, number)) = self.faults.iter().zip(1..).find(|(fault, _)| fault.over() > self.heal) {
            let (name, over, heal) = (late.kind.name(), Span(late.over()), Span(self.heal));
            return Err(format!(
                "fault {number} ({name}): can go on until {over}, which is after `heal`, {heal}: `at` or `until`, `jitter` and \
                 `for` together must end by then; make it shorter, or `heal` and `duration` later"
            ));
        }
        Ok(())
    }
}

impl Scenario {
    fn check_fleet(&self) -> Result<(), String> {
        let FleetPlan { roots, threshold, latency_ms, commit_ms, era_records, quota_mib, .. } = &self.fleet;
        check_shape(usize::from(*roots), *threshold).map_err(|error| error.to_string())?;
        if [latency_ms, commit_ms].iter().any(|(low, high)| low > high || *low == 0) {
            return Err("`latency_ms` and `commit_ms` are [shortest, longest], 1 or more".into());
        }
        self.check_slow(0).map_err(|_| {
            let keepalive = self.profile.link.keepalive_s;
            format!("`latency_ms` must stay below half the keep-alive, {keepalive}s: an end that waits for longer takes the other for gone")
        })?;
        let lease = self.profile.time.lease_s;
        if commit_ms.1.saturating_mul(4) > lease.saturating_mul(1000) {
            return Err(format!(
                "`commit_ms` must stay below a quarter of the lease, {lease}s: time is leased by commits"
            ));
        }
        if era_records.is_some_and(|records| records < ERA_RECORDS_MIN) || *quota_mib == Some(0) {
            return Err(format!("`era_records` must be {ERA_RECORDS_MIN} or more, and `quota_mib` 1 or more"));
        }
        Ok(())
    }

    fn check_grant(&self) -> Result<(), String> {
        let GrantPlan { life, offline_max, uses_max, task_ttl_max, .. } = &self.grant;
        if life.0 < 1000 || task_ttl_max.0 < 1000 || offline_max.0 < 1000 || *uses_max == 0 {
            return Err(
                "`life`, `task_ttl_max` and `offline_max` of `[grant]` must be 1s or more, and `uses_max` 1 or more"
                    .into(),
            );
        }
        if life.0 > END_MAX {
            return Err("`grant.life` can be 36500d at the most".into());
        }
        Ok(())
    }

    /// The classes of risk that there are.
    fn risk_classes(&self) -> Vec<String> {
        let built_in = PolicyDocument::built_in(Timestamp(0)).risks;
        let risks = if self.policy.risks.is_empty() { &built_in } else { &self.policy.risks };
        risks.iter().map(|risk| risk.class.to_string()).collect()
    }

    /// Whether a link can be slower by so much, and still be one.
    fn check_slow(&self, by: u64) -> Result<(), String> {
        let keepalive = self.profile.link.keepalive_s;
        if by.saturating_add(self.fleet.latency_ms.1).saturating_mul(2) < keepalive.saturating_mul(1000) {
            return Ok(());
        }
        Err(format!(
            "`by` and the longest `latency_ms` must come to less than half the keep-alive, {keepalive}s: an end that waits \
             longer than that for an answer takes the other for gone, which is link.down"
        ))
    }

    /// Whether acts that begin at `start` can happen in this world.
    ///
    /// # Errors
    /// What is wrong with the first that cannot.
    pub(crate) fn check_acts(&self, acts: &[Entry], start: u64) -> Result<(), String> {
        for (Entry { at, act, .. }, number) in acts.iter().zip(1..) {
            if let Act::LinkSlow { by, .. } = act {
                self.check_slow(*by).map_err(|problem| format!("act {number}: {problem}"))?;
            }
            let problem = if act.device().is_some_and(|device| device >= self.fleet.devices) {
                "is about a gateway that there is not: their numbers begin with 0"
            } else if !(start..=start + self.duration).contains(at) {
                "is not between start and end"
            } else if *at > start + self.duration.saturating_sub(LAST_QUIET) {
                "is in the last 5m, which are there for the last records to arrive: move it, or make `duration` longer"
            } else if let Act::Emergency { life, .. } = act {
                match (1000..=EMERGENCY_LIFE_MAX).contains(life) {
                    true => continue,
                    false => "revokes by an emergency key for less than 1s, or for more than 71h",
                }
            } else if matches!(act, Act::RevokeStorm { count, .. } if !(1..=STORM_MAX).contains(count)) {
                "revokes no tokens, or more than a million at once"
            } else if matches!(act, Act::Misuse { .. } | Act::Plan { .. }) && self.workload.planner.is_none() {
                "is a planner's, and there is none: say under `[workload.planner]` what it does"
            } else if matches!(act, Act::Narrow { .. } | Act::Overstep { .. }) && self.workload.narrowing.is_none() {
                "is about narrowed credentials, and nobody narrows any: say so under `[workload.narrowing]`"
            } else if matches!(act, Act::KeyRotate { what: RotateWhat::Identity }) && self.workload.identity.is_none() {
                "replaces a key of identity documents, and nobody brings any: say so under `[workload.identity]`"
            } else if matches!(act, Act::ProcessUpgrade { .. }) && self.next.is_none() {
                "upgrades a gateway to nothing: say under `[fleet.upgrade]` which limits the next firmware ships"
            } else if matches!(act, Act::GroupMove { to: MoveTo::Group(group), .. } if !self.groups.contains_key(group))
            {
                "moves a gateway to no group here: name it under `[groups]`"
            } else {
                continue;
            };
            return Err(format!("act {number} {problem}"));
        }
        self.check_heal(acts, start + self.heal)
    }

    /// What faults do begins and ends by `heal`: what lasts longer would be laid at the door of what is judged after it.
    fn check_heal(&self, acts: &[Entry], heal: u64) -> Result<(), String> {
        let mut open: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        // A file may name them in any order.
        let mut in_time: Vec<(&Entry, usize)> = acts.iter().zip(1..).collect();
        in_time.sort_by_key(|(entry, _)| entry.at);
        for (Entry { at, act, .. }, number) in in_time {
            let late = *at > heal;
            match act.half() {
                Some((what, Turn::Begins)) if !late => open.entry(what).or_default().push(number),
                Some((what, Turn::Ends)) if !late => drop(open.get_mut(&what).and_then(Vec::pop)),
                Some(_) | None => {}
            }
            if late && concerns(act) != Concerns::Program {
                let heal = Span(self.heal);
                return Err(format!(
                    "act {number} comes after `heal`, {heal}, from when on nothing may go wrong: move one of them"
                ));
            }
        }
        match open.into_iter().find_map(|(what, numbers)| Some((what, *numbers.first()?))) {
            None => Ok(()),
            Some((what, number)) => {
                Err(format!("act {number} begins {what}, and nothing ends it by `heal`: add the act that does"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = r#"
        schema = 1
        name = "plain"
        about = "nothing happens"
        seed = 1
        duration = "2h"
        heal = "1h"
        require = ["I1"]
    "#;

    #[test]
    fn lengths_of_time() {
        check_span("1d12h", Some(129_600_000));
        check_span("90s", Some(90_000));
        check_span("1h30m250ms", Some(5_400_250));
        check_span("", None);
        check_span("10", None);
        check_span("h", None);
        check_span("-1h", None);
        check_span("1w", None);
        check_span("99999999999999999999h", None);
        check_span("213503982335d", None);
    }

    #[track_caller]
    fn check_span(text: &str, ms: Option<u64>) {
        assert_eq!(parse_span(text), ms, "{text:?}");
        if let Some(ms) = ms {
            assert_eq!(parse_span(&Span(ms).to_string()), Some(ms), "{text:?} as it is written");
        }
    }

    #[test]
    fn lengths_of_time_as_they_are_written() {
        let written = [0, 1, 90_000, 86_400_000, 129_600_250].map(|ms| Span(ms).to_string());
        assert_eq!(written, ["0s", "1ms", "1m30s", "1d", "1d12h250ms"]);
    }

    #[test]
    fn what_is_documented_can_be_run_and_every_key_is_documented() {
        const DOC: &str = include_str!("../../docs/scenarios.md");
        let examples = DOC.split("```toml\n").skip(1).filter_map(|rest| rest.split_once("```"));
        let examples: Vec<&str> = examples.map(|(example, _)| example).collect();
        assert_eq!(examples.len(), 2);
        for example in examples {
            Scenario::parse(example).unwrap_or_else(|error| panic!("{error}: {example}"));
        }
        let of_groups = "[groups.north]\nmembers = \"0\"";
        for table in [
            "",
            "[fleet]",
            of_groups,
            "[grant]",
            "[policy]",
            "[workload]",
            "[workload.planner]",
            "[workload.narrowing]",
            "[workload.identity]",
        ] {
            let error = Scenario::parse(&format!("{PLAIN}\n{table}\nnone_such = 1")).unwrap_err().to_string();
            let keys: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
            assert!(!keys.is_empty(), "{error}");
            let said = |key: &str| ["`", "["].iter().any(|before| DOC.contains(&format!("{before}{key}")));
            let silent: Vec<&&str> = keys.iter().filter(|key| !said(key)).collect();
            assert!(silent.is_empty(), "{table}: {silent:?} of {keys:?}");
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic() {
        let whole = include_str!("../scenarios/clock-storm.toml");
        let mut rng = crate::random::stream(1, "text", "mutations");
        for _ in 0..2000 {
            let mut text: Vec<char> = whole.chars().collect();
            for _ in 0..=crate::random::below(&mut rng, 4) {
                let at = crate::random::below(&mut rng, text.len() as u64) as usize;
                let other = text[crate::random::below(&mut rng, text.len() as u64) as usize];
                match crate::random::below(&mut rng, 3) {
                    0 => text[at] = other,
                    1 => text.insert(at, other),
                    _ => drop(text.remove(at)),
                }
            }
            // Whatever it says, it says it with an error; what it takes can be planned.
            if let Ok(scenario) = Scenario::parse(&text.into_iter().collect::<String>()) {
                assert!(scenario.heal <= scenario.duration);
            }
        }
    }

    #[test]
    fn a_plain_scenario_is_taken() {
        assert_eq!(Scenario::parse(PLAIN).unwrap().fleet.devices, 2);
    }

    #[test]
    fn a_class_of_device_can_be_ones_own() {
        let text = shipped("generic-x86_64", Kind::Class).unwrap().text.replace("generic-x86_64", "ours");
        let with = |class: &str| {
            let class = Value::Table(class.parse().unwrap());
            Scenario::parse(&format!("{PLAIN}\n[fleet]\nclass = {class}"))
        };
        assert_eq!(with(&text).unwrap().profile.name, "ours");
        let error = with(&text.replace("lease_s = 60", "lease_s = 1")).unwrap_err().to_string();
        assert!(error.contains("time.lease_s"), "{error}");
    }

    #[test]
    fn what_nobody_could_run_is_refused_with_a_reason() {
        check_refused("surprise = 1", "surprise");
        check_refused("[fleet]\ndevices = 0", "fleet.devices");
        check_refused("[fleet]\ndevices = 4000000000\n[[fault]]\ndo = \"reboot\"\nwho = \"one\"", "fleet.devices");
        check_refused("[fleet]\ndevices = 10000\n[workload]\nburst = 4294967295", "20 million");
        check_refused("[[fault]]\ndo = \"clock.drift\"\nat = \"1s\"\nevery = \"1s\"\nuntil = \"36500d\"", "20 million");
        check_refused("[[fault]]\ndo = \"broker.hostile\"\nat = \"5m\"\nfor = \"2m\"", "`drop`");
        check_refused("[[fault]]\ndo = \"revoke.storm\"\nat = \"5m\"\nlife = \"2h\"\ncount = 4000000000", "`count`");
        check_refused("[[fault]]\ndo = \"link.down\"\nat = \"5m\"\nfor = \"2h..1h\"", "ends before it begins");
        check_refused("[[fault]]\ndo = \"link.down\"\nat = \"5m\"\nfor = \"1m..2h\"", "`heal`");
        check_refused("[fleet]\nprofile = \"abacus\"", "use generic-x86_64, energy-armv7-1g, or the path");
        check_refused("[fleet]\noverlay = \"abacus\"", "use link-lte-metered");
        check_refused("[fleet]\nclass = { name = \"ours\" }", "missing key");
        check_refused("[fleet]\ndrift_ppm = 5000", "drift_ppm");
        check_refused("[fleet]\nera_records = 1", "era_records");
        check_refused("[fleet]\nquota_mib = 0", "quota_mib");
        check_refused("[fleet]\nlatency_ms = [20000, 40000]", "latency_ms");
        check_refused("[fleet]\ncommit_ms = [20, 40000]", "commit_ms");
        check_refused("[grant]\nlife = \"1ms\"", "1s or more");
        check_refused("[grant]\nlife = \"99999999d\"", "36500d");
        check_refused("[grant]\nuses_max = 0", "uses_max");
        check_refused("[workload]\nfrom = \"3h\"", "workload.from");
        check_refused("[workload]\nrisks = [\"nix\"]", "low medium high");
        check_refused("[[fault]]\ndo = \"reboot\"\nat = \"5m\"\nfor = \"0s\"", "`for`");
        check_refused("[[fault]]\ndo = \"broker.restart\"\nat = \"5m\"\nfor = \"1m\"\nwho = \"0\"", "`who`");
        let emergency = "[[act]]\nat = \"5m\"\nact = \"emergency\"\ndevice = 0\nwhat = \"device\"\npick = 1\nlife = 0";
        check_refused(emergency, "less than 1s");
        let storm = "[[act]]\nat = \"5m\"\nact = \"revoke_storm\"\npick = 1\nlife = 9000\ncount = 4000000000";
        check_refused(storm, "a million");
        check_refused("[workload]\nhostile_percent = 99\nspend_percent = 99", "percentages");
        check_refused("[workload]\nhostile_percent = 4294967295\nspend_percent = 1", "percentages");
        check_refused("[[act]]\nat = \"1h56m\"\nact = \"status\"\ndevice = 0", "the last 5m");
        check_refused("[[act]]\nat = \"2h1m\"\nact = \"status\"\ndevice = 0", "between start and end");
        check_refused("[[fault]]\ndo = \"link.down\"\nat = \"5m\"", "`for`");
        check_refused("[[fault]]\ndo = \"link.dwon\"\nat = \"5m\"", "one of: link.down link.half_open");
        let down = "[[act]]\nat = \"5m\"\nact = \"link_down\"\ndevice = 0\ndirection = \"both\"";
        check_refused(&format!("{down}\nfor = \"2s\""), "unknown key `for`: this act has act at device direction");
        check_refused(down, "nothing ends it by `heal`");
        let up = down.replace("5m", "9m").replace("link_down", "link_up");
        let ended = Scenario::parse(&format!("{PLAIN}\n{up}\n{down}"));
        assert!(ended.is_ok(), "in whatever order they stand: {ended:?}");
        check_refused(
            "[[act]]\nat = \"61m\"\nact = \"reboot\"\ndevice = 0\nlasts = 9\nwall = \"kept\"",
            "after `heal`, 1h",
        );
        check_refused("[[act]]\nact = \"status\"\ndevice = 0", "needs `at`");
        let slow = "[[fault]]\ndo = \"link.slow\"\nat = \"5m\"\nfor = \"2m\"";
        check_refused(slow, "`by`");
        check_refused(&format!("{slow}\nby = \"-2s\""), "plus");
        check_refused(&format!("{slow}\nby = \"+2s\"\ndir = \"left\""), "`dir`");
        check_refused(&format!("{slow}\nby = \"+15s\""), "keep-alive, 30s");
        let slow = "[[act]]\nat = \"5m\"\nact = \"link_slow\"\ndevice = 0\ndirection = \"up\"\nturn = \"begins\"";
        check_refused(&format!("{slow}\nby = 15000"), "keep-alive, 30s");
        check_refused("[groups.north]\nmembers = \"0,7\"", "members");
        check_refused("[groups.main]\nmembers = \"0\"", "main");
        check_refused("[[fault]]\ndo = \"group.move\"\nat = \"5m\"\nto = \"north\"", "north");
        check_refused("[[fault]]\ndo = \"group.move\"\nat = \"5m\"", "`to`");
        check_refused("[[fault]]\ndo = \"moon.fall\"\nat = \"5m\"", "moon.fall");
        check_refused("[[fault]]\ndo = \"clock.step\"\nat = \"5m\"\nby = \"-1h\"\ndir = \"up\"", "dir");
        check_refused("[[fault]]\ndo = \"broker.restart\"\nat = \"90m\"\nfor = \"1m\"", "heal");
        check_refused("[[fault]]\ndo = \"link.down\"\nat = \"50m\"\njitter = \"9m\"\nfor = \"2m\"", "heal");
        check_refused("[[fault]]\ndo = \"anchor.copied_back\"\nat = \"5m\"\nfor = \"2m\"", "`age`");
        check_refused("[[fault]]\ndo = \"anchor.torn\"\nat = \"5m\"\nfor = \"2m\"\nage = \"1m\"", "`age`");
        check_refused("[[fault]]\ndo = \"broker.withhold\"\nat = \"5m\"\nfor = \"2m\"\nwhat = \"wine\"", "`what`");
        check_refused("[[fault]]\ndo = \"process.upgrade\"\nat = \"5m\"\nfor = \"2s\"", "[fleet.upgrade]");
        check_refused("[[fault]]\ndo = \"step.misused\"\nat = \"5m\"\nwhat = \"again\"", "[workload.planner]");
        check_refused("[[fault]]\ndo = \"narrowed.misused\"\nat = \"5m\"\nwhat = \"late\"", "[workload.narrowing]");
        check_refused("[workload.planner]\nstep_every = \"1ms\"", "every");
        check_refused("[workload.narrowing]\nevery = \"1ms\"", "every");
        check_refused("[[policy.limits]]\noperation = \"write\"\nargument = \"rpm\"", "`most` or `only`");
        check_refused("[[fault]]\ndo = \"key.rotate\"\nat = \"5m\"\nwhat = \"identity\"", "[workload.identity]");
        check_refused("[fleet.upgrade]\nqueues = 1", "queues");
        check_refused("[fleet.upgrade.queue]\nquota_gib = 1", "quota_gib");
        check_refused("[fleet.upgrade.time]\nlease_s = 30", "judged");
        check_refused("[[fault]]\ndo = \"reboot\"\nat = \"5m\"\nfor = \"1m\"\nwho = \"7\"", "7");
    }

    #[track_caller]
    fn check_refused(extra: &str, names: &str) {
        let error = Scenario::parse(&format!("{PLAIN}\n{extra}")).unwrap_err().to_string();
        assert!(error.contains(names), "{error}");
    }

    #[test]
    fn no_world_goes_on_for_longer_than_times_can_say() {
        for (key, value) in [("duration", "213503982334d"), ("start", "213503982334d"), ("duration", "36501d")] {
            let line = format!("{key} = \"{value}\"");
            let text =
                if key == "start" { format!("{PLAIN}\n{line}") } else { PLAIN.replace("duration = \"2h\"", &line) };
            let error = Scenario::parse(&text).unwrap_err().to_string();
            assert!(error.contains("36500d"), "{line}: {error}");
        }
    }
}
