//! Messages on their way: from gateways over their links to the broker, to the service, and back.
//!
//! Owns: what arrives where when, who notices a dead connection, the service's connection.
//! Never: changes a message; a hostile broker does, in `broker.rs`.
//! Read next: `network.rs` and `broker.rs`.

use hardtack::agent::effects::Publish;
use hardtack::agent::uplink::NONCE_LIFE;
use hardtack::agent::{Input, LinkEvent};
use hardtack::ids::{DeviceId, EraId, FeedId};
use hardtack::mutant::{active, Mutant};
use hardtack::time::Millis;
use hardtack::wire::audit::segment;
use hardtack::wire::envelope::Signed;
use hardtack::wire::link::{service_filters, Ack, Answer, Ask, Hello, Request, Topic};
use hardtack::wire::revocation::announcement::Announcement;
use hardtack::wire::{Refused, MESSAGE_BYTES_MAX};

use crate::broker::{Delivery, To};
use crate::check::evidence::Alike;
use crate::check::suspend::{Clause, Suspension};
use crate::check::Id;
use crate::clocks::date;
use crate::device::Contact;
use crate::event::Event;
use crate::fault::{AckTrick, Direction, FeedTrick, Retained};
use crate::followed::Followed;
use crate::level::Does;
use crate::network::{ConnId, End, Packet, Retain};
use crate::operator::Asked;
use crate::random::{below, stream};
use crate::world::{Checks, Happening, World};

/// How long a message takes between broker and service.
const SERVICE_MS: u64 = 3;
/// How long the service waits before it connects again.
const SERVICE_RETRY_MS: u64 = 1500;
/// How often the service looks at the clock.
const SERVICE_TICK_MS: u64 = 30_000;
/// How much later a hostile broker sends what was answered or is over.
const LATER: u64 = 7000;
/// So long after it was asked for nobody remembers an answer, in milliseconds.
const FORGOTTEN: u64 = 24 * 3_600_000;
/// How much longer than the issuer is waited for an answer takes that comes too late for sure, in milliseconds.
const NOBODY_WAITS: u64 = 5000;
/// How far ahead an acknowledgement is that a hostile broker makes: taken, it would show.
const DECEIT: Millis = Millis::from_secs(3600);

impl World<'_> {
    /// Sends a packet over a connection.
    pub(crate) fn send(&mut self, conn: ConnId, to: End, packet: Packet) {
        let from = to.other();
        match &mut self.links {
            // The kernel says that a socket was closed, whoever wrote to it.
            Some(links) if packet != Packet::Closed => {
                if self.network.is_open(conn, from) {
                    let does = links.send(conn, from, packet);
                    self.does(conn, from, does);
                }
            }
            Some(_) | None => self.put(conn, to, packet),
        }
    }

    /// A packet, or bytes, set out as they are.
    fn put(&mut self, conn: ConnId, to: End, packet: Packet) {
        if let Some(at) = self.network.send(conn, to, self.now) {
            self.note_slow();
            self.schedule(at, Happening::Arrive { conn, to, packet });
        }
    }

    /// Something set out over a link that is slow.
    fn note_slow(&mut self) {
        for _ in 0..self.network.newly_felt() {
            self.took_effect("link.slow");
        }
    }

    /// A packet is at the other end, if it goes through.
    pub(crate) fn arrive(&mut self, conn: ConnId, to: End, packet: Packet) {
        let Some(device) = self.network.device_of(conn) else { return };
        if to == End::Device && self.devices[device as usize].halted.is_some() {
            if matches!(packet, Packet::Closed) && active(Mutant::EndUnread) {
                return;
            }
            // The kernel takes it, and keeps it for whoever reads the socket next.
            if let Some(waiting) = &mut self.devices[device as usize].asleep {
                waiting.push(Happening::Arrive { conn, to, packet });
                return;
            }
        }
        let Some(packet) = self.network.arrive(conn, to, packet) else { return };
        match (packet, &mut self.links) {
            (Packet::Bytes(_), Some(_)) if to == End::Broker && !self.broker.is_up() => {
                self.send(conn, End::Device, Packet::Closed);
                self.close(conn, End::Broker);
            }
            (Packet::Bytes(bytes), Some(links)) => {
                let does = links.receive(conn, to, &bytes);
                self.does(conn, to, does);
            }
            (packet, _) => self.receives(conn, to, device, packet),
        }
    }

    fn receives(&mut self, conn: ConnId, at: End, device: u32, packet: Packet) {
        match at {
            End::Broker => self.broker_receives(conn, device, packet),
            End::Device => self.device_receives(conn, device, packet),
        }
    }

    /// An end of a connection does something, at a level where bytes go over it.
    pub(crate) fn does(&mut self, conn: ConnId, end: End, does: Does) {
        let Some(device) = self.network.device_of(conn) else { return };
        for bytes in does.writes {
            self.put(conn, end.other(), Packet::Bytes(bytes));
        }
        for packet in does.hears {
            self.receives(conn, end, device, packet);
        }
        if let Some(reason) = does.ends.filter(|_| self.network.is_open(conn, end)) {
            self.send(conn, end.other(), Packet::Closed);
            self.close(conn, end);
            match end {
                End::Broker => {
                    let wills = self.broker.drop_session(conn);
                    self.deliver_all(wills);
                }
                End::Device => {
                    let process = self.devices[device as usize].process.as_ref();
                    if process.is_some_and(|process| process.conn == Some(conn)) {
                        self.disconnected(device, &reason);
                    }
                }
            }
        }
    }

    fn broker_receives(&mut self, conn: ConnId, device: u32, packet: Packet) {
        if !self.broker.is_up() {
            self.send(conn, End::Device, Packet::Closed);
            self.close(conn, End::Broker);
            return;
        }
        match packet {
            Packet::Connect { filters, will } => {
                self.herd.knock(self.now, device);
                self.ledger.knocks(self.now, device);
                let wills = match self.broker.session_of(device) {
                    Some(older) => {
                        self.send(older, End::Device, Packet::Closed);
                        self.close(older, End::Broker);
                        self.broker.drop_session(older)
                    }
                    None => Vec::new(),
                };
                self.deliver_all(wills);
                self.send(conn, End::Device, Packet::Accepted);
                let retained = self.broker.connect(conn, device, filters, will);
                self.deliver_all(retained);
            }
            Packet::Read { places, left } => {
                let retained = self.broker.read(conn, places, &left);
                self.deliver_all(retained);
            }
            Packet::Publish { topic, payload, retain } => {
                self.ledger.sent_up(topic.len() + payload.len());
                if self.broker.knows(conn) {
                    let segment = self.segment_of(&topic, &payload);
                    self.send(conn, End::Device, Packet::Acknowledged { segment });
                    self.watch_hello(device, &topic, &payload);
                    let deliveries = self.broker.publish(&topic, payload, retain);
                    self.deliver_all(deliveries);
                }
            }
            Packet::Closed => {
                self.close(conn, End::Broker);
                let wills = self.broker.drop_session(conn);
                self.deliver_all(wills);
            }
            Packet::Leaving => self.broker.forget_will(conn),
            Packet::Accepted | Packet::Acknowledged { .. } | Packet::Bytes(_) => {}
        }
    }

    /// Which segment a message carries, for the planted bug that takes the broker's word for the collector's.
    fn segment_of(&self, topic: &str, payload: &[u8]) -> Option<(EraId, u64)> {
        if !active(Mutant::ReleaseOnPuback) {
            return None;
        }
        let Some(Topic::UpAudit(_)) = Topic::parse(topic, &self.fleet) else { return None };
        let header = segment::Delivery::from_bytes(payload).ok()?.header().claim().ok()?;
        Some((header.era, header.segment))
    }

    fn device_receives(&mut self, conn: ConnId, device: u32, packet: Packet) {
        let current = self.devices[device as usize].process.as_ref().is_some_and(|process| process.conn == Some(conn));
        if !current {
            return;
        }
        match packet {
            Packet::Accepted => self.give(device, Input::Link(LinkEvent::Connected)),
            Packet::Publish { topic, payload, .. } => {
                self.tell(&Event::message(Some(device), &topic, &payload));
                self.ledger.sent_down(topic.len() + payload.len());
                self.judge_size(device, topic.len() + payload.len());
                let powered = self.devices[device as usize].powered(self.now);
                self.checks.clock.hear(device, self.now, powered);
                let place = Topic::parse(&topic, &self.fleet);
                if let Some(trick) = self.planted.remove(&payload) {
                    self.took_effect(trick.name());
                    self.expect_refusal(device, trick, &topic, &payload);
                }
                // The first of two may be the second, where another was late or lost on its way.
                if self.doubled.remove(&payload) {
                    self.planted.insert(payload.clone(), AckTrick::Twice);
                }
                self.watch_planted(device, &topic, &payload);
                self.watch_noise(device, &topic, &payload);
                match place {
                    Some(Topic::Bundle(version)) => self.watch_bundle(device, version, &payload),
                    Some(Topic::DownAck(_)) => self.watch_ack(device, &payload),
                    Some(Topic::DownAnswer(_)) => self.watch_answer(device, &topic, &payload),
                    Some(Topic::FeedHead(feed)) => self.watch_feed(device, &feed, None, &payload),
                    Some(Topic::FeedDelta(feed, place)) => self.watch_feed(device, &feed, Some((0, place)), &payload),
                    Some(Topic::FeedSkip(feed, level, place)) => {
                        self.watch_feed(device, &feed, Some((level, place)), &payload);
                    }
                    Some(Topic::FeedEmergency(_, key)) => self.watch_emergency(device, key, &payload),
                    Some(
                        Topic::Policy(_)
                        | Topic::FeedRules(_)
                        | Topic::FeedManifest(_)
                        | Topic::FeedPiece(..)
                        | Topic::UpHello(_)
                        | Topic::UpAudit(_)
                        | Topic::UpRequest(_)
                        | Topic::State(_)
                        | Topic::EnrolUp(_)
                        | Topic::EnrolDown(_),
                    )
                    | None => {}
                }
                self.give(device, Input::Link(LinkEvent::Message { topic, payload }));
            }
            Packet::Closed => {
                self.close(conn, End::Device);
                self.disconnected(device, "the broker closed the connection");
            }
            Packet::Acknowledged { segment: Some((era, segment)) } => {
                self.give(device, Input::Segment { era, segment, upload: None });
            }
            Packet::Acknowledged { segment: None }
            | Packet::Bytes(_)
            | Packet::Connect { .. }
            | Packet::Leaving
            | Packet::Read { .. } => {}
        }
    }

    /// An acknowledgement that a hostile broker made or kept back is to be refused, for a reason that the trick says.
    fn expect_refusal(&mut self, device: u32, trick: AckTrick, topic: &str, payload: &[u8]) {
        let refused = match trick {
            // By a key that is none any more, or none yet for all that the gateway knows, it is refused for that.
            AckTrick::Late | AckTrick::Twice if !self.speaks_as_service(device, payload) => return,
            AckTrick::Late | AckTrick::Twice => Refused::UnknownNonce,
            AckTrick::Foreign => Refused::BadSignature,
            AckTrick::WrongKey => Refused::UnknownKey { valid: 0, needed: 1 },
        };
        let alike = Alike { source: topic.to_owned(), reason: refused.to_string() };
        self.checks.evidence.expect_or_counted(self.now, device, payload, alike);
    }

    /// Whether a gateway takes an acknowledgement for the service's.
    fn speaks_as_service(&self, device: u32, ack: &[u8]) -> bool {
        let keys = self.operator.trust().service_keys();
        let ours = Signed::<Ack>::from_bytes(ack).and_then(|signed| signed.open(&self.fleet, keys, 1));
        ours.is_ok() && self.checks.monotone.bundle(device) == self.operator.bundle_version()
    }

    /// Whether a topic is one on which a gateway speaks to the service.
    fn sent_by(&self, device: u32, topic: &str) -> bool {
        let own = |of: &DeviceId| *of == self.devices[device as usize].name;
        match Topic::parse(topic, &self.fleet) {
            Some(Topic::UpHello(of) | Topic::UpAudit(of) | Topic::UpRequest(of)) => own(&of),
            Some(_) | None => false,
        }
    }

    fn deliver_all(&mut self, deliveries: Vec<Delivery>) {
        for delivery in deliveries {
            let Some(delivery) = self.trick(delivery) else { continue };
            let delivery = self.substitute(delivery);
            if delivery.after == 0 {
                self.deliver_now(delivery);
            } else {
                self.schedule(self.now + delivery.after, Happening::Deliver(delivery));
            }
        }
    }

    /// What the broker does to the acknowledgement of a `hello`, if it is to do something to this one.
    fn trick(&mut self, delivery: Delivery) -> Option<Delivery> {
        let To::Conn(conn) = delivery.to else { return Some(delivery) };
        let device = self.network.device_of(conn).filter(|device| self.tricks.contains_key(device));
        let Some(device) = device else { return Some(delivery) };
        let Some(Topic::DownAck(_)) = Topic::parse(&delivery.topic, &self.fleet) else { return Some(delivery) };
        let ack = Signed::<Ack>::from_bytes(&delivery.payload).and_then(|signed| signed.claim());
        let Some(nonce) = ack.ok().and_then(|ack| ack.nonce) else { return Some(delivery) };
        let trick = self.tricks.remove(&device)?;
        let (topic, payload) = (delivery.topic.clone(), delivery.payload.clone());
        let name = &self.devices[device as usize].name;
        match trick {
            AckTrick::Foreign | AckTrick::WrongKey => {
                let payload = self.operator.deceitful_ack(trick, name, nonce, date(self.now) + DECEIT);
                self.planted.insert(payload.clone(), trick);
                self.deliver_now(Delivery { payload, ..delivery.clone() });
                Some(delivery)
            }
            AckTrick::Late => {
                self.planted.insert(payload.clone(), trick);
                self.schedule(self.now + NONCE_LIFE.0 + LATER, Happening::LateFor { device, topic, payload });
                None
            }
            AckTrick::Twice => {
                self.doubled.insert(payload.clone());
                self.schedule(self.now + LATER, Happening::LateFor { device, topic, payload });
                Some(delivery)
            }
        }
    }

    /// The broker gives a gateway something on a topic of the feed that it must refuse, if it is connected and holds what
    /// that is to be told from.
    pub(crate) fn plant_on_feed(&mut self, device: u32, trick: FeedTrick) {
        self.disturbed();
        let Some(conn) = self.broker.session_of(device) else { return };
        if trick == FeedTrick::Substitute {
            self.substitutes.insert(device);
            return;
        }
        let told = self.checks.monotone.bundle(device) == self.operator.bundle_version();
        let name = &self.devices[device as usize].name;
        let stands = self.checks.feed.stands_at(device, &self.operator.newest(name));
        let Some((topic, payload)) = self.operator.deceitful_head(trick, name).filter(|_| told && stands) else {
            return;
        };
        let topic = topic.text(&self.fleet);
        if trick == FeedTrick::Endless && self.links.is_some() {
            // No client takes so much: the connection ends by it, and the agent never has to refuse it.
            self.took_effect(trick.name());
        } else {
            self.planted_on_feed.insert((device, topic.clone(), payload.clone()), trick);
        }
        self.deliver_now(Delivery { to: To::Conn(conn), topic, payload, after: 0 });
    }

    /// A gateway that is to be given another head than the fleet's is given it as soon as there is one.
    fn substitute(&mut self, mut delivery: Delivery) -> Delivery {
        let To::Conn(conn) = delivery.to else { return delivery };
        let device = self.network.device_of(conn).filter(|device| self.substitutes.contains(device));
        let Some(device) = device else { return delivery };
        let Some(Topic::FeedHead(_)) = Topic::parse(&delivery.topic, &self.fleet) else { return delivery };
        let name = &self.devices[device as usize].name;
        let newest = self.operator.newest(name);
        let next = newest.order.1 == self.checks.feed.seq(device, &newest.feed) + 1;
        let told = self.checks.monotone.bundle(device) == self.operator.bundle_version();
        let substitute = self.operator.deceitful_head(FeedTrick::Substitute, name).filter(|_| next && told);
        if let Some((_, payload)) = substitute {
            self.substitutes.remove(&device);
            self.took_effect(FeedTrick::Substitute.name());
            if Suspension::of(FeedTrick::Substitute.name()).is_some_and(|of| of.covers(Clause::Position)) {
                let believed = self.operator.open_announcement(&newest.feed, &payload);
                self.checks.feed.forged(believed.map(|believed| believed.position));
            }
            delivery.payload = payload;
        }
        delivery
    }

    /// What a gateway must refuse is there. Nothing is owed if it took in something else meanwhile.
    fn watch_planted(&mut self, device: u32, topic: &str, payload: &[u8]) {
        if self.planted_on_feed.is_empty() {
            return;
        }
        let Some(trick) = self.planted_on_feed.remove(&(device, topic.to_owned(), payload.to_vec())) else { return };
        let process = self.devices[device as usize].process.as_ref();
        let idle = process.is_some_and(|process| process.in_flight.is_none() && process.inbox.is_empty());
        let newest = self.operator.newest(&self.devices[device as usize].name);
        if idle && self.checks.feed.stands_at(device, &newest) {
            self.took_effect(trick.name());
            self.suspend(device, trick.name());
            if trick == FeedTrick::FarAhead {
                self.checks.emergency.contradicted(device);
            }
            if trick != FeedTrick::Leap {
                self.checks.evidence.expect(device, payload);
                let head = Announcement::from_bytes(payload).map(|announcement| announcement.head.digest());
                head.into_iter().for_each(|digest| self.checks.feed.is_refused(digest));
            }
        }
    }

    /// The broker sends a gateway something late, if it is connected.
    pub(crate) fn late_for(&mut self, device: u32, topic: String, payload: Vec<u8>) {
        if let Some(conn) = self.broker.session_of(device) {
            self.deliver_now(Delivery { to: To::Conn(conn), topic, payload, after: 0 });
        }
    }

    pub(crate) fn deliver_now(&mut self, delivery: Delivery) {
        let Delivery { to, topic, payload, .. } = delivery;
        match to {
            To::Conn(conn) => self.send(conn, End::Device, Packet::Publish { topic, payload, retain: Retain::No }),
            To::Service => self.schedule(self.now + SERVICE_MS, Happening::ServiceHears { topic, payload }),
        }
    }

    /// An end closes its socket. The other end may have to find out by itself.
    pub(crate) fn close(&mut self, conn: ConnId, end: End) {
        let device = self.network.device_of(conn);
        if end == End::Device && self.must_end.remove(&conn).is_some() {
            self.checks.tally.tried(Id::FailClosed, self.now, None);
        }
        if let Some(links) = &mut self.links {
            links.closed(conn, end);
        }
        if self.network.close(conn, end) {
            device.into_iter().for_each(|device| self.watch(device));
        }
    }

    /// When an end that hears nothing over a connection from now on has lost its patience: after one and a half to two
    /// keep-alives. `mark` tells one such silence from another.
    pub(crate) fn patience_ends(&self, conn: ConnId, mark: u64) -> u64 {
        let keepalive = self.scenario.profile.link.keepalive_s * 1000;
        let mut rng = stream(self.seed, &format!("conn-{conn}/{mark}"), "keep-alive");
        self.now + keepalive + keepalive / 2 + below(&mut rng, keepalive / 2 + 1)
    }

    /// Whoever holds a connection that does not work any more notices after one and a half to two keep-alives.
    pub(crate) fn watch(&mut self, device: u32) {
        for (conn, mark) in self.network.impaired(device) {
            for end in [End::Broker, End::Device] {
                if self.network.is_open(conn, end) {
                    let at = self.patience_ends(conn, mark);
                    self.schedule(at, Happening::KeepAlive { conn, end, mark });
                }
            }
        }
    }

    /// The broker has heard nothing over a connection of a gateway whose process has been stopped since some time: it gives
    /// the connection up.
    pub(crate) fn nothing_heard(&mut self, conn: ConnId, since: u64) {
        let Some(device) = self.network.device_of(conn) else { return };
        if self.devices[device as usize].halted == Some(since) && self.network.is_open(conn, End::Broker) {
            self.broker_hangs_up(conn);
        }
    }

    fn broker_hangs_up(&mut self, conn: ConnId) {
        self.send(conn, End::Device, Packet::Closed);
        self.close(conn, End::Broker);
        let wills = self.broker.drop_session(conn);
        self.deliver_all(wills);
    }

    pub(crate) fn keep_alive_ran_out(&mut self, conn: ConnId, end: End, mark: u64) {
        let Some(device) = self.network.device_of(conn) else { return };
        if !self.network.still_impaired(conn, mark) || !self.network.is_open(conn, end) {
            return;
        }
        match end {
            End::Broker => self.broker_hangs_up(conn),
            End::Device if self.devices[device as usize].halted.is_some() && active(Mutant::EndUnread) => {}
            End::Device => {
                self.send(conn, End::Broker, Packet::Closed);
                self.close(conn, End::Device);
                let process = self.devices[device as usize].process.as_ref();
                if process.is_some_and(|process| process.conn == Some(conn)) {
                    self.disconnected(device, "nothing heard within the keep-alive");
                }
            }
        }
    }

    pub(crate) fn block(&mut self, device: u32, direction: Direction) {
        self.network.block(device, direction);
        self.tell_link(device);
        self.watch(device);
    }

    pub(crate) fn unblock(&mut self, device: u32, direction: Direction) {
        for (conn, to) in self.network.unblock(device, direction) {
            let at = self.network.arrival(conn, to, self.now);
            self.note_slow();
            self.schedule(at, Happening::Flush { conn, to });
        }
        self.tell_link(device);
        self.watch(device);
    }

    /// Since when everything goes through in time, if it does.
    pub(crate) fn note_link(&mut self, device: u32) {
        match self.network.is_clear(device) {
            true => drop(self.link_up.insert(device, self.now)),
            false => drop(self.link_up.remove(&device)),
        }
    }

    fn tell_link(&mut self, device: u32) {
        let (up, down) = self.network.passes(device);
        self.tell(&Event::Link { device, up, down });
    }

    /// What was stuck arrives.
    pub(crate) fn flush(&mut self, conn: ConnId, to: End) {
        for packet in self.network.flush(conn, to) {
            self.arrive(conn, to, packet);
        }
    }

    pub(crate) fn half_open(&mut self, device: u32) {
        self.network.half_open(device);
        // Until that is noticed it hears nothing.
        if let Some(since) = self.link_up.get_mut(&device) {
            *since = self.now;
        }
        self.watch(device);
    }

    pub(crate) fn broker_stops(&mut self, retained: Retained) {
        if retained == Retained::Lost {
            self.broker_loses();
        }
        for conn in self.broker.stop(retained) {
            self.send(conn, End::Device, Packet::Closed);
            self.close(conn, End::Broker);
        }
        self.operator.disconnected();
    }

    /// What the broker was given to keep it may not have any more: who was behind may have nothing to catch up by.
    pub(crate) fn broker_loses(&mut self) {
        self.behind.clear();
        self.broker_lost = Some(self.now);
    }

    pub(crate) fn broker_starts(&mut self) {
        self.broker.start();
        self.link_up.values_mut().for_each(|since| *since = self.now);
        self.schedule(self.now + SERVICE_RETRY_MS, Happening::ServiceConnect);
    }

    pub(crate) fn broker_says(&mut self, deliveries: Vec<Delivery>) {
        self.deliver_all(deliveries);
    }

    /// The service connects, subscribes and publishes everything that is to be retained.
    pub(crate) fn service_connects(&mut self) {
        if !self.operator.is_running() || !self.broker.is_up() || self.broker.service_is_connected() {
            return;
        }
        let retained = self.broker.connect_service(service_filters(&self.fleet));
        self.deliver_all(retained);
        let publish = self.operator.connected(date(self.now));
        self.service_publishes(publish);
    }

    pub(crate) fn service_hears(&mut self, topic: &str, payload: &[u8]) {
        let publish = self.service_takes(topic, payload);
        self.service_publishes(publish);
    }

    /// The service takes a message in. Returns what it has to say to that.
    pub(crate) fn service_takes(&mut self, topic: &str, payload: &[u8]) -> Vec<Publish> {
        if !self.operator.is_running() {
            return Vec::new();
        }
        self.tell(&Event::message(None, topic, payload));
        let before = self.operator.collected().len();
        let by = self.ahead.iter().find(|(device, _)| self.sent_by(**device, topic)).map_or(0, |(_, by)| *by);
        let publish = self.operator.hears(topic, payload, date(self.now + by));
        let stored: Vec<Event> = self.operator.collected()[before..]
            .iter()
            .filter_map(|stored| {
                let header = stored.upload.header.claim().ok()?;
                self.ledger.stored(stored.device, &header);
                let backlog = self.ledger.backlog(stored.device);
                Some(Event::Stored { device: stored.device, era: header.era.number, segment: header.segment, backlog })
            })
            .collect();
        stored.iter().for_each(|event| self.tell(event));
        publish
    }

    pub(crate) fn service_ticks(&mut self) {
        if self.operator.is_running() {
            let publish = self.operator.ticks(date(self.now));
            self.service_publishes(publish);
        }
        self.schedule(self.now + SERVICE_TICK_MS, Happening::ServiceTick);
    }

    /// What the service publishes reaches the broker, if it is connected. What does not, is said again on the next
    /// connection.
    pub(crate) fn service_publishes(&mut self, publish: Vec<Publish>) {
        if !self.broker.service_is_connected() {
            return;
        }
        for Publish { topic, payload } in publish {
            let retain = if topic.retained() { Retain::Yes } else { Retain::No };
            let bytes = payload.len();
            let large = (bytes > MESSAGE_BYTES_MAX).then(|| format!("{topic} has {bytes} bytes"));
            self.checks.tally.tried(Id::MessageBounded, self.now, large);
            let deliveries = self.broker.publish(&topic.text(&self.fleet), payload, retain);
            self.deliver_all(deliveries);
        }
    }

    /// What a gateway says of itself never goes back.
    fn watch_hello(&mut self, device: u32, topic: &str, payload: &[u8]) {
        let Some(Topic::UpHello(_)) = Topic::parse(topic, &self.fleet) else { return };
        let Ok(hello) = Signed::<Hello>::from_bytes(payload).and_then(|signed| signed.claim()) else { return };
        let checks = &mut self.checks;
        let who = (device, &self.devices[device as usize].name);
        checks.monotone.hello(&mut checks.tally, self.now, who, &hello);
        checks.feed.said(&mut checks.tally, self.now, who.1, &hello.feeds);
    }

    /// Heads that the fleet signed since this was asked last, and what is revoked since then.
    pub(crate) fn note_signed(&mut self) {
        let Checks { tally, authority, feed, .. } = &mut self.checks;
        for (signed, head) in self.operator.take_signed() {
            feed.signed(tally, self.now, &signed, &head);
        }
        for (target, signed, until) in self.operator.take_published() {
            authority.published(target, signed, until);
        }
    }

    /// A gateway hears a head of its feed, at its place: what that adds counts from when it is durable.
    fn watch_feed(&mut self, device: u32, feed: &FeedId, asked: Option<(u8, u64)>, payload: &[u8]) {
        // Who has not the newest trust bundle on its disk may hold another key for the feed's.
        if self.checks.monotone.bundle(device) != self.operator.bundle_version() {
            return;
        }
        if self.checks.feed.own(device).is_none_or(|own| own.id != *feed) {
            return;
        }
        let Some(believed) = self.operator.open_announcement(feed, payload) else { return };
        let step = believed.step;
        let at_its_place = asked.map_or(step.level == 0, |asked| asked == (step.level, step.place()));
        self.note_signed();
        if at_its_place && self.checks.feed.is_signed(&believed.position) {
            if let Some(process) = &mut self.devices[device as usize].process {
                process.heard.push(believed.additions);
            }
        }
    }

    /// A gateway says hello: the nonce is good for one acknowledgement, on this connection.
    pub(crate) fn note_nonce(&mut self, device: u32, payload: &[u8]) {
        let Ok(hello) = Signed::<Hello>::from_bytes(payload).and_then(|signed| signed.claim()) else { return };
        self.operator.nonces.insert(device, Asked { nonce: hello.nonce, sent: self.now });
    }

    /// A gateway asks for a task's token: who waits for it does not wait for long.
    pub(crate) fn note_request(&mut self, device: u32, payload: &[u8]) {
        let Ok(request) = Signed::<Request>::from_bytes(payload).and_then(|signed| signed.claim()) else { return };
        if let Ask::Task(_) = request.ask {
            let now = self.now;
            self.tokens_asked.retain(|_, since| now < *since + FORGOTTEN);
            self.tokens_asked.insert((device, request.nonce), now);
        }
    }

    /// A gateway hears an answer. One that comes when nobody waits for it any more is refused, and recorded.
    fn watch_answer(&mut self, device: u32, topic: &str, payload: &[u8]) {
        let Ok(signed) = Signed::<Answer>::from_bytes(payload) else { return };
        let Ok(answer) = signed.open(&self.fleet, self.operator.trust().service_keys(), 1) else { return };
        let Some(since) = self.tokens_asked.remove(&(device, answer.nonce)) else { return };
        let late = self.now > since + self.devices[device as usize].profile().wallet.issuer_ms + NOBODY_WAITS;
        if late && self.checks.monotone.bundle(device) == self.operator.bundle_version() {
            let alike = Alike { source: topic.to_owned(), reason: Refused::UnknownNonce.to_string() };
            self.checks.evidence.expect_or_counted(self.now, device, payload, alike);
        }
    }

    /// A gateway hears what a broker made of bytes: what is no acknowledgement or answer at all is refused, and recorded.
    fn watch_noise(&mut self, device: u32, topic: &str, payload: &[u8]) {
        if self.noise.is_empty() || !self.noise.remove(&(device, topic.to_owned(), payload.to_vec())) {
            return;
        }
        let refused = match Topic::parse(topic, &self.fleet) {
            Some(Topic::DownAck(_)) => Signed::<Ack>::from_bytes(payload).err(),
            Some(Topic::DownAnswer(_)) => Signed::<Answer>::from_bytes(payload).err(),
            Some(_) | None => None,
        };
        if let Some(refused) = refused {
            let alike = Alike { source: topic.to_owned(), reason: refused.to_string() };
            self.checks.evidence.expect_or_counted(self.now, device, payload, alike);
        }
    }

    /// Where bytes go over the links: what a client hands in is no larger than it said that it takes.
    fn judge_size(&mut self, device: u32, bytes: usize) {
        if let Some(max) = self.links.as_ref().map(|links| links.bytes_max()) {
            let name = &self.devices[device as usize].name;
            let how = || format!("{name} took in a message of {bytes} bytes, of {max} at most");
            self.checks.tally.tried(Id::MessageBounded, self.now, (bytes > max).then(how));
        }
    }

    /// A gateway hears a trust bundle: what comes after it is judged by that.
    fn watch_bundle(&mut self, device: u32, version: u64, payload: &[u8]) {
        let genuine = self.operator.bundle(version).is_some_and(|signed| signed.to_bytes() == payload);
        if let Some(followed) = self.followed(device) {
            followed.hear(version, genuine);
        }
    }

    /// The trust bundle that a gateway goes by, as of what arrived. With nothing to do, it goes by that on its disk: what
    /// came while it hung up it has not heard.
    fn followed(&mut self, device: u32) -> Option<&mut Followed> {
        let held = self.version_held(device);
        let process = self.devices[device as usize].process.as_mut()?;
        if let Some(held) = held.filter(|_| process.in_flight.is_none() && process.inbox.is_empty()) {
            process.followed.idle(held);
        }
        Some(&mut process.followed)
    }

    /// An acknowledgement that a gateway believes. One that the newest service key signed is none where a broker keeps back
    /// the trust bundle that names that key, and one that the key before signed is: the clock of a gateway goes by neither
    /// the first nor past the second.
    fn believed(&mut self, device: u32, signed: &Signed<Ack>) -> Option<Ack> {
        let version = self.followed(device)?.version();
        let trust = self.operator.trust_of(version)?;
        signed.open(&self.fleet, trust.service_keys(), 1).ok()
    }

    /// What a service signed whose clock is ahead is believed.
    fn watch_time(&mut self, device: u32, signed: &Signed<Ack>) {
        if signed.claim().map_or(true, |ack| ack.time <= date(self.now)) {
            return;
        }
        if let Some(ack) = self.believed(device, signed) {
            let powered = self.devices[device as usize].powered(self.now);
            self.checks.clock.mislead(device, self.now, powered, ack.time);
            self.took_effect("service.ahead");
        }
    }

    /// An acknowledgement of the last `hello`, the first time that it comes and in time, is a contact, once what the
    /// gateway makes of it is durable.
    fn watch_ack(&mut self, device: u32, payload: &[u8]) {
        let Ok(signed) = Signed::<Ack>::from_bytes(payload) else { return };
        self.watch_time(device, &signed);
        let Some(ack) = self.believed(device, &signed) else { return };
        let asked = self.operator.nonces.get(&device).copied().filter(|asked| ack.nonce == Some(asked.nonce));
        if asked.is_some() || ack.nonce.is_none() {
            self.checks.authority.named(device, ack.bundle_version);
        }
        let Some(asked) = asked else { return };
        self.operator.nonces.remove(&device);
        let trip = self.now - asked.sent;
        if trip > NONCE_LIFE.0 {
            return;
        }
        let contact = Contact {
            at: self.now,
            powered: self.devices[device as usize].powered(self.now),
            time: ack.time,
            radius: ack.radius_ms,
            trip,
        };
        if let Some(process) = &mut self.devices[device as usize].process {
            process.contact = Some(contact);
        }
    }
}
