//! Feeds decoders of bytes from outside with mutations of valid input.
//!
//! A target is a test whose path has a module `fuzz`, beside the decoder, so that it sees what is private
//! there. It gives examples of valid input and a function that decodes; [`Target::run`] does the rest:
//! takes an example, or an input that showed something new, changes it ([`mutate`]) and looks at what
//! comes of it.
//!
//! # What is a fault
//! A panic, also one that is caught on its way; more memory than the target allows, whatever a length
//! field says; an input that takes longer than [`PATIENCE`].
//!
//! # What guides it
//! A decoder says what it made of an input, as numbers: which errors, which kinds of message. An input
//! with a number that was not seen before is kept and changed further. That is no coverage of lines, but it
//! needs no special compiler, and gets past the checks of headers in which noise ends.
//!
//! # Again
//! A fault names the seed and writes the input to `target/fuzz/<target>/`. `DORMOUSE_FUZZ_INPUT` runs that
//! input alone, `DORMOUSE_FUZZ_SEED` the whole row. Without them every run is the same, so that a test
//! does not fail by chance; `cargo xtask fuzz` draws other seeds and takes longer.

mod memory;
pub mod mutate;
mod target;

pub use memory::most_held;
pub use target::{PATIENCE, Target, outcome};
