//! The one executor of the appliance: a fixed set of tasks, timers, and the time that drives them.
//!
//! It is portable and safe. The ground it stands on (bare metal, a Linux process, a simulation) tells it the
//! time and decides how to be idle; that is the whole difference between production, development and test.
//!
//! - Tasks are added before the first poll and never after: connections and disks are slots, not spawns.
//! - A wake sets one bit in an atomic word, so an interrupt handler may do it.
//! - Everything runs on one thread; tasks share state through `Rc` and hold no borrow across an await.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod day;
mod executor;
mod profile;
mod signal;
mod time;

pub use day::{Correction, Day};
pub use executor::{Executor, yield_now};
pub use profile::{Profile, Spent, Stage};
pub use signal::Signal;
pub use time::{Clock, Instant, Sleep, Timeout, earliest, with_deadline};
