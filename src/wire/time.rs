//! Signed time that anybody may carry to a device: on a stick, through a laptop, from a neighbour.
//!
//! Owns: [`TimeStatement`], [`TimeReset`] and the [`TimeFile`] that holds them.
//! Never: moves a clock. `agent/clock.rs` does.
//! Read next: `agent/rescue.rs`, which takes a file.

use serde::{Deserialize, Serialize};

use super::bundle::TrustBundle;
use super::envelope::{Document, Signed};
use super::revocation::announcement::Head;
use super::{decode, encode, Refused};
use crate::ids::{DeviceId, Nonce};
use crate::time::{Millis, Timestamp};

/// The most bytes of a [`TimeFile`]: every trust bundle may be in it.
pub const TIME_FILE_BYTES_MAX: usize = 256 * 1024;
/// The most heads or bundles in a file.
pub const ITEMS_MAX: usize = 64;

/// It was this time or later when it was signed. Signed by a service key; it only ever raises the floor E.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimeStatement {
    /// The time.
    pub time: Timestamp,
    /// How far that may be off.
    pub radius_ms: Millis,
}

impl Document for TimeStatement {
    const KIND: &'static str = "time";
    const BYTES_MAX: usize = 1024;
}

/// The only way back: it is this time, says a threshold of root keys to one device in answer to its nonce.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimeReset {
    /// The device.
    pub device: DeviceId,
    /// The nonce that it made for this, good once and in this boot.
    pub nonce: Nonce,
    /// The time when it was signed.
    pub time: Timestamp,
    /// How far that may be off.
    pub radius_ms: Millis,
}

impl Document for TimeReset {
    const KIND: &'static str = "time-reset";
    const BYTES_MAX: usize = 4096;
}

/// What a file with signed time holds.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum TimeFile {
    /// For one device, by the root keys.
    Reset(Signed<TimeReset>),
    /// For every device of the fleet.
    Statement {
        /// Trust bundles, so that a device that missed a change of keys can check the rest.
        bundles: Vec<Signed<TrustBundle>>,
        /// Revocation heads: the time of another role, without which a long jump would have to wait.
        heads: Vec<Signed<Head>>,
        /// The statement.
        statement: Signed<TimeStatement>,
    },
}

impl TimeFile {
    /// The file's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        encode(self)
    }

    /// Parses a file without trusting it.
    ///
    /// # Errors
    /// [`Refused::TooLarge`] or [`Refused::Malformed`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refused> {
        let file: Self = decode(bytes, TIME_FILE_BYTES_MAX)?;
        match &file {
            Self::Statement { bundles, heads, .. } if bundles.len() > ITEMS_MAX || heads.len() > ITEMS_MAX => {
                Err(Refused::Malformed("more heads or bundles than such a file holds"))
            }
            Self::Reset(_) | Self::Statement { .. } => Ok(file),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    #[test]
    fn a_file_goes_both_ways_and_a_cut_one_is_refused() {
        let (key, fleet) = (SigningKey::from_bytes(&[1; 32]), "acme".parse().unwrap());
        let statement = TimeStatement { time: Timestamp(5), radius_ms: Millis(6) };
        let reset = TimeReset {
            device: "gw".parse().unwrap(),
            nonce: Nonce([7; 16]),
            time: Timestamp(8),
            radius_ms: Millis(9),
        };
        let files = [
            TimeFile::Reset(Signed::sign(&reset, &fleet, &[&key])),
            TimeFile::Statement {
                bundles: vec![],
                heads: vec![],
                statement: Signed::sign(&statement, &fleet, &[&key]),
            },
        ];
        for file in files {
            let bytes = file.to_bytes();
            assert_eq!(TimeFile::from_bytes(&bytes), Ok(file));
            for cut in 0..bytes.len() {
                assert!(TimeFile::from_bytes(&bytes[..cut]).is_err(), "cut at {cut}");
            }
        }
        assert!(TimeFile::from_bytes(&vec![0; TIME_FILE_BYTES_MAX + 1]).is_err());
    }
}
