//! A device's private keys and its client certificate on disk.
//!
//! Owns: `device.key` and `certificate` in the state folder: their form, and that nobody else may read the first.
//! Never: sends a key anywhere; overwrites one: only the nonce beside the keys is ever replaced.
//! Read next: `files.rs` for modes and durability, `wire/enrol.rs` for what the keys are for.

use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

pub use super::files::{read_private, write_private};
use super::files::{replace, FileError};
use crate::ids::{hex, DeviceId, Nonce};
use crate::wire::enrol::DeviceKeys;

/// The form of the key file that this program writes.
const FORMAT: u32 = 1;
/// The most bytes of a certificate.
const CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// What `device.key` holds.
pub struct DeviceKeyFile {
    /// The device that the keys were made for.
    pub device: DeviceId,
    /// The nonce of its enrolment request, which the answer must carry.
    pub nonce: Nonce,
    /// The nonce of the request before, whose answer was taken. The same answer may be taken again, but cures nothing.
    pub used: Option<Nonce>,
    /// Its private keys.
    pub keys: DeviceKeys,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    format: u32,
    device: DeviceId,
    nonce: Nonce,
    used: Option<Nonce>,
    keys: String,
    check: String,
}

impl Drop for Text {
    fn drop(&mut self) {
        self.keys.zeroize();
    }
}

impl DeviceKeyFile {
    /// Writes `device.key` in the state folder, mode 0600, durable on return.
    ///
    /// # Errors
    /// [`FileError::Exists`] when there is one: keys are never overwritten.
    pub fn create(&self, state_dir: &Path) -> Result<(), FileError> {
        write_private(&state_dir.join("device.key"), self.text().as_bytes())
    }

    /// Puts another nonce beside the same keys, durable on return: the one that was answered is used.
    ///
    /// # Errors
    /// When it cannot be written. Whenever power goes, the file has its old or its new content.
    pub fn renew(self, state_dir: &Path, nonce: Nonce) -> Result<Self, FileError> {
        let renewed = Self { nonce, used: Some(self.nonce), ..self };
        replace(&state_dir.join("device.key"), renewed.text().as_bytes())?;
        Ok(renewed)
    }

    fn text(&self) -> Zeroizing<String> {
        let private = Zeroizing::new(hex(self.keys.to_bytes().as_ref()));
        let used = self.used.map_or(String::new(), |used| format!("used = \"{used}\"\n"));
        Zeroizing::new(format!(
            "# The private keys of this device. They never leave it: do not copy or send this file.\n\
             format = {FORMAT}\ndevice = \"{}\"\nnonce = \"{}\"\n{used}keys = \"{}\"\ncheck = \"{}\"\n",
            self.device,
            self.nonce,
            *private,
            self.check()
        ))
    }

    /// Tells a file in which a bit has flipped: any other bytes are keys too, and nobody would know them.
    fn check(&self) -> String {
        let mut digest = Sha256::new().chain_update("hardtack/device.key/v1\0").chain_update(self.device.as_str());
        digest.update([0]);
        digest.update(self.nonce.0);
        digest.update([u8::from(self.used.is_some())]);
        digest.update(self.used.unwrap_or(Nonce([0; 16])).0);
        digest.update(self.keys.to_bytes().as_ref());
        hex(&digest.finalize()[..8])
    }

    /// Reads `device.key` in the state folder.
    ///
    /// # Errors
    /// When it is missing ([`FileError::is_missing`]), readable by others, not ours, or not a key file.
    pub fn read(state_dir: &Path) -> Result<Self, FileError> {
        let path = state_dir.join("device.key");
        let malformed = |why: String| FileError::Malformed { path: path.clone(), why };
        let bytes = read_private(&path)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| malformed("no text".into()))?;
        // The parser's own message would quote the line, and with it a key.
        let text: Text = toml::from_str(text).map_err(|_| malformed("no key file's fields".into()))?;
        if text.format != FORMAT {
            let why = format!("format {}, this program reads format {FORMAT}", text.format);
            return Err(malformed(why));
        }
        let keys =
            private_bytes(&text.keys).ok_or_else(|| malformed("the keys are not 192 hexadecimal digits".into()))?;
        let file = Self {
            device: text.device.clone(),
            nonce: text.nonce,
            used: text.used,
            keys: DeviceKeys::from_bytes(&keys),
        };
        if file.check() != text.check {
            let why = "what it holds is not what was written (its check differs): put back a copy of the folder, or \
                       move the folder away and enrol again";
            return Err(malformed(why.into()));
        }
        Ok(file)
    }
}

fn private_bytes(text: &str) -> Option<Zeroizing<[u8; 96]>> {
    let mut bytes = Zeroizing::new([0; 96]);
    let fits = data_encoding::HEXLOWER.decode_len(text.len()) == Ok(bytes.len());
    let decoded = fits.then(|| data_encoding::HEXLOWER.decode_mut(text.as_bytes(), bytes.as_mut()).ok()).flatten();
    decoded.map(|_| bytes)
}

/// Writes the client certificate (DER) beside the keys, in place of an older one.
///
/// # Errors
/// When it cannot be written.
pub fn write_certificate(state_dir: &Path, der: &[u8]) -> Result<(), FileError> {
    replace(&state_dir.join("certificate"), der)
}

/// The client certificate (DER), none before enrolment.
///
/// # Errors
/// When it is there and cannot be read, or is larger than a certificate.
pub fn read_certificate(state_dir: &Path) -> Result<Option<Vec<u8>>, FileError> {
    let path = state_dir.join("certificate");
    match std::fs::read(&path) {
        Ok(der) if der.len() > CERTIFICATE_BYTES_MAX => {
            Err(FileError::Malformed { path, why: format!("more than {CERTIFICATE_BYTES_MAX} bytes") })
        }
        Ok(der) => Ok(Some(der)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::io("read", &path, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn made(dir: &Path) -> DeviceKeyFile {
        let keys = DeviceKeys::generate(&mut ChaCha20Rng::from_seed([1; 32]));
        let file = DeviceKeyFile { device: "gw-07".parse().unwrap(), nonce: Nonce([5; 16]), used: None, keys };
        file.create(dir).unwrap();
        file
    }

    #[test]
    fn the_same_keys_come_back_and_are_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        assert!(DeviceKeyFile::read(dir.path()).err().unwrap().is_missing());
        let file = made(dir.path());
        let read = DeviceKeyFile::read(dir.path()).unwrap();
        assert_eq!((read.device, read.nonce), (file.device.clone(), file.nonce));
        assert_eq!(read.keys.to_bytes(), file.keys.to_bytes());
        assert!(matches!(file.create(dir.path()), Err(FileError::Exists { .. })));
        file.renew(dir.path(), Nonce([6; 16])).unwrap();
        let renewed = DeviceKeyFile::read(dir.path()).unwrap();
        assert_eq!(renewed.used, Some(Nonce([5; 16])));
        assert_eq!((renewed.nonce, renewed.keys.to_bytes()), (Nonce([6; 16]), read.keys.to_bytes()));
    }

    #[test]
    fn a_damaged_file_is_refused_without_telling_a_key() {
        let dir = tempfile::tempdir().unwrap();
        made(dir.path());
        let path = dir.path().join("device.key");
        let text = std::fs::read_to_string(&path).unwrap();
        let key = text.split('"').nth(5).unwrap().to_owned();
        assert_eq!(key.len(), 192);
        let damaged = [
            text.replace("format = 1", "format = 2"),
            text.replace("gw-07", "gw 07"),
            text.replace("gw-07", "gw-17"),
            text.replace("nonce = \"05", "nonce = \"07"),
            text.replace(&key[..8], if key.starts_with("00000000") { "00000001" } else { "00000000" }),
            text.replace("check = \"", "check = \"0"),
            text.replace("check", "chock"),
            text.replace("keys = ", "keyz = "),
            text.replace(&key, &key[1..]),
            text.replace(&key, &key.replace(|c: char| c.is_ascii_digit(), "x")),
            text[..text.len() / 2].to_owned(),
            String::new(),
            format!("{text}more = 1\n"),
        ];
        for content in damaged {
            replace(&path, content.as_bytes()).unwrap();
            let error = DeviceKeyFile::read(dir.path()).err().unwrap().to_string();
            assert!(error.contains("device.key is damaged"), "{content}: {error}");
            assert!(!error.contains(&key[..16]), "{error}");
        }
        replace(&path, &[0xff; 40]).unwrap();
        assert!(DeviceKeyFile::read(dir.path()).is_err());
    }

    #[test]
    fn a_certificate_may_be_replaced() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_certificate(dir.path()).unwrap(), None);
        write_certificate(dir.path(), b"one").unwrap();
        write_certificate(dir.path(), b"two").unwrap();
        assert_eq!(read_certificate(dir.path()).unwrap().unwrap(), b"two");
    }
}
