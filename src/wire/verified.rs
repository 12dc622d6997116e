//! The one check of an Ed25519 signature, and signatures that were found good once already.
//!
//! Owns: `strictly`, through which every envelope is opened; with the feature `verified-once`, what a thread remembers of
//! its own checks once it was told to. A process that is a whole fleet looks at the same bytes as the device, the service
//! and whoever judges both.
//! Never: remembers what was signed, or what did not fit: only a check that held fills it, so that a signature that was
//! made wrongly is found by whoever looks first. No shipped build has the memory.
//! Read next: `envelope.rs`.

use ed25519_dalek::{Signature, VerifyingKey};

use super::Refused;

/// Whether a key made a signature over a message, by the strict check: no other encoding, no small order.
///
/// # Errors
/// [`Refused::BadSignature`].
pub(super) fn strictly(key: &VerifyingKey, message: &[u8], signature: &[u8; 64]) -> Result<(), Refused> {
    let check = || key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| Refused::BadSignature);
    #[cfg(feature = "verified-once")]
    let check = || once::checked(key, message, signature, check);
    check()
}

#[cfg(feature = "verified-once")]
pub use once::remember;

#[cfg(feature = "verified-once")]
mod once {
    use std::cell::RefCell;
    use std::collections::HashMap;

    use ed25519_dalek::VerifyingKey;
    use sha2::{Digest, Sha256};

    use crate::wire::Refused;

    /// How many signatures a generation holds: two generations are some 25 MB.
    const GENERATION: usize = 1 << 18;

    thread_local! {
        static GOOD: RefCell<Option<Good>> = const { RefCell::new(None) };
    }

    /// From now on this thread checks each signature once, as long as it remembers it.
    pub fn remember() {
        GOOD.with_borrow_mut(|good| {
            good.get_or_insert_default();
        });
    }

    /// The signatures that held, newest generation first, each by the SHA-256 of key, signature and message.
    #[derive(Default)]
    struct Good {
        newer: HashMap<[u8; 32], ()>,
        older: HashMap<[u8; 32], ()>,
    }

    impl Good {
        fn knows(&self, of: &[u8; 32]) -> bool {
            self.newer.contains_key(of) || self.older.contains_key(of)
        }

        fn add(&mut self, of: [u8; 32], generation: usize) {
            if self.newer.len() >= generation {
                self.older = std::mem::take(&mut self.newer);
            }
            self.newer.insert(of, ());
        }
    }

    /// The check, unless the very same one held before.
    pub(super) fn checked(
        key: &VerifyingKey,
        message: &[u8],
        signature: &[u8; 64],
        check: impl FnOnce() -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        GOOD.with_borrow_mut(|good| {
            let Some(good) = good else { return check() };
            // Key and signature have one length each, so that no two checks run together to the same bytes.
            let digest = Sha256::new().chain_update(key.as_bytes()).chain_update(signature).chain_update(message);
            let of = digest.finalize().into();
            if !good.knows(&of) {
                check()?;
                good.add(of, GENERATION);
            }
            Ok(())
        })
    }

    #[cfg(test)]
    mod tests {
        use ed25519_dalek::{Signer, SigningKey};

        use super::super::strictly;
        use super::*;

        #[test]
        fn only_what_was_checked_and_held_is_remembered() {
            remember();
            let (key, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
            let signature = key.sign(b"message").to_bytes();
            let good = || strictly(&key.verifying_key(), b"message", &signature);
            let mut changed = signature;
            changed[40] ^= 1;
            for _ in 0..2 {
                assert_eq!(strictly(&other.verifying_key(), b"message", &signature), Err(Refused::BadSignature));
                assert_eq!(strictly(&key.verifying_key(), b"massage", &signature), Err(Refused::BadSignature));
                assert_eq!(strictly(&key.verifying_key(), b"message", &changed), Err(Refused::BadSignature));
                assert_eq!(good(), Ok(()));
            }
            let never = || -> Result<(), Refused> { panic!("it was checked before") };
            assert_eq!(checked(&key.verifying_key(), b"message", &signature, never), Ok(()));
            let asked = || Err(Refused::BadSignature);
            assert_eq!(checked(&key.verifying_key(), b"", &signature, asked), asked(), "these bytes nobody checked");
        }

        #[test]
        fn what_is_remembered_is_bounded_and_the_newest_stays() {
            let mut good = Good::default();
            (0..10u8).for_each(|number| good.add([number; 32], 4));
            let known: Vec<u8> = (0..10).filter(|number| good.knows(&[*number; 32])).collect();
            assert_eq!(known, [4, 5, 6, 7, 8, 9]);
        }
    }
}
