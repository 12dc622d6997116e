//! The arithmetic of a profile: which numbers cannot be lived with, and why.
//!
//! Owns: [`Problem`], the checks, the measured sizes that they reckon with.
//! Never: guesses a better number.
//! Read next: `firmware-profiles/README.md`.

use std::fmt;

use super::{Profile, QUARANTINE_PERCENT};
use crate::agent::feed::SET_BYTES_MAX;
use crate::agent::room::SHED_RECORDS_MIN;
use crate::wire::arguments::ARGUMENTS_BYTES_MAX;
use crate::wire::audit::segment::SEGMENT_BYTES_MAX;
use crate::wire::MESSAGE_BYTES_MAX;

/// Bytes that one audit record costs on flash. Measured with sled 0.34 over 20,000 records written and drained: 45 MB of
/// writes, garbage collection counted in.
const RECORD_FLASH_BYTES: u64 = 2300;
/// Bytes that one counter of uses takes in the anchor.
const ANCHOR_BUDGET_BYTES: u64 = 48;
/// Bytes of the anchor without its counters.
const ANCHOR_BASE_BYTES: u64 = 1024;
/// What a synced write of any size costs at the least: a page of flash.
const FLASH_PAGE_BYTES: u64 = 4096;
/// Resident memory of the agent before anything is cached: what the benchmark `agent_rss_mb` holds it to.
const BASE_RSS_MIB: u64 = 16;
/// A verified token in memory over its bytes on the wire.
const CACHED_TOKEN_FACTOR: u64 = 4;
/// The MQTT and TCP bytes of one keep-alive both ways, TLS counted in.
const KEEPALIVE_BYTES: u64 = 220;
/// A `hello` and its acknowledgement with everything around them.
const HELLO_BYTES: u64 = 2048;
/// What JSON around a token in a request takes.
const REQUEST_BYTES: usize = 2048;
/// Descriptors that the unit in `firmware-profiles/` grants.
const DESCRIPTORS_MAX: u64 = 4096;
/// What of them is for operators, the store, the link, and whoever is turned away.
const DESCRIPTORS_ASIDE: u64 = 512;

const MIB: u64 = 1024 * 1024;
const DAY_S: u64 = 86_400;

/// A number that cannot be lived with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, with its table.
    pub key: &'static str,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.key, self.what)
    }
}

/// The lines that set a number without saying where it comes from: a comment behind it, or in the line before.
pub fn unsourced(text: &str) -> Vec<usize> {
    let mut explained = false;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        let is_number =
            line.split_once('=').is_some_and(|(_, value)| value.trim().starts_with(|c: char| c.is_ascii_digit()));
        if is_number && !explained && !line.contains('#') {
            lines.push(number + 1);
        }
        explained = line.starts_with('#');
    }
    lines
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, key: &'static str, what: String) {
        self.0.push(Problem { key, what });
    }

    fn within(&mut self, key: &'static str, value: u64, least: u64, most: u64) {
        if value < least || value > most {
            self.add(key, format!("{value} is not between {least} and {most}"));
        }
    }
}

impl Profile {
    /// Every number that cannot be lived with; none if the profile works.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        self.check_name(&mut problems);
        self.check_ranges(&mut problems);
        self.check_order(&mut problems);
        self.check_memory(&mut problems);
        self.check_descriptors(&mut problems);
        self.check_queue(&mut problems);
        self.check_flash(&mut problems);
        self.check_link(&mut problems);
        problems.0
    }

    /// Bytes written to flash on a day of the design load.
    pub fn flash_bytes_per_day(&self) -> u64 {
        let records = self.load.decisions_per_day.saturating_mul(RECORD_FLASH_BYTES);
        let anchors = self.load.decisions_per_day / u64::from(self.queue.anchor_every_commits.max(1));
        let anchors = anchors.saturating_mul(self.anchor_bytes());
        records.saturating_add(anchors).saturating_add(self.time_bytes_per_day())
    }

    /// Bytes of them that keep the time.
    pub fn time_bytes_per_day(&self) -> u64 {
        self.time.leases_per_day().saturating_mul(self.anchor_bytes())
    }

    /// Resident memory with every cache and connection in use, in MiB, rounded up.
    pub fn rss_mib(&self) -> u64 {
        let body = bytes(self.api.body_bytes_max).saturating_add(bytes(ARGUMENTS_BYTES_MAX));
        let buffers = body.saturating_add(bytes(self.api.header_bytes_max));
        let connections = bytes(self.api.connections_max).saturating_mul(buffers);
        let tokens = bytes(self.verify.cache_entries)
            .saturating_mul(bytes(self.verify.token_bytes_max))
            .saturating_mul(CACHED_TOKEN_FACTOR);
        // A revocation list in force, and the next one while it is gathered.
        let lists = 2 * bytes(SET_BYTES_MAX);
        let used = connections.saturating_add(tokens).saturating_add(lists);
        // The store that is written and an older one that is drained.
        let stores = self.queue.cache_mib.saturating_mul(2);
        used.div_ceil(MIB).saturating_add(stores).saturating_add(BASE_RSS_MIB)
    }

    /// Descriptors with every connection and task in use: two for a connection, its own and its process's, and one for the
    /// process that holds a task.
    fn descriptors(&self) -> u64 {
        let connections = bytes(self.api.connections_max).saturating_mul(2);
        connections.saturating_add(bytes(self.wallet.tasks_max)).saturating_add(DESCRIPTORS_ASIDE)
    }

    fn anchor_bytes(&self) -> u64 {
        let budgets = bytes(self.wallet.budgets_max).saturating_mul(ANCHOR_BUDGET_BYTES);
        let anchor = budgets.saturating_add(ANCHOR_BASE_BYTES);
        anchor.div_ceil(FLASH_PAGE_BYTES).saturating_mul(FLASH_PAGE_BYTES)
    }

    fn check_name(&self, problems: &mut Problems) {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(plain) {
            problems.add("name", "use 1 to 64 characters from a-z A-Z 0-9 . _ -".into());
        }
    }

    fn check_ranges(&self, problems: &mut Problems) {
        problems.within("load.offline_h", self.load.offline_h, 1, 24 * 366);
        problems.within("time.drift_ppm", u64::from(self.time.drift_ppm), 1, 10_000);
        problems.within("time.lease_s", self.time.lease_s, 10, 3600);
        problems.within("time.issuer_error_ms", self.time.issuer_error_ms, 1, 60_000);
        problems.within("time.jump_allowance_days", self.time.jump_allowance_days, 1, 366);
        // A grant, its task block and the workload's child, and one that the holder adds.
        problems.within("verify.blocks_max", bytes(self.verify.blocks_max), 4, 64);
        problems.within("verify.token_bytes_max", bytes(self.verify.token_bytes_max), 1024, 16 * 1024);
        problems.within("verify.facts_max", bytes(self.verify.facts_max), 24, 1000);
        problems.within("verify.rules_max", bytes(self.verify.rules_max), 0, 1000);
        problems.within("verify.checks_max", bytes(self.verify.checks_max), 8, 1000);
        problems.within("verify.expression_ops_max", bytes(self.verify.expression_ops_max), 8, 1000);
        problems.within("verify.join_cost_max", self.verify.join_cost_max, 1000, 100_000_000);
        problems.within("verify.run_iterations_max", self.verify.run_iterations_max, 10, 10_000);
        problems.within("verify.run_ms_max", self.verify.run_ms_max, 10, 10_000);
        problems.within("verify.cache_entries", bytes(self.verify.cache_entries), 1, 65_536);
        let reserves = self.queue.reserve_percent;
        problems.within("queue.reserve_percent.critical", reserves.critical.into(), 2, 50);
        problems.within("queue.reserve_percent.allow", reserves.allow.into(), 5, 90);
        problems.within("queue.reserve_percent.denial", reserves.denial.into(), 5, 50);
        problems.within("queue.reserve_percent.notice", reserves.notice.into(), 1, 50);
        problems.within("queue.segment_ms", self.queue.segment_ms, 50, 600_000);
        problems.within("queue.era_records_max", self.queue.era_records_max, 64, 10_000_000);
        problems.within("queue.anchor_every_commits", u64::from(self.queue.anchor_every_commits), 1, 10_000);
        problems.within("queue.cache_mib", self.queue.cache_mib, 1, 1024);
        problems.within("queue.alike_max", u64::from(self.queue.alike_max), 1, 1000);
        // A kill takes the counts of one window with it.
        problems.within("queue.alike_window_ms", self.queue.alike_window_ms, 1000, 60_000);
        problems.within("queue.heartbeat_s", self.queue.heartbeat_s, 60, 7 * DAY_S);
        problems.within("wallet.tasks_per_uid_max", bytes(self.wallet.tasks_per_uid_max), 1, 65_536);
        problems.within("wallet.grants_max", bytes(self.wallet.grants_max), 1, 1024);
        problems.within("wallet.issuer_ms", self.wallet.issuer_ms, 100, 120_000);
        // Below 5 seconds the MQTT client refuses to start; above, the protocol has 16 bits.
        problems.within("link.keepalive_s", self.link.keepalive_s, 5, 65_535);
        problems.within("link.backoff_ms_min", self.link.backoff_ms_min, 100, 3_600_000);
        problems.within("link.connect_ms", self.link.connect_ms, 500, 300_000);
        problems.within("link.settle_ms", self.link.settle_ms, 100, 300_000);
        problems.within("link.hello_s", self.link.hello_s, 10, DAY_S);
        problems.within("link.resend_ms", self.link.resend_ms, 500, 3_600_000);
        problems.within("link.window", u64::from(self.link.window), 1, 1024);
        problems.within("api.concurrent_per_uid", bytes(self.api.concurrent_per_uid), 1, 65_536);
        problems.within("api.per_second", u64::from(self.api.per_second), 1, 1_000_000);
        problems.within("api.burst", u64::from(self.api.burst), 1, 1_000_000);
        problems.within("api.read_ms", self.api.read_ms, 100, 300_000);
    }

    fn check_order(&self, problems: &mut Problems) {
        let mut at_most = |low: &'static str, less: u64, high: &str, more: u64| {
            if less > more {
                problems.add(low, format!("{less} is more than `{high}` = {more}"));
            }
        };
        at_most("link.backoff_ms_min", self.link.backoff_ms_min, "link.backoff_ms_max", self.link.backoff_ms_max);
        let (per_uid, tasks) = (bytes(self.wallet.tasks_per_uid_max), bytes(self.wallet.tasks_max));
        at_most("wallet.tasks_per_uid_max", per_uid, "wallet.tasks_max", tasks);
        let (per_uid, all) = (bytes(self.api.concurrent_per_uid), bytes(self.api.connections_max));
        at_most("api.concurrent_per_uid", per_uid, "api.connections_max", all);
        at_most("device.rss_mib_max", self.device.rss_mib_max, "device.ram_mib", self.device.ram_mib);
        let (facts, run) = (bytes(self.verify.facts_max), self.verify.run_facts_max);
        at_most("verify.facts_max", facts, "verify.run_facts_max", run);

        let counters = self.wallet.tasks_max.saturating_add(self.wallet.grants_max);
        if self.wallet.budgets_max < counters {
            let what = format!("each task and grant may have a counter, so at least {counters} are needed");
            problems.add("wallet.budgets_max", what);
        }
        let token = self.verify.token_bytes_max.div_ceil(3).saturating_mul(4).saturating_add(REQUEST_BYTES);
        for (key, limit) in
            [("api.body_bytes_max", self.api.body_bytes_max), ("api.header_bytes_max", self.api.header_bytes_max)]
        {
            if limit < token {
                let largest = self.verify.token_bytes_max;
                problems.add(key, format!("a token of {largest} bytes does not fit in; at least {token} are needed"));
            }
        }
    }

    fn check_memory(&self, problems: &mut Problems) {
        let needed = self.rss_mib();
        if needed > self.device.rss_mib_max {
            let what = format!(
                "caches and connections in full use take {needed} MiB, {} are granted",
                self.device.rss_mib_max
            );
            problems.add("device.rss_mib_max", what);
        }
    }

    fn check_descriptors(&self, problems: &mut Problems) {
        let needed = self.descriptors();
        if needed > DESCRIPTORS_MAX {
            let what = format!(
                "with `wallet.tasks_max` = {}, {needed} descriptors are in use at once, and the unit grants {DESCRIPTORS_MAX}",
                self.wallet.tasks_max
            );
            problems.add("api.connections_max", what);
        }
    }

    fn check_queue(&self, problems: &mut Problems) {
        let quota = self.queue.quota_mib.saturating_mul(MIB);
        if quota < 64 * bytes(SEGMENT_BYTES_MAX) {
            problems.add("queue.quota_mib", "less than 64 full segments".into());
        }
        let era = self.queue.era_records_max.saturating_mul(RECORD_FLASH_BYTES);
        if era > quota / 2 {
            let most = quota / 2 / RECORD_FLASH_BYTES;
            let what = format!("space comes back era by era, so two must fit into the quota: at most {most}");
            problems.add("queue.era_records_max", what);
        }
        let outage = self.load.decisions_per_day.saturating_mul(self.load.offline_h) / 24;
        let needed = outage.saturating_mul(RECORD_FLASH_BYTES);
        let reserves = self.queue.reserve_percent;
        let kept: u64 =
            [reserves.critical, reserves.allow, reserves.denial, reserves.notice].into_iter().map(u64::from).sum();
        // Else damaged folders could take what is kept for the most important records, and the device would lock.
        if kept > 100 - QUARANTINE_PERCENT {
            let what = format!(
                "{kept} % are kept; with {QUARANTINE_PERCENT} % for folders in quarantine that is more than the quota"
            );
            problems.add("queue.reserve_percent", what);
        }
        // Until denials have half of their reserve, nothing keeps them apart so that they could be given up.
        let denials = (quota / 100).saturating_mul(reserves.denial.into());
        let least = SHED_RECORDS_MIN * 2 * RECORD_FLASH_BYTES;
        if denials < least {
            let (kept, least) = (denials / MIB, least.div_ceil(MIB));
            let what =
                format!("{kept} MiB are kept for denials: it takes {least} until older ones can give way to newer");
            problems.add("queue.reserve_percent.denial", what);
        }
        let usable = (quota / 100).saturating_mul(reserves.allows_may());
        if needed > usable {
            let (needed, usable) = (needed.div_ceil(MIB), usable / MIB);
            let what = format!(
                "{} h at {} decisions a day take {needed} MiB, {usable} are left beside the other reserves",
                self.load.offline_h, self.load.decisions_per_day
            );
            problems.add("queue.quota_mib", what);
        }
    }

    fn check_flash(&self, problems: &mut Problems) {
        let budget = self.device.flash_mib_per_day;
        let written = self.flash_bytes_per_day().div_ceil(MIB);
        if budget > 0 && written > budget {
            let what = format!(
                "{} decisions and {} leases a day write {written} MiB, more than the {budget} granted",
                self.load.decisions_per_day,
                self.time.leases_per_day()
            );
            problems.add("device.flash_mib_per_day", what);
        }
    }

    fn check_link(&self, problems: &mut Problems) {
        if self.link.kib_per_hour == 0 {
            return;
        }
        let idle = (3600 / self.link.keepalive_s.max(1)) * KEEPALIVE_BYTES
            + 3600_u64.div_ceil(self.link.hello_s.max(1)) * HELLO_BYTES;
        let needed = (idle + bytes(MESSAGE_BYTES_MAX)).div_ceil(1024);
        if self.link.kib_per_hour < needed {
            let what = format!("keep-alives, `hello` and one full message an hour take {needed} KiB");
            problems.add("link.kib_per_hour", what);
        }
    }
}

fn bytes(count: usize) -> u64 {
    count as u64
}

#[cfg(test)]
mod tests {
    use super::super::{shipped, Kind, Overlay, Reserves, SHIPPED};
    use super::*;
    use crate::agent::room::{Class, Room, Shares, Taken};

    #[test]
    fn each_impossible_number_is_named() {
        check(|p| p.name = String::new(), "name");
        check(|p| p.time.lease_s = 1, "time.lease_s");
        check(|p| p.verify.blocks_max = 3, "verify.blocks_max");
        check(|p| p.verify.run_facts_max = 10, "verify.facts_max");
        check(|p| p.queue.reserve_percent.critical = 1, "queue.reserve_percent.critical");
        check(|p| p.queue.reserve_percent.allow = 4, "queue.reserve_percent.allow");
        check(|p| p.queue.reserve_percent.denial = 51, "queue.reserve_percent.denial");
        check(|p| p.queue.reserve_percent.notice = 0, "queue.reserve_percent.notice");
        check(|p| p.queue.quota_mib = 8, "queue.reserve_percent.denial");
        check(|p| p.queue.reserve_percent.allow = 66, "queue.reserve_percent");
        check(|p| p.queue.reserve_percent.critical = 35, "queue.quota_mib");
        check(|p| p.queue.anchor_every_commits = 0, "queue.anchor_every_commits");
        check(|p| p.queue.alike_max = 0, "queue.alike_max");
        check(|p| p.queue.alike_window_ms = 600_000, "queue.alike_window_ms");
        check(|p| p.queue.heartbeat_s = 0, "queue.heartbeat_s");
        check(|p| p.link.keepalive_s = 4, "link.keepalive_s");
        check(|p| p.link.backoff_ms_max = 10, "link.backoff_ms_min");
        check(|p| p.link.window = 0, "link.window");
        check(|p| p.link.kib_per_hour = 32, "link.kib_per_hour");
        check(|p| p.wallet.tasks_per_uid_max = 9999, "wallet.tasks_per_uid_max");
        check(|p| p.wallet.budgets_max = 10, "wallet.budgets_max");
        check(|p| p.api.header_bytes_max = 4096, "api.header_bytes_max");
        check(|p| p.api.body_bytes_max = 4096, "api.body_bytes_max");
        check(|p| p.api.connections_max = 1, "api.concurrent_per_uid");
    }

    #[test]
    fn the_board_bounds_memory_flash_and_queue() {
        check(|p| p.device.rss_mib_max = 20, "device.rss_mib_max");
        check(|p| p.verify.cache_entries = 60_000, "device.rss_mib_max");
        check(|p| p.device.ram_mib = 16, "device.rss_mib_max");
        check(|p| p.device.flash_mib_per_day = 39, "device.flash_mib_per_day");
        check(|p| p.queue.quota_mib = 512, "queue.quota_mib");
        check(|p| p.load.offline_h = 24 * 30, "queue.quota_mib");
        check(|p| p.queue.era_records_max = 1_000_000, "queue.era_records_max");
    }

    #[test]
    fn connections_and_tasks_fit_into_the_descriptors_that_the_unit_grants() {
        let unit = include_str!("../../firmware-profiles/hardtack.service");
        assert!(unit.lines().any(|line| line == format!("LimitNOFILE={DESCRIPTORS_MAX}")));
        check(|p| p.wallet.tasks_max = 2561, "api.connections_max");
        let mut profile = Profile::default();
        (profile.wallet.tasks_max, profile.wallet.budgets_max) = (2560, 4096);
        profile.device.flash_mib_per_day = 0;
        assert_eq!(profile.problems(), []);
        (profile.device.rss_mib_max, profile.device.ram_mib) = (1 << 20, 1 << 20);
        profile.api.connections_max = 513;
        let problems: Vec<String> = profile.problems().iter().map(ToString::to_string).collect();
        assert!(matches!(&problems[..], [one] if one.contains("4098 descriptors")), "{problems:?}");
    }

    #[test]
    fn absurd_numbers_are_refused_without_overflow() {
        let mut profile = Profile::default();
        profile.load.decisions_per_day = u64::MAX;
        profile.load.offline_h = u64::MAX;
        profile.queue.quota_mib = u64::MAX;
        profile.queue.cache_mib = u64::MAX;
        profile.queue.reserve_percent =
            Reserves { critical: u8::MAX, allow: u8::MAX, denial: u8::MAX, notice: u8::MAX };
        profile.queue.era_records_max = u64::MAX;
        profile.verify.token_bytes_max = usize::MAX;
        profile.verify.cache_entries = usize::MAX;
        profile.wallet.tasks_max = usize::MAX;
        profile.wallet.budgets_max = usize::MAX;
        profile.api.connections_max = usize::MAX;
        profile.link.keepalive_s = 0;
        profile.link.kib_per_hour = 1;
        profile.time.lease_s = 0;
        assert!(profile.problems().len() > 5);
    }

    /// What is in quarantine never takes the room of the most important records, in any profile that is not refused.
    #[test]
    fn the_quarantine_leaves_the_critical_reserve() {
        for allow in 5..=90 {
            let mut profile = Profile::default();
            profile.load.decisions_per_day = 1000;
            profile.queue.reserve_percent = Reserves { critical: 2, allow, denial: 15, notice: 3 };
            let quarantine = profile.queue.quota_mib * MIB / 100 * QUARANTINE_PERCENT;
            // Nothing else is left: the audit has all been delivered.
            let room = Room::new(&profile.queue, Taken::of(quarantine), &Shares::default());
            let refused = profile.problems().iter().any(|problem| problem.key == "queue.reserve_percent");
            assert_eq!(refused, allow > 70, "{allow} %");
            assert!(refused || room.fits(Class::Critical), "{allow} %: {room:?}");
        }
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Profile), key: &str) {
        let mut profile = Profile::default();
        assert_eq!(profile.problems(), []);
        change(&mut profile);
        let keys: Vec<&str> = profile.problems().iter().map(|problem| problem.key).collect();
        assert!(keys.contains(&key), "{key} is not among {keys:?}");
    }

    #[test]
    fn every_shipped_class_works_alone_and_with_every_overlay() {
        let of_kind = |kind: Kind| SHIPPED.iter().filter(move |shipped| shipped.kind == kind);
        for class in of_kind(Kind::Class) {
            let profile = Profile::parse(class.name, class.text).unwrap();
            assert_eq!((profile.name.as_str(), profile.problems()), (class.name, vec![]));
            for overlay in of_kind(Kind::Overlay) {
                let overlay = Overlay::parse(overlay.name, overlay.text).unwrap();
                let merged = profile.clone().with(&overlay);
                assert_eq!(merged.problems(), [], "{}", merged.name);
            }
        }
        assert!(shipped("link-lte-metered", Kind::Class).is_none(), "an overlay is no class");
    }

    #[test]
    fn each_shipped_number_names_its_source() {
        for shipped in SHIPPED {
            assert!(unsourced(shipped.text).is_empty(), "{}", shipped.name);
        }
        assert_eq!(unsourced("# why\na = 1\nb = 2\nc = 3 # why\nd = \"x\"\n"), [3]);
    }
}
