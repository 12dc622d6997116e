//! Integration tests, one crate: each module drives a part as its users do.

mod parsers;
mod samples;
//! Tests of the parts together, with real servers, sockets and disks.

mod mqtt;
mod support;
