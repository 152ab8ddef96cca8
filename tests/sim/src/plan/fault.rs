//! All that can go wrong.

use super::words::{choice, lines};
use crate::wire::Quality;
use std::time::Duration;

choice! {
    /// The two networks.
    Net { Host, Service }
}

choice! {
    /// When a command is aborted.
    Step {
        /// At any time.
        Any,
        /// With the command itself, before anything of it can have gone to a service.
        BeforeSent,
        /// When a service has received its request.
        Sent,
        /// When a service has answered it, and the initiator does not know yet.
        Answered,
        /// When a service receives something for the second time: the appliance sends again what was lost.
        InReplay,
    }
}

choice! {
    /// What is wrong with a reply.
    Malformation {
        /// It ends too soon, and so does the connection.
        Short,
        /// It comes twice.
        Extra,
        /// Its cookie is nobody's.
        WrongCookie,
        /// Its magic is none.
        NoMagic,
        /// An error that no standard knows.
        StrangeError,
        /// It comes after the client has given up waiting.
        Late,
    }
}

choice! {
    /// What an export is after a reconnection.
    Change {
        /// Larger, for ever.
        Grown,
        /// Smaller.
        Shrunk,
        /// Read-only.
        ReadOnly,
        /// Not there under its name.
        Renamed,
        /// Of blocks that are too large.
        Coarse,
        /// Without FLUSH.
        Flushless,
    }
}

lines! {
    /// Something that goes wrong.
    #[derive(Clone, Debug)]
    Fault {
        /// The process of a storage service dies and is back after a time.
        Crash { unit: usize, loses_cache: bool, keeps_requests: bool, down: Duration },
        /// The next write reaches the medium only with its first sectors, and the service dies of it.
        Torn { unit: usize, sectors: u64, loses_cache: bool, down: Duration },
        /// The connections to a service are reset; what they brought is still executed, and may be so late.
        Kill { unit: usize, lingers: bool },
        /// One connection to a service is reset; what it brought is still executed, and may be so late.
        KillOne { unit: usize, which: u64, lingers: bool },
        /// The process of one of the gateways to a disk dies and is back after a time.
        Gateway { unit: usize, which: usize, lingers: bool, down: Duration },
        /// A service executes nothing for a time.
        Stuck { unit: usize, time: Duration },
        /// A service takes up to `delay` for each request for a time.
        Slow { unit: usize, time: Duration, delay: Duration },
        /// The next flushes fail. With `drops` what they should have made durable is taken for clean, as after a failed
        /// fsync: the next flush does not mean it. With `evicts` it cannot even be read any more.
        FlushErrors { unit: usize, count: u32, drops: bool, evicts: bool },
        /// After some requests the next ones fail.
        Errors { unit: usize, after: u32, count: u32, code: u32 },
        /// The next reply is not what it should be.
        Malformed { unit: usize, what: Malformation },
        /// The connections are reset, and for a time the export is another.
        Export { unit: usize, change: Change, time: Duration },
        /// One direction or both of a wire are cut for a time.
        Cut { net: Net, ends: [bool; 2], time: Duration },
        /// A wire is bad for a time.
        Weather { net: Net, quality: Quality, time: Duration },
        /// An initiator loses its connection, with a reset or without a word, and logs in again.
        Drop { initiator: usize, is_silent: bool },
        /// An initiator aborts some of its commands, or the next one that comes to a step.
        Abort { initiator: usize, step: Step },
        /// An initiator resets a unit.
        Reset { initiator: usize, unit: usize },
        /// An initiator takes nothing from its connection for a time.
        Deaf { initiator: usize, time: Duration },
        /// Somebody with the same name and ISID logs in again and again.
        Twin { initiator: usize, logins: u64 },
        /// Strangers take connections and say nothing, for a time.
        Crowd { connections: u64, time: Duration },
        /// The appliance restarts.
        Restart { down: Duration },
        /// The appliance stands still for a time and goes on, as a stopped virtual machine.
        Pause { time: Duration },
    }
}

impl Fault {
    /// The unit it is about, if it is about one alone.
    pub(crate) const fn unit(&self) -> Option<usize> {
        match *self {
            Self::Crash { unit, .. }
            | Self::Torn { unit, .. }
            | Self::Kill { unit, .. }
            | Self::KillOne { unit, .. }
            | Self::Gateway { unit, .. }
            | Self::Stuck { unit, .. }
            | Self::Slow { unit, .. }
            | Self::FlushErrors { unit, .. }
            | Self::Errors { unit, .. }
            | Self::Malformed { unit, .. }
            | Self::Export { unit, .. } => Some(unit),
            _ => None,
        }
    }
}
