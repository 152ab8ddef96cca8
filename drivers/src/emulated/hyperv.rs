//! Hyper-V's side of VMBus, inside a host test: the hypervisor's calls, the bus, and devices behind it. It does what the
//! test says, lies included, and is strict with the guest as long as it is honest itself.

mod nic;
mod ring;

pub use nic::{Nic, Sent, capabilities};
pub use ring::Packet;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{RefCell, RefMut};
use kernel_io::emulated::{Hypervisor, attach_hypervisor, on_delay, raise, read_memory, write_memory};
use kernel_io::{MESSAGE, Message, PAGE};
use ring::Ring;

/// What speaks on a channel.
const NIC: [u32; 4] = [0xf861_5163, 0x46c5_df3e, 0xd2f2_3f91, 0x0eed_65f9];
const SHUTDOWN: [u32; 4] = [0x0e0b_6031, 0x4934_5213, 0xd938_8b81, 0xdb39_ed0c];
/// Slots of the source that VMBus has.
const SLOT: u64 = 2 * 256;
const PAYLOAD: u64 = 16;
/// The flag of a message: another waits.
const PENDING: u8 = 1;
/// The connections of channels, from that of channel 0 on.
const FIRST_CONNECTION: u32 = 0x2000;

/// What the bus may do wrong.
#[derive(Clone, Debug, Default)]
pub struct Misbehaviour {
    /// Types of messages that it does not answer.
    pub silent: Vec<u32>,
    /// The hypervisor's status of every message that is posted, where that is not success, and how many times.
    pub status: Option<(u16, u32)>,
    /// It refuses memory, or to open channels.
    pub refuses: bool,
    /// It offers channels that are signalled by a page of interrupts.
    pub shares_interrupts: bool,
}

/// Memory that the guest has shown.
#[derive(Clone, Debug)]
struct Gpadl {
    channel: u32,
    pages: Vec<u64>,
    wanted: usize,
}

/// A channel: what it is offered by, and its rings while it is open.
#[derive(Debug)]
struct Channel {
    interface: [u32; 4],
    /// The memory of its rings, by its number, and both: the guest's, and ours.
    open: Option<(u32, Ring, Ring)>,
    nic: Option<Nic>,
    gone: bool,
    released: bool,
}

/// A host. Clones are the same one.
#[derive(Clone)]
pub struct Host(Rc<RefCell<Model>>);

pub(super) struct Model {
    pages: Option<(u64, u64, Message)>,
    queue: VecDeque<Vec<u32>>,
    versions: Vec<u32>,
    connected: Option<u32>,
    unloads: u32,
    channels: Vec<Channel>,
    gpadls: BTreeMap<u32, Gpadl>,
    misbehaviour: Misbehaviour,
    /// Whether what comes in rings is seen to when a channel is signalled.
    busy: bool,
    signals: u64,
    /// It has lied, so that the guest's view may differ with right.
    lied: bool,
}

impl Host {
    /// Make a host with so many NICs, and the component for shutting down; let it answer in this thread's machine.
    pub fn new(nics: usize) -> Self {
        let channel = |interface, nic| Channel { interface, open: None, nic, gone: false, released: false };
        let mut channels: Vec<_> =
            (0..nics).map(|number| channel(NIC, Some(Nic::new(number as u8)))).collect();
        channels.push(channel(SHUTDOWN, None));
        let host = Self(Rc::new(RefCell::new(Model {
            pages: None,
            queue: VecDeque::new(),
            versions: vec![4 << 16, 3 << 16, 2 << 16 | 4],
            connected: None,
            unloads: 0,
            channels,
            gpadls: BTreeMap::new(),
            misbehaviour: Misbehaviour::default(),
            busy: true,
            signals: 0,
            lied: false,
        })));
        attach_hypervisor(Rc::new(host.clone()));
        // A driver that waits gives it time, however slow it is.
        let slow = host.clone();
        on_delay(move || (0..nics as u32).for_each(|channel| slow.work(channel)));
        host
    }

    /// Change which versions of the protocol it speaks.
    pub fn set_versions(&self, versions: &[u32]) {
        self.0.borrow_mut().versions = versions.to_vec();
    }

    /// Change how the bus behaves.
    pub fn misbehave(&self, change: impl FnOnce(&mut Misbehaviour)) {
        change(&mut self.0.borrow_mut().misbehaviour);
    }

    /// The version that was agreed on, as long as there is a connection.
    pub fn version(&self) -> Option<u32> {
        self.0.borrow().connected
    }

    /// How often the guest has let go of the bus.
    pub fn unloads(&self) -> u32 {
        self.0.borrow().unloads
    }

    /// How often a channel was signalled since the last call.
    pub fn signals(&self) -> u64 {
        core::mem::take(&mut self.0.borrow_mut().signals)
    }

    /// Whether a channel is open.
    pub fn is_open(&self, channel: u32) -> bool {
        self.0.borrow().channels[channel as usize].open.is_some()
    }

    /// Whether the guest has let go of a channel that was taken back.
    pub fn is_released(&self, channel: u32) -> bool {
        self.0.borrow().channels[channel as usize].released
    }

    /// Pieces of memory that the guest shows.
    pub fn shown(&self) -> usize {
        self.0.borrow().gpadls.len()
    }

    /// The NIC behind a channel.
    pub fn nic(&self, channel: u32) -> RefMut<'_, Nic> {
        RefMut::map(self.0.borrow_mut(), |model| {
            model.channels[channel as usize].nic.as_mut().expect("a NIC")
        })
    }

    /// Whether what comes is seen to at once, or only by [`Host::work`].
    pub fn set_busy(&self, busy: bool) {
        self.0.borrow_mut().busy = busy;
    }

    /// See to what has come by a channel's ring.
    pub fn work(&self, channel: u32) {
        self.0.borrow_mut().work(channel);
    }

    /// Take a channel back.
    pub fn rescind(&self, channel: u32) {
        let mut model = self.0.borrow_mut();
        model.channels[channel as usize].gone = true;
        model.say(&[2, 0, channel]);
    }

    /// Send a message that may be anything.
    pub fn say(&self, words: &[u32]) {
        let mut model = self.0.borrow_mut();
        model.lied = true;
        model.say(words);
    }

    /// Put a packet into a channel's ring. Answers whether there was room.
    pub fn put(&self, channel: u32, packet: &Packet) -> bool {
        let mut model = self.0.borrow_mut();
        model.lied = true;
        model.put(channel, packet)
    }

    /// Put words that may be no packet into a channel's ring, and interrupt the guest.
    pub fn put_words(&self, channel: u32, words: &[u64]) {
        let mut model = self.0.borrow_mut();
        model.lied = true;
        if let Some((_, _, ours)) = model.channels[channel as usize].open {
            ours.put_words(words);
            model.interrupt(channel);
        }
    }

    /// Overwrite a word of a control page: of the guest's ring or of ours.
    pub fn set_control(&self, channel: u32, ours: bool, at: u64, value: u32) {
        let mut model = self.0.borrow_mut();
        model.lied = true;
        if let Some((_, theirs, mine)) = model.channels[channel as usize].open {
            if ours { mine } else { theirs }.set_control(at, value);
            model.interrupt(channel);
        }
    }

    /// The next packet of a channel without a device.
    pub fn take(&self, channel: u32) -> Option<Packet> {
        let model = self.0.borrow();
        model.channels[channel as usize].open.and_then(|(_, theirs, _)| theirs.take())
    }

    /// Up to where the guest has written its ring.
    pub fn written(&self, channel: u32) -> u32 {
        self.0.borrow().channels[channel as usize].open.map_or(0, |(_, theirs, _)| theirs.written())
    }

    /// Words that wait for the guest in a channel's ring.
    pub fn waiting(&self, channel: u32) -> u32 {
        self.0.borrow().channels[channel as usize].open.map_or(0, |(_, _, ours)| ours.waiting())
    }

    /// Have the NIC behind a channel put a frame into memory of the guest's, with what is known of its checksums. Answers
    /// whether there was room.
    pub fn deliver(&self, channel: u32, frames: &[&[u8]], checksums: Option<u32>) -> bool {
        let mut model = self.0.borrow_mut();
        let messages: Vec<_> = frames.iter().map(|frame| nic::packet(frame, checksums)).collect();
        model.indicate(channel, 0, &messages)
    }

    /// Have it put messages into memory of the guest's that may be anything.
    pub fn indicate(&self, channel: u32, messages: &[Vec<u8>]) -> bool {
        let mut model = self.0.borrow_mut();
        model.lied = true;
        model.indicate(channel, 1, messages)
    }
}

impl Hypervisor for Host {
    fn start(&self, messages: u64, events: u64, interrupt: Message) {
        self.0.borrow_mut().pages = Some((messages, events, interrupt));
    }

    fn end_of_message(&self) {
        self.0.borrow_mut().deliver();
    }

    fn post(&self, connection: u32, message: &[u8]) -> u16 {
        assert_eq!(connection, 1, "messages go by connection 1 up to version 4.1");
        assert!(message.len() <= MESSAGE && message.len().is_multiple_of(4));
        let mut model = self.0.borrow_mut();
        if let Some((status, times)) = &mut model.misbehaviour.status
            && *times > 0
        {
            *times -= 1;
            return *status;
        }
        let words = message.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect::<Vec<_>>();
        model.handle(&words);
        0
    }

    fn signal(&self, connection: u32) -> u16 {
        let mut model = self.0.borrow_mut();
        let channel = connection - FIRST_CONNECTION;
        assert!((channel as usize) < model.channels.len(), "a connection of no channel");
        model.signals += 1;
        if model.busy {
            model.work(channel);
        }
        0
    }
}

impl Model {
    /// Say something by a message.
    fn say(&mut self, words: &[u32]) {
        self.queue.push_back(words.to_vec());
        self.deliver();
    }

    /// Put the next message into its slot, if that is free; otherwise note there that it waits.
    fn deliver(&mut self) {
        let Some((messages, _, interrupt)) = self.pages else { return };
        if self.queue.is_empty() {
            return;
        }
        let at = messages + SLOT;
        let mut kind = [0; 4];
        read_memory(at, &mut kind).expect("the page of messages is shared");
        if kind != [0; 4] {
            write_memory(at + 5, &[PENDING]).expect("the page of messages is shared");
            return;
        }
        let words = self.queue.pop_front().unwrap_or_default();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        write_memory(at + PAYLOAD, &bytes).expect("the page of messages is shared");
        let pending = u8::from(!self.queue.is_empty()) * PENDING;
        write_memory(at + 4, &[bytes.len() as u8, pending]).expect("the page of messages is shared");
        write_memory(at, &1_u32.to_le_bytes()).expect("the page of messages is shared");
        raise(interrupt);
    }

    /// Set the flag of a channel, and interrupt the guest if it was not set.
    fn interrupt(&mut self, channel: u32) {
        let Some((_, events, interrupt)) = self.pages else { return };
        let (at, bit) = (events + SLOT + u64::from(channel / 8), 1 << (channel % 8));
        let mut flags = [0];
        read_memory(at, &mut flags).expect("the page of events is shared");
        write_memory(at, &[flags[0] | bit]).expect("the page of events is shared");
        if flags[0] & bit == 0 {
            raise(interrupt);
        }
    }

    fn handle(&mut self, words: &[u32]) {
        let kind = words[0];
        assert!(kind == 14 || self.connected.is_some(), "message {kind} without a connection");
        let silent = self.misbehaviour.silent.contains(&kind);
        match kind {
            14 => {
                let version = words[2];
                let known = self.versions.contains(&version);
                self.connected = known.then_some(version);
                if !silent {
                    self.say(&[15, 0, known.into(), version]);
                }
            }
            3 if !silent => self.offer(),
            8 => self.gpadl(words[2], words[3], words[4], &words[5..]),
            9 => {
                let more = words[4..]
                    .as_chunks()
                    .0
                    .iter()
                    .map(|[low, high]| u64::from(*low) | u64::from(*high) << 32);
                let gpadl = self.gpadls.get_mut(&words[3]).expect("a body has a head");
                gpadl.pages.extend(more);
            }
            5 => self.open(words),
            7 => {
                if let Some(nic) = &mut self.channels[words[2] as usize].nic {
                    nic.close();
                }
            }
            11 => self.teardown(words[2], words[3], silent),
            13 => {
                let channel = &mut self.channels[words[2] as usize];
                assert!(channel.gone, "only what was taken back is released");
                channel.released = true;
            }
            16 => {
                (self.connected, self.unloads) = (None, self.unloads + 1);
                self.gpadls.clear();
                self.channels.iter_mut().for_each(|channel| channel.open = None);
                if !silent {
                    self.say(&[17, 0]);
                }
            }
            _ => {}
        }
        if matches!(kind, 8 | 9) && !silent {
            self.created(words[3]);
        }
    }

    fn offer(&mut self) {
        for channel in 0..self.channels.len() as u32 {
            let mut offer = vec![0; 49];
            offer[0] = 1;
            offer[2..6].copy_from_slice(&self.channels[channel as usize].interface);
            offer[46] = channel;
            offer[47] = u32::from(!self.misbehaviour.shares_interrupts) << 16;
            offer[48] = FIRST_CONNECTION + channel;
            self.say(&offer);
            // Of a kind that nobody wants, and another of the same channel.
            offer[2] ^= 1;
            self.say(&offer);
            (offer[2], offer[45]) = (offer[2] ^ 1, 1);
            self.say(&offer);
        }
        self.say(&[4, 0]);
    }

    fn gpadl(&mut self, channel: u32, number: u32, lengths: u32, range: &[u32]) {
        let pages = (lengths as u16 as usize - 8) / 8;
        assert_eq!((lengths >> 16, range[0] as usize, range[1]), (1, pages * PAGE, 0), "one range of pages");
        let first =
            range[2..].as_chunks().0.iter().map(|[low, high]| u64::from(*low) | u64::from(*high) << 32);
        let gpadl = Gpadl { channel, pages: first.collect(), wanted: pages };
        assert!(self.gpadls.insert(number, gpadl).is_none(), "a number that is in use");
    }

    fn created(&mut self, number: u32) {
        let gpadl = &self.gpadls[&number];
        assert!(gpadl.pages.len() <= gpadl.wanted);
        if gpadl.pages.len() == gpadl.wanted {
            let follow = gpadl.pages.windows(2).all(|pair| pair[1] == pair[0] + 1);
            assert!(follow, "the emulated host wants pages that follow one another");
            let (channel, status) = (gpadl.channel, if self.misbehaviour.refuses { 0xc000_0001 } else { 0 });
            if status != 0 {
                self.gpadls.remove(&number);
            }
            self.say(&[10, 0, channel, number, status]);
        }
    }

    fn open(&mut self, words: &[u32]) {
        let [channel, id, gpadl, _, second] = [2, 3, 4, 5, 6].map(|index| words[index]);
        let memory = &self.gpadls[&gpadl];
        let start = memory.pages[0] * PAGE as u64;
        let ring = |from: u32, to: u32| Ring {
            address: start + u64::from(from) * PAGE as u64,
            length: (to - from - 1) * PAGE as u32,
        };
        let rings = (gpadl, ring(0, second), ring(second, memory.wanted as u32));
        let state = &mut self.channels[channel as usize];
        assert!(state.open.is_none(), "a channel is opened once");
        state.open = Some(rings);
        if !self.misbehaviour.silent.contains(&5) {
            self.say(&[6, 0, channel, id, 0]);
        }
    }

    fn teardown(&mut self, channel: u32, number: u32, silent: bool) {
        let gpadl = self.gpadls.remove(&number);
        assert!(gpadl.is_some_and(|gpadl| gpadl.channel == channel), "memory that was never shown");
        let state = &mut self.channels[channel as usize];
        if state.open.is_some_and(|(rings, ..)| rings == number) {
            state.open = None;
        }
        if !silent {
            self.say(&[12, 0, number]);
        }
    }

    /// Put a packet into a channel's ring, and interrupt the guest if it wants that.
    fn put(&mut self, channel: u32, packet: &Packet) -> bool {
        let Some((_, _, ours)) = self.channels[channel as usize].open else { return false };
        let put = ours.put(packet);
        if put == Some(true) {
            self.interrupt(channel);
        }
        put.is_some()
    }
}
