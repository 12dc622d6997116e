//! Legacy secrets: what a proxy needs to know that holds long-lived keys for programs which never see them. Pure.
//!
//! Owns: what an entry says ([`entry`]), how a secret is found in an answer ([`echo`]), what was used when ([`uses`]), who
//! still needs which ([`report`]).
//! Never: reads a file, opens a connection, or knows what a token allows: the agent is asked.
//! Read next: `entry.rs`, then `../shell/secrets.rs`.

pub mod echo;
pub mod entry;
pub mod report;
pub mod uses;
