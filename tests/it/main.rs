//! Integration tests, one crate: each module drives a part as its users do.

mod parsers;
mod samples;
//! Tests of the parts together, with real servers, sockets and disks.
#![expect(missing_docs, reason = "tests say what they check in their names")]

mod mqtt;
mod support;
