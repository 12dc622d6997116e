//! Resets of the clock: the gateway's nonce, the signature of the root keys, the way back; and what others carry there.
//!
//! Owns: who asks for a nonce and why, what is signed for it, what the gateway may make of it.
//! Never: counts a reset as done before its record is durable on the gateway.
//! Read next: `hardtack::agent`, whose `rescue.rs` takes the file.

use hardtack::agent::request::{Reply, Request, Socket};
use hardtack::ids::Nonce;
use hardtack::time::{Millis, Timestamp};

use crate::check::Id;
use crate::clocks::date;
use crate::fault::ResetWhat;
use crate::workload::Asked;
use crate::world::{Happening, World};

/// How far the operator's clock may be off, as he says in a reset.
pub(crate) const RADIUS: Millis = Millis(500);
/// What is signed for somebody who deceives says that it is so much earlier: taken, it would show.
const EARLIER: Millis = Millis::from_secs(6 * 3600);

/// What was carried to one gateway so far.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// The nonce that it made before the last one.
    earlier: Option<Nonce>,
    last: Option<Nonce>,
    /// The last file that it took.
    taken: Option<Vec<u8>>,
}

/// A nonce on its way to whoever signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errand {
    pub(crate) what: ResetWhat,
    pub(crate) nonce: Nonce,
    /// When the gateway made it, in true time.
    pub(crate) asked: u64,
    /// How long the file is on its way in all.
    pub(crate) late: u64,
}

/// A reset that an honest operator signed, as the oracle sees it when it is handed to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) at: u64,
    pub(crate) powered: u64,
    pub(crate) time: Timestamp,
    /// How long before that the gateway made its nonce.
    pub(crate) waited: u64,
}

impl World<'_> {
    /// Somebody goes to a gateway with a reset in mind. An honest operator looks first whether it needs one.
    pub(crate) fn carry_reset(&mut self, device: u32, what: ResetWhat, late: u64) {
        match what {
            ResetWhat::Needed => self.ask_admin(device, Request::Status, Asked::Ahead { late }),
            ResetWhat::Foreign | ResetWhat::Forged | ResetWhat::Replayed | ResetWhat::Stale => {
                self.ask_admin(device, Request::Challenge, Asked::Challenge { what, late });
            }
        }
    }

    fn ask_admin(&mut self, device: u32, request: Request, asked: Asked) {
        self.ask(device, 0, Socket::Admin, request, asked);
    }

    /// What a gateway answered to somebody who carries resets. None: it is not about that.
    pub(crate) fn reset_answered(&mut self, device: u32, asked: &Asked, reply: &Reply) -> Option<()> {
        match (asked, reply) {
            (Asked::Ahead { late }, Reply::Status(status)) => {
                if status.floor > date(self.now).to_string() {
                    let challenge = Asked::Challenge { what: ResetWhat::Needed, late: *late };
                    self.ask_admin(device, Request::Challenge, challenge);
                }
            }
            (Asked::Challenge { what, late }, Reply::Challenge(challenge)) => {
                let nonce = challenge.nonce.parse().ok()?;
                let carried = self.carried.entry(device).or_default();
                carried.earlier = carried.last.replace(nonce);
                let errand = Errand { what: *what, nonce, asked: self.now, late: *late };
                self.schedule(self.now + late / 2, Happening::SignReset { device, errand });
            }
            (Asked::Reset { what, file }, reply) => self.reset_judged(device, *what, file, reply),
            (_, _) => return None,
        }
        Some(())
    }

    /// Whoever signs has the nonce.
    pub(crate) fn sign_reset(&mut self, device: u32, errand: Errand) {
        let (now, name) = (self.now, self.devices[device as usize].name.clone());
        let other = self.devices[(device as usize + 1) % self.devices.len()].name.clone();
        let carried = self.carried.entry(device).or_default();
        let (earlier, taken) = (carried.earlier, carried.taken.clone());
        let (time, early) = (date(now), date(now) - EARLIER);
        let file = match errand.what {
            ResetWhat::Needed => Some(self.operator.reset(&name, errand.nonce, time)),
            ResetWhat::Foreign => Some(self.operator.deceitful_reset(&other, errand.nonce, early, true)),
            ResetWhat::Forged => Some(self.operator.deceitful_reset(&name, errand.nonce, early, false)),
            ResetWhat::Stale => earlier.map(|nonce| self.operator.deceitful_reset(&name, nonce, early, true)),
            ResetWhat::Replayed => taken,
        };
        if let Some(file) = file {
            let back = self.now + errand.late - errand.late / 2;
            self.schedule(back, Happening::CarryReset { device, errand, file, time });
        }
    }

    /// The file is back at the gateway.
    pub(crate) fn import_reset(&mut self, device: u32, errand: Errand, file: Vec<u8>, time: Timestamp) {
        if !self.devices[device as usize].is_awake() {
            return;
        }
        let powered = self.devices[device as usize].powered(self.now);
        match errand.what {
            ResetWhat::Needed => {
                let order = Order { at: self.now, powered, time, waited: self.now - errand.asked };
                self.checks.clock.ordered(device, order);
            }
            ResetWhat::Foreign | ResetWhat::Forged | ResetWhat::Replayed | ResetWhat::Stale => {
                self.took_effect(errand.what.name());
                self.checks.evidence.expect(device, &file);
            }
        }
        let asked = Asked::Reset { what: errand.what, file: file.clone() };
        self.ask_admin(device, Request::ImportTime(file), asked);
    }

    fn reset_judged(&mut self, device: u32, what: ResetWhat, file: &[u8], reply: &Reply) {
        let taken = matches!(reply, Reply::Time(_));
        if what == ResetWhat::Needed {
            if taken {
                self.carried.entry(device).or_default().taken = Some(file.to_vec());
            }
            return;
        }
        let name = &self.devices[device as usize].name;
        let broken = taken.then(|| format!("{name} took a reset of its clock that was none: {}", what.name()));
        self.checks.tally.tried(Id::Monotone, self.now, broken);
    }

    /// The record of a reset is durable: E went back, if it did, and what was handed out before is not honoured any more.
    pub(crate) fn reset_durable(&mut self, number: u32, (before, after): (Timestamp, Timestamp)) {
        let name = self.devices[number as usize].name.clone();
        let Some(at) = self.checks.clock.reset(number, after) else {
            let how = format!("E of {name} was set from {before} to {after}, which no root key ordered");
            self.checks.tally.tried(Id::Monotone, self.now, Some(how));
            return;
        };
        self.checks.tally.tried(Id::Monotone, self.now, None);
        self.checks.audit.was_reset(number);
        if after < before {
            self.took_effect(ResetWhat::Needed.name());
            self.checks.monotone.turned_back(number, after);
            let handed_out = self.model.iter_mut().filter(|credential| credential.device == number);
            handed_out.for_each(|credential| {
                credential.finish_asked.get_or_insert(at);
                credential.finished.get_or_insert(at);
            });
        }
    }
}
