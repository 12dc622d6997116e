//! A look at a state folder that another process may be using.
//!
//! Owns: the same checks as a start makes, and what it would read, without the records since the anchor.
//! Never: locks, makes, writes or removes anything.
//! Read next: `folder.rs`, `anchor.rs`; `../foresee.rs`, which asks.

use std::path::Path;

use super::anchor::read;
use super::folder::{bytes_below, check_format, list, read_known};
use super::{Event, Recovered, StoreError};
use crate::agent::effects::StateFile;
use crate::agent::room::Content;
use crate::agent::{Anchor, EraImage};
use crate::shell::files::{check_private_dir, is_temporary};

/// What is in a state folder; none where there is no folder, or nothing in it yet.
///
/// # Errors
/// When a start would refuse the folder for what it is: its mode, its owner, its format.
pub fn peek(state_dir: &Path) -> Result<Option<Recovered>, StoreError> {
    if !state_dir.exists() || list(state_dir)?.is_empty() {
        return Ok(None);
    }
    check_private_dir(state_dir)?;
    // One that is not there yet is written at a start.
    check_format(state_dir)?;
    let mut events = Vec::new();
    let anchor = newest(state_dir, &mut events);
    let files = files(state_dir, &mut events)?;
    let used_bytes = bytes_below(&state_dir.join("eras")) + bytes_below(&state_dir.join("quarantine"));
    Ok(Some(Recovered { eras: anchor.iter().filter_map(image).collect(), anchor, files, used_bytes, events }))
}

pub(super) fn newest(state_dir: &Path, events: &mut Vec<Event>) -> Option<Anchor> {
    let slots = ["anchor.0", "anchor.1"].map(|name| state_dir.join(name));
    let mut anchors = Vec::new();
    for (slot, path) in slots.iter().enumerate() {
        match read(path) {
            Ok(anchor) => anchors.extend(anchor),
            Err(error) => events.push(Event::SlotUnusable { slot, error: error.to_string() }),
        }
    }
    anchors.into_iter().max_by_key(|anchor| anchor.generation)
}

/// The anchor's era as the anchor knows it: whole, with nothing after it. Its records are the running agent's.
fn image(anchor: &Anchor) -> Option<EraImage> {
    Some(EraImage {
        id: anchor.era?,
        segments: 1,
        closed_index: anchor.next_index,
        closed_head: anchor.head,
        records: Vec::new(),
        damage: None,
        content: Content::default(),
    })
}

fn files(state_dir: &Path, events: &mut Vec<Event>) -> Result<Vec<(StateFile, Vec<u8>)>, StoreError> {
    let mut paths = vec!["audit.key".to_owned(), "bundle".to_owned(), "policy".to_owned()];
    for sub in ["emergency", "feed", "wallet"].into_iter().filter(|sub| state_dir.join(sub).exists()) {
        let names = list(&state_dir.join(sub))?;
        paths.extend(names.iter().filter(|name| !is_temporary(name)).map(|name| format!("{sub}/{name}")));
    }
    read_known(state_dir, &paths, events)
}
