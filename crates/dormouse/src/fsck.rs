//! `dormouse fsck`: is a home whole in the object store?
//!
//! Opens the store from the configuration itself, so it works beside a server that runs and without
//! one. Changes nothing, here or there.
//!
//! Exit code 0: nothing is wrong. 1: something is lost or damaged, the report says what. Others as
//! everywhere: 2 wrong use, 3 no such machine, home or snapshot, 4 the store refuses, 5 it is away.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use base::{ErrorKind, HomeId, SnapshotId, SystemClock, SystemEntropy};
use catalog::By;
use clap::Args;
use homefs::{Depth, Problems, Progress, Report};

use crate::config::{Config, HostArgs, PlaceArgs};
use crate::serve::make_data_dir;
use crate::{Failure, store, telemetry, tokio_runtime};

/// What is found to be wrong, unlike a failure to look.
const DAMAGED: u8 = 1;

/// Flags of `fsck`.
#[derive(Debug, Args)]
pub(crate) struct FsckArgs {
    /// Machine (name or id, of this data directory) or home (`home-…`).
    home: String,
    /// Read all content too and compare it with its digests.
    #[arg(long)]
    deep: bool,
    /// Check this snapshot (id or name) instead of the newest state.
    #[arg(long, value_name = "SNAPSHOT")]
    at: Option<String>,
    /// JSON on stdout.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

pub(crate) fn main(args: &FsckArgs) -> Result<u8, Failure> {
    let config = Config::beside(&args.place, &HostArgs::default())?;
    telemetry::init_logs();
    let home = find(&args.home, &config)?;
    let runtime = tokio_runtime()?;
    let store = runtime.block_on(store::open_to_check(&config.store, &config.keys))?;
    let parts = homefs::Parts {
        store,
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(SystemEntropy),
        runtime: runtime.handle().clone(),
    };
    let at = args.at.as_deref().map(|wanted| snapshot(&parts, &home, wanted)).transpose()?;
    let depth = if args.deep { Depth::Deep } else { Depth::Quick };
    make_data_dir(&config.data)?;
    let scratch = scratch(&config.data)?;
    let mut progress = progress();
    let report = homefs::fsck(&parts, &home, at.as_ref(), depth, &scratch, &mut *progress);
    let report = report.map_err(|error| Failure::new(error.kind(), error.to_string()))?;
    runtime.shutdown_background();
    if args.json {
        print(&serde_json::to_string_pretty(&report).unwrap_or_default());
    } else {
        tell(&report);
    }
    Ok(if report.is_clean() { 0 } else { DAMAGED })
}

/// Which home is meant.
fn find(name: &str, config: &Config) -> Result<HomeId, Failure> {
    if let Ok(home) = name.parse() {
        return Ok(home);
    }
    let catalog = config.data.join("catalog.db");
    let look_up = |by| {
        catalog::look_up(&catalog, by)
            .map_err(|error| Failure::new(error.kind(), format!("look for {name}: {error}")))
    };
    let machine = match look_up(By::Name(name))? {
        Some(machine) => Some(machine),
        None => look_up(By::Id(name))?,
    };
    machine.map(|machine| machine.home).ok_or_else(|| {
        Failure::new(
            ErrorKind::NotFound,
            format!(
                "no machine {name} in data directory {}; --data names another, and a home can be \
                 named by its id (home-…)",
                config.data.display()
            ),
        )
    })
}

/// Which snapshot is meant.
fn snapshot(parts: &homefs::Parts, home: &HomeId, wanted: &str) -> Result<SnapshotId, Failure> {
    if let Ok(id) = wanted.parse() {
        return Ok(id);
    }
    let all = parts.runtime.block_on(homefs::snapshots(parts, home));
    let all = all.map_err(|error| Failure::new(error.kind(), error.to_string()))?;
    let mut named = all.iter().filter(|one| match one {
        homefs::Listed::Whole(info) => info.name.as_deref() == Some(wanted),
        homefs::Listed::Damaged { .. } => false,
    });
    match (named.next(), named.next()) {
        (Some(found), None) => Ok(found.id().clone()),
        (Some(_), Some(_)) => Err(Failure::new(
            ErrorKind::InvalidArgument,
            format!("several snapshots are called {wanted:?}; name one by its id"),
        )),
        (None, _) => {
            Err(Failure::new(ErrorKind::NotFound, format!("the home has no snapshot {wanted:?}")))
        }
    }
}

/// Where a copy of the metadata is made. What a check that was killed left there goes first.
fn scratch(data: &Path) -> Result<std::path::PathBuf, Failure> {
    let dir = data.join("fsck").join(std::process::id().to_string());
    let failed = |error: std::io::Error| {
        Failure::new(ErrorKind::Internal, format!("make {}: {error}", dir.display()))
    };
    let others = std::fs::read_dir(data.join("fsck")).into_iter().flatten().flatten();
    for other in others {
        let pid = other.file_name();
        if !Path::new("/proc").join(&pid).exists() {
            std::fs::remove_dir_all(other.path()).map_err(failed)?;
        }
    }
    std::fs::create_dir_all(&dir).map_err(failed)?;
    Ok(dir)
}

/// Says on a terminal how far it is.
fn progress() -> Box<dyn FnMut(Progress)> {
    if !std::io::stderr().is_terminal() {
        return Box::new(|_| {});
    }
    let mut stage = "";
    Box::new(move |now: Progress| {
        if now.stage != stage {
            stage = now.stage;
            eprintln!("checking {stage}");
        }
    })
}

fn tell(report: &Report) {
    let checked = &report.checked;
    print(&format!(
        "{}, commit {}: {} files and directories, {} bytes, {} objects; {} bytes of content read",
        report.home, report.seq, checked.inodes, checked.bytes, checked.objects, checked.bytes_read
    ));
    if checked.unsealed > 0 {
        let unsealed = checked.unsealed;
        print(&format!("{unsealed} files in use were checked as they were last stored"));
    }
    problems("lost", &report.lost);
    problems("damaged", &report.damaged);
    if report.leaked.objects > 0 {
        let leaked = &report.leaked;
        print(&format!("leaked: {} objects, {} bytes, serve nobody", leaked.objects, leaked.bytes));
    }
    if report.moved {
        print("the home was written meanwhile: what is missing may rightly be gone, check again");
    }
    print(match (report.lost.total, report.damaged.total) {
        (0, 0) => "clean",
        (0, _) => "damaged; nothing is lost",
        _ => "content is lost",
    });
}

fn problems(sort: &str, problems: &Problems) {
    for problem in &problems.items {
        print(&format!("{sort}: {}: {}", problem.subject, problem.what));
        for path in &problem.paths {
            print(&format!("    {path}"));
        }
        let more = problem.paths_total - problem.paths.len() as u64;
        if more > 0 {
            print(&format!("    and {more} more"));
        }
    }
    let more = problems.total - problems.items.len() as u64;
    if more > 0 {
        print(&format!("{sort}: and {more} more"));
    }
}

#[allow(clippy::print_stdout, reason = "this is the data that was asked for")]
fn print(line: &str) {
    println!("{line}");
}
