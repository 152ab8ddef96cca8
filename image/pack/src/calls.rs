//! Calls and jumps of x86-64 say how far it is to where they lead, so that each call of one function looks different. Said
//! by its place they look the same, and squeeze well; `image/unpack` makes distances of the places again.

/// Bytes that are looked at at once, of which the first call is taken.
const STEP: usize = 16;
/// Bytes of a call or a jump: the opcode and four of distance.
const CALL: usize = 5;
/// So near the end nothing is looked for, so that nothing has to be compared with the end but that.
const TAIL: usize = 36;

/// Let calls say the place that they lead to, counted from the beginning.
pub(crate) fn by_place(bytes: &mut [u8]) {
    for_each(bytes, |distance, behind, size| {
        if (-behind..size - behind).contains(&distance) {
            distance + behind
        } else if (size - behind..size).contains(&distance) {
            // What is no call, but looks like one, takes the numbers that became free.
            distance - size
        } else {
            distance
        }
    });
}

/// Let them say the distance again.
pub(crate) fn by_distance(bytes: &mut [u8]) {
    for_each(bytes, |place, behind, size| {
        if (0..size).contains(&place) {
            place - behind
        } else if (-behind..0).contains(&place) {
            place + size
        } else {
            place
        }
    });
}

/// Change what each call says, told where its end is and how much there is in all. Constants that look like a call are
/// taken for one, each time in the same way, because what is changed is never looked at.
fn for_each(bytes: &mut [u8], change: impl Fn(i32, i32, i32) -> i32) {
    let Ok(size) = i32::try_from(bytes.len()) else { return };
    let mut at = 0;
    while at + TAIL < bytes.len() {
        let Some(call) = bytes[at..at + STEP].iter().position(|byte| byte & 0xfe == 0xe8) else {
            at += STEP;
            continue;
        };
        at += call + CALL;
        if let Some(said) = bytes[..at].last_chunk_mut() {
            *said = change(i32::from_le_bytes(*said), at as i32, size).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_place_look_the_same() {
        let mut bytes = vec![0x90; 100];
        for at in [20_u8, 40] {
            bytes[usize::from(at)..][..5].copy_from_slice(&[
                0xe8,
                3_u8.wrapping_sub(at + 5),
                0xff,
                0xff,
                0xff,
            ]);
        }
        by_place(&mut bytes);
        assert_eq!(bytes[20..25], [0xe8, 3, 0, 0, 0]);
        assert_eq!(bytes[40..45], [0xe8, 3, 0, 0, 0]);
    }

    #[test]
    fn whatever_looks_like_a_call_becomes_what_it_was() {
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as u32
        };
        for length in (0..200).chain(60_000..60_020) {
            let sample: Vec<u8> = (0..length)
                .map(|_| match random() % 4 {
                    0 => 0xe8 | (random() % 2) as u8,
                    1 => 0,
                    2 => 0xff,
                    _ => random() as u8,
                })
                .collect();
            let mut bytes = sample.clone();
            by_place(&mut bytes);
            by_distance(&mut bytes);
            assert_eq!(bytes, sample);
        }
    }
}
