//! A writer that is killed with SIGKILL at any moment, in a process of its own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base::{HomeId, ServerId, SystemClock, SystemEntropy};
use homefs::{HomeFs, HomeSettings, Parts};
use vfs::FileSystem;

use crate::support::{get, noise, upload};

const DIR: &str = "HOMEFS_TEST_KILLED_DIR";
const HOME: &str = "HOMEFS_TEST_KILLED_HOME";
const SERVER: &str = "HOMEFS_TEST_KILLED_SERVER";
const ROUND: &str = "HOMEFS_TEST_KILLED_ROUND";

fn parts(dir: &Path, runtime: &tokio::runtime::Runtime) -> Parts {
    let url = format!("file://{}", dir.join("store").display());
    Parts {
        store: Arc::new(objstore::Backend::open(&url, &|_| None).unwrap()),
        clock: Arc::new(SystemClock::new()),
        entropy: Arc::new(SystemEntropy),
        runtime: runtime.handle().clone(),
    }
}

fn open(dir: &Path, home: &HomeId, server: &ServerId, parts: Parts) -> HomeFs {
    let settings = HomeSettings {
        replicate_after: Duration::from_millis(20),
        ..HomeSettings::new(home.clone(), dir.join("home"), server.clone())
    };
    HomeFs::open_writer(settings, parts).unwrap().0
}

fn file(round: u64, n: u64) -> String {
    format!("r{round}/d{}/f{}", n % 5, n % 40)
}

fn data(round: u64, n: u64) -> Vec<u8> {
    let len = [10, 3_000, 16_384, 16_385, 70_000, 400_000][(n % 6) as usize];
    noise(len, round * 1_000 + n)
}

/// The process that gets killed; a test of nothing when run by itself.
#[test]
fn a_writer_for_the_other_test() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let var = |name: &str| std::env::var(name).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let dir = Path::new(&dir);
    let home =
        open(dir, &var(HOME).parse().unwrap(), &var(SERVER).parse().unwrap(), parts(dir, &runtime));
    let round: u64 = var(ROUND).parse().unwrap();
    let mut out = std::io::stdout();
    for n in 0.. {
        let name = file(round, n);
        upload(&home, &name, &data(round, n));
        writeln!(out, "ACK {name} {n}").unwrap();
        if n % 7 == 3 {
            home.sync(None).unwrap();
            writeln!(out, "SYNCED").unwrap();
        }
    }
}

#[test]
fn a_writer_that_is_killed_loses_nothing_it_acknowledged() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (home, server) = (HomeId::generate(), ServerId::generate());
    runtime.block_on(homefs::create_home(&parts(dir, &runtime), &home, &server)).unwrap();
    let mut kept: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for round in 0..6_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["killed::a_writer_for_the_other_test", "--exact", "--nocapture"])
            .env(DIR, dir)
            .env(HOME, home.as_str())
            .env(SERVER, server.as_str())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut acknowledged, mut synced) = (BTreeMap::new(), BTreeMap::new());
        let mut next = 0;
        let mut note = |line: &str| {
            let mut words = line.split(' ');
            match (words.next(), words.next(), words.next()) {
                (Some("ACK"), Some(name), Some(n)) => {
                    next = n.parse::<u64>().unwrap() + 1;
                    acknowledged.insert(name.to_owned(), data(round, next - 1));
                }
                (Some("SYNCED"), ..) => synced = acknowledged.clone(),
                _ => {}
            }
        };
        for line in lines.by_ref().map_while(Result::ok).take(60 + 41 * round as usize) {
            note(&line);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        lines.map_while(Result::ok).for_each(|line| note(&line));

        let host_lost = round % 3 == 2;
        if host_lost {
            std::fs::remove_dir_all(dir.join("home")).unwrap();
            kept.extend(synced.clone());
        } else {
            kept.extend(acknowledged.clone());
        }
        let fs = open(dir, &home, &server, parts(dir, &runtime));
        for (name, expected) in &mut kept {
            let found = get(&fs, name);
            // What was being written when it was killed may be there or not.
            let newest = *name == file(round, next) && found == data(round, next);
            // After a synced file was overwritten, a lost host may leave the old or the new one.
            let newer = host_lost && acknowledged.get(name) == Some(&found);
            assert!(found == *expected || newest || newer, "{name}: {} bytes", found.len());
            *expected = found;
        }
        fs.sync(None).unwrap();
    }
}
