//! Tables as firmware makes them, and such as no firmware should.

use super::*;

/// A structure with bytes behind its header, and strings.
fn structure_of(kind: u8, fields: &[u8], strings: &[&[u8]]) -> Vec<u8> {
    let mut bytes = vec![kind, (HEADER + fields.len()) as u8, 0, 0];
    bytes.extend(fields);
    for string in strings {
        bytes.extend(*string);
        bytes.push(0);
    }
    bytes.push(0);
    if strings.is_empty() {
        bytes.push(0);
    }
    bytes
}

fn table() -> Vec<u8> {
    [
        structure_of(1, &[1, 2, 0, 3], &[b"QEMU", b"corbel.config=not of this kind", b"x"]),
        structure_of(32, &[0; 7], &[]),
        structure_of(11, &[2], &[b"io.systemd.credential:a=b", b"corbel.config=a=b c=d"]),
        structure_of(11, &[3], &[b"corbel.config=e=f", b"corbel.config+=g", b"corbel.confg=h"]),
        structure_of(127, &[], &[]),
        structure_of(11, &[1], &[b"corbel.config=behind the end"]),
    ]
    .concat()
}

#[test]
fn the_pieces_of_oem_strings_come_in_order_and_others_are_left_out() {
    let table = table();
    let pieces: Vec<_> = pieces(&table).collect();
    let expected =
        [Piece::Line(b"a=b c=d"), Piece::Line(b"e=f"), Piece::More(b"g"), Piece::Unknown(b"corbel.confg=h")];
    assert_eq!(pieces, expected);
}

#[test]
fn a_structure_that_is_not_whole_is_the_end() {
    for length in 0..table().len() {
        let table = table();
        assert!(pieces(&table[..length]).count() <= 4);
    }
    let mut short = table();
    short[1] = 3;
    assert_eq!(pieces(&short).count(), 0, "a length that is less than the header");
    assert!(!is_whole(&short));
    let mut long = table();
    long[1] = 255;
    assert_eq!(pieces(&long).count(), 0, "a length that leads behind the next ones");
    assert!(!is_whole(&long));
}

#[test]
fn a_table_is_whole_when_it_ends_where_it_says_or_where_a_structure_does() {
    let parts = [
        structure_of(1, &[1], &[b"a"]),
        structure_of(11, &[1], &[b"corbel.config=a=b"]),
        structure_of(127, &[], &[]),
    ];
    let table = parts.concat();
    let ends = [0, parts[0].len(), parts[0].len() + parts[1].len(), table.len()];
    for length in 0..=table.len() {
        assert_eq!(is_whole(&table[..length]), ends.contains(&length), "{length} bytes");
    }
    // A length that is the most there can be.
    assert!(is_whole(&[&table[..], &[0; 100]].concat()));
    assert!(!is_whole(&[&table[..ends[2]], &[0; 100]].concat()));
}

/// An entry point of 64 bits.
fn entry64(address: u64, length: u32) -> Vec<u8> {
    let mut entry = b"_SM3_\0\x18\x03\x02\0\x01\0".to_vec();
    entry.extend(length.to_le_bytes());
    entry.extend(address.to_le_bytes());
    entry[5] = sum(&entry);
    entry
}

/// One of 32 bits.
fn entry32(address: u32, length: u16) -> Vec<u8> {
    let mut entry = b"_SM_\0\x1f\x02\x08\0\0\0\0\0\0\0\0_DMI_\0".to_vec();
    entry.extend(length.to_le_bytes());
    entry.extend(address.to_le_bytes());
    entry.extend([9, 0, 0x28]);
    entry[21] = sum(&entry[16..]);
    entry[4] = sum(&entry);
    entry
}

fn sum(bytes: &[u8]) -> u8 {
    0_u8.wrapping_sub(bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte)))
}

#[test]
fn both_entry_points_lead_to_the_table() {
    assert_eq!(Table::of(&entry64(1 << 40, 300)), Some(Table { address: 1 << 40, length: 300 }));
    assert_eq!(Table::of(&entry32(0xf_5000, 300)), Some(Table { address: 0xf_5000, length: 300 }));
    let mut place = vec![0; 0x1_0000];
    assert_eq!(Table::search(&place), None);
    place[0x1230..0x1230 + 31].copy_from_slice(&entry32(1, 2));
    assert_eq!(Table::search(&place), Some(Table { address: 1, length: 2 }));
    place[0xfff0..0xfff0 + 16].copy_from_slice(&entry64(3, 4)[..16]);
    assert_eq!(Table::search(&place), Some(Table { address: 1, length: 2 }), "that one is cut");
    place[0x2000..0x2018].copy_from_slice(&entry64(3, 4));
    assert_eq!(Table::search(&place), Some(Table { address: 3, length: 4 }));
}

#[test]
fn an_entry_point_that_lies_leads_nowhere_or_not_far() {
    for entry in [entry64(4096, 64), entry32(4096, 64)] {
        for at in 0..entry.len() {
            let mut bent = entry.clone();
            bent[at] ^= 0x10;
            assert_eq!(Table::of(&bent), None, "byte {at}");
            assert_eq!(Table::of(&entry[..at]), None, "{at} bytes");
        }
    }
    assert_eq!(Table::of(&entry64(u64::MAX, 64)), None);
    assert_eq!(Table::of(&entry64(4096, 0)), None);
    assert_eq!(Table::of(&entry64(4096, u32::MAX)).map(|table| table.length), Some(LONGEST_TABLE));
}
