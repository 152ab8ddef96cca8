//! Segments that follow one another, made one: what a stack does once per segment it then does once for many.
//!
//! A device merges only what was sent as one. Commands, and answers of a storage service, come each by itself, but many
//! of them wait when the machine looks. [`Train`] appends them to the first where that lies: the payload of those that
//! follow is copied once more, so it takes only segments for which that is less than what the stack would do.
//!
//! Nothing is merged but plain data: IPv4 without options or fragments, TCP without options, of one connection, in
//! sequence, with no flag but ACK and PSH, with what acknowledges on the way, and each with an IP checksum that is right.
//! Whoever calls has seen to it that the TCP checksums are (see [`crate::offload::check_received`]).

/// Ethernet, IP and TCP headers in front of the payload, and where the latter two begin.
const HEADERS: usize = 54;
const IP: usize = 14;
const TCP: usize = 34;
/// The longest payload that is worth a copy.
const WORTH: usize = 4096 + 256;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// A segment of plain data, or one that brings nothing but an acknowledgement.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    /// Bytes up to the end of the payload.
    end: usize,
    sequence: u32,
    acknowledgement: u32,
}

impl Plain {
    /// What `frame` says, if it is plain. This is asked for every frame, so its headers are looked at as words.
    #[inline]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let head = frame.first_chunk::<HEADERS>()?;
        let half = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        // The type of IPv4; its version and length; neither more fragments nor an offset; TCP, whose header has five words.
        let is_plain = half(12) == 0x0800
            && head[IP] == 0x45
            && half(IP + 6) & 0x3fff == 0
            && head[IP + 9] == 6
            && head[TCP + 12] == 0x50
            && head[TCP + 13] & !PSH == ACK;
        let end = IP + usize::from(half(IP + 2));
        if !is_plain || end < HEADERS || end > frame.len() {
            return None;
        }
        // In ones' complement the order of bytes does not matter, nor how many are added at a time (RFC 1071): the sum
        // is right if it is a multiple of all ones. It is not zero, as the version is not.
        let sum = u64::from(word(head, IP))
            + u64::from(word(head, IP + 4))
            + u64::from(word(head, IP + 8))
            + u64::from(word(head, IP + 12))
            + u64::from(word(head, IP + 16));
        let (sequence, acknowledgement) = (word(head, TCP + 4), word(head, TCP + 8));
        sum.is_multiple_of(0xffff).then_some(Self {
            end,
            sequence: u32::from_be(sequence),
            acknowledgement: u32::from_be(acknowledgement),
        })
    }

    fn next_sequence(&self) -> u32 {
        self.sequence.wrapping_add((self.end - HEADERS) as u32)
    }
}

/// Four bytes, in the machine's own order.
#[inline]
fn word(head: &[u8; HEADERS], at: usize) -> u32 {
    u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

/// Whether all is the same that must be: addresses of Ethernet, type, version and length, and type of service; time to
/// live and protocol; addresses; ports.
#[inline]
fn is_same(one: &[u8; HEADERS], other: &[u8; HEADERS]) -> bool {
    let differs = |at: usize| word(one, at) ^ word(other, at);
    let lives = |head: &[u8; HEADERS]| u16::from_ne_bytes([head[IP + 8], head[IP + 9]]);
    let ethernet = differs(0) | differs(4) | differs(8) | differs(12);
    let flow = differs(IP + 12) | differs(IP + 16) | differs(TCP);
    ethernet | flow | u32::from(lives(one) ^ lives(other)) == 0
}

/// A frame to which others are appended.
#[derive(Debug)]
pub struct Train {
    end: usize,
    /// What follows the last one.
    sequence: u32,
    /// What the last one said.
    acknowledgement: u32,
    window: [u8; 2],
    pushed: u8,
}

impl Train {
    /// Begin with `frame`, of which `plain` is what was found.
    pub fn begin(plain: &Plain, frame: &[u8]) -> Option<Self> {
        let head = frame.first_chunk::<HEADERS>()?;
        Some(Self {
            end: plain.end,
            sequence: plain.next_sequence(),
            acknowledgement: plain.acknowledgement,
            window: [head[TCP + 14], head[TCP + 15]],
            pushed: head[TCP + 13],
        })
    }

    /// Append the payload of `next`, of which `plain` is what was found, to the first frame, which lies at the start of
    /// `room`. Answers whether it is in its place there; the first frame is not whole again before [`Train::finish`].
    ///
    /// What brings no data may be an acknowledgement for the second time, by which a peer asks for what is lost (RFC 5681
    /// section 3.2): it goes with others only where it says something new, so that none is swallowed.
    #[inline]
    pub fn append(&mut self, room: &mut [u8], next: &[u8], plain: &Plain) -> bool {
        let (Some(first), Some(head)) = (room.first_chunk::<HEADERS>(), next.first_chunk::<HEADERS>()) else {
            return false;
        };
        let Some(payload) = next.get(HEADERS..plain.end) else { return false };
        let end = self.end + payload.len();
        let advance = plain.acknowledgement.wrapping_sub(self.acknowledgement);
        let is_new = advance != 0 || self.end != HEADERS && !payload.is_empty();
        let follows = plain.sequence == self.sequence
            && advance < 1 << 31
            && is_new
            && payload.len() <= WORTH
            && end <= IP + usize::from(u16::MAX)
            && is_same(first, head);
        let Some(place) = room.get_mut(self.end..end).filter(|_| follows) else { return false };
        place.copy_from_slice(payload);
        self.end = end;
        self.sequence = plain.next_sequence();
        self.acknowledgement = plain.acknowledgement;
        self.window = [head[TCP + 14], head[TCP + 15]];
        self.pushed |= head[TCP + 13];
        true
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
        let mut train = Plain::parse(&bytes).and_then(|plain| Train::begin(&plain, &bytes)).expect("plain");
        let mut append = |frame: &Vec<u8>| {
            Plain::parse(frame).is_some_and(|plain| train.append(&mut bytes, frame, &plain))
        };
        let taken = frames[1..].iter().take_while(|frame| append(frame)).count();
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
    fn an_acknowledgement_goes_along_if_it_says_something_new() {
        let data = frame(1, 5, 100, b"abc");
        let taken = |frames: &[&Vec<u8>]| {
            let frames: Vec<_> = frames.iter().map(|frame| (*frame).clone()).collect();
            train(&frames, 2000).1
        };
        assert_eq!(taken(&[&data, &frame(4, 6, 90, b""), &frame(4, 6, 90, b"def")]), 3);
        assert_eq!(taken(&[&frame(1, 4, 90, b""), &data]), 2);
        assert_eq!(taken(&[&frame(1, 4, 90, b""), &frame(1, 5, 90, b""), &frame(1, 6, 90, b"")]), 3);
        // For the second time, or only of a window; before data and after them.
        assert_eq!(taken(&[&data, &frame(4, 5, 100, b"")]), 1);
        assert_eq!(taken(&[&data, &frame(4, 5, 200, b"")]), 1);
        assert_eq!(taken(&[&frame(1, 5, 100, b""), &frame(1, 5, 100, b"")]), 1);
        assert_eq!(taken(&[&frame(1, 5, 100, b""), &data]), 1);
        // Of something else.
        assert_eq!(taken(&[&data, &frame(5, 6, 100, b"")]), 1);
        assert_eq!(taken(&[&data, &frame(4, 4, 100, b"")]), 1);
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
            assert!(Plain::parse(&bad).is_none(), "{place}");
        }
        for length in 0..good.len() {
            assert!(Plain::parse(&good[..length]).is_none(), "{length}");
        }
    }
}
