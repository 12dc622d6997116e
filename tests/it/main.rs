//! Integration tests, one crate: each module drives a part as its users do.

mod parsers;
mod samples;
