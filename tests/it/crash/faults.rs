//! A disk that refuses: full, failing, read-only, at each call in turn, in real processes.
//!
//! Owns: which call of a process fails and how, and what must hold of the device afterwards.

use super::enumerate::{Player, Tried};
use super::oracle::{after_a_cut, ensure};
use super::recorder::{Ended, Fault, Recording, TROUBLE};
use super::story::{Marker, Told};
use super::trace::Deed;

/// Calls that may fail on a disk that is full or read-only, by their names for strace.
const CALLS: &str = "mkdir,mkdirat,pwrite64,ftruncate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,rmdir";
/// Calls that may fail on a disk that breaks.
const SYNCS: &str = "fsync,fdatasync";

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refusal {
    /// This call of a thread finds the disk full, and no later one. The words of the test program itself are written by such calls too, which is why
    /// the others leave `write` alone.
    FullOnce,
    /// The disk is full from here on.
    Full,
    /// This sync fails.
    SyncFails,
    /// The file system turns read-only.
    ReadOnly,
}

impl Refusal {
    pub(crate) const ALL: [Self; 4] = [Self::FullOnce, Self::Full, Self::SyncFails, Self::ReadOnly];

    fn inject(self, call: usize) -> String {
        match self {
            Self::FullOnce => format!("write,{CALLS}:error=ENOSPC:when={call}"),
            Self::Full => format!("{CALLS}:error=ENOSPC:when={call}+"),
            Self::SyncFails => format!("{SYNCS}:error=EIO:when={call}"),
            Self::ReadOnly => format!("{CALLS}:error=EROFS:when={call}+"),
        }
    }

    /// How many calls there are in these deeds that it may hit, at least.
    fn calls(self, recording: &Recording) -> usize {
        let hit = |deed: &Deed| match deed {
            Deed::Sync(_) => true,
            Deed::MakeDir(_) | Deed::Remove(_) | Deed::Rename(..) | Deed::Resize(..) | Deed::Write(..) => {
                !matches!(self, Self::SyncFails)
            }
            Deed::Create(_) | Deed::SyncFailed(_) | Deed::Told(_) => false,
        };
        recording.seen.iter().filter(|seen| hit(&seen.deed)).count()
    }
}

/// Runs the last chapter on the disk of `player`, again and again, with a fault at another call each time. `share` says
/// at how many calls of each kind.
pub(crate) fn try_faults(player: &Player, history: &Recording, chapter: u64, share: usize) -> Tried {
    let mut tried = Tried::default();
    let base = || Recording::on(&player.tree(), history.history());
    let mut plain = base();
    let ended = plain.chapter(chapter, &Fault::None);
    assert!(ended.success, "without a fault: {}", ended.said);
    for refusal in Refusal::ALL {
        let calls = refusal.calls(&plain);
        assert!(calls > 20, "{refusal:?} has {calls} calls to hit");
        tried.enumerated += calls;
        let share = share.min(calls);
        for number in 0..share {
            let call = 1 + number * calls / share;
            let mut attempt = base();
            let ended = attempt.chapter(chapter, &Fault::Inject(refusal.inject(call)));
            tried.checked += 1;
            tried.distinct += 1;
            if let Err(why) = check(player, &attempt, &ended) {
                tried.broken.push(format!("{why}\n    {refusal:?} at call {call} of {calls}: {}", ended.said));
            }
        }
    }
    tried
}

/// Nobody was told what is not on the disk, the process ended in order, and the device goes on.
fn check(player: &Player, attempt: &Recording, ended: &Ended) -> Result<(), String> {
    // Of the test program itself, whose words are written by the same calls.
    let speechless = ["failed printing", "io error when"].iter().any(|words| ended.said.contains(words));
    ensure!(matches!(ended.code, Some(0 | TROUBLE)) || speechless, "it ended with {:?}", ended.code);
    let mut told = Told::clone(&player.told);
    let mut fleet = player.fleet.fork();
    for marker in attempt.markers() {
        told.hear(&marker)?;
        if let Marker::Fleet(event, at) = &marker {
            fleet.happen(event, *at);
        }
    }
    after_a_cut(&attempt.state(), &told, &fleet)
}
