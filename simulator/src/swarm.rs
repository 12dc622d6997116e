//! Scenarios drawn by chance, each with some kinds of faults and without the others: what nobody thought of to write down.
//!
//! Owns: what is drawn. Half of all kinds are left out of each (Groce and others, "Swarm Testing", 2012): a fault that is
//! always there hides what only happens without it. Rates and lengths are drawn from their orders of magnitude. The larger a
//! fleet is, the less often its programs ask, so that no world takes much longer than another.
//! Never: draws what the form of scenarios does not have: what comes out is a scenario's text.
//! Read next: `fuzz.rs`, `fault/mod.rs`.

use rand_chacha::ChaCha8Rng;

use crate::fault::is_of_the_fleet;
use crate::random::{below, between, happens, stream};
use crate::scenario::Span;

const MINUTE: u64 = 60_000;
/// How long it takes at most until the last fault is over, once it begins.
const LASTS_MAX: u64 = 40 * MINUTE;

/// The largest fleet.
const DEVICES_MAX: u64 = 12;

/// Draws one thing after another.
struct Draw {
    rng: ChaCha8Rng,
    heal: u64,
    devices: u32,
    /// Its groups.
    groups: Vec<&'static str>,
}

impl Draw {
    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[below(&mut self.rng, all.len() as u64) as usize]
    }

    /// A number between two, small ones as likely as large ones.
    fn scale(&mut self, low: u64, high: u64) -> u64 {
        let doublings = u64::from((high / low.max(1)).max(1).ilog2());
        let about = low << below(&mut self.rng, doublings + 1);
        between(&mut self.rng, about, about * 2).clamp(low, high)
    }

    fn span(&mut self, low: u64, high: u64) -> Span {
        // Whole seconds: whoever reads it does not want more.
        Span(self.scale(low, high) / 1000 * 1000)
    }

    /// How long it lasts.
    fn lasts(&mut self) -> String {
        format!("for = \"{}\"\n", self.span(1000, LASTS_MAX))
    }

    fn wall(&mut self) -> String {
        let step = self.signed(90 * MINUTE);
        match below(&mut self.rng, 3) {
            0 => "wall = \"1970\"\n".into(),
            1 => format!("wall = \"{step}\"\n"),
            _ => String::new(),
        }
    }

    fn signed(&mut self, most: u64) -> String {
        let sign = self.one_of(&["+", "-"]);
        format!("{sign}{}", self.span(1000, most))
    }

    fn what(&mut self, all: &[&str]) -> String {
        format!("what = \"{}\"\n", self.one_of(all))
    }

    /// Classes of risk, and how old what is known of revocations may be for each: the higher, the less. Else those that are
    /// built in.
    fn risks(&mut self, head_every: Span) -> String {
        if happens(&mut self.rng, 50) {
            return String::new();
        }
        let mut bound = self.scale(4 * head_every.0, 24 * 60 * MINUTE);
        let mut text = String::new();
        for class in ["low", "medium", "high"] {
            text += &format!("\n[[policy.risks]]\nclass = \"{class}\"\n");
            // What may be done however old that is comes first.
            if class != "low" || happens(&mut self.rng, 50) {
                text += &format!("staleness_max_ms = {bound}\n");
                bound = self.scale((bound / 4).max(head_every.0 / 2), bound);
            }
        }
        text
    }

    /// The box of every grant: each side of it is narrow in some worlds, and wide as it is by default in the others.
    fn boxes(&mut self) -> String {
        let mut text = String::from("\n[grant]\n");
        let mut side = |draw: &mut Self, name: &str, value: fn(&mut Self) -> String| {
            if happens(&mut draw.rng, 30) {
                text += &format!("{name} = {}\n", value(draw));
            }
        };
        side(self, "life", |draw| format!("\"{}\"", draw.span(60 * MINUTE, 3 * 1440 * MINUTE)));
        side(self, "offline_max", |draw| format!("\"{}\"", draw.span(10 * MINUTE, 360 * MINUTE)));
        side(self, "uses_max", |draw| draw.scale(20, 2000).to_string());
        side(self, "boots_max", |draw| draw.scale(1, 20).to_string());
        side(self, "task_ttl_max", |draw| format!("\"{}\"", draw.span(2 * MINUTE, 60 * MINUTE)));
        text
    }

    /// Groups of gateways, each in one at the most. One with a feed of its own, and one perhaps without.
    fn groups(&mut self) -> String {
        if happens(&mut self.rng, 60) {
            return String::new();
        }
        let mut members = [Vec::new(), Vec::new()];
        for device in 0..self.devices {
            if let Some(own) = members.get_mut(below(&mut self.rng, 3) as usize) {
                own.push(device.to_string());
            }
        }
        let mut text = String::new();
        for (name, members) in ["north", "south"].into_iter().zip(members).filter(|(_, members)| !members.is_empty()) {
            let feed = name == "north" || happens(&mut self.rng, 50);
            text += &format!("\n[groups.{name}]\nmembers = \"{}\"\nfeed = {feed}\n", members.join(","));
            self.groups.push(name);
        }
        text
    }

    /// When and to whom: anywhere before all heals, once or over and over. Of a fault of the whole fleet `who` says nothing.
    fn when(&mut self, name: &str) -> String {
        let last = self.heal - LASTS_MAX - MINUTE;
        let at = Span(between(&mut self.rng, 5 * MINUTE, last) / 1000 * 1000);
        let number = below(&mut self.rng, u64::from(self.devices)).to_string();
        let who = match below(&mut self.rng, 4) {
            0 => "all",
            1 => &number,
            _ => "one",
        };
        let mut text = format!("at = \"{at}\"\n");
        // These have been of the whole fleet since worlds were first drawn, and stay so: each seed keeps its world.
        let of_all = is_of_the_fleet(name) || ["broker.delay", "broker.withhold"].contains(&name);
        if !of_all {
            text += &format!("who = \"{who}\"\n");
        }
        if happens(&mut self.rng, 60) {
            let every = self.span(3 * MINUTE, 120 * MINUTE);
            text += &format!("every = \"{every}\"\nuntil = \"{}\"\n", Span(last.max(at.0)));
        }
        text
    }
}

/// A kind of fault, and what its text says beside when and to whom.
type Kind = (&'static str, fn(&mut Draw) -> String);

/// Faults under which everything must hold.
const KINDS: &[Kind] = &[
    ("broker.ack", |draw| draw.what(&["foreign", "late", "twice", "wrong_key"])),
    ("broker.delay", |draw| {
        let late = draw.span(1000, 20 * MINUTE);
        draw.lasts() + &draw.what(&["acks", "answers", "heads", "lists"]) + &format!("late = \"{late}\"\n")
    }),
    ("broker.feed", |draw| draw.what(&["endless", "foreign", "misplaced", "new_roots_alone"])),
    ("broker.forget", |draw| draw.what(&["feed", "ladder", "snapshot", "to_first_snapshot"])),
    ("broker.hostile", |draw| {
        let mut percent = || draw.scale(1, 30);
        let (drop, duplicate, delay, forge) = (percent(), percent(), percent(), percent());
        draw.lasts() + &format!("drop = {drop}\nduplicate = {duplicate}\ndelay = {delay}\nforge = {forge}\n")
    }),
    ("broker.lose", Draw::lasts),
    ("broker.replay", |_| String::new()),
    ("broker.restart", Draw::lasts),
    ("broker.restore", |draw| format!("age = \"{}\"\n", draw.span(MINUTE, 120 * MINUTE))),
    ("broker.withhold", |draw| draw.lasts() + &draw.what(&["acks", "answers", "heads", "lists"])),
    ("clock.drift", |_| String::new()),
    ("clock.freeze", Draw::lasts),
    ("clock.step", |draw| format!("by = \"{}\"\n", draw.signed(7 * 86_400_000))),
    ("clock.strobe", |draw| {
        let lasts = draw.span(1000, MINUTE);
        format!("for = \"{lasts}\"\nby = \"{}\"\n", draw.signed(10 * MINUTE))
    }),
    ("disk.full", |draw| format!("for = \"{}\"\n", draw.span(1000, 10 * MINUTE))),
    ("disk.readonly", |draw| format!("for = \"{}\"\n", draw.span(1000, 10 * MINUTE))),
    ("disk.sync", |draw| draw.lasts() + &draw.what(&["anchor", "era", "files"])),
    ("emergency", |draw| {
        let life = draw.span(5 * MINUTE, 71 * 60 * MINUTE);
        draw.what(&["grant", "task"]) + &format!("life = \"{life}\"\n")
    }),
    ("flood", |draw| {
        let lasts = draw.span(1000, MINUTE);
        format!("for = \"{lasts}\"\n") + &draw.what(&["allowed", "same", "varied"])
    }),
    ("group.move", |draw| {
        let groups: Vec<&str> = draw.groups.clone();
        let to = draw.one_of(&[&["any", "none"][..], &groups].concat());
        format!("to = \"{to}\"\n")
    }),
    ("key.rotate", |draw| draw.what(&["feed", "root", "service"])),
    ("link.down", |draw| draw.lasts() + &format!("dir = \"{}\"\n", draw.one_of(&["both", "down", "up"]))),
    ("link.half_open", |_| String::new()),
    ("link.slow", |draw| {
        let by = draw.scale(100, 13_000);
        draw.lasts() + &format!("by = \"+{}\"\ndir = \"{}\"\n", Span(by), draw.one_of(&["both", "down", "up"]))
    }),
    ("power.cut", |draw| draw.lasts() + &draw.wall() + &format!("boundary = \"{}\"\n", draw.one_of(&["any", "now"]))),
    ("process.downgrade", Draw::lasts),
    ("process.restart", Draw::lasts),
    ("process.stop", Draw::lasts),
    ("reboot", |draw| draw.lasts() + &draw.wall()),
    ("revoke", |draw| draw.what(&["block", "carried", "grant", "group", "owner", "task", "token"])),
    ("revoke.storm", |draw| {
        let life = draw.span(10 * MINUTE, 30 * 86_400_000);
        format!("count = {}\nlife = \"{life}\"\n", draw.scale(1, 2000))
    }),
    ("service.stop", Draw::lasts),
    ("suspend", Draw::lasts),
];

/// Faults that break an assumption, each in few scenarios only: what they suspend is not judged there.
const RARE: &[Kind] = &[
    ("anchor.deleted", Draw::lasts),
    ("anchor.rotten", Draw::lasts),
    ("anchor.torn", Draw::lasts),
    ("era.rotten", Draw::lasts),
    ("revoke", |_| "what = \"device\"\n".into()),
];

/// The same, drawn after all others with chance of their own: worlds that were found before stay what they were.
const LATER: &[(Kind, u32)] = &[
    (("process.upgrade", upgrade), 40),
    (("file.rotten", |draw| draw.lasts() + &draw.what(&["audit_key", "bundle", "feed", "policy", "wallet"])), 5),
    (("broker.feed", |draw| draw.what(&["fast_forward"])), 20),
    (("file.rotten", |draw| draw.lasts() + &draw.what(&["emergency"])), 5),
    (("broker.feed", |draw| draw.what(&["far_ahead"])), 10),
];

/// The same, in worlds that have planners.
const OF_PLANNERS: &[Kind] = &[
    ("planner.hijacked", |draw| draw.what(&["acts", "ended", "itself", "repeated", "stolen", "unnamed", "wider"])),
    ("step.misused", |draw| draw.what(&["again", "beyond", "late", "planner", "stranger"])),
    ("step.misused", |draw| draw.what(&["again", "late"])),
];

/// The same, in worlds in which programs narrow what they hold: so often at the most.
const OF_NARROWING: [Kind; 3] = [NARROWED_MISUSED; 3];
const NARROWED_MISUSED: Kind = ("narrowed.misused", |draw| {
    draw.what(&["beyond", "crowd", "ended", "expired", "late", "stolen", "stranger", "wider"])
});

/// How programs narrow what they hold. The larger a fleet is, the less often.
fn narrowing(draw: &mut Draw, crowd: u64) -> String {
    let (every, use_every) = (draw.span(crowd * 20_000, 20 * MINUTE), draw.span(crowd * 20_000, 20 * MINUTE));
    let (ttl, leave_every) = (draw.span(10_000, 60 * MINUTE), draw.span(2 * MINUTE, 60 * MINUTE));
    format!(
        "\n[workload.narrowing]\nevery = \"{every}\"\nttl = \"{ttl}\"\nuse_every = \"{use_every}\"\nleave_every = \"{leave_every}\"\n"
    )
}

/// What planners do. The larger a fleet is, the less often.
fn planner(draw: &mut Draw, crowd: u64) -> String {
    let mut every = |least: u64| draw.span(crowd * least, 30 * MINUTE);
    let (begin, finish, step, execute) = (every(2 * MINUTE), every(3 * MINUTE), every(20_000), every(20_000));
    let (task_ttl, step_ttl) = (draw.span(2 * MINUTE, 60 * MINUTE), draw.span(30_000, 30 * MINUTE));
    let uses = draw.scale(2, 100);
    format!(
        "\n[workload.planner]\nbegin_every = \"{begin}\"\nfinish_every = \"{finish}\"\nstep_every = \"{step}\"\n\
         execute_every = \"{execute}\"\ntask_ttl = \"{task_ttl}\"\nstep_ttl = \"{step_ttl}\"\ntask_uses = {uses}\n"
    )
}

/// Which firmware, and whether the supply fails within its first commit.
fn upgrade(draw: &mut Draw) -> String {
    let to = draw.one_of(&["next", "next", "before"]);
    let boundary = if happens(&mut draw.rng, 40) { "boundary = \"any\"\n" } else { "" };
    format!("for = \"{}\"\nto = \"{to}\"\n{boundary}", draw.span(1000, 5 * MINUTE))
}

/// What the next firmware ships: limits that are narrower than those of the one before it, or wider.
fn next_firmware(draw: &mut Draw) -> String {
    let (quota, era_records) = (draw.scale(2, 16), draw.scale(200, 20_000));
    let (alike, tasks) = (draw.scale(1, 16), draw.scale(16, 64));
    format!(
        "\n[fleet.upgrade.queue]\nquota_mib = {quota}\nera_records_max = {era_records}\nalike_max = {alike}\n\n\
         [fleet.upgrade.wallet]\ntasks_max = {tasks}\n"
    )
}

/// The text of the scenario that `seed` comes to.
pub fn draw(seed: u64) -> String {
    let mut rng = stream(seed, "swarm", "world");
    let devices = if happens(&mut rng, 20) { between(&mut rng, 5, DEVICES_MAX) } else { between(&mut rng, 1, 4) };
    let crowd = devices.div_ceil(4);
    let heal = between(&mut rng, 90, 360) * MINUTE;
    let mut draw = Draw { rng, heal, devices: devices as u32, groups: Vec::new() };
    let without_rtc = below(&mut draw.rng, devices + 1);
    let head_every = draw.span(5 * MINUTE, 60 * MINUTE);
    // What a broker lost without a word is there again when the next head is published.
    let (duration, heal) = (Span(heal + head_every.0 + 30 * MINUTE), Span(heal));
    let profile = draw.one_of(&["generic-x86_64", "energy-armv7-1g"]);
    let (roots, threshold) = if happens(&mut draw.rng, 30) { (3, 2) } else { (1, 1) };
    let era_records = draw.scale(200, 20_000);
    let (begin, ttl) = (draw.span(crowd * MINUTE, 30 * MINUTE), draw.span(2 * MINUTE, 60 * MINUTE));
    let (authorize, burst) = (draw.span(crowd * 10_000, 5 * MINUTE), draw.scale(1, 8));
    let (uses, hostile) = (draw.scale(2, 200), below(&mut draw.rng, 60));
    let seal_audit = happens(&mut draw.rng, 30);
    let mut text = format!(
        r#"schema = 1
name = "swarm-{seed}"
about = "Drawn by chance."
seed = {seed}
duration = "{duration}"
heal = "{heal}"
require = []

[fleet]
devices = {devices}
without_rtc = {without_rtc}
profile = "{profile}"
head_every = "{head_every}"
era_records = {era_records}
roots = {roots}
threshold = {threshold}

[policy]
seal_audit = {seal_audit}

[workload]
begin_every = "{begin}"
task_ttl = "{ttl}"
task_uses = {uses}
authorize_every = "{authorize}"
burst = {burst}
hostile_percent = {hostile}
risks = ["low", "medium", "high"]
"#
    );
    text += &draw.risks(head_every);
    text += &draw.boxes();
    text += &draw.groups();
    for (kinds, percent) in [(KINDS, 50), (RARE, 5)] {
        for (name, rest) in kinds {
            if happens(&mut draw.rng, percent) {
                let rest = rest(&mut draw);
                text += &format!("\n[[fault]]\ndo = \"{name}\"\n{}{rest}", draw.when(name));
            }
        }
    }
    draw.rng = stream(seed, "swarm", "later");
    for ((name, rest), percent) in LATER {
        if happens(&mut draw.rng, *percent) {
            if *name == "process.upgrade" {
                text += &next_firmware(&mut draw);
            }
            let rest = rest(&mut draw);
            text += &format!("\n[[fault]]\ndo = \"{name}\"\n{}{rest}", draw.when(name));
        }
    }
    draw.rng = stream(seed, "swarm", "planner");
    if happens(&mut draw.rng, 40) {
        text += &planner(&mut draw, crowd);
        for (name, rest) in OF_PLANNERS {
            if happens(&mut draw.rng, 60) {
                let rest = rest(&mut draw);
                text += &format!("\n[[fault]]\ndo = \"{name}\"\n{}{rest}", draw.when(name));
            }
        }
    }
    draw.rng = stream(seed, "swarm", "identity");
    if happens(&mut draw.rng, 40) {
        let (percent, ttl) = (draw.scale(10, 100), draw.span(2 * MINUTE, 120 * MINUTE));
        text += &format!("\n[workload.identity]\npercent = {percent}\nttl = \"{ttl}\"\n");
        if happens(&mut draw.rng, 60) {
            text += &format!("\n[[fault]]\ndo = \"key.rotate\"\nwhat = \"identity\"\n{}", draw.when("key.rotate"));
        }
    }
    draw.rng = stream(seed, "swarm", "narrowing");
    if happens(&mut draw.rng, 50) {
        text += &narrowing(&mut draw, crowd);
        for (name, rest) in OF_NARROWING {
            if happens(&mut draw.rng, 60) {
                let rest = rest(&mut draw);
                text += &format!("\n[[fault]]\ndo = \"{name}\"\n{}{rest}", draw.when(name));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn whatever_is_drawn_is_a_scenario_and_every_kind_is_drawn() {
        let mut kinds = BTreeSet::new();
        for seed in 0..400 {
            let text = draw(seed);
            let scenario = Scenario::parse(&text).unwrap_or_else(|error| panic!("seed {seed}: {error}\n{text}"));
            kinds.extend(scenario.faults.iter().map(|fault| fault.kind.name().split(' ').next().unwrap().to_owned()));
        }
        let (mut largest, mut groups, mut risks, mut boxes) = (0, 0, 0, 0);
        for seed in 0..400 {
            let scenario = Scenario::parse(&draw(seed)).unwrap();
            largest = largest.max(scenario.fleet.devices);
            groups += usize::from(!scenario.groups.is_empty());
            risks += usize::from(!scenario.policy.risks.is_empty());
            let (drawn, wide) = (&scenario.grant, crate::scenario::GrantPlan::default());
            boxes += usize::from(drawn.offline_max != wide.offline_max || drawn.uses_max != wide.uses_max);
        }
        assert_eq!(u64::from(largest), DEVICES_MAX);
        assert!(
            [groups, risks, boxes].into_iter().all(|worlds| (100..300).contains(&worlds)),
            "{groups} {risks} {boxes}"
        );
        let all = KINDS.iter().chain(RARE).map(|(name, _)| *name).chain(LATER.iter().map(|((name, _), _)| *name));
        let all = all.chain(OF_PLANNERS.iter().chain(&OF_NARROWING).map(|(name, _)| *name));
        assert_eq!(kinds, all.map(str::to_owned).collect());
    }

    #[test]
    fn equal_seeds_equal_scenarios() {
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
