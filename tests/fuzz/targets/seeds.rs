//! Writes one valid example of everything below `corpus/`, for the fuzzer to start from.
#![allow(dead_code, reason = "the modules are shared with the property tests, which use all of them")]

use std::fs;
use std::path::Path;

#[path = "../../it/hostile.rs"]
mod hostile;
#[path = "../../it/hostile_feed.rs"]
mod hostile_feed;
#[path = "../../it/samples.rs"]
mod samples;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    const TARGETS: [&str; 11] = [
        "agent", "announced", "bytes", "documents", "feed", "forge", "leaves", "messages", "revocations", "sealed", "text",
    ];
    for target in TARGETS {
        fs::create_dir_all(corpus.join(target))?;
    }
    for (number, example) in hostile::examples(&samples::World::new()).iter().enumerate() {
        for target in ["bytes", "forge", "revocations"] {
            fs::write(corpus.join(target).join(format!("example-{number}")), example)?;
        }
        let length = u16::try_from(example.len()).unwrap_or(u16::MAX).to_le_bytes();
        for topic in 0..hostile::TOPICS.len() as u8 {
            let message = [&[topic, length[0], length[1]], example.as_slice()].concat();
            fs::write(corpus.join("agent").join(format!("example-{number}-{topic}")), message)?;
        }
    }
    for (number, content) in hostile_feed::contents(&hostile_feed::History::new()).iter().enumerate() {
        fs::write(corpus.join("announced").join(format!("example-{number}")), content)?;
    }
    // Each kind of step with some message, and with some others before it.
    for what in 0..16_u8 {
        let script: Vec<u8> = (0..=what).flat_map(|step| [step, step.wrapping_mul(37), 0, step, 128, 1]).collect();
        fs::write(corpus.join("feed").join(format!("example-{what}")), script)?;
    }
    for (number, plaintext) in hostile::plaintexts(&samples::World::new()).iter().enumerate() {
        fs::write(corpus.join("sealed").join(format!("example-{number}")), plaintext)?;
    }
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../../vectors/audit/leaves.json"))?;
    let leaves = vectors["records"].as_array().into_iter().flatten().filter_map(|row| row["leaf"].as_str());
    let leaves: Vec<Vec<u8>> = leaves.filter_map(hardtack::ids::unhex).collect();
    for first in 0..leaves.len() {
        fs::write(corpus.join("leaves").join(format!("example-{first}")), hostile::framed(&leaves[first..]))?;
    }
    for (number, (header, claims)) in hostile::Believed::DOCUMENTS.iter().enumerate() {
        fs::write(corpus.join("documents").join(format!("example-{number}")), format!("{header}\n{claims}"))?;
    }
    for (number, message) in hostile::TOOL_MESSAGES.iter().chain([&hostile::STREAM]).enumerate() {
        fs::write(corpus.join("messages").join(format!("example-{number}")), message)?;
    }
    for shipped in hardtack::profile::SHIPPED {
        fs::write(corpus.join("text").join(shipped.name), shipped.text)?;
    }
    fs::write(corpus.join("text").join("policy"), hardtack::wire::policy::BUILT_IN)
}
