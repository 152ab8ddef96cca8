//! What decides in the agent: from a command that arrives to its outcome, at most once, whatever ends in between.
//!
//! [`Engine`] does nothing itself. It is handed commands, what came of native calls, and the time; it hands out entries of
//! the journal and [`Job`]s. Whoever drives it keeps three promises:
//!
//! 1. The batches of [`Engine::take`] are made durable in their order, each whole or not at all, and
//!    [`Engine::durable`] is told so. No job and no outcome leaves the engine before what it rests on is durable.
//! 2. Each [`Job`] of [`Engine::next_job`] is carried out once, and [`Engine::report`] is told what came of it, however
//!    late.
//! 3. After a crash a new engine is given every batch that was read back ([`Engine::replay`]), then [`Engine::open`].
//!
//! Then a command is carried out at most once, and what is told of it is what became of it: done, not done, or that it
//! cannot be known. The same engine is played in virtual time by the simulator, with a crash after each entry
//! ([`CrashPoint`]).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod engine;
mod entry;
mod events;
mod lane;
mod listing;
mod memory;
mod moving;
mod native;
mod plan;
mod receive;
mod recovery;
mod settle;
mod work;

#[cfg(test)]
mod tests;

pub use engine::{Batch, Engine, Host, Known, Limits, Reply, Ticket};
pub use entry::{CrashPoint, Entry, Record};
pub use listing::Page;
pub use native::{Ended, Evidence, Fault, Finding, Job, Machine, Observation, Passage, Report, Step, Task};
