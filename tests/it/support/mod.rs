//! Servers that tests start.

pub(crate) mod mosquitto;
