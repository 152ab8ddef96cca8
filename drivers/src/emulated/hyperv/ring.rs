//! The host's end of a channel's rings.

use alloc::vec;
use alloc::vec::Vec;
use kernel_io::PAGE;
use kernel_io::emulated::{read_memory, write_memory};

const WRITE: u64 = 0;
const READ: u64 = 4;
const MASK: u64 = 8;
const WAITED_FOR: u64 = 12;

/// A packet, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its type.
    pub kind: u16,
    /// Whether its completion is to be told.
    pub wants_completion: bool,
    /// The number of what it belongs to.
    pub transaction: u64,
    /// What follows the first two words of its header.
    pub header: Vec<u64>,
    /// What it carries.
    pub payload: Vec<u64>,
}

/// One ring: where its control page is, and how many bytes of data follow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ring {
    pub(super) address: u64,
    pub(super) length: u32,
}

impl Ring {
    fn control(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        read_memory(self.address + at, &mut bytes).expect("rings are shared");
        u32::from_le_bytes(bytes)
    }

    pub(super) fn set_control(&self, at: u64, value: u32) {
        write_memory(self.address + at, &value.to_le_bytes()).expect("rings are shared");
    }

    fn word(&self, at: u32) -> u64 {
        let mut bytes = [0; 8];
        read_memory(self.address + PAGE as u64 + u64::from(at % self.length), &mut bytes)
            .expect("rings are shared");
        u64::from_le_bytes(bytes)
    }

    fn set_word(&self, at: u32, word: u64) {
        let address = self.address + PAGE as u64 + u64::from(at % self.length);
        write_memory(address, &word.to_le_bytes()).expect("rings are shared");
    }

    /// Take the guest's next packet. It must be right.
    pub(super) fn take(&self) -> Option<Packet> {
        let (write, read) = (self.control(WRITE), self.control(READ));
        assert!(write < self.length && write % 8 == 0, "an index of {write:#x}");
        let there = (write + self.length - read) % self.length;
        if there == 0 {
            return None;
        }
        let first = self.word(read);
        let [kind, offset, end, flags] = [0, 16, 32, 48].map(|bits| (first >> bits) as u16);
        let (offset, end) = (u32::from(offset), u32::from(end));
        assert!(offset >= 2 && offset <= end && end * 8 + 8 <= there, "a packet that is none");
        let words: Vec<_> = (0..=end).map(|index| self.word(read + 8 * index)).collect();
        assert_eq!(
            words[end as usize],
            u64::from(read) << 32,
            "what stands behind a packet says where it began"
        );
        self.set_control(READ, (read + end * 8 + 8) % self.length);
        Some(Packet {
            kind,
            wants_completion: flags & 1 != 0,
            transaction: words[1],
            header: words[2..offset as usize].to_vec(),
            payload: words[offset as usize..end as usize].to_vec(),
        })
    }

    /// Put a packet into the ring; answers whether the guest is to be interrupted, `None` when there is no room.
    pub(super) fn put(&self, packet: &Packet) -> Option<bool> {
        let (write, read) = (self.control(WRITE), self.control(READ));
        let header = 2 + packet.header.len() as u64;
        let length = header + packet.payload.len() as u64;
        let first =
            u64::from(packet.kind) | header << 16 | length << 32 | u64::from(packet.wants_completion) << 48;
        let mut words = vec![first, packet.transaction];
        words.extend(packet.header.iter().chain(&packet.payload));
        words.push(u64::from(write) << 32);
        // Indices may be some that the test has made up.
        let free = (read % self.length + self.length - write % self.length + self.length - 1) % self.length;
        if free < 8 * words.len() as u32 {
            self.set_control(WAITED_FOR, 8 * words.len() as u32);
            return None;
        }
        self.put_words(&words).then_some(read == write && self.control(MASK) == 0)
    }

    /// Put words into the ring that may be no packet.
    pub(super) fn put_words(&self, words: &[u64]) -> bool {
        let write = self.control(WRITE) % self.length / 8 * 8;
        for (index, word) in (0..).zip(words) {
            self.set_word(write + 8 * index, *word);
        }
        self.set_control(WRITE, (write + 8 * words.len() as u32) % self.length);
        true
    }

    /// The writer's index.
    pub(super) fn written(&self) -> u32 {
        self.control(WRITE)
    }

    /// Words between the indices.
    pub(super) fn waiting(&self) -> u32 {
        (self.control(WRITE) % self.length + self.length - self.control(READ) % self.length) % self.length / 8
    }
}
