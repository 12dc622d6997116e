//! Hardtack: an agent runtime for devices that lose their network.
//!
//! The map, in reading order:
//!
//! - [`ids`] and [`time`]: names, digests, points in time.
//! - [`wire`]: what both sides sign and send. Pure.
//! - `agent`: the device's decisions. Pure: inputs, time and randomness come in, effects go out.
//! - `fleet`: the operator's decisions. Pure.
//! - `mcp` (feature `agent`): what agents and their tools say to one another, as questions. Pure.
//! - [`secrets`]: what a proxy needs to know that holds long-lived keys of others. Pure.
//! - `shell` (feature `shell`): all I/O, thin.
//! - `cli` (feature `shell`): the command line; prints, never decides.
//!
//! A request flows one way: bytes, parse, attest, verify signatures, revocation, time, counters, Datalog, record,
//! commit, reply. A link event flows one way: packet, parse, verify signature, state, batch, commit.

#![cfg_attr(test, expect(clippy::wildcard_enum_match_arm, reason = "a test names the case it is about"))]

pub mod agent;
#[cfg(feature = "shell")]
pub mod cli;
#[cfg(feature = "agent")]
#[cfg(test)]
#[path = "../tests/it/support/complete.rs"]
mod complete;
pub mod config;
pub mod fleet;
pub mod ids;
pub mod mcp;
pub mod mutant;
pub mod profile;
pub mod secrets;
#[cfg(feature = "shell")]
pub mod shell;
pub mod time;
pub mod wire;
