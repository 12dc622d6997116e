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
    /// Allows and what is critical are given up when room is short, like denials.
    AllowShed = 49,
    /// A use is charged to the last block alone.
    AncestorNotCharged = 2,
    /// The next audit key signs, and no record says so.
    AuditKeyUnannounced = 3,
    /// Audit travels open, whatever the policy asks.
    AuditNotSealed = 4,
    /// A decision charges no budget.
    BudgetNotCharged = 5,
    /// The ceiling of another boot counts on.
    CeilingKeptAfterBoot = 6,
    /// A new task sets every budget back.
    ChildResetsBudget = 7,
    /// A use is charged in memory, and written down with the next anchor only.
    CounterAfterAction = 8,
    /// A token whose bucket was dropped is judged by the clock alone.
    DroppedForgotten = 9,
    /// A head is believed whoever signed it.
    DroppedKeyAccepted = 10,
    /// An emergency statement of a lower counter is taken.
    EmergencyCounterLowered = 11,
    /// An emergency statement is taken whose rules live for longer than they may.
    EmergencyLifeUnchecked = 12,
    /// An emergency statement lifts the rules that it leaves out.
    EmergencyLiftsLeftOut = 13,
    /// An emergency statement is acted on, and not written down.
    EmergencyNotWritten = 14,
    /// A rule of an emergency key holds until its signed end, however long that takes here.
    EmergencyOutlives = 15,
    /// An emergency rule on the device wipes its grants.
    EmergencyWipes = 16,
    /// A second head of a position that is held is taken for the first.
    EquivocationUnnoticed = 17,
    /// An older head is taken as if it were new.
    FeedPositionLowered = 18,
    /// A revocation that belongs to every feed is filed into the first alone.
    FirstFeedAlone = 19,
    /// A start forgets the floor.
    FloorNotPersisted = 20,
    /// A position counts as reached though additions before it are missing.
    GapCountedComplete = 21,
    /// Additions wait until those before them are here.
    GapIgnored = 22,
    /// The gap record of what was given up leaves out the last of it.
    GapTooShort = 50,
    /// The system clock makes decisions more lenient too.
    HintBelieved = 23,
    /// An allow is given however long its record took. Slept through, it outlives its token.
    LateAllowGiven = 24,
    /// A boot is not charged what was leased.
    LeaseNotCharged = 25,
    /// A device that a trust bundle moves forgets what its old feed revoked.
    MovedForgets = 26,
    /// A trust bundle moves devices, and what had been revoked for them is not filed into their new feed.
    MovedNotFiled = 27,
    /// A decision refers to the newest record that names a credential, whichever that is.
    NamedByAnother = 28,
    /// What does not fit into one head is forgotten once that head is signed.
    PendingDropped = 29,
    /// A step of the ladder is taken from any place.
    PlaceNotChecked = 30,
    /// A publisher that starts goes on after whichever head it reads last, and whatever devices have seen.
    PositionReused = 31,
    /// A record is released once the broker has it. The simulator says when, by a segment without content.
    ReleaseOnPuback = 32,
    /// A renewal drops the working grant before its successor is there.
    RenewalDropsFirst = 33,
    /// Replies leave before the commit. Planted in the shell's loop.
    ReplyBeforeCommit = 34,
    /// What is reserved for one class of records another one may use.
    ReserveNotKept = 51,
    /// A reset of the clock leaves tasks and counters of before as they are.
    ResetRevives = 35,
    /// A reset of the clock is taken whomever it is for and whatever it answers.
    ResetUnbound = 36,
    /// A start forgets the revocation list.
    RevocationForgotten = 37,
    /// What the ladder adds up to is not held against the head's root.
    RootNotCompared = 38,
    /// What was given up for want of room is counted in no gap record.
    ShedUntold = 52,
    /// A head of a feed that a device came to counts as fresh, though it was signed before that.
    SinceIgnored = 39,
    /// The broker goes on with a snapshot that a key signed which is the feed's no more.
    SnapshotOfDroppedKey = 40,
    /// A snapshot is taken though it is no newer than what is complete.
    SnapshotRollsBack = 41,
    /// A head whose list is not complete makes what is known of revocations fresher.
    StalenessByWaitingHead = 42,
    /// A trust bundle is taken that the root keys which it names have signed, whatever those before say.
    SuccessorByNewAlone = 43,
    /// A trust bundle is taken that the root keys before it have signed, whatever those that it names say.
    SuccessorByOldAlone = 44,
    /// A sync that failed counts as one that did not. Planted in the shell's loop.
    SyncErrorIgnored = 45,
    /// Every class is judged at the floor alone.
    TimeJudgedAtFloor = 46,
    /// Evaluation sees two times at once, and passes where either would.
    TwoTimeFacts = 47,
    /// The system clock is believed.
    WallClockUsed = 48,
}

impl Mutant {
    /// Every planted bug.
    pub const ALL: [Self; 52] = [
        Self::AckByAnyKey,
        Self::AllowShed,
        Self::AncestorNotCharged,
        Self::AuditKeyUnannounced,
        Self::AuditNotSealed,
        Self::BudgetNotCharged,
        Self::CeilingKeptAfterBoot,
        Self::ChildResetsBudget,
        Self::CounterAfterAction,
        Self::DroppedForgotten,
        Self::DroppedKeyAccepted,
        Self::EmergencyCounterLowered,
        Self::EmergencyLifeUnchecked,
        Self::EmergencyLiftsLeftOut,
        Self::EmergencyNotWritten,
        Self::EmergencyOutlives,
        Self::EmergencyWipes,
        Self::EquivocationUnnoticed,
        Self::FeedPositionLowered,
        Self::FirstFeedAlone,
        Self::FloorNotPersisted,
        Self::GapCountedComplete,
        Self::GapIgnored,
        Self::GapTooShort,
        Self::HintBelieved,
        Self::LateAllowGiven,
        Self::LeaseNotCharged,
        Self::MovedForgets,
        Self::MovedNotFiled,
        Self::NamedByAnother,
        Self::PendingDropped,
        Self::PlaceNotChecked,
        Self::PositionReused,
        Self::ReleaseOnPuback,
        Self::RenewalDropsFirst,
        Self::ReplyBeforeCommit,
        Self::ReserveNotKept,
        Self::ResetRevives,
        Self::ResetUnbound,
        Self::RevocationForgotten,
        Self::RootNotCompared,
        Self::ShedUntold,
        Self::SinceIgnored,
        Self::SnapshotOfDroppedKey,
        Self::SnapshotRollsBack,
        Self::StalenessByWaitingHead,
        Self::SuccessorByNewAlone,
        Self::SuccessorByOldAlone,
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
