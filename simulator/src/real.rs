//! Gateways on real disks: each commit goes to the real store and to the model of it, and the model follows what the real
//! one holds.
//!
//! Owns: what a commit, a cut, a kill and a fault do where there is a real disk; which faults cannot be done at a level.
//! Never: is needed at the level of the model, where there is none.
//! Read next: `level.rs` for the trait, `host.rs` for the loop that calls this.

use hardtack::agent::salvage::{Hole, Remains};
use hardtack::agent::{Batch, Input};
use hardtack::ids::EraId;

use crate::check::Id;
use crate::disk::{Fate, Rot, Step};
use crate::drive::Reaches;
use crate::fault::{Damage, Part, Refusal, WireTrick};
use crate::level::{Broke, Does, RealDisk, NO_BYTES};
use crate::network::{ConnId, End};
use crate::plan::Turn;
use crate::recovery::{self, Found};
use crate::world::{Happening, World};

/// What a gateway adds to one and a half keep-alives, for a slow answer.
const SLOW_ANSWER: u64 = 2000;

/// A commit that did not come to its end.
pub(crate) struct CutShort {
    pub(crate) steps: Vec<Step>,
    pub(crate) batch: Batch,
    /// So many of its steps were done.
    pub(crate) done: u64,
}

/// What a start would find, looked at while nobody runs.
fn looked_at(real: &mut dyn RealDisk) -> Result<Found, Broke> {
    let found = real.open()?;
    real.close();
    Ok(found)
}

impl World<'_> {
    /// Something of a gateway's real disk, if it has one. What the disk does not do is a breach: all of it can be done.
    pub(crate) fn really<T>(
        &mut self,
        number: u32,
        what: impl FnOnce(&mut dyn RealDisk) -> Result<T, Broke>,
    ) -> Option<T> {
        let device = &mut self.devices[number as usize];
        match what(device.real.as_deref_mut()?) {
            Ok(done) => Some(done),
            Err(Broke(why)) => {
                let how = format!("the store of {} failed: {why}", device.name);
                self.checks.tally.broken(Id::Live, self.now, how);
                None
            }
        }
    }

    /// A commit is durable on the real disk too.
    pub(crate) fn really_commit(&mut self, number: u32, batch: Option<Batch>) {
        if let Some(batch) = batch {
            self.really(number, |real| real.commit(batch));
        }
    }

    /// The process is gone; with a fate for what was not synced, the supply as well. The model of the disk follows.
    pub(crate) fn really_stop(&mut self, number: u32, fate: Option<&mut dyn FnMut() -> Fate>) {
        let cut = self.devices[number as usize].cut_short.take();
        let Some(CutShort { steps, batch, done }) = cut else {
            self.really(number, |real| {
                real.close();
                Ok(())
            });
            return;
        };
        let done = (done, steps.len() as u64);
        let found = self.really(number, |real| {
            match fate {
                Some(fate) => real.power_cut(batch, done, fate)?,
                None => real.killed(batch, done)?,
            }
            looked_at(real)
        });
        if let Some(found) = found {
            self.devices[number as usize].disk.follow(steps, found);
        }
    }

    /// A sync failed in a commit: so says the real store. The model of the disk follows what is left.
    pub(crate) fn really_sync_failed(&mut self, number: u32, part: Part, fate: &mut dyn FnMut() -> Fate) {
        let Some(CutShort { steps, batch, .. }) = self.devices[number as usize].cut_short.take() else { return };
        let found = self.really(number, |real| {
            real.sync_fails(batch, part, fate)?;
            looked_at(real)
        });
        if let Some(found) = found {
            self.devices[number as usize].disk.follow(steps, found);
        }
    }

    /// The file system refused a step of a commit, of whose entries so many were written, and so many hundredths of the next:
    /// whether the real store says so. That it takes the commit for made is a breach, and so is a failure for something else.
    pub(crate) fn really_refused(&mut self, number: u32, batch: Batch, how: Refusal, room: (u64, u64)) -> bool {
        let refused = self.really(number, |real| real.refused(batch, how, room)).unwrap_or(true);
        if !refused {
            let name = &self.devices[number as usize].name;
            let how = format!("the store of {name} was refused a write, and took the commit for durable");
            self.checks.tally.broken(Id::Live, self.now, how);
        }
        refused
    }

    /// The model of a gateway's disk follows what is left on the real one.
    pub(crate) fn really_look(&mut self, number: u32) {
        if let Some(found) = self.really(number, looked_at) {
            self.devices[number as usize].disk.follow(Vec::new(), found);
        }
    }

    /// Syncs of a part of a gateway's real disk become a lie, or are honest again.
    pub(crate) fn really_lie(&mut self, number: u32, part: Part, turn: Turn) {
        self.really(number, |real| match turn {
            Turn::Begins => real.lie(part),
            Turn::Ends => {
                real.come_clean(part);
                Ok(())
            }
        });
    }

    /// The supply failed: of what a real disk kept in its memory only so much has reached the medium. The parts that lost
    /// something, and the records of which nothing that is left speaks.
    pub(crate) fn really_forget(&mut self, number: u32, reaches: Reaches<'_>) -> (Vec<Part>, Vec<(u64, u64)>) {
        let left = self.really(number, |real| match real.forget_what_lies(reaches)? {
            lost if lost.is_empty() => Ok(None),
            lost => Ok(Some((lost, looked_at(real)?))),
        });
        let Some(Some((lost, found))) = left else { return Default::default() };
        let disk = &mut self.devices[number as usize].disk;
        let before: Vec<(u64, u64)> = disk.durable().records().collect();
        disk.follow(Vec::new(), found);
        (lost, disk.unheard_of(before.into_iter()))
    }

    /// Something befalls a gateway's real disk, if it has one: whether it changed. The same has befallen the model of it,
    /// which follows what is left.
    pub(crate) fn really_damage(&mut self, number: u32, damage: Damage, copy: u32, rot: Option<Rot>) -> Option<bool> {
        let (changed, found) = self.really(number, |real| Ok((real.damage(damage, copy, rot)?, looked_at(real)?)))?;
        self.devices[number as usize].disk.follow(Vec::new(), found);
        Some(changed)
    }

    /// The broker does something to the bytes on a gateway's connection, where bytes go over it.
    pub(crate) fn trick_on_wire(&mut self, device: u32, trick: WireTrick, pick: u64) {
        if self.links.is_none() {
            self.not_applied.insert((trick.name(), NO_BYTES));
            return;
        }
        self.disturbed();
        let Some(conn) = self.broker.session_of(device) else { return };
        if let Some(mut does) = self.links.as_mut().and_then(|links| links.trick(conn, trick, pick)) {
            self.took_effect(trick.name());
            self.noise.extend(does.makes_hear.take().map(|(topic, payload)| (device, topic, payload)));
            // Whatever else it does a gateway may bear: an acknowledgement of what is in flight, bytes that are a packet.
            if matches!(trick, WireTrick::Grant | WireTrick::Large) && self.network.is_open(conn, End::Device) {
                self.must_end.insert(conn, (self.now, trick));
            }
            self.does(conn, End::Broker, does);
            self.listen(conn, None);
        }
    }

    /// What a broker wrote may have begun a packet that never ends, and that takes in whatever comes after it, the answers
    /// to pings included: a gateway that hears no packet for one and a half keep-alives gives the connection up.
    pub(crate) fn listen(&mut self, conn: ConnId, before: Option<u64>) {
        let Some(links) = &self.links else { return };
        let waits = links.waits_after(conn);
        if before.is_some() && waits == before {
            let why = "half-open: nothing was heard of the broker for too long".to_owned();
            self.does(conn, End::Device, Does { ends: Some(why), ..Does::default() });
        } else if before.is_none() || waits.is_some() {
            let patience = self.scenario.profile.link.keepalive_s * 1500 + SLOW_ANSWER;
            // The first time what was written may not be there yet.
            let heard = waits.or(before);
            self.schedule(self.now + patience, Happening::Listen { conn, heard: heard.unwrap_or(u64::MAX) });
        }
    }

    /// In the end: whatever broke the protocol has no connection any more.
    pub(crate) fn judge_tricks(&mut self) {
        let patience = self.scenario.profile.link.keepalive_s * 3000 + SLOW_ANSWER;
        for (conn, (since, trick)) in std::mem::take(&mut self.must_end) {
            let kept = self.now > since + patience && self.network.is_open(conn, End::Device);
            let name = self.network.device_of(conn).map(|device| &self.devices[device as usize].name);
            if let Some(name) = name.filter(|_| kept) {
                let how = format!("{name} kept the connection over which {} was done to it", trick.name());
                self.checks.tally.tried(Id::FailClosed, since, Some(how));
            }
        }
    }

    /// A segment is loaded for sending.
    pub(crate) fn load_segment(&mut self, number: u32, era: EraId, segment: u64) {
        let upload = if self.devices[number as usize].real.is_some() {
            let Some(upload) = self.really(number, |real| real.load(era, segment)) else { return };
            upload
        } else {
            recovery::load(self.devices[number as usize].disk.durable(), era, segment)
        };
        self.hand_in(number, Input::Segment { era, segment, upload });
    }

    /// What is left where a segment could not be loaded.
    pub(crate) fn gather_remains(&mut self, number: u32, hole: Hole) {
        let remains: Remains = if self.devices[number as usize].real.is_some() {
            let Some(remains) = self.really(number, |real| real.gather(&hole)) else { return };
            remains
        } else {
            recovery::gather(self.devices[number as usize].disk.durable(), &hole)
        };
        self.hand_in(number, Input::Remains { hole, remains });
    }

    fn hand_in(&mut self, number: u32, input: Input) {
        if let Some(process) = &mut self.devices[number as usize].process {
            process.inbox.push_back(input);
        }
    }
}
