//! VMBus: the connection to the host, what it offers, and memory and channels that are shared with it.
//!
//! Requests are messages, and so are answers; whoever asks waits for his. Messages are words of four bytes here.

use super::ring::{Incoming, Lie, Outgoing, rings};
use crate::Error;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use kernel_io::{MESSAGE, PAGE, Shared, Synic};

/// Types of messages.
const OFFER: u32 = 1;
const RESCIND: u32 = 2;
const REQUEST_OFFERS: u32 = 3;
const ALL_OFFERS_DELIVERED: u32 = 4;
const OPEN: u32 = 5;
const OPEN_RESULT: u32 = 6;
const CLOSE: u32 = 7;
const GPADL_HEADER: u32 = 8;
const GPADL_BODY: u32 = 9;
const GPADL_CREATED: u32 = 10;
const GPADL_TEARDOWN: u32 = 11;
const GPADL_TORNDOWN: u32 = 12;
const RELEASED: u32 = 13;
const INITIATE_CONTACT: u32 = 14;
const VERSION_RESPONSE: u32 = 15;
const UNLOAD: u32 = 16;
const UNLOAD_COMPLETE: u32 = 17;

/// Versions of the protocol that we speak, the newest first: those of Windows 10, 8.1 and 8. From the last on a channel has
/// a connection of its own to be signalled by; from 5.0 on messages go by another connection.
const VERSIONS: [u32; 3] = [4 << 16, 3 << 16, 2 << 16 | 4];
/// Where messages go.
const CONNECTION: u32 = 1;
/// Statuses of the hypervisor's that mean: later.
const LATER: [u16; 3] = [0x0b, 0x13, 0x33];
/// How long the host may take to answer, and to take a message, in microseconds. Miri takes its time for each.
pub(super) const ANSWER_TIME: u32 = if cfg!(miri) { 2_000 } else { 5_000_000 };
const POST_TIME: u32 = 200_000;
/// How long all of it may take that is done for one reset: the rest of the machine stands meanwhile, and its watchdog too.
pub(super) const RESET_TIME: u32 = ANSWER_TIME;
/// Words of a message, and how many bytes of an offer there must be.
const WORDS: usize = MESSAGE / 4;
const OFFER_LENGTH: usize = 196;
/// Channels that are taken, at most.
const MOST_CHANNELS: usize = 16;
/// Messages that are looked at before the rest of the machine has its turn.
const ROUND: usize = 64;

/// A message: its words, and how many bytes there are; the others are zero.
type Message = ([u32; WORDS], usize);

/// What a channel is offered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    /// What speaks on it: a GUID as it is in the message.
    pub(super) interface: [u32; 4],
    pub(super) channel: u32,
    /// By which it is signalled.
    pub(super) connection: u32,
}

/// The bus, and what is offered on it.
pub(super) type Connected = (Rc<Bus>, Vec<Offer>);

/// The connection to the host. When nobody uses it any more, the host is told.
#[derive(Debug)]
pub(super) struct Bus {
    synic: Synic,
    /// The page of interrupts, of which a host as new as we want it makes no use, and those of monitors, which we do not.
    _pages: Shared,
    is_connected: Cell<bool>,
    next_gpadl: Cell<u32>,
    /// Until when is waited, whatever for.
    until: Cell<u64>,
    /// The channels that are in use, and whether the host has taken each back.
    channels: RefCell<Vec<(u32, Rc<Cell<bool>>)>>,
}

impl Bus {
    /// Connect, and take what is offered. `None` where there is no VMBus.
    pub(super) fn connect() -> Result<Option<Connected>, Error> {
        let synic = match Synic::start() {
            Err(kernel_io::Error::NotThere) => return Ok(None),
            synic => synic?,
        };
        let pages = Shared::allocate(3 * PAGE)?;
        let [interrupts, monitor, other] = [0, 1, 2].map(|page| pages.address() + page * PAGE as u64);
        let (is_connected, next_gpadl) = (Cell::new(false), Cell::new(1));
        let (until, channels) = (Cell::new(u64::MAX), RefCell::default());
        let bus = Self { synic, _pages: pages, is_connected, next_gpadl, until, channels };
        for version in VERSIONS {
            let mut request = [0; 10];
            (request[0], request[2]) = (INITIATE_CONTACT, version);
            for (place, page) in request[4..].as_chunks_mut().0.iter_mut().zip([interrupts, monitor, other]) {
                *place = halves(page);
            }
            let answered = bus.ask(&request, &mut |(words, _)| {
                // Whether it has the version, and a state in which zero is good.
                (words[0] == VERSION_RESPONSE).then_some(words[2] & 0xffff)
            });
            match answered {
                Ok(state) if state & 0xff != 0 && state >> 8 == 0 => {
                    bus.is_connected.set(true);
                    let offers = bus.offers()?;
                    return Ok(Some((Rc::new(bus), offers)));
                }
                Ok(_) => {}
                // The controller without the bus: somebody passes for Hyper-V.
                Err(Error::Refused(_)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Err(Error::Unsupported("its version of VMBus"))
    }

    fn offers(&self) -> Result<Vec<Offer>, Error> {
        let mut offers = Vec::new();
        self.ask(&[REQUEST_OFFERS, 0], &mut |(words, length)| match words[0] {
            OFFER if *length >= OFFER_LENGTH && offers.len() < MOST_CHANNELS => {
                let is_first = words[45] & 0xffff == 0;
                let is_signalled_alone = words[47] >> 16 != 0;
                let offer = Offer {
                    interface: [words[2], words[3], words[4], words[5]],
                    channel: words[46],
                    connection: words[48],
                };
                if is_first && is_signalled_alone && super::INTERFACES.contains(&offer.interface) {
                    offers.push(offer);
                }
                None
            }
            kind => (kind == ALL_OFFERS_DELIVERED).then_some(0),
        })?;
        Ok(offers)
    }

    /// All that is waited for from now on takes so long together, at most, until it is said again.
    pub(super) fn limit(&self, microseconds: u32) {
        self.until.set(kernel_io::microseconds().saturating_add(microseconds.into()));
    }

    /// How much of that is left, at most so much.
    pub(super) fn time(&self, most: u32) -> u32 {
        let left = self.until.get().saturating_sub(kernel_io::microseconds());
        u32::try_from(left).map_or(most, |left| left.min(most))
    }

    /// Post a message; one that is not taken just now is tried again for a while.
    fn post(&self, words: &[u32]) -> Result<(), Error> {
        let mut bytes = [0; MESSAGE];
        let length = 4 * words.len();
        bytes.as_chunks_mut().0.iter_mut().zip(words).for_each(|(place, word)| *place = word.to_le_bytes());
        let mut result = Ok(());
        kernel_io::wait(self.time(POST_TIME), || {
            result = self.synic.post(CONNECTION, &bytes[..length]);
            !matches!(result, Err(status) if LATER.contains(&status))
        });
        result.map_err(|_| Error::Refused("messages"))
    }

    /// Post a message and wait for what `answer` takes for the answer. What comes meanwhile is seen to.
    fn ask(&self, words: &[u32], answer: &mut dyn FnMut(&Message) -> Option<u32>) -> Result<u32, Error> {
        self.post(words)?;
        self.wait(answer)
    }

    fn wait(&self, answer: &mut dyn FnMut(&Message) -> Option<u32>) -> Result<u32, Error> {
        let mut result = None;
        kernel_io::wait(self.time(ANSWER_TIME), || {
            // Whoever comes first takes the interrupt; the message is there without it.
            for _ in 0..ROUND {
                let Some(message) = self.receive() else { break };
                result = answer(&message);
                if result.is_some() {
                    break;
                }
            }
            result.is_some()
        });
        result.ok_or(Error::NoAnswer)
    }

    /// The next message. That a channel is taken back is noted.
    #[inline(never)]
    fn receive(&self) -> Option<Message> {
        let mut bytes = [0; MESSAGE];
        let length = self.synic.receive(&mut bytes)?;
        let mut words = [0; WORDS];
        words
            .iter_mut()
            .zip(bytes.as_chunks().0)
            .for_each(|(word, bytes)| *word = u32::from_le_bytes(*bytes));
        if words[0] == RESCIND {
            let channels = self.channels.borrow();
            channels.iter().filter(|(id, _)| *id == words[2]).for_each(|(_, gone)| gone.set(true));
        }
        Some((words, length))
    }

    /// Take what the interrupt stands for. Whoever asks looks at his channel afterwards.
    pub(super) fn acknowledge(&self) {
        if self.synic.acknowledge() {
            for _ in 0..ROUND {
                if self.receive().is_none() {
                    break;
                }
            }
        }
    }

    /// Share memory with the host, for a channel. Answers how it is called.
    pub(super) fn share(&self, channel: u32, memory: &Shared) -> Result<u32, Error> {
        let gpadl = self.next_gpadl.replace(self.next_gpadl.get().wrapping_add(1));
        let pages = memory.length() / PAGE;
        let lengths = (8 + 8 * pages as u32) | 1 << 16;
        let first = memory.address() / PAGE as u64;
        let mut numbers = (first..).take(pages).map(halves);
        let mut message = [0; WORDS];
        message[..7].copy_from_slice(&[GPADL_HEADER, 0, channel, gpadl, lengths, memory.length() as u32, 0]);
        let mut start = 7;
        for body in 1.. {
            let mut end = start;
            for (place, number) in message[start..].as_chunks_mut().0.iter_mut().zip(&mut numbers) {
                *place = number;
                end += 2;
            }
            if end == start {
                break;
            }
            self.post(&message[..end])?;
            message[..4].copy_from_slice(&[GPADL_BODY, 0, body, gpadl]);
            start = 4;
        }
        let mut created = |(words, _): &Message| {
            (words[0] == GPADL_CREATED && words[2] == channel && words[3] == gpadl).then_some(words[4])
        };
        match self.wait(&mut created)? {
            0 => Ok(gpadl),
            _ => Err(Error::Refused("memory of ours")),
        }
    }

    /// Share memory no more. Once this has succeeded the host does not use it.
    pub(super) fn unshare(&self, channel: u32, gpadl: u32) -> Result<(), Error> {
        let torn_down =
            &mut |(words, _): &Message| (words[0] == GPADL_TORNDOWN && words[2] == gpadl).then_some(0);
        self.ask(&[GPADL_TEARDOWN, 0, channel, gpadl], torn_down).map(|_| ())
    }

    fn signal(&self, connection: u32) {
        // There is nothing to be done about a signal that does not arrive.
        let _ = self.synic.signal(connection);
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        if !self.is_connected.get() {
            return;
        }
        self.limit(RESET_TIME);
        let unloaded = self.ask(&[UNLOAD, 0], &mut |(words, _)| (words[0] == UNLOAD_COMPLETE).then_some(0));
        if unloaded.is_err() {
            log::warn!("vmbus: the host does not say that it has let go");
        }
    }
}

fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

/// A channel: two rings, and who is signalled.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) bus: Rc<Bus>,
    pub(super) id: u32,
    connection: u32,
    gone: Rc<Cell<bool>>,
    pub(super) memory: Shared,
    gpadl: Option<u32>,
    pub(super) out: Outgoing,
    pub(super) incoming: Incoming,
}

impl Channel {
    /// Memory for a channel with so many pages in its rings. It is not open.
    pub(super) fn new(bus: &Rc<Bus>, offer: &Offer, out: usize, incoming: usize) -> Result<Self, Error> {
        let (out, incoming, length) = rings(out, incoming);
        let memory = Shared::allocate(length)?;
        let gone = Rc::new(Cell::new(false));
        bus.channels.borrow_mut().push((offer.channel, gone.clone()));
        let (bus, id, connection) = (bus.clone(), offer.channel, offer.connection);
        Ok(Self { bus, id, connection, gone, memory, gpadl: None, out, incoming })
    }

    /// Open it; its rings are empty.
    pub(super) fn open(&mut self) -> Result<(), Error> {
        self.out.reset(&self.memory);
        self.incoming.reset(&self.memory);
        let gpadl = self.bus.share(self.id, &self.memory)?;
        self.gpadl = Some(gpadl);
        let mut request = [0; 37];
        request[..7].copy_from_slice(&[OPEN, 0, self.id, gpadl, gpadl, 0, self.out.pages()]);
        let result = self.bus.ask(&request, &mut |(words, _)| {
            (words[0] == OPEN_RESULT && words[2] == self.id && words[3] == gpadl).then_some(words[4])
        });
        match result? {
            0 => Ok(()),
            _ => Err(Error::Refused("to open the channel")),
        }
    }

    /// Close it. Once this has succeeded the host uses neither the rings nor memory that packets in them name.
    pub(super) fn close(&mut self) -> Result<(), Error> {
        if let Some(gpadl) = self.gpadl {
            self.bus.post(&[CLOSE, 0, self.id])?;
            self.bus.unshare(self.id, gpadl)?;
            self.gpadl = None;
        }
        Ok(())
    }

    /// Whether the host has taken it back.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// Let go of it, for the host has taken it back: of its rings, and of other memory that was shown for it. Nobody waits to
    /// hear that the host uses none of it, so it stays lost.
    pub(super) fn abandon(&mut self, other: Option<u32>) {
        if let Some(rings) = self.gpadl.take() {
            let _ = self.bus.post(&[CLOSE, 0, self.id]);
            for gpadl in other.into_iter().chain([rings]) {
                let _ = self.bus.post(&[GPADL_TEARDOWN, 0, self.id, gpadl]);
            }
        }
        let _ = self.bus.post(&[RELEASED, 0, self.id]);
    }

    /// Let the host see what was sent, and use what was read; signal it if it has to be.
    pub(super) fn flush(&mut self) {
        let sent = self.out.announce(&self.memory);
        if self.incoming.release(&self.memory) || sent {
            self.bus.signal(self.connection);
        }
    }

    /// Whether there is something to read. If not, there will be an interrupt when something comes.
    pub(super) fn arm(&mut self) -> bool {
        self.flush();
        self.incoming.ask_for_signals(&self.memory, true);
        self.incoming.waits(&self.memory)
    }

    /// No interrupts any more until the next [`Channel::arm`].
    pub(super) fn disarm(&self) {
        self.incoming.ask_for_signals(&self.memory, false);
    }

    /// Put a packet into the ring.
    pub(super) fn push(&mut self, head: (u16, u16, u64), header: &[u64], payload: &[u64]) -> Result<(), Lie> {
        self.out.push(&self.memory, head, header, payload)
    }
}
