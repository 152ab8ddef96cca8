//! Frames.

pub(crate) const SCENARIOS: &[(&str, fn())] = &[];
