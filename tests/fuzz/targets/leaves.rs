//! Leaves of an audit segment, one after the other, each told against those before it.
#![no_main]
#![allow(dead_code, reason = "the modules are shared with the property tests, which use all of them")]

#[path = "../../it/hostile.rs"]
mod hostile;
#[path = "../../it/samples.rs"]
mod samples;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::leaves(data));
