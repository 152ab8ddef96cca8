//! The way to the agent: a bounded queue of questions between those who ask and the links that carry them, and who is at
//! the other end.

use crate::ask::{AgentError, LinkState, Question, Reply};
use crate::delivery::Peer;
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
/// How long the first wait is before a question is asked again, and the longest.
const AGAIN_FIRST: Duration = Duration::from_millis(50);
const AGAIN_LAST: Duration = Duration::from_millis(400);
/// How much longer than to its deadline an answer is waited for: what the agent began in time may end after it.
pub(crate) const GRACE: Duration = Duration::from_secs(20);

/// How soon after one reason another is logged: whoever asks again and again has the agent dialled as often.
const NEWS_PAUSE: Duration = Duration::from_secs(1);
/// The most reasons that are logged while the agent is out of reach: some are in words of its own.
const NEWS_MAX: usize = 8;

/// Wakes all who listen.
#[derive(Default)]
pub(crate) struct Bell(RefCell<Vec<Waker>>);

impl Bell {
    /// Wake who listens now.
    pub(crate) fn ring(&self) {
        core::mem::take(&mut *self.0.borrow_mut()).into_iter().for_each(Waker::wake);
    }

    /// Wait until it rings, or something else wakes the task.
    pub(crate) async fn heard(&self) {
        let mut listens = false;
        poll_fn(|cx| {
            if listens {
                return Poll::Ready(());
            }
            listens = true;
            let mut wakers = self.0.borrow_mut();
            if !wakers.iter().any(|other| other.will_wake(cx.waker())) {
                wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }
}

/// The queue, and what the links have learned of the agent.
pub(crate) struct Forward {
    clock: Clock,
    configured: bool,
    queue: RefCell<VecDeque<Rc<Pending>>>,
    /// Rings when there is something to carry.
    bell: Bell,
    /// Links that there are, that are connected, and that have an operation in their hands.
    pub(crate) links: Cell<usize>,
    links_up: Cell<usize>,
    pub(crate) hands: Cell<usize>,
    /// A link has a question about networks in its hands: others have to wait, so that a kernel that hangs holds one link.
    networks_asked: Cell<bool>,
    /// Why the last attempt to connect failed; `None` before the first.
    down: RefCell<Option<String>>,
    /// The reasons that were logged since the agent was reached, [`NEWS_MAX`] at most, and when the last one was.
    told: RefCell<(Vec<String>, Option<Instant>)>,
    welcome: RefCell<Option<Welcome>>,
    /// As of the last greeting.
    pub(crate) peer: Cell<Option<Peer>>,
    /// Another appliance has taken over.
    superseded: Cell<bool>,
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
            queue: RefCell::default(),
            bell: Bell::default(),
            links: Cell::new(0),
            links_up: Cell::new(0),
            hands: Cell::new(0),
            networks_asked: Cell::new(false),
            down: RefCell::default(),
            told: RefCell::default(),
            welcome: RefCell::default(),
            peer: Cell::new(None),
            superseded: Cell::new(false),
        }
    }

    /// How the agent can be reached, taking all links together.
    pub(crate) fn state(&self) -> LinkState {
        if !self.configured {
            return LinkState::NotConfigured;
        }
        if self.superseded.get() {
            return LinkState::Superseded;
        }
        if self.links_up.get() > 0 {
            return LinkState::Up;
        }
        self.down.borrow().clone().map_or(LinkState::Connecting, LinkState::Down)
    }

    /// Why the agent cannot be asked, when no link is up.
    pub(crate) fn absence(&self) -> AgentError {
        match self.state() {
            LinkState::NotConfigured => AgentError::NotConfigured,
            LinkState::Down(why) => AgentError::Unavailable(why),
            LinkState::Superseded => AgentError::Unavailable("another appliance has taken over".into()),
            _ => AgentError::Unavailable("it was not greeted yet".into()),
        }
    }

    /// What the agent said when it was last greeted.
    pub(crate) fn with_welcome<T>(&self, look: impl FnOnce(Option<&Welcome>) -> T) -> T {
        look(self.welcome.borrow().as_ref())
    }

    /// Ask the agent, again and again while it has nothing final to tell, and wait for what comes of it. In between no link
    /// is taken.
    pub(crate) async fn ask(&self, question: Question, deadline: Instant) -> Result<Reply, AgentError> {
        let mut pause = AGAIN_FIRST;
        let mut before = None;
        loop {
            let reply = self.ask_once(question.clone(), deadline).await;
            let now = self.clock.now();
            let next = now + pause;
            if question.again(&reply, deadline).is_none_or(|until| next >= until) {
                // Its time was up in the middle of the last of them: what it has said before is the answer.
                let is_cut =
                    now >= deadline && matches!(reply, Err(AgentError::TooLate | AgentError::Lost(_)));
                return before.filter(|_| is_cut).unwrap_or(reply);
            }
            before = Some(reply);
            self.clock.sleep_until(next).await;
            pause = (pause * 2).min(AGAIN_LAST);
        }
    }

    async fn ask_once(&self, question: Question, deadline: Instant) -> Result<Reply, AgentError> {
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
        answer.unwrap_or(Err(AgentError::Lost("nothing came back")))
    }

    /// Take a question back that no link has taken yet.
    fn withdraw(&self, pending: &Rc<Pending>) -> bool {
        let mut queue = self.queue.borrow_mut();
        let before = queue.len();
        queue.retain(|other| !Rc::ptr_eq(other, pending));
        queue.len() < before
    }

    /// Wake every link that waited; one that has become busy meanwhile would keep the work from the others.
    pub(crate) fn wake(&self) {
        self.bell.ring();
    }

    /// For a link: wait until there may be something to carry.
    pub(crate) async fn stirred(&self) {
        self.bell.heard().await;
    }

    /// For a link: the next question, if there is one.
    pub(crate) fn next(&self) -> Option<Rc<Pending>> {
        let mut queue = self.queue.borrow_mut();
        let at = queue.iter().position(|pending| self.may_be_taken(pending))?;
        queue.remove(at)
    }

    /// Whether a question waits that a link may take.
    pub(crate) fn is_wanted(&self) -> bool {
        self.queue.borrow().iter().any(|pending| self.may_be_taken(pending))
    }

    fn may_be_taken(&self, pending: &Pending) -> bool {
        !(self.networks_asked.get() && pending.question.is_of_networks())
    }

    /// For a link: it has this question in its hands, or not any more.
    pub(crate) fn has_in_hands(&self, question: &Question, has: bool) {
        if question.is_of_networks() {
            self.networks_asked.set(has);
            if !has {
                self.wake();
            }
        }
    }

    /// For a link: the agent was greeted, for the first time on a connection or again.
    pub(crate) fn greeted(&self, welcome: Welcome, peer: Peer, is_new: bool) {
        if is_new {
            self.links_up.set(self.links_up.get() + 1);
        }
        self.peer.set(Some(peer));
        *self.welcome.borrow_mut() = Some(welcome);
        *self.down.borrow_mut() = None;
        self.told.borrow_mut().0.clear();
        if self.superseded.replace(false) {
            log::warn!("the agent takes commands from this appliance again");
        }
    }

    /// For a link: the connection is gone.
    pub(crate) fn is_down(&self) {
        self.links_up.set(self.links_up.get().saturating_sub(1));
    }

    /// The agent takes commands from another appliance since.
    pub(crate) fn is_superseded(&self) {
        if !self.superseded.replace(true) {
            log::error!(
                "another appliance has taken over: the agent takes no commands from this one any more"
            );
        }
    }

    /// For a link: it could not connect, and no other is connected. Whoever waits is told at once.
    pub(crate) fn cannot_connect(&self, why: &str) {
        *self.down.borrow_mut() = Some(why.into());
        if self.links_up.get() > 0 {
            self.wake();
            return;
        }
        if self.is_news(why) {
            log::warn!("agent {why}");
        }
        let waiting: Vec<_> = self.queue.borrow_mut().drain(..).collect();
        for pending in waiting {
            pending.answer(Err(AgentError::Unavailable(why.into())));
        }
    }

    /// Whether this reason is to be logged: each once while the agent is out of reach, not one upon the other, and not without
    /// end.
    pub(crate) fn is_news(&self, why: &str) -> bool {
        let now = self.clock.now();
        let (told, last) = &mut *self.told.borrow_mut();
        let is_news = told.len() < NEWS_MAX
            && !told.iter().any(|other| other == why)
            && last.is_none_or(|last| now >= last + NEWS_PAUSE);
        if is_news {
            told.push(why.into());
            *last = Some(now);
        }
        is_news
    }

    /// Whether any link is connected.
    pub(crate) fn is_up(&self) -> bool {
        self.links_up.get() > 0
    }
}
