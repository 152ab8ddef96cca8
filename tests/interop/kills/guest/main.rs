//! The load in the Linux guest: writes, reads and syncs of a disk without a cache of the guest's own, several at a time,
//! each answer compared with what was acknowledged before.
//!
//! `load DEVICE PORT [again]`: `again` goes on with the blocks as they are. PORT is a channel to the test outside. Out go lines: `floor BLOCK:WRITE ...` (after a sync: what it
//! has made durable since the last), `status ...` each second, and at the end `done ...` or `failed ...`. In comes `stop`.
//! While the guest lives, a block holds its last acknowledged write, whatever happens to the storage service; no call
//! ever fails.
#![forbid(unsafe_code)]

mod block;

use block::{BLOCK, fill, mix, write_of};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Blocks that are worked on, from the first of the disk.
const BLOCKS: usize = 4096;
/// Of these, so many get half of the writes.
const HOT: u64 = 64;
/// Calls at a time.
const THREADS: u64 = 8;
/// Blocks of the longest call.
const LONGEST: u64 = 8;
/// `O_DIRECT` on x86-64.
const O_DIRECT: i32 = 0o40_000;

/// What is known of one block.
#[derive(Default)]
struct Known {
    /// Held by whoever writes it.
    turn: Mutex<()>,
    issued: AtomicU64,
    acknowledged: AtomicU64,
}

struct Load {
    device: File,
    blocks: Vec<Known>,
    next: AtomicU64,
    stop: AtomicBool,
    /// Why it was wrong.
    wrong: Mutex<Option<String>>,
    writes: AtomicU64,
    reads: AtomicU64,
    syncs: AtomicU64,
    /// The longest call, in milliseconds.
    longest: AtomicU64,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (Some(device), Some(port)) = (words.next(), words.next()) else {
        eprintln!("load DEVICE PORT [again]");
        return ExitCode::FAILURE;
    };
    match run(&device, &port, words.next().is_some()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("load: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(device: &str, port: &str, again: bool) -> Result<(), String> {
    let open = |path: &str, flags| {
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
        file.map_err(|error| format!("{path}: {error}"))
    };
    let orders = open(port, 0)?;
    let mut reports = orders.try_clone().map_err(|error| error.to_string())?;
    let load = Load {
        device: open(device, O_DIRECT)?,
        blocks: (0..BLOCKS).map(|_| Known::default()).collect(),
        next: AtomicU64::new(1),
        stop: AtomicBool::new(false),
        wrong: Mutex::new(None),
        writes: AtomicU64::new(0),
        reads: AtomicU64::new(0),
        syncs: AtomicU64::new(0),
        longest: AtomicU64::new(0),
    };
    let load = &*Box::leak(Box::new(load));
    if again {
        load.look()?;
    }
    thread::spawn(move || {
        let lines = BufReader::new(orders).lines().map_while(Result::ok);
        for _ in lines.filter(|line| line == "stop") {
            load.stop.store(true, Ordering::SeqCst);
        }
    });
    let workers: Vec<_> =
        (0..THREADS).map(|number| thread::spawn(move || load.guard(|| load.work(number)))).collect();
    load.guard(|| load.report(&mut reports));
    for worker in workers {
        let _ = worker.join();
    }
    load.guard(|| load.finish(&mut reports));
    let wrong = load.wrong.lock().unwrap_or_else(PoisonError::into_inner).take();
    let last = match &wrong {
        None => format!("done {}", load.figures()),
        Some(reason) => format!("failed {reason}"),
    };
    say(&mut reports, &last)?;
    wrong.map_or(Ok(()), Err)
}

fn say(reports: &mut File, line: &str) -> Result<(), String> {
    // One call a line: the port has no buffer of ours.
    reports.write_all(format!("{line}\n").as_bytes()).map_err(|error| format!("the port: {error}"))
}

/// A piece of memory as `O_DIRECT` wants it.
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let bytes = vec![0; length + BLOCK];
        let start = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, start }
    }

    fn of(&mut self, blocks: u64) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + blocks as usize * BLOCK]
    }
}

impl Load {
    /// Notes the first thing that is wrong, and ends everything.
    fn guard(&self, work: impl FnOnce() -> Result<(), String>) {
        if let Err(reason) = work() {
            self.wrong.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
            self.stop.store(true, Ordering::SeqCst);
        }
    }

    /// Takes what is there for what was acknowledged.
    fn look(&self) -> Result<(), String> {
        const AT_ONCE: u64 = 64;
        let mut memory = Aligned::new(AT_ONCE as usize * BLOCK);
        let mut number = 0;
        for some in self.blocks.chunks(AT_ONCE as usize) {
            let bytes = memory.of(some.len() as u64);
            self.call("a read", || self.device.read_exact_at(bytes, number * BLOCK as u64))?;
            for (known, bytes) in some.iter().zip(bytes.chunks_exact(BLOCK)) {
                let write = write_of(bytes, number)?;
                known.issued.store(write, Ordering::SeqCst);
                known.acknowledged.store(write, Ordering::SeqCst);
                self.next.fetch_max(write + 1, Ordering::SeqCst);
                number += 1;
            }
        }
        Ok(())
    }

    fn figures(&self) -> String {
        let figure = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        let (writes, reads, syncs) = (figure(&self.writes), figure(&self.reads), figure(&self.syncs));
        format!("writes={writes} reads={reads} syncs={syncs} longest={}", figure(&self.longest))
    }

    /// Makes a call, which must succeed, and notes how long it took.
    fn call<T>(&self, what: &str, call: impl FnOnce() -> std::io::Result<T>) -> Result<T, String> {
        let start = Instant::now();
        let outcome = call();
        self.longest.fetch_max(start.elapsed().as_millis() as u64, Ordering::SeqCst);
        outcome.map_err(|error| format!("{what} after {:?}: {error}", start.elapsed()))
    }

    fn work(&self, number: u64) -> Result<(), String> {
        let mut memory = Aligned::new(LONGEST as usize * BLOCK);
        let mut seed = mix(number);
        let mut random = |below: u64| {
            seed = mix(seed);
            seed % below
        };
        while !self.stop.load(Ordering::SeqCst) {
            let among = if random(2) == 0 { HOT } else { BLOCKS as u64 };
            let first = random(among);
            let longest = if random(4) == 0 { LONGEST } else { 1 };
            let count = (1 + random(longest)).min(BLOCKS as u64 - first);
            match random(4) {
                0 => self.read(first, &mut memory)?,
                1 => self.read_beside_writes(first, &mut memory)?,
                _ => self.write(first, count, &mut memory)?,
            }
        }
        Ok(())
    }

    /// Writes blocks that nobody else writes just now.
    fn write(&self, first: u64, count: u64, memory: &mut Aligned) -> Result<(), String> {
        let blocks = &self.blocks[first as usize..(first + count) as usize];
        let mut turns = Vec::new();
        for block in blocks {
            let Ok(turn) = block.turn.try_lock() else { return Ok(()) };
            turns.push(turn);
        }
        let write = self.next.fetch_add(1, Ordering::SeqCst);
        let bytes = memory.of(count);
        for ((known, bytes), number) in blocks.iter().zip(bytes.chunks_exact_mut(BLOCK)).zip(first..) {
            fill(bytes, number, write);
            known.issued.store(write, Ordering::SeqCst);
        }
        self.call("a write", || self.device.write_all_at(bytes, first * BLOCK as u64))?;
        for known in blocks {
            known.acknowledged.store(write, Ordering::SeqCst);
        }
        self.writes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Reads a block that nobody writes just now: it must be its last write.
    fn read(&self, number: u64, memory: &mut Aligned) -> Result<(), String> {
        let known = &self.blocks[number as usize];
        let Ok(_turn) = known.turn.try_lock() else { return Ok(()) };
        self.compare(number, memory, known.acknowledged.load(Ordering::SeqCst))
    }

    fn compare(&self, number: u64, memory: &mut Aligned, expected: u64) -> Result<(), String> {
        let bytes = memory.of(1);
        self.call("a read", || self.device.read_exact_at(bytes, number * BLOCK as u64))?;
        self.reads.fetch_add(1, Ordering::SeqCst);
        match write_of(bytes, number)? {
            found if found == expected => Ok(()),
            found => Err(format!("block {number} holds write {found}, and {expected} was acknowledged")),
        }
    }

    /// Reads a block that may be written meanwhile: it is at least as new as what was acknowledged before.
    fn read_beside_writes(&self, number: u64, memory: &mut Aligned) -> Result<(), String> {
        let known = &self.blocks[number as usize];
        let oldest = known.acknowledged.load(Ordering::SeqCst);
        let bytes = memory.of(1);
        self.call("a read", || self.device.read_exact_at(bytes, number * BLOCK as u64))?;
        self.reads.fetch_add(1, Ordering::SeqCst);
        let newest = known.issued.load(Ordering::SeqCst);
        match write_of(bytes, number) {
            Ok(found) if (oldest..=newest).contains(&found) => Ok(()),
            // A disk promises nothing about a read during a write of the same block.
            Err(_) if newest > oldest => Ok(()),
            Ok(found) => Err(format!("block {number} holds write {found}, not one of {oldest} to {newest}")),
            Err(reason) => Err(reason),
        }
    }

    /// Syncs now and then, and tells what that has made durable.
    fn report(&self, reports: &mut File) -> Result<(), String> {
        let mut floor = vec![0; BLOCKS];
        let mut told = Instant::now();
        let mut pause = 7;
        while !self.stop.load(Ordering::SeqCst) {
            pause = mix(pause);
            thread::sleep(Duration::from_millis(20 + pause % 200));
            self.sync(&mut floor, reports)?;
            if told.elapsed() >= Duration::from_secs(1) {
                told = Instant::now();
                say(reports, &format!("status {}", self.figures()))?;
            }
        }
        Ok(())
    }

    fn sync(&self, floor: &mut [u64], reports: &mut File) -> Result<(), String> {
        let covered: Vec<u64> =
            self.blocks.iter().map(|known| known.acknowledged.load(Ordering::SeqCst)).collect();
        self.call("a sync", || self.device.sync_data())?;
        self.syncs.fetch_add(1, Ordering::SeqCst);
        let mut line = String::from("floor");
        for (number, (old, new)) in floor.iter_mut().zip(covered).enumerate() {
            if *old != new {
                *old = new;
                let _ = write!(line, " {number}:{new}");
            }
        }
        say(reports, &line)
    }

    /// Everything is where it belongs, and all of it durable.
    fn finish(&self, reports: &mut File) -> Result<(), String> {
        let mut memory = Aligned::new(BLOCK);
        for (number, known) in (0..).zip(&self.blocks) {
            self.compare(number, &mut memory, known.acknowledged.load(Ordering::SeqCst))?;
        }
        self.sync(&mut vec![0; BLOCKS], reports)
    }
}
