//! Where entries and sealed values lie.
//!
//! Owns: the proxy's folder (0700): `format`, `sealing.key`, `uses`, `entries/NAME`, each replaced as a whole; opening a value.
//! Never: keeps an open value longer than whoever asked for it; reads a file that others could have written.
//! Read next: `../../secrets/entry.rs`, which has the form of an entry.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use crate::secrets::entry::{value_of, Entry, EntryError, Kept, SecretName, VALUE_BYTES_MAX};
use crate::secrets::uses::Uses;
use crate::shell::files::{self, FileError};
use crate::time::Timestamp;
use crate::wire::seal::{Sealed, SealingKey};

/// The form of the folder that this program writes.
const FORMAT: &str = "1\n";
/// What a value is sealed for.
const PURPOSE: &str = "hardtack/secret/v1";
/// The most entries.
const ENTRIES_MAX: usize = 256;
/// A value, and the end of its line.
const VALUE_FILE_BYTES_MAX: u64 = VALUE_BYTES_MAX as u64 + 2;

/// Why the folder, or something in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// A credential of the service manager is not there.
    #[error(
        "{name} is a credential of the service manager, and there is no file {}: give it to the service with \
         `LoadCredentialEncrypted={name}`", path.display()
    )]
    Credential {
        /// The secret.
        name: SecretName,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The service manager gave no credentials.
    #[error(
        "{0} is a credential of the service manager, which gave none: start the proxy as a service with \
         `LoadCredentialEncrypted={0}`"
    )]
    NoCredentials(SecretName),
    /// An entry, or a value.
    #[error("{}: {error}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: EntryError,
    },
    /// A value that was given.
    #[error(transparent)]
    Value(#[from] EntryError),
    /// There is an entry of that name.
    #[error("there is a secret {0} already: `hardtack secrets rotate {0}` gives it another value, `secrets remove {0}` takes it away")]
    Exists(SecretName),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// There are too many.
    #[error("there are {ENTRIES_MAX} secrets, the most that a proxy holds: remove what is not used any more")]
    Full,
    /// The folder is of another program, or of a later one.
    #[error("{} is not a folder of format 1: use the program that wrote it, or move the folder away", .0.display())]
    Newer(PathBuf),
    /// It is not a folder of secrets.
    #[error("{} holds no secrets: `hardtack secrets add` makes it", .0.display())]
    NotHere(PathBuf),
    /// The value does not open.
    #[error(
        "the value of {0} does not open: its entry was changed by hand, or it was sealed with another key; `hardtack secrets \
         remove {0}`, then add it again"
    )]
    Sealed(SecretName),
    /// There is no such secret.
    #[error("there is no secret {0}: `hardtack secrets list` tells which there are")]
    Unknown(SecretName),
}

/// The folder.
#[derive(Clone, Debug)]
pub struct Vault {
    dir: PathBuf,
    credentials: Option<PathBuf>,
}

/// An entry, and where its value is.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The entry.
    pub entry: Entry,
    /// Where its value is.
    pub kept: Kept,
}

impl Vault {
    /// The folder, which must be there. `credentials` is where the service manager puts its own.
    ///
    /// # Errors
    /// [`VaultError::NotHere`], or why it cannot be used.
    pub fn open(dir: &Path, credentials: Option<PathBuf>) -> Result<Self, VaultError> {
        match files::check_private_dir(dir) {
            Err(error) if error.is_missing() => return Err(VaultError::NotHere(dir.into())),
            checked => checked?,
        }
        match files::read_private(&dir.join("format")) {
            Err(error) if error.is_missing() => Err(VaultError::NotHere(dir.into())),
            Err(error) => Err(error.into()),
            Ok(format) if *format != FORMAT.as_bytes() => Err(VaultError::Newer(dir.into())),
            Ok(_) => Ok(Self { dir: dir.into(), credentials }),
        }
    }

    /// The folder, made if it is not there or is empty.
    ///
    /// # Errors
    /// Why it cannot be made or used.
    pub fn make(dir: &Path, rng: &mut (impl RngCore + CryptoRng)) -> Result<Self, VaultError> {
        match Self::open(dir, None) {
            Err(VaultError::NotHere(_)) => {}
            opened => return opened,
        }
        files::create_dir(dir)?;
        files::check_private_dir(dir)?;
        files::create_dir(&dir.join("entries"))?;
        let key = dir.join("sealing.key");
        // One that is there from a start that was cut off may have sealed nothing yet; it is as good as another.
        match files::write_private(&key, &key_text(&SealingKey::generate(rng))) {
            Err(FileError::Exists { .. }) => drop(read_key(&key)?),
            written => written?,
        }
        // Last: a folder without it is not made yet.
        files::replace(&dir.join("format"), FORMAT.as_bytes())?;
        Ok(Self { dir: dir.into(), credentials: None })
    }

    /// The folder's path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn file(&self, name: &SecretName) -> PathBuf {
        self.dir.join("entries").join(name.as_str())
    }

    /// Adds an entry with its value; without one it is a credential of the service manager.
    ///
    /// # Errors
    /// [`VaultError::Exists`], [`VaultError::Full`], what is wrong with entry or value, or that it cannot be written.
    pub fn add(
        &self,
        entry: &Entry,
        value: Option<&[u8]>,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(), VaultError> {
        entry.check()?;
        let kept = match value {
            Some(value) => self.seal(entry, value, rng)?,
            None => Kept::Credential,
        };
        if self.names()?.len() >= ENTRIES_MAX {
            return Err(VaultError::Full);
        }
        match files::write_private(&self.file(&entry.name), entry.text(&kept).as_bytes()) {
            Err(FileError::Exists { .. }) => Err(VaultError::Exists(entry.name.clone())),
            written => Ok(written?),
        }
    }

    /// Gives an entry another value. Requests that are under way keep the old one, those after have the new one.
    ///
    /// # Errors
    /// [`VaultError::Unknown`], what is wrong with the value, or that it cannot be written.
    pub fn rotate(
        &self,
        name: &SecretName,
        value: &[u8],
        at: Timestamp,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(), VaultError> {
        let Stored { entry, kept } = self.stored(name)?;
        if kept == Kept::Credential {
            return Err(VaultError::Value(EntryError::Value(
                "of this secret is a credential of the service manager: encrypt it anew and restart the service",
            )));
        }
        let entry = Entry { valued: at, ..entry };
        let kept = self.seal(&entry, value, rng)?;
        Ok(files::replace(&self.file(name), entry.text(&kept).as_bytes())?)
    }

    fn seal(&self, entry: &Entry, value: &[u8], rng: &mut (impl RngCore + CryptoRng)) -> Result<Kept, VaultError> {
        let key = read_key(&self.dir.join("sealing.key"))?;
        let context = entry.statement();
        let sealed = Sealed::seal(value_of(value)?, &key.public(), PURPOSE, context.as_bytes(), rng);
        sealed.map(Kept::Sealed).map_err(|_| VaultError::Sealed(entry.name.clone()))
    }

    /// Takes an entry and its value away.
    ///
    /// # Errors
    /// [`VaultError::Unknown`], or that it cannot be removed.
    pub fn remove(&self, name: &SecretName) -> Result<(), VaultError> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(VaultError::Unknown(name.clone())),
            Err(error) => Err(FileError::io("remove", &path, error).into()),
            Ok(()) => Ok(files::sync_parent(&path)?),
        }
    }

    /// The names of all entries, in order.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn names(&self) -> Result<Vec<SecretName>, VaultError> {
        let dir = self.dir.join("entries");
        let failed = |error| VaultError::File(FileError::io("read", &dir, error));
        let mut names = Vec::new();
        for file in fs::read_dir(&dir).map_err(failed)? {
            let name = file.map_err(failed)?.file_name();
            let name = name.to_string_lossy();
            if files::is_temporary(&name) {
                continue;
            }
            let error = |error| VaultError::Entry { path: dir.join(&*name), error };
            names.push(name.parse().map_err(error)?);
        }
        names.sort();
        Ok(names)
    }

    /// An entry.
    ///
    /// # Errors
    /// [`VaultError::Unknown`], or why it cannot be used.
    pub fn stored(&self, name: &SecretName) -> Result<Stored, VaultError> {
        let path = self.file(name);
        let bytes = match files::read_private(&path) {
            Err(error) if error.is_missing() => return Err(VaultError::Unknown(name.clone())),
            bytes => bytes?,
        };
        let bad = |error| VaultError::Entry { path: path.clone(), error };
        let text = std::str::from_utf8(&bytes).map_err(|_| bad(EntryError::File("it is no text".into())))?;
        let (entry, kept) = Entry::parse(text).map_err(bad)?;
        if entry.name != *name {
            return Err(bad(EntryError::File(format!("it is the entry of {}", entry.name))));
        }
        Ok(Stored { entry, kept })
    }

    /// The value of an entry.
    ///
    /// # Errors
    /// When it does not open, or is not there.
    pub fn value(&self, stored: &Stored) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let Stored { entry, kept } = stored;
        let value = match kept {
            Kept::Credential => self.credential(&entry.name)?,
            Kept::Sealed(sealed) => {
                let key = read_key(&self.dir.join("sealing.key"))?;
                let opened = sealed.open(&key, PURPOSE, entry.statement().as_bytes());
                opened.map_err(|_| VaultError::Sealed(entry.name.clone()))?
            }
        };
        Ok(Zeroizing::new(value_of(&value)?.to_vec()))
    }

    fn credential(&self, name: &SecretName) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let Some(dir) = &self.credentials else { return Err(VaultError::NoCredentials(name.clone())) };
        let path = dir.join(name.as_str());
        // Its owner and mode are the service manager's affair.
        let file = match fs::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(VaultError::Credential { name: name.clone(), path })
            }
            file => file,
        };
        let mut value = Zeroizing::new(Vec::with_capacity(VALUE_BYTES_MAX + 3));
        let read = file.and_then(|file| file.take(VALUE_FILE_BYTES_MAX + 1).read_to_end(&mut value));
        read.map_err(|error| FileError::io("read", &path, error))?;
        Ok(value)
    }

    /// What was used when; nothing where nothing was written yet.
    ///
    /// # Errors
    /// When the file is there and cannot be used.
    pub fn uses(&self) -> Result<Uses, VaultError> {
        let path = self.dir.join("uses");
        let bytes = match files::read_private(&path) {
            Err(error) if error.is_missing() => return Ok(Uses::default()),
            bytes => bytes?,
        };
        let bad = |why: String| FileError::Malformed { path: path.clone(), why };
        let text = std::str::from_utf8(&bytes).map_err(|_| bad("it is no text".into()))?;
        Ok(Uses::parse(text).map_err(bad)?)
    }

    /// The same; a file that cannot be used is set aside as `uses.damaged`. It decides nothing, and nobody waits for it.
    ///
    /// # Errors
    /// When it cannot be set aside.
    pub fn uses_or_none(&self) -> Result<Uses, VaultError> {
        let error = match self.uses() {
            Err(error) => error,
            uses => return uses,
        };
        tracing::warn!(event = "secrets.uses_set_aside", %error);
        let (path, aside) = (self.dir.join("uses"), self.dir.join("uses.damaged"));
        fs::rename(&path, &aside).map_err(|error| FileError::io("set aside", &path, error))?;
        Ok(Uses::default())
    }

    /// Writes down what was used when.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_uses(&self, uses: &Uses) -> Result<(), VaultError> {
        Ok(files::replace(&self.dir.join("uses"), uses.text().as_bytes())?)
    }
}

/// Reads a value that somebody pipes in.
///
/// # Errors
/// When it cannot be read or cannot be a value.
pub fn read_value(from: impl io::Read) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    // Room for all of it at once: a vector that grows leaves copies behind.
    let mut value = Zeroizing::new(Vec::with_capacity(VALUE_BYTES_MAX + 3));
    let read = from.take(VALUE_FILE_BYTES_MAX + 1).read_to_end(&mut value);
    read.map_err(|error| FileError::io("read the value from", Path::new("stdin"), error))?;
    value_of(&value)?;
    Ok(value)
}

fn key_text(key: &SealingKey) -> Zeroizing<Vec<u8>> {
    let hex = Zeroizing::new(HEXLOWER.encode(key.to_bytes().as_ref()));
    Zeroizing::new([hex.as_bytes(), b"\n"].concat())
}

fn read_key(path: &Path) -> Result<SealingKey, VaultError> {
    let text = files::read_private(path)?;
    let mut bytes = Zeroizing::new([0; 32]);
    let digits = text.strip_suffix(b"\n").unwrap_or(&text);
    let fits = HEXLOWER.decode_len(digits.len()) == Ok(bytes.len());
    let decoded = fits && HEXLOWER.decode_mut(digits, bytes.as_mut()).is_ok();
    match decoded {
        true => Ok(SealingKey::from_bytes(*bytes)),
        false => {
            let why = "it is not 64 hexadecimal digits: put back a copy of the folder, or add the secrets again".into();
            Err(FileError::Malformed { path: path.into(), why }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::secrets::entry::{Exposure, Inject};
    use crate::shell::entropy;

    const VALUE: &[u8] = b"s3cret-value-of-the-crm";

    fn entry(name: &str) -> Entry {
        Entry {
            name: name.parse().unwrap(),
            upstream: "https://crm.example".parse().unwrap(),
            rules: vec!["GET:/v1/*".parse().unwrap()],
            inject: Inject::header("Authorization: Bearer {}").unwrap(),
            authorities: Vec::new(),
            exposure: Exposure::Refused,
            added: Timestamp(1000),
            valued: Timestamp(1000),
        }
    }

    fn made() -> (tempfile::TempDir, Vault) {
        let folder = tempfile::tempdir().unwrap();
        let vault = Vault::make(&folder.path().join("secrets"), &mut entropy::rng()).unwrap();
        (folder, vault)
    }

    #[test]
    fn a_value_is_sealed_and_opens_for_its_entry_alone() {
        let (_folder, vault) = made();
        let crm = entry("crm");
        vault.add(&crm, Some(&[VALUE, b"\n"].concat()), &mut entropy::rng()).unwrap();
        let vault = Vault::open(vault.dir(), None).unwrap();
        let stored = vault.stored(&crm.name).unwrap();
        assert_eq!((stored.entry.clone(), vault.value(&stored).unwrap().as_slice()), (crm.clone(), VALUE));
        assert!(matches!(vault.add(&crm, Some(VALUE), &mut entropy::rng()), Err(VaultError::Exists(_))));

        // The value is in no file as it is, and nobody else may read them.
        for file in ["format", "sealing.key", "entries/crm"] {
            let path = vault.dir().join(file);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "{file}");
            assert!(!fs::read(&path).unwrap().windows(VALUE.len()).any(|window| window == VALUE), "{file}");
        }

        // Another upstream in the same file, or the sealed value in another entry's: it does not open.
        let path = vault.dir().join("entries/crm");
        let text = fs::read_to_string(&path).unwrap();
        files::replace(&path, text.replace("crm.example", "evil.example").as_bytes()).unwrap();
        let moved = vault.stored(&crm.name).unwrap();
        assert!(matches!(vault.value(&moved), Err(VaultError::Sealed(_))));
        files::replace(&vault.dir().join("entries/other"), text.replace("\"crm\"", "\"other\"").as_bytes()).unwrap();
        let other = vault.stored(&"other".parse().unwrap()).unwrap();
        assert!(matches!(vault.value(&other), Err(VaultError::Sealed(_))));
    }

    #[test]
    fn a_file_that_was_changed_anywhere_opens_for_no_other_request() {
        let (_folder, vault) = made();
        let crm = entry("crm");
        vault.add(&crm, Some(VALUE), &mut entropy::rng()).unwrap();
        let text = fs::read_to_string(vault.dir().join("entries/crm")).unwrap();
        let mut opened = 0;
        for (at, bit) in (0..text.len()).flat_map(|at| [(at, 1), (at, 4), (at, 0x20)]) {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= bit;
            let Ok((entry, kept)) = Entry::parse(std::str::from_utf8(&bytes).unwrap()) else { continue };
            let stored = Stored { entry, kept };
            if let Ok(value) = vault.value(&stored) {
                // A date says nothing of where it may go.
                assert_eq!((value.as_slice(), stored.entry.statement()), (VALUE, crm.statement()), "{at}");
                opened += 1;
            }
        }
        assert!(opened > 0 && opened < text.len(), "{opened} of {}", text.len());
    }

    #[test]
    fn another_value_keeps_the_entry() {
        let (_folder, vault) = made();
        let crm = entry("crm");
        vault.add(&crm, Some(VALUE), &mut entropy::rng()).unwrap();
        vault.rotate(&crm.name, b"another-value", Timestamp(5000), &mut entropy::rng()).unwrap();
        let stored = vault.stored(&crm.name).unwrap();
        assert_eq!(vault.value(&stored).unwrap().as_slice(), b"another-value");
        assert_eq!(stored.entry, Entry { valued: Timestamp(5000), ..crm.clone() });
        assert!(vault.rotate(&crm.name, b"short", Timestamp(6000), &mut entropy::rng()).is_err());
        assert_eq!(vault.value(&vault.stored(&crm.name).unwrap()).unwrap().as_slice(), b"another-value");
        vault.remove(&crm.name).unwrap();
        assert!(matches!(vault.stored(&crm.name), Err(VaultError::Unknown(_))));
        assert!(matches!(vault.remove(&crm.name), Err(VaultError::Unknown(_))));
        assert!(matches!(
            vault.rotate(&crm.name, VALUE, Timestamp(0), &mut entropy::rng()),
            Err(VaultError::Unknown(_))
        ));
    }

    #[test]
    fn a_credential_comes_from_the_service_managers_folder() {
        let (folder, vault) = made();
        let crm = entry("crm");
        vault.add(&crm, None, &mut entropy::rng()).unwrap();
        let stored = vault.stored(&crm.name).unwrap();
        assert!(matches!(vault.value(&stored), Err(VaultError::NoCredentials(_))));
        assert!(vault.rotate(&crm.name, VALUE, Timestamp(0), &mut entropy::rng()).is_err());
        let credentials = folder.path().join("credentials");
        fs::create_dir(&credentials).unwrap();
        let vault = Vault::open(vault.dir(), Some(credentials.clone())).unwrap();
        assert!(vault.value(&stored).unwrap_err().to_string().contains("LoadCredentialEncrypted=crm"));
        fs::write(credentials.join("crm"), [VALUE, b"\n"].concat()).unwrap();
        assert_eq!(vault.value(&stored).unwrap().as_slice(), VALUE);
        fs::write(credentials.join("crm"), vec![b'x'; 10_000]).unwrap();
        assert!(vault.value(&stored).unwrap_err().to_string().contains("more than 4096"));
    }

    #[test]
    fn a_folder_that_is_none_is_refused_with_a_reason() {
        let (_folder, vault) = made();
        let dir = vault.dir().to_owned();
        vault.add(&entry("crm"), Some(VALUE), &mut entropy::rng()).unwrap();
        let chmod = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        chmod(&dir, 0o755);
        assert!(Vault::open(&dir, None).unwrap_err().to_string().contains("chmod 700"));
        chmod(&dir, 0o700);
        chmod(&dir.join("entries/crm"), 0o644);
        assert!(vault.stored(&"crm".parse().unwrap()).unwrap_err().to_string().contains("chmod 600"));
        chmod(&dir.join("entries/crm"), 0o600);
        for content in ["", "\0\0", "format = 1\n", "[[[", &"x".repeat(70_000)] {
            files::replace(&dir.join("entries/crm"), content.as_bytes()).unwrap();
            let error = vault.stored(&"crm".parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains("entries/crm"), "{error}");
            if content == "format = 1\n" {
                // Of uses that is a whole file.
                continue;
            }
            files::replace(&dir.join("uses"), content.as_bytes()).unwrap();
            assert!(vault.uses().unwrap_err().to_string().contains("uses is damaged"), "{content:.9}");
        }
        fs::write(dir.join("entries/..odd"), "").unwrap();
        assert!(vault.names().is_err());
        files::replace(&dir.join("sealing.key"), b"0000\n").unwrap();
        assert!(vault.add(&entry("two"), Some(VALUE), &mut entropy::rng()).unwrap_err().to_string().contains("64 hex"));
        files::replace(&dir.join("format"), b"2\n").unwrap();
        assert!(matches!(Vault::open(&dir, None), Err(VaultError::Newer(_))));
        assert!(matches!(Vault::open(&dir.join("nowhere"), None), Err(VaultError::NotHere(_))));
    }

    #[test]
    fn a_value_is_read_with_a_bound() {
        assert_eq!(read_value(&b"12345678x\n"[..]).unwrap().as_slice(), b"12345678x\n");
        assert!(read_value(io::repeat(b'x')).is_err());
        assert!(read_value(&b""[..]).is_err());
    }
}
