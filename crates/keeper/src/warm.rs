//! A keeper that has put its machine to sleep and stays for a while, with the hypervisor that has the guest loaded.
//!
//! To everybody the machine sleeps: its home is given up, its memory is on the disk, the last words are said, and nobody
//! holds the lock. What is left is a process with a copy of what is on the disk anyway. A wake that comes soon is this
//! process's second life as a keeper, which begins as the first did, but for a guest that need not be loaded.
//!
//! # Invariants
//! - It is nobody: it writes nothing, and before it is a keeper again it takes the lock.
//! - It is roused only by whoever would have started a keeper just like it, of the same program in the same environment,
//!   and who is still there when the lock is taken. For all others it ends, and is gone when they hear of it.
//! - It takes what the host has to spare: with less memory free it stays for a shorter time, and in the end not at all.
//!
//! # Crash
//! One that is killed is not missed. One that is not answered leaves nothing that would have to be cleaned up.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream as Stream;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::layout::MachineDir;
use crate::lock::Lock;
use crate::run::Hold;
use crate::server::{bind, through_directory};
use crate::{Failure, Result};

/// How often it looks whether it is still of use.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long whoever calls may take for a word.
const CALLER_PATIENCE: Duration = Duration::from_secs(5);
/// How long one that is called may take: to end its guest is some 50 ms.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// How many are waited for at once: each is a descriptor.
const ENDED_AT_ONCE_MAX: usize = 500;
/// Longest line that is read, in bytes.
const LINE_BYTES_MAX: u64 = 256;
/// Threads of a life that is over may take so long to end.
const STRAGGLERS: Duration = Duration::from_millis(100);

/// With so much of its memory available, in hundredths, a host lets one stay for all of its time, and for none.
const PLENTY: u64 = 50;
const SCARCE: u64 = 20;

const WAKE: &str = "wake ";
const END: &str = "end";
const YES: &str = "yes";
const GO: &str = "go";

/// Who rouses a keeper.
#[derive(Debug)]
pub struct Waits<'a> {
    /// Which keepers are just like this one.
    pub identity: &'a str,
    /// For how long it waits at most.
    pub patience: Duration,
    /// Cancelled when the process is asked to end.
    pub terminate: &'a CancellationToken,
}

/// Waits to be roused, as long as that `is_of_use`. `hold` is given up meanwhile. Where nobody rouses it, the process
/// [leaves](leave) next.
///
/// # Errors
/// `Internal` where it cannot be heard; there is no lock then.
pub async fn wait(
    dir: &MachineDir,
    hold: Hold,
    waits: &Waits<'_>,
    is_of_use: impl Fn() -> bool,
) -> Result<Option<Hold>> {
    // Before the lock is given up: who sees that the machine sleeps finds the door.
    let listener = bind(&dir.warm())?;
    drop(hold);
    tracing::info!("the guest stays warm: a wake that comes soon finds it loaded");
    let since = Instant::now();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    let roused = loop {
        tokio::select! {
            called = listener.accept() => break match called {
                Ok((caller, _)) => answer(dir, caller, waits.identity).await,
                Err(_) => None,
            },
            () = waits.terminate.cancelled() => break None,
            _ = looks.tick() => {
                let stays = since.elapsed() < stays_for(waits.patience, &memory_free());
                if !stays || !dir.asleep().exists() || !dir.warm().exists() || !is_of_use() {
                    break None;
                }
            }
        }
    };
    if roused.is_some() {
        // It is ours: nobody keeps the machine but us.
        std::fs::remove_file(dir.warm()).ok();
    } else {
        // Who calls now hears of our end, and not before it.
        listener.into_std().map(std::mem::forget).ok();
    }
    Ok(roused)
}

/// The last that a process does which nobody has roused: its guest is gone.
pub fn leave(dir: &MachineDir) {
    // Else another has its own there.
    if !Lock::is_held(dir) {
        std::fs::remove_file(dir.warm()).ok();
    }
}

/// What comes of a call. The caller hears of the end of it: the connection lasts as long as the process.
async fn answer(dir: &MachineDir, caller: UnixStream, identity: &str) -> Option<Hold> {
    let mut caller = tokio::io::BufReader::new(caller);
    let agreed = tokio::time::timeout(CALLER_PATIENCE, agree(dir, &mut caller, identity)).await;
    let lock = agreed.ok().and_then(io::Result::ok).flatten();
    match (lock, caller.into_inner().into_std().ok()) {
        (Some(lock), Some(caller)) => Some(Hold::new(lock, caller)),
        (_, caller) => {
            // Not closed on the way: that it is is the caller's word that nothing is left of us.
            std::mem::forget(caller);
            None
        }
    }
}

async fn agree(
    dir: &MachineDir,
    caller: &mut tokio::io::BufReader<UnixStream>,
    identity: &str,
) -> io::Result<Option<Lock>> {
    if line(caller).await?.strip_prefix(WAKE) != Some(identity) {
        return Ok(None);
    }
    let Ok(lock) = Lock::take(dir) else { return Ok(None) };
    caller.get_mut().write_all(format!("{YES}\n").as_bytes()).await?;
    // One that has given us up has started another keeper, or nobody wants the machine awake.
    Ok((line(caller).await? == GO).then_some(lock))
}

async fn line(from: &mut tokio::io::BufReader<UnixStream>) -> io::Result<String> {
    let mut line = String::new();
    from.take(LINE_BYTES_MAX).read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

/// How long one may stay, of `patience`.
fn stays_for(patience: Duration, free: &Free) -> Duration {
    let share = free.available.saturating_mul(100) / free.total.max(1);
    let part = share.clamp(SCARCE, PLENTY) - SCARCE;
    patience.mul_f64(f64::from(u32::try_from(part).unwrap_or(0)) / (PLENTY - SCARCE) as f64)
}

/// Memory of this host.
#[derive(Debug, Default, PartialEq, Eq)]
struct Free {
    available: u64,
    total: u64,
}

/// Where that cannot be told there is none.
fn memory_free() -> Free {
    std::fs::read_to_string("/proc/meminfo").map(|told| free_of(&told)).unwrap_or_default()
}

fn free_of(told: &str) -> Free {
    let value = |name: &str| {
        let line = told.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    Free { available: value("MemAvailable:"), total: value("MemTotal:") }
}

/// True where nothing of a life as keeper goes on in this process, so that nothing can be written any more: its threads
/// are the first one and those with names that are `known`.
#[must_use]
pub fn is_over(known: &[&str]) -> bool {
    let deadline = std::time::Instant::now() + STRAGGLERS;
    loop {
        match others(known) {
            Ok(others) if others.is_empty() => return true,
            Ok(_) if std::time::Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            others => {
                tracing::warn!(?others, "the guest does not stay warm: something goes on");
                return false;
            }
        }
    }
}

fn others(known: &[&str]) -> io::Result<Vec<String>> {
    let mut others = Vec::new();
    for thread in std::fs::read_dir("/proc/self/task")? {
        let thread = thread?;
        if thread.file_name().to_str() == Some(&std::process::id().to_string()) {
            continue;
        }
        // One that is gone by now is no other.
        let name = std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
        if !name.is_empty() && !known.contains(&name.trim_end()) {
            others.push(name.trim_end().to_owned());
        }
    }
    Ok(others)
}

/// Has the process that has the guest loaded, if there is one, become the machine's keeper; the connection lasts as
/// long as it lives. `None` where there is none, or none any more. Blocks.
///
/// # Errors
/// Where it does not answer. It never will: it sees that we are gone.
pub(crate) fn rouse(dir: &MachineDir, identity: &str) -> io::Result<Option<Stream>> {
    let Some((mut stream, said)) = call(dir, &format!("{WAKE}{identity}"))? else {
        return Ok(None);
    };
    if said != YES {
        return Ok(None);
    }
    stream.write_all(format!("{GO}\n").as_bytes())?;
    Ok(Some(stream))
}

/// Ends the process that has the guest loaded, if there is one, and returns once it is gone. The machine sleeps as it
/// did. Blocks, for some 50 ms where there is one.
///
/// # Errors
/// `Timeout` where it does not end.
pub fn end(dir: &MachineDir) -> Result<()> {
    match call(dir, END) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::new(
            base::ErrorKind::Timeout,
            format!(
                "the process that has the guest loaded does not end ({error}); look for it with ps"
            ),
        )),
    }
}

/// Ends those of all machines below `machines`, side by side. Returns once they are gone, or some have taken too long: those
/// end by themselves. Blocks.
pub fn end_all(machines: &std::path::Path) {
    let entries = std::fs::read_dir(machines).into_iter().flatten().flatten();
    let told = entries.filter_map(|entry| {
        let dir = MachineDir::new(entry.path());
        let stream = through_directory(&dir.warm(), |short| Stream::connect(short)).ok()?;
        (&stream).write_all(format!("{END}\n").as_bytes()).ok()?;
        Some(stream)
    });
    let told: Vec<Stream> = told.take(ENDED_AT_ONCE_MAX).collect();
    let deadline = std::time::Instant::now() + CALLER_PATIENCE;
    for stream in told {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        // It says nothing; its end is what is waited for.
        io::copy(&mut (&stream).take(LINE_BYTES_MAX), &mut io::sink()).ok();
    }
}

/// What it says; nothing where it ended. `None`: there is none.
fn call(dir: &MachineDir, word: &str) -> io::Result<Option<(Stream, String)>> {
    let Ok(stream) = through_directory(&dir.warm(), |short| Stream::connect(short)) else {
        return Ok(None);
    };
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    let told = (&stream).write_all(format!("{word}\n").as_bytes());
    let mut said = String::new();
    let heard =
        told.and_then(|()| BufReader::new((&stream).take(LINE_BYTES_MAX)).read_line(&mut said));
    match heard {
        Ok(_) => Ok(Some((stream, said.trim_end().to_owned()))),
        Err(error) if is_gone(&error) => Ok(Some((stream, String::new()))),
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests;
