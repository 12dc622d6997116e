//! The one loop: take what waits, handle it all, commit once, send.
//!
//! Owns: the agent's thread, its store and its link; which caller waits for which answer; starting again when the disk
//! refused a commit.
//! Never: sends anything before the commit that it belongs to; goes on with an agent that is ahead of its disk.
//! Read next: `../agent/mod.rs`, which decides, and `store/mod.rs`, which writes.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{mpsc, Arc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::files::FileError;
use super::holders::Holders;
use super::inbox::{Haul, Inbox};
use super::keys::{self, DeviceKeyFile};
use super::mqtt::{BrokerUrl, Link, LinkConfig, TlsIdentity};
use super::store::{Event as Found, Recovered, Store, StoreError};
use super::{clock, entropy, log, service};
use crate::agent::effects::{LinkCommand, Outgoing, StateFile};
use crate::agent::request::{Mode, Reply, RequestId};
use crate::agent::{Agent, Batch, Boot, Effects, Input, LinkEvent, Unstartable};
use crate::config::BrokerConfig;
use crate::ids::{BootId, DeviceId, FleetId};
use crate::profile::Profile;
use crate::time::{Millis, Timestamp};
use crate::wire::bundle::TrustBundle;
use crate::wire::envelope::Signed;
use crate::wire::Refused;

/// How often the agent hears how much room the audit takes, by commits and by time.
const DISK_EVERY_COMMITS: u32 = 256;
const DISK_EVERY: Millis = Millis::from_secs(10);
/// First and longest wait before the store is opened again.
const REOPEN_MIN: Millis = Millis(250);
const REOPEN_MAX: Millis = Millis::from_secs(10);

/// Where an agent lives and what it may use.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The state folder.
    pub state_dir: PathBuf,
    /// The limits.
    pub profile: Profile,
    /// Where the broker is, if the trust bundle is not to say so.
    pub broker: BrokerConfig,
}

/// Why an agent cannot start, or go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The boot id is not there.
    #[error("cannot read the kernel's boot id: {0}; mount /proc")]
    BootId(std::io::Error),
    /// The keys are not usable.
    #[error(transparent)]
    Keys(#[from] FileError),
    /// This device is in no fleet.
    #[error("this device is not enrolled: run `hardtack enrol request`, have it approved, and import the answer")]
    NotEnrolled,
    /// The loop ended in a way that it never should.
    #[error("the agent's loop ended abnormally: see the log, and start the agent again")]
    Panicked,
    /// What is on disk is not enough to start from.
    #[error(transparent)]
    Unstartable(Unstartable),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is synced was to be kept, for a test.
    #[cfg(feature = "crash-points")]
    #[error("cannot keep what is synced: {0}")]
    Supply(std::io::Error),
    /// The system gave no thread.
    #[error("cannot start the agent's thread: {0}")]
    Thread(std::io::Error),
}

impl RunError {
    /// Whether an agent that ran before may start again later, by what others do or by itself: descriptors or room come back,
    /// somebody puts right the modes of a file.
    const fn may_pass(&self) -> bool {
        match self {
            Self::BootId(_) | Self::Keys(_) | Self::Store(_) => true,
            #[cfg(feature = "crash-points")]
            Self::Supply(_) => true,
            Self::NotEnrolled | Self::Panicked | Self::Thread(_) | Self::Unstartable(_) => false,
        }
    }
}

impl From<Unstartable> for RunError {
    fn from(why: Unstartable) -> Self {
        match why {
            Unstartable::NotEnrolled => Self::NotEnrolled,
            Unstartable::Bundle(_) => Self::Unstartable(why),
        }
    }
}

/// A running loop.
#[derive(Debug)]
pub struct Running {
    /// The device that it is.
    pub device: DeviceId,
    /// The mode that it started in.
    pub mode: Mode,
    thread: JoinHandle<Result<(), RunError>>,
    ended: oneshot::Receiver<()>,
}

/// Starts the agent on a thread of its own. On return it can decide, alone. `runtime` carries the link.
///
/// # Errors
/// Why it cannot start.
pub fn start(machine: Machine, inbox: Arc<Inbox>, runtime: Handle) -> Result<Running, RunError> {
    let (tell_started, started) = mpsc::channel();
    let (tell_ended, ended) = oneshot::channel::<()>();
    let life = move || {
        // Dropped when the thread ends, however it ends.
        let _ended = tell_ended;
        let _context = runtime.enter();
        let session = Session::open(&machine, &inbox)?;
        // The starter waits for this.
        let _ = tell_started.send((session.agent.device().clone(), session.agent.mode()));
        live(session, &machine, &inbox, &runtime)
    };
    let thread = std::thread::Builder::new().name("agent".into()).spawn(life).map_err(RunError::Thread)?;
    match started.recv() {
        Ok((device, mode)) => Ok(Running { device, mode, thread, ended }),
        Err(mpsc::RecvError) => Err(join(thread).err().unwrap_or(RunError::Panicked)),
    }
}

impl Running {
    /// Returns once the loop has ended, however often it is asked.
    pub async fn ended(&mut self) {
        if !self.ended.is_terminated() {
            // Nothing is ever sent: the sender goes when the thread does.
            let _ = (&mut self.ended).await;
        }
    }

    /// How it ended.
    ///
    /// # Errors
    /// When it did not end because it was asked to.
    pub fn join(self) -> Result<(), RunError> {
        join(self.thread)
    }
}

fn join(thread: JoinHandle<Result<(), RunError>>) -> Result<(), RunError> {
    thread.join().unwrap_or(Err(RunError::Panicked))
}

/// Lives until it is asked to stop. A commit that failed ends one session and begins another: what the agent has in
/// memory is ahead of the disk by then.
fn live(mut session: Session, machine: &Machine, inbox: &Arc<Inbox>, runtime: &Handle) -> Result<(), RunError> {
    loop {
        let error = match session.serve() {
            Ok(()) => {
                session.close(runtime);
                return Ok(());
            }
            Err(error) => error,
        };
        tracing::error!(event = "store.failed", %error, "nothing is decided until the store works again");
        session.close(runtime);
        match reopen(machine, inbox)? {
            Some(fresh) => session = fresh,
            None => return Ok(()),
        }
    }
}

/// Opens the store again, as often as it takes: room comes back, a remount heals. None when asked to stop meanwhile.
fn reopen(machine: &Machine, inbox: &Arc<Inbox>) -> Result<Option<Session>, RunError> {
    let mut wait = REOPEN_MIN;
    loop {
        if turn_away(inbox, wait) {
            return Ok(None);
        }
        match Session::open(machine, inbox) {
            Ok(session) => {
                tracing::info!(event = "store.reopened", mode = session.agent.mode().name());
                return Ok(Some(session));
            }
            Err(error) if error.may_pass() => {
                tracing::warn!(event = "store.failed", %error, retry_ms = wait.0);
                wait = Millis((wait.0 * 2).min(REOPEN_MAX.0));
            }
            Err(other) => return Err(other),
        }
    }
}

/// Drops what arrives for a while: callers without an answer are told that nothing was recorded. True when asked to stop.
fn turn_away(inbox: &Inbox, wait: Millis) -> bool {
    let until = clock::now().boottime.0.saturating_add(wait.0);
    loop {
        service::alive();
        let left = until.saturating_sub(clock::now().boottime.0);
        if left == 0 {
            return false;
        }
        if inbox.take(patience(Millis(left))).stop {
            return true;
        }
    }
}

/// A wait that lets the service manager's watchdog hear of us in time.
fn patience(wait: Millis) -> Duration {
    let wait = Duration::from_millis(wait.0.min(DISK_EVERY.0));
    service::watchdog_interval().map_or(wait, |interval| wait.min(interval))
}

/// An agent with what it stands on, from one start to its end.
struct Session {
    machine: Machine,
    agent: Agent,
    store: Store,
    link: Wire,
    /// The trust bundle that the link was made for.
    trust: TrustBundle,
    inbox: Arc<Inbox>,
    callers: BTreeMap<RequestId, oneshot::Sender<Reply>>,
    requests: u64,
    /// What tasks hang on.
    holders: Holders,
    /// What the last commit led to: loaded segments, a link that cannot be made.
    follow_ups: VecDeque<Input>,
    disk: DiskReport,
}

/// When the agent was last told how much room the audit takes.
struct DiskReport {
    commits: u32,
    at: Millis,
}

/// The link, or why there is none.
struct Wire {
    made: Result<Link, String>,
    /// E, for those who judge the broker's certificate.
    floor: Arc<AtomicU64>,
}

/// What an agent starts from: who it is, and what was found on disk.
pub(super) fn boot(
    machine: &Machine,
    identity: DeviceKeyFile,
    fleet: FleetId,
    found: Recovered,
    boot_id: BootId,
) -> Boot {
    Boot {
        fleet,
        device: identity.device,
        keys: identity.keys,
        profile: machine.profile.clone(),
        seed: entropy::seed(),
        boot: boot_id,
        anchor: found.anchor,
        files: found.files,
        eras: found.eras,
        used_bytes: found.used_bytes,
    }
}

impl Session {
    fn open(machine: &Machine, inbox: &Arc<Inbox>) -> Result<Self, RunError> {
        let identity = match DeviceKeyFile::read(&machine.state_dir) {
            Err(error) if error.is_missing() => return Err(RunError::NotEnrolled),
            other => other?,
        };
        log::name_device(&identity.device);
        let (store, recovered) = Store::open(&machine.state_dir, &machine.profile.queue)?;
        #[cfg(feature = "crash-points")]
        let store = super::supply::watch(store, &machine.state_dir).map_err(RunError::Supply)?;
        for event in &recovered.events {
            log::tell_found(event);
        }
        let trust = bundle_of(&recovered)?;
        let floor = recovered.anchor.as_ref().map_or(trust.issued_at, |anchor| anchor.floor);
        let link = Wire::make(machine, &identity, &trust, floor, inbox);
        link.tell(None);
        let now = clock::now();
        let boot_id = clock::boot_id().map_err(RunError::BootId)?;
        let boot = boot(machine, identity, trust.fleet.clone(), recovered, boot_id);
        let (agent, effects) = Agent::start(boot, now)?;
        let mut session = Self {
            machine: machine.clone(),
            agent,
            store,
            link,
            trust,
            inbox: inbox.clone(),
            holders: Holders::new(inbox.clone()),
            callers: BTreeMap::new(),
            requests: 0,
            follow_ups: VecDeque::new(),
            disk: DiskReport { commits: 0, at: now.boottime },
        };
        session.carry_out(effects)?;
        Ok(session)
    }

    /// Runs until asked to stop.
    ///
    /// # Errors
    /// A commit that failed.
    fn serve(&mut self) -> Result<(), StoreError> {
        loop {
            let haul = self.inbox.take(self.patience());
            let stop = haul.stop;
            let effects = self.handle(haul);
            self.carry_out(effects)?;
            service::alive();
            if stop {
                return self.take_leave();
            }
        }
    }

    /// Lets the agent say that it goes, while there is a link still.
    fn take_leave(&mut self) -> Result<(), StoreError> {
        let mut effects = Effects::default();
        self.agent.handle(Input::Leaving, clock::now(), &mut effects);
        self.carry_out(effects)
    }

    fn patience(&self) -> Duration {
        if !self.follow_ups.is_empty() {
            return Duration::ZERO;
        }
        let now = clock::now().boottime;
        let due = self.agent.poll_deadline(now);
        patience(Millis(due.0.saturating_sub(now.0)))
    }

    /// Handles all that waits into one set of effects.
    fn handle(&mut self, haul: Haul) -> Effects {
        let mut effects = Effects::default();
        let mut inputs: Vec<Input> = self.follow_ups.drain(..).collect();
        inputs.extend(haul.link.into_iter().map(Input::Link));
        inputs.extend(haul.gone.into_iter().map(Input::Gone));
        for call in haul.calls {
            self.requests += 1;
            let id = RequestId(self.requests);
            self.callers.insert(id, call.answer);
            inputs.push(Input::Request { id, evidence: call.evidence, request: call.request });
        }
        inputs.extend(self.disk_report());
        if inputs.is_empty() {
            inputs.push(Input::Deadline);
        }
        for input in inputs {
            self.agent.handle(input, clock::now(), &mut effects);
        }
        effects
    }

    fn disk_report(&mut self) -> Option<Input> {
        let now = clock::now().boottime;
        let due = self.disk.commits >= DISK_EVERY_COMMITS || now.0.saturating_sub(self.disk.at.0) >= DISK_EVERY.0;
        due.then(|| {
            self.disk = DiskReport { commits: 0, at: now };
            Input::Disk(self.store.taken())
        })
    }

    /// Commits, then sends: there is no other order.
    fn carry_out(&mut self, effects: Effects) -> Result<(), StoreError> {
        let (store, link, disk) = (&mut self.store, &self.link, &mut self.disk);
        let mut trust = None;
        let outgoing = effects.commit(|batch: Batch| {
            let floor = batch.anchor.as_ref().map(|anchor| anchor.floor);
            trust = newest_bundle(&batch);
            // Space came back: the agent hears at once how much.
            let freed = !batch.drop_eras.is_empty() || !batch.shed.is_empty();
            store.commit(batch)?;
            store.take_events().iter().for_each(log::tell_found);
            disk.commits = if freed { DISK_EVERY_COMMITS } else { disk.commits + 1 };
            link.raise_floor(floor);
            Ok::<_, StoreError>(())
        })?;
        self.send(outgoing)?;
        if let Some(trust) = trust {
            self.follow_brokers(trust);
        }
        Ok(())
    }

    /// The brokers that a committed trust bundle pins count at once: where they are others, the link is made anew, and the
    /// agent hears that the old one is gone.
    fn follow_brokers(&mut self, trust: TrustBundle) {
        let others = trust.broker != self.trust.broker;
        self.trust = trust;
        if others {
            self.make_link();
            let reason = "the trust bundle names other brokers or authorities".to_owned();
            self.follow_ups.push_back(Input::Link(LinkEvent::Disconnected { reason }));
        }
    }

    fn make_link(&mut self) {
        let floor = self.link.floor();
        let made = match DeviceKeyFile::read(&self.machine.state_dir) {
            Ok(identity) => Wire::make(&self.machine, &identity, &self.trust, floor, &self.inbox),
            Err(error) => Wire::unusable(error.to_string(), floor),
        };
        let before = std::mem::replace(&mut self.link, made);
        self.link.tell(before.made.err().as_deref());
    }

    /// Passes a command to the link. One that could not be made is made again when it is to connect: somebody may have put
    /// right what was wrong with its files, or there are descriptors again.
    fn send_to_link(&mut self, command: LinkCommand) {
        if self.link.made.is_err() && matches!(command, LinkCommand::Connect { .. }) {
            self.make_link();
        }
        self.follow_ups.extend(self.link.send(command).map(Input::Link));
    }

    /// # Errors
    /// When a segment cannot be read back: the store is not to be trusted with the next commit either.
    fn send(&mut self, outgoing: Outgoing) -> Result<(), StoreError> {
        for answer in outgoing.replies {
            let (id, reply) = answer.at(clock::now().boottime);
            if let Some(caller) = self.callers.remove(&id) {
                // A caller that left does not hear the answer; the record stands.
                let _ = caller.send(reply);
            }
        }
        for command in outgoing.ties {
            self.holders.obey(command);
        }
        for event in &outgoing.logs {
            log::tell(event);
        }
        for command in outgoing.link {
            self.send_to_link(command);
        }
        for (id, ask, mut page) in outgoing.pages {
            self.store.read_trail(&ask, &mut page)?;
            if let Some(caller) = self.callers.remove(&id) {
                // As above.
                let _ = caller.send(Reply::Audit(Box::new(page)));
            }
        }
        for (era, segment) in outgoing.loads {
            let upload = self.store.load(era, segment)?;
            self.follow_ups.push_back(Input::Segment { era, segment, upload });
        }
        for hole in outgoing.holes {
            let remains = self.store.gather(&hole)?;
            self.follow_ups.push_back(Input::Remains { hole, remains });
        }
        Ok(())
    }

    /// Lets go of everything: whoever waits for an answer gets none.
    fn close(self, runtime: &Handle) {
        self.inbox.renew_link();
        drop(self.callers);
        if let Ok(link) = self.link.made {
            runtime.block_on(link.finish());
        }
    }
}

/// The trust bundle as it is on disk. The agent checks it; here it only says which fleet and which brokers.
///
/// # Errors
/// [`RunError::NotEnrolled`] only where there is none: one that is there and cannot be used needs another remedy.
fn bundle_of(recovered: &Recovered) -> Result<TrustBundle, RunError> {
    let unusable = |refused| RunError::Unstartable(Unstartable::Bundle(refused));
    let unreadable =
        |event: &Found| matches!(event, Found::FileUnreadable { path, .. } if *path == StateFile::Bundle.path());
    if recovered.events.iter().any(unreadable) {
        return Err(unusable(Refused::Malformed("the file cannot be read")));
    }
    claimed_bundle(&recovered.files)
}

/// The trust bundle of these files, as it claims to be.
///
/// # Errors
/// As [`bundle_of`].
pub(super) fn claimed_bundle(files: &[(StateFile, Vec<u8>)]) -> Result<TrustBundle, RunError> {
    let (_, bytes) = files.iter().find(|(file, _)| *file == StateFile::Bundle).ok_or(RunError::NotEnrolled)?;
    let claimed = Signed::<TrustBundle>::from_bytes(bytes).and_then(|signed| signed.claim());
    claimed.map_err(|refused| RunError::Unstartable(Unstartable::Bundle(refused)))
}

/// The trust bundle that a batch puts in force, if it does. The agent has checked it.
fn newest_bundle(batch: &Batch) -> Option<TrustBundle> {
    let write = batch.files.iter().rev().find(|write| write.file == StateFile::Bundle)?;
    Signed::<TrustBundle>::from_bytes(&write.content).ok()?.claim().ok()
}

impl Wire {
    /// Makes the link. One that cannot be made is no reason not to start: the device works alone, and says why.
    fn make(
        machine: &Machine,
        identity: &DeviceKeyFile,
        trust: &TrustBundle,
        floor: Timestamp,
        inbox: &Arc<Inbox>,
    ) -> Self {
        let floor = Arc::new(AtomicU64::new(floor.0));
        let made = link_config(machine, identity, trust).and_then(|config| {
            let (epoch, inbox, seen) = (inbox.renew_link(), inbox.clone(), floor.clone());
            let trusted_time = move || Timestamp(seen.load(Ordering::Relaxed));
            Link::spawn(config, trusted_time, move |event| inbox.link(epoch, event)).map_err(|error| error.to_string())
        });
        match made {
            Ok(link) => Self { made: Ok(link), floor },
            Err(reason) => Self::unusable(reason, Timestamp(floor.load(Ordering::Relaxed))),
        }
    }

    fn unusable(reason: String, floor: Timestamp) -> Self {
        Self { made: Err(reason), floor: Arc::new(AtomicU64::new(floor.0)) }
    }

    /// Says why there is none, where that is another reason than before.
    fn tell(&self, before: Option<&str>) {
        if let Some(reason) = self.made.as_ref().err().filter(|reason| before != Some(reason.as_str())) {
            tracing::warn!(event = "link.unusable", reason);
        }
    }

    fn floor(&self) -> Timestamp {
        Timestamp(self.floor.load(Ordering::Relaxed))
    }

    fn raise_floor(&self, reached: Option<Timestamp>) {
        if let Some(reached) = reached {
            self.floor.fetch_max(reached.0, Ordering::Relaxed);
        }
    }

    /// Passes a command on, or says at once that there is no link.
    fn send(&self, command: LinkCommand) -> Option<LinkEvent> {
        match (&self.made, command) {
            (Ok(link), command) => {
                link.send(command);
                None
            }
            (Err(reason), LinkCommand::Connect { .. }) => Some(LinkEvent::Disconnected { reason: reason.clone() }),
            (Err(_), LinkCommand::Close | LinkCommand::Publish(_) | LinkCommand::Read { .. }) => None,
        }
    }
}

/// How to reach the broker: what the configuration says, else what the trust bundle pins.
fn link_config(machine: &Machine, identity: &DeviceKeyFile, trust: &TrustBundle) -> Result<LinkConfig, String> {
    let configured: Vec<String> = machine.broker.urls.iter().map(ToString::to_string).collect();
    let texts = if configured.is_empty() { &trust.broker.urls } else { &configured };
    let urls: Result<Vec<BrokerUrl>, _> = texts.iter().map(|text| text.parse()).collect();
    let limits = &machine.profile.link;
    Ok(LinkConfig {
        fleet: trust.fleet.clone(),
        client_id: identity.device.to_string(),
        user: identity.device.to_string(),
        urls: urls.map_err(|error| format!("{error}"))?,
        tls: tls_identity(machine, identity, trust)?,
        keepalive: Duration::from_secs(limits.keepalive_s),
        connect: Duration::from_millis(limits.connect_ms),
        packet_bytes_max: LinkConfig::PACKET_BYTES_MAX,
    })
}

fn tls_identity(
    machine: &Machine,
    identity: &DeviceKeyFile,
    trust: &TrustBundle,
) -> Result<Option<TlsIdentity>, String> {
    let authorities = match &machine.broker.ca {
        Some(path) => certificates(path)?,
        None => trust.broker.authorities.clone(),
    };
    let own = keys::read_certificate(&machine.state_dir).map_err(|error| error.to_string())?;
    let (certificate, key) = match &machine.broker.client {
        Some(client) => {
            let first = certificates(&client.cert)?.into_iter().next();
            (first, private_key(&client.key)?)
        }
        None => (own, identity.keys.tls.clone()),
    };
    Ok(certificate.map(|certificate| TlsIdentity { authorities, certificate, key }))
}

/// What is wrong with the files of `[broker]`, by the checks that the link makes of them.
pub fn broker_problems(broker: &BrokerConfig) -> Vec<String> {
    let files = broker.ca.iter().chain(broker.client.iter().map(|client| &client.cert));
    let mut problems: Vec<String> = files.filter_map(|path| certificates(path).err()).collect();
    problems.extend(broker.client.iter().filter_map(|client| private_key(&client.key).err()));
    problems
}

fn certificates(path: &Path) -> Result<Vec<Vec<u8>>, String> {
    let failed = |error: std::io::Error| format!("cannot read certificates from {}: {error}", path.display());
    let text = super::sources::read_text(path).map_err(failed)?;
    let found: Result<Vec<_>, _> = rustls_pemfile::certs(&mut text.as_bytes()).collect();
    let found: Vec<Vec<u8>> = found.map_err(failed)?.into_iter().map(|der| der.to_vec()).collect();
    if found.is_empty() {
        return Err(format!("{} holds no certificate in PEM form", path.display()));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<ed25519_dalek::SigningKey, String> {
    use ed25519_dalek::pkcs8::DecodePrivateKey;
    let bytes = keys::read_private(path).map_err(|error| error.to_string())?;
    let text = std::str::from_utf8(&bytes).map_err(|_| format!("{} is no PEM file", path.display()))?;
    ed25519_dalek::SigningKey::from_pkcs8_pem(text)
        .map_err(|error| format!("{} is no Ed25519 key in PKCS#8 PEM form: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bundle_that_is_not_there_means_not_enrolled() {
        check_bundle(None, Vec::new(), "not enrolled");
        check_bundle(Some(vec![7; 40]), Vec::new(), "cannot be used");
        check_bundle(Some(Vec::new()), Vec::new(), "cannot be used");
        let unreadable = Found::FileUnreadable { path: "bundle".into(), error: "Input/output error".into() };
        check_bundle(None, vec![unreadable], "cannot be used");
    }

    #[track_caller]
    fn check_bundle(content: Option<Vec<u8>>, events: Vec<Found>, expected: &str) {
        let files = content.into_iter().map(|content| (StateFile::Bundle, content)).collect();
        let recovered = Recovered { anchor: None, files, eras: Vec::new(), used_bytes: 0, events };
        let error = bundle_of(&recovered).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("enrol"), "it says what to do: {error}");
    }
}
