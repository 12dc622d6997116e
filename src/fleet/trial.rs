//! A policy tried on requests before any device has it.
//!
//! Owns: [`Case`], [`Trial`]: a device of nobody's with one credential, in whose place the agent's own code decides.
//! Never: decides anything itself; uses a key that anybody believes.
//! Read next: `../agent/decide.rs`, which answers; `policy.rs`, which sets what was tried.

use ed25519_dalek::SigningKey;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::FleetError;
use crate::agent::clock::{Between, TrustedClock};
use crate::agent::decide::{Judge, Purpose, Question};
use crate::agent::policy::Policy;
use crate::agent::request::{Mode, Origin, Reason};
use crate::agent::revocation::Revocations;
use crate::agent::room::{Room, Shares, Taken};
use crate::agent::token::{Cache, Clause};
use crate::agent::wallet::{Made, StoredStep, StoredTask, Wallet};
use crate::agent::Anchor;
use crate::ids::{BootId, DeviceId, EraId, FeedId, FleetId, GrantId, Hash, RiskClass, StepId, TaskClass, TaskId};
use crate::profile::Profile;
use crate::time::{Millis, Timestamp};
use crate::wire::arguments::Arguments;
use crate::wire::audit::NamedStep;
use crate::wire::bundle::{BrokerPins, Feed, Issuer, TrustBundle};
use crate::wire::link::Right;
use crate::wire::revocation::announcement::Successor;
use crate::wire::revocation::ladder::Step;
use crate::wire::revocation::set::RevocationSet;
use crate::wire::seal::SealingKey;
use crate::wire::token::{
    child_block, mint_grant, mint_task, to_text, Bearer, ClassRight, GrantSpec, Held, Purpose as Does, StepBlock,
    TaskBlock, TaskSpec, EXCHANGE,
};
use crate::wire::Refused;

/// Which key of the trust bundle signs tokens.
const ROOT_KEY_ID: u32 = 1;
/// When tokens are issued, before the time that it is.
const ISSUED_BEFORE: Millis = Millis::from_secs(60);
/// How long tasks live.
const TASK_LIFE: Millis = Millis::from_secs(900);
/// The task that every credential with a class is of.
const TASK: &str = "t-1";
/// How long a grant lives.
const GRANT_LIFE: Millis = Millis::from_secs(7 * 86_400);

/// A request with the credential that is shown and the state of the device.
#[derive(Clone, PartialEq, Debug)]
pub struct Case {
    /// What the credential may do.
    pub rights: Vec<Right>,
    /// The class of the task that it is of; none for a token that no task of the device has.
    pub class: Option<TaskClass>,
    /// Whether the task's credential was minted for it, or narrowed from the fallback grant.
    pub origin: Origin,
    /// The step that it is of.
    pub step: Option<StepId>,
    /// Who answers for it.
    pub owner: String,
    /// What its holder added, in Datalog.
    pub checks: Vec<String>,
    /// Selectors of the program that asks, or that holds the credential where an enforcement point asks.
    pub workload: Vec<String>,
    /// Selectors of the enforcement point that asks, if it is one.
    pub enforcer: Option<Vec<String>>,
    /// The device.
    pub device: DeviceId,
    /// The operation.
    pub operation: String,
    /// The resource.
    pub resource: String,
    /// Where the effect goes.
    pub destination: Option<String>,
    /// The class of risk that is named.
    pub risk: Option<RiskClass>,
    /// What the operation is done with.
    pub arguments: Option<Arguments>,
    /// What time it is.
    pub time: Timestamp,
    /// Whether the device knows that: its ceiling is the time. If not, nothing bounds it.
    pub time_known: bool,
    /// The mode.
    pub mode: Mode,
    /// How long the device has not reached its fleet.
    pub offline_for: Millis,
    /// How old what it knows of revocations is.
    pub staleness: Millis,
}

impl Case {
    /// Who exchanges a credential is a planner.
    fn does(&self) -> Does {
        if self.operation == EXCHANGE {
            Does::Plan
        } else {
            Does::Work
        }
    }
}

/// What came out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Why, from the closed list.
    pub reason: Reason,
    /// Why, in a sentence.
    pub explain: String,
    /// The part of the policy or the check of the credential that decided, if one did.
    pub by: Option<Clause>,
}

/// A device on which policies are tried.
pub struct Trial {
    fleet: FleetId,
    key: SigningKey,
    profile: Profile,
    feed: FeedId,
    rng: ChaCha20Rng,
}

/// What is wrong with a case, other than its form.
fn unfit(refused: Refused) -> FleetError {
    FleetError::Invalid(format!("no such credential can be made: {refused}"))
}

impl Trial {
    /// A device of this fleet, with the limits of its profile. Its keys are known to everybody, and nobody believes them.
    pub fn new(fleet: FleetId, profile: Profile) -> Self {
        let feed = "main".parse().expect("a valid name");
        let (key, rng) = (SigningKey::from_bytes(&[1; 32]), ChaCha20Rng::from_seed([1; 32]));
        Self { fleet, key, profile, feed, rng }
    }

    /// Decides a case.
    ///
    /// # Errors
    /// When no such credential can be made.
    pub fn run(&mut self, policy: &Policy, case: &Case) -> Result<Outcome, FleetError> {
        let trust = self.trust(case);
        let mut wallet = Wallet::default();
        let token = to_text(&self.credential(case, &mut wallet).map_err(unfit)?);
        let boot = BootId([1; 16]);
        let anchor = Anchor {
            boot: Some(boot),
            floor: case.time,
            powered: case.time,
            powered_lease: case.time,
            ceiling: case.time_known.then_some(case.time),
            synced: case.time - case.offline_for,
            ..Anchor::default()
        };
        let clock = TrustedClock::start(self.profile.time.clone(), &anchor, boot, Millis(0));
        let revocations = self.revocations(case, &trust, &clock).map_err(unfit)?;
        let judge = Judge {
            device: &case.device,
            profile: &self.profile,
            trust: &trust,
            policy,
            revocations: &revocations,
            wallet: &wallet,
            clock: &clock,
            mode: case.mode,
            room: Room::new(&self.profile.queue, Taken::default(), &Shares::default()),
            behind: None,
        };
        let stated = case.arguments.as_ref().map_or(Ok(None), Arguments::state);
        let question = Question {
            token: &token,
            operation: &case.operation,
            resource: &case.resource,
            destination: case.destination.as_deref(),
            risk: policy.document.risk_of(&case.operation, &case.resource, case.risk.as_ref()),
            task: None,
            step: None,
            arguments: stated.as_ref().map(Option::as_ref),
            workload: case.enforcer.is_none().then_some(case.workload.as_slice()),
            enforcer: case.enforcer.as_deref(),
            purpose: if case.operation == EXCHANGE { Purpose::Exchange } else { Purpose::Use },
        };
        let judgement = judge.judge(&question, &mut Cache::new(2));
        let by = judgement.by();
        Ok(match judgement.verdict {
            Ok(_) => Outcome { reason: Reason::Allowed, explain: "allowed".into(), by },
            Err(denial) => Outcome { reason: denial.reason, explain: denial.explain, by },
        })
    }

    fn trust(&self, case: &Case) -> TrustBundle {
        let public = self.key.verifying_key().into();
        TrustBundle {
            fleet: self.fleet.clone(),
            version: 1,
            threshold: 1,
            roots: vec![public],
            issuers: vec![Issuer { root_key_id: ROOT_KEY_ID, key: public }],
            policy: vec![public],
            feeds: vec![Feed { id: self.feed.clone(), era: 0, keys: vec![public], groups: Vec::new(), since: 0 }],
            service: vec![public],
            operators: Vec::new(),
            emergency: Vec::new(),
            collector: SealingKey::from_bytes([9; 32]).public(),
            groups: Default::default(),
            identities: Vec::new(),
            policy_version_min: 1,
            broker: BrokerPins::default(),
            issued_at: Timestamp(0),
            not_after: case.time + GRANT_LIFE,
        }
    }

    /// Nothing is revoked, as the fleet said so long ago.
    fn revocations(&self, case: &Case, trust: &TrustBundle, clock: &TrustedClock) -> Result<Revocations, Refused> {
        let set = RevocationSet::default();
        let successor = Successor {
            feed: &self.feed,
            era: 0,
            seq: 1,
            previous: Hash::ZERO,
            issued_at: case.time - case.staleness,
            next_update_ms: Millis::from_secs(900),
            hard_stale_ms: Millis::from_secs(90 * 86_400),
            dropped_before: Timestamp(0),
            set: &set,
            additions: &set,
            skips: &Step::ending_at(1).map(|_| None).collect::<Vec<_>>(),
            bundle_version: 1,
            policy_version: 1,
        };
        let head = successor.sign(&self.fleet, &self.key).1.remove(0).head;
        let mut revocations = Revocations::default();
        revocations.whole((&head, &set.to_bytes()), &self.feed, trust, Between::from(case.time))?;
        revocations.follow(trust, &case.device);
        revocations.note_taken(clock);
        Ok(revocations)
    }

    /// The credential that is shown. The wallet gets the task that it is of.
    fn credential(&mut self, case: &Case, wallet: &mut Wallet) -> Result<Vec<u8>, Refused> {
        let issued = case.time - ISSUED_BEFORE;
        let ends = Timestamp::from_secs((case.time + TASK_LIFE).secs_floor());
        let (grant, task): (GrantId, TaskId) = (GrantId([0x42; 16]), TASK.parse().expect("a valid name"));
        let whole = match (case.origin, &case.class) {
            (Origin::Fallback, Some(class)) => {
                let right = |right: &Right| ClassRight { class: class.clone(), right: right.clone() };
                let spec = GrantSpec {
                    fleet: self.fleet.clone(),
                    grant,
                    device: case.device.clone(),
                    owner: case.owner.clone(),
                    feed: None,
                    issued,
                    expires: case.time + GRANT_LIFE,
                    may_begin: Vec::new(),
                    may_step: Vec::new(),
                    rights: case.rights.iter().map(right).collect(),
                    offline_max: GRANT_LIFE,
                    uses_max: 1000,
                    boots_max: 20,
                    task_ttl_max: TASK_LIFE,
                    staleness_max: Vec::new(),
                    min_time_class: None,
                };
                mint_grant(&spec, &self.key, ROOT_KEY_ID, &mut self.rng)?
            }
            (Origin::Fallback, None) => return Err(Refused::Malformed("a grant is narrowed to a class of task")),
            (Origin::Issued, _) => {
                let spec = TaskSpec {
                    fleet: self.fleet.clone(),
                    grant,
                    bearer: Bearer::Device(case.device.clone()),
                    owner: case.owner.clone(),
                    audience: None,
                    feed: None,
                    task: task.clone(),
                    issued,
                    expires: ends,
                    serial: None,
                    rights: case.rights.clone(),
                    uses_max: None,
                    staleness_max: Vec::new(),
                    min_time_class: None,
                };
                mint_task(&spec, &self.key, ROOT_KEY_ID, &mut self.rng)?
            }
        };
        let mut held = Held::from_bytes(&whole)?;
        if let Some(class) = &case.class {
            held = self.of_task(case, held, (grant, task, class), ends, wallet)?;
        }
        let mut code = String::new();
        for check in &case.checks {
            code.push_str(check.trim().trim_end_matches(';'));
            code.push_str(";\n");
        }
        if !code.is_empty() {
            let block = biscuit_auth::builder::BlockBuilder::new().code(&code);
            let block = block.map_err(|_| Refused::Malformed("a check is no Datalog"))?;
            held = held.append(block, &mut self.rng)?;
        }
        held.to_bytes()
    }

    /// What the agent makes of a task's credential for its workload, or for a step of it.
    fn of_task(
        &mut self,
        case: &Case,
        mut held: Held,
        (grant, task, class): (GrantId, TaskId, &TaskClass),
        ends: Timestamp,
        wallet: &mut Wallet,
    ) -> Result<Held, Refused> {
        let selector = case.workload.first().map_or("", String::as_str);
        let issued = held.chain().len();
        if case.origin == Origin::Fallback {
            let block = TaskBlock {
                task: &task,
                selector,
                class,
                device: &case.device,
                expires: ends,
                rights: &case.rights,
                uses_max: None,
            };
            held = held.append(block.build()?, &mut self.rng)?;
        }
        let block = match &case.step {
            Some(step) => StepBlock {
                task: &task,
                step,
                executor: selector,
                device: &case.device,
                expires: ends,
                rights: &case.rights,
            }
            .build()?,
            None => {
                let device = (case.origin == Origin::Issued).then_some(&case.device);
                child_block(&[selector], case.does(), device)?
            }
        };
        held = held.append(block, &mut self.rng)?;
        let chain = held.chain();
        let mut made: Vec<Made> =
            chain.iter().skip(issued).map(|block| Made { block: *block, ends, life: None }).collect();
        let step = case.step.as_ref().and_then(|step| Some((step, made.pop()?)));
        let steps = step.map(|(step, made)| StoredStep {
            named: NamedStep {
                id: step.clone(),
                planner: vec![selector.to_owned()],
                era: EraId { number: 1, salt: 1 },
                index: 0,
            },
            made,
            executor: selector.to_owned(),
            rights: case.rights.clone(),
            rests_on: None,
            key: None,
            checks: Vec::new(),
            scope: Vec::new(),
        });
        wallet.put_task(StoredTask {
            id: task,
            class: class.clone(),
            origin: case.origin,
            grant,
            owner: case.owner.clone(),
            token: Vec::new(),
            made,
            budget: None,
            selectors: case.workload.clone(),
            uid: 0,
            rights: case.rights.clone(),
            ttl_s: TASK_LIFE.secs(),
            uses_max: None,
            finished: false,
            ties: Vec::new(),
            proved: None,
            purpose: case.does(),
            holder: vec![selector.to_owned()],
            executors: Vec::new(),
            steps: steps.into_iter().collect(),
            siblings: Vec::new(),
        });
        Ok(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::policy::{PolicyDocument, BUILT_IN};

    fn case() -> Case {
        Case {
            rights: vec![Right { resource: "modbus/*".into(), action: "write".into() }],
            class: Some("pump".parse().unwrap()),
            origin: Origin::Issued,
            step: None,
            owner: "ops@acme".into(),
            checks: Vec::new(),
            workload: vec!["unix:uid:1001".into()],
            enforcer: None,
            device: "gw-07".parse().unwrap(),
            operation: "write".into(),
            resource: "modbus/pump1".into(),
            destination: None,
            risk: Some("low".parse().unwrap()),
            arguments: None,
            time: Timestamp::from_secs(1_772_359_500),
            time_known: true,
            mode: Mode::Online,
            offline_for: Millis(0),
            staleness: Millis(0),
        }
    }

    fn outcome(datalog: &str, case: &Case) -> Outcome {
        let document =
            PolicyDocument { datalog: format!("{datalog}\n{BUILT_IN}"), ..PolicyDocument::built_in(Timestamp(0)) };
        let policy = Policy::parse(document).unwrap();
        Trial::new("acme".parse().unwrap(), Profile::default()).run(&policy, case).unwrap()
    }

    /// Every fact that a policy may be about is there, whichever credential is shown: a policy that denies by it bites.
    #[test]
    fn each_fact_decides_for_each_kind_of_credential() {
        let arguments: Arguments = serde_json::from_str(r#"{"rpm":2000,"until":null,"valves":["a"]}"#).unwrap();
        let denying = [
            "task(\"t-1\")",
            "task_class(\"pump\")",
            "step(\"s-1\")",
            "destination(\"plc-3\")",
            "risk(\"low\")",
            "argument(\"rpm\", $r), $r > 1500",
            "argument_null(\"until\")",
            "argument_size(\"valves\", 1)",
            "workload(\"unix:uid:1001\")",
            "device(\"gw-07\")",
            "operation(\"write\"), resource($r), $r.starts_with(\"modbus/\")",
            "time($t), $t > 2026-01-01T00:00:00Z",
            "mode(\"online\")",
            "owner(\"ops@acme\")",
        ];
        for origin in [Origin::Issued, Origin::Fallback] {
            for enforcer in [None, Some(vec!["unix:uid:33".to_owned()])] {
                let asked = Case {
                    origin,
                    enforcer,
                    step: Some("s-1".parse().unwrap()),
                    destination: Some("plc-3".into()),
                    arguments: Some(arguments.clone()),
                    ..case()
                };
                let outcome_of = |datalog: &str| outcome(datalog, &asked);
                let allowed = outcome_of("");
                assert_eq!(allowed.reason, Reason::Allowed, "{origin:?}: {}", allowed.explain);
                for body in denying {
                    let denied = outcome_of(&format!("// by a fact\ndeny if {body};"));
                    assert_eq!(denied.reason, Reason::DeniedByPolicy, "{origin:?} {body}: {}", denied.explain);
                    assert_eq!(denied.by, Some(Clause::Policy(0)));
                    assert!(
                        denied.explain.starts_with("denied by policy 1 \"by a fact\": deny if "),
                        "{}",
                        denied.explain
                    );
                }
            }
        }
    }

    /// What docs/policy.md says of arguments of another type than what they are compared with.
    #[test]
    fn an_argument_of_another_type_is_not_equal_and_cannot_be_ordered() {
        let (deny, allow) = (Reason::DeniedByPolicy, Reason::Allowed);
        for (clause, five, text, other) in [
            ("deny if argument(\"n\", 5);", deny, allow, allow),
            ("deny if argument(\"n\", $n), $n == 5;", deny, allow, allow),
            ("deny if argument(\"n\", $n), $n != 6;", deny, deny, allow),
            ("deny if argument(\"n\", $n), [5, 7].contains($n);", deny, allow, allow),
            ("check if argument(\"n\", $n), $n != 5;", deny, allow, allow),
            ("check if argument(\"n\", $n), ![5, 7].contains($n);", deny, allow, allow),
            ("check if argument(\"n\", $n), $n == 5;", allow, deny, deny),
            ("check if argument(\"n\", $n), [5, 7].contains($n);", allow, deny, deny),
            ("deny if argument(\"n\", $n), $n === 5;", deny, deny, allow),
            ("check if argument(\"n\", $n), $n !== 5;", deny, deny, allow),
            ("deny if argument(\"n\", $n), $n === 5 || $n === 7;", deny, deny, allow),
            ("check if argument(\"n\", $n), $n === 5;", allow, deny, deny),
            ("deny if argument(\"n\", $n), $n < 6;", deny, deny, allow),
            ("deny if argument(\"n\", $n), $n <= 5;", deny, deny, allow),
            ("deny if argument(\"n\", $n), $n > 5;", allow, deny, deny),
            ("check if argument(\"n\", $n), $n >= 6;", deny, deny, allow),
            ("deny if argument(\"n\", $n), $n.ends_with(\"7\");", deny, allow, deny),
            ("deny if argument(\"n\", $n), $n.starts_with(\"7\");", deny, allow, deny),
            ("deny if argument(\"n\", $n), $n.matches(\"^7$\");", deny, allow, deny),
        ] {
            for (json, expected) in [(r#"{"n":5}"#, five), (r#"{"n":"5"}"#, text), (r#"{"n":6}"#, other)] {
                let asked = Case { arguments: Some(serde_json::from_str(json).unwrap()), ..case() };
                let outcome = outcome(clause, &asked);
                assert_eq!(outcome.reason, expected, "{clause} {json}: {}", outcome.explain);
            }
        }
    }

    #[test]
    fn state_of_the_device_counts() {
        let reason = |edit: &dyn Fn(&mut Case)| {
            let mut edited = case();
            edit(&mut edited);
            outcome("", &edited).reason
        };
        assert_eq!(reason(&|_| {}), Reason::Allowed);
        assert_eq!(reason(&|case| case.class = None), Reason::Allowed, "another device's task");
        assert_eq!(reason(&|case| case.staleness = Millis::from_secs(8 * 86_400)), Reason::Stale);
        assert_eq!(reason(&|case| case.risk = None), Reason::Allowed);
        assert_eq!(
            reason(&|case| (case.risk, case.staleness) = (None, Millis::from_secs(5 * 3600))),
            Reason::Stale,
            "what names no risk has the highest"
        );
        assert_eq!(reason(&|case| case.mode = Mode::Locked), Reason::Locked);
        assert_eq!(reason(&|case| case.operation = "erase".into()), Reason::NoRight);
        assert_eq!(reason(&|case| case.checks = vec!["check if resource(\"a\")".into()]), Reason::CheckFailed);
        assert_eq!(reason(&|case| case.resource = "a/../b".into()), Reason::Malformed);
        let fallback = |case: &mut Case| case.origin = Origin::Fallback;
        assert_eq!(reason(&fallback), Reason::Allowed);
        let late = |case: &mut Case| {
            case.origin = Origin::Fallback;
            case.offline_for = Millis::from_secs(8 * 86_400);
        };
        assert_eq!(reason(&late), Reason::OfflineSpent);
    }
}
