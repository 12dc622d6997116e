//! `hardtack run -- CMD`: a program with a task of its own.
//!
//! Owns: the arguments; beginning the task from within the process that becomes the program, so that the task is the
//! program's own and ends with it; the numbers to exit with.
//! Never: stands between the program and its terminal.
//! Read next: `../shell/wrap.rs`, which looks after both.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustix::process::{set_parent_process_death_signal, Signal};

use super::client::{agent_socket, post, BeginArgs};
use super::{output, Exit, Failure, Globals};
use crate::agent::request::TaskReply;
use crate::shell::wrap::{self, let_signals_through, OnEnd, Plan, Report, REPORT_VARIABLE};

/// The command is there and cannot be run, as `env` says it.
const CANNOT_RUN: u8 = 126;
/// There is no such command.
const NOT_FOUND: u8 = 127;

/// Arguments of `hardtack run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    begin: BeginArgs,
    /// Hand the credential over in HARDTACK_TOKEN. Without it, it is in the file that HARDTACK_TOKEN_FILE names, and renewed
    /// there: what stands in an environment cannot be replaced, and is shown to whoever may look at the process
    #[arg(long)]
    env: bool,
    /// What becomes of the command when its task ends first (revoked, expired, finished by an operator)
    #[arg(long, value_enum, default_value_t)]
    on_end: End,
    /// How long a command that is to end may take before it is killed
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// What becomes of a command whose task has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
enum End {
    /// It gets SIGTERM, and SIGKILL after --grace. It is killed too when `hardtack run` is.
    #[default]
    Kill,
    /// It goes on, and is denied whatever it asks for.
    Keep,
}

/// Runs the command, and ends as it does.
pub fn run(args: RunArgs, globals: &Globals) -> ExitCode {
    let ended = match std::env::var_os(REPORT_VARIABLE) {
        None => supervise(&args, globals),
        Some(report) => become_it(args, globals, &report),
    };
    ended.unwrap_or_else(|failure| output::fail(globals.output, &failure).into())
}

fn supervise(args: &RunArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let plan = Plan {
        // The very file that runs, whatever its name stands for by now.
        program: "/proc/self/exe".into(),
        arguments: std::env::args_os().skip(1).collect(),
        socket: agent_socket(globals)?,
        renews: !args.env,
        on_end: match args.on_end {
            End::Kill => OnEnd::Kill(args.grace),
            End::Keep => OnEnd::Keep,
        },
    };
    let ended = wrap::run(&plan, &|text| output::tell(&format!("hardtack run: {text}")));
    ended.map(ExitCode::from).map_err(|error| {
        Failure::new(
            Exit::Failure,
            format!("the command cannot be run: {error}"),
            "see that XDG_RUNTIME_DIR can be written",
        )
    })
}

/// Begins the task and becomes the command. What holds the task is this process, whose number and start stay the same.
fn become_it(args: RunArgs, globals: &Globals, report: &OsString) -> Result<ExitCode, Failure> {
    let internal =
        |what: String| Failure::new(Exit::Usage, what, format!("{REPORT_VARIABLE} is for `hardtack run` itself"));
    let (parent, folder) = split(report).ok_or_else(|| internal("the report cannot be told".into()))?;
    if args.on_end == End::Kill {
        let tied = set_parent_process_death_signal(Some(Signal::KILL));
        tied.map_err(|error| internal(format!("the command cannot be tied to its wrapper: {error}")))?;
    }
    // It may have ended before that.
    if rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(parent) {
        return Err(internal("the process that started this one has ended".into()));
    }
    let socket = agent_socket(globals)?;
    let holder = args.begin.holder;
    let task: TaskReply = post(globals, "/v1/tasks", &args.begin.request(holder)?)?;
    let folder_of_file = (!args.env).then_some(folder.as_path());
    let handover = wrap::hand_over(&task, &socket, folder_of_file)
        .map_err(|error| Failure::new(Exit::Failure, format!("the credential cannot be handed over: {error}"), ""))?;
    let report = Report { task: task.task_id.clone(), expires_in_s: task.expires_in_s };
    wrap::report(&folder, &report).map_err(|error| internal(format!("the task cannot be told of: {error}")))?;
    let [program, arguments @ ..] = args.command.as_slice() else { return Err(internal("no command".into())) };
    let mut command = Command::new(program);
    command.args(arguments).envs(&handover.set);
    for name in handover.unset {
        command.env_remove(name);
    }
    let_signals_through().map_err(|error| internal(format!("signals cannot be let through: {error}")))?;
    let error = command.exec();
    let is = |kind| error.kind() == kind;
    let (number, advice) = if is(std::io::ErrorKind::NotFound) {
        (NOT_FOUND, "name a program that is in PATH, or its path")
    } else if is(std::io::ErrorKind::PermissionDenied) {
        (CANNOT_RUN, "it must be executable for this user")
    } else {
        (CANNOT_RUN, "")
    };
    let what = format!("cannot run {}: {error}", Path::new(program).display());
    output::fail(globals.output, &Failure::new(Exit::Failure, what, advice));
    Ok(number.into())
}

/// `PID:FOLDER`.
fn split(report: &OsString) -> Option<(i32, PathBuf)> {
    let (parent, folder) = report.to_str()?.split_once(':')?;
    Some((parent.parse().ok()?, folder.into()))
}
