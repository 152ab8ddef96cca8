//! A connection to libvirtd with its driver opened, and what the agent asks on it.
//!
//! Each command has a connection of its own and closes it at the end: one that waits for a hung domain holds up no other,
//! nothing is left over in it for the next, and a libvirtd that was restarted is met anew.

use super::described::Described;
use super::request::{Domain, Request, write_domain};
use super::rpc::{Answer, Link, Notice, RpcError};
use super::xdr::{Malformed, Reader, Writer};
use crate::hypervisor::Incident;
use agent_protocol::{EventKind, Text, Uuid};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// Numbers of procedures that look and change nothing.
mod procedure {
    pub(super) const OPEN: i32 = 1;
    pub(super) const CLOSE: i32 = 2;
    pub(super) const VERSION: i32 = 4;
    pub(super) const DESCRIBE: i32 = 14;
    pub(super) const LOOK_UP: i32 = 24;
    pub(super) const WAYS_TO_AUTHENTICATE: i32 = 66;
    pub(super) const AUTHENTICATE_BY_POLKIT: i32 = 70;
    pub(super) const LIBRARY_VERSION: i32 = 157;
    pub(super) const HAS_SAVED_MEMORY: i32 = 183;
    pub(super) const DESCRIBE_SNAPSHOT: i32 = 186;
    pub(super) const LOOK_UP_SNAPSHOT: i32 = 189;
    pub(super) const DISK: i32 = 194;
    pub(super) const STATE: i32 = 212;
    pub(super) const CONTROL: i32 = 229;
    pub(super) const LIST: i32 = 273;
    pub(super) const TELL_OF: i32 = 316;
    pub(super) const STATS: i32 = 344;
    /// A notice (`REMOTE_PROC_DOMAIN_EVENT_CALLBACK_IO_ERROR_REASON`).
    pub(super) const DISK_ERROR: i32 = 323;
}

const AUTH_NONE: u32 = 0;
const AUTH_POLKIT: u32 = 2;
/// There is no such domain (`VIR_ERR_NO_DOMAIN`).
const NO_DOMAIN: i32 = 42;
/// There is no such snapshot (`VIR_ERR_NO_DOMAIN_SNAPSHOT`).
const NO_SNAPSHOT: i32 = 72;
/// Life cycle, restart, disk error, lost hypervisor, device removed, job completed, removal of a device refused
/// (`VIR_DOMAIN_EVENT_ID_`).
const TOLD_OF: [i32; 7] = [0, 1, 4, 7, 15, 21, 22];
/// A name of at least no bytes, a UUID and a number.
const DOMAIN_LEAST: usize = 24;
/// A name of at least no bytes, a type and a value.
const PARAMETER_LEAST: usize = 12;

/// What libvirtd does for a domain at the moment (`virDomainControlState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// It is ready for a command.
    Ready,
    /// It carries out a command for so long already.
    Busy(Duration),
    /// It can do no more with it.
    Broken,
}

/// A value of a statistic.
pub(super) type Figures = Vec<(String, Figure)>;

/// A number or text (`virTypedParameter`).
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Figure {
    Number(u64),
    Text(String),
}

/// How long libvirtd may take to let a connection go.
const CLOSE_TIME: Duration = Duration::from_millis(200);

/// An open connection.
pub(super) struct Session(Link);

impl Drop for Session {
    /// Take leave: libvirtd writes of one that is just gone into its log as of an error. One that owes an answer, or has
    /// been misunderstood, is just gone.
    fn drop(&mut self) {
        if self.0.is_sound() {
            self.0.deadline = Instant::now() + CLOSE_TIME;
            let _ = self.0.call(procedure::CLOSE, &Writer::default());
        }
    }
}

impl Session {
    /// Connect and open the driver; all that follows must be over by `deadline`.
    pub(super) fn open(socket: &Path, uri: &str, deadline: Instant) -> Answer<Self> {
        let mut session = Self(Link::connect(socket, deadline)?);
        session.authenticate()?;
        let mut open = Writer::default();
        open.u32(1).string(uri).u32(0);
        session.0.call(procedure::OPEN, &open)?;
        Ok(session)
    }

    fn authenticate(&mut self) -> Answer<()> {
        let answer = self.0.call(procedure::WAYS_TO_AUTHENTICATE, &Writer::default())?;
        let mut reader = Reader::new(&answer);
        let mut ways = Vec::new();
        for _ in 0..reader.count(4)? {
            ways.push(reader.u32()?);
        }
        if ways.contains(&AUTH_NONE) {
            return Ok(());
        }
        if ways.contains(&AUTH_POLKIT) {
            return self.0.call(procedure::AUTHENTICATE_BY_POLKIT, &Writer::default()).map(drop);
        }
        Err(RpcError::Malformed("a demand to authenticate in a way that this agent does not know"))
    }

    /// What follows must be over by then.
    pub(super) fn until(&mut self, deadline: Instant) {
        self.0.deadline = deadline;
    }

    pub(super) const fn deadline(&self) -> Instant {
        self.0.deadline
    }

    /// The versions of libvirtd and of its hypervisor.
    pub(super) fn versions(&mut self) -> Answer<(u64, u64)> {
        let mut ask = |procedure| -> Answer<u64> {
            let answer = self.0.call(procedure, &Writer::default())?;
            Ok(Reader::new(&answer).u64()?)
        };
        Ok((ask(procedure::LIBRARY_VERSION)?, ask(procedure::VERSION)?))
    }

    /// The domain of that UUID, if there is one.
    pub(super) fn look_up(&mut self, uuid: Uuid) -> Answer<Option<Domain>> {
        let mut arguments = Writer::default();
        arguments.fixed(&uuid.0.to_be_bytes());
        match self.0.call(procedure::LOOK_UP, &arguments) {
            Ok(answer) => {
                let domain = read_domain(&mut Reader::new(&answer))?;
                if domain.uuid != uuid.0.to_be_bytes() {
                    return Err(RpcError::Malformed("another domain than was asked for"));
                }
                Ok(Some(domain))
            }
            Err(RpcError::Refused { code: NO_DOMAIN, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All domains that run.
    pub(super) fn active(&mut self) -> Answer<BTreeSet<Uuid>> {
        let mut arguments = Writer::default();
        // Not their number alone; those that are active (`VIR_CONNECT_LIST_DOMAINS_ACTIVE`).
        arguments.i32(1).u32(1);
        let answer = self.0.call(procedure::LIST, &arguments)?;
        let mut reader = Reader::new(&answer);
        let mut active = BTreeSet::new();
        for _ in 0..reader.count(DOMAIN_LEAST)? {
            active.insert(Uuid(u128::from_be_bytes(read_domain(&mut reader)?.uuid)));
        }
        Ok(active)
    }

    fn about(&mut self, procedure: i32, domain: &Domain) -> Answer<Vec<u8>> {
        let mut arguments = Writer::default();
        write_domain(&mut arguments, domain);
        // The flags, of which none is set.
        arguments.u32(0);
        self.0.call(procedure, &arguments)
    }

    /// Its state and why (`virDomainState`).
    pub(super) fn state(&mut self, domain: &Domain) -> Answer<(i32, i32)> {
        let answer = self.about(procedure::STATE, domain)?;
        let mut reader = Reader::new(&answer);
        Ok((reader.i32()?, reader.i32()?))
    }

    /// What it is made of.
    pub(super) fn described(&mut self, domain: &Domain) -> Answer<Described> {
        let answer = self.about(procedure::DESCRIBE, domain)?;
        Described::read(&Reader::new(&answer).string()?)
    }

    /// Whether it has memory that was saved.
    pub(super) fn has_saved_memory(&mut self, domain: &Domain) -> Answer<bool> {
        let answer = self.about(procedure::HAS_SAVED_MEMORY, domain)?;
        Ok(Reader::new(&answer).i32()? != 0)
    }

    /// What libvirtd does for it at the moment. Answered without asking its hypervisor.
    pub(super) fn control(&mut self, domain: &Domain) -> Answer<Control> {
        let answer = self.about(procedure::CONTROL, domain)?;
        let mut reader = Reader::new(&answer);
        let (state, _details, milliseconds) = (reader.u32()?, reader.u32()?, reader.u64()?);
        Ok(match state {
            0 => Control::Ready,
            1 | 2 => Control::Busy(Duration::from_millis(milliseconds)),
            _ => Control::Broken,
        })
    }

    /// How many bytes a disk of it has, as its hypervisor sees it.
    pub(super) fn capacity(&mut self, domain: &Domain, target: &str) -> Answer<u64> {
        let mut arguments = Writer::default();
        write_domain(&mut arguments, domain);
        arguments.string(target).u32(0);
        let answer = self.0.call(procedure::DISK, &arguments)?;
        let mut reader = Reader::new(&answer);
        let _allocation = reader.u64()?;
        Ok(reader.u64()?)
    }

    /// The domain as it was when a snapshot of that name was made, if there is one.
    pub(super) fn snapshot(&mut self, domain: &Domain, name: &str) -> Answer<Option<Described>> {
        let mut arguments = Writer::default();
        write_domain(&mut arguments, domain);
        arguments.string(name).u32(0);
        match self.0.call(procedure::LOOK_UP_SNAPSHOT, &arguments) {
            Ok(_) => {}
            Err(RpcError::Refused { code: NO_SNAPSHOT, .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut arguments = Writer::default();
        arguments.string(name);
        write_domain(&mut arguments, domain);
        arguments.u32(0);
        let answer = self.0.call(procedure::DESCRIBE_SNAPSHOT, &arguments)?;
        Described::read(&Reader::new(&answer).string()?).map(Some)
    }

    /// Figures of one domain, of these groups (`virDomainStatsTypes`).
    pub(super) fn figures(&mut self, domain: &Domain, groups: u32) -> Answer<Figures> {
        let mut arguments = Writer::default();
        arguments.u32(1);
        write_domain(&mut arguments, domain);
        arguments.u32(groups).u32(0);
        let answer = self.0.call(procedure::STATS, &arguments)?;
        let mut reader = Reader::new(&answer);
        let mut figures = Vec::new();
        for _ in 0..reader.count(DOMAIN_LEAST + 4)? {
            let of = read_domain(&mut reader)?;
            for _ in 0..reader.count(PARAMETER_LEAST)? {
                let name = reader.string()?;
                let value = read_figure(&mut reader)?;
                if of.uuid == domain.uuid {
                    figures.push((name, value));
                }
            }
        }
        reader.end()?;
        Ok(figures)
    }

    /// Carry out what changes something.
    pub(super) fn carry_out(&mut self, domain: &Domain, request: &Request) -> Answer<Vec<u8>> {
        self.0.call(request.procedure(), &request.written(domain))
    }

    /// Define a domain; what it is called from then on.
    pub(super) fn define(&mut self, blank: &Domain, request: &Request) -> Answer<Domain> {
        let answer = self.carry_out(blank, request)?;
        Ok(read_domain(&mut Reader::new(&answer))?)
    }

    /// Be told from now on of whatever happens to any domain; what such a connection says is read by [`Link::notice`].
    pub(super) fn listen(&mut self) -> Answer<()> {
        for kind in TOLD_OF {
            let mut arguments = Writer::default();
            // Of all domains.
            arguments.i32(kind).u32(0);
            self.0.call(procedure::TELL_OF, &arguments)?;
        }
        Ok(())
    }

    /// The connection itself.
    pub(super) const fn link(&mut self) -> &mut Link {
        &mut self.0
    }
}

/// The domain a notice is about: every kind the agent asked for begins alike.
pub(super) fn concerned(notice: &Notice) -> Option<Uuid> {
    let mut reader = Reader::new(&notice.payload);
    let _callback = reader.i32().ok()?;
    let domain = read_domain(&mut reader).ok()?;
    Some(Uuid(u128::from_be_bytes(domain.uuid)))
}

/// The disk error that a notice tells of, if it does.
pub(super) fn disk_error(notice: &Notice) -> Option<Incident> {
    if notice.procedure != procedure::DISK_ERROR {
        return None;
    }
    let mut reader = Reader::new(&notice.payload);
    let _callback = reader.i32().ok()?;
    let domain = read_domain(&mut reader).ok()?;
    let _path = reader.string().ok()?;
    let device = reader.string().ok()?;
    let _action = reader.i32().ok()?;
    let reason = reader.string().ok()?;
    let reason = if reason.is_empty() { "no reason given" } else { &reason };
    let detail = Text::new(&format!("access to {device}: {reason}"));
    let uuid = Uuid(u128::from_be_bytes(domain.uuid));
    Some(Incident { uuid, kind: EventKind::DiskError, detail })
}

fn read_domain(reader: &mut Reader<'_>) -> Result<Domain, Malformed> {
    Ok(Domain { name: reader.string()?, uuid: reader.array()?, id: reader.i32()? })
}

fn read_figure(reader: &mut Reader<'_>) -> Result<Figure, Malformed> {
    Ok(match reader.i32()? {
        // Numbers that are below zero or broken are none that the agent asks for.
        1 => Figure::Number(u64::try_from(reader.i32()?).unwrap_or(0)),
        2 | 6 => Figure::Number(u64::from(reader.u32()?)),
        3 => Figure::Number(reader.u64()?.min(i64::MAX as u64)),
        4 => Figure::Number(reader.u64()?),
        5 => {
            reader.u64()?;
            Figure::Number(0)
        }
        7 => Figure::Text(reader.string()?),
        _ => return Err(Malformed),
    })
}
