//! A real fleet on this machine: a broker, the fleet's service, and for each gateway an agent behind a link of its own.
//!
//! Owns: the processes, the links and the folder; what an act does to them.
//! Never: leaves a process behind: each is killed when its handle is dropped.
//! Read next: `play.rs`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use hardtack::cli::Failure;
use hardtack::fleet::keys::Issuer;
use hardtack::shell::cast::{failed, path, user, Fleet, Gateway, Player, Stage};
use hardtack::shell::clock;
use hardtack::shell::fleet_keys::KeyFolder;
use hardtack::shell::proxy::{Proxy, Swallow};
use hardtack::shell::store::FORMAT;
use hardtack::wire::policy::BUILT_IN;
use rand_chacha::ChaCha8Rng;
use serde_json::Value as Json;
use tokio::runtime::Runtime;
use toml::{Table, Value};

use super::broker::Mosquitto;
use crate::arguments::Limit;
use crate::fault::{Direction, Retained, WallAfter};
use crate::operator::{device_name, OWNER};
use crate::plan::Turn;
use crate::random::{between, stream};
use crate::scenario::{PolicyPlan, Scenario, Span};
use crate::theft::{Theft, Victim};
use crate::workload::program_rights;
use crate::world::Away;

/// The fleet's name.
const FLEET: &str = "sim";

/// What a gateway's programs and the play both look at.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Nothing runs there.
    pub(crate) asleep: AtomicBool,
    /// The highest position of a revocation feed that its log says it applied.
    pub(crate) applied: AtomicU64,
}

/// A gateway.
pub(crate) struct Device {
    pub(crate) gateway: Gateway,
    pub(crate) shared: Arc<Shared>,
    proxy: Proxy,
    url: String,
    /// How many faults block each direction.
    blocked: [u32; 2],
    /// How long bytes take each way, and what makes that longer now, in milliseconds.
    latency: u64,
    slow: Vec<(Direction, u64)>,
    suspended: Away,
    downgraded: Away,
    /// What its folder says of its format, while that says that a newer version wrote it.
    format: Option<Vec<u8>>,
    /// Says by how much its wall clock is off.
    clock: PathBuf,
    wall_ms: i64,
    /// What a battery-backed clock is off by.
    rtc_ms: Option<i64>,
    /// Which boot of its kernel this is, and how much of the machine's own had passed when it began.
    pub(crate) boots: u8,
    booted_s: i64,
    /// Makes what thieves and forgers make for it.
    pub(crate) thief: Thief,
    /// Whether the supply is on.
    pub(crate) is_on: bool,
    /// Whether an end without a warning may have cost counts of equal denials.
    pub(crate) killed: bool,
}

/// All of it.
pub(crate) struct Site {
    // Processes and links before the folder that they work in.
    pub(crate) devices: Vec<Device>,
    serve: Option<Player>,
    broker: Mosquitto,
    broker_away: Away,
    service_away: Away,
    pub(crate) fleet: Fleet,
    _runtime: Runtime,
    pub(crate) folder: tempfile::TempDir,
}

impl Site {
    /// Founds a fleet as its operator does, and waits until every gateway is online and holds its grant.
    pub(crate) fn found(scenario: &Scenario, seed: u64, binary: PathBuf) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new().prefix("hardtack-live-").tempdir();
        let folder = folder.map_err(|error| failed("no temporary folder", error))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| failed("no runtime for the links", error))?;
        let stage = Stage::new(binary);
        let fleet = Fleet::init(&stage, folder.path().join("fleet"), FLEET)?;
        set_policy(&scenario.policy, &fleet, folder.path())?;
        let broker = Mosquitto::start(&stage, &fleet.dir)?;
        let serve = Some(fleet.serve(&format!("mqtts://127.0.0.1:{}", broker.addr().port()))?);
        let settings = profile(scenario, folder.path())?;
        let issuer = KeyFolder::of(&fleet.dir).issuer().map_err(|error| failed("no issuer's key", error))?;
        let mut devices = Vec::new();
        for number in 0..scenario.fleet.devices {
            let proxy = runtime.block_on(Proxy::start(broker.addr()));
            let proxy = proxy.map_err(|error| failed("no link", error))?;
            let (low, high) = scenario.fleet.latency_ms;
            let name = device_name(number).to_string();
            let latency = between(&mut stream(seed, &name, "live latency"), low, high);
            proxy.delay(Duration::from_millis(latency), Duration::from_millis(latency));
            let mut gateway = Gateway::new(&stage, &name, folder.path());
            let clock = folder.path().join(format!("{name}.clock"));
            gateway.settings = settings.clone();
            gateway.settings.push(("HARDTACK_TEST_CLOCK_FILE", path(&clock).to_owned()));
            fleet.admit(&gateway, folder.path())?;
            grant(scenario, &fleet, &name)?;
            let has_rtc = number < scenario.fleet.devices - scenario.fleet.without_rtc;
            let mut device = Device {
                gateway,
                shared: Arc::default(),
                url: format!("mqtts://127.0.0.1:{}", proxy.addr().port()),
                proxy,
                blocked: [0, 0],
                latency,
                slow: Vec::new(),
                suspended: Away::default(),
                downgraded: Away::default(),
                format: None,
                clock,
                wall_ms: 0,
                rtc_ms: has_rtc.then_some(0),
                boots: 0,
                booted_s: 0,
                thief: Thief::of(&name, &issuer, seed)?,
                is_on: true,
                killed: false,
            };
            device.show_wall(WallAfter::Kept)?;
            device.start()?;
            devices.push(device);
        }
        for device in &devices {
            let ready = |status: &Json| status["mode"] == "online" && status["grants"][0].is_object();
            device.gateway.wait_status("a grant while online", ready)?;
        }
        let (broker_away, service_away) = (Away::default(), Away::default());
        Ok(Self { devices, serve, broker, broker_away, service_away, fleet, _runtime: runtime, folder })
    }

    /// The broker goes away.
    pub(crate) fn stop_broker(&mut self, retained: Retained) -> Result<(), Failure> {
        self.broker_away.begins();
        if !self.broker.is_up() {
            return Ok(());
        }
        self.broker.stop()?;
        match retained {
            Retained::Kept => Ok(()),
            Retained::Lost => self.broker.forget(),
        }
    }

    /// One fault less keeps it away.
    pub(crate) fn start_broker(&mut self) -> Result<(), Failure> {
        if self.broker_away.ends() {
            self.broker.restart()?;
        }
        Ok(())
    }

    /// The service is killed.
    pub(crate) fn stop_service(&mut self) {
        if self.service_away.begins() {
            self.serve.take().into_iter().for_each(Player::kill);
        }
    }

    /// One fault less keeps it away.
    pub(crate) fn start_service(&mut self) -> Result<(), Failure> {
        if self.service_away.ends() {
            self.serve = Some(self.fleet.serve(&format!("mqtts://127.0.0.1:{}", self.broker.addr().port()))?);
        }
        Ok(())
    }

    /// Whether a gateway's agent runs and no broker can be reached from there.
    pub(crate) fn is_alone(&self, device: u32) -> bool {
        let of = &self.devices[device as usize];
        let runs = of.gateway.agent.is_some() && !of.is_asleep();
        runs && !(of.passes() == (true, true) && self.broker.is_up())
    }

    /// The number of the newest head of the fleet's feed.
    pub(crate) fn newest_head(&self) -> Result<u64, Failure> {
        let known = self.fleet.run(&["revocations"])?;
        known["head"]["seq"].as_u64().ok_or_else(|| failed("the fleet has signed no head", &known))
    }
}

impl Device {
    /// The agent ends, a newer version's format is what its folder says, and the same agent is started over that: it must
    /// end with the reason. Whether any of it could be done.
    pub(crate) fn hand_over(&mut self) -> Result<bool, Failure> {
        if !self.downgraded.begins() || !self.is_on || self.is_asleep() || self.gateway.agent.is_none() {
            return Ok(false);
        }
        self.shut_down()?;
        let path = self.gateway.state.join("format");
        let failed_to = |error: std::io::Error| failed("the folder's format cannot be changed", error);
        let said = std::fs::read(&path).map_err(failed_to)?;
        let newer = FORMAT + 1;
        std::fs::write(&path, format!("{newer}\n")).map_err(failed_to)?;
        self.format = Some(said);
        let reason = format!("has format {newer}");
        match self.start() {
            Ok(()) => Err(failed("an agent runs over the folder of a newer version", self.gateway.state.display())),
            Err(refused) if refused.to_string().contains(&reason) => Ok(true),
            Err(other) => Err(failed("an agent ended over the folder of a newer version, and did not say why", other)),
        }
    }

    /// Whether a newer version's format is what its folder says: what is started ends.
    pub(crate) fn is_newer(&self) -> bool {
        self.format.is_some()
    }

    /// The newer version is there again. Whether it was awaited.
    pub(crate) fn take_back(&mut self) -> Result<bool, Failure> {
        if !self.downgraded.ends() {
            return Ok(false);
        }
        let Some(said) = self.format.take() else { return Ok(false) };
        let written = std::fs::write(self.gateway.state.join("format"), said);
        written.map(|()| true).map_err(|error| failed("the folder's format cannot be changed", error))
    }

    /// Starts the agent and waits until it decides.
    pub(crate) fn start(&mut self) -> Result<(), Failure> {
        // In a boot that is pretended no process has begun: as in the model, none holds a task and ends with the boot.
        let boot = format!("{:08x}-0000-4000-8000-000000000000", u64::from(self.boots) + 0xb007_0000);
        let mut env = vec![("HARDTACK_TEST_BOOT_ID", boot)];
        if self.boots > 0 {
            env.push(("HARDTACK_TEST_BOOTTIME_OFFSET_S", (-self.booted_s).to_string()));
        }
        self.gateway.start_with(&self.url, &env)
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.killed = true;
        self.gateway.agent.take().into_iter().for_each(Player::kill);
    }

    /// SIGTERM.
    pub(crate) fn shut_down(&mut self) -> Result<(), Failure> {
        self.gateway.agent.take().map_or(Ok(()), Player::finish)
    }

    /// The kernel starts: another boot, whose clock begins anew.
    pub(crate) fn power_on(&mut self, wall: WallAfter) -> Result<(), Failure> {
        self.is_on = true;
        self.boots = self.boots.saturating_add(1);
        self.booted_s = i64::try_from(clock::now().boottime.secs()).unwrap_or(i64::MAX);
        self.show_wall(wall)
    }

    fn show_wall(&mut self, wall: WallAfter) -> Result<(), Failure> {
        let kept = match (&mut self.rtc_ms, wall) {
            (Some(rtc), WallAfter::Stepped(by)) => {
                *rtc = rtc.saturating_add(by);
                Some(*rtc)
            }
            (Some(rtc), WallAfter::Kept) => Some(*rtc),
            (_, WallAfter::Epoch) | (None, _) => None,
        };
        let now = clock::wall().map_or(0, |wall| i64::try_from(wall.0).unwrap_or(0));
        self.wall_ms = kept.unwrap_or(-now);
        self.write_wall()
    }

    /// The wall clock jumps.
    pub(crate) fn step_wall(&mut self, by: i64) -> Result<(), Failure> {
        self.wall_ms = self.wall_ms.saturating_add(by);
        self.write_wall()
    }

    fn write_wall(&self) -> Result<(), Failure> {
        let next = self.clock.with_extension("next");
        let written =
            std::fs::write(&next, self.wall_ms.to_string()).and_then(|()| std::fs::rename(&next, &self.clock));
        written.map_err(|error| failed("the clock's file cannot be written", error))
    }

    /// One fault more blocks the link, or one less.
    pub(crate) fn block(&mut self, direction: Direction, count: impl Fn(u32) -> u32) {
        let (up, down) = direction.ways();
        for (blocked, concerned) in self.blocked.iter_mut().zip([up, down]) {
            *blocked = if concerned { count(*blocked) } else { *blocked };
        }
        match self.passes() {
            (true, true) => self.proxy.heal(),
            (true, false) => self.proxy.stall(Swallow::Down),
            (false, true) => self.proxy.stall(Swallow::Up),
            (false, false) => self.proxy.stall(Swallow::Both),
        }
    }

    /// What goes in a direction takes longer, or no longer. Of several at once the slowest counts.
    pub(crate) fn slow(&mut self, direction: Direction, by: u64, turn: Turn) {
        match turn {
            Turn::Begins => self.slow.push((direction, by)),
            Turn::Ends => {
                let like = self.slow.iter().position(|slow| *slow == (direction, by));
                if let Some(place) = like {
                    self.slow.remove(place);
                }
            }
        }
        let slowest = |way: fn((bool, bool)) -> bool| {
            let own = self.slow.iter().filter(|(direction, _)| way(direction.ways()));
            Duration::from_millis(self.latency + own.map(|(_, by)| *by).max().unwrap_or(0))
        };
        self.proxy.delay(slowest(|(up, _)| up), slowest(|(_, down)| down));
    }

    /// Whether something goes through from the gateway, and to it.
    pub(crate) fn passes(&self) -> (bool, bool) {
        (self.blocked[0] == 0, self.blocked[1] == 0)
    }

    /// What is open swallows everything from now on.
    pub(crate) fn strand(&self) {
        self.proxy.strand();
    }

    /// SIGSTOP.
    pub(crate) fn fall_asleep(&mut self) -> Result<(), Failure> {
        if self.suspended.begins() {
            self.shared.asleep.store(true, Ordering::Release);
            if let Some(agent) = &self.gateway.agent {
                agent.freeze()?;
            }
        }
        Ok(())
    }

    /// SIGCONT.
    pub(crate) fn wake_up(&mut self) -> Result<(), Failure> {
        if self.suspended.ends() {
            if let Some(agent) = &self.gateway.agent {
                agent.thaw()?;
            }
            self.shared.asleep.store(false, Ordering::Release);
        }
        Ok(())
    }

    pub(crate) fn is_asleep(&self) -> bool {
        self.shared.asleep.load(Ordering::Acquire)
    }
}

/// What the scenario says beside the built-in policy.
fn set_policy(plan: &PolicyPlan, fleet: &Fleet, folder: &Path) -> Result<(), Failure> {
    let mut table = Table::new();
    let rules = plan.time_rules.iter().map(Value::try_from).collect::<Result<Vec<Value>, _>>();
    table.insert("time_rules".into(), rules.map_err(|error| failed("a time rule has no form in TOML", error))?.into());
    table.insert("seal_audit".into(), plan.seal_audit.into());
    let risks = plan.risks.iter().map(|level| {
        let mut risk = Table::new();
        risk.insert("class".into(), level.class.to_string().into());
        risk.extend(level.staleness_max_ms.map(|bound| ("staleness_max".to_owned(), format!("{}ms", bound.0).into())));
        Value::Table(risk)
    });
    let risks: Vec<Value> = risks.collect();
    if !risks.is_empty() {
        table.insert("risks".into(), risks.into());
    }
    if !plan.limits.is_empty() {
        let clauses: String = plan.limits.iter().map(Limit::clauses).chain([BUILT_IN.to_owned()]).collect();
        table.insert("datalog".into(), clauses.into());
    }
    let file = folder.join("policy.toml");
    std::fs::write(&file, table.to_string()).map_err(|error| failed("the policy cannot be written", error))?;
    fleet.run(&["policy", "set", path(&file)]).map(drop)
}

/// The class of the gateways and their link's overlay, as files, and the settings that name them.
fn profile(scenario: &Scenario, folder: &Path) -> Result<Vec<(&'static str, String)>, Failure> {
    let plan = &scenario.fleet;
    let broken = |error: &dyn std::fmt::Display| failed("the profile cannot be written", error);
    let mut table = plan.class_table().map_err(|error| broken(&error))?;
    if let Some(Value::Table(queue)) = table.get_mut("queue") {
        let own = [("era_records_max", plan.era_records), ("quota_mib", plan.quota_mib)];
        for (name, value) in own {
            if let Some(value) = value.and_then(|value| i64::try_from(value).ok()) {
                queue.insert(name.into(), value.into());
            }
        }
    }
    let mut settings = Vec::new();
    let mut write = |variable: &'static str, name: &str, text: String| {
        let file = folder.join(name);
        std::fs::write(&file, text).map_err(|error| broken(&error))?;
        settings.push((variable, path(&file).to_owned()));
        Ok::<(), Failure>(())
    };
    write("HARDTACK_PROFILE", "profile.toml", table.to_string())?;
    if let Some((_, text)) = plan.overlay_text().map_err(|error| broken(&error))? {
        write("HARDTACK_OVERLAY", "overlay.toml", text)?;
    }
    Ok(settings)
}

/// Makes tokens as thieves and forgers do, for one gateway. Each is made when it is used first.
#[derive(Clone)]
pub(crate) struct Thief {
    victim: Victim,
    rng: ChaCha8Rng,
    made: BTreeMap<Theft, String>,
}

impl Thief {
    fn of(device: &str, issuer: &Issuer, seed: u64) -> Result<Self, Failure> {
        let broken = |error: &dyn std::fmt::Display| failed("no name", error);
        let victim = Victim {
            fleet: FLEET.parse().map_err(|error| broken(&error))?,
            device: device.parse().map_err(|error| broken(&error))?,
            owner: OWNER.into(),
            feed: "main".parse().map_err(|error| broken(&error))?,
            root_key_id: issuer.root_key_id,
            key: issuer.key.clone(),
        };
        Ok(Self { victim, rng: stream(seed, device, "live thief"), made: BTreeMap::new() })
    }

    /// A token of that kind. None while the machine's clock shows a time before 1970.
    pub(crate) fn steal(&mut self, theft: Theft) -> Option<String> {
        let Self { victim, rng, made } = self;
        let now = clock::wall()?;
        Some(made.entry(theft).or_insert_with(|| victim.steal(theft, now, rng)).clone())
    }
}

/// The gateway's fallback grant, as the scenario has it, for programs of this process's user.
fn grant(scenario: &Scenario, fleet: &Fleet, device: &str) -> Result<(), Failure> {
    let plan = &scenario.grant;
    let span = |span: Span| format!("{}ms", span.0);
    let uses = plan.uses_max.to_string();
    let boots = plan.boots_max.to_string();
    let mut args: Vec<String> =
        ["grant", "create", "--device", device, "--uses-max", &uses, "--boots-max", &boots].map(str::to_owned).into();
    let spans = [("--expires", plan.life), ("--offline-max", plan.offline_max), ("--task-ttl-max", plan.task_ttl_max)];
    args.extend(spans.into_iter().flat_map(|(name, length)| [name.to_owned(), span(length)]));
    for (_, class, rights) in program_rights() {
        args.extend(["--may-begin".to_owned(), format!("unix:uid:{}={class}", user())]);
        for right in rights {
            args.extend(["--right".to_owned(), format!("{class}:{}:{}", right.action, right.resource)]);
        }
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    fleet.run(&args).map(drop)
}
