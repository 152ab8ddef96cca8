//! CRC32C (RFC 3720 appendix B.4), four bits at a time: what it is made of is short, and so is its table.

const TABLE: [u32; 16] = {
    let mut table = [0; 16];
    let mut index = 0;
    while index < 16 {
        let (mut value, mut bit) = (index as u32, 0);
        while bit < 4 {
            value = if value & 1 != 0 { value >> 1 ^ 0x82f6_3b78 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
};

/// The checksum of all pieces, one behind the other.
pub(crate) fn crc32c(pieces: &[&[u8]]) -> u32 {
    let step = |crc: u32, nibble: u8| crc >> 4 ^ TABLE[usize::from((crc as u8 ^ nibble) & 15)];
    let bytes = pieces.iter().flat_map(|piece| piece.iter());
    !bytes.fold(u32::MAX, |crc, byte| step(step(crc, *byte), byte >> 4))
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_that_of_the_standard() {
        // RFC 3720 appendix B.4.
        assert_eq!(super::crc32c(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(super::crc32c(&[&[0xff; 12], &[0xff; 20]]), 0x62a8_ab43);
        assert_eq!(super::crc32c(&[b"1234", b"", b"56789"]), 0xe306_9283);
    }
}
