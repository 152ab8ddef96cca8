//! A disk's way to its bytes: the tasks that keep its connections to the storage service.
//!
//! What is decided about requests, journal and lost connections is the [`Driver`]'s; here its bytes are carried and its
//! events told. A volume has one task for each connection it may have; the first also keeps house for all of them: it
//! ends commands that waited too long with BUSY, so that an initiator never has to abort one, and tells what happened.

mod line;

use crate::carrier::{Carrier, Lost, Peer};
use crate::control::VolumeState;
use crate::shared::{Shared, VolumeIndex};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::net::SocketAddrV4;
use core::task::{Context, Poll};
use core::time::Duration;
use kernel_runtime::{Instant, Signal, earliest, with_deadline};
use line::{Alarm, Line, lost};
use network::Stream;
use storage_block::{Request, Share};
use storage_driver::{Dial, Driver, Event, Rate, Settings, Status};
use storage_nbd::{Export, Retry, Tls, Writer};

/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a withdrawn volume may take to make durable what was acknowledged, and to say farewell.
const FAREWELL: Duration = Duration::from_secs(10);
/// How often commands are looked at for having waited too long.
const LOOK: Duration = Duration::from_millis(500);
/// A task without a connection sleeps at least so long.
const LEAST_SLEEP: Duration = Duration::from_millis(1);
/// Nothing is due for longer than this.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// How long a server may take to hear why its connection ends.
const LAST_WORD: Duration = Duration::from_millis(200);
/// Passes over both directions before other tasks have their turn. One carries at most what the connection's own memory
/// holds, and as many requests as the engine has slots.
const PASSES: usize = 4;

/// A place for a volume, and what its tasks and the rest of storage share.
pub(crate) struct Volume {
    /// One for each connection: raised when it may have something to do.
    signals: Vec<Signal>,
    inner: RefCell<Inner>,
}

struct Inner {
    assignment: Option<Assignment>,
    driver: Option<Driver>,
    state: VolumeState,
    size: Option<u64>,
    /// Since when there is no connection.
    away: Option<Instant>,
    /// Until when a withdrawn volume may be drained.
    farewell: Option<Instant>,
    /// When commands are next looked at for having waited too long.
    next_look: Option<Instant>,
    /// Counts the disks that were here.
    epoch: u64,
}

/// What a volume's tasks are to connect to.
#[derive(Clone)]
pub(crate) struct Assignment {
    /// Addresses that lead to the disk, in the order of preference.
    pub(crate) portals: Vec<SocketAddrV4>,
    pub(crate) export: String,
    /// In TLS and not at all otherwise.
    pub(crate) tls: bool,
    /// Whom the server's certificate is for, if not for the address that is connected to.
    pub(crate) server_name: Option<String>,
    /// The pool memory its commands may hold.
    pub(crate) share: Share,
    /// The memory for parameter lists that is its own.
    pub(crate) lists: Share,
    /// Which writer of the disk this is; `None` if it only reads.
    pub(crate) generation: Option<u64>,
    pub(crate) portals_fence: bool,
    pub(crate) rate: Rate,
    pub(crate) assume_durable: bool,
    /// How long its commands wait for a lost service before they end with BUSY.
    pub(crate) hold: Duration,
    /// After how long without a service they end with NOT READY.
    pub(crate) fail_after: Option<Duration>,
}

/// A disk as somebody sees it who only looks.
pub(crate) struct Watched {
    pub(crate) address: SocketAddrV4,
    pub(crate) name: String,
    pub(crate) known: Export,
    /// Who is there, if TLS is spoken.
    pub(crate) peer: Option<Peer>,
}

impl Assignment {
    /// Who is to be at `address`, if TLS is spoken.
    fn peer(&self, shared: &Shared, address: SocketAddrV4) -> Option<Peer> {
        let tls = shared.tls.as_ref().filter(|_| self.tls)?;
        Some(Peer::new(tls, self.server_name.as_deref(), address))
    }
}

impl Volume {
    pub(crate) fn new(paths: usize) -> Self {
        let inner = Inner {
            assignment: None,
            driver: None,
            state: VolumeState::Connecting,
            size: None,
            away: None,
            farewell: None,
            next_look: None,
            epoch: 0,
        };
        Self { signals: (0..paths.max(1)).map(|_| Signal::new()).collect(), inner: RefCell::new(inner) }
    }

    /// Give the place a disk.
    ///
    /// # Errors
    /// When the export's name cannot be one; the reason is for people.
    pub(crate) fn assign(&self, shared: &Shared, assignment: Assignment) -> Result<(), String> {
        let limits = storage_driver::Limits {
            nbd: shared.limits.nbd,
            paths: self.signals.len(),
            entries: shared.limits.entries,
            hold: assignment.hold,
            hold_off: shared.limits.hold_off,
            flush_after: shared.limits.flush_after,
        };
        let settings = Settings {
            nbd: storage_nbd::Settings {
                tls: if assignment.tls { Tls::Required } else { Tls::Off },
                writer: assignment.generation.map(|generation| Writer { generation, owner: &shared.owner }),
                ..storage_nbd::Settings::of(&assignment.export)
            },
            portals: assignment.portals.len(),
            seed: shared.seed(),
            rate: assignment.rate,
            portals_fence: assignment.portals_fence,
            assume_durable: assignment.assume_durable,
        };
        let now = shared.clock.now();
        let driver = Driver::new(now, &limits, &settings, shared.journals.part());
        let mut inner = self.inner.borrow_mut();
        inner.driver = Some(driver.map_err(|error| error.to_string())?);
        inner.assignment = Some(assignment);
        inner.state = VolumeState::Connecting;
        inner.size = None;
        inner.away = Some(now);
        inner.next_look = Some(now);
        inner.epoch += 1;
        self.raise(u64::MAX);
        Ok(())
    }

    /// Take the disk away. What was acknowledged is made durable first, if the service is there.
    pub(crate) fn withdraw(&self, now: Instant) {
        let mut inner = self.inner.borrow_mut();
        inner.farewell = Some(now + FAREWELL);
        if let Some(driver) = &mut inner.driver {
            driver.close();
        }
        self.raise(u64::MAX);
    }

    /// Whether the disk that is here, or is still being withdrawn, is this one, and one of the two is written to.
    pub(crate) fn conflicts(&self, portals: &[SocketAddrV4], export: &str, writes: bool) -> bool {
        let inner = self.inner.borrow();
        inner.assignment.as_ref().is_some_and(|here| {
            let is_same = here.export == export && here.portals.iter().any(|portal| portals.contains(portal));
            is_same && (writes || here.generation.is_some())
        })
    }

    pub(crate) fn is_free(&self) -> bool {
        self.inner.borrow().driver.is_none()
    }

    pub(crate) fn share(&self) -> Option<Share> {
        self.inner.borrow().assignment.as_ref().map(|assignment| assignment.share.clone())
    }

    pub(crate) fn lists(&self) -> Option<Share> {
        self.inner.borrow().assignment.as_ref().map(|assignment| assignment.lists.clone())
    }

    /// How it fares: its state, its size once known, and the figures of its driver.
    pub(crate) fn state(&self) -> (VolumeState, Option<u64>, Status) {
        let inner = self.inner.borrow();
        let status = inner.driver.as_ref().map(Driver::status).unwrap_or_default();
        (inner.state.clone(), inner.size, status)
    }

    pub(crate) fn push(&self, now: Instant, request: Request) {
        let Some(driver) = &mut self.inner.borrow_mut().driver else { return };
        driver.push(now, request);
        match driver.take_wakes() {
            // It waits: who is there gives it to whichever connection is the best, and wakes that one.
            0 => self.signals[driver.host()].raise(),
            paths => self.raise(paths),
        }
    }

    /// Take back what waits to be sent and is named by `is_meant`: it completes as lost.
    pub(crate) fn lose(&self, is_meant: impl Fn(u64) -> bool) {
        if let Some(driver) = &mut self.inner.borrow_mut().driver {
            driver.lose(is_meant);
        }
        self.raise(1);
    }

    /// Whether a request that is named by `is_meant` and may change the disk is under way.
    pub(crate) fn is_changing(&self, is_meant: impl Fn(u64) -> bool) -> bool {
        self.inner.borrow().driver.as_ref().is_some_and(|driver| driver.is_changing(is_meant))
    }

    /// Drop the connections that carry a request which is named by `is_meant`.
    pub(crate) fn cut(&self, is_meant: impl Fn(u64) -> bool) {
        if let Some(driver) = &mut self.inner.borrow_mut().driver {
            driver.cut(is_meant);
        }
        self.raise(u64::MAX);
    }

    /// Where a look at the export can be had without disturbing it, and what is known of it.
    pub(crate) fn watched(&self, shared: &Shared) -> Option<Watched> {
        let inner = self.inner.borrow();
        let (driver, assignment) = (inner.driver.as_ref()?, inner.assignment.as_ref()?);
        let known = *driver.export().filter(|_| driver.is_up())?;
        let address = *assignment.portals.get(driver.portal())?;
        let peer = assignment.peer(shared, address);
        Some(Watched { address, name: assignment.export.clone(), known, peer })
    }

    /// The export is not any more what it was: look at it anew.
    pub(crate) fn renew(&self) {
        if let Some(driver) = &mut self.inner.borrow_mut().driver {
            driver.renew();
        }
        self.raise(u64::MAX);
    }

    fn raise(&self, paths: u64) {
        for (index, signal) in self.signals.iter().enumerate() {
            if paths >> index & 1 != 0 {
                signal.raise();
            }
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Driver) -> T) -> Option<T> {
        self.inner.borrow_mut().driver.as_mut().map(f)
    }

    fn epoch(&self) -> u64 {
        self.inner.borrow().epoch
    }
}

/// The task of one connection of a volume: serve one disk after another, for ever.
pub(crate) async fn run(shared: Rc<Shared>, index: VolumeIndex, path: usize, mut stream: Stream) {
    let link = Link { shared, index, path };
    loop {
        let (address, epoch) = link.pause().await;
        match link.connection(&mut stream, address, epoch).await {
            Some(lost) => {
                if lost.says_farewell {
                    let until = link.now() + LAST_WORD;
                    let _heard = with_deadline(&link.shared.clock.clone(), until, stream.finish()).await;
                }
                stream.abort();
                if link.volume().epoch() == epoch {
                    link.ended(address, &lost);
                }
            }
            None => stream.abort(),
        }
    }
}

/// One connection of a volume.
struct Link {
    shared: Rc<Shared>,
    index: VolumeIndex,
    path: usize,
}

impl Link {
    fn volume(&self) -> &Volume {
        &self.shared.volumes[self.index]
    }

    fn now(&self) -> Instant {
        self.shared.clock.now()
    }

    /// Wait until this connection is to be made, and tell to where.
    async fn pause(&self) -> (SocketAddrV4, u64) {
        loop {
            let now = self.now();
            self.volume().with(|driver| {
                driver.handle_time(now);
                driver.dispatch(now)
            });
            self.tend(now);
            let due = match self.volume().with(|driver| driver.dial(self.path, now)) {
                Some(Dial::Now(portal)) => {
                    let inner = self.volume().inner.borrow();
                    let portals = inner.assignment.as_ref().map(|assignment| &assignment.portals);
                    if let Some(&address) = portals.and_then(|portals| portals.get(portal)) {
                        return (address, inner.epoch);
                    }
                    now + CONNECT
                }
                Some(Dial::At(at)) => at,
                Some(Dial::Later) | None => now + LONGEST_SLEEP,
            };
            // What is due and cannot be done yet must not keep this task from ever waiting.
            let due = self.due(false).map_or(due, |own| own.min(due)).max(now + LEAST_SLEEP);
            let clock = self.shared.clock.clone();
            // Early when something was queued or the volume withdrawn.
            let _early = with_deadline(&clock, due, self.volume().signals[self.path].wait()).await;
        }
    }

    /// When something is due that is no connection's own, or is this one's if there is one.
    fn due(&self, is_connected: bool) -> Option<Instant> {
        let inner = self.volume().inner.borrow();
        let driver = inner.driver.as_ref()?;
        let own = if is_connected { driver.path_timeout(self.path) } else { None };
        let due = earliest(earliest(own, driver.poll_timeout()), inner.farewell);
        let looks = !driver.is_idle() || !driver.is_up();
        if looks { earliest(due, inner.next_look) } else { due }
    }

    /// Connect, and serve until the connection is over. Answers why, unless the volume is gone.
    async fn connection(&self, stream: &mut Stream, address: SocketAddrV4, epoch: u64) -> Option<Lost> {
        let clock = self.shared.clock.clone();
        let connected = with_deadline(&clock, self.now() + CONNECT, stream.connect(address)).await;
        if self.volume().epoch() != epoch {
            // The place is another disk's by now, and this is not the way to it.
            return None;
        }
        match connected {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Some(Lost::soon(error)),
            Err(_) => return Some(Lost::soon("no answer")),
        }
        let now = self.now();
        self.volume().with(|driver| driver.connected(self.path, now))?;
        let peer = {
            let inner = self.volume().inner.borrow();
            inner.assignment.as_ref().and_then(|assignment| assignment.peer(&self.shared, address))
        };
        let mut carrier = Carrier::new(peer);
        let mut alarm = Alarm::new(&clock);
        poll_fn(|cx| {
            if self.volume().epoch() != epoch {
                return Poll::Ready(None);
            }
            self.pump(cx, &mut carrier, stream, &mut alarm)
        })
        .await
    }

    /// Carry requests down and completions up until nothing moves.
    fn pump(
        &self,
        cx: &mut Context<'_>,
        carrier: &mut Carrier,
        stream: &Stream,
        alarm: &mut Alarm,
    ) -> Poll<Option<Lost>> {
        let now = self.now();
        let signal = &self.volume().signals[self.path];
        // Whatever it was raised for until now, this pass sees.
        let _seen = signal.poll_lower(cx);
        carrier.begin_turn();
        for _ in 0..PASSES {
            match self.pass(now, carrier, stream) {
                None => return Poll::Ready(None),
                Some(Err(reason)) => return Poll::Ready(Some(reason)),
                Some(Ok(_)) if carrier.has_had_its_turn() => break,
                Some(Ok(true)) => {}
                Some(Ok(false)) => {
                    carrier.register(cx, stream);
                    if !alarm.rings(cx, now, self.due(true)) && signal.poll_lower(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Once each way. Answers whether there may be more to do, or why the connection is over; `None` when the volume is gone.
    fn pass(&self, now: Instant, carrier: &mut Carrier, stream: &Stream) -> Option<Result<bool, Lost>> {
        let mut inner = self.volume().inner.borrow_mut();
        let driver = inner.driver.as_mut()?;
        let carried = driver
            .handle_timeout(self.path, now)
            .map_err(|end| lost(driver, self.path, end))
            .and_then(|()| self.carry(driver, now, carrier, stream));
        let wakes = driver.take_wakes();
        let is_quiet = !driver.has_event() && wakes & !(1 << self.path) == 0;
        if is_quiet && inner.farewell.is_none() && inner.next_look.is_some_and(|at| now < at) {
            return Some(carried);
        }
        drop(inner);
        let again = self.tend_to(now, wakes);
        Some(carried.map(|more| more | again))
    }

    fn carry(
        &self,
        driver: &mut Driver,
        now: Instant,
        carrier: &mut Carrier,
        stream: &Stream,
    ) -> Result<bool, Lost> {
        let (path, shared) = (self.path, &*self.shared);
        let received = carrier.receive(now, &mut Line { driver, path, now, shared }, stream);
        // What went straight has left its buffers behind.
        shared.wake_starved();
        received?;
        // One thing may make another possible: the end of a flush a write, say.
        let more = (0..PASSES).all(|_| driver.dispatch(now));
        let sent = carrier.transmit(&mut Line { driver, path, now, shared }, stream)?;
        // An answer that came too early counts once all is sent.
        Ok(sent && driver.dispatch(now) || more)
    }

    /// The connection is over, or did not come about.
    fn ended(&self, address: SocketAddrV4, lost: &Lost) {
        let now = self.now();
        let (closing, is_up) = {
            let inner = &mut *self.volume().inner.borrow_mut();
            let Some(driver) = &mut inner.driver else { return };
            driver.disconnected(self.path, now, lost.retry);
            let is_up = driver.is_up();
            if !is_up {
                inner.state = match lost.retry {
                    Retry::Soon => VolumeState::Connecting,
                    Retry::Slowly => VolumeState::Down(format!("{address}: {}", lost.reason)),
                };
            }
            (inner.farewell.is_some(), is_up)
        };
        if !closing {
            log::warn!("volume {}: {address}: {}", self.index, lost.reason);
        }
        if lost.is_another_disk && !is_up {
            self.shared.volume_replaced(self.index);
        }
        // What nobody waits for is not sent again.
        self.shared.lose_abandoned(self.index);
        self.tend(now);
    }

    /// Keep house: tell what happened, wake who has something to do, end what waited too long. Answers whether this task
    /// has something to do.
    fn tend(&self, now: Instant) -> bool {
        self.tend_to(now, 0)
    }

    /// The same, with the connections that have something to do already.
    fn tend_to(&self, now: Instant, wakes: u64) -> bool {
        self.tell(now);
        let (looks, parts) = {
            let inner = self.volume().inner.borrow();
            (inner.next_look.is_none_or(|at| at <= now), inner.farewell.is_some())
        };
        if looks {
            self.look(now);
            self.tell(now);
        }
        if parts {
            self.part(now);
        }
        let wakes = wakes | self.volume().with(Driver::take_wakes).unwrap_or(0);
        // What was given to this task's connection it has seen.
        self.volume().raise(wakes & !(1 << self.path));
        wakes == u64::MAX
    }

    fn tell(&self, now: Instant) {
        let mut told = false;
        loop {
            while let Some(completion) = self.volume().with(Driver::poll_completion).flatten() {
                told = true;
                self.shared.complete(completion);
            }
            match self.volume().with(Driver::poll_event).flatten() {
                None => break,
                Some(Event::Completed(completion)) => self.shared.complete(completion),
                Some(other) => self.note(now, &other),
            }
            told = true;
        }
        if told {
            self.shared.wake_starved();
        }
    }

    fn note(&self, now: Instant, event: &Event) {
        let index = self.index;
        match event {
            Event::Completed(_) => {}
            Event::Ready(geometry) => self.ready(now, *geometry),
            Event::Away => {
                self.volume().inner.borrow_mut().away.get_or_insert(now);
                self.shared.volume_lost(index);
            }
            Event::Suspect(path) => log::warn!("volume {index}: connection {path} is silent"),
            Event::Closing(path) => log::info!("volume {index}: the server of connection {path} shuts down"),
            Event::Replaying(entries) => {
                log::warn!("volume {index}: {entries} acknowledged writes are written again");
            }
            Event::Replayed => log::info!("volume {index}: all acknowledged writes are written again"),
            Event::Repairing(error, entries) => {
                log::warn!("volume {index}: a flush failed ({error}): {entries} writes are written again");
            }
            Event::Repaired => log::info!("volume {index}: what the flush failed for is durable"),
            Event::NotRepaired(error) => {
                log::error!("volume {index}: acknowledged writes cannot be made durable: {error}");
            }
        }
    }

    fn ready(&self, now: Instant, geometry: storage_block::Geometry) {
        if let Err(error) = self.shared.volume_ready(self.index, geometry) {
            self.volume().inner.borrow_mut().state = VolumeState::Down(error);
            self.volume().with(|driver| driver.refuse());
            return;
        }
        let mut inner = self.volume().inner.borrow_mut();
        inner.state = VolumeState::Ready;
        inner.size = Some(geometry.size);
        inner.away = None;
        let after = now.since(Instant::ZERO).as_millis();
        log::info!("volume {}: ready, {} bytes (at {after} ms)", self.index, geometry.size);
    }

    /// The time has come to see whether commands have waited too long, or the service been away for longer than its users are to wait.
    fn look(&self, now: Instant) {
        let (hold, away, fail_after) = {
            let mut inner = self.volume().inner.borrow_mut();
            inner.next_look = Some(now + LOOK);
            let (Some(driver), Some(assignment)) = (&inner.driver, &inner.assignment) else { return };
            if driver.is_up() && !driver.is_stalled(now) {
                return;
            }
            (assignment.hold, inner.away, assignment.fail_after)
        };
        self.shared.give_up_old(self.index, now, hold);
        let fails = fail_after.zip(away).is_some_and(|(after, since)| now >= since + after);
        if fails {
            self.shared.volume_failed(self.index);
        }
    }

    /// A withdrawn volume whose time has come is no more.
    fn part(&self, now: Instant) {
        let mut driver = {
            let inner = &mut *self.volume().inner.borrow_mut();
            let (Some(driver), Some(until)) = (&inner.driver, inner.farewell) else { return };
            let is_over = driver.is_drained() && !driver.is_connected();
            if !is_over && now < until {
                return;
            }
            inner.farewell = None;
            inner.assignment = None;
            let Some(driver) = inner.driver.take() else { return };
            driver
        };
        let left = driver.status().entries;
        if left > 0 {
            log::error!("volume {}: withdrawn with {left} acknowledged writes not made durable", self.index);
        }
        // Commands that nobody waits for any more have places all the same, which they leave only with an outcome.
        for path in 0..self.volume().signals.len() {
            driver.disconnected(path, now, Retry::Soon);
        }
        driver.lose(|_| true);
        while let Some(event) = driver.poll_event() {
            if let Event::Completed(completion) = event {
                self.shared.complete(completion);
            }
        }
        self.volume().raise(u64::MAX);
    }
}
