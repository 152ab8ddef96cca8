//! An initiator that writes for a while, and what must be on the disk afterwards.

use crate::engine::{SIZE, qemu_io, unit};
use image_launch::process::{self, Process};
use image_launch::stage::Stage;
use image_launch::{Error, Result, wait};
use std::time::{Duration, Instant};

/// Bytes of one block; each carries one byte's value all over.
const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = SIZE / BLOCK;
/// As long as an outage may be, and more.
const LIMIT: Duration = Duration::from_secs(180);
/// Writes between two flushes.
const FLUSH: u32 = 7;

/// Which blocks are written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Blocks {
    /// Some of them again and again, also those that were in flight or unflushed when something broke.
    Again,
    /// Each once. What was in flight when a connection was lost keeps newer writes to its place waiting until nobody
    /// can execute it late; with these, nothing waits for that.
    Once,
}

impl Blocks {
    /// The writes, numbered from 0: block and value of each.
    fn nth(self, n: u32) -> (u64, u8) {
        let block = match self {
            Self::Again => u64::from(n % 97) * 5 % BLOCKS,
            Self::Once => u64::from(n) * 5 % BLOCKS,
        };
        (block, (n % 251) as u8 + 1)
    }
}

/// One session of one initiator, writing.
pub(crate) struct Load {
    initiator: Process,
    blocks: Blocks,
    writes: u32,
}

impl Load {
    /// Starts `writes` writes of 64 KiB with `pause` after each, every seventh followed by a flush, each eleventh with
    /// FUA.
    pub(crate) fn start(stage: &Stage, blocks: Blocks, writes: u32, pause: Duration) -> Self {
        let mut commands = Vec::new();
        for n in 0..writes {
            let (block, value) = blocks.nth(n);
            let fua = if n % 11 == 0 { "-f " } else { "" };
            commands.push(format!("write {fua}-P {value} {} {BLOCK}", block * BLOCK));
            if n % FLUSH == FLUSH - 1 {
                commands.push("flush".into());
            }
            commands.push(format!("sleep {}", pause.as_millis()));
        }
        commands.push("flush".into());
        let command = qemu_io(&stage.net, &unit(stage).url(), &commands);
        let initiator = Process::start("initiator", command, &stage.scratch.file("initiator.log")).unwrap();
        Self { initiator, blocks, writes }
    }

    /// Waits until so many writes were answered.
    pub(crate) fn reached(&mut self, count: u32) {
        let what = format!("write {count} of {}", self.writes);
        let reached = wait::until(what, LIMIT, || {
            let there = self.done() >= count;
            if !there {
                self.initiator.must_run()?;
            }
            Ok(there.then_some(()))
        });
        reached.unwrap_or_else(|error| panic!("{error}\n{}", self.initiator.tail()));
    }

    /// Writes answered so far.
    fn done(&self) -> u32 {
        let text = self.initiator.output();
        u32::try_from(text.lines().filter(|line| line.starts_with("wrote ")).count()).unwrap()
    }

    /// Waits for the end: every write and flush must have succeeded. What it wrote, and how long the longest three
    /// writes took.
    pub(crate) fn finish(mut self) -> (Written, [Duration; 3]) {
        let status =
            self.initiator.wait(LIMIT).unwrap_or_else(|error| panic!("{error}\n{}", self.initiator.tail()));
        let text = self.initiator.output();
        assert!(status.success() && !text.contains("fail"), "the initiator saw an error ({status}):\n{text}");
        assert_eq!(self.done(), self.writes, "{text}");
        let written = Written { blocks: self.blocks, writes: self.writes };
        let mut times: Vec<Duration> = text.lines().filter_map(took).collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        (written, [times[0], times[1], times[2]])
    }
}

/// What must be on the disk.
pub(crate) struct Written {
    blocks: Blocks,
    writes: u32,
}

impl Written {
    /// Reads every block through the appliance.
    pub(crate) fn must_be_read(&self, stage: &Stage) {
        expect(qemu_io(&stage.net, &unit(stage).url(), &self.reads())).unwrap();
    }

    /// Reads every block at `url`, past the appliance.
    pub(crate) fn must_be_at(&self, stage: &Stage, url: &str) {
        expect(qemu_io(&stage.net, url, &self.reads())).unwrap();
    }

    /// A read of each block with the value it must have.
    fn reads(&self) -> Vec<String> {
        let mut values = vec![0; usize::try_from(BLOCKS).unwrap()];
        for (block, value) in (0..self.writes).map(|n| self.blocks.nth(n)) {
            values[usize::try_from(block).unwrap()] = value;
        }
        (0..).zip(values).map(|(block, value)| format!("read -P {value} {} {BLOCK}", block * BLOCK)).collect()
    }
}

fn expect(command: std::process::Command) -> Result<()> {
    let output = process::run(command, LIMIT)?;
    if output.code != 0 || output.text().contains("fail") {
        return Error::because(output.text());
    }
    Ok(())
}

/// The time in a line such as `64 KiB, 1 ops; 00.02 sec (2.4 MiB/sec and 38.5 ops/sec)`.
fn took(line: &str) -> Option<Duration> {
    let time = line.split_once(" ops; ")?.1.split(' ').next()?;
    let seconds = time.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?));
    Duration::try_from_secs_f64(seconds?).ok()
}

/// Waits for `what` and says how long it took.
pub(crate) fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let value = what();
    (value, start.elapsed())
}

#[test]
fn the_time_of_an_operation_is_read_in_each_of_its_forms() {
    let time = |text: &str| took(text).map(|time| time.as_millis());
    assert_eq!(time("64 KiB, 1 ops; 00.02 sec (2.438 MiB/sec and 39.0 ops/sec)"), Some(20));
    assert_eq!(time("64 KiB, 1 ops; 00:01:02.50 (1 KiB/sec and 0.0160 ops/sec)"), Some(62_500));
    assert_eq!(time("wrote 65536/65536 bytes at offset 0"), None);
}
