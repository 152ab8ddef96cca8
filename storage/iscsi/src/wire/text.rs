//! `key=value` text (6.1): reading a list of pairs out of bytes from outside, and writing one.

/// Most bytes in a key (6.1).
pub const MAX_KEY: usize = 63;
/// Most bytes in the value of a key that has no longer limit of its own (6.1).
pub const MAX_VALUE: usize = 255;

/// Why a text is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// A pair without `=`.
    NoEquals,
    /// A key that is empty, too long or has bytes a key must not have.
    Key,
    /// A value that is too long or is not printable UTF-8.
    Value,
    /// The last pair is not ended by a NUL.
    Unterminated,
}

/// The pairs of a text, in order. After a malformed pair there is no next.
pub struct Pairs<'a>(&'a [u8]);

/// Read the pairs of a text. Empty pairs, which is what padding with NULs looks like, are passed over.
pub const fn pairs(text: &[u8]) -> Pairs<'_> {
    Pairs(text)
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Result<(&'a str, &'a str), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        while let [0, rest @ ..] = self.0 {
            self.0 = rest;
        }
        if self.0.is_empty() {
            return None;
        }
        let Some(end) = self.0.iter().position(|&byte| byte == 0) else {
            self.0 = &[];
            return Some(Err(Malformed::Unterminated));
        };
        let (item, rest) = (&self.0[..end], &self.0[end + 1..]);
        let pair = pair(item);
        self.0 = if pair.is_ok() { rest } else { &[] };
        Some(pair)
    }
}

fn pair(item: &[u8]) -> Result<(&str, &str), Malformed> {
    let equals = item.iter().position(|&byte| byte == b'=').ok_or(Malformed::NoEquals)?;
    let (key, value) = (&item[..equals], &item[equals + 1..]);
    // Longer than the standard allows is not ours to answer: the answer would have to repeat the key.
    if key.is_empty() || key.len() > MAX_KEY || !key.iter().all(|&byte| is_key_byte(byte)) {
        return Err(Malformed::Key);
    }
    let key = core::str::from_utf8(key).map_err(|_| Malformed::Key)?;
    let value = core::str::from_utf8(value).map_err(|_| Malformed::Value)?;
    if value.len() > super::LOGIN_DATA_SEGMENT as usize || value.chars().any(char::is_control) {
        return Err(Malformed::Value);
    }
    Ok((key, value))
}

/// Letters, digits and the few signs that 6.1 allows in a standard-label.
const fn is_key_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'+' | b'@' | b'_' | b'/' | b'#' | b':')
}

/// Read a numerical value (6.1): decimal, or hexadecimal after `0x`.
pub fn number(value: &str) -> Option<u32> {
    let (digits, radix) = match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => (value, 10),
    };
    // from_str_radix would take a sign.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u32::from_str_radix(digits, radix).ok()
}

/// There is no room for the pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

/// Writes pairs into a slice and never beyond it.
pub struct Writer<'a> {
    out: &'a mut [u8],
    length: usize,
}

impl<'a> Writer<'a> {
    /// Begin at the start of `out`.
    pub const fn new(out: &'a mut [u8]) -> Self {
        Self { out, length: 0 }
    }

    /// Bytes written so far.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Write `key=value` and its NUL, wholly or not at all.
    pub fn pair(&mut self, key: &str, value: impl core::fmt::Display) -> Result<(), Full> {
        let before = self.length;
        let written = core::fmt::Write::write_fmt(self, format_args!("{key}={value}\0"));
        if written.is_err() {
            self.length = before;
        }
        written.map_err(|_| Full)
    }

    /// Forget what was written after the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl core::fmt::Write for Writer<'_> {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let place = self.out.get_mut(self.length..self.length + text.len()).ok_or(core::fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}
