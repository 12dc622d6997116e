//! Integration tests, one crate: each module drives a part as its users do, with real servers, sockets and disks.
#![allow(clippy::unwrap_used, reason = "what fails to unwrap fails the test")]
#![allow(clippy::print_stdout, reason = "a test that cannot run here says why")]
#![allow(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

mod api;
mod attest;
mod audit_aside;
mod audit_device;
mod audit_export;
mod audit_format;
mod audit_forms;
mod audit_operator;
mod audit_twins;
mod broker;
mod cli;
mod clock;
mod conformance;
mod crash;
mod crowd;
mod daemon;
mod denials;
mod emergency;
mod enforce;
mod faults;
mod fleet;
mod groups;
mod holders;
mod hostile;
mod hostile_broker;
mod hostile_feed;
mod identity;
mod interop;
mod keys;
mod kit;
mod loopback;
mod lost;
mod mcp;
mod mqtt;
mod parsers;
mod publisher;
mod rescue;
mod revocation;
mod revocations;
mod roots;
mod run;
mod samples;
mod secrets;
mod small_queue;
mod steps;
mod store;
mod story;
mod support;
mod threat_model;
