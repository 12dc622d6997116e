//! Tests of the parts together, with real servers, sockets and disks.
#![expect(missing_docs, reason = "tests say what they check in their names")]

mod mqtt;
mod support;
