//! Many clients at once, for a while.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};

/// Clients that ask at the same time.
pub(crate) const CLIENTS: usize = 32;
/// How long one measurement lasts.
const DURATION: Duration = Duration::from_secs(1);

/// How many requests a second `CLIENTS` threads get done. `client` is called once in each with its
/// number, before the clock starts, and returns what does one request; that gets the request's
/// number.
pub(crate) fn rate<F>(client: impl Fn(usize) -> anyhow::Result<F> + Sync) -> anyhow::Result<f64>
where
    F: FnMut(u64) -> anyhow::Result<()>,
{
    let start = Barrier::new(CLIENTS);
    let one = |number: usize| {
        let request = client(number);
        // Everybody comes here, also who cannot begin, or the others would wait for ever.
        start.wait();
        let mut request = request?;
        let started = Instant::now();
        let mut done = 0;
        while started.elapsed() < DURATION {
            request(done)?;
            done += 1;
        }
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 requests")]
        let rate = done as f64 / started.elapsed().as_secs_f64();
        Ok::<f64, anyhow::Error>(rate)
    };
    thread::scope(|scope| {
        let one = &one;
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || one(number))).collect();
        let mut total = 0.0;
        for client in clients {
            total += client
                .join()
                .map_err(|_| anyhow!("a client broke down"))?
                .context("one of many clients")?;
        }
        Ok(total)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn all_clients_count() {
        let asked = AtomicU64::new(0);
        let rate = rate(|_| {
            Ok(|_| {
                thread::sleep(Duration::from_millis(50));
                asked.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
        });
        let (rate, asked) = (rate.unwrap(), asked.load(Ordering::Relaxed));
        assert!(asked >= CLIENTS as u64, "{asked}");
        assert!(rate > 0.0 && rate <= CLIENTS as f64 * 20.0 + 1.0, "{rate}");
    }

    #[test]
    fn a_client_that_cannot_begin_fails_the_measurement() {
        let begun = rate(|number| {
            anyhow::ensure!(number != 3, "no connection");
            Ok(|_| Ok(()))
        });
        assert!(format!("{:#}", begun.unwrap_err()).contains("no connection"));
    }
}
