//! Remembers what a step was done with.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A file that holds the input of a finished step.
#[derive(Debug)]
pub(crate) struct Stamp {
    path: PathBuf,
    input: String,
}

impl Stamp {
    /// The stamp of the step that makes `product` out of `input`.
    pub(crate) fn new(product: &Path, input: String) -> Self {
        let mut path = product.as_os_str().to_owned();
        path.push(".stamp");
        Self { path: path.into(), input }
    }

    /// True where the step was done with this very input.
    pub(crate) fn holds(&self) -> bool {
        fs::read_to_string(&self.path).is_ok_and(|found| found == self.input)
    }

    /// The step is done.
    pub(crate) fn set(&self) -> anyhow::Result<()> {
        fs::write(&self.path, &self.input).with_context(|| format!("write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_holds_for_the_input_it_was_set_with() {
        let product = std::env::temp_dir().join(format!("dormouse-stamp-{}", std::process::id()));
        let stamp = Stamp::new(&product, "one".to_owned());
        assert!(!stamp.holds());
        stamp.set().unwrap();
        assert!(Stamp::new(&product, "one".to_owned()).holds());
        assert!(!Stamp::new(&product, "two".to_owned()).holds());
        fs::remove_file(&stamp.path).unwrap();
    }
}
