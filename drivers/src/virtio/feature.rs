//! Feature bits, as virtio 1.2 names them.

/// Segments handed to the device may have partial checksums (section 5.1.3).
pub(crate) const NET_CSUM: u64 = 1 << 0;
/// Received segments may have partial checksums.
pub(crate) const NET_GUEST_CSUM: u64 = 1 << 1;
/// The device says the largest IP packet of its network.
pub(crate) const NET_MTU: u64 = 1 << 3;
/// The device has an address.
pub(crate) const NET_MAC: u64 = 1 << 5;
/// Received TCP over IPv4 segments may be longer than the network's.
pub(crate) const NET_GUEST_TSO4: u64 = 1 << 7;
/// TCP over IPv4 segments handed to the device may be longer than the network's.
pub(crate) const NET_HOST_TSO4: u64 = 1 << 11;
/// The device says whether its link is up.
pub(crate) const NET_STATUS: u64 = 1 << 16;
/// The disk cannot be written (section 5.2.3).
pub(crate) const BLK_RO: u64 = 1 << 5;
/// The disk has a cache, and a request that empties it.
pub(crate) const BLK_FLUSH: u64 = 1 << 9;
/// A console takes characters by a register as well, at any time (section 5.3.4).
pub(crate) const CONSOLE_EMERG_WRITE: u64 = 1 << 2;
/// A legacy device takes header and frame in one descriptor (section 6.3).
pub(crate) const ANY_LAYOUT: u64 = 1 << 27;
/// Both sides say at which index they want to hear from the other (section 2.7.10).
pub(crate) const EVENT_IDX: u64 = 1 << 29;
/// The device is not a legacy device.
pub(crate) const VERSION_1: u64 = 1 << 32;
/// The device reaches memory as other devices of the platform do. There is no translation on ours.
pub(crate) const ACCESS_PLATFORM: u64 = 1 << 33;
