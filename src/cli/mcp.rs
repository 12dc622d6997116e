//! `hardtack mcp proxy`: what stands between an AI agent and its tools.
//!
//! Owns: the arguments, where the credential comes from.
//! Never: decides, or reads a message.
//! Read next: `../shell/mcp/mod.rs`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use rustls::ClientConfig;

use super::client::{agent_socket, pep_socket};
use super::secrets::authorities;
use super::{output, Exit, Failure, Globals};
use crate::mcp::guard::{Guard, Permit};
use crate::shell::client::Client;
use crate::shell::mcp::http::{Front, Listen, Upstream};
use crate::shell::mcp::stdio::Credential;
use crate::shell::mcp::{http, stdio, Gate};
use crate::shell::secrets::harden;
use crate::shell::{service, tls};

/// `hardtack mcp …`.
#[derive(Subcommand, Debug)]
pub enum McpCommand {
    /// Stand before a server of the Model Context Protocol: each call of a tool is a decision and a record, and lists show
    /// what may be used
    Proxy(ProxyArgs),
}

/// Arguments of `hardtack mcp proxy`.
#[derive(Args, Debug)]
pub struct ProxyArgs {
    /// What the server is called in rights: a tool is the resource mcp/NAME/TOOL, with the operation `call`
    #[arg(long, value_name = "NAME")]
    name: String,
    /// Let the server ask this of the client. May be repeated
    #[arg(long, value_enum, value_name = "WHAT")]
    from_server: Vec<Asks>,
    /// The most bytes of a message
    #[arg(long, value_name = "BYTES", default_value_t = 4 * 1024 * 1024)]
    message_bytes_max: usize,
    /// Speak HTTP: listen here, 127.0.0.1:PORT or unix:PATH. Callers send their credential as `Authorization: Bearer`
    #[arg(long, value_name = "WHERE", requires = "upstream", conflicts_with = "server", value_parser = Listen::parse)]
    listen: Option<Listen>,
    /// The server, http://HOST:PORT/PATH or https://HOST:PORT/PATH
    #[arg(long, value_name = "URL", requires = "listen", value_parser = Upstream::parse)]
    upstream: Option<Upstream>,
    /// A PEM file with the authorities that may sign the certificate of a server behind https. Without it those of the system may
    #[arg(long, value_name = "FILE", requires = "upstream")]
    ca: Option<PathBuf>,
    /// A name besides localhost by which clients call the proxy. May be repeated
    #[arg(long, value_name = "HOST", requires = "listen")]
    allow_host: Vec<String>,
    /// An origin whose web pages may use the proxy. May be repeated
    #[arg(long, value_name = "ORIGIN", requires = "listen")]
    allow_origin: Vec<String>,
    /// The server as a command, spoken to over stdio. The credential is that of HARDTACK_TOKEN_FILE or HARDTACK_TOKEN
    #[arg(last = true, value_name = "SERVER", required_unless_present = "listen")]
    server: Vec<OsString>,
}

/// What a server may ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Asks {
    /// Ask the person something
    Elicitation,
    /// Learn the client's folders
    Roots,
    /// Use the client's model
    Sampling,
}

/// Runs the proxy, and ends as its server does.
pub fn run(command: McpCommand, globals: &Globals) -> ExitCode {
    let McpCommand::Proxy(args) = command;
    proxy(args, globals).unwrap_or_else(|failure| output::fail(globals.output, &failure).into())
}

fn proxy(args: ProxyArgs, globals: &Globals) -> Result<ExitCode, Failure> {
    let permits: BTreeSet<Permit> = args.from_server.iter().map(|asks| permit(*asks)).collect();
    let guard = Guard::new(&args.name, permits).map_err(|error| Failure::new(Exit::Usage, error, "see --name"))?;
    // An enforcement point asks for others; a proxy over stdio is its client's own program, and asks as that.
    let socket = if args.listen.is_some() { pep_socket(globals)? } else { agent_socket(globals)? };
    let gate = Gate { guard, agent: Client::new(&socket), message_bytes_max: args.message_bytes_max };
    // Credentials pass through it, and its server may well run as the same user.
    harden().map_err(|error| Failure::new(Exit::Failure, format!("cannot close this process: {error}"), ""))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failure, error, ""))?;
    let ended = match (args.listen, args.upstream) {
        (Some(listen), Some(upstream)) => {
            let hosts = args.allow_host.into_iter().map(|host| host.to_ascii_lowercase()).collect();
            let origins = args.allow_origin.into_iter().collect();
            let room = http::Room::new(args.message_bytes_max);
            let tls = held_to(&upstream, args.ca.as_deref())?;
            let front = Arc::new(Front { room, gate, upstream, tls, hosts, origins });
            let served = runtime.block_on(http::serve(&listen, front, say_where(globals), service::asked_to_end()));
            let advice = "name another place with --listen";
            served.map(|()| 0).map_err(|error| Failure::new(Exit::Failure, format!("cannot serve: {error}"), advice))
        }
        (_, _) => {
            let credential = credential()?;
            let tell = |text: &str| output::tell(&format!("hardtack mcp proxy: {text}"));
            let ended = runtime.block_on(stdio::run(gate, credential, &args.server, &tell, service::asked_to_end()));
            ended.map_err(|error| {
                let what =
                    format!("cannot stand before {:?}: {error}", args.server.first().cloned().unwrap_or_default());
                Failure::new(Exit::Failure, what, "name a program that speaks the protocol over stdio")
            })
        }
    };
    // Standard input is read by a thread that nothing wakes.
    runtime.shutdown_background();
    ended.map(ExitCode::from)
}

/// What a server behind https is held to.
fn held_to(upstream: &Upstream, ca: Option<&Path>) -> Result<Option<Arc<ClientConfig>>, Failure> {
    let roots = match (upstream.secure, ca) {
        (false, None) => return Ok(None),
        (false, Some(_)) => {
            let advice = "leave --ca out, or name the server as https://…";
            return Err(Failure::new(Exit::Usage, "a server behind http has no certificate", advice));
        }
        (true, None) => tls::of_system(),
        (true, Some(path)) => tls::named(&authorities(path)?),
    };
    roots.and_then(tls::client).map(Some).map_err(|error| Failure::new(Exit::Failure, error, "see --ca"))
}

fn say_where(globals: &Globals) -> impl FnOnce(String) {
    let format = globals.output;
    move |place| {
        // Whoever does not listen has named the port, and knows.
        let _ = output::show(format, &serde_json::json!({"listens": place}), |_| format!("listens on {place}"));
    }
}

const fn permit(asks: Asks) -> Permit {
    match asks {
        Asks::Elicitation => Permit::Elicitation,
        Asks::Roots => Permit::Roots,
        Asks::Sampling => Permit::Sampling,
    }
}

fn credential() -> Result<Credential, Failure> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let text = |value: OsString| value.into_string().ok().map(Credential::Text);
    let found = named("HARDTACK_TOKEN_FILE").map(|file| Credential::File(file.into()));
    found.or_else(|| named("HARDTACK_TOKEN").and_then(text)).ok_or_else(|| {
        let advice = "run it as `hardtack run CLASS --right call:mcp/NAME/TOOL -- hardtack mcp proxy …`";
        Failure::new(Exit::Usage, "neither HARDTACK_TOKEN_FILE nor HARDTACK_TOKEN names a credential", advice)
    })
}
