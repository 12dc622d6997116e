//! The broker's folder: what `hardtack broker config` makes and what the fleet's own programs read of it.
//!
//! Owns: `<fleet folder>/broker/`: the authority, the service's certificate, a server certificate and a set-up for
//! mosquitto; which door of it is the service's.
//! Never: runs a broker, replaces an authority or a key that devices already know.
//! Read next: `dynsec.rs` for who may do what, then `check.rs`, which asks a live broker.

pub mod check;
mod conf;
pub mod dynsec;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use ed25519_dalek::SigningKey;
use rand_core::{CryptoRng, RngCore};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::files::{self, FileError};
use super::mqtt::{BrokerUrl, Security, TlsIdentity};
use super::x509::{pem, Authority, CertificateError, Validity, SERVICE_NAME};
use crate::fleet::readers::Reader;
use crate::ids::{hex, FleetId, KeyId};
use crate::time::Timestamp;

/// The certificate of the authority that signed the service's certificate and nothing else.
const SERVICE_CA: &str = "service-ca.pem";

/// Which ports the set-up listens on, for the fleet's own programs.
const PORTS: &str = "ports.json";

/// Who may do what, which the plugin itself writes anew when it is told of a change.
const ROLES: &str = "dynamic-security.json";

/// Why the broker's folder could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// There is no authority.
    #[error("{} holds no broker authority: make the fleet with `hardtack fleet init` first", .0.display())]
    NoAuthority(PathBuf),
    /// A file could not be read or written, or others can read a key.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate's file could not be read.
    #[error("{}: {source}: restore it from a backup of the fleet folder", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A certificate could not be made or read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A key file holds no key.
    #[error("{} holds no usable key: restore it from a backup of the fleet folder", .0.display())]
    Key(PathBuf),
    /// A path that mosquitto's configuration cannot hold.
    #[error("mosquitto cannot take the path {0:?}: move the fleet folder to one without line breaks")]
    Path(PathBuf),
    /// mosquitto's plugin is not where it usually is.
    #[error(
        "mosquitto's dynamic-security plugin is not installed: `apt-get install mosquitto`, or name it with --plugin"
    )]
    NoPlugin,
}

/// `<fleet folder>/broker`.
#[derive(Clone, Debug)]
pub struct BrokerFolder {
    path: PathBuf,
    fleet: FleetId,
}

/// What a broker is to be set up with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Names and addresses that devices reach it by. The local ones are added.
    pub hosts: Vec<String>,
    /// The ports it listens on.
    pub ports: Ports,
    /// When its certificate is valid.
    pub validity: Validity,
    /// mosquitto's dynamic-security plugin; searched where it usually is if not named.
    pub plugin: Option<PathBuf>,
    /// Devices that are admitted from the start, and the feeds that they read: none where that is not known. Those of an
    /// earlier set-up stay, as does what one of them read of which nothing else is known.
    pub devices: Vec<Reader>,
    /// Emergency keys whose holders are admitted from the start, and no others: one that was taken away must not come back.
    pub emergency: Vec<KeyId>,
}

/// The two doors of a broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ports {
    /// Where devices come in.
    pub devices: u16,
    /// Where the fleet's service comes in, and nobody else.
    pub service: u16,
}

/// What was set up.
#[derive(Clone, Debug)]
pub struct Configured {
    /// The configuration to start mosquitto with.
    pub conf: PathBuf,
    /// The address that a client on this machine uses.
    pub url: String,
    /// Every host that the certificate names.
    pub hosts: Vec<String>,
    /// Until when the certificate is valid.
    pub until: Timestamp,
    /// How many devices are admitted.
    pub devices: usize,
}

impl BrokerFolder {
    /// The broker's folder of a fleet.
    pub fn of(fleet_dir: &Path, fleet: &FleetId) -> Self {
        Self { path: fleet_dir.join("broker"), fleet: fleet.clone() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The fleet's authority, made if there is none yet.
    ///
    /// # Errors
    /// [`BrokerError`]. An authority that is there and not readable is never replaced: devices pin it.
    pub fn make_authority(&self) -> Result<Authority, BrokerError> {
        match self.authority() {
            Err(BrokerError::NoAuthority(_)) => {}
            found => return found,
        }
        files::create_dir(&self.path)?;
        let authority = Authority::make(&self.fleet)?;
        self.write("ca.key", authority.key_pem().as_bytes())?;
        self.write("ca.pem", authority.certificate_pem().as_bytes())?;
        Ok(authority)
    }

    /// The fleet's authority.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn authority(&self) -> Result<Authority, BrokerError> {
        let (certificate, key) = (self.path.join("ca.pem"), self.path.join("ca.key"));
        if !key.exists() && !certificate.exists() {
            return Err(BrokerError::NoAuthority(self.path.clone()));
        }
        Ok(Authority::load(&self.fleet, &read(&certificate)?, &read_key(&key)?)?)
    }

    /// The identity of the fleet's service at the broker, made if there is none yet.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn service_identity(&self, rng: &mut (impl RngCore + CryptoRng)) -> Result<TlsIdentity, BrokerError> {
        let authority = self.authority()?;
        let (certificate_path, key_path) = (self.path.join("service.pem"), self.path.join("service.key"));
        let key = if key_path.exists() {
            let text = read_key(&key_path)?;
            SigningKey::from_pkcs8_pem(&text).map_err(|_| BrokerError::Key(key_path))?
        } else {
            let key = SigningKey::generate(rng);
            let text = key.to_pkcs8_pem(LineEnding::LF).map_err(|_| BrokerError::Key(key_path))?;
            self.write("service.key", text.as_bytes())?;
            key
        };
        // A certificate of before there was an authority for it would not be let in.
        let certificate = if certificate_path.exists() && self.path.join(SERVICE_CA).exists() {
            let der = CertificateDer::from_pem_slice(read(&certificate_path)?.as_bytes());
            der.map_err(|_| CertificateError::Unreadable("the service's certificate"))?.to_vec()
        } else {
            let own = Authority::make_for_service(&self.fleet)?;
            let der = own.issue_service(&key.verifying_key())?;
            self.write("service.pem", pem("CERTIFICATE", &der).as_bytes())?;
            self.write(SERVICE_CA, own.certificate_pem().as_bytes())?;
            der
        };
        Ok(TlsIdentity { authorities: vec![authority.der().to_vec()], certificate, key })
    }

    /// A new identity at the broker for whoever has an emergency key. Nothing of it is kept here.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn emergency_identity(
        &self,
        key: KeyId,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<TlsIdentity, BrokerError> {
        let (authority, own) = (self.authority()?, SigningKey::generate(rng));
        let certificate = authority.issue_emergency(key, &own.verifying_key())?;
        Ok(TlsIdentity { authorities: vec![authority.der().to_vec()], certificate, key: own })
    }

    /// Where the service reaches the broker that devices reach at `url`. A broker that was not set up from this folder has
    /// one door for all.
    pub fn service_url(&self, url: &BrokerUrl) -> BrokerUrl {
        let text = std::fs::read(self.path.join(PORTS)).unwrap_or_default();
        match serde_json::from_slice::<Ports>(&text) {
            Ok(ports) if url.security == Security::Tls && url.port == ports.devices => {
                BrokerUrl { port: ports.service, ..url.clone() }
            }
            Ok(_) | Err(_) => url.clone(),
        }
    }

    /// Sets up mosquitto. What was there is replaced, save authority and service identity; a running broker takes it when
    /// it is started again.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub fn configure(&self, setup: &Setup, rng: &mut (impl RngCore + CryptoRng)) -> Result<Configured, BrokerError> {
        let plugin = match &setup.plugin {
            Some(plugin) => plugin.clone(),
            None => conf::find_plugin().ok_or(BrokerError::NoPlugin)?,
        };
        let folder = self.path.canonicalize().map_err(|_| BrokerError::NoAuthority(self.path.clone()))?;
        let text = conf::text(&folder, &plugin, setup.ports)?;
        self.service_identity(rng)?;

        let mut hosts = setup.hosts.clone();
        hosts.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
        let mut seen = std::collections::BTreeSet::new();
        hosts.retain(|host| seen.insert(host.clone()));
        let server = self.authority()?.issue_server(&hosts, setup.validity)?;

        let before = std::fs::read(self.path.join(ROLES)).unwrap_or_default();
        let before = dynsec::admitted(&self.fleet, &before).into_iter();
        let mut devices: BTreeMap<_, _> = before.map(|reader| (reader.device.clone(), reader)).collect();
        for reader in &setup.devices {
            let known = devices.entry(reader.device.clone()).or_insert_with(|| reader.clone());
            // By a ledger every device has a feed. Where there is none, nobody knows better than the set-up of before.
            if !reader.feeds.is_empty() {
                known.clone_from(reader);
            }
        }
        let devices: Vec<Reader> = devices.into_values().collect();

        files::create_dir(&self.path.join("data"))?;
        self.write("server.key", server.key.as_bytes())?;
        self.write("server.pem", server.certificate.as_bytes())?;
        let roles = dynsec::configuration(&self.fleet, &devices, &setup.emergency).to_string();
        self.write(ROLES, roles.as_bytes())?;
        self.write("mosquitto.conf", text.as_bytes())?;
        self.write(PORTS, serde_json::json!(setup.ports).to_string().as_bytes())?;
        Ok(Configured {
            conf: folder.join("mosquitto.conf"),
            url: format!("mqtts://localhost:{}", setup.ports.devices),
            hosts,
            until: setup.validity.until,
            devices: devices.len(),
        })
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), BrokerError> {
        Ok(files::replace(&self.path.join(name), content)?)
    }
}

/// A client id for one connection of the service: `fleet-<name>-<8 hex>`.
pub fn service_client_id(fleet: &FleetId, rng: &mut impl RngCore) -> String {
    format!("{SERVICE_NAME}-{fleet}-{}", hex(&rng.next_u32().to_be_bytes()))
}

/// A certificate, which anybody may read.
fn read(path: &Path) -> Result<String, BrokerError> {
    std::fs::read_to_string(path).map_err(|source| BrokerError::Unreadable { path: path.to_owned(), source })
}

/// A private key, if nobody but its owner can read it.
fn read_key(path: &Path) -> Result<Zeroizing<String>, BrokerError> {
    let bytes = files::read_private(path)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| BrokerError::Key(path.to_owned()))?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn folder(dir: &Path) -> BrokerFolder {
        BrokerFolder::of(dir, &"acme".parse().unwrap())
    }

    fn reader(device: &str, feed: &str) -> Reader {
        let (device, feeds) = (device.parse().unwrap(), [feed.parse().unwrap()].into());
        Reader { device, feeds, former: [].into() }
    }

    fn setup() -> Setup {
        Setup {
            hosts: vec!["broker.example".into()],
            ports: Ports { devices: 8883, service: 8884 },
            validity: Validity::days(Timestamp::from_secs(1_800_000_000), 825),
            plugin: Some("/lib/plugin.so".into()),
            devices: vec![reader("gw-07", "main")],
            emergency: Vec::new(),
        }
    }

    #[test]
    fn a_second_configuration_keeps_what_devices_know() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        let mut rng = crate::shell::entropy::rng();
        assert!(matches!(folder.configure(&setup(), &mut rng), Err(BrokerError::NoAuthority(_))));
        let authority = folder.make_authority().unwrap();
        let first = folder.configure(&setup(), &mut rng).unwrap();
        let service = std::fs::read(folder.path().join("service.pem")).unwrap();
        let server = std::fs::read(folder.path().join("server.pem")).unwrap();

        let again = Setup { devices: vec![reader("gw-08", "f-north")], ..setup() };
        let second = folder.configure(&again, &mut rng).unwrap();
        assert_eq!((first.devices, second.devices), (1, 2));
        let roles = std::fs::read(folder.path().join(ROLES)).unwrap();
        let admitted = dynsec::admitted(&folder.fleet, &roles);
        assert_eq!(admitted, [reader("gw-07", "main"), reader("gw-08", "f-north")], "each reads what it read");
        // A device that was moved reads its new feed alone.
        let moved = Setup { devices: vec![reader("gw-07", "f-north")], ..setup() };
        folder.configure(&moved, &mut rng).unwrap();
        let roles = std::fs::read(folder.path().join(ROLES)).unwrap();
        assert_eq!(dynsec::admitted(&folder.fleet, &roles)[0], reader("gw-07", "f-north"));
        // Of devices whose feeds nobody knows only those read none that are new.
        let blind = |device: &str| Reader { feeds: [].into(), ..reader(device, "main") };
        let blind = Setup { devices: vec![blind("gw-07"), blind("gw-09")], ..setup() };
        folder.configure(&blind, &mut rng).unwrap();
        let roles = std::fs::read(folder.path().join(ROLES)).unwrap();
        let read: Vec<_> = dynsec::admitted(&folder.fleet, &roles).into_iter().map(|reader| reader.feeds).collect();
        assert_eq!(read, [["f-north".parse().unwrap()].into(), ["f-north".parse().unwrap()].into(), [].into()]);
        assert_eq!(folder.make_authority().unwrap().der(), authority.der());
        assert_eq!(std::fs::read(folder.path().join("service.pem")).unwrap(), service);
        assert_ne!(std::fs::read(folder.path().join("server.pem")).unwrap(), server);
    }

    #[test]
    fn whoever_has_an_emergency_key_is_admitted_as_long_as_the_fleet_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        let mut rng = crate::shell::entropy::rng();
        folder.make_authority().unwrap();
        let (gone, named) = (KeyId([1; 8]), KeyId([2; 8]));
        let mut configure = |keys: &[KeyId]| {
            folder.configure(&Setup { emergency: keys.to_vec(), ..setup() }, &mut rng).unwrap();
            let text = std::fs::read_to_string(folder.path().join("dynamic-security.json")).unwrap();
            [gone, named].map(|key| text.contains(&format!("emergency-{key}")))
        };
        assert_eq!(configure(&[gone, named]), [true, true]);
        assert_eq!(configure(&[named]), [false, true]);
    }

    #[test]
    fn the_service_has_a_door_of_its_own_where_the_set_up_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        let url = |text: &str| text.parse::<BrokerUrl>().unwrap();
        let devices = url("mqtts://broker.example:8883");
        assert_eq!(folder.service_url(&devices), devices, "nothing is set up");
        folder.make_authority().unwrap();
        folder.configure(&setup(), &mut crate::shell::entropy::rng()).unwrap();
        assert_eq!(folder.service_url(&devices), url("mqtts://broker.example:8884"));
        for other in ["mqtts://broker.example:8884", "mqtts://broker.example:443", "mqtt://broker.example:8883"] {
            assert_eq!(folder.service_url(&url(other)), url(other));
        }
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path());
        folder.make_authority().unwrap();
        let key = folder.path().join("ca.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(folder.authority(), Err(BrokerError::File(FileError::TooOpen { path, .. })) if path == key));
        std::fs::remove_file(&key).unwrap();
        assert!(matches!(folder.make_authority(), Err(BrokerError::File(_))), "an authority without a key is kept");
    }
}
