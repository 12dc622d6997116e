//! Commands that ask the running agent: `authorize`, `task`, `status`, `whoami`.
//!
//! Owns: finding the socket, the requests, how the answers look to a person, which exit code a problem has.
//! Never: interprets a decision beyond its exit code.
//! Read next: `../shell/client.rs`.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use rustix::process::Pid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::output::{show, visible, Format};
use super::token::token_argument;
use super::{Exit, Failure, Globals};
use crate::agent::request::{
    Authorize, Autonomy, BeginTask, DecisionReply, Ended, EndedReply, FinishedReply, IdentityDocument, Mode, Reason,
    StatusReply, StepReply, TakeStep, TaskReply, TaskSummary, Verdict, WhoamiReply,
};
use crate::ids::{RiskClass, TaskClass, TaskId};
use crate::shell::client::{Answer, Client, ClientError};
use crate::shell::proc;
use crate::wire::arguments::Arguments;
use crate::wire::identity::{DocumentType, DOCUMENT_BYTES_MAX};
use crate::wire::link::Right;

/// The socket that a client uses, as `unix:///path` or a path.
const SOCKET_VARIABLE: &str = "HARDTACK_SOCKET";

/// Arguments of `hardtack authorize`.
#[derive(Args, Debug)]
pub struct AuthorizeArgs {
    /// The token: a file, `-` for stdin, or the token's text
    #[arg(long, value_name = "FILE|-")]
    token: String,
    /// What is to be done
    #[arg(long)]
    operation: String,
    /// To what
    #[arg(long)]
    resource: String,
    /// Class of risk
    #[arg(long)]
    risk: Option<RiskClass>,
    /// Where the effect goes
    #[arg(long)]
    destination: Option<String>,
    /// What it is done with: NAME=TEXT, or NAME:=JSON for numbers, true, false, null, lists and objects. May be repeated
    #[arg(long = "argument", value_name = "NAME=TEXT|NAME:=JSON", value_parser = argument)]
    arguments: Vec<Arguments>,
}

/// `hardtack task …`.
#[derive(Subcommand, Debug)]
pub enum TaskCommand {
    /// Begin a task and print its credential
    Begin(BeginArgs),
    /// End a task: its credentials are refused from now on
    Finish {
        /// The task
        task: TaskId,
    },
    /// This user's live tasks
    List,
    /// Exchange a planner's credential for a step, and print its credential: one use, for another workload
    Step(StepArgs),
    /// Wait until a task ends, and print how: finished (exits 0), expired (4), revoked (5), used up (3), gone with what held it (1), or lost track of by the agent (1)
    Wait {
        /// The task
        task: TaskId,
    },
}

/// Arguments of `hardtack task begin`.
#[derive(Args, Clone, Debug)]
pub struct BeginArgs {
    /// The class of the task
    class: TaskClass,
    /// A right, ACTION:RESOURCE; a resource that ends in /* is a prefix. May be repeated
    #[arg(long = "right", value_name = "ACTION:RESOURCE", required = true, value_parser = right)]
    rights: Vec<Right>,
    /// How long
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// How many uses at the most
    #[arg(long)]
    uses: Option<u64>,
    /// Only plan: the credential is good for nothing but to be exchanged for steps (`hardtack task step`)
    #[arg(long)]
    planner: bool,
    /// What it is for, for the audit
    #[arg(long)]
    reason: Option<String>,
    /// Who initiates it: a file with an identity document of an issuer that the fleet believes, or `-` for stdin
    #[arg(long, value_name = "FILE|-")]
    identity: Option<String>,
    /// The form of that document
    #[arg(long, value_name = "FORM", default_value = "oidc", value_parser = document_type, requires = "identity")]
    identity_type: DocumentType,
    /// The process with which the task ends, an ancestor of this command. The script that runs it where none is named: the
    /// leader of its group of processes, else its parent
    #[arg(long, value_name = "PID")]
    pub(super) holder: Option<u32>,
}

impl BeginArgs {
    /// What the agent is asked for.
    ///
    /// # Errors
    /// The identity document cannot be read.
    pub(super) fn request(self, holder: Option<u32>) -> Result<BeginTask, Failure> {
        let document = |token| IdentityDocument { form: self.identity_type, token };
        let identity = self.identity.as_deref().map(document_argument).transpose()?.map(document);
        Ok(BeginTask {
            task: self.class,
            rights: self.rights,
            ttl_s: self.ttl.as_secs(),
            uses: self.uses,
            planner: self.planner,
            reason: self.reason,
            holder,
            lease: None,
            identity,
            key: None,
        })
    }
}

/// Arguments of `hardtack task step`.
#[derive(Args, Debug)]
pub struct StepArgs {
    /// The task
    task: TaskId,
    /// The planner's credential: a file, `-` for stdin, or the token's text
    #[arg(long, value_name = "FILE|-")]
    token: String,
    /// Selector of the workload that is to use it, for example unix:uid:2002
    #[arg(long, value_name = "SELECTOR")]
    executor: String,
    /// A right, ACTION:RESOURCE, that the task has. May be repeated
    #[arg(long = "right", value_name = "ACTION:RESOURCE", required = true, value_parser = right)]
    rights: Vec<Right>,
    /// How long
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Class of risk of the exchange
    #[arg(long)]
    risk: Option<RiskClass>,
    /// Under one key a task gives one step, however often it is asked
    #[arg(long, value_name = "TEXT")]
    idempotency_key: Option<String>,
    /// What it is for, for the audit
    #[arg(long)]
    reason: Option<String>,
}

fn document_type(text: &str) -> Result<DocumentType, String> {
    match text {
        "oidc" => Ok(DocumentType::Oidc),
        "jwt-svid" => Ok(DocumentType::JwtSvid),
        _ => Err("it is oidc or jwt-svid".into()),
    }
}

/// The text of an identity document, without the white space around it.
fn document_argument(argument: &str) -> Result<String, Failure> {
    let unread = |what: String| Failure::new(Exit::Usage, what, "name a file that holds the signed token, or `-`");
    let mut text = String::new();
    let limit = DOCUMENT_BYTES_MAX as u64 + 64;
    let read = match argument {
        "-" => std::io::stdin().take(limit).read_to_string(&mut text),
        path => std::fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text)),
    };
    read.map_err(|error| unread(format!("the identity document cannot be read from {argument}: {error}")))?;
    Ok(text.trim().to_owned())
}

fn right(text: &str) -> Result<Right, String> {
    match text.split_once(':') {
        Some((action, resource)) if !action.is_empty() && !resource.is_empty() => {
            Ok(Right { resource: resource.into(), action: action.into() })
        }
        Some(_) | None => Err("write it as ACTION:RESOURCE, for example read:meter/*".into()),
    }
}

/// Which socket a command talks to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Door {
    Admin,
    Agent,
}

/// Asks for a decision; the exit code is its reason.
///
/// # Errors
/// No agent, or a problem in place of a decision.
pub fn authorize(args: &AuthorizeArgs, globals: &Globals) -> Result<Exit, Failure> {
    let request = Authorize {
        token: token_argument(&args.token)?,
        operation: args.operation.clone(),
        resource: args.resource.clone(),
        destination: args.destination.clone(),
        risk: args.risk.clone(),
        task: None,
        step: None,
        arguments: (!args.arguments.is_empty()).then(|| args.arguments.iter().cloned().collect()),
    };
    let decision: DecisionReply = post(globals, "/v1/authorize", &request)?;
    show(globals.output, &decision, |decision| {
        let verdict = match decision.decision {
            Verdict::Allow => "allow",
            Verdict::Deny => "deny",
        };
        let by = decision.decided_by.as_ref().map(|by| format!("\ndecided by {by}")).unwrap_or_default();
        format!("{verdict}  {}  {}\n{}{by}", decision.reason.name(), decision.decision_id, decision.explain)
    })?;
    Ok(decision.reason.into())
}

/// An argument: `NAME=TEXT`, or `NAME:=JSON` for all that is no text.
fn argument(written: &str) -> Result<Arguments, String> {
    let (name, value) = written.split_once('=').ok_or("write it as NAME=TEXT, or as NAME:=JSON")?;
    let mut argument = Arguments::default();
    match name.strip_suffix(':') {
        Some(name) => {
            let pushed = argument.push_json(name, value);
            pushed.map_err(|error| format!("behind := is no JSON: {error}"))?;
        }
        None => argument.push_text(name, value),
    }
    Ok(argument)
}

/// Begins, finishes or lists tasks.
///
/// # Errors
/// No agent, or a refusal with its reason as the exit code.
pub fn task(command: TaskCommand, globals: &Globals) -> Result<Exit, Failure> {
    match command {
        TaskCommand::Begin(args) => {
            let holder = match args.holder {
                Some(pid) => pid,
                None => caller_of_this().ok_or_else(no_caller)?,
            };
            let task: TaskReply = post(globals, "/v1/tasks", &args.request(Some(holder))?)?;
            if globals.output == Format::Human {
                let (id, origin, ends) = (&task.task_id, task.origin.name(), age(task.expires_in_s));
                let holder = named(holder);
                super::output::tell(&format!("task {id}, {origin}, ends in {ends}, or with process {holder}"));
            }
            show(globals.output, &task, |task| task.token.clone())?;
        }
        TaskCommand::Finish { task } => {
            let path = format!("/v1/tasks/{task}/finish");
            let answer = ask(globals, Door::Agent, |client| client.post(&path, Vec::new()))?;
            let finished: FinishedReply = read(&answer)?;
            show(globals.output, &finished, |finished| format!("{} finished", finished.task_id))?;
        }
        TaskCommand::Wait { task } => {
            let path = format!("/v1/tasks/{task}/wait");
            // The agent answers from time to time that it lives still.
            let (ended, how) = loop {
                let ended: EndedReply = get(globals, Door::Agent, &path)?;
                if let Some(how) = ended.ended {
                    break (ended, how);
                }
            };
            show(globals.output, &ended, |ended| format!("{} {}", ended.task_id, how.name()))?;
            return Ok(exit_of(how));
        }
        TaskCommand::Step(args) => {
            let request = TakeStep {
                token: token_argument(&args.token)?,
                executor: args.executor,
                rights: args.rights,
                ttl_s: args.ttl.as_secs(),
                uses: None,
                risk: args.risk,
                idempotency_key: args.idempotency_key,
                reason: args.reason,
            };
            let step: StepReply = post(globals, &format!("/v1/tasks/{}/steps", args.task), &request)?;
            if globals.output == Format::Human {
                let ends = age(step.expires_in_s);
                super::output::tell(&format!("step {} for {}, one use, ends in {ends}", step.step_id, step.executor));
            }
            show(globals.output, &step, |step| step.token.clone())?;
        }
        TaskCommand::List => {
            let tasks: Tasks = get(globals, Door::Agent, "/v1/tasks")?;
            show(globals.output, &tasks, |tasks| list(&tasks.tasks))?;
        }
    }
    Ok(Exit::Done)
}

/// Who is to hold the task that this command begins, for it ends itself at once: the script that runs it leads its group of
/// processes, from wherever in a pipeline the command was started; typed into a shell it leads its own, and the shell is its
/// parent.
fn caller_of_this() -> Option<u32> {
    let own = rustix::process::getpid();
    let user = rustix::process::geteuid();
    let is_ours = |pid: &Pid| std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == user.as_raw());
    let group = proc::stat(own)?.group?;
    let above = std::iter::successors(proc::stat(own)?.parent, |pid| proc::stat(*pid)?.parent);
    let above: Vec<Pid> = above.take(proc::ANCESTORS_MAX).collect();
    let leads = above.iter().find(|pid| **pid == group).filter(|pid| is_ours(pid));
    let holder = leads.or_else(|| above.first().filter(|pid| is_ours(pid)))?;
    u32::try_from(holder.as_raw_nonzero().get()).ok()
}

/// A process's number, and what it calls itself.
fn named(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim() {
        "" => pid.to_string(),
        name => format!("{pid} ({})", visible(name)),
    }
}

fn no_caller() -> Failure {
    let what = "the task would end with this command: neither the leader of its group of processes nor its parent is of this user";
    Failure::new(Exit::Usage, what, "name an ancestor of this user with --holder, or run it from a shell of this user")
}

/// How a task ended, in the numbers that a decision about its credential has.
const fn exit_of(how: Ended) -> Exit {
    match how {
        Ended::Expired => Exit::Expired,
        Ended::Finished => Exit::Done,
        Ended::Gone => Exit::Failure,
        Ended::Lost => Exit::Failure,
        Ended::Revoked => Exit::Revoked,
        Ended::UsesSpent => Exit::Denied,
    }
}

#[derive(Serialize, Deserialize)]
struct Tasks {
    tasks: Vec<TaskSummary>,
}

fn list(tasks: &[TaskSummary]) -> String {
    if tasks.is_empty() {
        return "no live task".into();
    }
    let line = |task: &TaskSummary| {
        let uses = task.uses_left.map_or("unbounded".to_owned(), |uses| format!("{uses} uses left"));
        let (origin, does) = (task.origin.name(), if task.planner { "plans" } else { "works" });
        let process = task.holder.map(|pid| format!(", process {pid}")).unwrap_or_default();
        let holder = visible(&task.bound_to.join(" "));
        let who = task.initiator.as_ref().map(|who| format!("  initiated by {}", visible(&who.to_string())));
        let who = who.unwrap_or_default();
        let (id, class, ends) = (&task.task_id, &task.task, age(task.expires_in_s));
        let first = format!("{id}  {class}  {does}  {origin}  ends in {ends}  {uses}  held by {holder}{process}{who}");
        let steps = task.steps.iter().map(|step| {
            let (id, executor, ends) = (&step.step_id, visible(&step.executor), age(step.expires_in_s));
            format!("\n  step {id}  for {executor}  ends in {ends}  exchanged in {}", step.decision_id)
        });
        first + &steps.collect::<String>()
    };
    tasks.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Where the device stands. What is wrong comes first.
///
/// # Errors
/// No agent.
pub fn status(globals: &Globals) -> Result<Exit, Failure> {
    let status: StatusReply = get(globals, Door::Admin, "/v1/status")?;
    show(globals.output, &status, status_for_a_person)?;
    Ok(Exit::Done)
}

fn status_for_a_person(status: &StatusReply) -> String {
    let mut lines = vec![format!("{}  {}", status.mode.name().to_uppercase(), status.device)];
    lines.extend(status.reasons.iter().map(|reason| format!("  {reason}")));
    let remedy = match status.mode {
        Mode::Online | Mode::Offline => None,
        Mode::Stale => Some("  do: bring the link back; what needs newer revocations is denied until then"),
        Mode::Locked => Some("  do: find the reason above; nothing is allowed until it is gone"),
    };
    lines.extend(remedy.map(str::to_owned));
    lines.push(format!("fleet     {}, profile {}, version {}", status.fleet, status.profile, status.version));
    lines.push(format!("link      {}, last in touch {} ago", status.link, age(status.offline_for_s)));
    lines.push(format!(
        "trust     bundle {}, policy {}, revocations {} ({} old, {})",
        status.bundle_version,
        status.policy_version,
        status.feed_seq,
        age(status.staleness_s),
        status.freshness.name(),
    ));
    for rule in &status.emergency {
        let (left, key) = (age(rule.left_s), rule.key);
        let rule = format!("{} until {}, {left} left at most, key {key} of {}", rule.covers, rule.until, rule.operator);
        lines.push(format!("emergency {rule}"));
    }
    let ceiling = status.ceiling.as_deref().unwrap_or("not known");
    lines
        .push(format!("time      at least {}, {} by powered-on time, at most {ceiling}", status.floor, status.powered));
    let room = status.audit.used_bytes.saturating_mul(100) / status.audit.quota_bytes.max(1);
    lines.push(format!("audit     era {}, {} records not acknowledged, {room} % full", status.era, status.pending));
    let percent = |bytes: u64| bytes.saturating_mul(100) / status.audit.quota_bytes.max(1);
    let classes = status.audit.classes.iter().map(|room| {
        let full = if status.audit.fits.contains(&room.class) { "" } else { ", FULL" };
        format!("{} {} of {} %{full}", room.class.name(), percent(room.used_bytes), percent(room.max_bytes))
    });
    lines.push(format!("room      {}", classes.collect::<Vec<_>>().join("; ")));
    lines.push(format!("tasks     {} live", status.tasks));
    for grant in &status.grants {
        let left = |what: &str, left: Option<u64>| left.map(|left| format!(", {left} {what} left")).unwrap_or_default();
        let offline = grant.offline_left_s.map(|left| format!(", {} offline left", age(left))).unwrap_or_default();
        let (uses, boots) = (left("uses", grant.uses_left), left("boots", grant.boots_left.map(u64::from)));
        lines.push(format!("grant     {} of {}, until {}{uses}{offline}{boots}", grant.id, grant.owner, grant.expires));
    }
    if status.grants.is_empty() {
        lines.push("grant     none: no task can begin while offline; `hardtack fleet grant create` makes one".into());
    }
    for line in &status.autonomy {
        lines.push(format!("alone     {}", alone(line)));
    }
    lines.join("\n")
}

/// How long a class of risk goes on without the fleet, and what else ends it.
pub(super) fn alone(line: &Autonomy) -> String {
    let hours = line.hours.map_or("without end".to_owned(), |hours| format!("{hours:.1} h"));
    let left = |what: &str, left: Option<u64>| left.map(|left| format!(", {left} {what} left")).unwrap_or_default();
    let (uses, boots) = (left("uses", line.uses_left), left("boots", line.boots_left.map(u64::from)));
    format!("{} risk: {hours} ({}){uses}{boots}", line.risk, line.stops)
}

/// What the kernel attests of this program.
///
/// # Errors
/// No agent.
pub fn whoami(globals: &Globals) -> Result<Exit, Failure> {
    let whoami: WhoamiReply = get(globals, Door::Agent, "/v1/whoami")?;
    show(globals.output, &whoami, |whoami| {
        let classes: Vec<&str> = whoami.may_begin.iter().map(TaskClass::as_str).collect();
        let classes = if classes.is_empty() { "nothing".to_owned() } else { classes.join(", ") };
        format!(
            "device     {} of {}\nselectors  {}\nmay begin  {classes}",
            whoami.device,
            whoami.fleet,
            whoami.selectors.join(" "),
        )
    })?;
    Ok(Exit::Done)
}

/// Whether the environment names the agent's socket.
pub(super) fn names_socket() -> bool {
    std::env::var_os(SOCKET_VARIABLE).is_some()
}

pub(super) fn post<B: Serialize, T: DeserializeOwned>(globals: &Globals, path: &str, body: &B) -> Result<T, Failure> {
    post_to(globals, Door::Agent, path, body)
}

/// Asks with a body.
pub(super) fn post_to<B: Serialize, T: DeserializeOwned>(
    globals: &Globals,
    door: Door,
    path: &str,
    body: &B,
) -> Result<T, Failure> {
    let body = serde_json::to_vec(body).map_err(|error| Failure::new(Exit::Failure, error, ""))?;
    read(&ask(globals, door, |client| client.post(path, body))?)
}

/// Asks.
pub(super) fn get<T: DeserializeOwned>(globals: &Globals, door: Door, path: &str) -> Result<T, Failure> {
    read(&ask(globals, door, |client| client.get(path))?)
}

fn ask(
    globals: &Globals,
    door: Door,
    exchange: impl FnOnce(&Client) -> Result<Answer, ClientError>,
) -> Result<Answer, Failure> {
    let socket = socket(globals, door, std::env::var_os(SOCKET_VARIABLE))?;
    exchange(&Client::new(&socket)).map_err(|error| {
        let advice = match &error {
            ClientError::Broken { .. } => "look at the agent's log, and try again",
            ClientError::Unreachable { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "run it as the agent's user or group"
            }
            ClientError::Unreachable { .. } => {
                "start it with `hardtack agent run`, or name its folder with --run-dir or its socket with HARDTACK_SOCKET"
            }
        };
        Failure::new(Exit::Unreachable, error, advice)
    })
}

/// Where workloads ask.
///
/// # Errors
/// When the configuration cannot be read.
#[cfg(feature = "agent")]
pub(super) fn agent_socket(globals: &Globals) -> Result<PathBuf, Failure> {
    socket(globals, Door::Agent, std::env::var_os(SOCKET_VARIABLE))
}

/// Where enforcement points ask. The variable is for workloads.
///
/// # Errors
/// As [`agent_socket`].
#[cfg(feature = "agent")]
pub(super) fn pep_socket(globals: &Globals) -> Result<PathBuf, Failure> {
    Ok(globals.load()?.run_dir.join("pep.sock"))
}

/// A flag says more than the variable, and the variable more than the configuration.
fn socket(globals: &Globals, door: Door, variable: Option<OsString>) -> Result<PathBuf, Failure> {
    let named = variable.filter(|socket| !socket.is_empty() && globals.run_dir.is_none());
    if let Some(socket) = named {
        let plain = socket.to_str().and_then(|text| text.strip_prefix("unix://")).map(PathBuf::from);
        return Ok(plain.unwrap_or_else(|| socket.into()));
    }
    let name = match door {
        Door::Admin => "admin.sock",
        Door::Agent => "agent.sock",
    };
    Ok(globals.load()?.run_dir.join(name))
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, Failure> {
    if !(200..300).contains(&answer.status) {
        return Err(problem(answer));
    }
    serde_json::from_slice(&answer.body).map_err(|error| {
        let what = format!("the agent's answer is not understood: {error}");
        Failure::new(Exit::Failure, what, "agent and command line may be of different versions: restart the agent")
    })
}

/// What of an RFC 9457 problem is of interest here.
#[derive(Deserialize)]
struct ProblemBody {
    code: String,
    detail: String,
    /// Which grant or selector is missing.
    hint: Option<String>,
}

fn problem(answer: &Answer) -> Failure {
    let Ok(problem) = serde_json::from_slice::<ProblemBody>(&answer.body) else {
        return Failure::new(Exit::Failure, format!("the agent answered with HTTP status {}", answer.status), "");
    };
    let reason = Reason::ALL.into_iter().find(|reason| reason.name() == problem.code);
    let exit = match (problem.code.as_str(), reason) {
        ("throttled" | "request_timeout", _) => Exit::TryAgain,
        (_, Some(reason)) => reason.into(),
        ("identity_expired", None) => Exit::Expired,
        (
            "identity_malformed"
            | "identity_wrong_algorithm"
            | "identity_unknown_issuer"
            | "identity_unknown_key"
            | "identity_bad_signature",
            None,
        ) => Exit::Invalid,
        ("identity_too_large" | "identity_wrong_audience" | "identity_not_yet_valid", None) => Exit::Denied,
        ("audit_unavailable", None) => Exit::Audit,
        // What does not fit was understood and refused, as a token that is too large is.
        ("issuer_refused" | "body_too_large" | "refused", None) => Exit::Denied,
        ("invalid_request" | "headers_too_large" | "unsupported", None) => Exit::Usage,
        (_, None) => Exit::Failure,
    };
    Failure::new(exit, format!("{}: {}", problem.code, problem.detail), problem.hint.unwrap_or_default())
}

/// A length of time in the two largest units.
pub(in crate::cli) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_flag_then_variable_then_configuration() {
        let with_flag = Globals { run_dir: Some("/r".into()), ..Globals::default() };
        check_socket(&with_flag, None, "/r/agent.sock");
        check_socket(&with_flag, Some("unix:///v/x.sock"), "/r/agent.sock");
        check_socket(&Globals::default(), Some("unix:///v/x.sock"), "/v/x.sock");
        check_socket(&Globals::default(), Some("/v/x.sock"), "/v/x.sock");
    }

    #[track_caller]
    fn check_socket(globals: &Globals, variable: Option<&str>, expected: &str) {
        let found = socket(globals, Door::Agent, variable.map(OsString::from)).unwrap();
        assert_eq!(found, PathBuf::from(expected));
    }

    #[test]
    fn a_wait_tells_by_its_number_how_the_task_ended() {
        let all = [Ended::Finished, Ended::Gone, Ended::Lost, Ended::UsesSpent, Ended::Expired, Ended::Revoked];
        assert_eq!(all.map(|how| exit_of(how) as u8), [0, 1, 1, 3, 4, 5]);
    }

    #[test]
    fn problems_have_the_documented_exit_codes() {
        check_problem(503, "audit_unavailable", Exit::Audit);
        check_problem(429, "throttled", Exit::TryAgain);
        check_problem(403, "offline_spent", Exit::Denied);
        check_problem(403, "expired", Exit::Expired);
        check_problem(403, "audit_full", Exit::Audit);
        check_problem(403, "issuer_refused", Exit::Denied);
        check_problem(413, "body_too_large", Exit::Denied);
        check_problem(422, "refused", Exit::Denied);
        check_problem(400, "invalid_request", Exit::Usage);
        check_problem(404, "not_found", Exit::Failure);
        let bare = problem(&Answer { status: 431, body: Vec::new() });
        assert_eq!((bare.exit, bare.what.contains("431")), (Exit::Failure, true));
    }

    #[track_caller]
    fn check_problem(status: u16, code: &str, exit: Exit) {
        let body = serde_json::json!({"code": code, "detail": "so it is"}).to_string().into_bytes();
        let failure = problem(&Answer { status, body });
        assert_eq!(failure.exit, exit, "{code}");
        assert_eq!(failure.what, format!("{code}: so it is"));
    }

    #[test]
    fn rights_are_an_action_and_a_resource() {
        let expected = Right { resource: "modbus/a:b".into(), action: "read".into() };
        assert_eq!(right("read:modbus/a:b"), Ok(expected));
        for bad in ["read", ":x", "read:", ""] {
            assert!(right(bad).is_err(), "{bad:?}");
        }
    }
}
