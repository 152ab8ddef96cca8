//! One flush of a unit's cache below, and what is learned from how it ends.

use crate::cache::Mark;
use crate::command::{Out, Rest};
use crate::failure;
use crate::nexus::Nexus;
use crate::sense::Refusal;
use crate::unit::{LogicalUnit, UnitId};
use storage_block::{Completion, Error, Operation, Request};

/// The cookie of a flush; segments and ranges count from zero.
const COOKIE: u64 = 0xff;

/// Where a flush is.
pub(crate) enum Flush {
    Idle,
    InFlight(Mark),
    Returned(Mark, Result<(), Error>),
}

impl Flush {
    /// Go on with a flush of this unit, on behalf of this nexus: what it waits for, or `None` when it has succeeded.
    #[inline(never)]
    pub(crate) fn step(
        &mut self,
        unit: &mut LogicalUnit,
        id: UnitId,
        nexus: Nexus,
        out: &mut Out<'_>,
    ) -> Result<Option<Rest>, Refusal> {
        match *self {
            Self::Idle => {
                *self = Self::InFlight(unit.cache.mark());
                let (operation, cookie) = (Operation::Flush, COOKIE);
                out.issue_to(id, Request { cookie, operation, offset: 0, length: 0, buffer: None });
                Ok(Some(Rest::Wait))
            }
            Self::InFlight(_) => Ok(Some(Rest::Wait)),
            Self::Returned(mark, result) => {
                *self = Self::Idle;
                match result {
                    Ok(()) => unit.cache.flushed(mark),
                    // Not tried, or not known to have been: nothing is lost by that alone.
                    Err(error @ (Error::NoMemory | Error::Lost)) => {
                        let lost = unit.cache.tell_loss(nexus);
                        return Err(if lost {
                            failure::write_loss()
                        } else {
                            failure::of_flush(error, unit)
                        });
                    }
                    // The cache below may have dropped what it could not write, and the next flush would not say so.
                    Err(error) => {
                        unit.lose();
                        unit.cache.tell_loss(nexus);
                        return Err(failure::of_flush(error, unit));
                    }
                }
                // Another flush may have failed while this one was under way.
                if unit.cache.tell_loss(nexus) { Err(failure::write_loss()) } else { Ok(None) }
            }
        }
    }

    /// A request has ended. Answers whether it was this one.
    pub(crate) fn completed(&mut self, completion: &Completion) -> bool {
        match *self {
            Self::InFlight(mark) if completion.cookie == COOKIE => {
                *self = Self::Returned(mark, completion.result);
                true
            }
            _ => false,
        }
    }

    /// Nobody waits for it any more, which makes one that has failed no better.
    pub(crate) fn abandon(&mut self, unit: &mut LogicalUnit) {
        if let Self::Returned(_, Err(error)) = *self
            && !matches!(error, Error::NoMemory | Error::Lost)
        {
            unit.lose();
            *self = Self::Idle;
        }
    }
}
