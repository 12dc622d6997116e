//! Servers that tests start, and what becomes of a test that cannot run.

mod complete;
pub(crate) mod mosquitto;
pub(crate) mod site;
pub(crate) mod strace;

use std::path::Path;

use serde_json::Value;

pub(crate) use self::complete::{cannot_run, check_needs_a_tool};

/// The Python that has what the tests need of others: `tests/run` says which.
pub(crate) fn python() -> String {
    std::env::var("HARDTACK_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// What is kept of a format in a folder is what this code writes. `HARDTACK_WRITE_VECTORS` has it written anew.
pub(crate) fn check_vectors(folder: &Path, all: &[(&str, Value)]) {
    for (name, value) in all {
        let path = folder.join(format!("{name}.json"));
        let text = format!("{}\n", serde_json::to_string_pretty(value).unwrap());
        if std::env::var_os("HARDTACK_WRITE_VECTORS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(kept == text, "{} is not what this code writes; has the format changed?", path.display());
    }
}
