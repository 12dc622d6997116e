//! Integration tests, one crate: each module drives a part as its users do.

mod broker;
mod mqtt;
mod parsers;
mod samples;
mod support;
