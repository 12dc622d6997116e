//! What a broker, a kit or a carried file keeps of what the fleet has signed, for a ledger that lost it.
//!
//! Owns: the walk from a ledger's newest trust bundle to the last that the broker keeps; reading the same from files.
//! Never: writes to a ledger or vouches for anything. `../fleet/restore.rs` decides what is taken.
//! Read next: `../fleet/restore.rs`; `mqtt/probe.rs`.

use std::path::Path;

use super::files::{self, FileError};
use super::mqtt::probe::{Arrived, Probe};
use super::mqtt::LinkConfig;
use crate::fleet::restore::Found;
use crate::fleet::Book;
use crate::time::Timestamp;
use crate::wire::bundle::TrustBundle;
use crate::wire::envelope::Signed;
use crate::wire::link::Topic;
use crate::wire::revocation::announcement::Announcement;
use crate::wire::revocation::carry::{Carried, CARRIED_BYTES_MAX};
use crate::wire::{Refused, MESSAGE_BYTES_MAX};

/// Why a file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It holds something else.
    #[error("{file}: {refused}: name a file of `hardtack fleet revocations export`, or the folder `bundles` of an emergency kit")]
    Refused {
        /// Which.
        file: String,
        /// Why not.
        refused: Refused,
    },
}

/// Asks the first broker that answers.
///
/// # Errors
/// What each of them said.
pub async fn at_broker(config: &LinkConfig, book: &Book, now: Timestamp) -> Result<Found, String> {
    let mut said = Vec::new();
    for url in &config.urls {
        let one = LinkConfig { urls: vec![url.clone()], ..config.clone() };
        match ask(&one, book, now).await {
            Ok(found) => return Ok(found),
            Err(reason) => said.push(format!("{url}: {reason}")),
        }
    }
    Err(said.join("; "))
}

/// Each trust bundle is looked at before the next is asked for: there are no more of them than the root keys have signed.
async fn ask(config: &LinkConfig, book: &Book, now: Timestamp) -> Result<Found, String> {
    let mut probe = Probe::connect(config, now, None).await?;
    let mut found = Found { complete: true, ..Found::default() };
    let mut trust = book.trust().clone();
    if let Some(kept) = one(&mut probe, config, &Topic::Bundle(trust.version)).await? {
        found.bundles.push(bundle(&kept, trust.version)?);
    }
    while let Some(kept) = one(&mut probe, config, &Topic::Bundle(trust.version + 1)).await? {
        let next = bundle(&kept, trust.version + 1)?;
        let refused = |refused| format!("bundle/{}: {refused}", trust.version + 1);
        trust = trust.successor(&next).map_err(refused)?;
        found.bundles.push(next);
    }
    // Of what is no policy nothing is taken, nor of what no key of the bundle has signed.
    let policies = probe.retained(&format!("hardtack/1/{}/policy/+", config.fleet)).await?;
    found.policies = policies.iter().filter_map(|kept| Signed::from_bytes(&kept.payload).ok()).collect();
    for feed in &trust.feeds {
        let head = one(&mut probe, config, &Topic::FeedHead(feed.id.clone())).await?;
        found.heads.extend(head.and_then(|kept| Announcement::from_bytes(&kept).ok()).map(|newest| newest.head));
    }
    probe.leave().await;
    Ok(found)
}

/// What the broker keeps at one place.
async fn one(probe: &mut Probe, config: &LinkConfig, topic: &Topic) -> Result<Option<Vec<u8>>, String> {
    let place = topic.text(&config.fleet);
    let kept = probe.retained(&place).await?;
    Ok(kept.into_iter().find(|message| message.topic == place).map(|Arrived { payload, .. }| payload))
}

fn bundle(bytes: &[u8], version: u64) -> Result<Signed<TrustBundle>, String> {
    Signed::from_bytes(bytes).map_err(|refused| format!("bundle/{version}: {refused}"))
}

/// Reads a file that was written for somebody to carry, or the trust bundles of a kit. Neither tells that there are no others.
///
/// # Errors
/// [`KeptError`].
pub fn in_files(path: &Path, book: &Book) -> Result<Found, KeptError> {
    let refused = |file: &Path| {
        let file = file.display().to_string();
        move |refused| KeptError::Refused { file, refused }
    };
    if !path.is_dir() {
        let carried = Carried::from_bytes(&files::read_bounded(path, CARRIED_BYTES_MAX)?).map_err(refused(path))?;
        return Ok(Found {
            bundles: carried.bundles,
            policies: carried.policy.into_iter().collect(),
            heads: carried.feeds.into_iter().map(|(head, _)| head).collect(),
            complete: false,
        });
    }
    let mut trust = book.trust().clone();
    let mut found = Found::default();
    loop {
        let file = path.join(format!("{:020}", trust.version + 1));
        let bytes = match files::read_bounded(&file, MESSAGE_BYTES_MAX) {
            Err(error) if error.is_missing() => return Ok(found),
            read => read?,
        };
        let next = Signed::from_bytes(&bytes).map_err(refused(&file))?;
        trust = trust.successor(&next).map_err(refused(&file))?;
        found.bundles.push(next);
    }
}
