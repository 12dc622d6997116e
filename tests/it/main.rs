//! Integration tests, one crate: each module drives a part as its users do, with real servers, sockets and disks.
#![expect(missing_docs, reason = "tests say what they check in their names")]

// The attribute tells clippy that helpers are test code as well.
#[cfg(test)]
mod api;
#[cfg(test)]
mod cli;
mod mqtt;
mod parsers;
mod samples;
mod support;
