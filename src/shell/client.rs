//! Asking the running agent over its socket.
//!
//! Owns: [`Client`]: one HTTP request on one connection, with limits.
//! Never: interprets an answer, or asks twice.
//! Read next: `http/routes.rs`, the other end.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::wire::revocation::carry::CARRIED_BYTES_MAX;

/// Longer than the agent itself waits for a disk that hangs.
const PATIENCE: Duration = Duration::from_secs(40);
/// The most bytes of an answer: a file with revocations in base64url, and what is around it.
const ANSWER_BYTES_MAX: usize = CARRIED_BYTES_MAX / 3 * 4 + 64 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection broke off, or what came was no HTTP.
    #[error("the agent on {socket} did not answer properly: {reason}")]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// Nobody is there.
    #[error("no agent answers on {socket}: {source}")]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The way to an agent.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// What the agent answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl Client {
    /// A client of the agent on `socket`.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.into() }
    }

    /// `GET path`.
    ///
    /// # Errors
    /// See [`ClientError`]. An answer of any status is no error.
    pub fn get(&self, path: &str) -> Result<Answer, ClientError> {
        self.ask("GET", path, Vec::new())
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post(&self, path: &str, body: Vec<u8>) -> Result<Answer, ClientError> {
        self.ask("POST", path, body)
    }

    fn ask(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Answer, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| self.broken(error))?;
        runtime.block_on(self.send(method, path, body))
    }

    /// The same, within a runtime.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn send(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Answer, ClientError> {
        let answered = tokio::time::timeout(PATIENCE, self.exchange(method, path, body)).await;
        answered.unwrap_or_else(|_| Err(self.broken("it took too long")))
    }

    /// One request, for whoever has a runtime and a patience of his own.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn exchange(&self, method: &str, path: &str, body: Vec<u8>) -> Result<Answer, ClientError> {
        let unreachable = |source| ClientError::Unreachable { socket: self.socket.clone(), source };
        let stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.broken(error))?;
        let handshake = http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| self.broken(error))?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| self.broken(error))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| self.broken(error))?.to_bytes().to_vec();
        driver.abort();
        Ok(Answer { status, body })
    }

    fn broken(&self, reason: impl ToString) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), reason: reason.to_string() }
    }
}
