//! The revocation feeds as the fleet signs them, and what the broker keeps for devices.
//!
//! Owns: whose turn it is to publish; when a new head is due, its number, what it adds, where that is filed; the steps of
//! the ladder; the retained messages in the order in which devices need them.
//! Never: signs a number twice, or at or below one that a device has seen from a ledger that is lost; signs with a key that
//! the trust bundle does not name; takes back what it added. A new era begins at 1 with all that is revoked.
//! Read next: `wire/revocation/announcement.rs`.

use std::collections::BTreeMap;

use ed25519_dalek::SigningKey;

use super::acts::{self, Deed};
use super::again::{Order, Thing};
use super::book::{Book, Device, FeedBook, Publisher, Restored, Rule, Seen, ServedKeys, Status, Write};
use super::rotate::KeyRole;
use super::{keys, restore, Effects, FleetError, FleetLog, Operator};
use crate::agent::effects::Publish;
use crate::ids::{BlockId, FeedId, Hash, KeyId};
use crate::mutant::{self, Mutant};
use crate::time::{Millis, Timestamp};
use crate::wire::bundle::Feed;
use crate::wire::link::Topic;
use crate::wire::revocation::announcement::{Snapshot, Successor, ADDITIONS_BYTES_MAX};
use crate::wire::revocation::fingerprints::{file, FingerprintKey, Salt, Width};
use crate::wire::revocation::ladder::Step;
use crate::wire::revocation::manifest::Manifest;
use crate::wire::revocation::rules::Selector;
use crate::wire::revocation::serials::SerialBucket;
use crate::wire::revocation::set::{PartKey, RevocationSet, EXACT_MAX};
use crate::wire::revocation::slot::Slot;
use crate::wire::revocation::{highest_number, Position, Target, AHEAD_MAX};
use crate::wire::Refused;

/// Heads that are signed at one time: what does not fit into these waits for the next.
const HEADS_AT_ONCE_MAX: usize = 32;

/// Revocations that are tried in one head at first: more do not fit, at 8 bytes each and some for where they are filed.
const PENDING_AT_ONCE: usize = ADDITIONS_BYTES_MAX / 6;

/// Heads after which a snapshot is brought anew, whatever its size. Half of the deltas that the broker keeps.
const SNAPSHOT_EVERY: u64 = 32;
/// A set that is brought anew with each change.
const SNAPSHOT_SMALL_BYTES: usize = 64 * 1024;

/// When heads are due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cadence {
    /// A head is signed anew after this long, even if nothing changed: it is what devices measure staleness by.
    pub interval: Millis,
    /// A device that has heard no newer head for this long denies what is of the highest class of risk, whatever its
    /// policy says.
    pub hard_stale: Millis,
}

impl Cadence {
    /// A head each `interval`; hard stale after 90 days.
    pub const fn every(interval: Millis) -> Self {
        Self { interval, hard_stale: Millis::from_secs(90 * 86_400) }
    }

    /// A head is signed anew after this long.
    pub(super) const fn interval(self) -> Millis {
        self.interval
    }

    /// What a head promises: the next one comes within three intervals.
    fn next_update(self) -> Millis {
        Millis(self.interval.0.saturating_mul(3))
    }
}

/// A publisher starts: whoever had the turn before signs no more. Gives the number of the turn, which the publisher brings
/// to [`check_turn`] in every transaction.
pub fn take_turn(book: &mut Book, holder: String, keys: ServedKeys, at: Timestamp, fx: &mut Effects) -> u64 {
    let turn = book.publisher().map_or(0, |before| before.turn) + 1;
    book.write(Write::Publisher(Publisher { turn, holder, at, keys }), fx);
    turn
}

/// A key with which the last publisher began, and which is not the one in use any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replaced {
    /// Its role.
    pub role: KeyRole,
    /// Whether devices believe it still. If not, nothing is done with it any more.
    pub good: bool,
}

impl Replaced {
    /// What the publisher does not do, and what to do about it. None as long as its key is good.
    pub fn stalled(&self, bundle: u64) -> Option<String> {
        let undone = match self.role {
            KeyRole::Feed => "signs no head",
            KeyRole::Service => "acknowledges nothing, so that no device can say what it has,",
            KeyRole::Issuer => "mints no token",
            KeyRole::Collector | KeyRole::Operator | KeyRole::Policy => return None,
        };
        let role = self.role.name();
        (!self.good).then(|| {
            format!(
                "it {undone} for it began with a {role} key that trust bundle {bundle} names no more: start `hardtack fleet \
                 serve` again, so that it takes the new one"
            )
        })
    }
}

/// The keys of the last publisher that were replaced since it began. Whether it runs still, the ledger does not know.
pub fn replaced(book: &Book) -> Vec<Replaced> {
    let Some(keys) = book.publisher().map(|publisher| publisher.keys) else { return Vec::new() };
    let roles = [(KeyRole::Feed, keys.feed), (KeyRole::Issuer, keys.issuer), (KeyRole::Service, keys.service)];
    let standing = |(role, own): (KeyRole, KeyId)| {
        let named: Vec<KeyId> = role.keys(book.trust()).iter().map(|key| KeyId::of(key)).collect();
        let replaced = named.first() != Some(&own);
        replaced.then(|| Replaced { role, good: named.contains(&own) })
    };
    roles.into_iter().filter_map(standing).collect()
}

/// Whether it is still this publisher's turn.
///
/// # Errors
/// [`FleetError::Superseded`], naming who has it.
pub fn check_turn(book: &Book, turn: u64) -> Result<(), FleetError> {
    match book.publisher().filter(|publisher| publisher.turn != turn) {
        Some(Publisher { holder, at, .. }) => Err(FleetError::Superseded { holder: holder.clone(), at: *at }),
        None => Ok(()),
    }
}

/// Signs the heads that are due in every feed: something was revoked, bundle or policy changed, or the interval has passed.
/// Says whether there was one. Many revocations make several heads, so that what each adds fits into a message. A ledger
/// that is behind what devices have seen signs nothing.
pub fn advance(book: &mut Book, key: &SigningKey, cadence: Cadence, at: Timestamp, fx: &mut Effects) -> bool {
    may_sign(book, key).is_ok() && advance_checked(book, key, cadence, at, fx)
}

/// The same for whoever has just asked whether it [`may_sign`].
pub(super) fn advance_checked(
    book: &mut Book,
    key: &SigningKey,
    cadence: Cadence,
    at: Timestamp,
    fx: &mut Effects,
) -> bool {
    let feeds: Vec<FeedId> = book.feeds().map(|(feed, _)| feed.clone()).collect();
    let mut signed = false;
    for feed in feeds {
        signed |= advance_feed(book, &Signer { feed: &feed, key, cadence, at }, fx);
    }
    signed
}

/// Who signs which feed's heads, and when.
struct Signer<'a> {
    feed: &'a FeedId,
    key: &'a SigningKey,
    cadence: Cadence,
    at: Timestamp,
}

fn advance_feed(book: &mut Book, signer: &Signer<'_>, fx: &mut Effects) -> bool {
    let mut signed = false;
    let mut pending = pending(book, signer.feed, signer.at);
    for _ in 0..HEADS_AT_ONCE_MAX {
        let additions = take(book, signer, &mut pending);
        if additions.is_empty() && !is_due(book, signer.feed, signer.cadence, signer.at) {
            break;
        }
        sign(book, signer, &additions, pending.is_empty(), fx);
        signed = true;
        if mutant::active(Mutant::PendingDropped) {
            break;
        }
    }
    signed
}

/// What is revoked in the ledger, belongs to a feed and is not in its set, or for longer than there; of whole ids as many as
/// the set has room for.
fn pending(book: &Book, feed: &FeedId, at: Timestamp) -> Vec<Rule> {
    let known = book.of(feed);
    let waits = |rule: &&Rule| rule.until >= at && !is_settled(known, rule);
    let is_whole = |rule: &Rule| matches!(rule.target, Target::Block(_)) && rule.life.is_none();
    let mut room = EXACT_MAX.saturating_sub(known.set().exact_count());
    let mut fits = |rule: &&Rule| {
        let whole = is_whole(rule);
        let fits = !whole || room > 0;
        room -= usize::from(whole && fits);
        fits
    };
    book.waiting(feed).filter(waits).filter(|rule| fits(rule)).cloned().collect()
}

/// Whether there is nothing to publish of a revocation in a feed: the newest head's set holds it, or has dropped it with all
/// that it can cover. A block may be revoked for longer than its token can live.
pub(super) fn is_settled(feed: &FeedBook, rule: &Rule) -> bool {
    let dropped_before = feed.head().map_or(Timestamp(0), |last| last.head.dropped_before);
    let is_filed = matches!(rule.target, Target::Block(_));
    rule.until < dropped_before || (is_filed && slot_of(rule).ends() <= dropped_before) || holds(feed, rule)
}

/// Whether the newest heads' sets hold a revocation, in every feed to which it belongs.
pub fn is_published(book: &Book, rule: &Rule) -> bool {
    book.routes().feeds(rule).into_iter().all(|feed| holds(book.of(feed), rule))
}

/// Whether the set of a feed's newest head holds a revocation.
pub fn holds(feed: &FeedBook, rule: &Rule) -> bool {
    let set = feed.set();
    match (&rule.target, Selector::of(&rule.target)) {
        (Target::Block(block), _) => match rule.life.and_then(|life| Some((life.slot(), life.serial?))) {
            Some((slot, serial)) => set.covers_serial(slot, serial),
            None => set.covers_block(slot_of(rule), block),
        },
        (Target::IssuedBefore(_), Some(selector)) | (_, Some(selector)) => {
            set.covers_by_rule([selector], Timestamp(u64::MAX), rule.until).is_some()
        }
        (_, None) => true,
    }
}

/// Where a block is filed: by the life of its token, or, where that is not known, by when it is certainly over.
fn slot_of(rule: &Rule) -> Slot {
    rule.life.map_or_else(|| Slot::of_day(rule.until), |life| life.slot())
}

/// As much of what waits as one head can add, taken from its front; all of it where the feed has no head in its era, for
/// then devices fetch the whole set. What a full set cannot take goes on waiting until a bucket ends, and is in nobody's way.
fn take(book: &Book, signer: &Signer<'_>, pending: &mut Vec<Rule>) -> RevocationSet {
    let known = book.of(signer.feed);
    if known.head().is_none() {
        return take_whole(book, signer, pending);
    }
    while !pending.is_empty() {
        let mut count = pending.len().min(PENDING_AT_ONCE);
        while count > 0 {
            let additions = filed(book, &pending[..count], &|slot| salt_of(slot, signer.key)).unwrap_or_default();
            let bytes = additions.to_bytes().len();
            let fits = bytes <= ADDITIONS_BYTES_MAX && !additions.is_empty() && known.set().merge(&additions).is_ok();
            if fits {
                pending.drain(..count);
                return additions;
            }
            // Bytes grow about as their number does.
            let fewer = count * ADDITIONS_BYTES_MAX / bytes * 31 / 32;
            count = if bytes > ADDITIONS_BYTES_MAX { fewer.min(count - 1) } else { count / 2 };
        }
        pending.remove(0);
    }
    RevocationSet::default()
}

/// The first set of a new feed: nobody has anything of it to add to.
fn take_whole(book: &Book, signer: &Signer<'_>, pending: &mut Vec<Rule>) -> RevocationSet {
    let mut whole = RevocationSet::default();
    let mut waiting: Vec<Vec<Rule>> = std::mem::take(pending).chunks(PENDING_AT_ONCE).map(<[Rule]>::to_vec).collect();
    while let Some(some) = waiting.pop() {
        let additions = filed(book, &some, &|slot| salt_of(slot, signer.key));
        match additions.and_then(|additions| whole.merge(&additions)) {
            Ok(sum) => whole = sum,
            // Half of it may have room. What a full set cannot take waits until something in it ends.
            Err(_) if some.len() > 1 => {
                let (first, second) = some.split_at(some.len() / 2);
                waiting.extend([first.to_vec(), second.to_vec()]);
            }
            Err(_) => {}
        }
    }
    whole
}

/// Revocations as a set says them: rules, a serial for a token that was minted with one, a whole id for a block whose token
/// nobody had at hand, and a fingerprint for any other.
pub(super) fn filed(book: &Book, rules: &[Rule], salt_of: &dyn Fn(Slot) -> Salt) -> Result<RevocationSet, Refused> {
    let mut set = RevocationSet::default();
    let mut blocks: BTreeMap<Slot, Vec<BlockId>> = BTreeMap::new();
    let mut serials: BTreeMap<Slot, Vec<u32>> = BTreeMap::new();
    for rule in rules {
        match (&rule.target, Selector::of(&rule.target), rule.life) {
            (Target::Block(block), _, None) => set.add_exact(*block, slot_of(rule)),
            (Target::Block(block), _, Some(life)) => match life.serial {
                Some(serial) => serials.entry(life.slot()).or_default().push(serial),
                None => blocks.entry(life.slot()).or_default().push(*block),
            },
            (_, Some(selector), _) => set.add_rule(selector, rule.until),
            (_, None, _) => {}
        }
    }
    for (slot, revoked) in serials {
        // A ledger that was restored may have given out more than it knows.
        let beyond = revoked.iter().max().map_or(0, |last| last.saturating_add(1));
        set.add_serials(slot, SerialBucket::new(book.serials(slot).max(beyond), revoked)?);
    }
    for (slot, blocks) in blocks {
        let key = FingerprintKey { slot, width: Width::Bits64, salt: salt_of(slot) };
        // A block that lives and has the same fingerprint must not be hit: then the whole id is published.
        let filed = file(&key, blocks, book.grants().map(|grant| grant.block))?;
        if let Some(bucket) = filed.bucket {
            set.add_fingerprints(key, bucket)?;
        }
        filed.exact.into_iter().for_each(|block| set.add_exact(block, slot));
    }
    Ok(set)
}

/// The salt of a slot: nobody can reckon it ahead who does not hold the feed's key, and no ledger can lose it.
fn salt_of(slot: Slot, feed: &SigningKey) -> Salt {
    let digest = Hash::of("hardtack/fingerprint-salt/v1", &[feed.as_bytes(), &slot.number().to_be_bytes()]);
    let mut salt = Salt([0; 16]);
    salt.0.copy_from_slice(&digest.0[..16]);
    salt
}

/// Signs the next head of a feed. One after which more waits (`last` is false) says that it is no newer than the one before
/// it: nothing is fresh by a head that does not hold what the ledger does.
fn sign(book: &mut Book, signer: &Signer<'_>, additions: &RevocationSet, last: bool, fx: &mut Effects) {
    let Signer { feed: id, key, cadence, at } = *signer;
    let feed = book.of(id);
    // Every token that a lapsed rule covered expired with it at the latest; the rule itself goes as well.
    let lapsed = feed.lapsed_before(at).map_or(Timestamp(0), |until| until + Millis(1));
    let (era, newest) = (feed.era(), feed.head());
    let dropped_before = newest.map_or(lapsed, |newest| newest.head.dropped_before.max(lapsed));
    let before = newest.filter(|newest| newest.head.era == era);
    let own = own(feed);
    // Where a head that is lost was the last one, nobody can name its digest: a number is left out, so that this head follows
    // none that a device has, and contradicts none.
    let follows = before.map_or(own.1 == 0, |before| before.position.order() == own);
    let seq = own.1.saturating_add(if follows { 1 } else { 2 });
    let mut set = feed.set().merge(additions).expect("it was tried before");
    set.drop_expired(dropped_before);
    // Devices have nothing of a new era: its first head adds all there is, or, where no message holds that, what is new
    // alone, and then the set does not come out by adding and devices fetch it whole.
    let whole = Some(&set).filter(|set| before.is_none() && set.to_bytes().len() <= ADDITIONS_BYTES_MAX).cloned();
    let none = RevocationSet::default();
    let fits = additions.to_bytes().len() <= ADDITIONS_BYTES_MAX;
    let additions = whole.as_ref().unwrap_or(if fits { additions } else { &none });
    // The clock of this machine may be set back; what devices have seen never is.
    let issued_at =
        newest.map_or(at, |newest| if last { newest.head.issued_at.max(at) } else { newest.head.issued_at });
    let successor = Successor {
        feed: id,
        era,
        seq,
        previous: before.map_or(Hash::ZERO, |before| before.position.digest),
        issued_at,
        next_update_ms: cadence.next_update(),
        hard_stale_ms: cadence.hard_stale,
        dropped_before,
        set: &set,
        additions,
        skips: &skips(feed, (era, seq), additions),
        bundle_version: book.trust().version,
        policy_version: book.policy().1.version,
    };
    let (_, announcements) = successor.sign(book.fleet(), key);
    let entries = set.count();
    if set != *feed.set() {
        book.write(Write::Set(id.clone(), set.to_bytes()), fx);
    }
    let signed = announcements.first().map(|announcement| announcement.head.clone());
    announcements.into_iter().for_each(|announcement| book.write(Write::Step(announcement), fx));
    if let Some(signed) = signed {
        let bytes = set.to_bytes();
        if snapshot_due(book, id, (era, seq), &bytes) {
            book.write(Write::Snapshot(signed.clone(), bytes), fx);
        }
        book.write(Write::Head(signed), fx);
    }
    fx.log(FleetLog::FeedSigned { feed: id.clone(), seq, rules: entries });
}

/// A small set is brought anew with each change; a large one only before the ladder is too short to lead on from it, and
/// when an era has begun or the key that signed it is the feed's no more: who was away then cannot use anything from before.
fn snapshot_due(book: &Book, feed: &FeedId, (era, seq): (u32, u64), bytes: &[u8]) -> bool {
    let Some((head, set)) = book.of(feed).snapshot() else { return true };
    let dropped = head.open(book.fleet(), book.trust().feed_keys(feed), 1).is_err();
    if dropped && !mutant::active(Mutant::SnapshotOfDroppedKey) {
        return true;
    }
    let of = head.claim().map_or((0, 0), |head| (head.era, head.seq));
    of.0 != era
        || seq.saturating_sub(of.1) >= SNAPSHOT_EVERY
        || (bytes.len() <= SNAPSHOT_SMALL_BYTES && set.to_bytes() != bytes)
}

/// What the steps add that end at a head: the union of four of the level below. None from where one of those is missing.
fn skips(feed: &FeedBook, (era, seq): (u32, u64), additions: &RevocationSet) -> Vec<Option<RevocationSet>> {
    let mut below = Some(additions.clone());
    let mut skips = Vec::new();
    for step in Step::ending_at(seq) {
        let span = step.span() / 4;
        let earlier = (1..4).map(|back| Step { level: step.level - 1, end: seq - back * span });
        below = below.and_then(|last| {
            earlier.into_iter().try_fold(last, |sum, part| {
                let bytes = &feed.step(era, part)?.additions;
                sum.merge(&RevocationSet::from_bytes(bytes, ADDITIONS_BYTES_MAX).ok()?).ok()
            })
        });
        skips.push(below.clone());
    }
    skips
}

fn is_due(book: &Book, id: &FeedId, cadence: Cadence, at: Timestamp) -> bool {
    let feed = book.of(id);
    feed.head().is_none_or(|last| {
        let head = &last.head;
        let changed = head.bundle_version != book.trust().version || head.policy_version != book.policy().1.version;
        let lapsed = feed.lapsed_before(at).is_some_and(|until| until >= head.dropped_before);
        let begun = feed.resumed() >= last.position.order() || head.era != feed.era();
        changed || lapsed || begun || at.since(head.issued_at) >= cadence.interval
    })
}

/// Whether the newest heads say all that the ledger does.
pub fn is_current(book: &Book, at: Timestamp) -> bool {
    let unchanged = Cadence::every(Millis(u64::MAX));
    book.feeds().all(|(feed, _)| pending(book, feed, at).is_empty() && !is_due(book, feed, unchanged, at))
}

/// How long until a head is due though nothing changed.
pub fn due_in(book: &Book, cadence: Cadence, at: Timestamp) -> Millis {
    if may_start(book).is_err() {
        return cadence.interval;
    }
    let age = |feed: &FeedBook| feed.head().map_or(cadence.interval, |last| at.since(last.head.issued_at));
    let oldest = book.feeds().map(|(_, feed)| age(feed)).max().unwrap_or(cadence.interval);
    Millis(cadence.interval.0.saturating_sub(oldest.0))
}

/// The highest era and number of a feed that this ledger has signed, or that somebody has vouched for. In an era that has
/// no head yet, 0: whatever was signed in those before, by whomever, does not count.
pub(super) fn own(feed: &FeedBook) -> (u32, u64) {
    feed.order().max(feed.resumed()).max((feed.era(), 0))
}

/// The highest era and number of a feed that the ledger knows to have been signed, by itself or by one that was lost.
pub fn highest_known(book: &Book, id: &FeedId) -> (u32, u64) {
    let seen = book.devices().filter_map(|device| book.seen(&device.id)).flat_map(|seen| &seen.feeds);
    let feed = book.of(id);
    let restored = feed.restored().map_or((0, 0), |restored| restored.least);
    seen.filter(|position| position.feed == *id).map(Position::order).fold(own(feed).max(restored), Ord::max)
}

/// After which number of the present era a feed goes on that has come as far as this.
pub(super) fn number_in_era(feed: &FeedBook, (era, seq): (u32, u64)) -> u64 {
    if era == feed.era() {
        seq
    } else {
        0
    }
}

/// Whether a publisher with this key may sign. One key signs the heads of all feeds.
///
/// # Errors
/// Those of [`may_start`], and [`FleetError::OtherKeys`] when the trust bundle names another key.
pub fn may_sign(book: &Book, key: &SigningKey) -> Result<(), FleetError> {
    restore::may_follow(book)?;
    let named = |feed: &Feed| feed.keys.iter().any(|named| *named.verifying() == key.verifying_key());
    keys::check("feed", book.trust(), book.trust().feeds.iter().all(named))?;
    knows_what_devices_know(book)
}

/// Whether a publisher may sign: this ledger is no copy whose loss nobody has made up for, and no device of the fleet has
/// seen a head or a trust bundle that it does not hold.
///
/// # Errors
/// Those of [`restore::may_follow`]; [`FleetError::Restored`], or [`FleetError::Behind`], naming the device.
pub fn may_start(book: &Book) -> Result<(), FleetError> {
    if !mutant::active(Mutant::PositionReused) {
        restore::may_follow(book)?;
    }
    knows_what_devices_know(book)
}

/// Whether this ledger holds every head that a device has seen.
fn knows_what_devices_know(book: &Book) -> Result<(), FleetError> {
    if mutant::active(Mutant::PositionReused) {
        return Ok(());
    }
    for (id, feed) in book.feeds() {
        if let Some(Restored { at, .. }) = feed.restored() {
            let least = number_in_era(feed, highest_known(book, id));
            return Err(FleetError::Restored { feed: id.clone(), at: *at, least });
        }
    }
    for seen in ahead(book) {
        let device = &seen.device;
        // A feed that the bundle names no more gets no heads; were it to come back, it would be in a later era.
        let mut positions = seen.feeds.iter().filter(|position| book.trust().feed(&position.feed).is_some());
        let beyond = positions.find(|position| position.order() > own(book.of(&position.feed)));
        if let Some(Position { feed, seq, .. }) = beyond {
            let (feed, own) = (feed.clone(), own(book.of(feed)).1);
            return Err(FleetError::Behind { device: device.clone(), feed, seen: *seq, own });
        }
    }
    Ok(())
}

/// What the devices said last whose word counts, of those that named something which this ledger did not hold then.
pub(super) fn ahead(book: &Book) -> impl Iterator<Item = &Seen> {
    book.ahead().filter(|seen| book.device(&seen.device).is_some_and(|device| is_believed(book, device)))
}

/// Whether the word of a device counts. That of a revoked one does not: it could keep its own revocation back.
pub(super) fn is_believed(book: &Book, device: &Device) -> bool {
    device.status == Status::Approved && book.rule(&Target::Device(device.id.clone())).is_none()
}

/// The feeds of a copy that was put back for which nobody has vouched, each with the number after which it can go on at the
/// earliest. Nothing is signed as long as there is one.
pub fn awaited(book: &Book) -> Vec<(FeedId, u64)> {
    let waits = book.feeds().filter(|(_, feed)| feed.restored().is_some());
    waits.map(|(id, feed)| (id.clone(), number_in_era(feed, highest_known(book, id)))).collect()
}

/// The highest number that a device can have seen of a feed by now, in its era: what lies beyond, nobody of the fleet signed.
pub(super) fn highest_possible(feed: &FeedBook, at: Timestamp) -> u64 {
    let head = feed.head().map(|head| &head.head).filter(|head| head.era == feed.era());
    let (known, since) = head.map_or((0, Timestamp(0)), |head| (head.seq, head.issued_at));
    highest_number(known, since, at)
}

/// An operator vouches that a feed goes on after `after`: what the lost ledger had revoked is revoked again.
///
/// # Errors
/// [`FleetError::Invalid`] for a feed that there is not, when this ledger is that far already, when more is known to have
/// been signed, or when devices could not follow; [`FleetError::BundlesUnknown`], for a later trust bundle may have begun another era, with numbers of its own.
pub fn resume(
    book: &mut Book,
    id: &FeedId,
    after: u64,
    operator: Operator<'_>,
    at: Timestamp,
    fx: &mut Effects,
) -> Result<(), FleetError> {
    if book.trust().feed(id).is_none() {
        return Err(FleetError::Invalid(format!("no feed {id}: `hardtack fleet feed list` shows those there are")));
    }
    restore::bundles_known(book)?;
    let feed = book.of(id);
    let (era, head) = (feed.era(), number_in_era(feed, feed.order()));
    let restored = feed.restored().cloned();
    if restored.is_none() && after <= head {
        let message = format!("in this ledger feed {id} stands at {head} already: --after is not needed");
        return Err(FleetError::Invalid(message));
    }
    let least = restored.as_ref().map_or(0, |restored| number_in_era(feed, restored.least.max(own(feed))));
    if after < least {
        let message = format!("head {least} of feed {id} was signed already: pass --after {least} or more");
        return Err(FleetError::Invalid(message));
    }
    // Devices refuse what is beyond, and many heads may be signed at once then.
    let most = highest_possible(feed, at) - AHEAD_MAX / 2;
    if after > most {
        let message = format!(
            "devices would refuse heads of feed {id} after {after}: pass --after {most} at most, or, if a stolen key signed \
             more, begin a new era: `hardtack fleet key rotate feed --compromised`"
        );
        return Err(FleetError::Invalid(message));
    }
    if let Some(restored) = restored {
        book.write(Write::Restored(Restored { settled: true, ..restored }), fx);
    }
    book.write(Write::Resumed(id.clone(), era, after), fx);
    acts::record(book, operator, Deed::Resumed { feed: id.clone(), after }, at, fx)
}

/// All that the broker keeps, in the order in which a device needs it: bundles, policy, then feed by feed, its head last.
pub fn retained(book: &Book) -> Vec<Publish> {
    let mut messages: Vec<Publish> = bundles(book).map(|(_, bundle)| bundle).collect();
    messages.push(policy(book));
    messages.extend(book.feeds().flat_map(|(id, known)| feed(id, known, None)));
    messages
}

/// Of something that the broker keeps, what leads on from there to the newest.
pub(super) fn after(book: &Book, thing: &Thing, order: Order) -> Vec<Publish> {
    match thing {
        Thing::Bundles => {
            bundles(book).filter(|(version, _)| (0, *version) > order).map(|(_, bundle)| bundle).collect()
        }
        Thing::Policy => vec![policy(book)],
        Thing::Feed(id) => {
            let known = book.of(id);
            // Whoever is past the snapshot has no use for it.
            let of =
                known.snapshot().and_then(|(head, _)| head.claim().ok()).map_or((0, 0), |head| (head.era, head.seq));
            let snapshot = if of > order { Hash::ZERO } else { FeedAt::of(known).snapshot };
            feed(id, known, Some(FeedAt { head: order, rules: Hash::ZERO, snapshot }))
        }
    }
}

fn bundles(book: &Book) -> impl Iterator<Item = (u64, Publish)> + '_ {
    let bundles = book.trusts().iter().zip(book.bundles());
    bundles.map(|(trust, signed)| (trust.version, message(Topic::Bundle(trust.version), signed.to_bytes())))
}

fn policy(book: &Book) -> Publish {
    let (policy, document) = book.policy();
    message(Topic::Policy(document.version), policy.to_bytes())
}

/// What was published of a feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeedAt {
    /// The newest head.
    pub head: (u32, u64),
    /// The digest of its rules.
    rules: Hash,
    /// The head of the snapshot.
    snapshot: Hash,
}

impl FeedAt {
    /// What there is to publish.
    pub fn of(feed: &FeedBook) -> Self {
        Self {
            head: feed.order(),
            rules: feed.head().map_or(Hash::ZERO, |head| head.head.rules),
            snapshot: feed.snapshot().map_or(Hash::ZERO, |(head, _)| head.digest()),
        }
    }

    /// What there is to publish of every feed.
    pub fn all(book: &Book) -> BTreeMap<FeedId, Self> {
        book.feeds().map(|(id, feed)| (id.clone(), Self::of(feed))).collect()
    }
}

/// What the broker is to keep of a feed beyond what it has: steps, snapshot, rules, and the head last, which vouches for
/// them.
pub fn feed(id: &FeedId, feed: &FeedBook, known: Option<FeedAt>) -> Vec<Publish> {
    let now = FeedAt::of(feed);
    let era = feed.era();
    if now.head.0 != era || known == Some(now) {
        // Devices refuse what is of an era that is over, and the new one has nothing yet.
        return Vec::new();
    }
    let after = known.filter(|known| known.head.0 == era).map_or(0, |known| known.head.1);
    let place = |step: Step| match step.level {
        0 => Topic::FeedDelta(id.clone(), step.place()),
        level => Topic::FeedSkip(id.clone(), level, step.place()),
    };
    let steps = feed.steps(era).filter(|(step, _)| step.end > after);
    let mut messages: Vec<Publish> =
        steps.map(|(step, announcement)| message(place(step), announcement.to_bytes())).collect();
    if known.is_none_or(|known| known.snapshot != now.snapshot) {
        messages.extend(snapshot(id, feed));
    }
    if known.is_none_or(|known| known.rules != now.rules) {
        messages.push(message(Topic::FeedRules(id.clone()), feed.set().part(PartKey::Rules).unwrap_or_default()));
    }
    let newest = feed.newest();
    messages.extend(newest.map(|announcement| message(Topic::FeedHead(id.clone()), announcement.to_bytes())));
    messages
}

/// A whole set, in pieces; its manifest last, so that whoever has that finds them.
fn snapshot(id: &FeedId, feed: &FeedBook) -> Vec<Publish> {
    let Some((head, set)) = feed.snapshot() else { return Vec::new() };
    let manifest = Manifest::of(set);
    let mut messages = Vec::new();
    for part in manifest.parts() {
        let pieces = (0..part.pieces()).filter_map(|number| manifest.piece(set, part.key, number));
        messages.extend(
            pieces
                .zip(0..)
                .map(|(piece, number)| message(Topic::FeedPiece(id.clone(), part.key, number), piece.to_bytes())),
        );
    }
    let snapshot = Snapshot { head: head.clone(), manifest: manifest.to_bytes() };
    messages.push(message(Topic::FeedManifest(id.clone()), snapshot.to_bytes()));
    messages
}

fn message(topic: Topic, payload: Vec<u8>) -> Publish {
    Publish { topic, payload }
}

#[cfg(test)]
mod tests {
    use super::super::book::Life;
    use super::super::revoke::{revoke, Revocation};
    use super::super::rotate::{rotate, Cause, NewKey, Rotation};
    use super::super::service::tests::{at, founded, CADENCE};
    use super::super::FleetKeys;
    use super::*;
    use crate::agent::clock::Between;
    use crate::agent::revocation::Revocations;
    use crate::wire::envelope::Signed;
    use crate::wire::revocation::announcement::Announcement;
    use crate::wire::revocation::HEAD_EVERY;
    use crate::wire::MESSAGE_BYTES_MAX;

    fn tell(device: &mut Revocations, book: &Book) {
        let feed = book.feed();
        let payload = book.first().newest().unwrap().to_bytes();
        device.announce(&feed, &payload, book.trust(), Between::from(Timestamp(0))).unwrap();
    }

    #[test]
    fn heads_come_with_changes_and_with_time_and_devices_take_them() {
        let (keys, mut book) = founded();
        let mut device = Revocations::default();
        let fx = &mut Effects::default();
        tell(&mut device, &book);
        assert_eq!(device.positions()[0].seq, 1);
        assert!(!advance(&mut book, &keys.feed, CADENCE, at(1), fx), "nothing changed");
        let rule = Revocation {
            target: Target::Task("t".parse().unwrap()),
            until: Some(at(100)),
            reason: "r".into(),
            life: None,
            device: None,
        };
        revoke(&mut book, rule, keys.operator("ann"), at(2), fx).unwrap();
        assert!(advance(&mut book, &keys.feed, CADENCE, at(2), fx));
        tell(&mut device, &book);
        assert_eq!((device.positions()[0].seq, book.first().set().count()), (2, 1));
        assert!(advance(&mut book, &keys.feed, CADENCE, at(62), fx), "the interval has passed");
        tell(&mut device, &book);
        assert!(advance(&mut book, &keys.feed, CADENCE, at(101), fx), "the rule has lapsed");
        tell(&mut device, &book);
        assert_eq!((device.positions()[0].seq, book.first().set().count()), (4, 0));
        assert_eq!(device.dropped_before(), at(100) + Millis(1), "what the rule covered stays refused");
        assert!(advance(&mut book, &keys.feed, CADENCE, at(1000), fx));
        let newest = book.first().head().unwrap().head.issued_at;
        assert!(!advance(&mut book, &keys.feed, CADENCE, at(500), fx), "the clock went back");
        assert_eq!(book.first().head().unwrap().head.issued_at, newest);
    }

    fn block(number: u32) -> BlockId {
        BlockId(Hash::of("test", &[&number.to_be_bytes()]).0)
    }

    fn revoked(target: Target, life: Option<Life>) -> Rule {
        Rule { target, until: at(90_000), reason: "r".into(), at: at(1), life, device: None }
    }

    #[test]
    fn a_revocation_is_filed_by_what_is_known_of_the_token() {
        let (_, book) = founded();
        let filed = |target, life| {
            let set = filed(&book, &[revoked(target, life)], &|_| Salt([7; 16])).unwrap();
            set.parts().map(|part| part.to_string()).collect::<Vec<_>>().join(" ")
        };
        let life = |serial| Some(Life { issued: at(0), expires: at(600), serial });
        let slot = life(None).unwrap().slot().number();
        assert_eq!(filed(Target::Owner("ann".into()), None), "rules");
        assert_eq!(filed(Target::Block(block(1)), None), "exact");
        assert_eq!(filed(Target::Block(block(1)), life(Some(9))), format!("serials-{slot}"));
        assert!(filed(Target::Block(block(1)), life(None)).starts_with(&format!("fingerprints-{slot}-64-")));
    }

    #[test]
    fn many_revocations_at_once_make_as_many_heads_as_they_need() {
        let (keys, mut book) = founded();
        let mut device = Revocations::default();
        let fx = &mut Effects::default();
        tell(&mut device, &book);
        for number in 0..5000 {
            let life = Life { issued: at(0), expires: at(600 * u64::from(number % 60)), serial: None };
            book.write(Write::Rule(revoked(Target::Block(block(number)), Some(life))), fx);
        }
        // What a full set cannot take is in nobody's way.
        (0..4200).for_each(|n| book.write(Write::Rule(revoked(Target::Block(block(1 << 20 | n)), None)), fx));
        book.write(Write::Rule(revoked(Target::Owner("ann".into()), None)), fx);
        let before = FeedAt::of(book.first());
        while advance(&mut book, &keys.feed, CADENCE, at(2), fx) {}
        assert_eq!(book.first().set().count(), 5000 + EXACT_MAX as u64 + 1);
        let messages = feed(&book.feed(), book.first(), Some(before));
        assert!(messages.iter().all(|message| message.payload.len() <= MESSAGE_BYTES_MAX));
        let id = book.feed();
        let deltas = messages.iter().filter(|message| matches!(message.topic, Topic::FeedDelta(..)));
        let mut deltas: Vec<_> = deltas.map(|delta| Announcement::from_bytes(&delta.payload).unwrap()).collect();
        deltas.sort_by_key(|delta| delta.head.claim().unwrap().seq);
        assert!((6..=8).contains(&deltas.len()), "{} heads are well filled", deltas.len());
        for delta in deltas {
            device.announce(&id, &delta.to_bytes(), book.trust(), Between::from(Timestamp(0))).unwrap();
        }
        assert_eq!(device.positions()[0].seq, book.first().head().unwrap().head.seq);
        assert!(device.names(&Target::Owner("ann".into()), Timestamp(0)));
    }

    #[test]
    fn a_block_whose_token_is_over_is_dropped_and_not_published_again() {
        let (keys, mut book) = founded();
        let fx = &mut Effects::default();
        let reason = || "r".to_owned();
        let (block, life) =
            (Target::Block(BlockId([9; 32])), Some(Life { issued: at(0), expires: at(60), serial: None }));
        let block = Revocation { target: block, until: None, reason: reason(), life, device: None };
        let task = Revocation {
            target: Target::Task("t".parse().unwrap()),
            until: Some(at(8000)),
            reason: reason(),
            life: None,
            device: None,
        };
        for revocation in [block, task] {
            revoke(&mut book, revocation, keys.operator("ann"), at(1), fx).unwrap();
        }
        assert!(advance(&mut book, &keys.feed, CADENCE, at(2), fx));
        assert_eq!((book.first().set().count(), book.waiting(&book.feed()).count()), (2, 0));
        assert!(advance(&mut book, &keys.feed, CADENCE, at(8001), fx), "the task's rule has lapsed, and all is over");
        assert_eq!((book.first().set().count(), is_current(&book, at(8002))), (0, true));
        assert!(!advance(&mut book, &keys.feed, CADENCE, at(8002), fx), "nothing waits");
    }

    #[test]
    fn a_restored_ledger_does_not_fork_the_feed() {
        let (keys, mut book, hello, _) = super::super::service::tests::one_device();
        let (fx, main) = (&mut Effects::default(), book.feed());
        let mut seen = hello(7);
        seen.feeds[0].seq = 40;
        let signed = Signed::sign(&seen, book.fleet(), &[&super::super::service::tests::device_keys(1).identity]);
        super::super::hello::receive(&mut book, &seen.device, &signed.to_bytes(), at(50), fx).unwrap();
        assert!(matches!(may_start(&book), Err(FleetError::Behind { seen: 40, .. })));
        assert!(resume(&mut book, &main, 1, keys.operator("ann"), at(51), fx).is_err());
        resume(&mut book, &main, 40, keys.operator("ann"), at(51), fx).unwrap();
        may_start(&book).unwrap();
        assert!(advance(&mut book, &keys.feed, CADENCE, at(51), fx));
        assert_eq!(book.first().head().unwrap().head.seq, 42, "head 40 has a digest that nobody here knows");
    }

    #[test]
    fn numbers_that_devices_would_refuse_are_neither_believed_nor_gone_on_from() {
        let (keys, mut book, hello, _) = super::super::service::tests::one_device();
        let (fx, main) = (&mut Effects::default(), book.feed());
        let said = |book: &mut Book, seq: u64, fx: &mut Effects| {
            let mut seen = hello(7);
            seen.feeds[0].seq = seq;
            let signed = Signed::sign(&seen, book.fleet(), &[&super::super::service::tests::device_keys(1).identity]);
            super::super::hello::receive(book, &seen.device, &signed.to_bytes(), at(50), fx).unwrap();
        };
        let most = highest_possible(book.first(), at(50));
        said(&mut book, most + 1, fx);
        let told =
            fx.outgoing.logs.iter().any(|log| matches!(log, FleetLog::FeedImpossible { seq, .. } if *seq == most + 1));
        assert!(told);
        may_start(&book).unwrap();
        let ann = keys.operator("ann");
        let highest = most - AHEAD_MAX / 2;
        let refused = resume(&mut book, &main, highest + 1, ann, at(50), fx).unwrap_err().to_string();
        assert!(refused.contains(&format!("--after {highest} at most")), "{refused}");
        said(&mut book, most, fx);
        assert!(matches!(may_start(&book), Err(FleetError::Behind { .. })));
        // As time goes by there can be more.
        let later = at(50) + Millis(AHEAD_MAX / 2 * HEAD_EVERY.0);
        let mut device = Revocations::default();
        tell(&mut device, &book);
        resume(&mut book, &main, most, ann, later, fx).unwrap();
        assert!(advance(&mut book, &keys.feed, CADENCE, later, fx));
        tell(&mut device, &book);
        assert!(!device.positions().is_empty() && device.missing().next().is_none());
        assert_eq!(device.feeds().next().and_then(|(_, feed, _)| feed.mark()).map(|mark| mark.seq), Some(most + 2));
    }

    #[test]
    fn a_copy_that_was_put_back_signs_nothing_until_somebody_vouches() {
        let (keys, mut book) = founded();
        let (fx, main) = (&mut Effects::default(), book.feed());
        let ann = keys.operator("ann");
        book.write(
            Write::Restored(Restored {
                feed: book.feed(),
                at: at(5),
                least: (1, 30),
                settled: false,
                bundles_known: true,
            }),
            fx,
        );
        assert!(matches!(may_start(&book), Err(FleetError::Restored { least: 30, .. })));
        assert!(!advance(&mut book, &keys.feed, CADENCE, at(500), fx));
        assert_eq!(due_in(&book, CADENCE, at(500)), CADENCE.interval, "nothing to wake up for");
        assert!(resume(&mut book, &main, 29, ann, at(501), fx).is_err());
        resume(&mut book, &main, 30, ann, at(501), fx).unwrap();
        assert!(advance(&mut book, &keys.feed, CADENCE, at(502), fx));
        assert_eq!(book.first().head().unwrap().head.seq, 32, "and contradicts no head 31 that a device may have");
        book.write(
            Write::Restored(Restored {
                feed: book.feed(),
                at: at(503),
                least: (1, 32),
                settled: false,
                bundles_known: true,
            }),
            fx,
        );
        resume(&mut book, &main, 32, ann, at(504), fx).unwrap();
        assert!(advance(&mut book, &keys.feed, CADENCE, at(504), fx), "nothing was lost, and it is said");
        assert_eq!(book.first().head().unwrap().head.seq, 33);
    }

    #[test]
    fn a_running_publisher_stops_at_what_a_device_has_seen_but_not_for_a_revoked_one() {
        let (keys, mut book, hello, _) = super::super::service::tests::one_device();
        let fx = &mut Effects::default();
        let mut seen = hello(7);
        seen.feeds[0].seq = 40;
        let signed = Signed::sign(&seen, book.fleet(), &[&super::super::service::tests::device_keys(1).identity]);
        super::super::hello::receive(&mut book, &seen.device, &signed.to_bytes(), at(50), fx).unwrap();
        assert!(!advance(&mut book, &keys.feed, CADENCE, at(500), fx));
        assert_eq!(highest_known(&book, &book.feed()), (1, 40));
        let rule = Revocation {
            target: Target::Device(seen.device),
            until: None,
            reason: "it lies".into(),
            life: None,
            device: None,
        };
        revoke(&mut book, rule, keys.operator("ann"), at(501), fx).unwrap();
        assert!(advance(&mut book, &keys.feed, CADENCE, at(501), fx), "a stolen device cannot keep this back");
        assert_eq!((book.first().head().unwrap().head.seq, is_current(&book, at(501))), (2, true));
    }

    fn served(keys: &FleetKeys) -> ServedKeys {
        let id = |key: &SigningKey| KeyId::of(key.verifying_key().as_bytes());
        ServedKeys { feed: id(&keys.feed), issuer: id(&keys.issuer.key), service: id(&keys.service) }
    }

    #[test]
    fn the_ledger_knows_a_publisher_whose_keys_were_replaced() {
        let (keys, mut book) = founded();
        let fx = &mut Effects::default();
        assert_eq!(replaced(&book), [], "nobody has published");
        take_turn(&mut book, "one".into(), served(&keys), at(1), fx);
        assert_eq!(replaced(&book), []);
        let give = |book: &mut Book, cause, seed, fx: &mut Effects| {
            let key = NewKey::Signing(SigningKey::from_bytes(&[seed; 32]));
            let rotation = Rotation { role: KeyRole::Feed, key: &key, cause, roots: &[&keys.root] };
            rotate(book, rotation, CADENCE, keys.operator("ann"), at(2), fx).unwrap();
        };
        give(&mut book, Cause::Planned, 21, fx);
        let kept = replaced(&book);
        assert_eq!(kept, [Replaced { role: KeyRole::Feed, good: true }]);
        assert_eq!(kept[0].stalled(2), None, "devices believe it until the next replacement");
        give(&mut book, Cause::Compromised, 22, fx);
        let gone = replaced(&book);
        assert_eq!(gone, [Replaced { role: KeyRole::Feed, good: false }]);
        let told = gone[0].stalled(3).unwrap();
        assert!(told.contains("signs no head") && told.contains("start `hardtack fleet serve` again"), "{told}");
        let new = SigningKey::from_bytes(&[22; 32]).verifying_key();
        let keys = ServedKeys { feed: KeyId::of(new.as_bytes()), ..served(&keys) };
        take_turn(&mut book, "two".into(), keys, at(3), fx);
        assert_eq!(replaced(&book), [], "started again");
    }

    #[test]
    fn whoever_took_the_turn_later_has_it() {
        let (keys, mut book) = founded();
        let fx = &mut Effects::default();
        let first = take_turn(&mut book, "one".into(), served(&keys), at(1), fx);
        assert_eq!(check_turn(&book, first), Ok(()));
        let second = take_turn(&mut book, "two".into(), served(&keys), at(2), fx);
        assert_eq!(check_turn(&book, second), Ok(()));
        assert_eq!(check_turn(&book, first), Err(FleetError::Superseded { holder: "two".into(), at: at(2) }));
    }

    #[test]
    fn what_is_retained_comes_in_the_order_of_trust() {
        let (_, book) = founded();
        let topics: Vec<String> = retained(&book).iter().map(|publish| publish.topic.to_string()).collect();
        assert_eq!(
            topics,
            [
                "bundle/1",
                "policy/1",
                "feed/main/delta/1",
                "feed/main/snap/manifest/0",
                "feed/main/rules",
                "feed/main/head"
            ]
        );
    }
}
