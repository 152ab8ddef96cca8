//! One connection slot of the API: peers come one after another, and each is served until it leaves.

use crate::ask::Ask;
use crate::door::Caller;
use crate::policy::Principal;
use crate::refusals::{NO_SERVICE, Refused};
use crate::secure::Secure;
use crate::wire::Wire;
use crate::{Management, Step};
use alloc::rc::Rc;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;
use core::time::Duration;
use kernel_runtime::{Clock, Instant, with_deadline};
use management_http::{Limits, Server};
use network::Stream;

/// Slots are few, so a peer that keeps one must say something now and then.
const LIMITS: Limits = Limits { idle_time: Duration::from_secs(10), ..Limits::SERVER };
/// For how long a peer that asks for nothing keeps its slot whoever else may want one. After that, while no slot is left for
/// others, the one that has asked for nothing for longest gives way. Whether anybody wants one is not known here, so it is more
/// than the second or two between the questions of those who ask again and again: as many of them as there are slots would pay
/// for each question with a handshake. It is not much more, because whoever comes meanwhile is refused.
const IDLE_LEAST: Duration = Duration::from_secs(3);
/// How long a peer that gives way has to close its side: somebody waits for its slot.
const GIVE_WAY_TIME: Duration = Duration::from_millis(100);
/// How long a peer has to close its side after the last response.
const FINISH_TIME: Duration = Duration::from_secs(5);

/// How long the slot rests behind a peer that was not let in: whoever tries keys, or only handshakes, takes no more of the
/// processor than this leaves.
const REFUSED_TIME: Duration = Duration::from_millis(50);

/// Serve the API on `port` in this slot, for ever.
pub async fn serve(stream: Stream, port: u16, management: Rc<Management>) {
    serve_on(stream, port, &management).await;
}

/// As [`serve`], in a slot of any kind.
pub async fn serve_on<W: Wire>(stream: W, port: u16, management: &Management) {
    let mut stream = Secure::new(stream);
    let (clock, door) = (&management.clock, &management.configuration.door);
    let slots = &management.slots;
    slots.add();
    loop {
        stream.accept(port).await;
        let mut taken = Some(slots.take());
        management.metrics.connection();
        let peer = stream.peer();
        let (outcome, patience) = match stream.admit(door, clock, slots).await {
            Ok(caller) => {
                if let Principal::Unknown(why) = caller.principal {
                    management.refuse(peer, &Refused::new(NO_SERVICE, why));
                }
                match converse(&mut stream, management, &caller).await {
                    Ok(End::Said) => (Ok(()), FINISH_TIME),
                    Ok(End::GaveWay) => {
                        taken = None;
                        (Ok(()), GIVE_WAY_TIME)
                    }
                    Err(gone) => (Err(gone), FINISH_TIME),
                }
            }
            Err(refused) => {
                management.refuse(peer, &refused);
                // The next one may come in a moment: nobody else has to make room for it.
                taken = None;
                // So that it hears the alert, if there is one.
                (Ok(()), REFUSED_TIME)
            }
        };
        match outcome {
            Ok(()) => {
                let until = clock.now() + patience;
                let finished = with_deadline(clock, until, stream.finish()).await;
                if finished.is_err() {
                    stream.abort();
                }
                if patience == REFUSED_TIME {
                    clock.sleep_until(until).await;
                }
            }
            Err(Gone) => stream.abort(),
        }
        drop(taken);
    }
}

/// The peer is gone, or might as well be.
struct Gone;

/// How a conversation has ended in order.
enum End {
    /// All is said.
    Said,
    /// The peer had nothing to say, and others have no slot.
    GaveWay,
}

/// Serve one peer until all is said.
async fn converse<W: Wire>(
    stream: &mut Secure<W>,
    management: &Management,
    caller: &Caller,
) -> Result<End, Gone> {
    let clock = &management.clock;
    let mut engine = Server::new(LIMITS, elapsed(clock));
    loop {
        write_out(stream, &mut engine, clock).await?;
        if engine.is_finished() {
            return Ok(End::Said);
        }
        let step = engine.request().map(|request| management.receive(&request, caller));
        match step {
            Some(Step::Answer(response)) => {
                management.recorded().await;
                engine.respond(elapsed(clock), &response);
            }
            Some(Step::Ask(Ask { question, deadline }, continuation)) => {
                let (question, _waiting) = management.may_wait(question);
                let reply = management.forward.ask(question, deadline).await;
                let response = management.complete(continuation, reply);
                engine.respond(elapsed(clock), &response);
            }
            Some(Step::Wait(wait)) => {
                let response = management.wait(wait).await;
                engine.respond(elapsed(clock), &response);
            }
            Some(Step::Look(look)) => {
                let response = management.look(look).await;
                engine.respond(elapsed(clock), &response);
            }
            Some(Step::Batch(batch)) => {
                let response = management.wait_for_all(batch).await;
                engine.respond(elapsed(clock), &response);
            }
            Some(Step::Listen(listen)) => {
                let response = management.listen(listen).await;
                engine.respond(elapsed(clock), &response);
            }
            Some(Step::Keep(deed)) => {
                let response = management.carry_out(deed).await;
                engine.respond(elapsed(clock), &response);
            }
            Some(Step::Keys(step)) => {
                let response = management.keys(step).await;
                management.recorded().await;
                engine.respond(elapsed(clock), &response);
            }
            None if engine.is_idle() && !stream.is_within_record() => {
                if stays(stream, &mut engine, management).await?.is_none() {
                    return Ok(End::GaveWay);
                }
            }
            None => read_in(stream, &mut engine, clock).await?,
        }
    }
}

async fn write_out<W: Wire>(stream: &mut W, engine: &mut Server, clock: &Clock) -> Result<(), Gone> {
    while !engine.transmit().is_empty() {
        let bytes = engine.transmit();
        let count = bytes.len();
        let until = deadline(engine).unwrap_or(clock.now() + LIMITS.write_time);
        match with_deadline(clock, until, stream.write_all(bytes)).await {
            Ok(Ok(())) => engine.transmitted(elapsed(clock), count),
            Ok(Err(_)) | Err(_) => return Err(Gone),
        }
    }
    Ok(())
}

async fn read_in<W: Wire>(stream: &mut W, engine: &mut Server, clock: &Clock) -> Result<(), Gone> {
    // Of a request that the engine knows nothing of there are bytes of a record.
    let begins = engine.is_idle();
    let until = deadline(engine).filter(|_| !begins).unwrap_or(clock.now() + LIMITS.head_time);
    match with_deadline(clock, until, stream.read(engine.space())).await {
        Ok(Ok(0)) => engine.end_of_input(),
        Ok(Ok(count)) => engine.received(elapsed(clock), count),
        Ok(Err(_)) => return Err(Gone),
        Err(_) if begins => engine.end_of_input(),
        Err(_) => engine.expired(elapsed(clock)).map_err(|_| Gone)?,
    }
    Ok(())
}

/// The same of a peer that has no request under way: `None` when it has said nothing and gives way to others.
async fn stays<W: Wire>(
    stream: &mut Secure<W>,
    engine: &mut Server,
    management: &Management,
) -> Result<Option<()>, Gone> {
    let clock = &management.clock;
    let idle = management.slots.idle();
    let least = clock.now() + IDLE_LEAST;
    let until = deadline(engine).unwrap_or(clock.now() + LIMITS.idle_time);
    let outcome = {
        let mut hearing = pin!(stream.hear(engine.space()));
        match with_deadline(clock, least.min(until), hearing.as_mut()).await {
            Ok(outcome) => Ok(Some(outcome)),
            Err(_) => {
                let mut in_the_way = pin!(idle.in_the_way());
                let whichever = poll_fn(|cx| match hearing.as_mut().poll(cx) {
                    Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                    Poll::Pending => in_the_way.as_mut().poll(cx).map(|()| None),
                });
                with_deadline(clock, until, whichever).await
            }
        }
    };
    match outcome {
        Ok(Some(Ok(Some(0)))) => engine.end_of_input(),
        Ok(Some(Ok(Some(count)))) => engine.received(elapsed(clock), count),
        // The beginning of a request, as far as anybody can tell.
        Ok(Some(Ok(None))) => {}
        Ok(Some(Err(_))) => return Err(Gone),
        Ok(None) => return Ok(None),
        Err(_) => engine.expired(elapsed(clock)).map_err(|_| Gone)?,
    }
    Ok(Some(()))
}

/// The engine counts time from the start of the machine.
fn elapsed(clock: &Clock) -> Duration {
    clock.now().since(Instant::ZERO)
}

fn deadline(engine: &Server) -> Option<Instant> {
    engine.deadline().map(|deadline| Instant::ZERO + deadline)
}
