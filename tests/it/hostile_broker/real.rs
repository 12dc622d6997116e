//! A real mosquitto that loses what it retained, or has an older copy of it put back.

use std::path::Path;

use hardtack::shell::cast::{Fleet, Gateway, Player, Stage};
use serde_json::json;

use crate::support::mosquitto::Mosquitto;

/// A fleet with its service, and a gateway that is online and knows of a revocation.
struct Scene {
    fleet: Fleet,
    gateway: Gateway,
    serve: Option<Player>,
    broker: Mosquitto,
    url: String,
    /// A token that is revoked.
    revoked: String,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let broker = Mosquitto::keeping();
        let url = format!("mqtt://{}", broker.addr());
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(Path::new(env!("CARGO_BIN_EXE_hardtack")).into());
        let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
        let serve = Some(fleet.serve(&url).unwrap());
        let mut gateway = Gateway::new(&stage, "gw-07", folder.path());
        fleet.enrol(&gateway, folder.path()).unwrap();
        gateway.start(&url, 0).unwrap();
        gateway.wait_mode("online").unwrap();
        let mut scene = Self { fleet, gateway, serve, broker, url, revoked: String::new(), _folder: folder };
        let rights = json!([{"resource": "modbus/*", "action": "read"}]);
        let task = scene.gateway.post("/v1/tasks", &json!({"task": "pump", "rights": rights, "ttl_s": 600})).unwrap();
        scene.revoked = task["token"].as_str().unwrap().to_owned();
        let seq = scene.revoke(task["task_id"].as_str().unwrap());
        scene.expect(seq, "online");
        scene
    }

    /// Revokes a task. Gives the number of the head that says so.
    fn revoke(&mut self, task: &str) -> u64 {
        self.fleet.run(&["revoke", "task", task]).unwrap();
        let signed = self.serve.as_mut().unwrap().wait("feed.signed", |_| true).unwrap();
        signed["seq"].as_u64().unwrap()
    }

    #[track_caller]
    fn expect(&mut self, seq: u64, mode: &str) {
        let what = format!("head {seq} and mode {mode}");
        self.gateway
            .wait_status(&what, |status| status["feed_seq"].as_u64() >= Some(seq) && status["mode"] == mode)
            .unwrap();
        let token = self.revoked.clone();
        assert_eq!(self.gateway.authorize(&token, "read", "modbus/a").unwrap()["reason"], "revoked");
    }
}

#[test]
fn what_mosquitto_has_lost_the_service_publishes_again() {
    let mut scene = Scene::new();
    scene.gateway.agent = None;
    let seq = scene.revoke("t-while-it-was-away");
    scene.broker.stop();
    scene.broker.forget();
    scene.broker.restart();
    scene.gateway.start(&scene.url, 0).unwrap();
    scene.expect(seq, "online");
    let seq = scene.revoke("t-afterwards");
    scene.expect(seq, "online");
}

#[test]
fn an_old_copy_of_mosquittos_store_takes_nothing_back() {
    let mut scene = Scene::new();
    scene.broker.stop();
    let old = scene.broker.kept();
    scene.broker.restart();
    scene.serve.as_mut().unwrap().wait("link.up", |_| true).unwrap();
    let newest = (0..3).map(|number| scene.revoke(&format!("t-{number}"))).last().unwrap();
    scene.expect(newest, "online");

    // Nobody is there who could publish anew.
    scene.serve = None;
    scene.broker.stop();
    scene.broker.keep(&old);
    scene.broker.restart();
    let head = |line: &serde_json::Value| line["topic"].to_string().contains("feed/main/head");
    let refused = scene.gateway.agent.as_mut().unwrap().wait("message.refused", head).unwrap();
    assert!(refused["reason"].to_string().contains("rolled back"), "{refused}");
    scene.expect(newest, "offline");

    scene.serve = Some(scene.fleet.serve(&scene.url).unwrap());
    let newest = scene.revoke("t-afterwards");
    scene.expect(newest, "online");
}
