//! Logical unit numbers as they travel (SAM-5 section 4.7).

/// Where a command is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// The logical unit of that number.
    Unit(u16),
    /// The REPORT LUNS well-known logical unit (SPC-4 section 8.2).
    ReportLuns,
    /// A form that none of our logical units has.
    Nowhere,
}

/// The largest number a logical unit can have: what the flat space addressing method holds.
pub const MAX_LUN: u16 = 0x3fff;

/// The REPORT LUNS well-known logical unit.
pub(crate) const REPORT_LUNS: [u8; 8] = [0xc1, 0x01, 0, 0, 0, 0, 0, 0];

/// Decode the eight bytes of a LUN. Only single-level LUNs lead somewhere.
pub(crate) fn decode(lun: &[u8; 8]) -> Address {
    if *lun == REPORT_LUNS {
        return Address::ReportLuns;
    }
    // Extended flat space (D2h) says the number in three bytes; the numbers we give out fit in any form.
    if lun[0] == 0xd2 && lun[4..] == [0; 4] {
        let number = u32::from_be_bytes([0, lun[1], lun[2], lun[3]]);
        return u16::try_from(number).ok().filter(|&n| n <= MAX_LUN).map_or(Address::Nowhere, Address::Unit);
    }
    if lun[2..] != [0; 6] {
        return Address::Nowhere;
    }
    match lun[0] >> 6 {
        // Peripheral device addressing: bus 0 is us, others would lie behind us.
        0b00 if lun[0] == 0 => Address::Unit(u16::from(lun[1])),
        0b01 => Address::Unit(u16::from_be_bytes([lun[0] & 0x3f, lun[1]])),
        _ => Address::Nowhere,
    }
}

/// The form in which REPORT LUNS tells a number: peripheral device addressing as far as it reaches, then flat space.
pub(crate) fn encode(number: u16) -> [u8; 8] {
    let [high, low] = number.to_be_bytes();
    let first = if number < 256 { 0 } else { 0x40 | (high & 0x3f) };
    [first, low, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back() {
        for number in 0..=MAX_LUN {
            assert_eq!(decode(&encode(number)), Address::Unit(number));
        }
    }

    #[test]
    fn all_methods_are_understood_or_lead_nowhere() {
        let table: &[([u8; 8], Address)] = &[
            ([0, 5, 0, 0, 0, 0, 0, 0], Address::Unit(5)),
            ([0x40, 5, 0, 0, 0, 0, 0, 0], Address::Unit(5)),
            ([0x41, 0, 0, 0, 0, 0, 0, 0], Address::Unit(256)),
            ([0xd2, 0, 1, 0, 0, 0, 0, 0], Address::Unit(256)),
            ([0xc1, 1, 0, 0, 0, 0, 0, 0], Address::ReportLuns),
            ([0xc1, 2, 0, 0, 0, 0, 0, 0], Address::Nowhere),
            ([0x01, 5, 0, 0, 0, 0, 0, 0], Address::Nowhere),
            ([0x80, 5, 0, 0, 0, 0, 0, 0], Address::Nowhere),
            ([0, 5, 0, 1, 0, 0, 0, 0], Address::Nowhere),
            ([0xd2, 1, 0, 0, 0, 0, 0, 0], Address::Nowhere),
            ([0xd2, 0, 0, 1, 0, 0, 0, 1], Address::Nowhere),
            ([0xff; 8], Address::Nowhere),
        ];
        for (lun, address) in table {
            assert_eq!(decode(lun), *address, "{lun:02x?}");
        }
    }
}
