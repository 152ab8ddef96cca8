//! An iSCSI connection's task: bytes in and out, logins and the end of things.

mod login;

use crate::mailbox::Notice;
use crate::path::{Other, Path, Resumed};
use crate::shared::{ConnectionIndex, Shared};
use crate::straight::Seat;
use alloc::boxed::Box;
use alloc::rc::Rc;
use core::future::{Future, poll_fn};
use core::net::SocketAddr;
use core::num::NonZeroU16;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use kernel_runtime::{Instant, Sleep, with_deadline};
use network::{Stream, TryRead};
use storage_iscsi::{Announcement, Connection, Event, Fatal, Portal, TargetRecord};
use storage_scsi::Attention;

/// The only portal group there is.
const PORTAL_GROUP: u16 = 1;
/// How long a closed connection may take to drain.
const FINISH: Duration = Duration::from_secs(5);
/// How long data may stand on the connection without a place, while nothing of the connection moves, before its command
/// is told to try again.
const STALL: Duration = Duration::from_millis(500);
/// How long it may do so at all: pings stand behind it, and are to be answered within a second.
const LONGEST_STALL: Duration = Duration::from_millis(900);
/// Connection slots that open when the machine starts.
const FIRST_SLOTS: usize = 2;
/// How long after each other the slots behind them open, so many at a time.
const STAGGER: Duration = Duration::from_millis(5);
/// Passes over both directions before other tasks have their turn.
const PASSES: usize = 4;
/// Bytes taken from one initiator in a pass. What it may begin by them is bounded by its window.
const BYTES_PER_PASS: usize = 256 << 10;

/// Why a connection is over.
#[derive(Clone, Copy)]
enum End {
    /// All was said; let the last bytes go out.
    Orderly,
    /// The peer is gone or cannot be trusted.
    Abrupt,
}

/// The task of one connection slot: serve one initiator after another, for ever.
pub(crate) async fn run(shared: Rc<Shared>, index: ConnectionIndex, port: u16, stream: Stream) {
    // The first slots open at once, the others one after the other: touching their memory would delay the first login.
    let opens = STAGGER * u32::try_from(index / FIRST_SLOTS).unwrap_or(u32::MAX);
    shared.clock.sleep(opens).await;
    let mut serving = Box::new(Serving::new(&shared, index, stream));
    let visit = Visit(&shared.seats[index]);
    loop {
        serving.stream.accept(port).await;
        serving.begin();
        let mut sleep = shared.clock.sleep_until(Instant::ZERO);
        visit.0.fill(serving);
        // Nobody takes it from there for good.
        let gone = Poll::Ready(End::Abrupt);
        let end = poll_fn(|cx| visit.0.with(|serving| serving.pump(cx, &mut sleep)).unwrap_or(gone)).await;
        let Some(back) = visit.0.vacate() else { return };
        serving = back;
        serving.end();
        match end {
            End::Abrupt => serving.stream.abort(),
            End::Orderly => {
                let deadline = shared.clock.now() + FINISH;
                if with_deadline(&shared.clock, deadline, serving.stream.finish()).await.is_err() {
                    serving.stream.abort();
                }
            }
        }
    }
}

/// A session sits in its seat for no longer than there is a task to serve it.
struct Visit<'a>(&'a Seat);

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.0.vacate();
    }
}

/// How reading from the initiator ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Received {
    /// All that was there was taken.
    All,
    /// There may be more, and it is for the next pass.
    Enough,
    /// What stands next cannot be taken now.
    Blocked,
}

/// One connection being served.
pub(crate) struct Serving {
    pub(crate) shared: Rc<Shared>,
    index: ConnectionIndex,
    pub(crate) connection: Connection,
    pub(crate) path: Path,
    pub(crate) stream: Stream,
    /// A normal session was admitted. When the registry no longer has it, another login has replaced it.
    has_session: bool,
    /// A discovery session was admitted.
    discovers: bool,
    /// That session's TSIH.
    tsih: Option<NonZeroU16>,
    /// The session may have other connections.
    has_siblings: bool,
    pub(crate) stalled: Option<Stalled>,
    /// What stands next on the connection could not be taken when it was last looked at.
    pub(crate) is_blocked: bool,
    /// Commands that are told to try again without waiting any further, because one has waited in vain: a ping behind a
    /// whole window of them must not wait for each.
    relief: u16,
    /// When those that lack a place are waited for again.
    relief_ends: Instant,
    /// It has begun all it may in this turn, and would begin more.
    is_over: bool,
    /// Until when the initiator was asked to log out.
    leave_by: Option<Instant>,
}

/// Data that stands on the connection without a place.
#[derive(Clone, Copy)]
pub(crate) struct Stalled {
    /// Since when it does.
    since: Instant,
    /// Since when nothing else of the connection has moved either.
    pub(crate) quiet: Instant,
}

impl Stalled {
    /// When its command is told to try again.
    fn until(self) -> Instant {
        (self.quiet + STALL).min(self.since + LONGEST_STALL)
    }
}

impl Serving {
    fn new(shared: &Rc<Shared>, index: ConnectionIndex, stream: Stream) -> Self {
        Self {
            shared: shared.clone(),
            index,
            connection: Connection::new(&shared.limits.iscsi, shared.clock.now()),
            path: Path::new(shared.clone(), index),
            stream,
            has_session: false,
            discovers: false,
            tsih: None,
            has_siblings: false,
            stalled: None,
            is_blocked: false,
            relief: 0,
            relief_ends: Instant::ZERO,
            is_over: false,
            leave_by: None,
        }
    }

    /// Somebody is there.
    fn begin(&mut self) {
        self.connection.reset(self.shared.clock.now());
        self.shared.mailboxes[self.index].clear();
        self.shared.figures[self.index].clear();
        (self.has_session, self.discovers, self.stalled, self.is_blocked) = (false, false, None, false);
        (self.relief, self.relief_ends, self.is_over) = (0, Instant::ZERO, false);
        (self.leave_by, self.tsih, self.has_siblings) = (None, None, false);
    }

    /// Nobody is there any more.
    fn end(&mut self) {
        // Before that, another login may have taken the place of the session or of the connection, or another connection of
        // the session may have logged this one out.
        let is_replaced = self.is_replaced();
        self.path.end_session(false);
        self.shared.state.borrow_mut().registry.end_discovery(self.index);
        if !is_replaced {
            self.connection.close();
        } else if self.is_logged_out() {
            self.connection.close_for_cleanup();
        } else {
            self.connection.close_for_reinstatement();
        }
        if !self.shared.state.borrow().registry.has_turn(self.path.turn) {
            self.shared.turns.leave(self.path.turn);
        }
        if let Some(tsih) = self.tsih {
            self.shared.nudge(tsih, self.index);
        }
        self.shared.wake_starved();
    }

    /// Carry bytes both ways until nothing moves.
    fn pump(&mut self, cx: &mut Context<'_>, sleep: &mut Sleep) -> Poll<End> {
        let now = self.shared.clock.now();
        if let Err(fatal) = self.connection.handle_timeout(now) {
            return Poll::Ready(self.dropped(&fatal));
        }
        if self.has_session {
            self.shared.turns.enter(self.path.turn, now);
        }
        self.is_over = false;
        for _ in 0..PASSES {
            match self.pass(now) {
                Err(end) => return Poll::Ready(end),
                Ok(_) if self.is_over => break,
                Ok(true) => {}
                Ok(false) => {
                    // That the initiator acknowledges is no news where nothing waits for room.
                    if self.connection.wants_to_transmit() {
                        self.stream.register(cx);
                    } else {
                        self.stream.register_read(cx);
                    }
                    let stalled = self.stalled.map(Stalled::until);
                    let functions = self.path.functions_until();
                    let due = [self.connection.poll_timeout(), stalled, functions, self.leave_by];
                    let due = due.into_iter().flatten().min();
                    sleep.reset(due.unwrap_or(now + FINISH));
                    let asked = self.shared.mailboxes[self.index].poll(cx).is_ready();
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

    /// Once each way. Answers whether there is reason to go once more at once: what others bring about by it shows in the
    /// mailbox.
    fn pass(&mut self, now: Instant) -> Result<bool, End> {
        if self.is_replaced() {
            log::info!("initiator {}: session replaced", self.connection.peer().initiator);
            return Err(End::Abrupt);
        }
        if let Some(notice) = self.shared.mailboxes[self.index].take_notice() {
            self.heed(notice, now)?;
        }
        if self.leave_by.is_some_and(|by| now >= by) {
            self.heed(Notice::Leave(now), now)?;
        }
        let resumed = self.path.resume(&mut self.connection, now);
        if let (Resumed::Moved, Some(stalled)) = (resumed, &mut self.stalled) {
            // Something of this connection goes on, so its turn will come.
            stalled.quiet = now;
        }
        // What the turn before had no time for.
        self.drain()?;
        let received = self.receive(now)?;
        self.is_blocked = received == Received::Blocked;
        let drained = self.drain()?;
        let transmitted = self.transmit()?;
        // Buffers come back by many ways: sent, dropped with a command that was aborted, refused by the engine.
        self.shared.wake_starved();
        // An event that only the last bytes have brought about waits for nobody else.
        let speaks = self.drain()?;
        if self.has_siblings {
            self.look_after_siblings();
        }
        Ok(match received {
            Received::All => speaks,
            Received::Enough => true,
            Received::Blocked => drained | transmitted | speaks,
        })
    }

    /// Whether the session goes on, and has no connection with this one's CID.
    fn is_logged_out(&self) -> bool {
        let registry = &self.shared.state.borrow().registry;
        let cid = self.connection.peer().cid;
        self.tsih.is_some_and(|tsih| registry.has_tsih(tsih) && registry.with_cid(tsih, cid).is_none())
    }

    /// Whether another login has ended the session and taken its place.
    fn is_replaced(&self) -> bool {
        let registry = &self.shared.state.borrow().registry;
        self.has_session && registry.session(self.index).is_none()
            || self.discovers && !registry.is_discovering(self.index)
    }

    /// Tell the initiator something it has not asked for (RFC 7143 section 11.9).
    #[cold]
    fn heed(&mut self, notice: Notice, now: Instant) -> Result<(), End> {
        let connection = &mut self.connection;
        match notice {
            Notice::LunsChanged => {
                let sense = Attention::ReportedLunsChanged.sense().encode(false);
                // That there are other units each of them tells by a unit attention as well.
                connection.announce(Announcement::Scsi { lun: [0; 8], sense: &sense });
            }
            Notice::Leave(by) if by > now => {
                // Whoever is told too early comes back too early.
                let within = by.since(now).as_millis().div_ceil(1000);
                let within = u16::try_from(within).unwrap_or(u16::MAX);
                connection.announce(Announcement::RequestLogout { within });
                self.leave_by = Some(by);
            }
            Notice::Leave(_) => {
                self.leave_by = None;
                log::info!("initiator {}: session ended from here", connection.peer().initiator);
                // Whoever is still logging in, or takes nothing, is not told; whoever has logged out goes by itself.
                if self.has_session && !connection.announce(Announcement::DropSession) {
                    return Err(End::Abrupt);
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, now: Instant) -> Result<Received, End> {
        if self.is_over {
            return self.receive_behind(now);
        }
        let mut bytes = 0;
        while bytes < BYTES_PER_PASS && !self.is_over {
            if !self.connection.has_space() {
                if self.connection.retry().map_err(|fatal| self.dropped(&fatal))? {
                    self.drain()?;
                    continue;
                }
                if self.turned_away(now) {
                    continue;
                }
                return Ok(Received::Blocked);
            }
            self.stalled = None;
            // Commands are taken as they lie in the stream's own buffer, many at once, and data goes from there to its place.
            let (connection, mut taken) = (&mut self.connection, Ok(0));
            let (is_over, has_siblings) = (&mut self.is_over, self.has_siblings);
            let read = self.stream.read_with(|some| {
                // Commands of several connections have an order: what was taken is not kept back.
                if has_siblings && connection.begins_command(some) {
                    *is_over = !self.shared.turns.may_begin(self.path.turn);
                }
                if *is_over {
                    return 0;
                }
                taken = connection.take(now, some);
                taken.unwrap_or(0)
            });
            taken.map_err(|fatal| self.dropped(&fatal))?;
            match read {
                Ok(TryRead::Bytes(0) | TryRead::Empty) => return Ok(Received::All),
                Ok(TryRead::Bytes(count)) => bytes += count,
                Ok(TryRead::Finished) | Err(_) => return Err(End::Abrupt),
            }
            self.drain()?;
        }
        Ok(Received::Enough)
    }

    /// Commands wait for their turn. What stands behind them waits as well, but for pings.
    fn receive_behind(&mut self, now: Instant) -> Result<Received, End> {
        let (connection, mut taken) = (&mut self.connection, Ok(0));
        // That the initiator is gone shows when its commands have had their turn.
        let _ = self.stream.read_with(|some| {
            taken = connection.take_behind(now, some);
            taken.unwrap_or(0)
        });
        taken.map_err(|fatal| self.dropped(&fatal))?;
        Ok(Received::Enough)
    }

    /// Reading has stopped. If that is because the data which stands next on the connection has no place, for want of
    /// buffers or because its command is held, and that goes on for too long, the command ends with BUSY.
    /// Answers whether it did, so that there is a place to read to again.
    fn turned_away(&mut self, now: Instant) -> bool {
        let Some(task) = self.connection.starved() else {
            self.stalled = None;
            return false;
        };
        let stalled = *self.stalled.get_or_insert(Stalled { since: now, quiet: now });
        if self.relief > 0 && now < self.relief_ends {
            self.relief -= 1;
        } else if now >= stalled.until() {
            self.relief = self.shared.limits.iscsi.commands;
            self.relief_ends = now + STALL;
        } else {
            return false;
        }
        self.path.turn_away(&mut self.connection, task);
        self.stalled = None;
        true
    }

    fn drain(&mut self) -> Result<bool, End> {
        let mut moved = false;
        while let Some(event) = self.next_event() {
            moved = true;
            match self.path.handle(&mut self.connection, event) {
                None => {}
                Some(Other::Login) => self.login(),
                Some(Other::LoggedIn) => {
                    self.logged_in();
                    let peer = self.connection.peer();
                    log::info!("initiator {}: logged in to {}", peer.initiator, peer.target);
                }
                Some(Other::SendTargets) => self.send_targets(),
                Some(Other::TaskManagement(request)) => self.path.manage(&mut self.connection, &request),
                Some(Other::Logout(reason)) => self.log_out(reason),
                Some(Other::Close) => {
                    if let Some(status) = self.connection.refusal() {
                        log::info!("initiator {}: refused: {status:?}", self.connection.peer().initiator);
                    }
                    return Err(End::Orderly);
                }
            }
        }
        Ok(moved)
    }

    /// What has happened next, if it can have its consequences in this turn: a command may have to wait for another one, and
    /// all behind it with it.
    fn next_event(&mut self) -> Option<Event> {
        if let Event::Command(_) = self.connection.peek_event()?
            && !self.has_siblings
        {
            self.is_over = !self.shared.turns.may_begin(self.path.turn);
            if self.is_over {
                return None;
            }
        }
        self.connection.poll_event()
    }

    /// All that is to be said goes into the stream's own buffer: the answers of many commands behind one another.
    fn transmit(&mut self) -> Result<bool, End> {
        let mut moved = false;
        while self.connection.wants_to_transmit() {
            let count = self.stream.write_with(|room| self.connection.fill(room)).map_err(|_| End::Abrupt)?;
            if count == 0 {
                break;
            }
            moved = true;
        }
        Ok(moved)
    }

    fn send_targets(&mut self) {
        let Some(address) = self.shared.portal.or_else(|| self.stream.local()) else { return };
        let portals = [Portal { address: SocketAddr::V4(address), group_tag: PORTAL_GROUP }];
        let initiator = self.connection.peer().initiator;
        let state = self.shared.state.borrow();
        let visible = state.registry.visible(initiator.as_str());
        self.connection.answer_send_targets(visible.map(|name| TargetRecord { name, portals: &portals }));
    }

    fn dropped(&self, fatal: &Fatal) -> End {
        if let (Fatal::CommandGap { .. }, Some(tsih)) = (fatal, self.tsih) {
            // No command of the session can be in order any more.
            self.shared.evict_session(tsih, Some(self.index));
        }
        log::info!("initiator {}: dropped: {fatal}", self.connection.peer().initiator);
        End::Abrupt
    }
}
