//! An initiator: logs in, works, loses its connection, comes back, and judges all it hears.

mod command;
mod examine;
mod session;
mod strangers;

pub(crate) use strangers::{Crowd, Twin, stranger};

use crate::bug::Bug;
use crate::history::{History, Value};
use crate::plan::Plan;
use crate::random::Random;
use crate::service::Service;
use command::{GOOD, Op, Task};
use kernel_runtime::{Clock, Instant, Signal, Sleep, with_deadline};
use network::{Stream, TryRead};
use session::{Heard, Session, Wishes};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::net::SocketAddrV4;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use storage_iscsi::wire::Digests;

/// How often the target is pinged.
const PING: Duration = Duration::from_secs(2);
/// An answer to a ping is due after this long when the storage services hang.
const PONG: Duration = Duration::from_secs(1);
/// And after this long when they are just slow: initiators wait 5 s.
const LATEST_PONG: Duration = Duration::from_secs(4);
/// The first ping after a restart may meet an appliance that does not know its connection, nor its neighbours yet.
const SETTLED: Duration = Duration::from_secs(5);
/// When a connection without a pong, a login or an answer to task management is given up.
const PATIENCE: Duration = Duration::from_secs(15);
/// When a command is aborted. A flush may take the three minutes that a storage service is given.
const TIMEOUT: Duration = Duration::from_secs(60);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(200);
/// When a command that began after all faults must have ended.
const CALM_TIMEOUT: Duration = Duration::from_secs(100);
/// Task management functions under way at once.
const MANAGING: usize = 4;
/// Pause before a command or a login is tried again.
const AGAIN: Duration = Duration::from_millis(200);

/// What the world wants of an initiator.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    Drop {
        is_silent: bool,
    },
    /// Abort some commands.
    Abort,
    /// Abort the next command as soon as it is given.
    AbortNext,
    /// Abort this write, or any command of the unit.
    AbortAt {
        unit: usize,
        write: Option<usize>,
    },
    Reset {
        unit: usize,
    },
    /// Take nothing from the connection.
    Deaf {
        until: Instant,
    },
    /// For a twin.
    LogIn {
        times: u64,
    },
}

/// What initiators and the world have in common.
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) bug: Option<Bug>,
    pub(crate) history: Rc<RefCell<History>>,
    pub(crate) services: Vec<Rc<RefCell<Service>>>,
    pub(crate) violation: RefCell<Option<String>>,
    pub(crate) orders: Vec<RefCell<VecDeque<Order>>>,
    pub(crate) signals: Vec<Signal>,
    /// Since when nothing goes wrong any more.
    pub(crate) calm: Cell<Option<Instant>>,
    pub(crate) is_down: Cell<bool>,
    /// When the appliance was last restarted.
    pub(crate) restarted: Cell<Instant>,
    /// Initiators that have seen everything finish.
    pub(crate) finished: Cell<usize>,
    pub(crate) answered: Cell<u64>,
    pub(crate) good: Cell<u64>,
    /// Bytes of each unit.
    pub(crate) sizes: Vec<Cell<usize>>,
    pub(crate) crowd: Crowd,
}

impl Shared {
    /// Requests that all services have executed.
    fn executed(&self) -> u64 {
        self.services.iter().map(|service| service.borrow().executed).sum()
    }

    pub(crate) fn fail(&self, reason: String) {
        self.violation.borrow_mut().get_or_insert(reason);
    }
}

/// How far the last examination of a unit has come.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Work,
    /// Flush this unit, then read all of it from this block on.
    Flush(usize),
    Read(usize, usize),
    Done,
}

pub(crate) struct Initiator {
    shared: Rc<Shared>,
    index: usize,
    clock: Clock,
    random: Random,
    target: SocketAddrV4,
    given: usize,
    next_at: Instant,
    ping_at: Instant,
    /// What the services had executed when the ping was sent.
    executed: u64,
    stage: Stage,
    /// Writes of sessions that are gone: over for good once the next login has succeeded.
    limbo: Vec<usize>,
    /// A block that was read, for COMPARE AND WRITE.
    seen: Option<(usize, usize, Vec<u8>)>,
    /// The next command is aborted at once.
    aborts_next: bool,
    deaf_until: Instant,
}

/// How a connection ends.
enum End {
    Reset,
    Silently,
    Finished,
}

impl Initiator {
    pub(crate) fn new(
        shared: Rc<Shared>,
        index: usize,
        clock: Clock,
        random: Random,
        target: SocketAddrV4,
    ) -> Self {
        Self {
            shared,
            index,
            clock,
            random,
            target,
            given: 0,
            next_at: Instant::ZERO,
            ping_at: Instant::ZERO,
            executed: 0,
            stage: Stage::Work,
            limbo: Vec::new(),
            seen: None,
            aborts_next: false,
            deaf_until: Instant::ZERO,
        }
    }

    /// The initiator's task.
    pub(crate) async fn run(mut self, mut stream: Stream) {
        loop {
            let deadline = self.clock.now() + PATIENCE;
            let connected = with_deadline(&self.clock, deadline, stream.connect(self.target)).await;
            if !matches!(connected, Ok(Ok(()))) {
                stream.abort();
                self.clock.sleep(AGAIN).await;
                continue;
            }
            let mut session = self.session();
            let opened = self.clock.now();
            let mut sleep = self.clock.sleep_until(Instant::ZERO);
            let end = poll_fn(|cx| self.pump(cx, &stream, &mut session, opened, &mut sleep)).await;
            for task in session.tasks.values() {
                self.limbo.extend(task.op.write());
            }
            match end {
                End::Finished => {
                    self.shared.finished.set(self.shared.finished.get() + 1);
                    stream.abort();
                    return;
                }
                End::Reset => stream.abort(),
                // The next connection takes over the slot, and the peer is never told.
                End::Silently => continue,
            }
            self.clock.sleep(AGAIN).await;
        }
    }

    fn session(&mut self) -> Session {
        let shape = &self.shared.plan.shape;
        let names = names(self.index);
        let pairs = names.each_ref().map(|(key, value)| (*key, value.as_str()));
        Session::new(&pairs, ISID, wishes(&mut self.random, shape.digests), shape.block, self.shared.bug)
    }

    fn pump(
        &mut self,
        cx: &mut Context<'_>,
        stream: &Stream,
        session: &mut Session,
        opened: Instant,
        sleep: &mut Sleep,
    ) -> Poll<End> {
        loop {
            let now = self.clock.now();
            let mut moved = false;
            let mut bytes = [0; 16 << 10];
            match stream.try_read(if now < self.deaf_until { &mut [] } else { &mut bytes }) {
                Ok(TryRead::Bytes(count)) => {
                    session.received(&bytes[..count]);
                    moved |= count > 0;
                }
                Ok(TryRead::Empty) => {}
                Ok(TryRead::Finished) | Err(_) => return Poll::Ready(End::Reset),
            }
            loop {
                match session.hear() {
                    Ok(None) => break,
                    Ok(Some(heard)) => {
                        if let Some(end) = self.heard(now, session, heard) {
                            return Poll::Ready(end);
                        }
                    }
                    // Damage is what the digests are for.
                    Err(_) if self.shared.plan.has_forgeries() && session.was_damaged() => {
                        return Poll::Ready(End::Reset);
                    }
                    Err(reason) => {
                        self.shared.fail(format!("initiator {}: {reason}", self.index));
                        return Poll::Ready(End::Reset);
                    }
                }
            }
            if let Some(end) = self.act(now, session, opened) {
                return Poll::Ready(end);
            }
            if !session.output.is_empty() {
                match stream.try_write(&session.output) {
                    Ok(count) => {
                        session.output.drain(..count);
                        moved |= count > 0;
                    }
                    Err(_) => return Poll::Ready(End::Reset),
                }
            }
            if moved {
                continue;
            }
            stream.register(cx);
            sleep.reset(self.due(now, session));
            let due = Pin::new(&mut *sleep).poll(cx).is_ready();
            if self.shared.signals[self.index].poll_lower(cx).is_pending() && !due {
                return Poll::Pending;
            }
        }
    }

    /// When to look again although nothing came.
    fn due(&self, now: Instant, session: &Session) -> Instant {
        let aborts = session.tasks.values().filter_map(|task| task.abort_at);
        aborts
            .chain([self.next_at, self.ping_at, self.deaf_until])
            .filter(|at| *at > now)
            .min()
            .unwrap_or(now + PING)
            .min(now + PING)
    }

    /// Give orders, commands and pings that are due.
    fn act(&mut self, now: Instant, session: &mut Session, opened: Instant) -> Option<End> {
        if !session.is_up {
            return (now > opened + PATIENCE).then_some(End::Reset);
        }
        let managed = session.managing.values().map(|management| management.invoked);
        let pinged = session.ping.map(|(_, sent)| sent);
        if managed.chain(pinged).any(|since| now > since + PATIENCE) {
            return Some(End::Reset);
        }
        match session.ping {
            Some((_, sent)) => self.check_pong(now, sent),
            None if now >= self.ping_at => {
                self.ping_at = now + PING;
                self.executed = self.shared.executed();
                session.ping(now);
            }
            None => {}
        }
        while let Some(order) = self.order() {
            match order {
                Order::Drop { is_silent: false } => return Some(End::Reset),
                Order::Drop { is_silent: true } => return Some(End::Silently),
                Order::Abort => {
                    for task in session.tasks.values_mut() {
                        let later = Duration::from_micros(self.random.below(2000));
                        task.abort_at = self.random.chance(500).then_some(now + later);
                    }
                }
                Order::AbortNext => self.aborts_next = true,
                Order::AbortAt { unit, write } => {
                    let is_meant = |task: &&mut Task| match write {
                        Some(id) => task.op.write() == Some(id),
                        None => task.unit == unit,
                    };
                    if let Some(task) = session.tasks.values_mut().find(is_meant) {
                        task.abort_at = Some(now);
                    }
                }
                // A target takes only so many immediate requests at once.
                Order::Reset { .. } if session.managing.len() >= MANAGING => {}
                Order::Reset { unit } => session.reset(now, unit),
                Order::Deaf { until } => self.deaf_until = until,
                Order::LogIn { .. } => {}
            }
        }
        self.give(now, session);
        self.time_out(now, session);
        matches!(self.stage, Stage::Done).then_some(End::Finished)
    }

    fn order(&self) -> Option<Order> {
        self.shared.orders[self.index].borrow_mut().pop_front()
    }

    /// A ping is answered within a second, unless the wire between is to blame.
    fn check_pong(&self, now: Instant, sent: Instant) {
        let is_up = !self.shared.is_down.get()
            && self.shared.restarted.get() + SETTLED < sent
            && self.deaf_until + SETTLED < sent;
        let hangs = self.shared.executed() == self.executed;
        let due = sent + if hangs { PONG } else { LATEST_PONG };
        if now > due && self.shared.plan.is_host_clean() && is_up {
            self.shared.fail(format!("initiator {}: no answer to the ping of {sent:?}", self.index));
        }
    }

    fn give(&mut self, now: Instant, session: &mut Session) {
        while now >= self.next_at && session.has_window() {
            match self.stage {
                Stage::Work if self.given < self.shared.plan.shape.commands => {
                    if session.tasks.len() >= self.shared.plan.shape.depth {
                        return;
                    }
                    self.given += 1;
                    let mean = self.shared.plan.shape.horizon.as_micros() as u64
                        / self.shared.plan.shape.commands as u64;
                    // In bursts, so that commands meet.
                    let pause = if self.random.chance(700) { 0 } else { self.random.below(6 * mean + 1) };
                    self.next_at = now + Duration::from_micros(pause);
                    self.work(now, session);
                    if core::mem::take(&mut self.aborts_next)
                        && let Some(mut task) = session.tasks.last_entry()
                    {
                        task.get_mut().abort_at = Some(now);
                    }
                }
                Stage::Work if session.tasks.is_empty() && self.shared.calm.get().is_some() => {
                    self.stage = Stage::Flush(0);
                }
                Stage::Flush(unit) if session.tasks.is_empty() && session.managing.is_empty() => {
                    self.next_at = now + AGAIN;
                    session.command(now, unit, Op::Flush, Vec::new());
                }
                Stage::Read(unit, first) if session.tasks.is_empty() => {
                    self.next_at = now + AGAIN;
                    let blocks = self.shared.plan.shape.longest.max(8).min(self.shared.plan.blocks() - first);
                    session.command(now, unit, Op::Read { first, blocks }, Vec::new());
                }
                Stage::Work | Stage::Flush(_) | Stage::Read(..) | Stage::Done => return,
            }
        }
    }

    /// A command of the load.
    fn work(&mut self, now: Instant, session: &mut Session) {
        let plan = &self.shared.plan;
        let unit = self.random.below(plan.shape.units as u64) as usize;
        let blocks = self.random.range(1, plan.shape.longest as u64) as usize;
        // Half of all falls on the first few blocks.
        let room = (plan.blocks() - blocks) as u64 + 1;
        let first =
            if self.random.chance(500) { self.random.below(room) } else { self.random.below(room.min(6)) };
        let first = first as usize;
        let history = &mut *self.shared.history.borrow_mut();
        let (op, data) = match self.random.below(100) {
            0..40 => {
                let id = history.begin(unit, first, blocks, None, now);
                let fua = self.random.chance(150);
                (Op::Write { first, blocks, fua, id }, history.bytes(id))
            }
            40..75 => (Op::Read { first, blocks }, Vec::new()),
            75..85 => (Op::Flush, Vec::new()),
            85..88 => {
                let id = history.begin(unit, first, blocks, Some(Value::Zero), now);
                (Op::Zero { first, blocks, id }, vec![0; plan.shape.block])
            }
            88..91 => {
                let id = history.begin_hint(unit, first, blocks, now);
                (Op::Unmap { id }, unmap(first, blocks))
            }
            91..96 => match self.seen.take() {
                Some((unit_seen, block, expected)) if unit_seen == unit => {
                    let id = history.begin(unit, block, 1, None, now);
                    let data = [expected.as_slice(), &history.bytes(id)].concat();
                    (Op::Swap { block, expected, id }, data)
                }
                _ => (Op::Ready, Vec::new()),
            },
            96..98 => (Op::Capacity, Vec::new()),
            _ => (Op::Ready, Vec::new()),
        };
        log::debug!("initiator {}: unit {unit} {op:?}", self.index);
        session.command(now, unit, op, data);
    }

    fn heard(&mut self, now: Instant, session: &mut Session, heard: Heard) -> Option<End> {
        match heard {
            Heard::LoggedIn => {
                log::debug!("initiator {}: logged in: {:?}", self.index, session.wishes);
                let history = &mut *self.shared.history.borrow_mut();
                for id in self.limbo.drain(..) {
                    history.end(id, now);
                }
            }
            Heard::Refused | Heard::Farewell => return Some(End::Reset),
            Heard::Pong(sent) => self.check_pong(now, sent),
            Heard::Managed(management) => self.managed(now, session, management),
            Heard::Answered(task, answer) => {
                self.shared.answered.set(self.shared.answered.get() + 1);
                self.shared.good.set(self.shared.good.get() + u64::from(answer.status == GOOD));
                log::debug!("initiator {}: {:?} of {:?}: {answer:?}", self.index, task.op, task.invoked);
                if let Err(reason) = self.judge(now, &task, answer) {
                    self.shared.fail(format!("initiator {}: {reason}", self.index));
                }
                self.conclude(now, session, &task, answer);
            }
        }
        None
    }
}

/// Every initiator has one session at a time.
const ISID: [u8; 6] = [0x80, 0, 0, 0, 0, 1];

/// What an initiator says of itself and of what it wants.
fn names(index: usize) -> [(&'static str, String); 3] {
    [
        ("InitiatorName", format!("iqn.2026-11.example.sim:{index}")),
        ("TargetName", crate::world::TARGET.to_string()),
        ("SessionType", "Normal".to_string()),
    ]
}

/// What is tried to be agreed on.
fn wishes(random: &mut Random, digests: bool) -> Wishes {
    Wishes {
        digests: Digests { header: random.chance(200) || digests, data: random.chance(200) || digests },
        initial_r2t: random.chance(500),
        immediate_data: random.chance(700),
        max_recv: random.pick(&[512, 4096, 65_536]),
        max_burst: random.pick(&[4096, 16_384, 262_144]),
        first_burst: random.pick(&[512, 4096, 65_536]),
        outstanding_r2t: random.pick(&[1, 2, 8]),
        cmd_sn: random.pick(&[1, u32::MAX - 3, 0x7fff_fffe]),
    }
}

/// The parameter list of an UNMAP of one range.
fn unmap(first: usize, blocks: usize) -> Vec<u8> {
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend((first as u64).to_be_bytes());
    list.extend((blocks as u32).to_be_bytes());
    list.extend([0; 4]);
    list
}
