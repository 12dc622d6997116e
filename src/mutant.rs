//! Planted bugs, for the simulator to prove that its checkers catch them.
//!
//! Owns: which bug is active in a build with the feature `mutants`.
//! Never: exists in a build that is shipped: without the feature every question is answered `false` at compile time.
//! Read next: the simulator's mutants test.

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mutant {
    /// An acknowledgement is believed whoever signed it.
    AckByAnyKey = 1,
    /// A use is charged to the last block alone.
    AncestorNotCharged = 2,
    /// A decision charges no budget.
    BudgetNotCharged = 3,
    /// The ceiling of another boot counts on.
    CeilingKeptAfterBoot = 4,
    /// A new task sets every budget back.
    ChildResetsBudget = 5,
    /// A use is charged in memory, and written down with the next anchor only.
    CounterAfterAction = 6,
    /// An older head is taken as if it were new.
    FeedPositionLowered = 7,
    /// A start forgets the floor.
    FloorNotPersisted = 8,
    /// The system clock makes decisions more lenient too.
    HintBelieved = 9,
    /// An allow is given however long its record took. Slept through, it outlives its token.
    LateAllowGiven = 10,
    /// A boot is not charged what was leased.
    LeaseNotCharged = 11,
    /// A record is released once the broker has it. The simulator says when, by a segment without content.
    ReleaseOnPuback = 12,
    /// A renewal drops the working grant before its successor is there.
    RenewalDropsFirst = 13,
    /// Replies leave before the commit. Planted in the shell's loop.
    ReplyBeforeCommit = 14,
    /// A reset of the clock leaves tasks and counters of before as they are.
    ResetRevives = 15,
    /// A reset of the clock is taken whomever it is for and whatever it answers.
    ResetUnbound = 16,
    /// A start forgets the revocation list.
    RevocationForgotten = 17,
    /// A head whose list is not complete makes what is known of revocations fresher.
    StalenessByWaitingHead = 18,
    /// A sync that failed counts as one that did not. Planted in the shell's loop.
    SyncErrorIgnored = 19,
    /// Every class is judged at the floor alone.
    TimeJudgedAtFloor = 20,
    /// Evaluation sees two times at once, and passes where either would.
    TwoTimeFacts = 21,
    /// The system clock is believed.
    WallClockUsed = 22,
}

impl Mutant {
    /// Every planted bug.
    pub const ALL: [Self; 22] = [
        Self::AckByAnyKey,
        Self::AncestorNotCharged,
        Self::BudgetNotCharged,
        Self::CeilingKeptAfterBoot,
        Self::ChildResetsBudget,
        Self::CounterAfterAction,
        Self::FeedPositionLowered,
        Self::FloorNotPersisted,
        Self::HintBelieved,
        Self::LateAllowGiven,
        Self::LeaseNotCharged,
        Self::ReleaseOnPuback,
        Self::RenewalDropsFirst,
        Self::ReplyBeforeCommit,
        Self::ResetRevives,
        Self::ResetUnbound,
        Self::RevocationForgotten,
        Self::StalenessByWaitingHead,
        Self::SyncErrorIgnored,
        Self::TimeJudgedAtFloor,
        Self::TwoTimeFacts,
        Self::WallClockUsed,
    ];
}

#[cfg(feature = "mutants")]
mod active {
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<u8> = const { Cell::new(0) };
    }

    /// Plants a bug in this thread, or none.
    pub fn plant(mutant: Option<super::Mutant>) {
        ACTIVE.with(|active| active.set(mutant.map_or(0, |mutant| mutant as u8)));
    }

    /// Whether a bug is planted in this thread.
    pub fn active(mutant: super::Mutant) -> bool {
        ACTIVE.with(|active| active.get() == mutant as u8)
    }
}

#[cfg(feature = "mutants")]
pub use active::{active, plant};

/// Whether a bug is planted: never, in this build.
#[cfg(not(feature = "mutants"))]
pub const fn active(_: Mutant) -> bool {
    false
}
