//! The way to an upstream: one connection for one request.
//!
//! Owns: whether it has TLS, with the system's authorities or the entry's own; the exchange up to the answer's head.
//! Never: follows a redirect, connects to another place than the entry says, asks twice.
//! Read next: `serve.rs`, `../tls.rs`.

use std::error::Error as _;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::flow::{Broken, Sent};
use crate::secrets::entry::{Entry, Scheme};
use crate::shell::http::stall::StallGuard;
use crate::shell::tls::{self, Stream};

/// What hyper buffers of an answer's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// What came is no HTTP, or the connection broke off.
    #[error("the upstream did not answer properly: {0}")]
    Broken(String),
    /// The request's own body broke off.
    #[error("{0}")]
    Request(Broken),
    /// Nobody answers in time.
    #[error("the upstream did not answer in time")]
    Slow,
    /// No connection, or none that can be trusted.
    #[error("the upstream cannot be reached: {0}")]
    Unreachable(String),
}

/// Drives a connection, and ends it when it is dropped.
#[derive(Debug)]
pub struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What connects.
#[derive(Debug)]
pub struct Connector {
    patience: Duration,
    /// The system's authorities, once they could be read.
    system: OnceLock<Arc<RootCertStore>>,
}

impl Connector {
    /// That waits so long for a connection, for a write and for an answer.
    pub fn new(patience: Duration) -> Self {
        Self { patience, system: OnceLock::new() }
    }

    /// Sends a request to an entry's upstream. `sent` tells when its body is over: from there on the answer is waited for, and
    /// until `deadline` at the latest.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn send(
        &self,
        entry: &Entry,
        request: hyper::Request<Sent>,
        sent: tokio::sync::oneshot::Receiver<()>,
        deadline: Instant,
    ) -> Result<(hyper::Response<Incoming>, Driver), UpstreamError> {
        let connecting = tokio::time::timeout(self.patience, self.connect(entry));
        let connecting = tokio::time::timeout_at(deadline, connecting).await;
        let stream = connecting.map_err(|_| UpstreamError::Slow)?.unwrap_or(Err(UpstreamError::Slow))?;
        let stream = StallGuard::new(stream, self.patience);
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX);
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| UpstreamError::Broken(error.to_string()))?;
        let driver = Driver(tokio::spawn(async move {
            // Its end shows in the answer.
            let _ = connection.await;
        }));
        let late = async {
            let _ = sent.await;
            tokio::time::sleep(self.patience).await;
        };
        tokio::select! {
            answered = sender.send_request(request) => match answered {
                Ok(response) => Ok((response, driver)),
                Err(error) => Err(failed(&error)),
            },
            () = late => Err(UpstreamError::Slow),
            () = tokio::time::sleep_until(deadline) => Err(UpstreamError::Slow),
        }
    }

    async fn connect(&self, entry: &Entry) -> Result<Box<dyn Stream>, UpstreamError> {
        let upstream = &entry.upstream;
        let tls = match upstream.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(self.tls(entry).map_err(UpstreamError::Unreachable)?),
        };
        let connected = tls::connect(&upstream.host, upstream.port, tls).await;
        connected.map_err(|error| UpstreamError::Unreachable(error.to_string()))
    }

    fn tls(&self, entry: &Entry) -> Result<Arc<ClientConfig>, String> {
        tls::client(match entry.authorities.is_empty() {
            true => self.system_roots()?,
            false => tls::named(&entry.authorities)?,
        })
    }

    fn system_roots(&self) -> Result<Arc<RootCertStore>, String> {
        if let Some(roots) = self.system.get() {
            return Ok(roots.clone());
        }
        let roots = tls::of_system()?;
        Ok(self.system.get_or_init(|| roots).clone())
    }
}

/// The request's own body may be what broke.
fn failed(error: &hyper::Error) -> UpstreamError {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(broken) = inner.downcast_ref::<Broken>() {
            return UpstreamError::Request(*broken);
        }
        if inner.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
            return UpstreamError::Slow;
        }
        source = inner.source();
    }
    UpstreamError::Broken(error.to_string())
}
