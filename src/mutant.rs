//! Planted bugs, for the simulator to prove that its checkers catch them.
//!
//! Owns: which bug is active in a build with the feature `mutants`.
//! Never: exists in a build that is shipped: without the feature every question is answered `false` at compile time.
//! Read next: the simulator's mutants test.

/// A planted bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mutant {
    /// A decision charges no budget.
    BudgetNotCharged = 1,
    /// An older head is taken as if it were new.
    FeedPositionLowered = 2,
    /// A record is released once the broker has it.
    ReleaseOnPuback = 3,
    /// Replies leave before the commit. Planted in the shell's loop.
    ReplyBeforeCommit = 4,
    /// A start forgets the revocation list.
    RevocationForgotten = 5,
    /// The system clock is believed.
    WallClockUsed = 6,
}

impl Mutant {
    /// Every planted bug.
    pub const ALL: [Self; 6] = [
        Self::BudgetNotCharged,
        Self::FeedPositionLowered,
        Self::ReleaseOnPuback,
        Self::ReplyBeforeCommit,
        Self::RevocationForgotten,
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
