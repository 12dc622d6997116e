//! Planted bugs: in which world each is to be caught, and by what.
//!
//! Owns: the table, and the runs that it asks for.
//! Never: is in a build that is shipped.
//! Read next: `hardtack::mutant`, which has them; `bites.rs`, whose worlds are small.

use hardtack::mutant::{plant, Mutant};

use crate::bites;
use crate::case::Case;
use crate::exhaust::Window;
use crate::menu;
use crate::trace::Trace;
use crate::world::World;
use crate::Level;

/// Where a planted bug is to be caught, and by which property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The bug.
    pub mutant: Mutant,
    /// The world: a scenario that ships, or one of `bites.toml`.
    pub world: &'static str,
    /// The property that breaks.
    pub property: &'static str,
}

const fn row(mutant: Mutant, world: &'static str, property: &'static str) -> Row {
    Row { mutant, world, property }
}

/// Every planted bug once.
pub const TABLE: [Row; Mutant::ALL.len()] = [
    row(Mutant::AckByAnyKey, "time-reset", "I5.evidence"),
    row(Mutant::AllUnrevoked, "revoke all", "I4"),
    row(Mutant::AllowCounted, "denial-flood", "I2"),
    row(Mutant::AllowShed, "small-queue", "I2"),
    row(Mutant::AncestorNotCharged, "small-box", "box.uses"),
    row(Mutant::AnyGrantTaken, "wire.grant", "I7"),
    row(Mutant::AnswerTakesNoTime, "slow-link", "clock"),
    row(Mutant::AnsweredWhenAsked, "slow-link", "clock"),
    row(Mutant::ArgumentsUntold, "hijacked-planner", "policy"),
    row(Mutant::AuditKeyUnannounced, "week-offline-reboots", "live"),
    row(Mutant::AuditNotSealed, "hostile-broker", "I8.sealed"),
    row(Mutant::BehindUnheeded, "broker.feed leap", "I4"),
    row(Mutant::BlockUnrevoked, "revoke block", "I4"),
    row(Mutant::BootsUncounted, "boot-loop", "box.boots"),
    row(Mutant::BoxAtBeginAlone, "link.down both past a grant", "box.offline"),
    row(Mutant::BudgetNotCharged, "flappy-link", "I5.budget"),
    row(Mutant::BundleNotFollowed, "key.rotate root", "live"),
    row(Mutant::CeilingKeptAfterBoot, "clock-storm", "clock"),
    row(Mutant::ChildResetsBudget, "small-box", "I5.budget"),
    row(Mutant::CloneUnnoticed, "cloned", "detected"),
    row(Mutant::CollectorAcksFirst, "flappy-link", "I2"),
    row(Mutant::CountLostAtRoll, "denial-flood", "I2"),
    row(Mutant::CounterAfterAction, "boot-loop", "I5.budget"),
    row(Mutant::CountsShedUntold, "small-queue", "I2"),
    row(Mutant::DatedByPowered, "overnight", "I10"),
    row(Mutant::DeviceUnrevoked, "revoke device", "I4"),
    row(Mutant::DriftIgnored, "clock.drift", "clock"),
    row(Mutant::DroppedForgotten, "not-from-the-dead", "I4.dropped"),
    row(Mutant::DroppedKeyAccepted, "key-rotation-in-the-dark", "I5.position"),
    row(Mutant::DuplicateStored, "hostile-broker", "I2"),
    row(Mutant::EmergencyAheadTaken, "emergency.thief far_ahead", "emergency.ends"),
    row(Mutant::EmergencyAllUnheeded, "emergency all", "I4.emergency"),
    row(Mutant::EmergencyCounterLowered, "emergency", "I5"),
    row(Mutant::EmergencyCoveredBriefly, "emergency", "I4.emergency"),
    row(Mutant::EmergencyDeviceUnheeded, "emergency device", "I4.emergency"),
    row(Mutant::EmergencyGrantUnheeded, "emergency grant", "I4.emergency"),
    row(Mutant::EmergencyLifeUnchecked, "emergency", "emergency.ends"),
    row(Mutant::EmergencyLiftsLeftOut, "emergency", "I4.emergency"),
    row(Mutant::EmergencyLockOutlives, "emergency.thief ahead_all", "live"),
    row(Mutant::EmergencyNotWritten, "emergency", "I5"),
    row(Mutant::EmergencyOutlives, "emergency", "emergency.ends"),
    row(Mutant::EmergencyOwnerUnheeded, "emergency owner", "I4.emergency"),
    row(Mutant::EmergencyPlaceUnchecked, "broker.emergency mixed", "I5"),
    row(Mutant::EmergencyTaskUnheeded, "emergency task", "I4.emergency"),
    row(Mutant::EmergencyTwinTaken, "emergency.thief twin", "I5"),
    row(Mutant::EmergencyWipes, "emergency", "I7"),
    row(Mutant::EndedTaskNarrowed, "narrowed.misused ended", "I3"),
    row(Mutant::EndUnread, "process.stop", "live"),
    row(Mutant::EndUnnamed, "denial-flood", "I2"),
    row(Mutant::EquivocationUnnoticed, "feed-under-attack", "I5.evidence"),
    row(Mutant::EraByAnchorAlone, "anchor.copied_back", "I2"),
    row(Mutant::EraNotBumped, "boot-loop", "I2"),
    row(Mutant::FeedPositionLowered, "hostile-broker", "I5"),
    row(Mutant::FirstFeedAlone, "groups", "I4.bounded"),
    row(Mutant::FloorByLastWord, "clock-storm", "I3.floor"),
    row(Mutant::FloorNotPersisted, "boot-loop", "I5"),
    row(Mutant::ForkUntold, "cloned", "detected"),
    row(Mutant::FreshByArrival, "link.down both while heads grow old", "I4.stale"),
    row(Mutant::GapCountedComplete, "withheld", "I5.position"),
    row(Mutant::GapIgnored, "feed-under-attack", "I4"),
    row(Mutant::GapTooShort, "small-queue", "I2"),
    row(Mutant::GoneUnheeded, "narrowed", "I4.ended"),
    row(Mutant::GrantUnrevoked, "revoke grant", "I4"),
    row(Mutant::GroupUnrevoked, "revoke group", "I4"),
    row(Mutant::HalfIsFull, "small-queue", "I9.reserve"),
    row(Mutant::HandedOutUnchecked, "narrowed.misused expired", "I3"),
    row(Mutant::HintBelieved, "clock-storm", "I3"),
    row(Mutant::HoleUntold, "era.rotten", "I2"),
    row(Mutant::IdentityEndUnchecked, "hijacked-planner", "identity"),
    row(Mutant::IdentityKeyKept, "key.rotate identity", "identity"),
    row(Mutant::IdentityOutlived, "hijacked-planner", "identity"),
    row(Mutant::IssuerWaitedFor, "broker.withhold answers", "live"),
    row(Mutant::LateAllowGiven, "sleeper", "I3"),
    row(Mutant::LateAnswerUntold, "broker.delay answers", "I5.evidence"),
    row(Mutant::LeapByClaim, "broker.feed far_ahead", "I5.position"),
    row(Mutant::LeapTaken, "broker.feed fast_forward", "I5.evidence"),
    row(Mutant::LeaseEndsEmergency, "emergency", "I4.emergency"),
    row(Mutant::LeaseNotCharged, "boot-loop", "clock"),
    row(Mutant::LeftOutIsGone, "service.ahead past a grant", "I7"),
    row(Mutant::LifeUncounted, "overnight", "I3"),
    row(Mutant::LossForgotten, "file.rotten wallet forgotten", "I4.ended"),
    row(Mutant::LossUntold, "lying-disk", "I2"),
    row(Mutant::MalformedUntold, "wire.reuse", "I5.evidence"),
    row(Mutant::MovedForgets, "groups", "I4"),
    row(Mutant::MovedNotFiled, "groups", "I4.bounded"),
    row(Mutant::NamedByAnother, "flappy-link", "I11"),
    row(Mutant::NarrowedForAnybody, "narrowed.misused stolen", "I6.sibling"),
    row(Mutant::NarrowedStepUsable, "narrowed", "I5.budget"),
    row(Mutant::NeverPublishedAgain, "thrown-away", "live"),
    row(Mutant::NeverReconnects, "link.down both", "live"),
    row(Mutant::NoRoomIgnored, "disk.full", "I1"),
    row(Mutant::NewerFormatBegun, "process.downgrade begun anew", "I2"),
    row(Mutant::NewerFormatRead, "process.downgrade", "I7"),
    row(Mutant::NonceUnchecked, "broker.ack twice", "I5.evidence"),
    row(Mutant::OutcomeForAnything, "boot-loop", "I6"),
    row(Mutant::OverfullDropped, "process.upgrade", "I2"),
    row(Mutant::OversizedUntold, "broker.feed endless", "I5.evidence"),
    row(Mutant::OwnerUnrevoked, "revoke owner", "I4"),
    row(Mutant::PacketUnlimited, "wire.large", "I9"),
    row(Mutant::PendingDropped, "revocation-storm", "live"),
    row(Mutant::PlaceNotChecked, "feed-under-attack", "I5.evidence"),
    row(Mutant::PlannerActs, "planner.hijacked acts", "I6.exchange"),
    row(Mutant::PlannerUnbound, "planner.hijacked stolen", "I6.exchange"),
    row(Mutant::PositionReused, "revoked-in-the-dark", "I5.position"),
    row(Mutant::QuotaForEach, "small-queue", "I9.disk"),
    row(Mutant::ReadOnlyIgnored, "disk.readonly", "I1"),
    row(Mutant::ReleaseOnPuback, "hostile-broker", "I2"),
    row(Mutant::RenewalDropsFirst, "small-box", "I7"),
    row(Mutant::RepeatedNotCounted, "denial-flood", "I2"),
    row(Mutant::ReplyBeforeCommit, "revoked-in-the-dark", "I1"),
    row(Mutant::ReserveNotKept, "small-queue", "I10"),
    row(Mutant::ResetByAnyKey, "time.reset forged", "I5"),
    row(Mutant::ResetRevives, "time-reset", "I4.ended"),
    row(Mutant::ResetUnbound, "time-reset", "I5"),
    row(Mutant::RetriesInStep, "herd-on-heal", "herd"),
    row(Mutant::RevocationForgotten, "revoked-in-the-dark", "I5.position"),
    row(Mutant::RightUnchecked, "flappy-link", "I6"),
    row(Mutant::RootNotCompared, "feed-under-attack", "I5.position"),
    row(Mutant::RotUnnoticed, "file.rotten feed", "I5.position"),
    row(Mutant::RotUntold, "file.rotten feed untold", "I5.evidence"),
    row(Mutant::RottenEmergencyUnheeded, "file.rotten emergency", "I7"),
    row(Mutant::RottenFeedUnheeded, "file.rotten feed unheeded", "I7"),
    row(Mutant::RottenPolicyUnheeded, "file.rotten policy unheeded", "I7"),
    row(Mutant::SentIsDelivered, "link.down up", "I2"),
    row(Mutant::SerialUnrevoked, "revoke token", "I4"),
    row(Mutant::ShedUntold, "small-queue", "I2"),
    row(Mutant::ShortLossUntold, "disk.lies era, the last of it", "I2"),
    row(Mutant::SiblingAsLongAsTask, "narrowed", "I3"),
    row(Mutant::SiblingAsWideAsTask, "narrowed.misused beyond", "I6.sibling"),
    row(Mutant::SiblingForAnyWorkload, "narrowed.misused stranger", "I6.sibling"),
    row(Mutant::SiblingOutlivesTask, "narrowed.misused late", "I6.sibling"),
    row(Mutant::SiblingWidened, "narrowed.misused wider", "I6.sibling"),
    row(Mutant::SiblingsUnlimited, "narrowed.misused crowd", "I6.sibling"),
    row(Mutant::SinceIgnored, "groups", "I4.stale"),
    row(Mutant::SnapshotOfDroppedKey, "key-rotation-in-the-dark", "caught_up"),
    row(Mutant::SnapshotRollsBack, "feed-under-attack", "I5"),
    row(Mutant::SpentEraKept, "small-queue", "live"),
    row(Mutant::StalenessByWaitingHead, "withheld", "I4.stale"),
    row(Mutant::StepAsWideAsTask, "step.misused beyond", "I6.step"),
    row(Mutant::StepAtOwnPoint, "step.misused planner", "I6.step"),
    row(Mutant::StepForAnyWorkload, "step.misused stranger", "I6.step"),
    row(Mutant::StepForPlanner, "planner.hijacked itself", "I6.exchange"),
    row(Mutant::StepForUnnamed, "planner.hijacked unnamed", "I6.exchange"),
    row(Mutant::StepOfEndedTask, "planner.hijacked ended", "I6.exchange"),
    row(Mutant::StepOutlivesTask, "step.misused late", "I6.step"),
    row(Mutant::StepTakenTwice, "planner.hijacked repeated", "I6.exchange"),
    row(Mutant::StepUseForgotten, "hijacked-planner", "I6.step"),
    row(Mutant::StepUsedAgain, "step.misused again", "I6.step"),
    row(Mutant::StepWiderThanTask, "planner.hijacked wider", "I6.exchange"),
    row(Mutant::StrangerServed, "flappy-link", "I6"),
    row(Mutant::SuccessorByNewAlone, "key-rotation-in-the-dark", "live"),
    row(Mutant::SuccessorByOldAlone, "key-rotation-in-the-dark", "live"),
    row(Mutant::SyncErrorIgnored, "failing-disk", "I1"),
    row(Mutant::TailNotChecked, "tampered-tail", "I2"),
    row(Mutant::TaskLifeAsAsked, "small-box", "box.life"),
    row(Mutant::TaskUnrevoked, "revoke task", "I4"),
    row(Mutant::TimeJudgedAtFloor, "clock-storm", "I3.strict"),
    row(Mutant::TwoTimeFacts, "boot-loop", "I6.child"),
    row(Mutant::WallClockUsed, "week-offline-reboots", "I3"),
];

impl Row {
    /// The world under a seed; under its own where none is given.
    ///
    /// # Panics
    /// Where the table names a world that there is not: a test runs all.
    pub fn case(&self, seed: Option<u64>) -> Case {
        let text = self.world().0;
        Case::parse(&text, seed).unwrap_or_else(|error| panic!("{}: {error}", self.world))
    }

    fn world(&self) -> (String, Level) {
        let shipped = menu::find(self.world).map(|text| (text.to_owned(), Level::Model));
        let world = shipped.or_else(|| bites::world(self.world));
        world.unwrap_or_else(|| panic!("no world is called {:?}", self.world))
    }

    /// At which level it is caught.
    pub fn level(&self) -> Level {
        self.world().1
    }

    /// When the property breaks with the bug planted, in milliseconds since the world began, if it does. The run ends there.
    pub fn caught(&self, seed: Option<u64>) -> Option<u64> {
        let case = self.case(seed);
        plant(Some(self.mutant));
        let caught = broken(&case, self.level(), self.property);
        plant(None);
        caught
    }
}

/// When a case breaks a property at a level, in any of the runs that there are, in milliseconds since it began.
pub(crate) fn broken(case: &Case, level: Level, property: &str) -> Option<u64> {
    let run = |cut| {
        let world = World::new(case.scenario(), case.plan(), case.seed(), Trace::new(None), cut);
        level.of(world).drawn_anew(case.anew()).run_until(|tally| tally.has_broken(property))
    };
    let first = run(None);
    let since = |at: u64| at - case.scenario().start;
    if first.tally.has_broken(property) {
        return Some(since(first.ended));
    }
    let mut cuts = Window::of(case.plan()).into_iter().flat_map(|window| first.boundaries.cuts(window.device));
    cuts.find_map(|cut| {
        let outcome = run(Some(cut));
        outcome.tally.has_broken(property).then(|| since(outcome.ended))
    })
}

/// What became of a planted bug under some seeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kills {
    /// The row.
    pub row: Row,
    /// Under how many seeds it was planted: the world's own, and those after it.
    pub seeds: u64,
    /// When it was caught under each seed under which it was, soonest first, in milliseconds since the world began.
    pub times: Vec<u64>,
}

impl Kills {
    /// Plants a bug under so many seeds.
    pub fn of(row: Row, seeds: u64) -> Self {
        let own = row.case(None).seed();
        let mut times: Vec<u64> = (own..own + seeds).filter_map(|seed| row.caught(Some(seed))).collect();
        times.sort_unstable();
        Self { row, seeds, times }
    }

    /// The median of the times, of the runs in which it was caught.
    pub fn median(&self) -> Option<u64> {
        self.times.get(self.times.len().checked_sub(1)? / 2).copied()
    }
}
