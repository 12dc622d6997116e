//! The broker's end of a connection: rumqttc's codec, and what every broker does with packet ids.
//!
//! Owns: CONNACK, SUBACK and UNSUBACK by packet id, PUBACK in order, deliveries as far as the client's window allows.
//! Never: decides what is delivered to whom: `broker.rs` does.
//! Read next: `client.rs`, the other end.

use std::collections::{BTreeSet, VecDeque};

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnAckProperties, ConnectReturnCode, Packet, PubAck, Publish, SubAck, SubscribeReasonCode, UnsubAck,
    UnsubAckReason,
};
use rumqttc::v5::mqttbytes::QoS;

use super::{bytes_of, next_packet};
use crate::fault::WireTrick;
use crate::level::Does;
use crate::network::{Packet as Message, Retain};
use crate::random::{below, stream};
use hardtack::shell::mqtt::LinkConfig;
use rand_core::RngCore;

/// `max_inflight_messages` of the fleet's broker.
const RECEIVE_MAX: u16 = 32;
/// DISCONNECT without a reason has no length, which rumqttc's codec reads as a packet that lacks something.
const DISCONNECT: [u8; 2] = [0xE0, 0x00];

/// The most bytes of garbage at once.
const GARBAGE_MAX: u64 = 64;

/// The end.
#[derive(Default)]
pub(super) struct Server {
    /// What the client takes at once, once it said so.
    window: u16,
    /// Packet ids of what the client published and nobody has acknowledged, oldest first.
    owed: VecDeque<u16>,
    /// The last of these, and the last that was acknowledged since without one.
    heard: u16,
    acknowledged: u16,
    in_flight: BTreeSet<u16>,
    last_id: u16,
    waiting: VecDeque<Publish>,
    /// Topic and payload of the last delivery.
    last: Option<(String, Vec<u8>)>,
    arrived: BytesMut,
}

impl Server {
    /// The broker has something for the gateway.
    pub(super) fn send(&mut self, message: Message) -> Does {
        let mut does = Does::default();
        let done = match message {
            Message::Accepted => write(&Packet::ConnAck(accepted()), &mut does),
            Message::Acknowledged { .. } => match self.owed.pop_front() {
                Some(id) => write(&Packet::PubAck(PubAck::new(id, None)), &mut does),
                None => Ok(()),
            },
            Message::Publish { topic, payload, .. } => {
                self.last = Some((topic.clone(), payload.clone()));
                self.waiting.push_back(Publish::new(topic, QoS::AtLeastOnce, payload, None));
                self.deliver(&mut does)
            }
            Message::Bytes(_) | Message::Closed | Message::Connect { .. } | Message::Leaving | Message::Read { .. } => {
                Ok(())
            }
        };
        does.ends = done.err();
        does
    }

    /// Bytes arrived.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Does {
        self.arrived.extend_from_slice(bytes);
        let mut does = Does::default();
        loop {
            if self.arrived.starts_with(&DISCONNECT) {
                self.arrived.clear();
                does.hears.push(Message::Leaving);
                break;
            }
            let done = match next_packet(&mut self.arrived, LinkConfig::PACKET_BYTES_MAX) {
                Ok(Some(packet)) => self.take(packet, &mut does),
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

    /// Something that no broker may do. None where there is nothing to do it with.
    pub(super) fn trick(&mut self, trick: WireTrick, pick: u64) -> Option<Does> {
        let mut rng = stream(pick, "wire", trick.name());
        let id = below(&mut rng, u64::from(2 * RECEIVE_MAX)) as u16 + 1;
        let mut makes_hear = None;
        let packets = match trick {
            WireTrick::Acknowledge => {
                // What the client publishes next, or has published and nobody has heard yet: with that it can do the most.
                let last = if self.acknowledged > 0 { self.acknowledged } else { self.heard };
                self.acknowledged = last % RECEIVE_MAX + 1;
                vec![Packet::PubAck(PubAck::new(self.acknowledged, None))]
            }
            WireTrick::Garbage => {
                let mut bytes = vec![0; below(&mut rng, GARBAGE_MAX) as usize + 1];
                rng.fill_bytes(&mut bytes);
                return Some(Does { writes: vec![bytes], ..Does::default() });
            }
            WireTrick::Grant => {
                let return_codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)];
                vec![Packet::SubAck(SubAck { pkid: id, return_codes, properties: None })]
            }
            WireTrick::Large => {
                let payload = vec![0x5a; LinkConfig::PACKET_BYTES_MAX as usize + 1];
                vec![numbered(Publish::new(self.last.as_ref()?.0.clone(), QoS::AtLeastOnce, payload, None), id)]
            }
            WireTrick::Reuse => {
                let (topic, payload) = self.last.clone()?;
                let publish = |payload| numbered(Publish::new(&topic, QoS::AtLeastOnce, payload, None), id);
                let noise: Vec<u8> = payload.iter().rev().copied().collect();
                makes_hear = Some((topic.clone(), noise.clone()));
                vec![publish(payload), publish(noise)]
            }
        };
        let mut does = Does { makes_hear, ..Does::default() };
        packets.iter().try_for_each(|packet| write(packet, &mut does)).ok()?;
        Some(does)
    }

    fn take(&mut self, packet: Packet, does: &mut Does) -> Result<(), String> {
        let first = self.window == 0;
        match packet {
            Packet::Connect(connect, will, _) if first => {
                self.window = connect.properties.and_then(|properties| properties.receive_maximum).unwrap_or(u16::MAX);
                let will = will.map(|will| (text(&will.topic), will.message.to_vec()));
                does.hears.push(Message::Connect { filters: Vec::new(), will });
                Ok(())
            }
            packet if first => Err(format!("expected CONNECT, received {packet:?}")),
            Packet::Publish(publish) => {
                if self.owed.len() >= usize::from(RECEIVE_MAX) {
                    return Err(format!("more than {RECEIVE_MAX} messages without an acknowledgement"));
                }
                let retain = if publish.retain { Retain::Yes } else { Retain::No };
                (self.heard, self.acknowledged) = (publish.pkid, 0);
                self.owed.push_back(publish.pkid);
                let (topic, payload) = (text(&publish.topic), publish.payload.to_vec());
                does.hears.push(Message::Publish { topic, payload, retain });
                Ok(())
            }
            Packet::PubAck(puback) => {
                // Whatever else it acknowledges is a packet id of a hostile broker's own making.
                self.in_flight.remove(&puback.pkid);
                self.deliver(does)
            }
            Packet::Subscribe(subscribe) => {
                let places: Vec<String> = subscribe.filters.into_iter().map(|filter| filter.path).collect();
                let return_codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); places.len()];
                write(&Packet::SubAck(SubAck { pkid: subscribe.pkid, return_codes, properties: None }), does)?;
                does.hears.push(Message::Read { places, left: Vec::new() });
                Ok(())
            }
            Packet::Unsubscribe(unsubscribe) => {
                let reasons = vec![UnsubAckReason::Success; unsubscribe.filters.len()];
                write(&Packet::UnsubAck(UnsubAck { pkid: unsubscribe.pkid, reasons, properties: None }), does)?;
                does.hears.push(Message::Read { places: Vec::new(), left: unsubscribe.filters });
                Ok(())
            }
            Packet::Disconnect(_) => {
                does.hears.push(Message::Leaving);
                Ok(())
            }
            Packet::Auth(_)
            | Packet::ConnAck(_)
            | Packet::Connect(..)
            | Packet::PingReq(_)
            | Packet::PingResp(_)
            | Packet::PubComp(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::SubAck(_)
            | Packet::UnsubAck(_) => Err(format!("a client does not send {packet:?}")),
        }
    }

    /// What waits goes out as far as the client takes it.
    fn deliver(&mut self, does: &mut Does) -> Result<(), String> {
        while self.in_flight.len() < usize::from(self.window) {
            let Some(mut publish) = self.waiting.pop_front() else { break };
            publish.pkid = self.fresh_id();
            self.in_flight.insert(publish.pkid);
            write(&Packet::Publish(publish), does)?;
        }
        Ok(())
    }

    /// A packet id that is not in flight. There is one: no window is as large as the numbers are many.
    fn fresh_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.in_flight.contains(&self.last_id) {
                return self.last_id;
            }
        }
    }
}

fn numbered(mut publish: Publish, id: u16) -> Packet {
    publish.pkid = id;
    Packet::Publish(publish)
}

/// CONNACK of the fleet's broker.
fn accepted() -> ConnAck {
    let properties = ConnAckProperties {
        session_expiry_interval: None,
        receive_max: Some(RECEIVE_MAX),
        max_qos: None,
        retain_available: None,
        max_packet_size: Some(LinkConfig::PACKET_BYTES_MAX),
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: None,
        shared_subscription_available: None,
        server_keep_alive: None,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    };
    ConnAck { session_present: false, code: ConnectReturnCode::Success, properties: Some(properties) }
}

fn write(packet: &Packet, does: &mut Does) -> Result<(), String> {
    does.writes.push(bytes_of(packet).map_err(|error| error.to_string())?);
    Ok(())
}

/// What our own client wrote is text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
