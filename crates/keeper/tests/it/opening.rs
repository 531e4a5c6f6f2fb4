//! Homes that take long to open.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use keeper::KeeperState;
use objstore::ObjectStore;
use testkit::{Attendant, AttendedStore, Verb};
use tokio::sync::Mutex;

use crate::guest::{Machine, come_up, meet};

/// Gets come one after the other, each after a pause.
#[derive(Debug, Default)]
struct Slow(Mutex<()>);

#[async_trait]
impl Attendant for Slow {
    async fn before(&self, _: &dyn ObjectStore, verb: Verb, _: &str) {
        if verb == Verb::Get {
            let _turn = self.0.lock().await;
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
    }
}

fn silent(control: tokio::net::UnixStream, fuse: UnixStream) -> BoxFuture<'static, ()> {
    async move {
        let mut mux = meet(control).await;
        come_up(&mut mux).await;
        let _held = (mux, fuse);
        std::future::pending::<()>().await;
    }
    .boxed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_says_that_the_home_it_opens_gets_on_until_it_is_open() {
    let slow = |store| Arc::new(AttendedStore::new(store, Slow::default())) as Arc<dyn ObjectStore>;
    let machine = Machine::begin_on(silent, slow, 8 << 20).await;
    let mut said = Vec::new();
    let seen = async {
        loop {
            // It may not listen yet.
            if let Ok(status) = machine.client.status().await {
                if status.state != KeeperState::Starting {
                    return status;
                }
                if said.last() != Some(&status.opening_home) {
                    said.push(status.opening_home);
                }
                assert_eq!(status.opening_home.is_none(), status.stage().claimed, "{status:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(60), seen).await.unwrap();
    assert_eq!((status.state, status.opening_home), (KeeperState::Running, None));
    // Of eight pieces; a few may have come unseen on a busy host.
    let steps = said.iter().flatten().count();
    assert!(steps >= 4 && said.is_sorted_by_key(|done| done.unwrap_or(u64::MAX)), "{said:?}");
    machine.sleep().await;
}
