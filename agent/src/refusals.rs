//! How much is said of peers that are refused: whoever reaches the port can knock as often as it likes, and must not fill the
//! host's log.

use std::time::{Duration, Instant};

/// So many have a line of their own in each span; of those that follow one line tells how many they were.
const LINES: u64 = 10;
const SPAN: Duration = Duration::from_secs(60);

/// Those that were refused in one span.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// When the first one was.
    since: Option<Instant>,
    count: u64,
}

impl Refusals {
    /// One more is refused at `now`. Answers whether it is to have a line.
    pub(crate) fn add(&mut self, now: Instant) -> bool {
        self.since.get_or_insert(now);
        self.count += 1;
        self.count <= LINES
    }

    /// How many had no line, once their span is over at `now`. It is told once.
    pub(crate) fn over(&mut self, now: Instant) -> Option<u64> {
        self.since.filter(|since| now.duration_since(*since) >= SPAN)?;
        self.rest()
    }

    /// The same of a span that is not over yet.
    pub(crate) fn rest(&mut self) -> Option<u64> {
        let Self { count, .. } = std::mem::take(self);
        count.checked_sub(LINES).filter(|more| *more > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_have_a_line_in_a_minute_and_of_the_others_one_line_tells_how_many() {
        let mut now = Instant::now();
        let mut refusals = Refusals::default();
        let (mut lines, mut told) = (0_u64, Vec::new());
        // A hundred a second for two minutes, while somebody looks as often.
        for _ in 0..12_000 {
            lines += u64::from(refusals.add(now));
            now += Duration::from_millis(10);
            told.extend(refusals.over(now));
        }
        assert_eq!((lines, told), (20, vec![5990, 5990]));
        assert_eq!(refusals.rest(), None);
    }

    #[test]
    fn few_have_a_line_each_and_nothing_is_said_of_others() {
        let mut now = Instant::now();
        let mut refusals = Refusals::default();
        for _ in 0..30 {
            assert!(refusals.add(now));
            now += Duration::from_secs(7);
            assert_eq!(refusals.over(now), None);
        }
    }

    #[test]
    fn those_at_the_end_are_told_of_before_their_minute_is_over() {
        let now = Instant::now();
        let mut refusals = Refusals::default();
        let lines = (0..13).filter(|_| refusals.add(now)).count();
        assert_eq!((lines, refusals.over(now)), (10, None));
        assert_eq!((refusals.rest(), refusals.rest()), (Some(3), None));
    }
}
