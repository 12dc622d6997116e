//! What is revoked from birth: whether a revocation in force covers what is about to be minted, and which.
//!
//! Owns: [`Covered`]; the feed's rules and those of emergency keys, asked alike, for devices obey both.
//! Never: mints; tells of a rule that has lapsed.
//! Read next: `grant.rs` and `issue.rs`, which ask before they mint.

use std::fmt;

use super::book::{Book, Grant};
use crate::ids::{DeviceId, KeyId};
use crate::time::Timestamp;
use crate::wire::revocation::emergency::LIFE_MAX;
use crate::wire::revocation::rules::Selector;
use crate::wire::revocation::Target;

/// A revocation in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Covered {
    /// What it covers, in words.
    pub what: String,
    /// Its end.
    pub until: Timestamp,
    /// The emergency key that says so and whose it is. None: the fleet's own feed says so.
    pub emergency: Option<(KeyId, String)>,
}

impl fmt::Display for Covered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is revoked until {}", self.what, self.until)?;
        match &self.emergency {
            Some((key, operator)) => write!(f, " by emergency key {key} of {operator}"),
            None => Ok(()),
        }
    }
}

/// The longest-lasting revocation in force of any of these targets, or of all that was issued at this time.
pub fn covered(book: &Book, targets: &[Target], issued: Option<Timestamp>, at: Timestamp) -> Option<Covered> {
    let before = |time: Timestamp| issued.is_some_and(|issued| issued < time);
    let by_feed = book.rules().filter(|rule| rule.until >= at).filter(|rule| match rule.target {
        Target::IssuedBefore(time) => before(time),
        Target::All
        | Target::Audience(_)
        | Target::Block(_)
        | Target::Device(_)
        | Target::Grant(_)
        | Target::Group(_)
        | Target::Owner(_)
        | Target::RootKey(_)
        | Target::Task(_) => targets.contains(&rule.target),
    });
    let by_feed = by_feed.map(|rule| Covered { what: named(&rule.target), until: rule.until, emergency: None });
    let selectors: Vec<Selector> = targets.iter().filter_map(Selector::of).collect();
    let by_key = book.emergencies().flat_map(|known| {
        known.in_force(at).map(move |(selector, until, ..)| (selector, until, (known.said.key, known.operator.clone())))
    });
    // What a thief dates into the future devices do not obey before: no rule lasts longer than that from now.
    let by_key = by_key.filter(|(_, until, _)| *until <= at + LIFE_MAX).filter(|(selector, ..)| match selector {
        Selector::IssuedBefore(time) => before(*time),
        // It may stand for a narrower one, which its statement has no place for.
        Selector::All => !selectors.is_empty(),
        Selector::Audience(_)
        | Selector::Device(_)
        | Selector::Grant(_)
        | Selector::Group(_)
        | Selector::Owner(_)
        | Selector::RootKey(_)
        | Selector::Task(_) => selectors.contains(selector),
    });
    let by_key = by_key.map(|(selector, until, by)| Covered { what: words(&selector), until, emergency: Some(by) });
    by_feed.chain(by_key).max_by_key(|covered| covered.until)
}

/// The revocation in force that covers a device, and all that is minted for it.
pub fn device(book: &Book, id: &DeviceId, at: Timestamp) -> Option<Covered> {
    covered(book, &[Target::All, Target::Device(id.clone())], None, at)
}

/// The revocation in force that covers a grant.
pub fn grant(book: &Book, grant: &Grant, at: Timestamp) -> Option<Covered> {
    let spec = &grant.spec;
    let targets = [
        Target::All,
        Target::Block(grant.block),
        Target::Device(spec.device.clone()),
        Target::Grant(spec.grant),
        Target::Owner(spec.owner.clone()),
        Target::RootKey(grant.root_key_id),
    ];
    covered(book, &targets, Some(spec.issued), at)
}

fn named(target: &Target) -> String {
    match (target, Selector::of(target)) {
        (Target::Block(block), _) => format!("block {block}"),
        (_, Some(selector)) => words(&selector),
        (_, None) => String::new(),
    }
}

fn words(selector: &Selector) -> String {
    match selector {
        Selector::All => "every token of the fleet".into(),
        Selector::IssuedBefore(time) => format!("what was issued before {time}"),
        Selector::RootKey(id) => format!("what root key {id} signs"),
        Selector::Audience(_)
        | Selector::Device(_)
        | Selector::Grant(_)
        | Selector::Group(_)
        | Selector::Owner(_)
        | Selector::Task(_) => selector.to_string(),
    }
}

#[cfg(test)]
pub(in crate::fleet) mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::book::Write;
    use super::super::emergency::Kept;
    use super::super::service::tests::{at, one_device};
    use super::super::Effects;
    use super::*;
    use crate::time::Millis;
    use crate::wire::envelope::Signed;
    use crate::wire::revocation::emergency::{Emergency, Rules};

    /// A statement of ann's emergency key comes into the ledger that revokes this for a day; its end.
    pub(in crate::fleet) fn declared(book: &mut Book, target: &Target, at: Timestamp) -> Timestamp {
        let until = at + Millis::from_secs(86_400);
        declare(book, target, at, until);
        until
    }

    fn declare(book: &mut Book, target: &Target, at: Timestamp, until: Timestamp) {
        let key = SigningKey::from_bytes(&[40; 32]);
        let said = Emergency {
            key: KeyId::of(key.verifying_key().as_bytes()),
            counter: 1,
            issued_at: at,
            bundle_version: 1,
            rules: Rules::new("stolen", [(Selector::of(target).unwrap(), until)]).unwrap(),
        };
        let statement = Signed::sign(&said, book.fleet(), &[&key]);
        let kept = Kept { operator: "ann".into(), at, statement };
        book.write(Write::Emergency(Box::new(kept)), &mut Effects::default());
    }

    /// A rule on everything may stand for one that its statement has no place for.
    #[test]
    fn an_emergency_rule_on_everything_covers_whatever_is_asked() {
        let (_, book, ..) = &mut one_device();
        let until = declared(book, &Target::All, at(100));
        let gw = Target::Device("gw-07".parse().unwrap());
        let told = covered(book, &[gw], None, at(100)).unwrap();
        assert_eq!((told.until, told.emergency.map(|(_, operator)| operator)), (until, Some("ann".into())));
    }

    #[test]
    fn what_a_thief_dates_into_the_future_covers_nothing_yet() {
        let (_, book, ..) = &mut one_device();
        let gw: DeviceId = "gw-07".parse().unwrap();
        let ends = at(20 * 86_400) + LIFE_MAX;
        declare(book, &Target::Device(gw.clone()), at(20 * 86_400), ends);
        assert_eq!(device(book, &gw, at(100)), None);
        let told = device(book, &gw, at(20 * 86_400)).unwrap().to_string();
        assert!(told.starts_with(&format!("device gw-07 is revoked until {ends} by emergency key ")), "{told}");
        assert!(told.ends_with(" of ann"), "{told}");
        assert_eq!(device(book, &"gw-08".parse().unwrap(), at(20 * 86_400)), None);
        assert_eq!(device(book, &gw, ends + Millis(1)), None, "it has ended");
    }
}
