//! Programs that have what they hold narrowed: task credentials, steps, and what was narrowed before.
//!
//! Owns: what they ask for, what is tried with a narrowed credential by whoever misuses it, and what becomes of a narrowing.
//! Never: judges one; `check/authority/siblings.rs` does.
//! Read next: `workload.rs`, for all else that programs do.

use hardtack::agent::effects::ALLOW_WAIT_MAX;
use hardtack::agent::holder::Tie;
use hardtack::agent::request::{Attenuate, AttenuatedReply, Problem, ProblemCode, Request, Socket};
use hardtack::agent::Input;
use hardtack::wire::biscuit;
use hardtack::wire::link::Right;
use hardtack::wire::token::{from_text, Held};

use super::planner::{done_with, planner_rights, EXECUTORS};
use super::{ends_of, rights, Asked, Program, World, ONE_RESOURCE, PROGRAMS, TOKEN_BYTES_MAX};
use crate::check::authority::{Narrow, Narrower, Shown};
use crate::device::Device;
use crate::event::Event;
use crate::fault::Overstep;
use crate::model::{Credential, Made, Narrowed, Role, Standing, Stepped, UNCOUNTED};
use crate::plan::{Narrows, TokenChoice};
use crate::world::Checks;

/// What was narrowed so often is not narrowed further: each time adds a check, and there may be eight.
const TIMES_MAX: u32 = 3;
/// So often one credential is narrowed at once by who wants to have too many.
const CROWD: u64 = 20;
/// The shortest life that is asked for, in seconds.
const TTL_MIN: u64 = 5;

impl World<'_> {
    /// A program narrows on an ordinary day, or uses what was narrowed.
    pub(crate) fn narrow(&mut self, device: u32, does: Narrows, pick: u64) {
        if !self.is_running(device) {
            return;
        }
        match does {
            Narrows::Asks => {
                let Some(of) = self.narrowable(device, pick, Standing::Good, |_| true) else { return };
                let narrow = self.narrowing(of, pick);
                self.have_narrowed(device, narrow);
            }
            Narrows::Leaves => {
                let fits = |of: &Credential| of.role == Role::Work && of.connection.is_some();
                let Some(number) = self.narrowable(device, pick, Standing::Good, fits) else { return };
                // Who waits for an answer yet may have asked before.
                let Some(connection) = self.model.get(number).connection.filter(|_| !self.awaits(device)) else {
                    return;
                };
                self.give(device, Input::Gone(Tie::Connection(connection)));
                self.connections_end(device, |ended| ended == connection);
            }
            Narrows::Uses => {
                let Some(number) = self.narrowed_one(device, pick, Standing::Good) else { return };
                self.use_narrowed(device, number, TokenChoice::Valid, pick);
            }
        }
    }

    /// Connections to a gateway's agent have ended: what hung on them must count for nothing from now on.
    pub(super) fn connections_end(&mut self, device: u32, is_one: impl Fn(u64) -> bool) {
        let now = self.now;
        let hung = |of: &&mut Credential| of.device == device && of.connection.is_some_and(&is_one);
        for of in self.model.iter_mut().filter(hung) {
            of.finished.get_or_insert(now);
        }
    }

    /// Whether anybody waits for an answer of a gateway's.
    fn awaits(&self, device: u32) -> bool {
        self.asked.values().any(|waiting| waiting.device == device)
    }

    /// Somebody tries what is not due to him.
    pub(crate) fn overstep(&mut self, device: u32, how: Overstep, pick: u64) {
        if self.is_running(device) && self.try_overstep(device, how, pick).is_some() {
            self.took_effect(how.name());
        }
    }

    /// None where that cannot be tried yet.
    fn try_overstep(&mut self, device: u32, how: Overstep, pick: u64) -> Option<()> {
        let any = |_: &Credential| true;
        match how {
            Overstep::Beyond => {
                let number = self.narrowed_one(device, pick, Standing::Good)?;
                let (uid, right) = (self.model.get(number).uid, self.beyond(number));
                self.show_for(device, number, (uid, &right), TokenChoice::Foreign, 0);
            }
            Overstep::Crowd => {
                let of = self.narrowable(device, pick, Standing::Good, |of| of.role == Role::Work)?;
                let (uid, ttl) = (self.model.get(of).uid, Some(self.longest_ttl()));
                for _ in 0..CROWD {
                    self.have_narrowed(device, Narrow { of, uid, scope: Vec::new(), only: None, ttl });
                }
            }
            Overstep::Ended => {
                let of = match pick % 3 {
                    0 => self.narrowable(device, pick, Standing::Finished, any),
                    1 => self.narrowable(device, pick, Standing::Expired, any),
                    _ => self.narrowable(device, pick, Standing::Unclear, |of| of.revoked.is_some()),
                };
                let narrow = self.narrowing(of?, pick);
                self.have_narrowed(device, narrow);
            }
            Overstep::Expired => {
                let number = self.narrowed_one(device, pick, Standing::Expired)?;
                self.use_narrowed(device, number, TokenChoice::Expired, pick);
            }
            Overstep::Late => {
                let is_revoked = |of: &Credential| is_narrowed(of) && of.revoked.is_some();
                let moment = self.moment(device);
                let (number, choice) = match pick % 3 {
                    0 => {
                        let number = self.model.pick_one(self.acting, &moment, pick, Standing::Unclear, is_revoked);
                        (number, TokenChoice::Revoked)
                    }
                    _ => (self.narrowed_one(device, pick, Standing::Finished), TokenChoice::Finished),
                };
                self.use_narrowed(device, number?, choice, pick);
            }
            Overstep::Stolen => {
                let of = self.narrowable(device, pick, Standing::Good, any)?;
                let narrow = self.narrowing(of, pick);
                self.have_narrowed(device, Narrow { uid: other_than(narrow.uid), ..narrow });
            }
            Overstep::Stranger => {
                let number = self.narrowed_one(device, pick, Standing::Good)?;
                let (uid, right) = (other_than(self.model.get(number).uid), self.within(number, pick));
                self.show_for(device, number, (uid, &right), TokenChoice::Stranger, 0);
            }
            Overstep::Wider => {
                let of = self.narrowable(device, pick, Standing::Good, |of| !matches!(of.role, Role::Step(_)))?;
                let narrow = Narrow { scope: vec![self.beyond(of)], only: None, ..self.narrowing(of, pick) };
                self.have_narrowed(device, narrow);
            }
        }
        Some(())
    }

    /// What a program holds of a gateway that stands so, and can have narrowed. What nobody there handed out its agent narrows for
    /// anybody, without a record, as its holder could himself.
    fn narrowable(
        &mut self,
        device: u32,
        pick: u64,
        standing: Standing,
        fits: impl Fn(&Credential) -> bool,
    ) -> Option<usize> {
        let is_one = |of: &Credential| match &of.role {
            Role::Narrowed(narrowed) => narrowed.times < TIMES_MAX && fits(of),
            Role::Plan { .. } => false,
            Role::Step(_) | Role::Work => of.life < UNCOUNTED && fits(of),
        };
        self.model.pick_one(self.acting, &self.moment(device), pick, standing, is_one)
    }

    /// What was narrowed on a gateway and stands so.
    fn narrowed_one(&mut self, device: u32, pick: u64, standing: Standing) -> Option<usize> {
        self.model.pick_one(self.acting, &self.moment(device), pick, standing, is_narrowed)
    }

    /// What a credential may do.
    fn rights_of(&self, number: usize) -> Vec<Right> {
        let credential = self.model.get(number);
        match &credential.role {
            Role::Narrowed(narrowed) => narrowed.rights.clone(),
            Role::Plan { .. } => planner_rights().to_vec(),
            Role::Step(step) => vec![step.right.clone()],
            Role::Work => program_of(credential.uid).map(|program| rights(program).to_vec()).unwrap_or_default(),
        }
    }

    /// Some of what a credential may do.
    fn within(&self, number: usize, pick: u64) -> Right {
        let all = self.rights_of(number);
        let right = all[(pick % all.len() as u64) as usize].clone();
        match pick / 5 % 3 {
            0 if right.resource.ends_with('*') => Right { resource: ONE_RESOURCE.into(), ..right },
            1 if right.resource == "modbus/*" => Right { resource: "modbus/meter3/*".into(), ..right },
            _ => right,
        }
    }

    /// What a credential may not do: something that its task may, where it is narrower, or else what only others may.
    fn beyond(&self, number: usize) -> Right {
        let held = self.rights_of(number);
        let task = self.model.task_of(number).map(|task| self.rights_of(task)).unwrap_or_default();
        let uid = self.model.get(number).uid;
        let foreign = PROGRAMS.iter().find(|program| program.uid != uid).map(|program| rights(program)[0].clone());
        let wider = task.into_iter().find(|right| !held.contains(right) && right.action == "write");
        wider.or(foreign).unwrap_or_else(|| Right { action: "erase".into(), resource: ONE_RESOURCE.into() })
    }

    fn longest_ttl(&self) -> u64 {
        self.scenario.workload.narrowing.as_ref().map_or(TTL_MIN, |plan| plan.ttl.0 / 1000).max(TTL_MIN) * 1000
    }

    /// What a program asks for on an ordinary day.
    fn narrowing(&self, of: usize, pick: u64) -> Narrow {
        let right = self.within(of, pick);
        let ttl = (TTL_MIN * 1000 + pick / 16 % self.longest_ttl()) / 1000 * 1000;
        let (scope, only, ttl) = match pick % 4 {
            0 => (Vec::new(), None, Some(ttl)),
            1 => (Vec::new(), Some(right.action), Some(ttl)),
            2 => (vec![right], None, Some(ttl)),
            _ => (vec![right], None, None),
        };
        Narrow { of, uid: self.model.get(of).uid, scope, only, ttl }
    }

    fn have_narrowed(&mut self, device: u32, narrow: Narrow) {
        let credential = self.model.get(narrow.of);
        let ask = Attenuate {
            token: credential.text.clone(),
            ttl_s: narrow.ttl.map(|ttl| ttl / 1000),
            checks: narrow.only.iter().map(|only| format!("check if operation(\"{only}\")")).collect(),
            scope: narrow.scope.clone(),
        };
        self.checks.authority.narrowing_asked(&credential.task);
        self.ask(device, narrow.uid, Socket::Agent, Request::Attenuate(ask), Asked::Narrow(Box::new(narrow)));
    }

    /// The holder of a narrowed credential uses it for what is left to it.
    pub(super) fn use_narrowed(&mut self, device: u32, number: usize, choice: TokenChoice, pick: u64) {
        let (uid, right) = (self.model.get(number).uid, self.within(number, pick));
        self.show_for(device, number, (uid, &right), choice, pick);
    }

    /// A narrowed credential is presented by somebody for something that a right covers.
    fn show_for(&mut self, device: u32, number: usize, (uid, right): (u32, &Right), choice: TokenChoice, pick: u64) {
        let risks = &self.scenario.workload.risks;
        let risk = risks[(pick / 7 % risks.len() as u64) as usize].clone();
        let (operation, resource) = done_with(right);
        self.show(device, number, (uid, operation, resource), choice, risk);
    }

    /// Right after a start: something good, and what must not have come back to life.
    pub(super) fn probe_narrowed(&mut self, device: u32) {
        let moment = self.moment(device);
        for (standing, choice) in [
            (Standing::Good, TokenChoice::Valid),
            (Standing::Expired, TokenChoice::Expired),
            (Standing::Finished, TokenChoice::Finished),
        ] {
            for number in self.model.newest_ones(&moment, 1, standing, is_narrowed) {
                self.use_narrowed(device, number, choice, 0);
            }
        }
    }

    /// Nobody hears whether a credential was narrowed: a step that was shown for it may have no use any more.
    pub(super) fn narrowing_unheard(&mut self, narrow: &Narrow) {
        let credential = self.model.get_mut(narrow.of);
        credential.unheard += u64::from(matches!(credential.role, Role::Step(_)));
    }

    /// A credential was narrowed.
    pub(super) fn narrowed(
        &mut self,
        device: u32,
        narrow: &Narrow,
        (since, begun): (u64, Option<usize>),
        reply: AttenuatedReply,
    ) {
        let (moment, of) = (self.moment(device), self.model.get(narrow.of).clone());
        let bytes = from_text(&reply.token, TOKEN_BYTES_MAX).unwrap_or_default();
        let chain = Held::from_bytes(&bytes).map(|held| held.chain()).unwrap_or_default();
        let limits = &self.devices[device as usize].profile().verify;
        let ends = biscuit::decode(&bytes, limits).ok().as_ref().map(ends_of).unwrap_or_default();
        let Device { name, disk, .. } = &self.devices[device as usize];
        let Checks { tally, audit, .. } = &mut self.checks;
        audit.told_of_sibling(tally, moment.at, (device, name), (&of.task, &chain), disk.durable());
        self.judge_narrowing(device, narrow, since, Ok(Narrower { expires_in_s: reply.expires_in_s, ends }));
        self.tell(&Event::Replied { device, what: format!("narrowed task {}", of.task) });
        let rights = narrow.left(&self.rights_of(narrow.of));
        let (role, uses) = match (&of.role, rights.first()) {
            // A step has one use, however it is narrowed.
            (Role::Step(step), Some(right)) => {
                self.model.get_mut(narrow.of).uses = 0;
                (Role::Step(Stepped { right: right.clone(), ..step.clone() }), of.uses)
            }
            (Role::Narrowed(Narrowed { task, times, .. }), _) => {
                (Role::Narrowed(Narrowed { of: narrow.of, task: *task, rights, times: times + 1 }), u64::MAX)
            }
            (Role::Plan { .. } | Role::Step(_) | Role::Work, _) => {
                (Role::Narrowed(Narrowed { of: narrow.of, task: narrow.of, rights, times: 1 }), u64::MAX)
            }
        };
        let left = of.life.saturating_sub(of.honoured(&moment));
        let latest = of.made.map_or(of.ends, |made| made.promised);
        let own = Credential { begun, text: reply.token, chain, ends, uses, allows: 0, unheard: 0, role, ..of };
        let number = self.model.hand_out(match narrow.ttl.filter(|ttl| *ttl < left) {
            Some(life) => Credential {
                made: Some(Made::at(&moment, life, latest)),
                begun_powered: moment.powered,
                begun_down: moment.know.down,
                life,
                ..own
            },
            // It lives for as long as what it was made of.
            None => own,
        });
        self.probe_past_its_end(device, number);
    }

    /// A credential was not narrowed.
    pub(super) fn not_narrowed(&mut self, device: u32, narrow: &Narrow, since: u64, problem: &Problem) {
        // A lack of room says nothing of who may what.
        if problem.code != ProblemCode::AuditUnavailable {
            self.judge_narrowing(device, narrow, since, Err(problem.code.name()));
        }
    }

    fn judge_narrowing(&mut self, device: u32, narrow: &Narrow, since: u64, answer: Result<Narrower, &str>) {
        let mut moment = self.moment(device);
        // What was slept over says nothing of what was known when it was decided.
        if moment.at > since + ALLOW_WAIT_MAX.0 {
            return;
        }
        let (rights, credential) = (self.rights_of(narrow.of), self.model.get(narrow.of));
        let task = self.model.task_of(narrow.of).unwrap_or(narrow.of);
        let shown = Shown {
            credential,
            rights: &rights,
            standing: self.model.standing(narrow.of, &moment),
            siblings: self.model.good_siblings(task, &moment),
        };
        let name = &self.devices[device as usize].name;
        let Checks { tally, authority, emergency, .. } = &mut self.checks;
        moment.revoked = emergency.may_revoke(&moment, name, credential);
        authority.narrowed(tally, &moment, name, (narrow, &shown), answer);
    }
}

fn is_narrowed(credential: &Credential) -> bool {
    matches!(credential.role, Role::Narrowed(_))
}

fn program_of(uid: u32) -> Option<&'static Program> {
    PROGRAMS.iter().find(|program| program.uid == uid)
}

/// Another user that programs here run as.
fn other_than(uid: u32) -> u32 {
    let all = PROGRAMS.iter().map(|program| program.uid).chain(EXECUTORS);
    all.into_iter().find(|other| *other != uid).unwrap_or_default()
}
