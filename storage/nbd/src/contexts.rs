//! The metadata contexts that are asked for in one `NBD_OPT_SET_META_CONTEXT`, and what a server makes of them.
//!
//! `base:allocation` is the protocol's own. Two are in the namespace that the protocol leaves to experiments:
//! `x-corbel:incarnation:` is answered with a token that changes whenever the server may have forgotten writes that
//! were acknowledged and not flushed, and `x-corbel:writer:...` is a claim that only an answer to it makes good
//! (see [`crate::Writer`]). A server that knows neither leaves them out.

use crate::Text;
use crate::settings::{MAX_OWNER, Writer, is_token};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write as _;

/// The allocation of the export.
pub(crate) const ALLOCATION: &str = "base:allocation";
/// Begins the incarnation's context; a query ends with it.
pub(crate) const INCARNATION: &str = "x-corbel:incarnation:";
/// Begins a writer's context.
pub(crate) const WRITER: &str = "x-corbel:writer:";
/// Characters in the longest incarnation.
pub(crate) const MAX_INCARNATION: usize = 64;
/// Connections of one session that can be named as alive.
pub const MAX_ALIVE: usize = 8;
/// Contexts asked for at most.
pub(crate) const MAX_CONTEXTS: usize = 3;
/// The longest writer's context: three numbers of 64 or 32 bits in hexadecimal, the owner, those alive, and what is
/// between them.
const MAX_WRITER: usize = WRITER.len() + 16 + 1 + MAX_OWNER + 1 + 16 + 1 + 8 + MAX_ALIVE * 9;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Contexts {
    generation: u64,
    /// Empty when there is no claim.
    owner: String,
    /// The claim's context, whole.
    writer: String,
}

impl Contexts {
    pub(crate) fn new(writer: Option<Writer<'_>>) -> Self {
        let (generation, owner) = writer.map_or((0, ""), |writer| (writer.generation, writer.owner));
        let mut contexts =
            Self { generation, owner: String::from(owner), writer: String::with_capacity(MAX_WRITER) };
        contexts.set_place(0, 0, &[]);
        contexts
    }

    /// Say which connection of which session this is, and which others of it are alive.
    pub(crate) fn set_place(&mut self, session: u64, connection: u32, alive: &[u32]) {
        if !self.claims() {
            return;
        }
        let Self { generation, owner, writer } = self;
        writer.clear();
        // Writing to a string cannot fail; its memory was taken at start.
        let _ = write!(writer, "{WRITER}{generation:x}:{owner}:{session:x}:{connection:x}");
        for (index, alive) in alive.iter().take(MAX_ALIVE).enumerate() {
            let _ = write!(writer, "{}{alive:x}", if index == 0 { ':' } else { ',' });
        }
    }

    /// Whether there is a claim.
    pub(crate) fn claims(&self) -> bool {
        !self.owner.is_empty()
    }

    /// The queries; with `plain` only that which every server understands.
    fn queries(&self, plain: bool) -> impl Iterator<Item = &str> {
        let writer = self.claims().then_some(self.writer.as_str());
        let extensions = [Some(INCARNATION), writer].into_iter().flatten();
        core::iter::once(ALLOCATION).chain(extensions.filter(move |_| !plain))
    }

    /// Bytes that [`Contexts::write`] appends at most.
    pub(crate) const LONGEST: usize =
        4 + MAX_CONTEXTS * 4 + ALLOCATION.len() + INCARNATION.len() + MAX_WRITER;

    /// Bytes that [`Contexts::write`] appends.
    pub(crate) fn length(&self, plain: bool) -> u32 {
        4 + self.queries(plain).map(|query| 4 + query.len() as u32).sum::<u32>()
    }

    /// Append the queries as the option carries them.
    pub(crate) fn write(&self, plain: bool, output: &mut Vec<u8>) {
        let count = self.queries(plain).count() as u32;
        output.extend_from_slice(&count.to_be_bytes());
        for query in self.queries(plain) {
            output.extend_from_slice(&(query.len() as u32).to_be_bytes());
            output.extend_from_slice(query.as_bytes());
        }
    }
}

/// What was agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    /// The number of `base:allocation`.
    pub(crate) allocation: Option<u32>,
    pub(crate) incarnation: Option<Text>,
    pub(crate) fenced: bool,
    /// The numbers of all: a server tells the status of each of them.
    pub(crate) numbers: [Option<u32>; MAX_CONTEXTS],
}

impl Granted {
    pub(crate) const NONE: Self =
        Self { allocation: None, incarnation: None, fenced: false, numbers: [None; MAX_CONTEXTS] };

    /// The server has selected a context. Answers whether that makes sense: numbers are not given twice, and there
    /// are no more contexts than were asked for.
    pub(crate) fn add(&mut self, asked: &Contexts, number: u32, name: &[u8]) -> bool {
        if self.numbers.contains(&Some(number)) {
            return false;
        }
        let Some(place) = self.numbers.iter_mut().find(|place| place.is_none()) else { return false };
        *place = Some(number);
        if name == ALLOCATION.as_bytes() {
            self.allocation = Some(number);
        } else if asked.claims() && name == asked.writer.as_bytes() {
            self.fenced = true;
        } else if let Some(token) = name.strip_prefix(INCARNATION.as_bytes())
            && is_token(token, MAX_INCARNATION)
        {
            self.incarnation = Some(Text::new(token));
        }
        // Not asked for with a wildcard, so any other name is not ours.
        true
    }
}
