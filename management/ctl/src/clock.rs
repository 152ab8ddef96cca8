//! The appliance's clock, which counts from its start, as the time of day.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// When the appliance started, as far as this machine's clock is right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Milliseconds since 1970.
    started: u64,
}

impl Clock {
    /// Of what its clock says now.
    pub(crate) fn new(clock_ms: u64) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_millis()).unwrap_or(0);
        Self { started: u64::try_from(now).unwrap_or(u64::MAX).saturating_sub(clock_ms) }
    }

    /// A moment on it, in UTC.
    pub(crate) fn show(self, at_ms: u64) -> String {
        date(self.started.saturating_add(at_ms) / 1000)
    }
}

/// Seconds since 1970 as RFC 3339 has them.
pub(crate) fn date(seconds: u64) -> String {
    // The calendar as counted from 1 March of the year 0, so that a leap day is a year's last.
    let days = seconds / DAY + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let rest = seconds % DAY;
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, said) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_795_712_400, "2026-11-26T17:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(seconds), said);
        }
    }
}
