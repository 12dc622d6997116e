//! What a stranger seals to a device. It is refused, or it is what would be sealed again.
#![no_main]
#![allow(dead_code, reason = "the modules are shared with the property tests, which use all of them")]

#[path = "../../it/hostile.rs"]
mod hostile;
#[path = "../../it/samples.rs"]
mod samples;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::sealed(&samples::World::new(), data));
