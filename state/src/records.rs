//! The store on its disk, and tasks that wait for it.

use crate::{Change, DiskFailed, Error, Request, Store};
use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};
use core::time::Duration;
use kernel_runtime::Instant;

/// How long a disk that has failed is left alone.
const REST: Duration = Duration::from_secs(5);

/// A disk of blocks. Whoever implements it bounds the time that a request takes.
pub trait Disk {
    /// Its whole blocks of [`crate::BLOCK`] bytes.
    fn blocks(&self) -> u64;

    /// Carry out a request. Called again with the same one, and no other, until it has ended; what it reads has been put
    /// in place then.
    fn carry(&mut self, request: Request<'_>, now: Instant) -> Poll<Result<(), DiskFailed>>;

    /// The machine is about to idle: see to it that it is woken when a request ends. Answers `true` if there is something
    /// already.
    fn arm(&mut self) -> bool;

    /// When [`Disk::carry`] is to be called although nothing has happened, while a request is with it.
    fn deadline(&self) -> Option<Instant>;
}

/// Records that outlive a restart. Clones are the same.
#[derive(Clone)]
pub struct Records(Rc<Inner>);

struct Inner {
    store: RefCell<Store>,
    disk: RefCell<Box<dyn Disk>>,
    busy: Cell<bool>,
    /// When the disk, which has failed, is tried again.
    retry: Cell<Option<Instant>>,
    /// How many changes were begun, and the end of the last that has ended.
    begun: Cell<u64>,
    ended: Cell<(u64, Result<(), Error>)>,
    waiting: RefCell<Vec<Waker>>,
}

impl Records {
    /// Read a disk, busily: this is for the start. The records may take `limit` bytes of memory; `identity` becomes that of
    /// a blank disk. Both it and `seed` are random and differ at each start.
    ///
    /// # Errors
    /// When the disk is not blank and not one of ours as it was left, or fails. Nothing is written then.
    pub fn open(
        mut disk: Box<dyn Disk>,
        limit: usize,
        (identity, seed): ([u8; 16], u64),
        now: impl Fn() -> Instant,
    ) -> Result<Self, Error> {
        let mut store = Store::new(disk.blocks(), limit, identity, seed);
        while let Some(request) = store.request() {
            if let Poll::Ready(result) = disk.carry(request, now())
                && let Some(Err(error)) = store.done(result)
            {
                return Err(error);
            }
        }
        Ok(Self(Rc::new(Inner {
            store: RefCell::new(store),
            disk: RefCell::new(disk),
            busy: Cell::new(false),
            retry: Cell::new(None),
            begun: Cell::new(0),
            ended: Cell::new((0, Ok(()))),
            waiting: RefCell::new(Vec::new()),
        })))
    }

    /// How many bytes of records there can be at most, on the disk and in memory.
    pub fn room(&self) -> usize {
        self.0.store.borrow().room()
    }

    /// The value of a key, as it was last made durable.
    pub fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.store.borrow().get(key).map(Vec::from)
    }

    /// Show `look` the key and the value of each record whose key begins with `prefix`, ascending by key, as they were last
    /// made durable.
    pub fn each(&self, prefix: &[u8], mut look: impl FnMut(&[u8], &[u8])) {
        self.0.store.borrow().with_prefix(prefix).for_each(|(key, value)| look(key, value));
    }

    /// Make these changes durable, all or none; those of others come before or after them.
    ///
    /// # Errors
    /// As told at [`Error`]; none of them is there then. A disk that has failed is left alone for five seconds, in which
    /// all changes fail at once.
    pub async fn keep(&self, changes: &[Change<'_>]) -> Result<(), Error> {
        let inner = &*self.0;
        let ticket = poll_fn(|cx| {
            if inner.busy.get() {
                inner.waiting.borrow_mut().push(cx.waker().clone());
                return Poll::Pending;
            }
            if inner.retry.get().is_some() {
                return Poll::Ready(Err(Error::Disk));
            }
            Poll::Ready(inner.store.borrow_mut().begin(changes).map(|()| {
                inner.busy.set(true);
                inner.begun.update(|begun| begun + 1);
                inner.begun.get()
            }))
        });
        let ticket = ticket.await?;
        poll_fn(|cx| match inner.ended.get() {
            (ended, result) if ended == ticket => Poll::Ready(result),
            _ => {
                inner.waiting.borrow_mut().push(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// Let the disk and the store go on. To be called in each turn of the machine.
    #[inline]
    pub fn turn(&self, now: Instant) {
        if self.0.busy.get() || self.0.retry.get().is_some() {
            self.0.go_on(now);
        }
    }

    /// The machine is about to idle. Answers `true` if there is something to do already.
    pub fn arm(&self) -> bool {
        self.0.disk.borrow_mut().arm()
    }

    /// Whether a change is on its way to the disk.
    pub fn is_busy(&self) -> bool {
        self.0.busy.get()
    }

    /// When [`Records::turn`] is to be called at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.0.busy.get() { self.0.disk.borrow().deadline() } else { self.0.retry.get() }
    }
}

impl Inner {
    #[inline(never)]
    fn go_on(&self, now: Instant) {
        let store = &mut *self.store.borrow_mut();
        if !self.busy.get() {
            if self.retry.get().is_some_and(|retry| retry > now) {
                return;
            }
            self.retry.set(None);
            store.heal();
            self.busy.set(store.is_busy());
        }
        let disk = &mut *self.disk.borrow_mut();
        while let Some(request) = store.request() {
            let Poll::Ready(result) = disk.carry(request, now) else { return };
            if let Some(end) = store.done(result) {
                self.ended(store, end, now);
            }
        }
    }

    fn ended(&self, store: &Store, end: Result<(), Error>, now: Instant) {
        match end {
            Ok(()) if self.retry.take().is_some() => log::info!("the state disk works again"),
            Ok(()) => {}
            Err(error) => log::error!("the state disk: {error}"),
        }
        self.retry.set(store.is_in_doubt().then_some(now + REST));
        self.busy.set(false);
        self.ended.set((self.begun.get(), end));
        self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }
}
