//! `hardtack fleet audit gaps`: everything that is missing from the audit, or odd in it.
//!
//! Owns: what is shown of each hole, fork and silence; the files that prove forks; the exit code.
//! Never: counts a device without a network as a gap: silence is told, and is no loss.
//! Read next: `../../../fleet/report/holes.rs`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{json, Value};

use super::forks::{found, Found};
use super::prove::json;
use super::show::{cause_words, mark_name, mark_words};
use super::{walk, Which};
use crate::cli::audit::line::salt_text;
use crate::cli::audit::{branch_value, branch_words, twin_value, twin_words};
use crate::cli::client::age;
use crate::cli::fleet::{file_failure, now, Session};
use crate::cli::output::show;
use crate::cli::{Exit, Failure};
use crate::fleet::report::holes::{Arrived, Aside, Counted, Holes, Marked, Missing, Salvaged, Unheard};
use crate::fleet::report::DeviceReport;
use crate::fleet::silence::{silences, Silence};
use crate::ids::{DeviceId, EraId};
use crate::shell::files;
use crate::time::Timestamp;
use crate::wire::audit::GapCause;

/// Arguments of `hardtack fleet audit gaps`.
#[derive(Args, Debug)]
pub struct GapsArgs {
    #[command(flatten)]
    which: Which,
    /// Write a file for each fork that proves it to whoever has the device's public key: `hardtack audit verify FILE`
    #[arg(long, value_name = "DIR")]
    proof: Option<PathBuf>,
    /// A device is silent when it missed so many hellos in a row
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    silent_after: u32,
}

/// All that is told of one device.
#[derive(Default)]
struct Told {
    report: DeviceReport,
    forks: Vec<(Found, Option<PathBuf>)>,
    silence: Option<Silence>,
}

pub(super) fn gaps(args: &GapsArgs, session: &Session) -> Result<Exit, Failure> {
    let (fleet, at) = (session.open()?, now()?);
    let report = walk(&fleet, &args.which, |_, _| Ok(()))?;
    let mut told: BTreeMap<DeviceId, Told> = BTreeMap::new();
    for (device, report) in &report.devices {
        told.insert(device.clone(), Told { report: report.clone(), ..Told::default() });
    }
    let only = args.which.device.as_ref();
    for found in found(&fleet.ledger, only)? {
        let file = args.proof.as_deref().map(|folder| write_proof(&found, folder)).transpose()?.flatten();
        told.entry(found.fork.device.clone()).or_default().forks.push((found, file));
    }
    for silence in silences(fleet.ledger.book(), at, args.silent_after) {
        if only.is_none_or(|only| *only == silence.device) {
            let device = told.entry(silence.device.clone()).or_default();
            device.silence = Some(silence);
        }
    }
    let devices: Vec<Value> = told.iter().map(|(device, told)| value(device, told, at)).collect();
    let (sound, gone) = (report.is_sound(), report.has_gaps());
    let answer = json!({"ok": sound, "complete": sound && !gone, "devices": devices});
    show(session.format, &answer, |_| told.iter().map(|(device, told)| words(device, told, at)).collect())?;
    Ok(match (sound, gone) {
        (false, _) => Exit::Invalid,
        (true, true) => Exit::Audit,
        (true, false) => Exit::Done,
    })
}

/// Writes the proof of a fork, if two headers prove it.
fn write_proof(found: &Found, folder: &Path) -> Result<Option<PathBuf>, Failure> {
    let Some((proof, _)) = &found.proof else { return Ok(None) };
    let Found { fork, .. } = found;
    std::fs::create_dir_all(folder).map_err(|error| {
        let what = format!("cannot make {}: {error}", folder.display());
        Failure::new(Exit::Failure, what, "name a folder that can be written to")
    })?;
    let name = format!("fork-{}-{}-{}-{}.json", fork.device, fork.era, salt_text(fork.era), fork.segment);
    let file = folder.join(name);
    files::replace(&file, format!("{}\n", json(proof)?).as_bytes()).map_err(file_failure)?;
    Ok(Some(file))
}

/// The reason of a gap record, in a script's words.
fn cause_name(cause: GapCause) -> &'static str {
    match cause {
        GapCause::Damaged => "damaged",
        GapCause::AnchorLost => "anchor_lost",
        GapCause::Quota => "quota",
    }
}

fn arrived_name(arrived: Arrived) -> &'static str {
    match arrived {
        Arrived::Nothing => "nothing",
        Arrived::APart => "part",
    }
}

fn value(device: &DeviceId, told: &Told, at: Timestamp) -> Value {
    let Holes { counted, missing, unheard, salvaged, unattributed, marked, aside, twins, left_out } =
        &told.report.holes;
    let count = |Counted { id, floor, gap }: &Counted| {
        json!({
            "id": id, "floor": floor.to_string(), "era": gap.era.number, "salt": salt_text(gap.era),
            "first": gap.first, "end": gap.end, "count": gap.end.map(|end| end.saturating_sub(gap.first)),
            "cause": cause_name(gap.cause), "repeated": gap.repeated,
        })
    };
    let gone = |Missing { era, first, end, arrived }: &Missing| {
        json!({
            "era": era.number, "salt": salt_text(*era), "first": first, "end": end, "count": end - first,
            "arrived": arrived_name(*arrived),
        })
    };
    let left = |Salvaged { era, segment, next_segment, lost }: &Salvaged| {
        json!({
            "era": era.number, "salt": salt_text(*era), "segment": segment, "next_segment": next_segment, "lost": lost,
        })
    };
    let odd = |Marked { era, segment, mark }: &Marked| json!({"era": era.number, "salt": salt_text(*era), "segment": segment, "mark": mark_name(*mark)});
    let beside = |aside: &Aside| {
        let mut value = branch_value(aside);
        value["received"] = aside.at.to_string().into();
        value
    };
    let forked = |(Found { fork, proof }, file): &(Found, Option<PathBuf>)| {
        json!({
            "era": fork.era.number, "salt": salt_text(fork.era), "segment": fork.segment, "what": fork.what,
            "received": fork.at.to_string(),
            "contradiction": proof.as_ref().map(|(_, proven)| proven.contradiction.name()),
            "proof": file.as_ref().map(|file| file.display().to_string()),
        })
    };
    let silent = told.silence.as_ref().map(|silence| {
        json!({
            "heard": silence.heard.map(|heard| heard.to_string()),
            "since": silence.since.to_string(),
            "for_s": at.since(silence.since).secs(),
            "hello_s": silence.hello.secs(),
        })
    });
    json!({
        "id": device,
        "gaps": counted.iter().map(count).collect::<Vec<_>>(),
        "missing": missing.iter().map(gone).collect::<Vec<_>>(),
        "unheard": unheard.iter().map(|Unheard { first, end }| json!({"first": first, "end": end})).collect::<Vec<_>>(),
        "salvaged": salvaged.iter().map(left).collect::<Vec<_>>(),
        "unattributed": unattributed,
        "marked": marked.iter().map(odd).collect::<Vec<_>>(),
        "aside": aside.iter().map(beside).collect::<Vec<_>>(),
        "forks": told.forks.iter().map(forked).collect::<Vec<_>>(),
        "twins": twins.iter().map(twin_value).collect::<Vec<_>>(),
        "silent": silent,
        "problems": told.report.problems.words(),
        "left_out": left_out,
    })
}

/// `first` to the last before `end`, in words.
fn records(first: u64, end: u64) -> String {
    match end.saturating_sub(1) {
        last if last == first => format!("record {first}"),
        last => format!("records {first} to {last}"),
    }
}

/// An era, with its salt where it is known.
fn era_words(era: EraId) -> String {
    match era.salt {
        0 => format!("era {era}"),
        _ => format!("era {era} (salt {})", salt_text(era)),
    }
}

fn words(device: &DeviceId, told: &Told, at: Timestamp) -> String {
    let Holes { counted, missing, unheard, salvaged, unattributed, marked, aside, twins, left_out } =
        &told.report.holes;
    let mut rows: Vec<String> = Vec::new();
    rows.extend(told.report.problems.words().into_iter().map(|problem| format!("WRONG {problem}")));
    rows.extend(told.forks.iter().map(|(Found { fork, proof }, file)| {
        let proven = match (file, proof) {
            (Some(file), _) => format!("proof in {}", file.display()),
            (None, Some((_, proven))) => {
                format!("{}: --proof DIR writes the two headers", proven.contradiction.words())
            }
            (None, None) => "no two headers alone prove it: that takes the trail".into(),
        };
        format!("FORKED {} segment {}, seen {}: {}; {proven}", era_words(fork.era), fork.segment, fork.at, fork.what)
    }));
    rows.extend(twins.iter().map(|twin| format!("FORKED {}; not seen when it came", twin_words(twin))));
    rows.extend(counted.iter().map(|Counted { id, floor, gap }| {
        let which = gap.end.map_or_else(|| format!("records from {} on", gap.first), |end| records(gap.first, end));
        let more = match gap.repeated {
            0 => String::new(),
            more => format!(", and with them the counts of {more} denials that had none"),
        };
        format!("gap {}: {which}{more}, since {}; signed as {id}, {floor}", era_words(gap.era), cause_words(gap.cause))
    }));
    rows.extend(missing.iter().map(|Missing { era, first, end, arrived }| {
        let which = records(*first, *end);
        match arrived {
            Arrived::Nothing => {
                format!("missing {}: it never came; the era after it says that it had {which}", era_words(*era))
            }
            Arrived::APart => format!("missing {}: {which}, which later records prove to exist", era_words(*era)),
        }
    }));
    rows.extend(unheard.iter().map(|Unheard { first, end }| {
        let which = match end.saturating_sub(1) {
            last if last == *first => format!("era {first}"),
            last => format!("eras {first} to {last}"),
        };
        format!("unheard of {which}: nothing of it is here, and nothing says what it held")
    }));
    rows.extend(salvaged.iter().map(|Salvaged { era, segment, next_segment, lost }| {
        let lost: Vec<String> = lost.iter().map(|(first, end)| records(*first, *end)).collect();
        let last = next_segment.saturating_sub(1);
        format!("salvaged {} segments {segment} to {last}: a damaged disk lost {}", era_words(*era), lost.join(", "))
    }));
    rows.extend(unattributed.iter().map(|id| format!("unattributed {id}: only a lost record names its credential")));
    rows.extend(marked.iter().map(|Marked { era, segment, mark }| {
        format!("{} {} segment {segment}: {}", mark_name(*mark), era_words(*era), mark_words(*mark))
    }));
    rows.extend(aside.iter().map(|aside| {
        let more = "`hardtack fleet audit export --aside` has it";
        format!("set aside {}; since {}, {more}", branch_words(aside), aside.at)
    }));
    rows.extend((*left_out > 0).then(|| format!("and {left_out} more, which no list has room for")));
    rows.extend(told.silence.as_ref().map(|silence| {
        let (long, every) = (age(at.since(silence.since).secs()), age(silence.hello.secs()));
        match silence.heard {
            Some(heard) => format!("silent for {long}, since {heard}: it was to say hello every {every}"),
            None => format!("silent: never heard of since it was approved at {}, {long} ago", silence.since),
        }
    }));
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = match rows.len() {
        0 => writeln!(text, "{device}: nothing is missing"),
        _ => writeln!(text, "{device}:"),
    };
    for row in rows {
        let _ = writeln!(text, "  {row}");
    }
    text
}
