//! What only the host knows whenever the guest begins or goes on: the time, and some entropy.

use std::fs::File;

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

use crate::limits::ENTROPY_BYTES_MAX;
use crate::{Error, sys};

/// One that was found to be sound.
#[derive(PartialEq, Eq)]
pub(crate) struct Moment {
    clock: TimeSpec,
    entropy: Vec<u8>,
}

impl Moment {
    /// Checks both parts: nanoseconds since 1970, and bytes in hex.
    pub(crate) fn check(unix_nanos: i64, entropy: &str) -> Result<Self, Error> {
        if unix_nanos < 0 {
            return Err(Error::Invalid("a time before 1970".to_owned()));
        }
        let entropy = hex::decode(entropy).ok().filter(|e| e.len() <= ENTROPY_BYTES_MAX);
        let entropy = entropy.ok_or_else(|| {
            Error::Invalid(format!("entropy must be hex, at most {ENTROPY_BYTES_MAX} bytes"))
        })?;
        let clock = TimeSpec::new(unix_nanos / 1_000_000_000, unix_nanos % 1_000_000_000);
        Ok(Self { clock, entropy })
    }

    /// Sets the clock, adds the entropy and has the kernel's generator take it up at once. Only a
    /// guest may: a developer's machine has a clock already. Each is done even where the other fails.
    pub(crate) fn apply(&self) -> Result<(), Error> {
        let clock = clock_settime(ClockId::CLOCK_REALTIME, self.clock);
        let entropy = add_entropy(&self.entropy);
        clock.map_err(Error::sys("set the clock")).and(entropy)
    }
}

fn add_entropy(bytes: &[u8]) -> Result<(), Error> {
    if bytes.is_empty() {
        return Ok(());
    }
    let random = File::open("/dev/urandom").map_err(Error::io("open /dev/urandom"))?;
    sys::add_entropy(random, bytes).map_err(Error::sys("add entropy"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sound_one_is_taken_apart() {
        let moment = Moment::check(1_700_000_000_123_456_789, "00ff").ok().unwrap();
        assert_eq!((moment.clock.tv_sec(), moment.clock.tv_nsec()), (1_700_000_000, 123_456_789));
        assert_eq!(moment.entropy, [0, 255]);
    }

    #[test]
    fn what_is_neither_time_nor_entropy_is_refused() {
        for (unix_nanos, entropy) in [(-1, ""), (0, "zz"), (0, "0"), (0, &*"00".repeat(513))] {
            assert!(Moment::check(unix_nanos, entropy).is_err(), "{unix_nanos} {entropy}");
        }
    }
}
