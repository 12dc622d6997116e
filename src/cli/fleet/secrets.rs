//! `hardtack fleet secrets`: who still needs a long-lived key.
//!
//! Owns: the subcommand, how long is long.
//! Never: counts a record that does not check out.
//! Read next: `../../secrets/report.rs`.

use std::fmt::Write as _;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::audit::{unsound, walk, Which};
use super::{lasting, millis, now, Session};
use crate::cli::output::{show, visible};
use crate::cli::{Exit, Failure};
use crate::secrets::report::{Needed, Needs, Standing, Summary};
use crate::time::Timestamp;

/// `hardtack fleet secrets …`.
#[derive(Subcommand, Debug)]
pub enum SecretsCommand {
    /// Who uses which legacy secret, and which may be removed
    Report(ReportArgs),
}

/// Arguments of `hardtack fleet secrets report`.
#[derive(Args, Debug)]
pub struct ReportArgs {
    #[command(flatten)]
    which: Which,
    /// A secret that nobody was let in with for so long may be removed
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = lasting)]
    unused: Duration,
}

pub(super) fn run(command: &SecretsCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        SecretsCommand::Report(args) => report(args, session),
    }
}

fn report(args: &ReportArgs, session: &Session) -> Result<Exit, Failure> {
    let fleet = session.open()?;
    let mut needs = Needs::default();
    let checked = walk(&fleet, &args.which, |segment, checked| {
        for (record, named) in checked.into_iter().flat_map(|checked| &checked.records) {
            needs.add(&segment.device, record, named.as_deref());
        }
        Ok(())
    })?;
    let (rows, summary) = (needs.rows(), needs.summary(now()?, millis(args.unused)));
    let value = json!({
        "ok": checked.is_signed(),
        "unused_s": args.unused.as_secs(),
        "secrets": summary.iter().map(summary_row).collect::<Vec<_>>(),
        "uses": rows.iter().map(row).collect::<Vec<_>>(),
        "left_out": needs.left_out(),
    });
    show(session.format, &value, |_| words(&summary, &rows, needs.left_out()))?;
    match checked.is_signed() {
        true => Ok(Exit::Done),
        false => Err(unsound()),
    }
}

fn date(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| at.to_string())
}

fn summary_row(summary: &Summary) -> serde_json::Value {
    let Summary { secret, standing, last, allowed, devices } = summary;
    json!({"secret": secret, "standing": standing, "last": date(*last), "allowed": allowed, "devices": devices})
}

fn row(needed: &Needed) -> serde_json::Value {
    let Needed { need, first, last, allowed, denied } = needed;
    json!({
        "secret": need.secret,
        "device": need.device,
        "class": need.class,
        "owner": need.owner,
        "grant": need.grant,
        "workload": need.workload,
        "first": date(*first),
        "last": date(*last),
        "allowed": allowed,
        "denied": denied,
    })
}

fn words(summary: &[Summary], rows: &[Needed], left_out: u64) -> String {
    let mut text = String::new();
    for of in summary {
        let standing = match of.standing {
            Standing::InUse => "in use",
            Standing::MayBeRemoved => "MAY BE REMOVED",
        };
        let last = date(of.last).unwrap_or_else(|| "never".into());
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}: {standing}; asked for and allowed last {last}, {} times on {} devices",
            visible(&of.secret),
            of.allowed,
            of.devices
        );
        for needed in rows.iter().filter(|needed| needed.need.secret == of.secret) {
            let Needed { need, first, last, allowed, denied } = needed;
            let known = |value: &Option<String>| value.as_deref().map_or("-".to_owned(), visible);
            let dates = match (date(*first), date(*last)) {
                (Some(first), Some(last)) => format!("{first} to {last}"),
                (None, _) | (_, None) => "never allowed".into(),
            };
            let _ = writeln!(
                text,
                "  {} class={} owner={} grant={} {dates}: {allowed} allowed, {denied} refused [{}]",
                need.device,
                known(&need.class),
                known(&need.owner),
                known(&need.grant),
                need.workload.iter().map(|selector| visible(selector)).collect::<Vec<_>>().join(" "),
            );
        }
    }
    if left_out > 0 {
        let _ = writeln!(text, "{left_out} decisions are in no row: name a device with --device");
    }
    if summary.is_empty() {
        text.push_str("no device has recorded a use of a secret\n");
    }
    text.push_str(
        "not known here: secrets that no program ever asked for, which `hardtack secrets list` shows on the device",
    );
    text
}
