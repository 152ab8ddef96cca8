//! The driver as its caller sees it: requests in, events out, and what is known of the disk.

use crate::flights::Flights;
use crate::flush::Flushes;
use crate::journal::Journal;
use crate::paths::{End, Path};
use crate::phase::Phase;
use crate::rate::{Meter, Rate};
use crate::rewrite::Rewrite;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;
use kernel_runtime::{Instant, earliest};
use storage_block::{Completion, Error, Geometry, Operation, Request, Share};
use storage_nbd::{ClientError, Export, Latency, Quarantine, Text};

/// Events for people that wait to be fetched; more than so many are forgotten, the oldest first.
const MAX_NOTES: usize = 32;

/// The numbers that bound a driver.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What each connection is given.
    pub nbd: storage_nbd::Limits,
    /// Connections at once, if the service can do with several.
    pub paths: usize,
    /// Entries of the journal.
    pub entries: usize,
    /// How long a request may wait for a service before its command ends with BUSY, and how long one is tried again
    /// that the service has no room for.
    pub hold: Duration,
    /// How long a write of a lost connection may still reach the medium: as long, newer writes to the same range wait,
    /// unless the service has fenced the connection.
    pub hold_off: Duration,
    /// After so long without a flush the driver flushes of its own accord.
    pub flush_after: Duration,
}

/// What one disk is.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// What each connection is to.
    pub nbd: storage_nbd::Settings<'a>,
    /// How many portals lead to it.
    pub portals: usize,
    /// Another number for each disk and each start.
    pub seed: u64,
    /// How much it may do.
    pub rate: Rate,
    /// A portal whose first command is done has fenced all others.
    pub portals_fence: bool,
    /// The operator says that what the service has acknowledged is durable, although it offers neither FLUSH nor FUA.
    pub assume_durable: bool,
}

/// What the driver has to tell.
#[derive(Debug)]
pub enum Event {
    /// A request ended.
    Completed(Completion),
    /// The disk can be used, and this is its shape, for the first time or again.
    Ready(Geometry),
    /// The last connection is gone. Requests wait.
    Away,
    /// A connection is silent although answers are due.
    Suspect(usize),
    /// The service of a connection is shutting down.
    Closing(usize),
    /// The service that is there may have forgotten what it acknowledged: so many entries are written again.
    Replaying(usize),
    /// All of them were.
    Replayed,
    /// A flush failed: so many entries are written again, durably.
    Repairing(Error, usize),
    /// All of them were: nothing is lost.
    Repaired,
    /// It did not succeed; the flush has failed, and the entries are kept.
    NotRepaired(Error),
}

/// How a driver fares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Connections in use.
    pub connections: usize,
    /// Acknowledged writes that are kept.
    pub entries: usize,
    /// Bytes of memory that they hold.
    pub journal: usize,
    /// Requests that wait to be sent.
    pub waiting: usize,
    /// Requests under way.
    pub under_way: usize,
    /// Times the journal was written again after a loss.
    pub replays: u64,
    /// Times it was written again after a failed flush.
    pub repairs: u64,
    /// Times a connection died with a write unanswered.
    pub ghosts: u64,
    /// Bytes read that were used where they had come to, and were never in a buffer.
    pub straight: u64,
    /// How long the storage service took for requests.
    pub latency: Latency,
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) request: Request,
    pub(crate) since: Instant,
    /// It was on a connection that is lost: the same bytes may reach the medium twice, which does no harm.
    pub(crate) again: bool,
    pub(crate) tries: u8,
    pub(crate) not_before: Option<Instant>,
}

/// Writing the journal again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rewriting {
    /// It is being gone through: before, what is under way must have come back.
    pub(crate) started: bool,
    /// Why a repair fails after all.
    pub(crate) failed: Option<Error>,
}

/// One disk. See the crate's documentation for what it promises.
///
/// A caller has one task, or part of one, for each of [`Limits::paths`] connections: it asks [`Driver::dial`] when to
/// connect and to which portal, tells [`Driver::connected`] and [`Driver::disconnected`], and carries bytes as for a
/// [`storage_nbd::Client`]. After each input it calls [`Driver::dispatch`] and fetches all events; [`Driver::take_wakes`]
/// tells which other connections have something to do.
pub struct Driver {
    pub(crate) limits: Limits,
    pub(crate) assume_durable: bool,
    pub(crate) portals_fence: bool,
    /// At which portals something may still be executed, a bit for each.
    pub(crate) haunted: u64,
    pub(crate) paths: Vec<Path>,
    pub(crate) portal: usize,
    pub(crate) phase: Phase,
    pub(crate) rewriting: Rewriting,
    pub(crate) queue: VecDeque<Waiting>,
    /// Nothing in the queue that is to be tried again later is so before this.
    pub(crate) retry: Option<Instant>,
    pub(crate) flushes: Flushes,
    pub(crate) flights: Flights,
    pub(crate) journal: Journal,
    pub(crate) rewrite: Rewrite,
    /// Where requests of dead connections may still change something: closed to all but the same request again.
    pub(crate) quarantine: Quarantine,
    /// Where parts of the journal may still be written: what was to follow them has to wait, also if it was sent before.
    pub(crate) old: Quarantine,
    pub(crate) meter: Meter,
    /// When the meter lets the next request through.
    pub(crate) metered: Option<Instant>,
    /// The export as the disk's users know it.
    pub(crate) known: Option<Export>,
    /// The incarnation of the service that has been given all that the journal holds.
    pub(crate) holder: Option<Text>,
    /// A flush or a durable write has failed since the journal was last written again: the next flush is not to be
    /// believed by itself.
    pub(crate) suspect: bool,
    /// The last flush has failed, so there is no telling when the journal will have room again.
    pub(crate) failing: bool,
    /// A write and a flush of its own are under way, and no other flush may be that could fail for both.
    pub(crate) alone: bool,
    /// Since when nothing was answered, because the connection is lost or new.
    pub(crate) stalled: Option<Instant>,
    /// When a byte was last heard from the service, or something was sent after nothing had been under way.
    pub(crate) heard: Instant,
    /// Names all connections of this driver to a service that fences.
    pub(crate) session: u64,
    /// The number of the last connection.
    pub(crate) connections: u32,
    pub(crate) closing: bool,
    /// Farewell was said on all connections.
    pub(crate) parting: bool,
    /// Connections are to be made anew.
    pub(crate) renewing: bool,
    pub(crate) wakes: u64,
    pub(crate) done: VecDeque<Completion>,
    pub(crate) notes: VecDeque<Event>,
    /// Memory for requests that come back from a lost connection.
    pub(crate) returned: Vec<Waiting>,
    pub(crate) replays: u64,
    pub(crate) repairs: u64,
    pub(crate) ghosts: u64,
    pub(crate) straight: u64,
}

impl Driver {
    /// A driver whose journal keeps its bytes in memory of `journal`. All else that it will ever need is taken here.
    ///
    /// # Errors
    /// When the export's name or the number of slots cannot be.
    pub fn new(
        now: Instant,
        limits: &Limits,
        settings: &Settings<'_>,
        journal: Share,
    ) -> Result<Self, ClientError> {
        let count = limits.paths.clamp(1, crate::paths::MAX_PATHS);
        let paths: Result<Vec<_>, _> = (0..count).map(|index| Path::new(limits, settings, index)).collect();
        let slots = count * limits.nbd.slots;
        Ok(Self {
            limits: *limits,
            assume_durable: settings.assume_durable,
            portals_fence: settings.portals_fence,
            haunted: 0,
            paths: paths?,
            portal: 0,
            phase: Phase::Away,
            rewriting: Rewriting::default(),
            queue: VecDeque::with_capacity(slots),
            retry: None,
            flushes: Flushes::new(limits.nbd.slots),
            flights: Flights::new(slots),
            journal: Journal::new(limits.entries, journal),
            rewrite: Rewrite::new(limits.entries),
            quarantine: Quarantine::new(slots, limits.hold_off),
            old: Quarantine::new(slots, limits.hold_off),
            meter: Meter::new(now, settings.rate),
            metered: None,
            known: None,
            holder: None,
            suspect: false,
            failing: false,
            alone: false,
            stalled: Some(now),
            heard: now,
            session: settings.seed,
            connections: 0,
            closing: false,
            parting: false,
            renewing: false,
            wakes: 0,
            done: VecDeque::with_capacity(slots),
            notes: VecDeque::with_capacity(MAX_NOTES),
            returned: Vec::with_capacity(slots),
            replays: 0,
            repairs: 0,
            ghosts: 0,
            straight: 0,
        })
    }

    /// Take a request over. Its completion comes with [`Event::Completed`].
    pub fn push(&mut self, now: Instant, request: Request) {
        if request.operation == Operation::Flush {
            self.flushes.push(request.cookie);
        } else {
            self.admit(now, request);
        }
    }

    /// Complete as lost what waits to be sent and is named by `is_meant`. What is under way is not touched.
    pub fn lose(&mut self, is_meant: impl Fn(u64) -> bool) {
        let mut index = 0;
        while let Some(waiting) = self.queue.get(index) {
            if !is_meant(waiting.request.cookie) {
                index += 1;
            } else if let Some(waiting) = self.queue.remove(index) {
                let Request { cookie, buffer, .. } = waiting.request;
                self.done.push_back(Completion { cookie, result: Err(Error::Lost), buffer });
            }
        }
        self.flushes.lose(is_meant, &mut self.done);
    }

    /// Whether a request that is named by `is_meant` and may change the disk is under way.
    pub fn is_changing(&self, is_meant: impl Fn(u64) -> bool) -> bool {
        self.flights.changes_of(is_meant).next().is_some()
    }

    /// Drop the connections that carry such requests: what they may still change is closed to newer writes from then on.
    pub fn cut(&mut self, is_meant: impl Fn(u64) -> bool) {
        for path in self.flights.changes_of(is_meant) {
            let path = &mut self.paths[path];
            path.condemned = path.condemned.or(Some(End::Stalled));
        }
        self.wake_all();
    }

    /// Whether there is an event.
    pub fn has_event(&self) -> bool {
        !self.done.is_empty() || !self.notes.is_empty()
    }

    /// The next event, if that is the end of a request: the same as [`Driver::poll_event`] gives.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        if self.notes.is_empty() { self.done.pop_front() } else { None }
    }

    /// The next event, if any.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(note) = self.notes.pop_front() {
            return Some(note);
        }
        self.done.pop_front().map(Event::Completed)
    }

    /// Whether requests have to wait because the service is away, new or silent, or because a dead connection may still
    /// write where they would: none of their commands should wait longer than [`Limits::hold`]. A service that is busy
    /// with something long is not.
    pub fn is_stalled(&self, now: Instant) -> bool {
        let patience = self.limits.nbd.suspect_after;
        let is_waited_for = self.flights.requests() > 0 || self.flushes.is_under_way();
        let is_silent = is_waited_for && now >= self.heard + patience;
        // What failed of late, and is to be tried again in a moment, waits for nobody and has an end of its own.
        let waits = |waiting: &Waiting| waiting.not_before.is_none() && now >= waiting.since + patience;
        let is_held_back = self.queue.iter().any(waits);
        self.stalled.is_some() || self.phase != Phase::Open || is_silent || is_held_back
    }

    /// Whether anything waits for the service.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.flights.requests() == 0 && self.flushes.is_idle()
    }

    /// The number of the portal in use.
    pub fn portal(&self) -> usize {
        self.portal
    }

    /// The export as it is shown, once known.
    pub fn export(&self) -> Option<&Export> {
        self.known.as_ref()
    }

    /// Take no more requests to the service than there are; flush, and when nothing is left to be made durable say
    /// farewell on all connections.
    pub fn close(&mut self) {
        self.closing = true;
        self.renewing = false;
        self.wake_all();
    }

    /// Whether everything that was acknowledged is durable, and nothing is under way.
    pub fn is_drained(&self) -> bool {
        self.journal.is_empty() && self.is_idle()
    }

    /// How long requests took on all connections.
    fn latency(&self) -> Latency {
        let mut latency = Latency::default();
        self.paths.iter().for_each(|path| latency.add_all(path.client.latency()));
        latency
    }

    /// How it fares.
    pub fn status(&self) -> Status {
        Status {
            connections: self.paths.iter().filter(|path| path.is_up()).count(),
            entries: self.journal.len(),
            journal: self.journal.used(),
            waiting: self.queue.len() + self.flushes.waiting(),
            under_way: self.flights.requests(),
            replays: self.replays,
            repairs: self.repairs,
            ghosts: self.ghosts,
            latency: self.latency(),
            straight: self.straight,
        }
    }

    /// Which connections have something to do since this was last asked: a bit for each. When all bits are set, whoever asks
    /// has to look again as well; otherwise he need not for what was given to his own connection.
    pub fn take_wakes(&mut self) -> u64 {
        core::mem::take(&mut self.wakes)
    }

    /// When something is due that is no connection's own.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let mut due = self.stalled.filter(|_| self.is_connected()).map(|since| since + self.limits.hold);
        if self.phase != Phase::Open || self.renewing {
            return due;
        }
        let idle = self.journal.oldest().map(|since| since + self.limits.flush_after);
        due = earliest(due, self.flushes.poll_timeout(idle));
        if !self.queue.is_empty() {
            due = earliest(due, self.quarantine.poll_timeout());
            due = earliest(due, self.old.poll_timeout());
        }
        if self.retry.is_some() && self.paths.iter().any(Path::has_room) {
            due = earliest(due, self.retry);
        }
        earliest(due, self.metered)
    }

    pub(crate) fn note(&mut self, event: Event) {
        if self.notes.len() == MAX_NOTES {
            // A shape that was never told would leave a disk without one.
            let old = self.notes.iter().position(|note| !matches!(note, Event::Ready(_) | Event::Away));
            self.notes.remove(old.unwrap_or(0));
        }
        self.notes.push_back(event);
    }

    pub(crate) fn wake_all(&mut self) {
        self.wakes = u64::MAX;
    }
}
