//! Others on the host-only network: twins, who have an initiator's name, and strangers, who have none.

use super::{AGAIN, Heard, Order, PATIENCE, Session, Shared, names, wishes};
use crate::random::Random;
use kernel_runtime::{Clock, Instant, Signal, with_deadline};
use network::{Stream, TryRead};
use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddrV4;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Somebody with the name and the ISID of an initiator, who logs in when he is told to and is gone again.
pub(crate) struct Twin {
    shared: Rc<Shared>,
    /// The initiator's number.
    index: usize,
    clock: Clock,
    random: Random,
    target: SocketAddrV4,
}

impl Twin {
    pub(crate) const fn new(
        shared: Rc<Shared>,
        index: usize,
        clock: Clock,
        random: Random,
        target: SocketAddrV4,
    ) -> Self {
        Self { shared, index, clock, random, target }
    }

    /// The twin's task.
    pub(crate) async fn run(mut self, mut stream: Stream) {
        let number = self.shared.plan.shape.initiators + self.index;
        loop {
            let order = self.shared.orders[number].borrow_mut().pop_front();
            let Some(Order::LogIn { times }) = order else {
                self.shared.signals[number].wait().await;
                continue;
            };
            for _ in 0..times {
                if self.shared.calm.get().is_some() {
                    break;
                }
                let deadline = self.clock.now() + AGAIN;
                let connected = with_deadline(&self.clock, deadline, stream.connect(self.target)).await;
                if matches!(connected, Ok(Ok(()))) {
                    self.log_in(&stream).await;
                }
                stream.abort();
                self.clock.sleep(Duration::from_micros(self.random.below(300_000))).await;
            }
        }
    }

    async fn log_in(&mut self, stream: &Stream) {
        let wishes = wishes(&mut self.random, self.shared.plan.shape.digests);
        let [name, rest @ ..] = names(self.index);
        let pairs =
            [(name.0, name.1.as_str()), (rest[0].0, rest[0].1.as_str()), (rest[1].0, rest[1].1.as_str())];
        let mut session = Session::new(&pairs, super::ISID, wishes, self.shared.plan.shape.block, None);
        let stays = self.random.below(400_000);
        let deadline = self.clock.now() + Duration::from_micros(stays);
        let _over = with_deadline(&self.clock, deadline, poll_fn(|cx| talk(cx, stream, &mut session))).await;
    }
}

/// Say what is to be said and hear what comes, until the connection is over.
fn talk(cx: &mut Context<'_>, stream: &Stream, session: &mut Session) -> Poll<()> {
    loop {
        let mut bytes = [0; 1 << 10];
        match stream.try_read(&mut bytes) {
            Ok(TryRead::Bytes(count)) => session.received(&bytes[..count]),
            Ok(TryRead::Empty) => {}
            Ok(TryRead::Finished) | Err(_) => return Poll::Ready(()),
        }
        while let Ok(Some(heard)) = session.hear() {
            if matches!(heard, Heard::Refused | Heard::Farewell) {
                return Poll::Ready(());
            }
        }
        match stream.try_write(&session.output) {
            Ok(0) => {
                stream.register(cx);
                return Poll::Pending;
            }
            Ok(count) => drop(session.output.drain(..count)),
            Err(_) => return Poll::Ready(()),
        }
    }
}

/// How many strangers there are, and until when.
#[derive(Default)]
pub(crate) struct Crowd {
    count: Cell<u64>,
    until: Cell<Instant>,
    signals: [Signal; 12],
}

impl Crowd {
    pub(crate) fn come(&self, count: u64, until: Instant) {
        self.count.set(count);
        self.until.set(until);
        self.signals.iter().for_each(Signal::raise);
    }
}

/// The task of one who connects, says nothing, and leaves when it is time.
pub(crate) async fn stranger(
    shared: Rc<Shared>,
    index: usize,
    clock: Clock,
    target: SocketAddrV4,
    mut stream: Stream,
) {
    let crowd = &shared.crowd;
    loop {
        crowd.signals[index].wait().await;
        while (index as u64) < crowd.count.get() && clock.now() < crowd.until.get() {
            let deadline = crowd.until.get().min(clock.now() + PATIENCE);
            if let Ok(Ok(())) = with_deadline(&clock, deadline, stream.connect(target)).await {
                let ended = poll_fn(|cx| {
                    stream.register(cx);
                    let mut bytes = [0; 64];
                    match stream.try_read(&mut bytes) {
                        Ok(TryRead::Finished) | Err(_) => Poll::Ready(()),
                        Ok(TryRead::Bytes(_) | TryRead::Empty) => Poll::Pending,
                    }
                });
                let _over = with_deadline(&clock, crowd.until.get(), ended).await;
            }
            stream.abort();
            clock.sleep(AGAIN).await;
        }
    }
}
