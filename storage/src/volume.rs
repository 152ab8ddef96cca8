//! A disk's way to its bytes: the task that keeps one NBD connection to the storage service.
//!
//! Requests wait in the volume's queue while there is no connection or no free slot. When a connection is lost, the
//! requests it left without an outcome go back to the head of the queue and are sent again on the next one. That
//! twin is harmless by itself: the disk's commands keep the range of a write until its completion, so nothing that
//! overlaps it has been let past. What is *not* harmless is a newer write to a range that the old connection may
//! still be writing; such a write waits until [`Limits::hold_off`](crate::Limits::hold_off) has passed.

use crate::VolumeState;
use crate::shared::{Shared, VolumeIndex};
use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::{Future, poll_fn};
use core::net::SocketAddrV4;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use kernel_runtime::{Instant, Signal, Sleep, with_deadline};
use network::{Stream, TryRead};
use storage_block::{Completion, Error, Request, Share};
use storage_nbd::{Client, ClientError, Event, Export, Fatal, Quarantine, Reconnect, Retry, validate};

/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long a withdrawn volume may take to say farewell to its server.
const FAREWELL: Duration = Duration::from_secs(2);
/// Passes over both directions before other tasks have their turn.
const PASSES: usize = 16;

/// A place for a volume, and what its task and the rest of storage share.
pub(crate) struct Volume {
    /// Raised when a request was queued or the assignment changed.
    signal: Signal,
    inner: RefCell<Inner>,
}

struct Inner {
    assignment: Option<Assignment>,
    /// Counts the assignments, so that a task that still ends an earlier one does not take the next one's part.
    generation: u64,
    /// Requests not yet given to the engine. No longer than the parts of all running commands.
    waiting: VecDeque<Waiting>,
    state: VolumeState,
    size: Option<u64>,
}

/// A request in a volume's queue.
struct Waiting {
    request: Request,
    /// It was sent on a connection that is lost: the same bytes may reach the medium twice, which does no harm.
    again: bool,
}

/// What a volume's task is to connect to.
#[derive(Clone)]
pub(crate) struct Assignment {
    pub(crate) server: SocketAddrV4,
    pub(crate) export: String,
    /// The pool memory its commands may hold.
    pub(crate) share: Share,
}

impl Volume {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            assignment: None,
            generation: 0,
            waiting: VecDeque::new(),
            state: VolumeState::Connecting,
            size: None,
        };
        Self { signal: Signal::new(), inner: RefCell::new(inner) }
    }

    /// Give the task something to do, or with `None` nothing any more.
    pub(crate) fn assign(&self, assignment: Option<Assignment>) {
        let mut inner = self.inner.borrow_mut();
        inner.assignment = assignment;
        inner.generation += 1;
        inner.state = VolumeState::Connecting;
        inner.size = None;
        self.signal.raise();
    }

    pub(crate) fn is_free(&self) -> bool {
        self.inner.borrow().assignment.is_none()
    }

    pub(crate) fn share(&self) -> Option<Share> {
        self.inner.borrow().assignment.as_ref().map(|assignment| assignment.share.clone())
    }

    pub(crate) fn state(&self) -> (VolumeState, Option<u64>) {
        let inner = self.inner.borrow();
        (inner.state.clone(), inner.size)
    }

    pub(crate) fn push(&self, request: Request) {
        self.inner.borrow_mut().waiting.push_back(Waiting { request, again: false });
        self.signal.raise();
    }

    fn is_ready(&self) -> bool {
        self.inner.borrow().state == VolumeState::Ready
    }

    fn put_first(&self, request: Request) {
        self.inner.borrow_mut().waiting.push_front(Waiting { request, again: true });
    }

    fn take_any(&self) -> Option<Request> {
        self.inner.borrow_mut().waiting.pop_front().map(|waiting| waiting.request)
    }

    fn set_state(&self, state: VolumeState) {
        self.inner.borrow_mut().state = state;
    }

    /// The next request that nothing holds back.
    fn next(&self, quarantine: &Quarantine, now: Instant) -> Option<Request> {
        let mut inner = self.inner.borrow_mut();
        let may_go = |Waiting { request, again }: &Waiting| {
            *again
                || !request.operation.changes_medium()
                || quarantine.blocked(now, request.offset, request.length).is_none()
        };
        let index = inner.waiting.iter().position(may_go)?;
        inner.waiting.remove(index).map(|waiting| waiting.request)
    }
}

/// Why a connection is over.
enum End {
    /// The volume was withdrawn.
    Withdrawn,
    /// The connection was lost, or none came about.
    Lost(String, Retry),
}

/// The volume's task: serve one assignment after another, for ever.
pub(crate) async fn run(shared: Rc<Shared>, index: VolumeIndex, mut stream: Stream) {
    loop {
        let volume = &shared.volumes[index];
        let (assignment, generation) = {
            let inner = volume.inner.borrow();
            (inner.assignment.clone(), inner.generation)
        };
        match assignment {
            None => volume.signal.wait().await,
            Some(assignment) => match Server::new(shared.clone(), index, generation, &assignment) {
                Ok(server) => server.serve(&mut stream).await,
                Err(error) => {
                    volume.set_state(VolumeState::Down(error.to_string()));
                    volume.signal.wait().await;
                }
            },
        }
    }
}

/// One assignment being served.
struct Server {
    shared: Rc<Shared>,
    index: VolumeIndex,
    generation: u64,
    address: SocketAddrV4,
    client: Client,
    quarantine: Quarantine,
    reconnect: Reconnect,
    /// The export as the initiators know it.
    known: Option<Export>,
    /// Since when no request was answered because the connection is lost or new, unless those that wait were given up
    /// already.
    waiting_since: Option<Instant>,
}

impl Server {
    fn new(
        shared: Rc<Shared>,
        index: VolumeIndex,
        generation: u64,
        assignment: &Assignment,
    ) -> Result<Self, ClientError> {
        let now = shared.clock.now();
        Ok(Self {
            client: Client::new(&shared.limits.nbd, &assignment.export)?,
            quarantine: Quarantine::new(shared.limits.nbd.slots, shared.limits.hold_off),
            reconnect: Reconnect::new(1, shared.seed()),
            address: assignment.server,
            known: None,
            waiting_since: Some(now),
            shared,
            index,
            generation,
        })
    }

    fn volume(&self) -> &Volume {
        &self.shared.volumes[self.index]
    }

    fn now(&self) -> Instant {
        self.shared.clock.now()
    }

    /// Whether this assignment is over; the place may have another one by now, which is not ours to serve.
    fn is_withdrawn(&self) -> bool {
        self.volume().inner.borrow().generation != self.generation
    }

    async fn serve(mut self, stream: &mut Stream) {
        loop {
            self.pause().await;
            let end = self.connection(stream).await;
            stream.abort();
            let now = self.now();
            self.client.disconnected(now);
            // What was answered before the end has an outcome; only the rest is sent again.
            while let Some(Event::Completed(completion)) = self.client.poll_event() {
                self.shared.complete(completion);
            }
            match end {
                End::Lost(reason, retry) if !self.is_withdrawn() => self.lost(now, &reason, retry),
                End::Lost(..) | End::Withdrawn => return self.give_up(),
            }
        }
    }

    /// Connect, and serve until the connection is over.
    async fn connection(&mut self, stream: &mut Stream) -> End {
        if self.is_withdrawn() {
            return End::Withdrawn;
        }
        let clock = self.shared.clock.clone();
        match with_deadline(&clock, self.now() + CONNECT, stream.connect(self.address)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return End::Lost(format!("{}: {error}", self.address), Retry::Soon),
            Err(_) => return End::Lost(format!("{} does not answer", self.address), Retry::Soon),
        }
        self.client.connected(self.now());
        let mut sleep = clock.sleep_until(Instant::ZERO);
        let mut farewell = None;
        poll_fn(|cx| self.pump(cx, stream, &mut sleep, &mut farewell)).await
    }

    /// Carry requests down and completions up until nothing moves.
    fn pump(
        &mut self,
        cx: &mut Context<'_>,
        stream: &Stream,
        sleep: &mut Sleep,
        farewell: &mut Option<Instant>,
    ) -> Poll<End> {
        let now = self.now();
        if let Err(fatal) = self.client.handle_timeout(now) {
            return Poll::Ready(self.ended(fatal));
        }
        // Or their time, once it has come, would wake us for ever.
        self.quarantine.expire(now);
        if self.hold_until().is_some_and(|until| now >= until) {
            // A server may take connections, and even say what it serves, and then never serve it.
            return Poll::Ready(End::soon("no request was answered in time"));
        }
        if self.is_withdrawn() {
            self.client.disconnect();
            if now >= *farewell.get_or_insert(now + FAREWELL) {
                return Poll::Ready(End::Withdrawn);
            }
        }
        for _ in 0..PASSES {
            match self.pass(now, stream) {
                Err(end) => return Poll::Ready(end),
                Ok(true) => {}
                Ok(false) => {
                    stream.register(cx);
                    let farewell = *farewell;
                    let (client, quarantine) = (self.client.poll_timeout(), self.quarantine.poll_timeout());
                    let due = [client, quarantine, self.hold_until(), farewell];
                    sleep.reset(due.into_iter().flatten().min().unwrap_or(now + FAREWELL));
                    let asked = self.volume().signal.poll_lower(cx).is_ready();
                    let due = Pin::new(&mut *sleep).poll(cx).is_ready();
                    if !asked && !due {
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Once each way. Answers whether anything moved.
    fn pass(&mut self, now: Instant, stream: &Stream) -> Result<bool, End> {
        let submitted = self.submit(now);
        let received = self.receive(now, stream)?;
        let drained = self.drain(now)?;
        let transmitted = self.transmit(now, stream)?;
        Ok(submitted | received | drained | transmitted)
    }

    fn submit(&mut self, now: Instant) -> bool {
        let mut moved = false;
        while self.client.free_slots() > 0 {
            let Some(request) = self.volume().next(&self.quarantine, now) else { break };
            moved = true;
            if let Err(request) = self.client.submit(now, request) {
                self.volume().put_first(request);
                break;
            }
        }
        moved
    }

    fn receive(&mut self, now: Instant, stream: &Stream) -> Result<bool, End> {
        let mut moved = false;
        loop {
            match stream.try_read(self.client.space()) {
                Ok(TryRead::Bytes(count)) => {
                    moved = true;
                    self.client.received(now, count).map_err(|fatal| self.ended(fatal))?;
                }
                Ok(TryRead::Empty) => return Ok(moved),
                Ok(TryRead::Finished) => return Err(End::soon("the server closed the connection")),
                Err(reset) => return Err(End::soon(reset)),
            }
        }
    }

    fn transmit(&mut self, now: Instant, stream: &Stream) -> Result<bool, End> {
        let mut moved = false;
        while let Some(bytes) = self.client.poll_transmit() {
            let count = stream.try_write(bytes).map_err(End::soon)?;
            if count == 0 {
                break;
            }
            self.client.transmitted(now, count);
            moved = true;
        }
        Ok(moved)
    }

    fn drain(&mut self, now: Instant) -> Result<bool, End> {
        let mut moved = false;
        while let Some(event) = self.client.poll_event() {
            moved = true;
            match event {
                Event::Ready => self.ready(now)?,
                Event::Completed(completion) => {
                    self.waiting_since = None;
                    self.shared.complete(completion);
                }
                Event::Suspect => log::warn!("volume {}: {} is silent", self.index, self.address),
                Event::Closing => log::info!("volume {}: {} is shutting down", self.index, self.address),
                Event::Closed if self.is_withdrawn() => return Err(End::Withdrawn),
                Event::Closed => return Err(End::soon("the server shut down")),
            }
        }
        if moved {
            self.shared.wake_starved();
        }
        Ok(moved)
    }

    /// The handshake is done: it is the disk that the initiators know, or their first sight of it.
    fn ready(&mut self, now: Instant) -> Result<(), End> {
        let Some(export) = self.client.export().copied() else { return Ok(()) };
        let mut geometry = export.geometry;
        if let Some(known) = &self.known {
            validate(known, &export).map_err(|mismatch| End::Lost(mismatch.to_string(), Retry::Slowly))?;
            // A block size is for life: initiators do not look twice.
            geometry.block_size = known.geometry.block_size;
            geometry.preferred_block = known.geometry.preferred_block;
            geometry.size = export.size - export.size % u64::from(geometry.block_size);
        }
        self.shared.volume_ready(self.index, geometry).map_err(|error| End::Lost(error, Retry::Slowly))?;
        // With the geometry that is shown, which the next export has to match.
        self.known = Some(Export { geometry, ..export });
        self.reconnect.up(now);
        let sends_again = self.volume().inner.borrow().waiting.iter().any(|waiting| waiting.again);
        if !sends_again {
            self.waiting_since = None;
        }
        let mut inner = self.volume().inner.borrow_mut();
        inner.state = VolumeState::Ready;
        inner.size = Some(geometry.size);
        let after = now.since(Instant::ZERO).as_millis();
        log::info!("volume {}: {} serves {} bytes (at {after} ms)", self.index, self.address, geometry.size);
        Ok(())
    }

    fn ended(&self, fatal: Fatal) -> End {
        let remark = self.client.remark();
        let reason = if remark.is_empty() { fatal.to_string() } else { format!("{fatal} (\"{remark}\")") };
        End::Lost(reason, fatal.retry())
    }

    /// The connection is gone: what it left unfinished is sent again on the next one, before all that waits.
    fn lost(&mut self, now: Instant, reason: &str, retry: Retry) {
        if self.volume().is_ready() {
            self.waiting_since.get_or_insert(now);
            self.shared.volume_lost(self.index);
        }
        log::warn!("volume {}: {}: {reason}", self.index, self.address);
        self.reconnect.down(now, retry);
        let mut unfinished = Vec::new();
        while let Some(left) = self.client.take_unfinished() {
            if let Some((offset, length)) = left.ghost() {
                self.quarantine.hold(now, offset, length);
            }
            unfinished.push(left.request);
        }
        for request in unfinished.into_iter().rev() {
            self.volume().put_first(request);
        }
        self.volume().inner.borrow_mut().state = match retry {
            Retry::Soon => VolumeState::Connecting,
            Retry::Slowly => VolumeState::Down(reason.to_string()),
        };
    }

    /// Wait until the next attempt is due. Commands are held for [`crate::Limits::hold`]; then they are told to try
    /// again, and so is every one that comes, until the service is back.
    async fn pause(&mut self) {
        loop {
            if self.is_withdrawn() {
                return;
            }
            let now = self.now();
            self.hold(now);
            if self.reconnect.poll_dial(now).is_some() {
                return;
            }
            let due = [self.reconnect.poll_timeout(), self.hold_until()];
            let due = due.into_iter().flatten().min().unwrap_or(now + CONNECT);
            let clock = self.shared.clock.clone();
            // Early when something was queued or the volume withdrawn; only the latter ends the pause.
            let _early = with_deadline(&clock, due, self.volume().signal.wait()).await;
        }
    }

    /// Until when commands are held.
    fn hold_until(&self) -> Option<Instant> {
        self.waiting_since.map(|since| since + self.shared.limits.hold)
    }

    /// Hold commands no longer than they may be.
    fn hold(&mut self, now: Instant) {
        if self.hold_until().is_some_and(|until| now >= until) {
            self.waiting_since = None;
            self.shared.volume_unavailable(self.index);
            self.give_up();
        }
    }

    /// End all that waits without an outcome.
    fn give_up(&mut self) {
        while let Some(left) = self.client.take_unfinished() {
            self.shared.complete(left.into_lost());
        }
        while let Some(request) = self.volume().take_any() {
            let Request { cookie, buffer, .. } = request;
            self.shared.complete(Completion { cookie, result: Err(Error::Lost), buffer });
        }
        self.shared.wake_starved();
    }
}

impl End {
    fn soon(reason: impl ToString) -> Self {
        Self::Lost(reason.to_string(), Retry::Soon)
    }
}
