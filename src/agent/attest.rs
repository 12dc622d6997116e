//! Who asks: selectors from what the kernel says.
//!
//! Owns: the selectors of a caller, with SPIRE's names where SPIRE has one: what evidence is worth, most general first.
//! Never: believes anything that the caller says about itself; guesses: what was not read gives no selector.
//! Read next: `attest/cgroup.rs` for units and containers; `attest/forms.rs` for what a grant may name; `wallet.rs`, where
//! grants say which selector may begin what.
//!
//! A path, a hash, and whatever else is told of a process is no wall between programs of one user: they can trace each
//! other, or start each other and hand over an open socket. The user, the unit and the container are one.

pub mod cgroup;
pub mod forms;

use super::request::{Evidence, Peer, Process};
use crate::wire::biscuit::SELECTORS_MAX;

/// The most bytes of a selector's value: what a token's text holds, less the longest name of a selector.
const VALUE_BYTES_MAX: usize = 224;

/// The selectors of a caller, most general first, at most [`SELECTORS_MAX`]. None of one whose process has ended: nobody
/// knows who has its socket now.
pub fn selectors(evidence: &Evidence) -> Vec<String> {
    match &evidence.process {
        Peer::Gone => Vec::new(),
        Peer::Known(process) => gather(evidence, Some(process)),
        Peer::Unknown => gather(evidence, None),
    }
}

/// The selectors that a caller had if it were this process, which is of the same user.
pub fn selectors_as(evidence: &Evidence, process: &Process) -> Vec<String> {
    gather(evidence, Some(process))
}

/// Whether who asks may be the workload of which these selectors were attested: it is of the same user, and in no other unit or
/// container as far as that is known of both. A unit that was started again is the same one: what outlived it is still there.
pub fn may_be(asker: &[String], workload: &[String]) -> bool {
    let is_user = |selector: &&String| selector.starts_with("unix:uid:");
    let is_place =
        |selector: &&String| !["unix:", "systemd:invocation_id:"].iter().any(|kind| selector.starts_with(kind));
    let same_user = workload.iter().filter(is_user).all(|user| asker.contains(user));
    let placed = asker.iter().any(|selector| is_place(&selector));
    same_user && (!placed || workload.iter().filter(is_place).all(|place| asker.contains(place)))
}

/// Whether a selector tells one workload from another. Who has a group or a document may be anybody else too: a planner that is in
/// a group would have one step for each of its members, and its own.
pub fn tells_apart(selector: &str) -> bool {
    let shared =
        ["oidc:", "spiffe:", "unix:gid:", "unix:group:", "unix:supplementary_gid:", "unix:supplementary_group:"];
    !shared.iter().any(|kind| selector.starts_with(kind))
}

fn gather(evidence: &Evidence, process: Option<&Process>) -> Vec<String> {
    let mut seen = Seen(vec![format!("unix:uid:{}", evidence.uid)]);
    seen.add("unix:gid", evidence.gid.map(|gid| gid.to_string()).as_deref());
    seen.add("unix:user", evidence.user.as_deref());
    seen.add("unix:group", evidence.group.as_deref());
    let Some(process) = process else { return seen.0 };
    let place = process.cgroup.as_deref().map(cgroup::place_of).unwrap_or_default();
    let mut special = Seen(Vec::new());
    special.add("systemd:id", place.unit.as_deref());
    // The invocation is one of that unit, or of none.
    let invocation = process.invocation.as_deref().filter(|id| place.unit.is_some() && is_hex(id, 32));
    special.add("systemd:invocation_id", invocation);
    special.add("k8s:pod-uid", place.pod.as_deref());
    if let Some(container) = &place.container {
        special.add(container.selector(), Some(&container.id));
    }
    // A path that the kernel marks as gone names another file, or none.
    let path = process.path.as_deref().filter(|path| path.starts_with('/') && !path.ends_with(" (deleted)"));
    special.add("unix:path", path);
    special.add("unix:sha256", process.sha256.map(|hash| hash.to_string()).as_deref());
    // Groups are many at times: those with the lowest numbers take what room is left.
    let mut groups = process.groups.clone();
    groups.sort();
    groups.dedup_by_key(|(gid, _)| *gid);
    let room = SELECTORS_MAX.saturating_sub(seen.0.len() + special.0.len());
    let mut supplementary = Seen(Vec::new());
    for (gid, name) in groups {
        supplementary.add("unix:supplementary_gid", Some(&gid.to_string()));
        supplementary.add("unix:supplementary_group", name.as_deref());
    }
    supplementary.0.truncate(room);
    seen.0.append(&mut supplementary.0);
    seen.0.append(&mut special.0);
    seen.0
}

struct Seen(Vec<String>);

impl Seen {
    /// A value that a token could not hold attests nothing.
    fn add(&mut self, kind: &str, value: Option<&str>) {
        let usable =
            |value: &&str| !value.is_empty() && value.len() <= VALUE_BYTES_MAX && !value.chars().any(char::is_control);
        self.0.extend(value.filter(usable).map(|value| format!("{kind}:{value}")));
    }
}

/// Whether a text is so many lower-case hexadecimal digits.
fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::super::holder::ProcessId;
    use super::super::request::Socket;
    use super::*;
    use crate::ids::{BootId, Hash};

    const CONTAINER: &str = "3f4c7d2a9b8e6f1d0c5a4b3e2f1a0d9c8b7a6f5e4d3c2b1a0f9e8d7c6b5a4f3e";

    fn process() -> Process {
        Process::of(ProcessId { boot: BootId([1; 16]), pid: 7, started: 99 })
    }

    fn evidence(process: Peer) -> Evidence {
        Evidence { process, ..Evidence::of(Socket::Agent, 1001, 100) }
    }

    #[test]
    fn a_path_counts_only_where_it_is_one() {
        check_path(Some("/usr/bin/meter"), true);
        check_path(Some("/usr/bin/meter (deleted)"), false);
        check_path(Some("meter"), false);
        check_path(Some("/a\nb"), false);
        check_path(Some(&format!("/{}", "a".repeat(VALUE_BYTES_MAX))), false);
        check_path(None, false);
    }

    #[test]
    fn whoever_is_of_the_same_user_and_in_no_other_place_may_be_it() {
        let of = |place: &str| -> Vec<String> {
            ["unix:uid:1001", "unix:path:/usr/bin/x"]
                .into_iter()
                .chain(place.split_whitespace())
                .map(str::to_owned)
                .collect()
        };
        for (asker, workload, may) in [
            ("", "", true),
            ("systemd:id:a", "systemd:id:a", true),
            ("systemd:id:a systemd:invocation_id:1", "systemd:id:a systemd:invocation_id:2", true),
            ("systemd:id:b", "systemd:id:a", false),
            ("docker:id:1", "docker:id:2", false),
            ("", "systemd:id:a", true),
        ] {
            assert_eq!(may_be(&of(asker), &of(workload)), may, "{asker:?} and {workload:?}");
        }
        assert!(!may_be(&["unix:uid:7".to_owned()], &of("")));
    }

    #[track_caller]
    fn check_path(path: Option<&str>, counts: bool) {
        let process = Process { path: path.map(str::to_owned), ..process() };
        let selectors = selectors(&evidence(Peer::Known(process.into())));
        assert_eq!(selectors[..2], ["unix:uid:1001", "unix:gid:100"]);
        assert_eq!(selectors.len() == 3, counts);
    }

    #[test]
    fn all_that_was_read_counts_the_most_general_first() {
        let process = Process {
            groups: vec![(44, Some("video".into())), (20, Some("dialout".into())), (7000, None)],
            cgroup: Some("0::/system.slice/meter.service\n".into()),
            invocation: Some("00112233445566778899aabbccddeeff".into()),
            path: Some("/usr/bin/meter".into()),
            sha256: Some(Hash([0xab; 32])),
            ..process()
        };
        let full = Evidence {
            user: Some("meter".into()),
            group: Some("meters".into()),
            ..evidence(Peer::Known(process.clone().into()))
        };
        let expected = [
            "unix:uid:1001",
            "unix:gid:100",
            "unix:user:meter",
            "unix:group:meters",
            "unix:supplementary_gid:20",
            "unix:supplementary_group:dialout",
            "unix:supplementary_gid:44",
            "unix:supplementary_group:video",
            "unix:supplementary_gid:7000",
            "systemd:id:meter.service",
            "systemd:invocation_id:00112233445566778899aabbccddeeff",
            "unix:path:/usr/bin/meter",
            &format!("unix:sha256:{}", "ab".repeat(32)),
        ];
        assert_eq!(selectors(&full), expected);
        expected.iter().for_each(|selector| assert_eq!(forms::form(selector), Ok(())));
        let mut broken = process;
        broken.invocation = Some("not one".into());
        broken.cgroup = None;
        let selectors = selectors(&Evidence { process: Peer::Known(broken.into()), ..full });
        assert!(!selectors.iter().any(|selector| selector.starts_with("systemd:")), "{selectors:?}");
    }

    #[test]
    fn the_same_user_may_be_a_workload_unless_a_unit_or_container_tells_them_apart() {
        let workload = ["unix:uid:1001", "unix:gid:1001", "systemd:id:plan.service", "unix:path:/usr/bin/plan"];
        let user_alone = ["unix:uid:1001", "unix:gid:1001"];
        for (asker, bound, may) in [
            (&workload[..], &workload[..], true),
            (&["unix:uid:1001", "unix:gid:5", "systemd:id:plan.service", "unix:path:/usr/bin/curl"], &workload, true),
            (&["unix:uid:1001", "systemd:id:proxy.service"], &workload, false),
            (&["unix:uid:1001", "docker:id:ab"], &workload, false),
            (&["unix:uid:1001", "docker:id:ab"], &user_alone, true),
            (&user_alone, &workload, true),
            (&["unix:uid:33", "systemd:id:plan.service"], &workload, false),
            (&["unix:uid:33"], &user_alone, false),
        ] {
            let owned = |all: &[&str]| all.iter().map(|selector| (*selector).to_owned()).collect::<Vec<_>>();
            assert_eq!(may_be(&owned(asker), &owned(bound)), may, "{asker:?} {bound:?}");
        }
    }

    #[test]
    fn many_groups_push_nothing_else_out() {
        let process = Process {
            groups: (1..=500).rev().map(|gid| (gid, Some(format!("g{gid}")))).collect(),
            cgroup: Some(format!("0::/system.slice/docker-{CONTAINER}.scope\n")),
            path: Some("/usr/bin/meter".into()),
            ..process()
        };
        let selectors = selectors(&evidence(Peer::Known(process.into())));
        assert_eq!(selectors.len(), SELECTORS_MAX);
        assert_eq!(selectors[2..4], ["unix:supplementary_gid:1", "unix:supplementary_group:g1"]);
        let last = &selectors[SELECTORS_MAX - 3..];
        assert_eq!(last[1..], [format!("docker:id:{CONTAINER}"), "unix:path:/usr/bin/meter".into()]);
    }

    #[test]
    fn who_has_ended_is_nobody_and_who_is_not_seen_is_a_user() {
        assert_eq!(selectors(&evidence(Peer::Gone)), Vec::<String>::new());
        assert_eq!(selectors(&evidence(Peer::Unknown)), ["unix:uid:1001", "unix:gid:100"]);
    }
}
