//! Which socket is at the other end of one of ours, as the kernel's socket diagnosis tells it. For kernels before 6.5, which
//! give no pidfd of a peer.
//!
//! Owns: one question and one answer in netlink's form, `sock_diag(7)`.
//! Never: is asked where the kernel gives a pidfd.
//! Read next: `../peer.rs`.

use std::io;

use rustix::net::{netlink, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `SOCK_DIAG_BY_FAMILY`, the type of question and answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `UDIAG_SHOW_PEER`.
const SHOW_PEER: u32 = 4;
/// `UNIX_DIAG_PEER`, the attribute that is asked for.
const PEER: u16 = 2;
/// Bytes of the header of a netlink message, and of a `unix_diag_msg`.
const HEADER: usize = 16;

/// The inode of the socket that a connected unix socket, named by its inode, is connected to.
///
/// # Errors
/// When the kernel cannot say.
pub(super) fn peer_of(inode: u64) -> io::Result<u64> {
    let number = u32::try_from(inode).map_err(io::Error::other)?;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    rustix::net::send(&socket, &question(number), SendFlags::empty())?;
    // The kernel answers before it returns from the question.
    let mut buffer = [0; 4096];
    let (_, bytes) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
    answer(buffer.get(..bytes).unwrap_or_default(), number)
        .map(u64::from)
        .ok_or_else(|| io::Error::other("the kernel's socket diagnosis says nothing of this socket"))
}

/// A `nlmsghdr` and a `unix_diag_req`.
fn question(inode: u32) -> Vec<u8> {
    let family = u32::from(AddressFamily::UNIX.as_raw());
    let any_state = u32::MAX;
    // The cookie is not compared where all its bits are set.
    let asked = [family, any_state, inode, SHOW_PEER, u32::MAX, u32::MAX];
    let length = u32::try_from(HEADER + asked.len() * 4).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(REQUEST.to_ne_bytes());
    bytes.extend([0; 8]);
    // The family is one byte, and the three behind it are zero: the same as a little number in a little-endian word.
    bytes.extend(family.to_le_bytes());
    bytes.extend(asked[1..].iter().flat_map(|word| word.to_ne_bytes()));
    bytes
}

/// The peer in an answer about a socket.
fn answer(bytes: &[u8], inode: u32) -> Option<u32> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let half = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let end = (word(0)? as usize).min(bytes.len());
    if half(4)? != BY_FAMILY || word(HEADER + 4)? != inode {
        return None;
    }
    let mut at = HEADER * 2;
    while at + 4 <= end {
        let (length, kind) = (usize::from(half(at)?), half(at + 2)?);
        if length < 4 {
            return None;
        }
        if kind == PEER {
            return (length == 8 && at + 8 <= end).then(|| word(at + 4))?.filter(|peer| *peer != 0);
        }
        at += length.next_multiple_of(4);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::complete::cannot_run;
    use std::os::unix::net::UnixStream;

    #[test]
    fn the_kernel_names_the_other_end() {
        let (one, other) = UnixStream::pair().unwrap();
        let inode = |stream: &UnixStream| rustix::fs::fstat(stream).unwrap().st_ino;
        match peer_of(inode(&one)) {
            Ok(peer) => assert_eq!(peer, inode(&other)),
            Err(error) => cannot_run(&format!("this kernel has no socket diagnosis for unix sockets: {error}")),
        }
        assert!(peer_of(u64::from(u32::MAX) + 1).is_err());
    }

    #[test]
    fn what_is_no_answer_says_nothing() {
        let mut whole = 40u32.to_ne_bytes().to_vec();
        whole.extend(BY_FAMILY.to_ne_bytes());
        whole.extend([0; 10]);
        whole.extend([1, 1, 1, 0]);
        whole.extend(7u32.to_ne_bytes());
        whole.extend([0; 8]);
        whole.extend(8u16.to_ne_bytes());
        whole.extend(PEER.to_ne_bytes());
        whole.extend(99u32.to_ne_bytes());
        assert_eq!(answer(&whole, 7), Some(99));
        assert_eq!(answer(&whole, 8), None);
        for cut in 0..whole.len() {
            assert_eq!(answer(&whole[..cut], 7), None, "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0xff;
            // Whatever it says, it does not panic.
            let _ = answer(&broken, 7);
        }
    }
}
