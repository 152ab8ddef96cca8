//! The split virtqueue (virtio 1.2 section 2.7).
//!
//! A queue owns the buffers it has given to the device and hands each back once. What the device writes is hostile: an
//! entry that cannot be is a [`Lie`], upon which the driver resets the device; no memory is reached by what it says,
//! because descriptors are never read back and lengths are held against our own record.
//!
//! Chains are laid out once: chain `c` is the descriptors from `c * parts`. So there is no list of free descriptors that
//! could be corrupted, and adding a buffer writes two words, one ring entry and the index.

mod layout;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};
use kernel_io::{Buffer, Direction, Error, Lent, Mmio, Ports, Shared};
pub(super) use layout::Layout;

/// VIRTQ_DESC_F_NEXT and VIRTQ_DESC_F_WRITE (section 2.7.5).
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// VIRTQ_AVAIL_F_NO_INTERRUPT and VIRTQ_USED_F_NO_NOTIFY: what is used without an event index (section 2.7.6).
const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// How a device broke the contract of its used ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Its index moved by more than it has been given.
    Index,
    /// It returned something that it does not have: out of range, never given, or returned before.
    Id,
    /// It claims to have written more than it was given.
    Length,
}

/// Where and how the device is told that a queue has something for it (section 4.1.4.4, section 4.2.2).
#[derive(Clone, Debug)]
pub(crate) enum Doorbell {
    /// 16 bits, as on PCI.
    Half(Mmio, u16),
    /// 32 bits, as on virtio-mmio.
    Word(Mmio, u16),
    /// 16 bits behind a port, as on PCI before virtio 1.0 (section 4.1.4.10).
    Port(Rc<Ports>, u16, u16),
}

impl Doorbell {
    pub(super) fn ring(&self) {
        match self {
            Self::Half(register, queue) => register.write16(0, *queue),
            Self::Word(register, queue) => register.write32(0, u32::from(*queue)),
            Self::Port(ports, port, queue) => ports.write16(*port, *queue),
        }
    }
}

/// One split virtqueue, from the driver's side.
#[derive(Debug)]
pub struct Queue {
    ring: Shared,
    layout: Layout,
    /// Descriptors per chain: 1, or 2 where a header needs one of its own.
    parts: u16,
    event_index: bool,
    direction: Direction,
    doorbell: Option<Doorbell>,
    /// What the device has, by chain.
    lent: Box<[Option<Lent>]>,
    /// Chains that are free; the last is used next.
    free: Vec<u16>,
    /// The index of the next entry of the available ring; it wraps at 16 bits, as the device's view of it does.
    available: u16,
    /// The index up to which the doorbell has been considered.
    announced: u16,
    /// The index of the next entry of the used ring.
    used: u16,
}

impl Queue {
    /// A queue of `size` descriptors, a power of two, for buffers that go one way. With `event_index` both sides say
    /// when they want to hear from the other; `parts` is 1 or 2.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn allocate(
        size: u16,
        parts: u16,
        event_index: bool,
        direction: Direction,
    ) -> Result<Self, Error> {
        assert!(size.is_power_of_two() && matches!(parts, 1 | 2) && parts <= size);
        let layout = Layout::new(size);
        let chains = size / parts;
        let mut queue = Self {
            ring: Shared::allocate(layout.length())?,
            layout,
            parts,
            event_index,
            direction,
            doorbell: None,
            lent: (0..chains).map(|_| None).collect(),
            free: Vec::with_capacity(chains.into()),
            available: 0,
            announced: 0,
            used: 0,
        };
        queue.clear();
        Ok(queue)
    }

    /// How many buffers the device can have at once.
    pub fn capacity(&self) -> usize {
        self.lent.len()
    }

    /// How many the device has.
    pub fn outstanding(&self) -> usize {
        self.lent.len() - self.free.len()
    }

    /// Descriptors.
    pub(crate) fn size(&self) -> u16 {
        self.layout.size
    }

    /// Addresses of descriptor table, available ring and used ring.
    pub(crate) fn addresses(&self) -> [u64; 3] {
        let start = self.ring.address();
        [0, self.layout.available, self.layout.used].map(|offset| start + offset as u64)
    }

    pub(crate) fn set_doorbell(&mut self, doorbell: Doorbell) {
        self.doorbell = Some(doorbell);
    }

    /// Give the first `length` bytes of `buffer` to the device, which may begin at once; [`Queue::notify`] makes sure
    /// that it does. `header` is how many of the bytes go into a descriptor of their own, where chains have two parts.
    ///
    /// # Errors
    /// The buffer, when the device has as many as it can.
    pub(crate) fn push(&mut self, buffer: Buffer, length: usize, header: usize) -> Result<(), Buffer> {
        assert!(header < length && length <= buffer.len() && u32::try_from(length).is_ok());
        let Some(chain) = self.free.pop() else { return Err(buffer) };
        let lent = buffer.lend(self.direction);
        if self.parts == 1 {
            self.describe(chain, lent.address(), length, 0);
        } else {
            let head = chain << 1;
            self.describe(head, lent.address(), header, NEXT);
            self.describe(head + 1, lent.address() + header as u64, length - header, 0);
        }
        self.offer(chain, lent);
        Ok(())
    }

    /// Make a chain that is described available to the device.
    #[inline]
    fn offer(&mut self, chain: u16, lent: Lent) {
        self.lent[usize::from(chain)] = Some(lent);
        // Without a product, whose overflow would have to be looked for.
        let head = if self.parts == 1 { chain } else { chain << 1 };
        self.ring.write16(self.layout.available_entry(self.available), head);
        self.available = self.available.wrapping_add(1);
        self.ring.write_index(self.layout.available_index(), self.available);
    }

    #[inline]
    fn describe(&self, descriptor: u16, address: u64, length: usize, next: u16) {
        let write = if self.direction == Direction::FromDevice { WRITE } else { 0 };
        let following = if next == NEXT { descriptor + 1 } else { 0 };
        let word = length as u64 | u64::from(next | write) << 32 | u64::from(following) << 48;
        self.ring.write_pair(self.layout.descriptor(descriptor), [address, word]);
    }

    /// Take back the next buffer that the device is done with, and how many bytes it says it has written.
    ///
    /// # Errors
    /// A [`Lie`]. The device must be reset then: see [`Queue::recover`].
    #[expect(clippy::inline_always, reason = "for each frame: what it answers is large")]
    #[inline(always)]
    pub(crate) fn pop(&mut self) -> Result<Option<(Buffer, usize)>, Lie> {
        Ok(self.next_used()?.map(|used| {
            let length = used.length;
            (used.take(), length)
        }))
    }

    /// The next buffer that the device is done with, where it lies.
    ///
    /// # Errors
    /// As for [`Queue::pop`].
    #[expect(clippy::inline_always, reason = "for each frame, and more so")]
    #[inline(always)]
    pub(crate) fn next_used(&mut self) -> Result<Option<Used<'_>>, Lie> {
        let index = self.ring.read_index(self.layout.used_index());
        let waiting = index.wrapping_sub(self.used);
        if waiting == 0 {
            return Ok(None);
        }
        if usize::from(waiting) > self.outstanding() {
            return Err(Lie::Index);
        }
        let [id, length] = self.ring.read_pair(self.layout.used_entry(self.used));
        // Without a division, which takes longer than all the rest: there are one or two parts.
        let chain = match self.parts {
            1 => id as usize,
            _ if id & 1 == 0 => (id >> 1) as usize,
            _ => usize::MAX,
        };
        let place = self.lent.get_mut(chain).ok_or(Lie::Id)?;
        let limit = place.as_ref().ok_or(Lie::Id)?.len();
        // What it writes into what it may only read is nothing, whatever it says; legacy devices say anything.
        let length = if self.direction == Direction::ToDevice { 0 } else { length as usize };
        if length > limit {
            return Err(Lie::Length);
        }
        let lent = place.take().ok_or(Lie::Id)?;
        self.used = self.used.wrapping_add(1);
        Ok(Some(Used { queue: self, lent, chain: chain as u16, length }))
    }

    /// Whether the device has returned something.
    #[inline]
    pub(crate) fn has_used(&self) -> bool {
        self.ring.read_index(self.layout.used_index()) != self.used
    }

    /// Tell the device what was given to it since the last call, if it wants to know. Answers whether it was told.
    pub(crate) fn notify(&mut self) -> bool {
        if self.available == self.announced {
            return false;
        }
        // The index must be visible before we look whether the device still polls: it does it the other way round.
        fence(Ordering::SeqCst);
        let wanted = if self.event_index {
            let event = self.ring.read16(self.layout.available_event());
            passed(event, self.available, self.announced)
        } else {
            self.ring.read16(self.layout.used) & NO_NOTIFY == 0
        };
        self.announced = self.available;
        if wanted && let Some(doorbell) = &self.doorbell {
            doorbell.ring();
        }
        wanted
    }

    /// Ask for an interrupt once the device has returned `count` more buffers, at least one. Answers `true` when it has
    /// returned some meanwhile: then the interrupt may never come.
    pub(crate) fn arm(&mut self, count: u16) -> bool {
        if self.event_index {
            let event = self.used.wrapping_add(count.max(1) - 1);
            self.ring.write16(self.layout.used_event(), event);
        } else {
            self.ring.write16(self.layout.available, 0);
        }
        // The wish must be visible before we look a last time: the device does it the other way round.
        fence(Ordering::SeqCst);
        self.has_used()
    }

    /// No interrupts any more until the next [`Queue::arm`]. An event index asks for one interrupt only, so with it
    /// there is nothing to take back.
    pub(crate) fn disarm(&mut self) {
        if !self.event_index {
            self.ring.write16(self.layout.available, NO_INTERRUPT);
        }
    }

    /// All buffers back, after the device has been reset; the queue is as new.
    ///
    /// # Safety
    /// The device must have been reset, or never have been told about the queue.
    pub(crate) unsafe fn recover(&mut self) -> Vec<Buffer> {
        let lent = self.lent.iter_mut().filter_map(Option::take);
        // SAFETY: the caller vouches for the reset.
        let buffers = lent.map(|lent| unsafe { lent.reclaim() }).collect();
        self.clear();
        buffers
    }

    /// As new, with no buffer at the device.
    fn clear(&mut self) {
        for offset in (0..self.layout.length()).step_by(8) {
            self.ring.write64(offset, 0);
        }
        (self.available, self.announced, self.used) = (0, 0, 0);
        self.free.clear();
        self.free.extend((0..self.lent.len() as u16).rev());
        // An index that was passed long ago, so that the first buffers raise nothing.
        self.ring.write16(self.layout.used_event(), u16::MAX);
        self.disarm();
    }
}

/// A buffer that the device has just returned. Unless it is taken or given to the device again it is lost.
pub(crate) struct Used<'a> {
    queue: &'a mut Queue,
    lent: Lent,
    chain: u16,
    /// How many bytes the device says it has written.
    length: usize,
}

impl Used<'_> {
    /// Let `f` look at what the device has written.
    #[inline]
    pub(crate) fn visit<R>(&mut self, f: impl FnOnce(&mut [u8]) -> R) -> R {
        let length = self.length;
        // SAFETY: the device has returned it just now, and cannot do so again: its place is empty, and filled by `again`
        // only, which takes `self`.
        unsafe { self.lent.visit(|bytes| f(&mut bytes[..length])) }
    }

    /// How many bytes the device says it has written.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    /// Take it from the queue.
    #[inline]
    pub(crate) fn take(self) -> Buffer {
        self.queue.free.push(self.chain);
        // SAFETY: as for `visit`.
        unsafe { self.lent.reclaim() }
    }

    /// Give it to the device again, as much of it as before: nothing needs to be described anew.
    #[inline]
    pub(crate) fn again(self) {
        self.queue.offer(self.chain, self.lent);
    }
}

/// Whether an index has passed `event` on its way from `old` to `new` (section 2.7.10.1). All three wrap at 16 bits, so
/// only distances can be compared.
pub(crate) fn passed(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}
