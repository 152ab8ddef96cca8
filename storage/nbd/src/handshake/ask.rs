//! What the client says: its options, one at a time.

use super::{Handshake, Stage};
use crate::contexts::Contexts;
use crate::wire::{self, info, option};
use alloc::vec::Vec;

/// Bytes of an option's header.
const HEADER: usize = 16;
/// What is asked about an export.
const FACTS: [u16; 3] = [info::NAME, info::DESCRIPTION, info::BLOCK_SIZE];

/// Bytes of all that is ever said about a name of this length: flags, and nine options of which four carry the name. A
/// server that answers before it was asked could make it all wait together.
pub(super) const fn longest(name: usize) -> usize {
    let contexts = 2 * (4 + Contexts::LONGEST);
    4 + 9 * HEADER + 4 * name + contexts + 4 + 2 + 2 * FACTS.len()
}

impl Handshake {
    /// Send an option. What was sent before has been answered, so its memory can be used again; only the
    /// client's flags, which have no answer, may still be waiting in front.
    pub(super) fn ask(&mut self, code: u32) {
        self.output.drain(..self.sent);
        self.sent = 0;
        self.have = 0;
        self.replies = 0;
        self.stage = if code == option::EXPORT_NAME { Stage::ExportName } else { Stage::Option(code) };
        let name = self.name.len() as u32;
        match code {
            option::EXPORT_NAME => {
                self.header(code, name);
                self.output.extend_from_slice(&self.name);
            }
            option::GO | option::INFO => {
                self.header(code, 4 + name + 2 + 2 * FACTS.len() as u32);
                self.name_with_length();
                self.output.extend_from_slice(&(FACTS.len() as u16).to_be_bytes());
                for fact in FACTS {
                    self.output.extend_from_slice(&fact.to_be_bytes());
                }
            }
            option::SET_META_CONTEXT => {
                self.header(code, 4 + name + self.contexts.length(self.plain));
                self.name_with_length();
                self.contexts.write(self.plain, &mut self.output);
            }
            // The others carry nothing.
            _ => self.header(code, 0),
        }
    }

    fn header(&mut self, code: u32, length: u32) {
        let output: &mut Vec<u8> = &mut self.output;
        output.extend_from_slice(&wire::OPTION_MAGIC.to_be_bytes());
        output.extend_from_slice(&code.to_be_bytes());
        output.extend_from_slice(&length.to_be_bytes());
    }

    fn name_with_length(&mut self) {
        self.output.extend_from_slice(&(self.name.len() as u32).to_be_bytes());
        self.output.extend_from_slice(&self.name);
    }
}
