//! `dormouse mount` as people use it: a process, a directory, signals.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::support::{Options, Place, Server};

#[test]
fn what_was_written_is_there_after_the_unmount_and_on_another_host() {
    let Some(place) = Place::new() else { return };
    let mounted = place.mount(&["--new"]);
    let home = mounted.home.clone();
    fs::create_dir(place.target().join("dir")).unwrap();
    fs::write(place.target().join("dir/small"), "small").unwrap();
    let large: Vec<u8> = (0..6_u32 << 20).map(|i| (i % 251) as u8).collect();
    fs::write(place.target().join("large"), &large).unwrap();
    assert_eq!(mounted.end(), Some(0));
    assert_eq!(fs::read_dir(place.target()).unwrap().count(), 0, "nothing is mounted any more");
    // Nothing but the store is left of it.
    fs::remove_dir_all(place.root.path().join("data/mounts")).unwrap();

    let mounted = place.mount(&[&home]);
    assert_eq!(fs::read_to_string(place.target().join("dir/small")).unwrap(), "small");
    assert!(fs::read(place.target().join("large")).unwrap() == large);
    let error = fs::write(place.target().join("no"), "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(30), "read-only: {error}");
    assert_eq!(mounted.end(), Some(0));

    let mounted = place.mount(&[&home, "-w"]);
    assert!(fs::read(place.target().join("large")).unwrap() == large);
    fs::remove_file(place.target().join("large")).unwrap();
    assert_eq!(mounted.end(), Some(0));
}

#[test]
fn an_encrypted_home_is_not_read_without_its_key() {
    let Some(place) = Place::new() else { return };
    let keys = place.root.path().join("keys");
    let status = Command::new(crate::support::server::program()).arg("keygen").arg(&keys).status();
    assert!(status.unwrap().success());
    let key = ["--encryption-key-file", keys.to_str().unwrap()];
    let mounted = place.mount(&["--new", key[0], key[1]]);
    let home = mounted.home.clone();
    fs::write(place.target().join("a"), "secret").unwrap();
    assert_eq!(mounted.end(), Some(0));
    fs::remove_dir_all(place.root.path().join("data/mounts")).unwrap();
    let (code, said) = place.refused(&[&home], &place.target());
    assert_eq!(code, Some(5), "{said}");
    assert!(said.contains("--encryption-key-file"), "{said}");
    let mounted = place.mount(&[&home, key[0], key[1]]);
    assert_eq!(fs::read_to_string(place.target().join("a")).unwrap(), "secret");
    assert_eq!(mounted.end(), Some(0));
}

#[test]
fn a_home_is_written_through_one_mount_at_a_time() {
    let Some(place) = Place::new() else { return };
    let mounted = place.mount(&["--new"]);
    let home = mounted.home.clone();
    let other = place.root.path().join("other");
    let (code, said) = place.refused(&[&home, "-w"], &other);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("in use on this host"), "{said}");
    // Its own server's name must not let another directory overtake this one.
    let elsewhere = other.join("local");
    let (code, said) =
        place.refused(&[&home, "-w", "--local-dir", elsewhere.to_str().unwrap()], &other);
    assert_eq!(code, Some(2), "{said}");
    let (code, said) = place.refused(&[&home], &place.target());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is a dormouse mount already"), "{said}");
    let (code, said) = place.refused(&["no-such-machine"], &other);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("no machine no-such-machine"), "{said}");
    assert_eq!(mounted.end(), Some(0));
}

#[test]
fn a_machine_whose_home_is_mounted_for_writing_is_neither_deleted_nor_woken() {
    let Some(place) = Place::new() else { return };
    // A machine that never ran has a home that can be mounted.
    let options =
        Options { args: vec!["--images".into(), "/nonexistent".into()], ..Options::default() };
    let server = Server::start_in(&place.root.path().join("data"), options);
    let run = |args: &[&str]| {
        let output = server.cli(args).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&["create", "held"]);
    assert_eq!(code, Some(1), "{said}");
    let mounted = place.mount(&["held", "-w"]);
    let by = format!("mounted read-write on this host (process {})", mounted.process());
    let (code, said) = run(&["rm", "held"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&by), "{said}");
    let (code, said) = run(&["exec", "held", "--", "true"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&by), "{said}");
    fs::write(place.target().join("a"), "kept").unwrap();
    assert_eq!(mounted.end(), Some(0));
    let mounted = place.mount(&["held"]);
    assert_eq!(fs::read_to_string(place.target().join("a")).unwrap(), "kept");
    assert_eq!(mounted.end(), Some(0));
    let (code, said) = run(&["rm", "held"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, _) = place.refused(&["held", "-w"], &place.target());
    assert!(matches!(code, Some(1 | 3)), "{code:?}");
}

#[test]
fn a_killed_mount_loses_nothing_and_is_taken_away_by_the_next() {
    let Some(place) = Place::new() else { return };
    let mounted = place.mount(&["--new"]);
    let home = mounted.home.clone();
    for n in 0..200 {
        fs::write(place.target().join(format!("file-{n}")), format!("{n}")).unwrap();
    }
    mounted.kill();
    let error = fs::metadata(place.target()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(107), "it says so at once: {error}");
    let mounted = place.mount(&[&home, "-w"]);
    for n in 0..200 {
        let read = fs::read_to_string(place.target().join(format!("file-{n}"))).unwrap();
        assert_eq!(read, format!("{n}"));
    }
    assert_eq!(mounted.end(), Some(0));
}

#[test]
fn an_unmount_from_elsewhere_ends_it_in_order() {
    let Some(place) = Place::new() else { return };
    let mut mounted = place.mount(&["--new"]);
    fs::write(place.target().join("a"), "a").unwrap();
    nix::mount::umount(&place.target()).unwrap();
    assert_eq!(mounted.ended(), Some(0));
    let home = mounted.home.clone();
    drop(mounted);
    let mounted = place.mount(&[&home]);
    assert_eq!(fs::read_to_string(place.target().join("a")).unwrap(), "a");
    assert_eq!(mounted.end(), Some(0));
}

#[test]
fn a_mount_in_use_is_taken_away_and_nothing_is_lost() {
    let Some(place) = Place::new() else { return };
    let mounted = place.mount(&["--new"]);
    let home = mounted.home.clone();
    // A program has a file mapped and changed, and its working directory there.
    let script = "import mmap,os,sys\nf=open('a','wb+');f.truncate(8192);m=mmap.mmap(f.fileno(),8192)\n\
                  m[0:6]=b'mapped';print('ready',flush=True);sys.stdin.read()";
    let mut user = Command::new("python3")
        .args(["-c", script])
        .current_dir(place.target())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(user.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    assert_eq!(mounted.end(), Some(0));
    user.kill().unwrap();
    user.wait().unwrap();
    let mounted = place.mount(&[&home]);
    assert_eq!(&fs::read(place.target().join("a")).unwrap()[..6], b"mapped");
    assert_eq!(mounted.end(), Some(0));
}
