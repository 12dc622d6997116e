//! The command line: prints, never decides.
//!
//! Owns: the subcommands, their arguments and what they print. Data goes to stdout, talk to stderr.
//! Never: decides anything that the agent or the fleet core decides.
//! Read next: `exit.rs`, then the file that is named after the command.

#[cfg(feature = "agent")]
pub mod agent;
pub mod audit;
#[cfg(feature = "fleet")]
pub mod broker;
pub mod client;
#[cfg(feature = "demo")]
pub mod demo;
#[cfg(feature = "agent")]
pub mod dev;
#[cfg(feature = "agent")]
pub mod doctor;
#[cfg(feature = "agent")]
pub mod enrol;
pub mod exit;
#[cfg(feature = "fleet")]
pub mod fleet;
#[cfg(feature = "agent")]
pub mod mcp;
pub mod output;
pub mod profile;
pub mod revocations;
#[cfg(feature = "agent")]
pub mod run;
#[cfg(feature = "agent")]
pub mod secrets;
#[cfg(feature = "agent")]
pub mod time;
pub mod token;
pub mod version;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use exit::{Exit, Failure};

use crate::config::{Config, Flags};
use crate::shell::sources;
use output::Format;

/// An agent runtime for devices that lose their network.
#[derive(Parser, Debug)]
#[command(name = "hardtack", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args, Clone, Debug, Default)]
pub struct Globals {
    /// Configuration file [env: HARDTACK_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// State folder of the device [env: HARDTACK_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Folder of the sockets [env: HARDTACK_RUN_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// How data looks
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        env = "HARDTACK_OUTPUT",
        hide_possible_values = false
    )]
    pub output: Format,
}

/// What a device's configuration takes besides.
#[derive(Args, Clone, Debug, Default)]
pub struct DeviceFlags {
    /// Firmware profile: a shipped class, or a path [env: HARDTACK_PROFILE]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Link overlay: a shipped one, or a path [env: HARDTACK_OVERLAY]
    #[arg(long, value_name = "NAME")]
    pub overlay: Option<String>,
    /// Broker's address, may be repeated [env: HARDTACK_BROKER]
    #[arg(long, value_name = "URL")]
    pub broker: Vec<String>,
    /// error, warn, info, debug or trace [env: HARDTACK_LOG_LEVEL]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// json or text [env: HARDTACK_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl Globals {
    /// The configuration of a command that needs no more than the folders.
    ///
    /// # Errors
    /// [`Exit::Usage`] with what is wrong.
    pub fn load(&self) -> Result<Config, Failure> {
        self.load_with(&DeviceFlags::default())
    }

    /// The whole configuration.
    ///
    /// # Errors
    /// [`Exit::Usage`] with what is wrong.
    pub fn load_with(&self, device: &DeviceFlags) -> Result<Config, Failure> {
        let device = device.clone();
        let flags = Flags {
            config: self.config.clone(),
            state_dir: self.state_dir.clone(),
            run_dir: self.run_dir.clone(),
            profile: device.profile,
            overlay: device.overlay,
            broker: device.broker,
            log_level: device.log_level,
            log_format: device.log_format,
        };
        // The message says what to do: it names the file, the key and what it may be.
        Config::load(&sources::gather(flags)).map_err(|error| Failure::new(Exit::Usage, error, ""))
    }
}

#[derive(Subcommand, Debug)]
enum Command {
    /// The daemon of a device
    #[cfg(feature = "agent")]
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Check an export of audit trails, or the proof of one record
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Ask the running agent for a decision
    Authorize(client::AuthorizeArgs),
    /// Set up and probe a production broker
    #[cfg(feature = "fleet")]
    #[command(subcommand)]
    Broker(broker::BrokerCommand),
    /// Set up and probe a production broker (not in this build: it is the operator's)
    #[cfg(not(feature = "fleet"))]
    Broker(Later),
    /// The whole story on an embedded broker
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    /// The whole story on an embedded broker (not in this build: use `cargo demo`)
    #[cfg(not(feature = "demo"))]
    Demo(Later),
    /// Explain how this device stands, and what to do about it
    #[cfg(feature = "agent")]
    Doctor,
    /// Explain how a device stands (not in this build: it is the device's)
    #[cfg(not(feature = "agent"))]
    Doctor(Later),
    /// The device's side of joining a fleet
    #[cfg(feature = "agent")]
    #[command(subcommand)]
    Enrol(enrol::EnrolCommand),
    /// The operator's side of a fleet
    #[cfg(feature = "fleet")]
    Fleet(fleet::FleetArgs),
    /// The operator's side of a fleet (not in this build: it is the operator's)
    #[cfg(not(feature = "fleet"))]
    Fleet(Later),
    /// Guard the tools of an AI agent
    #[cfg(feature = "agent")]
    #[command(subcommand)]
    Mcp(mcp::McpCommand),
    /// Guard the tools of an AI agent (not in this build: it is the device's)
    #[cfg(not(feature = "agent"))]
    Mcp(Later),
    /// Firmware profiles
    #[command(subcommand)]
    Profile(profile::ProfileCommand),
    /// Show, check, export or import revocations
    #[command(subcommand)]
    Revocations(revocations::RevocationsCommand),
    /// Run a program with a task's credential, renewed as long as it runs
    #[cfg(feature = "agent")]
    Run(run::RunArgs),
    /// Run a program with a task's credential (not in this build: it is the device's)
    #[cfg(not(feature = "agent"))]
    Run(Later),
    /// Hold long-lived keys of systems that want one, and put them into requests of programs that never see them
    #[cfg(feature = "agent")]
    Secrets(secrets::SecretsArgs),
    /// Hold long-lived keys (not in this build: it is the device's)
    #[cfg(not(feature = "agent"))]
    Secrets(Later),
    /// Where the device stands
    Status,
    /// Begin, finish or list tasks
    #[command(subcommand)]
    Task(client::TaskCommand),
    /// Look into, narrow or verify any Biscuit
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// The program's version, features and formats
    Version,
    /// What the kernel attests of this program
    Whoami,
}

/// A command of a later version: it takes anything, and says that it is not there.
#[derive(Args, Debug)]
pub struct Later {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

#[cfg(not(feature = "fleet"))]
const OPERATORS_BUILD: &str = "use the operator's build, made with the feature `fleet`";

#[cfg(not(feature = "agent"))]
const DEVICES_BUILD: &str = "use the device's build, made with the feature `agent`";

/// The tree of commands with all of their arguments, for what checks or describes it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs what the command line says, and ends with the number that tells how it went.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout and is a success, a mistake goes to stderr and is usage.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let globals = &cli.globals;
    let ended = match cli.command {
        #[cfg(feature = "agent")]
        Command::Agent(command) => agent::run(command, globals),
        Command::Audit(command) => audit::run(command, globals),
        Command::Authorize(args) => client::authorize(&args, globals),
        #[cfg(feature = "fleet")]
        Command::Broker(command) => broker::report(&command).and_then(|report| show_report(report, globals)),
        #[cfg(not(feature = "fleet"))]
        Command::Broker(_) => absent("broker", OPERATORS_BUILD),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(&args, globals),
        #[cfg(not(feature = "demo"))]
        Command::Demo(_) => absent("demo", "run `cargo demo` in the source tree"),
        #[cfg(feature = "agent")]
        Command::Doctor => doctor::run(globals),
        #[cfg(not(feature = "agent"))]
        Command::Doctor(_) => absent("doctor", DEVICES_BUILD),
        #[cfg(feature = "agent")]
        Command::Enrol(command) => enrol::run(command, globals),
        #[cfg(feature = "fleet")]
        Command::Fleet(args) => fleet::run(args, globals),
        #[cfg(not(feature = "fleet"))]
        Command::Fleet(_) => absent("fleet", OPERATORS_BUILD),
        #[cfg(feature = "agent")]
        Command::Mcp(command) => return mcp::run(command, globals),
        #[cfg(not(feature = "agent"))]
        Command::Mcp(_) => absent("mcp", DEVICES_BUILD),
        Command::Profile(command) => profile::report(&command).and_then(|report| show_report(report, globals)),
        Command::Revocations(command) => revocations::run(command, globals),
        // The number is the command's own.
        #[cfg(feature = "agent")]
        Command::Run(args) => return run::run(args, globals),
        #[cfg(not(feature = "agent"))]
        Command::Run(_) => absent("run", DEVICES_BUILD),
        #[cfg(feature = "agent")]
        Command::Secrets(args) => secrets::run(args, globals),
        #[cfg(not(feature = "agent"))]
        Command::Secrets(_) => absent("secrets", DEVICES_BUILD),
        Command::Status => client::status(globals),
        Command::Task(command) => client::task(command, globals),
        Command::Token(command) => token::run(command, globals),
        Command::Version => version::run(globals),
        Command::Whoami => client::whoami(globals),
    };
    ended.unwrap_or_else(|failure| output::fail(globals.output, &failure)).into()
}

fn show_report(report: profile::Report, globals: &Globals) -> Result<Exit, Failure> {
    output::show(globals.output, &report.json, |_| report.text)?;
    Ok(report.exit)
}

/// A documented command that this version does not have.
///
/// # Errors
/// Always: [`Exit::Usage`].
pub fn later(command: &str) -> Result<Exit, Failure> {
    let what = format!("`hardtack {command}` is not in this version");
    Err(Failure::new(Exit::Usage, what, "`hardtack --help` lists what is"))
}

/// A command that this build was made without.
#[cfg(not(all(feature = "agent", feature = "demo", feature = "fleet")))]
fn absent(command: &str, advice: &str) -> Result<Exit, Failure> {
    Err(Failure::new(Exit::Usage, format!("this build has no `hardtack {command}`"), advice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_commands_is_sound() {
        command().debug_assert();
    }
}
