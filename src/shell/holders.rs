//! Watching what tasks hang on.
//!
//! Owns: one watch for each process that holds a task, on its pidfd; passing on which connections do.
//! Never: ends a task. The agent does, when it hears that a holder is gone.
//! Read next: `../agent/holder.rs`, `peer.rs`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::Interest;
use tokio::task::AbortHandle;

use super::inbox::Inbox;
use super::peer;
use crate::agent::holder::{ProcessId, Tie, TieCommand};

/// How often it is looked where the kernel cannot wake us: it knows no pidfd, or there is no descriptor left for one.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The processes that are watched: one for each live task at the most, which the profile bounds.
#[derive(Debug)]
pub struct Holders {
    inbox: Arc<Inbox>,
    watched: BTreeMap<ProcessId, AbortHandle>,
}

impl Holders {
    /// Watches nothing yet. What is gone is told to `inbox`.
    pub fn new(inbox: Arc<Inbox>) -> Self {
        Self { inbox, watched: BTreeMap::new() }
    }

    /// Does what the agent wants. Within a runtime.
    pub fn obey(&mut self, command: TieCommand) {
        match command {
            TieCommand::Watch(Tie::Connection(connection)) => self.inbox.hold(connection),
            TieCommand::Leave(Tie::Connection(connection)) => self.inbox.let_go(connection),
            TieCommand::Watch(Tie::Process(process)) => {
                // A watch that is over has said so, to an agent that may have been started again since.
                if self.watched.get(&process).is_none_or(AbortHandle::is_finished) {
                    let inbox = self.inbox.clone();
                    let watch = tokio::spawn(async move {
                        until_gone(process).await;
                        inbox.gone(Tie::Process(process));
                    });
                    self.watched.insert(process, watch.abort_handle());
                }
            }
            TieCommand::Leave(Tie::Process(process)) => {
                if let Some(watch) = self.watched.remove(&process) {
                    watch.abort();
                }
            }
        }
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        self.watched.values().for_each(AbortHandle::abort);
    }
}

/// Returns once a process has ended.
async fn until_gone(process: ProcessId) {
    loop {
        let gone = match peer::hold(process) {
            Ok(None) => true,
            Ok(Some(pidfd)) => has_ended(pidfd).await,
            Err(_) => false,
        };
        if gone {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until a pidfd's process has ended. False where that cannot be waited for.
async fn has_ended(pidfd: OwnedFd) -> bool {
    #[expect(deprecated, reason = "an OwnedFd is what the deprecation asks for; what replaces it is unsafe to call")]
    let registered = AsyncFd::with_interest(pidfd, Interest::READABLE);
    match registered {
        Ok(pidfd) => pidfd.readable().await.is_ok(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::ids::BootId;
    use crate::shell::proc;

    /// A process that ends when its standard input is closed.
    fn sleeper() -> (Child, ProcessId) {
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pid = child.id();
        let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        (child, ProcessId { boot: BootId([1; 16]), pid, started: proc::stat(raw).unwrap().started })
    }

    #[tokio::test]
    async fn a_process_that_ends_is_told_and_one_that_only_has_its_number_counts_as_gone() {
        let inbox = Arc::new(Inbox::default());
        let mut holders = Holders::new(inbox.clone());
        let taken = |inbox: Arc<Inbox>| async move {
            let take = move || inbox.take(Duration::from_secs(60)).gone;
            tokio::task::spawn_blocking(take).await.unwrap()
        };
        let ((mut one, first), (mut other, second)) = (sleeper(), sleeper());
        for process in [first, first, second] {
            holders.obey(TieCommand::Watch(Tie::Process(process)));
        }
        holders.obey(TieCommand::Leave(Tie::Process(second)));
        other.kill().unwrap();
        other.wait().unwrap();
        drop(one.stdin.take());
        assert_eq!(taken(inbox.clone()).await, [Tie::Process(first)]);
        one.wait().unwrap();

        let (mut living, real) = sleeper();
        let younger = ProcessId { started: real.started + 1, ..real };
        holders.obey(TieCommand::Watch(Tie::Process(younger)));
        assert_eq!(taken(inbox.clone()).await, [Tie::Process(younger)]);
        // Watched again after it was told, it is told again: the agent may have lost it.
        holders.obey(TieCommand::Watch(Tie::Process(younger)));
        assert_eq!(taken(inbox).await, [Tie::Process(younger)]);
        drop(living.stdin.take());
        living.wait().unwrap();
    }
}
