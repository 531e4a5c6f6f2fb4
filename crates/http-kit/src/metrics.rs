//! Numbers about requests, and their Prometheus text.

use std::time::Duration;

use http::{Method, StatusCode};
use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

const REQUESTS: &str = "dormouse_http_requests_total";
const SECONDS: &str = "dormouse_http_request_seconds";
const IN_FLIGHT: &str = "dormouse_http_requests_in_flight";

/// Upper ends of the buckets of request times, in seconds: a local answer to a 30 s wait.
const SECONDS_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// How often single measurements are summed up.
const UPKEEP: Duration = Duration::from_secs(5);

/// Another recorder is installed in this process.
#[derive(Debug, thiserror::Error)]
#[error("install the metrics recorder; a process has one, installed at its start")]
pub struct InstallError(#[source] metrics_exporter_prometheus::BuildError);

/// Renders what this process has counted.
#[derive(Clone)]
pub struct Exporter(PrometheusHandle);

impl Exporter {
    /// Makes this the recorder of the whole process. Once, at start.
    ///
    /// # Errors
    /// Where another recorder is installed.
    pub fn install() -> Result<Self, InstallError> {
        let handle = builder().install_recorder().map_err(InstallError)?;
        describe();
        Ok(Self(handle))
    }

    /// One that nothing is recorded into, for tests and tools.
    #[must_use]
    pub fn detached() -> Self {
        Self(builder().build_recorder().handle())
    }

    /// Sums up what was recorded, now and then, for ever: what nobody asks for must not pile up.
    pub async fn keep_up(self) {
        loop {
            tokio::time::sleep(UPKEEP).await;
            self.0.run_upkeep();
        }
    }

    /// The text for `/metrics`.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").finish_non_exhaustive()
    }
}

fn builder() -> PrometheusBuilder {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(SECONDS.to_owned()), SECONDS_BUCKETS)
        .expect("the bucket list is not empty")
}

fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "HTTP requests answered");
    describe_histogram!(SECONDS, Unit::Seconds, "Time from a request to the head of its reply");
    describe_gauge!(IN_FLIGHT, Unit::Count, "HTTP requests being worked on");
}

/// Counts an answered request.
pub(crate) fn request_done(method: &Method, route: &str, status: StatusCode, took: Duration) {
    // Only methods that routes have; a made-up one must not make a time series.
    let method = match method.as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE") => known,
        _ => "other",
    };
    let method = method.to_owned();
    let route = route.to_owned();
    let status = status.as_str().to_owned();
    histogram!(SECONDS, "method" => method.clone(), "route" => route.clone()).record(took);
    counter!(REQUESTS, "method" => method, "route" => route, "status" => status).increment(1);
}

/// One request being worked on; ends when dropped, also when its client goes away.
#[derive(Debug)]
pub(crate) struct InFlight(());

impl InFlight {
    pub(crate) fn start() -> Self {
        gauge!(IN_FLIGHT).increment(1);
        Self(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        gauge!(IN_FLIGHT).decrement(1);
    }
}
