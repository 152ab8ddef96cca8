//! XDR (RFC 4506): how libvirtd's messages are written down. Everything is a multiple of four bytes, the highest byte
//! first.

/// What is sent.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn i32(&mut self, value: i32) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    /// Bytes of a known number, which is a multiple of four here.
    pub(super) fn fixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend(bytes);
        self
    }

    /// A string (section 4.11): its length, itself, and zeros up to a multiple of four.
    pub(super) fn string(&mut self, text: &str) -> &mut Self {
        // What is sent is made here and is far from four gigabytes.
        self.u32(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What was said is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

type Read<T> = Result<T, Malformed>;

/// What was received. Nothing is taken for granted: whoever sent it may want to harm.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self) -> Read<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn i32(&mut self) -> Read<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Read<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A string; what is not UTF-8 of it, a guest's doing as a rule, is replaced.
    pub(super) fn string(&mut self) -> Read<String> {
        let length = self.u32()? as usize;
        let text = self.take(length)?;
        self.take(length.next_multiple_of(4) - length)?;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// Something that may be absent (section 4.19).
    pub(super) fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Read<T>) -> Read<Option<T>> {
        match self.u32()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Malformed),
        }
    }

    /// How many elements follow, each of at least `smallest` bytes: a count that what was received cannot hold is
    /// refused before anything is made for it.
    pub(super) fn count(&mut self, smallest: usize) -> Read<usize> {
        let count = self.u32()? as usize;
        if count > self.0.len() / smallest { Err(Malformed) } else { Ok(count) }
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Read<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_is_a_multiple_of_four_bytes() {
        let mut writer = Writer::default();
        writer.u32(7).string("abcde").i32(-1).u64(1 << 40).string("").fixed(&[1; 16]);
        assert_eq!(writer.bytes().len(), 4 + 12 + 4 + 8 + 4 + 16);
        let mut reader = Reader::new(writer.bytes());
        assert_eq!(reader.u32(), Ok(7));
        assert_eq!(reader.string().as_deref(), Ok("abcde"));
        assert_eq!(reader.i32(), Ok(-1));
        assert_eq!(reader.u64(), Ok(1 << 40));
        assert_eq!(reader.string().as_deref(), Ok(""));
        assert_eq!(reader.array(), Ok([1; 16]));
        assert_eq!(reader.end(), Ok(()));
    }

    #[test]
    fn a_length_or_count_that_was_not_received_is_refused_before_memory_is_taken_for_it() {
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff]).string(), Err(Malformed));
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xfe, 0, 0]).string(), Err(Malformed));
        assert_eq!(Reader::new(&[0, 0, 0, 1, b'a']).string(), Err(Malformed), "its padding is missing");
        assert_eq!(Reader::new(&[0, 0, 0, 2, 0, 0, 0, 0]).count(4), Err(Malformed));
        assert_eq!(Reader::new(&[0, 0, 0, 1, 0, 0, 0, 0]).count(4), Ok(1));
        assert_eq!(Reader::new(&[0, 0, 0, 2]).optional(|_| Ok(())), Err(Malformed));
        assert_eq!(Reader::new(&[0]).end(), Err(Malformed));
    }
}
