//! A guest that does not run since this host's disk has no room for it. It goes on by itself once there is some (crate
//! `runtime`); until then it hears nobody.
//!
//! Who wants something of it waits with it: a sleep, also an orderly end, waits for room, since what the guest wrote and
//! could not keep is in its memory alone. To delete the machine, or to end it by force, waits for nothing.

use std::sync::Arc;
use std::time::Duration;

use base::ErrorKind;
use runtime::Instance;
use tokio::sync::watch;

use crate::Failure;

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

/// Waits for a guest to power off, `grace` long and for as long as it has to wait for room.
pub(super) async fn powered_off(instance: &Arc<dyn Instance>, grace: Duration) {
    while tokio::time::timeout(grace, instance.wait()).await.is_err() {
        if !waits_for_room(instance) {
            return;
        }
        there_is_room(instance).await;
    }
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
    use super::*;

    #[test]
    fn nobody_waits_where_nobody_says_so_any_more() {
        let (said, waits) = watch::channel(false);
        assert!(!says_so(&waits));
        said.send_replace(true);
        assert!(says_so(&waits));
        drop(said);
        assert!(!says_so(&waits));
    }
}
