//! The enforcement points' API on loopback TCP, for proxies that speak no unix socket.
//!
//! Owns: who is at the other end of a loopback connection, as the kernel's table of sockets says; the guard of its requests.
//! Never: listens anywhere but on loopback; takes a header for who somebody is; serves a user whom the configuration does not
//! name.
//! Read next: `../http.rs`, which accepts.
//!
//! A unix socket's mode says who may connect. On loopback everybody may, so the configuration names users, and the kernel says
//! whose a connection is: the row of the connection's other end in `/proc/net/tcp` names the user who made that socket. As long
//! as this end is open nobody else can have the same pair of addresses. Of the process nothing is known, nor of its group.
//!
//! What arrives may still come from elsewhere: a browser on the gateway that was led here by a name (DNS rebinding), or a proxy
//! that forwards what it should not. So the `Host` must be this listener's own.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};

use axum::http::header::{HOST, ORIGIN};
use axum::http::HeaderMap;

use super::problem::HttpProblem;

/// The kernel's tables of TCP sockets in this network namespace. A socket of IPv6 may hold an address of IPv4.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// The most sockets that are looked at: far more than a gateway has.
const ROWS_MAX: usize = 200_000;
/// The state of a connection that neither end has closed. Of others the table no longer says whose they are.
const ESTABLISHED: &str = "01";

/// The user whose socket the other end of an open connection is; none if the kernel names nobody. It reads the whole table: not
/// for a thread that others wait for.
///
/// # Errors
/// Those of reading the table.
pub fn owner(own: SocketAddr, peer: SocketAddr) -> io::Result<Option<u32>> {
    for table in TABLES {
        let rows = match File::open(table) {
            Ok(file) => BufReader::new(file).lines(),
            // A kernel without IPv6 has one table.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if let Some(owner) = find(rows, own, peer)? {
            return Ok(Some(owner));
        }
    }
    Ok(None)
}

fn find(rows: impl Iterator<Item = io::Result<String>>, own: SocketAddr, peer: SocketAddr) -> io::Result<Option<u32>> {
    let ends = forms(peer).map(|peer| forms(own).map(|own| (peer.clone(), own)));
    for row in rows.take(ROWS_MAX) {
        let row = row?;
        let mut fields = row.split_ascii_whitespace().skip(1);
        let (local, remote, state) = (fields.next(), fields.next(), fields.next());
        let is_it = ends.iter().flatten().any(|(peer, own)| (local, remote) == (Some(peer), Some(own)));
        if !is_it || state != Some(ESTABLISHED) {
            continue;
        }
        // Queues, timer and retransmissions stand between; after the user the time-out and the inode, 0 of one that nobody holds.
        let (owner, inode) = (fields.nth(3), fields.nth(1));
        return Ok(owner.filter(|_| inode.is_some_and(|inode| inode != "0")).and_then(|owner| owner.parse().ok()));
    }
    Ok(None)
}

/// How the tables write an address: words of 32 bits as they lie in memory, in hexadecimal; one of IPv4 in both tables' ways.
fn forms(address: SocketAddr) -> [String; 2] {
    let words = |bytes: &[u8]| {
        let word = |chunk: &[u8]| chunk.try_into().map_or(0, u32::from_ne_bytes);
        bytes.chunks_exact(4).map(|chunk| format!("{:08X}", word(chunk))).collect::<String>()
    };
    let port = address.port();
    match address.ip() {
        IpAddr::V4(ip) => [words(&ip.octets()), words(&ip.to_ipv6_mapped().octets())],
        IpAddr::V6(ip) => [words(&ip.octets()), words(&ip.octets())],
    }
    .map(|ip| format!("{ip}:{port:04X}"))
}

/// Whether a request was meant for this listener, and not led here by a name or by a page in a browser.
///
/// # Errors
/// 403 with what is wrong.
pub fn guard(headers: &HeaderMap, own: SocketAddr, proxys: bool) -> Result<(), HttpProblem> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next().filter(|_| hosts.next().is_none()).and_then(|host| host.to_str().ok());
    let local = format!("localhost:{}", own.port());
    if !host.is_some_and(|host| host == own.to_string() || host.eq_ignore_ascii_case(&local)) {
        return Err(HttpProblem::wrong_host(own));
    }
    // A proxy hands on the headers of the request that it asks about, that of a page among them.
    if !proxys && headers.contains_key(ORIGIN) {
        return Err(HttpProblem::from_a_page());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";

    fn told(rows: &[&str], own: &str, peer: &str) -> Option<u32> {
        let rows = std::iter::once(&HEAD).chain(rows).map(|row| Ok((*row).to_owned()));
        find(rows, own.parse().unwrap(), peer.parse().unwrap()).unwrap()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_row_of_the_other_end_says_whose_it_is() {
        let (own, peer) = ("127.0.0.1:8190", "127.0.0.1:42000");
        let ours = "   0: 0100007F:1FFE 0100007F:A410 01 00000000:00000000 00:00000000 00000000   900        0 1111 1";
        let theirs =
            "   1: 0100007F:A410 0100007F:1FFE 01 00000000:00000000 00:00000000 00000000   990        0 2222 1";
        assert_eq!(told(&[ours, theirs], own, peer), Some(990));
        assert_eq!(told(&[ours], own, peer), None, "this end is not the other");
        assert_eq!(told(&[theirs], own, "127.0.0.1:42001"), None);
        assert_eq!(told(&[theirs], "127.0.0.2:8190", peer), None);
        for state in ["04", "05", "06", "08"] {
            let closing = theirs.replace(" 01 ", &format!(" {state} "));
            assert_eq!(told(&[&closing], own, peer), None, "state {state}: it may name user 0 for want of anybody");
        }
        let orphan = theirs.replace(" 2222 ", " 0 ");
        assert_eq!(told(&[&orphan], own, peer), None);
        let mapped = "   0: 0000000000000000FFFF00000100007F:A410 0000000000000000FFFF00000100007F:1FFE 01 \
                      00000000:00000000 00:00000000 00000000   991        0 3333 1";
        assert_eq!(told(&[mapped], own, peer), Some(991));
        let six = "   0: 00000000000000000000000001000000:A410 00000000000000000000000001000000:1FFE 01 \
                   00000000:00000000 00:00000000 00000000   992        0 4444 1";
        assert_eq!(told(&[six], "[::1]:8190", "[::1]:42000"), Some(992));
    }

    #[test]
    fn rows_that_make_no_sense_name_nobody() {
        for row in ["", "0:", "0: 0100007F:A410", "0: 0100007F:A410 0100007F:1FFE 01 a b c d e f g"] {
            assert_eq!(told(&[row], "127.0.0.1:8190", "127.0.0.1:42000"), None, "{row:?}");
        }
    }

    #[test]
    fn the_kernel_names_this_user_for_a_connection_of_this_process() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else {
                // Not every machine has IPv6.
                assert!(address.starts_with('['), "no loopback");
                continue;
            };
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let own = server.local_addr().unwrap();
            assert_eq!(owner(own, peer).unwrap(), Some(rustix::process::geteuid().as_raw()));
            drop(client);
            assert_eq!(owner(own, peer).unwrap(), None, "once it is closed the kernel names nobody");
        }
    }

    #[test]
    fn only_the_listeners_own_name_is_let_in() {
        let own: SocketAddr = "127.0.0.1:8190".parse().unwrap();
        let code = |pairs: &[(&str, &str)], proxys| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                let name: axum::http::HeaderName = name.parse().unwrap();
                headers.append(name, HeaderValue::from_str(value).unwrap());
            }
            guard(&headers, own, proxys).map_err(|problem| problem.code)
        };
        assert_eq!(code(&[("host", "127.0.0.1:8190")], false), Ok(()));
        assert_eq!(code(&[("host", "LocalHost:8190")], false), Ok(()));
        for host in ["attacker.example:8190", "127.0.0.1", "127.0.0.1:80", "localhost", "127.0.0.1:8190.evil", ""] {
            assert_eq!(code(&[("host", host)], false), Err("wrong_host"), "{host:?}");
        }
        assert_eq!(code(&[], false), Err("wrong_host"));
        assert_eq!(code(&[("host", "127.0.0.1:8190"), ("host", "127.0.0.1:8190")], false), Err("wrong_host"));
        let page = [("host", "127.0.0.1:8190"), ("origin", "https://hmi.local")];
        assert_eq!(code(&page, false), Err("cross_origin"));
        assert_eq!(code(&page, true), Ok(()), "a proxy hands it on");
    }
}
