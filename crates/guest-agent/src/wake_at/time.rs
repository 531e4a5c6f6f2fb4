//! What a user may write for a moment to be woken at. Pure.

use base::Timestamp;

const UNITS: [(char, i64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];

/// The moment that `text` says, in whole seconds, as the wish is kept.
///
/// # Errors
/// A sentence for whoever wrote it: it is no moment, or one that is over.
pub(crate) fn parse(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let at = match text.split_at_checked(1) {
        Some(("@", seconds)) => number(seconds),
        Some(("+", duration)) => {
            in_units(duration).and_then(|seconds| now.as_second().checked_add(seconds))
        }
        _ => text.parse().ok().map(whole_second),
    };
    let at = at.and_then(|second| Timestamp::from_second(second).ok()).ok_or_else(|| {
        format!(
            "{text:?} is no time: write one like 2026-12-01T08:00:00Z, @UNIX_SECONDS, +SECONDS, +90s, \
             +15m, +8h or +2d; or never"
        )
    })?;
    if at <= now {
        return Err(format!("{at} is over, it is {now}: write a time to come, for example +15m"));
    }
    Ok(at)
}

fn in_units(text: &str) -> Option<i64> {
    let unit = UNITS.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, *seconds)));
    let (text, seconds) = unit.unwrap_or((text, 1));
    number(text)?.checked_mul(seconds)
}

/// Digits only: a sign is no part of it.
fn number(text: &str) -> Option<i64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Up, so that nobody is woken before their time.
fn whole_second(at: Timestamp) -> i64 {
    at.as_second() + i64::from(at.subsec_nanosecond() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-30T00:53:20.5Z.
    fn now() -> Timestamp {
        Timestamp::from_nanosecond(1_796_000_000_500_000_000).unwrap()
    }

    #[test]
    fn every_form_is_read() {
        for (text, seconds) in [
            ("2030-03-17T17:46:40Z", 1_900_000_000),
            ("2030-03-17T17:46:39.2Z", 1_900_000_000),
            ("2030-03-17T19:46:40+02:00", 1_900_000_000),
            ("@1900000000", 1_900_000_000),
            ("+1", 1_796_000_001),
            ("+3600", 1_796_003_600),
            ("+90s", 1_796_000_090),
            ("+15m", 1_796_000_900),
            ("+8h", 1_796_028_800),
            ("+2d", 1_796_172_800),
        ] {
            assert_eq!(parse(text, now()).map(|at| at.as_second()), Ok(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_what_to_write() {
        for text in [
            "",
            "+",
            "@",
            "@+5",
            "@-5",
            "@1.5",
            "+-5",
            "++5",
            "+5w",
            "+s",
            "+m5",
            "+1h30m",
            "+ 5",
            "1900000000",
            "tomorrow",
            "08:00",
            "2030-03-17",
            "2030-03-17T17:46:40",
            "+ä",
            "ä",
            "\0",
            "2030-02-30T00:00:00Z",
            "@99999999999999",
            "@18446744073709551616",
            "+9223372036854775807",
            "+9223372036854775807d",
            "+99999999999999d",
        ] {
            let refused = parse(text, now()).unwrap_err();
            assert!(refused.contains("is no time: write one like 2026-"), "{text}: {refused}");
        }
    }

    #[test]
    fn what_is_over_is_refused() {
        for text in
            ["@0", "@1796000000", "2026-01-01T00:00:00Z", "1969-12-31T23:59:59Z", "+0", "+0d"]
        {
            let refused = parse(text, now()).unwrap_err();
            assert!(refused.contains("is over, it is 20"), "{text}: {refused}");
        }
    }
}
