//! `hardtack agent run --dev`: a throw-away fleet of one device, for whoever writes a workload.
//!
//! Owns: the temporary folder, the fleet that is founded in it, the one grant, the banner.
//! Never: touches the state of a real device; keeps a key when it ends; needs a broker, or the operator's build.
//! Read next: `../fleet/enrol.rs` and `../agent/enrol.rs`, which are the same as for a real device.

use std::path::Path;

use rand_core::RngCore;

use super::agent::serve;
use super::output::tell;
use super::{Exit, Failure, Globals};
use crate::agent::enrol::accept;
use crate::config::{BrokerConfig, Config};
use crate::fleet::enrol::{answer, approve, found, Founding, Replace};
use crate::fleet::grant::{create, NewGrant};
use crate::fleet::{policy, Book, Effects, FleetError, FleetKeys, Settings};
use crate::ids::{hex, DeviceId, Nonce, TaskClass};
use crate::shell::files::{create_dir, make_private};
use crate::shell::keys::DeviceKeyFile;
use crate::shell::store::Store;
use crate::shell::{clock, entropy};
use crate::time::{Millis, Timestamp};
use crate::wire::bundle::{BrokerPins, Fingerprint};
use crate::wire::enrol::{DeviceKeys, EnrolAnswer, EnrolRequest};
use crate::wire::link::Right;
use crate::wire::policy::PolicyDocument;
use crate::wire::token::ClassRight;

/// What the grant lets the developer's own user begin: class, actions, resources. The first covers what enforcement points and
/// the proxies for tools and secrets ask about, the second is the README's.
const RIGHTS: [(&str, &[&str], &[&str]); 3] = [
    ("dev", &["read", "write", "call", "delete", "get"], &["dev/*", "http/*", "mcp/*", "secret/*"]),
    ("pump", &["read"], &["modbus/*"]),
    ("pump", &["write"], &["modbus/pump1/speed"]),
];
const DAY: Millis = Millis::from_secs(86_400);

/// Runs until it is asked to stop, then the folder goes.
///
/// # Errors
/// What keeps an agent from starting, and flags that make no sense with a throw-away device.
pub fn run(config: &Config, executors: Vec<String>, globals: &Globals) -> Result<Exit, Failure> {
    if globals.state_dir.is_some() {
        let advice = "leave --state-dir out: a throw-away device has a folder of its own";
        return Err(Failure::new(Exit::Usage, "--dev and --state-dir exclude each other", advice));
    }
    let folder = tempfile::Builder::new().prefix("hardtack-dev-").tempdir().map_err(|error| {
        let advice = "set TMPDIR to a folder that can be written";
        Failure::new(Exit::Failure, format!("no temporary folder: {error}"), advice)
    })?;
    let named = globals.run_dir.is_some() || std::env::var_os("HARDTACK_RUN_DIR").is_some_and(|dir| !dir.is_empty());
    let config = Config {
        state_dir: folder.path().join("state"),
        run_dir: if named { config.run_dir.clone() } else { folder.path().join("run") },
        broker: BrokerConfig::default(),
        ..config.clone()
    };
    let executors: Vec<String> = curl().into_iter().chain(executors).collect();
    let device = settle(&config, &executors)?;
    tell(&banner(&device, &executors, &config.run_dir));
    let ended = serve(&config);
    tell(&format!("the throw-away device {device} is gone, with its keys and its audit"));
    ended
}

/// Founds the fleet, lets the device in and writes its state folder, each as it is done for a real one.
fn settle(config: &Config, executors: &[String]) -> Result<DeviceId, Failure> {
    let at = clock::wall().ok_or_else(|| {
        Failure::new(Exit::TimeUntrusted, "the system clock stands before 1970", "set it: the fleet is founded by it")
    })?;
    let mut nonce = Nonce([0; 16]);
    entropy::rng().fill_bytes(&mut nonce.0);
    let device: DeviceId = format!("dev-{}", hex(&nonce.0[..4])).parse().map_err(odd)?;
    let file = DeviceKeyFile { device, nonce, used: None, keys: DeviceKeys::generate(&mut entropy::rng()) };
    let (answer, fingerprint) = fleet_of_one(&file, executors, &config.profile.name, at).map_err(|error| {
        let advice = "name fewer selectors with --may-step, or others";
        Failure::new(Exit::Usage, error, advice)
    })?;
    create_dir(&config.state_dir).and_then(|()| make_private(&config.state_dir)).map_err(odd)?;
    file.create(&config.state_dir).map_err(odd)?;
    let accepted =
        accept(&answer, &file.keys, &file.device, &fingerprint, nonce, &config.profile, None).map_err(odd)?;
    let (mut store, _) = Store::open(&config.state_dir, &config.profile.queue).map_err(odd)?;
    store.commit(accepted.batch).map_err(odd)?;
    Ok(file.device)
}

/// What founds, approves and answers is the real thing, on keys that nobody keeps.
fn fleet_of_one(
    file: &DeviceKeyFile,
    executors: &[String],
    profile: &str,
    at: Timestamp,
) -> Result<(EnrolAnswer, Fingerprint), FleetError> {
    let rng = &mut entropy::rng();
    let keys = FleetKeys::generate(rng);
    let operator = keys.operator("dev");
    let founding = Founding {
        fleet: name("dev")?,
        feed: name("main")?,
        broker: BrokerPins::default(),
        keys: &keys,
        operator: operator.name,
        at,
        cadence: Settings::default().cadence,
    };
    // Nothing of it is kept, so there is no ledger to write to.
    let fx = &mut Effects::default();
    let mut book = found(&founding, fx)?;
    policy::set(&mut book, patient(at), &keys.policy, operator, at, fx)?;
    let request = EnrolRequest {
        device: file.device.clone(),
        keys: file.keys.public(),
        nonce: file.nonce,
        profile: profile.into(),
    };
    let signed = request.sign(&file.keys);
    approve(&mut book, &signed, EnrolRequest::code(&signed), Replace::Keep, operator, at, fx)?;
    create(&mut book, grant(&file.device, executors)?, &keys.issuer, operator, at, rng, fx)?;
    let answer = answer(&book, &file.device, Vec::new(), &keys.service, at, rng)?;
    Ok((answer, fingerprint(&book)?))
}

fn fingerprint(book: &Book) -> Result<Fingerprint, FleetError> {
    book.trust().fingerprint().to_string().parse().map_err(invalid)
}

/// Nobody will ever bring newer revocations, so their age denies nothing here. The classes of risk are the usual ones.
fn patient(at: Timestamp) -> PolicyDocument {
    let mut policy = PolicyDocument::built_in(at);
    policy.risks.iter_mut().for_each(|level| level.staleness_max_ms = None);
    policy
}

fn grant(device: &DeviceId, executors: &[String]) -> Result<NewGrant, FleetError> {
    let selector = selector();
    let classes: [TaskClass; 2] = [name("dev")?, name("pump")?];
    let pairs = RIGHTS.iter().flat_map(|(class, actions, resources)| {
        let each = move |action| resources.iter().map(move |resource| (class, action, resource));
        actions.iter().flat_map(each)
    });
    let right = |(class, action, resource): (&&str, &&str, &&str)| {
        let right = Right { resource: (*resource).into(), action: (*action).into() };
        Ok(ClassRight { class: name(class)?, right })
    };
    Ok(NewGrant {
        device: device.clone(),
        owner: "dev@dev".into(),
        life: Millis(30 * DAY.0),
        may_begin: classes.iter().map(|class| (selector.clone(), class.clone())).collect(),
        may_step: executors
            .iter()
            .flat_map(|executor| classes.iter().map(|class| (executor.clone(), class.clone())))
            .collect(),
        rights: pairs.map(right).collect::<Result<_, FleetError>>()?,
        offline_max: Millis(30 * DAY.0),
        uses_max: 1_000_000,
        boots_max: 1000,
        task_ttl_max: Millis::from_secs(3600),
        staleness_max: Vec::new(),
        min_time_class: None,
        renewal: crate::fleet::book::Renewal::Never,
    })
}

fn selector() -> String {
    format!("unix:uid:{}", rustix::process::getuid().as_raw())
}

/// Who can be an executor without another user: a program that no planner is, and that everybody has.
fn curl() -> Option<String> {
    let path = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&path).map(|folder| folder.join("curl")).find(|file| file.is_file())?;
    // The kernel names the file that runs, not a link to it.
    Some(format!("unix:path:{}", found.canonicalize().ok()?.to_str()?))
}

fn name<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, FleetError> {
    text.parse().map_err(invalid)
}

fn invalid(error: impl std::fmt::Display) -> FleetError {
    FleetError::Invalid(error.to_string())
}

/// Nothing that a developer did.
fn odd(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Failure, error, "make sure that TMPDIR can be written and has room")
}

fn banner(device: &DeviceId, executors: &[String], run_dir: &Path) -> String {
    // Who reads this may be in another folder by then.
    let folder = std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned());
    let socket = folder.join("agent.sock");
    let (folder, socket) = (folder.display(), socket.display());
    let rights: Vec<String> = RIGHTS
        .iter()
        .map(|(class, actions, resources)| format!("{class}: {} on {}", actions.join(", "), resources.join(", ")))
        .collect();
    let rule = "!".repeat(80);
    let plan = executors.first().map(|executor| {
        format!(
            "plan:    for {} (as `hardtack agent run --dev --may-step SELECTOR` lets it)\n  \
             export HARDTACK_SOCKET={socket}\n  \
             P=$(hardtack task begin dev --planner --right 'read:dev/*' --ttl 10m)    # tells its id\n  \
             S=$(hardtack task step TASK --token $P --executor {executor} --right read:dev/thing --ttl 1m)\n  \
             curl -s --unix-socket {socket} http://hardtack/v1/authorize -d \
             '{{\"token\":\"'$S'\",\"operation\":\"read\",\"resource\":\"dev/thing\"}}'    # allowed once, then uses_spent\n",
            executors.join(", ")
        )
    });
    format!(
        "{rule}\n\
         !!  DEVELOPMENT: a throw-away fleet of one device, {device}.\n\
         !!  Its keys were made a moment ago and go when this ends. It protects nothing.\n\
         !!  It is always offline, and never denies for the age of its revocations.\n\
         {rule}\n\
         socket   {socket}\n\
         grant    {} may begin `dev` and `pump`\n         {}\n\
         try:\n  \
         curl -s --unix-socket {socket} http://hardtack/v1/whoami\n  \
         curl -s --unix-socket {socket} http://hardtack/v1/tasks -d \
         '{{\"task\":\"dev\",\"rights\":[{{\"resource\":\"dev/*\",\"action\":\"read\"}}],\"ttl_s\":600}}'\n  \
         curl -s --unix-socket {socket} http://hardtack/v1/authorize -d \
         '{{\"token\":\"TOKEN\",\"operation\":\"read\",\"resource\":\"dev/thing\"}}'\n\
         or:      export HARDTACK_SOCKET={socket}; hardtack whoami\n\
         proxies: hardtack --run-dir {folder} mcp proxy --listen …, hardtack --run-dir {folder} secrets serve …\n{}",
        selector(),
        rights.join("\n         "),
        plan.unwrap_or_default(),
    )
}
