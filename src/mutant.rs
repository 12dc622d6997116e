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
    /// What revokes everything revokes nothing.
    AllUnrevoked = 68,
    /// An allow that is as one before it is counted, and has no record.
    AllowCounted = 2,
    /// Allows and what is critical are given up when room is short, like denials.
    AllowShed = 3,
    /// A use is charged to the last block alone.
    AncestorNotCharged = 4,
    /// A broker's answer to a subscription is taken whether or not anybody asked.
    AnyGrantTaken = 100,
    /// The next audit key signs, and no record says so.
    AuditKeyUnannounced = 5,
    /// The way back of an acknowledgement, and that of the question, count as no time.
    AnswerTakesNoTime = 91,
    /// What an acknowledgement says of time counts from when it was asked for.
    AnsweredWhenAsked = 92,
    /// What a request says of its arguments neither the policy nor a token's checks see.
    ArgumentsUntold = 152,
    /// Audit travels open, whatever the policy asks.
    AuditNotSealed = 6,
    /// What revokes a block revokes nothing.
    BlockUnrevoked = 85,
    /// A boot without contact counts for nothing.
    BootsUncounted = 86,
    /// What a grant's box says of time and boots without contact counts when a task is begun, and at no use of it.
    BoxAtBeginAlone = 87,
    /// A decision charges no budget.
    BudgetNotCharged = 7,
    /// What a head revokes that is behind the newest counts for nothing.
    BehindUnheeded = 125,
    /// A next trust bundle is not taken.
    BundleNotFollowed = 69,
    /// The ceiling of another boot counts on.
    CeilingKeptAfterBoot = 8,
    /// A new task sets every budget back.
    ChildResetsBudget = 9,
    /// What tells a gateway that its storage was restored, or copied, counts for nothing.
    CloneUnnoticed = 66,
    /// The collector acknowledges a segment that it has not written.
    CollectorAcksFirst = 10,
    /// Denials that were counted are forgotten when an era ends.
    CountLostAtRoll = 11,
    /// A use is charged in memory, and written down with the next anchor only.
    CounterAfterAction = 12,
    /// What counts stood for that are given up for want of room is said nowhere.
    CountsShedUntold = 13,
    /// What revokes this device revokes nothing.
    DeviceUnrevoked = 70,
    /// What is made here is dated from P, where decisions look at the system clock: it is over before it is used.
    DatedByPowered = 232,
    /// The oscillator counts as exact.
    DriftIgnored = 71,
    /// A token whose bucket was dropped is judged by the clock alone.
    DroppedForgotten = 14,
    /// A head is believed whoever signed it.
    DroppedKeyAccepted = 15,
    /// A segment that comes a second time is stored a second time.
    DuplicateStored = 16,
    /// An emergency statement that is dated further ahead than time can have gone by is taken at once.
    EmergencyAheadTaken = 101,
    /// What an emergency key revokes of everything revokes nothing.
    EmergencyAllUnheeded = 102,
    /// An emergency statement of a lower counter is taken.
    EmergencyCounterLowered = 17,
    /// A rule of an emergency key is dropped beside one with as late a signed end, though that was first seen before it.
    EmergencyCoveredBriefly = 18,
    /// What an emergency key revokes of this device revokes nothing.
    EmergencyDeviceUnheeded = 103,
    /// What an emergency key revokes of a grant revokes nothing.
    EmergencyGrantUnheeded = 104,
    /// An emergency statement is taken whose rules live for longer than they may.
    EmergencyLifeUnchecked = 19,
    /// An emergency statement lifts the rules that it leaves out.
    EmergencyLiftsLeftOut = 20,
    /// An emergency key that revokes everything locks a device until the signed end, however long that takes here.
    EmergencyLockOutlives = 105,
    /// An emergency statement is acted on, and not written down.
    EmergencyNotWritten = 21,
    /// A rule of an emergency key holds until its signed end, however long that takes here.
    EmergencyOutlives = 22,
    /// What an emergency key revokes of an owner revokes nothing.
    EmergencyOwnerUnheeded = 106,
    /// A statement of an emergency key counts at whichever place it is found.
    EmergencyPlaceUnchecked = 72,
    /// What an emergency key revokes of a task revokes nothing.
    EmergencyTaskUnheeded = 107,
    /// A second statement of an emergency key under a counter that is known is taken.
    EmergencyTwinTaken = 73,
    /// An emergency rule on the device wipes its grants.
    EmergencyWipes = 23,
    /// What is narrowed need not be good for anything any more.
    EndedTaskNarrowed = 234,
    /// The end of a connection that came while the process had no time is never read, and a hello that nobody acknowledges over
    /// it is said again. Planted in the simulator's network too.
    EndUnread = 128,
    /// An era that begins because the last had grown long does not say where that one ended.
    EndUnnamed = 24,
    /// A second head of a position that is held is taken for the first.
    EquivocationUnnoticed = 25,
    /// A start counts eras on from the anchor's, whatever it finds of later ones.
    EraByAnchorAlone = 74,
    /// A start goes on under the number of the era before.
    EraNotBumped = 26,
    /// An older head is taken as if it were new.
    FeedPositionLowered = 27,
    /// A revocation that belongs to every feed is filed into the first alone.
    FirstFeedAlone = 28,
    /// What is judged at the floor is judged at the last word about it: powered-on time since then counts for nothing.
    FloorByLastWord = 89,
    /// A start forgets the floor.
    FloorNotPersisted = 29,
    /// The collector sets a branch of a trail aside, and tells no operator.
    ForkUntold = 67,
    /// A head counts as new from when it came, not from when it was signed.
    FreshByArrival = 75,
    /// A position counts as reached though additions before it are missing.
    GapCountedComplete = 30,
    /// Additions wait until those before them are here.
    GapIgnored = 31,
    /// The gap record of what was given up leaves out the last of it.
    GapTooShort = 32,
    /// What hangs on a connection lives on when that has ended.
    GoneUnheeded = 244,
    /// What revokes a grant revokes nothing.
    GrantUnrevoked = 83,
    /// What revokes a group revokes nothing.
    GroupUnrevoked = 76,
    /// Allows have no room any more when they take half of what is kept for them.
    HalfIsFull = 94,
    /// A credential whose handed-out end this agent knows no more is judged by the rest of its chain.
    HandedOutUnchecked = 235,
    /// The system clock makes decisions more lenient too.
    HintBelieved = 33,
    /// What a hole in an era lost is named where the rest of it is sent, and counted in no gap record.
    HoleUntold = 90,
    /// An identity document counts past its end.
    IdentityEndUnchecked = 153,
    /// A key of identity documents that the trust bundle names no more counts still.
    IdentityKeyKept = 155,
    /// A task that was begun with an identity document lives on when that has ended.
    IdentityOutlived = 154,
    /// Whoever begins a task waits for the issuer for as long as the connection lasts.
    IssuerWaitedFor = 108,
    /// An allow is given however long its record took. Slept through, it outlives its token.
    LateAllowGiven = 34,
    /// A head may leap as far as a publisher can have come by the time that it claims, however far ahead that lies.
    LeapByClaim = 140,
    /// A head is taken however far ahead it is, and its set is waited for.
    LeapTaken = 126,
    /// An answer that nobody waits for any more is dropped, and no record says so.
    LateAnswerUntold = 109,
    /// What a boot is charged counts as powered-on time in which a rule of an emergency key was obeyed.
    LeaseEndsEmergency = 35,
    /// A boot is not charged what was leased.
    LeaseNotCharged = 36,
    /// A grant that an answer leaves out is gone, though it may have ended by the service's clock alone.
    LeftOutIsGone = 231,
    /// What is made here lives up to its date, though the system clock that it was dated by was wrong.
    LifeUncounted = 233,
    /// What a start could not read back of a task is taken away, and nothing in its place says that it counts as ended.
    LossForgotten = 96,
    /// A start that finds records gone says nothing of them.
    LossUntold = 37,
    /// What cannot be read is dropped, and no record says so.
    MalformedUntold = 110,
    /// A device that a trust bundle moves forgets what its old feed revoked.
    MovedForgets = 38,
    /// A trust bundle moves devices, and what had been revoked for them is not filed into their new feed.
    MovedNotFiled = 39,
    /// A decision refers to the newest record that names a credential, whichever that is.
    NamedByAnother = 40,
    /// Whoever shows a credential has it narrowed.
    NarrowedForAnybody = 236,
    /// A step that was narrowed keeps its own use beside that of what took its place.
    NarrowedStepUsable = 237,
    /// What a broker threw away goes out with the next connection, and not before.
    NeverPublishedAgain = 65,
    /// A connection that is lost is not made again.
    NeverReconnects = 77,
    /// A write for which there was no room counts as one that was made.
    NoRoomIgnored = 123,
    /// A state folder in a newer format is emptied, and begun anew.
    NewerFormatBegun = 120,
    /// A state folder in a newer format is read as far as it can be, and the rest dropped.
    NewerFormatRead = 121,
    /// An acknowledgement of a nonce that is not out counts as one of none.
    NonceUnchecked = 78,
    /// A token that was allowed one thing is allowed everything.
    OutcomeForAnything = 168,
    /// A start whose audit takes more than it may drops the oldest of it, and no gap record says so.
    OverfullDropped = 122,
    /// What is larger than any message is dropped, and no record says so.
    OversizedUntold = 79,
    /// What revokes an owner revokes nothing.
    OwnerUnrevoked = 84,
    /// A packet of the broker's may be as large as the protocol allows.
    PacketUnlimited = 111,
    /// What does not fit into one head is forgotten once that head is signed.
    PendingDropped = 41,
    /// A step of the ladder is taken from any place.
    PlaceNotChecked = 42,
    /// A planner's credential does all that its task may as well.
    PlannerActs = 200,
    /// Whoever has a planner's credential may take steps with it.
    PlannerUnbound = 151,
    /// A publisher that starts goes on after whichever head it reads last, and whatever devices have seen.
    PositionReused = 43,
    /// What others take beyond their reserves takes nothing from what a class may take.
    QuotaForEach = 93,
    /// A write that a read-only file system refused counts as one that was made.
    ReadOnlyIgnored = 124,
    /// A record is released once the broker has it. The simulator says when, by a segment without content.
    ReleaseOnPuback = 44,
    /// A renewal drops the working grant before its successor is there.
    RenewalDropsFirst = 45,
    /// A denial that is as one before it has no record, and is not counted either.
    RepeatedNotCounted = 46,
    /// Replies leave before the commit. Planted in the shell's loop.
    ReplyBeforeCommit = 47,
    /// What is reserved for one class of records another one may use.
    ReserveNotKept = 48,
    /// A reset of the clock is believed whoever signed it.
    ResetByAnyKey = 112,
    /// A reset of the clock leaves tasks and counters of before as they are.
    ResetRevives = 49,
    /// A reset of the clock is taken whomever it is for and whatever it answers.
    ResetUnbound = 50,
    /// What no right of a token covers is allowed.
    RightUnchecked = 141,
    /// A start takes files as it finds them, whatever their digests and signatures say.
    RotUnnoticed = 127,
    /// What a start cannot read back is dealt with as it should be, and no record says so.
    RotUntold = 142,
    /// What an emergency key revoked counts for nothing where its file cannot be read back.
    RottenEmergencyUnheeded = 143,
    /// A feed whose set cannot be read back counts as held.
    RottenFeedUnheeded = 144,
    /// Where the policy cannot be read back, the built-in one counts in its place.
    RottenPolicyUnheeded = 145,
    /// Whoever lost its connection waits for exactly as long as all others.
    RetriesInStep = 95,
    /// A start forgets the revocation list.
    RevocationForgotten = 51,
    /// What the ladder adds up to is not held against the head's root.
    RootNotCompared = 52,
    /// A segment is released once it is sent.
    SentIsDelivered = 80,
    /// A serial that is revoked by itself counts on.
    SerialUnrevoked = 81,
    /// What was given up for want of room is counted in no gap record.
    ShedUntold = 53,
    /// A start that finds only the last few records gone takes that for what a cut leaves of a commit, and says nothing of them.
    ShortLossUntold = 147,
    /// What is narrowed lives for as long as what was shown, whatever was asked for.
    SiblingAsLongAsTask = 238,
    /// What is narrowed may do all that its task may.
    SiblingAsWideAsTask = 239,
    /// Whoever has what was narrowed may use it.
    SiblingForAnyWorkload = 240,
    /// What was narrowed counts though its task has ended.
    SiblingOutlivesTask = 241,
    /// What is narrowed of something narrow may do again what its task may.
    SiblingWidened = 242,
    /// A task has as many narrowed credentials as are asked for.
    SiblingsUnlimited = 243,
    /// A head of a feed that a device came to counts as fresh, though it was signed before that.
    SinceIgnored = 54,
    /// The broker goes on with a snapshot that a key signed which is the feed's no more.
    SnapshotOfDroppedKey = 55,
    /// A snapshot is taken though it is no newer than what is complete.
    SnapshotRollsBack = 56,
    /// An era that the collector holds goes on, however short room is.
    SpentEraKept = 169,
    /// A head whose list is not complete makes what is known of revocations fresher.
    StalenessByWaitingHead = 57,
    /// A step may do all that its task may.
    StepAsWideAsTask = 201,
    /// A planner's own word at an enforcement point's socket is proof that the executor brought the step.
    StepAtOwnPoint = 230,
    /// Whoever has a step may use it.
    StepForAnyWorkload = 202,
    /// A planner takes steps for itself.
    StepForPlanner = 203,
    /// A planner takes steps for workloads that its grant does not name.
    StepForUnnamed = 204,
    /// A task that has ended gives steps still.
    StepOfEndedTask = 205,
    /// A step counts though its task has ended.
    StepOutlivesTask = 146,
    /// A step that was taken under a key is given again under it.
    StepTakenTwice = 206,
    /// A start forgets which steps were used.
    StepUseForgotten = 149,
    /// The use of a step is charged, and nobody looks at it.
    StepUsedAgain = 148,
    /// A planner takes steps for what its task may not.
    StepWiderThanTask = 150,
    /// A credential serves whoever presents it.
    StrangerServed = 207,
    /// A trust bundle is taken that the root keys which it names have signed, whatever those before say.
    SuccessorByNewAlone = 58,
    /// A trust bundle is taken that the root keys before it have signed, whatever those that it names say.
    SuccessorByOldAlone = 59,
    /// A sync that failed counts as one that did not. Planted in the shell's loop.
    SyncErrorIgnored = 60,
    /// What no signature covers is taken as it is found.
    TailNotChecked = 61,
    /// A task that is narrowed from a grant lives for as long as it asks to.
    TaskLifeAsAsked = 88,
    /// What revokes a task revokes nothing.
    TaskUnrevoked = 82,
    /// Every class is judged at the floor alone.
    TimeJudgedAtFloor = 62,
    /// Evaluation sees two times at once, and passes where either would.
    TwoTimeFacts = 63,
    /// The system clock is believed.
    WallClockUsed = 64,
}

impl Mutant {
    /// Every planted bug.
    pub const ALL: [Self; 159] = [
        Self::AckByAnyKey,
        Self::AllUnrevoked,
        Self::AllowCounted,
        Self::AllowShed,
        Self::AncestorNotCharged,
        Self::AnyGrantTaken,
        Self::AnswerTakesNoTime,
        Self::AnsweredWhenAsked,
        Self::ArgumentsUntold,
        Self::AuditKeyUnannounced,
        Self::AuditNotSealed,
        Self::BehindUnheeded,
        Self::BlockUnrevoked,
        Self::BootsUncounted,
        Self::BoxAtBeginAlone,
        Self::BudgetNotCharged,
        Self::BundleNotFollowed,
        Self::CeilingKeptAfterBoot,
        Self::ChildResetsBudget,
        Self::CloneUnnoticed,
        Self::CollectorAcksFirst,
        Self::CountLostAtRoll,
        Self::CounterAfterAction,
        Self::CountsShedUntold,
        Self::DeviceUnrevoked,
        Self::DatedByPowered,
        Self::DriftIgnored,
        Self::DroppedForgotten,
        Self::DroppedKeyAccepted,
        Self::DuplicateStored,
        Self::EmergencyAheadTaken,
        Self::EmergencyAllUnheeded,
        Self::EmergencyCounterLowered,
        Self::EmergencyCoveredBriefly,
        Self::EmergencyDeviceUnheeded,
        Self::EmergencyGrantUnheeded,
        Self::EmergencyLifeUnchecked,
        Self::EmergencyLiftsLeftOut,
        Self::EmergencyLockOutlives,
        Self::EmergencyNotWritten,
        Self::EmergencyOutlives,
        Self::EmergencyOwnerUnheeded,
        Self::EmergencyPlaceUnchecked,
        Self::EmergencyTaskUnheeded,
        Self::EmergencyTwinTaken,
        Self::EmergencyWipes,
        Self::EndedTaskNarrowed,
        Self::EndUnread,
        Self::EndUnnamed,
        Self::EquivocationUnnoticed,
        Self::EraByAnchorAlone,
        Self::EraNotBumped,
        Self::FeedPositionLowered,
        Self::FirstFeedAlone,
        Self::FloorByLastWord,
        Self::FloorNotPersisted,
        Self::ForkUntold,
        Self::FreshByArrival,
        Self::GapCountedComplete,
        Self::GapIgnored,
        Self::GapTooShort,
        Self::GoneUnheeded,
        Self::GrantUnrevoked,
        Self::GroupUnrevoked,
        Self::HalfIsFull,
        Self::HandedOutUnchecked,
        Self::HintBelieved,
        Self::HoleUntold,
        Self::IdentityEndUnchecked,
        Self::IdentityKeyKept,
        Self::IdentityOutlived,
        Self::IssuerWaitedFor,
        Self::LateAllowGiven,
        Self::LateAnswerUntold,
        Self::LeapByClaim,
        Self::LeapTaken,
        Self::LeaseEndsEmergency,
        Self::LeaseNotCharged,
        Self::LeftOutIsGone,
        Self::LifeUncounted,
        Self::LossForgotten,
        Self::LossUntold,
        Self::MalformedUntold,
        Self::MovedForgets,
        Self::MovedNotFiled,
        Self::NamedByAnother,
        Self::NarrowedForAnybody,
        Self::NarrowedStepUsable,
        Self::NeverPublishedAgain,
        Self::NeverReconnects,
        Self::NoRoomIgnored,
        Self::NewerFormatBegun,
        Self::NewerFormatRead,
        Self::NonceUnchecked,
        Self::OutcomeForAnything,
        Self::OverfullDropped,
        Self::OversizedUntold,
        Self::OwnerUnrevoked,
        Self::PacketUnlimited,
        Self::PendingDropped,
        Self::PlaceNotChecked,
        Self::PlannerActs,
        Self::PlannerUnbound,
        Self::PositionReused,
        Self::QuotaForEach,
        Self::ReadOnlyIgnored,
        Self::ReleaseOnPuback,
        Self::RenewalDropsFirst,
        Self::RepeatedNotCounted,
        Self::ReplyBeforeCommit,
        Self::ReserveNotKept,
        Self::ResetByAnyKey,
        Self::ResetRevives,
        Self::ResetUnbound,
        Self::RetriesInStep,
        Self::RevocationForgotten,
        Self::RightUnchecked,
        Self::RootNotCompared,
        Self::RotUnnoticed,
        Self::RotUntold,
        Self::RottenEmergencyUnheeded,
        Self::RottenFeedUnheeded,
        Self::RottenPolicyUnheeded,
        Self::SentIsDelivered,
        Self::SerialUnrevoked,
        Self::ShedUntold,
        Self::ShortLossUntold,
        Self::SiblingAsLongAsTask,
        Self::SiblingAsWideAsTask,
        Self::SiblingForAnyWorkload,
        Self::SiblingOutlivesTask,
        Self::SiblingWidened,
        Self::SiblingsUnlimited,
        Self::SinceIgnored,
        Self::SnapshotOfDroppedKey,
        Self::SnapshotRollsBack,
        Self::SpentEraKept,
        Self::StalenessByWaitingHead,
        Self::StepAsWideAsTask,
        Self::StepAtOwnPoint,
        Self::StepForAnyWorkload,
        Self::StepForPlanner,
        Self::StepForUnnamed,
        Self::StepOfEndedTask,
        Self::StepOutlivesTask,
        Self::StepTakenTwice,
        Self::StepUseForgotten,
        Self::StepUsedAgain,
        Self::StepWiderThanTask,
        Self::StrangerServed,
        Self::SuccessorByNewAlone,
        Self::SuccessorByOldAlone,
        Self::SyncErrorIgnored,
        Self::TailNotChecked,
        Self::TaskLifeAsAsked,
        Self::TaskUnrevoked,
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
