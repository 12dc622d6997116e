//! A broker of the tests' own that does to one device whatever a broker can do: MQTT 5 on a real socket.
//!
//! Owns: the packets, what is retained, what the device is subscribed to; what is not told to whom.
//! Never: knows what a message means. `site.rs` does.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};

/// What the device said and what is answered: topic and payload.
pub(super) type Message = (String, Vec<u8>);
/// Whoever hears the device.
type Ear = dyn FnMut(&str, &[u8]) -> Vec<Message> + Send;

/// Messages that a device is sent without its acknowledgement.
const IN_FLIGHT_MAX: usize = 32;

/// The broker.
#[derive(Clone)]
pub(super) struct Broker {
    state: Arc<Mutex<State>>,
    pub(super) port: u16,
}

struct State {
    retained: BTreeMap<String, Vec<u8>>,
    /// What the device is read is not what is kept.
    shown: Option<BTreeMap<String, Vec<u8>>>,
    peer: Option<Peer>,
    ear: Box<Ear>,
    /// What the device subscribed to since the last look.
    asked: Vec<String>,
    /// What an honest broker has passed on to it.
    passed: Vec<Message>,
}

/// The device's connection.
struct Peer {
    stream: TcpStream,
    filters: Vec<String>,
    waiting: VecDeque<Message>,
    in_flight: usize,
    next_id: u16,
}

impl Broker {
    /// Listens on a free port. `ear` hears each message of the device.
    pub(super) fn start(ear: impl FnMut(&str, &[u8]) -> Vec<Message> + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State {
            retained: BTreeMap::new(),
            shown: None,
            peer: None,
            ear: Box::new(ear),
            asked: Vec::new(),
            passed: Vec::new(),
        };
        let broker = Self { state: Arc::new(Mutex::new(state)), port };
        let serving = broker.clone();
        std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| serving.serve(stream)));
        broker
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// What an honest broker does with a retained message: keeps it, and passes it on to whoever subscribed.
    pub(super) fn publish(&self, (topic, payload): Message) {
        let mut state = self.state();
        state.retained.insert(topic.clone(), payload.clone());
        state.pass_on(topic, payload);
    }

    /// Keeps a retained message and passes nothing on.
    pub(super) fn keep(&self, (topic, payload): Message) {
        self.state().retained.insert(topic, payload);
    }

    /// Says something to the device, whether it is subscribed to that or not.
    pub(super) fn say(&self, message: Message) {
        let mut state = self.state();
        let Some(peer) = &mut state.peer else { return };
        peer.waiting.push_back(message);
        peer.flush();
    }

    /// What is retained.
    pub(super) fn retained(&self) -> BTreeMap<String, Vec<u8>> {
        self.state().retained.clone()
    }

    /// What is retained is lost, where `lost` holds.
    pub(super) fn forget(&self, lost: impl Fn(&str) -> bool) {
        self.state().retained.retain(|topic, _| !lost(topic));
    }

    /// The device is shown these as what is retained, until [`Broker::show_all`].
    pub(super) fn show(&self, retained: BTreeMap<String, Vec<u8>>) {
        self.state().shown = Some(retained);
    }

    /// The device is shown what is retained.
    pub(super) fn show_all(&self) {
        self.state().shown = None;
    }

    /// What the device has subscribed to since the last look.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state().asked)
    }

    /// All that the device was ever sent, but for what a hostile broker said.
    pub(super) fn passed(&self) -> Vec<Message> {
        self.state().passed.clone()
    }

    /// Hangs up.
    pub(super) fn cut(&self) {
        if let Some(peer) = self.state().peer.take() {
            let _ = peer.stream.shutdown(Shutdown::Both);
        }
    }

    /// One connection to its end.
    fn serve(&self, mut stream: TcpStream) {
        let Ok(writer) = stream.try_clone() else { return };
        let peer = Peer { stream: writer, filters: Vec::new(), waiting: VecDeque::new(), in_flight: 0, next_id: 0 };
        self.state().peer = Some(peer);
        while let Some((kind, body)) = packet(&mut stream) {
            let mut state = self.state();
            let Some(()) = state.take(kind, &body) else { break };
        }
        self.cut();
    }
}

impl State {
    fn pass_on(&mut self, topic: String, payload: Vec<u8>) {
        let Some(peer) = &mut self.peer else { return };
        if peer.filters.iter().any(|filter| fits(filter, &topic)) {
            self.passed.push((topic.clone(), payload.clone()));
            peer.waiting.push_back((topic, payload));
            peer.flush();
        }
    }

    /// A packet of the device. None ends the connection.
    fn take(&mut self, kind: u8, body: &[u8]) -> Option<()> {
        match kind >> 4 {
            1 => self.answer(&[0x20, 3, 0, 0, 0]),
            3 => {
                let qos = kind >> 1 & 3;
                let (topic, rest) = text(body)?;
                let (id, rest) = if qos > 0 { rest.split_at_checked(2)? } else { (&[][..], rest) };
                let payload = properties(rest)?;
                if qos > 0 {
                    self.answer(&[0x40, 2, id[0], id[1]])?;
                }
                for (topic, payload) in (self.ear)(&topic, payload) {
                    self.pass_on(topic, payload);
                }
                Some(())
            }
            4 => {
                let peer = self.peer.as_mut()?;
                peer.in_flight = peer.in_flight.saturating_sub(1);
                peer.flush();
                Some(())
            }
            8 => {
                let (id, rest) = body.split_at_checked(2)?;
                let filters = filters(properties(rest)?, 1)?;
                let codes = vec![1; filters.len()];
                self.answer(&framed(0x90, &[id, &[0], &codes].concat()))?;
                self.subscribed(filters)
            }
            10 => {
                let (id, rest) = body.split_at_checked(2)?;
                let left = filters(properties(rest)?, 0)?;
                let codes = vec![0; left.len()];
                self.peer.as_mut()?.filters.retain(|filter| !left.contains(filter));
                self.answer(&framed(0xb0, &[id, &[0], &codes].concat()))
            }
            12 => self.answer(&[0xd0, 0]),
            _ => None,
        }
    }

    fn subscribed(&mut self, filters: Vec<String>) -> Option<()> {
        let peer = self.peer.as_mut()?;
        let kept = self.shown.as_ref().unwrap_or(&self.retained);
        for filter in &filters {
            for (topic, payload) in kept.iter().filter(|(topic, _)| fits(filter, topic)) {
                self.passed.push((topic.clone(), payload.clone()));
                peer.waiting.push_back((topic.clone(), payload.clone()));
            }
        }
        self.asked.extend(filters.iter().cloned());
        peer.filters.extend(filters);
        peer.flush();
        Some(())
    }

    fn answer(&mut self, bytes: &[u8]) -> Option<()> {
        self.peer.as_mut()?.stream.write_all(bytes).ok()
    }
}

impl Peer {
    /// Sends what waits, as far as the device has room.
    fn flush(&mut self) {
        while self.in_flight < IN_FLIGHT_MAX {
            let Some((topic, payload)) = self.waiting.pop_front() else { return };
            self.next_id = self.next_id % u16::MAX + 1;
            let length = u16::try_from(topic.len()).unwrap().to_be_bytes();
            let id = self.next_id.to_be_bytes();
            let body = [&length, topic.as_bytes(), &id, &[0], &payload].concat();
            // Whoever hung up is heard of where he is read.
            let _ = self.stream.write_all(&framed(0x32, &body));
            self.in_flight += 1;
        }
    }
}

/// A packet with its length.
fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    let mut length = body.len();
    loop {
        let more = length > 0x7f;
        bytes.push((length & 0x7f) as u8 | u8::from(more) << 7);
        length >>= 7;
        if !more {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

/// The next packet: its first byte and what follows its length. None at the end of the connection.
fn packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut byte = [0];
    stream.read_exact(&mut byte).ok()?;
    let kind = byte[0];
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        stream.read_exact(&mut byte).ok()?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((kind, body))
}

/// A text and what follows it.
fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (text, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((String::from_utf8(text.to_vec()).ok()?, rest))
}

/// What follows the properties, of which this broker wants none to be long.
fn properties(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first()?;
    rest.get(usize::from(*length)..)
}

/// Filters, each with `options` bytes after it.
fn filters(mut bytes: &[u8], options: usize) -> Option<Vec<String>> {
    let mut filters = Vec::new();
    while !bytes.is_empty() {
        let (filter, rest) = text(bytes)?;
        filters.push(filter);
        bytes = rest.get(options..)?;
    }
    Some(filters)
}

/// Whether a topic fits a filter, of which these have no `#`.
fn fits(filter: &str, topic: &str) -> bool {
    let mut topics = topic.split('/');
    let same = filter.split('/').all(|part| topics.next().is_some_and(|own| part == "+" || part == own));
    same && topics.next().is_none()
}
