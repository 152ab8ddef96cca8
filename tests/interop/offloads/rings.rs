//! How far the rings of the appliance's NICs have come, by what the system of this side has counted.

use image_launch::net::Wire;
use std::fs;

/// Frames of both NICs of the appliance since its start, which is how far the indices of their rings have come.
#[derive(Debug)]
pub(crate) struct Rings {
    /// By network: received by the appliance, and sent by it.
    frames: [[u64; 2]; 2],
}

impl Rings {
    pub(crate) fn now() -> Self {
        let text = fs::read_to_string("/proc/net/dev").unwrap();
        let frames = [Wire::Host, Wire::Service].map(|wire| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{}:", wire.name())));
            let figures: Vec<u64> =
                line.unwrap().split_whitespace().map(|word| word.parse().unwrap()).collect();
            // Bytes and frames and six others of what this side has received, and then of what it has sent.
            [figures[9], figures[1]]
        });
        Self { frames }
    }

    /// Whether the indices of all four rings have wrapped.
    pub(crate) fn have_wrapped(&self) -> bool {
        self.frames.as_flattened().iter().all(|frames| *frames > 1 << 16)
    }
}
