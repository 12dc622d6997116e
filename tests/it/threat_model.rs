//! The threat model of the local side says nothing that no test shows.

use std::collections::BTreeSet;
use std::path::Path;

/// The names of all tests below a folder.
fn tests_in(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_in(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut lines = text.lines().map(str::trim);
            while let Some(line) = lines.next() {
                if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                    let named = lines.find_map(|line| line.trim_start_matches("async ").strip_prefix("fn "));
                    names.extend(named.and_then(|rest| rest.split('(').next()).map(str::to_owned));
                }
            }
        }
    }
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_claim_of_the_threat_model_has_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    let mut tests = BTreeSet::new();
    for folder in ["src", "tests/it"] {
        tests_in(&root.join(folder), &mut tests);
    }
    assert!(tests.len() > 500, "{} tests were found", tests.len());
    let claims: Vec<&str> = text.split("\n- ").skip(1).map(|item| item.split("\n\n").next().unwrap()).collect();
    assert!(claims.len() > 25, "{} claims were found", claims.len());
    let mut wrong = Vec::new();
    for claim in claims {
        let shown = claim.split_once("Shown").map_or("", |(_, shown)| shown);
        let named: Vec<&str> = quoted(shown).collect();
        if named.is_empty() {
            wrong.push(format!("no test shows: {claim}"));
        }
        wrong
            .extend(named.iter().filter(|name| !tests.contains(**name)).map(|name| format!("there is no test {name}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_sockets_are_as_the_threat_model_says() {
    use hardtack::agent::request::Socket;
    use hardtack::shell::http::socket_file;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/threat-model.md")).unwrap();
    for socket in [Socket::Admin, Socket::Agent, Socket::Pep] {
        let (name, mode) = socket_file(socket);
        assert!(text.contains(&format!("| `{name}` | {mode:04o} |")), "{name}");
    }
}
