//! Unpublished writes to a sleeping home, and their publication.

use base::ErrorKind;
use homefs::{Draft, Published};

use super::host::Sketch;
use super::{Check, Held, World};
use crate::acts;
use crate::store::Rates;
use crate::tree::observe;

/// How a draft shows in [`super::Belief::doubt`].
pub(super) fn publisher(host: usize) -> usize {
    1_000 + host
}

impl World {
    /// Opens or begins a draft.
    pub(super) fn open_draft(&mut self, host: usize, home: usize) -> Check {
        if self.hosts[host].drafts.get(&home).is_some_and(|sketch| sketch.open.is_some()) {
            return Ok(());
        }
        let settings = self.settings(host, home, "draft");
        let (parts, wire) = self.process(host, true);
        let draft = match Draft::open(settings, parts) {
            Ok(draft) => draft,
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                self.note(format!("draft h{host} home{home}: {error}"));
                return Ok(());
            }
            Err(error) => return Err(format!("host {host} cannot open a draft: {error}")),
        };
        if self.hosts[host].drafts.contains_key(&home) && self.may_have_moved(host, home) {
            // What it did not change may be gone.
            self.note(format!("draft h{host} home{home}: on {}, again", draft.base_seq()));
            if let Some(sketch) = self.hosts[host].drafts.get_mut(&home) {
                sketch.open = Some((draft, wire));
            }
            return self.check_changes(host, home);
        }
        let rates = wire.set_rates(Rates::default());
        let found = observe(&draft)
            .map_err(|(path, error)| format!("a draft cannot read {path:?}: {error}"))?;
        wire.set_rates(rates);
        self.note(format!("draft h{host} home{home}: on {}", draft.base_seq()));
        let belief = &self.homes[home].1;
        let resting = belief.held == Held::Released && belief.doubt.is_empty();
        let begun = resting.then_some(belief.claims);
        match self.hosts[host].drafts.get_mut(&home) {
            Some(sketch) => {
                if let Some(what) = sketch.tree.differs(&found) {
                    return Err(format!("host {host} lost what the draft of {home} had: {what}"));
                }
                sketch.open = Some((draft, wire));
            }
            None if belief.allows(&found) => {
                let (base, open) = (found.clone(), Some((draft, wire)));
                let sketch = Sketch { open, tree: found, base, begun, in_doubt: None };
                self.hosts[host].drafts.insert(home, sketch);
            }
            None => {
                return Err(format!(
                    "a draft began on what was never committed: {}",
                    belief.objection(&found)
                ));
            }
        }
        Ok(())
    }

    /// Does some acts in a draft.
    pub(super) fn act_in_draft(&mut self, host: usize, home: usize, times: u64) -> Check {
        for _ in 0..times {
            let Some(sketch) = self.hosts[host].drafts.get(&home) else { return Ok(()) };
            let (Some((draft, _)), None) = (&sketch.open, sketch.in_doubt) else { return Ok(()) };
            let act = acts::choose(&mut self.chance, &sketch.tree);
            self.acts += 1;
            let done = acts::run(draft, &act);
            let line = format!("act in draft h{host} home{home}: {act:?}");
            if let Err(error) = done {
                self.note(format!("{line}: {error}"));
                match error.kind() {
                    // What it stands on cannot be kept; all is as it was.
                    ErrorKind::Unavailable => continue,
                    ErrorKind::Conflict if self.may_have_moved(host, home) => continue,
                    _ => return Err(format!("{line} failed: {error}")),
                }
            }
            if let Some(sketch) = self.hosts[host].drafts.get_mut(&home) {
                acts::apply(&mut sketch.tree, &act, self.acts);
            }
            self.note(line);
        }
        Ok(())
    }

    /// Publishes a draft; `die`: the process dies somewhere in it.
    pub(super) fn publish(&mut self, host: usize, home: usize, die: bool) -> Check {
        let (nth, after) = (1 + self.chance.below(6), self.chance.percent(50));
        let Some(sketch) = self.hosts[host].drafts.get(&home) else { return Ok(()) };
        let Some((draft, wire)) = &sketch.open else { return Ok(()) };
        if die {
            wire.die_at(nth, after);
        }
        let outcome = draft.publish();
        self.published(host, home, outcome, false)
    }

    /// Compares the outcome with what had to be. `raced`: somebody else may have claimed meanwhile.
    pub(super) fn published(
        &mut self,
        host: usize,
        home: usize,
        outcome: homefs::Result<Published>,
        raced: bool,
    ) -> Check {
        let may_have_moved = self.may_have_moved(host, home);
        let Some(sketch) = self.hosts[host].drafts.get_mut(&home) else { return Ok(()) };
        let Some((_, wire)) = &sketch.open else { return Ok(()) };
        let belief = &mut self.homes[home].1;
        let died = wire.is_dead();
        self.summary.trace.push(format!(
            "publish h{host} home{home}: {:?}, died {died}",
            outcome.as_ref().map_err(homefs::Error::kind)
        ));
        let (mut over, mut moved) = (false, false);
        match outcome {
            Ok(Published::Committed { .. }) => {
                if matches!(belief.held, Held::By(_)) && sketch.in_doubt.is_none() && !raced {
                    return Err(format!("a draft was published on home {home}, which is held"));
                }
                // One that was in doubt may have been done before others came.
                if sketch.in_doubt.is_none_or(|claims| claims == belief.claims) && !raced {
                    belief.may = vec![sketch.tree.clone()];
                    belief.claimed(Held::Released);
                }
                self.summary.confirmed += 1;
                over = true;
            }
            Ok(Published::Moved { .. }) if !may_have_moved && !raced => {
                return Err(format!("a draft of home {home} says that it moved, and it did not"));
            }
            Ok(Published::Moved { .. }) => (over, moved) = (true, true),
            Err(error) => match error.kind() {
                ErrorKind::Fenced if belief.held != Held::Released || raced => {}
                ErrorKind::Unavailable => {
                    belief.might(&sketch.tree);
                    belief.doubted(publisher(host));
                    sketch.in_doubt.get_or_insert(belief.claims);
                }
                _ if died => {}
                kind => return Err(format!("a draft cannot be published: {kind:?}: {error}")),
            },
        }
        if moved && !died {
            self.check_changes(host, home)?;
            if !raced && self.chance.percent(60) {
                self.carry_over(host, home)?;
            }
        }
        if died || over {
            self.kill_draft(host, home);
        }
        if over && !died {
            self.discard(host, home)?;
        }
        Ok(())
    }

    /// A draft of parts stays open while another host takes its home, writes, and collects.
    pub(super) fn outlive(&mut self, host: usize, other: usize, home: usize, times: u64) -> Check {
        self.open_draft(host, home)?;
        self.act_in_draft(host, home, times)?;
        if self.chance.percent(50) {
            self.kill_draft(host, home);
        }
        if !self.hosts[other].writers.contains_key(&home) {
            self.open(other, home, true, false)?;
        }
        self.churn(other, home)?;
        if self.chance.percent(60) {
            self.release(other, home, false)?;
        }
        for _ in 0..2 {
            self.collect(other, home, false)?;
        }
        self.open_draft(host, home)?;
        self.check_changes(host, home)?;
        self.act_in_draft(host, home, times)
    }

    /// Throws a draft away.
    pub(super) fn discard(&mut self, host: usize, home: usize) -> Check {
        self.kill_draft(host, home);
        self.hosts[host].drafts.remove(&home);
        let (parts, _) = self.process(host, false);
        Draft::discard(self.place(host, home, "draft"), &parts)
            .map_err(|error| format!("a draft cannot be discarded: {error}"))
    }

    /// Ends the process that has a draft open.
    pub(super) fn kill_draft(&mut self, host: usize, home: usize) {
        if let Some(sketch) = self.hosts[host].drafts.get_mut(&home)
            && let Some((draft, wire)) = sketch.open.take()
        {
            self.summary.calls += wire.calls();
            wire.die();
            drop(draft);
        }
    }
}
