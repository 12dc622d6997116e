//! The wire level: the same world, in which bytes of MQTT 5 go over the links, and the store that ships is on a disk.
//!
//! Owns: what takes the place of the model's links and disks.
//! Never: is part of a build without the feature `wire`; decides what the broker gives to whom, or how hostile it is: that
//! stays with `broker.rs`. Reads a clock: `MqttState` notes when it last heard something, and nothing here asks it.
//! Read next: `links.rs`, `client.rs`, `server.rs`; `disks.rs`, `image.rs`.
//!
//! Real: the client's state machine and codec, both of rumqttc as it ships, driven as `hardtack::shell::mqtt` drives them;
//! the bytes of every packet, in pieces as TCP may hand them on; packet ids, acknowledgements, windows; what a start finds,
//! what is loaded for sending, what a cut leaves of a commit; syncs that fail, in the store that ships; what a drive that
//! lied has forgotten, slots that rot and rows that somebody wrote over, in its files; that a folder of a newer format is
//! refused and left as it is.
//! Still modelled: when an end notices that a connection is dead (no PINGREQ is sent; the keep-alive runs out when the
//! model says so), TLS, the connection between broker and service, how full a disk is (a modelled one holds a record in a
//! tenth of what a real one takes for it, and scenarios count on that), what a twin starts from.

mod client;
mod disks;
mod image;
mod links;
mod server;

#[cfg(test)]
mod tests;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::mqttbytes::Error;
use tempfile::TempDir;

use crate::world::World;

/// A world at this level.
///
/// # Panics
/// When there is no temporary folder to be had.
pub(crate) fn equip(mut world: World<'_>) -> World<'_> {
    let place = Rc::new(place().expect("a temporary folder for the gateways' disks"));
    for (number, device) in (0..).zip(&mut world.devices) {
        let limits = device.profile().queue.clone();
        device.real = Some(Box::new(disks::Store::new(place.clone(), world.seed, number, limits)));
    }
    let link = &world.scenario.profile.link;
    let names = world.devices.iter().map(|device| device.name.to_string()).collect();
    world.links = Some(Box::new(links::Wire::new(world.seed, names, link.keepalive_s)));
    world
}

/// Where the disks are: in memory where nobody says otherwise, for nothing here outlives the run.
fn place() -> std::io::Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix("hardtack-sim-").permissions(Permissions::from_mode(0o700));
    match std::env::var_os("TMPDIR") {
        None if memory.is_dir() => builder.tempdir_in(memory),
        None | Some(_) => builder.tempdir(),
    }
}

/// The next packet of what arrived, if all of it did.
fn next_packet(buffer: &mut BytesMut, bytes_max: u32) -> Result<Option<Packet>, Error> {
    match Packet::read(buffer, Some(bytes_max)) {
        Ok(packet) => Ok(Some(packet)),
        Err(Error::InsufficientBytes(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The bytes of a packet.
fn bytes_of(packet: &Packet) -> Result<Vec<u8>, Error> {
    let mut bytes = BytesMut::new();
    packet.write(&mut bytes, None)?;
    Ok(bytes.to_vec())
}
