//! The proxy itself: who listens where, and the way of a request.
//!
//! Owns: sockets, connections with their limits, the order of a request: what it asks for, the agent, the entry's
//! rules, the value, the upstream, the answer.
//! Never: opens a value before the agent has allowed the request; logs more of a request than its name, method and decision.
//! Read next: `guard.rs`, `upstream.rs`, `flow.rs`.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::request::Parts;
use axum::http::{Method, Request, Response, StatusCode, Uri};
use axum::response::IntoResponse;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{watch, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::flow::{Bounds, Broken, Given, Sent};
use super::guard::{self, problem, Target};
use super::upstream::{Connector, Driver, UpstreamError};
use super::vault::{Stored, Vault, VaultError};
use crate::agent::request::{DecisionReply, Reply, Verdict};
use crate::profile::ApiLimits;
use crate::secrets::echo::Echo;
use crate::secrets::entry::SecretName;
use crate::secrets::uses::Uses;
use crate::shell::client::Client;
use crate::shell::clock;
use crate::shell::http::enforce::{self, Asked, Form};
use crate::shell::http::framing;
use crate::shell::http::limits::Gate;
use crate::shell::http::problem::HttpProblem;
use crate::shell::http::stall::StallGuard;
use crate::shell::http::{listen, make_room, make_run_dir, BindError};

/// Longer than the agent itself waits for a disk that hangs.
const AGENT_PATIENCE: Duration = Duration::from_secs(35);
/// How long connections may take to finish what they are in when the process is asked to end.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long counts of uses wait until they are written down: a flash has only so many writes.
const COUNTED_EVERY: Duration = Duration::from_secs(60);
/// What hyper buffers of a head above the profile's limit, so that our own 431 can say what the limit is.
const HEAD_SLACK: usize = 8 * 1024;
/// Who asks over TCP, where the kernel names nobody: all of them together.
const NOBODY: u32 = u32::MAX;
/// The destination of a request for a secret that is not here.
const NOWHERE: &str = "secrets.local";
/// Anybody may connect: the token decides.
const SOCKET_MODE: u32 = 0o666;

/// A place to listen at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listen {
    /// A port of this machine's own address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.ip().is_loopback() {
                true => Ok(Self::Tcp(address)),
                false => Err("a port is this machine's own: 127.0.0.1:PORT or [::1]:PORT".into()),
            };
        }
        match text.strip_prefix("unix:").unwrap_or(text) {
            path if path.starts_with('/') => Ok(Self::Unix(path.into())),
            _ => Err("a whole path, or 127.0.0.1:PORT".into()),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// What bounds an exchange.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a connection, a write, an answer, or the next piece of a body is waited for.
    pub patience: Duration,
    /// How long an exchange lasts at the most, however lively it is. The token's end cuts it, too.
    pub lasting: Duration,
    /// The most bytes of a request's body.
    pub request_bytes_max: u64,
    /// The most bytes of an answer's body.
    pub answer_bytes_max: u64,
    /// Connections, heads and rates, as the profile has them.
    pub api: ApiLimits,
}

/// Sockets, bound and listening.
#[derive(Debug)]
pub struct Bound {
    listeners: Vec<Listener>,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Bound {
    /// Binds all of them. A unix socket that a dead process left behind is replaced.
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn all(places: &[Listen]) -> Result<Self, BindError> {
        let mut listeners = Vec::new();
        for place in places {
            listeners.push(match place {
                Listen::Unix(path) => {
                    if let Some(folder) = path.parent() {
                        make_run_dir(folder)?;
                    }
                    make_room(path)?;
                    Listener::Unix(listen(path, None, SOCKET_MODE)?, path.clone())
                }
                Listen::Tcp(address) => {
                    let path = PathBuf::from(address.to_string());
                    let bound = TcpListener::bind(address).await;
                    Listener::Tcp(bound.map_err(|source| BindError::Io { what: "listen on", path, source })?)
                }
            });
        }
        Ok(Self { listeners })
    }

    /// Where it listens.
    pub fn places(&self) -> Vec<Listen> {
        let place = |listener: &Listener| match listener {
            Listener::Tcp(tcp) => tcp.local_addr().ok().map(Listen::Tcp),
            Listener::Unix(_, path) => Some(Listen::Unix(path.clone())),
        };
        self.listeners.iter().filter_map(place).collect()
    }
}

/// The proxy.
pub struct Proxy {
    vault: Vault,
    agent: Client,
    connector: Connector,
    limits: Limits,
    gate: Arc<Gate>,
    slots: Arc<Semaphore>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    uses: Uses,
    written: Uses,
}

/// Why a request has no answer of its upstream's.
enum No {
    Problem(HttpProblem),
    /// As an enforcement point answers.
    Said(Box<Response<Body>>),
}

impl From<HttpProblem> for No {
    fn from(problem: HttpProblem) -> Self {
        Self::Problem(problem)
    }
}

impl Proxy {
    /// Over this folder, asking the agent on `pep`.
    ///
    /// # Errors
    /// When what was counted cannot be read or set aside.
    pub fn new(vault: Vault, pep: &std::path::Path, limits: Limits) -> Result<Self, VaultError> {
        let uses = vault.uses_or_none()?;
        Ok(Self {
            vault,
            agent: Client::new(pep),
            connector: Connector::new(limits.patience),
            gate: Arc::new(Gate::new(limits.api.clone())),
            slots: Arc::new(Semaphore::new(limits.api.connections_max)),
            counts: Mutex::new(Counts { written: uses.clone(), uses }),
            limits,
        })
    }

    /// Serves until `stop` turns true, then lets connections finish what they are in, and writes down what was counted.
    pub async fn serve(self, bound: Bound, stop: watch::Receiver<bool>) {
        let proxy = Arc::new(self);
        let mut tasks = JoinSet::new();
        let mut paths = Vec::new();
        for listener in bound.listeners {
            let (proxy, stop) = (proxy.clone(), stop.clone());
            match listener {
                Listener::Tcp(tcp) => drop(tasks.spawn(async move {
                    let next = || async { tcp.accept().await.map(|(stream, _)| (stream, NOBODY)) };
                    proxy.accept(next, stop).await;
                })),
                Listener::Unix(unix, path) => {
                    paths.push(path);
                    tasks.spawn(async move {
                        let next = || async {
                            let (stream, _) = unix.accept().await?;
                            let uid = stream.peer_cred()?.uid();
                            Ok((stream, uid))
                        };
                        proxy.accept(next, stop).await;
                    });
                }
            }
        }
        let counting = async {
            loop {
                tokio::time::sleep(COUNTED_EVERY).await;
                proxy.write_counts().await;
            }
        };
        tokio::select! {
            () = counting => {}
            () = async { while tasks.join_next().await.is_some() {} } => {}
        }
        for path in paths {
            // It may be gone already; a stale one is replaced at the next start.
            let _ = std::fs::remove_file(path);
        }
        proxy.write_counts().await;
    }

    async fn accept<S, F>(self: Arc<Self>, next: impl Fn() -> F, stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: std::future::Future<Output = std::io::Result<(S, u32)>>,
    {
        let mut connections = JoinSet::new();
        let mut stopping = std::pin::pin!(asked_to_stop(stop.clone()));
        loop {
            tokio::select! {
                () = &mut stopping => break,
                Some(_) = connections.join_next() => {}
                accepted = next() => match accepted {
                    Ok((stream, uid)) => {
                        let (proxy, stop) = (self.clone(), stop.clone());
                        connections.spawn(async move { proxy.admit(stream, uid, stop).await });
                    }
                    Err(error) => {
                        // Out of descriptors or memory: it does not get better by asking again at once.
                        tracing::warn!(event = "secrets.accept", %error);
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        let finish = async { while connections.join_next().await.is_some() {} };
        // What hangs longer is cut off when the set is dropped.
        let _ = tokio::time::timeout(FAREWELL, finish).await;
    }

    /// Serves a connection, if there is room for one more of this user's. One too many is closed without a word: an answer
    /// could be waited for by whoever does not read.
    async fn admit<S>(self: Arc<Self>, stream: S, uid: u32, stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let held = self.gate.connection(uid, clock::now().boottime);
        let (Ok(_permit), Ok(_slot)) = (held, self.slots.clone().try_acquire_owned()) else {
            tracing::warn!(event = "secrets.full", uid);
            return;
        };
        let head_max = self.limits.api.header_bytes_max.saturating_add(HEAD_SLACK);
        let patience = Duration::from_millis(self.limits.api.read_ms);
        let proxy = self.clone();
        let (stream, heads) = framing::watch(stream);
        let service = service_fn(move |request: Request<Incoming>| {
            let (proxy, clear) = (proxy.clone(), heads.next(&request));
            async move { Ok::<_, std::convert::Infallible>(proxy.respond(request, clear, uid).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience)
            .max_header_size(head_max)
            .max_buf_size(head_max.saturating_add(HEAD_SLACK))
            .half_close(true)
            .serve_connection(TokioIo::new(StallGuard::new(stream, self.limits.patience)), service);
        let mut connection = std::pin::pin!(connection);
        // A connection that ends badly is the client's affair: there is nobody left to tell.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = asked_to_stop(stop) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    async fn respond(
        self: &Arc<Self>,
        request: Request<Incoming>,
        clear: Result<(), HttpProblem>,
        uid: u32,
    ) -> Response<Body> {
        let _permit = match self.gate.request(uid, clock::now().boottime) {
            Ok(permit) => permit,
            Err(refusal) => return HttpProblem::from(refusal).into_response(),
        };
        match self.answer(request, clear).await {
            Ok(response) => response,
            Err(No::Said(response)) => *response,
            Err(No::Problem(problem)) => problem.into_response(),
        }
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        clear: Result<(), HttpProblem>,
    ) -> Result<Response<Body>, No> {
        let (head, body) = request.into_parts();
        if head_bytes(&head) > self.limits.api.header_bytes_max {
            return Err(HttpProblem::headers_too_large(self.limits.api.header_bytes_max).into());
        }
        clear?;
        let target = guard::target(&head)?;
        if body.size_hint().lower() > self.limits.request_bytes_max {
            return Err(self.too_large().into());
        }
        let ask_about =
            |host: &str| asked(&target, &head, host).map_err(|turned| No::Said(Box::new(enforce::turned(&turned))));
        // Nothing is read for whoever shows no token, and whoever has no right learns nothing of what there is: the agent is
        // asked first, and what it refuses has its record. What is not here is asked about as any other.
        ask_about(NOWHERE)?;
        let stored = self.stored(&target.name).await;
        let destination =
            stored.as_ref().map_or_else(|_| NOWHERE.to_owned(), |stored| stored.entry.upstream.authority());
        let asked = ask_about(&destination)?;
        let decision = self.ask(&asked).await?;
        let deadline = self.deadline(&decision);
        if decision.decision == Verdict::Deny {
            if stored.is_ok() {
                self.refused(&target.name, &head.method, decision.reason.name(), Some(&decision.decision_id));
            }
            return Err(No::Said(Box::new(enforce::answer(&asked, Ok(Reply::Decision(decision))))));
        }
        let stored = stored?;
        let path = path_of(&asked, &target.name);
        let covered = |path: &str| stored.entry.rules.iter().any(|rule| rule.covers(head.method.as_str(), path));
        if !path.is_some_and(covered) {
            self.refused(&target.name, &head.method, "no_rule", Some(&decision.decision_id));
            let detail = format!(
                "no rule of the secret {} lets {} on this path through: `hardtack secrets list` shows them",
                target.name, head.method
            );
            return Err(problem(StatusCode::FORBIDDEN, "no_rule", detail).into());
        }
        let value = self.value(&stored).await?;
        self.exchange(&stored, &target, (head, body), &value, (&decision, deadline)).await
    }

    /// When an exchange ends at the latest: with the token, as the agent has just told of it.
    fn deadline(&self, decision: &DecisionReply) -> Instant {
        let token = decision.expires_in_s.map_or(Duration::MAX, Duration::from_secs);
        // Nothing here reads a clock: a sleep that nobody sleeps knows when it would be over.
        tokio::time::sleep(self.limits.lasting.min(token)).deadline()
    }

    async fn stored(&self, name: &SecretName) -> Result<Stored, HttpProblem> {
        let (vault, name) = (self.vault.clone(), name.clone());
        let reading = tokio::task::spawn_blocking(move || vault.stored(&name));
        reading.await.map_err(|_| unusable())?.map_err(|error| match error {
            VaultError::Unknown(name) => {
                problem(StatusCode::NOT_FOUND, "no_such_secret", format!("there is no secret {name} here"))
            }
            VaultError::Credential { .. }
            | VaultError::Entry { .. }
            | VaultError::Exists(_)
            | VaultError::File(_)
            | VaultError::Full
            | VaultError::Newer(_)
            | VaultError::NoCredentials(_)
            | VaultError::NotHere(_)
            | VaultError::Sealed(_)
            | VaultError::Value(_) => broken(&error),
        })
    }

    /// The open value, for one request.
    async fn value(&self, stored: &Stored) -> Result<Zeroizing<Vec<u8>>, HttpProblem> {
        let (vault, stored) = (self.vault.clone(), stored.clone());
        let opening = tokio::task::spawn_blocking(move || vault.value(&stored));
        opening.await.map_err(|_| unusable())?.map_err(|error| broken(&error))
    }

    async fn ask(&self, asked: &Asked) -> Result<DecisionReply, HttpProblem> {
        let nobody = |what: &dyn fmt::Display| {
            let detail = format!("nobody decides now: {what}");
            problem(StatusCode::SERVICE_UNAVAILABLE, "agent_unavailable", detail)
        };
        let body = serde_json::to_vec(&asked.authorize).map_err(|error| nobody(&error))?;
        let answered = tokio::time::timeout(AGENT_PATIENCE, self.agent.exchange("POST", "/v1/authorize", body)).await;
        let answer = answered.map_err(|_| nobody(&"the agent took too long"))?.map_err(|error| nobody(&error))?;
        if answer.status == 200 {
            return serde_json::from_slice(&answer.body).map_err(|error| nobody(&error));
        }
        let told: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let detail = told["detail"].as_str().unwrap_or("the agent said no more");
        match answer.status {
            400 => Err(HttpProblem::invalid(detail)),
            413 | 431 => Err(HttpProblem::invalid(format!("the token is too large: {detail}"))),
            429 => Err(problem(StatusCode::TOO_MANY_REQUESTS, "throttled", detail)),
            _ => Err(nobody(&detail)),
        }
    }

    async fn exchange(
        self: &Arc<Self>,
        stored: &Stored,
        target: &Target,
        (head, body): (Parts, Incoming),
        value: &[u8],
        (decision, deadline): (&DecisionReply, Instant),
    ) -> Result<Response<Body>, No> {
        let Stored { entry, .. } = stored;
        let query = entry.inject.query_with(target.query.as_deref(), value).map_err(HttpProblem::invalid)?;
        let query = query.as_ref().map(|query| query.as_str()).or(target.query.as_deref());
        let uri = match query {
            Some(query) => Uri::try_from(Zeroizing::new(format!("{}?{query}", target.path)).as_str()),
            None => Uri::try_from(target.path.as_str()),
        };
        // The text is not repeated: it may hold the value.
        let uri = uri.map_err(|_| HttpProblem::invalid("path and query are no URI together: they may be too long"))?;
        let bounds = Bounds { bytes_max: self.limits.request_bytes_max, patience: self.limits.patience };
        let (body, sent) = Sent::new(body, bounds);
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        *headers = guard::onward(&head.headers);
        let host = HeaderValue::try_from(entry.upstream.authority());
        headers.insert(header::HOST, host.map_err(|_| unusable())?);
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some((name, text)) = entry.inject.header_with(value) {
            let name = HeaderName::try_from(name).map_err(|_| unusable())?;
            // The bytes are wiped when the last of whoever holds them lets go.
            let text = HeaderValue::from_maybe_shared(Bytes::from_owner(text));
            let mut text = text.map_err(|_| unusable())?;
            text.set_sensitive(true);
            headers.insert(name, text);
        }
        self.counts().uses.used(&entry.name, clock::wall());
        let answered = self.connector.send(entry, request, sent, deadline).await;
        let status = answered.as_ref().map_or(0, |(response, _)| response.status().as_u16());
        tracing::info!(
            event = "secret.used",
            secret = %entry.name,
            method = %head.method,
            decision_id = decision.decision_id,
            status,
        );
        let (response, driver) = answered.map_err(|error| self.failed(&error))?;
        self.give(stored, (response, driver), (&head.method, deadline), value, decision)
    }

    /// The upstream's answer, without the secret.
    fn give(
        self: &Arc<Self>,
        Stored { entry, .. }: &Stored,
        (response, driver): (Response<Incoming>, Driver),
        (method, deadline): (&Method, Instant),
        value: &[u8],
        decision: &DecisionReply,
    ) -> Result<Response<Body>, No> {
        let (answer, inner) = response.into_parts();
        let (mut headers, found) = guard::back(answer.status, &answer.headers, value)?;
        self.echoed(&entry.name, "headers", found);
        if inner.size_hint().lower() > self.limits.answer_bytes_max {
            let most = self.limits.answer_bytes_max;
            let detail =
                format!("the upstream's answer has more than {most} bytes: ask for less, or raise --answer-max");
            return Err(problem(StatusCode::BAD_GATEWAY, "upstream_too_large", detail).into());
        }
        if method == Method::HEAD {
            // It tells of a body that does not come.
            let length = answer.headers.get(header::CONTENT_LENGTH).cloned();
            length.map(|length| headers.insert(header::CONTENT_LENGTH, length));
        }
        if let Ok(id) = HeaderValue::from_str(&decision.decision_id) {
            headers.insert(HeaderName::from_static("hardtack-decision-id"), id);
        }
        let bounds = Bounds { bytes_max: self.limits.answer_bytes_max, patience: self.limits.patience };
        let (proxy, name) = (self.clone(), entry.name.clone());
        let told = Box::new(move |found| proxy.echoed(&name, "body", found));
        let body = Given::new((inner, driver), bounds, deadline, Echo::of(value), told);
        let mut response = Response::new(Body::new(body));
        *response.status_mut() = answer.status;
        *response.headers_mut() = headers;
        Ok(response)
    }

    fn failed(&self, error: &UpstreamError) -> HttpProblem {
        let (status, code) = match error {
            UpstreamError::Broken(_) => (StatusCode::BAD_GATEWAY, "upstream_broken"),
            UpstreamError::Request(Broken::TooLarge) => return self.too_large(),
            UpstreamError::Request(Broken::Slow) => return HttpProblem::too_slow(),
            UpstreamError::Request(Broken::Cut | Broken::Late) => return HttpProblem::invalid(error.to_string()),
            UpstreamError::Slow => (StatusCode::GATEWAY_TIMEOUT, "upstream_timeout"),
            UpstreamError::Unreachable(_) => (StatusCode::BAD_GATEWAY, "upstream_unreachable"),
        };
        problem(status, code, error.to_string())
    }

    fn too_large(&self) -> HttpProblem {
        HttpProblem::body_too_large(usize::try_from(self.limits.request_bytes_max).unwrap_or(usize::MAX))
    }

    fn refused(&self, name: &SecretName, method: &Method, reason: &str, decision_id: Option<&str>) {
        self.counts().uses.refused(name);
        tracing::info!(event = "secret.refused", secret = %name, %method, reason, decision_id);
    }

    fn echoed(&self, name: &SecretName, place: &str, found: u64) {
        if found > 0 {
            self.counts().uses.echoed(name, found);
            tracing::warn!(event = "secret.echoed", secret = %name, place, found);
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // No code of ours panics while it holds the lock.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down what was counted since, if anything was.
    async fn write_counts(self: &Arc<Self>) {
        let proxy = self.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let uses = {
                let mut counts = proxy.counts();
                if let Ok(names) = proxy.vault.names() {
                    counts.uses.keep(|name| names.iter().any(|known| known.as_str() == name));
                }
                counts.uses.clone()
            };
            if proxy.counts().written == uses {
                return;
            }
            match proxy.vault.write_uses(&uses) {
                Ok(()) => proxy.counts().written = uses,
                // They are counted on, and written down when there is room again.
                Err(error) => tracing::warn!(event = "secrets.uncounted", %error),
            }
        });
        // Its own end is all that there is to wait for.
        let _ = writing.await;
    }
}

/// What the agent is asked: the same as a reverse proxy would ask, with this request as the one that it is about.
fn asked(target: &Target, head: &Parts, host: &str) -> Result<Asked, enforce::Turned> {
    let about = Request::builder()
        .uri(format!("/authz/forward-auth/{}", target.name.resource()))
        .header("x-forwarded-method", head.method.as_str())
        .header("x-forwarded-host", host)
        .header("x-forwarded-uri", target.path.as_str())
        .body(());
    // Checked parts, each of them.
    let mut about = about.unwrap_or_default().into_parts().0;
    for name in [header::AUTHORIZATION, HeaderName::from_static("hardtack-token")] {
        for value in head.headers.get_all(&name) {
            about.headers.append(name.clone(), value.clone());
        }
    }
    enforce::asked(Form::ForwardAuth, &about)
}

/// The path that a rule is compared with, if it can have only one meaning.
fn path_of<'a>(asked: &'a Asked, name: &SecretName) -> Option<&'a str> {
    let below = asked.authorize.resource.strip_prefix(&name.resource()).filter(|_| asked.canonical)?;
    match below {
        "" => Some(""),
        below => below.strip_prefix('/'),
    }
}

/// About what the head took on the wire.
fn head_bytes(head: &Parts) -> usize {
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    head.uri.path_and_query().map_or(0, |path| path.as_str().len()) + fields.sum::<usize>()
}

/// What its owner has to look at: the message goes to the log, and says what to do.
fn broken(error: &VaultError) -> HttpProblem {
    tracing::error!(event = "secret.unusable", %error);
    unusable()
}

fn unusable() -> HttpProblem {
    let detail = "this secret cannot be used now: the log of the proxy says why";
    problem(StatusCode::INTERNAL_SERVER_ERROR, "secret_unusable", detail)
}

/// Returns once `stop` is true, or whoever could make it true is gone.
async fn asked_to_stop(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_path_or_a_port_of_this_machine() {
        for (text, shown) in [
            ("/run/a.sock", "/run/a.sock"),
            ("unix:/run/a.sock", "/run/a.sock"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:8111", "[::1]:8111"),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), shown);
        }
        for bad in ["", "a.sock", "0.0.0.0:80", "192.0.2.1:80", "[::]:80", "localhost:80"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_request_stands_for_a_resource_below_its_secret() {
        let told = |method: &str, path: &str| {
            let head = Request::builder().method(method).uri("/").header("authorization", "Bearer En0K");
            let head = head.body(()).unwrap().into_parts().0;
            let target = Target { name: "crm".parse().unwrap(), path: path.into(), query: None };
            let asked = asked(&target, &head, "crm.example:8443").unwrap();
            assert_eq!(asked.authorize.destination.as_deref(), Some("crm.example:8443"));
            (asked.authorize.operation.clone(), path_of(&asked, &target.name).map(str::to_owned))
        };
        for (method, path, operation, expected) in [
            ("GET", "/v1/orders", "read", Some("v1/orders")),
            ("PUT", "/v1/orders/", "write", Some("v1/orders")),
            ("DELETE", "/%61", "delete", Some("a")),
            ("GET", "/", "read", Some("")),
            ("GET", "//a", "read", None),
            ("GET", "/a/../b", "read", None),
            ("GET", "/a%2fb", "read", None),
            ("GET", "/%2e%2e/b", "read", None),
            ("GET", "/a;/b/..;/c", "read", None),
            ("GET", "/a%00", "read", None),
        ] {
            assert_eq!(told(method, path), (operation.into(), expected.map(str::to_owned)), "{method} {path}");
        }
    }
}
