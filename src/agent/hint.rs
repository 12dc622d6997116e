//! What is missing, where a task is refused for who asks for it.
//!
//! Owns: the sentence that names the grant or the selector that would do.
//! Never: decides, or tells more of a grant than who may begin what.
//! Read next: `attest.rs`, `tasks.rs`.

use super::request::BeginTask;
use super::{shorten, Agent};

/// The most selectors or classes that a hint names.
const NAMED_MAX: usize = 3;
/// The most bytes of it.
const BYTES_MAX: usize = 512;

impl Agent {
    /// Why no grant lets a caller begin a task.
    pub(super) fn hint(&self, begin: &BeginTask, seen: &[String]) -> String {
        let class = begin.task.as_str();
        let grants: Vec<_> = self.wallet.grants().collect();
        let may = |named: &str| grants.iter().flat_map(|(_, grant)| &grant.claims.may_begin).any(|(_, c)| c == named);
        if grants.is_empty() {
            return "have the operator make a grant with `hardtack fleet grant create`: this device holds none".into();
        }
        if !may(class) {
            let hint = format!(
                "begin a class that a grant is for, as `hardtack whoami` lists them: none here is for {class:?}"
            );
            return shorten(&hint, BYTES_MAX);
        }
        let begins = |grant: &super::wallet::Grant| grant.may_begin(seen, &begin.task).is_some();
        let hint = match grants.iter().find(|(_, grant)| begins(grant)) {
            Some((id, _)) => format!(
                "ask for fewer rights, or have the operator add --right to the grant: {id} lets you begin class {class:?}, \
                 but no grant that does covers every right that is asked for"
            ),
            None => {
                let named = grants.iter().flat_map(|(_, grant)| &grant.claims.may_begin);
                let mut may: Vec<&str> = named.filter(|(_, of)| of == class).map(|(may, _)| may.as_str()).collect();
                may.sort_unstable();
                may.dedup();
                let more = if may.len() > NAMED_MAX { " and others" } else { "" };
                let unread = unread(&may, seen).map(|why| format!("; {why}")).unwrap_or_default();
                may.truncate(NAMED_MAX);
                format!(
                    "be one of those who may begin class {class:?}, {}{more}, or have the operator add --may-begin: none of \
                     these was seen{unread}",
                    may.join(", ")
                )
            }
        };
        shorten(&hint, BYTES_MAX)
    }
}

/// A kind of selector that a grant names and that could not be read of the caller at all.
fn unread(may: &[&str], seen: &[String]) -> Option<&'static str> {
    let asks = |kind: &str| {
        let named = may.iter().any(|selector| selector.starts_with(kind));
        named && !seen.iter().any(|selector| selector.starts_with(kind))
    };
    if asks("unix:path:") {
        Some("your program's path could not be read: the agent needs CAP_SYS_PTRACE for that, and the path must name the same file for it")
    } else if asks("unix:sha256:") {
        Some("your program's hash was not read: that needs `[attest] sha256 = true` in agent.toml, and CAP_SYS_PTRACE")
    } else if asks("systemd:id:") {
        Some("you are in no systemd unit that the agent can see")
    } else if asks("docker:") || asks("podman:") || asks("containerd:") || asks("crio:") || asks("k8s:") {
        Some("you are in no container that the agent can see")
    } else {
        None
    }
}
