//! Log files that stay small, and the end of the console for messages.
//!
//! A guest writes to its console as much as it likes. Here it fills a file, which then takes the place
//! of the previous one (`console.log` → `console.log.1`); more is never kept.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::limits::{LINE_CHARS_MAX, LOG_BYTES_MAX, TAIL_BYTES_MAX, TAIL_LINES_MAX};

/// A log file of bounded size.
#[derive(Debug)]
pub(crate) struct RingLog {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl RingLog {
    /// Appends to the log at `path`.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes })
    }

    /// Appends `bytes`. What cannot be written (a full disk) is lost; that must not stop a machine.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let written = self.rotate().and_then(|()| self.file.write_all(bytes));
        if let Err(error) = written {
            tracing::debug!(path = %self.path.display(), %error, "log");
        }
        self.bytes += bytes.len() as u64;
    }

    fn rotate(&mut self) -> io::Result<()> {
        if self.bytes < LOG_BYTES_MAX {
            return Ok(());
        }
        let mut older = self.path.as_os_str().to_owned();
        older.push(".1");
        fs::rename(&self.path, older)?;
        *self = Self::open(&self.path)?;
        Ok(())
    }
}

/// The last bytes of a stream.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: VecDeque<u8>,
}

impl Tail {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(TAIL_BYTES_MAX)..];
        let excess = (self.bytes.len() + bytes.len()).saturating_sub(TAIL_BYTES_MAX);
        self.bytes.drain(..excess);
        self.bytes.extend(bytes);
    }

    /// The last lines as text that is safe to print.
    pub(crate) fn text(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(TAIL_LINES_MAX)..].join("\n")
    }

    /// The last line that contains `wanted`, safe to print.
    pub(crate) fn find(&self, wanted: &str) -> Option<String> {
        self.lines().into_iter().rfind(|line| line.contains(wanted))
    }

    /// All lines but empty ones, without control characters: a guest chose these bytes.
    fn lines(&self) -> Vec<String> {
        let (front, back) = self.bytes.as_slices();
        let text = String::from_utf8_lossy(&[front, back].concat()).replace('\r', "");
        let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        lines.map(|line| line.chars().map(printable).take(LINE_CHARS_MAX).collect()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_never_outgrows_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut log = RingLog::open(&path).unwrap();
        for _ in 0..200 {
            log.write(&[b'x'; 16 * 1024]);
        }
        log.write(b"the end");
        let sizes: u64 =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert!(sizes <= 2 * (LOG_BYTES_MAX + 16 * 1024), "{sizes}");
        assert!(fs::read(&path).unwrap().ends_with(b"the end"));
    }

    #[test]
    fn a_tail_keeps_the_last_lines_and_no_control_characters() {
        let mut tail = Tail::default();
        for n in 0..5000 {
            tail.push(format!("line {n}\r\n").as_bytes());
        }
        tail.push(b"\x1b[31mred\xff\r\n\n");
        let text = tail.text();
        assert_eq!(text.lines().count(), TAIL_LINES_MAX);
        assert!(text.contains("line 4999\n"), "{text}");
        assert!(!text.contains('\x1b') && text.ends_with("[31mred\u{fffd}"), "{text}");
    }

    #[test]
    fn a_flood_in_one_piece_is_cut_to_its_end() {
        let mut tail = Tail::default();
        tail.push(&vec![b'a'; 10 * TAIL_BYTES_MAX]);
        tail.push(b"\nend");
        assert_eq!(tail.bytes.len(), TAIL_BYTES_MAX);
        assert!(tail.text().ends_with("\nend"));
    }
}
