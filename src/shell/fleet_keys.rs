//! The fleet's private keys on disk: `keys/<role>.key`.
//!
//! Owns: their form, that nobody else may read them, their encryption with a passphrase (age, scrypt), and where the
//! passphrase comes from.
//! Never: keeps a key that a command does not need; writes a passphrase anywhere.
//! Read next: `../fleet/keys.rs` for what each role may do.

use std::io::Read;
use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::files::{self, FileError};
use crate::fleet::keys::Issuer;
use crate::fleet::FleetKeys;
use crate::ids::{hex, unhex};
use crate::wire::seal::SealingKey;

/// Names the file descriptor that the passphrase is read from, up to its first line's end.
pub const PASSPHRASE_FD: &str = "HARDTACK_PASSPHRASE_FD";
/// The most bytes of a passphrase.
const PASSPHRASE_BYTES_MAX: u64 = 1024;
/// The least characters of a new passphrase.
const PASSPHRASE_CHARS_MIN: usize = 8;
/// scrypt's cost, 2^16 at 64 MiB: a quarter of a second for each key that a command needs.
const WORK_FACTOR: u8 = 16;
/// What every file of age begins with.
const AGE: &[u8] = b"age-encryption.org/v1";

/// What a key is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Opens sealed audit.
    Collector,
    /// Signs revocation heads.
    Feed,
    /// Mints tokens.
    Issuer,
    /// Signs the records of operators' acts.
    Operator,
    /// Signs policies.
    Policy,
    /// Signs trust bundles.
    Root,
    /// Signs acknowledgements, answers and enrolment bundles.
    Service,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 7] =
        [Self::Root, Self::Issuer, Self::Policy, Self::Feed, Self::Service, Self::Operator, Self::Collector];

    /// The name of its file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Collector => "collector",
            Self::Feed => "feed",
            Self::Issuer => "issuer",
            Self::Operator => "operator",
            Self::Policy => "policy",
            Self::Root => "root",
            Self::Service => "service",
        }
    }
}

/// Why a key cannot be used. Every text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not a key file, or that of another role.
    #[error("{} holds no key of the role {role}: restore it from a copy", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The role that it should have.
        role: &'static str,
    },
    /// The passphrase does not open it.
    #[error("the passphrase does not open {}: try again", .0.display())]
    WrongPassphrase(PathBuf),
    /// There is no passphrase to be had.
    #[error("the fleet's keys need a passphrase and there is none: run this on a terminal, or set HARDTACK_PASSPHRASE_FD to a file descriptor that gives it ({0})")]
    NoPassphrase(String),
    /// A passphrase that nobody should use.
    #[error("the passphrase {0}: choose a longer one, or pass --no-passphrase for a fleet that only tests something")]
    BadPassphrase(&'static str),
    /// The library refused.
    #[error("the key cannot be encrypted: {0}")]
    Encryption(String),
}

/// What stands in a key file, within the encryption.
#[derive(Serialize, Deserialize, Zeroize)]
#[serde(deny_unknown_fields)]
#[zeroize(drop)]
struct Stored {
    format: u32,
    #[zeroize(skip)]
    role: Role,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root_key_id: Option<u32>,
    private: String,
}

/// Where the passphrase comes from; it is asked for once in a process.
pub struct KeyFolder {
    path: PathBuf,
    passphrase: Option<SecretString>,
}

impl KeyFolder {
    /// The keys of a fleet's folder.
    pub fn of(fleet_dir: &Path) -> Self {
        Self { path: fleet_dir.join("keys"), passphrase: None }
    }

    /// Writes all keys of a new fleet; encrypted where there is a passphrase.
    ///
    /// # Errors
    /// [`KeyError`]; a file that is there already is never replaced.
    pub fn create(&self, keys: &FleetKeys, passphrase: Option<&SecretString>) -> Result<(), KeyError> {
        files::create_dir(&self.path)?;
        for role in Role::ALL {
            let (private, root_key_id) = match role {
                Role::Collector => (keys.collector.to_bytes(), None),
                Role::Feed => (bytes_of(&keys.feed), None),
                Role::Issuer => (bytes_of(&keys.issuer.key), Some(keys.issuer.root_key_id)),
                Role::Operator => (bytes_of(&keys.operator), None),
                Role::Policy => (bytes_of(&keys.policy), None),
                Role::Root => (bytes_of(&keys.root), None),
                Role::Service => (bytes_of(&keys.service), None),
            };
            let stored = Stored { format: 1, role, root_key_id, private: hex(private.as_ref()) };
            // Of text and numbers: there is nothing that could not be written.
            let json = serde_json::to_vec(&stored).map_err(|error| KeyError::Encryption(error.to_string()))?;
            let plain = Zeroizing::new(json);
            let content = match passphrase {
                Some(passphrase) => encrypt(&plain, passphrase)?,
                None => plain.to_vec(),
            };
            files::write_private(&self.file(role), &content)?;
        }
        Ok(())
    }

    /// A signing key. The issuer's is had by [`KeyFolder::issuer`].
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn signing(&mut self, role: Role) -> Result<SigningKey, KeyError> {
        let (private, _) = self.load(role)?;
        Ok(SigningKey::from_bytes(&private))
    }

    /// The key that mints tokens.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn issuer(&mut self) -> Result<Issuer, KeyError> {
        let (private, root_key_id) = self.load(Role::Issuer)?;
        let malformed = || KeyError::Malformed { path: self.file(Role::Issuer), role: Role::Issuer.name() };
        Ok(Issuer { root_key_id: root_key_id.ok_or_else(malformed)?, key: SigningKey::from_bytes(&private) })
    }

    /// The key that opens sealed audit.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn collector(&mut self) -> Result<SealingKey, KeyError> {
        self.load(Role::Collector).map(|(private, _)| SealingKey::from_bytes(*private))
    }

    /// Whether a role's file is encrypted.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn is_encrypted(&self, role: Role) -> Result<bool, KeyError> {
        Ok(files::read_private(&self.file(role))?.starts_with(AGE))
    }

    fn file(&self, role: Role) -> PathBuf {
        self.path.join(format!("{}.key", role.name()))
    }

    fn load(&mut self, role: Role) -> Result<(Zeroizing<[u8; 32]>, Option<u32>), KeyError> {
        let path = self.file(role);
        let content = files::read_private(&path)?;
        let plain = if content.starts_with(AGE) {
            let passphrase = match &self.passphrase {
                Some(passphrase) => passphrase,
                None => self.passphrase.insert(ask(Asking::Open)?),
            };
            decrypt(&content, passphrase).ok_or_else(|| KeyError::WrongPassphrase(path.clone()))?
        } else {
            content
        };
        let malformed = || KeyError::Malformed { path: path.clone(), role: role.name() };
        let stored: Stored = serde_json::from_slice(&plain).map_err(|_| malformed())?;
        if stored.format != 1 || stored.role != role {
            return Err(malformed());
        }
        let bytes = Zeroizing::new(unhex(&stored.private).ok_or_else(malformed)?);
        let private: [u8; 32] = bytes.as_slice().try_into().map_err(|_| malformed())?;
        Ok((Zeroizing::new(private), stored.root_key_id))
    }
}

fn bytes_of(key: &SigningKey) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(*key.as_bytes())
}

fn encrypt(plain: &[u8], passphrase: &SecretString) -> Result<Vec<u8>, KeyError> {
    let mut recipient = age::scrypt::Recipient::new(passphrase.clone());
    recipient.set_work_factor(WORK_FACTOR);
    age::encrypt(&recipient, plain).map_err(|error| KeyError::Encryption(error.to_string()))
}

fn decrypt(content: &[u8], passphrase: &SecretString) -> Option<Zeroizing<Vec<u8>>> {
    let mut identity = age::scrypt::Identity::new(passphrase.clone());
    // What somebody else put here must not cost minutes.
    identity.set_max_work_factor(WORK_FACTOR + 4);
    age::decrypt(&identity, content).ok().map(Zeroizing::new)
}

/// What a passphrase is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asking {
    /// To open what is there.
    Open,
    /// To encrypt what is new: typed twice.
    Choose,
}

/// The passphrase, from the descriptor that [`PASSPHRASE_FD`] names, else from the terminal.
///
/// # Errors
/// [`KeyError::NoPassphrase`], or for a new one [`KeyError::BadPassphrase`].
pub fn ask(asking: Asking) -> Result<SecretString, KeyError> {
    let passphrase = match std::env::var(PASSPHRASE_FD) {
        Ok(descriptor) => from_descriptor(&descriptor)?,
        Err(_) => from_terminal(asking)?,
    };
    if asking == Asking::Choose && passphrase.chars().count() < PASSPHRASE_CHARS_MIN {
        return Err(KeyError::BadPassphrase("has less than 8 characters"));
    }
    Ok(SecretString::from(passphrase.as_str().to_owned()))
}

fn from_descriptor(descriptor: &str) -> Result<Zeroizing<String>, KeyError> {
    let none = |why: String| KeyError::NoPassphrase(why);
    let number: u32 = descriptor.parse().map_err(|_| none(format!("{descriptor:?} is no file descriptor")))?;
    let file = std::fs::File::open(format!("/proc/self/fd/{number}"));
    let file = file.map_err(|error| none(format!("descriptor {number}: {error}")))?;
    let mut text = Zeroizing::new(String::new());
    let read = file.take(PASSPHRASE_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| none(format!("descriptor {number}: {error}")))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(none(format!("descriptor {number} gave an empty line")));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

fn from_terminal(asking: Asking) -> Result<Zeroizing<String>, KeyError> {
    let prompt = |text: &str| {
        let typed = rpassword::prompt_password(text).map(Zeroizing::new);
        typed.map_err(|error| KeyError::NoPassphrase(format!("no terminal: {error}")))
    };
    match asking {
        Asking::Open => prompt("Passphrase of the fleet's keys: "),
        Asking::Choose => {
            let first = prompt("New passphrase for the fleet's keys: ")?;
            if *first != *prompt("The same again: ")? {
                return Err(KeyError::BadPassphrase("was typed in two ways"));
            }
            Ok(first)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;
    use std::os::unix::fs::PermissionsExt;

    fn keys() -> FleetKeys {
        FleetKeys::generate(&mut rand_chacha::ChaCha20Rng::from_seed([1; 32]))
    }

    fn with(folder: &Path, passphrase: Option<&str>) -> KeyFolder {
        let passphrase = passphrase.map(|text| SecretString::from(text.to_owned()));
        KeyFolder { path: folder.join("keys"), passphrase }
    }

    #[test]
    fn keys_come_back_with_their_passphrase_only() {
        let folder = tempfile::tempdir().unwrap();
        let passphrase = SecretString::from("correct horse".to_owned());
        KeyFolder::of(folder.path()).create(&keys(), Some(&passphrase)).unwrap();
        let mut opened = with(folder.path(), Some("correct horse"));
        assert!(opened.is_encrypted(Role::Root).unwrap());
        assert_eq!(opened.signing(Role::Root).unwrap(), keys().root);
        let mut wrong = with(folder.path(), Some("wrong horse"));
        assert!(matches!(wrong.signing(Role::Root), Err(KeyError::WrongPassphrase(_))));
    }

    #[test]
    fn plain_keys_are_private_files_of_their_role() {
        let folder = tempfile::tempdir().unwrap();
        KeyFolder::of(folder.path()).create(&keys(), None).unwrap();
        let mut opened = with(folder.path(), None);
        assert_eq!(opened.issuer().unwrap().root_key_id, 1);
        assert_eq!(opened.signing(Role::Feed).unwrap(), keys().feed);
        assert_eq!(opened.collector().unwrap().public(), keys().collector.public());
        assert!(KeyFolder::of(folder.path()).create(&keys(), None).is_err(), "nothing is replaced");
        let (feed, root) = (opened.file(Role::Feed), opened.file(Role::Root));
        std::fs::copy(&root, &feed).unwrap();
        assert!(matches!(opened.signing(Role::Feed), Err(KeyError::Malformed { .. })), "another role's");
        std::fs::write(&feed, "junk").unwrap();
        assert!(matches!(opened.signing(Role::Feed), Err(KeyError::Malformed { .. })));
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(opened.signing(Role::Root), Err(KeyError::File(FileError::TooOpen { .. }))));
    }
}
