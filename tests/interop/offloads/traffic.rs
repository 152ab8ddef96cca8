//! A session with much under way: reads and writes of all lengths at random places, every sector of them compared.

use crate::hostile::peer::{Peer, Who};
use crate::hostile::session::{Answer, BLOCK, BUSY, SYNCHRONIZE_CACHE, Session, lun, read10, write10};
use std::collections::VecDeque;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes of its disk, and sectors.
pub(crate) const SIZE: u64 = 16 << 20;
const SECTORS: u32 = (SIZE / BLOCK as u64) as u32;
/// Commands under way at a time.
const DEPTH: usize = 16;
/// Sectors that are written at a time, unless it is a single write: what an appliance of any size has room for. Data for
/// which it has none may end a command with BUSY.
const ROOM: usize = 1024;
/// No answer takes as long, whatever is lost on its way.
const PATIENCE: Duration = Duration::from_secs(30);
/// Commands from one ping to the next.
const BETWEEN_PINGS: u64 = 64;

/// A read or a write that is under way.
struct Operation {
    tag: u32,
    range: Range<u32>,
    /// Which write it is; `None` is a read.
    write: Option<u32>,
    start: Instant,
}

/// The session, and what it knows of its disk.
pub(crate) struct Traffic {
    pub(crate) session: Session,
    /// By sector: the write it is from.
    written: Vec<u32>,
    under_way: VecDeque<Operation>,
    writes: u32,
    /// Whether an operation may be told to try again, and how many were.
    pub(crate) is_patient: bool,
    told_again: u64,
    random: u64,
    /// Commands that have ended well, the bytes they moved, and the longest of them.
    pub(crate) commands: u64,
    pub(crate) pings: u64,
    bytes: [u64; 2],
    longest: Duration,
}

impl Traffic {
    /// Logs in.
    pub(crate) fn start(who: &Who) -> Self {
        Self::start_on(Peer::connect(), who)
    }

    /// Logs in on a connection that stands, and writes all of the disk.
    pub(crate) fn start_on(peer: Peer, who: &Who) -> Self {
        let mut traffic = Self {
            session: Session::open_with(peer, who, &[]).unwrap(),
            written: vec![0; SECTORS as usize],
            under_way: VecDeque::new(),
            writes: 0,
            is_patient: false,
            told_again: 0,
            random: 0,
            commands: 0,
            pings: 0,
            bytes: [0; 2],
            longest: Duration::ZERO,
        };
        traffic.stream(SIZE, true, 512).unwrap();
        traffic
    }

    /// Reads or writes so many bytes in pieces of so many sectors.
    pub(crate) fn stream(&mut self, bytes: u64, is_write: bool, piece: u32) -> Result<(), String> {
        for n in 0..bytes.div_ceil(u64::from(piece) * BLOCK as u64) {
            let first = (n % u64::from(SECTORS / piece)) as u32 * piece;
            self.begin(first..first + piece, is_write)?;
        }
        self.drain()
    }

    /// Works for a time with pieces from a sector to a MiB.
    pub(crate) fn work(&mut self, time: Duration) -> Result<(), String> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let random = self.random();
            let count = match random >> 16 & 7 {
                0 => 1 + (random >> 24) as u32 % 8,
                1..=3 => 8,
                4 | 5 => 1 + (random >> 24) as u32 % 256,
                6 => 512,
                _ => 2048,
            };
            let first = (self.random() % u64::from(SECTORS - count + 1)) as u32;
            self.begin(first..first + count, random.is_multiple_of(2))?;
            if self.commands.is_multiple_of(256) {
                self.run(&SYNCHRONIZE_CACHE)?;
            }
        }
        self.drain()
    }

    /// All that was written is as it was written: as it is read, and after a flush in the file behind the disk. No
    /// operation may have taken longer than `bound`.
    pub(crate) fn end(mut self, file: &Path, bound: Duration) -> Result<(), String> {
        for first in (0..SECTORS).step_by(512) {
            self.begin(first..first + 512, false)?;
        }
        self.drain()?;
        self.run(&SYNCHRONIZE_CACHE)?;
        let bytes = fs::read(file).map_err(|error| error.to_string())?;
        self.compare(0..SECTORS, &bytes)?;
        let [read, written] = self.bytes.map(|bytes| bytes >> 20);
        println!(
            "traffic: {} commands, {} told to try again, {read} MiB read, {written} MiB written, {} pings, longest operation {:?}",
            self.commands, self.told_again, self.pings, self.longest
        );
        assert!(self.told_again <= self.commands / 4, "{} of {}", self.told_again, self.commands);
        assert!(self.longest < bound, "{:?}", self.longest);
        Ok(())
    }

    /// Begins an operation once there is room for it, and nothing under way that it overlaps.
    fn begin(&mut self, range: Range<u32>, is_write: bool) -> Result<(), String> {
        while self.must_wait(&range, is_write) {
            self.finish_oldest()?;
        }
        self.writes += u32::from(is_write);
        let write = is_write.then_some(self.writes);
        self.bytes[usize::from(is_write)] += (range.len() * BLOCK) as u64;
        self.send(range, write, Instant::now());
        self.commands += 1;
        if self.commands.is_multiple_of(BETWEEN_PINGS) {
            self.pings += 1;
            self.longest = self.longest.max(self.session.ping()?);
        }
        Ok(())
    }

    fn send(&mut self, range: Range<u32>, write: Option<u32>, start: Instant) {
        let (first, count) = (range.start, u16::try_from(range.len()).unwrap());
        let tag = if let Some(write) = write {
            let data: Vec<u8> = range.clone().flat_map(|sector| words(sector, write)).collect();
            self.session.begin(lun(0), &write10(first, count), &data, 0)
        } else {
            let expected = u32::try_from(range.len() * BLOCK).unwrap();
            self.session.begin(lun(0), &read10(first, count), &[], expected)
        };
        self.under_way.push_back(Operation { tag, range, write, start });
    }

    fn must_wait(&self, range: &Range<u32>, is_write: bool) -> bool {
        let overlaps = |other: &Operation| other.range.start < range.end && range.start < other.range.end;
        let writes = self.under_way.iter().filter(|other| other.write.is_some());
        let written: usize = writes.map(|other| other.range.len()).sum();
        let is_much = is_write && written > 0 && written + range.len() > ROOM;
        self.under_way.len() >= DEPTH || is_much || self.under_way.iter().any(overlaps)
    }

    fn drain(&mut self) -> Result<(), String> {
        while !self.under_way.is_empty() {
            self.finish_oldest()?;
        }
        Ok(())
    }

    fn finish_oldest(&mut self) -> Result<(), String> {
        let Some(Operation { tag, range, write, start }) = self.under_way.pop_front() else { return Ok(()) };
        let answer = self.session.finish(tag, PATIENCE);
        if self.is_patient && answer.as_ref().is_ok_and(|answer| answer.status == BUSY) {
            // Nobody else has the sectors meanwhile, and what it has written of them it writes again.
            self.told_again += 1;
            self.send(range, write, start);
            return Ok(());
        }
        let answer = answer.and_then(Answer::good);
        let answer = answer.map_err(|error| format!("sectors {range:?}, write {write:?}: {error}"))?;
        self.longest = self.longest.max(start.elapsed());
        match write {
            Some(write) => {
                let sectors = range.start as usize..range.end as usize;
                self.written[sectors].fill(write);
                Ok(())
            }
            None => self.compare(range, &answer.data),
        }
    }

    /// Runs a command without data.
    fn run(&mut self, cdb: &[u8; 16]) -> Result<(), String> {
        let start = Instant::now();
        let tag = self.session.begin(lun(0), cdb, &[], 0);
        self.session.finish(tag, PATIENCE).and_then(Answer::good)?;
        self.longest = self.longest.max(start.elapsed());
        self.commands += 1;
        Ok(())
    }

    fn compare(&self, range: Range<u32>, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() != range.len() * BLOCK {
            return Err(format!("{} bytes of sectors {range:?}", bytes.len()));
        }
        for (sector, bytes) in range.zip(bytes.chunks_exact(BLOCK)) {
            let write = self.written[sector as usize];
            if !words(sector, write).eq(bytes.iter().copied()) {
                let begin = &bytes[..16];
                return Err(format!("sector {sector} is not what write {write} wrote: {begin:02x?}"));
            }
        }
        Ok(())
    }

    /// SplitMix64: the same traffic every time.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        crate::kills::block::mix(self.random)
    }
}

/// The bytes of a sector: each word tells its place and its write.
fn words(sector: u32, write: u32) -> impl Iterator<Item = u8> {
    let first = u64::from(sector) * (BLOCK as u64 / 8);
    (first..).take(BLOCK / 8).flat_map(move |place| (place << 32 | u64::from(write)).to_be_bytes())
}
