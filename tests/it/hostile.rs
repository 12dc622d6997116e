//! What hostile input is fed to: every parser, and an agent that hears what a broker makes up. The property tests and the
//! fuzz targets share it.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use ed25519_dalek::{Signer, SigningKey};
use hardtack::agent::clock::Between;
use hardtack::agent::effects::{Anchor, Entry, StateFile, StoredRecord, StoredSegment};
use hardtack::agent::emergency::Emergencies;
use hardtack::agent::enrol::accept;
use hardtack::agent::feed::StoredFeed;
use hardtack::agent::policy::Policy;
use hardtack::agent::request::{Authorize, BeginTask, Evidence, Mode, RequestId, Socket, StatusReply};
use hardtack::agent::revocation::Revocations;
use hardtack::agent::wallet::{StoredGrant, StoredLoss, StoredTask};
use hardtack::agent::{self, Agent, Boot, Effects, Input, LinkEvent, Now};
use hardtack::config::BrokerUrl;
use hardtack::fleet::acts::Act;
use hardtack::fleet::proposal::words;
use hardtack::ids::{
    BlockId, BootId, DeviceId, EraId, FeedId, FleetId, GrantId, GroupId, Hash, KeyId, Nonce, RiskClass, TaskClass,
    TaskId,
};
use hardtack::mcp::guard::{Asked, FromClient, FromServer, Guard, Permit, Ruling, TOKEN_FIELD};
use hardtack::mcp::message::{read, Message};
use hardtack::mcp::sse::{Cutter, Event};
use hardtack::profile::{kind_of, unsourced, Overlay, Profile};
use hardtack::time::Millis;
use hardtack::wire::audit::segment::{grow, Delivery, SegmentHeader};
use hardtack::wire::audit::{leaf, Record, RECORD_BYTES_MAX};
use hardtack::wire::biscuit;
use hardtack::wire::bundle::{Fingerprint, TrustBundle};
use hardtack::wire::enrol::{Code, DeviceKeys, EnrolAnswer, EnrolBundle, EnrolRequest};
use hardtack::wire::envelope::{Document, Signed};
use hardtack::wire::identity::{
    read_key_set, verify, Claimed, DocumentType, IdentityIssuer, IdentityKey, VerifyingKey,
};
use hardtack::wire::link::{Ack, Answer, Hello, Reply, Request, State, Topic};
use hardtack::wire::policy::{PolicyDocument, TimeClass};
use hardtack::wire::proposal::{Proposal, Proposed};
use hardtack::wire::revocation::announcement::{Announcement, Head, Snapshot};
use hardtack::wire::revocation::carry::Carried;
use hardtack::wire::revocation::emergency::{Emergency, Rules};
use hardtack::wire::revocation::fingerprints::{file, FingerprintKey, Salt, Width};
use hardtack::wire::revocation::golomb::{Coded, Stream, Word};
use hardtack::wire::revocation::manifest::{Manifest, Piece};
use hardtack::wire::revocation::rules::Selector;
use hardtack::wire::revocation::serials::SerialBucket;
use hardtack::wire::revocation::set::{PartKey, RevocationSet, Revoked};
use hardtack::wire::revocation::slot::Slot;
use hardtack::wire::seal::Sealed;
use hardtack::wire::time::{TimeFile, TimeReset, TimeStatement};
use hardtack::wire::token::{canonical, from_text, Held, Reach};
use hardtack::wire::{decode, encode, Refused, MESSAGE_BYTES_MAX};

use crate::samples::{right, rng, World, ISSUED, NOW};

/// Everything that takes bytes takes these. What comes out does not matter; that something does, does.
pub(crate) fn bytes(world: &World, bytes: &[u8]) {
    fn document<T: Document>(bytes: &[u8]) {
        if let Ok(signed) = Signed::<T>::from_bytes(bytes) {
            let _ = (signed.claim(), signed.digest());
        }
    }
    document::<TrustBundle>(bytes);
    document::<PolicyDocument>(bytes);
    document::<Head>(bytes);
    document::<SegmentHeader>(bytes);
    document::<Hello>(bytes);
    document::<Ack>(bytes);
    document::<Request>(bytes);
    document::<Answer>(bytes);
    document::<State>(bytes);
    document::<EnrolRequest>(bytes);
    document::<EnrolBundle>(bytes);
    document::<Act>(bytes);
    document::<Emergency>(bytes);
    document::<TimeReset>(bytes);
    document::<TimeStatement>(bytes);
    let _ = TimeFile::from_bytes(bytes);
    if let Ok(proposal) = Proposal::from_bytes(bytes) {
        assert_eq!(Proposal::from_bytes(&proposal.to_bytes()).as_ref(), Ok(&proposal));
        if let Ok(opened) = proposal.open() {
            let told = words(&opened);
            assert!(told.len() >= 2 && told.iter().all(|line| !line.contains(char::is_control)), "{told:?}");
        }
    }
    if let Ok(carried) = Carried::from_bytes(bytes) {
        assert_eq!(carried.to_bytes().as_deref(), Ok(bytes), "a file has one form");
    }
    let _ = (Announcement::from_bytes(bytes), Snapshot::from_bytes(bytes), Record::from_bytes(bytes));
    let _ = EnrolAnswer::from_bytes(bytes);
    let _ = Delivery::from_bytes(bytes).and_then(|delivery| delivery.open(&[]));
    let _ = leaf::read(&bytes.chunks(60).map(<[u8]>::to_vec).collect::<Vec<_>>(), 0..);
    let _ = decode::<Reply>(bytes, MESSAGE_BYTES_MAX);
    let _ = decode::<Anchor>(bytes, MESSAGE_BYTES_MAX);
    let _ = (decode::<StoredRecord>(bytes, MESSAGE_BYTES_MAX), decode::<StoredSegment>(bytes, MESSAGE_BYTES_MAX));
    let _ = (StoredGrant::from_file(bytes), StoredLoss::from_file(bytes), StoredTask::from_file(bytes));
    let _ = Emergencies::default().load(KeyId([0xab; 8]), bytes, None);
    let feed = "main".parse().unwrap();
    let mut revocations = Revocations::default();
    let _ = revocations.load(&feed, (bytes, None), &world.trust, (None, 0));
    let whole = StoredFeed::default().to_bytes();
    let _ = revocations.load(&feed, (&whole, Some(bytes)), &world.trust, (None, 0));
    let _ =
        (revocations.announce(&feed, bytes, &world.trust, Between::from(NOW)), revocations.rules(&feed, bytes, NOW));
    let _ = (revocations.snapshot(&feed, bytes, &world.trust, NOW), revocations.piece(&feed, bytes, NOW));
    let _ = (biscuit::decode(bytes, &world.profile.verify), world.admit(bytes).map(drop));
    if let Ok(held) = Held::from_bytes(bytes) {
        let _ = (held.chain(), held.to_bytes(), held.seal().map(drop));
    }
    let _ = (serde_json::from_slice::<Authorize>(bytes), serde_json::from_slice::<BeginTask>(bytes));
    revocation_sets(bytes);
    text(world, &String::from_utf8_lossy(bytes));
}

/// Leaves of an audit segment, each behind its length in two bytes. What is read says little more than the bytes that it
/// came in, and comes back from the leaves that a device would make of it.
pub(crate) fn leaves(data: &[u8]) {
    let (mut leaves, mut rest) = (Vec::new(), data);
    while let [low, high, tail @ ..] = rest {
        let (leaf, after) = tail.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(tail.len()));
        leaves.push(leaf.to_vec());
        rest = after;
    }
    let Ok(records) = leaf::read(&leaves, 7..) else { return };
    for record in &records {
        assert!(record.to_bytes().len() < 16 * RECORD_BYTES_MAX);
    }
    let (again, _) = grow(&records);
    if again.iter().all(|leaf| leaf.len() <= leaf::LEAF_BYTES_MAX) {
        assert_eq!(leaf::read(&again, 7..), Ok(records));
    }
}

/// Leaves as [`leaves`] takes them.
pub(crate) fn framed<L: AsRef<[u8]>>(leaves: impl IntoIterator<Item = L>) -> Vec<u8> {
    let frame = |leaf: &[u8]| [&(leaf.len() as u16).to_le_bytes()[..], leaf].concat();
    leaves.into_iter().flat_map(|leaf| frame(leaf.as_ref())).collect()
}

/// Anybody can seal to a device whatever he likes. What opens these bytes afterwards says what is wrong with them, or
/// gives what would be sealed again.
pub(crate) fn sealed(world: &World, plaintext: &[u8]) {
    let (request, key) = world.request();
    let seal = |recipient, purpose, context: &[u8]| {
        Sealed::seal(plaintext, recipient, purpose, context, &mut rng(6)).expect("a usable key")
    };
    let sealed = seal(&request.reply_to, "hardtack/answer/v1", &request.nonce.0);
    let answer = Answer { device: world.device.clone(), nonce: request.nonce, sealed };
    match answer.open(&key) {
        Ok(reply) => {
            let again = Answer::seal(&request, &reply, &mut rng(6)).expect("a usable key");
            assert_eq!(again.open(&key), Ok(reply));
        }
        Err(refused) => assert!(matches!(refused, Refused::Malformed(_) | Refused::TooLarge { .. }), "{refused}"),
    }
    let sealed = seal(&world.keys.public().sealing, "hardtack/enrol/v1", world.fleet.as_str().as_bytes());
    let answer = EnrolAnswer { fleet: world.fleet.clone(), sealed };
    let nonce = world.enrol_request().nonce;
    match answer.open(&world.keys, &world.trust.fingerprint(), nonce) {
        Ok(opened) => assert_eq!(opened, (world.enrol_bundle(), world.trust.clone())),
        Err(refused) => assert_ne!(refused, Refused::CannotOpen),
    }
}

fn emergency() -> Emergency {
    Emergency {
        key: KeyId([0xab; 8]),
        counter: 3,
        issued_at: ISSUED,
        bundle_version: 2,
        rules: Rules::new("stolen", [(Selector::task("t-1"), ISSUED), (Selector::All, ISSUED)]).unwrap(),
    }
}

/// One valid example of everything that is sealed.
pub(crate) fn plaintexts(world: &World) -> Vec<Vec<u8>> {
    vec![
        encode(&Reply::Task(world.task())),
        encode(&Reply::Grants(vec![world.grant(), world.grant()])),
        encode(&Reply::Refused("no grant covers it".into())),
        world.sign(&world.enrol_bundle()).to_bytes(),
    ]
}

/// Every reader of revocation sets. What one takes, it takes as the only bytes that say it.
pub(crate) fn revocation_sets(bytes: &[u8]) {
    const BYTES_MAX: usize = 64 * 1024;
    if let Ok(set) = RevocationSet::from_bytes(bytes, BYTES_MAX) {
        assert_eq!(set.to_bytes(), bytes);
        let manifest = Manifest::of(&set);
        assert_eq!(set.since(&set), RevocationSet::default());
        assert_eq!(set.merge(&set), Ok(set.clone()));
        for entry in set.enumerate().take(1000) {
            match entry {
                Revoked::Rule(selector, until) => {
                    assert_eq!(set.covers_by_rule([selector], ISSUED, until), Some(selector));
                }
                Revoked::Exact(block, slot) => assert!(set.covers_block(slot, &block)),
                Revoked::Serial(slot, serial) => assert!(set.covers_serial(slot, serial)),
                Revoked::Fingerprint(key, number) => {
                    assert!(set.fingerprint_buckets(key.slot).any(|(_, bucket)| bucket.contains(number)));
                }
            }
        }
        for part in manifest.parts() {
            let piece = manifest.piece(&set, part.key, 0).expect("every part has a piece").to_bytes();
            assert!(Piece::from_bytes(&piece).unwrap().verify(&manifest.root()).is_ok());
        }
    }
    if let Ok(rules) = Rules::try_from(bytes.to_vec()) {
        assert_eq!(Vec::from(rules.clone()), bytes);
        assert_eq!(Rules::of(rules.declared().cloned()), Ok(rules));
    }
    if let Ok(manifest) = Manifest::from_bytes(bytes) {
        assert_eq!(manifest.to_bytes(), bytes);
        let _ = manifest.root();
    }
    if let Ok(piece) = Piece::from_bytes(bytes) {
        assert_eq!(piece.to_bytes(), bytes);
        assert!(piece.verify(&Hash::ZERO).is_err());
    }
    // A universe, a count, and what is said to be the code of so many numbers below it.
    if let Some(([power, odd, low, high], code)) = bytes.split_first_chunk() {
        let universe = (1_u128 << (power % 97)).saturating_sub(u128::from(*odd)).max(1);
        let count = u32::from(u16::from_le_bytes([*low, *high]));
        golomb::<u32>(universe, count, code);
        golomb::<u64>(universe, count, code);
        golomb::<u128>(universe, count, code);
    }
}

fn golomb<W: Word>(universe: u128, count: u32, bytes: &[u8]) {
    let streamed = Stream::<W>::new(universe, count, bytes).and_then(|stream| stream.collect::<Result<Vec<_>, _>>());
    let coded = Coded::<W>::decode(universe, count, bytes);
    assert_eq!(coded.clone().map(|coded| coded.iter().collect::<Vec<_>>()), streamed);
    if let (Ok(coded), Ok(values)) = (coded, streamed) {
        assert!(values.iter().all(|value| coded.contains(*value)));
        assert_eq!(Coded::encode(universe, values.into_iter()).as_bytes(), bytes);
    }
}

pub(crate) fn text(world: &World, text: &str) {
    both_ways::<DeviceId>(text);
    both_ways::<FleetId>(text);
    both_ways::<FeedId>(text);
    both_ways::<GroupId>(text);
    both_ways::<TaskClass>(text);
    both_ways::<TaskId>(text);
    both_ways::<RiskClass>(text);
    both_ways::<BlockId>(text);
    both_ways::<BootId>(text);
    both_ways::<GrantId>(text);
    both_ways::<Hash>(text);
    both_ways::<Nonce>(text);
    both_ways::<Code>(text);
    both_ways::<Fingerprint>(text);
    both_ways::<BrokerUrl>(text);
    let _ = text.parse::<TimeClass>();
    let _ = (canonical(text).is_ok(), Reach::of(&right(text, "read")).is_ok(), from_text(text, 4096));
    let _ = (Topic::parse(text, &world.fleet), StateFile::parse(text), kind_of("x.toml", text), unsourced(text));
    if let Ok(profile) = Profile::parse("x.toml", text) {
        let _ = profile.problems();
    }
    if let (Ok(overlay), profile) = (Overlay::parse("x.toml", text), Profile::default()) {
        let _ = profile.with(&overlay).problems();
    }
    let _ = read_key_set(text.as_bytes());
    for form in [DocumentType::Oidc, DocumentType::JwtSvid] {
        assert!(verify(form, text, &world.trust.identities).is_err(), "nobody is believed: {text}");
    }
    let document = PolicyDocument { datalog: text.to_owned(), ..PolicyDocument::built_in(ISSUED) };
    let _ = Policy::parse(document).map(drop);
}

/// What a client, a server and a stream of events say to a proxy for tools. What is read is written so that it reads the same, as
/// is all that passes; a credential goes no further; what is asked about is the server's own.
pub(crate) fn tool_messages(bytes: &[u8]) {
    let again = |message: &Message| assert_eq!(read(&message.to_bytes()).as_ref(), Ok(message));
    let guard = Guard::new("files", [Permit::Sampling].into()).expect("a name");
    let message = match read(bytes) {
        Ok(message) => message,
        Err(fault) => return again(&fault.answer()),
    };
    again(&message);
    let is_ours = |resource: &str| resource.starts_with("mcp/files/");
    match guard.from_client(message.clone()).1 {
        FromClient::Answer(answer) => again(&answer),
        FromClient::Drop => {}
        FromClient::Pass(passed) => has_no_credential(&passed),
        FromClient::Ask(asked) => {
            assert!(is_ours(&asked.question.resource), "{asked:?}");
            has_no_credential(&asked.message);
            refused(asked).iter().for_each(again);
        }
    }
    match guard.from_server(message) {
        FromServer::Drop => {}
        FromServer::Pass(passed) | FromServer::Refuse(passed) => again(&passed),
        FromServer::List(list) => {
            let questions = list.questions().len();
            assert!(list.questions().iter().all(|question| is_ours(&question.resource)), "{list:?}");
            let (all, none) = (list.clone().keep(&vec![true; questions]), list.clone().keep(&[]));
            assert!(none.to_bytes().len() <= all.to_bytes().len());
            [all, none, list.unknown("nobody answers")].iter().for_each(again);
        }
    }
}

fn has_no_credential(message: &Message) {
    let (Message::Notification { params, .. } | Message::Request { params, .. }) = message else { return };
    let meta = params.as_ref().and_then(|params| params.get("_meta"));
    assert!(meta.is_none_or(|meta| meta.get(TOKEN_FIELD).is_none()), "{message:?}");
    assert_eq!(read(&message.to_bytes()).as_ref(), Ok(message));
}

fn refused(asked: Asked) -> Option<Message> {
    let (reason, explain) = ("no_right".into(), "no right covers it".into());
    asked.refused(&Ruling { allowed: false, reason, explain, decision_id: None, expires_in_s: None })
}

/// A stream of events, whole and in pieces: it is cut the same, and what was cut is written so that it is cut the same.
pub(crate) fn events(stream: &[u8], pieces: usize) {
    let cut = |stream: &[u8], pieces: usize| {
        let mut cutter = Cutter::new(256);
        let mut all = Vec::new();
        for piece in stream.chunks(pieces.max(1)) {
            match cutter.feed(piece) {
                Ok(events) => all.extend(events),
                Err(why) => return (all, Some(why)),
            }
        }
        (all, None)
    };
    let (whole, why) = cut(stream, 1);
    let (coarse, coarse_why) = cut(stream, pieces);
    assert_eq!(why, coarse_why, "what is wrong is wrong in any pieces");
    // What comes in the piece in which something is wrong is not passed on.
    assert!(whole.starts_with(&coarse) && (why.is_some() || whole == coarse), "{whole:?} and {coarse:?}");
    for event in &whole {
        let mut larger = Cutter::new(2048);
        assert_eq!(larger.feed(&Event::to_bytes(event)), Ok(vec![event.clone()]));
    }
}

/// A provider and a trust domain that are believed, and their keys' secret halves.
pub(crate) struct Believed {
    issuers: Vec<IdentityIssuer>,
    keys: [SigningKey; 2],
}

impl Believed {
    pub(crate) fn new() -> Self {
        let keys = [31, 32].map(|seed| SigningKey::from_bytes(&[seed; 32]));
        let issuer = |(name, key): (&str, &SigningKey)| IdentityIssuer {
            name: name.into(),
            audiences: vec!["gw".into()],
            keys: vec![IdentityKey { kid: "k".into(), key: VerifyingKey::EdDsa(key.verifying_key().into()) }],
        };
        let issuers = ["https://id.example", "spiffe://acme.example"].into_iter().zip(&keys).map(issuer).collect();
        Self { issuers, keys }
    }

    /// A document with whatever header and claims, signed by the one and by the other.
    pub(crate) fn signed(&self, header: &[u8], claims: &[u8]) -> [String; 2] {
        let parts = [header, claims].map(|part| BASE64URL_NOPAD.encode(part)).join(".");
        let sign =
            |key: &SigningKey| format!("{parts}.{}", BASE64URL_NOPAD.encode(&key.sign(parts.as_bytes()).to_bytes()));
        [sign(&self.keys[0]), sign(&self.keys[1])]
    }

    /// Whatever an issuer signs is taken as what he may say, or refused. What one signs says nothing of the other's.
    pub(crate) fn documents(&self, header: &[u8], claims: &[u8]) {
        for (signed, own) in self.signed(header, claims).iter().zip(&self.issuers) {
            for form in [DocumentType::Oidc, DocumentType::JwtSvid] {
                match self.verify(form, signed) {
                    Ok(claimed) => {
                        assert_eq!((&claimed.issuer, form), (&own.name, own.document_type()), "{signed}");
                        let plain = !claimed.subject.is_empty() && !claimed.subject.contains(char::is_control);
                        assert!(plain && claimed.subject.len() <= 255, "{claimed:?}");
                    }
                    Err(why) => assert!(!why.is_empty() && !why.contains(char::is_control), "{why:?}"),
                }
            }
        }
    }

    /// What a document says, or why it is refused.
    pub(crate) fn verify(&self, form: DocumentType, document: &str) -> Result<Claimed, String> {
        verify(form, document, &self.issuers).map_err(|fault| fault.detail)
    }

    /// One that each gives out: header and claims.
    pub(crate) const DOCUMENTS: [(&'static str, &'static str); 2] = [
        (
            r#"{"alg":"EdDSA","kid":"k","typ":"JWT"}"#,
            r#"{"iss":"https://id.example","sub":"ann","aud":["gw","x"],"iat":1772323200,"nbf":1772323200,"exp":1772323500}"#,
        ),
        (
            r#"{"alg":"EdDSA"}"#,
            r#"{"sub":"spiffe://acme.example/planner","aud":"gw","exp":1772323500,"more":{"a":[1,2.5,null,true]}}"#,
        ),
    ];
}

/// One of each kind of message that a proxy for tools meets.
pub(crate) const TOOL_MESSAGES: [&str; 7] = [
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"path":"/a"},"_meta":{"hardtack/token":"aGk"}}}"#,
    r#"{"jsonrpc":"2.0","id":"a","method":"resources/read","params":{"uri":"file:///srv/a"}}"#,
    r#"{"jsonrpc":"2.0","id":2,"method":"initialize","params":{"capabilities":{"sampling":{},"roots":{}}}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"x"},{"name":"y"},{}],"prompts":[{"name":"p"}],"resources":[{"uri":"urn:x"}]}}"#,
    r#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"m"}}"#,
    r#"{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{}}"#,
];

/// A stream of events.
pub(crate) const STREAM: &str =
    ": hello\n\nid: 1\nevent: message\ndata: {\"a\":\ndata: 1}\n\nretry: 50\r\ndata:x\r\n\r\rdata\r\r";

/// What is read from a text is written as a text that reads the same. What is not read says why.
pub(crate) fn both_ways<T: FromStr<Err: Display> + Display + Debug + PartialEq>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => assert!(value.to_string().parse::<T>().is_ok_and(|again| again == value), "{text:?}: {value:?}"),
        Err(why) => assert!(why.to_string().len() > 10, "{text:?}: {why}"),
    }
}

fn time_reset(world: &World) -> TimeReset {
    TimeReset { device: world.device.clone(), nonce: Nonce([7; 16]), time: NOW, radius_ms: Millis(100) }
}

/// A set with something of everything.
fn revocation_set() -> RevocationSet {
    let slot = Slot::of(ISSUED, NOW);
    let block = |number: u8| BlockId([number; 32]);
    let key = FingerprintKey { slot, width: Width::Bits96, salt: Salt([3; 16]) };
    let filed = file(&key, (0..20).map(block), (20..30).map(block)).unwrap();
    let mut set = RevocationSet::default();
    set.add_rule(Selector::device("gw-07"), NOW);
    set.add_exact(block(1), slot);
    set.add_serials(slot, SerialBucket::new(200, [3, 70, 71, 199]).unwrap());
    set.add_fingerprints(key, filed.bucket.unwrap()).unwrap();
    set
}

/// One valid example of everything that is bytes.
pub(crate) fn examples(world: &World) -> Vec<Vec<u8>> {
    let revocations = revocation_set();
    let manifest = Manifest::of(&revocations);
    let code = Coded::encode(1 << 20, [5_u32, 70_000, 900_000].into_iter());
    vec![
        revocations.to_bytes(),
        manifest.to_bytes(),
        manifest.piece(&revocations, PartKey::Rules, 0).unwrap().to_bytes(),
        [&[20, 0, 3, 0], code.as_bytes()].concat(),
        world.sign(&world.trust).to_bytes(),
        world.sign(&PolicyDocument::built_in(ISSUED)).to_bytes(),
        world.sign(&world.head()).to_bytes(),
        Delivery::Open(world.upload().0).to_bytes(),
        world.sign(&world.hello()).to_bytes(),
        world.sign(&world.ack()).to_bytes(),
        world.sign(&world.request().0).to_bytes(),
        world.sign(&world.answer()).to_bytes(),
        world.sign(&world.state()).to_bytes(),
        world.enrol_request().sign(&world.keys).to_bytes(),
        world.enrol_answer().to_bytes(),
        world.sign(&world.enrol_bundle()).to_bytes(),
        TimeFile::Reset(world.sign(&time_reset(world))).to_bytes(),
        proposal(world).to_bytes(),
        world.sign(&emergency()).to_bytes(),
        world.announcement().to_bytes(),
        world.snapshot().to_bytes(),
        world.grant(),
        world.task(),
        br#"{"token":"aGk","operation":"read","resource":"modbus/1","risk":"high"}"#.to_vec(),
        br#"{"task":"pump","rights":[{"resource":"modbus/*","action":"read"}],"ttl_s":60}"#.to_vec(),
    ]
}

/// The next trust bundle, for the root key to sign.
fn proposal(world: &World) -> Proposal {
    let next = TrustBundle { version: 2, ..world.trust.clone() };
    let proposed = Proposed::Bundle { next: world.sign(&next), compromised: false };
    Proposal { vouchers: vec![world.sign(&world.trust)], proposed }
}

/// Topics that a broker may speak on, some of which no device listens to.
pub(crate) const TOPICS: [&str; 12] = [
    "hardtack/1/acme/bundle/1",
    "hardtack/1/acme/bundle/2",
    "hardtack/1/acme/policy/1",
    "hardtack/1/acme/policy/2",
    "hardtack/1/acme/feed/main/head",
    "hardtack/1/acme/feed/main/snap/0/0",
    "hardtack/1/acme/feed/main/snap/0/7",
    "hardtack/1/acme/feed/other/head",
    "hardtack/1/acme/dev/gw-07/down/ack",
    "hardtack/1/acme/dev/gw-07/down/answer",
    "hardtack/1/acme/dev/gw-08/down/ack",
    "hardtack/1/other/bundle/2",
];

/// Records that anything a broker says can lead to: a few for what is new in it, one for each kind of refusal. A record
/// is flash that wears and a place in a queue that is full some day, so that they are never the broker's to spend.
const RECORDS_MAX: u64 = 64;

/// How much time goes by between two inputs.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// Milliseconds, as of a flood.
    Flood,
    /// A quarter of a second.
    Slow,
}

/// An agent hears messages from a broker that has no key, but may replay and change what it saw. The agent goes on, is
/// never `online`, lowers no position, numbers what it writes down without a hole, and writes little.
pub(crate) fn messages(world: &World, messages: &[(String, Vec<u8>)], pace: Pace) {
    let mut device = Device::start(world);
    device.pace = pace;
    let before = device.status();
    device.input(Input::Link(LinkEvent::Connected));
    for (topic, payload) in messages {
        device.input(Input::Link(LinkEvent::Message { topic: topic.clone(), payload: payload.clone() }));
        device.input(Input::Deadline);
    }
    device.input(Input::Link(LinkEvent::Disconnected { reason: "cut".into() }));
    let after = device.status();
    assert!(after.feed_seq >= before.feed_seq && after.bundle_version >= before.bundle_version);
    assert!(after.policy_version >= before.policy_version && after.floor >= before.floor);
    assert!(device.records <= RECORDS_MAX, "{} records of {} messages", device.records, messages.len());
}

/// An enrolled agent whose disk takes everything.
struct Device {
    agent: Agent,
    now: Now,
    next_index: Option<(EraId, u64)>,
    records: u64,
    pace: Pace,
}

impl Device {
    fn start(world: &World) -> Self {
        let profile = world.profile.clone();
        let request = world.enrol_bundle().nonce;
        let fingerprint = world.trust.fingerprint();
        let accepted =
            accept(&world.enrol_answer(), &world.keys, &world.device, &fingerprint, request, &profile, None).unwrap();
        let boot = Boot {
            fleet: accepted.fleet,
            device: world.device.clone(),
            keys: DeviceKeys::from_bytes(&world.keys.to_bytes()),
            profile,
            seed: [1; 32],
            boot: BootId([1; 16]),
            anchor: accepted.batch.anchor.map(|anchor| *anchor),
            files: accepted.batch.files.into_iter().map(|write| (write.file, write.content)).collect(),
            eras: Vec::new(),
            used_bytes: 0,
        };
        let now = Now { boottime: Millis(1000), wall: None };
        let (agent, effects) = Agent::start(boot, now).unwrap();
        let mut device = Self { agent, now, next_index: None, records: 0, pace: Pace::Slow };
        device.commit(effects);
        device
    }

    fn input(&mut self, input: Input) -> Vec<agent::request::Reply> {
        let step = match self.pace {
            Pace::Flood => 5,
            Pace::Slow => 250,
        };
        self.now.boottime = Millis(self.now.boottime.0 + step);
        let mut effects = Effects::default();
        self.agent.handle(input, self.now, &mut effects);
        let replies = self.commit(effects);
        assert_ne!(self.agent.mode(), Mode::Online);
        replies
    }

    fn commit(&mut self, effects: Effects) -> Vec<agent::request::Reply> {
        let outgoing = effects.commit(|batch| {
            if let Some(era) = batch.begin_era {
                self.next_index = Some((era, 0));
            }
            for entry in batch.entries {
                if let Entry::Record(record) = entry {
                    let (era, index) = self.next_index.expect("an era before its records");
                    assert_eq!((record.era, record.index), (era, index));
                    self.next_index = Some((era, index + 1));
                    self.records += 1;
                }
            }
            Ok::<(), ()>(())
        });
        let now = self.now.boottime;
        outgoing.unwrap().replies.into_iter().map(|answer| answer.at(now).1).collect()
    }

    fn status(&mut self) -> StatusReply {
        let evidence = Evidence::of(Socket::Admin, 0, 0);
        let id = RequestId(1);
        let replies = self.input(Input::Request { id, evidence, request: agent::request::Request::Status });
        match replies.as_slice() {
            [agent::request::Reply::Status(status)] => (**status).clone(),
            other => panic!("{other:?}"),
        }
    }
}
