//! Wakes around a disk of which chunks are still in the store: what of it is gone on with, and what is set aside.

use base::Digest;
use tokio_util::sync::CancellationToken;
use upper::{Found, LazyDisk, Saved};

use crate::lazy::{guest, run, write};
use crate::support::{CHUNK, Host, World, fetched, until};

/// The file of the disk was moved away, and all that is known of it is still here: what is put in its place is never
/// taken for what was there, wherever the wake ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_wake_that_ends_around_its_new_disk_leaves_none_that_passes_for_whole() {
    let world = World::new();
    let one = world.host_with_chunks(3).await;
    one.save_all(&world).await;
    let whole = one.digest();
    let lose = || std::fs::remove_file(&one.files.disk).unwrap();
    // Whoever wakes it goes away, and the work goes on.
    lose();
    let gone = CancellationToken::new();
    tokio::select! {
        biased;
        begun = one.begin_with(world.wake(false), |_| Ok(()), |_| { gone.cancel(); Ok(()) }) => {
            panic!("{begun:?}")
        }
        () = gone.cancelled() => {}
    }
    until(|| one.files.disk.exists()).await;
    assert!(matches!(one.save(&world).await.unwrap(), Saved::Nothing));
    assert_eq!(one.wake_lazily(&world).await, Found::Here);
    assert_eq!(one.lazy().await.unwrap().missing(), 3, "it goes on with the new one");
    one.bring_all().await;
    assert_eq!(one.digest(), whole);
    one.upper.leave(world.claimed()).await.unwrap();
    assert!(matches!(one.save(&world).await.unwrap(), Saved::Nothing), "it is the same disk");
    // What is known cannot be written: before, and after.
    for file in [&one.files.state, &one.files.missing] {
        lose();
        let mut beside = file.clone();
        beside.as_mut_os_string().push(".tmp");
        let pin = |_: &Digest| {
            std::fs::create_dir(&beside).unwrap();
            Ok(())
        };
        one.begin_with(world.wake(false), |_| Ok(()), pin).await.unwrap_err();
        std::fs::remove_dir(&beside).unwrap();
        assert!(matches!(one.save(&world).await.unwrap(), Saved::Nothing));
        assert_eq!(one.wake_lazily(&world).await, fetched(&world));
        one.bring_all().await;
        assert_eq!(one.digest(), whole);
    }
    assert!(one.parked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_known_of_a_disk_what_is_missing_of_it_is_not_thrown_away() {
    let world = World::new();
    let (one, two) = world.two(3).await;
    for forget in [
        |host: &Host| std::fs::write(&host.files.state, "noise").unwrap(),
        |host: &Host| std::fs::remove_file(&host.files.state).unwrap(),
    ] {
        forget(&two);
        let before = two.parked().len();
        let note = std::fs::read(&two.files.missing).unwrap();
        // A wake that comes to nothing leaves it where it is.
        two.store.kill();
        let begin = world.wake(false);
        two.begin_with(begin, |_| Ok(()), |_| Ok(())).await.unwrap_err();
        assert_eq!(std::fs::read(&two.files.missing).unwrap(), note);
        two.store.revive();
        assert_eq!(two.wake_lazily(&world).await, fetched(&world));
        let parked = two.parked();
        assert_eq!(parked.len(), before + 2, "{parked:?}");
        let kept = |path: &std::path::PathBuf| std::fs::read(path).unwrap() == note;
        assert!(parked.iter().any(kept), "{parked:?}");
    }
    two.bring_all().await;
    assert_eq!(two.digest(), one.digest());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_its_disk_lost_is_missed_elsewhere_and_gone_on_from_here() {
    let world = World::new();
    let (_, two) = world.two(3).await;
    let disk = two.lazy().await.unwrap();
    run(&disk);
    write(&disk, 5, b"flushed".to_vec()).await.unwrap();
    guest(&disk, LazyDisk::flush).await.unwrap();
    disk.hold();
    drop(disk);
    two.upper.leave_unstored(world.claimed()).await.unwrap();
    assert!(matches!(two.save(&world).await.unwrap(), Saved::Nothing));
    // Elsewhere first, where nothing of it is.
    let three = world.host();
    let begun = three.begin(world.claim()).await.unwrap();
    assert_eq!(begun.found, fetched(&world));
    assert!(begun.behind.unwrap().contains("were stored"), "it is said");
    assert_eq!(two.wake_lazily(&world).await, Found::Here);
    two.bring_all().await;
    assert!(two.has(5, b"flushed"));
}

#[tokio::test]
async fn a_disk_of_which_nobody_knows_what_is_missing_is_set_aside() {
    let world = World::new();
    let (one, two) = world.two(3).await;
    for lose in [
        |host: &Host| std::fs::remove_file(&host.files.missing).unwrap(),
        |host: &Host| {
            std::fs::write(&host.files.missing, "noise").unwrap();
        },
    ] {
        lose(&two);
        assert_eq!(two.wake_lazily(&world).await, fetched(&world));
    }
    two.bring_all().await;
    assert_eq!(two.digest(), one.digest());
    // All is here; what is left of a note says nothing.
    std::fs::write(&two.files.missing, "noise").unwrap();
    assert_eq!(two.wake_lazily(&world).await, Found::Here);
    assert!(!two.files.missing.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_of_an_overtaken_disk_is_set_aside_with_it() {
    let world = World::new();
    let (one, two) = world.two(6).await;
    let disk = two.lazy().await.unwrap();
    two.store.kill();
    run(&disk);
    write(&disk, 0, vec![5; CHUNK as usize]).await.unwrap();
    disk.end().await.unwrap();
    two.store.revive();
    one.run_and_save(&world, 9, b"newer").await;
    assert_eq!(two.wake_lazily(&world).await, fetched(&world));
    let parked = two.parked();
    assert_eq!(parked.len(), 2, "{parked:?}");
    assert!(parked.iter().any(|path| path.to_string_lossy().ends_with(".missing")), "{parked:?}");
    assert_eq!(two.lazy().await.unwrap().missing(), 6);
}
