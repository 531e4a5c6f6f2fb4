//! Wakes whose homes take long to open, in memory.

use base::ErrorKind;

use super::driver::Drivers;
use super::*;
use crate::Control;
use crate::fakes::World;
use crate::fakes::life::{SOON, by_id, running, settled, slept, woken};

async fn until(control: &Control, machine: &Machine, reason: &str) -> Machine {
    let seen = async {
        loop {
            let now = control.machines().get(&by_id(machine)).await.unwrap();
            if now.status.reason == reason {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, seen).await.unwrap_or_else(|_| panic!("its reason is not {reason}"))
}

#[tokio::test]
async fn a_home_that_takes_long_to_open_has_the_time_as_long_as_it_gets_on() {
    let mut world = World::new();
    let start_max = Duration::from_secs(2);
    world.timing.start_max = start_max;
    let control = world.open().await;
    let machine = running(&control).await;
    slept(&control, &machine).await;
    world.host.hold_starting(true);
    world.host.state.lock().opening_home = Some(0);
    let starts = world.host.starts() + 1;
    control.machines().wake(&by_id(&machine), &IfMatch::Any).await.unwrap();
    let host = world.host.clone();
    let gets_on = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            host.state.lock().opening_home.iter_mut().for_each(|done| *done += 1);
        }
    });
    until(&control, &machine, "opening_home").await;
    // Longer than a guest has to boot.
    tokio::time::sleep(start_max * 2).await;
    let seen = control.machines().get(&by_id(&machine)).await.unwrap();
    assert_eq!((seen.phase, seen.status.reason.as_str()), (Phase::Starting, "opening_home"));
    gets_on.abort();
    gets_on.await.unwrap_err();
    world.host.state.lock().opening_home = None;
    // Its guest's time begins now, whoever wants something of it meanwhile.
    until(&control, &machine, "starting").await;
    Drivers::nudge(&control.machines().inner, &machine.machine_id);
    tokio::time::sleep(start_max / 4).await;
    let seen = control.machines().get(&by_id(&machine)).await.unwrap();
    assert_eq!((seen.phase, world.host.starts()), (Phase::Starting, starts), "it was ended");
    world.host.hold_starting(false);
    woken(&control, &machine).await;
    control.close().await;
}

#[tokio::test]
async fn a_home_that_does_not_get_on_with_opening_is_not_waited_for_and_that_is_said() {
    let mut world = World::new();
    world.timing.start_max = Duration::from_millis(500);
    let control = world.open().await;
    let machine = running(&control).await;
    slept(&control, &machine).await;
    world.host.hold_starting(true);
    world.host.state.lock().opening_home = Some(7);
    let asked = control.machines().wake(&by_id(&machine), &IfMatch::Any).await.unwrap();
    let seen = settled(&control, asked).await;
    assert_eq!((seen.phase, seen.status.retryable), (Phase::Failed, true), "{seen:?}");
    assert_eq!(seen.status.reason, ErrorKind::Unavailable.code().to_ascii_lowercase());
    let said = seen.status.last_error.unwrap();
    assert!(said.contains("opening the home did not get on"), "{said}");
    assert!(!world.host.is_running(&machine.machine_id));
    control.close().await;
}
