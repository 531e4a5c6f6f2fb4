//! Server-sent events, out of pieces of a body.

/// Longest event that is believed, in bytes; the server's are far below it.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Event {
    /// The `event` field; empty where there is none.
    pub(crate) kind: String,
    /// The `data` lines, put together.
    pub(crate) data: String,
}

/// An event is longer than any that the server makes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

/// Takes pieces in, gives events out.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    /// What came and has no line end yet.
    line: Vec<u8>,
    event: Event,
    bytes: usize,
}

impl Parser {
    /// The events that `piece` completes. What it begins is kept for the next one.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();

        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.bytes += part.len();
            if self.bytes > EVENT_BYTES_MAX {
                return Err(TooLong);
            }
            self.line.extend_from_slice(part);
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                events.extend(
                    self.line(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n'])),
                );
            }
        }
        Ok(events)
    }

    /// Takes a whole line; an empty one ends the event.
    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            self.bytes = 0;
            let event = std::mem::take(&mut self.event);
            return (!event.kind.is_empty() || !event.data.is_empty()).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event.kind),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // Comments keep the connection open; ids and pauses are for those who come back.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, length: usize) -> Vec<Event> {
        let mut parser = Parser::default();
        text.as_bytes().chunks(length).flat_map(|piece| parser.push(piece).unwrap()).collect()
    }

    fn event(kind: &str, data: &str) -> Event {
        Event { kind: kind.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_are_the_same_wherever_the_pieces_break() {
        let text = "id: 7\nevent: status\ndata: {\"a\":\ndata: \"\u{1f42d}\"}\n\n: still here\n\n\
                    event:error\r\ndata:gone\r\n\r\ndata: half an ev";
        let expected = [event("status", "{\"a\":\n\"\u{1f42d}\"}"), event("error", "gone")];
        for length in [1, 2, 3, 7, text.len()] {
            assert_eq!(parse(text, length), expected, "pieces of {length}");
        }
    }

    #[test]
    fn an_event_without_end_is_not_collected_for_ever() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; EVENT_BYTES_MAX / 4];
        let taken = (0..8).filter(|_| parser.push(&piece).is_ok()).count();
        assert_eq!(taken, 4);
    }

    #[test]
    fn comments_alone_are_no_events_and_never_too_many() {
        let mut parser = Parser::default();
        for _ in 0..EVENT_BYTES_MAX / 2 {
            assert_eq!(parser.push(b": hi\n\n").unwrap(), []);
        }
    }
}
