//! Bugs that a test plants, to see that the simulator finds them. All but one are the world's; the appliance itself has
//! no switch for any: the last is a limit that it is given.

use crate::Plan;

/// One planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The service answers a write and forgets it.
    LostWrite,
    /// The service answers a flush and makes nothing durable.
    LyingFlush,
    /// The service executes a write of a dead connection long after it promised to be done with it.
    LateGhost,
    /// The service loses its cache and keeps its connections, so nobody can know.
    SilentRollback,
    /// The service writes to the block beside the one it was told.
    MisdirectedWrite,
    /// A bit of a block falls over.
    BitRot,
    /// An answer never reaches the initiator, as if the target had forgotten the command.
    LostStatus,
    /// An answer reaches the initiator twice.
    DoubledStatus,
    /// The appliance sends newer writes at once after a connection was lost, as every other client does.
    NoHoldOff,
    /// The service claims to be what it was although it has lost its cache.
    StaleIncarnation,
    /// The service grants a claim to be the only writer and goes on with what others have sent.
    FenceWithoutDrain,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::LostWrite,
        Self::LyingFlush,
        Self::LateGhost,
        Self::SilentRollback,
        Self::MisdirectedWrite,
        Self::BitRot,
        Self::LostStatus,
        Self::DoubledStatus,
        Self::NoHoldOff,
        Self::StaleIncarnation,
        Self::FenceWithoutDrain,
    ];

    /// Whether the world of a plan has what it takes to show it.
    pub fn may_show_in(self, plan: &Plan) -> bool {
        match self {
            Self::NoHoldOff => plan.has_ghosts(false),
            Self::FenceWithoutDrain => plan.has_ghosts(true),
            Self::StaleIncarnation => plan.has_lineage(),
            _ => true,
        }
    }
}
