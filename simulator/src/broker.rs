//! An MQTT broker as a model: sessions that end with their connection, retained messages, last wills, QoS 1.
//!
//! Owns: who is connected with which filters, what is retained, backups, the history of everything that it ever saw, and
//! what it does to messages when it is hostile.
//! Never: breaks a signature or opens what is sealed. It can only reorder, change, keep and repeat bytes.
//! Read next: `world.rs`, which carries its deliveries.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

use crate::fault::{Forgotten, Hostility, Retained, Statement};
use crate::network::{ConnId, Retain};
use crate::plan::Turn;
use crate::random::{below, between, happens, stream};

/// How many messages it can remember to send again.
const HISTORY: usize = 4096;
/// How many messages a replay sends.
const REPLAYED: usize = 32;

/// Who gets a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum To {
    /// A gateway's connection.
    Conn(ConnId),
    /// The fleet's service.
    Service,
}

/// A message on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) to: To,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// How long the broker sits on it.
    pub(crate) after: u64,
}

#[derive(Debug)]
struct Session {
    device: u32,
    filters: Vec<String>,
    will: Option<(String, Vec<u8>)>,
}

/// Who reads what: a thousand gateways have the same few filters, or one of their own.
#[derive(Debug, Default)]
struct Readers {
    /// By topic.
    of_topics: BTreeMap<String, BTreeSet<ConnId>>,
    /// By filter, of those that cover several topics.
    of_filters: BTreeMap<String, BTreeSet<ConnId>>,
}

impl Readers {
    fn add(&mut self, conn: ConnId, filter: &str) {
        self.side_of(filter).entry(filter.to_owned()).or_default().insert(conn);
    }

    fn remove(&mut self, conn: ConnId, filter: &str) {
        let side = self.side_of(filter);
        let Some(readers) = side.get_mut(filter) else { return };
        readers.remove(&conn);
        if readers.is_empty() {
            side.remove(filter);
        }
    }

    fn side_of(&mut self, filter: &str) -> &mut BTreeMap<String, BTreeSet<ConnId>> {
        if filter.contains('+') {
            &mut self.of_filters
        } else {
            &mut self.of_topics
        }
    }

    fn of(&self, topic: &str) -> BTreeSet<ConnId> {
        let covering = self.of_filters.iter().filter(|(filter, _)| matches(filter, topic)).map(|(_, readers)| readers);
        self.of_topics.get(topic).into_iter().chain(covering).flatten().copied().collect()
    }
}

/// The broker.
#[derive(Debug)]
pub(crate) struct Broker {
    up: bool,
    retained: BTreeMap<String, Vec<u8>>,
    sessions: BTreeMap<ConnId, Session>,
    /// Each gateway has one.
    session_of: BTreeMap<u32, ConnId>,
    readers: Readers,
    service: Option<Vec<String>>,
    backups: BTreeMap<u32, BTreeMap<String, Vec<u8>>>,
    history: VecDeque<(String, Vec<u8>)>,
    /// The first manifest of a snapshot that it ever had, with the pieces that came before it.
    first_snapshot: BTreeMap<String, Vec<u8>>,
    hostility: Hostility,
    /// Statements that it keeps back, and how late they come if they do.
    delays: BTreeMap<(Statement, Option<u32>), Option<u64>>,
    /// How often it did what to messages.
    done: BTreeMap<&'static str, u64>,
    rng: ChaCha8Rng,
}

impl Broker {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            up: true,
            retained: BTreeMap::new(),
            sessions: BTreeMap::new(),
            session_of: BTreeMap::new(),
            readers: Readers::default(),
            service: None,
            backups: BTreeMap::new(),
            history: VecDeque::new(),
            first_snapshot: BTreeMap::new(),
            hostility: Hostility::default(),
            delays: BTreeMap::new(),
            done: BTreeMap::new(),
            rng: stream(seed, "broker", "hostility"),
        }
    }

    /// From now on its whims are drawn with another seed.
    pub(crate) fn draw_anew(&mut self, seed: u64) {
        self.rng = stream(seed, "broker", "hostility");
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up
    }

    /// It goes away: the connections that it had.
    pub(crate) fn stop(&mut self, retained: Retained) -> Vec<ConnId> {
        self.up = false;
        self.service = None;
        if retained == Retained::Lost {
            self.retained.clear();
        }
        self.readers = Readers::default();
        self.session_of.clear();
        std::mem::take(&mut self.sessions).into_keys().collect()
    }

    pub(crate) fn start(&mut self) {
        self.up = true;
    }

    /// The connection that a gateway has, which a new one takes over.
    pub(crate) fn session_of(&self, device: u32) -> Option<ConnId> {
        self.session_of.get(&device).copied()
    }

    /// Whether this is what it has retained there.
    pub(crate) fn retains(&self, topic: &str, payload: &[u8]) -> bool {
        self.retained.get(topic).is_some_and(|known| known == payload)
    }

    /// A gateway connects and subscribes: what is retained for it.
    pub(crate) fn connect(
        &mut self,
        conn: ConnId,
        device: u32,
        filters: Vec<String>,
        will: Option<(String, Vec<u8>)>,
    ) -> Vec<Delivery> {
        let retained = self.retained_for(To::Conn(conn), Some(device), &filters);
        filters.iter().for_each(|filter| self.readers.add(conn, filter));
        self.sessions.insert(conn, Session { device, filters, will });
        self.session_of.insert(device, conn);
        retained
    }

    /// A gateway subscribes to more, and leaves what it has read: what is retained of that.
    pub(crate) fn read(&mut self, conn: ConnId, places: Vec<String>, left: &[String]) -> Vec<Delivery> {
        let retained = self.retained_for(To::Conn(conn), self.device_at(conn), &places);
        let Some(session) = self.sessions.get_mut(&conn) else { return Vec::new() };
        left.iter().for_each(|filter| self.readers.remove(conn, filter));
        places.iter().for_each(|filter| self.readers.add(conn, filter));
        session.filters.retain(|filter| !left.contains(filter));
        session.filters.extend(places);
        retained
    }

    /// What whoever subscribes to these filters is shown.
    pub(crate) fn shown(&mut self, filters: &[String]) -> Vec<Delivery> {
        self.retained_for(To::Service, None, filters)
    }

    /// The service connects and subscribes.
    pub(crate) fn connect_service(&mut self, filters: Vec<String>) -> Vec<Delivery> {
        let retained = self.retained_for(To::Service, None, &filters);
        self.service = Some(filters);
        retained
    }

    pub(crate) fn disconnect_service(&mut self) {
        self.service = None;
    }

    pub(crate) fn service_is_connected(&self) -> bool {
        self.service.is_some()
    }

    /// A connection is gone without a word: its last will is published.
    pub(crate) fn drop_session(&mut self, conn: ConnId) -> Vec<Delivery> {
        let Some(session) = self.sessions.remove(&conn) else { return Vec::new() };
        if self.session_of(session.device) == Some(conn) {
            self.session_of.remove(&session.device);
        }
        session.filters.iter().for_each(|filter| self.readers.remove(conn, filter));
        match session.will {
            Some((topic, payload)) => self.publish(&topic, payload, Retain::Yes),
            None => Vec::new(),
        }
    }

    /// A connection ends in order: its last will is not published.
    pub(crate) fn forget_will(&mut self, conn: ConnId) {
        if let Some(session) = self.sessions.get_mut(&conn) {
            session.will = None;
        }
    }

    /// Whether a connection was accepted and lives.
    pub(crate) fn knows(&self, conn: ConnId) -> bool {
        self.sessions.contains_key(&conn)
    }

    /// A message arrived: what goes out for it. The sender has its PUBACK whatever becomes of it.
    pub(crate) fn publish(&mut self, topic: &str, payload: Vec<u8>, retain: Retain) -> Vec<Delivery> {
        self.history.push_back((topic.to_owned(), payload.clone()));
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        if happens(&mut self.rng, self.hostility.drop) {
            self.did("broker.hostile drop");
            return Vec::new();
        }
        if statement(topic).is_some_and(|what| self.delays.get(&(what, None)) == Some(&None)) {
            self.did("broker.withhold");
            return Vec::new();
        }
        if retain == Retain::Yes {
            if payload.is_empty() {
                self.retained.remove(topic);
            } else {
                self.note_first_snapshot(topic, &payload);
                self.retained.insert(topic.to_owned(), payload.clone());
            }
        }
        let service = self.service.iter().filter(|filters| filters.iter().any(|filter| matches(filter, topic)));
        let service = service.map(|_| To::Service);
        let targets: Vec<To> = self.readers.of(topic).into_iter().map(To::Conn).chain(service).collect();
        targets.into_iter().flat_map(|to| self.mistreat(to, topic, payload.clone())).collect()
    }

    fn note_first_snapshot(&mut self, topic: &str, payload: &[u8]) {
        let complete = self.first_snapshot.keys().any(|topic| topic.contains("/snap/manifest/"));
        if !complete && topic.contains("/snap/") {
            self.first_snapshot.insert(topic.to_owned(), payload.to_vec());
        }
    }

    /// What a hostile broker makes of one delivery.
    fn mistreat(&mut self, to: To, topic: &str, payload: Vec<u8>) -> Vec<Delivery> {
        let mut delivery = Delivery { to, topic: topic.to_owned(), payload, after: 0 };
        let how = self.hostility;
        let device = match to {
            To::Conn(conn) => self.device_at(conn),
            To::Service => None,
        };
        let from_it = self.kept_from(device, topic);
        if from_it == Some(None) {
            self.did("broker.withhold");
            return Vec::new();
        }
        let from_all = statement(topic).and_then(|what| self.delays.get(&(what, None)).copied().flatten());
        if let Some(late) = from_it.flatten().max(from_all) {
            self.did("broker.delay");
            delivery.after = late;
        }
        if happens(&mut self.rng, how.delay) {
            self.did("broker.hostile delay");
            delivery.after = between(&mut self.rng, 1000, 600_000);
        }
        let mut deliveries = vec![delivery.clone()];
        if happens(&mut self.rng, how.duplicate) {
            self.did("broker.hostile duplicate");
            deliveries.push(Delivery { after: delivery.after + below(&mut self.rng, 5000), ..delivery.clone() });
        }
        if happens(&mut self.rng, how.forge) {
            self.did("broker.hostile forge");
            deliveries[0].payload = self.forge(topic, delivery.payload);
        }
        deliveries
    }

    /// A bit flipped, the end cut off, somebody else's message, or noise.
    fn forge(&mut self, topic: &str, mut payload: Vec<u8>) -> Vec<u8> {
        match below(&mut self.rng, 4) {
            0 if !payload.is_empty() => {
                let bit = below(&mut self.rng, payload.len() as u64 * 8) as usize;
                payload[bit / 8] ^= 1 << (bit % 8);
            }
            1 => payload.truncate(below(&mut self.rng, payload.len() as u64) as usize),
            2 => {
                let kind = topic.rsplit('/').next();
                let others: Vec<&Vec<u8>> = self
                    .history
                    .iter()
                    .filter(|(other, _)| other != topic && other.rsplit('/').next() == kind)
                    .map(|(_, payload)| payload)
                    .collect();
                let picked = below(&mut self.rng, others.len() as u64) as usize;
                payload = others.get(picked).map_or(Vec::new(), |other| (*other).clone());
            }
            _ => {
                payload = vec![0; below(&mut self.rng, 512) as usize];
                self.rng.fill_bytes(&mut payload);
            }
        }
        payload
    }

    pub(crate) fn turn(&mut self, how: Hostility) {
        self.hostility = how;
    }

    /// Whether it keeps statements from a device, for a while or for good.
    pub(crate) fn keeps_from(&self, device: u32) -> bool {
        self.delays.keys().any(|(_, of)| of.is_none_or(|of| of == device))
    }

    /// Keeps back a kind of statement from now on, from one gateway or from all, or gives it out late, or ceases to.
    pub(crate) fn delay(&mut self, what: Statement, device: Option<u32>, late: Option<u64>, turn: Turn) {
        match turn {
            Turn::Begins => drop(self.delays.insert((what, device), late)),
            Turn::Ends => drop(self.delays.remove(&(what, device))),
        }
    }

    fn did(&mut self, what: &'static str) {
        *self.done.entry(what).or_default() += 1;
    }

    /// How often it did what to messages.
    pub(crate) fn done(&self) -> &BTreeMap<&'static str, u64> {
        &self.done
    }

    /// Loses some of what is retained of the feed. Whether there was any.
    pub(crate) fn forget(&mut self, what: Forgotten) -> bool {
        let first = self.first_snapshot.clone();
        let before = self.retained.len();
        self.retained.retain(|topic, _| !is_forgotten(what, topic));
        let changed = self.retained.len() < before;
        if what == Forgotten::ToFirstSnapshot {
            self.retained.extend(first);
        }
        changed
    }

    pub(crate) fn backup(&mut self, number: u32) {
        self.backups.insert(number, self.retained.clone());
    }

    /// Goes back to a backup: what is retained is what it was, and everybody who is connected is sent it.
    pub(crate) fn restore(&mut self, number: u32) -> Vec<Delivery> {
        if let Some(backup) = self.backups.get(&number) {
            self.retained = backup.clone();
        }
        let sessions: Vec<(ConnId, Vec<String>)> =
            self.sessions.iter().map(|(conn, session)| (*conn, session.filters.clone())).collect();
        sessions
            .into_iter()
            .flat_map(|(conn, filters)| self.retained_for(To::Conn(conn), self.device_at(conn), &filters))
            .collect()
    }

    /// Sends a gateway a run of old messages that it was once meant to get.
    pub(crate) fn replay(&mut self, device: u32, pick: u64) -> Vec<Delivery> {
        let current = self.session_of(device).and_then(|conn| self.sessions.get_key_value(&conn));
        let Some((conn, session)) = current else { return Vec::new() };
        let wanted = |topic: &str| session.filters.iter().any(|filter| matches(filter, topic));
        let old: Vec<&(String, Vec<u8>)> = self.history.iter().filter(|(topic, _)| wanted(topic)).collect();
        let start = (pick % (old.len() as u64).max(1)) as usize;
        let run = old.into_iter().skip(start).take(REPLAYED);
        let deliver = |(topic, payload): &(String, Vec<u8>)| Delivery {
            to: To::Conn(*conn),
            topic: topic.clone(),
            payload: payload.clone(),
            after: 0,
        };
        run.map(deliver).collect()
    }

    /// The gateway that a connection is of.
    fn device_at(&self, conn: ConnId) -> Option<u32> {
        self.sessions.get(&conn).map(|session| session.device)
    }

    /// How a statement is kept back from one gateway, if it is: how late it comes, or that it does not.
    fn kept_from(&self, device: Option<u32>, topic: &str) -> Option<Option<u64>> {
        self.delays.get(&(statement(topic)?, Some(device?))).copied()
    }

    fn retained_for(&mut self, to: To, device: Option<u32>, filters: &[String]) -> Vec<Delivery> {
        let of_filter = |filter: &String| {
            let filter = filter.clone();
            let begin = filter.split('+').next().unwrap_or_default().to_owned();
            let near = self.retained.range(begin.clone()..).take_while(move |(topic, _)| topic.starts_with(&begin));
            near.filter(move |(topic, _)| matches(&filter, topic))
        };
        let deliver = |(topic, payload): (&String, &Vec<u8>)| Delivery {
            to,
            topic: topic.clone(),
            payload: payload.clone(),
            after: 0,
        };
        let all: Vec<Delivery> = filters.iter().flat_map(of_filter).map(deliver).collect();
        let (kept, shown): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|delivery| self.kept_from(device, &delivery.topic) == Some(None));
        kept.iter().for_each(|_| self.did("broker.withhold"));
        shown
    }
}

/// Which kind of signed statement a topic carries, of those that can be kept back.
fn statement(topic: &str) -> Option<Statement> {
    let mut levels = topic.rsplit('/');
    match (levels.next(), levels.next(), levels.next()) {
        (Some("ack"), Some("down"), _) => Some(Statement::Acks),
        (Some("answer"), Some("down"), _) => Some(Statement::Answers),
        (Some("head"), _, Some("feed")) => Some(Statement::Heads),
        (Some(_), Some(_), Some("snap" | "skip")) | (Some(_), Some("delta"), _) | (Some("rules"), _, Some("feed")) => {
            Some(Statement::Lists)
        }
        (Some(_) | None, Some(_) | None, Some(_) | None) => None,
    }
}

/// Whether a broker that loses this loses what it has retained here.
fn is_forgotten(what: Forgotten, topic: &str) -> bool {
    let (of_feed, of_snapshot) = (topic.contains("/feed/"), topic.contains("/snap/"));
    let of_ladder = topic.contains("/delta/") || topic.contains("/skip/");
    match what {
        Forgotten::Feed => of_feed,
        Forgotten::Ladder => of_feed && of_ladder,
        Forgotten::Snapshot => of_feed && of_snapshot,
        Forgotten::ToFirstSnapshot => of_feed && (of_ladder || of_snapshot),
    }
}

/// Whether a filter with `+` for one level covers a topic.
fn matches(filter: &str, topic: &str) -> bool {
    let (mut wanted, mut given) = (filter.split('/'), topic.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(a), Some(b)) if a == b => {}
            (Some(_) | None, Some(_) | None) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected() -> Broker {
        let mut broker = Broker::new(1);
        broker.connect(1, 0, vec!["f/head".into(), "d/0/+".into()], Some(("d/0/state".into(), b"gone".to_vec())));
        broker.connect_service(vec!["d/+/up".into()]);
        broker
    }

    #[test]
    fn filters_cover_one_level() {
        assert!(matches("a/+/c", "a/b/c"));
        assert!(!matches("a/+", "a/b/c"));
        assert!(!matches("a/b/c", "a/b"));
    }

    #[test]
    fn messages_go_to_whom_they_concern_and_retained_ones_to_who_comes_later() {
        let mut broker = connected();
        let out = broker.publish("d/0/up", vec![1], Retain::No);
        assert_eq!(out.iter().map(|d| d.to).collect::<Vec<_>>(), [To::Conn(1), To::Service]);
        broker.publish("f/head", vec![2], Retain::Yes);
        let late = broker.connect(2, 1, vec!["f/head".into()], None);
        assert_eq!(late[0].payload, [2]);
        broker.publish("f/head", Vec::new(), Retain::Yes);
        let none = broker.connect(3, 1, vec!["f/head".into()], None);
        assert!(none.is_empty());
        assert_eq!(broker.session_of(0), Some(1));
    }

    #[test]
    fn state_is_lost_kept_or_old_as_asked() {
        let mut broker = connected();
        broker.publish("f/head", vec![1], Retain::Yes);
        broker.backup(7);
        broker.publish("f/head", vec![2], Retain::Yes);
        assert_eq!(broker.restore(7)[0].payload, [1]);
        assert_eq!(broker.stop(Retained::Kept), [1]);
        assert_eq!(broker.retained["f/head"], [1]);
        broker.stop(Retained::Lost);
        assert!(broker.retained.is_empty());
    }

    #[test]
    fn a_session_that_drops_leaves_its_will() {
        let mut broker = connected();
        broker.drop_session(1);
        assert_eq!(broker.retained["d/0/state"], b"gone");
        assert!(broker.drop_session(1).is_empty());
    }

    #[test]
    fn statements_are_kept_back_or_late_by_kind() {
        let mut broker = connected();
        let (head, list) = ("f/feed/main/head", "f/feed/main/snap/rules/3");
        broker.connect(2, 1, vec![head.into(), list.into()], None);
        broker.delay(Statement::Heads, None, None, Turn::Begins);
        broker.delay(Statement::Lists, None, Some(70), Turn::Begins);
        assert!(broker.publish(head, vec![1], Retain::Yes).is_empty());
        assert_eq!(broker.publish(list, vec![1], Retain::Yes)[0].after, 70);
        broker.delay(Statement::Heads, None, None, Turn::Ends);
        assert_eq!(broker.publish(head, vec![2], Retain::Yes).len(), 1);
        assert_eq!(broker.done()["broker.withhold"], 1);
        assert_eq!(statement("f/dev/gw/down/ack"), Some(Statement::Acks));
        assert_eq!(statement("f/dev/gw/up/hello"), None);
    }

    #[test]
    fn what_is_kept_from_one_gateway_others_are_shown() {
        let mut broker = connected();
        let head = "f/feed/main/head";
        broker.connect(2, 1, vec![head.into()], None);
        broker.connect(3, 2, vec![head.into()], None);
        broker.delay(Statement::Heads, Some(1), None, Turn::Begins);
        broker.delay(Statement::Heads, Some(2), Some(70), Turn::Begins);
        let shown = broker.publish(head, vec![1], Retain::Yes);
        assert_eq!(shown.iter().map(|to| (to.to, to.after)).collect::<Vec<_>>(), [(To::Conn(3), 70)]);
        assert!(broker.connect(4, 1, vec![head.into()], None).is_empty(), "nor when it connects again");
        assert_eq!(broker.done()["broker.withhold"], 2);
        broker.delay(Statement::Heads, Some(1), None, Turn::Ends);
        assert_eq!(broker.connect(5, 1, vec![head.into()], None).len(), 1, "it was there all the time");
    }

    #[test]
    fn replay_repeats_old_messages() {
        let mut broker = connected();
        (0..5).for_each(|n| drop(broker.publish("f/head", vec![n], Retain::Yes)));
        let replayed: Vec<u8> = broker.replay(0, 2).into_iter().map(|d| d.payload[0]).collect();
        assert_eq!(replayed, [2, 3, 4]);
    }

    #[test]
    fn a_hostile_broker_does_each_of_its_four_things() {
        let all = Hostility { drop: 0, duplicate: 0, delay: 0, forge: 0 };
        let count = |how: Hostility| {
            let mut broker = connected();
            broker.turn(how);
            (0..200).flat_map(|n| broker.publish("f/head", vec![n; 8], Retain::No)).collect::<Vec<_>>()
        };
        assert_eq!(count(all).len(), 200);
        assert!(count(Hostility { drop: 50, ..all }).len() < 150);
        assert!(count(Hostility { duplicate: 50, ..all }).len() > 250);
        assert!(count(Hostility { delay: 50, ..all }).iter().any(|d| d.after >= 1000));
        let forged = count(Hostility { forge: 50, ..all });
        assert!(forged.iter().zip(0u8..).any(|(d, n)| d.payload != [n; 8]));
    }
}
