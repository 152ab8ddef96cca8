//! Numbers and binary values as text (RFC 7143 section 6.1).

use base64ct::{Base64, Encoding};
use core::fmt;

/// Bytes on their way out: hexadecimal, which every initiator reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hex<'a>(pub &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A number below 256: decimal, or hexadecimal after `0x`.
pub(crate) fn number(text: &str) -> Option<u8> {
    let (digits, radix) = match after(text, b'x') {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    // from_str_radix would take a sign.
    u8::from_str_radix(digits, radix).ok().filter(|_| !digits.starts_with('+'))
}

/// What stands behind `0x` or `0b`, in either case.
fn after(text: &str, kind: u8) -> Option<&str> {
    let is_it = matches!(text.as_bytes(), [b'0', letter, ..] if letter.to_ascii_lowercase() == kind);
    is_it.then(|| &text[2..])
}

/// Read a binary value, hexadecimal after `0x` or base64 after `0b`, into `out`. `None` where it is neither, has no bytes,
/// or more than there is room for. An odd number of hexadecimal digits begins with half a byte.
pub(crate) fn decode<'a>(text: &str, out: &'a mut [u8]) -> Option<&'a [u8]> {
    let Some(digits) = after(text, b'x') else {
        let bytes = Base64::decode(after(text, b'b')?, out).ok();
        return bytes.filter(|bytes| !bytes.is_empty());
    };
    let (mut held, mut has_half, mut length) = (0, digits.len() % 2 != 0, 0);
    for digit in digits.chars() {
        held = held << 4 | digit.to_digit(16)? as u8;
        if has_half {
            *out.get_mut(length)? = held;
            length += 1;
        }
        has_half = !has_half;
    }
    (length > 0).then(|| &out[..length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_values_are_read_in_either_encoding() {
        let mut out = [0; 8];
        for (text, bytes) in [
            ("0x00ff10", &[0, 0xff, 0x10][..]),
            ("0XaBcD", &[0xab, 0xcd]),
            ("0xabc", &[0x0a, 0xbc]),
            ("0x7", &[7]),
            // RFC 4648 section 10.
            ("0bZg==", b"f"),
            ("0BZm8=", b"fo"),
            ("0bZm9v", b"foo"),
            ("0bZm9vYmFy", b"foobar"),
            ("0b+/+/", &[0xfb, 0xff, 0xbf]),
            ("0x0102030405060708", &[1, 2, 3, 4, 5, 6, 7, 8]),
            ("0bAQIDBAUGBwg=", &[1, 2, 3, 4, 5, 6, 7, 8]),
        ] {
            assert_eq!(decode(text, &mut out), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_binary_value_or_too_long_is_refused() {
        let mut out = [0; 8];
        for text in [
            "",
            "0",
            "0x",
            "0b",
            "x00",
            "1234",
            "0xg0",
            "0x00 ",
            "0x+1",
            "0x0é",
            "0b=",
            "0b====",
            "0bZg",
            "0bZg=",
            "0bZ===",
            "0bZh==",
            "0bZm9=",
            "0bZg==Zg==",
            "0bZm9v_-==",
            "0x010203040506070809",
            "0bAQIDBAUGBwgJ",
        ] {
            assert_eq!(decode(text, &mut out), None, "{text}");
        }
    }

    #[test]
    fn numbers_have_no_sign_and_fit_into_a_byte() {
        for (text, value) in [("0", Some(0)), ("255", Some(255)), ("0xff", Some(255)), ("0X0a", Some(10))] {
            assert_eq!(number(text), value, "{text}");
        }
        for text in ["", "-1", "+1", "256", "0x", "0x+1", "0x100", "1 ", "five", "0b1"] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_are_written_in_hexadecimal() {
        assert_eq!(Hex(&[0, 0xab, 7]).to_string(), "0x00ab07");
    }
}
