//! Segments that follow one another, made one: what a stack does once per segment it then does once for many.
//!
//! A device merges only what was sent as one. Commands, and answers of a storage service, come each by itself, but many
//! of them wait when the machine looks. [`Train`] appends them to the first where that lies: the payload of those that
//! follow is copied once more, so it takes only segments for which that is less than what the stack would do.
//!
//! Nothing is merged but plain data: IPv4 without options or fragments, TCP without options, of one connection, in
//! sequence, with no flag but ACK and PSH, and each with an IP checksum that is right. Whoever calls has seen to it that
//! the TCP checksums are (see [`crate::offload::check_received`]).

use core::ops::Range;

/// Ethernet, IP and TCP headers in front of the payload, and where the latter two begin.
const HEADERS: usize = 54;
const IP: usize = 14;
const TCP: usize = 34;
/// The longest payload that is worth a copy.
const WORTH: usize = 4096 + 256;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// A segment of plain data.
#[derive(Clone, Copy, Debug)]
struct Plain {
    /// Bytes up to the end of the payload.
    end: usize,
    sequence: u32,
    acknowledgement: u32,
}

impl Plain {
    fn parse(frame: &[u8]) -> Option<Self> {
        let head = frame.first_chunk::<HEADERS>()?;
        let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let word = |at: usize| u32::from(half(at)) << 16 | u32::from(half(at + 2));
        // The type of IPv4; its version and length; neither more fragments nor an offset; TCP, whose header has five words.
        let is_plain = half(12) == 0x0800
            && head[IP] == 0x45
            && half(IP + 6) & 0x3fff == 0
            && head[IP + 9] == 6
            && head[TCP + 12] == 0x50
            && head[TCP + 13] & !PSH == ACK;
        let end = IP + usize::from(half(IP + 2));
        if !is_plain || end <= HEADERS || end > frame.len() {
            return None;
        }
        // Of ten halves, so it fits into 20 bits and needs no more than two carries.
        let sum = [0, 2, 4, 6, 8, 10, 12, 14, 16, 18].map(|at| u32::from(half(IP + at))).iter().sum::<u32>();
        let folded = (sum & 0xffff) + (sum >> 16);
        let is_right = (folded & 0xffff) + (folded >> 16) == 0xffff;
        is_right.then(|| Self { end, sequence: word(TCP + 4), acknowledgement: word(TCP + 8) })
    }

    fn next_sequence(&self) -> u32 {
        self.sequence.wrapping_add((self.end - HEADERS) as u32)
    }
}

/// A frame to which others are appended.
#[derive(Debug)]
pub struct Train {
    first: Plain,
    end: usize,
    /// What the last one said.
    acknowledgement: u32,
    window: [u8; 2],
    pushed: u8,
}

/// What must be the same in all frames: addresses of Ethernet, type, version and length; type of service; time to live
/// and protocol; addresses and ports.
const SAME: [Range<usize>; 4] = [0..IP + 1, IP + 1..IP + 2, IP + 8..IP + 10, IP + 12..TCP + 4];

impl Train {
    /// Begin with `frame`, if it is plain data.
    pub fn begin(frame: &[u8]) -> Option<Self> {
        let first = Plain::parse(frame)?;
        let window = [frame[TCP + 14], frame[TCP + 15]];
        let (acknowledgement, pushed) = (first.acknowledgement, frame[TCP + 13]);
        Some(Self { first, end: first.end, acknowledgement, window, pushed })
    }

    /// Append the payload of `next` to the first frame, which lies at the start of `room`. Answers whether it is in its
    /// place there; the first frame is not whole again before [`Train::finish`].
    pub fn append(&mut self, room: &mut [u8], next: &[u8]) -> bool {
        let Some(plain) = Plain::parse(next) else { return false };
        let payload = &next[HEADERS..plain.end];
        let end = self.end + payload.len();
        let follows = plain.sequence == self.next_sequence()
            && plain.acknowledgement.wrapping_sub(self.acknowledgement) < 1 << 31
            && payload.len() <= WORTH
            && end <= IP + usize::from(u16::MAX)
            && SAME.into_iter().all(|same| room[same.clone()] == next[same]);
        if !follows {
            return false;
        }
        let Some(place) = room.get_mut(self.end..end) else { return false };
        place.copy_from_slice(payload);
        self.end = end;
        self.acknowledgement = plain.acknowledgement;
        self.window = [next[TCP + 14], next[TCP + 15]];
        self.pushed |= next[TCP + 13];
        true
    }

    fn next_sequence(&self) -> u32 {
        self.first.next_sequence().wrapping_add((self.end - self.first.end) as u32)
    }

    /// Make the first frame, at the start of `room`, say what it is now. Answers its length.
    pub fn finish(self, room: &mut [u8]) -> usize {
        let length = (self.end - IP) as u16;
        let old = u16::from_be_bytes([room[IP + 2], room[IP + 3]]);
        let sum = u16::from_be_bytes([room[IP + 10], room[IP + 11]]);
        // RFC 1624: the sum, less what was there, plus what is.
        let sum = u32::from(!sum) + u32::from(!old) + u32::from(length);
        let folded = (sum & 0xffff) + (sum >> 16);
        let sum = !((folded & 0xffff) + (folded >> 16)) as u16;
        room[IP + 2..IP + 4].copy_from_slice(&length.to_be_bytes());
        room[IP + 10..IP + 12].copy_from_slice(&sum.to_be_bytes());
        room[TCP + 8..TCP + 12].copy_from_slice(&self.acknowledgement.to_be_bytes());
        room[TCP + 13] = self.pushed;
        room[TCP + 14..TCP + 16].copy_from_slice(&self.window);
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::tests::{SEGMENT, frame_of};
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{TcpControl, TcpRepr, TcpSeqNumber};

    fn frame(sequence: u32, acknowledgement: u32, window: u16, payload: &[u8]) -> Vec<u8> {
        let tcp = TcpRepr {
            control: TcpControl::None,
            seq_number: TcpSeqNumber(sequence as i32),
            ack_number: Some(TcpSeqNumber(acknowledgement as i32)),
            window_len: window,
            payload,
            ..SEGMENT
        };
        frame_of(&tcp, &ChecksumCapabilities::default())
    }

    /// The train of `frames`, as far as they are taken, and how many were.
    fn train(frames: &[Vec<u8>], room: usize) -> (Vec<u8>, usize) {
        let mut bytes = frames[0].clone();
        bytes.resize(room, 0);
        let mut train = Train::begin(&bytes).expect("plain");
        let taken = frames[1..].iter().take_while(|frame| train.append(&mut bytes, frame)).count();
        let length = train.finish(&mut bytes);
        bytes.truncate(length);
        (bytes, 1 + taken)
    }

    #[test]
    fn segments_in_sequence_become_one_that_could_have_been_sent() {
        // Across the wrap of both numbers; the first is padded as short frames are.
        let sequence = u32::MAX - 3;
        let mut first = frame(sequence, u32::MAX, 100, b"abc");
        first.extend([0; 3]);
        let frames = [
            first,
            frame(sequence + 3, 1, 90, b"defgh"),
            frame(sequence.wrapping_add(8), 1, 110, &[7; 4096]),
        ];
        let (merged, count) = train(&frames, 65536);
        assert_eq!(count, 3);
        let payload = [&b"abcdefgh"[..], &[7; 4096]].concat();
        let mut expected = frame(sequence, 1, 110, &payload);
        // Its TCP checksum is nobody's concern any more.
        expected[TCP + 16..TCP + 18].copy_from_slice(&merged[TCP + 16..TCP + 18]);
        assert!(merged == expected);
    }

    #[test]
    fn what_does_not_follow_is_not_taken() {
        let first = frame(1, 5, 100, b"abc");
        let good = frame(4, 5, 100, b"def");
        assert_eq!(train(&[first.clone(), good.clone()], 2000).1, 2);
        let refused = |next: Vec<u8>| assert_eq!(train(&[first.clone(), next], 9000).1, 1);
        refused(frame(3, 5, 100, b"def"));
        refused(frame(5, 5, 100, b"def"));
        refused(frame(4, 4, 100, b"def"));
        refused(frame(4, 5, 100, b""));
        refused(frame(4, 5, 100, &[0; WORTH + 1]));
        refused(good[..good.len() - 1].to_vec());
        // Each byte of the headers but sequence, identification, acknowledgement, window, urgency and TCP's checksum
        // matters; where an IP checksum is wrong, all of them do.
        for place in (0..TCP + 4).chain([TCP + 12, TCP + 13]) {
            for bit in [1, 0x20, 0x80] {
                let mut bad = good.clone();
                bad[place] ^= bit;
                refused(bad);
            }
        }
    }

    #[test]
    fn a_train_ends_where_its_room_does_or_what_a_length_can_say() {
        let frames: Vec<_> = (0..40).map(|n| frame(n * 4000, 5, 100, &[n as u8; 4000])).collect();
        assert_eq!(train(&frames, 9000).1, 2);
        assert_eq!(train(&frames, 100_000).1, 16);
    }

    #[test]
    fn what_is_not_plain_data_begins_nothing() {
        let good = frame(1, 5, 100, b"abc");
        for (place, value) in
            [(12, 9), (IP, 0x46), (IP + 6, 0x20), (IP + 9, 17), (TCP + 12, 0x60), (TCP + 13, 0x11)]
        {
            let mut bad = good.clone();
            bad[place] = value;
            assert!(Train::begin(&bad).is_none(), "{place}");
        }
        for length in 0..good.len() {
            assert!(Train::begin(&good[..length]).is_none(), "{length}");
        }
    }
}
