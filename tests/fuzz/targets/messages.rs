//! Messages and streams of a proxy for tools. What passes is what was read.
#![no_main]
#![allow(dead_code, reason = "the modules are shared with the property tests, which use all of them")]

#[path = "../../it/hostile.rs"]
mod hostile;
#[path = "../../it/samples.rs"]
mod samples;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    hostile::tool_messages(data);
    hostile::events(data, 1 + data.len() / 3);
});
