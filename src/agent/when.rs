//! When a token holds: up to which clock, around which dates.
//!
//! Owns: the time class of a request, the checks on `issued`, `expires` and the tasks' ends, the instants at which an
//! outcome can differ.
//! Never: gives two times to one run of Datalog: an existential check would pass on either. Compares `issued` with E.
//! Read next: `clock.rs` for the clocks, `evaluate.rs` for the runs.

use std::collections::BTreeSet;

use super::decide::Judge;
use super::request::{Reason, TimeClass};
use super::token::{Clause, Denial, Kind, Verified};
use crate::mutant::{active, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::biscuit::{Check, TimeBound};

/// Clocks of issuers and devices differ by this much without harm.
pub(super) const ISSUED_SLACK: Millis = Millis::from_secs(2);
/// More dates than this between E and P, and evaluating around each would cost too much.
const RUNS_MAX: usize = 16;

impl Judge<'_> {
    /// The stricter of what the policy says of the request and what the token asks for.
    pub(super) fn time_class(&self, operation: &str, resource: &str, claimed: Option<TimeClass>) -> TimeClass {
        self.policy.document.time_class_of(operation, resource).max(claimed.unwrap_or(TimeClass::Floor))
    }

    pub(super) fn check_time(&self, verified: &Verified, class: TimeClass) -> Result<(), Denial> {
        match self.clock.upper(class) {
            Some(upper) => {
                self.check_time_up_to(verified, upper).map_err(|denial| self.by_whose_clock(verified, denial))
            }
            None => {
                // What is proven to be past is told first: no better clock would help.
                self.check_time_up_to(verified, self.clock.floor())?;
                Err(Denial::new(
                    Reason::TimeUntrusted,
                    "this needs proof that the token has not ended, and no signed time has answered a question of this boot yet; the device must reach its fleet",
                ))
            }
        }
    }

    /// Where only the system clock says that a token has ended, the denial says so.
    fn by_whose_clock(&self, verified: &Verified, denial: Denial) -> Denial {
        let powered = Timestamp::from_secs(self.clock.powered().secs_ceil());
        let hinted = self.clock.hinted().filter(|hint| *hint > powered);
        match hinted.filter(|_| denial.reason == Reason::Expired && self.check_time_up_to(verified, powered).is_ok()) {
            Some(hint) => {
                let explain = format!(
                    "it has ended if the system clock is right, which shows {hint}; set it right, or let the device reach its fleet"
                );
                Denial::new(Reason::Expired, explain).by(denial.by)
            }
            None => denial,
        }
    }

    fn check_time_up_to(&self, verified: &Verified, upper: Timestamp) -> Result<(), Denial> {
        let points = self.points(verified, upper, false)?;
        let checks = verified.token.blocks.iter().enumerate().flat_map(|(number, block)| {
            block.checks.iter().enumerate().map(move |(place, check)| ((number, place), check))
        });
        let bounds = checks.map(|(which, check)| match check {
            Check::Time(alternatives) => self.check_bounds(alternatives, &points, which),
            Check::Other(_) => Ok(()),
        });
        let found = [self.check_issued(verified), self.check_expiry(verified, upper)].into_iter().chain(bounds);
        found.filter_map(Result::err).min_by_key(|denial| denial.reason).map_or(Ok(()), Err)
    }

    fn check_issued(&self, verified: &Verified) -> Result<(), Denial> {
        let (issued, powered) = (verified.claims.issued, self.clock.powered());
        if issued <= powered + ISSUED_SLACK {
            return Ok(());
        }
        let explain = format!(
            "issued {issued}, and this device cannot tell that it is later than {powered}; it needs signed time"
        );
        Err(Denial::new(Reason::NotYetValid, explain))
    }

    fn check_expiry(&self, verified: &Verified, upper: Timestamp) -> Result<(), Denial> {
        let expires = verified.claims.expires;
        if expires < upper || expires <= self.revocations.dropped_before() {
            return Err(Denial::new(Reason::Expired, format!("expired {expires}; ask for a new credential")));
        }
        if let Some(ends) = self.wallet.date_of(verified.chain()).filter(|ends| *ends < upper) {
            return Err(Denial::new(Reason::Expired, format!("the task's credential ended {ends}; begin another")));
        }
        match self.life_of(verified) {
            // How far the system clock leads is no part of it.
            Some(ends) if ends < upper.min(self.clock.powered()) && !active(Mutant::LifeUncounted) => {
                let explain = "the task's credential has had all the powered-on time that it was given; begin another";
                Err(Denial::new(Reason::Expired, explain))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What stays in the wallet is handed out with a block more, whose life is counted. Where that is not known, it has ended
    /// and is forgotten, or whoever presents this took it out of the wallet: the rest of the chain gives him no right.
    pub(super) fn check_handed_out(&self, verified: &Verified) -> Result<(), Denial> {
        let made = verified.chain().filter(|block| self.wallet.made(block)).count();
        let issued = |task: &String| task.parse().is_ok_and(|task| self.wallet.task(&task).is_some());
        let stays = match verified.claims.kind {
            // The task's own block.
            Kind::Grant => made == 1,
            // The issuer's token.
            Kind::Task => made == 0 && verified.claims.tasks.iter().any(issued),
        };
        if stays && !active(Mutant::HandedOutUnchecked) {
            let explain = "no credential that this agent handed out and remembers: it has ended; begin another task, or narrow that \
                           of a live one again";
            return Err(Denial::new(Reason::NoRight, explain));
        }
        Ok(())
    }

    /// A check on time must pass at every instant that it can be. It is named by its place and its block's.
    fn check_bounds(
        &self,
        alternatives: &[Vec<TimeBound>],
        points: &[u64],
        (block, check): (usize, usize),
    ) -> Result<(), Denial> {
        let passes = |at: u64| alternatives.iter().any(|bounds| bounds.iter().all(|bound| bound.holds(at)));
        let Some(failed) = points.iter().rev().copied().find(|at| !passes(*at)) else { return Ok(()) };
        let late = alternatives.iter().flatten().any(|bound| match bound {
            TimeBound::At(date) | TimeBound::Until(date) => failed > *date,
            TimeBound::From(_) => false,
        });
        let clause = Clause::Token { block, check, text: told(alternatives) };
        let which = self.policy.tell(&clause);
        let denial = if late {
            let explain = format!("a limit of the token on time has passed; ask for a new credential ({which})");
            Denial::new(Reason::Expired, explain)
        } else {
            let explain =
                format!("a limit of the token on time has not come yet as far as this device can tell ({which})");
            Denial::new(Reason::NotYetValid, explain)
        };
        Err(denial.by(Some(clause)))
    }

    /// The instants at which an outcome can differ between E and the class's upper point: both ends, and around each
    /// date between them. Where no date lies between them one instant stands for all.
    pub(super) fn points(&self, verified: &Verified, upper: Timestamp, policy_asks: bool) -> Result<Vec<u64>, Denial> {
        let (low, high) = (self.clock.floor().secs_floor(), upper.secs_floor());
        let policys = if policy_asks { self.policy.dates.as_slice() } else { &[] };
        let between = verified.token.dates.iter().chain(policys).filter(|date| (low..=high).contains(*date));
        let mut points: BTreeSet<u64> =
            between.flat_map(|date| [date.saturating_sub(1), *date, date.saturating_add(1)]).collect();
        points.retain(|point| (low..=high).contains(point));
        if !points.is_empty() || policy_asks {
            points.insert(low);
        }
        points.insert(high);
        if points.len() > RUNS_MAX {
            return Err(Denial::new(
                Reason::TooComplex,
                "too many dates of token and policy lie between the earliest and the latest time that it can be",
            ));
        }
        Ok(points.into_iter().collect())
    }

    /// The date that a token ends at.
    pub(super) fn end_of(&self, verified: &Verified) -> Timestamp {
        let blocks = (0..verified.token.blocks.len()).map(|index| end_of_block(verified, index));
        blocks.chain(self.wallet.date_of(verified.chain())).fold(verified.claims.expires, Timestamp::min)
    }

    /// When the life ends by P of what a token holds that was made here.
    pub(super) fn life_of(&self, verified: &Verified) -> Option<Timestamp> {
        self.wallet.life_of(verified.chain(), &self.clock.stand())
    }

    /// How long a token is honoured yet where it must be good up to the clock of a class.
    pub(super) fn life_left(&self, verified: &Verified, class: TimeClass) -> Millis {
        let latest = self.clock.upper(class).unwrap_or(Timestamp::MAX);
        let lives = self.life_of(verified).unwrap_or(Timestamp::MAX);
        self.end_of(verified).since(latest).min(lives.since(latest.min(self.clock.powered())))
    }
}

/// Bounds in words, a few of them.
fn told(alternatives: &[Vec<TimeBound>]) -> String {
    let bound = |bound: &TimeBound| match bound {
        TimeBound::At(secs) => format!("at {}", Timestamp::from_secs(*secs)),
        TimeBound::From(secs) => format!("from {}", Timestamp::from_secs(*secs)),
        TimeBound::Until(secs) => format!("until {}", Timestamp::from_secs(*secs)),
    };
    let few = |bounds: &Vec<TimeBound>| bounds.iter().take(2).map(bound).collect::<Vec<_>>().join(" and ");
    let more = if alternatives.len() > 2 { ", or others" } else { "" };
    alternatives.iter().take(2).map(few).collect::<Vec<_>>().join(", or ") + more
}

/// When a block's own checks on time let it end, at the latest with the token.
pub(super) fn end_of_block(verified: &Verified, index: usize) -> Timestamp {
    let checks = verified.token.blocks.get(index).into_iter().flat_map(|block| &block.checks);
    let ends = checks.filter_map(|check| match check {
        Check::Time(alternatives) => latest(alternatives),
        Check::Other(_) => None,
    });
    ends.fold(verified.claims.expires, Timestamp::min)
}

/// The latest time at which one of the alternatives can hold; none if one has no end.
fn latest(alternatives: &[Vec<TimeBound>]) -> Option<Timestamp> {
    let end = |bounds: &Vec<TimeBound>| {
        let ends = bounds.iter().filter_map(|bound| match bound {
            TimeBound::Until(secs) | TimeBound::At(secs) => Some(Timestamp::from_secs(*secs)),
            TimeBound::From(_) => None,
        });
        ends.min()
    };
    let ends: Option<Vec<Timestamp>> = alternatives.iter().map(end).collect();
    ends?.into_iter().max()
}
