//! A broker and the fleet's service behind it, as plain as can be: who reads what, what is kept, and no faults.
//!
//! Owns: [`Up`] and [`Down`], what goes over a link, and [`run`].
//! Never: knows what a link is made of.
//! Read next: `plain.rs` and `storm.rs`, which bring links.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hardtack::agent::effects::{LinkCommand, Publish};
use hardtack::agent::{Input, LinkEvent, Now};
use hardtack::ids::FleetId;
use hardtack::time::Millis;
use hardtack::wire::link::service_filters;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::{interval, sleep_until, Instant};

use crate::party::{Fleet, Gateway, Said, START};
use crate::programs::{Counts, Program};

/// How often the service looks at the clock.
const TICK: Duration = Duration::from_secs(30);

/// From a gateway.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Up {
    Connect { filters: Vec<String> },
    Read { places: Vec<String>, left: Vec<String> },
    Publish { topic: String, payload: Vec<u8>, retain: bool },
}

/// To a gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Down {
    Accepted,
    Message { topic: String, payload: Vec<u8> },
}

/// What the hub is told of a connection, by its number.
pub(crate) enum From {
    Opened(UnboundedSender<Down>),
    Said(Up),
}

#[derive(Default)]
struct Broker {
    retained: BTreeMap<String, Vec<u8>>,
    connections: BTreeMap<u32, UnboundedSender<Down>>,
    of_topics: BTreeMap<String, BTreeSet<u32>>,
    of_filters: BTreeMap<String, BTreeSet<u32>>,
}

impl Broker {
    fn readers(&mut self, filter: &str) -> &mut BTreeSet<u32> {
        let side = if filter.contains('+') { &mut self.of_filters } else { &mut self.of_topics };
        side.entry(filter.to_owned()).or_default()
    }

    fn subscribe(&mut self, connection: u32, filters: &[String]) {
        for filter in filters {
            self.readers(filter).insert(connection);
            let fits = |(topic, _): &(&String, &Vec<u8>)| matches(filter, topic);
            for (topic, payload) in self.retained.iter().filter(fits) {
                self.send(connection, Down::Message { topic: topic.clone(), payload: payload.clone() });
            }
        }
    }

    fn publish(&mut self, topic: &str, payload: &[u8], retain: bool) {
        if retain && payload.is_empty() {
            self.retained.remove(topic);
        } else if retain {
            self.retained.insert(topic.to_owned(), payload.to_vec());
        }
        let covering = self.of_filters.iter().filter(|(filter, _)| matches(filter, topic)).map(|(_, readers)| readers);
        let readers: BTreeSet<u32> = self.of_topics.get(topic).into_iter().chain(covering).flatten().copied().collect();
        for reader in readers {
            self.send(reader, Down::Message { topic: topic.to_owned(), payload: payload.to_vec() });
        }
    }

    fn send(&self, connection: u32, down: Down) {
        if let Some(to) = self.connections.get(&connection) {
            // Who hung up hears no more.
            let _gone = to.send(down);
        }
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

/// Broker and service, until nobody can say anything any more.
pub(crate) async fn run(mut fleet: Fleet, mut said: UnboundedReceiver<(u32, From)>) {
    let began = now();
    let filters = service_filters(&fleet.name);
    let mut broker = Broker::default();
    let mut tick = interval(TICK);
    let first = fleet.connected(START);
    tell(&mut broker, &fleet.name, first);
    loop {
        let heard = tokio::select! {
            heard = said.recv() => heard,
            _ = tick.tick() => {
                let published = fleet.ticks(START + passed(began));
                tell(&mut broker, &fleet.name, published);
                continue;
            }
        };
        let Some((connection, heard)) = heard else { return };
        match heard {
            From::Opened(to) => drop(broker.connections.insert(connection, to)),
            From::Said(Up::Connect { filters }) => {
                broker.send(connection, Down::Accepted);
                broker.subscribe(connection, &filters);
            }
            From::Said(Up::Read { places, left }) => {
                for filter in left {
                    broker.readers(&filter).remove(&connection);
                }
                broker.subscribe(connection, &places);
            }
            From::Said(Up::Publish { topic, payload, retain }) => {
                broker.publish(&topic, &payload, retain);
                if filters.iter().any(|filter| matches(filter, &topic)) {
                    let published = fleet.hears(&topic, &payload, START + passed(began));
                    tell(&mut broker, &fleet.name, published);
                }
            }
        }
    }
}

fn tell(broker: &mut Broker, fleet: &FleetId, published: Vec<Publish>) {
    for Publish { topic, payload } in published {
        broker.publish(&topic.text(fleet), &payload, topic.retained());
    }
}

/// A gateway with a program on it, over a link that is there, for so long. Returns what the program was answered.
pub(crate) async fn gateway(
    (number, fleet): (u32, FleetId),
    (mut gateway, first): (Gateway, Said),
    up: impl Fn(Up),
    mut down: UnboundedReceiver<Down>,
    lasts: Duration,
) -> Counts {
    let began = now();
    let mut program = Program::new(number);
    speak(first, &fleet, &up, &mut program);
    loop {
        let at = passed(began);
        let deadline = gateway.deadline(at);
        let wake = deadline.min(program.due());
        let mut inputs = Vec::new();
        tokio::select! {
            () = sleep_until(began + Duration::from_millis(wake.0).min(lasts)) => {}
            heard = down.recv() => match heard {
                Some(Down::Accepted) => inputs.push(Input::Link(LinkEvent::Connected)),
                Some(Down::Message { topic, payload }) => {
                    inputs.push(Input::Link(LinkEvent::Message { topic, payload }));
                }
                None => return program.counts,
            },
        }
        let at = passed(began);
        if at.0 >= lasts.as_millis() as u64 {
            return program.counts;
        }
        if deadline <= at {
            inputs.push(Input::Deadline);
        }
        inputs.extend(program.ask(at));
        let said = gateway.take(inputs, Now { boottime: at, wall: Some(START + at) });
        speak(said, &fleet, &up, &mut program);
    }
}

fn speak(said: Said, fleet: &FleetId, up: impl Fn(Up), program: &mut Program) {
    for command in said.link {
        match command {
            LinkCommand::Close => {}
            LinkCommand::Connect { filters, .. } => up(Up::Connect { filters }),
            LinkCommand::Publish(Publish { topic, payload }) => {
                up(Up::Publish { topic: topic.text(fleet), payload, retain: topic.retained() });
            }
            LinkCommand::Read { places, left } => {
                let texts = |topics: Vec<_>| {
                    topics.iter().map(|topic: &hardtack::wire::link::Topic| topic.text(fleet)).collect()
                };
                up(Up::Read { places: texts(places), left: texts(left) });
            }
        }
    }
    said.replies.into_iter().for_each(|reply| program.hear(reply));
}

/// The simulated clock.
#[expect(clippy::disallowed_methods, reason = "time is paused, and tokio's clock is the world's")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

fn passed(since: Instant) -> Millis {
    Millis(now().duration_since(since).as_millis() as u64)
}
