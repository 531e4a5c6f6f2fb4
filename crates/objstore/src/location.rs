//! Store URLs.
//!
//! # Invariants
//! - A URL carries no credential. One that seems to is refused and not repeated.
//! - What is printed of a location can be shown to anyone.
//!
//! # Not here
//! Endpoints, regions and credentials (`cloud`): those come from variables.

use std::fmt;
use std::path::PathBuf;

use crate::limits::URL_PREFIX_BYTES_MAX;
use crate::{Error, Result, key};

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// `memory://`
    Memory,
    /// `file:///absolute/path`
    File(PathBuf),
    /// `s3://bucket/prefix` and its kin.
    Cloud {
        /// Which sort.
        provider: Provider,
        /// The bucket or container.
        bucket: String,
        /// What all keys begin with, without slashes around; empty for none.
        prefix: String,
    },
}

/// A sort of cloud store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Provider {
    /// Amazon S3 and everything that speaks its protocol.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

impl Provider {
    fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

impl Location {
    /// Reads a store URL.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let (scheme, rest) = url.split_once("://").ok_or_else(unknown_form)?;
        match scheme {
            "memory" if rest.is_empty() => Ok(Self::Memory),
            "file" => file(rest),
            "s3" => cloud(Provider::S3, rest),
            "gs" => cloud(Provider::Gcs, rest),
            "az" => cloud(Provider::Azure, rest),
            _ => Err(unknown_form()),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory://"),
            Self::File(root) => write!(f, "file://{}", root.display()),
            Self::Cloud { provider, bucket, prefix } => {
                write!(f, "{}://{bucket}/{prefix}", provider.scheme())
            }
        }
    }
}

fn unknown_form() -> Error {
    Error::unusable(
        "not a store URL: expected file:///absolute/path, s3://bucket/prefix, gs://bucket/prefix or \
         az://container/prefix",
    )
}

fn file(rest: &str) -> Result<Location> {
    let path = PathBuf::from(rest);
    let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
    if !path.is_absolute() || climbs || rest.contains('\0') || rest.contains('%') {
        return Err(Error::unusable(
            "a file store needs an absolute path without '..' and without escapes: file:///var/lib/dormouse/store",
        ));
    }
    Ok(Location::File(path))
}

fn cloud(provider: Provider, rest: &str) -> Result<Location> {
    if rest.contains(['@', '?', '#', ':']) {
        return Err(Error::unusable(format!(
            "a store URL is {0}://bucket/prefix and carries no credential, port or option: set the usual \
             variables instead (AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL for S3)",
            provider.scheme()
        )));
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let prefix = prefix.trim_end_matches('/');
    let bucket_fine = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if !bucket_fine {
        return Err(Error::unusable(
            "the bucket in the store URL must be 3 to 63 letters, digits, dots, dashes or underscores",
        ));
    }
    if prefix.len() > URL_PREFIX_BYTES_MAX || (!prefix.is_empty() && key::check(prefix).is_err()) {
        return Err(Error::unusable(
            "the prefix in the store URL must be at most 255 letters, digits, slashes and -_.:=+@~, and no \
             part of it may begin with a dot",
        ));
    }
    Ok(Location::Cloud { provider, bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_survives_its_printed_form() {
        for url in
            ["memory://", "file:///var/lib/x", "s3://bucket/a/b", "gs://bucket/", "az://box/p"]
        {
            assert_eq!(Location::parse(url).unwrap().to_string(), url);
        }
        assert_eq!(
            Location::parse("s3://bucket/a/").unwrap(),
            Location::parse("s3://bucket/a").unwrap()
        );
    }

    #[test]
    fn a_url_with_a_secret_is_refused_without_repeating_it() {
        for url in
            ["s3://AKID:s3cr3t@bucket/x", "s3://bucket/x?sig=s3cr3t", "s3cr3t", "http://s3cr3t"]
        {
            let message = Location::parse(url).unwrap_err().to_string();
            assert!(!message.contains("s3cr3t"), "{message}");
        }
    }

    #[test]
    fn a_url_that_points_nowhere_is_refused() {
        for url in [
            "",
            "file://relative",
            "file:///a/../b",
            "s3://",
            "s3://b",
            "s3://bucket/../x",
            "ftp://x/y",
        ] {
            assert!(Location::parse(url).is_err(), "{url}");
        }
    }
}
