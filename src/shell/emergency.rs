//! An emergency statement on its way to the broker.
//!
//! Owns: the one connection that brings a statement to the broker, and hears whether the
//! broker took it.
//! Never: signs; goes on where the broker says no.
//! Read next: `emergency/kit.rs`; `../fleet/emergency.rs`.

pub mod kit;

use super::mqtt::probe::{Probe, Verdict};
use super::mqtt::{BrokerUrl, LinkConfig};
use crate::agent::effects::Publish;
use crate::time::Timestamp;

/// Why a statement did not get to a broker. It is signed and kept: the next one repeats what it revokes.
#[derive(Debug, thiserror::Error)]
#[error("the broker did not take it: {0}")]
pub struct NotTaken(String);

/// Brings messages to the first of the brokers that takes them. Gives which one that was.
///
/// # Errors
/// [`NotTaken`], with what each broker said.
pub async fn publish(config: &LinkConfig, now: Timestamp, messages: &[Publish]) -> Result<BrokerUrl, NotTaken> {
    let mut said = Vec::new();
    for url in &config.urls {
        let one = LinkConfig { urls: vec![url.clone()], ..config.clone() };
        match publish_to(&one, now, messages).await {
            Ok(()) => return Ok(url.clone()),
            Err(reason) => said.push(format!("{url}: {reason}")),
        }
    }
    Err(NotTaken(said.join("; ")))
}

async fn publish_to(config: &LinkConfig, now: Timestamp, messages: &[Publish]) -> Result<(), String> {
    let mut connection = Probe::connect(config, now, None).await?;
    for Publish { topic, payload } in messages {
        match connection.publish_retained(&topic.text(&config.fleet), payload).await {
            Verdict::Accepted => {}
            Verdict::Refused(reason) => return Err(format!("{topic}: {reason}")),
        }
    }
    connection.leave().await;
    Ok(())
}
