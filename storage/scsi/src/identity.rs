//! What a logical unit is called: names that stay the same over restarts, moves and re-attachments, because they are
//! made from the UUID stored with the disk and from nothing else.

/// The identity of a logical unit and the texts of its INQUIRY data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    uuid: [u8; 16],
    mixed: [u8; 16],
    /// T10 vendor identification, padded with spaces.
    pub vendor: [u8; 8],
    /// Product identification, padded with spaces.
    pub product: [u8; 16],
    /// Product revision level.
    pub revision: [u8; 4],
}

/// The company identifier in our NAA and EUI-64 names. The bit for local administration is set (02h in the first
/// byte), so no identifier that the IEEE gives out can be the same; the rest spells the product.
const COMPANY: [u8; 3] = [0x0a, 0xc0, 0xbe];

impl Identity {
    /// The identity of the disk with this UUID.
    pub fn new(uuid: [u8; 16]) -> Self {
        Self {
            uuid,
            mixed: mix(u128::from_be_bytes(uuid)).to_be_bytes(),
            vendor: *b"CORBEL  ",
            product: *b"VIRTUAL-DISK    ",
            revision: *b"0001",
        }
    }

    /// The UUID it is made from.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The unit serial number: the UUID in 32 hexadecimal digits.
    pub fn serial(&self) -> [u8; 32] {
        hex(&self.uuid)
    }

    /// The NAA IEEE Registered Extended name (SPC-4 section 7.8.6.6.5).
    pub fn naa(&self) -> [u8; 16] {
        let mut name = self.mixed;
        let [a, b, c] = COMPANY;
        name[0] = 0x60 | a >> 4;
        name[1] = a << 4 | b >> 4;
        name[2] = b << 4 | c >> 4;
        name[3] = c << 4 | name[3] & 0x0f;
        name
    }

    /// The EUI-64 based 16-byte name (SPC-4 section 7.8.6.5.4).
    pub fn eui(&self) -> [u8; 16] {
        let mut name = self.mixed;
        name[8..11].copy_from_slice(&COMPANY);
        name
    }

    /// Whether this is one of its names: code set, association and type, and designator, as page 83h has them. Only those
    /// that have room in a CSCD descriptor are known; the name by T10 vendor is too long for that.
    pub(crate) fn is_named(&self, (code_set, kind, designator): (u8, u8, &[u8])) -> bool {
        const BINARY: u8 = 1;
        match (code_set, kind) {
            (BINARY, 0x03) => designator == self.naa(),
            (BINARY, 0x02) => designator == self.eui(),
            _ => false,
        }
    }

    /// The vendor's part of the T10 vendor ID based name. Some initiators look at its first eight characters only,
    /// so they are mixed from all of the UUID.
    pub fn vendor_specific(&self) -> [u8; 32] {
        hex(&self.mixed)
    }
}

/// Spread every bit of `value` over all of the result, one to one. The names above keep fewer than 128 bits, and two
/// UUIDs that differ in one digit must differ in what is kept.
fn mix(mut value: u128) -> u128 {
    const FACTOR: u128 = 0xda94_2042_e4dd_58b5_94d0_49bb_1331_11eb;
    for _ in 0..3 {
        value ^= value >> 59;
        value = value.wrapping_mul(FACTOR);
    }
    value ^ value >> 67
}

fn hex(bytes: &[u8; 16]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = [0; 32];
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_made_from_the_uuid_alone() {
        let one = Identity::new([7; 16]);
        assert_eq!(one, Identity::new([7; 16]));
        assert_eq!(&one.serial(), b"07070707070707070707070707070707");
        assert_eq!(one.naa()[..3], [0x60, 0xac, 0x0b]);
        assert_eq!(one.naa()[3] >> 4, 0xe);
        assert_eq!(one.eui()[8..11], COMPANY);
    }

    #[test]
    fn uuids_that_differ_in_one_bit_differ_in_every_name() {
        let uuids = (0..128).map(|bit| (1_u128 << bit).to_be_bytes()).chain([[0; 16]]);
        let mut seen = HashSet::new();
        for identity in uuids.map(Identity::new) {
            assert!(seen.insert(identity.naa().to_vec()));
            assert!(seen.insert(identity.eui().to_vec()));
            assert!(seen.insert(identity.vendor_specific()[..8].to_vec()));
        }
    }
}
