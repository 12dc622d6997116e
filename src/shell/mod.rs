//! I/O, thin: it carries out what the core decided and decides nothing.
//!
//! Owns: the world: clock, disk, network, sockets, keys on disk.
//! Never: decides. If a line here needs a rule, the rule belongs into the core.
//! Read next: `run.rs`, the one loop.

#[cfg(feature = "fleet")]
pub mod broker;
#[cfg(feature = "demo")]
pub mod cast;
pub mod client;
pub mod clock;
#[cfg(feature = "demo")]
pub mod embedded;
#[cfg(feature = "fleet")]
pub mod emergency;
pub mod entropy;
pub mod files;
#[cfg(feature = "fleet")]
pub mod fleet_dir;
#[cfg(feature = "fleet")]
pub mod fleet_keys;
#[cfg(feature = "fleet")]
pub mod fleet_lock;
#[cfg(feature = "agent")]
pub mod foresee;
#[cfg(feature = "agent")]
pub mod holders;
#[cfg(feature = "agent")]
pub mod http;
#[cfg(feature = "agent")]
pub mod inbox;
#[cfg(feature = "fleet")]
pub mod kept;
pub mod keys;
#[cfg(feature = "fleet")]
pub mod ledger;
pub mod log;
#[cfg(feature = "agent")]
pub mod mcp;
#[cfg(feature = "agent")]
pub mod metrics;
pub mod mqtt;
#[cfg(feature = "agent")]
pub mod peer;
#[cfg(feature = "fleet")]
pub mod place;
pub mod proc;
#[cfg(feature = "demo")]
pub mod proxy;
#[cfg(feature = "fleet")]
pub mod root_keys;
#[cfg(feature = "agent")]
pub mod run;
#[cfg(feature = "agent")]
pub mod secrets;
#[cfg(feature = "fleet")]
pub mod serve;
#[cfg(any(feature = "agent", feature = "fleet"))]
pub mod service;
pub mod sources;
#[cfg(feature = "agent")]
pub mod store;
#[cfg(all(feature = "agent", feature = "crash-points"))]
pub mod supply;
#[cfg(feature = "agent")]
pub mod tls;
#[cfg(feature = "agent")]
pub mod wrap;
#[cfg(feature = "fleet")]
pub mod x509;
