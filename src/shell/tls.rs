//! Connections to servers that others run, with TLS where that is asked for.
//!
//! Owns: whose certificates count: the system's authorities, or those that are named; the handshake.
//! Never: goes on with a certificate of another name or authority, resumes a session, speaks anything but HTTP/1.1.
//! Read next: `secrets/upstream.rs`, `mcp/http.rs`. The broker's connection is `mqtt/tls.rs`, by other rules.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::clock;

/// A connection, with TLS or without.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Connects, and where there is a configuration shakes hands by it.
///
/// # Errors
/// When nobody answers there, or nobody who can be trusted.
pub async fn connect(host: &str, port: u16, tls: Option<Arc<ClientConfig>>) -> io::Result<Box<dyn Stream>> {
    let tcp = TcpStream::connect((host, port)).await?;
    // Without it a small request waits for an answer that waits for it.
    tcp.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(tls).connect(name, tcp).await?))
}

/// What a server is held to.
///
/// # Errors
/// When the library cannot do what it always could.
pub fn client(authorities: Arc<RootCertStore>) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(SystemTime));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(authorities).with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The authorities of the system.
///
/// # Errors
/// When it has none.
pub fn of_system() -> Result<Arc<RootCertStore>, String> {
    let loaded = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Some systems have old ones among them that no library takes.
    let (taken, _) = roots.add_parsable_certificates(loaded.certs);
    if taken == 0 {
        let why = loaded.errors.first().map_or("there are none".into(), ToString::to_string);
        return Err(format!("the system has no authorities ({why}): install ca-certificates, or name some with --ca"));
    }
    Ok(Arc::new(roots))
}

/// These authorities (DER) and no other.
///
/// # Errors
/// When one is no certificate of an authority.
pub fn named(authorities: &[Vec<u8>]) -> Result<Arc<RootCertStore>, String> {
    let mut roots = RootCertStore::empty();
    for der in authorities {
        let added = roots.add(CertificateDer::from(der.clone()));
        added.map_err(|error| format!("an authority that was named with --ca is no usable certificate ({error})"))?;
    }
    Ok(Arc::new(roots))
}

/// The system clock judges the dates of certificates: these processes have no trusted time.
struct SystemTime;

impl fmt::Debug for SystemTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemTime")
    }
}

impl TimeProvider for SystemTime {
    fn current_time(&self) -> Option<UnixTime> {
        clock::wall().map(|now| UnixTime::since_unix_epoch(Duration::from_secs(now.secs_floor())))
    }
}
