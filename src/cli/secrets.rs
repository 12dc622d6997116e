//! `hardtack secrets`: long-lived keys of systems that want one, kept from the programs that use them.
//!
//! Owns: the subcommands, what they print, the order of the proxy's start and of its end.
//! Never: prints a value, or takes one as an argument, where everybody could read it.
//! Read next: `../shell/secrets/serve.rs`, `../../docs/legacy-secrets.md`.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;

use super::output::{show, visible};
use super::{DeviceFlags, Exit, Failure, Globals};
use crate::secrets::entry::{Entry, EntryError, Exposure, Inject, Kept, Rule, SecretName, Upstream};
use crate::shell::files::{read_bounded, FileError};
use crate::shell::secrets::serve::{Bound, Limits, Listen, Proxy};
use crate::shell::secrets::vault::{read_value, Vault, VaultError};
use crate::shell::{clock, entropy, log, secrets, service};
use crate::time::Timestamp;

/// Where the service manager puts credentials.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";
/// The most bytes of a file with certificates.
const AUTHORITIES_BYTES_MAX: usize = 64 * 1024;

/// `hardtack secrets …`.
#[derive(Args, Debug)]
pub struct SecretsArgs {
    /// The proxy's own folder, which belongs to the proxy's user
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "HARDTACK_SECRETS_DIR",
        default_value = "/var/lib/hardtack-secrets"
    )]
    dir: PathBuf,
    #[command(subcommand)]
    command: SecretsCommand,
}

#[derive(Subcommand, Debug)]
enum SecretsCommand {
    /// Add a secret; its value is read from stdin
    Add(AddArgs),
    /// List secrets, where they go and when they were used: never their values
    List,
    /// Remove a secret
    Remove {
        /// Which
        name: SecretName,
    },
    /// Give a secret another value, read from stdin: requests from now on have it
    Rotate {
        /// Which
        name: SecretName,
    },
    /// Run the proxy until it is asked to stop
    Serve(ServeArgs),
}

#[derive(Args, Debug)]
struct AddArgs {
    /// What it is called: the first segment of the path that a program asks, and of its resource `secret/NAME/…`
    name: SecretName,
    /// Where it goes, and nowhere else
    #[arg(long, value_name = "URL")]
    upstream: Upstream,
    /// Into which requests: METHOD:/path, or METHOD:/path/* for all below it. May be repeated
    #[arg(long = "allow", value_name = "METHOD:PATH", required = true)]
    rules: Vec<Rule>,
    #[command(flatten)]
    place: Place,
    /// Authorities (PEM) that may sign the upstream's certificate, in place of those of the system
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The value is a credential of the service manager, under the same name: nothing is read from stdin
    #[arg(long)]
    credential: bool,
    /// Let the value travel in the clear, to an upstream that is no address of this machine or of a private network
    #[arg(long)]
    plain_http: bool,
}

/// How the value is put into a request.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Place {
    /// In a header, `{}` stands for the value: 'Authorization: Bearer {}'
    #[arg(long, value_name = "HEADER", value_parser = Inject::header)]
    header: Option<Inject>,
    /// As the password of this user, in `Authorization: Basic`
    #[arg(long, value_name = "USER", value_parser = Inject::basic)]
    basic: Option<Inject>,
    /// As this parameter of the query, where the upstream takes nothing else: URLs are logged in many places
    #[arg(long, value_name = "NAME", value_parser = Inject::query)]
    query: Option<Inject>,
}

#[derive(Args, Debug)]
struct ServeArgs {
    /// Where programs ask: a path of a unix socket, or 127.0.0.1:PORT. May be repeated
    #[arg(long, value_name = "PATH|ADDRESS", default_value = "/run/hardtack-secrets/secrets.sock")]
    listen: Vec<Listen>,
    /// How long an upstream is waited for: for a connection, an answer, the next piece of it
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// How long an exchange may last, whatever comes; the end of its token ends it too
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    lasting: Duration,
    /// The most bytes of a request's body
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    request_max: u64,
    /// The most bytes of an answer's body
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 20)]
    answer_max: u64,
    #[command(flatten)]
    device: DeviceFlags,
}

/// Runs it.
///
/// # Errors
/// What is wrong with the folder, the arguments or the value.
pub fn run(args: SecretsArgs, globals: &Globals) -> Result<Exit, Failure> {
    if globals.state_dir.is_some() {
        let advice = "leave it out: --dir names the proxy's own folder";
        return Err(Failure::new(Exit::Usage, "--state-dir is the agent's folder, where no secret is kept", advice));
    }
    let failed = |error| Failure::new(Exit::Failure, format!("this process cannot be closed to others: {error}"), "");
    secrets::harden().map_err(failed)?;
    match args.command {
        SecretsCommand::Add(add) => self::add(add, &args.dir, globals),
        SecretsCommand::List => list(&Vault::open(&args.dir, None)?, globals),
        SecretsCommand::Remove { name } => {
            Vault::open(&args.dir, None)?.remove(&name)?;
            show(globals.output, &json!({"removed": name.as_str()}), |_| format!("{name} is removed"))?;
            Ok(Exit::Done)
        }
        SecretsCommand::Rotate { name } => {
            let vault = Vault::open(&args.dir, None)?;
            // The name first: nobody pipes a value in vain.
            vault.stored(&name)?;
            vault.rotate(&name, &piped()?, now()?, &mut entropy::rng())?;
            show(globals.output, &json!({"rotated": name.as_str()}), |_| format!("{name} has another value"))?;
            Ok(Exit::Done)
        }
        SecretsCommand::Serve(serve) => self::serve(&serve, &args.dir, globals),
    }
}

fn now() -> Result<Timestamp, Failure> {
    clock::wall().ok_or_else(|| Failure::new(Exit::Failure, "the clock says a time before 1970", "set it"))
}

fn piped() -> Result<zeroize::Zeroizing<Vec<u8>>, Failure> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        let advice = "pipe it in: `systemd-ask-password | hardtack secrets …`, or `hardtack secrets … < FILE`";
        return Err(Failure::new(
            Exit::Usage,
            "the value is read from stdin, which is a terminal that shows it",
            advice,
        ));
    }
    Ok(read_value(stdin.lock())?)
}

fn add(args: AddArgs, dir: &Path, globals: &Globals) -> Result<Exit, Failure> {
    let at = now()?;
    let Place { header, basic, query } = args.place;
    let one = || Failure::new(Exit::Usage, "one of --header, --basic and --query says where the value goes", "");
    let entry = Entry {
        name: args.name,
        upstream: args.upstream,
        rules: args.rules,
        inject: header.or(basic).or(query).ok_or_else(one)?,
        authorities: args.ca.as_deref().map(authorities).transpose()?.unwrap_or_default(),
        exposure: if args.plain_http { Exposure::Accepted } else { Exposure::Refused },
        added: at,
        valued: at,
    };
    entry.check().map_err(|error| Failure::new(Exit::Usage, error, ""))?;
    let value = if args.credential { None } else { Some(piped()?) };
    let vault = Vault::make(dir, &mut entropy::rng())?;
    vault.add(&entry, value.as_ref().map(|value| value.as_slice()), &mut entropy::rng())?;
    let (name, resource) = (&entry.name, entry.name.resource());
    show(globals.output, &json!({"added": name.as_str(), "resource": resource}), |_| {
        format!(
            "{name} goes to {} alone; programs ask http://secrets.local/{name}/…, and need a right on {resource}/…",
            entry.upstream
        )
    })?;
    Ok(Exit::Done)
}

/// The certificates of a file.
pub(super) fn authorities(path: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let text = read_bounded(path, AUTHORITIES_BYTES_MAX).map_err(|error| Failure::new(Exit::Usage, error, ""))?;
    let certificates: Result<Vec<_>, _> = rustls_pemfile::certs(&mut text.as_slice()).collect();
    match certificates {
        Ok(found) if !found.is_empty() => Ok(found.into_iter().map(|der| der.to_vec()).collect()),
        Ok(_) | Err(_) => {
            let what = format!("{} holds no certificates", path.display());
            Err(Failure::new(
                Exit::Usage,
                what,
                "name a PEM file of the authorities that sign the upstream's certificate",
            ))
        }
    }
}

#[derive(Serialize)]
struct Row {
    name: String,
    resource: String,
    upstream: String,
    allow: Vec<String>,
    place: String,
    kept: &'static str,
    added: String,
    valued: Option<String>,
    first_used: Option<String>,
    last_used: Option<String>,
    uses: u64,
    refused: u64,
    echoes: u64,
    /// Why it cannot be used, if so.
    problem: Option<String>,
}

fn list(vault: &Vault, globals: &Globals) -> Result<Exit, Failure> {
    let uses = vault.uses()?;
    let mut rows = Vec::new();
    for name in vault.names()? {
        let used = uses.of(&name);
        let date = |at: Option<Timestamp>| at.map(|at| at.to_string());
        let empty = Row {
            name: name.to_string(),
            resource: name.resource(),
            upstream: String::new(),
            allow: Vec::new(),
            place: String::new(),
            kept: "",
            added: String::new(),
            valued: None,
            first_used: date(used.first),
            last_used: date(used.last),
            uses: used.count,
            refused: used.refused,
            echoes: used.echoes,
            problem: None,
        };
        rows.push(match vault.stored(&name) {
            Ok(stored) => Row {
                upstream: stored.entry.upstream.to_string(),
                allow: stored.entry.rules.iter().map(Rule::to_string).collect(),
                place: stored.entry.inject.to_string(),
                kept: match stored.kept {
                    Kept::Credential => "credential",
                    Kept::Sealed(_) => "sealed",
                },
                added: stored.entry.added.to_string(),
                // The service manager does not say.
                valued: (stored.kept != Kept::Credential).then(|| stored.entry.valued.to_string()),
                ..empty
            },
            Err(error) => Row { problem: Some(error.to_string()), ..empty },
        });
    }
    let is_whole = rows.iter().all(|row| row.problem.is_none());
    show(globals.output, &json!({"secrets": rows}), |_| words(&rows))?;
    Ok(if is_whole { Exit::Done } else { Exit::Failure })
}

fn words(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:16} {} {}", row.name, row.upstream, row.place);
        if let Some(problem) = &row.problem {
            let _ = writeln!(text, "  CANNOT BE USED: {}", visible(problem));
        }
        let _ = writeln!(text, "  allows {}", row.allow.join(" "));
        let last = row.last_used.as_deref().unwrap_or("never");
        let _ = writeln!(
            text,
            "  last used {last}, {} times in all, {} refused, {} echoes",
            row.uses, row.refused, row.echoes
        );
    }
    if rows.is_empty() {
        "no secrets".into()
    } else {
        text
    }
}

fn serve(args: &ServeArgs, dir: &Path, globals: &Globals) -> Result<Exit, Failure> {
    let config = globals.load_with(&args.device)?;
    log::start(config.log);
    let credentials = std::env::var_os(CREDENTIALS).map(PathBuf::from);
    let vault = Vault::open(dir, credentials)?;
    if rustix::process::geteuid().is_root() {
        // It works, and it protects less than it could.
        tracing::warn!(
            event = "secrets.root",
            advice = "run it as a user of its own: firmware-profiles/hardtack-secrets.service"
        );
    }
    let limits = Limits {
        patience: args.patience,
        lasting: args.lasting,
        request_bytes_max: args.request_max,
        answer_bytes_max: args.answer_max,
        api: config.profile.api.clone(),
    };
    let proxy = Proxy::new(vault, &config.run_dir.join("pep.sock"), limits)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failure, error, "raise the limit of open files"))?;
    runtime.block_on(async {
        let bound = Bound::all(&args.listen).await.map_err(|error| Failure::new(Exit::Failure, error, ""))?;
        let places: Vec<String> = bound.places().iter().map(ToString::to_string).collect();
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(proxy.serve(bound, stopped));
        tracing::info!(event = "secrets.ready", listen = places.join(" "), version = env!("CARGO_PKG_VERSION"));
        service::ready();
        let asked = service::asked_to_end().await.map_err(|error| Failure::new(Exit::Failure, error, ""));
        service::stopping();
        let _ = stop.send(true);
        let served = serving.await.map_err(|error| Failure::new(Exit::Failure, error, "see the log"));
        tracing::info!(event = "secrets.stopped");
        asked.and(served).map(|()| Exit::Done)
    })
}

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let exit = match &error {
            VaultError::Value(EntryError::Value(_)) | VaultError::Exists(_) | VaultError::Unknown(_) => Exit::Usage,
            VaultError::Credential { .. }
            | VaultError::Entry { .. }
            | VaultError::File(FileError::Exists { .. })
            | VaultError::File(_)
            | VaultError::Full
            | VaultError::Newer(_)
            | VaultError::NoCredentials(_)
            | VaultError::NotHere(_)
            | VaultError::Sealed(_)
            | VaultError::Value(_) => Exit::Failure,
        };
        // The messages end with what to do.
        Self::new(exit, error, "")
    }
}
