//! Links between gateways and broker, and the connections over them.
//!
//! Owns: what goes through in which direction, how long it takes, what is stuck, what a half-open connection swallows.
//! Of what slows a direction down the slowest counts.
//! As under TCP nothing is lost, doubled or swapped while a connection lives; what is stuck arrives when it goes through
//! again, unless either end gave up before.
//! Never: reads a message.
//! Read next: `broker.rs`, which does.

use std::collections::{BTreeMap, VecDeque};

use hardtack::ids::EraId;
use rand_chacha::ChaCha8Rng;

use crate::fault::Direction;
use crate::plan::Turn;
use crate::random::{between, stream};

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Broker,
    Device,
}

impl End {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Broker => Self::Device,
            Self::Device => Self::Broker,
        }
    }
}

/// What goes over a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    /// CONNECT and SUBSCRIBE: filters in order, topic and payload of the retained last will if there is one.
    Connect { filters: Vec<String>, will: Option<(String, Vec<u8>)> },
    /// SUBSCRIBE to places beside those of the connection, UNSUBSCRIBE from others.
    Read { places: Vec<String>, left: Vec<String> },
    /// CONNACK and SUBACK.
    Accepted,
    /// PUBLISH, QoS 1.
    Publish { topic: String, payload: Vec<u8>, retain: Retain },
    /// PUBACK. Which audit segment it is for is told where a planted bug takes that for a delivery.
    Acknowledged { segment: Option<(EraId, u64)> },
    /// The other end closed the socket.
    Closed,
    /// DISCONNECT: the last will is not to be published. Only the wire level says it.
    Leaving,
    /// Some of what an end wrote, where bytes go over links.
    Bytes(Vec<u8>),
}

/// Whether a broker keeps the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retain {
    No,
    Yes,
}

/// Names a connection.
pub(crate) type ConnId = u64;

#[derive(Debug)]
struct Link {
    /// How many faults block each direction now.
    blocked_up: u32,
    blocked_down: u32,
    /// What slows it down now, in the order in which that began.
    slow: Vec<Slow>,
    latency: (u64, u64),
    rng: ChaCha8Rng,
}

/// Something that makes a direction slower.
#[derive(Debug)]
struct Slow {
    direction: Direction,
    by: u64,
    /// Something was later for it.
    felt: bool,
}

#[derive(Debug, Default)]
struct Lane {
    stuck: VecDeque<Packet>,
    last_arrival: u64,
}

#[derive(Debug)]
struct Conn {
    device: u32,
    broker_open: bool,
    device_open: bool,
    /// Everything is swallowed.
    half_open: bool,
    /// Something of it arrived at the broker: before that there is no connection, only an attempt.
    reached: bool,
    /// Rises with each change of what goes through, so that a keep-alive knows that nothing changed since.
    mark: u64,
    to_broker: Lane,
    to_device: Lane,
}

/// All links.
#[derive(Debug)]
pub(crate) struct Network {
    links: Vec<Link>,
    conns: BTreeMap<ConnId, Conn>,
    next: ConnId,
    /// How many of what slows links down was felt for the first time since somebody asked.
    felt: u64,
}

impl Network {
    pub(crate) fn new(seed: u64, devices: u32, latency: (u64, u64)) -> Self {
        let link = |device: u32| Link {
            blocked_up: 0,
            blocked_down: 0,
            slow: Vec::new(),
            latency,
            rng: stream(seed, &format!("gw-{device}"), "latency"),
        };
        Self { links: (0..devices).map(link).collect(), conns: BTreeMap::new(), next: 0, felt: 0 }
    }

    /// From now on latencies are drawn with another seed.
    pub(crate) fn draw_anew(&mut self, seed: u64) {
        for (device, link) in self.links.iter_mut().enumerate() {
            link.rng = stream(seed, &format!("gw-{device}"), "latency");
        }
    }

    /// A gateway opens a socket.
    pub(crate) fn open(&mut self, device: u32) -> ConnId {
        self.next += 1;
        let conn = Conn {
            device,
            broker_open: true,
            device_open: true,
            half_open: false,
            reached: false,
            mark: 0,
            to_broker: Lane::default(),
            to_device: Lane::default(),
        };
        self.conns.insert(self.next, conn);
        self.next
    }

    /// Sends a packet: when it will be at the other end, if the sender's socket is open.
    pub(crate) fn send(&mut self, id: ConnId, to: End, now: u64) -> Option<u64> {
        let conn = self.conns.get(&id)?;
        let open = match to {
            End::Broker => conn.device_open,
            End::Device => conn.broker_open,
        };
        open.then(|| self.arrival(id, to, now))
    }

    /// When a packet that sets out now will be at the other end: never before one that set out earlier.
    pub(crate) fn arrival(&mut self, id: ConnId, to: End, now: u64) -> u64 {
        let Some(conn) = self.conns.get_mut(&id) else { return now };
        let link = &mut self.links[conn.device as usize];
        let drawn = now + between(&mut link.rng, link.latency.0, link.latency.1);
        let goes = !conn.half_open && !link.blocks(to);
        let lane = conn.lane(to);
        let in_time = lane.last_arrival.max(drawn);
        lane.last_arrival = in_time.max(drawn + link.slower_by(to));
        if goes && lane.last_arrival > in_time {
            self.felt += link.feel(to);
        }
        lane.last_arrival
    }

    /// Something slows a direction down, or does no longer.
    pub(crate) fn slow(&mut self, device: u32, direction: Direction, by: u64, turn: Turn) {
        let slow = &mut self.links[device as usize].slow;
        match turn {
            Turn::Begins => slow.push(Slow { direction, by, felt: false }),
            Turn::Ends => {
                // Whoever wrote the plan by hand may have said another number at the end.
                let like = slow.iter().position(|slow| (slow.direction, slow.by) == (direction, by));
                let like = like.or_else(|| slow.iter().position(|slow| slow.direction == direction));
                if let Some(place) = like {
                    slow.remove(place);
                }
            }
        }
    }

    /// How many of what slows links down was felt for the first time since this was asked last.
    pub(crate) fn newly_felt(&mut self) -> u64 {
        std::mem::take(&mut self.felt)
    }

    /// Whether everything goes through from a gateway and to it, as soon as it should.
    pub(crate) fn is_clear(&self, device: u32) -> bool {
        self.passes(device) == (true, true) && self.links[device as usize].slow.is_empty()
    }

    /// A packet would arrive now: it does, or it is stuck, or swallowed.
    pub(crate) fn arrive(&mut self, id: ConnId, to: End, packet: Packet) -> Option<Packet> {
        let conn = self.conns.get_mut(&id)?;
        let open = match to {
            End::Broker => conn.broker_open,
            End::Device => conn.device_open,
        };
        if conn.half_open || !open {
            return None;
        }
        if self.links[conn.device as usize].blocks(to) || !conn.lane(to).stuck.is_empty() {
            conn.lane(to).stuck.push_back(packet);
            return None;
        }
        conn.reached |= to == End::Broker;
        Some(packet)
    }

    /// Whether something goes through from a gateway, and to it.
    pub(crate) fn passes(&self, device: u32) -> (bool, bool) {
        let link = &self.links[device as usize];
        (!link.blocks(End::Broker), !link.blocks(End::Device))
    }

    /// A direction of a link is blocked, by one fault more.
    pub(crate) fn block(&mut self, device: u32, direction: Direction) {
        self.links[device as usize].count(direction, |count| count + 1);
        self.touch(device);
    }

    /// A fault ends: the connections of the gateway with what is stuck and goes through again.
    pub(crate) fn unblock(&mut self, device: u32, direction: Direction) -> Vec<(ConnId, End)> {
        self.links[device as usize].count(direction, |count| count.saturating_sub(1));
        self.touch(device);
        let mut free = Vec::new();
        for to in [End::Broker, End::Device] {
            if !self.links[device as usize].blocks(to) {
                let of_device = self.conns.iter_mut().filter(|(_, conn)| conn.device == device);
                let stuck = of_device.filter_map(|(id, conn)| (!conn.lane(to).stuck.is_empty()).then_some(*id));
                free.extend(stuck.map(|id| (id, to)));
            }
        }
        free
    }

    /// What is stuck arrives, in order and before anything that was sent later, if it still goes through.
    pub(crate) fn flush(&mut self, id: ConnId, to: End) -> Vec<Packet> {
        let Some(conn) = self.conns.get_mut(&id) else { return Vec::new() };
        if self.links[conn.device as usize].blocks(to) {
            return Vec::new();
        }
        std::mem::take(&mut conn.lane(to).stuck).into()
    }

    /// Open connections of a gateway swallow everything from now on.
    pub(crate) fn half_open(&mut self, device: u32) {
        for conn in self.conns.values_mut().filter(|conn| conn.device == device) {
            conn.half_open = true;
        }
        self.touch(device);
    }

    /// Connections of a gateway that do not work as they should, with the mark that a keep-alive compares later.
    pub(crate) fn impaired(&self, device: u32) -> Vec<(ConnId, u64)> {
        let of_device = self.conns.iter().filter(|(_, conn)| conn.device == device);
        of_device.filter(|(_, conn)| self.is_impaired(conn)).map(|(id, conn)| (*id, conn.mark)).collect()
    }

    /// Whether an end of a connection is open.
    pub(crate) fn is_open(&self, id: ConnId, end: End) -> bool {
        self.conns.get(&id).is_some_and(|conn| match end {
            End::Broker => conn.broker_open,
            End::Device => conn.device_open,
        })
    }

    /// Whether a connection has been impaired since `mark` without a change.
    pub(crate) fn still_impaired(&self, id: ConnId, mark: u64) -> bool {
        self.conns.get(&id).is_some_and(|conn| conn.mark == mark && self.is_impaired(conn))
    }

    fn is_impaired(&self, conn: &Conn) -> bool {
        let link = &self.links[conn.device as usize];
        conn.half_open || !conn.broker_open || !conn.device_open || link.blocks(End::Broker) || link.blocks(End::Device)
    }

    /// One end gives its socket up. Whether it was open.
    pub(crate) fn close(&mut self, id: ConnId, end: End) -> bool {
        let Some(conn) = self.conns.get_mut(&id) else { return false };
        let open = match end {
            End::Broker => std::mem::replace(&mut conn.broker_open, false),
            End::Device => std::mem::replace(&mut conn.device_open, false),
        };
        // The other end's patience runs on: it is not told, and heard nothing before that either.
        let attempt_given_up = end == End::Device && !conn.reached;
        if attempt_given_up || (!conn.broker_open && !conn.device_open) {
            self.conns.remove(&id);
        }
        open
    }

    /// The gateway of a connection.
    pub(crate) fn device_of(&self, id: ConnId) -> Option<u32> {
        self.conns.get(&id).map(|conn| conn.device)
    }

    fn touch(&mut self, device: u32) {
        self.conns.values_mut().filter(|conn| conn.device == device).for_each(|conn| conn.mark += 1);
    }
}

impl Conn {
    fn lane(&mut self, to: End) -> &mut Lane {
        match to {
            End::Broker => &mut self.to_broker,
            End::Device => &mut self.to_device,
        }
    }
}

impl Link {
    fn blocks(&self, to: End) -> bool {
        match to {
            End::Broker => self.blocked_up > 0,
            End::Device => self.blocked_down > 0,
        }
    }

    fn slower(&mut self, to: End) -> impl Iterator<Item = &mut Slow> {
        self.slow.iter_mut().filter(move |slow| match (to, slow.direction.ways()) {
            (End::Broker, (up, _)) => up,
            (End::Device, (_, down)) => down,
        })
    }

    fn slower_by(&mut self, to: End) -> u64 {
        self.slower(to).map(|slow| slow.by).max().unwrap_or(0)
    }

    /// Something is later: how many of what makes it so had not been felt before.
    fn feel(&mut self, to: End) -> u64 {
        let most = self.slower_by(to);
        let new = self.slower(to).filter(|slow| slow.by == most && !slow.felt);
        new.map(|slow| slow.felt = true).count() as u64
    }

    fn count(&mut self, direction: Direction, change: impl Fn(u32) -> u32) {
        match direction {
            Direction::Both => {
                self.blocked_up = change(self.blocked_up);
                self.blocked_down = change(self.blocked_down);
            }
            Direction::Down => self.blocked_down = change(self.blocked_down),
            Direction::Up => self.blocked_up = change(self.blocked_up),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> (Network, ConnId) {
        let mut network = Network::new(1, 1, (10, 50));
        let conn = network.open(0);
        (network, conn)
    }

    fn note(number: u8) -> Packet {
        Packet::Publish { topic: "t".into(), payload: vec![number], retain: Retain::No }
    }

    #[test]
    fn packets_of_one_connection_never_overtake() {
        let (mut network, conn) = network();
        let arrivals: Vec<u64> = (0..50).map(|now| network.send(conn, End::Broker, now).unwrap()).collect();
        assert!(arrivals.windows(2).all(|pair| pair[0] <= pair[1]));
    }

    #[test]
    fn one_way_blocks_one_way_and_what_is_stuck_comes_in_order() {
        let (mut network, conn) = network();
        network.block(0, Direction::Up);
        assert_eq!(network.arrive(conn, End::Broker, note(1)), None);
        assert_eq!(network.arrive(conn, End::Broker, note(2)), None);
        assert_eq!(network.arrive(conn, End::Device, note(3)), Some(note(3)));
        assert_eq!(network.unblock(0, Direction::Up), vec![(conn, End::Broker)]);
        assert_eq!(network.arrive(conn, End::Broker, note(4)), None, "behind what is stuck");
        assert_eq!(network.flush(conn, End::Broker), vec![note(1), note(2), note(4)]);
        assert_eq!(network.arrive(conn, End::Broker, note(5)), Some(note(5)));
    }

    #[test]
    fn of_what_slows_a_direction_down_the_slowest_counts_and_order_stays() {
        let (mut network, conn) = network();
        network.slow(0, Direction::Up, 1000, Turn::Begins);
        network.slow(0, Direction::Both, 400, Turn::Begins);
        let up = network.send(conn, End::Broker, 0).unwrap();
        assert!((1010..=1050).contains(&up), "{up}");
        let down = network.send(conn, End::Device, 0).unwrap();
        assert!((410..=450).contains(&down), "{down}");
        assert_eq!(network.newly_felt(), 2, "each once");
        network.slow(0, Direction::Up, 1000, Turn::Ends);
        assert!(network.send(conn, End::Broker, 1).unwrap() >= up, "behind what set out before it");
        let later = network.send(conn, End::Broker, 2000).unwrap();
        assert!((2410..=2450).contains(&later), "{later}");
        assert_eq!(network.newly_felt(), 0, "they were felt before");
        network.slow(0, Direction::Both, 400, Turn::Ends);
        assert!(network.is_clear(0));
        assert!(network.send(conn, End::Broker, 5000).unwrap() <= 5050);
    }

    #[test]
    fn nothing_is_later_where_nothing_arrives_or_what_went_before_is_as_late() {
        let (mut network, conn) = network();
        network.block(0, Direction::Up);
        network.slow(0, Direction::Up, 1000, Turn::Begins);
        network.send(conn, End::Broker, 0);
        assert_eq!(network.newly_felt(), 0, "it is stuck");
        network.unblock(0, Direction::Up);
        network.send(conn, End::Broker, 5000);
        assert_eq!(network.newly_felt(), 1);
        network.slow(0, Direction::Up, 1000, Turn::Ends);
        network.slow(0, Direction::Up, 1, Turn::Begins);
        network.send(conn, End::Broker, 5000);
        assert_eq!(network.newly_felt(), 0, "it waits behind the one before in any case");
    }

    #[test]
    fn overlapping_faults_end_with_the_last() {
        let (mut network, conn) = network();
        network.block(0, Direction::Both);
        network.block(0, Direction::Up);
        network.unblock(0, Direction::Both);
        assert_eq!(network.arrive(conn, End::Broker, note(1)), None);
        assert_eq!(network.unblock(0, Direction::Up).len(), 1);
    }

    #[test]
    fn half_open_swallows_for_good_and_only_what_was_open() {
        let (mut network, conn) = network();
        network.half_open(0);
        assert_eq!(network.arrive(conn, End::Broker, note(1)), None);
        let (impaired, mark) = network.impaired(0)[0];
        assert!(network.still_impaired(impaired, mark));
        assert!(network.close(conn, End::Broker));
        assert!(
            network.still_impaired(impaired, mark),
            "who is not told that the other gave up does not begin to wait anew"
        );
        assert!(network.close(conn, End::Device));
        let fresh = network.open(0);
        assert_eq!(network.arrive(fresh, End::Broker, note(2)), Some(note(2)));
        assert!(!network.still_impaired(impaired, mark), "both ends closed meanwhile");
    }
}
