//! How fast objects are encrypted and decrypted, on one core: `cargo run --release -p objstore --example
//! encryption_speed`.

use std::sync::Arc;
use std::time::Instant;

use base::SystemEntropy;
use bytes::Bytes;
use objstore::{Encrypted, KeyRing, MemoryStore, ObjectStore};

const MIB: usize = 1 << 20;
const ROUNDS: usize = 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> objstore::Result<()> {
    let (_, line) = KeyRing::new_line(b"", &SystemEntropy)?;
    let keys = KeyRing::parse(line.as_bytes())?;
    let store = Encrypted::new(Arc::new(MemoryStore::new()), keys, Arc::new(SystemEntropy));
    for len in [4 << 10, 64 << 10, MIB, 64 * MIB] {
        let body = Bytes::from(vec![7; len]);
        let rounds = (ROUNDS * 64 * MIB / len).min(20_000);
        let start = Instant::now();
        for _ in 0..rounds {
            store.put("k", body.clone()).await?;
        }
        let put = start.elapsed();
        let start = Instant::now();
        for _ in 0..rounds {
            store.get("k", None).await?;
        }
        let get = start.elapsed();
        let mib_per_second = |seconds: f64| (rounds * len) as f64 / MIB as f64 / seconds;
        eprintln!(
            "{:>8} KiB: put {:>6.0} MiB/s, get {:>6.0} MiB/s",
            len >> 10,
            mib_per_second(put.as_secs_f64()),
            mib_per_second(get.as_secs_f64())
        );
    }
    Ok(())
}
