//! Gives built files the name of an image.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::manifest::{BlobKind, BlobRef, FORMAT, Manifest};
use crate::store::hash_file;
use crate::{Error, Image, Images};

/// How long a kernel or initramfs that no manifest names any more is kept: somebody may be about to
/// start a machine on it.
const KEEP: Duration = Duration::from_secs(3600);

/// The files of one image.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    /// Uncompressed kernel.
    pub kernel: &'a Path,
    /// Initramfs with the agent.
    pub initrd: &'a Path,
    /// Root file system.
    pub root: &'a Path,
    /// `uname -r` of the kernel.
    pub kernel_release: &'a str,
    /// Version of the agent.
    pub agent_version: &'a str,
}

/// Copies `parts` into `images` and makes them the image `name`, in place of an earlier one.
///
/// # Errors
/// [`Error::Name`] and [`Error::Io`].
pub fn publish(images: &Images, name: &str, parts: &Parts<'_>) -> Result<Image, Error> {
    let manifest_path = images.manifest_path(name)?;
    let manifest = Manifest {
        format: FORMAT,
        kernel: store(images, parts.kernel, BlobKind::Kernel)?,
        initrd: store(images, parts.initrd, BlobKind::Initrd)?,
        root: store(images, parts.root, BlobKind::Root)?,
        kernel_release: parts.kernel_release.to_owned(),
        agent_version: parts.agent_version.to_owned(),
    };
    let mut text =
        serde_json::to_vec_pretty(&manifest).expect("a struct of strings and numbers serialises");
    text.push(b'\n');
    write_whole(&manifest_path, |file| file.write_all(&text))?;
    remove_unnamed(images)?;
    images.get(name)
}

/// Copies `from` to its digest's name, where it is not there yet.
fn store(images: &Images, from: &Path, kind: BlobKind) -> Result<BlobRef, Error> {
    let blob = hash_file(from)?;
    let to = images.blob(&blob.sha256, kind);
    if fs::metadata(&to).is_ok_and(|found| found.len() == blob.bytes) {
        return Ok(blob);
    }
    let mut source = fs::File::open(from).map_err(Error::io("open", from))?;
    write_whole(&to, |file| std::io::copy(&mut source, file).map(drop))?;
    Ok(blob)
}

/// Writes a file that others see complete or not at all, and that is on disk when they do.
fn write_whole(
    to: &Path,
    fill: impl FnOnce(&mut fs::File) -> std::io::Result<()>,
) -> Result<(), Error> {
    let parent = to.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    let write = || {
        let mut partial = tempfile::Builder::new().prefix(".partial-").tempfile_in(parent)?;
        fill(partial.as_file_mut())?;
        // Hypervisors of other users read kernel and initramfs. Set here, as a umask would win.
        partial.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
        partial.as_file().sync_all()?;
        partial.persist(to).map_err(|error| error.error)?;
        fs::File::open(parent)?.sync_all()
    };
    write().map_err(Error::io("write", to))
}

/// Removes kernels and initramfs files that no manifest names. Roots stay: see the crate's invariants.
fn remove_unnamed(images: &Images) -> Result<(), Error> {
    let mut named: Vec<PathBuf> = Vec::new();
    for name in images.names()? {
        // Where one manifest cannot be read, nobody knows what it names: keep everything.
        let manifest = images.manifest(&name)?;
        named.push(images.blob(&manifest.kernel.sha256, BlobKind::Kernel));
        named.push(images.blob(&manifest.initrd.sha256, BlobKind::Initrd));
    }
    let blobs = images.dir().join("blobs");
    for entry in fs::read_dir(&blobs).map_err(Error::io("read", &blobs))? {
        let path = entry.map_err(Error::io("read", &blobs))?.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        let removable = [BlobKind::Kernel, BlobKind::Initrd].map(|kind| Some(kind.ending()));
        if removable.contains(&ending) && !named.contains(&path) && is_old(&path) {
            fs::remove_file(&path).map_err(Error::io("remove", path))?;
        }
    }
    Ok(())
}

fn is_old(path: &Path) -> bool {
    fs::metadata(path)
        .and_then(|found| found.modified())
        .is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > KEEP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_initramfs_replaces_the_old_one_and_roots_stay() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path().join("images"));
        let file = |name: &str, content: &str| {
            let path = dir.path().join(name);
            fs::write(&path, content).unwrap();
            path
        };
        let (kernel, initrd, root) = (file("k", "kernel"), file("i", "first"), file("r", "root 1"));
        let parts = Parts {
            kernel: &kernel,
            initrd: &initrd,
            root: &root,
            kernel_release: "6.1.0",
            agent_version: "0.1.0",
        };
        let first = publish(&images, "base", &parts).unwrap();
        let long_ago = SystemTime::now() - 2 * KEEP;
        for path in [&first.initrd, &first.root, &first.kernel] {
            fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
        }
        file("i", "second");
        file("r", "root 2");
        let second = publish(&images, "base", &parts).unwrap();
        assert!(!first.initrd.exists(), "nobody can want it");
        assert_eq!(fs::metadata(&second.initrd).unwrap().permissions().mode() & 0o777, 0o644);
        assert!(first.root.exists(), "an upper may lie over it");
        assert_eq!(first.kernel, second.kernel);
        assert_ne!(first.digest, second.digest);
    }
}
