//! What a configuration is made of, as the process finds it.
//!
//! Owns: reading the environment, the user's id and the files of a configuration.
//! Never: judges what they say. `config.rs` does.
//! Read next: `../config.rs`.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::config::{Flags, Sources, User};
use crate::profile::TEXT_BYTES_MAX;

/// The sources of this process. Variables that are not Unicode are as good as unset.
pub fn gather(flags: Flags) -> Sources {
    let unicode = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    Sources {
        flags,
        env: std::env::vars_os().filter_map(unicode).collect(),
        user: if rustix::process::geteuid().is_root() { User::Root } else { User::Ordinary },
        read: read_text,
    }
}

/// The text of a small file: one byte past the limit is read, so that who parses it sees that it is too large.
///
/// # Errors
/// When it cannot be read, or is not UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(TEXT_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}
