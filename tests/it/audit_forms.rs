//! Exports in the forms of others, read by libraries of others: `tests/interop/audit_forms.py`.

use std::path::Path;
use std::process::Command;

use hardtack::cli::audit::export::{lines, Form, Numbering};
use serde_json::{json, Map, Value};

use crate::audit_format::{acme, chain, sign, stored, verifier, NOW};
use crate::support::{cannot_run, python};

/// What the other libraries read of a file: id, kind, time in milliseconds and signed bytes of each record. None where they are
/// not here: `tests/run` installs them.
pub(crate) fn read_elsewhere(form: &str, file: &Path) -> Option<Vec<Value>> {
    let python = python();
    let libraries = "import cloudevents, jsonschema, ocsf_json_schema, opentelemetry.proto";
    let has_them = Command::new(&python).args(["-c", libraries]).output().is_ok_and(|output| output.status.success());
    if !has_them {
        cannot_run("the Python libraries of CloudEvents, OCSF and OpenTelemetry are not here: tests/run installs them");
        return None;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/audit_forms.py");
    let output = Command::new(python).args([script, form]).arg(file).output().unwrap();
    assert!(output.status.success(), "{form}: {}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

/// Every kind of record that there is, with times and numbers at the ends of their ranges among them, in one form.
fn every_kind(form: Form) -> Vec<Map<String, Value>> {
    let mut verifier = verifier();
    let all = chain().into_iter().flat_map(|(header, leaves, epoch)| {
        let segment = stored(&sign(&header, epoch), &leaves);
        let checked = verifier.segment(segment.clone()).expect("our own");
        lines(form, &acme(), &segment, &checked, Numbering::Own)
    });
    all.collect()
}

#[test]
fn every_kind_of_record_is_read_by_the_libraries_of_each_form() {
    let folder = tempfile::tempdir().unwrap();
    let plain = every_kind(Form::Jsonl);
    for kind in ["decision", "gap", "grant", "lost", "mode", "refused", "start", "task", "trust"] {
        assert!(plain.iter().any(|line| line["kind"] == kind), "no {kind}");
    }
    let expected = |line: &Map<String, Value>| {
        let lost = || json!(format!("gw-07/{}/lost-{}", line["era"], line["segment"]));
        let id = line.get("id").cloned().unwrap_or_else(lost);
        json!([id, line["kind"], [line.get("leaf"), Some(&line["header"])]])
    };
    let expected: Vec<Value> = plain.iter().map(expected).collect();
    for (form, name) in [(Form::Cloudevents, "cloudevents"), (Form::Ocsf, "ocsf"), (Form::Otel, "otel")] {
        let file = folder.path().join(name);
        let text: String = every_kind(form).into_iter().map(|line| format!("{}\n", Value::Object(line))).collect();
        std::fs::write(&file, text).unwrap();
        let Some(read) = read_elsewhere(name, &file) else { return };
        let without_time: Vec<Value> = read.iter().map(|told| json!([told[0], told[1], told[3]])).collect();
        assert_eq!(without_time, expected, "{name}");
        let (first, last) = (NOW - 1000, NOW + 100_000_000 + 1000);
        assert!(read.iter().all(|told| (first..=last).contains(&told[2].as_u64().unwrap())), "{name}: {read:?}");
    }
}

#[test]
fn the_data_of_cloudevents_are_the_lines_of_a_plain_export() {
    let data = every_kind(Form::Cloudevents).into_iter().map(|event| event["data"].clone());
    let plain = every_kind(Form::Jsonl).into_iter().map(Value::Object);
    assert_eq!(data.collect::<Vec<_>>(), plain.collect::<Vec<_>>());
}

#[test]
fn records_of_a_second_era_with_one_number_have_ids_of_their_own() {
    let mut verifier = verifier();
    let (header, leaves, epoch) = chain().remove(0);
    let segment = stored(&sign(&header, epoch), &leaves);
    let checked = verifier.segment(segment.clone()).unwrap();
    let ids = |numbering| {
        let events = lines(Form::Cloudevents, &acme(), &segment, &checked, numbering);
        events.into_iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(Numbering::Own)[3], "gw-07/12/3");
    assert_eq!(ids(Numbering::Shared)[3], "gw-07/12.fedcba9876543210/3");
}
