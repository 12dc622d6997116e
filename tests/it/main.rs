//! Integration tests, one crate: each module drives a part as its users do, with real servers, sockets and disks.

mod broker;
mod mqtt;
mod parsers;
mod samples;
mod support;
