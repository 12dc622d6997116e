//! Integration tests, one crate: each module drives a part as its users do, with real servers, sockets and disks.

// The attribute tells clippy that helpers are test code as well.
#[cfg(test)]
mod store;
