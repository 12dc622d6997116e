//! Identity documents, signed as they must be, whose header and claims hold anything: the header ends at the first line's end.
#![no_main]
#![allow(dead_code, reason = "the modules are shared with the property tests, which use all of them")]

use std::sync::LazyLock;

#[path = "../../it/hostile.rs"]
mod hostile;
#[path = "../../it/samples.rs"]
mod samples;

static BELIEVED: LazyLock<hostile::Believed> = LazyLock::new(hostile::Believed::new);

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    BELIEVED.documents(&data[..end], data.get(end + 1..).unwrap_or_default());
});
