//! SCSI commands as the initiator gives them, and what it may hear.

use crate::history::WriteId;
use crate::plan::Plan;
use kernel_runtime::Instant;

/// SCSI status codes.
pub(crate) const GOOD: u8 = 0x00;
const CHECK_CONDITION: u8 = 0x02;
const BUSY: u8 = 0x08;
const TASK_SET_FULL: u8 = 0x28;
const TASK_ABORTED: u8 = 0x40;

/// Errors of storage services.
const EPERM: u32 = 1;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const ENOTSUP: u32 = 95;

/// What a command does.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Ready,
    Capacity,
    Read {
        first: usize,
        blocks: usize,
    },
    Write {
        first: usize,
        blocks: usize,
        fua: bool,
        id: WriteId,
    },
    /// WRITE SAME of zeroes.
    Zero {
        first: usize,
        blocks: usize,
        id: WriteId,
    },
    Unmap {
        id: WriteId,
    },
    /// COMPARE AND WRITE of one block.
    Swap {
        block: usize,
        expected: Vec<u8>,
        id: WriteId,
    },
    Flush,
}

impl Op {
    /// The write that it is.
    pub(crate) const fn write(&self) -> Option<WriteId> {
        match self {
            Self::Write { id, .. }
            | Self::Zero { id, .. }
            | Self::Unmap { id, .. }
            | Self::Swap { id, .. } => Some(*id),
            Self::Ready | Self::Capacity | Self::Read { .. } | Self::Flush => None,
        }
    }

    /// Its command descriptor block.
    pub(crate) fn cdb(&self) -> [u8; 16] {
        let mut cdb = [0; 16];
        let mut range = |opcode: u8, first: usize, blocks: usize| {
            cdb[0] = opcode;
            cdb[2..10].copy_from_slice(&(first as u64).to_be_bytes());
            cdb[10..14].copy_from_slice(&(blocks as u32).to_be_bytes());
        };
        match *self {
            Self::Ready => {}
            Self::Capacity => {
                range(0x9e, 0, 32);
                cdb[1] = 0x10;
            }
            Self::Read { first, blocks } => range(0x88, first, blocks),
            Self::Write { first, blocks, fua, .. } => {
                range(0x8a, first, blocks);
                cdb[1] = if fua { 0x08 } else { 0 };
            }
            Self::Zero { first, blocks, .. } => range(0x93, first, blocks),
            Self::Unmap { .. } => {
                cdb[0] = 0x42;
                cdb[8] = 24;
            }
            Self::Swap { block, .. } => {
                range(0x89, block, 0);
                cdb[13] = 1;
            }
            Self::Flush => range(0x91, 0, 0),
        }
        cdb
    }

    /// Bytes it takes from the target, in blocks of that size.
    pub(crate) const fn takes(&self, block: usize) -> usize {
        match self {
            Self::Read { blocks, .. } => *blocks * block,
            Self::Capacity => 32,
            _ => 0,
        }
    }
}

/// A command under way.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) unit: usize,
    pub(crate) op: Op,
    pub(crate) invoked: Instant,
    pub(crate) cmd_sn: u32,
    pub(crate) data_out: Vec<u8>,
    pub(crate) data_in: Vec<u8>,
    pub(crate) got: usize,
    pub(crate) data_sn: u32,
    pub(crate) r2t_sn: u32,
    /// Abort it at this moment.
    pub(crate) abort_at: Option<Instant>,
    /// Its abort is under way.
    pub(crate) is_aborting: bool,
}

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u8,
    /// Sense key, and additional sense code with its qualifier.
    pub(crate) sense: Option<(u8, u16)>,
}

impl Answer {
    pub(crate) fn new(status: u8, data: &[u8]) -> Result<Self, String> {
        if status != CHECK_CONDITION {
            return Ok(Self { status, sense: None });
        }
        // Two bytes of length, then sense data in fixed format.
        let sense = data.get(2..20).filter(|sense| sense[0] & 0x7f == 0x70);
        let sense = sense.ok_or(format!("CHECK CONDITION without sense data: {data:02x?}"))?;
        let code = u16::from_be_bytes([sense[12], sense[13]]);
        Ok(Self { status, sense: Some((sense[2] & 0x0f, code)) })
    }

    /// What was acknowledged could not be made durable.
    pub(crate) fn is_flush_failure(self) -> bool {
        self.sense == Some((3, 0x0c00))
    }

    /// Whether anything has happened in the world of `plan` that explains this answer to `op`.
    pub(crate) fn is_explained(self, op: &Op, plan: &Plan) -> bool {
        let flushes = matches!(op, Op::Flush | Op::Write { fua: true, .. });
        let changes = op.write().is_some();
        match (self.status, self.sense) {
            (GOOD, _) => true,
            // Data of a command that has to wait can stand on the connection before data of the one it waits for: of
            // the two the first is told to try again.
            (BUSY, _) => {
                !plan.is_sunny()
                    || changes && plan.shape.depth + plan.shape.initiators > 2
                    || matches!(op, Op::Swap { .. })
            }
            (TASK_SET_FULL, _) => !plan.is_sunny(),
            // The other initiator has reset the unit.
            (TASK_ABORTED, _) => plan.shape.initiators > 1 && !plan.is_sunny(),
            (CHECK_CONDITION, Some((key, code))) => match (key, code) {
                // What has changed is told once, whatever the command.
                (6, _) => true,
                (0xe, 0x1d00) => matches!(op, Op::Swap { .. }),
                (3, 0x0c00) => plan.has_errors() && (flushes || changes),
                (3, 0x1100) => plan.has_errors() && matches!(op, Op::Read { .. } | Op::Swap { .. }),
                (7, 0x2707) => plan.has_error(ENOSPC),
                (7, 0x2700) => plan.has_error(EPERM) || plan.has_changes() && changes,
                // Not ready: the export is another for a time.
                (2, 0x0414) => plan.has_error(ENOSPC) || plan.has_changes(),
                (2, _) => plan.has_changes(),
                // What the service calls senseless, or does not do.
                (4, 0x4400) | (5, 0x2000 | 0x2400) => {
                    plan.has_error(EINVAL) || plan.has_error(ENOTSUP) || plan.has_strange_errors()
                }
                _ => false,
            },
            _ => false,
        }
    }
}
