//! A gateway's shell: the same loop as the real one, over a virtual clock and disk. Take what waits, handle it all,
//! commit once, send.
//!
//! Owns: starts, stops, commits and what follows them.
//! Never: sends before the commit is durable, unless that bug is planted.
//! Read next: `hardtack::agent`, which it drives.

mod durable;
mod ends;

use std::collections::VecDeque;
use std::convert::Infallible;

use hardtack::agent::effects::{Answer, Entry, LinkCommand, LogEvent, StateFile};
use hardtack::agent::request::Mode;
use hardtack::agent::room::Taken;
use hardtack::agent::{Agent, Batch, Effects, Input, LinkEvent, Outgoing, Unstartable};
use hardtack::mutant::{active, Mutant};
use hardtack::wire::audit::segment::Delivery;
use hardtack::wire::audit::{Event as AuditEvent, Record, TrustChange};
use hardtack::wire::bundle::TrustBundle;
use hardtack::wire::link::Topic;

use durable::{held, Durable};
use ends::in_flight_steps;

use crate::check::feed::Own;
use crate::check::{room, Id};
use crate::clocks::date;
use crate::device::{Contact, InFlight, Process, Refused, Watched, REOPEN_MIN};
use crate::disk::{steps, Fate, Step};
use crate::event::Event;
use crate::fault::{Refusal, Sync, WallAfter};
use crate::fleet_answers;
use crate::followed::{self, Followed};
use crate::level::Broke;
use crate::network::{End, Packet, Retain};
use crate::random::between;
use crate::recovery;
use crate::world::{Checks, Happening, World};

/// Between the kernel's start and the agent's.
pub(crate) const BOOT_MS: u64 = 4000;
/// Until somebody has put back a file that an agent could not start with.
const PUT_BACK_MS: u64 = 120_000;
/// The agent is told how full the disk is after so many commits,
const DISK_EVERY_COMMITS: u32 = 64;
/// and before it takes in anything later than this after it was told last, in milliseconds by its clock: as the shell does.
/// In between it guesses, and a guess must not keep it locked.
const DISK_EVERY: u64 = 10_000;

impl World<'_> {
    /// Every gateway is enrolled, writes that down, and is switched on.
    pub(crate) fn enrol_all(&mut self) {
        for number in 0..self.devices.len() as u32 {
            let device = &self.devices[number as usize];
            let accepted = self.operator.enrol(number, &device.name, &device.keys(), device.profile(), date(self.now));
            self.really(number, |real| {
                real.open()?;
                real.commit(accepted.batch.clone())?;
                real.close();
                Ok(())
            });
            let device = &mut self.devices[number as usize];
            let steps = steps(accepted.batch);
            let durable = Durable::of(&steps);
            steps.into_iter().for_each(|step| device.disk.step(step));
            self.note_durable(number, durable);
            self.schedule(
                self.now + u64::from(number) * 50,
                Happening::PowerOn { device: number, wall: WallAfter::Kept },
            );
        }
    }

    /// The kernel starts, and the agent soon after.
    pub(crate) fn power_on(&mut self, number: u32, wall: WallAfter) {
        self.disturbed();
        let now = self.now;
        let device = &mut self.devices[number as usize];
        if device.clocks.read(now).is_some() {
            return;
        }
        device.clocks.power_on(now, wall);
        self.tell(&Event::PowerOn { device: number });
        self.checks.clock.power_on(number);
        self.checks.emergency.power_on(number);
        self.schedule(now + BOOT_MS, Happening::StartProcess { device: number, powered_on: now });
    }

    /// The agent starts on what its disk holds.
    pub(crate) fn start_process(&mut self, number: u32, powered_on: u64) {
        let (now, fleet) = (self.now, self.fleet.clone());
        let device = &mut self.devices[number as usize];
        if device.process.is_some() || device.clocks.began() != Some(powered_on) {
            return;
        }
        // What sleeps starts nothing: it does when it wakes, and is tried then as after any start.
        if let Some(waiting) = &mut device.asleep {
            waiting.push(Happening::StartProcess { device: number, powered_on });
            return;
        }
        // The format is looked at before anything is written.
        if device.disk.is_newer() && self.refuses_newer(number) {
            return;
        }
        let device = &mut self.devices[number as usize];
        if device.refusing.contains_key(&Refusal::ReadOnly) {
            self.store_stays_shut(number, powered_on);
            return;
        }
        let boot = match device.boot(&fleet, now) {
            Ok(Some(boot)) => boot,
            Ok(None) => return,
            Err(Broke(why)) => {
                let how = format!("the store of {} cannot be opened: {why}", device.name);
                self.checks.tally.broken(Id::Live, now, how);
                return;
            }
        };
        self.note_found(number);
        let device = &mut self.devices[number as usize];
        let Some((_, clocks)) = device.clocks.read(now) else { return };
        device.clocks.count_from(now, boot.anchor.as_ref().and_then(|anchor| anchor.boot));
        let (agent, effects) = match Agent::start(boot, clocks) {
            Ok(started) => started,
            Err(Unstartable::Bundle(_)) if device.whole_bundle.is_some() => {
                self.put_bundle_back(number, powered_on);
                return;
            }
            Err(problem) => {
                let how = format!("{} does not start: {problem}", device.name);
                self.checks.tally.broken(Id::Live, now, how);
                return;
            }
        };
        let held = self.version_held(number);
        let own = self.operator.newest(&self.devices[number as usize].name).feed;
        let device = &mut self.devices[number as usize];
        device.started_over = device.rotten_without(&own);
        device.starts += 1;
        (device.damaged, device.whole_bundle) = (false, None);
        let (start, mode) = (device.starts, agent.mode());
        device.process = Some(Process {
            agent,
            start,
            inbox: VecDeque::new(),
            in_flight: None,
            conn: None,
            deadline: None,
            since_disk: 0,
            disk_at: clocks.boottime,
            contact: None,
            hung_up: false,
            heard: Vec::new(),
            followed: Followed::new(held.unwrap_or(0)),
        });
        if device.anchored.is_none() {
            self.checks.authority.started(number);
        }
        self.catches_up_from_now(number);
        self.disturbed();
        self.tell(&Event::AgentStarted { device: number, start });
        self.note_mode(number, mode);
        self.note_running(number);
        self.commit(number, effects);
        self.pump(number);
        self.probe_start(number);
    }

    /// A trust bundle of which a bit flipped is none: the agent says so, and ends. Somebody puts back what the fleet keeps of
    /// it, and starts the agent again.
    fn put_bundle_back(&mut self, number: u32, powered_on: u64) {
        self.checks.tally.tried(Id::FailClosed, self.now, None);
        self.tell(&Event::Logged { device: number, line: "bundle_unusable".into() });
        let device = &mut self.devices[number as usize];
        if let Some(whole) = device.whole_bundle.take() {
            device.disk.put_back(StateFile::Bundle, whole.clone());
            self.really(number, |real| real.put_back(&StateFile::Bundle, whole));
        }
        self.schedule(self.now + PUT_BACK_MS, Happening::StartProcess { device: number, powered_on });
    }

    /// The store takes its lock before it reads, and a lock is written to: where nothing can be, it does not open.
    fn store_stays_shut(&mut self, number: u32, powered_on: u64) {
        self.took_effect(Refusal::ReadOnly.name());
        self.really(number, |real| real.stays_shut());
        let wait = self.devices[number as usize].wait_to_reopen();
        self.schedule(self.now + wait, Happening::StartProcess { device: number, powered_on });
    }

    /// What a start finds is durable, whatever a cut did to the commit that wrote it.
    fn note_found(&mut self, number: u32) {
        let place = self.checks.monotone.place(number);
        let known = self.checks.monotone.generation(number);
        let device = &mut self.devices[number as usize];
        let in_doubt = device.in_doubt.take();
        let medium = device.disk.durable();
        self.ledger.found(number, medium);
        let durable = Durable::found(medium, place, known);
        let newly = durable.anchor.as_ref().is_some_and(|anchor| self.checks.clock.is_newly_synced(number, anchor));
        if let Some(contact) = in_doubt.filter(|_| newly) {
            self.contact(number, contact);
            // It was in the boot before.
            self.checks.clock.power_on(number);
        }
        self.note_durable(number, durable);
        let anchor = recovery::newest(self.devices[number as usize].disk.durable());
        self.checks.emergency.found(number, anchor.map_or(&[], |anchor| &anchor.emergencies));
        self.note_find(number);
    }

    /// A round trip counts.
    fn contact(&mut self, number: u32, contact: Contact) {
        self.note_contact(number);
        self.meets_its_copy(number);
        let Contact { at, powered, time, radius, trip } = contact;
        self.checks.clock.contact(number, at, powered, (time, radius, trip));
        self.checks.authority.contact(number, self.now);
        self.checks.emergency.contact(number);
    }

    fn note_mode(&mut self, number: u32, mode: Mode) {
        if mode == Mode::Locked {
            self.checks.authority.locked(number, self.now);
        }
        if mode == Mode::Online {
            self.note_online(number);
        }
        self.tell(&Event::Mode { device: number, mode: mode.name() });
    }

    /// Whether an agent runs and is awake, for the fleet's answers.
    fn note_running(&mut self, number: u32) {
        let awake = self.devices[number as usize].is_awake();
        self.ledger.runs(self.now, number, awake);
    }

    /// Something is for an agent.
    pub(crate) fn give(&mut self, number: u32, input: Input) {
        if let Some(process) = &mut self.devices[number as usize].process {
            process.inbox.push_back(input);
            self.pump(number);
        }
    }

    /// The loop: everything that waits, one commit. While a commit is on its way, what comes waits.
    fn pump(&mut self, number: u32) {
        loop {
            let now = self.now;
            let device = &mut self.devices[number as usize];
            if device.asleep.is_some() {
                return;
            }
            let Some((_, clocks)) = device.clocks.read(now) else { return };
            let Some(process) = &mut device.process else { return };
            if process.in_flight.is_some() {
                return;
            }
            if process.inbox.is_empty() {
                self.schedule_deadline(number);
                return;
            }
            if clocks.boottime.0.saturating_sub(process.disk_at.0) >= DISK_EVERY {
                (process.since_disk, process.disk_at) = (0, clocks.boottime);
                let report = Input::Disk(Taken::of(device.disk.used_bytes()));
                // It is as good as a call because of the time, and takes the place of one.
                match process.inbox.front_mut() {
                    Some(first @ Input::Deadline) => *first = report,
                    Some(_) | None => process.inbox.push_front(report),
                }
            }
            let mut effects = Effects::default();
            for input in process.inbox.drain(..) {
                process.agent.handle(input, clocks, &mut effects);
            }
            self.commit(number, effects);
        }
    }

    fn commit(&mut self, number: u32, effects: Effects) {
        let mut batch = Batch::default();
        let kept = effects.commit(|written| {
            batch = written;
            Ok::<(), Infallible>(())
        });
        let mut outgoing = match kept {
            Ok(outgoing) => outgoing,
            Err(never) => match never {},
        };
        if active(Mutant::ReplyBeforeCommit) {
            self.release(number, std::mem::take(&mut outgoing));
        }
        let now = self.now;
        let (mut contact, mut heard, mut hung_up) = (None, Vec::new(), false);
        if let Some(process) = &mut self.devices[number as usize].process {
            contact = process.contact.take();
            heard = std::mem::take(&mut process.heard);
            hung_up = std::mem::take(&mut process.hung_up);
        }
        // What the same messages made it hang up for may have come before the answer, which it then did not hear.
        hung_up |= outgoing.link.iter().any(|command| matches!(command, LinkCommand::Close));
        let took_it = batch.anchor.as_ref().is_some_and(|anchor| self.checks.clock.is_newly_synced(number, anchor));
        let contact = contact.filter(|_| !hung_up || took_it);
        if let Some(Contact { time, radius, trip, .. }) = contact {
            let powered = self.devices[number as usize].powered(now);
            self.checks.clock.expect_contact(number, powered, (time, radius, trip));
        }
        self.judge_times(number, &batch);
        let for_real = self.devices[number as usize].real.is_some().then(|| batch.clone());
        let steps = steps(batch);
        if steps.is_empty() {
            contact.into_iter().for_each(|contact| self.contact(number, contact));
            heard.iter().for_each(|additions| self.checks.authority.heard(number, additions));
            self.release(number, outgoing);
            return;
        }
        let (low, high) = self.scenario.fleet.commit_ms;
        let device = &mut self.devices[number as usize];
        let Some(process) = &mut device.process else { return };
        let start = process.start;
        process.in_flight = Some(InFlight { steps, batch: for_real, outgoing, made: now, contact, heard });
        let takes = between(&mut device.commit_times, low, high);
        if let Some(cut) = device.armed.take() {
            self.took_effect(cut.fault);
            self.cut_power(number, cut);
            return;
        }
        if self.cut_at_boundary(number) {
            return;
        }
        self.schedule(now + takes, Happening::Committed { device: number, start });
    }

    /// Every time that a gateway is about to write down, against the oracle's.
    fn judge_times(&mut self, number: u32, batch: &Batch) {
        let device = &self.devices[number as usize];
        let (when, who) = ((self.now, device.powered(self.now)), (number, &device.name));
        let Checks { tally, clock, .. } = &mut self.checks;
        for entry in &batch.entries {
            if let Entry::Record(stored) = entry {
                if let Ok(record) = Record::from_bytes(&stored.bytes) {
                    clock.record(tally, when, who, &record);
                }
            }
        }
        if let Some(anchor) = &batch.anchor {
            clock.anchor(tally, when, who, anchor);
        }
    }

    /// In a run that tries one boundary of many: whether it was this commit's, and the power is gone.
    fn cut_at_boundary(&mut self, number: u32) -> bool {
        let Some(window) = self.window.filter(|window| window.covers(number, self.now)) else { return false };
        let device = &mut self.devices[number as usize];
        let in_flight = device.process.as_ref().and_then(|process| process.in_flight.as_ref());
        let count = in_flight.map_or(0, |in_flight| in_flight.steps.len() as u64);
        let first = device.boundaries;
        device.boundaries += count + 1;
        if let Some(cut) = self.cut.filter(|cut| (first..=first + count).contains(&cut.boundary)) {
            let reaches = |_: &str, moments: u64| match cut.fate {
                Fate::Lost => 0,
                Fate::Torn => moments.div_ceil(2),
                Fate::Kept => moments,
            };
            self.stop(number, Some(cut.boundary - first), &mut || cut.fate, &reaches);
            self.schedule(self.now + window.off, Happening::PowerOn { device: number, wall: window.wall });
            return true;
        }
        let mut trial = self.devices[number as usize].disk.unsynced();
        let steps = in_flight_steps(&self.devices[number as usize].process);
        for done in 0..=steps.len() {
            if let Some(step) = done.checked_sub(1).and_then(|last| steps.get(last)) {
                trial.step(step.clone());
            }
            self.boundaries.fates.push(trial.fates());
        }
        false
    }

    /// A commit is durable: its effects may be seen.
    pub(crate) fn committed(&mut self, number: u32, start: u64) {
        let (now, slowest) = (self.now, self.scenario.fleet.commit_ms.1);
        let device = &mut self.devices[number as usize];
        let Some(process) = device.process.as_mut().filter(|process| process.start == start) else { return };
        if let Some(waiting) = &mut device.asleep {
            waiting.push(Happening::Committed { device: number, start });
            return;
        }
        let steps = process.in_flight.iter().flat_map(|in_flight| in_flight.steps.iter().zip(0..));
        let failing = steps.filter_map(|(step, done)| Some((step.syncs()?, done)));
        let failed = failing.into_iter().find(|(part, _)| device.failing.contains(part));
        if let Some((part, done)) = failed {
            self.took_effect(Sync::Fails.name(part));
            if !active(Mutant::SyncErrorIgnored) {
                self.sync_failed(number, part, done);
                return;
            }
        }
        let device = &self.devices[number as usize];
        let refused = device.refused(in_flight_steps(&device.process));
        if let Some(refused) = refused {
            self.took_effect(refused.how.name());
            if self.write_refused(number, refused) {
                return;
            }
        }
        let device = &mut self.devices[number as usize];
        device.reopen = REOPEN_MIN;
        let Some(mut in_flight) = device.process.as_mut().and_then(|process| process.in_flight.take()) else { return };
        if failed.is_some() {
            in_flight.steps.retain(|step| step.syncs().is_none_or(|part| !device.failing.contains(&part)));
        }
        if let Some(Refused { how, .. }) = refused {
            in_flight.steps.retain(|step| !step.is_refused(how));
        }
        self.really_commit(number, in_flight.batch.take());
        let device = &mut self.devices[number as usize];
        let Some(process) = &mut device.process else { return };
        let count = in_flight.steps.len() as u64;
        let durable = Durable::of(&in_flight.steps);
        let bytes = in_flight.steps.iter().map(fleet_answers::bytes_of).sum();
        process.since_disk += 1;
        let drops = in_flight.steps.iter().any(|step| matches!(step, Step::DropEra(_) | Step::Shed(_)));
        let look = drops || process.since_disk >= DISK_EVERY_COMMITS;
        if let Some(anchor) = &durable.anchor {
            let lease = anchor.powered_lease.since(anchor.powered).min(self.scenario.profile.time.lease());
            device.anchored = Some(in_flight.made + lease.0);
            // One that was made before a sleep and arrived after it proves nothing of the time between.
            let prompt = now - in_flight.made <= slowest;
            device.watched = if prompt { Watched::Yes } else { Watched::No };
        }
        device.disk.commit(in_flight.steps);
        let (tally, held_over) = (&mut self.checks.tally, device.held_over());
        if device.disk.is_newer() {
            let how = format!("{} wrote to a state folder of a newer format", device.name);
            tally.broken(Id::FailClosed, self.now, how);
        }
        room::committed(tally, self.now, &device.name, device.disk.durable(), &device.profile().queue, held_over);
        let taken = Taken::of(device.disk.used_bytes());
        if let Some(process) = device.process.as_mut().filter(|_| look) {
            process.since_disk = 0;
            process.inbox.push_back(Input::Disk(taken));
        }
        self.ledger.written(bytes);
        self.ledger.recorded(number, &durable.records, &durable.eras_dropped);
        self.tell(&Event::Committed { device: number, steps: count, backlog: self.ledger.backlog(number) });
        // Callers are answered on what was durable before; only then does this commit count as known.
        let mut outgoing = in_flight.outgoing;
        self.answer(number, std::mem::take(&mut outgoing.replies));
        in_flight.contact.into_iter().for_each(|contact| self.contact(number, contact));
        in_flight.heard.iter().for_each(|additions| self.checks.authority.heard(number, additions));
        self.note_durable(number, durable);
        self.release(number, outgoing);
        self.pump(number);
    }

    fn note_durable(&mut self, number: u32, durable: Durable) {
        let now = self.now;
        let powered = self.devices[number as usize].powered(now);
        self.note_signed();
        // What a fault has damaged says nothing.
        if durable.bundle && self.devices[number as usize].whole_bundle.is_none() {
            self.note_followed(number);
        }
        for id in &durable.feeds_removed {
            self.checks.feed.let_go(number, id);
            self.checks.authority.let_go(number, id);
            self.ledger.let_go(now, number, id);
        }
        let device = &self.devices[number as usize];
        let mut applied = Vec::new();
        for id in &durable.feeds {
            // What a fault has damaged the gateway cannot read either.
            let Some(held) = held(device.disk.durable(), id) else { continue };
            let Checks { tally, authority, feed, .. } = &mut self.checks;
            authority.feed_durable(number, (id, &held), (now, powered));
            feed.durable(tally, now, (number, &device.name), (id, &held));
            if let Some(order) = self.ledger.holds(now, number, id, &held) {
                applied.push((id.to_string(), order));
            }
        }
        for (feed, (era, seq)) in applied {
            self.note_held(number, format!("feed {feed}"), (u64::from(era), seq));
            self.tell(&Event::Applied { device: number, feed, era, seq });
        }
        durable.emergencies.iter().for_each(|key| self.emergency_durable(number, *key));
        let records = durable.records.iter().filter_map(|stored| Record::from_bytes(&stored.bytes).ok());
        for record in records {
            self.checks.audit.durable(number, &record);
            self.checks.evidence.durable(&mut self.checks.tally, now, number, &record);
            self.emergency_recorded(number, &record);
            self.ledger.admitted(&record);
            if let AuditEvent::Trust(TrustChange::Reset { floor, .. }) = record.event {
                self.reset_durable(number, floor);
            }
        }
        let device = &self.devices[number as usize];
        let who = (number, &device.name);
        let checks = &mut self.checks;
        let today = date(now).max(checks.clock.knowledge(number, powered).misled);
        checks.monotone.records_durable(&mut checks.tally, (now, today), who, durable.records.iter());
        if let Some(anchor) = durable.anchor {
            checks.monotone.anchor_durable(&mut checks.tally, (now, today), who, &anchor);
            checks.clock.anchor_durable(number, &anchor);
        }
        let gone = &durable.grants_removed;
        for grant in gone.iter().copied() {
            // A removal that is not synced yet may still come about.
            let stays = |file: &StateFile| matches!(file, StateFile::Grant(id) if !gone.contains(id));
            let left = device.disk.durable().files.keys().any(stays);
            let ordered = checks.authority.grant_revoked(number, now, grant);
            let bare = !left && !ordered && self.operator.wants_grant(&device.name, date(now));
            let broken = bare.then(|| format!("{} dropped its only grant with no successor in hand", device.name));
            checks.tally.tried(Id::FailClosed, now, broken);
        }
    }

    /// The trust bundle on a gateway's disk.
    pub(crate) fn bundle_held(&self, number: u32) -> Option<TrustBundle> {
        followed::read(self.devices[number as usize].disk.durable().files.get(&StateFile::Bundle)?)
    }

    /// The version of the trust bundle on a gateway's disk.
    pub(crate) fn version_held(&mut self, number: u32) -> Option<u64> {
        self.versions.of(self.devices[number as usize].disk.durable().files.get(&StateFile::Bundle)?)
    }

    /// The trust bundle on a gateway's disk gives it a feed.
    fn note_followed(&mut self, number: u32) {
        let Some(trust) = self.bundle_held(number) else { return };
        self.note_held(number, "bundle".into(), (trust.version, 0));
        let own = Own::of(&trust, &self.devices[number as usize].name);
        self.checks.monotone.followed(number, own.id.clone());
        self.checks.authority.followed(number, own.clone());
        self.checks.feed.followed(number, own);
    }

    /// Callers hear what may be said by now.
    fn answer(&mut self, number: u32, answers: Vec<Answer>) {
        let Some((_, now)) = self.devices[number as usize].clocks.read(self.now) else { return };
        for answer in answers {
            let (id, reply) = answer.at(now.boottime);
            self.replied(number, id, reply);
        }
    }

    /// What may leave leaves.
    fn release(&mut self, number: u32, outgoing: Outgoing) {
        self.answer(number, outgoing.replies);
        for log in outgoing.logs {
            if let LogEvent::ModeChanged { to, .. } = &log {
                self.note_mode(number, *to);
            }
            self.tell(&Event::Logged { device: number, line: format!("{log:?}") });
        }
        for command in outgoing.link {
            self.command(number, command);
        }
        for (era, segment) in outgoing.loads {
            self.load_segment(number, era, segment);
        }
        for hole in outgoing.holes {
            self.gather_remains(number, hole);
        }
    }

    fn command(&mut self, number: u32, command: LinkCommand) {
        let fleet = self.fleet.clone();
        match command {
            LinkCommand::Close => {
                let conn = self.devices[number as usize].process.as_ref().and_then(|process| process.conn);
                if let Some(conn) = conn.filter(|_| self.links.is_some()) {
                    self.send(conn, End::Broker, Packet::Leaving);
                }
                self.hang_up(number);
            }
            LinkCommand::Connect { filters, will } => {
                self.hang_up(number);
                self.operator.nonces.remove(&number);
                let conn = self.network.open(number);
                if let Some(links) = &mut self.links {
                    links.open(conn, number);
                }
                if let Some(process) = &mut self.devices[number as usize].process {
                    process.conn = Some(conn);
                }
                let will = will.map(|will| (will.topic.text(&fleet), will.payload));
                self.send(conn, End::Broker, Packet::Connect { filters, will });
            }
            LinkCommand::Publish(publish) => {
                let conn = self.devices[number as usize].process.as_ref().and_then(|process| process.conn);
                if let Topic::UpHello(_) = publish.topic {
                    self.note_nonce(number, &publish.payload);
                }
                if let Topic::UpRequest(_) = publish.topic {
                    self.note_request(number, &publish.payload);
                }
                if let (Topic::UpAudit(_), true) = (&publish.topic, self.operator.policy().seal_audit) {
                    let sealed = matches!(Delivery::from_bytes(&publish.payload), Ok(Delivery::Sealed { .. }));
                    let how = || format!("{} sent its audit open", self.devices[number as usize].name);
                    self.checks.tally.tried(Id::Sealed, self.now, (!sealed).then(how));
                }
                if let Some(conn) = conn {
                    let retain = if publish.topic.retained() { Retain::Yes } else { Retain::No };
                    let topic = publish.topic.text(&fleet);
                    self.send(conn, End::Broker, Packet::Publish { topic, payload: publish.payload, retain });
                }
            }
            LinkCommand::Read { places, left } => {
                let texts = |topics: Vec<Topic>| topics.iter().map(|topic| topic.text(&fleet)).collect();
                let (places, left) = (texts(places), texts(left));
                let conn = self.devices[number as usize].process.as_ref().and_then(|process| process.conn);
                if let Some(conn) = conn {
                    self.send(conn, End::Broker, Packet::Read { places, left });
                }
            }
        }
    }

    /// The agent's end of its connection closes, and the kernel says so to the broker.
    fn hang_up(&mut self, number: u32) {
        let conn = self.devices[number as usize].process.as_mut().and_then(|process| {
            process.hung_up |= process.contact.is_some();
            process.conn.take()
        });
        if let Some(conn) = conn {
            self.send(conn, End::Broker, Packet::Closed);
            self.close(conn, End::Device);
        }
    }

    /// The connection broke as the agent sees it.
    pub(crate) fn disconnected(&mut self, number: u32, reason: &str) {
        if let Some(process) = &mut self.devices[number as usize].process {
            process.conn = None;
        }
        self.operator.nonces.remove(&number);
        self.give(number, Input::Link(LinkEvent::Disconnected { reason: reason.to_owned() }));
    }

    fn schedule_deadline(&mut self, number: u32) {
        let now = self.now;
        let device = &mut self.devices[number as usize];
        let Some((_, clocks)) = device.clocks.read(now) else { return };
        let Some(process) = &mut device.process else { return };
        let wanted = process.agent.poll_deadline(clocks.boottime);
        let Some(at) = device.clocks.when(wanted).map(|at| at.max(now + 1)) else { return };
        if process.deadline.is_none_or(|scheduled| at < scheduled || scheduled <= now) {
            process.deadline = Some(at);
            let start = process.start;
            self.schedule(at, Happening::Deadline { device: number, start });
        }
    }

    pub(crate) fn deadline(&mut self, number: u32, start: u64) {
        let now = self.now;
        let device = &mut self.devices[number as usize];
        if let Some(waiting) = &mut device.asleep {
            waiting.push(Happening::Deadline { device: number, start });
            return;
        }
        let due =
            |process: &&mut Process| process.start == start && process.deadline.is_some_and(|deadline| deadline <= now);
        if let Some(process) = device.process.as_mut().filter(due) {
            process.deadline = None;
            self.give(number, Input::Deadline);
        }
    }
}
