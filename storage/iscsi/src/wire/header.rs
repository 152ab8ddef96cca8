//! The basic header segment and how fields lie in it.

use super::{BASIC_HEADER, opcode};

/// The 48 bytes every PDU begins with (11.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header(pub [u8; BASIC_HEADER]);

impl Header {
    /// A header of zeroes with this first and second byte.
    pub(super) const fn new(first: u8, second: u8) -> Self {
        let mut bytes = [0; BASIC_HEADER];
        bytes[0] = first;
        bytes[1] = second;
        Self(bytes)
    }

    /// The operation code.
    pub const fn opcode(&self) -> u8 {
        self.0[0] & 0x3f
    }

    /// The I bit: deliver now, out of sequence.
    pub const fn immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    /// Set or clear the I bit.
    #[must_use]
    pub const fn with_immediate(mut self, immediate: bool) -> Self {
        self.0[0] = if immediate { self.0[0] | 0x40 } else { self.0[0] & !0x40 };
        self
    }

    /// Bytes of additional header segments that follow.
    pub const fn additional_headers(&self) -> usize {
        self.0[4] as usize * 4
    }

    /// Say how many bytes of additional header segments follow; a multiple of four, at most 1,020.
    #[must_use]
    pub const fn with_additional_headers(mut self, bytes: usize) -> Self {
        self.0[4] = (bytes / 4) as u8;
        self
    }

    /// DataSegmentLength: bytes of data that follow, without padding.
    pub const fn data_segment(&self) -> u32 {
        u32::from_be_bytes([0, self.0[5], self.0[6], self.0[7]])
    }

    /// Say how many bytes of data follow; at most [`super::MAX_DATA_SEGMENT`].
    #[must_use]
    pub const fn with_data_segment(mut self, length: u32) -> Self {
        let [_, high, middle, low] = length.to_be_bytes();
        self.0[5] = high;
        self.0[6] = middle;
        self.0[7] = low;
        self
    }

    /// The Initiator Task Tag.
    pub fn initiator_task_tag(&self) -> u32 {
        At(16).get(self)
    }

    /// CmdSN, in the requests that have one.
    pub fn cmd_sn(&self) -> u32 {
        At(24).get(self)
    }

    /// ExpStatSN, in requests from the initiator.
    pub fn exp_stat_sn(&self) -> u32 {
        At(28).get(self)
    }

    /// Whether the operation code is one that an initiator may send, vendor codes included.
    pub const fn from_initiator(&self) -> bool {
        self.opcode() < opcode::NOP_IN
    }
}

/// Zero bytes between data of this length and what follows it (11.1).
pub const fn padding(length: u32) -> usize {
    (length as usize).wrapping_neg() & 3
}

/// Where a field of type `T` lies.
pub(super) trait Place<T> {
    fn get(&self, header: &Header) -> T;
    fn put(&self, header: &mut Header, value: T);
}

/// A big-endian number or an opaque field that begins at this byte.
pub(super) struct At(pub(super) usize);
/// One bit: byte and mask.
pub(super) struct Bit(pub(super) usize, pub(super) u8);
/// Neighbouring bits of one byte: byte and mask.
pub(super) struct Bits(pub(super) usize, pub(super) u8);
/// The 24 bits of DataSegmentLength.
pub(super) struct DataSegment;

impl Place<u8> for At {
    fn get(&self, header: &Header) -> u8 {
        header.0[self.0]
    }
    fn put(&self, header: &mut Header, value: u8) {
        header.0[self.0] = value;
    }
}

impl Place<bool> for Bit {
    fn get(&self, header: &Header) -> bool {
        header.0[self.0] & self.1 != 0
    }
    fn put(&self, header: &mut Header, value: bool) {
        if value {
            header.0[self.0] |= self.1;
        }
    }
}

impl Place<u8> for Bits {
    fn get(&self, header: &Header) -> u8 {
        (header.0[self.0] & self.1) >> self.1.trailing_zeros()
    }
    fn put(&self, header: &mut Header, value: u8) {
        header.0[self.0] |= (value << self.1.trailing_zeros()) & self.1;
    }
}

impl Place<u32> for DataSegment {
    fn get(&self, header: &Header) -> u32 {
        header.data_segment()
    }
    fn put(&self, header: &mut Header, value: u32) {
        *header = header.with_data_segment(value);
    }
}

impl Place<u16> for At {
    fn get(&self, header: &Header) -> u16 {
        u16::from_be_bytes(Place::<[u8; 2]>::get(self, header))
    }
    fn put(&self, header: &mut Header, value: u16) {
        self.put(header, value.to_be_bytes());
    }
}

impl Place<u32> for At {
    fn get(&self, header: &Header) -> u32 {
        u32::from_be_bytes(Place::<[u8; 4]>::get(self, header))
    }
    fn put(&self, header: &mut Header, value: u32) {
        self.put(header, value.to_be_bytes());
    }
}

impl<const N: usize> Place<[u8; N]> for At {
    fn get(&self, header: &Header) -> [u8; N] {
        core::array::from_fn(|index| header.0[self.0 + index])
    }
    fn put(&self, header: &mut Header, value: [u8; N]) {
        header.0[self.0..self.0 + N].copy_from_slice(&value);
    }
}

/// Declare a PDU as the table of its fields: `field: type = place`.
macro_rules! layout {
    ($(#[$doc:meta])* $name:ident = $opcode:expr, $second:literal {
        $($(#[$field_doc:meta])* $field:ident: $type:ty = $place:expr,)*
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $name {
            /// Take the fields out of a header. The operation code is not looked at.
            pub fn read(header: &Header) -> Self {
                Self { $($field: Place::get(&$place, header),)* }
            }

            /// Put the fields into a header with this operation code.
            pub fn header(&self) -> Header {
                let mut header = Header::new($opcode, $second);
                $(Place::put(&$place, &mut header, self.$field);)*
                header
            }
        }
    };
}
pub(super) use layout;
