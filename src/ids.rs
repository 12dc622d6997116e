//! Names and fixed-size identifiers, checked once at the door.
//!
//! Owns: the newtypes that everything else is keyed by, their text forms and their limits.
//! Never: decides anything, reads anything.
//! Read next: `wire/mod.rs`, which puts them into what is signed and sent.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Why a text or byte string is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The text is empty, too long, or holds a character that is not allowed.
    #[error("{kind} {text:?} is not valid: use 1 to {max} characters from a-z A-Z 0-9 . _ - that begin with a letter or digit")]
    Name {
        /// What was being named.
        kind: &'static str,
        /// The text, shortened.
        text: String,
        /// The most characters allowed.
        max: usize,
    },
    /// The text is not the hexadecimal form of the right length.
    #[error("{kind} must be {chars} hexadecimal digits, not {text:?}")]
    Hex {
        /// What was being named.
        kind: &'static str,
        /// The text, shortened.
        text: String,
        /// The number of digits expected.
        chars: usize,
    },
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The most characters that a name of this kind has.
            pub const MAX: usize = $max;

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
                let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
                if !first || !rest || text.len() > Self::MAX {
                    return Err(InvalidId::Name { kind: $kind, text: shorten(&text), max: Self::MAX });
                }
                Ok(Self(text.into_boxed_str()))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.into_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A device: its MQTT client id, user name and certificate's common name are this text.
    DeviceId, "device id", 48
);
name!(
    /// A fleet: the name that `fleet init --name` gave it, part of every signature's domain and every topic.
    FleetId, "fleet name", 32
);
name!(
    /// A revocation feed, named in topics and in tokens.
    FeedId, "feed name", 32
);
name!(
    /// A group of devices.
    GroupId, "group name", 32
);
name!(
    /// A class of task, as grants name it in `may_begin` and `class_right`.
    TaskClass, "task class", 48
);
name!(
    /// One task. The agent makes it; a token carries it as the label `for_task`.
    TaskId, "task id", 48
);
name!(
    /// One step of a task. The agent makes it; a token carries it as the label `for_step`.
    StepId, "step id", 48
);
name!(
    /// A class of risk, `low`, `high`, …, ordered by the policy's table.
    RiskClass, "risk class", 24
);

macro_rules! bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl Default for $name {
            fn default() -> Self {
                Self([0; $len])
            }
        }

        impl $name {
            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let bad = || InvalidId::Hex { kind: $kind, text: shorten(text), chars: $len * 2 };
                let bytes = unhex(text).ok_or_else(bad)?;
                bytes.try_into().map(Self).map_err(|_| bad())
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.serialize_str(&hex(&self.0))
                } else {
                    serde::Serialize::serialize(&ByteArray(self.0), serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    ByteArray::<$len>::deserialize(deserializer).map(|a| Self(a.0))
                }
            }
        }
    };
}

bytes!(
    /// The first eight bytes of a public key's SHA-256: which key signed.
    KeyId, 8, "key id"
);
bytes!(
    /// A SHA-256 digest.
    Hash, 32, "digest"
);
bytes!(
    /// SHA-256 of one Biscuit block's revocation id, which is the block's Ed25519 signature. Revoking it revokes
    /// every token that holds the block.
    BlockId, 32, "block id"
);
bytes!(
    /// The 128 random bits of `grant(id)`.
    GrantId, 16, "grant id"
);
bytes!(
    /// The kernel's boot id.
    BootId, 16, "boot id"
);
bytes!(
    /// A single-use random number of a round trip.
    Nonce, 16, "nonce"
);

impl KeyId {
    /// The id of a public key.
    pub fn of(public: &[u8]) -> Self {
        let digest = Sha256::digest(public);
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        Self(id)
    }
}

impl Hash {
    /// The digest of nothing at all, where a chain begins.
    pub const ZERO: Self = Self([0; 32]);

    /// SHA-256 over a domain prefix, a zero byte and the parts, each part with its length in front (64 bits, little
    /// endian), so that no two lists of parts collide.
    pub fn of(domain: &str, parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(domain.as_bytes());
        hasher.update([0]);
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// The first eight bytes as text, for a person.
    pub fn short(&self) -> String {
        hex(&self.0[..8])
    }
}

impl BlockId {
    /// The id of a block from its signature bytes.
    pub fn of_signature(signature: &[u8]) -> Self {
        Self(Sha256::digest(signature).into())
    }
}

/// One start of one agent: a number that only rises and 64 random bits, so that a lost tail is never numbered again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct EraId {
    /// Rises by one at each start. Names the folder, and stands in `decision_id`.
    pub number: u64,
    /// Random. Two eras of one number with two salts prove a clone or a restored disk.
    pub salt: u64,
}

impl fmt::Display for EraId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number)
    }
}

/// A byte array of any length for serde, which itself stops at 32.
#[derive(Clone, Copy)]
pub(crate) struct ByteArray<const N: usize>(pub(crate) [u8; N]);

impl<const N: usize> Serialize for ByteArray<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        let mut tuple = serializer.serialize_tuple(N)?;
        for byte in &self.0 {
            tuple.serialize_element(byte)?;
        }
        tuple.end()
    }
}

impl<'de, const N: usize> Deserialize<'de> for ByteArray<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<const N: usize>;
        impl<'de, const N: usize> serde::de::Visitor<'de> for Visitor<N> {
            type Value = [u8; N];
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{N} bytes")
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<[u8; N], A::Error> {
                let mut bytes = [0; N];
                for (i, slot) in bytes.iter_mut().enumerate() {
                    *slot = seq.next_element()?.ok_or_else(|| serde::de::Error::invalid_length(i, &self))?;
                }
                Ok(bytes)
            }
        }
        deserializer.deserialize_tuple(N, Visitor::<N>).map(Self)
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// The bytes of a hexadecimal text, if it is one.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_at_the_door() {
        check_name("gw-07", true);
        check_name("A.b_c-9", true);
        check_name("", false);
        check_name("-gw", false);
        check_name("gw/07", false);
        check_name("gw+", false);
        check_name("gw\n", false);
        check_name("é", false);
        check_name(&"a".repeat(49), false);
    }

    #[track_caller]
    fn check_name(text: &str, valid: bool) {
        assert_eq!(text.parse::<DeviceId>().is_ok(), valid, "{text:?}");
    }

    #[test]
    fn hexadecimal_goes_both_ways_and_refuses_the_rest() {
        let id = GrantId([0xab; 16]);
        assert_eq!(id.to_string().parse::<GrantId>(), Ok(id));
        for bad in ["", "ab", "zz", "é", &"a".repeat(33), &"+1".repeat(16)] {
            assert!(bad.parse::<GrantId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn postcard_keeps_arrays_bare() {
        let id = Hash([7; 32]);
        let bytes = postcard::to_stdvec(&id).unwrap();
        assert_eq!(bytes.len(), 32);
        assert_eq!(postcard::from_bytes::<Hash>(&bytes).unwrap(), id);
    }
}
