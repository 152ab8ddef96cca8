//! Emitting what was read, and reading what was emitted, of everything that has both.

use super::text::{Writer, number, pairs};
use super::*;

/// Random enough, the same for the same seed.
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 56) as u8
    }

    fn below(&mut self, bound: usize) -> usize {
        (usize::from(self.byte()) << 8 | usize::from(self.byte())) % bound
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.byte()).collect()
    }
}

/// The bits of a header that a PDU carries: those that come out again when it is read and emitted.
fn carried(again: fn(&Header) -> Header) -> Header {
    let blank = again(&Header([0; BASIC_HEADER]));
    let mut mask = Header([0; BASIC_HEADER]);
    for bit in 0..BASIC_HEADER * 8 {
        let mut header = Header([0; BASIC_HEADER]);
        header.0[bit / 8] |= 0x80 >> (bit % 8);
        let out = again(&header);
        for (at, byte) in mask.0.iter_mut().enumerate() {
            let changed = out.0[at] ^ blank.0[at];
            assert!(changed == 0 || at == bit / 8, "bit {bit} comes out elsewhere");
            *byte |= changed;
        }
    }
    mask
}

/// A PDU, what is read of it and emitted again, and how many bits it carries.
macro_rules! pdus {
    ($($pdu:ident $bits:literal,)*) => {
        [$((stringify!($pdu), (|header| $pdu::read(header).header()) as fn(&Header) -> Header, $bits)),*]
    };
}

/// The numbers are the widths of the fields of section 11 that are not reserved or fixed, added up.
#[test]
fn each_pdu_carries_every_bit_of_its_fields_and_no_other() {
    let all = pdus! {
        NopOut 217, ScsiCommand 351, TaskManagementRequest 264, LoginRequest 223, TextRequest 219,
        DataOut 249, LogoutRequest 120, SnackRequest 228,
        NopIn 248, ScsiResponse 300, TaskManagementResponse 168, LoginResponse 254, TextResponse 250,
        DataIn 357, LogoutResponse 168, ReadyToTransfer 320, AsyncMessage 280, Reject 192,
    };
    let mut random = Random(11);
    for (name, again, bits) in all {
        let mask = carried(again);
        let count: u32 = mask.0.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(count, bits, "{name}");
        let blank = again(&Header([0; BASIC_HEADER]));
        for _ in 0..500 {
            let header = Header(core::array::from_fn(|_| random.byte()));
            let out = again(&header);
            let due = core::array::from_fn(|at| header.0[at] & mask.0[at] | blank.0[at]);
            assert_eq!(out, Header(due), "{name}: what was carried, and nothing else");
            assert_eq!(again(&out), out, "{name}");
        }
    }
}

#[test]
fn whole_pdus_of_any_length_are_read_as_they_were_written() {
    let mut random = Random(12);
    for round in 0..400 {
        let digests = Digests { header: round & 1 != 0, data: round & 2 != 0 };
        let mut stream = Vec::new();
        let written: Vec<_> = (0..3)
            .map(|_| {
                let header = Header(core::array::from_fn(|_| random.byte()));
                let (additional, data) = (random.below(256) * 4, random.below(700));
                let (additional, data) = (random.bytes(additional), random.bytes(data));
                digests.write(header, &additional, &data, &mut stream);
                (header, additional, data)
            })
            .collect();
        let mut rest = &stream[..];
        for (header, additional, data) in &written {
            let pdu = digests.read(rest).expect("digests match").expect("it is whole");
            let lengths =
                header.with_additional_headers(additional.len()).with_data_segment(data.len() as u32);
            assert_eq!((pdu.header, pdu.additional, pdu.data), (lengths, &additional[..], &data[..]));
            // Written again it is the same, padding and digests and all.
            let mut again = Vec::new();
            digests.write(pdu.header, pdu.additional, pdu.data, &mut again);
            assert_eq!(again, rest[..pdu.length]);
            rest = &rest[pdu.length..];
        }
        assert!(rest.is_empty());
    }
}

#[test]
fn texts_are_read_as_they_were_written_and_written_as_they_were_read() {
    const KEY: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-+@_/#:";
    let mut random = Random(13);
    for _ in 0..400 {
        let written: Vec<(String, String)> = (0..random.below(12))
            .map(|_| {
                let key = (0..1 + random.below(text::MAX_KEY)).map(|_| KEY[random.below(KEY.len())] as char);
                let key = key.collect();
                // Anything printable, `=` too, and characters of more than a byte.
                let value = (0..random.below(80)).map(|_| match random.below(8) {
                    0 => '=',
                    1 => '\u{e4}',
                    2 => '\u{4e2d}',
                    _ => (0x20 + random.below(0x5f) as u8) as char,
                });
                (key, value.collect())
            })
            .collect();
        let mut bytes = vec![0; 8192];
        let mut writer = Writer::new(&mut bytes);
        for (key, value) in &written {
            writer.pair(key, value).expect("there is room");
        }
        let length = writer.length();
        bytes.truncate(length);
        let read: Vec<_> = pairs(&bytes).collect::<Result<_, _>>().expect("well-formed");
        assert!(
            read.iter().map(|(key, value)| (*key, *value)).eq(written.iter().map(|(k, v)| (&k[..], &v[..])))
        );
        // With NULs between the pairs it reads the same.
        let mut padded = vec![0; random.below(4)];
        for byte in &bytes {
            padded.push(*byte);
            padded.resize(padded.len() + if *byte == 0 { random.below(3) } else { 0 }, 0);
        }
        assert!(pairs(&padded).eq(pairs(&bytes)));
    }
}

#[test]
fn numbers_are_read_as_they_were_written_in_either_form() {
    let mut random = Random(14);
    for _ in 0..2000 {
        let value = u32::from_be_bytes(core::array::from_fn(|_| random.byte())) >> random.below(32);
        for text in
            [format!("{value}"), format!("{value:#x}"), format!("0X{value:X}"), format!("{value:#010x}")]
        {
            assert_eq!(number(&text), Some(value), "{text}");
        }
    }
}
