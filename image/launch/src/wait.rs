//! Waiting that ends: at the answer, at the deadline, or when the user interrupts.

use crate::{Error, Result, process};
use std::time::{Duration, Instant};

/// Asks `poll` every few milliseconds until it has an answer.
///
/// # Errors
/// What `poll` returned, or a sentence naming `what` after `limit` or after Ctrl-C.
pub fn until<T>(
    what: impl std::fmt::Display,
    limit: Duration,
    mut poll: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(answer) = poll()? {
            return Ok(answer);
        }
        if process::interrupted() {
            return Error::because(format!("interrupted while waiting for {what}"));
        }
        if start.elapsed() >= limit {
            return Error::because(format!("{what}: nothing within {:.1} s", limit.as_secs_f32()));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
