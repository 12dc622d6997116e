//! The link to the broker. This folder alone knows rumqttc.
//!
//! Owns: [`Link`], which carries [`LinkCommand`]s out and hands [`LinkEvent`]s in, for a device and for the fleet's
//! service alike; the queue between them, and its bounds.
//! Never: decides when to connect or what to send again (the core does), keeps a message beyond its connection, trusts
//! what the broker says about delivery.
//! Read next: `session.rs`, one connection from CONNECT to its end, then `tls.rs`.

#[cfg(feature = "fleet")]
pub mod probe;
mod reasons;
mod session;
pub mod terms;
mod tls;
mod url;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, Notify};
use tokio::task::JoinHandle;

pub use tls::{TlsError, TlsIdentity};
pub use url::{BrokerUrl, InvalidUrl, Security};

use crate::agent::effects::{LinkCommand, Publish};
use crate::agent::LinkEvent;
use crate::ids::FleetId;
use crate::time::Timestamp;
use crate::wire::link::Topic;

/// The most messages that wait for the broker. One more and the connection is given up: whoever sent them has them still
/// and sends them again.
pub const QUEUE_MESSAGES_MAX: usize = 1024;

/// The most bytes that wait for the broker.
pub const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Events that wait for the receiver before the broker is made to wait.
const EVENTS_WAITING_MAX: usize = 64;

/// Where mosquitto's dynamic-security plugin takes its commands.
pub const CONTROL_TOPIC: &str = "$CONTROL/dynamic-security/v1";

/// Where mosquitto's dynamic-security plugin answers.
pub const CONTROL_RESPONSE_TOPIC: &str = "$CONTROL/dynamic-security/v1/response";

/// How to reach the broker.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// The fleet, whose name stands in every topic.
    pub fleet: FleetId,
    /// MQTT client id.
    pub client_id: String,
    /// MQTT user name. A broker that takes it from the certificate ignores this one; any other has no name but this.
    pub user: String,
    /// Brokers. The first is tried first; a connection that fails or ends moves on to the next.
    pub urls: Vec<BrokerUrl>,
    /// Needed for `mqtts://`.
    pub tls: Option<TlsIdentity>,
    /// MQTT keep-alive. Less than 5 s counts as 5 s: the client cannot do less.
    pub keepalive: Duration,
    /// How long a connection may take until the broker has accepted its subscriptions.
    pub connect: Duration,
    /// The most bytes of one packet, in both directions.
    pub packet_bytes_max: u32,
}

impl LinkConfig {
    /// What the fleet's broker accepts as a packet.
    pub const PACKET_BYTES_MAX: u32 = 64 * 1024;
}

/// Why no link can be made of a configuration.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No broker is named.
    #[error("no broker is named: give its address as mqtts://HOST:PORT")]
    NoBroker,
    /// `mqtts://` without an identity.
    #[error("{0} needs a client certificate and the broker's authority, and there is none")]
    NoIdentity(BrokerUrl),
    /// The identity is not usable.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The operating system gave no thread.
    #[error("cannot start the link's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A link to the broker. It makes no connection of its own accord.
#[derive(Debug)]
pub struct Link {
    inbox: Arc<Inbox>,
    driver: Option<JoinHandle<()>>,
}

impl Link {
    /// Starts a link that waits for its first command. `trusted_time` gives the floor E, by which certificates are judged.
    ///
    /// `on_event` is called on a thread of its own, in order, and may block: the broker is then made to wait. Events of a
    /// connection that was closed or replaced by a command are not handed over any more, save one that `on_event` already
    /// has. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`LinkError`]: the configuration cannot work.
    pub fn spawn(
        config: LinkConfig,
        trusted_time: impl Fn() -> Timestamp + Send + Sync + 'static,
        on_event: impl Fn(LinkEvent) + Send + Sync + 'static,
    ) -> Result<Self, LinkError> {
        let plain = |url: &&BrokerUrl| url.security == Security::Plain;
        let tls = match (&config.tls, config.urls.iter().find(|url| !plain(url))) {
            _ if config.urls.is_empty() => return Err(LinkError::NoBroker),
            (None, Some(url)) => return Err(LinkError::NoIdentity(url.clone())),
            (Some(identity), Some(_)) => Some(tls::client_config(identity, Arc::new(trusted_time))?),
            (_, None) => None,
        };
        let inbox = Arc::new(Inbox::default());
        let (events, mut waiting) = mpsc::channel::<Said>(EVENTS_WAITING_MAX);
        let gate = Arc::clone(&inbox);
        std::thread::Builder::new().name("link-events".into()).spawn(move || {
            while let Some(said) = waiting.blocking_recv() {
                if gate.is_current(said.connection) {
                    on_event(said.event);
                }
            }
        })?;
        let driver = tokio::spawn(drive(config, tls, Arc::clone(&inbox), events));
        Ok(Self { inbox, driver: Some(driver) })
    }

    /// Passes a command on. Never blocks.
    pub fn send(&self, command: LinkCommand) {
        match command {
            LinkCommand::Close => self.inbox.close(Afterwards::Wait),
            LinkCommand::Connect { filters, will } => self.inbox.connect(Connect { filters, will }),
            LinkCommand::Publish(publish) => self.inbox.publish(Outbound::Message(publish)),
            LinkCommand::Read { places, left } => self.inbox.publish(Outbound::Read { places, left }),
        }
    }

    /// Publishes a command to the broker's dynamic-security plugin. Its answer comes as a message on
    /// [`CONTROL_RESPONSE_TOPIC`] to whoever subscribes to that.
    pub fn administer(&self, payload: Vec<u8>) {
        self.inbox.publish(Outbound::Control(payload));
    }

    /// Sends what waits, closes the connection in order, so that the last will is not sent, and ends the link. Takes a few
    /// seconds at most.
    pub async fn finish(mut self) {
        self.inbox.close(Afterwards::End);
        if let Some(driver) = self.driver.take() {
            // A receiver that takes no event any more must not hold up the end.
            match tokio::time::timeout(2 * session::CLOSE_MAX, driver).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(error)) => tracing::error!(event = "link.failed", %error),
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.inbox.close(Afterwards::End);
    }
}

/// What a connection is opened with.
#[derive(Debug)]
struct Connect {
    filters: Vec<String>,
    will: Option<Publish>,
}

/// A message on its way out.
#[derive(Debug)]
enum Outbound {
    Control(Vec<u8>),
    Message(Publish),
    /// Not a message, but in their order: places to subscribe to, and places to leave.
    Read {
        places: Vec<Topic>,
        left: Vec<Topic>,
    },
}

impl Outbound {
    fn bytes(&self) -> usize {
        match self {
            Self::Control(payload) => payload.len(),
            Self::Message(publish) => publish.payload.len(),
            Self::Read { .. } => 0,
        }
    }
}

/// An event and the connection that it is of.
struct Said {
    connection: u64,
    event: LinkEvent,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Afterwards {
    End,
    Wait,
}

/// Commands on their way to the connection: at most one to connect or to close, and a bounded queue of messages.
#[derive(Debug, Default)]
struct Inbox {
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Rises with each command to connect or to close: what an older connection says is no longer of interest.
    connection: u64,
    connect: Option<Connect>,
    messages: VecDeque<Outbound>,
    bytes: usize,
    overflowed: bool,
    close: Option<Afterwards>,
}

/// What a connection finds in its inbox.
enum Next {
    /// Close in order once what waits is sent.
    Close,
    /// More was sent than fits.
    Overflowed,
    /// Another connection is wanted.
    Replaced,
    /// Nothing but messages.
    Stay,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code that holds the lock can panic half way; a poisoned lock still guards whole data.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, connect: Connect) {
        let mut waiting = self.lock();
        waiting.connection += 1;
        waiting.messages.clear();
        waiting.bytes = 0;
        waiting.overflowed = false;
        waiting.connect = Some(connect);
        waiting.close = None;
        drop(waiting);
        self.wake.notify_one();
    }

    fn close(&self, afterwards: Afterwards) {
        let mut waiting = self.lock();
        waiting.connection += 1;
        waiting.connect = None;
        waiting.close = Some(afterwards);
        drop(waiting);
        self.wake.notify_one();
    }

    fn publish(&self, message: Outbound) {
        let mut waiting = self.lock();
        if waiting.close.is_some() {
            return;
        }
        let bytes = waiting.bytes + message.bytes();
        if waiting.messages.len() >= QUEUE_MESSAGES_MAX || bytes > QUEUE_BYTES_MAX {
            waiting.overflowed = true;
        } else {
            waiting.bytes = bytes;
            waiting.messages.push_back(message);
        }
        drop(waiting);
        self.wake.notify_one();
    }

    fn pop(&self) -> Option<Outbound> {
        let mut waiting = self.lock();
        let message = waiting.messages.pop_front()?;
        waiting.bytes -= message.bytes();
        Some(message)
    }

    fn is_current(&self, connection: u64) -> bool {
        self.lock().connection == connection
    }

    fn next(&self) -> Next {
        let waiting = self.lock();
        if waiting.connect.is_some() {
            Next::Replaced
        } else if waiting.close.is_some() {
            Next::Close
        } else if waiting.overflowed {
            Next::Overflowed
        } else {
            Next::Stay
        }
    }

    /// Waits, without a connection, for the command to make one; none when the link has ended. Messages that wait without
    /// a connection are dropped: their sender was told that there is none.
    async fn next_connect(&self) -> Option<(u64, Connect)> {
        loop {
            {
                let mut waiting = self.lock();
                if let Some(connect) = waiting.connect.take() {
                    return Some((waiting.connection, connect));
                }
                waiting.messages.clear();
                waiting.bytes = 0;
                waiting.overflowed = false;
                if waiting.close == Some(Afterwards::End) {
                    return None;
                }
            }
            self.wake.notified().await;
        }
    }
}

/// Makes one connection after the other, as commanded, until the link ends.
async fn drive(
    config: LinkConfig,
    tls: Option<Arc<rustls::ClientConfig>>,
    inbox: Arc<Inbox>,
    events: mpsc::Sender<Said>,
) {
    let mut turn = 0;
    while let Some((connection, connect)) = inbox.next_connect().await {
        let url = &config.urls[turn % config.urls.len()];
        let session = session::Session::open(&config, url, tls.clone(), connect, &inbox, connection, &events);
        match session.run().await {
            session::End::Commanded => {}
            session::End::Lost(reason) => {
                turn += 1;
                let reason = format!("{url}: {reason}");
                if events.send(Said { connection, event: LinkEvent::Disconnected { reason } }).await.is_err() {
                    return;
                }
            }
        }
    }
}
