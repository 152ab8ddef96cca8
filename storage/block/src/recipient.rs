//! Whoever can use what a read brings where it lies, before it is in the read's buffer.

/// Somebody for whom bytes of a read are, and who may have a use for them where they lie: then one copy less is made.
///
/// The buffer of a read stays what it is for: what is not used goes there. What is used does not, so whoever uses any has
/// to remember how much, and must never look for it in the buffer.
pub trait Recipient {
    /// Bytes of the read with this cookie are there, without an error and for good: nothing that comes after them can
    /// say otherwise. Answers what has become of them.
    ///
    /// A read that has lost its connection begins anew, with bytes that were used before.
    fn deliver(&mut self, cookie: u64, arrived: &Arrived<'_>) -> Delivery;
}

/// Bytes of a read.
#[derive(Clone, Copy, Debug)]
pub struct Arrived<'a> {
    /// Where in the read they begin: behind all that were used.
    pub offset: u32,
    /// Those which were there before and not used, as they lie in the buffer.
    pub had: &'a [u8],
    /// Those which follow, as they lie wherever they have come to.
    pub come: &'a [u8],
    /// They are the last, and the read has succeeded with them.
    pub is_last: bool,
}

impl Arrived<'_> {
    /// Where more are to come, bytes are to be used up to a multiple of so many from the first of the read on: then no block
    /// of that size or a smaller one is cut in two.
    pub const GRAIN: u32 = 4 << 10;

    /// How many there are.
    pub fn length(&self) -> u32 {
        (self.had.len() + self.come.len()) as u32
    }
}

/// What has become of bytes that were delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// So many were used, from the first on.
    Used(u32),
    /// They were the last, all were used, and whoever made the read waits for no completion any more.
    Ended,
}

/// Nobody: all goes to the buffers.
impl Recipient for () {
    fn deliver(&mut self, _: u64, _: &Arrived<'_>) -> Delivery {
        Delivery::Used(0)
    }
}
