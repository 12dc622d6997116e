//! Announcements, snapshots and a feed's file, signed as they must be, that hold whatever the fuzzer likes.
#![no_main]
#![allow(dead_code, reason = "the module is shared with the property tests, which use all of it")]

use std::sync::LazyLock;

#[path = "../../it/hostile_feed.rs"]
mod hostile_feed;

static HISTORY: LazyLock<hostile_feed::History> = LazyLock::new(hostile_feed::History::new);

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile_feed::signed(&HISTORY, data));
