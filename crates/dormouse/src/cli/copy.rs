//! `dormouse cp` and `cat`.
//!
//! Trees travel as tar streams in both directions; nothing is held in memory whole. As with `cp -r`,
//! copying onto an existing directory puts the source inside it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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
enum Side {
    Local(PathBuf),
    Remote { machine: String, path: String },
}

impl Side {
    /// `NAME:PATH` is remote, unless something before the colon looks like a path.
    fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((machine, path)) if !machine.is_empty() && !machine.contains('/') => {
                let path = path.strip_prefix("/root/").or(path.strip_prefix("~/")).unwrap_or(path);
                let path = if matches!(path, "/root" | "~" | "/" | ".") { "" } else { path };
                Self::Remote { machine: machine.to_owned(), path: path.to_owned() }
            }
            _ => Self::Local(PathBuf::from(text)),
        }
    }
}

pub(super) async fn copy(args: CopyArgs) -> Result<u8, Failure> {
    let client = args.server.client()?;
    match (Side::parse(&args.from), Side::parse(&args.to)) {
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
    let Side::Remote { machine, path } = Side::parse(&args.file) else {
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
        let body = reqwest_body(pack(from.to_path_buf()));
        let done = client.import(machine, &target, body).await?;
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

/// A local tree as a tar stream, made on a blocking thread.
fn pack(dir: PathBuf) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    let (write, read) = tokio::io::duplex(1 << 20);
    tokio::task::spawn_blocking(move || {
        let mut tar = tar::Builder::new(SyncIoBridge::new(write));
        tar.follow_symlinks(false);
        tar.mode(tar::HeaderMode::Complete);
        // Without its end marker the stream is refused by the server, whole: nothing is half there.
        if let Err(error) = tar.append_dir_all(".", &dir).and_then(|()| tar.into_inner().map(drop))
        {
            eprintln!("dormouse: read {}: {error}", dir.display());
        }
    });
    ReaderStream::with_capacity(read, 256 << 10)
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
