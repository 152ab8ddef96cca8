//! Layouts, digests, text and framing against the standard and against each other.

use super::text::{Full, Malformed, Writer, number, pairs};
use super::*;

#[test]
fn digests_match_the_vectors_of_appendix_b_4() {
    let ascending: Vec<u8> = (0..32).collect();
    let descending: Vec<u8> = (0..32).rev().collect();
    let mut read = [0; 48];
    read[..4].copy_from_slice(&[0x01, 0xc0, 0, 0]);
    read[16] = 0x14;
    read[22..24].copy_from_slice(&[4, 0]);
    read[27] = 0x14;
    read[31] = 0x18;
    read[32] = 0x28;
    read[40] = 0x02;
    for (bytes, digest) in [
        (&[0; 32][..], [0xaa, 0x36, 0x91, 0x8a]),
        (&[0xff; 32], [0x43, 0xab, 0xa8, 0x62]),
        (&ascending, [0x4e, 0x79, 0xdd, 0x46]),
        (&descending, [0x5c, 0xdb, 0x3f, 0x11]),
        (&read, [0x56, 0x3a, 0x96, 0xd9]),
    ] {
        assert_eq!(crc32c(0, bytes).to_le_bytes(), digest);
        assert_eq!(crc32c::by_table(0, bytes).to_le_bytes(), digest);
    }
    assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
}

#[test]
fn a_digest_can_be_taken_in_pieces_of_any_length() {
    let bytes: Vec<u8> = (0..100).map(|n| (n * 37) as u8).collect();
    for cut in 0..bytes.len() {
        assert_eq!(crc32c(crc32c(0, &bytes[..cut]), &bytes[cut..]), crc32c(0, &bytes));
    }
}

#[test]
fn serial_numbers_compare_across_the_wrap() {
    let last = SerialNumber(0xffff_ffff);
    assert!(last.is_before(SerialNumber(0)));
    assert!(!SerialNumber(0).is_before(last));
    assert!(!last.is_before(last));
    assert!(!SerialNumber(0).is_before(SerialNumber(0x8000_0000)));
    assert!(!SerialNumber(0x8000_0000).is_before(SerialNumber(0)));
    assert_eq!(last.plus(3), SerialNumber(2));
    assert_eq!(SerialNumber(2).since(last), 3);
}

#[test]
fn fields_lie_where_the_standard_draws_them() {
    let command = ScsiCommand {
        immediate: true,
        last: true,
        read: true,
        write: false,
        attribute: 1,
        data_segment: 0x01_0203,
        lun: [0, 5, 0, 0, 0, 0, 0, 0],
        initiator_task_tag: 0x1111_2222,
        expected_data_transfer_length: 4096,
        cmd_sn: 7,
        exp_stat_sn: 8,
        cdb: core::array::from_fn(|index| index as u8),
    };
    let header = command.header();
    assert_eq!(header.0[..12], [0x41, 0xc1, 0, 0, 0, 1, 2, 3, 0, 5, 0, 0]);
    assert_eq!(header.0[16..32], [0x11, 0x11, 0x22, 0x22, 0, 0, 0x10, 0, 0, 0, 0, 7, 0, 0, 0, 8]);
    assert_eq!(header.0[47], 15);
    assert!(header.immediate() && header.from_initiator());

    let response =
        LoginResponse { transit: true, current_stage: 1, next_stage: 3, tsih: 9, ..Default::default() };
    assert_eq!(response.header().0[..2], [0x23, 0x87]);
    assert_eq!(response.header().0[14..16], [0, 9]);
    assert!(!response.header().from_initiator());
}

#[test]
fn what_was_written_is_read_back_whatever_the_bits() {
    let mut seed = 1_u64;
    for _ in 0..200 {
        let bits = core::array::from_fn(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 56) as u8
        });
        macro_rules! round {
            ($($pdu:ident)*) => {$(
                let value = $pdu::read(&Header(bits));
                assert_eq!($pdu::read(&value.header()), value);
            )*};
        }
        round!(NopOut ScsiCommand TaskManagementRequest LoginRequest TextRequest DataOut LogoutRequest SnackRequest);
        round!(NopIn ScsiResponse TaskManagementResponse LoginResponse TextResponse DataIn LogoutResponse);
        round!(ReadyToTransfer AsyncMessage Reject);
    }
}

#[test]
fn padding_fills_to_four_bytes() {
    assert_eq!([0, 1, 2, 3, 4, 5].map(padding), [0, 3, 2, 1, 0, 3]);
}

#[test]
fn a_text_is_cut_at_its_nuls_and_the_first_equals_sign() {
    let read: Vec<_> = pairs(b"A=1\0\0SendTargets=\0B=x=y\0").collect();
    assert_eq!(read, [Ok(("A", "1")), Ok(("SendTargets", "")), Ok(("B", "x=y"))]);
    assert_eq!(pairs(&[0; 64]).count(), 0);
}

#[test]
fn a_malformed_pair_ends_the_text() {
    let long_key = format!("{}=1\0", "k".repeat(64));
    for (text, error) in [
        (&b"nothing\0A=1\0"[..], Malformed::NoEquals),
        (b"=x\0", Malformed::Key),
        (b"a b=x\0", Malformed::Key),
        (long_key.as_bytes(), Malformed::Key),
        (b"A=\xc0\x80\0", Malformed::Value),
        (b"A=one\ntwo\0", Malformed::Value),
        (b"A=1", Malformed::Unterminated),
    ] {
        assert_eq!(pairs(text).collect::<Vec<_>>(), [Err(error)], "{text:?}");
    }
    let longest_key = format!("{}=1\0", "k".repeat(63));
    assert!(pairs(longest_key.as_bytes()).all(|pair| pair.is_ok()));
}

#[test]
fn numbers_are_decimal_or_hexadecimal_and_fit_32_bits() {
    assert_eq!(number("262144"), Some(262_144));
    assert_eq!(number("0x40000"), Some(262_144));
    for wrong in ["", "0x", "-1", "+1", "1.5", "12k", "4294967296", "0x+1", &"9".repeat(99)] {
        assert_eq!(number(wrong), None, "{wrong}");
    }
}

#[test]
fn a_pair_is_written_wholly_or_not_at_all() {
    let mut out = [0xee; 10];
    let mut writer = Writer::new(&mut out);
    assert_eq!(writer.pair("A", 12), Ok(()));
    assert_eq!(writer.pair("Long", "value"), Err(Full));
    assert_eq!(writer.pair("B", "xy"), Ok(()));
    assert_eq!(writer.length(), 10);
    assert_eq!(&out, b"A=12\0B=xy\0");
}

#[test]
fn pdus_are_cut_out_of_a_stream_wherever_it_ends() {
    for digests in [(false, false), (true, false), (false, true), (true, true)] {
        let digests = Digests { header: digests.0, data: digests.1 };
        let header = NopOut { initiator_task_tag: 1, ..Default::default() }.header();
        let mut stream = Vec::new();
        digests.write(header, &[0, 1, 9, 0], b"ping!", &mut stream);
        let whole = stream.len();
        for end in 0..whole {
            assert_eq!(digests.read(&stream[..end]), Ok(None));
        }
        digests.write(header, &[], &[], &mut stream);
        let first = digests.read(&stream).unwrap().expect("it is whole");
        assert_eq!((first.additional, first.data, first.length), (&[0, 1, 9, 0][..], &b"ping!"[..], whole));
        let second = digests.read(&stream[whole..]).unwrap().expect("it is whole");
        assert_eq!((second.header, second.data, second.length), (header, &[][..], stream.len() - whole));
        let mut damaged = stream.clone();
        damaged[1] ^= 1;
        assert_eq!(digests.read(&damaged).is_err(), digests.header);
        damaged = stream.clone();
        damaged[whole - 5] ^= 1;
        assert_eq!(digests.read(&damaged) == Err(Damaged::Data), digests.data);
    }
}
