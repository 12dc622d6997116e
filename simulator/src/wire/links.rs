//! Both ends of every connection, and how what they write is cut into pieces.
//!
//! Owns: which ends there are.
//! Never: holds anything back or swaps it: `network.rs` says what arrives when.
//! Read next: `client.rs`, `server.rs`.

use std::collections::BTreeMap;

use hardtack::shell::mqtt::LinkConfig;
use rand_chacha::ChaCha8Rng;

use super::client::Client;
use super::server::Server;
use crate::fault::WireTrick;
use crate::level::{Does, Links};
use crate::network::{ConnId, End, Packet};
use crate::random::{below, stream};

/// The most pieces that what is written at once arrives in.
const PIECES_MAX: u64 = 3;

/// All ends.
pub(super) struct Wire {
    seed: u64,
    names: Vec<String>,
    keepalive_s: u64,
    clients: BTreeMap<ConnId, (Client, ChaCha8Rng)>,
    servers: BTreeMap<ConnId, (Server, ChaCha8Rng)>,
}

impl Wire {
    pub(super) fn new(seed: u64, names: Vec<String>, keepalive_s: u64) -> Self {
        Self { seed, names, keepalive_s, clients: BTreeMap::new(), servers: BTreeMap::new() }
    }
}

impl Links for Wire {
    fn bytes_max(&self) -> usize {
        LinkConfig::PACKET_BYTES_MAX as usize
    }

    fn open(&mut self, conn: ConnId, device: u32) {
        let name = self.names.get(device as usize).cloned().unwrap_or_default();
        let pieces = |end: &str| stream(self.seed, &format!("conn-{conn}"), end);
        self.clients.insert(conn, (Client::new(name, self.keepalive_s), pieces("client")));
        self.servers.insert(conn, (Server::default(), pieces("server")));
    }

    fn send(&mut self, conn: ConnId, from: End, packet: Packet) -> Does {
        match from {
            End::Broker => self.servers.get_mut(&conn).map(|(end, rng)| in_pieces(end.send(packet), rng)),
            End::Device => self.clients.get_mut(&conn).map(|(end, rng)| in_pieces(end.send(packet), rng)),
        }
        .unwrap_or_default()
    }

    fn receive(&mut self, conn: ConnId, at: End, bytes: &[u8]) -> Does {
        match at {
            End::Broker => self.servers.get_mut(&conn).map(|(end, rng)| in_pieces(end.receive(bytes), rng)),
            End::Device => self.clients.get_mut(&conn).map(|(end, rng)| in_pieces(end.receive(bytes), rng)),
        }
        .unwrap_or_default()
    }

    fn trick(&mut self, conn: ConnId, trick: WireTrick, pick: u64) -> Option<Does> {
        let (end, rng) = self.servers.get_mut(&conn)?;
        Some(in_pieces(end.trick(trick, pick)?, rng))
    }

    fn waits_after(&self, conn: ConnId) -> Option<u64> {
        self.clients.get(&conn).and_then(|(end, _)| end.waits_after())
    }

    fn closed(&mut self, conn: ConnId, end: End) {
        match end {
            End::Broker => drop(self.servers.remove(&conn)),
            End::Device => drop(self.clients.remove(&conn)),
        }
    }
}

/// What is written at once arrives in one piece or in several, wherever it is cut.
fn in_pieces(mut does: Does, rng: &mut ChaCha8Rng) -> Does {
    if does.writes.is_empty() {
        return does;
    }
    let mut bytes: Vec<u8> = does.writes.concat();
    let mut writes = Vec::new();
    for left in (1..=below(rng, PIECES_MAX) + 1).rev() {
        let cut = if left == 1 { bytes.len() } else { below(rng, bytes.len() as u64 + 1) as usize };
        let rest = bytes.split_off(cut);
        writes.push(std::mem::replace(&mut bytes, rest));
    }
    writes.retain(|piece| !piece.is_empty());
    does.writes = writes;
    does
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_what_was_written_wherever_it_is_cut() {
        let mut rng = stream(1, "conn-1", "client");
        let (mut counts, all) = ([0; PIECES_MAX as usize + 1], b"what was written");
        for _ in 0..200 {
            let writes = vec![all[..5].to_vec(), all[5..].to_vec()];
            let cut = in_pieces(Does { writes, ..Does::default() }, &mut rng).writes;
            assert_eq!(cut.concat(), all);
            counts[cut.len()] += 1;
        }
        assert!(counts[0] == 0 && counts[1..].iter().all(|count| *count > 20), "{counts:?}");
    }
}
