//! Media as programs make them, for tests: a FAT and an ISO 9660 in memory.

use std::vec;
use std::vec::Vec;

/// Put `what` at a place of `bytes`.
pub fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

/// A FAT of `clusters` clusters of one sector, with files from cluster 3 on, each on every second cluster.
pub fn fat(clusters: u32, label: &[u8; 11], files: &[(&str, &[u8])]) -> Vec<u8> {
    let bits = if clusters < 4085 {
        12
    } else if clusters < 65525 {
        16
    } else {
        32
    };
    let table = (clusters as usize + 2) * bits / 8 / 512 + 1;
    let (reserved, root) = if bits == 32 { (32, 0) } else { (1, 2) };
    let data = reserved + 2 * table + root;
    let mut bytes = vec![0; (data + clusters as usize) * 512];
    let sectors = (data as u32 + clusters).to_le_bytes();
    put(&mut bytes, 11, &[0, 2, 1, reserved as u8, 0, 2, (root * 16) as u8]);
    put(&mut bytes, 32, &sectors);
    if bits == 32 {
        put(&mut bytes, 36, &(table as u32).to_le_bytes());
        put(&mut bytes, 44, &2_u32.to_le_bytes());
    } else {
        put(&mut bytes, 22, &(table as u16).to_le_bytes());
    }
    put(&mut bytes, 510, &[0x55, 0xaa]);
    let set = |bytes: &mut Vec<u8>, cluster: u32, next: u32| {
        let at = reserved * 512 + cluster as usize * bits / 8;
        match bits {
            12 => {
                let pair = u16::from_le_bytes([bytes[at], bytes[at + 1]]);
                let next = next as u16 & 0xfff;
                let pair =
                    if cluster.is_multiple_of(2) { pair & 0xf000 | next } else { pair & 0xf | next << 4 };
                put(bytes, at, &pair.to_le_bytes());
            }
            16 => put(bytes, at, &(next as u16).to_le_bytes()),
            _ => put(bytes, at, &(next & 0x0fff_ffff).to_le_bytes()),
        }
    };
    let mut entries = vec![[0; 32]];
    entries[0][..11].copy_from_slice(label);
    entries[0][11] = 0x08;
    let mut cluster = 3;
    for (name, contents) in files {
        let mut entry = [b' '; 32];
        entry[11..].fill(0);
        let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
        if stem.len() > 8 {
            entry[..8].copy_from_slice(b"USER-D~1");
            let mut long = [0xff; 32];
            (long[0], long[11], long[12]) = (0x41, 0x0f, 0);
            long[13] = entry[..11].iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
            for (index, at) in [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30].into_iter().enumerate() {
                let unit = match name.as_bytes().get(index) {
                    Some(byte) => u16::from(*byte),
                    None if index == name.len() => 0,
                    None => 0xffff,
                };
                long[at..at + 2].copy_from_slice(&unit.to_le_bytes());
            }
            entries.push(long);
        } else {
            entry[..stem.len()].copy_from_slice(stem.to_uppercase().as_bytes());
            entry[8..8 + extension.len()].copy_from_slice(extension.to_uppercase().as_bytes());
        }
        entry[26..28].copy_from_slice(&(cluster as u16).to_le_bytes());
        entry[28..].copy_from_slice(&(contents.len() as u32).to_le_bytes());
        entries.push(entry);
        for (index, piece) in contents.chunks(512).enumerate() {
            put(&mut bytes, (data + cluster as usize - 2) * 512, piece);
            let is_last = (index + 1) * 512 >= contents.len();
            set(&mut bytes, cluster, if is_last { 0x0fff_ffff } else { cluster + 2 });
            cluster += 2;
        }
    }
    set(&mut bytes, 2, 0x0fff_ffff);
    let at = if bits == 32 { data } else { data - root } * 512;
    put(&mut bytes, at, &entries.concat());
    bytes
}

/// An ISO 9660 with a file, whose name is told in each of three ways or in one.
pub fn iso(label: &str, plain: &str, joliet: Option<&str>, rock: Option<&str>, contents: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 24 * 2048 + contents.len().next_multiple_of(2048)];
    let record = |name: &[u8], block: u32, length: u32, flags: u8, system: &[u8]| {
        let mut record = vec![0; 33];
        put(&mut record, 2, &block.to_le_bytes());
        put(&mut record, 10, &length.to_le_bytes());
        (record[25], record[32]) = (flags, name.len() as u8);
        record.extend(name);
        record.resize(record.len().next_multiple_of(2), 0);
        record.extend(system);
        record[0] = record.len() as u8;
        record
    };
    let mut descriptor = |index: usize, kind: u8, label: &[u8], root: u32| {
        let at = (16 + index) * 2048;
        put(&mut bytes, at, &[kind]);
        put(&mut bytes, at + 1, b"CD001\x01");
        put(&mut bytes, at + 40, label);
        put(&mut bytes, at + 128, &2048_u16.to_le_bytes());
        put(&mut bytes, at + 156, &record(&[0], root, 2048, 2, &[]));
        if kind == 2 {
            put(&mut bytes, at + 88, b"%/E");
        }
    };
    let mut padded = label.as_bytes().to_vec();
    padded.resize(32, b' ');
    descriptor(0, 1, &padded, 20);
    let wide: Vec<u8> = padded[..16].iter().flat_map(|byte| [0, *byte]).collect();
    let mut last = 1;
    if joliet.is_some() {
        descriptor(1, 2, &wide, 21);
        last = 2;
    }
    descriptor(last, 255, &[], 0);
    let mut system = b"RR\x05\x01\x01".to_vec();
    if let Some(name) = rock {
        system.extend([b'N', b'M', 5 + name.len() as u8, 1, 0]);
        system.extend(name.as_bytes());
    }
    let length = contents.len() as u32;
    let root = [
        record(&[0], 20, 2048, 2, &[]),
        record(&[1], 20, 2048, 2, &[]),
        record(b"META_DAT.;1", 23, 10, 0, b"NM\x0e\x01\x00meta-data"),
        record(plain.as_bytes(), 24, length, 0, &system),
    ];
    put(&mut bytes, 20 * 2048, &root.concat());
    if let Some(name) = joliet {
        let name: Vec<u8> = name.bytes().flat_map(|byte| [0, byte]).collect();
        put(
            &mut bytes,
            21 * 2048,
            &[record(&[0], 21, 2048, 2, &[]), record(&name, 24, length, 0, &[])].concat(),
        );
    }
    put(&mut bytes, 24 * 2048, contents);
    bytes
}
