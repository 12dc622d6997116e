//! Where commands print: data to stdout, talk to stderr.
//!
//! Owns: [`Format`], the one place that writes to stdout, how a failure looks.
//! Never: mixes the two: a script that reads stdout reads data only.
//! Read next: `exit.rs`.

use std::io::Write;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Exit, Failure};

/// How data looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Format {
    /// For a person.
    #[default]
    Human,
    /// One JSON object.
    Json,
}

/// Shows a value: as it is in JSON, as `human` says to a person.
///
/// # Errors
/// When stdout takes nothing, which is not so for a reader that left.
pub fn show<T: Serialize>(format: Format, value: &T, human: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    match format {
        Format::Human => print(&human(value)),
        Format::Json => match serde_json::to_string(value) {
            Ok(json) => print(&json),
            Err(error) => Err(Failure::new(Exit::Failure, format!("the answer is no JSON: {error}"), "")),
        },
    }
}

/// An object's fields as `name value` lines.
pub(in crate::cli) fn lines(fields: &Map<String, Value>) -> String {
    let line = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name:16} {text}\n"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            format!("{name:16} {value}\n")
        }
    };
    fields.iter().map(line).collect()
}

/// Prints lines of data. The only way to stdout.
///
/// # Errors
/// As [`show`].
pub fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let ended = if text.ends_with('\n') { "" } else { "\n" };
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(ended.as_bytes()));
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        // `head` has what it wanted.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(Exit::Failure, format!("cannot write to stdout: {error}"), "free some space")),
    }
}

/// Tells a person something that is not data.
pub fn tell(text: &str) {
    // A closed stderr is no reason to fail.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Tells what went wrong, and gives the number to exit with.
pub fn fail(format: Format, failure: &Failure) -> Exit {
    match format {
        Format::Human => tell(&failure.to_string()),
        Format::Json => {
            let object = serde_json::json!({
                "error": failure.what, "do": failure.advice, "exit": failure.exit as u8,
            });
            tell(&object.to_string());
        }
    }
    failure.exit
}
