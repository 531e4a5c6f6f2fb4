//! Content of files: read, write, allocate, seek.

use bytes::Bytes;

use super::content::{Content, SIZE_MAX};
use super::state::{Body, State};
use crate::{Errno, FsError, Ino, Result, SeekFrom};

const KEEP_SIZE: u32 = 0x01;
const PUNCH_HOLE: u32 = 0x02;
const ZERO_RANGE: u32 = 0x10;

impl State {
    pub(super) fn content(&self, ino: Ino) -> Result<&Content> {
        match &self.inode(ino)?.body {
            Body::File(content) => Ok(content),
            body => Err(not_a_file(body)),
        }
    }

    pub(super) fn content_mut(&mut self, ino: Ino) -> Result<&mut Content> {
        match &mut self.inode_mut(ino)?.body {
            Body::File(content) => Ok(content),
            body => Err(not_a_file(body)),
        }
    }

    pub(super) fn read(&self, ino: Ino, offset: u64, len: u32) -> Result<Bytes> {
        Ok(self.content(ino)?.read(offset, u64::from(len)).into())
    }

    pub(super) fn write(&mut self, ino: Ino, offset: u64, data: &[u8]) -> Result<()> {
        let len = data.len() as u64;
        let content = self.content(ino)?;
        check_end(offset, len)?;
        if data.is_empty() {
            return Ok(());
        }
        self.check_room(content.missing(offset, len))?;
        self.content_mut(ino)?.write(offset, data);
        self.content_changed(ino);
        Ok(())
    }

    pub(super) fn fallocate(&mut self, ino: Ino, mode: u32, offset: u64, len: u64) -> Result<()> {
        let content = self.content(ino)?;
        if len == 0 {
            return Err(Errno::EINVAL.into());
        }
        check_end(offset, len)?;
        let grow = mode & KEEP_SIZE == 0;
        match mode & !KEEP_SIZE {
            0 => {
                self.check_room(content.missing(offset, len))?;
                self.content_mut(ino)?.allocate(offset, len, grow);
            }
            PUNCH_HOLE if !grow => self.content_mut(ino)?.punch(offset, len),
            ZERO_RANGE => {
                let content = self.content_mut(ino)?;
                content.punch(offset, len);
                if grow && offset + len > content.size() {
                    content.resize(offset + len);
                }
            }
            _ => return Err(Errno::EOPNOTSUPP.into()),
        }
        self.content_changed(ino);
        Ok(())
    }

    pub(super) fn seek(&self, ino: Ino, from: SeekFrom) -> Result<u64> {
        let content = self.content(ino)?;
        let (SeekFrom::Data(offset) | SeekFrom::Hole(offset)) = from;
        if offset >= content.size() {
            return Err(Errno::ENXIO.into());
        }
        match from {
            SeekFrom::Data(_) => content.next_data(offset).ok_or_else(|| Errno::ENXIO.into()),
            SeekFrom::Hole(_) => Ok(content.next_hole(offset)),
        }
    }
}

fn check_end(offset: u64, len: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= SIZE_MAX => Ok(()),
        _ => Err(Errno::EFBIG.into()),
    }
}

fn not_a_file(body: &Body) -> FsError {
    match body {
        Body::Directory(_) => Errno::EISDIR.into(),
        _ => Errno::EINVAL.into(),
    }
}
