//! A flipped bit in any file of the state folder never makes a device honour more than it did, nor passes unseen.

use super::super::effects::StateFile;
use super::super::rig::{key, right, Reboot, Rig};
use super::super::wallet::{Made, StoredLoss, StoredTask};
use super::*;
use crate::ids::{BlockId, KeyId};
use crate::wire::audit::Record;
use crate::wire::bundle::EmergencyKey;
use crate::wire::revocation::emergency::{Emergency, Rules};
use crate::wire::revocation::rules::Selector;

/// Bytes of a file that are flipped, spread over it.
const SAMPLE: usize = 48;

/// A token that the issuer minted for a task.
fn minted(rig: &mut Rig, task: &str) -> String {
    let rights = vec![right("modbus/*", "read")];
    let spec = TaskSpec { task: task.parse().unwrap(), rights, ..spec("gw-07") };
    let token = mint_task(&spec, &rig.issuer, 7, &mut rig.rng).unwrap();
    let holder = child_block(&["unix:uid:1001"], Purpose::Work, Some(&rig.device)).unwrap();
    let child = Held::from_bytes(&token).and_then(|held| held.append(holder, &mut rig.rng)).unwrap();
    to_text(&child.to_bytes().unwrap())
}

/// The file of a task of the issuer's that this device has ended.
fn ended(rig: &Rig, task: &str) -> StoredTask {
    StoredTask {
        id: task.parse().unwrap(),
        class: "pump".parse().unwrap(),
        origin: Origin::Issued,
        grant: rig.grant,
        owner: "ops@acme".into(),
        token: Vec::new(),
        made: vec![Made {
            block: BlockId::of_signature(b"its child"),
            ends: Timestamp::from_secs(START_S + 900),
            life: None,
        }],
        budget: None,
        selectors: vec!["unix:uid:1001".into()],
        uid: 1001,
        rights: vec![right("modbus/*", "read")],
        ttl_s: 600,
        uses_max: None,
        finished: true,
        ties: Vec::new(),
        purpose: Purpose::Work,
        holder: vec!["unix:uid:1001".into()],
        executors: Vec::new(),
        steps: Vec::new(),
        siblings: Vec::new(),
        proved: None,
    }
}

/// A device that holds something of every kind, and the questions that it answers: which of them it allows.
fn device() -> (Rig, Vec<(&'static str, String, bool)>) {
    let mut rig = Rig::new();
    let ann = key(40);
    let named = EmergencyKey { operator: "ann".into(), key: ann.verifying_key().into() };
    let (topic, bundle) = rig.bundle(|trust| trust.emergency.push(named));
    rig.named.0 = 2;
    rig.sync();
    rig.message(topic, bundle);
    rig.sync();
    let by_rule = rule(Target::Task("by-rule".parse().unwrap()));
    let at = rig.truth;
    for (topic, payload) in rig.publish(vec![by_rule], at) {
        rig.message(topic, payload);
    }
    rig.sync();
    let id = KeyId::of(ann.verifying_key().as_bytes());
    let selector = Selector::of(&Target::Task("by-ann".parse().unwrap())).unwrap();
    let rules = Rules::new("stolen", [(selector, rig.truth + Millis::from_secs(3600))]).unwrap();
    let said = Emergency { key: id, counter: 1, issued_at: rig.truth, bundle_version: 2, rules };
    let payload = Signed::sign(&said, &rig.fleet, &[&ann]).to_bytes();
    rig.message(format!("hardtack/1/{}/feed/main/emergency/{id}", rig.fleet), payload);
    rig.restart(Reboot::Process);
    let live = rig.begin(vec![right("modbus/*", "read")], None);
    let over = rig.begin(vec![right("modbus/*", "read")], None);
    rig.ask(1001, Socket::Agent, Request::Finish(over.task_id));
    let spent = rig.begin(vec![right("modbus/*", "read")], Some(1));
    check(&mut rig, &spent.token, "read", "modbus/a", Reason::Allowed);
    let file = ended(&rig, "ended").to_file();
    rig.disk.files.insert(StateFile::Task("ended".parse().unwrap()), file);
    rig.restart(Reboot::Process);
    let tokens = ["issued", "ended", "by-rule", "by-ann"].map(|task| (task, minted(&mut rig, task), task == "issued"));
    let here = [("live", live.token, true), ("finished here", over.token, false), ("spent", spent.token, false)];
    (rig, here.into_iter().chain(tokens).collect())
}

fn allowed(rig: &mut Rig, token: &str) -> bool {
    let ask = Authorize {
        token: token.into(),
        operation: "read".into(),
        resource: "modbus/a".into(),
        destination: None,
        risk: Some("low".parse().unwrap()),
        task: None,
        step: None,
        arguments: None,
    };
    match rig.ask(1001, Socket::Agent, Request::Authorize(ask)) {
        Reply::Decision(decision) => decision.decision == Verdict::Allow,
        _ => false,
    }
}

#[test]
fn no_flipped_bit_makes_a_device_honour_more() {
    let (mut rig, questions) = device();
    let whole = rig.disk.clone();
    for (what, token, allows) in &questions {
        assert_eq!(
            allowed(&mut rig, token),
            *allows,
            "{what}, undamaged: {:?}",
            rig.authorize(token, "read", "modbus/a")
        );
    }
    let kinds = |file: &&StateFile| file.path().split('/').next().map(str::to_owned);
    let held: std::collections::BTreeSet<_> = whole.files.keys().filter_map(|file| kinds(&file)).collect();
    let every = ["audit.key", "bundle", "emergency", "feed", "policy", "wallet"];
    assert_eq!(held.into_iter().collect::<Vec<_>>(), every, "a file of every kind");
    for (file, content) in &whole.files {
        let step = content.len().div_ceil(SAMPLE).max(1);
        for at in (0..content.len()).step_by(step) {
            let mut flipped = content.clone();
            flipped[at] ^= 1 << (at % 8);
            rig.disk = whole.clone();
            rig.disk.files.insert(file.clone(), flipped);
            // What does not start honours nothing.
            if rig.try_restart(Reboot::Process).is_err() {
                continue;
            }
            for (what, token, allows) in &questions {
                assert!(*allows || !allowed(&mut rig, token), "{what}, byte {at} of {}", file.path());
            }
            let told = rig.disk.records().iter().any(|record| match &record.event {
                Event::Refused(evidence) => evidence.source == file.path(),
                _ => false,
            });
            let renewed = *file == StateFile::AuditKey && rig.disk.files[file] != *content;
            assert!(told || renewed, "byte {at} of {} passed unseen", file.path());
            let locked = rig.agent.mode() == Mode::Locked;
            assert!(
                locked || renewed || file.path().starts_with("wallet/"),
                "byte {at} of {} locks nothing",
                file.path()
            );
        }
    }
}

#[test]
fn a_task_or_grant_whose_file_is_damaged_is_told_and_another_may_begin() {
    let (mut rig, questions) = device();
    let whole = rig.disk.clone();
    for (file, content) in whole.files.iter().filter(|(file, _)| file.path().starts_with("wallet/")) {
        rig.disk = whole.clone();
        rig.disk.files.insert(file.clone(), content[..content.len() - 1].to_vec());
        rig.restart(Reboot::Process);
        let told = rig.disk.records().iter().any(|record| match &record.event {
            Event::Refused(evidence) => evidence.source == file.path(),
            _ => false,
        });
        assert!(told, "{}", file.path());
        let (_, issued, _) = questions.iter().find(|(what, ..)| *what == "issued").unwrap();
        check(&mut rig, issued, "read", "modbus/a", Reason::Allowed);
        let (_, over, _) = questions.iter().find(|(what, ..)| *what == "ended").unwrap();
        check(&mut rig, over, "read", "modbus/a", Reason::Revoked);
        if matches!(file, StateFile::Task(_)) {
            let fresh = rig.begin(vec![right("modbus/*", "read")], None);
            check(&mut rig, &fresh.token, "read", "modbus/a", Reason::Allowed);
        }
    }
}

/// How many records tell of a file.
fn told_of(rig: &Rig, file: &StateFile) -> usize {
    let tells = |record: &Record| matches!(&record.event, Event::Refused(evidence) if evidence.source == file.path());
    rig.disk.records().iter().filter(|record| tells(record)).count()
}

#[test]
fn what_is_lost_of_a_task_is_told_once_and_counts_as_ended_until_it_must_have() {
    let (mut rig, questions) = device();
    let (_, over, _) = questions.iter().find(|(what, ..)| *what == "ended").unwrap();
    let file = StateFile::Task("ended".parse().unwrap());
    rig.disk.files.get_mut(&file).unwrap()[40] ^= 1;
    let damaged = rig.disk.files[&file].clone();
    for times in [1, 2] {
        rig.restart(Reboot::Process);
        assert_eq!(told_of(&rig, &file), times);
        assert_eq!(rig.disk.files[&file], damaged, "it stays until its record is durable");
    }
    for reboot in [Reboot::Process, Reboot::Kernel, Reboot::Process] {
        check(&mut rig, over, "read", "modbus/a", Reason::Revoked);
        assert!(StoredLoss::from_file(&rig.disk.files[&file]).is_ok());
        rig.restart(reboot);
        assert_eq!(told_of(&rig, &file), 2, "once is enough");
    }
    let later = rig.truth + Millis::from_secs(365 * 86_400);
    for (at, stays) in [(later, true), (later + Millis::from_secs(2 * 86_400), false)] {
        let time = rig.time_file(at, Some(at));
        rig.ask(0, Socket::Admin, Request::ImportTime(time));
        assert_eq!(rig.disk.files.contains_key(&file), stays, "{at}");
    }
    check(&mut rig, over, "read", "modbus/a", Reason::Expired);
}

#[test]
fn a_task_under_the_name_of_another_is_left_to_who_put_it_there() {
    let (mut rig, _) = device();
    let (file, other) = (StateFile::Task("ended".parse().unwrap()), StateFile::Task("other".parse().unwrap()));
    let content = rig.disk.files.remove(&file).unwrap();
    rig.disk.files.insert(other.clone(), content.clone());
    rig.restart(Reboot::Process);
    rig.pass(10);
    assert_eq!((told_of(&rig, &other), &rig.disk.files[&other]), (1, &content));
}

#[test]
fn a_grant_that_is_lost_stays_until_another_is_in_hand() {
    let mut rig = Rig::new();
    rig.sync();
    let file = StateFile::Grant(rig.grant);
    rig.disk.files.get_mut(&file).unwrap()[40] ^= 1;
    let damaged = rig.disk.files[&file].clone();
    rig.restart(Reboot::Process);
    rig.grant = GrantId([0xbb; 16]);
    rig.sync();
    let (nonce, reply_to, _) = rig.requests().pop().expect("grants are asked for");
    rig.answer_grants(nonce, reply_to, vec![b"junk".to_vec()]);
    assert_eq!(rig.disk.files[&file], damaged, "an answer that cannot be used withdraws nothing");
    for _ in 0..40 {
        rig.pass(10);
        rig.serve(Timestamp(0));
    }
    let (nonce, reply_to, _) = rig.requests().pop().expect("asked again");
    let successor = rig.successor(rig.grant, Timestamp::from_secs(START_S + 4000));
    rig.answer_grants(nonce, reply_to, vec![successor]);
    let grants: Vec<&StateFile> = rig.disk.files.keys().filter(|file| matches!(file, StateFile::Grant(_))).collect();
    assert_eq!(grants, [&StateFile::Grant(rig.grant)]);
    rig.begin(vec![right("modbus/*", "read")], None);
}
