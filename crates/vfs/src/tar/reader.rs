//! The tar format, one member at a time.
//!
//! Field parsing is the `tar` crate's; what comes between headers is here, so that every size is
//! bounded before it is believed.

use std::io::Read;

use tar::{EntryType, Header};

use super::{ENTRIES_MAX, EXTENDED_BYTES_MAX, EXTENDED_BYTES_TOTAL_MAX};
use crate::path::show;
use crate::{Errno, FsError, Result, Time};

/// Bytes of a block; headers and contents are padded to it.
const BLOCK: usize = 512;

/// One member of an archive, with extended headers applied.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) path: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: EntryType,
    pub(super) perm: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    pub(super) mtime: Time,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Member {
    /// Its path, for a message.
    pub(super) fn shown(&self) -> String {
        show(&self.path)
    }
}

/// What extended headers say about the next member.
#[derive(Debug, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<Time>,
    uid: Option<u64>,
    gid: Option<u64>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads members in order.
#[derive(Debug)]
pub(super) struct Reader<R> {
    source: R,
    /// Bytes of the current member's content, and of its padding, that were not read yet.
    left: u64,
    padding: u64,
    members: u64,
    at: u64,
}

impl<R: Read> Reader<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0, members: 0, at: 0 }
    }

    /// The next member; `None` at the end-of-archive marker.
    pub(super) fn next(&mut self) -> Result<Option<Member>> {
        self.skip_content()?;
        let mut extended = Extended::default();
        let mut before = 0;
        loop {
            let Some(header) = self.header()? else {
                self.drain()?;
                return Ok(None);
            };
            let size = or_blank(&header, 124..136, header.entry_size())
                .ok_or_else(|| self.bad("a header has no readable size"))?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let data = self.extended(size, "PAX header", &mut before)?;
                    self.pax(&data, &mut extended)?;
                }
                EntryType::XGlobalHeader => {
                    // `git archive` writes one with a comment. Nothing in it may change entries.
                    let data = self.extended(size, "global PAX header", &mut before)?;
                    for record in
                        records(&data).ok_or_else(|| self.bad("a PAX record is malformed"))?
                    {
                        if record.0 != b"comment" {
                            return Err(self.bad(&format!(
                                "a global PAX header sets {:?}, which is not supported",
                                show(record.0)
                            )));
                        }
                    }
                }
                EntryType::GNULongName => {
                    extended.path =
                        Some(trim_nul(self.extended(size, "long name", &mut before)?));
                }
                EntryType::GNULongLink => {
                    extended.link =
                        Some(trim_nul(self.extended(size, "long link name", &mut before)?));
                }
                _ => return self.member(&header, size, extended).map(Some),
            }
        }
    }

    /// Content of the current member; 0 at its end.
    pub(super) fn content(&mut self, into: &mut [u8]) -> Result<usize> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        if want == 0 {
            return Ok(0);
        }
        let got = self.source.read(&mut into[..want]).map_err(|error| broken(&error))?;
        if got == 0 {
            return Err(self.truncated());
        }
        self.left -= got as u64;
        self.at += got as u64;
        Ok(got)
    }

    fn member(&mut self, header: &Header, size: u64, extended: Extended) -> Result<Member> {
        self.members += 1;
        if self.members > ENTRIES_MAX {
            return Err(FsError::of_kind(
                base::ErrorKind::TooLarge,
                Errno::EFBIG,
                format!("the archive has more than {ENTRIES_MAX} entries"),
            ));
        }
        let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let size = match extended.size {
            // POSIX lets PAX win, but a reader that does not know PAX would go on elsewhere in the
            // stream. Where both say something and differ, we take neither.
            Some(pax) if size != 0 && size != pax => {
                return Err(FsError::with(
                    Errno::EINVAL,
                    format!(
                        "entry {:?}: its header says {size} bytes, its PAX header {pax}",
                        show(&path)
                    ),
                ));
            }
            Some(pax) => pax,
            None => size,
        };
        let field = |what: &str| {
            FsError::with(Errno::EINVAL, format!("entry {:?}: unreadable {what}", show(&path)))
        };
        let mtime = match extended.mtime {
            Some(time) => time,
            None => {
                let seconds =
                    or_blank(header, 136..148, header.mtime()).ok_or_else(|| field("mtime"))?;
                Time::from_parts(i64::try_from(seconds).unwrap_or(i64::MAX), 0)
            }
        };
        let member = Member {
            link: extended
                .link
                .or_else(|| header.link_name_bytes().map(|link| link.into_owned()))
                .unwrap_or_default(),
            kind: header.entry_type(),
            perm: or_blank(header, 100..108, header.mode()).ok_or_else(|| field("mode"))? & 0o7777,
            uid: extended
                .uid
                .or_else(|| or_blank(header, 108..116, header.uid()))
                .ok_or_else(|| field("uid"))?,
            gid: extended
                .gid
                .or_else(|| or_blank(header, 116..124, header.gid()))
                .ok_or_else(|| field("gid"))?,
            size,
            mtime,
            xattrs: extended.xattrs,
            path,
        };
        self.expect_content(size);
        Ok(member)
    }

    /// The next header block; `None` for the end marker.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block).clone();
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, b)| if (148..156).contains(&at) { u32::from(b' ') } else { u32::from(*b) })
            .sum();
        match header.cksum() {
            Ok(stated) if stated == sum => Ok(Some(header)),
            _ => Err(self.bad("not a tar header (its checksum does not match)")),
        }
    }

    /// The content of an extended header. `before` counts those of one member: each adds to what is
    /// known of it, and any number of them may come.
    fn extended(&mut self, size: u64, what: &str, before: &mut u64) -> Result<Vec<u8>> {
        *before = before.saturating_add(size);
        if size > EXTENDED_BYTES_MAX {
            return Err(
                self.bad(&format!("a {what} has {size} bytes; at most {EXTENDED_BYTES_MAX}"))
            );
        }
        if *before > EXTENDED_BYTES_TOTAL_MAX {
            return Err(self.bad(&format!(
                "with a {what}, extended headers of one entry have {before} bytes; at most \
                 {EXTENDED_BYTES_TOTAL_MAX}"
            )));
        }
        self.expect_content(size);
        let mut data = vec![0; usize::try_from(size).unwrap_or(0)];
        let mut filled = 0;
        while filled < data.len() {
            filled += self.content(&mut data[filled..])?;
        }
        self.skip_content()?;
        Ok(data)
    }

    fn pax(&self, data: &[u8], extended: &mut Extended) -> Result<()> {
        let malformed = || self.bad("a PAX record is malformed");
        for (key, value) in records(data).ok_or_else(malformed)? {
            match key {
                b"path" => extended.path = Some(value.to_vec()),
                b"linkpath" => extended.link = Some(value.to_vec()),
                b"size" => extended.size = Some(number(value).ok_or_else(malformed)?),
                b"uid" => extended.uid = Some(number(value).ok_or_else(malformed)?),
                b"gid" => extended.gid = Some(number(value).ok_or_else(malformed)?),
                b"mtime" => extended.mtime = Some(pax_time(value).ok_or_else(malformed)?),
                _ if key.starts_with(b"GNU.sparse.") => {
                    return Err(self.bad(
                        "sparse entries are not supported; make the archive without --sparse",
                    ));
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        extended.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    fn expect_content(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_content(&mut self) -> Result<()> {
        let mut sink = [0; 8192];
        while self.content(&mut sink)? > 0 {}
        let padding = usize::try_from(self.padding).unwrap_or(0);
        self.padding = 0;
        self.fill(&mut sink[..padding])
    }

    /// Reads what follows the end marker, so that a client that is still sending sees an answer.
    fn drain(&mut self) -> Result<()> {
        let mut sink = [0; 8192];
        while self.source.read(&mut sink).map_err(|error| broken(&error))? > 0 {}
        Ok(())
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < into.len() {
            let got = self.source.read(&mut into[filled..]).map_err(|error| broken(&error))?;
            if got == 0 {
                return Err(self.truncated());
            }
            filled += got;
        }
        self.at += filled as u64;
        Ok(())
    }

    fn truncated(&self) -> FsError {
        self.bad("the archive ends early: no end-of-archive marker was seen")
    }

    fn bad(&self, what: &str) -> FsError {
        FsError::with(Errno::EINVAL, format!("tar, near byte {}: {what}", self.at))
    }
}

/// A numeric field; one that was left blank is 0, as every tar reads it.
fn or_blank<T: Default>(
    header: &Header,
    field: std::ops::Range<usize>,
    parsed: std::io::Result<T>,
) -> Option<T> {
    let blank = header.as_bytes()[field].iter().all(|b| matches!(b, 0 | b' '));
    if blank { Some(T::default()) } else { parsed.ok() }
}

/// A stream that broke off is the sender's doing; one that failed a check carries its own error.
fn broken(error: &std::io::Error) -> FsError {
    FsError::with(Errno::EINVAL, format!("reading the archive: {error}"))
}

/// PAX records: `LENGTH KEY=VALUE\n`, where the length counts all of itself.
fn records(mut data: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    while !data.is_empty() {
        let space = data.iter().position(|b| *b == b' ')?;
        let length = usize::try_from(number(&data[..space])?).ok()?;
        let record = data.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|b| *b == b'=')?;
        found.push((&record[..equals], &record[equals + 1..]));
        data = &data[length..];
    }
    Some(found)
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional fraction, possibly negative: `-1.5` is half a second after -2.
fn pax_time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: i64 = digits.parse().ok()?;
    let seconds: i64 = whole.parse().ok()?;
    let signed = if whole.starts_with('-') { -nanos } else { nanos };
    Some(Time(seconds.saturating_mul(1_000_000_000).saturating_add(signed)))
}

fn trim_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}
