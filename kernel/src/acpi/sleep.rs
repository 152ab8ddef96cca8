//! The object `_S5_`: what to write for soft off.
//!
//! It is a package of constants by the standard (ACPI 6.5, section 7.4.2), so it is found by its name and read without
//! an interpreter: `NameOp "_S5_" PackageOp PkgLength NumElements integer integer …` (section 20.2).

const NAME: u8 = 0x08;
const PACKAGE: u8 = 0x12;

/// The sleep types of soft off in a definition block's byte code.
pub(super) fn soft_off(code: &[u8]) -> Option<(u8, u8)> {
    let places = code.windows(4).enumerate().filter(|(_, name)| *name == b"_S5_").map(|(place, _)| place);
    places.into_iter().find_map(|place| {
        // The name may be written from the root on.
        let before = code[..place].strip_suffix(b"\\").unwrap_or(&code[..place]);
        if before.last() != Some(&NAME) {
            return None;
        }
        let rest = code[place + 4..].strip_prefix(&[PACKAGE])?;
        // The two highest bits of the length's first byte count the bytes that follow it; then comes the number of elements.
        let elements = rest.get(usize::from(rest.first()? >> 6) + 2..)?;
        let (first, elements) = integer(elements)?;
        let second = integer(elements).map_or(first, |(second, _)| second);
        Some((first, second))
    })
}

/// An integer constant that fits in the three bits of a sleep type, and what follows it.
fn integer(code: &[u8]) -> Option<(u8, &[u8])> {
    let (value, rest) = match code {
        [value @ 0..=1, rest @ ..] => (*value, rest),
        [0x0a, value, rest @ ..] | [0x0b, value, 0, rest @ ..] | [0x0c, value, 0, 0, 0, rest @ ..] => {
            (*value, rest)
        }
        _ => return None,
    };
    (value < 8).then_some((value, rest))
}
