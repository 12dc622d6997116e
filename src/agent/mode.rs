//! Where the device stands, as one function of what is known.
//!
//! Owns: the transition function of the modes with its reasons.
//! Never: holds state; unlocks what something else locked.
//! Read next: `mod.rs`, which records each change.

use super::request::Mode;

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
    /// No, and this is why.
    No(String),
    /// Acknowledged, nothing newer outstanding.
    Yes,
    /// Nothing is known yet: a start.
    #[default]
    NotYet,
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
        InTouch::No(why) => (Mode::Offline, vec![why.clone()]),
        InTouch::NotYet => (Mode::Offline, vec!["no round trip since the start".into()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_before_stale_before_the_link() {
        check_mode(&[], &[], InTouch::NotYet, Mode::Offline);
        check_mode(&[], &[], InTouch::No("cut".into()), Mode::Offline);
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
}
