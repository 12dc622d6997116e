//! The connection to the fleet as the device sees it.
//!
//! Owns: when to connect, how long to wait, which step of the reconnect order comes next: subscribe, take in what is
//! retained, `hello`, acknowledgement, online, audit.
//! Never: opens a socket; sends audit before the acknowledgement; trusts what arrives.
//! Read next: `mod.rs`, which drives it.

use rand_core::RngCore;

use crate::ids::Nonce;
use crate::mutant::{active, Mutant};
use crate::profile::LinkLimits;
use crate::time::Millis;

/// A nonce lives this long.
pub const NONCE_LIFE: Millis = Millis::from_secs(120);

/// A connection that was online this long counts as good.
const HELD: Millis = Millis::from_secs(60);

/// Where the connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Asked for, not accepted yet.
    Connecting {
        /// When to give up.
        give_up: Millis,
    },
    /// Nothing is open.
    Down {
        /// When to try again.
        retry: Millis,
        /// Why it is down.
        reason: String,
    },
    /// Subscribed: what is retained arrives.
    Settling {
        /// When to say `hello` even if nothing more came.
        until: Millis,
    },
    /// `hello` is out.
    Greeting {
        /// Its nonce.
        nonce: Nonce,
        /// When it was sent.
        sent: Millis,
        /// When to say it again.
        again: Millis,
    },
    /// Acknowledged, but something that the acknowledgement named has not arrived.
    Lagging {
        /// When to ask the broker anew by reconnecting.
        until: Millis,
        /// What is missing.
        missing: String,
    },
    /// Acknowledged, everything newest applied.
    Online {
        /// When the next `hello` is due.
        hello: Millis,
        /// The nonce of a `hello` that is out, and when it was sent.
        out: Option<(Nonce, Millis)>,
    },
}

/// The connection with its back-off and its budget of bytes.
pub struct Uplink {
    limits: LinkLimits,
    /// Where it stands.
    pub link: Link,
    failures: u32,
    /// Since when it is online without a break.
    online_since: Option<Millis>,
    hour_began: Millis,
    hour_bytes: u64,
}

impl Uplink {
    /// Down, to be tried at once.
    pub fn new(limits: LinkLimits, now: Millis) -> Self {
        let link = Link::Down { retry: now, reason: "starting".into() };
        Self { limits, link, failures: 0, online_since: None, hour_began: now, hour_bytes: 0 }
    }

    /// Its limits.
    pub fn limits(&self) -> &LinkLimits {
        &self.limits
    }

    /// The connection is gone: the next try waits twice as long as the one before, give or take half. Only a connection
    /// that held for a while makes the waits short again: a broker that lets `hello` through and then hangs up gains
    /// nothing.
    pub fn down(&mut self, reason: String, now: Millis, rng: &mut impl RngCore) {
        if self.online_since.take().is_some_and(|since| now.0.saturating_sub(since.0) >= HELD.0) {
            self.failures = 0;
        }
        let doubled = self.limits.backoff_ms_min.saturating_mul(1 << self.failures.min(20));
        let wait = doubled.min(self.limits.backoff_ms_max).max(1);
        let jittered = wait / 2 + rng.next_u64() % wait;
        let jittered = if active(Mutant::RetriesInStep) { wait } else { jittered };
        self.failures = self.failures.saturating_add(1);
        let wait = if active(Mutant::NeverReconnects) { u64::MAX } else { jittered };
        self.link = Link::Down { retry: Millis(now.0.saturating_add(wait)), reason };
    }

    /// The connection was cut from here, for another one: nobody has failed, and the next try comes soon.
    pub fn renewed(&mut self, reason: String, now: Millis, rng: &mut impl RngCore) {
        self.online_since = None;
        let jittered = rng.next_u64() % self.limits.backoff_ms_min.max(1);
        self.link = Link::Down { retry: Millis(now.0.saturating_add(jittered)), reason };
    }

    /// A try begins.
    pub fn connecting(&mut self, now: Millis) {
        self.link = Link::Connecting { give_up: after(now, self.limits.connect_ms) };
    }

    /// The broker accepted connection and subscriptions.
    pub fn settling(&mut self, now: Millis) {
        self.link = Link::Settling { until: after(now, self.limits.settle_ms) };
    }

    /// `hello` goes out. Each that replaces another is waited for twice as long, up to four times as long as the first: over
    /// a link that is slower than that first patience an answer comes to the nonce that is out, and not to one before.
    pub fn greeting(&mut self, nonce: Nonce, now: Millis) {
        let first = self.limits.resend_ms;
        let wait = match &mut self.link {
            Link::Online { out, .. } => {
                *out = Some((nonce, now));
                return;
            }
            Link::Greeting { sent, again, .. } => (again.0 - sent.0).saturating_mul(2).min(first.saturating_mul(4)),
            Link::Connecting { .. } | Link::Down { .. } | Link::Settling { .. } | Link::Lagging { .. } => first,
        };
        self.link = Link::Greeting { nonce, sent: now, again: after(now, wait) };
    }

    /// The acknowledgement of the outstanding `hello` came: when that was sent. Single use.
    pub fn answered(&mut self, nonce: Nonce, now: Millis) -> Option<Millis> {
        let sent = match &mut self.link {
            Link::Greeting { nonce: own, sent, .. } if *own == nonce => {
                let sent = *sent;
                // Used up: whatever comes next sets the state.
                self.link = Link::Settling { until: now };
                Some(sent)
            }
            Link::Online { out, .. } if out.is_some_and(|(own, _)| own == nonce) => out.take().map(|(_, sent)| sent),
            Link::Connecting { .. }
            | Link::Down { .. }
            | Link::Settling { .. }
            | Link::Greeting { .. }
            | Link::Lagging { .. }
            | Link::Online { .. } => None,
        };
        sent.filter(|sent| now.0.saturating_sub(sent.0) <= NONCE_LIFE.0)
    }

    /// Everything newest is applied.
    pub fn online(&mut self, now: Millis) {
        self.online_since.get_or_insert(now);
        self.link = Link::Online { hello: Millis(now.0.saturating_add(self.limits.hello_s * 1000)), out: None };
    }

    /// There is something that only the answer to a `hello` can tell: the next goes out within a minute.
    pub fn ask_soon(&mut self, now: Millis) {
        if let Link::Online { hello, out: None } = &mut self.link {
            *hello = (*hello).min(after(now, 60_000));
        }
    }

    /// Something newer was named than what is here.
    pub fn lagging(&mut self, missing: String, now: Millis) {
        // Long enough for what is on its way, short enough to ask again.
        self.link = Link::Lagging { until: after(now, self.limits.settle_ms.max(1000) * 5), missing };
    }

    /// Whether audit and requests may be sent.
    pub fn is_online(&self) -> bool {
        matches!(self.link, Link::Online { .. })
    }

    /// Whether messages can arrive.
    pub fn is_connected(&self) -> bool {
        !matches!(self.link, Link::Down { .. } | Link::Connecting { .. })
    }

    /// When something is to be done.
    pub fn deadline(&self) -> Millis {
        match &self.link {
            Link::Connecting { give_up } => *give_up,
            Link::Down { retry, .. } => *retry,
            Link::Settling { until } | Link::Lagging { until, .. } => *until,
            Link::Greeting { again, .. } => *again,
            Link::Online { hello, out } => match out {
                Some((_, sent)) => after(*sent, self.limits.resend_ms.saturating_mul(3)),
                None => *hello,
            },
        }
    }

    /// In words, for status.
    pub fn describe(&self) -> String {
        match &self.link {
            Link::Connecting { .. } => "connecting".into(),
            Link::Down { reason, .. } => format!("down: {reason}"),
            Link::Settling { .. } => "connected, taking in what is retained".into(),
            Link::Greeting { .. } => "connected, hello not acknowledged yet".into(),
            Link::Lagging { missing, .. } => format!("connected, waiting for {missing}"),
            Link::Online { .. } => "online".into(),
        }
    }

    /// Whether this hour's budget has room. The hour is one of powered-on time.
    pub fn has_bytes(&mut self, now: Millis) -> bool {
        if now.0.saturating_sub(self.hour_began.0) >= 3_600_000 {
            self.hour_began = now;
            self.hour_bytes = 0;
        }
        self.limits.kib_per_hour == 0 || self.hour_bytes < self.limits.kib_per_hour * 1024
    }

    /// Bytes were sent.
    pub fn spent(&mut self, bytes: usize) {
        self.hour_bytes = self.hour_bytes.saturating_add(bytes as u64);
    }
}

fn after(now: Millis, ms: u64) -> Millis {
    Millis(now.0.saturating_add(ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Profile;

    #[test]
    fn a_hello_that_nobody_answers_is_waited_for_longer_each_time() {
        let mut uplink = Uplink::new(Profile::default().link, Millis(0));
        let first = uplink.limits().resend_ms;
        for _ in 0..2 {
            let mut now = Millis(0);
            uplink.settling(now);
            for (number, waits) in [(1, first), (2, 2 * first), (3, 4 * first), (4, 4 * first)] {
                uplink.greeting(Nonce([number; 16]), now);
                assert_eq!(uplink.deadline(), after(now, waits));
                assert_eq!(uplink.answered(Nonce([number - 1; 16]), now), None, "it was replaced");
                now = uplink.deadline();
            }
            // An answer that takes longer than the first patience.
            let sent = Millis(now.0 - 4 * first);
            assert_eq!(uplink.answered(Nonce([4; 16]), after(sent, 3 * first)), Some(sent));
        }
    }
}
