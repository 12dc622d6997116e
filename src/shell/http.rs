//! The local API: HTTP/1.1 on three unix sockets, and for enforcement points on loopback where that is configured.
//!
//! Owns: the sockets with their modes, the connections with their limits.
//! Never: decides anything, or waits for a client longer than the profile says.
//! Read next: `http/routes.rs` for the paths, `inbox.rs` for what is behind them.

pub mod body;
pub mod enforce;
pub mod framing;
pub mod limits;
pub mod loopback;
pub mod oauth;
pub mod problem;
pub mod routes;
pub mod stall;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{watch, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower::ServiceExt;

use self::limits::Gate;
use self::problem::HttpProblem;
use self::routes::Api;
use self::stall::StallGuard;
use super::clock;
use super::inbox::Inbox;
use super::peer::names::group_number;
use super::peer::{Attested, Attestor, Caller, Hashing};
use crate::agent::request::Socket;
use crate::config::{PepConfig, SocketsConfig};
use crate::profile::ApiLimits;

/// Connections that wait to be accepted, per socket.
const BACKLOG: i32 = 128;
/// Connections that operators have besides everybody else's: nobody locks them out.
const ADMIN_CONNECTIONS_MAX: usize = 16;
/// Connections on loopback of which is not known yet whose they are. To find that out takes milliseconds, for which those
/// behind them wait: a proxy that opens a hundred at once is not turned away for it.
const UNATTRIBUTED_MAX: usize = 32;
/// How long connections may take to finish what they are in when the process is asked to end.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long the rest of a request is read that was turned away.
const READ_AWAY: Duration = Duration::from_secs(1);
/// What hyper buffers of a head above the profile's limit, so that our own 431 can say what the limit is.
const HEAD_SLACK: usize = 8 * 1024;

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process answers on the socket.
    #[error("another process already serves {path}: stop it, or choose another --run-dir")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The system said no.
    #[error("cannot {what} {path}: {source}; the run folder must be writable and its path short, see --run-dir")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An address on loopback cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; name another in [pep] listen of agent.toml, or end what listens there"
    )]
    Address {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// A group that nobody knows.
    #[error("[sockets] names the group {0:?}, which /etc/group does not have: make it, or name another")]
    NoGroup(String),
    /// Something that is not a socket is in the way.
    #[error("{path} is in the way and is not a socket: move it, or choose another --run-dir")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
}

/// The three sockets, bound and listening.
#[derive(Debug)]
pub struct Sockets {
    listeners: Vec<(Socket, UnixListener)>,
    paths: Vec<PathBuf>,
    hashing: Hashing,
    loopback: Vec<(TcpListener, SocketAddr)>,
    enforcers: Arc<[u32]>,
}

/// The numbers of the groups to which `pep.sock` and `admin.sock` are given, if those are not the agent's own.
///
/// # Errors
/// [`BindError::NoGroup`].
pub fn socket_groups(config: &SocketsConfig) -> Result<(Option<u32>, Option<u32>), BindError> {
    let number = |group: &Option<String>| {
        let number = |group: &String| group_number(group).ok_or_else(|| BindError::NoGroup(group.clone()));
        group.as_ref().map(number).transpose()
    };
    Ok((number(&config.pep_group)?, number(&config.admin_group)?))
}

/// File name and mode of a socket.
pub const fn socket_file(socket: Socket) -> (&'static str, u32) {
    match socket {
        Socket::Admin => ("admin.sock", 0o660),
        Socket::Agent => ("agent.sock", 0o666),
        Socket::Pep => ("pep.sock", 0o660),
    }
}

impl Sockets {
    /// Makes the run folder if it is not there, and binds. A socket that a dead process left behind is replaced; from
    /// here on clients can connect, and wait.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(run_dir: &Path) -> Result<Self, BindError> {
        Self::bind_for(run_dir, &SocketsConfig::default())
    }

    /// The same, and gives each socket to its group.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind_for(run_dir: &Path, config: &SocketsConfig) -> Result<Self, BindError> {
        let (pep, admin) = socket_groups(config)?;
        make_run_dir(run_dir)?;
        let (mut listeners, mut paths) = (Vec::new(), Vec::new());
        for socket in [Socket::Admin, Socket::Agent, Socket::Pep] {
            let (name, mode) = socket_file(socket);
            let path = run_dir.join(name);
            make_room(&path)?;
            let group = match socket {
                Socket::Admin => admin,
                Socket::Agent => None,
                Socket::Pep => pep,
            };
            listeners.push((socket, listen(&path, group, mode)?));
            paths.push(path);
        }
        Ok(Self { listeners, paths, hashing: Hashing::Off, loopback: Vec::new(), enforcers: [].into() })
    }

    /// With the enforcement points' API on these addresses of loopback too, for these users.
    ///
    /// # Errors
    /// [`BindError::Address`].
    pub async fn and_loopback(self, config: &PepConfig) -> Result<Self, BindError> {
        let mut loopback = Vec::new();
        for address in &config.listen {
            let refused = |source| BindError::Address { address: *address, source };
            let listener = TcpListener::bind(address).await.map_err(refused)?;
            let own = listener.local_addr().map_err(refused)?;
            loopback.push((listener, own));
        }
        Ok(Self { loopback, enforcers: config.users.as_slice().into(), ..self })
    }

    /// The addresses on loopback, with the ports that the system gave where none was named.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.loopback.iter().map(|(_, own)| *own).collect()
    }

    /// With programs told by their hash, or not.
    pub fn hashing(self, hashing: Hashing) -> Self {
        Self { hashing, ..self }
    }

    /// Serves until `stop` turns true, then lets connections finish what they are in and removes the sockets.
    pub async fn serve(self, inbox: Arc<Inbox>, limits: ApiLimits, stop: watch::Receiver<bool>) {
        let gate = Arc::new(Gate::new(limits.clone()));
        let everybody = Arc::new(Semaphore::new(limits.connections_max));
        let operators = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
        let unattributed = Arc::new(Semaphore::new(UNATTRIBUTED_MAX));
        let attestor = Arc::new(Attestor::new(self.hashing));
        let api = Arc::new(Api { inbox: inbox.clone(), attestor: attestor.clone(), limits: limits.clone() });
        let server = |socket: Socket, own: Option<SocketAddr>| Server {
            socket,
            own,
            router: routes::router(socket, &api),
            limits: limits.clone(),
            gate: gate.clone(),
            slots: match socket {
                Socket::Admin => operators.clone(),
                Socket::Agent | Socket::Pep => everybody.clone(),
            },
            unattributed: unattributed.clone(),
            inbox: inbox.clone(),
            attestor: attestor.clone(),
            enforcers: self.enforcers.clone(),
        };
        let mut tasks = JoinSet::new();
        for (socket, listener) in self.listeners {
            tasks.spawn(server(socket, None).accept(Listener::Unix(listener), stop.clone()));
        }
        for (listener, own) in self.loopback {
            tasks.spawn(server(Socket::Pep, Some(own)).accept(Listener::Loopback(listener), stop.clone()));
        }
        while tasks.join_next().await.is_some() {}
        for path in &self.paths {
            // It may be gone already; a stale one is replaced at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}

pub(in crate::shell) fn make_run_dir(run_dir: &Path) -> Result<(), BindError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(run_dir);
    made.map_err(|source| BindError::Io { what: "make the folder", path: run_dir.into(), source })
}

/// Removes a socket that nobody serves any more, and nothing else.
pub(in crate::shell) fn make_room(path: &Path) -> Result<(), BindError> {
    use std::os::unix::fs::FileTypeExt;
    let failed = |what| move |source| BindError::Io { what, path: path.into(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NotASocket { path: path.into() }),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed("remove the stale socket"))
        }
        Err(error) => Err(failed("probe")(error)),
        Ok(_) => Err(BindError::InUse { path: path.into() }),
    }
}

/// Binds, sets group and mode, and only then listens: nobody connects before they are in force.
pub(in crate::shell) fn listen(path: &Path, group: Option<u32>, mode: u32) -> Result<UnixListener, BindError> {
    let failed = |what| move |source: io::Error| BindError::Io { what, path: path.into(), source };
    let fd = closed(path, group, mode)?;
    rustix::net::listen(&fd, BACKLOG).map_err(io::Error::from).map_err(failed("listen on"))?;
    UnixListener::from_std(fd.into()).map_err(failed("serve"))
}

/// A socket in its place, with group and mode, to which nobody connects yet.
fn closed(path: &Path, group: Option<u32>, mode: u32) -> Result<OwnedFd, BindError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |what| move |source: io::Error| BindError::Io { what, path: path.into(), source };
    let bound = || -> rustix::io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(fd)
    };
    let fd = bound().map_err(io::Error::from).map_err(failed("bind"))?;
    if group.is_some() {
        std::os::unix::fs::lchown(path, None, group).map_err(failed("give to its group (the agent must be in it)"))?;
    }
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, permissions).map_err(failed("set the mode of"))?;
    Ok(fd)
}

/// Where connections come from.
enum Listener {
    Loopback(TcpListener),
    Unix(UnixListener),
}

/// A connection.
enum Stream {
    Loopback(Unattributed),
    Unix(UnixStream),
}

/// A connection on loopback of which is not known yet whose it is.
struct Unattributed {
    stream: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
}

impl Listener {
    /// The next connection, once there is a place for it.
    async fn accept(&self, unattributed: &Arc<Semaphore>) -> io::Result<Stream> {
        match self {
            Self::Loopback(listener) => {
                let place = unattributed.clone().acquire_owned().await.map_err(io::Error::other)?;
                let (stream, peer) = listener.accept().await?;
                Ok(Stream::Loopback(Unattributed { stream, peer, place }))
            }
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

/// What serves one socket.
struct Server {
    socket: Socket,
    /// The listener's address, on loopback.
    own: Option<SocketAddr>,
    router: Router,
    limits: ApiLimits,
    gate: Arc<Gate>,
    slots: Arc<Semaphore>,
    /// Places of those on loopback whose owner is looked for.
    unattributed: Arc<Semaphore>,
    inbox: Arc<Inbox>,
    attestor: Arc<Attestor>,
    /// Users who are served on loopback.
    enforcers: Arc<[u32]>,
}

/// A connection that is open, until this is dropped: what hangs on it hears that.
struct Open {
    inbox: Arc<Inbox>,
    number: u64,
}

impl Open {
    fn new(inbox: Arc<Inbox>) -> Self {
        let number = inbox.opened();
        Self { inbox, number }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.inbox.closed(self.number);
    }
}

impl Server {
    async fn accept(self, listener: Listener, stop: watch::Receiver<bool>) {
        let server = Arc::new(self);
        let mut connections = JoinSet::new();
        let mut stopping = std::pin::pin!(asked(stop.clone()));
        loop {
            tokio::select! {
                () = &mut stopping => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(&server.unattributed) => match accepted {
                    Ok(Stream::Unix(stream)) => server.clone().admit(stream, &mut connections, &stop),
                    Ok(Stream::Loopback(somebodys)) => server.clone().find_out(somebodys, &mut connections, &stop),
                    Err(error) => {
                        // Out of descriptors or memory: it does not get better by asking again at once.
                        tracing::warn!(event = "api.accept", %error);
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(listener);
        let finish = async { while connections.join_next().await.is_some() {} };
        // What hangs longer is cut off when the set is dropped.
        let _ = tokio::time::timeout(FAREWELL, finish).await;
    }

    fn admit(self: Arc<Self>, stream: UnixStream, connections: &mut JoinSet<()>, stop: &watch::Receiver<bool>) {
        let Ok(caller) = Caller::of(&stream, self.socket) else { return };
        let held = match self.socket {
            // Their places are their own, though programs of the same user have all that a user may have elsewhere.
            Socket::Admin => Ok(None),
            Socket::Agent | Socket::Pep => self.gate.connection(caller.uid, clock::now().boottime).map(Some),
        };
        let write = |answer: &[u8]| stream.try_write(answer);
        match (held, self.slots.clone().try_acquire_owned()) {
            (Ok(permit), Ok(slot)) => {
                let stop = stop.clone();
                connections.spawn(async move {
                    self.attend(stream, caller, stop).await;
                    drop((permit, slot));
                });
            }
            (Err(refusal), _) => self.turn_away(write, refusal.into()),
            (Ok(_), Err(_)) => self.turn_away(write, HttpProblem::queue_full()),
        }
    }

    /// Whose a connection on loopback is, is read of a table, before anything of it is. Until then it has none of the places
    /// that are for everybody, and whoever is not served there never has one.
    fn find_out(self: Arc<Self>, somebodys: Unattributed, connections: &mut JoinSet<()>, stop: &watch::Receiver<bool>) {
        let Unattributed { stream, peer, place } = somebodys;
        let stop = stop.clone();
        connections.spawn(async move {
            let Some(uid) = owner(&stream, peer).await else {
                self.dismiss(stream, HttpProblem::not_an_enforcer(None)).await;
                return drop(place);
            };
            // From here on it is a part of its user's share, whoever that is.
            let permit = match self.gate.connection(uid, clock::now().boottime) {
                Ok(permit) => permit,
                Err(refusal) => return self.turn_away(|answer| stream.try_write(answer), refusal.into()),
            };
            drop(place);
            let is_known = self.enforcers.contains(&uid);
            match is_known.then(|| self.slots.clone().try_acquire_owned()) {
                Some(Ok(slot)) => {
                    self.attend(stream, Caller::user(uid, Socket::Pep), stop).await;
                    drop(slot);
                }
                Some(Err(_)) => self.dismiss(stream, HttpProblem::queue_full()).await,
                None => self.dismiss(stream, HttpProblem::not_an_enforcer(Some(uid))).await,
            }
            drop(permit);
        });
    }

    /// Says no, and takes what was sent meanwhile.
    async fn dismiss(&self, stream: TcpStream, problem: HttpProblem) {
        self.turn_away(|answer| stream.try_write(answer), problem);
        read_away(stream).await;
    }

    async fn attend<S>(self: Arc<Self>, stream: S, caller: Caller, stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let open = Open::new(self.inbox.clone());
        let (attestor, number) = (self.attestor.clone(), open.number);
        // It reads files, and may hash one.
        let reading = tokio::task::spawn_blocking(move || attestor.attest(caller, number));
        if let Ok(attested) = reading.await {
            self.serve(stream, Arc::new(attested), stop).await;
        }
    }

    async fn serve<S>(self: Arc<Self>, stream: S, peer: Arc<Attested>, stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let patience = Duration::from_millis(self.limits.read_ms);
        let server = self.clone();
        let (stream, heads) = framing::watch(stream);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let (server, peer, clear) = (server.clone(), peer.clone(), heads.next(&request));
            async move {
                let id = enforce::request_id(request.uri().path(), request.headers());
                let answer = server.respond(request, clear, peer).await;
                Ok::<_, std::convert::Infallible>(enforce::under_its_name(id, answer))
            }
        });
        let head_max = self.limits.header_bytes_max.saturating_add(HEAD_SLACK);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience)
            .max_header_size(head_max)
            // What was read of a body may be in the buffer behind the head.
            .max_buf_size(head_max.saturating_add(HEAD_SLACK))
            .half_close(true)
            .serve_connection(TokioIo::new(StallGuard::new(stream, patience)), service);
        let mut connection = std::pin::pin!(connection);
        // A connection that ends badly is the client's affair: there is nobody left to tell.
        tokio::select! {
            _ = connection.as_mut() => return,
            () = asked(stop) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }

    async fn respond(
        &self,
        mut request: hyper::Request<Incoming>,
        clear: Result<(), HttpProblem>,
        peer: Arc<Attested>,
    ) -> Response {
        let proxys = enforce::is_proxys(request.uri().path());
        let refused = |problem: HttpProblem| match self.socket {
            Socket::Pep if proxys => enforce::unanswered(&problem),
            Socket::Admin | Socket::Agent | Socket::Pep => problem.into_response(),
        };
        if head_bytes(&request) > self.limits.header_bytes_max {
            return refused(HttpProblem::headers_too_large(self.limits.header_bytes_max));
        }
        let meant = || self.own.map_or(Ok(()), |own| loopback::guard(request.headers(), own, proxys));
        if let Err(problem) = clear.and_then(|()| meant()) {
            return refused(problem);
        }
        let _permit = match self.gate.request(peer.uid(), clock::now().boottime) {
            Ok(permit) => permit,
            Err(refusal) => return refused(refusal.into()),
        };
        request.extensions_mut().insert(peer);
        let answered = self.router.clone().oneshot(request.map(axum::body::Body::new)).await;
        answered.unwrap_or_else(|never| match never {})
    }

    /// Says no to a connection that is one too many, without waiting for anything. A proxy understands no status but 403.
    fn turn_away(&self, write: impl FnOnce(&[u8]) -> io::Result<usize>, problem: HttpProblem) {
        let problem = match self.socket {
            Socket::Pep => HttpProblem { status: StatusCode::FORBIDDEN, ..problem },
            Socket::Admin | Socket::Agent => problem,
        };
        let body = problem.to_json();
        let answer = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\nretry-after: 1\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            problem.status,
            body.len()
        );
        // A fresh socket has room for it; where it has not, closing says enough.
        let _ = write(answer.as_bytes());
    }
}

/// The user at the other end, as far as the kernel names one.
async fn owner(stream: &TcpStream, peer: SocketAddr) -> Option<u32> {
    let own = stream.local_addr().ok()?;
    let reading = tokio::task::spawn_blocking(move || loopback::owner(own, peer)).await.ok()?;
    reading.unwrap_or_else(|error| {
        tracing::warn!(event = "api.owner", %error);
        None
    })
}

/// What is closed over unread bytes is reset, and the answer in front of them lost.
async fn read_away(mut stream: TcpStream) {
    let mut thrown_away = [0; 4096];
    let reading = async {
        stream.shutdown().await?;
        while stream.read(&mut thrown_away).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    // Who goes on sending, or is gone, has had his answer.
    let _ = tokio::time::timeout(READ_AWAY, reading).await;
}

/// Returns once `stop` is true, or whoever could make it true is gone.
async fn asked(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// About what the head took on the wire.
fn head_bytes(request: &hyper::Request<Incoming>) -> usize {
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    request.uri().path_and_query().map_or(0, |path| path.as_str().len()) + fields.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn nobody_connects_before_the_modes_are_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let fd = closed(&path, None, 0o660).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
        let early = std::os::unix::net::UnixStream::connect(&path).unwrap_err();
        assert_eq!(early.kind(), io::ErrorKind::ConnectionRefused);
        rustix::net::listen(&fd, BACKLOG).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
    }
}
