//! Crash states of the device's store: every write and sync of a device is recorded, every state that a power cut may
//! leave is made from that, and the real code starts on it and is compared with what people had been told.
//!
//! A usual run tries a seeded sample; `HARDTACK_CRASH_STATES=N` tries about N states of each kind.

mod disk;
mod enumerate;
mod faults;
mod gateway;
mod headquarters;
mod oracle;
mod recorder;
mod refusing;
mod rot;
mod story;
mod trace;

use std::path::Path;
use std::sync::OnceLock;

use crate::support::{cannot_run, strace};
use disk::Random;
use enumerate::{budget, try_cuts, weakened, Patience, Player, Weakness};
use recorder::{Fault, Recording};
use story::CHAPTERS;

/// The story, recorded once for all tests; none where nothing can be traced.
fn recorded() -> Option<&'static Recording> {
    static STORY: OnceLock<Option<Recording>> = OnceLock::new();
    let record = || {
        if let Some(why) = strace::why_not() {
            cannot_run(&why);
            return None;
        }
        let mut recording = Recording::new();
        for chapter in 0..CHAPTERS {
            // Some die before a data sync, with what they wrote in memory only. One has a disk that fails to sync, once.
            let fault = match chapter {
                1 | 3 => Fault::Inject(format!("fdatasync:signal=KILL:when={}", 8 + 3 * chapter)),
                2 => Fault::Inject("fdatasync:error=EIO:when=14".into()),
                // With more in its folder than the next start copies.
                4 => Fault::Inject(format!("fdatasync:signal=KILL:when={}", data_syncs(&recording, 4) - 1)),
                _ => Fault::None,
            };
            let ended = recording.chapter(chapter, &fault);
            assert_eq!(ended.success, matches!(fault, Fault::None), "chapter {chapter}: {}", ended.said);
        }
        Some(recording)
    };
    STORY.get_or_init(record).as_ref()
}

/// How many data syncs a chapter makes that nobody kills.
fn data_syncs(recording: &Recording, chapter: u64) -> usize {
    let player = Player::after(&recording.seen);
    let mut plain = Recording::on(&player.tree(), recording.history());
    let ended = plain.chapter(chapter, &Fault::None);
    assert!(ended.success, "{}", ended.said);
    plain.data_syncs()
}

#[test]
fn in_another_process() {
    recorder::in_another_process();
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_told() {
    let Some(recording) = recorded() else { return };
    let tried = try_cuts(&recording.seen, |_, _| true, budget(160), 1, Patience::All);
    tried.assert_whole("power cuts");
}

/// Each of these bugs loses something that was told, or locks a device for nothing: the checks above see that.
#[test]
fn a_store_that_syncs_too_little_is_found_out() {
    let Some(recording) = recorded() else { return };
    for weakness in [Weakness::NoDataSync, Weakness::NoNameSync, Weakness::NoSyncAtStart, Weakness::OneSlot] {
        let weak = weakened(recording, weakness);
        // Where it shows: once there is something to lose, once a process was killed with much in memory, where the anchor
        // is larger than a sector.
        let left_out = recording.seen.len() - weak.len();
        let (from, of) = match weakness {
            Weakness::NoDataSync => (recording.ends[0] / 2, ""),
            Weakness::NoNameSync => (0, ""),
            Weakness::NoSyncAtStart => (recording.ends[4], ""),
            Weakness::OneSlot => (recording.ends[3], "anchor"),
        };
        let wanted = |at: usize, path: &Path| at + left_out >= from && path.to_string_lossy().contains(of);
        let tried = try_cuts(&weak, wanted, budget(300), 2, Patience::First);
        println!("{weakness:?}: {tried}, as in: {}", tried.broken.first().map_or("nothing", |broken| broken));
        assert!(!tried.broken.is_empty(), "{weakness:?} goes unnoticed: {tried}");
    }
}

/// A device that has delivered hardly anything yet.
fn full_device(recording: &Recording) -> Player {
    Player::after(&recording.seen[..recording.ends[4]])
}

#[test]
fn whatever_rots_is_counted_or_named() {
    let Some(recording) = recorded() else { return };
    let player = full_device(recording);
    let (tree, mut random) = (player.tree(), Random(3));
    let mut damages = rot::coarse(&tree);
    let kinds = damages.len();
    while damages.len() > budget(60) {
        damages.swap_remove(random.below(damages.len()));
    }
    println!("{} of {kinds} kinds of damage", damages.len());
    rot::try_damage(&player, &damages).assert_whole("damage");
    rot::try_damage(&player, &rot::flips(&tree, budget(40), &mut random)).assert_whole("flipped bits");
}

#[test]
fn a_disk_that_refuses_any_call_costs_no_more_than_answers() {
    let Some(recording) = recorded() else { return };
    let player = full_device(recording);
    let mut before = Recording::new();
    before.seen = recording.seen[..recording.ends[4]].to_vec();
    faults::try_faults(&player, &before, CHAPTERS - 1, budget(12) / 4).assert_whole("refusals");
}

#[test]
fn a_daemon_whose_disk_refuses_says_so_and_decides_nothing() {
    if let Some(why) = strace::why_not() {
        return cannot_run(&why);
    }
    use refusing::Refuses::{FromThenOn, Once};
    for (calls, error, call, refuses) in [
        ("pwrite64", "ENOSPC", 40, FromThenOn),
        ("pwrite64", "ENOSPC", 41, Once),
        ("fdatasync", "EIO", 20, FromThenOn),
        ("fdatasync", "EIO", 21, Once),
        ("pwrite64,fdatasync,ftruncate,mkdir,rename,unlink,unlinkat,rmdir", "EROFS", 60, FromThenOn),
    ] {
        let checked = refusing::check(calls, error, call, refuses);
        assert_eq!(checked, Ok(()), "{error} of {calls} at call {call}, {refuses:?}");
    }
}
