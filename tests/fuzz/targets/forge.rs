//! Tokens and documents that nobody with a key made. None may pass for more than what was signed.
#![no_main]
#![allow(dead_code, reason = "the modules are shared with the property tests, which use all of them")]

#[path = "../../it/hostile.rs"]
mod hostile;
#[path = "../../it/samples.rs"]
mod samples;

use hardtack::wire::envelope::{Document, Signed};
use samples::World;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let world = World::new();
    if let Ok(verified) = world.admit(data) {
        let known = [world.grant(), world.task()].map(|token| world.admit(&token).map(|known| known.token.blocks));
        assert!(known.iter().any(|known| known.as_ref().is_ok_and(|blocks| *blocks == verified.token.blocks)));
    }
    check(&world, data, &world.trust);
    check(&world, data, &world.head());
    check(&world, data, &world.ack());
    check(&world, data, &world.answer());
});

fn check<T: Document + PartialEq>(world: &World, data: &[u8], signed: &T) {
    let key = world.fleet_key.verifying_key();
    if let Ok(opened) = Signed::<T>::from_bytes(data).and_then(|found| found.open(&world.fleet, [&key], 1)) {
        assert!(opened == *signed);
    }
}
