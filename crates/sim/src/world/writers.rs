//! Opening, acting, syncing, giving up, dying.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use base::ErrorKind;
use homefs::{HomeFs, HomeSettings, Opened, Parts};
use vfs::FileSystem;

use super::host::{Host, Local, Writer};
use super::{Check, Held, World};
use crate::acts::{self, Act};
use crate::store::{Rates, Wire};
use crate::tree::{Entry, Tree, observe};

/// What came of opening: the home, or what kind of refusal.
pub(super) type Opening = Result<(HomeFs, Opened), homefs::Error>;

impl World {
    /// Opens a home for writing; `die`: the process dies somewhere in it.
    pub(super) fn open(&mut self, host: usize, home: usize, take_over: bool, die: bool) -> Check {
        let (settings, parts, wire) = self.about_to_open(host, home, take_over);
        if die {
            wire.die_at(1 + self.chance.below(12), self.chance.percent(50));
        }
        let opening = HomeFs::open_writer(settings, parts);
        self.opened(host, home, take_over, opening, wire)
    }

    pub(super) fn about_to_open(
        &mut self,
        host: usize,
        home: usize,
        take_over: bool,
    ) -> (HomeSettings, Parts, Arc<Wire>) {
        let settings =
            HomeSettings { take_over: take_over.into(), ..self.settings(host, home, "home") };
        let (parts, wire) = self.process(host, true);
        (settings, parts, wire)
    }

    /// Compares what came of it with what had to.
    pub(super) fn opened(
        &mut self,
        host: usize,
        home: usize,
        take_over: bool,
        opening: Opening,
        wire: Arc<Wire>,
    ) -> Check {
        self.summary.calls += wire.calls();
        let died = wire.is_dead();
        let belief = &mut self.homes[home].1;
        let strange = matches!(belief.held, Held::By(other) if other != host) && !take_over;
        let (fs, opened) = match opening {
            Ok(_) if strange => {
                return Err(format!("host {host} took home {home}, which another holds, unasked"));
            }
            Ok(opened) if !died => opened,
            // It came to an end that nobody heard of.
            Ok(_) => {
                belief.doubted(host);
                self.note(format!("open h{host} home{home}: died at the end"));
                return Ok(());
            }
            Err(error) => return self.refused(host, home, strange, died, &error),
        };
        wire.live_on();
        let rates = wire.set_rates(Rates::default());
        let found = observe(&fs).map_err(|(path, error)| {
            format!("host {host} opened home {home} and cannot read {path:?}: {error}")
        })?;
        wire.set_rates(rates);
        self.note(format!(
            "open h{host} home{home} take_over={take_over}: {:?}, epoch {}, commit {}, {} names",
            opened.recovery,
            opened.epoch,
            opened.seq,
            found.names.len()
        ));
        self.judge_start(host, home, &found)?;
        let claim = self.homes[home].1.claimed(Held::By(host));
        let local = Local { tree: found, claim };
        self.hosts[host].locals.insert(home, local);
        let writer = Writer { fs: Arc::new(fs), wire, claim, dirty: true };
        self.hosts[host].writers.insert(home, writer);
        Ok(())
    }

    fn refused(
        &mut self,
        host: usize,
        home: usize,
        strange: bool,
        died: bool,
        error: &homefs::Error,
    ) -> Check {
        let belief = &mut self.homes[home].1;
        let kind = error.kind();
        self.summary.trace.push(format!("open h{host} home{home}: {kind:?}: {error}"));
        match kind {
            ErrorKind::Fenced if strange || belief.held == Held::Unsure => Ok(()),
            // Whether the claim was made before is not known.
            ErrorKind::Unavailable => {
                if !strange {
                    belief.doubted(host);
                }
                Ok(())
            }
            _ if died => {
                belief.doubted(host);
                Ok(())
            }
            _ => Err(format!("host {host} cannot open home {home}: {kind:?}: {error}")),
        }
    }

    /// What a writer starts with is what its disk holds, unless somebody else came after; then it is
    /// what the store may hold.
    fn judge_start(&mut self, host: usize, home: usize, found: &Tree) -> Check {
        let belief = &mut self.homes[home].1;
        let local = self.hosts[host].locals.get(&home);
        let same = |local: &Local| local.tree.differs(found);
        match local {
            Some(local) if !belief.maybe_overtaken(local.claim, host) => match same(local) {
                None => Ok(()),
                Some(what) => Err(format!("host {host} lost what home {home} had here: {what}")),
            },
            Some(local) if same(local).is_none() && belief.claims <= local.claim => Ok(()),
            _ if belief.allows(found) => {
                belief.may = vec![found.clone()];
                Ok(())
            }
            _ => Err(format!(
                "host {host} found in home {home} what was never committed: {}",
                belief.objection(found)
            )),
        }
    }

    /// Does some acts.
    pub(super) fn act(&mut self, host: usize, home: usize, times: u64) -> Check {
        for _ in 0..times {
            let Some(local) = self.hosts[host].locals.get(&home) else { return Ok(()) };
            let act = acts::choose(&mut self.chance, &local.tree);
            self.act_out(host, home, &act)?;
        }
        Ok(())
    }

    /// Does an act that is valid.
    fn act_out(&mut self, host: usize, home: usize, act: &Act) -> Check {
        let Host { writers, locals, .. } = &mut self.hosts[host];
        let Some(writer) = writers.get_mut(&home) else { return Ok(()) };
        let Some(local) = locals.get_mut(&home) else { return Ok(()) };
        self.acts += 1;
        let done = acts::run(&*writer.fs, act);
        let line = format!("act h{host} home{home}: {act:?}");
        match done {
            Ok(()) => {
                acts::apply(&mut local.tree, act, self.acts);
                writer.dirty = true;
                self.note(line);
            }
            Err(error) => {
                self.summary.trace.push(format!("{line}: {error}"));
                let overtaken = self.homes[home].1.maybe_overtaken(writer.claim, host);
                if error.kind() != ErrorKind::Fenced || !overtaken {
                    return Err(format!("{act:?} failed on host {host}: {error}"));
                }
                self.kill(host, home);
            }
        }
        Ok(())
    }

    /// Replaces content that lies in objects of its own, or rides in commits, and syncs, so that there
    /// is garbage.
    pub(super) fn churn(&mut self, host: usize, home: usize) -> Check {
        let large = self.chance.percent(60);
        for _ in 0..3 {
            for n in 0..2 {
                let Some(local) = self.hosts[host].locals.get(&home) else { return Ok(()) };
                // Together more than rides in a commit, or less.
                let size = if large { 1_100_000 } else { 300_000 };
                let act = Act::Put(format!("n{n}"), size, self.chance.any() % 1_000_000);
                if !matches!(local.tree.names.get(&format!("n{n}")), Some(Entry::Dir)) {
                    self.act_out(host, home, &act)?;
                }
            }
            self.sync(host, home, false)?;
        }
        if self.chance.percent(60) { self.collect(host, home, false) } else { Ok(()) }
    }

    /// Makes what was done survive power loss.
    pub(super) fn sync_local(&mut self, host: usize, home: usize) -> Check {
        let Some(writer) = self.hosts[host].writers.get(&home) else { return Ok(()) };
        let done = writer.fs.sync_local();
        self.note(format!("sync_local h{host} home{home}: {done:?}"));
        done.map_err(|error| format!("sync_local failed on host {host}: {error}"))
    }

    /// Asks for replication; `die`: the process dies somewhere in it.
    pub(super) fn sync(&mut self, host: usize, home: usize, die: bool) -> Check {
        if !self.arm(host, home, die) {
            return Ok(());
        }
        let writer = &self.hosts[host].writers[&home];
        let outcome = watched(&writer.fs, &writer.wire, |fs| fs.sync(None));
        self.synced(host, home, outcome)
    }

    fn arm(&mut self, host: usize, home: usize, die: bool) -> bool {
        let (nth, after) = (1 + self.chance.below(8), self.chance.percent(50));
        let Some(writer) = self.hosts[host].writers.get(&home) else { return false };
        if die {
            writer.wire.die_at(nth, after);
        }
        true
    }

    /// Compares the outcome of a sync with what had to be.
    pub(super) fn synced(&mut self, host: usize, home: usize, outcome: vfs::Result<()>) -> Check {
        let Host { writers, locals, .. } = &mut self.hosts[host];
        let Some(writer) = writers.get_mut(&home) else { return Ok(()) };
        let Some(local) = locals.get(&home) else { return Ok(()) };
        let belief = &mut self.homes[home].1;
        let died = writer.wire.is_dead();
        let kind = outcome.as_ref().err().map(vfs::FsError::kind);
        self.summary.trace.push(format!("sync h{host} home{home}: {kind:?}, died {died}"));
        match outcome {
            Ok(()) if writer.dirty && belief.claims > writer.claim => {
                return Err(format!(
                    "host {host} was overtaken and confirmed a sync of home {home}"
                ));
            }
            Ok(()) => {
                if writer.dirty || belief.claims == writer.claim {
                    belief.may = vec![local.tree.clone()];
                    // Nobody else can have claimed it before.
                    if writer.dirty {
                        belief.doubt.clear();
                        belief.held = Held::By(host);
                    }
                    self.summary.confirmed += 1;
                }
                writer.dirty = false;
            }
            Err(error) => {
                let overtaken = belief.maybe_overtaken(writer.claim, host);
                if error.kind() == ErrorKind::Fenced && !overtaken && !died {
                    return Err(format!("host {host} was fenced from home {home} by nobody"));
                }
                if belief.claims == writer.claim {
                    belief.might(&local.tree);
                }
                if error.kind() == ErrorKind::Fenced || died {
                    self.kill(host, home);
                }
                return Ok(());
            }
        }
        if died {
            self.kill(host, home);
        } else {
            self.hosts[host].writers[&home].wire.live_on();
        }
        Ok(())
    }

    /// Gives a home up.
    pub(super) fn release(&mut self, host: usize, home: usize, die: bool) -> Check {
        if !self.arm(host, home, die) {
            return Ok(());
        }
        let writer = &self.hosts[host].writers[&home];
        let outcome = watched(&writer.fs, &writer.wire, HomeFs::release);
        let (claim, died) = (writer.claim, writer.wire.is_dead());
        let tree = self.hosts[host].locals[&home].tree.clone();
        let belief = &mut self.homes[home].1;
        self.summary.trace.push(format!(
            "release h{host} home{home}: {:?}, died {died}",
            outcome.as_ref().map(|done| done.seq).map_err(homefs::Error::kind)
        ));
        match outcome {
            Ok(_) if belief.claims > claim => {
                return Err(format!("host {host} was overtaken and released home {home}"));
            }
            Ok(_) => {
                belief.may = vec![tree];
                belief.held = Held::Released;
                belief.doubt.clear();
                self.summary.confirmed += 1;
            }
            Err(error) => {
                if error.kind() == ErrorKind::Fenced
                    && !belief.maybe_overtaken(claim, host)
                    && !died
                {
                    return Err(format!("host {host} was fenced from home {home} by nobody"));
                }
                if belief.claims == claim {
                    belief.might(&tree);
                    belief.held = Held::Unsure;
                }
            }
        }
        self.kill(host, home);
        Ok(())
    }

    /// Ends the process that writes a home, without a word.
    pub(super) fn kill(&mut self, host: usize, home: usize) {
        if let Some(writer) = self.hosts[host].writers.remove(&home) {
            self.summary.calls += writer.wire.calls();
            writer.wire.die();
            writer.fs.stop();
        }
    }

    /// Loses what a host's disk holds of a home.
    pub(super) fn lose_disk(&mut self, host: usize, home: usize) {
        self.kill(host, home);
        self.kill_draft(host, home);
        self.hosts[host].locals.remove(&home);
        self.hosts[host].drafts.remove(&home);
        self.hosts[host].readers.remove(&home);
        let dir = self.dir.path().join(format!("host-{host}/home-{home}"));
        if let Err(error) = std::fs::remove_dir_all(&dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            self.note(format!("remove {}: {error}", dir.display()));
        }
    }
}

/// Runs a call that may wait for the store without end; when the process dies meanwhile, the home
/// is stopped, as its death would.
pub(crate) fn watched<T: Send>(
    fs: &Arc<HomeFs>,
    wire: &Wire,
    call: impl FnOnce(&HomeFs) -> T + Send,
) -> T {
    std::thread::scope(|scope| {
        let (done, ended) = channel::<()>();
        let caller = scope.spawn(move || {
            let out = call(fs);
            drop(done);
            out
        });
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(Duration::from_millis(2)) {
            if wire.is_dead() {
                fs.stop();
                break;
            }
        }
        caller.join().expect("a call on a home does not panic")
    })
}
