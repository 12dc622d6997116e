//! Leaves there and back, and what is no leaf.

use proptest::prelude::*;

use super::super::segment::grow;
use super::super::{Evidence, Gap, GapCause};
use super::*;

fn text() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["write", "read", "modbus/pump1/speed", "unix:uid:1001", "low", "", "t-1"]).prop_map_into()
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..3_u64, Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()]
}

fn credential() -> impl Strategy<Value = Credential> {
    let block = (0..4_u8).prop_map(|byte| BlockId([byte; 32]));
    let planner = prop::collection::vec(text(), 0..3);
    let step = (0..2_u8, planner, (number(), number()), number()).prop_map(|(id, planner, (number, salt), index)| {
        NamedStep { id: format!("s-{id}").parse().unwrap(), planner, era: EraId { number, salt }, index }
    });
    let chain = prop::collection::vec(block, 0..4);
    let initiator = prop::option::of((text(), text()).prop_map(|(issuer, subject)| Initiator { issuer, subject }));
    let named = (text(), 0..2_u8, prop::option::of(0..3_u8), chain, prop::option::of(step), initiator);
    let named = named.prop_map(|(owner, grant, task, chain, step, initiator)| {
        let task = task.map(|task| format!("t-{task}").parse().unwrap());
        Credential::Named(Box::new(Named { owner, grant: GrantId([grant; 16]), task, chain, step, initiator }))
    });
    prop_oneof![Just(Credential::Nothing), (0..3_u64).prop_map(Credential::Same), named]
}

fn decision() -> impl Strategy<Value = Event> {
    let texts = || prop::collection::vec(text(), 0..3);
    let risk = prop::option::of(Just("high".parse().unwrap()));
    let arguments = prop::option::of((0..2_u8).prop_map(|byte| Hash([byte; 32])));
    let question = (text(), text(), prop::option::of(text()), risk, arguments);
    // A feed has no head 2^64 - 1, and no ceiling lies that far from the floor.
    let below = || prop::option::of(number().prop_map(|n| n.min(u64::MAX - 1)));
    let known = (text(), number(), number(), number(), below(), below());
    let known = known.prop_map(|(mode, staleness_s, bundle_version, policy_version, feed_seq, width)| Known {
        mode: mode.clone(),
        freshness: "fresh".into(),
        staleness_s,
        time_class: mode,
        width_ms: width.map(Millis),
        bundle_version,
        policy_version,
        feed_seq,
    });
    (any::<bool>(), text(), question, texts(), texts(), credential(), known).prop_map(
        |(
            allow,
            reason,
            (operation, resource, destination, risk, arguments),
            workload,
            enforcer,
            credential,
            known,
        )| {
            let decision = Decision {
                allow,
                reason,
                operation,
                resource,
                destination,
                risk,
                arguments,
                credential,
                workload,
                enforcer,
                known,
            };
            Event::Decision(Box::new(decision))
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let gap = (number(), prop::option::of(number())).prop_map(|(first, end)| {
        Event::Gap(Gap { era: EraId { number: first, salt: 7 }, first, end, cause: GapCause::Damaged, repeated: 0 })
    });
    let refused =
        text().prop_map(|source| Event::Refused(Evidence { source, reason: "r".into(), digest: Hash::ZERO, count: 1 }));
    prop_oneof![4 => decision(), 1 => gap, 1 => refused]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let times = (number(), number()).prop_map(|(floor, powered)| (Timestamp(floor), Timestamp(powered)));
    prop::collection::vec((times, event()), 1..20).prop_map(|records| {
        let numbered = (100..).zip(records);
        numbered.map(|(index, ((floor, powered), event))| Record { index, floor, powered, event }).collect()
    })
}

proptest! {
    #[test]
    fn records_come_back_from_their_leaves(records in records()) {
        let (leaves, _) = grow(&records);
        prop_assert_eq!(read(&leaves, 100..).unwrap(), records);
    }

    #[test]
    fn what_was_changed_is_read_or_refused_and_stays_small(
        records in records(), leaf in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let (mut leaves, _) = grow(&records);
        let leaf = leaf.index(leaves.len());
        let at = at.index(leaves[leaf].len());
        match cut {
            true => leaves[leaf].truncate(at),
            false => leaves[leaf][at] = byte,
        }
        for record in read(&leaves, 100..).into_iter().flatten() {
            prop_assert!(record.to_bytes().len() < 8 * RECORD_BYTES_MAX);
        }
    }

    #[test]
    fn anything_at_all_is_read_or_refused(leaves in prop::collection::vec(prop::collection::vec(0..8_u8, 0..40), 0..6)) {
        let _ = read(&leaves, 0..);
    }
}

fn plain(credential: Credential) -> Decision {
    Decision {
        allow: true,
        reason: "allowed".into(),
        operation: "write".into(),
        resource: "modbus/pump1/speed".into(),
        destination: None,
        risk: Some("high".parse().unwrap()),
        arguments: None,
        credential,
        workload: vec!["unix:uid:1001".into()],
        enforcer: Vec::new(),
        known: Known::default(),
    }
}

fn at(index: u64, credential: Credential) -> Record {
    let time = Timestamp(1_790_000_000_000 + index * 900);
    Record { index, floor: time, powered: time, event: Event::Decision(Box::new(plain(credential))) }
}

#[test]
fn what_repeats_takes_a_few_bytes() {
    let records: Vec<Record> = (0..64).map(|index| at(index, Credential::Same(7))).collect();
    let (leaves, _) = grow(&records);
    let sizes: Vec<usize> = leaves.iter().map(Vec::len).collect();
    assert!(sizes[0] < 110, "{sizes:?}");
    assert!(sizes[1..].iter().all(|size| *size == 4), "{sizes:?}");
}

#[test]
fn a_leaf_is_nothing_else() {
    let (leaves, _) = grow(&[at(0, Credential::Nothing), at(1, Credential::Nothing)]);
    let whole = |leaf: Vec<u8>| read(&[leaves[0].clone(), leaf], 0..);
    assert!(whole(leaves[1].clone()).is_ok());
    assert!(read(&leaves[1..], 0..).is_err(), "it leaves out what only the leaf before says");
    let cases: [(&str, Vec<u8>); 6] = [
        ("nothing", Vec::new()),
        ("an unknown tag", vec![3, 0, 0]),
        ("more after its end", [&leaves[1][..], &[0]].concat()),
        ("a number that was not defined", vec![tag::ALLOW, has::CREDENTIAL, 0, 9]),
        ("a number in a longer form", vec![tag::ALLOW, 0, 0x80, 0]),
        ("a definition of no kind", vec![tag::ALLOW, has::DEFINITIONS, 0, 1, 9]),
    ];
    for (what, leaf) in cases {
        assert!(whole(leaf).is_err(), "{what}");
    }
    let event = Event::Decision(Box::new(plain(Credential::Nothing)));
    let disguised = [&[tag::EVENT, 0, 0][..], &encode(&event)].concat();
    assert!(whole(disguised).is_err(), "a decision has one form");
    assert!(matches!(whole(vec![0; LEAF_BYTES_MAX + 1]), Err(Refused::TooLarge { .. })));
}

#[test]
fn a_few_bytes_do_not_become_many() {
    let mut leaf = Writer(vec![tag::ALLOW, has::DEFINITIONS | has::FIRST]);
    leaf.number(0);
    leaf.number(2);
    leaf.0.push(kind::TEXT);
    leaf.text(&"x".repeat(1000));
    leaf.0.push(kind::CALLER);
    leaf.numbers(&[0; 900]);
    leaf.numbers(&[]);
    assert!(matches!(read(&[leaf.0], 0..), Err(Refused::Malformed(_))));
}
