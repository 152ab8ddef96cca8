//! One connection to one export: the engine that a task drives.

use crate::export::Export;
use crate::handshake::{self, Goal, Handshake, Step};
use crate::phase::{Phase, Trigger};
use crate::receive::{LONGEST_ERROR, Notice, Receiver};
use crate::requests::{PARTS, Requests, Unfinished};
use crate::send::{Progress, Sender};
use crate::settings::{ClientError, Headers, Settings};
use crate::{Counters, Fatal, Latency, Limits, Text};
use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;
use kernel_runtime::Instant;
use storage_block::{Completion, Recipient, Request};

/// Bytes of scratch memory: the longest element of the handshake, or of a reply's error.
const SCRATCH: usize = if handshake::LONGEST > LONGEST_ERROR { handshake::LONGEST } else { LONGEST_ERROR };
/// Slots that a cookie has room for, beside the heartbeat's.
pub(crate) const MAX_SLOTS: usize = (1 << 16) / PARTS - 1;

/// What the engine has to tell.
#[derive(Debug)]
pub enum Event {
    /// The handshake is done: [`Client::export`] tells with what, and requests are taken.
    Ready,
    /// A request ended.
    Completed(Completion),
    /// Nothing has arrived for [`Limits::suspect_after`] although answers are due, or for half of [`Limits::slow`] where
    /// one of them may take long. Nothing is lost yet.
    Suspect,
    /// The server is shutting down: no more requests are taken. What can still be answered will be, then
    /// [`Event::Closed`] follows.
    Closing,
    /// The farewell was sent: close the connection, call [`Client::disconnected`] and fetch what is unfinished.
    Closed,
}

/// Events that wait to be fetched.
#[derive(Clone, Copy, Debug, Default)]
struct Pending {
    ready: bool,
    suspect: bool,
    closing: bool,
    closed: bool,
}

impl Pending {
    const fn is_any(self) -> bool {
        self.ready | self.suspect | self.closing | self.closed
    }
}

/// How long a connection may be silent while answers are due.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Until it is suspect.
    half: Duration,
    /// Until it counts as dead.
    whole: Duration,
}

impl Patience {
    fn new(whole: Duration) -> Self {
        Self { half: whole / 2, whole }
    }
}

/// One connection to one export.
///
/// A driver loops: bytes from the connection go into [`Client::space`] and are told to [`Client::received`]; what
/// [`Client::poll_transmit`] gives is sent and told to [`Client::transmitted`]; after each input all events are
/// fetched with [`Client::poll_event`]; at the time [`Client::poll_timeout`] tells, [`Client::handle_timeout`] is
/// called; where TLS is required, [`Client::wants_tls`] tells when it is due. Receiving never depends on sending, nor the reverse, so both directions are always served.
pub struct Client {
    limits: Limits,
    /// With requests that are answered at once, and with such that may take long.
    patience: [Patience; 2],
    phase: Phase,
    /// When the negotiation has taken too long.
    deadline: Instant,
    /// Why the connection is of no more use.
    broken: Option<Fatal>,
    handshake: Handshake,
    receiver: Receiver,
    sender: Sender,
    requests: Requests,
    export: Option<Export>,
    /// The counters as the connection found them.
    before: Counters,
    pending: Pending,
    /// When the connection last showed life, or began to have to.
    progress: Instant,
    suspected: bool,
    scratch: Box<[u8]>,
}

impl Client {
    /// A client with these settings, of which an export's name alone will do. All memory that it will ever need is
    /// taken here.
    ///
    /// # Errors
    /// When the settings or the number of slots cannot be.
    pub fn new<'a>(limits: &Limits, settings: impl Into<Settings<'a>>) -> Result<Self, ClientError> {
        let settings = settings.into();
        settings.check()?;
        if limits.slots == 0 || limits.slots > MAX_SLOTS {
            return Err(ClientError::Slots);
        }
        let quick = limits.suspect_after * 2;
        Ok(Self {
            limits: *limits,
            patience: [quick, limits.slow.max(quick)].map(Patience::new),
            phase: Phase::Idle,
            deadline: Instant::ZERO,
            broken: None,
            handshake: Handshake::new(Goal::Transmission, &settings),
            receiver: Receiver::new(),
            sender: Sender::new(),
            requests: Requests::new(limits.slots),
            export: None,
            before: Counters::default(),
            pending: Pending::default(),
            progress: Instant::ZERO,
            suspected: false,
            scratch: vec![0; SCRATCH].into_boxed_slice(),
        })
    }

    /// Say, before [`Client::connected`], which connection of which session the next one is, and which others of the
    /// session are alive: a server that takes the claim of [`Settings::writer`] cuts all that are not named. At most
    /// [`MAX_ALIVE`](crate::MAX_ALIVE) can be. `session` has to be another one for each start of the writer.
    pub fn set_place(&mut self, session: u64, connection: u32, alive: &[u32]) {
        self.handshake.set_place(session, connection, alive);
    }

    /// A new connection stands: negotiate. Requests that are unfinished from an earlier one stay where they are
    /// until they are fetched.
    pub fn connected(&mut self, now: Instant) {
        self.disconnected(now);
        self.before = self.requests.counters;
        self.requests.counters.connections += 1;
        self.step(Trigger::Connected);
        self.deadline = now + self.limits.handshake;
        self.handshake.start();
        self.alive(now);
    }

    /// The connection is gone, whoever ended it. Requests without an outcome are to be fetched with
    /// [`Client::take_unfinished`]; completions that wait can still be fetched.
    pub fn disconnected(&mut self, now: Instant) {
        self.step(Trigger::Gone);
        self.broken = None;
        self.pending = Pending::default();
        self.sender.start(false);
        self.requests.close();
        self.alive(now);
    }

    /// The next request, in the order of submission, that got no outcome on its connection. The caller sends it
    /// again on the next connection, or completes it as lost.
    pub fn take_unfinished(&mut self) -> Option<Unfinished> {
        self.requests.take_unfinished()
    }

    /// The export as it was last agreed on; it stays known while there is no connection.
    pub const fn export(&self) -> Option<&Export> {
        self.export.as_ref()
    }

    /// The server's last words for people: with the refusal that ended the handshake, or with a request's error.
    pub const fn remark(&self) -> &Text {
        if self.handshake.is_finished() { self.receiver.remark() } else { self.handshake.remark() }
    }

    /// What has happened so far.
    pub const fn counters(&self) -> &Counters {
        &self.requests.counters
    }

    /// What has happened on the connection there is, or on the last one.
    pub const fn connection_counters(&self) -> Counters {
        self.requests.counters.since(&self.before)
    }

    /// How long requests have taken so far.
    pub const fn latency(&self) -> &Latency {
        &self.requests.latency
    }

    /// How many requests wait for the server.
    pub fn outstanding(&self) -> usize {
        self.requests.outstanding()
    }

    /// Whether TLS is to be set up now, which is to be asked after bytes were received wherever TLS is required. Then
    /// its handshake is made over the connection, with nothing else sent or received between; not one byte more than
    /// was read into [`Client::space`] so far is the engine's. Afterwards [`Client::tls_established`] is due.
    pub const fn wants_tls(&self) -> bool {
        matches!(self.phase, Phase::Handshake) && self.handshake.wants_tls()
    }

    /// TLS stands, with a server that is the right one: from here on all bytes, in and out, are those inside of it. Where
    /// it does not come to stand, the connection is to be dropped.
    pub fn tls_established(&mut self, now: Instant) {
        if self.wants_tls() {
            self.handshake.tls_established();
            self.alive(now);
        }
    }

    /// Whether requests are taken: from the moment [`Event::Ready`] is fetched, so that the caller can look at the
    /// export before anything is sent to it.
    pub const fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Open) && !self.pending.ready
    }

    /// How many requests are taken now.
    pub fn free_slots(&self) -> usize {
        if self.is_ready() { self.requests.free() } else { 0 }
    }

    /// Take a request over. Its completion comes with [`Event::Completed`], even if it is one that the export cannot
    /// do; only the loss of the connection leaves it unfinished.
    ///
    /// A FLUSH covers the writes whose completions were fetched before it is submitted.
    ///
    /// # Errors
    /// The request, when there is no free slot or no export to send it to.
    pub fn submit(&mut self, now: Instant, request: Request) -> Result<(), Request> {
        if !self.is_ready() {
            return Err(request);
        }
        self.requests.now = now;
        if self.requests.active() == 0 {
            // From now on there is something to wait for.
            self.alive(now);
        }
        self.requests.accept(request)
    }

    /// Take back the request of this cookie, if none of its bytes was sent and none will be.
    pub fn withdraw(&mut self, cookie: u64) -> Option<Request> {
        self.requests.withdraw(cookie)
    }

    /// Take no more requests; when those there are have ended, say farewell.
    pub fn disconnect(&mut self) {
        // A negotiation may be ended by closing the connection.
        self.pending.closed |= self.phase == Phase::Handshake;
        self.step(Trigger::Disconnect);
    }

    /// Go where the table says; what it does not draw changes nothing.
    fn step(&mut self, trigger: Trigger) {
        if let Some(phase) = self.phase.after(trigger) {
            self.phase = phase;
        }
    }

    fn alive(&mut self, now: Instant) {
        self.progress = now;
        self.suspected = false;
        self.pending.suspect = false;
    }

    fn fail<T>(&mut self, fatal: Fatal) -> Result<T, Fatal> {
        self.step(Trigger::Failed);
        self.broken = Some(fatal);
        self.requests.counters.fatal += 1;
        Err(fatal)
    }
}

/// Bytes.
impl Client {
    /// Where the next bytes from the connection belong. Never empty.
    pub fn space(&mut self) -> &mut [u8] {
        match self.phase {
            Phase::Handshake => self.handshake.space(&mut self.scratch),
            Phase::Open | Phase::Closing => self.receiver.space(&mut self.requests, &mut self.scratch),
            // Nobody asked for them.
            Phase::Idle | Phase::Closed | Phase::Broken => &mut self.scratch,
        }
    }

    /// `count` bytes were put into [`Client::space`].
    ///
    /// # Errors
    /// Why the connection must be dropped; then [`Client::disconnected`] is to be called.
    pub fn received(&mut self, now: Instant, count: usize) -> Result<(), Fatal> {
        if count == 0 {
            return Ok(());
        }
        match self.phase {
            Phase::Handshake => {
                let step = self.handshake.received(&mut self.scratch, count);
                self.negotiated(now, step)
            }
            Phase::Open | Phase::Closing => {
                self.alive(now);
                self.requests.now = now;
                let notice = self.receiver.received(&mut self.requests, &self.scratch, count);
                self.noticed(notice)
            }
            Phase::Idle | Phase::Closed => Ok(()),
            Phase::Broken => self.broken.map_or(Ok(()), Err),
        }
    }

    /// Take what the connection brings, as it lies there: all of it, or up to where TLS is to be set up or a request has
    /// failed, whose completion may change what those behind it are worth. Answers how much was taken. It is as if it had been put into [`Client::space`], without the steps; but what reads bring goes to `recipient`
    /// first, where that is certain to be what the server has to say. A read that it has ended has no completion.
    ///
    /// # Errors
    /// Why the connection must be dropped; then [`Client::disconnected`] is to be called.
    pub fn take(
        &mut self,
        now: Instant,
        bytes: &[u8],
        recipient: &mut dyn Recipient,
    ) -> Result<usize, Fatal> {
        let mut left = bytes;
        while !left.is_empty() && !self.wants_tls() {
            if !matches!(self.phase, Phase::Open | Phase::Closing) {
                let space = self.space();
                let count = space.len().min(left.len());
                space[..count].copy_from_slice(&left[..count]);
                left = &left[count..];
                self.received(now, count)?;
                continue;
            }
            self.alive(now);
            self.requests.now = now;
            let notice = self.receiver.take(&mut self.requests, &mut self.scratch, &mut left, recipient);
            self.noticed(notice)?;
            if notice == Ok(Notice::Failed) {
                break;
            }
        }
        Ok(bytes.len() - left.len())
    }

    /// A reply has led to this.
    fn noticed(&mut self, notice: Result<Notice, Fatal>) -> Result<(), Fatal> {
        match notice {
            Ok(Notice::Nothing | Notice::Failed) => Ok(()),
            Ok(Notice::ShuttingDown) => {
                self.requests.stop();
                if self.phase == Phase::Open {
                    self.step(Trigger::ShuttingDown);
                    self.pending.closing = true;
                }
                Ok(())
            }
            Err(fatal) => self.fail(fatal),
        }
    }

    fn negotiated(&mut self, now: Instant, step: Result<Step, Fatal>) -> Result<(), Fatal> {
        let facts = match step {
            Ok(Step::Finished) => self.handshake.facts(),
            Ok(Step::More | Step::Listed { .. }) => return Ok(()),
            Err(fatal) => return self.fail(fatal),
        };
        let export = match Export::new(facts, self.limits.max_payload) {
            Ok(export) => export,
            Err(fatal) => return self.fail(fatal),
        };
        self.receiver.start(match (export.extended, export.structured) {
            (true, _) => Headers::Extended,
            (false, true) => Headers::Structured,
            (false, false) => Headers::Simple,
        });
        self.sender.start(export.extended);
        self.requests.open(&export, self.limits.max_range);
        self.export = Some(export);
        self.step(Trigger::Negotiated);
        self.pending.ready = true;
        self.alive(now);
        Ok(())
    }

    /// The next bytes for the connection, if any.
    pub fn poll_transmit(&mut self) -> Option<&[u8]> {
        match self.phase {
            Phase::Handshake => self.handshake.outgoing(),
            Phase::Open | Phase::Closing => {
                self.sender.load(&mut self.requests);
                let last = self.phase == Phase::Closing && self.requests.active() == 0;
                if last && self.sender.is_idle() {
                    self.sender.load_disconnect();
                }
                self.sender.outgoing(&self.requests)
            }
            Phase::Idle | Phase::Closed | Phase::Broken => None,
        }
    }

    /// Whether there may be bytes for the connection: if not, [`Client::poll_transmit`] need not be asked.
    pub fn may_transmit(&self) -> bool {
        match self.phase {
            Phase::Handshake | Phase::Closing => true,
            Phase::Open => !self.sender.is_idle() || self.requests.is_any_queued(),
            Phase::Idle | Phase::Closed | Phase::Broken => false,
        }
    }

    /// Put the next bytes for the connection into `room`, as many as there are and fit. Answers how many: they count as taken
    /// by the connection, and it is as if [`Client::poll_transmit`] had given them.
    pub fn fill(&mut self, now: Instant, room: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < room.len() && self.may_transmit() {
            if self.phase == Phase::Open && self.sender.is_idle() {
                self.requests.now = now;
                let was_due = self.requests.is_answer_due();
                let count = self.sender.fill(&mut self.requests, &mut room[filled..]);
                if count > 0 && !was_due {
                    self.alive(now);
                }
                filled += count;
            }
            let Some(bytes) = self.poll_transmit() else { break };
            let count = bytes.len().min(room.len() - filled);
            room[filled..filled + count].copy_from_slice(&bytes[..count]);
            filled += count;
            self.transmitted(now, count);
        }
        filled
    }

    /// The first `count` bytes of [`Client::poll_transmit`] were taken by the connection.
    pub fn transmitted(&mut self, now: Instant, count: usize) {
        match self.phase {
            Phase::Handshake => self.handshake.transmitted(count),
            Phase::Open | Phase::Closing => {
                // The peer has made room for them, so it lives. Once it owes an answer, that is no longer enough: what the
                // connection's own memory takes in would look like life for ever.
                if count > 0 && !self.requests.is_answer_due() {
                    self.alive(now);
                }
                self.requests.now = now;
                if self.sender.transmitted(&mut self.requests, count) == Progress::Disconnected {
                    self.step(Trigger::Farewell);
                    self.pending.closed = true;
                }
            }
            Phase::Idle | Phase::Closed | Phase::Broken => {}
        }
    }

    /// Whether there is an event.
    pub fn has_event(&self) -> bool {
        self.requests.has_completion() || self.pending.is_any()
    }

    /// The next event, if that is the end of a request: the same as [`Client::poll_event`] gives.
    pub fn poll_completion(&mut self) -> Option<Completion> {
        if self.pending.ready { None } else { self.requests.poll_completion() }
    }

    /// The next event, if any.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(completion) = self.poll_completion() {
            return Some(Event::Completed(completion));
        }
        let pending = &mut self.pending;
        if core::mem::take(&mut pending.ready) {
            return Some(Event::Ready);
        }
        if core::mem::take(&mut pending.suspect) {
            return Some(Event::Suspect);
        }
        if core::mem::take(&mut pending.closing) {
            return Some(Event::Closing);
        }
        core::mem::take(&mut pending.closed).then_some(Event::Closed)
    }
}

/// Time.
impl Client {
    /// How long the connection may stay silent while answers are due.
    fn patience(&self) -> Patience {
        self.patience[usize::from(self.requests.any_slow())]
    }

    /// When [`Client::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Handshake => Some(self.deadline),
            Phase::Open | Phase::Closing if self.requests.active() > 0 || self.phase == Phase::Closing => {
                let patience = self.patience();
                Some(self.progress + if self.suspected { patience.whole } else { patience.half })
            }
            Phase::Open => Some(self.progress + self.limits.heartbeat),
            Phase::Idle | Phase::Closing | Phase::Closed | Phase::Broken => None,
        }
    }

    /// The time has come, or any other.
    ///
    /// # Errors
    /// The server took too long: the connection must be dropped, and [`Client::disconnected`] called.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Fatal> {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return Ok(());
        }
        match self.phase {
            Phase::Handshake => self.fail(Fatal::HandshakeTimeout),
            Phase::Open if self.requests.active() == 0 => {
                self.alive(now);
                self.requests.probe();
                Ok(())
            }
            Phase::Open | Phase::Closing if now >= self.progress + self.patience().whole => {
                self.fail(Fatal::Stalled)
            }
            Phase::Open | Phase::Closing => {
                self.suspected = true;
                self.pending.suspect = true;
                self.requests.counters.suspected += 1;
                Ok(())
            }
            Phase::Idle | Phase::Closed | Phase::Broken => Ok(()),
        }
    }
}
