//! The storage services: the strict NBD service of `storage_nbd::testing` on a stack of its own, with all that services
//! do to their clients.

mod faults;
mod fence;
mod medium;
mod serve;

pub(crate) use serve::{Door, serve};

use crate::bug::Bug;
use crate::history::{self, History, SECTOR, WriteId};
use crate::plan::{Change, Plan, Step};
use crate::random::Random;
use faults::Troubles;
use kernel_runtime::{Instant, Signal};
use medium::Medium;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use storage_nbd::testing::{Lease, Session, Settings, Shape};
use storage_nbd::wire::{self, command};
use storage_nbd::{BlockSizes, TransmissionFlags};

/// Streams of each gateway beyond one for each connection: what is left of some before them.
pub(crate) const SPARE_STREAMS: usize = 3;
/// Gateways that may lead to one disk.
pub(crate) const GATEWAYS: usize = 2;
/// A service promises to be done with a request, or never to do it, this long after it came: less than the appliance
/// waits before it sends a newer write.
const PROMISE: Duration = Duration::from_secs(25);
/// When a service with [`Bug::LateGhost`] executes what it should have forgotten.
const LATE: Duration = Duration::from_secs(45);
/// How late a reply is that is late: a client gives a silent connection up after ten seconds.
const LATENESS: Duration = Duration::from_secs(13);
/// How long a request may be on its way over a wire that loses nothing.
const GRACE: Duration = Duration::from_secs(1);
/// Every how many writes a planted bug strikes.
const STRIKES: u64 = 25;

/// A connection, alive or dead, with the commands it brought.
struct Live {
    id: u64,
    /// By which of the gateways it came, and on which stream of all.
    gateway: usize,
    stream: usize,
    session: Session,
    /// When each waiting command came and is executed.
    times: Vec<(Instant, Instant)>,
    /// Replies that are kept back.
    held: Vec<(Instant, Vec<u8>)>,
    /// When its claim to be the only writer is judged.
    claim_due: Option<Instant>,
    opened: Instant,
    is_connected: bool,
    /// It belongs to an appliance that is gone: fenced at the next connection.
    is_orphan: bool,
    /// The export that it shows is not one to be used.
    is_foreign: bool,
    /// It is closed when everything is said.
    is_ending: bool,
}

/// Something that commands may be aborted at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) step: Step,
    pub(crate) unit: usize,
    /// The write that it is about, if it is one.
    pub(crate) write: Option<WriteId>,
}

/// One disk and the service in front of it.
pub(crate) struct Service {
    unit: usize,
    pub(crate) medium: Medium,
    settings: Settings,
    tells_incarnation: bool,
    /// No frame on the service network is lost.
    has_clean_wire: bool,
    random: Random,
    bug: Option<Bug>,
    live: Vec<Live>,
    next_id: u64,
    service_time: u64,
    troubles: Troubles,
    /// Who writes, as it stands on stable storage.
    lease: Lease,
    /// Counts what may have been forgotten.
    incarnation: u64,
    writes: u64,
    /// When the appliance was last started.
    booted: Instant,
    /// It has had something to do since then.
    is_known: bool,
    /// By which connection each write came first.
    received: BTreeMap<WriteId, u64>,
    /// What has happened since the world looked last.
    pub(crate) moments: Vec<Moment>,
    /// Commands executed.
    pub(crate) executed: u64,
    /// What the client did that it must not.
    pub(crate) violation: Option<String>,
    signals: Vec<Rc<Signal>>,
}

impl Service {
    pub(crate) fn new(unit: usize, plan: &Plan, bug: Option<Bug>, random: Random) -> Self {
        let shape = &plan.shape;
        let mut settings = Settings {
            structured: shape.structured,
            extended: shape.extended,
            // A claim is a context, and contexts need structured replies.
            fencing: shape.fences && (shape.structured || shape.extended),
            allocation: shape.tells_extents,
            ..Settings::default()
        };
        let minimum = shape.block as u32;
        settings.block_sizes =
            Some(BlockSizes { minimum, preferred: 4096, maximum: shape.max_payload.max(minimum) });
        if shape.connections > 1 {
            settings.flags = with(settings.flags, TransmissionFlags::CAN_MULTI_CONN);
        }
        if !shape.offers_fua || shape.cacheless {
            settings.flags = without(settings.flags, TransmissionFlags::SEND_FUA);
        }
        if shape.cacheless {
            settings.flags = without(settings.flags, TransmissionFlags::SEND_FLUSH);
        }
        let streams = GATEWAYS * (shape.connections + SPARE_STREAMS);
        Self {
            unit,
            medium: Medium::new(shape.block * plan.blocks(), shape.cacheless),
            settings,
            tells_incarnation: shape.tells_incarnation,
            has_clean_wire: plan.is_service_clean(),
            random,
            bug,
            live: Vec::new(),
            next_id: 0,
            service_time: shape.service_time,
            troubles: Troubles::default(),
            lease: Lease::default(),
            incarnation: 0,
            writes: 0,
            booted: Instant::ZERO,
            is_known: false,
            received: BTreeMap::new(),
            moments: Vec::new(),
            executed: 0,
            violation: None,
            signals: (0..streams).map(|_| Rc::new(Signal::new())).collect(),
        }
    }

    fn complain(&mut self, reason: String) {
        self.violation.get_or_insert(reason);
    }

    fn wake(&self) {
        for signal in &self.signals {
            signal.raise();
        }
    }

    /// A connection was accepted, if anybody is there.
    fn open(&mut self, now: Instant, gateway: usize, stream: usize, history: &mut History) -> Option<u64> {
        if now < self.troubles.down_until.max(self.troubles.gateways_down[gateway]) {
            return None;
        }
        self.fence_orphans(now, history);
        let (settings, size, is_foreign) = self.presented(now);
        let session = Session::serving(vec![(settings, size as u64)]);
        self.next_id += 1;
        self.live.push(Live {
            id: self.next_id,
            gateway,
            stream,
            session,
            times: Vec::new(),
            held: Vec::new(),
            claim_due: None,
            opened: now,
            is_connected: true,
            is_orphan: false,
            is_foreign,
            is_ending: false,
        });
        Some(self.next_id)
    }

    /// What the export is now: how it is offered, its bytes, and whether a client that knew it before must not use it.
    fn presented(&self, now: Instant) -> (Settings, usize, bool) {
        let mut settings = self.settings.clone();
        if self.tells_incarnation {
            settings.incarnation = Some(format!("{}-{}", self.unit, self.incarnation));
        }
        let size = self.medium.content().len();
        // A client that has seen nothing else takes what it sees first.
        let change = self.troubles.change.filter(|(_, until)| now < *until && self.is_known);
        let Some((change, _)) = change else {
            return (settings, size, false);
        };
        match change {
            Change::Grown => return (settings, size, false),
            Change::Shrunk => return (settings, size / 2, true),
            Change::ReadOnly => {
                settings.flags = with(settings.flags, TransmissionFlags::READ_ONLY);
                return (settings, size, false);
            }
            Change::Renamed => settings.name.push_str("-of-old"),
            Change::Coarse => {
                settings.block_sizes = Some(BlockSizes { minimum: 8192, preferred: 8192, maximum: 32 << 20 });
            }
            Change::Flushless => {
                let flags = without(settings.flags, TransmissionFlags::SEND_FLUSH);
                settings.flags = without(flags, TransmissionFlags::SEND_FUA);
            }
        }
        // Without a cache nobody misses FLUSH.
        (settings, size, change != Change::Flushless || !self.medium.is_cacheless())
    }

    fn place(&self, id: u64) -> Option<usize> {
        self.live.iter().position(|live| live.id == id && live.is_connected)
    }

    fn receive(&mut self, now: Instant, place: usize, bytes: &[u8], history: &History) {
        let live = &mut self.live[place];
        live.session.receive(bytes);
        if let Some(rule) = live.session.violations.first() {
            let reason = format!("unit {}: the client sent {rule}", self.unit);
            self.complain(reason);
        }
        while self.live[place].times.len() < self.live[place].session.waiting.len() {
            let index = self.live[place].times.len();
            let due = self.due(now);
            self.live[place].times.push((now, due));
            let is_again = self.received(now, place, index, history);
            self.check_order(now, place, index, is_again);
        }
    }

    /// What must be true of every request. Answers whether it is a write that came before, or a part of one.
    fn received(&mut self, now: Instant, place: usize, index: usize, history: &History) -> bool {
        let unit = self.unit;
        let live = &self.live[place];
        let waiting = &live.session.waiting[index];
        let request = waiting.request;
        self.is_known |= live.opened >= self.booted;
        let is_early = live.opened >= self.booted && !history.has_begun_since(unit, self.booted);
        let write = history::writer(&waiting.payload);
        let sector = request.offset as usize / SECTOR;
        let is_write = request.command == command::WRITE;
        let wrong = if live.is_foreign {
            Some(format!("unit {unit}: {request:?} to an export that is another"))
        } else if is_early && changes(request.command) {
            Some(format!("unit {unit}: {request:?} although nobody has written since the start"))
        } else if is_write && let Err(reason) = history.check_payload(unit, sector, &waiting.payload) {
            Some(format!("{request:?} with what nobody sent: {reason}"))
        } else if let Some(id) = write
            && self.has_clean_wire
            && !self.received.contains_key(&id)
            && history.aborted(id).is_some_and(|at| at + GRACE < now)
        {
            Some(format!("unit {unit}: {request:?} was sent after its abort was answered"))
        } else {
            None
        };
        if let Some(wrong) = wrong {
            self.complain(wrong);
        }
        self.moments.push(Moment { step: Step::Sent, unit, write });
        let connection = self.live[place].id;
        let is_again = write.is_some_and(|id| {
            *self.received.entry(id).or_insert(connection) != connection || history.is_executed(id)
        });
        if is_again {
            self.moments.push(Moment { step: Step::InReplay, unit, write });
        }
        is_again
    }

    /// Two overlapping requests that change the medium must never be in flight together on one connection; on two, only
    /// when they are the same, or the later one was sent before: again, or out of the journal, before all that is newer.
    fn check_order(&mut self, now: Instant, place: usize, index: usize, is_again: bool) {
        let new = &self.live[place].session.waiting[index];
        if !changes(new.request.command) {
            return;
        }
        let is_known = is_again || new.request.command != command::WRITE;
        let end = |request: &wire::Request| request.offset + u64::from(request.length);
        for live in self.live.iter().filter(|live| !live.is_orphan) {
            let is_same = live.id == self.live[place].id;
            for (old, (came, _)) in live.session.waiting.iter().zip(&live.times) {
                let is_itself = is_same && old.request.cookie == new.request.cookie;
                let is_over = now > *came + PROMISE;
                let overlap =
                    new.request.offset < end(&old.request) && old.request.offset < end(&new.request);
                let is_twin = history::writer(&old.payload) == history::writer(&new.payload);
                let is_harmless = !is_same && (is_known || is_twin);
                if is_itself || is_over || !overlap || !changes(old.request.command) || is_harmless {
                    continue;
                }
                let reason =
                    format!("unit {}: {:?} in flight with {:?}", self.unit, new.request, old.request);
                return self.complain(reason);
            }
        }
    }

    fn due(&mut self, now: Instant) -> Instant {
        let mut time = self.random.below(self.service_time + 1);
        let (until, delay) = self.troubles.slow;
        if now < until {
            time += self.random.below(delay.as_micros() as u64);
        }
        (now + Duration::from_micros(time)).max(self.troubles.stuck_until)
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        let change = self.troubles.change.map(|(_, until)| until);
        let times = self.live.iter().flat_map(|live| &live.times).map(|(_, due)| *due);
        let held = self.live.iter().flat_map(|live| &live.held).map(|(due, _)| *due);
        let claims = self.live.iter().filter_map(|live| live.claim_due);
        let eviction = self.troubles.evicted_at;
        times.chain(held).chain(claims).chain(change).chain(eviction).min()
    }

    /// Execute what is due. Answers whether anything was.
    pub(crate) fn step(&mut self, now: Instant, history: &mut History) -> bool {
        let mut moved = self.expire(now, history) | self.judge_claims(now, history);
        loop {
            let due = self.live.iter().enumerate().find_map(|(place, live)| {
                let index = live.times.iter().position(|(_, due)| *due <= now)?;
                Some((place, index))
            });
            let Some((place, index)) = due else { break };
            moved = true;
            let (came, _) = self.live[place].times[index];
            if now > came + PROMISE && self.bug != Some(Bug::LateGhost) {
                self.live[place].is_connected = false;
                self.wake();
                self.execute(now, place, index, Shape::Dropped, history);
                continue;
            }
            if self.tear(now, place, index, history) {
                continue;
            }
            let shape = self.shape(now, place, index);
            self.execute(now, place, index, shape, history);
        }
        self.live.retain(|live| live.is_connected || !live.times.is_empty());
        moved
    }

    fn execute(&mut self, now: Instant, place: usize, index: usize, shape: Shape, history: &mut History) {
        let live = &mut self.live[place];
        let request = live.session.waiting[index].request;
        let is_write = request.command == command::WRITE && matches!(shape, Shape::Plain | Shape::Pieces(_));
        let write = history::writer(&live.session.waiting[index].payload);
        self.writes += u64::from(is_write);
        let strikes = is_write && self.writes.is_multiple_of(STRIKES);
        let (came, _) = live.times.remove(index);
        let connection = if live.is_connected { "alive" } else { "dead" };
        log::debug!("service {}: {request:?} of {came:?} ({connection}): {shape:?}", self.unit);
        let said = live.session.output.len();
        self.carry_out(place, index, shape, strikes);
        for (first, data) in self.medium.written.drain(..) {
            history.executed(first, &data);
        }
        if self.bug == Some(Bug::SilentRollback) && strikes {
            self.lose_cache(now, history);
        }
        self.distort(now, place, said);
        self.executed += 1;
        self.moments.push(Moment { step: Step::Answered, unit: self.unit, write });
        self.signals[self.live[place].stream].raise();
    }

    /// Do what is asked, or what a planted bug makes of it.
    fn carry_out(&mut self, place: usize, index: usize, shape: Shape, strikes: bool) {
        let session = &mut self.live[place].session;
        let waiting = &mut session.waiting[index];
        let is_flush = waiting.request.command == command::FLUSH;
        match self.bug {
            Some(Bug::LostWrite) if strikes => {
                let mut other = self.medium.clone();
                session.execute(&mut other, index, shape);
                self.medium.written = other.written;
                return;
            }
            Some(Bug::LyingFlush) if is_flush => {
                return session.execute(&mut self.medium.clone(), index, shape);
            }
            Some(Bug::MisdirectedWrite) if strikes => {
                let length = u64::from(waiting.request.length);
                if waiting.request.offset >= length {
                    waiting.request.offset -= length;
                }
            }
            Some(Bug::BitRot) if strikes => {
                let middle = waiting.payload.len() / 2;
                waiting.payload[middle] ^= 0x10;
            }
            _ => {}
        }
        session.execute(&mut self.medium, index, shape);
    }

    /// The connection is over; its commands are still executed in their time, unless that is too late.
    fn close(&mut self, id: u64) {
        let is_late_bug = self.bug == Some(Bug::LateGhost);
        for live in self.live.iter_mut().filter(|live| live.id == id) {
            live.is_connected = false;
            for (came, due) in live.times.iter_mut().filter(|_| is_late_bug) {
                *due = *came + LATE;
            }
        }
    }
}

/// Whether a command may leave the medium different.
const fn changes(code: u16) -> bool {
    matches!(code, command::WRITE | command::TRIM | command::WRITE_ZEROES)
}

const fn with(flags: TransmissionFlags, flag: TransmissionFlags) -> TransmissionFlags {
    TransmissionFlags(flags.0 | flag.0)
}

const fn without(flags: TransmissionFlags, flag: TransmissionFlags) -> TransmissionFlags {
    TransmissionFlags(flags.0 & !flag.0)
}
