//! Where the configuration lies, and how it is read there: a `cidata` volume ([`volume`]), the machine's SMBIOS table
//! ([`smbios`]), a metadata service ([`mmds`]).
//!
//! Whoever calls brings the bytes: a door asks its firmware for the blocks of a disk, the image its driver. Nothing here
//! allocates, for the doors have no heap, and all of it is from outside: a file system, a table or an answer that makes no
//! sense ends in a [`Fault`] or is as if it were not there.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(any(test, feature = "testing"))]
extern crate std;

pub mod mmds;
pub mod smbios;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod volume;

pub use volume::Fault;

/// The longest document, in bytes; the appliance says the same (`image/appliance/src/config.rs`).
pub const LONGEST: usize = 64 * 1024;

/// The item by which a document says that no volume labelled `cidata` is to be looked for.
pub const NO_VOLUMES: &[u8] = b"config.cidata=no";

/// Whether a document has this item, `key=value`: for a door, which understands no more of it. Items stand between white space, and
/// from a `#` on a line is a comment.
pub fn has_item(document: &[u8], item: &[u8]) -> bool {
    let lines = document.split(|byte| *byte == b'\n');
    let lines = lines.filter_map(|line| line.split(|byte| *byte == b'#').next());
    lines.flat_map(|line| line.split(u8::is_ascii_whitespace)).any(|found| found == item)
}

/// A little-endian number of `N` bytes, at most eight, at `offset`; `None` beyond the end.
fn number<const N: usize>(bytes: &[u8], offset: usize) -> Option<u64> {
    let mut whole = [0; 8];
    whole.get_mut(..N)?.copy_from_slice(bytes.get(offset..offset.checked_add(N)?)?);
    Some(u64::from_le_bytes(whole))
}

#[cfg(test)]
mod tests {
    use super::{NO_VOLUMES, has_item};

    #[test]
    fn an_item_is_one_wherever_it_stands_unless_in_a_comment() {
        let good = [
            "config.cidata=no",
            "a=b config.cidata=no\r\nc=d",
            "# x\n\tconfig.cidata=no# y",
            "#\n\nconfig.cidata=no",
        ];
        for text in good {
            assert!(has_item(text.as_bytes(), NO_VOLUMES), "{text:?}");
        }
        let bad = [
            "",
            "# config.cidata=no",
            "a=b#config.cidata=no",
            "config.cidata=not",
            "xconfig.cidata=no",
            "config.cidata=yes",
        ];
        for text in bad {
            assert!(!has_item(text.as_bytes(), NO_VOLUMES), "{text:?}");
        }
    }
}
