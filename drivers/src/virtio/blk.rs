//! virtio-blk (virtio 1.2 section 5.2): one disk, one request at a time, flushed when asked.
//!
//! It is for a disk that little is written to and that must not lose it, so everything is simple: three descriptors that
//! never change their place, and memory that only volatile accesses reach, whatever the device does to it meanwhile. What
//! the device says is held against the one request that it has. A device that breaks its contract, or does not answer in
//! time, is reset, and rests for a second.

#[cfg(test)]
mod tests;

use super::queue::{Doorbell, Layout, Lie};
use super::{Device, feature};
use crate::Error;
use crate::Location;
use core::mem::ManuallyDrop;
use core::sync::atomic::{Ordering, fence};
use core::task::Poll;
use kernel_io::Shared;

/// All we have a use for. Without FLUSH what is written is durable (section 5.2.5.2).
const WANTED: u64 = feature::BLK_FLUSH | feature::BLK_RO | feature::ANY_LAYOUT;
/// The queue, and how many descriptors of it: a power of two with room for the three of a request.
const REQUESTS: u16 = 0;
const SIZE: u16 = 4;
/// VIRTQ_DESC_F_NEXT and VIRTQ_DESC_F_WRITE (section 2.7.5), and VIRTQ_AVAIL_F_NO_INTERRUPT (section 2.7.6).
const NEXT: u64 = 1;
const WRITE: u64 = 2;
const NO_INTERRUPT: u16 = 1;
/// Kinds of request (section 5.2.6).
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
/// The one status that is good; no status is this other one.
const OK: u8 = 0;
const UNWRITTEN: u64 = 0xff;
/// Bytes of a sector, of a request's header, and of an identification.
const SECTOR: u64 = 512;
const HEADER: usize = 16;
const ID: usize = 20;
/// How long a request may take, in microseconds: initiators wait longer, and a disk that needs more has failed.
const PATIENCE: u64 = 10_000_000;
/// How long a device rests after a reset.
const REST: u64 = 1_000_000;

/// What is asked of a disk. Offsets are in bytes, and whole sectors.
#[derive(Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Read from there on.
    Read(u64, &'a mut [u8]),
    /// Write from there on. It is durable after a flush.
    Write(u64, &'a [u8]),
    /// Make durable whatever was written.
    Flush,
}

/// The request has failed, or whether it has is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// The device has a request, which may write so many bytes of data, until then.
    Busy {
        writes: usize,
        until: u64,
    },
    /// Stopped; it gets another chance then.
    Resting {
        until: u64,
    },
    /// It does not come out of reset. What it has is never used again.
    Dead,
}

/// A virtio block device.
pub struct Block {
    device: Device,
    /// The ring, then header, status and data.
    memory: ManuallyDrop<Shared>,
    layout: Layout,
    doorbell: Option<Doorbell>,
    features: u64,
    /// Bytes.
    size: u64,
    id: [u8; ID],
    /// The most bytes of a request.
    longest: usize,
    state: State,
    /// The index of the next entry of both rings: there is never more than one.
    index: u16,
}

impl Block {
    /// Bring up a disk for requests of at most `longest` bytes, and learn what it is called.
    ///
    /// # Errors
    /// See [`Error`]; the device is left reset then.
    pub(crate) fn new(mut device: Device, longest: usize) -> Result<Self, Error> {
        let features = device.negotiate(WANTED)?;
        let layout = Layout::new(device.ring_size(REQUESTS, SIZE)?);
        let length =
            layout.length().next_multiple_of(HEADER) + 2 * HEADER + longest.max(ID).next_multiple_of(8);
        let memory = ManuallyDrop::new(Shared::allocate(length)?);
        let (state, id, index) = (State::Idle, [0; ID], 0);
        let mut block =
            Self { device, memory, layout, doorbell: None, features, size: 0, id, longest, state, index };
        block.start()?;
        block.size = u64::from_le_bytes(block.device.configuration(0)?).saturating_mul(SECTOR);
        block.begin(GET_ID, 0, ID, 0);
        let mut answer = Poll::Pending;
        kernel_io::wait(PATIENCE as u32, || {
            answer = block.look(0);
            answer.is_ready()
        });
        // One that has no name is nobody's, but no less a disk.
        if answer == Poll::Ready(Ok(())) {
            let mut id = [0; ID];
            block.take(&mut id);
            block.id = id;
        } else if answer.is_pending() {
            return Err(Error::Reset);
        }
        log::info!("{}: virtio-blk {:?}, {} KiB", block.device.location(), block.serial(), block.size >> 10);
        Ok(block)
    }

    /// Where it was found.
    pub fn location(&self) -> Location {
        self.device.location()
    }

    /// What its maker calls it: up to twenty characters, none if it does not say.
    pub fn serial(&self) -> &str {
        let end = self.id.iter().position(|byte| *byte == 0).unwrap_or(ID);
        core::str::from_utf8(&self.id[..end]).unwrap_or_default()
    }

    /// Its bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether it can only be read.
    pub fn is_read_only(&self) -> bool {
        self.features & feature::BLK_RO != 0
    }

    /// Carry out a request; `now` is a time in microseconds. Called again with the same one, and no other, until it has
    /// ended: within ten seconds.
    ///
    /// # Errors
    /// As told at [`Failed`].
    pub fn carry(&mut self, request: Request<'_>, now: u64) -> Poll<Result<(), Failed>> {
        if let State::Resting { until } = self.state
            && now >= until
        {
            self.state =
                if self.restart().is_ok() { State::Idle } else { State::Resting { until: now + REST } };
        }
        match self.state {
            State::Busy { .. } => {}
            State::Resting { .. } | State::Dead => return Poll::Ready(Err(Failed)),
            State::Idle => {
                let (kind, offset, length) = match &request {
                    Request::Read(offset, into) => (IN, *offset, into.len()),
                    Request::Write(offset, bytes) => (OUT, *offset, bytes.len()),
                    Request::Flush if self.features & feature::BLK_FLUSH == 0 => return Poll::Ready(Ok(())),
                    Request::Flush => (FLUSH, 0, 0),
                };
                let is_whole = (offset | length as u64).is_multiple_of(SECTOR) && length <= self.longest;
                let end = offset.checked_add(length as u64);
                if !is_whole || end.is_none_or(|end| end > self.size) {
                    return Poll::Ready(Err(Failed));
                }
                if let Request::Write(_, bytes) = &request {
                    self.put(bytes);
                }
                self.begin(kind, offset / SECTOR, length, now);
            }
        }
        let answer = self.look(now);
        if answer == Poll::Ready(Ok(()))
            && let Request::Read(_, into) = request
        {
            self.take(into);
        }
        answer
    }

    /// The machine is about to idle: have it woken when the request ends. Answers `true` if it has already.
    pub fn arm(&mut self) -> bool {
        // Whatever it was about, it wakes nobody twice.
        let _ = self.device.acknowledge();
        if !matches!(self.state, State::Busy { .. }) {
            return false;
        }
        self.memory.write16(self.layout.available, 0);
        // The wish must be visible before we look a last time: the device does it the other way round.
        fence(Ordering::SeqCst);
        self.used() != self.index
    }

    /// When [`Block::carry`] is to be called at the latest, in microseconds.
    pub fn deadline(&self) -> Option<u64> {
        match self.state {
            State::Busy { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Where header, status and data lie.
    fn places(&self) -> [usize; 3] {
        let header = self.layout.length().next_multiple_of(HEADER);
        [header, header + HEADER, header + 2 * HEADER]
    }

    fn used(&self) -> u16 {
        self.memory.read_index(self.layout.used_index())
    }

    /// Give the device a request with so many bytes of data.
    fn begin(&mut self, kind: u32, sector: u64, length: usize, now: u64) {
        let [header, status, data] = self.places();
        let is_read = kind != OUT && length > 0;
        let (ring, layout) = (&self.memory, &self.layout);
        ring.write64(header, kind.into());
        ring.write64(header + 8, sector);
        ring.write64(status, UNWRITTEN);
        let address = |place: usize| ring.address() + place as u64;
        let describe = |descriptor: u16, place, length: usize, flags: u64| {
            let next = if flags & NEXT != 0 { u64::from(descriptor) + 1 } else { 0 };
            let word = length as u64 | flags << 32 | next << 48;
            ring.write_pair(layout.descriptor(descriptor), [address(place), word]);
        };
        describe(0, header, HEADER, NEXT);
        if length > 0 {
            describe(1, data, length, NEXT | if is_read { WRITE } else { 0 });
        }
        describe(if length > 0 { 2 } else { 1 }, status, 1, WRITE);
        ring.write16(layout.available, NO_INTERRUPT);
        ring.write16(layout.available_entry(self.index), 0);
        ring.write_index(layout.available_index(), self.index.wrapping_add(1));
        fence(Ordering::SeqCst);
        if let Some(doorbell) = &self.doorbell {
            doorbell.ring();
        }
        self.state = State::Busy { writes: if is_read { length } else { 0 }, until: now + PATIENCE };
    }

    /// What has become of the request.
    fn look(&mut self, now: u64) -> Poll<Result<(), Failed>> {
        let State::Busy { writes, until } = self.state else { return Poll::Ready(Err(Failed)) };
        let returned = self.used().wrapping_sub(self.index);
        if returned == 0 {
            if now < until && !self.device.needs_reset() {
                return Poll::Pending;
            }
            self.stop(now, None);
            return Poll::Ready(Err(Failed));
        }
        let [id, length] = self.memory.read_pair(self.layout.used_entry(self.index));
        let lie = match () {
            () if returned != 1 => Some(Lie::Index),
            () if id != 0 => Some(Lie::Id),
            () if length as usize > writes + 1 => Some(Lie::Length),
            () => None,
        };
        if lie.is_some() {
            self.stop(now, lie);
            return Poll::Ready(Err(Failed));
        }
        self.index = self.index.wrapping_add(1);
        self.state = State::Idle;
        let [_, status, _] = self.places();
        Poll::Ready(if self.memory.read64(status) as u8 == OK { Ok(()) } else { Err(Failed) })
    }

    /// Put bytes where the device reads them.
    fn put(&self, bytes: &[u8]) {
        let [.., data] = self.places();
        for (index, word) in bytes.as_chunks::<8>().0.iter().enumerate() {
            self.memory.write64(data + 8 * index, u64::from_ne_bytes(*word));
        }
    }

    /// Take bytes from where the device has written them.
    fn take(&self, into: &mut [u8]) {
        let [.., data] = self.places();
        for (index, word) in into.chunks_mut(8).enumerate() {
            let bytes = self.memory.read64(data + 8 * index).to_ne_bytes();
            word.copy_from_slice(&bytes[..word.len()]);
        }
    }

    #[cold]
    fn stop(&mut self, now: u64, lie: Option<Lie>) {
        log::warn!("{}: reset: lie {lie:?}, or no answer", self.device.location());
        self.state = match self.device.reset() {
            Ok(()) => State::Resting { until: now + REST },
            Err(_) => State::Dead,
        };
    }

    /// Everything as new, after the device was reset.
    fn restart(&mut self) -> Result<(), Error> {
        // Nothing else than the first time: whether it needs a flush must not change.
        if self.device.negotiate(WANTED)? != self.features {
            return Err(Error::Features);
        }
        self.start()
    }

    fn start(&mut self) -> Result<(), Error> {
        for offset in (0..self.layout.length()).step_by(8) {
            self.memory.write64(offset, 0);
        }
        self.index = 0;
        let start = self.memory.address();
        let addresses = [0, self.layout.available, self.layout.used].map(|offset| start + offset as u64);
        self.doorbell = Some(self.device.attach_rings(REQUESTS, self.layout.size, addresses)?);
        self.device.start();
        Ok(())
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: `self` is being dropped, so it is not used again.
        let memory = unsafe { ManuallyDrop::take(&mut self.memory) };
        // A device that cannot be stopped keeps what it has: dropping frees nothing.
        if self.device.reset().is_ok() {
            // SAFETY: the device has just been reset.
            unsafe { memory.free() };
        }
    }
}
