//! What the kernel says about whoever is at the other end of a unix socket.
//!
//! Owns: reading peer credentials and the program's path.
//! Never: believes what the peer says about itself, or decides what a selector is worth. `agent/attest.rs` does.
//! Read next: `agent/attest.rs`.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use tokio::net::UnixStream;

use crate::agent::request::{Evidence, Socket};

/// The longest program path that is taken over; a longer one counts as not readable.
const PATH_BYTES_MAX: usize = 1024;

/// What the kernel knows of the process that opened the connection.
///
/// # Errors
/// Those of `SO_PEERCRED`.
pub fn evidence(stream: &UnixStream, socket: Socket) -> io::Result<Evidence> {
    let credentials = stream.peer_cred()?;
    let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    let path = pid.and_then(|pid| program(pid, credentials.uid()));
    Ok(Evidence { socket, uid: credentials.uid(), gid: credentials.gid(), pid, path })
}

/// The path of a process's program, if it may be read. The process may be gone and its number another's by now: a
/// process of another user is never taken for it. The kernel gives `/proc/<pid>` of a process that may not be looked
/// into to root, which hides its path from us as well.
fn program(pid: u32, uid: u32) -> Option<String> {
    let folder = PathBuf::from(format!("/proc/{pid}"));
    let path = std::fs::read_link(folder.join("exe")).ok()?;
    let owner = std::fs::metadata(&folder).ok()?.uid();
    let text = path.into_os_string().into_string().ok()?;
    (owner == uid && text.len() <= PATH_BYTES_MAX).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_names_this_very_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let evidence = evidence(&one, Socket::Pep).unwrap();
        assert_eq!(evidence.pid, Some(std::process::id()));
        assert_eq!(evidence.uid, rustix::process::getuid().as_raw());
        assert_eq!(evidence.gid, rustix::process::getgid().as_raw());
        assert_eq!(evidence.path.map(PathBuf::from), std::env::current_exe().ok());
    }

    #[test]
    fn a_process_of_another_user_is_not_taken_for_the_peer() {
        let own = rustix::process::getuid().as_raw();
        assert!(program(std::process::id(), own).is_some());
        assert_eq!(program(std::process::id(), own + 1), None);
    }
}
