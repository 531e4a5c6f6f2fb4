//! Readers of the published state.

use std::time::Duration;

use base::{Clock as _, ErrorKind};
use homefs::Snapshot;

use super::host::Reader;
use super::{Check, World};
use crate::store::Rates;
use crate::tree::observe;

/// How long a reader may stay on one commit: within the collector's grace.
const HOLD: Duration = Duration::from_secs(10 * 60);

impl World {
    /// Reads the newest commit whole.
    pub(super) fn read(&mut self, host: usize, home: usize) -> Check {
        let (parts, wire) = self.process(host, true);
        let dir = self.place(host, home, "snapshot");
        let known = self.hosts[host].readers.remove(&home);
        let before = known.as_ref().map(|reader| reader.fs.seq());
        let opened = match known {
            Some(reader) => match reader.fs.refresh() {
                Ok(_) => Ok((reader.fs, reader.wire)),
                Err(error) => Err(error),
            },
            None => Snapshot::open_published(self.homes[home].0.clone(), dir, parts)
                .map(|fs| (fs, wire)),
        };
        let (fs, wire) = match opened {
            Ok(opened) => opened,
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                self.note(format!("read h{host} home{home}: {error}"));
                return Ok(());
            }
            Err(error) => return Err(format!("home {home} cannot be read: {error}")),
        };
        let rates = wire.set_rates(Rates::default());
        let shows = observe(&fs)
            .map_err(|(path, error)| format!("home {home}: {path:?} cannot be read: {error}"))?;
        wire.set_rates(rates);
        self.note(format!("read h{host} home{home}: commit {}", fs.seq()));
        if before.is_some_and(|before| before > fs.seq()) {
            return Err(format!("a reader of home {home} went back in time"));
        }
        let belief = &self.homes[home].1;
        if !belief.allows(&shows) {
            return Err(format!(
                "a reader of home {home} saw what was never committed: {}",
                belief.objection(&shows)
            ));
        }
        let at = self.hosts[host].clock.monotonic();
        self.hosts[host].readers.insert(home, Reader { fs, wire, shows, at });
        Ok(())
    }

    /// A reader that stays on its commit still reads all of it.
    pub(super) fn read_on(&mut self, host: usize, home: usize) -> Check {
        let now = self.hosts[host].clock.monotonic();
        let Some(reader) = self.hosts[host].readers.get(&home) else { return Ok(()) };
        if now.saturating_sub(reader.at) > HOLD {
            self.hosts[host].readers.remove(&home);
            return Ok(());
        }
        let rates = reader.wire.set_rates(Rates::default());
        let shows = observe(&reader.fs)
            .map_err(|(path, error)| format!("what a reader held is gone: {path:?}: {error}"))?;
        reader.wire.set_rates(rates);
        let seq = reader.fs.seq();
        if let Some(what) = reader.shows.differs(&shows) {
            return Err(format!("a reader's commit {seq} changed under it: {what}"));
        }
        self.note(format!("read on h{host} home{home}: commit {seq}"));
        Ok(())
    }

    /// Walks the newest commit on a host that knows nothing: all that it names is there.
    pub(super) fn walk(&mut self, home: usize) -> Check {
        let (parts, _) = self.process(0, false);
        let dir = super::scratch();
        let fs = Snapshot::open_published(self.homes[home].0.clone(), dir.path(), parts)
            .map_err(|error| format!("home {home} cannot be read: {error}"))?;
        let shows = observe(&fs).map_err(|(path, error)| {
            format!(
                "commit {} of home {home} names {path:?}, which is not there: {error}",
                fs.seq()
            )
        })?;
        self.note(format!("walk home{home}: commit {}", fs.seq()));
        let belief = &self.homes[home].1;
        if belief.allows(&shows) {
            Ok(())
        } else {
            Err(format!("home {home} shows what was never committed: {}", belief.objection(&shows)))
        }
    }
}
