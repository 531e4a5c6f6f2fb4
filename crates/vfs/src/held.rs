//! A file system that is borrowed for the length of a call, or shared for longer.

use std::sync::Arc;

use crate::FileSystem;

/// Either.
#[derive(Debug)]
pub(crate) enum Held<'a> {
    Borrowed(&'a dyn FileSystem),
    Shared(Arc<dyn FileSystem>),
}

impl Held<'_> {
    pub(crate) fn get(&self) -> &dyn FileSystem {
        match self {
            Self::Borrowed(fs) => *fs,
            Self::Shared(fs) => &**fs,
        }
    }
}
