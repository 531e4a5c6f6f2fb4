//! Dates as HTTP headers write them.

use base::Timestamp;
use jiff::tz::TimeZone;

/// `Sun, 06 Nov 1994 08:49:37 GMT`; fractions of a second fall away.
#[must_use]
pub fn http_date(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// The moment of a file time; the ends of the representable range for what lies outside.
#[must_use]
pub fn timestamp(time: vfs::Time) -> Timestamp {
    let end = if time.0 < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::new(time.seconds(), i32::try_from(time.nanos()).unwrap_or(0)).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_the_standard_has_it() {
        let time = vfs::Time::from_parts(784_111_777, 999_999_999);
        assert_eq!(http_date(timestamp(time)), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn times_before_1970_and_far_away_are_no_trouble() {
        assert_eq!(timestamp(vfs::Time(-1)).as_nanosecond(), -1);
        assert!(http_date(timestamp(vfs::Time(i64::MAX))).contains("2262"));
        assert!(http_date(timestamp(vfs::Time(i64::MIN))).contains("1677"));
    }
}
