//! `hardtack doctor`: what is wrong with this device, in words, and what to do.
//!
//! Owns: the findings: what each number means to a person, which of them are wrong, what would make them better.
//! Never: measures anything: it reads the agent's status, or, where no agent runs, what a start would find.
//! Read next: `../agent/report.rs` for the numbers, `../shell/foresee.rs` for a stopped agent.

use serde::Serialize;

use super::client::{age, alone, get, Door};
use super::output::show;
use super::{Exit, Failure, Globals};
use crate::agent::request::{AuditRoom, ClockStatus, Freshness, GrantStatus, Mode, SignedTime, StatusReply};
use crate::agent::room::Class;
use crate::shell::foresee::foresee;

/// How a finding is to be taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Weight {
    Fine,
    /// Nothing is denied for it yet.
    Note,
    /// Something is denied, or cannot work.
    Problem,
}

#[derive(Serialize)]
struct Finding {
    topic: &'static str,
    weight: Weight,
    says: String,
    #[serde(rename = "do")]
    advice: Option<String>,
}

#[derive(Serialize)]
struct Diagnosis {
    ok: bool,
    agent: &'static str,
    findings: Vec<Finding>,
    status: Option<StatusReply>,
}

impl Finding {
    fn new(topic: &'static str, weight: Weight, says: impl Into<String>) -> Self {
        Self { topic, weight, says: says.into(), advice: None }
    }

    fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

/// Runs it. It fails if anything is a problem.
///
/// # Errors
/// A configuration that cannot be read, an answer that is none.
pub fn run(globals: &Globals) -> Result<Exit, Failure> {
    let (diagnosis, exit) = match get::<StatusReply>(globals, Door::Agent, "/v1/status") {
        Ok(status) => (running(status), Exit::Failure),
        Err(failure) if failure.exit == Exit::Unreachable => stopped(&failure, globals)?,
        Err(failure) => return Err(failure),
    };
    show(globals.output, &diagnosis, words)?;
    Ok(if diagnosis.ok { Exit::Done } else { exit })
}

fn running(status: StatusReply) -> Diagnosis {
    let agent = Finding::new("agent", Weight::Fine, format!("runs, version {}", status.version));
    let mut findings = vec![agent];
    findings.extend(of_status(&status));
    findings.push(link(&status));
    Diagnosis::new("running", findings, Some(status))
}

/// Nobody answers: what a start would find says as much as the folder holds.
fn stopped(failure: &Failure, globals: &Globals) -> Result<(Diagnosis, Exit), Failure> {
    let foreseen = foresee(&super::agent::machine(&globals.load()?));
    let stopped = Finding::new("agent", Weight::Problem, failure.what.clone()).advise(failure.advice.clone());
    let partly = "what follows is what a start would find, as of the last anchor: uses since then are not counted, the link is not judged";
    let mut findings = vec![stopped, Finding::new("agent", Weight::Note, partly)];
    findings.extend(foreseen.problems.iter().map(|problem| Finding::new("start", Weight::Problem, problem.clone())));
    findings.extend(foreseen.notes.iter().map(|note| Finding::new("store", Weight::Note, note.clone())));
    let exit = match (&foreseen.device, foreseen.enrolled) {
        (_, true) => Exit::Unreachable,
        (device, false) => {
            let says = device.as_ref().map_or("no keys".into(), |device| format!("{device} has keys and no fleet"));
            let advice = "`hardtack enrol request`, have it approved, `hardtack enrol import`";
            findings.push(Finding::new("enrolment", Weight::Problem, says).advise(advice));
            Exit::NotEnrolled
        }
    };
    findings.extend(foreseen.status.iter().flat_map(of_status));
    Ok((Diagnosis::new("stopped", findings, foreseen.status), exit))
}

impl Diagnosis {
    fn new(agent: &'static str, findings: Vec<Finding>, status: Option<StatusReply>) -> Self {
        let ok = findings.iter().all(|finding| finding.weight < Weight::Problem);
        Self { ok, agent, findings, status }
    }
}

/// What can be said of a status, whether an agent runs or would.
fn of_status(status: &StatusReply) -> Vec<Finding> {
    let mut findings = vec![
        Finding::new("enrolment", Weight::Fine, format!("{} of fleet {}", status.device, status.fleet)),
        mode(status),
    ];
    findings.extend(clock(status));
    findings.push(revocations(status));
    findings.extend(grants(&status.grants));
    findings.extend(autonomy(status));
    findings.push(audit(&status.audit, status.pending));
    findings
}

fn mode(status: &StatusReply) -> Finding {
    let says = format!("{}: {}", status.mode.name(), status.reasons.join("; "));
    let finding = |weight| Finding::new("mode", weight, says.clone());
    match status.mode {
        // Offline is what it is made for, within the hours that are told below.
        Mode::Online | Mode::Offline => finding(Weight::Fine),
        Mode::Stale => finding(Weight::Problem).advise("bring the link back; what needs newer revocations is denied"),
        Mode::Locked => finding(Weight::Problem).advise(unlock(&status.reasons)),
    }
}

/// What ends a lock, by what it says of itself.
fn unlock(reasons: &[String]) -> &'static str {
    let says = |word: &str| reasons.iter().any(|reason| reason.contains(word));
    if says("revoked") {
        "the operator revoked it: `hardtack fleet revocations` says why and until when"
    } else if says("no contact") || says("anchor") || says("revocation list") {
        "let it reach its fleet: an acknowledged round trip ends this"
    } else if says("no room") {
        "let it reach its collector, or raise the quota of its profile"
    } else {
        "let it reach its fleet; if that does not end it, enrol it again: `hardtack enrol request`"
    }
}

fn clock(status: &StatusReply) -> Vec<Finding> {
    let clock = &status.clock;
    let more = clock.floor_ahead_s.map(ahead).into_iter().chain(clock.waiting.as_ref().map(waiting));
    vec![bounds(status), source(clock), hint(clock)].into_iter().chain(more).collect()
}

/// The three numbers, and what would make them better.
fn bounds(status: &StatusReply) -> Finding {
    let clock = &status.clock;
    let (floor, powered, ahead) = (&status.floor, &status.powered, age(clock.powered_ahead_s));
    let known = format!("it is {floor} or later (E, proven); {powered} by powered-on time (P, {ahead} ahead)");
    match (&status.ceiling, clock.width_s) {
        (Some(ceiling), Some(width)) => {
            let says = format!(
                "{known}; {ceiling} or earlier (L, proven in this boot): {} wide, and wider by up to {} ppm",
                age(width),
                clock.drift_ppm.saturating_mul(3),
            );
            Finding::new("clock", Weight::Fine, says)
        }
        (_, _) => {
            let says = format!(
                "{known}; how late it can be is not known (L is infinite): no round trip in this boot. Tokens are honoured \
                 up to P; what is judged as `strict` is denied"
            );
            Finding::new("clock", Weight::Note, says).advise(
                "let it reach its fleet once in this boot; without a network, `hardtack agent time import FILE` with what \
                 `hardtack fleet time export` wrote raises E and P, and a reset (`hardtack agent time challenge`) bounds L too",
            )
        }
    }
}

fn source(clock: &ClockStatus) -> Finding {
    let says = match &clock.source {
        Some(SignedTime { role, time }) => format!("last signed time: {time}, by the {role} role"),
        None => "no signed time since the start: it goes by what it had on disk".into(),
    };
    let left = age(clock.jump_left_s);
    Finding::new("clock", Weight::Fine, format!("{says}; one role alone may still move it by {left}"))
}

fn hint(clock: &ClockStatus) -> Finding {
    let shows = clock.hint.as_deref().unwrap_or("nothing, or a time before 1970");
    let says = format!("the system clock shows {shows}");
    match clock.hint_standing.as_str() {
        "behind" => {
            Finding::new("clock", Weight::Note, format!("{says}: that is proven to be past, so it is not heard"))
                .advise("set it, for the sake of other programs; the agent does without")
        }
        "past" => {
            Finding::new("clock", Weight::Note, format!("{says}: that is proven not to be yet, so it is cut to L"))
                .advise("set it; the agent does without")
        }
        "none" => Finding::new("clock", Weight::Fine, format!("{says}; the agent does without")),
        _ => {
            Finding::new("clock", Weight::Fine, format!("{says}, which is possible; it only makes decisions stricter"))
        }
    }
}

fn ahead(seconds: u64) -> Finding {
    let says = format!(
        "the fleet's answer proves E to be {} ahead: somebody signed a time that was not yet, and tokens end early here",
        age(seconds)
    );
    Finding::new("clock", Weight::Problem, says).advise(
        "only the root keys can take it back: `hardtack agent time challenge` here, `hardtack fleet time reset` where they are, \
         `hardtack agent time import` here; and find out whose key signed it",
    )
}

fn waiting(waiting: &SignedTime) -> Finding {
    let SignedTime { role, time } = waiting;
    let says = format!("a jump to {time}, signed by the {role} role alone, waits for a second role");
    Finding::new("clock", Weight::Note, says)
        .advise("let it reach its fleet, or import a file of `hardtack fleet time export` made where `fleet serve` runs: its head is the second role")
}

fn revocations(status: &StatusReply) -> Finding {
    let says = format!(
        "list {}, {} old by powered-on time, {}; bundle {}, policy {}",
        status.feed_seq,
        age(status.staleness_s),
        status.freshness.name(),
        status.bundle_version,
        status.policy_version,
    );
    match status.freshness {
        Freshness::Fresh => Finding::new("revocations", Weight::Fine, says),
        Freshness::Stale | Freshness::Unknown => Finding::new("revocations", Weight::Note, says)
            .advise("what was revoked since is not known here; each class of risk bears that for as long as below"),
    }
}

fn grants(grants: &[GrantStatus]) -> Vec<Finding> {
    if grants.is_empty() {
        let none = Finding::new("grants", Weight::Note, "none: no task can begin while offline");
        return vec![none.advise("the operator makes one: `hardtack fleet grant create`")];
    }
    grants.iter().map(grant).collect()
}

fn grant(grant: &GrantStatus) -> Finding {
    let left = |what: &str, left: Option<u64>| left.map(|left| format!(", {left} {what} left")).unwrap_or_default();
    let offline = grant.offline_left_s.map(|left| format!(", {} offline left", age(left))).unwrap_or_default();
    let (uses, boots) = (left("uses", grant.uses_left), left("boots", grant.boots_left.map(u64::from)));
    let ends = format!("until {} ({} left)", grant.expires, age(grant.expires_in_s));
    let says = format!("{} of {}, {ends}{uses}{offline}{boots}", grant.id, grant.owner);
    let spent = grant.expires_in_s == 0 || grant.uses_left == Some(0) || grant.offline_left_s == Some(0);
    match spent {
        true => Finding::new("grants", Weight::Problem, says)
            .advise("spent: let the device reach its fleet, which hands out a successor"),
        false => Finding::new("grants", Weight::Fine, says),
    }
}

fn autonomy(status: &StatusReply) -> Vec<Finding> {
    let window = status.dead_man_left_s.map(|left| {
        let says = format!("the policy locks the device if it hears nothing for another {}", age(left));
        Finding::new("autonomy", Weight::Fine, says)
    });
    let lines = status.autonomy.iter().map(|line| {
        let weight = match (line.hours == Some(0.0), status.grants.is_empty()) {
            (false, _) => Weight::Fine,
            // Some devices never work alone, and are told so above.
            (true, true) => Weight::Note,
            (true, false) => Weight::Problem,
        };
        Finding::new("autonomy", weight, alone(line))
    });
    lines.chain(window).collect()
}

fn audit(room: &AuditRoom, pending: u64) -> Finding {
    let mib = |bytes: u64| bytes.div_ceil(1024 * 1024);
    let says = format!(
        "{pending} records wait for the collector; {} of {} MiB used",
        mib(room.used_bytes),
        mib(room.quota_bytes)
    );
    let full = |class: &Class| !room.fits.contains(class);
    let lacking = match Class::ALL.iter().find(|class| full(class)) {
        None => return Finding::new("audit", Weight::Fine, says),
        Some(Class::Critical) => "the most important records do not fit, so nothing is decided",
        Some(Class::Allow) => "no allow fits any more",
        Some(Class::Denial) => "no denial fits any more: what would be denied gets no answer",
        Some(Class::Notice) => "refused messages are only counted",
    };
    Finding::new("audit", Weight::Problem, format!("{says}: {lacking}"))
        .advise("let the device reach its collector, or raise the quota of its profile")
}

fn link(status: &StatusReply) -> Finding {
    let says =
        format!("{}; last in touch {} ago, {} boots since", status.link, age(status.offline_for_s), status.boots);
    match status.mode {
        Mode::Online => Finding::new("link", Weight::Fine, says),
        Mode::Locked | Mode::Offline | Mode::Stale => Finding::new("link", Weight::Note, says).advise(
            "if it should be in touch: `hardtack agent check`, then the agent's log for `link.down` and its reason",
        ),
    }
}

/// The count of problems, then each finding in the order of the topics.
fn words(diagnosis: &Diagnosis) -> String {
    let problems = diagnosis.findings.iter().filter(|finding| finding.weight == Weight::Problem).count();
    let mut lines = vec![match problems {
        0 => "nothing is wrong".to_owned(),
        1 => "1 problem".to_owned(),
        many => format!("{many} problems"),
    }];
    for finding in &diagnosis.findings {
        let mark = match finding.weight {
            Weight::Fine => "ok  ",
            Weight::Note => "note",
            Weight::Problem => "BAD ",
        };
        lines.push(format!("{mark} {:11} {}", finding.topic, finding.says));
        lines.extend(finding.advice.iter().map(|advice| format!("                 do: {advice}")));
    }
    lines.join("\n")
}
