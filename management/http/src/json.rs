//! What a JSON body may cost, checked in one pass before a deserialiser sees it.
//!
//! This is no validator: a deserialiser that follows finds what is malformed. It only makes sure that none is led
//! into deep recursion, long lists or large copies by a small body.

use core::fmt;

/// The bounds of one body.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Deepest nesting of arrays and objects.
    pub depth: usize,
    /// Most values, keys included.
    pub tokens: usize,
    /// Longest string, in bytes as written.
    pub string: usize,
}

impl Bounds {
    /// For a request.
    pub const REQUEST: Self = Self { depth: 8, tokens: 256, string: 4096 };
    /// For a peer's answer about one thing.
    pub const ANSWER: Self = Self { depth: 8, tokens: 1024, string: 4096 };
    /// For a network map of as many interfaces as it may have.
    pub const MAP: Self = Self { depth: 3, tokens: 4096, string: 64 };
    /// For a peer's list of things, of which there may be a thousand.
    pub const LIST: Self = Self { depth: 8, tokens: 64 * 1024, string: 4096 };
}

/// Which bound a body exceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// It is not UTF-8, or begins with a byte order mark (RFC 8259 section 8.1).
    Encoding,
    /// Nested too deeply.
    Depth,
    /// Too many values.
    Tokens,
    /// A string is too long.
    String,
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encoding => "the body is not UTF-8 without a byte order mark",
            Self::Depth => "the body is nested too deeply",
            Self::Tokens => "the body holds too many values",
            Self::String => "the body holds a string that is too long",
        })
    }
}

/// Whether `body` stays within `bounds`.
pub fn check(body: &[u8], bounds: &Bounds) -> Result<(), Excess> {
    let text = core::str::from_utf8(body).map_err(|_| Excess::Encoding)?;
    if text.starts_with('\u{feff}') {
        return Err(Excess::Encoding);
    }
    let mut depth = 0_usize;
    let mut tokens = 0_usize;
    let mut at = 0;
    let mut in_word = false;
    while let Some(&byte) = body.get(at) {
        at += 1;
        let word =
            !matches!(byte, b'{' | b'[' | b'}' | b']' | b'"' | b',' | b':' | b' ' | b'\t' | b'\r' | b'\n');
        match byte {
            b'{' | b'[' => {
                depth += 1;
                tokens += 1;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                tokens += 1;
                at = string_end(body, at, bounds.string)?;
            }
            _ if word && !in_word => tokens += 1,
            _ => {}
        }
        in_word = word;
        if depth > bounds.depth {
            return Err(Excess::Depth);
        }
        if tokens > bounds.tokens {
            return Err(Excess::Tokens);
        }
    }
    Ok(())
}

/// One past the quotation mark that ends the string whose first byte is at `start`.
fn string_end(body: &[u8], start: usize, limit: usize) -> Result<usize, Excess> {
    let mut at = start;
    while let Some(&byte) = body.get(at) {
        if byte == b'"' {
            return Ok(at + 1);
        }
        at += if byte == b'\\' { 2 } else { 1 };
        if at - start > limit {
            return Err(Excess::String);
        }
    }
    Ok(body.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_holds_exactly() {
        let bounds = Bounds { depth: 2, tokens: 5, string: 4 };
        assert_eq!(check(br#"{"a":[1,2]}"#, &bounds), Ok(()));
        assert_eq!(check(br#"{"a":[1,2,3]}"#, &bounds), Err(Excess::Tokens));
        assert_eq!(check(br#"[[[]]]"#, &bounds), Err(Excess::Depth));
        assert_eq!(check(br#"["abcd"]"#, &bounds), Ok(()));
        assert_eq!(check(br#"["abcde"]"#, &bounds), Err(Excess::String));
        assert_eq!(check(br#"["a\"[[["]"#, &Bounds { string: 8, ..bounds }), Ok(()));
    }

    #[test]
    fn hostile_bodies_are_stopped_in_one_pass() {
        let bounds = Bounds::REQUEST;
        assert_eq!(check(&[b'['; 10_000], &bounds), Err(Excess::Depth));
        assert_eq!(check(&b"[],".repeat(1000), &bounds), Err(Excess::Tokens));
        assert_eq!(check(b"\xef\xbb\xbf{}", &bounds), Err(Excess::Encoding));
        assert_eq!(check(b"\"\xc0\x80\"", &bounds), Err(Excess::Encoding));
        assert_eq!(check(&[b"\"" as &[u8], &[b'x'; 10_000_000]].concat(), &bounds), Err(Excess::String));
        assert_eq!(check(b"\"unterminated\\", &bounds), Ok(()), "malformed is for the deserialiser to say");
        assert_eq!(check(&b"1 ".repeat(257), &bounds), Err(Excess::Tokens));
        assert_eq!(check(b"]]]]", &bounds), Ok(()));
    }
}
