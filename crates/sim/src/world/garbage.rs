//! The collector, of an open home and of a sleeping one, beside readers, pins and other writers.
//!
//! # Clocks
//! A writer's collector goes by its own clocks. That of a sleeping home compares clocks of hosts, so where
//! these are apart (`World::steady`) it may collect what a reader still holds; nothing else.

use std::time::Duration;

use base::ErrorKind;
use homefs::HomeFs;

use super::writers::watched;
use super::{Check, RUNTIME, World, scratch};
use crate::store::Gate;

impl World {
    /// Lets time pass, mostly more than the grace, and collects; `die`: the process dies in it.
    pub(super) fn collect(&mut self, host: usize, home: usize, die: bool) -> Check {
        // Garbage goes in steps: the reference, the boundary, the objects; a grace between them.
        for turn in 0..1 + self.chance.below(3) {
            let minutes = 5 + self.chance.below(45);
            self.pass(Duration::from_secs(60 * minutes));
            let before = self.objects(home);
            if self.hosts[host].writers.contains_key(&home) {
                self.collect_open(host, home, minutes, die && turn == 0)?;
            } else {
                self.collect_asleep(host, home, die && turn == 0)?;
            }
            let went = before.difference(&self.objects(home)).count();
            self.summary.collected += went as u64;
        }
        Ok(())
    }

    /// A home comes to rest, and somebody collects it without taking it, now and later.
    pub(super) fn fall_asleep(&mut self, owner: Option<usize>, host: usize, home: usize) -> Check {
        if let Some(owner) = owner {
            self.churn(owner, home)?;
            self.release(owner, home, false)?;
        }
        for _ in 0..3 {
            let minutes = 31 + self.chance.below(30);
            self.pass(Duration::from_secs(60 * minutes));
            self.collect_asleep(host, home, false)?;
        }
        Ok(())
    }

    fn collect_open(&mut self, host: usize, home: usize, minutes: u64, die: bool) -> Check {
        let (nth, after) = (1 + self.chance.below(12), self.chance.percent(50));
        let writer = &self.hosts[host].writers[&home];
        if die {
            writer.wire.die_at(nth, after);
        }
        let done = watched(&writer.fs, &writer.wire, HomeFs::collect);
        self.collected(host, home, minutes, &done)
    }

    fn collected(
        &mut self,
        host: usize,
        home: usize,
        minutes: u64,
        done: &homefs::Result<()>,
    ) -> Check {
        let writer = &self.hosts[host].writers[&home];
        let (claim, died) = (writer.claim, writer.wire.is_dead());
        let kind = done.as_ref().err().map(homefs::Error::kind);
        self.note(format!(
            "collect h{host} home{home} after {minutes} minutes: {kind:?}, died {died}"
        ));
        let belief = &mut self.homes[home].1;
        // What it rewrites and notes goes to the store in commits.
        if belief.claims == claim {
            belief.might(&self.hosts[host].locals[&home].tree);
        }
        if let Some(writer) = self.hosts[host].writers.get_mut(&home) {
            // A sync that follows may have nothing left to store.
            writer.dirty = false;
        }
        match kind {
            None | Some(ErrorKind::Unavailable) => {}
            Some(ErrorKind::Fenced) if belief.maybe_overtaken(claim, host) => {}
            _ if died => {}
            Some(kind) => return Err(format!("home {home} cannot be collected: {kind:?}")),
        }
        if died || kind == Some(ErrorKind::Fenced) {
            self.kill(host, home);
        } else {
            self.hosts[host].writers[&home].wire.live_on();
        }
        Ok(())
    }

    fn collect_asleep(&mut self, host: usize, home: usize, die: bool) -> Check {
        let (nth, after) = (1 + self.chance.below(20), self.chance.percent(50));
        let (parts, wire) = self.process(host, true);
        if die {
            wire.die_at(nth, after);
        }
        let (dir, of) = (scratch(), self.homes[home].0.clone());
        let done = RUNTIME.block_on(homefs::collect(&parts, &of, dir.path()));
        let said = done.map(|went| went.objects).map_err(|error| (error.kind(), error));
        self.summary.asleep += said.as_ref().copied().unwrap_or(0);
        self.note(format!("collect h{host} home{home}, asleep: {said:?}"));
        if !self.steady {
            for host in &mut self.hosts {
                host.readers.remove(&home);
            }
        }
        match said {
            Err((kind, error)) if kind != ErrorKind::Unavailable && !wire.is_dead() => {
                Err(format!("home {home} cannot be collected: {error}"))
            }
            _ => Ok(()),
        }
    }

    /// A host collects while another takes its home.
    pub(super) fn race_collect(&mut self, owner: usize, other: usize, home: usize) -> Check {
        if !self.hosts[owner].writers.contains_key(&home) {
            return Ok(());
        }
        self.kill(other, home);
        self.pass(Duration::from_secs(60 * 20));
        self.note(format!("race: h{owner} collects home{home}, h{other} opens it"));
        let (settings, parts, wire) = self.about_to_open(other, home, true);
        let writer = &self.hosts[owner].writers[&home];
        let mut seats = Gate::seats(self.chance.any(), 2);
        wire.race(seats.pop());
        writer.wire.race(seats.pop());
        let (done, opening) = std::thread::scope(|scope| {
            let opener = scope.spawn(|| {
                let opened = HomeFs::open_writer(settings, parts);
                wire.race(None);
                opened
            });
            let done = watched(&writer.fs, &writer.wire, HomeFs::collect);
            writer.wire.race(None);
            (done, opener.join().expect("it does not panic"))
        });
        self.homes[home].1.doubted(other);
        self.collected(owner, home, 20, &done)?;
        self.opened(other, home, true, opening, wire)?;
        self.walk(home)
    }
}
