//! Signed time that somebody carries to a device.
//!
//! Owns: what goes into the file.
//! Never: reads a clock; signs a reset without the device's own nonce, or without telling who did.
//! Read next: `wire/time.rs`, `agent/rescue.rs`.

use ed25519_dalek::SigningKey;

use super::book::Book;
use super::{proposal, Effects, FleetError, Operator};
use crate::ids::{DeviceId, Nonce};
use crate::time::{Millis, Timestamp};
use crate::wire::envelope::Signed;
use crate::wire::time::{TimeFile, TimeStatement, ITEMS_MAX, TIME_FILE_BYTES_MAX};
use crate::wire::Refused;

/// What time it is, give or take.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The time.
    pub time: Timestamp,
    /// How far it may be off.
    pub radius: Millis,
}

/// The time for every device: it only raises what they know. With the trust bundles and the newest head, so that a device
/// that was away for long can check the signature, and finds the second role that a long jump needs.
///
/// # Errors
/// [`FleetError::Refused`] when devices would not take a file of that size.
pub fn export(book: &Book, service: &SigningKey, now: Reading) -> Result<TimeFile, FleetError> {
    let bundles = book.bundles();
    let statement = TimeStatement { time: now.time, radius_ms: now.radius };
    let file = TimeFile::Statement {
        // A device that is further behind than that has to be enrolled again.
        bundles: bundles[bundles.len().saturating_sub(ITEMS_MAX)..].to_vec(),
        heads: book.first().in_force().map(|head| head.signed.clone()).into_iter().collect(),
        statement: Signed::sign(&statement, book.fleet(), &[service]),
    };
    match file.to_bytes().len() {
        bytes if bytes > TIME_FILE_BYTES_MAX => {
            Err(FleetError::refused("the file")(Refused::TooLarge { bytes, limit: TIME_FILE_BYTES_MAX }))
        }
        _ => Ok(file),
    }
}

/// The only way to turn a device's clock back: signed by the root keys for one device, in answer to its nonce. All that it
/// takes are at hand; where they are not, see [`proposal::propose_reset`].
///
/// # Errors
/// [`FleetError::UnknownDevice`], [`FleetError::Unsigned`] when it takes more root keys, [`FleetError::Refused`].
pub fn reset(
    book: &mut Book,
    device: (&DeviceId, Nonce),
    roots: &[&SigningKey],
    now: Reading,
    operator: Operator<'_>,
    fx: &mut Effects,
) -> Result<TimeFile, FleetError> {
    let proposed = proposal::propose_reset(book, device, now, roots)?;
    proposal::submit_reset(book, &proposed, operator, now.time, fx)
}

#[cfg(test)]
mod tests {
    use super::super::service::tests::{at, one_device};
    use super::*;

    #[test]
    fn a_reset_names_its_device_is_signed_by_the_root_and_on_record() {
        let (keys, mut book, _, _) = one_device();
        let (gw, other): (DeviceId, DeviceId) = ("gw-07".parse().unwrap(), "gw-99".parse().unwrap());
        let now = Reading { time: at(100), radius: Millis(500) };
        let acts = book.next_act().0;
        let order = |book: &mut Book, device, root| {
            let fx = &mut Effects::default();
            reset(book, (device, Nonce([7; 16])), &[root], now, keys.operator("ann"), fx)
        };
        assert_eq!(order(&mut book, &other, &keys.root), Err(FleetError::UnknownDevice(other.clone())));
        assert!(order(&mut book, &gw, &keys.service).is_err(), "no root key");
        assert_eq!(book.next_act().0, acts, "what was not signed is not told");
        let Ok(TimeFile::Reset(signed)) = order(&mut book, &gw, &keys.root) else { panic!("no reset") };
        let opened = signed.open(book.fleet(), book.trust().root_keys(), 1).unwrap();
        assert_eq!((opened.device, opened.nonce, opened.time), (gw, Nonce([7; 16]), at(100)));
        assert_eq!(book.next_act().0, acts + 1);
    }

    #[test]
    fn an_export_carries_the_time_of_two_roles() {
        let (keys, book, _, _) = one_device();
        let file = export(&book, &keys.service, Reading { time: at(100), radius: Millis(500) }).unwrap();
        let TimeFile::Statement { bundles, heads, statement } = file else { panic!("no statement") };
        assert_eq!((bundles.len(), heads.len()), (1, 1));
        assert_eq!(statement.open(book.fleet(), book.trust().service_keys(), 1).unwrap().time, at(100));
    }
}
