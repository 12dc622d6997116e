//! `hardtack agent`: the daemon of a device.
//!
//! Owns: the order of a start and of an end: agent, sockets, ready; signal, answers, link, exit.
//! Never: decides anything that the loop decides.
//! Read next: `../shell/run.rs`.

use std::sync::Arc;

use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::sync::watch;

use super::output::show;
use super::time::{self, TimeCommand};
use super::{dev, DeviceFlags, Exit, Failure, Globals};
use crate::config::Config;
use crate::shell::foresee::foresee;
use crate::shell::http::{socket_groups, Sockets};
use crate::shell::inbox::Inbox;
use crate::shell::peer::Hashing;
use crate::shell::run::{self, Machine, RunError, Running};
use crate::shell::store::StoreError;
use crate::shell::{log, service};

/// `hardtack agent …`.
#[derive(Subcommand, Debug)]
pub enum AgentCommand {
    /// Check configuration and state folder, without starting anything
    Check(DeviceFlags),
    /// Run the agent until it is asked to stop
    Run(RunArgs),
    /// Bring signed time to a device that cannot reach its fleet
    #[command(subcommand)]
    Time(TimeCommand),
}

/// Arguments of `hardtack agent run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    device: DeviceFlags,
    /// For a workload's developer: a throw-away fleet of one device, without a broker, gone when the agent ends
    #[arg(long, conflicts_with = "broker")]
    dev: bool,
    /// Of the throw-away device: for whom planners may take steps, besides curl, for example unix:path:/opt/tools/valve
    #[arg(long, value_name = "SELECTOR", requires = "dev")]
    may_step: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// Why the agent cannot start, or did not end as it should.
pub fn run(command: AgentCommand, globals: &Globals) -> Result<Exit, Failure> {
    match command {
        AgentCommand::Check(flags) => check(&globals.load_with(&flags)?, globals),
        AgentCommand::Run(args) if args.dev => dev::run(&globals.load_with(&args.device)?, args.may_step, globals),
        AgentCommand::Run(args) => serve(&globals.load_with(&args.device)?),
        AgentCommand::Time(command) => time::run(command, globals),
    }
}

pub(super) fn serve(config: &Config) -> Result<Exit, Failure> {
    log::start(config.log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failure, error, "raise the limit of open files"))?;
    let inbox = Arc::new(Inbox::default());
    // The agent first: whoever holds the state folder's lock owns the sockets too.
    let running =
        run::start(machine(config), inbox.clone(), runtime.handle().clone()).map_err(|error| failure(&error))?;
    runtime.block_on(until_asked(running, config, inbox))
}

pub(super) fn machine(config: &Config) -> Machine {
    Machine { state_dir: config.state_dir.clone(), profile: config.profile.clone(), broker: config.broker.clone() }
}

async fn until_asked(mut running: Running, config: &Config, inbox: Arc<Inbox>) -> Result<Exit, Failure> {
    let (stop, stopped) = watch::channel(false);
    let bound = match Sockets::bind_for(&config.run_dir, &config.sockets) {
        Ok(sockets) => sockets.and_loopback(&config.pep).await,
        Err(error) => Err(error),
    };
    let ended = match bound {
        Ok(sockets) => {
            let hashing = if config.attest.sha256 { Hashing::Sha256 } else { Hashing::Off };
            let sockets = sockets.hashing(hashing);
            for address in sockets.addresses() {
                tracing::info!(event = "pep.listening", %address);
            }
            let serving = tokio::spawn(sockets.serve(inbox.clone(), config.profile.api.clone(), stopped));
            tracing::info!(
                event = "agent.ready",
                mode = running.mode.name(),
                version = env!("CARGO_PKG_VERSION"),
                profile = config.profile.name,
                run_dir = %config.run_dir.display(),
            );
            service::ready();
            let asked = tokio::select! {
                asked = service::asked_to_end() => asked.map_err(|error| Failure::new(Exit::Failure, error, "")),
                () = running.ended() => Ok(()),
            };
            service::stopping();
            // Nobody new comes in, who is in gets an answer; then the loop finishes what waits, then the link closes.
            let _ = stop.send(true);
            let served = serving.await.map_err(|error| Failure::new(Exit::Failure, error, "see the log"));
            asked.and(served)
        }
        Err(error) => Err(Failure::new(Exit::Failure, error, "")),
    };
    inbox.stop();
    running.ended().await;
    let looped = running.join().map_err(|error| failure(&error));
    tracing::info!(event = "agent.stopped");
    ended.and(looped).map(|()| Exit::Done)
}

/// The messages say what to do; the exit code says what it is.
fn failure(error: &RunError) -> Failure {
    let exit = match error {
        RunError::NotEnrolled => Exit::NotEnrolled,
        RunError::Store(StoreError::Locked { .. }) => Exit::TryAgain,
        #[cfg(feature = "crash-points")]
        RunError::Supply(_) => Exit::Failure,
        RunError::BootId(_)
        | RunError::Keys(_)
        | RunError::Panicked
        | RunError::Store(_)
        | RunError::Thread(_)
        | RunError::Unstartable(_) => Exit::Failure,
    };
    Failure::new(exit, error, "")
}

#[derive(Serialize)]
struct Checked {
    ok: bool,
    state_dir: String,
    run_dir: String,
    profile: String,
    brokers: Vec<String>,
    enrolled: bool,
    device: Option<String>,
    fleet: Option<String>,
    problems: Vec<String>,
    /// What a start would tell and go on.
    notes: Vec<String>,
}

fn check(config: &Config, globals: &Globals) -> Result<Exit, Failure> {
    let mut foreseen = foresee(&machine(config));
    foreseen.problems.extend(socket_groups(&config.sockets).err().map(|error| error.to_string()));
    let checked = Checked {
        ok: foreseen.problems.is_empty(),
        state_dir: config.state_dir.display().to_string(),
        run_dir: config.run_dir.display().to_string(),
        profile: config.profile.name.clone(),
        brokers: config.broker.urls.iter().map(ToString::to_string).collect(),
        enrolled: foreseen.enrolled,
        device: foreseen.device,
        fleet: foreseen.fleet,
        problems: foreseen.problems,
        notes: foreseen.notes,
    };
    show(globals.output, &checked, |checked| {
        let mut lines = vec![if checked.ok { "ok".to_owned() } else { "cannot run".to_owned() }];
        lines.extend(checked.problems.iter().chain(&checked.notes).map(|line| format!("  {line}")));
        let device = match (&checked.device, &checked.fleet) {
            (Some(device), Some(fleet)) => format!("{device} of {fleet}"),
            (Some(device), None) => format!("{device}, not enrolled yet"),
            (None, _) => "no keys yet: run `hardtack enrol request`".into(),
        };
        let brokers = checked.brokers.join(", ");
        let brokers = if brokers.is_empty() { "as the trust bundle says" } else { &brokers };
        lines.push(format!("state    {}\nsockets  {}", checked.state_dir, checked.run_dir));
        lines.push(format!("profile  {}\nbroker   {brokers}\ndevice   {device}", checked.profile));
        lines.join("\n")
    })?;
    Ok(match (checked.ok, checked.enrolled) {
        (false, _) => Exit::Failure,
        (true, false) => Exit::NotEnrolled,
        (true, true) => Exit::Done,
    })
}
