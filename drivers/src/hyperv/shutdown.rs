//! The integration component by which a host asks a guest to shut down.

use super::bus::{Bus, Channel, Offer, RESET_TIME};
use super::ring::{self, Lie, Packet};
use crate::Error;
use crate::shutdown::Request;
use alloc::rc::Rc;
use alloc::vec::Vec;

/// Pages of data in each ring: a request is of some 2 KiB.
const PAGES: usize = 2;
/// Words of eight bytes of a message, at most.
const LONGEST: usize = PAGES * kernel_io::PAGE / 8 - 4;
/// Types of messages.
const NEGOTIATE: u16 = 0;
const SHUTDOWN: u16 = 3;
/// Versions that we speak, of the frame and of the requests, by major and minor.
const FRAMES: [[u16; 2]; 2] = [[3, 0], [1, 0]];
const REQUESTS: [[u16; 2]; 4] = [[3, 2], [3, 1], [3, 0], [1, 0]];
/// Flags of a message: it is part of a transaction, and it is the answer.
const TRANSACTION: u8 = 1;
const ANSWER: u8 = 4;
/// Flags of a request: start again; sleep, with what is in memory on a disk.
const RESTART: u32 = 2;
const HIBERNATE: u32 = 4;
const SUCCESS: u32 = 0;
const FAILED: u32 = 0x8000_4005;
/// Where things are in a message, the header of the pipe included: that of the pipe, its length, type, size, status,
/// transaction, flags, and what follows.
const PIPE_LENGTH: usize = 4;
const TYPE: usize = 12;
const SIZE: usize = 18;
const STATUS: usize = 20;
const FLAGS: usize = 25;
const BODY: usize = 28;
/// Packets that are looked at before the host learns that they were, and how often that is before the rest of the machine has
/// its turn: together more than a ring holds.
const ROUND: usize = 8;
const ROUNDS: usize = 64;

/// The component.
#[derive(Debug)]
pub struct Shutdown {
    channel: Channel,
    message: Vec<u64>,
    /// It is not listened to any more.
    is_over: bool,
}

impl Shutdown {
    pub(super) fn new(bus: &Rc<Bus>, offer: &Offer) -> Result<Self, Error> {
        let mut channel = Channel::new(bus, offer, PAGES, PAGES)?;
        if let Err(error) = channel.open() {
            channel.close()?;
            return Err(error);
        }
        Ok(Self { channel, message: Vec::with_capacity(LONGEST), is_over: false })
    }

    /// Whether the host has asked for something since the last call. To be called whenever the machine has been idle, and
    /// before it is again.
    pub fn poll(&mut self) -> Option<Request> {
        self.channel.bus.acknowledge();
        if self.is_over {
            return None;
        }
        let mut request = None;
        let mut polled = Ok(());
        for _ in 0..ROUNDS {
            polled = self.work(&mut request);
            self.channel.flush();
            // A host signals only for what comes into an empty ring: what came before it has seen that this one is, it never
            // signals for.
            if polled.is_err() || !self.channel.incoming.waits(&self.channel.memory) {
                break;
            }
        }
        if self.channel.is_gone() || polled.is_err() {
            log::warn!("vmbus: nobody hears a host that wants to shut this machine down: {polled:?}");
            self.is_over = true;
            self.channel.bus.limit(RESET_TIME);
            if self.channel.is_gone() {
                self.channel.abandon(None);
            } else if let Err(error) = self.channel.close() {
                log::warn!("vmbus: {error}");
            }
        }
        request
    }

    fn work(&mut self, request: &mut Option<Request>) -> Result<(), Lie> {
        for _ in 0..ROUND {
            let Some(packet) = self.channel.incoming.peek(&self.channel.memory)? else { break };
            if packet.kind == ring::IN_BAND {
                *request = self.answer(&packet)?.or(*request);
            }
            self.channel.incoming.advance(&packet);
        }
        Ok(())
    }

    /// Answer a message: with itself, and what was made of it.
    fn answer(&mut self, packet: &Packet) -> Result<Option<Request>, Lie> {
        let Channel { memory, incoming, .. } = &self.channel;
        let length = packet.length();
        if length > LONGEST || 8 * length < BODY {
            return Err(Lie::Length);
        }
        self.message.clear();
        for index in 0..length as u32 {
            self.message.push(incoming.payload(memory, packet, index)?);
        }
        let mut message = Bytes(&mut self.message);
        let (mut request, mut status) = (None, SUCCESS);
        match message.half(TYPE) {
            NEGOTIATE => message.negotiate()?,
            SHUTDOWN => {
                let flags = message.word(BODY + 8)?;
                if flags & HIBERNATE != 0 {
                    status = FAILED;
                } else {
                    request = Some(if flags & RESTART == 0 { Request::Off } else { Request::Restart });
                }
            }
            _ => status = FAILED,
        }
        message.set_word(STATUS, status);
        message.set(FLAGS, TRANSACTION | ANSWER);
        let answer = (ring::IN_BAND, 0, packet.transaction);
        let words = BODY + usize::from(message.half(SIZE));
        let words = words.div_ceil(8).min(length);
        self.channel.push(answer, &[], &self.message[..words])?;
        Ok(request)
    }
}

impl Drop for Shutdown {
    fn drop(&mut self) {
        // What the host does not let go of stays lost.
        self.channel.bus.limit(RESET_TIME);
        let _ = self.channel.close();
    }
}

/// A message by its bytes.
struct Bytes<'a>(&'a mut Vec<u64>);

impl Bytes<'_> {
    fn byte(&self, at: usize) -> u8 {
        self.0.get(at / 8).map_or(0, |word| (word >> (8 * (at % 8))) as u8)
    }

    fn set(&mut self, at: usize, value: u8) {
        if let Some(word) = self.0.get_mut(at / 8) {
            let shift = 8 * (at % 8);
            *word = *word & !(0xff << shift) | u64::from(value) << shift;
        }
    }

    fn half(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.byte(at), self.byte(at + 1)])
    }

    fn set_half(&mut self, at: usize, value: u16) {
        value.to_le_bytes().into_iter().zip(at..).for_each(|(byte, at)| self.set(at, byte));
    }

    fn word(&self, at: usize) -> Result<u32, Lie> {
        let fits = at + 4 <= 8 * self.0.len();
        if fits {
            Ok(u32::from(self.half(at)) | u32::from(self.half(at + 2)) << 16)
        } else {
            Err(Lie::Length)
        }
    }

    fn set_word(&mut self, at: usize, value: u32) {
        self.set_half(at, value as u16);
        self.set_half(at + 2, (value >> 16) as u16);
    }

    /// Choose among the versions that the host speaks: make the message one that offers the best of each that we speak as
    /// well.
    fn negotiate(&mut self) -> Result<(), Lie> {
        const VERSIONS: usize = BODY + 8;
        let counts = [self.half(BODY), self.half(BODY + 2)].map(usize::from);
        let end = VERSIONS + 4 * (counts[0] + counts[1]);
        if end > 8 * self.0.len() {
            return Err(Lie::Length);
        }
        let version = |index: usize| [0, 2].map(|half| self.half(VERSIONS + 4 * index + half));
        let choose = |ours: &[[u16; 2]], first: usize, count: usize| {
            let offered = |wanted: &[u16; 2]| (first..first + count).any(|index| version(index) == *wanted);
            ours.iter().copied().find(offered)
        };
        let frame = choose(&FRAMES, 0, counts[0]);
        let request = choose(&REQUESTS, counts[0], counts[1]);
        let chosen = frame.zip(request);
        let count = u16::from(chosen.is_some());
        self.set_half(BODY, count);
        self.set_half(BODY + 2, count);
        if let Some((frame, request)) = chosen {
            for (half, at) in [frame, request].into_iter().flatten().zip((VERSIONS..).step_by(2)) {
                self.set_half(at, half);
            }
            self.set_half(SIZE, 8 + 8);
            self.set_word(PIPE_LENGTH, (BODY + 16 - 8) as u32);
        }
        Ok(())
    }
}
