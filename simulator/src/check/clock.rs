//! The clocks of gateways against the oracle's: E <= true time <= L, and P at least what was told plus powered-on time
//! since.
//!
//! Owns: per gateway what an acknowledged round trip told it, and what follows from that for any later moment; its boots.
//! Never: asks a gateway what time it is, but to hold it against this.
//! Read next: `authority.rs`, which judges decisions by it.

use hardtack::agent::Anchor;
use hardtack::ids::{BootId, DeviceId};
use hardtack::profile::TimeLimits;
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::Record;

use super::suspend::Suspension;
use super::{Id, Tally};
use crate::clocks::date;
use crate::reset::{Order, RADIUS};

/// A boot costs at most a lease, and a second of rounding.
const BOOT_COST: u64 = 1000;
/// A rate is off by up to the bound, and a bound's square is left out of the sums: so much per day.
const ROUNDING_PPM: u64 = 1;

/// What follows at a moment for one gateway from what it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Knowledge {
    /// P is not below this.
    pub(crate) least: Timestamp,
    /// P is not above this, and neither is a finite L.
    pub(crate) most: Timestamp,
    /// E is not below this.
    pub(crate) proven: Timestamp,
    /// By how much corrections can have taken P down, all together.
    pub(crate) down: u64,
    /// Powered-on time since the last round trip.
    pub(crate) alone: u64,
    /// Kernel boots since then in which the agent wrote.
    pub(crate) boots: u32,
    /// Whether there was a round trip in this boot.
    pub(crate) synced: Synced,
    /// What a fault that the proofs do not cover may have cost of powered-on time.
    pub(crate) grace: u64,
    /// What a service that is ahead may cost beside that, of what was counted from before this powered-on time: P may fall to
    /// E, once, and E trails what was signed by its errors.
    pub(crate) fall: Option<(u64, u64)>,
    /// What it may have cost of what was counted from before this powered-on time, where E is so far ahead that no round trip
    /// tells P of it.
    pub(crate) untold: (u64, u64),
    /// E may stand here, though that is ahead of true time: a service said so whose clock was. Else 0.
    pub(crate) misled: Timestamp,
}

impl Knowledge {
    /// By how much a bound may be exceeded that is counted from this powered-on time on.
    pub(crate) fn grace_from(&self, since: u64) -> u64 {
        let fall = self.fall.filter(|(before, _)| since < *before).map_or(0, |(_, grace)| grace);
        let (before, untold) = self.untold;
        self.grace + fall + if since < before { untold } else { 0 }
    }
}

/// Whether a nonce came back in this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Synced {
    No,
    Yes,
}

impl Synced {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::No => "unsynced",
            Self::Yes => "synced",
        }
    }
}

#[derive(Debug)]
struct Told {
    /// The time that the last round trip or reset named, and powered-on time then.
    least: (Timestamp, u64),
    /// Powered-on time at the last round trip.
    spoke: u64,
    /// The latest signed time ahead of true time that it was told, and true and powered-on time then.
    misled: Option<(Timestamp, u64, u64)>,
    /// Powered-on time at the first round trip after that with a service that was not ahead, if there was one.
    fell: Option<u64>,
    /// Resets of its clock that the root keys signed and that it has not carried out.
    orders: Vec<Order>,
    /// The latest that P can have been then.
    most: Timestamp,
    /// The time that was proven then, and in this boot still runs on.
    proven: Timestamp,
    down: u64,
    boots: u32,
    /// How often the kernel started since, whether or not the agent wrote anything: each may have cost a lease.
    cost: u32,
    boot: Option<BootId>,
    synced: Synced,
    /// P at the last round trip as the gateway's anchors have it, and as the durable ones do.
    synced_by_anchor: Timestamp,
    synced_durable: Timestamp,
    /// Whether a round trip was seen since the anchor last named one.
    contact: bool,
    grace: u64,
    untold: (u64, u64),
}

/// The oracle's account of all gateways' clocks.
#[derive(Debug)]
pub(crate) struct ClockCheck {
    limits: TimeLimits,
    /// What the table grants to whom a service misleads.
    misled_grace: u64,
    told: Vec<Told>,
}

impl ClockCheck {
    /// Gateways that are enrolled at `at`.
    pub(crate) fn new(devices: u32, limits: TimeLimits, at: u64) -> Self {
        let enrolled = |_| Told {
            least: (date(at) - Millis(limits.issuer_error_ms), 0),
            spoke: 0,
            misled: None,
            fell: None,
            orders: Vec::new(),
            most: date(at),
            proven: date(at) - Millis(limits.issuer_error_ms),
            down: 0,
            boots: 0,
            cost: 0,
            boot: None,
            synced: Synced::No,
            synced_by_anchor: Timestamp(0),
            synced_durable: Timestamp(0),
            contact: true,
            grace: 0,
            untold: (0, 0),
        };
        let misled_grace = Suspension::of("service.ahead").map_or(0, |suspension| suspension.grace_s * 1000);
        Self { told: (0..devices).map(enrolled).collect(), misled_grace, limits }
    }

    /// What follows for a gateway at a moment.
    pub(crate) fn knowledge(&self, device: u32, powered: u64) -> Knowledge {
        let told = &self.told[device as usize];
        let elapsed = powered.saturating_sub(told.least.1);
        let boots_cost = u64::from(told.cost) * (self.limits.lease().0 + BOOT_COST);
        let stretched = Millis(elapsed).stretched(self.limits.drift_ppm.saturating_mul(2));
        let slowed = Millis(elapsed).slowed(self.limits.drift_ppm.saturating_mul(2));
        let run_on = |(time, _, then): (Timestamp, u64, u64)| {
            time + Millis(powered.saturating_sub(then)).stretched(self.limits.drift_ppm.saturating_mul(2))
        };
        Knowledge {
            least: told.least.0 + Millis(elapsed.saturating_sub(rounding(elapsed))),
            most: told.most + stretched + Millis(boots_cost + rounding(elapsed)),
            proven: match told.synced {
                Synced::Yes => told.proven + slowed,
                Synced::No => told.proven,
            },
            down: told.down,
            alone: powered.saturating_sub(told.spoke),
            boots: told.boots,
            synced: told.synced,
            grace: told.grace,
            fall: told.misled.map(|_| (told.fell.unwrap_or(u64::MAX), self.misled_grace)),
            untold: told.untold,
            misled: told.misled.map(run_on).unwrap_or_default(),
        }
    }

    /// A service whose clock is ahead signed this time, and it arrived: from now on E may stand there.
    pub(crate) fn mislead(&mut self, device: u32, at: u64, powered: u64, time: Timestamp) {
        let known = self.knowledge(device, powered).misled;
        self.raise(device, powered, time);
        let told = &mut self.told[device as usize];
        if time > date(at) {
            told.fell = None;
        }
        if time > date(at) && time > known {
            told.misled = Some((time, at, powered));
        }
    }

    /// A reset that the root keys signed is handed to a gateway.
    pub(crate) fn ordered(&mut self, device: u32, order: Order) {
        self.raise(device, order.powered, self.reset_to(&order));
        self.told[device as usize].orders.push(order);
    }

    /// The latest that P and L can be after a reset.
    fn reset_to(&self, order: &Order) -> Timestamp {
        self.ceiling((order.time, RADIUS, order.waited))
    }

    /// E was set to `floor`, and that is durable. When the order was given, if that is one; each is good once. Contact it
    /// was none: time and boots without the fleet stay spent.
    pub(crate) fn reset(&mut self, device: u32, floor: Timestamp) -> Option<u64> {
        let error = Millis(self.limits.issuer_error_ms);
        let orders = &self.told[device as usize].orders;
        let number = orders.iter().position(|order| order.time - RADIUS - error == floor)?;
        let order = self.told[device as usize].orders.remove(number);
        let before = self.knowledge(device, order.powered).most;
        let most = self.reset_to(&order);
        let told = &mut self.told[device as usize];
        told.down += before.since(date(order.at)).0;
        told.most = most;
        told.least = (date(order.at), order.powered);
        told.proven = floor;
        told.cost = 0;
        told.synced = Synced::Yes;
        told.misled = told.misled.filter(|(_, at, _)| *at > order.at);
        told.synced_by_anchor = Timestamp(0);
        told.synced_durable = Timestamp(0);
        told.contact = true;
        Some(order.at)
    }

    /// A message of the fleet arrived: what is signed in it may have taken the gateway's clocks up to true time.
    pub(crate) fn hear(&mut self, device: u32, at: u64, powered: u64) {
        self.raise(device, powered, date(at));
    }

    /// From now on P may have come this far.
    fn raise(&mut self, device: u32, powered: u64, to: Timestamp) {
        let most = self.knowledge(device, powered).most;
        let told = &mut self.told[device as usize];
        told.most = told.most + to.since(most);
    }

    /// The latest that L can be after a round trip.
    fn ceiling(&self, (time, radius, trip): (Timestamp, Millis, u64)) -> Timestamp {
        time + radius + Millis(self.limits.issuer_error_ms) + Millis(2 * trip + 1000)
    }

    /// The supply failed after time that no lease covers. Records may have told of it all the same.
    pub(crate) fn may_have_counted(&mut self, device: u32, unleased: u64) {
        let told = &mut self.told[device as usize];
        told.most = told.most + Millis(unleased).stretched(self.limits.drift_ppm.saturating_mul(2));
    }

    /// A nonce that left `trip` ago came back with a signed time, in time, and what the gateway made of it is durable.
    pub(crate) fn contact(
        &mut self,
        device: u32,
        at: u64,
        powered: u64,
        (time, radius, trip): (Timestamp, Millis, u64),
    ) {
        let error = Millis(self.limits.issuer_error_ms);
        let Knowledge { most: before, misled, .. } = self.knowledge(device, powered);
        let ceiling = self.ceiling((time, radius, trip)).max(misled);
        let told = &mut self.told[device as usize];
        if time <= date(at) {
            told.fell.get_or_insert(powered);
        }
        // One that comes from a clock that is ahead proves nothing but what is so.
        let time = time.min(date(at));
        told.down += before.since(date(at)).0;
        told.most = ceiling;
        told.least = (time, powered);
        told.spoke = powered;
        told.proven = time - radius - error;
        told.boots = 0;
        told.cost = 0;
        told.synced = Synced::Yes;
        told.contact = true;
        let grace = std::mem::take(&mut told.grace);
        if misled <= date(at) {
            told.untold = (0, 0);
        } else if grace > 0 {
            told.untold = (powered, told.untold.1.saturating_add(grace));
        }
    }

    /// An answer to a nonce is taken in by the commit that comes.
    pub(crate) fn expect_contact(&mut self, device: u32, powered: u64, signed: (Timestamp, Millis, u64)) {
        self.raise(device, powered, self.ceiling(signed));
        self.told[device as usize].contact = true;
    }

    /// Whether an anchor names a round trip that no anchor named before.
    pub(crate) fn is_newly_synced(&self, device: u32, anchor: &Anchor) -> bool {
        anchor.synced > self.told[device as usize].synced_durable
    }

    /// The kernel started.
    pub(crate) fn power_on(&mut self, device: u32) {
        let told = &mut self.told[device as usize];
        told.synced = Synced::No;
        told.cost += 1;
    }

    /// An anchor is about to be written. Its numbers are of this moment.
    pub(crate) fn anchor(
        &mut self,
        tally: &mut Tally,
        (at, powered): (u64, u64),
        (device, name): (u32, &DeviceId),
        anchor: &Anchor,
    ) {
        let known = self.knowledge(device, powered);
        let told = &mut self.told[device as usize];
        let renamed = anchor.synced > told.synced_by_anchor && !told.contact;
        let broken = if renamed {
            Some(format!("{name} takes something for a round trip that was none: {}", anchor.synced))
        } else {
            judge(name, at, &known, (anchor.floor, anchor.powered, anchor.ceiling))
        };
        if anchor.synced > told.synced_by_anchor {
            told.contact = false;
            told.synced_by_anchor = anchor.synced;
        }
        tally.tried(Id::Clock, at, broken);
    }

    /// A record is about to be written.
    pub(crate) fn record(
        &self,
        tally: &mut Tally,
        (at, powered): (u64, u64),
        (device, name): (u32, &DeviceId),
        record: &Record,
    ) {
        let known = self.knowledge(device, powered);
        tally.tried(Id::Clock, at, judge(name, at, &known, (record.floor, record.powered, None)));
    }

    /// An anchor is durable: in a boot that none was written in before, this is what makes it count.
    pub(crate) fn anchor_durable(&mut self, device: u32, anchor: &Anchor) {
        let told = &mut self.told[device as usize];
        told.synced_durable = told.synced_durable.max(anchor.synced);
        if anchor.boot.is_some() && anchor.boot != told.boot {
            told.boots += u32::from(told.boot.is_some());
            told.boot = anchor.boot;
        }
    }

    /// The gateway lost what it knew, by a fault that the proofs do not cover: what it was told before binds it no more. What
    /// is `left` may be from before a round trip that took P down.
    pub(crate) fn forget(&mut self, (device, powered): (u32, u64), left: Timestamp, grace: u64) {
        self.raise(device, powered, left);
        let told = &mut self.told[device as usize];
        told.grace = told.grace.saturating_add(grace);
        told.boots = 0;
        told.least.0 = Timestamp(0);
        told.proven = Timestamp(0);
        told.synced_by_anchor = Timestamp(0);
        told.synced_durable = Timestamp(0);
        told.contact = true;
    }
}

fn rounding(elapsed: u64) -> u64 {
    1000 + elapsed * ROUNDING_PPM / 1_000_000
}

fn judge(
    name: &DeviceId,
    at: u64,
    known: &Knowledge,
    (floor, powered, ceiling): (Timestamp, Timestamp, Option<Timestamp>),
) -> Option<String> {
    let truth = date(at);
    if floor > truth.max(known.misled) {
        return Some(format!("E of {name} is {} ms ahead of true time", floor.since(truth).0));
    }
    if let Some(ceiling) = ceiling.filter(|ceiling| *ceiling < truth) {
        return Some(format!("L of {name} is {} ms behind true time", truth.since(ceiling).0));
    }
    if powered < known.least {
        let short = known.least.since(powered).0;
        return Some(format!("P of {name} is {short} ms short of what it was told and its powered-on time since"));
    }
    (powered > known.most)
        .then(|| format!("P of {name} is {} ms past what boots can cost", powered.since(known.most).0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;
    use hardtack::profile::Profile;

    const MINUTE: u64 = 60_000;

    fn told() -> ClockCheck {
        let mut check = ClockCheck::new(1, Profile::default().time, 0);
        check.contact(0, 10 * MINUTE, 10 * MINUTE, (date(10 * MINUTE), Millis(500), 100));
        check
    }

    #[track_caller]
    fn check_anchor(edit: impl Fn(&mut Anchor), expected: Status) {
        let (mut tally, mut check) = (Tally::default(), told());
        let at = 20 * MINUTE;
        let mut anchor = Anchor {
            floor: date(at) - Millis(3000),
            powered: date(at) + Millis(2000),
            ceiling: Some(date(at) + Millis(4000)),
            synced: date(10 * MINUTE),
            ..Anchor::default()
        };
        edit(&mut anchor);
        check.anchor(&mut tally, (at, at), (0, &"gw-0".parse().unwrap()), &anchor);
        let property = tally.properties().into_iter().find(|property| property.id == "clock").unwrap();
        assert_eq!(property.status, expected, "{property:?}");
    }

    #[test]
    fn clocks_keep_to_their_sides_of_the_truth() {
        let at = date(20 * MINUTE);
        check_anchor(|_| {}, Status::Pass);
        check_anchor(|anchor| anchor.floor = at + Millis(1), Status::Fail);
        check_anchor(|anchor| anchor.ceiling = Some(at - Millis(1)), Status::Fail);
        check_anchor(|anchor| anchor.powered = at - Millis(2000), Status::Fail);
        check_anchor(|anchor| anchor.powered = at + Millis(60_000), Status::Fail);
    }

    #[test]
    fn whom_a_service_misleads_may_be_ahead_until_a_reset_that_was_ordered() {
        let (mut tally, mut check) = (Tally::default(), told());
        let (name, at): (DeviceId, u64) = ("gw-0".parse().unwrap(), 20 * MINUTE);
        let ahead = Anchor { floor: date(at) + Millis(5000), powered: date(at) + Millis(5000), ..Anchor::default() };
        check.mislead(0, at, at, date(at) + Millis(6000));
        check.anchor(&mut tally, (at, at), (0, &name), &ahead);
        assert_eq!(tally.broken_count(), 0);
        let error = Millis(Profile::default().time.issuer_error_ms);
        let floor = date(at) - RADIUS - error;
        assert_eq!(check.reset(0, floor), None, "nobody ordered it");
        check.ordered(0, Order { at, powered: at, time: date(at), waited: 0 });
        assert_eq!((check.reset(0, floor), check.reset(0, floor)), (Some(at), None), "good once");
        assert_eq!(check.knowledge(0, at).alone, 10 * MINUTE, "it was no contact");
        check.anchor(&mut tally, (at, at), (0, &name), &ahead);
        assert_eq!(tally.broken_count(), 1, "ahead again, and nobody misled it");
    }

    #[test]
    fn who_was_misled_has_grace_for_what_it_counted_from_before_it_heard_the_time_again() {
        let mut check = told();
        let grace = |check: &ClockCheck, since: u64| check.knowledge(0, 90 * MINUTE).grace_from(since * MINUTE);
        assert_eq!(grace(&check, 15), 0);
        let at = |minutes: u64| (minutes * MINUTE, minutes * MINUTE);
        let contact = |check: &mut ClockCheck, (at, powered): (u64, u64), ahead: u64| {
            check.contact(0, at, powered, (date(at + ahead), Millis(500), 100));
        };
        check.mislead(0, at(20).0, at(20).1, date(at(140).0));
        contact(&mut check, at(20), 120 * MINUTE);
        assert_eq!((grace(&check, 15), grace(&check, 25)), (5000, 5000), "nobody told it the time since");
        contact(&mut check, at(30), 0);
        contact(&mut check, at(40), 0);
        assert_eq!((grace(&check, 25), grace(&check, 31)), (5000, 0));
        check.mislead(0, at(50).0, at(50).1, date(at(170).0));
        assert_eq!(grace(&check, 31), 5000, "and again");
    }

    #[test]
    fn what_powered_on_time_a_loss_cost_no_round_trip_tells_whose_floor_is_ahead() {
        for (ahead, expected) in [(0, 0), (120 * MINUTE, 120_000 + 5000)] {
            let mut check = told();
            check.mislead(0, 12 * MINUTE, 12 * MINUTE, date(12 * MINUTE + ahead));
            check.forget((0, 15 * MINUTE), Timestamp(0), 120_000);
            let at = 20 * MINUTE;
            check.contact(0, at, at, (date(at), Millis(500), 100));
            let grace = |since: u64| check.knowledge(0, 21 * MINUTE).grace_from(since);
            assert_eq!((grace(14 * MINUTE), grace(at)), (expected, 0), "{ahead}");
        }
    }

    #[test]
    fn who_lost_what_took_p_down_goes_on_from_what_is_left() {
        let name: DeviceId = "gw-0".parse().unwrap();
        let at = 11 * MINUTE;
        for (left, expected) in [(date(at), 1), (date(at) + Millis(55_000), 0)] {
            let (mut tally, mut check) = (Tally::default(), told());
            check.forget((0, at), left, 0);
            check.power_on(0);
            let started = Anchor { powered: date(at) + Millis(115_000), ..Anchor::default() };
            check.anchor(&mut tally, (at, at), (0, &name), &started);
            assert_eq!(tally.broken_count(), expected, "{left}");
        }
    }

    #[test]
    fn a_round_trip_that_was_none_is_seen_and_boots_cost_a_lease_each() {
        let (mut tally, mut check) = (Tally::default(), told());
        let name: DeviceId = "gw-0".parse().unwrap();
        let at = 11 * MINUTE;
        let good = |synced: u64| Anchor { powered: date(at), synced: date(synced), ..Anchor::default() };
        check.anchor(&mut tally, (at, at), (0, &name), &good(10 * MINUTE));
        assert_eq!(tally.broken_count(), 0);
        check.anchor(&mut tally, (at, at), (0, &name), &good(11 * MINUTE));
        assert_eq!(tally.broken_count(), 1);
        let before = check.knowledge(0, at).most;
        check.power_on(0);
        check.anchor_durable(0, &Anchor { boot: Some(BootId([1; 16])), ..Anchor::default() });
        check.anchor_durable(0, &Anchor { boot: Some(BootId([2; 16])), ..Anchor::default() });
        let known = check.knowledge(0, at);
        assert_eq!((known.boots, known.synced), (1, Synced::No));
        assert!(known.most >= before + Millis(60_000));
    }
}
