//! `hardtack fleet`: the operator's side.
//!
//! Owns: the subcommands, what they have in common (the folder, the ledger, the keys, who acts), how errors of the
//! fleet become exit codes.
//! Never: decides anything that `../../fleet/` decides.
//! Read next: the file that is named after the command.

mod audit;
mod backup;
mod carry;
mod device;
mod emergency;
mod emergency_hand;
mod emergency_key;
mod grant;
mod group;
mod identity;
mod init;
mod key;
mod policy;
mod revoke;
mod secrets;
mod serve;
mod target;
mod time;
mod wait;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::output::Format;
use super::{later, Exit, Failure, Globals, Later};
use crate::fleet::acts::text;
use crate::fleet::{Archive, Book, Effects, FleetError, Operator, Outgoing};
use crate::shell::broker::BrokerError;
use crate::shell::clock;
use crate::shell::files::FileError;
use crate::shell::fleet_dir::{FleetDir, FleetDirError};
use crate::shell::fleet_keys::{KeyError, KeyFolder};
use crate::shell::ledger::{Ledger, LedgerError};
use crate::shell::serve::ServeError;
use crate::time::{Millis, Timestamp};
use crate::wire::revocation::Target;
use crate::wire::Refused;

/// `hardtack fleet …`.
#[derive(Args, Debug)]
pub struct FleetArgs {
    /// The fleet's folder [default: the current one]
    #[arg(long, global = true, value_name = "DIR", env = "HARDTACK_FLEET_DIR")]
    dir: Option<PathBuf>,
    /// Who acts, as the signed record will tell it [default: the user of this process]
    #[arg(long, global = true, value_name = "NAME", env = "HARDTACK_OPERATOR", value_parser = worded)]
    operator: Option<String>,
    #[command(subcommand)]
    command: FleetCommand,
}

/// What an operator can do.
#[derive(Subcommand, Debug)]
pub enum FleetCommand {
    /// Read, verify and export what devices and operators did
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Copy the ledger to a file, while others work with it
    Backup(backup::BackupArgs),
    /// Let devices in, look at them, take them out
    #[command(subcommand)]
    Device(device::DeviceCommand),
    /// Revoke with an operator's own key for 72 h at most, when the fleet's service or its feed key is out of reach
    #[command(subcommand)]
    Emergency(emergency::EmergencyCommand),
    /// Show, add or remove revocation feeds, each for some groups of devices
    #[command(subcommand)]
    Feed(group::FeedCommand),
    /// Give devices what they may do alone
    #[command(subcommand)]
    Grant(grant::GrantCommand),
    /// Put devices into groups and take them out
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Say whose identity documents devices believe, and by which keys
    #[command(subcommand)]
    Identity(identity::IdentityCommand),
    /// Make a fleet in a folder
    Init(init::InitArgs),
    /// Mint a task token, as a device's grants allow, or those of every device of a group
    Issue(grant::IssueArgs),
    /// Show the fleet's keys, replace one, or give operators keys of their own
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Show or set the policy
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Bring trust bundles, policy and revocations to the broker once
    Publish(serve::PublishArgs),
    /// Tell how the fleet is (not in this version)
    Report(Later),
    /// Put a copy in the place of the ledger
    Restore(backup::RestoreArgs),
    /// List what is revoked, and how far the devices are with it; or write it into a file
    Revocations {
        /// What else than to list
        #[command(subcommand)]
        command: Option<carry::RevocationsCommand>,
    },
    /// Take back what was given
    #[command(subcommand)]
    Revoke(revoke::RevokeCommand),
    /// Tell who still needs which legacy secret
    #[command(subcommand)]
    Secrets(secrets::SecretsCommand),
    /// Run issuer, publisher and collector
    Serve(serve::ServeArgs),
    /// Sign the time, for somebody to carry to a device that cannot reach the fleet
    #[command(subcommand)]
    Time(time::TimeCommand),
}

/// Runs it.
///
/// # Errors
/// What is wrong with the folder, the arguments, or what the fleet says no to.
pub fn run(args: FleetArgs, globals: &Globals) -> Result<Exit, Failure> {
    let session = Session { named: args.dir, operator: args.operator, format: globals.output };
    carry_out(args.command, &session).map_err(|failure| Failure {
        what: serve::placed(&failure.what, &session),
        advice: serve::placed(&failure.advice, &session),
        ..failure
    })
}

fn carry_out(command: FleetCommand, session: &Session) -> Result<Exit, Failure> {
    match command {
        FleetCommand::Audit(command) => audit::run(command, session),
        FleetCommand::Backup(args) => backup::backup(&args, session),
        FleetCommand::Device(command) => device::run(command, session),
        FleetCommand::Emergency(command) => emergency::run(command, session),
        FleetCommand::Feed(command) => group::feed(command, session),
        FleetCommand::Group(command) => group::group(command, session),
        FleetCommand::Grant(command) => grant::run(command, session),
        FleetCommand::Identity(command) => identity::run(command, session),
        FleetCommand::Init(args) => init::run(&args, session),
        FleetCommand::Issue(args) => grant::issue(args, session),
        FleetCommand::Key(command) => key::run(command, session),
        FleetCommand::Policy(command) => policy::run(command, session),
        FleetCommand::Publish(args) => serve::publish(&args, session),
        FleetCommand::Report(_) => later("fleet report"),
        FleetCommand::Restore(args) => backup::restore(&args, session),
        FleetCommand::Revocations { command: None } => revoke::list(session),
        FleetCommand::Revocations { command: Some(command) } => carry::run(&command, session),
        FleetCommand::Revoke(command) => revoke::run(command, session),
        FleetCommand::Secrets(command) => secrets::run(&command, session),
        FleetCommand::Serve(args) => serve::serve(&args, session),
        FleetCommand::Time(command) => time::run(command, session),
    }
}

/// What every subcommand was told.
pub(super) struct Session {
    /// The folder, if one was named.
    named: Option<PathBuf>,
    operator: Option<String>,
    format: Format,
}

impl Session {
    /// Who acts.
    fn operator(&self) -> String {
        self.operator.clone().unwrap_or_else(user_name)
    }

    fn open(&self) -> Result<Fleet, Failure> {
        let dir = FleetDir::open(self.named.as_deref().unwrap_or(Path::new(".")))?;
        let ledger = Ledger::open(&dir.ledger())?;
        if *ledger.book().fleet() != dir.toml().name {
            let what = format!("fleet.toml names fleet {}, the ledger is {}'s", dir.toml().name, ledger.book().fleet());
            return Err(Failure::new(Exit::Failure, what, "restore the one that is wrong from a copy"));
        }
        let keys = KeyFolder::of(dir.path());
        Ok(Fleet { dir, ledger, keys, operator: self.operator() })
    }
}

/// An open fleet.
struct Fleet {
    dir: FleetDir,
    ledger: Ledger,
    keys: KeyFolder,
    operator: String,
}

impl Fleet {
    /// Changes the book in one transaction.
    fn act<T>(
        &mut self,
        decide: impl FnOnce(&mut Book, &Archive<'_>, &mut Effects) -> Result<T, FleetError>,
    ) -> Result<T, Failure> {
        let decided: Result<(T, Outgoing), Failure> =
            self.ledger.transact(|book, archive, fx| decide(book, archive, fx).map_err(Failure::from));
        // A command has no link: what is to be told to devices, `fleet serve` finds in the ledger.
        decided.map(|(value, _)| value)
    }

    fn operator_key(&mut self) -> Result<ed25519_dalek::SigningKey, Failure> {
        Ok(self.keys.signing(crate::shell::fleet_keys::Role::Operator)?)
    }
}

fn operator<'a>(name: &'a str, key: &'a ed25519_dalek::SigningKey) -> Operator<'a> {
    Operator { name, key }
}

/// The name of the user that this process runs as.
fn user_name() -> String {
    let uid = rustix::process::getuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("uid {uid}"))
}

fn now() -> Result<Timestamp, Failure> {
    clock::wall().ok_or_else(|| Failure::new(Exit::Failure, "the clock says a time before 1970", "set it"))
}

/// An argument that stands in a signed record or a token: a name, or a reason.
fn worded(argument: &str) -> Result<String, String> {
    text("it", argument).map_err(|error| error.to_string())
}

/// An argument that says how long something is to live.
fn lasting(argument: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(argument).map_err(|error| error.to_string())?;
    match duration.as_secs() {
        0 => Err("it must be a second at least".into()),
        _ => Ok(duration),
    }
}

fn millis(duration: Duration) -> Millis {
    Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// What a rule is about: its kind and its value, as the command line names them.
fn target_words(target: &Target) -> (&'static str, String) {
    match target {
        Target::All => ("all", String::new()),
        Target::Audience(name) => ("audience", name.clone()),
        Target::Block(id) => ("block", id.to_string()),
        Target::Device(id) => ("device", id.to_string()),
        Target::Grant(id) => ("grant", id.to_string()),
        Target::Group(id) => ("group", id.to_string()),
        Target::IssuedBefore(time) => ("issued-before", time.to_string()),
        Target::Owner(name) => ("owner", name.clone()),
        Target::RootKey(id) => ("root-key", id.to_string()),
        Target::Task(id) => ("task", id.to_string()),
    }
}

impl From<FleetError> for Failure {
    fn from(error: FleetError) -> Self {
        let exit = match &error {
            FleetError::Argument(_) => Exit::Usage,
            FleetError::WrongCode | FleetError::RetiredKey(_) | FleetError::OtherKey(_) => Exit::Denied,
            FleetError::DeviceRevoked(_) | FleetError::Revoked(_) => Exit::Revoked,
            FleetError::Refused { refused: Refused::TooLarge { .. }, .. } => Exit::Denied,
            FleetError::Refused { .. } => Exit::Invalid,
            FleetError::Unsigned(_) => Exit::Partial,
            FleetError::MovedOn { .. }
            | FleetError::UnknownDevice(_)
            | FleetError::Retired(_)
            | FleetError::UnknownGrant(_)
            | FleetError::Invalid(_)
            | FleetError::Behind { .. }
            | FleetError::BundleBehind { .. }
            | FleetError::BundlesUnknown { .. }
            | FleetError::OtherKeys { .. }
            | FleetError::Superseded { .. }
            | FleetError::Restored { .. }
            | FleetError::RulesFull { .. } => Exit::Failure,
        };
        // The messages of the fleet end with what to do.
        Self::new(exit, error, "")
    }
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        let exit = match &error {
            LedgerError::Sql(rusqlite::Error::SqliteFailure(failure, _))
                if failure.code == rusqlite::ErrorCode::DatabaseBusy =>
            {
                Exit::TryAgain
            }
            LedgerError::Exchanged { .. } | LedgerError::InUse { .. } => Exit::TryAgain,
            LedgerError::Copy { .. } => Exit::Invalid,
            LedgerError::Missing(_)
            | LedgerError::Exists(_)
            | LedgerError::Newer { .. }
            | LedgerError::Older { .. }
            | LedgerError::Broken(_)
            | LedgerError::CutShort(_)
            | LedgerError::Damaged(_)
            | LedgerError::File(_)
            | LedgerError::Sql(_)
            | LedgerError::Unreadable(_) => Exit::Failure,
        };
        Self::new(exit, error, "")
    }
}

impl From<FleetDirError> for Failure {
    fn from(error: FleetDirError) -> Self {
        Self::new(Exit::Failure, error, "")
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        match &error {
            KeyError::File(file) if file.is_missing() => {
                let advice =
                    "name the key's file, or bring it back from where it is kept: `hardtack fleet key list` shows \
                              which keys there are, and whose file is here";
                Self::new(Exit::Failure, error, advice)
            }
            KeyError::File(_)
            | KeyError::Malformed { .. }
            | KeyError::WrongPassphrase(_)
            | KeyError::NoPassphrase(_)
            | KeyError::NoRoot(_)
            | KeyError::BadPassphrase(_)
            | KeyError::Encryption(_) => Self::new(Exit::Failure, error, ""),
        }
    }
}

impl From<BrokerError> for Failure {
    fn from(error: BrokerError) -> Self {
        Self::new(Exit::Failure, error, "")
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Fleet(error) => error.into(),
            ServeError::Ledger(error) => error.into(),
            ServeError::Publishing { .. } => Self::new(Exit::TryAgain, error, ""),
            ServeError::File(_) | ServeError::Link(_) | ServeError::Thread(_) | ServeError::Clock => {
                Self::new(Exit::Failure, error, "")
            }
        }
    }
}

/// A file that an operator named could not be written.
fn file_failure(error: FileError) -> Failure {
    Failure::new(Exit::Failure, error, "name another file, or free some space")
}

/// A file that an operator named could not be read; `advice` says which one is wanted.
fn unread(error: FileError, advice: &str) -> Failure {
    match error.is_missing() {
        true => Failure::new(Exit::Usage, error, advice),
        false => Failure::new(Exit::Failure, error, ""),
    }
}
