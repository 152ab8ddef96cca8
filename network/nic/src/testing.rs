//! A wire in memory between two stacks, for tests: it loses nothing.

use crate::{
    Checksum, Counters, Device, DeviceCapabilities, Medium, Nic, RxToken, SegmentationCapabilities, TxToken,
};
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::num::NonZeroUsize;

/// The longest frame of the network.
pub const FRAME: usize = 1514;

/// Frames on their way.
pub type Queue = Rc<RefCell<VecDeque<Vec<u8>>>>;

/// One end of a wire.
pub struct Wire {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Frames that come.
    pub incoming: Queue,
    /// Frames that go.
    pub outgoing: Queue,
    /// The longest frame that it takes; what is longer than the network's are segments to be cut.
    pub longest: usize,
    /// How many frames may be on their way before it takes no more.
    pub depth: usize,
    /// Until when it takes and brings nothing, and forgets what comes.
    pub rests: Rc<Cell<Option<crate::Instant>>>,
    /// What went through it.
    pub counters: Counters,
}

impl Wire {
    /// Whether frames go either way.
    fn is_up(&self, now: crate::Instant) -> bool {
        if self.rests.get().is_some_and(|until| now >= until) {
            self.rests.set(None);
        }
        self.rests.get().is_none()
    }

    /// Both ends of one, with these numbers at the end of their addresses.
    pub fn pair(numbers: [u8; 2]) -> [Self; 2] {
        let (there, back) = (Queue::default(), Queue::default());
        let end = |number, incoming: &Queue, outgoing: &Queue| Self {
            mac: [2, 0, 0, 0, 0, number],
            incoming: incoming.clone(),
            outgoing: outgoing.clone(),
            longest: FRAME,
            depth: usize::MAX,
            rests: Rc::default(),
            counters: Counters::default(),
        };
        [end(numbers[0], &there, &back), end(numbers[1], &back, &there)]
    }
}

/// A frame that has come.
pub struct Rx(Vec<u8>);
/// Room for a frame that goes.
pub struct Tx(Queue);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.borrow_mut().push_back(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx;

    fn receive(&mut self, now: crate::Instant) -> Option<(Rx, Tx)> {
        if !self.is_up(now) {
            self.incoming.borrow_mut().clear();
        }
        let frame = self.incoming.borrow_mut().pop_front()?;
        self.counters.received += 1;
        Some((Rx(frame), Tx(self.outgoing.clone())))
    }

    fn transmit(&mut self, now: crate::Instant) -> Option<Tx> {
        (self.is_up(now) && self.outgoing.borrow().len() < self.depth).then(|| Tx(self.outgoing.clone()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities.checksum.tcp = Checksum::Both;
        capabilities.segmentation = SegmentationCapabilities::default();
        if self.longest > FRAME {
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(self.longest);
            capabilities.checksum.tcp = Checksum::None;
        }
        capabilities
    }
}

impl Nic for Wire {
    fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn flush(&mut self) {}

    fn arm(&mut self) -> bool {
        !self.incoming.borrow().is_empty()
    }

    fn rests_until(&self) -> Option<crate::Instant> {
        self.rests.get()
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
