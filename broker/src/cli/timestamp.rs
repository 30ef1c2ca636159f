//! Points in time on the command line.

/// Milliseconds since the Unix epoch: as such, or as RFC 3339 has it, such as 2026-01-31T12:00:00Z or
/// 2026-01-31T12:00:00.250+02:00.
///
/// # Errors
/// What would be right.
pub(super) fn parse(text: &str) -> Result<i64, String> {
    let milliseconds = text.parse().ok().filter(|milliseconds| *milliseconds >= 0);
    milliseconds.or_else(|| rfc_3339(text)).ok_or_else(|| {
        "milliseconds since 1970 or a time such as 2026-01-31T12:00:00Z are expected".to_owned()
    })
}

fn rfc_3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        text.get(from..to)?.parse().ok()
    };
    let is_at =
        |position: usize, allowed: &[u8]| bytes.get(position).is_some_and(|byte| allowed.contains(byte));
    let separators = [(4, &b"-"[..]), (7, b"-"), (10, b"Tt "), (13, b":"), (16, b":")];
    if !separators.iter().all(|(position, allowed)| is_at(*position, allowed)) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let is_valid = (1..=12).contains(&month)
        && (1..=days_of(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    let mut zone_at = 19;
    let mut milliseconds = 0;
    if is_at(19, b".") {
        let digits = bytes[20..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        zone_at = 20 + digits;
        milliseconds = number(20, 20 + digits.min(3))? * [0, 100, 10, 1][digits.min(3)];
    }
    let offset_minutes = match bytes.get(zone_at)? {
        b'Z' | b'z' if bytes.len() == zone_at + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == zone_at + 6 && is_at(zone_at + 3, b":") => {
            let (hours, minutes) = (number(zone_at + 1, zone_at + 3)?, number(zone_at + 4, zone_at + 6)?);
            let offset = hours * 60 + minutes;
            if *sign == b'-' { -offset } else { offset }
        }
        _ => return None,
    };
    let seconds =
        ((days_since_1970(year, month, day) * 24 + hour) * 60 + minute - offset_minutes) * 60 + second;
    is_valid.then_some(seconds * 1000 + milliseconds).filter(|milliseconds| *milliseconds >= 0)
}

const fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

const fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    // Whole years since year 0 of the Gregorian calendar, which began 719,528 days before 1970.
    let leap_days = |year: i64| (year + 3) / 4 - (year + 99) / 100 + (year + 399) / 400;
    let months: i64 = (1..month).map(|month| days_of(year, month)).sum();
    year * 365 + leap_days(year) + months + day - 1 - 719_528
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (text, milliseconds) in [
            ("0", 0),
            ("1700000000123", 1_700_000_000_123),
            ("1970-01-01T00:00:00Z", 0),
            ("2000-03-01T00:00:00Z", 951_868_800_000),
            ("2023-11-14T22:13:20.5Z", 1_700_000_000_500),
            ("2023-11-14T22:13:20.1239Z", 1_700_000_000_123),
            ("2023-11-15T00:13:20+02:00", 1_700_000_000_000),
            ("2023-11-14t20:43:20-01:30", 1_700_000_000_000),
            ("2024-02-29 12:00:00z", 1_709_208_000_000),
        ] {
            assert_eq!(parse(text), Ok(milliseconds), "{text}");
        }
        for wrong in [
            "",
            "-1",
            "yesterday",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-01-01T24:00:00Z",
            "2023-01-01T00:00:00",
            "2023-01-01T00:00:00.Z",
            "2023-01-01T00:00:00+0200",
            "2023-01-01T00:00:00Z ",
            "+023-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2023-01-01T00:00:0ä",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
