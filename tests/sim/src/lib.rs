//! The world in a box: the appliance's real code between simulated initiators and simulated storage services, on two
//! simulated wires, in one thread and on virtual time.
//!
//! A seed decides everything: the shape of the world, the load, each frame's fate and what goes wrong when. The same seed
//! is the same world, to the microsecond. The checker is [`history`](crate), the rules are those of storage/README.md.
#![forbid(unsafe_code)]

mod bug;
mod campaign;
mod history;
mod initiator;
pub mod log;
pub mod manage;
mod plan;
mod random;
mod service;
mod shrink;
mod wire;
mod world;

#[cfg(test)]
mod tests;

pub use bug::Bug;
pub use campaign::{Tally, campaign, manage_all, manage_campaign, run_all, violation};
pub use plan::Plan;
pub use shrink::shrink;
pub use world::{Report, run};
