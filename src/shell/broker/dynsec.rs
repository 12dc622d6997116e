//! Who may do what at the broker, in the words of mosquitto's dynamic-security plugin.
//!
//! Owns: the roles, the plugin's initial configuration, and the commands that admit or dismiss a device while the broker
//! runs. All pure. A device reads the feeds that it follows, and no other.
//! Never: sends a command. `fleet serve` does, over its link.
//! Read next: `check.rs`, which probes that a live broker holds to this.
//!
//! What the plugin of mosquitto 2.0 does and does not do, found by running it: it has no placeholder for the user's
//! name, so that each device needs a role of its own; with certificates as logins it is not asked when a client connects,
//! neither for `clientid` nor for `disabled`, so that a device's client id is tied to its certificate by the listener
//! (`conf.rs`), and a ban is the removal of the client; a change of a client's roles disconnects it, a creation that finds it there already
//! changes nothing. An entry that is added to a role that has it, or taken from one that lacks it, is an error and changes
//! nothing either, while to set a client's roles anew, or to take away one that it lacks, disconnects it: so what a device reads
//! is told entry by entry, in its own role.

use std::collections::BTreeSet;

use serde_json::{json, Value};

use crate::fleet::readers::Reader;
use crate::ids::{DeviceId, FeedId, FleetId, KeyId};
use crate::shell::x509::{emergency_name, is_reserved, SERVICE_NAME};

/// Role that every device has: it reads what all may read.
pub const DEVICE_ROLE: &str = "device";

/// Role of the fleet's service.
pub const SERVICE_ROLE: &str = "service";

/// The most bytes of commands in one message.
const COMMANDS_BYTES_MAX: usize = 32 * 1024;

/// The role of one device.
pub fn role_of(device: &DeviceId) -> String {
    format!("device-{device}")
}

/// What one entry of a role is about.
#[derive(Clone, Copy)]
enum Act {
    Send,
    Receive,
    Subscribe,
}

impl Act {
    const fn name(self) -> &'static str {
        match self {
            Self::Send => "publishClientSend",
            Self::Receive => "publishClientReceive",
            Self::Subscribe => "subscribePattern",
        }
    }
}

fn allow(fleet: &FleetId, act: Act, rest: &str) -> Value {
    json!({"acltype": act.name(), "topic": format!("hardtack/1/{fleet}/{rest}"), "priority": 0, "allow": true})
}

fn control(act: Act) -> Value {
    json!({"acltype": act.name(), "topic": "$CONTROL/dynamic-security/#", "priority": 0, "allow": true})
}

/// What every device may: read trust bundles and policies.
fn device_acls(fleet: &FleetId) -> Vec<Value> {
    ["bundle/+", "policy/+"].iter().flat_map(|rest| read(fleet, rest)).collect()
}

fn read(fleet: &FleetId, rest: &str) -> [Value; 2] {
    [allow(fleet, Act::Subscribe, rest), allow(fleet, Act::Receive, rest)]
}

/// What whoever follows a feed may: read all of it.
fn feed_acls(fleet: &FleetId, feed: &FeedId) -> [Value; 2] {
    read(fleet, &format!("feed/{feed}/#"))
}

/// What one device may beside that: say its own, hear its own.
fn own_acls(fleet: &FleetId, device: &DeviceId) -> Vec<Value> {
    let says = ["up/hello", "up/audit", "up/request", "state"];
    let mut acls: Vec<Value> =
        says.iter().map(|rest| allow(fleet, Act::Send, &format!("dev/{device}/{rest}"))).collect();
    let hears = format!("dev/{device}/down/+");
    acls.extend([allow(fleet, Act::Subscribe, &hears), allow(fleet, Act::Receive, &hears)]);
    acls
}

/// What whoever has an emergency key may: bring his statements, see what the broker keeps of them, read trust bundles. His
/// role has the name of his certificate.
fn emergency_acls(fleet: &FleetId, key: KeyId) -> Vec<Value> {
    let own = format!("feed/+/emergency/{key}");
    let mut acls = vec![allow(fleet, Act::Send, &own)];
    for rest in [own.as_str(), "bundle/+"] {
        acls.extend([allow(fleet, Act::Subscribe, rest), allow(fleet, Act::Receive, rest)]);
    }
    acls
}

/// What the fleet's service may: publish what is for all, answer devices, hear them.
fn service_acls(fleet: &FleetId) -> Vec<Value> {
    let says = ["bundle/+", "policy/+", "feed/#", "dev/+/down/+", "dev/+/state", "enrol/+/down"];
    let hears = ["bundle/+", "policy/+", "feed/#", "dev/+/up/+", "dev/+/state", "enrol/+/up"];
    let mut acls: Vec<Value> = says.iter().map(|rest| allow(fleet, Act::Send, rest)).collect();
    for rest in hears {
        acls.extend([allow(fleet, Act::Subscribe, rest), allow(fleet, Act::Receive, rest)]);
    }
    acls
}

/// All that one device may beside what every device may.
fn reader_acls(fleet: &FleetId, reader: &Reader) -> Vec<Value> {
    let mut acls = own_acls(fleet, &reader.device);
    acls.extend(reader.feeds.iter().flat_map(|feed| feed_acls(fleet, feed)));
    acls
}

/// The plugin's configuration file: nothing is allowed but what a role allows.
pub fn configuration(fleet: &FleetId, devices: &[Reader], emergency: &[KeyId]) -> Value {
    let mut clients = vec![json!({"username": SERVICE_NAME, "roles": [{"rolename": SERVICE_ROLE}]})];
    let mut service = service_acls(fleet);
    service.extend([control(Act::Send), control(Act::Subscribe), control(Act::Receive)]);
    let mut roles = vec![
        json!({"rolename": SERVICE_ROLE, "acls": service}),
        json!({"rolename": DEVICE_ROLE, "acls": device_acls(fleet)}),
    ];
    for reader in devices {
        let device = &reader.device;
        clients.push(json!({"username": device.as_str(), "roles": roles_of(device)}));
        roles.push(json!({"rolename": role_of(device), "acls": reader_acls(fleet, reader)}));
    }
    for key in emergency {
        let name = emergency_name(*key);
        clients.push(json!({"username": name, "roles": [{"rolename": name}]}));
        roles.push(json!({"rolename": name, "acls": emergency_acls(fleet, *key)}));
    }
    json!({
        "defaultACLAccess": {
            "publishClientSend": false,
            "publishClientReceive": false,
            "subscribe": false,
            "unsubscribe": true,
        },
        "clients": clients,
        "groups": [],
        "roles": roles,
    })
}

fn roles_of(device: &DeviceId) -> Value {
    json!([{"rolename": DEVICE_ROLE}, {"rolename": role_of(device)}])
}

/// The devices that a configuration file admits, and the feeds that each of them reads. What is no such file admits none.
pub(super) fn admitted(fleet: &FleetId, file: &[u8]) -> Vec<Reader> {
    let file = serde_json::from_slice::<Value>(file).unwrap_or_default();
    let all = |name: &str| file.get(name).and_then(Value::as_array).into_iter().flatten();
    let before = format!("hardtack/1/{fleet}/feed/");
    let feed =
        |acl: &Value| acl.get("topic")?.as_str()?.strip_prefix(&before)?.strip_suffix("/#")?.parse::<FeedId>().ok();
    let reader = |client: &Value| {
        let device =
            client.get("username")?.as_str()?.parse::<DeviceId>().ok().filter(|device| !is_reserved(device))?;
        let role = all("roles").find(|role| role.get("rolename").and_then(Value::as_str) == Some(&role_of(&device)));
        let acls = role.and_then(|role| role.get("acls")).and_then(Value::as_array);
        Some(Reader { feeds: acls.into_iter().flatten().filter_map(feed).collect(), former: BTreeSet::new(), device })
    };
    all("clients").filter_map(reader).collect()
}

/// Messages for the plugin that admit `devices`, and let each read the feeds that it follows. A device for which nothing
/// changes is not disturbed, so that this can be said again at each start; another is disconnected once.
pub fn admit(fleet: &FleetId, devices: &[Reader]) -> Vec<Vec<u8>> {
    messages(devices, |Reader { device, feeds, former: _ }| {
        let mut commands =
            vec![json!({"command": "createRole", "rolename": role_of(device), "acls": own_acls(fleet, device)})];
        commands.extend(entries("addRoleACL", fleet, device, feeds));
        commands.push(json!({"command": "createClient", "username": device.as_str(), "roles": roles_of(device)}));
        commands
    })
}

/// Messages for the plugin that keep each of `devices` from the feeds that it had before and follows no more. One that could read
/// such a feed until now is disconnected, and what waits for it is lost with that: so this comes last.
pub fn withdraw(fleet: &FleetId, devices: &[Reader]) -> Vec<Vec<u8>> {
    messages(devices, |Reader { device, feeds: _, former }| entries("removeRoleACL", fleet, device, former).collect())
}

/// The command for each entry of feeds in the role of a device.
fn entries<'a>(
    command: &'a str,
    fleet: &'a FleetId,
    device: &DeviceId,
    feeds: &'a BTreeSet<FeedId>,
) -> impl Iterator<Item = Value> + 'a {
    let role = role_of(device);
    feeds.iter().flat_map(|feed| feed_acls(fleet, feed)).map(move |acl| {
        let (kind, topic) = (&acl["acltype"], &acl["topic"]);
        json!({"command": command, "rolename": role, "acltype": kind, "topic": topic, "priority": 0, "allow": true})
    })
}

/// A message for the plugin that gives `name` the rights of the service without its administration: for a probe.
pub(super) fn admit_listener(fleet: &FleetId, name: &DeviceId) -> Vec<u8> {
    let commands = json!([
        {"command": "createRole", "rolename": role_of(name), "acls": service_acls(fleet)},
        {"command": "createClient", "username": name.as_str(), "roles": [{"rolename": role_of(name)}]},
    ]);
    json!({"commands": commands}).to_string().into_bytes()
}

/// Messages for the plugin that admit whoever has these emergency keys.
pub fn admit_emergency(fleet: &FleetId, keys: &[KeyId]) -> Vec<Vec<u8>> {
    messages(keys, |key| {
        let name = emergency_name(*key);
        vec![
            json!({"command": "createRole", "rolename": name, "acls": emergency_acls(fleet, *key)}),
            json!({"command": "createClient", "username": name, "roles": [{"rolename": name}]}),
        ]
    })
}

/// Messages for the plugin that dismiss whoever has these emergency keys.
pub fn dismiss_emergency(keys: &[KeyId]) -> Vec<Vec<u8>> {
    messages(keys, |key| {
        let name = emergency_name(*key);
        vec![json!({"command": "deleteClient", "username": name}), json!({"command": "deleteRole", "rolename": name})]
    })
}

/// Messages for the plugin that dismiss `devices`: they are disconnected, and whatever they say or ask for later is
/// refused.
pub fn dismiss(devices: &[DeviceId]) -> Vec<Vec<u8>> {
    messages(devices, |device| {
        vec![
            json!({"command": "deleteClient", "username": device.as_str()}),
            json!({"command": "deleteRole", "rolename": role_of(device)}),
        ]
    })
}

/// Commands keep their order, within messages and from one to the next.
fn messages<T>(clients: &[T], commands: impl Fn(&T) -> Vec<Value>) -> Vec<Vec<u8>> {
    let mut messages: Vec<String> = Vec::new();
    for command in clients.iter().flat_map(commands) {
        let command = command.to_string();
        match messages.last_mut() {
            Some(last) if last.len() + command.len() < COMMANDS_BYTES_MAX => {
                last.push(',');
                last.push_str(&command);
            }
            Some(_) | None => messages.push(command),
        }
    }
    messages.into_iter().map(|commands| format!("{{\"commands\":[{commands}]}}").into_bytes()).collect()
}

/// What the plugin complains of in an answer on its response topic. That something exists already, or is gone already, is
/// no complaint: commands are said more than once.
pub fn complaints(answer: &[u8]) -> Vec<String> {
    let Ok(answer) = serde_json::from_slice::<Value>(answer) else {
        return vec!["the plugin's answer is no JSON".into()];
    };
    let responses = answer.get("responses").and_then(Value::as_array);
    let Some(responses) = responses else { return vec!["the plugin's answer holds no responses".into()] };
    responses
        .iter()
        .filter_map(|response| {
            let error = response.get("error")?.as_str()?;
            let command = response.get("command").and_then(Value::as_str).unwrap_or("?");
            let adds = command.starts_with("create") || command.starts_with("add");
            let takes = command.starts_with("delete") || command.starts_with("remove");
            let harmless = (adds && error.ends_with("already exists")) || (takes && error.ends_with("not found"));
            (!harmless).then(|| format!("{command}: {error}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shell::mqtt::LinkConfig;
    use crate::wire::bundle::FEEDS_MAX;
    use crate::wire::link::{device_filters, service_filters, Topic};

    fn fleet() -> FleetId {
        "acme".parse().unwrap()
    }

    fn device(id: &str) -> DeviceId {
        id.parse().unwrap()
    }

    fn reader(id: &str, feeds: &[&str], former: &[&str]) -> Reader {
        let all = |feeds: &[&str]| feeds.iter().map(|feed| feed.parse().unwrap()).collect();
        Reader { device: device(id), feeds: all(feeds), former: all(former) }
    }

    /// Whether a list of entries allows an act on a topic or filter. Levels are compared one by one, as the plugin does.
    fn allows(acls: &[Value], act: Act, topic: &str) -> bool {
        acls.iter().any(|acl| {
            let pattern = acl["topic"].as_str().unwrap();
            acl["acltype"] == act.name() && acl["allow"] == true && covers(pattern, topic)
        })
    }

    fn covers(pattern: &str, topic: &str) -> bool {
        let (mut pattern, mut topic) = (pattern.split('/'), topic.split('/'));
        loop {
            match (pattern.next(), topic.next()) {
                (Some("#"), Some(_)) | (None, None) => return true,
                (Some("+"), Some(level)) if level != "#" => {}
                (Some(wanted), Some(level)) if wanted == level => {}
                _ => return false,
            }
        }
    }

    #[test]
    fn roles_cover_what_both_sides_do_and_nothing_of_others() {
        let (fleet, gateway) = (fleet(), device("gw-07"));
        let mut acls = device_acls(&fleet);
        acls.extend(reader_acls(&fleet, &reader("gw-07", &["main"], &["old"])));
        for filter in device_filters(&fleet, &gateway, &"main".parse().unwrap()) {
            assert!(allows(&acls, Act::Subscribe, &filter), "{filter}");
        }
        for topic in [Topic::UpHello, Topic::UpAudit, Topic::UpRequest, Topic::State] {
            assert!(allows(&acls, Act::Send, &topic(gateway.clone()).text(&fleet)));
            assert!(!allows(&acls, Act::Send, &topic(device("gw-08")).text(&fleet)));
        }
        for topic in [Topic::Bundle(1), Topic::Policy(1), Topic::FeedHead("main".parse().unwrap())] {
            assert!(!allows(&acls, Act::Send, &topic.text(&fleet)));
            assert!(allows(&acls, Act::Receive, &topic.text(&fleet)));
        }
        assert!(!allows(&acls, Act::Subscribe, "$share/thief/hardtack/1/acme/dev/gw-07/down/+"));
        for filter in ["feed/#", "feed/+/head", "feed/other/head", "feed/old/+", "feed/mainly/+", "feed/+/emergency/+"]
        {
            assert!(!allows(&acls, Act::Subscribe, &format!("hardtack/1/acme/{filter}")), "{filter}");
            assert!(!allows(&acls, Act::Receive, &format!("hardtack/1/acme/{filter}")), "{filter}");
        }
        let key = KeyId([0xab; 8]);
        let own = Topic::FeedEmergency("main".parse().unwrap(), key).text(&fleet);
        let acls = emergency_acls(&fleet, key);
        assert!(allows(&acls, Act::Send, &own) && allows(&acls, Act::Receive, &own));
        let main = || "main".parse().unwrap();
        let others = [
            Topic::FeedEmergency(main(), KeyId([1; 8])),
            Topic::FeedHead(main()),
            Topic::FeedRules(main()),
            Topic::Bundle(1),
            Topic::DownAck(gateway.clone()),
            Topic::UpHello(gateway),
        ];
        for other in others {
            assert!(!allows(&acls, Act::Send, &other.text(&fleet)), "{other}");
        }
        for filter in ["feed/+/emergency/+", "feed/main/head", "dev/+/up/audit", "policy/+"] {
            assert!(!allows(&acls, Act::Subscribe, &format!("hardtack/1/acme/{filter}")), "{filter}");
        }
        // What the file says of a key is what a running plugin is told of it.
        let file = configuration(&fleet, &[], &[key]);
        let name = emergency_name(key);
        let role = file["roles"].as_array().unwrap().iter().find(|role| role["rolename"] == *name).unwrap();
        assert_eq!(role["acls"], json!(acls));
        assert!(file["clients"].as_array().unwrap().iter().any(|client| client["username"] == *name));
        // What a ledger that was lost is asked for.
        let kept = [Topic::Bundle(7), Topic::FeedHead(main())].map(|topic| topic.text(&fleet));
        let kept = kept.into_iter().chain(["hardtack/1/acme/policy/+".to_owned()]);
        for filter in service_filters(&fleet).into_iter().chain(kept) {
            assert!(allows(&service_acls(&fleet), Act::Subscribe, &filter), "{filter}");
        }
    }

    #[test]
    fn a_message_of_commands_fits_into_a_packet() {
        // One that went through every feed there can be while it was away, and one of each name at its longest.
        let feeds: Vec<String> = (0..FEEDS_MAX).map(|number| format!("{number:f>32}")).collect();
        let feeds: Vec<&str> = feeds.iter().map(String::as_str).collect();
        let longest = reader(&"a".repeat(DeviceId::MAX), &feeds, &feeds);
        let fleet = "f".repeat(FleetId::MAX).parse().unwrap();
        let devices = vec![longest; 10];
        let of =
            |message: &Vec<u8>| serde_json::from_slice::<Value>(message).unwrap()["commands"].as_array().unwrap().len();
        for (messages, count) in
            [(admit(&fleet, &devices), 2 + 2 * FEEDS_MAX), (withdraw(&fleet, &devices), 2 * FEEDS_MAX)]
        {
            assert!(messages.iter().all(|message| message.len() + 100 < LinkConfig::PACKET_BYTES_MAX as usize));
            assert_eq!(messages.iter().map(of).sum::<usize>(), 10 * count, "none is lost");
        }
        assert_eq!(admit(&fleet, &[]), Vec::<Vec<u8>>::new());
        assert_eq!(withdraw(&fleet, &[reader("gw-07", &["main"], &[])]), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn who_is_admitted_is_read_back_from_the_file() {
        let readers = vec![reader("gw-07", &["main"], &[]), reader("gw-08", &["f-north", "main"], &[])];
        let file = configuration(&fleet(), &readers, &[KeyId([1; 8])]).to_string();
        assert_eq!(admitted(&fleet(), file.as_bytes()), readers);
        assert_eq!(admitted(&fleet(), b"junk"), Vec::new());
    }

    #[test]
    fn only_true_complaints_are_told() {
        let answer = br#"{"responses":[{"command":"createRole","error":"Role already exists"},
            {"command":"deleteClient","error":"Client not found"},{"command":"createClient","error":"Role not found"},
            {"command":"createClient"},{"command":"addRoleACL","error":"ACL with this topic already exists"},
            {"command":"removeRoleACL","error":"ACL not found"}]}"#;
        // A role that is missing makes the creation of a client fail: that is a complaint.
        assert_eq!(complaints(answer), ["createClient: Role not found"]);
        assert_eq!(complaints(b"x").len(), 1);
        assert_eq!(complaints(b"{}").len(), 1);
    }
}
