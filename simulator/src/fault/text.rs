//! A fault as a scenario file has it.
//!
//! Owns: the keys of a `[[fault]]`; the check that a file says all that a fault needs and nothing that it does not use.
//! Never: knows one fault from another.
//! Read next: the families beside it, each of which reads its own.

use std::collections::BTreeMap;

use hardtack::ids::GroupId;
use serde::Deserialize;

use super::{is_of_the_fleet, whats, Fault, Kind, When, Who, CATALOGUE};
use crate::scenario::{GroupPlan, Span};

/// A fault as the file has it: every key that any fault uses.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FaultText {
    #[serde(rename = "do")]
    name: String,
    at: Option<Span>,
    every: Option<Span>,
    until: Option<Span>,
    jitter: Option<Span>,
    who: Option<String>,
    #[serde(rename = "for")]
    lasts: Option<Lasting>,
    pub(super) dir: Option<String>,
    pub(super) boundary: Option<String>,
    pub(super) window: Option<Span>,
    pub(super) wall: Option<String>,
    by: Option<String>,
    pub(super) age: Option<Span>,
    late: Option<Span>,
    pub(super) to: Option<String>,
    what: Option<String>,
    pub(super) drop: Option<u32>,
    pub(super) duplicate: Option<u32>,
    pub(super) delay: Option<u32>,
    pub(super) forge: Option<u32>,
    pub(super) count: Option<u32>,
    pub(super) life: Option<Span>,
}

/// How long a fault lasts: always the same, like `"90s"`, or what chance says each time, like `"5m..2h"`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "String")]
struct Lasting {
    least: u64,
    /// By at most so much.
    longer: u64,
}

impl TryFrom<String> for Lasting {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let (least, most) = text.split_once("..").unwrap_or((&text, &text));
        let (Span(least), Span(most)) = (least.parse()?, most.parse()?);
        let longer = most.checked_sub(least).ok_or_else(|| format!("{text:?} ends before it begins"))?;
        Ok(Self { least, longer })
    }
}

/// The keys that every `[[fault]]` has beside `do`, and what each says. Those with a `?` may be left out.
pub const KEYS_OF_ALL: [(&str, &str); 5] = [
    ("at", "when, since the start of the world: \"1h30m\""),
    ("every?", "again each time so long after; needs `until`"),
    ("until?", "when it happens for the last time, at the latest; needs `every`"),
    ("jitter?", "how much later it happens at the most, by chance each time"),
    (
        "who?",
        "which gateways: \"all\" where nothing is said, \"one\" by chance each time, \"0,4-9\", \"group:north\", \"3 of all\", \"20% of 0-9\"",
    ),
];

/// The keys that some have, and what each says.
pub const KEYS: [(&str, &str); 16] = [
    ("for", "how long it lasts: \"90s\", or by chance each time \"5m..2h\""),
    ("dir", "which way: \"up\" to the broker, \"down\" from it, \"both\" where nothing is said"),
    ("by", "by how much, with its sign: \"-7h\", \"+2s\""),
    ("age", "how old what is put back is, no older than the world: \"2h\""),
    ("late", "how long it is on its way: \"10m\""),
    ("what", "which of several; they are listed"),
    ("to", "which group: its name, \"none\" or \"any\"; which firmware: \"next\", or \"before\""),
    (
        "boundary",
        "where in a commit power fails: \"now\", \"any\" by chance in the next, \"each\" of those in `window` in turn",
    ),
    ("window", "how long each boundary of a commit is tried for: \"10m\""),
    (
        "wall",
        "what the wall clock shows after it: \"kept\" where nothing is said, \"1970\", or off by so much more: \"-1d\"",
    ),
    ("drop", "so many of a hundred messages are acknowledged and thrown away"),
    ("duplicate", "so many come twice"),
    ("delay", "so many come long after"),
    ("forge", "so many come with something changed"),
    ("count", "how many"),
    ("life", "how long what is signed lives: \"12h\""),
];

impl FaultText {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The fault, if the file says all that it needs and nothing more.
    pub(crate) fn check(mut self, devices: u32, groups: &BTreeMap<GroupId, GroupPlan>) -> Result<Fault, String> {
        let when = self.when()?;
        if self.who.is_some() && is_of_the_fleet(&self.name) {
            return Err("befalls the whole fleet: leave `who` out".into());
        }
        let who = self.who.take().map_or(Ok(Who::All), |who| Who::parse(&who, devices, groups))?;
        let longer = self.lasts.map_or(0, |lasts| lasts.longer);
        let kind = self.kind()?;
        self.name.clear();
        if self == Self::default() {
            Ok(Fault { when, who, kind, longer })
        } else {
            Err(format!("has a key that it does not use: {}", self.left_over()))
        }
    }

    fn when(&mut self) -> Result<When, String> {
        let at = self.at.take().ok_or("needs `at`, the time since the start")?.0;
        let every = self.every.take().map(|span| span.0);
        let until = self.until.take().map(|span| span.0);
        match (every, until) {
            (None, None) => Ok(When { at, every, until: at, jitter: self.jitter.take().map_or(0, |span| span.0) }),
            (Some(gap), Some(until)) if gap >= 1000 && until >= at => {
                Ok(When { at, every, until, jitter: self.jitter.take().map_or(0, |span| span.0) })
            }
            (Some(_), Some(_)) => Err("`every` must be 1s or more, `until` not before `at`".into()),
            (Some(_), None) | (None, Some(_)) => Err("`every` and `until` go together".into()),
        }
    }

    fn kind(&mut self) -> Result<Kind, String> {
        let all = || CATALOGUE.iter().flat_map(|(_, family)| family.iter());
        let named = all().find(|(name, ..)| *name == self.name);
        let (.., read) = named.ok_or_else(|| {
            let family = |name: &str| name.split('.').next() == self.name.split('.').next();
            let (of_family, others): (Vec<&str>, Vec<&str>) =
                all().map(|(name, ..)| *name).partition(|name| family(name));
            let names = if of_family.is_empty() { others } else { of_family };
            format!("no such fault: {:?}; `do` is one of: {}", self.name, names.join(" "))
        })?;
        read(self)
    }

    pub(super) fn by(&mut self) -> Result<i64, String> {
        signed(&self.by.take().ok_or("needs `by`, like \"-7h\" or \"+2d\"")?)
    }

    /// What `what` names, of these.
    pub(super) fn one_of<T: Copy>(&mut self, all: &'static [(&'static str, T)]) -> Result<T, String> {
        let what = self.what.take();
        let named = whats(&self.name, all).find(|(name, _)| what.as_deref() == Some(*name));
        named.map(|(_, value)| value).ok_or_else(|| {
            let names: Vec<&str> = whats(&self.name, all).map(|(name, _)| name).collect();
            format!("needs `what`, one of: {}", names.join(" "))
        })
    }

    pub(super) fn lasts(&mut self) -> Result<u64, String> {
        let lasts = self.lasts.take().map(|lasts| lasts.least).filter(|least| *least > 0);
        lasts.ok_or_else(|| {
            "needs `for`, how long it lasts, like \"90s\", or \"5m..2h\" for what chance says each time".into()
        })
    }

    /// `late`, which is `what`.
    pub(super) fn late(&mut self, what: &str) -> Result<u64, String> {
        self.late.take().map(|span| span.0).ok_or_else(|| format!("needs `late`, {what}"))
    }

    /// `age`, which is that `what`.
    pub(super) fn age(&mut self, what: &str) -> Result<u64, String> {
        self.age.take().map(|span| span.0).ok_or_else(|| format!("needs `age`, {what}"))
    }

    fn left_over(&self) -> String {
        let keys = [
            ("jitter", self.jitter.is_some()),
            ("for", self.lasts.is_some()),
            ("dir", self.dir.is_some()),
            ("boundary", self.boundary.is_some()),
            ("window", self.window.is_some()),
            ("wall", self.wall.is_some()),
            ("by", self.by.is_some()),
            ("age", self.age.is_some()),
            ("late", self.late.is_some()),
            ("to", self.to.is_some()),
            ("what", self.what.is_some()),
            ("drop", self.drop.is_some()),
            ("duplicate", self.duplicate.is_some()),
            ("delay", self.delay.is_some()),
            ("forge", self.forge.is_some()),
            ("count", self.count.is_some()),
            ("life", self.life.is_some()),
        ];
        let names: Vec<&str> = keys.into_iter().filter(|(_, present)| *present).map(|(name, _)| name).collect();
        names.join(" ")
    }
}

/// A length of time with a sign, in milliseconds.
pub(super) fn signed(text: &str) -> Result<i64, String> {
    let (sign, length) = match text.split_at_checked(1) {
        Some(("-", length)) => (-1, length),
        Some(("+", length)) => (1, length),
        Some(_) | None => return Err(format!("{text:?} needs a sign, like \"-7h\" or \"+2d\"")),
    };
    let span = Span::try_from(length.to_owned())?;
    i64::try_from(span.0).map(|ms| sign * ms).map_err(|_| format!("{text:?} is too long"))
}
