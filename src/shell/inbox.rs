//! What waits for the loop: calls of local programs and events of the link.
//!
//! Owns: [`Inbox`], its two bounded queues and what happens when one is full: a call is turned away, the link's thread
//! waits, so that the broker feels it. What is gone that tasks hang on waits too: each of it once, so as many as tasks at the
//! most.
//! Never: looks into what it carries.
//! Read next: `run.rs`, which takes from it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::agent::holder::Tie;
use crate::agent::request::{Evidence, Reply, Request};
use crate::agent::LinkEvent;

/// The most calls that wait. One more is answered 429.
pub const CALLS_MAX: usize = 256;
/// The most link events that wait: 64 messages of 32 KiB are 2 MiB.
pub const LINK_EVENTS_MAX: usize = 64;

/// A program that waits for an answer.
#[derive(Debug)]
pub struct Call {
    /// What the kernel says about it.
    pub evidence: Evidence,
    /// What it asks.
    pub request: Request,
    /// Where it waits. Dropped without an answer: nothing was decided.
    pub answer: oneshot::Sender<Reply>,
}

/// No room for one more call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// Names one connection of the link, so that a retired one is heard no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkEpoch(u64);

/// All that waited when the loop looked.
#[derive(Debug, Default)]
pub struct Haul {
    /// Link events, oldest first. They go first: a revocation that has arrived counts for the calls beside it.
    pub link: Vec<LinkEvent>,
    /// What tasks hang on and is gone. Before the calls, which find those tasks ended.
    pub gone: Vec<Tie>,
    /// Calls, oldest first.
    pub calls: Vec<Call>,
    /// Nothing more will come: finish.
    pub stop: bool,
}

/// The queues between everybody and the loop.
#[derive(Debug, Default)]
pub struct Inbox {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    drained: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    calls: VecDeque<Call>,
    gone: Vec<Tie>,
    link: VecDeque<LinkEvent>,
    epoch: u64,
    /// How many connections there were, and those that are open: whether a task hangs on it.
    connections: u64,
    open: BTreeMap<u64, Held>,
    stop: bool,
}

/// Whether a task hangs on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    No,
    Yes,
}

impl Inbox {
    /// A connection was opened: its number.
    pub fn opened(&self) -> u64 {
        let mut waiting = self.lock();
        waiting.connections += 1;
        let number = waiting.connections;
        waiting.open.insert(number, Held::No);
        number
    }

    /// A connection has ended.
    pub fn closed(&self, connection: u64) {
        let held = self.lock().open.remove(&connection);
        if held == Some(Held::Yes) {
            self.gone(Tie::Connection(connection));
        }
    }

    /// A task hangs on a connection from now on. It may have ended before.
    pub fn hold(&self, connection: u64) {
        let open = self.lock().open.get_mut(&connection).map(|held| *held = Held::Yes);
        if open.is_none() {
            self.gone(Tie::Connection(connection));
        }
    }

    /// No task hangs on a connection any more.
    pub fn let_go(&self, connection: u64) {
        if let Some(held) = self.lock().open.get_mut(&connection) {
            *held = Held::No;
        }
    }

    /// Queues that something is gone which tasks hang on.
    pub fn gone(&self, tie: Tie) {
        let mut waiting = self.lock();
        if !waiting.gone.contains(&tie) {
            waiting.gone.push(tie);
            self.filled.notify_one();
        }
    }

    /// Queues a call.
    ///
    /// # Errors
    /// When the queue is full or the loop is stopping; the call is dropped.
    pub fn call(&self, call: Call) -> Result<(), Full> {
        let mut waiting = self.lock();
        if waiting.stop || waiting.calls.len() >= CALLS_MAX {
            return Err(Full);
        }
        waiting.calls.push_back(call);
        self.filled.notify_one();
        Ok(())
    }

    /// Begins a new life of the link: events of earlier ones are dropped from now on, also those that wait.
    pub fn renew_link(&self) -> LinkEpoch {
        let mut waiting = self.lock();
        waiting.epoch += 1;
        waiting.link.clear();
        self.drained.notify_all();
        LinkEpoch(waiting.epoch)
    }

    /// Queues what the link tells. Blocks the link's thread while the queue is full.
    pub fn link(&self, epoch: LinkEpoch, event: LinkEvent) {
        let mut waiting = self.lock();
        while waiting.epoch == epoch.0 && !waiting.stop && waiting.link.len() >= LINK_EVENTS_MAX {
            waiting = self.drained.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        if waiting.epoch == epoch.0 && !waiting.stop {
            waiting.link.push_back(event);
            self.filled.notify_one();
        }
    }

    /// Asks the loop to finish what waits and to end.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.filled.notify_all();
        self.drained.notify_all();
    }

    /// Takes everything that waits; waits at most `patience` for the first.
    pub fn take(&self, patience: Duration) -> Haul {
        let idle = |waiting: &mut Waiting| {
            waiting.calls.is_empty() && waiting.gone.is_empty() && waiting.link.is_empty() && !waiting.stop
        };
        let waited = self.filled.wait_timeout_while(self.lock(), patience, idle);
        let (mut waiting, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let haul = Haul {
            link: waiting.link.drain(..).collect(),
            gone: std::mem::take(&mut waiting.gone),
            calls: waiting.calls.drain(..).collect(),
            stop: waiting.stop,
        };
        self.drained.notify_all();
        haul
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // No code of ours panics while it holds the lock, and the queues are whole between any two statements.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::request::Socket;
    use std::sync::Arc;

    fn call() -> Call {
        let evidence = Evidence::of(Socket::Agent, 1, 1);
        Call { evidence, request: Request::Whoami, answer: oneshot::channel().0 }
    }

    #[test]
    fn one_call_too_many_is_turned_away() {
        let inbox = Inbox::default();
        for _ in 0..CALLS_MAX {
            inbox.call(call()).unwrap();
        }
        assert!(inbox.call(call()).is_err());
        assert_eq!(inbox.take(Duration::ZERO).calls.len(), CALLS_MAX);
        inbox.call(call()).unwrap();
        inbox.stop();
        assert!(inbox.call(call()).is_err());
        let last = inbox.take(Duration::ZERO);
        assert_eq!((last.calls.len(), last.stop), (1, true));
    }

    #[test]
    fn a_connection_that_holds_a_task_says_when_it_has_ended_and_says_it_once() {
        let inbox = Inbox::default();
        let (held, free, left, late) = (inbox.opened(), inbox.opened(), inbox.opened(), inbox.opened());
        inbox.hold(held);
        inbox.hold(left);
        inbox.let_go(left);
        inbox.closed(late);
        inbox.hold(late);
        for connection in [held, held, free, left] {
            inbox.closed(connection);
        }
        assert_eq!(inbox.take(Duration::ZERO).gone, [Tie::Connection(late), Tie::Connection(held)]);
        assert_eq!(inbox.take(Duration::ZERO).gone, []);
    }

    #[test]
    fn a_full_link_queue_holds_the_link_up_until_there_is_room_or_it_is_retired() {
        let inbox = Arc::new(Inbox::default());
        let epoch = inbox.renew_link();
        for _ in 0..LINK_EVENTS_MAX {
            inbox.link(epoch, LinkEvent::Connected);
        }
        let pusher = std::thread::spawn({
            let inbox = inbox.clone();
            move || inbox.link(epoch, LinkEvent::Connected)
        });
        let first = inbox.take(Duration::from_secs(60)).link.len();
        let rest = if first > LINK_EVENTS_MAX { 0 } else { inbox.take(Duration::from_secs(60)).link.len() };
        assert_eq!(first + rest, LINK_EVENTS_MAX + 1);
        pusher.join().unwrap();

        for _ in 0..LINK_EVENTS_MAX {
            inbox.link(epoch, LinkEvent::Connected);
        }
        let blocked = std::thread::spawn({
            let inbox = inbox.clone();
            move || inbox.link(epoch, LinkEvent::Connected)
        });
        let fresh = inbox.renew_link();
        blocked.join().unwrap();
        inbox.link(epoch, LinkEvent::Connected);
        assert!(inbox.take(Duration::ZERO).link.is_empty());
        inbox.link(fresh, LinkEvent::Connected);
        assert_eq!(inbox.take(Duration::ZERO).link.len(), 1);
    }
}
