//! Lengths of time, as people write and read them.

use std::time::Duration;

/// The units, largest first, with their seconds.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// Read `90`, `90s`, `2m`, `1h30m` or `500ms`.
///
/// # Errors
/// In words, when it is none of these or longer than a thousand days.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || "a length of time is written like 90, 90s, 2m, 1h30m or 500ms".to_string();
    if let Some(number) = text.strip_suffix("ms") {
        return number.parse::<u32>().map(|number| Duration::from_millis(number.into())).map_err(|_| wrong());
    }
    let mut seconds: u64 = 0;
    let mut number: Option<u64> = None;
    let mut smallest = u64::MAX;
    for character in text.chars() {
        if let Some(digit) = character.to_digit(10) {
            let before = number.unwrap_or(0);
            number = Some(before.checked_mul(10).ok_or_else(wrong)? + u64::from(digit));
            continue;
        }
        let (_, unit) = UNITS.into_iter().find(|(name, _)| *name == character).ok_or_else(wrong)?;
        let count = number.take().ok_or_else(wrong)?;
        if unit >= smallest {
            return Err(wrong());
        }
        smallest = unit;
        seconds = count.checked_mul(unit).and_then(|more| seconds.checked_add(more)).ok_or_else(wrong)?;
    }
    match number {
        // A number without a unit is seconds, and stands alone.
        Some(count) if smallest == u64::MAX => seconds = count,
        None if smallest < u64::MAX => {}
        _ => return Err(wrong()),
    }
    let limit = 1_000 * 86_400;
    if seconds > limit { Err(wrong()) } else { Ok(Duration::from_secs(seconds)) }
}

/// `milliseconds` in at most two units: `0s`, `12s`, `3m5s`, `2h`, `5d7h`.
pub(crate) fn show(milliseconds: u64) -> String {
    let mut left = milliseconds / 1000;
    let mut shown = String::new();
    let mut parts = 0;
    for (name, unit) in UNITS {
        let count = left / unit;
        left %= unit;
        if count > 0 {
            shown += &format!("{count}{name}");
        }
        if !shown.is_empty() {
            parts += 1;
        }
        if parts == 2 {
            break;
        }
    }
    if shown.is_empty() { "0s".into() } else { shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_is_read() {
        for (text, seconds) in
            [("0", 0), ("90", 90), ("90s", 90), ("2m", 120), ("1h30m", 5400), ("1d1s", 86_401)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        for text in
            ["", "s", "-1", "1x", "1s1m", "1m1m", "1m1", "99999999999999999999", "1001d", "1.5s", "ms"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_age_has_at_most_two_units() {
        for (milliseconds, shown) in [
            (0, "0s"),
            (999, "0s"),
            (12_345, "12s"),
            (185_000, "3m5s"),
            (7_200_000, "2h"),
            (7_205_000, "2h"),
            (457_200_000, "5d7h"),
        ] {
            assert_eq!(show(milliseconds), shown);
        }
    }
}
