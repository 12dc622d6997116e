//! `fleet serve`: the fleet core on a broker and a ledger.
//!
//! Owns: the one loop that takes what arrived, lets the core decide inside a transaction, and sends what the commit gave
//! out; being the only one who does; reconnecting; telling the broker which devices may come in.
//! Never: decides. Sends before the commit has returned. Signs when it is another's turn.
//! Read next: `../fleet/service.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

use rand_core::RngCore;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::broker::{dynsec, service_client_id};
use super::clock;
use super::entropy;
use super::files::FileError;
use super::fleet_lock::{self, Lock, Taken};
use super::ledger::{Ledger, LedgerError};
use super::mqtt::{BrokerUrl, Link, LinkConfig, LinkError, Security, TlsIdentity, CONTROL_RESPONSE_TOPIC};
use super::place::Place;
use super::x509::SERVICE_NAME;
use crate::agent::effects::LinkCommand;
use crate::agent::LinkEvent;
use crate::fleet::book::{Book, ServedKeys, Status};
use crate::fleet::publish::{self, FeedAt};
use crate::fleet::readers::{goes_by, readers, Reader};
use crate::fleet::service::ServiceKeys;
use crate::fleet::{FleetError, FleetLog, Outgoing, Service, Settings};
use crate::ids::{DeviceId, FeedId, FleetId, KeyId};
use crate::time::{Millis, Timestamp};
use crate::wire::bundle::EmergencyKey;
use crate::wire::link::service_filters;

/// How often the ledger is asked whether somebody else wrote: a revocation is out this much later at most.
const POLL: Duration = Duration::from_millis(200);
/// Messages that one commit takes together.
const BATCH_MAX: usize = 256;
/// Events that wait before the broker is made to wait.
const WAITING_MAX: usize = 1024;
/// First and longest wait after a failed connection, in milliseconds. Short: every device of the fleet waits for this one
/// client, which is no crowd.
const BACKOFF_MS: (u64, u64) = (500, 5_000);

/// How long whoever publishes may take to sign what is new.
const SIGNED_WITHIN: Duration = Duration::from_secs(10);
/// How often what is published beside another is brought again, should there be something newer each time.
const ROUNDS_MAX: u32 = 5;

/// How to reach the broker.
#[derive(Clone)]
pub struct Uplink {
    /// Addresses, tried in order.
    pub urls: Vec<BrokerUrl>,
    /// The service's identity, for `mqtts://`.
    pub tls: Option<TlsIdentity>,
}

/// Why the service cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The core says no.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A file of the folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process publishes from this ledger.
    #[error("process {holder} publishes from this ledger already: one `hardtack fleet serve` per fleet is enough; stop that one first if this one is to take its place")]
    Publishing {
        /// Its number.
        holder: String,
    },
    /// The operating system gave no thread.
    #[error("cannot start the service's thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The clock of this machine cannot be used.
    #[error("this machine's clock says a time before 1970: set it, devices take their time from here")]
    Clock,
}

enum Input {
    Link(LinkEvent),
    Stop,
}

/// A service that runs.
pub struct Serving {
    inputs: SyncSender<Input>,
    thread: JoinHandle<Result<(), ServeError>>,
    ended: watch::Receiver<bool>,
}

impl Serving {
    /// Starts the service on a thread of its own; the link lives on `runtime`. What its log has people do names `place`.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn start(
        mut ledger: Ledger,
        keys: ServiceKeys,
        settings: Settings,
        uplink: Uplink,
        place: Place,
        runtime: &Handle,
    ) -> Result<Self, ServeError> {
        ledger.refresh()?;
        now()?;
        let served = keys.ids();
        let service = Service::start(keys, settings, entropy::seed(), ledger.book())?;
        let turn = Turn::take(&mut ledger, served)?;
        let (inputs, arrived) = mpsc::sync_channel(WAITING_MAX);
        let link = open_link(ledger.book(), uplink, inputs.clone(), runtime)?;
        let (tell, ended) = watch::channel(false);
        let serve = Serve {
            ledger,
            turn,
            place,
            service,
            link: link.link,
            administered: link.administered,
            admitted: BTreeMap::new(),
            emergencies: None,
            connection: Connection::Down { retry: clock::now().boottime },
            failures: 0,
            ready: Ready::NotYet,
        };
        let runtime = runtime.clone();
        let thread = std::thread::Builder::new().name("fleet".into()).spawn(move || {
            let ended = serve.run(&arrived, &runtime);
            // Whoever waits for the end may be gone.
            let _ = tell.send(true);
            ended
        })?;
        Ok(Self { inputs, thread, ended })
    }

    /// Waits until the service ends by itself, which it does only when it cannot go on.
    pub async fn ended(&mut self) {
        // An error here means that the thread is gone, which is what is waited for.
        let _ = self.ended.wait_for(|ended| *ended).await;
    }

    /// Ends the service in order.
    ///
    /// # Errors
    /// Why it ended before it was asked to.
    pub fn stop(self) -> Result<(), ServeError> {
        // A service that ended already takes no input any more.
        let _ = self.inputs.send(Input::Stop);
        self.thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the service's thread panicked").into()))
    }
}

/// The right to publish: a lock that ends with this process, and a turn in the ledger that ends with the next one, so that
/// whoever lost the lock with its file signs no more all the same.
struct Turn {
    number: u64,
    _lock: Lock,
}

impl Turn {
    fn take(ledger: &mut Ledger, keys: ServedKeys) -> Result<Self, ServeError> {
        let held = fleet_lock::hold(&fleet_lock::publisher(ledger.path()))?;
        let lock = held.map_err(|holder| ServeError::Publishing { holder })?;
        let (at, holder) = (now()?, format!("process {}", std::process::id()));
        let taken =
            ledger.transact::<_, ServeError>(|book, _, fx| Ok(publish::take_turn(book, holder, keys, at, fx)))?;
        Ok(Self { number: taken.0, _lock: lock })
    }
}

/// Who publishes from a ledger at this moment.
///
/// # Errors
/// When the lock cannot be looked at.
pub fn publisher_of(ledger: &Ledger) -> Result<Taken, FileError> {
    fleet_lock::holder(&fleet_lock::publisher(ledger.path()))
}

/// What was published once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishedOnce {
    /// Messages that were sent.
    pub messages: usize,
    /// Who signed the head.
    pub signed: SignedBy,
    /// What kept the broker from letting in every device that may come, if something did.
    pub complaints: Vec<String>,
}

/// Who signs heads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SignedBy {
    /// This process.
    Us,
    /// Another one, which goes on publishing.
    Another,
}

/// Publishes what the broker keeps, once, and closes the link in order. While another process publishes, that one signs.
///
/// # Errors
/// [`ServeError`], or that the broker did not accept in time.
pub async fn publish_once(
    ledger: &mut Ledger,
    keys: ServiceKeys,
    settings: Settings,
    uplink: Uplink,
) -> Result<PublishedOnce, ServeError> {
    ledger.refresh()?;
    let served = keys.ids();
    let mut service = Service::start(keys, settings, entropy::seed(), ledger.book())?;
    let turn = match Turn::take(ledger, served) {
        Ok(turn) => turn,
        Err(ServeError::Publishing { holder }) => {
            let (messages, complaints) = publish_beside(ledger, &holder, uplink).await?;
            return Ok(PublishedOnce { messages, signed: SignedBy::Another, complaints });
        }
        Err(error) => return Err(error),
    };
    let complaints = let_in(ledger.book(), uplink.clone()).await?;
    let link = open_once(ledger.book(), uplink).await?;
    let at = now()?;
    let ((), outgoing) = ledger.transact::<_, ServeError>(|book, _, fx| {
        publish::check_turn(book, turn.number)?;
        service.connected(book, at, fx);
        Ok(())
    })?;
    let messages = outgoing.publish.len();
    for publish in outgoing.publish {
        link.send(LinkCommand::Publish(publish));
    }
    link.finish().await;
    Ok(PublishedOnce { messages, signed: SignedBy::Us, complaints })
}

/// Brings what another process has signed to a broker. Whatever that one signs meanwhile is brought as well: a head that
/// lands here after its successor would hide it.
async fn publish_beside(ledger: &mut Ledger, holder: &str, uplink: Uplink) -> Result<(usize, Vec<String>), ServeError> {
    let deadline = clock::now().boottime.0 + SIGNED_WITHIN.as_millis() as u64;
    while !publish::is_current(ledger.book(), now()?) {
        if clock::now().boottime.0 > deadline {
            let trust = ledger.book().trust().version;
            let stalled = publish::replaced(ledger.book()).iter().find_map(|key| key.stalled(trust));
            let why = stalled.unwrap_or_else(|| "it signs no new head: look at its log".into());
            let what = format!("process {holder} publishes from this ledger, but {why}");
            return Err(FleetError::Invalid(what).into());
        }
        tokio::time::sleep(POLL).await;
        ledger.refresh()?;
    }
    let (mut messages, mut complaints) = (0, Vec::new());
    for _ in 0..ROUNDS_MAX {
        complaints = let_in(ledger.book(), uplink.clone()).await?;
        let link = open_once(ledger.book(), uplink.clone()).await?;
        let (feeds, retained) = (FeedAt::all(ledger.book()), publish::retained(ledger.book()));
        messages += retained.len();
        for publish in retained {
            link.send(LinkCommand::Publish(publish));
        }
        link.finish().await;
        ledger.refresh()?;
        if FeedAt::all(ledger.book()) == feeds {
            break;
        }
    }
    Ok((messages, complaints))
}

async fn open_once(book: &Book, uplink: Uplink) -> Result<Link, ServeError> {
    let (inputs, arrived) = mpsc::sync_channel(WAITING_MAX);
    let link = open_link(book, uplink, inputs, &Handle::current())?.link;
    link.send(LinkCommand::Connect { filters: Vec::new(), will: None });
    match next(arrived).await {
        (Some(Input::Link(LinkEvent::Connected)), _) => Ok(link),
        (Some(Input::Link(LinkEvent::Disconnected { reason })), _) => {
            Err(FleetError::Invalid(format!("the broker cannot be reached ({reason}): try again")).into())
        }
        (Some(Input::Link(LinkEvent::Message { .. }) | Input::Stop) | None, _) => {
            Err(FleetError::Invalid("the broker did not answer within 15 s: try again".into()).into())
        }
    }
}

/// What arrives next, if something does in time.
async fn next(arrived: Receiver<Input>) -> (Option<Input>, Option<Receiver<Input>>) {
    let waited =
        tokio::task::spawn_blocking(move || (arrived.recv_timeout(Duration::from_secs(15)).ok(), Some(arrived)));
    waited.await.unwrap_or((None, None))
}

/// Before a trust bundle that moves devices is at the broker, that lets in all that may come, and each read the feeds by which it
/// may go. Nothing is taken back: that is for whoever serves. One message after the other, so that the broker sets the pace. What
/// it complains of is given back, and keeps nobody from publishing: a device that is shut out of its feed hears of bundles all the
/// same.
async fn let_in(book: &Book, uplink: Uplink) -> Result<Vec<String>, ServeError> {
    let (inputs, arrived) = mpsc::sync_channel(WAITING_MAX);
    let Opened { link, administered } = open_link(book, uplink, inputs, &Handle::current())?;
    if administered == Administered::Nowhere {
        return Ok(Vec::new());
    }
    let approved = book.devices().filter(|device| device.status == Status::Approved);
    let devices = readers(book, approved.map(|device| device.id.clone()));
    let keys: Vec<KeyId> = book.trust().emergency.iter().map(EmergencyKey::id).collect();
    let commands =
        dynsec::admit(book.fleet(), &devices).into_iter().chain(dynsec::admit_emergency(book.fleet(), &keys));
    link.send(LinkCommand::Connect { filters: vec![CONTROL_RESPONSE_TOPIC.to_owned()], will: None });
    let mut complaints = Vec::new();
    // The first answer is that there is a connection.
    let mut waiting = Some(arrived);
    for command in std::iter::once(None).chain(commands.map(Some)) {
        let Some(arrived) = waiting.take() else { break };
        if let Some(command) = command {
            link.administer(command);
        }
        let (answer, left) = next(arrived).await;
        let ended = match answer {
            Some(Input::Link(LinkEvent::Connected)) => None,
            Some(Input::Link(LinkEvent::Message { payload, .. })) => {
                complaints.extend(dynsec::complaints(&payload));
                None
            }
            Some(Input::Link(LinkEvent::Disconnected { reason })) => Some(reason),
            Some(Input::Stop) | None => Some("it did not answer within 15 s".into()),
        };
        match ended {
            None => waiting = left,
            Some(reason) => complaints.push(format!("it was not told of every device: {reason}")),
        }
    }
    link.finish().await;
    Ok(complaints)
}

/// Who tells the broker which devices may come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Administered {
    /// The service, through mosquitto's plugin, which the generated set-up has on its TLS listener.
    Here,
    /// Nobody: a broker without TLS has no roles.
    Nowhere,
}

struct Opened {
    link: Link,
    administered: Administered,
}

/// How the service reaches the broker.
pub fn link_config(fleet: &FleetId, uplink: Uplink) -> LinkConfig {
    LinkConfig {
        fleet: fleet.clone(),
        client_id: service_client_id(fleet, &mut entropy::rng()),
        user: SERVICE_NAME.into(),
        urls: uplink.urls,
        tls: uplink.tls,
        keepalive: Duration::from_secs(30),
        connect: Duration::from_secs(10),
        packet_bytes_max: LinkConfig::PACKET_BYTES_MAX,
    }
}

fn open_link(book: &Book, uplink: Uplink, inputs: SyncSender<Input>, runtime: &Handle) -> Result<Opened, ServeError> {
    let tls = uplink.urls.iter().all(|url| url.security == Security::Tls);
    let config = link_config(book.fleet(), uplink);
    let _entered = runtime.enter();
    let trusted_time = || clock::wall().unwrap_or_default();
    // The receiver is gone once the service ends; what arrives then is for nobody.
    let link = Link::spawn(config, trusted_time, move |event| drop(inputs.send(Input::Link(event))))?;
    Ok(Opened { link, administered: if tls { Administered::Here } else { Administered::Nowhere } })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Connection {
    Connecting,
    Down { retry: Millis },
    Up,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ready {
    NotYet,
    Said,
}

/// A device that the broker was told to let in.
struct Admitted {
    /// The oldest trust bundle by which it may go, and the newest.
    by: (u64, u64),
    /// The feeds that it reads.
    feeds: BTreeSet<FeedId>,
}

struct Serve {
    ledger: Ledger,
    turn: Turn,
    place: Place,
    service: Service,
    link: Link,
    administered: Administered,
    admitted: BTreeMap<DeviceId, Admitted>,
    /// Emergency keys whose holders may come in, none before the broker was told.
    emergencies: Option<BTreeSet<KeyId>>,
    connection: Connection,
    failures: u32,
    ready: Ready,
}

impl Serve {
    fn run(mut self, arrived: &Receiver<Input>, runtime: &Handle) -> Result<(), ServeError> {
        let ended = self.serve(arrived);
        runtime.block_on(self.link.finish());
        ended
    }

    fn serve(&mut self, arrived: &Receiver<Input>) -> Result<(), ServeError> {
        loop {
            self.connect_if_due();
            let mut batch = match arrived.recv_timeout(self.patience()) {
                Ok(first) => vec![first],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            batch.extend(arrived.try_iter().take(BATCH_MAX - 1));
            let changed = self.ledger.refresh()?;
            let due = self.service.due_in(self.ledger.book(), now()?) == Millis::default();
            if changed || due || !batch.is_empty() {
                if let Next::Stop = self.step(batch)? {
                    return Ok(());
                }
            }
        }
    }

    fn patience(&self) -> Duration {
        let retry = match self.connection {
            Connection::Down { retry } => retry.0.saturating_sub(clock::now().boottime.0),
            Connection::Connecting | Connection::Up => u64::MAX,
        };
        POLL.min(Duration::from_millis(retry))
    }

    fn connect_if_due(&mut self) {
        let Connection::Down { retry } = self.connection else { return };
        if retry > clock::now().boottime {
            return;
        }
        let mut filters = service_filters(self.ledger.book().fleet());
        if self.administered == Administered::Here {
            filters.push(CONTROL_RESPONSE_TOPIC.to_owned());
        }
        self.link.send(LinkCommand::Connect { filters, will: None });
        self.connection = Connection::Connecting;
    }

    /// One commit for all that waits. Messages leave once it has returned.
    fn step(&mut self, batch: Vec<Input>) -> Result<Next, ServeError> {
        let at = now()?;
        let mut next = Next::GoOn;
        let mut messages = Vec::new();
        let mut connected = false;
        for input in batch {
            match input {
                Input::Link(LinkEvent::Connected) => {
                    self.connection = Connection::Up;
                    self.failures = 0;
                    connected = true;
                    tracing::info!(event = "link.up");
                }
                Input::Link(LinkEvent::Disconnected { reason }) => {
                    connected = false;
                    self.disconnected(&reason);
                }
                Input::Link(LinkEvent::Message { topic, payload }) if topic == CONTROL_RESPONSE_TOPIC => {
                    for complaint in dynsec::complaints(&payload) {
                        tracing::warn!(event = "broker.complained", complaint);
                    }
                }
                Input::Link(LinkEvent::Message { topic, payload }) => messages.push((topic, payload)),
                Input::Stop => next = Next::Stop,
            }
        }
        let (service, turn) = (&mut self.service, self.turn.number);
        let decided = self.ledger.transact::<_, ServeError>(|book, archive, fx| {
            publish::check_turn(book, turn)?;
            if connected {
                service.connected(book, at, fx);
            }
            for (topic, payload) in &messages {
                service.message(book, topic, payload, archive, at, fx);
            }
            service.tick(book, at, fx);
            Ok(())
        });
        let outgoing = match decided {
            Ok(((), outgoing)) => outgoing,
            Err(ServeError::Fleet(error @ FleetError::Superseded { .. })) => return Err(error.into()),
            Err(error) => {
                // What the core thinks it has published was not: start from a fresh connection, which publishes it all.
                // Devices send again what was not acknowledged.
                tracing::error!(event = "ledger.failed", %error);
                self.link.send(LinkCommand::Close);
                self.disconnected("the ledger took nothing");
                return Ok(next);
            }
        };
        let moved = self.administer();
        self.send(outgoing);
        // Whoever is disconnected by this has been sent what there was to say to him.
        for command in dynsec::withdraw(self.ledger.book().fleet(), &moved) {
            self.link.administer(command);
        }
        if connected && self.ready == Ready::NotYet {
            self.ready = Ready::Said;
            let head = self.ledger.book().first().order().1;
            let devices = self.ledger.book().devices().count();
            tracing::info!(event = "fleet.ready", fleet = %self.ledger.book().fleet(), feed_seq = head, devices);
        }
        Ok(next)
    }

    fn send(&self, outgoing: Outgoing) {
        for publish in outgoing.publish {
            self.link.send(LinkCommand::Publish(publish));
        }
        outgoing.logs.iter().for_each(|log| tell(log, &self.place));
    }

    fn disconnected(&mut self, reason: &str) {
        self.service.disconnected();
        self.admitted.clear();
        self.emergencies = None;
        let wait = backoff(self.failures, entropy::rng().next_u64());
        self.failures = self.failures.saturating_add(1);
        self.connection = Connection::Down { retry: Millis(clock::now().boottime.0 + wait) };
        tracing::warn!(event = "link.down", reason, retry_ms = wait);
    }

    /// Devices that were approved since may come in, those that were retired may not any more, and those that a trust bundle has
    /// moved read their new feed, before that bundle is told to anybody. Gives those whose former feeds are to be withdrawn.
    fn administer(&mut self) -> Vec<Reader> {
        if self.administered == Administered::Nowhere || self.connection != Connection::Up {
            return Vec::new();
        }
        let book = self.ledger.book();
        let may = |status: Status| move |device: &&crate::fleet::book::Device| device.status == status;
        let newest = book.trust().version;
        let approved: BTreeMap<DeviceId, (u64, u64)> = book
            .devices()
            .filter(may(Status::Approved))
            .map(|device| (device.id.clone(), (goes_by(book, &device.id), newest)))
            .collect();
        let retired: Vec<DeviceId> = book.devices().filter(may(Status::Retired)).map(|d| d.id.clone()).collect();
        // What a device reads is a matter of the trust bundles by which it may go, and of nothing else.
        let may_differ =
            |(device, by): &(&DeviceId, &(u64, u64))| self.admitted.get(*device).is_none_or(|known| known.by != **by);
        let changed = readers(book, approved.iter().filter(may_differ).map(|(device, _)| device.clone()));
        let differs =
            |reader: &&Reader| self.admitted.get(&reader.device).is_none_or(|known| known.feeds != reader.feeds);
        let moved: Vec<Reader> = changed.iter().filter(differs).cloned().collect();
        // On a fresh connection nobody is known to be out, so all who must be are told to go.
        let leaving: Vec<DeviceId> = if self.admitted.is_empty() {
            retired
        } else {
            retired.into_iter().filter(|device| self.admitted.contains_key(device)).collect()
        };
        for command in dynsec::admit(book.fleet(), &moved).into_iter().chain(dynsec::dismiss(&leaving)) {
            self.link.administer(command);
        }
        self.admitted.retain(|device, _| approved.contains_key(device));
        for Reader { device, feeds, .. } in changed {
            let by = approved.get(&device).copied().unwrap_or_default();
            self.admitted.insert(device, Admitted { by, feeds });
        }
        let named: BTreeSet<KeyId> = book.trust().emergency.iter().map(EmergencyKey::id).collect();
        let before = self.emergencies.take();
        let ever = book.trusts().iter().flat_map(|trust| &trust.emergency).map(EmergencyKey::id);
        // On a fresh connection nobody is known to be out.
        let leaving: BTreeSet<KeyId> = before.clone().unwrap_or_else(|| ever.collect());
        let leaving: Vec<KeyId> = leaving.difference(&named).copied().collect();
        let joining: Vec<KeyId> = named.difference(&before.unwrap_or_default()).copied().collect();
        let admit = dynsec::admit_emergency(book.fleet(), &joining);
        for command in admit.into_iter().chain(dynsec::dismiss_emergency(&leaving)) {
            self.link.administer(command);
        }
        self.emergencies = Some(named);
        moved
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    GoOn,
    Stop,
}

/// How long to wait after so many failures in a row, in milliseconds: twice as long each time, the upper half of it at
/// random.
fn backoff(failures: u32, random: u64) -> u64 {
    let doubled = BACKOFF_MS.0.saturating_mul(1 << failures.min(16)).min(BACKOFF_MS.1);
    doubled / 2 + random % (doubled / 2 + 1)
}

fn now() -> Result<Timestamp, ServeError> {
    clock::wall().ok_or(ServeError::Clock)
}

/// Writes down what the core reports, of the fleet in a folder.
pub fn tell(log: &FleetLog, place: &Place) {
    match log {
        FleetLog::AuditStored { device, era, segment, records, gaps } => {
            tracing::info!(event = "audit.stored", %device, era, segment, records, gaps);
        }
        FleetLog::AuditSetAside { device, era, segment, records } => {
            tracing::warn!(event = "audit.set_aside", %device, era, segment, records);
        }
        FleetLog::ChainForked { device, era, segment, what } => {
            tracing::error!(event = "chain.forked", %device, era, segment, what);
        }
        FleetLog::DeviceJoined { device } => tracing::info!(event = "device.joined", %device),
        FleetLog::DeviceState { device, mode, pending } => {
            tracing::info!(event = "device.state", %device, mode, pending);
        }
        FleetLog::EmergencyForked { key, operator, counter } => {
            let action = format!(
                "its key is in two hands: remove it (`hardtack fleet key remove emergency{} --name {operator} --compromised`)",
                place.argument()
            );
            tracing::error!(event = "emergency.forked", %key, operator, counter, action);
        }
        FleetLog::EmergencyHeard { key, operator, counter, rules } => {
            tracing::warn!(event = "emergency.heard", %key, operator, counter, rules);
        }
        FleetLog::EnrolPending { device, code } => tracing::info!(event = "enrol.pending", %device, code),
        FleetLog::FeedForked { device, feed, seq } => {
            tracing::error!(event = "feed.forked", %device, %feed, seq)
        }
        FleetLog::FeedImpossible { device, feed, era, seq, most } => {
            let action = format!(
                "the device was lied to, or lies: if the feed key was stolen, replace it (`hardtack fleet key rotate feed{} --compromised`)",
                place.argument()
            );
            tracing::error!(event = "feed.impossible", %device, %feed, era, seq, most, action);
        }
        FleetLog::FeedHalted { reason } => tracing::error!(event = "feed.halted", reason = place.put_into(reason)),
        FleetLog::FeedSigned { feed, seq, rules } => tracing::info!(event = "feed.signed", %feed, seq, rules),
        FleetLog::GrantsAnswered { device, count } => tracing::info!(event = "grants.answered", %device, count),
        FleetLog::GrantNotRenewed { device, reason } => tracing::warn!(event = "grant.not_renewed", %device, reason),
        FleetLog::GrantRenewed { device, grant, successor } => {
            tracing::info!(event = "grant.renewed", %device, %grant, %successor);
        }
        FleetLog::HelloAnswered { device, mode, floor } => {
            tracing::info!(event = "hello.answered", %device, mode, %floor);
        }
        FleetLog::KeyReplaced { role, bundle, good: true } => {
            let action = "start `hardtack fleet serve` again before the next replacement, so that it takes the new key";
            tracing::warn!(event = "key.replaced", role, bundle, good = true, action);
        }
        FleetLog::KeyReplaced { role, bundle, good: false } => {
            let action = "nothing is signed with it any more: start `hardtack fleet serve` again with the new key";
            tracing::error!(event = "key.replaced", role, bundle, good = false, action);
        }
        FleetLog::MessageRefused { topic, reason } => tracing::warn!(event = "message.refused", topic, reason),
        FleetLog::PublishedAgain { device, what, messages } => {
            tracing::warn!(event = "published.again", %device, what, messages);
        }
        FleetLog::TaskIssued { device, task, grant } => tracing::info!(event = "task.issued", %device, %task, %grant),
        FleetLog::TaskRefused { device, task, reason } => {
            tracing::info!(event = "task.refused", %device, %task, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_of_any_length_is_over_within_seconds() {
        for failures in 0..100 {
            let (least, most) = (backoff(failures, 0), (0..6000).map(|random| backoff(failures, random)).max());
            assert!(least >= 250 && most <= Some(5000), "{failures} failures: {least} to {most:?} ms");
        }
        assert_eq!(backoff(100, 0), 2500, "spread over half of the longest wait");
    }
}
