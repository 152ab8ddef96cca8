//! The tasks of a service: one for each of its streams.

use super::Service;
use crate::history::History;
use kernel_runtime::{Instant, Signal};
use network::{Stream, TryRead};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

/// What the streams of one service share.
pub(crate) struct Door {
    pub(crate) service: Rc<RefCell<Service>>,
    pub(crate) history: Rc<RefCell<History>>,
    pub(crate) now: Rc<Cell<Instant>>,
}

/// The task of one stream of a service.
pub(crate) async fn serve(door: Rc<Door>, gateway: usize, index: usize, port: u16, mut stream: Stream) {
    let signal = door.service.borrow().signals[index].clone();
    loop {
        stream.accept(port).await;
        let opened = {
            let history = &mut *door.history.borrow_mut();
            door.service.borrow_mut().open(door.now.get(), gateway, index, history)
        };
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
                service.receive(door.now.get(), place, &bytes[..count], &door.history.borrow());
                moved = true;
            }
            Ok(TryRead::Empty) => {}
            Ok(TryRead::Finished) | Err(_) => return Poll::Ready(()),
        }
        let live = &mut service.live[place];
        let session = &mut live.session;
        if !session.output.is_empty() {
            match stream.try_write(&session.output) {
                Ok(count) => {
                    session.output.drain(..count);
                    moved |= count > 0;
                }
                Err(_) => return Poll::Ready(()),
            }
        }
        let is_over = session.has_ended() || live.is_ending && stream.is_drained();
        if is_over && session.output.is_empty() {
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
