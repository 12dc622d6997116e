//! What an operator revokes with a key of his own, when the fleet's service or its feed key is out of reach.
//!
//! Owns: [`Emergency`], the statement, its bytes and their limits; what must hold of one whose signature is checked; which rules
//! are superfluous beside others ([`drop_superfluous`]).
//! Never: lifts anything: a statement only adds. Says nothing of how new what is known is, or of what time it is.
//! Read next: `agent/emergency.rs`, which takes it; `docs/revocation-format.md` for the bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bytes::{put_number, Reader};
use super::rules::{put_rule, read_rule, Selector};
use crate::ids::{FleetId, KeyId};
use crate::mutant::{self, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::bundle::{EmergencyKey, TrustBundle};
use crate::wire::envelope::{Document, Signed};
use crate::wire::Refused;

/// The longest that a rule of an emergency key may live, from when its statement was signed; and the longest that a device
/// holds to it from when it has first seen it, by its powered-on clock.
pub const LIFE_MAX: Millis = Millis::from_secs(72 * 3600);
/// The most rules in a statement.
pub const RULES_MAX: usize = 64;
/// The most bytes of the reason of a rule.
pub const REASON_BYTES_MAX: usize = 200;

/// What one operator has revoked, all of it that is in force. Signed by his key and no other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Emergency {
    /// His key.
    pub key: KeyId,
    /// 1, 2, 3, … for this key. A device takes no lower one, and no other content for the same.
    pub counter: u64,
    /// When it was signed, by the operator's clock.
    pub issued_at: Timestamp,
    /// The newest trust bundle that he knew. A device that has not heard of his key waits for that one.
    pub bundle_version: u64,
    /// What is revoked, until when and why.
    pub rules: Rules,
}

impl Document for Emergency {
    const KIND: &'static str = "emergency";
}

impl Emergency {
    /// The statement, if exactly the named key signed it for `fleet` and nothing in it is more than such a key may say.
    ///
    /// # Errors
    /// What the signature says; [`Refused::LivesTooLong`] for a rule past [`LIFE_MAX`]; [`Refused::Malformed`].
    pub fn open(signed: &Signed<Self>, fleet: &FleetId, key: &EmergencyKey) -> Result<Self, Refused> {
        let statement = signed.open(fleet, [key.key.verifying()], 1)?;
        if statement.key != key.id() {
            return Err(Refused::Malformed("an emergency statement that names another key than signed it"));
        }
        statement.check()?;
        Ok(statement)
    }

    /// The statement, if a key that `trust` names for emergencies signed it.
    ///
    /// # Errors
    /// [`Refused::UnknownKey`] for a key that is not named; as [`Emergency::open`].
    pub fn open_by<'t>(signed: &Signed<Self>, trust: &'t TrustBundle) -> Result<(Self, &'t EmergencyKey), Refused> {
        let named = trust.emergency_key(signed.claim()?.key).ok_or(Refused::UnknownKey { valid: 0, needed: 1 })?;
        Ok((Self::open(signed, &trust.fleet, named)?, named))
    }

    fn check(&self) -> Result<(), Refused> {
        if self.counter == 0 {
            return Err(Refused::Malformed("an emergency statement numbered 0"));
        }
        if !self.rules.declared().all(Declared::has_reason) {
            return Err(Refused::Malformed("an emergency rule without a reason, or with one that is no line"));
        }
        let end = self.issued_at + LIFE_MAX;
        let latest = self.rules.iter().map(|(_, until)| until).max().unwrap_or_default();
        if latest > end && !mutant::active(Mutant::EmergencyLifeUnchecked) {
            return Err(Refused::LivesTooLong { life_s: latest.since(self.issued_at).secs_ceil() });
        }
        Ok(())
    }
}

/// One thing that is revoked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Declared {
    /// What.
    pub selector: Selector,
    /// Until when.
    pub until: Timestamp,
    /// Why, for people: one line.
    pub reason: String,
}

impl Declared {
    fn has_reason(&self) -> bool {
        let Self { reason, .. } = self;
        !reason.trim().is_empty() && reason.len() <= REASON_BYTES_MAX && !reason.chars().any(bends)
    }
}

/// Whether a character ends a line, or has what stands beside it shown in another order: whoever steals a key must not be able to
/// make a reason look like something else.
fn bends(c: char) -> bool {
    let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') || reorders
}

/// One to [`RULES_MAX`] rules in the order of their bytes, each selector once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct Rules(Vec<Declared>);

impl Rules {
    /// Rules in their order; of two with one selector that which ends later, and the last of those that end at once.
    ///
    /// # Errors
    /// [`Refused::Malformed`] for none, or for more than [`RULES_MAX`].
    pub fn of(rules: impl IntoIterator<Item = Declared>) -> Result<Self, Refused> {
        let rules: Vec<_> = latest(rules).into_values().collect();
        check_count(rules.len())?;
        Ok(Self(rules))
    }

    /// The same, all for one reason.
    ///
    /// # Errors
    /// As [`Rules::of`].
    pub fn new(reason: &str, rules: impl IntoIterator<Item = (Selector, Timestamp)>) -> Result<Self, Refused> {
        let declared = |(selector, until)| Declared { selector, until, reason: reason.to_owned() };
        Self::of(rules.into_iter().map(declared))
    }

    /// What is revoked, until when and why.
    pub fn declared(&self) -> impl Iterator<Item = &Declared> {
        self.0.iter()
    }

    /// What is revoked, and until when.
    pub fn iter(&self) -> impl Iterator<Item = (Selector, Timestamp)> + '_ {
        self.0.iter().map(|rule| (rule.selector, rule.until))
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// Each thing that is revoked once: as the rule has it that ends last, and the last of those that end at once.
pub fn latest(rules: impl IntoIterator<Item = Declared>) -> BTreeMap<Selector, Declared> {
    let mut sorted: BTreeMap<Selector, Declared> = BTreeMap::new();
    for rule in rules {
        if sorted.get(&rule.selector).is_none_or(|known| known.until <= rule.until) {
            sorted.insert(rule.selector, rule);
        }
    }
    sorted
}

/// Drops every rule beside which another covers as much for as long. Whatever was revoked before, at any time, is revoked
/// afterwards. `lasts` says whether its first holds at least as long as its second, wherever and whenever somebody asks.
///
/// Whoever signs makes room with it, and whoever obeys does too: a statement on everything is never one too many.
pub fn drop_superfluous<L>(rules: &mut BTreeMap<Selector, L>, lasts: impl Fn(&L, &L) -> bool) {
    let is_superfluous = |selector: &Selector, life: &L| {
        rules.iter().any(|(other, its)| other != selector && other.implies(selector) && lasts(its, life))
    };
    let needed: Vec<bool> = rules.iter().map(|(selector, life)| !is_superfluous(selector, life)).collect();
    let mut needed = needed.into_iter();
    rules.retain(|_, _| needed.next().unwrap_or(true));
}

fn check_count(count: usize) -> Result<(), Refused> {
    match count {
        0 => Err(Refused::Malformed("an emergency statement without a rule")),
        1..=RULES_MAX => Ok(()),
        _ => Err(Refused::Malformed("an emergency statement with more than 64 rules")),
    }
}

impl From<Rules> for Vec<u8> {
    fn from(rules: Rules) -> Self {
        let mut bytes = Self::new();
        for Declared { selector, until, reason } in &rules.0 {
            put_rule(&mut bytes, selector, *until);
            put_number(&mut bytes, reason.len() as u64);
            bytes.extend(reason.as_bytes());
        }
        bytes
    }
}

impl TryFrom<Vec<u8>> for Rules {
    type Error = Refused;
    fn try_from(bytes: Vec<u8>) -> Result<Self, Refused> {
        let mut reader = Reader::new(&bytes);
        let mut rules: Vec<Declared> = Vec::new();
        while !reader.is_empty() {
            let (selector, until) = read_rule(&mut reader)?;
            if rules.last().is_some_and(|before| before.selector >= selector) {
                return Err(Refused::Malformed("rules out of their order"));
            }
            let length = reader.number(REASON_BYTES_MAX as u64)?;
            let reason = std::str::from_utf8(reader.take(length as usize)?);
            let reason = reason.map_err(|_| Refused::Malformed("a reason that is not UTF-8"))?.to_owned();
            rules.push(Declared { selector, until, reason });
            check_count(rules.len())?;
        }
        check_count(rules.len())?;
        Ok(Self(rules))
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{encode, MESSAGE_BYTES_MAX};

    const AT: Timestamp = Timestamp(1_790_000_000_000);

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn named(seed: u8) -> EmergencyKey {
        EmergencyKey { operator: "ann".into(), key: key(seed).verifying_key().into() }
    }

    fn statement(rules: Vec<(Selector, Timestamp)>) -> Emergency {
        let rules = Rules::new("stolen", rules).unwrap();
        Emergency { key: named(7).id(), counter: 1, issued_at: AT, bundle_version: 1, rules }
    }

    #[track_caller]
    fn check(edit: impl FnOnce(&mut Emergency), by: u8, expected: &str) {
        let fleet: FleetId = "acme".parse().unwrap();
        let mut said = statement(vec![(Selector::task("t-1"), AT + LIFE_MAX)]);
        edit(&mut said);
        let signed = Signed::sign(&said, &fleet, &[&key(by)]);
        let opened = Emergency::open(&signed, &fleet, &named(7));
        assert_eq!(opened.as_ref().map_or_else(Refused::name, |_| "taken"), expected, "{opened:?}");
    }

    #[test]
    fn a_statement_says_no_more_than_its_key_may() {
        let rules = |until| Rules::new("stolen", [(Selector::All, until)]).unwrap();
        check(|_| {}, 7, "taken");
        check(|_| {}, 8, "unknown_key");
        check(|said| said.key = named(8).id(), 7, "malformed");
        check(|said| said.counter = 0, 7, "malformed");
        check(|said| said.rules = rules(AT + LIFE_MAX + Millis(1)), 7, "lives_too_long");
        check(|said| said.rules = rules(AT + Millis::from_secs(73 * 3600)), 7, "lives_too_long");
        check(|said| said.rules = rules(Timestamp(u64::MAX)), 7, "lives_too_long");
        check(|said| said.issued_at = Timestamp(u64::MAX), 7, "taken");
        let long = "r".repeat(REASON_BYTES_MAX);
        let why = |reason: &str| Rules::new(reason, [(Selector::task("t-1"), AT)]).unwrap();
        check(|said| said.rules = why(&long), 7, "taken");
        check(|said| said.rules = why(" gestohlen\u{a0}– \u{202f}gw-07\u{2065}"), 7, "taken");
        let shown_otherwise = ["\u{200e}r", "r\u{200f}", "a\u{202a}b", "a\u{202e}b", "a\u{2066}b", "a\u{2069}b"];
        let no_line = ["", "  ", "two\nlines", "line\n", "\tline", "r\u{85}", "r\u{2028}", "\u{2029}r"];
        for reason in no_line.into_iter().chain(shown_otherwise).chain([format!("{long}r").as_str()]) {
            check(|said| said.rules = why(reason), 7, "malformed");
            // One such rule among others is enough.
            let fine = Declared { selector: Selector::All, until: AT, reason: "stolen".into() };
            let both = Rules::of(why(reason).declared().cloned().chain([fine])).unwrap();
            check(|said| said.rules = both, 7, "malformed");
        }
    }

    #[test]
    fn the_largest_statement_fits_a_message() {
        let rules = (0..RULES_MAX).map(|at| (Selector::owner(&format!("{at:0>40}")), Timestamp(u64::MAX)));
        let rules = Rules::new(&"r".repeat(REASON_BYTES_MAX), rules).unwrap();
        let said = Emergency { rules, ..statement(vec![(Selector::All, AT)]) };
        let signed = Signed::sign(&said, &"acme".parse().unwrap(), &[&key(7)]);
        assert!(signed.to_bytes().len() <= MESSAGE_BYTES_MAX);
        assert!(
            Rules::new("r", (0..=64).map(|at| (Selector::RootKey(at), AT))).is_err() && Rules::new("r", []).is_err()
        );
    }

    #[test]
    fn a_rule_is_superfluous_beside_one_that_covers_as_much_for_as_long() {
        let (early, late) = (Selector::IssuedBefore(Timestamp(1)), Selector::IssuedBefore(Timestamp(2)));
        let (task, device, owner) = (Selector::task("t-1"), Selector::device("gw-07"), Selector::owner("t-1"));
        let digest = Selector::task(&"t".repeat(40));
        type Case<'c> = (&'c [(Selector, u64)], &'c [Selector]);
        let cases: [Case<'_>; 9] = [
            (&[], &[]),
            (&[(Selector::All, 5), (task, 5), (device, 4), (late, 5), (digest, 1)], &[Selector::All]),
            (&[(Selector::All, 5), (task, 6), (device, 5)], &[Selector::All, task]),
            (&[(early, 5), (late, 5)], &[late]),
            (&[(early, 4), (late, 5)], &[late]),
            (&[(early, 5), (late, 4)], &[early, late]),
            (&[(early, 5), (late, 5), (Selector::All, 4)], &[Selector::All, late]),
            // Only a ledger knows what of these is whose.
            (&[(task, 1), (device, 5), (owner, 5)], &[device, owner, task]),
            (&[(Selector::task("t-2"), 9), (task, 1)], &[task, Selector::task("t-2")]),
        ];
        for (rules, needed) in cases {
            let mut left: BTreeMap<_, _> = rules.iter().copied().collect();
            drop_superfluous(&mut left, |its, life| its >= life);
            assert_eq!(left.into_keys().collect::<Vec<_>>(), needed, "{rules:?}");
        }
    }

    #[test]
    fn rules_have_one_form() {
        let (a, b) = ((Selector::RootKey(1), AT), (Selector::RootKey(2), AT));
        let declared = |&(selector, until): &_| Declared { selector, until, reason: "why".into() };
        let bytes = |rules: &[(Selector, Timestamp)]| -> Vec<u8> { Rules(rules.iter().map(declared).collect()).into() };
        assert_eq!(Rules::try_from(bytes(&[a, b])), Rules::new("why", [b, a]));
        for other in [vec![b, a], vec![a, a], vec![]] {
            assert!(Rules::try_from(bytes(&other)).is_err(), "{other:?}");
        }
        let many: Vec<_> = (0..65).map(|at| (Selector::RootKey(at), AT)).collect();
        assert!(Rules::try_from(bytes(&many)).is_err());
        let of =
            |after: u64, reason: &str| Declared { selector: a.0, until: AT + Millis(after), reason: reason.into() };
        for (rules, kept) in [
            ([of(0, "first"), of(1, "later")], of(1, "later")),
            ([of(1, "later"), of(0, "first")], of(1, "later")),
            ([of(1, "said"), of(1, "said again")], of(1, "said again")),
        ] {
            assert_eq!(Rules::of(rules).unwrap().declared().collect::<Vec<_>>(), [&kept]);
        }
    }

    fn selector() -> impl Strategy<Value = Selector> {
        prop_oneof![
            1 => Just(Selector::All),
            3 => (0..4_u64).prop_map(|time| Selector::IssuedBefore(Timestamp(time))),
            1 => (0..3_u32).prop_map(Selector::RootKey),
            1 => "[ab]".prop_map(|name| Selector::task(&name)),
            1 => "[ab]".prop_map(|name| Selector::device(&name)),
        ]
    }

    /// Whether rules revoke a token with these names that was issued then, as a verifier does it.
    fn revokes(rules: &BTreeMap<Selector, u64>, token: &[Selector], issued: u64, at: u64) -> bool {
        rules.iter().any(|(selector, until)| {
            let covers = match selector {
                Selector::All => true,
                Selector::IssuedBefore(time) => issued < time.0,
                other => token.contains(other),
            };
            covers && at <= *until
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_dropped_as_superfluous_is_revoked_all_the_same(
            before in prop::collection::btree_map(selector(), 0..6_u64, 0..12),
            token in prop::collection::vec(selector(), 0..4),
        ) {
            let mut after = before.clone();
            drop_superfluous(&mut after, |its, life| its >= life);
            prop_assert!(after.iter().all(|(selector, until)| before.get(selector) == Some(until)), "nothing is added");
            for (issued, at) in (0..5).flat_map(|issued| (0..7).map(move |at| (issued, at))) {
                let was = revokes(&before, &token, issued, at);
                prop_assert_eq!(revokes(&after, &token, issued, at), was, "issued {}, at {}", issued, at);
            }
            let once = after.clone();
            drop_superfluous(&mut after, |its, life| its >= life);
            prop_assert_eq!(&after, &once);
            let longest = before.values().all(|until| before.get(&Selector::All).is_some_and(|end| end >= until));
            prop_assert!(!longest || after.len() <= 1, "one rule on everything takes the place of all: {:?}", after);
        }

        #[test]
        fn bytes_that_are_taken_are_the_only_ones_that_say_it(bytes in prop::collection::vec(any::<u8>(), 0..80), at in any::<u64>()) {
            if let Ok(rules) = Rules::try_from(bytes.clone()) {
                prop_assert_eq!(Vec::from(rules), bytes.clone());
            }
            let mut encoded = encode(&statement(vec![(Selector::IssuedBefore(Timestamp(at)), Timestamp(at))]));
            prop_assert!(crate::wire::decode::<Emergency>(&encoded, 1000).is_ok());
            encoded.extend(&bytes);
            prop_assert_eq!(crate::wire::decode::<Emergency>(&encoded, 1000).is_ok(), bytes.is_empty());
        }
    }
}
