//! Certificates for the link: the fleet's broker authority and what it signs.
//!
//! Owns: [`Authority`], the forms of the certificates of broker, devices, service and whoever has an emergency
//! key, the names that no device may have.
//! Never: decides who gets one, writes a file, sees a device's private key.
//! Read next: `broker/mod.rs`, which keeps them in the fleet folder.

use std::time::Duration;

use ed25519_dalek::VerifyingKey;
use rcgen::{
    date_time_ymd, BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber, SignatureAlgorithm, PKCS_ECDSA_P256_SHA256, PKCS_ED25519,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use crate::ids::{DeviceId, FleetId, Hash, KeyId};
use crate::time::{Millis, Timestamp};

/// The common name, and with it the broker's user name, of the fleet's service.
pub const SERVICE_NAME: &str = "fleet";

/// What the certificate names of whoever has emergency keys begin with.
pub const EMERGENCY_NAME: &str = "emergency";

/// The common name, and with it the broker's user name, of whoever has an emergency key. No device is called so.
pub fn emergency_name(key: KeyId) -> String {
    format!("{EMERGENCY_NAME}-{key}")
}

/// How long a server's certificate is valid unless somebody says otherwise.
pub const SERVER_DAYS: u32 = 825;

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A device asks for the name of the service, whose rights and connections go with the name.
    #[error("no device may be called {0:?}: `fleet` and `fleet-…` name the service at the broker; choose another id")]
    Reserved(DeviceId),
    /// A host name that no certificate can hold.
    #[error("{0:?} is neither a host name nor an address")]
    Host(String),
    /// A file holds no certificate or no key.
    #[error("{0} is not readable: restore it from a backup of the fleet folder")]
    Unreadable(&'static str),
    /// Certificate and key are not of one pair.
    #[error("the authority's certificate and key do not belong together: restore both from one backup")]
    Mismatch,
    /// The library refused.
    #[error("cannot make a certificate: {0}")]
    Library(#[from] rcgen::Error),
}

/// The authority that signs the certificates of a fleet's brokers and of their clients. Devices pin it.
pub struct Authority {
    key: KeyPair,
    der: CertificateDer<'static>,
    /// What signing needs to know of the authority. Its own signature is a new one; nobody sees it.
    issuer: rcgen::Certificate,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A certificate with its private key, for a server.
pub struct ServerCertificate {
    /// The certificate, PEM.
    pub certificate: String,
    /// The private key, PKCS#8 PEM.
    pub key: Zeroizing<String>,
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// Not before.
    pub from: Timestamp,
    /// Not after.
    pub until: Timestamp,
}

impl Validity {
    /// From an hour before `now`, for a client whose clock is a little late, for some days.
    pub fn days(now: Timestamp, days: u32) -> Self {
        Self { from: now - Millis::from_secs(3600), until: now + Millis::from_secs(u64::from(days) * 86_400) }
    }
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// [`CertificateError::Library`] when the system gives no randomness.
    pub fn make(fleet: &FleetId) -> Result<Self, CertificateError> {
        Self::named(&broker_authority(fleet))
    }

    /// A new authority for the certificate of the fleet's service and no other: whoever trusts it lets no device in. Its
    /// key is not kept.
    ///
    /// # Errors
    /// [`CertificateError::Library`] when the system gives no randomness.
    pub fn make_for_service(fleet: &FleetId) -> Result<Self, CertificateError> {
        Self::named(&format!("hardtack service authority of {fleet}"))
    }

    fn named(name: &str) -> Result<Self, CertificateError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let issuer = authority_params(name, &key).self_signed(&key)?;
        Ok(Self { key, der: issuer.der().clone(), issuer })
    }

    /// The authority of two PEM texts.
    ///
    /// # Errors
    /// [`CertificateError::Unreadable`] or [`CertificateError::Mismatch`].
    pub fn load(fleet: &FleetId, certificate: &str, key: &str) -> Result<Self, CertificateError> {
        let key = KeyPair::from_pem(key).map_err(|_| CertificateError::Unreadable("the authority's key"))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| CertificateError::Unreadable("the authority's certificate"))?;
        let public = key.public_key_raw();
        if !der.windows(public.len()).any(|window| window == public) {
            return Err(CertificateError::Mismatch);
        }
        let issuer = authority_params(&broker_authority(fleet), &key).self_signed(&key)?;
        Ok(Self { key, der, issuer })
    }

    /// The certificate that devices pin, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate, PEM.
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// The private key, PKCS#8 PEM.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }

    /// A certificate for a broker that answers to `hosts`, names or addresses.
    ///
    /// # Errors
    /// [`CertificateError::Host`] or [`CertificateError::Library`].
    pub fn issue_server(&self, hosts: &[String], validity: Validity) -> Result<ServerCertificate, CertificateError> {
        let first = hosts.first().ok_or_else(|| CertificateError::Host(String::new()))?;
        for host in hosts {
            CertificateParams::new(vec![host.clone()]).map_err(|_| CertificateError::Host(host.clone()))?;
        }
        let mut params = CertificateParams::new(hosts.to_vec())?;
        params.distinguished_name = common_name(first);
        params.not_before = date_time_ymd(1970, 1, 1) + since_1970(validity.from);
        params.not_after = date_time_ymd(1970, 1, 1) + since_1970(validity.until);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.issuer, &self.key)?;
        Ok(ServerCertificate { certificate: certificate.pem(), key: Zeroizing::new(key.serialize_pem()) })
    }

    /// A client certificate (DER) for a device's TLS key. It lives as long as the enrolment: the broker's roles, not its
    /// dates, say when it is over.
    ///
    /// # Errors
    /// [`CertificateError::Reserved`] or [`CertificateError::Library`].
    pub fn issue_device(&self, device: &DeviceId, public: &VerifyingKey) -> Result<Vec<u8>, CertificateError> {
        if is_reserved(device) {
            return Err(CertificateError::Reserved(device.clone()));
        }
        self.issue_client(device.as_str(), public)
    }

    /// The client certificate (DER) of the fleet's service.
    ///
    /// # Errors
    /// [`CertificateError::Library`].
    pub fn issue_service(&self, public: &VerifyingKey) -> Result<Vec<u8>, CertificateError> {
        self.issue_client(SERVICE_NAME, public)
    }

    /// The client certificate (DER) of whoever has an emergency key. As a device's it has no end: the broker's roles say when
    /// it is over.
    ///
    /// # Errors
    /// [`CertificateError::Library`].
    pub fn issue_emergency(&self, key: KeyId, public: &VerifyingKey) -> Result<Vec<u8>, CertificateError> {
        self.issue_client(&emergency_name(key), public)
    }

    fn issue_client(&self, name: &str, public: &VerifyingKey) -> Result<Vec<u8>, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        // Long before any enrolment: a broker whose clock is late must not refuse a device.
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(9999, 12, 31);
        let digest = Hash::of("hardtack/serial/v1", &[name.as_bytes(), public.as_bytes()]);
        // A serial number is positive and of 20 bytes at most.
        let mut serial = digest.0[..16].to_vec();
        serial[0] &= 0x7f;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&Ed25519Public(*public.as_bytes()), &self.issuer, &self.key)?;
        Ok(certificate.der().to_vec())
    }
}

/// Whether the broker would take a device of this name for the service, for one of its connections, or for whoever has an
/// emergency key.
pub fn is_reserved(device: &DeviceId) -> bool {
    let taken = |name| device.as_str().strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    taken(SERVICE_NAME) || taken(EMERGENCY_NAME)
}

/// PEM text of a DER structure.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let body = data_encoding::BASE64.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        // Base 64 is ASCII.
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

struct Ed25519Public([u8; 32]);

impl PublicKeyData for Ed25519Public {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &SignatureAlgorithm {
        &PKCS_ED25519
    }
}

fn broker_authority(fleet: &FleetId) -> String {
    format!("hardtack broker authority of {fleet}")
}

fn authority_params(name: &str, key: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let digest = Hash::of("hardtack/serial/v1", &[b"authority", key.public_key_raw()]);
    let mut serial = digest.0[..16].to_vec();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// The time since 1970, in the form that the library's dates add up with.
fn since_1970(at: Timestamp) -> Duration {
    Duration::from_secs(at.0.min(Timestamp::MAX.0 - 1000) / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn fleet() -> FleetId {
        "acme".parse().unwrap()
    }

    #[test]
    fn an_authority_survives_its_files() {
        let made = Authority::make(&fleet()).unwrap();
        let loaded = Authority::load(&fleet(), &made.certificate_pem(), &made.key_pem()).unwrap();
        assert_eq!(made.der(), loaded.der());
        let key = SigningKey::from_bytes(&[7; 32]);
        let device: DeviceId = "gw-07".parse().unwrap();
        assert!(loaded.issue_device(&device, &key.verifying_key()).is_ok());
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        let (one, other) = (Authority::make(&fleet()).unwrap(), Authority::make(&fleet()).unwrap());
        let mixed = Authority::load(&fleet(), &one.certificate_pem(), &other.key_pem());
        assert!(matches!(mixed, Err(CertificateError::Mismatch)));
        for (certificate, key) in [("", one.key_pem().as_str()), (one.certificate_pem().as_str(), "")] {
            assert!(matches!(Authority::load(&fleet(), certificate, key), Err(CertificateError::Unreadable(_))));
        }
    }

    #[test]
    fn no_device_gets_the_name_of_the_service() {
        let authority = Authority::make(&fleet()).unwrap();
        let key = SigningKey::from_bytes(&[7; 32]).verifying_key();
        for taken in [SERVICE_NAME, "fleet-acme-0a1b2c3d", &emergency_name(KeyId([0xab; 8]))] {
            let refused = authority.issue_device(&taken.parse().unwrap(), &key);
            assert!(matches!(refused, Err(CertificateError::Reserved(_))), "{taken}");
        }
        assert!(authority.issue_device(&"fleetwood".parse().unwrap(), &key).is_ok());
    }

    /// What lives as long as the enrolment cannot lapse in the dark: bans are the broker's.
    #[test]
    fn a_devices_certificate_has_no_end() {
        let authority = Authority::make(&fleet()).unwrap();
        let key = SigningKey::from_bytes(&[7; 32]).verifying_key();
        let certificate = authority.issue_device(&"gw-07".parse().unwrap(), &key).unwrap();
        assert!(certificate.windows(15).any(|window| window == b"99991231000000Z"));
    }

    #[test]
    fn hosts_are_names_or_addresses() {
        let authority = Authority::make(&fleet()).unwrap();
        let validity = Validity::days(Timestamp::from_secs(1_800_000_000), SERVER_DAYS);
        for good in ["localhost", "127.0.0.1", "::1", "broker.example"] {
            assert!(authority.issue_server(&[good.to_owned()], validity).is_ok(), "{good}");
        }
        assert!(authority.issue_server(&["münchen".to_owned()], validity).is_err());
        assert!(authority.issue_server(&[], validity).is_err());
    }
}
