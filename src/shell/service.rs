//! Signals, and what a service manager wants to hear.
//!
//! Owns: waiting for SIGTERM and SIGINT, `READY=1`, `STOPPING=1` and the watchdog's sign of life.
//! Never: decides when the agent is ready. `cli/agent.rs` says so.
//! Read next: `cli/agent.rs`.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{signal, SignalKind};

/// Waits until the process is asked to end.
///
/// # Errors
/// When the handlers cannot be installed.
pub async fn asked_to_end() -> io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Tells the service manager, if there is one, that requests are answered from now on.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// Tells the service manager that the process is ending as asked.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// How often the service manager wants a sign of life: half its deadline. None where it wants none.
pub fn watchdog_interval() -> Option<Duration> {
    let mut usec = 0;
    sd_notify::watchdog_enabled(false, &mut usec).then(|| Duration::from_micros(usec / 2))
}

/// A sign of life, where somebody waits for one.
pub fn alive() {
    static WANTED: OnceLock<bool> = OnceLock::new();
    // The loop asks at every turn, and the environment does not change.
    if *WANTED.get_or_init(|| watchdog_interval().is_some()) {
        tell(NotifyState::Watchdog);
    }
}

fn tell(state: NotifyState<'_>) {
    // Without a service manager nobody listens; a manager that went away is not a reason to stop working.
    if let Err(error) = sd_notify::notify(false, &[state]) {
        tracing::debug!(event = "service.notify", %error);
    }
}
