//! The proxy that holds legacy secrets: a process of its own, under a user of its own.
//!
//! Owns: what makes the process hard to look into.
//! Never: gives out a value: it goes into a request to its upstream, and nowhere else.
//! Read next: `secrets/serve.rs` for the way of a request, `secrets/vault.rs` for what lies on the disk.

pub mod flow;
pub mod guard;
pub mod serve;
pub mod upstream;
pub mod vault;

use std::io;

use rustix::process::{set_dumpable_behavior, setrlimit, DumpableBehavior, Resource, Rlimit};

/// Closes this process to others of its user, and writes no core file.
///
/// # Errors
/// Those of the kernel.
pub fn harden() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    // From here on `/proc/PID/mem` and the like are root's, and nobody of the same user may trace this process.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
