//! Exports of whole runs, and exports with one thing wrong in each.

use data_encoding::BASE64;
use ed25519_dalek::SigningKey;
use hardtack::ids::{hex, BlockId, GrantId};
use hardtack::time::Millis;
use hardtack::wire::audit::segment::{grow, Upload};
use hardtack::wire::audit::signer::AuditKey;
use hardtack::wire::audit::{genesis, Alive, Credential, Decision, EraEnd, Gap, GapCause, Known, Named, Start};
use hardtack::wire::revocation::announcement::{BelievedSet, Head};
use hardtack::wire::revocation::rules::Selector;
use hardtack::wire::revocation::set::RevocationSet;
use hardtack::wire::revocation::{Position, Target};
use serde_json::json;

use super::*;
use crate::plan::Plan;
use crate::report::Status;
use crate::scenario::Scenario;
use crate::trace::Trace;
use crate::world::{Collector, World};

const NOW: u64 = 1_772_323_200_000;
const HOUR: u64 = 3_600_000;
const GRANT: GrantId = GrantId([7; 16]);

/// The lines of an export, as far as they are read.
fn export(fleet: &FleetId, devices: &[(DeviceId, PublicKey)], segments: &[Upload]) -> String {
    let keys = devices.iter().map(|(id, key)| json!({"id": id, "keys": [hex(key.as_bytes())]}));
    let head = json!({"kind": "export", "format": EXPORT, "fleet": fleet, "devices": keys.collect::<Vec<_>>()});
    let mut text = format!("{head}\n");
    for Upload { header: signed, leaves } in segments {
        let header = signed.claim().unwrap();
        let mut line = json!({
            "device": header.device, "era": header.era.number, "salt": format!("{:016x}", header.era.salt),
            "segment": header.segment, "header": BASE64.encode(&signed.to_bytes()), "received": null,
        });
        if leaves.is_empty() {
            line["kind"] = if header.salvage.is_some() { "lost".into() } else { "shed".into() };
            text.push_str(&format!("{line}\n"));
        }
        for leaf in leaves {
            line["kind"] = "record".into();
            line["leaf"] = BASE64.encode(leaf).into();
            text.push_str(&format!("{line}\n"));
        }
    }
    text
}

fn verdict(text: &str, revocations: &Revocations) -> Verdict {
    judge(text.as_bytes(), revocations).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn status(verdict: &Verdict, id: &str) -> Status {
    verdict.properties.iter().find(|property| property.id == id).unwrap().status
}

#[test]
fn the_collectors_export_of_a_run_passes_whatever_the_world_did() {
    for text in [
        include_str!("../../scenarios/flappy-link.toml"),
        include_str!("../../scenarios/revoked-in-the-dark.toml"),
        include_str!("../../scenarios/power-cuts.toml"),
        include_str!("../../scenarios/clock-storm.toml"),
    ] {
        let scenario = Scenario::parse(text).unwrap();
        let plan = Plan::new(&scenario, scenario.seed);
        let outcome = World::new(&scenario, &plan, scenario.seed, Trace::new(None), None).run();
        let Collector { fleet, devices, trails, revocations: carried } = outcome.collector;
        let mut segments: Vec<Upload> = trails.into_iter().map(|collected| collected.upload).collect();
        let place = |upload: &Upload| {
            let header = upload.header.claim().unwrap();
            (header.device, header.era, header.segment)
        };
        segments.sort_by_key(place);
        let mut revocations = Revocations::default();
        revocations.take(&carried).unwrap();
        let text = export(&fleet, &devices, &segments);
        let found = verdict(&text, &revocations);
        let failed: Vec<_> = found.properties.iter().filter(|property| property.status == Status::Fail).collect();
        assert!(found.verdict == Status::Pass && failed.is_empty(), "{}: {failed:#?}", scenario.name);
        for id in ["I2", "I5", "I7", "I11"] {
            assert_eq!(status(&found, id), Status::Pass, "{} {id}", scenario.name);
        }
        let untried = found.properties.iter().filter(|property| property.status == Status::Vacuous);
        assert!(untried.clone().count() > 10 && untried.clone().all(|property| property.why.is_some()));
        assert!(found.records > 100 && found.events > 100 && found.devices == devices.len());
        // Of a segment less in the middle of an era the rest does not follow.
        let middle = segments.iter().position(|upload| upload.header.claim().unwrap().segment == 0).unwrap();
        let followed = place(&segments[middle + 1]).2 == 1;
        segments.remove(middle);
        if followed {
            let without = verdict(&export(&fleet, &devices, &segments), &revocations);
            assert_eq!(status(&without, "I2"), Status::Fail);
        }
    }
}

#[test]
fn a_trace_of_a_run_is_judged_as_far_as_it_tells() {
    let scenario = Scenario::parse(crate::tests::SMALL).unwrap();
    let file = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    struct Pipe(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    crate::run(&scenario, scenario.seed, Some(Box::new(Pipe(file.clone()))));
    let text = String::from_utf8(file.lock().unwrap().clone()).unwrap();
    let found = verdict(&text, &Revocations::default());
    assert_eq!((found.evidence, found.verdict), ("trace", Status::Pass), "{found:#?}");
    let reported = text.clone() + "{\"report\":{}}\n";
    assert_eq!(
        verdict(&reported, &Revocations::default()).verdict,
        Status::Pass,
        "as `report --format jsonl` writes it"
    );
    let events: String =
        text.lines().take_while(|line| line.starts_with("{\"at\":")).map(|line| format!("{line}\n")).collect();
    assert_eq!((status(&found, "I5"), status(&found, "I2")), (Status::Pass, Status::Pass));
    let event = |event: serde_json::Value| format!("{}\n", json!({"at": u64::MAX, "event": event}));
    let applied = |seq: u64| event(json!({"kind": "applied", "device": 0, "feed": "main", "era": 9, "seq": seq}));
    let decided = |index: u64| {
        event(
            json!({"kind": "decided", "device": 0, "allow": true, "reason": "allowed", "revoked": false, "era": 1_000_000, "index": index}),
        )
    };
    for (what, more, id) in [
        ("a feed that goes back", applied(9) + &applied(8), "I5"),
        ("a name given twice", decided(4) + &decided(4), "I2"),
        ("a start that came before", event(json!({"kind": "agent_started", "device": 0, "start": 0})), "I5"),
    ] {
        let more = with_end(&(events.clone() + &more));
        assert_eq!(status(&verdict(&more, &Revocations::default()), id), Status::Fail, "{what}");
    }
}

/// A trace of these lines.
fn with_end(events: &str) -> String {
    let mut count = Count::default();
    events.lines().for_each(|line| count.take(line));
    format!("{events}{}\n", count.end())
}

/// A device's trail as somebody who has its keys would sign it.
struct Hand {
    identity: SigningKey,
    audit: SigningKey,
    segments: Vec<Upload>,
}

fn gateway() -> DeviceId {
    "gw-07".parse().unwrap()
}

fn acme() -> FleetId {
    "acme".parse().unwrap()
}

impl Hand {
    fn new() -> Self {
        let [identity, audit] = [1, 2].map(|seed| SigningKey::from_bytes(&[seed; 32]));
        Self { identity, audit, segments: Vec::new() }
    }

    /// One more segment: of the era that is last, or of another.
    fn tell(&mut self, era: u64, records: Vec<(u64, u64, Told)>) {
        self.tell_as(EraId { number: era, salt: era }, records);
    }

    fn tell_as(&mut self, era: EraId, records: Vec<(u64, u64, Told)>) {
        let before = self.segments.last().map(|upload| upload.header.claim().unwrap());
        let before = before.filter(|before| before.era == era);
        let first_index = before.as_ref().map_or(0, |before| before.next_index().unwrap());
        let count = records.len() as u32;
        let record = |(index, (floor, powered, event)): (u64, (u64, u64, Told))| Record {
            index,
            floor: Timestamp(floor),
            powered: Timestamp(powered),
            event,
        };
        let (leaves, root) = grow(&(first_index..).zip(records).map(record).collect::<Vec<_>>());
        let vouched = AuditKey { device: gateway(), epoch: 1, key: self.audit.verifying_key().into() };
        let header = SegmentHeader {
            device: gateway(),
            era,
            segment: before.as_ref().map_or(0, SegmentHeader::next_segment),
            first_index,
            count,
            previous: before.map_or_else(|| genesis(&acme(), &gateway(), era), |before| before.head()),
            root,
            closed_at: Timestamp(NOW),
            recovered: false,
            signer: Some(Signed::sign(&vouched, &acme(), &[&self.identity])),
            feeds: Vec::new(),
            salvage: None,
        };
        self.segments.push(Upload { header: Signed::sign(&header, &acme(), &[&self.audit]), leaves });
    }

    fn text(&self) -> String {
        export(&acme(), &[(gateway(), self.identity.verifying_key().into())], &self.segments)
    }
}

fn start() -> Told {
    let (boot, version, heartbeat) = (BootId([1; 16]), "1".into(), Millis(HOUR));
    Told::Start(Box::new(Start { boot, boots: 0, previous: None, version, heartbeat }))
}

fn allow(edit: impl FnOnce(&mut Decision)) -> Told {
    let named = Named {
        owner: "ops@acme".into(),
        grant: GRANT,
        task: Some("t-1".parse().unwrap()),
        chain: vec![BlockId([5; 32])],
        step: None,
        initiator: None,
    };
    let known = Known {
        mode: "offline".into(),
        freshness: "fresh".into(),
        time_class: "bounded".into(),
        width_ms: Some(Millis(9)),
        bundle_version: 2,
        policy_version: 3,
        feed_seq: Some(5),
        staleness_s: 1,
    };
    let mut decision = Decision {
        allow: true,
        reason: "allowed".into(),
        operation: "read".into(),
        resource: "modbus/a".into(),
        destination: None,
        risk: None,
        arguments: None,
        credential: Credential::Named(Box::new(named)),
        workload: vec!["unix:uid:1001".into()],
        enforcer: Vec::new(),
        known,
    };
    edit(&mut decision);
    Told::Decision(Box::new(decision))
}

fn feed(seq: u64) -> Told {
    let position = Position { feed: "main".parse().unwrap(), era: 1, seq, digest: Hash::ZERO };
    Told::Trust(TrustChange::Feed { position })
}

/// A trail in which nothing is wrong, with `more` at its end.
fn planted(more: Vec<(u64, u64, Told)>) -> Hand {
    let mut hand = Hand::new();
    let expires = Some(Timestamp(NOW + HOUR));
    hand.tell(
        1,
        vec![
            (NOW, NOW, start()),
            (NOW, NOW, Told::Trust(TrustChange::Grant { grant: GRANT, expires })),
            (NOW, NOW, feed(5)),
            (NOW + 1, NOW + 1, allow(|_| {})),
        ],
    );
    hand.tell(1, vec![(NOW + 2, NOW + 2, allow(|_| {}))]);
    if !more.is_empty() {
        hand.tell(1, more);
    }
    hand
}

/// What head `seq` of the feed revokes until then.
fn revoked(target: &Target, until: u64, seq: u64) -> Revocations {
    let mut set = RevocationSet::default();
    set.add_rule(Selector::of(target).unwrap(), Timestamp(until));
    let head = Head {
        feed: "main".parse().unwrap(),
        era: 1,
        seq,
        previous: Hash::ZERO,
        issued_at: Timestamp(NOW),
        next_update_ms: Millis(HOUR),
        hard_stale_ms: Millis(HOUR),
        dropped_before: Timestamp(0),
        root: Hash::ZERO,
        rules: Hash::ZERO,
        delta: Hash::ZERO,
        skips: Vec::new(),
        bundle_version: 1,
        policy_version: 1,
    };
    let signed = Signed::sign(&head, &acme(), &[&SigningKey::from_bytes(&[3; 32])]);
    let position = head.position(signed.digest());
    Revocations::of(BelievedSet { signed, head, position, set })
}

#[track_caller]
fn check_broken(hand: &Hand, revocations: &Revocations, id: &str, witness: &str) {
    let found = verdict(&hand.text(), revocations);
    let broken: Vec<&Judged> = found.properties.iter().filter(|property| property.status == Status::Fail).collect();
    assert!(broken.iter().any(|property| property.id == id), "{id} is not broken: {broken:#?}");
    let of = broken.iter().find(|property| property.id == id).unwrap();
    assert!(of.witness.as_ref().unwrap().contains(witness), "{of:?} does not say {witness:?}");
    assert_eq!(found.verdict, Status::Fail);
}

#[track_caller]
fn check_sound(hand: &Hand, revocations: &Revocations) {
    let found = verdict(&hand.text(), revocations);
    let broken: Vec<&Judged> = found.properties.iter().filter(|property| property.status == Status::Fail).collect();
    assert!(broken.is_empty() && found.verdict == Status::Pass, "{broken:#?}");
}

#[test]
fn each_violation_that_is_planted_in_an_export_is_found() {
    let none = Revocations::default();
    let later = NOW + 3;
    check_sound(&planted(Vec::new()), &none);
    let one = |edit: fn(&mut Decision)| planted(vec![(later, later, allow(edit))]);
    check_broken(&one(|it| it.workload.clear()), &none, "I11", "gw-07/1/5: an allow that names no workload");
    check_broken(&one(|it| it.known.policy_version = 0), &none, "I11", "no policy version");
    check_broken(&one(|it| it.known.policy_version = 2), &none, "I5", "the policy went back from 3 to 2");
    check_broken(&one(|it| it.known.mode = "locked".into()), &none, "I7", "gw-07/1/5: it allowed while it was locked");
    let strict = one(|it| (it.known.time_class, it.known.width_ms) = ("strict".into(), None));
    check_broken(&strict, &none, "I3.strict", "without an upper bound");

    let at = |floor: u64, powered: u64| planted(vec![(floor, powered, allow(|_| {}))]);
    let end = NOW + HOUR;
    check_sound(&at(end, end), &none);
    check_broken(&at(end + 2000, end + 2000), &none, "I3.floor", "gw-07/1/5: it allowed by grant");
    check_broken(&at(end, end + 2000), &none, "I3", "when the powered-on clock was");
    check_sound(&planted(vec![(end, end + 2000, allow(|it| it.known.time_class = "floor".into()))]), &none);

    check_broken(&at(NOW - 5000, NOW + 3), &none, "I5", "gw-07/1/5: the floor went back from");
    let back = (Timestamp(NOW), Timestamp(NOW - 5000));
    let reset = Told::Trust(TrustChange::Reset { floor: back, powered: back });
    let turned = planted(vec![(NOW - 5000, NOW - 5000, reset), (NOW - 5000, NOW - 5000, allow(|_| {}))]);
    check_sound(&turned, &none);
    check_broken(&planted(vec![(later, later, feed(4))]), &none, "I5", "feed main went back");

    let mut cloned = planted(Vec::new());
    cloned.tell(2, vec![(later, later, start()), (later, later, allow(|_| {}))]);
    let mut twin = Hand { segments: Vec::new(), ..planted(Vec::new()) };
    twin.tell_as(EraId { number: 2, salt: 9 }, vec![(NOW, NOW, start()), (NOW, NOW, allow(|_| {}))]);
    cloned.segments.append(&mut twin.segments);
    check_broken(&cloned, &none, "I5", "gw-07/2/0: two eras have this number under one identity key");

    let mut stolen = planted(Vec::new());
    let mut other = Hand { audit: SigningKey::from_bytes(&[9; 32]), ..Hand::new() };
    other.tell(2, vec![(later, later, start())]);
    stolen.segments.append(&mut other.segments);
    check_broken(
        &stolen,
        &none,
        "I5",
        "gw-07/2/0: it begins with an audit key of epoch 1, and era 1 was signed with another of epoch 1",
    );

    // Numbers without a hole but for gap records.
    let mut hole = planted(Vec::new());
    let ended = EraEnd { era: EraId { number: 2, salt: 2 }, next_index: 7, head: Hash::ZERO };
    hole.tell(3, vec![(later, later, Told::Ended(ended))]);
    check_broken(&hole, &none, "I2", "gw-07/2/0: records 0 to 6 are neither here nor in a gap record");
    let gap = Gap { era: ended.era, first: 0, end: Some(7), cause: GapCause::Damaged, repeated: 0 };
    hole.tell(3, vec![(later, later, Told::Gap(gap))]);
    check_sound(&hole, &none);
    let mut unheard = planted(Vec::new());
    unheard.tell(4, vec![(later, later, start())]);
    check_broken(&unheard, &none, "I2", "of eras 2 to 3 nothing is here");
    let mut left_out = planted(vec![(later, later, Told::Alive(Alive { next: None }))]);
    left_out.segments.remove(1);
    check_broken(&left_out, &none, "I2", "was to be next");

    // A record that was changed and signed anew, by the device's key and by another.
    for audit in [SigningKey::from_bytes(&[2; 32]), SigningKey::from_bytes(&[9; 32])] {
        let mut forged = planted(vec![(later, later, allow(|_| {}))]);
        let mut hand = Hand { audit, ..Hand::new() };
        hand.segments = vec![forged.segments[0].clone()];
        hand.tell(1, vec![(NOW + 2, NOW + 2, allow(|it| it.resource = "modbus/other".into()))]);
        forged.segments[1] = hand.segments.remove(1);
        check_broken(&forged, &none, "I2", "gw-07: era 1 segment");
    }
}

#[test]
fn an_allow_after_its_revocation_is_found_where_the_device_held_it() {
    let later = NOW + 3;
    let held = planted(vec![(later, later, feed(6)), (later, later, allow(|_| {}))]);
    for target in [
        Target::Grant(GRANT),
        Target::Owner("ops@acme".into()),
        Target::Task("t-1".parse().unwrap()),
        Target::Device(gateway()),
        Target::All,
    ] {
        check_broken(
            &held,
            &revoked(&target, NOW + HOUR, 6),
            "I4",
            "gw-07/1/6: it allowed what feed main had revoked by head 6",
        );
    }
    let grant = Target::Grant(GRANT);
    check_sound(&held, &revoked(&grant, NOW, 6));
    check_sound(&held, &revoked(&Target::Grant(GrantId([8; 16])), NOW + HOUR, 6));
    let not_yet = verdict(&held.text(), &revoked(&grant, NOW + HOUR, 7));
    assert_eq!((not_yet.verdict, status(&not_yet, "I4")), (Status::Pass, Status::Vacuous), "it never held it");
    // Across starts.
    let mut again = planted(vec![(later, later, feed(6))]);
    again.tell(2, vec![(later, later, start()), (later, later, allow(|_| {}))]);
    check_broken(&again, &revoked(&grant, NOW + HOUR, 6), "I4", "gw-07/2/1");
    assert_eq!(status(&verdict(&held.text(), &Revocations::default()), "I4"), Status::Vacuous);
}

#[test]
fn what_is_no_evidence_is_refused_with_its_line_and_nothing_panics() {
    let text = planted(Vec::new()).text();
    let trace = format!("{}\n", json!({"at": 5, "event": {"kind": "mode", "device": 0, "mode": "online"}}));
    let whole = with_end(&(trace.clone() + &trace));
    let lines: Vec<&str> = text.lines().collect();
    let edit = |from: &str, to: &str| text.replacen(from, to, 1);
    for (text, line, says) in [
        (String::new(), 1, "empty"),
        ("{}\n".into(), 1, "neither the head"),
        ("[]\n".into(), 1, "no object"),
        ("{\n".into(), 1, "no JSON"),
        (lines[0].to_owned(), 1, "no end"),
        (edit("export/v1", "export/v2"), 1, "neither the head"),
        (edit("\"acme\"", "\"a c\""), 1, "\"fleet\""),
        (edit("\"gw-07\"", "\"gw-08\""), 2, "gw-07 is not in the file's head"),
        (format!("{text}x\n"), lines.len() + 1, "no JSON"),
        (format!("{text}{}\n", lines[1].replace("\"leaf\":\"", "\"leaf\":\"!")), lines.len() + 1, "no base64"),
        (
            format!("{text}{}\n", lines[1].replace("\"kind\":\"record\"", "\"kind\":\"unsigned\"")),
            lines.len() + 1,
            "only a device",
        ),
        (format!("{text}{}", " ".repeat(LINE_BYTES_MAX as usize)), lines.len() + 1, "no end, or more than 1 MiB"),
        (trace.replace("mode\",", "moon\","), 1, "\"moon\" is not known"),
        (trace.replace("online", "sideways"), 1, "the mode \"sideways\" is not known"),
        (trace.clone() + &trace.replace("\"at\":5", "\"at\":4"), 2, "is before that"),
        (trace.clone() + &trace, 3, "it was cut off"),
        (trace.clone() + whole.lines().last().unwrap_or_default() + "\n", 2, "not those that were written"),
        (whole.replacen("online", "locked", 1), 3, "not those that were written"),
    ] {
        let refused = judge(text.as_bytes(), &Revocations::default()).expect_err(says);
        assert!(refused.line == line && refused.problem.contains(says), "{refused} is not line {line}: {says}");
    }
    for end in (0..text.len()).step_by(7) {
        let cut = judge(&text.as_bytes()[..end], &Revocations::default());
        assert!(cut.is_err() || text.as_bytes()[end - 1] == b'\n', "cut at {end}");
    }
    for bit in (0..text.len() * 8).step_by(13) {
        let mut bytes = text.as_bytes().to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        // It says something; the leaf's and the header's bits are found.
        let _ = judge(&bytes[..], &Revocations::default());
    }
}
