//! Words for a person: bounded, and free of anything that could act on a terminal or a log.

use alloc::string::String;
use core::fmt;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// At most [`Text::LIMIT`] bytes of printable text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// The longest text, in bytes.
    pub const LIMIT: usize = 512;

    /// `text`, cut to the limit, with control characters and direction marks replaced by spaces: what a guest or a
    /// hypervisor wrote must not be able to rewrite the line it is shown on.
    pub fn new(text: &str) -> Self {
        let mut kept = String::new();
        for character in text.trim().chars() {
            let character = if is_plain(character) { character } else { ' ' };
            if kept.len() + character.len_utf8() > Self::LIMIT {
                break;
            }
            kept.push(character);
        }
        Self(kept)
    }

    /// The words.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_plain(character: char) -> bool {
    let turns_direction =
        matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !character.is_control() && !turns_direction
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;
        impl Visitor<'_> for Bounded {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("at most 512 bytes of text")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                if text.len() > Text::LIMIT {
                    return Err(E::invalid_length(text.len(), &self));
                }
                Ok(Text::new(text))
            }
        }
        deserializer.deserialize_str(Bounded)
    }
}
