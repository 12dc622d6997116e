//! The fleet's private keys on disk: `keys/<role>.key`.
//!
//! Owns: their form, that nobody else may read them, their encryption with a passphrase (age, scrypt), and where the
//! passphrase comes from.
//! Never: keeps a key that a command does not need; writes a passphrase anywhere; deletes a key.
//! Read next: `../fleet/keys.rs` for what each role may do.

mod emergency;

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
use crate::ids::{hex, unhex, KeyId};
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
                // They are made one by one.
                Role::Emergency => continue,
                Role::Feed => (bytes_of(&keys.feed), None),
                Role::Issuer => (bytes_of(&keys.issuer.key), Some(keys.issuer.root_key_id)),
                Role::Operator => (bytes_of(&keys.operator), None),
                Role::Policy => (bytes_of(&keys.policy), None),
                Role::Root => (bytes_of(&keys.root), None),
                Role::Service => (bytes_of(&keys.service), None),
            };
            write(&self.file(role), role, &private, root_key_id, passphrase)?;
        }
        Ok(())
    }

    /// The key that is to take the place of a role's: one that waits already, or a new one, which waits from now on. A new one
    /// is encrypted where the root key is, with its passphrase. `root_key_id` numbers a new issuer.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn next(
        &mut self,
        role: Role,
        root_key_id: Option<u32>,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<SigningKey, KeyError> {
        let path = self.waiting(role);
        match self.load_from(&path, role) {
            Ok((private, _)) => return Ok(SigningKey::from_bytes(&private)),
            Err(KeyError::File(error)) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
        let key = SigningKey::generate(rng);
        // Opened once already, so that the passphrase is that of the fleet's keys.
        self.load(Role::Root)?;
        let encrypted = self.is_encrypted(Role::Root)?;
        write(&path, role, &bytes_of(&key), root_key_id, self.passphrase.as_ref().filter(|_| encrypted))?;
        Ok(key)
    }

    /// The key that waits takes the role's place. Gives the file that holds the one before, if there is one here.
    ///
    /// # Errors
    /// [`KeyError`]. Whatever was done by then, [`KeyFolder::adopt`] can be called again.
    pub fn adopt(&mut self, role: Role) -> Result<Option<PathBuf>, KeyError> {
        let (path, waiting) = (self.file(role), self.waiting(role));
        let rename =
            |from: &Path, to: &Path| std::fs::rename(from, to).map_err(|error| FileError::io("rename", from, error));
        let aside = match self.load(role) {
            Ok((private, _)) => {
                let id = KeyId::of(SigningKey::from_bytes(&private).verifying_key().as_bytes());
                let aside = self.path.join(format!("{}-{id}.key.old", role.name()));
                rename(&path, &aside)?;
                Some(aside)
            }
            Err(KeyError::File(error)) if error.is_missing() => None,
            Err(error) => return Err(error),
        };
        rename(&waiting, &path)?;
        files::sync_dir(&self.path)?;
        Ok(aside)
    }

    fn waiting(&self, role: Role) -> PathBuf {
        self.path.join(format!("{}.key.next", role.name()))
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
        self.load_from(&self.file(role), role)
    }

    fn load_from(&mut self, path: &Path, role: Role) -> Result<(Zeroizing<[u8; 32]>, Option<u32>), KeyError> {
        let content = files::read_private(path)?;
        let malformed = || KeyError::Malformed { path: path.to_owned(), role: role.name() };
        let plain = if content.starts_with(AGE) {
            let passphrase = match &self.passphrase {
                Some(passphrase) => passphrase,
                None => self.passphrase.insert(ask(Asking::Open)?),
            };
            decrypt(&content, passphrase).map_err(|error| match error {
                Closed::Damaged => malformed(),
                Closed::Passphrase => KeyError::WrongPassphrase(path.to_owned()),
            })?
        } else {
            content
        };
        let stored: Stored = serde_json::from_slice(&plain).map_err(|_| malformed())?;
        if stored.format != 1 || stored.role != role {
            return Err(malformed());
        }
        let bytes = Zeroizing::new(unhex(&stored.private).ok_or_else(malformed)?);
        let private: [u8; 32] = bytes.as_slice().try_into().map_err(|_| malformed())?;
        Ok((Zeroizing::new(private), stored.root_key_id))
    }
}

fn write(
    path: &Path,
    role: Role,
    private: &[u8; 32],
    root_key_id: Option<u32>,
    passphrase: Option<&SecretString>,
) -> Result<(), KeyError> {
    let stored = Stored { format: 1, role, root_key_id, private: hex(private) };
    // Of text and numbers: there is nothing that could not be written.
    let json = serde_json::to_vec(&stored).map_err(|error| KeyError::Encryption(error.to_string()))?;
    let plain = Zeroizing::new(json);
    let content = match passphrase {
        Some(passphrase) => encrypt(&plain, passphrase)?,
        None => plain.to_vec(),
    };
    Ok(files::write_private(path, &content)?)
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
    use proptest::prelude::*;
    use rand_core::SeedableRng;
    use std::os::fd::AsRawFd;
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

    #[test]
    fn a_key_waits_takes_its_place_and_the_one_before_is_kept() {
        for passphrase in [None, Some("correct horse")] {
            let folder = tempfile::tempdir().unwrap();
            let secret = passphrase.map(|text| SecretString::from(text.to_owned()));
            KeyFolder::of(folder.path()).create(&keys(), secret.as_ref()).unwrap();
            let mut opened = with(folder.path(), passphrase);
            let rng = &mut rand_chacha::ChaCha20Rng::from_seed([2; 32]);
            let next = opened.next(Role::Issuer, Some(2), rng).unwrap();
            assert_eq!(opened.issuer().unwrap().root_key_id, 1, "it waits");
            assert_eq!(opened.next(Role::Issuer, Some(3), rng).unwrap(), next, "and whoever asks again gets the same");
            let aside = opened.adopt(Role::Issuer).unwrap().unwrap();
            let issuer = opened.issuer().unwrap();
            assert_eq!((issuer.root_key_id, &issuer.key), (2, &next));
            assert_eq!(opened.is_encrypted(Role::Issuer).unwrap(), passphrase.is_some());
            assert_eq!(aside.file_name().unwrap().to_str().unwrap().split('-').next(), Some("issuer"));
            assert_eq!(opened.load_from(&aside, Role::Issuer).unwrap().0.as_ref(), keys().issuer.key.as_bytes());
            let other = opened.next(Role::Issuer, Some(3), rng).unwrap();
            std::fs::remove_file(opened.file(Role::Issuer)).unwrap();
            assert_eq!(opened.adopt(Role::Issuer).unwrap(), None, "cut off between its two steps, or kept elsewhere");
            assert_eq!(opened.issuer().unwrap().key, other);
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
        serde_json::to_vec(&Stored { format: 1, role, root_key_id, private: hex(&[7; 32]) }).unwrap()
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
