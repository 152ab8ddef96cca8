//! Consoles: what guests have written lately.

use alloc::string::String;
use alloc::vec::Vec;
use base64ct::{Base64, Encoding};
use core::fmt;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most bytes of one page.
pub const CONSOLE_BYTES_MAX: usize = 2048;

/// Bytes of any value, at most [`CONSOLE_BYTES_MAX`]; written in base64 (RFC 4648, section 4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Base64::encode_string(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("up to 2048 bytes in base64")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
                if text.len() > CONSOLE_BYTES_MAX.div_ceil(3) * 4 {
                    return Err(E::custom("more than 2048 bytes"));
                }
                Base64::decode_vec(text).map(Bytes).map_err(|_| E::custom("no base64"))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl Bytes {
    /// They as text, with a mark in place of what is none.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

/// What a guest wrote to its console from some place on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ConsolePage {
    /// How many bytes the guest had written before these since it was started, or since the agent began to listen. More than
    /// was asked for: those between are not kept any more.
    pub from: u64,
    /// What to ask after next. Less than was asked for: the guest was started anew, and its console begins anew.
    pub next: u64,
    /// What it wrote, in base64 and as it wrote it: to be shown to nobody's terminal as it is.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub data: Bytes,
}
