//! The manifest: which kernel, initramfs and root file system make up an image.

use base::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The manifest format that this version writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// One image, as it stands in `IMAGES/<name>.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format: 1.
    pub format: u32,
    /// Uncompressed kernel.
    pub kernel: BlobRef,
    /// Initramfs that holds the agent.
    pub initrd: BlobRef,
    /// Root file system, erofs.
    pub root: BlobRef,
    /// `uname -r` of the kernel.
    pub kernel_release: String,
    /// Version of the agent in the initramfs.
    pub agent_version: String,
}

/// A file in `IMAGES/blobs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// SHA-256 of its content, and its name.
    #[serde(serialize_with = "write_digest", deserialize_with = "read_digest")]
    pub sha256: Digest,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What a blob is; the ending of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlobKind {
    Kernel,
    Initrd,
    Root,
}

impl BlobKind {
    pub(crate) const fn ending(self) -> &'static str {
        match self {
            Self::Kernel => "vmlinux",
            Self::Initrd => "cpio",
            Self::Root => "erofs",
        }
    }
}

fn write_digest<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

fn read_digest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_stays_readable() {
        let digest = "ab".repeat(32);
        let text = format!(
            r#"{{"format":1,"kernel":{{"sha256":"{digest}","bytes":1}},
               "initrd":{{"sha256":"{digest}","bytes":2}},"root":{{"sha256":"{digest}","bytes":3}},
               "kernel_release":"6.1.0-1-cloud-amd64","agent_version":"0.1.0"}}"#
        );
        let manifest: Manifest = serde_json::from_str(&text).unwrap();
        assert_eq!(manifest.root.bytes, 3);
        assert_eq!(manifest.root.sha256.to_string(), digest);
        let again: Manifest =
            serde_json::from_str(&serde_json::to_string(&manifest).unwrap()).unwrap();
        assert_eq!(again, manifest);
    }
}
