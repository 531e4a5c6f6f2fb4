//! `dormouse cp` and `cat`.
//!
//! Trees travel as tar streams in both directions; nothing is held in memory whole. As with `cp -r`,
//! copying onto an existing directory puts the source inside it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use base::ErrorKind;
use bytes::Bytes;
use clap::Args;
use client::Client;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::io::AsyncWriteExt;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use super::ServerArgs;
use crate::Failure;

/// Flags of `cp`.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// What to copy: a local path, or NAME:PATH (paths are relative to the home).
    from: String,
    /// Where to: the other of the two.
    to: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `cat`.
#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// NAME:PATH.
    file: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Side {
    Local(PathBuf),
    Remote { machine: String, path: String },
}

impl Side {
    /// `NAME:PATH` is remote, unless something before the colon looks like a path. PATH may also be
    /// written as the machine sees it.
    fn parse(text: &str) -> Result<Self, Failure> {
        let Some((machine, path)) = text.split_once(':') else {
            return Ok(Self::Local(PathBuf::from(text)));
        };
        if machine.is_empty() || machine.contains('/') {
            return Ok(Self::Local(PathBuf::from(text)));
        }
        let inside = path.strip_prefix("/root/").or(path.strip_prefix("~/")).unwrap_or(path);
        let inside = if matches!(inside, "/root" | "~" | "/" | ".") { "" } else { inside };
        // Taken as relative it would end up where nobody looks for it.
        if inside.starts_with('/') {
            return Err(Failure::new(
                ErrorKind::InvalidArgument,
                format!(
                    "{path} is not in the machine's home; give a path below /root, or use exec"
                ),
            ));
        }
        Ok(Self::Remote { machine: machine.to_owned(), path: inside.to_owned() })
    }
}

pub(super) async fn copy(args: CopyArgs) -> Result<u8, Failure> {
    let client = args.server.client()?;
    match (Side::parse(&args.from)?, Side::parse(&args.to)?) {
        (Side::Local(from), Side::Remote { machine, path }) => {
            upload(&client, &from, &machine, &path).await
        }
        (Side::Remote { machine, path }, Side::Local(to)) => {
            download(&client, &machine, &path, &to).await
        }
        _ => Err(Failure::new(
            ErrorKind::InvalidArgument,
            "one side is NAME:PATH and the other a local path",
        )),
    }?;
    Ok(0)
}

pub(super) async fn cat(args: CatArgs) -> Result<u8, Failure> {
    let Side::Remote { machine, path } = Side::parse(&args.file)? else {
        return Err(Failure::new(ErrorKind::InvalidArgument, "cat takes NAME:PATH"));
    };
    let client = args.server.client()?;
    let mut body = Box::pin(client.read(&machine, &path).await?);
    let mut stdout = tokio::io::stdout();
    while let Some(piece) = body.next().await {
        stdout.write_all(&piece?).await.map_err(local("write to stdout"))?;
    }
    stdout.flush().await.map_err(local("write to stdout"))?;
    Ok(0)
}

async fn upload(client: &Client, from: &Path, machine: &str, path: &str) -> Result<(), Failure> {
    let meta = std::fs::metadata(from).map_err(local(&format!("read {}", from.display())))?;
    let name = from
        .canonicalize()
        .ok()
        .and_then(|full| full.file_name().map(|name| name.to_string_lossy().into_owned()))
        .unwrap_or_default();
    let there = client.stat(machine, path).await?;
    let into_dir = path.is_empty()
        || path.ends_with('/')
        || there.is_some_and(|stat| stat.kind == "directory");
    // `cp DIR/. NAME:` and the like copy the content, as everywhere.
    let content_only = from.to_string_lossy().ends_with("/.") || from == Path::new(".");
    let target = if into_dir && !content_only { join(path, &name) } else { path.to_owned() };
    if meta.is_dir() {
        let (body, broken) = pack(from.to_path_buf());
        let done = client.import(machine, &target, reqwest_body(body)).await;
        // The server only knows that the stream was cut off.
        if let Some(error) = broken.lock().ok().and_then(|mut broken| broken.take()) {
            return Err(local(&format!("read {}; nothing was copied", from.display()))(error));
        }
        let done = done?;
        eprintln!("{} entries, {} bytes", done["entries"], done["bytes"]);
        return Ok(());
    }
    let file =
        tokio::fs::File::open(from).await.map_err(local(&format!("read {}", from.display())))?;
    let body = reqwest_body(ReaderStream::with_capacity(file, 256 << 10));
    Ok(client.write(machine, &target, body, Some(meta.permissions().mode() & 0o7777)).await?)
}

async fn download(client: &Client, machine: &str, path: &str, to: &Path) -> Result<(), Failure> {
    let stat = client.stat(machine, path).await?.ok_or_else(|| {
        Failure::new(ErrorKind::NotFound, format!("{machine}:{path}: no such file or directory"))
    })?;
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let target = if to.is_dir() && !name.is_empty() { to.join(name) } else { to.to_path_buf() };
    if stat.kind == "directory" {
        let body = client.bundle(machine, path).await?;
        return unpack(body, target).await;
    }
    let mut body = Box::pin(client.read(machine, path).await?);
    // Beside the target first, so that a broken download leaves what was there.
    let beside = beside(&target);
    let mut file =
        std::fs::File::create(&beside).map_err(local(&format!("write {}", beside.display())))?;
    let copied = async {
        while let Some(piece) = body.next().await {
            file.write_all(&piece?).map_err(local(&format!("write {}", beside.display())))?;
        }
        let mode = std::fs::Permissions::from_mode(stat.mode & 0o777);
        file.set_permissions(mode).map_err(local("set the file's mode"))?;
        std::fs::rename(&beside, &target).map_err(local(&format!("write {}", target.display())))
    }
    .await;
    if copied.is_err() {
        std::fs::remove_file(&beside).ok();
    }
    copied
}

/// Why a tree could not be read.
type Broken = Arc<Mutex<Option<std::io::Error>>>;

/// A local tree as a tar stream, made on a blocking thread. Where the tree cannot be read, the stream
/// is cut off, so that the server takes nothing of it, and the reason is found beside it.
fn pack(dir: PathBuf) -> (impl Stream<Item = std::io::Result<Bytes>> + Send, Broken) {
    let (sender, pieces) = tokio::sync::mpsc::channel(PIECES_AHEAD);
    let broken = Broken::default();
    let told = broken.clone();
    tokio::task::spawn_blocking(move || {
        let pieces = std::io::BufWriter::with_capacity(PIECE_BYTES, Pieces(sender.clone()));
        let mut tar = tar::Builder::new(pieces);
        tar.follow_symlinks(false);
        tar.mode(tar::HeaderMode::Complete);
        let packed = tar.append_dir_all(".", &dir);
        if let Err(error) = packed {
            // First the error, then the builder, which writes an end marker as it goes.
            if let Ok(mut told) = told.lock() {
                *told = Some(error);
            }
            sender.blocking_send(Err(std::io::ErrorKind::InvalidData.into())).ok();
            return;
        }
        // Where nobody listens any more, the call has its own error.
        tar.into_inner().and_then(|mut pieces| pieces.flush()).ok();
    });
    let stream = futures::stream::unfold(pieces, |mut pieces| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    (stream, broken)
}

/// Pieces that wait for a slow connection, and their size.
const PIECES_AHEAD: usize = 4;
const PIECE_BYTES: usize = 256 << 10;

/// The writing end of a body.
struct Pieces(tokio::sync::mpsc::Sender<std::io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes))) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn unpack(
    body: impl Stream<Item = client::Result<Bytes>> + Send + 'static,
    target: PathBuf,
) -> Result<(), Failure> {
    let reader = StreamReader::new(Box::pin(body.map_err(std::io::Error::other)));
    let reader = SyncIoBridge::new(reader);
    let shown = target.display().to_string();
    let done = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&target)?;
        let mut tar = tar::Archive::new(reader);
        tar.set_preserve_permissions(true);
        // Never through a link that the archive itself brought: the library checks each parent.
        tar.unpack(&target)
    })
    .await;
    match done {
        Ok(done) => done.map_err(local(&format!("unpack into {shown}"))),
        Err(error) => Err(Failure::new(ErrorKind::Internal, error.to_string())),
    }
}

fn reqwest_body(
    stream: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
) -> client::Body {
    client::Body::wrap_stream(stream)
}

fn join(dir: &str, name: &str) -> String {
    let dir = dir.trim_end_matches('/');
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

fn beside(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    target.with_file_name(name)
}

fn local(doing: &str) -> impl FnOnce(std::io::Error) -> Failure + use<> {
    let doing = doing.to_owned();
    move |error| {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Internal,
        };
        Failure::new(kind, format!("{doing}: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(machine: &str, path: &str) -> Side {
        Side::Remote { machine: machine.to_owned(), path: path.to_owned() }
    }

    #[test]
    fn a_side_is_remote_where_a_name_stands_before_the_colon() {
        for (text, expected) in [
            ("hello:notes.txt", remote("hello", "notes.txt")),
            ("hello:", remote("hello", "")),
            ("hello:.", remote("hello", "")),
            ("hello:~", remote("hello", "")),
            ("hello:~/a/b", remote("hello", "a/b")),
            ("hello:/root", remote("hello", "")),
            ("hello:/root/a", remote("hello", "a")),
            ("hello:a:b", remote("hello", "a:b")),
            ("notes.txt", Side::Local("notes.txt".into())),
            ("./a:b", Side::Local("./a:b".into())),
            ("/tmp/a:b", Side::Local("/tmp/a:b".into())),
            (":a", Side::Local(":a".into())),
        ] {
            assert_eq!(Side::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_path_outside_the_home_is_refused() {
        for text in ["hello:/etc/passwd", "hello:/rooted", "hello:~//etc"] {
            assert_eq!(Side::parse(text).unwrap_err().kind, ErrorKind::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn names_are_joined_and_parts_lie_beside_their_target() {
        assert_eq!(join("", "a"), "a");
        assert_eq!(join("b/", "a"), "b/a");
        let part = beside(Path::new("/tmp/x"));
        assert_eq!(part.parent(), Some(Path::new("/tmp")));
        assert_ne!(part, Path::new("/tmp/x"));
    }

    #[tokio::test]
    async fn a_tree_is_packed_whole() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("one"), vec![7; 600_000]).unwrap();
        let (stream, broken) = pack(dir.path().to_owned());
        let bytes: Vec<Bytes> = stream.try_collect().await.unwrap();
        let bytes = bytes.concat();
        let mut tar = tar::Archive::new(&bytes[..]);
        let sizes: Vec<u64> = tar.entries().unwrap().map(|entry| entry.unwrap().size()).collect();
        assert_eq!(sizes, [0, 600_000]);
        assert_eq!(bytes[bytes.len() - 1024..], [0; 1024], "the end marker");
        assert!(broken.lock().unwrap().is_none());
    }

    #[tokio::test]
    async fn a_tree_that_cannot_be_read_cuts_the_stream_off() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("one"), "content").unwrap();
        // What a tar stream has no way to hold.
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
        let (stream, broken) = pack(dir.path().to_owned());
        let pieces: Vec<_> = stream.collect().await;
        let cut = pieces.iter().position(Result::is_err).expect("an error");
        assert!(pieces[..cut].iter().all(Result::is_ok));
        assert!(broken.lock().unwrap().is_some());
    }
}
