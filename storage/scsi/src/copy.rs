//! Offloaded copy (SPC-4 sections 5.17 and 6.4): data from one unit of the target to another, or to the same, without a
//! way through the initiator.
//!
//! A copy is made of *pieces*, each a range of one unit that goes to a range of a unit. Whoever asks for it tells them in
//! a parameter list, which is checked as a whole ([`list`]) before the first byte moves, and kept in a table of fixed size
//! with what became of it ([`operations`]). A piece is carried in *stretches* ([`carry`], [`stretch`]).
//!
//! # Who may copy what
//! An initiator names units by what page 83h tells of them, and only units of the target it is logged in to are found:
//! who may log in is a property of a target, so none is found that the initiator could not read and write itself. Each
//! stretch is checked as a READ of the one and a WRITE of the other of the same nexus would be.

pub(crate) mod carry;
pub(crate) mod list;
pub(crate) mod operations;
pub(crate) mod page;
pub(crate) mod report;
pub(crate) mod rod;
pub(crate) mod stretch;
pub(crate) mod tokens;

use crate::sense::{Refusal, Sense, SenseKey};

/// A copy that ends early, at the segment descriptor of this number.
fn aborted(code: u16, segment: usize) -> Sense {
    Sense::new(SenseKey::CopyAborted, code).with_information(segment as u64)
}

/// The same where a field of the descriptor is at fault, by its place in the descriptor.
fn aborted_at(code: u16, segment: usize, byte: u16) -> Refusal {
    let pointer = Some(crate::sense::FieldPointer { in_cdb: false, byte, bit: None });
    Sense { pointer, ..aborted(code, segment) }.into()
}
