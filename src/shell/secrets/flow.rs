//! Bodies on their way: bounded in bytes and in time, and an answer's without the secret.
//!
//! Owns: [`Sent`], a request's body; [`Given`], an answer's.
//! Never: holds a body as a whole; goes on past a bound.
//! Read next: `../../secrets/echo.rs`.

use std::future::Future;
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use crate::secrets::echo::Echo;

/// Why a body ends before it is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Broken {
    /// Whoever sends it broke off.
    #[error("the body broke off")]
    Cut,
    /// The whole exchange took too long.
    #[error("the exchange took longer than it may")]
    Late,
    /// Nothing came for too long.
    #[error("nothing of the body came for too long")]
    Slow,
    /// It is larger than it may be.
    #[error("the body is larger than it may be")]
    TooLarge,
}

/// What bounds a body.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The most bytes.
    pub bytes_max: u64,
    /// How long nothing may come.
    pub patience: Duration,
}

/// What is left of the bounds.
struct Left {
    bytes: u64,
    patience: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Left {
    fn of(bounds: Bounds) -> Self {
        Self { bytes: bounds.bytes_max, patience: bounds.patience, waiting: None }
    }

    /// The next piece of data, or that there is none. Trailers are left out.
    fn poll(&mut self, inner: &mut Incoming, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut *inner).poll_frame(cx) else {
                let patience = self.patience;
                let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                ready!(waiting.as_mut().poll(cx));
                return Poll::Ready(Some(Err(Broken::Slow)));
            };
            self.waiting = None;
            let data = match frame {
                None => return Poll::Ready(None),
                Some(Err(_)) => return Poll::Ready(Some(Err(Broken::Cut))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(_) => continue,
                },
            };
            let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
            let Some(left) = self.bytes.checked_sub(length) else {
                return Poll::Ready(Some(Err(Broken::TooLarge)));
            };
            self.bytes = left;
            return Poll::Ready(Some(Ok(data)));
        }
    }
}

/// The body of a request on its way to the upstream.
pub struct Sent {
    inner: Incoming,
    left: Left,
    /// Dropped with the body: the upstream has it all, or will get no more.
    _sent: oneshot::Sender<()>,
}

impl Sent {
    /// The body, and what tells that it is over.
    pub fn new(inner: Incoming, bounds: Bounds) -> (Self, oneshot::Receiver<()>) {
        let (sent, over) = oneshot::channel();
        (Self { inner, left: Left::of(bounds), _sent: sent }, over)
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        this.left.poll(&mut this.inner, cx).map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The body of an answer on its way to the workload.
pub struct Given {
    inner: Incoming,
    left: Left,
    echo: Echo,
    whole: Pin<Box<Sleep>>,
    is_over: bool,
    has_begun: bool,
    /// Called once, with how often the secret was in it.
    told: Option<Box<dyn FnOnce(u64) + Send + Sync>>,
    /// Ends the connection with the body.
    _upstream: super::upstream::Driver,
}

impl Given {
    /// The body of an answer that came over a connection, which ends with it, at the deadline at the latest.
    pub fn new(
        (inner, upstream): (Incoming, super::upstream::Driver),
        bounds: Bounds,
        deadline: Instant,
        echo: Echo,
        told: Box<dyn FnOnce(u64) + Send + Sync>,
    ) -> Self {
        let (left, whole) = (Left::of(bounds), Box::pin(tokio::time::sleep_until(deadline)));
        let (is_over, has_begun, told) = (false, false, Some(told));
        Self { inner, left, echo, whole, is_over, has_begun, told, _upstream: upstream }
    }

    fn tell(&mut self) {
        if let Some(told) = self.told.take() {
            told(self.echo.found());
        }
    }
}

impl Body for Given {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        loop {
            if this.is_over {
                return Poll::Ready(None);
            }
            if this.whole.as_mut().poll(cx).is_ready() {
                this.is_over = true;
                return Poll::Ready(Some(Err(Broken::Late)));
            }
            let clear = match ready!(this.left.poll(&mut this.inner, cx)) {
                Some(Ok(data)) => this.echo.push(&data),
                Some(Err(broken)) => {
                    this.is_over = true;
                    return Poll::Ready(Some(Err(broken)));
                }
                None => {
                    this.is_over = true;
                    let rest = this.echo.finish();
                    this.tell();
                    rest
                }
            };
            this.has_begun = true;
            if !clear.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(clear.into()))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over || (self.inner.is_end_stream() && self.echo.is_empty())
    }

    /// As the upstream said: stars are as long as what they stand for. Once some of it was held back, nobody asks.
    fn size_hint(&self) -> SizeHint {
        match self.has_begun {
            true => SizeHint::default(),
            false => self.inner.size_hint(),
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        // A client that left early, or a body that broke off: what was found is told all the same.
        self.tell();
    }
}
