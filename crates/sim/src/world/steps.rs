//! Which step comes next.

use std::time::Duration;

use base::Clock as _;

use super::{Check, World};

/// A step and how often it comes, compared with the others.
const WEIGHTS: &[(Step, u64)] = &[
    (Step::Act, 24),
    (Step::Open, 14),
    (Step::OpenAndDie, 3),
    (Step::Sync, 14),
    (Step::SyncAndDie, 6),
    (Step::SyncLocal, 3),
    (Step::Release, 8),
    (Step::ReleaseAndDie, 2),
    (Step::Kill, 5),
    (Step::LoseDisk, 2),
    (Step::Read, 7),
    (Step::ReadOn, 3),
    (Step::Walk, 3),
    (Step::Draft, 9),
    (Step::Outlive, 4),
    (Step::Publish, 5),
    (Step::PublishAndDie, 2),
    (Step::KillDraft, 2),
    (Step::Discard, 1),
    (Step::RaceOpens, 3),
    (Step::RaceSync, 4),
    (Step::RacePublish, 3),
    (Step::Snapshot, 5),
    (Step::Look, 3),
    (Step::LetGo, 2),
    (Step::Restore, 4),
    (Step::RestoreAndDie, 1),
    (Step::Fork, 4),
    (Step::Churn, 6),
    (Step::Collect, 8),
    (Step::CollectAndDie, 2),
    (Step::RaceCollect, 3),
    (Step::CollectAsleep, 5),
    (Step::Wait, 2),
    (Step::ClockJump, 2),
];

#[derive(Debug, Clone, Copy)]
enum Step {
    Act,
    Open,
    OpenAndDie,
    Sync,
    SyncAndDie,
    SyncLocal,
    Release,
    ReleaseAndDie,
    Kill,
    LoseDisk,
    Read,
    ReadOn,
    Walk,
    Draft,
    Outlive,
    Publish,
    PublishAndDie,
    KillDraft,
    Discard,
    RaceOpens,
    RaceSync,
    RacePublish,
    Snapshot,
    Look,
    LetGo,
    Restore,
    RestoreAndDie,
    Fork,
    Churn,
    Collect,
    CollectAndDie,
    RaceCollect,
    CollectAsleep,
    Wait,
    ClockJump,
}

impl World {
    /// Chooses a step and does it.
    pub(super) fn step(&mut self) -> Check {
        let total = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut drawn = self.chance.below(total);
        let mut chosen = Step::Act;
        for (step, weight) in WEIGHTS {
            if drawn < *weight {
                chosen = *step;
                break;
            }
            drawn -= weight;
        }
        let home = self.chance.index(self.homes.len());
        let host = self.chance.index(self.hosts.len());
        let other = (host + 1 + self.chance.index(self.hosts.len() - 1)) % self.hosts.len();
        let times = 1 + self.chance.below(6);
        // Mostly somebody who has something to lose.
        let writer = self.hosts.iter().position(|host| host.writers.contains_key(&home));
        let busy = match writer {
            Some(writer) if self.chance.percent(70) => writer,
            _ => host,
        };
        let sketcher = self.hosts.iter().position(|host| host.drafts.contains_key(&home));
        let sketcher = sketcher.unwrap_or(host);
        match chosen {
            Step::Act => self.act(busy, home, times),
            Step::Open | Step::OpenAndDie => {
                if self.hosts[host].writers.contains_key(&home) {
                    return Ok(());
                }
                let (over, die) = (self.chance.percent(60), matches!(chosen, Step::OpenAndDie));
                self.open(host, home, over, die)
            }
            Step::Sync => self.sync(busy, home, false),
            Step::SyncAndDie => self.sync(busy, home, true),
            Step::SyncLocal => self.sync_local(busy, home),
            Step::Release => self.release(busy, home, false),
            Step::ReleaseAndDie => self.release(busy, home, true),
            Step::Kill => {
                self.note(format!("kill h{busy} home{home}"));
                self.kill(busy, home);
                Ok(())
            }
            Step::LoseDisk => {
                self.note(format!("lose the disk of h{busy} home{home}"));
                self.lose_disk(busy, home);
                Ok(())
            }
            Step::Read => self.read(host, home),
            Step::ReadOn => self.read_on(host, home),
            Step::Walk => self.walk(home),
            Step::Draft => {
                self.open_draft(sketcher, home)?;
                self.act_in_draft(sketcher, home, times)
            }
            Step::Outlive => {
                let other = if sketcher == other { host } else { other };
                if sketcher == other {
                    return Ok(());
                }
                self.outlive(sketcher, other, home, times)
            }
            Step::Publish => self.publish(sketcher, home, false),
            Step::PublishAndDie => self.publish(sketcher, home, true),
            Step::KillDraft => {
                self.kill_draft(sketcher, home);
                Ok(())
            }
            Step::Discard => self.discard(sketcher, home),
            Step::RaceOpens => self.race_opens(host, other, home),
            Step::RaceSync => {
                let rival = if busy == other { host } else { other };
                if busy == rival { Ok(()) } else { self.race_sync(busy, rival, home) }
            }
            Step::RacePublish => self.race_publish(sketcher, other, home),
            Step::Snapshot => self.snapshot(busy, home),
            Step::Look => self.look(),
            Step::LetGo => self.let_go(host),
            Step::Restore => self.restore(host, home, false),
            Step::RestoreAndDie => self.restore(host, home, true),
            Step::Fork => self.fork(busy, home),
            Step::Churn => self.churn(busy, home),
            Step::Collect => self.collect(busy, home, false),
            Step::CollectAndDie => self.collect(busy, home, true),
            Step::RaceCollect => {
                let rival = if busy == other { host } else { other };
                if busy == rival { Ok(()) } else { self.race_collect(busy, rival, home) }
            }
            Step::CollectAsleep => self.fall_asleep(writer, other, home),
            Step::Wait => {
                let minutes = 1 + self.chance.below(40);
                self.note(format!("{minutes} minutes pass"));
                self.pass(Duration::from_secs(60 * minutes));
                Ok(())
            }
            Step::ClockJump if self.steady => Ok(()),
            Step::ClockJump => {
                let (back, by) = (self.chance.percent(50), self.chance.below(3_600));
                let clock = &self.hosts[host].clock;
                let by = Duration::from_secs(by);
                let to = if back { clock.now() - by } else { clock.now() + by };
                clock.jump_to(to);
                self.note(format!("the clock of h{host} jumps {by:?}, back {back}"));
                Ok(())
            }
        }
    }
}
