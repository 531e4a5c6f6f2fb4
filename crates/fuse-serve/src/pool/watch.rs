//! What is done about a leader that takes long. Pure: looks in, advice out.
//!
//! The leader is looked at once a tick. One that is at the same request as a tick before is
//! replaced, so a request waits behind another for two ticks at most. One that was busy for a whole
//! tick and never found its queue empty gets help, where threads are free. After a number of ticks
//! in which nothing happened nobody looks any more, until the next request.

use std::time::Duration;

use super::lead::{Look, Turn};

/// Time between two looks.
pub(super) const TICK: Duration = Duration::from_millis(1);
/// Looks at a leader that does nothing, before there are none.
const LOOKS_IN_VAIN: u32 = 4;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advice {
    /// Look again a tick later.
    Wait,
    /// Let another thread lead.
    Replace(Turn),
    /// Let another thread receive too.
    Help,
    /// Stop looking.
    Rest,
}

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct Watch {
    last: Look,
    in_vain: u32,
}

impl Watch {
    pub(super) fn tick(&mut self, look: Look) -> Advice {
        let last = std::mem::replace(&mut self.last, look);
        if look.turn != last.turn {
            self.in_vain = 0;
            return if look.empty == last.empty { Advice::Help } else { Advice::Wait };
        }
        if let Some(turn) = look.handling() {
            return Advice::Replace(turn);
        }
        self.in_vain += 1;
        if self.in_vain < LOOKS_IN_VAIN {
            return Advice::Wait;
        }
        self.in_vain = 0;
        Advice::Rest
    }

    /// True where nothing has begun since the last look.
    pub(super) fn is_up_to_date(&self, look: Look) -> bool {
        look.turn == self.last.turn
    }
}

#[cfg(test)]
mod tests {
    use super::super::lead::Lead;
    use super::*;

    #[test]
    fn who_is_at_the_same_request_for_a_tick_is_replaced() {
        let (lead, mut watch) = (Lead::default(), Watch::default());
        let turn = lead.begin();
        lead.found_nothing();
        assert_eq!(watch.tick(lead.look()), Advice::Wait);
        assert_eq!(watch.tick(lead.look()), Advice::Replace(turn));
        assert!(lead.end(turn));
        let next = lead.begin();
        lead.found_nothing();
        assert_eq!(watch.tick(lead.look()), Advice::Wait, "another request");
        assert!(lead.end(next));
    }

    #[test]
    fn who_never_finds_the_queue_empty_gets_help() {
        let (lead, mut watch) = (Lead::default(), Watch::default());
        for _ in 0..5 {
            let turn = lead.begin();
            assert!(lead.end(turn));
        }
        assert_eq!(watch.tick(lead.look()), Advice::Help);
        let turn = lead.begin();
        assert!(lead.end(turn));
        lead.found_nothing();
        assert_eq!(watch.tick(lead.look()), Advice::Wait);
    }

    #[test]
    fn nobody_looks_where_nothing_happens() {
        let (lead, mut watch) = (Lead::default(), Watch::default());
        let advice: Vec<_> = (0..LOOKS_IN_VAIN).map(|_| watch.tick(lead.look())).collect();
        let (last, before) = advice.split_last().unwrap();
        assert_eq!(*last, Advice::Rest);
        assert!(before.iter().all(|advice| *advice == Advice::Wait));
        assert!(watch.is_up_to_date(lead.look()));
        _ = lead.begin();
        assert!(!watch.is_up_to_date(lead.look()));
    }
}
