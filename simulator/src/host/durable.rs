//! What a commit made durable.
//!
//! Owns: [`Durable`], read from the steps of a commit.
//! Never: judges it.
//! Read next: `check/`, which does.

use std::collections::BTreeSet;
use std::sync::Arc;

use hardtack::agent::effects::{Entry, StateFile, StoredRecord};
use hardtack::agent::feed::Held;
use hardtack::agent::Anchor;
use hardtack::ids::{EraId, FeedId, GrantId, KeyId};

use crate::disk::{Medium, Step};
use crate::recovery;

/// What a commit made durable, for the checkers.
pub(super) struct Durable {
    /// Feeds of which a file was written.
    pub(super) feeds: BTreeSet<FeedId>,
    /// Emergency keys of which the file was written.
    pub(super) emergencies: BTreeSet<KeyId>,
    /// Feeds of which nothing is left.
    pub(super) feeds_removed: Vec<FeedId>,
    /// Whether a trust bundle was written.
    pub(super) bundle: bool,
    pub(super) grants_removed: Vec<GrantId>,
    pub(super) eras_dropped: Vec<EraId>,
    pub(super) records: Vec<StoredRecord>,
    pub(super) anchor: Option<Arc<Anchor>>,
}

/// The feed that a file is of.
fn feed_of(file: &StateFile) -> Option<FeedId> {
    match file {
        StateFile::Feed(feed) | StateFile::FeedSince(feed) => Some(feed.clone()),
        StateFile::AuditKey
        | StateFile::Bundle
        | StateFile::Emergency(_)
        | StateFile::Grant(_)
        | StateFile::Policy
        | StateFile::Task(_) => None,
    }
}

/// The emergency key that a file is of.
fn emergency_of(file: &StateFile) -> Option<KeyId> {
    match file {
        StateFile::Emergency(key) => Some(*key),
        StateFile::AuditKey
        | StateFile::Bundle
        | StateFile::Feed(_)
        | StateFile::FeedSince(_)
        | StateFile::Grant(_)
        | StateFile::Policy
        | StateFile::Task(_) => None,
    }
}

/// A feed as a disk has it.
pub(super) fn held(medium: &Medium, feed: &FeedId) -> Option<Held> {
    let file = |file| medium.files.get(&file).map(Vec::as_slice);
    Held::read(file(StateFile::Feed(feed.clone()))?, file(StateFile::FeedSince(feed.clone()))).ok()
}

impl Durable {
    /// What a start finds that it did not know: records after a place, an anchor of a later generation, and all files.
    pub(super) fn found(medium: &Medium, place: (u64, u64), generation: u64) -> Self {
        let records = medium.eras.values().flatten().filter_map(|entry| match entry {
            Entry::Record(record) if (record.era.number, record.index) > place => Some(record.clone()),
            Entry::Record(_) | Entry::Segment(_) => None,
        });
        let unknown = |anchor: &&Anchor| anchor.generation > generation;
        Self {
            feeds: medium.files.keys().filter_map(feed_of).collect(),
            emergencies: medium.files.keys().filter_map(emergency_of).collect(),
            feeds_removed: Vec::new(),
            bundle: medium.files.contains_key(&StateFile::Bundle),
            grants_removed: Vec::new(),
            eras_dropped: Vec::new(),
            records: records.collect(),
            anchor: recovery::newest(medium).filter(unknown).cloned().map(Arc::new),
        }
    }

    /// What these steps of a commit made durable.
    pub(super) fn of(steps: &[Step]) -> Self {
        let mut durable = Self {
            feeds: BTreeSet::new(),
            emergencies: BTreeSet::new(),
            feeds_removed: Vec::new(),
            bundle: false,
            grants_removed: Vec::new(),
            eras_dropped: Vec::new(),
            records: Vec::new(),
            anchor: None,
        };
        for step in steps {
            match step {
                Step::Replace(file, _) => {
                    durable.feeds.extend(feed_of(file));
                    durable.emergencies.extend(emergency_of(file));
                    durable.bundle |= *file == StateFile::Bundle;
                }
                Step::Remove(StateFile::Feed(feed)) => durable.feeds_removed.push(feed.clone()),
                Step::Remove(StateFile::Grant(grant)) => durable.grants_removed.push(*grant),
                Step::Append(Entry::Record(record)) => durable.records.push(record.clone()),
                Step::WriteAnchor(anchor) => durable.anchor = Some(anchor.clone()),
                Step::DropEra(era) => durable.eras_dropped.push(*era),
                Step::Append(Entry::Segment(_))
                | Step::SyncFolder(_)
                | Step::CreateEra(_)
                | Step::SyncEra
                | Step::SyncEntries
                | Step::SyncAnchor
                | Step::Remove(_)
                | Step::Shed(_) => {}
            }
        }
        durable
    }
}
