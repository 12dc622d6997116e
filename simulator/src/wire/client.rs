//! A gateway's end of a connection: rumqttc's `MqttState` and codec, driven as the shell's session and rumqttc's event loop
//! drive them.
//!
//! Owns: the order CONNECT, SUBSCRIBE once CONNACK is there, messages once SUBACK is; what waits for the window.
//! Never: has a rule of its own beside those of `hardtack::shell::mqtt`.
//! Read next: `server.rs`, the other end.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, ConnectReturnCode, Filter, LastWill, Login, Packet, Publish, Subscribe, Unsubscribe,
};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{MqttState, Request};

use super::{bytes_of, next_packet};
use crate::level::Does;
use crate::network::{Packet as Message, Retain};
use hardtack::ids::EraId;
use hardtack::mutant::{active, Mutant};
use hardtack::shell::mqtt::{terms, LinkConfig};
use hardtack::wire::audit::segment::Delivery;

/// As the shell's session has it: messages that are not acknowledged, either way.
pub(super) const IN_FLIGHT_MAX: u16 = 32;
/// What a PUBLISH takes beside topic and payload, as the shell's session counts it.
const PUBLISH_OVERHEAD: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Subscribing,
    Up,
}

/// The end.
pub(super) struct Client {
    name: String,
    keepalive_s: u64,
    state: MqttState,
    stage: Stage,
    filters: Vec<String>,
    /// How many filters each subscription has that the broker has not answered.
    asked: VecDeque<usize>,
    /// What waits until there is room in the window.
    requests: VecDeque<Request>,
    /// The most that may be unacknowledged at once: less than ours if the broker says so.
    window: u16,
    bytes_max: usize,
    /// For the planted bug that takes the broker's word for the collector's: segments by the packet id of their message.
    segments: BTreeMap<u16, (EraId, u64)>,
    arrived: BytesMut,
    /// Packets so far.
    heard: u64,
}

impl Client {
    pub(super) fn new(name: String, keepalive_s: u64) -> Self {
        Self {
            name,
            keepalive_s,
            state: MqttState::new(IN_FLIGHT_MAX, false),
            stage: Stage::Connecting,
            filters: Vec::new(),
            asked: VecDeque::new(),
            requests: VecDeque::new(),
            window: IN_FLIGHT_MAX,
            bytes_max: LinkConfig::PACKET_BYTES_MAX as usize,
            segments: BTreeMap::new(),
            arrived: BytesMut::new(),
            heard: 0,
        }
    }

    /// The agent has something for the broker.
    pub(super) fn send(&mut self, message: Message) -> Does {
        let mut does = Does::default();
        let done = match message {
            Message::Connect { filters, will } => {
                self.filters = filters;
                self.connect(will, &mut does)
            }
            Message::Publish { topic, payload, retain } => {
                if topic.len() + payload.len() + PUBLISH_OVERHEAD <= self.bytes_max {
                    let mut publish = Publish::new(topic, QoS::AtLeastOnce, payload, None);
                    publish.retain = retain == Retain::Yes;
                    self.requests.push_back(Request::Publish(publish));
                }
                self.pump(&mut does)
            }
            Message::Read { places, left } => {
                self.subscribe(&places);
                let leaves = left.into_iter().map(|place| Request::Unsubscribe(Unsubscribe::new(place, None)));
                self.requests.extend(leaves);
                self.pump(&mut does)
            }
            Message::Leaving => self.ask(Request::Disconnect, &mut does),
            Message::Accepted | Message::Acknowledged { .. } | Message::Bytes(_) | Message::Closed => Ok(()),
        };
        does.ends = done.err();
        does
    }

    /// Bytes arrived. What is wrong with them ends the connection.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Does {
        self.arrived.extend_from_slice(bytes);
        let mut does = Does::default();
        loop {
            let done = match next_packet(&mut self.arrived, bytes_max()) {
                Ok(Some(packet)) => {
                    self.heard += 1;
                    self.take(packet, &mut does)
                }
                Ok(None) => break,
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = done {
                does.ends = Some(reason);
                break;
            }
        }
        does
    }

    /// Some of a packet is here, and not all of it: how many were before.
    pub(super) fn waits_after(&self) -> Option<u64> {
        (!self.arrived.is_empty()).then_some(self.heard)
    }

    fn connect(&self, will: Option<(String, Vec<u8>)>, does: &mut Does) -> Result<(), String> {
        let mut properties = ConnectProperties::new();
        properties.session_expiry_interval = Some(0);
        properties.max_packet_size = Some(bytes_max());
        properties.receive_maximum = Some(IN_FLIGHT_MAX);
        let connect = Connect {
            keep_alive: u16::try_from(self.keepalive_s).unwrap_or(u16::MAX),
            client_id: self.name.clone(),
            clean_start: true,
            properties: Some(properties),
        };
        let will = will.map(|(topic, payload)| LastWill::new(topic, payload, QoS::AtLeastOnce, true, None));
        write(&Packet::Connect(connect, will, Some(Login::new(&self.name, ""))), does)
    }

    fn take(&mut self, packet: Packet, does: &mut Does) -> Result<(), String> {
        // As `EventLoop::poll` has it: nothing but CONNACK comes first, and the state hears of it.
        match (self.stage, &packet) {
            (Stage::Connecting, Packet::ConnAck(connack)) if connack.code == ConnectReturnCode::Success => {}
            (Stage::Connecting, other) => return Err(format!("expected CONNACK, received {other:?}")),
            (Stage::Subscribing | Stage::Up, _) => {}
        }
        let answer = self.state.handle_incoming_packet(packet.clone()).map_err(|error| error.to_string());
        // What the state noted for whoever polls it: the packet itself, which is here.
        self.state.events.clear();
        answer?.map_or(Ok(()), |answer| write(&answer, does))?;
        match packet {
            Packet::ConnAck(connack) => {
                if let Some(properties) = connack.properties {
                    self.window = properties.receive_max.unwrap_or(u16::MAX).min(IN_FLIGHT_MAX);
                    self.bytes_max =
                        properties.max_packet_size.map_or(self.bytes_max, |max| self.bytes_max.min(max as usize));
                }
                self.stage = Stage::Subscribing;
                let filters = std::mem::take(&mut self.filters);
                self.subscribe(&filters);
            }
            Packet::SubAck(suback) => {
                terms::answers(self.asked.pop_front(), suback.return_codes.len())?;
                if self.stage == Stage::Subscribing {
                    self.stage = Stage::Up;
                    does.hears.push(Message::Accepted);
                }
            }
            Packet::PubAck(puback) => {
                let segment = self.segments.remove(&puback.pkid);
                does.hears.push(Message::Acknowledged { segment });
            }
            Packet::Publish(publish) => {
                let message = terms::handed_in(&publish)?;
                let message = message.map(|(topic, payload)| Message::Publish { topic, payload, retain: Retain::No });
                does.hears.extend(message);
            }
            Packet::Auth(_)
            | Packet::Connect(..)
            | Packet::Disconnect(_)
            | Packet::PingReq(_)
            | Packet::PingResp(_)
            | Packet::PubComp(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::Subscribe(_)
            | Packet::UnsubAck(_)
            | Packet::Unsubscribe(_) => {}
        }
        self.pump(does)
    }

    fn subscribe(&mut self, places: &[String]) {
        if !places.is_empty() {
            let filters = places.iter().map(|path| Filter::new(path, QoS::AtLeastOnce));
            self.requests.push_back(Request::Subscribe(Subscribe::new_many(filters, None)));
            self.asked.push_back(places.len());
        }
    }

    /// As `EventLoop::select` has it: what waits goes on while there is room in the window and no id is taken.
    fn pump(&mut self, does: &mut Does) -> Result<(), String> {
        while self.stage != Stage::Connecting && self.state.inflight() < self.window && self.state.collision.is_none() {
            let Some(request) = self.requests.pop_front() else { break };
            self.ask(request, does)?;
        }
        Ok(())
    }

    fn ask(&mut self, request: Request, does: &mut Does) -> Result<(), String> {
        let packet = self.state.handle_outgoing_packet(request).map_err(|error| error.to_string());
        self.state.events.clear();
        let Some(packet) = packet? else { return Ok(()) };
        if let (Packet::Publish(publish), true) = (&packet, active(Mutant::ReleaseOnPuback)) {
            self.segments.extend(segment_of(publish).map(|segment| (publish.pkid, segment)));
        }
        write(&packet, does)
    }
}

/// Which segment a message carries, if it carries one.
fn segment_of(publish: &Publish) -> Option<(EraId, u64)> {
    let header = Delivery::from_bytes(&publish.payload).ok()?.header().claim().ok()?;
    publish.topic.ends_with(b"/up/audit").then_some((header.era, header.segment))
}

fn write(packet: &Packet, does: &mut Does) -> Result<(), String> {
    does.writes.push(bytes_of(packet).map_err(|error| error.to_string())?);
    Ok(())
}

/// What a packet of the broker's may have, as the session tells the client.
fn bytes_max() -> u32 {
    terms::packet_bytes_max(LinkConfig::PACKET_BYTES_MAX)
}
