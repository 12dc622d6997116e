//! A client that asks a broker questions: what is accepted, what is refused, what arrives.
//!
//! Owns: [`Probe`], one connection whose every act gets a [`Verdict`].
//! Never: takes part in what the fleet's own links carry.
//! Read next: `broker/check.rs`, which asks the questions; `../emergency.rs`, which has to know whether it was heard.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::{Filter, LastWill, Packet, Publish};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::{AsyncClient, Event};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::reasons::{describe, publish_refusal, refusal};
use super::session::options;
use super::{tls, Connect, LinkConfig, LinkError};
use crate::time::Timestamp;

/// The most messages that wait to be looked at: a broker that sends more than it was asked for is left.
const ARRIVED_MAX: usize = 1024;

/// What a broker made of something that a client did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was accepted.
    Accepted,
    /// It was refused, or the connection was ended over it.
    Refused(String),
}

/// A message that arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrived {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// One connection to a broker.
#[derive(Debug)]
pub struct Probe {
    client: AsyncClient,
    polled: mpsc::Receiver<Result<Event, String>>,
    polling: JoinHandle<()>,
    arrived: VecDeque<Arrived>,
    patience: Duration,
}

impl Probe {
    /// Connects to the first address of `config`, with a last will of QoS 1 if one is given.
    ///
    /// # Errors
    /// The broker's reason, or what was in the way.
    pub async fn connect(config: &LinkConfig, now: Timestamp, will: Option<(&str, &[u8])>) -> Result<Self, String> {
        let made = config.tls.as_ref().map(|identity| tls::client_config(identity, Arc::new(move || now)));
        let tls = made.transpose().map_err(|error| error.to_string())?;
        Self::open(config, tls, will).await
    }

    /// Connects over TLS without showing a certificate.
    ///
    /// # Errors
    /// The broker's reason, or what was in the way.
    pub async fn connect_anonymously(config: &LinkConfig, now: Timestamp) -> Result<Self, String> {
        let identity = config.tls.as_ref().ok_or("no authority is pinned")?;
        let tls = tls::anonymous_config(identity, Arc::new(move || now)).map_err(|error| error.to_string())?;
        Self::open(config, Some(tls), None).await
    }

    async fn open(
        config: &LinkConfig,
        tls: Option<Arc<rustls::ClientConfig>>,
        will: Option<(&str, &[u8])>,
    ) -> Result<Self, String> {
        let url = config.urls.first().ok_or_else(|| LinkError::NoBroker.to_string())?;
        let mut options = options(config, url, tls, &Connect { filters: Vec::new(), will: None });
        if let Some((topic, payload)) = will {
            options.set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, false, None));
        }
        let (client, mut event_loop) = AsyncClient::new(options, 16);
        let (said, polled) = mpsc::channel(64);
        let polling = tokio::spawn(async move {
            loop {
                let event = event_loop.poll().await.map_err(|error| describe(&error));
                let ended = event.is_err();
                if said.send(event).await.is_err() || ended {
                    return;
                }
            }
        });
        let mut probe = Self { client, polled, polling, arrived: VecDeque::new(), patience: config.connect };
        let accepted = |packet: &Packet| matches!(packet, Packet::ConnAck(_)).then_some(Verdict::Accepted);
        match probe.wait(accepted).await {
            Verdict::Accepted => Ok(probe),
            Verdict::Refused(reason) => Err(reason),
        }
    }

    /// Subscribes to one filter.
    pub async fn subscribe(&mut self, filter: &str) -> Verdict {
        if self.client.try_subscribe_many([Filter::new(filter, QoS::AtLeastOnce)]).is_err() {
            return Verdict::Refused("not a valid filter".into());
        }
        self.wait(|packet| {
            let Packet::SubAck(suback) = packet else { return None };
            Some(match suback.return_codes.first().copied().map(refusal) {
                Some(None) => Verdict::Accepted,
                Some(Some(reason)) => Verdict::Refused(reason.into()),
                None => Verdict::Refused("no answer to the filter".into()),
            })
        })
        .await
    }

    /// What the broker keeps under a filter at this moment, as far as it says so before it answers that the subscription has
    /// ended again: a broker that works through one client's packets in their order has said all of it by then.
    ///
    /// # Errors
    /// The broker's reason, or what was in the way.
    pub async fn retained(&mut self, filter: &str) -> Result<Vec<Arrived>, String> {
        match self.subscribe(filter).await {
            Verdict::Accepted => {}
            Verdict::Refused(reason) => return Err(format!("{filter}: {reason}")),
        }
        if self.client.try_unsubscribe(filter).is_err() {
            return Err("not a valid filter".into());
        }
        let ended = |packet: &Packet| matches!(packet, Packet::UnsubAck(_)).then_some(Verdict::Accepted);
        match self.wait(ended).await {
            Verdict::Accepted => Ok(self.arrived.drain(..).collect()),
            Verdict::Refused(reason) => Err(format!("{filter}: {reason}")),
        }
    }

    /// Publishes one message, QoS 1.
    pub async fn publish(&mut self, topic: &str, payload: &[u8]) -> Verdict {
        self.publish_as(topic, payload, false).await
    }

    /// Publishes one message that the broker is to keep, QoS 1.
    pub async fn publish_retained(&mut self, topic: &str, payload: &[u8]) -> Verdict {
        self.publish_as(topic, payload, true).await
    }

    async fn publish_as(&mut self, topic: &str, payload: &[u8], retain: bool) -> Verdict {
        if self.client.try_publish(topic, QoS::AtLeastOnce, retain, payload.to_vec()).is_err() {
            return Verdict::Refused("not a valid topic".into());
        }
        self.wait(|packet| {
            let Packet::PubAck(puback) = packet else { return None };
            Some(publish_refusal(puback.reason).map_or(Verdict::Accepted, |reason| Verdict::Refused(reason.into())))
        })
        .await
    }

    /// Waits for the next message.
    pub async fn next(&mut self) -> Option<Arrived> {
        loop {
            if let Some(message) = self.arrived.pop_front() {
                return Some(message);
            }
            match timeout(self.patience, self.polled.recv()).await {
                Ok(Some(Ok(event))) => self.keep(event),
                Ok(Some(Err(_)) | None) | Err(_) => return None,
            }
        }
    }

    /// Waits for a message and returns all that arrived up to it, in order, itself included; none if it does not come.
    pub async fn until(&mut self, payload: &[u8]) -> Option<Vec<Arrived>> {
        loop {
            if let Some(last) = self.arrived.iter().position(|message| message.payload == payload) {
                return Some(self.arrived.drain(..=last).collect());
            }
            match timeout(self.patience, self.polled.recv()).await {
                Ok(Some(Ok(event))) => self.keep(event),
                Ok(Some(Err(_)) | None) | Err(_) => return None,
            }
        }
    }

    /// Ends without a word, so that the last will is sent.
    pub fn drop_dead(self) {}

    /// Says DISCONNECT and waits until the broker has closed.
    pub async fn leave(mut self) {
        if self.client.try_disconnect().is_ok() {
            while let Ok(Some(Ok(_))) = timeout(self.patience, self.polled.recv()).await {}
        }
    }

    /// However much else the broker has to say, the answer has to come in time.
    async fn wait(&mut self, answer: impl Fn(&Packet) -> Option<Verdict>) -> Verdict {
        let patience = self.patience;
        let answered = timeout(patience, self.answer(answer)).await;
        answered.unwrap_or_else(|_| Verdict::Refused(format!("no answer within {patience:?}")))
    }

    async fn answer(&mut self, answer: impl Fn(&Packet) -> Option<Verdict>) -> Verdict {
        loop {
            match self.polled.recv().await {
                Some(Ok(event)) => {
                    let verdict = match &event {
                        Event::Incoming(packet) => answer(packet),
                        Event::Outgoing(_) => None,
                    };
                    self.keep(event);
                    if let Some(verdict) = verdict {
                        return verdict;
                    }
                    if self.arrived.len() > ARRIVED_MAX {
                        return Verdict::Refused(format!("sends more than {ARRIVED_MAX} messages and no answer"));
                    }
                }
                Some(Err(reason)) => return Verdict::Refused(reason),
                None => return Verdict::Refused("the connection has ended".into()),
            }
        }
    }

    fn keep(&mut self, event: Event) {
        if let Event::Incoming(Packet::Publish(Publish { topic, payload, .. })) = event {
            let topic = String::from_utf8_lossy(&topic).into_owned();
            self.arrived.push_back(Arrived { topic, payload: payload.to_vec() });
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.polling.abort();
    }
}
