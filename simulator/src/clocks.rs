//! A gateway's clocks over true time.
//!
//! Owns: the oscillator's error, the kernel's boots with their CLOCK_BOOTTIME, the wall clock with its jumps and the
//! battery behind it, and how long the gateway has been powered in true time with an agent on it.
//! Never: tells an agent the true time. That is the oracle's.
//! Read next: `device.rs`.

use hardtack::agent::Now;
use hardtack::ids::BootId;
use hardtack::time::{Millis, Timestamp};
use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use crate::fault::WallAfter;

/// True time when a simulation starts: 2026-03-01T00:00:00Z.
pub(crate) const START: Timestamp = Timestamp::from_secs(1_772_323_200);

/// The true date of a moment, given in milliseconds since the start.
pub(crate) fn date(at: u64) -> Timestamp {
    START + Millis(at)
}

/// The clocks of one gateway.
#[derive(Debug, Clone)]
pub(crate) struct Clocks {
    /// What the oscillator gains now, in parts per million.
    drift_ppm: i64,
    /// Whether a battery keeps the wall clock while the power is away.
    rtc: Battery,
    /// The kernel's boot that is running, if power is on.
    boot: Option<Boot>,
    /// How far the wall clock is off.
    wall_error: i64,
    /// What the wall clock shows while it stands still.
    frozen: Option<Timestamp>,
    /// Powered-on time of the boots that are over.
    powered_before: u64,
    /// Makes boot ids.
    ids: ChaCha8Rng,
}

/// Whether a wall clock runs on without power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Battery {
    Missing,
    Present,
}

#[derive(Debug, Clone, Copy)]
struct Boot {
    id: BootId,
    began: u64,
    /// When an agent first ran in it: from here on powered-on time counts.
    counted: Option<u64>,
    /// True time, and what CLOCK_BOOTTIME showed then: from here on it runs at the present rate.
    tuned: (u64, u64),
    /// What the wall clock showed when the kernel started, if not the true date and its error.
    wall_from: Option<Timestamp>,
    /// Jumps in this boot of a wall clock that did not start from the true date.
    stepped: i64,
}

impl Clocks {
    pub(crate) fn new(drift_ppm: i64, rtc: Battery, ids: ChaCha8Rng) -> Self {
        Self { drift_ppm, rtc, boot: None, wall_error: 0, frozen: None, powered_before: 0, ids }
    }

    /// The kernel starts.
    pub(crate) fn power_on(&mut self, at: u64, wall: WallAfter) -> BootId {
        let mut id = [0; 16];
        self.ids.fill_bytes(&mut id);
        if let WallAfter::Stepped(by) = wall {
            self.wall_error = self.wall_error.saturating_add(by);
        }
        let epoch = wall == WallAfter::Epoch || self.rtc == Battery::Missing;
        let wall_from = epoch.then_some(Timestamp(0));
        self.boot = Some(Boot { id: BootId(id), began: at, counted: None, tuned: (at, 0), wall_from, stepped: 0 });
        BootId(id)
    }

    /// The supply fails, or the kernel goes down. Of this boot counts what an agent could know of: up to the end of the
    /// last lease that was durable. Who sleeps or is dead when the supply fails cannot have charged what came after.
    /// Returns how long that was.
    pub(crate) fn power_off(&mut self, at: u64, leased_to: u64) -> u64 {
        let Some(boot) = self.boot.take() else { return 0 };
        let from = boot.counted.unwrap_or(at);
        let counted = at.min(leased_to).saturating_sub(from);
        self.powered_before += counted;
        at - from - counted
    }

    /// The oscillator runs at another rate from now on.
    pub(crate) fn retune(&mut self, at: u64, drift_ppm: i64) {
        if let Some(boot) = self.boot {
            let shown = self.boottime(&boot, at);
            self.boot = Some(Boot { tuned: (at, shown), ..boot });
        }
        self.drift_ppm = drift_ppm;
    }

    /// The wall clock stands still.
    pub(crate) fn freeze(&mut self, at: u64) {
        self.frozen = self.read(at).and_then(|(_, now)| now.wall);
    }

    /// The wall clock goes on, as if it had never stood still.
    pub(crate) fn thaw(&mut self) {
        self.frozen = None;
    }

    /// The wall clock jumps.
    pub(crate) fn step_wall(&mut self, by: i64) {
        match &mut self.boot {
            Some(boot) if boot.wall_from.is_some() => boot.stepped = boot.stepped.saturating_add(by),
            Some(_) | None => self.wall_error = self.wall_error.saturating_add(by),
        }
    }

    /// When the kernel started, in true time; none without power.
    pub(crate) fn began(&self) -> Option<u64> {
        self.boot.map(|boot| boot.began)
    }

    /// An agent runs. What was before in this boot it cannot know of, but where it goes on from an anchor of this boot.
    pub(crate) fn count_from(&mut self, at: u64, anchor: Option<BootId>) {
        if let Some(boot) = &mut self.boot {
            boot.counted = boot.counted.filter(|_| anchor == Some(boot.id)).or(Some(at));
        }
    }

    /// True time with power on and an agent there to notice so far.
    pub(crate) fn powered(&self, at: u64) -> u64 {
        let counted = self.boot.and_then(|boot| boot.counted);
        self.powered_before + counted.map_or(0, |from| at - from)
    }

    /// What the agent reads; none without power.
    pub(crate) fn read(&self, at: u64) -> Option<(BootId, Now)> {
        let boot = self.boot?;
        let boottime = self.boottime(&boot, at);
        let wall = match (self.frozen, boot.wall_from) {
            (Some(frozen), _) => Some(frozen.0),
            (None, Some(from)) => from.0.saturating_add(boottime).checked_add_signed(boot.stepped),
            (None, None) => date(at).0.checked_add_signed(self.wall_error),
        };
        Some((boot.id, Now { boottime: Millis(boottime), wall: wall.map(Timestamp) }))
    }

    /// When, in true time, CLOCK_BOOTTIME of this boot first shows `boottime` or more, if the rate stays what it is.
    pub(crate) fn when(&self, boottime: Millis) -> Option<u64> {
        let boot = self.boot?;
        let (since, shown) = boot.tuned;
        let rate = 1_000_000 + self.drift_ppm;
        let wait = i128::from(boottime.0.saturating_sub(shown)) * 1_000_000 / i128::from(rate);
        let mut at = since.checked_add(u64::try_from(wait).ok()?)?;
        while self.boottime(&boot, at) < boottime.0 {
            at = at.checked_add(1)?;
        }
        Some(at)
    }

    fn boottime(&self, boot: &Boot, at: u64) -> u64 {
        let (since, shown) = boot.tuned;
        let elapsed = i128::from(at.saturating_sub(since));
        let gained = elapsed * i128::from(self.drift_ppm) / 1_000_000;
        shown.saturating_add(u64::try_from(elapsed + gained).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::stream;

    fn clocks(drift: i64, rtc: Battery) -> Clocks {
        Clocks::new(drift, rtc, stream(1, "gw-0", "boots"))
    }

    #[test]
    fn boottime_begins_anew_and_powered_time_does_not() {
        let mut clocks = clocks(0, Battery::Present);
        let first = clocks.power_on(1000, WallAfter::Kept);
        clocks.count_from(1000, None);
        assert_eq!(clocks.read(4000).unwrap().1.boottime, Millis(3000));
        clocks.power_off(5000, u64::MAX);
        assert!(clocks.read(6000).is_none());
        let second = clocks.power_on(9000, WallAfter::Kept);
        assert_eq!(clocks.powered(9400), 4000, "no agent runs yet");
        clocks.count_from(9000, None);
        assert_ne!(first, second);
        let (boot, now) = clocks.read(9500).unwrap();
        assert_eq!((boot, now.boottime), (second, Millis(500)));
        assert_eq!(clocks.powered(9500), 4500);
        assert_eq!(now.wall, Some(date(9500)));
        // Another agent starts: on an anchor of this boot it goes on, else what the one before it saw is not counted.
        clocks.count_from(9600, Some(second));
        assert_eq!(clocks.powered(9700), 4700);
        clocks.count_from(9800, Some(first));
        assert_eq!(clocks.powered(9900), 4100);
    }

    #[test]
    fn walls_jump_and_forget() {
        let mut kept = clocks(0, Battery::Present);
        kept.power_on(0, WallAfter::Stepped(-3_600_000));
        assert_eq!(kept.read(10).unwrap().1.wall, Some(date(10) - Millis(3_600_000)));
        kept.step_wall(7_200_000);
        assert_eq!(kept.read(10).unwrap().1.wall, Some(date(10) + Millis(3_600_000)));
        kept.step_wall(i64::MIN);
        assert_eq!(kept.read(10).unwrap().1.wall, None, "before 1970 nothing can be read");
        let mut bare = clocks(0, Battery::Missing);
        bare.power_on(500, WallAfter::Kept);
        assert_eq!(bare.read(700).unwrap().1.wall, Some(Timestamp(200)));
    }

    #[test]
    fn only_what_was_leased_counts_once_the_supply_fails() {
        let mut clocks = clocks(0, Battery::Present);
        clocks.power_on(1000, WallAfter::Kept);
        clocks.count_from(1000, None);
        assert_eq!(clocks.power_off(9000, 4000), 5000);
        assert_eq!(clocks.powered(9000), 3000);
        clocks.power_on(10_000, WallAfter::Kept);
        clocks.count_from(10_000, None);
        clocks.power_off(11_000, 0);
        assert_eq!(clocks.powered(11_000), 3000, "no agent ran in this boot");
    }

    #[test]
    fn rates_change_without_a_jump_and_walls_stand_still() {
        let mut clocks = clocks(200, Battery::Present);
        clocks.power_on(0, WallAfter::Kept);
        let before = clocks.read(1_000_000).unwrap().1.boottime;
        clocks.retune(1_000_000, -200);
        assert_eq!(clocks.read(1_000_000).unwrap().1.boottime, before);
        assert_eq!(clocks.read(2_000_000).unwrap().1.boottime, Millis(before.0 + 999_800));
        clocks.freeze(2_000_000);
        assert_eq!(clocks.read(3_000_000).unwrap().1.wall, Some(date(2_000_000)));
        clocks.thaw();
        assert_eq!(clocks.read(3_000_000).unwrap().1.wall, Some(date(3_000_000)));
    }

    #[test]
    fn a_deadline_is_never_early() {
        for drift in [-200, 0, 200] {
            let mut clocks = clocks(drift, Battery::Present);
            clocks.power_on(77, WallAfter::Kept);
            for target in [0, 1, 999, 86_400_000, 604_800_000] {
                let when = clocks.when(Millis(target)).unwrap();
                assert!(clocks.read(when).unwrap().1.boottime.0 >= target, "{drift} {target}");
                assert!(when == 77 || clocks.read(when - 1).unwrap().1.boottime.0 < target, "{drift} {target}");
            }
        }
    }
}
