use std::os::unix::fs::symlink;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::{TempDir, tempdir};

use super::*;

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn with(content: impl AsRef<[u8]>) -> TempDir {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join(FILE), content).unwrap();
    dir
}

#[test]
fn the_last_wish_counts_until_it_is_taken_back() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    assert_eq!(wished(dir, second(0)), None);
    wish(dir, Some(second(1_900_000_000))).unwrap();
    wish(dir, Some(second(1_800_000_000))).unwrap();
    assert_eq!(fs::read_to_string(dir.join(FILE)).unwrap(), "1800000000\n");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1, "nothing is left beside it");
    assert_eq!(wished(dir, second(1_700_000_000)), Some(second(1_800_000_000)));
    assert_eq!(wished_or_over(dir, second(1_700_000_000)), Some(second(1_800_000_000)));
    wish(dir, None).unwrap();
    assert_eq!(wished_or_over(dir, second(0)), None);
    wish(dir, None).unwrap();
}

#[test]
fn what_is_over_is_no_wish_and_is_cleared_away_for_the_host() {
    let dir = with("1800000000");
    let dir = dir.path();
    let over = second(1_800_000_000);
    assert_eq!(wished(dir, over), None);
    assert!(dir.join(FILE).exists(), "whoever only looks changes nothing");
    assert_eq!(wished_or_over(dir, over), None);
    assert!(!dir.join(FILE).exists());
}

#[test]
fn what_is_over_stays_where_another_wish_is_under_way() {
    let dir = with("1800000000");
    let theirs = turn(dir.path(), FlockArg::LockExclusive).unwrap();
    assert_eq!(wished_or_over(dir.path(), second(1_900_000_000)), None);
    assert!(dir.path().join(FILE).exists());
    assert!(wished_or_over(dir.path(), second(0)).is_some(), "it is read all the same");
    drop(theirs);
    assert_eq!(wished_or_over(dir.path(), second(1_900_000_000)), None);
    assert!(!dir.path().join(FILE).exists());
}

#[test]
fn garbage_is_no_wish() {
    let zeros = format!("{}1900000000", "0".repeat(100));
    let spaces = format!("1900000000{}", " ".repeat(1 << 20));
    for garbage in [
        &b""[..],
        b"\n",
        b"soon",
        b"\xff\xfe",
        b"1900000000\n1900000001\n",
        b"1900000000.5",
        b"9223372036854775807",
        b"9223372036854775808",
        b"-9223372036854775808",
        zeros.as_bytes(),
        spaces.as_bytes(),
    ] {
        let dir = with(garbage);
        assert_eq!(wished_or_over(dir.path(), second(0)), None, "{garbage:?}");
    }
}

#[test]
fn what_is_no_file_is_no_wish_and_nothing_to_wait_for() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let file = dir.join(FILE);
    mkfifo(&file, Mode::S_IRWXU).unwrap();
    assert_eq!(wished_or_over(dir, second(0)), None);
    fs::remove_file(&file).unwrap();
    fs::write(dir.join("elsewhere"), "1900000000").unwrap();
    symlink("elsewhere", &file).unwrap();
    assert_eq!(wished_or_over(dir, second(0)), None);
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert_eq!(wished_or_over(dir, second(0)), None);
    assert_eq!(wished_or_over(&dir.join("none"), second(0)), None);
    assert!(wish(&dir.join("none"), Some(second(1))).is_err(), "only a boot makes the directory");
}
