//! How a gateway stops, and goes on.
//!
//! Owns: sleep, halts, kills, cuts of power, refused writes, and what is left of what was under way.
//! Never: decides when.
//! Read next: `disk.rs`, which says what a cut leaves.

use std::convert::Infallible;

use hardtack::agent::{Batch, Effects, Input};

use crate::device::{Cut, Process, Refused, Watched};
use crate::disk::{steps, Fate, Step};
use crate::drive::Reaches;
use crate::event::Event;
use crate::fault::{Direction, Part, Sync};
use crate::network::{End, Packet};
use crate::random::{below, stream};
use crate::real::CutShort;
use crate::world::{Happening, World};

impl World<'_> {
    /// Nothing runs from now on; nobody on the gateway notices.
    pub(crate) fn fall_asleep(&mut self, number: u32) {
        let device = &mut self.devices[number as usize];
        device.asleep.get_or_insert_default();
        device.watched = Watched::No;
        self.tell(&Event::Asleep { device: number, asleep: true });
        self.note_running(number);
        self.block(number, Direction::Both);
    }

    /// It runs again.
    pub(crate) fn wake_up(&mut self, number: u32) {
        self.unblock(number, Direction::Both);
        self.go_on(number);
    }

    /// The process gets no time from now on. The kernel goes on: it takes what comes over the link, and the broker hears
    /// nothing.
    pub(crate) fn halt(&mut self, number: u32) {
        let now = self.now;
        let device = &mut self.devices[number as usize];
        // Whatever is started later is another process.
        let Some(process) = &device.process else { return };
        let (conn, ran) = (process.conn, device.asleep.is_none());
        device.asleep.get_or_insert_default();
        (device.halted, device.watched) = (Some(now), Watched::No);
        self.tell(&Event::Asleep { device: number, asleep: true });
        self.struck("process.stop", ran);
        self.note_running(number);
        if let Some(conn) = conn {
            let at = self.patience_ends(conn, now);
            self.schedule(at, Happening::Unheard { conn, since: now });
        }
    }

    /// What fell due while nothing ran happens now, unless another fault still keeps it from that. If the supply failed,
    /// there is nothing to wake.
    pub(crate) fn go_on(&mut self, number: u32) {
        let device = &mut self.devices[number as usize];
        if !device.stopped.is_away() {
            device.halted = None;
        }
        if device.halted.is_some() || device.suspended.is_away() {
            return;
        }
        let waiting = device.asleep.take();
        if waiting.is_some() {
            self.tell(&Event::Asleep { device: number, asleep: false });
            // Whether an answer came before the end of what was waited for for it, the agent sees only now.
            self.tokens_asked.retain(|(asker, _), _| *asker != number);
            self.catches_up_from_now(number);
        }
        for waiting in waiting.into_iter().flatten() {
            self.schedule(self.now, waiting);
        }
        self.note_running(number);
        self.pump(number);
    }

    /// The supply fails now, at a boundary of the commit in progress if there is one.
    pub(crate) fn cut_power(&mut self, number: u32, cut: Cut) {
        let mut rng = stream(cut.pick, "cut", "fates");
        let steps = in_flight_steps(&self.devices[number as usize].process).len() as u64;
        let done = below(&mut rng, steps + 1);
        let mut fate = || match below(&mut rng, 3) {
            0 => Fate::Lost,
            1 => Fate::Kept,
            _ => Fate::Torn,
        };
        let reaches = |name: &str, moments: u64| below(&mut stream(cut.pick, name, "lies"), moments + 1);
        self.stop(number, Some(done), &mut fate, &reaches);
        self.schedule(self.now + cut.lasts, Happening::PowerOn { device: number, wall: cut.wall });
    }

    /// The supply fails after so many steps of the commit in progress. What was not synced meets its fate, and so much of what
    /// is in the memory of a drive that lies is on the medium.
    pub(super) fn stop(
        &mut self,
        number: u32,
        done: Option<u64>,
        fate: &mut dyn FnMut() -> Fate,
        reaches: Reaches<'_>,
    ) {
        self.disturbed();
        let done = self.abandon(number, done);
        let device = &mut self.devices[number as usize];
        let (lost, unheard_of) = if device.real.is_some() {
            self.really_stop(number, Some(fate));
            self.really_forget(number, reaches)
        } else {
            device.disk.power_cut(fate);
            device.disk.forget_what_lies(reaches)
        };
        let device = &mut self.devices[number as usize];
        let unleased = device.power_off(self.now);
        self.checks.clock.may_have_counted(number, unleased);
        self.tell(&Event::Stopped { device: number, off: true, steps: done });
        self.checks.audit.forgive(number, unheard_of);
        for part in lost {
            self.seen.interrupted(number);
            let fault = Sync::Lies.name(part);
            self.took_effect(fault);
            self.suspend(number, fault);
        }
        self.watch(number);
    }

    /// The process is gone, so many steps into a commit; without a number, the commit is finished first.
    fn abandon(&mut self, number: u32, done: Option<u64>) -> u64 {
        let killed = done.is_some();
        let device = &mut self.devices[number as usize];
        let Some(process) = device.process.take() else {
            device.watched = Watched::No;
            return 0;
        };
        device.in_doubt = process.in_flight.as_ref().and_then(|in_flight| in_flight.contact);
        if killed && process.in_flight.is_some() {
            self.seen.interrupted(number);
        }
        let (steps, batch) =
            process.in_flight.map_or_else(Default::default, |in_flight| (in_flight.steps, in_flight.batch));
        // What is refused does not come about, however the process ends.
        let refused = device.refused(&steps);
        let possible = refused.map_or(u64::MAX, |refused| refused.done + refused.more);
        let done = done.unwrap_or(steps.len() as u64).min(steps.len() as u64).min(possible);
        match batch {
            Some(_) if possible == 0 => {}
            Some(batch) if killed || refused.is_some() => device.cut_short = Some(CutShort { steps, batch, done }),
            batch => {
                self.really_commit(number, batch);
                let disk = &mut self.devices[number as usize].disk;
                if done < steps.len() as u64 {
                    steps.into_iter().take(done as usize).for_each(|step| disk.step(step));
                } else {
                    disk.commit(steps);
                }
            }
        }
        self.operator.nonces.remove(&number);
        self.nobody_answers(number);
        if killed {
            self.counts_may_be_lost(number);
        }
        self.note_running(number);
        self.checks.evidence.stopped(number);
        self.checks.emergency.stopped(number);
        if let Some(conn) = process.conn {
            self.close(conn, End::Device);
        }
        done
    }

    /// An agent ended that could not write down what it had only counted.
    fn counts_may_be_lost(&mut self, number: u32) {
        let device = &self.devices[number as usize];
        let window = device.profile().queue.alike_window_ms + self.scenario.fleet.commit_ms.1 + 1000;
        // Slept through, a count is written late.
        let since = if device.asleep.is_some() { 0 } else { self.now.saturating_sub(window) };
        self.checks.audit.killed(number, since);
    }

    /// The process is killed; the kernel goes on, and says so to the broker.
    pub(crate) fn kill(&mut self, number: u32, pick: u64) {
        self.disturbed();
        let process = &self.devices[number as usize].process;
        let steps = in_flight_steps(process).len() as u64;
        if let Some(conn) = process.as_ref().and_then(|process| process.conn) {
            self.send(conn, End::Broker, Packet::Closed);
        }
        let done = self.abandon(number, Some(pick % (steps + 1)));
        self.really_stop(number, None);
        self.devices[number as usize].watched = Watched::No;
        self.tell(&Event::Stopped { device: number, off: false, steps: done });
    }

    /// A sync failed, so many steps into a commit: nobody is answered, and the store is opened again after a while, by an
    /// agent that starts from what it finds. The one that was is ahead of its disk.
    pub(super) fn sync_failed(&mut self, number: u32, part: Part, done: u64) {
        let done = self.give_up(number, done);
        let mut rng = stream(self.seed, &format!("gw-{number}"), &format!("sync-{}", self.now));
        let mut fate = || if below(&mut rng, 2) == 0 { Fate::Lost } else { Fate::Kept };
        if self.devices[number as usize].real.is_some() {
            self.really_sync_failed(number, part, &mut fate);
        } else {
            self.devices[number as usize].disk.sync_failed(part, fate);
        }
        self.reopen_later(number, done);
    }

    /// The file system refused a step of a commit, and the same follows as after a sync that failed. Where there was no room,
    /// there may have been some for the first of the entries, and for a piece of the one after them. Whether it was so: a real
    /// store that takes the commit for made goes on.
    pub(super) fn write_refused(&mut self, number: u32, Refused { how, done, more }: Refused) -> bool {
        let mut rng =
            stream(self.seed, &format!("gw-{number}"), &format!("room-{}", self.devices[number as usize].starts));
        let (whole, torn) = (below(&mut rng, more + 1), below(&mut rng, 100));
        let in_flight = self.devices[number as usize].process.as_mut().and_then(|process| process.in_flight.as_mut());
        let batch = in_flight.and_then(|in_flight| in_flight.batch.take());
        let told = batch.map(|batch| self.really_refused(number, batch, how, (whole, torn)));
        if told == Some(false) {
            return false;
        }
        let done = self.give_up(number, done + whole);
        if told.is_some() {
            self.really_look(number);
        }
        self.reopen_later(number, done);
        true
    }

    /// The process is at the end of what it can do, so many steps into a commit: its connection goes with it.
    fn give_up(&mut self, number: u32, done: u64) -> u64 {
        self.disturbed();
        self.note_gave_up(number);
        if let Some(conn) = self.devices[number as usize].process.as_ref().and_then(|process| process.conn) {
            self.send(conn, End::Broker, Packet::Closed);
        }
        self.abandon(number, Some(done))
    }

    fn reopen_later(&mut self, number: u32, done: u64) {
        let device = &mut self.devices[number as usize];
        device.watched = Watched::No;
        let wait = device.wait_to_reopen();
        let powered_on = device.clocks.began();
        self.tell(&Event::Stopped { device: number, off: false, steps: done });
        if let Some(powered_on) = powered_on {
            self.schedule(self.now + wait, Happening::StartProcess { device: number, powered_on });
        }
    }

    /// What an agent that runs still writes when it is told to end.
    fn last_words(&mut self, number: u32) -> Batch {
        let device = &mut self.devices[number as usize];
        let clocks = device.clocks.read(self.now).filter(|_| device.asleep.is_none());
        let (Some((_, clocks)), Some(process)) = (clocks, &mut device.process) else { return Batch::default() };
        let (mut effects, mut batch) = (Effects::default(), Batch::default());
        process.agent.handle(Input::Leaving, clocks, &mut effects);
        let said = effects.commit(|written| {
            batch = written;
            Ok::<(), Infallible>(())
        });
        // Its connection goes with it.
        match said {
            Ok(_) => {}
            Err(never) => match never {},
        }
        self.judge_times(number, &batch);
        batch
    }

    /// The agent ends in order: what is on its way to the disk arrives there. Returns how many steps that took.
    pub(crate) fn end_process(&mut self, number: u32) -> u64 {
        self.disturbed();
        if let Some(conn) = self.devices[number as usize].process.as_ref().and_then(|process| process.conn) {
            self.send(conn, End::Broker, Packet::Closed);
        }
        let runs = self.devices[number as usize].process.is_some();
        let mut last = self.last_words(number);
        let device = &self.devices[number as usize];
        let refused = |of: &[Step]| device.refused(of).is_some();
        let refuses = refused(in_flight_steps(&device.process)) || refused(&steps(last.clone()));
        if refuses {
            last = Batch::default();
        }
        if runs && (refuses || device.asleep.is_some()) {
            self.counts_may_be_lost(number);
        }
        let done = self.abandon(number, None);
        self.really_commit(number, runs.then(|| last.clone()));
        self.really_stop(number, None);
        let device = &mut self.devices[number as usize];
        device.watched = Watched::No;
        device.disk.commit(steps(last));
        device.disk.open();
        done
    }

    /// The kernel goes down in order.
    pub(crate) fn shut_down(&mut self, number: u32) {
        let watched = self.devices[number as usize].watched;
        let done = self.end_process(number);
        let device = &mut self.devices[number as usize];
        device.watched = watched;
        let unleased = device.power_off(self.now);
        self.checks.clock.may_have_counted(number, unleased);
        self.tell(&Event::Stopped { device: number, off: true, steps: done });
    }
}

/// The steps of a commit that is under way.
pub(super) fn in_flight_steps(process: &Option<Process>) -> &[Step] {
    let in_flight = process.as_ref().and_then(|process| process.in_flight.as_ref());
    in_flight.map_or(&[], |in_flight| in_flight.steps.as_slice())
}
