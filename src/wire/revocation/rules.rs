//! Rules in 48 bytes or less.
//!
//! Owns: [`Selector`], what a rule covers, in a fixed order and with names of bounded length; its bytes.
//! Never: knows single blocks, which are fingerprints or whole ids.
//! Read next: `set.rs`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::bytes::{put_number, Reader};
use super::Target;
use crate::ids::{GrantId, Hash};
use crate::time::Timestamp;
use crate::wire::Refused;

/// The most bytes of one rule.
pub const RULE_BYTES_MAX: usize = 48;
/// The longest name that a rule holds as it is. A longer one is held as its digest.
pub const NAME_BYTES_MAX: usize = 32;

/// A name in a rule: the text of 1 to [`NAME_BYTES_MAX`] bytes, or the SHA-256 of any other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Bytes of the text, 0 for a digest: it sorts as its bytes on the wire do.
    length: u8,
    bytes: [u8; 32],
}

impl Name {
    /// The name as rules of this kind hold it. A rule covers a name if and only if both have the same form.
    fn of(tag: u8, text: &str) -> Self {
        let mut bytes = [0; 32];
        match bytes.get_mut(..text.len()) {
            Some(room) if !room.is_empty() => {
                room.copy_from_slice(text.as_bytes());
                Self { length: text.len() as u8, bytes }
            }
            Some(_) | None => {
                Self { length: 0, bytes: Hash::of("hardtack/rule-name/v1", &[&[tag], text.as_bytes()]).0 }
            }
        }
    }

    /// The text, if it was short enough to be held.
    pub fn text(&self) -> Option<&str> {
        let text = self.bytes.get(..usize::from(self.length)).filter(|text| !text.is_empty())?;
        std::str::from_utf8(text).ok()
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.length);
        let length = if self.length == 0 { self.bytes.len() } else { usize::from(self.length) };
        out.extend(&self.bytes[..length]);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Refused> {
        let length = reader.byte()?;
        let mut bytes = [0; 32];
        if length == 0 {
            bytes = reader.array()?;
        } else {
            let room = bytes.get_mut(..usize::from(length)).ok_or(Refused::Malformed("a name too long for a rule"))?;
            room.copy_from_slice(reader.take(usize::from(length))?);
            std::str::from_utf8(room).map_err(|_| Refused::Malformed("a name that is not UTF-8"))?;
        }
        Ok(Self { length, bytes })
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => write!(f, "{text:?}"),
            None => write!(f, "sha256:{}", Hash(self.bytes)),
        }
    }
}

/// What a rule covers: a [`Target`] other than a block, in a form of fixed size. The order is that of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub enum Selector {
    /// Every token there is.
    All,
    /// Tokens for this audience.
    Audience(Name),
    /// Tokens for this device. The device itself locks.
    Device(Name),
    /// Tokens of this grant.
    Grant(GrantId),
    /// Tokens for this group.
    Group(Name),
    /// Tokens issued before this time.
    IssuedBefore(Timestamp),
    /// Tokens of this owner.
    Owner(Name),
    /// Tokens signed by this root key.
    RootKey(u32),
    /// Tokens that hold this task as a label in any block.
    Task(Name),
}

const ALL: u8 = 0;
const AUDIENCE: u8 = 1;
const DEVICE: u8 = 2;
const GRANT: u8 = 3;
const GROUP: u8 = 4;
const ISSUED_BEFORE: u8 = 5;
const OWNER: u8 = 6;
const ROOT_KEY: u8 = 7;
const TASK: u8 = 8;

impl Selector {
    /// Tokens for this audience.
    pub fn audience(text: &str) -> Self {
        Self::Audience(Name::of(AUDIENCE, text))
    }

    /// Tokens for this device.
    pub fn device(text: &str) -> Self {
        Self::Device(Name::of(DEVICE, text))
    }

    /// Tokens for this group.
    pub fn group(text: &str) -> Self {
        Self::Group(Name::of(GROUP, text))
    }

    /// Tokens of this owner.
    pub fn owner(text: &str) -> Self {
        Self::Owner(Name::of(OWNER, text))
    }

    /// Tokens with this task.
    pub fn task(text: &str) -> Self {
        Self::Task(Name::of(TASK, text))
    }

    /// Whether this covers all that `other` covers, by what the two say: everything covers all there is, a later time covers
    /// what an earlier one does, and each covers itself. Which grants a device or an owner has is in a ledger, and no rule.
    pub fn implies(&self, other: &Self) -> bool {
        match self {
            Self::All => true,
            Self::IssuedBefore(time) => matches!(other, Self::IssuedBefore(earlier) if earlier <= time),
            Self::Audience(_)
            | Self::Device(_)
            | Self::Grant(_)
            | Self::Group(_)
            | Self::Owner(_)
            | Self::RootKey(_)
            | Self::Task(_) => self == other,
        }
    }

    /// The compact form of a target, None for a block.
    pub fn of(target: &Target) -> Option<Self> {
        Some(match target {
            Target::All => Self::All,
            Target::Audience(audience) => Self::audience(audience),
            Target::Block(_) => return None,
            Target::Device(device) => Self::device(device.as_str()),
            Target::Grant(grant) => Self::Grant(*grant),
            Target::Group(group) => Self::group(group.as_str()),
            Target::IssuedBefore(time) => Self::IssuedBefore(*time),
            Target::Owner(owner) => Self::owner(owner),
            Target::RootKey(key) => Self::RootKey(*key),
            Target::Task(task) => Self::task(task.as_str()),
        })
    }

    /// The target, None where only the digest of its name is held, or the name is none that such a thing may have.
    pub fn target(&self) -> Option<Target> {
        Some(match self {
            Self::All => Target::All,
            Self::Audience(name) => Target::Audience(name.text()?.to_owned()),
            Self::Device(name) => Target::Device(name.text()?.parse().ok()?),
            Self::Grant(grant) => Target::Grant(*grant),
            Self::Group(name) => Target::Group(name.text()?.parse().ok()?),
            Self::IssuedBefore(time) => Target::IssuedBefore(*time),
            Self::Owner(name) => Target::Owner(name.text()?.to_owned()),
            Self::RootKey(key) => Target::RootKey(*key),
            Self::Task(name) => Target::Task(name.text()?.parse().ok()?),
        })
    }

    fn put(&self, out: &mut Vec<u8>) {
        let mut named = |tag, name: &Name| {
            out.push(tag);
            name.put(out);
        };
        match self {
            Self::All => out.push(ALL),
            Self::Audience(name) => named(AUDIENCE, name),
            Self::Device(name) => named(DEVICE, name),
            Self::Grant(grant) => {
                out.push(GRANT);
                out.extend(grant.as_bytes());
            }
            Self::Group(name) => named(GROUP, name),
            Self::IssuedBefore(time) => {
                out.push(ISSUED_BEFORE);
                out.extend(time.0.to_be_bytes());
            }
            Self::Owner(name) => named(OWNER, name),
            Self::RootKey(key) => {
                out.push(ROOT_KEY);
                out.extend(key.to_be_bytes());
            }
            Self::Task(name) => named(TASK, name),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Refused> {
        Ok(match reader.byte()? {
            ALL => Self::All,
            AUDIENCE => Self::Audience(Name::read(reader)?),
            DEVICE => Self::Device(Name::read(reader)?),
            GRANT => Self::Grant(GrantId(reader.array()?)),
            GROUP => Self::Group(Name::read(reader)?),
            ISSUED_BEFORE => Self::IssuedBefore(Timestamp(u64::from_be_bytes(reader.array()?))),
            OWNER => Self::Owner(Name::read(reader)?),
            ROOT_KEY => Self::RootKey(u32::from_be_bytes(reader.array()?)),
            TASK => Self::Task(Name::read(reader)?),
            _ => return Err(Refused::Malformed("a rule of a kind that is not known")),
        })
    }
}

impl From<Selector> for Vec<u8> {
    fn from(selector: Selector) -> Self {
        let mut bytes = Self::new();
        selector.put(&mut bytes);
        bytes
    }
}

impl TryFrom<Vec<u8>> for Selector {
    type Error = Refused;
    fn try_from(bytes: Vec<u8>) -> Result<Self, Refused> {
        let mut reader = Reader::new(&bytes);
        let selector = Self::read(&mut reader)?;
        match reader.is_empty() {
            true => Ok(selector),
            false => Err(Refused::Malformed("bytes left over")),
        }
    }
}

/// As an operator names it: `task t-1`, `issued-before 2026-03-01T00:00:00Z`, `all`.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut named = |kind: &str, name: &Name| match name.text() {
            Some(text) => write!(f, "{kind} {text}"),
            None => write!(f, "{kind} {name:?}"),
        };
        match self {
            Self::All => f.write_str("all"),
            Self::Audience(name) => named("audience", name),
            Self::Device(name) => named("device", name),
            Self::Grant(grant) => write!(f, "grant {grant}"),
            Self::Group(name) => named("group", name),
            Self::IssuedBefore(time) => write!(f, "issued-before {time}"),
            Self::Owner(name) => named("owner", name),
            Self::RootKey(key) => write!(f, "root-key {key}"),
            Self::Task(name) => named("task", name),
        }
    }
}

/// Appends a rule: what it covers, and when it lapses.
pub(super) fn put_rule(out: &mut Vec<u8>, selector: &Selector, until: Timestamp) {
    selector.put(out);
    put_number(out, until.0);
}

pub(super) fn read_rule(reader: &mut Reader<'_>) -> Result<(Selector, Timestamp), Refused> {
    Ok((Selector::read(reader)?, Timestamp(reader.number(u64::MAX)?)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes_of(selector: &Selector) -> Vec<u8> {
        let mut bytes = Vec::new();
        selector.put(&mut bytes);
        bytes
    }

    #[test]
    fn every_target_but_a_block_has_a_compact_form() {
        let targets = [
            Target::All,
            Target::Audience("pumps".into()),
            Target::Device("gw-07".parse().unwrap()),
            Target::Grant(GrantId([3; 16])),
            Target::Group("north".parse().unwrap()),
            Target::IssuedBefore(Timestamp(1_772_359_200_000)),
            Target::Owner("ops@acme".into()),
            Target::RootKey(7),
            Target::Task("t-1".parse().unwrap()),
        ];
        for target in targets {
            assert_eq!(Selector::of(&target).and_then(|selector| selector.target()), Some(target));
        }
        assert_eq!(Selector::of(&Target::Block(crate::ids::BlockId([1; 32]))), None);
    }

    #[test]
    fn long_names_are_held_as_digests_and_no_rule_is_long() {
        let (short, long) = ("d".repeat(NAME_BYTES_MAX), "d".repeat(NAME_BYTES_MAX + 1));
        assert!(Selector::device(&short).target().is_some() && Selector::device(&long).target().is_none());
        assert_ne!(Selector::device(&long), Selector::device(&format!("{long}d")));
        assert_ne!(bytes_of(&Selector::device(&long))[2..], bytes_of(&Selector::owner(&long))[2..]);
        for selector in [Selector::device(&short), Selector::device(&long), Selector::Grant(GrantId([3; 16]))] {
            let mut bytes = Vec::new();
            put_rule(&mut bytes, &selector, Timestamp(u64::MAX));
            assert!(bytes.len() <= RULE_BYTES_MAX, "{selector:?}");
        }
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let name = prop_oneof!["[ab]{0,3}", "[a-z]{28,40}"];
        prop_oneof![
            Just(Selector::All),
            name.clone().prop_map(|name| Selector::audience(&name)),
            name.clone().prop_map(|name| Selector::device(&name)),
            any::<[u8; 16]>().prop_map(|id| Selector::Grant(GrantId(id))),
            any::<u64>().prop_map(|time| Selector::IssuedBefore(Timestamp(time))),
            name.prop_map(|name| Selector::task(&name)),
            any::<u32>().prop_map(Selector::RootKey),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_order_is_that_of_the_bytes(a in selector(), b in selector()) {
            prop_assert_eq!(a.cmp(&b), bytes_of(&a).cmp(&bytes_of(&b)));
        }

        #[test]
        fn bytes_that_are_taken_are_the_only_ones_that_say_it(bytes in prop::collection::vec(any::<u8>(), 0..60), a in selector()) {
            let mut reader = Reader::new(&bytes);
            if let Ok((selector, until)) = read_rule(&mut reader) {
                let mut again = Vec::new();
                put_rule(&mut again, &selector, until);
                prop_assert_eq!(&bytes[..bytes.len() - reader.rest().len()], &again[..]);
            }
            prop_assert_eq!(Selector::read(&mut Reader::new(&bytes_of(&a))), Ok(a));
        }
    }
}
