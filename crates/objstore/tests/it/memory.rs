use std::sync::Arc;

use objstore::{Backend, suite};

#[tokio::test]
async fn the_memory_store_keeps_every_promise() {
    let store = Backend::open("memory://", &|_| None).unwrap();
    store.probe().await.unwrap();
    suite::run(Arc::new(store)).await;
}
