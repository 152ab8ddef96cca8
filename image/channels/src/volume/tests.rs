//! Volumes as programs make them (with real ones: `tests/machine`), and bent ones.

use super::*;
use crate::testing::{fat, iso, put};

/// A medium in memory that counts what is read of it.
struct Memory {
    bytes: Vec<u8>,
    reads: u32,
    bad: Option<u64>,
    /// Bytes of its blocks: it takes whole ones only.
    block: u64,
}

impl Medium for Memory {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> bool {
        self.reads += 1;
        assert!(into.len() <= WINDOW && (offset | into.len() as u64).is_multiple_of(512));
        if !(offset | into.len() as u64).is_multiple_of(self.block) {
            return false;
        }
        let start = usize::try_from(offset).unwrap();
        let piece = self.bytes.get(start..start + into.len()).expect("nothing beyond the end is asked for");
        into.copy_from_slice(piece);
        self.bad.is_none_or(|bad| !(offset..offset + into.len() as u64).contains(&bad))
    }
}

fn read_of(bytes: &[u8]) -> Result<(Found, Vec<u8>), Fault> {
    let mut into = vec![0; LONGEST];
    let mut memory = Memory { bytes: bytes.to_vec(), reads: 0, bad: None, block: 512 };
    let found = read(&mut memory, &mut into);
    assert!(memory.reads <= MOST_WINDOWS);
    let found = found?;
    let length = if let Found::Document(length) = found { length } else { 0 };
    into.truncate(length);
    Ok((found, into))
}

fn document(bytes: &[u8]) -> Vec<u8> {
    read_of(bytes).unwrap().1
}

const CONFIG: &[u8] = b"host.address=10.77.0.2/24\n";
const CIDATA: &[u8; 11] = b"CIDATA     ";

#[test]
fn each_width_of_fat_is_read() {
    for clusters in [100, 5000, 66_000] {
        let long = b"# a line of the file\n".repeat(100);
        assert_eq!(
            document(&fat(clusters, CIDATA, &[("meta-dat", b"x"), ("corbel.cfg", &long)])),
            [&long, &b"\n"[..]].concat()
        );
    }
}

#[test]
fn user_data_is_read_if_it_says_that_it_is_for_us() {
    let ours = b"#corbel\nhost.address=dhcp\n";
    assert_eq!(document(&fat(100, b"cidata     ", &[("user-data", ours)])), [&ours[..], b"\n"].concat());
    let both = fat(100, CIDATA, &[("user-data", ours), ("corbel.cfg", CONFIG)]);
    assert_eq!(document(&both), [CONFIG, b"\n", ours, b"\n"].concat());
    for others in [&b"#cloud-config\n"[..], b"#corbels\n", b"#corbe", b""] {
        assert_eq!(read_of(&fat(100, CIDATA, &[("user-data", others)])).unwrap().0, Found::ForOthers);
    }
    assert_eq!(document(&fat(100, CIDATA, &[("user-data", b"#corbel")])), b"#corbel\n");
    assert_eq!(read_of(&fat(100, b"DATA       ", &[("corbel.cfg", CONFIG)])).unwrap().0, Found::Nothing);
}

#[test]
fn names_of_a_cd_are_told_in_three_ways() {
    let ours = b"#corbel\nhost.address=dhcp\n";
    for volume in [
        iso("cidata", "USER_DAT.;1", Some("user-data;1"), None, ours),
        iso("cidata", "USER_DAT.;1", None, Some("user-data"), ours),
        iso("CIDATA", "CORBEL.CFG;1", None, None, ours),
        iso("CIDATA", "USER-DATA.;1", None, None, ours),
    ] {
        assert_eq!(document(&volume), [&ours[..], b"\n"].concat());
    }
    assert_eq!(read_of(&iso("cidata", "OTHER.;1", None, None, ours)).unwrap().0, Found::ForOthers);
    assert_eq!(read_of(&iso("config-2", "CORBEL.CFG;1", None, None, ours)).unwrap().0, Found::Nothing);
}

/// A GPT of `count` entries for sectors of that length, in the second and further ones of which are `parts`, starts and lengths
/// in bytes.
fn gpt_of(sector: usize, parts: &[(usize, usize)], count: u8) -> Vec<u8> {
    let mut gpt = vec![0; 2 * sector + 128 * usize::from(count)];
    put(&mut gpt, 510, &[0x55, 0xaa]);
    put(&mut gpt, 446 + 4, &[0xee]);
    put(&mut gpt, sector, b"EFI PART");
    put(&mut gpt, sector + 72, &2_u64.to_le_bytes());
    put(&mut gpt, sector + 80, &[count, 0, 0, 0, 128, 0, 0, 0]);
    for (index, (start, length)) in parts.iter().enumerate() {
        let entry = 2 * sector + 128 * (1 + index);
        put(&mut gpt, entry, &[7; 16]);
        put(&mut gpt, entry + 32, &((start / sector) as u64).to_le_bytes());
        put(&mut gpt, entry + 40, &(((start + length) / sector) as u64 - 1).to_le_bytes());
    }
    gpt
}

#[test]
fn no_more_entries_are_looked_at_than_there_are_said_to_be() {
    let volume = fat(100, CIDATA, &[("corbel.cfg", CONFIG)]);
    for (count, found) in [(1, Found::Nothing), (2, Found::Document(CONFIG.len() + 1))] {
        let mut disk = gpt_of(512, &[(64 * 512, volume.len())], 128);
        put(&mut disk, 512 + 80, &[count]);
        disk.resize(64 * 512, 0);
        disk.extend(&volume);
        assert_eq!(read_of(&disk).unwrap().0, found, "{count}");
    }
}

#[test]
fn a_partition_is_looked_at_as_well() {
    let volume = fat(100, CIDATA, &[("corbel.cfg", CONFIG)]);
    let sectors = (volume.len() / 512) as u32;
    let mut mbr = vec![0; 64 * 512];
    put(&mut mbr, 510, &[0x55, 0xaa]);
    put(&mut mbr, 446 + 16 + 4, &[0x0c, 0, 0, 0]);
    put(&mut mbr, 446 + 16 + 8, &[64_u32.to_le_bytes(), sectors.to_le_bytes()].concat());
    assert_eq!(document(&[mbr.clone(), volume.clone()].concat()), [CONFIG, b"\n"].concat());
    for sector in [512, 4096] {
        let mut table = gpt_of(sector, &[(64 * 512, volume.len())], 128);
        table.resize(64 * 512, 0);
        let mut whole = [table, volume.clone()].concat();
        whole.resize(whole.len().next_multiple_of(4096), 0);
        // With sectors of 4 KiB the partition begins where they count it.
        assert_eq!(document(&whole), [CONFIG, b"\n"].concat(), "{sector}");
    }
}

#[test]
fn what_is_too_long_or_makes_no_sense_is_told() {
    let long = vec![b'#'; LONGEST];
    assert_eq!(read_of(&fat(300, CIDATA, &[("corbel.cfg", &long)])), Err(Fault::TooLong));
    let most = &long[1..];
    assert_eq!(document(&fat(300, CIDATA, &[("corbel.cfg", most)])).len(), LONGEST);
    // Its second cluster leads nowhere.
    let mut broken = fat(5000, CIDATA, &[("corbel.cfg", &long[..2000])]);
    put(&mut broken, 512 + 2 * 5, &[0; 2]);
    assert_eq!(read_of(&broken), Err(Fault::Damaged));
    let mut circle = fat(5000, CIDATA, &[("corbel.cfg", &long[..2000])]);
    put(&mut circle, 512 + 2 * 5, &[3, 0]);
    assert_eq!(document(&circle).len(), 2001, "as long as it says, whatever it is");
    let mut far = iso("cidata", "CORBEL.CFG;1", None, None, CONFIG);
    let at = far.windows(4).rposition(|bytes| bytes == 24_u32.to_le_bytes()).unwrap();
    put(&mut far, at, &[0xff; 4]);
    assert_eq!(read_of(&far), Err(Fault::Damaged));
}

/// What is found on a disk whose byte `bad` cannot be read.
fn with_bad(bytes: &[u8], bad: usize) -> Result<Found, Fault> {
    let mut memory = Memory { bytes: bytes.to_vec(), reads: 0, bad: Some(bad as u64), block: 512 };
    read(&mut memory, &mut vec![0; LONGEST])
}

#[test]
fn a_disk_that_cannot_be_read_is_a_fault_from_its_label_on() {
    let bytes = fat(5000, CIDATA, &[("first", &[b'#'; WINDOW]), ("corbel.cfg", CONFIG)]);
    let root = bytes.windows(11).position(|name| name == CIDATA).unwrap();
    let file = bytes.windows(CONFIG.len()).position(|text| text == CONFIG).unwrap();
    assert!(root >= WINDOW && file / WINDOW > root / WINDOW, "they are read apart: {root}, {file}");
    assert_eq!(with_bad(&bytes, 0), Ok(Found::Unreadable));
    assert_eq!(with_bad(&bytes, root), Ok(Found::Unreadable), "its label is there alone");
    assert_eq!(with_bad(&bytes, file), Err(Fault::Unreadable));
    // In the first sector is one as well, on most.
    let mut first = bytes.clone();
    put(&mut first, 43, CIDATA);
    assert_eq!(with_bad(&first, root), Err(Fault::Unreadable));
    // The one of the root is the one that counts.
    put(&mut first, root, b"OTHER      ");
    assert_eq!(with_bad(&first, file), Ok(Found::Nothing));
    let cd = iso("cidata", "CORBEL.CFG;1", None, None, CONFIG);
    assert_eq!(with_bad(&cd, 16 * 2048), Ok(Found::Unreadable));
    assert_eq!(with_bad(&cd, 24 * 2048), Err(Fault::Unreadable));
    let others = iso("config-2", "CORBEL.CFG;1", None, None, CONFIG);
    assert_eq!(with_bad(&others, 24 * 2048), Ok(Found::Nothing), "nobody asks for it");
}

#[test]
fn what_is_labelled_where_it_begins_and_makes_no_sense_behind_is_told() {
    let mut broken = fat(66_000, CIDATA, &[("corbel.cfg", CONFIG)]);
    put(&mut broken, 71, CIDATA);
    put(&mut broken, 44, &[0xff; 3]);
    assert_eq!(read_of(&broken), Err(Fault::Damaged));
}

#[test]
fn a_partition_that_cannot_be_read_hides_no_other() {
    let volume = fat(100, CIDATA, &[("first", &[b'#'; WINDOW]), ("corbel.cfg", CONFIG)]);
    let (bad, good) = (64 * 512, 128 * 512);
    let mut disk = gpt_of(512, &[(bad, volume.len().min(good - bad)), (good, volume.len())], 128);
    disk.resize(good, 0);
    disk.extend(&volume);
    assert_eq!(with_bad(&disk, bad), Ok(Found::Document(CONFIG.len() + 1)));
    let mut file = good + volume.windows(CONFIG.len()).position(|text| text == CONFIG).unwrap();
    assert_eq!(with_bad(&disk, file), Err(Fault::Unreadable));
    file = good;
    assert_eq!(with_bad(&disk, file), Ok(Found::Unreadable));
}

#[test]
fn a_disk_that_takes_whole_blocks_only_is_read() {
    for block in [512, 1024, 2048, 4096] {
        for mut bytes in
            [fat(5000, CIDATA, &[("corbel.cfg", CONFIG)]), iso("cidata", "CORBEL.CFG;1", None, None, CONFIG)]
        {
            bytes.resize(bytes.len().next_multiple_of(4096), 0);
            let mut memory = Memory { bytes, reads: 0, bad: None, block };
            assert_eq!(
                read(&mut memory, &mut [0; LONGEST]),
                Ok(Found::Document(CONFIG.len() + 1)),
                "{block}"
            );
        }
    }
}

#[test]
fn a_partition_table_is_read_once() {
    // As the appliance's own disk: 128 entries, one of them used, and nothing of that label.
    let volume = fat(5000, b"CORBEL     ", &[("corbel.cfg", CONFIG)]);
    let start = 64 * 512;
    let mut disk = gpt_of(512, &[(start, volume.len())], 128);
    disk.resize(start, 0);
    disk.extend(&volume);
    let mut memory = Memory { bytes: disk, reads: 0, bad: None, block: 512 };
    assert_eq!(read(&mut memory, &mut [0; LONGEST]), Ok(Found::Nothing));
    assert!(memory.reads <= 16, "{} reads", memory.reads);
}

#[test]
fn no_medium_makes_it_panic_or_read_for_ever() {
    let volumes = [
        fat(100, CIDATA, &[("user-data", b"#corbel\n"), ("corbel.cfg", CONFIG)]),
        fat(5000, CIDATA, &[("corbel.cfg", &[b'#'; 3000])]),
        iso("cidata", "USER_DAT.;1", Some("user-data"), Some("user-data"), b"#corbel\n"),
    ];
    let mut seed = 7_u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as usize
    };
    // Where something is that means something.
    let places = volumes
        .each_ref()
        .map(|volume| (0..volume.len()).filter(|at| volume[*at] != 0).collect::<Vec<usize>>());
    for round in 0..if cfg!(miri) { 20 } else { 2000 } {
        let mut bent = volumes[round % volumes.len()].clone();
        let places = &places[round % volumes.len()];
        for _ in 0..next() % 6 {
            bent[places[next() % places.len()]] = next() as u8;
        }
        if next() % 4 == 0 {
            bent.truncate(next() % bent.len());
        }
        let _ = read_of(&bent);
    }
}
