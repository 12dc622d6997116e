//! The world on tokio with paused time: one thread, a task per gateway, channels as links.
//!
//! Owns: links that take their time.
//! Never: loses a message.
//! Read next: `hub.rs`.

use std::time::Duration;

use tokio::sync::mpsc::{unbounded_channel, UnboundedSender};
use tokio::task::{spawn_local, LocalSet};
use tokio::time::{sleep, sleep_until, Instant};

use crate::hub::{self, Down, From, Up};
use crate::party::Fleet;
use crate::programs::Counts;
use crate::Size;

/// The shortest and the longest time that a link takes, in milliseconds.
const LATENCY_MS: (u64, u64) = (20, 120);
/// Gateways start one after the other.
const APART: Duration = Duration::from_millis(50);

/// Runs it.
pub(crate) fn run(size: Size) -> Result<Counts, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.map_err(|error| format!("tokio: {error}"))?;
    LocalSet::new().block_on(&runtime, world(size))
}

async fn world(Size { devices, duration }: Size) -> Result<Counts, String> {
    let mut fleet = Fleet::found();
    let name = fleet.name.clone();
    let gateways: Vec<_> = (0..devices).map(|number| fleet.join(number)).collect();
    let (said, heard) = unbounded_channel();
    spawn_local(hub::run(fleet, heard));
    let mut running = Vec::new();
    for (number, gateway) in (0..devices).zip(gateways) {
        let latency = Duration::from_millis(LATENCY_MS.0 + u64::from(number) * 7 % (LATENCY_MS.1 - LATENCY_MS.0));
        let (to_gateway, down) = unbounded_channel::<Down>();
        let (to_hub, name) = (said.clone(), name.clone());
        running.push(spawn_local(async move {
            sleep(APART * number).await;
            let opened = From::Opened(link(latency, move |message| drop(to_gateway.send(message))));
            drop(to_hub.send((number, opened)));
            let link = link(latency, move |message: Up| drop(to_hub.send((number, From::Said(message)))));
            let up = move |message| drop(link.send(message));
            hub::gateway((number, name), gateway, up, down, duration).await
        }));
    }
    drop(said);
    let mut counts = Counts::default();
    for gateway in running {
        counts.add(gateway.await.map_err(|error| format!("a gateway's task: {error}"))?);
    }
    Ok(counts)
}

/// A link in one direction: what goes in comes out in order, later.
fn link<T: 'static>(latency: Duration, out: impl Fn(T) + 'static) -> UnboundedSender<T> {
    let (to, mut within) = unbounded_channel::<(Instant, T)>();
    let (into, mut entering) = unbounded_channel::<T>();
    spawn_local(async move {
        while let Some(message) = entering.recv().await {
            drop(to.send((hub::now() + latency, message)));
        }
    });
    spawn_local(async move {
        while let Some((due, message)) = within.recv().await {
            sleep_until(due).await;
            out(message);
        }
    });
    into
}
