//! Server-sent events, cut out of a stream and put into one again.
//!
//! Owns: [`Cutter`], which gathers events of a bounded size; [`Event`].
//! Never: passes on a field that it does not know, or a comment.
//! Read next: `../shell/mcp/http.rs`.

/// An event.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Event {
    /// Where a stream can be taken up again.
    pub id: Option<String>,
    /// Its kind.
    pub kind: Option<String>,
    /// How long to wait before that, in milliseconds.
    pub retry: Option<String>,
    /// What it says, lines joined.
    pub data: Option<String>,
}

impl Event {
    /// The text.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = String::new();
        for (name, value) in [("id", &self.id), ("event", &self.kind), ("retry", &self.retry)] {
            if let Some(value) = value {
                text += &format!("{name}: {value}\n");
            }
        }
        for line in self.data.iter().flat_map(|data| data.split('\n')) {
            text += &format!("data: {line}\n");
        }
        text.push('\n');
        text.into_bytes()
    }

    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Gathers events from a stream.
#[derive(Debug)]
pub struct Cutter {
    most: usize,
    line: Vec<u8>,
    after_return: bool,
    event: Event,
    bytes: usize,
}

/// The stream is none of events, or one is too large.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Uncut {
    /// More bytes than were agreed on.
    #[error("an event is larger than is let through")]
    TooLarge,
    /// No UTF-8.
    #[error("the stream of events is not UTF-8")]
    NotText,
}

impl Cutter {
    /// For events of so many bytes at the most.
    pub fn new(most: usize) -> Self {
        Self { most, line: Vec::new(), after_return: false, event: Event::default(), bytes: 0 }
    }

    /// The events that are complete with these bytes.
    ///
    /// # Errors
    /// See [`Uncut`]: nothing that follows can be trusted.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Uncut> {
        let mut done = Vec::new();
        for byte in bytes {
            let ends = match byte {
                b'\n' if self.after_return => {
                    self.after_return = false;
                    continue;
                }
                b'\n' | b'\r' => true,
                _ => false,
            };
            self.after_return = *byte == b'\r';
            if ends {
                done.extend(self.end_line()?);
            } else {
                self.bytes += 1;
                if self.bytes > self.most {
                    return Err(Uncut::TooLarge);
                }
                self.line.push(*byte);
            }
        }
        Ok(done)
    }

    fn end_line(&mut self) -> Result<Option<Event>, Uncut> {
        let line = String::from_utf8(std::mem::take(&mut self.line)).map_err(|_| Uncut::NotText)?;
        if line.is_empty() {
            self.bytes = 0;
            let event = std::mem::take(&mut self.event);
            return Ok((!event.is_empty()).then_some(event));
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        match name {
            "data" => match &mut self.event.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(&value);
                }
                None => self.event.data = Some(value),
            },
            "event" => self.event.kind = Some(value),
            "id" if !value.contains('\0') => self.event.id = Some(value),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => self.event.retry = Some(value),
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str, pieces: usize) -> Result<Vec<Event>, Uncut> {
        let mut cutter = Cutter::new(100);
        let mut all = Vec::new();
        for piece in text.as_bytes().chunks(pieces) {
            all.extend(cutter.feed(piece)?);
        }
        Ok(all)
    }

    #[test]
    fn events_are_cut_wherever_the_stream_is_broken() {
        let text = ": hello\n\nid: 1\nevent: message\ndata: {\"a\":\ndata: 1}\n\nretry: 50\r\ndata:x\r\n\r\rdata\rfoo: 1\r\rdata: lost";
        for pieces in [1, 2, 3, 7, 1000] {
            let events = cut(text, pieces).unwrap();
            let [first, second, third] = events.as_slice() else { panic!("{events:?}") };
            assert_eq!((first.id.as_deref(), first.data.as_deref()), (Some("1"), Some("{\"a\":\n1}")));
            assert_eq!((second.retry.as_deref(), second.data.as_deref()), (Some("50"), Some("x")));
            assert_eq!(third.data.as_deref(), Some(""));
            let again: Vec<u8> = events.iter().flat_map(Event::to_bytes).collect();
            assert_eq!(cut(&String::from_utf8(again).unwrap(), 5).unwrap(), events);
        }
    }

    #[test]
    fn what_is_too_large_or_no_text_ends_it() {
        assert_eq!(cut(&format!("data: {}", "x".repeat(200)), 8), Err(Uncut::TooLarge));
        assert_eq!(cut(&"data: xxxx\n".repeat(30), 8), Err(Uncut::TooLarge));
        assert!(cut(&"data: xxxx\n\n".repeat(30), 8).is_ok());
        assert_eq!(Cutter::new(100).feed(b"data: \xff\n"), Err(Uncut::NotText));
    }
}
