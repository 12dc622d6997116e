//! TLS to the broker: pinned authorities, a client certificate, and dates judged by the trusted clock.
//!
//! Owns: [`TlsIdentity`] and the rustls set-up made of it.
//! Never: trusts a root of the system, asks the wall clock, resumes a session: a resumed one would not look at the
//! certificate again.
//! Read next: `session.rs`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::SigningKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WantsClientCert, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::time::{Millis, Timestamp};

/// Who this side is, and whose brokers it talks to.
#[derive(Clone)]
pub struct TlsIdentity {
    /// Certificates (DER) of the authorities that may sign a broker's certificate. No other is trusted.
    pub authorities: Vec<Vec<u8>>,
    /// The client certificate (DER).
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: SigningKey,
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").field("authorities", &self.authorities.len()).finish_non_exhaustive()
    }
}

/// Why no TLS can be set up with what is there.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No authority is pinned, so no broker can be trusted.
    #[error("no broker authority is pinned: the trust bundle must name the certificate of the authority")]
    NoAuthority,
    /// A pinned authority is no certificate.
    #[error("a pinned broker authority is no usable certificate ({0}): publish a trust bundle with the right one")]
    Authority(Error),
    /// The client certificate and its key are not usable together.
    #[error("the client certificate is not usable ({0}): enrol this device again")]
    Identity(String),
}

/// The set-up for every connection of one link.
///
/// # Errors
/// [`TlsError`]: something of the identity is not usable.
pub(super) fn client_config(
    identity: &TlsIdentity,
    trusted_time: Arc<dyn Fn() -> Timestamp + Send + Sync>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let key = identity.key.to_pkcs8_der().map_err(|e| TlsError::Identity(e.to_string()))?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()));
    let chain = vec![CertificateDer::from(identity.certificate.clone())];
    let config = verifying(identity, trusted_time)?.with_client_auth_cert(chain, key);
    Ok(finished(config.map_err(|e| TlsError::Identity(e.to_string()))?))
}

/// The same for a client that shows no certificate: a probe.
#[cfg(feature = "fleet")]
pub(super) fn anonymous_config(
    identity: &TlsIdentity,
    trusted_time: Arc<dyn Fn() -> Timestamp + Send + Sync>,
) -> Result<Arc<ClientConfig>, TlsError> {
    Ok(finished(verifying(identity, trusted_time)?.with_no_client_auth()))
}

fn finished(mut config: ClientConfig) -> Arc<ClientConfig> {
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn verifying(
    identity: &TlsIdentity,
    trusted_time: Arc<dyn Fn() -> Timestamp + Send + Sync>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in &identity.authorities {
        roots.add(CertificateDer::from(authority.clone())).map_err(TlsError::Authority)?;
    }
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|_| TlsError::NoAuthority)?;

    let builder = ClientConfig::builder_with_details(provider, Arc::new(TrustedTime(trusted_time)))
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Identity(e.to_string()))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(FloorVerifier { inner })))
}

/// The trusted floor E as rustls' only clock.
struct TrustedTime(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl fmt::Debug for TrustedTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TrustedTime")
    }
}

impl TimeProvider for TrustedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs((self.0)().secs_floor())))
    }
}

/// webpki's checks, with `now` as a floor: the true time is not before it.
#[derive(Debug)]
struct FloorVerifier {
    inner: Arc<WebPkiServerVerifier>,
}

/// A chain has at most this many certificates whose validity may begin one after the other.
const BEGINNINGS_MAX: usize = 8;

impl ServerCertVerifier for FloorVerifier {
    /// A certificate that has expired at the floor has expired. One that is not valid yet at the floor may well be valid
    /// now: it is judged at the moment when its validity begins, the earliest that the true time can be if the
    /// broker is honest.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        floor: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut at = floor;
        for _ in 0..BEGINNINGS_MAX {
            match self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, at) {
                Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }))
                    if not_before.as_secs() > at.as_secs() =>
                {
                    at = not_before;
                }
                verdict => return verdict,
            }
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYet))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// What a failed handshake means, and what to do about it.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls' errors are non-exhaustive; its own text serves the rest")]
pub(super) fn explain(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(CertificateError::ExpiredContext { time, not_after }) => format!(
            "the broker's certificate ended at {}, and it is at least {} now: renew it with `hardtack broker config`",
            date(*not_after),
            date(*time)
        ),
        // An authority of the same name with another key shows as a bad signature.
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the broker's certificate is not signed by an authority that the trust bundle pins".into()
        }
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the broker's certificate is not for this host: name it with `hardtack broker config --host`".into(),
        Error::AlertReceived(alert) => format!(
            "the broker refused this side's certificate ({alert:?}): a device enrols again; the fleet's service has a port \
             of its own, which `hardtack broker config` prints"
        ),
        other => format!("TLS: {other}"),
    }
}

fn date(at: UnixTime) -> Timestamp {
    Timestamp(0) + Millis::from_secs(at.as_secs())
}
