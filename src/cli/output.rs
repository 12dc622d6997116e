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
        Format::Human => print(&page(&human(value))),
        Format::Json => match serde_json::to_string(value) {
            Ok(json) => print(&json),
            Err(error) => Err(Failure::new(Exit::Failure, format!("the answer is no JSON: {error}"), "")),
        },
    }
}

/// An object's fields as `name value` lines.
pub(in crate::cli) fn lines(fields: &Map<String, Value>) -> String {
    let line = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name:16} {}\n", visible(text)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            format!("{name:16} {value}\n")
        }
    };
    fields.iter().map(line).collect()
}

/// What somebody else may have written, in a line for a terminal: nothing of it moves a cursor, ends the line, hides or turns
/// what is around it.
pub(in crate::cli) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if hides(character) {
            shown.extend(character.escape_debug());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// The same as a value in a line of `name=value` pairs and lists with commas, so that the line can be read back: as it is where
/// it is plain ASCII, else as a JSON string.
pub(in crate::cli) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '=' | ',');
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len() + 2);
    for character in Value::from(text).to_string().chars() {
        if hides(character) {
            // No such character needs more than these digits.
            shown.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Whether a terminal does something else with a character than to show it.
fn hides(character: char) -> bool {
    let turns =
        matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    character.is_control() || turns
}

/// The same for several lines.
fn page(text: &str) -> String {
    text.split('\n').map(visible).collect::<Vec<_>>().join("\n")
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
    let _ = writeln!(std::io::stderr().lock(), "{}", page(text));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_somebody_wrote_reaches_a_terminal_as_more_than_text() {
        let cases = [
            ("plain, größer, 測試, \"quoted\" C:\\pump", "plain, größer, 測試, \"quoted\" C:\\pump"),
            ("re\u{1b}[2Jad", "re\\u{1b}[2Jad"),
            ("read\nproved: everything", "read\\nproved: everything"),
            ("a\rb\tc\u{7f}\u{9b}31m", "a\\rb\\tc\\u{7f}\\u{9b}31m"),
            ("gpj\u{202e}exe\u{200b}", "gpj\\u{202e}exe\\u{200b}"),
        ];
        for (text, expected) in cases {
            assert_eq!(visible(text), expected);
        }
        assert_eq!(page("one\n\u{1b}two\n"), "one\n\\u{1b}two\n");
        let fields = serde_json::json!({ "operation": "read\nallow" });
        assert_eq!(lines(fields.as_object().unwrap()), "operation        read\\nallow\n");
    }
}
