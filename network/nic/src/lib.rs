//! The port between the TCP/IP stack and whatever carries its frames.
//!
//! A virtio device, a TAP and a simulated wire are all a [`Nic`]. The port belongs to the stack, its consumer:
//! drivers implement it and know nothing of what runs above. Frames are Ethernet, without FCS.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "testing")]
extern crate alloc;

pub mod offload;
#[cfg(feature = "testing")]
pub mod testing;
pub mod train;

pub use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, PacketMeta, RxToken,
    SegmentationCapabilities, TxToken,
};
pub use smoltcp::time::Instant;

/// Later than any time that comes.
pub const NEVER: Instant = Instant::from_micros_const(i64::MAX);

/// A network interface: smoltcp's [`Device`] and what a stack needs beyond it.
pub trait Nic: Device {
    /// Its Ethernet address.
    fn mac(&self) -> [u8; 6];

    /// Whether something may have been received; `false` only where [`Device::receive`] would answer that nothing was.
    /// It is asked for often, and answers where nothing else is cheap.
    fn waits(&self) -> bool {
        true
    }

    /// Hand to the device what was queued since the last call, in one notification. Called once per poll.
    fn flush(&mut self);

    /// Ask for a wake-up at the next received frame, before the machine goes idle. Answers `true` when
    /// frames are waiting already: then do not go idle. May be called any number of times.
    fn arm(&mut self) -> bool;

    /// Until when the device takes no frames and brings none, if so: it has lied too often and rests, its other side has left
    /// it, or it was given up. [`NEVER`] where the machine is woken if it comes back, or it does not. To be asked behind
    /// [`Nic::arm`]: who has frames for it need not try all the time.
    fn rests_until(&self) -> Option<Instant> {
        None
    }

    /// Whether the device is done with all that was sent, so that none of it is lost when the machine ends. To be asked behind
    /// [`Nic::flush`], and again as long as not.
    fn has_sent(&mut self) -> bool {
        true
    }

    /// Counters since start.
    fn counters(&self) -> Counters;
}

/// What went through a [`Nic`], and what did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received.
    pub received: u64,
    /// Frames given to the device to be sent. What becomes of those that it had when it was reset is not known.
    pub sent: u64,
    /// Frames thrown away by the driver: runts, bad checksums, a used ring that lied; and answers for which there was no room.
    pub dropped: u64,
    /// Times the device had to be reset because it broke its contract.
    pub resets: u64,
}
