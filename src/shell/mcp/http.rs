//! A server that is spoken to over Streamable HTTP.
//!
//! Owns: the listening side with its checks against rebinding, the way to the server, streams of events that pass through.
//! Never: hands a caller's credential on; lets an event pass that was not looked at; answers what another origin's page asks.
//! Read next: `mod.rs`, `../../mcp/sse.rs`.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::{Alive, Gate};
use crate::mcp::guard::{FromClient, FromServer};
use crate::mcp::message::{error, read, Fault, Message, INVALID_REQUEST};
use crate::mcp::sse::{Cutter, Event};
use crate::profile::ApiLimits;
use crate::shell::clock;
use crate::shell::http::limits::Gate as Shares;
use crate::shell::http::stall::StallGuard;
use crate::shell::http::{listen as listen_at, make_room};
use crate::shell::tls;
use crate::time::Millis;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 128;
/// What is buffered of a head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long a client may take for a head, and again for a body.
const READ_WAIT: Duration = Duration::from_secs(15);
/// How long the server may take to accept a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// Events that wait for a slow reader.
const WAITING_MAX: usize = 16;
/// How much of a message that is too large is read and thrown away.
const DRAINED_MAX: usize = 1024 * 1024;
/// For how long a credential that was good counts as good: what a server says a second after its end passes no more.
const GOOD_FOR: Millis = Millis(700);
/// How often it is looked whether the credential of a stream on which nothing passes is good still. Each look is on record.
const IDLE_LOOK: Duration = Duration::from_secs(4);
/// How long nobody may be able to say whether a credential is good, before its stream ends.
const UNKNOWN_MAX: Millis = Millis::from_secs(8);
/// A message of no more than this is read before it is known whether its sender's credential is good for anything.
const SMALL_BYTES: usize = 16 * 1024;
/// How long a client may take to take what was written for it.
const WRITE_WAIT: Duration = Duration::from_secs(30);
/// Bytes of messages that are held at once, whoever sends them; one of the largest in any case.
const HELD_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Anybody may connect to a unix socket: the token decides.
const SOCKET_MODE: u32 = 0o666;
/// The session, which the server gives.
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// The version that was agreed on.
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// Where a stream is taken up again.
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
/// The versions whose messages are understood here.
const VERSIONS: [&str; 3] = ["2025-03-26", "2025-06-18", "2025-11-25"];

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Where the server is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upstream {
    authority: String,
    host: String,
    port: u16,
    /// The path, which is also the proxy's own.
    pub path: String,
    /// Whether it has TLS.
    pub secure: bool,
}

impl Upstream {
    /// Of a URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
        let secure = match uri.scheme_str() {
            Some("http") => Some(false),
            Some("https") => Some(true),
            Some(_) | None => None,
        };
        let secure = secure.filter(|_| uri.query().is_none());
        let secure = secure.ok_or_else(|| format!("{url:?} is not http://HOST:PORT/PATH or https://HOST:PORT/PATH"))?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let authority = authority.ok_or_else(|| format!("{url:?} names no host, or a user"))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self {
            authority: authority.as_str().to_owned(),
            host,
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            path: uri.path().to_owned(),
            secure,
        })
    }
}

/// Where it is listened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listen {
    /// On this machine alone: what passes is not encrypted, and holds credentials.
    Tcp(SocketAddr),
    /// On a unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// `127.0.0.1:PORT`, `[::1]:PORT` or `unix:PATH`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix(path.strip_prefix("//").unwrap_or(path).into()));
        }
        let address: SocketAddr =
            text.parse().map_err(|_| format!("{text:?} is neither ADDRESS:PORT nor unix:PATH"))?;
        if !address.ip().is_loopback() {
            return Err(format!(
                "{address} can be reached from elsewhere: listen on 127.0.0.1, behind a proxy that has TLS"
            ));
        }
        Ok(Self::Tcp(address))
    }
}

/// Room for messages that are read and not yet passed on.
#[derive(Debug)]
pub struct Room {
    /// In KiB.
    left: Semaphore,
    all: u32,
}

impl Room {
    /// For messages of at most so many bytes.
    pub fn new(message_bytes_max: usize) -> Self {
        let all = kib(HELD_BYTES_MAX.max(message_bytes_max));
        Self { left: Semaphore::new(usize::try_from(all).unwrap_or(Semaphore::MAX_PERMITS)), all }
    }

    /// Room for a message that says that it is so long; none if there is not enough in time.
    async fn take(&self, told: usize, most: usize) -> Option<SemaphorePermit<'_>> {
        let taking = self.left.acquire_many(kib(told.min(most)).min(self.all));
        tokio::time::timeout(READ_WAIT, taking).await.ok()?.ok()
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

/// When a credential ends that lives so many seconds more.
fn end_of(expires_in_s: Option<u64>) -> Option<Instant> {
    expires_in_s.map(|left| tokio::time::sleep(Duration::from_secs(left)).deadline())
}

/// The proxy.
#[derive(Debug)]
pub struct Front {
    /// Of what is read at once.
    pub room: Room,
    /// What passes.
    pub gate: Gate,
    /// The server.
    pub upstream: Upstream,
    /// What it is held to, if it has TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// Names of this machine by which clients call the proxy, besides the loopback's.
    pub hosts: BTreeSet<String>,
    /// Origins of web pages that may use it.
    pub origins: BTreeSet<String>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Serves until `stop`. `ready` is told where.
///
/// # Errors
/// When it cannot listen.
pub async fn serve(
    listen: &Listen,
    front: Arc<Front>,
    ready: impl FnOnce(String),
    stop: impl Future<Output = io::Result<()>>,
) -> io::Result<()> {
    tokio::pin!(stop);
    // Who is told that it listens may ask it to end: from here on that is heard.
    tokio::select! {
        biased;
        stopped = &mut stop => return stopped,
        () = std::future::ready(()) => {}
    }
    let (listener, place) = match listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address).await?;
            let place = format!("http://{}{}", listener.local_addr()?, front.upstream.path);
            (Listener::Tcp(listener), place)
        }
        Listen::Unix(path) => {
            make_room(path).map_err(io::Error::other)?;
            let listener = listen_at(path, None, SOCKET_MODE).map_err(io::Error::other)?;
            (Listener::Unix(listener), format!("unix:{}", path.display()))
        }
    };
    let _away = match listen {
        Listen::Tcp(_) => None,
        Listen::Unix(path) => Some(TakenAway(path)),
    };
    ready(place);
    let shares = shares(front.gate.message_bytes_max);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot.map_err(io::Error::other)?,
            stopped = &mut stop => break stopped?,
        };
        let accepted = tokio::select! {
            accepted = accept(&listener, &front, &shares) => accepted,
            stopped = &mut stop => break stopped?,
        };
        match accepted {
            Ok(connection) => {
                tokio::spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            // For want of descriptors, for example: whoever is served sets some free.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    Ok(())
}

/// A socket's file, which goes with whoever serves it, whatever ends that.
struct TakenAway<'a>(&'a Path);

impl Drop for TakenAway<'_> {
    fn drop(&mut self) {
        // It may be gone already; a stale one is replaced at the next start.
        let _ = std::fs::remove_file(self.0);
    }
}

type Connection = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn accept(listener: &Listener, front: &Arc<Front>, shares: &Arc<Shares>) -> io::Result<Connection> {
    Ok(match listener {
        Listener::Tcp(listener) => Box::pin(connection(listener.accept().await?.0, front.clone(), true)),
        Listener::Unix(listener) => {
            let (stream, front) = (listener.accept().await?.0, front.clone());
            // One too many of a user's is closed: an answer could be waited for by whoever does not read.
            let share = shares.connection(stream.peer_cred()?.uid(), clock::now().boottime);
            Box::pin(async move {
                if let Ok(share) = share {
                    connection(stream, front, false).await;
                    drop(share);
                }
            })
        }
    })
}

/// What one user has of the connections on a unix socket: half. Of requests nobody counts; the agent does.
fn shares(message_bytes_max: usize) -> Arc<Shares> {
    let read_ms = u64::try_from(READ_WAIT.as_millis()).unwrap_or(u64::MAX);
    Arc::new(Shares::new(ApiLimits {
        body_bytes_max: message_bytes_max,
        header_bytes_max: HEAD_BYTES_MAX,
        concurrent_per_uid: CONNECTIONS_MAX / 2,
        connections_max: CONNECTIONS_MAX,
        per_second: u32::MAX,
        burst: u32::MAX,
        read_ms,
    }))
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, front: Arc<Front>, by_name: bool) {
    let service = service_fn(move |request| {
        let front = front.clone();
        async move { Ok::<_, Infallible>(front.answer(request, by_name).await) }
    });
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(READ_WAIT).max_buf_size(HEAD_BYTES_MAX);
    // What breaks off on the client's side is the client's to notice.
    let _ = server.serve_connection(TokioIo::new(StallGuard::new(stream, WRITE_WAIT)), service).await;
}

/// When a credential was last seen to be good, as boottime.
struct Good(Mutex<Millis>);

impl Good {
    /// Now: it was asked about a moment ago.
    fn new() -> Self {
        Self(Mutex::new(clock::now().boottime))
    }

    fn seen(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = clock::now().boottime;
    }

    fn age(&self) -> Millis {
        let seen = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Millis(clock::now().boottime.0.saturating_sub(seen.0))
    }
}

/// Who asks, and what of his request goes on to the server with whatever is sent there for him.
#[derive(Clone)]
struct Caller {
    token: String,
    headers: HeaderMap,
}

impl Front {
    async fn answer(self: &Arc<Self>, request: Request<Incoming>, by_name: bool) -> Answer {
        if let Err(refused) = self.check(request.headers(), by_name) {
            return *refused;
        }
        if request.uri().path() != self.upstream.path {
            return plain(StatusCode::NOT_FOUND, &format!("there is {} here, and nothing else", self.upstream.path));
        }
        let bearer = match bearer(request.headers()) {
            Ok(bearer) => bearer,
            Err(refused) => return *refused,
        };
        let mut headers = HeaderMap::new();
        for name in [header::ACCEPT, SESSION, VERSION, LAST_EVENT] {
            let mut values = request.headers().get_all(&name).iter();
            let Some(value) = values.next() else { continue };
            if values.next().is_some() {
                return plain(StatusCode::BAD_REQUEST, &format!("{name} is there more than once"));
            }
            headers.insert(name, value.clone());
        }
        if ![Method::POST, Method::DELETE, Method::GET].contains(request.method()) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "GET, POST and DELETE are what there is");
        }
        // Nothing is kept of what somebody without one sends.
        let Some(token) = bearer else {
            return unauthorized("no token: send `Authorization: Bearer TOKEN`", false);
        };
        let caller = Caller { token, headers };
        let answered = match request.method().clone() {
            Method::POST => self.post(request, caller).await,
            method => self.pass(method, caller, None).await,
        };
        answered.unwrap_or_else(|refused| refused)
    }

    /// Whether a client of this machine asks: a page of another origin could, through its reader's browser.
    fn check(&self, headers: &HeaderMap, by_name: bool) -> Result<(), Box<Answer>> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        if !origins.all(|origin| origin.to_str().is_ok_and(|origin| self.origins.contains(origin))) {
            return Err(Box::new(plain(StatusCode::FORBIDDEN, "this origin may not use the proxy (--allow-origin)")));
        }
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok()).map(name_of);
        let known = |host: &str| ["127.0.0.1", "[::1]", "localhost"].contains(&host) || self.hosts.contains(host);
        if hosts.next().is_some() || by_name && !host.is_some_and(known) {
            return Err(Box::new(plain(StatusCode::FORBIDDEN, "the proxy is not called by this name (--allow-host)")));
        }
        Ok(())
    }

    async fn post(self: &Arc<Self>, request: Request<Incoming>, mut caller: Caller) -> Result<Answer, Answer> {
        if !is_kind(request.headers(), "application/json") {
            return Err(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a message is application/json"));
        }
        let most = self.gate.message_bytes_max;
        let told = request.body().size_hint().upper().and_then(|told| usize::try_from(told).ok()).unwrap_or(most);
        if told > SMALL_BYTES {
            self.check_alive(&caller).await?;
        }
        let Some(mut room) = self.room.take(told, most).await else {
            let mut busy = plain(StatusCode::SERVICE_UNAVAILABLE, "too much is being read at once: try again");
            busy.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return Err(busy);
        };
        let body = match tokio::time::timeout(READ_WAIT, gather(request.into_body(), most)).await {
            Ok(Some(body)) => body,
            Ok(None) => {
                let why = format!("a message has at most {most} bytes, and comes as a whole");
                return Err(json(StatusCode::PAYLOAD_TOO_LARGE, &error(Value::Null, INVALID_REQUEST, &why, None)));
            }
            Err(_) => return Err(plain(StatusCode::REQUEST_TIMEOUT, "the message did not arrive in time")),
        };
        let _held = room.split(kib(body.len()) as usize);
        drop(room);
        let message = read(&body).map_err(|fault| json(StatusCode::BAD_REQUEST, &Fault::answer(&fault)))?;
        let (own, step) = self.gate.guard.from_client(message);
        if let Some(own) = own {
            caller.token = own;
        }
        let version = caller.headers.get(VERSION).map(|version| version.to_str().unwrap_or_default().to_owned());
        match step {
            FromClient::Answer(answer) => Ok(json(StatusCode::OK, &answer)),
            FromClient::Drop => Ok(plain(StatusCode::ACCEPTED, "")),
            _ if version.as_deref().is_some_and(|version| !VERSIONS.contains(&version)) => {
                let why = format!("{VERSION} is one of {}", VERSIONS.join(", "));
                Err(json(StatusCode::BAD_REQUEST, &error(Value::Null, INVALID_REQUEST, &why, None)))
            }
            FromClient::Pass(message) => self.pass(Method::POST, caller, Some(message)).await,
            FromClient::Ask(asked) => {
                let ruling = self.gate.decide(&caller.token, &asked.question).await;
                let end = end_of(ruling.expires_in_s);
                match ruling.allowed {
                    true => self.relay(Method::POST, caller, Some(asked.message), end).await,
                    false => {
                        let refused = asked.refused(&ruling);
                        Ok(refused
                            .map_or_else(|| plain(StatusCode::FORBIDDEN, ""), |refused| json(StatusCode::OK, &refused)))
                    }
                }
            }
        }
    }

    /// What needs no decision needs a credential that is good for something.
    async fn pass(
        self: &Arc<Self>,
        method: Method,
        caller: Caller,
        message: Option<Message>,
    ) -> Result<Answer, Answer> {
        self.check_alive(&caller).await?;
        self.relay(method, caller, message, None).await
    }

    async fn check_alive(&self, caller: &Caller) -> Result<(), Answer> {
        match self.gate.check_alive(&caller.token).await {
            Alive::Yes => Ok(()),
            Alive::Refused(why) => Err(unauthorized(&why, true)),
            Alive::Unknown(why) => Err(plain(StatusCode::SERVICE_UNAVAILABLE, &why)),
        }
    }

    /// Sends it on, and passes back what comes of it.
    async fn relay(
        self: &Arc<Self>,
        method: Method,
        caller: Caller,
        message: Option<Message>,
        end: Option<Instant>,
    ) -> Result<Answer, Answer> {
        let sent = self.send(method, &caller.headers, message.as_ref());
        let response = self.unless_over(&caller.token, end, sent).await?;
        let response = response.map_err(|why| plain(StatusCode::BAD_GATEWAY, &why))?;
        let (head, body) = response.into_parts();
        if head.status.is_redirection() || head.status.is_informational() {
            return Err(plain(
                StatusCode::BAD_GATEWAY,
                "the server points elsewhere: name the place itself as --upstream",
            ));
        }
        let mut answer = if head.status == StatusCode::OK && is_kind(&head.headers, "text/event-stream") {
            let (events, readable) = mpsc::channel(WAITING_MAX);
            tokio::spawn(self.clone().pump(body, events, caller, end));
            with(head.status, "text/event-stream", Events(readable).boxed())
        } else {
            self.unless_over(&caller.token, end, self.whole(head.status, body, &caller)).await??
        };
        if let Some(session) = head.headers.get(SESSION) {
            answer.headers_mut().insert(SESSION, session.clone());
        }
        Ok(answer)
    }

    /// An answer that comes at once.
    async fn whole(self: &Arc<Self>, status: StatusCode, body: Incoming, caller: &Caller) -> Result<Answer, Answer> {
        let body = Limited::new(body, self.gate.message_bytes_max).collect().await;
        let body = body.map_err(|error| plain(StatusCode::BAD_GATEWAY, &format!("the server's answer: {error}")))?;
        let body = body.to_bytes();
        match read(&body) {
            Ok(message @ Message::Response { .. }) => Ok(self
                .passes(message, caller)
                .await
                .map_or_else(|| plain(status, ""), |message| json(status, &message))),
            // Whoever asked reads the status; what else it says was not looked at.
            Ok(Message::Notification { .. } | Message::Request { .. }) | Err(_)
                if status.is_success() && !body.is_empty() =>
            {
                Err(plain(StatusCode::BAD_GATEWAY, "the server's answer is no message"))
            }
            Ok(Message::Notification { .. } | Message::Request { .. }) | Err(_) => Ok(plain(status, "")),
        }
    }

    /// Events that pass one by one, until either side has enough, or the credential is none any more.
    async fn pump(self: Arc<Self>, body: Incoming, events: mpsc::Sender<Bytes>, caller: Caller, end: Option<Instant>) {
        let good = Good::new();
        tokio::select! {
            () = self.carry(body, &events, &caller, &good) => {}
            () = self.until_over(&caller.token, &good, end) => {}
            () = events.closed() => {}
        }
    }

    async fn carry(self: &Arc<Self>, mut body: Incoming, events: &mpsc::Sender<Bytes>, caller: &Caller, good: &Good) {
        let mut cutter = Cutter::new(self.gate.message_bytes_max);
        // A stream that breaks off is taken up again by the client.
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            let Ok(whole) = cutter.feed(&data) else { return };
            if whole.is_empty() && data.starts_with(b":") && events.send(Bytes::from_static(b":\n\n")).await.is_err() {
                return;
            }
            for event in whole {
                if good.age() >= GOOD_FOR && !self.is_good(&caller.token, good).await {
                    return;
                }
                if let Some(event) = self.event(event, caller).await {
                    if events.send(event.to_bytes().into()).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// What the server does for a credential, if that lasts for so long.
    async fn unless_over<T>(
        &self,
        token: &str,
        end: Option<Instant>,
        doing: impl Future<Output = T>,
    ) -> Result<T, Answer> {
        let good = Good::new();
        tokio::select! {
            done = doing => Ok(done),
            () = self.until_over(token, &good, end) => {
                Err(unauthorized("the credential ended before the server's answer was here", true))
            }
        }
    }

    /// Returns when the credential is refused, when its time is over, or when nobody could say for a while that it is good.
    async fn until_over(&self, token: &str, good: &Good, end: Option<Instant>) {
        let over = async {
            match end {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        let refused = async {
            loop {
                tokio::time::sleep(IDLE_LOOK).await;
                if good.age() >= GOOD_FOR && !self.is_good(token, good).await {
                    return;
                }
            }
        };
        tokio::select! {
            () = refused => {}
            () = over => {}
        }
    }

    /// Whether the credential may be taken for good, after another look. An agent that is away for a moment says so to who asks
    /// for anything: what is under way goes on until that has lasted too long.
    async fn is_good(&self, token: &str, good: &Good) -> bool {
        match self.gate.check_alive(token).await {
            Alive::Yes => {
                good.seen();
                true
            }
            Alive::Refused(_) => false,
            Alive::Unknown(_) => good.age() < UNKNOWN_MAX,
        }
    }

    async fn event(self: &Arc<Self>, event: Event, caller: &Caller) -> Option<Event> {
        let Some(data) = event.data.as_ref().filter(|data| !data.is_empty()) else { return Some(event) };
        let known = event.kind.as_deref().is_none_or(|kind| kind == "message");
        let message = read(data.as_bytes()).ok().filter(|_| known)?;
        let message = self.passes(message, caller).await?;
        let data = String::from_utf8(message.to_bytes()).ok()?;
        Some(Event { data: Some(data), ..event })
    }

    /// What of a message of the server goes to the client.
    async fn passes(self: &Arc<Self>, message: Message, caller: &Caller) -> Option<Message> {
        match self.gate.guard.from_server(message) {
            FromServer::Drop => None,
            FromServer::List(listing) => Some(self.gate.filter(&caller.token, listing).await),
            FromServer::Pass(message) => Some(message),
            FromServer::Refuse(answer) => {
                let (front, headers) = (self.clone(), caller.headers.clone());
                // A server that does not take its answer waits in vain, as with a client that has gone.
                tokio::spawn(async move { front.send(Method::POST, &headers, Some(&answer)).await.map(drop) });
                None
            }
        }
    }

    async fn send(
        &self,
        method: Method,
        headers: &HeaderMap,
        message: Option<&Message>,
    ) -> Result<Response<Incoming>, String> {
        let Upstream { authority, host, port, path, .. } = &self.upstream;
        let unreachable = |why: String| format!("the server at {authority} does not answer: {why}");
        let connecting = tls::connect(host, *port, self.tls.clone());
        let stream = tokio::time::timeout(CONNECT_WAIT, connecting).await;
        let stream = stream.map_err(|_| unreachable("it took too long".into()))?;
        let stream = stream.map_err(|error| unreachable(error.to_string()))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| unreachable(error.to_string()))?;
        tokio::spawn(connection);
        let body = message.map(Message::to_bytes).unwrap_or_default();
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, authority);
        if message.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let mut request = request.body(Full::new(Bytes::from(body))).map_err(|error| unreachable(error.to_string()))?;
        request.headers_mut().extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        sender.send_request(request).await.map_err(|error| unreachable(error.to_string()))
    }
}

/// A client's body, none if it is cut off or too large. Of what is too large some is read all the same: who is writing still when
/// the connection closes sees a broken pipe instead of the answer.
async fn gather(mut body: Incoming, most: usize) -> Option<Vec<u8>> {
    let (mut bytes, mut seen) = (Vec::new(), 0usize);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen <= most {
            bytes.extend_from_slice(&data);
        } else if seen > most.saturating_add(DRAINED_MAX) {
            return None;
        }
    }
    (seen <= most).then_some(bytes)
}

/// The body of a stream of events.
struct Events(mpsc::Receiver<Bytes>);

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// The host without its port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    }
}

fn is_kind(headers: &HeaderMap, kind: &str) -> bool {
    let said = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    said.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(kind)
}

/// The token that a client presents.
fn bearer(headers: &HeaderMap) -> Result<Option<String>, Box<Answer>> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = all.next() else { return Ok(None) };
    let token = value.to_str().ok().and_then(|value| value.split_once(' '));
    let token = token.filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty());
    match (token, all.next()) {
        (Some((_, token)), None) => Ok(Some(token.trim().to_owned())),
        (_, _) => Err(Box::new(unauthorized("Authorization is `Bearer TOKEN`, once", true))),
    }
}

fn unauthorized(why: &str, presented: bool) -> Answer {
    let challenge = match presented {
        true => "Bearer realm=\"hardtack\", error=\"invalid_token\"",
        false => "Bearer realm=\"hardtack\"",
    };
    let mut answer = plain(StatusCode::UNAUTHORIZED, why);
    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    answer
}

fn plain(status: StatusCode, text: &str) -> Answer {
    let kind = "text/plain; charset=utf-8";
    with(status, kind, Full::new(Bytes::from(text.to_owned())).boxed())
}

fn json(status: StatusCode, message: &Message) -> Answer {
    with(status, "application/json", Full::new(Bytes::from(message.to_bytes())).boxed())
}

fn with(status: StatusCode, kind: &'static str, body: BoxBody<Bytes, Infallible>) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // What one caller may see another may not.
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_a_plain_url_and_the_proxy_listens_on_this_machine() {
        let upstream = Upstream::parse("http://[::1]:8000/mcp").unwrap();
        assert_eq!((&*upstream.host, upstream.port, &*upstream.path), ("::1", 8000, "/mcp"));
        assert_eq!(Upstream::parse("http://tools").unwrap().port, 80);
        let secure = Upstream::parse("https://tools/mcp").unwrap();
        assert_eq!((secure.port, secure.secure, upstream.secure), (443, true, false));
        for odd in ["tools/mcp", "https://tools/mcp?x", "http://a@b/mcp", "http://tools/mcp?x", "ftp://x", ""] {
            assert!(Upstream::parse(odd).is_err(), "{odd}");
        }
        assert_eq!(Listen::parse("unix:/run/x"), Ok(Listen::Unix("/run/x".into())));
        assert_eq!(Listen::parse("unix:///run/x"), Ok(Listen::Unix("/run/x".into())));
        assert!(Listen::parse("127.0.0.1:0").is_ok() && Listen::parse("[::1]:7000").is_ok());
        for odd in ["0.0.0.0:80", "10.0.0.1:80", "localhost:80", "80", "[::]:80"] {
            assert!(Listen::parse(odd).is_err(), "{odd}");
        }
    }

    #[tokio::test]
    async fn what_is_read_at_once_has_a_bound() {
        let (most, room) = (4 << 20, Room::new(4 << 20));
        let left = || room.left.available_permits();
        let small = room.take(1, most).await.unwrap();
        assert_eq!(left(), 32 * 1024 - 1);
        // None counts for more than the longest.
        let (longest, liar) = (room.take(most, most).await.unwrap(), room.take(usize::MAX, most).await.unwrap());
        assert_eq!(left(), 24 * 1024 - 1);
        drop((small, longest, liar));
        assert_eq!(left(), 32 * 1024);
        let large = Room::new(100 << 20);
        assert!(large.take(100 << 20, 100 << 20).await.is_some(), "one of the largest has room");
    }

    #[test]
    fn names_and_tokens_are_told_from_what_is_around_them() {
        for (host, name) in [("localhost", "localhost"), ("a:80", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]")] {
            assert_eq!(name_of(host), name);
        }
        let token = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map_err(|answer| answer.status().as_u16())
        };
        assert_eq!(token(&[]), Ok(None));
        assert_eq!(token(&["bearer  En0K "]), Ok(Some("En0K".into())));
        for odd in [&["Bearer"][..], &["Bearer "], &["Basic eDp5"], &["Bearer a", "Bearer a"]] {
            assert_eq!(token(odd), Err(401), "{odd:?}");
        }
    }
}
