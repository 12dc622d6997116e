//! Firmware profiles: what a class of device can bear.
//!
//! Owns: [`Profile`], its limits with their units, the merge of a device class with a link [`Overlay`], the profiles
//! that ship inside the program.
//! Never: reads a file or guesses what it runs on.
//! Read next: `profile/check.rs`, which refuses a profile nobody could run; `firmware-profiles/README.md`.

mod check;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use check::{unsourced, Problem};

use crate::time::Millis;

/// The most bytes of a profile, overlay or configuration.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

const GENERIC_X86_64: &str = include_str!("../firmware-profiles/generic-x86_64.toml");
const ENERGY_ARMV7_1G: &str = include_str!("../firmware-profiles/energy-armv7-1g.toml");
const LINK_LTE_METERED: &str = include_str!("../firmware-profiles/link-lte-metered.toml");

/// Limits of one device class, one link overlay merged in.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The class's name; with an overlay, both names with a `+` between.
    pub name: String,
    /// The board.
    pub device: DeviceLimits,
    /// What the class is sized for.
    pub load: DesignLoad,
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

/// The board.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceLimits {
    /// The processor's architecture.
    pub arch: Arch,
    /// Memory of the board, in MiB.
    pub ram_mib: u64,
    /// What the agent may take of it, resident, in MiB.
    pub rss_mib_max: u64,
    /// What the agent may write to flash per day, in MiB, so that the flash outlives the board. 0: no bound.
    pub flash_mib_per_day: u64,
}

/// A processor's architecture, as the Rust target names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit ARM.
    Aarch64,
    /// 32-bit ARM with hardware floating point.
    Armv7,
    /// 64-bit PC.
    X86_64,
}

/// What the class is sized for: the check of the other numbers takes these as given.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesignLoad {
    /// Decisions that programs ask for in a day.
    pub decisions_per_day: u64,
    /// The longest outage that must fit into the audit queue, in hours.
    pub offline_h: u64,
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
    /// What the system clock is good for.
    pub hint: Hint,
}

/// What the system clock is good for. It never makes a decision more lenient.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hint {
    /// Nothing: the board has no clock that runs without power.
    Ignore,
    /// It may know how long the device was off: a token that has ended by it is refused.
    Tighten,
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
    /// Shares of the quota that are kept for each class of events, in percent. What is kept for none anyone may use.
    pub reserve_percent: Reserves,
    /// Records after which a new era begins, so that the space of the old one can be given back.
    pub era_records_max: u64,
    /// How long a segment stays open after its first record, in milliseconds.
    pub segment_ms: u64,
    /// Commits between two writes of the anchor.
    pub anchor_every_commits: u32,
    /// Memory for the store's page cache, in MiB.
    pub cache_mib: u64,
    /// Denials that are the same and within one window are recorded one by one up to this many; the next are counted.
    pub alike_max: u32,
    /// How long a window is, from the first of them on, in milliseconds.
    pub alike_window_ms: u64,
    /// A sign of life is recorded when nothing else was for so long, in seconds of powered-on time.
    pub heartbeat_s: u64,
}

/// A share of the quota for each class of events, in percent.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reserves {
    /// For starts, gaps, modes, grants in use, what is trusted. Without room for these the device locks.
    pub critical: u8,
    /// For allows, and for tasks that begin, are renewed or end.
    pub allow: u8,
    /// For denials, and for tasks that are refused.
    pub denial: u8,
    /// For messages that are refused.
    pub notice: u8,
}

/// What of the quota folders in quarantine may take, in percent. They hold what no record is told from, so that they count
/// against all classes: the reserves leave so much free.
pub const QUARANTINE_PERCENT: u64 = 10;

impl Reserves {
    /// What of the quota allows may use, in percent: all that is kept for nobody else, whatever is in quarantine.
    pub fn allows_may(&self) -> u64 {
        let others = [self.critical, self.denial, self.notice].into_iter().map(u64::from).sum::<u64>();
        100_u64.saturating_sub(others).saturating_sub(QUARANTINE_PERCENT)
    }
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

/// What a link type changes about a device class. Nothing else may be overlaid: the board stays the board.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlay {
    /// The overlay's name. Its presence is what tells an overlay from a class.
    pub overlay: String,
    #[serde(default)]
    link: LinkOverlay,
    #[serde(default)]
    queue: QueueOverlay,
    #[serde(default)]
    wallet: WalletOverlay,
}

/// As [`LinkLimits`], each optional.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkOverlay {
    keepalive_s: Option<u64>,
    backoff_ms_min: Option<u64>,
    backoff_ms_max: Option<u64>,
    connect_ms: Option<u64>,
    settle_ms: Option<u64>,
    hello_s: Option<u64>,
    resend_ms: Option<u64>,
    window: Option<u16>,
    kib_per_hour: Option<u64>,
}

/// How long records wait for company depends on what a message costs.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct QueueOverlay {
    segment_ms: Option<u64>,
}

/// How long the issuer is waited for depends on how far away it is.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WalletOverlay {
    issuer_ms: Option<u64>,
}

/// A profile that ships inside the program.
#[derive(Clone, Copy, Debug)]
pub struct Shipped {
    /// Its name.
    pub name: &'static str,
    /// A class or an overlay.
    pub kind: Kind,
    /// Its text.
    pub text: &'static str,
}

/// What a profile file describes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A whole device class.
    Class,
    /// What a link type changes about one.
    Overlay,
}

/// Every profile that ships inside the program, classes first.
pub const SHIPPED: &[Shipped] = &[
    Shipped { name: "generic-x86_64", kind: Kind::Class, text: GENERIC_X86_64 },
    Shipped { name: "energy-armv7-1g", kind: Kind::Class, text: ENERGY_ARMV7_1G },
    Shipped { name: "link-lte-metered", kind: Kind::Overlay, text: LINK_LTE_METERED },
];

/// The shipped profile of a name and kind.
pub fn shipped(name: &str, kind: Kind) -> Option<&'static Shipped> {
    SHIPPED.iter().find(|shipped| shipped.name == name && shipped.kind == kind)
}

/// Why a text is no profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The text cannot be read as one.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Its numbers cannot be lived with.
    #[error("profile {name} cannot work:{}; change these numbers, or see `hardtack profile lint`", listed(.problems))]
    Problems {
        /// The profile's name.
        name: String,
        /// What is wrong, at least one.
        problems: Vec<Problem>,
    },
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!(" {problem};")).collect::<String>().trim_end_matches(';').to_owned()
}

/// Why a TOML text was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct TextError {
    /// The file, as the person named it.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

/// Reads a TOML text into `T`; `file` names it in the error.
///
/// # Errors
/// Syntax, an unknown key, a value of the wrong type, more than [`TEXT_BYTES_MAX`].
pub(crate) fn parse_text<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, TextError> {
    if text.len() > TEXT_BYTES_MAX {
        let what = format!("{} bytes; the limit is {TEXT_BYTES_MAX}", text.len());
        return Err(TextError { file: file.to_owned(), line: 1, what });
    }
    toml::from_str(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count();
        // Serde speaks of fields; a person who writes TOML speaks of keys.
        let what = error.message().trim().replace('\n', ", ").replacen(" field ", " key ", 1);
        TextError { file: file.to_owned(), line, what }
    })
}

/// Whether a text describes a class or an overlay.
///
/// # Errors
/// When it is no TOML.
pub fn kind_of(file: &str, text: &str) -> Result<Kind, TextError> {
    let table: toml::Table = parse_text(file, text)?;
    Ok(if table.contains_key("overlay") { Kind::Overlay } else { Kind::Class })
}

impl Default for Profile {
    /// `generic-x86_64`, a PC-class gateway on Ethernet: what runs where no profile is named.
    fn default() -> Self {
        parse_text("generic-x86_64.toml", GENERIC_X86_64).expect("a shipped text, which a test reads")
    }
}

impl Profile {
    /// A class from its text, whatever its numbers are.
    ///
    /// # Errors
    /// When it is no TOML, or has an unknown, missing or mistyped key.
    pub fn parse(file: &str, text: &str) -> Result<Self, TextError> {
        parse_text(file, text)
    }

    /// The profile, if somebody could run it.
    ///
    /// # Errors
    /// Every number that cannot be lived with.
    pub fn checked(self) -> Result<Self, ProfileError> {
        let problems = self.problems();
        if problems.is_empty() {
            Ok(self)
        } else {
            Err(ProfileError::Problems { name: self.name, problems })
        }
    }

    /// The class as it is on a link of this type.
    pub fn with(mut self, overlay: &Overlay) -> Self {
        let set = |limit: &mut u64, value: Option<u64>| *limit = value.unwrap_or(*limit);
        let LinkOverlay {
            keepalive_s,
            backoff_ms_min,
            backoff_ms_max,
            connect_ms,
            settle_ms,
            hello_s,
            resend_ms,
            window,
            kib_per_hour,
        } = overlay.link;
        set(&mut self.link.keepalive_s, keepalive_s);
        set(&mut self.link.backoff_ms_min, backoff_ms_min);
        set(&mut self.link.backoff_ms_max, backoff_ms_max);
        set(&mut self.link.connect_ms, connect_ms);
        set(&mut self.link.settle_ms, settle_ms);
        set(&mut self.link.hello_s, hello_s);
        set(&mut self.link.resend_ms, resend_ms);
        set(&mut self.link.kib_per_hour, kib_per_hour);
        self.link.window = window.unwrap_or(self.link.window);
        set(&mut self.queue.segment_ms, overlay.queue.segment_ms);
        set(&mut self.wallet.issuer_ms, overlay.wallet.issuer_ms);
        self.name = format!("{}+{}", self.name, overlay.overlay);
        self
    }
}

impl Overlay {
    /// An overlay from its text.
    ///
    /// # Errors
    /// When it is no TOML, or has a key that no overlay may set.
    pub fn parse(file: &str, text: &str) -> Result<Self, TextError> {
        parse_text(file, text)
    }
}

impl TimeLimits {
    /// The lease as a length.
    pub fn lease(&self) -> Millis {
        Millis::from_secs(self.lease_s)
    }

    /// What is left of a lease when the next one is taken.
    pub fn lease_margin(&self) -> Millis {
        Millis(self.lease().0 / 10)
    }

    /// How often a device that does nothing writes its clock down in a day.
    pub fn leases_per_day(&self) -> u64 {
        86_400_000 / (self.lease().0 - self.lease_margin().0).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_by_default_is_the_generic_class() {
        let generic = shipped("generic-x86_64", Kind::Class).unwrap();
        assert_eq!(Profile::default(), Profile::parse("", generic.text).unwrap());
    }

    #[test]
    fn an_overlay_changes_the_link_and_nothing_else() {
        let text = "overlay = 'sat'\n[link]\nkeepalive_s = 900\nwindow = 1\n[wallet]\nissuer_ms = 9000\n";
        let merged = Profile::default().with(&Overlay::parse("sat.toml", text).unwrap());
        let mut expected = Profile { name: "generic-x86_64+sat".into(), ..Profile::default() };
        expected.link.keepalive_s = 900;
        expected.link.window = 1;
        expected.wallet.issuer_ms = 9000;
        assert_eq!(merged, expected);
    }

    #[test]
    fn a_refusal_names_file_line_and_key() {
        let class = |change: fn(&str) -> String| {
            Profile::parse("x.toml", &change(GENERIC_X86_64)).map(drop).unwrap_err().to_string()
        };
        check(&class(|text| text.replace("lease_s", "leese_s")), &["x.toml:", "unknown key `leese_s`"]);
        check(&class(|text| text.replace("lease_s = 60", "")), &["x.toml:", "missing key `lease_s`"]);
        check(&class(|text| text.replace("lease_s = 60", "lease_s = -1")), &["x.toml:", "-1"]);
        check(&class(|text| text.replace("\"x86_64\"", "\"vax\"")), &["vax"]);
        check(&class(|text| text.replace("[queue]", "[queue")), &["x.toml:"]);
        check(&class(|_| "a".repeat(TEXT_BYTES_MAX + 1)), &["limit"]);
        let overlay = |text| Overlay::parse("o.toml", text).map(drop).unwrap_err().to_string();
        check(&overlay("overlay = 'o'\n[verify]\nblocks_max = 99\n"), &["o.toml:2", "unknown key `verify`"]);
        check(&overlay("overlay = 'o'\n[link]\nmtu = 1\n"), &["o.toml:3", "unknown key `mtu`"]);
        check(&overlay("[link]\nwindow = 1\n"), &["missing key `overlay`"]);
    }

    #[track_caller]
    fn check(message: &str, parts: &[&str]) {
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }

    #[test]
    fn a_profile_that_cannot_work_says_all_that_is_wrong() {
        let mut profile = Profile::default();
        profile.link.keepalive_s = 1;
        profile.time.lease_s = 1;
        let message = profile.checked().unwrap_err().to_string();
        check(&message, &["generic-x86_64", "`time.lease_s`: 1 is not between 10 and 3600;", "`link.keepalive_s`"]);
    }
}
