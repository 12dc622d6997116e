//! Other versions over a gateway's state: a newer program, and the next firmware's.
//!
//! Owns: what `process.downgrade` and `process.upgrade` do.
//! Never: knows the form of anything in a state folder.
//! Read next: `host.rs`, which starts what is there; `hardtack::shell::store`, whose refusal the wire level asks for.
//!
//! **Downgrade.** A newer version ran: the folder's `format` says one more than this version knows, what was revoked and the
//! wallet are in forms of its own. This version is started over it, again at each start of the kernel. It must say so and
//! end, decide nothing, and leave all of it as it is; when the newer version runs again, nothing is lost. What that decides
//! itself meanwhile is not modelled: it takes over, and hands back.
//!
//! **Upgrade.** There is one format so far, and nothing older was ever released: no start can bring an older folder up to
//! date, and none is made up here. What does change between two firmwares of one format is the profile that ships with
//! them. So the agent ends in order, and is started over its own state with the limits under `[fleet.upgrade]`: a quota below
//! what is queued, eras that end sooner, fewer tasks than there are, tokens that are larger than may be. `to = "before"` is
//! the way back. With `boundary = "any"` the supply fails within the first commit of what was started. At the wire level an
//! upgrade also leaves a `.format.tmp` behind, as a change of format does that power cut short before it was named. Not
//! covered: other numbers for trusted time and for the link, by which the checkers here judge all gateways alike.

use crate::check::Id;
use crate::device::Cut;
use crate::event::Event;
use crate::fault::Firmware;
use crate::level::Broke;
use crate::plan::Turn;
use crate::world::{Happening, World};

/// How long it takes from the end of one program to the start of another over its state.
const CHANGE_MS: u64 = 1000;

impl World<'_> {
    /// A newer version leaves its format in a gateway's state folder, and this one is started; or the newer one runs again.
    pub(crate) fn downgrade(&mut self, number: u32, turn: Turn) {
        self.fault(turn);
        let device = &mut self.devices[number as usize];
        match turn {
            Turn::Begins => {
                // Nobody changes the program on what has no power or does not wake, or takes no writes; on a drive that lies
                // nobody could say what the newer version has left.
                let can = device.is_awake() && !device.bad_syncs.is_away() && device.refusing.is_empty();
                if !device.downgraded.begins() || !can {
                    return;
                }
                self.end(number);
                self.devices[number as usize].disk.hand_over();
                self.really(number, |real| real.hand_over());
                self.struck("process.downgrade", true);
            }
            Turn::Ends => {
                if !device.downgraded.ends() || !device.disk.is_newer() {
                    return;
                }
                // Only a planted bug runs.
                if device.process.is_some() {
                    self.kill(number, 0);
                }
                self.devices[number as usize].disk.take_back();
                self.really(number, |real| real.take_back());
            }
        }
        self.start_later(number, CHANGE_MS);
    }

    /// This version is started over a folder of a newer one's format. Whether it refuses: without a real store nothing is
    /// tried.
    pub(crate) fn refuses_newer(&mut self, number: u32) -> bool {
        let device = &mut self.devices[number as usize];
        let asked = device.real.as_deref_mut().map(|real| real.refuses());
        let broken = match &asked {
            None | Some(Ok(true)) => None,
            Some(Ok(false)) => Some("it is opened"),
            Some(Err(Broke(why))) => Some(why.as_str()),
        };
        let broken = broken.map(|why| format!("{} over a folder of a newer format: {why}", device.name));
        if asked.is_some() {
            self.checks.tally.tried(Id::FailClosed, self.now, broken);
        }
        let opened = matches!(asked, Some(Ok(false)));
        if !opened {
            self.tell(&Event::Logged { device: number, line: "newer_format".into() });
        }
        !opened
    }

    /// The agent ends, and another firmware's is started over its state.
    pub(crate) fn upgrade(&mut self, number: u32, lasts: u64, to: Firmware, cut: Option<Cut>) {
        self.disturbed();
        let profile = match to {
            Firmware::Before => Some(&self.scenario.profile),
            Firmware::Next => self.scenario.next.as_ref(),
        };
        let Some(profile) = profile.filter(|_| self.devices[number as usize].is_awake()) else { return };
        self.end(number);
        let device = &mut self.devices[number as usize];
        let changed = device.give_profile(profile);
        device.armed = cut.or(device.armed.take());
        let limits = device.profile().queue.clone();
        self.really(number, |real| real.upgrade(limits));
        self.struck("process.upgrade", changed);
        self.start_later(number, lasts);
    }

    fn end(&mut self, number: u32) {
        let steps = self.end_process(number);
        self.tell(&Event::Stopped { device: number, off: false, steps });
    }

    fn start_later(&mut self, number: u32, after: u64) {
        if let Some(powered_on) = self.devices[number as usize].clocks.began() {
            self.schedule(self.now + after, Happening::StartProcess { device: number, powered_on });
        }
    }
}
