//! How long a machine may be idle, as people write it (contract section 17).

use crate::limits::AUTOSLEEP_SECONDS_MAX;
use crate::{Error, Result};

/// Units, in seconds.
const UNITS: [(char, u64); 5] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 604_800)];

/// Seconds from `30s`, `7d3h4s`, `1w3d`, raw seconds, `never` or `off`; 0 means never.
///
/// # Errors
/// `InvalidArgument` for anything else, and past the largest value of the contract.
pub fn parse_autosleep(text: &str) -> Result<u64> {
    let trimmed = text.trim();
    if matches!(trimmed, "never" | "off") {
        return Ok(0);
    }
    let seconds = if trimmed.bytes().all(|b| b.is_ascii_digit()) {
        trimmed.parse().ok()
    } else {
        sum_of_units(trimmed)
    };
    match seconds {
        Some(seconds) => check_autosleep(seconds),
        None => Err(Error::invalid(format!(
            "autosleep {:?} is not understood: write 30s, 15m, 2h, 7d3h4s, 1w3d, a number of \
             seconds, or never",
            trimmed.chars().take(40).collect::<String>()
        ))
        .with_detail("field", "autosleep")),
    }
}

/// Checks a number of seconds against the largest value of the contract.
///
/// # Errors
/// `InvalidArgument` past it.
pub(crate) fn check_autosleep(seconds: u64) -> Result<u64> {
    if seconds > AUTOSLEEP_SECONDS_MAX {
        return Err(Error::invalid(format!(
            "autosleep is at most {AUTOSLEEP_SECONDS_MAX} seconds; use never to switch it off"
        ))
        .with_detail("field", "autosleep"));
    }
    Ok(seconds)
}

/// `None` for an empty text, a number without a unit, a unit without a number or an overflow.
fn sum_of_units(text: &str) -> Option<u64> {
    let mut total: u64 = 0;
    let mut number: Option<u64> = None;
    for c in text.chars() {
        if let Some(digit) = c.to_digit(10) {
            let sofar = number.unwrap_or(0);
            number = Some(sofar.checked_mul(10)?.checked_add(u64::from(digit))?);
        } else {
            let (_, seconds) = UNITS.iter().find(|(unit, _)| *unit == c)?;
            total = total.checked_add(number.take()?.checked_mul(*seconds)?)?;
        }
    }
    // A rest without a unit, such as the 5 of `1h5`, could mean anything.
    if number.is_some() || text.is_empty() { None } else { Some(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_form_is_understood() {
        for (text, seconds) in [
            ("30s", 30),
            ("15m", 900),
            ("2h", 7_200),
            ("7d3h4s", 7 * 86_400 + 3 * 3_600 + 4),
            ("1w3d", 604_800 + 3 * 86_400),
            ("1800", 1_800),
            ("0", 0),
            ("0s", 0),
            ("never", 0),
            ("off", 0),
            (" 5m ", 300),
            ("1m1m", 120),
            ("9223372036", AUTOSLEEP_SECONDS_MAX),
        ] {
            assert_eq!(parse_autosleep(text).unwrap(), seconds, "{text}");
        }
    }

    #[test]
    fn what_could_mean_anything_is_refused() {
        for text in [
            "",
            " ",
            "s",
            "1h5",
            "-5s",
            "1.5h",
            "5 m",
            "5M",
            "1y",
            "none",
            "9223372037",
            "99999999999999999999",
            "99999999999999w",
            "５s",
            "1h-3m",
            "+5s",
            "0x10",
        ] {
            let error = parse_autosleep(text).unwrap_err();
            assert_eq!(error.kind(), base::ErrorKind::InvalidArgument, "{text}");
        }
    }
}
