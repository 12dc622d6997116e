//! `hardtack token`: look into, narrow and verify any Biscuit, without an agent; what an agent sealed, it narrows itself.
//!
//! Owns: reading a token argument, what of a token is shown, the verdict of `verify`.
//! Never: prints through the library, whose printer panics on hostile tokens. Decides: a check that asks about a
//! request is listed, not judged.
//! Read next: `../wire/biscuit.rs`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use biscuit_auth::error::{Format as FormatError, Token as TokenError};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::client::{names_socket, post};
use super::output::{print, show, Format};
use super::{Exit, Failure, Globals};
use crate::agent::request::{Attenuate, AttenuatedReply};
use crate::ids::unhex;
use crate::profile::VerifyLimits;
use crate::shell::{clock, entropy};
use crate::time::{Millis, Timestamp};
use crate::wire::biscuit::{decode, Check, Defect, Term, TimeBound, Token};
use crate::wire::bundle::PublicKey;
use crate::wire::token::{from_text, further_block, to_text, verify_with, Held};
use crate::wire::Refused;

/// The most bytes of a token here. A device's profile admits far fewer.
const TOKEN_BYTES_MAX: usize = 64 * 1024;

/// `hardtack token …`.
#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    /// Add a block that only narrows, and print the token
    Attenuate(AttenuateArgs),
    /// Show what stands in a token, without verifying it
    Inspect {
        /// The token: a file, @FILE, `-` for stdin, or the token's text
        token: String,
    },
    /// Check a token's signatures and its bounds on time
    Verify(VerifyArgs),
}

/// Arguments of `hardtack token attenuate`.
#[derive(Args, Debug)]
pub struct AttenuateArgs {
    /// The token: a file, @FILE, `-` for stdin, or the token's text
    token: String,
    /// How long it may be used from now on
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// A check in Datalog, for example: check if operation("read"). May be repeated
    #[arg(long = "check", value_name = "DATALOG")]
    checks: Vec<String>,
    /// Ask the running agent, which narrows what it sealed itself. HARDTACK_SOCKET in the environment asks it for sealed tokens too
    #[arg(long)]
    agent: bool,
}

/// Arguments of `hardtack token verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The token: a file, @FILE, `-` for stdin, or the token's text
    token: String,
    /// The root's public key: 64 hexadecimal digits, with or without ed25519/ before them, or @FILE
    #[arg(long, value_name = "PUB")]
    root: String,
    /// The time to verify at, RFC 3339; now if it is left out
    #[arg(long, value_name = "TIME", value_parser = point_in_time)]
    at: Option<Timestamp>,
}

/// A time argument: RFC 3339, in UTC.
pub(super) fn point_in_time(text: &str) -> Result<Timestamp, String> {
    let bad = |why: String| format!("{why}: write it in UTC, for example 2026-03-01T00:00:00Z");
    // The parser looks at no offset that stands behind a fraction of a second.
    if text.contains('+') && !text.ends_with("+00:00") {
        return Err(bad("a time with an offset".into()));
    }
    let parsed = humantime::parse_rfc3339_weak(text).map_err(|error| bad(error.to_string()))?;
    let since = parsed.duration_since(UNIX_EPOCH).map_err(|_| bad("a time before 1970".into()))?;
    u64::try_from(since.as_millis()).map(Timestamp).map_err(|error| bad(error.to_string()))
}

/// Runs it.
///
/// # Errors
/// What is wrong with the token or the arguments.
pub fn run(command: TokenCommand, globals: &Globals) -> Result<Exit, Failure> {
    match command {
        TokenCommand::Attenuate(args) => attenuate(&args, globals),
        TokenCommand::Inspect { token } => inspect(&token, globals),
        TokenCommand::Verify(args) => verify(&args, globals),
    }
}

/// The text of a token argument: `-` is stdin, `@FILE` and the name of a file that is there are its content, and
/// anything else is the token itself. What it says is for others to judge.
///
/// # Errors
/// When it cannot be read.
pub fn token_argument(argument: &str) -> Result<String, Failure> {
    let unreadable = |path: &Path, error| {
        let what = format!("cannot read the token from {}: {error}", path.display());
        Failure::new(Exit::Usage, what, "name a file, `-` for stdin, or give the token's text")
    };
    let bytes = match argument.strip_prefix('@').map(PathBuf::from) {
        None if argument == "-" => {
            read_bounded(std::io::stdin().lock()).map_err(|error| unreadable(Path::new("stdin"), error))?
        }
        // No token has such a sign in it: a file is meant, or none of both.
        None if !Path::new(argument).is_file() && !argument.contains(['/', '.']) => argument.as_bytes().to_vec(),
        path => {
            let path = path.unwrap_or_else(|| argument.into());
            let file = std::fs::File::open(&path).map_err(|error| unreadable(&path, error))?;
            read_bounded(file).map_err(|error| unreadable(&path, error))?
        }
    };
    // A file may hold a Biscuit's bytes as other tools write them.
    Ok(match String::from_utf8(bytes) {
        // Other libraries pad, and here a person may paste what they print.
        Ok(text) => text.trim().trim_end_matches('=').to_owned(),
        Err(raw) => to_text(raw.as_bytes()),
    })
}

fn read_bounded(reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // Text is a third longer than the bytes; one more shows that it is too much.
    reader.take(2 * TOKEN_BYTES_MAX as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn token_bytes(argument: &str) -> Result<Vec<u8>, Failure> {
    let text = token_argument(argument)?;
    from_text(&text, TOKEN_BYTES_MAX).map_err(|refused| {
        let told = format!("no token: {refused}");
        if matches!(refused, Refused::TooLarge { .. }) {
            too_much(told)
        } else {
            invalid(told)
        }
    })
}

/// What no device would take either, whatever it says.
fn too_much(what: String) -> Failure {
    Failure::new(Exit::Denied, what, "ask for a smaller token")
}

fn invalid(what: String) -> Failure {
    Failure::new(Exit::Invalid, what, "ask for a fresh token from where it came from")
}

/// What a person may look at. Nothing is evaluated.
fn limits() -> VerifyLimits {
    let device = crate::profile::Profile::default().verify;
    VerifyLimits {
        token_bytes_max: TOKEN_BYTES_MAX,
        blocks_max: 1024,
        facts_max: usize::MAX,
        rules_max: usize::MAX,
        checks_max: usize::MAX,
        expression_ops_max: usize::MAX,
        join_cost_max: u64::MAX,
        ..device
    }
}

/// What stands in a token; nothing is verified.
pub(super) fn parsed(bytes: &[u8]) -> Result<Token, Failure> {
    decode(bytes, &limits()).map_err(|defect| match &defect {
        Defect::Malformed(_) => invalid(format!("malformed: {defect}")),
        Defect::TooLarge(_) => too_much(format!("too_large: {defect}")),
        Defect::TooComplex(_) => too_much(format!("too_complex: {defect}")),
        Defect::WrongAlgorithm => invalid(format!("wrong_algorithm: {defect}")),
    })
}

#[derive(Serialize)]
struct Inspection {
    root_key_id: Option<u32>,
    sealed: bool,
    bytes: usize,
    verified: bool,
    blocks: Vec<InspectedBlock>,
}

#[derive(Serialize)]
struct InspectedBlock {
    revocation_id: String,
    third_party: bool,
    facts: Vec<String>,
    rules: Vec<String>,
    checks: Vec<String>,
}

fn inspect(argument: &str, globals: &Globals) -> Result<Exit, Failure> {
    let bytes = token_bytes(argument)?;
    let token = parsed(&bytes)?;
    let blocks = token.blocks.iter().map(|block| InspectedBlock {
        revocation_id: block.id.to_string(),
        third_party: block.third_party,
        facts: block.facts.iter().map(|fact| fact_text(&fact.name, &fact.terms)).collect(),
        rules: block.rule_heads.iter().map(|head| format!("{head}(…) <- …")).collect(),
        checks: block.checks.iter().map(check_text).collect(),
    });
    let inspection = Inspection {
        root_key_id: token.root_key_id,
        sealed: token.sealed,
        bytes: bytes.len(),
        verified: false,
        blocks: blocks.collect(),
    };
    show(globals.output, &inspection, |inspection| {
        let root = inspection.root_key_id.map_or("not named".to_owned(), |id| id.to_string());
        let sealed = if inspection.sealed { "sealed" } else { "can be narrowed further" };
        let mut lines = vec![format!("not verified; {} bytes, root key {root}, {sealed}", inspection.bytes)];
        for (index, block) in inspection.blocks.iter().enumerate() {
            let third_party = if block.third_party { ", signed by a third party" } else { "" };
            lines.push(format!("block {index}  revocation id {}{third_party}", block.revocation_id));
            let statements = block.facts.iter().chain(&block.rules).chain(&block.checks);
            lines.extend(statements.map(|statement| format!("  {statement};")));
        }
        lines.join("\n")
    })?;
    Ok(Exit::Done)
}

/// Text of a token goes to a terminal, so it is escaped: no control character gets through.
fn fact_text(name: &str, terms: &[Term]) -> String {
    let term = |term: &Term| match term {
        Term::Date(secs) => Timestamp::from_secs(*secs).to_string(),
        Term::Integer(number) => number.to_string(),
        Term::Other => "…".into(),
        Term::Text(text) => format!("{text:?}"),
        Term::Variable(number) => format!("${number}"),
    };
    format!("{}({})", name.escape_debug(), terms.iter().map(term).collect::<Vec<_>>().join(", "))
}

fn check_text(check: &Check) -> String {
    match check {
        Check::Other(asks) => {
            let asks: Vec<String> = asks.iter().map(|name| name.escape_debug().to_string()).collect();
            format!("check if … about {}", asks.join(", "))
        }
        Check::Time(alternatives) => {
            let all = |bounds: &Vec<TimeBound>| bounds.iter().map(bound_text).collect::<Vec<_>>().join(", ");
            format!("check if {}", alternatives.iter().map(all).collect::<Vec<_>>().join(" or "))
        }
    }
}

fn bound_text(bound: &TimeBound) -> String {
    let date = |secs: &u64| Timestamp::from_secs(*secs);
    match bound {
        TimeBound::At(secs) => format!("time is {}", date(secs)),
        TimeBound::From(secs) => format!("time >= {}", date(secs)),
        TimeBound::Until(secs) => format!("time <= {}", date(secs)),
    }
}

fn attenuate(args: &AttenuateArgs, globals: &Globals) -> Result<Exit, Failure> {
    if args.ttl.is_none() && args.checks.is_empty() {
        return Err(Failure::new(Exit::Usage, "nothing to narrow", "give --ttl, --check, or both"));
    }
    let bytes = token_bytes(&args.token)?;
    let sealed = parsed(&bytes)?.sealed;
    if args.agent || (sealed && names_socket()) {
        return attenuate_by_agent(args, &bytes, globals);
    }
    if sealed {
        let advice = "if an agent handed it out, ask that with --agent; else ask for another where it came from";
        return Err(Failure::new(Exit::Failure, "the token is sealed: nobody can narrow it any more", advice));
    }
    let mut checks = args.checks.clone();
    if let Some(ttl) = args.ttl {
        let now = clock::wall().ok_or_else(|| {
            Failure::new(Exit::TimeUntrusted, "the system clock stands before 1970", "set it, or use --check instead")
        })?;
        let ends = now + Millis(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        if ends >= Timestamp::MAX {
            return Err(Failure::new(Exit::Usage, "--ttl reaches past the year 9999", "give a shorter one"));
        }
        checks.push(format!("check if time($time), $time <= {ends}"));
    }
    let block = further_block(&checks, None).map_err(|what| {
        Failure::new(Exit::Usage, format!("--check {what}"), r#"write it as Datalog: check if operation("read")"#)
    })?;
    let narrowed = Held::from_bytes(&bytes)
        .and_then(|token| token.append(block, &mut entropy::rng()))
        .and_then(|token| Ok((token.to_bytes()?, token.chain())))
        .map_err(|refused: Refused| invalid(format!("cannot narrow the token: {refused}")))?;
    let (bytes, chain) = narrowed;
    let token = to_text(&bytes);
    match globals.output {
        Format::Human => print(&token)?,
        Format::Json => {
            let block = chain.last().map(ToString::to_string);
            let value = serde_json::json!({"token": token, "revocation_id": block, "bytes": bytes.len()});
            print(&value.to_string())?;
        }
    }
    Ok(Exit::Done)
}

fn attenuate_by_agent(args: &AttenuateArgs, bytes: &[u8], globals: &Globals) -> Result<Exit, Failure> {
    let ttl_s = args.ttl.map(|ttl| ttl.as_secs().max(1));
    let request = Attenuate { token: to_text(bytes), ttl_s, checks: args.checks.clone(), scope: Vec::new() };
    let narrowed: AttenuatedReply = post(globals, "/v1/attenuate", &request)?;
    show(globals.output, &narrowed, |narrowed| narrowed.token.clone())?;
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Verification {
    ok: bool,
    reason: &'static str,
    explain: String,
    at: String,
    chain: Vec<String>,
    /// Checks that only a request can tell.
    open_checks: Vec<String>,
}

fn verify(args: &VerifyArgs, globals: &Globals) -> Result<Exit, Failure> {
    let root = root_key(&args.root)?;
    let at = args.at.or_else(clock::wall).ok_or_else(|| {
        Failure::new(Exit::TimeUntrusted, "the system clock stands before 1970", "set it, or give --at")
    })?;
    let bytes = token_bytes(&args.token)?;
    let token = parsed(&bytes)?;
    verify_with(&bytes, &root).map_err(|error| unsigned(&error))?;
    let (exit, reason, explain) = in_time(&token, at);
    let open = token.blocks.iter().flat_map(|block| &block.checks);
    let open = open.filter(|check| matches!(check, Check::Other(_))).map(check_text);
    let verification = Verification {
        ok: exit == Exit::Done,
        reason,
        explain,
        at: at.to_string(),
        chain: token.blocks.iter().map(|block| block.id.to_string()).collect(),
        open_checks: open.collect(),
    };
    show(globals.output, &verification, |found| {
        let mut lines = vec![format!("{}  at {}", found.reason, found.at), found.explain.clone()];
        if !found.open_checks.is_empty() {
            lines.push("not judged, because only a request can tell:".into());
            lines.extend(found.open_checks.iter().map(|check| format!("  {check}")));
        }
        lines.join("\n")
    })?;
    Ok(exit)
}

fn unsigned(error: &TokenError) -> Failure {
    let signature = matches!(
        error,
        TokenError::Format(
            FormatError::Signature(_) | FormatError::SealedSignature | FormatError::InvalidSignatureSize(_)
        )
    );
    if signature {
        invalid("bad_signature: the token was changed, or another root signed it".into())
    } else {
        invalid(format!("malformed: {error}"))
    }
}

/// Whether the token's bounds on time hold at `at`, the first that does not first.
fn in_time(token: &Token, at: Timestamp) -> (Exit, &'static str, String) {
    let (now, checks) = (at.secs_floor(), token.blocks.iter().flat_map(|block| &block.checks));
    for check in checks {
        let Check::Time(alternatives) = check else { continue };
        if alternatives.iter().any(|bounds| bounds.iter().all(|bound| bound.holds(now))) {
            continue;
        }
        let text = check_text(check);
        let later = alternatives.iter().any(|bounds| {
            bounds.iter().all(|bound| match bound {
                TimeBound::At(date) | TimeBound::Until(date) => now <= *date,
                TimeBound::From(_) => true,
            })
        });
        return if later {
            (Exit::Denied, "not_yet_valid", format!("the signatures fit; too early for: {text}"))
        } else {
            (Exit::Expired, "expired", format!("the signatures fit; too late for: {text}"))
        };
    }
    (Exit::Done, "valid", "the signatures fit, and the bounds on time hold".into())
}

fn root_key(argument: &str) -> Result<PublicKey, Failure> {
    let bad = |what: String| {
        Failure::new(Exit::Usage, what, "give 64 hexadecimal digits, with or without ed25519/ before them, or @FILE")
    };
    let text = match argument.strip_prefix('@') {
        Some(path) => crate::shell::sources::read_text(Path::new(path))
            .map_err(|error| bad(format!("cannot read the root's key from {path}: {error}")))?,
        None => argument.to_owned(),
    };
    let digits = text.trim();
    let digits = digits.strip_prefix("ed25519/").unwrap_or(digits);
    let bytes: Option<[u8; 32]> = unhex(digits).and_then(|bytes| bytes.try_into().ok());
    let bytes =
        bytes.ok_or_else(|| bad(format!("{:?} is no public key", digits.chars().take(80).collect::<String>())))?;
    PublicKey::try_from(bytes).map_err(|error| bad(format!("the root's key is not usable: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use biscuit_auth::builder::{Algorithm, BiscuitBuilder};
    use biscuit_auth::KeyPair;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    fn token(code: &str) -> Token {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let root = KeyPair::new_with_rng(Algorithm::Ed25519, &mut rng);
        let symbols = biscuit_auth::datalog::SymbolTable::default();
        let builder = BiscuitBuilder::new().code(code).unwrap();
        let biscuit = builder.build_with_rng(&root, symbols, &mut rng).unwrap();
        parsed(&biscuit.to_vec().unwrap()).unwrap()
    }

    #[test]
    fn bounds_on_time_are_told_apart() {
        let until = "check if time($t), $t <= 2026-03-01T00:00:00Z;";
        let from = "check if time($t), $t >= 2026-02-01T00:00:00Z;";
        check_time("", "2026-03-01T00:00:01Z", "valid");
        check_time(until, "2026-03-01T00:00:00Z", "valid");
        check_time(until, "2026-03-01T00:00:01Z", "expired");
        check_time(from, "2026-01-31T23:59:59Z", "not_yet_valid");
        check_time(&format!("{from}{until}"), "2026-01-01T00:00:00Z", "not_yet_valid");
        check_time(&format!("{from}{until}"), "2026-02-15T00:00:00Z", "valid");
        check_time(r#"check if right("a"); "#, "2026-02-15T00:00:00Z", "valid");
    }

    #[track_caller]
    fn check_time(code: &str, at: &str, expected: &str) {
        assert_eq!(in_time(&token(code), point_in_time(at).unwrap()).1, expected);
    }

    #[test]
    fn nothing_of_a_token_reaches_a_terminal_unescaped() {
        let token = token("owner(\"\u{1b}[2Jx\");");
        let fact = &token.blocks[0].facts[0];
        assert_eq!(fact_text(&fact.name, &fact.terms), r#"owner("\u{1b}[2Jx")"#);
    }

    #[test]
    fn root_keys_come_in_hexadecimal_with_or_without_their_algorithm() {
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
        let digits = crate::ids::hex(key.as_bytes());
        assert_eq!(root_key(&digits).unwrap().as_bytes(), key.as_bytes());
        assert_eq!(root_key(&format!("ed25519/{digits}\n")).unwrap().as_bytes(), key.as_bytes());
        for bad in ["", "ed25519/", &digits[1..], "@/nowhere", &"00".repeat(32)] {
            assert_eq!(root_key(bad).unwrap_err().exit, Exit::Usage, "{bad:?}");
        }
    }
}
