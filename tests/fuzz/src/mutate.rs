//! Inputs from a seed: an example, bent a little or a lot.

/// A generator of numbers (SplitMix64): the same seed gives the same run on every machine.
pub struct Random(u64);

impl Random {
    /// Start from `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; zero when that is zero.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.number() % end as u64) as usize }
    }
}

/// Values that sit at the edges of lengths and counters.
const EDGES: [u32; 12] =
    [0, 1, 3, 4, 0x7f, 0xff, 0x100, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, 0xffff_ffff, 0x00ff_ffff];

/// One of `examples`, or noise, with up to eight changes.
pub fn input(random: &mut Random, examples: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = match random.below(8) {
        0 => (0..random.below(600)).map(|_| random.number() as u8).collect(),
        _ if examples.is_empty() => Vec::new(),
        _ => examples[random.below(examples.len())].clone(),
    };
    for _ in 0..random.below(9) {
        change(random, examples, &mut bytes);
    }
    bytes.truncate(1 << 16);
    bytes
}

fn change(random: &mut Random, examples: &[Vec<u8>], bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len() + 1);
    match random.below(8) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, random.number() as u8),
        2 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        3 if at < bytes.len() => bytes[at] = random.number() as u8,
        4 if at + 4 <= bytes.len() => {
            let edge = EDGES[random.below(EDGES.len())];
            bytes[at..at + 4].copy_from_slice(&edge.to_be_bytes());
        }
        5 if !bytes.is_empty() => {
            let (from, length) = (random.below(bytes.len()), random.below(64));
            let piece = bytes[from..(from + length).min(bytes.len())].to_vec();
            bytes.splice(at..at, piece);
        }
        6 if !examples.is_empty() => {
            let other = &examples[random.below(examples.len())];
            bytes.extend_from_slice(other);
        }
        _ if at < bytes.len() => {
            let end = (at + random.below(16)).min(bytes.len());
            bytes.drain(at..end);
        }
        _ => bytes.push(0),
    }
}
