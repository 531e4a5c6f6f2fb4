//! The face on a `control` whose host and homes are in memory: for trying clients without a guest.
//!
//! `cargo run -p api-v1 --example memory_server`, then
//! `tests/sdk.py --url http://127.0.0.1:18080 --key key --no-guest`.

#![allow(clippy::print_stdout, reason = "it tells a person where it listens")]

use std::time::Duration;

use control::fakes::World;
use http_kit::{Exporter, Keys};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let world = World::new();
    let control = world.open().await;
    let router = api_v1::router(control.clone(), Keys::single("key"), Exporter::detached());
    let listener = TcpListener::bind("127.0.0.1:18080").await?;
    println!("listening on http://{}, the key is `key`", listener.local_addr()?);
    let stop = CancellationToken::new();
    let serving =
        tokio::spawn(http_kit::serve(listener, router, stop.clone(), Duration::from_secs(1)));
    tokio::signal::ctrl_c().await?;
    stop.cancel();
    control.close().await;
    serving.await.map_err(std::io::Error::other)
}
