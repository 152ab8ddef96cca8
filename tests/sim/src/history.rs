//! What each block may hold: the history of every write, and the rules that reads and flushes are held to.
//!
//! Every block that is written says which write it comes from, so that a read names its write. Two rules:
//!
//! - **Reads.** A value may be read unless a write that began after the value's own write had ended was acknowledged
//!   before the read began. A write *ends* when its initiator may rely on it changing nothing any more: with its
//!   status, with the answer to its abort, or with the login that replaces its session.
//! - **Flushes.** When a flush, or a write with FUA, is answered GOOD, what is on *stable* storage obeys the rule of
//!   reads as of the moment the flush began. That is the floor: from then on a crash cannot take the block below it.
//!
//! When the service loses its cache the blocks that rolled back count as written anew for reads; not so for flushes:
//! an initiator that has not been told of the loss must not hear GOOD, until it was told and has reset the unit.

use crate::random::mix;
use kernel_runtime::Instant;

/// What the service leaves where it trimmed.
const TRIMMED: u8 = 0xdd;

/// The name of a write.
pub(crate) type WriteId = usize;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Zeroes: never written, or written with zeroes.
    Zero,
    /// What a trim leaves.
    Trimmed,
    /// The bytes of that write.
    Of(WriteId),
}

/// A write of any kind.
#[derive(Clone, Debug)]
struct Write {
    unit: usize,
    first: usize,
    blocks: usize,
    invoked: Instant,
    acknowledged: Option<Instant>,
    ended: Option<Instant>,
    /// A hint leaves a block as it was, or not.
    is_hint: bool,
    /// It is the roll-back of a crash.
    is_loss: bool,
    /// Initiators, one per bit, that were told of the loss of this write: their flushes need not cover it.
    forgiven: u8,
}

/// The disks of the world.
pub(crate) struct History {
    block: usize,
    writes: Vec<Write>,
    /// For each unit and block the writes that touched it and what they leave there.
    touched: Vec<Vec<Vec<(WriteId, Value)>>>,
    reads: u64,
}

impl History {
    pub(crate) fn new(units: usize, blocks: usize, block: usize) -> Self {
        let mut history =
            Self { block, writes: Vec::new(), touched: vec![vec![Vec::new(); blocks]; units], reads: 0 };
        for unit in 0..units {
            let write = history.begin(unit, 0, blocks, Some(Value::Zero), Instant::ZERO);
            history.acknowledge(write, Instant::ZERO);
        }
        history
    }

    pub(crate) fn blocks(&self) -> usize {
        self.touched[0].len()
    }

    /// Blocks that were read and found right.
    pub(crate) fn reads(&self) -> u64 {
        self.reads
    }

    /// A write begins: of a value, or of its own bytes.
    pub(crate) fn begin(
        &mut self,
        unit: usize,
        first: usize,
        blocks: usize,
        value: Option<Value>,
        now: Instant,
    ) -> WriteId {
        let id = self.writes.len();
        self.writes.push(Write {
            unit,
            first,
            blocks,
            invoked: now,
            acknowledged: None,
            ended: None,
            is_hint: false,
            is_loss: false,
            forgiven: 0,
        });
        for block in &mut self.touched[unit][first..first + blocks] {
            block.push((id, value.unwrap_or(Value::Of(id))));
        }
        id
    }

    /// An UNMAP begins: its blocks keep what they hold, or read as zeroes or as what a trim leaves.
    pub(crate) fn begin_hint(&mut self, unit: usize, first: usize, blocks: usize, now: Instant) -> WriteId {
        let id = self.begin(unit, first, blocks, Some(Value::Zero), now);
        self.writes[id].is_hint = true;
        for block in &mut self.touched[unit][first..first + blocks] {
            block.push((id, Value::Trimmed));
        }
        id
    }

    /// The bytes of a write.
    pub(crate) fn bytes(&self, id: WriteId) -> Vec<u8> {
        let Write { unit, first, blocks, .. } = self.writes[id];
        let mut bytes = Vec::with_capacity(blocks * self.block);
        for block in first..first + blocks {
            fill(&mut bytes, self.block, id, unit, block);
        }
        bytes
    }

    /// The write that the bytes of a block are from, if it has bytes of its own.
    pub(crate) fn writer(&self, bytes: &[u8]) -> Option<WriteId> {
        let first = bytes.first_chunk().map_or(0, |word| u64::from_be_bytes(*word));
        (first >> 63 == 1 && bytes.iter().any(|&byte| byte != TRIMMED))
            .then_some((first & !(1 << 63)) as WriteId)
    }

    pub(crate) fn acknowledge(&mut self, id: WriteId, now: Instant) {
        let write = &mut self.writes[id];
        write.acknowledged = Some(now);
        write.ended = Some(now);
    }

    pub(crate) fn end(&mut self, id: WriteId, now: Instant) {
        self.writes[id].ended.get_or_insert(now);
    }

    /// A read that began at `invoked` found `data`.
    pub(crate) fn read(
        &mut self,
        unit: usize,
        first: usize,
        data: &[u8],
        invoked: Instant,
    ) -> Result<(), String> {
        for (index, bytes) in data.chunks(self.block).enumerate() {
            let block = first + index;
            let value = identify(bytes, self.writes.len(), unit, block)?;
            self.judge(unit, block, value, invoked, None)?;
            self.reads += 1;
        }
        Ok(())
    }

    /// A flush by `initiator` that began at `invoked` was answered GOOD while `durable` was on stable storage.
    pub(crate) fn flushed(
        &self,
        unit: usize,
        blocks: core::ops::Range<usize>,
        initiator: usize,
        durable: &[u8],
        invoked: Instant,
    ) -> Result<(), String> {
        for block in blocks {
            let bytes = &durable[block * self.block..][..self.block];
            let value = identify(bytes, self.writes.len(), unit, block)?;
            self.judge(unit, block, value, invoked, Some(initiator))
                .map_err(|reason| format!("flush of initiator {initiator} was a lie: {reason}"))?;
        }
        Ok(())
    }

    /// Whether `block` may hold `value` for somebody who looks at `invoked`.
    fn judge(
        &self,
        unit: usize,
        block: usize,
        value: Value,
        invoked: Instant,
        flush_of: Option<usize>,
    ) -> Result<(), String> {
        let all = &self.touched[unit][block];
        let mut reason = format!("unit {unit} block {block} holds {value:?}, which nobody wrote there");
        // What a crash has left is no write that a flush could mean.
        let is_meant = |id: WriteId| flush_of.is_none() || !self.writes[id].is_loss;
        for &(id, _) in all.iter().rev().filter(|(id, other)| *other == value && is_meant(*id)) {
            match all.iter().find(|&&(other, _)| self.overwrites(other, id, invoked, flush_of)) {
                None => return Ok(()),
                Some(&(newer, newest)) => {
                    reason = format!(
                        "unit {unit} block {block} holds {value:?} although {newest:?} was written over it: \
                         {:?}, then {:?}, seen by one who began at {invoked:?}",
                        self.writes[id], self.writes[newer]
                    );
                }
            }
        }
        Err(reason)
    }

    fn overwrites(&self, newer: WriteId, older: WriteId, seen: Instant, flush_of: Option<usize>) -> bool {
        let (new, old) = (&self.writes[newer], &self.writes[older]);
        let binding = match flush_of {
            // A loss concerns only what was acknowledged: what was not may still be sent again.
            None => !new.is_loss || old.acknowledged.is_some(),
            Some(initiator) => !new.is_loss && new.forgiven & 1 << initiator == 0,
        };
        binding
            && !new.is_hint
            && new.acknowledged.is_some_and(|at| at < seen)
            && old.ended.is_some_and(|at| at < new.invoked)
    }

    /// The service of `unit` lost its cache, and `durable` is what is left.
    pub(crate) fn rolled_back(
        &mut self,
        unit: usize,
        content: &[u8],
        durable: &[u8],
        now: Instant,
    ) -> Result<(), String> {
        for block in 0..self.blocks() {
            let range = block * self.block..(block + 1) * self.block;
            if content[range.clone()] == durable[range.clone()] {
                continue;
            }
            let value = identify(&durable[range], self.writes.len(), unit, block)?;
            let id = self.begin(unit, block, 1, Some(value), now);
            self.acknowledge(id, now);
            self.writes[id].is_loss = true;
        }
        Ok(())
    }

    /// `initiator` was told at `told` that what `unit` had acknowledged may be lost, and has taken note.
    pub(crate) fn forgive(&mut self, unit: usize, initiator: usize, told: Instant) {
        let is_meant =
            |write: &&mut Write| write.unit == unit && write.acknowledged.is_some_and(|at| at <= told);
        for write in self.writes.iter_mut().filter(is_meant) {
            write.forgiven |= 1 << initiator;
        }
    }

    /// The appliance restarted: every initiator is told so at its next command, and no longer counts on what was not
    /// flushed.
    pub(crate) fn forgive_unflushed(&mut self, unit: usize, durable: &[u8]) {
        for block in 0..self.blocks() {
            let bytes = &durable[block * self.block..][..self.block];
            let kept = identify(bytes, self.writes.len(), unit, block);
            for &(id, value) in &self.touched[unit][block] {
                if kept.as_ref() != Ok(&value) {
                    self.writes[id].forgiven = u8::MAX;
                }
            }
        }
    }
}

fn words(id: WriteId, unit: usize, block: usize) -> (u64, u64) {
    (id as u64 | 1 << 63, (unit as u64) << 56 | block as u64)
}

fn fill(bytes: &mut Vec<u8>, size: usize, id: WriteId, unit: usize, block: usize) {
    let (first, second) = words(id, unit, block);
    bytes.extend(first.to_be_bytes());
    bytes.extend(second.to_be_bytes());
    let mut word = mix(first ^ second.rotate_left(17)) | 1;
    for _ in 2..size / 8 {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d);
        bytes.extend(word.to_be_bytes());
    }
}

/// Which write the bytes of a block are from.
fn identify(bytes: &[u8], writes: usize, unit: usize, block: usize) -> Result<Value, String> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(Value::Zero);
    }
    if bytes.iter().all(|&byte| byte == TRIMMED) {
        return Ok(Value::Trimmed);
    }
    let word = |at: usize| bytes[at..].first_chunk().map_or(0, |word| u64::from_be_bytes(*word));
    let id = (word(0) & !(1 << 63)) as WriteId;
    let (is_unit, is_block) = ((word(8) >> 56) as usize, (word(8) & ((1 << 56) - 1)) as usize);
    let mut expected = Vec::with_capacity(bytes.len());
    fill(&mut expected, bytes.len(), id, is_unit, is_block);
    if id >= writes || expected != bytes {
        let same = expected.iter().zip(bytes).filter(|(a, b)| a == b).count();
        return Err(format!(
            "unit {unit} block {block} holds damaged bytes ({same} of {} right)",
            bytes.len()
        ));
    }
    if (is_unit, is_block) != (unit, block) {
        return Err(format!("unit {unit} block {block} holds the bytes of unit {is_unit} block {is_block}"));
    }
    Ok(Value::Of(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = 512;

    fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    fn world() -> (History, [Vec<u8>; 2], [WriteId; 2]) {
        let mut history = History::new(1, 4, BLOCK);
        let old = history.begin(0, 0, 1, None, at(10));
        history.acknowledge(old, at(20));
        let new = history.begin(0, 0, 1, None, at(30));
        let bytes = [history.bytes(old), history.bytes(new)];
        (history, bytes, [old, new])
    }

    #[test]
    fn a_read_sees_the_last_write_or_a_concurrent_one() {
        let (mut history, [old, new], [_, second]) = world();
        assert!(history.read(0, 0, &old, at(40)).is_ok());
        assert!(history.read(0, 0, &new, at(40)).is_ok());
        assert!(history.read(0, 0, &[0; BLOCK], at(40)).is_err(), "the first was acknowledged");
        history.acknowledge(second, at(50));
        assert!(history.read(0, 0, &old, at(45)).is_ok(), "the read began before");
        assert!(history.read(0, 0, &old, at(60)).is_err());
        assert!(history.read(0, 1, &new, at(60)).is_err(), "it belongs elsewhere");
        let mut damaged = new;
        damaged[300] ^= 1;
        assert!(history.read(0, 0, &damaged, at(60)).is_err());
    }

    #[test]
    fn a_write_that_ended_without_an_answer_never_comes_back_over_a_newer_one() {
        let (mut history, [_, ghost], [_, second]) = world();
        history.end(second, at(50));
        let third = history.begin(0, 0, 1, None, at(60));
        history.acknowledge(third, at(70));
        assert!(history.read(0, 0, &ghost, at(65)).is_ok());
        assert!(history.read(0, 0, &ghost, at(80)).is_err());
    }

    #[test]
    fn a_loss_is_told_before_a_flush_succeeds_again() {
        let (mut history, [old, new], [_, second]) = world();
        history.acknowledge(second, at(40));
        let disk = |block: &[u8]| [block, &[0; 3 * BLOCK]].concat();
        assert!(history.flushed(0, 0..4, 0, &disk(&old), at(35)).is_ok());
        assert!(history.flushed(0, 0..4, 0, &disk(&old), at(50)).is_err());
        history.rolled_back(0, &disk(&new), &disk(&old), at(60)).expect("well formed");
        assert!(history.read(0, 0, &old, at(70)).is_ok());
        assert!(history.read(0, 0, &new, at(70)).is_err(), "what is gone does not come back");
        assert!(history.flushed(0, 0..4, 0, &disk(&old), at(70)).is_err());
        history.forgive(0, 0, at(80));
        assert!(history.flushed(0, 0..4, 0, &disk(&old), at(90)).is_ok());
        assert!(history.flushed(0, 0..4, 1, &disk(&old), at(90)).is_err(), "the other was not told");
    }
}
