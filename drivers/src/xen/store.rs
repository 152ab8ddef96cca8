//! xenstore: a tree of small texts by which Xen's tools and domains tell each other what there is (`io/xs_wire.h`).
//!
//! Requests and answers go through two rings of bytes in a page that xenstore has too. Whoever asks waits for his answer, for a bounded
//! time. A store that does not answer, or whose answers make no sense, is not asked again.

use crate::Error;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::sync::atomic::{Ordering, fence};
use kernel_io::xen::{Event, Guest, Parameter};
use kernel_io::{Mmio, PAGE, Patience};

/// Bytes of each ring; where they are in the page, and their indices: how far they were read, and written.
const RING: u32 = 1024;
const REQUESTS: Ring = Ring { data: 0, consumed: 2048, produced: 2052 };
const ANSWERS: Ring = Ring { data: 1024, consumed: 2056, produced: 2060 };

/// Types of messages.
const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const WATCH: u32 = 4;
const WRITE: u32 = 11;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;

/// Words in front of a message: type, the request's number, transaction, length. And the most bytes behind them.
const HEADER: usize = 16;
const LONGEST: usize = 4096;
/// The number of our first request: not one with which somebody before us has begun.
const FIRST: u32 = 0x436f_7262;
/// How long the store may take to answer, in microseconds. Miri takes its time for each.
const ANSWER_TIME: u32 = if cfg!(miri) { 2_000 } else { 5_000_000 };
/// From one look to the next.
const STEP: u32 = 10;

/// Where a ring is in the page.
#[derive(Clone, Copy, Debug)]
struct Ring {
    data: usize,
    consumed: usize,
    produced: usize,
}

/// What comes in, as far as it has.
#[derive(Debug, Default)]
struct Incoming {
    header: [u8; HEADER],
    got: usize,
    body: Vec<u8>,
}

/// A message that has come.
struct Message {
    kind: u32,
    number: u32,
    body: Vec<u8>,
}

/// The connection to the store.
#[derive(Debug)]
pub(super) struct Store {
    guest: Rc<Guest>,
    page: Mmio,
    port: u32,
    /// Our own indices: how far requests are written, and answers read.
    sent: Cell<u32>,
    taken: Cell<u32>,
    number: Cell<u32>,
    incoming: RefCell<Incoming>,
    /// What is set when something has changed, by the token of its watch.
    watches: RefCell<Vec<Rc<Cell<bool>>>>,
    is_over: Cell<bool>,
}

impl Store {
    /// The machine's; `None` where there is none.
    pub(super) fn connect(guest: &Rc<Guest>) -> Result<Option<Self>, Error> {
        let number = guest.parameter(Parameter::StorePage);
        let (Some(number), Some(port)) = (number, guest.parameter(Parameter::StorePort)) else {
            return Ok(None);
        };
        let address = number.checked_mul(PAGE as u64).ok_or(Error::Layout("the page of the store"))?;
        let page = Mmio::map_memory(address, PAGE)?;
        // Answers that somebody before us has not read are not ours, and may begin in the middle.
        let taken = page.read32(ANSWERS.produced);
        page.write32(ANSWERS.consumed, taken);
        Ok(Some(Self {
            guest: guest.clone(),
            port: port as u32,
            sent: Cell::new(page.read32(REQUESTS.produced)),
            taken: Cell::new(taken),
            page,
            number: Cell::new(FIRST),
            incoming: RefCell::default(),
            watches: RefCell::default(),
            is_over: Cell::new(false),
        }))
    }

    /// What a path holds; `None` when it is not there, or not for us.
    pub(super) fn read(&self, path: &str) -> Result<Option<String>, Error> {
        let answer = self.ask(READ, &[path, "\0"])?;
        Ok(answer.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The names in a directory: none when it is not there.
    pub(super) fn names(&self, path: &str) -> Result<Vec<String>, Error> {
        let answer = self.ask(DIRECTORY, &[path, "\0"])?.unwrap_or_default();
        let names = answer.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// Let a path hold a value.
    pub(super) fn write(&self, path: &str, value: &str) -> Result<(), Error> {
        self.ask(WRITE, &[path, "\0", value])?.map(|_| ()).ok_or(Error::Refused("to write to the store"))
    }

    /// What is set whenever the path or something below has changed, and at first.
    pub(super) fn watch(&self, path: &str) -> Result<Rc<Cell<bool>>, Error> {
        let changed = Rc::new(Cell::new(false));
        let token = self.watches.borrow().len();
        self.watches.borrow_mut().push(changed.clone());
        let answer = self.ask(WATCH, &[path, "\0", &alloc::format!("{token}"), "\0"])?;
        answer.map(|_| changed).ok_or(Error::Refused("to watch the store"))
    }

    /// Let others run for a moment.
    pub(super) fn rest(&self) {
        self.guest.rest();
        kernel_io::delay(STEP);
    }

    /// Take what has come, of which answers are nobody's.
    pub(super) fn poll(&self) {
        if !self.is_over.get() {
            let polled = self.messages(&mut |_| false);
            // Whatever is wrong has been said.
            let _ = self.judge(polled);
        }
    }

    /// Whether it is not asked any more.
    pub(super) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// Ask, and wait for the answer; `None` when there is no such path, or not for us: it says that also of paths that are no more.
    fn ask(&self, kind: u32, parts: &[&str]) -> Result<Option<Vec<u8>>, Error> {
        if self.is_over.get() {
            return Err(Error::NoAnswer);
        }
        let number = self.number.get().wrapping_add(1);
        self.number.set(number);
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut request = Vec::with_capacity(HEADER + length);
        [kind, number, 0, length as u32].iter().for_each(|word| request.extend(word.to_le_bytes()));
        parts.iter().for_each(|part| request.extend(part.as_bytes()));
        let answered = self.send(&request).and_then(|()| self.answer(number));
        let answered = self.judge(answered)?;
        match answered.kind {
            ERROR if matches!(&answered.body[..], b"ENOENT\0" | b"EACCES\0") => Ok(None),
            // That may pass.
            ERROR => Err(Error::Refused("what the store was asked for")),
            answer if answer == kind => Ok(Some(answered.body)),
            _ => self.judge(Err(Error::Layout("an answer of another kind"))),
        }
    }

    /// Who cannot be believed or does not answer is not asked again.
    fn judge<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &result
            && !self.is_over.replace(true)
        {
            log::error!("xenstore: not asked again: {error}");
        }
        result
    }

    fn notify(&self) {
        // There is nothing to be done about an event that does not arrive.
        let _ = self.guest.event(Event::Notify(self.port));
    }

    /// Write a request, as there is room.
    fn send(&self, mut bytes: &[u8]) -> Result<(), Error> {
        let mut patience = Patience::new(ANSWER_TIME);
        while !patience.is_over() {
            let sent = self.sent.get();
            let unread = sent.wrapping_sub(self.page.read32(REQUESTS.consumed));
            let room = RING.checked_sub(unread).ok_or(Error::Layout("an index of the store's"))?;
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            fence(Ordering::SeqCst);
            for (at, byte) in (0..).map(|at| sent.wrapping_add(at)).zip(now) {
                self.page.write8(REQUESTS.data + (at % RING) as usize, *byte);
            }
            fence(Ordering::Release);
            self.sent.set(sent.wrapping_add(now.len() as u32));
            self.page.write32(REQUESTS.produced, self.sent.get());
            if !now.is_empty() {
                self.notify();
            }
            if later.is_empty() {
                return Ok(());
            }
            bytes = later;
            self.rest();
        }
        Err(Error::NoAnswer)
    }

    /// Wait for the answer to a request.
    fn answer(&self, number: u32) -> Result<Message, Error> {
        let mut answer = None;
        let mut patience = Patience::new(ANSWER_TIME);
        while !patience.is_over() {
            self.messages(&mut |message: &mut Message| {
                let is_ours = message.number == number;
                if is_ours {
                    let body = core::mem::take(&mut message.body);
                    answer = Some(Message { body, ..*message });
                }
                is_ours
            })?;
            if let Some(answer) = answer {
                return Ok(answer);
            }
            self.rest();
        }
        Err(Error::NoAnswer)
    }

    /// See to what has come, until `take` has taken what it wants.
    fn messages(&self, take: &mut dyn FnMut(&mut Message) -> bool) -> Result<(), Error> {
        let mut incoming = self.incoming.borrow_mut();
        let begun = self.taken.get();
        let there = self.page.read32(ANSWERS.produced).wrapping_sub(begun);
        if there > RING {
            return Err(Error::Layout("an index of the store's"));
        }
        fence(Ordering::Acquire);
        let mut is_done = false;
        for _ in 0..there {
            let at = self.taken.get();
            let byte = self.page.read8(ANSWERS.data + (at % RING) as usize);
            self.taken.set(at.wrapping_add(1));
            if let Some(mut message) = incoming.take(byte)? {
                if message.kind == WATCH_EVENT {
                    self.changed(&message.body);
                } else {
                    is_done = take(&mut message);
                }
            }
            if is_done {
                break;
            }
        }
        if self.taken.get() != begun {
            fence(Ordering::SeqCst);
            self.page.write32(ANSWERS.consumed, self.taken.get());
            self.notify();
        }
        Ok(())
    }

    /// Something was changed that is watched: a path, and the token of the watch.
    fn changed(&self, body: &[u8]) {
        let token = body.split(|byte| *byte == 0).nth(1).and_then(|token| core::str::from_utf8(token).ok());
        let token = token.and_then(|token| token.parse::<usize>().ok());
        if let Some(watch) = token.and_then(|token| self.watches.borrow().get(token).cloned()) {
            watch.set(true);
        }
    }
}

impl Incoming {
    /// The next byte. Answers a message when it is the last of one.
    fn take(&mut self, byte: u8) -> Result<Option<Message>, Error> {
        if self.got < HEADER {
            self.header[self.got] = byte;
            self.got += 1;
            if self.got < HEADER {
                return Ok(None);
            }
            if self.word(3) as usize > LONGEST {
                return Err(Error::Layout("a message of the store's is too long"));
            }
        } else {
            self.body.push(byte);
        }
        if self.body.len() < self.word(3) as usize {
            return Ok(None);
        }
        self.got = 0;
        let body = core::mem::take(&mut self.body);
        Ok(Some(Message { kind: self.word(0), number: self.word(1), body }))
    }

    fn word(&self, index: usize) -> u32 {
        self.header.as_chunks::<4>().0.get(index).map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}
