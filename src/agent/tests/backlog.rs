//! A backlog is drained without keeping what happens now waiting.

use super::super::audit::{Acknowledged, Closing, Trail};
use super::super::audit_key::{AuditSigner, Owner};
use super::super::effects::{Batch, Entry};
use super::recovery::{check_accounted, decide, rig, Ids};
use super::*;
use crate::ids::{BootId, EraId, Hash};
use crate::wire::audit::{Event, Start};
use crate::wire::enrol::DeviceKeys;
use crate::wire::link::EraAck;
use rand_core::SeedableRng;

fn era(number: u64) -> EraId {
    EraId { number, salt: 7 }
}

fn trail() -> Trail {
    let mut rng = rand_chacha::ChaCha20Rng::from_seed([3; 32]);
    let keys = DeviceKeys::generate(&mut rng);
    let (fleet, device): (crate::ids::FleetId, crate::ids::DeviceId) = ("acme".parse().unwrap(), "gw".parse().unwrap());
    let owner = Owner { fleet: &fleet, device: &device, identity: &keys.identity };
    let signer = AuditSigner::generate(0, owner, Timestamp(1), &mut rng);
    Trail::begin(fleet.clone(), device.clone(), signer, era(1))
}

/// Writes and closes so many segments of one record each. Returns the heads after each.
fn close(trail: &mut Trail, count: u64) -> Vec<Hash> {
    let closing = Closing { floor: Timestamp(1), feeds: &[] };
    let mut batch = Batch::default();
    for _ in 0..count {
        let start =
            Start { boot: BootId([0; 16]), boots: 0, previous: None, heartbeat: Millis(0), version: "0".into() };
        let times = (Timestamp(1), Timestamp(1));
        trail.record(Event::Start(Box::new(start)), Vec::new(), times, Millis(0), &closing, &mut batch);
        trail.close(&closing, &mut batch);
    }
    let head = |entry: &Entry| match entry {
        Entry::Segment(segment) => Some(segment.head),
        Entry::Record(_) => None,
    };
    batch.entries.iter().filter_map(head).collect()
}

#[test]
fn every_fourth_segment_is_a_new_one_whatever_the_window() {
    for window in [1, 3, 8] {
        let mut trail = trail();
        let heads = close(&mut trail, 80);
        assert!(trail.is_backlog());
        trail.roll(era(2), &mut Batch::default());
        assert!(!trail.is_backlog(), "what comes now goes before it");
        let new = close(&mut trail, 20);
        let (mut sent, mut batch) = (Vec::new(), Batch::default());
        while sent.len() < 40 {
            for (of, segment) in trail.take(window, Millis(sent.len() as u64)) {
                sent.push(of.number);
                let head = if of == era(1) { heads[segment as usize] } else { new[segment as usize] };
                let ack = EraAck { era: of, next_segment: segment + 1, next_index: segment + 1, head };
                trail.know(of, segment + 1, head);
                assert_eq!(trail.acknowledge(&ack, &mut batch), Ok(Acknowledged::Released(segment)));
            }
        }
        let share = sent.iter().filter(|number| **number == 2).count();
        assert!((9..=11).contains(&share), "{share} of {} with a window of {window}", sent.len());
    }
}

#[test]
fn what_is_on_its_way_or_behind_a_hole_is_not_taken() {
    let mut trail = trail();
    close(&mut trail, 6);
    trail.roll(era(2), &mut Batch::default());
    assert_eq!(trail.take(2, Millis(0)), [(era(1), 0), (era(1), 1)]);
    assert!(trail.hole(era(1), 3).is_none(), "the collector does not wait for it yet");
    assert_eq!(trail.take(8, Millis(0)), [(era(1), 2)], "nothing from the hole on");
    trail.ground();
    assert_eq!(trail.take(8, Millis(0)), [(era(1), 0), (era(1), 1), (era(1), 2)]);
}

#[test]
fn an_hour_sends_what_its_bytes_hold_and_the_rest_waits_for_the_next() {
    let (mut rig, mut heard) = (rig(), Ids::new());
    let link = &mut rig.profile.link;
    (link.kib_per_hour, link.window, link.hello_s) = (4, 1, 3600);
    rig.restart(Reboot::Process);
    decide(&mut rig, 1500, &mut heard);
    rig.connect(Timestamp(0));
    let mut by_hour = Vec::new();
    for _ in 0..12 {
        for _ in 0..12 {
            rig.pass(300);
            rig.serve(Timestamp(0));
        }
        by_hour.push(rig.collected.len());
    }
    // Some 600 bytes for 64 records that are much alike. The first of these hours lies in two of the device's own.
    assert!((64..=800).contains(&by_hour[0]), "{by_hour:?}");
    assert!(by_hour.windows(2).take(2).all(|hours| (64..=400).contains(&(hours[1] - hours[0]))), "{by_hour:?}");
    assert_eq!(check_accounted(&rig, &heard), Ids::new(), "{by_hour:?}");
}
