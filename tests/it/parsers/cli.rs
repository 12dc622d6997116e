//! Command lines that hold anything: each argument is taken, or refused with its name and the reason.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::ArgMatches;
use hardtack::cli::command;
use hardtack::time::Timestamp;
use proptest::prelude::*;
use proptest::sample::{select, Index};

use super::{apply, cases, edits};

/// A valid line of every command that takes arguments. Each value that is a hole for others stands behind `=`, or between
/// angle brackets.
const LINES: &[&str] = &[
    "--config=c --state-dir=s --run-dir=r --output=json status",
    "agent run --profile=generic-x86_64 --overlay=o --broker=mqtts://a --log-level=debug --log-format=text",
    "agent time import <file>",
    "audit verify <f> --key=gw-07=d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
    "authorize --token=t --operation=read --resource=meter/1 --risk=high --destination=there",
    "broker check --dir=d --url=mqtts://[2001:db8::1]:8883",
    "broker config --dir=d --host=a.example,10.0.0.1 --port=8883 --service-port=8884 --days=90 --plugin=p",
    "enrol import <file> --fleet=AAAA-BBBB",
    "enrol request --id=gw-07 --out=f",
    "fleet --dir=d --operator=ann audit list --device=gw-07 --limit=50 --kind=decision",
    "fleet audit export --device=gw-07",
    "fleet audit prove <gw-07/1/2> --out=o --salt=fedcba9876543210",
    "fleet device approve <file> --code=AAAA-BBBB --out=o --replace",
    "fleet device pending <gw-07> --out=o",
    "fleet device retire <gw-07> --reason=sold",
    "fleet device show <gw-07>",
    "fleet grant create --device=gw-07 --may-begin=unix:uid:1001=pump --right=pump:write:opc/ns=2:s=x --offline-max=72h \
     --uses-max=1000 --boots-max=20 --task-ttl-max=15m --expires=30d --owner=ops@acme --staleness-max=high=1h \
     --min-time-class=strict --once",
    "fleet grant list --device=gw-07 --all",
    "fleet grant withdraw <42424242424242424242424242424242> --reason=moved",
    "fleet init <d> --name=acme --broker=mqtt://b:1883 --feed=main --no-passphrase",
    "fleet issue --device=gw-07 --class=pump --selector=unix:uid:1001 --right=write:modbus/pump1 --ttl=1h30m --uses=4 --task=t-2",
    "fleet policy set <file>",
    "fleet publish --broker=mqtts://b --after=7",
    "fleet revoke all --reason=lost --expires=30d --dry-run",
    "fleet revoke audience <pumps>",
    "fleet revoke block <0505050505050505050505050505050505050505050505050505050505050505>",
    "fleet revoke device <gw-07>",
    "fleet revoke grant <42424242424242424242424242424242>",
    "fleet revoke group <pumps>",
    "fleet revoke issued-before <2026-03-01T00:00:00Z>",
    "fleet revoke owner <ops@acme>",
    "fleet revoke root-key <1>",
    "fleet revoke task <t-2>",
    "fleet revoke token <t> --first",
    "fleet serve --broker=mqtts://b.example",
    "fleet time export --out=f",
    "fleet time reset --device=gw-07 --nonce=07070707070707070707070707070707 --out=f",
    "profile lint <f> --overlay=o",
    "profile show <generic-x86_64>",
    "task begin <pump> --right=read:meter/* --ttl=15m --uses=3 --reason=test",
    "task finish <t-1>",
    "token attenuate <t> --ttl=90s --check=x",
    "token inspect <t>",
    "token verify <t> --root=ab --at=2026-03-01T00:00:00.5Z",
];

/// A word of a line: what stands before the hole, and what the hole holds.
fn hole(word: &str) -> Option<(&str, &str)> {
    match word.strip_prefix('<') {
        Some(value) => Some(("", value.trim_end_matches('>'))),
        None => word
            .starts_with("--")
            .then(|| word.split_at(word.find('=').map_or(word.len(), |at| at + 1)))
            .filter(|(_, value)| !value.is_empty()),
    }
}

/// The words of a line, with `other` in its hole of this number.
fn words(line: &str, number: Option<usize>, other: &[u8]) -> Vec<OsString> {
    let mut holes = 0..;
    let fill = |word: &str| match hole(word) {
        Some((before, value)) => {
            let value = if holes.next() == number { other } else { value.as_bytes() };
            OsString::from_vec([before.as_bytes(), value].concat())
        }
        None => word.into(),
    };
    std::iter::once("hardtack".into()).chain(line.split_whitespace().map(fill)).collect()
}

fn holes(line: &'static str) -> Vec<(&'static str, &'static str)> {
    line.split_whitespace().filter_map(hole).collect()
}

/// The innermost subcommand's arguments.
fn leaf(matches: &ArgMatches) -> &ArgMatches {
    matches.subcommand().map_or(matches, |(_, inner)| leaf(inner))
}

#[test]
fn a_valid_line_of_every_command_is_taken() {
    for line in LINES {
        command().try_get_matches_from(words(line, None, b"")).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

/// Values for a hole: what it may hold, changed, and anything.
#[derive(Clone, Debug)]
enum Other {
    Any(Vec<u8>),
    Changed(Vec<super::Edit>),
    OfAnotherHole(Index, Index),
}

fn other() -> impl Strategy<Value = Other> {
    prop_oneof![
        4 => edits().prop_map(Other::Changed),
        1 => prop::collection::vec(any::<u8>(), 0..100).prop_map(Other::Any),
        1 => "\\PC{0,60}".prop_map(|text| Other::Any(text.into_bytes())),
        1 => "[0-9]{1,25}(ns|ms|s|m|h|d|w|y|years)?".prop_map(|text| Other::Any(text.into_bytes())),
        2 => (any::<Index>(), any::<Index>()).prop_map(|(line, hole)| Other::OfAnotherHole(line, hole)),
    ]
}

proptest! {
    #![proptest_config(cases(1024))]

    #[test]
    fn any_argument_is_taken_or_refused_with_its_name_and_a_reason(
        line in select(LINES.to_vec()),
        place in any::<Index>(),
        other in other(),
    ) {
        let holes_here = holes(line);
        let number = place.index(holes_here.len());
        let (before, value) = holes_here[number];
        let other = match other {
            Other::Any(bytes) => bytes,
            Other::Changed(edits) => apply(value.as_bytes(), &edits),
            Other::OfAnotherHole(line, hole) => hole.get(&holes(line.get::<&str>(LINES))).1.as_bytes().to_vec(),
        };
        if let Err(error) = command().try_get_matches_from(words(line, Some(number), &other)) {
            prop_assert!(!error.to_string().trim().is_empty());
            // Of what stands behind its name, nothing is taken for another argument.
            if !before.is_empty() {
                let kinds = [ErrorKind::InvalidUtf8, ErrorKind::InvalidValue, ErrorKind::ValueValidation];
                prop_assert!(kinds.contains(&error.kind()), "{:?}: {}", error.kind(), error);
            }
            if error.kind() == ErrorKind::ValueValidation {
                let name = match error.get(ContextKind::InvalidArg) {
                    Some(ContextValue::String(name)) => name.clone(),
                    other => panic!("{other:?}"),
                };
                prop_assert!(name.contains(before.trim_end_matches('=')), "{}", name);
                let reason = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                prop_assert!(reason.len() > 10 && reason.len() < 300 + 6 * other.len(), "{}", reason);
            }
        }
    }

    #[test]
    fn any_words_are_a_command_or_refused(picked in prop::collection::vec((any::<Index>(), any::<Index>(), other()), 0..12)) {
        let word = |(line, word, other): &(Index, Index, Other)| match other {
            Other::Any(bytes) => OsString::from_vec(bytes.clone()),
            Other::Changed(edits) => OsString::from_vec(apply(b"--device=gw-07", edits)),
            Other::OfAnotherHole(..) => {
                let words: Vec<&str> = line.get::<&str>(LINES).split_whitespace().collect();
                word.get(&words).into()
            }
        };
        let line = std::iter::once("hardtack".into()).chain(picked.iter().map(word));
        if let Err(error) = command().try_get_matches_from(line) {
            prop_assert!(!error.to_string().trim().is_empty());
        }
    }
}

proptest! {
    #![proptest_config(cases(128))]

    #[test]
    fn a_time_is_read_as_it_is_written(secs in 0..Timestamp::MAX.0 / 1000, ms in 0..1000_u64, offset in "[+-][0-9]{2}:[0-9]{2}") {
        let at = |text: &str| {
            let read = |line: &str, id: &str| {
                let matches = command().try_get_matches_from(words(line, Some(0), text.as_bytes()));
                matches.map(|matches| leaf(&matches).get_one::<Timestamp>(id).copied())
            };
            let before = read("fleet revoke issued-before <t>", "time");
            let verified = read("token verify t --root r --at=t", "at");
            assert_eq!(before.is_ok(), verified.is_ok(), "{text}");
            before.ok().inspect(|before| assert_eq!(Some(*before), verified.ok())).flatten()
        };
        let time = Timestamp::from_secs(secs);
        let (whole, utc) = (time.to_string(), offset == "+00:00");
        let bare = whole.trim_end_matches('Z');
        prop_assert_eq!(at(&whole), Some(time));
        prop_assert_eq!(at(&format!("{bare}+00:00")), Some(time));
        prop_assert_eq!(at(&format!("{bare}.{ms:03}Z")), Some(Timestamp(time.0 + ms)));
        // An offset that is not understood is not passed over.
        prop_assert_eq!(at(&format!("{bare}{offset}")).is_some(), utc);
        prop_assert_eq!(at(&format!("{bare}.{ms:03}{offset}")).is_some(), utc);
    }
}
