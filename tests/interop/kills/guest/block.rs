//! Blocks that describe themselves: every sector says where it belongs, which write it is of, and whether it is whole.

/// Bytes of a block.
pub(crate) const BLOCK: usize = 4096;
const SECTOR: usize = 512;
const MAGIC: u64 = u64::from_be_bytes(*b"corbel!!");
/// Words of a sector: magic, block, write, sector, and at the end the hash of the others.
const WORDS: usize = SECTOR / 8;

/// Makes `bytes` the content of write `write` of block `block`. Write 0 is the disk as it was found, all zeroes.
pub(crate) fn fill(bytes: &mut [u8], block: u64, write: u64) {
    for (sector, bytes) in bytes.chunks_exact_mut(SECTOR).enumerate() {
        let (head, hash) = bytes.split_at_mut(SECTOR - 8);
        for (place, word) in head.chunks_exact_mut(8).enumerate() {
            let value = match place {
                0 => MAGIC,
                1 => block,
                2 => write,
                3 => sector as u64,
                _ => mix(block ^ write.rotate_left(32) ^ (sector * WORDS + place) as u64),
            };
            word.copy_from_slice(&value.to_le_bytes());
        }
        hash.copy_from_slice(&hash_of(head).to_le_bytes());
    }
}

/// Which write of `block` stands in `bytes`.
pub(crate) fn write_of(bytes: &[u8], block: u64) -> Result<u64, String> {
    let mut found = None;
    for (sector, bytes) in bytes.chunks_exact(SECTOR).enumerate() {
        let word =
            |place: usize| bytes[place * 8..].first_chunk().map_or(0, |word| u64::from_le_bytes(*word));
        let write = if bytes.iter().all(|byte| *byte == 0) {
            0
        } else {
            let (magic, place, of, at) = (word(0), word(1), word(2), word(3));
            if magic != MAGIC || word(WORDS - 1) != hash_of(&bytes[..SECTOR - 8]) {
                return Err(format!(
                    "block {block}, sector {sector}: damaged ({magic:x} {place:x} {of:x} {at:x})"
                ));
            }
            if (place, at) != (block, sector as u64) {
                return Err(format!(
                    "block {block}, sector {sector}: this is sector {at} of block {place}, write {of}"
                ));
            }
            of
        };
        match found {
            Some(first) if first != write => {
                return Err(format!(
                    "block {block}: torn, sector {sector} is of write {write}, those before of {first}"
                ));
            }
            _ => found = Some(write),
        }
    }
    found.ok_or_else(|| "no bytes".to_string())
}

fn hash_of(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(8).filter_map(|word| word.first_chunk());
    words.fold(0x5151, |hash, word| mix(hash ^ u64::from_le_bytes(*word)))
}

/// The finalizer of SplitMix64.
pub(crate) fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn a_block_tells_its_write_and_whatever_is_wrong_with_it() {
    let (mut a, mut b) = (vec![0; BLOCK], vec![0; BLOCK]);
    assert_eq!(write_of(&a, 7), Ok(0));
    fill(&mut a, 7, 100);
    fill(&mut b, 7, 101);
    assert_eq!(write_of(&a, 7), Ok(100));
    assert!(write_of(&a, 8).unwrap_err().contains("of block 7"));
    let torn = [&b[..1024], &a[1024..]].concat();
    assert!(write_of(&torn, 7).unwrap_err().contains("torn"));
    let half = [&b[..1024], &[0; 3072]].concat();
    assert!(write_of(&half, 7).unwrap_err().contains("torn"));
    a[600] ^= 1;
    assert!(write_of(&a, 7).unwrap_err().contains("sector 1: damaged"));
}
