//! A server that is a child process, spoken to over its standard input and output.
//!
//! Owns: both streams, a message a line; the server's process and its end.
//! Never: lets a line pass that was not looked at; gives the server the client's credential.
//! Read next: `mod.rs`.

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{kill_process_group, Pid, Signal};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::Gate;
use crate::mcp::guard::{Asked, FromClient, FromServer};
use crate::mcp::message::{error, read, Fault, Message, INVALID_REQUEST};

/// Messages that wait for a slow reader.
const WAITING_MAX: usize = 64;
/// How long a server may take to end once its input has, and again once it is asked to.
const GRACE: Duration = Duration::from_secs(5);
/// How what in the environment tells of the client's credential, task and agent begins.
const OURS: &[u8] = b"HARDTACK_";

/// Where the client's credential is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Credential {
    /// In a file that is replaced when it is renewed: it is read for each decision.
    File(PathBuf),
    /// This.
    Text(String),
}

impl Credential {
    async fn read(&self) -> String {
        match self {
            Self::Text(token) => token.clone(),
            // An unreadable one is none: the agent refuses that, and records it.
            Self::File(path) => tokio::fs::read_to_string(path).await.unwrap_or_default().trim().to_owned(),
        }
    }
}

/// What came in a line.
#[derive(Debug)]
enum Line {
    TooLong,
    Whole(Vec<u8>),
}

/// The next line. Of one that is too long nothing is kept.
async fn line<R: AsyncBufRead + Unpin>(reader: &mut R, most: usize) -> io::Result<Option<Line>> {
    let (mut kept, mut seen) = (Vec::new(), 0usize);
    loop {
        let buffer = reader.fill_buf().await?;
        if buffer.is_empty() {
            // What has no end at the end of the stream is no message.
            return Ok(None);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let piece = &buffer[..end.unwrap_or(buffer.len())];
        seen = seen.saturating_add(piece.len());
        if seen <= most {
            kept.extend_from_slice(piece);
        } else {
            kept = Vec::new();
        }
        let taken = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(taken);
        if end.is_some() {
            return Ok(Some(if seen <= most { Line::Whole(kept) } else { Line::TooLong }));
        }
    }
}

/// Runs the server and stands between it and the client until either ends, or `stop`. Gives the number to exit with: the
/// server's.
///
/// # Errors
/// When the server cannot be started, or says what is too long to be looked at.
pub async fn run(
    gate: Gate,
    credential: Credential,
    server: &[OsString],
    tell: &dyn Fn(&str),
    stop: impl Future<Output = io::Result<()>>,
) -> io::Result<u8> {
    let [program, arguments @ ..] = server else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut command = Command::new(program);
    // A group of its own, so that what it starts ends with it.
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).process_group(0);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_bytes().starts_with(OURS)) {
        command.env_remove(name);
    }
    tokio::pin!(stop);
    // From here on it is heard: a server is not left behind.
    tokio::select! {
        biased;
        stopped = &mut stop => return stopped.map(|()| 0),
        () = std::future::ready(()) => {}
    }
    let mut child = command.spawn()?;
    let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let gate = Arc::new(gate);
    let (to_client, client_reads) = mpsc::channel::<Vec<u8>>(WAITING_MAX);
    let (to_server, server_reads) = mpsc::channel::<Vec<u8>>(WAITING_MAX);
    let answers = tokio::spawn(write(client_reads, tokio::io::stdout()));
    tokio::spawn(write(server_reads, input));
    // Whoever reads what the server says does not keep its input open.
    let refusals = to_server.downgrade();
    let mut asking = tokio::spawn(client_side(gate.clone(), credential.clone(), to_client.clone(), to_server));
    let output = BufReader::new(output);
    let mut answering = tokio::spawn(server_side(gate, credential, output, to_client, refusals));
    let mut ended = None;
    let said = tokio::select! {
        said = &mut answering => Some(said),
        _ = &mut asking => {
            // Its last way to the server is gone, so the server's input ends.
            ended = Some(end(&mut child).await?);
            None
        }
        status = child.wait() => {
            ended = Some(status?);
            None
        }
        stopped = &mut stop => {
            stopped?;
            None
        }
    };
    asking.abort();
    if said.is_none() && ended.is_none() {
        // It is heard no more, so its input ends.
        ended = Some(end(&mut child).await?);
    }
    // What the server has said before it ended is passed on. Another that has its output open is not waited for.
    let said = match said {
        Some(said) => said,
        None => tokio::time::timeout(GRACE, &mut answering).await.unwrap_or(Ok(Ok(()))),
    };
    said.map_err(io::Error::other)??;
    answering.abort();
    let status = match ended {
        Some(status) => status,
        None => end(&mut child).await?,
    };
    // Nobody is left who writes: the last answers go out, if somebody takes them.
    match tokio::time::timeout(GRACE, answers).await {
        Ok(written) => written.map_err(io::Error::other)?,
        Err(_) => tell("the last answers were not read"),
    }
    if !status.success() {
        tell(&format!("the server ended with {status}"));
    }
    Ok(number(status))
}

fn number(status: ExitStatus) -> u8 {
    let signal = || status.signal().map_or(255, |signal| 128 + signal);
    u8::try_from(status.code().unwrap_or_else(signal)).unwrap_or(255)
}

/// Waits for the server whose input has ended, then asks it to end, then ends it.
async fn end(child: &mut Child) -> io::Result<ExitStatus> {
    for signal in [Some(Signal::TERM), Some(Signal::KILL), None] {
        match (tokio::time::timeout(GRACE, child.wait()).await, signal) {
            (Ok(status), _) => return status,
            (Err(_), Some(signal)) => {
                let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
                // It has not been waited for, so the number is its own, and its group's.
                let _ = pid.map(|pid| kill_process_group(pid, signal));
            }
            (Err(_), None) => {}
        }
    }
    child.wait().await
}

async fn write<W: AsyncWrite + Unpin>(mut lines: mpsc::Receiver<Vec<u8>>, mut to: W) {
    while let Some(mut text) = lines.recv().await {
        text.push(b'\n');
        // A reader that has gone is noticed where its other side ends.
        if to.write_all(&text).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
}

/// What the client says, until it has no more to say.
async fn client_side(
    gate: Arc<Gate>,
    credential: Credential,
    client: mpsc::Sender<Vec<u8>>,
    server: mpsc::Sender<Vec<u8>>,
) {
    let mut input = BufReader::new(tokio::io::stdin());
    // A client that cannot be read is gone.
    while let Ok(Some(said)) = line(&mut input, gate.message_bytes_max).await {
        let text = match said {
            Line::Whole(text) if text.iter().all(u8::is_ascii_whitespace) => continue,
            Line::Whole(text) => text,
            Line::TooLong => {
                let why = format!("a message has at most {} bytes", gate.message_bytes_max);
                if client.send(error(Value::Null, INVALID_REQUEST, &why, None).to_bytes()).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let (passes, answer) = match read(&text) {
            Ok(message) => decided(&gate, &credential, message).await,
            Err(fault) => (None, Some(Fault::answer(&fault))),
        };
        if let Some(message) = passes {
            if server.send(message.to_bytes()).await.is_err() {
                return;
            }
        }
        if let Some(message) = answer {
            if client.send(message.to_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// What passes to the server, and what the client is answered in its place.
async fn decided(gate: &Gate, credential: &Credential, message: Message) -> (Option<Message>, Option<Message>) {
    let (token, step) = gate.guard.from_client(message);
    match step {
        FromClient::Answer(answer) => (None, Some(answer)),
        FromClient::Drop => (None, None),
        FromClient::Pass(message) => (Some(message), None),
        FromClient::Ask(asked) => {
            let token = match token {
                Some(token) => token,
                None => credential.read().await,
            };
            let ruling = gate.decide(&token, &asked.question).await;
            match ruling.allowed {
                true => (Some(asked.message), None),
                false => (None, Asked::refused(asked, &ruling)),
            }
        }
    }
}

/// What the server says, until it has no more to say.
async fn server_side<R: AsyncBufRead + Unpin>(
    gate: Arc<Gate>,
    credential: Credential,
    mut output: R,
    client: mpsc::Sender<Vec<u8>>,
    server: mpsc::WeakSender<Vec<u8>>,
) -> io::Result<()> {
    while let Some(said) = line(&mut output, gate.message_bytes_max).await? {
        let Line::Whole(text) = said else {
            // Nobody can tell which request waits for it.
            let why = format!("the server says more than {} bytes at once", gate.message_bytes_max);
            return Err(io::Error::other(why));
        };
        // What a server prints besides is no message, and no client waits for it.
        let Ok(message) = read(&text) else { continue };
        match gate.guard.from_server(message) {
            FromServer::Drop => {}
            FromServer::List(listing) => {
                let list = gate.filter(&credential.read().await, listing).await;
                let _ = client.send(list.to_bytes()).await;
            }
            FromServer::Pass(message) => {
                // A client that has gone is noticed where its requests end.
                let _ = client.send(message.to_bytes()).await;
            }
            FromServer::Refuse(answer) => {
                if let Some(server) = server.upgrade() {
                    let _ = server.send(answer.to_bytes()).await;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_line_that_is_too_long_is_skipped_and_the_next_one_read() {
        let text = format!("short\n{}\nexactly10!\n\nlast\nno end", "x".repeat(5000));
        let mut reader = BufReader::with_capacity(7, text.as_bytes());
        let mut seen = Vec::new();
        while let Some(line) = line(&mut reader, 10).await.unwrap() {
            seen.push(match line {
                Line::TooLong => "too long".to_owned(),
                Line::Whole(text) => String::from_utf8(text).unwrap(),
            });
        }
        assert_eq!(seen, ["short", "too long", "exactly10!", "", "last"]);
    }
}
