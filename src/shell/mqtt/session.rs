//! One connection, from CONNECT to its end.
//!
//! Owns: the order of a connection (CONNECT, one SUBSCRIBE, then messages), its watchdog, and the task that does nothing
//! but poll the client.
//! Never: cancels a poll half way, connects twice with one client, hands over a packet that is larger than either side
//! takes.
//! Read next: `tls.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Filter, LastWill, Packet, PubAck, Publish as Incoming, PublishProperties, SubAck,
};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use rumqttc::{valid_filter, NetworkOptions, Outgoing, TlsConfiguration, Transport};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, Sleep};

use super::super::clock;
use super::reasons::{describe, publish_refusal, refusal};
use super::{terms, BrokerUrl, Connect, Inbox, LinkConfig, Next, Outbound, Said, Security, CONTROL_TOPIC};
use crate::agent::effects::Publish;
use crate::agent::LinkEvent;
use crate::ids::FeedId;
use crate::time::Timestamp;
use crate::wire::link::{feed_of_filter, Topic};

/// Messages handed to the client and not acknowledged. The client's own table is this long.
const IN_FLIGHT_MAX: u16 = 32;

/// Packets that the broker may send without an acknowledgement.
const RECEIVE_MAX: u16 = 32;

/// What the client takes on beside messages: subscriptions, their ends, the end of the connection.
const REQUESTS_MAX: usize = 64;

/// How long an orderly end may take.
pub(super) const CLOSE_MAX: Duration = Duration::from_secs(2);

/// What the watchdog adds to one and a half keep-alives, for a slow answer.
const MARGIN: Duration = Duration::from_secs(2);

/// A PUBLISH takes this much beside topic and payload: type and length (5), topic length, packet id, properties.
const PUBLISH_OVERHEAD: usize = 16;

/// The least keep-alive that the client takes without a panic.
const KEEPALIVE_MIN: Duration = Duration::from_secs(5);

/// How a connection ended.
pub(super) enum End {
    /// By command.
    Commanded,
    /// For this reason.
    Lost(String),
}

/// What the polling task says.
enum Polled {
    Event(Box<Event>),
    Failed(String),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    Subscribing,
    Up,
    /// Sends what waits, then says DISCONNECT.
    Draining,
    /// DISCONNECT is with the client; the broker closes.
    Leaving,
}

/// One connection.
pub(super) struct Session<'a> {
    config: &'a LinkConfig,
    inbox: &'a Inbox,
    connection: u64,
    events: &'a mpsc::Sender<Said>,
    filters: Vec<String>,
    /// Subscriptions that the broker has not answered, in the order in which they were asked for.
    asked: VecDeque<Vec<String>>,
    /// Feeds of which the broker lets nothing be read.
    shut_out: BTreeSet<FeedId>,
    client: AsyncClient,
    polled: mpsc::Receiver<Polled>,
    polling: JoinHandle<()>,
    stage: Stage,
    /// The most bytes of a packet that both sides take.
    packet_bytes_max: usize,
    /// Topics of what the client has and has not sent.
    handed: VecDeque<String>,
    /// Topics of what was sent and not acknowledged, by packet id.
    in_flight: BTreeMap<u16, String>,
    /// The connection is not up by then: it never will be. Later: the orderly end takes too long.
    stage_over: Pin<Box<Sleep>>,
    /// Nothing at all arrived for too long.
    silent: Pin<Box<Sleep>>,
    /// Something is unacknowledged and no acknowledgement came for too long.
    stuck: Pin<Box<Sleep>>,
}

impl<'a> Session<'a> {
    /// Begins to connect.
    pub(super) fn open(
        config: &'a LinkConfig,
        url: &BrokerUrl,
        tls: Option<Arc<rustls::ClientConfig>>,
        connect: Connect,
        inbox: &'a Inbox,
        connection: u64,
        events: &'a mpsc::Sender<Said>,
    ) -> Self {
        let options = options(config, url, tls, &connect);
        let (client, event_loop) = AsyncClient::new(options, usize::from(IN_FLIGHT_MAX) + REQUESTS_MAX);
        let (said, polled) = mpsc::channel(usize::from(IN_FLIGHT_MAX));
        let limit = silence(config);
        Self {
            config,
            inbox,
            connection,
            events,
            filters: connect.filters,
            asked: VecDeque::new(),
            shut_out: BTreeSet::new(),
            client,
            polled,
            polling: tokio::spawn(poll(event_loop, said)),
            stage: Stage::Connecting,
            packet_bytes_max: config.packet_bytes_max as usize,
            handed: VecDeque::new(),
            in_flight: BTreeMap::new(),
            stage_over: Box::pin(sleep(config.connect)),
            silent: Box::pin(sleep(limit)),
            stuck: Box::pin(sleep(limit)),
        }
    }

    /// Lives through the connection.
    pub(super) async fn run(mut self) -> End {
        let end = loop {
            if let Err(end) = self.obey() {
                break end;
            }
            let unacknowledged = !self.handed.is_empty() || !self.in_flight.is_empty();
            tokio::select! {
                biased;
                polled = self.polled.recv() => match polled {
                    Some(Polled::Event(event)) => {
                        if heard(&event) {
                            self.silent.set(sleep(silence(self.config)));
                        }
                        if let Err(end) = self.take(*event).await {
                            break end;
                        }
                    }
                    Some(Polled::Failed(_)) if self.stage == Stage::Leaving => break End::Commanded,
                    Some(Polled::Failed(reason)) => break End::Lost(reason),
                    None => break End::Lost("the MQTT client stopped without a reason".into()),
                },
                () = self.inbox.wake.notified() => {}
                () = &mut self.stage_over, if self.stage != Stage::Up => break match self.stage {
                    Stage::Connecting => End::Lost(format!("the broker did not accept the connection within {:?}", self.config.connect)),
                    Stage::Subscribing => End::Lost(format!("the broker did not grant the subscriptions within {:?}", self.config.connect)),
                    Stage::Up | Stage::Draining | Stage::Leaving => End::Commanded,
                },
                () = &mut self.silent => break End::Lost("half-open: nothing was heard of the broker for too long".into()),
                () = &mut self.stuck, if unacknowledged => break End::Lost("the broker acknowledges nothing any more".into()),
            }
        };
        // A poll is never cancelled to go on later, only to end: the client goes with it.
        self.polling.abort();
        end
    }

    /// Looks at the inbox: an end, or messages to hand to the client.
    fn obey(&mut self) -> Result<(), End> {
        match (self.inbox.next(), self.stage) {
            (Next::Replaced, _) => return Err(End::Commanded),
            (Next::Overflowed, _) => return Err(End::Lost("more waits for the broker than the queue holds".into())),
            (Next::Close, Stage::Connecting | Stage::Subscribing) => return Err(End::Commanded),
            (Next::Close, Stage::Up) => {
                self.stage = Stage::Draining;
                self.stage_over.set(sleep(CLOSE_MAX));
            }
            (Next::Close, Stage::Draining | Stage::Leaving) | (Next::Stay, _) => {}
        }
        match self.stage {
            Stage::Up | Stage::Draining => self.hand_over(),
            Stage::Connecting | Stage::Subscribing | Stage::Leaving => {}
        }
        if self.stage == Stage::Draining && self.handed.is_empty() && self.in_flight.is_empty() {
            self.client.try_disconnect().map_err(|_| End::Commanded)?;
            self.stage = Stage::Leaving;
        }
        Ok(())
    }

    /// Hands messages to the client as long as it has room.
    fn hand_over(&mut self) {
        while self.handed.len() + self.in_flight.len() < usize::from(IN_FLIGHT_MAX) {
            let Some(message) = self.inbox.pop() else { break };
            let (topic, payload, retained, until) = match message {
                Outbound::Control(payload) => (CONTROL_TOPIC.to_owned(), payload, false, None),
                Outbound::Message(Publish { topic, payload }) => {
                    (topic.text(&self.config.fleet), payload, topic.retained(), topic.kept_until())
                }
                Outbound::Read { places, left } => {
                    let texts =
                        |topics: Vec<Topic>| topics.iter().map(|topic| topic.text(&self.config.fleet)).collect();
                    let (places, left): (Vec<String>, Vec<String>) = (texts(places), texts(left));
                    if !self.read(places, left) {
                        // As below.
                        return;
                    }
                    continue;
                }
            };
            let bytes = topic.len() + payload.len() + PUBLISH_OVERHEAD;
            if bytes > self.packet_bytes_max {
                let reason = format!("{bytes} bytes, the broker takes {}", self.packet_bytes_max);
                tracing::warn!(event = "message.refused", topic, reason);
                continue;
            }
            if self.handed.is_empty() && self.in_flight.is_empty() {
                self.stuck.set(sleep(2 * silence(self.config)));
            }
            let properties = PublishProperties { message_expiry_interval: until.map(expiry_s), ..Default::default() };
            let handed =
                self.client.try_publish_with_properties(topic.clone(), QoS::AtLeastOnce, retained, payload, properties);
            if handed.is_err() {
                // As with a subscription: the message goes down with the connection.
                return;
            }
            self.handed.push_back(topic);
        }
    }

    /// Subscribes to places beside the filters of the connection, and leaves others.
    /// Says whether the client took that on.
    fn read(&mut self, places: Vec<String>, left: Vec<String>) -> bool {
        if !places.is_empty() {
            let filters = places.iter().map(|path| Filter::new(path, QoS::AtLeastOnce));
            if self.client.try_subscribe_many(filters).is_err() {
                return false;
            }
            self.asked.push_back(places);
        }
        left.into_iter().all(|place| self.client.try_unsubscribe(place).is_ok())
    }

    /// Takes what the client says.
    async fn take(&mut self, event: Event) -> Result<(), End> {
        match event {
            Event::Incoming(packet) => self.receive(packet).await,
            Event::Outgoing(outgoing) => {
                self.note(outgoing);
                Ok(())
            }
        }
    }

    async fn receive(&mut self, packet: Packet) -> Result<(), End> {
        match packet {
            Packet::ConnAck(connack) => self.accepted(&connack).await,
            Packet::SubAck(suback) => self.granted(&suback).await,
            Packet::PubAck(puback) => {
                self.acknowledged(&puback);
                Ok(())
            }
            Packet::Publish(message) => self.deliver(message).await,
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
            | Packet::Unsubscribe(_) => Ok(()),
        }
    }

    /// The broker accepted the connection: subscribe to everything in one packet, before anything is published.
    async fn accepted(&mut self, connack: &ConnAck) -> Result<(), End> {
        if let Some(properties) = &connack.properties {
            if let Some(max) = properties.max_packet_size {
                self.packet_bytes_max = self.packet_bytes_max.min(max as usize);
            }
            if properties.retain_available == Some(0) {
                return Err(End::Lost("the broker keeps no retained messages: allow them in its configuration".into()));
            }
            if properties.max_qos == Some(0) {
                return Err(End::Lost("the broker takes no QoS 1: allow it in its configuration".into()));
            }
            if properties.receive_max == Some(0) {
                return Err(End::Lost("the broker takes no message at all".into()));
            }
            if let Some(seconds) = properties.server_keep_alive.map(u64::from) {
                let ours = keepalive(self.config).as_secs();
                if seconds == 0 || seconds > ours {
                    return Err(End::Lost(format!(
                        "the broker wants a keep-alive of {seconds} s, at most {ours} s can be"
                    )));
                }
            }
        }
        if self.filters.is_empty() {
            return self.up().await;
        }
        if let Some(filter) = self.filters.iter().find(|filter| !valid_filter(filter)) {
            return Err(End::Lost(format!("{filter:?} is not a valid subscription")));
        }
        let filters: Vec<Filter> = self.filters.iter().map(|path| Filter::new(path, QoS::AtLeastOnce)).collect();
        if self.client.try_subscribe_many(filters).is_err() {
            // The client has ended already. Its reason is on its way.
            return Ok(());
        }
        self.asked.push_back(self.filters.clone());
        self.stage = Stage::Subscribing;
        Ok(())
    }

    /// The broker answered the subscriptions, one by one.
    async fn granted(&mut self, suback: &SubAck) -> Result<(), End> {
        let asked = self.asked.pop_front();
        terms::answers(asked.as_ref().map(Vec::len), suback.return_codes.len()).map_err(|why| End::Lost(why.into()))?;
        for (filter, code) in asked.iter().flatten().zip(&suback.return_codes) {
            let Some(reason) = refusal(*code) else { continue };
            // A broker that has not heard of a move yet, or has forgotten it: trust bundles and answers come all the same,
            // and the next connection asks again.
            match feed_of_filter(&self.config.fleet, filter) {
                Some(feed) => self.shut_out(feed, reason),
                None => return Err(End::Lost(format!("the broker refused the subscription to {filter}: {reason}"))),
            }
        }
        match self.stage {
            Stage::Subscribing => self.up().await,
            Stage::Connecting | Stage::Up | Stage::Draining | Stage::Leaving => Ok(()),
        }
    }

    /// Told once in a connection.
    fn shut_out(&mut self, feed: FeedId, reason: &'static str) {
        let action = "nothing that is revoked comes from there: have `hardtack fleet serve` run, or run `hardtack fleet publish` \
                      once, so that the broker learns which feed this device has; until then carry it a file \
                      (`hardtack fleet revocations export`)";
        if !self.shut_out.contains(&feed) {
            tracing::warn!(event = "feed.shut_out", %feed, reason, action);
            self.shut_out.insert(feed);
        }
    }

    async fn up(&mut self) -> Result<(), End> {
        self.stage = Stage::Up;
        self.hand_in(LinkEvent::Connected).await
    }

    /// The broker has a message, or refused it. Only the collector's signed acknowledgement frees what it carries, so a
    /// refusal is told and nothing else: the core sends again.
    fn acknowledged(&mut self, puback: &PubAck) {
        if let Some(topic) = self.in_flight.remove(&puback.pkid) {
            self.stuck.set(sleep(2 * silence(self.config)));
            if let Some(reason) = publish_refusal(puback.reason) {
                tracing::warn!(event = "message.refused", topic, reason);
            }
        }
    }

    /// A message arrived.
    async fn deliver(&mut self, message: Incoming) -> Result<(), End> {
        match terms::handed_in(&message).map_err(|why| End::Lost(why.into()))? {
            Some((topic, payload)) => self.hand_in(LinkEvent::Message { topic, payload }).await,
            None => {
                tracing::warn!(event = "message.refused", topic = "", reason = "its topic is not UTF-8");
                Ok(())
            }
        }
    }

    /// Waits until the receiver has room: the broker waits with it.
    async fn hand_in(&self, event: LinkEvent) -> Result<(), End> {
        self.events.send(Said { connection: self.connection, event }).await.map_err(|_| End::Commanded)
    }

    fn note(&mut self, outgoing: Outgoing) {
        match outgoing {
            Outgoing::Publish(id) => {
                if let Some(topic) = self.handed.pop_front() {
                    self.in_flight.insert(id, topic);
                }
            }
            Outgoing::AwaitAck(_)
            | Outgoing::Disconnect
            | Outgoing::PingReq
            | Outgoing::PingResp
            | Outgoing::PubAck(_)
            | Outgoing::PubComp(_)
            | Outgoing::PubRec(_)
            | Outgoing::PubRel(_)
            | Outgoing::Subscribe(_)
            | Outgoing::Unsubscribe(_) => {}
        }
    }
}

/// Polls until the connection ends, and does nothing else: a poll that is dropped half way loses what it had begun.
async fn poll(mut event_loop: EventLoop, said: mpsc::Sender<Polled>) {
    loop {
        match event_loop.poll().await {
            Ok(event) => {
                if said.send(Polled::Event(Box::new(event))).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // If nobody listens any more, nobody needs the reason.
                let _ = said.send(Polled::Failed(describe(&error))).await;
                return;
            }
        }
    }
}

/// Whether an event shows that the broker lives. What this side sends does not: a half-open link takes it all.
fn heard(event: &Event) -> bool {
    match event {
        Event::Incoming(_) => true,
        Event::Outgoing(_) => false,
    }
}

fn keepalive(config: &LinkConfig) -> Duration {
    config.keepalive.clamp(KEEPALIVE_MIN, Duration::from_secs(u64::from(u16::MAX)))
}

/// How long a living broker can be silent: it answers a ping per keep-alive.
fn silence(config: &LinkConfig) -> Duration {
    keepalive(config) * 3 / 2 + MARGIN
}

pub(super) fn options(
    config: &LinkConfig,
    url: &BrokerUrl,
    tls: Option<Arc<rustls::ClientConfig>>,
    connect: &Connect,
) -> MqttOptions {
    let mut options = MqttOptions::new(config.client_id.clone(), url.host.clone(), url.port);
    options.set_credentials(config.user.clone(), "");
    options.set_clean_start(true);
    options.set_session_expiry_interval(Some(0));
    options.set_keep_alive(keepalive(config));
    // The session has its own, finer limit; this one must not come first.
    options.set_connection_timeout(config.connect.as_secs().saturating_add(2));
    options.set_max_packet_size(Some(terms::packet_bytes_max(config.packet_bytes_max)));
    options.set_receive_maximum(Some(RECEIVE_MAX));
    options.set_outgoing_inflight_upper_limit(IN_FLIGHT_MAX);
    // Small packets go both ways: kept back for company, each waits for the other side's delayed acknowledgement.
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    if let Some(will) = &connect.will {
        let topic = will.topic.text(&config.fleet);
        options.set_last_will(LastWill::new(
            topic,
            will.payload.clone(),
            QoS::AtLeastOnce,
            will.topic.retained(),
            None,
        ));
    }
    match (url.security, tls) {
        (Security::Tls, Some(tls)) => {
            options.set_transport(Transport::Tls(TlsConfiguration::Rustls(tls)));
        }
        // `Link::spawn` refuses an encrypted address without an identity.
        (Security::Plain, _) | (Security::Tls, None) => {}
    }
    options
}

/// Seconds from now, for a message's expiry. A clock that is far off shortens or lengthens it, which only costs room.
fn expiry_s(until: Timestamp) -> u32 {
    let now = clock::wall().unwrap_or_default();
    u32::try_from(until.since(now).secs()).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumqttc::v5::mqttbytes::v5::PingResp;

    #[test]
    fn only_what_was_received_is_a_sign_of_life() {
        assert!(heard(&Event::Incoming(Packet::PingResp(PingResp))));
        for sent in [Outgoing::PingReq, Outgoing::Publish(1), Outgoing::PubAck(1), Outgoing::AwaitAck(1)] {
            assert!(!heard(&Event::Outgoing(sent)));
        }
    }
}
