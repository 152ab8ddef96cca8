//! What one task leaves for another: lists of commands to look at, and a flag that wakes.

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::task::{Context, Poll};
use kernel_runtime::{Instant, Signal};
use storage_iscsi::Task;
use storage_scsi::Status;

/// The place of a running command in [`crate::commands::Commands`].
pub(crate) type CommandIndex = u32;

/// A connection's mailbox.
pub(crate) struct Mailbox {
    signal: Signal,
    /// Commands of this connection that may go on.
    ready: RefCell<Vec<CommandIndex>>,
    /// Commands that were taken from this connection, and the status their initiator is told, if any.
    revoked: RefCell<Vec<(Task, Option<Status>)>>,
    notice: Cell<Option<Notice>>,
}

/// What an initiator is to be told without having asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// There are other logical units.
    LunsChanged,
    /// It is to log out until then, or its session ends.
    Leave(Instant),
}

impl Mailbox {
    pub(crate) fn new(capacity: usize) -> Self {
        let ready = RefCell::new(Vec::with_capacity(capacity));
        Self { signal: Signal::new(), ready, revoked: RefCell::new(Vec::new()), notice: Cell::new(None) }
    }

    /// `command` may go on.
    pub(crate) fn push(&self, command: CommandIndex) {
        let mut ready = self.ready.borrow_mut();
        // The same command may become ready by several completions before it is looked at.
        if ready.last() != Some(&command) {
            ready.push(command);
        }
        self.signal.raise();
    }

    /// The command of `task` was ended by somebody else; its initiator is told this status, if any.
    pub(crate) fn revoke(&self, task: Task, status: Option<Status>) {
        self.revoked.borrow_mut().push((task, status));
        self.signal.raise();
    }

    /// Something else has changed that the connection waits for.
    pub(crate) fn nudge(&self) {
        self.signal.raise();
    }

    /// Forget what was left for a connection that is over.
    pub(crate) fn clear(&self) {
        self.ready.borrow_mut().clear();
        self.revoked.borrow_mut().clear();
        self.notice.set(None);
    }

    /// Have something told. Whoever is to leave need not know what there is.
    pub(crate) fn notify(&self, notice: Notice) {
        if !matches!((self.notice.get(), notice), (Some(Notice::Leave(_)), Notice::LunsChanged)) {
            self.notice.set(Some(notice));
        }
        self.signal.raise();
    }

    /// What is to be told.
    pub(crate) fn take_notice(&self) -> Option<Notice> {
        self.notice.take()
    }

    /// Move out what is ready.
    pub(crate) fn drain_into(&self, out: &mut Vec<CommandIndex>) {
        out.append(&mut self.ready.borrow_mut());
    }

    /// The next task that somebody else has ended.
    pub(crate) fn pop_revoked(&self) -> Option<(Task, Option<Status>)> {
        self.revoked.borrow_mut().pop()
    }

    /// Ready when something was left since the last time.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.signal.poll_lower(cx)
    }
}
