//! Claims to be the only writer: the context `x-corbel:writer`, as a server sees it.
//!
//! What a server that knows it promises: it keeps the highest generation that it has seen of an export, with its owner,
//! on stable storage. Before it acknowledges a claim, nothing that came by a connection which the claim cuts can change
//! the medium any more: it was executed, or it never will be.

use crate::contexts::{MAX_ALIVE, WRITER};
use crate::settings::{MAX_OWNER, is_token};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// A claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Which export it is about, in the order of the session's.
    pub export: usize,
    /// See [`crate::Writer::generation`].
    pub generation: u64,
    /// See [`crate::Writer::owner`].
    pub owner: String,
    /// The writer's session.
    pub session: u64,
    /// This connection of the session.
    pub connection: u32,
    /// Other connections of the session that are to live on.
    pub alive: Vec<u32>,
}

impl Fence {
    /// The claim that a context makes; `None` when it is not well formed.
    pub fn parse(export: usize, context: &str) -> Option<Self> {
        let mut fields = context.strip_prefix(WRITER)?.split(':');
        let mut field = || fields.next();
        let generation = hexadecimal(field()?)?;
        let owner = field().filter(|owner| is_token(owner.as_bytes(), MAX_OWNER))?.to_string();
        let session = hexadecimal(field()?)?;
        let connection = number(field()?)?;
        let alive = match field() {
            Some(list) => list.split(',').map(number).collect::<Option<Vec<_>>>()?,
            None => Vec::new(),
        };
        let sound = alive.len() <= MAX_ALIVE && fields.next().is_none();
        sound.then_some(Self { export, generation, owner, session, connection, alive })
    }

    /// Whether a connection with this claim, or with none, is cut by this one, which was admitted thus.
    pub fn cuts(&self, admission: Admission, other: Option<&Self>) -> bool {
        match admission {
            Admission::Refused => false,
            Admission::TakesOver => true,
            Admission::Joins => other.is_some_and(|other| {
                other.session != self.session || !self.alive.contains(&other.connection)
            }),
        }
    }
}

/// Up to 16 digits, in lower case.
fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if digits { u64::from_str_radix(text, 16).ok() } else { None }
}

fn number(text: &str) -> Option<u32> {
    hexadecimal(text).and_then(|number| u32::try_from(number).ok())
}

/// What is to be done with a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is refused: somebody of a newer generation writes, or somebody else of the same.
    Refused,
    /// All other connections to the export are cut.
    TakesOver,
    /// Those of its session that it does not name as alive are cut.
    Joins,
}

/// Who writes to an export. A server keeps it on stable storage, written before a claim that changes it is granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// The highest generation that was ever granted.
    pub generation: u64,
    /// Whose it is; empty when there was no claim yet.
    pub owner: String,
    /// The last session of it.
    pub session: u64,
}

impl Lease {
    /// Judge a claim, and remember it unless it is refused.
    pub fn admit(&mut self, fence: &Fence) -> Admission {
        let is_same_owner = self.owner.is_empty() || self.owner == fence.owner;
        if fence.generation < self.generation || (fence.generation == self.generation && !is_same_owner) {
            return Admission::Refused;
        }
        let claimed =
            Self { generation: fence.generation, owner: fence.owner.clone(), session: fence.session };
        if *self == claimed {
            return Admission::Joins;
        }
        *self = claimed;
        Admission::TakesOver
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn claim(generation: u64, owner: &str, session: u64, connection: u32, alive: &[u32]) -> Fence {
        Fence { export: 0, generation, owner: owner.to_string(), session, connection, alive: alive.to_vec() }
    }

    #[test]
    fn a_context_is_taken_apart_and_nothing_malformed_is() {
        let parse = |rest: &str| Fence::parse(0, &format!("x-corbel:writer:{rest}"));
        assert_eq!(parse("0:a:0:0"), Some(claim(0, "a", 0, 0, &[])));
        assert_eq!(
            parse("ff:host-1:ffffffffffffffff:ffffffff:1,a,10"),
            Some(claim(255, "host-1", u64::MAX, u32::MAX, &[1, 10, 16]))
        );
        for wrong in [
            "",
            "0",
            "0:a",
            "0:a:0",
            ":a:0:0",
            "0::0:0",
            "0:a::0",
            "0:a:0:",
            "0:A:0:0",
            "0:a b:0:0",
            "F:a:0:0",
            "+1:a:0:0",
            "0x1:a:0:0",
            "10000000000000000:a:0:0",
            "0:a:0:100000000",
            "0:a:0:0:",
            "0:a:0:0:1,",
            "0:a:0:0:1:2",
            "0:a:0:0:1,2,3,4,5,6,7,8,9",
            "0:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa:0:0",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_the_newest_writer_is_admitted() {
        let mut lease = Lease::default();
        assert_eq!(lease.admit(&claim(0, "a", 1, 0, &[])), Admission::TakesOver);
        assert_eq!(lease.admit(&claim(0, "a", 1, 1, &[0])), Admission::Joins);
        assert_eq!(lease.admit(&claim(0, "b", 2, 0, &[])), Admission::Refused);
        assert_eq!(
            lease.admit(&claim(0, "a", 9, 0, &[])),
            Admission::TakesOver,
            "the same one, started again"
        );
        assert_eq!(lease.admit(&claim(5, "b", 2, 0, &[])), Admission::TakesOver);
        assert_eq!(lease.admit(&claim(4, "a", 9, 0, &[])), Admission::Refused);
        assert_eq!(lease, Lease { generation: 5, owner: "b".to_string(), session: 2 });
    }

    #[test]
    fn a_claim_cuts_what_it_does_not_name() {
        let (new, old, older) =
            (claim(1, "a", 1, 7, &[3]), claim(1, "a", 1, 3, &[]), claim(1, "a", 1, 2, &[]));
        assert!(new.cuts(Admission::TakesOver, None) && new.cuts(Admission::TakesOver, Some(&old)));
        assert!(new.cuts(Admission::Joins, Some(&older)) && !new.cuts(Admission::Joins, Some(&old)));
        assert!(new.cuts(Admission::Joins, Some(&claim(1, "a", 0, 3, &[]))), "of another session");
        assert!(!new.cuts(Admission::Joins, None) && !new.cuts(Admission::Refused, Some(&older)));
    }
}
