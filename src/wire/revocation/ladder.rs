//! The skip ladder: few steps from any older position of a feed to its newest.
//!
//! Owns: [`Step`], what it spans and where the broker keeps it; which steps lead from one position to another; which end
//! at a position.
//! Never: knows what a step holds. `announcement.rs` does.
//! Read next: `announcement.rs`.
//!
//! A step of level `l` holds what the `4^l` heads up to its end added. Additions are a union, so a step may reach back
//! further than is needed. That makes the way short: it begins on the highest level that does not overshoot, and only
//! descends. (With base 4 that is at most three steps on each level: `3 · log4` of the gap.)

/// Steps of level 0 that the broker keeps: the newest heads.
pub const DELTAS: u64 = 64;
/// Steps of each level above that the broker keeps.
pub const RUNGS: u64 = 8;
/// The highest level: 16,384 heads, eleven days of one a minute.
pub const LEVEL_MAX: u8 = 7;

/// What the `4^level` heads up to and with `end` added.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Step {
    /// The level, 0 for a single head.
    pub level: u8,
    /// The number of its last head: a multiple of its span.
    pub end: u64,
}

impl Step {
    /// How many heads it spans.
    pub const fn span(self) -> u64 {
        span(self.level)
    }

    /// The position that it begins after.
    pub const fn begin(self) -> u64 {
        self.end.saturating_sub(self.span())
    }

    /// Which of its level's places on the broker it takes.
    pub const fn place(self) -> u64 {
        let places = if self.level == 0 { DELTAS } else { RUNGS };
        self.end / self.span() % places
    }

    /// Whether the broker still keeps it when the newest head has this number.
    pub const fn kept_at(self, newest: u64) -> bool {
        let places = if self.level == 0 { DELTAS } else { RUNGS };
        self.end <= newest && newest / self.span() - self.end / self.span() < places
    }

    /// The steps above level 0 that end at a position, lowest first.
    pub fn ending_at(position: u64) -> impl Iterator<Item = Self> {
        let levels = (1..=LEVEL_MAX).take_while(move |level| position > 0 && position % span(*level) == 0);
        levels.map(move |level| Self { level, end: position })
    }
}

const fn span(level: u8) -> u64 {
    1 << (2 * level as u32)
}

/// The steps that lead from one position to a newer one, in order. None when the broker does not keep them any more.
pub fn steps(from: u64, to: u64) -> Option<Vec<Step>> {
    steps_among(from, to, |_| true)
}

/// The same of those that `there_is`. None as well where none of them leads on.
pub fn steps_among(from: u64, to: u64, there_is: impl Fn(Step) -> bool) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let mut at = from;
    while at < to {
        let next = |level: u8| {
            let end = (at / span(level) + 1).checked_mul(span(level))?;
            let step = Step { level, end };
            (end <= to && there_is(step)).then_some(step)
        };
        let step = (0..=LEVEL_MAX).rev().find_map(next)?;
        if !step.kept_at(to) {
            return None;
        }
        at = step.end;
        steps.push(step);
    }
    Some(steps)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_way_is_short_and_kept() {
        check_way(0, 1, &[(0, 1)]);
        check_way(6, 6, &[]);
        check_way(5, 8, &[(1, 8)]);
        check_way(5, 7, &[(0, 6), (0, 7)]);
        check_way(1, 70, &[(3, 64), (1, 68), (0, 69), (0, 70)]);
        check_way(63, 64, &[(3, 64)]);
        assert_eq!(steps(0, RUNGS * span(LEVEL_MAX) + span(LEVEL_MAX)), None, "a month and a half away");
    }

    #[test]
    fn around_a_step_that_is_not_there_finer_ones_lead() {
        let without = |lacking: &'static [(u8, u64)]| move |step: Step| !lacking.contains(&(step.level, step.end));
        let way = |from, to, lacking| {
            let way = steps_among(from, to, without(lacking));
            way.map(|way| way.into_iter().map(|step| (step.level, step.end)).collect::<Vec<_>>())
        };
        assert_eq!(way(20, 24, &[(1, 24)]), Some(vec![(0, 21), (0, 22), (0, 23), (0, 24)]));
        assert_eq!(way(0, 20, &[(2, 16), (1, 8)]).unwrap()[..2], [(1, 4), (0, 5)]);
        assert_eq!(way(20, 24, &[(1, 24), (0, 22)]), None);
        assert_eq!(way(0, 256, &[(4, 256)]).unwrap().len(), 4, "one level less");
        assert_eq!(way(0, 256, &[(4, 256), (3, 64)]), None, "finer ones of so long ago are not kept");
    }

    #[track_caller]
    fn check_way(from: u64, to: u64, way: &[(u8, u64)]) {
        let found: Vec<(u8, u64)> = steps(from, to).unwrap().into_iter().map(|step| (step.level, step.end)).collect();
        assert_eq!(found, way);
    }

    proptest! {
        #[test]
        fn every_gap_is_spanned_without_a_hole(from in 0..u64::MAX / 2, gap in 0..8 * span(LEVEL_MAX)) {
            let (to, mut at) = (from + gap, from);
            let way = steps(from, to).unwrap();
            // Four steps of a level would have been one of the level above, except on the highest.
            let highest = gap / span(LEVEL_MAX) + 1;
            prop_assert!(way.len() as u64 <= 3 * u64::from(gap.max(1).ilog(4)) + 3 + highest);
            for step in way {
                prop_assert!(step.begin() <= at && at < step.end && step.kept_at(to));
                prop_assert!(step.level == 0 || Step::ending_at(step.end).any(|other| other == step));
                at = step.end;
            }
            prop_assert_eq!(at, to);
        }

        #[test]
        fn no_step_that_is_kept_lies_where_a_newer_one_does(level in 0..=LEVEL_MAX, number in 1..1_000_u64, newest in 0..100_u64) {
            let step = Step { level, end: number * span(level) };
            let newer = Step { level, end: (number + newest) * span(level) };
            let same = step.place() == newer.place();
            prop_assert!(newer == step || !same || !step.kept_at(newer.end));
        }
    }
}
