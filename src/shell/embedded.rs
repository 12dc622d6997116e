//! A broker inside this program, for the demo and for tests.
//!
//! Owns: [`run`], rumqttd with one MQTT 5 listener on the loopback interface.
//! Never: keeps anything across its end, encrypts, checks who may do what. Never in a build that is shipped: mosquitto,
//! as `hardtack broker config` sets it up, is what a fleet uses.
//! Read next: `mqtt/mod.rs`, its client.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};

use super::mqtt::LinkConfig;

/// A port of the loopback interface that nobody listens on.
///
/// # Errors
/// Those of binding one.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Runs a broker until the process ends. It is ready when it takes connections.
///
/// # Errors
/// When the port is taken, or the broker stops.
pub fn run(port: u16) -> io::Result<()> {
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    // rumqttd only logs that it cannot listen, and goes on without.
    drop(TcpListener::bind(listen)?);
    let connections = ConnectionSettings {
        connection_timeout_ms: 5000,
        max_payload_size: LinkConfig::PACKET_BYTES_MAX as usize,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings { name: "v5".into(), listen, tls: None, next_connection_delay_ms: 1, connections };
    let router = RouterConfig {
        max_connections: 1000,
        max_outgoing_packet_count: 200,
        max_segment_size: 8 * 1024 * 1024,
        max_segment_count: 4,
        ..RouterConfig::default()
    };
    let config = Config { router, v5: Some(HashMap::from([("v5".into(), server)])), ..Config::default() };
    Broker::new(config).start().map_err(io::Error::other)?;
    Err(io::Error::other("the embedded broker has stopped"))
}
