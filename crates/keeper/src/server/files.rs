//! File calls over the socket. Argument types are shared with the client.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::{Buf, Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use vfs::path::TreePath;
use vfs::tar::ImportOptions;

use super::Ctx;
use super::reply::{Args, INFO_HEADER, encode_header};
use crate::files::{
    ByteStream, FileInfo, ImportDone, ListPage, Preconditions, PutDone, PutOptions, Range,
};
use crate::{Failure, Result};

/// Longest list of arguments in front of a tar stream, in bytes.
const PREFIX_BYTES_MAX: usize = 64 << 20;

/// A path on the wire: names are bytes, so they travel as such.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct WirePath(Vec<Vec<u8>>);

impl From<&TreePath> for WirePath {
    fn from(path: &TreePath) -> Self {
        Self(path.parts().to_vec())
    }
}

impl WirePath {
    fn checked(&self) -> Result<TreePath> {
        Ok(TreePath::parse(&self.0.join(&b'/'))?)
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PathArgs {
    pub(crate) path: WirePath,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GetArgs {
    pub(crate) path: WirePath,
    pub(crate) range: Option<Range>,
}

/// What precedes a file's bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GetInfo {
    pub(crate) info: FileInfo,
    pub(crate) part: Option<(u64, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PutArgs {
    pub(crate) path: WirePath,
    pub(crate) options: PutOptions,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RemoveArgs {
    pub(crate) path: WirePath,
    pub(crate) recursive: bool,
    pub(crate) preconditions: Preconditions,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListArgs {
    pub(crate) path: WirePath,
    pub(crate) after: u64,
    pub(crate) limit: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DirArgs {
    pub(crate) path: WirePath,
    pub(crate) perm: u32,
}

/// In front of a tar stream: `u32` little-endian length, then this as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ImportArgs {
    pub(crate) path: WirePath,
    pub(crate) removals: Vec<Vec<Vec<u8>>>,
    pub(crate) keep_owner: bool,
    pub(crate) outside_links: bool,
}

pub(super) async fn stat(State(ctx): Ctx, Args(args): Args<PathArgs>) -> Result<Json<FileInfo>> {
    ctx.files()?.stat(&args.path.checked()?).await.map(Json)
}

pub(super) async fn get(State(ctx): Ctx, Args(args): Args<GetArgs>) -> Result<Response> {
    let (info, part, body) = ctx.files()?.get(&args.path.checked()?, args.range).await?;
    let header = encode_header(&GetInfo { info, part })?;
    Ok(([(INFO_HEADER, header)], Body::from_stream(body)).into_response())
}

pub(super) async fn put(
    State(ctx): Ctx,
    Args(args): Args<PutArgs>,
    body: Body,
) -> Result<Json<PutDone>> {
    let (path, files) = (args.path.checked()?, ctx.files()?.clone());
    let put = async move { files.put(&path, stream(body), args.options).await };
    ctx.door.through(put).await.map(Json)
}

pub(super) async fn remove(
    State(ctx): Ctx,
    Args(args): Args<RemoveArgs>,
) -> Result<Json<FileInfo>> {
    let (path, files) = (args.path.checked()?, ctx.files()?.clone());
    let remove = async move { files.remove(&path, args.recursive, args.preconditions).await };
    ctx.door.through(remove).await.map(Json)
}

pub(super) async fn list(State(ctx): Ctx, Args(args): Args<ListArgs>) -> Result<Json<ListPage>> {
    ctx.files()?.list(&args.path.checked()?, args.after, args.limit).await.map(Json)
}

pub(super) async fn make_dir(State(ctx): Ctx, Args(args): Args<DirArgs>) -> Result<Json<()>> {
    let (path, files) = (args.path.checked()?, ctx.files()?.clone());
    ctx.door.through(async move { files.make_dir(&path, args.perm).await }).await.map(Json)
}

pub(super) async fn bundle(State(ctx): Ctx, Args(args): Args<PathArgs>) -> Result<Response> {
    let body = ctx.files()?.bundle_tar(&args.path.checked()?).await?;
    Ok(Body::from_stream(body).into_response())
}

pub(super) async fn import(State(ctx): Ctx, body: Body) -> Result<Json<ImportDone>> {
    let files = ctx.files()?.clone();
    let import = async move {
        let (args, rest) = split_prefix(stream(body)).await?;
        let ImportArgs { path, removals, keep_owner, outside_links } = args;
        let options = ImportOptions { keep_owner, outside_links };
        files.import_tar(&path.checked()?, rest, removals, options).await
    };
    ctx.door.through(import).await.map(Json)
}

/// Takes the arguments off the front of a body.
async fn split_prefix(mut body: ByteStream) -> Result<(ImportArgs, ByteStream)> {
    let bad = |why: &str| Failure::new(base::ErrorKind::InvalidArgument, format!("import: {why}"));
    let mut head = BytesMut::new();
    let mut want = 4;
    loop {
        while head.len() < want {
            let piece = body.next().await.ok_or_else(|| bad("the body ends early"))?;
            head.extend_from_slice(&piece.map_err(|error| bad(&error.to_string()))?);
        }
        if want > 4 {
            break;
        }
        let length = (&head[..4]).get_u32_le() as usize;
        if length > PREFIX_BYTES_MAX {
            return Err(bad("its list of removals is too long"));
        }
        want = 4 + length;
        if length == 0 {
            return Err(bad("arguments are missing"));
        }
    }
    let rest: Bytes = head.split_off(want).freeze();
    let args = serde_json::from_slice(&head[4..]).map_err(|error| bad(&error.to_string()))?;
    let first = futures::stream::iter((!rest.is_empty()).then_some(Ok(rest)));
    Ok((args, first.chain(body).boxed()))
}

fn stream(body: Body) -> ByteStream {
    body.into_data_stream().map_err(std::io::Error::other).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(bytes: &[u8], length: usize) -> ByteStream {
        let pieces: Vec<_> =
            bytes.chunks(length).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        futures::stream::iter(pieces).boxed()
    }

    fn prefixed(rest: &[u8]) -> Vec<u8> {
        let args = ImportArgs {
            path: WirePath(vec![b"a\xff".to_vec()]),
            removals: vec![vec![b"b".to_vec()]],
            keep_owner: true,
            outside_links: false,
        };
        let json = serde_json::to_vec(&args).unwrap();
        [&u32::try_from(json.len()).unwrap().to_le_bytes()[..], &json, rest].concat()
    }

    #[tokio::test]
    async fn arguments_and_body_come_apart_wherever_the_pieces_break() {
        let whole = prefixed(b"the tar stream");
        for length in [1, 3, 4, 7, whole.len() - 14, whole.len()] {
            let (args, rest) = split_prefix(pieces(&whole, length)).await.unwrap();
            assert_eq!(args.path.checked().unwrap().parts(), [b"a\xff".to_vec()]);
            assert_eq!(args.removals, [vec![b"b".to_vec()]]);
            let rest: Vec<Bytes> = rest.try_collect().await.unwrap();
            assert_eq!(rest.concat(), b"the tar stream", "pieces of {length}");
        }
        let (_, rest) = split_prefix(pieces(&prefixed(b""), 5)).await.unwrap();
        assert_eq!(rest.count().await, 0);
    }

    #[tokio::test]
    async fn a_prefix_that_is_short_long_or_missing_is_refused() {
        let whole = prefixed(b"");
        for bytes in [
            &b""[..],
            b"\x01\x00",
            &whole[..whole.len() - 1],
            &[0, 0, 0, 0],
            &u32::MAX.to_le_bytes(),
            b"\x02\x00\x00\x00{{",
        ] {
            let refused = split_prefix(pieces(bytes, 3)).await.map(drop).unwrap_err();
            assert_eq!(refused.kind, base::ErrorKind::InvalidArgument, "{bytes:?}");
        }
    }

    #[test]
    fn a_path_from_the_wire_is_checked_like_any_other() {
        for part in [&b".."[..], b"a\0b", &[b'x'; 256]] {
            assert!(WirePath(vec![part.to_vec()]).checked().is_err(), "{part:?}");
        }
    }
}
