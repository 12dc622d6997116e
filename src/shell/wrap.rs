//! A program that runs with a task's credential, and what looks after both.
//!
//! Owns: the program's process, the file with its credential, signals that are passed on to it, renewal, what happens when
//! the task ends before the program does.
//! Never: touches what the program reads and writes, or its terminal: it stays in this group of processes, so that a
//! terminal's own signals reach it without help. Stops before the program does, or goes on where a shell waits for both.
//! Read next: `../cli/run.rs`, which begins the task from within the program's process.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal as Blocked};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::process::{getpid, kill_process, waitid, Pid, Signal, WaitId, WaitIdOptions};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;

use super::client::{Answer, Client};
use super::files;
use crate::agent::request::{Ended, EndedReply, TaskReply};
use crate::ids::TaskId;

/// Says to the program's process, before it is the program, where it tells of its task and who waits for that.
pub const REPORT_VARIABLE: &str = "HARDTACK_RUN_REPORT";

/// What is passed on.
const PASSED_ON: [Blocked; 9] = [
    Blocked::SIGCONT,
    Blocked::SIGHUP,
    Blocked::SIGINT,
    Blocked::SIGQUIT,
    Blocked::SIGTERM,
    Blocked::SIGTSTP,
    Blocked::SIGUSR1,
    Blocked::SIGUSR2,
    Blocked::SIGWINCH,
];
/// `si_code` of a signal that the kernel sends by itself: a terminal's, which the whole group gets. But the first process of a
/// session hears alone that its terminal has hung up.
const SI_KERNEL: i32 = 0x80;
/// The most bytes of a report.
const REPORT_BYTES_MAX: u64 = 4096;
/// How long is waited before an agent is asked again that did not answer, or not as hoped.
const AGAIN: Duration = Duration::from_secs(2);
/// How long the task's end is waited for, once the program has ended.
const FAREWELL: Duration = Duration::from_secs(5);

/// What is done with the program when its task ends first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnEnd {
    /// It goes on without a credential.
    Keep,
    /// It is asked to end, and after this time it is ended.
    Kill(Duration),
}

/// What the program's process tells before it becomes the program.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The task.
    pub task: TaskId,
    /// Seconds until its credential ends.
    pub expires_in_s: u64,
}

/// How a program is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is started: this program itself, which begins the task and then becomes the other.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// The agent.
    pub socket: PathBuf,
    /// Where the credential is kept for the program, if not in its environment; there it cannot be replaced.
    pub renews: bool,
    /// What is done when the task ends first.
    pub on_end: OnEnd,
}

/// Where the credential is, in the folder that is made for it.
pub fn token_file(folder: &Path) -> PathBuf {
    folder.join("token")
}

fn report_socket(folder: &Path) -> PathBuf {
    folder.join("report")
}

/// Runs the program until it ends, and gives the number to exit with: its own, or 128 and the signal that ended it.
///
/// # Errors
/// When it cannot be started or waited for.
pub fn run(plan: &Plan, tell: &dyn Fn(&str)) -> io::Result<u8> {
    // Before there is a second thread: all of them leave these signals to the descriptor.
    let signals = signals()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(supervise(plan, signals, tell))
}

fn passed_on() -> SigSet {
    let mut set = SigSet::empty();
    PASSED_ON.into_iter().for_each(|signal| set.add(signal));
    set
}

/// Lets the signals through that the wrapper holds back for itself: who is started inherits that.
///
/// # Errors
/// When the kernel says no.
pub fn let_signals_through() -> io::Result<()> {
    Ok(passed_on().thread_unblock()?)
}

fn signals() -> io::Result<SignalFd> {
    let set = passed_on();
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// A folder that nobody else can look into, on a file system that forgets where there is one.
fn private_folder() -> io::Result<tempfile::TempDir> {
    let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
    let within = named.unwrap_or_else(std::env::temp_dir);
    let mode = std::fs::Permissions::from_mode(0o700);
    tempfile::Builder::new().prefix("hardtack-run-").permissions(mode).tempdir_in(within)
}

async fn supervise(plan: &Plan, signals: SignalFd, tell: &dyn Fn(&str)) -> io::Result<u8> {
    let folder = private_folder()?;
    let reports = UnixListener::bind(report_socket(folder.path()))?;
    let mut command = Command::new(&plan.program);
    let report = format!("{}:{}", std::process::id(), folder.path().display());
    command.args(&plan.arguments).env(REPORT_VARIABLE, report);
    let mut child = command.spawn()?;
    #[expect(
        deprecated,
        reason = "it owns its descriptor, as the deprecation asks; what replaces it is unsafe to call"
    )]
    let signals = AsyncFd::with_interest(signals, Interest::READABLE)?;
    let mut of_children = tokio::signal::unix::signal(SignalKind::child())?;
    let (says, mut said) = mpsc::channel(8);
    let file = plan.renews.then(|| token_file(folder.path()));
    let keeper = Keeper { client: Client::new(&plan.socket), file, says };
    let keeping = tokio::spawn(async move {
        match hear(&reports).await {
            Ok(report) => keeper.keep(report).await,
            Err(error) => keeper.say(Said::Note(format!("the task that was begun is not looked after: {error}"))).await,
        }
    });
    let mut task = None;
    // Far away until the program was asked to end.
    let death = tokio::time::sleep(Duration::from_secs(u64::from(u32::MAX)));
    tokio::pin!(death);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            signal = next(&signals) => pass_on(&child, signal?),
            Some(()) = of_children.recv() => if was_stopped(&child) { stop_too()? },
            Some(said) = said.recv() => match (said, plan.on_end) {
                (Said::Begun(begun), _) => task = Some(begun),
                (Said::Note(note), _) => tell(&note),
                (Said::Over(how), OnEnd::Keep) => {
                    tell(&format!("{how}: the command goes on without a credential (--on-end keep)"));
                }
                (Said::Over(how), OnEnd::Kill(grace)) => {
                    tell(&format!("{how}: the command is asked to end (--on-end kill)"));
                    send(&child, Signal::TERM);
                    // A deadline is set by making the sleep anew: nothing here reads a clock.
                    death.set(tokio::time::sleep(grace));
                }
            },
            () = &mut death => {
                tell("the command did not end when it was asked to: it is ended");
                send(&child, Signal::KILL);
                death.set(tokio::time::sleep(Duration::from_secs(u64::from(u32::MAX))));
            }
        }
    };
    keeping.abort();
    // It may have begun one and ended before that was heard: that task has ended with it.
    if let Some(task) = task {
        finish(&plan.socket, &task, tell).await;
    }
    Ok(number(status))
}

/// The task ends with its process in any case; this says that it was done.
async fn finish(socket: &Path, task: &TaskId, tell: &dyn Fn(&str)) {
    let (client, path) = (Client::new(socket), format!("/v1/tasks/{task}/finish"));
    match tokio::time::timeout(FAREWELL, client.send("POST", &path, Vec::new())).await {
        Ok(Ok(answer)) if (200..300).contains(&answer.status) => {}
        Ok(Ok(answer)) => tell(&format!("task {task} could not be finished: the agent says {}", answer.status)),
        Ok(Err(error)) => tell(&format!("task {task} could not be finished, it ends with its process: {error}")),
        Err(_) => tell(&format!("task {task} could not be finished in time, it ends with its process")),
    }
}

/// What a shell makes of it.
fn number(status: ExitStatus) -> u8 {
    let signal = || status.signal().map_or(255, |signal| 128 + signal);
    u8::try_from(status.code().unwrap_or_else(signal)).unwrap_or(255)
}

async fn next(signals: &AsyncFd<SignalFd>) -> io::Result<Option<Signal>> {
    loop {
        let mut ready = signals.readable().await?;
        let read = |signals: &AsyncFd<SignalFd>| {
            signals.get_ref().read_signal()?.ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))
        };
        if let Ok(info) = ready.try_io(read) {
            let info = info?;
            let sent = info.ssi_code != SI_KERNEL;
            let named = i32::try_from(info.ssi_signo).ok().and_then(Signal::from_named_raw);
            return Ok(named.filter(|signal| sent || *signal == Signal::HUP));
        }
    }
}

fn pass_on(child: &Child, signal: Option<Signal>) {
    if let Some(signal) = signal {
        send(child, signal);
    }
}

/// Whether the program has stopped since this was last asked. It is waited for elsewhere.
fn was_stopped(child: &Child) -> bool {
    let news = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
    number_of(child).is_some_and(|pid| matches!(waitid(WaitId::Pid(pid), news), Ok(Some(_))))
}

/// Stops as the program has, so that a shell that waits for this process has its terminal back, and continues both. Where there
/// is no shell that could, in a service for example, the kernel drops the signal, and nothing stops.
fn stop_too() -> io::Result<()> {
    let mut stop = SigSet::empty();
    stop.add(Blocked::SIGTSTP);
    stop.thread_unblock()?;
    kill_process(getpid(), Signal::TSTP)?;
    Ok(stop.thread_block()?)
}

fn number_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw)
}

fn send(child: &Child, signal: Signal) {
    if let Some(pid) = number_of(child) {
        // It has not been waited for, so the number is its own; where it has changed its user, the kernel says no.
        let _ = kill_process(pid, signal);
    }
}

/// What the program's process tells; nobody tells anything where no task was begun.
async fn hear(reports: &UnixListener) -> io::Result<Report> {
    let (stream, _) = reports.accept().await?;
    let mut text = Vec::new();
    stream.take(REPORT_BYTES_MAX).read_to_end(&mut text).await?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

/// Tells of the task, from the program's process.
///
/// # Errors
/// When nobody listens.
pub fn report(folder: &Path, report: &Report) -> io::Result<()> {
    let stream = std::os::unix::net::UnixStream::connect(report_socket(folder))?;
    serde_json::to_writer(stream, report).map_err(io::Error::other)
}

/// What is said about a task while the program runs.
enum Said {
    /// There is one.
    Begun(TaskId),
    /// Something does not go as it should.
    Note(String),
    /// It has ended, and how.
    Over(String),
}

/// What looks after a task while the program runs.
struct Keeper {
    client: Client,
    file: Option<PathBuf>,
    says: mpsc::Sender<Said>,
}

impl Keeper {
    /// Renews until the task has ended, and says how it did.
    async fn keep(&self, report: Report) {
        self.say(Said::Begun(report.task.clone())).await;
        let over = tokio::select! {
            over = self.until_ended(&report.task) => over,
            over = self.renew(&report) => Said::Over(over),
        };
        self.say(over).await;
    }

    async fn say(&self, said: Said) {
        // Nobody listens any more once the program has ended.
        let _ = self.says.send(said).await;
    }

    /// Asks the agent how the task stands. An agent that is away for a while is asked again: the task lives on meanwhile.
    async fn until_ended(&self, task: &TaskId) -> Said {
        let path = format!("/v1/tasks/{task}/wait");
        let mut noted = false;
        loop {
            let trouble = match self.client.send("GET", &path, Vec::new()).await {
                Ok(answer) if answer.status == 404 => {
                    return Said::Over(format!("the agent knows task {task} no more"));
                }
                Ok(answer) => match answered::<EndedReply>(&answer) {
                    // Whoever has used the last is about to do what that was for.
                    Ok(EndedReply { ended: Some(Ended::UsesSpent), .. }) => {
                        return Said::Note(format!("the uses of task {task} are spent: the command goes on without"));
                    }
                    Ok(EndedReply { ended: Some(how), .. }) => {
                        return Said::Over(format!("task {task} {}", told(how)));
                    }
                    Ok(EndedReply { ended: None, .. }) => {
                        noted = false;
                        continue;
                    }
                    Err(trouble) => trouble,
                },
                Err(error) => error.to_string(),
            };
            self.note(&mut noted, format!("the end of task {task} cannot be waited for: {trouble}; trying again"))
                .await;
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Says it once, until things went well again.
    async fn note(&self, noted: &mut bool, text: String) {
        if !std::mem::replace(noted, true) {
            self.say(Said::Note(text)).await;
        }
    }

    /// Renews the credential when two thirds of its life are over. Returns when it has ended without a successor.
    async fn renew(&self, report: &Report) -> String {
        let mut left = Duration::from_secs(report.expires_in_s);
        loop {
            let Some(file) = &self.file else {
                tokio::time::sleep(left).await;
                let why = "one that stands in the environment cannot be renewed";
                return format!("the credential of task {} has expired, and {why}", report.task);
            };
            let wait = (left * 2 / 3).max(Duration::from_secs(1));
            tokio::time::sleep(wait).await;
            let rest = left.saturating_sub(wait);
            match tokio::time::timeout(rest.max(AGAIN), self.until_renewed(&report.task, file)).await {
                Ok(next) => left = next,
                Err(_) => {
                    return format!("the credential of task {} has expired and could not be renewed", report.task)
                }
            }
        }
    }

    /// How long the new credential lives. What is final the wait for the task's end tells, or the end of the old one.
    async fn until_renewed(&self, task: &TaskId, file: &Path) -> Duration {
        let path = format!("/v1/tasks/{task}/renew");
        let mut noted = false;
        loop {
            let renewed = match self.client.send("POST", &path, Vec::new()).await {
                Ok(answer) => answered::<TaskReply>(&answer),
                Err(error) => Err(error.to_string()),
            };
            let kept = renewed.and_then(|reply| {
                let written = files::replace(file, reply.token.as_bytes());
                written.map(|()| reply.expires_in_s).map_err(|error| error.to_string())
            });
            match kept {
                Ok(expires_in_s) => return Duration::from_secs(expires_in_s),
                Err(trouble) => {
                    let text = format!("the credential of task {task} is not renewed: {trouble}; trying again");
                    self.note(&mut noted, text).await;
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// What the agent says, or the problem that it has.
fn answered<T: DeserializeOwned>(answer: &Answer) -> Result<T, String> {
    if answer.status != 200 {
        return Err(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)));
    }
    serde_json::from_slice(&answer.body).map_err(|error| error.to_string())
}

const fn told(how: Ended) -> &'static str {
    match how {
        Ended::Expired => "has expired",
        Ended::Finished => "was finished",
        Ended::Gone => "ended with what held it",
        Ended::Lost => "ended: the device lost track of it",
        Ended::Revoked => "was revoked",
        Ended::UsesSpent => "has no use left",
    }
}

/// What the environment of the program has besides, and what it has not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handover {
    /// Set.
    pub set: BTreeMap<&'static str, OsString>,
    /// Unset: whatever they said is not for this task.
    pub unset: Vec<&'static str>,
}

/// Hands a credential over: in a file of that folder, or in the environment.
///
/// # Errors
/// When the file cannot be written.
pub fn hand_over(task: &TaskReply, socket: &Path, folder: Option<&Path>) -> io::Result<Handover> {
    // As `curl --unix-socket` and every other client takes it.
    let socket = std::path::absolute(socket)?.into_os_string();
    let mut set = BTreeMap::from([("HARDTACK_SOCKET", socket), ("HARDTACK_TASK_ID", task.task_id.as_str().into())]);
    let other = match folder {
        Some(folder) => {
            let file = token_file(folder);
            files::replace(&file, task.token.as_bytes()).map_err(io::Error::other)?;
            set.insert("HARDTACK_TOKEN_FILE", file.into());
            "HARDTACK_TOKEN"
        }
        None => {
            set.insert("HARDTACK_TOKEN", task.token.clone().into());
            "HARDTACK_TOKEN_FILE"
        }
    };
    Ok(Handover { set, unset: vec![other, REPORT_VARIABLE] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_the_programs_or_tells_the_signal() {
        let all = [(0, 0), (7 << 8, 7), (255 << 8, 255), (9, 137), (15, 143)];
        for (raw, expected) in all {
            assert_eq!(number(ExitStatus::from_raw(raw)), expected, "{raw}");
        }
    }
}
