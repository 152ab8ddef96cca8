//! Bytes to types and back, and the paths they travel on.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Where each request goes.
pub mod path {
    /// `POST`: [`crate::Hello`] → [`crate::Welcome`].
    pub const HELLO: &str = "/a1/hello";
    /// `POST`: [`crate::Command`] → [`crate::Answer`]. With `/{op_id}` appended, `GET`: what became of it.
    pub const COMMAND: &str = "/a1/cmd";
    /// `GET`: [`crate::Inventory`].
    pub const INVENTORY: &str = "/a1/inventory";
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

/// The value that `bytes` are the JSON of. How large and how deep they may be is for the caller to have checked.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    serde_json::from_slice(bytes).map_err(|error| Malformed(error.to_string()))
}
