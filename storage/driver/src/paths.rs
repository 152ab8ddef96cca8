//! The connections: when to dial, what to make of an export that is there, what a dead connection leaves behind.

use crate::dispatch::is_durable;
use crate::driver::{Driver, Event, Limits, Settings, Waiting};
use crate::flights::{Flights, What};
use crate::phase::{Phase, Trigger};
use core::fmt;
use kernel_runtime::Instant;
use storage_block::{Arrived, Delivery, Error, Recipient, Request};
use storage_nbd::{Client, ClientError, Export, Fatal, Mismatch, Reconnect, Retry, validate};

/// The most connections one disk may have, so that a new one can name all others.
pub(crate) const MAX_PATHS: usize = storage_nbd::MAX_ALIVE;

/// When to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// Now, to the portal of this number.
    Now(usize),
    /// Ask again at this time.
    At(Instant),
    /// Ask again when woken: this connection is not needed, or there is one.
    Later,
}

/// Why a connection has to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// What was received, or not, breaks the protocol.
    Fatal(Fatal),
    /// What is there is not the disk that went.
    Mismatch(Mismatch),
    /// It is described otherwise than the disk that went.
    AnotherDisk,
    /// It is writable and cannot make anything durable.
    NotDurable,
    /// It takes requests and answers none.
    Stalled,
    /// Another connection leads to a service that has replaced this one's.
    Replaced,
    /// It would not take back what had been acknowledged.
    Replay(Error),
    /// The service has shut down.
    ShutDown,
    /// Nobody can use a disk of that shape.
    Unusable,
    /// The export has changed, and is to be looked at anew.
    Renewal,
    /// The driver is closed.
    Farewell,
}

impl End {
    /// Whether what is there is not the disk that went, so that somebody has to act.
    pub const fn is_another_disk(&self) -> bool {
        matches!(self, Self::Mismatch(_) | Self::AnotherDisk)
    }

    /// When it makes sense to connect again.
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Fatal(fatal) => fatal.retry(),
            Self::Mismatch(_) | Self::AnotherDisk | Self::NotDurable | Self::Unusable | Self::Replay(_) => {
                Retry::Slowly
            }
            Self::Stalled | Self::Replaced | Self::ShutDown | Self::Renewal | Self::Farewell => Retry::Soon,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fatal(fatal) => fatal.fmt(f),
            Self::Mismatch(mismatch) => mismatch.fmt(f),
            Self::AnotherDisk => f.write_str("the export has another description: it is another disk"),
            Self::NotDurable => f.write_str(
                "the export offers neither FLUSH nor FUA, so nothing written to it could be promised to last",
            ),
            Self::Stalled => f.write_str("no request was answered in time"),
            Self::Replaced => f.write_str("the service was replaced"),
            Self::Replay(error) => write!(f, "acknowledged writes could not be written again: {error}"),
            Self::ShutDown => f.write_str("the server shut down"),
            Self::Unusable => f.write_str("the disk cannot be used as it is"),
            Self::Renewal => f.write_str("the export has changed"),
            Self::Farewell => f.write_str("closed"),
        }
    }
}

/// One connection.
pub(crate) struct Path {
    pub(crate) client: Client,
    reconnect: Reconnect,
    /// A connection stands, perhaps not shaken hands yet.
    connected: bool,
    up: bool,
    /// Where it was dialled.
    portal: usize,
    /// What it is called at a service that fences.
    number: u32,
    /// Requests given to it and not back.
    pub(crate) outstanding: usize,
    pub(crate) condemned: Option<End>,
    /// One that its claim named as alive is gone meanwhile: what that left the claim does not end.
    stale: bool,
}

impl Path {
    pub(crate) fn new(limits: &Limits, settings: &Settings<'_>, index: usize) -> Result<Self, ClientError> {
        Ok(Self {
            client: Client::new(&limits.nbd, settings.nbd)?,
            reconnect: Reconnect::new(settings.portals, settings.seed.wrapping_add(index as u64)),
            connected: false,
            up: false,
            portal: 0,
            number: 0,
            outstanding: 0,
            condemned: None,
            stale: false,
        })
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up
    }

    /// A bit for the portal that it leads to.
    pub(crate) const fn portal_bit(&self) -> u64 {
        1 << (self.portal & 63)
    }

    /// It has done something.
    pub(crate) fn proved(&mut self) {
        self.reconnect.proved();
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Whether a request can be given to it.
    pub(crate) fn has_room(&self) -> bool {
        self.up && self.condemned.is_none() && self.client.free_slots() > 0
    }
}

/// Connections.
impl Driver {
    /// When connection `path` is to be made. After [`Dial::Now`], [`Driver::connected`] or [`Driver::disconnected`] is due.
    pub fn dial(&mut self, path: usize, now: Instant) -> Dial {
        let others_up = self.paths.iter().any(Path::is_up);
        // The first connection finds out whether the service can do with several, and where it is.
        let wanted = if others_up { self.is_shared() } else { path == 0 };
        if self.closing && self.is_drained()
            || self.renewing && others_up
            || !wanted
            || self.paths[path].connected
        {
            return Dial::Later;
        }
        let portal = self.portal;
        let reconnect = &mut self.paths[path].reconnect;
        match (reconnect.poll_dial(now), reconnect.poll_timeout()) {
            (Some(_), _) if others_up => {
                self.paths[path].portal = portal;
                Dial::Now(portal)
            }
            (Some(portal), _) => {
                self.paths[path].portal = portal;
                self.portal = portal;
                Dial::Now(portal)
            }
            (None, Some(at)) => Dial::At(at),
            (None, None) => Dial::Later,
        }
    }

    /// Whether the export may be used over several connections: what one has flushed or written durably is so for all
    /// (protocol section "Transmission flags", CAN_MULTI_CONN).
    fn is_shared(&self) -> bool {
        self.known.as_ref().is_some_and(|export| export.multi_conn && export.incarnation.is_some())
    }

    /// Connection `path` stands.
    pub fn connected(&mut self, path: usize, now: Instant) {
        let mut alive = [0; MAX_PATHS];
        let mut count = 0;
        for other in self.paths.iter().filter(|other| other.connected) {
            alive[count] = other.number;
            count += 1;
        }
        self.connections = self.connections.wrapping_add(1);
        let path = &mut self.paths[path];
        path.number = self.connections;
        path.connected = true;
        path.stale = false;
        path.client.set_place(self.session, path.number, &alive[..count]);
        path.client.connected(now);
    }

    /// Where the next bytes of connection `path` belong. Never empty.
    pub fn space(&mut self, path: usize) -> &mut [u8] {
        self.paths[path].client.space()
    }

    /// `count` bytes were put there.
    ///
    /// # Errors
    /// Why the connection is to be dropped; then [`Driver::disconnected`] is due.
    pub fn received(&mut self, path: usize, now: Instant, count: usize) -> Result<(), End> {
        self.heard = now;
        self.paths[path].client.received(now, count).map_err(End::Fatal)?;
        self.drain(path, now)
    }

    /// Take what connection `path` brings, as it lies there: see [`Client::take`].
    ///
    /// # Errors
    /// As for [`Driver::received`].
    pub fn take(
        &mut self,
        path: usize,
        now: Instant,
        bytes: &[u8],
        recipient: &mut dyn Recipient,
    ) -> Result<usize, End> {
        self.heard = now;
        // What is read may be what the failed flush has dropped.
        let is_believed = !(self.phase == Phase::Repairing);
        // Nor is what was read before one whose last bytes come behind it: then all of it is read again.
        let in_pieces = self.journal.is_empty();
        let mut reads =
            Reads { flights: &mut self.flights, recipient, is_believed, in_pieces, ended: 0, used: 0 };
        let taken = self.paths[path].client.take(now, bytes, &mut reads).map_err(End::Fatal);
        let (ended, used) = (reads.ended, reads.used);
        self.straight += used;
        if ended > 0 {
            self.answered(path, ended, true);
        }
        let taken = taken?;
        self.drain(path, now)?;
        Ok(taken)
    }

    /// Put the next bytes for connection `path` where they are to lie: see [`Client::fill`]. If with these it has served its
    /// purpose, [`Driver::handle_timeout`] says so.
    ///
    /// # Errors
    /// As for [`Driver::transmitted`].
    pub fn fill(&mut self, path: usize, now: Instant, room: &mut [u8]) -> Result<usize, End> {
        let filled = self.paths[path].client.fill(now, room);
        match self.drain(path, now) {
            // What was put there has to be sent before the connection is dropped: it may be the farewell.
            Err(end) if filled > 0 => {
                self.paths[path].condemned.get_or_insert(end);
            }
            drained => drained?,
        }
        Ok(filled)
    }

    /// Whether TLS is to be set up on connection `path` now: see [`Client::wants_tls`].
    pub fn wants_tls(&self, path: usize) -> bool {
        self.paths[path].client.wants_tls()
    }

    /// TLS stands on connection `path`: see [`Client::tls_established`].
    pub fn tls_established(&mut self, path: usize, now: Instant) {
        self.paths[path].client.tls_established(now);
    }

    /// Whether there may be bytes for connection `path`: see [`Client::may_transmit`].
    pub fn may_transmit(&self, path: usize) -> bool {
        self.paths[path].client.may_transmit()
    }

    /// The next bytes for connection `path`.
    pub fn poll_transmit(&mut self, path: usize) -> Option<&[u8]> {
        self.paths[path].client.poll_transmit()
    }

    /// The first `count` of them were taken.
    ///
    /// # Errors
    /// The connection has served its purpose, and is to be dropped.
    pub fn transmitted(&mut self, path: usize, now: Instant, count: usize) -> Result<(), End> {
        self.paths[path].client.transmitted(now, count);
        self.drain(path, now)
    }

    /// When [`Driver::handle_timeout`] is to be called for connection `path`.
    pub fn path_timeout(&self, path: usize) -> Option<Instant> {
        self.paths[path].client.poll_timeout()
    }

    /// The time has come, or any other.
    ///
    /// # Errors
    /// Why the connection is to be dropped.
    pub fn handle_timeout(&mut self, path: usize, now: Instant) -> Result<(), End> {
        self.handle_time(now);
        if let Some(end) = self.paths[path].condemned {
            return Err(end);
        }
        self.paths[path].client.handle_timeout(now).map_err(End::Fatal)?;
        self.drain(path, now)
    }

    /// The time that [`Driver::poll_timeout`] told has come, or any other.
    pub fn handle_time(&mut self, now: Instant) {
        if self.haunted != 0 {
            self.quarantine.expire(now);
            self.old.expire(now);
            if self.quarantine.is_empty() && self.old.is_empty() {
                self.haunted = 0;
            }
        }
        if self.stalled.is_some_and(|since| now >= since + self.limits.hold) {
            // A service may take connections, and even say what it serves, and then never serve it.
            self.stalled = Some(now);
            for path in &mut self.paths {
                path.condemned = path.condemned.or(path.connected.then_some(End::Stalled));
            }
            self.wake_all();
        }
    }

    /// The server's last words on connection `path`, for people.
    pub fn remark(&self, path: usize) -> &str {
        self.paths[path].client.remark()
    }

    /// The shape that [`Event::Ready`] told is of no use: drop all connections and try again slowly.
    pub fn refuse(&mut self) {
        self.condemn(End::Unusable);
    }

    /// Drop all connections.
    pub(crate) fn condemn(&mut self, end: End) {
        for path in self.paths.iter_mut().filter(|path| path.connected) {
            path.condemned = Some(end);
        }
        self.wake_all();
    }

    /// The export is said to have changed: connect anew once nothing is under way, so that it is looked at. Requests wait
    /// meanwhile, and nothing is in doubt.
    pub fn renew(&mut self) {
        self.renewing = self.is_up() && !self.closing;
        self.wake_all();
    }

    /// Whether any connection stands.
    pub fn is_connected(&self) -> bool {
        self.paths.iter().any(Path::is_connected)
    }

    fn drain(&mut self, path: usize, now: Instant) -> Result<(), End> {
        // Almost always what was done has ended nothing, or requests and nothing else.
        while self.paths[path].client.has_event() {
            if let Some(completion) = self.paths[path].client.poll_completion() {
                self.completed(path, now, completion)?;
                continue;
            }
            let Some(event) = self.paths[path].client.poll_event() else { break };
            match event {
                storage_nbd::Event::Ready => self.up(path, now)?,
                storage_nbd::Event::Completed(completion) => self.completed(path, now, completion)?,
                storage_nbd::Event::Suspect => self.note(Event::Suspect(path)),
                storage_nbd::Event::Closing => self.note(Event::Closing(path)),
                storage_nbd::Event::Closed if self.closing => return Err(End::Farewell),
                storage_nbd::Event::Closed if self.renewing => return Err(End::Renewal),
                storage_nbd::Event::Closed => return Err(End::ShutDown),
            }
        }
        Ok(())
    }

    /// The handshake is done: is it the disk that went, and has it all that was acknowledged?
    fn up(&mut self, path: usize, now: Instant) -> Result<(), End> {
        let Some(mut export) = self.paths[path].client.export().copied() else { return Ok(()) };
        let mut geometry = export.geometry;
        if let Some(known) = &self.known {
            match validate(known, &export) {
                Ok(_) => {}
                // Its users are told; what they were told is safe stays so, as long as none of it has to be written again.
                Err(Mismatch::ReadOnly) if self.journal.is_empty() || self.has_all(&export) => {}
                Err(mismatch) => return Err(End::Mismatch(mismatch)),
            }
            if known.description != export.description {
                return Err(End::AnotherDisk);
            }
            // A block size is for life: initiators do not look twice.
            geometry.block_size = known.geometry.block_size;
            geometry.preferred_block = known.geometry.preferred_block;
            geometry.size = export.size - export.size % u64::from(geometry.block_size);
        }
        let durable = geometry.flush || export.native_fua();
        if !geometry.read_only && !durable && !self.assume_durable {
            return Err(End::NotDurable);
        }
        let is_held = !self.quarantine.is_empty() || !self.old.is_empty();
        if export.fenced && self.paths[path].stale && is_held {
            return Err(End::Replaced);
        }
        if export.fenced {
            // Whatever came by a connection that is gone is over.
            self.release();
        }
        let joins = self.paths.iter().any(Path::is_up);
        if joins && (!export.multi_conn || is_another_life(self.known.as_ref(), &export)) {
            self.holder = None;
            // The others lead to something that is gone.
            for other in self.paths.iter_mut().filter(|other| other.connected) {
                other.condemned = Some(End::Replaced);
            }
            self.paths[path].condemned = None;
        }
        self.paths[path].up = true;
        self.paths[path].reconnect.up(now);
        // With the geometry that is shown, which the next export has to match.
        let shown = self.known.as_ref().map(|known| known.geometry);
        export.geometry = geometry;
        self.known = Some(export);
        if shown != Some(geometry) || !joins {
            self.note(Event::Ready(geometry));
        }
        self.resume(joins, now);
        self.wake_all();
        Ok(())
    }

    /// Nothing that dead connections brought can change the disk any more.
    pub(crate) fn release(&mut self) {
        self.quarantine.release();
        self.old.release();
        self.haunted = 0;
    }

    /// Whether the service there has forgotten nothing that was acknowledged.
    fn has_all(&self, export: &Export) -> bool {
        export.incarnation.is_some() && export.incarnation == self.holder
    }

    /// A connection has come up: go on, or first write again what may be forgotten.
    fn resume(&mut self, joins: bool, now: Instant) {
        let incarnation = self.known.as_ref().and_then(|export| export.incarnation);
        let holds = self.known.as_ref().is_some_and(|export| self.has_all(export));
        self.holder = incarnation.filter(|_| holds || self.journal.is_empty());
        if !self.journal.is_empty() && !holds {
            self.replays += 1;
            if !self.flushes.is_under_way() {
                // A repair that was begun is not needed: all is written again anyway.
                self.flushes.unanswered();
            }
            self.note(Event::Replaying(self.journal.len()));
            self.step(Trigger::Forgotten);
        } else if !joins {
            self.step(Trigger::Up);
        }
        // A new connection has proved nothing yet; but only who waits for an answer can wait too long.
        let waits = self.queue.iter().any(|waiting| waiting.again);
        self.stalled = waits.then_some(now);
    }

    /// Connection `path` is gone, or did not come about. What it left without an answer waits to be sent again.
    pub fn disconnected(&mut self, path: usize, now: Instant, retry: Retry) {
        self.paths[path].client.disconnected(now);
        // What was answered before the end has an outcome; only the rest is sent again. And it does not matter any
        // more what such an outcome would have meant for the connection.
        while let Some(event) = self.paths[path].client.poll_event() {
            if let storage_nbd::Event::Completed(completion) = event {
                let _ = self.completed(path, now, completion);
            }
        }
        self.take_back(path, now);
        let lost = &mut self.paths[path];
        let was_up = core::mem::take(&mut lost.up);
        lost.connected = false;
        lost.condemned = None;
        lost.outstanding = 0;
        self.parting = false;
        lost.reconnect.down(now, retry);
        for other in self.paths.iter_mut().filter(|other| other.connected && !other.up) {
            other.stale = true;
        }
        if was_up && !self.paths.iter().any(Path::is_up) {
            self.step(Trigger::Lost);
            self.renewing = false;
            self.stalled.get_or_insert(now);
            self.flushes.unanswered();
            self.note(Event::Away);
        }
        self.wake_all();
    }

    fn take_back(&mut self, path: usize, now: Instant) {
        while let Some(left) = self.paths[path].client.take_unfinished() {
            let room = self.flights.take_room(left.request.cookie);
            let Some(flight) = self.flights.remove(left.request.cookie) else { continue };
            if left.touched && (flight.what == What::Flush || is_durable(left.request.operation)) {
                // It may have failed, and dropped what it was to make durable, though the service lives.
                self.distrust();
            }
            if let Some((offset, length)) = left.ghost() {
                let is_piece = matches!(flight.what, What::Piece(_));
                let quarantine = if is_piece { &mut self.old } else { &mut self.quarantine };
                quarantine.hold(now, offset, length);
                self.haunted |= self.paths[path].portal_bit();
                self.ghosts += 1;
            }
            if let Some(room) = room {
                self.journal.release(room);
            }
            match flight.what {
                What::Request(cookie) => {
                    let request = Request { cookie, operation: flight.operation, ..left.request };
                    let (since, tries) = (flight.since, flight.tries);
                    let again = flight.again || left.touched;
                    self.returned.push(Waiting { request, since, again, tries, not_before: None });
                }
                What::Flush => {
                    self.flushes.unanswered();
                    self.begin_again();
                }
                What::Piece(index) => {
                    if let Some(bytes) = left.request.buffer {
                        self.journal.put_back(index, bytes);
                    }
                    self.begin_again();
                }
            }
        }
        while let Some(waiting) = self.returned.pop() {
            self.queue.push_front(waiting);
        }
        self.settle_flush(now);
    }

    /// Not all that is written again has arrived: from the beginning.
    pub(crate) fn begin_again(&mut self) {
        self.rewriting.started = false;
    }
}

/// The reads of the disk, by the cookies of those who made them.
struct Reads<'a> {
    flights: &'a mut Flights,
    recipient: &'a mut dyn Recipient,
    is_believed: bool,
    /// A read may be given before it is whole.
    in_pieces: bool,
    /// How many have ended by being delivered.
    ended: usize,
    /// Bytes that were used.
    used: u64,
}

impl Recipient for Reads<'_> {
    fn deliver(&mut self, cookie: u64, arrived: &Arrived<'_>) -> Delivery {
        let is_given = self.is_believed && (arrived.is_last || self.in_pieces);
        let Some(own) = self.flights.read(cookie).filter(|_| is_given) else {
            return Delivery::Used(0);
        };
        let delivery = self.recipient.deliver(own, arrived);
        match delivery {
            Delivery::Used(count) => self.used += u64::from(count),
            Delivery::Ended => {
                self.flights.end_read(cookie);
                self.ended += 1;
                self.used += u64::from(arrived.length());
            }
        }
        delivery
    }
}

/// Whether the service has proved that it is another one than before.
fn is_another_life(before: Option<&Export>, now: &Export) -> bool {
    let before = before.and_then(|export| export.incarnation);
    before.zip(now.incarnation).is_some_and(|(before, now)| before != now)
}
