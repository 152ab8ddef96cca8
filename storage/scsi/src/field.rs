//! Big-endian fields of CDBs and parameter lists, and the writer of what is answered.
//!
//! Reading past the end gives zero: a CDB always has sixteen bytes here, and a parameter list's length is checked by
//! who reads it. Nothing in this module can panic on a value that came from outside.

/// The byte at `at`.
pub(crate) fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// The 16-bit field at `at`.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at))
}

/// The 24-bit field at `at`.
pub(crate) fn u24_at(bytes: &[u8], at: usize) -> u32 {
    let [a, b, c] = array(bytes, at);
    u32::from_be_bytes([0, a, b, c])
}

/// The 32-bit field at `at`.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}

/// The 64-bit field at `at`.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(array(bytes, at))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = u8_at(bytes, at.saturating_add(index));
    }
    out
}

/// Writes an answer into memory that may be shorter than it, and counts what the whole of it would need.
///
/// An answer is made twice: once into nothing, to learn its length, and once into a buffer of just that length or of
/// the initiator's allocation length if that is less (SPC-4 section 4.2.5.6: truncation is no error).
pub(crate) struct Answer<'a> {
    memory: &'a mut [u8],
    /// Bytes of the answer before those that `memory` is for.
    skip: usize,
    length: usize,
}

impl<'a> Answer<'a> {
    /// An answer whose bytes from `skip` on go into `memory`, all of which is zero except what is written.
    pub(crate) fn new(memory: &'a mut [u8], skip: usize) -> Self {
        memory.fill(0);
        Self { memory, skip, length: 0 }
    }

    /// Bytes the whole answer has.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Append `bytes`.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.set(self.length, bytes);
        self.length += bytes.len();
    }

    /// Append a byte.
    pub(crate) fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }

    /// Append a 16-bit field.
    pub(crate) fn put_u16(&mut self, value: u16) {
        self.put(&value.to_be_bytes());
    }

    /// Append a 32-bit field.
    pub(crate) fn put_u32(&mut self, value: u32) {
        self.put(&value.to_be_bytes());
    }

    /// Append a 64-bit field.
    pub(crate) fn put_u64(&mut self, value: u64) {
        self.put(&value.to_be_bytes());
    }

    /// Append zeroes until the answer has `length` bytes.
    pub(crate) fn pad_to(&mut self, length: usize) {
        self.length = self.length.max(length);
    }

    /// Overwrite at `at`, for length fields that are known last.
    pub(crate) fn set(&mut self, at: usize, bytes: &[u8]) {
        for (index, &byte) in bytes.iter().enumerate() {
            let place = (at + index).checked_sub(self.skip).and_then(|place| self.memory.get_mut(place));
            if let Some(place) = place {
                *place = byte;
            }
        }
    }

    /// Write at `at`, as a 16-bit field, how many bytes follow that field.
    pub(crate) fn close_u16(&mut self, at: usize) {
        let rest = self.length.saturating_sub(at + 2).min(usize::from(u16::MAX));
        self.set(at, &(rest as u16).to_be_bytes());
    }

    /// Write at `at`, as a 32-bit field, how many bytes follow that field.
    pub(crate) fn close_u32(&mut self, at: usize) {
        let rest = self.length.saturating_sub(at + 4);
        self.set(at, &(rest as u32).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_past_the_end_gives_zero() {
        assert_eq!(u32_at(&[1, 2], 1), 0x0200_0000);
        assert_eq!(u64_at(&[], usize::MAX), 0);
    }

    #[test]
    fn an_answer_counts_what_it_could_not_hold() {
        let mut memory = [0xff; 3];
        let mut answer = Answer::new(&mut memory, 0);
        answer.put_u16(0);
        answer.put_u32(0x0102_0304);
        answer.pad_to(10);
        answer.close_u16(0);
        assert_eq!(answer.length(), 10);
        assert_eq!(memory, [0, 8, 1]);
    }

    #[test]
    fn an_answer_can_be_written_from_its_middle() {
        let mut memory = [0xff; 3];
        let mut answer = Answer::new(&mut memory, 3);
        answer.put(&[1, 2, 3, 4, 5]);
        answer.set(2, &[9, 9]);
        assert_eq!(memory, [9, 5, 0]);
    }
}
