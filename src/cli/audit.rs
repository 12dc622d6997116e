//! `hardtack audit`: what devices did, without a fleet's folder.
//!
//! Owns: the arguments, what a person is told of a file's verdict, its exit code.
//! Never: needs a ledger, an agent or a network: whoever has a file and the devices' public keys can check it.
//! Read next: `audit/file.rs`.

#[cfg(feature = "agent")]
mod device;
pub mod export;
pub mod file;
pub mod fork;
pub(in crate::cli) mod line;
pub mod proof;
#[cfg(feature = "agent")]
mod salvage;
#[cfg(feature = "agent")]
mod tail;
pub mod trails;

use std::fmt::Write as _;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{json, Value};

use super::output::{lines, show};
use super::{Exit, Failure, Globals};
use crate::fleet::report::branch::{short, Parting};
use crate::fleet::report::holes::Aside;
use crate::fleet::report::twins::Twin;
use crate::fleet::report::{DeviceReport, Report};
use crate::ids::{DeviceId, EraId};
use crate::time::Millis;
use crate::wire::audit::fork::{Branch, Contradiction};
use file::{check, Evidence, Origin, TrustedKey, Verdict};
use fork::Proven;

/// `hardtack audit …`.
#[derive(Subcommand, Debug)]
pub enum AuditCommand {
    /// Write what this device still holds of its trail, as JSON lines with the bytes that were signed: exits 9 if there are holes
    #[cfg(feature = "agent")]
    Export(device::ExportArgs),
    /// Tell what can be read of a stopped agent's store, the quarantine with it, and save that: exits 9 if something is lost.
    /// The store is left as it is: a start of the agent repairs what can be repaired
    #[cfg(feature = "agent")]
    Salvage(salvage::SalvageArgs),
    /// The newest records of this device, and where each stands on its way to the collector
    #[cfg(feature = "agent")]
    Tail(tail::TailArgs),
    /// Check an export, a proof of a record or of a fork, or what this device holds: exits 12 if it is not what was signed, 9 if something is gone
    Verify(VerifyArgs),
}

/// Arguments of `hardtack audit verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// What `hardtack fleet audit export`, `prove` or `gaps --proof`, or `hardtack audit export` or `salvage` wrote; `-` for
    /// stdin [default: what this device holds]
    file: Option<PathBuf>,
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
        #[cfg(feature = "agent")]
        AuditCommand::Export(args) => device::export(&args, globals),
        #[cfg(feature = "agent")]
        AuditCommand::Salvage(args) => salvage::run(&args, globals),
        #[cfg(feature = "agent")]
        AuditCommand::Tail(args) => tail::run(&args, globals),
        AuditCommand::Verify(args) => verify(&args, globals),
    }
}

fn verify(args: &VerifyArgs, globals: &Globals) -> Result<Exit, Failure> {
    let Some(file) = &args.file else { return verify_here(&args.keys, globals) };
    let verdict = if file == Path::new("-") {
        check(std::io::stdin().lock(), &args.keys)
    } else {
        let opened = File::open(file).map_err(|error| {
            let what = format!("cannot read {}: {error}", file.display());
            Failure::new(Exit::Usage, what, "name the file that `hardtack fleet audit export` wrote")
        })?;
        check(BufReader::new(opened), &args.keys)
    };
    let verdict = verdict.map_err(|error| {
        let what = format!("{} is no evidence: {error}", file.display());
        Failure::new(Exit::Invalid, what, "write it again with `hardtack fleet audit export` or `prove`")
    })?;
    let words = Words::of(&verdict, &args.keys);
    show(globals.output, &words.json(&verdict), |_| words.text(&verdict))?;
    Ok(exit_of(&verdict))
}

/// What this device holds, and where it stands on its way to the collector.
#[cfg(feature = "agent")]
fn verify_here(keys: &[TrustedKey], globals: &Globals) -> Result<Exit, Failure> {
    let trail = device::Trail::open(globals)?;
    let verdict = device::verify(&trail, keys)?;
    let words = Words::of(&verdict, keys);
    let eras = trail.eras();
    let mut value = words.json(&verdict);
    value["eras"] = json!(eras);
    show(globals.output, &value, |_| device::standing(&eras) + &words.text(&verdict))?;
    Ok(exit_of(&verdict))
}

#[cfg(not(feature = "agent"))]
fn verify_here(_: &[TrustedKey], _: &Globals) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Usage, "this build is no device's", "name the file that is to be checked"))
}

fn exit_of(verdict: &Verdict) -> Exit {
    match &verdict.evidence {
        Evidence::Export(_) | Evidence::Proof(_) | Evidence::Fork(_) if !verdict.is_sound() => Exit::Invalid,
        Evidence::Export(report) if report.has_gaps() => Exit::Audit,
        Evidence::Export(_) | Evidence::Proof(_) | Evidence::Fork(_) => Exit::Done,
    }
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
        let signed = verdict.is_signed();
        let mut proved: Vec<&str> = match (&verdict.evidence, signed) {
            (_, false) => Vec::new(),
            (Evidence::Export(report), true) if report.is_empty() => {
                unproved.push("anything: it holds no record");
                Vec::new()
            }
            (Evidence::Export(_), true) => {
                unproved.extend(match verdict.from {
                    None => [
                        "that the file goes to the end of what was delivered, or holds every era: where it ends, something may \
                         have been cut off",
                        "what a device has not delivered yet",
                    ],
                    Some(Origin::Device) => [
                        "what no signature covers yet: whoever has the disk can change it; it is signed within a second, or at \
                         the next start, and marked recovered then",
                        "what the device gave back when it was acknowledged, and that the collector has it: ask that for its export",
                    ],
                });
                vec![
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
                vec![
                    "the record is in a segment that its device signed, at this number of this era",
                    "each field is what was signed, and whose credential it was is said by the device too",
                ]
            }
            (Evidence::Fork(_), true) => {
                unproved.push("which of the two is the device's own: a clone's, or that of a disk that was put back, looks the same");
                vec![
                    "both headers are signed with audit keys for which one device's identity key vouches",
                    "they cannot both stand in one trail: somebody used the device's keys twice",
                ]
            }
        };
        if let (Evidence::Export(report), true) = (&verdict.evidence, signed) {
            for (more, less) in [of_branches(report), of_twins(report)] {
                proved.extend(more);
                unproved.extend(less);
            }
        }
        unproved.push("what whoever held a device's audit key left out, or made up, before it was signed");
        Self { proved, unproved }
    }

    fn json(&self, verdict: &Verdict) -> Value {
        let mut value = json!({
            "ok": verdict.is_sound(),
            "fleet": verdict.fleet,
            "problems": verdict.problems.words(),
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
        for problem in verdict.problems.words() {
            let _ = writeln!(text, "  WRONG {problem}");
        }
        text.push_str(match (verdict.is_sound(), verdict.is_signed()) {
            (true, _) => "",
            (false, true) => "all of it was signed, and there is MORE than one trail of a device\n",
            (false, false) => "this is NOT what the devices signed\n",
        });
        for proved in &self.proved {
            let _ = writeln!(text, "proved: {proved}");
        }
        for unproved in &self.unproved {
            let _ = writeln!(text, "not proved: {unproved}");
        }
        text
    }
}

/// What the branches in an export prove, and what they do not.
fn of_branches(report: &Report) -> (Vec<&'static str>, Vec<&'static str>) {
    let branches: Vec<&Aside> = report.devices.values().flat_map(|device| &device.holes.aside).collect();
    let (mut proved, mut unproved) = (Vec::new(), Vec::new());
    if branches.is_empty() {
        return (proved, unproved);
    }
    if branches.iter().any(|branch| branch.parting != Parting::Unknown) {
        proved.push("the same of each branch, which follows the trail up to where it parts from it");
    }
    if branches.iter().any(|branch| branch.proves.is_some()) {
        proved.push(
            "somebody used a device's keys twice: two signed headers stand in one place, and no device signs both; \
             whoever has this file and the device's key can show it",
        );
        unproved
            .push("which branch is the device's own: a clone's, or that of a disk that was put back, looks the same");
    }
    if branches.iter().any(|branch| branch.parting == Parting::Unknown) {
        unproved.push("what comes before a branch whose beginning never came: it may be another trail altogether");
    }
    (proved, unproved)
}

/// What eras prove that contradict earlier ones, and what they do not.
fn of_twins(report: &Report) -> (Vec<&'static str>, Vec<&'static str>) {
    if report.devices.values().all(|device| device.holes.twins.is_empty()) {
        return (Vec::new(), Vec::new());
    }
    let proved =
        "somebody used a device's keys twice: no device begins an era under a number that it gave, or with an older audit \
         key than it had; whoever has this file and the device's key can show it";
    let unproved =
        "which of two eras that contradict each other is the device's own: a clone's, or that of a disk that was put back, \
         looks the same";
    (vec![proved], vec![unproved])
}

/// An era that contradicts an earlier one, for scripts.
pub(in crate::cli) fn twin_value(twin: &Twin) -> Value {
    let Twin { era, epoch, other, other_epoch, proves } = twin;
    let one = |era: EraId, epoch: u64| json!({"era": era.number, "salt": line::salt_text(era), "epoch": epoch});
    json!({"contradiction": proves.name(), "eras": [one(*other, *other_epoch), one(*era, *epoch)]})
}

/// The same for a person.
pub(in crate::cli) fn twin_words(twin: &Twin) -> String {
    let Twin { era, epoch, other, other_epoch, proves } = twin;
    let salts = [*other, *era].map(line::salt_text);
    let what = match proves {
        Contradiction::Era => {
            format!("was begun twice under this device's identity: with the salts {} and {}", salts[0], salts[1])
        }
        Contradiction::Key => format!(
            "(salt {}) was begun with an audit key of epoch {epoch}, and era {other} (salt {}) was signed with another of epoch \
             {other_epoch}",
            salts[1], salts[0]
        ),
        Contradiction::Segment | Contradiction::Chain => format!("(salt {}) has two trails", salts[1]),
    };
    format!("era {era} {what}; PROVED, {}", proves.words())
}

/// A branch beside a trail, for scripts.
pub(in crate::cli) fn branch_value(branch: &Aside) -> Value {
    let Aside { era, id, parting, segments, indexes, records, decisions, proves, at: _ } = branch;
    let (from, after) = line::parting(*parting);
    json!({
        "era": era.number, "salt": line::salt_text(*era), "branch": id, "from": from, "after": after,
        "segment": segments.0, "next_segment": segments.1, "first": indexes.0, "end": indexes.1,
        "records": records, "decisions": decisions,
        "contradiction": proves.map(|proves| proves.name()),
    })
}

/// The same for a person.
pub(in crate::cli) fn branch_words(branch: &Aside) -> String {
    let Aside { era, id, parting, segments, indexes, records, decisions: _, proves, at: _ } = branch;
    let parts = match parting {
        Parting::Trail(None) => "parts from the trail at the era's beginning".into(),
        Parting::Trail(Some(after)) => format!("parts from the trail after segment {after}"),
        Parting::Branch(other, after) => format!("parts from branch {} after segment {after}", short(*other)),
        Parting::Unknown => "follows what never came".into(),
    };
    let proof = match proves {
        Some(proves) => format!("PROVED, {}", proves.words()),
        None => "no two headers here prove a fork".into(),
    };
    format!(
        "branch {} of era {era} (salt {}) {parts}: segments {} to {}, records {} to {}, {records} of them here; {proof}",
        short(*id),
        line::salt_text(*era),
        segments.0,
        segments.1.saturating_sub(1),
        indexes.0,
        indexes.1.saturating_sub(1),
    )
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
            "repeated": device.repeated,
            "cut_short": device.cut_short,
            "repeated_lost": device.repeated_lost,
            "unheard": device.unheard,
            "records": device.records,
            "gaps": device.gaps,
            "lost": device.lost,
            "unattributed": device.unattributed,
            "recovered": device.recovered,
            "salvaged": device.salvaged,
            "shed": device.shed,
            "unannounced": device.unannounced,
            "forks": device.forks,
            "aside": device.aside,
            "branches": device.holes.aside.iter().map(branch_value).collect::<Vec<_>>(),
            "twins": device.holes.twins.iter().map(twin_value).collect::<Vec<_>>(),
            "first": device.first,
            "last": device.last,
            "heard": device.heard.map(|heard| heard.to_string()),
            "next_within_s": device.next_within.map(Millis::secs),
            "missing": device.missing,
            "given_back": device.given_back,
            "unsigned": device.unsigned,
            "problems": device.problems.words(),
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
            (device.aside, "records of other branches of eras that forked, beside the trail"),
            (device.unsigned, "records that no signature covers yet: they prove nothing"),
            (
                device.given_back,
                "records of earlier eras that were acknowledged and given back: the collector has them",
            ),
            (device.recovered, "segments closed by a later start, with the audit key of then"),
            (
                device.salvaged,
                "segments of which a damaged disk left a part: the device's word alone goes on over the rest",
            ),
            (device.shed, "segments whose denials and notices the device gave up for want of room"),
            (device.unannounced, "eras begun with an audit key that nothing before announced"),
        ];
        for (count, what) in marked.into_iter().filter(|(count, _)| *count > 0) {
            let _ = writeln!(text, "  {count} {what}");
        }
        if device.repeated > 0 {
            let _ = writeln!(text, "  {} of the decisions are denials that were as one before them", device.repeated);
        }
        if device.cut_short > 0 {
            let what =
                "eras ended without a word or are torn: there were as many denials in them as are counted, or more";
            let _ = writeln!(text, "  {} {what}", device.cut_short);
        }
        if device.repeated_lost > 0 {
            let what = "denials more were counted in records that the device gave up for want of room";
            let _ = writeln!(text, "  {} {what}", device.repeated_lost);
        }
        if device.unheard > 0 {
            let what = "eras by their numbers of which nothing came, and nothing says that they held nothing";
            let _ = writeln!(text, "  {} {what}", device.unheard);
        }
        if device.unattributed > 0 {
            let what = "decisions of which a lost record says whose they were";
            let _ = writeln!(text, "  {} {what}", device.unattributed);
        }
        if let (Some(heard), Some(next)) = (device.heard, device.next_within) {
            let _ = writeln!(text, "  last heard at {heard}: if it runs, it says something within {} s", next.secs());
        }
        for twin in &device.holes.twins {
            let _ = writeln!(text, "  FORKED {}", twin_words(twin));
        }
        for branch in &device.holes.aside {
            let _ = writeln!(text, "  {}", branch_words(branch));
        }
        for problem in device.problems.words() {
            let _ = writeln!(text, "  WRONG {problem}");
        }
    }
    text
}
