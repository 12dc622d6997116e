//! The world on turmoil: a host per gateway and one for broker and service, frames over its TCP.
//!
//! Owns: frames, and how far apart turmoil's steps are.
//! Never: loses a message.
//! Read next: `hub.rs`.

use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{unbounded_channel, UnboundedReceiver};
use tokio::task::spawn_local;
use turmoil::net::{TcpListener, TcpStream};

use crate::hub::{self, Down, From, Up};
use crate::party::Fleet;
use crate::programs::Counts;
use crate::Size;

/// turmoil runs every host at each step, whether or not there is something to do: with its own millisecond a day of a
/// hundred hosts would be nine thousand million runs.
const STEP: Duration = Duration::from_millis(100);
const PORT: u16 = 1883;
/// Gateways start one after the other.
const APART: Duration = Duration::from_millis(50);

type Failed = Box<dyn std::error::Error>;

/// Runs it.
pub(crate) fn run(Size { devices, duration }: Size) -> Result<Counts, String> {
    let mut fleet = Fleet::found();
    let name = fleet.name.clone();
    let gateways: Vec<_> = (0..devices).map(|number| fleet.join(number)).collect();
    let lasts = duration + APART * devices + Duration::from_secs(60);
    let mut builder = turmoil::Builder::new();
    builder.tick_duration(STEP).simulation_duration(lasts).tcp_capacity(1024);
    builder.min_message_latency(Duration::from_millis(20)).max_message_latency(Duration::from_millis(120));
    let mut world = builder.build();
    let fleet = Rc::new(RefCell::new(Some(fleet)));
    world.host("hub", move || {
        let fleet = fleet.take();
        async move { serve(fleet.ok_or("the hub starts once")?).await }
    });
    let counts = Rc::new(Cell::new(Counts::default()));
    for (number, gateway) in (0..devices).zip(gateways) {
        let (name, counts) = (name.clone(), Rc::clone(&counts));
        world.client(format!("gw-{number}"), async move {
            tokio::time::sleep(APART * number).await;
            let (reading, writing) = TcpStream::connect(("hub", PORT)).await?.into_split();
            let (up, to_write) = unbounded_channel::<Up>();
            let (to_gateway, down) = unbounded_channel::<Down>();
            spawn_local(write_all(writing, to_write));
            spawn_local(read_all(reading, move |message| to_gateway.send(message).is_ok()));
            let up = move |message| drop(up.send(message));
            let own = hub::gateway((number, name), gateway, up, down, duration).await;
            let mut sum = counts.get();
            sum.add(own);
            counts.set(sum);
            Ok(())
        });
    }
    world.run().map_err(|error| format!("turmoil: {error}"))?;
    Ok(counts.get())
}

/// The hub's host: connections in the order in which they come.
async fn serve(fleet: Fleet) -> Result<(), Failed> {
    let (said, heard) = unbounded_channel();
    spawn_local(hub::run(fleet, heard));
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
    for connection in 0u32.. {
        let (reading, writing) = listener.accept().await?.0.into_split();
        let (to, to_write) = unbounded_channel::<Down>();
        spawn_local(write_all(writing, to_write));
        said.send((connection, From::Opened(to)))?;
        let said = said.clone();
        spawn_local(read_all(reading, move |message: Up| said.send((connection, From::Said(message))).is_ok()));
    }
    Ok(())
}

/// Writes frames, a length in front of each, until there are no more or nobody takes them.
async fn write_all<T: Serialize>(mut writing: impl AsyncWrite + Unpin, mut messages: UnboundedReceiver<T>) {
    while let Some(message) = messages.recv().await {
        let bytes = postcard::to_allocvec(&message).expect("what is sent here has a length");
        let mut frame = (bytes.len() as u32).to_le_bytes().to_vec();
        frame.extend(bytes);
        if writing.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Reads frames until there are no more or nobody takes them.
async fn read_all<T: DeserializeOwned>(mut reading: impl AsyncRead + Unpin, give: impl Fn(T) -> bool) {
    while let Ok(bytes) = reading.read_u32_le().await {
        let mut frame = vec![0; bytes as usize];
        let whole = reading.read_exact(&mut frame).await.is_ok();
        let Some(message) = postcard::from_bytes(&frame).ok().filter(|_| whole) else { return };
        if !give(message) {
            return;
        }
    }
}
