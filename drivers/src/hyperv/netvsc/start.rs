//! From a closed channel to a NIC: agreeing on NVSP, giving the host memory, and asking by RNDIS what there is.

use super::super::bus::ANSWER_TIME;
use super::super::ring::{self, Lie};
use super::super::rndis::{self, HEADER};
use super::receive::RECEIVE_BUFFER;
use super::transmit::Pages;
use super::{ETHERNET, LONGEST, MTU, NetVsc};
use crate::Error;
use crate::nic::station;
use alloc::boxed::Box;
use kernel_io::{PAGE, Shared};

/// Versions of NVSP, the newest first, each with the version of NDIS that goes with it: those of Windows 8.1, 8 and 7.
const VERSIONS: [(u32, [u32; 2]); 3] = [(5 << 16, [6, 30]), (4 << 16, [6, 1]), (3 << 16 | 2, [6, 1])];
/// Types of messages.
const INIT: u32 = 1;
const INIT_COMPLETE: u32 = 2;
const NDIS_VERSION: u32 = 100;
const RECEIVE_BUFFER_IS: u32 = 101;
const RECEIVE_BUFFER_COMPLETE: u32 = 102;
pub(super) const RNDIS: u32 = 107;
pub(super) const RNDIS_COMPLETE: u32 = 108;
const NDIS_CONFIG: u32 = 125;
pub(super) const SUCCESS: u32 = 1;
/// What is sent is a frame, or a question; none of it lies in memory that the host was given for this.
const DATA: u32 = 0;
const QUESTION: u32 = 1;
const NO_SECTION: u32 = u32::MAX;
/// Transactions of questions; those of frames are below.
const QUESTIONS: u64 = 1 << 32;

/// NDIS_OFFLOAD, revision 1: its header and length, and by their offsets what a host does with frames of IPv4 that are sent:
/// checksums; cutting, how long a frame it takes for that.
const OFFLOAD: u32 = 0xa7 | 1 << 8 | (OFFLOAD_LENGTH as u32) << 16;
const OFFLOAD_LENGTH: usize = 112;
const CHECKSUM_FRAMING: usize = 4;
const CHECKSUMS: usize = 8;
const CUT_FRAMING: usize = 80;
const CUT_MOST: usize = 84;
/// Ethernet; a checksum of TCP with options and without.
const FRAMING_ETHERNET: u32 = 2;
const TCP: u32 = 0x14;
/// NDIS_OFFLOAD_PARAMETERS, revision 1: no checksums of IP, those of TCP both ways, and whether frames are cut.
const PARAMETERS: [u8; 4] = [0x80, 1, 20, 0];

/// A message of NVSP.
pub(super) fn nvsp<const N: usize>(words: [u32; N]) -> [u64; 4] {
    let mut message = [0; 4];
    for (index, word) in words.into_iter().enumerate() {
        message[index / 2] |= u64::from(word) << (32 * (index % 2));
    }
    message
}

/// The one that says that a frame goes with it.
pub(super) fn rndis_data() -> [u64; 4] {
    nvsp([RNDIS, DATA, NO_SECTION, 0])
}

/// Word `index` of a message.
fn half(message: &[u64; 4], index: usize) -> u32 {
    (message[index / 2] >> (32 * (index % 2))) as u32
}

/// What the host does with frames that are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Offloads {
    /// It makes checksums of TCP.
    pub(super) checksum: bool,
    /// It cuts frames of so many bytes; zero where it does not.
    pub(super) segments: usize,
}

/// The one request or question that is under way.
#[derive(Debug)]
pub(super) struct Control {
    /// What is asked.
    page: Shared,
    number: u32,
    /// The transaction that is to be completed; zero when none is.
    awaited: u64,
    completion: [u64; 4],
    /// What kind of answer is waited for, its status, and how many bytes there are.
    kind: u32,
    answer: Option<(u32, usize)>,
    bytes: [u8; OFFLOAD_LENGTH],
}

impl Control {
    pub(super) fn new() -> Result<Box<Self>, Error> {
        let (completion, bytes) = ([0; 4], [0; OFFLOAD_LENGTH]);
        let page = Shared::allocate(PAGE)?;
        Ok(Box::new(Self { page, number: 0, awaited: 0, completion, kind: 0, answer: None, bytes }))
    }

    /// The host has completed something that is no frame.
    pub(super) fn completed(&mut self, transaction: u64, words: [u64; 4]) -> Result<(), Lie> {
        if self.awaited == 0 || transaction != self.awaited {
            return Err(Lie::Transaction);
        }
        (self.awaited, self.completion) = (0, words);
        Ok(())
    }

    /// The host has answered. What nobody has asked is nothing.
    pub(super) fn answered(&mut self, message: &rndis::Received) -> Result<(), Lie> {
        if message.kind == self.kind && message.word(0)? == self.number {
            self.answer = Some(message.answer(&mut self.bytes)?);
            self.kind = 0;
        }
        Ok(())
    }

    /// A word of the answer, if it is so long.
    fn word(&self, at: usize) -> u32 {
        let length = self.answer.map_or(0, |(_, length)| length);
        let bytes = self.bytes[..length].get(at..at + 4).and_then(|bytes| bytes.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }

    fn next(&mut self) -> u64 {
        self.number = self.number.wrapping_add(1);
        self.awaited = QUESTIONS | u64::from(self.number);
        self.awaited
    }
}

impl From<Lie> for Error {
    fn from(_: Lie) -> Self {
        Self::Layout("what the host says")
    }
}

impl NetVsc {
    /// Open the channel and agree, on the same as before if there is a before. Answers its address.
    pub(super) fn begin(&mut self, before: Option<Offloads>) -> Result<[u8; 6], Error> {
        self.channel.open()?;
        self.armed = true;
        self.control.awaited = 0;
        let ndis = self.negotiate()?;
        // The length that the host calls MTU is that of a frame.
        let config = nvsp([NDIS_CONFIG, (MTU + ETHERNET) as u32]);
        self.channel.push((ring::IN_BAND, 0, 0), &[], &config)?;
        self.channel.push((ring::IN_BAND, 0, 0), &[], &nvsp([NDIS_VERSION, ndis[0], ndis[1]]))?;
        self.give_memory()?;
        self.ask(rndis::INITIALIZE, &[1, 0, 0x4000])?;

        let length = self.query(rndis::PERMANENT_ADDRESS, &[])?;
        let mac = self.control.bytes[..length].first_chunk::<6>().copied();
        let mac = station(mac.unwrap_or_default())?;
        let offered = self.offered()?;
        let lacks = |had: Offloads| had.checksum && !offered.checksum || offered.segments < had.segments;
        if before.is_some_and(lacks) {
            return Err(Error::Features);
        }
        let agreed = before.unwrap_or(offered);
        let mut parameters = [0; 20];
        parameters[..4].copy_from_slice(&PARAMETERS);
        // One is off, four is both ways; for cutting it is one and two.
        (parameters[4], parameters[5]) = (1, if agreed.checksum { 4 } else { 1 });
        parameters[11] = if agreed.segments > 0 { 2 } else { 1 };
        match self.set(rndis::OFFLOAD_PARAMETERS, &parameters) {
            Ok(()) => self.transmit.offloads = agreed,
            Err(Error::Refused(_)) if before.is_none_or(|had| had == Offloads::default()) => {}
            Err(error) => return Err(error),
        }
        Ok(mac)
    }

    /// Let frames come.
    pub(super) fn listen(&mut self) -> Result<(), Error> {
        self.set(rndis::PACKET_FILTER, &rndis::FILTER.to_le_bytes())
    }

    /// Agree on a version. Answers that of NDIS.
    fn negotiate(&mut self) -> Result<[u32; 2], Error> {
        for (version, ndis) in VERSIONS {
            let answer = self.request(nvsp([INIT, version, version]))?;
            if half(&answer, 0) == INIT_COMPLETE && half(&answer, 3) == SUCCESS {
                return Ok(ndis);
            }
        }
        Err(Error::Unsupported("its version of NVSP"))
    }

    /// Give the host memory to put frames into, and see how it divides it.
    fn give_memory(&mut self) -> Result<(), Error> {
        let gpadl = self.channel.bus.share(self.channel.id, &self.receive.memory)?;
        self.receive.gpadl = Some(gpadl);
        let answer = self.request(nvsp([RECEIVE_BUFFER_IS, gpadl, RECEIVE_BUFFER.into()]))?;
        let [kind, status, sections, _, size, count] = [0, 1, 2, 3, 4, 5].map(|index| half(&answer, index));
        if kind != RECEIVE_BUFFER_COMPLETE || status != SUCCESS || sections != 1 {
            return Err(Error::Refused("memory for frames"));
        }
        let fits = u64::from(size) * u64::from(count) <= self.receive.memory.length() as u64;
        // Smaller ones would be more than there is room for answers.
        if !fits || (size as usize) < LONGEST || count == 0 {
            return Err(Error::Layout("how it divides memory"));
        }
        Ok(())
    }

    /// What the host does with frames that are sent. One that does not say does nothing.
    fn offered(&mut self) -> Result<Offloads, Error> {
        let mut question = [0; OFFLOAD_LENGTH];
        question[..4].copy_from_slice(&OFFLOAD.to_le_bytes());
        match self.query(rndis::OFFLOAD_CAPABILITIES, &question) {
            Ok(_) => {}
            Err(Error::Refused(_)) => return Ok(Offloads::default()),
            Err(error) => return Err(error),
        }
        let word = |at| self.control.word(at);
        let checksum = word(CHECKSUM_FRAMING) & FRAMING_ETHERNET != 0 && word(CHECKSUMS) & TCP == TCP;
        let cuts = checksum && word(CUT_FRAMING) & FRAMING_ETHERNET != 0;
        Ok(Offloads { checksum, segments: if cuts { word(CUT_MOST) as usize } else { 0 } })
    }

    /// Send a message and wait for its completion.
    fn request(&mut self, message: [u64; 4]) -> Result<[u64; 4], Error> {
        let transaction = self.control.next();
        self.channel.push((ring::IN_BAND, ring::WANTS_COMPLETION, transaction), &[], &message)?;
        self.wait(|control| control.awaited == 0)?;
        Ok(self.control.completion)
    }

    fn query(&mut self, object: u32, input: &[u8]) -> Result<usize, Error> {
        self.ask_about(rndis::QUERY, object, input)
    }

    fn set(&mut self, object: u32, value: &[u8]) -> Result<(), Error> {
        self.ask_about(rndis::SET, object, value).map(|_| ())
    }

    /// Ask about an object. Input follows the five words of the question.
    fn ask_about(&mut self, kind: u32, object: u32, input: &[u8]) -> Result<usize, Error> {
        const OFFSET: u32 = 20;
        self.control.page.write_bytes(HEADER + OFFSET as usize, input);
        let words = [object, input.len() as u32, OFFSET, 0];
        self.ask_with(kind, &words, input.len())
    }

    fn ask(&mut self, kind: u32, words: &[u32]) -> Result<usize, Error> {
        self.ask_with(kind, words, 0)
    }

    /// Ask, and wait for the answer. Answers how many bytes of it there are.
    fn ask_with(&mut self, kind: u32, words: &[u32], input: usize) -> Result<usize, Error> {
        let transaction = self.control.next();
        let length = HEADER + 4 + 4 * words.len() + input;
        let control = &mut self.control;
        let head = [kind, length as u32, control.number];
        for (index, word) in head.iter().chain(words).enumerate() {
            control.page.write32(4 * index, *word);
        }
        (control.kind, control.answer) = (kind | rndis::ANSWER, None);
        let pages = Pages::new(control.page.address(), length);
        let message = nvsp([RNDIS, QUESTION, NO_SECTION, 0]);
        let head = (ring::GPA_DIRECT, ring::WANTS_COMPLETION, transaction);
        self.channel.push(head, pages.words(), &message)?;
        self.wait(|control| control.awaited == 0 && control.answer.is_some())?;
        match self.control.answer {
            Some((0, length)) => Ok(length),
            _ => Err(Error::Refused("a question")),
        }
    }

    /// Work through the ring until `done`. Frames that come meanwhile are for nobody.
    fn wait(&mut self, done: impl Fn(&Control) -> bool) -> Result<(), Error> {
        let mut result = Err(Error::NoAnswer);
        kernel_io::wait(self.channel.bus.time(ANSWER_TIME), || {
            match self.next_frame() {
                Ok(frame) => self.counters.dropped += u64::from(frame),
                Err(lie) => result = Err(lie.into()),
            }
            self.channel.flush();
            if done(&self.control) {
                result = Ok(());
            }
            result != Err(Error::NoAnswer)
        });
        result
    }
}
