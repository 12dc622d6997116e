//! A twin: somebody copied a gateway's storage, and the copy runs elsewhere, under the gateway's name and with its keys.
//!
//! Owns: the twin's whole life: it starts, meets the fleet over a connection of its own, and hands over its audit.
//! Never: asks the checkers anything: what the twin does is the thief's affair. What the fleet and the gateway make of it
//! is judged.
//! Read next: `faults.toml` for what must follow.

use std::collections::VecDeque;
use std::convert::Infallible;

use hardtack::agent::effects::{LinkCommand, Publish};
use hardtack::agent::{Agent, Batch, Effects, Input, LinkEvent};
use hardtack::ids::{DeviceId, EraId};
use hardtack::wire::link::Topic;
use rand_core::RngCore;

use crate::check::Id;
use crate::clocks::{Battery, Clocks};
use crate::device::Restored;
use crate::disk::{steps, Disk};
use crate::fault::WallAfter;
use crate::random::stream;
use crate::recovery;
use crate::world::World;

/// How long a twin runs: long enough for a segment to close, and to be sent again.
const LIFE: u64 = 120_000;
/// Batches of inputs that a twin takes in, at most.
const ROUNDS: usize = 500;

impl World<'_> {
    /// A twin starts from a copy and lives its life, all at this moment of the world.
    pub(crate) fn run_twin(&mut self, number: u32, copy: u32) {
        self.disturbed();
        let device = &mut self.devices[number as usize];
        let Some(image) = device.copies.remove(&copy) else { return };
        let name = device.name.clone();
        let mut rng = stream(self.seed, &format!("gw-{number}"), &format!("twin-{copy}"));
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let mut clocks = Clocks::new(0, Battery::Missing, rng);
        let boot = clocks.power_on(self.now, WallAfter::Kept);
        let boot = device.boot_on(&image, &self.fleet, boot, seed);
        let mut disk = Disk::of(image.clone());
        let Some((_, now)) = clocks.read(self.now) else { return };
        let Ok((mut agent, mut effects)) = Agent::start(boot, now) else { return };
        let (mut at, end) = (self.now, self.now + LIFE);
        let mut inbox = VecDeque::new();
        for _ in 0..ROUNDS {
            let mut batch = Batch::default();
            let kept = effects.commit(|written| {
                batch = written;
                Ok::<(), Infallible>(())
            });
            let outgoing = match kept {
                Ok(outgoing) => outgoing,
                Err(never) => match never {},
            };
            steps(batch).into_iter().for_each(|step| disk.step(step));
            for (era, segment) in outgoing.loads {
                let upload = recovery::load(disk.durable(), era, segment);
                inbox.push_back(Input::Segment { era, segment, upload });
            }
            for hole in outgoing.holes {
                let remains = recovery::gather(disk.durable(), &hole);
                inbox.push_back(Input::Remains { hole, remains });
            }
            for command in outgoing.link {
                inbox.extend(self.twin_says(&name, command));
            }
            if inbox.is_empty() {
                let Some((_, now)) = clocks.read(at) else { break };
                let Some(due) = clocks.when(agent.poll_deadline(now.boottime)) else { break };
                at = due.max(at + 1);
                inbox.push_back(Input::Deadline);
            }
            let Some((_, now)) = clocks.read(at).filter(|_| at < end) else { break };
            effects = Effects::default();
            for input in inbox.drain(..) {
                agent.handle(input, now, &mut effects);
            }
        }
        let own = |era: &&_| !image.eras.contains_key(era);
        let eras: Vec<_> = disk.durable().eras.keys().filter(own).copied().collect();
        let began = eras.iter().map(|era| era.number).max().unwrap_or(0);
        let arrived: Vec<_> = eras.iter().copied().filter(|era| self.operator.holds(&name, *era)).collect();
        eras.into_iter().for_each(|era| self.checks.audit.cloned(number, era));
        self.took_effect("image.clone");
        if arrived.is_empty() {
            return;
        }
        let held = &self.devices[number as usize].disk.durable().eras;
        let newest = held.keys().next_back().map_or(0, |era| era.number);
        let beside = |era: &&EraId| arrived.iter().any(|of| of.number == era.number);
        let has_beside = held.keys().any(|era| beside(&era));
        let is_seen = !has_beside || held.keys().filter(beside).any(|era| self.operator.holds(&name, *era));
        if self.is_told_of(number, &arrived) {
            let is_first = self.devices[number as usize].restored != Restored::Yes;
            self.suspend(number, "image.clone");
            if is_first {
                self.devices[number as usize].copied = arrived;
            }
        }
        // The copy is so old that it has heard of the gateway's later eras: it is the one to lock.
        let device = &mut self.devices[number as usize];
        if device.restored == Restored::No {
            device.restored = Restored::Copied;
        }
        // The fleet sees two eras of one number.
        if began <= newest && is_seen {
            let proven = self.operator.forks().iter().any(|(of, _)| *of == name);
            let broken = (!proven).then(|| format!("{name} was cloned, and the collector keeps no proof of that"));
            self.checks.tally.tried(Id::Detected, self.now, broken);
        }
    }

    /// Whether a gateway in touch is told of eras that a copy began: of one past its own, and of each that has the number of
    /// one that it still holds, for that it names.
    fn is_told_of(&self, number: u32, eras: &[EraId]) -> bool {
        let held = &self.devices[number as usize].disk.durable().eras;
        let newest = held.keys().next_back().map_or(0, |era| era.number);
        eras.iter().any(|era| era.number > newest || held.keys().any(|of| of.number == era.number))
    }

    /// A gateway is in touch, the first time since its copy was. If it began later eras meanwhile, and has nothing left of
    /// those of the copy's numbers, it may never hear of that.
    pub(crate) fn meets_its_copy(&mut self, number: u32) {
        let copied = std::mem::take(&mut self.devices[number as usize].copied);
        if !copied.is_empty() && !self.is_told_of(number, &copied) {
            self.devices[number as usize].restored = Restored::Partly;
        }
    }

    /// What a twin says over its connection, and what it hears to that.
    fn twin_says(&mut self, name: &DeviceId, command: LinkCommand) -> Vec<Input> {
        match command {
            LinkCommand::Connect { filters, .. } => {
                let mut heard = vec![Input::Link(LinkEvent::Connected)];
                heard.extend(self.shown(&filters));
                heard
            }
            LinkCommand::Publish(said) => {
                let answers = self.service_takes(&said.topic.text(&self.fleet), &said.payload);
                let to_it = |publish: &Publish| publish.topic == Topic::DownAck(name.clone());
                let (own, rest): (Vec<Publish>, Vec<Publish>) = answers.into_iter().partition(to_it);
                self.service_publishes(rest);
                own.into_iter().map(|publish| message(publish.topic.text(&self.fleet), publish.payload)).collect()
            }
            LinkCommand::Read { places, .. } => {
                let places: Vec<String> = places.iter().map(|place| place.text(&self.fleet)).collect();
                self.shown(&places)
            }
            LinkCommand::Close => Vec::new(),
        }
    }

    /// What the broker keeps for whoever subscribes.
    fn shown(&mut self, filters: &[String]) -> Vec<Input> {
        let kept = self.broker.shown(filters).into_iter();
        kept.map(|delivery| message(delivery.topic, delivery.payload)).collect()
    }
}

fn message(topic: String, payload: Vec<u8>) -> Input {
    Input::Link(LinkEvent::Message { topic, payload })
}
