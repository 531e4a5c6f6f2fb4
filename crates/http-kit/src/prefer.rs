//! How long a client wants a lifecycle call to wait for its outcome (RFC 7240).

use std::time::Duration;

use http::HeaderMap;

use crate::limits::PREFER_WAIT_MAX;

/// The wait of `Prefer: wait=SECONDS`, at most [`PREFER_WAIT_MAX`]; none for `respond-async`; `default`
/// where the header says nothing we know, as the standard asks.
#[must_use]
pub fn wait(headers: &HeaderMap, default: Duration) -> Duration {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    for preference in values.flat_map(|value| value.split([',', ';'])).map(str::trim) {
        if preference.eq_ignore_ascii_case("respond-async") {
            return Duration::ZERO;
        }
        let Some((name, seconds)) = preference.split_once('=') else { continue };
        if !name.trim().eq_ignore_ascii_case("wait") {
            continue;
        }
        if let Ok(seconds) = seconds.trim().trim_matches('"').parse() {
            return Duration::from_secs(seconds).min(PREFER_WAIT_MAX);
        }
    }
    default
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_chooses_how_long_it_waits() {
        let wait = |value: &'static str| {
            let headers = [("prefer", value)].map(|(name, value)| {
                (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
            });
            super::wait(&headers.into_iter().collect(), Duration::from_secs(10)).as_secs()
        };
        assert_eq!(wait("wait=3"), 3);
        assert_eq!(wait("return=minimal, wait = \"0\""), 0);
        assert_eq!(wait("wait=100000"), 30);
        assert_eq!(wait("respond-async, wait=5"), 0);
        assert_eq!(wait("wait=soon"), 10);
        assert_eq!(wait("nothing"), 10);
    }
}
