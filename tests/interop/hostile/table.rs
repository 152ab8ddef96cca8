//! The table of `tests/negative` over real sockets, beside a session whose every operation is timed.

use super::SIZE;
use super::peer::{Peer, SOON, Who};
use super::steady::{Steady, percentile};
use image_launch::stage::IQN;
use std::thread;
use std::time::{Duration, Instant};
use tests_negative::{Place, Received, Wire, cases, fill, is_as_filled, play};

/// How long the session is timed, alone and beside the cases: they are played over and over for as long.
const TIMED: Duration = Duration::from_secs(3);
/// The ratio of its 99th percentiles, with the table and alone, that cannot be the noise of a busy machine. The aim is 2;
/// what was measured on a quiet one is in the README.
const GROSS: f64 = 10.0;

impl Wire for Peer {
    fn send(&mut self, bytes: &[u8]) {
        self.bytes(bytes);
    }

    fn finish(&mut self) {
        Self::finish(self);
    }

    fn receive(&mut self) -> Received {
        Self::receive(self, SOON)
    }
}

/// Plays all cases, twice if the neighbour seems to suffer.
pub(crate) fn table() {
    let place = Place {
        initiator: Who::new("table", 1).initiator,
        target: format!("{IQN}:disk1"),
        blocks: SIZE / 512,
    };
    let steady = Steady::start(0);
    fill(&place, &mut Peer::connect()).unwrap();
    let mut ratio = f64::MAX;
    for _ in 0..2 {
        ratio = ratio.min(play_all(&place, &steady));
        if ratio < GROSS {
            break;
        }
    }
    is_as_filled(&place, &mut Peer::connect()).unwrap();
    // That nothing of it was lost, and that its connection stands.
    steady.finish(SOON);
    assert!(ratio < GROSS, "the neighbour's 99th percentile grew by a factor of {ratio:.1}");
}

/// Plays all cases, again and again. Answers the ratio of the neighbour's 99th percentiles.
fn play_all(place: &Place, steady: &Steady) -> f64 {
    steady.take_times();
    thread::sleep(TIMED);
    let alone = steady.take_times();
    let start = Instant::now();
    let (cases, mut played) = (cases(place), 0);
    while start.elapsed() < TIMED {
        let wrong: Vec<_> = cases
            .iter()
            .filter_map(|case| {
                let outcome = play(case, place, &mut Peer::connect());
                outcome.err().map(|error| format!("{} {}: {error}", case.source, case.name))
            })
            .collect();
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
        played += cases.len();
    }
    let (took, beside) = (start.elapsed(), steady.take_times());
    let ratio = percentile(&beside, 99).as_secs_f64() / percentile(&alone, 99).as_secs_f64();
    println!(
        "{} cases, {played} times one in {took:?}; the neighbour, median and 99th percentile:",
        cases.len()
    );
    for (what, times) in [("alone", &alone), ("beside them", &beside)] {
        let [median, high] = [50, 99].map(|percent| percentile(times, percent));
        println!("  {what}: {} operations, {median:?}, {high:?}", times.len());
    }
    println!("  ratio of the 99th percentiles: {ratio:.2}");
    ratio
}
