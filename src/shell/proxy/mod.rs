//! A TCP proxy that breaks links on purpose and notes what passes.
//!
//! Owns: [`Proxy`]: cut, half-open, stalled, slow and healed links in front of one server; the log of MQTT packets that passed.
//! Never: changes, repeats or reorders a byte. Never in a build that is shipped.
//! Read next: `packets.rs`, which finds the packets in the bytes.

mod packets;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use packets::PacketKind;
use packets::Packets;

use super::clock;
use crate::time::Millis;

/// The most packets that the log keeps; the oldest go first.
const LOG_MAX: usize = 100_000;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// Which directions of a link do not work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Swallow {
    /// What the client says does not arrive.
    Up,
    /// What the server says does not arrive.
    Down,
    /// Neither hears the other.
    Both,
}

impl Swallow {
    fn takes(self, direction: Direction) -> bool {
        match self {
            Self::Up => direction == Direction::Up,
            Self::Down => direction == Direction::Down,
            Self::Both => true,
        }
    }
}

/// A packet that passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Passed {
    /// CLOCK_BOOTTIME when it was complete, and passed on.
    pub at: Millis,
    /// Which connection, counted from 1.
    pub connection: u64,
    /// The client id of the connection, empty before it was said.
    pub client: String,
    /// Which way.
    pub direction: Direction,
    /// What.
    pub kind: PacketKind,
    /// Of a PUBLISH its topic, of a SUBSCRIBE its filters.
    pub topics: Vec<String>,
    /// All its bytes.
    pub bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Weather {
    Fair,
    Cut,
    HalfOpen(Swallow),
    Stalled(Swallow),
}

#[derive(Clone, Copy, Debug)]
struct State {
    weather: Weather,
    /// How long each piece of bytes waits, upwards and downwards.
    delay: (Duration, Duration),
    /// Connections up to this one swallow everything, whatever the weather.
    stranded: u64,
    /// Rises with each cut: connections from before are closed, however short it was.
    cuts: u64,
}

/// A proxy in front of one server, on a port of its own on the loopback interface.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    state: watch::Sender<State>,
    /// How many connections there were.
    count: Arc<AtomicU64>,
    log: Arc<Mutex<VecDeque<Passed>>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy that lets everything pass to `upstream`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Those of binding a port.
    pub async fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let fair = State { weather: Weather::Fair, delay: (Duration::ZERO, Duration::ZERO), stranded: 0, cuts: 0 };
        let (state, watched) = watch::channel(fair);
        let (log, count) = (Arc::new(Mutex::new(VecDeque::new())), Arc::new(AtomicU64::new(0)));
        let accepting = tokio::spawn(accept(listener, upstream, watched, Arc::clone(&count), Arc::clone(&log)));
        Ok(Self { addr, state, count, log, accepting })
    }

    /// Where clients connect to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes every connection, and each new one at once.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            state.weather = Weather::Cut;
            state.cuts += 1;
        });
    }

    /// Keeps connections open and takes new ones, but bytes of the directions named vanish, and so does the end of a
    /// connection.
    pub fn half_open(&self, swallow: Swallow) {
        self.state.send_modify(|state| state.weather = Weather::HalfOpen(swallow));
    }

    /// Keeps connections open and takes new ones, but nothing of the directions named goes through: it waits until it can, as
    /// under TCP, and so does the end of a connection. Who gave up before the server heard of him was never there.
    pub fn stall(&self, ways: Swallow) {
        self.state.send_modify(|state| state.weather = Weather::Stalled(ways));
    }

    /// Every connection that is open now swallows everything from now on, and nobody is told. New ones are as the weather is.
    pub fn strand(&self) {
        let count = self.count.load(Ordering::Acquire);
        self.state.send_modify(|state| state.stranded = count);
    }

    /// Lets everything pass again. A connection that lost bytes is closed: nothing could make sense of the rest.
    pub fn heal(&self) {
        self.state.send_modify(|state| state.weather = Weather::Fair);
    }

    /// Makes each piece of bytes wait for so long from now on, upwards and downwards. What comes meanwhile waits behind it, and
    /// then is a piece.
    pub fn delay(&self, up: Duration, down: Duration) {
        self.state.send_modify(|state| state.delay = (up, down));
    }

    /// The packets that passed, in order. Of connections that are not plain MQTT there are none.
    pub fn log(&self) -> Vec<Passed> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    state: watch::Receiver<State>,
    count: Arc<AtomicU64>,
    log: Arc<Mutex<VecDeque<Passed>>>,
) {
    let mut open = JoinSet::new();
    loop {
        while open.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors: some will be given back.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if state.borrow().weather == Weather::Cut {
            continue;
        }
        let number = count.fetch_add(1, Ordering::AcqRel) + 1;
        open.spawn(carry(client, upstream, number, state.clone(), Arc::clone(&log)));
    }
}

/// What both directions of a connection know of it.
#[derive(Clone)]
struct Trip {
    connection: u64,
    client: Arc<Mutex<String>>,
    cuts: u64,
    state: watch::Receiver<State>,
    log: Arc<Mutex<VecDeque<Passed>>>,
}

/// Carries one connection to its end. When either direction fails, both sockets are dropped.
async fn carry(
    client: TcpStream,
    upstream: SocketAddr,
    connection: u64,
    mut state: watch::Receiver<State>,
    log: Arc<Mutex<VecDeque<Passed>>>,
) -> io::Result<()> {
    arrive(&client, &mut state).await?;
    let server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let cuts = state.borrow().cuts;
    let trip = Trip { connection, client: Arc::default(), cuts, state, log };
    tokio::try_join!(
        pass(from_client, to_server, Direction::Up, trip.clone()),
        pass(from_server, to_client, Direction::Down, trip),
    )?;
    Ok(())
}

fn over() -> io::Error {
    io::ErrorKind::ConnectionAborted.into()
}

/// Waits until a client that came while nothing went up can be heard, if it has not given up by then.
async fn arrive(client: &TcpStream, state: &mut watch::Receiver<State>) -> io::Result<()> {
    let stalls = |state: &State| match state.weather {
        Weather::Stalled(ways) => ways.takes(Direction::Up),
        Weather::Cut | Weather::Fair | Weather::HalfOpen(_) => false,
    };
    if !stalls(&state.borrow()) {
        return Ok(());
    }
    state.wait_for(|state| !stalls(state)).await.map_err(|_| over())?;
    // What it said still waits here, and so its end can only be seen behind that.
    if client.ready(Interest::READABLE).await?.is_read_closed() {
        return Err(over());
    }
    Ok(())
}

/// Carries one direction until it ends, or the connection must.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, direction: Direction, mut trip: Trip) -> io::Result<()> {
    let mut packets = Packets::new(direction);
    let mut chunk = vec![0; CHUNK];
    // Bytes, or the end of the connection, were swallowed.
    let mut torn = false;
    let mut ended = false;
    loop {
        let now = *trip.state.borrow_and_update();
        let stranded = trip.connection <= now.stranded;
        let (swallows, stalls) = match now.weather {
            Weather::Cut => return Err(over()),
            Weather::Fair => (stranded, false),
            Weather::HalfOpen(swallow) => (stranded || swallow.takes(direction), false),
            Weather::Stalled(ways) => (stranded, ways.takes(direction)),
        };
        if now.cuts != trip.cuts || (torn && !swallows) {
            return Err(over());
        }
        let read = tokio::select! {
            biased;
            changed = trip.state.changed() => {
                changed.map_err(|_| over())?;
                continue;
            }
            // What is stalled waits at its sender.
            read = from.read(&mut chunk), if !ended && (swallows || !stalls) => read,
        };
        let bytes = match read {
            Ok(0) | Err(_) if swallows => {
                torn = true;
                ended = true;
                continue;
            }
            Ok(0) => return to.shutdown().await,
            Ok(count) => &chunk[..count],
            Err(error) => return Err(error),
        };
        if swallows {
            torn = true;
            continue;
        }
        let delay = match direction {
            Direction::Up => now.delay.0,
            Direction::Down => now.delay.1,
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let then = trip.state.borrow().weather;
        // Bytes that were on their way when it stalled arrive, as if they had been a moment earlier.
        let passes = matches!(then, Weather::Fair | Weather::Stalled(_)) || then == now.weather;
        if passes && trip.connection > trip.state.borrow().stranded {
            // Before it is there: whoever has it finds it in the log.
            note(&trip, direction, packets.feed(bytes));
            to.write_all(bytes).await?;
        } else {
            // It changed while they waited.
            torn = true;
        }
    }
}

fn note(trip: &Trip, direction: Direction, found: Vec<packets::Found>) {
    let at = clock::now().boottime;
    for packet in found {
        let client = {
            let mut client = trip.client.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(id) = packet.client {
                *client = id;
            }
            client.clone()
        };
        let mut log = trip.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == LOG_MAX {
            log.pop_front();
        }
        log.push_back(Passed {
            at,
            connection: trip.connection,
            client,
            direction,
            kind: packet.kind,
            topics: packet.topics,
            bytes: packet.bytes,
        });
    }
}
