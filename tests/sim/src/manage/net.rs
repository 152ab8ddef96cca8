//! The connections of the management world, and all that is to happen in it, in the order of time.

use crate::random::Random;
use kernel_runtime::Instant;
use management::Wire;
use network::{ConnectError, Reset};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Something that happens at its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Bytes arrive at an end of a connection.
    Bytes {
        conn: usize,
        end: usize,
        bytes: Vec<u8>,
    },
    /// The other end has finished.
    Finish {
        conn: usize,
        end: usize,
    },
    /// The connection is gone.
    Reset {
        conn: usize,
        end: usize,
    },
    /// The journal's disk has written what the agent of this run gave it.
    Synced {
        run: u64,
    },
    /// A native call of the agent of this run comes back.
    Job {
        run: u64,
        job: u64,
    },
    /// Time passes for the agent of this run.
    Tick {
        run: u64,
    },
    /// Whoever waits for the agent of this run has waited as long as it would.
    Patience {
        run: u64,
    },
    /// The guest of this number does what it was asked to, if it still runs.
    Guest {
        machine: u128,
    },
    /// A client goes on.
    Client {
        client: usize,
    },
    /// The fault of this number.
    Fault {
        fault: usize,
    },
    /// The appliance of this number starts, in its life of this number.
    Boot {
        who: usize,
        life: u64,
    },
    /// It goes on after a pause.
    GoOn {
        who: usize,
    },
    /// The agent starts.
    Agent {
        run: u64,
    },
    /// The state disk of an appliance works again, connections come about again, and they are as fast as ever.
    Mended {
        who: usize,
    },
    Uncut,
    /// The agent does not die at a point any more, if it has not.
    Disarm,
    /// The first appliance has come by the place at which it is to be reset.
    ResetNow,
}

/// The two ends of a connection.
pub(crate) const DIALLER: usize = 0;
pub(crate) const ACCEPTOR: usize = 1;

/// Places that operations come by on their way through an appliance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Passed {
    /// A client has asked for one.
    pub(crate) asked: bool,
    /// It was sent to the agent.
    pub(crate) sent: bool,
    /// The agent has answered.
    pub(crate) answered: bool,
}

/// Who holds the ends that are not an appliance's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The acceptor is the agent.
    Link,
    /// The dialler is this client.
    Client(usize),
}

#[derive(Default)]
struct Half {
    bytes: VecDeque<u8>,
    finished: bool,
    reset: bool,
    reader: Option<Waker>,
}

struct Conn {
    kind: Kind,
    /// The appliance.
    who: usize,
    /// What each end has to read.
    halves: [Half; 2],
    /// When the last that was sent to each end arrives.
    last: [Instant; 2],
    is_open: bool,
}

pub(crate) struct Net {
    pub(crate) now: Rc<Cell<Instant>>,
    events: RefCell<BTreeMap<(Instant, u64), Event>>,
    number: Cell<u64>,
    conns: RefCell<Vec<Conn>>,
    random: RefCell<Random>,
    /// API connections that wait for a slot, of each appliance, and the slots that wait for one.
    waiting: RefCell<[VecDeque<usize>; 2]>,
    slots: RefCell<[Vec<Waker>; 2]>,
    /// Nothing comes through to the host.
    pub(crate) cut: Cell<bool>,
    /// How much longer everything takes on the host-only network.
    pub(crate) delay: Cell<Duration>,
    pub(crate) agent_up: Cell<bool>,
    /// What the first appliance's operations have come by since this was last looked at.
    pub(crate) passed: Cell<Passed>,
    /// For the digest: bytes that were carried.
    pub(crate) carried: Cell<u64>,
}

impl Net {
    pub(crate) fn new(random: Random) -> Rc<Self> {
        Rc::new(Self {
            now: Rc::default(),
            events: RefCell::default(),
            number: Cell::new(0),
            conns: RefCell::default(),
            random: RefCell::new(random),
            waiting: RefCell::default(),
            slots: RefCell::default(),
            cut: Cell::new(false),
            delay: Cell::new(Duration::ZERO),
            agent_up: Cell::new(false),
            passed: Cell::default(),
            carried: Cell::new(0),
        })
    }

    /// Let something happen in a while.
    pub(crate) fn after(&self, wait: Duration, event: Event) {
        self.at(self.now.get() + wait, event);
    }

    pub(crate) fn at(&self, at: Instant, event: Event) {
        self.number.set(self.number.get() + 1);
        self.events.borrow_mut().insert((at, self.number.get()), event);
    }

    /// When the next thing happens.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        self.events.borrow().first_key_value().map(|((at, _), _)| *at)
    }

    /// What happens now.
    pub(crate) fn next_event(&self) -> Option<Event> {
        let mut events = self.events.borrow_mut();
        let first = events.first_entry()?;
        (first.key().0 <= self.now.get()).then(|| first.remove())
    }

    /// A new connection to an appliance or from it.
    pub(crate) fn open(&self, kind: Kind, who: usize) -> usize {
        let mut conns = self.conns.borrow_mut();
        let last = [self.now.get(); 2];
        conns.push(Conn { kind, who, halves: Default::default(), last, is_open: true });
        if let Kind::Client(_) = kind {
            self.waiting.borrow_mut()[who].push_back(conns.len() - 1);
            self.slots.borrow_mut()[who].drain(..).for_each(Waker::wake);
        }
        conns.len() - 1
    }

    pub(crate) fn kind(&self, conn: usize) -> Kind {
        self.conns.borrow()[conn].kind
    }

    /// Send to an end; what is sent arrives in order.
    pub(crate) fn send(&self, conn: usize, end: usize, event: impl FnOnce(usize, usize) -> Event) {
        let mut conns = self.conns.borrow_mut();
        let there = &mut conns[conn];
        if !there.is_open {
            return;
        }
        let mut random = self.random.borrow_mut();
        let mut wait = Duration::from_micros(random.range(50, 400));
        if there.kind == Kind::Link {
            wait += self.delay.get();
        }
        let at = (self.now.get() + wait).max(there.last[end]);
        there.last[end] = at;
        drop(conns);
        // Through a cut nothing comes, and nobody hears of it.
        if !(self.cut.get() && self.kind(conn) == Kind::Link) {
            self.at(at, event(conn, end));
        }
    }

    pub(crate) fn write(&self, conn: usize, end: usize, bytes: &[u8]) {
        if self.kind(conn) == Kind::Link && end == ACCEPTOR && self.conns.borrow()[conn].who == 0 {
            let mut passed = self.passed.get();
            passed.sent |= bytes.starts_with(b"POST /v1/command");
            self.passed.set(passed);
        }
        self.carried.set(self.carried.get() + bytes.len() as u64);
        self.send(conn, end, |conn, end| Event::Bytes { conn, end, bytes: bytes.to_vec() });
    }

    /// The connection is gone for both; what was on its way may still arrive, in part.
    pub(crate) fn reset(&self, conn: usize) {
        for end in [DIALLER, ACCEPTOR] {
            self.send(conn, end, |conn, end| Event::Reset { conn, end });
        }
    }

    /// All connections to the agent break, now, each wherever it is.
    pub(crate) fn break_links(&self) {
        let mut events = self.events.borrow_mut();
        let conns = self.conns.borrow();
        let is_link = |conn: &usize| conns[*conn].kind == Kind::Link;
        for event in events.values_mut() {
            if let Event::Bytes { conn, bytes, .. } = event
                && is_link(conn)
            {
                bytes.truncate(self.random.borrow_mut().below(bytes.len() as u64 + 1) as usize);
            }
        }
        let links: Vec<usize> =
            (0..conns.len()).filter(|conn| is_link(conn) && conns[*conn].is_open).collect();
        drop((events, conns));
        links.into_iter().for_each(|conn| self.reset(conn));
    }

    /// What an appliance that has just died has sent to the agent arrives only now and then some.
    pub(crate) fn linger(&self, who: usize, wait: Duration) {
        let mut events = self.events.borrow_mut();
        let conns = self.conns.borrow();
        let late: Vec<(Instant, u64)> = events
            .iter()
            .filter(|(_, event)| {
                matches!(event, Event::Bytes { conn, end: ACCEPTOR, .. }
                    if conns[*conn].kind == Kind::Link && conns[*conn].who == who)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in late {
            if let Some(event) = events.remove(&key) {
                events.insert((key.0 + wait, key.1), event);
            }
        }
    }

    /// An appliance is gone: those who wait for it hear of it.
    pub(crate) fn abandon(&self, who: usize) {
        self.waiting.borrow_mut()[who].clear();
        self.slots.borrow_mut()[who].clear();
        let conns = self.conns.borrow();
        let callers: Vec<usize> = (0..conns.len())
            .filter(|conn| conns[*conn].who == who && conns[*conn].kind != Kind::Link && conns[*conn].is_open)
            .collect();
        drop(conns);
        callers.into_iter().for_each(|conn| self.reset(conn));
    }

    /// Something has arrived at an end that an appliance reads.
    pub(crate) fn arrive(&self, conn: usize, end: usize, bytes: &[u8]) {
        let mut conns = self.conns.borrow_mut();
        if conns[conn].who == 0 {
            let mut passed = self.passed.get();
            match conns[conn].kind {
                Kind::Link => passed.answered |= passed.sent,
                Kind::Client(_) => passed.asked |= bytes.starts_with(b"POST /v1/instances"),
            }
            self.passed.set(passed);
        }
        let half = &mut conns[conn].halves[end];
        half.bytes.extend(bytes);
        half.reader.take().into_iter().for_each(Waker::wake);
    }

    pub(crate) fn finished(&self, conn: usize, end: usize) {
        let mut conns = self.conns.borrow_mut();
        let half = &mut conns[conn].halves[end];
        half.finished = true;
        half.reader.take().into_iter().for_each(Waker::wake);
    }

    pub(crate) fn was_reset(&self, conn: usize, end: usize) {
        let mut conns = self.conns.borrow_mut();
        let there = &mut conns[conn];
        there.is_open = false;
        there.halves[end].reset = true;
        there.halves[end].reader.take().into_iter().for_each(Waker::wake);
    }
}

/// A connection slot of an appliance.
pub(crate) struct Slot {
    pub(crate) net: Rc<Net>,
    pub(crate) who: usize,
    conn: Option<(usize, usize)>,
}

impl Slot {
    pub(crate) fn new(net: &Rc<Net>, who: usize) -> Self {
        Self { net: net.clone(), who, conn: None }
    }
}

impl Wire for Slot {
    async fn accept(&mut self, _: u16) {
        let (net, who) = (&self.net, self.who);
        let conn = poll_fn(|cx| match net.waiting.borrow_mut()[who].pop_front() {
            Some(conn) => Poll::Ready(conn),
            None => {
                net.slots.borrow_mut()[who].push(cx.waker().clone());
                Poll::Pending
            }
        });
        self.conn = Some((conn.await, ACCEPTOR));
    }

    async fn connect(&mut self, _: SocketAddrV4) -> Result<(), ConnectError> {
        if self.net.cut.get() {
            poll_fn(|_| Poll::<()>::Pending).await;
        }
        if !self.net.agent_up.get() {
            return Err(ConnectError::Refused);
        }
        self.conn = Some((self.net.open(Kind::Link, self.who), DIALLER));
        Ok(())
    }

    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Reset> {
        let Some((conn, end)) = self.conn else { return Err(Reset) };
        poll_fn(|cx| {
            let half = &mut self.net.conns.borrow_mut()[conn].halves[end];
            if half.reset {
                return Poll::Ready(Err(Reset));
            }
            if half.bytes.is_empty() && !half.finished {
                half.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let count = half.bytes.len().min(buffer.len());
            buffer.iter_mut().zip(half.bytes.drain(..count)).for_each(|(place, byte)| *place = byte);
            Poll::Ready(Ok(count))
        })
        .await
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Reset> {
        let Some((conn, end)) = self.conn else { return Err(Reset) };
        if self.net.conns.borrow()[conn].halves[end].reset {
            return Err(Reset);
        }
        self.net.write(conn, 1 - end, bytes);
        Ok(bytes.len())
    }

    async fn finish(&mut self) {
        if let Some((conn, end)) = self.conn.take() {
            self.net.send(conn, 1 - end, |conn, end| Event::Finish { conn, end });
        }
    }

    fn abort(&mut self) {
        if let Some((conn, end)) = self.conn.take() {
            self.net.send(conn, 1 - end, |conn, end| Event::Reset { conn, end });
        }
    }
}
