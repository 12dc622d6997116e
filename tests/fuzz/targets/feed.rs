//! A device's feed hears anything that was ever said of it, by whomever, in any order, changed, between restarts.
#![no_main]
#![allow(dead_code, reason = "the module is shared with the property tests, which use all of it")]

use std::sync::LazyLock;

#[path = "../../it/hostile_feed.rs"]
mod hostile_feed;

static HISTORY: LazyLock<hostile_feed::History> = LazyLock::new(hostile_feed::History::new);

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile_feed::sequence(&HISTORY, data));
