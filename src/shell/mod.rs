//! I/O, thin: it carries out what the core decided and decides nothing.
//!
//! Owns: the world: clock, disk, network, sockets, keys on disk.
//! Never: decides. If a line here needs a rule, the rule belongs into the core.

#[cfg(feature = "fleet")]
pub mod broker;
pub mod clock;
#[cfg(feature = "demo")]
pub mod embedded;
pub mod entropy;
pub mod mqtt;
#[cfg(feature = "demo")]
pub mod proxy;
pub mod sources;
#[cfg(feature = "fleet")]
pub mod x509;
