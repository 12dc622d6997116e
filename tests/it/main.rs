//! Integration tests, one crate: each module drives a part as its users do, with real servers, sockets and disks.
#![cfg(test)]
#![expect(missing_docs, reason = "tests say what they check in their names")]

mod api;
mod broker;
mod cli;
mod daemon;
mod mqtt;
mod parsers;
mod samples;
mod support;
