//! Where the device stands, as one function of what is known.
//!
//! Owns: the transition function of the modes with its reasons, and the [`Damper`] that keeps a link that comes and goes
//! from making the mode come and go with it.
//! Never: unlocks what something else locked; delays a mode that is stricter.
//! Read next: `mod.rs`, which records each change.
//!
//! What unlocks: a revoked device or fleet, the rule's signed end; a spent dead-man window, an
//! acknowledged round trip; a lost list, that list or a newer one; a policy that cannot be used, or a policy or bundle
//! older than one that was in force, that one or a newer one; lost anchor slots, an acknowledged round trip or
//! enrolling again; a full audit, a collector that takes it; a suspected clone or rolled-back storage, enrolling again.

use super::request::Mode;
use crate::time::Millis;

/// What the mode depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grounds {
    /// Why the device is locked, if anything locks it.
    pub locks: Vec<String>,
    /// What has lost its freshness: classes of risk, an overdue bundle or policy.
    pub stale: Vec<String>,
    /// Whether a signed `hello` was acknowledged on this connection and everything that the acknowledgement named is
    /// applied.
    pub in_touch: InTouch,
}

/// Whether the device is in touch with its fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum InTouch {
    /// Acknowledged, and something newer was named that is on its way: the link is as good as it was.
    CatchingUp(String),
    /// Acknowledged, but the link came and went too often lately: so much longer it must hold first.
    Held(Millis),
    /// No, and this is why.
    No(String),
    /// Nothing is known yet: a start.
    #[default]
    NotYet,
    /// Acknowledged, nothing newer outstanding.
    Yes,
}

/// The mode and why. Locked goes before stale, stale before offline or online.
pub fn mode_of(grounds: &Grounds) -> (Mode, Vec<String>) {
    if !grounds.locks.is_empty() {
        return (Mode::Locked, grounds.locks.clone());
    }
    if !grounds.stale.is_empty() {
        return (Mode::Stale, grounds.stale.clone());
    }
    match &grounds.in_touch {
        InTouch::Yes => (Mode::Online, vec!["acknowledged, everything newest applied".into()]),
        // No number of seconds: a reason that changes by itself would be no reason.
        InTouch::Held(_) => {
            (Mode::Offline, vec!["in touch, but the link came and went: it must hold for a while".into()])
        }
        InTouch::CatchingUp(why) | InTouch::No(why) => (Mode::Offline, vec![why.clone()]),
        InTouch::NotYet => (Mode::Offline, vec!["no round trip since the start".into()]),
    }
}

/// A link must hold this long before its loss is a new one and not the same again.
const CALM: Millis = Millis::from_secs(600);
/// The first wait of a link that came and went; each further time doubles it.
pub const HOLD_MIN: Millis = Millis::from_secs(10);
/// The longest wait.
pub const HOLD_MAX: Millis = Millis::from_secs(300);

/// Holds `online` back after a link was lost soon after it came. The first return after a calm time is taken at once.
#[derive(Debug, Clone, Default)]
pub struct Damper {
    /// How often the link was lost within [`CALM`] of its coming.
    losses: u32,
    /// Since when the device is in touch, if it is.
    since: Option<Millis>,
}

impl Damper {
    /// What being in touch or not at `now` means for the mode.
    pub fn damp(&mut self, in_touch: InTouch, now: Millis) -> InTouch {
        match (&in_touch, self.since) {
            (InTouch::Yes, None) => self.since = Some(now),
            (InTouch::Held(_) | InTouch::No(_) | InTouch::NotYet, Some(since)) => {
                let short = now.0.saturating_sub(since.0) < CALM.0;
                self.losses = if short { self.losses.saturating_add(1) } else { 1 };
                self.since = None;
            }
            (InTouch::Yes, Some(since)) if now.0.saturating_sub(since.0) >= CALM.0 => self.losses = 0,
            (InTouch::CatchingUp(_) | InTouch::Held(_) | InTouch::No(_) | InTouch::NotYet | InTouch::Yes, _) => {}
        }
        match (in_touch, self.left(now)) {
            (InTouch::Yes, Some(left)) => InTouch::Held(left),
            (other, _) => other,
        }
    }

    /// How much longer a link that is there must hold; none if it need not.
    pub fn left(&self, now: Millis) -> Option<Millis> {
        // The first loss is none of a row.
        let doublings = self.losses.checked_sub(2)?;
        let hold = HOLD_MIN.0.saturating_mul(1 << doublings.min(16)).min(HOLD_MAX.0);
        let left = self.since?.0.saturating_add(hold).saturating_sub(now.0);
        (left > 0).then_some(Millis(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_before_stale_before_the_link() {
        check_mode(&[], &[], InTouch::NotYet, Mode::Offline);
        check_mode(&[], &[], InTouch::No("cut".into()), Mode::Offline);
        check_mode(&[], &[], InTouch::Held(Millis(1)), Mode::Offline);
        check_mode(&[], &[], InTouch::Yes, Mode::Online);
        check_mode(&[], &["high"], InTouch::Yes, Mode::Stale);
        check_mode(&["revoked"], &["high"], InTouch::Yes, Mode::Locked);
    }

    #[track_caller]
    fn check_mode(locks: &[&str], stale: &[&str], in_touch: InTouch, expected: Mode) {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let (mode, reasons) = mode_of(&Grounds { locks: texts(locks), stale: texts(stale), in_touch });
        assert_eq!(mode, expected);
        assert!(!reasons.is_empty());
    }

    #[test]
    fn a_flapping_link_gives_few_changes_of_mode_and_a_calm_one_is_taken_at_once() {
        let mut damper = Damper::default();
        let mut online = 0;
        let mut at = Millis(0);
        for _ in 0..360 {
            // Ten seconds there, ten away, for two hours.
            for _ in 0..10 {
                at.0 += 1000;
                online += u32::from(damper.damp(InTouch::Yes, at) == InTouch::Yes);
            }
            at.0 += 10_000;
            assert_eq!(damper.damp(InTouch::No("cut".into()), at), InTouch::No("cut".into()), "never delayed");
        }
        assert!(online <= 30, "{online} seconds online of 3600");
        at.0 += 1000;
        assert!(matches!(damper.damp(InTouch::Yes, at), InTouch::Held(_)));
        at.0 += HOLD_MAX.0;
        assert_eq!(damper.damp(InTouch::Yes, at), InTouch::Yes, "it held");
        at.0 += CALM.0;
        assert_eq!(damper.damp(InTouch::Yes, at), InTouch::Yes);
        for _ in 0..20 {
            at.0 += 1000;
            assert_eq!(damper.damp(InTouch::CatchingUp("head 7".into()), at), InTouch::CatchingUp("head 7".into()));
            assert_eq!(
                damper.damp(InTouch::Yes, at),
                InTouch::Yes,
                "something newer on its way is no loss of the link"
            );
        }
        damper.damp(InTouch::NotYet, at);
        at.0 += 1;
        assert_eq!(damper.damp(InTouch::Yes, at), InTouch::Yes, "after a calm time, at once");
    }
}
