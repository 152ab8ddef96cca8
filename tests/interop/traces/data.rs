//! Bytes as a trace writes them: what is sent, and what an answer has to look like.
//!
//! | word | what it stands for |
//! |---|---|
//! | `0b00ff` | these bytes; a pair of dots stands for any byte |
//! | `"CORBEL  "` | the bytes of this text |
//! | `00*512`, `"x"*4` | the same so many times |
//! | `%10xx0000` | a byte with these bits, where those of an `x` may be anything |
//! | `serial:16` | sixteen bytes that are kept under a name; where the name has some already, those again |
//! | `@36` | nothing: 36 bytes have been said by now |
//! | `...` | whatever else there is |

use std::collections::BTreeMap;

/// Bytes kept by name.
pub(super) type Names = BTreeMap<String, Vec<u8>>;

/// A word of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// So many bytes with these bits: value and mask.
    Bits(Vec<(u8, u8)>),
    Name(String, usize),
    At(usize),
    Rest,
}

/// Bytes, or what they must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Data(Vec<Piece>);

impl Data {
    /// Reads words.
    pub(super) fn parse(words: &[String]) -> Result<Self, String> {
        words.iter().map(|word| piece(word)).collect::<Result<_, _>>().map(Self)
    }

    /// The bytes to send.
    pub(super) fn bytes(&self, names: &Names) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Bits(bits) if bits.iter().all(|(_, mask)| *mask == 0xff) => {
                    bytes.extend(bits.iter().map(|(value, _)| value));
                }
                Piece::Name(name, length) => match names.get(name) {
                    Some(kept) if kept.len() == *length => bytes.extend(kept),
                    _ => return Err(format!("there are no {length} bytes by the name {name}")),
                },
                Piece::At(at) if *at == bytes.len() => {}
                other => return Err(format!("{other:?} after {} bytes cannot be sent", bytes.len())),
            }
        }
        Ok(bytes)
    }

    /// Fails unless `bytes` are like this from the first to the last; keeps those that have a name.
    pub(super) fn check(&self, bytes: &[u8], names: &mut Names) -> Result<(), String> {
        let mut at = 0;
        for piece in &self.0 {
            let rest = &bytes[at..];
            let length = match piece {
                Piece::Bits(bits) => bits.len(),
                Piece::Name(_, length) => *length,
                Piece::At(place) if *place == at => 0,
                Piece::At(place) => return Err(format!("the trace is at byte {at} where it says {place}")),
                Piece::Rest => rest.len(),
            };
            let found =
                rest.get(..length).ok_or(format!("only {} bytes: {piece:?} is missing", bytes.len()))?;
            match piece {
                Piece::Bits(bits) => {
                    let wrong =
                        bits.iter().zip(found).position(|((value, mask), byte)| byte & mask != *value);
                    if let Some(wrong) = wrong {
                        let (value, mask) = bits[wrong];
                        let byte = found[wrong];
                        return Err(format!(
                            "byte {}: {byte:02x}, not {value:02x} (of {mask:02x})",
                            at + wrong
                        ));
                    }
                }
                Piece::Name(name, _) => {
                    let kept = names.entry(name.clone()).or_insert_with(|| found.to_vec());
                    if kept != found {
                        return Err(format!("bytes from {at}: {found:02x?}, but {name} was {kept:02x?}"));
                    }
                }
                Piece::At(_) | Piece::Rest => {}
            }
            at += length;
        }
        if at == bytes.len() {
            Ok(())
        } else {
            Err(format!("{} bytes where {at} were expected", bytes.len()))
        }
    }
}

fn piece(word: &str) -> Result<Piece, String> {
    let fail = || format!("{word:?} are no bytes");
    if word == "..." {
        return Ok(Piece::Rest);
    }
    if let Some(at) = word.strip_prefix('@') {
        return at.parse().map(Piece::At).map_err(|_| fail());
    }
    if let Some(bits) = word.strip_prefix('%') {
        let of = |sign: char| bits.chars().fold(0, |byte: u8, bit| byte << 1 | u8::from(bit == sign));
        let known = bits.len() == 8 && bits.chars().all(|bit| matches!(bit, '0' | '1' | 'x'));
        return if known { Ok(Piece::Bits(vec![(of('1'), !of('x'))])) } else { Err(fail()) };
    }
    let (unit, times) = match word.rsplit_once('*') {
        Some((unit, times)) => (unit, times.parse().map_err(|_| fail())?),
        None => (word, 1),
    };
    if let Some(text) = unit.strip_prefix('"') {
        let text = text.strip_suffix('"').ok_or_else(fail)?;
        return Ok(Piece::Bits(text.bytes().map(|byte| (byte, 0xff)).collect::<Vec<_>>().repeat(times)));
    }
    if let Some((name, length)) = unit.split_once(':') {
        return length.parse().map(|length| Piece::Name(name.to_string(), length)).map_err(|_| fail());
    }
    let pairs = unit.as_bytes().chunks(2).map(|pair| match pair {
        b".." => Some((0, 0)),
        [_, _] => Some((u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?, 0xff)),
        _ => None,
    });
    let bits = pairs.collect::<Option<Vec<_>>>().ok_or_else(fail)?;
    Ok(Piece::Bits(bits.repeat(times)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(words: &str) -> Data {
        Data::parse(&words.split(' ').map(str::to_string).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn what_is_said_is_what_is_expected() {
        let mut names = Names::new();
        let expected = data("0b..ff \"ab\"*2 %10xx0000 key:2 @10 00*2 ...");
        let good = b"\x0b\x77\xffabab\xb0k1\0\0and more";
        assert_eq!(expected.check(good, &mut names), Ok(()));
        assert_eq!(data("key:2 ff*3").bytes(&names).unwrap(), b"k1\xff\xff\xff");
        for (at, byte) in [(0, 0x0c), (3, 0), (7, 0x40), (8, b'q'), (11, 1)] {
            let mut bad = *good;
            bad[at] = byte;
            assert!(expected.check(&bad, &mut names).is_err(), "byte {at}");
        }
    }

    #[test]
    fn too_little_and_too_much_are_told_from_enough() {
        let mut names = Names::new();
        assert!(data("00*4").check(&[0; 3], &mut names).is_err());
        assert!(data("00*4").check(&[0; 5], &mut names).is_err());
        assert!(data("00*4 @5").check(&[0; 4], &mut names).is_err());
        assert!(data("00..").bytes(&names).is_err());
        assert!(data("other:4").bytes(&names).is_err());
    }

    #[test]
    fn what_is_no_bytes_is_refused() {
        for word in ["0", "0g", "%101", "\"a", "00*x", "name:", "@"] {
            assert!(piece(word).is_err(), "{word}");
        }
    }
}
