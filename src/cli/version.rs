//! `hardtack version`: what this build is and which formats it speaks.
//!
//! Owns: the list of features and formats.
//! Never: asks the agent; `hardtack status` says which version runs.
//! Read next: `mod.rs`.

use serde::Serialize;

use super::output::show;
use super::{Exit, Failure, Globals};

#[derive(Serialize)]
struct Version {
    version: &'static str,
    features: Vec<&'static str>,
    formats: Formats,
}

/// Numbers that both sides of a wire or of an upgrade must agree on.
#[derive(Serialize)]
struct Formats {
    api: u32,
    biscuit: u32,
    envelope: u32,
    mqtt: u32,
    topics: u32,
}

/// Shows it.
///
/// # Errors
/// Those of printing.
pub fn run(globals: &Globals) -> Result<Exit, Failure> {
    let features = [
        ("agent", cfg!(feature = "agent")),
        ("fleet", cfg!(feature = "fleet")),
        ("demo", cfg!(feature = "demo")),
        ("test-clock", cfg!(feature = "test-clock")),
        ("mutants", cfg!(feature = "mutants")),
    ];
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        features: features.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect(),
        formats: Formats { api: 1, biscuit: 3, envelope: 1, mqtt: 5, topics: 1 },
    };
    show(globals.output, &version, |version| {
        let formats = &version.formats;
        format!(
            "hardtack {}\nfeatures  {}\nformats   API v{}, Biscuit v{}, envelope v{}, topics v{} over MQTT {}",
            version.version,
            version.features.join(", "),
            formats.api,
            formats.biscuit,
            formats.envelope,
            formats.topics,
            formats.mqtt,
        )
    })?;
    Ok(Exit::Done)
}
