//! Finds MQTT 5 control packets in a stream of bytes.
//!
//! Owns: framing across reads, with a bound on what is kept; the topics and the client id that a packet names.
//! Never: fails. What is no MQTT (TLS, say) is looked at no further.
//! Read next: `mod.rs`.

use super::Direction;

/// The most bytes kept of one packet: enough for the topics of ours. The rest is counted.
const KEPT_MAX: usize = 4096;

/// The kinds of control packet, MQTT 5 section 2.1.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the standard's")]
pub enum PacketKind {
    Connect,
    Connack,
    Publish,
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
    Subscribe,
    Suback,
    Unsubscribe,
    Unsuback,
    Pingreq,
    Pingresp,
    Disconnect,
    Auth,
}

impl PacketKind {
    fn of(first: u8) -> Option<Self> {
        Some(match first >> 4 {
            1 => Self::Connect,
            2 => Self::Connack,
            3 => Self::Publish,
            4 => Self::Puback,
            5 => Self::Pubrec,
            6 => Self::Pubrel,
            7 => Self::Pubcomp,
            8 => Self::Subscribe,
            9 => Self::Suback,
            10 => Self::Unsubscribe,
            11 => Self::Unsuback,
            12 => Self::Pingreq,
            13 => Self::Pingresp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The standard's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Connack => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::Puback => "PUBACK",
            Self::Pubrec => "PUBREC",
            Self::Pubrel => "PUBREL",
            Self::Pubcomp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::Suback => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::Unsuback => "UNSUBACK",
            Self::Pingreq => "PINGREQ",
            Self::Pingresp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }
}

/// A packet that is complete.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) kind: PacketKind,
    pub(super) topics: Vec<String>,
    pub(super) client: Option<String>,
    pub(super) bytes: usize,
}

/// One direction of one connection.
#[derive(Debug)]
pub(super) struct Packets {
    at: At,
    /// The byte that the first packet must begin with.
    opening: Option<u8>,
}

#[derive(Debug)]
enum At {
    /// Before a packet.
    Start,
    /// Within the length: the first byte, what the length adds up to, how many of its bytes there were.
    Length { first: u8, length: usize, digits: u32 },
    /// Within the body.
    Body { first: u8, header: usize, length: usize, seen: usize, kept: Vec<u8> },
    /// This is no MQTT.
    Lost,
}

impl Packets {
    pub(super) fn new(direction: Direction) -> Self {
        let opening = match direction {
            Direction::Up => 0x10,
            Direction::Down => 0x20,
        };
        Self { at: At::Start, opening: Some(opening) }
    }

    /// Takes bytes as they come and gives the packets that they complete.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Vec<Found> {
        let mut found = Vec::new();
        while let Some((&byte, rest)) = bytes.split_first() {
            self.at = match std::mem::replace(&mut self.at, At::Lost) {
                At::Lost => return found,
                At::Start => {
                    bytes = rest;
                    let fits = self.opening.take().is_none_or(|opening| byte == opening);
                    if fits && PacketKind::of(byte).is_some() {
                        At::Length { first: byte, length: 0, digits: 0 }
                    } else {
                        At::Lost
                    }
                }
                At::Length { first, length, digits } => {
                    bytes = rest;
                    let length = length | usize::from(byte & 0x7f) << (7 * digits);
                    match (byte & 0x80 != 0, digits) {
                        (true, 3..) => At::Lost,
                        (true, _) => At::Length { first, length, digits: digits + 1 },
                        (false, _) => {
                            let header = 2 + digits as usize;
                            At::Body { first, header, length, seen: 0, kept: Vec::new() }
                        }
                    }
                }
                At::Body { first, header, length, seen, mut kept } => {
                    let (taken, rest) = bytes.split_at(bytes.len().min(length - seen));
                    bytes = rest;
                    kept.extend_from_slice(&taken[..taken.len().min(KEPT_MAX - kept.len())]);
                    At::Body { first, header, length, seen: seen + taken.len(), kept }
                }
            };
            // A packet can be complete without a byte of its own to come.
            if let At::Body { first, header, length, seen, kept } = &self.at {
                if seen == length {
                    found.extend(describe(*first, header + length, kept));
                    self.at = At::Start;
                }
            }
        }
        found
    }
}

fn describe(first: u8, bytes: usize, body: &[u8]) -> Option<Found> {
    let kind = PacketKind::of(first)?;
    let mut found = Found { kind, topics: Vec::new(), client: None, bytes };
    let mut rest = body;
    match kind {
        PacketKind::Connect => {
            // Protocol name, version, flags, keep-alive, properties, then the client id.
            found.client = (|| {
                text(&mut rest)?;
                take(&mut rest, 4)?;
                skip_properties(&mut rest)?;
                text(&mut rest)
            })();
        }
        PacketKind::Publish => found.topics.extend(text(&mut rest)),
        PacketKind::Subscribe => {
            if take(&mut rest, 2).is_some() && skip_properties(&mut rest).is_some() {
                while let Some(filter) = text(&mut rest) {
                    found.topics.push(filter);
                    if take(&mut rest, 1).is_none() {
                        break;
                    }
                }
            }
        }
        PacketKind::Connack
        | PacketKind::Puback
        | PacketKind::Pubrec
        | PacketKind::Pubrel
        | PacketKind::Pubcomp
        | PacketKind::Suback
        | PacketKind::Unsubscribe
        | PacketKind::Unsuback
        | PacketKind::Pingreq
        | PacketKind::Pingresp
        | PacketKind::Disconnect
        | PacketKind::Auth => {}
    }
    Some(found)
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn text(bytes: &mut &[u8]) -> Option<String> {
    let length = take(bytes, 2)?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    take(bytes, length).map(|text| String::from_utf8_lossy(text).into_owned())
}

fn skip_properties(bytes: &mut &[u8]) -> Option<()> {
    let mut length = 0;
    for digit in 0..4 {
        let byte = take(bytes, 1)?[0];
        length |= usize::from(byte & 0x7f) << (7 * digit);
        if byte & 0x80 == 0 {
            return take(bytes, length).map(|_| ());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNECT: &[u8] = &[0x10, 16, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 30, 0, 0, 3, b'g', b'w', b'7'];
    const SUBSCRIBE: &[u8] = &[0x82, 11, 0, 1, 0, 0, 1, b'a', 1, 0, 1, b'b', 1];
    const PINGREQ: &[u8] = &[0xc0, 0];

    fn publish(topic: &str, payload: usize) -> Vec<u8> {
        let length = 2 + topic.len() + 2 + 1 + payload;
        let mut bytes = vec![0x32, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8];
        bytes.extend((topic.len() as u16).to_be_bytes());
        bytes.extend(topic.as_bytes());
        bytes.extend([0, 1, 0]);
        bytes.resize(bytes.len() + payload, 7);
        bytes
    }

    fn stream() -> Vec<u8> {
        [CONNECT, SUBSCRIBE, PINGREQ, &publish("x/y", 40_000), &publish("z", 0)].concat()
    }

    #[test]
    fn packets_are_found_however_the_bytes_are_cut() {
        for size in [1, 2, 3, 7, 100, 100_000] {
            let mut packets = Packets::new(Direction::Up);
            let found: Vec<Found> = stream().chunks(size).flat_map(|chunk| packets.feed(chunk)).collect();
            let kinds: Vec<&str> = found.iter().map(|packet| packet.kind.name()).collect();
            assert_eq!(kinds, ["CONNECT", "SUBSCRIBE", "PINGREQ", "PUBLISH", "PUBLISH"], "pieces of {size}");
            assert_eq!(found[0].client.as_deref(), Some("gw7"));
            assert_eq!(found[1].topics, ["a", "b"]);
            assert_eq!(found[3].topics, ["x/y"]);
            assert_eq!(found.iter().map(|packet| packet.bytes).sum::<usize>(), stream().len());
        }
    }

    #[test]
    fn what_is_no_mqtt_is_left_alone() {
        let tls = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
        check_lost(&tls);
        check_lost(&PINGREQ.repeat(10));
        check_lost(&[0x10, 0xff, 0xff, 0xff, 0xff, 0x01]);
        check_lost(&[0; 64]);
    }

    #[track_caller]
    fn check_lost(bytes: &[u8]) {
        let mut packets = Packets::new(Direction::Up);
        assert_eq!(packets.feed(bytes), []);
        assert_eq!(packets.feed(CONNECT), []);
    }

    #[test]
    fn memory_is_bounded_and_nothing_panics() {
        let mut packets = Packets::new(Direction::Up);
        packets.feed(CONNECT);
        packets.feed(&[0x32, 0xff, 0xff, 0xff, 0x7f]);
        for _ in 0..100 {
            packets.feed(&[0xff; 100_000]);
        }
        assert!(matches!(&packets.at, At::Body { kept, .. } if kept.len() == KEPT_MAX));
        let mut seed = 1_u32;
        for _ in 0..2000 {
            let mut packets = Packets::new(Direction::Up);
            let mut bytes = CONNECT.to_vec();
            for _ in 0..64 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                bytes.push((seed >> 24) as u8);
            }
            packets.feed(&bytes);
        }
    }
}
