//! `hardtack audit`: what devices did, without a fleet's folder.
//!
//! Owns: the arguments, what a person is told of a file's verdict, its exit code.
//! Never: needs a ledger, an agent or a network: whoever has a file and the devices' public keys can check it.
//! Read next: `audit/file.rs`.

pub mod export;
pub mod file;
pub mod fork;
pub(in crate::cli) mod line;

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{json, Value};

use super::output::{lines, show};
use super::{later, Exit, Failure, Globals, Later};
use crate::fleet::report::{DeviceReport, Report};
use crate::ids::DeviceId;
use crate::wire::audit::fork::Branch;
use file::{check, Evidence, TrustedKey, Verdict};
use fork::Proven;

/// `hardtack audit …`.
#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// Write this device's trail into a file (not in this version)
    Export(Later),
    /// Save what a damaged store has left (not in this version)
    Salvage(Later),
    /// Follow this device's records (not in this version)
    Tail(Later),
    /// Check an export, or a proof of a record or a fork: exits 12 if it is not what was signed, 9 if something is gone
    Verify(VerifyArgs),
}

/// Arguments of `hardtack audit verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// What `hardtack fleet audit export`, `prove` or `gaps --proof` wrote; `-` for stdin
    file: PathBuf,
    /// A public identity key that counts, of this device or of every one; may be repeated [default: those that the file names]
    #[arg(long = "key", value_name = "[DEVICE=]HEX")]
    keys: Vec<TrustedKey>,
}

/// Runs it.
///
/// # Errors
/// [`Exit::Usage`] for a file that cannot be read, [`Exit::Invalid`] for one that is neither an export nor a proof.
pub fn run(command: AuditCommand, globals: &Globals) -> Result<Exit, Failure> {
    match command {
        AuditCommand::Export(_) => later("audit export"),
        AuditCommand::Salvage(_) => later("audit salvage"),
        AuditCommand::Tail(_) => later("audit tail"),
        AuditCommand::Verify(args) => verify(&args, globals),
    }
}

fn verify(args: &VerifyArgs, globals: &Globals) -> Result<Exit, Failure> {
    let verdict = if args.file == Path::new("-") {
        check(std::io::stdin().lock(), &args.keys)
    } else {
        let opened = File::open(&args.file).map_err(|error| {
            let what = format!("cannot read {}: {error}", args.file.display());
            Failure::new(Exit::Usage, what, "name the file that `hardtack fleet audit export` wrote")
        })?;
        check(BufReader::new(opened), &args.keys)
    };
    let verdict = verdict.map_err(|error| {
        let what = format!("{} is no evidence: {error}", args.file.display());
        Failure::new(Exit::Invalid, what, "write it again with `hardtack fleet audit export` or `prove`")
    })?;
    let words = Words::of(&verdict, &args.keys);
    show(globals.output, &words.json(&verdict), |_| words.text(&verdict))?;
    Ok(match &verdict.evidence {
        Evidence::Export(_) | Evidence::Proof(_) | Evidence::Fork(_) if !verdict.is_sound() => Exit::Invalid,
        Evidence::Export(report) if report.has_gaps() => Exit::Audit,
        Evidence::Export(_) | Evidence::Proof(_) | Evidence::Fork(_) => Exit::Done,
    })
}

/// What is proved and what is not, one sentence each.
struct Words {
    proved: Vec<&'static str>,
    unproved: Vec<&'static str>,
}

impl Words {
    fn of(verdict: &Verdict, trusted: &[TrustedKey]) -> Self {
        let mut unproved = Vec::new();
        if trusted.is_empty() {
            unproved.push(
                "that the keys are the devices': they are the file's own; compare them with `hardtack fleet device show` (identity_keys), or \
                 name them with --key",
            );
        }
        let proved: &[&str] = match (&verdict.evidence, verdict.is_sound()) {
            (_, false) => &[],
            (Evidence::Export(_), true) => {
                unproved.extend([
                    "that the file goes to the end of what was delivered, or holds every era: where it ends, something may \
                     have been cut off",
                    "what a device has not delivered yet",
                ]);
                &[
                    "each record is signed by its device, over the device, the era and its number",
                    "none is missing, added, changed or moved between the first of an era and the last here, but those \
                     counted as lost or not delivered",
                    "each field but `received` is what was signed",
                ]
            }
            (Evidence::Proof(_), true) => {
                unproved.extend([
                    "that the records before and after its segment are there: that takes an export",
                    "that the device did not sign another record under this number: that takes the collector",
                ]);
                &[
                    "the record is in a segment that its device signed, at this number of this era",
                    "each field is what was signed, and whose credential it was is said by the device too",
                ]
            }
            (Evidence::Fork(_), true) => {
                unproved.push("which of the two is the device's own: a clone's, or that of a disk that was put back, looks the same");
                &[
                    "both headers are signed with audit keys for which one device's identity key vouches",
                    "they cannot both stand in one trail: somebody used the device's keys twice",
                ]
            }
        };
        unproved.push("what whoever held a device's audit key left out, or made up, before it was signed");
        Self { proved: proved.to_vec(), unproved }
    }

    fn json(&self, verdict: &Verdict) -> Value {
        let mut value = json!({
            "ok": verdict.is_sound(),
            "fleet": verdict.fleet,
            "problems": verdict.problems,
            "proved": self.proved,
            "not_proved": self.unproved,
        });
        match &verdict.evidence {
            Evidence::Export(report) => {
                value["kind"] = "export".into();
                value["devices"] = devices(report).into();
            }
            Evidence::Proof(record) => {
                value["kind"] = "proof".into();
                value["record"] = Value::Object(record.clone());
            }
            Evidence::Fork(proven) => {
                value["kind"] = "fork".into();
                value["contradiction"] = proven.as_ref().map(|proven| proven.contradiction.name()).into();
                value["headers"] = proven.as_ref().map(|proven| proven.branches()).into();
            }
        }
        value
    }

    fn text(&self, verdict: &Verdict) -> String {
        let mut text = match &verdict.evidence {
            Evidence::Export(report) => summary(report),
            // What is not proved is not shown as if it were.
            Evidence::Proof(_) if !verdict.is_sound() => String::new(),
            Evidence::Proof(record) => lines(record),
            Evidence::Fork(proven) => proven.as_deref().map(forked).unwrap_or_default(),
        };
        // Writing to a string cannot fail.
        for problem in &verdict.problems {
            let _ = writeln!(text, "  WRONG {problem}");
        }
        if !verdict.is_sound() {
            text.push_str("this is NOT what the devices signed\n");
        }
        for proved in &self.proved {
            let _ = writeln!(text, "proved: {proved}");
        }
        for unproved in &self.unproved {
            let _ = writeln!(text, "not proved: {unproved}");
        }
        text
    }
}

/// What a fork's proof says, for a person.
fn forked(proven: &Proven) -> String {
    let mut text = format!("{}\n", proven.contradiction.words());
    for Branch { header, digest, signer } in &proven.branches {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{} era {} (salt {}) segment {}, records {} to {}, closed at {}, audit key of epoch {}: {digest}",
            header.device,
            header.era,
            line::salt_text(header.era),
            header.segment,
            header.first_index,
            header.first_index.saturating_add(header.count.into()).saturating_sub(1),
            header.closed_at,
            signer.epoch,
        );
    }
    text
}

/// What is proved of each device.
pub(in crate::cli) fn devices(report: &Report) -> Vec<Value> {
    let device = |(id, device): (&DeviceId, &DeviceReport)| {
        json!({
            "id": id,
            "decisions": device.decisions,
            "records": device.records,
            "gaps": device.gaps,
            "lost": device.lost,
            "unattributed": device.unattributed,
            "recovered": device.recovered,
            "salvaged": device.salvaged,
            "unannounced": device.unannounced,
            "forks": device.forks,
            "first": device.first,
            "last": device.last,
            "missing": device.missing,
            "problems": device.problems,
        })
    };
    report.devices.iter().map(device).collect()
}

/// The same for a person.
pub(in crate::cli) fn summary(report: &Report) -> String {
    let mut text = String::new();
    for (id, device) in &report.devices {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{id}: {} decisions in {} records, {} gaps, {} lost in them, {} forks, {} not delivered",
            device.decisions, device.records, device.gaps, device.lost, device.forks, device.missing
        );
        let marked = [
            (device.recovered, "segments closed by a later start, with the audit key of then"),
            (
                device.salvaged,
                "segments of which a damaged disk left a part: the device's word alone goes on over the rest",
            ),
            (device.unannounced, "eras begun with an audit key that nothing before announced"),
        ];
        for (count, what) in marked.into_iter().filter(|(count, _)| *count > 0) {
            let _ = writeln!(text, "  {count} {what}");
        }
        if device.unattributed > 0 {
            let _ = writeln!(text, "  {} decisions whose credential only a lost record names", device.unattributed);
        }
        for problem in &device.problems {
            let _ = writeln!(text, "  WRONG {problem}");
        }
    }
    text
}
