//! What ought to be: the plain account that the simulator keeps beside the agents.
//!
//! Owns: every credential that was handed out, with who holds it, since when, in true and in powered-on time, and what
//! became of it; what the operator revoked.
//! Never: asks an agent what it believes. Where this and an agent differ, one of the two is wrong.
//! Read next: `check/authority.rs`, which compares.

use std::collections::{BTreeMap, BTreeSet};

use hardtack::agent::request::Origin;
use hardtack::ids::{BlockId, BootId, DeviceId, GrantId, GroupId, TaskId};
use hardtack::time::{Millis, Timestamp};
use hardtack::wire::audit::{Initiator, NamedStep};
use hardtack::wire::link::Right;
use hardtack::wire::revocation::Target;

use crate::check::authority::Moment;
use crate::plan::TokenChoice;

/// Slack for whole seconds in tokens and the time from a decision to its reply, in milliseconds.
pub(crate) const SLACK: u64 = 2000;
/// What no agent handed out has a life that none counts: its dates alone bound it.
pub(crate) const UNCOUNTED: u64 = u64::MAX / 2;
/// Closer to an end than this nobody can say from outside.
const MARGIN: Millis = Millis::from_secs(20);
/// One is picked of so many of the newest that fit.
const RECENT: usize = 8;
/// Looking further back finds only what is long forgotten.
const LOOK_BACK: usize = 64;

/// A credential in a program's hands.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    /// The gateway whose agent handed it out.
    pub(crate) device: u32,
    /// The act of the plan that its program began its task with, by its place, if one did.
    pub(crate) begun: Option<usize>,
    pub(crate) uid: u32,
    pub(crate) text: String,
    pub(crate) task: TaskId,
    pub(crate) grant: GrantId,
    pub(crate) owner: String,
    /// The group that it is for, if it is not for its gateway alone.
    pub(crate) group: Option<GroupId>,
    pub(crate) chain: Vec<BlockId>,
    pub(crate) origin: Origin,
    /// When the issuer's block says that it was issued and expires.
    pub(crate) issued: Timestamp,
    pub(crate) expires: Timestamp,
    /// The serial that the issuer's block states, if any.
    pub(crate) serial: Option<u32>,
    /// The date in it from which on it is refused.
    pub(crate) ends: Timestamp,
    /// What its gateway made of it, if it made it.
    pub(crate) made: Option<Made>,
    /// Powered-on time of the gateway when it was handed out.
    pub(crate) begun_powered: u64,
    /// By how much corrections could have taken P down until then.
    pub(crate) begun_down: u64,
    /// How long it may live.
    pub(crate) life: u64,
    /// How often it may be used.
    pub(crate) uses: u64,
    /// How often it was allowed.
    pub(crate) allows: u64,
    /// How often it was presented and nothing was heard: what was charged for that nobody knows.
    pub(crate) unheard: u64,
    /// When its program asked to finish its task.
    pub(crate) finish_asked: Option<u64>,
    /// When its program heard that it is finished, or the connection ended that it hung on.
    pub(crate) finished: Option<u64>,
    /// The connection that its task hangs on, if it does.
    pub(crate) connection: Option<u64>,
    /// When the operator revoked it.
    pub(crate) revoked: Option<u64>,
    /// Who initiated its task, if that was shown.
    pub(crate) initiator: Option<Initiator>,
    /// What it is for.
    pub(crate) role: Role,
}

/// What a gateway made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Made {
    /// In this boot.
    pub(crate) boot: Option<BootId>,
    /// P was not below this then.
    pub(crate) least: Timestamp,
    /// Its date is no earlier than this, or it was dated by another clock than decisions go by.
    pub(crate) promised: Timestamp,
}

impl Made {
    /// At a moment, for so long, and no longer than this.
    pub(crate) fn at(moment: &Moment, life: u64, latest: Timestamp) -> Self {
        // Whole seconds stand in it.
        let promised = (moment.earliest() + Millis(life) - Millis(1000)).min(latest);
        Self { boot: moment.boot, least: moment.know.least, promised }
    }
}

/// What a credential is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    /// What its task is for or less, by whoever had it narrowed.
    Narrowed(Narrowed),
    /// To be exchanged for steps, by a planner.
    Plan {
        /// The keys under which it has given one.
        keys: Vec<String>,
    },
    /// One use, for an executor.
    Step(Stepped),
    /// What its task is for, by the program that began it.
    Work,
}

/// A credential that an agent narrowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Narrowed {
    /// The credential that was shown for it,
    pub(crate) of: usize,
    /// and that of its task.
    pub(crate) task: usize,
    /// What is left of its rights.
    pub(crate) rights: Vec<Right>,
    /// How often it was narrowed.
    pub(crate) times: u32,
}

/// A step that a planner took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stepped {
    /// The planner's credential that was exchanged for it.
    pub(crate) of: usize,
    /// What it is to do.
    pub(crate) right: Right,
    /// As records name it.
    pub(crate) named: NamedStep,
}

/// The account.
#[derive(Debug, Default)]
pub(crate) struct Model {
    credentials: Vec<Credential>,
    /// Numbers of the credentials of each gateway, oldest first.
    of_device: BTreeMap<u32, Vec<usize>>,
    /// The credential that an act of the plan got.
    begun: BTreeMap<usize, usize>,
    /// Grants that the operator revoked: in the dark they still give tasks.
    revoked: BTreeSet<GrantId>,
    /// What was picked.
    pub(crate) choices: Choices,
    /// What another run picked, to be picked again.
    told: Option<Choices>,
}

/// Which credential each act of the plan was about, by the act's place in the plan; none where none fitted. A run that
/// follows it is about the same requests with the same credentials, at another level, or where something else happens
/// earlier or later.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choices(BTreeMap<usize, Option<Which>>);

/// A credential, so that another run of the same plan finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Which {
    /// The one that this act of the plan got.
    Begun(usize),
    /// Of those that a gateway handed out, the one at this place.
    Nth(u32, usize),
}

/// What the account says about using a credential on its own gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing speaks against it, with a margin.
    Good,
    /// Near one of its ends, or something is on its way.
    Unclear,
    /// Past its life by every account.
    Expired,
    /// Its task has ended.
    Finished,
    /// Used up.
    Spent,
}

impl Credential {
    /// How it stands at a moment.
    pub(crate) fn standing(&self, moment: &Moment) -> Standing {
        if self.honoured(moment) > self.limit() {
            return Standing::Expired;
        }
        if self.finished.is_some() {
            return Standing::Finished;
        }
        if self.allows >= self.uses {
            return Standing::Spent;
        }
        // Corrections of P since then took its end down with it, by at most this.
        let down = Millis(moment.know.down.saturating_sub(self.begun_down));
        let ends = self.made.map_or(self.ends, |made| made.promised.max(self.ends)) - down;
        let lived = self.made.is_some_and(|made| match made.boot == moment.boot {
            true => self.honoured(moment) + MARGIN.0 > self.life,
            false => made.least + Millis(self.life) - down < moment.know.most + MARGIN,
        });
        let near_end = lived || ends < moment.latest() + MARGIN || self.allows + self.unheard >= self.uses;
        if near_end || self.finish_asked.is_some() || self.revoked.is_some() {
            return Standing::Unclear;
        }
        Standing::Good
    }

    /// Powered-on time since it was handed out.
    pub(crate) fn honoured(&self, moment: &Moment) -> u64 {
        moment.powered.saturating_sub(self.begun_powered)
    }

    /// The most powered-on time in which it may be honoured.
    pub(crate) fn limit(&self) -> u64 {
        self.life + SLACK + self.life / 100_000
    }

    /// The block of its grant that carries the budget, if it was narrowed from one.
    pub(crate) fn grant_block(&self) -> Option<BlockId> {
        match self.origin {
            Origin::Fallback => self.chain.first().copied(),
            Origin::Issued => None,
        }
    }

    /// What a rule must name to cover it.
    pub(crate) fn targets(&self, device: &DeviceId) -> Vec<Target> {
        let mut targets = vec![
            Target::Task(self.task.clone()),
            Target::Grant(self.grant),
            Target::Device(device.clone()),
            Target::Owner(self.owner.clone()),
            Target::All,
        ];
        targets.extend(self.group.clone().map(Target::Group));
        targets.extend(self.chain.iter().map(|block| Target::Block(*block)));
        targets
    }
}

impl Model {
    /// From now on what another run picked is picked again.
    pub(crate) fn follow(&mut self, choices: Choices) {
        self.told = Some(choices);
    }

    /// A credential was handed out. Returns its number.
    pub(crate) fn hand_out(&mut self, credential: Credential) -> usize {
        let number = self.credentials.len();
        self.of_device.entry(credential.device).or_default().push(number);
        self.begun.extend(credential.begun.map(|act| (act, number)));
        self.credentials.push(credential);
        number
    }

    /// The operator revoked a grant.
    pub(crate) fn revoke(&mut self, grant: GrantId) {
        self.revoked.insert(grant);
    }

    /// Whether the operator revoked a grant.
    pub(crate) fn is_revoked(&self, grant: &GrantId) -> bool {
        self.revoked.contains(grant)
    }

    /// How many were handed out on a gateway.
    pub(crate) fn handed_out(&self, device: u32) -> usize {
        self.of_device.get(&device).map_or(0, Vec::len)
    }

    pub(crate) fn get(&self, number: usize) -> &Credential {
        &self.credentials[number]
    }

    pub(crate) fn get_mut(&mut self, number: usize) -> &mut Credential {
        &mut self.credentials[number]
    }

    /// The numbers of all credentials that are like this, newest first.
    pub(crate) fn newest_where<'a>(
        &'a self,
        fits: impl Fn(&Credential) -> bool + 'a,
    ) -> impl Iterator<Item = usize> + 'a {
        (0..self.credentials.len()).rev().filter(move |number| fits(&self.credentials[*number]))
    }

    /// The task's credential behind a step, or behind what was narrowed.
    pub(crate) fn task_of(&self, number: usize) -> Option<usize> {
        match &self.credentials[number].role {
            Role::Narrowed(narrowed) => Some(narrowed.task),
            Role::Step(step) => Some(step.of),
            Role::Plan { .. } | Role::Work => None,
        }
    }

    /// The numbers of what ends with a credential's task: itself, its steps, and what was narrowed.
    pub(crate) fn ends_with(&self, number: usize) -> Vec<usize> {
        match self.credentials[number].role {
            Role::Plan { .. } | Role::Work => {
                let own = self.of_device.get(&self.credentials[number].device).into_iter().flatten();
                own.copied().filter(|other| *other == number || self.task_of(*other) == Some(number)).collect()
            }
            Role::Narrowed(_) | Role::Step(_) => vec![number],
        }
    }

    /// How a credential stands at a moment: no better than what it was made of.
    pub(crate) fn standing(&self, number: usize, moment: &Moment) -> Standing {
        let own = self.credentials[number].standing(moment);
        let of = match &self.credentials[number].role {
            Role::Narrowed(narrowed) => Some(narrowed.of),
            Role::Step(step) => Some(step.of),
            Role::Plan { .. } | Role::Work => None,
        };
        of.filter(|_| own == Standing::Good).map_or(own, |of| self.standing(of, moment))
    }

    /// How many credentials that were narrowed of a task are good at a moment.
    pub(crate) fn good_siblings(&self, task: usize, moment: &Moment) -> usize {
        let all = self.ends_with(task).into_iter();
        let narrowed = all.filter(|number| matches!(self.credentials[*number].role, Role::Narrowed(_)));
        narrowed.filter(|number| self.credentials[*number].standing(moment) == Standing::Good).count()
    }

    /// One of the credentials of a kind that stand so on a gateway, newest first within the last few, picked by chance.
    pub(crate) fn pick_one(
        &mut self,
        act: Option<usize>,
        moment: &Moment,
        pick: u64,
        standing: Standing,
        is_one: impl Fn(&Credential) -> bool,
    ) -> Option<usize> {
        let found = self.newest_ones(moment, RECENT, standing, is_one);
        let index = pick.checked_rem(found.len() as u64).map_or(0, |index| index as usize);
        self.choose(act, found.get(index).copied())
    }

    /// The newest of these that stand so on a gateway.
    pub(crate) fn newest_ones(
        &self,
        moment: &Moment,
        count: usize,
        standing: Standing,
        is_one: impl Fn(&Credential) -> bool,
    ) -> Vec<usize> {
        let own = self.of_device.get(&moment.device).into_iter().flatten().rev().copied();
        let ones = own.filter(|number| is_one(&self.credentials[*number])).take(LOOK_BACK);
        ones.filter(|number| self.standing(*number, moment) == standing).take(count).collect()
    }

    /// All credentials with their numbers.
    pub(crate) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Credential> {
        self.credentials.iter_mut()
    }

    /// One of the credentials that are what `choice` wants on a gateway, newest first within the last few, picked by
    /// chance.
    pub(crate) fn pick(
        &mut self,
        act: Option<usize>,
        choice: TokenChoice,
        moment: &Moment,
        pick: u64,
    ) -> Option<usize> {
        let count = match choice {
            // The same one over and over, until it is used up.
            TokenChoice::Spend => 1,
            TokenChoice::Attenuated
            | TokenChoice::Expired
            | TokenChoice::Finished
            | TokenChoice::Foreign
            | TokenChoice::Forged
            | TokenChoice::Revoked
            | TokenChoice::Stolen
            | TokenChoice::Stranger
            | TokenChoice::Valid
            | TokenChoice::Widened => RECENT,
        };
        let found = self.newest(choice, moment, count);
        let index = pick.checked_rem(found.len() as u64).map_or(0, |index| index as usize);
        self.choose(act, found.get(index).copied())
    }

    /// What was picked for an act, or in its place what another run picked for it, if this one follows that: none where it
    /// has no such credential.
    pub(crate) fn choose(&mut self, act: Option<usize>, own: Option<usize>) -> Option<usize> {
        let Some(act) = act else { return own };
        let chosen = match self.told.as_ref().and_then(|told| told.0.get(&act)) {
            Some(which) => which.and_then(|which| self.find(which)),
            None => own,
        };
        self.choices.0.insert(act, chosen.and_then(|number| self.which(number)));
        chosen
    }

    /// A credential, so that another run finds it.
    pub(crate) fn which(&self, number: usize) -> Option<Which> {
        match self.credentials.get(number)?.begun {
            Some(act) => Some(Which::Begun(act)),
            None => {
                let device = self.credentials.get(number)?.device;
                Some(Which::Nth(device, self.of_device.get(&device)?.binary_search(&number).ok()?))
            }
        }
    }

    fn find(&self, which: Which) -> Option<usize> {
        match which {
            Which::Begun(act) => self.begun.get(&act).copied(),
            Which::Nth(device, place) => self.of_device.get(&device)?.get(place).copied(),
        }
    }

    /// The newest credentials that are what `choice` wants on a gateway.
    pub(crate) fn newest(&self, choice: TokenChoice, moment: &Moment, count: usize) -> Vec<usize> {
        let fits = |number: &usize| {
            let credential = &self.credentials[*number];
            let standing = || credential.standing(moment);
            match choice {
                TokenChoice::Foreign | TokenChoice::Stranger | TokenChoice::Valid => standing() == Standing::Good,
                TokenChoice::Spend => credential.revoked.is_none() && credential.finish_asked.is_none(),
                TokenChoice::Expired => standing() == Standing::Expired,
                TokenChoice::Finished => standing() == Standing::Finished,
                TokenChoice::Revoked => credential.revoked.is_some(),
                TokenChoice::Stolen => credential.finish_asked.is_none() && credential.group.is_none(),
                TokenChoice::Attenuated | TokenChoice::Forged | TokenChoice::Widened => false,
            }
        };
        if choice == TokenChoice::Stolen {
            let mut looked_at: BTreeMap<u32, usize> = BTreeMap::new();
            let is_near = |number: &usize| {
                let of = looked_at.entry(self.credentials[*number].device).or_default();
                *of += 1;
                *of <= LOOK_BACK
            };
            let others = self.newest_where(|of| of.device != moment.device && of.role == Role::Work);
            return others.filter(is_near).filter(fits).take(count).collect();
        }
        let own = self.of_device.get(&moment.device).into_iter().flatten().rev();
        let own = own.filter(|number| self.credentials[**number].role == Role::Work);
        own.take(LOOK_BACK).copied().filter(fits).take(count).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::check::authority::Quiet;
    use crate::check::clock::{Knowledge, Synced};
    use crate::clocks::date;

    const MINUTE: u64 = 60_000;

    fn credential(life: u64, uses: u64) -> Credential {
        Credential {
            device: 0,
            begun: None,
            uid: 1001,
            text: String::new(),
            task: "t-1".parse().unwrap(),
            grant: GrantId([0; 16]),
            owner: "ops@sim".into(),
            group: None,
            chain: Vec::new(),
            origin: Origin::Fallback,
            issued: date(0),
            expires: date(1000 + life),
            serial: None,
            ends: date(1000 + life),
            made: Some(Made { boot: None, least: date(1000), promised: date(1000 + life) }),
            begun_powered: 500,
            begun_down: 0,
            life,
            uses,
            allows: 0,
            unheard: 0,
            finish_asked: None,
            finished: None,
            connection: None,
            revoked: None,
            initiator: None,
            role: Role::Work,
        }
    }

    fn moment(at: u64, powered: u64) -> Moment {
        let time = date(at);
        let synced = Synced::Yes;
        let know = Knowledge {
            least: time,
            most: time,
            proven: time,
            down: 0,
            alone: 0,
            boots: 0,
            synced,
            grace: 0,
            untold: (0, 0),
            fall: None,
            misled: Timestamp(0),
        };
        Moment { at, powered, device: 0, boot: None, quiet: Quiet::No, know, wall: None, revoked: false, spent: false }
    }

    #[test]
    fn standing_follows_powered_on_time_and_doubts_are_not_held_against_an_agent() {
        let fresh = credential(10 * MINUTE, 2);
        let soon = moment(2000, 1500);
        assert_eq!(fresh.standing(&soon), Standing::Good);
        assert_eq!(fresh.standing(&moment(10 * MINUTE, 1500)), Standing::Unclear, "off for a while: nobody can say");
        assert_eq!(fresh.standing(&moment(11 * MINUTE, 500 + 11 * MINUTE)), Standing::Expired);
        assert_eq!(Credential { allows: 2, ..fresh.clone() }.standing(&soon), Standing::Spent);
        assert_eq!(Credential { allows: 1, unheard: 1, ..fresh.clone() }.standing(&soon), Standing::Unclear);
        assert_eq!(Credential { finish_asked: Some(1), ..fresh.clone() }.standing(&soon), Standing::Unclear);
        assert_eq!(Credential { finished: Some(1), ..fresh.clone() }.standing(&soon), Standing::Finished);
        let down = Knowledge { down: 10 * MINUTE, ..soon.know };
        assert_eq!(fresh.standing(&Moment { know: down, ..soon }), Standing::Unclear, "P was corrected");
        let know = Knowledge { synced: Synced::No, ..soon.know };
        let later_wall = Moment { wall: Some(date(11 * MINUTE)), know, ..soon };
        assert_eq!(fresh.standing(&later_wall), Standing::Unclear);
    }

    #[test]
    fn what_is_picked_fits_and_stolen_ones_are_of_others() {
        let mut model = Model::default();
        model.hand_out(Credential { device: 1, ..credential(10 * MINUTE, 2) });
        let finished = model.hand_out(Credential { finished: Some(1), ..credential(10 * MINUTE, 2) });
        let good = model.hand_out(credential(10 * MINUTE, 2));
        let soon = moment(2000, 1500);
        assert_eq!(model.pick(None, TokenChoice::Valid, &soon, 7), Some(good));
        assert_eq!(model.pick(None, TokenChoice::Finished, &soon, 7), Some(finished));
        assert_eq!(model.pick(None, TokenChoice::Stolen, &soon, 7), Some(0));
        assert_eq!(model.pick(None, TokenChoice::Expired, &soon, 7), None);
    }

    /// By the act that got it a credential is found where others came before it, and nothing is picked in its place.
    #[test]
    fn a_run_that_follows_another_picks_the_same_or_nothing() {
        let of = |begun| Credential { begun, ..credential(10 * MINUTE, 2) };
        let soon = moment(2000, 1500);
        let mut first = Model::default();
        for credential in [of(Some(3)), of(None), of(Some(5))] {
            first.hand_out(credential);
        }
        let picked = [(7, 0), (8, 1), (9, 2)].map(|(act, pick)| first.pick(Some(act), TokenChoice::Valid, &soon, pick));
        assert_eq!(picked, [Some(2), Some(1), Some(0)]);
        assert_eq!(first.pick(Some(10), TokenChoice::Expired, &soon, 0), None);
        let mut second = Model::default();
        second.follow(std::mem::take(&mut first.choices));
        for credential in [of(Some(5)), of(None), of(Some(6))] {
            second.hand_out(credential);
        }
        let picked = [7, 8, 9, 10].map(|act| second.pick(Some(act), TokenChoice::Valid, &soon, 0));
        assert_eq!(
            picked,
            [Some(0), Some(1), None, None],
            "act 3 got nothing here, and act 10 was about nothing there"
        );
        assert_eq!(second.pick(Some(11), TokenChoice::Valid, &soon, 0), Some(2), "of act 11 nothing is known");
    }
}
