//! Headers of yamux's frames, found in the bytes of one direction as they pass.

const HEADER_BYTES: usize = 12;
const DATA: u8 = 0;
const GO_AWAY: u8 = 3;

/// What a frame is, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passing {
    /// So many bytes for a stream.
    Data {
        stream: u32,
        bytes: u32,
    },
    /// The end of the session, because of what the other side did.
    Refusal,
    Other,
}

/// Where in a frame the bytes are.
#[derive(Debug, Default)]
pub(super) struct Headers {
    header: [u8; HEADER_BYTES],
    filled: usize,
    body_left: u32,
}

impl Headers {
    /// Goes on with `bytes`; true where `each` frame that begins in them may pass.
    pub(super) fn follow(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Passing) -> bool,
    ) -> bool {
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let len = bytes.len().min(usize::try_from(self.body_left).unwrap_or(usize::MAX));
                bytes = &bytes[len..];
                self.body_left -= u32::try_from(len).unwrap_or(self.body_left);
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(HEADER_BYTES - self.filled));
            self.header[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == HEADER_BYTES {
                self.filled = 0;
                if !each(self.begin()) {
                    return false;
                }
            }
        }
        true
    }

    fn begin(&mut self) -> Passing {
        let [_, kind, _, _, a, b, c, d, e, f, g, h] = self.header;
        let number = u32::from_be_bytes([e, f, g, h]);
        match kind {
            DATA => {
                self.body_left = number;
                Passing::Data { stream: u32::from_be_bytes([a, b, c, d]), bytes: number }
            }
            // The last number of other frames is no length: of these it is the reason, 0 for none.
            GO_AWAY if number != 0 => Passing::Refusal,
            _ => Passing::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, kind, 0, 0];
        frame.extend(stream.to_be_bytes());
        frame.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        frame.extend(body);
        frame
    }

    #[test]
    fn headers_are_found_however_the_bytes_come() {
        let with_number =
            |kind, number: u32| [&frame(kind, 1, b"")[..8], &number.to_be_bytes()].concat();
        let stream = [
            frame(0, 1, b"hello"),
            with_number(1, u32::MAX),
            frame(0, 3, &[7; 5000]),
            with_number(3, 0),
            with_number(3, 1),
            frame(0, 1, b"x"),
        ]
        .concat();
        let data = |stream, bytes| Passing::Data { stream, bytes };
        let expected = [
            data(1, 5),
            Passing::Other,
            data(3, 5000),
            Passing::Other,
            Passing::Refusal,
            data(1, 1),
        ];
        for at_once in [1, 5, 12, 13, 100_000] {
            let (mut headers, mut found) = (Headers::default(), Vec::new());
            for piece in stream.chunks(at_once) {
                assert!(headers.follow(piece, |passing| {
                    found.push(passing);
                    true
                }));
            }
            assert_eq!(found, expected, "{at_once}");
        }
        assert!(!Headers::default().follow(&stream, |passing| passing != Passing::Refusal));
    }
}
