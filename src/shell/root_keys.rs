//! The root keys' files: `keys/root.key`, or `keys/root.1.key` and so on where there are several.
//!
//! Owns: which file has which number, finding those that are at hand wherever they lie, the files of new ones.
//! Never: asks for a root key that nothing has to be signed with; minds that some are elsewhere.
//! Read next: `fleet_keys.rs`.

use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use super::fleet_keys::{ask, is_encrypted, Asking, KeyError, KeyFolder, Label, Role, PASSPHRASE_FD};
use crate::wire::bundle::{Fingerprint, PublicKey};

/// A root key that is at hand.
pub struct Root {
    /// Its file.
    pub path: PathBuf,
    /// The key.
    pub key: SigningKey,
    /// The fleet that it signs for.
    pub fleet: Option<Fingerprint>,
}

/// The root keys that are at hand.
#[derive(Default)]
pub struct Roots {
    /// Those that open.
    pub found: Vec<Root>,
    /// Files in the fleet's folder that have another passphrase than its other keys: their holders sign with them.
    pub closed: Vec<PathBuf>,
}

/// Opens one root key file, wherever it is.
///
/// # Errors
/// [`KeyError`].
pub fn read_root(path: &Path) -> Result<Root, KeyError> {
    let mut folder = KeyFolder { path: PathBuf::new(), passphrase: None };
    if is_encrypted(path)? && std::env::var_os(PASSPHRASE_FD).is_none() {
        folder.passphrase = Some(ask(Asking::File(path))?);
    }
    root(&mut folder, path)
}

fn root(folder: &mut KeyFolder, path: &Path) -> Result<Root, KeyError> {
    let loaded = folder.load_from(path, Role::Root)?;
    Ok(Root { path: path.to_owned(), key: SigningKey::from_bytes(&loaded.private), fleet: loaded.fleet })
}

impl KeyFolder {
    /// Where the root key of a number is, counted from 1, in a fleet with so many.
    pub fn root_file(&self, number: usize, of: usize) -> PathBuf {
        self.path.join(format!("{}.key", root_name(number, of)))
    }

    /// Those of the wanted root keys whose files are here or were named. What is in the folder and is wanted no more is passed
    /// over; a named file has to be one of them.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn roots(&mut self, wanted: &[PublicKey], named: &[PathBuf]) -> Result<Roots, KeyError> {
        let own = |name: &String| {
            let name = name.strip_suffix(".next").unwrap_or(name);
            let number = name.strip_prefix("root.").and_then(|rest| rest.strip_suffix(".key"));
            name == "root.key" || number.is_some_and(|number| number.parse::<u8>().is_ok())
        };
        let here: Vec<PathBuf> = self.names()?.into_iter().filter(own).map(|name| self.path.join(name)).collect();
        let mut roots = Roots::default();
        for path in &here {
            match self.root_here(path) {
                Ok(root) => add(&mut roots, root, wanted),
                Err(KeyError::WrongPassphrase(_) | KeyError::NoPassphrase(_)) => roots.closed.push(path.clone()),
                Err(error) => return Err(error),
            }
        }
        for path in named.iter().filter(|path| !here.contains(path)) {
            let root = self.root_here(path)?;
            if !wanted.contains(&root.key.verifying_key().into()) {
                return Err(KeyError::NoRoot(path.clone()));
            }
            add(&mut roots, root, wanted);
        }
        Ok(roots)
    }

    /// A root key whose passphrase may be that of the fleet's other keys, or its own.
    fn root_here(&mut self, path: &Path) -> Result<Root, KeyError> {
        if self.passphrase.is_none() && named_files_are_asked_for() && is_encrypted(path)? {
            return read_root(path);
        }
        match root(self, path) {
            Err(KeyError::WrongPassphrase(_)) if named_files_are_asked_for() => read_root(path),
            other => other,
        }
    }

    /// A new root key in the place of that with a number, which waits until it is one; it is encrypted where the others are.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn next_root(
        &mut self,
        (number, of): (usize, usize),
        fleet: Fingerprint,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<SigningKey, KeyError> {
        let like = self.path.join("operator.key");
        let private = self.wait(&root_name(number, of), Role::Root, Label::root(fleet), &like, Role::Operator, rng)?;
        Ok(SigningKey::from_bytes(&private))
    }

    /// Where a root key waits for a number.
    pub fn waiting_for_root(&self, number: usize, of: usize) -> PathBuf {
        self.waiting_file(&root_name(number, of))
    }

    /// The root key that waits for a number.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn waiting_root(&mut self, number: usize, of: usize) -> Result<Option<Zeroizing<[u8; 32]>>, KeyError> {
        self.load_if_there(&self.waiting_file(&root_name(number, of)), Role::Root)
    }

    /// Gives the root keys of a trust bundle their files: one that waits takes its place, one that is a root key no more is
    /// kept under another name, and the only one is `root.key`. Gives the files of those that are kept. Can be called again.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn adopt_roots(&mut self, roots: &[PublicKey]) -> Result<Vec<PathBuf>, KeyError> {
        let mut kept = Vec::new();
        // A fleet that had one, or has one from now on.
        let (single, first) = (self.root_file(1, 1), self.root_file(1, 2));
        let (from, to) = if roots.len() == 1 { (first, single) } else { (single, first) };
        if from.exists() && !to.exists() {
            self.rename(&from, &to)?;
        }
        for (number, wanted) in (1..).zip(roots) {
            let Some(private) = self.waiting_root(number, roots.len())? else { continue };
            let key = SigningKey::from_bytes(&private);
            if PublicKey::from(key.verifying_key()) != *wanted {
                continue;
            }
            let path = self.root_file(number, roots.len());
            if path.exists() {
                kept.push(self.keep_root(&path)?);
            }
            self.rename(&self.waiting_file(&root_name(number, roots.len())), &path)?;
        }
        for number in roots.len() + 1..=crate::wire::bundle::ROOTS_MAX {
            let path = self.root_file(number, 2);
            if path.exists() {
                kept.push(self.keep_root(&path)?);
            }
        }
        Ok(kept)
    }

    /// Keeps the file of a root key that is one no more. Where its passphrase is somebody else's, it is named by its number.
    fn keep_root(&mut self, path: &Path) -> Result<PathBuf, KeyError> {
        match self.root_here(path) {
            Ok(root) => self.put_aside(path, Role::Root, root.key.as_bytes()),
            Err(KeyError::WrongPassphrase(_) | KeyError::NoPassphrase(_)) => {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                let free = |n: &u32| !self.path.join(format!("{name}.old.{n}")).exists();
                let number = (1..).find(free).unwrap_or(1);
                let aside = self.path.join(format!("{name}.old.{number}"));
                self.rename(path, &aside)?;
                Ok(aside)
            }
            Err(error) => Err(error),
        }
    }
}

fn root_name(number: usize, of: usize) -> String {
    if of == 1 {
        "root".to_owned()
    } else {
        format!("root.{number}")
    }
}

/// Whether somebody can be asked for the passphrase of one file: a descriptor gives one for all of them.
fn named_files_are_asked_for() -> bool {
    std::env::var_os(PASSPHRASE_FD).is_none()
}

fn add(roots: &mut Roots, root: Root, wanted: &[PublicKey]) {
    let is = |other: &Root| other.key == root.key;
    if wanted.contains(&root.key.verifying_key().into()) && !roots.found.iter().any(is) {
        roots.found.push(root);
    }
}
