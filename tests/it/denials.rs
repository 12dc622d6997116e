//! A program that asks for the same forbidden thing all the time, at a real daemon, to the collector's report.

use std::collections::BTreeMap;

use rustix::process::{kill_process, Pid, Signal};
use serde_json::Value;

use crate::support::site::Site;

const ASKED: u64 = 200;

#[test]
fn equal_denials_make_few_records_and_each_is_counted() {
    let site = Site::online();
    let task = site.begin();
    let token = task["token"].as_str().unwrap();
    let Site { folder, stage, fleet, mut gateway, url, .. } = site;

    // What callers heard under each name.
    let mut heard = BTreeMap::<String, u64>::new();
    for _ in 0..ASKED {
        let answer = gateway.authorize(token, "read", "files/secret").unwrap();
        assert_eq!((&answer["decision"], &answer["reason"]), (&"deny".into(), &"no_right".into()), "{answer}");
        *heard.entry(answer["decision_id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let status = gateway.get("/v1/status").unwrap();
    let alone = heard.len() as u64;
    assert_eq!(status["counters"]["repeated"], ASKED - alone);
    // Ten windows and more would mean that each question took half a second.
    assert!(alone < 40, "{alone} records for {ASKED} denials");

    // An end in order leaves nothing uncounted; the next start delivers it.
    let mut agent = gateway.agent.take().unwrap();
    kill_process(Pid::from_raw(agent.id() as i32).unwrap(), Signal::TERM).unwrap();
    agent.wait("agent.stopped", |_| true).unwrap();
    gateway.start(&url, 0).unwrap();
    gateway.wait_status("all delivered", |status| status["pending"] == 0).unwrap();

    let export = fleet.run(&["audit", "export"]).unwrap().as_str().unwrap().to_owned();
    let mut collected = BTreeMap::<String, u64>::new();
    for line in export.lines().skip(1).map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let (of, count) = match line["kind"].as_str().unwrap() {
            "decision" => (line["index"].as_u64(), 1),
            "repeated" => (line["of"].as_u64(), line["count"].as_u64().unwrap()),
            _ => continue,
        };
        *collected.entry(format!("gw-07/{}/{}", line["era"], of.unwrap())).or_default() += count;
    }
    assert_eq!(collected, heard, "each answer is in its record, or counted beside it");

    let file = folder.path().join("export");
    std::fs::write(&file, export).unwrap();
    let verdict = stage.run(&["-o", "json", "audit", "verify", file.to_str().unwrap()]).unwrap();
    let device = &verdict["devices"][0];
    assert_eq!((&device["decisions"], &device["repeated"]), (&ASKED.into(), &(ASKED - alone).into()), "{verdict}");
    assert_eq!((&device["cut_short"], &device["missing"]), (&0.into(), &0.into()), "{verdict}");
    assert_eq!(device["next_within_s"], 21_600, "{verdict}");
}
