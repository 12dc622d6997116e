//! The ledger on a real disk: two processes, damage, what is stored twice.

use super::*;
use crate::fleet::enrol::{approve, found, Founding, Replace};
use crate::fleet::revoke::{revoke, Revocation};
use crate::fleet::{publish, FleetError, FleetKeys};
use crate::ids::Nonce;
use crate::time::Millis;
use crate::wire::audit::segment::grow;
use crate::wire::audit::{Decision, Known, Named, Record};
use crate::wire::bundle::BrokerPins;
use crate::wire::enrol::{DeviceKeys, EnrolRequest};
use crate::wire::revocation::Target;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const CADENCE: publish::Cadence = publish::Cadence::every(Millis::from_secs(60));

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("changed its mind")]
    Asked,
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(1_772_323_200 + secs)
}

struct World {
    folder: tempfile::TempDir,
    keys: FleetKeys,
}

impl World {
    fn new() -> Self {
        let keys = FleetKeys::generate(&mut ChaCha20Rng::from_seed([1; 32]));
        let founding = Founding {
            fleet: "acme".parse().unwrap(),
            feed: "main".parse().unwrap(),
            broker: BrokerPins::default(),
            keys: &keys,
            operator: "ann",
            at: at(0),
            cadence: CADENCE,
        };
        let mut fx = Effects::default();
        found(&founding, &mut fx).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fx.commit(|writes| Ledger::create(&folder.path().join("fleet.db"), &writes)).unwrap();
        Self { folder, keys }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("fleet.db")
    }

    fn open(&self) -> Ledger {
        Ledger::open(&self.path()).unwrap()
    }

    fn revoke(&self, ledger: &mut Ledger, task: &str) -> Result<(), Failed> {
        let target = Target::Task(task.parse().unwrap());
        let revocation = Revocation { target, until: Some(at(1000)), reason: "test".into(), life: None, device: None };
        let operator = self.keys.operator("ann");
        ledger.transact(|book, _, fx| revoke(book, revocation, operator, at(1), fx).map_err(Failed::from)).map(drop)
    }

    fn advance(&self, ledger: &mut Ledger, secs: u64) -> u64 {
        let signed = ledger
            .transact::<_, Failed>(|book, _, fx| Ok(publish::advance(book, &self.keys.feed, CADENCE, at(secs), fx)));
        signed.unwrap();
        ledger.book().first().head().unwrap().head.seq
    }
}

#[test]
fn what_one_process_writes_the_other_sees() {
    let world = World::new();
    let (mut serve, mut cli) = (world.open(), world.open());
    assert!(!serve.refresh().unwrap());
    world.revoke(&mut cli, "t-1").unwrap();
    assert_eq!(serve.book().rules().count(), 0);
    assert!(serve.refresh().unwrap());
    assert_eq!(serve.book().rules().count(), 1);
    assert!(!serve.refresh().unwrap());
}

#[test]
fn two_publishers_never_sign_one_number_twice() {
    let world = World::new();
    let (mut one, mut two) = (world.open(), world.open());
    world.revoke(&mut one, "t-1").unwrap();
    assert_eq!(world.advance(&mut one, 2), 2);
    assert_eq!(world.advance(&mut two, 2), 2, "it sees that the other was first");
    assert_eq!(world.advance(&mut two, 70), 3);
    assert_eq!(world.advance(&mut one, 70), 3);
    let digests = |ledger: &Ledger| ledger.book().first().head().unwrap().position.digest;
    assert_eq!(digests(&one), digests(&two));
}

#[test]
fn what_is_refused_leaves_nothing_behind() {
    let world = World::new();
    let mut ledger = world.open();
    let refused = ledger.transact(|book, _, fx| {
        publish::advance(book, &world.keys.feed, CADENCE, at(500), fx);
        Err::<(), Failed>(Failed::Asked)
    });
    assert!(refused.is_err());
    assert!(ledger.refresh().unwrap(), "the book is read again");
    assert_eq!(ledger.book().first().head().unwrap().head.seq, 1);
    assert_eq!(world.advance(&mut ledger, 500), 2);
}

#[test]
fn a_reopened_ledger_holds_the_same_book() {
    let world = World::new();
    let mut ledger = world.open();
    let device = DeviceKeys::generate(&mut ChaCha20Rng::from_seed([2; 32]));
    let request = EnrolRequest {
        device: "gw-07".parse().unwrap(),
        keys: device.public(),
        nonce: Nonce([1; 16]),
        profile: "p".into(),
    };
    let signed = request.sign(&device);
    let (code, operator) = (EnrolRequest::code(&signed), world.keys.operator("ann"));
    let approved = ledger
        .transact(|book, _, fx| approve(book, &signed, code, Replace::Keep, operator, at(3), fx).map_err(Failed::from));
    approved.unwrap();
    world.revoke(&mut ledger, "t-1").unwrap();
    world.advance(&mut ledger, 5);
    let again = world.open();
    assert_eq!(again.book().devices().collect::<Vec<_>>(), ledger.book().devices().collect::<Vec<_>>());
    assert_eq!(again.book().first().head(), ledger.book().first().head());
    assert_eq!(again.book().first().set(), ledger.book().first().set());
    assert_eq!(again.book().next_act(), ledger.book().next_act());
    let acts = again.acts().unwrap();
    assert_eq!(crate::fleet::acts::verify(again.book().trusts(), &acts).unwrap().len(), 3);
}

#[test]
fn acts_that_were_changed_dropped_or_forged_show() {
    let world = World::new();
    let mut ledger = world.open();
    world.revoke(&mut ledger, "t-1").unwrap();
    world.revoke(&mut ledger, "t-2").unwrap();
    let acts = ledger.acts().unwrap();
    let verify = |acts: &[Signed<Act>]| crate::fleet::acts::verify(ledger.book().trusts(), acts).map(|acts| acts.len());
    assert_eq!(verify(&acts), Ok(3));
    assert_eq!(verify(&acts[1..]).unwrap_err().0, 0, "the first is gone");
    let exchanged = [acts[0].clone(), acts[2].clone(), acts[1].clone()];
    assert_eq!(verify(&exchanged).unwrap_err().0, 1);
    let forged = Signed::sign(&acts[1].claim().unwrap(), ledger.book().fleet(), &[&world.keys.feed]);
    assert_eq!(verify(&[acts[0].clone(), forged]).unwrap_err().0, 1);
}

#[test]
fn a_newer_missing_or_damaged_ledger_is_refused_with_advice() {
    let world = World::new();
    let path = world.path();
    let missing = Ledger::open(&world.folder.path().join("other.db"));
    assert!(matches!(missing, Err(LedgerError::Missing(_))));
    assert!(matches!(Ledger::create(&path, &[]), Err(LedgerError::Exists(_))));
    let raw = Connection::open(&path).unwrap();
    world.revoke(&mut world.open(), "t-1").unwrap();
    world
        .open()
        .transact(|book, _, fx| Ok::<_, Failed>(publish::advance(book, &world.keys.feed, CADENCE, at(2), fx)))
        .unwrap();
    raw.execute("DELETE FROM book WHERE name LIKE 'set/%'", []).unwrap();
    assert!(
        matches!(Ledger::open(&path), Err(LedgerError::Broken(BrokenBook::Unsound { .. }))),
        "what was revoked is lost"
    );
    raw.execute("UPDATE book SET value = x'00' WHERE name LIKE 'head/%'", []).unwrap();
    assert!(matches!(Ledger::open(&path), Err(LedgerError::Damaged(_))));
    raw.execute("DELETE FROM book WHERE name LIKE 'bundle/%' OR name LIKE 'head/%'", []).unwrap();
    assert!(matches!(Ledger::open(&path), Err(LedgerError::Broken(BrokenBook::Missing(_)))));
    raw.pragma_update(None, "user_version", 1).unwrap();
    let older = Ledger::open(&path).err().unwrap();
    assert!(matches!(older, LedgerError::Older { found: 1, .. }));
    let text = older.to_string();
    assert!(text.contains("format 1") && text.contains("the older hardtack that made it"), "{text}");
    raw.pragma_update(None, "user_version", 0).unwrap();
    assert!(matches!(Ledger::open(&path), Err(LedgerError::Broken(BrokenBook::Missing("tables")))), "never made");
    raw.pragma_update(None, "user_version", -1).unwrap();
    assert!(matches!(Ledger::open(&path), Err(LedgerError::Older { found: -1, .. })), "nobody's, and no panic");
    raw.pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Ledger::open(&path), Err(LedgerError::Newer { found: 99, .. })));
    std::fs::write(world.folder.path().join("junk.db"), "not a database at all, not even a little").unwrap();
    assert!(matches!(Ledger::open(&world.folder.path().join("junk.db")), Err(LedgerError::Unreadable(_))));
}

/// A segment of decisions by these credentials, the first of them at `first_index`. The ledger looks at no signature.
fn decisions(device: &str, segment: u64, first_index: u64, credentials: &[Credential]) -> Write {
    let record = |(index, credential): (u64, &Credential)| {
        let decision = Decision {
            allow: true,
            reason: "allowed".into(),
            operation: "read".into(),
            resource: "modbus/a".into(),
            destination: None,
            risk: None,
            arguments: None,
            credential: credential.clone(),
            workload: Vec::new(),
            enforcer: Vec::new(),
            known: Known::default(),
        };
        Record { index, floor: at(1), powered: at(1), event: Event::Decision(Box::new(decision)) }
    };
    let records: Vec<Record> = (first_index..).zip(credentials).map(record).collect();
    let (leaves, root) = grow(&records);
    let header = SegmentHeader {
        device: device.parse().unwrap(),
        era: EraId { number: 1, salt: 7 },
        segment,
        first_index,
        count: records.len() as u32,
        previous: Hash::ZERO,
        root,
        closed_at: at(1),
        recovered: false,
        signer: None,
        feeds: Vec::new(),
        salvage: None,
    };
    let signed = Signed::sign(&header, &"acme".parse().unwrap(), &[]);
    Write::Segment(Box::new(Segment {
        device: header.device,
        era: header.era,
        segment,
        first_index,
        digest: signed.digest(),
        header: signed.to_bytes(),
        leaves,
        at: at(2),
        read: None,
    }))
}

#[test]
fn what_is_set_aside_stands_beside_the_trail_once_and_under_its_own_digest() {
    let world = World::new();
    let connection = connect(&world.path()).unwrap();
    let segment = |write: Write| match write {
        Write::Segment(segment) => segment,
        other => panic!("{other:?}"),
    };
    let first = segment(decisions("gw-07", 0, 0, &[Credential::Nothing]));
    let other = segment(decisions("gw-07", 0, 0, &[Credential::Nothing, Credential::Nothing]));
    let writes = [Write::Segment(first.clone()), Write::Aside(other.clone()), Write::Aside(other.clone())];
    store(&connection, 2, &writes).unwrap();
    let found = digests_of(&connection, &first.device, first.era, 0);
    assert_eq!(found, Digests { trail: Some(first.digest), aside: vec![other.digest] });
    assert_eq!(digests_of(&connection, &first.device, first.era, 1), Digests::default());
    let trail: i64 = connection.query_row("SELECT count(*) FROM records", [], |row| row.get(0)).unwrap();
    assert_eq!(trail, 1, "a record of another branch is none of the trail");
}

#[test]
fn whom_a_decision_is_attributed_to_is_found_in_its_own_era_whichever_commit_named_it() {
    let world = World::new();
    let connection = connect(&world.path()).unwrap();
    let named = |owner: &str, task: Option<&str>| {
        let (grant, task) = (GrantId([1; 16]), task.map(|task| task.parse().unwrap()));
        Credential::Named(Box::new(Named {
            owner: owner.into(),
            grant,
            task,
            chain: Vec::new(),
            step: None,
            initiator: None,
        }))
    };
    let same = Credential::Same;
    let first = [
        decisions("gw-07", 0, 0, &[named("ann", Some("t-1")), same(0), named("bob", None)]),
        decisions("gw-08", 0, 0, &[named("eve", Some("t-1")), same(0), same(9)]),
        decisions("gw-07", 1, 3, &[same(2), same(0), Credential::Nothing]),
    ];
    store(&connection, 2, &first).unwrap();
    store(&connection, 3, &[decisions("gw-08", 1, 3, &[same(0)]), decisions("gw-07", 2, 6, &[same(0)])]).unwrap();
    let mut statement =
        connection.prepare("SELECT device, idx, owner, task FROM records ORDER BY device, idx").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))).unwrap();
    let rows: Vec<(String, i64, Option<String>, Option<String>)> = rows.collect::<Result<_, _>>().unwrap();
    let expected = [
        ("gw-07", 0, Some("ann"), Some("t-1")),
        ("gw-07", 1, Some("ann"), Some("t-1")),
        ("gw-07", 2, Some("bob"), None),
        ("gw-07", 3, Some("bob"), None),
        ("gw-07", 4, Some("ann"), Some("t-1")),
        ("gw-07", 5, None, None),
        ("gw-07", 6, Some("ann"), Some("t-1")),
        ("gw-08", 0, Some("eve"), Some("t-1")),
        ("gw-08", 1, Some("eve"), Some("t-1")),
        ("gw-08", 2, None, None),
        ("gw-08", 3, Some("eve"), Some("t-1")),
    ];
    let told: Vec<_> = rows.iter().map(|row| (row.0.as_str(), row.1, row.2.as_deref(), row.3.as_deref())).collect();
    assert_eq!(told, expected);
}
