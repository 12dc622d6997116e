//! I/O, thin: it carries out what the core decided and decides nothing.
//!
//! Owns: the world: clock, disk, network, sockets, keys on disk.
//! Never: decides. If a line here needs a rule, the rule belongs into the core.

pub mod clock;
pub mod entropy;
pub mod files;
pub mod keys;
#[cfg(feature = "agent")]
pub mod store;
