//! What an initiator must not say, and what it hears: a table of cases, each with the bytes of one wrong thing and the
//! bytes of the one right answer, and a player that plays them over any transport.
//!
//! An expectation is made from the rule that the field is under, never from what the target happens to say.
#![forbid(unsafe_code)]

mod case;
mod commands;
mod data;
mod lists;
mod login;
mod play;
mod session;
mod stages;

pub use case::{Answer, Case, Edit, Place, SOURCES, Said, Sense, State, Step, Transferred, cases};
pub use play::{Received, Wire, fill, is_as_filled, play};
