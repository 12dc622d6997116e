//! The built binary: usage, exit codes, what goes to stdout and what to stderr.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering;

use hardtack::agent::request::Reason;
use hardtack::cli::Exit;
use serde_json::Value;

use crate::api::Rig;

/// The binary, with an environment of its own.
fn hardtack(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
    command.args(args).env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    hardtack(args).output().unwrap()
}

fn with_stdin(args: &[&str], input: &[u8]) -> Output {
    let mut command = hardtack(args);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

#[track_caller]
fn exits(output: &Output, code: i32) -> (String, String) {
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(output.status.code(), Some(code), "stdout: {stdout}\nstderr: {stderr}");
    (stdout, stderr)
}

#[test]
fn mistakes_are_usage_and_say_so_on_stderr() {
    for args in [
        &["nonsense"][..],
        &["authorize"],
        &["authorize", "--token", "t", "--operation", "o", "--resource", "r", "--risk", "a b"],
        &["task", "begin", "pump", "--right", "no-colon"],
        &["token", "verify", "t"],
        &["token", "attenuate", "t"],
        &["-o", "yaml", "status"],
        &["--state-dir", "/nowhere", "secrets", "list"],
    ] {
        let (stdout, stderr) = exits(&run(args), 2);
        assert_eq!(stdout, "", "{args:?}");
        assert!(stderr.contains("error"), "{args:?}: {stderr}");
    }
    let (help, _) = exits(&run(&["--help"]), 0);
    assert!(help.contains("authorize") && help.contains("enrol"), "{help}");
}

#[test]
fn commands_of_later_versions_say_so() {
    let (stdout, stderr) = exits(&run(&["fleet", "report"]), 2);
    assert_eq!(stdout, "");
    assert!(stderr.contains("is not in this version"), "{stderr}");
}

#[test]
fn version_lists_features_and_formats() {
    let (stdout, _) = exits(&run(&["version", "-o", "json"]), 0);
    let version: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert!(version["features"].as_array().unwrap().contains(&Value::from("agent")));
    assert_eq!(version["formats"]["biscuit"], 3);
    let (human, _) = exits(&run(&["version"]), 0);
    assert!(human.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn without_an_agent_the_exit_code_is_seven_and_the_advice_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    for command in [&["status"][..], &["whoami"], &["agent", "time", "challenge"]] {
        let (stdout, stderr) = exits(&run(&[&["--run-dir", dir], command].concat()), 7);
        assert_eq!(stdout, "");
        assert!(stderr.starts_with("error: no agent answers on") && stderr.contains("\n  do: "), "{stderr}");
    }
    let (stdout, stderr) = exits(&run(&["--run-dir", dir, "-o", "json", "status"]), 7);
    assert_eq!(stdout, "");
    let error: Value = serde_json::from_str(&stderr).unwrap();
    assert_eq!(error["exit"], 7);
    assert!(error["do"].as_str().is_some_and(|advice| !advice.is_empty()));
}

#[test]
fn a_wrong_configuration_is_named_with_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, "run_dri = \"/x\"\n").unwrap();
    let (_, stderr) = exits(&run(&["--config", path.to_str().unwrap(), "status"]), 2);
    assert!(stderr.contains("run_dri") && stderr.contains("agent.toml"), "{stderr}");
}

#[test]
fn authorize_exits_with_its_reason() {
    let rig = Rig::start(|_| ());
    let run_dir = rig.path("");
    for reason in Reason::ALL {
        let args = ["--run-dir", run_dir.to_str().unwrap(), "-o", "json", "authorize", "--token", "abc"];
        let ask = ["--operation", reason.name(), "--resource", "r"];
        let (stdout, _) = exits(&run(&[&args[..], &ask].concat()), Exit::from(reason) as i32);
        let decision: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(decision["reason"], reason.name());
        assert_eq!(decision["decision"], if reason == Reason::Allowed { "allow" } else { "deny" });
    }
}

#[test]
fn the_socket_may_come_from_the_environment_and_the_token_from_anywhere() {
    let rig = Rig::start(|_| ());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "abc\n").unwrap();
    let socket = rig.path("agent.sock");
    let (file, socket) = (file.to_str().unwrap(), socket.to_str().unwrap());
    let authorize = |token: &str, socket: &str| {
        let args = ["authorize", "--token", token, "--operation", "allowed", "--resource", "r"];
        let output = hardtack(&args).env("HARDTACK_SOCKET", socket).output().unwrap();
        let (stdout, _) = exits(&output, 0);
        assert!(stdout.starts_with("allow  allowed  gw-07/1/2\n"), "{stdout}");
    };
    authorize("abc", socket);
    authorize(file, &format!("unix://{socket}"));
    authorize(&format!("@{file}"), socket);
    let run_dir = rig.path("");
    let args = ["--run-dir", run_dir.to_str().unwrap(), "authorize", "--token", "-"];
    let output = with_stdin(&[&args[..], &["--operation", "allowed", "--resource", "r"]].concat(), b" abc \n");
    exits(&output, 0);
    let missing = run(&["authorize", "--token", "@/nowhere", "--operation", "o", "--resource", "r"]);
    assert!(exits(&missing, 2).1.contains("/nowhere"));
}

#[test]
fn tasks_begin_print_only_the_token_and_finish() {
    let rig = Rig::start(|_| ());
    let run_dir = rig.path("");
    let with = |args: &[&str]| run(&[&["--run-dir", run_dir.to_str().unwrap()], args].concat());
    let (stdout, stderr) = exits(&with(&["task", "begin", "pump", "--right", "read:meter/*", "--ttl", "1m"]), 0);
    assert_eq!(stdout, "abc\n");
    assert!(stderr.contains("t-1"), "{stderr}");
    let (stdout, _) = exits(&with(&["-o", "json", "task", "begin", "pump", "--right", "read:meter/1"]), 0);
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["origin"], "fallback");
    exits(&with(&["task", "finish", "t-1"]), 0);
    let (stdout, _) = exits(&with(&["-o", "json", "task", "list"]), 0);
    assert_eq!(stdout, "{\"tasks\":[]}\n");
    let (stdout, _) = exits(&with(&["whoami"]), 0);
    assert!(stdout.contains("gw-07"), "{stdout}");
}

#[test]
fn problems_have_exit_codes_of_their_own() {
    let rig = Rig::start(|_| ());
    let run_dir = rig.path("");
    let ask = |token: &str| {
        let args = ["--run-dir", run_dir.to_str().unwrap(), "authorize", "--token", token];
        run(&[&args[..], &["--operation", "o", "--resource", "r"]].concat())
    };
    assert!(exits(&ask("problem"), 3).1.contains("locked"));
    rig.broken.store(true, Ordering::SeqCst);
    let (stdout, stderr) = exits(&ask("abc"), 9);
    assert_eq!(stdout, "");
    assert!(stderr.contains("audit_unavailable"), "{stderr}");
}

#[test]
fn tokens_of_any_issuer_are_inspected_narrowed_and_verified() {
    let (token, root) = foreign_token();
    let verify = |token: &str, more: &[&str]| run(&[&["token", "verify", token, "--root", &root], more].concat());
    let (stdout, _) = exits(&run(&["token", "inspect", &token]), 0);
    assert!(stdout.contains("user(\"alice\")") && stdout.contains("not verified"), "{stdout}");
    exits(&verify(&token, &["--at", "2026-03-01T00:00:00Z"]), 0);
    exits(&verify(&token, &["--at", "2026-03-02T00:00:01Z"]), 4);
    assert!(exits(&verify(&forge(&token), &[]), 12).1.contains("bad_signature"));
    let other = hardtack::ids::hex(ed25519_dalek::SigningKey::from_bytes(&[9; 32]).verifying_key().as_bytes());
    exits(&run(&["token", "verify", &token, "--root", &other]), 12);

    let attenuate = ["token", "attenuate", &token, "--ttl", "1h", "--check", "check if operation(\"read\")"];
    let (narrowed, _) = exits(&run(&attenuate), 0);
    let narrowed = narrowed.trim();
    assert!(narrowed.len() > token.len());
    let (stdout, _) = exits(&verify(narrowed, &["-o", "json", "--at", "2026-03-01T00:00:00Z"]), 0);
    let verified: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(verified["chain"].as_array().unwrap().len(), 2);
    assert_eq!(verified["open_checks"][0], "check if … about operation");
    exits(&verify(narrowed, &["--at", "9000-01-01T00:00:00Z"]), 4);
    let bad = run(&["token", "attenuate", &token, "--check", "deny if true"]);
    assert!(exits(&bad, 2).1.contains("no check"));
}

#[test]
fn a_body_that_the_api_finds_too_large_is_a_denial_and_padding_is_taken_off() {
    let rig = Rig::start(|limits| limits.body_bytes_max = 512);
    let run_dir = rig.path("");
    let ask = |token: &str| {
        let args = ["--run-dir", run_dir.to_str().unwrap(), "authorize", "--token", token];
        run(&[&args[..], &["--operation", "allowed", "--resource", "r"]].concat())
    };
    let (stdout, stderr) = exits(&ask(&"A".repeat(20_000)), 3);
    assert!(stdout.is_empty() && stderr.contains("body_too_large"), "{stderr}");
    exits(&ask("abc="), 0);
    let (token, root) = foreign_token();
    exits(&run(&["token", "verify", &format!("{token}="), "--root", &root, "--at", "2026-03-01T00:00:00Z"]), 0);
}

#[test]
fn a_policy_is_tried_on_a_table_before_any_fleet_has_it() {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/examples");
    let (cases, policy) = (format!("{docs}/policy-cases.toml"), format!("{docs}/policy.toml"));
    let test = |cases: &str, policy: &str, form: &str| {
        run(&["-o", form, "fleet", "policy", "test", cases, "--policy", policy])
    };
    let (stdout, _) = exits(&test(&cases, &policy, "human"), 0);
    assert!(stdout.contains("cases as expected") && !stdout.contains("no case was decided"), "{stdout}");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let kept = std::fs::read_to_string(&policy).unwrap();
    let lax = file("lax.toml", &kept.replace("$rpm > 1500", "$rpm > 9000"));
    let (stdout, _) = exits(&test(&cases, &lax, "json"), 1);
    let told: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let wrong = told["cases"].as_array().unwrap().iter().filter(|case| case["ok"] == false);
    assert_eq!(wrong.map(|case| case["name"].as_str().unwrap()).collect::<Vec<_>>(), ["too fast"]);
    let unclear = file("cases.toml", "[[case]]\nname = \"a\"\nexpect = \"deny\"\n");
    let (_, stderr) = exits(&test(&unclear, &policy, "human"), 2);
    assert!(stderr.contains("cases.toml:1: a denial has a `reason`"), "{stderr}");
    let costly =
        file("costly.toml", "datalog = 'deny if argument($a, $x), argument($b, $x), $a != $b; allow if true;'");
    let (_, stderr) = exits(&test(&cases, &costly, "human"), 2);
    assert!(stderr.contains("costs too much"), "{stderr}");
    let broken = file("broken.toml", &kept.replace("$rpm > 1500", "$rpm > > 1500"));
    let (_, stderr) = exits(&test(&cases, &broken, "human"), 2);
    assert!(stderr.contains(" of its Datalog cannot be parsed: "), "{stderr}");
}

#[test]
fn a_sealed_token_says_that_it_is_sealed() {
    let (token, _) = foreign_token();
    let bytes = hardtack::wire::token::from_text(&token, 4096).unwrap();
    let sealed = hardtack::wire::token::Held::from_bytes(&bytes).unwrap().seal().unwrap().to_bytes().unwrap();
    let sealed = hardtack::wire::token::to_text(&sealed);
    let (_, stderr) = exits(&run(&["token", "attenuate", &sealed, "--ttl", "1h"]), 1);
    assert!(stderr.contains("is sealed") && stderr.contains("ask that with --agent"), "{stderr}");
}

#[test]
fn hostile_tokens_are_refused_without_a_panic() {
    let (token, root) = foreign_token();
    let huge = "A".repeat(200_000);
    for (input, code) in [("", 12), ("%%%", 12), ("AAAA", 12), (&token[..40], 12), (huge.as_str(), 3)] {
        for args in [&["token", "inspect", "-"][..], &["token", "verify", "-", "--root", &root]] {
            let (stdout, stderr) = exits(&with_stdin(args, input.as_bytes()), code);
            assert_eq!(stdout, "");
            assert!(stderr.contains("error") && !stderr.contains("panicked"), "{stderr}");
        }
    }
    assert!(!Path::new("core").exists());
}

/// A Biscuit as any library mints it, and its root's public key.
fn foreign_token() -> (String, String) {
    use biscuit_auth::builder::{Algorithm, BiscuitBuilder};
    use rand_core::SeedableRng;
    let mut rng = rand_chacha::ChaCha20Rng::from_seed([5; 32]);
    let root = biscuit_auth::KeyPair::new_with_rng(Algorithm::Ed25519, &mut rng);
    let code = "user(\"alice\"); check if time($t), $t <= 2026-03-02T00:00:00Z;";
    let builder = BiscuitBuilder::new().code(code).unwrap();
    let symbols = biscuit_auth::datalog::SymbolTable::default();
    let biscuit = builder.build_with_rng(&root, symbols, &mut rng).unwrap();
    (hardtack::wire::token::to_text(&biscuit.to_vec().unwrap()), root.public().to_bytes_hex())
}

/// The token with a fact changed.
fn forge(token: &str) -> String {
    let mut bytes = hardtack::wire::token::from_text(token, 4096).unwrap();
    let at = bytes.windows(5).position(|window| window == b"alice").unwrap();
    bytes[at] = b'A';
    hardtack::wire::token::to_text(&bytes)
}
