//! What a broker acknowledged and threw away goes out again once a device says that it lacks it.
//!
//! Owns: how long something may be on its way before it counts as lacking (`GRACE`), and how often it goes out again, and
//! from where on.
//! Never: publishes; remembers anything of a single device. However many lag, lie or are stuck, a thing goes out again once
//! per wait, and each wait is twice as long as the one before.
//! Read next: `publish.rs`, which makes the messages; `service.rs`, which asks.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::ids::FeedId;
use crate::mutant::{self, Mutant};
use crate::time::{Millis, Timestamp};

/// What was published less than this ago may still be on its way to whoever has not got it.
const GRACE: Millis = Millis::from_secs(120);
/// What goes out within so much after something else counts as gone out with that: so few are remembered.
const TOGETHER: Millis = Millis::from_secs(15);
/// After a thing went out again, it does not for this long at first,
const WAIT_MIN: Millis = Millis::from_secs(600);
/// and for this long in the end.
const WAIT_MAX: Millis = Millis::from_secs(6 * 3600);
/// The waits of what nobody has lacked for so long begin anew.
const FORGOTTEN: Millis = Millis::from_secs(12 * 3600);

/// How far a thing has come: era and number of a head; 0 and the version of a trust bundle or policy.
pub type Order = (u32, u64);

/// What goes out and comes to lack as one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// The trust bundles.
    Bundles,
    /// The policy.
    Policy,
    /// A feed: its heads, and what leads up to them.
    Feed(FeedId),
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundles => f.write_str("trust bundles"),
            Self::Policy => f.write_str("policy"),
            Self::Feed(feed) => write!(f, "feed {feed}"),
        }
    }
}

/// What the broker was given on this connection, and what of it was lacking.
#[derive(Debug, Default)]
pub struct Again {
    things: BTreeMap<Thing, Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// This went out long enough ago to have arrived.
    settled: Order,
    /// This since then, oldest first.
    fresh: VecDeque<(Timestamp, Order)>,
    /// When it went out again last, and for how long it does not any more.
    rests: Option<(Timestamp, Millis)>,
    /// When somebody lacked it last,
    lacked: Timestamp,
    /// and how far whoever was furthest behind since it went out last had come.
    behind: Option<Order>,
}

impl Again {
    /// A thing went out for the first time.
    pub fn published(&mut self, thing: Thing, order: Order, at: Timestamp) {
        // Operators make bundles and policies, and seldom: each has waits of its own. A head comes every minute.
        let begins_anew = match thing {
            Thing::Bundles | Thing::Policy => true,
            Thing::Feed(_) => false,
        };
        let known = self.things.entry(thing).or_default();
        known.settle(at);
        known.rests = known.rests.filter(|_| !begins_anew);
        match known.fresh.back_mut() {
            Some((since, newest)) if at.since(*since) < TOGETHER => *newest = order,
            Some(_) | None => known.fresh.push_back((at, order)),
        }
    }

    /// A device says that it has come so far. What it lacks, if that is to go out again now: all after this.
    pub fn lacks(&mut self, thing: &Thing, has: Order, at: Timestamp) -> Option<Order> {
        let known = self.things.get_mut(thing)?;
        known.settle(at);
        if has >= known.settled || mutant::active(Mutant::NeverPublishedAgain) {
            return None;
        }
        let idle = at.since(std::mem::replace(&mut known.lacked, at));
        known.rests = known.rests.filter(|_| idle < FORGOTTEN);
        let behind = known.behind.map_or(has, |behind| behind.min(has));
        known.behind = Some(behind);
        let wait = match known.rests {
            Some((last, wait)) if is_within(last, wait, at) => return None,
            Some((_, wait)) => Millis(wait.0 * 2).min(WAIT_MAX),
            None => WAIT_MIN,
        };
        known.rests = Some((at, wait));
        known.behind = None;
        Some(behind)
    }
}

impl Known {
    fn settle(&mut self, at: Timestamp) {
        while let Some((_, order)) = self.fresh.front().filter(|(since, _)| !is_within(*since, GRACE, at)) {
            self.settled = *order;
            self.fresh.pop_front();
        }
    }
}

/// Whether less than `length` went by. The clock of this machine may be set back: then nobody knows, and nothing waits longer
/// for that.
fn is_within(since: Timestamp, length: Millis, at: Timestamp) -> bool {
    at >= since && at.since(since) < length
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;
    const HOUR: u64 = 3600;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(1_772_323_200 + secs)
    }

    fn feed() -> Thing {
        Thing::Feed("main".parse().unwrap())
    }

    /// Publications in seconds, then what devices say and what is to go out for that.
    #[track_caller]
    fn check(thing: &Thing, published: &[(u64, Order)], said: &[(u64, Order, Option<Order>)]) {
        let (mut again, mut published) = (Again::default(), published.iter().peekable());
        for (when, has, expected) in said {
            while let Some((when, order)) = published.next_if(|(published, _)| published <= when) {
                again.published(thing.clone(), *order, at(*when));
            }
            assert_eq!(again.lacks(thing, *has, at(*when)), *expected, "{thing} at {when} s by one that has {has:?}");
        }
    }

    #[test]
    fn what_was_never_published_or_may_be_on_its_way_is_not_lacking() {
        check(&Thing::Bundles, &[], &[(HOUR, (0, 1), None)]);
        check(&Thing::Bundles, &[(0, (0, 2))], &[(0, (0, 1), None), (119, (0, 1), None), (120, (0, 1), Some((0, 1)))]);
        check(&Thing::Bundles, &[(0, (0, 2))], &[(HOUR, (0, 2), None), (HOUR, (0, 3), None)]);
        let later = [(0, (0, 2)), (300, (0, 3))];
        check(&Thing::Bundles, &later, &[(301, (0, 2), None), (301, (0, 1), Some((0, 1))), (420, (0, 2), None)]);
    }

    #[test]
    fn heads_that_keep_coming_hide_none_that_was_thrown_away() {
        let heads: Vec<(u64, Order)> = (0..600).map(|number| (number, (1, number + 1))).collect();
        check(&feed(), &heads, &[(100, (1, 0), None), (130, (1, 0), Some((1, 0)))]);
        check(&feed(), &heads, &[(599, (1, 490), None), (599, (1, 470), Some((1, 470)))]);
        let mut again = Again::default();
        heads.iter().for_each(|(when, order)| again.published(feed(), *order, at(*when)));
        assert!(again.things[&feed()].fresh.len() <= 9);
    }

    #[test]
    fn each_wait_is_twice_as_long_as_the_one_before_up_to_six_hours() {
        let mut again = Again::default();
        again.published(feed(), (1, 9), at(0));
        let every_minute = (0..40 * HOUR).step_by(MINUTE as usize);
        let out: Vec<u64> = every_minute.filter(|when| again.lacks(&feed(), (1, 3), at(*when)).is_some()).collect();
        let waits: Vec<u64> = out.windows(2).map(|pair| (pair[1] - pair[0]) / MINUTE).collect();
        assert_eq!(out[0], 2 * MINUTE);
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 360, 360, 360, 360]);
    }

    #[test]
    fn a_wait_is_everybodys_and_ends_with_what_the_furthest_behind_lacked() {
        let said = [
            (10 * MINUTE, (1, 8), Some((1, 8))),
            (11 * MINUTE, (1, 2), None),
            (12 * MINUTE, (1, 5), None),
            (20 * MINUTE, (1, 7), Some((1, 2))),
            (50 * MINUTE, (1, 7), Some((1, 7))),
        ];
        check(&feed(), &[(0, (1, 9))], &said);
    }

    #[test]
    fn waits_begin_anew_after_half_a_day_and_with_another_bundle_but_not_with_another_head() {
        let first = (10 * MINUTE, (0, 1), Some((0, 1)));
        let soon = |expected| (20 * MINUTE + 30, (0, 1), expected);
        let two = [(0, (0, 2)), (11 * MINUTE, (0, 3))];
        let third = |expected| (21 * MINUTE, (0, 1), expected);
        check(&Thing::Bundles, &two, &[first, (12 * MINUTE, (0, 1), Some((0, 1))), third(None)]);
        check(&feed(), &two, &[first, (12 * MINUTE, (0, 1), None), soon(Some((0, 1))), third(None)]);
        let idle =
            [first, soon(Some((0, 1))), (13 * HOUR, (0, 1), Some((0, 1))), (13 * HOUR + 600, (0, 1), Some((0, 1)))];
        check(&feed(), &[(0, (0, 2))], &idle);
    }

    #[test]
    fn a_clock_that_is_set_back_holds_nothing_up() {
        let mut again = Again::default();
        again.published(Thing::Policy, (0, 2), at(100 * HOUR));
        assert_eq!(again.lacks(&Thing::Policy, (0, 1), at(HOUR)), Some((0, 1)));
        assert_eq!(again.lacks(&Thing::Policy, (0, 1), at(0)), Some((0, 1)));
        assert_eq!(again.lacks(&Thing::Policy, (0, 1), at(MINUTE)), None);
    }
}
