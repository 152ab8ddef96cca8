//! iSCSI names (4.2.7).

use core::fmt;

/// Most bytes in an iSCSI name.
pub const MAX_NAME: usize = 223;

/// An iSCSI name in its canonical form: lower case, of type `iqn`, `eui` or `naa`, without a byte that could
/// disturb a log. Empty only by [`Name::default`].
#[derive(Clone, Copy)]
pub struct Name {
    bytes: [u8; MAX_NAME],
    length: u8,
}

/// The text is no iSCSI name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAName;

impl Name {
    /// Check a name from outside and fold its ASCII letters to lower case, as the stringprep profile does.
    pub fn new(text: &str) -> Result<Self, NotAName> {
        let typed = ["iqn.", "eui.", "naa."].iter().any(|kind| {
            text.get(..4).is_some_and(|head| head.eq_ignore_ascii_case(kind)) && text.len() > kind.len()
        });
        if !typed || text.len() > MAX_NAME || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(NotAName);
        }
        let mut name = Self::default();
        name.bytes[..text.len()].copy_from_slice(text.as_bytes());
        name.bytes.make_ascii_lowercase();
        name.length = text.len() as u8;
        Ok(name)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    /// Whether there is no name.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl Default for Name {
    fn default() -> Self {
        Self { bytes: [0; MAX_NAME], length: 0 }
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Name {}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.as_str().eq_ignore_ascii_case(other)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_regard_to_case() {
        let name = Name::new("IQN.2001-04.com.Example:Disk").expect("a name");
        assert_eq!(name.as_str(), "iqn.2001-04.com.example:disk");
        assert!(name == *"iqn.2001-04.com.example:DISK");
    }

    #[test]
    fn what_could_not_be_a_name_is_refused() {
        let long = format!("iqn.{}", "x".repeat(MAX_NAME - 3));
        for wrong in ["", "iqn.", "disk", "iqn.a b", "iqn.a\u{1b}[2J", "iq\u{f6}.x", &long] {
            assert!(Name::new(wrong).is_err(), "{wrong}");
        }
        assert!(Name::new(&long[..MAX_NAME]).is_ok());
        assert!(Name::new("eui.02004567A425678D").is_ok());
        assert!(Name::new("naa.52004567BA64678D").is_ok());
    }
}
