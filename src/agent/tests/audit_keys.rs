//! The audit key changes, whatever happens meanwhile, and the collector follows.

use std::collections::BTreeSet;

use super::super::effects::StateFile;
use super::super::rig::{Reboot, Rig};
use super::recovery::{check_accounted, decide, deliver, rig, Ids};
use crate::wire::audit::{Event, Record, TrustChange};

/// More than a key serves, with what is written meanwhile.
fn a_day_later(rig: &mut Rig, heard: &mut Ids) {
    rig.pass(90_000);
    decide(rig, 20, heard);
}

/// The records that announce a key: era and index.
fn announced(rig: &Rig) -> Vec<(u64, u64)> {
    let rows = rig.disk.eras.iter().flat_map(|(era, (records, _))| records.iter().map(move |row| (era, row)));
    let told = rows.filter(|(_, row)| {
        let event = Record::from_bytes(&row.bytes).unwrap().event;
        matches!(event, Event::Trust(TrustChange::AuditKey { .. }))
    });
    told.map(|(era, row)| (era.number, row.index)).collect()
}

/// Epochs that the collector has seen sign, at the end of each era.
fn epochs(rig: &Rig) -> BTreeSet<u64> {
    rig.signers.values().map(|signer| signer.epoch).collect()
}

#[test]
fn each_day_has_its_key_and_the_collector_follows_from_one_to_the_next() {
    let (mut rig, mut heard) = (rig(), Ids::new());
    let first = rig.disk.files[&StateFile::AuditKey].clone();
    for _ in 0..2 {
        a_day_later(&mut rig, &mut heard);
    }
    assert_eq!(announced(&rig).len(), 2);
    assert_ne!(rig.disk.files[&StateFile::AuditKey], first, "what signed before is forgotten");
    let epoch = rig.disk.anchor.as_ref().unwrap().audit_key.epoch;
    rig.restart(Reboot::Kernel);
    decide(&mut rig, 5, &mut heard);
    deliver(&mut rig, 180_200);
    assert_eq!(check_accounted(&rig, &heard), Ids::new());
    assert_eq!(rig.signers.values().next_back().unwrap().epoch, epoch, "a restart keeps the key");
}

#[test]
fn a_cut_between_the_new_key_and_the_record_that_announces_it_costs_nothing() {
    let (mut rig, mut heard) = (rig(), Ids::new());
    decide(&mut rig, 10, &mut heard);
    let (eras, anchor) = (rig.disk.eras.clone(), rig.disk.anchor.clone());
    rig.pass(90_000);
    assert_eq!(announced(&rig).len(), 1);
    // The file is written first.
    (rig.disk.eras, rig.disk.anchor) = (eras, anchor);
    rig.restart(Reboot::Kernel);
    decide(&mut rig, 10, &mut heard);
    deliver(&mut rig, 100_000);
    assert_eq!(check_accounted(&rig, &heard), Ids::new());
    assert_eq!(epochs(&rig).len(), 1, "the new key closed what the old one had left open");
}

#[test]
fn a_lost_key_is_replaced_by_a_later_one() {
    for anchored in [true, false] {
        let (mut rig, mut heard) = (rig(), Ids::new());
        a_day_later(&mut rig, &mut heard);
        deliver(&mut rig, 90_100);
        let before = epochs(&rig).into_iter().max().unwrap();
        rig.disk.files.remove(&StateFile::AuditKey);
        if !anchored {
            // As an anchor that knows nothing of it.
            rig.disk.anchor.as_mut().unwrap().audit_key.epoch = 0;
        }
        rig.pass(5);
        rig.restart(Reboot::Kernel);
        decide(&mut rig, 5, &mut heard);
        deliver(&mut rig, 90_200);
        assert_eq!(check_accounted(&rig, &heard), Ids::new());
        assert!(epochs(&rig).into_iter().max().unwrap() > before, "anchored: {anchored}");
    }
}

#[test]
fn an_end_that_is_lost_and_told_under_a_later_key_stops_nothing_after_it() {
    for lost_key in [false, true] {
        let (mut rig, mut heard) = (rig(), Ids::new());
        decide(&mut rig, 100, &mut heard);
        rig.disk.lose_records(1, |index| (20..25).contains(&index) || index > 95);
        rig.restart(Reboot::Kernel);
        decide(&mut rig, 80, &mut heard);
        a_day_later(&mut rig, &mut heard);
        rig.restart(Reboot::Kernel);
        decide(&mut rig, 10, &mut heard);
        if lost_key {
            rig.disk.files.remove(&StateFile::AuditKey);
            rig.disk.lose_records(2, |index| index == 30);
            rig.restart(Reboot::Kernel);
        }
        deliver(&mut rig, 180_200);
        let lost = check_accounted(&rig, &heard);
        assert!(lost.iter().all(|id| id.0 == 1 || (lost_key && *id == (2, 30))), "{lost:?}");
    }
}

#[test]
fn what_rots_around_a_change_of_keys_costs_no_more_than_itself() {
    for width in [0, 3, 40] {
        let (mut rig, mut heard) = (rig(), Ids::new());
        decide(&mut rig, 30, &mut heard);
        for _ in 0..2 {
            a_day_later(&mut rig, &mut heard);
            decide(&mut rig, 100, &mut heard);
        }
        rig.restart(Reboot::Kernel);
        let (era, index) = announced(&rig)[0];
        rig.disk.lose_records(era, |other| other.abs_diff(index) <= width);
        deliver(&mut rig, 200_000);
        let lost = check_accounted(&rig, &heard);
        assert!(lost.iter().all(|(of, other)| *of == era && other.abs_diff(index) <= width), "{width}: {lost:?}");
    }
}
