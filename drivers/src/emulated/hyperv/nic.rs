//! The host's end of NetVSC.

use super::{Gpadl, Model, Packet};
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use kernel_io::PAGE;
use kernel_io::emulated::{read_memory, write_memory};

const IN_BAND: u16 = 6;
const TRANSFER_PAGES: u16 = 7;
const GPA_DIRECT: u16 = 9;
const COMPLETION: u16 = 11;

/// A frame that the guest has sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The frame.
    pub frame: Vec<u8>,
    /// What is to be done with it: the kind of that, and its value.
    pub todo: Option<(u32, u32)>,
    /// The transaction of its packet.
    pub transaction: u64,
}

/// A NIC as the host has it.
#[derive(Debug)]
pub struct Nic {
    /// Its address.
    pub mac: [u8; 6],
    /// Versions of NVSP that it speaks.
    pub versions: Vec<u32>,
    /// The offload capabilities that it tells: 112 bytes, or none.
    pub offloads: Vec<u8>,
    /// Bytes of a place for a frame, and how many places it says there are, where that is not as many as fit.
    pub section: (u32, Option<u32>),
    /// What it answers to questions, where that is not success.
    pub status: u32,
    /// Whether it says nothing.
    pub silent: bool,
    /// Whether frames are completed as soon as they are seen.
    pub completes: bool,
    /// Frames that were sent.
    pub sent: VecDeque<Sent>,
    /// What was set: objects and values.
    pub settings: BTreeMap<u32, Vec<u8>>,
    version: Option<u32>,
    receive: Option<u32>,
    /// Places that the guest has, by the transaction they were given in.
    given: BTreeMap<u64, Vec<u32>>,
    free: Vec<u32>,
    next: u64,
}

impl Nic {
    pub(super) fn new(number: u8) -> Self {
        Self {
            mac: [0, 0x15, 0x5d, 0, 0, number + 1],
            versions: vec![5 << 16, 4 << 16, 3 << 16 | 2],
            offloads: capabilities(0x14, 0xf53c),
            section: (1806, None),
            status: 0,
            silent: false,
            completes: true,
            sent: VecDeque::new(),
            settings: BTreeMap::new(),
            version: None,
            receive: None,
            given: BTreeMap::new(),
            free: Vec::new(),
            next: 1,
        }
    }

    /// The version of NVSP that was agreed on.
    pub fn version(&self) -> Option<u32> {
        self.version
    }

    /// Whether frames are let through.
    pub fn listens(&self) -> bool {
        self.settings.get(&0x0001_010e).is_some_and(|filter| filter[0] & 1 != 0)
    }

    pub(super) fn close(&mut self) {
        (self.version, self.receive) = (None, None);
        self.given.clear();
        self.free.clear();
        self.settings.clear();
        self.sent.clear();
    }
}

/// Offload capabilities: these checksums, and cutting up to so many bytes.
pub fn capabilities(checksums: u32, cut: u32) -> Vec<u8> {
    let mut bytes = vec![0; 112];
    bytes[..4].copy_from_slice(&[0xa7, 1, 112, 0]);
    for (at, word) in [(4, 2), (8, checksums), (80, 2 * u32::from(cut > 0)), (84, cut)] {
        bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(word));
    }
    bytes
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words_of(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect()
}

/// A message with a frame, and with what is known of its checksums.
pub(super) fn packet(frame: &[u8], checksums: Option<u32>) -> Vec<u8> {
    let info = checksums.map_or(Vec::new(), |value| bytes_of(&[16, 0, 12, value]));
    let front = 36 + info.len();
    let mut words = vec![1, (8 + front + frame.len()) as u32, front as u32, frame.len() as u32, 0, 0, 0];
    words.extend([36, info.len() as u32, 0, 0]);
    [bytes_of(&words), info, frame.to_vec()].concat()
}

/// The words of a message of NVSP.
fn nvsp(words: &[u32]) -> Vec<u64> {
    let word = |index: usize| u64::from(words.get(index).copied().unwrap_or(0));
    (0..4).map(|pair| word(2 * pair) | word(2 * pair + 1) << 32).collect()
}

impl Model {
    fn nic(&mut self, channel: u32) -> &mut Nic {
        self.channels[channel as usize].nic.as_mut().expect("a NIC")
    }

    /// See to what the guest has put into the ring of a NIC.
    pub(super) fn work(&mut self, channel: u32) {
        let state = &self.channels[channel as usize];
        let (Some((_, theirs, _)), Some(_)) = (state.open, &state.nic) else { return };
        while let Some(packet) = theirs.take() {
            let words: Vec<u32> =
                packet.payload.iter().flat_map(|word| [*word as u32, (word >> 32) as u32]).collect();
            match packet.kind {
                IN_BAND => self.control(channel, &packet, &words),
                GPA_DIRECT => self.rndis(channel, &packet, &words),
                COMPLETION => {
                    assert_eq!(words[..2], [108, 1], "what completes a frame");
                    let lied = self.lied;
                    let nic = self.nic(channel);
                    match nic.given.remove(&packet.transaction) {
                        Some(places) => nic.free.extend(places),
                        None => assert!(lied, "a completion of nothing"),
                    }
                }
                kind => panic!("a packet of type {kind}"),
            }
        }
    }

    fn complete(&mut self, channel: u32, packet: &Packet, words: &[u32]) {
        assert!(packet.wants_completion);
        let transaction = packet.transaction;
        let (header, payload) = (Vec::new(), nvsp(words));
        let done = Packet { kind: COMPLETION, wants_completion: false, transaction, header, payload };
        assert!(self.put(channel, &done), "the ring has room for completions");
    }

    fn control(&mut self, channel: u32, packet: &Packet, words: &[u32]) {
        if self.nic(channel).silent {
            return;
        }
        match words[0] {
            1 => {
                assert_eq!(words[1], words[2]);
                let nic = self.nic(channel);
                nic.version = nic.versions.contains(&words[1]).then_some(words[1]);
                let status = if nic.version.is_some() { 1 } else { 0 };
                self.complete(channel, packet, &[2, u32::MAX, 34, status]);
            }
            101 => {
                let size = self.receive_buffer(words[1]).wanted * PAGE;
                let nic = self.nic(channel);
                let count = size as u32 / nic.section.0;
                (nic.receive, nic.free) = (Some(words[1]), (0..count).rev().collect());
                let section = [0, nic.section.0, nic.section.1.unwrap_or(count)];
                self.complete(
                    channel,
                    packet,
                    &[102, 1, 1, section[0], section[1], section[2], section[1].wrapping_mul(section[2])],
                );
            }
            125 => assert_eq!(words[1], 1514),
            100 => assert_eq!(words[1], 6),
            kind => panic!("a message of type {kind}"),
        }
    }

    fn receive_buffer(&self, gpadl: u32) -> &Gpadl {
        &self.gpadls[&gpadl]
    }

    /// What is in the memory that a packet's header names.
    fn shown_by(packet: &Packet) -> Option<Vec<u8>> {
        assert_eq!(packet.header[0] >> 32, 1, "one range");
        let (length, offset) = (packet.header[1] as u32 as usize, packet.header[1] >> 32);
        let pages = &packet.header[2..];
        assert_eq!(pages.len(), (offset as usize + length).div_ceil(PAGE), "as many pages as are needed");
        assert!(pages.windows(2).all(|pair| pair[1] == pair[0] + 1));
        let mut bytes = vec![0; length];
        read_memory(pages[0] * PAGE as u64 + offset, &mut bytes).ok().map(|()| bytes)
    }

    fn rndis(&mut self, channel: u32, packet: &Packet, nvsp: &[u32]) {
        assert_eq!((nvsp[0], nvsp[2]), (107, u32::MAX));
        let shown = Self::shown_by(packet);
        assert!(shown.is_some() || self.lied, "a packet shows memory that is not lent");
        let Some(bytes) = shown else { return };
        let words = words_of(&bytes);
        assert_eq!(words[1] as usize, bytes.len(), "a message says how long it is");
        if nvsp[1] == 0 {
            return self.frame(channel, packet, &bytes, &words);
        }
        let nic = self.nic(channel);
        if nic.silent {
            return;
        }
        let (kind, number, status) = (words[0], words[2], nic.status);
        let mut answer = vec![kind | 1 << 31, 0, number, status];
        let mut more = Vec::new();
        match kind {
            2 => answer.extend([1, 0, 1, 0, 8, 0x4000, 3, 0, 0]),
            4 => {
                more = match words[3] {
                    0x0101_0101 => nic.mac.to_vec(),
                    0xfc01_020d => nic.offloads.clone(),
                    object => panic!("nobody knows {object:#x}"),
                };
                if more.is_empty() {
                    answer[3] = 0xc001_0017;
                }
                answer.extend([more.len() as u32, 16]);
            }
            5 => {
                let (length, offset) = (words[4] as usize, words[5] as usize);
                let value = bytes[8 + offset..8 + offset + length].to_vec();
                nic.settings.insert(words[3], value);
            }
            kind => panic!("a question of type {kind}"),
        }
        let mut message = [bytes_of(&answer), more].concat();
        let length = (message.len() as u32).to_le_bytes();
        message[4..8].copy_from_slice(&length);
        self.complete(channel, packet, &[108, 1]);
        assert!(self.indicate(channel, 1, &[message]), "there is room for an answer");
    }

    fn frame(&mut self, channel: u32, packet: &Packet, bytes: &[u8], words: &[u32]) {
        assert_eq!(words[0], 1);
        let (offset, length) = (8 + words[2] as usize, words[3] as usize);
        let frame = bytes[offset..offset + length].to_vec();
        let info = &bytes[8 + words[7] as usize..][..words[8] as usize];
        let info = words_of(info);
        assert!(words[8] == 0 || (info[0], info[2]) == (16, 12));
        let todo = (words[8] > 0).then(|| (info[1], info[3]));
        let transaction = packet.transaction;
        let nic = self.nic(channel);
        nic.sent.push_back(Sent { frame, todo, transaction });
        if nic.completes {
            self.complete(channel, packet, &[108, 1]);
        }
    }

    /// Put messages into places of the guest's memory, and tell it. Answers whether there was room.
    pub(super) fn indicate(&mut self, channel: u32, kind: u32, messages: &[Vec<u8>]) -> bool {
        let nic = self.nic(channel);
        let Some(gpadl) = nic.receive else { return false };
        if nic.free.len() < messages.len() {
            return false;
        }
        let places: Vec<u32> = messages.iter().filter_map(|_| nic.free.pop()).collect();
        let (size, transaction) = (nic.section.0, nic.next);
        nic.next += 1;
        let start = self.receive_buffer(gpadl).pages[0] * PAGE as u64;
        let mut header = vec![0xcafe | (messages.len() as u64) << 32];
        for (place, message) in places.iter().zip(messages) {
            let offset = place * size;
            write_memory(start + u64::from(offset), message).expect("memory of the guest's for frames");
            header.push(message.len() as u64 | u64::from(offset) << 32);
        }
        self.nic(channel).given.insert(transaction, places);
        let payload = nvsp(&[107, kind, u32::MAX]);
        let packet = Packet { kind: TRANSFER_PAGES, wants_completion: true, transaction, header, payload };
        let put = self.put(channel, &packet);
        if !put {
            let nic = self.nic(channel);
            let places = nic.given.remove(&transaction).unwrap_or_default();
            nic.free.extend(places);
        }
        put
    }
}
