//! File calls, whoever answers them: a keeper over its socket, or a tree in this process.

use async_trait::async_trait;
use base::ErrorKind;
use control::files::{
    ByteStream, DeleteOptions, Entry, FileBody, FileCalls, FileMeta, Imported, PutDone, PutOptions,
    RangeSpec,
};
use control::{Error, Page, PageQuery, Result};
use vfs::path::TreePath;
use vfs::tar::ImportOptions;

use crate::convert;

/// Who answers.
#[derive(Debug, Clone)]
pub(crate) enum Calls {
    Keeper(keeper::Client),
    Here(keeper::files::Files),
}

/// The same call on either side.
macro_rules! either {
    ($self:ident . $call:ident ( $($arg:expr),* )) => {
        match $self {
            Self::Keeper(client) => client.$call($($arg),*).await,
            Self::Here(files) => files.$call($($arg),*).await,
        }
        .map_err(convert::failure)
    };
}

#[async_trait]
impl FileCalls for Calls {
    async fn head(&self, path: &TreePath) -> Result<FileMeta> {
        either!(self.stat(path)).map(convert::meta)
    }

    async fn get(&self, path: &TreePath, range: Option<RangeSpec>) -> Result<FileBody> {
        let (info, part, body) = either!(self.get(path, range.map(convert::range)))?;
        let meta = convert::meta(info);
        let Some((start, len)) = part else {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("{path} has {} bytes; the range lies past its end", meta.size),
            )
            .with_code("RANGE_NOT_SATISFIABLE")
            .with_detail("size", meta.size));
        };
        Ok(FileBody { meta, range: start..start + len, body })
    }

    async fn put(&self, path: &TreePath, body: ByteStream, options: PutOptions) -> Result<PutDone> {
        let options = keeper::files::PutOptions {
            perm: options.mode,
            preconditions: convert::preconditions(options.precondition),
        };
        let done = either!(self.put(path, body, options))?;
        Ok(PutDone { created: done.created, meta: convert::meta(done.info) })
    }

    async fn delete(&self, path: &TreePath, options: DeleteOptions) -> Result<FileMeta> {
        let preconditions = convert::preconditions(options.precondition);
        either!(self.remove(path, options.recursive, preconditions)).map(convert::meta)
    }

    async fn list(&self, path: &TreePath, page: &PageQuery) -> Result<Page<Entry>> {
        let after = match page.after() {
            None => 0,
            Some(cursor) => cursor
                .parse()
                .map_err(|_| Error::invalid("cursor: hand back next_cursor as it came"))?,
        };
        let found = either!(self.list(path, after, page.length()))?;
        let entry = |entry: keeper::files::Entry| Entry {
            name: String::from_utf8_lossy(&entry.name).into_owned(),
            meta: convert::meta(entry.info),
        };
        Ok(Page {
            items: found.entries.into_iter().map(entry).collect(),
            next_cursor: found.next.map(|next| next.to_string()),
        })
    }

    async fn import_tar(
        &self,
        path: &TreePath,
        body: ByteStream,
        options: ImportOptions,
    ) -> Result<Imported> {
        let done = either!(self.import_tar(path, body, Vec::new(), options))?;
        Ok(Imported { entries: done.entries, bytes: done.bytes })
    }

    async fn bundle_tar(&self, path: &TreePath) -> Result<ByteStream> {
        either!(self.bundle_tar(path))
    }
}
