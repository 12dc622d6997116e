//! Identity documents that another implementation signed, at a real daemon; the operator's commands that have them believed;
//! what the daemon answers in OAuth's forms.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use hardtack::shell::clock;
use hardtack::wire::identity::{read_key_set, IdentityIssuer};
use serde_json::{json, Value};

use crate::daemon::Device;
use crate::support::cannot_run;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/identity.py");
const ISSUER: &str = "https://id.example/realms/ops";
const DOMAIN: &str = "spiffe://acme.example";

/// Documents as the other implementation signs them, and its keys; none where it is not here.
fn made(documents: &Value) -> Option<(Value, Vec<String>)> {
    let Ok(python) = std::env::var("HARDTACK_PYTHON") else {
        cannot_run("PyJWT is not here: tests/run installs it");
        return None;
    };
    let mut child = Command::new(python).arg(SCRIPT).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let job = json!({"now": clock::wall().unwrap().secs_floor(), "documents": documents});
    child.stdin.take().unwrap().write_all(job.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{SCRIPT} failed");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tokens = answer["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap().to_owned());
    Some((answer["jwks"].clone(), tokens.collect()))
}

fn oidc(edits: Value) -> Value {
    let mut claims = json!({"iss": ISSUER, "sub": "ann", "aud": ["hardtack"], "iat": -5, "nbf": -5, "exp": 600});
    claims.as_object_mut().unwrap().extend(edits.as_object().unwrap().clone());
    claims
}

fn svid(sub: &str) -> Value {
    json!({"sub": sub, "aud": ["hardtack", "other"], "exp": 300})
}

#[test]
fn documents_signed_elsewhere_say_who_initiated_a_task() {
    // What is brought, as which type, and the code of the refusal if it is refused.
    let table = [
        (json!({"key": "rsa1", "claims": oidc(json!({}))}), "oidc", ""),
        (json!({"key": "ec1", "claims": oidc(json!({"aud": "hardtack"}))}), "oidc", ""),
        (json!({"key": "ed1", "claims": oidc(json!({}))}), "oidc", ""),
        (json!({"key": "rsa2", "claims": oidc(json!({"email": "ann@example", "groups": ["ops"]}))}), "oidc", ""),
        (json!({"key": "ec2", "claims": svid("spiffe://acme.example/planner")}), "jwt-svid", ""),
        (json!({"key": "rsa2", "claims": svid("spiffe://acme.example/planner")}), "jwt-svid", ""),
        (json!({"key": "rsa1", "claims": oidc(json!({"exp": -1}))}), "oidc", "identity_expired"),
        (json!({"key": "rsa1", "claims": oidc(json!({"nbf": 300}))}), "oidc", "identity_not_yet_valid"),
        (json!({"key": "rsa1", "claims": oidc(json!({"iat": 300}))}), "oidc", "identity_not_yet_valid"),
        (json!({"key": "ec1", "claims": oidc(json!({"aud": "another"}))}), "oidc", "identity_wrong_audience"),
        (
            json!({"key": "ec1", "claims": oidc(json!({"iss": "https://evil.example"}))}),
            "oidc",
            "identity_unknown_issuer",
        ),
        (json!({"key": "rsa1", "kid": "rsa2", "claims": oidc(json!({}))}), "oidc", "identity_bad_signature"),
        (json!({"key": "rsa1", "kid": "ec1", "claims": oidc(json!({}))}), "oidc", "identity_wrong_algorithm"),
        (json!({"key": "rsa1", "kid": "gone", "claims": oidc(json!({}))}), "oidc", "identity_unknown_key"),
        (json!({"key": "rsa1", "kid": null, "claims": oidc(json!({}))}), "oidc", "identity_unknown_key"),
        (
            json!({"key": "ed1", "claims": oidc(json!({})), "headers": {"crit": ["x"], "x": 1}}),
            "oidc",
            "identity_malformed",
        ),
        (
            json!({"key": "ed1", "claims": oidc(json!({})), "headers": {"jku": "https://evil.example"}}),
            "oidc",
            "identity_malformed",
        ),
        (json!({"key": "ed1", "claims": oidc(json!({})), "headers": {"typ": "at+jwt"}}), "oidc", "identity_malformed"),
        (json!({"key": "ed1", "claims": oidc(json!({"groups": "g".repeat(9000)}))}), "oidc", "identity_too_large"),
        (
            json!({"key": "ec2", "claims": svid("spiffe://other.example/planner")}),
            "jwt-svid",
            "identity_unknown_issuer",
        ),
        (json!({"key": "ec2", "claims": svid("spiffe://acme.example")}), "jwt-svid", "identity_malformed"),
        (json!({"key": "rsa1", "claims": oidc(json!({}))}), "jwt-svid", "identity_malformed"),
    ];
    let documents: Vec<&Value> = table.iter().map(|(document, _, _)| document).collect();
    let Some((jwks, tokens)) = made(&json!(documents)) else { return };
    let set = read_key_set(jwks.to_string().as_bytes()).unwrap();
    assert!(set.left_out.is_empty() && set.keys.len() == 5, "{set:?}");
    let audiences = vec!["hardtack".to_owned()];
    let issuers = [ISSUER, DOMAIN].map(|name| IdentityIssuer {
        name: name.into(),
        audiences: audiences.clone(),
        keys: set.keys.clone(),
    });
    let device = Device::enrolled_by(|trust| trust.identities = issuers.to_vec());
    let daemon = device.start();
    let file = device.path("document");
    let begin = |token: &str, form: &str| {
        std::fs::write(&file, format!("{token}\n")).unwrap();
        let file = file.to_str().unwrap();
        device.run(&["task", "begin", "pump", "--right", "read:meter/*", "--identity", file, "--identity-type", form])
    };
    let mut begun = Vec::new();
    for ((document, form, code), token) in table.iter().zip(&tokens) {
        let output = begin(token, form);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        if code.is_empty() {
            assert_eq!(output.status.code(), Some(0), "{document} {form}: {told}");
            let task: Value = serde_json::from_slice(&output.stdout).unwrap();
            let limit = if *form == "oidc" { 600 } else { 300 };
            // Of the 900 s that are asked for. P may be some seconds behind the clock that the documents were made by.
            assert!(task["expires_in_s"].as_u64().unwrap() <= limit + 10, "it outlives the document: {task}");
            begun.push((task, document["claims"]["sub"].clone()));
        } else {
            assert!(!output.status.success() && told.contains(code), "{document} {form}: {told}");
        }
    }
    let exit = |name: &str| {
        let at = table.iter().position(|(_, _, code)| *code == name).unwrap();
        begin(&tokens[at], table[at].1).status.code()
    };
    assert_eq!((exit("identity_expired"), exit("identity_bad_signature")), (Some(4), Some(12)));
    assert_eq!((exit("identity_wrong_audience"), exit("identity_too_large")), (Some(3), Some(3)));

    let listed = device.ok(&["task", "list"]);
    let (task, subject) = &begun[4];
    let listed = listed["tasks"].as_array().unwrap().iter().find(|one| one["task_id"] == task["task_id"]).unwrap();
    assert_eq!(listed["initiator"], json!({"issuer": DOMAIN, "subject": subject}));
    let (code, decision) = device.authorize(task["token"].as_str().unwrap(), "read");
    assert_eq!(code, Some(0), "{decision}");
    let lines = device.command(&["audit", "tail", "-n", "1000"]).output().unwrap();
    let lines: Vec<Value> =
        String::from_utf8(lines.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let decided = lines.iter().find(|line| line["id"] == decision["decision_id"]).unwrap();
    assert_eq!(decided["initiator"], json!({"issuer": DOMAIN, "subject": subject}));
    let refused = lines.iter().filter(|line| line["step"] == "refused" && line["initiator"] == Value::Null);
    let mut codes: Vec<&str> = refused.map(|line| line["reason"].as_str().unwrap()).collect();
    codes.sort_unstable();
    codes.dedup();
    let mut expected: Vec<&str> = table.iter().map(|(_, _, code)| *code).filter(|code| !code.is_empty()).collect();
    expected.sort_unstable();
    expected.dedup();
    assert_eq!(codes, expected, "each kind of refusal is on record");
    let words = device.command(&["-o", "human", "audit", "tail", "-n", "1000"]).output().unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    assert!(words.contains(&format!("initiator=ann issuer={ISSUER}")), "{words}");
    daemon.stop();
}

/// What a path answers to a form: the status and the JSON.
fn form(device: &Device, socket: &str, path: &str, form: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(device.path("run").join(socket)).unwrap();
    let length = form.len();
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {length}\r\n\r\n{form}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (answer[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
}

#[test]
fn tokens_are_introspected_and_exchanged_in_the_forms_of_oauth() {
    let device = Device::enrolled();
    let daemon = device.start();
    let token = device.begin();
    let base = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token_type=urn:ietf:params:oauth:token-type:access_token";
    let exchange = |more: &str| form(&device, "agent.sock", "/token", &format!("{base}&subject_token={token}{more}"));
    let introspect = |token: &str| form(&device, "pep.sock", "/introspect", &format!("token={token}"));

    let (status, told) = introspect(&token);
    assert_eq!((status, &told["active"], &told["scope"]), (200, &true.into(), &"read:meter/*".into()));
    assert_eq!(
        (&told["sub"], &told["token_type"], &told["device"]),
        (&"ops@acme".into(), &"Bearer".into(), &"gw-07".into())
    );
    let (status, narrowed) = exchange("&scope=read:meter/1&ttl_s=60");
    assert_eq!((status, &narrowed["token_type"], &narrowed["scope"]), (200, &"Bearer".into(), &"read:meter/1".into()));
    assert!(narrowed["expires_in"].as_u64().unwrap() <= 60);
    let narrowed = narrowed["access_token"].as_str().unwrap();
    assert_eq!(device.authorize(narrowed, "read").0, Some(0));
    let told = introspect(narrowed).1;
    assert_eq!((&told["active"], &told["scope"]), (&true.into(), &"read:meter/1".into()), "its own, and no prefix");
    // What a scope cannot hold is encoded there, and once more in a form.
    let (status, umlaut) = exchange("&scope=read:meter/gr%25C3%25B6%25C3%259Fe");
    assert_eq!((status, &umlaut["scope"]), (200, &"read:meter/gr%C3%B6%C3%9Fe".into()));
    let umlaut = umlaut["access_token"].as_str().unwrap();
    assert_eq!(introspect(umlaut).1["scope"], "read:meter/gr%C3%B6%C3%9Fe");
    device.ok(&["authorize", "--token", umlaut, "--operation", "read", "--resource", "meter/größe"]);
    assert_eq!(device.authorize(umlaut, "read").1["reason"], "check_failed");
    for (more, error) in [
        ("&scope=read:meter/gr%C3%B6%C3%9Fe", "invalid_scope"),
        ("&scope=read:meter%252F1", "invalid_scope"),
        ("&scope=read:meter/%25252e", "invalid_request"),
        ("&scope=write:meter/1", "invalid_scope"),
        ("&scope=read:*", "invalid_request"),
        ("&scope=read", "invalid_scope"),
        ("&resource=meter", "invalid_target"),
        ("", "invalid_request"),
        ("&ttl_s=0", "invalid_request"),
    ] {
        let (status, problem) = exchange(more);
        assert_eq!((status, &problem["error"]), (400, &error.into()), "{more}: {problem}");
    }
    let (_, elsewhere) = exchange("&resource=https://hmi.local/");
    let elsewhere = elsewhere["access_token"].as_str().unwrap();
    assert_eq!(device.authorize(elsewhere, "read").1["reason"], "check_failed");
    assert_eq!(introspect(elsewhere).1["active"], false);
    assert_eq!(introspect(&format!("{elsewhere}&destination=hmi.local")).1["scope"], "read:meter/*");
    for bad in ["AAAA", "", "%00"] {
        let (status, told) = introspect(bad);
        let expected = if bad.is_empty() { (400, Value::Null) } else { (200, Value::from(false)) };
        assert_eq!((status, told["active"].clone()), expected, "{bad}: {told}");
    }
    // Each where it belongs.
    assert_eq!(form(&device, "agent.sock", "/introspect", "token=x").0, 404);
    assert_eq!(form(&device, "pep.sock", "/token", base).0, 404);
    daemon.stop();
}

#[test]
fn an_operator_names_issuers_by_their_key_sets() {
    let Some((jwks, _)) = made(&json!([
        {"key": "rsa1", "claims": {}}, {"key": "ec1", "claims": {}}, {"key": "ed1", "claims": {}},
    ])) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (dir, set) = (folder.path().join("fleet"), folder.path().join("jwks"));
    let (dir, file) = (dir.to_str().unwrap(), set.to_str().unwrap());
    let run = |args: &[&str], exit: i32| -> Value {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hardtack"));
        command.args(["-o", "json", "fleet"]).args(args).env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
        let output = command.output().unwrap();
        let told = if exit == 0 { &output.stdout } else { &output.stderr };
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let told = String::from_utf8_lossy(told);
        // What was left out is told before.
        serde_json::from_str(&told).or_else(|_| serde_json::from_str(told.lines().last().unwrap_or_default())).unwrap()
    };
    run(&["init", dir, "--name", "acme", "--no-passphrase"], 0);
    let add = |issuer: &str, exit: i32| {
        run(&["identity", "add", "--issuer", issuer, "--audience", "gw", "--jwks", file, "--dir", dir], exit)
    };
    std::fs::write(&set, jwks.to_string()).unwrap();
    let added = add(ISSUER, 0);
    assert_eq!((&added["bundle_version"], &added["changed"]), (&2.into(), &true.into()));
    assert_eq!(add(ISSUER, 0)["changed"], false);
    assert_eq!(add(DOMAIN, 0)["bundle_version"], 3);
    assert!(add("http://id.example", 1)["error"].as_str().unwrap().contains("https://"));
    // Another set takes the place of the one before.
    let last = json!({"keys": [jwks["keys"][2], {"kty": "RSA", "use": "enc", "kid": "x", "n": "AQAB", "e": "AQAB"}]});
    std::fs::write(&set, last.to_string()).unwrap();
    assert_eq!(add(ISSUER, 0)["bundle_version"], 4);
    std::fs::write(&set, json!({"keys": [{"kty": "oct", "k": "AAAA"}]}).to_string()).unwrap();
    assert!(add(ISSUER, 12)["error"].as_str().unwrap().contains("shared key"));

    let listed = run(&["identity", "list", "--dir", dir], 0);
    let keys = |at: usize| listed["issuers"][at]["keys"].as_array().unwrap().len();
    assert_eq!((keys(0), keys(1), &listed["issuers"][1]["type"]), (1, 3, &"jwt-svid".into()));
    assert_eq!(
        run(&["identity", "remove", "--issuer", ISSUER, "--dir", dir], 0)["issuers"].as_array().unwrap().len(),
        1
    );
    run(&["identity", "remove", "--issuer", ISSUER, "--dir", dir], 1);
    let acts = run(&["audit", "acts", "--dir", dir], 0).to_string();
    for told in ["identity_trusted", "identity_removed", ISSUER, DOMAIN, "rsa1"] {
        assert!(acts.contains(told), "{told} in {acts}");
    }
}
