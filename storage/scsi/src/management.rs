//! Task management functions (SAM-5 section 7): which there are, and what a query is told.

use crate::nexus::Nexus;
use crate::target::Target;
use crate::unit::UnitId;

/// A task management function. The number is its place among the bits of REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4
/// section 6.36), read as one number of two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Function {
    /// ABORT TASK.
    AbortTask = 15,
    /// ABORT TASK SET.
    AbortTaskSet = 14,
    /// CLEAR ACA.
    ClearAca = 13,
    /// CLEAR TASK SET.
    ClearTaskSet = 12,
    /// LOGICAL UNIT RESET.
    LogicalUnitReset = 11,
    /// QUERY TASK.
    QueryTask = 10,
    /// TARGET RESET, warm or cold: of no standard's latest version, and what initiators escalate to.
    TargetReset = 9,
    /// QUERY ASYNCHRONOUS EVENT.
    QueryAsynchronousEvent = 2,
    /// QUERY TASK SET.
    QueryTaskSet = 1,
    /// I_T NEXUS RESET.
    NexusReset = 0,
}

impl Function {
    /// Those that there are. No command ends with ACA (NORMACA is zero in INQUIRY data and refused in a CDB), so there is
    /// none to clear.
    const SUPPORTED: [Self; 9] = [
        Self::AbortTask,
        Self::AbortTaskSet,
        Self::ClearTaskSet,
        Self::LogicalUnitReset,
        Self::QueryTask,
        Self::TargetReset,
        Self::QueryAsynchronousEvent,
        Self::QueryTaskSet,
        Self::NexusReset,
    ];

    /// The bits of all that are supported.
    pub(crate) const BITS: u16 = {
        let (mut bits, mut index) = (0, 0);
        while index < Self::SUPPORTED.len() {
            bits |= 1 << Self::SUPPORTED[index] as u8;
            index += 1;
        }
        bits
    };

    /// Whether this target does it; to be answered with "function not supported" if not.
    pub const fn is_supported(self) -> bool {
        Self::BITS >> self as u8 & 1 != 0
    }
}

impl Target {
    /// I_T NEXUS RESET (SAM-5 sections 6.3.4 and 7.6), after all commands of the nexus were aborted: what a lost nexus loses
    /// is lost now, and whoever comes back by it is told.
    pub fn nexus_reset(&mut self, nexus: Nexus) {
        self.each_unit(|unit| {
            unit.nexus_lost(nexus);
            unit.raise(nexus, crate::Attention::NexusLoss);
        });
    }

    /// QUERY ASYNCHRONOUS EVENT (SAM-5 section 7.9): the unit attention that the nexus would be told next, as the additional
    /// response information, or `None` when there is none. It stays where it is.
    pub fn query_asynchronous_event(&self, unit: UnitId, nexus: Nexus) -> Option<[u8; 3]> {
        const UNIT_ATTENTION: u8 = 6;
        let (next, count) = self.unit(unit)?.pending(nexus)?;
        let depth = if count > 1 { 2 << 4 } else { 1 << 4 };
        let [code, qualifier] = next.sense().code.to_be_bytes();
        Some([depth | UNIT_ATTENTION, code, qualifier])
    }
}
