//! The honest neighbour: one session that writes, flushes, reads back and pings without a pause while others misbehave.

use super::peer::{Peer, Who};
use super::session::{BLOCK, SYNCHRONIZE_CACHE, Session, lun, read10, write10};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Bytes of one read or write.
const PIECE: usize = 16 << 10;
/// Pieces that it works on: the first 4 MiB of its disk.
const PIECES: u32 = 256;

/// What it has seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Reads, writes, flushes and pings that succeeded.
    pub(crate) rounds: u32,
    /// The longest that one of them took.
    pub(crate) longest: Duration,
}

/// The neighbour at work. Dropped without [`Steady::finish`], it stops unheard.
pub(crate) struct Steady {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU32>,
    tag: Arc<AtomicU32>,
    times: Arc<Mutex<Vec<Duration>>>,
    thread: Option<JoinHandle<Result<Seen, String>>>,
    /// The local port of its connection.
    pub(crate) port: u16,
    /// Who it is.
    pub(crate) who: Who,
}

impl Steady {
    /// Logs in to disk `n` and begins.
    pub(crate) fn start(n: usize) -> Self {
        Self::start_with(n, true)
    }

    /// The same without flushes: they wait for all writes before them, whoever made these.
    pub(crate) fn start_without_flushes(n: usize) -> Self {
        Self::start_with(n, false)
    }

    fn start_with(n: usize, flushes: bool) -> Self {
        let who = Who::new("steady", n);
        let session = Session::open(&who);
        let (stop, rounds, tag) = (Arc::default(), Arc::<AtomicU32>::default(), Arc::<AtomicU32>::default());
        let times = Arc::<Mutex<Vec<Duration>>>::default();
        let port = session.peer.port();
        let mut worker = Worker {
            session,
            flushes,
            stop: Arc::clone(&stop),
            rounds: Arc::clone(&rounds),
            tag: Arc::clone(&tag),
            times: Arc::clone(&times),
        };
        for piece in 0..PIECES {
            worker.write(piece, 0).unwrap();
        }
        Self { stop, rounds, tag, times, thread: Some(thread::spawn(|| worker.work())), port, who }
    }

    /// Rounds so far: it must have done some while somebody else did something.
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// How long each operation took since this was last asked, ascending.
    pub(crate) fn take_times(&self) -> Vec<Duration> {
        let mut times = std::mem::take(&mut *self.times.lock().unwrap());
        times.sort_unstable();
        times
    }

    /// The tag of a task that it has just now, or had a moment ago.
    pub(crate) fn tag(&self) -> u32 {
        self.tag.load(Ordering::Relaxed)
    }

    /// Lets it end its round. It must have lost nothing, and no operation may have taken longer than `bound`.
    pub(crate) fn finish(mut self, bound: Duration) -> Seen {
        let end = Instant::now() + bound;
        while self.rounds() <= 10 && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.take().unwrap().join().unwrap().unwrap();
        println!("steady: {} rounds, longest operation {:?}", seen.rounds, seen.longest);
        assert!(seen.rounds > 10, "{seen:?}");
        assert!(seen.longest < bound, "{seen:?}");
        seen
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The time that so many of a hundred operations do not exceed; `times` ascend, and there are some.
pub(crate) fn percentile(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() - 1) * percent / 100]
}

struct Worker {
    session: Session,
    flushes: bool,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU32>,
    tag: Arc<AtomicU32>,
    times: Arc<Mutex<Vec<Duration>>>,
}

impl Worker {
    fn work(mut self) -> Result<Seen, String> {
        let mut written = vec![0_u32; PIECES as usize];
        let mut seen = Seen::default();
        while !self.stop.load(Ordering::Relaxed) {
            let round = seen.rounds + 1;
            let (to, from) = (mix(round) % PIECES, mix(round ^ 0x5555_5555) % PIECES);
            let start = Instant::now();
            self.write(to, round)?;
            seen.longest = seen.longest.max(start.elapsed());
            written[to as usize] = round;
            let start = Instant::now();
            self.verify(from, written[from as usize])?;
            seen.longest = seen.longest.max(start.elapsed());
            if round % 16 == 0 {
                let start = Instant::now();
                if self.flushes {
                    self.run(&SYNCHRONIZE_CACHE, &[], 0)?;
                }
                self.session.ping()?;
                seen.longest = seen.longest.max(start.elapsed());
            }
            seen.rounds = round;
            self.rounds.store(round, Ordering::Relaxed);
        }
        // Nothing of it was lost meanwhile.
        for (piece, round) in (0..PIECES).zip(written) {
            self.verify(piece, round)?;
        }
        Ok(seen)
    }

    fn run(&mut self, cdb: &[u8; 16], out: &[u8], expected: u32) -> Result<Vec<u8>, String> {
        let start = Instant::now();
        let tag = self.session.begin(lun(0), cdb, out, expected);
        self.tag.store(tag, Ordering::Relaxed);
        let answer = self.session.finish(tag, Duration::from_secs(30)).and_then(super::session::Answer::good);
        self.times.lock().unwrap().push(start.elapsed());
        answer.map(|answer| answer.data).map_err(|error| format!("steady: {cdb:02x?}: {error}"))
    }

    fn write(&mut self, piece: u32, round: u32) -> Result<(), String> {
        self.run(&write10(block(piece), BLOCKS), &content(piece, round), 0).map(drop)
    }

    fn verify(&mut self, piece: u32, round: u32) -> Result<(), String> {
        let data = self.run(&read10(block(piece), BLOCKS), &[], PIECE as u32)?;
        let is_right = data == content(piece, round);
        if is_right { Ok(()) } else { Err(format!("piece {piece} is not what round {round} wrote")) }
    }
}

const BLOCKS: u16 = (PIECE / BLOCK) as u16;

fn block(piece: u32) -> u32 {
    piece * u32::from(BLOCKS)
}

/// Each word tells its place and its round.
fn content(piece: u32, round: u32) -> Vec<u8> {
    let words =
        (0..PIECE as u32 / 8).map(|word| (u64::from(piece * 0x1_0000 + word) << 32) | u64::from(round));
    words.flat_map(u64::to_be_bytes).collect()
}

fn mix(n: u32) -> u32 {
    let mut z = n.wrapping_mul(0x9e37_79b1);
    z ^= z >> 15;
    z = z.wrapping_mul(0x85eb_ca77);
    z ^ z >> 13
}

/// Whether a good initiator can log in and read, and how long that took.
pub(crate) fn good_login(name: &str, n: usize, limit: Duration) -> Result<Duration, String> {
    let start = Instant::now();
    loop {
        let attempt = Peer::connect_within(limit.saturating_sub(start.elapsed()))
            .map_err(|error| error.to_string())
            .and_then(|peer| Session::open_with(peer, &Who::new(name, n), &[]))
            .and_then(|mut session| session.run(lun(0), &read10(0, 1), &[], 512)?.good());
        match attempt {
            Ok(_) => return Ok(start.elapsed()),
            Err(error) if start.elapsed() >= limit => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}
