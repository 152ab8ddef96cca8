//! A simulated Ethernet wire between two NICs: frames take time, and some do worse than arrive late.

use crate::random::{Random, mix};
use kernel_runtime::Instant;
use network_nic::{Counters, Device, DeviceCapabilities, Medium, Nic, RxToken, TxToken};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Frames that may be under way in one direction; what comes on top is lost, as in a full switch.
const QUEUE: usize = 512;
/// Bytes of an Ethernet header, which the wire itself protects.
const ETHERNET_HEADER: usize = 14;
const IPV4: [u8; 2] = [8, 0];
/// Bytes of a frame that only data fill.
const FULL: usize = 1200;

/// How a wire treats frames. The shares are in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quality {
    pub(crate) loss: u32,
    pub(crate) duplication: u32,
    pub(crate) corruption: u32,
    /// Damage that no checksum of TCP shows.
    pub(crate) forgery: u32,
    pub(crate) reordering: u32,
    /// The time every frame takes, in microseconds, and what chance may add.
    pub(crate) latency: u64,
    pub(crate) jitter: u64,
}

impl Quality {
    pub(crate) const fn clean() -> Self {
        Self { loss: 0, duplication: 0, corruption: 0, forgery: 0, reordering: 0, latency: 30, jitter: 20 }
    }
}

/// One direction of a wire.
struct Direction {
    queue: BTreeMap<(Instant, u64), Vec<u8>>,
    last: Instant,
    is_cut: bool,
}

struct Inner {
    random: Random,
    directions: [Direction; 2],
    quality: Quality,
    frames: u64,
    /// Stands for all that ever went over the wire: two runs are the same when this is.
    digest: u64,
}

/// The wire. Clones are the same wire.
#[derive(Clone)]
pub(crate) struct Wire {
    inner: Rc<RefCell<Inner>>,
    now: Rc<Cell<Instant>>,
}

/// One end of a wire.
pub(crate) struct Port {
    wire: Wire,
    end: usize,
    counters: Counters,
}

impl Wire {
    pub(crate) fn new(random: Random, quality: Quality, now: Rc<Cell<Instant>>) -> Self {
        let direction = || Direction { queue: BTreeMap::new(), last: Instant::ZERO, is_cut: false };
        let directions = [direction(), direction()];
        let inner = Inner { random, directions, quality, frames: 0, digest: 0 };
        Self { inner: Rc::new(RefCell::new(inner)), now }
    }

    /// The NIC at end 0 or 1.
    pub(crate) fn port(&self, end: usize) -> Port {
        Port { wire: self.clone(), end, counters: Counters::default() }
    }

    pub(crate) fn set_quality(&self, quality: Quality) {
        self.inner.borrow_mut().quality = quality;
    }

    /// Let nothing through that is sent towards `end`, or everything again.
    pub(crate) fn cut(&self, end: usize, is_cut: bool) {
        self.inner.borrow_mut().directions[end].is_cut = is_cut;
    }

    /// The NIC at `end` lost what it had received.
    pub(crate) fn clear(&self, end: usize) {
        self.inner.borrow_mut().directions[end].queue.clear();
    }

    /// When the next frame arrives at one of these ends.
    pub(crate) fn next_due(&self, ends: std::ops::Range<usize>) -> Option<Instant> {
        let inner = self.inner.borrow();
        inner.directions[ends]
            .iter()
            .filter_map(|direction| direction.queue.keys().next())
            .map(|key| key.0)
            .min()
    }

    pub(crate) fn frames(&self) -> u64 {
        self.inner.borrow().frames
    }

    pub(crate) fn digest(&self) -> u64 {
        self.inner.borrow().digest
    }

    fn send(&self, towards: usize, mut frame: Vec<u8>) {
        let now = self.now.get();
        let Inner { random, directions, quality, frames, digest } = &mut *self.inner.borrow_mut();
        let direction = &mut directions[towards];
        *frames += 1;
        *digest = mix(*digest ^ now.as_micros() ^ (frame.len() as u64) << 48 ^ towards as u64);
        if direction.is_cut || random.chance(quality.loss) || direction.queue.len() >= QUEUE {
            return;
        }
        let late = Duration::from_micros(quality.latency + random.below(quality.jitter + 1));
        let mut due = now + late;
        if random.chance(quality.reordering) {
            due = due + Duration::from_micros(random.below(20 * quality.latency + 1000));
        } else {
            due = due.max(direction.last);
            direction.last = due;
        }
        if random.chance(quality.duplication) {
            let again = due + Duration::from_micros(random.below(2 * quality.latency + 1000));
            direction.queue.insert((again, *frames << 1 | 1), frame.clone());
        }
        if random.chance(quality.corruption) && frame.len() > ETHERNET_HEADER && frame[12..14] == IPV4 {
            let place = ETHERNET_HEADER + random.below((frame.len() - ETHERNET_HEADER) as u64) as usize;
            frame[place] ^= 1 << random.below(8);
        }
        if random.chance(quality.forgery) {
            forge(random, &mut frame);
        }
        direction.queue.insert((due, *frames << 1), frame);
    }

    fn take(&self, end: usize) -> Option<Vec<u8>> {
        let queue = &mut self.inner.borrow_mut().directions[end].queue;
        let first = queue.first_entry()?;
        (first.key().0 <= self.now.get()).then(|| first.remove())
    }

    fn has_due(&self, end: usize) -> bool {
        let inner = self.inner.borrow();
        inner.directions[end].queue.keys().next().is_some_and(|key| key.0 <= self.now.get())
    }
}

/// Swap two words of the payload, which leaves the checksum as it is. Only segments that are full are meant: what is
/// said at login is shorter and has no digests yet.
fn forge(random: &mut Random, frame: &mut [u8]) {
    const TCP: u8 = 6;
    if frame.len() < FULL || frame[12..14] != IPV4 || frame[23] != TCP {
        return;
    }
    let tcp = ETHERNET_HEADER + usize::from(frame[ETHERNET_HEADER] & 0x0f) * 4;
    let payload = tcp + usize::from(frame[tcp + 12] >> 4) * 4;
    let words = (frame.len() - payload) as u64 / 2;
    let [first, second] = [(); 2].map(|()| payload + random.below(words) as usize * 2);
    frame.swap(first, second);
    frame.swap(first + 1, second + 1);
}

/// A frame that arrived.
pub(crate) struct Received(Vec<u8>);

/// A place for a frame to be sent.
pub(crate) struct Sending {
    wire: Wire,
    towards: usize,
}

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.wire.send(self.towards, frame);
        result
    }
}

impl Device for Port {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending;

    fn receive(&mut self, _: network_nic::Instant) -> Option<(Received, Sending)> {
        let frame = self.wire.take(self.end)?;
        self.counters.received += 1;
        Some((Received(frame), Sending { wire: self.wire.clone(), towards: 1 - self.end }))
    }

    fn transmit(&mut self, _: network_nic::Instant) -> Option<Sending> {
        self.counters.sent += 1;
        Some(Sending { wire: self.wire.clone(), towards: 1 - self.end })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        // All checksums are made and checked by the stack: the wire damages frames.
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

impl Nic for Port {
    fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0, self.end as u8 + 1]
    }

    fn flush(&mut self) {}

    fn arm(&mut self) -> bool {
        self.wire.has_due(self.end)
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
