//! The demo, as a newcomer runs it.

use std::process::Command;

use serde_json::Value;

#[test]
fn the_demo_tells_its_story_to_the_end() {
    let output = Command::new(env!("CARGO_BIN_EXE_hardtack")).args(["demo", "-o", "json"]).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no summary: {told}"));
    let failed: Vec<&Value> = summary["steps"].as_array().unwrap().iter().filter(|step| step["ok"] != true).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(output.status.success());
    assert_eq!(
        (&summary["lost"], &summary["duplicates"], &summary["revoked_then_allowed"]),
        (&0.into(), &0.into(), &0.into())
    );
    assert!(summary["recorded"].as_u64() >= Some(10));
}
