//! Sequence numbers that wrap.

/// A 32-bit serial number with the arithmetic of RFC 1982, as RFC 7143, 4.2.2 demands for CmdSN and StatSN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SerialNumber(pub u32);

impl SerialNumber {
    /// The number `count` further on.
    #[must_use]
    pub const fn plus(self, count: u32) -> Self {
        Self(self.0.wrapping_add(count))
    }

    /// Whether this number comes before `other`. Numbers exactly 2^31 apart are in no order.
    pub const fn is_before(self, other: Self) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0 && self.0.wrapping_sub(other.0) != 0x8000_0000
    }

    /// How far `self` lies after `earlier`.
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }
}
