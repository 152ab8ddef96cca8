//! Words of a peer, made fit to be shown: bounded, valid UTF-8, and without characters that a terminal or a log
//! would act upon.

use core::fmt;
use core::ops::Deref;

const CAPACITY: usize = 255;
const CUT: char = '…';

/// A short text from outside. Longer ones end in `…`.
#[derive(Clone, Copy)]
pub struct Text {
    bytes: [u8; CAPACITY],
    length: u8,
}

impl Text {
    /// No words.
    pub const EMPTY: Self = Self { bytes: [0; CAPACITY], length: 0 };

    /// Take what is fit to be shown out of `bytes`; everything else becomes `\u{fffd}`.
    pub fn new(bytes: &[u8]) -> Self {
        let mut text = Self::EMPTY;
        for piece in bytes.utf8_chunks() {
            let broken = (!piece.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER);
            for character in piece.valid().chars().map(shown).chain(broken) {
                if !text.push(character, CAPACITY - CUT.len_utf8()) {
                    text.push(CUT, CAPACITY);
                    return text;
                }
            }
        }
        text
    }

    fn push(&mut self, character: char, limit: usize) -> bool {
        let start = usize::from(self.length);
        let end = start + character.len_utf8();
        if end > limit {
            return false;
        }
        character.encode_utf8(&mut self.bytes[start..end]);
        self.length = end as u8;
        true
    }
}

/// Control characters would act; the directional ones would make a line read as another.
fn shown(character: char) -> char {
    let acts = character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    if acts { char::REPLACEMENT_CHARACTER } else { character }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text {}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_words_pass_unchanged() {
        assert_eq!(&*Text::new("größe=1, ok".as_bytes()), "größe=1, ok");
        assert!(Text::new(b"").is_empty());
    }

    #[test]
    fn what_a_terminal_would_act_upon_is_replaced() {
        assert_eq!(&*Text::new(b"a\x1b[2Jb\r\nc\0"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}");
        assert_eq!(&*Text::new("x\u{202e}y\u{85}".as_bytes()), "x\u{fffd}y\u{fffd}");
        assert_eq!(&*Text::new(b"\xc0\x80ok\xff"), "\u{fffd}\u{fffd}ok\u{fffd}");
    }

    #[test]
    fn long_words_are_cut_at_a_character_and_say_so() {
        for width in 1..5 {
            let long = ["a", "ä", "€", "𝄞"][width - 1].repeat(4097);
            let text = Text::new(long.as_bytes());
            assert!(text.ends_with('…') && text.len() <= CAPACITY && text.len() > CAPACITY - 8);
        }
    }
}
