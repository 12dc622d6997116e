//! To whom a fault happens.
//!
//! Owns: [`Who`], how files say it, and which gateways that comes to each time.
//! Never: makes anything happen.
//! Read next: `plan.rs`, which asks each time.

use std::collections::{BTreeMap, BTreeSet};

use hardtack::ids::GroupId;
use rand_core::RngCore;

use crate::random::below;
use crate::scenario::GroupPlan;

/// To whom a fault happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// To every gateway.
    All,
    /// To so many of these, others by chance each time.
    Some {
        /// How many.
        count: u32,
        /// Of whom, in ascending order.
        of: Vec<u32>,
    },
    /// To these, in ascending order.
    These(Vec<u32>),
}

impl Who {
    /// What a file says: `all`, `one`, gateways by their numbers like `0,4-9`, of a group as the scenario begins with it like
    /// `group:north`, and of any of these so many by chance each time, like `3 of all` or `20% of group:north`.
    ///
    /// # Errors
    /// What nobody can be meant by, and what to write.
    pub(crate) fn parse(text: &str, devices: u32, groups: &BTreeMap<GroupId, GroupPlan>) -> Result<Self, String> {
        let (some, of) = match text.trim() {
            "all" => return Ok(Self::All),
            "one" => ("1", "all"),
            text => match text.split_once(" of ") {
                Some((some, of)) => (some.trim(), of.trim()),
                None => return numbers(text, devices, groups).map(Self::These),
            },
        };
        let of = if of == "all" { (0..devices).collect() } else { numbers(of, devices, groups)? };
        let all = of.len() as u32;
        let count = match some.strip_suffix('%') {
            Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(|percent: u32| {
                let share = u64::from(all) * u64::from(percent);
                share.div_ceil(100) as u32
            }),
            None => some.parse().ok(),
        };
        match count.filter(|count| (1..=all).contains(count)) {
            Some(count) => Ok(Self::Some { count, of }),
            None => Err(format!("of {all} gateways {some:?} cannot be chosen: write 1 to {all}, or 1% to 100%")),
        }
    }

    /// To how many it happens each time.
    pub(crate) fn count(&self, devices: u32) -> u32 {
        match self {
            Self::All => devices,
            Self::Some { count, .. } => *count,
            Self::These(these) => these.len() as u32,
        }
    }

    /// To whom it happens this time.
    pub(crate) fn chosen(&self, devices: u32, rng: &mut impl RngCore) -> Vec<u32> {
        match self {
            Self::All => (0..devices).collect(),
            Self::These(these) => these.clone(),
            Self::Some { count, of } => {
                let mut left = of.clone();
                let mut draw = |_| left.swap_remove(below(rng, left.len() as u64) as usize);
                let chosen: BTreeSet<u32> = (0..*count).map(&mut draw).collect();
                chosen.into_iter().collect()
            }
        }
    }
}

/// The gateways that a list names, each once, in ascending order.
///
/// # Errors
/// What names none, and what to write.
pub(crate) fn numbers(list: &str, devices: u32, groups: &BTreeMap<GroupId, GroupPlan>) -> Result<Vec<u32>, String> {
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number < devices);
    let mut all = BTreeSet::new();
    for item in list.split(',').map(str::trim) {
        if let Some(name) = item.strip_prefix("group:") {
            let group = name.parse().ok().and_then(|name| groups.get(&name));
            let group = group.ok_or_else(|| format!("{name:?} is no group here: name it under `[groups]`"))?;
            all.extend(&group.members);
            continue;
        }
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => all.extend(first..=last),
            _ => {
                return Err(format!(
                    "gateways are named by numbers below {devices}, like \"0,4-9\", or as \"group:NAME\", \"all\", \"one\", or so \
                     many of them by chance, like \"3 of all\" or \"20% of 0-9\"; not {item:?}"
                ))
            }
        }
    }
    Ok(all.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    fn parse(text: &str) -> Result<Who, String> {
        let north = GroupPlan { members: vec![1, 7], feed: false };
        Who::parse(text, 10, &[("north".parse().unwrap(), north)].into())
    }

    #[test]
    fn who_is_named_by_number_range_group_and_share() {
        let some = |count, of: &[u32]| Who::Some { count, of: of.to_vec() };
        let all: Vec<u32> = (0..10).collect();
        for (text, who) in [
            ("all", Who::All),
            ("one", some(1, &all)),
            ("3", Who::These(vec![3])),
            ("7, 2-4,3", Who::These(vec![2, 3, 4, 7])),
            ("group:north", Who::These(vec![1, 7])),
            ("group:north,0", Who::These(vec![0, 1, 7])),
            ("3 of all", some(3, &all)),
            ("1 of group:north", some(1, &[1, 7])),
            ("25% of all", some(3, &all)),
            ("100% of 2-3", some(2, &[2, 3])),
        ] {
            assert_eq!(parse(text), Ok(who), "{text}");
        }
    }

    #[test]
    fn who_is_nobody_is_refused_with_a_reason() {
        for (text, says) in [
            ("10", "below 10"),
            ("4-2", "\"4-2\""),
            ("", "\"\""),
            ("group:south", "[groups]"),
            ("3 of group:north", "1 to 2"),
            ("0 of all", "1 to 10"),
            ("0% of all", "1% to 100%"),
            ("101% of all", "1% to 100%"),
            ("some of all", "\"some\""),
            ("-1", "\"-1\""),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn so_many_are_chosen_each_time_and_not_always_the_same() {
        let who = parse("3 of 2-8").unwrap();
        let mut rng = stream(1, "fault-0", "who");
        let times: BTreeSet<Vec<u32>> = (0..20).map(|_| who.chosen(10, &mut rng)).collect();
        assert!(times.len() > 5, "{times:?}");
        assert!(times.iter().all(|chosen| chosen.len() == 3 && chosen.iter().all(|number| (2..=8).contains(number))));
    }
}
