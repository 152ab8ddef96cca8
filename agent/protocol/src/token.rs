//! Names: restricted so far that none can ever be mistaken for a path, an option or a piece of a command line.

use alloc::boxed::Box;
use core::fmt;
use core::str::FromStr;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name, in bytes; that of a DNS label (RFC 1123 section 2.1), so any name is a valid host name too.
const NAME_LIMIT: usize = 63;

/// Why some text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Empty, or longer than 63 bytes.
    Length,
    /// A byte other than `a`–`z`, `0`–`9` and `-`, or a hyphen at either end.
    Byte,
}

impl fmt::Display for TokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Length => "a name has 1 to 63 characters",
            Self::Byte => "a name consists of a-z, 0-9 and hyphens and neither begins nor ends with a hyphen",
        })
    }
}

fn check(text: &str) -> Result<(), TokenError> {
    let bytes = text.as_bytes();
    if bytes.is_empty() || bytes.len() > NAME_LIMIT {
        return Err(TokenError::Length);
    }
    let plain = bytes.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    // A leading hyphen would look like an option to a program that is handed the name.
    if !plain || bytes[0] == b'-' || bytes[bytes.len() - 1] == b'-' {
        return Err(TokenError::Byte);
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// 1 to 63 bytes of `[a-z0-9-]`, neither beginning nor ending with a hyphen.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = TokenError;
            fn from_str(text: &str) -> Result<Self, TokenError> {
                check(text)?;
                Ok(Self(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Parsed(core::marker::PhantomData))
            }
        }
    };
}

name!(
    /// What an instance is called, chosen by the provider and unique on its host.
    InstanceId
);
name!(
    /// What an image is called in the agent's own table; what it stands for never crosses the wire.
    ImageName
);
name!(
    /// What one operation is called, chosen by the appliance and never reused.
    OpId
);
name!(
    /// What a disk of an instance is called.
    VolumeName
);
name!(
    /// What a network interface of an instance is called.
    NicName
);
name!(
    /// What a network is called in the agent's own table; what it stands for never crosses the wire.
    NetworkName
);
name!(
    /// What a snapshot of an instance is called.
    SnapshotName
);
name!(
    /// What another host is called in the agent's own table, to which instances may move.
    PeerName
);

/// An iSCSI name (RFC 7143 section 4.2.7): 1 to 223 bytes of `[a-z0-9.:-]`, beginning with `iqn.`, `eui.` or `naa.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IscsiName(Box<str>);

/// The longest iSCSI name, in bytes.
const ISCSI_NAME_LIMIT: usize = 223;

impl IscsiName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IscsiName {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > ISCSI_NAME_LIMIT || text.len() < 5 {
            return Err(TokenError::Length);
        }
        let plain = text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b':' | b'-'));
        let known = ["iqn.", "eui.", "naa."].iter().any(|kind| text.starts_with(kind));
        if plain && known { Ok(Self(text.into())) } else { Err(TokenError::Byte) }
    }
}

impl fmt::Display for IscsiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for IscsiName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for IscsiName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed(core::marker::PhantomData))
    }
}

/// 128 bits that tell one incarnation of a name from the next, written as RFC 9562 section 4 has it, in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub u128);

impl Uuid {
    /// A random (version 4) UUID made of these random bits.
    pub const fn from_random(bits: u128) -> Self {
        let version = 4_u128 << 76;
        let variant = 2_u128 << 62;
        Self(bits & !(0xf << 76) & !(3 << 62) | version | variant)
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.0;
        let (low, medium, high) = (bits >> 96, bits >> 80 & 0xffff, bits >> 64 & 0xffff);
        write!(
            f,
            "{low:08x}-{medium:04x}-{high:04x}-{:04x}-{:012x}",
            bits >> 48 & 0xffff,
            bits & 0xffff_ffff_ffff
        )
    }
}

impl FromStr for Uuid {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() != 36 {
            return Err(TokenError::Length);
        }
        let mut bits = 0;
        for (index, byte) in text.bytes().enumerate() {
            let digit = match byte {
                b'-' if matches!(index, 8 | 13 | 18 | 23) => continue,
                _ if matches!(index, 8 | 13 | 18 | 23) => return Err(TokenError::Byte),
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => return Err(TokenError::Byte),
            };
            bits = bits << 4 | u128::from(digit);
        }
        Ok(Self(bits))
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Parsed(core::marker::PhantomData))
    }
}

/// Reads a string straight into the type that knows what it may hold.
struct Parsed<T>(core::marker::PhantomData<T>);

impl<T: FromStr<Err = TokenError>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}
