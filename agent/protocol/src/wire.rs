//! Bytes to types and back, and the paths they travel on.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where each request goes.
pub mod path {
    /// `POST`: [`crate::Hello`] → [`crate::Welcome`].
    pub const HELLO: &str = "/a1/hello";
    /// `POST`: [`crate::Command`] → [`crate::Answer`]. With `/{op_id}` appended, `GET`: what became of it. Both with
    /// `?wait=MILLISECONDS`: the answer is held back no longer than that, and is one of status 202 while nothing is final.
    pub const COMMAND: &str = "/a1/cmd";
    /// `GET`, with `?limit=N&after=NAME`: [`crate::Inventory`].
    pub const INVENTORY: &str = "/a1/inventory";
    /// `GET`, with `?after=SEQ&wait=MILLISECONDS`: [`crate::EventPage`].
    pub const EVENTS: &str = "/a1/events";
    /// With `/{network}` appended, `PUT`: [`crate::NetworkMap`] → [`crate::NetworkState`], which says whether it is in
    /// effect; `GET`: [`crate::NetworkState`]; `DELETE`: there is no such network any more. Without a name, `GET`:
    /// [`crate::NetworkList`].
    pub const NETWORKS: &str = "/a1/networks";
    /// `GET` with `/{instance}` appended, and `?after=N`: [`crate::ConsolePage`], what the guest wrote after its first N bytes.
    pub const CONSOLE: &str = "/a1/console";
    /// `GET` with `/{instance}` appended, and `?wait=MILLISECONDS`: [`crate::Stats`], or 202 while there is nothing yet.
    pub const STATS: &str = "/a1/stats";
}

/// Bytes that are not what they should be, and what is wrong with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(String);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for Malformed {}

/// `value` as JSON.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Serialising to memory fails only for maps whose keys are no strings, and no type here has a map.
    serde_json::to_vec(value).unwrap_or_default()
}

/// A value that is written as an object. What serde derives for a struct would take a list of its fields as well, and
/// one thing must not have two spellings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object<T>(pub T);

impl<T: Serialize> Serialize for Object<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// For a field that is an object and nothing else.
pub(crate) fn object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(source: D) -> Result<T, D::Error> {
    Object::deserialize(source).map(|Object(value)| value)
}

/// The object that `bytes` are the JSON of. How large and how deep they may be is for the caller to have checked.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    let decoded = serde_json::from_slice(bytes).map(|Object(value)| value);
    decoded.map_err(|error| Malformed(error.to_string()))
}
