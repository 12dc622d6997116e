//! `hardtack fleet device`: who is in the fleet.
//!
//! Owns: reading a request, writing the sealed bundle, what is shown of a device.
//! Never: approves without the code.
//! Read next: `../../fleet/enrol.rs`.

use std::fmt::Write as _;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{json, Value};

use super::super::client::age;
use super::super::output::{self, show};
use super::super::{Exit, Failure};
use super::{file_failure, now, operator, worded, Fleet, Session};
use crate::fleet::book::{Book, Device, Status};
use crate::fleet::convergence::standing;
use crate::fleet::covered;
use crate::fleet::enrol::{self, Approval, Replace};
use crate::fleet::report::identities;
use crate::fleet::FleetError;
use crate::ids::{hex, DeviceId, KeyId};
use crate::shell::fleet_keys::Role;
use crate::shell::{entropy, files};
use crate::time::Timestamp;
use crate::wire::enrol::{Code, EnrolRequest};
use crate::wire::envelope::{Document, Signed};

/// `hardtack fleet device …`.
#[derive(Subcommand, Debug)]
pub enum DeviceCommand {
    /// Let a device in, after its code was compared, and write its sealed bundle
    Approve(ApproveArgs),
    /// List the devices
    List,
    /// List the devices that ask to join over the broker, or write the request of one
    Pending(PendingArgs),
    /// Take a device out: no credentials any more, its key never comes back
    Retire {
        /// The device
        device: DeviceId,
        /// Why
        #[arg(long, default_value = "retired", value_parser = worded)]
        reason: String,
    },
    /// Let a device in again whose hardware or state folder was replaced: its old key never comes back
    Replace(ReplaceArgs),
    /// Show all that is known of a device
    Show {
        /// The device
        device: DeviceId,
    },
}

/// Arguments of `hardtack fleet device approve`.
#[derive(Args, Debug)]
pub struct ApproveArgs {
    /// The request: a file, or `-` for stdin
    file: PathBuf,
    /// The code that the device shows, told over another way than the request came
    #[arg(long)]
    code: String,
    /// Where the sealed bundle goes
    #[arg(long, value_name = "BUNDLE")]
    out: PathBuf,
    /// The device's hardware or state folder was replaced: its old key never comes back
    #[arg(long)]
    replace: bool,
}

/// Arguments of `hardtack fleet device replace`.
#[derive(Args, Debug)]
pub struct ReplaceArgs {
    /// The device, which the request must name too
    device: DeviceId,
    /// The new request: a file, or `-` for stdin
    file: PathBuf,
    /// The code that the device shows, told over another way than the request came
    #[arg(long)]
    code: String,
    /// Where the sealed bundle goes
    #[arg(long, value_name = "BUNDLE")]
    out: PathBuf,
}

/// Arguments of `hardtack fleet device pending`.
#[derive(Args, Debug)]
pub struct PendingArgs {
    /// The device whose request is written to --out
    #[arg(requires = "out")]
    device: Option<DeviceId>,
    /// Where the request goes, for `approve`
    #[arg(long, value_name = "FILE", requires = "device")]
    out: Option<PathBuf>,
}

pub(super) fn run(command: DeviceCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        DeviceCommand::Approve(args) => approve(&args, None, session),
        DeviceCommand::List => list(session),
        DeviceCommand::Pending(args) => pending(&args, session),
        DeviceCommand::Replace(ReplaceArgs { device, file, code, out }) => {
            approve(&ApproveArgs { file, code, out, replace: true }, Some(&device), session)
        }
        DeviceCommand::Retire { device, reason } => retire(&device, &reason, session),
        DeviceCommand::Show { device } => show_one(&device, session),
    }
}

/// Lets in the device of a request; `replaced` is the one that it is to take the place of, if somebody named it.
fn approve(args: &ApproveArgs, replaced: Option<&DeviceId>, session: &Session) -> Result<Exit, Failure> {
    let code: Code = args.code.parse().map_err(|refused| {
        Failure::new(Exit::Usage, format!("{:?}: {refused}", args.code), "type the code as the device shows it")
    })?;
    let mut fleet = session.open()?;
    let bytes = read_request(&args.file)?;
    let request = Signed::<EnrolRequest>::from_bytes(&bytes).map_err(bad_request)?;
    let opened = EnrolRequest::open(&request).map_err(bad_request)?;
    let before = fleet.ledger.book().device(&opened.device).map(|device| device.keys.identity);
    if let Some(device) = replaced {
        if opened.device != *device {
            let what = format!("the request is of device {}, not of {device}", opened.device);
            return Err(Failure::new(
                Exit::Failure,
                what,
                "bring the request that the new hardware made under this id",
            ));
        }
        before.ok_or_else(|| FleetError::UnknownDevice(device.clone()))?;
    }
    // Made before the approval is written: a device that gets no certificate is not approved.
    let certificate = fleet.dir.broker().authority()?.issue_device(&opened.device, opened.keys.tls.verifying());
    let certificate = certificate.map_err(|error| Failure::new(Exit::Failure, error, ""))?;
    let (at, name, key) = (now()?, fleet.operator.clone(), fleet.operator_key()?);
    let service = fleet.keys.signing(Role::Service)?;
    let replace = if args.replace { Replace::Replace } else { Replace::Keep };
    let (device, approval) =
        fleet.act(|book, _, fx| enrol::approve(book, &request, code, replace, operator(&name, &key), at, fx))?;
    let answer = enrol::answer(fleet.ledger.book(), &device, certificate, &service, at, &mut entropy::rng())?;
    // Approving the same request again writes them again, should the disk have said no here.
    fleet.dir.keep_request(&device, &bytes).map_err(file_failure)?;
    files::replace(&args.out, &answer.to_bytes()).map_err(file_failure)?;
    let fingerprint = fleet.ledger.book().trust().fingerprint().to_string();
    let out = args.out.display().to_string();
    let approval = match approval {
        Approval::Already => "already",
        Approval::Joined => "joined",
        Approval::Replaced => "replaced",
    };
    // The key that never comes back, if this request has taken its place.
    let burned = before.filter(|_| approval == "replaced").map(|key| KeyId::of(key.as_bytes()).to_string());
    let value = json!({
        "device": device, "approval": approval, "bundle": out, "fingerprint": fingerprint, "burned": burned,
    });
    show(session.format, &value, |_| {
        let burned = burned.as_ref().map_or(String::new(), |key| {
            format!(
                "its old key {key} never comes back: what it signs is refused, its audit until now stays. If the old \
                 hardware is lost, revoke its grants too: what it holds is good until devices hear of that\n"
            )
        });
        format!(
            "device {device} approved ({approval})\n{burned}bundle {out}\n\
             on the device: hardtack enrol import {out} --fleet {fingerprint}\n\
             next: hardtack fleet grant create --device {device} …; a device without a network gets a grant that is made \
             after this only in another bundle: approve the same request again, and import that"
        )
    })?;
    Ok(Exit::Done)
}

fn read_request(path: &Path) -> Result<Vec<u8>, Failure> {
    let limit = EnrolRequest::BYTES_MAX as u64 + 1;
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    let what = |error| format!("cannot read the request {}: {error}", path.display());
    read.map_err(|error| Failure::new(Exit::Usage, what(error), "name the file that `hardtack enrol request` wrote"))?;
    Ok(bytes)
}

fn bad_request(refused: crate::wire::Refused) -> Failure {
    let what = format!("the enrolment request is not acceptable: {refused}");
    Failure::new(Exit::Invalid, what, "make it again on the device with `hardtack enrol request`")
}

fn list(session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let (book, at) = (fleet.ledger.book(), now()?);
    let devices: Vec<Value> = book.devices().map(|device| summary(book, device, at)).collect();
    show(session.format, &json!({ "devices": devices }), |_| {
        let mut text = format!(
            "{:24} {:9} {:8} {:16} {:>9} {:>6} {:16} grants\n",
            "device", "status", "mode", "said", "feed", "behind", "heard"
        );
        for device in &devices {
            let field = |name: &str| match &device[name] {
                Value::Null => "-".to_owned(),
                Value::String(text) => text.clone(),
                other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:24} {:9} {:8} {:16} {:>9} {:>6} {:16} {}{}",
                field("id"),
                field("status"),
                field("mode"),
                past(&device["mode_age_s"]),
                field("feed_seq"),
                field("behind"),
                past(&device["silent_s"]),
                field("grants"),
                match device["unreachable_since"].as_str() {
                    Some(since) => format!(", unreachable since {since}"),
                    None => String::new(),
                }
            );
        }
        text
    })?;
    Ok(Exit::Done)
}

/// How long ago something was, by its seconds, in the two largest units.
fn past(seconds: &Value) -> String {
    seconds.as_u64().map_or_else(|| "-".into(), |seconds| format!("{} ago", age(seconds)))
}

fn summary(book: &Book, device: &Device, at: Timestamp) -> Value {
    let standing = standing(book, device, at);
    let revoked = covered::device(book, &device.id, at);
    json!({
        "id": device.id,
        "status": match device.status {
            Status::Approved if revoked.is_some() => "revoked",
            Status::Approved => "approved",
            Status::Retired => "retired",
        },
        // The revocation in force that covers the device, in words.
        "revoked": revoked.map(|revoked| revoked.to_string()),
        "joined": device.joined,
        // Its last sign of life, and how long ago that was.
        "seen": standing.heard.map(|heard| heard.to_string()),
        "silent_s": standing.heard.map(|heard| at.since(heard).secs()),
        "reachable": standing.is_reachable(),
        "unreachable_since": standing.unreachable.map(|since| since.to_string()),
        // As it named it last, `gone` if it left, and how old that word is: what a device that is silent is in now, nobody knows.
        "mode": standing.mode,
        "mode_at": standing.mode_at.map(|at| at.to_string()),
        "mode_age_s": standing.mode_at.map(|word| at.since(word).secs()),
        // The highest head of the feed that it said it has applied, and heads between that and the newest.
        "feed_seq": standing.applied.map(|(_, seq)| seq),
        "behind": standing.behind,
        "grants": book.live_grants(&device.id, at).count(),
        // The one in use first: whoever checks an export or a proof names these.
        "identity_keys": identities(device).iter().map(|key| hex(key.as_bytes())).collect::<Vec<_>>(),
    })
}

fn show_one(id: &DeviceId, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let (book, at) = (fleet.ledger.book(), now()?);
    let device = book.device(id).ok_or_else(|| FleetError::UnknownDevice(id.clone()))?;
    let mut value = summary(book, device, at);
    let key_id = |bytes: &[u8]| KeyId::of(bytes).to_string();
    let eras: Vec<Value> = book
        .eras(id)
        .map(|chain| json!({"era": chain.ack.era.number, "segments": chain.ack.next_segment, "records": chain.ack.next_index}))
        .collect();
    let more = json!({
        "profile": device.profile,
        "approved": device.approved_at.to_string(),
        "identity": key_id(device.keys.identity.as_bytes()),
        "past_identities": device.past.iter().map(|keys| key_id(keys.identity.as_bytes())).collect::<Vec<_>>(),
        "last": book.seen(id).map(|seen| json!({
            "era": seen.era.number,
            "next_index": seen.next_index,
            "bundle_version": seen.bundle_version,
            "policy_version": seen.policy_version,
            "floor": seen.floor.to_string(),
            "version": seen.version,
            "grants_match": seen.grants == book.live_grants_digest(id, at),
        })),
        "grant_ids": book.live_grants(id, at).map(|grant| grant.spec.grant).collect::<Vec<_>>(),
        "eras": eras,
        "forks": book.forks().filter(|fork| fork.device == *id).count(),
    });
    if let (Value::Object(fields), Value::Object(more)) = (&mut value, more) {
        fields.extend(more);
    }
    show(session.format, &value, lines)?;
    Ok(Exit::Done)
}

/// An object as `name value` lines.
pub(super) fn lines(value: &Value) -> String {
    match value {
        Value::Object(fields) => output::lines(fields),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => value.to_string(),
    }
}

fn pending(args: &PendingArgs, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    if let (Some(device), Some(out)) = (&args.device, &args.out) {
        return write_pending(&fleet, device, out, session);
    }
    let code = |request: &Signed<EnrolRequest>| EnrolRequest::code(request).to_string();
    let waiting: Vec<Value> = fleet
        .ledger
        .book()
        .pending()
        .map(|pending| json!({"device": pending.device, "at": pending.at.to_string(), "code": code(&pending.request)}))
        .collect();
    show(session.format, &json!({ "pending": waiting }), |_| {
        let mut text = String::new();
        for one in &waiting {
            let word = |name: &str| one[name].as_str().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:24} {} {}", word("device"), word("at"), word("code"));
        }
        text.push_str("compare the code with the device itself: what is shown here came over the broker");
        text
    })?;
    Ok(Exit::Done)
}

fn write_pending(fleet: &Fleet, device: &DeviceId, out: &Path, session: &Session) -> Result<Exit, Failure> {
    let pending = fleet.ledger.book().request_of(device).ok_or_else(|| {
        let advice = "`hardtack fleet device pending` lists who waits";
        Failure::new(Exit::Failure, format!("no request of device {device} waits"), advice)
    })?;
    files::replace(out, &pending.request.to_bytes()).map_err(file_failure)?;
    show(session.format, &json!({"device": device, "file": out}), |_| format!("wrote {}", out.display()))?;
    Ok(Exit::Done)
}

fn retire(device: &DeviceId, reason: &str, session: &Session) -> Result<Exit, Failure> {
    let mut fleet = session.open()?;
    let (at, name, key) = (now()?, fleet.operator.clone(), fleet.operator_key()?);
    fleet.act(|book, _, fx| enrol::retire(book, device, reason, operator(&name, &key), at, fx))?;
    show(session.format, &json!({"device": device, "status": "retired"}), |_| {
        format!(
            "device {device} is retired: its grants go when it is next in touch\n\
             if it is lost or stolen: hardtack fleet revoke device {device}"
        )
    })?;
    Ok(Exit::Done)
}
