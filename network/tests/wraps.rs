//! TCP's sequence numbers across their wrap at 32 bits, both ways at once: in short segments and in offloaded ones, with and
//! without loss.
//!
//! Nobody chooses where a connection's numbers begin, so worlds are tried until they begin just below the wrap.
#![allow(clippy::unwrap_used, reason = "in a test an error is the end")]

use kernel_runtime::{Executor, Instant};
use network::{Addressing, Attachment, Settings, Side, Stream};
use network_nic::{
    Checksum, Counters, Device, DeviceCapabilities, Medium, Nic, PacketMeta, RxToken,
    SegmentationCapabilities, TxToken,
};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::Duration;

/// A stream begins at most so many bytes below the wrap: one world of 8192 does.
const NEAR: u32 = 512 << 10;
/// Bytes that go each way.
const LENGTH: usize = 2 << 20;
const PORT: u16 = 3260;
/// The longest frame of a NIC that cuts segments.
const LONG: usize = 65_549;

/// What one end has put on the wire, and how.
struct Way {
    frames: RefCell<VecDeque<Vec<u8>>>,
    /// The number of its SYN, and the last number of a segment with data.
    first: Cell<Option<u32>>,
    last: Cell<u32>,
    /// The longest frame.
    longest: Cell<usize>,
    /// Of how many frames one is lost, and what has decided so far.
    loss: Cell<Option<u64>>,
    chance: Cell<u64>,
    lost: Cell<u64>,
}

impl Way {
    fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            frames: RefCell::default(),
            first: Cell::new(None),
            last: Cell::new(0),
            longest: Cell::new(0),
            loss: Cell::new(None),
            chance: Cell::new(seed),
            lost: Cell::new(0),
        })
    }

    fn put(&self, frame: Vec<u8>) {
        if frame[12..14] == [8, 0] && frame[23] == 6 {
            let number = u32::from_be_bytes(frame[38..42].try_into().unwrap());
            if frame[47] & 2 != 0 {
                self.first.set(Some(number));
            }
            self.last.set(number);
        }
        self.longest.set(self.longest.get().max(frame.len()));
        self.chance.set(mix(self.chance.get()));
        if self.loss.get().is_some_and(|one_of| self.chance.get().is_multiple_of(one_of)) {
            self.lost.set(self.lost.get() + 1);
        } else {
            self.frames.borrow_mut().push_back(frame);
        }
    }

    /// How far below the wrap it has begun.
    fn distance(&self) -> Option<u32> {
        self.first.get().map(u32::wrapping_neg)
    }
}

/// The finalizer of SplitMix64.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One end of the wire.
struct End {
    last_of_mac: u8,
    cuts: bool,
    incoming: Rc<Way>,
    outgoing: Rc<Way>,
}

struct Rx(Vec<u8>);
struct Tx(Rc<Way>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        self.0.put(frame);
        result
    }

    fn set_meta(&mut self, _: PacketMeta) {}
}

impl Device for End {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx;

    fn receive(&mut self, _: network_nic::Instant) -> Option<(Rx, Tx)> {
        let frame = self.incoming.frames.borrow_mut().pop_front()?;
        Some((Rx(frame), Tx(self.outgoing.clone())))
    }

    fn transmit(&mut self, _: network_nic::Instant) -> Option<Tx> {
        (self.outgoing.frames.borrow().len() < 64).then(|| Tx(self.outgoing.clone()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities.checksum.tcp = if self.cuts { Checksum::None } else { Checksum::Both };
        capabilities.segmentation = SegmentationCapabilities::default();
        if self.cuts {
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(LONG);
        }
        capabilities
    }
}

impl Nic for End {
    fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 0, self.last_of_mac]
    }

    fn flush(&mut self) {}

    fn arm(&mut self) -> bool {
        !self.incoming.frames.borrow().is_empty()
    }

    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// Two stacks, of which the first connects to the second.
struct World {
    ends: [Attachment<End>; 2],
    ways: [Rc<Way>; 2],
    executor: Executor,
    now: Instant,
}

impl World {
    fn new(seeds: [u64; 2], cuts: bool) -> Self {
        let ways = seeds.map(Way::new);
        let end = |n: usize| {
            let (incoming, outgoing) = (ways[1 - n].clone(), ways[n].clone());
            let nic = End { last_of_mac: n as u8 + 1, cuts, incoming, outgoing };
            let cidr = format!("10.77.0.{}/24", n + 1).parse().unwrap();
            let addressing = Addressing::Static { cidr, gateway: None };
            let settings = Settings { side: Side::HostOnly, addressing, foreign: None, seed: seeds[n] };
            Attachment::new(&settings, nic, Instant::ZERO)
        };
        let ends = [end(0), end(1)];
        Self { ends, ways, executor: Executor::new(4), now: Instant::ZERO }
    }

    /// Adds what each end does with its connection once that stands.
    fn connected<F: Future<Output = ()> + 'static>(
        &mut self,
        end: impl Fn(Stream, usize) -> F + Clone + 'static,
    ) {
        let mut server = self.ends[1].stack().stream(256 << 10, 256 << 10);
        let then = end.clone();
        self.executor.add("server", async move {
            server.accept(PORT).await;
            then(server, 1).await;
        });
        let mut client = self.ends[0].stack().stream(128 << 10, 192 << 10);
        self.executor.add("client", async move {
            client.connect(format!("10.77.0.2:{PORT}").parse().unwrap()).await.unwrap();
            end(client, 0).await;
        });
    }

    /// Runs until every task has finished; time jumps to the next deadline when nothing else moves.
    fn run(&mut self) {
        while self.executor.living().next().is_some() {
            assert!(self.now < Instant::ZERO + Duration::from_secs(600), "it hangs at {:?}", self.now);
            let mut moved = false;
            for end in &mut self.ends {
                moved |= end.receive(self.now);
            }
            moved |= self.executor.run_ready(self.now) > 0;
            for end in &mut self.ends {
                moved |= end.transmit(self.now);
            }
            moved |= self.ways.iter().any(|way| !way.frames.borrow().is_empty());
            if moved {
                self.now = Instant::from_micros(self.now.as_micros() + 10);
            } else {
                let deadlines = self.ends.iter_mut().filter_map(|end| end.next_deadline(self.now));
                let next = deadlines.chain(self.executor.next_deadline()).min();
                self.now = next.unwrap().max(Instant::from_micros(self.now.as_micros() + 1));
            }
        }
    }
}

/// Seeds with which the numbers of client and server begin near the wrap, `count` pairs.
fn seeds_near_the_wrap(count: usize) -> Vec<[u64; 2]> {
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    for seed in 0.. {
        let mut world = World::new([seed, seed], false);
        world.connected(|mut stream, _| async move { stream.finish().await });
        world.run();
        let is_near = |way: &Way| way.distance().is_some_and(|distance| distance < NEAR);
        if is_near(&world.ways[0]) {
            clients.push(seed);
        }
        if is_near(&world.ways[1]) {
            servers.push(seed);
        }
        if clients.len().min(servers.len()) >= count {
            break;
        }
    }
    clients.into_iter().zip(servers).map(|(client, server)| [client, server]).take(count).collect()
}

/// The byte at this place of what one end sends.
fn byte(end: usize, place: usize) -> u8 {
    (mix((place / 8) as u64 ^ (end as u64) << 60) >> (place % 8 * 8)) as u8
}

/// Sends and receives at the same time, in pieces of all lengths, and compares every byte.
async fn exchange(stream: Stream, end: usize) {
    let (mut sent, mut received) = (0, 0);
    let mut buffer = vec![0; 96 << 10];
    while sent < LENGTH || received < LENGTH {
        std::future::poll_fn(|cx| {
            let mut moved = false;
            if sent < LENGTH {
                let piece = 1 + mix(sent as u64) as usize % (48 << 10);
                let bytes: Vec<u8> = (sent..LENGTH.min(sent + piece)).map(|place| byte(end, place)).collect();
                let count = stream.try_write(&bytes).unwrap();
                sent += count;
                moved |= count > 0;
            }
            let piece = 1 + mix(received as u64) as usize % buffer.len();
            if let network::TryRead::Bytes(count) = stream.try_read(&mut buffer[..piece]).unwrap() {
                for (place, found) in (received..).zip(&buffer[..count]) {
                    assert_eq!(*found, byte(1 - end, place), "byte {place} of what {} has sent", 1 - end);
                }
                received += count;
                moved = true;
            }
            if moved {
                return std::task::Poll::Ready(());
            }
            stream.register(cx);
            std::task::Poll::Pending
        })
        .await;
    }
    while !stream.is_drained() {
        std::future::poll_fn(|cx| {
            stream.register(cx);
            if stream.is_drained() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

fn exchanged(seeds: [u64; 2], cuts: bool, loss: Option<u64>) {
    let mut world = World::new(seeds, cuts);
    for way in &world.ways {
        way.loss.set(loss);
    }
    world.connected(exchange);
    world.run();
    for way in &world.ways {
        let distance = way.distance().unwrap();
        assert!(distance < NEAR && way.last.get() < 1 << 31, "{distance} {:#x}: no wrap", way.last.get());
        assert_eq!(way.longest.get() > 1514, cuts, "{}", way.longest.get());
        assert_eq!(way.lost.get() > 0, loss.is_some());
    }
}

#[test]
fn streams_wrap_both_ways_at_once_whatever_their_segments() {
    for seeds in seeds_near_the_wrap(4) {
        for cuts in [false, true] {
            exchanged(seeds, cuts, None);
            exchanged(seeds, cuts, Some(if cuts { 10 } else { 100 }));
        }
    }
}
