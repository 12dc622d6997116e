//! Programs that are told by what they are: the real agent hashes the file that runs.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::daemon::{Daemon, Device};
use crate::holders::{shell_by, Connection, BEGIN};

/// The selector of a program, by what another one says its digest is.
fn digest(program: &Path) -> String {
    let output = Command::new("sha256sum").arg("--").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    format!("unix:sha256:{}", text.split_once(' ').unwrap().0)
}

/// An agent with these lines in its configuration.
fn start(device: &Device, config: &str) -> Daemon {
    let file = device.path("agent.toml");
    std::fs::write(&file, config).unwrap();
    Device::start_by(device.command(&["--config", file.to_str().unwrap(), "agent", "run"]))
}

/// What was seen of a caller, of its program's digest.
fn digests(seen: &Value) -> Vec<&str> {
    let seen = seen.as_array().unwrap().iter().map(|selector| selector.as_str().unwrap());
    seen.filter(|selector| selector.starts_with("unix:sha256:")).collect()
}

#[test]
fn a_program_begins_by_its_digest_and_another_one_of_the_same_user_does_not() {
    let program = digest(Path::new(env!("CARGO_BIN_EXE_hardtack")));
    let this_one = digest(&std::env::current_exe().unwrap());
    assert_ne!(program, this_one);
    let device = Device::enrolled_for(&program);
    // It holds its task itself: of a task that another program holds, only what both have counts.
    let script = r#"exec "$0" task begin pump --right 'read:meter/*' --holder $$"#;
    let begin = || shell_by(&device, &["/usr/bin/env"], script).output().unwrap();

    let daemon = start(&device, "[attest]\nsha256 = true\n");
    let whoami = device.ok(&["whoami"]);
    assert_eq!((digests(&whoami["selectors"]), &whoami["may_begin"][0]), (vec![program.as_str()], &"pump".into()));
    let begun = begin();
    assert!(begun.status.success(), "{begun:?}");
    let (status, problem) = Connection::open(&device).begin("", &format!("{BEGIN}}}"));
    assert_eq!((status, &problem["code"]), (403, &"no_right".into()));
    assert_eq!(digests(&problem["selectors_seen"]), [this_one]);
    assert!(problem["hint"].as_str().unwrap().contains(&program), "{problem}");
    daemon.stop();

    // Nobody is hashed unless that is asked for.
    let daemon = start(&device, "");
    assert!(digests(&device.ok(&["whoami"])["selectors"]).is_empty());
    let refused = begin();
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(String::from_utf8(refused.stderr).unwrap().contains("[attest] sha256 = true"), "and what is missing");
    daemon.stop();
}
