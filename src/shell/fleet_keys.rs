//! The fleet's private keys on disk: `keys/<role>.key`.
//!
//! Owns: their form, that nobody else may read them, their encryption with a passphrase (age, scrypt), and where the
//! passphrase comes from.
//! Never: keeps a key that a command does not need; writes a passphrase anywhere; deletes a key.
//! Read next: `../fleet/keys.rs` for what each role may do.

mod emergency;

pub use emergency::kit_key;

use std::io::Read;
use std::path::{Path, PathBuf};

use age::secrecy::SecretString;
use age::DecryptError;
use ed25519_dalek::SigningKey;
use rand_core::{CryptoRng, RngCore};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::files::{self, FileError};
use crate::fleet::keys::Issuer;
use crate::fleet::FleetKeys;
use crate::ids::{hex, unhex, FleetId, KeyId};
use crate::wire::bundle::Fingerprint;
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
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Opens sealed audit.
    Collector,
    /// Revokes for 72 h at most: one for each operator who has one, not of the fleet.
    Emergency,
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
    /// Every role of which a fleet has one key.
    pub const ALL: [Self; 7] =
        [Self::Root, Self::Issuer, Self::Policy, Self::Feed, Self::Service, Self::Operator, Self::Collector];

    /// The name of its file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Collector => "collector",
            Self::Emergency => "emergency",
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
    #[error("the passphrase does not open {}: try again; if it is the right one, restore the file from a copy", .0.display())]
    WrongPassphrase(PathBuf),
    /// There is no passphrase to be had.
    #[error("the fleet's keys need a passphrase and there is none: run this on a terminal, or set HARDTACK_PASSPHRASE_FD to a file descriptor that gives it ({0})")]
    NoPassphrase(String),
    /// A file that was named as a root key's.
    #[error("{} holds a key that is no root key of this fleet: name the file of one, `hardtack fleet key list` shows their ids", .0.display())]
    NoRoot(PathBuf),
    /// A passphrase that nobody should use.
    #[error("the passphrase {0}: choose a longer one, or pass --no-passphrase for a fleet that only tests something")]
    BadPassphrase(&'static str),
    /// The library refused.
    #[error("the key cannot be encrypted: {0}")]
    Encryption(String),
}

impl KeyError {
    /// Whether it is only that there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::File(error) if error.is_missing())
    }
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
    /// Of a root key: the fingerprint of the fleet that it is for, so that it signs for no other, wherever it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[zeroize(skip)]
    fleet: Option<String>,
    private: String,
}

/// What stands in a key file beside the key.
#[derive(Clone, Copy, Default)]
pub(super) struct Label {
    /// The number of an issuer.
    root_key_id: Option<u32>,
    /// The fleet of a root key.
    fleet: Option<Fingerprint>,
}

impl Label {
    /// A root key's.
    pub(super) const fn root(fleet: Fingerprint) -> Self {
        Self { root_key_id: None, fleet: Some(fleet) }
    }
}

/// What a key file holds.
pub(super) struct Loaded {
    /// The key.
    pub(super) private: Zeroizing<[u8; 32]>,
    /// The number of an issuer.
    root_key_id: Option<u32>,
    /// The fleet of a root key.
    pub(super) fleet: Option<Fingerprint>,
}

/// Where the passphrase comes from; it is asked for once in a process.
pub struct KeyFolder {
    pub(super) path: PathBuf,
    pub(super) passphrase: Option<SecretString>,
}

impl KeyFolder {
    /// The keys of a fleet's folder.
    pub fn of(fleet_dir: &Path) -> Self {
        Self { path: fleet_dir.join("keys"), passphrase: None }
    }

    /// Writes all keys of a new fleet; encrypted where there is a passphrase. A single root key is `root.key`; of several,
    /// the first is `root.1.key`.
    ///
    /// # Errors
    /// [`KeyError`]; a file that is there already is never replaced.
    pub fn create(&self, keys: &FleetKeys, fleet: &FleetId, passphrase: Option<&SecretString>) -> Result<(), KeyError> {
        files::create_dir(&self.path)?;
        for role in Role::ALL {
            let (private, root_key_id) = match role {
                Role::Root => continue,
                Role::Collector => (keys.collector.to_bytes(), None),
                // They are made one by one.
                Role::Emergency => continue,
                Role::Feed => (bytes_of(&keys.feed), None),
                Role::Issuer => (bytes_of(&keys.issuer.key), Some(keys.issuer.root_key_id)),
                Role::Operator => (bytes_of(&keys.operator), None),
                Role::Policy => (bytes_of(&keys.policy), None),
                Role::Service => (bytes_of(&keys.service), None),
            };
            let label = Label { root_key_id, fleet: None };
            write(&self.file(role), role, &private, label, passphrase)?;
        }
        let (roots, label) = (keys.roots(), Label::root(keys.fingerprint(fleet)));
        for (number, root) in (1..).zip(&roots) {
            let path = self.root_file(number, roots.len());
            write(&path, Role::Root, &bytes_of(root), label, passphrase)?;
        }
        Ok(())
    }

    /// The private bytes of the key that is to take the place of a role's: one that waits already, or a new one, which waits
    /// from now on. A new one is encrypted where the one before is, with its passphrase. `root_key_id` numbers a new issuer.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn next(
        &mut self,
        role: Role,
        root_key_id: Option<u32>,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let like = if self.file(role).exists() { role } else { Role::Operator };
        self.wait(&role_name(role), role, Label { root_key_id, fleet: None }, &self.file(like), like, rng)
    }

    /// Where a key waits to take the place of a role's.
    pub fn waiting_for(&self, role: Role) -> PathBuf {
        self.waiting_file(&role_name(role))
    }

    /// The key that waits to take the place of a role's, if one does.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn waiting(&mut self, role: Role) -> Result<Option<Zeroizing<[u8; 32]>>, KeyError> {
        self.load_if_there(&self.waiting_file(&role_name(role)), role)
    }

    /// The private bytes of the key in a role's file, if that is here.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn here(&mut self, role: Role) -> Result<Option<Zeroizing<[u8; 32]>>, KeyError> {
        self.load_if_there(&self.file(role), role)
    }

    pub(super) fn load_if_there(&mut self, path: &Path, role: Role) -> Result<Option<Zeroizing<[u8; 32]>>, KeyError> {
        match self.load_from(path, role) {
            Ok(loaded) => Ok(Some(loaded.private)),
            Err(KeyError::File(error)) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The key that waits under a name, or a new one, encrypted as the file `like` is.
    pub(super) fn wait(
        &mut self,
        name: &str,
        role: Role,
        label: Label,
        like: &Path,
        like_role: Role,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let path = self.waiting_file(name);
        if let Some(private) = self.load_if_there(&path, role)? {
            return Ok(private);
        }
        let mut private = Zeroizing::new([0; 32]);
        rng.fill_bytes(private.as_mut());
        // Opened once already, so that the passphrase is that of the fleet's keys.
        self.load_from(like, like_role)?;
        let encrypted = is_encrypted(like)?;
        write(&path, role, &private, label, self.passphrase.as_ref().filter(|_| encrypted))?;
        Ok(private)
    }

    /// The key that waits takes the role's place. Gives the file that holds the one before, if there is one here.
    ///
    /// # Errors
    /// [`KeyError`]. Whatever was done by then, [`KeyFolder::adopt`] can be called again.
    pub fn adopt(&mut self, role: Role) -> Result<Option<PathBuf>, KeyError> {
        let path = self.file(role);
        let aside = match self.load_from(&path, role) {
            Ok(loaded) => Some(self.put_aside(&path, role, &loaded.private)?),
            Err(KeyError::File(error)) if error.is_missing() => None,
            Err(error) => return Err(error),
        };
        self.rename(&self.waiting_file(&role_name(role)), &path)?;
        Ok(aside)
    }

    /// Keeps a key's file under a name that says which key it is.
    pub(super) fn put_aside(&self, path: &Path, role: Role, private: &[u8; 32]) -> Result<PathBuf, KeyError> {
        let aside = self.aside(role, &KeyId::of(&public_of(role, private)));
        self.rename(path, &aside)?;
        Ok(aside)
    }

    /// Where the file of a key is kept that was replaced.
    pub fn aside(&self, role: Role, id: &KeyId) -> PathBuf {
        self.path.join(format!("{}-{id}.key.old", role.name()))
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<(), KeyError> {
        std::fs::rename(from, to).map_err(|error| FileError::io("rename", from, error))?;
        Ok(files::sync_dir(&self.path)?)
    }

    pub(super) fn waiting_file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.key.next"))
    }

    /// A signing key. The issuer's is had by [`KeyFolder::issuer`], the root keys by [`KeyFolder::roots`].
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn signing(&mut self, role: Role) -> Result<SigningKey, KeyError> {
        Ok(SigningKey::from_bytes(&self.load(role)?.private))
    }

    /// The key that mints tokens.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn issuer(&mut self) -> Result<Issuer, KeyError> {
        let loaded = self.load(Role::Issuer)?;
        let malformed = || KeyError::Malformed { path: self.file(Role::Issuer), role: Role::Issuer.name() };
        let root_key_id = loaded.root_key_id.ok_or_else(malformed)?;
        Ok(Issuer { root_key_id, key: SigningKey::from_bytes(&loaded.private) })
    }

    /// The keys that open sealed audit, that in use first: what was sealed to one that was replaced still opens.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn collectors(&mut self) -> Result<Vec<SealingKey>, KeyError> {
        let first = self.file(Role::Collector);
        let is_old = |name: &str| name.starts_with("collector-") && name.ends_with(".key.old");
        let old = self.names()?.into_iter().filter(|name| is_old(name)).map(|name| self.path.join(name));
        let paths: Vec<PathBuf> = std::iter::once(first).chain(old).collect();
        let load = |path: &PathBuf| Ok(SealingKey::from_bytes(*self.load_from(path, Role::Collector)?.private));
        paths.iter().map(load).collect()
    }

    /// The names of all files, in order.
    pub(super) fn names(&self) -> Result<Vec<String>, KeyError> {
        let unreadable = |error| FileError::io("read", &self.path, error);
        let entries = std::fs::read_dir(&self.path).map_err(unreadable)?;
        let names: Result<Vec<String>, _> =
            entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect();
        let mut names = names.map_err(unreadable)?;
        names.sort();
        Ok(names)
    }

    /// Whether a role's file is encrypted.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn is_encrypted(&self, role: Role) -> Result<bool, KeyError> {
        is_encrypted(&self.file(role))
    }

    /// A role's file. The root keys have [`KeyFolder::root_file`].
    pub fn file(&self, role: Role) -> PathBuf {
        self.path.join(format!("{}.key", role.name()))
    }

    fn load(&mut self, role: Role) -> Result<Loaded, KeyError> {
        self.load_from(&self.file(role), role)
    }

    pub(super) fn load_from(&mut self, path: &Path, role: Role) -> Result<Loaded, KeyError> {
        let content = files::read_private(path)?;
        let plain = if content.starts_with(AGE) {
            let passphrase = match &self.passphrase {
                Some(passphrase) => passphrase,
                None => self.passphrase.insert(ask(Asking::Open)?),
            };
            decrypt(&content, passphrase).map_err(|error| match error {
                Closed::Damaged => KeyError::Malformed { path: path.to_owned(), role: role.name() },
                Closed::Passphrase => KeyError::WrongPassphrase(path.to_owned()),
            })?
        } else {
            content
        };
        parse(&plain, path, role)
    }
}

fn parse(plain: &[u8], path: &Path, role: Role) -> Result<Loaded, KeyError> {
    let malformed = || KeyError::Malformed { path: path.to_owned(), role: role.name() };
    let stored: Stored = serde_json::from_slice(plain).map_err(|_| malformed())?;
    if stored.format != 1 || stored.role != role {
        return Err(malformed());
    }
    let bytes = Zeroizing::new(unhex(&stored.private).ok_or_else(malformed)?);
    let private: [u8; 32] = bytes.as_slice().try_into().map_err(|_| malformed())?;
    let fleet = stored.fleet.as_deref().map(|text| text.parse().map_err(|_| malformed())).transpose()?;
    Ok(Loaded { private: Zeroizing::new(private), root_key_id: stored.root_key_id, fleet })
}

/// Whether a key file is encrypted.
///
/// # Errors
/// [`KeyError`].
pub fn is_encrypted(path: &Path) -> Result<bool, KeyError> {
    Ok(files::read_private(path)?.starts_with(AGE))
}

/// Encrypts a key file with another passphrase, or with one at all. The new file takes the old one's place at once.
///
/// # Errors
/// [`KeyError`]; the old file stays then.
pub fn change_passphrase(path: &Path, role: Role) -> Result<(), KeyError> {
    if std::env::var_os(PASSPHRASE_FD).is_some() && is_encrypted(path)? {
        let why = "a descriptor gives one passphrase, and this takes the old one and a new one: run it on a terminal";
        return Err(KeyError::NoPassphrase(why.into()));
    }
    let mut folder = KeyFolder { path: PathBuf::new(), passphrase: None };
    let loaded = folder.load_from(path, role)?;
    let label = Label { root_key_id: loaded.root_key_id, fleet: loaded.fleet };
    let content = content(role, &loaded.private, label, Some(&ask(Asking::Choose)?))?;
    Ok(files::replace(path, &content)?)
}

fn role_name(role: Role) -> String {
    role.name().to_owned()
}

/// The public half of a role's key.
fn public_of(role: Role, private: &[u8; 32]) -> [u8; 32] {
    match role {
        Role::Collector => SealingKey::from_bytes(*private).public().0,
        Role::Emergency | Role::Feed | Role::Issuer | Role::Operator | Role::Policy | Role::Root | Role::Service => {
            SigningKey::from_bytes(private).verifying_key().to_bytes()
        }
    }
}

fn write(
    path: &Path,
    role: Role,
    private: &[u8; 32],
    label: Label,
    passphrase: Option<&SecretString>,
) -> Result<(), KeyError> {
    Ok(files::write_private(path, &content(role, private, label, passphrase)?)?)
}

fn content(
    role: Role,
    private: &[u8; 32],
    label: Label,
    passphrase: Option<&SecretString>,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let Label { root_key_id, fleet } = label;
    let stored =
        Stored { format: 1, role, root_key_id, fleet: fleet.map(|fleet| fleet.to_string()), private: hex(private) };
    // Of text and numbers: there is nothing that could not be written.
    let json = serde_json::to_vec(&stored).map_err(|error| KeyError::Encryption(error.to_string()))?;
    let plain = Zeroizing::new(json);
    match passphrase {
        Some(passphrase) => encrypt(&plain, passphrase).map(Zeroizing::new),
        None => Ok(plain),
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

/// Why an encrypted file does not open.
enum Closed {
    /// With no passphrase.
    Damaged,
    /// With this passphrase, or the part that it should open is damaged.
    Passphrase,
}

fn decrypt(content: &[u8], passphrase: &SecretString) -> Result<Zeroizing<Vec<u8>>, Closed> {
    let mut identity = age::scrypt::Identity::new(passphrase.clone());
    // What somebody else put here must not cost minutes.
    identity.set_max_work_factor(WORK_FACTOR + 4);
    let decrypted = age::decrypt(&identity, content).map(Zeroizing::new);
    decrypted.map_err(|error| match error {
        DecryptError::DecryptionFailed => Closed::Passphrase,
        DecryptError::ExcessiveWork { .. }
        | DecryptError::InvalidHeader
        | DecryptError::InvalidMac
        | DecryptError::Io(_)
        | DecryptError::KeyDecryptionFailed
        | DecryptError::NoMatchingKeys
        | DecryptError::UnknownFormat => Closed::Damaged,
    })
}

/// What a passphrase is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asking<'a> {
    /// To open what is there.
    Open,
    /// To open one file that has a passphrase of its own. Only a terminal is asked.
    File(&'a Path),
    /// To encrypt what is new: typed twice.
    Choose,
    /// To encrypt one new file with a passphrase of its own: typed twice. Only a terminal is asked.
    ChooseFile(&'a Path),
}

/// The passphrase, from the descriptor that [`PASSPHRASE_FD`] names, else from the terminal.
///
/// # Errors
/// [`KeyError::NoPassphrase`], or for a new one [`KeyError::BadPassphrase`].
pub fn ask(asking: Asking<'_>) -> Result<SecretString, KeyError> {
    let passphrase = match std::env::var(PASSPHRASE_FD) {
        Ok(descriptor) if !matches!(asking, Asking::File(_) | Asking::ChooseFile(_)) => from_descriptor(&descriptor)?,
        Ok(_) | Err(_) => from_terminal(asking)?,
    };
    if matches!(asking, Asking::Choose | Asking::ChooseFile(_)) && passphrase.chars().count() < PASSPHRASE_CHARS_MIN {
        return Err(KeyError::BadPassphrase("has less than 8 characters"));
    }
    Ok(SecretString::from(passphrase.as_str().to_owned()))
}

fn from_descriptor(descriptor: &str) -> Result<Zeroizing<String>, KeyError> {
    let none = |why: String| KeyError::NoPassphrase(why);
    let number: u32 = descriptor.parse().map_err(|_| none(format!("{descriptor:?} is no file descriptor")))?;
    let file = std::fs::File::open(format!("/proc/self/fd/{number}"));
    let file = file.map_err(|error| none(format!("descriptor {number}: {error}")))?;
    // Room for all of it at once: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_BYTES_MAX as usize + 2));
    let read = file.take(PASSPHRASE_BYTES_MAX + 2).read_to_end(&mut bytes);
    read.map_err(|error| none(format!("descriptor {number}: {error}")))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(none(format!("descriptor {number} gave an empty line")));
    }
    if line.len() as u64 > PASSPHRASE_BYTES_MAX {
        return Err(none(format!("descriptor {number} gave a line of more than {PASSPHRASE_BYTES_MAX} bytes")));
    }
    let text = std::str::from_utf8(line).map_err(|_| none(format!("descriptor {number} gave no text")))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn from_terminal(asking: Asking<'_>) -> Result<Zeroizing<String>, KeyError> {
    let prompt = |text: &str| {
        let typed = rpassword::prompt_password(text).map(Zeroizing::new);
        typed.map_err(|error| KeyError::NoPassphrase(format!("no terminal: {error}")))
    };
    match asking {
        Asking::Open => prompt("Passphrase of the fleet's keys: "),
        Asking::File(path) => prompt(&format!("Passphrase of {}: ", path.display())),
        Asking::Choose | Asking::ChooseFile(_) => {
            let first = match asking {
                Asking::ChooseFile(path) => prompt(&format!("New passphrase for {}: ", path.display())),
                Asking::Choose | Asking::File(_) | Asking::Open => prompt("New passphrase for the fleet's keys: "),
            }?;
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
    use proptest::prelude::*;
    use rand_core::SeedableRng;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

    fn keys() -> FleetKeys {
        FleetKeys::generate(&mut rand_chacha::ChaCha20Rng::from_seed([1; 32]))
    }

    fn acme() -> FleetId {
        "acme".parse().unwrap()
    }

    fn with(folder: &Path, passphrase: Option<&str>) -> KeyFolder {
        let passphrase = passphrase.map(|text| SecretString::from(text.to_owned()));
        KeyFolder { path: folder.join("keys"), passphrase }
    }

    #[test]
    fn keys_come_back_with_their_passphrase_only() {
        let folder = tempfile::tempdir().unwrap();
        let passphrase = SecretString::from("correct horse".to_owned());
        KeyFolder::of(folder.path()).create(&keys(), &acme(), Some(&passphrase)).unwrap();
        let mut opened = with(folder.path(), Some("correct horse"));
        assert!(opened.is_encrypted(Role::Root).unwrap());
        assert_eq!(opened.signing(Role::Root).unwrap(), keys().root);
        let mut wrong = with(folder.path(), Some("wrong horse"));
        assert!(matches!(wrong.signing(Role::Root), Err(KeyError::WrongPassphrase(_))));
    }

    #[test]
    fn plain_keys_are_private_files_of_their_role() {
        let folder = tempfile::tempdir().unwrap();
        KeyFolder::of(folder.path()).create(&keys(), &acme(), None).unwrap();
        let mut opened = with(folder.path(), None);
        assert_eq!(opened.issuer().unwrap().root_key_id, 1);
        assert_eq!(opened.signing(Role::Feed).unwrap(), keys().feed);
        assert_eq!(opened.collectors().unwrap()[0].public(), keys().collector.public());
        assert!(KeyFolder::of(folder.path()).create(&keys(), &acme(), None).is_err(), "nothing is replaced");
        let (feed, root) = (opened.file(Role::Feed), opened.file(Role::Root));
        std::fs::copy(&root, &feed).unwrap();
        assert!(matches!(opened.signing(Role::Feed), Err(KeyError::Malformed { .. })), "another role's");
        std::fs::write(&feed, "junk").unwrap();
        assert!(matches!(opened.signing(Role::Feed), Err(KeyError::Malformed { .. })));
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(opened.signing(Role::Root), Err(KeyError::File(FileError::TooOpen { .. }))));
    }

    #[test]
    fn a_key_waits_takes_its_place_and_the_one_before_is_kept() {
        for passphrase in [None, Some("correct horse")] {
            let folder = tempfile::tempdir().unwrap();
            let secret = passphrase.map(|text| SecretString::from(text.to_owned()));
            KeyFolder::of(folder.path()).create(&keys(), &acme(), secret.as_ref()).unwrap();
            let mut opened = with(folder.path(), passphrase);
            let rng = &mut rand_chacha::ChaCha20Rng::from_seed([2; 32]);
            let next = opened.next(Role::Issuer, Some(2), rng).unwrap();
            assert_eq!(opened.issuer().unwrap().root_key_id, 1, "it waits");
            assert_eq!(opened.next(Role::Issuer, Some(3), rng).unwrap(), next, "and whoever asks again gets the same");
            let aside = opened.adopt(Role::Issuer).unwrap().unwrap();
            let issuer = opened.issuer().unwrap();
            assert_eq!((issuer.root_key_id, issuer.key.as_bytes()), (2, &*next));
            assert_eq!(opened.is_encrypted(Role::Issuer).unwrap(), passphrase.is_some());
            assert_eq!(aside.file_name().unwrap().to_str().unwrap().split('-').next(), Some("issuer"));
            assert_eq!(opened.load_from(&aside, Role::Issuer).unwrap().private.as_ref(), keys().issuer.key.as_bytes());
            let other = opened.next(Role::Issuer, Some(3), rng).unwrap();
            std::fs::remove_file(opened.file(Role::Issuer)).unwrap();
            assert_eq!(opened.adopt(Role::Issuer).unwrap(), None, "cut off between its two steps, or kept elsewhere");
            assert_eq!(opened.issuer().unwrap().key.as_bytes(), &*other);
        }
    }

    /// A file of age that opens as fast as one can.
    fn cheap(plain: &[u8], passphrase: &str) -> Vec<u8> {
        let mut recipient = age::scrypt::Recipient::new(SecretString::from(passphrase.to_owned()));
        recipient.set_work_factor(1);
        age::encrypt(&recipient, plain).unwrap()
    }

    fn stored(role: Role) -> Vec<u8> {
        let root_key_id = (role == Role::Issuer).then_some(1);
        serde_json::to_vec(&Stored { format: 1, role, root_key_id, fleet: None, private: hex(&[7; 32]) }).unwrap()
    }

    /// A folder whose root key is whatever is put there.
    struct Root {
        _dir: tempfile::TempDir,
        keys: KeyFolder,
    }

    impl Root {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let keys = with(dir.path(), Some("correct horse"));
            files::create_dir(&keys.path).unwrap();
            Self { _dir: dir, keys }
        }

        /// The key of a file with this content. Where there is none, the error names the file and what to do.
        #[track_caller]
        fn read(&mut self, content: &[u8]) -> Result<SigningKey, KeyError> {
            let path = self.keys.file(Role::Root);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let key = self.keys.signing(Role::Root);
            if let Err(error) = &key {
                let text = error.to_string();
                let huge = matches!(error, KeyError::File(FileError::Malformed { .. }));
                assert!(text.contains(path.to_str().unwrap()) && (huge || text.contains("from a copy")), "{text}");
                assert!(!text.contains("correct horse") && !text.contains(&hex(&[7; 8])), "{text}");
            }
            key
        }
    }

    #[test]
    fn a_changed_or_cut_encrypted_key_is_refused_and_only_its_lock_blames_the_passphrase() {
        let mut root = Root::new();
        let whole = cheap(&stored(Role::Root), "correct horse");
        assert_eq!(root.read(&whole).unwrap().to_bytes(), [7; 32]);
        let damaged = |key: Result<_, _>| matches!(key, Err(KeyError::Malformed { .. }));
        let at = |part: &[u8]| whole.windows(part.len()).position(|window| window == part).unwrap();
        // What the passphrase opens: the salt and the wrapped key. The MAC and what is encrypted come after.
        let lock = at(b"scrypt ")..at(b"\n---");
        for place in 0..whole.len() {
            assert!(damaged(root.read(&whole[..place])), "{place} of {} bytes", whole.len());
            let mut changed = whole.clone();
            changed[place] ^= 1 << (place % 7);
            let key = root.read(&changed);
            let refused = damaged(key) || lock.contains(&place);
            assert!(refused && root.read(&changed).is_err(), "byte {place}");
        }
        let longer = [whole.as_slice(), b"\n"].concat();
        assert!(damaged(root.read(&longer)));
        assert!(matches!(root.read(&cheap(&stored(Role::Root), "wrong")), Err(KeyError::WrongPassphrase(_))));
    }

    #[test]
    fn what_is_encrypted_well_and_is_no_key_of_the_role_is_refused() {
        let mut root = Root::new();
        let text = String::from_utf8(stored(Role::Root)).unwrap();
        let others = [
            String::new(),
            "[".repeat(10_000),
            text[1..].to_owned(),
            text.replace("root", "roof"),
            text.replace("\"format\":1", "\"format\":2"),
            text.replace("0707", "07"),
            text.replace("0707", "xxxx"),
            text.replace('{', "{\"colour\":1,"),
            String::from_utf8(stored(Role::Feed)).unwrap(),
        ];
        for other in others {
            assert!(root.read(&cheap(other.as_bytes(), "correct horse")).is_err(), "encrypted: {other:.80}");
            assert!(root.read(other.as_bytes()).is_err(), "{other:.80}");
        }
        let binary = cheap(&[0xff; 300], "correct horse");
        assert!(root.read(&binary).is_err());
        assert!(root.read(&vec![b'{'; 1 << 17]).is_err(), "huge");
        // More work than a file of ours can ask for is not done.
        let work = |factor: &str| {
            format!(
                "age-encryption.org/v1\n-> scrypt {} {factor}\n{}\n--- {}\n",
                "A".repeat(22),
                "A".repeat(43),
                "A".repeat(43)
            )
        };
        for factor in ["0", "21", "30", "63", "64", "255", "256", "-1", "01", "x"] {
            assert!(matches!(root.read(work(factor).as_bytes()), Err(KeyError::Malformed { .. })), "{factor}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn random_bytes_are_no_key(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut root = Root::new();
            prop_assert!(root.read(&bytes).is_err());
            prop_assert!(root.read(&[AGE, b"\n", &bytes].concat()).is_err());
            prop_assert!(root.read(&cheap(&bytes, "correct horse")).is_err());
        }

        #[test]
        fn a_descriptor_is_read_up_to_its_first_lines_end(bytes in proptest::collection::vec(any::<u8>(), 0..60), text in "\\PC{1,40}") {
            prop_assert!(given(&[text.as_bytes(), b"\n", &bytes].concat()).is_ok_and(|given| *given == text));
            let _ = given(&bytes);
            let _ = from_descriptor(&text);
        }
    }

    fn given(content: &[u8]) -> Result<Zeroizing<String>, KeyError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let open = std::fs::File::open(file.path()).unwrap();
        from_descriptor(&open.as_raw_fd().to_string())
    }

    #[test]
    fn a_passphrase_is_never_cut_short() {
        let limit = PASSPHRASE_BYTES_MAX as usize;
        assert_eq!(given(&vec![b'a'; limit]).unwrap().len(), limit);
        assert_eq!(given(&[&vec![b'a'; limit], b"\r\nmore".as_slice()].concat()).unwrap().len(), limit);
        for bad in [vec![b'a'; limit + 1], vec![b'a'; 1 << 16], vec![], b"\nsecond".to_vec(), vec![0xff; 9]] {
            assert!(matches!(given(&bad), Err(KeyError::NoPassphrase(_))), "{} bytes", bad.len());
        }
        for bad in ["", "-1", "x", "99999", "4294967296"] {
            assert!(matches!(from_descriptor(bad), Err(KeyError::NoPassphrase(_))), "{bad}");
        }
    }
}
