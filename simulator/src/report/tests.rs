//! The verdict, and whole runs as they are shown: bounds, escaping, shapes.

use super::*;


#[test]
fn vacuous_is_no_pass_and_fail_outweighs_it() {
    check_verdict(&[("I1", Status::Pass), ("I2", Status::Vacuous)], &["I1"], Status::Pass);
    check_verdict(&[("I1", Status::Pass), ("I2", Status::Vacuous)], &["I1", "I2"], Status::Vacuous);
    check_verdict(&[("I1", Status::Fail), ("I2", Status::Vacuous)], &["I2"], Status::Fail);
    check_verdict(&[("I1", Status::Fail)], &[], Status::Fail);
}

#[track_caller]
fn check_verdict(properties: &[(&'static str, Status)], require: &[&str], expected: Status) {
    let property =
        |(id, status): &(&'static str, Status)| Property { id, status: *status, checked: 1, witness: None };
    let report = Report {
        properties: properties.iter().map(property).collect(),
        require: require.iter().map(|id| (*id).to_owned()).collect(),
        ..empty("x", 1)
    };
    assert_eq!(report.verdict(), expected);
    let idle = Report { idle: vec!["suspend".into()], ..report };
    assert_eq!(idle.verdict(), if expected == Status::Fail { Status::Fail } else { Status::Vacuous });
}
