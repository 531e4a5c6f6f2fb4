//! Checks of what callers ask for.

use crate::{Error, Result};

/// A possible machine name.
pub(crate) fn name(text: &str) -> Result<()> {
    let fits = !text.is_empty()
        && text.len() <= crate::limits::NAME_LENGTH_MAX
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        Ok(())
    } else {
        Err(Error::invalid("a machine's name has 1 to 63 characters out of a-z, 0-9 and -"))
    }
}
