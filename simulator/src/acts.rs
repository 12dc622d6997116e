//! The plan, carried out.
//!
//! Owns: what each act does to the world.
//! Never: draws a random number; the plan's picks are all it has.
//! Read next: `plan.rs`.

use crate::device::Cut;
use crate::event::Event;
use crate::fault::{Boundary, Hostility, RevokeWhat, WallAfter};
use crate::model::Standing;
use crate::operator::Revoke;
use crate::plan::Act;
use crate::world::{Happening, World};

/// How many of the newest credentials a revocation may pick.
const RECENT: usize = 8;

impl World<'_> {
    /// The next act of the plan.
    pub(crate) fn act(&mut self, number: usize) {
        self.tell(&Event::PlanStep { number: number as u64 });
        let act = self.plan.entries[number].act.clone();
        match act {
            Act::Authorize { device, token, risk, pick } => self.ask_for_decision(device, token, risk, pick),
            Act::Begin { device, pick } => self.begin_task(device, pick),
            Act::BrokerBackup { backup } => self.broker.backup(backup),
            Act::BrokerHostile { how } => {
                let began = how != Hostility::default();
                self.fault(if began { Turn::Begins } else { Turn::Ends });
                self.broker.turn(how);
            }
            Act::BrokerReplay { device, pick } => {
                self.disturbed();
                let deliveries = self.broker.replay(device, pick);
                self.broker_says(deliveries);
            }
            Act::BrokerRestore { backup } => {
                self.disturbed();
                let deliveries = self.broker.restore(backup);
                self.broker_says(deliveries);
            }
            Act::BrokerStart => {
                self.fault(Turn::Ends);
                self.broker_starts();
            }
            Act::BrokerStop { retained } => {
                self.fault(Turn::Begins);
                self.broker_stops(retained);
            }
            Act::ClockStep { device, by } => {
                self.disturbed();
                self.devices[device as usize].clocks.step_wall(by);
            }
            Act::Finish { device, pick } => self.finish_task(device, pick),
            Act::LinkDown { device, direction } => {
                self.fault(Turn::Begins);
                self.block(device, direction);
            }
            Act::LinkHalfOpen { device } => {
                self.disturbed();
                self.half_open(device);
            }
            Act::LinkUp { device, direction } => {
                self.fault(Turn::Ends);
                self.unblock(device, direction);
            }
            Act::PowerCut { device, lasts, boundary, wall, pick } => {
                self.fail_supply(device, boundary, Cut { lasts, wall, pick });
            }
            Act::ProcessRestart { device, lasts, pick } => self.restart_process(device, lasts, pick),
            Act::Reboot { device, lasts, wall } => self.reboot(device, lasts, wall),
            Act::Revoke { device, what, pick } => self.revoke(device, what, pick),
            Act::ServiceStart => {
                self.fault(Turn::Ends);
                self.operator.start();
                self.schedule(self.now + 1, Happening::ServiceConnect);
            }
            Act::ServiceStop => {
                self.fault(Turn::Begins);
                self.operator.stop();
                self.broker.disconnect_service();
            }
            Act::Status { device } => self.ask_for_status(device),
        }
    }

    fn fault(&mut self, turn: Turn) {
        self.disturbed();
        self.faults_at_work = match turn {
            Turn::Begins => self.faults_at_work + 1,
            Turn::Ends => self.faults_at_work.saturating_sub(1),
        };
    }

    fn fail_supply(&mut self, device: u32, boundary: Boundary, cut: Cut) {
        match boundary {
            // The window is watched commit by commit, in `host.rs`.
            Boundary::Each { .. } => {}
            Boundary::Any => self.devices[device as usize].armed = Some(cut),
            Boundary::Now => {
                if self.devices[device as usize].clocks.read(self.now).is_some() {
                    self.cut_power(device, cut);
                }
            }
        }
    }

    fn restart_process(&mut self, device: u32, lasts: u64, pick: u64) {
        let Some(powered_on) = self.devices[device as usize].clocks.began() else { return };
        self.kill(device, pick);
        self.schedule(self.now + lasts, Happening::StartProcess { device, powered_on });
    }

    fn reboot(&mut self, device: u32, lasts: u64, wall: WallAfter) {
        if self.devices[device as usize].clocks.began().is_some() {
            self.shut_down(device);
            self.schedule(self.now + lasts, Happening::PowerOn { device, wall });
        }
    }

    /// The operator revokes one of the newest credentials of a gateway, or what it comes from.
    fn revoke(&mut self, device: u32, what: RevokeWhat, pick: u64) {
        let (now, powered) = (self.now, self.devices[device as usize].powered(self.now));
        let live = |standing: Standing| matches!(standing, Standing::Good | Standing::Unclear);
        let mut recent: Vec<_> = self
            .model
            .iter_mut()
            .rev()
            .filter(|credential| credential.device == device && credential.revoked.is_none())
            .filter(|credential| live(credential.standing(now, powered)))
            .take(RECENT)
            .collect();
        let Some(index) = pick.checked_rem(recent.len() as u64) else { return };
        let chosen = &mut recent[index as usize];
        let revoke = match what {
            RevokeWhat::Block => chosen.chain.last().copied().map(Revoke::Block),
            RevokeWhat::Grant => Some(Revoke::Grant(chosen.grant)),
            RevokeWhat::Task => Some(Revoke::Task(chosen.task.clone())),
        };
        let Some(revoke) = revoke else { return };
        let (task, grant) = (chosen.task.clone(), chosen.grant);
        let covered = |of: &crate::model::Credential| match &revoke {
            Revoke::Block(block) => of.chain.contains(block),
            Revoke::Grant(_) => of.grant == grant,
            Revoke::Task(_) => of.task == task,
        };
        self.model.iter_mut().filter(|of| covered(of)).for_each(|of| of.revoked = Some(now));
        let name = self.devices[device as usize].name.clone();
        let publish = self.operator.revoke(revoke, &name, crate::clocks::date(now));
        self.tell(&Event::Revoked { seq: self.operator.newest_seq() });
        self.service_publishes(publish);
    }
}

enum Turn {
    Begins,
    Ends,
}
