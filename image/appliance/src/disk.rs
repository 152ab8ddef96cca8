//! Disks of the bare machine: the state disk, a virtio disk of the serial number that the configuration gives; and one that is
//! looked at for the configuration itself.

use core::task::Poll;
use drivers::virtio::blk::{self, Block};
use image_channels::volume::Medium;
use kernel::Machine;
use kernel_runtime::Instant;
use state::{BLOCK, Disk, DiskFailed, Request};

/// A disk that is read before there is anything else to do.
pub(crate) struct Readable<'a> {
    /// The disk.
    pub(crate) disk: &'a mut Block,
    /// Who knows the time.
    pub(crate) machine: &'a Machine,
}

impl Medium for Readable<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read(&mut self, offset: u64, into: &mut [u8]) -> bool {
        // It ends: the driver has a limit.
        loop {
            let request = blk::Request::Read(offset, into);
            if let Poll::Ready(answer) = self.disk.carry(request, self.machine.now()) {
                return answer.is_ok();
            }
        }
    }
}

/// A disk behind a driver.
pub(crate) struct StateDisk(Block);

impl StateDisk {
    /// The one disk of that serial number that was found.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub(crate) fn choose(
        mut found: alloc::vec::Vec<Block>,
        serial: &str,
    ) -> Result<Self, alloc::string::String> {
        found.retain(|disk| disk.serial() == serial);
        match (found.pop(), found.is_empty()) {
            (Some(disk), true) if !disk.is_read_only() => Ok(Self(disk)),
            (disk, alone) => {
                let reason = match (disk, alone) {
                    (None, _) => "no virtio disk",
                    (_, false) => "more than one virtio disk",
                    _ => "only a disk that cannot be written",
                };
                Err(alloc::format!("configuration: state.disk: {reason} has the serial number {serial:?}"))
            }
        }
    }
}

impl Disk for StateDisk {
    fn blocks(&self) -> u64 {
        self.0.size() / BLOCK as u64
    }

    fn carry(&mut self, request: Request<'_>, now: Instant) -> Poll<Result<(), DiskFailed>> {
        // A block that is behind no 64-bit byte is behind the disk's end as well.
        let offset = |block: u64| block.saturating_mul(BLOCK as u64);
        let request = match request {
            Request::Read { block, into } => blk::Request::Read(offset(block), into),
            Request::Write { block, bytes } => blk::Request::Write(offset(block), bytes),
            Request::Flush => blk::Request::Flush,
        };
        self.0.carry(request, now.as_micros()).map_err(|blk::Failed| DiskFailed)
    }

    fn arm(&mut self) -> bool {
        self.0.arm()
    }

    fn deadline(&self) -> Option<Instant> {
        self.0.deadline().map(Instant::from_micros)
    }
}
