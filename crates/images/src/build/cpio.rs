//! A writer for the `newc` cpio format, the one the kernel unpacks as initramfs.
//!
//! Every entry is a header of 110 ASCII bytes (magic `070701` and 13 fields of 8 hex digits), the
//! name with a NUL, padding to 4 bytes, the content, padding to 4 bytes. `TRAILER!!!` ends it. Times
//! are 0 and owners are root, so the same input gives the same bytes.

use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

/// Writes one archive. Parents must be added before what is in them.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    out: W,
    entries: u32,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, entries: 0 }
    }

    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.entry(path, DIRECTORY | mode, 2, (0, 0), &[])
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | mode, 1, (0, 0), content)
    }

    pub(crate) fn character_device(
        &mut self,
        path: &str,
        mode: u32,
        device: (u32, u32),
    ) -> io::Result<()> {
        self.entry(path, CHARACTER | mode, 1, device, &[])
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.header("TRAILER!!!", 0, 0, 1, (0, 0), 0)?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        links: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{path} is too large for cpio: 4 GiB")))?;
        self.entries += 1;
        self.header(path, self.entries, mode, links, device, size)?;
        self.out.write_all(content)?;
        self.pad(content.len())
    }

    fn header(
        &mut self,
        path: &str,
        ino: u32,
        mode: u32,
        links: u32,
        (major, minor): (u32, u32),
        size: u32,
    ) -> io::Result<()> {
        let name_size = path.len() + 1;
        // magic, ino, mode, uid, gid, nlink, mtime, size, dev major and minor, rdev, name size, check
        write!(
            self.out,
            "070701{ino:08X}{mode:08X}{0:08X}{0:08X}{links:08X}{0:08X}{size:08X}{0:08X}{0:08X}\
             {major:08X}{minor:08X}{name_size:08X}{0:08X}{path}\0",
            0
        )?;
        self.pad(110 + name_size)
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        self.out.write_all(&[0; 3][..written.next_multiple_of(4) - written])
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn archive() -> Vec<u8> {
        let mut cpio = Writer::new(Vec::new());
        cpio.directory("dev", 0o755).unwrap();
        cpio.character_device("dev/console", 0o600, (5, 1)).unwrap();
        cpio.file("init", 0o755, b"hello").unwrap();
        cpio.file("empty", 0o644, b"").unwrap();
        cpio.finish().unwrap()
    }

    #[test]
    fn every_entry_begins_at_a_multiple_of_four() {
        let bytes = archive();
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<_> =
            (0..bytes.len() - 5).filter(|&at| &bytes[at..at + 6] == b"070701").collect();
        assert_eq!(starts.len(), 5);
        assert!(starts.iter().all(|start| start % 4 == 0), "{starts:?}");
        assert_eq!(&bytes[..22], b"07070100000001000041ED");
    }

    #[test]
    fn the_cpio_program_reads_it() {
        let mut child = Command::new("cpio")
            .args(["-itv", "--quiet", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&archive()).unwrap();
        let listing = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let columns: Vec<Vec<&str>> =
            listing.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(columns[0][0], "drwxr-xr-x");
        assert_eq!(columns[1][0], "crw-------");
        assert_eq!(columns[2][4], "5");
        assert_eq!(columns[3].last(), Some(&"empty"));
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        assert_eq!(archive(), archive());
    }
}
