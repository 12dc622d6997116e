//! The plan, carried out.
//!
//! Owns: what each act does to the world.
//! Never: draws a random number; the plan's picks are all it has.
//! Read next: `plan.rs`.

use hardtack::agent::effects::{self, StateFile};
use hardtack::fleet::book::Life;
use hardtack::ids::GroupId;
use hardtack::time::Millis;

use crate::check::feed::Owed;
use crate::check::live;
use crate::check::suspend::{Clause, Lock, Suspension};
use crate::clocks::date;
use crate::device::{Cut, Device, Restored};
use crate::disk::Rot;
use crate::event::Event;
use crate::fault::{Boundary, Damage, Forgotten, Hostility, Kind, MoveTo, Refusal, RevokeWhat, Sync, WallAfter};
use crate::fleet_answers::Open;
use crate::host::BOOT_MS;
use crate::model::{Credential, Standing};
use crate::operator::Revoke;
use crate::plan::{Act, Turn};
use crate::recovery::newest;
use crate::world::{Checks, Happening, World, CALM};

/// How many of the newest credentials a revocation may pick.
const RECENT: usize = 8;

impl World<'_> {
    /// The next act of the plan.
    pub(crate) fn act(&mut self, number: usize) {
        self.tell(&Event::PlanStep { number: number as u64 });
        let act = self.plan.entries[number].act.clone();
        self.acting = Some(number);
        self.carry_out(act);
        self.acting = None;
    }

    fn carry_out(&mut self, act: Act) {
        match act {
            Act::Authorize { device, token, risk, pick } => self.ask_for_decision(device, token, risk, pick),
            Act::Begin { device, pick } => self.begin_task(device, pick),
            Act::BrokerAck { device, trick } => {
                self.disturbed();
                self.tricks.insert(device, trick);
            }
            Act::BrokerBackup { backup } => self.broker.backup(backup),
            Act::BrokerDelay { what, late, turn } => {
                self.fault(turn);
                self.broker.delay(what, None, late, turn);
            }
            Act::BrokerDelayFor { device, what, late, turn } => {
                self.fault(turn);
                self.broker.delay(what, Some(device), late, turn);
            }
            Act::BrokerEmergency { trick, pick } => self.trick_with_emergencies(trick, pick),
            Act::BrokerFeed { device, trick } => self.plant_on_feed(device, trick),
            Act::BrokerForget { what } => {
                let changed = self.broker.forget(what);
                match (changed, what) {
                    (false, _) => {}
                    (true, Forgotten::Feed) => self.broker_loses(),
                    // What emergency keys said is still there.
                    (true, Forgotten::Ladder | Forgotten::Snapshot | Forgotten::ToFirstSnapshot) => self.behind.clear(),
                }
                self.struck(what.name(), changed);
            }
            Act::BrokerHostile { how } => {
                let began = how != Hostility::default();
                self.broker_loses();
                self.fault(if began { Turn::Begins } else { Turn::Ends });
                self.broker.turn(how);
            }
            Act::BrokerReplay { device, pick } => {
                let deliveries = self.broker.replay(device, pick);
                self.struck("broker.replay", !deliveries.is_empty());
                self.broker_says(deliveries);
            }
            Act::BrokerRestore { backup } => {
                let deliveries = self.broker.restore(backup);
                self.broker_loses();
                self.struck("broker.restore", !deliveries.is_empty());
                self.broker_says(deliveries);
            }
            Act::BrokerStart => {
                self.fault(Turn::Ends);
                if self.broker_away.ends() {
                    self.broker_starts();
                }
            }
            Act::BrokerStop { retained } => {
                self.fault(Turn::Begins);
                self.broker_away.begins();
                self.struck(Kind::BrokerRestart { lasts: 0, retained }.name(), self.broker.is_up());
                self.broker_stops(retained);
            }
            Act::ClockDrift { device, pick } => {
                let bound = i64::from(self.scenario.fleet.drift_ppm);
                let rate = (pick % (2 * bound as u64 + 1)) as i64 - bound;
                let clocks = &mut self.devices[device as usize].clocks;
                clocks.retune(self.now, rate);
                let runs = clocks.began().is_some();
                self.struck("clock.drift", runs);
            }
            Act::ClockFreeze { device, turn } => self.freeze(device, turn),
            Act::ClockStep { device, by } => {
                let clocks = &mut self.devices[device as usize].clocks;
                let before = clocks.read(self.now);
                clocks.step_wall(by);
                let moved = clocks.read(self.now) != before;
                self.struck("clock.step", moved);
                self.probe_expired(device);
            }
            Act::DiskClone { device, copy } => self.run_twin(device, copy),
            // A copy of what a newer version left would have to be read by that.
            Act::DiskCopy { device, .. } if self.devices[device as usize].disk.is_newer() => {}
            Act::DiskCopy { device, copy } => {
                self.really(device, |real| real.copy(copy));
                let device = &mut self.devices[device as usize];
                device.copies.insert(copy, device.disk.image());
            }
            Act::DiskDamage { device, lasts, damage, copy, pick } => {
                let cut = Cut { lasts, wall: WallAfter::Kept, pick, fault: damage.name() };
                if self.devices[device as usize].clocks.began().is_some() {
                    self.cut_power(device, cut);
                }
                self.damage(device, damage, copy, pick);
            }
            Act::DiskRefuses { device, how, turn } => {
                self.fault(turn);
                let Device { clocks, refusing, .. } = &mut self.devices[device as usize];
                match turn {
                    // What has no power is mounted anew when it has.
                    Turn::Begins if how == Refusal::ReadOnly && clocks.began().is_none() => {}
                    Turn::Begins => {
                        refusing.entry(how).or_default().begins();
                    }
                    Turn::Ends => refusing.retain(|other, away| *other != how || !away.ends()),
                }
            }
            Act::DiskSync { device, part, how, turn } => {
                self.fault(turn);
                let bad_syncs = &mut self.devices[device as usize].bad_syncs;
                match turn {
                    Turn::Begins => bad_syncs.begins(),
                    Turn::Ends => bad_syncs.ends(),
                };
                // Nothing is written there, and a lie that begins takes in what a newer version left.
                if turn == Turn::Begins && self.devices[device as usize].disk.is_newer() {
                    return;
                }
                if how == Sync::Lies && self.devices[device as usize].real.is_some() {
                    self.really_lie(device, part, turn);
                    return;
                }
                let Device { failing, disk, .. } = &mut self.devices[device as usize];
                match (how, turn) {
                    (Sync::Fails, Turn::Begins) => drop(failing.insert(part)),
                    (Sync::Fails, Turn::Ends) => drop(failing.remove(&part)),
                    (Sync::Lies, Turn::Begins) => disk.lie(part),
                    (Sync::Lies, Turn::Ends) => disk.come_clean(part),
                }
            }
            Act::Emergency { device, what, life, pick } => self.declare_emergency(device, what, Millis(life), pick),
            Act::EmergencyThief { device, theft } => self.steal_emergency(device, theft),
            Act::Finish { device, pick } => self.finish_task(device, pick),
            Act::Flood { device, what, number, pick } => self.flood(device, what, number, pick),
            Act::GroupMove { device, to, pick } => self.move_device(device, &to, pick),
            Act::KeyRotate { what } => {
                let before = self.operator.bundle_version();
                self.operator.rotate(what, date(self.now));
                self.struck(what.name(), self.operator.bundle_version() > before);
                self.broker.disconnect_service();
                self.schedule(self.now + 1, Happening::ServiceConnect);
            }
            Act::LinkDown { device, direction } => {
                self.fault(Turn::Begins);
                let before = self.network.passes(device);
                self.block(device, direction);
                let after = self.network.passes(device);
                self.cuts.push((device, (before.0 && !after.0, before.1 && !after.1)));
                self.note_link(device);
            }
            Act::LinkHalfOpen { device } => {
                let connected = self.broker.session_of(device).is_some();
                self.struck("link.half_open", connected);
                self.half_open(device);
            }
            Act::LinkSlow { device, direction, by, turn } => {
                self.fault(turn);
                self.network.slow(device, direction, by, turn);
                self.note_link(device);
            }
            Act::LinkUp { device, direction } => {
                self.fault(Turn::Ends);
                self.unblock(device, direction);
                self.note_link(device);
            }
            Act::Misuse { device, how, pick } => self.misuse(device, how, pick),
            Act::Narrow { device, does, pick } => self.narrow(device, does, pick),
            Act::Overstep { device, how, pick } => self.overstep(device, how, pick),
            Act::Plan { device, does, pick } => self.plan(device, does, pick),
            Act::PowerCut { device, lasts, boundary, wall, pick } => {
                self.fail_supply(device, boundary, Cut { lasts, wall, pick, fault: "power.cut" });
            }
            Act::ProcessDowngrade { device, turn } => self.downgrade(device, turn),
            Act::ProcessStop { device, turn: Turn::Begins } => {
                self.fault(Turn::Begins);
                self.devices[device as usize].stopped.begins();
                // A process that was started since is another one.
                if self.devices[device as usize].halted.is_none() {
                    self.halt(device);
                }
            }
            Act::ProcessStop { device, turn: Turn::Ends } => {
                self.fault(Turn::Ends);
                if self.devices[device as usize].stopped.ends() {
                    self.go_on(device);
                }
            }
            Act::ProcessUpgrade { device, lasts, to, cut, pick } => {
                let fault = "process.upgrade";
                let cut = cut.then_some(Cut { lasts: BOOT_MS, wall: WallAfter::Kept, pick, fault });
                self.upgrade(device, lasts, to, cut);
            }
            Act::ProcessRestart { device, lasts, pick } => self.restart_process(device, lasts, pick),
            Act::Reboot { device, lasts, wall } => self.reboot(device, lasts, wall),
            Act::Revoke { device, what, pick } => self.revoke(device, what, pick),
            Act::RevokeStorm { count, life, pick } => {
                *self.effects.entry("revoke.storm").or_default() += u64::from(count);
                let publish = self.operator.storm(count, Millis(life), pick, date(self.now));
                self.note_revocation(0);
                self.service_publishes(publish);
            }
            Act::ServiceAhead { device, by, turn } => self.service_ahead(device, by, turn),
            Act::ServiceStart => {
                self.fault(Turn::Ends);
                if self.service_away.ends() {
                    self.judge_catching_up();
                    self.operator.start();
                    self.schedule(self.now + 1, Happening::ServiceConnect);
                }
            }
            Act::ServiceStop => {
                self.fault(Turn::Begins);
                self.struck("service.stop", self.operator.is_running());
                if !self.service_away.begins() {
                    return;
                }
                self.operator.stop();
                // What was signed while it was not connected the broker does not have.
                let told = self.broker.service_is_connected();
                self.broker.disconnect_service();
                let newest = self.devices.iter().map(|device| self.operator.newest(&device.name));
                let behind = |(device, newest): &(u32, Owed)| told && self.checks.feed.lacks(*device, newest).is_some();
                self.behind = (0..).zip(newest).filter(behind).collect();
            }
            Act::Distinct { device, pick } => self.ask_for_something_new(device, pick),
            Act::Status { device } => self.ask_for_status(device),
            Act::Suspend { device, turn: Turn::Begins } => {
                self.fault(Turn::Begins);
                let awake = self.devices[device as usize].is_awake();
                self.struck("suspend", awake);
                if self.devices[device as usize].suspended.begins() {
                    self.fall_asleep(device);
                }
            }
            Act::Suspend { device, turn: Turn::Ends } => {
                self.fault(Turn::Ends);
                if self.devices[device as usize].suspended.ends() {
                    self.wake_up(device);
                }
            }
            Act::TimeReset { device, what, late } => {
                self.disturbed();
                self.carry_reset(device, what, late);
            }
            Act::Wire { device, trick, pick } => self.trick_on_wire(device, trick, pick),
        }
    }

    /// The service was away: who was behind then, and had nothing but the broker since, has caught up. For that there must
    /// have been a broker that gave out what it had, and a link to it, for a while.
    fn judge_catching_up(&mut self) {
        for (number, newest) in std::mem::take(&mut self.behind) {
            let device = &self.devices[number as usize];
            let calm = self.link_up.get(&number).is_some_and(|since| self.now >= since + CALM);
            if calm && self.broker.is_up() && !self.broker.keeps_from(number) && device.is_awake() {
                let lacks = self.checks.feed.lacks(number, &newest);
                live::caught_up(&mut self.checks.tally, self.now, &device.name, lacks);
            }
        }
    }

    /// Time goes by: links that were cut in the moment that is over, and still are, nothing goes through now.
    pub(crate) fn cuts_last(&mut self) {
        for (device, (up, down)) in std::mem::take(&mut self.cuts) {
            let passes = self.network.passes(device);
            if (up && !passes.0) || (down && !passes.1) {
                self.took_effect("link.down");
            }
        }
    }

    /// What a gateway could not hear of while nothing ran there it hears of from now on, where its link is up.
    pub(crate) fn catches_up_from_now(&mut self, number: u32) {
        if let Some(since) = self.link_up.get_mut(&number) {
            *since = self.now;
        }
    }

    /// A fault happened, whether or not there was anything for it to change.
    pub(crate) fn struck(&mut self, fault: &'static str, changed: bool) {
        self.disturbed();
        if changed {
            self.took_effect(fault);
        }
    }

    fn freeze(&mut self, device: u32, turn: Turn) {
        self.fault(turn);
        let clocks = &mut self.devices[device as usize].clocks;
        match turn {
            Turn::Begins => {
                clocks.freeze(self.now);
                let runs = clocks.began().is_some();
                self.struck("clock.freeze", runs);
            }
            Turn::Ends => clocks.thaw(),
        }
        self.probe_expired(device);
    }

    /// A service whose clock is ahead answers a gateway. What that suspends, the table says.
    fn service_ahead(&mut self, device: u32, by: u64, turn: Turn) {
        self.fault(turn);
        let covered = Suspension::of("service.ahead").is_some_and(|suspension| suspension.covers(Clause::Clock));
        match turn {
            Turn::Begins if covered => drop(self.ahead.insert(device, by)),
            Turn::Begins => {}
            Turn::Ends => drop(self.ahead.remove(&device)),
        }
    }

    /// The disk is no longer what was written. What the proofs rest on and this takes away is suspended, by the table.
    fn damage(&mut self, number: u32, damage: Damage, copy: u32, pick: u64) {
        let device = &mut self.devices[number as usize];
        if device.disk.is_newer() {
            // It is for the newer version to bear, which is not here.
            return self.disturbed();
        }
        let image = device.copies.remove(&copy);
        let rot = device.disk.durable().rots(damage, pick);
        let whole = device.disk.durable().files.get(&StateFile::Bundle).cloned();
        let changed = device.disk.damage(damage, image.as_ref(), rot.clone());
        let changed = self.really_damage(number, damage, copy, rot.clone()).unwrap_or(changed);
        self.struck(damage.name(), changed);
        if !changed {
            return;
        }
        if damage == Damage::BundleRotten {
            let device = &mut self.devices[number as usize];
            device.whole_bundle = device.whole_bundle.take().or(whole);
        }
        let device = &mut self.devices[number as usize];
        if let Some(Rot::Bit(file, _)) = &rot {
            let left = device.disk.durable().files.get(file).cloned();
            device.rotten.extend(left.map(|left| (file.clone(), left)));
        }
        // Of several damages the agent records one, and counts the others with it: what rotted before and is still there too.
        self.checks.evidence.stopped(number);
        let alone = !std::mem::replace(&mut device.damaged, true) && device.rotten_by(damage).count() <= 1;
        // A trust bundle is put back before an agent runs, and another audit key says that there is one.
        let told = !matches!(damage, Damage::AuditKeyRotten | Damage::BundleRotten);
        if let (true, Some(Rot::Bit(file, _))) = (told && alone, &rot) {
            let refused = device.disk.durable().files.get(file);
            refused.into_iter().for_each(|bytes| self.checks.evidence.expect(number, bytes));
        }
        if let Some(Rot::Bit(StateFile::Emergency(key), _)) = &rot {
            self.emergency_rots(number, *key);
        }
        // The other slot may be gone already: by a second damage while the power is off, or by the cut, which tore it.
        let slot = matches!(damage, Damage::SlotDeleted | Damage::SlotRotten | Damage::SlotTorn);
        let none_left = slot && newest(self.devices[number as usize].disk.durable()).is_none();
        self.suspend(number, if none_left { Damage::SlotsGone.name() } else { damage.name() });
        if let Some(Rot::Row(era, _)) = rot {
            self.checks.audit.rotten(number, era.number);
        }
    }

    /// A fault broke what the proofs rest on: what the table says is not judged of that gateway as it was.
    pub(crate) fn suspend(&mut self, number: u32, fault: &str) {
        let Some(suspension) = Suspension::of(fault) else { return };
        let device = &mut self.devices[number as usize];
        device.in_doubt = None;
        // What a gateway knew of its restored storage goes with its anchor: it may find out again, and need not.
        let is_anchor = suspension.covers(Clause::Generation) && suspension.covers(Clause::Monotone);
        match suspension.lock {
            Lock::Needed | Lock::None if is_anchor && device.restored == Restored::Yes => {
                device.restored = Restored::Partly;
            }
            Lock::Final => device.restored = Restored::Yes,
            Lock::Possible if device.restored == Restored::No => device.restored = Restored::Partly,
            Lock::Possible | Lock::Needed | Lock::None => {}
        }
        let left = newest(self.devices[number as usize].disk.durable());
        let is_unaware = left.is_some_and(|anchor| anchor.standing != effects::Standing::Lost);
        let Checks { audit, authority, clock, emergency, monotone, .. } = &mut self.checks;
        authority.damaged(number, self.now, &suspension);
        if is_unaware {
            authority.unaware(number);
        }
        emergency.damaged(number, &suspension);
        if suspension.covers(Clause::Clock) {
            let device = &self.devices[number as usize];
            let (powered, left) = (device.powered(self.now), device.disk.durable().powered());
            clock.forget((number, powered), left, suspension.grace_s * 1000);
        }
        if suspension.covers(Clause::NothingLost) {
            audit.damaged(number, monotone.place(number).0, suspension.lock);
        }
        if suspension.covers(Clause::Monotone) {
            let left = self.devices[number as usize].disk.durable().records().max().unwrap_or_default();
            // Anchor and files say what they said where a fault is of neither.
            if suspension.covers(Clause::Generation) || suspension.covers(Clause::RevocationHolds) {
                monotone.forget(number, left);
            } else {
                monotone.forget_records(number, left);
            }
        }
        if suspension.covers(Clause::Generation) {
            audit.lost_slot(number);
            let left = newest(self.devices[number as usize].disk.durable()).map_or(0, |anchor| anchor.generation);
            monotone.forget_slot(number, left);
        }
    }

    /// A fault begins or ends.
    pub(crate) fn fault(&mut self, turn: Turn) {
        self.disturbed();
        self.faults_at_work = match turn {
            Turn::Begins => self.faults_at_work + 1,
            Turn::Ends => self.faults_at_work.saturating_sub(1),
        };
    }

    fn fail_supply(&mut self, device: u32, boundary: Boundary, cut: Cut) {
        match boundary {
            // The window is watched commit by commit, in `host.rs`.
            Boundary::Each { .. } => self.took_effect("power.cut"),
            Boundary::Any => self.devices[device as usize].armed = Some(cut),
            Boundary::Now => {
                if self.devices[device as usize].clocks.read(self.now).is_some() {
                    self.cut_power(device, cut);
                    self.took_effect("power.cut");
                }
            }
        }
    }

    fn restart_process(&mut self, device: u32, lasts: u64, pick: u64) {
        let Some(powered_on) = self.devices[device as usize].clocks.began() else { return };
        // What sleeps starts nothing.
        if self.devices[device as usize].asleep.is_some() {
            return;
        }
        if self.devices[device as usize].process.is_some() {
            self.took_effect("process.restart");
        }
        self.kill(device, pick);
        self.schedule(self.now + lasts, Happening::StartProcess { device, powered_on });
    }

    fn reboot(&mut self, device: u32, lasts: u64, wall: WallAfter) {
        if self.devices[device as usize].clocks.began().is_some() {
            self.took_effect("reboot");
            self.shut_down(device);
            self.schedule(self.now + lasts, Happening::PowerOn { device, wall });
        }
    }

    /// The operator revokes one of the newest credentials of a gateway, or what it comes from.
    fn revoke(&mut self, device: u32, what: RevokeWhat, pick: u64) {
        match what {
            RevokeWhat::All => return self.revoke_all(),
            RevokeWhat::Carried | RevokeWhat::Group => return self.revoke_carried(device, what, pick),
            RevokeWhat::Device => return self.revoke_device(device),
            RevokeWhat::Owner => return self.revoke_owner(device),
            RevokeWhat::Block | RevokeWhat::Grant | RevokeWhat::Task | RevokeWhat::Token => {}
        }
        let moment = self.moment(device);
        let live = |standing: Standing| matches!(standing, Standing::Good | Standing::Unclear);
        let fits = |credential: &Credential| {
            credential.device == device && credential.revoked.is_none() && live(credential.standing(&moment))
        };
        let recent: Vec<usize> = self.model.newest_where(fits).take(RECENT).collect();
        let index = pick.checked_rem(recent.len() as u64).map_or(0, |index| index as usize);
        let Some(number) = self.model.choose(self.acting, recent.get(index).copied()) else { return };
        self.revoke_this(device, what, number);
    }

    /// The operator revokes a credential of a gateway, or what it comes from.
    fn revoke_this(&mut self, device: u32, what: RevokeWhat, number: usize) {
        let (now, chosen) = (self.now, self.model.get(number));
        let revoke = match what {
            RevokeWhat::Block => chosen.chain.last().copied().map(Revoke::Block),
            RevokeWhat::All | RevokeWhat::Carried | RevokeWhat::Device | RevokeWhat::Group | RevokeWhat::Owner => None,
            RevokeWhat::Grant => Some(Revoke::Grant(chosen.grant)),
            RevokeWhat::Task => Some(Revoke::Task(chosen.task.clone())),
            RevokeWhat::Token => {
                // All of a token that the issuer minted with a serial; of any other what was narrowed last.
                let life = Life { issued: chosen.issued, expires: chosen.expires, serial: chosen.serial };
                let block = if life.serial.is_some() { chosen.chain.first() } else { chosen.chain.last() };
                block.map(|block| Revoke::Token(*block, life))
            }
        };
        let Some(revoke) = revoke else { return };
        *self.effects.entry("revoke").or_default() += 1;
        let (task, grant, begun) = (chosen.task.clone(), chosen.grant, chosen.begun);
        let covered = |of: &Credential| match &revoke {
            Revoke::All => true,
            Revoke::Group(group) => of.group.as_ref() == Some(group),
            Revoke::Owner(owner) => of.owner == *owner,
            Revoke::Block(block) | Revoke::Token(block, _) => of.chain.contains(block),
            Revoke::Device(_) => of.device == device,
            Revoke::Grant(_) => of.grant == grant,
            Revoke::Task(_) => of.task == task,
        };
        self.model.iter_mut().filter(|of| covered(of)).for_each(|of| of.revoked = Some(now));
        if let Revoke::Grant(grant) = &revoke {
            self.model.revoke(*grant);
        }
        self.note_revoked(device, what, begun);
        self.sign_revocation(device, revoke);
    }

    /// The operator revokes a gateway: nothing that it handed out counts any more, and in the end it is locked.
    fn revoke_device(&mut self, number: u32) {
        let (now, device) = (self.now, &mut self.devices[number as usize]);
        device.ordered_locked = true;
        let name = device.name.clone();
        self.note_revoked(number, RevokeWhat::Device, None);
        *self.effects.entry("revoke").or_default() += 1;
        let own = self.model.iter_mut().filter(|of| of.device == number);
        own.for_each(|of| of.revoked = of.revoked.or(Some(now)));
        self.sign_revocation(number, Revoke::Device(name));
    }

    /// The operator revokes everything: the whole fleet is locked in the end.
    fn revoke_all(&mut self) {
        let now = self.now;
        self.devices.iter_mut().for_each(|device| device.ordered_locked = true);
        self.note_revoked(0, RevokeWhat::All, None);
        *self.effects.entry("revoke").or_default() += 1;
        self.model.iter_mut().for_each(|of| of.revoked = of.revoked.or(Some(now)));
        self.sign_revocation(0, Revoke::All);
    }

    /// The operator revokes the owner of all grants, and makes others.
    fn revoke_owner(&mut self, number: u32) {
        let (now, owner) = (self.now, self.operator.owner());
        self.note_revoked(number, RevokeWhat::Owner, None);
        *self.effects.entry("revoke").or_default() += 1;
        let own = self.model.iter_mut().filter(|of| of.owner == owner);
        own.for_each(|of| of.revoked = of.revoked.or(Some(now)));
        self.sign_revocation(number, Revoke::Owner(owner));
    }

    /// Somebody carries a token to a gateway, and the operator revokes it: by its task, by itself, or all that are for the
    /// gateway's group.
    fn revoke_carried(&mut self, number: u32, what: RevokeWhat, pick: u64) {
        let name = self.devices[number as usize].name.clone();
        let group = self.operator.groups_of(&name).next().cloned().filter(|_| what == RevokeWhat::Group);
        if what == RevokeWhat::Group && group.is_none() {
            return;
        }
        *self.effects.entry("revoke").or_default() += 1;
        let carried = self.operator.carry(&name, group, pick % 4 < 2, date(self.now));
        self.hand_over(number, &carried);
        let revoke = match (carried.group, carried.chain.first()) {
            (Some(group), _) => Revoke::Group(group),
            (None, Some(block)) if pick % 2 == 0 => Revoke::Token(*block, carried.life),
            (None, _) => Revoke::Task(carried.task),
        };
        self.sign_revocation(number, revoke);
    }

    /// The operator moves a gateway into a group and out of all others.
    fn move_device(&mut self, number: u32, to: &MoveTo, pick: u64) {
        let groups: Vec<&GroupId> = self.scenario.groups.keys().collect();
        let to = match to {
            MoveTo::Any => groups.get((pick % (groups.len() as u64 + 1)) as usize).copied(),
            MoveTo::Group(group) => Some(group),
            MoveTo::None => None,
        };
        let name = self.devices[number as usize].name.clone();
        let before = self.operator.feed_of(&name);
        self.operator.move_device(&name, to, date(self.now));
        let feed = self.operator.feed_of(&name);
        self.struck("group.move", feed != before);
        self.checks.authority.given(number, feed);
        if self.operator.is_running() {
            let publish = self.operator.ticks(date(self.now));
            self.service_publishes(publish);
        }
    }

    /// The operator revoked something just now. A service that is away signs no head with it until it is there again.
    fn note_revocation(&mut self, device: u32) {
        let now = self.now;
        let waits = u64::from(!self.operator.is_running());
        let owed = |of: &Device| {
            let Owed { feed, order } = self.operator.newest(&of.name);
            Owed { feed, order: (order.0, order.1 + waits) }
        };
        let just_now = |of: &Credential| of.revoked == Some(now) && of.finish_asked.is_none();
        let held: Vec<usize> =
            (0..).zip(self.model.iter_mut()).filter(|(_, of)| just_now(of)).map(|(number, _)| number).collect();
        for number in held {
            let credential = self.model.get(number);
            let device = credential.device;
            let left = credential.limit().saturating_sub(credential.honoured(&self.moment(device)));
            let until = now + credential.expires.since(date(now)).0;
            let open = Open { number, until, left, owed: owed(&self.devices[device as usize]) };
            self.ledger.exposed(now, device, open);
        }
        let owed = owed(&self.devices[device as usize]);
        self.ledger.revoked(now, &owed);
        let Owed { feed, order } = owed;
        self.tell(&Event::Revoked { feed: feed.to_string(), era: order.0, seq: order.1 });
    }

    fn sign_revocation(&mut self, device: u32, revoke: Revoke) {
        let now = self.now;
        let name = self.devices[device as usize].name.clone();
        let publish = self.operator.revoke(revoke, &name, date(now));
        self.note_revocation(device);
        self.service_publishes(publish);
    }
}
