//! The keys that operators have for emergencies: `keys/emergency.<name>.key`.
//!
//! Owns: where they are, and that one which is made is never made again.
//! Never: deletes one.
//! Read next: `../../fleet/emergency.rs`.

use std::path::PathBuf;

use ed25519_dalek::SigningKey;
use rand_core::{CryptoRng, RngCore};

use super::{bytes_of, write, KeyError, KeyFolder, Label, Role};
use crate::ids::KeyId;
use crate::shell::files::{self, FileError};

impl KeyFolder {
    /// Where the key of an operator is.
    pub fn emergency_file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{}.{name}.key", Role::Emergency.name()))
    }

    /// The key of an operator.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn emergency(&mut self, name: &str) -> Result<SigningKey, KeyError> {
        let loaded = self.load_from(&self.emergency_file(name), Role::Emergency)?;
        Ok(SigningKey::from_bytes(&loaded.private))
    }

    /// The key of an operator: that which an earlier call has made, or a new one. A new one is encrypted where the
    /// operator key is, with its passphrase.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn make_emergency(&mut self, name: &str, rng: &mut (impl RngCore + CryptoRng)) -> Result<SigningKey, KeyError> {
        match self.emergency(name) {
            Err(KeyError::File(error)) if error.is_missing() => {}
            found => return found,
        }
        let key = SigningKey::generate(rng);
        // Opened once already, so that the passphrase is that of the fleet's keys.
        self.load(Role::Operator)?;
        let encrypted = self.is_encrypted(Role::Operator)?;
        let passphrase = self.passphrase.as_ref().filter(|_| encrypted);
        let label = Label { root_key_id: None, fleet: None };
        write(&self.emergency_file(name), Role::Emergency, &bytes_of(&key), label, passphrase)?;
        Ok(key)
    }

    /// Where a key is that may revoke no more.
    pub fn retired_emergency(&self, id: KeyId) -> PathBuf {
        self.path.join(format!("emergency-{id}.key.old"))
    }

    /// Sets a key aside that may revoke no more, if it is here. Gives where it is now.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn retire_emergency(&self, name: &str, id: KeyId) -> Result<Option<PathBuf>, KeyError> {
        let (path, aside) = (self.emergency_file(name), self.retired_emergency(id));
        match std::fs::rename(&path, &aside) {
            Ok(()) => {
                files::sync_dir(&self.path)?;
                Ok(Some(aside))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(FileError::io("rename", &path, error).into()),
        }
    }
}
