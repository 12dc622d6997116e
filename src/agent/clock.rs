//! What time it can be.
//!
//! Owns: the floor E, the powered-on clock P and the ceiling L, how signed statements and nonce round trips move them,
//! the lease that makes a reboot cost the holder, and up to when each time class honours a token.
//! Never: reads a clock; lets the system clock make anything later than it is proven to be, or more lenient; moves E
//! back, but for a reset by the root keys; pays the holder for a reboot.
//! Read next: `decide.rs`, which judges tokens between E and P.
//!
//! E <= true time. L >= true time, finite only after a nonce round trip in this boot. P is what time it would be had the
//! device never been switched off since it was last told.

use crate::ids::BootId;
use crate::mutant::{active, Mutant};
use crate::profile::{Hint, TimeLimits};
use crate::time::{Millis, Timestamp};
use crate::wire::policy::TimeClass;
use crate::wire::Refused;

use super::effects::Anchor;

/// The nonce of a time reset is good for this long: long enough for a person who carries a file.
pub const RESET_LIFE: Millis = Millis::from_secs(24 * 3600);

/// Who signed a statement about time. Two roles that agree are more than one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A feed key: revocation heads.
    Feed,
    /// A policy key.
    Policy,
    /// A threshold of root keys: trust bundles.
    Root,
    /// A service key: acknowledgements.
    Service,
}

impl Role {
    /// The name in JSON and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Policy => "policy",
            Self::Root => "root",
            Self::Service => "service",
        }
    }
}

/// Two roles agree when their statements lie this close together.
const AGREEMENT: Millis = Millis::from_secs(24 * 3600);

/// How the clock stands: what the life of a credential that was made here is held against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stand {
    /// This boot of the kernel.
    pub boot: BootId,
    /// P.
    pub powered: Timestamp,
    /// P without corrections upwards: powered-on time, and what boots were charged. With the corrections downwards that the
    /// wallet sums up, nothing but running and rebooting moves it.
    pub spent: Timestamp,
    /// E in whole seconds: what ended before this is over.
    pub over: Timestamp,
}

/// The trusted clock of one boot.
#[derive(Debug, Clone)]
pub struct TrustedClock {
    limits: TimeLimits,
    boot: BootId,
    /// CLOCK_BOOTTIME that the values below are true at.
    at: Millis,
    /// What they were when something other than time last moved them. They are reckoned from there: added up millisecond
    /// by millisecond, roundings would make P run and E stand still under load.
    base: Base,
    floor: Timestamp,
    powered: Timestamp,
    ceiling: Option<Timestamp>,
    lease: Timestamp,
    jump_left: Millis,
    synced: Timestamp,
    boots: u32,
    /// A jump past the allowance, waiting for a second role.
    waiting: Option<(Role, Timestamp)>,
    /// The last statement that was taken, and whose it was.
    last: Option<(Role, Timestamp)>,
    /// What the system clock shows.
    hint: Option<Timestamp>,
    /// By how much the last round trip of this start proved E to be ahead.
    ahead: Option<Millis>,
    /// The sum of all corrections of P upwards, and of what leases charged at boots,
    raised: Millis,
    /// and of these charges alone.
    charged: Millis,
}

#[derive(Debug, Clone, Copy, Default)]
struct Base {
    at: Millis,
    floor: Timestamp,
    powered: Timestamp,
    ceiling: Option<Timestamp>,
}

/// How the system clock stands to what is proven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HintStanding {
    /// It lies before the floor: it cannot be right.
    Behind,
    /// It shows nothing, or a time before 1970.
    None,
    /// It lies where the time can be.
    Possible,
    /// It lies past the ceiling: it cannot be right.
    Past,
}

impl HintStanding {
    /// The name in JSON and for people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Behind => "behind",
            Self::None => "none",
            Self::Possible => "possible",
            Self::Past => "past",
        }
    }
}

/// Where the signed time of something lies that is no word about time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placed {
    /// Further past P than time is believed to jump: nobody knows yet.
    Ahead,
    /// Past a finite ceiling: it cannot be true.
    PastCeiling,
    /// It may be true.
    Possible,
}

/// Between which times it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Between {
    /// E in whole seconds: what ended before this is over.
    pub floor: Timestamp,
    /// No honest statement is signed later than this.
    pub latest: Timestamp,
}

impl Between {
    /// It is `floor` or later, and nothing says how much.
    pub fn from(floor: Timestamp) -> Self {
        Self { floor, latest: Timestamp(u64::MAX) }
    }
}

/// What a statement about time led to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heard {
    /// E stands where it stood, or took the time.
    Taken,
    /// The jump is past the allowance: it waits for a second role.
    Waiting,
}

impl TrustedClock {
    /// The clock at a start. In the boot that the anchor was written in it goes on exactly; in another, P starts where
    /// its lease ended, L is infinite and one more boot counts.
    pub fn start(limits: TimeLimits, anchor: &Anchor, boot: BootId, now: Millis) -> Self {
        let mut clock = Self {
            boot,
            at: anchor.boottime,
            base: Base::default(),
            floor: if crate::mutant::active(crate::mutant::Mutant::FloorNotPersisted) {
                Timestamp(0)
            } else {
                anchor.floor
            },
            powered: anchor.powered.max(anchor.floor),
            ceiling: anchor.ceiling,
            lease: anchor.powered_lease,
            jump_left: anchor.jump_left,
            synced: anchor.synced,
            boots: anchor.boots,
            waiting: None,
            last: None,
            hint: None,
            ahead: None,
            raised: anchor.raised,
            charged: anchor.charged,
            limits,
        };
        if anchor.boot == Some(boot) && now >= anchor.boottime {
            clock.rebase();
            clock.advance(now);
        } else {
            clock.at = now;
            if !crate::mutant::active(crate::mutant::Mutant::LeaseNotCharged) {
                // Tokens are charged with the whole of it. Nobody knows how much of it went by: what is to last for so much
                // powered-on time must not end because somebody holds the switch.
                let charged = anchor.powered_lease.since(clock.powered);
                clock.powered = clock.powered + charged;
                clock.charged = Millis(clock.charged.0.saturating_add(charged.0));
                if !crate::mutant::active(crate::mutant::Mutant::LeaseEndsEmergency) {
                    clock.raised = Millis(clock.raised.0.saturating_add(charged.0));
                }
            }
            clock.ceiling =
                anchor.ceiling.filter(|_| crate::mutant::active(crate::mutant::Mutant::CeilingKeptAfterBoot));
            let counts = anchor.boot.is_some() && !crate::mutant::active(crate::mutant::Mutant::BootsUncounted);
            clock.boots = anchor.boots.saturating_add(u32::from(counts));
            clock.rebase();
        }
        clock
    }

    /// The values are reckoned from here on.
    fn rebase(&mut self) {
        self.base = Base { at: self.at, floor: self.floor, powered: self.powered, ceiling: self.ceiling };
    }

    /// A device that knows nothing yet but one signed time: what enrolment writes.
    pub fn enrolled(limits: &TimeLimits, signed: Timestamp) -> (Timestamp, Millis) {
        (signed - Millis(limits.issuer_error_ms), Millis::from_secs(limits.jump_allowance_days * 86_400))
    }

    /// Brings all three clocks to `now`. CLOCK_BOOTTIME never goes back within a boot; where it seems to, nothing moves.
    pub fn advance(&mut self, now: Millis) {
        self.at = self.at.max(now);
        let elapsed = Millis(self.at.0.saturating_sub(self.base.at.0));
        let ppm = if crate::mutant::active(crate::mutant::Mutant::DriftIgnored) { 0 } else { self.limits.drift_ppm };
        self.floor = self.base.floor + elapsed.slowed(ppm);
        self.powered = (self.base.powered + elapsed.stretched(ppm)).max(self.floor);
        self.ceiling = self.base.ceiling.map(|ceiling| ceiling + elapsed.stretched(ppm.saturating_mul(2)));
    }

    /// E had come this far, at some time before now.
    pub fn recall(&mut self, proven: Timestamp) {
        self.floor = self.floor.max(proven);
        self.correct(self.powered.max(self.floor));
    }

    /// P is this from now on, though no time went by.
    fn correct(&mut self, to: Timestamp) {
        self.raised = Millis(self.raised.0.saturating_add(to.since(self.powered).0));
        self.powered = to;
        self.rebase();
    }

    /// Whether more was heard since then than time that went by.
    pub fn differs(&self, before: &Self) -> bool {
        let moved = self.floor.since(before.floor) >= Millis::from_secs(1);
        moved || self.ceiling != before.ceiling || self.waiting != before.waiting || self.jump_left < before.jump_left
    }

    /// The system clock shows this. It is never kept and never raises E or P.
    pub fn hint(&mut self, wall: Option<Timestamp>) {
        self.hint = wall;
    }

    /// What the system clock shows.
    pub fn hinted(&self) -> Option<Timestamp> {
        self.hint
    }

    /// How the system clock stands to what is proven.
    pub fn hint_standing(&self) -> HintStanding {
        match self.hint {
            None => HintStanding::None,
            Some(hint) if hint < self.floor => HintStanding::Behind,
            Some(hint) if self.ceiling.is_some_and(|ceiling| hint > ceiling) => HintStanding::Past,
            Some(_) => HintStanding::Possible,
        }
    }

    /// The latest that it can be for a class, in the whole seconds that Biscuit counts: E rounded down, P and L up. None
    /// if nothing bounds it. A token must be good up to here.
    pub fn upper(&self, class: TimeClass) -> Option<Timestamp> {
        let up = |time: Timestamp| Timestamp::from_secs(time.secs_ceil());
        let class =
            if crate::mutant::active(crate::mutant::Mutant::TimeJudgedAtFloor) { TimeClass::Floor } else { class };
        match class {
            TimeClass::Floor if crate::mutant::active(crate::mutant::Mutant::FloorByLastWord) => {
                Some(Timestamp::from_secs(self.base.floor.secs_floor()))
            }
            TimeClass::Floor => Some(self.over()),
            TimeClass::Bounded => Some(up(self.tightened())),
            TimeClass::Strict => self.ceiling.map(up),
        }
    }

    /// P, or the system clock where that is later: it may know how long the device was off. What is proven to be past
    /// counts for nothing, so that a clock that runs wild harms nobody who is in touch. What is dated from here is good at
    /// once, and may be good for longer than it should: see `wallet::Life`.
    pub fn tightened(&self) -> Timestamp {
        let hint = match self.limits.hint {
            Hint::Ignore => None,
            Hint::Tighten => self.hint.map(|hint| self.ceiling.map_or(hint, |ceiling| hint.min(ceiling))),
        };
        match hint {
            Some(hint) if crate::mutant::active(crate::mutant::Mutant::HintBelieved) => hint,
            Some(hint) => hint.max(self.powered),
            None => self.powered,
        }
    }

    /// The floor E.
    pub fn floor(&self) -> Timestamp {
        self.floor
    }

    /// E in the whole seconds that tokens count, rounded down: what ended before this is over in every class.
    pub fn over(&self) -> Timestamp {
        Timestamp::from_secs(self.floor.secs_floor())
    }

    /// How it stands.
    pub fn stand(&self) -> Stand {
        let corrected = Millis(self.raised.0.saturating_sub(self.charged.0));
        Stand { boot: self.boot, powered: self.powered, spent: self.powered - corrected, over: self.over() }
    }

    /// The powered-on clock P.
    pub fn powered(&self) -> Timestamp {
        self.powered
    }

    /// The sum of all corrections of P upwards and of what leases charged at boots, for the anchor. No powered-on time went by
    /// in the first, and nobody knows how much in the second.
    pub fn raised(&self) -> Millis {
        self.raised
    }

    /// The sum of what leases charged at boots, for the anchor.
    pub fn charged(&self) -> Millis {
        self.charged
    }

    /// The ceiling L, none while it is infinite.
    pub fn ceiling(&self) -> Option<Timestamp> {
        self.ceiling
    }

    /// Up to where P is leased.
    pub fn lease(&self) -> Timestamp {
        self.lease
    }

    /// What is left of the allowance for jumps.
    pub fn jump_left(&self) -> Millis {
        self.jump_left
    }

    /// P at the last acknowledged round trip.
    pub fn synced(&self) -> Timestamp {
        self.synced
    }

    /// Powered-on time since the last acknowledged round trip.
    pub fn offline_for(&self) -> Millis {
        self.powered.since(self.synced)
    }

    /// Kernel boots since the last acknowledged round trip.
    pub fn boots(&self) -> u32 {
        self.boots
    }

    /// Whether the lease must be renewed: a tenth of it is left. What is decided past its end is in the same commit as the
    /// new lease, so lateness costs nothing but a wait for the disk.
    pub fn lease_due(&self) -> bool {
        self.powered + self.limits.lease_margin() >= self.lease
    }

    /// How long until [`TrustedClock::lease_due`].
    pub fn lease_due_in(&self) -> Millis {
        let due = self.lease - self.limits.lease_margin();
        due.since(self.powered)
    }

    /// Leases P ahead. The anchor that holds the new lease must be durable before P is used past the old one.
    pub fn renew_lease(&mut self) {
        self.lease = self.powered + self.limits.lease();
    }

    /// A signed statement that it is `time` or later.
    ///
    /// # Errors
    /// [`Refused::PostDated`] when it lies past a finite ceiling. The ceiling is then infinite: one of the two lies, and
    /// the next round trip tells.
    pub fn hear(&mut self, role: Role, time: Timestamp) -> Result<Heard, Refused> {
        let proven = time - Millis(self.limits.issuer_error_ms);
        if self.ceiling.is_some_and(|ceiling| proven > ceiling) {
            self.ceiling = None;
            self.rebase();
            return Err(Refused::PostDated);
        }
        // Far below what is proven it says nothing: neither that two roles agree, nor that a jump was wrong.
        if proven + AGREEMENT < self.floor {
            return Ok(Heard::Taken);
        }
        let agreed = self.last.is_some_and(|(other, at)| other != role && distance(at, time) <= AGREEMENT);
        let jump = proven.since(self.floor);
        if jump > self.jump_left && !agreed {
            return Ok(match self.waiting {
                Some((other, waiting)) if other != role => {
                    self.take(role, waiting.min(proven), time);
                    self.restore_allowance();
                    Heard::Taken
                }
                Some(_) | None => {
                    self.waiting = Some((role, proven));
                    Heard::Waiting
                }
            });
        }
        self.jump_left = Millis(self.jump_left.0.saturating_sub(jump.0));
        if agreed {
            self.restore_allowance();
        }
        self.take(role, proven, time);
        Ok(Heard::Taken)
    }

    fn take(&mut self, role: Role, proven: Timestamp, time: Timestamp) {
        if proven > self.floor {
            self.floor = proven;
            self.correct(self.powered.max(self.floor));
        }
        self.last = Some((role, time));
        self.waiting = None;
    }

    fn restore_allowance(&mut self) {
        self.jump_left = Millis::from_secs(self.limits.jump_allowance_days * 86_400);
    }

    /// Where the time of something lies that a key signed which tells no time. It moves nothing.
    pub fn place(&self, signed: Timestamp) -> Placed {
        match self.ceiling {
            Some(_) | None if signed <= self.between().latest => Placed::Possible,
            Some(_) => Placed::PastCeiling,
            None => Placed::Ahead,
        }
    }

    /// Between E and the latest that can have been signed by now: L, or P and the allowance where L is infinite, and the
    /// error of whoever signs.
    pub fn between(&self) -> Between {
        let allowance = Millis::from_secs(self.limits.jump_allowance_days * 86_400);
        let latest = self.ceiling.unwrap_or(self.powered + allowance);
        Between { floor: self.over(), latest: latest + Millis(self.limits.issuer_error_ms) }
    }

    /// A nonce that was sent at `sent` came back now in an acknowledgement that says it is `time`, give or take `radius`.
    /// Returns by how much P was corrected down.
    ///
    /// # Errors
    /// [`Refused::PostDated`] as [`TrustedClock::hear`].
    pub fn round_trip(
        &mut self,
        time: Timestamp,
        radius: Millis,
        sent: Millis,
        now: Millis,
    ) -> Result<Millis, Refused> {
        self.advance(now);
        let mut trip = Millis(now.0.saturating_sub(sent.0)).stretched(self.limits.drift_ppm.saturating_mul(2));
        let on_its_way = if active(Mutant::AnsweredWhenAsked) { trip } else { Millis(0) };
        self.hear(Role::Service, time - radius + on_its_way)?;
        if active(Mutant::AnswerTakesNoTime) {
            trip = Millis(0);
        }
        let ceiling = time + radius + trip + Millis(self.limits.issuer_error_ms);
        self.ahead = Some(self.floor.since(ceiling)).filter(|ahead| *ahead > Millis(0));
        let ceiling = self.ceiling.map_or(ceiling, |known| known.min(ceiling)).max(self.floor);
        self.ceiling = Some(ceiling);
        // Down where boots had cost more than they should, up where the device was off for longer than it could know.
        let correction = self.powered.since(ceiling);
        self.correct(ceiling);
        self.synced = self.powered;
        self.boots = 0;
        Ok(correction)
    }

    /// A threshold of root keys says what time it is, in answer to a nonce that was made at `asked`. The only way back.
    /// It is no contact with the fleet: time offline and boots stay spent. Returns by how much P went down.
    pub fn reset(&mut self, time: Timestamp, radius: Millis, asked: Millis, now: Millis) -> Millis {
        self.advance(now);
        let (before, offline) = (self.powered, self.offline_for());
        let waited = Millis(now.0.saturating_sub(asked.0)).stretched(self.limits.drift_ppm.saturating_mul(2));
        let error = Millis(self.limits.issuer_error_ms);
        self.floor = time - radius - error;
        let ceiling = time + radius + error + waited;
        self.ceiling = Some(ceiling);
        self.correct(ceiling);
        self.synced = ceiling - offline;
        self.waiting = None;
        self.ahead = None;
        self.last = Some((Role::Root, time));
        self.restore_allowance();
        self.renew_lease();
        before.since(self.powered)
    }

    /// By how much E is ahead of what the fleet says it is, as the last round trip of this start proved. E does not go back
    /// for that: only a reset by the root keys takes it back.
    pub fn ahead(&self) -> Option<Millis> {
        self.ahead
    }

    /// A jump that waits for a second role: who signed it, and up to when E would go.
    pub fn waiting(&self) -> Option<(Role, Timestamp)> {
        self.waiting
    }

    /// The last signed statement that was taken.
    pub fn last(&self) -> Option<(Role, Timestamp)> {
        self.last
    }

    /// The most that the oscillator is off, in parts per million.
    pub fn drift_ppm(&self) -> u32 {
        self.limits.drift_ppm
    }

    /// Whether E has taken a signed time: only then does what was signed at it count as that new.
    pub fn has_taken(&self, signed: Timestamp) -> bool {
        signed - Millis(self.limits.issuer_error_ms) <= self.floor
    }

    /// P as a planted bug would have it: whatever the system clock says.
    #[cfg(feature = "mutants")]
    pub fn believe(&mut self, wall: Timestamp) {
        self.powered = wall;
        self.floor = wall;
        self.rebase();
    }
}

fn distance(a: Timestamp, b: Timestamp) -> Millis {
    Millis(a.0.abs_diff(b.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    const DAY: u64 = 86_400;

    fn anchor(boot: u8, at_s: u64, floor_s: u64, powered_s: u64) -> Anchor {
        Anchor {
            boot: Some(BootId([boot; 16])),
            boottime: Millis::from_secs(at_s),
            floor: Timestamp::from_secs(floor_s),
            powered: Timestamp::from_secs(powered_s),
            powered_lease: Timestamp::from_secs(powered_s + 60),
            jump_left: Millis::from_secs(30 * DAY),
            ..Anchor::default()
        }
    }

    fn start(anchor: &Anchor, boot: u8, now_s: u64) -> TrustedClock {
        TrustedClock::start(Profile::default().time, anchor, BootId([boot; 16]), Millis::from_secs(now_s))
    }

    #[test]
    fn a_restart_goes_on_exactly_and_a_boot_costs_the_lease() {
        let same = start(&anchor(1, 100, 1_000_000, 1_000_500), 1, 200);
        assert_eq!(same.powered().secs_floor(), 1_000_600);
        assert_eq!(same.boots(), 0);
        let other = start(&anchor(1, 100, 1_000_000, 1_000_500), 2, 5);
        assert_eq!(other.powered(), Timestamp::from_secs(1_000_560));
        assert_eq!(other.floor(), Timestamp::from_secs(1_000_000));
        assert_eq!(other.boots(), 1);
        assert_eq!(other.ceiling(), None);
    }

    /// As many boots as would end a rule of 72 h, were they charged to it.
    #[test]
    fn what_boots_cost_a_token_is_no_powered_on_time() {
        let begun = Timestamp::from_secs(1_000_000);
        let (limits, boots) = (Profile::default().time, 4400);
        let mut at = anchor(0, 0, 1_000_000, 1_000_000);
        for boot in 1..=boots {
            let id = BootId(u128::from(boot).to_be_bytes());
            let mut clock = TrustedClock::start(limits.clone(), &at, id, Millis(0));
            clock.advance(Millis::from_secs(1));
            clock.renew_lease();
            let (powered, powered_lease, raised) = (clock.powered(), clock.lease(), clock.raised());
            at = Anchor { boot: Some(id), boottime: clock.at, powered, powered_lease, raised, ..at };
        }
        assert!(at.powered.since(begun) >= Millis::from_secs(boots * 61), "each is charged with a lease");
        let powered_on = (at.powered - at.raised).since(begun);
        assert!((boots..boots + 10).contains(&powered_on.secs()), "{} s", powered_on.secs());
    }

    #[test]
    fn a_round_trip_sets_the_ceiling_and_takes_p_back_to_it() {
        let mut clock = start(&anchor(1, 0, 1_000_000, 1_090_000), 1, 0);
        let trip =
            clock.round_trip(Timestamp::from_secs(1_050_000), Millis(500), Millis::from_secs(1), Millis::from_secs(2));
        assert!(trip.unwrap().secs() > 39_990);
        let ceiling = clock.ceiling().unwrap();
        assert_eq!(clock.powered(), ceiling);
        assert!(ceiling >= Timestamp::from_secs(1_050_001) && ceiling < Timestamp::from_secs(1_050_005));
        assert!(clock.floor() >= Timestamp::from_secs(1_049_997) && clock.floor() <= ceiling);
    }

    #[test]
    fn whatever_takes_p_up_is_told_from_time_that_went_by() {
        let mut clock = start(&anchor(1, 0, 1_000_000, 1_000_000), 1, 0);
        clock.advance(Millis::from_secs(100));
        assert_eq!(clock.raised(), Millis(0));
        let powered_on = |clock: &TrustedClock| clock.powered() - clock.raised();
        let before = powered_on(&clock);
        clock.hear(Role::Feed, Timestamp::from_secs(1_400_000)).unwrap();
        assert_eq!(powered_on(&clock), before);
        clock.round_trip(Timestamp::from_secs(1_500_000), Millis(0), clock.at, clock.at).unwrap();
        assert_eq!(powered_on(&clock), before);
        clock.reset(Timestamp::from_secs(1_600_000), Millis(0), clock.at, clock.at);
        clock.recall(Timestamp::from_secs(1_700_000));
        assert_eq!(powered_on(&clock), before);
        let anchor = Anchor { raised: clock.raised(), ..anchor(1, 100, 1_700_000, 1_700_000) };
        let restarted = powered_on(&start(&anchor, 1, 200));
        assert_eq!(restarted.secs_floor(), before.secs_floor() + 100);
    }

    #[test]
    fn a_floor_that_is_proven_ahead_is_told_and_stays_until_a_reset() {
        let mut clock = start(&anchor(1, 0, 2_000_000, 2_000_000), 1, 0);
        clock.round_trip(Timestamp::from_secs(1_000_000), Millis(0), Millis(0), Millis(10)).unwrap();
        assert!(clock.ahead().unwrap().secs() > 999_990);
        assert_eq!((clock.floor(), clock.ceiling()), (clock.powered(), Some(clock.floor())));
        assert!(clock.floor() >= Timestamp::from_secs(2_000_000));
        clock.reset(Timestamp::from_secs(1_000_000), Millis(0), Millis(10), Millis(20));
        assert_eq!(clock.ahead(), None);
        clock.round_trip(Timestamp::from_secs(1_000_000), Millis(0), Millis(20), Millis(30)).unwrap();
        assert_eq!(clock.ahead(), None);
    }

    #[test]
    fn a_time_past_the_ceiling_is_a_contradiction() {
        let mut clock = start(&anchor(1, 0, 1_000_000, 1_000_000), 1, 0);
        clock.round_trip(Timestamp::from_secs(1_000_010), Millis(0), Millis(0), Millis(10)).unwrap();
        assert_eq!(clock.hear(Role::Feed, Timestamp::from_secs(1_000_100)), Err(Refused::PostDated));
        assert_eq!(clock.ceiling(), None);
        assert!(clock.floor() < Timestamp::from_secs(1_000_020));
    }

    #[test]
    fn many_small_steps_come_to_one_long_one() {
        let limits = Profile::default().time;
        let begin = || start(&anchor(1, 0, 1_000_000, 1_000_000), 1, 0);
        let (mut often, mut once) = (begin(), begin());
        (1..=100_000).for_each(|ms| often.advance(Millis(ms)));
        once.advance(Millis(100_000));
        assert_eq!((often.floor(), often.powered()), (once.floor(), once.powered()));
        assert!(often.powered().since(often.floor()) <= Millis(2 * 100_000 * u64::from(limits.drift_ppm) / 1_000_000));
    }

    #[test]
    fn a_long_jump_waits_for_a_second_role() {
        let mut clock = start(&anchor(1, 0, 1_000_000, 1_000_000), 1, 0);
        let far = Timestamp::from_secs(1_000_000 + 90 * DAY);
        assert_eq!(clock.hear(Role::Feed, far), Ok(Heard::Waiting));
        assert_eq!(clock.hear(Role::Feed, far), Ok(Heard::Waiting), "the same role again is no second role");
        assert_eq!(clock.floor(), Timestamp::from_secs(1_000_000));
        assert_eq!(clock.hear(Role::Service, far), Ok(Heard::Taken));
        assert!(clock.floor() >= far - Millis(2000));
    }

    #[test]
    fn small_jumps_of_one_role_add_up() {
        let mut clock = start(&anchor(1, 0, 1_000_000, 1_000_000), 1, 0);
        let at = |days: u64| Timestamp::from_secs(1_000_000 + days * DAY);
        assert_eq!(clock.hear(Role::Feed, at(20)), Ok(Heard::Taken));
        assert_eq!(clock.hear(Role::Feed, at(40)), Ok(Heard::Waiting));
    }
}
