//! The directory of images.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base::Digest;
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::limits::{MANIFEST_BYTES_MAX, NAME_BYTES_MAX};
use crate::manifest::{BlobKind, BlobRef, FORMAT, Manifest};

/// The usual directory of images: `$XDG_CACHE_HOME/dormouse/images`, else
/// `$HOME/.cache/dormouse/images`, else `/var/cache/dormouse/images`.
///
/// The values are passed in, since only the binary reads the environment.
#[must_use]
pub fn default_dir(xdg_cache_home: Option<&OsStr>, home: Option<&OsStr>) -> PathBuf {
    let absolute =
        |value: Option<&OsStr>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(xdg_cache_home)
        .or_else(|| absolute(home).map(|home| home.join(".cache")))
        .unwrap_or_else(|| PathBuf::from("/var/cache"))
        .join("dormouse/images")
}

/// A directory of images. Looked at on every call, so an image built later is found.
#[derive(Debug, Clone)]
pub struct Images {
    dir: PathBuf,
}

/// An image whose files are all there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// Uncompressed kernel.
    pub kernel: PathBuf,
    /// Initramfs that holds the agent.
    pub initrd: PathBuf,
    /// Root file system, erofs.
    pub root: PathBuf,
    /// Digest of the root file system: what a machine's writable layer belongs to.
    pub digest: Digest,
    /// Version of the agent in the initramfs.
    pub agent_version: String,
    /// `uname -r` of the kernel.
    pub kernel_release: String,
}

impl Images {
    /// The images in `dir`, which need not exist yet.
    #[must_use]
    pub fn open(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The image `name`.
    ///
    /// # Errors
    /// [`Error::Name`], [`Error::Missing`], or [`Error::Damaged`] where a file of it is absent or
    /// has another length. Contents are not hashed here; see [`Images::verify`].
    pub fn get(&self, name: &str) -> Result<Image, Error> {
        let manifest = self.manifest(name)?;
        Ok(Image {
            name: name.to_owned(),
            kernel: self.blob_checked(&manifest.kernel, BlobKind::Kernel)?,
            initrd: self.blob_checked(&manifest.initrd, BlobKind::Initrd)?,
            root: self.blob_checked(&manifest.root, BlobKind::Root)?,
            digest: manifest.root.sha256,
            agent_version: manifest.agent_version,
            kernel_release: manifest.kernel_release,
        })
    }

    /// The root file system that a writable layer made over `digest` needs.
    ///
    /// # Errors
    /// [`Error::Missing`] where this host does not have it.
    pub fn root(&self, digest: &Digest) -> Result<PathBuf, Error> {
        let path = self.blob(digest, BlobKind::Root);
        if path.is_file() {
            Ok(path)
        } else {
            Err(Error::Missing { name: format!("sha256:{digest}"), dir: self.dir.clone() })
        }
    }

    /// Names of all images here, sorted.
    ///
    /// # Errors
    /// [`Error::Io`] where the directory cannot be read; one that does not exist has no images.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io("read", &self.dir)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(Error::io("read", &self.dir))?;
            if let Some(name) =
                entry.file_name().to_str().and_then(|name| name.strip_suffix(".json"))
                && check_name(name).is_ok()
            {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Hashes every file of the image `name`. Takes about a second.
    ///
    /// # Errors
    /// [`Error::Damaged`] where one differs from its digest.
    pub fn verify(&self, name: &str) -> Result<(), Error> {
        let manifest = self.manifest(name)?;
        for (blob, kind) in [
            (&manifest.kernel, BlobKind::Kernel),
            (&manifest.initrd, BlobKind::Initrd),
            (&manifest.root, BlobKind::Root),
        ] {
            let path = self.blob_checked(blob, kind)?;
            if hash_file(&path)? != *blob {
                let detail = "its content differs from its digest".to_owned();
                return Err(Error::Damaged { path, detail });
            }
        }
        Ok(())
    }

    pub(crate) fn blob(&self, digest: &Digest, kind: BlobKind) -> PathBuf {
        self.dir.join("blobs").join(format!("{digest}.{}", kind.ending()))
    }

    pub(crate) fn manifest_path(&self, name: &str) -> Result<PathBuf, Error> {
        check_name(name)?;
        Ok(self.dir.join(format!("{name}.json")))
    }

    pub(crate) fn manifest(&self, name: &str) -> Result<Manifest, Error> {
        let path = self.manifest_path(name)?;
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::Missing { name: name.to_owned(), dir: self.dir.clone() });
            }
            Err(error) => return Err(Error::io("open", path)(error)),
        };
        let mut text = Vec::new();
        file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).map_err(Error::io("read", &path))?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| Error::Damaged { path: path.clone(), detail: error.to_string() })?;
        if manifest.format == FORMAT {
            Ok(manifest)
        } else {
            let detail =
                format!("manifest format {}, this version reads {FORMAT}", manifest.format);
            Err(Error::Damaged { path, detail })
        }
    }

    fn blob_checked(&self, blob: &BlobRef, kind: BlobKind) -> Result<PathBuf, Error> {
        let path = self.blob(&blob.sha256, kind);
        let detail = match fs::metadata(&path) {
            Ok(found) if found.len() == blob.bytes => return Ok(path),
            Ok(found) => format!("{} bytes, expected {}", found.len(), blob.bytes),
            Err(error) => error.to_string(),
        };
        Err(Error::Damaged { path, detail })
    }
}

/// Digest and length of a file.
pub(crate) fn hash_file(path: &Path) -> Result<BlobRef, Error> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        let n = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if n == 0 {
            return Ok(BlobRef { sha256: Digest::from_bytes(hasher.finalize().into()), bytes });
        }
        hasher.update(&buffer[..n]);
        bytes += n as u64;
    }
}

/// Image names become file names, and they come from users.
fn check_name(name: &str) -> Result<(), Error> {
    let good =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(good)
        && !name.starts_with(['.', '-'])
    {
        Ok(())
    } else {
        Err(Error::Name(name.chars().take(NAME_BYTES_MAX).collect()))
    }
}

#[cfg(test)]
mod tests {
    use base::ErrorKind;

    use super::*;
    use crate::build::{Parts, publish};

    fn published(dir: &Path) -> (Images, Image) {
        for name in ["kernel", "initrd", "root"] {
            fs::write(dir.join(name), name).unwrap();
        }
        let images = Images::open(dir.join("images"));
        let parts = Parts {
            kernel: &dir.join("kernel"),
            initrd: &dir.join("initrd"),
            root: &dir.join("root"),
            kernel_release: "6.1.0",
            agent_version: "0.1.0",
        };
        let image = publish(&images, "base", &parts).unwrap();
        (images, image)
    }

    #[test]
    fn a_published_image_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let (images, image) = published(dir.path());
        assert_eq!(images.get("base").unwrap(), image);
        assert_eq!(images.names().unwrap(), ["base"]);
        assert_eq!(fs::read(&image.root).unwrap(), b"root");
        assert_eq!(images.root(&image.digest).unwrap(), image.root);
        images.verify("base").unwrap();
    }

    #[test]
    fn a_missing_image_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let error = Images::open(dir.path()).get("base").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("cargo xtask setup"), "{error}");
        assert!(error.to_string().contains("dormouse doctor"), "{error}");
    }

    #[test]
    fn a_name_never_leaves_the_directory() {
        let images = Images::open("/nonexistent");
        for name in ["", ".", "..", "../etc/passwd", "a/b", "A", "-x", "a\0b", &"a".repeat(200)] {
            assert_eq!(
                images.get(name).unwrap_err().kind(),
                ErrorKind::InvalidArgument,
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_cut_off_file_and_a_changed_file_are_damage() {
        let dir = tempfile::tempdir().unwrap();
        let (images, image) = published(dir.path());
        fs::write(&image.root, "ROOT").unwrap();
        assert!(images.get("base").is_ok(), "same length");
        assert_eq!(images.verify("base").unwrap_err().kind(), ErrorKind::Corrupt);
        fs::write(&image.root, "ro").unwrap();
        assert_eq!(images.get("base").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn the_usual_directory_follows_the_environment() {
        let dir = |xdg: Option<&str>, home: Option<&str>| {
            default_dir(xdg.map(OsStr::new), home.map(OsStr::new))
        };
        assert_eq!(dir(Some("/c"), Some("/h")), Path::new("/c/dormouse/images"));
        assert_eq!(dir(Some("relative"), Some("/h")), Path::new("/h/.cache/dormouse/images"));
        assert_eq!(dir(None, None), Path::new("/var/cache/dormouse/images"));
    }
}
