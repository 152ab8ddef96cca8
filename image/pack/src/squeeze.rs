//! Makes an image smaller: blocks much like those of LZ4, as `image/unpack` takes them.
//!
//! A block is a row of sequences: a token, whose upper half is the number of literals and whose lower half is the length
//! of a match less 4, literals, and the match's distance. 15 stands for more: bytes follow that are added, up to one that
//! is not 255; those of the literals behind the token, those of the match behind its distance. Unlike LZ4 the distance may
//! be far, as it often is between calls of one function: it has 15 bits in two bytes, or, with the highest bit set, 8 more
//! in a third. The last sequence is literals only.
//!
//! The parse is the best there is for the longest matches that are found: from the end on, each place knows what the
//! cheapest way from there costs. A sequence costs a little more than its bytes, for it takes time to unpack.

/// The shortest match of the format.
const SHORTEST: usize = 4;
/// No match is nearer, so that so many bytes can be copied at once.
const NEAREST: usize = 16;
/// No match that has two bytes for its distance is farther,
const NEAR: usize = (1 << 15) - 1;
/// and none that has three.
const FARTHEST: usize = (1 << 23) - 1;
/// The block ends with so many literals; only there its end is looked for.
pub(crate) const TAIL: usize = 16;
/// Places that are looked at for a match of each place.
const TRIES: usize = 1024;
/// A match of so many bytes is long enough to stop looking, and to take none of its parts.
const LONG: usize = 256;
/// What a number in the token stands for: that bytes follow which are added to it.
const MORE: usize = 15;
/// Costs are in eighths of a byte.
const BYTE: u32 = 8;
/// What a sequence costs beside its bytes.
const SEQUENCE: u32 = 4;

/// A match, or none where its length is zero.
#[derive(Clone, Copy, Default)]
struct Match {
    length: usize,
    distance: usize,
}

/// The block that unpacks to `bytes`.
pub(crate) fn squeeze(bytes: &[u8]) -> Vec<u8> {
    let chosen = parse(bytes, &matches(bytes));
    let mut block = Vec::with_capacity(bytes.len() / 2);
    let (mut literals, mut at) = (0, 0);
    while at < bytes.len() {
        let found = chosen[at];
        if found.length == 0 {
            at += 1;
            continue;
        }
        sequence(&mut block, &bytes[literals..at], Some(found));
        at += found.length;
        literals = at;
    }
    sequence(&mut block, &bytes[literals..], None);
    block
}

/// The longest near match of each place, and the longest far one if that is longer.
fn matches(bytes: &[u8]) -> Vec<[Match; 2]> {
    const NOWHERE: usize = usize::MAX;
    let end = bytes.len().saturating_sub(TAIL);
    let mut first = vec![NOWHERE; 1 << 16];
    let mut before = vec![NOWHERE; bytes.len()];
    let mut found = vec![[Match::default(); 2]; bytes.len()];
    for at in 0..end.saturating_sub(SHORTEST - 1) {
        let word = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let slot = (word.wrapping_mul(2_654_435_761) >> 16) as usize;
        let mut candidate = first[slot];
        let mut longest = SHORTEST - 1;
        for _ in 0..TRIES {
            if candidate == NOWHERE || at - candidate > FARTHEST || longest >= LONG {
                break;
            }
            let distance = at - candidate;
            if distance >= NEAREST {
                let length = alike(&bytes[candidate..], &bytes[at..end]);
                if length > longest {
                    longest = length;
                    found[at][usize::from(distance > NEAR)] = Match { length, distance };
                }
            }
            candidate = before[candidate];
        }
        before[at] = first[slot];
        first[slot] = at;
    }
    found
}

/// How many of the first bytes are the same.
fn alike(one: &[u8], other: &[u8]) -> usize {
    let (words, others) = (one.as_chunks::<8>().0, other.as_chunks::<8>().0);
    let same = words.iter().zip(others).take_while(|(word, other)| word == other).count() * 8;
    same + one[same..].iter().zip(&other[same..]).take_while(|(byte, other)| byte == other).count()
}

/// What the cheapest way takes at each place: a match, of whose length a part may do, or a literal.
fn parse(bytes: &[u8], found: &[[Match; 2]]) -> Vec<Match> {
    let mut cost = vec![0_u32; bytes.len() + 1];
    let mut run = vec![0_usize; bytes.len() + 1];
    let mut chosen = vec![Match::default(); bytes.len()];
    for at in (0..bytes.len()).rev() {
        // One more literal, and a byte of length where the run of them needs another.
        let literals = run[at + 1] + 1;
        let grows = literals >= MORE && (literals - MORE).is_multiple_of(255);
        let mut best = cost[at + 1] + BYTE + if grows { BYTE } else { 0 };
        for Match { length: longest, distance } in found[at] {
            let least = if longest >= LONG { longest } else { SHORTEST };
            let alone = if distance > NEAR { 4 } else { 3 };
            for length in least..=longest {
                let with = cost[at + length] + (alone + more(length - SHORTEST)) * BYTE + SEQUENCE;
                if with <= best {
                    best = with;
                    chosen[at] = Match { length, distance };
                }
            }
        }
        cost[at] = best;
        run[at] = if chosen[at].length == 0 { literals } else { 0 };
    }
    chosen
}

/// Bytes that a number takes beside its place in the token.
fn more(number: usize) -> u32 {
    number.checked_sub(MORE).map_or(0, |rest| (rest / 255 + 1) as u32)
}

/// Write literals and the match after them.
fn sequence(block: &mut Vec<u8>, literals: &[u8], found: Option<Match>) {
    let length = found.map_or(0, |found| found.length - SHORTEST);
    block.push((literals.len().min(MORE) << 4 | length.min(MORE)) as u8);
    number(block, literals.len());
    block.extend(literals);
    if let Some(Match { distance, .. }) = found {
        let (low, high) = ((distance & NEAR) as u16, (distance >> 15) as u8);
        let is_far = high != 0;
        block.extend((low | u16::from(is_far) << 15).to_le_bytes());
        block.extend(is_far.then_some(high));
        number(block, length);
    }
}

/// Write what of a number is beyond its place in the token.
fn number(block: &mut Vec<u8>, number: usize) {
    if let Some(rest) = number.checked_sub(MORE) {
        block.extend(std::iter::repeat_n(255, rest / 255));
        block.push((rest % 255) as u8);
    }
}

/// By how many bytes a block of that length must end behind what becomes of it, to be unpacked in place: what literals
/// may cost in lengths, and what is copied at once too many.
pub(crate) fn room(block: usize) -> usize {
    block / 128 + 256
}

/// Unpack in place, as `image/unpack` does: the block lies at `at` in `memory`, and what becomes of it begins at 0 and ends
/// at `end`.
///
/// # Errors
/// What rule of the stub's the block breaks, so that it would go astray.
pub(crate) fn unpack(memory: &mut [u8], mut at: usize, end: usize) -> Result<(), &'static str> {
    let mut to = 0;
    loop {
        let token = usize::from(byte(memory, &mut at)?);
        let literals = extended(memory, &mut at, token >> 4)?;
        copy(memory, at, to, literals)?;
        at += literals;
        to += literals;
        if token >> 4 == MORE && to >= end {
            return if to == end { Ok(()) } else { Err("more comes out than went in") };
        }
        let mut distance = usize::from(byte(memory, &mut at)?) | usize::from(byte(memory, &mut at)?) << 8;
        if distance > NEAR {
            distance = distance & NEAR | usize::from(byte(memory, &mut at)?) << 15;
        }
        let length = extended(memory, &mut at, token & MORE)? + SHORTEST;
        if distance < NEAREST || distance > to {
            return Err("a match is too near, or begins before everything");
        }
        copy(memory, to - distance, to, length)?;
        to += length;
        // The stub may write so many bytes too many.
        if to + 2 * NEAREST > at {
            return Err("writing catches up with reading");
        }
    }
}

fn byte(memory: &[u8], at: &mut usize) -> Result<u8, &'static str> {
    *at += 1;
    memory.get(*at - 1).copied().ok_or("the block has no end")
}

fn extended(memory: &[u8], at: &mut usize, mut number: usize) -> Result<usize, &'static str> {
    if number == MORE {
        loop {
            let more = byte(memory, at)?;
            number += usize::from(more);
            if more != u8::MAX {
                break;
            }
        }
    }
    Ok(number)
}

/// Copy by pieces, of which the last may be longer than what is left.
fn copy(memory: &mut [u8], from: usize, to: usize, length: usize) -> Result<(), &'static str> {
    for piece in (0..length).step_by(NEAREST) {
        let source = from + piece..from + piece + NEAREST;
        if source.end.max(to + piece + NEAREST) > memory.len() {
            return Err("a run leads out of the memory");
        }
        memory.copy_within(source, to + piece);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out of a block that lies so far behind what becomes of it as it will.
    fn unpacked(block: &[u8], length: usize) -> Result<Vec<u8>, &'static str> {
        let behind = length + room(block.len());
        let mut memory = vec![0xee; behind + NEAREST];
        memory[behind - block.len()..behind].copy_from_slice(block);
        unpack(&mut memory, behind - block.len(), length)?;
        memory.truncate(length);
        Ok(memory)
    }

    /// Bytes that look like nothing.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let step = |state: &mut u64| {
            *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*state >> 56) as u8
        };
        (0..length).map(|_| step(&mut state)).collect()
    }

    fn samples() -> Vec<Vec<u8>> {
        let text = include_bytes!("squeeze.rs").to_vec();
        let mut mixed = noise(700);
        mixed.extend([0; 5000]);
        mixed.extend(noise(700));
        mixed.extend(&text);
        mixed.extend(noise(300));
        let far = |away: usize| [noise(100), vec![7; away - 100], noise(100), vec![9; 80]].concat();
        let [near, far] = [NEAR, NEAR + 1].map(far);
        vec![noise(16), noise(17), vec![0; 16], vec![0; 100_000], noise(70_000), text, mixed, near, far]
    }

    #[test]
    fn what_is_squeezed_comes_out_again_in_place() {
        for sample in samples() {
            assert_eq!(unpacked(&squeeze(&sample), sample.len()), Ok(sample));
        }
    }

    #[test]
    fn a_match_may_be_as_far_as_its_distance_can_say() {
        let sample = noise(FARTHEST);
        for distance in [NEAREST, NEAR, NEAR + 1, FARTHEST] {
            let mut block = Vec::new();
            sequence(&mut block, &sample, Some(Match { length: 100, distance }));
            sequence(&mut block, &[0; TAIL], None);
            let mut whole = sample.clone();
            for _ in 0..100 {
                whole.push(whole[whole.len() - distance]);
            }
            whole.extend([0; TAIL]);
            assert_eq!(unpacked(&block, whole.len()), Ok(whole), "{distance}");
        }
    }

    #[test]
    fn a_block_that_would_lead_the_stub_astray_is_found_out() {
        let sample = include_bytes!("squeeze.rs");
        let block = squeeze(sample);
        assert!(unpacked(&block, sample.len() - 1).is_err());
        assert!(unpacked(&block, sample.len() + 1).is_err());
        assert_ne!(unpacked(&block[..block.len() - 1], sample.len()), Ok(sample.to_vec()));
        // One literal, and a match right behind it.
        let near = [[0x10, b'a', 1, 0].as_slice(), &block].concat();
        assert!(unpacked(&near, sample.len()).is_err());
    }

    #[test]
    fn it_is_smaller_where_bytes_repeat_and_hardly_larger_where_they_do_not() {
        assert!(squeeze(&vec![0; 100_000]).len() < 500);
        assert!(squeeze(&noise(70_000)).len() < 70_000 + 70_000 / 255 + TAIL);
        let text = include_bytes!("squeeze.rs");
        assert!(squeeze(text).len() < text.len() / 2);
    }
}
