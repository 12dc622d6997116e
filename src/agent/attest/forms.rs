//! The forms of selectors, as whoever grants writes them.
//!
//! Owns: [`form`]: which selectors somebody can have at all; [`executor`]: which of them can be told of who takes a step.
//! Never: attests anything; knows who is there.
//! Read next: `../attest.rs`, which makes selectors; `../identity.rs` for those that a document proves.

use super::{cgroup, is_hex, tells_apart, VALUE_BYTES_MAX};
use crate::wire::identity::{is_issuer_url, is_subject, trust_domain};

/// A kind of selector.
struct Kind {
    name: &'static str,
    /// What its value is.
    value: &'static str,
    fits: fn(&str) -> bool,
}

/// Every kind that there is.
const KINDS: [Kind; 19] = [
    Kind { name: "unix:uid", value: "a user's number, as in unix:uid:1001", fits: is_number },
    Kind { name: "unix:gid", value: "a group's number, as in unix:gid:1001", fits: is_number },
    Kind { name: "unix:user", value: "a user's name, as in unix:user:meter", fits: is_name },
    Kind { name: "unix:group", value: "a group's name, as in unix:group:meters", fits: is_name },
    Kind { name: "unix:supplementary_gid", value: "a group's number", fits: is_number },
    Kind { name: "unix:supplementary_group", value: "a group's name", fits: is_name },
    Kind {
        name: "unix:path",
        value: "the whole path of a program, links resolved, as in unix:path:/usr/bin/meter",
        fits: is_path,
    },
    Kind { name: "unix:sha256", value: "64 hexadecimal digits in lower case", fits: is_digest },
    Kind {
        name: "systemd:id",
        value: "a unit with its suffix, as in systemd:id:meter.service (or .scope, .socket, .mount, .swap)",
        fits: |value| cgroup::is_unit(value) && value.len() <= VALUE_BYTES_MAX,
    },
    Kind {
        name: "systemd:invocation_id",
        value: "32 hexadecimal digits in lower case",
        fits: |value| is_hex(value, 32),
    },
    Kind { name: "docker:id", value: CONTAINER, fits: is_digest },
    Kind { name: "podman:id", value: CONTAINER, fits: is_digest },
    Kind { name: "containerd:id", value: CONTAINER, fits: is_digest },
    Kind { name: "crio:id", value: CONTAINER, fits: is_digest },
    Kind { name: "k8s:container-id", value: CONTAINER, fits: is_digest },
    Kind {
        name: "k8s:pod-uid",
        value: "a pod's uid, 32 hexadecimal digits in lower case with or without hyphens",
        fits: cgroup::is_pod,
    },
    Kind {
        name: "oidc:iss",
        value: "the issuer as its documents say it, as in oidc:iss:https://id.example/realms/ops",
        fits: is_issuer_url,
    },
    Kind {
        name: "oidc:sub",
        value: "issuer#subject, as in oidc:sub:https://id.example/realms/ops#ann",
        fits: is_subject_of_issuer,
    },
    Kind {
        name: "spiffe:id",
        value: "a SPIFFE ID with a path, as in spiffe:id:spiffe://site.example/planner",
        fits: |value| trust_domain(value).is_some(),
    },
];

const CONTAINER: &str = "a container's whole id, 64 hexadecimal digits in lower case";

/// Whether somebody can have a selector.
///
/// # Errors
/// What it would have to look like.
pub fn form(selector: &str) -> Result<(), String> {
    let after = |kind: &Kind| selector.strip_prefix(kind.name).and_then(|rest| rest.strip_prefix(':'));
    let Some((kind, value)) = KINDS.iter().find_map(|kind| Some((kind, after(kind)?))) else {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        return Err(format!(
            "nobody can have the selector {selector:?}: it begins with one of {}, as `hardtack whoami` shows them",
            names.join(", ")
        ));
    };
    if !(kind.fits)(value) {
        return Err(format!("nobody can have the selector {selector:?}: after {}: stands {}", kind.name, kind.value));
    }
    Ok(())
}

/// Whether an executor of steps can be told by a selector: the kernel attests it of him, and of his planner it does not as easily.
///
/// # Errors
/// Why not.
pub fn executor(selector: &str) -> Result<(), String> {
    form(selector)?;
    if tells_apart(selector) {
        return Ok(());
    }
    let why = if selector.starts_with("unix:") {
        "a planner that is in the group could take its own steps"
    } else {
        "it is proved by a document at a begin, and whoever takes a step shows none"
    };
    Err(format!("{selector} is of no executor: {why}; name the user, unit or container that is to take the steps"))
}

/// As the kernel's numbers are written, but the one that stands for nobody.
fn is_number(value: &str) -> bool {
    value.parse::<u32>().is_ok_and(|number| number != u32::MAX && number.to_string() == value)
}

/// What a line of `/etc/passwd` or `/etc/group` can begin with.
fn is_name(value: &str) -> bool {
    let fits = |c: char| c != ':' && !c.is_control();
    !value.is_empty() && value.trim() == value && value.len() <= VALUE_BYTES_MAX && value.chars().all(fits)
}

/// As the kernel names a file that runs.
fn is_path(value: &str) -> bool {
    let whole =
        value.strip_prefix('/').is_some_and(|below| below.split('/').all(|part| !matches!(part, "" | "." | "..")));
    whole && value.len() <= VALUE_BYTES_MAX && !value.chars().any(char::is_control) && !value.ends_with(" (deleted)")
}

fn is_digest(value: &str) -> bool {
    is_hex(value, 64)
}

fn is_subject_of_issuer(value: &str) -> bool {
    value.split_once('#').is_some_and(|(issuer, subject)| is_issuer_url(issuer) && is_subject(subject))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4c7d2a9b8e6f1d0c5a4b3e2f1a0d9c8b7a6f5e4d3c2b1a0f9e8d7c6b5a4f3e";

    #[test]
    fn what_nobody_can_have_is_told_with_what_it_would_look_like() {
        for (selector, expected) in [
            ("uid:1001", "begins with one of unix:uid, unix:gid,"),
            ("UNIX:uid:1", "begins with one of"),
            ("unix:uid", "begins with one of"),
            (" unix:uid:1", "begins with one of"),
            ("unix:shoe:44", "begins with one of"),
            ("unix:uid:01001", "a user's number"),
            ("unix:uid:+1", "a user's number"),
            ("unix:uid:root", "a user's number"),
            ("unix:uid:1001 ", "a user's number"),
            ("unix:uid:4294967295", "a user's number"),
            ("unix:supplementary_gid:x", "a group's number"),
            ("unix:user:", "a user's name"),
            ("unix:user:meter ", "a user's name"),
            ("unix:group:a:b", "a group's name"),
            ("unix:path:relative", "the whole path"),
            ("unix:path:/usr/../bin/x", "the whole path"),
            ("unix:path:/usr/bin/", "the whole path"),
            ("unix:path:/usr/bin/x (deleted)", "the whole path"),
            ("unix:sha256:zz", "64 hexadecimal digits in lower case"),
            ("systemd:id:meter", "a unit with its suffix"),
            ("systemd:id:system.slice", "a unit with its suffix"),
            ("systemd:invocation_id:abc", "32 hexadecimal digits"),
            ("docker:id:abc", "a container's whole id"),
            ("k8s:pod-uid:abc", "a pod's uid"),
            ("oidc:iss:id.example", "the issuer"),
            ("oidc:sub:nohash", "issuer#subject"),
            ("oidc:sub:https://id.example#", "issuer#subject"),
            ("spiffe:id:acme", "a SPIFFE ID with a path"),
            ("spiffe:id:spiffe://acme", "a SPIFFE ID with a path"),
        ] {
            let told = form(selector).expect_err(selector);
            assert!(told.contains(&format!("{selector:?}")) && told.contains(expected), "{told}");
            assert_eq!(executor(selector), Err(told));
        }
        let upper = format!("docker:id:{}", ID.to_uppercase());
        assert!(form(&upper).is_err());
    }

    #[test]
    fn an_executor_is_told_by_what_the_kernel_attests_of_no_planner() {
        for selector in ["oidc:iss:https://id.example", "oidc:sub:https://id.example#ann", "spiffe:id:spiffe://acme/p"]
        {
            assert_eq!(form(selector), Ok(()));
            assert!(executor(selector).unwrap_err().contains("proved by a document"), "{selector}");
        }
        for selector in
            ["unix:gid:1", "unix:group:ops", "unix:supplementary_gid:20", "unix:supplementary_group:dialout"]
        {
            assert_eq!(form(selector), Ok(()));
            assert!(executor(selector).unwrap_err().contains("a planner that is in the group"), "{selector}");
        }
        for selector in ["unix:uid:0", "unix:user:meter", "unix:path:/usr/bin/a b", "systemd:id:getty@tty1.service"] {
            assert_eq!(executor(selector), Ok(()), "{selector}");
        }
        for engine in ["docker:id", "podman:id", "containerd:id", "crio:id", "k8s:container-id", "unix:sha256"] {
            assert_eq!(executor(&format!("{engine}:{ID}")), Ok(()), "{engine}");
        }
        for uid in ["7b6f8f4e-9d0a-4c1e-8b7a-2f3d4e5c6b7a", "7b6f8f4e9d0a4c1e8b7a2f3d4e5c6b7a"] {
            assert_eq!(executor(&format!("k8s:pod-uid:{uid}")), Ok(()), "{uid}");
        }
    }
}
