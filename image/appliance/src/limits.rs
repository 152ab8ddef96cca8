//! Every number that bounds the appliance, and how the numbers hang together.
//!
//! Memory is taken at start and sized by what the machine has. One figure governs the data path: a command slot is
//! a place in a session's window, and the buffers that the commands of one disk may hold are that disk's share.

use core::time::Duration;
use network_tls::Buffers;

/// KiB in bytes.
const KIB: usize = 1 << 10;
/// MiB in bytes.
const MIB: usize = 1 << 20;

/// The longest piece of a read or write that travels in one buffer; longer ones are cut. It is also the largest
/// data segment we take from an initiator.
pub const SEGMENT: usize = 256 * KIB;
/// Bytes that one TLS handshake takes at its height, certificates and big numbers included.
const TLS_HANDSHAKE: usize = 128 * KIB;
/// Bytes that stacks, tasks and tables take whatever the limits are, as measured at the smallest ones.
const ANYHOW: usize = 630 * KIB;
/// Bytes that an audit record takes, as most do, and the document of a target.
const AUDIT: usize = 640;
const DOCUMENT: usize = KIB;
/// Bytes that the record of an operation takes, as most do with room to spare.
const OPERATION: usize = 512;
/// A record each way and a bit: what a connection of the API or to the agent takes in TLS, beside its other buffers, whatever
/// the machine.
pub const API_TLS: Buffers = Buffers { receive: 20 * KIB, transmit: 20 * KIB };
/// How long commands wait for a lost storage service before they end with BUSY: initiators begin to abort after 30 s.
const HOLD: Duration = Duration::from_secs(25);
/// How long a write of a lost connection may still reach the medium.
const HOLD_OFF: Duration = Duration::from_secs(30);
/// After so long without a flush the appliance flushes by itself: what it alone remembers does not grow old.
const FLUSH_AFTER: Duration = Duration::from_secs(10);
/// How often disks are looked at for having grown.
const WATCH: Duration = Duration::from_secs(30);
/// Bytes in each direction for that look.
pub const WATCH_BUFFER: usize = 4 * KIB;
/// TCP port of iSCSI (RFC 7143 section 15).
pub const ISCSI_PORT: u16 = 3260;
/// Connections to the agent, so that one slow command does not hold up the others.
pub const AGENT_LINKS: usize = 2;

/// Who is spoken to in TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InTls {
    /// Storage services.
    pub disks: bool,
    /// Callers of the management API, or the agent.
    pub management: bool,
}

/// What is taken at start on a machine of some size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// iSCSI connections at once, discovery included.
    pub connections: usize,
    /// Disks at once.
    pub volumes: usize,
    /// Commands a session may have in flight: the CmdSN window.
    pub window: usize,
    /// Commands in flight over all sessions; beyond it they are answered TASK SET FULL.
    pub commands: usize,
    /// Bytes an initiator may have under way to us per connection, and we to it.
    pub iscsi_buffers: (usize, usize),
    /// Connections one disk may have to its storage service.
    pub paths: usize,
    /// Bytes a storage service may have under way to us per connection, and we to it.
    pub nbd_buffers: (usize, usize),
    /// Bytes of each such connection, beside those, when it is in TLS.
    pub tls_buffers: Buffers,
    /// Connections of the management API at once.
    pub api_connections: usize,
    /// Bytes a connection of the management may have in each direction before its peer takes or gives them.
    pub api_buffer: usize,
    /// The payload buffers: size and number, ascending.
    pub pool: [(usize, usize); 3],
    /// Bytes of the pool that the commands of one disk may hold.
    pub share: usize,
    /// Bytes beside the pool for answers that need no disk, and for a parameter list of each disk.
    pub control: usize,
    /// The buffers for writes that are acknowledged and not durable yet, of all disks: sizes as the pool's, and numbers.
    pub journal: [usize; 3],
    /// Such writes of one disk.
    pub entries: usize,
    /// Initiator ports beside those that are logged in which a target remembers at least, because they are registered.
    pub registrants: usize,
    /// Operations of the management that are remembered.
    pub operations: usize,
}

/// The least a machine must have free after boot and drivers: one of 4 MiB has that.
const LEAST: Limits = Limits {
    connections: 3,
    volumes: 2,
    window: 8,
    commands: 24,
    iscsi_buffers: (16 * KIB, 16 * KIB),
    paths: 1,
    nbd_buffers: (16 * KIB, 16 * KIB),
    tls_buffers: Buffers { receive: 20 * KIB, transmit: 20 * KIB },
    api_connections: 2,
    api_buffer: 2 * KIB,
    pool: [(4 * KIB, 16), (8 * KIB, 2), (16 * KIB, 8)],
    share: 64 * KIB,
    control: 32 * KIB,
    journal: [8, 1, 2],
    entries: 32,
    registrants: 16,
    operations: 64,
};

/// The same disks with room to move: for a machine of 6 MiB.
const TINY: Limits = Limits {
    connections: 4,
    volumes: 2,
    window: 16,
    commands: 48,
    iscsi_buffers: (32 * KIB, 32 * KIB),
    paths: 1,
    nbd_buffers: (32 * KIB, 32 * KIB),
    tls_buffers: Buffers { receive: 20 * KIB, transmit: 20 * KIB },
    api_connections: 3,
    api_buffer: 8 * KIB,
    pool: [(4 * KIB, 48), (16 * KIB, 8), (32 * KIB, 8)],
    share: 128 * KIB,
    control: 72 * KIB,
    journal: [32, 4, 4],
    entries: 64,
    registrants: 64,
    operations: 128,
};

const SMALL: Limits = Limits {
    connections: 8,
    volumes: 8,
    window: 64,
    commands: 192,
    iscsi_buffers: (128 * KIB, 256 * KIB),
    paths: 1,
    nbd_buffers: (256 * KIB, 128 * KIB),
    tls_buffers: Buffers { receive: 32 * KIB, transmit: 32 * KIB },
    api_connections: 4,
    api_buffer: 16 * KIB,
    pool: [(4 * KIB, 256), (64 * KIB, 24), (SEGMENT, 12)],
    share: 1536 * KIB,
    control: 96 * KIB,
    journal: [256, 16, 4],
    entries: 512,
    registrants: 64,
    operations: 256,
};

const NORMAL: Limits = Limits {
    connections: 12,
    volumes: 12,
    window: 128,
    commands: 512,
    iscsi_buffers: (256 * KIB, 512 * KIB),
    paths: 1,
    nbd_buffers: (512 * KIB, 256 * KIB),
    tls_buffers: Buffers { receive: 64 * KIB, transmit: 64 * KIB },
    api_connections: 4,
    api_buffer: 16 * KIB,
    pool: [(4 * KIB, 512), (64 * KIB, 64), (SEGMENT, 40)],
    share: 5 * MIB,
    control: 112 * KIB,
    journal: [1024, 32, 16],
    entries: 2048,
    registrants: 64,
    operations: 1024,
};

/// The same for fewer disks, as many as a machine of 64 MiB has room for.
const MEDIUM: Limits =
    Limits { volumes: 8, pool: [(4 * KIB, 512), (64 * KIB, 56), (SEGMENT, 40)], control: 96 * KIB, ..NORMAL };

const LARGE: Limits = Limits {
    connections: 64,
    volumes: 64,
    window: 128,
    commands: 2048,
    iscsi_buffers: (256 * KIB, 512 * KIB),
    paths: 2,
    nbd_buffers: (512 * KIB, 256 * KIB),
    tls_buffers: Buffers { receive: 64 * KIB, transmit: 64 * KIB },
    api_connections: 4,
    api_buffer: 16 * KIB,
    pool: [(4 * KIB, 2048), (64 * KIB, 256), (SEGMENT, 160)],
    share: 12 * MIB,
    control: 320 * KIB,
    journal: [8192, 256, 128],
    entries: 8192,
    registrants: 64,
    operations: 1024,
};

impl Limits {
    /// The limits for a machine with so many bytes free after boot and drivers.
    pub const fn for_memory(free: usize) -> Self {
        Self::for_memory_with_tls(free, InTls { disks: false, management: false })
    }

    /// The same for an appliance that speaks TLS to these.
    pub const fn for_memory_with_tls(free: usize, tls: InTls) -> Self {
        let sizes = [LARGE, NORMAL, MEDIUM, SMALL, TINY];
        let mut index = 0;
        while index < sizes.len() {
            if sizes[index].memory() + sizes[index].tls_memory(tls) <= free {
                return sizes[index];
            }
            index += 1;
        }
        LEAST
    }

    /// Bytes that both NICs may take together, of so many that are free after boot. Disks come first: what is left is
    /// enough for the smallest limits with TLS, or, where they fit, for the next larger ones and a fifth.
    pub const fn for_nics(free: usize) -> usize {
        let tiny = TINY.memory();
        let kept = if free < tiny + tiny / 32 {
            LEAST.memory() + LEAST.tls_memory(InTls { disks: true, management: false })
        } else {
            tiny + tiny / 5
        };
        free.saturating_sub(kept)
    }

    /// Bytes that these limits take: buffers, the engines of all disks, and a quarter on top for the tables of connections
    /// and the heap's own needs, or what the smallest take of that.
    pub const fn memory(&self) -> usize {
        let sockets = self.connections * (self.iscsi_buffers.0 + self.iscsi_buffers.1)
            + self.volumes * self.paths * (self.nbd_buffers.0 + self.nbd_buffers.1)
            + (self.api_connections + AGENT_LINKS) * 2 * self.api_buffer;
        let mut total = sockets + self.control;
        let mut index = 0;
        while index < self.pool.len() {
            total += self.pool[index].0 * (self.pool[index].1 + self.journal[index]);
            index += 1;
        }
        let text = self.connections * 3 * self.text();
        let (usual, least) = (total / 4, total / 8 + text + text / 4 + ANYHOW);
        total + if usual > least { usual } else { least } + self.volumes * self.engine()
    }

    /// Bytes of text that an iSCSI connection takes, gives and sends back in a ping, each.
    const fn text(&self) -> usize {
        if self.iscsi_buffers.0 < 32 * KIB { 8 * KIB } else { 16 * KIB }
    }

    /// Bytes that the storage driver of one disk takes beside its buffers, as measured and a tenth more.
    const fn engine(&self) -> usize {
        32 * KIB + self.paths * 2 * self.window * 1280 + self.entries * 112
    }

    /// Bytes that TLS takes on top when every connection of these speaks it.
    pub const fn tls_memory(&self, tls: InTls) -> usize {
        // One connection more than there are disks' own: that which looks whether a disk has changed.
        let disks = (self.volumes * self.paths + 1) * (self.tls_buffers.receive + self.tls_buffers.transmit);
        let management = (self.api_connections + AGENT_LINKS) * (API_TLS.receive + API_TLS.transmit);
        let buffers = if tls.disks { disks } else { 0 } + if tls.management { management } else { 0 };
        if buffers > 0 { TLS_HANDSHAKE + buffers + buffers / 3 } else { 0 }
    }

    /// Bytes that records on the state disk may take in memory, where there is one: for each disk the reservations of as
    /// many initiator ports, of the longest names, as a target remembers, the operations, and the maps of networks.
    pub const fn state(&self) -> usize {
        self.volumes * self.registrants * 384
            + self.operations * OPERATION
            + management::audit_records(self.operations) * AUDIT
            + management::network_bytes(self.operations)
            + self.volumes * DOCUMENT
    }

    /// Tasks of the executor.
    pub const fn tasks(&self) -> usize {
        self.connections + self.volumes * self.paths + self.api_connections + 11
    }

    /// What storage is told.
    pub fn storage(&self) -> storage::Limits {
        let narrow = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
        let largest = u32::try_from(self.pool[2].0).unwrap_or(u32::MAX);
        storage::Limits {
            connections: self.connections,
            volumes: self.volumes,
            commands: self.commands,
            pool: self.pool,
            share: self.share,
            paths: self.paths,
            journal: [0, 1, 2].map(|class| (self.pool[class].0, self.journal[class])),
            entries: self.entries,
            flush_after: FLUSH_AFTER,
            watch: WATCH,
            control: self.control,
            iscsi: storage::IscsiLimits {
                // So that one session does not keep out others.
                max_connections: narrow(self.connections / 4).clamp(1, 4),
                commands: narrow(self.window),
                immediate: 8,
                buffers: narrow(self.window * 2 + 8),
                max_recv_data_segment_length: largest,
                max_burst_length: 4 * largest,
                first_burst_length: largest,
                text: narrow(self.text()).into(),
                ..storage::IscsiLimits::default()
            },
            scsi: storage::ScsiLimits {
                units: narrow(self.volumes),
                nexuses: narrow((self.connections * 4).max(self.connections + self.registrants)),
                commands: narrow(self.commands),
            },
            nbd: storage::NbdLimits { slots: 2 * self.window, ..storage::NbdLimits::default() },
            hold: HOLD,
            sharing: storage::Sharing::default(),
            port_group: 1,
            hold_off: HOLD_OFF,
        }
    }

    /// What must hold between the numbers.
    const fn check(&self) {
        assert!(self.window <= self.commands, "one session can fill its window");
        assert!(self.share >= 4 * self.pool[2].0, "a long transfer has four segments in flight");
        assert!(self.pool[0].0 < self.pool[1].0 && self.pool[1].0 < self.pool[2].0, "sizes ascend");
        assert!(self.tls_buffers.receive >= Buffers::LEAST_RECEIVE, "a record fits");
        assert!(self.tls_buffers.transmit >= Buffers::LEAST_TRANSMIT, "a record fits");
        assert!(self.pool[2].0 <= SEGMENT, "no buffer is longer than a segment");
        assert!(
            self.share <= self.pool[2].0 * self.pool[2].1 / 2,
            "two disks that hang leave room for a third"
        );
    }
}

const _: () = {
    LEAST.check();
    TINY.check();
    SMALL.check();
    MEDIUM.check();
    NORMAL.check();
    LARGE.check();
    assert!(
        LEAST.memory() < TINY.memory()
            && TINY.memory() < SMALL.memory()
            && SMALL.memory() < MEDIUM.memory()
            && MEDIUM.memory() < NORMAL.memory()
            && NORMAL.memory() < LARGE.memory()
    );
    assert!(TINY.memory() < 3 * MIB, "a machine of 6 MiB has room for it");
    assert!(LEAST.memory() < 1560 * KIB, "a machine of 4 MiB has room for it");
};
