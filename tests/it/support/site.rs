//! A whole fleet at its simplest: a broker, the service, and one device that is in touch.

use hardtack::shell::cast::{Fleet, Gateway, Player, Stage};
use serde_json::{json, Value};

/// A fleet that serves, and a device that is online and has its grant.
pub(crate) struct Site {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) stage: Stage,
    pub(crate) fleet: Fleet,
    pub(crate) gateway: Gateway,
    pub(crate) url: String,
    pub(crate) serve: Player,
    _broker: Player,
}

impl Site {
    pub(crate) fn online() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stage = Stage::new(env!("CARGO_BIN_EXE_hardtack").into());
        let fleet = Fleet::init(&stage, folder.path().join("fleet"), "acme").unwrap();
        let (broker, addr) = stage.broker().unwrap();
        let url = format!("mqtt://{addr}");
        let serve = fleet.serve(&url).unwrap();
        let mut gateway = Gateway::new(&stage, "gw-07", folder.path());
        fleet.enrol(&gateway, folder.path()).unwrap();
        gateway.start(&url, 0).unwrap();
        let ready = |status: &Value| status["mode"] == "online" && status["grants"][0].is_object();
        gateway.wait_status("a grant while online", ready).unwrap();
        Self { folder, stage, fleet, gateway, url, serve, _broker: broker }
    }

    /// A task that may read below `modbus/`.
    pub(crate) fn begin(&self) -> Value {
        let rights = json!([{"resource": "modbus/*", "action": "read"}]);
        self.gateway.post("/v1/tasks", &json!({"task": "pump", "rights": rights, "ttl_s": 600})).unwrap()
    }
}
