//! Revocations that somebody carries to the device, and from it to another.
//!
//! Owns: the order in which a file's parts are taken, what is said of each; what a file holds that this device writes; what
//! is said of the feeds that are held.
//! Never: asks who carried it; takes a part by another way than what comes from a broker takes.
//! Read next: `sync.rs`, which takes the parts; `wire/revocation/carry.rs` for the file.

use super::effects::Effects;
use super::feed::Feed;
use super::request::revocations::{
    BucketStatus, CheckRevoked, CheckedReply, EmergencyRevoked, ExportedFeed, ExportedReply, FeedStatus, HeadStatus,
    ImportRevocations, ImportedPart, ImportedReply, Outcome, RevocationsReply, RuleStatus,
};
use super::request::{Problem, ProblemCode, Reason, Reply};
use super::revocation::Covered;
use super::token::{admit, Denial};
use super::{Agent, Now, Source};
use crate::ids::FeedId;
use crate::time::Timestamp;
use crate::wire::bundle::TrustBundle;
use crate::wire::envelope::{Document, Signed};
use crate::wire::policy::PolicyDocument;
use crate::wire::revocation::announcement::Head;
use crate::wire::revocation::carry::{Carried, EMERGENCIES_MAX, FEEDS_MAX};
use crate::wire::revocation::emergency::Emergency;
use crate::wire::revocation::rules::Selector;
use crate::wire::revocation::set::RevocationSet;
use crate::wire::revocation::Target;
use crate::wire::token::{from_text, to_text};
use crate::wire::Refused;

/// The longest name of a file that is told.
const NAME_BYTES_MAX: usize = 64;

impl Agent {
    /// Takes a file with revocations: its parts in the order in which a device in touch takes them. One that is refused
    /// is evidence, and does not keep the others out.
    pub(super) fn import_revocations(&mut self, import: &ImportRevocations, now: Now, effects: &mut Effects) -> Reply {
        let name = super::shorten(&import.name, NAME_BYTES_MAX);
        let carried = Carried::from_bytes(&import.file).and_then(|carried| match carried.fleet == self.fleet {
            true => Ok(carried),
            false => Err(Refused::WrongFleet),
        });
        let carried = match carried {
            Ok(carried) => carried,
            Err(refused) => {
                self.refuse(Source::File, &format!("file {name:?}"), &import.file, &refused, now, effects);
                let detail =
                    format!("the file is refused: {refused}; have the fleet, or another device, write it anew");
                return Reply::Problem(Problem::new(ProblemCode::Refused, detail));
            }
        };
        let mut parts = Vec::new();
        let mut told =
            |agent: &mut Self, part: String, bytes: &[u8], taken: Result<bool, Refused>, effects: &mut Effects| {
                let (outcome, reason) = match taken {
                    Ok(true) => (Outcome::Applied, None),
                    Ok(false) => (Outcome::Known, None),
                    Err(refused) => {
                        let source = format!("file {name:?}: {part}");
                        agent.refuse(Source::File, &source, bytes, &refused, now, effects);
                        (Outcome::Refused, Some(reason_of(&refused)))
                    }
                };
                parts.push(ImportedPart { part, outcome, reason });
            };
        for bundle in &carried.bundles {
            let bytes = bundle.to_bytes();
            let (part, taken) = self.take_carried_bundle(bundle, &bytes, now, effects);
            told(self, part, &bytes, taken, effects);
        }
        if let Some(policy) = &carried.policy {
            let bytes = policy.to_bytes();
            let (part, taken) = self.take_carried_policy(policy, &bytes, now, effects);
            told(self, part, &bytes, taken, effects);
        }
        for (head, set) in &carried.feeds {
            let (part, taken) = self.take_carried_feed(head, set, now, effects);
            told(self, part, &head.to_bytes(), taken, effects);
        }
        for statement in &carried.emergencies {
            let bytes = statement.to_bytes();
            let (part, taken) = self.take_carried_emergency(statement, &bytes, now, effects);
            told(self, part, &bytes, taken, effects);
        }
        Reply::Imported(ImportedReply { ok: parts.iter().all(|part| part.outcome != Outcome::Refused), parts })
    }

    fn take_carried_bundle(
        &mut self,
        bundle: &Signed<TrustBundle>,
        bytes: &[u8],
        now: Now,
        effects: &mut Effects,
    ) -> (String, Result<bool, Refused>) {
        let Some((version, named)) = claimed(bundle, "trust bundle", |bundle| bundle.version) else {
            return ("trust bundle".into(), Err(Refused::Malformed("no trust bundle")));
        };
        let before = self.trust.version;
        // From a broker they come in any order, and one may wait. A file has its order: what is missing is not there.
        let expected = before.saturating_add(1);
        if version > expected {
            return (named, Err(Refused::OutOfOrder { offered: version, expected }));
        }
        let taken = self.on_bundle(version, bytes, now, effects);
        (named, taken.map(|()| self.trust.version > before))
    }

    fn take_carried_policy(
        &mut self,
        policy: &Signed<PolicyDocument>,
        bytes: &[u8],
        now: Now,
        effects: &mut Effects,
    ) -> (String, Result<bool, Refused>) {
        let Some((version, named)) = claimed(policy, "policy", |policy| policy.version) else {
            return ("policy".into(), Err(Refused::Malformed("no policy")));
        };
        let before = self.policy_digest;
        let taken = self.on_policy(version, bytes, now, effects);
        (named, taken.map(|()| self.policy_digest != before))
    }

    fn take_carried_feed(
        &mut self,
        head: &Signed<Head>,
        set: &[u8],
        now: Now,
        effects: &mut Effects,
    ) -> (String, Result<bool, Refused>) {
        let Ok(claim) = head.claim() else { return ("head".into(), Err(Refused::Malformed("no head"))) };
        let (feed, named) = (claim.feed.clone(), format!("head {} of feed {}", claim.seq, claim.feed));
        let before = self.revocations.position_of(&feed).cloned();
        let taken =
            self.on_feed(&feed, now, effects, |held, trust, between| held.whole((head, set), &feed, trust, between));
        (named, taken.map(|()| self.revocations.position_of(&feed) != before.as_ref()))
    }

    fn take_carried_emergency(
        &mut self,
        statement: &Signed<Emergency>,
        bytes: &[u8],
        now: Now,
        effects: &mut Effects,
    ) -> (String, Result<bool, Refused>) {
        let Ok(claim) = statement.claim() else {
            return ("emergency statement".into(), Err(Refused::Malformed("no emergency statement")));
        };
        let named = format!("statement {} of emergency key {}", claim.counter, claim.key);
        (named, self.hear_emergency(claim.key, bytes, now, effects))
    }

    /// What this device holds, for another one: its trust bundle, its policy, its complete sets, the newest statement of
    /// each emergency key that the bundle names. It may hold more, of keys that were taken away since; who has this bundle has
    /// no use for what these said, and refuses it.
    pub(super) fn export_revocations(&self, only: Option<&FeedId>) -> Reply {
        let wanted = |id: &FeedId| only.is_none_or(|only| only == id);
        let mut feeds = Vec::new();
        let mut listed = Vec::new();
        for (id, feed, _) in self.revocations.feeds().filter(|(id, _, retired)| wanted(id) && !retired).take(FEEDS_MAX)
        {
            if let (Some((head, set)), Some(position)) = (feed.complete_set(), feed.position()) {
                feeds.push((head.clone(), set.to_bytes()));
                listed.push(ExportedFeed { feed: id.clone(), seq: position.seq });
            }
        }
        let named = |statement: &&Signed<Emergency>| {
            statement.claim().is_ok_and(|said| self.trust.emergency_key(said.key).is_some())
        };
        let all = self.revocations.emergencies.statements().filter(|_| only.is_none()).filter(named);
        let emergencies: Vec<_> = all.take(EMERGENCIES_MAX).cloned().collect();
        if feeds.is_empty() && emergencies.is_empty() {
            let detail =
                "this device holds no complete set of such a feed; `hardtack revocations show` tells what it holds";
            return Reply::Problem(Problem::new(ProblemCode::NotFound, detail));
        }
        let carried = Carried {
            fleet: self.fleet.clone(),
            bundles: vec![self.trust_signed.clone()],
            policy: self.policy_signed.clone(),
            feeds,
            emergencies,
        };
        let emergencies = carried.emergencies.len() as u64;
        match carried.to_bytes() {
            Ok(bytes) => Reply::Exported(ExportedReply {
                file: to_text(&bytes),
                bundle_version: self.trust.version,
                policy_version: self.policy_signed.as_ref().map(|_| self.policy.document.version),
                feeds: listed,
                emergencies,
            }),
            Err(refused) => {
                let detail = format!("the file would be refused: {refused}; export one feed at a time with --feed");
                Reply::Problem(Problem::new(ProblemCode::Refused, detail))
            }
        }
    }

    /// Whether something is revoked, and by what.
    pub(super) fn check_revoked(&self, check: &CheckRevoked) -> Reply {
        match (&check.token, &check.target) {
            (Some(token), None) => match self.check_token(token) {
                Ok(checked) => Reply::Checked(checked),
                Err(denial) => Reply::Problem(Problem::new(ProblemCode::Denied(denial.reason), denial.explain)),
            },
            (None, Some(target)) => Reply::Checked(self.check_target(target)),
            (Some(_), Some(_)) | (None, None) => {
                Reply::Problem(Problem::new(ProblemCode::InvalidRequest, "name either a token or a target"))
            }
        }
    }

    fn check_token(&self, text: &str) -> Result<CheckedReply, Denial> {
        let limits = &self.profile.verify;
        let bytes = from_text(text, limits.token_bytes_max)
            .map_err(|refused| Denial::new(Reason::Malformed, format!("the token's text is refused: {refused}")))?;
        let verified = admit(&bytes, limits, &self.trust, |block| self.wallet.made(block))?;
        if let Some((feed, covered)) = self.revocations.find(&verified, &self.device, self.clock.over()) {
            return Ok(covered_by(feed, &covered));
        }
        let labelled = verified.claims.tasks.iter().filter_map(|task| task.parse().ok());
        let mut tasks = labelled.filter_map(|id| self.wallet.task(&id)).chain(self.wallet.task_of(verified.chain()));
        Ok(match tasks.find(|task| task.finished) {
            Some(task) => found(None, format!("task {} has ended on this device", task.id)),
            None => not_found(),
        })
    }

    fn check_target(&self, target: &Target) -> CheckedReply {
        if let Some((feed, covered)) = self.revocations.find_target(target, self.clock.over()) {
            return covered_by(feed, &covered);
        }
        let task = if let Target::Task(id) = target { self.wallet.task(id) } else { None };
        match task.filter(|task| task.finished) {
            Some(task) => found(None, format!("task {} has ended on this device", task.id)),
            None => not_found(),
        }
    }

    /// What is held of each feed.
    pub(super) fn show_revocations(&self) -> RevocationsReply {
        let powered = self.clock.powered();
        RevocationsReply {
            feeds: self.revocations.feeds().map(|(id, feed, retired)| status(id, feed, retired, powered)).collect(),
            lost: self.revocations.missing().cloned().collect(),
            emergency: self.revocations.emergencies.status(&self.trust),
            emergency_lost: self.revocations.emergencies.missing().collect(),
        }
    }
}

/// Why a part is refused, with what to do where that is another thing than to have the fleet write the same file anew.
fn reason_of(refused: &Refused) -> String {
    if let Refused::OtherFeed { own, .. } = refused {
        return format!(
            "{refused}: bring the file of that (`hardtack fleet revocations export --feed {own} --out FILE`)"
        );
    }
    refused.to_string()
}

/// What a signed document claims to be: only for its name in the answer, and the place where it belongs.
fn claimed<T: Document>(signed: &Signed<T>, what: &str, version: impl Fn(&T) -> u64) -> Option<(u64, String)> {
    let version = version(&signed.claim().ok()?);
    Some((version, format!("{what} {version}")))
}

fn found(feed: Option<&FeedId>, by: String) -> CheckedReply {
    CheckedReply { revoked: true, feed: feed.cloned(), by: Some(by), emergency: None }
}

fn not_found() -> CheckedReply {
    CheckedReply { revoked: false, feed: None, by: None, emergency: None }
}

fn covered_by(feed: Option<&FeedId>, covered: &Covered) -> CheckedReply {
    let emergency = match covered {
        Covered::Emergency(hit) => {
            Some(EmergencyRevoked { key: hit.key, operator: hit.operator.clone(), until: hit.until.to_string() })
        }
        Covered::Block(_) | Covered::Rule(_) | Covered::Serial(..) => None,
    };
    CheckedReply { emergency, ..found(feed, covered.to_string()) }
}

fn status(id: &FeedId, feed: &Feed, retired: bool, powered: Timestamp) -> FeedStatus {
    let sum = feed.sum();
    let age = feed.head().map(|head| (powered.since(feed.taken()), head.next_update_ms));
    let set_bytes = feed.complete_set().map_or(0, |(_, set)| set.to_bytes().len() as u64);
    FeedStatus {
        feed: id.clone(),
        retired,
        complete: feed.head().zip(feed.position()).map(|(head, position)| HeadStatus {
            era: head.era,
            seq: head.seq,
            digest: position.digest.to_string(),
            issued: head.issued_at.to_string(),
            due: (head.issued_at + head.next_update_ms).to_string(),
        }),
        newest_seq: feed.mark().filter(|_| feed.gathering()).map(|mark| mark.seq),
        gathering: feed.gathers().map(str::to_owned),
        age_s: age.map(|(age, _)| age.secs()),
        overdue: age.is_none_or(|(age, due)| age > due),
        rules: rules(&sum),
        exact: sum.exact().count() as u64,
        serials: sum
            .serial_buckets()
            .map(|(slot, bucket)| BucketStatus {
                slot: slot.to_string(),
                ends: slot.ends().to_string(),
                revoked: bucket.revoked().into(),
            })
            .collect(),
        fingerprints: sum
            .all_fingerprint_buckets()
            .map(|(key, bucket)| BucketStatus {
                slot: key.slot.to_string(),
                ends: key.slot.ends().to_string(),
                revoked: bucket.count().into(),
            })
            .collect(),
        set_bytes,
        beyond: feed.seen().count(),
    }
}

fn rules(set: &RevocationSet) -> Vec<RuleStatus> {
    let rule = |(selector, until): (&Selector, Timestamp)| RuleStatus {
        covers: selector.to_string(),
        until: until.to_string(),
    };
    set.rules().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::super::request::{Request, Socket};
    use super::super::rig::{key, Rig};
    use super::*;
    use crate::ids::KeyId;
    use crate::time::Millis;
    use crate::wire::bundle::EmergencyKey;
    use crate::wire::link::Topic;
    use crate::wire::revocation::emergency::Rules;

    /// A device in touch with a fleet that has given an operator an emergency key.
    fn with_key(operator: &SigningKey) -> Rig {
        let mut rig = Rig::new();
        let named = EmergencyKey { operator: "ann".into(), key: operator.verifying_key().into() };
        let (topic, bundle) = rig.bundle(|trust| trust.emergency.push(named));
        rig.named.0 = 2;
        rig.sync();
        rig.message(topic, bundle);
        assert_eq!(rig.agent.trust.version, 2);
        rig
    }

    #[test]
    fn what_a_key_said_that_is_named_no_more_is_kept_and_not_handed_on() {
        let operator = key(40);
        let target = Target::Task("t-1".parse().unwrap());
        let mut one = with_key(&operator);
        let said = Emergency {
            key: KeyId::of(operator.verifying_key().as_bytes()),
            counter: 1,
            issued_at: one.truth,
            bundle_version: 2,
            rules: Rules::new("stolen", [(Selector::of(&target).unwrap(), one.truth + Millis::from_secs(3600))])
                .unwrap(),
        };
        let place = Topic::FeedEmergency("main".parse().unwrap(), said.key).text(&one.fleet);
        let payload = Signed::sign(&said, &one.fleet, &[&operator]).to_bytes();
        one.message(place, payload);
        let (topic, bundle) = one.bundle(|trust| trust.emergency.clear());
        one.named.0 = 3;
        one.message(topic, bundle);
        assert_eq!(one.agent.trust.version, 3);
        assert!(one.agent.revocations.names(&target, one.agent.clock.over()), "it holds to its end");

        let Reply::Exported(exported) = one.ask(0, Socket::Admin, Request::ExportRevocations(None)) else { panic!() };
        assert_eq!((exported.bundle_version, exported.emergencies), (3, 0));
        let file = from_text(&exported.file, 1 << 20).unwrap();
        let mut two = with_key(&operator);
        let import = ImportRevocations { file, name: "stick".into() };
        let Reply::Imported(imported) = two.ask(0, Socket::Admin, Request::ImportRevocations(import)) else { panic!() };
        assert!(imported.ok, "{imported:?}");
        assert_eq!(two.agent.trust.version, 3);
    }
}
