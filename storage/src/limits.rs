//! The numbers that bound the data path.

use core::time::Duration;

/// How much of everything storage takes at start.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// iSCSI connections at once.
    pub connections: usize,
    /// Disks at once.
    pub volumes: usize,
    /// Commands at once over all sessions.
    pub commands: usize,
    /// The payload buffers: sizes and numbers, sizes ascending.
    pub pool: [(usize, usize); 3],
    /// Bytes of the pool that the commands of one disk may hold.
    pub share: usize,
    /// Bytes, beside the pool, for answers that need no disk.
    pub control: usize,
    /// Connections that one disk may have to its service, if that can do with several.
    pub paths: usize,
    /// The buffers for writes that are acknowledged and not durable: sizes and numbers, sizes ascending.
    pub journal: [(usize, usize); 3],
    /// Such writes of one disk.
    pub entries: usize,
    /// After so long without a flush the appliance flushes by itself.
    pub flush_after: Duration,
    /// How often disks are looked at for having changed.
    pub watch: Duration,
    /// What a connection's engine is given.
    pub iscsi: storage_iscsi::Limits,
    /// What a target's engine is given.
    pub scsi: storage_scsi::Limits,
    /// What a volume's engine is given.
    pub nbd: storage_nbd::Limits,
    /// How long commands wait for a lost storage service before they end with BUSY. Below the 30 s after which
    /// initiators begin to abort.
    pub hold: Duration,
    /// How sessions that want more than there is share it.
    pub sharing: Sharing,
    /// The number of the appliance's target port group.
    pub port_group: u16,
    /// How long a lost connection's writes may still reach the medium: as long, newer writes to the same range wait.
    pub hold_off: Duration,
}

/// How sessions share the processor when they want more than there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// None gets ahead of another, but for as much as keeps the processor busy: beside one that keeps few commands
    /// outstanding, and so waits for its own answers most of the time, a greedy one gets more.
    #[default]
    WorkConserving,
    /// None gets ahead of another while that one is about, even if the processor stands still for it.
    Equal,
}
