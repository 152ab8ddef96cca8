//! The key `time`: who tells the time of day.

use alloc::string::{String, ToString};

/// Tells the time of day in seconds since 1970, if it is known.
pub type Tell = fn() -> Option<u64>;

/// Who tells the time of day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Time {
    /// The machine, if it can, now and again.
    #[default]
    Machine,
    /// Nobody.
    Unknown,
    /// The configuration: so many seconds since 1970 at the start.
    At(u64),
}

impl Time {
    /// The time now, and who is to be asked for it later, on a machine that tells it by `tell`.
    pub fn of(self, tell: Tell) -> (Option<u64>, Option<Tell>) {
        match self {
            Self::Machine => (tell(), Some(tell)),
            Self::Unknown => (None, None),
            Self::At(seconds) => (Some(seconds), None),
        }
    }
}

pub(super) fn time(text: &str) -> Result<Time, String> {
    match text {
        "machine" => Ok(Time::Machine),
        "unknown" => Ok(Time::Unknown),
        // From 2001 on; later than the year 10000 nobody means.
        _ => match text.parse() {
            Ok(seconds) if (1_000_000_000..253_402_300_800).contains(&seconds) => Ok(Time::At(seconds)),
            _ => Err("expected machine, unknown, or the seconds since 1970".to_string()),
        },
    }
}
