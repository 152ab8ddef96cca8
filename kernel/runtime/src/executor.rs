//! The executor: which tasks are ready, and polling them.

use crate::{Clock, Instant, Profile, Stage};
use alloc::{boxed::Box, sync::Arc, task::Wake, vec::Vec};
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::{Context, Poll, Waker};

/// A fixed set of tasks, polled in turn when something woke them.
pub struct Executor {
    tasks: Vec<Task>,
    ready: Arc<Ready>,
    clock: Clock,
}

struct Task {
    name: &'static str,
    stage: Stage,
    /// `None` once it has finished.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
    waker: Waker,
}

/// One bit per task that something woke.
struct Ready {
    words: Box<[AtomicU64]>,
}

struct TaskWaker {
    ready: Arc<Ready>,
    task: usize,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.words[self.task / 64].fetch_or(1 << (self.task % 64), Ordering::Release);
    }
}

impl Executor {
    /// An executor with room for `capacity` tasks, whose cycles are not counted.
    pub fn new(capacity: usize) -> Self {
        Self::with_profile(capacity, Profile::off())
    }

    /// An executor with room for `capacity` tasks, whose cycles are counted in `profile`.
    pub fn with_profile(capacity: usize, profile: Profile) -> Self {
        let words = (0..capacity.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self {
            tasks: Vec::with_capacity(capacity),
            ready: Arc::new(Ready { words }),
            clock: Clock::new(profile),
        }
    }

    /// The clock its tasks go by.
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// Add a task; it is polled at the next [`Executor::run_ready`].
    ///
    /// # Panics
    /// When there are more tasks than the capacity: the number of tasks is fixed by `limits.rs`.
    pub fn add(&mut self, name: &'static str, future: impl Future<Output = ()> + 'static) {
        self.add_to(Stage::Other, name, future);
    }

    /// As [`Executor::add`]; the task's cycles belong to `stage`, as far as it enters no other.
    ///
    /// # Panics
    /// As [`Executor::add`].
    pub fn add_to(&mut self, stage: Stage, name: &'static str, future: impl Future<Output = ()> + 'static) {
        let task = self.tasks.len();
        assert!(task < self.ready.words.len() * 64, "no room for the task {name}");
        let waker = Waker::from(Arc::new(TaskWaker { ready: self.ready.clone(), task }));
        waker.wake_by_ref();
        self.tasks.push(Task { name, stage, future: Some(Box::pin(future)), waker });
    }

    /// Advance the clock to `now` and poll once each task that was ready when the call began, and those that
    /// they woke and that come later in order. Answers how many polls it made; zero means that all are waiting.
    pub fn run_ready(&mut self, now: Instant) -> usize {
        self.clock.advance(now);
        let mut polls = 0;
        for word in 0..self.ready.words.len() {
            let mut bits = self.ready.words[word].swap(0, Ordering::Acquire);
            while bits != 0 {
                let task = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                self.poll(task);
                polls += 1;
            }
        }
        if polls > 0 {
            self.clock.profile().enter(Stage::Other);
        }
        polls
    }

    fn poll(&mut self, task: usize) {
        let Some(task) = self.tasks.get_mut(task) else { return };
        let Some(future) = &mut task.future else { return };
        self.clock.profile().enter(task.stage);
        if future.as_mut().poll(&mut Context::from_waker(&task.waker)).is_ready() {
            task.future = None;
        }
    }

    /// Whether some task waits to be polled.
    pub fn has_ready(&self) -> bool {
        self.ready.words.iter().any(|word| word.load(Ordering::Acquire) != 0)
    }

    /// The next moment at which a task wants to be woken.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.clock.next_deadline()
    }

    /// The names of the tasks that have not finished.
    pub fn living(&self) -> impl Iterator<Item = &'static str> {
        self.tasks.iter().filter(|task| task.future.is_some()).map(|task| task.name)
    }
}

/// Let every other ready task run once before going on.
pub async fn yield_now() {
    let mut yielded = false;
    core::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Signal, with_deadline};
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    #[test]
    fn a_sleeper_wakes_when_its_time_has_come_and_not_before() {
        let mut executor = Executor::new(4);
        let clock = executor.clock();
        let log = Rc::new(RefCell::new(Vec::new()));
        let seen = log.clone();
        executor.add("sleeper", async move {
            clock.sleep(Duration::from_millis(5)).await;
            seen.borrow_mut().push(clock.now().as_micros());
        });
        executor.run_ready(Instant::ZERO);
        assert_eq!(executor.next_deadline(), Some(Instant::from_micros(5000)));
        executor.run_ready(Instant::from_micros(4999));
        assert!(log.borrow().is_empty());
        executor.run_ready(Instant::from_micros(5000));
        assert_eq!(*log.borrow(), [5000]);
        assert_eq!(executor.living().count(), 0);
        assert_eq!(executor.next_deadline(), None);
    }

    #[test]
    fn a_signal_wakes_the_other_task() {
        let mut executor = Executor::new(4);
        let signal = Rc::new(Signal::new());
        let (raiser, waiter) = (signal.clone(), signal);
        let clock = executor.clock();
        executor.add("waiter", async move { waiter.wait().await });
        executor.add("raiser", async move {
            clock.sleep(Duration::from_secs(1)).await;
            raiser.raise();
        });
        executor.run_ready(Instant::ZERO);
        assert_eq!(executor.living().count(), 2);
        executor.run_ready(Instant::from_micros(1_000_000));
        executor.run_ready(Instant::from_micros(1_000_000));
        assert_eq!(executor.living().count(), 0);
        assert!(!executor.has_ready());
    }

    #[test]
    fn a_deadline_ends_what_takes_too_long_and_frees_its_timer() {
        let mut executor = Executor::new(1);
        let clock = executor.clock();
        executor.add("late", async move {
            for _ in 0..3 {
                let deadline = clock.now() + Duration::from_millis(1);
                let outcome = with_deadline(&clock, deadline, clock.sleep(Duration::from_secs(9))).await;
                assert!(outcome.is_err());
            }
        });
        for micros in 0..10_000 {
            executor.run_ready(Instant::from_micros(micros));
        }
        assert_eq!(executor.living().count(), 0);
        assert_eq!(executor.next_deadline(), None);
    }
}
