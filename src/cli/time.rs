//! `hardtack agent time`: signed time that somebody carries to the device.
//!
//! Owns: reading the file, handing it to the running agent, showing the nonce.
//! Never: judges a file. `../agent/rescue.rs` does.
//! Read next: `../agent/rescue.rs`; `fleet/time.rs` for the other end.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Subcommand;

use super::client::{age, post_to, Door};
use super::output::{show, tell, Format};
use super::{Exit, Failure, Globals};
use crate::agent::request::{ChallengeReply, TimeReply};
use crate::wire::time::{TimeFile, TIME_FILE_BYTES_MAX};
use crate::wire::token::to_text;

/// `hardtack agent time …`.
#[derive(Subcommand, Debug)]
pub enum TimeCommand {
    /// Make the nonce that a reset of the clock must answer; an earlier one is void
    Challenge,
    /// Hand signed time to the running agent
    Import {
        /// What `hardtack fleet time` wrote
        file: PathBuf,
    },
}

/// Runs it.
///
/// # Errors
/// No agent, or why the file is refused.
pub fn run(command: TimeCommand, globals: &Globals) -> Result<Exit, Failure> {
    match command {
        TimeCommand::Challenge => challenge(globals),
        TimeCommand::Import { file } => import(&file, globals),
    }
}

fn challenge(globals: &Globals) -> Result<Exit, Failure> {
    let nothing = serde_json::json!({});
    let challenge: ChallengeReply = post_to(globals, Door::Admin, "/v1/time/challenge", &nothing)?;
    if globals.output == Format::Human {
        tell(&format!(
            "good once, for {}, in this boot; the operator runs:\n  \
             hardtack fleet time reset --device {} --nonce {} --out FILE\nthen, here:\n  hardtack agent time import FILE",
            age(challenge.expires_in_s),
            challenge.device,
            challenge.nonce,
        ));
    }
    show(globals.output, &challenge, |challenge| challenge.nonce.clone())?;
    Ok(Exit::Done)
}

fn import(path: &Path, globals: &Globals) -> Result<Exit, Failure> {
    let bytes = read(path)?;
    // What is no such file at all need not go on record as an attack.
    TimeFile::from_bytes(&bytes).map_err(|refused| {
        let what = format!("{} holds no signed time: {refused}", path.display());
        Failure::new(Exit::Invalid, what, "name the file that `hardtack fleet time` wrote")
    })?;
    let body = serde_json::json!({"file": to_text(&bytes)});
    let reply: TimeReply = post_to(globals, Door::Admin, "/v1/time", &body)?;
    show(globals.output, &reply, words)?;
    Ok(Exit::Done)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = TIME_FILE_BYTES_MAX as u64 + 1;
    let read = std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(|error| {
        let what = format!("cannot read {}: {error}", path.display());
        Failure::new(Exit::Usage, what, "name the file that `hardtack fleet time` wrote")
    })?;
    Ok(bytes)
}

fn words(reply: &TimeReply) -> String {
    let moved = match reply.floor == reply.floor_before {
        true => format!("nothing new: it was known to be {} or later", reply.floor),
        false => format!("it is {} or later; known before: {}", reply.floor, reply.floor_before),
    };
    let waiting = reply.waiting.as_ref().map(|waiting| {
        format!("\na jump waits: {waiting}\n  do: import a file that holds a newer head too, or let the device reach its fleet")
    });
    format!("{moved}\npowered-on clock {}{}", reply.powered, waiting.unwrap_or_default())
}
