//! Names that clients choose.

use agent_protocol::InstanceId;
use alloc::boxed::Box;
use core::fmt;
use core::str::FromStr;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Targets are named under the same rule as instances.
pub type TargetId = InstanceId;

/// Chosen by a client to name one request: the same again is the same request, not another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientToken(Box<str>);

impl ClientToken {
    /// The longest token, in bytes.
    pub const LIMIT: usize = 64;

    /// The token as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text is no client token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoToken;

impl fmt::Display for NoToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not 1 to 64 of A-Z a-z 0-9 . _ -")
    }
}

impl FromStr for ClientToken {
    type Err = NoToken;
    fn from_str(text: &str) -> Result<Self, NoToken> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > Self::LIMIT || !text.bytes().all(plain) {
            return Err(NoToken);
        }
        Ok(Self(text.into()))
    }
}

impl Serialize for ClientToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ClientToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Token;
        impl Visitor<'_> for Token {
            type Value = ClientToken;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a client token: 1 to 64 of A-Z a-z 0-9 . _ -")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ClientToken, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Token)
    }
}
