//! A report as JUnit XML, for whatever shows test results.
//!
//! Owns: one test case per property: broken ones are failures with their witness, untried ones are skipped and say so; and
//! one for the verdict, which fails where something that the scenario asks for was never tried.
//! Never: counts what was not tried as held.
//! Read next: `mod.rs`.

use super::words::property;
use super::{Report, Status};

/// The file, for a run that took so many seconds.
pub fn suite(report: &Report, seconds: f64) -> String {
    let count = |status: Status| report.properties.iter().filter(|property| property.status == status).count();
    let incomplete = report.verdict() == Status::Vacuous;
    let name = attribute(&report.scenario);
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n<testsuite name=\"{name}\" tests=\"{}\" failures=\"{}\" \
        errors=\"0\" skipped=\"{}\" time=\"{seconds:.3}\">\n<properties>\n<property name=\"seed\" value=\"{}\"/>\n\
        <property name=\"trace_hash\" value=\"{}\"/>\n</properties>\n",
        report.properties.len() + 1,
        count(Status::Fail) + usize::from(incomplete),
        count(Status::Vacuous),
        report.seed,
        hardtack::ids::hex(&report.trace_hash),
    );
    for of in &report.properties {
        let (title, meaning) = property(of.id);
        let inside = match of.status {
            Status::Pass => String::new(),
            Status::Vacuous => {
                "<skipped message=\"vacuous: nothing in this run put it to the test, so it is no pass\"/>".to_owned()
            }
            Status::Fail => {
                let witness = of.witness.as_deref().unwrap_or_default();
                format!("<failure message=\"{}\" type=\"broken\">{}</failure>", attribute(meaning), attribute(witness))
            }
        };
        let case = attribute(format!("{} {title}", of.id).trim_end());
        xml.push_str(&format!(
            "<testcase classname=\"{name}\" name=\"{case}\" assertions=\"{}\" time=\"0\">{inside}</testcase>\n",
            of.checked,
        ));
    }
    let inside = if incomplete {
        let tried = |id: &&String| report.properties.iter().any(|p| p.id == **id && p.status == Status::Pass);
        let untried: Vec<&str> = report.require.iter().filter(|id| !tried(id)).map(String::as_str).collect();
        let why =
            format!("required and never tried: {}; faults without effect: {}", listed(&untried), listed(&report.idle));
        format!(
            "<failure message=\"not everything that the scenario asks for was tried\" type=\"vacuous\">{}</failure>",
            attribute(&why)
        )
    } else {
        String::new()
    };
    xml.push_str(&format!("<testcase classname=\"{name}\" name=\"verdict\" time=\"0\">{inside}</testcase>\n"));
    xml.push_str("</testsuite>\n</testsuites>\n");
    xml
}

fn listed<T: AsRef<str>>(of: &[T]) -> String {
    if of.is_empty() {
        return "none".to_owned();
    }
    of.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ")
}

/// Text as it may stand in an attribute or an element: what XML 1.0 has no way to say is replaced.
fn attribute(text: &str) -> String {
    let legal = |c: char| match c {
        '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'.. => c,
        _ => '\u{fffd}',
    };
    super::html::escape(&text.chars().map(legal).collect::<String>())
}
