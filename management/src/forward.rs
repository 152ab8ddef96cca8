//! The way to the agent: a bounded queue of questions between those who ask and the links that carry them.

use crate::ask::{AgentError, LinkState, Question, Reply};
use agent_protocol::Welcome;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};
use core::time::Duration;
use kernel_runtime::{Clock, Instant, Signal, with_deadline};

/// How many questions may wait.
const QUEUE_MAX: usize = 32;
/// How much longer than to its deadline an answer is waited for: what the agent began in time may end after it.
pub(crate) const GRACE: Duration = Duration::from_secs(20);

/// The queue, and what the links have learned of the agent.
pub(crate) struct Forward {
    clock: Clock,
    configured: bool,
    queue: RefCell<VecDeque<Rc<Pending>>>,
    /// Links that wait for a question.
    idle: RefCell<Vec<Waker>>,
    links_up: Cell<usize>,
    /// Why the last attempt to connect failed; `None` before the first.
    down: RefCell<Option<String>>,
    welcome: RefCell<Option<Welcome>>,
}

/// A question that somebody waits on.
pub(crate) struct Pending {
    pub(crate) question: Question,
    /// After this it must not be sent any more.
    pub(crate) deadline: Instant,
    answer: RefCell<Option<Result<Reply, AgentError>>>,
    done: Signal,
}

impl Pending {
    /// Give the answer to whoever waits.
    pub(crate) fn answer(&self, answer: Result<Reply, AgentError>) {
        *self.answer.borrow_mut() = Some(answer);
        self.done.raise();
    }
}

impl Forward {
    pub(crate) fn new(configured: bool, clock: Clock) -> Self {
        Self {
            clock,
            configured,
            queue: RefCell::new(VecDeque::with_capacity(QUEUE_MAX)),
            idle: RefCell::default(),
            links_up: Cell::new(0),
            down: RefCell::default(),
            welcome: RefCell::default(),
        }
    }

    /// How the agent can be reached, taking all links together.
    pub(crate) fn state(&self) -> LinkState {
        if !self.configured {
            return LinkState::NotConfigured;
        }
        if self.links_up.get() > 0 {
            return LinkState::Up;
        }
        self.down.borrow().clone().map_or(LinkState::Connecting, LinkState::Down)
    }

    /// What the agent said when it was last greeted.
    pub(crate) fn with_welcome<T>(&self, look: impl FnOnce(Option<&Welcome>) -> T) -> T {
        look(self.welcome.borrow().as_ref())
    }

    /// Ask the agent, and wait for what comes of it.
    pub(crate) async fn ask(&self, question: Question, deadline: Instant) -> Result<Reply, AgentError> {
        if !self.configured {
            return Err(AgentError::NotConfigured);
        }
        if self.queue.borrow().len() >= QUEUE_MAX {
            return Err(AgentError::Busy);
        }
        let pending =
            Rc::new(Pending { question, deadline, answer: RefCell::default(), done: Signal::new() });
        self.queue.borrow_mut().push_back(pending.clone());
        self.wake();
        if with_deadline(&self.clock, deadline, pending.done.wait()).await.is_err() {
            if self.withdraw(&pending) {
                return Err(AgentError::TooLate);
            }
            // It is on its way: a link has it, and answers it by then, whatever happens.
            let patience = deadline + GRACE + Duration::from_secs(1);
            let _ = with_deadline(&self.clock, patience, pending.done.wait()).await;
        }
        let answer = pending.answer.borrow_mut().take();
        answer.unwrap_or(Err(AgentError::Lost(None, "nothing came back")))
    }

    /// Take a question back that no link has taken yet.
    fn withdraw(&self, pending: &Rc<Pending>) -> bool {
        let mut queue = self.queue.borrow_mut();
        let before = queue.len();
        queue.retain(|other| !Rc::ptr_eq(other, pending));
        queue.len() < before
    }

    /// Wake every link that waited; one that has become busy meanwhile would keep the question from the others.
    fn wake(&self) {
        let idle = core::mem::take(&mut *self.idle.borrow_mut());
        for waker in idle {
            waker.wake();
        }
    }

    /// For a link: the next question.
    pub(crate) async fn next(&self) -> Rc<Pending> {
        poll_fn(|cx| {
            if let Some(pending) = self.queue.borrow_mut().pop_front() {
                return Poll::Ready(pending);
            }
            self.register(cx.waker());
            Poll::Pending
        })
        .await
    }

    /// For a link: wait until there is a question, and leave it there.
    pub(crate) async fn wanted(&self) {
        poll_fn(|cx| {
            if !self.queue.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.register(cx.waker());
            Poll::Pending
        })
        .await;
    }

    fn register(&self, waker: &Waker) {
        let mut idle = self.idle.borrow_mut();
        if !idle.iter().any(|other| other.will_wake(waker)) {
            idle.push(waker.clone());
        }
    }

    /// For a link: the agent was greeted.
    pub(crate) fn is_up(&self, welcome: Welcome) {
        self.links_up.set(self.links_up.get() + 1);
        *self.welcome.borrow_mut() = Some(welcome);
        *self.down.borrow_mut() = None;
    }

    /// For a link: the agent was greeted again.
    pub(crate) fn heard(&self, welcome: Welcome) {
        *self.welcome.borrow_mut() = Some(welcome);
    }

    /// For a link: the connection is gone.
    pub(crate) fn is_down(&self) {
        self.links_up.set(self.links_up.get().saturating_sub(1));
    }

    /// For a link: it could not connect. Unless another can, whoever waits is told at once.
    pub(crate) fn cannot_connect(&self, why: &str) {
        *self.down.borrow_mut() = Some(why.into());
        if self.links_up.get() > 0 {
            self.wake();
            return;
        }
        let waiting: Vec<_> = self.queue.borrow_mut().drain(..).collect();
        for pending in waiting {
            pending.answer(Err(AgentError::Unavailable(why.into())));
        }
    }
}
