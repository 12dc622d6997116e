//! Every reader of revocation sets: what it takes has one form, and is what it says. None may panic.
#![no_main]
#![allow(dead_code, reason = "the modules are shared with the property tests, which use all of them")]

#[path = "../../it/hostile.rs"]
mod hostile;
#[path = "../../it/samples.rs"]
mod samples;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::revocation_sets(data));
