//! A planner and an executor at a real daemon: the planner exchanges, another user's program uses the step once, and the record
//! shows the chain.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;

use hardtack::shell::client::Client;
use serde_json::{json, Value};

use crate::daemon::{Daemon, Device, EXECUTOR_UID};
use crate::support::cannot_run;

/// What the program says to another user.
fn run_by_another(device: &Device, args: &[&str]) -> std::io::Result<(Option<i32>, Value)> {
    let output = device.command(args).uid(EXECUTOR_UID).gid(EXECUTOR_UID).current_dir("/").output()?;
    Ok((output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default()))
}

/// What the program says of a question, asked by another user.
fn asked_by_another(device: &Device, token: &str, operation: &str) -> std::io::Result<(Option<i32>, Value)> {
    run_by_another(device, &["authorize", "--token", token, "--operation", operation, "--resource", "meter/1"])
}

/// A device with a user besides, who is the executor of steps. None where this machine cannot have that.
fn for_two() -> Option<(Device, Daemon)> {
    if !rustix::process::getuid().is_root() {
        cannot_run("only root can start a program as another user");
        return None;
    }
    let device = Device::enrolled();
    // The other user has to get to the sockets.
    std::fs::set_permissions(device.path("."), std::fs::Permissions::from_mode(0o711)).unwrap();
    let daemon = device.start();
    if let Err(error) = asked_by_another(&device, "AAAA", "read") {
        daemon.stop();
        cannot_run(&format!("user {EXECUTOR_UID} cannot start the program: {error}"));
        return None;
    }
    Some((device, daemon))
}

#[test]
fn a_planner_plans_and_another_users_program_does_it_once() {
    let Some((device, daemon)) = for_two() else { return };
    let task = device.ok(&["task", "begin", "pump", "--right", "read:meter/*", "--planner"]);
    let (id, planner) = (task["task_id"].as_str().unwrap(), task["token"].as_str().unwrap());
    assert_eq!(device.authorize(planner, "read").1["reason"], "no_right");

    let executor = format!("unix:uid:{EXECUTOR_UID}");
    let step = |right: &str, executor: &str| {
        let args = ["task", "step", id, "--token", planner, "--executor", executor, "--right", right];
        [&args[..], &["--idempotency-key", right, "--reason", "the hourly reading"]].concat().join("\n")
    };
    let run = |args: String| device.run(&args.split('\n').collect::<Vec<_>>());
    let taken = run(step("read:meter/1", &executor));
    assert_eq!(taken.status.code(), Some(0), "{taken:?}");
    let taken: Value = serde_json::from_slice(&taken.stdout).unwrap();
    let token = taken["token"].as_str().unwrap();
    assert_eq!((&taken["uses"], &taken["executor"]), (&1.into(), &executor.as_str().into()));

    let listed = device.ok(&["task", "list"]);
    let [shown] = listed["tasks"].as_array().unwrap().as_slice() else { panic!("{listed}") };
    assert_eq!(
        (&shown["planner"], &shown["origin"], &shown["bound_to"][0]),
        (&true.into(), &"fallback".into(), &json!(format!("unix:uid:{}", rustix::process::getuid().as_raw())))
    );
    let step_id = &taken["step_id"];
    assert_eq!((&shown["steps"][0]["step_id"], &shown["steps"][0]["executor"]), (step_id, &taken["executor"]));
    assert_eq!(shown["steps"][0]["decision_id"], taken["decision_id"]);
    let words = device.command(&["-o", "human", "task", "list"]).output().unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    let told = format!("\n  step {}  for {executor}  ends in ", step_id.as_str().unwrap());
    assert!(words.contains("  plans  fallback  ends in ") && words.contains(&told), "{words}");

    // Again under the same key, for more, for another, and for itself.
    let own = format!("unix:uid:{}", rustix::process::getuid().as_raw());
    for (right, executor, what) in [
        ("read:meter/1", executor.as_str(), "handed out once"),
        ("write:meter/1", &executor, "no right to write meter/1"),
        ("read:meter/2", "unix:uid:4242", "--may-step unix:uid:4242=pump"),
        ("read:meter/3", &own, "the planner itself"),
    ] {
        let refused = run(step(right, executor));
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(3) && told.contains(what), "{right} {executor}: {refused:?}");
    }
    assert_eq!(device.authorize(token, "read").1["reason"], "wrong_workload", "the planner's own");
    let (code, decision) = asked_by_another(&device, token, "read").unwrap();
    assert_eq!((code, &decision["reason"]), (Some(0), &"allowed".into()), "{decision}");
    assert_eq!(asked_by_another(&device, token, "read").unwrap().1["reason"], "uses_spent");
    drop(daemon);
    let daemon = device.start();
    assert_eq!(
        asked_by_another(&device, token, "read").unwrap().1["reason"],
        "uses_spent",
        "a restart gives none back"
    );
    assert_eq!(device.ok(&["task", "list"])["tasks"][0]["steps"], json!([]), "a used step is none");

    let lines = device.command(&["audit", "tail", "-n", "1000"]).output().unwrap();
    let lines: Vec<Value> =
        String::from_utf8(lines.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let find = |name: &str| lines.iter().find(|line| line["id"] == name).unwrap();
    let used = find(decision["decision_id"].as_str().unwrap());
    let exchange = find(taken["decision_id"].as_str().unwrap());
    assert_eq!((&used["step"]["id"], &used["task"]), (&taken["step_id"], &task["task_id"]));
    assert_eq!((&used["owner"], &used["workload"][0]), (&"ops@acme".into(), &executor.as_str().into()));
    assert_eq!(used["chain"].as_array().unwrap().len(), 3, "{used}");
    assert_eq!((&used["step"]["planner"], &used["step"]["index"]), (&json!([own]), &exchange["index"]));
    assert_eq!((&exchange["operation"], &exchange["resource"]), (&"hardtack:exchange".into(), &id.into()));
    assert_eq!((&exchange["workload"][0], &exchange["destination"]), (&own.as_str().into(), &executor.as_str().into()));
    let refused = lines.iter().filter(|line| line["operation"] == "hardtack:exchange" && line["allow"] == false);
    assert_eq!(refused.count(), 4);
    let words = device.command(&["-o", "human", "audit", "tail", "-n", "1000", "--kind", "decision"]).output().unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    let told = format!("step={} planner={own} exchange={}", taken["step_id"].as_str().unwrap(), &{
        taken["decision_id"].as_str().unwrap().split_once('/').unwrap().1.to_owned()
    });
    assert!(words.contains(&told), "{told} in {words}");
    daemon.stop();
}

#[test]
fn an_executor_only_narrows_its_step_however_often_and_uses_it_once_all_the_same() {
    let Some((device, daemon)) = for_two() else { return };
    let task = device.ok(&["task", "begin", "pump", "--right", "read:meter/*", "--planner"]);
    let (id, planner) = (task["task_id"].as_str().unwrap(), task["token"].as_str().unwrap());
    let executor = format!("unix:uid:{EXECUTOR_UID}");
    let args = ["task", "step", id, "--token", planner, "--executor", &executor, "--right", "read:meter/*"];
    let step = device.ok(&args)["token"].as_str().unwrap().to_owned();
    let attenuate = |token: &str, check: &str| {
        let (code, said) =
            run_by_another(&device, &["token", "attenuate", token, "--check", check, "--agent"]).unwrap();
        (code, said["token"].as_str().map(str::to_owned))
    };
    let narrowed = |token: &str, check: &str| {
        let (code, narrowed) = attenuate(token, check);
        narrowed.unwrap_or_else(|| panic!("{check}: {code:?}"))
    };
    let asks = |token: &str, resource: &str, n: &str| {
        let argument = format!("n:={n}");
        let question = ["authorize", "--token", token, "--operation", "read", "--resource", resource, "--argument"];
        run_by_another(&device, &[&question[..], &[&argument]].concat()).unwrap().1
    };
    // Whoever plans it has it not.
    let own = device.exits(&["token", "attenuate", &step, "--ttl", "1m", "--agent"], 3);
    assert!(own.contains("handed to another workload"), "{own}");
    let one = narrowed(&step, r#"check if resource("meter/1")"#);
    let two = narrowed(&one, r#"check if argument("n", $n), $n < 5"#);
    // What would widen is one check more beside those before it.
    let three = narrowed(&two, r#"check if resource("meter/2") or argument("n", $n), $n < 100 or true"#);
    for superseded in [&step, &one, &two] {
        assert_eq!(asks(superseded, "meter/1", "4")["reason"], "uses_spent", "another has taken its place");
        assert_eq!(attenuate(superseded, "check if true"), (Some(3), None), "and comes of it no more");
    }
    for (resource, n, by) in
        [("meter/2", "4", r#"check if resource("meter/1")"#), ("meter/1", "5", r#"check if argument("n", $n), $n < 5"#)]
    {
        let denied = asks(&three, resource, n);
        assert_eq!(
            (&denied["reason"], &denied["decided_by"]["text"]),
            (&"check_failed".into(), &by.into()),
            "{denied}"
        );
    }
    assert_eq!(asks(&three, "meter/1", r#""4""#)["reason"], "check_failed", "a text is no number");
    assert_eq!(asked_by_another(&device, &three, "read").unwrap().1["reason"], "check_failed", "nothing was said");
    let args = ["authorize", "--token", &three, "--operation", "write", "--resource", "meter/1", "--argument", "n:=4"];
    assert_eq!(run_by_another(&device, &args).unwrap().1["reason"], "no_right");
    assert_eq!(device.authorize(&three, "read").1["reason"], "wrong_workload", "the planner's own");
    assert_eq!(asks(&three, "meter/1", "4")["reason"], "allowed", "no denial was a use");
    assert_eq!(asks(&three, "meter/1", "4")["reason"], "uses_spent");
    assert_eq!(attenuate(&three, "check if true"), (Some(3), None), "what is used is used");
    daemon.stop();
}

#[test]
fn what_the_agent_sealed_it_narrows_itself() {
    let device = Device::enrolled();
    let daemon = device.start();
    let token = device.begin();
    let args = ["token", "attenuate", &token, "--ttl", "1m", "--check", r#"check if resource("meter/2")"#];
    assert!(device.exits(&args, 1).contains("sealed"));
    let narrowed = device.ok(&[&args[..], &["--agent"]].concat());
    let narrowed = narrowed["token"].as_str().unwrap();
    assert_eq!(device.authorize(narrowed, "read").1["reason"], "check_failed");
    assert_eq!(device.authorize(&token, "read").0, Some(0));
    let client = Client::new(&device.path("run/agent.sock"));
    for (body, status, code) in [
        (json!({"token": token}), 400, "invalid_request"),
        (json!({"token": token, "checks": ["right(\"a\", \"b\")"]}), 400, "invalid_request"),
        (json!({"token": token, "ttl_s": 60, "unknown": 1}), 400, "invalid_request"),
        (json!({"token": "AAAA", "ttl_s": 60}), 403, "malformed"),
    ] {
        let answer = client.post("/v1/attenuate", body.to_string().into_bytes()).unwrap();
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, &problem["code"]), (status, &code.into()), "{body}");
    }
    let answer = client.post("/v1/attenuate", json!({"token": token, "ttl_s": 60}).to_string().into_bytes()).unwrap();
    assert_eq!(answer.status, 201);
    daemon.stop();
}
