//! Whether the leader looks for the next message for a moment before it sleeps. Pure.
//!
//! A program that makes one call after the other sends its next request some microseconds after
//! the reply; to sleep and be woken takes as long as that and more. So there is a short look after
//! each message, as long as looking pays: where it was in vain a few times in a row, most are left
//! out. A mount without traffic never looks.
//!
//! Who looks gives the processor to whoever else wants it, and on a busy host may get it back only
//! milliseconds later, where a sleeper would have been woken at once. After such a loss a number of
//! messages pass without a look, twice as many each time.

use std::time::Duration;

/// A look that took so many times as long as it should has lost the processor.
const LOST: u32 = 4;
/// Looks in vain after one that paid.
const CREDIT: u8 = 8;
/// Without credit, one in so many messages is followed by a look.
const TRY_EACH: u8 = 16;
/// Messages without a look after the processor was lost, the first time and at most.
const PAUSE_MIN: u32 = 256;
const PAUSE_MAX: u32 = 16 << 10;
/// Looks that paid until a loss counts as the first one again.
const LOSS_FORGOTTEN: u32 = 4096;

/// What came of a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    Found,
    InVain,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Spin {
    credit: u8,
    left_out: u8,
    pause: u32,
    next_pause: u32,
    found_since_loss: u32,
}

impl Default for Spin {
    fn default() -> Self {
        let (credit, left_out, pause, found_since_loss) = (0, 0, 0, 0);
        Self { credit, left_out, pause, next_pause: PAUSE_MIN, found_since_loss }
    }
}

impl Spin {
    /// A message was answered and there is no other: look for one?
    pub(super) fn is_worth_it(&mut self) -> bool {
        if self.pause > 0 {
            self.pause -= 1;
            return false;
        }
        if self.credit > 0 {
            return true;
        }
        self.left_out = (self.left_out + 1) % TRY_EACH;
        self.left_out == 0
    }

    /// Takes note of a look that should last `look`, and of the time that it took.
    pub(super) fn looked(&mut self, what: Looked, took: Duration, look: Duration) {
        if took > LOST * look {
            self.pause = self.next_pause;
            self.next_pause = (self.next_pause * 2).min(PAUSE_MAX);
            self.found_since_loss = 0;
            return;
        }
        match what {
            Looked::InVain => self.credit = self.credit.saturating_sub(1),
            Looked::Found => {
                self.credit = CREDIT;
                self.found_since_loss += 1;
                if self.found_since_loss >= LOSS_FORGOTTEN {
                    (self.found_since_loss, self.next_pause) = (0, PAUSE_MIN);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_micros(20);
    const SHORT: Duration = Duration::from_micros(5);

    #[test]
    fn looks_go_on_while_they_pay() {
        let mut spin = Spin::default();
        let tries = (0..160).filter(|_| spin.is_worth_it()).count();
        assert_eq!(tries, 10, "few without credit");
        for _ in 0..100 {
            spin.looked(Looked::Found, SHORT, LOOK);
            assert!(spin.is_worth_it());
            spin.looked(Looked::InVain, LOOK, LOOK);
            assert!(spin.is_worth_it());
        }
        for _ in 1..CREDIT {
            assert!(spin.is_worth_it());
            spin.looked(Looked::InVain, LOOK, LOOK);
        }
        assert!(!spin.is_worth_it());
    }

    #[test]
    fn a_lost_processor_ends_them_for_longer_each_time() {
        let mut spin = Spin::default();
        spin.looked(Looked::Found, SHORT, LOOK);
        let pause = |spin: &mut Spin| {
            spin.looked(Looked::Found, 2 * LOST * LOOK, LOOK);
            (0..).take_while(|_| !spin.is_worth_it()).count()
        };
        assert_eq!([pause(&mut spin), pause(&mut spin), pause(&mut spin)], [256, 512, 1024]);
        let longest = (0..10).map(|_| pause(&mut spin)).last().unwrap();
        assert_eq!(longest, PAUSE_MAX as usize);
        for _ in 0..LOSS_FORGOTTEN {
            spin.looked(Looked::Found, SHORT, LOOK);
        }
        assert_eq!(pause(&mut spin), 256, "long ago");
    }
}
