//! The keys that operators have for emergencies: `keys/emergency.<name>.key`, or in a kit of one operator's own.
//!
//! Owns: where they are, that one which is made is never made again, and that a kit which is complete has the only copy.
//! Never: deletes one, but for that which lies in a kit as well.
//! Read next: `../../fleet/emergency.rs`.

use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use ed25519_dalek::SigningKey;
use rand_core::{CryptoRng, RngCore};

use super::{ask, bytes_of, is_encrypted, write, Asking, KeyError, KeyFolder, Label, Role, PASSPHRASE_FD};
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

    /// The key of an operator, put into the file of a kit: one that is there already, one that lies here, or a new one. It is
    /// encrypted where the operator key is, with a passphrase of its own if there is a terminal to choose it at.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn hand_emergency(
        &mut self,
        name: &str,
        file: &Path,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<SigningKey, KeyError> {
        let there = match std::env::var_os(PASSPHRASE_FD) {
            // The descriptor may be a pipe, which gives its line once.
            Some(_) => self.load_from(file, Role::Emergency).map(|loaded| SigningKey::from_bytes(&loaded.private)),
            None => kit_key(file),
        };
        match there {
            Err(KeyError::File(error)) if error.is_missing() => {}
            found => return found,
        }
        let key = match self.emergency(name) {
            Err(KeyError::File(error)) if error.is_missing() => SigningKey::generate(rng),
            found => found?,
        };
        let passphrase = self.kit_passphrase(file)?;
        let label = Label { root_key_id: None, fleet: None };
        write(file, Role::Emergency, &bytes_of(&key), label, passphrase.as_ref())?;
        Ok(key)
    }

    fn kit_passphrase(&mut self, file: &Path) -> Result<Option<SecretString>, KeyError> {
        if !self.is_encrypted(Role::Operator)? {
            return Ok(None);
        }
        // A descriptor gives one passphrase, which is that of the fleet's keys.
        if std::env::var_os(PASSPHRASE_FD).is_none() {
            return ask(Asking::ChooseFile(file)).map(Some);
        }
        self.load(Role::Operator)?;
        Ok(self.passphrase.clone())
    }

    /// Takes the key of an operator out of this folder, once `kit` holds it. Says whether it was here.
    ///
    /// # Errors
    /// [`KeyError`]; it stays here then.
    pub fn give_away_emergency(&mut self, name: &str, kit: &SigningKey) -> Result<bool, KeyError> {
        match self.emergency(name) {
            Ok(key) if key == *kit => {}
            // Not the same: it is kept.
            Ok(_) => return Ok(false),
            Err(KeyError::File(error)) if error.is_missing() => return Ok(false),
            Err(error) => return Err(error),
        }
        let path = self.emergency_file(name);
        std::fs::remove_file(&path).map_err(|error| FileError::io("remove", &path, error))?;
        files::sync_dir(&self.path)?;
        Ok(true)
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

/// The key in the file of a kit. Its passphrase, where it has one, comes from the descriptor, else from the terminal.
///
/// # Errors
/// [`KeyError`].
pub fn kit_key(file: &Path) -> Result<SigningKey, KeyError> {
    let mut folder = KeyFolder { path: PathBuf::new(), passphrase: None };
    if is_encrypted(file)? && std::env::var_os(PASSPHRASE_FD).is_none() {
        folder.passphrase = Some(ask(Asking::File(file))?);
    }
    Ok(SigningKey::from_bytes(&folder.load_from(file, Role::Emergency)?.private))
}
