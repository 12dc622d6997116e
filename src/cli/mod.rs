//! The command line: prints, never decides.
//!
//! Owns: the subcommands, their arguments and what they print. Data goes to stdout, talk to stderr.
//! Never: decides anything that the agent or the fleet core decides.
//! Read next: `exit.rs`.

#[cfg(feature = "fleet")]
pub mod broker;
pub mod exit;
pub mod profile;

pub use exit::{Exit, Failure};
