//! Two at once, in an order of calls that the seed decides.

use homefs::HomeFs;
use vfs::FileSystem;

use super::writers::watched;
use super::{Check, Held, World};
use crate::store::Gate;

impl World {
    /// Two hosts open a home at once: each claim has a number of its own, and the later one wins.
    pub(super) fn race_opens(&mut self, one: usize, two: usize, home: usize) -> Check {
        self.kill(one, home);
        self.kill(two, home);
        self.note(format!("race: h{one} and h{two} open home{home}"));
        let (settings_one, parts_one, wire_one) = self.about_to_open(one, home, true);
        let (settings_two, parts_two, wire_two) = self.about_to_open(two, home, true);
        let mut seats = Gate::seats(self.chance.any(), 2);
        wire_two.race(seats.pop());
        wire_one.race(seats.pop());
        let (first, second) = std::thread::scope(|scope| {
            let run = |settings, parts, wire: &std::sync::Arc<crate::store::Wire>| {
                let wire = wire.clone();
                move || {
                    let opened = HomeFs::open_writer(settings, parts);
                    wire.race(None);
                    opened
                }
            };
            let first = scope.spawn(run(settings_one, parts_one, &wire_one));
            let second = scope.spawn(run(settings_two, parts_two, &wire_two));
            (first.join().expect("it does not panic"), second.join().expect("it does not panic"))
        });
        let epoch = |opening: &super::writers::Opening| opening.as_ref().ok().map(|o| o.1.epoch);
        let (early, late) = (epoch(&first), epoch(&second));
        if early.is_some() && early == late {
            return Err(format!("hosts {one} and {two} share an epoch of home {home}"));
        }
        let mut ends = [(one, first, wire_one), (two, second, wire_two)];
        ends.sort_by_key(|(_, opening, _)| epoch(opening));
        // While both were at it, either may have overtaken the other's disk.
        let belief = &mut self.homes[home].1;
        belief.doubted(one);
        belief.doubted(two);
        let unsure: Vec<usize> =
            ends.iter().filter(|end| end.1.is_err()).map(|(host, ..)| *host).collect();
        for (host, opening, wire) in ends {
            self.opened(host, home, true, opening, wire)?;
        }
        // One that failed may have claimed it last of all.
        for host in unsure {
            self.homes[home].1.doubted(host);
        }
        Ok(())
    }

    /// A host syncs while another takes its home: the sync is confirmed and in what the other
    /// finds, or it is not confirmed.
    pub(super) fn race_sync(&mut self, owner: usize, other: usize, home: usize) -> Check {
        if !self.hosts[owner].writers.contains_key(&home) {
            return Ok(());
        }
        self.kill(other, home);
        self.note(format!("race: h{owner} syncs home{home}, h{other} opens it"));
        let (settings, parts, wire) = self.about_to_open(other, home, true);
        let writer = &self.hosts[owner].writers[&home];
        let mut seats = Gate::seats(self.chance.any(), 2);
        wire.race(seats.pop());
        writer.wire.race(seats.pop());
        let (synced, opening) = std::thread::scope(|scope| {
            let opener = scope.spawn(|| {
                let opened = HomeFs::open_writer(settings, parts);
                wire.race(None);
                opened
            });
            let synced = watched(&writer.fs, &writer.wire, |fs| fs.sync(None));
            writer.wire.race(None);
            (synced, opener.join().expect("it does not panic"))
        });
        let (claim, dirty) = (writer.claim, writer.dirty);
        let taken = opening.is_ok();
        let belief = &mut self.homes[home].1;
        if synced.is_err() && belief.claims == claim {
            // It may have been fenced by the one that opens, or be in the store.
            belief.might(&self.hosts[owner].locals[&home].tree);
            belief.doubted(other);
        }
        let before = synced.is_ok() && dirty;
        self.synced(owner, home, synced)?;
        if before && !taken {
            // The other may have claimed after.
            self.homes[home].1.doubted(other);
        }
        if self.homes[home].1.held != Held::Unsure && !taken {
            self.homes[home].1.doubted(other);
        }
        self.opened(other, home, true, opening, wire)
    }

    /// A draft is published while a host opens the home.
    pub(super) fn race_publish(&mut self, host: usize, other: usize, home: usize) -> Check {
        let in_doubt = match self.hosts[host].drafts.get(&home) {
            Some(sketch) if sketch.open.is_some() => sketch.in_doubt.is_some(),
            _ => return Ok(()),
        };
        if in_doubt || self.homes[home].1.held != Held::Released {
            return Ok(());
        }
        self.kill(other, home);
        self.note(format!("race: h{host} publishes home{home}, h{other} opens it"));
        let (settings, parts, wire) = self.about_to_open(other, home, true);
        let sketch = &self.hosts[host].drafts[&home];
        let Some((draft, own)) = &sketch.open else { return Ok(()) };
        let mut seats = Gate::seats(self.chance.any(), 2);
        wire.race(seats.pop());
        own.race(seats.pop());
        let (published, opening) = std::thread::scope(|scope| {
            let opener = scope.spawn(|| {
                let opened = HomeFs::open_writer(settings, parts);
                wire.race(None);
                opened
            });
            let published = draft.publish();
            own.race(None);
            (published, opener.join().expect("it does not panic"))
        });
        let committed = matches!(published, Ok(homefs::Published::Committed { .. }));
        let belief = &mut self.homes[home].1;
        if committed {
            // The claim came after it: before, it would have moved the home.
            belief.may = vec![sketch.tree.clone()];
            belief.claimed(Held::Released);
        }
        if opening.is_err() {
            belief.doubted(other);
        }
        self.published(host, home, published, true)?;
        self.opened(other, home, true, opening, wire)
    }
}
