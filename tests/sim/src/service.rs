//! The storage services: the strict NBD service of `storage_nbd::testing` on a stack of its own, with all that services
//! do to their clients.

use crate::bug::Bug;
use crate::history::History;
use crate::plan::Plan;
use crate::random::Random;
use kernel_runtime::{Instant, Signal};
use network::{Stream, TryRead};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use storage_nbd::testing::{Disk, Session, Settings, Shape};
use storage_nbd::wire::command;
use storage_nbd::{BlockSizes, TransmissionFlags};

/// Streams of each service: the connection in use, and what is left of some before it.
pub(crate) const STREAMS: usize = 4;
/// A service promises to be done with a request, or never to do it, this long after it came: less than the appliance
/// waits before it sends a newer write.
const PROMISE: Duration = Duration::from_secs(25);
/// When a service with [`Bug::LateGhost`] executes what it should have forgotten.
const LATE: Duration = Duration::from_secs(45);
/// Every how many writes a planted bug strikes.
const STRIKES: u64 = 25;

/// A connection, alive or dead, with the commands it brought.
struct Live {
    id: u64,
    stream: usize,
    session: Session,
    /// When each waiting command came and is executed.
    times: Vec<(Instant, Instant)>,
    is_connected: bool,
    /// It belongs to an appliance that is gone: fenced at the next connection.
    is_orphan: bool,
}

/// One disk and the service in front of it.
pub(crate) struct Service {
    unit: usize,
    pub(crate) disk: Disk,
    settings: Settings,
    random: Random,
    bug: Option<Bug>,
    live: Vec<Live>,
    next_id: u64,
    service_time: u64,
    down_until: Instant,
    stuck_until: Instant,
    slow: (Instant, Duration),
    flush_errors: (u32, bool),
    errors: (u32, u32),
    writes: u64,
    /// Commands executed.
    pub(crate) executed: u64,
    /// What the client did that it must not.
    pub(crate) violation: Option<String>,
    signals: Vec<Rc<Signal>>,
}

impl Service {
    pub(crate) fn new(unit: usize, plan: &Plan, bug: Option<Bug>, random: Random) -> Self {
        let mut settings = Settings { structured: plan.structured, ..Settings::default() };
        let minimum = plan.block as u32;
        settings.block_sizes =
            Some(BlockSizes { minimum, preferred: 4096, maximum: plan.max_payload.max(minimum) });
        if !plan.offers_fua {
            settings.flags = TransmissionFlags(settings.flags.0 & !TransmissionFlags::SEND_FUA.0);
        }
        Self {
            unit,
            disk: Disk::new(plan.block * plan.blocks),
            settings,
            random,
            bug,
            live: Vec::new(),
            next_id: 0,
            service_time: plan.service_time,
            down_until: Instant::ZERO,
            stuck_until: Instant::ZERO,
            slow: (Instant::ZERO, Duration::ZERO),
            flush_errors: (0, false),
            errors: (0, 0),
            writes: 0,
            executed: 0,
            violation: None,
            signals: (0..STREAMS).map(|_| Rc::new(Signal::new())).collect(),
        }
    }

    /// The process dies. What it had received may still be executed, if that was with the kernel.
    pub(crate) fn crash(
        &mut self,
        now: Instant,
        down: Duration,
        loses_cache: bool,
        keeps_requests: bool,
        history: &mut History,
    ) -> Result<(), String> {
        self.down_until = now + down;
        self.kill(now, keeps_requests);
        if !keeps_requests || loses_cache {
            self.live.clear();
        }
        if loses_cache { self.lose_cache(now, history) } else { Ok(()) }
    }

    fn lose_cache(&mut self, now: Instant, history: &mut History) -> Result<(), String> {
        history.rolled_back(self.unit, self.disk.content(), self.disk.durable(), now)?;
        self.disk.crash();
        Ok(())
    }

    /// All connections are reset. What they brought is executed in its time or, where it `lingers`, at any time that the
    /// service's promise allows.
    pub(crate) fn kill(&mut self, now: Instant, lingers: bool) {
        for live in self.live.iter_mut().filter(|live| live.is_connected) {
            live.is_connected = false;
            for (came, due) in live.times.iter_mut().filter(|_| lingers) {
                let left = (*came + PROMISE).since(now).as_micros() as u64;
                *due = now + Duration::from_micros(self.random.below(left + 1));
            }
        }
        self.wake();
    }

    pub(crate) fn stick(&mut self, until: Instant) {
        self.stuck_until = until;
        for (_, due) in self.live.iter_mut().flat_map(|live| &mut live.times) {
            *due = (*due).max(until);
        }
    }

    pub(crate) fn slow_down(&mut self, until: Instant, delay: Duration) {
        self.slow = (until, delay);
    }

    pub(crate) fn fail_flushes(&mut self, count: u32, drops: bool) {
        self.flush_errors = (count, drops);
    }

    pub(crate) fn fail(&mut self, count: u32, code: u32) {
        self.errors = (count, code);
    }

    /// The appliance is gone. Its successor is nobody that plain NBD could tell from a second writer, so the service
    /// fences: it is done with the old connections before it admits a new one.
    pub(crate) fn orphan(&mut self) {
        for live in &mut self.live {
            live.is_orphan = true;
        }
    }

    /// Nothing goes wrong any more.
    pub(crate) fn heal(&mut self, now: Instant) {
        self.down_until = self.down_until.min(now);
        self.stuck_until = now;
        self.slow.0 = now;
        self.flush_errors.0 = 0;
        self.errors.0 = 0;
        for (_, due) in self.live.iter_mut().flat_map(|live| &mut live.times) {
            *due = (*due).min(now + Duration::from_millis(100));
        }
    }

    fn wake(&self) {
        for signal in &self.signals {
            signal.raise();
        }
    }

    /// A connection was accepted, if anybody is there.
    fn open(&mut self, now: Instant, stream: usize, history: &mut History) -> Option<u64> {
        if now < self.down_until {
            return None;
        }
        let orphans: Vec<u64> = self.live.iter().filter(|live| live.is_orphan).map(|live| live.id).collect();
        for id in orphans {
            while let Some(place) = self.live.iter().position(|live| live.id == id && !live.times.is_empty())
            {
                let shape = if self.random.chance(500) { Shape::Plain } else { Shape::Dropped };
                self.execute(now, place, 0, shape, history);
            }
            self.live.retain(|live| live.id != id);
        }
        self.next_id += 1;
        self.live.push(Live {
            id: self.next_id,
            stream,
            session: Session::new(&self.settings, &self.disk),
            times: Vec::new(),
            is_connected: true,
            is_orphan: false,
        });
        Some(self.next_id)
    }

    fn place(&self, id: u64) -> Option<usize> {
        self.live.iter().position(|live| live.id == id && live.is_connected)
    }

    fn receive(&mut self, now: Instant, place: usize, bytes: &[u8]) {
        self.live[place].session.receive(bytes);
        let rules = &self.live[place].session.violations;
        if let Some(rule) = rules.first() {
            self.violation.get_or_insert(format!("unit {}: the client sent {rule}", self.unit));
        }
        while self.live[place].times.len() < self.live[place].session.waiting.len() {
            let due = self.due(now);
            self.live[place].times.push((now, due));
        }
        self.check_order(place);
    }

    /// Two overlapping requests that change the medium must never be in flight together.
    fn check_order(&mut self, place: usize) {
        let waiting = &self.live[place].session.waiting;
        let Some((last, others)) = waiting.split_last() else { return };
        let changes = |code| matches!(code, command::WRITE | command::TRIM | command::WRITE_ZEROES);
        for other in others {
            let (a, b) = (&last.request, &other.request);
            let overlap =
                a.offset < b.offset + u64::from(b.length) && b.offset < a.offset + u64::from(a.length);
            if overlap && changes(a.command) && changes(b.command) {
                self.violation.get_or_insert(format!("unit {}: {a:?} in flight with {b:?}", self.unit));
            }
        }
    }

    fn due(&mut self, now: Instant) -> Instant {
        let mut time = self.random.below(self.service_time + 1);
        if now < self.slow.0 {
            time += self.random.below(self.slow.1.as_micros() as u64);
        }
        (now + Duration::from_micros(time)).max(self.stuck_until)
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.live.iter().flat_map(|live| &live.times).map(|(_, due)| *due).min()
    }

    /// Execute what is due. Answers whether anything was.
    pub(crate) fn step(&mut self, now: Instant, history: &mut History) -> bool {
        let mut moved = false;
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
            let shape = self.shape(now, place, index, history);
            self.execute(now, place, index, shape, history);
        }
        self.live.retain(|live| live.is_connected || !live.times.is_empty());
        moved
    }

    fn shape(&mut self, now: Instant, place: usize, index: usize, history: &mut History) -> Shape {
        let request = self.live[place].session.waiting[index].request;
        if request.command == command::FLUSH && self.flush_errors.0 > 0 {
            self.flush_errors.0 -= 1;
            if self.flush_errors.1
                && let Err(reason) = self.lose_cache(now, history)
            {
                self.violation.get_or_insert(reason);
            }
            return Shape::Error(5);
        }
        if self.errors.0 > 0 && request.command != command::FLUSH {
            self.errors.0 -= 1;
            return Shape::Error(self.errors.1);
        }
        if self.random.chance(300) { Shape::Pieces(self.random.next()) } else { Shape::Plain }
    }

    fn execute(&mut self, now: Instant, place: usize, index: usize, shape: Shape, history: &mut History) {
        let code = self.live[place].session.waiting[index].request.command;
        let is_write = code == command::WRITE && !matches!(shape, Shape::Error(_) | Shape::Dropped);
        self.writes += u64::from(is_write);
        let strikes = is_write && self.writes.is_multiple_of(STRIKES);
        let live = &mut self.live[place];
        let (came, _) = live.times.remove(index);
        let (offset, length) =
            (live.session.waiting[index].request.offset, live.session.waiting[index].request.length);
        let connection = if live.is_connected { "alive" } else { "dead" };
        log::debug!("service {}: {code} {offset}+{length} of {came:?} ({connection}): {shape:?}", self.unit);
        match self.bug {
            Some(Bug::LostWrite) if strikes => live.session.execute(&mut self.disk.clone(), index, shape),
            Some(Bug::LyingFlush) if code == command::FLUSH => {
                live.session.execute(&mut self.disk.clone(), index, shape);
            }
            Some(Bug::MisdirectedWrite) if strikes => {
                let waiting = &mut live.session.waiting[index];
                let length = u64::from(waiting.request.length);
                if waiting.request.offset >= length {
                    waiting.request.offset -= length;
                }
                live.session.execute(&mut self.disk, index, shape);
            }
            Some(Bug::BitRot) if strikes => {
                let waiting = &mut live.session.waiting[index];
                let middle = waiting.payload.len() / 2;
                waiting.payload[middle] ^= 0x10;
                live.session.execute(&mut self.disk, index, shape);
            }
            _ => live.session.execute(&mut self.disk, index, shape),
        }
        if self.bug == Some(Bug::SilentRollback)
            && strikes
            && let Err(reason) = self.lose_cache(now, history)
        {
            self.violation.get_or_insert(reason);
        }
        self.executed += 1;
        self.signals[self.live[place].stream].raise();
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

/// What the streams of one service share.
pub(crate) struct Door {
    pub(crate) service: Rc<RefCell<Service>>,
    pub(crate) history: Rc<RefCell<History>>,
    pub(crate) now: Rc<Cell<Instant>>,
}

/// The task of one stream of a service.
pub(crate) async fn serve(door: Rc<Door>, index: usize, port: u16, mut stream: Stream) {
    let signal = door.service.borrow().signals[index].clone();
    loop {
        stream.accept(port).await;
        let opened = door.service.borrow_mut().open(door.now.get(), index, &mut door.history.borrow_mut());
        if let Some(id) = opened {
            poll_fn(|cx| pump(cx, &door, id, &stream, &signal)).await;
            door.service.borrow_mut().close(id);
        }
        stream.abort();
        // The reset goes out before the slot listens again.
        kernel_runtime::yield_now().await;
    }
}

fn pump(cx: &mut Context<'_>, door: &Door, id: u64, stream: &Stream, signal: &Signal) -> Poll<()> {
    loop {
        let service = &mut *door.service.borrow_mut();
        let Some(place) = service.place(id) else { return Poll::Ready(()) };
        let mut moved = false;
        let mut bytes = [0; 16 << 10];
        match stream.try_read(&mut bytes) {
            Ok(TryRead::Bytes(count)) => {
                service.receive(door.now.get(), place, &bytes[..count]);
                moved = true;
            }
            Ok(TryRead::Empty) => {}
            Ok(TryRead::Finished) | Err(_) => return Poll::Ready(()),
        }
        let session = &mut service.live[place].session;
        if !session.output.is_empty() {
            match stream.try_write(&session.output) {
                Ok(count) => {
                    session.output.drain(..count);
                    moved |= count > 0;
                }
                Err(_) => return Poll::Ready(()),
            }
        }
        if session.has_ended() && session.output.is_empty() {
            return Poll::Ready(());
        }
        if !moved {
            stream.register(cx);
            if signal.poll_lower(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
