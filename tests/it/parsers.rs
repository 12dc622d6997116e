//! Every parser meets hostile bytes: random ones, valid ones that were changed, valid ones that were cut. None panics, and
//! no changed document is taken for what was signed.

use std::fmt::Debug;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::{array, io};

use hardtack::agent::request::Authorize;
use hardtack::config::{Config, Flags, Sources, User};
use hardtack::ids::{BlockId, DeviceId, FleetId, Nonce};
use hardtack::profile::{Profile, SHIPPED};
use hardtack::shell::broker::dynsec::complaints;
use hardtack::shell::fleet_dir::{FleetDir, FleetToml};
use hardtack::shell::keys::DeviceKeyFile;
use hardtack::shell::mqtt::BrokerUrl;
use hardtack::wire::audit::segment::Delivery;
use hardtack::wire::biscuit;
use hardtack::wire::bundle::Fingerprint;
use hardtack::wire::enrol::{Code, DeviceKeys, EnrolAnswer, EnrolRequest};
use hardtack::wire::envelope::{Document, Signed};
use hardtack::wire::identity::DocumentType;
use hardtack::wire::link::{Answer, Topic};
use hardtack::wire::policy::{PolicyDocument, BUILT_IN};
use hardtack::wire::revocation::announcement::{Announcement, Snapshot};
use hardtack::wire::revocation::manifest::Manifest;
use hardtack::wire::token::{from_text, to_text};
use hardtack::wire::{decode, encode, Refused, MESSAGE_BYTES_MAX};
use proptest::prelude::*;
use proptest::sample::Index;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use crate::hostile::{self, Believed, Pace};
use crate::samples::{World, ISSUED};

mod cli;
mod feed;
mod ledger;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// One change to a string of bytes.
#[derive(Clone, Debug)]
enum Edit {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    Repeat(Index, u8),
    Truncate(Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        2 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        1 => (any::<Index>(), prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        1 => (any::<Index>(), 1..40_u8).prop_map(|(at, count)| Edit::Remove(at, count)),
        1 => (any::<Index>(), 1..40_u8).prop_map(|(at, count)| Edit::Repeat(at, count)),
        1 => any::<Index>().prop_map(Edit::Truncate),
    ]
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    prop::collection::vec(edit(), 1..4)
}

fn apply(bytes: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for edit in edits {
        let len = bytes.len();
        if len == 0 {
            break;
        }
        match edit {
            Edit::Flip(at, bit) => bytes[at.index(len)] ^= 1 << bit,
            Edit::Set(at, byte) => bytes[at.index(len)] = *byte,
            Edit::Insert(at, new) => drop(bytes.splice(at.index(len)..at.index(len), new.iter().copied())),
            Edit::Remove(at, count) => drop(bytes.drain(at.index(len)..len.min(at.index(len) + usize::from(*count)))),
            Edit::Repeat(at, count) => {
                let end = len.min(at.index(len) + usize::from(*count));
                let part = bytes[at.index(len)..end].to_vec();
                drop(bytes.splice(end..end, part));
            }
            Edit::Truncate(at) => bytes.truncate(at.index(len)),
        }
    }
    bytes
}

/// One valid example of everything that is text.
fn texts() -> Vec<String> {
    let mut texts: Vec<String> = SHIPPED.iter().map(|shipped| shipped.text.to_owned()).collect();
    texts.push(BUILT_IN.to_owned());
    texts.push("check if time($t), $t <= 2026-03-08T00:00:00Z; allow if {\"a\", \"b\"}.contains(\"a\");".into());
    texts.extend(
        ["gw-07", "hardtack/1/acme/feed/main/snap/exact/3", "wallet/task-t-1", "mqtts://[2001:db8::1]:8883"]
            .map(str::to_owned),
    );
    texts.push(World::new().trust.fingerprint().to_string());
    texts
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn random_bytes_are_refused_in_peace(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        hostile::bytes(&World::new(), &bytes);
        let _ = complaints(&bytes);
    }

    /// Short strings of few different bytes get further into a set than long ones of any.
    #[test]
    fn what_is_taken_as_revocations_has_one_form(
        bytes in prop::collection::vec(prop_oneof![0..4_u8, any::<u8>()], 0..60), which in 0..4_usize, edits in edits(),
    ) {
        hostile::revocation_sets(&bytes);
        hostile::revocation_sets(&[&[1], &bytes[..]].concat());
        hostile::revocation_sets(&apply(&hostile::examples(&World::new())[which], &edits));
    }

    #[test]
    fn random_text_is_refused_in_peace(text in "\\PC{0,200}") {
        hostile::text(&World::new(), &text);
        hostile::both_ways::<BrokerUrl>(&text);
    }

    #[test]
    fn names_numbers_and_codes_go_both_ways(
        name in "[a-zA-Z0-9][a-zA-Z0-9._-]{0,60}",
        digits in "[0-9a-fA-F]{16}|[0-9a-fA-F]{32}|[0-9a-fA-F]{64}",
        code in "([a-zA-Z2-7]{4}[ -]?){4}|([a-zA-Z2-7]{4}[ -]?){8}",
        url in "mqtts?://([a-z0-9._-]{1,12}|\\[([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}\\])(:[0-9]{1,6})?",
    ) {
        for text in [&name, &digits, &code, &url] {
            hostile::text(&World::new(), text);
        }
        hostile::both_ways::<BrokerUrl>(&url);
        prop_assert_eq!(name.parse::<DeviceId>().is_ok(), name.len() <= 48);
        prop_assert_eq!(digits.parse::<Nonce>().is_ok(), digits.len() == 32);
        prop_assert_eq!(digits.parse::<BlockId>().is_ok(), digits.len() == 64);
        let letters = code.chars().filter(char::is_ascii_alphanumeric).count();
        prop_assert_eq!(code.parse::<Code>().is_ok(), letters == 16);
        prop_assert_eq!(code.parse::<Fingerprint>().is_ok(), letters == 32);
    }

    /// What the broker's plugin answers, and where a broker is.
    #[test]
    fn changed_answers_and_addresses_of_a_broker_are_read_in_peace(edits in edits()) {
        let answer = br#"{"responses":[{"command":"createClient","error":"Client already exists"}]}"#;
        let _ = complaints(&apply(answer, &edits));
        let address = apply(b"mqtts://broker.example:8883", &edits);
        hostile::both_ways::<BrokerUrl>(&String::from_utf8_lossy(&address));
    }

    #[test]
    fn changed_examples_are_taken_or_refused_in_peace(which in any::<Index>(), edits in edits()) {
        let world = World::new();
        let examples = hostile::examples(&world);
        hostile::bytes(&world, &apply(&examples[which.index(examples.len())], &edits));
    }

    #[test]
    fn whatever_was_sealed_is_taken_or_refused_in_peace(
        which in any::<Index>(),
        edits in edits(),
        random in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let world = World::new();
        let examples = hostile::plaintexts(&world);
        hostile::sealed(&world, &apply(&examples[which.index(examples.len())], &edits));
        hostile::sealed(&world, &random);
    }

    #[test]
    fn changed_text_is_taken_or_refused_in_peace(which in any::<Index>(), edits in edits()) {
        let changed = apply(which.get(texts().as_slice()).as_bytes(), &edits);
        hostile::text(&World::new(), &String::from_utf8_lossy(&changed));
    }
}

/// Opens a changed document: an error, or exactly what was signed. (Bytes that mean the same may be written in more than
/// one way, and a stranger may add a signature that nobody knows; neither changes what is signed.)
#[track_caller]
fn check_unforgeable<T: Document + PartialEq + Debug>(world: &World, document: &T, edits: &[Edit]) {
    let changed = apply(&world.sign(document).to_bytes(), edits);
    let key = world.fleet_key.verifying_key();
    if let Ok(opened) = Signed::<T>::from_bytes(&changed).and_then(|signed| signed.open(&world.fleet, [&key], 1)) {
        assert_eq!(opened, *document);
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn no_changed_document_passes_for_another(edits in edits()) {
        let world = World::new();
        check_unforgeable(&world, &world.trust, &edits);
        check_unforgeable(&world, &PolicyDocument::built_in(ISSUED), &edits);
        check_unforgeable(&world, &world.head(), &edits);
        check_unforgeable(&world, &world.hello(), &edits);
        check_unforgeable(&world, &world.ack(), &edits);
        check_unforgeable(&world, &world.request().0, &edits);
        check_unforgeable(&world, &world.answer(), &edits);
        check_unforgeable(&world, &world.state(), &edits);
        check_unforgeable(&world, &world.upload().1, &edits);
        check_unforgeable(&world, &world.enrol_bundle(), &edits);
    }

    #[test]
    fn no_changed_segment_list_or_answer_passes_for_another(edits in edits()) {
        let world = World::new();
        let (upload, header) = world.upload();
        let bytes = Delivery::Open(upload.clone()).to_bytes();
        if let Ok(changed) = Delivery::from_bytes(&apply(&bytes, &edits)).and_then(|changed| changed.open(&[])) {
            let audit = world.audit.verifying_key();
            if let Ok(opened) = changed.header.open(&world.fleet, [&audit], 1) {
                prop_assert_eq!(&opened, &header);
                if changed.check(&opened).is_ok() {
                    prop_assert_eq!(&changed.leaves, &upload.leaves);
                }
            }
        }

        let (feed, keys) = ("main".parse().unwrap(), world.trust.feed_keys(&"main".parse().unwrap()));
        if let Ok(changed) = Announcement::from_bytes(&apply(&world.announcement().to_bytes(), &edits)) {
            if let Ok(believed) = changed.open(&feed, &world.fleet, keys.clone()) {
                prop_assert_eq!((believed.head, believed.additions), (world.head(), world.set()));
            }
        }
        if let Ok(changed) = Snapshot::from_bytes(&apply(&world.snapshot().to_bytes(), &edits)) {
            if let Ok(believed) = changed.open(&feed, &world.fleet, keys) {
                prop_assert_eq!(believed.manifest, Manifest::of(&world.set()));
            }
        }

        let (nonce, fingerprint) = (world.enrol_bundle().nonce, world.trust.fingerprint());
        if let Ok(changed) = EnrolAnswer::from_bytes(&apply(&world.enrol_answer().to_bytes(), &edits)) {
            if let Ok((bundle, trust)) = changed.open(&world.keys, &fingerprint, nonce) {
                prop_assert_eq!((bundle, trust), (world.enrol_bundle(), world.trust.clone()));
            }
        }

        if let Ok(request) = Signed::from_bytes(&apply(&world.enrol_request().sign(&world.keys).to_bytes(), &edits)) {
            if let Ok(opened) = EnrolRequest::open(&request) {
                prop_assert_eq!(opened, world.enrol_request());
            }
        }
    }

    /// As above, without the signature that a changed answer breaks first.
    #[test]
    fn no_changed_ciphertext_opens_as_another(edits in edits()) {
        let world = World::new();
        let (answer, key) = (world.answer(), world.request().1);
        if let Ok(changed) = decode::<Answer>(&apply(&encode(&answer), &edits), MESSAGE_BYTES_MAX) {
            match changed.open(&key) {
                Ok(reply) => prop_assert_eq!(Ok(reply), answer.open(&key)),
                Err(refused) => prop_assert_eq!(refused, Refused::CannotOpen),
            }
        }
    }

    #[test]
    fn no_changed_token_states_anything_else(edits in edits()) {
        let world = World::new();
        for original in [world.grant(), world.task()] {
            if let Ok(verified) = world.admit(&apply(&original, &edits)) {
                let known = biscuit::decode(&original, &world.profile.verify).unwrap();
                prop_assert_eq!(&verified.token.blocks, &known.blocks);
                let ids = verified.biscuit.revocation_identifiers();
                let ids: Vec<BlockId> = ids.iter().map(|id| BlockId::of_signature(id)).collect();
                prop_assert_eq!(ids, verified.chain().copied().collect::<Vec<_>>());
            }
        }
    }

    /// Text of few different bytes gets further than any.
    #[test]
    fn what_a_proxy_for_tools_hears_passes_as_it_was_read_or_not_at_all(
        which in any::<Index>(), edits in edits(), pieces in 1..40_usize,
        text in "\\{(\"(jsonrpc|id|method|params|result|error)\":(\"2.0\"|1|null|\\{\\}|\"tools/call\"|\\{\"name\":\"a\"\\}),?){0,6}\\}",
        stream in "((data|event|id|retry|x)(: ?[a1]{0,3})?(\r|\n|\r\n)|\r|\n){0,30}",
    ) {
        let message = hostile::TOOL_MESSAGES[which.index(hostile::TOOL_MESSAGES.len())].as_bytes();
        for input in [message, &apply(message, &edits), text.as_bytes()] {
            hostile::tool_messages(input);
        }
        for input in [hostile::STREAM.as_bytes(), &apply(hostile::STREAM.as_bytes(), &edits), stream.as_bytes()] {
            hostile::events(input, pieces);
        }
    }

    #[test]
    fn whatever_an_issuer_signs_says_who_somebody_is_or_nothing(
        which in 0..2_usize, of_header in edits(), of_claims in edits(),
        claims in "\\{(\"(iss|sub|aud|exp|iat|nbf)\":(\"https://id.example\"|\"gw\"|1772323500|1e400|null|\\[\"gw\"\\]),?){0,6}\\}",
    ) {
        let believed = Believed::new();
        let (header, own) = Believed::DOCUMENTS[which];
        believed.documents(header.as_bytes(), &apply(own.as_bytes(), &of_claims));
        believed.documents(&apply(header.as_bytes(), &of_header), own.as_bytes());
        believed.documents(header.as_bytes(), claims.as_bytes());
    }

    #[test]
    fn no_changed_identity_document_passes_for_another(which in 0..2_usize, edits in edits()) {
        let believed = Believed::new();
        let (header, claims) = Believed::DOCUMENTS[which];
        let signed = &believed.signed(header.as_bytes(), claims.as_bytes())[which];
        let form = [DocumentType::Oidc, DocumentType::JwtSvid][which];
        let original = believed.verify(form, signed);
        prop_assert!(original.is_ok(), "{:?}", original);
        let changed = String::from_utf8_lossy(&apply(signed.as_bytes(), &edits)).into_owned();
        if let Ok(claimed) = believed.verify(form, &changed) {
            prop_assert_eq!(Ok(claimed), original);
        }
    }

    #[test]
    fn what_a_topic_reads_it_writes(
        shape in any::<Index>(),
        name in "[a-z0-9+#$.-]{0,6}",
        number in "[0-9+-]{1,4}",
    ) {
        let shapes = [
            format!("bundle/{number}"),
            format!("policy/{number}"),
            format!("feed/{name}/head"),
            format!("feed/{name}/snap/rules/{number}"),
            format!("dev/{name}/up/hello"),
            format!("dev/{name}/state"),
            format!("enrol/{name}/down"),
        ];
        let fleet: FleetId = "acme".parse().unwrap();
        let text = format!("hardtack/1/acme/{}", shapes[shape.index(shapes.len())]);
        if let Some(topic) = Topic::parse(&text, &fleet) {
            prop_assert_eq!(topic.text(&fleet), text);
        }
    }

    #[test]
    fn an_agent_survives_a_broker_that_replays_and_changes(
        heard in prop::collection::vec((0..hostile::TOPICS.len(), any::<Index>(), prop::option::of(edits())), 1..24),
    ) {
        let world = World::new();
        let examples = hostile::examples(&world);
        let message = |(topic, which, edits): &(usize, Index, Option<Vec<Edit>>)| {
            let example = &examples[which.index(examples.len())];
            (hostile::TOPICS[*topic].to_owned(), edits.as_ref().map_or(example.clone(), |edits| apply(example, edits)))
        };
        hostile::messages(&world, &heard.iter().map(message).collect::<Vec<_>>(), Pace::Slow);
    }

    #[test]
    fn token_text_goes_both_ways(bytes in prop::collection::vec(any::<u8>(), 1..300)) {
        prop_assert_eq!(from_text(&to_text(&bytes), 4096), Ok(bytes));
    }

    #[test]
    fn any_numbers_of_a_profile_are_judged_without_overflow(numbers in prop::collection::vec(number(), 60)) {
        let mut numbers = numbers.into_iter().cycle();
        let line = |line: &str| match line.split_once('=') {
            Some((key, value)) if value.trim().starts_with(|c: char| c.is_ascii_digit()) => {
                format!("{key} = {}", numbers.next().unwrap_or(0))
            }
            _ => line.to_owned(),
        };
        let text: Vec<String> = SHIPPED[0].text.lines().map(line).collect();
        if let Ok(profile) = Profile::parse("x.toml", &text.join("\n")) {
            let _ = (profile.problems(), profile.flash_bytes_per_day(), profile.rss_mib());
        }
    }

    #[test]
    fn any_configuration_is_taken_or_refused_in_peace(edits in edits(), env in prop::collection::vec("\\PC{0,30}", 8)) {
        const TEXT: &str = "state_dir = '/s'\nprofile = 'generic-x86_64'\n[broker]\nurls = ['mqtt://a']\nca = 'ca.pem'\n";
        let names: [&str; 8] = [
            "HOME", "XDG_STATE_HOME", "HARDTACK_CONFIG", "HARDTACK_PROFILE", "HARDTACK_OVERLAY", "HARDTACK_BROKER",
            "HARDTACK_LOG_LEVEL", "HARDTACK_LOG_FORMAT",
        ];
        // The function that reads files cannot carry the text, so the text travels in the name of the file.
        fn read(path: &Path) -> io::Result<String> {
            path.to_str().and_then(|text| text.strip_prefix("text:")).map(str::to_owned).ok_or(io::ErrorKind::NotFound.into())
        }
        let text = String::from_utf8_lossy(&apply(TEXT.as_bytes(), &edits)).into_owned();
        let flags = Flags { config: Some(format!("text:{text}").into()), ..Flags::default() };
        for chosen in [&[] as &[usize], &[0, 1], &[3], &[4], &[5], &[6, 7]] {
            let env = chosen.iter().map(|i| (names[*i].to_owned(), env[*i].clone())).collect();
            let _ = Config::load(&Sources { flags: flags.clone(), env, user: User::Ordinary, read });
        }
        let all = names.iter().zip(&env).map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let _ = Config::load(&Sources { flags: Flags::default(), env: all, user: User::Root, read });
    }
}

proptest! {
    #![proptest_config(cases(64))]

    /// Whatever stands in a folder's own files, reading them ends in an answer.
    #[test]
    fn changed_files_of_keys_and_folders_are_taken_or_refused_in_peace(edits in edits()) {
        let folder = tempfile::tempdir().unwrap();
        let (state, fleet) = (folder.path().join("state"), folder.path().join("fleet"));
        private_folder(&state);
        let keys = DeviceKeys::generate(&mut ChaCha20Rng::from_seed([1; 32]));
        let file = DeviceKeyFile { device: "gw-07".parse().unwrap(), nonce: Nonce([1; 16]), used: None, keys };
        file.create(&state).unwrap();
        let made = FleetDir::create(&fleet, FleetToml::new("acme".parse().unwrap(), &[])).unwrap();
        drop(made);
        for path in [state.join("device.key"), fleet.join("fleet.toml")] {
            let changed = apply(&std::fs::read(&path).unwrap(), &edits);
            std::fs::write(&path, changed).unwrap();
        }
        let _ = DeviceKeyFile::read(&state);
        let _ = FleetDir::open(&fleet).map(|fleet| fleet.toml().settings());
    }
}

fn private_folder(path: &Path) {
    std::fs::DirBuilder::new().mode(0o700).create(path).unwrap();
}

/// A number that is small, huge, or anything.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..10_u64, 0..100_000_u64, any::<u64>().prop_map(|n| n >> 1), Just(i64::MAX as u64), 0..256_u64]
}

/// Thousands of messages on hundreds of topics, each wrong in a way of its own, within a minute.
#[test]
fn a_flood_of_hostile_messages_costs_a_handful_of_records() {
    let world = World::new();
    let examples = hostile::examples(&world);
    let topic = |n: usize| match n % 8 {
        0 => format!("hardtack/1/acme/bundle/{n}"),
        1 => format!("hardtack/1/acme/policy/{n}"),
        2 => format!("hardtack/1/acme/feed/f{n}/head"),
        3 => format!("hardtack/1/acme/feed/main/skip/1/{n}"),
        4 => format!("hardtack/1/acme/dev/gw-{n}/down/ack"),
        5 => format!("hardtack/1/acme/dev/gw-07/up/x{n}"),
        6 => format!("hardtack/1/other-{n}/bundle/2"),
        _ => hostile::TOPICS[n / 8 % hostile::TOPICS.len()].to_owned(),
    };
    let payload = |n: usize| {
        let mut payload = examples[n % examples.len()].clone();
        let at = n * 31 % payload.len();
        payload[at] ^= 1 << (n % 8);
        payload
    };
    let flood: Vec<_> = (0..4000).map(|n| (topic(n), payload(n))).collect();
    hostile::messages(&world, &flood, Pace::Flood);
}

#[test]
fn nothing_that_is_cut_short_is_taken() {
    let world = World::new();
    for example in hostile::examples(&world) {
        for len in 0..example.len() {
            hostile::bytes(&world, &example[..len]);
        }
    }
    for plaintext in hostile::plaintexts(&world) {
        // Each is sealed and opened twice: some places will do.
        for len in (0..plaintext.len()).step_by(plaintext.len().div_ceil(150)) {
            hostile::sealed(&world, &plaintext[..len]);
        }
    }
    for token in [world.grant(), world.task()] {
        for len in 0..token.len() {
            assert!(world.admit(&token[..len]).is_err(), "{len} of {} bytes", token.len());
        }
    }
}

#[test]
fn a_token_with_any_flipped_bit_states_nothing_new() {
    let world = World::new();
    let token = world.task();
    let known = biscuit::decode(&token, &world.profile.verify).unwrap();
    for bit in 0..token.len() * 8 {
        let mut changed = token.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        if let Ok(verified) = world.admit(&changed) {
            assert_eq!(verified.token.blocks, known.blocks, "bit {bit}");
        }
    }
}

#[test]
fn a_deep_or_endless_text_does_not_exhaust_the_stack() {
    let world = World::new();
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(20_000), close.repeat(20_000));
    hostile::text(&world, &format!("a = {}", deep("[", "]")));
    hostile::text(&world, &format!("a = {}", deep("{a=", "}")));
    hostile::text(&world, &deep("[a.", "]"));
    let json = format!("{{\"token\":{}}}", deep("[", "]"));
    assert!(serde_json::from_str::<Authorize>(&json).is_err());
    let endless: [u8; 4096] = array::from_fn(|_| 0xff);
    hostile::bytes(&world, &endless);
}
