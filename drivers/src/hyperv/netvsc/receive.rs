//! What the host puts into the ring: frames, by where they lie in the memory it was given; answers; completions.

use super::super::bus::Channel;
use super::super::ring::{self, Lie, Packet};
use super::super::rndis;
use super::start::{RNDIS, RNDIS_COMPLETE, SUCCESS, nvsp};
use super::{ETHERNET, LONGEST, NetVsc};
use crate::nic::vouch;
use crate::{Error, Received};
use alloc::boxed::Box;
use kernel_io::{PAGE, Shared};

/// How the host calls the memory that it puts frames into.
pub(super) const RECEIVE_BUFFER: u16 = 0xcafe;
/// Bytes of it: at least and at most.
const LEAST: usize = 64 << 10;
const MOST: usize = 1 << 20;
/// Packets of the ring that are looked at before the rest of the machine has its turn.
const ROUND: usize = 256;

/// Memory for frames, and the frame that the stack looks at.
#[derive(Debug)]
pub(super) struct Receive {
    pub(super) memory: Shared,
    pub(super) gpadl: Option<u32>,
    frame: Box<[u8; LONGEST]>,
    length: usize,
    /// A packet with frames, how many it has, and the next one.
    current: Option<(Packet, u32, u32)>,
    /// What was found when nobody asked.
    pub(super) lied: Option<Lie>,
}

impl Receive {
    pub(super) fn new(memory: usize) -> Result<Self, Error> {
        let memory = Shared::allocate(memory.clamp(LEAST, MOST) / PAGE * PAGE)?;
        let frame = Box::new([0; LONGEST]);
        Ok(Self { memory, gpadl: None, frame, length: 0, current: None, lied: None })
    }

    /// Let the host use the memory no more, once its channel is closed.
    pub(super) fn take_back(&mut self, channel: &Channel) -> Result<(), Error> {
        if let Some(gpadl) = self.gpadl {
            channel.bus.unshare(channel.id, gpadl)?;
        }
        (self.gpadl, self.current, self.lied) = (None, None, None);
        Ok(())
    }

    /// Whether frames wait of what was begun, or there is something to be said.
    pub(super) fn waits(&self) -> bool {
        self.current.is_some() || self.lied.is_some()
    }

    /// Copy a frame that is believed out of the memory. Answers whether it was.
    fn take(&mut self, message: &rndis::Received) -> Result<bool, Lie> {
        let (start, length, checksums) = message.frame()?;
        if !(ETHERNET..=LONGEST).contains(&length) || checksums.failed() {
            return Ok(false);
        }
        self.memory.read_bytes(start, &mut self.frame[..length]);
        self.length = length;
        let frame = &mut self.frame[..length];
        Ok(vouch(frame, checksums.tcp_is_right(), checksums.udp_is_right()))
    }
}

impl NetVsc {
    /// Work through the ring up to the next frame that is believed, and have it ready. Others are counted and given back.
    pub(super) fn next_frame(&mut self) -> Result<bool, Lie> {
        if let Some(lie) = self.receive.lied.take() {
            return Err(lie);
        }
        for _ in 0..ROUND {
            match self.receive.current {
                Some((packet, count, next)) if next < count => {
                    self.receive.current = Some((packet, count, next + 1));
                    if self.take_range(&packet, next)? {
                        return Ok(true);
                    }
                }
                Some((packet, ..)) => {
                    self.receive.current = None;
                    self.channel.incoming.advance(&packet);
                    let done = nvsp([RNDIS_COMPLETE, SUCCESS]);
                    self.channel.push((ring::COMPLETION, 0, packet.transaction), &[], &done)?;
                }
                None => {
                    let Some(packet) = self.channel.incoming.peek(&self.channel.memory)? else {
                        return Ok(false);
                    };
                    self.look_at(&packet)?;
                }
            }
        }
        Ok(false)
    }

    fn look_at(&mut self, packet: &Packet) -> Result<(), Lie> {
        let Channel { memory, incoming, .. } = &self.channel;
        match packet.kind {
            ring::TRANSFER_PAGES => {
                let set = incoming.header(memory, packet, 0)?;
                let is_rndis = incoming.payload(memory, packet, 0)? as u32 == RNDIS;
                if set as u16 != RECEIVE_BUFFER || !is_rndis {
                    return Err(Lie::Range);
                }
                self.receive.current = Some((*packet, (set >> 32) as u32, 0));
                return Ok(());
            }
            ring::COMPLETION if self.transmit.is_under_way(packet.transaction) => {
                self.transmit.completed(packet.transaction);
            }
            ring::COMPLETION => {
                let mut words = [0; 4];
                for (index, word) in words.iter_mut().enumerate().take(packet.length()) {
                    *word = incoming.payload(memory, packet, index as u32)?;
                }
                self.control.completed(packet.transaction, words)?;
            }
            // What else it has to say concerns what we have not asked for.
            ring::IN_BAND => {}
            _ => return Err(Lie::Kind),
        }
        self.channel.incoming.advance(packet);
        Ok(())
    }

    /// See to a part of the memory that the host has written a message to. Answers whether it is a frame for the stack.
    fn take_range(&mut self, packet: &Packet, index: u32) -> Result<bool, Lie> {
        let Channel { memory, incoming, .. } = &self.channel;
        let range = incoming.header(memory, packet, 1 + index)?;
        let (length, start) = (range as u32 as usize, (range >> 32) as usize);
        if start.checked_add(length).is_none_or(|end| end > self.receive.memory.length()) {
            return Err(Lie::Range);
        }
        let message = rndis::Received::new(&self.receive.memory, start, length)?;
        match message.kind {
            rndis::PACKET => {
                let taken = self.receive.take(&message)?;
                self.counters.dropped += u64::from(!taken);
                return Ok(taken);
            }
            rndis::INDICATE_STATUS => match message.word(0)? {
                rndis::MEDIA_CONNECT => self.say_link(true),
                rndis::MEDIA_DISCONNECT => self.say_link(false),
                _ => {}
            },
            kind if kind & rndis::ANSWER != 0 => self.control.answered(&message)?,
            _ => {}
        }
        Ok(false)
    }

    /// Say when the link goes or comes. Nothing else follows from it: what is sent meanwhile is lost, as on a wire.
    fn say_link(&mut self, link: bool) {
        if link != self.link {
            log::warn!("{}: the link is {}", self.location(), if link { "up" } else { "down" });
        }
        self.link = link;
    }
}

/// A received frame.
#[derive(Debug)]
pub struct Rx<'a>(&'a [u8]);

impl<'a> Rx<'a> {
    pub(super) fn new(receive: &'a Receive) -> Self {
        Self(&receive.frame[..receive.length])
    }
}

impl Received for Rx<'_> {
    #[inline]
    fn frame(&self) -> &[u8] {
        self.0
    }
}
