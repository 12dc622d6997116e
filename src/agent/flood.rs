//! Denials that are the same, above a rate: the first ones are recorded, the next ones counted.
//!
//! Owns: which denials are the same, how many of a kind have a record in its window, and how many are counted beside them.
//! Never: counts an allow; lets a stranger choose how much is remembered; forgets a count: what goes out of it is to be
//! written.
//! Read next: `answer.rs`, which asks before a denial is recorded, and writes what comes out.

use std::collections::BTreeMap;

use super::request::AuditRef;
use crate::ids::Hash;
use crate::time::{Millis, Timestamp};
use crate::wire::audit::{Decision, Known, Repeated};
use crate::wire::encode;

/// Kinds of denials that are remembered. Whoever varies what he asks makes the oldest go out, counted, and gets a record for
/// each: what he may ask in a second is bounded elsewhere.
const KINDS_MAX: usize = 64;

/// When denials that are the same are counted in place of a record each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// Within one window so many have a record.
    pub(super) alike_max: u32,
    /// How long a window is, from the first of them on.
    pub(super) window: Millis,
}

/// Denials of the open era by what makes them the same.
#[derive(Debug, Default)]
pub(super) struct Flood {
    kinds: BTreeMap<Hash, Kind>,
}

/// Denials that are the same.
#[derive(Debug)]
struct Kind {
    began: Millis,
    recorded: u32,
    /// The last that was recorded: those that are counted carry its name.
    last: AuditRef,
    counted: Option<Counted>,
}

/// Denials without a record.
#[derive(Debug, Clone, Copy)]
struct Counted {
    count: u64,
    since: Timestamp,
    until: Timestamp,
}

impl Kind {
    fn ends(&self, rate: Rate) -> Millis {
        Millis(self.began.0.saturating_add(rate.window.0))
    }

    /// What is to be written of it.
    fn repeated(&self) -> Option<Repeated> {
        let Counted { count, since, until } = self.counted?;
        Some(Repeated { of: self.last.index, count, since, until })
    }
}

impl Flood {
    /// The record that stands for this denial, which is counted with that; none if it is to have one of its own. What has
    /// ended by `now` must be taken before.
    pub(super) fn count(&mut self, decision: &Decision, rate: Rate, now: Millis, floor: Timestamp) -> Option<AuditRef> {
        let kind = self.kinds.get_mut(&key(decision))?;
        if kind.recorded < rate.alike_max || now >= kind.ends(rate) {
            return None;
        }
        if crate::mutant::active(crate::mutant::Mutant::RepeatedNotCounted) {
            return Some(kind.last);
        }
        let counted = kind.counted.get_or_insert(Counted { count: 0, since: floor, until: floor });
        counted.count += 1;
        counted.until = floor;
        Some(kind.last)
    }

    /// A denial has a record. What has to go out for it is returned, to be written.
    pub(super) fn recorded(&mut self, decision: &Decision, at: AuditRef, now: Millis) -> Option<Repeated> {
        let key = key(decision);
        if let Some(kind) = self.kinds.get_mut(&key) {
            // What was counted until now carries the name of the one before.
            let repeated = kind.repeated();
            (kind.recorded, kind.last, kind.counted) = (kind.recorded.saturating_add(1), at, None);
            return repeated;
        }
        let full = self.kinds.len() >= KINDS_MAX;
        let oldest = self.kinds.iter().filter(|_| full).min_by_key(|(_, kind)| kind.began).map(|(key, _)| *key);
        let gone = oldest.and_then(|oldest| self.kinds.remove(&oldest));
        self.kinds.insert(key, Kind { began: now, recorded: 1, last: at, counted: None });
        gone.and_then(|kind| kind.repeated())
    }

    /// Takes out what has ended: what was counted of it, to be written.
    pub(super) fn ended(&mut self, rate: Rate, now: Millis) -> Vec<Repeated> {
        let mut counts = Vec::new();
        self.kinds.retain(|_, kind| {
            let goes_on = now < kind.ends(rate);
            counts.extend(kind.repeated().filter(|_| !goes_on));
            goes_on
        });
        counts.sort_unstable_by_key(|repeated: &Repeated| repeated.of);
        counts
    }

    /// Takes out everything: what was counted, to be written.
    pub(super) fn all(&mut self) -> Vec<Repeated> {
        let mut counts: Vec<Repeated> = std::mem::take(&mut self.kinds).values().filter_map(Kind::repeated).collect();
        counts.sort_unstable_by_key(|repeated| repeated.of);
        counts
    }

    /// Whether nothing is remembered.
    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// When the next count is to be written.
    pub(super) fn deadline(&self, rate: Rate) -> Option<Millis> {
        self.kinds.values().filter(|kind| kind.counted.is_some()).map(|kind| kind.ends(rate)).min()
    }
}

/// Two denials are the same if their records would differ in nothing but times, staleness and width. Of the credential, it
/// takes the form in full: by whichever record it is named, it is the same.
fn key(decision: &Decision) -> Hash {
    let known = Known { staleness_s: 0, width_ms: None, ..decision.known.clone() };
    Hash::of("alike", &[&encode(&Decision { known, ..decision.clone() })])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::audit::{Credential, Named};

    const RATE: Rate = Rate { alike_max: 2, window: Millis(1000) };

    fn denial(resource: &str) -> Decision {
        Decision {
            allow: false,
            reason: "no_right".into(),
            operation: "write".into(),
            resource: resource.into(),
            destination: None,
            risk: None,
            arguments: None,
            credential: Credential::Nothing,
            workload: vec!["unix:uid:1".into()],
            enforcer: Vec::new(),
            known: Known::default(),
        }
    }

    fn at(index: u64) -> AuditRef {
        AuditRef { era: 1, segment: 0, index }
    }

    fn count(flood: &mut Flood, decision: &Decision, now: u64) -> Option<u64> {
        flood.count(decision, RATE, Millis(now), Timestamp(now)).map(|before| before.index)
    }

    fn repeated(of: u64, count: u64, since: u64, until: u64) -> Repeated {
        Repeated { of, count, since: Timestamp(since), until: Timestamp(until) }
    }

    #[test]
    fn a_window_begins_with_the_first_and_ends_with_a_count() {
        let (mut flood, a) = (Flood::default(), denial("a"));
        for (index, now) in [(5, 100), (6, 200)] {
            assert_eq!(count(&mut flood, &a, now), None);
            assert_eq!(flood.recorded(&a, at(index), Millis(now)), None);
        }
        assert_eq!(flood.deadline(RATE), None, "nothing is counted");
        assert_eq!([300, 400, 500].map(|now| count(&mut flood, &a, now)), [Some(6); 3]);
        assert_eq!(flood.deadline(RATE), Some(Millis(1100)));
        assert_eq!(flood.ended(RATE, Millis(1099)), []);
        assert_eq!(count(&mut flood, &a, 1100), None, "it is over, whoever takes the count");
        assert_eq!(flood.ended(RATE, Millis(1100)), [repeated(6, 3, 300, 500)]);
        assert_eq!((flood.deadline(RATE), flood.all()), (None, Vec::new()));
    }

    #[test]
    fn times_alone_do_not_tell_denials_apart_and_all_else_does() {
        let (mut flood, a) = (Flood::default(), denial("a"));
        flood.recorded(&a, at(1), Millis(0));
        flood.recorded(&a, at(2), Millis(0));
        let later = Known { staleness_s: 9, width_ms: Some(Millis(4)), ..Known::default() };
        assert_eq!(count(&mut flood, &Decision { known: later, ..a.clone() }, 1), Some(2));
        let named = Named {
            owner: "ops".into(),
            grant: Default::default(),
            task: None,
            chain: Vec::new(),
            step: None,
            initiator: None,
        };
        let others = [
            Decision { reason: "revoked".into(), ..a.clone() },
            Decision { operation: "read".into(), ..a.clone() },
            Decision { resource: "a/b".into(), ..a.clone() },
            Decision { destination: Some("a".into()), ..a.clone() },
            Decision { risk: Some("low".parse().unwrap()), ..a.clone() },
            Decision { arguments: Some(Hash::ZERO), ..a.clone() },
            Decision { credential: Credential::Named(Box::new(named)), ..a.clone() },
            Decision { workload: Vec::new(), ..a.clone() },
            Decision { workload: Vec::new(), enforcer: vec!["unix:uid:1".into()], ..a.clone() },
            Decision { known: Known { mode: "stale".into(), ..Known::default() }, ..a.clone() },
            Decision { known: Known { freshness: "stale".into(), ..Known::default() }, ..a.clone() },
            Decision { known: Known { time_class: "strict".into(), ..Known::default() }, ..a.clone() },
            Decision { known: Known { bundle_version: 2, ..Known::default() }, ..a.clone() },
            Decision { known: Known { policy_version: 2, ..Known::default() }, ..a.clone() },
            Decision { known: Known { feed_seq: Some(0), ..Known::default() }, ..a.clone() },
        ];
        for other in others {
            assert_eq!(count(&mut flood, &other, 1), None, "{other:?}");
        }
    }

    #[test]
    fn what_goes_out_is_counted_first_and_the_oldest_goes() {
        let mut flood = Flood::default();
        let kinds: Vec<Decision> = (0..=KINDS_MAX).map(|n| denial(&format!("r/{n}"))).collect();
        for (kind, n) in kinds[..KINDS_MAX].iter().zip(0..) {
            assert_eq!(flood.recorded(kind, at(2 * n), Millis(n)), None);
            assert_eq!(flood.recorded(kind, at(2 * n + 1), Millis(n)), None);
            assert_eq!(count(&mut flood, kind, 100), Some(2 * n + 1));
        }
        assert_eq!(flood.recorded(&kinds[KINDS_MAX], at(500), Millis(100)), Some(repeated(1, 1, 100, 100)));
        assert_eq!(flood.kinds.len(), KINDS_MAX);
        assert_eq!(flood.all().len(), KINDS_MAX - 1);
        assert_eq!(flood.all(), []);
    }

    #[test]
    fn a_record_in_a_window_ends_what_was_counted_under_the_name_of_the_one_before() {
        let (mut flood, a) = (Flood::default(), denial("a"));
        flood.recorded(&a, at(1), Millis(0));
        flood.recorded(&a, at(2), Millis(0));
        assert_eq!(count(&mut flood, &a, 5), Some(2));
        assert_eq!(flood.recorded(&a, at(3), Millis(6)), Some(repeated(2, 1, 5, 5)));
        assert_eq!(count(&mut flood, &a, 7), Some(3));
        assert_eq!(flood.all(), [repeated(3, 1, 7, 7)]);
    }
}
