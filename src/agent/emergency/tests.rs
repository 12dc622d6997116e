use ed25519_dalek::SigningKey;

use super::super::effects::StateFile;
use super::super::request::{Mode, Reason, Reply, Request, Socket, Verdict};
use super::super::rig::{key, right, Reboot, Rig};
use super::*;
use crate::agent::request::revocations::CheckRevoked;
use crate::wire::audit::Evidence;
use crate::wire::bundle::EmergencyKey;
use crate::wire::link::Topic;
use crate::wire::revocation::emergency::{Rules, REASON_BYTES_MAX};
use crate::wire::revocation::Target;

const HOUR: u64 = 3600;

fn ann() -> SigningKey {
    key(40)
}

fn id_of(key: &SigningKey) -> KeyId {
    KeyId::of(key.verifying_key().as_bytes())
}

fn named(operator: &str, key: &SigningKey) -> EmergencyKey {
    EmergencyKey { operator: operator.into(), key: key.verifying_key().into() }
}

/// A device whose fleet has given ann an emergency key, in touch with it.
fn rig() -> Rig {
    let mut rig = Rig::new();
    let (topic, bundle) = rig.bundle(|trust| trust.emergency.push(named("ann", &ann())));
    rig.named.0 = 2;
    rig.sync();
    rig.message(topic, bundle);
    assert_eq!(rig.agent.trust.version, 2);
    rig.sync();
    assert_eq!(rig.agent.mode(), Mode::Online);
    rig
}

fn said(rig: &Rig, counter: u64, rules: &[(Target, u64)]) -> Emergency {
    let rules =
        rules.iter().map(|(target, secs)| (Selector::of(target).unwrap(), rig.truth + Millis::from_secs(*secs)));
    let rules = Rules::new("stolen", rules).unwrap();
    Emergency { key: id_of(&ann()), counter, issued_at: rig.truth, bundle_version: 2, rules }
}

fn signed(rig: &Rig, said: &Emergency, by: &SigningKey) -> Vec<u8> {
    Signed::sign(said, &rig.fleet, &[by]).to_bytes()
}

fn topic(rig: &Rig, feed: &str, key: KeyId) -> String {
    format!("hardtack/1/{}/feed/{feed}/emergency/{key}", rig.fleet)
}

/// The broker brings a statement, and its own topic.
fn hear(rig: &mut Rig, said: &Emergency) {
    let (topic, payload) = (topic(rig, "main", said.key), signed(rig, said, &ann()));
    rig.message(topic, payload);
}

/// The broker brings a statement of ann's with these rules.
fn say(rig: &mut Rig, counter: u64, rules: &[(Target, u64)]) {
    let said = said(rig, counter, rules);
    hear(rig, &said);
}

/// Connects anew after it had tried in vain for long.
fn reconnect(rig: &mut Rig) {
    rig.sent.clear();
    rig.connect_only();
    assert!(rig.agent.uplink.is_connected());
}

/// Reasons of what was refused so far, newest last.
fn refusals(rig: &Rig) -> Vec<Evidence> {
    let of = |record: crate::wire::audit::Record| match record.event {
        Event::Refused(evidence) => Some(evidence),
        _ => None,
    };
    rig.disk.records().into_iter().filter_map(of).collect()
}

fn task(id: &str) -> Target {
    Target::Task(id.parse().unwrap())
}

fn here() -> Target {
    Target::Device("gw-07".parse().unwrap())
}

fn revoked(rig: &Rig, target: &Target) -> bool {
    rig.agent.revocations.names(target, rig.agent.clock.over())
}

#[test]
fn a_statement_ends_live_tasks_at_once_and_says_whose_it_is() {
    let mut rig = rig();
    let begun = rig.begin(vec![right("modbus/*", "read")], None);
    assert_eq!(rig.authorize(&begun.token, "read", "modbus/pump1/speed").decision, Verdict::Allow);
    say(&mut rig, 1, &[(Target::Task(begun.task_id.clone()), HOUR)]);
    let denied = rig.authorize(&begun.token, "read", "modbus/pump1/speed");
    assert_eq!(denied.reason, Reason::Revoked);
    assert!(
        denied.explain.contains("ann") && denied.explain.contains(&id_of(&ann()).to_string()),
        "{}",
        denied.explain
    );
    assert!(rig.agent.wallet.task(&begun.task_id).unwrap().finished);
    let digest = Signed::<Emergency>::from_bytes(&signed(
        &rig,
        &said(&rig, 1, &[(Target::Task(begun.task_id.clone()), HOUR)]),
        &ann(),
    ))
    .unwrap()
    .digest();
    let told = TrustChange::Emergency { key: id_of(&ann()), counter: 1, digest };
    assert!(rig.disk.records().iter().any(|record| record.event == Event::Trust(told.clone())));
    let status = rig.agent.status();
    assert_eq!((status.emergency.len(), status.emergency[0].operator.as_str()), (1, "ann"));
    let asked = CheckRevoked { token: None, target: Some(Target::Task(begun.task_id)) };
    let Reply::Checked(checked) = rig.ask(0, Socket::Admin, Request::CheckRevoked(asked)) else { panic!() };
    assert_eq!(checked.emergency.map(|by| by.operator), Some("ann".into()));
    let Reply::Revocations(held) = rig.ask(0, Socket::Admin, Request::Revocations) else { panic!() };
    assert_eq!((held.emergency.len(), held.emergency[0].counter, held.emergency[0].named), (1, 1, true));
}

#[test]
fn only_ones_own_key_in_ones_own_place_and_for_72_hours_is_believed() {
    let mut rig = rig();
    let fine = said(&rig, 1, &[(task("t-1"), HOUR)]);
    let place = topic(&rig, "main", id_of(&ann()));
    let cases = [
        ("forged", place.clone(), signed(&rig, &fine, &key(41)), "without this role"),
        ("a feed key's", place.clone(), signed(&rig, &fine, &key(4)), "without this role"),
        ("another key's place", topic(&rig, "main", id_of(&key(41))), signed(&rig, &fine, &ann()), "wrong topic"),
        ("another feed", topic(&rig, "spare", id_of(&ann())), signed(&rig, &fine, &ann()), "wrong topic"),
        ("73 h", place.clone(), signed(&rig, &said(&rig, 1, &[(task("t-1"), 73 * HOUR)]), &ann()), "72 h at most"),
        (
            "post-dated",
            place.clone(),
            signed(&rig, &Emergency { issued_at: rig.truth + Millis::from_secs(HOUR), ..fine.clone() }, &ann()),
            "past the proven ceiling",
        ),
        ("empty", place, Vec::new(), "malformed"),
    ];
    for (what, topic, payload, reason) in cases {
        let ceiling = rig.agent.clock.ceiling();
        rig.message(topic, payload);
        let last = refusals(&rig).pop().unwrap_or_else(|| panic!("{what}: nothing was refused"));
        assert!(last.reason.contains(reason), "{what}: {}", last.reason);
        assert!(!revoked(&rig, &task("t-1")), "{what}");
        assert_eq!(rig.agent.clock.ceiling(), ceiling, "{what}: it moves no clock");
        rig.pass(61);
        rig.sync();
    }
    assert!(rig.agent.revocations.emergencies.marks().is_empty());
    assert!(!rig.disk.files.keys().any(|file| matches!(file, StateFile::Emergency(_))));
}

#[test]
fn a_lower_counter_is_rolled_back_and_another_content_is_proof() {
    let mut rig = rig();
    say(&mut rig, 5, &[(task("t-5"), HOUR)]);
    say(&mut rig, 4, &[(task("t-4"), HOUR)]);
    assert!(refusals(&rig).pop().unwrap().reason.contains("rolled back: 4 offered, 5 is known"));
    let twice = said(&rig, 5, &[(task("t-6"), HOUR)]);
    let (held, offered) = (
        Signed::sign(&said(&rig, 5, &[(task("t-5"), HOUR)]), &rig.fleet, &[&ann()]).digest(),
        Signed::sign(&twice, &rig.fleet, &[&ann()]).digest(),
    );
    hear(&mut rig, &twice);
    let proof = refusals(&rig).pop().unwrap().reason;
    assert!(proof.contains(&held.to_string()) && proof.contains(&offered.to_string()), "{proof}");
    assert!(revoked(&rig, &task("t-5")) && !revoked(&rig, &task("t-4")) && !revoked(&rig, &task("t-6")));
}

#[test]
fn a_newer_statement_lifts_nothing_that_it_leaves_out() {
    let mut rig = rig();
    say(&mut rig, 1, &[(task("t-1"), 2 * HOUR)]);
    say(&mut rig, 2, &[(task("t-2"), HOUR)]);
    // Nor does it shorten.
    say(&mut rig, 3, &[(task("t-1"), 60), (task("t-2"), 3 * HOUR)]);
    for reboot in [Reboot::Process, Reboot::Kernel] {
        rig.restart(reboot);
        assert!(revoked(&rig, &task("t-1")) && revoked(&rig, &task("t-2")));
    }
    rig.sync();
    rig.pass(2 * HOUR + 60);
    assert!(!revoked(&rig, &task("t-1")) && revoked(&rig, &task("t-2")));
    reconnect(&mut rig);
    say(&mut rig, 2, &[(task("t-3"), HOUR)]);
    assert!(!revoked(&rig, &task("t-3")), "the counter is kept");
    assert!(refusals(&rig).pop().unwrap().reason.contains("rolled back"));
}

#[test]
fn a_device_rule_locks_and_wipes_nothing_and_the_device_unlocks_when_it_ends() {
    for target in [here(), Target::All] {
        let mut rig = rig();
        let begun = rig.begin(vec![right("modbus/*", "read")], None);
        say(&mut rig, 1, &[(target, HOUR)]);
        assert_eq!(rig.agent.mode(), Mode::Locked);
        let reasons = rig.agent.status().reasons.join("; ");
        assert!(reasons.contains("of ann"), "{reasons}");
        assert!(rig.agent.wallet.task(&begun.task_id).unwrap().finished);
        assert_eq!(rig.agent.wallet.grants().count(), 1, "the grant stays");
        rig.restart(Reboot::Process);
        assert_eq!((rig.agent.mode(), rig.agent.wallet.grants().count()), (Mode::Locked, 1));
        rig.sync();
        rig.pass(HOUR + 60);
        assert_ne!(rig.agent.mode(), Mode::Locked);
        let begun = rig.begin(vec![right("modbus/*", "read")], None);
        assert_eq!(rig.authorize(&begun.token, "read", "modbus/pump1/speed").decision, Verdict::Allow);
    }
}

#[test]
fn no_rule_holds_longer_than_72_hours_from_first_sight_whatever_it_says_of_time() {
    let mut rig = rig();
    // Nobody can tell after a boot that this is of the future.
    rig.restart(Reboot::Kernel);
    rig.connect_only();
    let later = rig.truth + Millis::from_secs(20 * 86_400);
    let ahead = Emergency { issued_at: later, ..said(&rig, 1, &[(task("t-1"), 20 * 86_400 + 71 * HOUR)]) };
    let (floor, powered) = (rig.agent.clock.floor(), rig.agent.clock.powered());
    hear(&mut rig, &ahead);
    assert!(revoked(&rig, &task("t-1")));
    assert_eq!((rig.agent.clock.floor(), rig.agent.clock.powered()), (floor, powered));
    let seen = rig.powered;
    rig.pass(71 * HOUR);
    assert!(revoked(&rig, &task("t-1")));
    rig.restart(Reboot::Process);
    rig.pass(HOUR + 60);
    assert!(!revoked(&rig, &task("t-1")), "{} s after", (rig.powered.0 - seen.0) / 1000);
    // The same statement again is no news.
    reconnect(&mut rig);
    hear(&mut rig, &ahead);
    assert!(!revoked(&rig, &task("t-1")));
}

#[test]
fn who_was_off_for_longer_than_a_rule_lives_holds_it_for_as_long_as_anybody() {
    let mut rig = rig();
    rig.restart(Reboot::Kernel);
    rig.connect_only();
    // It lay in a drawer, and the statement is there before anything that tells the time.
    rig.truth = rig.truth + Millis::from_secs(4 * 86_400);
    say(&mut rig, 1, &[(task("t-1"), 60 * HOUR)]);
    let nonce = rig.hello_nonce();
    let ack = rig.ack(Some(nonce), rig.truth, vec![]);
    rig.message(Topic::DownAck(rig.device.clone()).text(&rig.fleet), ack);
    assert!(rig.agent.clock.raised() > Millis::from_secs(3 * 86_400));
    assert!(revoked(&rig, &task("t-1")));
    for reboot in [Reboot::Process, Reboot::Kernel] {
        rig.restart(reboot);
        assert!(revoked(&rig, &task("t-1")));
    }
    rig.pass(73 * HOUR);
    assert!(!revoked(&rig, &task("t-1")));
}

/// With the anchor go the sums by which powered-on time is told from jumps, so that the clock begins again far past what the
/// file says of when its rules were seen.
#[test]
fn with_a_lost_anchor_no_rule_ends_before_its_time() {
    let mut rig = rig();
    rig.restart(Reboot::Kernel);
    rig.connect_only();
    rig.truth = rig.truth + Millis::from_secs(20 * 86_400);
    let nonce = rig.hello_nonce();
    let ack = rig.ack(Some(nonce), rig.truth, vec![]);
    rig.message(Topic::DownAck(rig.device.clone()).text(&rig.fleet), ack);
    let now = rig.truth;
    let (topic, bundle) = rig.bundle(|trust| trust.issued_at = now);
    rig.message(topic, bundle);
    assert_eq!(rig.agent.trust.issued_at, now);
    say(&mut rig, 1, &[(task("t-1"), 60 * HOUR)]);
    let seen = Moment::of(&rig.agent.clock, &rig.agent.wallet).ticked;
    rig.disk.anchor = None;
    // The second start has an anchor, which knows the file.
    for reboot in [Reboot::Process, Reboot::Process, Reboot::Kernel] {
        rig.restart(reboot);
        let ticked = Moment::of(&rig.agent.clock, &rig.agent.wallet).ticked;
        assert!(ticked > seen + LIFE_MAX, "it jumped");
        assert!(revoked(&rig, &task("t-1")));
    }
    assert_eq!(rig.disk.anchor.as_ref().unwrap().emergencies.len(), 1);
    rig.pass(59 * HOUR);
    assert!(revoked(&rig, &task("t-1")));
    rig.pass(15 * HOUR);
    assert!(!revoked(&rig, &task("t-1")));
}

#[test]
fn what_lies_further_ahead_than_time_is_believed_to_jump_waits_for_a_round_trip() {
    let mut rig = rig();
    rig.restart(Reboot::Kernel);
    rig.connect_only();
    let later = rig.truth + Millis::from_secs(40 * 86_400);
    let ahead = Emergency { issued_at: later, ..said(&rig, 1, &[(task("t-1"), 40 * 86_400 + HOUR)]) };
    hear(&mut rig, &ahead);
    assert!(!revoked(&rig, &task("t-1")));
    // It was off for so long, as the fleet says.
    rig.truth = later + Millis::from_secs(60);
    let nonce = rig.hello_nonce();
    let ack = rig.ack(Some(nonce), rig.truth, vec![]);
    rig.message(Topic::DownAck(rig.device.clone()).text(&rig.fleet), ack);
    assert!(revoked(&rig, &task("t-1")));
}

#[test]
fn a_key_that_goes_leaves_what_it_revoked_and_one_that_comes_is_waited_for() {
    let mut rig = rig();
    say(&mut rig, 1, &[(task("t-1"), HOUR)]);
    let (topic, bundle) = rig.bundle(|trust| trust.emergency = vec![named("ann", &key(41))]);
    // Of the key of a bundle that is still to come.
    let next = Emergency { key: id_of(&key(41)), bundle_version: 3, ..said(&rig, 1, &[(task("t-2"), HOUR)]) };
    let place = format!("hardtack/1/acme/feed/main/emergency/{}", next.key);
    let payload = signed(&rig, &next, &key(41));
    rig.message(place, payload);
    assert!(!revoked(&rig, &task("t-2")) && refusals(&rig).is_empty());
    rig.message(topic, bundle);
    rig.named.0 = 3;
    assert!(revoked(&rig, &task("t-2")) && revoked(&rig, &task("t-1")));
    // The broker keeps the old one and says it again; a new one of the key that is gone is not taken.
    say(&mut rig, 1, &[(task("t-1"), HOUR)]);
    assert!(refusals(&rig).is_empty());
    say(&mut rig, 2, &[(task("t-3"), HOUR)]);
    assert!(!revoked(&rig, &task("t-3")) && refusals(&rig).len() == 1);
    rig.restart(Reboot::Process);
    assert!(revoked(&rig, &task("t-1")) && revoked(&rig, &task("t-2")));
}

#[test]
fn one_of_a_key_that_no_bundle_brings_is_refused_when_the_fleet_says_so() {
    let mut rig = rig();
    let strange = Emergency { key: id_of(&key(41)), bundle_version: 9, ..said(&rig, 1, &[(task("t-2"), HOUR)]) };
    let (place, payload) = (topic(&rig, "main", strange.key), signed(&rig, &strange, &key(41)));
    for _ in 0..40 {
        rig.message(place.clone(), payload.clone());
    }
    for noise in 0..200_u64 {
        let key = KeyId(noise.to_be_bytes());
        let other = Emergency { key, ..strange.clone() };
        let (place, payload) = (topic(&rig, "main", key), signed(&rig, &other, &self::key(41)));
        rig.message(place, payload);
    }
    assert_eq!(rig.agent.emergencies_ahead.len(), EMERGENCY_KEYS_MAX, "and no more are kept");
    assert!(refusals(&rig).is_empty());
    rig.sync();
    assert!(rig.agent.emergencies_ahead.is_empty() && !refusals(&rig).is_empty());
    assert!(!revoked(&rig, &task("t-2")));
}

#[test]
fn a_damaged_or_older_file_fails_closed_and_its_counter_is_kept() {
    let mut rig = rig();
    let first = said(&rig, 1, &[(task("t-1"), 2 * HOUR)]);
    hear(&mut rig, &first);
    let file = StateFile::Emergency(id_of(&ann()));
    let older = rig.disk.files[&file].clone();
    let second = said(&rig, 2, &[(task("t-1"), 2 * HOUR), (task("t-2"), 2 * HOUR)]);
    hear(&mut rig, &second);
    let whole = rig.disk.files[&file].clone();
    for byte in [0, 9, whole.len() / 2, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[byte] ^= 1;
        check_lost(&mut rig, &file, Some(damaged), &second, &whole);
    }
    for damaged in [Some(older), Some(Vec::new()), Some(whole[..whole.len() - 1].to_vec()), None] {
        check_lost(&mut rig, &file, damaged, &second, &whole);
    }
    // Nobody tells it again: what can have been lost ends by itself.
    rig.disk.files.remove(&file);
    rig.restart(Reboot::Process);
    rig.pass(71 * HOUR);
    assert_eq!(rig.agent.mode(), Mode::Locked);
    rig.restart(Reboot::Process);
    rig.pass(HOUR + 60);
    assert_ne!(rig.agent.mode(), Mode::Locked);
    reconnect(&mut rig);
    hear(&mut rig, &first);
    assert!(refusals(&rig).pop().unwrap().reason.contains("rolled back"));
    assert!(!revoked(&rig, &task("t-1")), "the counter outlives the rules");
}

/// The anchor that knew of it is lost as well: nothing says what would bring back all that it held.
#[test]
fn a_damaged_file_that_no_anchor_knows_fails_closed_too() {
    let mut rig = rig();
    let said = said(&rig, 3, &[(task("t-1"), 2 * HOUR)]);
    hear(&mut rig, &said);
    let file = StateFile::Emergency(id_of(&ann()));
    rig.disk.files.get_mut(&file).unwrap()[9] ^= 1;
    rig.disk.anchor.as_mut().unwrap().emergencies.clear();
    rig.restart(Reboot::Process);
    assert_eq!(refusals(&rig).pop().unwrap().source, file.path());
    for _ in 0..2 {
        assert_eq!(rig.agent.mode(), Mode::Locked);
        assert!(rig.agent.status().reasons.join("; ").contains("is lost: this ends after 72 h"));
        reconnect(&mut rig);
        hear(&mut rig, &said);
        assert!(revoked(&rig, &task("t-1")), "what it says is obeyed");
        rig.restart(Reboot::Process);
    }
    rig.pass(72 * HOUR + 120);
    assert_ne!(rig.agent.mode(), Mode::Locked);
}

/// Its newest statement leaves out what an earlier one revoked, and whoever has the key may say anything after it.
#[test]
fn what_only_a_damaged_file_said_is_found_by_no_statement() {
    let second = |rig: &Rig| said(rig, 2, &[(task("t-2"), 2 * HOUR)]);
    let later = |rig: &Rig| said(rig, 3, &[(task("t-1"), 2 * HOUR), (task("t-2"), 2 * HOUR)]);
    for newest in [second, later] {
        let mut rig = rig();
        say(&mut rig, 1, &[(task("t-1"), 2 * HOUR)]);
        let told = second(&rig);
        hear(&mut rig, &told);
        assert!(!rig.agent.revocations.emergencies.marks()[0].alone);
        let file = StateFile::Emergency(id_of(&ann()));
        rig.disk.files.insert(file.clone(), vec![0; 90]);
        rig.restart(Reboot::Process);
        rig.sync();
        rig.pass(HOUR);
        reconnect(&mut rig);
        let told = if newest(&rig).counter == 2 { told } else { newest(&rig) };
        hear(&mut rig, &told);
        assert!(revoked(&rig, &task("t-2")), "what it says is obeyed");
        for reboot in [None, Some(Reboot::Process), Some(Reboot::Kernel)] {
            reboot.into_iter().for_each(|reboot| rig.restart(reboot));
            assert_eq!(rig.agent.mode(), Mode::Locked);
            assert!(rig.agent.status().reasons.join("; ").contains("is lost: this ends after 72 h"));
        }
        rig.pass(70 * HOUR);
        assert_eq!(rig.agent.mode(), Mode::Locked);
        rig.pass(HOUR + 120);
        assert_ne!(rig.agent.mode(), Mode::Locked);
        // What is lost a second time is lost from then on.
        rig.disk.files.insert(file, Vec::new());
        rig.restart(Reboot::Process);
        rig.pass(71 * HOUR);
        assert_eq!(rig.agent.mode(), Mode::Locked);
        let mark = rig.agent.revocations.emergencies.marks()[0];
        assert_eq!((mark.counter, mark.lost.is_some()), (told.counter, true));
    }
}

#[track_caller]
fn check_lost(rig: &mut Rig, file: &StateFile, content: Option<Vec<u8>>, newest: &Emergency, whole: &[u8]) {
    match content {
        Some(content) => drop(rig.disk.files.insert(file.clone(), content)),
        None => drop(rig.disk.files.remove(file)),
    }
    let there = rig.disk.files.contains_key(file);
    let told = refusals(rig).len();
    rig.restart(Reboot::Process);
    assert_eq!(rig.agent.mode(), Mode::Locked);
    assert!(rig.agent.status().reasons.join("; ").contains("is lost"));
    let told = refusals(rig).split_off(told);
    assert_eq!(told.iter().filter(|told| told.source == file.path()).count(), usize::from(there), "{told:?}");
    rig.restart(Reboot::Process);
    assert_eq!(rig.agent.mode(), Mode::Locked, "it is lost still");
    rig.sync();
    let mark = rig.agent.revocations.emergencies.marks()[0];
    assert_eq!((mark.counter, mark.lost.is_some()), (2, true));
    // An older one does not bring it back, the same one does.
    hear(rig, &Emergency { counter: 1, ..newest.clone() });
    assert_eq!(rig.agent.mode(), Mode::Locked);
    hear(rig, newest);
    assert_ne!(rig.agent.mode(), Mode::Locked);
    assert!(revoked(rig, &task("t-1")) && revoked(rig, &task("t-2")));
    rig.disk.files.insert(file.clone(), whole.to_vec());
}

#[test]
fn a_cut_between_file_and_anchor_keeps_the_statement() {
    let mut rig = rig();
    say(&mut rig, 1, &[(task("t-1"), HOUR)]);
    let before = rig.disk.anchor.clone();
    say(&mut rig, 2, &[(task("t-2"), HOUR)]);
    rig.disk.anchor = before;
    rig.restart(Reboot::Process);
    assert!(revoked(&rig, &task("t-1")) && revoked(&rig, &task("t-2")));
    assert_eq!(rig.agent.revocations.emergencies.marks()[0].counter, 2);
}

#[test]
fn it_can_be_carried_from_device_to_device() {
    let mut one = rig();
    say(&mut one, 3, &[(task("t-1"), HOUR)]);
    let Reply::Exported(exported) = one.ask(0, Socket::Admin, Request::ExportRevocations(None)) else { panic!() };
    assert_eq!(exported.emergencies, 1);
    let file = crate::wire::token::from_text(&exported.file, 1 << 20).unwrap();
    let mut two = rig();
    for outcome in ["applied", "known"] {
        let import = super::super::request::revocations::ImportRevocations { file: file.clone(), name: "stick".into() };
        let Reply::Imported(imported) = two.ask(0, Socket::Admin, Request::ImportRevocations(import)) else { panic!() };
        let last = imported.parts.last().unwrap();
        assert_eq!(format!("{:?}", last.outcome).to_lowercase(), outcome, "{:?}", last.reason);
        assert!(revoked(&two, &task("t-1")));
    }
}

#[test]
fn what_is_held_of_a_key_is_bounded() {
    let mut rig = rig();
    // Names and reasons as long as they can be.
    for counter in 1..=5 {
        let rules: Vec<_> = (0..64).map(|at| (task(&format!("t-{counter}-{at}")), HOUR)).collect();
        let told = said(&rig, counter, &rules);
        let rules = Rules::new(&"r".repeat(REASON_BYTES_MAX), told.rules.iter()).unwrap();
        hear(&mut rig, &Emergency { rules, ..told });
    }
    assert_eq!(rig.agent.status().emergency.len(), HELD_MAX);
    assert!(refusals(&rig).pop().unwrap().reason.contains("older ones must end"));
    assert!(revoked(&rig, &task("t-4-63")) && !revoked(&rig, &task("t-5-0")));
    assert!(rig.disk.files[&StateFile::Emergency(id_of(&ann()))].len() <= STORED_BYTES_MAX);
    // One on everything has a place even where it ends before them and stands for none.
    let told = said(&rig, 5, &[(Target::All, HOUR / 2)]);
    let rules = Rules::new(&"r".repeat(REASON_BYTES_MAX), told.rules.iter()).unwrap();
    hear(&mut rig, &Emergency { rules, ..told });
    assert_eq!((rig.agent.status().emergency.len(), rig.agent.mode()), (HELD_MAX + 1, Mode::Locked));
    assert!(rig.disk.files[&StateFile::Emergency(id_of(&ann()))].len() <= STORED_BYTES_MAX);
    rig.restart(Reboot::Process);
    assert_eq!((rig.agent.status().emergency.len(), rig.agent.mode()), (HELD_MAX + 1, Mode::Locked));
    rig.sync();
    // One rule that stands for all of them finds room, and so does what comes after it.
    say(&mut rig, 6, &[(Target::All, HOUR)]);
    assert_eq!((rig.agent.status().emergency.len(), rig.agent.mode()), (1, Mode::Locked));
    for at in [task("t-1-0"), task("t-4-63"), task("t-5-0")] {
        assert!(revoked(&rig, &at), "{at:?}");
    }
    rig.pass(HOUR + 60);
    reconnect(&mut rig);
    say(&mut rig, 7, &[(task("t-7"), HOUR)]);
    assert!(revoked(&rig, &task("t-7")) && !revoked(&rig, &task("t-1-0")));
}

#[test]
fn the_reason_of_a_rule_is_shown_though_later_statements_leave_it_out() {
    let mut rig = rig();
    let say = |rig: &mut Rig, counter, reason: &str, rules: &[(Target, u64)]| {
        let told = said(rig, counter, rules);
        let rules = Rules::new(reason, told.rules.iter()).unwrap();
        hear(rig, &Emergency { rules, ..told });
    };
    say(&mut rig, 1, "laptop stolen", &[(task("t-1"), HOUR), (task("t-2"), HOUR)]);
    say(&mut rig, 2, "a mistake", &[(task("t-2"), 2 * HOUR), (task("t-3"), HOUR)]);
    say(&mut rig, 3, "ends before", &[(task("t-3"), 60)]);
    for restarted in [false, true] {
        let status = rig.agent.status();
        let shown: Vec<_> = status.emergency.iter().map(|rule| format!("{}: {}", rule.covers, rule.reason)).collect();
        assert_eq!(shown, ["task t-1: laptop stolen", "task t-2: a mistake", "task t-3: a mistake"], "{restarted}");
        rig.restart(Reboot::Process);
    }
}

/// Each boot is charged to tokens. Were it charged to rules as well, whoever holds the power switch could end one in an afternoon.
#[test]
fn boots_end_no_rule() {
    let mut rig = rig();
    rig.restart(Reboot::Kernel);
    rig.connect_only();
    // What ends this is powered-on time alone.
    let (later, days) = (rig.truth + Millis::from_secs(20 * 86_400), 20 * 86_400);
    let ahead = Emergency { issued_at: later, ..said(&rig, 1, &[(here(), days + 71 * HOUR)]) };
    hear(&mut rig, &ahead);
    let (seen, on, boots) = (rig.agent.clock.powered(), rig.powered, 240);
    for _ in 0..boots {
        rig.restart(Reboot::Kernel);
        rig.pass(1);
    }
    let charged = rig.agent.clock.powered().since(seen);
    assert!(charged > Millis::from_secs((boots - 1) * 60), "tokens are charged with all of it: {charged:?}");
    rig.pass(72 * HOUR - 60 - (rig.powered.0 - on.0) / 1000);
    assert_eq!(rig.agent.mode(), Mode::Locked);
    // What was not written down at a boot counts for nothing: no more than a lease each.
    rig.pass(60 + boots * 61);
    assert_ne!(rig.agent.mode(), Mode::Locked);
}

/// By its signed end this would be covered for as long; but the one that covers it was seen before it, and is over before it.
#[test]
fn a_rule_stays_as_long_as_its_own_first_sight_says_beside_one_that_was_seen_before() {
    let mut rig = rig();
    // Nobody can tell after a boot that this is of the future: what ends it is powered-on time.
    rig.restart(Reboot::Kernel);
    rig.connect_only();
    let (began, days) = (rig.truth, 20 * 86_400);
    let until = began + Millis::from_secs(days + 10 * HOUR);
    let told = |rig: &Rig, counter, targets: &[Target]| {
        let rules = targets.iter().map(|target| (Selector::of(target).unwrap(), until));
        let rules = Rules::new("stolen", rules).unwrap();
        Emergency { issued_at: began + Millis::from_secs(days), rules, ..said(rig, counter, &[(Target::All, 1)]) }
    };
    let first = told(&rig, 1, &[Target::All]);
    hear(&mut rig, &first);
    rig.pass(5 * HOUR);
    reconnect(&mut rig);
    let both = told(&rig, 2, &[Target::All, task("t-1")]);
    hear(&mut rig, &both);
    let held = |rig: &Rig| rig.agent.status().emergency.into_iter().map(|rule| rule.covers).collect::<Vec<_>>();
    assert_eq!(held(&rig), ["all", "task t-1"]);
    rig.pass(67 * HOUR + 60);
    assert_eq!(held(&rig), ["task t-1"], "the first sight of `all` is 72 h ago");
    assert!(revoked(&rig, &task("t-1")) && rig.agent.mode() != Mode::Locked);
    rig.pass(5 * HOUR);
    assert!(!revoked(&rig, &task("t-1")));
}

/// A rule goes only if another holds whenever it does: by its signed end, and by when it was first seen.
#[test]
fn what_another_rule_covers_for_as_long_is_not_held_beside_it() {
    let held = |rig: &Rig| rig.agent.status().emergency.into_iter().map(|rule| rule.covers).collect::<Vec<_>>();
    let mut rig = rig();
    say(&mut rig, 1, &[(task("t-1"), 2 * HOUR), (task("t-2"), 4 * HOUR), (here(), HOUR)]);
    say(&mut rig, 2, &[(Target::All, 3 * HOUR)]);
    assert_eq!(held(&rig), ["all", "task t-2"]);
    rig.restart(Reboot::Process);
    assert_eq!(held(&rig), ["all", "task t-2"]);
    // It stands for what it took the place of, for whoever asks.
    let asked = CheckRevoked { token: None, target: Some(here()) };
    let Reply::Checked(checked) = rig.ask(0, Socket::Admin, Request::CheckRevoked(asked)) else { panic!() };
    assert!(checked.revoked && checked.by.unwrap().starts_with("all by emergency key"));
    rig.pass(3 * HOUR + 60);
    reconnect(&mut rig);
    assert_eq!(held(&rig), ["task t-2"]);
    let before = |secs| Target::IssuedBefore(rig.truth - Millis::from_secs(secs));
    let (early, late) = (before(9), before(8));
    say(&mut rig, 3, &[(early, HOUR), (task("t-2"), HOUR)]);
    assert_eq!(held(&rig).len(), 2);
    say(&mut rig, 4, &[(late.clone(), HOUR)]);
    assert_eq!(held(&rig), [Selector::of(&late).unwrap().to_string(), "task t-2".into()]);
}
