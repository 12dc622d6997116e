//! An agent hears what a broker makes up: each message is a byte that picks the topic, two that say how long it is, and
//! the payload.
#![no_main]
#![allow(dead_code, reason = "the modules are shared with the property tests, which use all of them")]

#[path = "../../it/hostile.rs"]
mod hostile;
#[path = "../../it/samples.rs"]
mod samples;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut messages = Vec::new();
    let mut rest = data;
    while let [topic, low, high, tail @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
        let (payload, after) = tail.split_at(length);
        let topic = hostile::TOPICS[usize::from(*topic) % hostile::TOPICS.len()];
        messages.push((topic.to_owned(), payload.to_vec()));
        rest = after;
    }
    hostile::messages(&samples::World::new(), &messages, hostile::Pace::Flood);
});
