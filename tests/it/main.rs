//! Integration tests, one crate: each module drives a part as its users do, with real servers, sockets and disks.

// The attribute tells clippy that helpers are test code as well.
#[cfg(test)]
mod api;
#[cfg(test)]
mod broker;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod mqtt;
#[cfg(test)]
mod parsers;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod support;
