//! Requests that could be two: heads that say in more than one way where the request ends, or for which host it is.
//!
//! Owns: [`watch`]: a stream that is looked at as it is read; [`Heads`], which tells of each request whether it is in doubt.
//! Never: changes, holds back or takes apart a byte for anybody: hyper does that.
//! Read next: `../http.rs`.
//!
//! Where a head has both a length and an encoding, hyper follows the encoding and closes behind the request, as RFC 9112 (6.3)
//! lets it, and keeps the length from whoever looks at the request. Such a request is refused here, so heads are looked at in
//! front of hyper. To know a head one must know where the body before it ends; where that is not clear, what comes next is in
//! doubt.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{header, Request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::problem::HttpProblem;

/// What is kept of a line: more than a name that counts takes, with a value that does.
const LINE_BYTES_MAX: usize = 256;

/// A stream that is looked at, and what is told of its requests.
pub fn watch<S>(stream: S) -> (Watched<S>, Heads) {
    let doubtful = Arc::new(AtomicUsize::new(usize::MAX));
    let heads = Heads { doubtful: doubtful.clone(), asked: AtomicUsize::new(0) };
    (Watched { stream, scan: Scan::default(), doubtful }, heads)
}

/// The heads of a connection, in the order in which they came.
#[derive(Debug)]
pub struct Heads {
    /// The number of the first that is in doubt.
    doubtful: Arc<AtomicUsize>,
    /// How many were asked about.
    asked: AtomicUsize,
}

impl Heads {
    /// Whether the next request can be read in one way alone. To be asked of each, once.
    ///
    /// # Errors
    /// 400 with what is wrong, and the connection is closed.
    pub fn next<B>(&self, request: &Request<B>) -> Result<(), HttpProblem> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        if number >= self.doubtful.load(Ordering::Relaxed) {
            let detail =
                "it is not clear where the request ends: send `Content-Length` or `Transfer-Encoding`, not both, and \
                          chunks without long extensions";
            return Err(HttpProblem::ambiguous(detail));
        }
        let headers = request.headers();
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let is_known = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !is_known || codings.next().is_some() {
            return Err(HttpProblem::ambiguous("send `Transfer-Encoding: chunked`, once, or leave it out"));
        }
        let Some(meant) = request.uri().authority() else { return Ok(()) };
        let mut hosts = headers.get_all(header::HOST).iter();
        let is_meant = hosts.next().is_some_and(|host| host.as_bytes().eq_ignore_ascii_case(meant.as_str().as_bytes()));
        if !is_meant || hosts.next().is_some() {
            return Err(HttpProblem::ambiguous("name in `Host`, once, the host of the URL that you ask for"));
        }
        Ok(())
    }
}

/// A stream whose heads are looked at as they are read.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    scan: Scan,
    doubtful: Arc<AtomicUsize>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.scan.see(buf.filled().get(before..).unwrap_or_default());
        self.doubtful.store(self.scan.doubtful.unwrap_or(usize::MAX), Ordering::Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How far a connection was looked at.
#[derive(Debug, Default)]
struct Scan {
    place: Place,
    /// The begin of the line that is being read, without its end.
    line: Vec<u8>,
    /// Whether there was more of it.
    cut: bool,
    /// Heads that are over.
    heads: usize,
    /// The first that is in doubt. Nothing is looked at behind it.
    doubtful: Option<usize>,
}

/// Where in a request.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In a head, or in front of one.
    Head(Ends),
    /// In so many bytes of a body, behind which this follows.
    Body(u64, Next),
    /// In the line with the size of a chunk.
    Size,
    /// In the fields behind the last chunk.
    Trailers,
}

/// What follows a piece of a body.
#[derive(Clone, Copy, Debug)]
enum Next {
    Head,
    Size,
}

/// What a head has said so far of where its request ends.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    /// It has a line, so it has begun.
    begun: bool,
    length: Option<u64>,
    encoded: bool,
}

impl Default for Place {
    fn default() -> Self {
        Self::Head(Ends::default())
    }
}

impl Scan {
    fn see(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.doubtful.is_none() {
            if let Place::Body(left, next) = self.place {
                let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                bytes = bytes.get(taken..).unwrap_or_default();
                self.place = match (left.saturating_sub(taken as u64), next) {
                    (0, Next::Head) => Place::default(),
                    (0, Next::Size) => Place::Size,
                    (left, next) => Place::Body(left, next),
                };
                continue;
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (line, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
            self.keep(line);
            bytes = rest;
            if end.is_some() {
                self.end_of_line();
            }
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
        self.cut |= piece.len() > room;
        self.line.extend_from_slice(piece.get(..room).unwrap_or(piece));
    }

    fn end_of_line(&mut self) {
        let (line, cut) = (std::mem::take(&mut self.line), std::mem::take(&mut self.cut));
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let next = match self.place {
            // Lines without anything in front of a request do not count.
            Place::Head(ends) if line.is_empty() && !cut && !ends.begun => Some(self.place),
            Place::Head(ends) if line.is_empty() && !cut => {
                let next = ends.body();
                // What is in doubt is the request of this head, not the one behind it.
                self.heads += usize::from(next.is_some());
                next
            }
            Place::Head(ends) => ends.and(line, cut).map(Place::Head),
            Place::Size => size(line).filter(|_| !cut).map(|size| match size {
                0 => Place::Trailers,
                // With the end of the line behind it.
                size => Place::Body(size.saturating_add(2), Next::Size),
            }),
            Place::Trailers if line.is_empty() && !cut => Some(Place::default()),
            Place::Trailers => Some(Place::Trailers),
            Place::Body(..) => None,
        };
        match next {
            Some(place) => self.place = place,
            None => self.doubtful = Some(self.heads),
        }
    }
}

impl Ends {
    /// With one more line of the head. None where nobody knows what it says of the end.
    fn and(self, line: &[u8], cut: bool) -> Option<Self> {
        let colon = line.iter().position(|byte| *byte == b':').filter(|_| self.begun);
        let ends = Self { begun: true, ..self };
        let Some((name, value)) = colon.and_then(|colon| line.split_at_checked(colon)) else { return Some(ends) };
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Some(Self { encoded: true, ..ends });
        }
        if !name.eq_ignore_ascii_case(b"content-length") {
            return Some(ends);
        }
        let value = value.get(1..).map(<[u8]>::trim_ascii).and_then(|value| number(value, 10));
        let length = value.filter(|value| !cut && self.length.is_none_or(|length| length == *value))?;
        Some(Self { length: Some(length), ..ends })
    }

    /// What is behind the head. None where it says so in two ways.
    fn body(self) -> Option<Place> {
        match (self.encoded, self.length) {
            (true, Some(_)) => None,
            (true, None) => Some(Place::Size),
            (false, None | Some(0)) => Some(Place::default()),
            (false, Some(length)) => Some(Place::Body(length, Next::Head)),
        }
    }
}

/// The size of a chunk; what is behind it in its line does not count.
fn size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| matches!(byte, b';' | b' ' | b'\t')).next().unwrap_or_default();
    number(digits, 16)
}

/// Digits and nothing else: `str::parse` takes a sign.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.chars().all(|digit| digit.is_digit(radix)))?;
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many heads there were, and the first that is in doubt.
    fn seen(text: &str) -> (usize, Option<usize>) {
        let told = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut scan = Scan::default();
            pieces.for_each(|piece| scan.see(piece));
            (scan.heads, scan.doubtful)
        };
        let whole = told(&mut std::iter::once(text.as_bytes()));
        assert_eq!(told(&mut text.as_bytes().chunks(1)), whole, "byte by byte: {text:?}");
        whole
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    #[test]
    fn heads_are_found_behind_bodies_of_any_form() {
        for before in [
            "",
            "\r\n\n",
            GET,
            "POST / HTTP/1.1\r\nContent-Length: 30\r\n\r\nContent-Length: 1\r\n\r\nTransfer-",
            "POST / HTTP/1.1\r\ncontent-length:0\r\nCONTENT-LENGTH: 0 \r\n\r\n",
            "POST / HTTP/1.1\nContent-Length: 2\n\n\n\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1C;x=\"a\"\r\nContent-Length: 1\r\n\r\nchunked\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 1\r\n\r\n",
            "GET /Transfer-Encoding:chunked HTTP/1.1\r\nContent-Length: 0\r\nX-Transfer-Encoding: chunked\r\n\r\n",
        ] {
            let heads = before.matches("HTTP/1.1").count();
            assert_eq!(seen(&format!("{before}{GET}")), (heads + 1, None), "{before:?}");
            let both = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n";
            assert_eq!(seen(&format!("{before}{both}{GET}")), (heads, Some(heads)), "{before:?}");
        }
    }

    #[test]
    fn what_does_not_say_clearly_where_it_ends_is_in_doubt() {
        let (length, chunked) = ("Content-Length: 4\r\n", "Transfer-Encoding: chunked\r\n");
        let pad = " ".repeat(LINE_BYTES_MAX);
        for lines in [
            format!("{length}{chunked}"),
            format!("{chunked}{length}"),
            format!("{chunked}X: {pad}{pad}x\r\ncontent-LENGTH:4\r\n"),
            format!("{length}transfer-encoding:{pad}chunked\r\n"),
            "Content-Length: +4\r\n".into(),
            "Content-Length: 4, 4\r\n".into(),
            "Content-Length: 18446744073709551616\r\n".into(),
            format!("Content-Length:{pad}4\r\n"),
            format!("{length}Content-Length: 5\r\n"),
        ] {
            assert_eq!(seen(&format!("{GET}POST / HTTP/1.1\r\n{lines}\r\n{GET}")), (1, Some(1)), "{lines:?}");
        }
        // The request of which the end is not found has begun; what comes next is in doubt.
        for body in ["x\r\n", "+1\r\na\r\n", "10000000000000000\r\n", "\r\n", &format!("0;{pad}\r\n")] {
            assert_eq!(seen(&format!("POST / HTTP/1.1\r\n{chunked}\r\n{body}{GET}")), (1, Some(1)), "{body:?}");
        }
    }

    #[tokio::test]
    async fn requests_in_front_of_the_one_in_doubt_are_answered() {
        use tokio::io::AsyncReadExt;
        let both = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n";
        let text = format!("{GET}{GET}{both}{GET}");
        let (mut watched, heads) = watch(text.as_bytes());
        let mut through = String::new();
        watched.read_to_string(&mut through).await.unwrap();
        assert_eq!(through, text);
        let request = Request::new(());
        let told = std::array::from_fn(|_| heads.next(&request).is_ok());
        assert_eq!(told, [true, true, false, false]);
    }

    #[test]
    fn a_request_is_for_one_host_and_encoded_in_one_way() {
        let told = |target: &str, pairs: &[(&str, &str)]| {
            let request =
                pairs.iter().fold(Request::builder().uri(target), |so_far, (name, value)| so_far.header(*name, *value));
            let told = watch(tokio::io::empty()).1.next(&request.body(()).unwrap());
            told.map_err(|problem| (problem.status.as_u16(), problem.code)).is_ok()
        };
        let (chunked, host) = (("transfer-encoding", "Chunked"), ("host", "HMI:80"));
        for fine in [&[][..], &[chunked], &[("host", "a"), ("host", "b")]] {
            assert!(told("/a", fine), "{fine:?}");
        }
        for coding in ["chunked, chunked", "gzip, chunked", "identity", "xchunked", ""] {
            assert!(!told("/a", &[("transfer-encoding", coding)]), "{coding:?}");
        }
        assert!(!told("/a", &[chunked, chunked]));
        assert!(told("http://hmi:80/a", &[host]));
        for other in [&[][..], &[("host", "hmi")], &[host, host], &[("host", "else.where")]] {
            assert!(!told("http://hmi:80/a", other), "{other:?}");
        }
        assert!(!told("http://user@hmi:80/a", &[host]));
    }
}
