//! What each sector may hold: the history of every write, and the rules that reads and flushes are held to.
//!
//! Every sector that is written says which write it comes from, so that a read names its write. The rules:
//!
//! - **Reads.** A value may be read unless a write that began after the value's own write had ended was acknowledged
//!   before the read began. A write *ends* when its initiator may rely on it changing nothing any more: with its
//!   status, with the answer to its abort, or with the login that replaces its session.
//! - **Flushes.** When a flush, or a write with FUA, is answered GOOD, what is on *stable* storage obeys the rule of
//!   reads as of the moment the flush began. That is the floor: from then on no crash can take the sector below it.
//! - **Restarts.** What was acknowledged and is not on stable storage when the appliance restarts is *excused*: a
//!   service that loses its cache may forget it, once. Nothing else that was acknowledged is ever lost.

use crate::random::mix;
use kernel_runtime::Instant;
use std::collections::BTreeSet;

/// Bytes that are read and written as a whole or not at all, whatever the size of a block.
pub(crate) const SECTOR: usize = 512;
/// What the service leaves where it trimmed.
const TRIMMED: u8 = 0xdd;

/// The name of a write.
pub(crate) type WriteId = usize;

/// What a sector holds.
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
    sectors: usize,
    invoked: Instant,
    acknowledged: Option<Instant>,
    ended: Option<Instant>,
    /// Its abort was answered.
    aborted: Option<Instant>,
    /// The sectors for which a service has answered that it is done, one per bit.
    executed: u128,
    /// A hint leaves a sector as it was, or not.
    is_hint: bool,
    /// It is the roll-back of a crash.
    is_loss: bool,
}

/// One who looks at what is there.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// When he began to.
    seen: Instant,
    /// He is told what is on stable storage.
    is_flush: bool,
    /// He knows what restarts of the appliance have excused.
    is_excusing: bool,
    /// This write has to be there already.
    forced: Option<WriteId>,
}

impl Look {
    const fn at(seen: Instant) -> Self {
        Self { seen, is_flush: true, is_excusing: true, forced: None }
    }
}

/// The disks of the world.
pub(crate) struct History {
    /// Sectors in a block.
    scale: usize,
    writes: Vec<Write>,
    /// For each unit and sector the writes that touched it and what they leave there.
    touched: Vec<Vec<Vec<(WriteId, Value)>>>,
    /// When each unit was last given a write.
    begun: Vec<Instant>,
    /// Values that a COMPARE AND WRITE has replaced: each can be replaced once.
    swapped: BTreeSet<(usize, usize, WriteId)>,
    /// Which roll-back has ended which write.
    lost: BTreeSet<(WriteId, WriteId)>,
    /// Of which writes a restart of the appliance has excused the loss: unit, sector and name.
    excused: BTreeSet<(usize, usize, WriteId)>,
    reads: u64,
}

impl History {
    pub(crate) fn new(units: usize, sectors: usize, block: usize) -> Self {
        let mut history = Self {
            scale: block / SECTOR,
            writes: Vec::new(),
            touched: vec![vec![Vec::new(); sectors]; units],
            begun: vec![Instant::ZERO; units],
            swapped: BTreeSet::new(),
            lost: BTreeSet::new(),
            excused: BTreeSet::new(),
            reads: 0,
        };
        for unit in 0..units {
            let write = history.begin_sectors(unit, 0, sectors, Some(Value::Zero), Instant::ZERO);
            history.acknowledge(write, Instant::ZERO);
        }
        history
    }

    pub(crate) fn sectors(&self) -> usize {
        self.touched[0].len()
    }

    /// Sectors that were read and found right.
    pub(crate) fn reads(&self) -> u64 {
        self.reads
    }

    /// Whether an initiator has begun to write to `unit` since then.
    pub(crate) fn has_begun_since(&self, unit: usize, then: Instant) -> bool {
        self.begun[unit] > then
    }

    /// A write of some blocks begins: of a value, or of its own bytes.
    pub(crate) fn begin(
        &mut self,
        unit: usize,
        first: usize,
        blocks: usize,
        value: Option<Value>,
        now: Instant,
    ) -> WriteId {
        self.begun[unit] = now;
        self.begin_sectors(unit, first * self.scale, blocks * self.scale, value, now)
    }

    fn begin_sectors(
        &mut self,
        unit: usize,
        first: usize,
        sectors: usize,
        value: Option<Value>,
        now: Instant,
    ) -> WriteId {
        let id = self.writes.len();
        self.writes.push(Write {
            unit,
            first,
            sectors,
            invoked: now,
            acknowledged: None,
            ended: None,
            aborted: None,
            executed: 0,
            is_hint: false,
            is_loss: false,
        });
        for sector in &mut self.touched[unit][first..first + sectors] {
            sector.push((id, value.unwrap_or(Value::Of(id))));
        }
        id
    }

    /// An UNMAP begins: its blocks keep what they hold, or read as zeroes or as what a trim leaves.
    pub(crate) fn begin_hint(&mut self, unit: usize, first: usize, blocks: usize, now: Instant) -> WriteId {
        let id = self.begin(unit, first, blocks, Some(Value::Zero), now);
        self.writes[id].is_hint = true;
        let Write { first, sectors, .. } = self.writes[id];
        for sector in &mut self.touched[unit][first..first + sectors] {
            sector.push((id, Value::Trimmed));
        }
        id
    }

    /// The bytes of a write.
    pub(crate) fn bytes(&self, id: WriteId) -> Vec<u8> {
        let Write { unit, first, sectors, .. } = self.writes[id];
        let mut bytes = vec![0; sectors * SECTOR];
        for (index, bytes) in bytes.chunks_mut(SECTOR).enumerate() {
            for (place, word) in bytes.chunks_mut(8).zip(words(id, unit, first + index)) {
                place.copy_from_slice(&word.to_be_bytes());
            }
        }
        bytes
    }

    /// A service has answered that it wrote these bytes.
    pub(crate) fn executed(&mut self, first: usize, bytes: &[u8]) {
        for (index, bytes) in bytes.chunks(SECTOR).enumerate() {
            if let Some(write) = writer(bytes).and_then(|id| self.writes.get_mut(id)) {
                let place = (first + index).wrapping_sub(write.first) as u32;
                write.executed |= 1u128.checked_shl(place).unwrap_or(0);
            }
        }
    }

    /// Whether a service has answered that it wrote all bytes of a write.
    pub(crate) fn is_executed(&self, id: WriteId) -> bool {
        let write = &self.writes[id];
        write.executed.count_ones() as usize == write.sectors
    }

    pub(crate) fn acknowledge(&mut self, id: WriteId, now: Instant) {
        let Write { unit, first, sectors, .. } = self.writes[id];
        let is_of_former_life =
            (first..first + sectors).any(|sector| self.excused.contains(&(unit, sector, id)));
        let write = &mut self.writes[id];
        // An answer that was sent before a restart and is heard after it promises no more than one heard before.
        write.acknowledged = (!is_of_former_life).then_some(now);
        write.ended = Some(now);
    }

    pub(crate) fn end(&mut self, id: WriteId, now: Instant) {
        self.writes[id].ended.get_or_insert(now);
    }

    /// The abort of a write was answered.
    pub(crate) fn abort(&mut self, id: WriteId, now: Instant) {
        self.end(id, now);
        self.writes[id].aborted = Some(now);
    }

    /// When the initiator was told that this write is aborted, if it was.
    pub(crate) fn aborted(&self, id: WriteId) -> Option<Instant> {
        self.writes.get(id).and_then(|write| write.aborted)
    }

    /// Whether a request may carry these bytes to `unit`: each sector is one that an initiator has sent there, or zeroes.
    pub(crate) fn check_payload(&self, unit: usize, first: usize, bytes: &[u8]) -> Result<(), String> {
        for (index, bytes) in bytes.chunks(SECTOR).enumerate() {
            identify(bytes, self.writes.len(), unit, first + index)?;
        }
        Ok(())
    }

    /// A read that began at `invoked` found `data` from the block `first` on.
    pub(crate) fn read(
        &mut self,
        unit: usize,
        first: usize,
        data: &[u8],
        invoked: Instant,
    ) -> Result<(), String> {
        for (index, bytes) in data.chunks(SECTOR).enumerate() {
            let sector = first * self.scale + index;
            let value = identify(bytes, self.writes.len(), unit, sector)?;
            self.judge(unit, sector, value, Look { is_flush: false, ..Look::at(invoked) })?;
            self.reads += 1;
        }
        Ok(())
    }

    /// A flush that began at `invoked` was answered GOOD while `durable` was on stable storage.
    pub(crate) fn flushed(&mut self, unit: usize, durable: &[u8], invoked: Instant) -> Result<(), String> {
        self.is_durable(unit, 0..self.sectors(), durable, Look::at(invoked))
    }

    /// A write with FUA was answered GOOD while `durable` was on stable storage: what it has overwritten must not be there
    /// any more.
    pub(crate) fn forced(&mut self, id: WriteId, durable: &[u8]) -> Result<(), String> {
        let Write { unit, first, sectors, invoked, .. } = self.writes[id];
        let look = Look { forced: Some(id), ..Look::at(invoked) };
        self.is_durable(unit, first..first + sectors, durable, look)
    }

    fn is_durable(
        &mut self,
        unit: usize,
        sectors: core::ops::Range<usize>,
        durable: &[u8],
        look: Look,
    ) -> Result<(), String> {
        for sector in sectors {
            let value = identify(at(durable, sector), self.writes.len(), unit, sector)?;
            self.judge(unit, sector, value, look).map_err(|reason| format!("a flush was a lie: {reason}"))?;
            // It is on stable storage, so that it is not to be lost any more.
            for (id, _) in self.touched[unit][sector].iter().filter(|(_, other)| *other == value) {
                self.excused.remove(&(unit, sector, *id));
            }
        }
        Ok(())
    }

    /// Whether `sector` may hold `value` for somebody who looks.
    fn judge(&self, unit: usize, sector: usize, value: Value, look: Look) -> Result<(), String> {
        let all = &self.touched[unit][sector];
        // What a crash has left is no write that a flush could mean.
        let is_meant = |id: WriteId| !look.is_flush || !self.writes[id].is_loss;
        let mut found = None;
        for &(id, _) in all.iter().rev().filter(|(id, other)| *other == value && is_meant(*id)) {
            match all.iter().find(|&&(other, _)| self.overwrites((unit, sector), other, id, look)) {
                None => return Ok(()),
                Some(&newer) => found = Some((id, newer)),
            }
        }
        let Some((id, (newer, newest))) = found else {
            return Err(format!("unit {unit} sector {sector} holds {value:?}, which nobody wrote there"));
        };
        Err(format!(
            "unit {unit} sector {sector} holds {value:?} although {newest:?} was written over it: {:?}, then {:?}, seen \
             by {look:?}",
            self.writes[id], self.writes[newer]
        ))
    }

    fn overwrites(&self, place: (usize, usize), newer: WriteId, older: WriteId, look: Look) -> bool {
        let (new, old) = (&self.writes[newer], &self.writes[older]);
        let binding = if look.is_flush {
            !new.is_loss && !(look.is_excusing && self.excused.contains(&(place.0, place.1, newer)))
        } else {
            // A loss concerns only what it has ended: all else may still be sent, or written, again.
            !new.is_loss || self.lost.contains(&(newer, older))
        };
        binding
            && !new.is_hint
            && (look.forced == Some(newer) || new.acknowledged.is_some_and(|at| at < look.seen))
            && old.ended.is_some_and(|at| at < new.invoked)
    }

    /// The service of `unit` lost its cache, and `durable` is what is left.
    pub(crate) fn rolled_back(&mut self, unit: usize, durable: &[u8], now: Instant) -> Result<(), String> {
        for sector in 0..self.sectors() {
            let value = identify(at(durable, sector), self.writes.len(), unit, sector)?;
            // What was acknowledged and is not excused the appliance has to write again, and nobody may see it before;
            // where nothing acknowledged is lost there is nothing to excuse.
            let is_allowed =
                |is_excusing| self.judge(unit, sector, value, Look { is_excusing, ..Look::at(now) }).is_ok();
            if is_allowed(false) || !is_allowed(true) {
                continue;
            }
            let ended: Vec<WriteId> = self.touched[unit][sector].iter().map(|(id, _)| *id).collect();
            let id = self.begin_sectors(unit, sector, 1, Some(value), now);
            let excused = ended.into_iter().filter(|old| self.excused.contains(&(unit, sector, *old)));
            self.lost.extend(excused.map(|old| (id, old)));
            self.acknowledge(id, now);
            self.writes[id].is_loss = true;
            // What was replaced may be there again.
            self.swapped.clear();
        }
        Ok(())
    }

    /// A COMPARE AND WRITE has replaced a value. Answers whether it was the first to do so.
    pub(crate) fn replace(&mut self, unit: usize, block: usize, value: WriteId) -> bool {
        self.swapped.insert((unit, block, value))
    }

    /// The appliance restarted while the service held `content`, and `durable` of it on stable storage: no initiator
    /// counts any more on what was not flushed. What is gone already will not come back.
    pub(crate) fn excuse_unflushed(
        &mut self,
        unit: usize,
        content: &[u8],
        durable: &[u8],
        now: Instant,
    ) -> Result<(), String> {
        for sector in 0..self.sectors() {
            let kept = identify(at(durable, sector), self.writes.len(), unit, sector)?;
            let all = &self.touched[unit][sector];
            // A hint leaves one of several values.
            let is_kept = |id: WriteId| all.iter().any(|(other, value)| *other == id && *value == kept);
            let lost = all.iter().filter(|(id, _)| !is_kept(*id));
            self.excused.extend(lost.map(|(id, _)| (unit, sector, *id)));
        }
        self.rolled_back(unit, content, now)
    }
}

fn at(disk: &[u8], sector: usize) -> &[u8] {
    &disk[sector * SECTOR..][..SECTOR]
}

/// The words of a sector: which write, which place, and what follows from both.
fn words(id: WriteId, unit: usize, sector: usize) -> impl Iterator<Item = u64> {
    let (first, second) = (id as u64 | 1 << 63, (unit as u64) << 56 | sector as u64);
    let mut word = mix(first ^ second.rotate_left(17)) | 1;
    [first, second].into_iter().chain(core::iter::from_fn(move || {
        word = word.wrapping_mul(0x5851_f42d_4c95_7f2d);
        Some(word)
    }))
}

/// The write that the first bytes are from, if they are from one and not zeroes or trimmed.
pub(crate) fn writer(bytes: &[u8]) -> Option<WriteId> {
    let first = bytes.first_chunk().map_or(0, |word| u64::from_be_bytes(*word));
    let is_trimmed = first == u64::from_be_bytes([TRIMMED; 8]);
    (first >> 63 == 1 && !is_trimmed).then_some((first & !(1 << 63)) as WriteId)
}

/// Which write the bytes of a sector are from.
fn identify(bytes: &[u8], writes: usize, unit: usize, sector: usize) -> Result<Value, String> {
    for (byte, value) in [(0, Value::Zero), (TRIMMED, Value::Trimmed)] {
        if bytes[0] == byte && bytes.iter().all(|other| *other == byte) {
            return Ok(value);
        }
    }
    let word = |at: usize| bytes[at..].first_chunk().map_or(0, |word| u64::from_be_bytes(*word));
    let id = (word(0) & !(1 << 63)) as WriteId;
    let (is_unit, is_sector) = ((word(8) >> 56) as usize, (word(8) & ((1 << 56) - 1)) as usize);
    let is_whole = bytes
        .as_chunks()
        .0
        .iter()
        .zip(words(id, is_unit, is_sector))
        .all(|(bytes, word)| u64::from_be_bytes(*bytes) == word);
    if id >= writes || !is_whole {
        return Err(format!("unit {unit} sector {sector} holds damaged bytes: {:02x?}...", &bytes[..32]));
    }
    if (is_unit, is_sector) != (unit, sector) {
        return Err(format!(
            "unit {unit} sector {sector} holds the bytes of unit {is_unit} sector {is_sector}"
        ));
    }
    Ok(Value::Of(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: usize = SECTOR;

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
    fn what_was_acknowledged_is_there_after_a_crash_and_after_a_flush() {
        let (mut history, [old, new], [_, second]) = world();
        history.acknowledge(second, at(40));
        let disk = |sector: &[u8]| [sector, &[0; 3 * SECTOR]].concat();
        assert!(history.flushed(0, &disk(&old), at(35)).is_ok());
        assert!(history.flushed(0, &disk(&old), at(50)).is_err());
        history.rolled_back(0, &disk(&old), at(60)).expect("well formed");
        assert!(history.read(0, 0, &old, at(70)).is_err(), "nothing excuses this");
        assert!(history.read(0, 0, &new, at(70)).is_ok(), "it was written again");
        assert!(history.flushed(0, &disk(&old), at(70)).is_err());
        assert!(history.flushed(0, &disk(&new), at(70)).is_ok());
    }

    #[test]
    fn a_restart_excuses_one_loss_of_what_was_not_flushed() {
        let (mut history, [old, new], [_, second]) = world();
        history.acknowledge(second, at(40));
        let disk = |sector: &[u8]| [sector, &[0; 3 * SECTOR]].concat();
        history.excuse_unflushed(0, &disk(&new), &disk(&old), at(45)).expect("well formed");
        assert!(history.read(0, 0, &old, at(50)).is_err(), "the service still has it");
        history.rolled_back(0, &disk(&old), at(60)).expect("well formed");
        assert!(history.read(0, 0, &old, at(70)).is_ok());
        assert!(history.read(0, 0, &new, at(70)).is_err(), "what is gone does not come back");
        assert!(history.flushed(0, &disk(&old), at(70)).is_ok());
    }

    #[test]
    fn what_was_lost_before_a_restart_is_excused_by_it() {
        let (mut history, [old, new], [_, second]) = world();
        history.acknowledge(second, at(40));
        let disk = |sector: &[u8]| [sector, &[0; 3 * SECTOR]].concat();
        history.rolled_back(0, &disk(&old), at(50)).expect("well formed");
        assert!(history.read(0, 0, &old, at(60)).is_err(), "the appliance has to write it again");
        history.excuse_unflushed(0, &disk(&old), &disk(&old), at(70)).expect("well formed");
        assert!(history.read(0, 0, &old, at(80)).is_ok());
        assert!(history.read(0, 0, &new, at(80)).is_err());
    }

    #[test]
    fn what_was_acknowledged_since_a_restart_comes_back_after_a_loss() {
        let (mut history, [old, new], [_, second]) = world();
        history.acknowledge(second, at(40));
        let disk = |sector: &[u8]| [sector, &[0; 3 * SECTOR]].concat();
        history.excuse_unflushed(0, &disk(&new), &disk(&old), at(45)).expect("well formed");
        let hint = history.begin_hint(0, 0, 1, at(50));
        history.acknowledge(hint, at(55));
        history.rolled_back(0, &disk(&old), at(60)).expect("well formed");
        assert!(history.read(0, 0, &[0; SECTOR], at(70)).is_ok(), "it was written again");
        assert!(history.read(0, 0, &old, at(70)).is_ok(), "or not: it was a hint");
        assert!(history.read(0, 0, &new, at(70)).is_err());
    }

    #[test]
    fn what_was_excused_and_then_flushed_is_not_excused_any_more() {
        let (mut history, [old, new], [_, second]) = world();
        history.acknowledge(second, at(40));
        let disk = |sector: &[u8]| [sector, &[0; 3 * SECTOR]].concat();
        history.excuse_unflushed(0, &disk(&new), &disk(&old), at(45)).expect("well formed");
        assert!(history.flushed(0, &disk(&new), at(50)).is_ok());
        assert!(history.flushed(0, &disk(&old), at(60)).is_err());
    }

    #[test]
    fn a_write_with_fua_is_there_at_once() {
        let (mut history, [old, new], [_, second]) = world();
        let disk = |sector: &[u8]| [sector, &[0; 3 * SECTOR]].concat();
        assert!(history.forced(second, &disk(&old)).is_err());
        assert!(history.forced(second, &disk(&new)).is_ok());
    }
}
