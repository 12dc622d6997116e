//! The sockets of a running agent held against the document that they serve, by schemathesis; and the examples of the
//! documentation, run as they stand.

use std::process::Command;

use serde_json::Value;

use crate::daemon::Device;
use crate::support::{cannot_run, python};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn every_answer_is_one_that_the_document_names() {
    let has_it = Command::new(python()).args(["-c", "import schemathesis"]).output();
    if !has_it.is_ok_and(|output| output.status.success()) {
        return cannot_run("schemathesis is not here: tests/run installs it");
    }
    let device = Device::enrolled();
    let daemon = device.start();
    let script = format!("{ROOT}/tests/interop/conformance.py");
    let output = Command::new(python()).arg(script).arg(device.path("run")).args(["pump", "meter/*", "6"]).output();
    let output = output.unwrap();
    let told: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(told["failures"], Value::Array(Vec::new()), "{told:#}");
    assert!(output.status.success(), "{told:#}");
    for (socket, statuses) in [
        ("agent", &["200", "201", "400", "403", "404"][..]),
        ("pep", &["200", "400", "401"][..]),
        ("admin", &["200", "400", "404", "422"][..]),
    ] {
        let seen = &told["sockets"][socket];
        for status in statuses {
            assert!(seen["statuses"][status].as_u64() > Some(0), "no {status} on {socket}: {seen}");
        }
        for mode in ["allowed", "forbidden"] {
            assert!(seen["asked"][mode].as_u64() > Some(10), "{mode} on {socket}: {seen}");
        }
    }
    // All of it was answered by one process, which is as well as before.
    let token = device.begin();
    assert_eq!(device.authorize(&token, "read").0, Some(0));
    daemon.stop();
}

#[test]
fn the_examples_do_what_they_say() {
    let device = Device::enrolled();
    let daemon = device.start();
    let socket = device.path("run").join("agent.sock");
    let run = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        let output = command.arg(format!("{ROOT}/docs/examples/{}", arguments[0])).arg(&socket).args(&arguments[1..]);
        let output = output.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    for (program, example) in [("python3", "workload.py"), ("sh", "workload.sh")] {
        let (code, told, complaint) = run(program, &[example, "pump", "read", "meter/*", "meter/1", "meter/2"]);
        assert_eq!(code, Some(0), "{example}: {told}{complaint}");
        assert!(told.contains("read meter/1: allowed (gw-07/1/"), "{example}: {told}");
        let (code, told, _) = run(program, &[example, "pump", "read", "meter/1", "meter/1", "valve/2"]);
        assert_eq!(code, Some(3), "{example}: {told}");
        assert!(told.contains("read valve/2: no_right (gw-07/1/"), "{example}: {told}");
        let (code, told, complaint) = run(program, &[example, "no-such", "read", "meter/1", "meter/1"]);
        assert_eq!((code, told.as_str()), (Some(1), ""), "{example}");
        assert!(complaint.starts_with("refused: no_right: no grant lets "), "{example}: {complaint}");
        let (code, told, complaint) = run(program, &[example, "pump", "read", "meter/*"]);
        assert_eq!((code, told.as_str()), (Some(2), ""), "{example}");
        assert!(complaint.ends_with(" SOCKET CLASS OPERATION RIGHT RESOURCE...\n"), "{example}: {complaint}");
    }
    let (_, told, _) = run("python3", &["workload.py", "pump", "read", "meter/*", "meter/1"]);
    assert!(told.ends_with("renewed: allowed\nfinished: revoked\n"), "{told}");
    assert_eq!(device.ok(&["task", "list"]), serde_json::json!({"tasks": []}), "each example ends its task");
    daemon.stop();
}
