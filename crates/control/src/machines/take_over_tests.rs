//! Rights to take homes over, in memory.

use super::*;
use crate::fakes::World;
use crate::fakes::life::{created, named, wake};

#[tokio::test]
async fn a_right_to_take_over_is_of_the_claim_that_was_looked_at() {
    let world = World::new();
    let control = world.open().await;
    let held = created(&control, named("held")).await;
    control.close().await;
    world.host.lose();

    let other = world.another();
    let control = other.open().await;
    assert_eq!(control.machines().adopt(true).await.unwrap().len(), 1);
    // It claims the home and is killed before anybody hears of that; then the first takes the machine back.
    world.host.state.lock().homes.values_mut().for_each(|home| home.seq += 2);
    let refused = wake(&control, &held).await;
    assert_eq!((refused.phase, refused.status.reason.as_str()), (Phase::Failed, "fenced"));
    assert!(!other.host.took_over());
    // Said anew, it is of who has it now; said twice, nothing is new.
    assert_eq!(control.machines().adopt(true).await.unwrap().len(), 1);
    assert!(control.machines().adopt(true).await.unwrap().is_empty());
    assert_eq!(wake(&control, &held).await.phase, Phase::Running);
    assert!(other.host.took_over());
    control.close().await;
}
