//! Firmware profiles: what a class of device can bear.
//!
//! Owns: [`Profile`], its limits with their units, the merge of a device class with a link overlay, and the checks that
//! refuse a profile nobody could run.
//! Never: reads a file or guesses what it runs on.
//! Read next: `firmware-profiles/README.md`.

use serde::{Deserialize, Serialize};

use crate::time::Millis;

/// Limits of one device class, one link overlay merged in.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The class's name.
    pub name: String,
    /// Trusted time.
    pub time: TimeLimits,
    /// Token admission and evaluation.
    pub verify: VerifyLimits,
    /// The audit queue.
    pub queue: QueueLimits,
    /// Tasks and grants.
    pub wallet: WalletLimits,
    /// The uplink.
    pub link: LinkLimits,
    /// The local API.
    pub api: ApiLimits,
}

/// Trusted time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeLimits {
    /// The most that the oscillator is off, in parts per million.
    pub drift_ppm: u32,
    /// How far ahead of use the powered-on clock is leased, in seconds. Each boot costs the holder at most this.
    pub lease_s: u64,
    /// The most that an issuer's clock is off, in milliseconds.
    pub issuer_error_ms: u64,
    /// Forward jumps of signed time that one role alone may cause, cumulative, in days.
    pub jump_allowance_days: u64,
}

/// Token admission and evaluation.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyLimits {
    /// Bytes of a token.
    pub token_bytes_max: usize,
    /// Blocks of a token.
    pub blocks_max: usize,
    /// Facts in all blocks together.
    pub facts_max: usize,
    /// Rules in all blocks together.
    pub rules_max: usize,
    /// Checks in all blocks together.
    pub checks_max: usize,
    /// Operations in one expression, closures counted in.
    pub expression_ops_max: usize,
    /// Facts to the power of the predicates in one body.
    pub join_cost_max: u64,
    /// Facts during evaluation.
    pub run_facts_max: u64,
    /// Iterations of evaluation.
    pub run_iterations_max: u64,
    /// Wall time of one evaluation, in milliseconds. Generous: the structure is what bounds the work.
    pub run_ms_max: u64,
    /// Verified tokens kept.
    pub cache_entries: usize,
}

/// The audit queue.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueLimits {
    /// Bytes on disk for all eras together, in MiB.
    pub quota_mib: u64,
    /// Share of the quota that only denials and events may use, in percent.
    pub reserve_percent: u8,
    /// Records after which a new era begins, so that the space of the old one can be given back.
    pub era_records_max: u64,
    /// How long a segment stays open after its first record, in milliseconds.
    pub segment_ms: u64,
    /// Commits between two writes of the anchor.
    pub anchor_every_commits: u32,
    /// Memory for the store's page cache, in MiB.
    pub cache_mib: u64,
}

/// Tasks and grants.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalletLimits {
    /// Live tasks.
    pub tasks_max: usize,
    /// Live tasks of one workload, by uid.
    pub tasks_per_uid_max: usize,
    /// Fallback grants.
    pub grants_max: usize,
    /// Counters of uses.
    pub budgets_max: usize,
    /// How long the issuer is waited for, in milliseconds.
    pub issuer_ms: u64,
}

/// The uplink.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkLimits {
    /// MQTT keep-alive, in seconds, at least 5.
    pub keepalive_s: u64,
    /// First wait after a failed connection, in milliseconds.
    pub backoff_ms_min: u64,
    /// Longest wait, in milliseconds.
    pub backoff_ms_max: u64,
    /// How long a connection may take until the broker has accepted it, in milliseconds.
    pub connect_ms: u64,
    /// How long retained messages are waited for after the subscription, in milliseconds.
    pub settle_ms: u64,
    /// Time between two `hello` while online, in seconds.
    pub hello_s: u64,
    /// How long an acknowledgement is waited for before something is sent again, in milliseconds.
    pub resend_ms: u64,
    /// Segments in flight at once, whatever the collector allows.
    pub window: u16,
    /// Bytes sent per hour, in KiB. 0: no bound.
    pub kib_per_hour: u64,
}

/// The local API.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiLimits {
    /// Bytes of a request's body.
    pub body_bytes_max: usize,
    /// Bytes of a request's headers.
    pub header_bytes_max: usize,
    /// Requests at once from one uid.
    pub concurrent_per_uid: usize,
    /// Connections at once on all sockets.
    pub connections_max: usize,
    /// Requests per second from one uid, on average.
    pub per_second: u32,
    /// Requests that one uid may make at once above the average.
    pub burst: u32,
    /// How long a request may take to arrive, in milliseconds.
    pub read_ms: u64,
}

impl Default for Profile {
    /// A PC-class gateway on Ethernet: what runs where no profile is named.
    fn default() -> Self {
        Self {
            name: "generic-x86_64".into(),
            time: TimeLimits { drift_ppm: 500, lease_s: 60, issuer_error_ms: 2000, jump_allowance_days: 30 },
            verify: VerifyLimits {
                token_bytes_max: 4096,
                blocks_max: 8,
                facts_max: 64,
                rules_max: 8,
                checks_max: 48,
                expression_ops_max: 64,
                join_cost_max: 200_000,
                run_facts_max: 1000,
                run_iterations_max: 100,
                run_ms_max: 250,
                cache_entries: 256,
            },
            queue: QueueLimits {
                quota_mib: 1024,
                reserve_percent: 25,
                era_records_max: 100_000,
                segment_ms: 1000,
                anchor_every_commits: 64,
                cache_mib: 8,
            },
            wallet: WalletLimits {
                tasks_max: 512,
                tasks_per_uid_max: 128,
                grants_max: 16,
                budgets_max: 1024,
                issuer_ms: 2000,
            },
            link: LinkLimits {
                keepalive_s: 30,
                backoff_ms_min: 500,
                backoff_ms_max: 60_000,
                connect_ms: 10_000,
                settle_ms: 2000,
                hello_s: 300,
                resend_ms: 5000,
                window: 8,
                kib_per_hour: 0,
            },
            api: ApiLimits {
                body_bytes_max: 16 * 1024,
                header_bytes_max: 16 * 1024,
                concurrent_per_uid: 64,
                connections_max: 512,
                per_second: 5000,
                burst: 5000,
                read_ms: 10_000,
            },
        }
    }
}

impl TimeLimits {
    /// The lease as a length.
    pub fn lease(&self) -> Millis {
        Millis::from_secs(self.lease_s)
    }
}
