//! A guest that does not run since this host's disk has no room for it. It goes on by itself once there is some (crate
//! `runtime`); until then it hears nobody.
//!
//! Who wants something of it waits with it: a sleep, also an orderly end, waits for room, since what the guest wrote and
//! could not keep is in its memory alone. To delete the machine, or to end it by force, waits for nothing.

use std::sync::Arc;
use std::time::Duration;

use base::ErrorKind;
use homefs::HomeFs;
use runtime::{Instance, Measure};
use tokio::sync::watch;
use vfs::FileSystem as _;

use crate::Failure;

/// What is in a home, for as long as somebody has it open: on this disk until the store has it, and the store may be
/// there as well.
pub(super) fn size_of(home: &Arc<HomeFs>) -> Measure {
    let home = Arc::downgrade(home);
    let size = move || home.upgrade()?.statfs().ok().map(|sizes| sizes.bytes_used);
    Measure(Arc::new(move || size().unwrap_or(0)))
}

/// Returns once the guest does not wait for room, or is gone.
pub(super) async fn there_is_room(instance: &Arc<dyn Instance>) {
    let mut waits = instance.waits_for_room();
    tokio::select! {
        // Nobody says any more that it does.
        _ = waits.wait_for(|waits| !waits) => {}
        _ = instance.wait() => {}
    }
}

pub(super) fn waits_for_room(instance: &Arc<dyn Instance>) -> bool {
    says_so(&instance.waits_for_room())
}

/// Whether somebody says that the guest waits. Where nobody looks after it any more, nobody has it go on either: to wait
/// for that would be for ever.
pub(crate) fn says_so(waits: &watch::Receiver<bool>) -> bool {
    *waits.borrow() && waits.has_changed().is_ok()
}

/// Whether the guest waits, or has since `waits` was looked at.
pub(super) fn lacked(waits: &watch::Receiver<bool>) -> bool {
    says_so(waits) || waits.has_changed().unwrap_or(false)
}

/// Waits for something of a guest `patience` long, and for as long as it has to wait for room. `None`: it took longer.
pub(super) async fn within<T>(
    instance: &Arc<dyn Instance>,
    patience: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut waits = instance.waits_for_room();
    loop {
        waits.borrow_and_update();
        if let Ok(done) = tokio::time::timeout(patience, &mut work).await {
            return Some(done);
        }
        if !lacked(&waits) {
            return None;
        }
        tokio::select! {
            done = &mut work => return Some(done),
            () = there_is_room(instance) => {}
        }
    }
}

/// The same for what is asked of a guest, and asked again where it came to nothing for want of room.
pub(super) async fn asked<T, E, F: Future<Output = Result<T, E>>>(
    instance: &Arc<dyn Instance>,
    patience: Duration,
    ask: impl Fn() -> F,
) -> Option<Result<T, E>> {
    let mut waits = instance.waits_for_room();
    loop {
        waits.borrow_and_update();
        let answer = tokio::time::timeout(patience, ask()).await.ok();
        if matches!(answer, Some(Ok(_))) || !lacked(&waits) {
            return answer;
        }
        there_is_room(instance).await;
    }
}

/// Waits for a guest to power off, `grace` long and for as long as it has to wait for room.
pub(super) async fn powered_off(instance: &Arc<dyn Instance>, grace: Duration) {
    within(instance, grace, instance.wait()).await;
}

/// What somebody hears whose machine did not come up for it: that guest is not waited for.
pub(super) fn no_room_to_boot() -> Failure {
    Failure::new(
        ErrorKind::Exhausted,
        "the server's disk has no room for what this machine writes, so that its guest did not come up. Free space on the \
         server's disk, and wake the machine again",
    )
}

/// What somebody hears who wants something of such a guest.
pub(crate) fn no_room() -> Failure {
    Failure::new(
        ErrorKind::Exhausted,
        "the server's disk has no room for what this machine writes: its guest does not run until there is some. Free \
         space on the server's disk; the machine goes on by itself, and nothing of it is lost",
    )
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use runtime::{Error, Exit};

    use super::*;

    /// A guest that waits for room.
    #[derive(Debug)]
    struct Waiting(watch::Sender<bool>);

    #[async_trait]
    impl Instance for Waiting {
        fn pid(&self) -> u32 {
            0
        }

        async fn wait(&self) -> Exit {
            std::future::pending().await
        }

        async fn stop(&self, _: Duration) -> Exit {
            Exit::PoweredOff
        }

        async fn suspend(&self, _: &std::path::Path) -> Result<(), Error> {
            Ok(())
        }

        async fn set_egress(&self, _: &base::Egress) -> Result<(), Error> {
            Ok(())
        }

        async fn set_vcpu(&self, _: f64) -> Result<(), Error> {
            Ok(())
        }

        fn waits_for_room(&self) -> watch::Receiver<bool> {
            self.0.subscribe()
        }

        fn console_tail(&self) -> String {
            String::new()
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// One that waits from the first second to the hundredth.
    fn waiting() -> Arc<dyn Instance> {
        let said = watch::Sender::new(false);
        let says = said.clone();
        tokio::spawn(async move {
            tokio::time::sleep(SECOND).await;
            says.send_replace(true);
            tokio::time::sleep(99 * SECOND).await;
            says.send_replace(false);
        });
        Arc::new(Waiting(said))
    }

    #[test]
    fn nobody_waits_where_nobody_says_so_any_more() {
        let (said, waits) = watch::channel(false);
        assert!(!says_so(&waits));
        said.send_replace(true);
        assert!(says_so(&waits) && lacked(&waits));
        drop(said);
        assert!(!says_so(&waits) && !lacked(&waits));
    }

    #[tokio::test(start_paused = true)]
    async fn patience_begins_anew_once_there_is_room() {
        let begun = tokio::time::Instant::now();
        let done = within(&waiting(), 20 * SECOND, tokio::time::sleep(110 * SECOND)).await;
        assert!(done.is_some());
        let done = within(&waiting(), 20 * SECOND, std::future::pending::<()>()).await;
        assert!(done.is_none() && begun.elapsed() == 230 * SECOND, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_to_nothing_for_want_of_room_is_asked_again() {
        let begun = tokio::time::Instant::now();
        let instance = waiting();
        // It gives up by itself, too.
        let ask = || async {
            tokio::time::sleep(10 * SECOND).await;
            if begun.elapsed() > 100 * SECOND { Ok(()) } else { Err("no answer") }
        };
        assert_eq!(asked(&instance, 20 * SECOND, ask).await, Some(Ok(())));
        assert_eq!(begun.elapsed(), 110 * SECOND);
        let refused = asked(&instance, 20 * SECOND, || async { Err::<(), _>("no") }).await;
        assert_eq!(refused, Some(Err("no")));
    }
}
